"""Outlines of generated lesions at any size: which shape, how long, how high, what it wraps, what it pushes aside."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np

from segmentation.phantoms.canvas import FloatArray, SmoothField, Vec
from segmentation.phantoms.patch_backgrounds import Tissue
from segmentation.phantoms.shapes import Shape
from segmentation.phantoms.types import LesionKind

_PROBE, _FINE_PROBE = (np.linspace(-1.9, 1.9, n, dtype=np.float32) for n in (39, 63))
"""Points a axis on which a shape is measured; spicules need more of them."""
_DIRECTIONS = np.stack([f(np.arange(12) * np.pi / 12) for f in (np.sin, np.cos)]).astype(np.float32)
_REACH = 2.2


@dataclass(frozen=True, slots=True, eq=False)
class Outline:
    """Level set of a lesion whose bounding box has its middle at (0, 0, 0) mm.

    Parameters
    ----------
    unit_mm, middle
        Millimetres of the shape's unit, and (z, y, x) of the box's middle in the shape's units.
    diameter_mm
        Longest diameter in a slice.
    extent_mm, height_mm
        Longer side of the bounding box in plane, and its height along z.
    push
        How far the surroundings are pushed aside: 0 (not at all) to below 1.
    tube_mm
        A tube along z that the lesion wraps and spares: (y, x) at z = 0, their change a mm of z, radius. Or None.

    """

    shape: Shape
    unit_mm: float
    middle: Vec
    diameter_mm: float
    extent_mm: float
    height_mm: float
    push: float
    tube_mm: tuple[float, float, float, float, float] | None

    def level_mm(self, z: FloatArray, y: FloatArray, x: FloatArray) -> FloatArray:
        """Level on three 1D axes (mm), positive inside."""
        axes = [a / np.float32(self.unit_mm) + np.float32(m) for a, m in zip((z, y, x), self.middle, strict=True)]
        level = self.shape.level(axes[0], axes[1], axes[2]) * np.float32(self.unit_mm)
        return level if self.tube_mm is None else np.minimum(level, -self.tube_level_mm(z, y, x))

    def tube_level_mm(self, z: FloatArray, y: FloatArray, x: FloatArray) -> FloatArray:
        """Level of the tube on three 1D axes (mm), positive inside.

        Raises
        ------
        ValueError
            If there is none.

        """
        if self.tube_mm is None:
            raise ValueError("this outline wraps no tube")
        y0, x0, dy, dx, radius = (np.float32(v) for v in self.tube_mm)
        Z = z[:, None, None]
        level: FloatArray = radius - np.hypot(y[:, None] - (y0 + dy * Z), x - (x0 + dx * Z))
        return level

    def displacement(self, z: FloatArray, y: FloatArray, x: FloatArray) -> FloatArray | None:
        """Factor of the way from the middle at which the surroundings are looked up; None where nothing is pushed.

        With q the distance in half axes the factor is ``1 - push exp(-q^2 / 1.5)``: tissue planes are laid round the
        mass as a growing tumour lays them, and the map stays one to one.
        """
        if self.push == 0:
            return None
        h, b, a = (np.float32(v * self.unit_mm) for v in self.shape.axes)
        c, s = np.float32(np.cos(self.shape.turn)), np.float32(np.sin(self.shape.turn))
        Z = z[:, None, None]
        Y = y[:, None] - np.float32(self.shape.lean[0]) * Z
        X = x - np.float32(self.shape.lean[1]) * Z
        q2 = ((c * X + s * Y) / a) ** 2 + ((c * Y - s * X) / b) ** 2 + (Z / h) ** 2
        factor: FloatArray = 1 - np.float32(self.push) * np.exp(q2 / np.float32(-1.5))
        return factor


def random_outline(rng: np.random.Generator, tissue: Tissue, diameter_mm: float, *, simple: bool) -> Outline:
    """Draw an outline of this longest diameter."""
    shape = _plain_shape(rng) if simple else _random_shape(rng, tissue, diameter_mm)
    probe = _FINE_PROBE if len(shape.spikes) else _PROBE
    tall = np.float32(max(1.0, (shape.axes[0] + 0.6) / probe[-1]))
    axes = (probe * tall, probe, probe)
    inside = shape.level(*axes) > 0
    if not inside.any():  # worn away between two points of the probe
        return random_outline(rng, tissue, diameter_mm, simple=simple)
    step = float(probe[1] - probe[0])
    ends = []
    for axis in range(3):
        hit = np.flatnonzero(inside.any(axis=tuple(a for a in range(3) if a != axis)))
        ends.append((float(axes[axis][hit[0]]), float(axes[axis][hit[-1]])))
    widest = max(
        float(np.ptp((np.argwhere(section) @ _DIRECTIONS), axis=0).max()) for section in inside if section.any()
    )
    # The surface lies between the last point inside and the first outside.
    unit = diameter_mm / ((widest + 1) * step)
    sides = [(high - low + step) * unit for low, high in ends]
    middle = tuple((low + high) / 2 for low, high in ends)
    wraps = not simple and tissue in {Tissue.SOFT, Tissue.FAT} and diameter_mm > 15 and rng.random() < 0.14
    pushes = not simple and not wraps and tissue is not Tissue.LUNG and rng.random() < 0.6
    return Outline(
        shape,
        unit,
        middle,  # type: ignore[arg-type]  # three axes
        diameter_mm,
        max(sides[1:]),
        sides[0] + (float(tall) - 1) * step * unit,
        float(rng.uniform(0.25, 0.8)) if pushes else 0.0,
        _random_tube(rng, shape, unit) if wraps else None,
    )


def _random_tube(rng: np.random.Generator, shape: Shape, unit_mm: float) -> tuple[float, float, float, float, float]:
    """Place a tube so that the lesion becomes a ring or a horseshoe in section."""
    radius = float(np.clip(rng.uniform(0.1, 0.35) * unit_mm, 2, 17))
    away = rng.uniform(0, 0.9) * shape.axes[1] * unit_mm
    turn = rng.uniform(0, 2 * np.pi)
    dy, dx = rng.uniform(-0.15, 0.15, 2)
    return float(away * np.sin(turn)), float(away * np.cos(turn)), float(dy), float(dx), radius


def _random_shape(rng: np.random.Generator, tissue: Tissue, diameter_mm: float) -> Shape:
    """Draw an irregular shape."""
    kind = rng.random()
    short, noise = rng.uniform(0.5, 0.97), (rng.uniform(0.04, 0.2), rng.uniform(0.0, 0.07))
    tall = 1.05 if tissue is Tissue.SOFT and diameter_mm > 40 else 0.85
    height = float(np.clip(tall * rng.lognormal(0, 0.35) * (0.4 + 0.6 * short), 0.25, 2.0))
    lobes = spikes = None
    if kind < 0.1:  # plate
        short = rng.uniform(0.14, 0.32)
        noise = (0.25 * short, 0.08 * short)
    elif kind < 0.18:  # cord
        short, height = rng.uniform(0.22, 0.4), float(rng.uniform(0.22, 0.5))
        noise = (0.25 * short, 0.08 * short)
    elif kind < 0.4:
        lobes = _random_lobes(rng, height, short)
    elif kind < (0.7 if tissue is Tissue.LUNG else 0.47):
        spikes = _random_spikes(rng, diameter_mm)
        height, short = 0.65 * height, 0.65 * short
    elif kind < 0.75:  # smooth, as masses that push rather than grow into their neighbours
        noise = (rng.uniform(0.02, 0.08), rng.uniform(0.0, 0.02))
    lean = rng.uniform(-0.45, 0.45, 2) / max(1.0, 1.4 * height)
    return _shape(
        rng,
        (height, float(short), 0.65 if spikes is not None else 1.0),
        lean=(float(lean[0]), float(lean[1])),
        bend=float(rng.uniform(-0.35, 0.35)),
        noise=(float(noise[0]), float(noise[1])),
        lobes=lobes,
        spikes=spikes,
    )


def _plain_shape(rng: np.random.Generator) -> Shape:
    short = rng.uniform(0.55, 1.0)
    height = float(np.clip(rng.lognormal(np.log(0.85), 0.3), 0.3, 1.7))
    lean = rng.uniform(-0.3, 0.3, 2) / max(1.0, 1.4 * height)
    return _shape(rng, (height, float(short), 1.0), lean=(float(lean[0]), float(lean[1])))


def _shape(
    rng: np.random.Generator,
    axes: Vec,
    *,
    lean: tuple[float, float],
    bend: float = 0.0,
    noise: tuple[float, float] = (0.0, 0.0),
    lobes: FloatArray | None = None,
    spikes: FloatArray | None = None,
) -> Shape:
    reach = (-_REACH,) * 3, (_REACH,) * 3
    fields = tuple(
        SmoothField.random(rng, *reach, (step,) * 3) for step in (rng.uniform(0.5, 0.9), rng.uniform(0.2, 0.35))
    )
    return Shape(
        kind=LesionKind.SOLID,
        axes=axes,
        turn=float(rng.uniform(0, np.pi)),
        lean=lean,
        bend=bend,
        lobes=np.zeros((0, 4), dtype=np.float32) if lobes is None else lobes,
        spikes=np.zeros((0, 5), dtype=np.float32) if spikes is None else spikes,
        noise=noise,
        fields=(fields[0], fields[1]),
        spots=np.zeros((0, 5), dtype=np.float32),
        core=None,
        softness=0.0,
        texture_hu=0.0,
    )


def _random_lobes(rng: np.random.Generator, height: float, short: float) -> FloatArray:
    """Spheres (z, y, x, radius) that touch a large one in the middle: their smooth union is lobulated."""
    n = int(rng.integers(3, 8))
    direction = rng.standard_normal((n, 3))
    direction /= np.linalg.norm(direction, axis=1, keepdims=True)
    radius = rng.uniform(0.25, 0.55, n) * min(1.0, 0.4 + 0.6 * min(height, short))
    lobes = np.column_stack([direction * (1 - radius)[:, None] * (height, short, 1.0), radius])
    middle = (*rng.uniform(-0.1, 0.1, 3), 0.62 * min(height, short, 1.0))
    return np.vstack([lobes, middle]).astype(np.float32)


def _random_spikes(rng: np.random.Generator, diameter_mm: float) -> FloatArray:
    """Cones (tip z, y, x, radius at the root, at the tip): spicules of 1 to 4 mm however large the lesion."""
    n = int(rng.integers(8, 30))
    direction = rng.standard_normal((n, 3)) * (0.5, 1.0, 1.0)
    direction /= np.linalg.norm(direction, axis=1, keepdims=True)
    tips = direction * rng.uniform(0.6, 1.2, n)[:, None]
    root = np.minimum(rng.uniform(0.12, 0.3, n), rng.uniform(2.5, 6.0, n) / diameter_mm + 0.03)
    tip = np.full(n, min(0.06, 1.0 / diameter_mm))
    return np.column_stack([tips, root, tip]).astype(np.float32)
