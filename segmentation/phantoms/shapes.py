"""What lesions look like: their outline as a level set of unit size, and their Hounsfield units inside.

A lesion is a tilted ellipsoid, a cluster of lobes or a core with spikes, displaced by smooth noise at two scales, so
that its sections differ from slice to slice as those of real lesions do.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np

from segmentation.phantoms.canvas import FloatArray, SmoothField
from segmentation.phantoms.types import LesionKind, LesionSpec, Organ

_REACH = 2.0
"""Half size of the box, in units of the lesion's radius, in which a shape is defined."""


@dataclass(frozen=True, slots=True)
class _Style:
    """Ranges of an outline: short axis, height (both of the half axis 1), lean per height, noise amplitudes."""

    short: tuple[float, float]
    height: tuple[float, float]
    lean: float
    coarse: tuple[float, float]
    fine: tuple[float, float]


_IRREGULAR = _Style((0.55, 0.95), (0.5, 1.25), 0.55, (0.12, 0.21), (0.03, 0.07))
_STYLES = {
    LesionKind.SOLID: _IRREGULAR,
    LesionKind.NECROTIC: _IRREGULAR,
    LesionKind.CALCIFIED: _IRREGULAR,
    LesionKind.LOBULATED: _Style((0.6, 0.95), (0.6, 1.2), 0.4, (0.05, 0.1), (0.02, 0.04)),
    LesionKind.SPICULATED: _Style((0.6, 0.95), (0.6, 1.1), 0.3, (0.1, 0.16), (0.05, 0.09)),
    LesionKind.GROUND_GLASS: _Style((0.6, 0.95), (0.5, 1.1), 0.5, (0.16, 0.24), (0.08, 0.13)),
    LesionKind.CYST: _Style((0.75, 0.97), (0.65, 1.15), 0.2, (0.03, 0.09), (0.0, 0.015)),
    LesionKind.LYMPH_NODE: _Style((0.5, 0.8), (0.6, 1.5), 0.5, (0.08, 0.15), (0.01, 0.03)),
}


@dataclass(frozen=True, slots=True, eq=False)
class Shape:
    """One lesion's outline and inside, size left open: lengths are in units of its radius.

    Parameters
    ----------
    axes
        Half axes (height, short, long) of the core.
    turn
        Angle of the long axis in the slice, radians.
    lean
        (y, x) shift of the section per unit of height.
    lobes
        (n, 4) of (z, y, x, radius); empty for an ellipsoid.
    spikes
        (n, 5) of the tip (z, y, x), radius at the core and at the tip.
    noise
        Amplitudes of the coarse and the fine displacement.
    spots
        (n, 5) of (z, y, x, radius, Hounsfield units): calcifications, or the fatty hilum of a node.

    """

    kind: LesionKind
    axes: tuple[float, float, float]
    turn: float
    lean: tuple[float, float]
    bend: float
    lobes: FloatArray
    spikes: FloatArray
    noise: tuple[float, float]
    fields: tuple[SmoothField, SmoothField]
    spots: FloatArray
    core: tuple[float, float] | None
    softness: float
    texture_hu: float

    @property
    def reach(self) -> tuple[float, float]:
        """Half size of the box that holds it: (along z, in plane)."""
        low, fine = self.noise
        margin = 2.2 * low + 2 * fine + 0.1
        height = self.axes[0] + margin
        if len(self.lobes):
            height = float((np.abs(self.lobes[:, 0]) + self.lobes[:, 3]).max()) + margin
        across = 1.0 + margin + 0.6 * float(np.hypot(*self.lean))
        if len(self.spikes):
            height = max(height, float(np.abs(self.spikes[:, 0]).max()))
            across = max(across, 1.45)
        return min(height, _REACH), min(across, _REACH)

    def level(self, z: FloatArray, y: FloatArray, x: FloatArray) -> FloatArray:
        """Level on the grid of three 1D axes, positive inside, in units of the radius."""
        Z, Y, X = z[:, None, None], y[None, :, None], x[None, None, :]
        Y, X = Y - self.lean[0] * Z, X - self.lean[1] * Z
        c, s = np.cos(self.turn), np.sin(self.turn)
        along, across = c * X + s * Y, c * Y - s * X
        across = across - self.bend * (along * along - 0.3)
        if len(self.lobes):
            level = self._lobed(Z, across, along)
        else:
            h, b, a = self.axes
            q = np.sqrt((Z / h) ** 2 + (across / b) ** 2 + (along / a) ** 2)
            level = (1 - q) * min(h, b)
        for amplitude, smooth in zip(self.noise, self.fields, strict=True):
            if amplitude > 0:
                level = level + np.float32(amplitude) * smooth(z, y, x)
        level = level.astype(np.float32, copy=False)
        for spike in self.spikes:
            _add_spike(level, (z, y, x), spike)
        return level

    def _lobed(self, z: FloatArray, y: FloatArray, x: FloatArray) -> FloatArray:
        """Smooth union of spheres."""
        total = np.zeros(np.broadcast_shapes(z.shape, y.shape, x.shape), dtype=np.float32)
        k = 0.07
        for lz, ly, lx, r in self.lobes:
            distance = np.sqrt((z - lz) ** 2 + (y - ly) ** 2 + (x - lx) ** 2)
            total += np.exp(np.clip((r - distance) / k, -60, 20))
        np.log(total + np.float32(1e-20), out=total)
        return total * np.float32(k)

    def hounsfield(self, axes: tuple[FloatArray, FloatArray, FloatArray], level: FloatArray, base: float) -> FloatArray:
        """Hounsfield units inside, on the grid of ``level``; ``base`` is the value of the lesion's own tissue."""
        coarse, fine = (f(*axes) for f in self.fields)
        hu = base + self.texture_hu * (0.8 * coarse + 0.6 * fine)
        if self.core is not None:
            depth, value = self.core
            inside = np.clip((level - depth + 0.09 * coarse) / 0.05 + 0.5, 0, 1)
            hu += inside * (value + 3 * fine - hu)
        z, y, x = axes
        for sz, sy, sx, r, value in self.spots:
            d2 = (z[:, None, None] - sz) ** 2 + (y[None, :, None] - sy) ** 2 + (x[None, None, :] - sx) ** 2
            inside = np.clip((r * (1 + 0.25 * fine) - np.sqrt(d2)) / 0.04 + 0.5, 0, 1)
            hu += inside * (value - hu)
        return hu.astype(np.float32, copy=False)


def _add_spike(level: FloatArray, axes: tuple[FloatArray, FloatArray, FloatArray], spike: FloatArray) -> None:
    """Unite ``level`` in place with a cone from the centre to the tip, within the cone's own box."""
    tip, r_core, r_tip = spike[:3], float(spike[3]), float(spike[4])
    parts = []
    for axis, end in zip(axes, tip, strict=True):
        low, high = min(0.0, float(end)) - 2 * r_core, max(0.0, float(end)) + 2 * r_core
        parts.append(slice(int(np.searchsorted(axis, low)), int(np.searchsorted(axis, high))))
    if any(part.start >= part.stop for part in parts):
        return
    s, r, c = parts
    p = (axes[0][s, None, None], axes[1][None, r, None], axes[2][None, None, c])
    t = np.clip(sum(q * e for q, e in zip(p, tip, strict=True)) / float(tip @ tip), 0, 1)
    distance = np.sqrt(sum((q - t * e) ** 2 for q, e in zip(p, tip, strict=True)))
    part = level[s, r, c]
    np.maximum(part, r_core + (r_tip - r_core) * t - distance, out=part)


def random_shape(rng: np.random.Generator, spec: LesionSpec) -> Shape:
    """Draw the shape of one lesion."""
    style = _STYLES[spec.kind]
    short = rng.uniform(*style.short)
    height = rng.uniform(*style.height) * (1 + short) / 2
    axes = (float(height), float(short), 1.0)
    lobed = spec.kind is LesionKind.LOBULATED or (spec.kind is LesionKind.LYMPH_NODE and spec.diameter_mm > 28)
    lobed = lobed or (spec.kind in {LesionKind.CALCIFIED, LesionKind.NECROTIC} and rng.random() < 0.3)
    lobes = _random_lobes(rng, axes) if lobed else np.zeros((0, 4), dtype=np.float32)
    spikes = np.zeros((0, 5), dtype=np.float32)
    if spec.kind is LesionKind.SPICULATED:
        shrink = 0.62
        axes = (axes[0] * shrink, axes[1] * shrink, shrink)
        spikes = _random_spikes(rng, spec.diameter_mm)
    box = ((-_REACH,) * 3, (_REACH,) * 3)
    fields = (
        SmoothField.random(rng, *box, (0.7, 0.7, 0.7)),
        SmoothField.random(rng, *box, (0.3, 0.3, 0.3)),
    )
    lean = rng.uniform(-style.lean, style.lean, 2)
    ground_glass = spec.kind is LesionKind.GROUND_GLASS
    return Shape(
        kind=spec.kind,
        axes=axes,
        turn=float(rng.uniform(0, np.pi)),
        lean=(float(lean[0]), float(lean[1])),
        bend=float(rng.uniform(-0.3, 0.3)) if spec.kind is not LesionKind.CYST else 0.0,
        lobes=lobes,
        spikes=spikes,
        noise=(float(rng.uniform(*style.coarse)), float(rng.uniform(*style.fine))),
        fields=fields,
        spots=_random_spots(rng, spec, axes),
        core=_random_core(rng, spec),
        softness=0.14 if ground_glass else 0.0,
        texture_hu=_texture_hu(spec),
    )


def _texture_hu(spec: LesionSpec) -> float:
    if spec.kind is LesionKind.GROUND_GLASS:
        return 35.0
    if spec.kind is LesionKind.CYST:
        return 1.0
    return 80.0 if spec.organ is Organ.BONE and spec.kind is LesionKind.CALCIFIED else 7.0


def _random_lobes(rng: np.random.Generator, axes: tuple[float, float, float]) -> FloatArray:
    """A large lobe off the middle with three to six smaller ones at its border."""
    n = int(rng.integers(4, 8))
    direction = rng.standard_normal((n, 3))
    direction /= np.linalg.norm(direction, axis=1, keepdims=True)
    radius = rng.uniform(0.28, 0.5, n)
    centre = direction * (0.92 - radius)[:, None] * np.array(axes)
    radius *= np.minimum(1, 0.35 + 0.65 * min(axes))
    lobes = np.column_stack([centre, radius])
    lobes[0] = (*rng.uniform(-0.12, 0.12, 3), 0.6 * min(axes))
    return lobes.astype(np.float32)


def _random_spikes(rng: np.random.Generator, diameter_mm: float) -> FloatArray:
    n = int(rng.integers(18, 32))
    direction = rng.standard_normal((n, 3)) * (0.4, 1.0, 1.0)
    direction /= np.linalg.norm(direction, axis=1, keepdims=True)
    tips = direction * rng.uniform(0.75, 1.35, n)[:, None]
    # Spicules stay strands of 1 to 3 mm however large the lesion.
    root = np.minimum(rng.uniform(0.12, 0.24, n), rng.uniform(2.5, 5.0, n) / diameter_mm + 0.03)
    tip = np.full(n, min(0.05, 1.0 / diameter_mm))
    return np.column_stack([tips, root, tip]).astype(np.float32)


def _random_spots(rng: np.random.Generator, spec: LesionSpec, axes: tuple[float, float, float]) -> FloatArray:
    """Calcifications strewn through the lesion, or the fatty hilum of a node."""
    if spec.kind is LesionKind.LYMPH_NODE and spec.diameter_mm > 12 and rng.random() < 0.4:
        return np.array([[0, 0.25 * axes[1], 0.1, 0.24, -55]], dtype=np.float32)
    if spec.kind is not LesionKind.CALCIFIED or spec.organ is Organ.BONE:
        return np.zeros((0, 5), dtype=np.float32)
    n = int(rng.integers(3, 8))
    place = rng.uniform(-0.55, 0.55, (n, 3)) * np.array(axes)
    # A calcification much thinner than the slice drowns in partial volume: at least 3 mm across, where that fits.
    radius = np.maximum(rng.uniform(0.06, 0.24, n), min(3.0 / spec.diameter_mm, 0.4))
    return np.column_stack([place, radius, rng.uniform(280, 650, n)]).astype(np.float32)


def _random_core(rng: np.random.Generator, spec: LesionSpec) -> tuple[float, float] | None:
    """Depth under the surface and Hounsfield units of what lies inside."""
    if spec.kind is LesionKind.NECROTIC:
        return float(rng.uniform(0.14, 0.26)), float(rng.uniform(10, 28))
    if spec.kind is LesionKind.GROUND_GLASS and rng.random() < 0.4:
        return float(rng.uniform(0.35, 0.45)), float(rng.uniform(-120, 20))
    return None


def tissue_hu(rng: np.random.Generator, spec: LesionSpec, background_hu: float) -> float:
    """Hounsfield units of the lesion's tissue, in an organ of ``background_hu``."""
    if spec.kind is LesionKind.GROUND_GLASS:
        return float(rng.uniform(-660, -520))
    if spec.kind is LesionKind.CYST:
        return float(rng.uniform(0, 12))
    if spec.organ in {Organ.LIVER, Organ.SPLEEN}:
        # The rim of a necrotic lesion enhances.
        weaker = rng.uniform(12, 30) if spec.kind is LesionKind.NECROTIC else rng.uniform(32, 60)
        return background_hu - float(weaker)
    if spec.organ is Organ.BONE:
        return float(rng.uniform(600, 850)) if spec.kind is LesionKind.CALCIFIED else float(rng.uniform(30, 70))
    low, high = _TISSUE_HU[spec.organ]
    return float(rng.uniform(low, high)) + (15 if spec.kind is LesionKind.NECROTIC else 0)


_TISSUE_HU = {
    Organ.LUNG: (20.0, 65.0),
    Organ.MEDIASTINUM: (50.0, 105.0),
    Organ.KIDNEY: (55.0, 105.0),
    Organ.ADRENAL: (15.0, 80.0),
    Organ.MESENTERY: (45.0, 95.0),
    Organ.RETROPERITONEUM: (50.0, 100.0),
}
