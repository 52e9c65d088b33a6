"""Plane geometry of what is drawn on an image, the same for whatever object it is stored in.

Points are complex numbers, column + row * 1j, in image coordinates. What comes out has the point order of
``Annotation``, so that one thing stored in two objects gives the same points.
"""

from __future__ import annotations

from cmath import phase
from collections.abc import Sequence
from dataclasses import dataclass
from math import degrees

import numpy as np
from numpy.typing import NDArray

from cohort_builder.types import AnnotationKind

SAME_POINT_PX = 0.5
MOST_VERTICES = 4000
MOST_POINTS = 50_000
"""Of one graphic, and of all in one object: whether an outline crosses itself takes the square of its own."""
READ_OUT = frozenset({AnnotationKind.ELLIPSE, AnnotationKind.BOX, AnnotationKind.POINTER})
"""What pixel values are read out with: no lesion where they are, as an outline still may be."""

ACROSS_FRACTION = 0.03
"""Of its length a diameter goes on beyond another that crosses it; what ends nearer, or misses it so, ends on it."""
AXES_DEGREES = 65.0
"""Least angle between two axes that the writer itself says belong to one thing."""

_CHUNK = 256
_STRAIGHT_DEGREES, _RIGHT_DEGREES = 1.0, 2.0
_ELLIPSE_DEGREES = 80.0  # of pixels that are not square, the axes of an ellipse need not be quite perpendicular
_SAME_CENTRE_PX, _SAME_CENTRE_FRACTION = 1.0, 0.05
_LEAST_AREA_PX = 1.0


@dataclass(frozen=True, slots=True)
class Region:
    """An ``ELLIPSE``, a ``BOX`` or an ``OUTLINE``, in the point order of ``Annotation``."""

    kind: AnnotationKind
    points: tuple[complex, ...]


def circle(points: Sequence[complex]) -> Region | str:
    """Circle of its centre and a point on it: the ends of its horizontal, then of its vertical diameter.

    Which point of it is stored says nothing; and where pixels are not square these are the axes of the ellipse that it
    is in mm. Reasons of a refusal: ``malformed_graphic``, ``zero_area``.
    """
    if len(points) != 2:
        return "malformed_graphic"
    centre, radius = points[0], abs(points[1] - points[0])
    return ellipse([centre + radius * step for step in (-1, 1, -1j, 1j)])


def ellipse(points: Sequence[complex]) -> Region | str:
    """Ellipse of the ends of two axes that halve each other near perpendicular; the longer comes first.

    Reasons of a refusal: ``malformed_graphic``, ``zero_area``.
    """
    if len(points) != 4:
        return "malformed_graphic"
    one, two = points[1] - points[0], points[3] - points[2]
    if min(abs(one), abs(two)) <= SAME_POINT_PX:
        return "zero_area"
    apart = abs(points[0] + points[1] - points[2] - points[3]) / 2
    if (
        apart > max(_SAME_CENTRE_PX, _SAME_CENTRE_FRACTION * max(abs(one), abs(two)))
        or angle(one, two) < _ELLIPSE_DEGREES
    ):
        return "malformed_graphic"
    return Region(AnnotationKind.ELLIPSE, in_order_of_length(points[:2], points[2:]))


def ring_of(points: Sequence[complex]) -> tuple[tuple[complex, ...], bool]:
    """Vertices of a polyline, none repeated, and whether it returns to its start (within 0.5 pixels)."""
    ring = without_repeats(points)
    closed = len(ring) > 2 and abs(ring[0] - ring[-1]) <= SAME_POINT_PX
    return (ring[:-1] if closed else ring), closed


def polygon(ring: Sequence[complex]) -> Region | str:
    """What a closed ring encloses: a box if it turns at four right angles (vertices on its sides are left out).

    Reasons of a refusal: those of ``outline``.
    """
    found = outline(ring)
    if isinstance(found, str):
        return found
    corners = _corners(ring)
    sides = [corners[i] - corners[i - 1] for i in range(len(corners))]
    if len(sides) == 4 and all(abs(angle(sides[i], sides[i - 1]) - 90) < _RIGHT_DEGREES for i in range(4)):
        return Region(AnnotationKind.BOX, corners)
    return found


def outline(ring: Sequence[complex]) -> Region | str:
    """Outline of any form; refused are ``open_polyline``, ``many_points``, ``self_crossing_outline``, ``zero_area``."""
    if len(ring) < 3:
        return "open_polyline"
    if len(ring) > MOST_VERTICES:
        return "many_points"
    vertices = np.array(ring)
    if _crosses_itself(vertices):
        return "self_crossing_outline"
    around = vertices - vertices[0]
    if abs(float((around.conj() * np.roll(around, -1)).imag.sum())) / 2 < _LEAST_AREA_PX:
        return "zero_area"
    return Region(AnnotationKind.OUTLINE, tuple(ring))


def in_order_of_length(one: Sequence[complex], other: Sequence[complex]) -> tuple[complex, complex, complex, complex]:
    """Return two axes as one tuple, the longer (in pixels) first; as given where they are equal."""
    longer, shorter = (one, other) if abs(one[1] - one[0]) >= abs(other[1] - other[0]) else (other, one)
    return longer[0], longer[1], shorter[0], shorter[1]


def meeting_of(one: Sequence[complex], other: Sequence[complex]) -> tuple[float, float] | None:
    """Where two lines, drawn on to infinity, meet: as fractions of the one and of the other; None if parallel."""
    a, b = one[1] - one[0], other[1] - other[0]
    area = (a.conjugate() * b).imag
    if area == 0:
        return None
    between = other[0] - one[0]
    return (between.conjugate() * b).imag / area, (between.conjugate() * a).imag / area


def angle(one: complex, two: complex) -> float:
    """Angle between two undirected lines, 0 to 90 degrees."""
    if one == 0 or two == 0:
        return 0.0
    turn = abs(degrees(phase(one / two)))
    return min(turn, 180 - turn)


def without_repeats(points: Sequence[complex]) -> tuple[complex, ...]:
    """Points without those that are equal to the one before."""
    kept: list[complex] = []
    for point in points:
        if not kept or abs(point - kept[-1]) > 1e-6:
            kept.append(point)
    return tuple(kept)


def _corners(ring: Sequence[complex]) -> tuple[complex, ...]:
    """Vertices of a ring at which it turns."""
    turns = [
        angle(ring[i] - ring[i - 1], ring[(i + 1) % len(ring)] - ring[i]) > _STRAIGHT_DEGREES for i in range(len(ring))
    ]
    return tuple(point for point, turn in zip(ring, turns, strict=True) if turn)


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
