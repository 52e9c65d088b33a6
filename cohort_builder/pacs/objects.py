"""The bytes of one DICOM object, wherever they lie: a file, a member of a zip, an object on a server."""

from __future__ import annotations

from collections.abc import Iterable
from pathlib import Path
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
    if instance.member:
        from cohort_builder.pacs.sources.archive import open_member

        return open_member(instance.path, instance.member)
    fetch((instance,))
    return instance.path.open("rb")


def raw_place(instance: Instance) -> tuple[Path, int] | None:
    """File and offset of the object's first byte, where its bytes lie on disk as they are; None: use ``open_object``.

    A member that a zip holds without compression has such a place, one that is compressed has none, and an object on a
    server has one once ``fetch`` brought it. Offsets of ``Instance`` count from here.

    Raises
    ------
    OSError
        The zip is no longer there, or damaged.

    """
    if instance.member:
        from cohort_builder.pacs.sources.archive import stored_offset

        offset = stored_offset(instance.path, instance.member)
        return None if offset is None else (instance.path, offset)
    return None if instance.server and not instance.path.exists() else (instance.path, 0)


def fetch(instances: Iterable[Instance]) -> None:
    """Bring to this machine what lies on a server and is not here yet, in as few requests as the server allows.

    Raises
    ------
    OSError
        The server does not give them.

    """
    absent = [instance for instance in instances if instance.server and not instance.path.exists()]
    if absent:
        from cohort_builder.pacs.sources.dicomweb import fetch_objects

        fetch_objects(absent)
