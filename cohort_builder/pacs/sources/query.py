"""What a server is asked for. A folder is read whole; of an archive of ten years only what may be used is listed."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass, field
from datetime import date, timedelta
from typing import TYPE_CHECKING

from cohort_builder.pacs.forgetting import Spellings

if TYPE_CHECKING:
    from cohort_builder.cases.selection import Selection

IMAGES = ("CT",)
ANNOTATIONS = ("PR", "SR")
LISTED = ("KO", "SEG")
"""Modalities whose headers are read beside those of images and annotations: they are small, and counts name them."""

_STORAGE = "1.2.840.10008.5.1.4.1.1."
ANNOTATION_CLASSES = (f"{_STORAGE}11.", f"{_STORAGE}88.", f"{_STORAGE}66.")


@dataclass(frozen=True, slots=True)
class Query:
    """Study dates, both included, and accession numbers; what is not set does not narrow."""

    first_day: date | None = None
    last_day: date | None = None
    accession_numbers: tuple[str, ...] = ()
    opted_out: Spellings = field(default_factory=Spellings)

    @classmethod
    def of(cls, select: Selection | None) -> Query:
        """The part of a selection that a server can match; the rest is looked at in the index."""
        if select is None:
            return cls()
        return cls(select.first_day, select.last_day, select.wanted_numbers, Spellings(select.opted_out))

    def filters(self, *, by_day: bool = False) -> Iterator[dict[str, str]]:
        """Keys of the queries that together find every study of interest.

        ``by_day``: one query a day where both days are set, for servers that cut long answers off without a word.
        """
        days = f"{_written(self.first_day)}-{_written(self.last_day)}"
        dated = {"StudyDate": days} if self.first_day or self.last_day else {}
        if self.accession_numbers:
            for number in self.accession_numbers:
                yield {**dated, "AccessionNumber": number}
        elif by_day and self.first_day and self.last_day:
            for day in range((self.last_day - self.first_day).days + 1):
                yield {"StudyDate": _written(self.first_day + timedelta(days=day))}
        else:
            yield dated

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


def is_wanted(sop_class_uid: str, modalities: frozenset[str]) -> bool:
    """Whether the header of an object of a study is read: where there is CT of every object, else of annotations."""
    return not modalities.isdisjoint(IMAGES) or not sop_class_uid or sop_class_uid.startswith(ANNOTATION_CLASSES)


def _written(day: date | None) -> str:
    return "" if day is None else day.strftime("%Y%m%d")


def _plain(number: str) -> str:
    return "".join(number.split()).casefold()
