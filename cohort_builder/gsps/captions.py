"""Which drawn text belongs to which drawn shape, and which points at something of its own."""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from math import inf

from cohort_builder.figures import READ_OUT
from cohort_builder.gsps.items import Item, Key
from cohort_builder.gsps.strokes import Number, Polyline, Shape, Target, box_of, distance, distance_to_box
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
_STRAIGHT = frozenset({AnnotationKind.LINE, AnnotationKind.BIDIMENSIONAL})


@dataclass(frozen=True, slots=True)
class Caption:
    """The texts of one shape, nearest first: their lengths in mm, their raw values joined (private), and they.

    ``others`` are texts of tools that draw several lines (an angle, a leg length), which may speak of this one too.
    """

    values_mm: tuple[float, ...] = ()
    label: str = ""
    texts: tuple[DrawnText, ...] = ()
    others: tuple[DrawnText, ...] = ()

    @property
    def is_density(self) -> bool:
        """Whether one of the texts reads out pixel values."""
        return any(drawn.is_density for drawn in self.texts)

    def refusal(self, kind: AnnotationKind) -> str | None:
        """Why a shape of that kind is no lesion, as far as the texts say it: the tool they name, or a density.

        An angle is made of lines that have no length written beside them, and a region goes with any angle.
        """
        tools = [tool for drawn in self.texts if (tool := drawn.tool) is not None and tool != "angle"]
        if kind in _STRAIGHT:
            bare = not self.values_mm
            spoken = [drawn.tool for drawn in (*self.texts, *self.others)]
            tools += [tool for tool in spoken if tool is not None and (bare or tool != "angle")]
            return tools[0] if tools else "density_roi" if self.is_density and bare else None
        return tools[0] if tools else "density_roi" if self.is_density and kind in READ_OUT else None


def captions_of(
    shapes: Sequence[tuple[Target, Shape]], items: Sequence[Item], refused: Mapping[Target, Sequence[Polyline]]
) -> dict[Number, Caption]:
    """Texts of every shape that has some, by the shape's first member.

    A text belongs to the compound graphic that it is a part of; else to the nearest shape of its graphic group or
    tracking UID, where it has one; else to the nearest of its own item; else, if its item holds no graphics at all, to
    the nearest on the image, within 60 pixels (15 of a shown anchor) and clearly nearer than the next, unless one of
    the ``refused`` strokes is nearer. The words at a leader line (an anchor that is shown) belong to a shape only where
    the anchor lies on it. A line takes the first size of its nearest text that has one, what has two axes up to two
    lengths. The text of a tool that draws several lines is heard at each shape that it may belong to.
    """
    keys = {number: key for item in items for number, key in item.keys.items()}
    claimed: dict[Number, list[tuple[float, DrawnText]]] = defaultdict(list)
    heard: dict[Number, list[DrawnText]] = defaultdict(list)
    for item in items:
        on_image = [shape for target, shape in shapes if target == item.target]
        for drawn in item.texts:
            candidates = _candidates(drawn, item, on_image, keys)
            if candidates is not None:
                owner = min(candidates, key=lambda s: (_away(drawn, s), s.members), default=None)
            else:
                candidates = [] if _is_explained(drawn, on_image, refused.get(item.target, ())) else on_image
                owner = _nearby(drawn, candidates)
            if owner is not None:
                claimed[owner.members[0]].append((_away(drawn, owner), drawn))
            for shape in candidates if drawn.is_of_several_lines else ():
                heard[shape.members[0]].append(drawn)
    kinds = {shape.members[0]: shape.kind for _, shape in shapes}
    return {
        number: _caption(claimed.get(number, ()), _AXES.get(kinds[number], 0), heard.get(number, ()))
        for number in {*claimed, *heard}
    }


def points_at_nothing_drawn(drawn: DrawnText, item: Item, refused: Sequence[Polyline]) -> bool:
    """Whether a text that nothing claimed points, in words, at a place where no refused stroke lies."""
    if not drawn.points or drawn.anchor is None or drawn.is_reading or drawn.compound is not None:
        return False
    if drawn.key is not None and drawn.key in item.keys.values():
        return False
    return all(distance_to_box(drawn.anchor, box_of(stroke.points)) > _ON_IT_PX for stroke in refused)


def _candidates(
    drawn: DrawnText, item: Item, on_image: Sequence[Shape], keys: Mapping[Number, Key]
) -> list[Shape] | None:
    """Shapes that the object says a text belongs with; None where it says nothing."""
    if drawn.compound is not None:
        return [shape for shape in on_image if drawn.compound in shape.members]
    if drawn.key is not None:
        return [s for s in on_image if drawn.key in {keys.get(number) for number in s.members}]
    if drawn.points and not drawn.is_reading:
        return [shape for shape in on_image if _away(drawn, shape, anchor_only=True) <= _ON_IT_PX]
    if item.has_graphics:
        return [s for s in on_image if any(number[0] == item.number for number in s.members)]
    return None


def _is_explained(drawn: DrawnText, on_image: Sequence[Shape], refused: Sequence[Polyline]) -> bool:
    """Whether what was refused already is nearer to a text than anything that is read."""
    nearest = min((distance_to_box(p, box_of(s.points)) for p in _places(drawn) for s in refused), default=inf)
    return nearest <= min((_away(drawn, shape) for shape in on_image), default=inf) and nearest < inf


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
    places = _places(drawn)
    if anchor_only:
        places = [] if drawn.anchor is None else [drawn.anchor]
    if shape.kind in _REGIONS:
        box = box_of(shape.points)
        return min((distance_to_box(spot, box) for spot in places), default=inf)
    if shape.kind is AnnotationKind.POINTER:
        return min((abs(spot - shape.points[0]) for spot in places), default=inf)
    return min((distance(spot, segment) for spot in places for segment in shape.lines), default=inf)


def _places(drawn: DrawnText) -> list[complex]:
    """The anchor, and the corners, sides and middle of the box."""
    places = [] if drawn.anchor is None else [drawn.anchor]
    if drawn.box is not None:
        left, top, right, bottom = drawn.box
        places += [complex(x, y) for x in (left, (left + right) / 2, right) for y in (top, (top + bottom) / 2, bottom)]
    return places


def _caption(found: Sequence[tuple[float, DrawnText]], axes: int, heard: Sequence[DrawnText]) -> Caption:
    ordered = [drawn for _, drawn in sorted(found, key=lambda pair: (pair[0], pair[1].number))]
    values: tuple[float, ...] = ()
    for size in (size for drawn in ordered for size in drawn.sizes_mm):
        if not values or len(values) + len(size) <= axes:
            values += size
    label = "\n".join(drawn.value for drawn in ordered if drawn.value)
    others = tuple(drawn for drawn in heard if drawn not in ordered)
    return Caption(tuple(sorted(values, reverse=True)), label, tuple(ordered), others)
