"""Strokes on an image as bare geometry. Points are complex numbers, column + row * 1j, in image coordinates."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace

from cohort_builder.types import AnnotationKind

Number = tuple[int, int]
"""Item and object in the presentation state, both from 1; see ``place``."""

REACH_PX, REACH_FRACTION = 2.0, 0.1
"""How far from a line a stroke may end that belongs to it: in pixels, and of the line's length, whichever is more."""
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
    """What stands beside the strokes: drawn values in mm by text, and the strokes' grouping.

    ``grouped`` is True where the writer itself says that the strokes are one (a Graphic Group).
    """

    stated_mm: tuple[tuple[float, ...], ...] = ()
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


def distance(point: complex, segment: Segment) -> float:
    """From a point to the nearest of the segment, in pixels."""
    direction = segment.end - segment.start
    if direction == 0:
        return abs(point - segment.start)
    along = ((point - segment.start) * direction.conjugate()).real / abs(direction) ** 2
    return abs(point - (segment.start + min(1.0, max(0.0, along)) * direction))


def box_of(points: Sequence[complex]) -> tuple[float, float, float, float]:
    """Left, top, right, bottom."""
    columns, rows = [point.real for point in points], [point.imag for point in points]
    return min(columns), min(rows), max(columns), max(rows)


def distance_to_box(point: complex, box: tuple[float, float, float, float]) -> float:
    """From a point to a box (left, top, right, bottom), 0 inside, in pixels."""
    left, top, right, bottom = box
    return abs(complex(max(left - point.real, 0, point.real - right), max(top - point.imag, 0, point.imag - bottom)))


def with_dots(shape: Shape, members: Sequence[Number]) -> Shape:
    """Return the shape with dots drawn on its points among its members, said in its rule."""
    return replace(shape, rule=f"{shape.rule}+dot", members=tuple(sorted({*shape.members, *members})))
