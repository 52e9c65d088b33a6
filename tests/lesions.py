"""Small textured volumes with one lesion of known outline, for the tests of the pixel side."""

from __future__ import annotations

import numpy as np
import scipy.ndimage as ndi

from segmentation.geometry import volume_affine
from segmentation.types import Volume


def make_volume(voxels: np.ndarray, spacing_mm: tuple[float, float, float], *, tilt_mm: float = 0.0) -> Volume:
    """Axial volume; ``tilt_mm`` shifts each slice along the rows' direction, as a tilted gantry does."""
    n, position = len(voxels), np.array([-100.0, -120.0, 40.0])
    last = position + (n - 1) * np.array([0.0, tilt_mm, spacing_mm[0]])
    affine = volume_affine(tuple(position), tuple(last), n, (1, 0, 0, 0, 1, 0), spacing_mm[1:])
    uids = tuple(f"1.2.826.0.1.{i}" for i in range(n))
    return Volume(np.rint(voxels).astype(np.int16), affine, "1.2.826.0.2", "1.2.826.0.3", uids)


def lesion_in_tissue(
    *,
    seed: int = 0,
    radius_mm: float = 14.0,
    spacing_mm: tuple[float, float, float] = (2.5, 0.8, 0.8),
    shape: tuple[int, int, int] = (30, 96, 96),
    contrast_hu: float = 80.0,
    noise_hu: float = 12.0,
    centre: tuple[float, float, float] | None = None,
) -> tuple[Volume, np.ndarray]:
    """Lumpy ellipsoid, 1 : 0.8 : 0.9 (x, y, z), in textured tissue with a bright vessel and a dark wall beside it."""
    rng = np.random.default_rng(seed)
    middle = np.asarray(centre if centre is not None else [n / 2 for n in shape])
    z, y, x = (
        (np.arange(n).reshape([-1 if i == axis else 1 for i in range(3)]) - middle[axis]) * spacing_mm[axis]
        for axis, n in enumerate(shape)
    )
    sigma = [0.4 * radius_mm / s for s in spacing_mm]
    lumps = ndi.gaussian_filter(rng.standard_normal(shape), sigma)
    lumps *= 0.12 / lumps.std()
    truth = np.sqrt((x / 1.0) ** 2 + (y / 0.8) ** 2 + (z / 0.9) ** 2) / radius_mm + lumps < 1
    labels, _ = ndi.label(truth)
    truth = labels == np.bincount(labels[labels > 0]).argmax()
    texture = ndi.gaussian_filter(rng.standard_normal(shape), [1, 2, 2])
    voxels = 40 + 10 * texture / texture.std() + contrast_hu * ndi.gaussian_filter(truth.astype(float), 0.6)
    vessel = (y - 1.3 * radius_mm) ** 2 + (x + 0.4 * radius_mm) ** 2 < 9
    voxels = np.where(vessel, 180, voxels)
    voxels = np.where(np.broadcast_to(x < -1.8 * radius_mm, shape), -90, voxels)
    return make_volume(voxels + noise_hu * rng.standard_normal(shape), spacing_mm), truth
