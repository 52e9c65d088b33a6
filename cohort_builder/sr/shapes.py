"""Spatial coordinates of a report (PS3.3 C.18.6) to the kinds of ``Annotation``. Points are (column, row) complex."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from itertools import pairwise

from cohort_builder import figures
from cohort_builder.figures import SAME_POINT_PX, Region
from cohort_builder.types import AnnotationKind


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
        The document says that this is the outline of a region: a polyline of four or more points is closed that leaves
        no more open than its longest side. A wider gap is a trace that was never meant to come back.
    rectangle
        The viewer says that a rectangle was drawn: four corners in any order are one.

    Returns
    -------
    The shape (a polyline of two points is a LINE, whatever it stands for), or the reason for a Skip: ``zero_length``,
    ``multipoint``, ``unknown_graphic_type`` and those of ``figures``.

    """
    if graphic_type in {"POLYLINE", "POLYGON"}:
        return _polyline(points, closes=bounds_region or graphic_type == "POLYGON", rectangle=rectangle)
    if graphic_type in {"POINT", "MULTIPOINT"}:
        if len(points) == 1:
            return Shape(AnnotationKind.POINTER, tuple(points))
        return "multipoint" if graphic_type == "MULTIPOINT" else "malformed_graphic"
    if graphic_type == "CIRCLE":
        return _shape(figures.circle(points))
    if graphic_type == "ELLIPSE":
        return _shape(figures.ellipse(points))
    return "unknown_graphic_type"


def _polyline(points: Sequence[complex], *, closes: bool, rectangle: bool) -> Shape | str:
    if len(points) == 2:
        line = Shape(AnnotationKind.LINE, tuple(points))
        return line if abs(points[1] - points[0]) > SAME_POINT_PX else "zero_length"
    ring, closed = figures.ring_of(points)
    if len(ring) < 3:
        return "zero_length" if len(ring) == 1 else "malformed_graphic"
    if rectangle and len(ring) == 4:
        a, b, c, d = ring
        for corners in (ring, (a, b, d, c), (a, c, b, d)):
            box = figures.polygon(corners)
            if isinstance(box, Region) and box.kind is AnnotationKind.BOX:
                return _shape(box)
    if not closed and not (closes and _nearly_closes(ring)):
        return "open_polyline"
    return _shape(figures.polygon(ring), implied=not closed)


def _nearly_closes(ring: Sequence[complex]) -> bool:
    longest = max(abs(after - before) for before, after in pairwise(ring))
    return len(ring) > 3 and abs(ring[-1] - ring[0]) <= longest


def _shape(region: Region | str, *, implied: bool = False) -> Shape | str:
    return region if isinstance(region, str) else Shape(region.kind, region.points, implied)
