"""Strokes that enclose something, and the small ones that mark a point of a line."""

from __future__ import annotations

from collections.abc import Sequence
from math import ceil

import numpy as np
from numpy.typing import NDArray

from cohort_builder import figures
from cohort_builder.figures import MOST_VERTICES, Region
from cohort_builder.gsps.strokes import Number, Polyline, Refusal, Shape, box_of, with_dots
from cohort_builder.types import AnnotationKind

_SPLINE_STEP_PX, _MOST_STEPS = 2.0, 32
_DOT_FRACTION, _DOT_PX = 0.25, 1.5
_MARKS = frozenset({AnnotationKind.POINTER, AnnotationKind.ELLIPSE, AnnotationKind.BOX})


def region_of(stroke: Polyline) -> Shape | Refusal:
    """Read one stroke that encloses something: CIRCLE, ELLIPSE, INTERPOLATED, or a closed or filled POLYLINE.

    Returns
    -------
    An ``ELLIPSE``, a ``BOX`` (four right angles) or an ``OUTLINE``; or a refusal: ``malformed_graphic``,
    ``open_polyline``, ``many_points``, ``self_crossing_outline``, ``zero_area``.

    """
    members = (stroke.number,)
    if stroke.graphic_type == "CIRCLE":
        return _shape(figures.circle(stroke.points), "ellipse:circle", members)
    if stroke.graphic_type == "ELLIPSE":
        return ellipse(stroke.points, "ellipse", members)
    ring, closed = figures.ring_of(stroke.points)
    if not closed and not stroke.filled:
        return Refusal("open_polyline", members)
    if stroke.graphic_type == "INTERPOLATED":
        curve = _spline(ring) if len(ring) > 2 else ring
        return _shape(figures.outline(curve), "outline:interpolated", members)
    region = figures.polygon(ring)
    is_box = isinstance(region, Region) and region.kind is AnnotationKind.BOX
    return _shape(region, "box" if is_box else "outline", members)


def ellipse(points: Sequence[complex], rule: str, members: tuple[Number, ...]) -> Shape | Refusal:
    """Ellipse of the ends of two axes; the longer comes first."""
    return _shape(figures.ellipse(points), rule, members)


def _shape(region: Region | str, rule: str, members: tuple[Number, ...]) -> Shape | Refusal:
    if isinstance(region, str):
        return Refusal(region, members)
    return Shape(region.kind, region.points, rule, members)


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
