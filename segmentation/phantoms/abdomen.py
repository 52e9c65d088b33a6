"""The belly: liver, spleen, kidneys, adrenals, stomach, pancreas, bowel, and their vessels."""

from __future__ import annotations

import numpy as np

from segmentation.phantoms.canvas import FloatArray, Vec, Window, chain, grow_tree, paint_tubes
from segmentation.phantoms.torso import SPINE_Y, Build
from segmentation.phantoms.types import Organ

RENAL_CENTRE = {"RIGHT": (-138.0, 40.0, -60.0), "LEFT": (-120.0, 38.0, 61.0)}
ADRENAL_CENTRE = {"RIGHT": (-72.0, 44.0, -38.0), "LEFT": (-70.0, 36.0, 36.0)}


def paint_abdomen(build: Build) -> None:
    """Paint from the back forwards; what comes later covers what came before."""
    if build.canvas.z[0] > 5:
        return
    _paint_back_muscles(build)
    _paint_bowel(build)
    _paint_stomach(build)
    _paint_pancreas(build)
    _paint_spleen(build)
    for side in ("RIGHT", "LEFT"):
        _paint_kidney(build, side)
    _paint_liver(build)
    for side in ("RIGHT", "LEFT"):
        _paint_adrenal(build, side)
    _paint_vessels(build)


def _below_lungs(build: Build, window: Window) -> FloatArray:
    """Level of the space under the diaphragm and within the belly wall."""
    under = 0.75 * (build.dome[None, window.box[1], window.box[2]] - window.z)
    level: FloatArray = np.minimum(under, build.cavity[window.box]) - 2.5
    return level


def _paint_back_muscles(build: Build) -> None:
    canvas = build.canvas
    for side in (-1, 1):
        grown = build.rng.uniform(0.85, 1.15)
        psoas = [(-85.0, SPINE_Y, side * 27.0), (-150.0, SPINE_Y - 2, side * 36.0), (-300.0, SPINE_Y - 14, side * 50.0)]
        paint_tubes(canvas, chain(psoas, [3, 15 * grown, 24 * grown]), 58.0, "muscle")
        crus = [(-15.0, 40.0, side * 22.0), (-60.0, 42.0, side * 17.0), (-115.0, 50.0, side * 12.0)]
        paint_tubes(canvas, chain(crus, [3.0, 3.5, 2.5]), 58.0, "muscle")
        quadratus = [(-110.0, 72.0, side * 52.0), (-260.0, 70.0, side * 62.0)]
        paint_tubes(canvas, chain(quadratus, [8.0, 13.0]), 56.0, "muscle")


def _paint_bowel(build: Build) -> None:
    """Colon at the flanks with gas and stool, small bowel loops in front, fat with vessels between."""
    rng = build.rng
    for side, y in ((-1, 14.0), (1, 26.0)):
        z = np.arange(-250.0, -95.0 if side < 0 else -50.0, 28.0)
        points = [(float(v), y + rng.uniform(-7, 7), side * (92 + rng.uniform(-5, 5))) for v in z]
        _paint_gut(build, points, 19.0, stool=True)
    x = np.arange(-80.0, 85.0, 26.0)
    sag = rng.uniform(10, 40)
    across = [(-118 - sag * (1 - (v / 85) ** 2) + rng.uniform(-6, 6), -50 + rng.uniform(-6, 6), float(v)) for v in x]
    _paint_gut(build, across, 17.0, stool=True)
    for _ in range(17):
        here = np.array([rng.uniform(-250, -125), rng.uniform(-58, -8), rng.uniform(-72, 72)])
        heading = rng.standard_normal(3)
        points = []
        for _ in range(5):
            points.append((float(here[0]), float(here[1]), float(here[2])))
            heading = 0.7 * heading + rng.standard_normal(3)
            here = here + heading / np.linalg.norm(heading) * rng.uniform(14, 22)
            here = np.clip(here, (-260, -66, -80), (-120, 2, 80))
        _paint_gut(build, points, rng.uniform(8.5, 12.5), stool=False)
    duodenum = [
        (-92.0, -12.0, -26.0),
        (-110.0, 6.0, -38.0),
        (-140.0, 12.0, -34.0),
        (-150.0, 10.0, -5.0),
        (-138.0, 8.0, 24.0),
    ]
    _paint_gut(build, duodenum, 11.0, stool=False)


def _paint_gut(build: Build, points: list[Vec], radius: float, *, stool: bool) -> None:
    """One loop: wall, content, and gas above its level in front."""
    canvas, rng = build.canvas, build.rng
    tubes = chain(points, [radius * rng.uniform(0.8, 1.15) for _ in points])
    boxes = [tube.box(6.0) for tube in tubes]
    lower = tuple(min(b[0][i] for b in boxes) for i in range(3))
    upper = tuple(max(b[1][i] for b in boxes) for i in range(3))
    window = canvas.window(lower, upper)  # type: ignore[arg-type]  # three axes
    if window is None:
        return
    level = window.capsule(tubes[0].start, tubes[0].end, tubes[0].r_start, tubes[0].r_end)
    for tube in tubes[1:]:
        np.maximum(level, window.capsule(tube.start, tube.end, tube.r_start, tube.r_end), out=level)
    wobble, texture = build.wobble[window.box], build.texture[window.box]
    level = np.minimum(level + 1.8 * wobble, _below_lungs(build, window))
    canvas.paint(window, level, 78 + 5 * texture, "bowel")
    content = 25 + 45 * texture if stool else rng.uniform(12, 60) + 4 * texture
    canvas.paint(window, level - 2.2, content.astype(np.float32), "bowel")
    if stool:
        canvas.paint(window, np.minimum(level - 2.2, 5 * (texture - 1.0)), -650.0, "bowel")
    if stool or rng.random() < 0.3:
        fluid_y = float(np.mean([p[1] for p in points])) + rng.uniform(-0.8, 0.4) * radius
        canvas.paint(window, np.minimum(level - 2.5, fluid_y - window.y), -960.0, "bowel")


def _paint_stomach(build: Build) -> None:
    canvas, rng = build.canvas, build.rng
    window = canvas.window((-130.0, -90.0, -50.0), (0.0, 60.0, 120.0))
    if window is None:
        return
    fundus = window.ellipsoid((-48.0, -8.0, 58.0), (42.0, 40.0, 36.0), turn=-0.5, tilt=0.2)
    antrum = window.capsule((-70.0, -40.0, 40.0), (-92.0, -42.0, -18.0), 24.0, 13.0)
    level = np.minimum(np.maximum(fundus, antrum) + 2 * build.wobble[window.box], _below_lungs(build, window))
    folds = build.texture[window.box]
    canvas.paint(window, level, 85 + 5 * folds, "bowel")
    canvas.paint(window, level - 3.5 - 1.2 * folds, rng.uniform(8, 45) + 5 * folds, "bowel")
    fluid_y = rng.uniform(-42, -20)
    canvas.paint(window, np.minimum(level - 4, fluid_y - window.y), -970.0, "bowel")


def _paint_pancreas(build: Build) -> None:
    points = [
        (-118.0, -2.0, -20.0),
        (-104.0, -8.0, -4.0),
        (-96.0, -4.0, 16.0),
        (-86.0, 12.0, 46.0),
        (-76.0, 24.0, 72.0),
    ]
    tubes = chain(points, [13.0, 10.0, 8.5, 9.0, 7.5])
    window = build.canvas.window((-135.0, -30.0, -40.0), (-60.0, 50.0, 90.0))
    if window is None:
        return
    level = window.capsule(tubes[0].start, tubes[0].end, 13.0, 10.0)
    for tube in tubes[1:]:
        np.maximum(level, window.capsule(tube.start, tube.end, tube.r_start, tube.r_end), out=level)
    texture = build.texture[window.box]
    build.canvas.paint(window, level + 1.8 * texture, 98 + 9 * texture, "other")


def _paint_spleen(build: Build) -> None:
    window = build.canvas.window((-120.0, -20.0, 40.0), (5.0, 90.0, 135.0))
    if window is None:
        return
    size = build.rng.uniform(0.9, 1.12)
    level = window.ellipsoid((-52.0, 40.0, 96.0), (50 * size, 50 * size, 27 * size), turn=0.45, tilt=0.1)
    level = np.minimum(level + 1.5 * build.wobble[window.box], _below_lungs(build, window))
    build.canvas.paint(window, level, 122 + 4 * build.texture[window.box], "spleen")
    build.keep("spleen", window, level)


def _paint_kidney(build: Build, side: str) -> None:
    """Cortex brighter than medulla, fat and collecting system in the sinus that opens towards the midline."""
    canvas, rng = build.canvas, build.rng
    z, y, x = RENAL_CENTRE[side]
    sign = 1 if x > 0 else -1
    window = canvas.window((z - 75, y - 42, x - 50), (z + 75, y + 42, x + 50))
    if window is None:
        return
    size = rng.uniform(0.9, 1.1)
    tilt, turn = -0.22 * sign, 0.5 * sign
    wobble, texture = build.wobble[window.box], build.texture[window.box]
    level = window.ellipsoid((z, y, x), (57 * size, 29 * size, 25 * size), turn=turn, tilt=tilt) + 1.2 * wobble
    level = np.minimum(level, build.cavity[window.box] - 4)
    fascia = np.minimum(1.1 - np.abs(level + 11), build.cavity[window.box])
    canvas.paint(window, fascia, -45.0, "fat")
    canvas.paint(window, level, rng.uniform(165, 200) + 5 * texture, "kidney")
    pyramids = np.minimum(level - 6.5, 4.0 * (texture + 0.35))
    canvas.paint(window, pyramids, 138 + 4 * texture, "kidney")
    sinus = window.ellipsoid((z, y - 4, x - sign * 9), (30.0, 11.0, 15.0), turn=turn, tilt=tilt) + 2.5 * texture
    canvas.paint(window, sinus, -85.0, "fat")
    canvas.paint(window, sinus - 5 + 3.0 * texture, 25.0, "other")
    build.keep(f"kidney {side}", window, level)


def _paint_adrenal(build: Build, side: str) -> None:
    """Two thin limbs that meet in front, an inverted V or Y."""
    z, y, x = ADRENAL_CENTRE[side]
    sign = 1 if x > 0 else -1
    joint = (y - 8, x - sign * 2)
    limbs = (
        (joint, (y + 14, x - sign * 6)),
        (joint, (y + 12, x + sign * 9)),
    )
    window = build.canvas.window((z - 22, y - 30, x - 28), (z + 22, y + 30, x + 28))
    if window is None:
        return
    level = np.full(np.broadcast_shapes(window.z.shape, window.y.shape, window.x.shape), -50, dtype=np.float32)
    for start, end in limbs:
        flat = window.capsule((z, start[0], start[1]), (z, end[0], end[1]), 3.2, 2.4)
        # A plate: the limb drawn at every height between its ends.
        tall = np.abs(window.z - z) - 16
        np.maximum(level, _plate(window, start, end) - np.maximum(tall, 0), out=level)
        np.maximum(level, flat, out=level)
    level += np.float32(0.4) * build.wobble[window.box]
    build.canvas.paint(window, level, 78.0, "adrenal")
    build.keep(f"adrenal {side}", window, window.ellipsoid((z, y, x), (16.0, 12.0, 11.0)))


def _plate(window: Window, start: tuple[float, float], end: tuple[float, float]) -> FloatArray:
    """Level of a wall that stands on the segment ``start`` to ``end`` (y, x), 5 mm thick."""
    py, px = window.y - start[0], window.x - start[1]
    dy, dx = end[0] - start[0], end[1] - start[1]
    t = np.clip((py * dy + px * dx) / (dy * dy + dx * dx), 0, 1)
    distance = np.sqrt((py - t * dy) ** 2 + (px - t * dx) ** 2)
    return (2.6 - distance).astype(np.float32)


def _paint_liver(build: Build) -> None:
    canvas, rng = build.canvas, build.rng
    window = canvas.window((-175.0, -95.0, -135.0), (5.0, 95.0, 75.0))
    if window is None:
        return
    low = rng.uniform(-12, 12)
    wobble, texture = build.wobble[window.box], build.texture[window.box]
    left_end = np.interp(
        window.z, (-165 + low, -140 + low, -115, -88, -60, -30, 0), (-112, -78, -48, -8, 42, 58, 48)
    ).astype(np.float32)
    back = np.interp(window.x, (-125, -80, -45, -18, 8, 40, 70), (95, 74, 46, 20, -6, -22, -30)).astype(np.float32)
    level = np.minimum(0.8 * (left_end - window.x), 0.75 * (back - window.y))
    level = np.minimum(level + 5 * wobble, _below_lungs(build, window))
    kidney = build.levels.get("kidney RIGHT")
    if kidney is not None:
        level = np.minimum(level, -kidney[window.box] - 4)
    base = rng.uniform(102, 118)
    canvas.paint(window, level, base + 4 * texture, "liver")
    # The falciform ligament's fissure and the gallbladder in its fossa.
    ligament = np.minimum(1.8 - np.abs(window.x + 6 + 0.1 * window.y), np.minimum(-18 - window.y, -38 - window.z))
    canvas.paint(window, np.minimum(ligament, level), -60.0, "fat")
    sac = window.ellipsoid((-112.0, -34.0, -48.0), (28.0, 17.0, 14.0), turn=0.4, tilt=-0.2)
    canvas.paint(window, sac + 1.5, 70.0, "other")
    canvas.paint(window, sac, 8.0, "other")
    build.keep("liver", window, np.minimum(level, -sac - 2))
    _grow_liver_vessels(build)


def _grow_liver_vessels(build: Build) -> None:
    """Portal branches from the porta, hepatic veins from the cava under the diaphragm."""
    rng, canvas, level = build.rng, build.canvas, build.levels["liver"]

    def fits(point: Vec, radius: float) -> bool:
        return canvas.level_at(level, point) > radius + 1

    portal = ((0.2, -0.2, -1.0), (-0.5, 0.3, -0.9), (0.4, -0.9, 0.3))
    hepatic = ((-0.25, 0.1, -1.0), (-0.45, -0.75, -0.7), (-0.25, -1.0, 0.3))
    for root, headings, thick, spread in (
        ((-76.0, 6.0, -34.0), portal, 5.0, 0.7),
        ((-20.0, 14.0, -26.0), hepatic, 4.4, 0.55),
    ):
        for heading in headings:
            tree = grow_tree(rng, root, heading, radius=thick, length=27.0, depth=4, spread=spread, fits=fits)
            build.add_tubes(Organ.LIVER, tree, build.contrast[1] + 2)


def _paint_vessels(build: Build) -> None:
    """Portal, splenic and renal vessels, and the mesenteric tree in the fat between the loops."""
    rng = build.rng
    artery, vein = build.contrast
    portal = chain([(-112.0, -2.0, -2.0), (-94.0, 4.0, -10.0), (-76.0, 6.0, -34.0)], [7, 7, 6])
    splenic = chain([(-94.0, 4.0, -10.0), (-88.0, 16.0, 22.0), (-72.0, 30.0, 74.0)], [4.5, 4.5, 4])
    celiac = chain([(-72.0, 34.0, 10.0), (-74.0, 18.0, 8.0), (-76.0, 12.0, -20.0)], [4, 3.2, 2.5])
    build.add_tubes(Organ.RETROPERITONEUM, portal + splenic, vein)
    build.add_tubes(Organ.RETROPERITONEUM, celiac, artery)
    for side, root_x in (("RIGHT", -20.0), ("LEFT", 8.0)):
        z, y, x = RENAL_CENTRE[side]
        sign = 1 if x > 0 else -1
        renal = chain([(z + 12, 34.0, root_x), (z + 4, 34.0, x - sign * 22), (z, y, x - sign * 10)], [5, 4.5, 3])
        build.add_tubes(Organ.RETROPERITONEUM, renal, vein)
    stems = ((-1.0, -0.55, 0.25), (-0.9, -0.7, -0.5), (-0.8, -0.55, 0.9))

    def fits(point: Vec, _radius: float) -> bool:
        return abs(point[2]) < 95 and -80 < point[1] < 34

    trees = chain([(-92.0, 26.0, 7.0), (-112.0, 8.0, 4.0), (-128.0, 2.0, 2.0)], [4.2, 4.2, 4])
    for stem in stems:
        trees += grow_tree(rng, (-126.0, 2.0, 2.0), stem, radius=3.2, length=30.0, depth=4, spread=0.8, fits=fits)
    build.add_tubes(Organ.MESENTERY, trees, 0.5 * (artery + vein))
