"""What makes a patch hard: vessels, organs and blobs of the lesion's own density beside it, and noise over all."""

from __future__ import annotations

import numpy as np
from scipy.ndimage import gaussian_filter, gaussian_filter1d

from segmentation.phantoms.canvas import FloatArray, Vec
from segmentation.phantoms.patch_backgrounds import Tissue
from segmentation.phantoms.patch_grids import Axes, smooth_noise
from segmentation.phantoms.patch_outlines import Outline

_BODY_HU = -300.0
"""Neighbours are drawn into the body only, not into the air round it."""


def add_distractors(
    rng: np.random.Generator, hu: FloatArray, axes: Axes, *, outline: Outline, tissue: Tissue, base_hu: float
) -> None:
    """Draw neighbours of a lesion of density ``base_hu`` into ``hu`` (slice, row, column); the lesion comes later."""
    solid = base_hu if base_hu > -200 else float(rng.normal(40, 25))
    if tissue is not Tissue.BONE and rng.random() < 0.28:
        value = solid + float(rng.uniform(-25, 25))
        _add_organ(rng, hu, axes, outline=outline, tissue=tissue, value=value)
    for _ in range(int(rng.integers(0, 3)) if rng.random() < 0.5 else 0):
        value = solid + float(rng.uniform(-20, 20))
        _add_blob(rng, hu, axes, outline=outline, tissue=tissue, value=value)
    for _ in range(int(rng.integers(0, 4))):
        bright = rng.random() < 0.5 and tissue is not Tissue.LUNG
        value = solid + float(rng.uniform(40, 160) if bright else rng.uniform(-20, 25))
        _add_vessel(rng, hu, axes, outline=outline, tissue=tissue, value=value)


def _blend(hu: FloatArray, part: FloatArray, value: FloatArray | float, tissue: Tissue) -> None:
    if tissue is not Tissue.LUNG:
        part = part * (hu > _BODY_HU)
    hu += part * (value - hu)


def _add_organ(
    rng: np.random.Generator, hu: FloatArray, axes: Axes, *, outline: Outline, tissue: Tissue, value: float
) -> None:
    """A half space with a wavy border that may touch the lesion."""
    z, y, x = axes
    direction = rng.standard_normal(3) * (0.6, 1.0, 1.0)
    direction /= np.linalg.norm(direction)
    nz, ny, nx = (np.float32(v) for v in direction)
    far = outline.diameter_mm * rng.uniform(0.35, 1.0)
    level = nz * z[:, None, None] + (ny * y[:, None] + nx * x) - np.float32(far)
    wave = smooth_noise(rng, axes, max(0.5 * outline.diameter_mm, 6.0))
    pixel = float(y[1] - y[0])
    part = np.clip((level + np.float32(0.12 * outline.diameter_mm) * wave) / pixel + 0.5, 0, 1).astype(np.float32)
    _blend(hu, part, np.float32(value) + np.float32(4) * wave, tissue)


def _add_blob(
    rng: np.random.Generator, hu: FloatArray, axes: Axes, *, outline: Outline, tissue: Tissue, value: float
) -> None:
    """A round neighbour: a node, a bowel loop, another nodule."""
    radii = outline.diameter_mm * rng.uniform(0.1, 0.3) * rng.uniform(0.7, 1.4, 3)
    direction = rng.standard_normal(3)
    direction /= np.linalg.norm(direction)
    half = np.array([outline.height_mm, outline.diameter_mm, outline.diameter_mm]) / 2
    centre = direction * (half * rng.uniform(0.7, 1.1) + radii * rng.uniform(0.5, 1.3))
    box = tuple(
        slice(*(int(v) for v in np.searchsorted(axis, (c - r - 2, c + r + 2))))
        for axis, c, r in zip(axes, centre, radii, strict=True)
    )
    z, y, x = (axis[part] for axis, part in zip(axes, box, strict=True))
    if not (len(z) and len(y) and len(x)):
        return
    q = ((z - centre[0]) / radii[0])[:, None, None] ** 2
    q = q + ((y - centre[1]) / radii[1])[:, None] ** 2 + ((x - centre[2]) / radii[2]) ** 2
    pixel = float(axes[1][1] - axes[1][0])
    part = np.clip((1 - np.sqrt(q)) * radii.min() / pixel + 0.5, 0, 1).astype(np.float32)
    _blend(hu[box], part, value, tissue)


def _add_vessel(
    rng: np.random.Generator, hu: FloatArray, axes: Axes, *, outline: Outline, tissue: Tissue, value: float
) -> None:
    """A winding tube past the lesion or into it, stamped section by section along its main axis."""
    main = int(rng.choice(3, p=(0.5, 0.25, 0.25)))
    others = [axis for axis in range(3) if axis != main]
    along = axes[main]
    radius = float(np.clip(outline.diameter_mm * rng.uniform(0.02, 0.1), 0.8, 7))
    turn, away = rng.uniform(0, 2 * np.pi), outline.diameter_mm * rng.uniform(0.3, 0.75)
    reach = float(along[-1])
    paths = []
    for start in (away * np.sin(turn), away * np.cos(turn)):
        slope, wave = rng.uniform(-0.5, 0.5), rng.uniform(0, 0.12) * reach
        bend = wave * np.sin(along / reach * rng.uniform(1, 4) + rng.uniform(0, 6))
        paths.append((start + slope * along + bend).astype(np.float32))
    u, v = axes[others[0]], axes[others[1]]
    pixel = float(axes[1][1] - axes[1][0])
    sections = np.moveaxis(hu, main, 0)
    for section, cu, cv in zip(sections, *paths, strict=True):
        a, b = np.searchsorted(u, (cu - radius - pixel, cu + radius + pixel))
        c, d = np.searchsorted(v, (cv - radius - pixel, cv + radius + pixel))
        if a == b or c == d:
            continue
        part = np.clip((radius - np.hypot(u[a:b, None] - cu, v[c:d] - cv)) / pixel + 0.5, 0, 1)
        _blend(section[a:b, c:d], part.astype(np.float32), value, tissue)


def add_noise(rng: np.random.Generator, hu: FloatArray, spacing_mm: Vec) -> None:
    """Add the noise of a scanner, in place: white, correlated, or in streaks where the dose was low.

    A coarse patch stands for an average over fine pixels: its noise is weaker.
    """
    strength = float(np.exp(rng.uniform(np.log(2), np.log(32)))) * min(1.0, 0.9 / spacing_mm[1]) ** 0.7
    noise = rng.standard_normal(hu.shape, dtype=np.float32)
    kind = rng.random()
    if kind < 0.45:
        noise = gaussian_filter(noise, (0, (wide := rng.uniform(0.4, 1.2)), wide), truncate=2.5)
    elif kind < 0.75:  # photon starvation: streaks across the body, roughly along the rows
        noise = gaussian_filter1d(noise, rng.uniform(1.5, 5), axis=2 if rng.random() < 0.8 else 1, truncate=2.5)
        noise += 0.25 * rng.standard_normal(hu.shape, dtype=np.float32) * noise.std()
    noise *= np.float32(strength / max(float(noise[::3, ::2, ::2].std()), 1e-6))
    # Air is less noisy than the body.
    noise *= np.clip((hu + 1400) / 1400, 0.3, 1)
    if rng.random() < 0.15:  # bands between dense bones
        bands = gaussian_filter(rng.standard_normal(hu.shape[:2], dtype=np.float32), (1.5, rng.uniform(2, 6)))
        noise += np.float32(rng.uniform(5, 20) / bands.std()) * bands[:, :, None] * (hu > _BODY_HU)
    hu += noise
