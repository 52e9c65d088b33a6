"""What is drawn for the reader of an image and not on a lesion: frames of texts, their leader lines, block arrows."""

from __future__ import annotations

from collections.abc import Iterable, Sequence

from cohort_builder.gsps.strokes import Number, Shape, Target, box_of, distance_to_box
from cohort_builder.gsps.texts import DrawnText
from cohort_builder.types import AnnotationKind

_REGIONS = frozenset({AnnotationKind.ELLIPSE, AnnotationKind.BOX, AnnotationKind.OUTLINE})
_TEXT_INSIDE, _FRAME_FILLED = 0.5, 0.25
_TOUCHES_PX = 2.0
_ARROW_CORNERS = 7
_SYMMETRIC_PX, _SYMMETRIC_FRACTION = 1.0, 0.05
_HEAD_WIDER, _BARBS_LEVEL_FRACTION = 1.25, 0.35

Box = tuple[float, float, float, float]


def labels_among(shapes: Iterable[tuple[Target, Shape]], texts: Sequence[DrawnText]) -> dict[Number, str]:
    """Shapes that belong to a text or point at something, by their first member, and the reason that says so.

    ``label_frame``: a region whose box lies on that of a text, which fills a quarter of it or more. ``leader_line``: a
    line without ticks that ends within 2 pixels of a frame, or of the box of a text of words. ``block_arrow``: an
    outline of seven corners with the symmetry of an arrow.
    """
    shapes = list(shapes)
    reasons: dict[Number, str] = {}
    ends: dict[Target, list[Box]] = {}
    for drawn in texts:
        if drawn.box is not None and drawn.value.strip() and not drawn.is_reading:
            ends.setdefault(drawn.target, []).append(drawn.box)
    for target, shape in shapes:
        if shape.kind not in _REGIONS:
            continue
        frame = box_of(shape.points)
        if any(_frames(frame, drawn.box) for drawn in texts if drawn.target == target and drawn.box is not None):
            reasons[shape.members[0]] = "label_frame"
            ends.setdefault(target, []).append(frame)
        elif shape.kind is AnnotationKind.OUTLINE and _is_block_arrow(shape.points):
            reasons[shape.members[0]] = "block_arrow"
    for target, shape in shapes:
        if shape.kind is AnnotationKind.LINE and any(_leads_to(shape, box) for box in ends.get(target, ())):
            reasons[shape.members[0]] = "leader_line"
    return reasons


def _frames(frame: Box, text: Box) -> bool:
    """Whether a region is the frame of a text: not one that is drawn round a lesion and has a text somewhere in it."""
    width, height = (max(0.0, min(frame[i + 2], text[i + 2]) - max(frame[i], text[i])) for i in (0, 1))
    common = width * height
    return common > 0 and common >= _TEXT_INSIDE * _area(text) and common >= _FRAME_FILLED * _area(frame)


def _area(box: Box) -> float:
    return (box[2] - box[0]) * (box[3] - box[1])


def _leads_to(line: Shape, box: Box) -> bool:
    """Whether one end of a line, and not the other, is at a box; a line with ticks or caps measures."""
    near, far = sorted(distance_to_box(end, box) for end in line.points)
    return "+" not in line.rule and near <= _TOUCHES_PX < far


def _is_block_arrow(ring: Sequence[complex]) -> bool:
    """Whether a ring runs tip, barb, notch, tail, tail, notch, barb, each the mirror image of its counterpart."""
    if len(ring) != _ARROW_CORNERS:
        return False
    return any(_is_arrow_from(*ring[tip:], *ring[:tip]) for tip in range(_ARROW_CORNERS))


def _is_arrow_from(tip: complex, *others: complex) -> bool:
    pairs = list(zip(others[:3], others[:2:-1], strict=True))  # barbs, notches, tails
    axis = sum(pairs[2]) / 2 - tip
    length = abs(axis)
    if length == 0:
        return False
    seen = [((one - tip) / (axis / length), (two - tip) / (axis / length)) for one, two in pairs]
    slack = max(_SYMMETRIC_PX, _SYMMETRIC_FRACTION * length)
    (barb, _), (notch, _), (tail, _) = seen
    return (
        all(abs(one - two.conjugate()) <= slack and one.imag * two.imag < 0 for one, two in seen)
        and abs(barb.imag) >= _HEAD_WIDER * max(abs(notch.imag), abs(tail.imag))
        and abs(barb.real - notch.real) <= _BARBS_LEVEL_FRACTION * length
        and 0 < notch.real < tail.real
    )
