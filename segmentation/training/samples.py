"""One lesion in a sub-volume: what the cache holds and trainees draw from."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from math import ceil
from typing import Literal

import numpy as np
import scipy.ndimage as ndi
from numpy.typing import NDArray

from segmentation.geometry import crop_affine
from segmentation.metrics import longest_diameter_mm
from segmentation.types import Volume

Split = Literal["train", "val", "test"]
SPLITS: tuple[Split, ...] = ("train", "val", "test")

HU_LIMIT = 1024
"""Voxels are clipped to plus and minus this: air and dense bone, wider than any window an engine looks through."""

Window = tuple[slice, slice, slice]


@dataclass(frozen=True, slots=True, eq=False)
class Sample:
    """One lesion in a sub-volume of its CT.

    Parameters
    ----------
    sample_id
        Unique in a cache; like all ids here it may stand in a log.
    volume
        int16 HU; its affine is that of the sub-volume. In a cache clipped to ±`HU_LIMIT`, with numbers for UIDs.
    truth
        (slice, row, column) boolean, this lesion only, never empty.

    """

    sample_id: str
    case_id: str
    patient_id: str
    dataset: str
    category: str
    split: Split
    volume: Volume
    truth: NDArray[np.bool_]

    def __post_init__(self) -> None:
        if self.truth.dtype != np.bool_ or self.truth.shape != self.volume.voxels.shape:
            raise ValueError(
                f"{self.sample_id}: truth must be boolean of shape {self.volume.voxels.shape},"
                f" got {self.truth.dtype} {self.truth.shape}"
            )
        if self.split not in SPLITS:
            raise ValueError(f"{self.sample_id}: split must be one of {SPLITS}, got {self.split!r}")


@dataclass(frozen=True, slots=True)
class CropPolicy:
    """How much around a lesion is kept.

    Parameters
    ----------
    in_plane
        Margin on each side of the lesion in rows and columns, in its longest in-plane diameters. None: whole slices.
    out_of_plane
        Margin above and below, in longest diameters.
    least_mm
        The crop is at least so wide in rows and columns, where the slice is.
    least_slices
        The margin above and below is at least so many slices, where the volume has them.

    """

    in_plane: float | None = 2.0
    out_of_plane: float = 1.0
    least_mm: float = 128.0
    least_slices: int = 8

    def __post_init__(self) -> None:
        sizes = (self.in_plane or 0.0, self.out_of_plane, self.least_mm, float(self.least_slices))
        if not all(0 <= size < float("inf") for size in sizes):
            raise ValueError(f"margins must be finite and not negative, got {self}")

    def window(
        self, lesion: NDArray[np.bool_], box: Window, shape: tuple[int, ...], spacing_mm: Sequence[float]
    ) -> Window:
        """Find what is kept of a volume of ``shape`` around a lesion that fills ``box``; ``lesion`` is the part in it.

        At the border of the volume the window moves inwards rather than shrink.
        """
        diameter = longest_diameter_mm(lesion, spacing_mm)
        beyond = max(self.least_slices, ceil(self.out_of_plane * diameter / spacing_mm[0]))
        slices = _widened(box[0], beyond, 0, shape[0])
        if self.in_plane is None:
            return slices, slice(0, shape[1]), slice(0, shape[2])
        rows, columns = (
            _widened(box[axis], ceil(self.in_plane * diameter / mm), ceil(self.least_mm / mm), shape[axis])
            for axis, mm in ((1, spacing_mm[1]), (2, spacing_mm[2]))
        )
        return slices, rows, columns


def lesions_of(
    volume: Volume, labels: NDArray[np.int32], policy: CropPolicy
) -> Iterator[tuple[int, Volume, NDArray[np.bool_]]]:
    """Cut every lesion out: its number, the sub-volume clipped to ±`HU_LIMIT`, and the lesion alone.

    Parameters
    ----------
    labels
        (slice, row, column); 0 is background, 1 to n one lesion each.

    """
    for number, (slices, rows, columns) in enumerate(ndi.find_objects(labels), start=1):
        box = slices, rows, columns
        window = policy.window(labels[box] == number, box, labels.shape, volume.spacing_mm)
        yield number, sub_volume(volume, window), labels[window] == number


def sub_volume(volume: Volume, window: Window) -> Volume:
    """Copy ``window`` out of ``volume``, clipped to ±`HU_LIMIT`; slices are numbered, UIDs left behind."""
    origin = [axis.start for axis in window]
    return bare_volume(np.clip(volume.voxels[window], -HU_LIMIT, HU_LIMIT), crop_affine(volume.affine, origin))


def bare_volume(voxels: NDArray[np.int16], affine: NDArray[np.float64]) -> Volume:
    """Make a volume that says nothing of where it came from."""
    return Volume(voxels, affine, "", "", tuple(str(i) for i in range(len(voxels))))


def _widened(box: slice, margin: int, least: int, length: int) -> slice:
    """Add ``margin`` at both ends, more up to ``least`` in all, within 0 .. ``length``."""
    size = min(length, max(box.stop - box.start + 2 * margin, least))
    start = min(max((box.start + box.stop - size) // 2, 0), length - size)
    return slice(start, start + size)
