"""Loaders of the real cases in ../shared/data (or COHORT_REAL_DATA): read here, copied nowhere."""

from __future__ import annotations

import json
import os
from dataclasses import dataclass
from functools import cache
from pathlib import Path

import nibabel as nib
import numpy as np
import pydicom
import pytest
from matplotlib.path import Path as Polygon

from segmentation.geometry import apply_affine, volume_affine
from segmentation.types import Line, Volume

ROOT = Path(os.environ.get("COHORT_REAL_DATA", Path(__file__).resolve().parents[3] / "shared" / "data"))


@dataclass(frozen=True, slots=True, eq=False)
class RealCase:
    """A lesion with its truth; ``lines`` are those that readers drew, where there are any."""

    case_id: str
    volume: Volume
    truth: np.ndarray
    lines: tuple[Line, ...] = ()


def real_data(name: str) -> Path:
    folder = ROOT / name
    if not folder.is_dir():
        pytest.skip(f"real data {name} is not at {ROOT} (set COHORT_REAL_DATA)")
    return folder


def read_series(folder: Path) -> Volume:
    slices = [pydicom.dcmread(path) for path in sorted(folder.glob("*.dcm"))]
    orientation = [float(v) for v in slices[0].ImageOrientationPatient]
    normal = np.cross(orientation[:3], orientation[3:])
    slices.sort(key=lambda ds: float(np.dot(normal, np.asarray(ds.ImagePositionPatient, dtype=float))))
    voxels = np.stack(
        [ds.pixel_array.astype(np.float32) * float(ds.RescaleSlope) + float(ds.RescaleIntercept) for ds in slices]
    )
    affine = volume_affine(
        [float(v) for v in slices[0].ImagePositionPatient],
        [float(v) for v in slices[-1].ImagePositionPatient],
        len(slices),
        orientation,
        [float(v) for v in slices[0].PixelSpacing],
    )
    return Volume(
        np.clip(np.rint(voxels), -1024, 3071).astype(np.int16),
        affine,
        str(slices[0].FrameOfReferenceUID),
        str(slices[0].SeriesInstanceUID),
        tuple(str(ds.SOPInstanceUID) for ds in slices),
    )


def rasterise(structure_set: Path, roi_name: str, volume: Volume) -> np.ndarray:
    """Voxels whose centres lie in an odd number of the ROI's contours on their slice."""
    ds = pydicom.dcmread(structure_set)
    numbers = [int(roi.ROINumber) for roi in ds.StructureSetROISequence if str(roi.ROIName) == roi_name]
    assert len(numbers) == 1, f"{len(numbers)} structures of that name"
    inverse = np.linalg.inv(volume.affine)
    mask = np.zeros(volume.voxels.shape, dtype=bool)
    for roi in ds.ROIContourSequence:
        if int(roi.ReferencedROINumber) != numbers[0]:
            continue
        for contour in roi.ContourSequence:
            points = apply_affine(inverse, np.asarray(contour.ContourData, dtype=float).reshape(-1, 3))
            index = round(float(points[:, 0].mean()))
            assert np.abs(points[:, 0] - index).max() < 0.1, "a contour off its slice"
            if len(points) < 3 or not 0 <= index < len(mask):
                continue
            low = np.maximum(np.floor(points[:, 1:].min(axis=0)).astype(int), 0)
            high = np.minimum(np.ceil(points[:, 1:].max(axis=0)).astype(int) + 1, mask.shape[1:])
            rows, columns = np.mgrid[low[0] : high[0], low[1] : high[1]]
            centres = np.column_stack([columns.ravel(), rows.ravel()])
            inside = Polygon(points[:, [2, 1]]).contains_points(centres).reshape(rows.shape)
            mask[index, low[0] : high[0], low[1] : high[1]] ^= inside
    return mask


@cache
def load_lidc() -> RealCase:
    folder = real_data("lidc_0001")
    volume = read_series(folder / "ct")
    truth = np.load(folder / "consensus.npz")["consensus"]
    axes = json.loads((folder / "reader_long_axes.json").read_text())["0001"]
    lines = tuple(
        Line(volume.sop_instance_uids.index(a["sop"]), tuple(map(float, a["p1"])), tuple(map(float, a["p2"])))
        for a in axes
    )
    return RealCase("lidc_0001", volume, truth, lines)


@cache
def load_sarcomas() -> tuple[RealCase, ...]:
    """All 13: large tumours of the limbs, cropped round the tumour."""
    folder = real_data("sarcoma")
    cases = []
    for series in sorted(folder.glob("STS_*/CT")):
        volume = read_series(series / "image")
        cases.append(RealCase(series.parent.name, volume, rasterise(series / "mask" / "RS.dcm", "GTV_Mass_CT", volume)))
    return tuple(cases)


@cache
def load_ibsi() -> RealCase:
    folder = real_data("ibsi_phantom")
    volume = read_series(folder / "dicom" / "image")
    image = nib.load(folder / "nifti" / "mask" / "mask.nii.gz")
    truth = np.asarray(image.dataobj).astype(bool).transpose(2, 1, 0)
    return RealCase("ibsi", volume, truth)


@cache
def load_deeplesion() -> tuple[RealCase, ...]:
    """8-bit windowed stacks; HU = 1.765 grey - 184 is assumed, as in a sibling case."""
    cases = []
    for path in sorted(real_data("deeplesion").glob("*.npz")):
        with np.load(path) as data:
            voxels = np.rint(1.765 * data["imgs"].astype(np.float32) - 184).astype(np.int16)
            truth, (x_mm, y_mm, z_mm) = data["gts"] > 0, data["spacing"]
        affine = np.zeros((4, 4))
        affine[2, 0], affine[1, 1], affine[0, 2], affine[3, 3] = z_mm, y_mm, x_mm, 1
        uids = tuple(f"1.2.3.{i}" for i in range(len(voxels)))
        cases.append(RealCase(path.stem, Volume(voxels, affine, "1.2.3", "1.2.4", uids), truth))
    return tuple(cases)
