"""The manifests of the pixel side: volumes, prompts, jobs and masks.

Indices are (slice, row, column) into ``Volume.voxels``; prompt points are (column, row) **pixel-centre indices**
(the centre of the first pixel is (0, 0)). Patient coordinates are LPS millimetres (PS3.3 C.7.6.2.1.1).
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from dataclasses import dataclass, field
from math import isfinite
from typing import Protocol, runtime_checkable

import numpy as np
from numpy.typing import NDArray

Point = tuple[float, float]
Segment = tuple[Point, Point]


class SegmentationError(Exception):
    """One lesion cannot be segmented: it costs that lesion."""


class GeometryError(SegmentationError):
    """The geometry of a series cannot be trusted or represented."""


class EngineError(Exception):
    """An engine cannot run on this machine: weights missing, unreadable or of another model, or no such device.

    It says nothing of a lesion and ends a run.
    """


@dataclass(frozen=True, slots=True, eq=False)
class Volume:
    """A regular stack of CT slices.

    Parameters
    ----------
    voxels
        (slice, row, column) int16, Hounsfield units.
    affine
        (4, 4) float64, maps the index (slice, row, column, 1) to LPS millimetres; sheared when the gantry was tilted.
    sop_instance_uids
        One per slice, in the order of ``voxels``.
    frame_numbers
        Likewise, from 1; None where the slice is an image of its own. Empty: none is a frame.

    """

    voxels: NDArray[np.int16]
    affine: NDArray[np.float64]
    frame_of_reference_uid: str
    series_instance_uid: str
    sop_instance_uids: tuple[str, ...]
    frame_numbers: tuple[int | None, ...] = ()

    def __post_init__(self) -> None:
        if self.voxels.ndim != 3 or self.voxels.dtype != np.int16:
            raise GeometryError(f"voxels must be a 3D int16 array, got {self.voxels.ndim}D {self.voxels.dtype}")
        if self.affine.shape != (4, 4) or not np.isfinite(self.affine).all():
            raise GeometryError(f"affine must be a finite 4x4 matrix, got shape {self.affine.shape}")
        if abs(np.linalg.det(self.affine[:3, :3])) < 1e-9:
            raise GeometryError("affine is singular: the slices span no volume")
        if len(self.sop_instance_uids) != self.voxels.shape[0]:
            raise GeometryError(f"{len(self.sop_instance_uids)} SOP Instance UIDs for {self.voxels.shape[0]} slices")
        if len(self.frame_numbers) not in {0, self.voxels.shape[0]}:
            raise GeometryError(f"{len(self.frame_numbers)} frame numbers for {self.voxels.shape[0]} slices")

    @property
    def spacing_mm(self) -> tuple[float, float, float]:
        """Distance between neighbouring voxels along (slice, row, column) index, in millimetres."""
        lengths = np.linalg.norm(self.affine[:3, :3], axis=0)
        return float(lengths[0]), float(lengths[1]), float(lengths[2])


def _require_finite(name: str, *points: Point) -> None:
    if not all(len(point) == 2 and isfinite(point[0]) and isfinite(point[1]) for point in points):
        raise GeometryError(f"{name} needs finite (column, row) points, got {points}")


@dataclass(frozen=True, slots=True)
class Line:
    """A diameter drawn from rim to rim of the lesion."""

    slice_index: int
    start: Point
    end: Point

    def __post_init__(self) -> None:
        _require_finite("Line", self.start, self.end)


@dataclass(frozen=True, slots=True)
class Bidimensional:
    """RECIST / WHO pair: the long axis and the short axis near perpendicular to it, on one slice."""

    slice_index: int
    long_axis: Segment
    short_axis: Segment

    def __post_init__(self) -> None:
        _require_finite("Bidimensional", *self.long_axis, *self.short_axis)


@dataclass(frozen=True, slots=True)
class Arrow:
    """An arrow that points at the lesion with its head; the head may stop short of the rim."""

    slice_index: int
    tail: Point
    head: Point

    def __post_init__(self) -> None:
        _require_finite("Arrow", self.tail, self.head)


@dataclass(frozen=True, slots=True)
class Points:
    """Clicks: ``labels`` 1 inside the lesion, 0 outside, parallel to ``points``."""

    slice_index: int
    points: tuple[Point, ...]
    labels: tuple[int, ...]

    def __post_init__(self) -> None:
        _require_finite("Points", *self.points)
        if len(self.points) != len(self.labels) or not self.points:
            raise GeometryError(f"{len(self.points)} points with {len(self.labels)} labels")


@dataclass(frozen=True, slots=True)
class Box:
    """An in-plane box by its (column, row) pixel-centre extremes, both inclusive."""

    slice_index: int
    lower: Point
    upper: Point

    def __post_init__(self) -> None:
        _require_finite("Box", self.lower, self.upper)


@dataclass(frozen=True, slots=True, eq=False)
class MaskPrompt:
    """A hand-drawn outline, filled: ``mask`` is (row, column) boolean over the whole slice."""

    slice_index: int
    mask: NDArray[np.bool_]


Prompt = Line | Bidimensional | Arrow | Points | Box | MaskPrompt


@dataclass(frozen=True, slots=True, eq=False)
class SegmentationJob:
    """All prompts of ONE lesion on one volume; the first prompt is the one to segment from."""

    job_id: str
    volume: Volume
    prompts: tuple[Prompt, ...]

    def __post_init__(self) -> None:
        if not self.prompts:
            raise SegmentationError("a job needs at least one prompt")


@dataclass(frozen=True, slots=True, eq=False)
class Mask:
    """One lesion, cropped to its bounding box.

    Parameters
    ----------
    voxels
        (slice, row, column) boolean, tight around the lesion and never empty.
    offset
        (slice, row, column) of ``voxels[0, 0, 0]`` in the volume.
    slice_confidence
        One number in [0, 1] per slice of ``voxels``.
    engine
        ``name@revision`` of the code and weights that made it.
    confidence
        The engine's own estimate in [0, 1] that the mask is good; None where it has none.
    slice_stability
        One number in [0, 1] per slice of ``voxels``: IoU of the section under a stricter and a laxer threshold; empty
        where the engine has no logits to threshold.
    prompt
        How the engine was prompted where that is not what was drawn, e.g. ``"line as box"``; empty otherwise.
    weights_sha256
        SHA-256 of the weights file, in hexadecimal; None for an engine without weights.

    """

    job_id: str
    voxels: NDArray[np.bool_]
    offset: tuple[int, int, int]
    slice_confidence: tuple[float, ...]
    engine: str
    flags: tuple[str, ...] = ()
    confidence: float | None = None
    slice_stability: tuple[float, ...] = ()
    prompt: str = ""
    weights_sha256: str | None = None

    def __post_init__(self) -> None:
        if self.voxels.ndim != 3 or self.voxels.dtype != np.bool_ or not self.voxels.any():
            raise SegmentationError("a mask needs 3D boolean voxels with at least one of them set")
        if len(self.slice_confidence) != self.voxels.shape[0]:
            raise SegmentationError(f"{len(self.slice_confidence)} confidences for {self.voxels.shape[0]} slices")
        if self.slice_stability and len(self.slice_stability) != self.voxels.shape[0]:
            raise SegmentationError(f"{len(self.slice_stability)} stabilities for {self.voxels.shape[0]} slices")

    def in_volume(self, shape: tuple[int, ...]) -> NDArray[np.bool_]:
        """Paste into a full (slice, row, column) array of ``shape``."""
        full = np.zeros(shape, dtype=np.bool_)
        s, r, c = self.offset
        n_s, n_r, n_c = self.voxels.shape
        full[s : s + n_s, r : r + n_r, c : c + n_c] = self.voxels
        return full


def mask_from_volume(
    job_id: str,
    voxels: NDArray[np.bool_],
    engine: str,
    *,
    origin: tuple[int, int, int] = (0, 0, 0),
    flags: tuple[str, ...] = (),
    confidence: float | None = None,
    slice_confidence: tuple[float, ...] = (),
    slice_stability: tuple[float, ...] = (),
    prompt: str = "",
    weights_sha256: str | None = None,
) -> Mask:
    """Crop ``voxels`` to its bounding box; ``origin`` is the (slice, row, column) of ``voxels[0, 0, 0]`` in the volume.

    The numbers per slice are those of ``voxels``; where there are none, every slice gets ``confidence``, or 1.

    Raises
    ------
    SegmentationError
        If no voxel is set.

    """
    if not voxels.any():
        raise SegmentationError("the engine found nothing at the prompt")
    bounds = []
    for axis in range(3):
        other = tuple(a for a in range(3) if a != axis)
        hit = np.flatnonzero(voxels.any(axis=other))
        bounds.append((int(hit[0]), int(hit[-1]) + 1))
    cropped = np.ascontiguousarray(voxels[tuple(slice(lo, hi) for lo, hi in bounds)])
    offset = (bounds[0][0] + origin[0], bounds[1][0] + origin[1], bounds[2][0] + origin[2])
    first, last = bounds[0]
    return Mask(
        job_id,
        cropped,
        offset,
        slice_confidence[first:last] or (1.0 if confidence is None else float(confidence),) * len(cropped),
        engine,
        flags,
        confidence,
        slice_stability[first:last],
        prompt,
        weights_sha256,
    )


@dataclass(frozen=True, slots=True)
class SegmentationFailure:
    """One lesion without a mask, and why. ``detail`` names no patient and no path."""

    job_id: str
    reason: str
    detail: str = field(default="")


@runtime_checkable
class Segmenter(Protocol):
    """An engine: a stream of jobs in, a stream of masks and failures out, in any order, keyed by ``job_id``.

    It batches over lesions and volumes as it likes, pulls the next job only when it has room, and answers every job
    exactly once: one bad lesion costs one failure, not the volume.
    """

    @property
    def name(self) -> str:
        """Registered name."""
        ...

    @property
    def supports(self) -> frozenset[type[Prompt]]:
        """Prompt types it segments from."""
        ...

    def segment(self, jobs: Iterable[SegmentationJob]) -> Iterator[Mask | SegmentationFailure]:
        """Segment every job of the stream.

        ``jobs`` may be pulled from any thread of the engine, and gives nothing after this has ended or raised.
        """
        ...
