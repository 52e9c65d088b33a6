"""Coordinates of a presentation state to image coordinates: units, displayed area, rotation, flip, a writer's origin.

PIXEL units (PS3.3 C.10.5) are image coordinates already, (0, 0) at the top left *corner* of the first pixel; rotation,
flip and displayed area do not move them (C.10.6). DISPLAY units run from (0, 0) to (1, 1) over the displayed area as it
is shown, after rotation (clockwise) and then flip, and are turned back here. Points are complex numbers,
column + row * 1j.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from enum import StrEnum
from typing import TYPE_CHECKING

from cohort_builder.gsps.strokes import Target
from cohort_builder.pacs.elements import integer, numbers, sequence, text, value_of, values_in
from segmentation.geometry import HALF_PIXEL

if TYPE_CHECKING:
    from pydicom.dataset import Dataset

_LEAST_AREA_PX = 2.0  # an area of one pixel is a corner left at its default: nothing is drawn in that


class PixelOrigin(StrEnum):
    """What a writer takes for the origin of PIXEL units.

    ``CORNER`` is the standard: (0, 0) is the corner of the first pixel. ``CENTER``: (0, 0) is the centre of the first
    pixel. ``ONE_BASED``: pixels are counted from one, so that (1, 1) is the centre of the first.
    """

    CORNER = "corner"
    CENTER = "center"
    ONE_BASED = "one_based"

    @property
    def shift(self) -> float:
        """What to add to a column or row as stored, to count from the corner of the first pixel."""
        return {PixelOrigin.CORNER: 0.0, PixelOrigin.CENTER: HALF_PIXEL, PixelOrigin.ONE_BASED: HALF_PIXEL - 1}[self]


def origin_of(ds: Dataset, origins: Mapping[str, str]) -> PixelOrigin:
    """Origin of the writer of an object, by its General Equipment (PS3.3 C.7.5.1).

    Parameters
    ----------
    ds
        The object; its Manufacturer, Manufacturer's Model Name and Software Versions name the writer.
    origins
        Writers to origins: "manufacturer", "manufacturer/model" or "manufacturer/model/version", in any case; the most
        exact one that fits wins. Several software versions are joined by a backslash.

    Raises
    ------
    ValueError
        An origin is not one of ``PixelOrigin``.

    """
    known = {writer.strip().casefold(): PixelOrigin(origin) for writer, origin in origins.items()}
    keywords = ("Manufacturer", "ManufacturerModelName", "SoftwareVersions")
    names = [(text(ds, keyword) or "").casefold() for keyword in keywords]
    exact_first = ("/".join(names[:count]) for count in (3, 2, 1))
    return next((known[writer] for writer in exact_first if writer in known), PixelOrigin.CORNER)


@dataclass(frozen=True, slots=True)
class Space:
    """Where stored points lie: call it with one to have it in image coordinates.

    ``area`` is the displayed one: (left, top, width, height) in image coordinates; None where points are in pixels,
    which ``shift`` brings to the corner origin. ``turns`` are quarter turns clockwise.
    """

    shift: float = 0.0
    area: tuple[float, float, float, float] | None = None
    turns: int = 0
    flipped: bool = False

    def __call__(self, point: complex) -> complex:
        """Return ``point`` in image coordinates."""
        if self.area is None:
            return point + complex(self.shift, self.shift)
        u, v = point.real, point.imag
        if self.flipped:
            u = 1 - u
        x, y = ((u, v), (v, 1 - u), (1 - u, 1 - v), (1 - v, u))[self.turns]
        left, top, width, height = self.area
        return complex(left + x * width, top + y * height)


@dataclass(frozen=True, slots=True)
class _Selection:
    """One item of Displayed Area Selection Sequence; ``images`` is None where it applies to all of them."""

    images: frozenset[tuple[str, int | None]] | None
    area: tuple[float, float, float, float] | None

    def applies_to(self, target: Target) -> bool:
        if self.images is None:
            return True
        uid, frame = target.sop_instance_uid, target.frame_number
        return (uid, None) in self.images or (uid, frame) in self.images


class Spaces:
    """The spaces of one presentation state; PIXEL coordinates are those of a writer with ``origin``."""

    def __init__(self, ds: Dataset, origin: PixelOrigin) -> None:
        self._pixels = Space(shift=origin.shift)
        self._selections = [_selection(item) for item in sequence(ds, "DisplayedAreaSelectionSequence")]
        rotation = integer(ds, "ImageRotation") or 0
        self._turns = rotation // 90 % 4 if rotation % 90 == 0 else None
        self._flipped = text(ds, "ImageHorizontalFlip") == "Y"

    def of(self, units: str | None, target: Target) -> Space | None:
        """Space of ``units`` (PIXEL or DISPLAY) on an image; None where it is not one, or not known."""
        if units == "PIXEL":
            return self._pixels
        areas = {selection.area for selection in self._selections if selection.applies_to(target)}
        if units != "DISPLAY" or self._turns is None or len(areas) != 1:
            return None
        (area,) = areas
        return None if area is None else Space(area=area, turns=self._turns, flipped=self._flipped)


def _selection(item: Dataset) -> _Selection:
    references = sequence(item, "ReferencedImageSequence")
    images = {
        (text(reference, "ReferencedSOPInstanceUID") or "", frame)
        for reference in references
        for frame in frames_of(reference) or (None,)
    }
    first = numbers(item, "DisplayedAreaTopLeftHandCorner", 2)
    last = numbers(item, "DisplayedAreaBottomRightHandCorner", 2)
    area = None if first is None or last is None else _area(first, last)
    return _Selection(frozenset(images) if references else None, area)


def _area(first: Sequence[float], last: Sequence[float]) -> tuple[float, float, float, float] | None:
    """Of two corner pixels, counted from one and both inside (C.10.4); rotated or flipped, the first may be larger."""
    (left, right), (top, bottom) = (sorted(pair) for pair in zip(first, last, strict=True))
    width, height = right - left + 1, bottom - top + 1
    return (left - 1, top - 1, width, height) if min(width, height) >= _LEAST_AREA_PX else None


def frames_of(reference: Dataset) -> tuple[int, ...]:
    """Referenced Frame Number of an image reference, each once, from 1; -1 stands for one that is no number."""
    try:
        found = {int(value) for value in values_in(value_of(reference, "ReferencedFrameNumber"))}
    except (ValueError, TypeError, OverflowError):
        found = {-1}
    return tuple(sorted(found))
