"""Which drawn text belongs to which drawn shape, and which points at something of its own."""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from math import inf

from cohort_builder.gsps.items import Item, Key
from cohort_builder.gsps.strokes import Number, Polyline, Shape, Target, box_of, distance
from cohort_builder.gsps.texts import DrawnText
from cohort_builder.types import AnnotationKind

_REACH_PX, _LEADER_PX = 60.0, 15.0
_CLEARLY_NEARER = 1.5
_ON_IT_PX = 5.0
_AXES = {
    AnnotationKind.LINE: 1,
    AnnotationKind.BIDIMENSIONAL: 2,
    AnnotationKind.ELLIPSE: 2,
    AnnotationKind.BOX: 2,
    AnnotationKind.OUTLINE: 2,
}
_REGIONS = frozenset({AnnotationKind.ELLIPSE, AnnotationKind.BOX, AnnotationKind.OUTLINE})


@dataclass(frozen=True, slots=True)
class Caption:
    """The texts of one shape, nearest first: their lengths in mm, their raw values joined (private), and they."""

    values_mm: tuple[float, ...] = ()
    label: str = ""
    texts: tuple[DrawnText, ...] = ()


def captions_of(shapes: Sequence[tuple[Target, Shape]], items: Sequence[Item]) -> Mapping[Number, Caption]:
    """Texts of every shape that has some, by the shape's first member.

    A text belongs to the compound graphic that it is a part of; else to the nearest shape of its graphic group or
    tracking UID, where it has one; else to the nearest of its own item; else, if its item holds no graphics at all, to
    the nearest on the image, within 60 pixels (15 of a shown anchor) and clearly nearer than the next. The words at a
    leader line (an anchor that is shown) belong to a shape only where the anchor lies on it. A line takes the lengths
    of its nearest text that has some, what has two axes those of up to two texts.
    """
    keys = {number: key for item in items for number, key in item.keys.items()}
    claimed: dict[Number, list[tuple[float, DrawnText]]] = defaultdict(list)
    for item in items:
        on_image = [shape for target, shape in shapes if target == item.target]
        for drawn in item.texts:
            owner = _owner(drawn, item, on_image, keys)
            if owner is not None:
                claimed[owner.members[0]].append((_away(drawn, owner), drawn))
    kinds = {shape.members[0]: shape.kind for _, shape in shapes}
    return {number: _caption(found, _AXES.get(kinds[number], 0)) for number, found in claimed.items()}


def points_at_nothing_drawn(drawn: DrawnText, item: Item, refused: Sequence[Polyline]) -> bool:
    """Whether a text that nothing claimed points, in words, at a place where no refused stroke lies."""
    if not drawn.points or drawn.anchor is None or drawn.is_reading or drawn.compound is not None:
        return False
    if drawn.key is not None and drawn.key in item.keys.values():
        return False
    return all(_gap(drawn.anchor, box_of(stroke.points)) > _ON_IT_PX for stroke in refused)


def _owner(drawn: DrawnText, item: Item, on_image: Sequence[Shape], keys: Mapping[Number, Key]) -> Shape | None:
    if drawn.compound is not None:
        candidates = [shape for shape in on_image if drawn.compound in shape.members]
    elif drawn.key is not None:
        candidates = [s for s in on_image if drawn.key in {keys.get(number) for number in s.members}]
    elif drawn.points and not drawn.is_reading:
        candidates = [shape for shape in on_image if _away(drawn, shape, anchor_only=True) <= _ON_IT_PX]
    elif item.has_graphics:
        candidates = [s for s in on_image if any(number[0] == item.number for number in s.members)]
    else:
        return _nearby(drawn, on_image)
    return min(candidates, key=lambda shape: (_away(drawn, shape), shape.members), default=None)


def _nearby(drawn: DrawnText, on_image: Sequence[Shape]) -> Shape | None:
    distances = sorted(
        ((_away(drawn, shape), shape) for shape in on_image), key=lambda pair: (pair[0], pair[1].members)
    )
    if not distances or distances[0][0] > (_LEADER_PX if drawn.points else _REACH_PX):
        return None
    clear = len(distances) == 1 or distances[1][0] >= _CLEARLY_NEARER * max(distances[0][0], 1.0)
    return distances[0][1] if clear else None


def _away(drawn: DrawnText, shape: Shape, *, anchor_only: bool = False) -> float:
    """Pixels from the text's anchor or box to the shape; infinite where the text has no place in the image."""
    places = [] if drawn.anchor is None else [drawn.anchor]
    if drawn.box is not None and not anchor_only:
        left, top, right, bottom = drawn.box
        places += [complex(x, y) for x in (left, (left + right) / 2, right) for y in (top, (top + bottom) / 2, bottom)]
    if shape.kind in _REGIONS:
        box = box_of(shape.points)
        return min((_gap(spot, box) for spot in places), default=inf)
    if shape.kind is AnnotationKind.POINTER:
        return min((abs(spot - shape.points[0]) for spot in places), default=inf)
    return min((distance(spot, segment) for spot in places for segment in shape.lines), default=inf)


def _gap(point: complex, box: tuple[float, float, float, float]) -> float:
    """From a point to a box, 0 inside."""
    left, top, right, bottom = box
    return abs(complex(max(left - point.real, 0, point.real - right), max(top - point.imag, 0, point.imag - bottom)))


def _caption(found: Sequence[tuple[float, DrawnText]], axes: int) -> Caption:
    ordered = [drawn for _, drawn in sorted(found, key=lambda pair: (pair[0], pair[1].number))]
    values: tuple[float, ...] = ()
    for drawn in ordered:
        if not values or len(values) + len(drawn.values_mm) <= axes:
            values += drawn.values_mm
    label = "\n".join(drawn.value for drawn in ordered if drawn.value)
    return Caption(tuple(sorted(values, reverse=True)), label, tuple(ordered))
