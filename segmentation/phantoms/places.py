"""Where lesions can grow, and what a report would call the place."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray
from scipy.ndimage import distance_transform_edt
from scipy.spatial import cKDTree

from segmentation.phantoms.abdomen import RENAL_CENTRE
from segmentation.phantoms.canvas import LABELS, FloatArray, Vec
from segmentation.phantoms.torso import VERTEBRA_PITCH, VERTEBRA_ZERO_Z, Build, oblique_fissure_z
from segmentation.phantoms.types import LesionSpec, Organ, PhantomError, Side, Touching, catalogue

_FAT_BOXES: dict[Organ, tuple[Vec, Vec]] = {
    Organ.MEDIASTINUM: ((25.0, -80.0, -46.0), (195.0, 62.0, 46.0)),
    Organ.MESENTERY: ((-245.0, -68.0, -88.0), (-105.0, 30.0, 88.0)),
    Organ.RETROPERITONEUM: ((-240.0, 8.0, -48.0), (-75.0, 66.0, 48.0)),
}


@dataclass(frozen=True, slots=True, eq=False)
class Room:
    """Part of the coarse canvas where lesions of an organ grow; levels in real millimetres.

    Parameters
    ----------
    box
        Index box in the canvas.
    home
        Level of where their centres lie.
    bounds
        Level of what they may fill; they go ``give`` radii beyond it by pushing neighbours aside.

    """

    box: tuple[slice, slice, slice]
    home: FloatArray
    bounds: FloatArray
    give: float


@dataclass(frozen=True, slots=True)
class Taken:
    """A ball another lesion needs, real millimetres (z, y, x) of the drawing frame."""

    centre: Vec
    radius_mm: float


def _boxed(level: FloatArray, *, margin: int = 6) -> tuple[slice, slice, slice] | None:
    """Smallest index box that holds the inside of ``level``."""
    inside = level > 0
    parts = []
    for axis in range(3):
        hit = np.flatnonzero(inside.any(axis=tuple(a for a in range(3) if a != axis)))
        if not len(hit):
            return None
        extra = 0 if axis == 0 else margin
        parts.append(slice(max(int(hit[0]) - extra, 0), min(int(hit[-1]) + 1 + extra, level.shape[axis])))
    return parts[0], parts[1], parts[2]


def find_room(build: Build, organ: Organ, side: str | None, scale: tuple[float, float]) -> Room:
    """Room for lesions of an organ on this scan; ``scale`` is real mm per drawing mm (along z, in plane).

    Raises
    ------
    PhantomError
        If the scan does not show the organ.

    """
    if organ in _FAT_BOXES:
        return _fat_room(build, organ, scale)
    key = organ.value.lower() + (f" {side}" if catalogue()[organ].paired else "")
    level = build.levels.get(key)
    box = None if level is None else _boxed(level)
    if level is None or box is None:
        raise PhantomError(f"this scan does not show the {key.lower()}: choose another region or more slices")
    home = level[box] * scale[1]
    if organ in {Organ.KIDNEY, Organ.ADRENAL}:
        own = home > 0 if organ is Organ.KIDNEY else build.canvas.labels[box] == LABELS["adrenal"]
        free = _is_fat(build, box) | own
        return Room(box, home, _signed_distance(free, build, scale), 0.25)
    return Room(box, home, home, 0.0)


def _fat_room(build: Build, organ: Organ, scale: tuple[float, float]) -> Room:
    lower, upper = _FAT_BOXES[organ]
    window = build.canvas.window(lower, upper)
    if window is None or window.box[0].stop - window.box[0].start < 3:
        raise PhantomError(f"this scan does not show the {organ.value.lower()}: choose another region or more slices")
    free = _signed_distance(_is_fat(build, window.box), build, scale)
    edge = np.minimum(
        np.minimum(window.x - lower[2], upper[2] - window.x), np.minimum(window.y - lower[1], upper[1] - window.y)
    )
    home = np.minimum(free, edge * scale[1])
    return Room(window.box, home, free, 0.3)


def _is_fat(build: Build, box: tuple[slice, slice, slice]) -> NDArray[np.bool_]:
    hu = build.canvas.hu[box]
    result: NDArray[np.bool_] = (hu > -140) & (hu < -45)
    return result


def _signed_distance(inside: NDArray[np.bool_], build: Build, scale: tuple[float, float]) -> FloatArray:
    z = build.canvas.z
    step = (float(z[1] - z[0]) * scale[0], build.canvas.pixel_mm * scale[1], build.canvas.pixel_mm * scale[1])
    positive, negative = (distance_transform_edt(m, sampling=step) for m in (inside, ~inside))
    return (positive - negative).astype(np.float32)


def find_centres(
    build: Build,
    room: Room,
    spec: LesionSpec,
    rng: np.random.Generator,
    *,
    scale: tuple[float, float],
    reach_mm: tuple[float, float],
    taken: Sequence[Taken],
    n: int = 16,
) -> list[Vec]:
    """Good places for a lesion's centre, best first, real mm (z, y, x); some chance decides among equals.

    Parameters
    ----------
    reach_mm
        How far the lesion reaches from its centre, along z and in plane.

    """
    canvas = build.canvas
    radius = spec.diameter_mm / 2
    inside = np.argwhere(room.home > -0.3 * radius if room.give else room.home > 0)
    if not len(inside):
        return []
    inside = inside[rng.permutation(len(inside))[:6000]]
    depth = room.home[tuple(inside.T)]
    index = inside + [part.start for part in room.box]
    z, y, x = canvas.z[index[:, 0]] * scale[0], canvas.y[index[:, 1]] * scale[1], canvas.x[index[:, 2]] * scale[1]
    points = np.column_stack([z, y, x]).astype(np.float64)
    cost = 0.5 * rng.random(len(points))
    if spec.touching == Touching.WALL:
        cost += np.abs(depth - 0.45 * radius) / radius * 2
    else:
        wanted = 1.15 * radius if spec.touching is None and not room.give else 0.7 * radius
        cost += 2.5 * np.maximum(wanted - depth, 0) / radius
    if spec.touching == Touching.VESSEL:
        cost += 3 * np.abs(_vessel_distance(build, spec.organ, points, scale) - 0.75 * radius) / radius
    elif spec.organ in {Organ.LUNG, Organ.LIVER}:
        large = _vessel_distance(build, spec.organ, points, scale, thinnest_mm=2.5)
        cost += np.clip(1.1 * radius - large, 0, radius) / radius
    if spec.level is not None:
        low, high = float(z.min()), float(z.max())
        cost += 6 * np.abs((z - low) / max(high - low, 1.0) - spec.level)
    ends = np.minimum(z - canvas.z[0] * scale[0], canvas.z[-1] * scale[0] - z)
    cost += 4 * np.maximum(reach_mm[0] - ends, 0) / radius
    cost[_forbidden(spec, points, canvas_edge=float(canvas.x[-1]) * scale[1], reach_mm=reach_mm[1], taken=taken)] = (
        np.inf
    )
    order = np.argsort(cost)
    chosen: list[Vec] = []
    for i in order[np.isfinite(cost[order])]:
        point = points[i]
        if all(np.linalg.norm(point - c) > 0.35 * radius for c in chosen):
            chosen.append((float(point[0]), float(point[1]), float(point[2])))
        if len(chosen) == n:
            break
    return chosen


def _forbidden(
    spec: LesionSpec, points: NDArray[np.float64], *, canvas_edge: float, reach_mm: float, taken: Sequence[Taken]
) -> NDArray[np.bool_]:
    """Wrong side of the patient, outside the round field of view, or where another lesion is."""
    bad: NDArray[np.bool_] = np.hypot(points[:, 1], points[:, 2]) + 0.7 * reach_mm > canvas_edge
    if spec.side is not None:
        sign = 1 if spec.side == Side.LEFT else -1
        bad |= sign * points[:, 2] < max(0.35 * spec.diameter_mm, 3.0)
    for other in taken:
        apart = np.linalg.norm(points - np.array(other.centre), axis=1)
        bad |= apart < other.radius_mm + 0.8 * reach_mm + 3
    return bad


def _vessel_distance(
    build: Build, organ: Organ, points: NDArray[np.float64], scale: tuple[float, float], *, thinnest_mm: float = 1.2
) -> NDArray[np.float64]:
    """From each point to the wall of the nearest vessel of at least this radius, mm; infinite where there is none."""
    samples, radii = [], []
    for tube in build.tubes.get(organ, ()):
        if tube.r_start * scale[1] < thinnest_mm:
            continue
        for t in (0.0, 0.25, 0.5, 0.75):
            place = [a + t * (b - a) for a, b in zip(tube.start, tube.end, strict=True)]
            samples.append((place[0] * scale[0], place[1] * scale[1], place[2] * scale[1]))
            radii.append(tube.r_start * scale[1])
    if not samples:
        return np.full(len(points), np.inf)
    distance, nearest = cKDTree(np.array(samples)).query(points)
    result: NDArray[np.float64] = np.asarray(distance) - np.array(radii)[np.asarray(nearest)]
    return result


def describe(organ: Organ, point: Vec) -> str:
    """Plain name of the place of an organ at ``point`` (z, y, x of the drawing frame)."""
    z, y, x = point
    side = "left" if x > 0 else "right"
    if organ is Organ.LUNG:
        return _lobe(z, y, side)
    if organ is Organ.LIVER:
        return f"segment {_liver_segment(z, y, x)} of the liver"
    if organ is Organ.MEDIASTINUM:
        return _mediastinal(z, y, x, side)
    if organ is Organ.KIDNEY:
        height = (z - RENAL_CENTRE[side.upper()][0]) / 57
        part = "upper pole" if height > 0.33 else "lower pole" if height < -0.33 else "interpolar region"
        return f"{part} of the {side} kidney"
    if organ is Organ.RETROPERITONEUM:
        return "left para-aortic region" if x > 6 else "aortocaval region" if x > -18 else "right paracaval region"
    if organ is Organ.BONE:
        return f"{_vertebra(z)} vertebral body"
    if organ is Organ.MESENTERY:
        return f"{side} {'upper' if z > -165 else 'lower'} quadrant mesentery"
    return "spleen" if organ is Organ.SPLEEN else f"{side} adrenal gland"


def _lobe(z: float, y: float, side: str) -> str:
    if z < oblique_fissure_z(y):
        return f"{side} lower lobe"
    return "right middle lobe" if side == "right" and z < 62 and y < 10 else f"{side} upper lobe"


def _liver_segment(z: float, y: float, x: float) -> int:
    high = z > -55
    if x > 8:
        return 2 if high else 3
    if x > -32:
        return 1 if y > 8 else 4
    if y > 20 + 0.35 * (x + 24):
        return 7 if high else 6
    return 8 if high else 5


def _mediastinal(z: float, y: float, x: float, side: str) -> str:
    if y < -22:
        return "prevascular space"
    if abs(x) > 26 and 70 < z < 128:
        return f"{side} hilum"
    if z > 122:
        return f"{side} paratracheal region" if y < 40 else "upper paraoesophageal region"
    if z > 84 and y < 24:
        return "aortopulmonary window" if x > 6 else "right lower paratracheal region"
    return "subcarinal region" if z > 72 else "lower paraoesophageal region"


def _vertebra(z: float) -> str:
    """T11 lies at ``VERTEBRA_ZERO_Z``."""
    number = 11 - round((z - VERTEBRA_ZERO_Z) / VERTEBRA_PITCH)
    if number > 12:
        return f"L{min(number - 12, 5)}"
    return f"T{max(number, 1)}"
