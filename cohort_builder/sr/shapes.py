"""Spatial coordinates of a report (PS3.3 C.18.6) to the kinds of ``Annotation``. Points are (column, row) complex."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from itertools import pairwise

from cohort_builder.gsps.strokes import SAME_POINT_PX, angle
from cohort_builder.types import AnnotationKind

_CLOSED_PX = 0.01  # closed polylines repeat their first point; a hand-drawn one that nearly closes is not told apart
_SAME_CENTRE = 0.05
_RIGHT_ANGLE_DEGREES = 3.0


@dataclass(frozen=True, slots=True)
class Shape:
    """What was drawn, in the point order of ``Annotation``; ``implied`` where the standard leaves a part of it open."""

    kind: AnnotationKind
    points: tuple[complex, ...]
    implied: bool = False


def shape_of(graphic_type: str, points: Sequence[complex], *, bounds_region: bool, rectangle: bool) -> Shape | str:
    """Recognise one SCOORD.

    Parameters
    ----------
    graphic_type
        POINT, MULTIPOINT, POLYLINE, CIRCLE (centre, a point on it), ELLIPSE (ends of the major, then of the minor
        axis); POLYGON of SCOORD3D is a closed polyline.
    points
        In the order stored.
    bounds_region
        The document says that this is the outline of a region: a polyline left open is closed.
    rectangle
        The viewer says that a rectangle was drawn: four corners in any order are one.

    Returns
    -------
    The shape (a polyline of two points is a LINE, whatever it stands for), or the reason for a Skip: ``zero_length``,
    ``open_polyline``, ``multipoint``, ``unknown_graphic_type``, ``malformed_graphic``.

    """
    if graphic_type in {"POLYLINE", "POLYGON"}:
        return _polyline(points, closes=bounds_region or graphic_type == "POLYGON", rectangle=rectangle)
    if graphic_type in {"POINT", "MULTIPOINT"}:
        if len(points) == 1:
            return Shape(AnnotationKind.POINTER, tuple(points))
        return "multipoint" if graphic_type == "MULTIPOINT" else "malformed_graphic"
    if graphic_type == "CIRCLE":
        return _circle(points)
    if graphic_type == "ELLIPSE":
        return _ellipse(points)
    return "unknown_graphic_type"


def in_order_of_length(one: Sequence[complex], other: Sequence[complex]) -> tuple[complex, complex, complex, complex]:
    """Return two axes as one tuple, the longer (in pixels) first; as given where they are equal."""
    longer, shorter = (one, other) if abs(one[1] - one[0]) >= abs(other[1] - other[0]) else (other, one)
    return longer[0], longer[1], shorter[0], shorter[1]


def _polyline(points: Sequence[complex], *, closes: bool, rectangle: bool) -> Shape | str:
    if len(points) == 2:
        line = Shape(AnnotationKind.LINE, tuple(points))
        return line if abs(points[1] - points[0]) > SAME_POINT_PX else "zero_length"
    closed = len(points) > 2 and abs(points[0] - points[-1]) <= _CLOSED_PX
    vertices = [p for p, after in pairwise([*points, points[0]]) if abs(p - after) > _CLOSED_PX] if points else []
    if len(vertices) < 3:
        return "zero_length" if points and not vertices else "malformed_graphic"
    if rectangle and len(vertices) == 4:
        for order in ((0, 1, 2, 3), (0, 1, 3, 2), (0, 2, 1, 3)):
            corners = tuple(vertices[i] for i in order)
            if _is_rectangle(corners):
                return Shape(AnnotationKind.BOX, corners)
    if not closed and not closes:
        return "open_polyline"
    kind = AnnotationKind.BOX if len(vertices) == 4 and _is_rectangle(vertices) else AnnotationKind.OUTLINE
    return Shape(kind, tuple(vertices), implied=not closed)


def _is_rectangle(corners: Sequence[complex]) -> bool:
    sides = [corners[(i + 1) % 4] - corners[i] for i in range(4)]
    if min(map(abs, sides)) <= SAME_POINT_PX or abs(sides[0] + sides[2]) > SAME_POINT_PX:
        return False
    return abs(angle(sides[0], sides[1]) - 90) <= _RIGHT_ANGLE_DEGREES


def _circle(points: Sequence[complex]) -> Shape | str:
    if len(points) != 2:
        return "malformed_graphic"
    centre, radius = points[0], abs(points[1] - points[0])
    if radius <= SAME_POINT_PX:
        return "zero_length"
    return Shape(AnnotationKind.ELLIPSE, tuple(centre + radius * step for step in (-1, 1, -1j, 1j)))


def _ellipse(points: Sequence[complex]) -> Shape | str:
    if len(points) != 4:
        return "malformed_graphic"
    major, minor = abs(points[1] - points[0]), abs(points[3] - points[2])
    if min(major, minor) <= SAME_POINT_PX:
        return "zero_length"
    apart = abs(points[0] + points[1] - points[2] - points[3]) / 2
    tilted = abs(angle(points[1] - points[0], points[3] - points[2]) - 90) > _RIGHT_ANGLE_DEGREES
    if tilted or apart > max(SAME_POINT_PX, _SAME_CENTRE * max(major, minor)):
        return "malformed_graphic"
    return Shape(AnnotationKind.ELLIPSE, in_order_of_length(points[:2], points[2:]))
