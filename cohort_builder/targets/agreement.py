"""Does another stack show what the reader saw? Its voxels, averaged over the slab of the drawn slice, against that.

One Frame of Reference is no promise that the patient kept still, and two phases have the same one. Both images are
smoothed before they are compared: kernel and dose may differ, the anatomy may not.

The limits were chosen on 44 places of 10 real series (a chest, a lung tumour, eight limbs; a line of 20 mm at each)
against slices twice as thick made from them. Accepted: 44 of 44 as they are, blurred by 0.8 pixel or with 30 HU of
other noise, 43 blurred by 1.2 pixel, 43 sharpened (unsharp mask, 1 pixel, 1.5) with 40 HU of noise. Accepted though
moved: within the plane by 2, 3, 5 or 8 mm none; across it by 2 mm 3, by 3.3, 4 or 10 mm none (by 4 mm with 30 HU of
noise 2).
With 10 HU more within 10 mm of the middle of the line 44, with 15, 20, 40 or 60 HU none; with 10 HU more in all soft
tissue 33, with 15 or 40 none. A phase that differs by less is for the headers to tell.
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

LEAST_CORRELATION, MOST_DIFFERENCE_HU, MOST_INSIDE_HU = 0.95, 15.0, 10.0

_MARGIN_MM, _GRID_MM, _SMOOTH_MM = 45.0, 1.0, 2.0
_LEAST_COVERED = 0.9
_SOFT_TISSUE_HU = (-150.0, 250.0)
_HU_RANGE = (-1000.0, 400.0)  # bone kernels overshoot, and metal is another thing in each of them
_INSIDE_MM = 3.0  # least radius of what counts as the lesion
_NEAR_MM, _SEARCHED_MM, _MOVED_MM = 15.0, 5, 2.0
_CLEARLY = 0.6  # of the correlation that is lacking


@dataclass(frozen=True, slots=True)
class Agreement:
    """How alike the two images are around the stroke.

    Parameters
    ----------
    correlation
        Of the smoothed images; 0 where one of them shows nothing.
    difference_hu
        Their mean absolute difference, everywhere or in soft tissue, whichever is more.
    inside_hu
        Absolute difference of their means in the circle about what was drawn.
    moved_mm
        How far the other image has to be moved, within the plane or across it, to fit clearly better; 0 if it need not.

    """

    correlation: float
    difference_hu: float
    inside_hu: float = 0.0
    moved_mm: float = 0.0

    @property
    def holds(self) -> bool:
        """Whether they show the same anatomy in the same phase."""
        alike = self.correlation >= LEAST_CORRELATION and self.difference_hu <= MOST_DIFFERENCE_HU
        return alike and self.inside_hu <= MOST_INSIDE_HU and self.moved_mm == 0


def agreement(stroke: LocatedAnnotation, image: Instance, stack: Stack) -> Agreement:
    """Compare the image that ``stroke`` was drawn on with ``stack`` around it (45 mm on each side) and inside it.

    The stack is read at the place of each pixel, through the thickness of the drawn slice and 5 mm to both sides of it;
    only the slices that are needed are read from disk.

    Raises
    ------
    NotCarriedError
        ``not_covered``: more than a tenth of the surroundings lies outside the stack.
    GeometryError
        A slice cannot be read or decoded.

    """
    from scipy import ndimage

    index = to_index(_affine_of(image), stroke.points_lps_mm)[:, 1:]
    places = _grid(index, image)
    seen = ndimage.map_coordinates(read_hounsfield(image).astype(np.float64), places, order=1)
    slabs = _slabs(places, image, image.slice_thickness_mm or stroke.slice_thickness_mm, stack)
    shown, covered = slabs[0.0]
    if covered.mean() < _LEAST_COVERED:
        raise NotCarriedError("not_covered")
    spacing = np.asarray(image.pixel_spacing or (1.0, 1.0))[:, None, None]
    centre = (index.min(axis=0) + index.max(axis=0))[:, None, None] / 2
    reach = np.linalg.norm((index - centre[:, 0, 0]) * spacing[:, 0, 0], axis=1).max()
    from_centre = np.linalg.norm((places - centre) * spacing, axis=0)
    smooth = {depth: _smoothed(values, within, seen) for depth, (values, within) in slabs.items()}
    plain = _smoothed(seen, covered, seen)
    apart = (plain - smooth[0.0])[covered]
    soft = (plain[covered] > _SOFT_TISSUE_HU[0]) & (plain[covered] < _SOFT_TISSUE_HU[1])
    inside = (seen - shown)[covered & (from_centre <= max(float(reach), _INSIDE_MM))]
    return Agreement(
        _correlation(plain[covered], smooth[0.0][covered]),
        max(float(np.abs(apart).mean()), float(np.abs(apart[soft]).mean()) if soft.any() else 0.0),
        abs(float(inside.mean())) if inside.size else float("inf"),
        _moved_mm(plain, smooth, from_centre <= float(reach) + _NEAR_MM),
    )


def _smoothed(values: FloatArray, within: BoolArray, otherwise: FloatArray) -> FloatArray:
    from scipy import ndimage

    smooth: FloatArray = ndimage.gaussian_filter(
        np.clip(np.where(within, values, otherwise), *_HU_RANGE), _SMOOTH_MM / _GRID_MM
    )
    return smooth


def _correlation(a: FloatArray, b: FloatArray) -> float:
    return float(np.corrcoef(a, b)[0, 1]) if min(a.std(), b.std()) > 0 else 0.0


def _moved_mm(plain: FloatArray, smooth: dict[float, FloatArray], near: BoolArray) -> float:
    """Length of the shift that fits ``plain`` clearly better near the stroke than none does, or 0."""
    n = round(_SEARCHED_MM / _GRID_MM)
    near = near.copy()
    near[:n] = near[-n:] = near[:, :n] = near[:, -n:] = False
    if not near.any():
        return 0.0
    rows, columns = np.nonzero(near)
    here = plain[near]
    lacking = 1 - _correlation(here, smooth[0.0][near])
    found = [
        (1 - _correlation(here, smooth[0.0][rows + i, columns + j]), float(np.hypot(i, j)) * _GRID_MM)
        for i in range(-n, n + 1)
        for j in range(-n, n + 1)
    ]
    found += [(1 - _correlation(here, values[near]), abs(depth)) for depth, values in smooth.items()]
    least, by_mm = min(found)
    return by_mm if by_mm >= _MOVED_MM and least < _CLEARLY * lacking else 0.0


def _grid(index: FloatArray, image: Instance) -> FloatArray:
    """(2, row, column) pixel-centre indices (row, column) of the drawn image, about 1 mm apart, round the stroke."""
    spacing = np.asarray(image.pixel_spacing or (1.0, 1.0))
    size = np.array([image.rows or 1, image.columns or 1])
    low = np.clip(index.min(axis=0) - _MARGIN_MM / spacing, 0, size - 1)
    high = np.clip(index.max(axis=0) + _MARGIN_MM / spacing, 0, size - 1)
    axes = [np.arange(a, b + 1e-9, _GRID_MM / s) for a, b, s in zip(low, high, spacing, strict=True)]
    return np.stack(np.meshgrid(*axes, indexing="ij"))


def _slabs(
    places: FloatArray, image: Instance, thickness: float, stack: Stack
) -> dict[float, tuple[FloatArray, BoolArray]]:
    """Slabs of the stack as thick as the drawn slice, by their depth in mm from it.

    Each is the (row, column) mean at each place, and where all of that is in the stack. Those that are not the drawn
    slice's own are there only where they lie in the stack nearly everywhere.
    """
    from scipy import ndimage

    affine = _affine_of(image)
    n = max(1, ceil(thickness / float(np.linalg.norm(stack.affine[:3, 0]))))
    step = thickness / n
    beyond = ceil(_SEARCHED_MM / step)
    depths = (np.arange(n + 2 * beyond) + 0.5 - beyond - n / 2) * step  # along the unit normal of the drawn image
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
    planes, covered = values.reshape(len(depths), *places.shape[1:]), inside.reshape(len(depths), *places.shape[1:])
    slabs: dict[float, tuple[FloatArray, BoolArray]] = {}
    for i in range(2 * beyond + 1):
        mean = planes[i : i + n].mean(axis=0, dtype=np.float64)
        slabs[(i - beyond) * step] = mean, np.logical_and.reduce(covered[i : i + n])
    return {depth: slab for depth, slab in slabs.items() if depth == 0 or slab[1].mean() >= _LEAST_COVERED}


def _affine_of(image: Instance) -> FloatArray:
    return slice_affine(image.image_position or (), image.image_orientation or (), image.pixel_spacing or ())
