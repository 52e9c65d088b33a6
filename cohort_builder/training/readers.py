"""Readers of training cases that need DICOM or our own dataset: a CT with a SEG, an RT Structure Set or a NIfTI mask.

All raise `ManifestError`, which names the case by its id and says what to do.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from fnmatch import fnmatchcase
from functools import lru_cache, wraps
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
from numpy.typing import NDArray

from cohort_builder.ct.series import load_volume
from cohort_builder.pacs.headers import read_header
from cohort_builder.pacs.instances import CT, Header, HeaderError, Instance
from segmentation.geometry import apply_affine, is_orthogonal, nifti_affine, slice_affine
from segmentation.training.labels import require_same_grid
from segmentation.training.manifest import READERS, Entry, ManifestError, Reader
from segmentation.training.nifti import label_lesions, read_label
from segmentation.training.samples import bare_volume
from segmentation.types import GeometryError, Volume

if TYPE_CHECKING:
    from pydicom.dataset import Dataset

BoolArray = NDArray[np.bool_]
Labels = NDArray[np.int32]
Case = tuple[Volume, Labels]

_OFF_SLICE = 0.1  # slice distances, or pixels, that a contour or a frame may lie off the CT's own
_FRACTION = 0.5


def _of_case(read: Reader) -> Reader:
    """Name the case in what goes wrong with it."""

    @wraps(read)
    def named(entry: Entry, root: Path) -> Case:
        try:
            return read(entry, root)
        except (ManifestError, GeometryError, HeaderError) as error:
            raise ManifestError(f"{entry.case_id}: {error}") from error

    return named


@_of_case
def read_seg(entry: Entry, root: Path) -> Case:
    """Read a CT and a DICOM Segmentation on its grid (PS3.3 A.51): the reader ``"dicom_seg"``.

    Options: ``series``, the CT's Series Instance UID; ``structure``, a pattern (``*``, ``?``) that the labels of the
    segments meant match, needed where there are several; ``lesions`` and ``least_mm3`` as of `lesions_in`, for every
    segment by itself.
    """
    ds = _dataset(root / entry.label)
    labels = {int(s.SegmentNumber): str(s.get("SegmentLabel", "")) for s in ds.get("SegmentSequence") or ()}
    wanted = _chosen(labels, entry, "segment")
    volume = load_series(root / entry.image, entry.options["series"])
    masks = _segments(ds, volume, wanted)
    return volume, _combined(entry, volume, masks)


@_of_case
def read_rtstruct(entry: Entry, root: Path) -> Case:
    """Read a CT and the contours of an RT Structure Set: the reader ``"rtstruct"``.

    A voxel belongs to a structure if its centre lies in an odd number of the structure's contours on its slice.
    Options as of `read_seg`; ``structure`` matches ROI names.
    """
    ds = _dataset(root / entry.label)
    names = {int(roi.ROINumber): str(roi.get("ROIName", "")) for roi in ds.get("StructureSetROISequence") or ()}
    wanted = _chosen(names, entry, "structure")
    volume = load_series(root / entry.image, entry.options["series"])
    contours = {int(r.ReferencedROINumber): r.get("ContourSequence") or () for r in ds.get("ROIContourSequence") or ()}
    return volume, _combined(entry, volume, (_filled(contours.get(number, ()), volume) for number in wanted))


@_of_case
def read_dicom_nifti(entry: Entry, root: Path) -> Case:
    """Read a CT series and a NIfTI label: the reader ``"dicom_nifti"``.

    With the option ``grid = "shape"`` only shape and directions of the axes must be those of the CT.
    """
    volume = load_series(root / entry.image)
    label, affine = read_label(root / entry.label)
    axes = np.diag(volume.affine[[2, 1, 0], :3])
    if (axes <= 0).any() or not is_orthogonal(volume.affine, tolerance=0.1):
        raise ManifestError("the CT is not axial with rows to the left and columns to the back; leave the case out")
    require_same_grid(
        volume.voxels.shape,
        volume.affine,
        label.shape,
        volume.affine if entry.options.get("grid") == "shape" else affine,
    )
    return volume, label_lesions(entry, label, volume.spacing_mm)


@_of_case
def read_published(entry: Entry, root: Path) -> Case:
    """Read one row of a published dataset: the reader ``"dataset"``.

    The image is a Parquet file of ``data/findings`` or ``data/unlinked``; options ``row_group`` and ``row`` in it. The
    CT is the row's region of interest, not the whole series.
    """
    import pyarrow.parquet as pq

    from exports.schema import nifti_voxels

    group, row = int(entry.options["row_group"]), int(entry.options["row"])
    table = pq.ParquetFile(root / entry.image).read_row_group(group, columns=["image", "mask", "affine_ras"])
    [found] = table.slice(row, 1).to_pylist()
    voxels, mask = (nifti_voxels(found[name]["bytes"]).transpose(2, 1, 0) for name in ("image", "mask"))
    volume = bare_volume(np.ascontiguousarray(voxels, dtype=np.int16), nifti_affine(np.asarray(found["affine_ras"])))
    return volume, np.ascontiguousarray(mask != 0).astype(np.int32)


ALL_READERS: dict[str, Reader] = {
    **READERS,
    "dicom_seg": read_seg,
    "rtstruct": read_rtstruct,
    "dicom_nifti": read_dicom_nifti,
    "dataset": read_published,
}
"""What `segmentation.training.sources.ManifestSource` needs to read every entry that this package makes."""


def load_series(folder: Path, series_instance_uid: str | None = None) -> Volume:
    """Load the CT series with that UID, or the only one, from the files anywhere below ``folder``.

    Raises
    ------
    ManifestError
        If there is no such series, or several and none was named.
    GeometryError
        If it is not one regular stack.

    """
    found = _series_below(folder)
    if series_instance_uid is None and len(found) == 1:
        [series_instance_uid] = found
    if series_instance_uid not in found:
        raise ManifestError(f"the folder of its CT holds {len(found)} CT series, none of them the one to be read")
    return load_volume(found[series_instance_uid])


@lru_cache(maxsize=8)
def _series_below(folder: Path) -> dict[str, list[Instance]]:
    """CT series by UID. Many cases may lie in one folder: its headers are read once, not for each of them."""
    found: dict[str, list[Instance]] = {}
    for _, header in headers_below(folder):
        if header.kind == CT:
            found.setdefault(header.instance.series_instance_uid, []).extend(header.frames or (header.instance,))
    return found


def headers_below(folder: Path) -> Iterator[tuple[Path, Header]]:
    """Headers of all DICOM files below a folder; other files are passed over.

    Raises
    ------
    ManifestError
        If a file is DICOM and cannot be read.

    """
    for path in sorted(p for p in folder.rglob("*") if p.is_file()):
        try:
            header = read_header(path)
        except HeaderError as error:
            raise ManifestError(f"a DICOM file cannot be used ({error.reason}): {error.detail}") from error
        if header is not None:
            yield path, header


def _dataset(path: Path) -> Dataset:
    import pydicom

    try:
        return pydicom.dcmread(path)
    except (OSError, pydicom.errors.InvalidDicomError) as error:
        raise ManifestError(f"its label cannot be read as DICOM ({type(error).__name__}); export it again") from error


def _chosen(names: dict[int, str], entry: Entry, what: str) -> list[int]:
    """Numbers of the structures meant: those that match, or the only one."""
    pattern = entry.options.get("structure")
    if pattern is None and len(names) == 1:
        return list(names)
    chosen = [number for number, name in names.items() if fnmatchcase(name, pattern or "")]
    if not chosen:
        known = ", ".join(sorted(repr(name) for name in names.values())) or "none"
        raise ManifestError(f"say which {what} is lesion (a pattern is allowed); there are: {known}")
    return chosen


def _combined(entry: Entry, volume: Volume, masks: Iterable[BoolArray]) -> Labels:
    """Number the lesions of all structures; where two overlap, the voxel is the later one's."""
    labels = np.zeros(volume.voxels.shape, np.int32)
    last = 0
    for mask in masks:
        lesions = label_lesions(entry, mask.astype(np.uint8), volume.spacing_mm)
        labels = np.where(lesions > 0, lesions + last, labels)
        last += int(lesions.max())
    # A lesion that others cover leaves a gap in the numbers.
    here = np.bincount(labels.ravel(), minlength=last + 1) > 0
    here[0] = False
    closed: Labels = np.where(here, np.cumsum(here), 0).astype(np.int32)[labels]
    return closed


def _segments(ds: Dataset, volume: Volume, wanted: list[int]) -> list[BoolArray]:
    """Put the frames of each wanted segment where they lie in the CT."""
    masks = {number: np.zeros(volume.voxels.shape, np.bool_) for number in wanted}
    pixels = ds.pixel_array.reshape(-1, int(ds.Rows), int(ds.Columns))
    if str(ds.get("SegmentationType", "")) == "FRACTIONAL":
        pixels = pixels >= _FRACTION * float(_needed(ds, "MaximumFractionalValue"))
    for frame, groups in zip(pixels, _needed(ds, "PerFrameFunctionalGroupsSequence"), strict=True):
        number = int(_group(ds, groups, "SegmentIdentificationSequence").ReferencedSegmentNumber)
        if number in masks and frame.any():
            plane = slice_affine(
                [float(v) for v in _group(ds, groups, "PlanePositionSequence").ImagePositionPatient],
                [float(v) for v in _group(ds, groups, "PlaneOrientationSequence").ImageOrientationPatient],
                [float(v) for v in _group(ds, groups, "PixelMeasuresSequence").PixelSpacing],
            )
            _put(frame != 0, plane, volume, masks[number])
    return list(masks.values())


def _group(ds: Dataset, groups: Dataset, name: str) -> Dataset:
    """Functional group of a frame, or the one that all frames share."""
    shared = ds.get("SharedFunctionalGroupsSequence")
    item: Dataset = _needed(groups if groups.get(name) or not shared else shared[0], name)[0]
    return item


def _needed(ds: Dataset, name: str) -> Any:
    """Value of an element that is there and not empty."""
    value = ds.get(name)
    if not value:
        raise ManifestError(f"its label has no {name}; export it again")
    return value


def _put(frame: BoolArray, plane: NDArray[np.float64], volume: Volume, mask: BoolArray) -> None:
    """Set the voxels of ``mask`` that a frame shows, which must be pixels of the CT."""
    rows, columns = frame.shape
    corners = np.array([[0, 0, 0], [0, rows - 1, 0], [0, 0, columns - 1]])
    index = apply_affine(np.linalg.inv(volume.affine) @ plane, corners)
    first = np.rint(index[0]).astype(int)
    inside = (first >= 0).all() and (first + np.array([1, rows, columns]) <= mask.shape).all()
    if not inside or np.abs(index - (corners + first)).max() > _OFF_SLICE:
        raise ManifestError("a frame of its segmentation does not lie on the pixels of the CT; resample it to the CT")
    s, r, c = first
    mask[s, r : r + rows, c : c + columns] |= frame


def _filled(contours: Iterable[Dataset], volume: Volume) -> BoolArray:
    from matplotlib.path import Path as Polygon

    mask = np.zeros(volume.voxels.shape, np.bool_)
    inverse = np.linalg.inv(volume.affine)
    for contour in contours:
        if str(contour.get("ContourGeometricType", "")) not in {"CLOSED_PLANAR", "CLOSEDPLANAR_XOR"}:
            continue
        points = apply_affine(
            inverse.astype(np.float64), np.asarray(_needed(contour, "ContourData"), dtype=np.float64).reshape(-1, 3)
        )
        index = round(float(points[:, 0].mean()))
        if np.abs(points[:, 0] - index).max() > _OFF_SLICE:
            raise ManifestError(
                "a contour of its structure set does not lie on a slice of the CT; resample it to the CT"
            )
        if len(points) < 3 or not 0 <= index < len(mask):
            continue
        low = np.maximum(np.floor(points[:, 1:].min(axis=0)).astype(int), 0)
        high = np.minimum(np.ceil(points[:, 1:].max(axis=0)).astype(int) + 1, mask.shape[1:])
        rows, columns = np.mgrid[low[0] : high[0], low[1] : high[1]]
        inside = Polygon(points[:, [2, 1]]).contains_points(np.column_stack([columns.ravel(), rows.ravel()]))
        mask[index, low[0] : high[0], low[1] : high[1]] ^= inside.reshape(rows.shape)
    return mask
