"""Regions: rectangles, circles, ellipses and outlines of any form, and the small ones that mark a point of a line."""

from __future__ import annotations

from collections.abc import Sequence
from math import ceil

import numpy as np
from numpy.typing import NDArray

from cohort_builder.gsps.strokes import (
    SAME_POINT_PX,
    Number,
    Polyline,
    Refusal,
    Shape,
    angle,
    box_of,
    with_dots,
    without_repeats,
)
from cohort_builder.types import AnnotationKind

MOST_VERTICES = 4000
_CHUNK = 256
_STRAIGHT_DEGREES, _RIGHT_DEGREES = 1.0, 2.0
_AXES_DEGREES = 80.0  # of pixels that are not square, the axes of an ellipse need not be quite perpendicular
_LEAST_AREA_PX = 1.0
_SPLINE_STEP_PX, _MOST_STEPS = 2.0, 32
_DOT_FRACTION, _DOT_PX = 0.25, 1.5
_MARKS = frozenset({AnnotationKind.POINTER, AnnotationKind.ELLIPSE, AnnotationKind.BOX})


def region_of(stroke: Polyline) -> Shape | Refusal:
    """Read one stroke that encloses something: CIRCLE, ELLIPSE, INTERPOLATED, or a closed or filled POLYLINE.

    Returns
    -------
    An ``ELLIPSE`` (a circle's second axis is perpendicular to the drawn radius), a ``BOX`` (four right angles) or an
    ``OUTLINE``; or a refusal: ``malformed_graphic``, ``open_polyline``, ``self_crossing_outline``, ``zero_area``.

    """
    members = (stroke.number,)
    if stroke.graphic_type == "CIRCLE":
        return _circle(stroke)
    if stroke.graphic_type == "ELLIPSE":
        return ellipse(stroke.points, "ellipse", members)
    ring = without_repeats(stroke.points)
    closed = len(ring) > 3 and abs(ring[0] - ring[-1]) <= SAME_POINT_PX
    if not closed and not stroke.filled:
        return Refusal("open_polyline", members)
    ring = ring[:-1] if closed else ring
    if len(ring) < 3:
        return Refusal("open_polyline", members)
    if stroke.graphic_type == "INTERPOLATED":
        return _outline(_spline(ring), "outline:interpolated", members)
    corners = _corners(ring)
    if len(corners) == 4 and all(
        abs(angle(corners[i] - corners[i - 1], corners[i - 1] - corners[i - 2]) - 90) < _RIGHT_DEGREES for i in range(4)
    ):
        return Shape(AnnotationKind.BOX, corners, "box", members)
    return _outline(ring, "outline", members)


def ellipse(points: Sequence[complex], rule: str, members: tuple[Number, ...]) -> Shape | Refusal:
    """Ellipse of the ends of two axes that halve each other near perpendicular; the longer comes first."""
    if len(points) != 4:
        return Refusal("malformed_graphic", members)
    one, two = points[1] - points[0], points[3] - points[2]
    if min(abs(one), abs(two)) == 0:
        return Refusal("zero_area", members)
    apart = abs(points[0] + points[1] - points[2] - points[3]) / 2
    if apart > max(1.0, 0.05 * abs(one)) or angle(one, two) < _AXES_DEGREES:
        return Refusal("malformed_graphic", members)
    axes = tuple(points) if abs(one) >= abs(two) else (*points[2:], *points[:2])
    return Shape(AnnotationKind.ELLIPSE, axes, rule, members)


def _circle(stroke: Polyline) -> Shape | Refusal:
    """Circle of its centre and a point on it."""
    if len(stroke.points) != 2:
        return Refusal("malformed_graphic", (stroke.number,))
    centre, radius = stroke.points[0], stroke.points[1] - stroke.points[0]
    ends = (centre - radius, centre + radius, centre - radius * 1j, centre + radius * 1j)
    return ellipse(ends, "ellipse:circle", (stroke.number,))


def _corners(ring: Sequence[complex]) -> tuple[complex, ...]:
    """Vertices of a ring at which it turns."""
    turns = [
        angle(ring[i] - ring[i - 1], ring[(i + 1) % len(ring)] - ring[i]) > _STRAIGHT_DEGREES for i in range(len(ring))
    ]
    return tuple(point for point, turn in zip(ring, turns, strict=True) if turn)


def _outline(ring: Sequence[complex], rule: str, members: tuple[Number, ...]) -> Shape | Refusal:
    vertices = np.array(ring)
    if abs(float((vertices.conj() * np.roll(vertices, -1)).imag.sum())) / 2 < _LEAST_AREA_PX:
        return Refusal("zero_area", members)
    if _crosses_itself(vertices):
        return Refusal("self_crossing_outline", members)
    return Shape(AnnotationKind.OUTLINE, tuple(complex(point) for point in vertices), rule, members)


def _crosses_itself(ring: NDArray[np.complex128]) -> bool:
    """Whether two sides cross; sides that only touch do not: outlines of pixels do that at corners."""
    start, end = ring, np.roll(ring, -1)
    left, right = np.minimum(start.real, end.real), np.maximum(start.real, end.real)
    order = np.argsort(left)
    start, end, left, right = start[order], end[order], left[order], right[order]
    for first in range(0, len(ring), _CHUNK):
        some = slice(first, first + _CHUNK)
        reached = slice(first, int(np.searchsorted(left, right[some].max(), side="right")))
        p, q, a, b = start[some, None], end[some, None], start[reached], end[reached]
        apart = _side(p, q, a) * _side(p, q, b) < 0
        if bool((apart & (_side(a, b, p) * _side(a, b, q) < 0)).any()):
            return True
    return False


def _side(
    start: NDArray[np.complex128], end: NDArray[np.complex128], point: NDArray[np.complex128]
) -> NDArray[np.float64]:
    """Positive on one side of the line, negative on the other; the sign alone, so that a product cannot overflow."""
    result: NDArray[np.float64] = np.sign(((end - start).conj() * (point - start)).imag)
    return result


def _spline(ring: Sequence[complex]) -> tuple[complex, ...]:
    """Closed curve through the points: a centripetal Catmull-Rom spline, in steps of about 2 pixels.

    The standard asks for a curve through the points and leaves open which (PS3.3 C.10.5.1.2). This one makes no loops
    between two points, and goes through each.
    """
    n = len(ring)
    found: list[complex] = []
    for i in range(n):
        points = [ring[i - 1], ring[i], ring[(i + 1) % n], ring[(i + 2) % n]]
        knots = np.concatenate([[0.0], np.cumsum(np.sqrt(np.abs(np.diff(points))))])
        steps = max(1, min(_MOST_STEPS, MOST_VERTICES // n, ceil(abs(points[2] - points[1]) / _SPLINE_STEP_PX)))
        at = knots[1] + (knots[2] - knots[1]) * np.arange(steps) / steps
        found += _catmull_rom(np.array(points), knots, at).tolist()
    return tuple(found)


def _catmull_rom(
    points: NDArray[np.complex128], knots: NDArray[np.float64], at: NDArray[np.float64]
) -> NDArray[np.complex128]:
    """Curve between the middle two of four points at the parameters ``at`` (Barry and Goldman's pyramid)."""
    level = list(points)
    for pairs in (((0, 1), (1, 2), (2, 3)), ((0, 2), (1, 3)), ((1, 2),)):
        level = [
            (one * (knots[j] - at) + two * (at - knots[i])) / (knots[j] - knots[i])
            for one, two, (i, j) in zip(level[:-1], level[1:], pairs, strict=True)
        ]
    result: NDArray[np.complex128] = np.asarray(level[0])
    return result


def put_dots_on(shapes: Sequence[Shape]) -> list[Shape]:
    """Give points, and small circles and squares, that sit on the ends or the middle of a shape to that shape."""
    marks = [shape for shape in shapes if shape.kind in _MARKS]
    owned: dict[int, list[Number]] = {}
    dots: set[tuple[Number, ...]] = set()
    for mark in marks:
        left, top, right, bottom = box_of(mark.points)
        size, centre = max(right - left, bottom - top), complex((left + right) / 2, (top + bottom) / 2)
        owner = next((i for i, shape in enumerate(shapes) if shape is not mark and _marks(centre, size, shape)), None)
        if owner is not None:
            owned.setdefault(owner, []).extend(mark.members)
            dots.add(mark.members)
    kept = [with_dots(shape, owned[i]) if i in owned else shape for i, shape in enumerate(shapes)]
    return [shape for shape, before in zip(kept, shapes, strict=True) if before.members not in dots]


def _marks(centre: complex, size: float, shape: Shape) -> bool:
    left, top, right, bottom = box_of(shape.points)
    if shape.kind is AnnotationKind.POINTER or size > _DOT_FRACTION * max(right - left, bottom - top):
        return False
    places = [*shape.points, complex((left + right) / 2, (top + bottom) / 2)]
    return any(abs(centre - place) <= _DOT_PX for place in places)
