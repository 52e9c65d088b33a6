"""Our own scanner of DICOM headers: one read of the head of a file, no objects for elements that nobody asks for.

It reads explicit and implicit little endian with a preamble, walks sequences for the names in them, and gives exactly
what pydicom would (``cohort_builder.pacs.headers``), or nothing: whatever is rare, odd or damaged is pydicom's.
"""

from __future__ import annotations

import struct
import threading
from collections.abc import Callable
from pathlib import Path

from cohort_builder.pacs.fields import RefusedError, Tables, tables
from cohort_builder.pacs.instances import CT, EXPLICIT, IMPLICIT, Header, Instance, kind_of, native_bytes
from cohort_builder.pacs.layout import Layout, learned, study_header
from cohort_builder.pacs.walk import DATASET_FROM, PIXEL_DATA, START, UNDEFINED_LENGTH, TooShortError, Walk

Read = Callable[[int, int], bytes]

_FIRST_READ = 8192
_LARGEST_HEADER = 1 << 24
_BEGINNING = b"DICM\x02\x00\x00\x00UL\x04\x00"  # and File Meta Information Group Length
_COMPRESSED = ("1.2.840.10008.1.2.4.", "1.2.840.10008.1.2.5")
_REQUIRED = ("sop_instance_uid", "sop_class_uid", "series_instance_uid", "study_instance_uid")


class _Memory(threading.local):
    """What helps with the next file: a layout, the last header that was read whole, and how much to read."""

    layout: Layout | None = None
    whole: Walk | None = None
    head = _FIRST_READ


_memory = _Memory()


def scan(read: Read, size: int, path: Path) -> Header | None:
    """Read one header, or give None: then pydicom must read it.

    Parameters
    ----------
    read
        ``read(offset, n)`` gives ``n`` bytes of the object, fewer at its end.
    size
        Of the whole object, in bytes.
    path
        Goes into the Instance.

    """
    known, wanted = tables(), _memory.head
    while wanted <= _LARGEST_HEADER:
        buffer = read(0, wanted)
        if not buffer.startswith(_BEGINNING, START - 4):
            return None
        try:
            header = _header(buffer, size, path, known, read)
        except RefusedError:
            return None
        except (TooShortError, struct.error, IndexError) as error:
            if len(buffer) < wanted or wanted >= size:
                return None
            wanted = max(4 * wanted, _rounded(error.needed if isinstance(error, TooShortError) else 0))
        else:
            _memory.head = max(_FIRST_READ, min(wanted, size))
            return header
    return None


def fragments_length(read: Read, begin: int, size: int) -> int | None:
    """Length of compressed pixel data from their first item up to their delimiter; None if they are cut off."""
    at = begin
    while len(item := read(at, 8)) == 8:
        if item.startswith(b"\xfe\xff\xdd\xe0"):
            return at - begin
        at += 8 + int.from_bytes(item[4:], "little")
        if at > size or not item.startswith(b"\xfe\xff\x00\xe0"):
            return None
    return None


def _rounded(n: int) -> int:
    """To whole pages, with room for the head of the next element."""
    return (n // _FIRST_READ + 1) * _FIRST_READ


def _header(buffer: bytes, size: int, path: Path, known: Tables, read: Read) -> Header:
    walk, layout = Walk(buffer, size, known), _memory.layout
    if layout is not None and layout.follow(walk):
        study = layout.study_of(walk)
    else:
        walk = Walk(buffer, size, known)
        _read_whole(walk)
        study = study_header(walk.study, {name for _, name in walk.names})
        _remember(walk)
    fields = walk.fields
    if any(fields.get(name) is None for name in _REQUIRED):
        raise RefusedError
    kind = kind_of(fields["sop_class_uid"])
    fields["pixel_offset"], fields["pixel_length"] = _pixel_data(walk, kind, read)
    instance = Instance(path, **fields)
    if kind == CT and (instance.pixel_length is None or instance.pixel_length < native_bytes(instance)):
        raise RefusedError
    return Header(kind, instance, study)


def _read_whole(walk: Walk) -> None:
    """Read every element."""
    at = walk.read(START, meta=True)
    syntax = walk.fields.get("transfer_syntax_uid") or ""
    if not (syntax in {EXPLICIT, IMPLICIT} or syntax.startswith(_COMPRESSED)):
        raise RefusedError
    walk.explicit, walk.last = syntax != IMPLICIT, DATASET_FROM
    length = walk.buffer[at + 4 : at + 6]
    if not walk.explicit and len(length) == 2 and all(0x40 < byte < 0x5B for byte in length):
        raise RefusedError  # pydicom would take it for a VR
    walk.end = walk.read(at)
    walk.fields.setdefault("modality", "")


def _remember(walk: Walk) -> None:
    """Learn from two headers of one series that had to be read whole."""
    before, _memory.whole = _memory.whole, walk
    if before is not None and before.fields.get("series_instance_uid") == walk.fields.get("series_instance_uid"):
        _memory.layout = learned(_memory.layout, before, walk)


def _pixel_data(walk: Walk, kind: str, read: Read) -> tuple[int | None, int | None]:
    """Start and length of the Pixel Data value as far as it is there, as ``headers`` tells them."""
    at, buffer = walk.end, walk.buffer
    if at == walk.size:
        return None, None
    begin = at + (12 if walk.explicit else 8)
    if begin > len(buffer):
        raise TooShortError(begin)
    tag = int.from_bytes(buffer[at : at + 2], "little") << 16 | int.from_bytes(buffer[at + 2 : at + 4], "little")
    if tag != PIXEL_DATA or (walk.explicit and buffer[at + 4 : at + 6] not in {b"OB", b"OW"}):
        raise RefusedError
    declared = int.from_bytes(buffer[begin - 4 : begin], "little")
    if declared != UNDEFINED_LENGTH:
        return begin, min(declared, walk.size - begin)
    return begin, fragments_length(read, begin, walk.size) if kind == CT else None
