"""Tolerant access to the elements of a pydicom dataset, as files from anywhere need it."""

from __future__ import annotations

import logging
import re
import struct
import warnings
import zlib
from collections.abc import Iterator
from contextlib import contextmanager
from math import isfinite
from typing import TYPE_CHECKING, Any

from pydicom.errors import BytesLengthException, InvalidDicomError

if TYPE_CHECKING:
    from pydicom.dataset import Dataset

# What a damaged file can make pydicom raise, found by mutating files (tests/test_pacs.py).
READ_ERRORS = (
    OSError, EOFError, ValueError, LookupError, TypeError, AttributeError, ArithmeticError, RuntimeError, MemoryError,
    struct.error, zlib.error, BytesLengthException, InvalidDicomError,
)  # fmt: skip


_UID = re.compile(r"[0-9]+(\.[0-9]+)+")
_UNDEFINED_LENGTH = 0xFFFFFFFF
_PARTS_OF_STATES = ("BlendingSequence", "AdvancedBlendingSequence", "VolumetricPresentationStateInputSequence")


@contextmanager
def quietly() -> Iterator[None]:
    """Keep pydicom's warnings from the user and from every log: they quote values, and names are values."""
    pydicom_logger = logging.getLogger("pydicom")
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        pydicom_logger.addFilter(_drop)
        try:
            yield
        finally:
            pydicom_logger.removeFilter(_drop)


def _drop(_record: logging.LogRecord) -> bool:
    return False


def is_uid(value: object) -> bool:
    """Whether ``value`` has the form of a UID (PS3.5 section 9), leading zeros of components tolerated."""
    return isinstance(value, str) and len(value) <= 64 and _UID.fullmatch(value) is not None


def text(ds: Dataset, keyword: str) -> str | None:
    """Value of a text element, several values joined by a backslash; None if absent, empty or not decodable."""
    value = "\\".join(str(v) for v in values_in(value_of(ds, keyword)))
    return value.replace("\0", "").strip() or None


def numbers(ds: Dataset, keyword: str, count: int) -> tuple[float, ...] | None:
    """Values of a numeric element; None unless there are exactly ``count`` and all are finite."""
    try:
        values = tuple(float(v) for v in values_in(value_of(ds, keyword)))
    except (ValueError, TypeError, OverflowError):
        return None
    return values if len(values) == count and all(isfinite(v) for v in values) else None


def integer(ds: Dataset, keyword: str) -> int | None:
    """Value of an integer element; None if absent or not one integer."""
    value = numbers(ds, keyword, 1)
    return int(value[0]) if value is not None and value[0] == int(value[0]) else None


def is_truncated(ds: Dataset) -> bool:
    """Whether a top-level element of ``ds``, as read by pydicom, holds fewer bytes than it declares."""
    for tag in ds.keys():  # noqa: SIM118 - iterating a Dataset would convert every value
        element = ds.get_item(tag)
        declared, value = getattr(element, "length", _UNDEFINED_LENGTH), getattr(element, "value", None)
        if declared != _UNDEFINED_LENGTH and isinstance(value, bytes) and len(value) < declared:
            return True
    return False


def referenced_images(ds: Dataset) -> Iterator[tuple[str, str]]:
    """(Series Instance UID, SOP Instance UID) of the images that presentation state ``ds`` applies to, in order.

    Blending and volumetric states keep them one level deeper (PS3.3 C.11.14, C.11.23, C.11.29).
    """
    parts = [ds, *(item for keyword in _PARTS_OF_STATES for item in sequence(ds, keyword))]
    for series in (item for part in parts for item in (part, *sequence(part, "ReferencedSeriesSequence"))):
        for image in sequence(series, "ReferencedImageSequence"):
            sop, series_uid = text(image, "ReferencedSOPInstanceUID"), text(series, "SeriesInstanceUID")
            if sop is not None and is_uid(sop):
                yield series_uid or "", sop


def reported_objects(ds: Dataset) -> Iterator[str]:
    """SOP Instance UID of every object that a structured report rests on or speaks of, each once.

    From its evidence (PS3.3 C.17.2) and its content (C.18.3, C.18.4).
    """
    items = [
        item
        for keyword in ("CurrentRequestedProcedureEvidenceSequence", "PertinentOtherEvidenceSequence")
        for study in sequence(ds, keyword)
        for item in sequence(study, "ReferencedSeriesSequence")
    ]
    pending, found = [*reversed(items), ds], dict[str, None]()
    while pending:
        item = pending.pop()
        for reference in sequence(item, "ReferencedSOPSequence"):
            sop = text(reference, "ReferencedSOPInstanceUID")
            if sop is not None and is_uid(sop):
                found[sop] = None
        pending += reversed(sequence(item, "ContentSequence"))
    yield from found


def sequence(ds: Dataset, keyword: str | int) -> list[Dataset]:
    """Items of a sequence; empty if it is absent or damaged."""
    return [item for item in values_in(value_of(ds, keyword)) if hasattr(item, "get_item")]


def value_of(ds: Dataset, key: str | int) -> Any:
    """Value of an element, or None where pydicom cannot make one out of its bytes."""
    try:
        element = ds.get(key)
    except READ_ERRORS:
        return None
    return getattr(element, "value", element)


def values_in(value: Any) -> list[Any]:
    """The values of an element, however many; a person's name is one."""
    if value is None or value == "":
        return []
    if isinstance(value, str | bytes | int | float) or not hasattr(value, "__iter__") or hasattr(value, "components"):
        return [value]
    return list(value)
