"""What a server is asked for. A folder is read whole; of an archive of ten years only what may be used is listed."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator
from dataclasses import dataclass, field
from datetime import date
from typing import TYPE_CHECKING, TypeVar

from cohort_builder.pacs.forgetting import OptOut

if TYPE_CHECKING:
    from cohort_builder.cases.selection import Selection

IMAGES = ("CT",)
ANNOTATIONS = ("PR", "SR")
_SMALL = ("KO", "SEG")  # counts name them

_STORAGE = "1.2.840.10008.5.1.4.1.1."
ANNOTATION_CLASSES = (f"{_STORAGE}11.", f"{_STORAGE}88.", f"{_STORAGE}66.")


# Servers that cut long answers off without a word give more than this before they do.
_MANY, _FEW = 50, 25
_Study = TypeVar("_Study")


@dataclass(frozen=True, slots=True)
class Query:
    """Study dates, both included, and accession numbers; what is not set does not narrow."""

    first_day: date | None = None
    last_day: date | None = None
    accession_numbers: tuple[str, ...] = ()
    opted_out: OptOut = field(default_factory=OptOut)

    @classmethod
    def of(cls, select: Selection | None) -> Query:
        """The part of a selection that a server can match; the rest is looked at in the index."""
        if select is None:
            return cls()
        return cls(select.first_day, select.last_day, select.wanted_numbers, OptOut(select.opted_out))

    def ask(self, matching: Callable[[dict[str, str]], list[_Study]]) -> Iterator[_Study]:
        """All studies of interest: ``matching`` lists those that fit the keys of one query, whatever they hold.

        Where both days are set they are asked for day by day, and as many at once as gave few answers so far: some
        servers cut long answers off without a word.
        """
        days = f"{_written(self.first_day)}-{_written(self.last_day)}"
        dated = {"StudyDate": days} if self.first_day or self.last_day else {}
        if self.accession_numbers:
            for number in self.accession_numbers:
                yield from matching({**dated, "AccessionNumber": number})
        elif self.first_day and self.last_day:
            yield from _by_days(self.first_day, self.last_day, matching)
        else:
            yield from matching(dated)

    def opts_out(self, patient_id: str) -> bool:
        """Whether nothing of this patient may come here."""
        return self.opted_out.has(patient_id)

    def companions(self, patient_id: str, study_date: str) -> dict[str, str] | None:
        """Keys of the studies of the patient's day, to be listed beside one of an accession number.

        A report that names patient and day only must find all of them: with one alone it would seem sure.
        """
        known = patient_id and study_date and not set(patient_id) & set("*?\\")
        return {"PatientID": patient_id, "StudyDate": study_date} if self.accession_numbers and known else None

    def fits(self, study_date: str, accession_number: str) -> bool:
        """Whether an answer is one that was asked for: servers pass over keys that they do not know."""
        numbers = {_plain(number) for number in self.accession_numbers}
        if numbers and _plain(accession_number) not in numbers:
            return False
        if study_date and self.first_day and study_date < _written(self.first_day):
            return False
        return not (study_date and self.last_day and study_date > _written(self.last_day))


def is_wanted(modality: str) -> bool:
    """Whether the objects of a series are read; where the server does not say what it is, they are."""
    return modality in {"", *IMAGES, *ANNOTATIONS, *_SMALL}


def is_study_of_use(modalities: Iterable[str]) -> bool:
    """Whether a study is looked into, by the Modalities in Study that the server says, if any."""
    said = set(modalities)
    return not said or not said.isdisjoint((*IMAGES, *ANNOTATIONS))


def _by_days(first: date, last: date, matching: Callable[[dict[str, str]], list[_Study]]) -> Iterator[_Study]:
    day, n_days = first.toordinal(), 1
    while day <= last.toordinal():
        n_days = min(n_days, last.toordinal() - day + 1)
        days = [_written(date.fromordinal(end)) for end in (day, day + n_days - 1)]
        found = matching({"StudyDate": "-".join(dict.fromkeys(days))})
        if len(found) > _MANY and n_days > 1:
            n_days //= 2
            continue
        yield from found
        day += n_days
        if len(found) <= _FEW:
            n_days *= 2


def _written(day: date | None) -> str:
    return "" if day is None else day.strftime("%Y%m%d")


def _plain(number: str) -> str:
    return "".join(number.split()).casefold()
