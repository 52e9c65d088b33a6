"""A generated limb: skin, fat, muscles with fat planes and fascia between them, one or two long bones, vessels.

Muscles are the cells of a weighted Voronoi diagram whose seeds wander along the limb; borders between cells are fat
planes of varying thickness, absent in places, as in the thigh and the arm.
"""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray

from segmentation.phantoms.canvas import FloatArray, SmoothField, Vec

_Level = NDArray[np.float32] | NDArray[np.float64]

_SPACING: Vec = (5.0, 1.5, 1.5)
_SHAPE = (56, 152, 152)


def limb_volume(rng: np.random.Generator) -> tuple[FloatArray, Vec]:
    """Draw one limb along z, without noise.

    Returns
    -------
    (slice, row, column) Hounsfield units, and the voxel size (z, y, x) in millimetres.

    """
    z, y, x = (
        (np.arange(n, dtype=np.float32) - (n - 1) / 2) * np.float32(s) for n, s in zip(_SHAPE, _SPACING, strict=True)
    )
    limb = _Limb(rng, z, y, x)
    limb.skin_and_fat()
    limb.muscles()
    limb.bones()
    limb.vessels()
    return limb.hu, _SPACING


class _Limb:
    """The limb while it is drawn; levels in mm, positive inside."""

    def __init__(self, rng: np.random.Generator, z: FloatArray, y: FloatArray, x: FloatArray) -> None:
        self.rng = rng
        self.z, self.y, self.x = z, y, x
        self.radius = float(rng.uniform(55, 108))
        self.hu = np.full((len(z), len(y), len(x)), -1000, dtype=np.float32)
        taper = 1 + rng.uniform(-0.2, 0.2) * z / 140
        aspect = rng.uniform(0.82, 1.2)
        Z, Y, X = self.z[:, None, None], self.y[:, None], self.x
        r = np.sqrt((Y * aspect) ** 2 + (X / aspect) ** 2) / taper[:, None, None]
        self.outer = self.radius - r + 4 * self.field(60) + 0 * Z

    def field(self, step_mm: float, along_mm: float | None = None) -> FloatArray:
        """Smooth noise, mean 0 and deviation 1, hills about two steps apart."""
        ends = [(float(a[0]), float(a[-1])) for a in (self.z, self.y, self.x)]
        low, high = (tuple(e[i] for e in ends) for i in (0, 1))
        steps = (along_mm or step_mm, step_mm, step_mm)
        return SmoothField.random(self.rng, low, high, steps)(self.z, self.y, self.x)  # type: ignore[arg-type]  # three axes

    def fill(self, level: _Level, hu: _Level | float, box: tuple[slice, ...] = (slice(None),)) -> None:
        """Blend ``hu`` in where ``level`` is positive, with partial volume over one pixel."""
        part = np.clip(level / _SPACING[1] + 0.5, 0, 1)
        target = self.hu[box]
        target += part * (hu - target)

    def skin_and_fat(self) -> None:
        self.fill(self.outer, self.rng.uniform(-20, 20))
        fat = -102 + 6 * self.field(25)
        septa = np.clip(1.2 - 9 * np.abs(self.field(11, 30)), 0, 1) * self.rng.uniform(0, 45)
        self.fill(self.outer - 2.0, fat + septa)

    def muscles(self) -> None:
        rng = self.rng
        thickness = min(float(rng.gamma(2.0, 5.0)) + 3, 0.42 * self.radius)
        self.inner = self.outer - thickness - 3 - 2 * self.field(40)
        core = self.radius - thickness
        n = int(rng.integers(7, 15))
        angle = rng.uniform(0, 2 * np.pi) + 2 * np.pi * np.arange(n) / n + rng.uniform(-0.25, 0.25, n)
        far = core * rng.choice([0.42, 0.78], n) * rng.uniform(0.85, 1.15, n)
        best = np.full(self.hu.shape, 1e9, dtype=np.float32)
        second = best.copy()
        tone = np.zeros_like(best)
        base = rng.uniform(42, 68)
        for i in range(n):
            drift = rng.uniform(-0.18, 0.18, 2)
            cy = far[i] * np.sin(angle[i]) + drift[0] * self.z
            cx = far[i] * np.cos(angle[i]) + drift[1] * self.z
            distance = np.hypot(self.y[:, None] - cy[:, None, None], self.x - cx[:, None, None])
            distance = distance - np.float32(rng.uniform(-8, 8))
            nearer = distance < best
            np.minimum(second, np.maximum(distance, best), out=second)
            tone[nearer] = base + rng.normal(0, 4)
            np.minimum(best, distance, out=best)
        # The planes bulge and close in places: their level is half the difference of distances less a thickness.
        plane = np.clip(rng.uniform(0.2, 1.6) + 1.3 * self.field(28, 70), -1, 5)
        muscle = (second - best) / 2 + 1.5 * self.field(14, 40) - plane
        streaks = np.clip(self.field(4.5, 30) - rng.uniform(1.2, 2.6), 0, 2) * rng.uniform(15, 60)
        inside = np.minimum(self.inner, muscle)
        self.fill(inside, tone + 4 * self.field(6, 25) - streaks)
        fascia = 0.9 - np.abs(self.inner + 0.6)
        self.fill(fascia, 40.0)

    def bones(self) -> None:
        rng = self.rng
        pair = rng.random() < 0.3
        main = rng.uniform(9, 14) if pair else rng.uniform(11, 17)
        spread = 0.35 * self.radius
        starts = [rng.uniform(-spread, spread, 2)]
        radii = [main]
        if pair:
            turn = rng.uniform(0, 2 * np.pi)
            starts.append(starts[0] + (main + rng.uniform(16, 30)) * np.array([np.sin(turn), np.cos(turn)]))
            radii.append(rng.uniform(5, 10))
        marrow = rng.uniform(-100, 60)
        for start, radius in zip(starts, radii, strict=True):
            drift = rng.uniform(-0.12, 0.12, 2)
            flare = 1 + rng.uniform(0, 0.9) * np.clip(self.z / 140 * rng.choice([-1, 1]), 0, 1) ** 3
            dy = self.y[:, None] - (start[0] + drift[0] * self.z)[:, None, None]
            dx = self.x - (start[1] + drift[1] * self.z)[:, None, None]
            level = radius * flare[:, None, None] - np.hypot(dy * rng.uniform(0.85, 1.15), dx) + 0.7 * self.field(18)
            self.fill(level, rng.uniform(900, 1500))
            self.fill(level - rng.uniform(2.5, 5.5) / flare[:, None, None] ** 2, marrow + 10 * self.field(5))

    def vessels(self) -> None:
        rng = self.rng
        contrast = rng.uniform(35, 60) if rng.random() < 0.5 else rng.uniform(90, 220)
        for i in range(int(rng.integers(4, 12))):
            radius = float(rng.uniform(3, 5) if i < 2 else rng.uniform(1, 2.5))
            start = rng.uniform(-0.7, 0.7, 2) * self.radius
            drift = rng.uniform(-0.2, 0.2, 2)
            wave = 4 * np.sin(self.z / rng.uniform(20, 60) + rng.uniform(0, 6))
            y0, x0 = start[0] + drift[0] * self.z + wave, start[1] + drift[1] * self.z - wave
            box = (slice(None), _span(self.y, y0, radius + 5), _span(self.x, x0, radius + 5))
            distance = np.hypot(
                self.y[box[1], None] - y0[:, None, None], self.x[box[2]] - x0[:, None, None], dtype=np.float32
            )
            under_skin = np.where(self.hu[box] > 250, np.float32(-9), self.outer[box] - 3)
            if i < 2:  # the main bundle lies in fat of its own
                self.fill(np.minimum(radius + rng.uniform(0.3, 2) - distance, under_skin), -92.0, box)
            self.fill(np.minimum(radius - distance, under_skin), contrast + rng.normal(0, 8), box)


def _span(axis: FloatArray, centres: FloatArray, reach_mm: float) -> slice:
    """Part of an axis within ``reach_mm`` of any of the centres."""
    ends = (float(centres.min()) - reach_mm, float(centres.max()) + reach_mm)
    start, stop = np.searchsorted(axis, ends)
    return slice(int(start), int(stop))
