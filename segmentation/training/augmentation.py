"""Other scans and other hands than those of the cache: mirrored volumes, other greys, frames moved and scaled."""

from __future__ import annotations

from dataclasses import replace

import numpy as np
from numpy.typing import NDArray

from segmentation.geometry import crop_affine
from segmentation.sam2ct.frames import Frame
from segmentation.training.config import Augmentation
from segmentation.types import Volume

PIVOT_HU = 40.0
"""Soft tissue: contrast is changed about it."""
_LOWEST, _HIGHEST = (-500.0, -100.0), (150.0, 500.0)
"""Ranges of the two ends of a narrow window."""


def mirrored(
    volume: Volume, truth: NDArray[np.bool_], augmentation: Augmentation, rng: np.random.Generator
) -> tuple[Volume, NDArray[np.bool_]]:
    """Mirror any of the axes (slice, row, column), as views; the affine is left: only its spacing still holds."""
    flips = tuple(slice(None, None, -1) if mirror else slice(None) for mirror in rng.random(3) < augmentation.mirror)
    return replace(volume, voxels=volume.voxels[flips]), truth[flips]


def cut(volume: Volume, slices: slice, augmentation: Augmentation, rng: np.random.Generator) -> Volume:
    """Cut ``slices`` out of a volume, as another scanner or window might have shown them."""
    affine = crop_affine(volume.affine, (slices.start, 0, 0))
    voxels = other_greys(volume.voxels[slices], augmentation, rng)
    return Volume(
        voxels, affine, volume.frame_of_reference_uid, volume.series_instance_uid, volume.sop_instance_uids[slices]
    )


def other_greys(voxels: NDArray[np.int16], augmentation: Augmentation, rng: np.random.Generator) -> NDArray[np.int16]:
    """Change contrast and brightness, add noise, clip to a window; the numbers drawn do not depend on the voxels."""
    gain, offset = np.exp(rng.normal(0, augmentation.gain)), rng.normal(0, augmentation.offset_hu)
    noise = rng.uniform(0, augmentation.noise_hu)
    narrow, low, high = rng.random() < augmentation.narrow, rng.uniform(*_LOWEST), rng.uniform(*_HIGHEST)
    if not (augmentation.gain or augmentation.offset_hu or augmentation.noise_hu or narrow):
        return np.ascontiguousarray(voxels)
    hu = voxels.astype(np.float32)
    hu -= PIVOT_HU
    hu *= np.float32(gain)
    hu += np.float32(PIVOT_HU + offset)
    if augmentation.noise_hu:
        hu += np.float32(noise) * rng.standard_normal(hu.shape, dtype=np.float32)
    if narrow:
        np.clip(hu, low, high, out=hu)
    return np.rint(hu, out=hu).astype(np.int16)


def moved(frame: Frame, augmentation: Augmentation, rng: np.random.Generator) -> Frame:
    """Move and scale a region of interest: where the lesion is, the prompt must say, and not the middle.

    The frame of whole slices stays.
    """
    zoom = np.exp(rng.uniform(-augmentation.zoom, augmentation.zoom))
    down, right = rng.uniform(-augmentation.shift, augmentation.shift, 2)
    if frame.of is None:
        return frame
    _, rows, columns = frame.volume.voxels.shape
    (top, n_rows), (left, n_columns) = (
        _moved(start, length, shift, zoom, limit)
        for start, length, shift, limit in (
            (frame.top, frame.rows, down, rows),
            (frame.left, frame.columns, right, columns),
        )
    )
    return replace(frame, top=top, left=left, rows=n_rows, columns=n_columns)


def _moved(start: int, length: int, shift: float, zoom: float, limit: int) -> tuple[int, int]:
    """Begin and length of an interval after its move, inside ``limit``."""
    scaled = min(max(round(length * zoom), 2), limit)
    centre = start + length / 2 + shift * length
    return min(max(round(centre - scaled / 2), 0), limit - scaled), scaled


def window_around(prompted: int, n_slices: int, limit: int, rng: np.random.Generator) -> slice:
    """Choose ``n_slices`` of ``limit`` slices, the prompted one anywhere among them; all where there are fewer."""
    n_slices = min(n_slices, limit)
    first = min(max(prompted - int(rng.integers(n_slices)), 0), limit - n_slices)
    return slice(first, first + n_slices)
