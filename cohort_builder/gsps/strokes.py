"""Strokes on an image as bare geometry. Points are complex numbers, column + row * 1j, in image coordinates."""

from __future__ import annotations

from cmath import phase
from collections.abc import Sequence
from dataclasses import dataclass, replace
from math import degrees

from cohort_builder.types import AnnotationKind

Number = tuple[int, int]
"""Item and object in the presentation state, both from 1; see ``place``."""

SAME_POINT_PX = 0.5
COMPOUND, TEXT = 1_000_000, 2_000_000
"""Where compound graphics and texts are counted from within their item, so that no graphic has the same number."""


@dataclass(frozen=True, slots=True)
class Target:
    """The one image that something is drawn on; the series is empty where the object does not say it.

    ``frame_number`` (from 1) is that of a multi-frame image, where the object names one.
    """

    sop_instance_uid: str
    series_instance_uid: str
    frame_number: int | None = None


@dataclass(frozen=True, slots=True)
class Polyline:
    """One graphic object with its points as stored, whatever its Graphic Type (PS3.3 C.10.5.1.2)."""

    number: Number
    points: tuple[complex, ...]
    filled: bool = False
    graphic_type: str = "POLYLINE"


@dataclass(frozen=True, slots=True)
class Hints:
    """What stands beside the strokes: drawn values in mm by text, whether one is an angle, and the strokes' grouping.

    ``grouped`` is True where the writer itself says that the strokes are one (a Graphic Group).
    """

    stated_mm: tuple[tuple[float, ...], ...] = ()
    angle: bool = False
    grouped: bool = False


@dataclass(frozen=True, slots=True)
class Shape:
    """What was drawn, in the point order of ``Annotation``; ``rule`` says by which encoding it was recognised."""

    kind: AnnotationKind
    points: tuple[complex, ...]
    rule: str
    members: tuple[Number, ...]

    @property
    def lines(self) -> list[Segment]:
        """The straight lines in it: axes, a shaft, the sides of a box or an outline; none of a pointer."""
        if self.kind in {AnnotationKind.BOX, AnnotationKind.OUTLINE}:
            ends = zip(self.points, (*self.points[1:], self.points[0]), strict=True)
        else:
            ends = zip(self.points[::2], self.points[1::2], strict=False)
        return [Segment(self.members, start, end) for start, end in ends]


@dataclass(frozen=True, slots=True)
class Refusal:
    """Strokes that are none of the recognised encodings: ``reason`` names theirs."""

    reason: str
    members: tuple[Number, ...]


@dataclass(frozen=True, slots=True)
class Segment:
    """A polyline of two points, with the decoration that was found on it among its members."""

    members: tuple[Number, ...]
    start: complex
    end: complex

    @property
    def length(self) -> float:
        """In pixels."""
        return abs(self.end - self.start)

    @property
    def middle(self) -> complex:
        """Half way."""
        return (self.start + self.end) / 2

    @property
    def ends(self) -> tuple[complex, complex]:
        """Both ends."""
        return self.start, self.end


@dataclass(frozen=True, slots=True)
class Head:
    """What may be an arrow's head: two barbs that meet at the apex."""

    apex: complex
    barbs: tuple[complex, complex]
    members: tuple[Number, ...]


def place(number: Sequence[int]) -> str:
    """Item and object as published: "2", "2.1", "2.C1" for a compound graphic, "2.T1" for a text."""
    parts = [str(n) if n < COMPOUND else f"C{n - COMPOUND}" if n < TEXT else f"T{n - TEXT}" for n in number]
    return ".".join(parts)


def angle(one: complex, two: complex) -> float:
    """Angle between two undirected lines, 0 to 90 degrees."""
    if one == 0 or two == 0:
        return 0.0
    turn = abs(degrees(phase(one / two)))
    return min(turn, 180 - turn)


def distance(point: complex, segment: Segment) -> float:
    """From a point to the nearest of the segment, in pixels."""
    direction = segment.end - segment.start
    if direction == 0:
        return abs(point - segment.start)
    along = ((point - segment.start) * direction.conjugate()).real / abs(direction) ** 2
    return abs(point - (segment.start + min(1.0, max(0.0, along)) * direction))


def without_repeats(points: Sequence[complex]) -> tuple[complex, ...]:
    """Points without those that are equal to the one before."""
    kept: list[complex] = []
    for point in points:
        if not kept or abs(point - kept[-1]) > 1e-6:
            kept.append(point)
    return tuple(kept)


def box_of(points: Sequence[complex]) -> tuple[float, float, float, float]:
    """Left, top, right, bottom."""
    columns, rows = [point.real for point in points], [point.imag for point in points]
    return min(columns), min(rows), max(columns), max(rows)


def with_dots(shape: Shape, members: Sequence[Number]) -> Shape:
    """Return the shape with dots drawn on its points among its members, said in its rule."""
    return replace(shape, rule=f"{shape.rule}+dot", members=tuple(sorted({*shape.members, *members})))
