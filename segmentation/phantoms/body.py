"""A CT of a generated body: anatomy, lesions, noise, padding; the entry point of the package."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
from numpy.typing import NDArray
from scipy.fft import irfft2
from scipy.ndimage import gaussian_filter

from segmentation.phantoms.abdomen import paint_abdomen
from segmentation.phantoms.canvas import Canvas, FloatArray, Vec, linear_weights
from segmentation.phantoms.drawing import Grid, LesionPainter
from segmentation.phantoms.torso import Build, paint_chest, paint_skeleton, start_body
from segmentation.phantoms.types import (
    REGIONS,
    LesionKind,
    LesionSpec,
    Organ,
    Phantom,
    PhantomError,
    Region,
    Side,
    Touching,
    catalogue,
)
from segmentation.types import Volume

# Height of the middle of the scan above the right dome of the diaphragm, for an average body.
_MIDDLE_Z_MM = {"chest": 95.0, "abdomen": -110.0, "chest_abdomen": -25.0}
_HU_RANGE = (-1024.0, 3071.0)


def body_phantom(
    rng: np.random.Generator,
    lesions: Sequence[LesionSpec],
    *,
    region: Region,
    n_slices: int = 48,
    spacing_mm: tuple[float, float, float] = (5.0, 0.74, 0.74),
    matrix: int = 512,
    padding_value: int | None = None,
    noise_hu: float = 15.0,
    with_labels: bool = False,
    series_instance_uid: str | None = None,
    frame_of_reference_uid: str | None = None,
    sop_instance_uids: Sequence[str] | None = None,
) -> Phantom:
    """Draw a body with these lesions, scanned supine and axially.

    The same generator state gives the same bits. Body, noise and each lesion have generators of their own: the same
    state with other lesions gives the same body.

    Parameters
    ----------
    region
        What the middle of the scan shows; ``n_slices`` times the slice spacing decides how far it reaches.
    spacing_mm
        (slice, row, column).
    padding_value
        Stored outside the circle of the reconstruction when given, as scanners do (-2000, say); else air.
    noise_hu
        Deviation of the noise inside a body of average thickness.
    with_labels
        Also return the map of the anatomy.
    series_instance_uid, frame_of_reference_uid, sop_instance_uids
        Made up from ``rng`` (UUID-derived, PS3.5 B.2) where not given.

    Returns
    -------
    Volume with slice 0 at the feet, columns growing to the patient's left, rows to the back.

    Raises
    ------
    PhantomError
        If a value is out of range, or a lesion finds no room.

    """
    _require(region, n_slices, spacing_mm, matrix, padding_value)
    seeds = rng.integers(0, 2**63, size=4)
    body_rng, noise_rng, uid_rng = (np.random.default_rng(int(seed)) for seed in seeds[:3])
    build, grid, labels = _anatomy(body_rng, region, (n_slices, matrix, matrix), spacing_mm)
    voxels = _finer(build.canvas.hu, grid.factor)
    affine = _affine(grid, body_rng)
    painter = LesionPainter(build, grid, affine, voxels, np.zeros(grid.shape, dtype=np.bool_), [])
    # Large lesions first: small ones still find room beside them.
    order = sorted(range(len(lesions)), key=lambda i: -lesions[i].diameter_mm)
    drawn = {i: painter.add(lesions[i], np.random.default_rng([int(seeds[3]), i])) for i in order}
    _add_noise(voxels, spacing_mm, noise_hu, noise_rng)
    volume = Volume(
        _stored(voxels, padding_value),
        affine,
        frame_of_reference_uid or _uid(uid_rng),
        series_instance_uid or _uid(uid_rng),
        tuple(sop_instance_uids) if sop_instance_uids is not None else tuple(_uid(uid_rng) for _ in range(n_slices)),
    )
    full = np.repeat(np.repeat(labels, grid.factor, axis=1), grid.factor, axis=2) if with_labels else None
    return Phantom(volume, tuple(drawn[i] for i in range(len(lesions))), full, float(affine[0, 3] - grid.origin_mm[2]))


def random_lesion_specs(
    rng: np.random.Generator, region: Region, n: int, *, diameters_mm: Sequence[float] | None = None
) -> list[LesionSpec]:
    """Draw ``n`` lesions as patients have them: mostly lungs, liver and nodes, small ones more often than large ones.

    Parameters
    ----------
    diameters_mm
        Wanted diameters, one a lesion; each goes to an organ whose usual range holds it. Log-uniform when None.

    Raises
    ------
    PhantomError
        If a diameter fits no organ of the region, or their number is not ``n``.

    """
    if diameters_mm is not None and len(diameters_mm) != n:
        raise PhantomError(f"{len(diameters_mm)} diameters for {n} lesions")
    entries = {organ: entry for organ, entry in catalogue().items() if region in entry.regions}
    specs = []
    for i in range(n):
        wanted = None if diameters_mm is None else float(diameters_mm[i])
        fitting = [o for o, e in entries.items() if wanted is None or e.diameter_mm[0] <= wanted <= e.diameter_mm[1]]
        if not fitting:
            raise PhantomError(f"no organ of the {region} usually holds a lesion of {wanted} mm")
        weights = np.array([_FREQUENCY[organ] for organ in fitting])
        organ = fitting[int(rng.choice(len(fitting), p=weights / weights.sum()))]
        specs.append(_random_spec(rng, organ, wanted))
    return specs


_FREQUENCY = {
    Organ.LUNG: 6.0,
    Organ.LIVER: 5.0,
    Organ.MEDIASTINUM: 3.0,
    Organ.RETROPERITONEUM: 2.0,
    Organ.KIDNEY: 2.0,
    Organ.MESENTERY: 1.5,
    Organ.ADRENAL: 1.0,
    Organ.SPLEEN: 0.5,
    Organ.BONE: 0.5,
}


def _random_spec(rng: np.random.Generator, organ: Organ, diameter_mm: float | None) -> LesionSpec:
    entry = catalogue()[organ]
    low, high = np.log(entry.diameter_mm)
    kinds = list(entry.kinds)
    if LesionKind.LYMPH_NODE in kinds and rng.random() < 0.6:
        kinds = [LesionKind.LYMPH_NODE]
    touching: Touching | None = None
    if entry.touching and rng.random() < 0.4:
        touching = entry.touching[int(rng.integers(len(entry.touching)))]
    return LesionSpec(
        organ=organ,
        side=(Side.LEFT, Side.RIGHT)[int(rng.integers(2))] if entry.sided else None,
        level=round(float(rng.uniform(0.1, 0.9)), 2),
        diameter_mm=float(np.exp(rng.uniform(low, high))) if diameter_mm is None else diameter_mm,
        kind=kinds[int(rng.integers(len(kinds)))],
        touching=touching,
    )


def _require(
    region: str, n_slices: int, spacing_mm: tuple[float, float, float], matrix: int, padding_value: int | None
) -> None:
    if region not in REGIONS:
        raise PhantomError(f"region must be one of {list(REGIONS)}, got {region!r}")
    if n_slices < 4 or matrix < 64:
        raise PhantomError(f"at least 4 slices of 64 x 64 are needed, got {n_slices} of {matrix} x {matrix}")
    if len(spacing_mm) != 3 or not all(0.2 <= step <= 20 for step in spacing_mm):
        raise PhantomError(f"spacing_mm must be three numbers from 0.2 to 20, got {spacing_mm}")
    if abs(spacing_mm[1] - spacing_mm[2]) > 1e-6:
        raise PhantomError(f"pixels must be square, got {spacing_mm[1:]} mm")
    if padding_value is not None and not -32768 <= padding_value <= -1025:
        raise PhantomError(
            f"padding_value must lie in -32768 to -1025, below every Hounsfield unit, got {padding_value}"
        )


def _anatomy(
    rng: np.random.Generator, region: Region, shape: tuple[int, int, int], spacing_mm: Vec
) -> tuple[Build, Grid, NDArray[np.uint8]]:
    """Paint the body on a grid of at least 1.2 mm pixels, on which it is cheap."""
    field_mm = shape[1] * spacing_mm[1]
    fat_mm = float(min(rng.gamma(2.5, 8.0) + 5, 60))
    wide = min(max(field_mm * rng.uniform(0.8, 0.92), 300.0), 430.0)
    in_plane = float(np.clip(wide / (2 * (145 + fat_mm)), 0.82, 1.15))
    scale = (float(rng.uniform(0.93, 1.07)), in_plane)
    factor = 2 if spacing_mm[1] < 1.2 and shape[1] % 2 == 0 else 1
    middle = _MIDDLE_Z_MM[region] * scale[0] + rng.uniform(-8, 8)
    jitter = rng.uniform(-4, 4, 2)
    # The table takes the lower edge of the field of view.
    centre = (middle, (6 + 0.1 * fat_mm) * in_plane + 8 + jitter[0], jitter[1])
    origin = tuple(c - (n - 1) / 2 * s for c, n, s in zip(centre, shape, spacing_mm, strict=True))
    grid = Grid(shape, spacing_mm, origin, scale, factor)
    axes = []
    for i in range(3):
        f, s = (1, scale[0]) if i == 0 else (factor, scale[1])
        index = np.arange(shape[i] // f) * f + (f - 1) / 2
        axes.append(((origin[i] + index * spacing_mm[i]) / s).astype(np.float32))
    canvas = Canvas(*axes)
    _paint_table(canvas, fat_mm)
    build = start_body(canvas, rng, fat_mm)
    paint_skeleton(build)
    paint_chest(build)
    paint_abdomen(build)
    return build, grid, canvas.labels


def _paint_table(canvas: Canvas, fat_mm: float) -> None:
    """The carbon shell of the table and its foam, under the back."""
    window = canvas.window((-1e4, 70.0, -1e4), (1e4, 1e4, 1e4))
    if window is None:
        return
    top = 128 + 0.85 * fat_mm - 0.0009 * np.square(window.x)
    depth = window.y - top
    # The table is the same on every slice.
    sheet = np.minimum(np.minimum(depth, 26 - depth), 215 - np.abs(window.x))
    canvas.hu[window.box] += canvas.occupancy(sheet) * 130 + canvas.occupancy(1.4 - np.abs(sheet - 1.4)) * 520


def _finer(coarse: FloatArray, factor: int) -> FloatArray:
    """Twice as many rows and columns by cubic (Catmull-Rom) interpolation between pixel centres."""
    if factor == 1:
        return coarse.copy()
    n_s, n_r, n_c = coarse.shape
    fine = np.empty((n_s, 2 * n_r, 2 * n_c), dtype=np.float32)
    for i in range(n_s):
        fine[i] = _doubled(_doubled(coarse[i]).T).T
    return fine


_QUARTER = (-0.0703125, 0.8671875, 0.2265625, -0.0234375)
"""Weights of Catmull-Rom interpolation a quarter of the way from the second to the third of four samples."""


def _doubled(image: FloatArray) -> FloatArray:
    """Double the first axis of a 2D array; a fine centre lies a quarter pixel before or after its coarse one."""
    n = len(image)
    padded = np.pad(image, ((2, 2), (0, 0)), mode="edge")
    result = np.zeros((2 * n, image.shape[1]), dtype=np.float32)
    for i, weight in enumerate(_QUARTER):
        result[0::2] += np.float32(weight) * padded[3 - i : 3 - i + n]
        result[1::2] += np.float32(weight) * padded[1 + i : 1 + i + n]
    return result


def _affine(grid: Grid, rng: np.random.Generator) -> NDArray[np.float64]:
    """LPS affine over (slice, row, column): head first, supine, anywhere on the table."""
    affine = np.zeros((4, 4))
    affine[2, 0], affine[1, 1], affine[0, 2] = grid.spacing_mm
    # Tenths of a millimetre, so that the decimal strings of a DICOM header say it exactly.
    x, y, z = (round(float(v), 1) for v in (rng.uniform(-12, 12), rng.uniform(-30, 30), rng.uniform(-1400, -300)))
    start = -round((grid.shape[2] - 1) / 2 * grid.spacing_mm[2], 1)
    affine[:, 3] = (start + x, start + y, z, 1)
    return affine


def _add_noise(voxels: FloatArray, spacing_mm: Vec, noise_hu: float, rng: np.random.Generator) -> None:
    """Noise with the band-passed spectrum of filtered back projection, stronger where the body is thicker."""
    n_s, n_r, n_c = voxels.shape
    fy = np.fft.fftfreq(n_r, spacing_mm[1])[:, None]
    fx = np.fft.rfftfreq(n_c, spacing_mm[2])[None, :]
    frequency = np.hypot(fy, fx)
    spectrum = (np.sqrt(frequency + 0.01) * np.exp(-((frequency / 0.38) ** 2))).astype(np.float32)
    power = 2 * np.sum(spectrum[:, 1:-1] ** 2) + np.sum(spectrum[:, [0, -1]] ** 2)
    spectrum *= np.float32(n_r * n_c / np.sqrt(2 * power))
    block = max(n_r // 32, 1)
    edge = block * (n_r // block)
    rows, columns = (
        linear_weights(((np.arange(n) + 0.5) / block - 0.5).astype(np.float32), edge // block) for n in (n_r, n_c)
    )
    for i in range(n_s):
        parts = rng.standard_normal((2, *spectrum.shape), dtype=np.float32)
        white = np.empty(spectrum.shape, dtype=np.complex64)
        white.real, white.imag = parts * spectrum
        noise = irfft2(white, s=(n_r, n_c))
        water = voxels[i, :edge, :edge].reshape(edge // block, block, edge // block, block).mean(axis=(1, 3)) / 1000 + 1
        strength = noise_hu * (0.3 + 0.85 * gaussian_filter(np.clip(water, 0, 1.2), 2.5 * 32 * block / n_r))
        voxels[i] += noise * (rows @ strength.astype(np.float32) @ columns.T)


def _stored(voxels: FloatArray, padding_value: int | None) -> NDArray[np.int16]:
    stored = np.empty(voxels.shape, dtype=np.int16)
    np.clip(voxels, *_HU_RANGE, out=voxels)
    np.rint(voxels, out=stored, casting="unsafe")
    if padding_value is not None:
        n = voxels.shape[1]
        offset = np.square(np.arange(n) - (n - 1) / 2)
        stored[:, offset[:, None] + offset[None, :] > (n / 2) ** 2] = padding_value
    return stored


def _uid(rng: np.random.Generator) -> str:
    """UUID-derived UID (PS3.5 B.2)."""
    high, low = (int(v) for v in rng.integers(0, 2**63, size=2))
    return f"2.25.{(high << 63 | low) or 1}"
