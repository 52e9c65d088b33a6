"""The one place where coordinates change convention, and the only file with a half pixel in it.

Three conventions meet here (see docs/coordinates.md):

* **image coordinates** (GSPS, SR; PS3.3 C.10.5 and C.18.6): (column, row), the *corner* of the first pixel is (0, 0),
  its centre (0.5, 0.5);
* **pixel-centre indices** (prompts, SAM2, arrays): (column, row), the *centre* of the first pixel is (0, 0);
* **patient coordinates**: LPS millimetres in DICOM, RAS millimetres in NIfTI. ImagePositionPatient is a pixel *centre*.
"""

from __future__ import annotations

from collections.abc import Sequence
from math import hypot

import numpy as np
from numpy.typing import ArrayLike, NDArray

from segmentation.types import GeometryError

FloatArray = NDArray[np.float64]

HALF_PIXEL = 0.5
_COSINE_ROUNDING = 2e-3  # what three decimals do to length and dot product; fewer misplace a far corner by 1 mm
LPS_TO_RAS: FloatArray = np.diag([-1.0, -1.0, 1.0, 1.0])
_REVERSE_INDEX: FloatArray = np.array([[0, 0, 1, 0], [0, 1, 0, 0], [1, 0, 0, 0], [0, 0, 0, 1]], dtype=np.float64)


def image_to_index(points: ArrayLike) -> FloatArray:
    """Corner-origin image coordinates (column, row) to pixel-centre indices (column, row)."""
    return np.asarray(points, dtype=np.float64) - HALF_PIXEL


def index_to_image(points: ArrayLike) -> FloatArray:
    """Pixel-centre indices (column, row) to corner-origin image coordinates (column, row)."""
    return np.asarray(points, dtype=np.float64) + HALF_PIXEL


def rescale_index(points: ArrayLike, scale: ArrayLike) -> FloatArray:
    """Pixel-centre indices on an image whose pixels become ``scale`` times as many: edges coincide, centres do not."""
    return (np.asarray(points, dtype=np.float64) + HALF_PIXEL) * np.asarray(scale, dtype=np.float64) - HALF_PIXEL


def slice_affine(
    image_position: Sequence[float], image_orientation: Sequence[float], pixel_spacing: Sequence[float]
) -> FloatArray:
    """Map a pixel-centre index (0, row, column, 1) of one slice to LPS millimetres (PS3.3 C.7.6.2.1.1).

    Parameters
    ----------
    image_position
        ImagePositionPatient: centre of the first pixel, LPS mm.
    image_orientation
        ImageOrientationPatient: direction of a row (increasing column), then of a column (increasing row).
    pixel_spacing
        PixelSpacing: (between rows, between columns) in mm.

    Returns
    -------
    (4, 4) affine whose slice column is the unit normal of the plane. Rounded direction cosines are made unit and
    perpendicular: as written they would stretch and shear the image.

    """
    position, orientation = _vector(image_position, 3), _vector(image_orientation, 6)
    spacing = _vector(pixel_spacing, 2)
    if (spacing <= 0).any():
        raise GeometryError(f"PixelSpacing must be positive, got {tuple(spacing)}")
    along_row, along_column = orientation[:3], orientation[3:]
    if max(abs(hypot(*along_row) - 1), abs(hypot(*along_column) - 1)) > _COSINE_ROUNDING:
        raise GeometryError("ImageOrientationPatient must hold two unit vectors")
    if abs(float(along_row @ along_column)) > _COSINE_ROUNDING:
        raise GeometryError("ImageOrientationPatient must hold two perpendicular vectors")
    along_row, along_column = _orthonormal(along_row, along_column)
    affine = np.eye(4)
    affine[:3, 0] = np.cross(along_row, along_column)
    affine[:3, 1] = along_column * spacing[0]
    affine[:3, 2] = along_row * spacing[1]
    affine[:3, 3] = position
    return affine


def volume_affine(
    first_position: Sequence[float],
    last_position: Sequence[float],
    n_slices: int,
    image_orientation: Sequence[float],
    pixel_spacing: Sequence[float],
) -> FloatArray:
    """Map the index (slice, row, column, 1) of a regular stack to LPS millimetres.

    The slice step is the measured one, (last - first) / (n - 1), so a tilted stack comes out sheared, as it is.
    """
    if n_slices < 2:
        raise GeometryError("one slice has no slice spacing; a volume needs at least two")
    affine = slice_affine(first_position, image_orientation, pixel_spacing)
    affine[:3, 0] = (_vector(last_position, 3) - _vector(first_position, 3)) / (n_slices - 1)
    return affine


def apply_affine(affine: FloatArray, points: ArrayLike) -> FloatArray:
    """Apply a 4x4 ``affine`` to (..., 3) points."""
    array = np.asarray(points, dtype=np.float64)
    result: FloatArray = array @ affine[:3, :3].T + affine[:3, 3]
    return result


def image_points_to_lps(points: ArrayLike, slice_index: float, affine: FloatArray) -> FloatArray:
    """(n, 2) corner-origin image coordinates (column, row) on slice ``slice_index`` of ``affine`` to (n, 3) LPS mm."""
    index = image_to_index(points).reshape(-1, 2)
    full = np.column_stack([np.full(len(index), float(slice_index)), index[:, 1], index[:, 0]])
    return apply_affine(affine, full)


def nifti_affine(affine: FloatArray) -> FloatArray:
    """LPS affine over (slice, row, column) to the RAS affine over NIfTI's (i, j, k) = (column, row, slice)."""
    result: FloatArray = LPS_TO_RAS @ affine @ _REVERSE_INDEX
    return result


def lps_to_ras(points: ArrayLike) -> FloatArray:
    """(..., 3) LPS millimetres to RAS millimetres (and back: it is its own inverse)."""
    result: FloatArray = np.asarray(points, dtype=np.float64) * np.array([-1.0, -1.0, 1.0])
    return result


def crop_affine(affine: FloatArray, origin: Sequence[int]) -> FloatArray:
    """Affine of a crop whose first voxel is ``origin``, counted in the index order of ``affine``."""
    result = affine.copy()
    result[:3, 3] = apply_affine(affine, np.asarray(origin, dtype=np.float64))
    return result


def is_orthogonal(affine: FloatArray, *, tolerance: float = 1e-3) -> bool:
    """Whether the three index axes are perpendicular (a tilted gantry makes them not so)."""
    axes = affine[:3, :3] / np.linalg.norm(affine[:3, :3], axis=0)
    return bool(np.abs(axes.T @ axes - np.eye(3)).max() <= tolerance)


def _orthonormal(u: FloatArray, v: FloatArray) -> tuple[FloatArray, FloatArray]:
    """Turn two nearly perpendicular unit vectors into exact ones, each by half of what is missing."""
    half = float(u @ v) / 2
    u, v = u - half * v, v - half * u
    u, v = u / np.linalg.norm(u), v / np.linalg.norm(v)
    return u, v


def _vector(values: Sequence[float], length: int) -> FloatArray:
    array = np.asarray(values, dtype=np.float64)
    if array.shape != (length,) or not np.isfinite(array).all():
        raise GeometryError(f"expected {length} finite numbers, got {array.tolist()}")
    return array
