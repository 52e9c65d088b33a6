"""Strokes on an image as bare geometry. Points are complex numbers, column + row * 1j, in pixels."""

from __future__ import annotations

from cmath import phase
from dataclasses import dataclass
from math import degrees

from cohort_builder.types import AnnotationKind

Number = tuple[int, int]
SAME_POINT_PX = 0.5


@dataclass(frozen=True, slots=True)
class Polyline:
    """One graphic object: ``number`` is (item, object) in the presentation state, both from 1."""

    number: Number
    points: tuple[complex, ...]
    filled: bool = False


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


def angle(one: complex, two: complex) -> float:
    """Angle between two undirected lines, 0 to 90 degrees."""
    if one == 0 or two == 0:
        return 0.0
    turn = abs(degrees(phase(one / two)))
    return min(turn, 180 - turn)


def distance(point: complex, segment: Segment) -> float:
    """From a point to the nearest of the segment, in pixels."""
    direction = segment.end - segment.start
    along = ((point - segment.start) * direction.conjugate()).real / abs(direction) ** 2
    return abs(point - (segment.start + min(1.0, max(0.0, along)) * direction))
