"""Compound graphics (PS3.3 C.10.5.1.3): the ones that a radiologist measures or points with."""

from __future__ import annotations

from cmath import exp
from collections.abc import Sequence
from dataclasses import dataclass
from math import radians

from cohort_builder.gsps.graphics import classify
from cohort_builder.gsps.regions import ellipse
from cohort_builder.gsps.strokes import Number, Polyline, Refusal, Shape
from cohort_builder.types import AnnotationKind

_LINES = frozenset({"RULER", "RANGELINE", "AXIS"})
_REFUSED = frozenset({"INFINITELINE", "CUTLINE", "CROSSHAIR"})
_ANGLES = frozenset({"ANGLE", "COBBANGLE"})  # not the standard's, but written


@dataclass(frozen=True, slots=True)
class Compound:
    """One compound graphic: points in image coordinates, to be turned counterclockwise about ``turn_about``."""

    number: Number
    kind: str
    points: tuple[complex, ...]
    turn_degrees: float = 0.0
    turn_about: complex | None = None


def read_compound(compound: Compound, rendering: Sequence[Polyline]) -> Shape | Refusal:
    """Read one compound graphic.

    Parameters
    ----------
    compound
        RULER, RANGELINE and AXIS are lines between their two points; so is a MULTILINE of one line, and one of two
        lines across each other is a pair. RECTANGLE and ELLIPSE stand between two corners. A MULTIPOINT of one point
        points at it. An ARROW is read as ``rendering`` says.
    rendering
        The simple graphics with the same Compound Graphic Instance ID. The order of an arrow's points is taken from
        them: the standard has the head first, and the writer that leaves the rendering out has it last.

    Returns
    -------
    A shape, or a refusal: ``compound_<type>``, ``compound_other``, ``angle``, ``arrow_without_head``,
    ``zero_length``, ``zero_area``, ``malformed_graphic``.

    """
    members = (compound.number,)
    turned = _turned(compound)
    if turned is None:
        return Refusal("malformed_graphic", members)
    if compound.kind in _REFUSED or compound.kind in _ANGLES:
        return Refusal("angle" if compound.kind in _ANGLES else f"compound_{compound.kind.lower()}", members)
    if compound.kind == "MULTILINE":
        return _multiline(turned, members)
    if compound.kind == "MULTIPOINT":
        if len(turned) != 1:
            return Refusal("compound_multipoint", members)
        return Shape(AnnotationKind.POINTER, turned, "pointer:compound_multipoint", members)
    if compound.kind not in {*_LINES, "ARROW", "RECTANGLE", "ELLIPSE"}:
        return Refusal("compound_other", members)
    if len(turned) != 2:
        return Refusal("malformed_graphic", members)
    if compound.kind in {"RECTANGLE", "ELLIPSE"}:
        return _between_corners(compound)
    if turned[0] == turned[1]:
        return Refusal("zero_length", members)
    if compound.kind == "ARROW":
        return _arrow(turned, rendering, members)
    return Shape(AnnotationKind.LINE, turned, f"line:compound_{compound.kind.lower()}", members)


def _turned(compound: Compound, points: Sequence[complex] = ()) -> tuple[complex, ...] | None:
    """The points (its own, if none are given) after its rotation; None where there is nothing to turn them about."""
    points = points or compound.points
    if compound.turn_degrees % 360 == 0:
        return tuple(points)
    if compound.turn_about is None:
        return None
    turn = exp(-1j * radians(compound.turn_degrees))  # rows count downwards, so this is counterclockwise to the eye
    return tuple(compound.turn_about + (point - compound.turn_about) * turn for point in points)


def _multiline(points: tuple[complex, ...], members: tuple[Number, ...]) -> Shape | Refusal:
    """One line, or two axes: the points are the starts and ends of separate lines (C.10.5.1.3.5)."""
    refusal = Refusal("compound_multiline", members)
    if len(points) not in {2, 4}:
        return refusal
    ends = zip(points[::2], points[1::2], strict=True)
    shapes, _ = classify([Polyline((members[0][0], k), pair) for k, pair in enumerate(ends, start=1)])
    if len(shapes) != 1 or shapes[0].kind not in {AnnotationKind.LINE, AnnotationKind.BIDIMENSIONAL}:
        return refusal
    (shape,) = shapes
    if len(shape.members) != len(points) // 2 or "+" in shape.rule:
        return refusal
    return Shape(shape.kind, shape.points, f"{shape.rule}:compound_multiline", members)


def _between_corners(compound: Compound) -> Shape | Refusal:
    """Rectangle, or the ellipse in it, between top left and bottom right corner (C.10.5.1.3.3 and 4)."""
    members = (compound.number,)
    first, last = compound.points
    if first.real == last.real or first.imag == last.imag:
        return Refusal("zero_area", members)
    corners = (first, complex(last.real, first.imag), last, complex(first.real, last.imag))
    points = _turned(compound, corners) or corners
    if compound.kind == "RECTANGLE":
        return Shape(AnnotationKind.BOX, points, "box:compound", members)
    top, right, bottom, left = ((points[i] + points[(i + 1) % 4]) / 2 for i in range(4))
    return ellipse((left, right, top, bottom), "ellipse:compound", members)


def _arrow(points: Sequence[complex], rendering: Sequence[Polyline], members: tuple[Number, ...]) -> Shape | Refusal:
    """Arrow with its head where the barbs of the rendering meet; [tail, head] where there is no rendering at all."""
    if not rendering:
        return Shape(AnnotationKind.ARROW, tuple(points), "arrow:compound", members)
    arrows = [shape for shape in classify(rendering)[0] if shape.kind is AnnotationKind.ARROW]
    if len(arrows) != 1:
        return Refusal("arrow_without_head", members)
    drawn_tail, drawn_head = arrows[0].points
    tail, head = sorted(points, key=lambda point: abs(point - drawn_head) - abs(point - drawn_tail), reverse=True)
    return Shape(AnnotationKind.ARROW, (tail, head), "arrow:compound_rendered", members)
