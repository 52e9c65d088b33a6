"""NIfTI images and labels as volumes: slices from the feet up, rows towards the back, columns to the left (LPS)."""

from __future__ import annotations

import zlib
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from segmentation.geometry import nifti_affine
from segmentation.training.labels import LEAST_MM3, Pieces, lesions_in, require_same_grid
from segmentation.training.manifest import Entry, ManifestError
from segmentation.training.samples import bare_volume
from segmentation.types import GeometryError, Volume

Affine = NDArray[np.float64]

_INT16 = np.iinfo(np.int16)


def read_nifti(entry: Entry, root: Path) -> tuple[Volume, NDArray[np.int32]]:
    """Read image and label of an entry: the reader ``"nifti"``.

    Options of the entry: ``lesions`` and ``least_mm3`` as of `lesions_in`.

    Raises
    ------
    ManifestError
        If a file cannot be read, the grids differ, or it is not said which value is lesion. Names the case.

    """
    try:
        label, affine = read_label(root / entry.label)
        volume = read_volume(root / entry.image)
        require_same_grid(volume.voxels.shape, volume.affine, label.shape, affine)
        return volume, label_lesions(entry, label, volume.spacing_mm)
    except (ManifestError, GeometryError) as error:
        raise ManifestError(f"{entry.case_id}: {error}") from error


def count_lesions(entry: Entry, root: Path) -> int:
    """Count the lesions of an entry with a NIfTI label, and compare the grids where the image is NIfTI too.

    Of the image only the header is read.

    Raises
    ------
    ManifestError
        As `read_nifti`.

    """
    try:
        label, affine = read_label(root / entry.label)
        if is_nifti(entry.image):
            require_same_grid(*_oriented_grid(_load(root / entry.image)), label.shape, affine)
        return int(label_lesions(entry, label, np.linalg.norm(affine[:3, :3], axis=0)).max())
    except (ManifestError, GeometryError) as error:
        raise ManifestError(f"{entry.case_id}: {error}") from error


def label_lesions(entry: Entry, label: NDArray[np.integer], spacing_mm: Any) -> NDArray[np.int32]:
    """Apply `lesions_in` as the entry says."""
    pieces: Pieces = entry.options.get("lesions", "components")  # type: ignore[assignment]  # lesions_in checks it
    least = float(entry.options.get("least_mm3", LEAST_MM3))
    return lesions_in(label, spacing_mm, values=entry.label_values, pieces=pieces, least_mm3=least)


def is_nifti(path: str) -> bool:
    """Whether the name says so."""
    return path.endswith((".nii", ".nii.gz"))


def read_volume(path: Path) -> Volume:
    """Read a CT in Hounsfield units; fractions are rounded, what does not fit into int16 is clipped.

    Raises
    ------
    ManifestError
        If the file cannot be read, is not 3D, or has voxels that are no numbers.

    """
    image = _load(path)
    array, affine = _oriented(image, _data(image, path))
    if array.dtype.kind == "f":
        if not np.isfinite(array).all():
            raise ManifestError("the image has voxels that are no numbers; export it again")
        array = np.rint(array)
    return bare_volume(np.clip(array, _INT16.min, _INT16.max).astype(np.int16), affine)


def read_label(path: Path) -> tuple[NDArray[np.int32], Affine]:
    """Read a label: (slice, row, column) values, and the affine to LPS millimetres.

    Raises
    ------
    ManifestError
        If the file cannot be read, is not 3D, or has values that are not whole.

    """
    image = _load(path)
    array, affine = _oriented(image, _data(image, path))
    if array.dtype.kind == "f" and not (np.isfinite(array).all() and np.array_equal(np.rint(array), array)):
        raise ManifestError("the label has values that are not whole numbers: it is a probability, or was resampled")
    return array.astype(np.int32), affine


def has_geometry(path: Path) -> bool:
    """Whether the header places the voxels: an identity affine is what writers leave that know nothing.

    Raises
    ------
    ManifestError
        If the file cannot be read.

    """
    return not np.array_equal(np.abs(_load(path).affine), np.eye(4))


def _load(path: Path) -> Any:
    import nibabel

    try:
        return nibabel.load(path)
    except (OSError, nibabel.filebasedimages.ImageFileError) as error:
        raise ManifestError(f"{path.name} cannot be read as NIfTI ({type(error).__name__}); fetch it again") from error


def _data(image: Any, path: Path) -> NDArray[Any]:
    """Voxels as stored where no scaling is needed: float64 of a whole CT is four times its size."""
    try:
        slope, intercept = image.dataobj.slope, image.dataobj.inter
        if float(slope) == 1.0 and float(intercept).is_integer():
            raw: NDArray[Any] = np.asanyarray(image.dataobj.get_unscaled())
            return raw if intercept == 0 else raw + np.int32(intercept)
        return np.asarray(image.dataobj, dtype=np.float32)
    except (OSError, EOFError, ValueError, zlib.error) as error:
        raise ManifestError(f"{path.name} is cut off or damaged; fetch it again") from error


def _oriented(image: Any, data: NDArray[Any]) -> tuple[NDArray[Any], Affine]:
    """Turn (i, j, k) into (slice, row, column), by exchanging and reversing axes only."""
    from nibabel.orientations import apply_orientation

    turn, affine = _turn(image)
    squeezed = data.reshape(data.shape[:3]) if data.ndim > 3 else data
    return apply_orientation(squeezed, turn).transpose(2, 1, 0), affine


def _oriented_grid(image: Any) -> tuple[tuple[int, ...], Affine]:
    """Shape (slice, row, column) and affine, from the header alone."""
    turn, affine = _turn(image)
    shape = [0, 0, 0]
    for axis, (to, _) in enumerate(turn):
        shape[2 - int(to)] = int(image.shape[axis])
    return tuple(shape), affine


def _turn(image: Any) -> tuple[NDArray[np.float64], Affine]:
    from nibabel.orientations import axcodes2ornt, inv_ornt_aff, io_orientation, ornt_transform

    if image.get_data_dtype().names is not None or image.get_data_dtype().kind == "c":
        raise ManifestError("expected one number a voxel, got colours or complex numbers; export it as grey values")
    if len(image.shape) < 3 or any(n != 1 for n in image.shape[3:]):
        raise ManifestError(f"expected one 3D image, got the shape {tuple(image.shape)}")
    affine = np.asarray(image.affine, dtype=np.float64)
    if not np.isfinite(affine).all() or abs(np.linalg.det(affine[:3, :3])) < 1e-9:
        raise ManifestError("the affine of the header places no volume")
    turn = ornt_transform(io_orientation(affine), axcodes2ornt(("L", "P", "S")))
    return turn, nifti_affine(affine @ inv_ornt_aff(turn, image.shape[:3]))
