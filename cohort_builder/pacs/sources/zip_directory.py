"""The central directory of a zip, entry by entry (APPNOTE.TXT 6.3.10, sections 4.3 and 4.4.5).

``zipfile`` holds every entry in memory and refuses the whole file for one name that it cannot decode. Here one bad
entry costs that entry, and a million of them take no memory.
"""

from __future__ import annotations

import stat
import struct
from collections.abc import Iterator
from dataclasses import dataclass
from io import FileIO
from pathlib import Path
from typing import BinaryIO

STORED, DEFLATED = 0, 8

_END = struct.Struct("<4s4H2LH")
_END64_LOCATOR = struct.Struct("<4sLQL")
_END64 = struct.Struct("<4sQ2H2L4Q")
_CENTRAL = struct.Struct("<4s6H3L5H2L")
_LOCAL = struct.Struct("<4s5H3L2H")
_COMMENT_LIMIT = 0xFFFF
_IN_EXTRA = 0xFFFFFFFF
_ENCRYPTED = 0x1 | 0x40 | 0x2000
_UNIX = 3


class ZipDamagedError(OSError):
    """The zip is not what its directory says. The message quotes nothing of it."""


@dataclass(frozen=True, slots=True)
class Member:
    """One file in a zip: its name as stored, where its local header begins, and how it is packed."""

    name: bytes
    offset: int
    packed: int
    size: int
    crc: int
    method: int
    encrypted: bool
    changed: int
    unix_mode: int

    @property
    def is_folder(self) -> bool:
        """Whether it only names a folder."""
        return self.name.endswith(b"/") and self.size == 0

    @property
    def is_link(self) -> bool:
        """Whether it is a symbolic link."""
        return stat.S_ISLNK(self.unix_mode)

    @property
    def is_special(self) -> bool:
        """Whether it is a FIFO, a socket or a device."""
        kind = stat.S_IFMT(self.unix_mode)
        return kind not in {0, stat.S_IFREG, stat.S_IFDIR, stat.S_IFLNK}


def read_directory(path: Path) -> Iterator[Member]:
    """List a zip in the order of its directory.

    Raises
    ------
    ZipDamagedError
        It is no zip, cut off, one part of several, or its directory is damaged from here on.

    """
    with path.open("rb") as stream:
        start, size, count, shift = _locate(stream)
        stream.seek(start)
        left, found = size, 0
        while left >= _CENTRAL.size:
            member, length = _member(stream, shift)
            left -= length
            found += 1
            yield member
    # A count of 16 bits wraps where a writer does not know zip64.
    if left or (found - count) & _COMMENT_LIMIT:
        raise ZipDamagedError("its directory is shorter or longer than it says")


def data_offset(stream: BinaryIO | FileIO, offset: int, method: int) -> int:
    """Offset of the first packed byte of the member whose local header begins at ``offset``.

    Raises
    ------
    ZipDamagedError
        There is no such header.

    """
    stream.seek(offset)
    raw = stream.read(_LOCAL.size)
    if len(raw) < _LOCAL.size:
        raise ZipDamagedError("a member begins beyond its end")
    signature, _version, _flags, packing, *_rest, name_length, extra_length = _LOCAL.unpack(raw)
    if signature != b"PK\x03\x04" or packing != method:
        raise ZipDamagedError("a member is not where its directory says")
    return offset + _LOCAL.size + int(name_length) + int(extra_length)


def _locate(stream: BinaryIO) -> tuple[int, int, int, int]:
    """Start and bytes of the directory, number of entries, and what is to be added to the offsets in it."""
    end = stream.seek(0, 2)
    tail_start = max(0, end - _END.size - _COMMENT_LIMIT)
    stream.seek(tail_start)
    tail = stream.read(end - tail_start)
    at = tail.rfind(b"PK\x05\x06")
    if at < 0 or len(tail) - at < _END.size:
        raise ZipDamagedError("it has no directory at its end: it is cut off, or no zip")
    _sig, disk, first_disk, _here, count, size, start, _comment = _END.unpack_from(tail, at)
    stop = tail_start + at
    if (disk, first_disk) not in {(0, 0), (0xFFFF, 0xFFFF)}:
        raise ZipDamagedError("it is one part of several")
    if _IN_EXTRA in {size, start} or count == _COMMENT_LIMIT:
        stop, size, start, count = _locate64(stream, stop) or (stop, size, start, count)
    shift = stop - size - start  # bytes put before a zip, as self-extracting ones have
    if shift < 0 or start < 0:
        raise ZipDamagedError("its directory lies outside of it")
    return start + shift, size, count, shift


def _locate64(stream: BinaryIO, stop: int) -> tuple[int, int, int, int] | None:
    at = stop - _END64_LOCATOR.size
    if at < _END64.size:
        return None
    stream.seek(at)
    signature, _disk, _offset, _disks = _END64_LOCATOR.unpack(stream.read(_END64_LOCATOR.size))
    if signature != b"PK\x06\x07":
        return None
    at -= _END64.size  # its extensible data sector is in no use
    stream.seek(at)
    signature, *_rest, count, size, start = _END64.unpack(stream.read(_END64.size))
    if signature != b"PK\x06\x06":
        raise ZipDamagedError("its zip64 directory cannot be found")
    return at, size, start, count


def _member(stream: BinaryIO, shift: int) -> tuple[Member, int]:
    raw = stream.read(_CENTRAL.size)
    if len(raw) < _CENTRAL.size or raw[:4] != b"PK\x01\x02":
        raise ZipDamagedError("its directory is damaged")
    (
        _sig, made_by, _needs, flags, method, time, day, crc, packed, size,
        name_length, extra_length, comment_length, _disk, _internal, external, offset,
    ) = _CENTRAL.unpack(raw)  # fmt: skip
    length = name_length + extra_length + comment_length
    rest = stream.read(length)
    if len(rest) < length:
        raise ZipDamagedError("its directory is damaged")
    size, packed, offset = _from_zip64(rest[name_length : name_length + extra_length], size, packed, offset)
    member = Member(
        name=rest[:name_length],
        offset=offset + shift,
        packed=packed,
        size=size,
        crc=crc,
        method=method,
        encrypted=bool(flags & _ENCRYPTED),
        changed=crc ^ (((day << 16) | time) << 31),
        unix_mode=external >> 16 if made_by >> 8 == _UNIX else 0,
    )
    return member, _CENTRAL.size + length


def _from_zip64(extra: bytes, *values: int) -> tuple[int, ...]:
    """Size, packed size and offset, with those that do not fit into 32 bits from the zip64 field (id 1)."""
    if _IN_EXTRA not in values:
        return values
    at = 0
    while at + 4 <= len(extra):
        kind, length = struct.unpack_from("<HH", extra, at)
        if kind == 1:
            field = extra[at + 4 : at + 4 + length]
            wide = iter(struct.unpack_from(f"<{len(field) // 8}Q", field))
            return tuple(next(wide, value) if value == _IN_EXTRA else value for value in values)
        at += 4 + length
    return values
