"""Lesions into the finished image: fitted to the wanted diameter, cut by their surroundings, with an exact mask."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from math import ceil

import numpy as np
from numpy.typing import NDArray
from scipy.ndimage import label

from segmentation.geometry import apply_affine
from segmentation.metrics import longest_diameter_mm
from segmentation.phantoms.canvas import FloatArray, Vec, linear_weights, separable
from segmentation.phantoms.places import Room, Taken, describe, find_centres, find_room
from segmentation.phantoms.shapes import Shape, random_shape, tissue_hu
from segmentation.phantoms.torso import Build
from segmentation.phantoms.types import LesionKind, LesionSpec, Organ, PhantomError, PhantomLesion, Side, catalogue

TOLERANCE = 0.15
"""Largest relative error of a lesion's longest diameter."""
_GOOD_ENOUGH = 0.05
_MAX_PLACES = 8
_MAX_SHAPES = 3


@dataclass(frozen=True, slots=True, eq=False)
class Grid:
    """Voxel grid of the finished volume.

    Parameters
    ----------
    origin_mm
        Centre of voxel (0, 0, 0) in real mm (z, y, x) of the drawing frame.
    scale
        Real mm per drawing mm, along z and in plane.
    factor
        Fine pixels per coarse pixel in plane.

    """

    shape: tuple[int, int, int]
    spacing_mm: Vec
    origin_mm: Vec
    scale: tuple[float, float]
    factor: int

    def fine_axis(self, axis: int, start: int, stop: int, parts: int) -> FloatArray:
        """Centres of ``parts`` equal pieces of each voxel from ``start`` to ``stop``, real mm."""
        index = (np.arange((stop - start) * parts) + 0.5) / parts - 0.5 + start
        return (self.origin_mm[axis] + index * self.spacing_mm[axis]).astype(np.float32)

    def around(self, centre: Vec, half_mm: Vec) -> tuple[slice, slice, slice]:
        """Index box of voxels within ``half_mm`` of ``centre``, clipped to the volume."""
        parts = []
        for c, h, o, s, n in zip(centre, half_mm, self.origin_mm, self.spacing_mm, self.shape, strict=True):
            start = min(max(int(np.floor((c - h - o) / s)), 0), n - 1)
            stop = max(min(ceil((c + h - o) / s) + 1, n), start + 1)
            parts.append(slice(start, stop))
        return parts[0], parts[1], parts[2]


@dataclass(frozen=True, slots=True, eq=False)
class _Drawn:
    """A lesion on its box of the fine grid: part filled of each voxel, and where."""

    box: tuple[slice, slice, slice]
    part: FloatArray
    centre: Vec
    radius_mm: float

    @property
    def mask(self) -> NDArray[np.bool_]:
        result: NDArray[np.bool_] = self.part > 0.5
        return result


@dataclass(slots=True, eq=False)
class LesionPainter:
    """Puts lesions one after another into ``voxels``, never over each other.

    Parameters
    ----------
    voxels
        (slice, row, column) float32 Hounsfield units, changed in place.
    occupied
        (slice, row, column) True where a lesion is, or next to it.

    """

    build: Build
    grid: Grid
    affine: NDArray[np.float64]
    voxels: FloatArray
    occupied: NDArray[np.bool_]
    taken: list[Taken]

    def add(self, spec: LesionSpec, rng: np.random.Generator) -> PhantomLesion:
        """Place and paint one lesion.

        Raises
        ------
        PhantomError
            If the scan does not show the organ, or nowhere in it is room for this lesion.

        """
        side = spec.side
        if side is None and catalogue()[spec.organ].paired:
            side = str(rng.choice([Side.LEFT.value, Side.RIGHT.value]))
        room = find_room(self.build, spec.organ, side, self.grid.scale)
        tried = 0
        for _ in range(_MAX_SHAPES):
            shape = random_shape(rng, spec)
            reach = (shape.reach[0] * spec.diameter_mm / 2, shape.reach[1] * spec.diameter_mm / 2)
            centres = find_centres(
                self.build, room, spec, rng, scale=self.grid.scale, reach_mm=reach, taken=self.taken, n=_MAX_PLACES
            )
            tried += len(centres)
            for centre in centres:
                drawn = self._fit(shape, room, spec, self._on_slice(centre, shape, spec, rng))
                if drawn is not None and self._is_free(drawn, spec):
                    return self._commit(drawn, shape, room, spec, rng)
        raise PhantomError(
            f"no room for a {spec.diameter_mm:.0f} mm {spec.kind.value} lesion in {spec.organ.value} "
            f"({tried} places tried): ask for fewer or smaller lesions, or more slices"
        )

    def _on_slice(self, centre: Vec, shape: Shape, spec: LesionSpec, rng: np.random.Generator) -> Vec:
        """Move a lesion thinner than two slices near the middle of one; half of it in each of two would be in none."""
        dz = self.grid.spacing_mm[0]
        jitter = 0.5 if shape.axes[0] * spec.diameter_mm > 2 * dz else 0.08
        index = round((centre[0] - self.grid.origin_mm[0]) / dz) + rng.uniform(-jitter, jitter)
        return self.grid.origin_mm[0] + float(index) * dz, centre[1], centre[2]

    def _fit(self, shape: Shape, room: Room, spec: LesionSpec, centre: Vec) -> _Drawn | None:
        """Scale the shape until its longest in-plane diameter is the wanted one; None if it never is."""
        radius, before = spec.diameter_mm / 2, -2.0
        for _ in range(6):
            error, better = self._error(self._draw(shape, room, centre, radius, fast=True), spec, radius)
            if abs(error) < _GOOD_ENOUGH:
                break
            walled_in = -1 < error < min(before + 0.02, 0) and radius > 0.75 * spec.diameter_mm
            if walled_in or better > 1.1 * spec.diameter_mm:
                return None
            radius, before = better, error
        for _ in range(2):
            drawn = self._draw(shape, room, centre, radius, fast=False)
            error, radius = self._error(drawn, spec, radius)
            if abs(error) < 0.6 * TOLERANCE:
                return drawn
        return None

    def _error(self, drawn: _Drawn, spec: LesionSpec, radius: float) -> tuple[float, float]:
        """Relative error of the diameter, and a better radius."""
        found = longest_diameter_mm(drawn.mask, self.grid.spacing_mm)
        if found <= 0:
            return -1.0, radius * 1.35
        return found / spec.diameter_mm - 1, radius * min(max(spec.diameter_mm / found, 0.6), 1.5)

    def _is_free(self, drawn: _Drawn, spec: LesionSpec) -> bool:
        mask = drawn.mask
        if self.occupied[drawn.box][drawn.part > 0.02].any():
            return False
        if spec.side is None:
            return True
        columns = np.flatnonzero(mask.any(axis=(0, 1))) + drawn.box[2].start
        x = self.grid.origin_mm[2] + columns * self.grid.spacing_mm[2]
        return float(x.min()) > 0 if spec.side == Side.LEFT else float(x.max()) < 0

    def _draw(self, shape: Shape, room: Room, centre: Vec, radius: float, *, fast: bool) -> _Drawn:
        """Part of each voxel that the shape fills at this size, without what its surroundings cut off."""
        along, across = shape.reach[0] * radius, shape.reach[1] * radius
        box = self.grid.around(centre, (along, across, across))
        parts = _parts(box, self.grid.spacing_mm, fast=fast)
        axes = self._axes(box, parts)
        level = shape.level(*((axis - c) / radius for axis, c in zip(axes, centre, strict=True))) * radius
        np.minimum(level, self._bounds(room, axes) + room.give * radius + 0.3, out=level)
        fog = max(shape.softness * radius, self.grid.spacing_mm[1] / parts[1])
        part = _block_mean(np.clip(level / fog + 0.5, 0, 1), parts)
        return _Drawn(box, _largest_piece(part), centre, radius)

    def _axes(
        self, box: tuple[slice, slice, slice], parts: tuple[int, int, int]
    ) -> tuple[FloatArray, FloatArray, FloatArray]:
        z, y, x = (self.grid.fine_axis(i, box[i].start, box[i].stop, parts[i]) for i in range(3))
        return z, y, x

    def _bounds(self, room: Room, axes: Sequence[FloatArray]) -> FloatArray:
        """Level of what the lesion may fill, interpolated from the coarse canvas."""
        canvas, scale = self.build.canvas, self.grid.scale
        weights = []
        for i, (coarse, fine) in enumerate(zip((canvas.z, canvas.y, canvas.x), axes, strict=True)):
            step = float(coarse[1] - coarse[0])
            factor = scale[0] if i == 0 else scale[1]
            index = (fine / factor - float(coarse[0])) / step - room.box[i].start
            weights.append(linear_weights(index.astype(np.float32), room.bounds.shape[i]))
        # Only the knots that are used: the matrices are nearly empty.
        used = [np.flatnonzero(w.any(axis=0)) for w in weights]
        crop = room.bounds[np.ix_(*used)]
        return separable(crop, [w[:, u] for w, u in zip(weights, used, strict=True)])

    def _commit(
        self, drawn: _Drawn, shape: Shape, room: Room, spec: LesionSpec, rng: np.random.Generator
    ) -> PhantomLesion:
        target = self.voxels[drawn.box]
        hu = self._inside(drawn, shape, tissue_hu(rng, spec, self._background(room)))
        part, weighted = _blur(drawn.part), _blur(drawn.part * hu)
        if spec.kind is LesionKind.GROUND_GLASS:
            # Vessels stay visible through ground glass.
            weighted = np.maximum(weighted, part * np.minimum(target, 150))
        target *= 1 - part
        target += weighted
        mask = drawn.mask
        self.occupied[drawn.box] |= _grown(drawn.part > 0.02)
        extent = max(shape.reach[1], shape.reach[0]) * drawn.radius_mm * 0.85
        self.taken.append(Taken(drawn.centre, extent))
        return self._describe(spec, mask, drawn.box)

    def _inside(self, drawn: _Drawn, shape: Shape, base: float) -> FloatArray:
        """Mean Hounsfield units of the lesion's own tissue in each voxel."""
        parts = _parts(drawn.box, self.grid.spacing_mm, fast=True)
        axes = self._axes(drawn.box, parts)
        unit = tuple((axis - c) / drawn.radius_mm for axis, c in zip(axes, drawn.centre, strict=True))
        return _block_mean(shape.hounsfield((unit[0], unit[1], unit[2]), shape.level(*unit), base), parts)

    def _background(self, room: Room) -> float:
        inside = room.home > 2
        return float(np.median(self.build.canvas.hu[room.box][inside])) if inside.any() else 0.0

    def _describe(self, spec: LesionSpec, mask: NDArray[np.bool_], box: tuple[slice, slice, slice]) -> PhantomLesion:
        index = np.argwhere(mask)
        low, high = index.min(axis=0), index.max(axis=0) + 1
        tight = np.ascontiguousarray(mask[tuple(slice(a, b) for a, b in zip(low, high, strict=True))])
        start = np.array([part.start for part in box])
        middle = index.mean(axis=0) + start
        lps = apply_affine(self.affine, middle)
        real = np.array(self.grid.origin_mm) + middle * np.array(self.grid.spacing_mm)
        kz, s = self.grid.scale
        offset = low + start
        return PhantomLesion(
            spec=spec,
            mask=tight,
            offset=(int(offset[0]), int(offset[1]), int(offset[2])),
            centre_lps_mm=(float(lps[0]), float(lps[1]), float(lps[2])),
            location=describe(Organ(spec.organ), (float(real[0] / kz), float(real[1] / s), float(real[2] / s))),
            longest_diameter_mm=longest_diameter_mm(tight, self.grid.spacing_mm),
        )


def _parts(box: tuple[slice, slice, slice], spacing_mm: Vec, *, fast: bool) -> tuple[int, int, int]:
    """Pieces a voxel is divided into: about 1.2 mm along z, and 2 or 3 in plane for lesions that are not large."""
    width = max(box[1].stop - box[1].start, box[2].stop - box[2].start)
    along = min(max(ceil(spacing_mm[0] / (2.0 if fast else 1.2)), 1), 5)
    across = 1 if width > 110 or (fast and width > 24) else 2 if width > 24 else 3
    return along, across, across


def _block_mean(values: FloatArray, parts: tuple[int, int, int]) -> FloatArray:
    n = [size // p for size, p in zip(values.shape, parts, strict=True)]
    blocks = values.reshape(n[0], parts[0], n[1], parts[1], n[2], parts[2])
    result: FloatArray = blocks.mean(axis=(1, 3, 5), dtype=np.float32)
    return result


def _largest_piece(part: FloatArray) -> FloatArray:
    """Drop islands that noise or the surroundings cut off: the mask is one piece."""
    pieces, n = label(part > 0.5)
    if n < 2:
        return part
    largest = int(np.argmax(np.bincount(pieces.ravel())[1:])) + 1
    kept = _grown(pieces == largest)
    result: FloatArray = np.where(kept & ((pieces == largest) | (pieces == 0)), part, 0)
    return result


def _grown(mask: NDArray[np.bool_]) -> NDArray[np.bool_]:
    """One voxel wider on every axis, cheaper than a general dilation."""
    result = mask.copy()
    for axis in range(3):
        wider = result.copy()
        ahead, behind = [slice(None)] * 3, [slice(None)] * 3
        ahead[axis], behind[axis] = slice(1, None), slice(None, -1)
        wider[tuple(ahead)] |= result[tuple(behind)]
        wider[tuple(behind)] |= result[tuple(ahead)]
        result = wider
    return result


def _blur(values: FloatArray) -> FloatArray:
    """The scanner's in-plane blur, (1 2 1) / 4 on rows and columns; zero outside the box."""
    for axis in (1, 2):
        pad = [(0, 0)] * 3
        pad[axis] = (1, 1)
        wide = np.pad(values, pad)
        shifts = [[slice(None)] * 3 for _ in range(3)]
        n = values.shape[axis]
        for i, index in enumerate(shifts):
            index[axis] = slice(i, i + n)
        low, mid, high = (wide[tuple(index)] for index in shifts)
        values = 0.25 * low + 0.5 * mid + 0.25 * high
    return values
