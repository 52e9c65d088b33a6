"""Prompts made from a true mask: by SAM2CT section 2.2 for training and evaluation, and as radiologists draw them.

Masks are boolean, (slice, row, column) or one slice (row, column); then ``slice_index`` is 0. Points are (column, row)
pixel-centre indices. Every function is deterministic for a given state of its generator.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, fields, replace
from math import atan2, cos, hypot, pi, radians, sin
from typing import Literal, get_args

import numpy as np
import scipy.ndimage as ndi
from numpy.typing import NDArray

from segmentation.sections import Sections, crossing_chord, random_long_line
from segmentation.types import Arrow, Bidimensional, Box, Line, MaskPrompt, Points, Prompt

BoolArray = NDArray[np.bool_]
FloatArray = NDArray[np.float64]
Axis = tuple[FloatArray, FloatArray]
Kind = Literal["line", "bidimensional", "arrow", "point", "box", "mask"]
KINDS: tuple[Kind, ...] = get_args(Kind)

ARROW_LENGTH_MM = 20.0
"""Section 2.2 says "a fixed distance" and gives none; a shaft of this length is readable on a CT slice."""

MASK_TO_LINE = (1.14, 1.22)
"""Longest diameter of the true mask over the radiologist's line: range of the means on 153 DeepLesion lesions."""

BOX_NOISE = 0.1
BOX_NOISE_PX = 20.0
"""SAM2's ``sample_box_points``: each side moves by up to a tenth of the box, and no more than 20 pixels."""

_SLICE_ODDS = (0.6, 0.25, 0.15)
_NEAR_LONGEST = 0.75  # nobody measures a lesion on a slice that only grazes it, as one in three of a small one does


@dataclass(frozen=True, slots=True)
class Habits:
    """How radiologists draw: what a drawn prompt has that one of section 2.2 has not.

    Only the length of lines is measured (`MASK_TO_LINE`). There is no public count of the other habits: these rates
    are judgement, meant for training that must not mind them and for testing how well an engine bears them.

    Parameters
    ----------
    mask_to_line
        Range of the mask's longest diameter over the line. On DeepLesion the mask is 14 to 22 % longer, on
        the four readers' lines of LIDC-IDRI-0001 2 % shorter.
    end_spread
        Standard deviation of each end, as a fraction of the line; no end lies on a pixel's centre.
    overshoot, undershoot
        Probability that an end is drawn past the rim or well inside it.
    overshoot_by, undershoot_by
        Most by which it is, as a fraction of the line.
    off_slice
        Probability that the drawing lies one slice above or below the one that it was meant for, where the lesion
        still is or just is not.
    short_axis_only
        Probability that a line is the short axis. RECIST 1.1 measures lymph nodes so: use about 0.8 for them.
    arrow_before
        Probability that an arrow ends at a distance before the lesion rather than at its rim.
    arrow_reach
        Otherwise, range of the head's distance from the centroid in distances of the rim: 0 to 1.5 in section 2.2.
    arrow_gap_mm
        Range of that distance from the rim: it does not grow with the lesion, as the 0.5 d of section 2.2 does.
    arrow_turn_deg
        Most by which the shaft is turned away from the centroid, at the head.
    arrow_length_mm
        Range of the distance from tail to head.

    Raises
    ------
    ValueError
        If a probability is not one, or a range is not in ascending order.

    """

    mask_to_line: tuple[float, float] = MASK_TO_LINE
    end_spread: float = 0.02
    overshoot: float = 0.1
    overshoot_by: float = 0.1
    undershoot: float = 0.1
    undershoot_by: float = 0.15
    off_slice: float = 0.1
    short_axis_only: float = 0.1
    arrow_before: float = 0.4
    arrow_gap_mm: tuple[float, float] = (2.0, 20.0)
    arrow_reach: tuple[float, float] = (0.5, 1.5)
    arrow_turn_deg: float = 25.0
    arrow_length_mm: tuple[float, float] = (10.0, 40.0)

    def __post_init__(self) -> None:
        for name in ("overshoot", "undershoot", "off_slice", "short_axis_only", "arrow_before"):
            if not 0 <= getattr(self, name) <= 1:
                raise ValueError(f"{name} is a probability, got {getattr(self, name)}")
        if self.overshoot + self.undershoot > 1:
            raise ValueError(f"overshoot and undershoot exclude each other, got {self.overshoot} and {self.undershoot}")
        for field in fields(self):
            value = getattr(self, field.name)
            if isinstance(value, tuple) and value[0] > value[1]:
                raise ValueError(f"{field.name} is a range from low to high, got {value}")


HABITS = Habits()

CAREFUL = Habits(
    overshoot=0.0,
    undershoot=0.0,
    off_slice=0.0,
    short_axis_only=0.0,
    arrow_before=0.0,
    arrow_reach=(1.0, 1.5),
    arrow_turn_deg=15.0,
    arrow_length_mm=(ARROW_LENGTH_MM, ARROW_LENGTH_MM),
)
"""A reader who measures the long axis on the right slice, and points at the rim from outside."""

_BY_THE_PAPER = replace(CAREFUL, arrow_reach=(0.0, 1.5))
_ATTEMPTS = 30


def simulate_prompt(
    mask: BoolArray, kind: Kind, rng: np.random.Generator, *, spacing_mm: Sequence[float], training: bool = False
) -> Prompt:
    """Simulate a prompt by SAM2CT section 2.2.

    Slice: one of the three with the largest area; in training any, weighted by its area. Line: a random pair of edge
    pixel centres among the longest 10 % of all pairs; in training the longest half. Pair: such a line and the longest
    chord within 10 degrees of its perpendicular that crosses it. Arrow: the head anywhere on the ray from the centroid
    through a random edge pixel, up to half their distance beyond it, on the image; the tail `ARROW_LENGTH_MM` farther
    out, turned by at most 15 degrees about the head, so that the arrow points towards the centroid. The others by
    SAM2's training code. Point: the pixel farthest from the outside; in training any pixel of the lesion. Box: the
    bounding box, each side moved by `BOX_NOISE`. Mask: the lesion itself.

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
    if kind not in KINDS:
        raise ValueError(f"kind must be one of {', '.join(map(repr, KINDS))}, got {kind!r}")
    lesion = Sections.of(mask, spacing_mm)
    k = _slice_by_area(lesion, rng, training=training)
    if kind == "arrow":
        return _arrow(lesion, k, rng, _BY_THE_PAPER)
    if kind == "point":
        return _click(lesion, k, rng, training=training)
    if kind == "box":
        return _box(lesion, k, rng)
    if kind == "mask":
        return _outline(lesion, k)
    edge = lesion.edge_px(k)
    start, end = random_long_line(edge, lesion.scale, rng, share=0.5 if training else 0.1)
    if kind == "line":
        return _line(lesion, k, (start, end))
    return _pair(lesion, k, (start, end), crossing_chord(edge * lesion.scale, start, end))


def drawn_prompt(
    mask: BoolArray,
    kind: Kind,
    rng: np.random.Generator,
    *,
    spacing_mm: Sequence[float],
    habits: Habits = HABITS,
) -> Prompt:
    """Draw as radiologists do, with their noise.

    A long axis is shorter than the mask's longest, on one of the three slices where the mask is longest, the longest
    of them most often; the short axis crosses it, shortened alike. Points, boxes and masks are no drawings of a
    radiologist: they are those of `simulate_prompt`.

    Parameters
    ----------
    spacing_mm
        (row, column) or (slice, row, column).

    Raises
    ------
    ValueError
        If ``kind`` is unknown.
    SegmentationError
        If the mask is empty.

    """
    if kind not in ("line", "bidimensional", "arrow"):
        return simulate_prompt(mask, kind, rng, spacing_mm=spacing_mm)
    if kind == "arrow":
        return draw_arrow(mask, rng, spacing_mm=spacing_mm, habits=habits)
    draw = draw_line if kind == "line" else draw_bidimensional
    return draw(mask, rng, spacing_mm=spacing_mm, habits=habits)


def draw_line(
    mask: BoolArray, rng: np.random.Generator, *, spacing_mm: Sequence[float], habits: Habits = CAREFUL
) -> Line:
    """Draw a diameter, see `drawn_prompt`.

    Raises
    ------
    SegmentationError
        If the mask is empty.

    """
    lesion = Sections.of(mask, spacing_mm)
    k, axis = _drawn_axis(lesion, rng, habits)
    if rng.random() < habits.short_axis_only:
        axis = _drawn_across(lesion, k, axis, rng, habits)
    return _line(lesion, _drawn_on(lesion, k, rng, habits), axis)


def draw_bidimensional(
    mask: BoolArray, rng: np.random.Generator, *, spacing_mm: Sequence[float], habits: Habits = CAREFUL
) -> Bidimensional:
    """Draw a long and a short axis, see `drawn_prompt`.

    Raises
    ------
    SegmentationError
        If the mask is empty.

    """
    lesion = Sections.of(mask, spacing_mm)
    k, axis = _drawn_axis(lesion, rng, habits)
    across = _drawn_across(lesion, k, axis, rng, habits)
    return _pair(lesion, _drawn_on(lesion, k, rng, habits), axis, across)


def draw_arrow(
    mask: BoolArray, rng: np.random.Generator, *, spacing_mm: Sequence[float], habits: Habits = CAREFUL
) -> Arrow:
    """Draw an arrow on one of the three largest slices, where the lesion is near its largest; see `drawn_prompt`.

    Raises
    ------
    SegmentationError
        If the mask is empty.

    """
    lesion = Sections.of(mask, spacing_mm)
    k = _slice_by_area(lesion, rng, training=False, least_share=0.5)
    return replace(_arrow(lesion, k, rng, habits), slice_index=lesion.origin[0] + _drawn_on(lesion, k, rng, habits))


# ---- section 2.2


def _slice_by_area(lesion: Sections, rng: np.random.Generator, *, training: bool, least_share: float = 0.0) -> int:
    """Choose by area (training) or among the three largest that reach ``least_share`` of the largest area."""
    areas = lesion.areas_px
    if training:
        return int(rng.choice(len(areas), p=areas / areas.sum()))
    largest = np.argsort(-areas, kind="stable")[:3]
    return int(rng.choice(largest[areas[largest] > least_share * areas.max()]))


def _arrow(lesion: Sections, k: int, rng: np.random.Generator, habits: Habits) -> Arrow:
    centroid = lesion.centroid_px(k) * lesion.scale
    edge = lesion.edge_px(k)
    for _ in range(_ATTEMPTS):
        target = edge[rng.integers(len(edge))] * lesion.scale
        radius = hypot(*(target - centroid))
        angle = atan2(*(target - centroid)[::-1]) if radius > 0 else rng.uniform(0, 2 * pi)
        before = habits.arrow_before > 0 and rng.random() < habits.arrow_before
        reach = radius + rng.uniform(*habits.arrow_gap_mm) if before else radius * rng.uniform(*habits.arrow_reach)
        head = centroid + reach * np.array([cos(angle), sin(angle)])
        if lesion.holds_mm(head):
            break
    else:  # a lesion in the corner of its image: nobody points from beyond
        head = target
    outward = angle + radians(rng.uniform(-habits.arrow_turn_deg, habits.arrow_turn_deg))
    tail = head + rng.uniform(*habits.arrow_length_mm) * np.array([cos(outward), sin(outward)])
    return Arrow(lesion.origin[0] + k, lesion.point_at_mm(tail), lesion.point_at_mm(head))


def _line(lesion: Sections, k: int, axis: Axis) -> Line:
    return Line(lesion.origin[0] + k, lesion.point_at_mm(axis[0]), lesion.point_at_mm(axis[1]))


def _pair(lesion: Sections, k: int, long_axis: Axis, short_axis: Axis) -> Bidimensional:
    long_ends, short_ends = (
        (lesion.point_at_mm(axis[0]), lesion.point_at_mm(axis[1])) for axis in (long_axis, short_axis)
    )
    return Bidimensional(lesion.origin[0] + k, long_ends, short_ends)


# ---- SAM2's protocol


def _click(lesion: Sections, k: int, rng: np.random.Generator, *, training: bool) -> Points:
    section = lesion.pixels[k]
    if training:
        inside = np.argwhere(section)
        row, column = inside[rng.integers(len(inside))]
    else:
        depth = ndi.distance_transform_edt(np.pad(section, 1))[1:-1, 1:-1]
        row, column = np.unravel_index(int(depth.argmax()), depth.shape)
    return Points(lesion.origin[0] + k, (lesion.point((column, row)),), (1,))


def _box(lesion: Sections, k: int, rng: np.random.Generator) -> Box:
    edge = lesion.edge_px(k)
    corners = np.array([edge.min(axis=0), edge.max(axis=0)])
    most = np.minimum(BOX_NOISE * (corners[1] - corners[0]), BOX_NOISE_PX)
    moved = [lesion.point(corner) for corner in corners + rng.uniform(-1, 1, (2, 2)) * most]
    (x0, y0), (x1, y1) = np.clip(moved, 0, [lesion.shape[2] - 1, lesion.shape[1] - 1]).tolist()
    return Box(lesion.origin[0] + k, (x0, y0), (x1, y1))


def _outline(lesion: Sections, k: int) -> MaskPrompt:
    mask = np.zeros(lesion.shape[1:], dtype=np.bool_)
    section, (_, row, column) = lesion.pixels[k], lesion.origin
    mask[row : row + section.shape[0], column : column + section.shape[1]] = section
    return MaskPrompt(lesion.origin[0] + k, mask)


# ---- as drawn


def _drawn_axis(lesion: Sections, rng: np.random.Generator, habits: Habits) -> tuple[int, Axis]:
    """Slice and ends, in millimetres, of a drawn long axis."""
    lengths = lesion.diameters_mm
    longest = np.argsort(-lengths, kind="stable")[:3]
    longest = longest[lengths[longest] >= _NEAR_LONGEST * lengths.max()]
    odds = np.array(_SLICE_ODDS[: len(longest)])
    k = int(rng.choice(longest, p=odds / odds.sum()))
    start, end = random_long_line(lesion.edge_px(k), lesion.scale, rng, share=0.02)
    wanted = float(lengths.max()) / _mask_to_line(rng, habits)
    return k, _drawn((start, end), wanted, rng, habits)


def _drawn_across(lesion: Sections, k: int, axis: Axis, rng: np.random.Generator, habits: Habits) -> Axis:
    start, end = crossing_chord(lesion.edge_px(k) * lesion.scale, *axis)
    return _drawn((start, end), hypot(*(end - start)) / _mask_to_line(rng, habits), rng, habits)


def _drawn(rim: Axis, wanted_mm: float, rng: np.random.Generator, habits: Habits) -> Axis:
    """Ends that stop short of the rim so that their distance is as wanted, or slip."""
    length = hypot(*(rim[1] - rim[0]))
    if length == 0:
        return rim
    share = min(1.0, wanted_mm / length)
    middle = (rim[0] + rim[1]) / 2
    ends = []
    for end in rim:
        reach = share
        slip = rng.random()
        if slip < habits.overshoot:
            reach = 1 + 2 * rng.uniform(0, habits.overshoot_by)  # of the line, on its half
        elif slip < habits.overshoot + habits.undershoot:
            reach -= 2 * rng.uniform(0, habits.undershoot_by)
        ends.append(middle + reach * (end - middle) + rng.normal(0, habits.end_spread * length, 2))
    return ends[0], ends[1]


def _drawn_on(lesion: Sections, k: int, rng: np.random.Generator, habits: Habits) -> int:
    """The slice that was meant, or by a slip of one its neighbour; counted like ``k``."""
    if rng.random() >= habits.off_slice:
        return k
    beside = [k + step for step in (-1, 1) if 0 <= lesion.origin[0] + k + step < lesion.shape[0]]
    return int(rng.choice(beside)) if beside else k


def _mask_to_line(rng: np.random.Generator, habits: Habits) -> float:
    return float(max(1.0, rng.uniform(*habits.mask_to_line) + rng.normal(0, 0.03)))
