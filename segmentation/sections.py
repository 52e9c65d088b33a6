"""The sections of a lesion and the lines that can be drawn on them: what simulated prompts are made of.

Lengths and angles are millimetres in the plane, (x, y) = (column, row).
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from math import radians

import numpy as np
import scipy.ndimage as ndi
from numpy.typing import ArrayLike, NDArray
from scipy.spatial.distance import pdist

from segmentation.metrics import longest_diameter_mm, pair_at
from segmentation.types import Point, SegmentationError

BoolArray = NDArray[np.bool_]
FloatArray = NDArray[np.float64]

MOST_LINES = 2**16


@dataclass(frozen=True, slots=True, eq=False)
class Sections:
    """One lesion's mask, cropped to its bounding box: the cost of a prompt is that of the lesion, not of the volume.

    Places are counted from the crop's first pixel until they become points: the same lesion has the same prompts
    wherever it lies.

    Parameters
    ----------
    pixels
        (slice, row, column) boolean, a view.
    origin
        (slice, row, column) of ``pixels[0, 0, 0]`` in the volume.
    shape
        (slice, row, column) of the volume.
    scale
        (x, y) spacing in millimetres.

    """

    pixels: BoolArray
    origin: tuple[int, int, int]
    shape: tuple[int, int, int]
    scale: FloatArray

    @classmethod
    def of(cls, mask: BoolArray, spacing_mm: Sequence[float]) -> Sections:
        """Crop a (slice, row, column) mask, or one of (row, column) as slice 0.

        Raises
        ------
        SegmentationError
            If the mask is empty.

        """
        stack: BoolArray = mask[None] if mask.ndim == 2 else mask
        slices = np.flatnonzero([bool(np.any(section)) for section in stack])
        if not slices.size:
            raise SegmentationError("an empty mask has no prompt")
        stack = stack[slices[0] : slices[-1] + 1]
        shadow: BoolArray = np.any(stack, axis=0)
        rows, columns = np.flatnonzero(shadow.any(axis=1)), np.flatnonzero(shadow.any(axis=0))
        return cls(
            stack[:, rows[0] : rows[-1] + 1, columns[0] : columns[-1] + 1],
            (int(slices[0]), int(rows[0]), int(columns[0])),
            (len(mask) if mask.ndim == 3 else 1, *shadow.shape),
            np.array([spacing_mm[-1], spacing_mm[-2]], dtype=np.float64),
        )

    @property
    def areas_px(self) -> NDArray[np.int64]:
        """Pixels per slice."""
        return np.array([np.count_nonzero(section) for section in self.pixels])

    @property
    def diameters_mm(self) -> FloatArray:
        """Longest diameter per slice; 0 where there is nothing."""
        spacing_mm = self.scale[::-1]
        return np.array([longest_diameter_mm(section, tuple(spacing_mm)) for section in self.pixels])

    def edge_px(self, k: int) -> FloatArray:
        """(n, 2) (column, row) in the crop: centres of the pixels of slice ``k`` with a side on the outside."""
        section = self.pixels[k]
        return np.argwhere(section & ~ndi.binary_erosion(section))[:, ::-1].astype(np.float64)

    def centroid_px(self, k: int) -> FloatArray:
        """(column, row) in the crop of the middle of slice ``k``."""
        rows, columns = np.nonzero(self.pixels[k])
        return np.array([columns.mean(), rows.mean()])

    def holds_mm(self, place_mm: FloatArray) -> bool:
        """Whether a place lies on the image: between the centres of its first and last pixels."""
        (x, y), (_, rows, columns) = place_mm / self.scale + self.origin[:0:-1], self.shape
        return bool(0 <= x <= columns - 1 and 0 <= y <= rows - 1)

    def point(self, place_px: ArrayLike) -> Point:
        """(column, row) in the volume of a place in the crop."""
        # Millimetres and back must not move a pixel centre off its integer.
        x, y = np.round(np.asarray(place_px), 6) + self.origin[:0:-1]
        return float(x), float(y)

    def point_at_mm(self, place_mm: FloatArray) -> Point:
        """(column, row) in the volume of a place in millimetres from the crop's first pixel."""
        return self.point(place_mm / self.scale)


def random_long_line(
    edge_px: FloatArray, scale: FloatArray, rng: np.random.Generator, *, share: float
) -> tuple[FloatArray, FloatArray]:
    """Ends, in millimetres, of one of the longest ``share`` of all lines between two edge points; ties stay in.

    Sections with more than `MOST_LINES` lines (some 110 pixels across) are ranked on so many random ones instead: the
    limit is then that of all lines to within about 0.2 % of them.
    """
    n = len(edge_px)
    if n == 1:
        return edge_px[0] * scale, edge_px[0] * scale
    if n * (n - 1) // 2 <= MOST_LINES:
        # Scaled after the subtraction, or rounding would break the ties of a symmetric section at random.
        squares = pdist(edge_px, "sqeuclidean", w=scale**2)
        i, j = pair_at(_one_of_the_largest(squares, share, rng), n)
    else:
        first = rng.integers(n, size=MOST_LINES)
        second = (first + rng.integers(1, n, size=MOST_LINES)) % n
        chosen = _one_of_the_largest((edge_px[first] - edge_px[second]) ** 2 @ scale**2, share, rng)
        i, j = int(first[chosen]), int(second[chosen])
    return edge_px[i] * scale, edge_px[j] * scale


def _one_of_the_largest(values: FloatArray, share: float, rng: np.random.Generator) -> int:
    rank = len(values) - max(1, int(share * len(values)))
    largest = np.flatnonzero(values >= np.partition(values, rank)[rank])
    return int(largest[rng.integers(len(largest))])


def crossing_chord(edge: FloatArray, start: FloatArray, end: FloatArray) -> tuple[FloatArray, FloatArray]:
    """Longest pair of edge points that crosses the axis within 10 degrees of its perpendicular.

    Where no pair does (a section a pixel or two wide), the pair nearest to the axis' middle on either side of it.
    """
    axis = end - start
    length = float(np.hypot(*axis))
    if length == 0:
        return start, end
    u = axis / length
    offset = edge - start
    along, across = offset @ u, offset @ np.array([-u[1], u[0]])
    left, right = np.flatnonzero(across >= 0), np.flatnonzero(across <= 0)
    if not (left.size and right.size):
        return start, start
    width = across[left][:, None] - across[right]
    slant = np.abs(along[left][:, None] - along[right])
    inside = (along[left][:, None] >= 0) & (along[left][:, None] <= length) & (along[right] >= 0)
    inside &= along[right] <= length
    straight = inside & (slant <= np.tan(radians(10)) * width) & (width > 0)
    if straight.any():
        widest = int(np.where(straight, width, -1).argmax())
        i, j = widest // len(right), widest % len(right)
    else:
        off_middle = np.abs(along - length / 2)
        i, j = int(off_middle[left].argmin()), int(off_middle[right].argmin())
    return edge[left[i]], edge[right[j]]
