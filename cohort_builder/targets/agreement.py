"""Does another stack show what the reader saw? Its voxels, averaged over the slab of the drawn slice, against that.

One Frame of Reference is no promise that the patient kept still, and two phases have the same one. Both images are
smoothed before they are compared: kernel and dose may differ, the anatomy may not.

The limits were chosen on 44 places of 10 real series (a chest, eight limbs, a lung tumour) against slices twice as
thick made from them. Accepted: 44 of 44 as they are and with a softer kernel, 39 with 30 HU of other noise, 20 with a
sharp kernel and 40 HU of it. Accepted though moved: within the plane by 3 mm 4 (diagonally 1), by 5 mm 4 (0), by 8 mm
none; along a limb, which looks much the same a slice on, 20 of 32 by one slice of 3.3 mm and 5 by three; elsewhere none
by one. With all soft tissue 40 HU brighter 6: that a phase is the same is for the headers to say.
"""

from __future__ import annotations

from dataclasses import dataclass
from math import ceil
from typing import TYPE_CHECKING

import numpy as np
from numpy.typing import NDArray

from cohort_builder.ct.pixels import read_hounsfield
from cohort_builder.targets.carrying import NotCarriedError, to_index
from segmentation.geometry import FloatArray, apply_affine, slice_affine

if TYPE_CHECKING:
    from cohort_builder.ct.series import Stack
    from cohort_builder.pacs.headers import Instance
    from cohort_builder.types import LocatedAnnotation

BoolArray = NDArray[np.bool_]

LEAST_CORRELATION, MOST_DIFFERENCE_HU = 0.95, 15.0

_MARGIN_MM, _GRID_MM, _SMOOTH_MM = 45.0, 1.0, 2.0
_LEAST_COVERED = 0.9
_SOFT_TISSUE_HU = (-150.0, 250.0)
_HU_RANGE = (-1000.0, 400.0)  # bone kernels overshoot, and metal is another thing in each of them


@dataclass(frozen=True, slots=True)
class Agreement:
    """How alike the two images are around the stroke.

    Parameters
    ----------
    correlation
        Of the smoothed images; 0 where one of them shows nothing.
    difference_hu
        Their mean absolute difference, everywhere or in soft tissue, whichever is more.

    """

    correlation: float
    difference_hu: float

    @property
    def holds(self) -> bool:
        """Whether they show the same anatomy in the same phase."""
        return self.correlation >= LEAST_CORRELATION and self.difference_hu <= MOST_DIFFERENCE_HU


def agreement(stroke: LocatedAnnotation, image: Instance, stack: Stack) -> Agreement:
    """Compare the image that ``stroke`` was drawn on with ``stack`` around it (45 mm on each side).

    The stack is read at the place of each pixel, through the thickness of the drawn slice; only the slices that are
    needed are read from disk.

    Raises
    ------
    NotCarriedError
        ``not_covered``: more than a tenth of the surroundings lies outside the stack.
    GeometryError
        A slice cannot be read or decoded.

    """
    from scipy import ndimage

    places = _grid(stroke, image)
    seen = ndimage.map_coordinates(read_hounsfield(image).astype(np.float32), places, order=1)
    shown, covered = _slab(places, image, stroke.slice_thickness_mm, stack)
    if covered.mean() < _LEAST_COVERED:
        raise NotCarriedError("not_covered")
    shown[~covered] = seen[~covered]
    smooth = [
        ndimage.gaussian_filter(np.clip(values, *_HU_RANGE), _SMOOTH_MM / _GRID_MM)[covered] for values in (seen, shown)
    ]
    apart = np.abs(smooth[0] - smooth[1])
    soft = (smooth[0] > _SOFT_TISSUE_HU[0]) & (smooth[0] < _SOFT_TISSUE_HU[1])
    difference = max(float(apart.mean()), float(apart[soft].mean()) if soft.any() else 0.0)
    flat = min(float(values.std()) for values in smooth) == 0
    return Agreement(0.0 if flat else float(np.corrcoef(smooth[0], smooth[1])[0, 1]), difference)


def _grid(stroke: LocatedAnnotation, image: Instance) -> FloatArray:
    """(2, row, column) pixel-centre indices (row, column) of the drawn image, about 1 mm apart, round the stroke."""
    spacing = np.asarray(image.pixel_spacing or (1.0, 1.0))
    index = to_index(_affine_of(image), stroke.points_lps_mm)[:, 1:]
    size = np.array([image.rows or 1, image.columns or 1])
    low = np.clip(index.min(axis=0) - _MARGIN_MM / spacing, 0, size - 1)
    high = np.clip(index.max(axis=0) + _MARGIN_MM / spacing, 0, size - 1)
    axes = [np.arange(a, b + 1e-9, _GRID_MM / s) for a, b, s in zip(low, high, spacing, strict=True)]
    return np.stack(np.meshgrid(*axes, indexing="ij"))


def _slab(places: FloatArray, image: Instance, thickness_mm: float, stack: Stack) -> tuple[FloatArray, BoolArray]:
    """(row, column) mean of the stack through the drawn slice at each place, and where all of that is in the stack."""
    from scipy import ndimage

    affine = _affine_of(image)
    thickness = image.slice_thickness_mm or thickness_mm
    n = max(1, ceil(thickness / float(np.linalg.norm(stack.affine[:3, 0]))))
    depths = ((np.arange(n) + 0.5) / n - 0.5) * thickness  # along the unit normal of the drawn image
    flat = places.reshape(2, -1).T
    lps = [apply_affine(affine, np.column_stack([np.full(len(flat), depth), flat])) for depth in depths]
    index = to_index(stack.affine, np.concatenate(lps))
    first = stack.instances[0]
    last = np.array([len(stack.instances), first.rows or 0, first.columns or 0]) - 1.0
    inside = ((index >= -0.5) & (index <= last + 0.5)).all(axis=1)
    if not inside.any():
        raise NotCarriedError("not_covered")
    index = np.clip(index, 0, last)
    low = np.floor(index[inside].min(axis=0)).astype(np.intp)
    high = np.ceil(index[inside].max(axis=0)).astype(np.intp) + 1
    window = slice(low[1], high[1]), slice(low[2], high[2])
    block = np.stack([read_hounsfield(instance)[window] for instance in stack.instances[low[0] : high[0]]])
    values = ndimage.map_coordinates(block.astype(np.float32), (index - low).T, order=1, mode="nearest")
    shape = (n, *places.shape[1:])
    mean: FloatArray = values.reshape(shape).mean(axis=0, dtype=np.float64)
    covered: BoolArray = np.logical_and.reduce(inside.reshape(shape))
    return mean, covered


def _affine_of(image: Instance) -> FloatArray:
    return slice_affine(image.image_position or (), image.image_orientation or (), image.pixel_spacing or ())
