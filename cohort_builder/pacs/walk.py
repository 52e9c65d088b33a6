"""From element to element through the bytes of a header (PS3.5 section 7), little endian, explicit or implicit VR."""

from __future__ import annotations

import struct
from dataclasses import dataclass
from typing import Any

from cohort_builder.pacs.fields import CHARACTER_SET, Convert, RefusedError, Tables, codec_of, names_in, padding

UNDEFINED_LENGTH = 0xFFFFFFFF
START = 132  # place of the first element, after the preamble and DICM
_DEEPEST = 16
_GRAPHIC_ANNOTATIONS = 0x00700001
DATASET_FROM = 0x0007FFFF  # the last tag that is none of a dataset's
_PIXELS_FROM, PIXEL_DATA = 0x7FE00008, 0x7FE00010
_ITEM, _ITEM_END, _SEQUENCE_END, _ITEM_BYTES = 0xFFFEE000, 0xFFFEE00D, 0xFFFEE0DD, b"\xfe\xff\x00\xe0"
_SHORT, _NAME, _LONG, _UNKNOWN, _SEQUENCE = range(5)
_VRS = (
    dict.fromkeys((b"AE", b"AS", b"AT", b"CS", b"DA", b"DS", b"DT", b"FD", b"FL", b"IS", b"LO", b"LT"), _SHORT)
    | dict.fromkeys((b"SH", b"SL", b"SS", b"ST", b"TM", b"UI", b"UL", b"US"), _SHORT)
    | dict.fromkeys((b"OB", b"OD", b"OF", b"OL", b"OV", b"OW", b"SV", b"UC", b"UR", b"UT", b"UV"), _LONG)
    | {b"PN": _NAME, b"UN": _UNKNOWN, b"SQ": _SEQUENCE}
)
_EXPLICIT_HEAD = struct.Struct("<HH2sH").unpack_from
_IMPLICIT_HEAD = struct.Struct("<HHL").unpack_from
_LENGTH = struct.Struct("<L").unpack_from


class TooShortError(Exception):
    """The bytes at hand end before the header does; ``needed`` of them are needed at least."""

    def __init__(self, needed: int) -> None:
        super().__init__(needed)
        self.needed = needed


@dataclass(frozen=True, slots=True)
class Plain:
    """An element with a head of 8 bytes whose value needs no look at others: what is kept of it, if anything."""

    name: str = ""
    convert: Convert | None = None


class Walk:
    """One header while it is read. ``names`` go with the start of their element at the top."""

    __slots__ = ("buffer", "codec", "end", "explicit", "fields", "last", "names", "size", "starts", "study", "tables")

    def __init__(self, buffer: bytes, size: int, known: Tables) -> None:
        self.buffer, self.size, self.tables = buffer, size, known
        self.explicit, self.codec, self.last, self.end = True, "iso8859", -1, 0
        self.fields: dict[str, Any] = {}
        self.study: dict[str, str | None] = {}
        self.names: list[tuple[int, str]] = []
        self.starts: list[int] = []

    def read(self, at: int, count: int = -1, *, meta: bool = False) -> int:
        """Read elements at the top from ``at`` on; returns where the next one is.

        Reads ``count`` of them (-1: all, up to the pixels or the end of the object), with ``meta`` only those of the
        File Meta Information.
        """
        buffer, end, explicit, last = self.buffer, len(self.buffer), self.explicit, self.last
        wanted, starts = self.tables.wanted, self.starts
        while count:
            if at >= end:
                if end < self.size:
                    raise TooShortError(at)
                break
            if explicit:
                group, element, vr, length = _EXPLICIT_HEAD(buffer, at)
                tag, kind, body = group << 16 | element, _VRS.get(vr), at + 8
                if meta and group != 2:
                    break
                if kind is None:
                    raise RefusedError
                if kind >= _LONG:
                    (length,), body = _LENGTH(buffer, body), body + 4
            else:
                tag, vr, kind, body, length = self._implicit(at)
            if tag <= last:
                raise RefusedError
            if _PIXELS_FROM <= tag <= PIXEL_DATA:
                break
            last = tag
            starts.append(at)
            if kind >= _UNKNOWN or length == UNDEFINED_LENGTH:
                at = self._special(tag, kind, body, length, at)
            elif (stop := body + length) > end:
                raise TooShortError(stop)
            else:
                if kind == _NAME or tag in wanted:
                    self._take(tag, vr, kind, buffer[body:stop], at)
                at = stop
            count -= 1
        self.last = last
        return at

    def plain(self, key: bytes) -> Plain | None:
        """How to read elements with this tag and VR; None for names, sequences and whatever needs a look at others."""
        tag = int.from_bytes(key[:2], "little") << 16 | int.from_bytes(key[2:4], "little")
        field, vr = self.tables.fields.get(tag), key[4:]
        if _VRS.get(vr) != _SHORT or tag in self.tables.naming:
            return None
        if field is not None and (field.of_study or field.vrs != (vr,)):
            return None
        return Plain() if field is None else Plain(field.name, field.convert)

    def _implicit(self, at: int) -> tuple[int, bytes, int, int, int]:
        """Tag, VR (unknown: empty), what it is, start and length of the value."""
        group, element, length = _IMPLICIT_HEAD(self.buffer, at)
        tag: int = group << 16 | element
        kind = _SEQUENCE if tag in self.tables.sequences else _NAME if tag in self.tables.persons else _SHORT
        return tag, b"", kind, at + 8, length

    def _take(self, tag: int, vr: bytes, kind: int, value: bytes, start: int) -> None:
        if kind == _NAME or tag in self.tables.naming:
            self._name(tag, vr, value, start)
        if tag in self.tables.fields:
            self._keep(tag, vr, value)
        elif tag == CHARACTER_SET:
            self.codec = codec_of(value)

    def _keep(self, tag: int, vr: bytes, value: bytes) -> None:
        field = self.tables.fields[tag]
        if vr and vr not in field.vrs:
            raise RefusedError
        if len(field.vrs) > 1:
            representation = self.fields.get("pixel_representation")
            if not vr and representation is None:
                raise RefusedError
            kept: Any = padding(value, signed=vr == b"SS" if vr else representation != 0)
        else:
            kept = field.convert(value, self.codec)
        (self.study if field.of_study else self.fields)[field.name] = kept

    def _name(self, tag: int, vr: bytes, value: bytes, start: int) -> None:
        expected = self.tables.naming.get(tag)
        vr = vr or expected or b"PN"
        if vr not in {b"PN", expected}:
            raise RefusedError
        self.names += [(start, name) for name in names_in(value, vr, self.codec)]

    def _special(self, tag: int, kind: int, body: int, length: int, start: int) -> int:
        """Pass over an element of unknown VR, or walk a sequence for names; ``start`` is that of its top element."""
        private = bool(tag >> 16 & 1)
        if kind == _SEQUENCE or (not self.explicit and private and self.buffer[body : body + 4] == _ITEM_BYTES):
            if tag == _GRAPHIC_ANNOTATIONS:
                raise RefusedError
            return self._sequence(body, length, len(self.buffer), start, 0)
        if kind != _UNKNOWN or length == UNDEFINED_LENGTH or not private:
            raise RefusedError
        if body + length > len(self.buffer):
            raise TooShortError(body + length)
        return body + length

    def _sequence(self, at: int, length: int, limit: int, start: int, depth: int) -> int:
        endless = length == UNDEFINED_LENGTH
        stop = limit if endless else at + length
        if stop > limit:
            raise TooShortError(stop)
        if depth > _DEEPEST:
            raise RefusedError
        while endless or at < stop:
            group, element, size = _IMPLICIT_HEAD(self.buffer, at)
            tag = group << 16 | element
            at += 8
            if endless and tag == _SEQUENCE_END and not size:
                return at
            if tag != _ITEM:
                raise RefusedError
            if size != UNDEFINED_LENGTH and at + size > stop:
                raise TooShortError(at + size)
            at = self._item(at, stop if size == UNDEFINED_LENGTH else at + size, start, depth, size == UNDEFINED_LENGTH)
        return at

    def _item(self, at: int, stop: int, start: int, depth: int, endless: bool) -> int:
        last = -1
        while endless or at < stop:
            if self.explicit:
                group, element, vr, length = _EXPLICIT_HEAD(self.buffer, at)
                tag, kind, body = group << 16 | element, _VRS.get(vr), at + 8
                if endless and tag == _ITEM_END and vr == b"\0\0" and not length:
                    return body
                if kind is None:
                    raise RefusedError
                if kind >= _LONG:
                    (length,), body = _LENGTH(self.buffer, body), body + 4
            else:
                tag, vr, kind, body, length = self._implicit(at)
                if endless and tag == _ITEM_END and not length:
                    return body
            if tag <= last or tag >= _ITEM:
                raise RefusedError
            last = tag
            if kind == _SEQUENCE:
                at = self._sequence(body, length, stop, start, depth + 1)
                continue
            at = body + length
            if length == UNDEFINED_LENGTH or (kind == _UNKNOWN and not tag >> 16 & 1) or tag == _GRAPHIC_ANNOTATIONS:
                raise RefusedError
            if at > stop:
                raise TooShortError(at)
            if kind == _NAME or tag in self.tables.naming:
                self._name(tag, vr, self.buffer[body:at], start)
            elif tag == CHARACTER_SET and codec_of(self.buffer[body:at]) != self.codec:
                raise RefusedError
        return at
