"""What a prompt says of its lesion: where it is, how long, how wide."""

from __future__ import annotations

from dataclasses import dataclass
from math import hypot, sqrt
from typing import Literal

import numpy as np
from numpy.typing import NDArray

from segmentation.classical.arrow import find_ellipses
from segmentation.ellipsoid import SHORT_TO_LONG, arrow_direction, ellipse_of, require_on_volume
from segmentation.types import (
    Arrow,
    Bidimensional,
    Box,
    Line,
    MaskPrompt,
    Points,
    Prompt,
    SegmentationError,
    Volume,
)

AimKind = Literal["line", "bidimensional", "box", "mask", "arrow", "point"]
AIM_KINDS: tuple[AimKind, ...] = ("line", "bidimensional", "box", "mask", "arrow", "point")
"""In the order of the network's switches."""

SLENDEREST = 0.15
"""Least semi-short axis over the long axis: a box or a mask one pixel wide."""
CONTOURS = 3
"""Closed contours that are looked at for an arrow."""
HEAD_AT = -0.5
"""Place of an arrow's head along its direction, in half sides of the box."""


@dataclass(frozen=True, slots=True, eq=False)
class Aim:
    """An ellipse on a slice, or a point that a lesion lies at or before.

    Parameters
    ----------
    centre_mm
        (x, y) = (column, row) index times spacing; of an arrow its head.
    direction
        Unit (x, y) vector of the long axis, or of the arrow.
    length_mm
        Long axis from rim to rim; None: unknown.
    semi_short
        Half the short axis, in lengths.
    outline
        (row, column) boolean over the whole slice, of a mask alone.

    """

    kind: AimKind
    slice_index: int
    centre_mm: tuple[float, float]
    direction: tuple[float, float]
    length_mm: float | None = None
    semi_short: float = SHORT_TO_LONG / 2
    outline: NDArray[np.bool_] | None = None


def aim_of(prompt: Prompt, volume: Volume) -> Aim:
    """Read a prompt.

    The sign of a long axis means nothing and is made positive, so that a line means the same from either end.

    Raises
    ------
    SegmentationError
        If the prompt does not lie on the volume, or has neither place nor direction.

    """
    _, row_mm, column_mm = volume.spacing_mm
    if isinstance(prompt, Line | Bidimensional):
        ellipse = ellipse_of(prompt, volume)
        length = 2 * ellipse.semi_long_mm
        kind: AimKind = "line" if isinstance(prompt, Line) else "bidimensional"
        return Aim(
            kind,
            prompt.slice_index,
            ellipse.centre_mm,
            _upright(*ellipse.direction),
            length,
            ellipse.semi_short_mm / length,
        )
    if isinstance(prompt, Arrow):
        require_on_volume(volume, prompt.slice_index, prompt.head)
        head = prompt.head[0] * column_mm, prompt.head[1] * row_mm
        return Aim("arrow", prompt.slice_index, head, arrow_direction(prompt, volume))
    if isinstance(prompt, Points):
        for point in prompt.points:
            require_on_volume(volume, prompt.slice_index, point)
        inside = [point for point, label in zip(prompt.points, prompt.labels, strict=True) if label == 1]
        if not inside:
            raise SegmentationError("points need one inside the lesion at least (label 1)")
        x, y = np.mean(inside, axis=0)
        return Aim("point", prompt.slice_index, (float(x) * column_mm, float(y) * row_mm), (1.0, 0.0))
    if isinstance(prompt, Box):
        return _of_box(prompt, volume)
    return _of_mask(prompt, volume)


def aims_of_contours(prompt: Arrow, volume: Volume) -> tuple[Aim, ...]:
    """Aim at what an arrow may point at: the closed contours ahead of its head that the image bears out best."""
    aims = []
    for candidate in find_ellipses(prompt, volume, CONTOURS):
        ellipse = candidate.ellipse
        length = 2 * ellipse.semi_long_mm
        direction, semi_short = _upright(*ellipse.direction), max(ellipse.semi_short_mm / length, SLENDEREST)
        aims.append(Aim("bidimensional", prompt.slice_index, ellipse.centre_mm, direction, length, semi_short))
    return tuple(aims)


def measured(mask: NDArray[np.bool_], positions_mm: NDArray[np.float64]) -> tuple[NDArray[np.float64], ...]:
    """Principal axes of a section.

    Parameters
    ----------
    mask
        Boolean, of any shape, not empty.
    positions_mm
        (..., 2): x and y of every element of ``mask``.

    Returns
    -------
    Centre (x, y) of the section's extent, unit vector of its long axis, and (long, short) extent between the
    outermost elements' centres.

    """
    places = positions_mm[mask]
    middle = places.mean(axis=0)
    _, axes = np.linalg.eigh(np.cov(places.T, bias=True) if len(places) > 1 else np.eye(2))
    u = axes[:, 1]
    across = np.array([-u[1], u[0]])
    along = np.stack([(places - middle) @ u, (places - middle) @ across])
    low, high = along.min(axis=1), along.max(axis=1)
    centre = middle + u * (low + high)[0] / 2 + across * (low + high)[1] / 2
    return centre, u, high - low


def aim_at_section(
    kind: AimKind, slice_index: int, mask: NDArray[np.bool_], positions_mm: NDArray[np.float64], element_mm: float
) -> Aim:
    """Aim at the ellipse that a section spans; ``element_mm`` is the width of one of its elements."""
    centre, u, extent = measured(mask, positions_mm)
    length = float(extent[0]) + element_mm
    return Aim(
        kind,
        slice_index,
        (float(centre[0]), float(centre[1])),
        _upright(float(u[0]), float(u[1])),
        length,
        max((float(extent[1]) + element_mm) / 2 / length, SLENDEREST),
    )


def _of_box(prompt: Box, volume: Volume) -> Aim:
    for corner in (prompt.lower, prompt.upper):
        require_on_volume(volume, prompt.slice_index, corner)
    _, row_mm, column_mm = volume.spacing_mm
    sides = (
        (abs(prompt.upper[0] - prompt.lower[0]) + 1) * column_mm,
        (abs(prompt.upper[1] - prompt.lower[1]) + 1) * row_mm,
    )
    centre = (prompt.upper[0] + prompt.lower[0]) / 2 * column_mm, (prompt.upper[1] + prompt.lower[1]) / 2 * row_mm
    direction = (1.0, 0.0) if sides[0] >= sides[1] else (0.0, 1.0)
    semi_short = max(min(sides) / 2 / max(sides), SLENDEREST)
    return Aim("box", prompt.slice_index, centre, direction, max(sides), semi_short)


def _of_mask(prompt: MaskPrompt, volume: Volume) -> Aim:
    require_on_volume(volume, prompt.slice_index, (0, 0))
    if prompt.mask.shape != volume.voxels.shape[1:]:
        raise SegmentationError(f"a mask of {prompt.mask.shape} pixels on slices of {volume.voxels.shape[1:]}")
    if not prompt.mask.any():
        raise SegmentationError("an empty mask says nothing")
    _, row_mm, column_mm = volume.spacing_mm
    y, x = np.nonzero(prompt.mask)
    positions = np.stack([x * column_mm, y * row_mm], axis=-1)
    section = np.ones(len(x), dtype=np.bool_)
    aim = aim_at_section("mask", prompt.slice_index, section, positions, sqrt(row_mm * column_mm))
    return Aim("mask", aim.slice_index, aim.centre_mm, aim.direction, aim.length_mm, aim.semi_short, prompt.mask)


def _upright(x: float, y: float) -> tuple[float, float]:
    """Return the unit vector or its opposite, whichever points right (or straight down)."""
    length = hypot(x, y)
    sign = -1 if x < 0 or (x == 0 and y < 0) else 1
    return sign * x / length, sign * y / length
