"""Which drawn text belongs to which drawn shape."""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from math import inf

from cohort_builder.gsps.items import DrawnText, Item, Target
from cohort_builder.gsps.strokes import Number, Segment, Shape, distance
from cohort_builder.types import AnnotationKind

_REACH_PX = 60.0
_CLEARLY_NEARER = 1.5
_AXES = {AnnotationKind.LINE: 1, AnnotationKind.BIDIMENSIONAL: 2}


@dataclass(frozen=True, slots=True)
class Caption:
    """The texts of one shape: their lengths in mm, their raw values joined (private), and their numbers."""

    values_mm: tuple[float, ...] = ()
    label: str = ""
    members: tuple[Number, ...] = ()


def captions_of(shapes: Sequence[tuple[Target, Shape]], items: Sequence[Item]) -> Mapping[Number, Caption]:
    """Texts of every shape that has some, by the shape's first member.

    A text belongs to the nearest shape of its graphic group, where it has one; else to the nearest of its own item;
    else, if its item holds no graphics at all, to the nearest on the image, which must lie within 60 pixels and be
    clearly nearer than the next. A line takes the lengths of its nearest text that has some, a pair those of up to two
    texts.
    """
    groups = {number: group for item in items for number, group in item.groups.items()}
    claimed: dict[Number, list[tuple[float, DrawnText]]] = defaultdict(list)
    for item in items:
        on_image = [shape for target, shape in shapes if target == item.target]
        for drawn in item.texts:
            owner = _owner(drawn, item, on_image, groups)
            if owner is not None:
                claimed[owner.members[0]].append((_away(drawn, owner), drawn))
    kinds = {shape.members[0]: shape.kind for _, shape in shapes}
    return {number: _caption(found, _AXES.get(kinds[number], 0)) for number, found in claimed.items()}


def _owner(drawn: DrawnText, item: Item, on_image: Sequence[Shape], groups: Mapping[Number, str]) -> Shape | None:
    if drawn.group is not None:
        candidates = [s for s in on_image if drawn.group in {groups.get(number) for number in s.members}]
    elif item.has_graphics:
        candidates = [s for s in on_image if any(number[0] == item.number for number in s.members)]
    else:
        return _nearby(drawn, on_image)
    return min(candidates, key=lambda shape: (_away(drawn, shape), shape.members), default=None)


def _nearby(drawn: DrawnText, on_image: Sequence[Shape]) -> Shape | None:
    distances = sorted((_away(drawn, shape), shape.members, shape) for shape in on_image)
    if not distances or distances[0][0] > _REACH_PX:
        return None
    clear = len(distances) == 1 or distances[1][0] >= _CLEARLY_NEARER * max(distances[0][0], 1.0)
    return distances[0][2] if clear else None


def _away(drawn: DrawnText, shape: Shape) -> float:
    """Pixels from the text's anchor or box to the shape; infinite where the text has no place in the image."""
    ends = zip(shape.points[::2], shape.points[1::2], strict=True)
    segments = [Segment((), start, end) for start, end in ends]
    places = [] if drawn.anchor is None else [drawn.anchor]
    if drawn.box is not None:
        left, top, right, bottom = drawn.box
        places += [complex(x, y) for x in (left, (left + right) / 2, right) for y in (top, (top + bottom) / 2, bottom)]
    return min((distance(place, segment) for place in places for segment in segments), default=inf)


def _caption(found: Sequence[tuple[float, DrawnText]], axes: int) -> Caption:
    ordered = sorted(found, key=lambda pair: (pair[0], pair[1].number))
    values: tuple[float, ...] = ()
    for _, drawn in ordered:
        if not values or len(values) + len(drawn.values_mm) <= axes:
            values += drawn.values_mm
    return Caption(
        values_mm=tuple(sorted(values, reverse=True)),
        label="\n".join(drawn.value for _, drawn in ordered),
        members=tuple(drawn.number for _, drawn in ordered),
    )
