"""Voxels that generated lesions are put into: real CTs and generated ones, sampled turned, mirrored and zoomed."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from enum import StrEnum
from functools import cache
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray
from scipy.ndimage import (
    binary_dilation,
    binary_erosion,
    binary_fill_holes,
    distance_transform_edt,
    label,
    map_coordinates,
    uniform_filter,
)

from segmentation.phantoms.body import body_phantom
from segmentation.phantoms.canvas import FloatArray, Vec
from segmentation.phantoms.patch_limbs import limb_volume
from segmentation.phantoms.types import REGIONS, PhantomError
from segmentation.types import Volume

BoolArray = NDArray[np.bool_]

_COARSE_MM = 2.5
"""Voxel size on which places for lesions are looked for."""
_LEAST_CANDIDATES, _MAX_CANDIDATES = 200, 4000
"""Places a tissue needs to count as present in a scan, and that are kept."""
_FAR = 1e6
_AIR_HU = -1000.0


class Tissue(StrEnum):
    """What a lesion grows in."""

    LUNG = "lung"
    FAT = "fat"
    SOFT = "soft"
    BONE = "bone"


_HU_RANGES = {
    Tissue.LUNG: (-945.0, -550.0),
    Tissue.FAT: (-130.0, -55.0),
    Tissue.SOFT: (0.0, 130.0),
    Tissue.BONE: (170.0, 1500.0),
}


@dataclass(frozen=True, slots=True, eq=False)
class Background:
    """A CT to put lesions into.

    Parameters
    ----------
    forbidden
        (slice, row, column) True where a real lesion is: generated ones keep off it. None: nowhere.

    """

    volume: Volume
    forbidden: BoolArray | None = None

    def __post_init__(self) -> None:
        if self.forbidden is not None and self.forbidden.shape != self.volume.voxels.shape:
            raise PhantomError(
                f"forbidden must have the volume's shape {self.volume.voxels.shape}, got {self.forbidden.shape}"
            )


@dataclass(frozen=True, slots=True, eq=False)
class Place:
    """A spot for a lesion: ``centre`` is a (slice, row, column) index into the full volume of scene ``scene``."""

    scene: int
    centre: Vec


@dataclass(frozen=True, slots=True, eq=False)
class _Level:
    """One resolution of a scene: its voxels, their size, and the full-resolution index of voxel (0, 0, 0)."""

    voxels: NDArray[np.int16]
    spacing_mm: Vec
    step: tuple[int, int, int]


@dataclass(frozen=True, slots=True, eq=False)
class _Candidates:
    """Spots within one tissue, as (n, 3) full-resolution indices, and from each the mm to what limits a lesion there.

    That is: the limits of the tissue (of the body, for all but lung), a real lesion, the sides of the scan, its ends.
    """

    centres: FloatArray
    depth_mm: FloatArray
    clear_mm: FloatArray
    side_mm: FloatArray
    end_mm: FloatArray


class Backgrounds:
    """CTs with the places in them where lesions can grow.

    Raises
    ------
    PhantomError
        If there is no item.

    """

    def __init__(self, items: Iterable[Background]) -> None:
        scenes = [_Scene(item) for item in items]
        if not scenes:
            raise PhantomError("no background: give at least one CT")
        self._scenes = scenes

    def __len__(self) -> int:
        return len(self._scenes)

    def place(self, rng: np.random.Generator, tissue: Tissue, diameter_mm: float, *, clear_mm: float) -> Place | None:
        """Draw a spot for a lesion of this size, ``clear_mm`` from every real one; None where none has room."""
        for index in rng.permutation(len(self._scenes)):
            spots = self._scenes[index].candidates.get(tissue)
            if spots is None:
                continue
            wanted = min(0.25 * diameter_mm, float(np.quantile(spots.depth_mm, 0.8)))
            fits = (spots.clear_mm > clear_mm) & (spots.depth_mm >= wanted)
            fits &= (spots.side_mm > 0.8 * diameter_mm) & (spots.end_mm > 0.3 * diameter_mm)
            fitting = np.flatnonzero(fits)
            if len(fitting):
                z, y, x = spots.centres[fitting[int(rng.integers(len(fitting)))]]
                return Place(int(index), (float(z), float(y), float(x)))
        return None

    def sample(self, place: Place, offsets_mm: FloatArray, voxel_mm: Vec) -> tuple[FloatArray, Vec]:
        """Hounsfield units at ``offsets_mm`` from the place.

        Parameters
        ----------
        offsets_mm
            (3, slice, row, column): (z, y, x) millimetres from the place.
        voxel_mm
            Size of the voxels to be filled; the resolution is chosen to suit.

        Returns
        -------
        The (slice, row, column) values, and the voxel size (z, y, x) of the background that they come from. Beside
        the scan is air; beyond its ends the last slice goes on.

        """
        return self._scenes[place.scene].sample(place.centre, offsets_mm, voxel_mm)


class _Scene:
    """One background at several resolutions, and its candidates."""

    def __init__(self, item: Background) -> None:
        spacing = item.volume.spacing_mm
        self._spacing = spacing
        self._levels = _pyramid(item.volume.voxels, spacing)
        self.candidates = _candidates(item, spacing)

    def sample(self, centre: Vec, offsets_mm: FloatArray, voxel_mm: Vec) -> tuple[FloatArray, Vec]:
        level = self._levels[0]
        for other in self._levels[1:]:
            if all(s <= 1.15 * v for s, v in zip(other.spacing_mm, voxel_mm, strict=True)):
                level = other
        coordinates = np.empty_like(offsets_mm)
        for axis in range(3):
            shift = (centre[axis] - (level.step[axis] - 1) / 2) / level.step[axis]
            np.multiply(offsets_mm[axis], np.float32(1 / level.spacing_mm[axis]), out=coordinates[axis])
            coordinates[axis] += np.float32(shift)
        np.clip(coordinates[0], 0, len(level.voxels) - 1, out=coordinates[0])
        values = map_coordinates(level.voxels, coordinates, output=np.float32, order=1, mode="constant", cval=_AIR_HU)
        return values, level.spacing_mm


def _pyramid(voxels: NDArray[np.int16], spacing_mm: Vec) -> list[_Level]:
    """Finest first; means of 2 x 2 pixels and of two slices, so that a coarse patch shows no aliased noise."""
    levels = []
    for in_plane in (1, 2, 4):
        for along in (1, 2):
            step = (along, in_plane, in_plane)
            if in_plane * spacing_mm[1] > 4 or along * spacing_mm[0] > 5:
                continue
            coarse = voxels if step == (1, 1, 1) else np.rint(_block_mean(voxels, step)).astype(np.int16)
            levels.append(
                _Level(coarse, (spacing_mm[0] * along, spacing_mm[1] * in_plane, spacing_mm[2] * in_plane), step)
            )
    return levels or [_Level(voxels, spacing_mm, (1, 1, 1))]


def _block_mean(voxels: NDArray[np.generic], step: tuple[int, int, int]) -> FloatArray:
    """Mean of blocks of ``step`` voxels; what does not fill a block at the far ends is left out."""
    n = [max(size // s, 1) for size, s in zip(voxels.shape, step, strict=True)]
    kept = voxels[tuple(slice(0, count * s) for count, s in zip(n, step, strict=True))]
    blocks = kept.reshape(n[0], -1, n[1], kept.shape[1] // n[1], n[2], kept.shape[2] // n[2])
    mean: FloatArray = blocks.mean(axis=(1, 3, 5), dtype=np.float32)
    return mean


def _candidates(item: Background, spacing_mm: Vec) -> dict[Tissue, _Candidates]:
    """Spots of each tissue, found on a coarse grid."""
    shape = item.volume.voxels.shape
    step = tuple(min(max(int(_COARSE_MM / s), 1), n) for s, n in zip(spacing_mm, shape, strict=True))
    coarse_mm = tuple(s * k for s, k in zip(spacing_mm, step, strict=True))
    hu = uniform_filter(_block_mean(item.volume.voxels, step), 3)
    clear = np.full(hu.shape, _FAR, dtype=np.float32)
    if item.forbidden is not None and item.forbidden.any():
        clear = distance_transform_edt(_block_mean(item.forbidden, step) == 0, sampling=coarse_mm).astype(np.float32)
    solid = _depth(hu > -350, coarse_mm)
    found = {}
    for tissue, (low, high) in _HU_RANGES.items():
        inside = (hu > low) & (hu < high)
        if tissue is Tissue.LUNG:
            inside &= _enclosed(hu)
            depth = _depth(inside, coarse_mm)
        else:
            depth = solid
        index = np.argwhere(inside)
        if len(index) < _LEAST_CANDIDATES:
            continue
        index = index[:: max(len(index) // _MAX_CANDIDATES, 1)]
        key = tuple(index.T)
        centres = (index * step + (np.array(step) - 1) / 2).astype(np.float32)
        to_border = np.minimum(centres, np.array(shape, dtype=np.float32) - 1 - centres) * np.array(
            spacing_mm, dtype=np.float32
        )
        side = np.minimum(to_border[:, 1], to_border[:, 2])
        found[tissue] = _Candidates(centres, depth[key], clear[key], side, to_border[:, 0])
    return found


def _enclosed(hu: FloatArray) -> BoolArray:
    """Inside the body on each slice: no skin, no foam of the table, both of which can pass for lung by their mean."""
    pieces, n = label(binary_erosion(hu > -350))
    if n == 0:
        return np.zeros(hu.shape, dtype=np.bool_)
    body = binary_dilation(pieces == 1 + int(np.argmax(np.bincount(pieces.ravel())[1:])))
    return np.stack([binary_fill_holes(section) & ~section for section in body])


def _depth(inside: BoolArray, spacing_mm: Vec) -> FloatArray:
    """Millimetres to the nearest voxel outside; the ends of the scan are no limit."""
    if inside.all():
        return np.full(inside.shape, _FAR, dtype=np.float32)
    depth: FloatArray = distance_transform_edt(inside, sampling=spacing_mm).astype(np.float32)
    return depth


def load_backgrounds(
    folders: Sequence[Path], items: Iterable[Background] = (), *, generated: bool = True
) -> Backgrounds:
    """Read every CT without lesions from folders of NIfTI files; add ``items``, and bodies and limbs if ``generated``.

    A NIfTI image is taken for a CT if it is three-dimensional, has one number a voxel and shows air; label maps and
    pictures beside it are passed over.

    Raises
    ------
    PhantomError
        If a folder holds no CT.

    """
    found: list[Background] = []
    for folder in folders:
        volumes = [volume for path in sorted(folder.rglob("*.nii*")) if (volume := _read_ct(path)) is not None]
        if not volumes:
            raise PhantomError(f"no NIfTI CT in the folder {folder.name!r}")
        found += [Background(volume) for volume in volumes]
    return Backgrounds([*found, *items, *(_generated() if generated else ())])


def _read_ct(path: Path) -> Volume | None:
    """Read one NIfTI file with slice 0 at the feet, rows to the back, columns to the left; None if it is no CT."""
    import nibabel as nib

    image: Any = nib.load(path)
    if len(image.shape) != 3 or min(image.shape) < 8 or image.get_data_dtype().names is not None:
        return None
    image = nib.as_closest_canonical(image)
    hu = np.asarray(image.dataobj, dtype=np.float32).transpose(2, 1, 0)[:, ::-1, ::-1]
    if np.mean(hu < -500) < 0.001:
        return None
    x_mm, y_mm, z_mm = (float(v) for v in image.header.get_zooms())
    return plain_volume(hu, (z_mm, y_mm, x_mm))


def plain_volume(hu: FloatArray, spacing_mm: Vec) -> Volume:
    """Round (slice, row, column) Hounsfield units into an axial volume of no patient."""
    affine = np.zeros((4, 4))
    affine[2, 0], affine[1, 1], affine[0, 2] = spacing_mm
    affine[3, 3] = 1
    voxels = np.rint(np.clip(hu, -1024, 3071)).astype(np.int16)
    return Volume(voxels, affine, "2.25.1", "2.25.2", tuple(f"2.25.2.{i}" for i in range(len(voxels))))


@cache
def generated_backgrounds() -> Backgrounds:
    """Backgrounds without any real CT: generated bodies and limbs, the same every time."""
    return Backgrounds(_generated())


@cache
def _generated() -> tuple[Background, ...]:
    rng = np.random.default_rng(0)
    bodies = [
        body_phantom(rng, [], region=REGIONS[i % 3], n_slices=64, spacing_mm=(4.0, 1.6, 1.6), matrix=256, noise_hu=0.0)
        for i in range(4)
    ]
    limbs = [plain_volume(*limb_volume(rng)) for _ in range(10)]
    return (*(Background(body.volume) for body in bodies), *(Background(limb) for limb in limbs))
