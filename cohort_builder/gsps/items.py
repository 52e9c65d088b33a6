"""The items of GraphicAnnotationSequence (PS3.3 C.10.5) as plain strokes and texts on one image each."""

from __future__ import annotations

import re
from collections.abc import Mapping
from dataclasses import dataclass, field
from math import isfinite
from typing import TYPE_CHECKING, Protocol

from cohort_builder.gsps.strokes import Number, Polyline
from cohort_builder.pacs.elements import READ_ERRORS, integer, is_uid, numbers, referenced_images, sequence, text

if TYPE_CHECKING:
    from pydicom.dataset import Dataset

_TEXT_OBJECT = 1000  # texts count from here within their item, so that no graphic has the same number
_UNITS = {"DISPLAY": "display_units", "MATRIX": "matrix_units"}
_SHAPES = {
    "POINT": "point",
    "CIRCLE": "circle",
    "ELLIPSE": "ellipse",
    "INTERPOLATED": "interpolated_outline",
}
_COMPOUNDS = frozenset({
    "MULTILINE", "INFINITELINE", "CUTLINE", "RANGELINE", "RULER", "AXIS", "CROSSHAIR", "ARROW", "RECTANGLE", "ELLIPSE",
    "MULTIPOINT",
})  # fmt: skip
_NUMBER = r"\d{1,4}(?:[.,]\d{1,3})?"
_LENGTH = re.compile(
    rf"(?<![\w.,+\-\u2212/])({_NUMBER})\s*(mm|cm)?"
    rf"(?:\s*[x\u00d7*]\s*({_NUMBER})\s*(mm|cm)?)?(?:\s*[x\u00d7*]\s*({_NUMBER})\s*(mm|cm)?)?"
    r"(?![\w\u00b2\u00b3^]|[.,]\d)",
    re.IGNORECASE,
)
_MOST_MM = 1000.0
"""Larger numbers are typed by mistake, or are years or ids: what is read here is published."""
_NO_DIAMETER = re.compile(
    r"area|perimeter|circumf|umfang|radius|thick|schicht|dicke|locat|position|depth|volum|fl\u00e4che|mean|std|\bsd\b",
    re.IGNORECASE,
)
_ANGLE = re.compile(r"\d\s*(?:\u00b0|deg|grad\b)|angle|winkel|cobb", re.IGNORECASE)


class OnRefusal(Protocol):
    """Called with (item, object) numbers, reason and detail of what cannot be read."""

    def __call__(self, number: tuple[int, ...], reason: str, detail: str, *, failure: bool = False) -> None:
        """Record it."""


@dataclass(frozen=True, slots=True)
class Target:
    """The one image that an item is drawn on; the series is empty where the object does not say it."""

    sop_instance_uid: str
    series_instance_uid: str


@dataclass(frozen=True, slots=True)
class DrawnText:
    """A text object: raw ``value`` (private), the lengths in it, and where it stands in pixels.

    ``box`` is (left, top, right, bottom); ``points`` is True where a leader line to the anchor is shown.
    """

    number: Number
    value: str
    target: Target
    group: str | None = None
    anchor: complex | None = None
    box: tuple[float, float, float, float] | None = None
    points: bool = False

    @property
    def values_mm(self) -> tuple[float, ...]:
        """Lengths in mm, in the order written."""
        return lengths_mm(self.value)

    @property
    def is_angle(self) -> bool:
        """Whether it speaks of an angle."""
        return _ANGLE.search(self.value) is not None


@dataclass(frozen=True, slots=True)
class Item:
    """One readable item; ``groups`` are the Graphic Group IDs of its objects, where given.

    ``has_graphics`` is True also where none of its graphics could be read.
    """

    number: int
    target: Target
    layer: str | None
    polylines: tuple[Polyline, ...]
    texts: tuple[DrawnText, ...]
    groups: Mapping[Number, str] = field(default_factory=dict)
    has_graphics: bool = False


def lengths_mm(value: str) -> tuple[float, ...]:
    """Lengths written in a text beside a drawing, in mm: "37.1 mm", "1.2 x 3.4 cm", "12,3 mm", "12 mm x 8 mm".

    Areas, volumes, Hounsfield units, degrees and numbers without a unit are no lengths, nor is anything on a line that
    speaks of a perimeter, radius, thickness or position.
    """
    found: list[float] = []
    for line in value.splitlines():
        if _NO_DIAMETER.search(line):
            continue
        for match in _LENGTH.finditer(line):
            parts, units = match.group(1, 3, 5), match.group(2, 4, 6)
            written = [(part, units[i]) for i, part in enumerate(parts) if part is not None]
            last = written[-1][1]
            if last is None:
                continue
            factors = [10.0 if (unit or last).lower() == "cm" else 1.0 for _, unit in written]
            values = [float(p.replace(",", ".")) * f for (p, _), f in zip(written, factors, strict=True)]
            found += [round(v, 6) for v in values if 0 < v <= _MOST_MM]
    return tuple(found)


def read_items(ds: Dataset, *, on_refusal: OnRefusal) -> list[Item]:
    """Read the items of a presentation state that lie on one single-frame image each.

    Refused are: ``no_reference``, ``several_images`` (also where an item has no reference of its own and the object has
    several), ``multiframe_reference``, ``display_units``, ``matrix_units``, ``point``, ``circle``, ``ellipse``,
    ``interpolated_outline``, ``compound_<type>``, ``unknown_graphic_type``, ``nonfinite_coordinates``,
    ``malformed_graphic``.
    """
    series_of = {sop: series for series, sop in referenced_images(ds)}
    items = []
    for i, annotation in enumerate(sequence(ds, "GraphicAnnotationSequence"), start=1):
        target = _target(ds, annotation, series_of)
        if isinstance(target, tuple):
            on_refusal((i,), *target, failure=target[0] == "no_reference")
            continue
        items.append(_item(i, annotation, target, on_refusal))
    return items


def _target(ds: Dataset, annotation: Dataset, series_of: Mapping[str, str]) -> Target | tuple[str, str]:
    """The image, or reason and detail why there is none."""
    own = sequence(annotation, "ReferencedImageSequence")
    references = own or [
        image
        for series in sequence(ds, "ReferencedSeriesSequence")
        for image in sequence(series, "ReferencedImageSequence")
    ]
    uids = {uid for image in references if is_uid(uid := text(image, "ReferencedSOPInstanceUID")) and uid is not None}
    if not uids or len(references) > len([r for r in references if text(r, "ReferencedSOPInstanceUID") in uids]):
        return "no_reference", "the annotation names no image, or not by a valid UID"
    if len(uids) > 1:
        return "several_images", "the annotation applies to several images, so the slice it was drawn on is not known"
    if any(_frames(image) not in ([], [1]) for image in references):
        return "multiframe_reference", "the annotation is drawn on a frame of a multi-frame image, not read yet"
    (uid,) = uids
    return Target(uid, series_of.get(uid, ""))


def _frames(image: Dataset) -> list[int]:
    try:
        value = image.get("ReferencedFrameNumber")
        return [] if value is None or value == "" else [int(v) for v in ([value] if isinstance(value, int) else value)]
    except READ_ERRORS:
        return [-1]


def _item(i: int, annotation: Dataset, target: Target, on_refusal: OnRefusal) -> Item:
    compounds = _refuse_compounds(i, annotation, on_refusal)
    polylines, groups = [], {}
    for j, graphic in enumerate(sequence(annotation, "GraphicObjectSequence"), start=1):
        if text(graphic, "CompoundGraphicInstanceID") in compounds - {None}:
            continue  # the simple rendering of a compound graphic that is refused as a whole
        polyline = _polyline((i, j), graphic, on_refusal)
        if polyline is not None:
            polylines.append(polyline)
            group = text(graphic, "GraphicGroupID")
            if group is not None:
                groups[polyline.number] = group
    texts = []
    for j, drawn in enumerate(sequence(annotation, "TextObjectSequence"), start=1):
        value = text(drawn, "UnformattedTextValue")
        if value is not None and text(drawn, "CompoundGraphicInstanceID") not in compounds - {None}:
            texts.append(_text((i, _TEXT_OBJECT + j), value, drawn, target))
    has_graphics = bool(compounds or sequence(annotation, "GraphicObjectSequence"))
    return Item(i, target, text(annotation, "GraphicLayer"), tuple(polylines), tuple(texts), groups, has_graphics)


def _refuse_compounds(i: int, annotation: Dataset, on_refusal: OnRefusal) -> set[str | None]:
    """Refuse compound graphics; returns their instance IDs."""
    instance_ids = set()
    for compound in sequence(annotation, "CompoundGraphicSequence"):
        kind = text(compound, "CompoundGraphicType") or ""
        name = kind.lower() if kind in _COMPOUNDS else "other"
        on_refusal((i,), f"compound_{name}", "compound graphics are not read yet")
        instance_ids.add(text(compound, "CompoundGraphicInstanceID"))
    return instance_ids


def _polyline(number: Number, graphic: Dataset, on_refusal: OnRefusal) -> Polyline | None:
    units, kind = text(graphic, "GraphicAnnotationUnits"), text(graphic, "GraphicType")
    values = _coordinates(graphic)
    if values is None or units not in {"PIXEL", *_UNITS}:
        on_refusal(number, "malformed_graphic", "units, dimensions or number of points are not valid", failure=True)
    elif not all(isfinite(value) for value in values):
        on_refusal(number, "nonfinite_coordinates", "a coordinate is not a number", failure=True)
    elif units in _UNITS:
        on_refusal(number, _UNITS[units], f"graphics in {units} units are not read yet; export in PIXEL units")
    elif kind != "POLYLINE":
        on_refusal(number, _SHAPES.get(kind or "", "unknown_graphic_type"), "this graphic type is not read yet")
    else:
        points = tuple(complex(x, y) for x, y in zip(values[::2], values[1::2], strict=True))
        return Polyline(number, points, filled=text(graphic, "GraphicFilled") == "Y")
    return None


def _coordinates(graphic: Dataset) -> list[float] | None:
    try:
        values = [float(value) for value in graphic.GraphicData]
    except READ_ERRORS:
        return None
    declared, dimensions = integer(graphic, "NumberOfGraphicPoints"), integer(graphic, "GraphicDimensions")
    fits = (
        len(values) % 2 == 0 and len(values) >= 2 and declared in {None, len(values) // 2} and dimensions in {None, 2}
    )
    return values if fits else None


def _text(number: Number, value: str, drawn: Dataset, target: Target) -> DrawnText:
    anchor = numbers(drawn, "AnchorPoint", 2)
    first, last = (
        numbers(drawn, "BoundingBoxTopLeftHandCorner", 2),
        numbers(drawn, "BoundingBoxBottomRightHandCorner", 2),
    )
    box = None
    if first is not None and last is not None and text(drawn, "BoundingBoxAnnotationUnits") == "PIXEL":
        (x0, y0), (x1, y1) = first, last
        box = (min(x0, x1), min(y0, y1), max(x0, x1), max(y0, y1))
    in_pixels = text(drawn, "AnchorPointAnnotationUnits") == "PIXEL"
    return DrawnText(
        number=number,
        value=value,
        target=target,
        group=text(drawn, "GraphicGroupID"),
        anchor=complex(anchor[0], anchor[1]) if anchor is not None and in_pixels else None,
        box=box,
        points=anchor is not None and text(drawn, "AnchorPointVisibility") == "Y",
    )
