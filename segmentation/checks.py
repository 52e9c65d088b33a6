"""Can this mask be believed? It is held against the radiologist's own measurement; no truth is needed.

Thresholds come from what is known of masks and measurements (each beside its constant), not from fitting a data set.
"""

from __future__ import annotations

from dataclasses import dataclass
from math import hypot, pi
from typing import Literal

import numpy as np
import scipy.ndimage as ndi
from numpy.typing import NDArray

from segmentation.ellipsoid import long_axis_of, middle_of
from segmentation.metrics import extent_mm, longest_diameter_mm, pixel_along
from segmentation.types import Arrow, Bidimensional, Line, Mask, Point, SegmentationJob

Tier = Literal["A", "B", "C"]

EXTENT_EXPECTED = (0.9, 1.25)
"""Mask along the line over the line, both with their pixels: masks run up to 1.22 longer (DeepLesion), 0.98 (LIDC)."""
EXTENT_BELIEVABLE = (0.65, 1.6)
"""Beyond it the mask is of another thing, or of a part."""

WIDTH_EXPECTED, WIDTH_BELIEVABLE = 1.4, 2.2
"""Longest diameter of the mask on the slice of the line, over the line. A line is the longest diameter (masks run up to
1.22 longer) or, alone on a lymph node, the short one, and no node is much longer than twice its width."""
FLAT = 0.3
"""Extent along z over the line: what is thinner was lost on the neighbouring slices."""

END_NEAR_RIM = 0.15
"""An end of the line lies within this share of its length (two pixels at least) of the mask's rim on that slice."""

LEAK_VOLUME = 3.0
"""Volume over that of a sphere on the longest drawn diameter: a lesion is hardly rounder than it."""
LEAK_EXTENT_Z = 2.0
"""Extent along z over the line: 1.41 is the mean of limb sarcomas, the longest kind measured here."""
ARROW_REACH_MM = 10.0
"""A head may stop short of the rim by half the lesion's radius (SAM2CT section 2.2), or by this."""
AREA_JUMP = 4.0
"""Area of a slice over that of its neighbour nearer to the prompt, where both are more than a few pixels."""

ISLANDS = 0.02
"""Share of the mask outside its largest part."""

LOW_CONFIDENCE = {"measured": 0.75, "arrow": 0.6}
"""Below it one in four (arrow: one in two) masks has Dice under 0.6 (0.5); above, one in 25 (10) (classical engine)."""
NO_CONFIDENCE = 0.35
"""Just above what engines give a shape that the image did not support."""

_PENALTY = {
    "length_disagrees": 0.25,
    "length_wrong": 0.6,
    "wider_than_line": 0.2,
    "much_wider_than_line": 0.6,
    "flat": 0.2,
    "ends_off_rim": 0.2,
    "centre_outside": 0.6,
    "leak_volume": 0.6,
    "leak_z": 0.4,
    "area_jump": 0.2,
    "border": 0.2,
    "islands": 0.15,
    "low_confidence": 0.3,
    "no_evidence": 0.6,
    "z_limit": 0.4,
    "misses_other_prompt": 0.3,
    "assumed_size": 0.6,
    "prompt_slice_empty": 0.6,
    "far_from_arrow": 0.6,
}
"""What each flag takes from the score. Tier A: no penalty; C: the score is below `BELIEVABLE`; B: between."""
BELIEVABLE = 0.55


@dataclass(frozen=True, slots=True)
class Quality:
    """Verdict on one mask.

    Parameters
    ----------
    tier
        "A": agrees with the measurement in everything checked; "B": usable with care; "C": not believable.
    flags
        What was found, those of the engine included, sorted.
    score
        In [0, 1], lower for every flag.
    volume_mm3
        Of the mask.
    recist_mm
        Longest in-plane diameter of the mask.

    """

    tier: Tier
    flags: tuple[str, ...]
    score: float
    volume_mm3: float
    recist_mm: float


def check_mask(mask: Mask, job: SegmentationJob) -> Quality:
    """Hold ``mask`` against the measurements of ``job``, the volume's border and its own shape.

    Parameters
    ----------
    mask
        On the grid of ``job.volume``.

    """
    spacing = job.volume.spacing_mm
    flags = {flag for flag in mask.flags if flag in _PENALTY}
    drawn = [prompt for prompt in job.prompts if isinstance(prompt, Line | Bidimensional)]
    if drawn:
        flags |= _against_section(mask, drawn[0], spacing) | _against_length(mask, drawn[0], spacing)
    if any(not _holds(mask, other.slice_index, middle_of(other)) for other in drawn[1:]):
        flags.add("misses_other_prompt")
    if isinstance(job.prompts[0], Arrow) and _beyond_arrow(mask, job.prompts[0], spacing):
        flags.add("far_from_arrow")
    if _touches_border(mask, job.volume.voxels.shape):
        flags.add("border")
    if _island_share(mask.voxels) > ISLANDS:
        flags.add("islands")
    if _jumps(mask, job.prompts[0].slice_index):
        flags.add("area_jump")
    if mask.confidence is not None:
        expected = LOW_CONFIDENCE["arrow" if not drawn else "measured"]
        if mask.confidence < NO_CONFIDENCE:
            flags.add("no_evidence")
        elif mask.confidence < expected:
            flags.add("low_confidence")
    penalty = sum(_PENALTY[flag] for flag in flags)
    score = max(0.0, 1.0 - penalty) * (1.0 if mask.confidence is None else 0.5 + 0.5 * mask.confidence)
    believable = 1.0 - penalty >= BELIEVABLE
    return Quality(
        tier="A" if not flags else "B" if believable else "C",
        flags=tuple(sorted(flags | set(mask.flags))),
        score=score,
        volume_mm3=float(np.count_nonzero(mask.voxels) * abs(np.linalg.det(job.volume.affine[:3, :3]))),
        recist_mm=longest_diameter_mm(mask.voxels, spacing),
    )


def _against_section(mask: Mask, drawn: Line | Bidimensional, spacing_mm: tuple[float, float, float]) -> set[str]:
    """Extent along each drawn axis, its ends against the rim, and its middle, on its own slice."""
    k = drawn.slice_index - mask.offset[0]
    if not (0 <= k < len(mask.voxels) and mask.voxels[k].any()):
        return {"prompt_slice_empty"}
    flags = set() if _holds(mask, drawn.slice_index, middle_of(drawn)) else {"centre_outside"}
    section = np.pad(mask.voxels[k], 1)
    _, row_mm, column_mm = spacing_mm
    axes = (long_axis_of(drawn),) if isinstance(drawn, Line) else (drawn.long_axis, drawn.short_axis)
    flags |= _against_width(section, drawn, (row_mm, column_mm))
    rim_distance = _rim_distance(section, (row_mm, column_mm))
    for start, end in axes:
        x, y = (end[0] - start[0]) * column_mm, (end[1] - start[1]) * row_mm
        length = hypot(x, y)
        if length == 0:
            continue
        pixel = pixel_along(np.array([x, y]) / length, row_mm, column_mm)
        ratio = extent_mm(section, (x, y), (row_mm, column_mm)) / (length + pixel)
        if not EXTENT_BELIEVABLE[0] <= ratio <= EXTENT_BELIEVABLE[1]:
            flags.add("length_wrong")
        elif not EXTENT_EXPECTED[0] <= ratio <= EXTENT_EXPECTED[1]:
            flags.add("length_disagrees")
        allowed = max(END_NEAR_RIM * length, 2 * pixel)
        for point in (start, end):
            row, column = point[1] - mask.offset[1] + 1, point[0] - mask.offset[2] + 1
            if _read(rim_distance, row, column, (row_mm, column_mm)) > allowed:
                flags.add("ends_off_rim")
    return flags


def _against_width(
    section: NDArray[np.bool_], drawn: Line | Bidimensional, spacing_mm: tuple[float, float]
) -> set[str]:
    """The section's longest diameter against the longest drawn one: a leak beside the line leaves its ends alone."""
    (x0, y0), (x1, y1) = long_axis_of(drawn)
    length = hypot((x1 - x0) * spacing_mm[1], (y1 - y0) * spacing_mm[0]) + max(spacing_mm)
    ratio = longest_diameter_mm(section, spacing_mm) / length
    if ratio > WIDTH_BELIEVABLE:
        return {"much_wider_than_line"}
    return {"wider_than_line"} if ratio > WIDTH_EXPECTED else set()


def _against_length(mask: Mask, drawn: Line | Bidimensional, spacing_mm: tuple[float, float, float]) -> set[str]:
    """Volume and extent along z against what the longest drawn diameter allows."""
    (x0, y0), (x1, y1) = long_axis_of(drawn)
    slice_mm, row_mm, column_mm = spacing_mm
    length = hypot((x1 - x0) * column_mm, (y1 - y0) * row_mm) + hypot(row_mm, column_mm)
    volume = float(np.count_nonzero(mask.voxels)) * slice_mm * row_mm * column_mm
    flags = set()
    # A lesion smaller than a slice still fills it: the length cannot speak below the slice spacing.
    if volume > LEAK_VOLUME * pi / 6 * length**2 * max(length, slice_mm):
        flags.add("leak_volume")
    if (len(mask.voxels) - 2) * slice_mm > LEAK_EXTENT_Z * length:
        flags.add("leak_z")
    if (len(mask.voxels) + 1) * slice_mm < FLAT * length:
        flags.add("flat")
    return flags


def _rim_distance(section: NDArray[np.bool_], spacing_mm: tuple[float, float]) -> NDArray[np.float64]:
    """Millimetres from each pixel centre to the nearest pixel centre of the mask's rim."""
    rim = section & ~ndi.binary_erosion(section)
    distance: NDArray[np.float64] = ndi.distance_transform_edt(~rim, spacing_mm)
    return distance


def _read(distance: NDArray[np.float64], row: float, column: float, spacing_mm: tuple[float, float]) -> float:
    """Value at the nearest pixel; beyond the array the way to it is added."""
    rows, columns = distance.shape
    near_row, near_column = min(max(round(row), 0), rows - 1), min(max(round(column), 0), columns - 1)
    way = hypot((row - near_row) * spacing_mm[0], (column - near_column) * spacing_mm[1])
    beyond = not (-0.5 <= row <= rows - 0.5 and -0.5 <= column <= columns - 0.5)
    return float(distance[near_row, near_column]) + (way if beyond else 0.0)


def _holds(mask: Mask, slice_index: int, point: Point) -> bool:
    """Whether a (column, row) point, or a pixel next to it, is in the mask."""
    k = slice_index - mask.offset[0]
    row, column = round(point[1]) - mask.offset[1], round(point[0]) - mask.offset[2]
    if not 0 <= k < len(mask.voxels) or row < -1 or column < -1:
        return False
    return bool(mask.voxels[k, max(row - 1, 0) : row + 2, max(column - 1, 0) : column + 2].any())


def _beyond_arrow(mask: Mask, arrow: Arrow, spacing_mm: tuple[float, float, float]) -> bool:
    """Whether the mask's nearest pixel is farther from the head than `ARROW_REACH_MM` and than its own radius."""
    k = arrow.slice_index - mask.offset[0]
    if not 0 <= k < len(mask.voxels) or not mask.voxels[k].any():
        return True
    rows, columns = np.nonzero(mask.voxels[k])
    way = np.hypot(
        (rows + mask.offset[1] - arrow.head[1]) * spacing_mm[1],
        (columns + mask.offset[2] - arrow.head[0]) * spacing_mm[2],
    )
    return float(way.min()) > max(ARROW_REACH_MM, longest_diameter_mm(mask.voxels[k], spacing_mm) / 2)


def _touches_border(mask: Mask, shape: tuple[int, ...]) -> bool:
    """Whether the lesion runs into the edge of the volume, where it may have been cut off."""
    ends = np.add(mask.offset, mask.voxels.shape)
    return bool((np.asarray(mask.offset) == 0).any() or (ends == shape).any())


def _island_share(voxels: NDArray[np.bool_]) -> float:
    labels, count = ndi.label(voxels, np.ones((3, 3, 3)))
    if count < 2:
        return 0.0
    sizes = np.bincount(labels.ravel())[1:]
    return 1.0 - float(sizes.max() / sizes.sum())


def _jumps(mask: Mask, slice_index: int) -> bool:
    """Whether some slice is far larger than its neighbour nearer to the prompt: the mask flooded something."""
    areas = mask.voxels.sum(axis=(1, 2)).astype(np.float64)
    start = min(max(slice_index - mask.offset[0], 0), len(areas) - 1)
    for outward in (areas[start:], areas[: start + 1][::-1]):
        if (outward[1:] > AREA_JUMP * np.maximum(outward[:-1], 8)).any():
            return True
    return False
