"""Where in the body a stroke lies: the ``AnatomyLocator`` protocol, and the default that needs no model.

The default, ``RegionLocator``, knows lungs, bone, fat under the skin and heights; it does not know a liver from a
spleen. What it names is coarse on purpose, and None where it cannot tell (docs/anatomy.md has the figures).
"""

from __future__ import annotations

import weakref
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from functools import lru_cache
from typing import Final, Generic, Protocol, TypeVar, runtime_checkable

import numpy as np
from numpy.typing import NDArray

from cohort_builder.anatomy.regions import BodyMap, LungSpan, read_body
from cohort_builder.errors import ConfigError
from segmentation.geometry import FloatArray
from segmentation.types import Volume

T = TypeVar("T")

LUNG: Final = "lung"
LUNG_BORDER: Final = "border of the lung"
LUNG_BASE: Final = "base of the lung"
MEDIASTINUM: Final = "between the lungs"
CHEST_WALL: Final = "wall of the chest"
NECK: Final = "above the lungs"
UNDER_DOMES: Final = "under the domes"
UPPER_ABDOMEN: Final = "upper abdomen"
MIDDLE_ABDOMEN: Final = "middle abdomen"
LOWER_ABDOMEN: Final = "lower abdomen"
ABDOMEN: Final = "abdomen"
BONE: Final = "bone"
SUBCUTANEOUS: Final = "under the skin"

REGIONS = (
    LUNG, LUNG_BORDER, LUNG_BASE, MEDIASTINUM, CHEST_WALL, NECK, UNDER_DOMES, UPPER_ABDOMEN, MIDDLE_ABDOMEN,
    LOWER_ABDOMEN, ABDOMEN, BONE, SUBCUTANEOUS,
)  # fmt: skip
"""Everything that ``RegionLocator`` can name."""

_LEAST_RADIUS_MM = 4.0  # of a place given as one point
_SHELL_MM = (3.0, 6.0, 9.0)  # round a lesion
_DIRECTIONS = 96
_IN_LUNG, _NEAR_LUNG = 0.75, 0.10
_IN_BONE = 0.6
_FAT_HU, _FAT_MIDDLE_HU, _FAT_REACH_HU, _IN_FAT = -25, -95, 60, 0.4
_UNDER_SKIN_MM = 40.0
_SKIN_MM = 7.0
_RAYS, _RAYS_OF_FAT = 36, 7
_WALL_MM, _MEDIASTINUM_MM = 70.0, 150.0
_APEX_MM, _BASE_MM, _DOME_MM = 15.0, 10.0, 20.0
_UPPER_MM, _MIDDLE_MM = 120.0, 240.0
_TRUNK_MM2, _TRUNK_GAS_ML = 35000.0, (5.0, 1000.0)  # more gas may be lungs that were not known as such


@dataclass(frozen=True, slots=True)
class Place:
    """Where a stroke lies: what the locator names there, and the height relative to the lungs (None: not seen)."""

    organ: str | None = None
    lung_level: float | None = None


class AnatomyLocator(Protocol):
    """Names the organ or region at a place of a CT; evidence for links, never more."""

    def organ_at(self, volume: Volume, points_lps_mm: NDArray[np.float64]) -> str | None:
        """Name what a stroke lies in.

        Parameters
        ----------
        volume
            The CT.
        points_lps_mm
            (n, 3) LPS mm: one place, or the points of one stroke, whose lesion lies between them.

        Returns
        -------
        A name that ``organs.organ_agreement`` knows; None where it cannot tell.

        """
        ...


@runtime_checkable
class PlaceLocator(AnatomyLocator, Protocol):
    """A locator that reads a volume once for all its strokes, and may do with a part of it.

    ``is_coarse`` says that slices 5 mm and pixels 3 mm apart are enough: then a series is not read whole.
    """

    is_coarse: bool

    def places(self, volume: Volume, strokes: Sequence[NDArray[np.float64]]) -> list[Place]:
        """One ``Place`` a stroke, in order; each stroke is as in ``organ_at``."""
        ...


class LastRead(Generic[T]):
    """Reads a volume, and remembers what it read for the next stroke on the same voxels; pickled, it has read nothing.

    The voxels are not kept alive.
    """

    def __init__(self, read: Callable[[Volume], T]) -> None:
        self._reader = read
        self._last: tuple[weakref.ref[NDArray[np.int16]], bytes, T] | None = None

    def __reduce__(self) -> tuple[type[LastRead[T]], tuple[Callable[[Volume], T]]]:
        return type(self), (self._reader,)

    def __call__(self, volume: Volume) -> T:
        """What is read from this volume."""
        key = volume.affine.tobytes()
        if self._last is None or self._last[0]() is not volume.voxels or self._last[1] != key:
            self._last = weakref.ref(volume.voxels), key, self._reader(volume)
        return self._last[2]


class RegionLocator:
    """The offline default: regions of ``REGIONS`` from Hounsfield units and shape.

    A lesion in the lung is soft tissue, so a place is named by what surrounds it. Large masses, effusions and crops
    end up in the wide regions (border or base of the lung, under the domes), which contradict little. Of 3,918 points
    in 40 labelled organs of a real abdomen none was contradicted (docs/anatomy.md). Not measured on children and after
    pneumonectomy; of limbs it names bone, fat under the skin or nothing.
    """

    name = "regions"
    version = "1"
    is_coarse = True

    def __init__(self) -> None:
        self._read = LastRead(read_body)

    def organ_at(self, volume: Volume, points_lps_mm: NDArray[np.float64]) -> str | None:
        """See ``AnatomyLocator``; one of ``REGIONS``."""
        return _region(self._read(volume), np.asarray(points_lps_mm, dtype=np.float64).reshape(-1, 3))

    def places(self, volume: Volume, strokes: Sequence[NDArray[np.float64]]) -> list[Place]:
        """See ``PlaceLocator``."""
        return [Place(self.organ_at(volume, points), lung_level(self._read(volume), points)) for points in strokes]


def lung_level(body: BodyMap, points_lps_mm: NDArray[np.float64]) -> float | None:
    """Height of a stroke's middle relative to the lungs: 0 at their lowest slice, 1 at their highest."""
    height = float(np.asarray(points_lps_mm, dtype=np.float64).reshape(-1, 3)[:, 2].mean())
    return None if body.lungs is None else body.lungs.level(height)


def _load_total_segmentator() -> PlaceLocator:
    from cohort_builder.anatomy.totalsegmentator import TotalSegmentatorLocator

    return TotalSegmentatorLocator()


LOCATORS: dict[str, Callable[[], PlaceLocator] | None] = {
    "regions": RegionLocator,
    "totalsegmentator": _load_total_segmentator,
    "none": None,
}


@lru_cache(maxsize=2)
def load_locator(name: str) -> PlaceLocator | None:
    """Return the locator of this name, one for all of a process; None for ``"none"``.

    Raises
    ------
    ConfigError
        The name is unknown.
    SetupError
        What it needs is not installed.

    """
    if name not in LOCATORS:
        raise ConfigError(f"anatomy must be one of {sorted(LOCATORS)}, got {name!r}")
    make = LOCATORS[name]
    return None if make is None else make()


# ---- a place on the map --------------------------------------------------------------------------------------------


def _region(body: BodyMap, points: FloatArray) -> str | None:
    centre = points.mean(axis=0)
    radius = max(float(np.linalg.norm(points - centre, axis=1).max()), _LEAST_RADIUS_MM if len(points) == 1 else 0.0)
    if not _value(body, body.body, centre):
        return None
    share = _lung_share(body, centre, radius)
    if share >= _IN_LUNG:
        return LUNG
    if _bone_share(body, points) >= _IN_BONE:
        return BONE
    if body.lungs is not None and share >= _NEAR_LUNG:
        return LUNG_BASE if _is_low(body.lungs, centre) else LUNG_BORDER
    beside = _beside_lungs(body, centre, radius)
    if beside != MEDIASTINUM and _is_under_skin(body, centre, radius):
        return SUBCUTANEOUS
    return _by_height(body, centre, beside)


def _is_low(lungs: LungSpan, centre: FloatArray) -> bool:
    """Whether the diaphragm and what is under it may be at this height."""
    return float(centre[2]) <= lungs.widest_mm + _DOME_MM


def _by_height(body: BodyMap, centre: FloatArray, beside: str | None) -> str | None:
    """Region of soft tissue away from the lungs, by its height relative to them; ``beside`` at their own height."""
    lungs, height = body.lungs, float(centre[2])
    if lungs is None:
        return ABDOMEN if _is_trunk(body, centre) else None
    if height > lungs.high_mm + _APEX_MM:
        return NECK if lungs.high_seen else None
    if height < lungs.low_mm - _BASE_MM:
        return _below(lungs.low_mm - height) if lungs.low_seen else None
    return UNDER_DOMES if _is_low(lungs, centre) else beside


def _below(depth_mm: float) -> str:
    """Region of the abdomen so far below the lowest lung; the limits leave room for deep lungs and long livers."""
    if depth_mm <= _UPPER_MM:
        return UPPER_ABDOMEN
    return MIDDLE_ABDOMEN if depth_mm <= _MIDDLE_MM else LOWER_ABDOMEN


def _sample(body: BodyMap, array: NDArray[np.generic], points: FloatArray, outside: float) -> NDArray[np.float64]:
    """Values at (..., 3) LPS mm; ``outside`` where the scan does not reach."""
    index = body.index_of(points)
    inside = np.all((index >= 0) & (index < array.shape), axis=-1)
    clipped = np.clip(index, 0, np.array(array.shape) - 1)
    values = array[clipped[..., 0], clipped[..., 1], clipped[..., 2]].astype(np.float64)
    return np.where(inside, values, outside)


def _value(body: BodyMap, mask: NDArray[np.bool_], point: FloatArray) -> bool:
    return bool(_sample(body, mask, point[None], 0.0)[0])


def _sphere() -> FloatArray:
    """Evenly spread unit vectors (a Fibonacci sphere)."""
    k = np.arange(_DIRECTIONS) + 0.5  # the middle of each of as many bands of equal area
    polar, turn = np.arccos(1 - 2 * k / _DIRECTIONS), np.pi * (1 + 5**0.5) * k
    return np.column_stack([np.cos(turn) * np.sin(polar), np.sin(turn) * np.sin(polar), np.cos(polar)])


def _lung_share(body: BodyMap, centre: FloatArray, radius: float) -> float:
    """Part of the shell round a lesion that is lung; what the scan does not show is left out."""
    if body.lungs is None:
        return 0.0
    shells = np.array([radius + more for more in _SHELL_MM])
    values = _sample(body, body.lung, centre + _sphere()[None] * shells[:, None, None], np.nan)
    known = ~np.isnan(values)
    return float(values[known].mean()) if known.mean() > 0.5 else 0.0


def _bone_share(body: BodyMap, points: FloatArray) -> float:
    """Part of the way between the points of a stroke that is bone."""
    centre = points.mean(axis=0)
    steps = np.linspace(0, 1, 9)[:, None, None]
    return float(_sample(body, body.bone, centre + (points - centre)[None] * steps, 0.0).mean())


def _turned(n: int) -> FloatArray:
    """Unit vectors in the transverse plane, LPS."""
    angles = np.arange(n) * 2 * np.pi / n
    return np.column_stack([np.cos(angles), np.sin(angles), np.zeros(n)])


def _is_under_skin(body: BodyMap, centre: FloatArray, radius: float) -> bool:
    """Whether fat surrounds the lesion, and little but fat and skin leads to the air over at least 70 degrees."""
    round_it = centre + _turned(_RAYS)[:, None] * np.array([radius + 4.0, radius + 8.0])[None, :, None]
    if float((np.abs(_sample(body, body.hounsfield, round_it, 0.0) - _FAT_MIDDLE_HU) < _FAT_REACH_HU).mean()) < _IN_FAT:
        return False
    away = np.arange(radius + 4.0, radius + _UNDER_SKIN_MM, float(body.spacing_mm[1:].min()))
    points = centre + _turned(_RAYS)[:, None] * away[None, :, None]
    inside = _sample(body, body.body, points, np.nan)
    values = _sample(body, body.hounsfield, points, np.nan)
    clear = np.zeros(_RAYS, dtype=bool)
    for i in range(_RAYS):
        out = np.flatnonzero(inside[i] == 0)
        if not len(out) or np.isnan(inside[i, : out[0]]).any():
            continue
        skin = away[out[0]] - _SKIN_MM
        path = values[i, : out[0]][away[: out[0]] < skin]
        clear[i] = bool((path < _FAT_HU).all() and (path > -250).all()) if len(path) else True
    return _longest_run(clear) >= _RAYS_OF_FAT


def _longest_run(clear: NDArray[np.bool_]) -> int:
    """Length of the longest run of True on a circle."""
    if clear.all():
        return len(clear)
    blocked = np.flatnonzero(~clear)
    gaps = np.diff(np.append(blocked, blocked[0] + len(clear))) - 1
    return int(gaps.max())


def _beside_lungs(body: BodyMap, centre: FloatArray, radius: float) -> str | None:
    """Between the lungs, where there is lung to both sides; in the chest wall, where the skin is near instead."""
    away = np.arange(radius, radius + _MEDIASTINUM_MM, float(body.spacing_mm[1:].min()))
    tilts = np.deg2rad([-12.0, 0.0, 12.0])
    lung_at: list[float] = []
    skin_at: list[float] = []
    for side in (-1.0, 1.0):
        directions = np.column_stack([side * np.cos(tilts), np.sin(tilts), np.zeros(len(tilts))])
        points = centre + directions[:, None] * away[None, :, None]
        inside, lung = _sample(body, body.body, points, np.nan), _sample(body, body.lung, points, np.nan)
        lung_at.append(_first(away, lung == 1))
        skin_at.append(_first(away, inside == 0))
    if sum(lung_at) - 2 * radius < _MEDIASTINUM_MM:
        return MEDIASTINUM
    to_skin = min((skin for skin, lung in zip(skin_at, lung_at, strict=True) if lung == np.inf), default=np.inf)
    return CHEST_WALL if to_skin - radius < _WALL_MM else None


def _first(away: FloatArray, hit: NDArray[np.bool_]) -> float:
    """Shortest distance of a hit over all rays; infinite without one."""
    found = hit.any(axis=0)
    return float(away[found.argmax()]) if found.any() else float("inf")


def _is_trunk(body: BodyMap, centre: FloatArray) -> bool:
    """Whether a scan without lungs shows a trunk here: a large section, air to its sides, and bowel gas in it."""
    index = int(np.clip(body.index_of(centre)[0], 0, len(body.body) - 1))
    section = body.body[index]
    whole = not (section[:, 0].any() or section[:, -1].any())
    area = float(section.sum() * body.spacing_mm[1:].prod())
    gas_ml = float(body.gas.sum() * body.spacing_mm.prod() / 1000)
    return whole and area >= _TRUNK_MM2 and _TRUNK_GAS_ML[0] <= gas_ml <= _TRUNK_GAS_ML[1]
