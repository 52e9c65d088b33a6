"""What every patient of a generated hospital has: studies, lesions, what is drawn of them and what is said. No pixels.

The same plan makes DICOM files (``hospital``) and studies without pixels (``simulate``). Which traps a patient gets
depends on the patient's number, so that a handful of patients already shows all of them.
"""

from __future__ import annotations

from dataclasses import dataclass, replace
from datetime import date, datetime, time, timedelta
from enum import StrEnum
from typing import Literal

import numpy as np

from cohort_builder.demo.people import Doctor, Person, draw_doctors, draw_person, institution_of
from segmentation.phantoms import LesionSpec, catalogue, random_lesion_specs

Region = Literal["chest", "abdomen"]
Spacing = tuple[float, float, float]

SLICES = (24, 60)
"""Fewest and most slices of a CT series."""
_THICK: Spacing = (5.0, 0.74, 0.74)
_THIN: Spacing = (2.5, 0.68, 0.68)
_FIRST_DAY = date(2016, 1, 4)
_LESIONS = (4, 7)
_EQUAL = 0.03
_PRIOR_KEY = ".s8"


class Scenario(StrEnum):
    """Which studies a patient has and which reports speak of them."""

    SINGLE = "SINGLE"
    WITH_PRIOR = "WITH_PRIOR"
    TWO_ACCESSIONS = "TWO_ACCESSIONS"
    NO_REPORT = "NO_REPORT"


class Drawing(StrEnum):
    """What the reader left on a lesion. An ellipse is no measurement: its lesion counts as not drawn."""

    NONE = "NONE"
    LINE = "LINE"
    BIDIMENSIONAL = "BIDIMENSIONAL"
    ARROW = "ARROW"
    ELLIPSE = "ELLIPSE"

    @property
    def is_usable(self) -> bool:
        """Whether a lesion can be segmented from it."""
        return self in {Drawing.LINE, Drawing.BIDIMENSIONAL, Drawing.ARROW}

    @property
    def is_measured(self) -> bool:
        """Whether it has a length."""
        return self in {Drawing.LINE, Drawing.BIDIMENSIONAL}


_DRAWINGS = {
    Drawing.LINE: 0.48,
    Drawing.BIDIMENSIONAL: 0.32,
    Drawing.ARROW: 0.10,
    Drawing.NONE: 0.06,
    Drawing.ELLIPSE: 0.04,
}


@dataclass(frozen=True, slots=True)
class LesionPlan:
    """One lesion in one study.

    Parameters
    ----------
    key
        Unique in the hospital: patient, study, lesion ("p0003.s0.l2").
    growth
        Diameter today over that of the prior study, None for a new lesion. In the prior study itself: 1.
    second_reader
        Another radiologist draws it too.

    """

    key: str
    spec: LesionSpec
    drawing: Drawing
    said: bool
    second_reader: bool
    growth: float | None

    @property
    def number(self) -> str:
        """The last part of the key: the same for one lesion in all studies of its patient."""
        return self.key.rsplit(".", 1)[1]


@dataclass(frozen=True, slots=True)
class ExamPlan:
    """One study with one CT series.

    Parameters
    ----------
    body_seed
        Of the phantom: studies of one region of one patient share it, and show the same body.
    scanner
        0 or 1: which of the hospital's two scanners.

    """

    key: str
    acquired_at: datetime
    accession_number: str
    region: Region
    n_slices: int
    spacing_mm: Spacing
    series_number: int
    scanner: int
    body_seed: int
    lesions: tuple[LesionPlan, ...]

    @property
    def day(self) -> date:
        """Study Date."""
        return self.acquired_at.date()

    @property
    def is_prior(self) -> bool:
        """Whether it is its patient's earlier study."""
        return self.key.endswith(_PRIOR_KEY)


@dataclass(frozen=True, slots=True)
class PatientPlan:
    """One patient: ``exams`` are read by one report; ``prior``, if any, is what they are compared with."""

    index: int
    seed: int
    person: Person
    scenario: Scenario
    institution: str
    referrer: Doctor
    readers: tuple[Doctor, Doctor]
    exams: tuple[ExamPlan, ...]
    prior: ExamPlan | None

    @property
    def has_report(self) -> bool:
        """Whether the reports table has a report on ``exams``."""
        return self.scenario is not Scenario.NO_REPORT

    @property
    def prior_has_report(self) -> bool:
        """Whether the report on the prior study is in the table, too."""
        return self.prior is not None and self.index % 12 >= 6

    def rng(self, *purpose: int | str) -> np.random.Generator:
        """Return the patient's own generator for a purpose: what one part draws never shifts another."""
        words = [part if isinstance(part, int) else int.from_bytes(part.encode()) for part in purpose]
        return np.random.default_rng([self.seed, self.index, *words])


def scenario_of(index: int) -> Scenario:
    """Scenario of the patient with this number."""
    if index % 6 == 1:
        return Scenario.WITH_PRIOR
    return {4: Scenario.TWO_ACCESSIONS, 9: Scenario.NO_REPORT}.get(index % 12, Scenario.SINGLE)


def plan_patient(seed: int, index: int, *, slices: tuple[int, int] = SLICES) -> PatientPlan:
    """Plan patient ``index`` of the hospital ``seed``; depends on nothing else.

    Parameters
    ----------
    slices
        Fewest and most slices of a CT series.

    """
    rng = np.random.default_rng([seed, index])
    scenario = scenario_of(index)
    person = draw_person(rng, _patient_id(seed, index))
    referrer, first, second = draw_doctors(rng, 3)
    regions = _regions(rng, index, scenario)
    taken_at = _moment(rng)
    exams = tuple(
        _exam(rng, seed, index, i, region=region, taken_at=taken_at, slices=slices) for i, region in enumerate(regions)
    )
    prior = _prior_of(rng, seed, index, exams[0]) if scenario is Scenario.WITH_PRIOR else None
    return PatientPlan(index, seed, person, scenario, institution_of(seed), referrer, (first, second), exams, prior)


def _patient_id(seed: int, index: int) -> str:
    """Ids with leading zeros, never the same one twice in a hospital."""
    return f"{(100_003 * (seed % 997 + 1) + 7_919 * index) % 900_000 + 100_000:09d}"


def _accession(seed: int, index: int, study: int, year: int) -> str:
    number = (31_337 * (seed % 991 + 1) + 104_729 * (8 * index + study)) % 9_000_000 + 1_000_000
    return f"00{year % 100}{number}" if index % 2 else f"{year}CT{number}"


def _regions(rng: np.random.Generator, index: int, scenario: Scenario) -> tuple[Region, ...]:
    if scenario is Scenario.TWO_ACCESSIONS:
        return ("chest", "abdomen")
    if index < 2:
        return ("chest",) if index == 0 else ("abdomen",)
    return ("chest",) if rng.random() < 0.55 else ("abdomen",)


def _moment(rng: np.random.Generator) -> datetime:
    day = _FIRST_DAY + timedelta(days=int(rng.integers(0, 8 * 365)))
    return datetime.combine(day, time(int(rng.integers(7, 18)), int(rng.integers(60)), int(rng.integers(60))))


def _exam(
    rng: np.random.Generator,
    seed: int,
    index: int,
    number: int,
    *,
    region: Region,
    taken_at: datetime,
    slices: tuple[int, int],
) -> ExamPlan:
    thin = bool((index + number) % 2)
    fewest, most = slices
    middle = (fewest + most) // 2
    n_slices = int(rng.integers(middle, most + 1) if thin else rng.integers(fewest, middle + 1))
    key = f"p{index:04d}.s{number}"
    return ExamPlan(
        key=key,
        acquired_at=taken_at + timedelta(minutes=7 * number),
        accession_number=_accession(seed, index, number, taken_at.year),
        region=region,
        n_slices=n_slices,
        spacing_mm=_THIN if thin else _THICK,
        series_number=int(rng.integers(2, 6)),
        scanner=int(thin),
        body_seed=int(rng.integers(2**62)),
        lesions=_lesions(rng, key, index, region),
    )


def _lesions(rng: np.random.Generator, key: str, index: int, region: Region) -> tuple[LesionPlan, ...]:
    specs = random_lesion_specs(rng, region, int(rng.integers(*_LESIONS)))
    if index % 2 == 0:
        specs[1] = _as_large(specs[1], specs[0].diameter_mm * (1 + rng.uniform(-_EQUAL, _EQUAL)))
    kinds, weights = list(_DRAWINGS), np.array(list(_DRAWINGS.values()))
    lesions = []
    for i, spec in enumerate(specs):
        drawing = kinds[int(rng.choice(len(kinds), p=weights / weights.sum()))]
        plan = LesionPlan(
            key=f"{key}.l{i}",
            spec=spec,
            drawing=drawing,
            said=drawing is Drawing.NONE or bool(rng.random() < 0.88),
            second_reader=drawing.is_measured and bool(rng.random() < 0.25),
            growth=float(np.exp(rng.normal(0.12, 0.2))),
        )
        lesions.append(plan)
    # The phantom keeps a lesion's shape by its place in the list, so a new lesion comes last.
    lesions[-1] = replace(lesions[-1], growth=None)
    return tuple(_with_traps(lesions, index))


def _as_large(spec: LesionSpec, diameter_mm: float) -> LesionSpec:
    low, high = catalogue()[spec.organ].diameter_mm
    return replace(spec, diameter_mm=float(np.clip(diameter_mm, low, high)))


def _with_traps(lesions: list[LesionPlan], index: int) -> list[LesionPlan]:
    """What must occur, whatever the dice say: said but not drawn, drawn but not said, drawn twice, an arrow."""
    forced: tuple[tuple[int, Drawing, bool, bool], ...] = (
        (0, Drawing.BIDIMENSIONAL if index % 2 else Drawing.LINE, True, True),
        (1, Drawing.LINE, True, False),
        (2, (Drawing.NONE, Drawing.ARROW, Drawing.ELLIPSE)[index % 3], True, False),
        (3, Drawing.LINE if index % 2 else Drawing.BIDIMENSIONAL, index % 2 == 1, False),
    )
    for i, drawing, said, second in forced:
        lesions[i] = replace(lesions[i], drawing=drawing, said=said, second_reader=second)
    return lesions


def _prior_of(rng: np.random.Generator, seed: int, index: int, exam: ExamPlan) -> ExamPlan:
    """Plan the same body some months earlier: without the new lesions, the others as small or large as they were."""
    key = exam.key.rsplit(".", 1)[0] + _PRIOR_KEY
    acquired_at = exam.acquired_at - timedelta(days=int(rng.integers(80, 400)), minutes=int(rng.integers(-200, 200)))
    lesions = []
    for lesion in exam.lesions:
        if lesion.growth is None:
            continue
        spec = _as_large(lesion.spec, lesion.spec.diameter_mm / lesion.growth)
        drawing = lesion.drawing if lesion.drawing.is_measured else Drawing.NONE
        lesions.append(replace(lesion, key=f"{key}.{lesion.number}", spec=spec, drawing=drawing, growth=1.0))
    return replace(
        exam,
        key=key,
        acquired_at=acquired_at,
        accession_number=_accession(seed, index, 7, acquired_at.year),
        series_number=int(rng.integers(2, 6)),
        lesions=tuple(lesions),
    )
