"""Regions drawn on one slice: filled, boxed, or told by their axes.

Points are (column, row) pixel-centre indices; ``spacing_mm`` is (between rows, between columns).
"""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
from numpy.typing import ArrayLike, NDArray

from segmentation.geometry import HALF_PIXEL, FloatArray
from segmentation.types import Bidimensional, Box, GeometryError, Segment

BoolArray = NDArray[np.bool_]

_FEW = 32  # all pairs of these are compared sooner than their hull is found


def fill_outline(points: ArrayLike, shape: tuple[int, int]) -> BoolArray:
    """Pixels of a slice of (rows, columns) ``shape`` whose centres lie inside a closed outline.

    Inside is where the outline winds round, so a hand that overshoots its own start leaves no hole. A centre on the
    outline itself belongs to the side to its right, or below: outlines that share an edge share no pixel. One so small
    that it holds no centre gets the pixel nearest to its middle.

    Parameters
    ----------
    points
        (n, 2) vertices in order, the first not repeated.

    Raises
    ------
    GeometryError
        Fewer than 3 vertices.

    """
    vertices = np.asarray(points, dtype=np.float64).reshape(-1, 2)
    if len(vertices) < 3:
        raise GeometryError(f"an outline needs at least 3 vertices, got {len(vertices)}")
    rows, columns = shape
    turns = np.zeros((rows, columns + 1), dtype=np.int32)  # what changes where an edge is crossed from the left
    for (x0, y0), (x1, y1) in zip(vertices, np.roll(vertices, -1, axis=0), strict=True):
        first, last = max(int(np.ceil(min(y0, y1))), 0), min(int(np.ceil(max(y0, y1))), rows)
        if first >= last:
            continue
        at = np.arange(first, last)
        crossing = np.ceil(x0 + (at - y0) * ((x1 - x0) / (y1 - y0)))
        turns[at, np.clip(crossing, 0, columns).astype(np.intp)] += 1 if y1 > y0 else -1
    filled: BoolArray = np.cumsum(turns[:, :columns], axis=1) != 0
    if not filled.any():
        column, row = np.clip(np.rint(vertices.mean(axis=0)), 0, (columns - 1, rows - 1)).astype(np.intp)
        filled[row, column] = True
    return filled


def box_around(points: ArrayLike, slice_index: int) -> Box:
    """Box of the pixels between the extremes of ``points``: drawn edges run round pixels, a box through their centres.

    A region thinner than two pixels gives up only a quarter of its width on either side.
    """
    vertices = np.asarray(points, dtype=np.float64).reshape(-1, 2)
    low, high = vertices.min(axis=0), vertices.max(axis=0)
    inset = np.minimum(HALF_PIXEL, (high - low) / 4)
    (left, top), (right, bottom) = (low + inset).tolist(), (high - inset).tolist()
    return Box(slice_index, (left, top), (right, bottom))


def box_around_ellipse(axes: ArrayLike, slice_index: int) -> Box:
    """Box of the ellipse with these axes: (4, 2) ends of the one, then of the other."""
    ends = np.asarray(axes, dtype=np.float64).reshape(2, 2, 2)
    centre, half = ends.mean(axis=(0, 1)), (ends[:, 1] - ends[:, 0]) / 2
    reach = np.hypot(half[0], half[1])
    return box_around([centre - reach, centre + reach], slice_index)


def axes_of_rectangle(corners: ArrayLike, slice_index: int, spacing_mm: Sequence[float]) -> Bidimensional:
    """Lines between the middles of opposite sides, the longer one (mm) first; (4, 2) ``corners`` in order round it."""
    a, b, c, d = np.asarray(corners, dtype=np.float64).reshape(4, 2)
    return _pair(np.array([(a + d) / 2, (b + c) / 2]), np.array([(a + b) / 2, (d + c) / 2]), slice_index, spacing_mm)


def axes_of_outline(points: ArrayLike, slice_index: int, spacing_mm: Sequence[float]) -> Bidimensional:
    """Longest chord between vertices and, perpendicular to it in mm, the whole width, midway between its two ends."""
    scale = np.array([spacing_mm[1], spacing_mm[0]])
    vertices = np.asarray(points, dtype=np.float64).reshape(-1, 2) * scale
    start, end = farthest_pair(vertices)
    length = float(np.linalg.norm(end - start))
    if length == 0:
        raise GeometryError("an outline without extent has no axes")
    u = (end - start) / length
    along, across = (vertices - start) @ u, (vertices - start) @ np.array([-u[1], u[0]])
    low, high = int(across.argmin()), int(across.argmax())
    foot = start + (along[low] + along[high]) / 2 * u
    width = np.array([foot + across[i] * np.array([-u[1], u[0]]) for i in (low, high)])
    return _pair(np.array([start, end]) / scale, width / scale, slice_index, spacing_mm)


def farthest_pair(points: FloatArray) -> FloatArray:
    """Find the two of (n, 2) points, or of (n, 3) points in one plane, that lie farthest apart, in their order: (2, d).

    Of several such pairs it is the first. They are corners of the convex hull, so that only these are compared.
    """
    points = points[_hull(points)] if len(points) > _FEW else points
    best, found = -1.0, (0, 0)
    for i in range(len(points)):
        apart = np.linalg.norm(points[i:] - points[i], axis=1)
        j = int(apart.argmax())
        if apart[j] > best:
            best, found = float(apart[j]), (i, i + j)
    result: FloatArray = points[list(found)]
    return result


def _hull(points: FloatArray) -> list[int]:
    """Corners of the convex hull of points in one plane, in the order of the points (Andrew's monotone chain)."""
    middle = points - points.mean(axis=0)
    flat = middle if points.shape[1] == 2 else middle @ np.linalg.svd(middle, full_matrices=False)[2][:2].T
    at = [complex(x, y) for x, y in flat.tolist()]
    order = np.lexsort((flat[:, 1], flat[:, 0])).tolist()
    corners: set[int] = set()
    for way in (order, order[::-1]):
        side: list[int] = []
        for i in way:
            while len(side) > 1 and ((at[side[-1]] - at[side[-2]]).conjugate() * (at[i] - at[side[-1]])).imag <= 0:
                side.pop()
            side.append(i)
        corners.update(side)
    return sorted(corners)


def _pair(one: FloatArray, other: FloatArray, slice_index: int, spacing_mm: Sequence[float]) -> Bidimensional:
    scale = np.array([spacing_mm[1], spacing_mm[0]])
    lengths = [float(np.linalg.norm((axis[1] - axis[0]) * scale)) for axis in (one, other)]
    long, short = (one, other) if lengths[0] >= lengths[1] else (other, one)
    return Bidimensional(slice_index, _segment(long), _segment(short))


def _segment(axis: FloatArray) -> Segment:
    (x0, y0), (x1, y1) = axis.tolist()
    return (x0, y0), (x1, y1)
