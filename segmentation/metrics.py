"""How well a mask agrees with the truth, and how sure that figure is.

Masks are boolean arrays (slice, row, column) or one slice (row, column). A diameter runs between the outermost pixel
centres **plus one pixel along its direction**: the mask's pixels have an extent, and a line drawn from rim to rim
covers it. One convention everywhere, so that the mask's and the reader's lengths can be compared.
"""

from __future__ import annotations

from collections.abc import Sequence
from contextlib import suppress
from dataclasses import dataclass

import numpy as np
import scipy.ndimage as ndi
from numpy.typing import ArrayLike, NDArray
from scipy.spatial import ConvexHull, QhullError

BoolArray = NDArray[np.bool_]
FloatArray = NDArray[np.float64]


@dataclass(frozen=True, slots=True)
class Interval:
    """A mean and its bootstrap percentile interval."""

    mean: float
    low: float
    high: float

    def __str__(self) -> str:
        return f"{self.mean:.3f} [{self.low:.3f}, {self.high:.3f}]"


@dataclass(frozen=True, slots=True)
class Diameters:
    """Long axis of a section and the longest chord perpendicular to it, in millimetres; slice it was found on."""

    long_mm: float
    short_mm: float
    slice_index: int


def dice(first: BoolArray, second: BoolArray) -> float:
    """Twice the overlap over the sum of both sizes; 1 where both are empty.

    Raises
    ------
    ValueError
        If the shapes differ.

    """
    _require_same_shape(first, second)
    total = int(np.count_nonzero(first)) + int(np.count_nonzero(second))
    return 1.0 if total == 0 else 2 * int(np.count_nonzero(first & second)) / total


def volume_error(mask: BoolArray, truth: BoolArray) -> float:
    """Signed error of the volume as a fraction of the truth's: 0.1 is 10 % too large.

    Raises
    ------
    ValueError
        If the shapes differ or the truth is empty.

    """
    _require_same_shape(mask, truth)
    size = int(np.count_nonzero(truth))
    if size == 0:
        raise ValueError("the truth is empty: its volume has no relative error")
    return int(np.count_nonzero(mask)) / size - 1


def recist_error(mask: BoolArray, truth: BoolArray, spacing_mm: Sequence[float]) -> float:
    """Absolute difference of the longest in-plane diameters as a fraction of the truth's (SAM2CT, section 2.5).

    Raises
    ------
    ValueError
        If the shapes differ or the truth is empty.

    """
    _require_same_shape(mask, truth)
    true_mm = longest_diameter_mm(truth, spacing_mm)
    if true_mm == 0:
        raise ValueError("the truth is empty: its diameter has no relative error")
    return abs(longest_diameter_mm(mask, spacing_mm) - true_mm) / true_mm


def longest_diameter_mm(mask: BoolArray, spacing_mm: Sequence[float]) -> float:
    """Longest in-plane diameter (RECIST 1.1), over the slices of a 3D mask; 0 for an empty one.

    Parameters
    ----------
    mask
        (row, column) or (slice, row, column) boolean.
    spacing_mm
        (row, column) or (slice, row, column); the last two are used.

    """
    sections = mask[None] if mask.ndim == 2 else mask
    return max((_longest_chord(section, spacing_mm)[0] for section in sections if section.any()), default=0.0)


def long_and_short_diameter(mask: BoolArray, spacing_mm: Sequence[float]) -> Diameters:
    """Long axis of the slice where it is longest, and the mask's extent perpendicular to it there.

    Raises
    ------
    ValueError
        If the mask is empty.

    """
    sections = mask[None] if mask.ndim == 2 else mask
    found = [(*_longest_chord(section, spacing_mm), i) for i, section in enumerate(sections) if section.any()]
    if not found:
        raise ValueError("an empty mask has no diameter")
    long_mm, direction, index = max(found, key=lambda item: item[0])
    across = np.array([-direction[1], direction[0]])
    return Diameters(long_mm, extent_mm(sections[index], across, spacing_mm), index)


def extent_mm(mask: BoolArray, direction: ArrayLike, spacing_mm: Sequence[float]) -> float:
    """Width of a (row, column) mask along ``direction``, an (x, y) vector in millimetres; 0 for an empty one."""
    row_mm, column_mm = spacing_mm[-2:]
    rows, columns = np.nonzero(mask)
    if not rows.size:
        return 0.0
    u = np.asarray(direction, dtype=np.float64)
    u = u / np.linalg.norm(u)
    along = columns * column_mm * u[0] + rows * row_mm * u[1]
    return float(along.max() - along.min() + pixel_along(u, row_mm, column_mm))


def pixel_along(direction: FloatArray, row_mm: float, column_mm: float) -> float:
    """Length of one pixel along a unit (x, y) direction: the spacing on an axis, between the two off it."""
    return float(np.hypot(direction[0] * column_mm, direction[1] * row_mm))


def hausdorff95_mm(mask: BoolArray, truth: BoolArray, spacing_mm: Sequence[float]) -> float:
    """95th percentile of the distances between the two surfaces, pooled over both directions; nan if one is empty.

    Raises
    ------
    ValueError
        If the shapes differ.

    """
    _require_same_shape(mask, truth)
    if not (mask.any() and truth.any()):
        return float("nan")
    box = ndi.find_objects((mask | truth).astype(np.int8))[0]
    rims = [m & ~ndi.binary_erosion(m) for m in (np.pad(mask[box], 1), np.pad(truth[box], 1))]
    steps = tuple(spacing_mm[-mask.ndim :])
    distances = [ndi.distance_transform_edt(~rims[1 - i], steps)[rims[i]] for i in (0, 1)]
    return float(np.percentile(np.concatenate(distances), 95))


def bootstrap_ci(values: ArrayLike, n: int = 2000, seed: int = 0, level: float = 0.95) -> Interval:
    """Mean of ``values`` with its percentile interval; resample what is independent: lesions, not prompts.

    Raises
    ------
    ValueError
        If there is no value or one is not finite.

    """
    array = np.asarray(values, dtype=np.float64).ravel()
    if not array.size or not np.isfinite(array).all():
        raise ValueError(f"needs at least one value, all finite; got {array.size}")
    draws = np.random.default_rng(seed).integers(0, len(array), (n, len(array)))
    means = array[draws].mean(axis=1)
    low, high = np.quantile(means, [(1 - level) / 2, (1 + level) / 2])
    return Interval(float(array.mean()), float(low), float(high))


def paired_difference_ci(first: ArrayLike, second: ArrayLike, n: int = 2000, seed: int = 0) -> Interval:
    """Mean of ``first - second``, lesion by lesion, with its 95 % bootstrap interval.

    Raises
    ------
    ValueError
        If the lengths differ, or as `bootstrap_ci`.

    """
    a, b = np.asarray(first, dtype=np.float64), np.asarray(second, dtype=np.float64)
    if a.shape != b.shape:
        raise ValueError(f"paired values need equal shapes, got {a.shape} and {b.shape}")
    return bootstrap_ci(a - b, n, seed)


def _longest_chord(section: BoolArray, spacing_mm: Sequence[float]) -> tuple[float, FloatArray]:
    """Longest diameter of a non-empty (row, column) section in millimetres, and its (x, y) unit direction."""
    row_mm, column_mm = spacing_mm[-2:]
    rim = section & ~ndi.binary_erosion(section)
    points = np.argwhere(rim)[:, ::-1] * np.array([column_mm, row_mm])
    if len(points) > 8:
        with suppress(QhullError):  # all on one line: the points themselves serve
            points = points[ConvexHull(points).vertices]
    offsets = points[:, None] - points[None]
    lengths = np.hypot(offsets[..., 0], offsets[..., 1])
    i, j = np.unravel_index(int(lengths.argmax()), lengths.shape)
    length = float(lengths[i, j])
    u = offsets[i, j] / length if length > 0 else np.array([1.0, 0.0])
    return length + pixel_along(u, row_mm, column_mm), u


def _require_same_shape(first: BoolArray, second: BoolArray) -> None:
    if first.shape != second.shape:
        raise ValueError(f"masks need one grid, got shapes {first.shape} and {second.shape}")
