"""Prompts made from a true mask: by SAM2CT section 2.2 for training and evaluation, and as radiologists draw them.

Masks are boolean, (slice, row, column) or one slice (row, column); then ``slice_index`` is 0. Points are (column, row)
pixel-centre indices. Every function is deterministic for a given state of its generator.
"""

from __future__ import annotations

from collections.abc import Sequence
from math import atan2, cos, hypot, pi, radians, sin
from typing import Literal

import numpy as np
import scipy.ndimage as ndi
from numpy.typing import NDArray

from segmentation.metrics import longest_diameter_mm
from segmentation.types import Arrow, Bidimensional, Line, Prompt, SegmentationError

BoolArray = NDArray[np.bool_]
FloatArray = NDArray[np.float64]
Kind = Literal["line", "bidimensional", "arrow"]

ARROW_LENGTH_MM = 20.0
"""Section 2.2 says "a fixed distance" and gives none; a shaft of this length is readable on a CT slice."""

MASK_TO_LINE = (1.14, 1.22)
"""Longest diameter of the true mask over the radiologist's line: range of the means on 153 DeepLesion lesions."""

_SLICE_ODDS = (0.6, 0.25, 0.15)
_NEAR_LONGEST = 0.75  # nobody measures a lesion on a slice that only grazes it, as one in three of a small one does


def simulate_prompt(
    mask: BoolArray, kind: Kind, rng: np.random.Generator, *, spacing_mm: Sequence[float], training: bool = False
) -> Prompt:
    """Simulate a prompt by SAM2CT section 2.2.

    Slice: one of the three with the largest area; in training any, weighted by its area. Line: a random pair of edge
    pixel centres among the longest 10 % of all pairs; in training the longest half. Pair: such a line and the longest
    chord within 10 degrees of its perpendicular that crosses it. Arrow: the head on the ray from the centroid through
    a random edge pixel, up to half their distance beyond it; the tail `ARROW_LENGTH_MM` farther out, turned by at
    most 15 degrees about the head, so that the arrow points towards the centroid.

    Parameters
    ----------
    spacing_mm
        (row, column) or (slice, row, column); lengths and angles are millimetres, not pixels.

    Raises
    ------
    ValueError
        If ``kind`` is unknown.
    SegmentationError
        If the mask is empty.

    """
    if kind not in ("line", "bidimensional", "arrow"):
        raise ValueError(f"kind must be 'line', 'bidimensional' or 'arrow', got {kind!r}")
    index, section = _pick_slice(mask, rng, training=training)
    scale = _scale(spacing_mm)
    edge = _edge(section) * scale
    if kind == "arrow":
        return _arrow(index, section, edge, rng, scale)
    start, end = _pick_line(edge, rng, share=0.5 if training else 0.1)
    if kind == "line":
        return Line(index, _point(start, scale), _point(end, scale))
    first, second = _crossing_chord(edge, start, end)
    return Bidimensional(
        index, (_point(start, scale), _point(end, scale)), (_point(first, scale), _point(second, scale))
    )


def draw_line(mask: BoolArray, rng: np.random.Generator, *, spacing_mm: Sequence[float]) -> Line:
    """Draw a diameter as a radiologist does: shorter than the mask's longest by `MASK_TO_LINE`, with spread.

    The slice is one of the three where the mask is longest, the longest of them most often; the ends lie near the rim,
    not on pixel centres.

    Raises
    ------
    SegmentationError
        If the mask is empty.

    """
    index, start, end, scale, _ = _drawn_axis(mask, rng, spacing_mm)
    return Line(index, _point(start, scale), _point(end, scale))


def draw_bidimensional(mask: BoolArray, rng: np.random.Generator, *, spacing_mm: Sequence[float]) -> Bidimensional:
    """Draw a long axis as `draw_line` does and the short axis across it, shortened alike.

    Raises
    ------
    SegmentationError
        If the mask is empty.

    """
    index, start, end, scale, edge = _drawn_axis(mask, rng, spacing_mm)
    first, second = _crossing_chord(edge, start, end)
    first, second = _shorten(first, second, 1 / _mask_to_line(rng))
    return Bidimensional(
        index, (_point(start, scale), _point(end, scale)), (_point(first, scale), _point(second, scale))
    )


def draw_arrow(mask: BoolArray, rng: np.random.Generator, *, spacing_mm: Sequence[float]) -> Arrow:
    """Draw an arrow by section 2.2 on one of the three largest slices, where the lesion is near its largest.

    Raises
    ------
    SegmentationError
        If the mask is empty.

    """
    index, section = _pick_slice(mask, rng, training=False, least_share=0.5)
    scale = _scale(spacing_mm)
    return _arrow(index, section, _edge(section) * scale, rng, scale)


def _pick_slice(
    mask: BoolArray, rng: np.random.Generator, *, training: bool, least_share: float = 0.0
) -> tuple[int, BoolArray]:
    """Choose by area (training) or among the three largest that reach ``least_share`` of the largest area."""
    sections = mask[None] if mask.ndim == 2 else mask
    areas = sections.sum(axis=(1, 2)).astype(np.float64)
    if areas.max(initial=0) == 0:
        raise SegmentationError("an empty mask has no prompt")
    if training:
        index = int(rng.choice(len(areas), p=areas / areas.sum()))
    else:
        largest = np.argsort(-areas, kind="stable")[:3]
        index = int(rng.choice(largest[areas[largest] > least_share * areas.max()]))
    return index, sections[index]


def _edge(section: BoolArray) -> FloatArray:
    """(n, 2) (column, row) centres of the mask's pixels that touch the outside by a side."""
    rim = section & ~ndi.binary_erosion(section)
    return np.argwhere(rim)[:, ::-1].astype(np.float64)


def _pick_line(edge: FloatArray, rng: np.random.Generator, *, share: float) -> tuple[FloatArray, FloatArray]:
    """Ends of a random one of the longest ``share`` of all pairs of edge points."""
    if len(edge) == 1:
        return edge[0], edge[0]
    first, second = np.triu_indices(len(edge), 1)
    lengths = np.hypot(*(edge[first] - edge[second]).T)
    keep = max(1, int(share * len(lengths)))
    chosen = int(np.argpartition(-lengths, keep - 1)[:keep][rng.integers(keep)])
    return edge[first[chosen]], edge[second[chosen]]


def _crossing_chord(edge: FloatArray, start: FloatArray, end: FloatArray) -> tuple[FloatArray, FloatArray]:
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


def _arrow(index: int, section: BoolArray, edge: FloatArray, rng: np.random.Generator, scale: FloatArray) -> Arrow:
    centroid = np.argwhere(section).mean(axis=0)[::-1] * scale
    target = edge[rng.integers(len(edge))]
    radius = float(np.hypot(*(target - centroid)))
    angle = atan2(*(target - centroid)[::-1]) if radius > 0 else rng.uniform(0, 2 * pi)
    head = centroid + (radius * (1 + rng.uniform(0, 0.5))) * np.array([cos(angle), sin(angle)])
    outward = angle + radians(rng.uniform(-15, 15))
    tail = head + ARROW_LENGTH_MM * np.array([cos(outward), sin(outward)])
    return Arrow(index, _point(tail, scale), _point(head, scale))


def _drawn_axis(
    mask: BoolArray, rng: np.random.Generator, spacing_mm: Sequence[float]
) -> tuple[int, FloatArray, FloatArray, FloatArray, FloatArray]:
    """Slice, ends in millimetres, scale and edge of a drawn long axis."""
    sections = mask[None] if mask.ndim == 2 else mask
    lengths = np.array([longest_diameter_mm(section, spacing_mm) for section in sections])
    if lengths.max(initial=0) == 0:
        raise SegmentationError("an empty mask has no prompt")
    longest = np.argsort(-lengths, kind="stable")[:3]
    longest = longest[lengths[longest] >= _NEAR_LONGEST * lengths.max()]
    odds = np.array(_SLICE_ODDS[: len(longest)])
    index = int(rng.choice(longest, p=odds / odds.sum()))
    scale = _scale(spacing_mm)
    edge = _edge(sections[index]) * scale
    start, end = _pick_line(edge, rng, share=0.02)
    length = hypot(*(end - start))
    wanted = float(lengths.max()) / _mask_to_line(rng)
    start, end = _shorten(start, end, min(1.0, wanted / length) if length > 0 else 1.0)
    jitter = 0.02 * length
    start, end = start + rng.normal(0, jitter, 2), end + rng.normal(0, jitter, 2)
    return index, start, end, scale, edge


def _mask_to_line(rng: np.random.Generator) -> float:
    return float(max(1.0, rng.uniform(*MASK_TO_LINE) + rng.normal(0, 0.03)))


def _shorten(start: FloatArray, end: FloatArray, factor: float) -> tuple[FloatArray, FloatArray]:
    centre = (start + end) / 2
    return centre + factor * (start - centre), centre + factor * (end - centre)


def _scale(spacing_mm: Sequence[float]) -> FloatArray:
    """(x, y) = (column, row) spacing in millimetres."""
    return np.array([spacing_mm[-1], spacing_mm[-2]], dtype=np.float64)


def _point(point_mm: FloatArray, scale: FloatArray) -> tuple[float, float]:
    # Millimetres and back must not move a pixel centre off its integer.
    x, y = np.round(point_mm / scale, 6)
    return float(x), float(y)
