"""A DICOMDIR (PS3.3 F.3): what it says should be there. A hint only: it can be stale, and the tree is read anyway."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

from cohort_builder.pacs.elements import READ_ERRORS, quietly, sequence, text, value_of, values_in

_DIRECTORY_CLASS = "1.2.840.10008.1.3.10"


def is_dicomdir_name(name: str) -> bool:
    """Whether a file has the one name that a DICOMDIR may have (PS3.10 8.6), in any case."""
    return name.upper().rstrip(".") == "DICOMDIR"


def missing_files(path: Path) -> Iterator[str]:
    """Files that a DICOMDIR names and that are not beside or below it: their File IDs, joined with a slash.

    Names are compared without case, as media are copied. What is not a File ID (PS3.10 8.2), such as one that climbs
    out of the folder, is missing.

    Raises
    ------
    ValueError
        It cannot be read, or is no DICOMDIR.

    """
    folder = _Names(path.parent)
    for components in dict.fromkeys(_file_ids(path)):
        if not folder.holds(components):
            yield "/".join(components).replace("\0", "?")


def _file_ids(path: Path) -> list[tuple[str, ...]]:
    import pydicom

    try:
        with quietly():
            ds = pydicom.dcmread(path)
            if text(ds.file_meta, "MediaStorageSOPClassUID") != _DIRECTORY_CLASS:
                raise ValueError("it is no DICOMDIR")
            records = sequence(ds, "DirectoryRecordSequence")
            ids = (tuple(map(str, values_in(value_of(record, "ReferencedFileID")))) for record in records)
            return [components for components in ids if components]
    except READ_ERRORS as error:
        raise ValueError("the DICOMDIR cannot be read") from error


class _Names:
    """The names in a folder and below it, each folder listed once."""

    def __init__(self, root: Path) -> None:
        self._root = root
        self._listed: dict[Path, dict[str, str]] = {}

    def holds(self, components: tuple[str, ...]) -> bool:
        at = self._root
        for component in components:
            found = self._names(at).get(component.upper())
            if found is None:
                return False
            at /= found
        return True

    def _names(self, folder: Path) -> dict[str, str]:
        if folder not in self._listed:
            try:
                self._listed[folder] = {_plain(path.name): path.name for path in folder.iterdir()}
            except OSError:
                self._listed[folder] = {}
        return self._listed[folder]


def _plain(name: str) -> str:
    """A name without the version and the dot that ISO 9660 puts behind it."""
    return name.upper().removesuffix(";1").rstrip(".")
