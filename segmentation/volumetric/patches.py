"""What the comparators of sam2ct.txt 2.4 see: a patch in millimetres, and the prompt as a binary mask beside it."""

from __future__ import annotations

from dataclasses import replace
from math import ceil

import numpy as np
from numpy.typing import NDArray

from segmentation.types import Arrow, Bidimensional, Box, Line, MaskPrompt, Point, Points, Prompt, Segment, Volume
from segmentation.volumetric.aims import Aim
from segmentation.volumetric.config import PatchConfig
from segmentation.volumetric.frames import FloatArray, Frame, sample

_STROKE = 1.0
"""Half width of a drawn line, in samples."""
_CLICK = 2.0
"""Radius of a click, in samples."""


def patch_of(aim: Aim, spacing_mm: tuple[float, float, float], config: PatchConfig) -> Frame:
    """Box of one patch around a prompt, along the axes of the volume."""
    return _box(_centre(aim, spacing_mm), config.patch, config)


def region_of(aim: Aim, volume: Volume, config: PatchConfig) -> Frame:
    """Box of ``config.region`` lengths of a prompt, at least one patch; beyond the volume half a patch at most."""
    centre, shape = list(_centre(aim, volume.spacing_mm)), list(config.patch)
    for axis, (n, step) in enumerate(zip(config.patch, config.spacing_mm, strict=True)):
        reach, room = config.region * (aim.length_mm or 0.0) / 2, n * step / 2
        end = (volume.voxels.shape[axis] - 1) * volume.spacing_mm[axis]
        low, high = max(centre[axis] - reach, -room), min(centre[axis] + reach, end + room)
        if high - low > n * step:
            centre[axis], shape[axis] = (low + high) / 2, ceil((high - low) / step)
    return _box((centre[0], centre[1], centre[2]), (shape[0], shape[1], shape[2]), config)


def _centre(aim: Aim, spacing_mm: tuple[float, float, float]) -> tuple[float, float, float]:
    return aim.slice_index * spacing_mm[0], aim.centre_mm[1], aim.centre_mm[0]


def _box(centre: tuple[float, float, float], shape: tuple[int, int, int], config: PatchConfig) -> Frame:
    z, v, u = (n * step / 2 for n, step in zip(shape, config.spacing_mm, strict=True))
    return Frame(centre, (1.0, 0.0), (z, v, u), shape)


def patch_hu(volume: Volume, frame: Frame, config: PatchConfig) -> FloatArray:
    """HU at the samples of a patch, clipped."""
    return sample(volume.voxels, volume.spacing_mm, frame, limits=config.hu_clip)


def patch_values(hu: FloatArray, volume: Volume, prompt: Prompt, frame: Frame, config: PatchConfig) -> FloatArray:
    """(2, z, v, u) float32: the image in [0, 1], and the prompt as a mask of zeros and ones on its slice."""
    low, high = config.hu_clip
    return np.stack([(np.clip(hu, low, high) - low) / (high - low), _drawn(volume, prompt, frame)])


def _drawn(volume: Volume, prompt: Prompt, frame: Frame) -> FloatArray:
    slice_mm, row_mm, column_mm = volume.spacing_mm
    _, y, x = frame.position(0.0, frame.coordinates_mm(1)[:, None], frame.coordinates_mm(2))
    scale = np.array([column_mm, row_mm])
    step = max(frame.step_mm[1:])
    if isinstance(prompt, MaskPrompt):
        flat = replace(frame, centre_mm=(0.0, *frame.centre_mm[1:]), shape=(1, *frame.shape[1:]))
        section = sample(prompt.mask[None], volume.spacing_mm, flat)[0] > 0.5
    elif isinstance(prompt, Box):
        (left, top), (right, bottom) = np.asarray(prompt.lower) * scale, np.asarray(prompt.upper) * scale
        section = (x >= left - step / 2) & (x <= right + step / 2) & (y >= top - step / 2) & (y <= bottom + step / 2)
    else:
        width = _CLICK if isinstance(prompt, Points) else _STROKE
        nearest = [_distance(x, y, np.asarray(segment) * scale) for segment in _segments(prompt)]
        section = np.min(nearest, axis=0) <= width * step
    z = frame.centre_mm[0] + frame.coordinates_mm(0) - prompt.slice_index * slice_mm
    layers = np.abs(z) <= max(slice_mm, frame.step_mm[0]) / 2 + 1e-6  # halves are rounded
    drawn: FloatArray = (layers[:, None, None] & section).astype(np.float32)
    return drawn


def _segments(prompt: Line | Bidimensional | Arrow | Points) -> list[Segment]:
    if isinstance(prompt, Line):
        return [(prompt.start, prompt.end)]
    if isinstance(prompt, Bidimensional):
        return [prompt.long_axis, prompt.short_axis]
    if isinstance(prompt, Arrow):
        return [(prompt.tail, prompt.head)]
    inside: list[Point] = [point for point, label in zip(prompt.points, prompt.labels, strict=True) if label == 1]
    return [(point, point) for point in inside]


def _distance(x: NDArray[np.float64], y: NDArray[np.float64], ends: NDArray[np.float64]) -> NDArray[np.float64]:
    """From every (x, y) to the segment between two points."""
    (x0, y0), (dx, dy) = ends[0], ends[1] - ends[0]
    length = float(dx**2 + dy**2)
    along = (
        np.clip(((x - x0) * dx + (y - y0) * dy) / length, 0, 1) if length > 0 else np.zeros(np.broadcast(x, y).shape)
    )
    distance: NDArray[np.float64] = np.hypot(x - x0 - along * dx, y - y0 - along * dy)
    return distance
