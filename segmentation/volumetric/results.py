"""What a network found in a box: which piece is the lesion, how sure it is, and the mask on the volume."""

from __future__ import annotations

from dataclasses import dataclass
from math import log

import numpy as np
import scipy.ndimage as ndi
from numpy.typing import NDArray

from segmentation.geometry import is_orthogonal
from segmentation.types import Mask, MaskPrompt, Points, SegmentationError, SegmentationJob, mask_from_volume
from segmentation.volumetric.aims import Aim, aim_at_section
from segmentation.volumetric.frames import FloatArray, Frame, paste
from segmentation.volumetric.inputs import ON_THE_RIM, Drawn, Guide

FALLBACK_CONFIDENCE = 0.3
THRESHOLD = 0.5
_STRICT, _LAX = 0.731, 0.269
"""Logits of 1 and -1, as SAM measures stability."""
_LEAST_PROBABILITY = 0.1
_AROUND = 2
_FILLED = 0.55


@dataclass(frozen=True, slots=True, eq=False)
class Found:
    """The lesion in one box.

    Parameters
    ----------
    probability
        (z, v, u) float32; 0 away from the lesion.
    mask
        Where it is above `THRESHOLD`: one piece.
    certainty
        Dice that the probabilities promise, 2 sum(p m) / (sum(p) + sum(m)).
    cut_off
        Share of the lesion's surface that lies on the faces of the box inside the volume.
    fallback
        The network found nothing at the prompt: this is the prompt's ellipsoid.

    """

    guide: Guide
    probability: FloatArray
    mask: NDArray[np.bool_]
    certainty: float
    cut_off: float
    fallback: bool = False


def judge(
    probability: FloatArray, drawn: Drawn, guide: Guide, shape: tuple[int, ...], spacing_mm: tuple[float, ...]
) -> Found:
    """Choose the piece that lies where the prompt expects the lesion; without one, its ellipsoid.

    A measurement, box or mask must be overlapped by it; the size of what an arrow or a click means is unknown, and what
    is unlikely there may be the likeliest of all.
    """
    measured = guide.aim.length_mm is not None
    pulling = np.where(drawn.expected > ON_THE_RIM, drawn.expected, 0) if measured else drawn.expected
    piece = _piece(probability > THRESHOLD, pulling)
    if piece is None and not measured:
        highest = float(probability[pulling > ON_THE_RIM].max(initial=0))
        if highest > _LEAST_PROBABILITY:
            probability = np.minimum(probability * (0.9 / highest), 1)
            piece = _piece(probability > THRESHOLD, pulling)
    if piece is None:
        # exp(-q^2) to the power of log 2 is a half where q is 1, on the ellipsoid.
        ellipsoid = (drawn.expected ** log(2)).astype(np.float32)
        return Found(guide, ellipsoid, ellipsoid > THRESHOLD, FALLBACK_CONFIDENCE, 0.0, fallback=True)
    around = ndi.binary_dilation(piece, iterations=_AROUND)
    # Neighbours are not the lesion, its filled holes are.
    near = np.where(piece, np.maximum(probability, _FILLED), np.minimum(probability, THRESHOLD) * around).astype(
        np.float32
    )
    certainty = 2 * float(near[piece].sum()) / (float(near.sum()) + float(piece.sum()))
    return Found(guide, near, piece, certainty, _cut_off(piece, guide.frame, shape, spacing_mm))


def measure(found: Found, spacing_mm: tuple[float, ...], slices: int) -> Aim:
    """Aim at what was found as if its largest section had been measured."""
    frame, areas = found.guide.frame, found.mask.sum(axis=(1, 2))
    layer = int(areas.argmax())
    if found.guide.aim.length_mm is not None:
        # The slice that was drawn on stays.
        layer = int(np.abs(np.where(areas > 0, frame.coordinates_mm(0), np.inf)).argmin())
    z = frame.centre_mm[0] + float(frame.coordinates_mm(0)[layer])
    _, y, x = frame.position(0.0, frame.coordinates_mm(1)[:, None], frame.coordinates_mm(2))
    positions = np.stack(np.broadcast_arrays(x, y), axis=-1)
    index = min(max(round(z / spacing_mm[0]), 0), slices - 1)
    return aim_at_section("bidimensional", index, found.mask[layer], positions, frame.step_mm[2])


def mask_of(
    job: SegmentationJob, found: Found, engine: str, flags: tuple[str, ...] = (), sha256: str | None = None
) -> Mask:
    """Paste what was found into the job's volume.

    Raises
    ------
    SegmentationError
        If no voxel's centre lies in it.

    """
    volume, prompt = job.volume, job.prompts[0]
    values, origin = paste(found.probability, found.guide.frame, volume.voxels.shape, volume.spacing_mm)
    if isinstance(prompt, MaskPrompt):
        values, origin = _reaching(values, origin, prompt)
    voxels = values > THRESHOLD
    if isinstance(prompt, MaskPrompt):
        rows, columns = (slice(o, o + n) for o, n in zip(origin[1:], voxels.shape[1:], strict=True))
        voxels[prompt.slice_index - origin[0]] = prompt.mask[rows, columns]  # what was drawn is not in question
    if not voxels.any():
        raise SegmentationError("what was found at the prompt is smaller than a voxel")
    facts = {
        "sheared_grid": not is_orthogonal(volume.affine),
        "fallback_ellipsoid": found.fallback,
        "assumed_size": found.fallback and found.guide.aim.length_mm is None,
        "crop_limit": found.cut_off > 0.02,
        "negative_point_inside": isinstance(prompt, Points) and _holds_negative(prompt, voxels, origin),
    }
    inside = np.where(voxels, values, 0).sum(axis=(1, 2), dtype=np.float64)
    sections = inside / np.maximum(voxels.sum(axis=(1, 2)), 1)
    strict, lax = ((values > level).sum(axis=(1, 2)) for level in (_STRICT, _LAX))
    return mask_from_volume(
        job.job_id,
        voxels,
        engine,
        origin=origin,
        flags=(*flags, *(flag for flag, holds in facts.items() if holds)),
        confidence=min(max(found.certainty, 0.0), 1.0),
        slice_confidence=tuple(float(value) for value in np.clip(sections, 0, 1)),
        slice_stability=tuple(float(value) for value in strict / np.maximum(lax, 1)),
        weights_sha256=sha256,
    )


def _reaching(
    values: FloatArray, origin: tuple[int, int, int], prompt: MaskPrompt
) -> tuple[FloatArray, tuple[int, int, int]]:
    """Extend a crop by zeros until it holds the whole of an outline."""
    pixels = np.argwhere(prompt.mask)
    low = np.array([prompt.slice_index, *pixels.min(axis=0)])
    high = np.array([prompt.slice_index, *pixels.max(axis=0)]) + 1
    before = np.maximum(origin - low, 0)
    after = np.maximum(high - np.add(origin, values.shape), 0)
    start = np.subtract(origin, before)
    return np.pad(values, np.stack([before, after], axis=1)), (int(start[0]), int(start[1]), int(start[2]))


def _piece(mask: NDArray[np.bool_], pulling: FloatArray) -> NDArray[np.bool_] | None:
    """Piece with the most of what pulls; None where no piece has any."""
    labels, count = ndi.label(mask)
    if not count:
        return None
    pulls = np.bincount(labels.ravel(), weights=pulling.ravel(), minlength=count + 1)[1:]
    if pulls.max() < 1e-3:
        return None
    piece: NDArray[np.bool_] = ndi.binary_fill_holes(labels == 1 + int(pulls.argmax()))
    return piece


def _cut_off(piece: NDArray[np.bool_], frame: Frame, shape: tuple[int, ...], spacing_mm: tuple[float, ...]) -> float:
    z, y, x = frame.position(
        frame.coordinates_mm(0)[:, None, None],
        frame.coordinates_mm(1)[:, None],
        frame.coordinates_mm(2),
    )
    on_face = piece.copy()
    on_face[1:-1, 1:-1, 1:-1] = False
    for position, n, mm in zip((z, y, x), shape, spacing_mm, strict=True):
        on_face &= (position >= 0) & (position <= (n - 1) * mm)
    surface = piece & ~ndi.binary_erosion(piece)
    return float(on_face.sum() / max(int(surface.sum()), 1))


def _holds_negative(prompt: Points, voxels: NDArray[np.bool_], origin: tuple[int, int, int]) -> bool:
    for (column, row), label in zip(prompt.points, prompt.labels, strict=True):
        place = np.array([prompt.slice_index, round(row), round(column)]) - origin
        if label == 0 and (place >= 0).all() and (place < voxels.shape).all() and voxels[tuple(place)]:
            return True
    return False
