"""The bytes of one DICOM object, wherever they lie: a file, a member of a zip, an object on a server."""

from __future__ import annotations

from collections.abc import Iterable
from typing import TYPE_CHECKING, BinaryIO

if TYPE_CHECKING:
    from cohort_builder.pacs.headers import Instance


def open_object(instance: Instance) -> BinaryIO:
    """Open one object for reading, from its first byte; the stream seeks.

    Raises
    ------
    OSError
        It is no longer there, or cannot be read.

    """
    return instance.path.open("rb")


def fetch(instances: Iterable[Instance]) -> None:
    """Bring to this machine what lies on a server and is not here yet, in as few requests as the server allows.

    Raises
    ------
    OSError
        The server does not give them.

    """
