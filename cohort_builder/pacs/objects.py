"""The bytes of one DICOM object, wherever they lie: a file, a member of a zip, an object on a server."""

from __future__ import annotations

import os
from collections.abc import Iterable
from io import FileIO
from typing import TYPE_CHECKING, BinaryIO

if TYPE_CHECKING:
    from cohort_builder.pacs.headers import Instance


class ChangedError(OSError):
    """The file is no longer the one that was indexed."""


def open_object(instance: Instance) -> BinaryIO:
    """Open one object for reading, from its first byte; the stream seeks.

    Raises
    ------
    ChangedError
        The file changed since it was indexed.
    OSError
        It is no longer there, damaged, or cannot be read.

    """
    if instance.member:
        from cohort_builder.pacs.sources.archive import open_member

        return open_member(instance.path, instance.member)
    fetch((instance,))
    stream = instance.path.open("rb")
    _require_unchanged(stream, instance)
    return stream


def open_in_place(instance: Instance) -> tuple[FileIO, int] | None:
    """File and offset of the object's first byte, where its bytes lie on disk as they are; None: use ``open_object``.

    A member that a zip holds without compression has such a place, one that is compressed has none, and an object on a
    server has one once ``fetch`` brought it. Offsets of ``Instance`` count from here. The file is unbuffered: what is
    read goes straight to where it is wanted. Raises as ``open_object``.
    """
    if instance.member:
        from cohort_builder.pacs.sources.archive import open_stored

        return open_stored(instance.path, instance.member)
    if instance.server and not instance.path.exists():
        return None
    stream = FileIO(instance.path)
    _require_unchanged(stream, instance)
    return stream, 0


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


def _require_unchanged(stream: BinaryIO | FileIO, instance: Instance) -> None:
    status = os.fstat(stream.fileno())
    if instance.stamp not in {None, (status.st_size, status.st_mtime_ns)}:
        stream.close()
        raise ChangedError("the file changed since it was indexed; index the export again")
