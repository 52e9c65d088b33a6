"""Is a thinner series the same as the drawn one? Slices of real series against twice as thick ones made from them."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import numpy as np
import pydicom
import pytest
from cases import real_data

from cohort_builder import index_export
from cohort_builder.ct.series import Stack, load_stack, split_series
from cohort_builder.pacs.headers import Instance, read_header
from cohort_builder.targets.agreement import agreement
from cohort_builder.types import Annotation, AnnotationKind, LocatedAnnotation, Source
from segmentation.geometry import apply_affine

RADIUS_MM = 10.0
DISC = np.hypot(*np.mgrid[-99:100, -99:100] * 0.977) <= RADIUS_MM


def _stack(name: str) -> Stack:
    index = index_export(real_data(name.partition("/")[0]) / name.partition("/")[2])
    (series,) = [one for study in index.studies() for one in index.series_of(study.study_instance_uid)]
    return split_series(index.instances(series))[0][0]


def _drawn(stack: Stack, k: int, hounsfield: np.ndarray, folder: Path) -> tuple[LocatedAnnotation, Instance]:
    """A slice between ``k`` and ``k + 1``, twice as thick, and a line of 20 mm through its middle."""
    ds = pydicom.dcmread(stack.instances[k].path)
    stored = np.rint((hounsfield - float(ds.RescaleIntercept)) / float(ds.RescaleSlope))
    ds.PixelData = stored.astype(ds.pixel_array.dtype).tobytes()
    ds.SOPInstanceUID = ds.file_meta.MediaStorageSOPInstanceUID = pydicom.uid.generate_uid()
    ds.ImagePositionPatient = [round(float(v), 6) for v in apply_affine(stack.affine, (k + 0.5, 0, 0)).ravel()]
    ds.SliceThickness = round(2 * float(np.linalg.norm(stack.affine[:3, 0])), 6)
    ds.save_as(folder / "drawn.dcm")
    header = read_header(folder / "drawn.dcm")
    assert header is not None
    row, column = (n / 2 for n in hounsfield.shape)
    ends = apply_affine(stack.affine, [(k + 0.5, row, column + side * RADIUS_MM / 0.977) for side in (-1, 1)])
    line = Annotation("a", AnnotationKind.LINE, ((0, 0), (1, 1)), ds.SOPInstanceUID, "1", "1", Source("1", "a", "t"))
    points = tuple(map(tuple, ends.tolist()))
    return LocatedAnnotation(line, (20.0,), points, "1", slice_thickness_mm=float(ds.SliceThickness)), header.instance


def _brighter(slab: np.ndarray) -> np.ndarray:
    middle = np.zeros(slab.shape[1:], bool)
    row, column = (n // 2 for n in middle.shape)
    size = min(row, column, 99)
    inside = DISC[99 - size : 99 + size, 99 - size : 99 + size]
    middle[row - size : row + size, column - size : column + size] = inside
    return slab[2:4].mean(axis=0) + 20.0 * middle


CHANGES: dict[str, tuple[Callable[[np.ndarray], np.ndarray], bool]] = {
    "as it is": (lambda slab: slab[2:4].mean(axis=0), True),
    "3 pixels on": (lambda slab: np.roll(slab[2:4].mean(axis=0), 3, axis=1), False),
    "a slice on": (lambda slab: slab[3:5].mean(axis=0), False),
    "two slices back": (lambda slab: slab[0:2].mean(axis=0), False),
    "20 HU brighter inside": (_brighter, False),
}


@pytest.mark.parametrize("name", ["ibsi_phantom", "sarcoma/STS_001", "sarcoma/STS_025"])
@pytest.mark.parametrize("change", CHANGES)
def test_a_real_series_agrees_with_itself_alone(name: str, change: str, tmp_path: Path) -> None:
    make, holds = CHANGES[change]
    stack = _stack(name)
    volume = load_stack(stack).voxels.astype(float)
    for k in (len(volume) // 3, len(volume) // 2):
        stroke, image = _drawn(stack, k, make(volume[k - 2 : k + 4]), tmp_path)
        assert agreement(stroke, image, stack).holds is holds
