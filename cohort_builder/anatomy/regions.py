"""Coarse anatomy of a CT from Hounsfield units and shape alone: body, lungs, bone, gas, and where a place lies to them.

Everything works on a thinned copy of about 5 x 3 x 3 mm, turned so that its axes are (feet to head, front to back,
right to left). Nothing here names an organ that has no Hounsfield range or border of its own: a liver is "abdomen".
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from segmentation.geometry import FloatArray, apply_affine, crop_affine
from segmentation.types import Volume

BoolArray = NDArray[np.bool_]

SLICE_MM, PIXEL_MM = 5.0, 3.0
"""The grid that is worked on: slices are picked, pixels averaged."""

_AIR_HU, _PURE_AIR_HU, _TISSUE_HU, _BONE_HU, _CORTEX_HU = -450, -945, -250, 140, 300
_LUNG_HU = (-940, -620)
_TABLE_MM, _AIR_ROUND = 6.0, 4
_LEAST_LUNG_ML, _WHOLE_LUNG_ML = 8.0, 250.0
_LUNG_SLICE_MM2, _AIRWAY_MM2 = 400.0, 800.0
_BONE_ML, _MARROW_MM2 = 4.0, 1500.0
_FLAT: BoolArray = np.array([[[0] * 3] * 3, [[0, 1, 0], [1, 1, 1], [0, 1, 0]], [[0] * 3] * 3], dtype=np.bool_)


@dataclass(frozen=True, slots=True)
class LungSpan:
    """Heights of the lungs, LPS z in mm, of the centres of their lowest and highest slice.

    ``low_seen`` and ``high_seen`` say whether the scan goes beyond that end; ``widest_mm`` is the height at which the
    lungs are widest: the diaphragm and what is under it reach up to about there.
    """

    low_mm: float
    high_mm: float
    widest_mm: float
    low_seen: bool
    high_seen: bool

    def level(self, height_mm: float) -> float | None:
        """Height relative to the lungs, 0 at their lowest slice and 1 at their highest; None unless both are seen."""
        if not (self.low_seen and self.high_seen) or self.high_mm - self.low_mm < _LEAST_LUNG_HEIGHT_MM:
            return None
        return (height_mm - self.low_mm) / (self.high_mm - self.low_mm)


_LEAST_LUNG_HEIGHT_MM = 100.0


@dataclass(frozen=True, slots=True, eq=False)
class BodyMap:
    """What is seen on the thinned copy. Arrays are (feet to head, front to back, right to left).

    Parameters
    ----------
    hounsfield
        int16.
    body
        Inside the skin, lungs and gas included; without the table.
    lung
        Aerated lung with the vessels and small nodules in it, without the large airways.
    bone
        Bone with its marrow.
    gas
        Gas in the body that is not in the lungs.
    spacing_mm
        Along the three axes.
    to_index
        (4, 4), LPS mm to index.
    lungs
        None where none are seen.

    """

    hounsfield: NDArray[np.int16]
    body: BoolArray
    lung: BoolArray
    bone: BoolArray
    gas: BoolArray
    spacing_mm: FloatArray
    to_index: FloatArray
    lungs: LungSpan | None

    def index_of(self, points_lps_mm: FloatArray) -> NDArray[np.intp]:
        """(..., 3) LPS mm to the index of the nearest voxel, which may lie outside."""
        return np.rint(apply_affine(self.to_index, points_lps_mm)).astype(np.intp)


def read_body(volume: Volume) -> BodyMap:
    """Find body, lungs, bone and gas. Any orientation; takes about 0.1 s for a chest and holds about 10 MB."""
    hounsfield, affine = _upright(*thinned(volume.voxels, volume.affine))
    spacing = np.linalg.norm(affine[:3, :3], axis=0)
    tissue = _largest_tissue(hounsfield, spacing)
    box = _box_round(tissue)
    hounsfield, tissue, affine = hounsfield[box], tissue[box], crop_affine(affine, [part.start for part in box])
    outside = _outside_air(hounsfield)
    lung = _lungs(hounsfield, (hounsfield < _AIR_HU) & ~outside, tissue, spacing)
    body = _filled(tissue | lung)
    heights = _heights(affine, hounsfield.shape)
    airless = _without_airways(lung, hounsfield, spacing)
    return BodyMap(
        hounsfield=hounsfield,
        body=body,
        lung=_closed(airless, spacing, 7.0),
        bone=_bones(hounsfield, tissue, spacing),
        gas=(hounsfield < _AIR_HU) & body & ~lung,
        spacing_mm=spacing,
        to_index=np.asarray(np.linalg.inv(affine), dtype=np.float64),
        lungs=_span(airless, heights, spacing),
    )


def thinned(voxels: NDArray[np.int16], affine: FloatArray) -> tuple[NDArray[np.int16], FloatArray]:
    """Pick slices and average pixels to a grid no finer than needed; padding counts as air.

    Parameters
    ----------
    voxels
        (slice, row, column) HU.
    affine
        Index to LPS mm.

    Returns
    -------
    The same where it is coarse enough already, and its affine.

    """
    spacing = np.linalg.norm(affine[:3, :3], axis=0)
    step = slice_step(float(spacing[0]))
    blocks = [int(max(1, PIXEL_MM // length)) for length in spacing[1:]]
    picked = voxels[::step]
    averaged = np.stack([averaged_pixels(image, blocks) for image in picked])
    return averaged, thinned_affine(affine, step, blocks)


def slice_step(spacing_mm: float) -> int:
    """Every how many slices of this spacing are worth looking at."""
    return max(1, int(SLICE_MM / spacing_mm + 1e-3))


def pixel_blocks(pixel_spacing_mm: Sequence[float]) -> list[int]:
    """How many rows and columns are averaged into one."""
    return [int(max(1, PIXEL_MM // length)) for length in pixel_spacing_mm]


def averaged_pixels(image: NDArray[np.int16], blocks: Sequence[int]) -> NDArray[np.int16]:
    """Mean over blocks of (rows, columns) of one slice; an incomplete block at the end is left out."""
    rows, columns = (length // block for length, block in zip(image.shape, blocks, strict=True))
    whole = np.maximum(image[: rows * blocks[0], : columns * blocks[1]], -1024)
    means = whole.reshape(rows, blocks[0], columns, blocks[1]).mean(axis=(1, 3), dtype=np.float32)
    result: NDArray[np.int16] = np.rint(means).astype(np.int16)
    return result


def thinned_affine(affine: FloatArray, step: int, blocks: Sequence[int]) -> FloatArray:
    """Affine of a stack of which each ``step``-th slice is kept and ``blocks`` of pixels are averaged."""
    scale = np.array([step, *blocks], dtype=np.float64)
    result = affine.copy()
    result[:3, :3] = affine[:3, :3] * scale
    result[:3, 3] = apply_affine(affine, [0.0, (blocks[0] - 1) / 2, (blocks[1] - 1) / 2])
    return result


def _upright(voxels: NDArray[np.int16], affine: FloatArray) -> tuple[NDArray[np.int16], FloatArray]:
    """Turn to (feet to head, front to back, right to left) by exchanging and reversing axes; nothing is resampled."""
    cosines = affine[:3, :3] / np.linalg.norm(affine[:3, :3], axis=0)
    axes: list[int] = []
    for direction in (2, 1, 0):  # LPS z, y, x
        free = [axis for axis in range(3) if axis not in axes]
        axes.append(max(free, key=lambda axis: abs(float(cosines[direction, axis]))))
    turned = voxels.transpose(axes)
    result = affine.copy()
    result[:3, :3] = affine[:3, axes]
    for new, direction in enumerate((2, 1, 0)):
        if result[direction, new] < 0:
            result[:3, 3] += result[:3, new] * (turned.shape[new] - 1)
            result[:3, new] *= -1
            turned = np.flip(turned, new)
    return np.ascontiguousarray(turned), result


def _heights(affine: FloatArray, shape: tuple[int, ...]) -> FloatArray:
    """LPS z of the middle of each slice."""
    middle = [(length - 1) / 2 for length in shape[1:]]
    points = np.column_stack([np.arange(shape[0]), np.tile(middle, (shape[0], 1))])
    result: FloatArray = apply_affine(affine, points)[:, 2]
    return result


def _disc(radius_mm: float, spacing: FloatArray, *, through: bool = False) -> BoolArray:
    """Structuring element of a disc in the slice, or of a ball where slices are near enough."""
    reach = np.maximum(np.floor(radius_mm / spacing + 1e-6), (0, 1, 1)).astype(int)
    if not through:
        reach[0] = 0
    grid = np.meshgrid(*(np.arange(-n, n + 1) for n in reach), indexing="ij")
    squares = sum((axis * step) ** 2 for axis, step in zip(grid, spacing, strict=True))
    result: BoolArray = np.asarray(squares <= max(radius_mm, float(spacing[1:].max())) ** 2 + 1e-6)
    return result


def _closed(mask: BoolArray, spacing: FloatArray, radius_mm: float) -> BoolArray:
    """Close gaps in the slice; the border neither fills nor empties."""
    from scipy import ndimage

    element = _disc(radius_mm, spacing)
    pad = [(n // 2, n // 2) for n in element.shape]
    padded = np.pad(mask, pad, mode="edge")
    closed = ndimage.binary_closing(padded, element)
    inner = tuple(slice(low, low + length) for (low, _), length in zip(pad, mask.shape, strict=True))
    result: BoolArray = closed[inner]
    return result


def _filled(mask: BoolArray) -> BoolArray:
    from scipy import ndimage

    return np.stack([ndimage.binary_fill_holes(one) for one in mask])


def _millilitres(counts: NDArray[np.intp], spacing: FloatArray) -> FloatArray:
    return np.asarray(counts * float(spacing.prod()) / 1000, dtype=np.float64)


def _outside_air(hounsfield: NDArray[np.int16]) -> BoolArray:
    """Air round the body: clean air that reaches the sides of the image, and what the border of a voxel blurs."""
    from scipy import ndimage

    pieces, count = ndimage.label(hounsfield < _PURE_AIR_HU)
    rim = np.zeros(count + 1, dtype=bool)
    for side in (pieces[:, 0], pieces[:, -1], pieces[:, :, 0], pieces[:, :, -1]):
        rim[np.unique(side)] = True
    rim[0] = False
    around = ndimage.generate_binary_structure(3, 3)
    around[0] = around[2] = False
    result: BoolArray = ndimage.binary_dilation(rim[pieces], around)
    return result


def _largest_tissue(hounsfield: NDArray[np.int16], spacing: FloatArray) -> BoolArray:
    """Soft tissue and bone of the body: the largest piece once table, lines and blankets are cut off."""
    from scipy import ndimage

    tissue = hounsfield > _TISSUE_HU
    element = _disc(_TABLE_MM / 2, spacing)
    pad = [(n // 2, n // 2) for n in element.shape]
    opened = ndimage.binary_opening(np.pad(tissue, pad, mode="edge"), element)
    inner = tuple(slice(low, low + length) for (low, _), length in zip(pad, tissue.shape, strict=True))
    pieces, count = ndimage.label(opened[inner])
    if count == 0:
        return np.zeros_like(tissue)
    sizes = np.bincount(pieces.ravel())
    sizes[0] = 0
    body = ndimage.binary_dilation(pieces == sizes.argmax(), element)
    result: BoolArray = body & tissue
    return result


def _box_round(tissue: BoolArray) -> tuple[slice, ...]:
    """All slices, and of rows and columns those of the body with some air round it: the rest costs time."""
    parts = [slice(0, len(tissue))]
    for axis in (1, 2):
        shown = np.flatnonzero(tissue.any(axis=tuple(other for other in range(3) if other != axis)))
        ends = (shown[0] - _AIR_ROUND, shown[-1] + _AIR_ROUND + 1) if len(shown) else (0, tissue.shape[axis])
        parts.append(slice(max(int(ends[0]), 0), int(ends[1])))
    return tuple(parts)


def _lungs(hounsfield: NDArray[np.int16], air: BoolArray, tissue: BoolArray, spacing: FloatArray) -> BoolArray:
    """Pieces of inner air that are lung: mostly between clean air and tissue in HU, and enclosed or lined by the body.

    What is smaller than a lung must go on beyond the scan, as the bases at the top of an abdomen do.
    """
    from scipy import ndimage

    pieces, count = ndimage.label(air)
    volumes = _millilitres(np.bincount(pieces.ravel(), minlength=count + 1), spacing)
    boxes = ndimage.find_objects(pieces)
    inside = _filled(tissue)
    lung = np.zeros_like(air)
    for number in np.flatnonzero(volumes >= _LEAST_LUNG_ML):
        if number == 0:
            continue
        box = tuple(slice(max(part.start - 1, 0), part.stop + 1) for part in boxes[number - 1])
        piece = pieces[box] == number
        values = hounsfield[box][piece]
        typical = float(((values > _LUNG_HU[0]) & (values < _LUNG_HU[1])).mean())
        whole = volumes[number] >= _WHOLE_LUNG_ML
        cut = any(
            part.start == 0 or part.stop == length for part, length in zip(boxes[number - 1], air.shape, strict=True)
        )
        whole_piece = _closed(piece, spacing, 7.0)  # without its vessels, which are no lining
        lining = ndimage.binary_dilation(whole_piece) & ~whole_piece
        enclosed = inside[box][piece].mean() >= 0.7 or (lining.any() and tissue[box][lining].mean() >= 0.6)
        if typical >= (0.35 if whole else 0.6) and (whole or cut) and enclosed:
            lung[box] |= piece
    return lung


def _without_airways(lung: BoolArray, hounsfield: NDArray[np.int16], spacing: FloatArray) -> BoolArray:
    """Take the trachea and main bronchi out: small clean holes on a slice."""
    from scipy import ndimage

    pieces, count = ndimage.label(lung & (hounsfield < _PURE_AIR_HU + 25), _FLAT)
    areas = np.bincount(pieces.ravel(), minlength=count + 1) * float(spacing[1] * spacing[2])
    airway = (areas > 60) & (areas < _AIRWAY_MM2)
    airway[0] = False
    found = ndimage.binary_dilation(airway[pieces], _FLAT)
    result: BoolArray = lung & ~found
    return result


def _span(lung: BoolArray, heights: FloatArray, spacing: FloatArray) -> LungSpan | None:
    """Lowest and highest slice of the longest run of slices that show lung."""
    areas = lung.sum(axis=(1, 2)) * float(spacing[1] * spacing[2])
    shown = np.flatnonzero(areas >= _LUNG_SLICE_MM2)
    if not len(shown):
        return None
    runs = np.split(shown, np.flatnonzero(np.diff(shown) > 1) + 1)
    run = max(runs, key=len)
    low, high = int(run[0]), int(run[-1])
    widest = low + int(areas[low : high + 1].argmax())
    return LungSpan(
        low_mm=float(heights[low]),
        high_mm=float(heights[high]),
        widest_mm=float(heights[widest]),
        low_seen=low > 0,
        high_seen=high < len(heights) - 1,
    )


def _bones(hounsfield: NDArray[np.int16], tissue: BoolArray, spacing: FloatArray) -> BoolArray:
    """Bone: dense, with a cortex, and no small island, its marrow filled."""
    from scipy import ndimage

    dense = tissue & (hounsfield > _BONE_HU)
    pieces, count = ndimage.label(dense & ~_contrast(hounsfield, dense, spacing))
    counts = np.bincount(pieces.ravel(), minlength=count + 1)
    cortex = np.bincount(pieces[hounsfield > _CORTEX_HU], minlength=count + 1)
    keep = (_millilitres(counts, spacing) >= _BONE_ML) & (cortex >= 0.15 * counts)
    keep[0] = False
    closed = _closed(keep[pieces], spacing, 7.0)
    holes, count = ndimage.label(_filled(closed) & ~closed, _FLAT)
    areas = np.bincount(holes.ravel(), minlength=count + 1) * float(spacing[1] * spacing[2])
    marrow = (areas < _MARROW_MM2) & (np.arange(count + 1) > 0)
    result: BoolArray = closed | marrow[holes]
    return result


def _contrast(hounsfield: NDArray[np.int16], dense: BoolArray, spacing: FloatArray) -> BoolArray:
    """Vessels, kidneys and bowel full of contrast: dense, even and brightest inside. Marrow has a brighter rim."""
    from scipy import ndimage

    size = 2 * np.maximum(1, np.rint(4.0 / spacing).astype(int)) + 1
    values = np.clip(hounsfield, -200, 1200).astype(np.float32)
    mean = ndimage.uniform_filter(values, size)
    spread = np.sqrt(np.maximum(ndimage.uniform_filter(values**2, size) - mean**2, 0))
    even = dense & (spread < np.maximum(45, 0.2 * mean))
    cores, count = ndimage.label(even)
    sizes = np.bincount(cores.ravel(), minlength=count + 1)
    inside = np.bincount(cores.ravel(), weights=values.ravel(), minlength=count + 1) / np.maximum(sizes, 1)
    near = ndimage.maximum_filter(cores, (2 * np.floor(7.0 / spacing).astype(int) + 1).tolist())
    rim = dense & ~even & (near > 0)
    owners = near[rim]
    brighter = np.bincount(owners, weights=values[rim] > inside[owners] + 10, minlength=count + 1)
    is_marrow = brighter >= 0.5 * np.maximum(np.bincount(owners, minlength=count + 1), 1)
    is_marrow[0] = True  # what is no core at all
    result: BoolArray = ndimage.binary_dilation(~is_marrow[cores], _disc(6.0, spacing, through=True)) & dense
    return result
