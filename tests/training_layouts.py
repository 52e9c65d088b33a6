"""Small labelled cases in the layouts of the public data sets, with known numbers of lesions."""

from __future__ import annotations

from collections.abc import Callable, Iterable
from pathlib import Path

import nibabel as nib
import numpy as np
from dicom import ct_series, uid, write
from pydicom.dataset import Dataset, FileDataset, FileMetaDataset
from pydicom.sequence import Sequence
from pydicom.uid import ExplicitVRLittleEndian

from segmentation.training.manifest import Manifest, ManifestError
from segmentation.training.samples import Sample
from segmentation.training.sources import ManifestSource

AFFINE = np.diag([-2.0, -2.0, 2.0, 1.0])  # LPS, voxels of 8 mm³
SIDE = 12


def save_nifti(path: Path, array: np.ndarray, affine: np.ndarray = AFFINE) -> Path:
    path.parent.mkdir(parents=True, exist_ok=True)
    nib.save(nib.Nifti1Image(array, affine), path)
    return path


def label_with(n_lesions: int, value: int = 1, *, instances: bool = False, organ: int = 0) -> np.ndarray:
    """(i, j, k) label with so many pieces of four voxels (32 mm³), each apart from the next; ``organ`` lies round them."""
    label = np.full((SIDE,) * 3, organ, np.uint8)
    corners = [(i, j, k) for k in range(0, SIDE, 3) for j in range(0, SIDE, 3) for i in range(0, SIDE, 3)]
    for number, (i, j, k) in enumerate(corners[:n_lesions], start=1):
        label[i : i + 2, j : j + 2, k] = number if instances else value
    return label


def image() -> np.ndarray:
    return np.arange(SIDE**3, dtype=np.int16).reshape((SIDE,) * 3) - 1000


def save_pair(image_path: Path, label_path: Path, label: np.ndarray, affine: np.ndarray = AFFINE) -> None:
    save_nifti(image_path, image(), affine)
    save_nifti(label_path, label, affine)


def kits23(root: Path, counts: Iterable[int]) -> None:
    for i, n in enumerate(counts):
        label = label_with(n, 2, organ=1)
        label[-1, -1, -1] = 3  # a cyst
        save_pair(
            root / f"dataset/case_{i:05d}/imaging.nii.gz", root / f"dataset/case_{i:05d}/segmentation.nii.gz", label
        )


def lits17(root: Path, counts: Iterable[int]) -> None:
    for i, n in enumerate(counts):
        folder = root / f"Training_Batch{1 + i % 2}/media/nas/01_Datasets/CT/LITS/Training Batch {1 + i % 2}"
        save_pair(folder / f"volume-{i}.nii", folder / f"segmentation-{i}.nii", label_with(n, 2, organ=1))


def msd(task: str, organ: str, value: int, *, with_organ: bool) -> Callable[[Path, Iterable[int]], None]:
    def make(root: Path, counts: Iterable[int]) -> None:
        for i, n in enumerate(counts):
            name = f"{organ}_{i:03d}.nii.gz"
            label = label_with(n, value, organ=int(with_organ))
            save_pair(root / task / "imagesTr" / name, root / task / "labelsTr" / name, label)
            (root / task / "labelsTr" / f"._{name}").write_bytes(b"left by macOS")

    return make


def nih(prefix: str) -> Callable[[Path, Iterable[int]], None]:
    def make(root: Path, counts: Iterable[int]) -> None:
        for i, n in enumerate(counts):
            case = f"{prefix}_LYMPH_{i + 1:03d}"
            series = root / "CT Lymph Nodes" / case / "09-14-2014-study" / "1.000000-series"
            series.mkdir(parents=True)
            (series / "1-001.dcm").write_bytes(b"read later")
            mask = root / "MED_ABD_LYMPH_MASKS" / case / f"{case}_mask.nii.gz"
            save_nifti(mask, label_with(n, instances=True))
            (root / "MED_ABD_LYMPH_ANNOTATIONS" / case).mkdir(parents=True)

    return make


def deeplesion3d(root: Path, counts: Iterable[int]) -> None:
    """Files with one lesion each, as many for a patient as ``counts`` say; every third patient has a kidney as well."""
    folder = root / "ULS23/novel_data/ULS23_DeepLesion3D"
    for i, n in enumerate(counts):
        kinds = ["Bone"] * n + ["Kidney"] * (i % 3 == 0)
        for slice_number, kind in enumerate(kinds):
            name = f"{i:06d}_01_01_{slice_number:03d}"
            label = label_with(2)  # two pieces, one lesion
            save_nifti(folder / "images" / f"{name}_lesion_01.nii.gz", image()[..., None])
            save_nifti(root / "annotations/labels" / f"{name}_lesion_01.nii.gz", label[..., None])
            (folder / "categories" / kind).mkdir(parents=True, exist_ok=True)
            (folder / "categories" / kind / f"{name}.png").write_bytes(b"")


LAYOUTS: dict[str, Callable[[Path, Iterable[int]], None]] = {
    "kits23": kits23,
    "lits17": lits17,
    "msd_colon": msd("Task10_Colon", "colon", 1, with_organ=False),
    "msd_lung": msd("Task06_Lung", "lung", 1, with_organ=False),
    "msd_pancreas": msd("Task07_Pancreas", "pancreas", 2, with_organ=True),
    "nih_ln_abd": nih("ABD"),
    "nih_ln_med": nih("MED"),
    "deeplesion3d": deeplesion3d,
}


class Halting:
    """A source that fails at one unit, as a full disk or a kill would."""

    def __init__(self, source: ManifestSource, at: int) -> None:
        self._source, self._at = source, at

    @property
    def digest(self) -> str:
        return self._source.digest

    def __len__(self) -> int:
        return len(self._source)

    def unit_digest(self, unit: int) -> str:
        return self._source.unit_digest(unit)

    def samples(self, unit: int) -> Iterable[Sample]:
        if unit == self._at:
            raise ManifestError("stopped")
        return self._source.samples(unit)


def nifti_pairs(root: Path, counts: Iterable[int]) -> str:
    """Two folders of pairs, and the spec that opens them."""
    for i, n in enumerate(counts):
        save_pair(root / f"images/p{i}_0000.nii.gz", root / f"labels/p{i}.nii.gz", label_with(n))
    return f"nifti:{root / 'images'},{root / 'labels'}"


# ---- DICOM --------------------------------------------------------------------------------------------------------


def ball(shape: tuple[int, int, int] = (8, 64, 64), centre: tuple[float, float, float] = (4, 30, 28)) -> np.ndarray:
    """(slice, row, column) ball of about 9 mm radius on the grid of `ct_series`."""
    z, y, x = (np.arange(n) - c for n, c in zip(shape, centre, strict=True))
    return (z[:, None, None] * 2.5) ** 2 + (y[:, None] * 0.8) ** 2 + (x * 0.7) ** 2 < 81


def write_ct(folder: Path) -> list[FileDataset]:
    series = ct_series()
    write(series, folder)
    return series


def write_seg(path: Path, series: list[FileDataset], masks: dict[str, np.ndarray]) -> None:
    """A segmentation by highdicom, one segment for each name."""
    import highdicom as hd
    from highdicom.sr.coding import Code

    description = [
        hd.seg.SegmentDescription(
            segment_number=number,
            segment_label=name,
            segmented_property_category=Code("49755003", "SCT", "Morphologically Abnormal Structure"),
            segmented_property_type=Code("4147007", "SCT", "Mass"),
            algorithm_type=hd.seg.SegmentAlgorithmTypeValues.MANUAL,
        )
        for number, name in enumerate(masks, start=1)
    ]
    seg = hd.seg.Segmentation(
        source_images=series,
        pixel_array=np.stack(list(masks.values()), axis=-1).astype(np.uint8),
        segmentation_type=hd.seg.SegmentationTypeValues.BINARY,
        segment_descriptions=description,
        series_instance_uid=uid("seg series"),
        series_number=100,
        sop_instance_uid=uid("seg"),
        instance_number=1,
        manufacturer="Test",
        manufacturer_model_name="Test",
        software_versions="1",
        device_serial_number="1",
    )
    path.parent.mkdir(parents=True, exist_ok=True)
    seg.save_as(path)


def write_rtstruct(path: Path, series: list[FileDataset], rois: dict[str, list[np.ndarray]]) -> None:
    """A structure set; a contour is (n, 3) LPS millimetres."""
    ds = Dataset()
    ds.SOPClassUID, ds.SOPInstanceUID = "1.2.840.10008.5.1.4.1.1.481.3", uid("rtstruct", str(path))
    ds.Modality, ds.PatientID, ds.PatientName = "RTSTRUCT", series[0].PatientID, series[0].PatientName
    ds.StudyInstanceUID, ds.SeriesInstanceUID = series[0].StudyInstanceUID, uid("rtstruct series")
    reference, study, frame = Dataset(), Dataset(), Dataset()
    reference.SeriesInstanceUID = series[0].SeriesInstanceUID
    study.RTReferencedSeriesSequence = Sequence([reference])
    frame.RTReferencedStudySequence = Sequence([study])
    ds.ReferencedFrameOfReferenceSequence = Sequence([frame])
    ds.StructureSetROISequence, ds.ROIContourSequence = Sequence(), Sequence()
    for number, (name, contours) in enumerate(rois.items(), start=1):
        roi, drawn = Dataset(), Dataset()
        roi.ROINumber, roi.ROIName = number, name
        drawn.ReferencedROINumber, drawn.ContourSequence = number, Sequence()
        for points in contours:
            contour = Dataset()
            contour.ContourGeometricType, contour.NumberOfContourPoints = "CLOSED_PLANAR", len(points)
            contour.ContourData = [f"{v:.4f}" for v in points.ravel()]
            drawn.ContourSequence.append(contour)
        ds.StructureSetROISequence.append(roi)
        ds.ROIContourSequence.append(drawn)
    ds.file_meta = FileMetaDataset()
    ds.file_meta.TransferSyntaxUID = ExplicitVRLittleEndian
    path.parent.mkdir(parents=True, exist_ok=True)
    ds.save_as(path, enforce_file_format=True)


def rectangle(series: list[FileDataset], index: int, low: tuple[int, int], high: tuple[int, int]) -> np.ndarray:
    """Contour round the pixels from ``low`` to ``high`` (row, column), both included, half a pixel beyond them."""
    ds = series[index]
    (top, left), (bottom, right) = np.array(low) - 0.5, np.array(high) + 0.5
    row_mm, column_mm = (float(v) for v in ds.PixelSpacing)
    x, y, z = (float(v) for v in ds.ImagePositionPatient)
    corners = [(left, top), (right, top), (right, bottom), (left, bottom)]
    return np.array([(x + c * column_mm, y + r * row_mm, z) for c, r in corners])


def splits_of(manifest: Manifest) -> dict[str, int]:
    """Lesions by split, external ones apart."""
    counts: dict[str, int] = {}
    for entry in manifest.entries:
        key = "external" if entry.dataset.endswith("-external") else entry.split
        counts[key] = counts.get(key, 0) + entry.n_lesions
    return counts
