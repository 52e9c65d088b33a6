"""Training patches: a small CT volume round one lesion whose mask is known.

Two sources. :func:`generated_sample` puts a drawn lesion into a background; :func:`augmented_real` deforms a real one.
All lengths are millimetres, arrays are (slice, row, column), and the same generator state gives the same bits.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from segmentation.phantoms.canvas import FloatArray, Vec
from segmentation.phantoms.patch_backgrounds import (
    Background,
    Backgrounds,
    Place,
    Tissue,
    generated_backgrounds,
    load_backgrounds,
    plain_volume,
)
from segmentation.phantoms.patch_deformation import augmented_volume
from segmentation.phantoms.patch_grids import Grid, grid_for
from segmentation.phantoms.patch_lesions import lesion_hu, paint_lesion
from segmentation.phantoms.patch_outlines import Outline, random_outline
from segmentation.phantoms.patch_scenery import add_distractors, add_noise
from segmentation.phantoms.types import PhantomError
from segmentation.types import Volume

__all__ = ["Background", "Backgrounds", "Patch", "augmented_real", "generated_sample", "load_backgrounds"]

BoolArray = NDArray[np.bool_]

_SLACK = 1.1
"""How much larger a drawn lesion may come out than it was asked for."""
_ZOOM = 1.35
"""Most that a background is shrunk or enlarged by."""
_SIMPLE_SHARE = 0.25
_ATTEMPTS = 40
_DIAMETER_MM = (5.0, 160.0)
_LARGEST_MM = {Tissue.LUNG: 120.0, Tissue.FAT: 160.0, Tissue.SOFT: 160.0, Tissue.BONE: 90.0}
_SHARES = {Tissue.LUNG: 0.22, Tissue.FAT: 0.2, Tissue.SOFT: 0.4, Tissue.BONE: 0.18}
_LEAST_VOXELS = 14


@dataclass(frozen=True, slots=True, eq=False)
class Patch:
    """A volume round one lesion.

    Parameters
    ----------
    truth
        (slice, row, column) boolean: voxels that the lesion fills by more than half. One connected piece if generated.

    """

    volume: Volume
    truth: BoolArray


def generated_sample(rng: np.random.Generator, backgrounds: Backgrounds | None = None) -> Patch:
    """Draw one lesion into a background.

    Three in four are as hard as we can make them (irregular shapes, neighbours of the same density, borders with no
    contrast); one in four is a smooth ellipsoid of one density, from which a network learns the task first.

    Parameters
    ----------
    backgrounds
        From :func:`load_backgrounds`; None takes generated bodies and limbs.

    Returns
    -------
    Patch of at most 52 x 112 x 112 voxels, pixels of 0.6 to 1 mm (more round lesions above about 40 mm), slices of 1 to
    5 mm; longest diameter 5 to 160 mm, log-uniform up to what the tissue can hold.

    Raises
    ------
    PhantomError
        If the backgrounds have no room for a lesion.

    """
    source = generated_backgrounds() if backgrounds is None else backgrounds
    for attempt in range(_ATTEMPTS):
        simple = attempt > _ATTEMPTS // 2 or rng.random() < _SIMPLE_SHARE
        patch = _attempt(rng, source, simple=simple)
        if patch is not None:
            return patch
    raise PhantomError(f"no room for a lesion in {len(source)} backgrounds: use larger or more of them")


def _attempt(rng: np.random.Generator, source: Backgrounds, *, simple: bool) -> Patch | None:
    """Draw one lesion; None where it finds no place, or too little of it is left between its neighbours."""
    tissue = tuple(_SHARES)[int(rng.choice(len(_SHARES), p=tuple(_SHARES.values())))]
    diameter = float(np.exp(rng.uniform(*np.log((_DIAMETER_MM[0], _LARGEST_MM[tissue])))))
    outline = random_outline(rng, tissue, diameter, simple=simple)
    reach = 0.5 * float(np.hypot(outline.extent_mm, outline.height_mm))
    place = source.place(rng, tissue, diameter, clear_mm=_SLACK * _ZOOM * reach)
    if place is None:
        return None
    grid = grid_for(
        extent_mm=_SLACK * outline.extent_mm,
        height_mm=_SLACK * outline.height_mm,
        diameter_mm=_SLACK * outline.diameter_mm,
        pixel_mm=float(rng.uniform(0.6, 1.0)),
        thickness_mm=float(np.exp(rng.uniform(0, np.log(5)))),
    )
    axes = grid.axes()
    hu, source_mm = _background(rng, source, place, grid, outline)
    base_hu = lesion_hu(rng, hu, tissue)
    if not simple:
        add_distractors(rng, hu, axes, outline=outline, tissue=tissue, base_hu=base_hu)
    # As blurred as its background: a sharp lesion in a coarse background would give itself away.
    z, y, x = (0.4 * min(max(b / v - 1, 0), 4) for b, v in zip(source_mm, grid.spacing_mm, strict=True))
    blur = (z, y + 0.35, x + 0.35)
    truth = paint_lesion(rng, hu, axes, outline, tissue, base_hu=base_hu, blur=blur, simple=simple)
    if truth is None or np.count_nonzero(truth) < _LEAST_VOXELS:
        return None
    add_noise(rng, hu, grid.spacing_mm)
    return Patch(plain_volume(hu, grid.spacing_mm), truth)


def _background(
    rng: np.random.Generator, source: Backgrounds, place: Place, grid: Grid, outline: Outline
) -> tuple[FloatArray, Vec]:
    """Background turned, mirrored, zoomed, and pushed aside by the lesion."""
    z, y, x = grid.axes()
    shift = outline.displacement(z, y, x)
    angle = rng.normal(0, 0.3) if rng.random() < 0.6 else rng.uniform(0, 2 * np.pi)
    zoom = float(np.exp(rng.uniform(np.log(1 / _ZOOM), np.log(_ZOOM))))
    mirror = rng.choice((-1.0, 1.0), 2)
    c, s = float(np.cos(angle) * zoom), float(np.sin(angle) * zoom)
    offsets = np.empty((3, *grid.shape), dtype=np.float32)
    Z, Y, X = z[:, None, None], y[None, :, None], x[None, None, :]
    if shift is not None:
        Z, Y, X = Z * shift, Y * shift, X * shift
    offsets[0] = Z * np.float32(mirror[0] * zoom)
    offsets[1] = c * Y + s * X
    offsets[2] = (c * X - s * Y) * np.float32(mirror[1])
    dz, dy, dx = grid.spacing_mm
    hu, (sz, sy, sx) = source.sample(place, offsets, (dz * zoom, dy * zoom, dx * zoom))
    return hu, (sz / zoom, sy / zoom, sx / zoom)


def augmented_real(rng: np.random.Generator, volume: Volume, truth: BoolArray) -> Patch:
    """Deform a real lesion together with its surroundings.

    Turned (0.25 rad in plane, 0.12 rad out of it), scaled (log-scale 0.15 in all, 0.1 along z, 0.05 in plane),
    mirrored along any axis, bent elastically (0.022 longest diameters), other gain, offset and noise.

    Parameters
    ----------
    truth
        (slice, row, column) of ``volume``, one lesion.

    Returns
    -------
    Patch with the margins of a generated one as far as the scan reaches; corners beyond it are mirrored.

    Raises
    ------
    PhantomError
        If ``truth`` is empty or on another grid.

    """
    hu, mask, spacing_mm = augmented_volume(rng, volume, truth)
    return Patch(plain_volume(hu, spacing_mm), mask)
