"""The voxel grid of a training patch: the lesion in the middle, a margin all round, and a limit on its size."""

from __future__ import annotations

from dataclasses import dataclass
from math import ceil, inf

import numpy as np

from segmentation.phantoms.canvas import FloatArray, SmoothField, Vec

Axes = tuple[FloatArray, FloatArray, FloatArray]
"""Centres of voxels along (z, y, x), millimetres from the middle of the lesion."""

MAX_SHAPE = (52, 112, 112)
"""Largest patch (slice, row, column)."""
IN_PLANE_MARGIN = 0.8
"""On each side of the lesion, in longest diameters."""
Z_MARGIN, Z_MARGIN_SLICES = 0.9, 3
"""On each side of the lesion: this part of its z extent, and slices beyond; less where ``MAX_SHAPE`` forces it."""
LEAST_MM = (54.0, 100.0, 100.0)
"""Sides (z, y, x), where ``MAX_SHAPE`` allows it: an arrow or a click says nothing of the size of its lesion, so that
what is looked at around it must not give the lesion away by where the patch ends."""
_LEAST_Z_MARGIN, _LEAST_Z_MARGIN_SLICES = 0.3, 4
"""What remains of it: the part by slices of up to ``_THICKEST_MM``, the slices always."""
_THICKEST_MM = 5.0


@dataclass(frozen=True, slots=True)
class Grid:
    """Voxels of a patch."""

    shape: tuple[int, int, int]
    spacing_mm: Vec

    def axes(self) -> Axes:
        """(z, y, x) millimetres of the voxel centres from the middle of the patch."""
        axes = [(np.arange(n) - (n - 1) / 2) * s for n, s in zip(self.shape, self.spacing_mm, strict=True)]
        z, y, x = (axis.astype(np.float32) for axis in axes)
        return z, y, x


def grid_for(
    *,
    extent_mm: float,
    height_mm: float,
    diameter_mm: float,
    pixel_mm: float,
    thickness_mm: float,
    room_mm: Vec = (inf, inf, inf),
) -> Grid:
    """Grid round a lesion.

    Parameters
    ----------
    extent_mm, height_mm
        Sides of the lesion's bounding box: the longer one in plane, and along z.
    diameter_mm
        Its longest diameter in a slice.
    pixel_mm, thickness_mm
        Wanted voxel size; enlarged where the lesion and its margin would exceed ``MAX_SHAPE`` in plane, and where the
        lesion and the least margin would along z.
    room_mm
        Largest sides (z, y, x) of the patch.

    """
    across = extent_mm + 2 * IN_PLANE_MARGIN * diameter_mm
    pixel = max(pixel_mm, min(across, max(room_mm[1:])) / (MAX_SHAPE[1] - 2))
    sides = [min(max(across, least), room) for least, room in zip(LEAST_MM[1:], room_mm[1:], strict=True)]
    wanted = height_mm * (1 + 2 * _LEAST_Z_MARGIN) / (MAX_SHAPE[0] - 2 * Z_MARGIN_SLICES)
    thick = max(thickness_mm, min(wanted, _THICKEST_MM), height_mm / (MAX_SHAPE[0] - 2 * _LEAST_Z_MARGIN_SLICES - 1))
    n_slices = ceil(height_mm * (1 + 2 * Z_MARGIN) / thick) + 2 * Z_MARGIN_SLICES + 1
    n_slices = max(n_slices, ceil(LEAST_MM[0] / thick))
    n_slices = min(n_slices, MAX_SHAPE[0], int(min(room_mm[0] / thick, 1e6)) + 1)
    n_rows, n_columns = (min(ceil(side / pixel) + 2, MAX_SHAPE[1]) for side in sides)
    return Grid((n_slices, n_rows, n_columns), (thick, pixel, pixel))


def smooth_noise(rng: np.random.Generator, axes: Axes, step_mm: float) -> FloatArray:
    """Smooth random field over the grid of ``axes``, mean 0 and deviation 1, no finer than the voxels allow."""
    z, y, x = axes
    lower, upper = ((float(z[i]), float(y[i]), float(x[i])) for i in (0, -1))
    dz, dy, dx = (max(step_mm, 1.2 * float(axis[1] - axis[0])) for axis in axes)
    return SmoothField.random(rng, lower, upper, (dz, dy, dx))(z, y, x)
