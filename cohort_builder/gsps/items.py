"""The items of GraphicAnnotationSequence (PS3.3 C.10.5) as strokes and texts on one image each."""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, replace
from math import isfinite
from typing import TYPE_CHECKING, Protocol

from cohort_builder.figures import MOST_POINTS, MOST_VERTICES
from cohort_builder.gsps.compounds import Compound, read_compound
from cohort_builder.gsps.reasons import FAILURES
from cohort_builder.gsps.strokes import COMPOUND, TEXT, Number, Polyline, Refusal, Shape, Target
from cohort_builder.gsps.texts import DrawnText
from cohort_builder.gsps.units import PixelOrigin, Space, Spaces, frames_of
from cohort_builder.pacs.elements import (
    READ_ERRORS,
    integer,
    is_uid,
    numbers,
    sequence,
    text,
    value_of,
    values_in,
)

if TYPE_CHECKING:
    from pydicom.dataset import Dataset

Key = tuple[str, str]
"""What joins strokes and texts, and its value: "group" (Graphic Group ID) or "tracking" (Tracking UID)."""

_CT_IMAGE = "1.2.840.10008.5.1.4.1.1.2"
_GRAPHICS = frozenset({"POLYLINE", "INTERPOLATED", "CIRCLE", "ELLIPSE", "POINT"})
_INSTANCE_ID = "CompoundGraphicInstanceID"
_MOST_OBJECTS = 2000


class OnRefusal(Protocol):
    """Called with the (item, object) number of what cannot be read, the reason, and all its ``members`` if several."""

    def __call__(self, number: Sequence[int], reason: str, *, members: Sequence[Number] = ()) -> None:
        """Record it."""


@dataclass(frozen=True, slots=True)
class Item:
    """One readable item; ``keys`` join its objects with others, by the strongest key that each has.

    ``shapes`` are its compound graphics, whose simple renderings are not among ``strokes``. ``converted`` says by what
    the coordinates of an object were brought to the corner origin: "display", "center_origin" or "one_based_origin".
    ``has_graphics`` is True also where none of its graphics could be read.
    """

    number: int
    target: Target
    layer: str | None
    strokes: tuple[Polyline, ...] = ()
    shapes: tuple[Shape, ...] = ()
    texts: tuple[DrawnText, ...] = ()
    keys: Mapping[Number, Key] = field(default_factory=dict)
    converted: Mapping[Number, str] = field(default_factory=dict)
    has_graphics: bool = False


def read_items(ds: Dataset, origin: PixelOrigin, *, on_refusal: OnRefusal) -> list[Item]:
    """Read the items of a presentation state that lie on one image, or one frame, each.

    Refused are: ``too_many_graphics`` (the whole object), ``many_points``, ``no_reference``, ``several_images`` (also
    where an item has no reference of its own and the object has several), ``several_frames``, ``no_such_frame``,
    ``no_displayed_area``, ``matrix_units``, ``unknown_graphic_type``, ``nonfinite_coordinates``, ``malformed_graphic``
    and what ``read_compound`` refuses.
    """
    items = sequence(ds, "GraphicAnnotationSequence")
    kinds = ("GraphicObjectSequence", "TextObjectSequence", "CompoundGraphicSequence")
    if len(items) > _MOST_OBJECTS or sum(len(sequence(item, k)) for item in items for k in kinds) > _MOST_OBJECTS:
        on_refusal((), "too_many_graphics")
        return []
    reader = _ItemReader(ds, origin, on_refusal)
    found = (reader.objects(i, annotation) for i, annotation in enumerate(items, start=1))
    return reader.items([objects for objects in found if objects is not None])


_Instance = tuple[int, str]
"""A compound graphic: the item that holds it, and its Compound Graphic Instance ID (other items may count anew)."""


@dataclass(frozen=True, slots=True)
class _Objects:
    """What one item holds: simple graphics as instance ID, stroke and key, compound graphics by their numbers."""

    number: int
    target: Target
    annotation: Dataset
    graphics: Sequence[tuple[str | None, Polyline | Refusal, Key | None]]
    compounds: Sequence[tuple[Number, Dataset]]


class _ItemReader:
    """Reads the items of one presentation state."""

    def __init__(self, ds: Dataset, origin: PixelOrigin, on_refusal: OnRefusal) -> None:
        self._refuse = on_refusal
        self._spaces = Spaces(ds, origin)
        self._pixels = None if origin is PixelOrigin.CORNER else f"{origin}_origin"
        self._converted: dict[Number, str] = {}
        self._references, self._series_of = _relationship(ds)
        self._points_left = MOST_POINTS
        self._holders: dict[tuple[Target, str | None], set[int]] = defaultdict(set)
        self._read: dict[_Instance | None, Number] = {}

    def objects(self, i: int, annotation: Dataset) -> _Objects | None:
        """What stands in one item; None where it is not on one image."""
        target = self._target(annotation)
        if isinstance(target, str):
            self._refuse((i,), target, members=_numbers_of(i, annotation))
            return None
        graphics = [
            (text(graphic, _INSTANCE_ID), self._stroke((i, j), graphic, target), _key_of(graphic))
            for j, graphic in enumerate(sequence(annotation, "GraphicObjectSequence"), start=1)
        ]
        compounds = [
            ((i, COMPOUND + j), compound)
            for j, compound in enumerate(sequence(annotation, "CompoundGraphicSequence"), start=1)
        ]
        return _Objects(i, target, annotation, graphics, compounds)

    def items(self, found: Sequence[_Objects]) -> list[Item]:
        """Items without the simple renderings of compound graphics, unless these are damaged.

        A rendering stands in the item of its compound graphic, or in another on the same image.
        """
        for one in found:
            for _, compound in one.compounds:
                self._holders[one.target, text(compound, _INSTANCE_ID)].add(one.number)
        renderings: dict[_Instance | None, list[Polyline]] = defaultdict(list)
        for one in found:
            for own_id, stroke, _ in one.graphics:
                if isinstance(stroke, Polyline):
                    renderings[self._instance(one, own_id)].append(stroke)
        shapes = [self._compounds(one, renderings) for one in found]
        return [self._item(one, read) for one, read in zip(found, shapes, strict=True)]

    def _instance(self, one: _Objects, own_id: str | None) -> _Instance | None:
        """The compound graphic with that ID in an item, else in the only item of the image that has one."""
        items = self._holders.get((one.target, own_id), set())
        if own_id is None or (one.number not in items and len(items) != 1):
            return None
        return one.number if one.number in items else min(items), own_id

    def _item(self, one: _Objects, shapes: Sequence[Shape]) -> Item:
        keys = {number: key for number, compound in one.compounds if (key := _key_of(compound)) is not None}
        strokes = []
        for own_id, stroke, key in one.graphics:
            if self._instance(one, own_id) in self._read:
                continue
            if isinstance(stroke, Refusal):
                self._refuse(stroke.members[0], stroke.reason)
                continue
            strokes.append(stroke)
            if key is not None:
                keys[stroke.number] = key
        texts = [
            replace(
                self._text((one.number, TEXT + j), drawn, one.target),
                compound=self._read.get(self._instance(one, text(drawn, _INSTANCE_ID))),
            )
            for j, drawn in enumerate(sequence(one.annotation, "TextObjectSequence"), start=1)
        ]
        return Item(
            number=one.number,
            target=one.target,
            layer=text(one.annotation, "GraphicLayer"),
            strokes=tuple(strokes),
            shapes=tuple(shapes),
            texts=tuple(drawn for drawn in texts if drawn.value or drawn.points),
            keys=keys,
            converted=self._converted,
            has_graphics=bool(one.graphics or one.compounds),
        )

    def _target(self, annotation: Dataset) -> Target | str:
        """The image, or the reason why there is none."""
        references = sequence(annotation, "ReferencedImageSequence") or self._references
        named = [text(reference, "ReferencedSOPInstanceUID") for reference in references]
        if not named or not all(is_uid(uid) for uid in named):
            return "no_reference"
        if len(set(named)) > 1:
            return "several_images"
        uid = named[0] or ""
        frames = sorted({frame for reference in references for frame in frames_of(reference)})
        if len(frames) > 1:
            return "several_frames"
        frame = frames[0] if frames else None
        if any(text(reference, "ReferencedSOPClassUID") == _CT_IMAGE for reference in references):
            frame = None if frame == 1 else frame  # some writers name the only frame there is
            if frame is not None:
                return "no_such_frame"
        if frame is not None and frame < 1:
            return "no_such_frame"
        return Target(uid, self._series_of.get(uid, ""), frame)

    def _compounds(self, one: _Objects, renderings: Mapping[_Instance | None, Sequence[Polyline]]) -> list[Shape]:
        """Shapes of the compound graphics of an item."""
        shapes: list[Shape] = []
        for number, item in one.compounds:
            units, own_id = text(item, "CompoundGraphicUnits"), text(item, _INSTANCE_ID)
            instance = None if own_id is None else (one.number, own_id)
            points, space = self._points(number, item, units, one.target), self._spaces.of(units, one.target)
            found: Shape | Refusal = Refusal("malformed_graphic", (number,))
            if isinstance(points, Refusal):
                found = points
            elif space is not None:
                kind = text(item, "CompoundGraphicType") or ""
                simple = renderings.get(instance, ()) if instance is not None else ()
                found = read_compound(Compound(number, kind, points, *_rotation(item, space)), simple)
            if isinstance(found, Shape):
                shapes.append(found)
            else:
                self._refuse(number, found.reason)
            is_damaged = isinstance(points, Refusal) or (isinstance(found, Refusal) and found.reason in FAILURES)
            if instance is not None and not is_damaged:  # of a damaged one, the simple rendering may be whole
                self._read[instance] = number
        return shapes

    def _stroke(self, number: Number, graphic: Dataset, target: Target) -> Polyline | Refusal:
        points = self._points(number, graphic, text(graphic, "GraphicAnnotationUnits"), target)
        kind = text(graphic, "GraphicType") or ""
        if isinstance(points, Refusal):
            return points
        if kind not in _GRAPHICS:
            return Refusal("unknown_graphic_type", (number,))
        return Polyline(number, points, text(graphic, "GraphicFilled") == "Y", kind)

    def _points(
        self, number: Number, graphic: Dataset, units: str | None, target: Target
    ) -> tuple[complex, ...] | Refusal:
        """Graphic Data in image coordinates."""
        if (integer(graphic, "NumberOfGraphicPoints") or 0) > MOST_VERTICES:
            return Refusal("many_points", (number,))
        values, space = _coordinates(graphic), self._spaces.of(units, target)
        reason = None
        if values is None or units not in {"PIXEL", "DISPLAY", "MATRIX"}:
            reason = "malformed_graphic"
        elif not all(isfinite(value) for value in values):
            reason = "nonfinite_coordinates"
        elif space is None:
            reason = "matrix_units" if units == "MATRIX" else "no_displayed_area"
        elif len(values) // 2 > self._points_left:
            reason = "many_points"
        if reason is not None or values is None or space is None:
            return Refusal(reason or "malformed_graphic", (number,))
        self._points_left -= len(values) // 2
        by = "display" if units == "DISPLAY" else self._pixels
        if by is not None:
            self._converted[number] = by
        return tuple(space(complex(x, y)) for x, y in zip(values[::2], values[1::2], strict=True))

    def _text(self, number: Number, drawn: Dataset, target: Target) -> DrawnText:
        boxed = self._spaces.of(text(drawn, "BoundingBoxAnnotationUnits"), target)
        anchored = self._spaces.of(text(drawn, "AnchorPointAnnotationUnits"), target)
        anchor = numbers(drawn, "AnchorPoint", 2)
        corners = [numbers(drawn, f"BoundingBox{c}HandCorner", 2) for c in ("TopLeft", "BottomRight")]
        box = None
        if boxed is not None and None not in corners:
            first, last = (boxed(complex(*corner)) for corner in corners if corner is not None)
            (left, right), (top, bottom) = sorted((first.real, last.real)), sorted((first.imag, last.imag))
            box = (left, top, right, bottom)
        return DrawnText(
            number=number,
            value=text(drawn, "UnformattedTextValue") or "",
            target=target,
            key=_key_of(drawn),
            anchor=anchored(complex(*anchor)) if anchor is not None and anchored is not None else None,
            box=box,
            points=anchor is not None and anchored is not None and text(drawn, "AnchorPointVisibility") == "Y",
        )


def _relationship(ds: Dataset) -> tuple[list[Dataset], dict[str, str]]:
    """The image references of the object (C.11.11; of a blending one, C.11.14), and the series of their images."""
    references, series_of = [], {}
    for holder in (ds, *sequence(ds, "BlendingSequence")):
        for series in sequence(holder, "ReferencedSeriesSequence"):
            for image in sequence(series, "ReferencedImageSequence"):
                references.append(image)
                series_of[text(image, "ReferencedSOPInstanceUID") or ""] = text(series, "SeriesInstanceUID") or ""
    return references, series_of


def _numbers_of(i: int, annotation: Dataset) -> list[Number]:
    """Number all graphics of an item."""
    kinds = (("GraphicObjectSequence", 0), ("CompoundGraphicSequence", COMPOUND))
    return [(i, first + j) for kind, first in kinds for j in range(1, len(sequence(annotation, kind)) + 1)]


def _key_of(graphic: Dataset) -> Key | None:
    """The strongest key that joins an object with others, where it has one."""
    for kind, keyword in (("group", "GraphicGroupID"), ("tracking", "TrackingUID")):
        value = text(graphic, keyword)
        if value is not None:
            return kind, value
    return None


def _rotation(item: Dataset, space: Space) -> tuple[float, complex | None]:
    """Angle in degrees, counterclockwise in the image, and the point to turn about (C.10.5.1.3.2)."""
    turn = (numbers(item, "RotationAngle", 1) or (0.0,))[0]
    point = numbers(item, "RotationPoint", 2)
    return -turn if space.flipped else turn, None if point is None else space(complex(*point))


def _coordinates(graphic: Dataset) -> list[float] | None:
    try:
        values = [float(value) for value in values_in(value_of(graphic, "GraphicData"))]
    except READ_ERRORS:
        return None
    declared, dimensions = integer(graphic, "NumberOfGraphicPoints"), integer(graphic, "GraphicDimensions")
    fits = (
        len(values) % 2 == 0 and len(values) >= 2 and declared in {None, len(values) // 2} and dimensions in {None, 2}
    )
    return values if fits else None
