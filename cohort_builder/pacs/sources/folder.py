"""A folder of files, in any tree and with any names; zips in it are read in place."""

from __future__ import annotations

import os
from collections.abc import Iterable, Iterator
from pathlib import Path

from cohort_builder.pacs.headers import Header, HeaderError, read_header
from cohort_builder.pacs.sources import Entry, Passed
from cohort_builder.pacs.sources.archive import (
    entries_of,
    is_archive_name,
    is_zip_name,
    problem,
    read_member_header,
    require_no_archive,
)
from cohort_builder.pacs.sources.dicomdir import is_dicomdir_name, missing_files

_IN_ZIP = b"\0"  # between the name of a zip and that of its member: no file name holds it
_UNLISTED = ("unreadable_folder", "the folder cannot be listed; check its permissions")
_UNSEEN = ("unreadable_file", "the file cannot be looked at; check its permissions")
_MISSING = ("dicomdir_missing_file", "the DICOMDIR names a file that is not there; copy the medium again, whole")
_BAD_DICOMDIR = ("unreadable_dicomdir", "the DICOMDIR cannot be read; the files around it are read all the same")
_CHANGED = ("changed_while_read", "the file changed while it was read; run again when the export is complete")


class Folder:
    """Regular files below ``root``.

    Symbolic links may lead out of the export or in a circle and are passed over; FIFOs, sockets and devices are never
    opened. A zip gives its members, a DICOMDIR also what it names and is not there.
    """

    def __init__(self, root: Path) -> None:
        self._root = root.resolve()
        self.name = str(self._root)
        self.opted_out: Iterable[tuple[str, str, str]] = ()
        # As bytes: a Path for each file would cost as much as its header.
        self._prefix = os.path.join(os.fsencode(self._root), b"")  # noqa: PTH118

    def entries(self) -> Iterator[Entry | Passed]:
        """Regular files in sorted order, folder by folder."""
        folders = [self._prefix]
        while folders:
            folder = folders.pop()
            try:
                with os.scandir(folder) as listing:
                    found = sorted(listing, key=lambda entry: entry.name)
            except OSError:
                yield Entry(self._below(folder) or b".", -1, 0, _UNLISTED)
                continue
            inner = []
            for entry in found:
                try:
                    is_folder = entry.is_dir(follow_symlinks=False)
                    passed = _passed(entry)
                    status = entry.stat(follow_symlinks=False)
                except OSError:
                    yield Entry(self._below(entry.path), -1, 0, _UNSEEN)
                    continue
                if is_folder:
                    inner.append(entry.path)
                elif passed:
                    yield Passed(passed)
                else:
                    yield from self._file(entry.path, status)
            folders.extend(reversed(inner))

    def _file(self, where: bytes, status: os.stat_result) -> Iterator[Entry | Passed]:
        name = self._below(where)
        if is_zip_name(name):
            for entry in entries_of(Path(os.fsdecode(where))):
                yield entry if isinstance(entry, Passed) else _in_zip(name, entry)
            return
        refused = problem("unsupported_archive") if is_archive_name(name) else None
        yield Entry(name, status.st_size, status.st_mtime_ns, refused)
        if is_dicomdir_name(
            os.fsdecode(name.rpartition(b"/")[2])
        ):  # what it names is called as if it lay in it: no file has such a name
            try:
                for file_id in missing_files(Path(os.fsdecode(where))):
                    yield Entry(name + b"/" + file_id.encode(errors="replace"), -1, 0, _MISSING)
            except ValueError:
                yield Entry(name + b"/", -1, 0, _BAD_DICOMDIR)

    def read(self, entry: Entry) -> Header | None:
        """Read one header."""
        if entry.problem is not None:
            raise HeaderError(*entry.problem)
        name, in_zip, member = entry.name.partition(_IN_ZIP)
        where = self._prefix + name
        path = Path(os.fsdecode(where))
        if in_zip:
            return read_member_header(path, member)
        header = read_header(path)
        try:
            if header is None:
                with path.open("rb") as stream:
                    require_no_archive(stream, name)
            status = os.stat(where, follow_symlinks=False)  # noqa: PTH116 - bytes
        except OSError as error:
            raise HeaderError(*_CHANGED) from error
        if (status.st_size, status.st_mtime_ns) != (entry.size, entry.changed):
            raise HeaderError(*_CHANGED)
        return header

    def place(self, name: bytes) -> tuple[Path, str, str]:
        """Return the file, or the zip and its member."""
        name, _, member = name.partition(_IN_ZIP)
        return self._root / os.fsdecode(name), os.fsdecode(member), ""

    def keep_only(self, names: Iterable[bytes]) -> None:
        """Nothing is copied."""

    def close(self) -> None:
        """Nothing is held open."""

    def _below(self, where: bytes) -> bytes:
        return where[len(self._prefix) :]


def _passed(found: os.DirEntry[bytes]) -> str | None:
    if found.is_symlink():
        return "link"
    return None if found.is_file(follow_symlinks=False) or found.is_dir(follow_symlinks=False) else "special_file"


def _in_zip(zip_name: bytes, entry: Entry) -> Entry:
    return Entry(zip_name + _IN_ZIP + entry.name, entry.size, entry.changed, entry.problem)
