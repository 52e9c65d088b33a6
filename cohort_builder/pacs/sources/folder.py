"""A folder of files, in any tree and with any names."""

from __future__ import annotations

import os
from collections.abc import Iterator
from pathlib import Path

from cohort_builder.pacs.headers import Header, HeaderError, read_header
from cohort_builder.pacs.sources import Entry, Passed


class Folder:
    """Regular files below ``root``; symbolic links may lead out of the export or in a circle, and are passed over."""

    def __init__(self, root: Path) -> None:
        self._root = root.resolve()
        self.name = str(self._root)

    def entries(self) -> Iterator[Entry | Passed]:
        """Regular files in sorted order, folder by folder."""
        folders = [self._root]
        while folders:
            folder = folders.pop()
            try:
                found = sorted(os.scandir(folder), key=lambda entry: os.fsencode(entry.name))
            except OSError:
                yield Entry(os.fsencode(folder.relative_to(self._root)), -1, 0)
                continue
            inner = []
            for entry in found:
                path = Path(entry.path)
                if entry.is_symlink():
                    yield Passed("link")
                elif entry.is_dir(follow_symlinks=False):
                    inner.append(path)
                elif entry.is_file(follow_symlinks=False):
                    status = entry.stat(follow_symlinks=False)
                    yield Entry(os.fsencode(path.relative_to(self._root)), status.st_size, status.st_mtime_ns)
            folders.extend(reversed(inner))

    def read(self, entry: Entry) -> Header | None:
        """Read one header."""
        if entry.size < 0:
            raise HeaderError("unreadable_folder", "the folder cannot be listed; check its permissions")
        return read_header(self.place(entry.name)[0])

    def place(self, name: bytes) -> tuple[Path, str, str]:
        """Return the file."""
        return self._root / os.fsdecode(name), "", ""

    def close(self) -> None:
        """Nothing is held open."""
