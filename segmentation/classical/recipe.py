"""From an in-plane ellipse to a 3D mask: shape prior, evidence of the intensity, random walker; slice first, then 3D.

Where the box reaches beyond the volume, the border's voxels go on outwards: a lesion that is cut off is filled up to
the border. Samples and seeds are taken inside the volume only.

Units are millimetres. A, B: coordinates along and across the ellipse's long axis; q: its normalised radius.
"""

from __future__ import annotations

from dataclasses import dataclass
from functools import cache
from math import log, pi, sqrt

import numpy as np
import scipy.ndimage as ndi
from numpy.typing import NDArray
from scipy.special import expit

from segmentation.classical.grid import BoolArray, FloatArray, Grid, cut_grid
from segmentation.classical.walker import PRIOR_FLOOR, bin_of, evidence_table, posterior, random_walk
from segmentation.ellipsoid import InPlaneEllipse
from segmentation.types import SegmentationError, Volume

MIN_SAMPLES = 5

_PULL_2D, _PULL_3D = 0.2, 0.08
_SLICE_WEIGHT = 0.85
_EXTENTS = np.geomspace(0.35, 2.2, 19)
_EXTENT_FACTORS = np.exp(0.21 * np.linspace(-1.4, 1.4, 7))
_CROSS_2D = ndi.generate_binary_structure(2, 1)


class NothingFoundError(SegmentationError):
    """The image gives no evidence to segment with: too few samples, or an empty result."""


@dataclass(frozen=True, slots=True)
class ShapeSpread:
    """How far the lesion's outline may differ from the ellipse: what each kind of prompt leaves open.

    Parameters
    ----------
    long, short
        Standard deviation of the log of either half axis.
    short_cap
        The short half axis is at most this many long ones.
    reach
        Nothing of the lesion is farther from either end of the long axis than this many long axes.
    core
        The seed is ``q < core``; None: a strip along the long axis, which the reader drew inside the lesion.

    """

    long: float
    short: float
    short_cap: float
    reach: float
    core: float | None = None


LINE_SPREAD = ShapeSpread(long=0.04, short=0.22, short_cap=1.05, reach=1.12)
PAIR_SPREAD = ShapeSpread(long=0.04, short=0.10, short_cap=1.1, reach=1.12)
ARROW_SPREAD = ShapeSpread(long=0.15, short=0.2, short_cap=1.5, reach=1.5, core=0.3)


@dataclass(frozen=True, slots=True, eq=False)
class Segmented:
    """A mask and what the engine's confidence is computed from.

    Parameters
    ----------
    probability
        (slice, row, column) float32, cropped; the mask is where it exceeds one half.
    mask
        Boolean, same shape: the part of that which holds the seed.
    origin
        (slice, row, column) of the crop's first voxel in the volume.
    separation
        Mean evidence in the mask minus that in a shell around it, in log odds, 0.3 to 8.
    at_limit
        The search along z ended at the largest extent it allows.

    """

    probability: FloatArray
    mask: BoolArray
    origin: tuple[int, int, int]
    separation: float
    at_limit: bool


@dataclass(frozen=True, slots=True, eq=False)
class _Slice:
    """The prompted slice: coordinates, prior, seeds, bins, and what the walker made of it."""

    prior: FloatArray
    core: BoolArray
    outside: BoolArray
    evidence: FloatArray
    walked: FloatArray
    distance: FloatArray
    """Signed distance to the edge of the lesion, positive inside."""


def segment_ellipse(volume: Volume, ellipse: InPlaneEllipse, spread: ShapeSpread) -> Segmented:
    """Segment the lesion whose section on one slice is about ``ellipse``.

    Raises
    ------
    NothingFoundError
        If the samples are too few or the mask is empty.

    """
    grid = cut_grid(volume, ellipse)
    bins = bin_of(grid.image)
    plane = _segment_slice(grid, bins[grid.middle], ellipse, spread)
    table = plane.evidence
    walked, lesion, at_limit = _segment_volume(grid, bins, table, plane, ellipse.semi_long_mm)
    try:
        table = _table_from(bins, lesion, (grid.step_z, grid.step, grid.step), ellipse.semi_long_mm, grid.on_image)
    except NothingFoundError:
        pass  # the first mask is too thin to learn from: keep it
    else:
        walked, lesion, at_limit = _segment_volume(grid, bins, table, plane, ellipse.semi_long_mm)
    probability = grid.to_volume(np.where(lesion | (walked <= 0.5), walked, 0))
    mask = probability > 0.5
    if not mask.any():
        raise NothingFoundError("the mask is smaller than a voxel")
    separation = _separation(table[bins], lesion, grid, ellipse.semi_long_mm)
    return Segmented(probability, mask, grid.origin, separation, at_limit)


def _segment_slice(grid: Grid, bins: NDArray[np.intp], ellipse: InPlaneEllipse, spread: ShapeSpread) -> _Slice:
    """Walk twice on the prompted slice, the second time with the evidence of the first result."""
    a, b, h = ellipse.semi_long_mm, ellipse.semi_short_mm, grid.step
    u, v = ellipse.direction
    along, across = grid.x * u + grid.y[:, None] * v, grid.y[:, None] * u - grid.x * v
    q = np.hypot(along / a, across / b)
    on_image, image = grid.on_image[grid.middle], grid.image[grid.middle]
    prior = _slice_prior(along, across, ellipse, spread, h)
    if spread.core is None:
        core = (np.abs(along) < 0.75 * a) & (np.abs(across) < max(0.12 * b, 0.6 * h))
    else:
        core = q < spread.core
    core &= on_image
    outside = (prior <= PRIOR_FLOOR) & ~core
    inner = (q < 0.6) & on_image
    ring = (q > 1.2) & (q < max(1.9, 1 + 6 / a)) & on_image
    _require_samples(inner, ring)
    weights = np.exp(-((across / (0.5 * b)) ** 2))[inner].astype(np.float32)
    table = evidence_table(bins[inner], bins[ring], weights)
    walked, lesion = prior, core
    for _ in range(2):
        target = posterior(prior, table[bins])
        walked = random_walk(image, target, steps_mm=(h, h), pull=_PULL_2D, inside=core, outside=outside, rtol=1e-4)
        lesion = ndi.binary_fill_holes(_part_with(walked > 0.5, core), _CROSS_2D)
        table = _table_from(bins, lesion, (h, h), a, on_image)
    return _Slice(prior, core, outside, table, walked, _signed_distance(lesion, (h, h)))


def _slice_prior(
    along: FloatArray, across: FloatArray, ellipse: InPlaneEllipse, spread: ShapeSpread, step: float
) -> FloatArray:
    """Share of 48 random superellipses that cover each point."""
    a, b = ellipse.semi_long_mm, ellipse.semi_short_mm
    draws = _shape_draws()
    long = a * np.exp(spread.long * draws[0])
    short = np.minimum(b * np.exp(spread.short * draws[1]), spread.short_cap * long)
    shift_along, shift_across, exponent = 0.08 * 0.5 * a * draws[2], 0.08 * b * draws[3], draws[4]
    prior: FloatArray = np.zeros_like(along)
    for i in range(len(long)):
        x = np.abs((along - shift_along[i]) / long[i])
        y = np.abs((across - shift_across[i]) / short[i])
        prior += x ** exponent[i] + y ** exponent[i] <= 1
    prior = np.clip(prior / np.float32(len(long)), PRIOR_FLOOR, 1 - PRIOR_FLOOR)
    # A lesion's longest diameter is hardly longer than the one drawn.
    far = np.hypot(np.abs(along) + a, across) > spread.reach * 2 * a + step
    prior[far] = PRIOR_FLOOR
    return prior


@cache
def _shape_draws() -> NDArray[np.float32]:
    """(5, 48): four standard normal numbers and a superellipse's exponent, the same for every lesion."""
    rng = np.random.default_rng(48)
    draws = np.vstack([rng.standard_normal((4, 48)), rng.uniform(1.7, 3, (1, 48))]).astype(np.float32)
    draws.flags.writeable = False
    return draws


def _segment_volume(
    grid: Grid, bins: NDArray[np.intp], table: FloatArray, plane: _Slice, a: float
) -> tuple[FloatArray, BoolArray, bool]:
    """Find the extent along z, then walk in 3D under the prior that it gives."""
    evidence = table[bins]
    up, up_limit = _extent(evidence[grid.middle + 1 :], plane.distance, grid, a)
    down, down_limit = _extent(evidence[: grid.middle][::-1], plane.distance, grid, a)
    prior = _volume_prior(grid, plane.distance, up, down)
    box = _bounding_box(prior > PRIOR_FLOOR)
    target = posterior(prior, evidence)
    middle = target[grid.middle]
    target[grid.middle] = (1 - _SLICE_WEIGHT) * middle + _SLICE_WEIGHT * plane.walked
    core = np.zeros(prior.shape, dtype=np.bool_)
    core[grid.middle] = plane.core
    outside = (prior <= PRIOR_FLOOR) & ~core
    walked = np.zeros_like(target)
    walked[box] = random_walk(
        grid.image[box],
        target[box],
        steps_mm=(grid.step_z, grid.step, grid.step),
        pull=_PULL_3D,
        inside=core[box],
        outside=outside[box],
        rtol=1e-3,
    )
    return walked, _part_with(walked > 0.5, core), up_limit or down_limit


def _extent(evidence: FloatArray, distance: FloatArray, grid: Grid, a: float) -> tuple[float, bool]:
    """Half extent to one side of the slice: the one whose sections hold most evidence, near a round shape's."""
    inside = distance > 0
    radius = max(sqrt(np.count_nonzero(inside) * grid.step**2 / pi), 0.55 * a)
    order = np.argsort(-distance[inside], kind="stable")
    depth = distance[inside][order]
    sums = np.zeros((len(evidence), len(depth) + 1))
    np.cumsum(evidence[:, inside][:, order], axis=1, out=sums[:, 1:])
    heights = np.arange(1, len(evidence) + 1) * grid.step_z
    best, best_score = radius, -np.inf
    for extent in _EXTENTS * radius:
        reached = heights < extent
        # Deeper than this lies the section at that height.
        least = depth[0] * (1 - np.sqrt(1 - (heights[reached] / extent) ** 2))
        points = np.searchsorted(-depth, -least, side="left")
        score = grid.step_z * sums[np.flatnonzero(reached), points].sum() / (len(depth) * radius)
        score -= 0.25 * (log(extent / radius) / 0.42) ** 2
        if score > best_score:
            best, best_score = float(extent), score
    return best, bool(best >= 0.999 * _EXTENTS[-1] * radius)


def _volume_prior(grid: Grid, distance: FloatArray, up: float, down: float) -> FloatArray:
    """Shrink the slice's section with height to nothing at the extents found, averaged over their uncertainty."""
    depth = float(distance.max())
    softness = 0.2 * depth + 0.3 * grid.step
    prior: FloatArray = np.zeros((len(grid.z), *distance.shape), dtype=np.float32)
    for k, z in enumerate(grid.z):
        for extent in (up if z > 0 else down) * _EXTENT_FACTORS:
            if abs(z) <= extent:
                least = depth * (1 - sqrt(1 - (z / extent) ** 2))
                prior[k] += expit((distance - least) / softness)
    prior /= len(_EXTENT_FACTORS)
    np.clip(prior, PRIOR_FLOOR, 1 - PRIOR_FLOOR, out=prior)
    return prior


def _table_from(
    bins: NDArray[np.intp], lesion: BoolArray, steps_mm: tuple[float, ...], a: float, on_image: BoolArray
) -> FloatArray:
    """Evidence from a mask: its depth against a shell around it, both clear of the blurred rim."""
    h = steps_mm[-1]
    reach = max(0.5 * a, 5)
    box = _bounding_box(lesion, margin=[int(np.ceil(reach / step)) + 1 for step in steps_mm])
    distance = _signed_distance(lesion[box], steps_mm)
    inner = distance > min(1.5 * h, 0.35 * float(distance.max()))
    shell = (distance < -1.2 * h) & (distance > -reach) & on_image[box]
    _require_samples(inner, shell)
    return evidence_table(bins[box][inner], bins[box][shell])


def _separation(evidence: FloatArray, lesion: BoolArray, grid: Grid, a: float) -> float:
    width = max(0.25 * a, 2 * grid.step)
    steps = (grid.step_z, grid.step, grid.step)
    box = _bounding_box(lesion, margin=[int(np.ceil(width / step)) + 1 for step in steps])
    shell = (ndi.distance_transform_edt(~lesion[box], steps) <= width) & ~lesion[box] & grid.on_image[box]
    if not shell.any():
        return 0.3
    difference = float(evidence[lesion].mean() - evidence[box][shell].mean())
    return min(max(difference, 0.3), 8.0)


def _signed_distance(lesion: BoolArray, steps_mm: tuple[float, ...]) -> FloatArray:
    """Millimetres to the edge, which runs half a step outside the rim's points; positive inside."""
    half = steps_mm[-1] / 2
    inward = ndi.distance_transform_edt(lesion, steps_mm)
    outward = ndi.distance_transform_edt(~lesion, steps_mm)
    result: FloatArray = np.where(lesion, inward - half, half - outward).astype(np.float32)
    return result


def _part_with(mask: BoolArray, seed: BoolArray) -> BoolArray:
    """Connected parts of ``mask`` that hold some of ``seed``."""
    labels, _ = ndi.label(mask)
    held = np.unique(labels[seed & mask])
    if not held.size:
        raise NothingFoundError("the walker left the seed")
    part: BoolArray = np.isin(labels, held)
    return part


def _bounding_box(mask: BoolArray, margin: list[int] | None = None) -> tuple[slice, ...]:
    box = ndi.find_objects(mask.astype(np.int8))[0]
    grow = margin or [0] * mask.ndim
    return tuple(slice(max(0, s.start - m), s.stop + m) for s, m in zip(box, grow, strict=True))


def _require_samples(lesion: BoolArray, background: BoolArray) -> None:
    found = min(int(np.count_nonzero(lesion)), int(np.count_nonzero(background)))
    if found < MIN_SAMPLES:
        raise NothingFoundError(f"{found} samples of lesion or background, {MIN_SAMPLES} needed")
