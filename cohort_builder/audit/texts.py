"""Every text that a published file holds, however it is packed."""

from __future__ import annotations

import gzip
import html
import io
import re
import struct
import zipfile
import zlib
from collections.abc import Iterator
from math import prod
from pathlib import Path
from typing import Any
from urllib.parse import unquote

Text = tuple[str, str, bool]
"""Where in the file, the text, and whether it surely is text (not a printable stretch of compressed bytes)."""

_MAX_DEPTH = 5
_MAX_PRINTABLE_INTEGER = 99_999
"""Smaller whole numbers are counts and sizes; ids of so few digits are searched for as text only."""
_ROWS = 8
_APART = "\n" * 4
"""Between two values: wider than any gap inside a name."""
_PNG = b"\x89PNG\r\n\x1a\n"
_CHARACTER = rb"(?:[\t\n\r\x20-\x7e]|[\xc2-\xdf][\x80-\xbf]|[\xe0-\xef][\x80-\xbf]{2})"
_STRETCH = re.compile(_CHARACTER + rb"{3,}")
_LONG_STRETCH = re.compile(_CHARACTER + rb"{8,}")
_WIDE_STRETCH = re.compile(rb"(?:[\x20-\x7e]\x00){8,}")  # UTF-16, little endian


def texts_of_file(path: Path) -> Iterator[Text]:
    """Yield every text of a file; raises what the decoder of its format raises when it is broken."""
    with path.open("rb") as stream:
        if stream.read(4) == b"PAR1":
            yield from _parquet(path, 0)
            return
    yield from texts_of_bytes(path.read_bytes())


def texts_of_bytes(data: bytes, depth: int = 0) -> Iterator[Text]:
    """Yield every text of a file's content, unpacking what is packed in it."""
    if depth > _MAX_DEPTH:
        raise ValueError(f"packed more than {_MAX_DEPTH} times")
    if data[:2] == b"\x1f\x8b":
        yield from _gzip(data, depth)
    elif data[:4] == b"PK\x03\x04":
        yield from _zip(data, depth)
    elif data[:4] == b"PAR1":
        yield from _parquet(io.BytesIO(data), depth)
    elif data[:8] == _PNG:
        yield from _png(data)
    elif (layout := _nifti_layout(data)) is not None:
        start, end = layout
        yield " (NIfTI header)", _printable(data[:start]), True
        yield " (behind the voxels)", _printable(data[end:]), True
    else:
        yield from _plain(data)


def _plain(data: bytes) -> Iterator[Text]:
    if b"\0" not in data:
        try:
            text = data.decode("utf-8-sig")
        except UnicodeDecodeError:
            pass
        else:
            yield from (("", variant, True) for variant in _variants(text))
            return
    yield " (bytes)", _printable(data, _LONG_STRETCH), False
    yield " (bytes)", _APART.join(match.group().decode("utf-16-le") for match in _WIDE_STRETCH.finditer(data)), False


def _variants(text: str) -> Iterator[str]:
    """Yield the text, and the text with its escapes resolved (JSON, HTML, URL) where it has some."""
    yield text
    if "\\u" in text:
        yield re.sub(r"\\u([0-9a-fA-F]{4})", lambda match: chr(int(match[1], 16)), text)
    if "&" in text:
        yield html.unescape(text)
    if "%" in text:
        yield unquote(text)


def _printable(data: bytes, stretch: re.Pattern[bytes] = _STRETCH) -> str:
    return _APART.join(match.group().decode("utf-8", "replace") for match in stretch.finditer(data))


def _gzip(data: bytes, depth: int) -> Iterator[Text]:
    """Unpack; the header may name the original file (RFC 1952, 2.3)."""
    flags, end = data[3], 10
    if flags & 0x04:
        end += 2 + struct.unpack_from("<H", data, end)[0]
    for bit in (0x08, 0x10):  # name, comment
        if flags & bit:
            end = data.index(b"\0", end) + 1
    yield " (gzip header)", _printable(data[10:end]), True
    yield from texts_of_bytes(gzip.decompress(data), depth + 1)


def _zip(data: bytes, depth: int) -> Iterator[Text]:
    with zipfile.ZipFile(io.BytesIO(data)) as archive:
        yield " (zip)", _APART.join([archive.comment.decode("utf-8", "replace"), *archive.namelist()]), True
        for info in archive.infolist():
            for _, text, sure in texts_of_bytes(archive.read(info), depth + 1):
                yield " (zip member)", text, sure


def _png(data: bytes) -> Iterator[Text]:
    """Yield the texts of every chunk but the pixels, and what follows the last (PNG specification, 11.3)."""
    position = len(_PNG)
    kind = b""
    while kind != b"IEND":
        length, kind = struct.unpack_from(">I4s", data, position)
        content = data[position + 8 : position + 8 + length]
        position += 12 + length
        if position > len(data):
            raise ValueError("the PNG is cut short")
        if kind in {b"IDAT", b"fdAT"}:
            continue
        place = f" (PNG {kind.decode('latin-1')})"
        yield place, content.decode("latin-1") if kind in {b"tEXt", b"eXIf"} else _printable(content), True
        if kind in {b"zTXt", b"iTXt", b"iCCP"}:
            yield place, _unpacked(content), True
    yield " (behind the PNG)", _printable(data[position:]), True


def _unpacked(content: bytes) -> str:
    """Return the compressed part of a PNG text chunk, wherever in it that begins."""
    for match in re.finditer(rb"\x78[\x01\x5e\x9c\xda]", content):
        try:
            return zlib.decompress(content[match.start() :]).decode("utf-8", "replace")
        except zlib.error:
            continue
    return ""


def _nifti_layout(data: bytes) -> tuple[int, int] | None:
    """Return where the voxels of a NIfTI-1 or NIfTI-2 file start and end; None when it is no such file."""
    for order in "<>":
        if data[:4] == struct.pack(order + "i", 348) and data[344:347] in {b"n+1", b"ni1"}:
            dim = struct.unpack_from(order + "8h", data, 40)
            bits = struct.unpack_from(order + "h", data, 72)[0]
            start = max(348, int(struct.unpack_from(order + "f", data, 108)[0]))
        elif data[:4] == struct.pack(order + "i", 540) and data[4:7] in {b"n+2", b"ni2"}:
            bits = struct.unpack_from(order + "h", data, 14)[0]
            dim = struct.unpack_from(order + "8q", data, 16)
            start = max(540, struct.unpack_from(order + "q", data, 168)[0])
        else:
            continue
        return start, start + prod(dim[1 : dim[0] + 1]) * bits // 8
    return None


def _parquet(source: Path | io.BytesIO, depth: int) -> Iterator[Text]:
    """Yield names, metadata and every value that is or can hold text, nested ones too."""
    import pyarrow.parquet as pq

    with pq.ParquetFile(source) as file:
        schema = file.schema_arrow.to_string(
            truncate_metadata=False, show_field_metadata=True, show_schema_metadata=True
        )
        yield " (Parquet schema)", schema, True
        for key, value in (file.metadata.metadata or {}).items():
            yield " (Parquet metadata)", key.decode("utf-8", "replace"), True
            for _, text, _ in _plain(value):
                yield " (Parquet metadata)", text, key != b"ARROW:schema"
        yield " (Parquet metadata)", file.metadata.created_by or "", True
        row = 0
        for batch in file.iter_batches(batch_size=_ROWS):
            for name, column in zip(batch.schema.names, batch.columns, strict=True):
                place = f":{name}, rows {row} to {row + batch.num_rows - 1}"
                for inner, text, sure in _arrow(column, depth):
                    yield place + inner, text, sure
            row += batch.num_rows


def _arrow(array: Any, depth: int) -> Iterator[Text]:
    """Yield the texts of an Arrow array."""
    import pyarrow as pa

    kind = array.type
    if isinstance(array, pa.ExtensionArray):
        yield from _arrow(array.storage, depth)
    elif pa.types.is_dictionary(kind):
        yield from _arrow(array.dictionary, depth)  # values that no row refers to leave with the file too
    elif pa.types.is_struct(kind):
        for part in array.flatten():
            yield from _arrow(part, depth)
    elif pa.types.is_map(kind):
        yield from _arrow(array.keys, depth)
        yield from _arrow(array.items, depth)
    elif hasattr(array, "flatten") and pa.types.is_nested(kind):
        yield from _arrow(array.flatten(), depth)
    elif "binary" in str(kind):
        for value in array.to_pylist():
            if value:
                yield from texts_of_bytes(value, depth + 1)
    elif pa.types.is_integer(kind):
        values = [value for value in array.to_pylist() if value is not None and abs(value) > _MAX_PRINTABLE_INTEGER]
        yield "", _APART.join(map(str, values)), True
    elif not (pa.types.is_floating(kind) or pa.types.is_boolean(kind) or pa.types.is_null(kind)):
        text = _APART.join(str(value) for value in array.to_pylist() if value is not None)
        yield from (("", variant, True) for variant in _variants(text))
