"""Where the frames of one CT object lie, and that it still is the object which was indexed.

The index knows how the pixels are stored and where they begin. That is believed only while the bytes before them say
the same: the elements SOP Instance UID and Samples per Pixel to Pixel Representation, encoded as the index knows them
and in ascending order (PS3.5 7.1), and right before the pixels the Pixel Data element with the indexed length. One
search through a few kilobytes takes microseconds. Where it finds something else, and where the index does not know the
place, pydicom parses the header: the object must carry the indexed SOP Instance UID, geometry and rescale, and its own
layout counts. A file must also have the indexed size and time, and a member of a zip its checksum.
"""

from __future__ import annotations

import struct
from contextlib import suppress
from dataclasses import dataclass
from functools import lru_cache
from io import BytesIO
from itertools import pairwise
from math import isclose
from typing import TYPE_CHECKING, BinaryIO, cast

from cohort_builder.pacs.elements import integer, text
from cohort_builder.pacs.headers import HeaderError, header_of
from cohort_builder.pacs.objects import ChangedError, open_in_place, open_object
from segmentation.types import GeometryError

if TYPE_CHECKING:
    import io

    from pydicom.dataset import Dataset

    from cohort_builder.pacs.headers import Instance

IMPLICIT, EXPLICIT, BIG_ENDIAN, DEFLATED = (f"1.2.840.10008.1.2{end}" for end in ("", ".1", ".2", ".1.99"))
NATIVE = frozenset({IMPLICIT, EXPLICIT, BIG_ENDIAN, DEFLATED})
_UNDEFINED = 0xFFFFFFFF
_PIXEL_DATA, _ITEM, _END = (0x7FE0, 0x0010), (0xFFFE, 0xE000), (0xFFFE, 0xE0DD)
_CHANGED = (
    "an image of the series changed since it was indexed; index the export again, that of a server after deleting the "
    "index"
)
_INDEXED = (
    "image_position", "image_orientation", "pixel_spacing", "rescale_slope", "rescale_intercept", "pixel_padding_value",
    "pixel_padding_range_limit",
)  # fmt: skip
_PHOTOMETRIC = frozenset({"MONOCHROME1", "MONOCHROME2", "PALETTE COLOR", "RGB", "YBR_FULL", "YBR_FULL_422"})


@dataclass(frozen=True, slots=True)
class PixelLayout:
    """How the pixels of one object are stored; the Pixel Data value begins at ``offset`` of it (PS3.3 C.7.6.3)."""

    syntax: str
    rows: int
    columns: int
    frames: int
    bits_allocated: int
    bits_stored: int
    high_bit: int
    signed: bool
    offset: int
    length: int

    def __post_init__(self) -> None:
        bits = (self.bits_allocated, self.bits_stored, self.high_bit)
        if bits[0] not in {8, 16, 32} or not 1 <= bits[1] <= bits[2] + 1 <= bits[0]:
            raise GeometryError(f"Bits Allocated, Bits Stored and High Bit {list(bits)} do not fit together")

    @property
    def pixel_bytes(self) -> int:
        """Size of one uncompressed pixel."""
        return self.bits_allocated // 8

    @property
    def frame_bytes(self) -> int:
        """Size of one uncompressed frame."""
        return self.rows * self.columns * self.pixel_bytes


class OpenObject:
    """One object, open and checked to be the indexed one. To be closed.

    Raises
    ------
    GeometryError
        It is not what was indexed, or no MONOCHROME2 image with 1 sample a pixel.

    Damaged files raise ``cohort_builder.pacs.elements.READ_ERRORS``, here and on reading.

    """

    def __init__(self, instance: Instance) -> None:
        try:
            place = open_in_place(instance) or (open_object(instance), 0)
        except ChangedError as error:
            raise GeometryError(_CHANGED) from error
        self._stream, self._start = place
        self._table: list[list[tuple[int, int]]] | None = None
        try:
            self.layout = self._indexed(instance) or self._parsed(instance)
        except BaseException:
            self._stream.close()
            raise

    def close(self) -> None:
        """Close the file."""
        self._stream.close()

    def read_into(self, frame: int, buffer: memoryview) -> None:
        """Fill ``buffer``, of bytes, with the uncompressed frame number ``frame``, from 0."""
        begin = frame * self.layout.frame_bytes
        if begin + len(buffer) > self.layout.length:
            raise EOFError("the pixel data end before this frame")
        self._fill(self._start + self.layout.offset + begin, buffer)

    def encoded(self, frame: int) -> bytes:
        """The bit stream of the compressed frame number ``frame``, from 0."""
        if self._table is None:
            self._stream.seek(self._start + self.layout.offset)
            self._table = _frame_table(self._stream, self.layout.frames)
        parts = [bytearray(length) for _, length in self._table[frame]]
        for (position, _), part in zip(self._table[frame], parts, strict=True):
            self._fill(position, memoryview(part))
        return b"".join(parts)

    def _fill(self, position: int, buffer: memoryview) -> None:
        stream = cast("io.BufferedIOBase", self._stream)
        stream.seek(position)
        done = 0
        while done < len(buffer):
            count = stream.readinto(buffer[done:])
            if not count:
                raise EOFError("the file ends before its pixel data")
            done += count

    def _indexed(self, instance: Instance) -> PixelLayout | None:
        """The layout that the index knows, if the bytes before the pixels say the same."""
        layout = _layout_of(instance)
        if layout is None:
            return None
        head = bytearray(layout.offset)
        with suppress(EOFError):
            self._fill(self._start, memoryview(head))
        return layout if _says_the_same(head, instance, layout) else None

    def _parsed(self, instance: Instance) -> PixelLayout:
        import pydicom

        with open_object(instance) as stream:
            ds = pydicom.dcmread(stream, stop_before_pixels=True, force=True)
            _require_same(ds, instance)
            implicit, little_endian = ds.original_encoding
            native = (IMPLICIT if implicit else EXPLICIT) if little_endian else BIG_ENDIAN
            syntax = text(ds.file_meta, "TransferSyntaxUID") or native
            if syntax == DEFLATED:  # unpacked as a whole, so its pixels lie in memory only
                stream.seek(0)
                value = pydicom.dcmread(stream, force=True).PixelData
                self._stream.close()
                self._stream, self._start = BytesIO(value), 0
                return _layout_in(ds, EXPLICIT, 0, len(value))
            offset, length = _pixel_data(stream, implicit=bool(implicit), order="<" if little_endian else ">")
        if syntax in NATIVE:
            if length == _UNDEFINED:
                raise ValueError("compressed pixel data in an uncompressed transfer syntax")
            syntax = native  # what the bytes are, where that is not what the header declares
        return _layout_in(ds, syntax, offset, length)


def _layout_of(instance: Instance) -> PixelLayout | None:
    known = (
        instance.rows, instance.columns, instance.bits_allocated, instance.bits_stored, instance.high_bit,
        instance.pixel_representation, instance.pixel_offset,
    )  # fmt: skip
    grey = instance.samples_per_pixel == 1 and instance.photometric_interpretation == "MONOCHROME2"
    native = instance.transfer_syntax_uid in NATIVE
    if None in known or not grey or instance.transfer_syntax_uid in {BIG_ENDIAN, DEFLATED}:
        return None
    if native and instance.pixel_length is None:
        return None
    rows, columns, allocated, stored, high, signed, offset = (value or 0 for value in known)
    length = instance.pixel_length or 0 if native else _UNDEFINED
    return _layout(
        instance.transfer_syntax_uid, rows, columns, instance.number_of_frames, allocated, stored, high, signed == 1,
        offset, length,
    )  # fmt: skip


_layout = lru_cache(maxsize=64)(PixelLayout)  # the slices of a series share one, as a rule


def _says_the_same(head: bytearray, instance: Instance, layout: PixelLayout) -> bool:
    implicit = layout.syntax == IMPLICIT
    position = head.find(_element(0x0008, 0x0018, b"UI", _even(instance.sop_instance_uid, b"\0"), implicit=implicit))
    shorts = (
        layout.rows, layout.columns, layout.bits_allocated, layout.bits_stored, layout.high_bit, int(layout.signed),
    )  # fmt: skip
    for element in _image_pixel_elements(shorts, implicit=implicit):
        if position < 0:
            return False
        position = head.find(element, position)
    tag, length = struct.pack("<HH", *_PIXEL_DATA), struct.pack("<L", layout.length)
    ends = (tag + length,) if implicit else (tag + b"OW\0\0" + length, tag + b"OB\0\0" + length)
    return position >= 0 and head.endswith(ends)


@lru_cache(maxsize=64)
def _image_pixel_elements(shorts: tuple[int, ...], *, implicit: bool) -> tuple[bytes, ...]:
    """Elements as they are encoded, in ascending order; the same for all slices of a series."""
    found = [(0x0002, b"US", struct.pack("<H", 1)), (0x0004, b"CS", _even("MONOCHROME2", b" "))]
    elements = (0x0010, 0x0011, 0x0100, 0x0101, 0x0102, 0x0103)
    found += [(element, b"US", struct.pack("<H", value)) for element, value in zip(elements, shorts, strict=True)]
    return tuple(_element(0x0028, *element, implicit=implicit) for element in found)


def _element(group: int, element: int, vr: bytes, value: bytes, *, implicit: bool) -> bytes:
    length = struct.pack("<L", len(value)) if implicit else vr + struct.pack("<H", len(value))
    return struct.pack("<HH", group, element) + length + value


def _even(value: str, padding: bytes) -> bytes:
    encoded = value.encode()
    return encoded + padding * (len(encoded) % 2)


def _require_same(ds: Dataset, instance: Instance) -> None:
    if text(ds, "SOPInstanceUID") != instance.sop_instance_uid or not _is_as_indexed(ds, instance):
        raise GeometryError(_CHANGED)
    samples, photometric = integer(ds, "SamplesPerPixel"), text(ds, "PhotometricInterpretation")
    if samples != 1 or photometric != "MONOCHROME2":
        got = photometric if photometric in _PHOTOMETRIC else "something else"  # a header's text is not quoted
        raise GeometryError(f"a CT image must be MONOCHROME2 with 1 sample a pixel, got {got} with {samples}")


def _is_as_indexed(ds: Dataset, instance: Instance) -> bool:
    """Whether an object, or the frame that is asked for, has the geometry and rescale that the index knows."""
    try:
        header = header_of(ds, instance.path)
    except HeaderError:
        return False
    if header is None:
        return False
    frames = {frame.frame_number: frame for frame in header.frames}
    found = frames.get(instance.frame_number, header.instance)
    return all(_is_close(getattr(found, name), getattr(instance, name)) for name in _INDEXED)


def _is_close(found: object, indexed: object) -> bool:
    """Equal, but for what a server's JSON may lose of a decimal number."""
    if isinstance(found, float) and isinstance(indexed, float):
        return isclose(found, indexed, rel_tol=1e-6, abs_tol=1e-6)
    if isinstance(found, tuple) and isinstance(indexed, tuple) and len(found) == len(indexed):
        return all(map(_is_close, found, indexed))
    return found == indexed


def _layout_in(ds: Dataset, syntax: str, offset: int, length: int) -> PixelLayout:
    rows, columns, allocated, stored, high = (
        integer(ds, keyword) or 0 for keyword in ("Rows", "Columns", "BitsAllocated", "BitsStored", "HighBit")
    )
    signed = integer(ds, "PixelRepresentation") == 1
    frames = integer(ds, "NumberOfFrames") or 1
    return PixelLayout(syntax, rows, columns, frames, allocated, stored, high, signed, offset, length)


def _pixel_data(stream: BinaryIO, *, implicit: bool, order: str) -> tuple[int, int]:
    """Where the Pixel Data value begins, and its declared length; ``stream`` stands before the element."""
    start = stream.read(8 if implicit else 12)
    if len(start) < 8 or struct.unpack(order + "HH", start[:4]) != _PIXEL_DATA:
        raise EOFError("no pixel data")
    return stream.tell(), int.from_bytes(start[-4:], "little" if order == "<" else "big")


def _frame_table(stream: BinaryIO, frames: int) -> list[list[tuple[int, int]]]:
    """Position and length of the fragments of each frame (PS3.5 A.4).

    An Extended Offset Table is not needed: where there is one, each frame is one fragment.
    """
    items: list[tuple[int, int]] = []
    while len(start := stream.read(8)) == 8:
        group, element, length = struct.unpack("<HHL", start)
        if (group, element) == _END:
            break
        if (group, element) != _ITEM or length == _UNDEFINED:
            raise ValueError("compressed pixel data are no sequence of fragments")
        items.append((stream.tell(), length))
        stream.seek(length, 1)
    (table, table_bytes), fragments = items[0], items[1:]
    if frames == 1:
        return [fragments]
    if len(fragments) == frames:
        return [[fragment] for fragment in fragments]
    stream.seek(table)
    starts = [fragments[0][0] + offset for (offset,) in struct.iter_unpack("<L", stream.read(table_bytes))]
    positions = [position for position, _ in fragments]
    if len(starts) != frames or starts != sorted(set(starts) & set(positions)):
        raise GeometryError("the frames of compressed pixel data cannot be told apart: they lack an offset table")
    bounds = [positions.index(start) for start in starts] + [len(fragments)]
    return [fragments[a:b] for a, b in pairwise(bounds)]
