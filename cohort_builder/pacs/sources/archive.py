"""A zip, read in place: nothing is unpacked to disk, and of a compressed member only what is asked for is unpacked.

Names of members are data here, never paths: one that climbs out of the zip leads nowhere.
"""

from __future__ import annotations

import io
import os
import zlib
from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, BinaryIO

from cohort_builder.pacs.headers import HeaderError, read_header_from
from cohort_builder.pacs.sources import Entry, Passed
from cohort_builder.pacs.sources.zip_directory import (
    DEFLATED,
    STORED,
    Member,
    ZipDamagedError,
    data_offset,
    read_directory,
)

if TYPE_CHECKING:
    from _typeshed import WriteableBuffer

    from cohort_builder.pacs.headers import Header

_CHUNK = 1 << 14  # a header; more is unpacked when it is asked for
_PIECE = 1 << 20
_FIELDS = 5
# Pixel data shrink two to four times, an empty slice a thousand times; nothing this big shrinks this much.
_BOMB_BYTES, _BOMB_RATIO = 64 << 20, 200
_PROBLEMS = {
    "zip_encrypted": "the member of the zip is encrypted; unpack it with its password and give the folder",
    "zip_compression": "the member of the zip is neither stored nor deflated; unpack it and give the folder",
    "zip_bomb": "the member of the zip says that it unpacks to more than 64 MiB and 200 times its size",
    "nested_zip": "a zip within a zip is not opened; unpack the outer one",
    "unsupported_archive": "archives of this kind are not opened; unpack it, or pack it as a zip",
    "zip_without_name": "a zip is known by its name, and this one does not end in .zip; rename or unpack it",
    "zip_damaged": "the member of the zip is damaged or cut off; make the zip again",
    "unreadable_zip": "the zip is damaged, cut off, one part of several, or no zip; make it again",
}
_MAGIC = {
    b"PK\x03\x04": "zip_without_name",
    b"\x1f\x8b\x08": "unsupported_archive",  # gzip
    b"BZh": "unsupported_archive",
    b"7z\xbc\xaf\x27\x1c": "unsupported_archive",
    b"Rar!\x1a\x07": "unsupported_archive",
    b"\xfd7zXZ\0": "unsupported_archive",
    b"\x28\xb5\x2f\xfd": "unsupported_archive",  # zstd
}
_TAR_AT, _TAR = 257, b"ustar"
# Zips and gzips by their bytes which hold programs, documents or other images.
_NO_EXPORTS = (b".jar", b".apk", b".docx", b".xlsx", b".pptx", b".odt", b".ods", b".odp", b".epub", b".nii.gz", b".npz")
_ARCHIVES = (b".tar", b".tar.gz", b".tgz", b".tar.bz2", b".tar.xz", b".7z", b".rar", b".iso")


def problem(reason: str) -> tuple[str, str]:
    """A reason why an archive or a member is not read, and what to do."""
    return reason, _PROBLEMS[reason]


def is_zip_name(name: bytes) -> bool:
    """Whether a file is to be opened as a zip: by its name, since every export holds more files than zips."""
    return name.lower().endswith(b".zip")


def is_archive_name(name: bytes) -> bool:
    """Whether a file is an archive of another kind, whose content would be passed over unseen."""
    return name.lower().endswith(_ARCHIVES)


def require_no_archive(stream: BinaryIO, name: bytes) -> None:
    """Raise ``HeaderError`` if what is no DICOM is an archive by its first bytes, whatever its name says."""
    stream.seek(0)
    start = stream.read(_TAR_AT + len(_TAR))
    reason = next((reason for magic, reason in _MAGIC.items() if start.startswith(magic)), None)
    if start[_TAR_AT:] == _TAR:
        reason = "unsupported_archive"
    if reason and not name.lower().endswith(_NO_EXPORTS):
        raise HeaderError(*problem(reason))


class Archive:
    """The members of the zip ``path``."""

    def __init__(self, path: Path) -> None:
        self._path = path.resolve()
        self.name = str(self._path)
        self.opted_out: Iterable[tuple[str, str, str]] = ()

    def entries(self) -> Iterator[Entry | Passed]:
        """Members in the order of the directory; an Entry with a problem where it breaks off."""
        return entries_of(self._path)

    def read(self, entry: Entry) -> Header | None:
        """Read one header."""
        if entry.problem is not None:
            raise HeaderError(*entry.problem)
        return read_member_header(self._path, entry.name)

    def place(self, name: bytes) -> tuple[Path, str, str]:
        """Return the zip and the member."""
        return self._path, os.fsdecode(name), ""

    def keep_only(self, names: Iterable[bytes]) -> None:
        """Nothing is copied."""

    def close(self) -> None:
        """Nothing is held open."""


def entries_of(path: Path) -> Iterator[Entry | Passed]:
    """List the members of a zip. The name of an Entry holds all that reading it takes: no directory is read again."""
    try:
        for member in read_directory(path):
            if member.is_folder:
                continue
            if member.is_link or member.is_special:
                yield Passed("link" if member.is_link else "special_file")
                continue
            reason = _refusal(member)
            yield Entry(_encoded(member), member.size, member.changed, problem(reason) if reason else None)
    except OSError:
        yield Entry(b"", -1, 0, problem("unreadable_zip"))


def read_member_header(path: Path, name: bytes) -> Header | None:
    """Read the header of one member, as ``read_header`` does a file's; ``name`` is that of its Entry."""
    try:
        with _Stream(_open(path, _Where.parse(os.fsdecode(name)))) as stream:
            header = read_header_from(stream, path)
            if header is None:
                require_no_archive(stream, name.rpartition(b"|")[0])
            return header
    except ZipDamagedError as error:
        raise HeaderError(*problem("zip_damaged")) from error
    except HeaderError as error:
        if _damage_behind(error):
            raise HeaderError(*problem("zip_damaged")) from error
        raise
    except OSError as error:
        raise HeaderError("unreadable_file", f"the zip cannot be opened or read ({type(error).__name__})") from error


def open_member(path: Path, member: str) -> BinaryIO:
    """Open one member for reading; the stream seeks. Its checksum is compared first.

    Raises
    ------
    OSError
        The zip is gone or damaged.

    """
    part = _open(path, _Where.parse(member))
    try:
        part.check()
    except BaseException:
        part.close()
        raise
    return _Stream(part)


def open_stored(path: Path, member: str) -> tuple[io.FileIO, int] | None:
    """The zip, and in it the offset of a member that is stored as it is; None if it is packed. As ``open_member``."""
    where = _Where.parse(member)
    if where.method != STORED:
        return None
    stream = io.FileIO(path)
    try:
        start = data_offset(stream, where.offset, STORED)
        _require_checksum(stream, start, where)
    except BaseException:
        stream.close()
        raise
    return stream, start


def _open(path: Path, where: _Where) -> _Stored | _Deflated:
    """One member, unchecked: for its head."""
    stream = path.open("rb")
    try:
        start = data_offset(stream, where.offset, where.method)
        return _Stored(stream, start, where) if where.method == STORED else _Deflated(stream, start, where)
    except BaseException:
        stream.close()
        raise


def _require_checksum(stream: BinaryIO | io.FileIO, start: int, where: _Where) -> None:
    stream.seek(start)
    left, crc = where.size, 0
    while left:
        piece = stream.read(min(_PIECE, left))
        if not piece:
            raise ZipDamagedError("a member ends beyond the end of the zip")
        crc, left = zlib.crc32(piece, crc), left - len(piece)
    if crc != where.crc:
        raise ZipDamagedError("the checksum of a member differs")


def _refusal(member: Member) -> str | None:
    if member.encrypted:
        return "zip_encrypted"
    if member.method not in {STORED, DEFLATED}:
        return "zip_compression"
    if is_zip_name(member.name):
        return "nested_zip"
    if is_archive_name(member.name):
        return "unsupported_archive"
    if member.method == STORED and member.packed != member.size:
        return "zip_damaged"
    if member.size > max(_BOMB_BYTES, _BOMB_RATIO * member.packed):
        return "zip_bomb"
    return None


@dataclass(frozen=True, slots=True)
class _Where:
    """What the name of an Entry says of a member, behind its name."""

    offset: int
    packed: int
    size: int
    crc: int
    method: int

    @classmethod
    def parse(cls, member: str) -> _Where:
        numbers = member.rpartition("|")[2].split(":")
        if len(numbers) != _FIELDS:
            raise ZipDamagedError("no such member")
        return cls(*map(int, numbers))


def _encoded(member: Member) -> bytes:
    numbers = (member.offset, member.packed, member.size, member.crc, member.method)
    return member.name.replace(b"\0", b"?") + b"|" + b":".join(b"%d" % number for number in numbers)


def _damage_behind(error: BaseException) -> bool:
    cause = error.__cause__
    return cause is not None and (isinstance(cause, ZipDamagedError) or _damage_behind(cause))


class _Part(io.RawIOBase):
    """Bytes of a member: ``size`` of them, from a position that seeks; closes the file."""

    name = ""  # pydicom asks for it

    def __init__(self, stream: BinaryIO, size: int) -> None:
        self._stream, self.size, self._at = stream, size, 0

    def readable(self) -> bool:
        return True

    def seekable(self) -> bool:
        return True

    def tell(self) -> int:
        return self._at

    def seek(self, offset: int, whence: int = os.SEEK_SET) -> int:
        origin = {os.SEEK_SET: 0, os.SEEK_CUR: self._at, os.SEEK_END: self.size}[whence]
        if origin + offset < 0:
            raise ValueError("a position before the start")
        self._at = origin + offset
        return self._at

    def readinto(self, buffer: WriteableBuffer, /) -> int:
        target = memoryview(buffer).cast("B")
        wanted = max(0, min(len(target), self.size - self._at))
        got = self._fill(target[:wanted])
        self._at += got
        return got

    def _fill(self, target: memoryview) -> int:
        raise NotImplementedError

    def close(self) -> None:
        self._stream.close()
        super().close()


class _Stream(io.BufferedReader):
    """Buffered, and without room for more bytes than there are, whatever a damaged header asks for."""

    def __init__(self, part: _Part) -> None:
        super().__init__(part)
        self._size = part.size

    def read(self, size: int | None = -1, /) -> bytes:
        left = max(0, self._size - self.tell())
        return super().read(left if size is None or size < 0 else min(size, left))


class _Stored(_Part):
    """A member that lies in the zip as it is."""

    def __init__(self, stream: BinaryIO, start: int, where: _Where) -> None:
        super().__init__(stream, where.size)
        self._start, self._where = start, where

    def check(self) -> None:
        _require_checksum(self._stream, self._start, self._where)

    def _fill(self, target: memoryview) -> int:
        self._stream.seek(self._start + self._at)
        return self._stream.readinto(target)  # type: ignore[attr-defined, no-any-return]  # a file has it


class _Deflated(_Part):
    """A packed member: what was unpacked is kept, up to the furthest byte read."""

    def __init__(self, stream: BinaryIO, start: int, where: _Where) -> None:
        super().__init__(stream, where.size)
        stream.seek(start)
        self._packed_left, self._wanted_crc, self._crc = where.packed, where.crc, 0
        self._unpack, self._unpacked = zlib.decompressobj(-zlib.MAX_WBITS), bytearray()

    def check(self) -> None:
        self._unpack_to(self.size)

    def _fill(self, target: memoryview) -> int:
        stop = self._at + len(target)
        self._unpack_to(stop)
        target[:] = memoryview(self._unpacked)[self._at : stop]
        return len(target)

    def _unpack_to(self, stop: int) -> None:
        while len(self._unpacked) < stop:
            self._unpack_more()

    def _unpack_more(self) -> None:
        packed = self._unpack.unconsumed_tail or self._stream.read(min(_CHUNK, self._packed_left))
        self._packed_left -= 0 if self._unpack.unconsumed_tail else len(packed)
        try:
            more = self._unpack.decompress(packed, _CHUNK)
        except zlib.error as error:
            raise ZipDamagedError("a member cannot be unpacked") from error
        self._unpacked += more
        self._crc = zlib.crc32(more, self._crc)
        over = len(self._unpacked) > self.size
        short = (self._unpack.eof or not (more or packed)) and len(self._unpacked) < self.size
        if over or short or (len(self._unpacked) == self.size and self._crc != self._wanted_crc):
            raise ZipDamagedError("a member is not as long as it says, or its checksum differs")
