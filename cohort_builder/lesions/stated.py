"""Numbers that stand beside a line, against its own length."""

from __future__ import annotations

from cohort_builder.types import LocatedAnnotation

_TEXT_TOLERANCE_MM, _TEXT_TOLERANCE = 0.6, 0.03


def text_tolerance_mm(drawn_mm: float) -> float:
    """How far a number beside a line may be from the line's own length, viewers' rounding of points considered."""
    return max(_TEXT_TOLERANCE_MM, _TEXT_TOLERANCE * drawn_mm)


def stated_lengths(located: LocatedAnnotation) -> tuple[float, ...]:
    """The drawn lengths, longest first, each replaced by the number that stands beside it where the two agree."""
    stated = located.annotation.stated_mm
    lengths = []
    for drawn in located.diameters_mm:
        nearest = min(stated, key=lambda value: (abs(value - drawn), value), default=drawn)
        lengths.append(nearest if abs(nearest - drawn) <= text_tolerance_mm(drawn) else drawn)
    return tuple(sorted(lengths, reverse=True))
