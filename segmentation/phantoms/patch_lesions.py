"""The lesion of a training patch: its outline, how its surroundings cut it, and its Hounsfield units."""

from __future__ import annotations

from math import ceil

import numpy as np
from numpy.typing import NDArray
from scipy.ndimage import binary_dilation, gaussian_filter, label

from segmentation.phantoms.canvas import FloatArray, Vec
from segmentation.phantoms.patch_backgrounds import Tissue
from segmentation.phantoms.patch_grids import Axes, smooth_noise
from segmentation.phantoms.patch_outlines import Outline

BoolArray = NDArray[np.bool_]

_LEAST_LEFT = 0.3
"""Part of a lesion that its surroundings must leave."""
_MOST_SUBSLICES = 5


def lesion_hu(rng: np.random.Generator, hu: FloatArray, tissue: Tissue) -> float:
    """Draw the density of the lesion's own tissue, given the (slice, row, column) patch it will lie in."""
    if tissue is Tissue.LUNG:
        return float(rng.uniform(-680, -300) if rng.random() < 0.22 else rng.normal(40, 25))
    if tissue is Tissue.BONE:
        kind = rng.random()
        return float(rng.uniform(10, 100) if kind < 0.65 else rng.uniform(350, 900))
    if tissue is Tissue.FAT:
        return float(rng.uniform(-75, -10) if rng.random() < 0.12 else rng.uniform(15, 115))
    centre = hu[tuple(slice(n // 4, max(n - n // 4, n // 4 + 1)) for n in hu.shape)]
    soft = centre[(centre > -20) & (centre < 180)]
    around = float(np.median(soft)) if len(soft) > 20 else 50.0
    kind = rng.random()
    if kind < 0.3:
        return around + float(rng.uniform(-10, 10))
    if kind < 0.75:
        return max(around - float(rng.uniform(8, 45)), float(rng.uniform(-5, 15)))
    return around + float(rng.uniform(10, 90))


def paint_lesion(
    rng: np.random.Generator,
    hu: FloatArray,
    axes: Axes,
    outline: Outline,
    tissue: Tissue,
    *,
    base_hu: float,
    blur: Vec,
    simple: bool,
) -> BoolArray | None:
    """Put the lesion into ``hu``.

    Parameters
    ----------
    hu
        (slice, row, column) patch, changed in place.
    axes
        (z, y, x) mm of its voxel centres from the lesion's middle.
    blur
        Deviation of the scanner's blur in voxels (slice, row, column).

    Returns
    -------
    (slice, row, column) boolean, the voxels that the lesion fills by more than half, in one piece; None where its
    surroundings leave too little of it.

    """
    box, near = _box(axes, outline)
    if not simple and outline.tube_mm is not None:
        _paint_tube(rng, hu, axes, outline)
    level, part = _occupancy(near, axes, outline)
    full = float(part.sum())
    target = hu[box]
    if not simple:
        _cut(rng, target, part, tissue)
    truth = part > 0.5
    pieces, n = label(truth)
    if n == 0:
        return None
    if n > 1:
        sizes = np.bincount(pieces.ravel())[1:]
        truth = pieces == 1 + int(np.argmax(sizes))
        part *= binary_dilation(truth, iterations=2)
    if truth.sum() < _LEAST_LEFT * full:
        return None
    inside = _inside(rng, near, level, outline=outline, base_hu=base_hu, tissue=tissue, simple=simple)
    if not simple:
        _halo(rng, target, level, near=near, outline=outline, tissue=tissue)
    inside += _grain(target) * np.float32(rng.uniform(0.5, 1))
    if not simple and rng.random() < 0.25:
        blur = (blur[0], blur[1] + float(rng.uniform(0, 1.5)), blur[2] + float(rng.uniform(0, 1.5)))
    seen = gaussian_filter(part, blur, truncate=2.5)
    target += seen * (inside - target)
    whole = np.zeros(hu.shape, dtype=np.bool_)
    whole[box] = truth
    return whole


def _box(axes: Axes, outline: Outline) -> tuple[tuple[slice, slice, slice], Axes]:
    """Index box of the patch that holds the lesion and its blur, and the axes within."""
    half = (0.55 * outline.height_mm, 0.55 * outline.extent_mm, 0.55 * outline.extent_mm)
    parts = []
    for axis, reach in zip(axes, half, strict=True):
        step = float(axis[1] - axis[0])
        start, stop = np.searchsorted(axis, (-reach - 3 * step, reach + 3 * step))
        parts.append(slice(int(start), int(stop)))
    z, r, c = parts
    return (z, r, c), (axes[0][z], axes[1][r], axes[2][c])


def _occupancy(near: Axes, axes: Axes, outline: Outline) -> tuple[FloatArray, FloatArray]:
    """Level (mm) and part filled of each voxel of the box: several sections a slice, each antialiased in plane."""
    z, y, x = near
    thick, pixel = float(axes[0][1] - axes[0][0]), float(axes[1][1] - axes[1][0])
    n = min(max(ceil(thick / (1.2 * pixel)), 1), _MOST_SUBSLICES)
    offsets = ((np.arange(n) + 0.5) / n - 0.5) * thick
    fine = (z[:, None] + offsets[None, :]).ravel().astype(np.float32)
    level = outline.level_mm(fine, y, x)
    slope = np.zeros_like(level)
    slope[:, 1:-1] = np.square(level[:, 2:] - level[:, :-2])
    slope[:, :, 1:-1] += np.square(level[:, :, 2:] - level[:, :, :-2])
    np.sqrt(slope, out=slope)
    slope *= 0.5
    np.maximum(slope, 0.15 * pixel, out=slope)
    part = np.clip(level / slope + 0.5, 0, 1)
    shape = (len(z), n, len(y), len(x))
    return level.reshape(shape).mean(axis=1), part.reshape(shape).mean(axis=1)


def _cut(rng: np.random.Generator, hu: FloatArray, part: FloatArray, tissue: Tissue) -> None:
    """Take away from ``part`` what the surroundings do not give room to."""
    smooth = gaussian_filter(hu, (0, 0.7, 0.7), truncate=2)
    open_to = np.ones_like(hu)

    def below(limit: float, width: float) -> None:
        np.minimum(open_to, np.clip((limit - smooth) / width + 0.5, 0, 1), out=open_to)

    def above(limit: float, width: float) -> None:
        np.minimum(open_to, np.clip((smooth - limit) / width + 0.5, 0, 1), out=open_to)

    if tissue is Tissue.LUNG:
        if rng.random() < 0.5:
            below(-300, 200)
        elif rng.random() < 0.7:
            below(160, 80)
    else:
        if rng.random() < 0.95:
            above(-350, 200)
        if tissue is Tissue.BONE:
            if rng.random() < 0.4:
                above(110, 60)
        elif rng.random() < 0.88:
            below(rng.uniform(170, 230), 60)
        if tissue is Tissue.SOFT and rng.random() < 0.35:
            above(-35, 40)
    part *= open_to
    part[:] = gaussian_filter(part, (0, 0.6, 0.6), truncate=2)


def _inside(
    rng: np.random.Generator,
    near: Axes,
    level: FloatArray,
    *,
    outline: Outline,
    base_hu: float,
    tissue: Tissue,
    simple: bool,
) -> FloatArray:
    """Hounsfield units of the lesion over its box."""
    if simple:
        return np.full(level.shape, base_hu, dtype=np.float32)
    radius = 0.5 * outline.diameter_mm
    coarse, fine = (smooth_noise(rng, near, step * radius) for step in (0.55, rng.uniform(0.12, 0.3)))
    glassy = base_hu < -200
    strength = rng.uniform(20, 70) if glassy or base_hu > 300 else rng.gamma(2.0, 3.0)
    hu = np.float32(base_hu) + np.float32(strength) * (np.float32(0.8) * coarse + np.float32(0.6) * fine)
    if rng.random() < 0.3:  # patches of another tissue: myxoid, fatty, bleeding, better perfused
        other = rng.uniform(-110, -40) if tissue is not Tissue.LUNG and rng.random() < 0.2 else rng.uniform(-25, 35)
        share = np.clip((coarse - rng.uniform(0.2, 1.2)) * 4, 0, 1)
        hu += share * np.float32(other)
    depth = level / np.float32(max(float(level.max()), 1e-3))
    if rng.random() < 0.25:  # necrosis, a cavity, or the solid part of a ground glass lesion
        value = _core_hu(rng, base_hu, tissue)
        share = np.clip((depth + 0.12 * coarse - rng.uniform(0.25, 0.65)) / rng.uniform(0.05, 0.3), 0, 1)
        hu += share * (np.float32(value) - hu)
    if rng.random() < 0.18:  # rim: enhancing, or sclerotic in bone
        bright = rng.uniform(150, 500) if tissue is Tissue.BONE else rng.uniform(15, 60)
        hu += np.float32(bright) * np.exp(-np.square((level - radius * 0.1) / np.float32(max(0.1 * radius, 0.8))))
    if rng.random() < 0.1 and not glassy:  # calcification, ossification
        share = np.clip((fine + 0.5 * coarse - rng.uniform(1.3, 2.0)) * 3, 0, 1)
        hu += share * np.float32(rng.uniform(100, 600))
    return hu


def _core_hu(rng: np.random.Generator, base_hu: float, tissue: Tissue) -> float:
    if base_hu < -200:
        return float(rng.uniform(-50, 50))
    if tissue is Tissue.LUNG and rng.random() < 0.35:
        return float(rng.uniform(-950, -750))
    return float(rng.uniform(0, 30))


def _grain(hu: FloatArray) -> FloatArray:
    """Noise of the background itself over the box, so that the lesion is as noisy as what it lies in.

    Turned by 180 degrees: what is left of edges must not shine through in its place.
    """
    grain = hu - gaussian_filter(hu, (0, 1.3, 1.3), truncate=2)
    limit = 2.5 * float(np.median(np.abs(grain[::2, ::2, ::2]))) + 0.5
    clipped: FloatArray = np.clip(grain[:, ::-1, ::-1], -limit, limit)
    return clipped


def _halo(
    rng: np.random.Generator, hu: FloatArray, level: FloatArray, *, near: Axes, outline: Outline, tissue: Tissue
) -> None:
    """Thin plane of fat round a mass in soft tissue, here and there."""
    if tissue is not Tissue.SOFT or rng.random() > (0.75 if outline.push > 0 else 0.2):
        return
    wide = rng.uniform(0.6, 0.6 + min(3.0, 0.06 * outline.diameter_mm))
    pixel = float(near[1][1] - near[1][0])
    share = np.clip((level + wide) / pixel + 0.5, 0, 1)
    share *= np.clip(0.6 * smooth_noise(rng, near, 0.3 * outline.diameter_mm) + rng.uniform(-0.2, 0.8), 0, 0.9)
    share *= (hu > -150) & (hu < 180)
    hu += share * (np.float32(rng.uniform(-105, -70)) - hu)


def _paint_tube(rng: np.random.Generator, hu: FloatArray, axes: Axes, outline: Outline) -> None:
    """Vessel or long bone that the lesion wraps."""
    z, y, x = axes
    level = outline.tube_level_mm(z, y, x)
    pixel = float(y[1] - y[0])
    part = np.clip(level / pixel + 0.5, 0, 1)
    if rng.random() < 0.6 and level.max() > 5:
        hu += part * (np.float32(rng.uniform(700, 1400)) - hu)
        wall = rng.uniform(2.5, 5)
        part = np.clip((level - wall) / pixel + 0.5, 0, 1)
        hu += part * (np.float32(rng.uniform(-90, 60)) - hu)
    else:
        hu += part * (np.float32(rng.uniform(80, 260) if rng.random() < 0.7 else rng.uniform(35, 60)) - hu)
