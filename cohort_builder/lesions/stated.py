"""Numbers that stand beside a line, against its own length."""

from __future__ import annotations

from collections.abc import Iterator, Sequence

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


def stated_and_drawn(stated: Sequence[float], drawn: Sequence[float]) -> Iterator[tuple[float, float]]:
    """Pairs of a number and the length in mm it speaks of: longest with longest, or each with its nearest."""
    if len(stated) == len(drawn):
        yield from zip(sorted(stated, reverse=True), sorted(drawn, reverse=True), strict=True)
    elif len(stated) < len(drawn):
        for value in stated:
            yield value, min(drawn, key=lambda length: abs(length - value))
    elif drawn:
        for length in drawn:
            yield min(stated, key=lambda value: abs(length - value)), length


def rounding_mm(value: float) -> float:
    """Half of the last digit of a drawn number; a whole number counts as rounded to whole mm."""
    return 0.5 if float(value).is_integer() else 0.05
