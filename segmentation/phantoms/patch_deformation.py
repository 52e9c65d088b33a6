"""Real lesions, deformed: each gives many training patches that differ in pose, size, shape, density and noise."""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray
from scipy.ndimage import gaussian_filter, map_coordinates

from segmentation.metrics import longest_diameter_mm
from segmentation.phantoms.canvas import FloatArray, Vec
from segmentation.phantoms.patch_grids import Grid, grid_for, smooth_noise
from segmentation.phantoms.patch_scenery import add_noise
from segmentation.phantoms.types import PhantomError
from segmentation.types import Volume

BoolArray = NDArray[np.bool_]

_MARGIN_VOXELS = 3
_BEND = 0.022
"""Deviation of the elastic displacement, in longest diameters."""
_LEAST_BLUR = 0.12
"""Below this deviation in voxels a Gaussian changes nothing."""


def augmented_volume(rng: np.random.Generator, volume: Volume, truth: BoolArray) -> tuple[FloatArray, BoolArray, Vec]:
    """Deform a real lesion with its surroundings; see ``patches.augmented_real``."""
    if truth.shape != volume.voxels.shape:
        raise PhantomError(f"truth must have the volume's shape {volume.voxels.shape}, got {truth.shape}")
    if not truth.any():
        raise PhantomError("the truth is empty: there is no lesion to deform")
    spacing = np.array(volume.spacing_mm)
    low, high = _bounds(truth)
    box = tuple(slice(a, b) for a, b in zip(low, high, strict=True))
    diameter = longest_diameter_mm(truth[box], volume.spacing_mm)
    scale = np.exp(rng.normal(0, 0.15) + rng.normal(0, (0.1, 0.05, 0.05)))
    sides = (high - low) * spacing * scale
    middle = (low + high - 1) / 2
    grid = grid_for(
        extent_mm=1.12 * float(sides[1:].max()),
        height_mm=1.06 * float(sides[0]),
        diameter_mm=diameter * float(scale[1:].max()),
        pixel_mm=float(spacing[1] * rng.uniform(0.85, 1.2)),
        thickness_mm=float(spacing[0] * rng.uniform(0.85, 1.4)),
        room_mm=_room(truth.shape, spacing * scale, middle),
    )
    coordinates = _source_mm(rng, grid, scale, diameter)
    coordinates /= spacing[:, None, None, None].astype(np.float32)
    coordinates += middle[:, None, None, None].astype(np.float32)
    coordinates = _within_scan(coordinates, truth.shape)
    blur_z, blur_y, blur_x = 0.35 * np.maximum(np.array(grid.spacing_mm) / (spacing * scale) - 1, 0)
    blur = (float(blur_z), float(blur_y), float(blur_x))
    mask = _moved_mask(truth, low, high, coordinates, blur)
    first, last = _needed(coordinates, truth.shape)
    source = volume.voxels[tuple(slice(a, b) for a, b in zip(first, last, strict=True))].astype(np.float32)
    coordinates -= first[:, None, None, None].astype(np.float32)
    if max(blur) > _LEAST_BLUR:
        source = gaussian_filter(source, blur, truncate=2)
    hu = map_coordinates(source, coordinates, output=np.float32, order=1, mode="nearest")
    hu = (hu - 40) * np.float32(np.exp(rng.normal(0, 0.06))) + np.float32(40 + rng.normal(0, 10))
    if rng.random() < 0.5:
        add_noise(rng, hu, grid.spacing_mm)
    return hu, mask, grid.spacing_mm


def _moved_mask(
    truth: BoolArray,
    low: NDArray[np.intp],
    high: NDArray[np.intp],
    coordinates: FloatArray,
    blur: Vec,
) -> BoolArray:
    """Look ``truth``, set from ``low`` to below ``high``, up at (3, ...) index coordinates."""
    low, high = np.maximum(low - 2, 0), np.minimum(high + 2, truth.shape)
    part = truth[tuple(slice(a, b) for a, b in zip(low, high, strict=True))].astype(np.float32)
    if max(blur) > _LEAST_BLUR:
        part = gaussian_filter(part, blur, truncate=2)
    near = np.ones(coordinates.shape[1:], dtype=np.bool_)
    for axis in range(3):
        near &= (coordinates[axis] >= low[axis]) & (coordinates[axis] <= high[axis] - 1)
    mask = np.zeros(near.shape, dtype=np.bool_)
    inside = coordinates[:, near] - low[:, None].astype(np.float32)
    mask[near] = map_coordinates(part, inside, output=np.float32, order=1, mode="nearest") > 0.5
    return mask


def _bounds(truth: BoolArray) -> tuple[NDArray[np.intp], NDArray[np.intp]]:
    """First index and one past the last, along each axis, where ``truth`` is set."""
    hits = [np.flatnonzero(truth.any(axis=tuple(a for a in range(3) if a != axis))) for axis in range(3)]
    return np.array([hit[0] for hit in hits]), np.array([hit[-1] + 1 for hit in hits])


def _room(shape: tuple[int, ...], voxel_mm: NDArray[np.float64], middle: NDArray[np.float64]) -> Vec:
    """Sides of the box round ``middle`` that reaches the farther border of the scan on each axis."""
    z, y, x = (2 * max(m, n - 1 - m) * step for n, step, m in zip(shape, voxel_mm, middle, strict=True))
    return float(z), float(y), float(x)


def _within_scan(coordinates: FloatArray, shape: tuple[int, ...]) -> FloatArray:
    """Leave out slices, rows and columns beyond the scan; in the corners that a turn leaves, its border goes on.

    Image and mask are looked up at these same places: nothing that looks like the lesion is outside its mask.
    """
    last = np.array(shape, dtype=np.float32)[:, None, None, None] - 1
    inside: BoolArray = np.all((coordinates >= -0.5) & (coordinates <= last + 0.5), axis=0)
    for axis in range(3):
        share = inside.mean(axis=tuple(other for other in range(3) if other != axis))
        kept = np.flatnonzero(share >= share.max() / 2)
        window = slice(int(kept[0]), int(kept[-1]) + 1)
        coordinates = coordinates[(slice(None),) * (axis + 1) + (window,)]
        inside = inside[(slice(None),) * axis + (window,)]
    return np.clip(coordinates, 0, last)


def _source_mm(rng: np.random.Generator, grid: Grid, scale: NDArray[np.float64], diameter_mm: float) -> FloatArray:
    """(3, slice, row, column): where each voxel comes from, mm from the lesion's middle."""
    z, y, x = grid.axes()
    points = np.empty((3, *grid.shape), dtype=np.float32)
    points[0], points[1], points[2] = z[:, None, None], y[:, None], x
    step = max(0.45 * diameter_mm, 4.0)
    for axis in range(3):
        wave = smooth_noise(rng, grid.axes(), step)
        points[axis] += np.float32(_BEND * diameter_mm) * wave
    mirror = np.diag(rng.choice((-1.0, 1.0), 3))
    turns = (rng.normal(0, 0.25), rng.normal(0, 0.12), rng.normal(0, 0.12))
    matrix = mirror @ _rotation(turns) / scale[:, None]
    moved: FloatArray = np.tensordot(matrix.astype(np.float32), points, axes=1)
    return moved


def _rotation(turns: tuple[float, float, float]) -> NDArray[np.float64]:
    """Rotation in (z, y, x) by radians about z, then y, then x."""
    result = np.eye(3)
    for axis, turn in enumerate(turns):
        a, b = (i for i in range(3) if i != axis)
        step = np.eye(3)
        step[a, a] = step[b, b] = np.cos(turn)
        step[a, b], step[b, a] = np.sin(turn), -np.sin(turn)
        result = step @ result
    return result


def _needed(coordinates: FloatArray, shape: tuple[int, ...]) -> tuple[NDArray[np.intp], NDArray[np.intp]]:
    """Index box of the source that the coordinates touch, a little wider."""
    low = np.floor(coordinates.min(axis=(1, 2, 3))).astype(np.intp) - _MARGIN_VOXELS
    high = np.ceil(coordinates.max(axis=(1, 2, 3))).astype(np.intp) + _MARGIN_VOXELS + 1
    return np.clip(low, 0, np.array(shape) - 1), np.clip(high, 1, np.array(shape))
