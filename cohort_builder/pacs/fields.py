"""From the bytes of one element to the value that the index keeps: what pydicom makes of them, or ``RefusedError``.

Every function takes the value of an element, and the codec of its text where the character set decides.
"""

from __future__ import annotations

import re
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from functools import cache
from math import isfinite
from typing import Any

from cohort_builder.pacs.instances import (
    ENHANCED_CT_CLASSES,
    IDENTIFYING,
    PRESENTATION_STATE,
    SR_CLASS_PREFIX,
    kind_of,
    name_forms,
    said,
)

_ESCAPE = b"\x1b"  # switches the character set within a text (PS3.5 6.1.2.5)
_LONGEST_NUMBERS = 256
CHARACTER_SET = 0x00080005
_UID = re.compile(rb"[0-9]+(?:\.[0-9]+)+")
_INTEGER = re.compile(rb" *[+-]?[0-9]{1,12}")
_DECIMAL = rb" *[+-]?(?:[0-9]+\.?[0-9]*|\.[0-9]+)(?:[eE][+-]?[0-9]+)? *"
_DECIMALS = re.compile(_DECIMAL + rb"(?:\\" + _DECIMAL + rb")*")
_BY_CHARACTER_SET = frozenset({b"LO", b"SH", b"PN", b"ST", b"LT", b"UC", b"UT"})
_ONE_VALUE = frozenset({b"ST", b"LT", b"UT"})
# Character sets whose texts need no escapes, and their Python names.
_CODECS = {
    b"": "iso8859", b"ISO_IR 6": "iso8859", b"ISO_IR 100": "latin_1", b"ISO_IR 101": "iso8859_2",
    b"ISO_IR 109": "iso8859_3", b"ISO_IR 110": "iso8859_4", b"ISO_IR 126": "iso_ir_126", b"ISO_IR 127": "iso_ir_127",
    b"ISO_IR 138": "iso_ir_138", b"ISO_IR 144": "iso_ir_144", b"ISO_IR 148": "iso_ir_148", b"ISO_IR 192": "utf8",
    b"ISO 2022 IR 6": "iso8859", b"ISO 2022 IR 100": "latin_1", b"GB18030": "gb18030", b"GBK": "gbk",
}  # fmt: skip


class RefusedError(Exception):
    """The header is rare, odd or damaged: pydicom reads it."""


Convert = Callable[[bytes, str], Any]


@dataclass(frozen=True, slots=True)
class Field:
    """An element that the index keeps: VRs, name of the value, whether it is the study's, conversion."""

    vrs: tuple[bytes, ...]
    name: str
    of_study: bool
    convert: Convert


@dataclass(frozen=True, slots=True)
class Tables:
    """What to do with a tag: keep it (at the top), search it for names, either (``wanted``); SQ and PN by tag."""

    fields: dict[int, Field]
    naming: dict[int, bytes]
    wanted: frozenset[int]
    sequences: frozenset[int]
    persons: frozenset[int]


def codec_of(value: bytes) -> str:
    """Python's name of a Specific Character Set."""
    codec = _CODECS.get(value.rstrip(b" \0"))
    if codec is None:
        raise RefusedError
    return codec


def names_in(value: bytes, vr: bytes, codec: str) -> Iterator[str]:
    """What a person's name or another identifying element gives the scrubber."""
    text = _decoded(value, codec if vr in _BY_CHARACTER_SET else "iso8859")
    if vr == b"PN":
        for name in text.rstrip("\0 ").split("\\"):
            yield from name_forms(name.rstrip("="))
    elif vr in _ONE_VALUE:
        yield from said(text)
    else:
        for part in text.split("\\"):
            yield from said(part)


def _decoded(value: bytes, codec: str) -> str:
    if _ESCAPE in value:
        raise RefusedError
    try:
        return value.decode(codec)
    except UnicodeError as error:
        raise RefusedError from error


def _words(value: bytes, codec: str) -> str | None:
    text = _decoded(value, codec)
    if "\\" in text:
        text = "\\".join(part.rstrip("\0 ") for part in text.split("\\"))
    return text.replace("\0", "").strip() or None


def _code(value: bytes, _codec: str) -> str | None:
    return value.decode("iso8859").rstrip(" \0").replace("\0", "").strip() or None


def _codes(value: bytes, _codec: str) -> tuple[str, ...]:
    text = value.decode("iso8859").rstrip(" \0")
    return tuple(text.split("\\")) if text else ()


def _is_yes(value: bytes, codec: str) -> bool:
    return _code(value, codec) == "YES"


def _is_lossy(value: bytes, codec: str) -> bool:
    return _code(value, codec) == "01"


def _modality(value: bytes, codec: str) -> str:
    return _code(value, codec) or ""


def _uid(value: bytes, _codec: str) -> str | None:
    value = value.rstrip(b"\0 ")
    if not value:
        return None
    if len(value) > 64 or _UID.fullmatch(value) is None:
        raise RefusedError
    return value.decode("ascii")


def _sop_class(value: bytes, codec: str) -> str | None:
    """Presentation states, reports and multi-frame CT are few, and what they refer to lies in deep sequences."""
    uid = _uid(value, codec)
    if (
        uid is None
        or uid in ENHANCED_CT_CLASSES
        or uid.startswith(SR_CLASS_PREFIX)
        or kind_of(uid) == PRESENTATION_STATE
    ):
        raise RefusedError
    return uid


def _integer(value: bytes, _codec: str) -> int | None:
    value = value.rstrip(b" \0")
    if not value:
        return None
    if _INTEGER.fullmatch(value) is None:
        raise RefusedError
    return int(value)


def _frame_count(value: bytes, codec: str) -> int:
    return _integer(value, codec) or 1


def _decimals(value: bytes) -> tuple[float, ...]:
    value = value.rstrip(b" \0")
    if len(value) > _LONGEST_NUMBERS or _DECIMALS.fullmatch(value) is None:
        raise RefusedError
    return tuple(map(float, value.split(b"\\")))


def _numbers(count: int) -> Convert:
    def convert(value: bytes, _codec: str) -> tuple[float, ...] | None:
        if not value.rstrip(b" \0"):
            return None
        numbers = _decimals(value)
        return numbers if len(numbers) == count and all(map(isfinite, numbers)) else None

    return convert


def _number(value: bytes, _codec: str) -> float | None:
    if not value.rstrip(b" \0"):
        return None
    numbers = _decimals(value)
    return numbers[0] if len(numbers) == 1 and isfinite(numbers[0]) else None


def _as_written(value: bytes, codec: str) -> str | None:
    """Text of one decimal string."""
    if value.rstrip(b" \0") and len(_decimals(value)) != 1:
        raise RefusedError
    return _code(value, codec)


def _unsigned(value: bytes, _codec: str) -> int | None:
    if not value:
        return None
    if len(value) != 2:
        raise RefusedError
    return int.from_bytes(value, "little")


def padding(value: bytes, *, signed: bool) -> int | None:
    """Pixel Padding Value, whose VR is US or SS."""
    if not value:
        return None
    if len(value) != 2:
        raise RefusedError
    return int.from_bytes(value, "little", signed=signed)


def _field(vr: str, name: str, convert: Convert, *, of_study: bool = False) -> Field:
    return Field(tuple(part.encode() for part in vr.split()), name, of_study, convert)


_FIELDS = {
    0x00020010: _field("UI", "transfer_syntax_uid", _uid),
    0x00080008: _field("CS", "image_type", _codes),
    0x00080016: _field("UI", "sop_class_uid", _sop_class),
    0x00080018: _field("UI", "sop_instance_uid", _uid),
    0x00080020: _field("DA", "study_date", _code, of_study=True),
    0x00080032: _field("TM", "acquisition_time", _code),
    0x00080033: _field("TM", "content_time", _code),
    0x00080050: _field("SH", "accession_number", _words, of_study=True),
    0x00080060: _field("CS", "modality", _modality),
    0x00080070: _field("LO", "manufacturer", _words),
    0x0008103E: _field("LO", "series_description", _words),
    0x00081090: _field("LO", "manufacturer_model_name", _words),
    0x00100020: _field("LO", "patient_id", _words, of_study=True),
    0x00100040: _field("CS", "patient_sex", _code, of_study=True),
    0x00101010: _field("AS", "patient_age", _code, of_study=True),
    0x00180010: _field("LO", "contrast_agent", _words),
    0x00180015: _field("CS", "body_part_examined", _code),
    0x00180050: _field("DS", "slice_thickness_mm", _number),
    0x00180060: _field("DS", "kvp", _as_written),
    0x00181020: _field("LO", "software_versions", _words),
    0x00181210: _field("SH", "convolution_kernel", _words),
    0x00185100: _field("CS", "patient_position", _code),
    0x0020000D: _field("UI", "study_instance_uid", _uid),
    0x0020000E: _field("UI", "series_instance_uid", _uid),
    0x00200011: _field("IS", "series_number", _integer),
    0x00200012: _field("IS", "acquisition_number", _integer),
    0x00200013: _field("IS", "instance_number", _integer),
    0x00200032: _field("DS", "image_position", _numbers(3)),
    0x00200037: _field("DS", "image_orientation", _numbers(6)),
    0x00200052: _field("UI", "frame_of_reference_uid", _uid),
    0x00200100: _field("IS", "temporal_position", _integer),
    0x00280002: _field("US", "samples_per_pixel", _unsigned),
    0x00280004: _field("CS", "photometric_interpretation", _code),
    0x00280008: _field("IS", "number_of_frames", _frame_count),
    0x00280010: _field("US", "rows", _unsigned),
    0x00280011: _field("US", "columns", _unsigned),
    0x00280030: _field("DS", "pixel_spacing", _numbers(2)),
    0x00280100: _field("US", "bits_allocated", _unsigned),
    0x00280101: _field("US", "bits_stored", _unsigned),
    0x00280102: _field("US", "high_bit", _unsigned),
    0x00280103: _field("US", "pixel_representation", _unsigned),
    0x00280120: _field("US SS", "pixel_padding_value", _unsigned),
    0x00280121: _field("US SS", "pixel_padding_range_limit", _unsigned),
    0x00280301: _field("CS", "burned_in_annotation", _is_yes),
    0x00281052: _field("DS", "rescale_intercept", _number),
    0x00281053: _field("DS", "rescale_slope", _number),
    0x00281054: _field("LO", "rescale_type", _words),
    0x00282110: _field("CS", "lossy", _is_lossy),
}


@cache
def tables() -> Tables:
    """Built once, from pydicom's dictionary."""
    from pydicom._dicom_dict import DicomDictionary
    from pydicom.datadict import tag_for_keyword

    vrs = {tag: entry[0] for tag, entry in DicomDictionary.items()}
    naming = {tag: vrs[tag].encode() for keyword in IDENTIFYING if (tag := tag_for_keyword(keyword)) is not None}
    return Tables(
        fields=_FIELDS,
        naming=naming,
        wanted=frozenset({*_FIELDS, *naming, CHARACTER_SET}),
        sequences=frozenset(tag for tag, vr in vrs.items() if vr == "SQ"),
        persons=frozenset(tag for tag, vr in vrs.items() if vr == "PN"),
    )
