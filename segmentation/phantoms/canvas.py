"""Drawing with level sets: where a level (millimetres, positive inside) crosses zero, voxels are filled in part.

Patient frame of all drawing: (z, y, x) millimetres towards (head, back, left of the patient), x 0 at the midline,
z 0 at the right dome of the diaphragm.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from math import ceil
from types import MappingProxyType

import numpy as np
from numpy.typing import NDArray

FloatArray = NDArray[np.float32]
Vec = tuple[float, float, float]

LABELS = MappingProxyType(
    {
        "fat": 1,
        "muscle": 2,
        "bone": 3,
        "lung": 4,
        "airway": 5,
        "vessel": 6,
        "heart": 7,
        "liver": 8,
        "spleen": 9,
        "kidney": 10,
        "adrenal": 11,
        "bowel": 12,
        "other": 13,
        "vertebra": 14,
    }
)
"""Values of the anatomical label map; 0 is outside the body."""

# A uniform cubic B-spline with unit normal knots has a variance of 0.479 a axis; this restores a unit deviation.
_SPLINE_GAIN = 0.479**-1.5


def spline_weights(coordinates: FloatArray, origin: float, step: float, n_knots: int) -> FloatArray:
    """(n, n_knots) uniform cubic B-spline weights of 1D ``coordinates``; the ends are repeated outwards."""
    t = np.clip((coordinates - origin) / step, 1.0, n_knots - 2.001)
    first = np.floor(t).astype(np.intp) - 1
    u = (t - np.floor(t)).astype(np.float32)
    basis = ((1 - u) ** 3, 3 * u**3 - 6 * u**2 + 4, -3 * u**3 + 3 * u**2 + 3 * u + 1, u**3)
    weights = np.zeros((len(t), n_knots), dtype=np.float32)
    rows = np.arange(len(t))
    for i, value in enumerate(basis):
        weights[rows, first + i] = value / 6
    return weights


def linear_weights(positions: FloatArray, n: int) -> FloatArray:
    """(len(positions), n) weights of linear interpolation at index ``positions``, clamped to the array."""
    t = np.clip(positions, 0, n - 1)
    low = np.clip(np.floor(t).astype(np.intp), 0, max(n - 2, 0))
    weights = np.zeros((len(t), n), dtype=np.float32)
    rows = np.arange(len(t))
    weights[rows, low] = 1 - (t - low)
    if n > 1:
        weights[rows, low + 1] = t - low
    return weights


def separable(values: FloatArray, weights: Sequence[FloatArray]) -> FloatArray:
    """Apply one matrix a axis to a 3D array."""
    result = values
    for matrix in reversed(weights):
        result = np.tensordot(matrix, result, axes=(1, result.ndim - 1))
    return np.ascontiguousarray(result)


@dataclass(frozen=True, slots=True, eq=False)
class SmoothField:
    """Random smooth function of space, mean 0 and deviation 1, about one hill per two ``step``."""

    knots: FloatArray
    origin: Vec
    step: Vec

    @classmethod
    def random(cls, rng: np.random.Generator, lower: Vec, upper: Vec, step: Vec | float) -> SmoothField:
        """Cover the box from ``lower`` to ``upper`` (z, y, x)."""
        steps = (step, step, step) if isinstance(step, (int, float)) else step
        n = tuple(ceil((b - a) / s) + 4 for a, b, s in zip(lower, upper, steps, strict=True))
        knots = rng.standard_normal(n, dtype=np.float32) * np.float32(_SPLINE_GAIN)
        origin = (lower[0] - 1.5 * steps[0], lower[1] - 1.5 * steps[1], lower[2] - 1.5 * steps[2])
        return cls(knots, origin, steps)

    def __call__(self, z: FloatArray, y: FloatArray, x: FloatArray) -> FloatArray:
        """Values on the grid of three 1D axes, (len(z), len(y), len(x))."""
        weights = [
            spline_weights(axis, o, s, n)
            for axis, o, s, n in zip((z, y, x), self.origin, self.step, self.knots.shape, strict=True)
        ]
        return separable(self.knots, weights)


@dataclass(frozen=True, slots=True, eq=False)
class Window:
    """Part of a canvas: its index box, and its axes shaped to broadcast against each other."""

    box: tuple[slice, slice, slice]
    z: FloatArray
    y: FloatArray
    x: FloatArray

    def ellipsoid(self, centre: Vec, radii: Vec, *, turn: float = 0.0, tilt: float = 0.0) -> FloatArray:
        """Level of an ellipsoid: zero on its surface, scaled by the smallest radius elsewhere.

        ``turn`` (radians) rotates it about z, ``tilt`` moves its sections along x, in mm per mm of z.
        """
        dz, dy = self.z - centre[0], self.y - centre[1]
        dx = self.x - centre[2] - tilt * dz
        c, s = np.float32(np.cos(turn)), np.float32(np.sin(turn))
        q = ((c * dx + s * dy) / radii[2]) ** 2 + ((c * dy - s * dx) / radii[1]) ** 2 + (dz / radii[0]) ** 2
        level: FloatArray = (1 - np.sqrt(q)) * np.float32(min(radii))
        return level

    def capsule(self, start: Vec, end: Vec, r_start: float, r_end: float) -> FloatArray:
        """Level of a tapered tube with round ends."""
        p = (self.z - start[0], self.y - start[1], self.x - start[2])
        d = tuple(b - a for a, b in zip(start, end, strict=True))
        length2 = max(sum(v * v for v in d), 1e-6)
        t = np.clip((p[0] * d[0] + p[1] * d[1] + p[2] * d[2]) / length2, 0, 1)
        distance = np.sqrt(sum((q - t * v) ** 2 for q, v in zip(p, d, strict=True)))
        level: FloatArray = r_start + (r_end - r_start) * t - distance
        return level


@dataclass(slots=True, eq=False)
class Canvas:
    """The coarse image the anatomy is painted on, tissue over tissue.

    Parameters
    ----------
    z, y, x
        Centres of the voxels on each axis, millimetres in the drawing frame, increasing.

    """

    z: FloatArray
    y: FloatArray
    x: FloatArray
    hu: FloatArray = field(init=False)
    labels: NDArray[np.uint8] = field(init=False)

    def __post_init__(self) -> None:
        shape = (len(self.z), len(self.y), len(self.x))
        self.hu = np.full(shape, -1000, dtype=np.float32)
        self.labels = np.zeros(shape, dtype=np.uint8)

    @property
    def pixel_mm(self) -> float:
        """In-plane size of a voxel in the drawing frame."""
        return float(self.x[1] - self.x[0])

    @property
    def bounds(self) -> tuple[Vec, Vec]:
        """Lowest and highest (z, y, x)."""
        axes = (self.z, self.y, self.x)
        low, high = (float(a[0]) for a in axes), (float(a[-1]) for a in axes)
        return tuple(low), tuple(high)  # type: ignore[return-value]  # three axes

    def window(self, lower: Vec | None = None, upper: Vec | None = None) -> Window | None:
        """Voxels within a box (z, y, x), two voxels wider; None where the scan does not reach."""
        parts = []
        for i, axis in enumerate((self.z, self.y, self.x)):
            a = 0 if lower is None else int(np.searchsorted(axis, lower[i])) - 2
            b = len(axis) if upper is None else int(np.searchsorted(axis, upper[i])) + 2
            parts.append(slice(max(a, 0), min(b, len(axis))))
        if any(part.stop - part.start < 1 for part in parts):
            return None
        if lower is not None and upper is not None and (upper[0] < self.z[0] - 5 or lower[0] > self.z[-1] + 5):
            return None
        s, r, c = parts
        return Window((s, r, c), self.z[s, None, None], self.y[None, r, None], self.x[None, None, c])

    def around(self, centre: Vec, radius: Vec | float) -> Window | None:
        """Box of half size ``radius`` about ``centre``."""
        half = (radius, radius, radius) if isinstance(radius, (int, float)) else radius
        lower, upper = (tuple(c + sign * h for c, h in zip(centre, half, strict=True)) for sign in (-1, 1))
        return self.window(lower, upper)  # type: ignore[arg-type]  # three axes

    def level_at(self, level: FloatArray, point: Vec) -> float:
        """Value of a whole-canvas ``level`` at the voxel nearest to ``point``; far outside beyond the canvas."""
        index = []
        for axis, value in zip((self.z, self.y, self.x), point, strict=True):
            i = round((value - float(axis[0])) / float(axis[1] - axis[0]))
            if not 0 <= i < len(axis):
                return -50.0
            index.append(i)
        return float(level[index[0], index[1], index[2]])

    def occupancy(self, level: FloatArray) -> FloatArray:
        """Part of each voxel that lies inside, from the level and its change over the voxel in plane and along z."""
        width: FloatArray | float = self.pixel_mm
        if level.shape[0] > 1:
            change = np.abs(np.diff(level, axis=0))
            width = np.empty_like(level)
            width[1:-1] = (change[1:] + change[:-1]) / 2
            width[0], width[-1] = change[0], change[-1]
            # A level with a kink jumps by more than a surface could; more softness than this is a fog.
            np.minimum(width, 4 * self.pixel_mm, out=width)
            width += self.pixel_mm
        part = level / width
        part += 0.5
        return np.clip(part, 0, 1, out=part)

    def paint(self, window: Window, level: FloatArray, hu: FloatArray | float, label: str) -> None:
        """Fill the inside of ``level`` with ``hu`` (a number or an array over the window)."""
        part = self.occupancy(level)
        target = self.hu[window.box]
        target += part * (hu - target)
        self.labels[window.box][np.broadcast_to(part, target.shape) > 0.5] = LABELS[label]


@dataclass(frozen=True, slots=True)
class Tube:
    """A piece of a vessel or airway, drawing frame."""

    start: Vec
    end: Vec
    r_start: float
    r_end: float

    def box(self, margin: float) -> tuple[Vec, Vec]:
        """Box around it, ``margin`` mm wider."""
        m = max(self.r_start, self.r_end) + margin
        lower = tuple(min(a, b) - m for a, b in zip(self.start, self.end, strict=True))
        upper = tuple(max(a, b) + m for a, b in zip(self.start, self.end, strict=True))
        return lower, upper  # type: ignore[return-value]  # three axes


def chain(points: Sequence[Vec], radii: Sequence[float]) -> list[Tube]:
    """Tubes through ``points``."""
    return [Tube(points[i], points[i + 1], radii[i], radii[i + 1]) for i in range(len(points) - 1)]


def paint_tubes(canvas: Canvas, tubes: Sequence[Tube], hu: float, label: str, *, grow: float = 0.0) -> None:
    """Paint tubes one by one, ``grow`` mm wider."""
    for tube in tubes:
        window = canvas.window(*tube.box(grow + canvas.pixel_mm))
        if window is not None:
            level = window.capsule(tube.start, tube.end, tube.r_start + grow, tube.r_end + grow)
            canvas.paint(window, level, hu, label)


def grow_tree(
    rng: np.random.Generator,
    start: Vec,
    direction: Vec,
    *,
    radius: float,
    length: float,
    depth: int,
    spread: float,
    fits: Callable[[Vec, float], bool],
) -> list[Tube]:
    """Branching vessel: each tube ends in two, thinner by Murray's cube law and turned by about ``spread`` radians.

    Tubes whose end (point, radius) does not fit are left out, with all that would grow from them; only the first two
    generations may lead there from elsewhere.
    """
    tubes: list[Tube] = []
    stack = [(start, np.asarray(direction, dtype=float), radius, length, 0)]
    while stack:
        origin, heading, r, step, generation = stack.pop()
        heading = heading / float(np.linalg.norm(heading))
        reach = step * rng.uniform(0.75, 1.25)
        end = (origin[0] + heading[0] * reach, origin[1] + heading[1] * reach, origin[2] + heading[2] * reach)
        grows = fits(end, r)
        if grows:
            tubes.append(Tube(origin, end, r, r * 0.88))
        if generation == depth or (not grows and generation > 1):
            continue
        sideways = rng.standard_normal(3)
        sideways -= heading * float(sideways @ heading)
        sideways /= max(float(np.linalg.norm(sideways)), 1e-6)
        share = rng.uniform(0.3, 0.7)
        for sign, part in ((1, share), (-1, 1 - share)):
            turned = heading + sign * sideways * spread * rng.uniform(0.6, 1.3) * (1.3 - part)
            stack.append((end, turned, r * part ** (1 / 3), step * rng.uniform(0.7, 0.95), generation + 1))
    return tubes
