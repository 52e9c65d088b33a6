"""How well a mask agrees with the truth, and how sure that figure is.

Masks are boolean arrays (slice, row, column) or one slice (row, column). A diameter runs between the outermost pixel
centres **plus one pixel along its direction**: the mask's pixels have an extent, and a line drawn from rim to rim
covers it. One convention everywhere, so that the mask's and the reader's lengths can be compared.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from math import isnan

import numpy as np
import scipy.ndimage as ndi
from numpy.typing import ArrayLike, NDArray
from scipy.spatial.distance import pdist

BoolArray = NDArray[np.bool_]
FloatArray = NDArray[np.float64]

_COVERED = np.array([0, 1, 1, 4, 1, 4, 2, 7, 1, 2, 4, 7, 4, 7, 7, 8]) / 8
"""Share of a square inside the outline through its sides' middles, by which corners are set (bits 1, 2, 4, 8)."""


@dataclass(frozen=True, slots=True)
class Interval:
    """A mean and its bootstrap percentile interval; ``low`` and ``high`` are nan where one patient alone gave it."""

    mean: float
    low: float
    high: float

    def __str__(self) -> str:
        return self.text(3)

    @property
    def percent(self) -> str:
        """The same times 100, with one decimal."""
        return self.text(1, 100)

    def text(self, decimals: int, scale: float = 1) -> str:
        """Mean and interval times ``scale``; the mean alone where there is no interval."""
        mean, low, high = (f"{scale * value:.{decimals}f}" for value in (self.mean, self.low, self.high))
        return mean if isnan(self.low) else f"{mean} [{low}, {high}]"


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
    """95th percentile of the distances from each surface to the other, the larger of the two; nan if one is empty.

    A surface is the centres of the voxels with a side on the outside, as in MONAI's ``compute_hausdorff_distance``.

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
    return float(max(np.percentile(directed, 95) for directed in distances))


def normalised_surface_dice(
    mask: BoolArray, truth: BoolArray, spacing_mm: Sequence[float], tolerance_mm: float = 2.0
) -> float:
    """Share of both surfaces' area that lies within a tolerance of the other one (Nikolov et al., JMIR 2021, e26151).

    The ``surface-distance`` package's definition, and MONAI's with ``use_subvoxels=True``: surfaces run half-way
    between voxel centres and count by their area, as they must where slices are thick. Their areas come from a table
    of triangles, these from the outline on the sides of each cell: 0.001 apart on average over 180 generated lesions
    with a radius of 4 to 12 mm, at most 0.005.

    Parameters
    ----------
    mask, truth
        (slice, row, column) boolean.
    spacing_mm
        (slice, row, column).

    Returns
    -------
    float
        In [0, 1]; 1 where both are empty, 0 where one is.

    Raises
    ------
    ValueError
        If the shapes differ or the masks are not 3D.

    """
    _require_same_shape(mask, truth)
    if mask.ndim != 3:
        raise ValueError(f"a surface needs (slice, row, column) masks, got {mask.ndim}D")
    if not (mask.any() and truth.any()):
        return 0.0 if mask.any() or truth.any() else 1.0
    box = ndi.find_objects((mask | truth).astype(np.int8))[0]
    surfaces = [_surface_mm2(np.pad(m[box], 1), spacing_mm) for m in (mask, truth)]
    near = total = 0.0
    for (cells, area), (others, _) in (surfaces, surfaces[::-1]):
        distance = ndi.distance_transform_edt(~others, tuple(spacing_mm))
        near += float(area[cells & (distance <= tolerance_mm)].sum())
        total += float(area[cells].sum())
    return near / total


def dice_by_distance(mask: BoolArray, truth: BoolArray, slice_index: int) -> dict[int, float]:
    """2D Dice of every slice of the truth by its distance from the prompted one (SAM2CT, Figure 5).

    Only slices that hold some of the truth count: they are the same ones for every engine. What a mask adds beyond
    the lesion's ends is seen by `dice` and `volume_error`.

    Parameters
    ----------
    mask, truth
        (slice, row, column) boolean.
    slice_index
        Slice of the prompt; it may lie outside the truth.

    Returns
    -------
    dict of int to float
        Distance in slices (0 the prompted slice, negative below it) to Dice, in ascending order.

    Raises
    ------
    ValueError
        If the shapes differ or the masks are not 3D.

    """
    _require_same_shape(mask, truth)
    if mask.ndim != 3:
        raise ValueError(f"distances from a slice need (slice, row, column) masks, got {mask.ndim}D")
    return {int(k) - slice_index: dice(mask[k], truth[k]) for k in np.flatnonzero(truth.any(axis=(1, 2)))}


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


def wilcoxon_over_categories(first: Mapping[str, Sequence[float]], second: Mapping[str, Sequence[float]]) -> float:
    """Two-sided p of the exact Wilcoxon signed-rank test over the means of categories, as SAM2CT tests (section 3.4).

    The paper does not say so, but its values are those of this test: 0.031 = 2/64 and 0.1562 = 10/64 over the six
    lesion types of DeepLesion3D, 0.547 = 140/256 over the eight data sets of one prompt. A category of an engine with
    several prompts is a data set and a prompt.

    Parameters
    ----------
    first, second
        Category to the scores of its lesions; the same categories in both.

    Raises
    ------
    ValueError
        If the categories differ, there is none, or one has no score or one that is not finite.

    """
    from scipy.stats import wilcoxon  # half a second: not at the price of every import of this module

    if not first or first.keys() != second.keys():
        raise ValueError(f"needs the same categories on both sides, got {sorted(first)} and {sorted(second)}")
    means = np.array([[_finite_mean(scores[name], name) for name in first] for scores in (first, second)])
    return float(wilcoxon(means[0] - means[1], method="exact").pvalue)


def _finite_mean(scores: Sequence[float], name: str) -> float:
    array = np.asarray(scores, dtype=np.float64)
    if not array.size or not np.isfinite(array).all():
        raise ValueError(f"category {name!r} needs at least one score, all finite; got {array.size}")
    return float(array.mean())


def _surface_mm2(mask: BoolArray, spacing_mm: Sequence[float]) -> tuple[BoolArray, FloatArray]:
    """Cells between eight voxel centres that the surface crosses, and its area in each; ``mask`` is padded.

    A patch of surface and the covered parts of its cell's six sides close a body, so the patch's area vector along an
    axis is what the two sides across that axis cover, one less the other.
    """
    corners = mask.astype(np.uint8)
    squared = np.zeros([n - 1 for n in mask.shape])
    for axis in range(3):
        along = np.moveaxis(corners, axis, 0)
        code = along[:, :-1, :-1] + 2 * along[:, :-1, 1:] + 4 * along[:, 1:, :-1] + 8 * along[:, 1:, 1:]
        side_mm2 = np.prod(spacing_mm) / spacing_mm[axis]
        squared += np.moveaxis(np.diff(_COVERED[code], axis=0) * side_mm2, 0, axis) ** 2
    some, every = (
        extreme(corners, size=2, origin=-1)[:-1, :-1, :-1] for extreme in (ndi.maximum_filter, ndi.minimum_filter)
    )
    return some != every, np.sqrt(squared)


def _longest_chord(section: BoolArray, spacing_mm: Sequence[float]) -> tuple[float, FloatArray]:
    """Longest diameter of a non-empty (row, column) section in millimetres, and its (x, y) unit direction."""
    row_mm, column_mm = spacing_mm[-2:]
    rows = np.flatnonzero(section.any(axis=1))
    # Among the first and the last pixel of every row are all corners of the convex hull.
    ends = section[rows].argmax(axis=1), section.shape[1] - 1 - section[rows, ::-1].argmax(axis=1)
    points = np.column_stack([np.concatenate(ends) * column_mm, np.concatenate([rows, rows]) * row_mm])
    lengths = pdist(points)
    i, j = pair_at(int(lengths.argmax()), len(points))
    length = float(lengths.max())
    u = (points[j] - points[i]) / length if length > 0 else np.array([1.0, 0.0])
    return length + pixel_along(u, row_mm, column_mm), u


def pair_at(index: int, n: int) -> tuple[int, int]:
    """The two of ``n`` points whose distance is at ``index`` of scipy's condensed ``pdist``."""
    last = np.cumsum(np.arange(n - 1, 0, -1))  # one past the pairs of the first point, of the second, ...
    i = int(np.searchsorted(last, index, side="right"))
    return i, n - int(last[i] - index)


def _require_same_shape(first: BoolArray, second: BoolArray) -> None:
    if first.shape != second.shape:
        raise ValueError(f"masks need one grid, got shapes {first.shape} and {second.shape}")
