"""Invented people and places: names as they are, with accents, hyphens, particles and titles."""

from __future__ import annotations

from dataclasses import dataclass
from datetime import date, timedelta

import numpy as np

_FAMILY = (
    "Adeyemi-Lund",
    "Ångström-Nilsen",
    "Bretonnière",
    "Čapková",
    "D'Aubigné",
    "Dąbrowska",
    "Echeverría",
    "Fitzwarren",
    "Grünewaldt",
    "Haraldsdóttir",
    "Ibáñez-Quiroga",
    "Jørgensen",
    "Kowalczuk",
    "Lindqvist",
    "Müller-Okafor",
    "Nakashima",
    "O'Shaughnessy",
    "Papadimitriou",
    "Quillfeldt",
    "Rasmussen-Dahl",
    "Szczepański",
    "Tchaikowitz",
    "Uzunoğlu",
    "Van der Heijden",
    "Włodarczyk",
    "Yamaguchi",
    "Zielińska-Braun",
    "Akintola",
    "Besançon",
    "Castellanos",
)
_GIVEN = {
    "F": (
        "Anaïs",
        "Łucja",
        "Béatrice",
        "Ngozi",
        "Siân",
        "Ingeborg",
        "María José",
        "Yukiko",
        "Eszter",
        "Aoife",
        "Zdeňka",
        "Hannelore",
    ),
    "M": (
        "Jürgen",
        "Søren",
        "François",
        "Chukwuemeka",
        "Rhodri",
        "Håkon",
        "José Ignacio",
        "Takeshi",
        "Zoltán",
        "Ciarán",
        "Bořivoj",
        "Wolfgang",
    ),
}
_TITLES = ("", "", "", "", "Dr", "Prof. Dr", "Mag")
_DOCTORS = (
    ("Holmqvist", "Anders"),
    ("Vandenbrouck", "Lieve"),
    ("Oyelaran", "Tunde"),
    ("Müllenhoff", "Käthe"),
    ("Sørbye", "Ragnhild"),
    ("Delacroix-Petit", "Hélène"),
    ("Kristjánsson", "Gunnar"),
    ("Wojciechowski", "Radosław"),
    ("Fernández-Llorente", "Íñigo"),
    ("Thistlethwaite", "Imogen"),
    ("Bhattacharya", "Anindita"),
    ("Grimaldi", "Ottavio"),
)
_INSTITUTIONS = (
    "Sankt Ansgar Klinikum",
    "Northmoor General Hospital",
    "Hôpital Sainte-Odile",
    "Ravensholm Medical Centre",
)


@dataclass(frozen=True, slots=True)
class Person:
    """A patient. ``patient_id`` has leading zeros; ``title`` may be empty."""

    family: str
    given: str
    title: str
    sex: str
    birth_date: date
    patient_id: str

    @property
    def dicom_name(self) -> str:
        """Person name as in DICOM headers (PS3.5 6.2, VR PN): family^given^middle^prefix."""
        return f"{self.family}^{self.given}" + (f"^^{self.title}" if self.title else "")

    @property
    def table_name(self) -> str:
        """As the reports table writes it."""
        return f"{self.family}, {self.given}"

    @property
    def address(self) -> str:
        """As a letter calls the patient."""
        return f"{'Mrs.' if self.sex == 'F' else 'Mr.'} {self.family}"

    def age_at(self, day: date) -> int:
        """Full years."""
        return day.year - self.birth_date.year - ((day.month, day.day) < (self.birth_date.month, self.birth_date.day))


@dataclass(frozen=True, slots=True)
class Doctor:
    """A radiologist or referring physician."""

    family: str
    given: str

    @property
    def dicom_name(self) -> str:
        """Person name as in DICOM headers."""
        return f"{self.family}^{self.given}^^Dr"

    @property
    def spoken(self) -> str:
        """As a report names a colleague."""
        return f"Dr. {self.given} {self.family}"


def draw_person(rng: np.random.Generator, patient_id: str) -> Person:
    """Make up a patient, aged 35 to 88 or so at the examinations, which lie between 2016 and 2023."""
    sex = str(rng.choice(["F", "M"]))
    born = date(1935, 1, 1) + timedelta(days=int(rng.integers(0, 46 * 365)))
    given = str(rng.choice(_GIVEN[sex]))
    return Person(str(rng.choice(_FAMILY)), given, str(rng.choice(_TITLES)), sex, born, patient_id)


def draw_doctors(rng: np.random.Generator, n: int) -> tuple[Doctor, ...]:
    """Choose ``n`` different physicians."""
    return tuple(Doctor(*_DOCTORS[int(i)]) for i in rng.permutation(len(_DOCTORS))[:n])


def institution_of(seed: int) -> str:
    """Name of the hospital that belongs to ``seed``."""
    return _INSTITUTIONS[seed % len(_INSTITUTIONS)]
