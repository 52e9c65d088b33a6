"""The criteria of a selection, each as a test of what the headers say: met, not met, or not known."""

from __future__ import annotations

import re
import unicodedata
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from enum import StrEnum
from typing import TYPE_CHECKING

from cohort_builder.cases.contrast import contrast_given

if TYPE_CHECKING:
    from cohort_builder.cases.selection import Selection
    from cohort_builder.pacs.index import Study
    from cohort_builder.pacs.instances import Instance


class Criterion(StrEnum):
    """Why something is left out, in the order in which it is asked: what several speak against counts under the first.

    Up to ``SEX`` they are of the study, from ``BODY_PARTS`` on of a CT series.
    """

    EXCLUDE_PATIENTS = "exclude_patients"
    ACCESSION_NUMBERS = "accession_numbers"
    STUDY_DATE = "study_date"
    AGE_YEARS = "age_years"
    SEX = "sex"
    BODY_PARTS = "body_parts"
    MANUFACTURERS = "manufacturers"
    SLICE_THICKNESS_MM = "slice_thickness_mm"
    CONTRAST = "contrast"


ORDER = list(Criterion)


@dataclass(frozen=True, slots=True)
class LeftOut:
    """The criterion that left a study or series out, and whether that is because nothing is known of it."""

    criterion: Criterion
    unknown: bool = False

    @property
    def sentence(self) -> str:
        """For the detail of a Skip."""
        why = "nothing that it asks for is recorded" if self.unknown else "it is not met"
        return f"left out by the selection, criterion {self.criterion}: {why}"


class Criteria:
    """The criteria of a selection as tests of a study and of a CT series, asked in their order."""

    def __init__(self, select: Selection) -> None:
        self._select = select
        self._has_opt_out = bool(select.opted_out)
        self.numbers = {accession_key(value) for value in select.wanted_numbers}
        body_parts = {_plain(value) for value in select.body_parts}
        makers = [re.compile(rf"(?<!\w){re.escape(_plain(value))}(?!\w)") for value in select.manufacturers]
        self._series: dict[Criterion, Callable[[Instance], bool | None]] = {}
        if body_parts:
            self._series[Criterion.BODY_PARTS] = lambda i: _known(i.body_part_examined, lambda v: v in body_parts)
        if makers:
            self._series[Criterion.MANUFACTURERS] = lambda i: _known(
                i.manufacturer, lambda v: any(maker.search(v) for maker in makers)
            )
        if (thickness := select.slice_thickness_mm) is not None:
            self._series[Criterion.SLICE_THICKNESS_MM] = lambda i: _within(i.slice_thickness_mm, thickness)
        if select.contrast != "any":
            wanted = select.contrast == "with"
            self._series[Criterion.CONTRAST] = lambda i: (
                None if (given := contrast_given(i.contrast_agent, i.series_description)) is None else given is wanted
            )

    @property
    def has_series_criteria(self) -> bool:
        """Whether series must be looked at."""
        return bool(self._series)

    @property
    def first_of_series(self) -> Criterion:
        """What a study without CT series is left out by."""
        return next(iter(self._series))

    def of_study(self, study: Study) -> LeftOut | None:
        """Why a study is left out by what is known of it as a whole; None if it is not."""
        select = self._select
        asked: list[tuple[Criterion, bool | None]] = []
        if self._has_opt_out:  # those on the list are forgotten by now
            asked.append((Criterion.EXCLUDE_PATIENTS, True if study.patient_id else None))
        if self.numbers:
            number = accession_key(study.accession_number)
            asked.append((Criterion.ACCESSION_NUMBERS, number in self.numbers if number else None))
        first, last, day = select.first_day, select.last_day, study.study_date
        if first is not None or last is not None:
            inside = None if day is None else (first or day) <= day <= (last or day)
            asked.append((Criterion.STUDY_DATE, inside))
        if select.age_years is not None:
            asked.append((Criterion.AGE_YEARS, _within(age_years(study.patient_age), select.age_years)))
        if select.sex != "any":
            asked.append((Criterion.SEX, _known(study.patient_sex, lambda v: v == select.sex.casefold())))
        return next((LeftOut(name, answer is None) for name, answer in asked if not answer), None)

    def of_series(self, slices: Sequence[Instance]) -> LeftOut | None:
        """Why a CT series is left out; None if every slice of it that says something meets every criterion."""
        for criterion, test in self._series.items():
            answers = {test(instance) for instance in slices} - {None}
            if answers != {True}:
                return LeftOut(criterion, unknown=not answers)
        return None


def slices_of(instances: Sequence[Instance]) -> list[Instance]:
    """The images of a series that are no localizer; they say nothing of what the slices are."""
    return [i for i in instances if not any("LOCALIZER" in kind.upper() for kind in i.image_type)]


def age_years(text: str | None) -> float | None:
    """An Age String (PS3.5 6.2: "074Y", "018M", "006W", "003D") in years; None if it is none."""
    match = re.fullmatch(r"\s*(\d{1,3})\s*([DWMY])\s*", text or "", re.IGNORECASE)
    return None if match is None else int(match[1]) / {"D": 365.25, "W": 52.18, "M": 12.0, "Y": 1.0}[match[2].upper()]


def _within(value: float | None, bounds: tuple[float, float]) -> bool | None:
    """Both bounds included, to half a hundredth: headers write 0.6 as 0.59999."""
    return None if value is None else bounds[0] - 0.005 <= value <= bounds[1] + 0.005


def _known(value: str | None, test: Callable[[str], bool]) -> bool | None:
    plain = _plain(value)
    return test(plain) if plain else None


def _plain(value: str | None) -> str:
    """A code or a name without what different writers write differently."""
    folded = unicodedata.normalize("NFKC", value or "").casefold().replace("\0", "")
    return re.sub(r"[\s_-]+", " ", folded).strip() or folded.strip()


def accession_key(value: str | None) -> str:
    """Return an accession number without spaces and case; zeros count, as they do where reports are joined."""
    return "".join(unicodedata.normalize("NFKC", value or "").casefold().replace("\0", "").split())
