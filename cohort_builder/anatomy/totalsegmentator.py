"""TotalSegmentator as an ``AnatomyLocator``: organs by name, where the extra ``totalsegmentator`` is installed.

Its weights are downloaded by the package itself on first use, and the package reports how often it is used unless its
own configuration says no: see its documentation before it runs where patients' images are.
"""

from __future__ import annotations

import contextlib
import io
import re
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np
from numpy.typing import NDArray

from cohort_builder.anatomy.locators import LastRead, Place
from cohort_builder.errors import SetupError
from segmentation.geometry import apply_affine, lps_to_ras, nifti_affine
from segmentation.types import GeometryError, Volume

if TYPE_CHECKING:
    from nibabel.nifti1 import Nifti1Image

_EXTRA = "pip install 'cohort-builder[totalsegmentator]'"
_LABEL = re.compile(r'<Label[^>]*\bKey="(\d+)"[^>]*>\s*<!\[CDATA\[(.*?)\]\]>', re.DOTALL)
_LEAST_SHARE = 0.5
_LEAST_LUNG_MM = 100.0


@dataclass(frozen=True, slots=True, eq=False)
class LabelMap:
    """Organs of a volume.

    Parameters
    ----------
    labels
        (i, j, k) integers.
    affine_ras
        (4, 4), (i, j, k, 1) to RAS mm.
    names
        Name of each label; what is absent is no organ.

    """

    labels: NDArray[np.integer]
    affine_ras: NDArray[np.float64]
    names: Mapping[int, str]

    def organ_at(self, points_lps_mm: NDArray[np.float64]) -> str | None:
        """Name the organ that most of the way between the points of a stroke lies in."""
        points = np.asarray(points_lps_mm, dtype=np.float64).reshape(-1, 3)
        centre = points.mean(axis=0)
        way = centre + (points - centre)[None] * np.linspace(0, 1, 9)[:, None, None]
        to_index = np.asarray(np.linalg.inv(self.affine_ras), dtype=np.float64)
        index = np.rint(apply_affine(to_index, lps_to_ras(way.reshape(-1, 3)))).astype(np.intp)
        inside = np.all((index >= 0) & (index < self.labels.shape), axis=1)
        values = np.where(inside, self.labels[tuple(np.where(inside[:, None], index, 0).T)], 0)
        found, counts = np.unique(values, return_counts=True)
        best = int(counts.argmax())
        return self.names.get(int(found[best])) if counts[best] >= _LEAST_SHARE * len(values) else None

    def lung_level(self, points_lps_mm: NDArray[np.float64]) -> float | None:
        """Height relative to the labelled lungs; None unless the scan goes beyond both their ends."""
        lungs = [label for label, name in self.names.items() if name.startswith("lung_")]
        where = np.argwhere(np.isin(self.labels, lungs))
        if not len(where):
            return None
        ends = np.stack([where.min(axis=0), where.max(axis=0)])
        axis = int(np.argmax(np.abs(self.affine_ras[2, :3])))
        if ends[0, axis] == 0 or ends[1, axis] == self.labels.shape[axis] - 1:
            return None
        middle = np.tile(ends.mean(axis=0), (2, 1))
        middle[:, axis] = ends[:, axis]
        low, high = sorted(apply_affine(self.affine_ras, middle)[:, 2])
        height = float(np.asarray(points_lps_mm, dtype=np.float64).reshape(-1, 3)[:, 2].mean())
        return float((height - low) / (high - low)) if high - low >= _LEAST_LUNG_MM else None


def read_labels(source: str | Path | Nifti1Image, names: Mapping[int, str] | None = None) -> LabelMap:
    """Read a multi-label NIfTI image as TotalSegmentator writes it.

    Parameters
    ----------
    source
        A file or an image in memory.
    names
        Name of each label; by default those in the image's own header extension.

    Raises
    ------
    GeometryError
        It has no names of its own and none are given, or is no 3D image of integers.

    """
    import nibabel as nib

    image = nib.Nifti1Image.from_filename(source) if isinstance(source, str | Path) else source
    labels = np.asarray(image.dataobj)
    if labels.ndim != 3 or not (labels == np.floor(labels)).all():
        raise GeometryError(f"organ labels must be a 3D image of integers, got {labels.ndim}D {labels.dtype}")
    known = dict(names) if names is not None else _names_in(image)
    if not known:
        raise GeometryError("the label image does not name its labels; give names=, or write it with ml=True")
    return LabelMap(labels.astype(np.int32), np.asarray(image.affine, dtype=np.float64), known)


def _names_in(image: Nifti1Image) -> dict[int, str]:
    """Label table of the header extension (a Caret XML)."""
    found: dict[int, str] = {}
    for extension in image.header.extensions:
        content = extension.get_content()
        written = content.decode("utf-8", "replace") if isinstance(content, bytes) else str(content)
        found |= {int(key): name for key, name in _LABEL.findall(written)}
    return found


class TotalSegmentatorLocator:
    """Organs of TotalSegmentator's task "total" (Wasserthal et al. 2023), one run of it for each series.

    Parameters
    ----------
    device
        "gpu" or "cpu", as the package calls them; by default a GPU where torch finds one.
    fast
        Its 3 mm model, which is enough to say in which organ a stroke lies.

    Raises
    ------
    SetupError
        The package is not installed.

    """

    name = "totalsegmentator"
    version = "1"
    is_coarse = False

    def __init__(self, *, device: str | None = None, fast: bool = True) -> None:
        self.device, self.fast = device, fast
        self._labels = LastRead(self._segmented)
        _api()  # what is not installed is said at once

    def organ_at(self, volume: Volume, points_lps_mm: NDArray[np.float64]) -> str | None:
        """See ``AnatomyLocator``; a class of the task "total", such as "kidney_left"."""
        return self._labels(volume).organ_at(points_lps_mm)

    def places(self, volume: Volume, strokes: Sequence[NDArray[np.float64]]) -> list[Place]:
        """See ``PlaceLocator``."""
        found = self._labels(volume)
        return [Place(found.organ_at(points), found.lung_level(points)) for points in strokes]

    def _segmented(self, volume: Volume) -> LabelMap:
        import nibabel as nib

        run, names = _api()
        # (slice, row, column) LPS to NIfTI's (i, j, k) RAS, unchanged otherwise.
        image = nib.Nifti1Image(np.ascontiguousarray(volume.voxels.transpose(2, 1, 0)), nifti_affine(volume.affine))
        device = self.device or _default_device()
        with contextlib.redirect_stdout(io.StringIO()):  # it prints what it does
            labels = run(image, None, ml=True, fast=self.fast, device=device, quiet=True, skip_saving=True)
        return read_labels(labels, names)


def _api() -> tuple[Callable[..., Nifti1Image], Mapping[int, str]]:
    try:
        from totalsegmentator.map_to_binary import class_map
        from totalsegmentator.python_api import totalsegmentator
    except ImportError as error:
        raise SetupError(f'anatomy = "totalsegmentator" needs the package TotalSegmentator: {_EXTRA}') from error
    return totalsegmentator, class_map["total"]


def _default_device() -> str:
    import torch

    return "gpu" if torch.cuda.is_available() else "cpu"
