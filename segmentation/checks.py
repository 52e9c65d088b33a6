"""Can this mask be believed? It is held against the radiologist's own measurement; no truth is needed.

`measure` gives the numbers, `segmentation.believability` holds the limits that raise flags, `segmentation.tiers` the
fitted probability that decides about tier A.
"""

from __future__ import annotations

from dataclasses import dataclass
from math import hypot, pi
from typing import Literal

import numpy as np
import scipy.ndimage as ndi
from numpy.typing import NDArray

from segmentation.believability import BELIEVABLE, raised
from segmentation.ellipsoid import long_axis_of, middle_of
from segmentation.metrics import dice, extent_mm, long_and_short_diameter, longest_diameter_mm, pixel_along
from segmentation.tiers import TierTable, doubts_of, shipped
from segmentation.types import (
    Arrow,
    Bidimensional,
    Box,
    Line,
    Mask,
    MaskPrompt,
    Point,
    Points,
    Prompt,
    Segment,
    SegmentationJob,
    Volume,
)

BoolArray = NDArray[np.bool_]
FloatArray = NDArray[np.float64]

Tier = Literal["A", "B", "C"]
Verdict = Literal["accept", "review", "reject"]
_VERDICTS: dict[Tier, Verdict] = {"A": "accept", "B": "review", "C": "reject"}

NOT_CALIBRATED = "not_calibrated"
"""Flag of a mask whose engine, weights or kind of prompt no fit was made for: its tier is never A."""

ARROW_REACH_MM = 10.0
"""A head may stop short of the rim by half the lesion's radius (SAM2CT section 2.2), or by this."""

# How things are measured; the limits stand in `believability`.
_FEW_PIXELS = 8.0  # a section smaller than this grows by any factor without meaning
_LINE_SAMPLES = 64
_PARTIAL_VOLUME, _SHELL = 1.2, 3.5  # pixels from the mask
_HU_RANGE, _BIN_HU, _SMOOTH_HU, _PRIOR_COUNT = (-1050, 1550), 8, 24.0, 0.2


@dataclass(frozen=True, slots=True)
class Quality:
    """Verdict on one mask.

    Parameters
    ----------
    tier
        "A": likely enough good for `tiers.PRECISION` of such masks to be; "B": usable with care; "C": not believable.
    flags
        What was found, those of the engine included, sorted.
    score
        In [0, 1]. With a fit: the probability of Dice `tiers.GOOD_DICE` or more. Without (flag `NOT_CALIBRATED`): one
        minus the penalties of the flags, times what is left by the engine's doubt (0.5 to 1) and by how badly
        Hounsfield values tell the mask from its surroundings (0.5 to 1), which orders masks and is no probability.
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

    @property
    def verdict(self) -> Verdict:
        """What to do with the mask: accept (tier A), review (B), reject (C)."""
        return _VERDICTS[self.tier]


def check_mask(mask: Mask, job: SegmentationJob, table: TierTable | None = None) -> Quality:
    """Hold ``mask`` against the annotations of ``job``, the image, the volume's border and its own shape.

    Tier A: no flag of `believability.CHECKS`, and the fitted probability reaches the threshold of its engine and kind
    of prompt; never without a fit. C: one minus the penalties is below `believability.BELIEVABLE`. B: between.

    Parameters
    ----------
    mask
        On the grid of ``job.volume``.
    table
        Fitted tiers; None: those that come with the package.

    """
    values = measure(mask, job)
    penalties = raised(values, mask.flags)
    left = round(1.0 - sum(penalties.values()), 6)  # in whichever order they were added
    flags = {*penalties, *mask.flags}
    fit = (shipped() if table is None else table).fit_of(mask, job.prompts[0])
    if fit is None:
        flags.add(NOT_CALIBRATED)
        doubt = 1.0 if mask.confidence is None else 0.5 + 0.5 * mask.confidence
        told = values.get("separation", values.get("separation_unmeasured", 1.0))
        score, accepted = max(0.0, left) * doubt * max(told, 0.5), False
    else:
        score = fit.probability(doubts_of(values | evidence(mask, job.volume) | {"penalties": 1.0 - left}))
        # A flag speaks also where the fit has seen nothing like it, as of a mask that misses a second line.
        accepted = not penalties and fit.accept is not None and score >= fit.accept
    return Quality(
        tier="C" if left < BELIEVABLE else "A" if accepted else "B",
        flags=tuple(sorted(flags)),
        score=score,
        volume_mm3=float(np.count_nonzero(mask.voxels) * abs(np.linalg.det(job.volume.affine[:3, :3]))),
        recist_mm=longest_diameter_mm(mask.voxels, job.volume.spacing_mm),
    )


def evidence(mask: Mask, volume: Volume) -> dict[str, float]:
    """What bears on the fitted probability and has no limit of its own.

    Returns
    -------
    ``slice_confidence`` and (where the engine has one) ``slice_stability``, the mean over slices, and the smallest with
    ``least_`` before it; ``diameter_mm``, the longest in the plane, ``pixels_across``, the same in pixels; ``slices``.

    """
    diameter = longest_diameter_mm(mask.voxels, volume.spacing_mm)
    values = {
        "diameter_mm": diameter,
        "pixels_across": diameter / max(volume.spacing_mm[1:]),
        "slices": float(len(mask.voxels)),
    }
    for name, of_slices in (("slice_confidence", mask.slice_confidence), ("slice_stability", mask.slice_stability)):
        if of_slices:
            values |= {name: float(np.mean(of_slices)), f"least_{name}": min(of_slices)}
    return values


def measure(mask: Mask, job: SegmentationJob) -> dict[str, float]:
    """Every number that `believability.CHECKS` has limits for and that this mask and job allow.

    Lengths count one pixel along their direction, for the mask as for the line. A measure that cannot be taken (no
    line drawn, nothing around the mask) is absent.

    Returns
    -------
    On the slice of the first line or pair
        ``on_prompt_slice`` (1 or 0); ``length``, the mask's extent along the long axis over it; ``width``, its longest
        diameter over the long axis; ``short_axis``, its short diameter over the drawn one; ``line_inside``, the share
        of the drawn axes in the mask; ``end_off_rim``, the farthest end from the rim over its axis, 0 within two
        pixels; ``centre_inside`` (1 or 0).
    Beyond that slice
        ``volume``, over the ellipsoid with the half axes of the measurement (a line: both its own) and the long one
        along z; ``extent_z`` and ``extent_z_least`` over the long axis, at the least and the most that the slice
        thickness allows; ``other_prompts_held`` (1 or 0); ``area_jump``, a section over its neighbour nearer to the
        prompt.
    In the image
        ``separation`` and ``rim_unlike_core``, see `_against_surroundings`; ``border_distance`` in voxels.
    For other first prompts
        ``arrow_reach``, the distance from the head over what is allowed; ``clicks``, the share obeyed; ``box``, IoU
        with the section's own box; ``outline``, Dice with the section.
    Besides
        ``islands``, the share outside the largest part; ``confidence`` of the engine. Where nothing was measured,
        ``separation``, ``rim_unlike_core`` and ``confidence`` end in ``_unmeasured``.

    """
    first = job.prompts[0]
    values = _of_shape(mask, job.volume.voxels.shape) | _over_slices(mask, first.slice_index)
    drawn = [prompt for prompt in job.prompts if isinstance(prompt, Line | Bidimensional)]
    told = _against_surroundings(mask, job.volume)
    if mask.confidence is not None:
        told["confidence"] = mask.confidence
    # Without a measurement only the image speaks for the mask's size: it has limits of its own then.
    values |= told if drawn else {f"{name}_unmeasured": value for name, value in told.items()}
    if drawn:
        spacing = job.volume.spacing_mm
        values |= _against_section(mask, drawn[0], spacing) | _against_length(mask, drawn[0], spacing)
        others = [_holds(mask, other.slice_index, middle_of(other)) for other in drawn[1:]]
        values["other_prompts_held"] = float(all(others))
    else:
        values |= _against_other(mask, first, job.volume)
    return values


def _against_surroundings(mask: Mask, volume: Volume) -> dict[str, float]:
    """How well Hounsfield values tell the mask from what lies around it, and its rim from its core.

    The deep half of the mask and a shell around it (1.2 to 3.5 pixels off, beyond the partial volume, in the planes of
    the mask's slices) say how much each value speaks for the core. ``separation`` is the probability that a voxel of
    the mask speaks more for the core than one of the shell: 0.5 where mask and surroundings are alike, because the mask
    stops inside the lesion, has flooded its neighbours or lies elsewhere, or because the lesion is not visible.
    ``rim_unlike_core`` is the same for the deep half alone, minus that: a core that stands out and a rim that does not.
    """
    low = [max(o - room, 0) for o, room in zip(mask.offset, (0, 4, 4), strict=True)]
    ends = np.add(mask.offset, mask.voxels.shape)
    high = np.minimum(ends + np.array((0, 4, 4)), volume.voxels.shape)
    image = volume.voxels[tuple(map(slice, low, high))]
    inside = np.zeros(image.shape, dtype=np.bool_)
    start = np.subtract(mask.offset, low)
    inside[tuple(slice(s, s + n) for s, n in zip(start, mask.voxels.shape, strict=True))] = mask.voxels
    _, row_mm, column_mm = volume.spacing_mm
    pixel = max(row_mm, column_mm)
    # Slices are kept apart by a distance that nothing in the plane reaches.
    steps = (1e6, row_mm / pixel, column_mm / pixel)
    framed = np.pad(inside, ((0, 0), (1, 1), (1, 1)))
    depth = ndi.distance_transform_edt(framed, steps)[:, 1:-1, 1:-1]
    away = ndi.distance_transform_edt(~inside, steps)
    shell = (away > _PARTIAL_VOLUME) & (away <= _SHELL)
    if not shell.any():
        return {}
    bins = (np.clip(image, _HU_RANGE[0], _HU_RANGE[1] - 1) - _HU_RANGE[0]) // _BIN_HU
    core, whole, around = (_counts(bins[part]) for part in (depth >= depth.max() / 2, inside, shell))
    order = np.argsort(_log_density(core) - _log_density(around), kind="stable")
    below = np.cumsum(around[order]) - around[order] / 2
    of_core, of_mask = (float(part[order] @ below / (part.sum() * around.sum())) for part in (core, whole))
    return {"separation": of_mask, "rim_unlike_core": of_core - of_mask}


def _counts(bins: NDArray[np.int16]) -> FloatArray:
    return np.bincount(bins, minlength=(_HU_RANGE[1] - _HU_RANGE[0]) // _BIN_HU).astype(np.float64)


def _log_density(counts: FloatArray) -> FloatArray:
    smooth = ndi.gaussian_filter1d(counts, _SMOOTH_HU / _BIN_HU)
    density: FloatArray = np.log((smooth + _PRIOR_COUNT) / counts.sum())
    return density


def _against_section(
    mask: Mask, drawn: Line | Bidimensional, spacing_mm: tuple[float, float, float]
) -> dict[str, float]:
    """Extents, ends, middle and inside of the drawn axes, on their own slice."""
    section = _section(mask, drawn.slice_index)
    if section is None:
        return {"on_prompt_slice": 0.0}
    plane = spacing_mm[1:]
    long_axis = long_axis_of(drawn)
    axes = (long_axis,) if isinstance(drawn, Line) else (long_axis, drawn.short_axis)
    values = {"on_prompt_slice": 1.0, "centre_inside": float(_holds(mask, drawn.slice_index, middle_of(drawn)))}
    values["line_inside"] = float(np.mean([_inside(section, axis, mask.offset) for axis in axes]))
    values["end_off_rim"] = _end_off_rim(section, axes, mask.offset, plane)
    length = _length_mm(long_axis, plane)
    sizes = long_and_short_diameter(section, plane)
    values["width"] = sizes.long_mm / length
    if long_axis[0] != long_axis[1]:
        values["length"] = extent_mm(section, _vector_mm(long_axis, plane), plane) / length
    if isinstance(drawn, Bidimensional):
        values["short_axis"] = sizes.short_mm / _length_mm(drawn.short_axis, plane)
    return values


def _against_length(
    mask: Mask, drawn: Line | Bidimensional, spacing_mm: tuple[float, float, float]
) -> dict[str, float]:
    """Volume and extent along z against what the drawn diameters allow."""
    slice_mm, row_mm, column_mm = spacing_mm
    (x, y), diagonal = _vector_mm(long_axis_of(drawn), spacing_mm[1:]), hypot(row_mm, column_mm)
    length = hypot(x, y) + diagonal
    across = length
    if isinstance(drawn, Bidimensional):
        across = min(hypot(*_vector_mm(drawn.short_axis, spacing_mm[1:])) + diagonal, length)
    volume = float(np.count_nonzero(mask.voxels)) * slice_mm * row_mm * column_mm
    slices = len(mask.voxels)
    return {
        # A lesion smaller than a slice still fills it: the length cannot speak below the slice spacing.
        "volume": volume / (pi / 6 * length * across * max(length, slice_mm)),
        "extent_z": (slices - 2) * slice_mm / length,
        "extent_z_least": (slices + 1) * slice_mm / length,
    }


def _against_other(mask: Mask, prompt: Prompt, volume: Volume) -> dict[str, float]:
    """Against an arrow, clicks, a box or an outline."""
    section = _section(mask, prompt.slice_index)
    if section is None:
        return {"on_prompt_slice": 0.0}
    values = {"on_prompt_slice": 1.0}
    if isinstance(prompt, Arrow):
        values["arrow_reach"] = _arrow_reach(section, prompt, mask.offset, volume.spacing_mm)
    elif isinstance(prompt, Points):
        held = [_holds(mask, prompt.slice_index, point, reach=0) for point in prompt.points]
        values["clicks"] = float(np.mean([h == (label == 1) for h, label in zip(held, prompt.labels, strict=True)]))
    elif isinstance(prompt, Box):
        values["box"] = _box_overlap(section, prompt, mask.offset)
    elif isinstance(prompt, MaskPrompt):
        full = np.zeros_like(prompt.mask)
        rows, columns = (slice(o, o + n) for o, n in zip(mask.offset[1:], section.shape, strict=True))
        full[rows, columns] = section
        values["outline"] = dice(full, prompt.mask)
    return values


def _of_shape(mask: Mask, shape: tuple[int, ...]) -> dict[str, float]:
    """Distance to the edge of the volume, where the lesion may have been cut off, and what is apart of the mask."""
    ends = np.add(mask.offset, mask.voxels.shape)
    edge = min(*mask.offset, *(np.asarray(shape) - ends))
    labels, count = ndi.label(mask.voxels, np.ones((3, 3, 3)))
    sizes = np.bincount(labels.ravel())[1:]
    return {"border_distance": float(edge), "islands": 1.0 - float(sizes.max() / sizes.sum()) if count > 1 else 0.0}


def _over_slices(mask: Mask, slice_index: int) -> dict[str, float]:
    """Growth away from the prompt: a section far larger than the one nearer to it."""
    areas = mask.voxels.sum(axis=(1, 2)).astype(np.float64)
    start = min(max(slice_index - mask.offset[0], 0), len(areas) - 1)
    jump = 0.0
    for outward in (areas[start:], areas[: start + 1][::-1]):
        jump = max(jump, *(outward[1:] / np.maximum(outward[:-1], _FEW_PIXELS)), 0.0)
    return {"area_jump": float(jump)}


def _section(mask: Mask, slice_index: int) -> BoolArray | None:
    """(row, column) section of the mask's crop on a slice of the volume; None where it is empty."""
    k = slice_index - mask.offset[0]
    return mask.voxels[k] if 0 <= k < len(mask.voxels) and mask.voxels[k].any() else None


def _vector_mm(axis: Segment, spacing_mm: tuple[float, ...]) -> tuple[float, float]:
    (x0, y0), (x1, y1) = axis
    return (x1 - x0) * spacing_mm[1], (y1 - y0) * spacing_mm[0]


def _length_mm(axis: Segment, spacing_mm: tuple[float, ...]) -> float:
    """Length of a drawn axis with its pixel; of one without direction: the larger pixel."""
    x, y = _vector_mm(axis, spacing_mm)
    length = hypot(x, y)
    if length == 0:
        return max(spacing_mm)
    return length + pixel_along(np.array([x, y]) / length, spacing_mm[0], spacing_mm[1])


def _inside(section: BoolArray, axis: Segment, offset: tuple[int, int, int]) -> float:
    """Share of a drawn axis whose nearest pixels are in the mask."""
    way = np.linspace(0, 1, _LINE_SAMPLES)[:, None]
    points = np.asarray(axis[0]) + way * np.subtract(axis[1], axis[0])
    columns, rows = np.rint(points - (offset[2], offset[1])).astype(np.intp).T
    on = (rows >= 0) & (columns >= 0) & (rows < section.shape[0]) & (columns < section.shape[1])
    return float(section[rows[on], columns[on]].sum() / _LINE_SAMPLES)


def _end_off_rim(
    section: BoolArray, axes: tuple[Segment, ...], offset: tuple[int, int, int], spacing_mm: tuple[float, ...]
) -> float:
    """Farthest end from the mask's rim, over its axis; an end within two pixels is on it."""
    rim = section & ~ndi.binary_erosion(section)
    rows, columns = np.nonzero(rim)
    farthest = 0.0
    for axis in axes:
        x, y = _vector_mm(axis, spacing_mm)
        length = hypot(x, y)
        if length == 0:
            continue
        pixel = pixel_along(np.array([x, y]) / length, spacing_mm[0], spacing_mm[1])
        for column, row in axis:
            way = np.hypot(
                (rows + offset[1] - row) * spacing_mm[0], (columns + offset[2] - column) * spacing_mm[1]
            ).min()
            farthest = max(farthest, float(way) / length if way > 2 * pixel else 0.0)
    return farthest


def _holds(mask: Mask, slice_index: int, point: Point, *, reach: int = 1) -> bool:
    """Whether a (column, row) point, or a pixel within ``reach`` of it, is in the mask."""
    k = slice_index - mask.offset[0]
    row, column = round(point[1]) - mask.offset[1], round(point[0]) - mask.offset[2]
    if not 0 <= k < len(mask.voxels) or row < -reach or column < -reach:
        return False
    rows, columns = (slice(max(i - reach, 0), i + reach + 1) for i in (row, column))
    return bool(mask.voxels[k, rows, columns].any())


def _arrow_reach(
    section: BoolArray, arrow: Arrow, offset: tuple[int, int, int], spacing_mm: tuple[float, float, float]
) -> float:
    """Distance from the head to the nearest pixel, over the larger of `ARROW_REACH_MM` and the section's radius."""
    rows, columns = np.nonzero(section)
    way = np.hypot(
        (rows + offset[1] - arrow.head[1]) * spacing_mm[1], (columns + offset[2] - arrow.head[0]) * spacing_mm[2]
    )
    return float(way.min()) / max(ARROW_REACH_MM, longest_diameter_mm(section, spacing_mm) / 2)


def _box_overlap(section: BoolArray, box: Box, offset: tuple[int, int, int]) -> float:
    """IoU of the drawn box and the section's own, both with their border pixels."""
    ours = [(np.flatnonzero(section.any(axis=1 - axis)) + offset[1 + axis])[[0, -1]] for axis in (1, 0)]
    common = own = drawn = 1.0
    for (low, high), a, b in zip(ours, box.lower, box.upper, strict=True):
        common *= max(min(high, b) - max(low, a) + 1, 0.0)
        own *= high - low + 1
        drawn *= b - a + 1
    return float(common / (own + drawn - common))
