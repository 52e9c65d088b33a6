"""The items of GraphicAnnotationSequence (PS3.3 C.10.5) as strokes and texts on one image each."""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass, field, replace
from math import isfinite
from typing import TYPE_CHECKING

from cohort_builder.gsps.compounds import Compound, read_compound
from cohort_builder.gsps.regions import MOST_VERTICES
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
_MOST_POINTS = 50_000  # of all graphics together: to look whether an outline crosses itself takes the square of its own


OnRefusal = Callable[[Sequence[int], str], None]
"""Called with the (item, object) numbers of what cannot be read, and the reason."""


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
    read = (reader.item(i, annotation) for i, annotation in enumerate(items, start=1))
    return [item for item in read if item is not None]


class _ItemReader:
    """Reads the items of one presentation state."""

    def __init__(self, ds: Dataset, origin: PixelOrigin, on_refusal: OnRefusal) -> None:
        self._refuse = on_refusal
        self._spaces = Spaces(ds, origin)
        self._pixels = None if origin is PixelOrigin.CORNER else f"{origin}_origin"
        self._converted: dict[Number, str] = {}
        self._references, self._series_of = _relationship(ds)
        self._points_left = _MOST_POINTS

    def item(self, i: int, annotation: Dataset) -> Item | None:
        target = self._target(annotation)
        if isinstance(target, str):
            self._refuse((i,), target)
            return None
        graphics = [
            (text(graphic, _INSTANCE_ID), self._stroke((i, j), graphic, target), _key_of(graphic))
            for j, graphic in enumerate(sequence(annotation, "GraphicObjectSequence"), start=1)
        ]
        compounds = [
            ((i, COMPOUND + j), compound)
            for j, compound in enumerate(sequence(annotation, "CompoundGraphicSequence"), start=1)
        ]
        renderings: dict[str | None, list[Polyline]] = defaultdict(list)
        for own_id, stroke, _ in graphics:
            if isinstance(stroke, Polyline):
                renderings[own_id].append(stroke)
        shapes, of_compound = self._compounds(compounds, target, renderings)
        keys = {number: key for number, compound in compounds if (key := _key_of(compound)) is not None}
        strokes = []
        for own_id, stroke, key in graphics:
            if own_id in of_compound:
                continue
            if isinstance(stroke, Refusal):
                self._refuse(stroke.members[0], stroke.reason)
                continue
            strokes.append(stroke)
            if key is not None:
                keys[stroke.number] = key
        texts = [
            replace(self._text((i, TEXT + j), drawn, target), compound=of_compound.get(text(drawn, _INSTANCE_ID)))
            for j, drawn in enumerate(sequence(annotation, "TextObjectSequence"), start=1)
        ]
        return Item(
            number=i,
            target=target,
            layer=text(annotation, "GraphicLayer"),
            strokes=tuple(strokes),
            shapes=tuple(shapes),
            texts=tuple(one for one in texts if one.value or one.points),
            keys=keys,
            converted=self._converted,
            has_graphics=bool(graphics or compounds),
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

    def _compounds(
        self,
        compounds: Iterable[tuple[Number, Dataset]],
        target: Target,
        renderings: Mapping[str | None, Sequence[Polyline]],
    ) -> tuple[list[Shape], dict[str | None, Number]]:
        """Shapes of the compound graphics; and by instance ID, the numbers of those that stand for their rendering."""
        shapes: list[Shape] = []
        of_compound: dict[str | None, Number] = {}
        for number, item in compounds:
            units, own_id = text(item, "CompoundGraphicUnits"), text(item, _INSTANCE_ID)
            points, space = self._points(number, item, units, target), self._spaces.of(units, target)
            if isinstance(points, Refusal) or space is None:
                self._refuse(number, points.reason if isinstance(points, Refusal) else "malformed_graphic")
                continue  # its simple rendering may be whole
            kind = text(item, "CompoundGraphicType") or ""
            simple = renderings.get(own_id, ()) if own_id is not None else ()
            found = read_compound(Compound(number, kind, points, *_rotation(item, space)), simple)
            if own_id is not None:
                of_compound[own_id] = number
            if isinstance(found, Refusal):
                self._refuse(number, found.reason)
            else:
                shapes.append(found)
        return shapes, of_compound

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
