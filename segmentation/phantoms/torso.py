"""The trunk: skin, fat, muscle, skeleton, lungs, heart and great vessels.

All positions are millimetres of the drawing frame for a body of average size; size and shape vary through the axes of
the canvas (see :mod:`segmentation.phantoms.body`) and through smooth displacements.
"""

from __future__ import annotations

from dataclasses import dataclass, field

import numpy as np

from segmentation.phantoms.canvas import (
    Canvas,
    FloatArray,
    SmoothField,
    Tube,
    Vec,
    Window,
    chain,
    grow_tree,
    paint_tubes,
)
from segmentation.phantoms.types import Organ

# Half width and half depth of the inner wall (cavity) against z: pelvis, waist, domes, chest, thoracic inlet.
_CAVITY_Z = (-260.0, -150.0, -50.0, 0.0, 60.0, 120.0, 170.0, 205.0, 230.0)
_CAVITY_HALF_WIDTH = (118.0, 120.0, 127.0, 130.0, 128.0, 116.0, 92.0, 60.0, 28.0)
_CAVITY_HALF_DEPTH = (80.0, 82.0, 87.0, 89.0, 86.0, 74.0, 57.0, 42.0, 24.0)
_CAVITY_CENTRE_Y = (0.0, 0.0, 0.0, 0.0, 2.0, 8.0, 16.0, 22.0, 26.0)
_SHOULDER_Z = (110.0, 150.0, 200.0, 240.0)
_SHOULDER_WIDTH = (0.0, 14.0, 30.0, 36.0)

SPINE_Y = 64.0
VERTEBRA_PITCH = 31.0
VERTEBRA_ZERO_Z = -16.0
"""Middle of the body of T11."""


@dataclass(slots=True, eq=False)
class Build:
    """A body while it is painted.

    Parameters
    ----------
    fat_mm
        Thickness of the subcutaneous fat at the flanks.
    cavity
        Level of the inside of ribs and belly wall, over the whole canvas.
    dome
        z of the diaphragm, (row, column).
    levels
        Level of each organ that can hold lesions, over the whole canvas; keys as ``"lung RIGHT"``.
    tubes
        Vessels and where they run, for lesions that touch one.
    wobble
        Smooth displacement of borders, deviation 1, over the whole canvas.
    contrast
        Hounsfield units of (arteries, veins).

    """

    canvas: Canvas
    rng: np.random.Generator
    fat_mm: float
    cavity: FloatArray
    dome: FloatArray
    wobble: FloatArray
    texture: FloatArray
    contrast: tuple[float, float]
    levels: dict[str, FloatArray] = field(default_factory=dict)
    tubes: dict[Organ, list[Tube]] = field(default_factory=dict)

    def add_tubes(self, organ: Organ, tubes: list[Tube], hu: float, *, label: str = "vessel") -> None:
        """Paint vessels and remember where they are."""
        paint_tubes(self.canvas, tubes, hu, label)
        self.tubes.setdefault(organ, []).extend(tubes)

    def keep(self, key: str, window: Window, level: FloatArray) -> None:
        """Remember an organ's level; far outside where it was not computed."""
        full = np.full(self.canvas.hu.shape, -50, dtype=np.float32)
        full[window.box] = level
        self.levels[key] = full


def _super_ellipse(canvas: Canvas, centre_y: FloatArray, width: FloatArray, depth: FloatArray) -> FloatArray:
    """Level of an ellipse with full shoulders (power about 2.7), one a slice; arguments (slice,)."""
    u2 = np.square(canvas.x[None, :] / width[:, None])[:, None, :]
    dy = canvas.y[None, :] - centre_y[:, None]
    v2 = np.square(dy / depth[:, None])[:, :, None]
    round_, square = np.sqrt(u2 + v2), np.sqrt(np.sqrt(u2 * u2 + v2 * v2))
    r = 0.5 * round_ + 0.5 * square
    rho = np.sqrt(np.square(canvas.x)[None, None, :] + np.square(dy)[:, :, None])
    level: FloatArray = (1 - r) * rho / np.maximum(r, 0.05)
    return level.astype(np.float32, copy=False)


def _interpolate(z: FloatArray, at: tuple[float, ...], values: tuple[float, ...]) -> FloatArray:
    return np.interp(z, at, values).astype(np.float32)


def start_body(canvas: Canvas, rng: np.random.Generator, fat_mm: float) -> Build:
    """Paint skin, fat and muscle and leave an empty (fat-filled) cavity."""
    z = canvas.z
    lower, upper = canvas.bounds
    wobble = SmoothField.random(rng, lower, upper, 26.0)(z, canvas.y, canvas.x)
    texture = SmoothField.random(rng, lower, upper, (6.0, 5.0, 5.0))(z, canvas.y, canvas.x)
    broad = SmoothField.random(rng, lower, upper, 40.0)(z, canvas.y, canvas.x)
    flat = rng.uniform(0.94, 1.06)
    width = _interpolate(z, _CAVITY_Z, _CAVITY_HALF_WIDTH) * flat
    depth = _interpolate(z, _CAVITY_Z, _CAVITY_HALF_DEPTH) / flat
    centre = _interpolate(z, _CAVITY_Z, _CAVITY_CENTRE_Y)
    cavity = _super_ellipse(canvas, centre, width, depth) + wobble
    shoulder = _interpolate(z, _SHOULDER_Z, _SHOULDER_WIDTH)
    outer_width = np.maximum(width, 116.0) + 15 + fat_mm + shoulder
    outer_depth = np.maximum(depth, 74.0) + 22 + 0.75 * fat_mm
    outer = _super_ellipse(canvas, np.full_like(z, 10.0 + 0.1 * fat_mm), outer_width, outer_depth) + 1.5 * broad
    # The furrow over the spine.
    outer -= 5 * np.exp(-((canvas.x / 14) ** 2))[None, None, :] * (canvas.y > 60)[None, :, None]
    whole = canvas.window()
    if whole is None:
        raise ValueError("the canvas has no voxels")
    canvas.paint(whole, outer, 15.0, "other")
    canvas.paint(whole, outer - 2, -103 + 5 * texture, "fat")
    # Fat is thin over the back's middle and thick at the flanks and belly.
    thickness = fat_mm * (0.8 + 0.2 * broad) * (1 - 0.45 * (canvas.y > 40))[None, :, None]
    strands = np.where(np.abs(wobble + 0.3 * broad) < 0.14, -95.0, 56 + 6 * texture).astype(np.float32)
    canvas.paint(whole, outer - thickness - 2, strands, "muscle")
    canvas.paint(whole, cavity, -98 + 6 * texture, "fat")
    contrast = (float(rng.uniform(150, 200)), float(rng.uniform(150, 185)))
    return Build(canvas, rng, fat_mm, cavity, _dome(canvas, rng), wobble, texture, contrast)


def _dome(canvas: Canvas, rng: np.random.Generator) -> FloatArray:
    """Z of the diaphragm over (row, column): two domes, the right one higher."""
    x, y = canvas.x[None, :], canvas.y[:, None]
    result = np.full((len(canvas.y), len(canvas.x)), -400, dtype=np.float32)
    for side, top in ((-1, 0.0), (1, rng.uniform(-22, -8))):
        q = ((x - side * 60) / 78) ** 2 + ((y + 8) / 96) ** 2
        result = np.maximum(result, top - 84 * (1 - np.sqrt(np.clip(1 - q, 0.02, 1))))
    return result.astype(np.float32)


def paint_skeleton(build: Build) -> None:
    """Ribs, sternum, shoulder blades, pelvis and spine with a cortical shell."""
    _paint_ribs(build)
    canvas, rng = build.canvas, build.rng
    plates: list[tuple[Vec, Vec, float]] = []
    for side in (-1, 1):
        plates.append(((165.0, 92.0, side * 104.0), (60.0, 5.5, 40.0), side * -0.55))
        plates.append(((-250.0, 50.0, side * 96.0), (50.0, 7.0, 52.0), side * -0.9))
        plates.append(((205.0, -20.0, side * 70.0), (7.0, 7.0, 62.0), side * 0.35))
    plates.append(((75.0, -92.0, 0.0), (75.0, 6.0, 17.0), 0.0))
    for centre, radii, turn in plates:
        window = canvas.around(centre, max(radii))
        if window is not None:
            level = window.ellipsoid(centre, radii, turn=turn)
            level += np.float32(0.6) * build.wobble[window.box]
            canvas.paint(window, level, 560.0, "bone")
            canvas.paint(window, level - 2.2, 170.0, "bone")
    _paint_spine(build, float(rng.uniform(140, 220)))


def _paint_ribs(build: Build) -> None:
    """Slanted rings in the wall; in front they are cartilage."""
    canvas = build.canvas
    window = canvas.window((-105.0, -200.0, -220.0), (215.0, 200.0, 220.0))
    if window is None:
        return
    slant = 0.42
    phase = np.mod(window.z - slant * window.y, 26.0) - 13
    cavity = build.cavity[window.box]
    level = np.minimum(3.6 - np.abs(cavity + 5.5), 5.5 - np.abs(phase))
    # The costal margin: no ribs in front of the belly, none where the sternum is.
    margin = window.z + 35 + 0.75 * window.y
    level = np.minimum(level, np.minimum(margin, np.abs(window.x) - 20))
    front = window.y < -62
    canvas.paint(window, level, np.where(front, 110, 620).astype(np.float32), "bone")
    canvas.paint(window, level - 2.0, np.where(front, 90, 260).astype(np.float32), "bone")


def _paint_spine(build: Build, marrow: float) -> None:
    canvas = build.canvas
    window = canvas.window((-400.0, SPINE_Y - 30, -60.0), (400.0, SPINE_Y + 85, 60.0))
    if window is None:
        return
    grown = 1 - 0.0011 * np.clip(window.z + 100, 0, 300)
    dy = window.y - SPINE_Y
    ring = np.sqrt((window.x / (24 * grown)) ** 2 + (dy / (17 * grown)) ** 2)
    body = (1 - ring) * 17 + 0.5 * build.wobble[window.box]
    phase = np.abs(np.mod(window.z - VERTEBRA_ZERO_Z + VERTEBRA_PITCH / 2, VERTEBRA_PITCH) - VERTEBRA_PITCH / 2)
    vertebra = np.minimum(body + 1.2 * (phase / 12) ** 2, 12.2 - phase)
    canvas.paint(window, body, 85.0, "bone")
    canvas.paint(window, vertebra, 520.0, "vertebra")
    speckle = marrow + 28 * build.texture[window.box]
    canvas.paint(window, vertebra - 1.8, speckle, "vertebra")
    build.keep("bone", window, vertebra - 1.0)
    canal_y = SPINE_Y + 15 + 11
    hole = np.sqrt((window.x / 11.5) ** 2 + ((window.y - canal_y) / 9.5) ** 2)
    arch = 4.2 - np.abs((hole - 1) * 10 - 4.2) + np.minimum(4 - 0.4 * phase, 0)
    spinous = np.minimum(
        4.2 - np.abs(window.x),
        np.minimum(window.y - canal_y - 12, canal_y + 24 + 0.3 * min(build.fat_mm, 20) - window.y) + 5 - 0.8 * phase,
    )
    transverse = np.minimum(
        5 - np.abs(window.y - canal_y - 2 - 0.15 * np.abs(window.x)),
        np.minimum(np.abs(window.x) - 10, 42 - np.abs(window.x)) + 3 - 1.1 * phase,
    )
    for level in (arch, spinous, transverse):
        canvas.paint(window, level, 480.0, "bone")
        canvas.paint(window, level - 2.2, 200.0, "bone")
    canvas.paint(window, (1 - hole) * 10, 28.0, "other")


def paint_chest(build: Build) -> None:
    """Lungs with their vessels and airways, heart, great vessels."""
    canvas = build.canvas
    window = canvas.window((-95.0, -110.0, -150.0), (235.0, 110.0, 150.0))
    if window is None:
        return
    heart = window.ellipsoid((42.0, -24.0, 20.0), (47.0, 43.0, 58.0), turn=0.6) + 1.5 * build.wobble[window.box]
    half = np.interp(window.y, (-85, -55, -15, 30, 48, 62, 80), (4, 10, 26, 26, 21, 25, 22)).astype(np.float32)
    taper = _interpolate(window.z, (-60, 60, 140, 190, 225), (0.95, 1.0, 1.12, 1.05, 0.8))
    above = 0.75 * (window.z - build.dome[None, window.box[1], window.box[2]])
    for side, name in ((-1, "RIGHT"), (1, "LEFT")):
        inner = side * window.x - half * taper + 2.2 * side * build.wobble[window.box]
        level = np.minimum(np.minimum(build.cavity[window.box] - 1.5, inner), np.minimum(above, -heart - 5))
        _paint_lung(build, window, level)
        build.keep(f"lung {name}", window, level)
    _paint_heart(build, window, heart)
    _paint_great_vessels(build)
    _paint_airways(build)
    for side in (-1, 1):
        _grow_lung_vessels(build, side)


def _paint_lung(build: Build, window: Window, level: FloatArray) -> None:
    gravity = 0.45 * window.y
    hu = -862 + gravity + 14 * build.texture[window.box] + 10 * build.wobble[window.box]
    build.canvas.paint(window, level, hu, "lung")
    # The oblique fissure: a faint line.
    fissure = np.abs(window.z - oblique_fissure_z(window.y)) * 0.6
    build.canvas.paint(window, np.minimum(level, 0.35 - fissure), hu + 90, "lung")


def oblique_fissure_z(y: FloatArray | float) -> FloatArray | float:
    """Height of the oblique fissure at ``y``: high behind, low in front."""
    return 55.0 + 1.15 * y


def _paint_heart(build: Build, window: Window, heart: FloatArray) -> None:
    artery, vein = build.contrast
    canvas = build.canvas
    below = window.z - build.dome[None, window.box[1], window.box[2]] + 8
    heart = np.minimum(heart, below)
    canvas.paint(window, np.minimum(heart + 4, build.cavity[window.box] - 3), -90.0, "fat")
    canvas.paint(window, heart, 95 + 5 * build.texture[window.box], "heart")
    chambers = (
        ((38.0, -20.0, 42.0), (28.0, 17.0, 28.0), 0.6, artery + 10),
        ((40.0, -48.0, 8.0), (28.0, 13.0, 34.0), 0.5, vein + 10),
        ((48.0, -22.0, -22.0), (30.0, 19.0, 15.0), 0.2, vein + 5),
        ((62.0, 6.0, 8.0), (20.0, 15.0, 26.0), 0.1, artery + 8),
    )
    for centre, radii, turn, hu in chambers:
        part = canvas.around(centre, max(radii) + 3)
        if part is not None:
            level = part.ellipsoid(centre, radii, turn=turn) + 0.8 * build.wobble[part.box]
            canvas.paint(part, level, hu + 4 * build.texture[part.box], "heart")


def _paint_great_vessels(build: Build) -> None:
    artery, vein = build.contrast
    j = build.rng.uniform(-3, 3, 4)
    arch = [
        (58.0, -12.0, -4.0), (95.0, -20.0, -16.0), (130.0, -14.0, -13.0 + j[0]), (147.0, 4.0, 2.0),
        (142.0, 30.0, 17.0), (120.0, 44.0, 23.0 + j[1]), (40.0, 46.0, 23.0), (-40.0, 42.0, 14.0), (-110.0, 36.0, 8.0),
        (-200.0, 34.0, 5.0), (-300.0, 34.0, 4.0),
    ]  # fmt: skip
    aorta = chain(arch, [15, 16, 15, 14, 13, 12.5, 12, 11.5, 10.5, 9.5, 9])
    cava = chain([(175.0, 0.0, -30.0), (120.0, -10.0, -31.0), (66.0, -12.0, -29.0)], [8, 9.5, 10]) + chain(
        [(60.0, -5.0, -26.0), (-15.0, 18.0, -24.0), (-110.0, 33.0, -20.0), (-300.0, 36.0, -18.0)], [11, 11, 11, 10]
    )
    pulmonary = chain(
        [
            (72.0, -40.0, 14.0),
            (95.0, -32.0, 17.0),
            (112.0, -10.0, 12.0 + j[2]),
            (104.0, 2.0, -16.0),
            (98.0, 8.0, -36.0),
        ],
        [13, 13.5, 13, 10.5, 9],
    ) + chain([(108.0, -12.0, 18.0), (112.0, 8.0, 30.0), (102.0, 16.0, 38.0)], [12, 10.5, 9])
    head = chain([(145.0, -6.0, -8.0), (185.0, 2.0, -18.0), (240.0, 5.0, -24.0)], [6.5, 6, 5])
    head += chain([(148.0, 5.0, 5.0), (240.0, 8.0, 16.0)], [4.5, 4]) + chain(
        [(145.0, 20.0, 14.0), (240.0, 14.0, 32.0)], [5.5, 5]
    )
    innominate = chain([(150.0, -14.0, -27.0), (162.0, -22.0, 5.0), (180.0, -12.0, 26.0)], [7.5, 7, 6.5])
    gullet = chain([(240.0, 36.0, 4.0), (120.0, 38.0, 5.0), (40.0, 32.0, 4.0), (-25.0, 22.0, 14.0)], [7, 7, 7, 8])
    paint_tubes(build.canvas, gullet, 45.0, "other")
    build.add_tubes(Organ.MEDIASTINUM, cava + innominate, vein)
    build.add_tubes(Organ.MEDIASTINUM, pulmonary, vein + 5)
    build.add_tubes(Organ.MEDIASTINUM, aorta + head, artery)
    build.tubes[Organ.RETROPERITONEUM] = [t for t in aorta + cava if t.end[0] < -20]


def _paint_airways(build: Build) -> None:
    windpipe = chain([(240.0, 18.0, 1.0), (170.0, 22.0, -1.0), (122.0, 28.0, -2.0)], [8.5, 8.5, 8.5])
    right = chain([(122.0, 28.0, -3.0), (100.0, 26.0, -30.0), (78.0, 28.0, -42.0), (52.0, 38.0, -56.0)], [7, 6, 4.5, 3])
    left = chain([(122.0, 28.0, -1.0), (98.0, 28.0, 34.0), (78.0, 32.0, 44.0), (54.0, 42.0, 58.0)], [6.5, 5.5, 4, 2.8])
    upper = chain([(104.0, 26.0, -26.0), (118.0, 22.0, -52.0)], [4.5, 2.6])
    upper += chain([(98.0, 28.0, 34.0), (120.0, 16.0, 52.0)], [4.5, 2.6])
    tubes = windpipe + right + left + upper
    paint_tubes(build.canvas, tubes, 30.0, "other", grow=1.4)
    paint_tubes(build.canvas, tubes, -985.0, "airway")


def _grow_lung_vessels(build: Build, side: int) -> None:
    """Arteries and veins from the hilum outwards, cut where the lung ends."""
    canvas, rng = build.canvas, build.rng
    level = build.levels["lung RIGHT" if side < 0 else "lung LEFT"]

    def fits(point: Vec, radius: float) -> bool:
        return canvas.level_at(level, point) > radius + 2

    for turn in np.linspace(0, 2 * np.pi, 16, endpoint=False) + rng.uniform(0, 0.4):
        heading = (float(np.cos(turn)), float(np.sin(turn)), side * rng.uniform(0.25, 0.95))
        thick = rng.uniform(3.2, 4.6)
        hilum = (98.0, 14.0, side * 36.0)
        tree = grow_tree(rng, hilum, heading, radius=thick, length=24.0, depth=6, spread=0.75, fits=fits)
        build.add_tubes(Organ.LUNG, tree, 60.0 + 0.35 * build.contrast[1])
