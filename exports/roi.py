"""Which part of a volume is published with a lesion."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
from numpy.typing import ArrayLike, NDArray

from exports.types import ExportError, Index3

MARGIN_MM = 20.0
MIN_LENGTH_MM = 64.0
# Room in which the region is shifted at random. Without it a lesion larger than 24 mm would sit exactly in the centre,
# because twice the margin already exceeds the minimum length.
SHIFT_ROOM_MM = 20.0


def choose_roi(
    bbox: Sequence[int],
    points_index: ArrayLike,
    volume_shape: Sequence[int],
    spacing_mm: Sequence[float],
    rng: np.random.Generator,
    *,
    margin_mm: float = MARGIN_MM,
    minimum_mm: float = MIN_LENGTH_MM,
) -> tuple[Index3, Index3]:
    """Choose the region of interest of one lesion: everything in (slice, row, column) order.

    The union of mask and annotation with at least ``margin_mm`` on each side and at least ``minimum_mm`` long on
    every axis, less only where the volume ends. Where in that region the lesion lies is drawn from ``rng``: a model
    must not learn that lesions sit in the centre.

    Parameters
    ----------
    bbox
        Half-open box of the mask in the volume: lower slice, row, column, then upper (exclusive) slice, row, column.
    points_index
        (n, 3) pixel-centre indices of the annotation's points; n may be 0. Points outside the volume count as on its
        border.
    volume_shape
        Number of slices, rows and columns.
    spacing_mm
        Voxel spacing along (slice, row, column).
    rng
        Generator keyed by the lesion (``Pseudonyms.rng``), so that the same lesion always gets the same region.
    margin_mm, minimum_mm
        Least distance from the content to each face, and least length of each axis.

    Returns
    -------
    ``origin`` (index of the region's first voxel in the volume) and ``shape``.

    Raises
    ------
    ExportError
        If the box is empty or leaves the volume, the spacing is not positive, or a point is not finite.

    """
    shape = np.asarray(volume_shape, dtype=np.int64)
    spacing = np.asarray(spacing_mm, dtype=np.float64)
    lower, upper = _content(bbox, points_index, shape)
    if spacing.shape != (3,) or not (np.isfinite(spacing) & (spacing > 0)).all():
        raise ExportError(f"spacing_mm must be three positive numbers, got {spacing.tolist()}")
    margin = np.ceil(margin_mm / spacing).astype(np.int64)
    first = np.maximum(lower - margin, 0)
    last = np.minimum(upper + margin, shape)
    needed_mm = (upper - lower + 2 * margin) * spacing
    length_mm = np.maximum(needed_mm + SHIFT_ROOM_MM, minimum_mm)
    length = np.minimum(np.ceil(length_mm / spacing).astype(np.int64), shape)
    earliest = np.maximum(last - length, 0)
    latest = np.minimum(first, shape - length)
    origin = rng.integers(earliest, latest, endpoint=True)
    return _index3(origin), _index3(length)


def _content(bbox: Sequence[int], points_index: ArrayLike, shape: NDArray[np.int64]) -> tuple[NDArray[np.int64], ...]:
    """Half-open box around mask and annotation, inside the volume."""
    box = np.asarray(bbox, dtype=np.int64)
    if box.shape != (6,) or (box[:3] >= box[3:]).any() or (box[:3] < 0).any() or (box[3:] > shape).any():
        raise ExportError(
            f"bbox must be lower then upper (slice, row, column) inside {shape.tolist()}, got {box.tolist()}"
        )
    points = np.asarray(points_index, dtype=np.float64).reshape(-1, 3)
    if not np.isfinite(points).all():
        raise ExportError("points_index must be finite")
    points = np.clip(points, 0, shape - 1)
    lower = np.vstack([box[:3], np.floor(points).astype(np.int64)]).min(axis=0)
    upper = np.vstack([box[3:], np.ceil(points).astype(np.int64) + 1]).max(axis=0)
    return lower, upper


def _index3(values: NDArray[np.int64]) -> Index3:
    s, r, c = (int(value) for value in values)
    return s, r, c
