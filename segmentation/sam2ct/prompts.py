"""From what was drawn to what the network is told: labelled points or a mask, checked against the volume."""

from __future__ import annotations

from dataclasses import dataclass
from math import hypot

import numpy as np
from numpy.typing import NDArray

from segmentation.ellipsoid import InPlaneEllipse, arrow_direction, ellipse_of, middle_of, require_on_volume
from segmentation.types import (
    Arrow,
    Bidimensional,
    Box,
    Line,
    MaskPrompt,
    Point,
    Points,
    Prompt,
    SegmentationError,
    Volume,
)

NEGATIVE, POSITIVE, BOX_FIRST, BOX_LAST, LINE_END, ARROW_TAIL, ARROW_HEAD = range(7)
"""Labels of points. The first four are SAM's; the others those of sam2ct.txt 2.3.3 in the published weights."""

WITH_LINES = frozenset({Line, Bidimensional, Arrow, Points, Box, MaskPrompt})
"""Prompts of a model with 7 kinds of points."""
WITHOUT_LINES = frozenset({Line, Bidimensional, Points, Box, MaskPrompt})
"""Prompts of a model with SAM's 4: measurements are given as boxes; nothing stands for an arrow."""


@dataclass(frozen=True, slots=True, eq=False)
class NetworkPrompt:
    """A prompt as the network takes it, still in the pixels of the volume.

    Parameters
    ----------
    points
        (P, 2) pixel-centre (column, row); empty where a mask is given.
    labels
        P labels.
    mask
        (row, column) boolean over the whole slice, or None.
    lower, upper
        (column, row) extremes of what was drawn, both inclusive.
    ellipse
        What a measurement spans; None for other prompts.
    described
        How it was converted, e.g. ``"line as box"``; empty where it is given as drawn.

    """

    slice_index: int
    points: NDArray[np.float64]
    labels: tuple[int, ...]
    mask: NDArray[np.bool_] | None
    lower: Point
    upper: Point
    ellipse: InPlaneEllipse | None
    described: str = ""


def network_prompt(prompt: Prompt, volume: Volume, *, point_types: int) -> NetworkPrompt | None:
    """Check and encode ``prompt``; None where a model with so many kinds of points has no way to take it.

    Raises
    ------
    SegmentationError
        If the prompt is not on the volume, or has no length, area or pixel.

    """
    if isinstance(prompt, MaskPrompt):
        return _mask(prompt, volume)
    if isinstance(prompt, Line | Bidimensional):
        ellipse = ellipse_of(prompt, volume)  # refuses what has no length
        if point_types > LINE_END:
            ends = _ends(prompt)
            return _points(prompt.slice_index, ends, (LINE_END,) * len(ends), ellipse=ellipse)
        kind, lower, upper = _as_box(prompt, volume)
        return _points(prompt.slice_index, (lower, upper), (BOX_FIRST, BOX_LAST), ellipse=ellipse, said=kind)
    if isinstance(prompt, Box):
        if not (prompt.lower[0] < prompt.upper[0] and prompt.lower[1] < prompt.upper[1]):
            raise SegmentationError("a box needs a lower corner left of and above its upper one")
        middle = ((prompt.lower[0] + prompt.upper[0]) / 2, (prompt.lower[1] + prompt.upper[1]) / 2)
        require_on_volume(volume, prompt.slice_index, middle)
        return _points(prompt.slice_index, (prompt.lower, prompt.upper), (BOX_FIRST, BOX_LAST))
    if isinstance(prompt, Points):
        if POSITIVE not in prompt.labels or set(prompt.labels) - {NEGATIVE, POSITIVE}:
            raise SegmentationError("clicks need labels 0 and 1, and at least one 1 (inside the lesion)")
        for point in prompt.points:
            require_on_volume(volume, prompt.slice_index, point)
        return _points(prompt.slice_index, prompt.points, prompt.labels)
    if point_types <= ARROW_HEAD:
        return None
    arrow_direction(prompt, volume)  # refuses one that has none
    # The tail may lie beyond the image, where the pointing hand had room; the network is told where it would be.
    require_on_volume(volume, prompt.slice_index, prompt.head)
    points = np.array([prompt.tail, prompt.head])
    return NetworkPrompt(prompt.slice_index, points, (ARROW_TAIL, ARROW_HEAD), None, prompt.head, prompt.head, None)


def _ends(prompt: Line | Bidimensional) -> tuple[Point, ...]:
    if isinstance(prompt, Line):
        return prompt.start, prompt.end
    return (*prompt.long_axis, *prompt.short_axis)


def _as_box(prompt: Line | Bidimensional, volume: Volume) -> tuple[str, Point, Point]:
    """Square on a line as its diameter, as MedSAM2 prompts with RECIST lines; the box around a pair of axes."""
    _, row_mm, column_mm = volume.spacing_mm
    if isinstance(prompt, Bidimensional):
        ends = np.array(_ends(prompt))
        lower, upper = ends.min(axis=0), ends.max(axis=0)
        return "bidimensional as box", (lower[0], lower[1]), (upper[0], upper[1])
    (x0, y0), (x1, y1) = prompt.start, prompt.end
    half_mm = hypot((x1 - x0) * column_mm, (y1 - y0) * row_mm) / 2
    (x, y), dx, dy = middle_of(prompt), half_mm / column_mm, half_mm / row_mm
    _, rows, columns = volume.voxels.shape
    lower_corner = (max(x - dx, 0.0), max(y - dy, 0.0))
    return "line as box", lower_corner, (min(x + dx, columns - 1.0), min(y + dy, rows - 1.0))


def _points(
    slice_index: int,
    points: tuple[Point, ...],
    labels: tuple[int, ...],
    *,
    ellipse: InPlaneEllipse | None = None,
    said: str = "",
) -> NetworkPrompt:
    array = np.asarray(points, dtype=np.float64)
    (x0, y0), (x1, y1) = array.min(axis=0), array.max(axis=0)
    return NetworkPrompt(slice_index, array, labels, None, (x0, y0), (x1, y1), ellipse, said)


def _mask(prompt: MaskPrompt, volume: Volume) -> NetworkPrompt:
    _, rows, columns = volume.voxels.shape
    require_on_volume(volume, prompt.slice_index, (0.0, 0.0))
    if prompt.mask.shape != (rows, columns):
        raise SegmentationError(f"a mask of shape {prompt.mask.shape} on a slice of {rows} rows x {columns} columns")
    if not prompt.mask.any():
        raise SegmentationError("an empty mask marks no lesion")
    drawn_rows, drawn_columns = np.nonzero(prompt.mask)
    lower, upper = (
        (float(drawn_columns.min()), float(drawn_rows.min())),
        (float(drawn_columns.max()), float(drawn_rows.max())),
    )
    return NetworkPrompt(prompt.slice_index, np.zeros((0, 2)), (), prompt.mask.astype(np.bool_), lower, upper, None)
