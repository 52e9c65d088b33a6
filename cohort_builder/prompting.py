"""What was drawn, on one slice, to what an engine is told.

Every kind has its natural prompt and, for engines that do not take that one, others that are honest of it: a box as the
lines between the middles of its sides, but never an arrow as a diameter. Points are (column, row) pixel-centre indices.
"""

from __future__ import annotations

from collections.abc import Callable, Collection, Iterable, Sequence
from dataclasses import dataclass

from cohort_builder.types import AnnotationKind
from segmentation.regions import (
    axes_of_outline,
    axes_of_rectangle,
    box_around,
    box_around_ellipse,
    fill_outline,
)
from segmentation.types import Arrow, Bidimensional, Box, Line, MaskPrompt, Point, Points, Prompt

EVERY_PROMPT: frozenset[type[Prompt]] = frozenset({Line, Bidimensional, Arrow, Points, Box, MaskPrompt})

_STRAIGHT = 0.5  # pixels that the corners of a box may be off its bounds: viewers store rounded corners


@dataclass(frozen=True, slots=True)
class Drawn:
    """One annotation on one slice of a grid.

    ``shape`` is (rows, columns), ``spacing_mm`` (between rows, between columns). ``was`` is the kind that it was drawn
    as, where only a part of it lies in this slice.
    """

    kind: AnnotationKind
    slice_index: int
    points: tuple[Point, ...]
    shape: tuple[int, int]
    spacing_mm: tuple[float, float]
    was: AnnotationKind


def prompt_for(drawn: Drawn, supports: Collection[type[Prompt]] = EVERY_PROMPT) -> tuple[Prompt, str]:
    """Make the best prompt for an engine that ``supports`` these.

    Returns
    -------
    The prompt and how it came about where it is not what was drawn ("ellipse as box"), else "".

    Raises
    ------
    ValueError
        If the engine takes none that is honest: see ``can_prompt``.
    GeometryError
        If the annotation lies outside the slice or has no extent.

    """
    for number, (kind, make) in enumerate(_PROMPTS[drawn.kind]):
        if kind in supports:
            name = "rotated box" if _is_rotated(drawn) else drawn.was.value.lower()
            converted = number > 0 or drawn.kind is AnnotationKind.ELLIPSE or name != drawn.kind.lower()
            return make(drawn), f"{name} as {_NAMES[kind]}" if converted else ""
    raise ValueError(f"an engine that takes {names_of(supports)} cannot be prompted with {drawn.kind.value}")


def can_prompt(kind: AnnotationKind, supports: Collection[type[Prompt]]) -> bool:
    """Whether an engine that ``supports`` these prompts can be told of this kind of annotation."""
    return any(prompt in supports for prompt, _ in _PROMPTS[kind])


def names_of(supports: Iterable[type[Prompt]]) -> str:
    """The prompts that an engine takes, in words."""
    return ", ".join(sorted(_NAMES[kind] for kind in supports if kind in _NAMES)) or "nothing"


def _is_rotated(drawn: Drawn) -> bool:
    if drawn.kind is not AnnotationKind.BOX:
        return False
    extremes = [(min(axis), max(axis)) for axis in zip(*drawn.points, strict=True)]
    return any(
        min(abs(value - low), abs(value - high)) > _STRAIGHT
        for point in drawn.points
        for value, (low, high) in zip(point, extremes, strict=True)
    )


def _line(drawn: Drawn) -> Prompt:
    return Line(drawn.slice_index, drawn.points[0], drawn.points[1])


def _bidimensional(drawn: Drawn) -> Prompt:
    a, b, c, d = drawn.points
    return Bidimensional(drawn.slice_index, (a, b), (c, d))


def _arrow(drawn: Drawn) -> Prompt:
    return Arrow(drawn.slice_index, drawn.points[0], drawn.points[1])


def _click(drawn: Drawn) -> Prompt:
    return Points(drawn.slice_index, drawn.points, (1,) * len(drawn.points))


def _box(drawn: Drawn) -> Prompt:
    return box_around(drawn.points, drawn.slice_index)


def _box_of_ellipse(drawn: Drawn) -> Prompt:
    return box_around_ellipse(drawn.points, drawn.slice_index)


def _sides(drawn: Drawn) -> Prompt:
    return axes_of_rectangle(drawn.points, drawn.slice_index, drawn.spacing_mm)


def _filled(drawn: Drawn) -> Prompt:
    return MaskPrompt(drawn.slice_index, fill_outline(drawn.points, drawn.shape))


def _chords(drawn: Drawn) -> Prompt:
    return axes_of_outline(drawn.points, drawn.slice_index, drawn.spacing_mm)


_NAMES: dict[type[Prompt], str] = {
    Line: "line",
    Bidimensional: "bidimensional",
    Arrow: "arrow",
    Points: "points",
    Box: "box",
    MaskPrompt: "mask",
}
_PROMPTS: dict[AnnotationKind, Sequence[tuple[type[Prompt], Callable[[Drawn], Prompt]]]] = {
    AnnotationKind.LINE: ((Line, _line),),
    AnnotationKind.BIDIMENSIONAL: ((Bidimensional, _bidimensional), (Line, _line)),
    # An ellipse is drawn round a lesion or, to sample it, inside: a box promises less than two diameters.
    AnnotationKind.ELLIPSE: ((Box, _box_of_ellipse), (Bidimensional, _bidimensional)),
    AnnotationKind.BOX: ((Box, _box), (Bidimensional, _sides)),
    AnnotationKind.OUTLINE: ((MaskPrompt, _filled), (Box, _box), (Bidimensional, _chords)),
    AnnotationKind.ARROW: ((Arrow, _arrow),),
    AnnotationKind.POINTER: ((Points, _click),),
}
"""Kind to the prompts that are honest of it, the one that says most first."""
