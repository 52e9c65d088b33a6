"""What does an arrow point at? Closed contours around points ahead of its head, scored; the best ellipses come back.

Polar sampling around candidate centres on the arrow's slice, deviation from the centre's own intensity, and for each
candidate the closed path where the image starts to deviate, by dynamic programming.
"""

from __future__ import annotations

from dataclasses import dataclass
from math import atan2, cos, hypot, log, sin, sqrt

import numpy as np
import scipy.ndimage as ndi
from numpy.typing import NDArray

from segmentation.classical.grid import HU_LIMIT, FloatArray
from segmentation.ellipsoid import InPlaneEllipse, arrow_direction, require_on_volume
from segmentation.types import Arrow, SegmentationError, Volume

_AHEAD_MM = (0.0, 1.5, 3.0, 4.5, 6.0, 8.0, 10.0, 13.0, 16.0, 20.0, 25.0, 32.0, 40.0, 50.0, 62.0, 76.0)
_TURNS_DEG = (-20.0, -10.0, 0.0, 10.0, 20.0)
_PATCHES_MM = (1.3, 3.0, 7.0, 16.0)
_N_ANGLES, _N_RADII, _MORE_RADII = 48, 26, 3
_GROWTH = 9.0 ** (1 / (_N_RADII - 1))
"""Ratio of neighbouring radii: from half a patch radius to 4.5 of them."""
_MAX_STEP, _STEP_COST = 2, 0.3
_MIN_NOISE_HU = 13.0


@dataclass(frozen=True, slots=True)
class Candidate:
    """An ellipse that the arrow may point at, and how well the image bears it out (about -1 to 1)."""

    ellipse: InPlaneEllipse
    score: float


@dataclass(frozen=True, slots=True, eq=False)
class _Centres:
    """Candidate centres of one patch radius: (n,) distance ahead of the head, angle back to it, and x, y in mm."""

    ahead: NDArray[np.float64]
    to_head: NDArray[np.float64]
    x: NDArray[np.float64]
    y: NDArray[np.float64]


def find_ellipses(prompt: Arrow, volume: Volume, count: int = 2) -> list[Candidate]:
    """Return the ``count`` best ellipses that differ, best first.

    Raises
    ------
    SegmentationError
        If the head is not on the volume or no candidate lies on the image.

    """
    require_on_volume(volume, prompt.slice_index, prompt.head)
    _, row_mm, column_mm = volume.spacing_mm
    pixel_mm = sqrt(row_mm * column_mm)
    u = arrow_direction(prompt, volume)
    head = (prompt.head[0] * column_mm, prompt.head[1] * row_mm)
    # Nothing farther than the farthest centre plus the widest ring is looked at.
    reach = _AHEAD_MM[-1] + _PATCHES_MM[-1] * 4.5 * _GROWTH**_MORE_RADII
    rows, columns = volume.voxels.shape[1:]
    top, left = max(0, int((head[1] - reach) / row_mm)), max(0, int((head[0] - reach) / column_mm))
    bottom = min(rows, int((head[1] + reach) / row_mm) + 2)
    right = min(columns, int((head[0] + reach) / column_mm) + 2)
    image = np.clip(volume.voxels[prompt.slice_index, top:bottom, left:right], -HU_LIMIT, HU_LIMIT).astype(np.float32)
    found: list[Candidate] = []
    for patch in _PATCHES_MM:
        centres = _centres(head, u, patch, (columns * column_mm, rows * row_mm))
        if not centres.x.size:
            continue
        sigma = min(max(0.25 * patch, 0.5), 3.0)
        blurred = ndi.gaussian_filter(image, (sigma / row_mm, sigma / column_mm), mode="nearest")
        sampler = _Sampler(blurred, top, left, row_mm, column_mm)
        found += _score_patch(sampler, centres, patch, prompt.slice_index, pixel_mm)
    if not found:
        raise SegmentationError("the arrow points out of the image")
    found.sort(key=lambda candidate: -candidate.score)
    best: list[Candidate] = []
    for candidate in found:
        if all(_differ(candidate.ellipse, other.ellipse) for other in best):
            best.append(candidate)
        if len(best) == count:
            break
    return best


@dataclass(frozen=True, slots=True, eq=False)
class _Sampler:
    image: FloatArray
    top: int
    left: int
    row_mm: float
    column_mm: float

    def __call__(self, x: NDArray[np.float64], y: NDArray[np.float64]) -> FloatArray:
        """Linear interpolation at millimetres of the slice."""
        at = np.stack([y / self.row_mm - self.top, x / self.column_mm - self.left])
        values: FloatArray = ndi.map_coordinates(self.image, at, order=1, mode="nearest")
        return values


def _centres(head: tuple[float, float], u: tuple[float, float], patch: float, size_mm: tuple[float, float]) -> _Centres:
    ahead, turns = np.meshgrid(
        [s for s in _AHEAD_MM if 0.5 * patch <= s <= 11 * patch], np.radians(_TURNS_DEG), indexing="ij"
    )
    angle = atan2(u[1], u[0]) + turns.ravel()
    distance = ahead.ravel()
    x, y = head[0] + distance * np.cos(angle), head[1] + distance * np.sin(angle)
    on = (x >= 0) & (y >= 0) & (x <= size_mm[0]) & (y <= size_mm[1])
    return _Centres(distance[on], angle[on] + np.pi, x[on], y[on])


def _score_patch(
    sampler: _Sampler, centres: _Centres, patch: float, slice_index: int, pixel_mm: float
) -> list[Candidate]:
    angles = np.arange(_N_ANGLES) * (2 * np.pi / _N_ANGLES)
    radii = 0.5 * patch * _GROWTH ** np.arange(_N_RADII + _MORE_RADII)
    ring_x, ring_y = np.outer(np.cos(angles), radii), np.outer(np.sin(angles), radii)
    values = sampler(centres.x[:, None, None] + ring_x, centres.y[:, None, None] + ring_y)
    gain = _gain(values, *_centre_statistics(sampler, centres, patch), radii)
    path, gains, step = _closed_paths(gain)
    at_end = (path == 0) | (path == _N_RADII - 1)
    rim = radii[path]
    towards = rim[np.arange(len(path)), np.rint(centres.to_head / (2 * np.pi) * _N_ANGLES).astype(int) % _N_ANGLES]
    equivalent = np.sqrt((rim**2).mean(axis=1))
    score = gains - _STEP_COST * step - at_end.mean(axis=1) - np.clip(centres.ahead / towards - 1.5, 0, 1)
    score -= 0.08 * (np.log(equivalent / 14) / 1.1) ** 2
    candidates = []
    for i in range(len(path)):
        x, y = centres.x[i] + rim[i] * np.cos(angles), centres.y[i] + rim[i] * np.sin(angles)
        ellipse, irregularity = _moment_ellipse(x, y, slice_index, pixel_mm)
        candidates.append(Candidate(ellipse, float(score[i]) - 0.8 * irregularity))
    return candidates


def _centre_statistics(
    sampler: _Sampler, centres: _Centres, patch: float
) -> tuple[NDArray[np.float64], NDArray[np.float64]]:
    """Median and robust standard deviation (at least `_MIN_NOISE_HU`) within the patch of each centre."""
    n = 64
    radius, turn = patch * np.sqrt((np.arange(n) + 0.5) / n), np.arange(n) * 2.399963
    values = sampler(centres.x[:, None] + radius * np.cos(turn), centres.y[:, None] + radius * np.sin(turn)).astype(
        np.float64
    )
    median = np.median(values, axis=1)
    spread = 1.48 * np.median(np.abs(values - median[:, None]), axis=1)
    return median, np.maximum(spread, _MIN_NOISE_HU)


def _gain(
    values: FloatArray, median: NDArray[np.float64], noise: NDArray[np.float64], radii: NDArray[np.float64]
) -> NDArray[np.float64]:
    """(candidate, angle, radius): deviation just outside a radius minus the mean deviation within it."""
    deviation = np.clip(np.abs(values - median[:, None, None]) / (4.5 * noise[:, None, None]), 0, 1)
    position = log(1.12) / log(_GROWTH)
    whole = int(position)
    fraction = position - whole
    just_outside = (1 - fraction) * deviation[..., whole : whole + _N_RADII]
    just_outside += fraction * deviation[..., whole + 1 : whole + 1 + _N_RADII]
    within = np.cumsum(deviation * radii, axis=-1) / np.cumsum(radii)
    result: NDArray[np.float64] = just_outside - 1.3 * within[..., :_N_RADII]
    return result


def _closed_paths(
    gain: NDArray[np.float64],
) -> tuple[NDArray[np.intp], NDArray[np.float64], NDArray[np.float64]]:
    """Best closed path of radius indices round each candidate: two turns, of which the middle of both is kept.

    Returns
    -------
    (candidate, angle) radius indices; mean gain and mean absolute step along each path.

    """
    n, n_angles, n_radii = gain.shape
    steps = np.arange(-_MAX_STEP, _MAX_STEP + 1)
    total = gain[:, 0].copy()
    chosen = np.zeros((2 * n_angles, n, n_radii), dtype=np.intp)
    index = np.arange(n_radii)
    for k in range(1, 2 * n_angles):
        padded = np.pad(total, ((0, 0), (_MAX_STEP, _MAX_STEP)), constant_values=-np.inf)
        options = np.stack([padded[:, _MAX_STEP + s : _MAX_STEP + s + n_radii] - _STEP_COST * abs(s) for s in steps])
        pick = options.argmax(axis=0)
        total = np.take_along_axis(options, pick[None], axis=0)[0] + gain[:, k % n_angles]
        chosen[k] = index + steps[pick]
    at = total.argmax(axis=1)
    path = np.empty((2 * n_angles, n), dtype=np.intp)
    for k in range(2 * n_angles - 1, -1, -1):
        path[k] = at
        at = chosen[k, np.arange(n), at]
    # The middle turn has forgotten both free ends, so it closes on itself but for a step.
    half = n_angles // 2
    turn = np.roll(path[half : half + n_angles], half, axis=0).T
    mean_gain = np.take_along_axis(gain, turn[..., None], axis=2)[..., 0].mean(axis=1)
    mean_step = np.abs(np.diff(turn, axis=1, append=turn[:, :1])).mean(axis=1)
    return turn, mean_gain, mean_step


def _moment_ellipse(
    x: NDArray[np.float64], y: NDArray[np.float64], slice_index: int, pixel_mm: float
) -> tuple[InPlaneEllipse, float]:
    """Ellipse with the moments of a closed polygon, and how irregular the polygon is against it."""
    x1, y1 = np.roll(x, -1), np.roll(y, -1)
    cross = x * y1 - x1 * y
    area = float(cross.sum()) / 2
    cx, cy = float(((x + x1) * cross).sum()) / (6 * area), float(((y + y1) * cross).sum()) / (6 * area)
    dx, dy, dx1, dy1 = x - cx, y - cy, x1 - cx, y1 - cy
    cross = dx * dy1 - dx1 * dy
    xx = float(((dx**2 + dx * dx1 + dx1**2) * cross).sum()) / (12 * area)
    yy = float(((dy**2 + dy * dy1 + dy1**2) * cross).sum()) / (12 * area)
    xy = float(((dx * dy1 + 2 * dx * dy + 2 * dx1 * dy1 + dx1 * dy) * cross).sum()) / (24 * area)
    middle, half = (xx + yy) / 2, hypot((xx - yy) / 2, xy)
    a = max(2 * sqrt(middle + half), pixel_mm)
    b = max(2 * sqrt(max(middle - half, 0.0)), 0.3 * a, pixel_mm / 2)
    angle = 0.5 * atan2(2 * xy, xx - yy)
    u = (cos(angle), sin(angle))
    q = np.hypot((dx * u[0] + dy * u[1]) / a, (dy * u[0] - dx * u[1]) / b)
    irregularity = float(np.log(np.maximum(q, 1e-3)).std()) + 0.3 * max(0.0, log(a / b) - 0.5)
    return InPlaneEllipse(slice_index, (cx, cy), u, a, b), irregularity


def _differ(first: InPlaneEllipse, second: InPlaneEllipse) -> bool:
    """Whether two ellipses mean different things: centres apart, or sizes."""
    radii = [sqrt(e.semi_long_mm * e.semi_short_mm) for e in (first, second)]
    apart = hypot(first.centre_mm[0] - second.centre_mm[0], first.centre_mm[1] - second.centre_mm[1])
    return apart > 0.5 * min(radii) or abs(log(radii[0] / radii[1])) > 0.4
