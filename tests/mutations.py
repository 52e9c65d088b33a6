"""Damaged copies of DICOM objects, by kind of damage; the same seed gives the same bytes."""

from __future__ import annotations

import io
import re
import struct
import zlib
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path
from random import Random

import pydicom
from dicom import Item, arrow, bidimensional, ct_series, gsps, line, on, polyline
from structured import (
    CENTER,
    LONG_AXIS,
    SHORT_AXIS,
    cornerstone,
    hd_group,
    hd_measurement,
    hd_region,
    hd_report,
    image_of,
    length,
    number,
    report,
    scoord,
)

from cohort_builder.pacs.elements import quietly

_HEADER = re.compile(
    rb"[\x00-\xff]{4}(?:AE|AS|AT|CS|DA|DS|DT|FD|FL|IS|LO|LT|OB|OW|PN|SH|SQ|SS|ST|TM|UI|UL|UN|US|UT)", re.DOTALL
)
_LONG = {b"OB", b"OW", b"SQ", b"UN", b"UT", b"OF", b"UC", b"UR"}
_VRS = (b"CS", b"DS", b"FL", b"IS", b"LO", b"OB", b"PN", b"SQ", b"UI", b"UN", b"US", b"UT", b"XX", b"\0\0")
_LENGTHS = (0, 1, 2, 7, 8, 0x7FFF, 0xFFFE, 0xFFFF, 0x10000, 0x7FFFFFFF, 0xFFFFFFFE, 0xFFFFFFFF)
_SYNTAXES = ("1.2.840.10008.1.2", "1.2.840.10008.1.2.1", "1.2.840.10008.1.2.2", "1.2.840.10008.1.2.1.99",
             "1.2.840.10008.1.2.4.50", "1.2.840.10008.1.2.4.70", "1.2.840.10008.1.2.4.80", "1.2.840.10008.1.2.4.90",
             "1.2.840.10008.1.2.4.201", "1.2.840.10008.1.2.5", "1.2.3")  # fmt: skip
_SEQUENCES = (b"\x40\x00\x30\xa7", b"\x70\x00\x01\x00", b"\x08\x00\x15\x11", b"\x09\x00\x01\x10", b"\x00\x52\x30\x92")
_ITEM, _ITEM_END, _SEQUENCE_END = b"\xfe\xff\x00\xe0", b"\xfe\xff\x0d\xe0\0\0\0\0", b"\xfe\xff\xdd\xe0\0\0\0\0"
_OPEN = b"\xff\xff\xff\xff"
_VALUES = {
    "Rows": (0, 1, 65535), "Columns": (0, 1, 65535), "BitsAllocated": (0, 1, 7, 8, 12, 32, 64, 65535),
    "BitsStored": (0, 1, 17, 65535), "HighBit": (0, 40), "PixelRepresentation": (2, 65535), "SamplesPerPixel": (0, 3, 65535),
    "NumberOfFrames": ("0", "-1", "2147483647"), "PixelSpacing": (["0", "0"], ["-1", "1"], ["1e308", "1e308"], ["1"]),
    "ImagePositionPatient": (["1e300", "0", "0"], ["1", "2"]), "ImageOrientationPatient": (["0"] * 6, ["1"] * 6, ["1e308"] * 6),
    "RescaleSlope": ("0", "1e308", "-1"), "RescaleIntercept": ("1e308", "0.5"), "PhotometricInterpretation": ("RGB", "", "X" * 16),
    "SOPInstanceUID": ("", "1", "1." * 40, "x"), "StudyInstanceUID": ("", "9"), "SeriesInstanceUID": ("", "..."),
    "SOPClassUID": ("", "1.2.840.10008.5.1.4.1.1.2", "1.2.840.10008.5.1.4.1.1.2.1", "1.2.840.10008.5.1.4.1.1.11.1",
                    "1.2.840.10008.5.1.4.1.1.88.33"),
    "SpecificCharacterSet": ("", "ISO_IR 13", "ISO 2022 IR 87", "NONE", ["ISO 2022 IR 6", "ISO 2022 IR 149", "X"]),
    "PatientName": ("^" * 60, "=" * 3, "\x1b$B"), "PatientID": ("", "\\" * 20), "StudyDate": ("00000000", "99999999", "2024"),
    "InstanceNumber": ("", "99999999999"), "ImageType": ([""] * 40, ["LOCALIZER"] * 3),
}  # fmt: skip


def seeds() -> list[bytes]:
    """Objects to start from: pydicom's small test files; CT, presentation states and reports by pydicom and highdicom."""
    images = ct_series(2, shape=(16, 16))
    a, b, c, d = (2.0, 4.5), (12.0, 4.5), (7.0, 2.0), (7.0, 8.0)
    made: list[pydicom.Dataset] = [
        *images,
        gsps(
            [
                on(images[0], *bidimensional((a, b), (c, d)), *arrow(a, d)),
                on(images[1], line(c, d), polyline(a, b, d, a)),
            ]
        ),
        gsps([Item((line(a, b),), None)], images=images),
        report(
            cornerstone(
                "Bidirectional", length(images[0], a, b, 7.0, LONG_AXIS), length(images[0], c, d, 4.8, SHORT_AXIS)
            ),
            cornerstone("ArrowAnnotate", number(CENTER, None, scoord("POINT", [a, d], image_of(images[1])))),
            images=images,
        ),
        hd_report(
            [
                hd_group(hd_measurement(LENGTH, 7, "POLYLINE", [a, b], images[0])),
                hd_region("CIRCLE", [c, d], images[1]),
            ],
            images,
            library=True,
        ),
    ]
    contents = []
    for ds in made:
        stream = io.BytesIO()
        ds.save_as(stream, enforce_file_format=True)
        contents.append(stream.getvalue())
    folder = Path(pydicom.__file__).parent / "data" / "test_files"
    files = sorted(path for path in folder.rglob("*") if path.is_file() and path.suffix != ".md")
    return contents + [path.read_bytes() for path in files if path.stat().st_size < 40_000]


LENGTH = pydicom.sr.codedict.codes.SCT.Length


def mutations(contents: Sequence[bytes], count: int, seed: int) -> Iterator[tuple[str, bytes]]:
    """Kind and bytes of ``count`` damaged copies, the kinds in turn."""
    kinds = list(KINDS)
    for i in range(count):
        random = Random(f"{seed} {i}")
        kind = kinds[i % len(kinds)]
        # our own objects, on which more code runs, every other time
        content = contents[random.randrange(6) if random.random() < 0.5 else random.randrange(len(contents))]
        yield kind, KINDS[kind](content, random)


def _bits(content: bytes, random: Random) -> bytes:
    damaged = bytearray(content)
    start = random.choice((0, 132, 132))
    for _ in range(random.choice((1, 1, 4, 16, 64))):
        damaged[random.randrange(min(start, len(damaged) - 1), len(damaged))] ^= 1 << random.randrange(8)
    return bytes(damaged)


def _headers(content: bytes) -> list[int]:
    return [match.start() for match in _HEADER.finditer(content, 132)]


def _lengths(content: bytes, random: Random) -> bytes:
    places = _headers(content)
    if not places:
        return _bits(content, random)
    damaged = bytearray(content)
    for at in random.choices(places, k=random.choice((1, 1, 2, 5))):
        value = random.choice(_LENGTHS)
        if bytes(damaged[at + 4 : at + 6]) in _LONG:
            damaged[at + 8 : at + 12] = struct.pack("<I", value)
        else:
            damaged[at + 6 : at + 8] = struct.pack("<H", value & 0xFFFF)
    return bytes(damaged)


def _tags(content: bytes, random: Random) -> bytes:
    places = _headers(content)
    if len(places) < 2:
        return _bits(content, random)
    damaged = bytearray(content)
    for _ in range(random.choice((1, 2, 6))):
        at, other = random.sample(places, 2)
        if random.random() < 0.5:
            damaged[at : at + 4] = content[other : other + 4]
        else:
            damaged[at + 4 : at + 6] = random.choice(_VRS)
    return bytes(damaged)


def _cuts(content: bytes, random: Random) -> bytes:
    at = random.randrange(len(content))
    if random.random() < 0.5:
        return content[:at]
    other = random.randrange(len(content))
    low, high = min(at, other), max(at, other)
    return random.choice(
        (content[:low] + content[high:], content[:high] + content[low:], content[:low] + b"\0" * (high - low))
    )


def _depth(content: bytes, random: Random) -> bytes:
    """Sequences in sequences, closed or not."""
    levels = random.choice((5, 33, 100, 900, 5000))
    tag = random.choice(_SEQUENCES)
    opening = (tag + b"SQ\0\0" + _OPEN + _ITEM + _OPEN) * levels
    closing = random.choice((b"", (_ITEM_END + _SEQUENCE_END) * levels))
    return _inserted(content, opening + closing, random)


def _many(content: bytes, random: Random) -> bytes:
    """Very many items in one sequence, empty or with an element each."""
    element = random.choice((b"", b"\x40\x00\x40\xa0CS\x04\x00NUM ", b"\x08\x00\x55\x11UI\x04\x001.2\0"))
    items = (_ITEM + struct.pack("<I", len(element)) + element) * random.choice((100, 2000, 200_000))
    declared = random.choice((_OPEN, struct.pack("<I", len(items))))
    end = _SEQUENCE_END if declared == _OPEN else b""
    return _inserted(content, random.choice(_SEQUENCES) + b"SQ\0\0" + declared + items + end, random)


def _inserted(content: bytes, sequence: bytes, random: Random) -> bytes:
    places = [*_headers(content), len(content)]
    at = random.choice((places[len(places) // 2], places[-1], random.choice(places)))
    return content[:at] + sequence + random.choice((content[at:], b""))


def _values(content: bytes, random: Random) -> bytes:
    """Values that no image, annotation or patient has, written by pydicom; where it refuses, the bits are damaged."""
    try:
        with quietly():
            ds = pydicom.dcmread(io.BytesIO(content), force=True)
            for keyword in random.sample(sorted(_VALUES), random.choice((1, 2, 4))):
                setattr(ds, keyword, random.choice(_VALUES[keyword]))
            stream = io.BytesIO()
            ds.save_as(stream)
            return stream.getvalue()
    except Exception:  # noqa: BLE001 - pydicom refuses to write it
        return _bits(content, random)


def _syntaxes(content: bytes, random: Random) -> bytes:
    """Another transfer syntax than that of the bytes; a deflated one may inflate to 64 MB of zeros, or be noise."""
    match = re.search(rb"\x02\x00\x10\x00UI(..)", content[:600], re.DOTALL)
    if match is None:
        return _bits(content, random)
    (size,) = struct.unpack("<H", match[1])
    uid = random.choice(_SYNTAXES).encode()
    uid += b"\0" * (len(uid) % 2)
    head = content[: match.start()] + b"\x02\x00\x10\x00UI" + struct.pack("<H", len(uid)) + uid
    rest = content[match.end() + size :]
    if uid.rstrip(b"\0").endswith(b".99"):
        group_end = rest.find(b"\x08\x00")
        packer = zlib.compressobj(wbits=-15)
        body = random.choice((rest[group_end:], b"\0" * (1 << 26), _ITEM * (1 << 20), random.randbytes(2000)))
        rest = rest[:group_end] + packer.compress(body) + packer.flush()
    return head + rest


KINDS: dict[str, Callable[[bytes, Random], bytes]] = {
    "bits": _bits,
    "lengths": _lengths,
    "tags": _tags,
    "cuts": _cuts,
    "depth": _depth,
    "many items": _many,
    "values": _values,
    "syntaxes": _syntaxes,
}
