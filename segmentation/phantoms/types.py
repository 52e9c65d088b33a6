"""What a phantom is asked for and what it is: lesion specifications, finished lesions, the finished volume."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from enum import StrEnum
from math import isfinite
from types import MappingProxyType
from typing import Literal

import numpy as np
from numpy.typing import NDArray

from segmentation.types import SegmentationError, Volume

Region = Literal["chest", "abdomen", "chest_abdomen"]
REGIONS: tuple[Region, ...] = ("chest", "abdomen", "chest_abdomen")


class PhantomError(SegmentationError):
    """A phantom cannot be drawn as asked: unknown values, or no room for a lesion."""


class Organ(StrEnum):
    """Where lesions can grow."""

    LUNG = "LUNG"
    MEDIASTINUM = "MEDIASTINUM"
    LIVER = "LIVER"
    SPLEEN = "SPLEEN"
    KIDNEY = "KIDNEY"
    ADRENAL = "ADRENAL"
    MESENTERY = "MESENTERY"
    RETROPERITONEUM = "RETROPERITONEUM"
    BONE = "BONE"


class LesionKind(StrEnum):
    """How a lesion looks."""

    SOLID = "SOLID"
    SPICULATED = "SPICULATED"
    LOBULATED = "LOBULATED"
    NECROTIC = "NECROTIC"
    CALCIFIED = "CALCIFIED"
    GROUND_GLASS = "GROUND_GLASS"
    CYST = "CYST"
    LYMPH_NODE = "LYMPH_NODE"


class Side(StrEnum):
    """Side of the patient."""

    LEFT = "LEFT"
    RIGHT = "RIGHT"


class Touching(StrEnum):
    """What a lesion grows against: the border of its organ (pleura, capsule), or a vessel."""

    WALL = "wall"
    VESSEL = "vessel"


@dataclass(frozen=True, slots=True)
class OrganEntry:
    """What one organ can hold.

    Parameters
    ----------
    kinds
        Lesion kinds that can be drawn there.
    diameter_mm
        Usual (smallest, largest) longest diameter, the range of :func:`random_lesion_specs`; asking beyond it is
        allowed as long as the lesion finds room.
    regions
        Scan regions that show enough of the organ at the default coverage.
    paired
        A left and a right organ exist: every lesion is in one of them.
    sided
        ``LesionSpec.side`` may be given.

    """

    kinds: tuple[LesionKind, ...]
    diameter_mm: tuple[float, float]
    regions: tuple[Region, ...]
    paired: bool = False
    sided: bool = False
    touching: tuple[Touching, ...] = ()


_K = LesionKind
_MASSES = (_K.SOLID, _K.LOBULATED, _K.NECROTIC)
_ENTRIES = {
    Organ.LUNG: OrganEntry(
        (_K.SOLID, _K.SPICULATED, _K.LOBULATED, _K.NECROTIC, _K.CALCIFIED, _K.GROUND_GLASS),
        (6.0, 60.0),
        ("chest", "chest_abdomen"),
        paired=True,
        sided=True,
        touching=(Touching.WALL, Touching.VESSEL),
    ),
    Organ.MEDIASTINUM: OrganEntry(
        (_K.LYMPH_NODE, *_MASSES, _K.CALCIFIED),
        (9.0, 32.0),
        ("chest",),
        sided=True,
        touching=(Touching.VESSEL,),
    ),
    Organ.LIVER: OrganEntry(
        (*_MASSES, _K.CALCIFIED, _K.CYST),
        (8.0, 70.0),
        ("abdomen", "chest_abdomen"),
        touching=(Touching.WALL, Touching.VESSEL),
    ),
    Organ.SPLEEN: OrganEntry((_K.SOLID, _K.LOBULATED, _K.CYST), (8.0, 30.0), ("abdomen", "chest_abdomen")),
    Organ.KIDNEY: OrganEntry(
        (*_MASSES, _K.CALCIFIED, _K.CYST),
        (10.0, 50.0),
        ("abdomen", "chest_abdomen"),
        paired=True,
        sided=True,
        touching=(Touching.WALL,),
    ),
    Organ.ADRENAL: OrganEntry(
        (*_MASSES, _K.CALCIFIED), (11.0, 42.0), ("abdomen", "chest_abdomen"), paired=True, sided=True
    ),
    Organ.MESENTERY: OrganEntry(
        (_K.LYMPH_NODE, *_MASSES, _K.CALCIFIED, _K.SPICULATED),
        (9.0, 40.0),
        ("abdomen",),
        sided=True,
        touching=(Touching.VESSEL,),
    ),
    Organ.RETROPERITONEUM: OrganEntry(
        (_K.LYMPH_NODE, *_MASSES),
        (9.0, 32.0),
        ("abdomen",),
        sided=True,
        touching=(Touching.VESSEL,),
    ),
    Organ.BONE: OrganEntry((_K.SOLID, _K.LOBULATED, _K.CALCIFIED), (8.0, 22.0), REGIONS),
}


def catalogue() -> Mapping[Organ, OrganEntry]:
    """What can be asked for, by organ."""
    return MappingProxyType(_ENTRIES)


@dataclass(frozen=True, slots=True)
class LesionSpec:
    """A lesion to draw.

    Parameters
    ----------
    side
        ``Side`` (or its string) of the patient; None leaves it open, and is required for organs that have no sides.
    level
        Wanted height within the organ as far as the scan shows it, 0 (feet) to 1 (head); the nearest height with room
        is taken. None leaves it open.
    diameter_mm
        Longest in-plane diameter of the finished mask, met within 15 % (usually 5 %).
    touching
        ``Touching`` (or its string); None wants the lesion away from walls where the organ is thick enough.

    Raises
    ------
    PhantomError
        If the organ cannot hold such a lesion, see :func:`catalogue`.

    """

    organ: Organ
    side: str | None
    level: float | None
    diameter_mm: float
    kind: LesionKind
    touching: str | None = None

    def __post_init__(self) -> None:
        entry = _ENTRIES.get(self.organ)
        if entry is None:
            raise PhantomError(f"organ must be one of {[o.value for o in Organ]}, got {self.organ!r}")
        if self.kind not in entry.kinds:
            allowed = [kind.value for kind in entry.kinds]
            raise PhantomError(f"{self.organ.value} can hold {allowed}, not {self.kind!r}")
        if self.side is not None and (self.side not in set(Side) or not entry.sided):
            raise PhantomError(f"side {self.side!r} is not possible in {self.organ.value}")
        if self.touching is not None and self.touching not in entry.touching:
            raise PhantomError(f"touching {self.touching!r} is not possible in {self.organ.value}")
        if self.level is not None and not 0 <= self.level <= 1:
            raise PhantomError(f"level must lie in 0 to 1, got {self.level}")
        if not isfinite(self.diameter_mm) or not 3 <= self.diameter_mm <= 120:
            raise PhantomError(f"diameter_mm must lie in 3 to 120, got {self.diameter_mm}")


@dataclass(frozen=True, slots=True, eq=False)
class PhantomLesion:
    """A lesion as drawn.

    Parameters
    ----------
    mask
        (slice, row, column) boolean, tight: the voxels of which the lesion fills more than half.
    offset
        (slice, row, column) of ``mask[0, 0, 0]`` in the volume.
    centre_lps_mm
        Centroid of the mask, LPS millimetres.
    location
        Where it is, as a report would say: "right upper lobe", "segment 7 of the liver", "left adrenal gland".
    longest_diameter_mm
        Longest in-plane diameter of ``mask``.

    """

    spec: LesionSpec
    mask: NDArray[np.bool_]
    offset: tuple[int, int, int]
    centre_lps_mm: tuple[float, float, float]
    location: str
    longest_diameter_mm: float

    def in_volume(self, shape: tuple[int, ...]) -> NDArray[np.bool_]:
        """Paste the mask into a full (slice, row, column) array of ``shape``."""
        full = np.zeros(shape, dtype=np.bool_)
        window = tuple(slice(o, o + n) for o, n in zip(self.offset, self.mask.shape, strict=True))
        full[window] = self.mask
        return full


@dataclass(frozen=True, slots=True, eq=False)
class Phantom:
    """A body with its lesions.

    Parameters
    ----------
    lesions
        In the order of the specifications.
    labels
        (slice, row, column) uint8, ``LABELS`` names the values; the anatomy without its lesions. None unless asked.
    middle_x_mm
        LPS x of the body's midline.

    """

    volume: Volume
    lesions: tuple[PhantomLesion, ...]
    labels: NDArray[np.uint8] | None
    middle_x_mm: float
