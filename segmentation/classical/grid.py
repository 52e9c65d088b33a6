"""The working grid of one lesion: a box cut from the volume, resampled to a size that does not depend on the lesion's.

Blur and linear interpolation are separable and linear, so each axis is one small matrix, and cutting out a box is
three matrix products.
"""

from __future__ import annotations

from dataclasses import dataclass
from math import ceil, sqrt

import numpy as np
from numpy.typing import NDArray

from segmentation.ellipsoid import InPlaneEllipse
from segmentation.types import Volume

FloatArray = NDArray[np.float32]
BoolArray = NDArray[np.bool_]

HU_LIMIT = 1000
"""Beyond it lie metal and padding; a lesion's contrast does not."""

HALF_WIDTH_STEPS = 30
"""Steps from the centre of the box to its side, at most: it bounds the work for a lesion of any size."""


@dataclass(frozen=True, slots=True, eq=False)
class Grid:
    """A box of the volume around an ellipse, axes along those of the volume.

    Parameters
    ----------
    image
        (z, y, x) float32 Hounsfield units, clipped.
    on_image
        (z, y, x) boolean: the grid point lies in the volume (others repeat its border).
    z, y, x
        Millimetres from the ellipse's centre and slice to the grid points; ``z[middle] == 0``.
    step_z, step
        Millimetres between grid points along z and in the plane.
    origin, back
        First voxel of the crop, and one (voxels of the crop, grid points) matrix of linear interpolation per axis.

    """

    image: FloatArray
    on_image: BoolArray
    z: FloatArray
    y: FloatArray
    x: FloatArray
    step_z: float
    step: float
    middle: int
    origin: tuple[int, int, int]
    back: tuple[FloatArray, FloatArray, FloatArray]

    def to_volume(self, values: FloatArray) -> FloatArray:
        """Interpolate (z, y, x) ``values`` linearly to the voxels of the crop that starts at ``origin``."""
        result: FloatArray = _apply(values, self.back)
        return result


def cut_grid(volume: Volume, ellipse: InPlaneEllipse) -> Grid:
    """Cut the box that a lesion measured by ``ellipse`` can reach."""
    a = ellipse.semi_long_mm
    spacing = volume.spacing_mm
    half_width, half_depth = 1.6 * a + 4, 2.2 * a + 2 * spacing[0]
    step = max(sqrt(spacing[1] * spacing[2]), half_width / HALF_WIDTH_STEPS)
    step_z = spacing[0] if spacing[0] >= 0.75 * step else step
    centre = (ellipse.slice_index * spacing[0], ellipse.centre_mm[1], ellipse.centre_mm[0])
    steps, reach = (step_z, step, step), (half_depth, half_width, half_width)
    axes = [
        _cut_axis(centre[i], steps[i], reach[i], spacing[i], volume.voxels.shape[i], in_plane=i > 0) for i in range(3)
    ]
    voxels = np.clip(volume.voxels[tuple(axis.crop for axis in axes)], -HU_LIMIT, HU_LIMIT).astype(np.float32)
    over_z, over_y, over_x = axes
    return Grid(
        image=_apply(voxels, (over_z.forward, over_y.forward, over_x.forward)),
        on_image=over_z.on_image[:, None, None] & over_y.on_image[:, None] & over_x.on_image,
        z=over_z.offset,
        y=over_y.offset,
        x=over_x.offset,
        step_z=step_z,
        step=step,
        middle=len(over_z.offset) // 2,
        origin=(over_z.crop.start, over_y.crop.start, over_x.crop.start),
        back=(over_z.back, over_y.back, over_x.back),
    )


@dataclass(frozen=True, slots=True, eq=False)
class _Axis:
    """One axis of the grid: offsets in millimetres, matrices to and from the voxels of ``crop``."""

    offset: FloatArray
    on_image: BoolArray
    crop: slice
    forward: FloatArray
    back: FloatArray


def _cut_axis(centre: float, step: float, reach: float, spacing: float, size: int, *, in_plane: bool) -> _Axis:
    n = ceil(reach / step)
    offset = np.arange(-n, n + 1, dtype=np.float64) * step
    position = (centre + offset) / spacing
    low = min(max(int(np.floor(position[0])), 0), size - 1)
    high = max(min(int(np.ceil(position[-1])) + 1, size), low + 1)
    coarsening = step / spacing
    weights = _interpolation(position - low, high - low)
    if coarsening > 1 + 1e-9:
        weights = weights @ _blur(high - low, 0.45 * sqrt(coarsening**2 - 1))
    if in_plane:
        weights = _blur(len(position), 0.3) @ weights
    voxel_at = (np.arange(low, high, dtype=np.float64) * spacing - centre) / step + n
    return _Axis(
        offset=offset.astype(np.float32),
        on_image=(position > -0.5) & (position < size - 0.5),
        crop=slice(low, high),
        forward=weights.astype(np.float32),
        back=_interpolation(voxel_at, len(position)).astype(np.float32),
    )


def _interpolation(position: NDArray[np.float64], size: int) -> NDArray[np.float64]:
    """(positions, size) matrix of linear interpolation; a position beyond an end reads that end."""
    at = np.clip(position, 0, size - 1)
    left = np.minimum(at.astype(np.intp), max(size - 2, 0))
    fraction = at - left
    weights = np.zeros((len(at), size))
    rows = np.arange(len(at))
    weights[rows, left] = 1 - fraction
    weights[rows, np.minimum(left + 1, size - 1)] += fraction
    return weights


def _blur(size: int, sigma: float) -> NDArray[np.float64]:
    """(size, size) Gaussian whose rows sum to one, so that a border neither darkens nor brightens."""
    distance = np.subtract.outer(np.arange(size), np.arange(size))
    weights = np.where(np.abs(distance) <= 4 * sigma + 0.5, np.exp(-0.5 * (distance / sigma) ** 2), 0)
    result: NDArray[np.float64] = weights / weights.sum(axis=1, keepdims=True)
    return result


def _apply(values: FloatArray, matrices: tuple[FloatArray, FloatArray, FloatArray]) -> FloatArray:
    """Multiply each axis of (z, y, x) ``values`` by its matrix."""
    over_z, over_y, over_x = matrices
    in_plane = over_y @ (values @ over_x.T)
    result: FloatArray = np.tensordot(over_z, in_plane, axes=(1, 0))
    return result
