"""What the small 3D network sees: a box at the prompt's own scale, the prompt drawn into it, and a few numbers."""

from __future__ import annotations

from dataclasses import dataclass, replace
from math import log, sqrt
from typing import NamedTuple

import numpy as np
import scipy.ndimage as ndi
from numpy.typing import NDArray

from segmentation.types import Volume
from segmentation.volumetric.aims import AIM_KINDS, HEAD_AT, Aim
from segmentation.volumetric.config import UNet3DConfig
from segmentation.volumetric.frames import FloatArray, Frame, sample

HU_LIMITS = (-1000.0, 1000.0)
SHORT_AXIS, KIND_FIRST = 3, 4
CONSTANTS = KIND_FIRST + len(AIM_KINDS)
"""Numbers that go with a box: log size, slice spacing, pixel spacing, short axis, and what was drawn."""
ON_THE_RIM = float(np.exp(-1))
"""Value of the ``expected`` channel on the surface of the prompt's ellipsoid."""

_TYPICAL_MM = 30.0
_NEAR_SLICE = 0.12
_HU_BINS, _HU_PER_BIN, _HU_BLUR_BINS = 250, 8.0, 1.5


@dataclass(frozen=True, slots=True, eq=False)
class Guide:
    """A box for an aim; ``unit_mm`` is the length that everything in it is measured in.

    ``stretch`` (z, v): by how much the box is longer than the network is told, in training.
    """

    aim: Aim
    frame: Frame
    unit_mm: float
    stretch: tuple[float, float] = (1.0, 1.0)


class Drawn(NamedTuple):
    """The prompt in a box, each (z, v, u).

    ``distance`` from what was drawn, in units; ``expected``: 1 in the middle of where the lesion is expected,
    `ON_THE_RIM` on its likely surface; ``core``: samples that surely are lesion.
    """

    distance: FloatArray
    expected: FloatArray
    core: NDArray[np.bool_]


def channels(config: UNet3DConfig) -> int:
    """Count the channels of `assemble`."""
    return 2 + config.relative + config.ratio + 3 * config.image_prompt


def guides_of(aim: Aim, spacing_mm: tuple[float, float, float], config: UNet3DConfig) -> tuple[Guide, ...]:
    """Boxes to try for an aim: one where its length is known, else one for each of ``config.free_mm``."""
    lengths = config.free_mm if aim.length_mm is None else (aim.length_mm,)
    return tuple(guide_at(aim, length, spacing_mm, config) for length in lengths)


def guide_at(
    aim: Aim,
    unit_mm: float,
    spacing_mm: tuple[float, float, float],
    config: UNet3DConfig,
    stretch: tuple[float, float] = (1.0, 1.0),
) -> Guide:
    """Box of one scale."""
    halves = _halves(aim, config)
    ahead = -HEAD_AT * unit_mm if aim.kind == "arrow" else 0.0
    x, y = (c + ahead * d for c, d in zip(aim.centre_mm, aim.direction, strict=True))
    half_mm = halves[0] * unit_mm * stretch[0], halves[1] * unit_mm * stretch[1], halves[2] * unit_mm
    centre = aim.slice_index * spacing_mm[0], y, x
    return Guide(aim, Frame(centre, aim.direction, half_mm, (config.side,) * 3), unit_mm, stretch)


def image_of(volume: Volume, guide: Guide) -> FloatArray:
    """HU at the samples of the box."""
    return sample(volume.voxels, volume.spacing_mm, guide.frame, limits=HU_LIMITS)


def draw(volume: Volume, guide: Guide, config: UNet3DConfig) -> Drawn:
    """Draw the prompt into its box."""
    z, v, u = _coordinates(guide, config)
    aim = guide.aim
    if aim.kind == "arrow":
        ahead = u - HEAD_AT
        distance = np.sqrt(ahead**2 + v**2 + z**2)
        cosine = ahead / np.maximum(distance, 1e-6)
        expected = np.exp(-(1 - cosine) / 0.12 - (distance / 0.9) ** 2)
        return Drawn(distance, expected, (expected > 0.8) & (np.abs(z) < _NEAR_SLICE))
    if aim.kind == "point":
        distance = np.sqrt(u**2 + v**2 + z**2)
        return Drawn(distance, np.exp(-((distance / 0.35) ** 2)), distance < 0.1)
    b, c = aim.semi_short, sqrt(0.5 * aim.semi_short)
    if aim.kind == "mask":
        outline = _outline(volume, guide)
        inside = outline > outline.max() / 2
        away = ndi.distance_transform_edt(~inside).astype(np.float32) * (2 * config.half_in_plane / config.side)
        expected = np.where(inside, outline, ON_THE_RIM * np.exp(-((away / 0.2) ** 2))) * np.exp(-((z / c) ** 2))
        return Drawn(np.sqrt(away**2 + z**2), expected, inside & (np.abs(z) < 0.07))
    width = b if aim.kind == "box" else 0.0
    distance = np.sqrt(np.maximum(np.abs(u) - 0.5, 0) ** 2 + np.maximum(np.abs(v) - width, 0) ** 2 + z**2)
    if aim.kind == "line":
        c = 0.5
    expected = np.exp(-((u / 0.5) ** 2 + (v / b) ** 2 + (z / c) ** 2))
    core = (np.abs(u) < 0.33) & (np.abs(v) < 0.2 * b) & (np.abs(z) < 0.07)
    return Drawn(distance, expected, core)


def assemble(
    hu: FloatArray, drawn: Drawn, guide: Guide, spacing_mm: tuple[float, float, float], config: UNet3DConfig
) -> tuple[FloatArray, FloatArray]:
    """Channels (`channels`, z, v, u) and the `CONSTANTS` numbers, float32."""
    z, _, _ = _coordinates(guide, config)
    near = np.abs(z) < _NEAR_SLICE
    images: list[FloatArray] = [np.clip((hu + 350) / 650, -1, 1), np.clip((hu - 50) / 200, -1, 1)]
    if config.relative:
        centre = np.median(hu[drawn.core]) if drawn.core.any() else hu.mean()
        images.append(np.tanh((hu - centre) / 60))
    if config.ratio:
        images.append(_likelihood_ratio(hu, drawn.expected, np.broadcast_to(near, hu.shape)))
    if config.image_prompt:
        images += [drawn.distance, np.broadcast_to(np.abs(z), hu.shape), drawn.expected]
    return np.stack(images).astype(np.float32, copy=False), _constants(guide, spacing_mm)


def _constants(guide: Guide, spacing_mm: tuple[float, float, float]) -> FloatArray:
    slice_mm, pixel_mm = spacing_mm[0] / guide.stretch[0], sqrt(spacing_mm[1] * spacing_mm[2])
    numbers = [
        log(guide.unit_mm / _TYPICAL_MM) / 1.5,
        3 * min(slice_mm / guide.unit_mm, 0.5),
        3 * min(pixel_mm / guide.unit_mm, 0.5),
        2 * guide.aim.semi_short,
    ]
    return np.array([*numbers, *(float(kind == guide.aim.kind) for kind in AIM_KINDS)], dtype=np.float32)


def _halves(aim: Aim, config: UNet3DConfig) -> tuple[float, float, float]:
    """Half sides of the box in units, along (z, v, u); without a length all three are one."""
    if aim.length_mm is None:
        return 1.0, 1.0, 1.0
    return config.half_z, config.half_in_plane, config.half_in_plane


def _coordinates(guide: Guide, config: UNet3DConfig) -> tuple[FloatArray, FloatArray, FloatArray]:
    """Coordinates z (n, 1, 1), v (n, 1) and u (n) of the samples in units, as the network is told them."""
    n = config.side
    steps = (np.arange(n) - (n - 1) / 2) * 2 / n
    z, v, u = (np.asarray(steps * half, dtype=np.float32) for half in _halves(guide.aim, config))
    return z[:, None, None], v[:, None], u


def _outline(volume: Volume, guide: Guide) -> FloatArray:
    """(v, u) share of each sample inside the outline of a mask prompt."""
    frame = guide.frame
    if guide.aim.outline is None:
        raise ValueError("only a mask has an outline")
    flat = replace(frame, centre_mm=(0.0, *frame.centre_mm[1:]), shape=(1, *frame.shape[1:]))
    plane: FloatArray = sample(guide.aim.outline[None], volume.spacing_mm, flat)[0]
    return plane


def _likelihood_ratio(hu: FloatArray, expected: FloatArray, near: NDArray[np.bool_]) -> FloatArray:
    """Log ratio of how often each HU occurs inside the prompt's ellipsoid and in the ring around it, in [-1, 1].

    Only samples near the prompted slice count: what the lesion is elsewhere is to be found out.
    """
    bins = ((hu - HU_LIMITS[0]) / _HU_PER_BIN).astype(np.intp)
    np.clip(bins, 0, _HU_BINS - 1, out=bins)
    logs = []
    for chosen in (near & (expected > 0.6), near & (expected < 0.2) & (expected > 0.02)):
        counts = np.bincount(bins[chosen], weights=expected[chosen], minlength=_HU_BINS)
        share = ndi.gaussian_filter1d(counts, _HU_BLUR_BINS, mode="nearest") / max(float(counts.sum()), 1e-6)
        logs.append(np.asarray(np.log(share + 0.2 / _HU_BINS), dtype=np.float64))
    table = np.clip((logs[0] - logs[1]) / 4, -1, 1).astype(np.float32)
    ratio: FloatArray = table[bins]
    return ratio
