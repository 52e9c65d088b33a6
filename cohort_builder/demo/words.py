"""How lesions, places, lengths, dates and images are said."""

from __future__ import annotations

import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from datetime import date
from typing import Literal

import numpy as np

from segmentation.phantoms import LesionKind, LesionSpec, Organ

Unit = Literal["mm", "cm", "mixed"]
DateStyle = Literal["long", "us", "dotted", "iso"]

_HEAD = re.compile(r"\w+")
_MASS_MM = 30.0
_K = LesionKind
_LUNG = {
    _K.SOLID: ("solid nodule", "nodule", "pulmonary nodule"),
    _K.SPICULATED: ("spiculated nodule", "irregular spiculated nodule"),
    _K.LOBULATED: ("lobulated nodule", "nodule with lobulated margins"),
    _K.NECROTIC: ("centrally necrotic nodule", "nodule with central necrosis"),
    _K.CALCIFIED: ("partially calcified nodule", "nodule with coarse calcifications"),
    _K.GROUND_GLASS: ("ground-glass nodule", "ground-glass opacity"),
}
_LIVER = {
    _K.SOLID: ("hypodense lesion", "hypoattenuating lesion", "ill-defined hypodense lesion"),
    _K.LOBULATED: ("lobulated hypodense lesion", "hypodense lesion"),
    _K.NECROTIC: ("rim-enhancing hypodense lesion", "hypodense lesion with rim enhancement"),
    _K.CALCIFIED: ("hypodense lesion with calcifications", "partially calcified lesion"),
    _K.CYST: ("simple cyst", "cyst"),
}
_KIDNEY = {
    _K.SOLID: ("solid enhancing mass", "solid lesion"),
    _K.LOBULATED: ("lobulated solid mass", "exophytic lesion"),
    _K.NECROTIC: ("heterogeneous mass", "mass with central necrosis"),
    _K.CALCIFIED: ("partially calcified lesion", "lesion with calcifications"),
    _K.CYST: ("cortical cyst", "simple cyst"),
}
_NODES = ("lymph node", "enlarged lymph node", "prominent lymph node")
_SOFT_TISSUE = {
    _K.LYMPH_NODE: _NODES,
    _K.SOLID: ("soft tissue nodule",),
    _K.LOBULATED: ("lobulated soft tissue nodule", "nodal conglomerate"),
    _K.NECROTIC: ("necrotic lymph node", "centrally necrotic node"),
    _K.CALCIFIED: ("calcified lymph node", "soft tissue nodule with calcifications"),
    _K.SPICULATED: ("spiculated soft tissue nodule",),
}
_ADRENAL = {
    _K.SOLID: ("nodule",),
    _K.LOBULATED: ("lobulated nodule",),
    _K.NECROTIC: ("heterogeneous nodule",),
    _K.CALCIFIED: ("nodule with calcifications",),
}
_BONE = {
    _K.SOLID: ("lytic lesion", "osteolytic lesion"),
    _K.LOBULATED: ("lytic lesion",),
    _K.CALCIFIED: ("sclerotic lesion", "osteoblastic lesion"),
}
_OBSERVATIONS: Mapping[Organ, Mapping[LesionKind, tuple[str, ...]]] = {
    Organ.LUNG: _LUNG,
    Organ.LIVER: _LIVER,
    Organ.SPLEEN: _LIVER,
    Organ.KIDNEY: _KIDNEY,
    Organ.ADRENAL: _ADRENAL,
    Organ.BONE: _BONE,
    Organ.MEDIASTINUM: _SOFT_TISSUE,
    Organ.MESENTERY: _SOFT_TISSUE,
    Organ.RETROPERITONEUM: _SOFT_TISSUE,
}
_MONTHS = (
    *("January", "February", "March", "April", "May", "June"),
    *("July", "August", "September", "October", "November", "December"),
)


@dataclass(frozen=True, slots=True)
class Dictated:
    """A size as it stands in the report, and the millimetres it states, longest first."""

    text: str
    values_mm: tuple[float, ...]


def observation_of(spec: LesionSpec, rng: np.random.Generator) -> str:
    """What a radiologist calls such a lesion."""
    words = _OBSERVATIONS[spec.organ][spec.kind]
    said = words[int(rng.integers(len(words)))]
    is_mass = spec.diameter_mm >= _MASS_MM and not said.startswith(("pulmonary", "ground-glass"))
    return said.replace("nodule", "mass") if is_mass else said


def is_node(spec: LesionSpec) -> bool:
    """Whether its short axis is what counts."""
    return spec.kind is LesionKind.LYMPH_NODE


def place_with_article(location: str) -> str:
    """Return "the right upper lobe", but "segment 7 of the liver"."""
    return location if location.startswith("segment") else f"the {location}"


def with_article(phrase: str) -> str:
    """Put "a" or "an" before a phrase, which may start with a number."""
    head = _HEAD.match(phrase.lower())
    word = head.group() if head else ""
    is_vowel = word in {"11", "18"} or word[:1] in {"8", "a", "e", "i", "o"}
    return f"{'an' if is_vowel else 'a'} {phrase}"


def dictate(diameters_mm: Sequence[float], unit: Unit, rng: np.random.Generator | None = None) -> Dictated:
    """Say one or two diameters as they are dictated: rounded to a millimetre or a tenth of a centimetre.

    With a generator, rarely to a tenth of a millimetre, as read off the screen, or a large one to a whole centimetre.
    """
    ordered = sorted(diameters_mm, reverse=True)
    in_cm = unit == "cm" or (unit == "mixed" and ordered[0] >= 10)
    roll = 0.5 if rng is None else rng.random()
    if len(ordered) == 1 and ordered[0] >= 35 and roll < 0.08:
        whole = max(1, _half_up(ordered[0] / 10))
        return Dictated(f"{whole} cm", (10.0 * whole,))
    if not in_cm and roll > 0.92:
        written = [f"{value:.1f}" for value in ordered]
        return Dictated(_joined(written, "mm", rng), tuple(float(text) for text in written))
    tenths = [max(1, _half_up(value)) for value in ordered]
    if in_cm:
        return Dictated(_joined([f"{v / 10:.1f}" for v in tenths], "cm", rng), tuple(float(v) for v in tenths))
    return Dictated(_joined([str(v) for v in tenths], "mm", rng), tuple(float(v) for v in tenths))


def hyphenated(size: str) -> str:
    """Return "12-mm" for "12 mm", as it is written before its noun; a product stays as it is."""
    return size if "x" in size else size.replace(" ", "-")


def _joined(written: Sequence[str], unit: str, rng: np.random.Generator | None) -> str:
    if len(written) == 1:
        return f"{written[0]} {unit}"
    roll = 0.5 if rng is None else rng.random()
    if roll < 0.12:
        return f"{written[0]}x{written[1]} {unit}"
    if roll < 0.2:
        return f"{written[0]} {unit} x {written[1]} {unit}"
    return f"{written[0]} x {written[1]} {unit}"


def _half_up(value: float) -> int:
    return int(np.floor(value + 0.5))


def say_reference(series: int, image: int, rng: np.random.Generator) -> str:
    """Point at an image, in one of the usual spellings; in brackets."""
    styles = (
        f"(series {series}, image {image})",
        f"(series {series}, image {image})",
        f"({series}/{image})",
        f"(image {image} of series {series})",
        f"(Se {series}, Im {image})",
    )
    return styles[int(rng.integers(len(styles)))]


def say_date(day: date, style: DateStyle) -> str:
    """Write a date in one of the usual ways."""
    month = _MONTHS[day.month - 1]  # not strftime: its months depend on the locale
    if style == "long":
        return f"{day.day} {month} {day.year}"
    if style == "us":
        return f"{month} {day.day}, {day.year}"
    return f"{day:%d.%m.%Y}" if style == "dotted" else day.isoformat()
