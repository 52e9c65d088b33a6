"""Which studies a report reads, and which it can only be comparing with.

A wrong join poisons every link after it, so keys are compared exactly as they are written (leading zeros included), and
keys that contradict each other join nothing.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from datetime import date
from enum import StrEnum
from typing import TYPE_CHECKING, Protocol

from cohort_builder.errors import ConfigError
from cohort_builder.types import Skip
from nlp.types import Report

if TYPE_CHECKING:
    from cohort_builder.pacs import Index


class JoinKey(StrEnum):
    """By what a report was joined to its studies, in the order tried."""

    ACCESSION_NUMBER = "accession_number"
    STUDY_INSTANCE_UID = "study_instance_uid"
    PATIENT_AND_DATE = "patient_and_date"


class StudyKeys(Protocol):
    """The part of an indexed study that the join needs."""

    @property
    def study_instance_uid(self) -> str:
        """Study Instance UID."""
        ...

    @property
    def patient_key(self) -> str:
        """What the index knows the patient by: the Patient ID, else something of the study's own."""
        ...

    @property
    def patient_id(self) -> str | None:
        """Patient ID."""
        ...

    @property
    def accession_number(self) -> str | None:
        """Accession Number."""
        ...

    @property
    def study_date(self) -> date | None:
        """Study Date."""
        ...


class StudyIndex(Protocol):
    """The part of the index that the join needs."""

    def studies(self) -> Sequence[StudyKeys]:
        """Return every study of the export."""
        ...

    def study(self, uid: str, /) -> StudyKeys | None:
        """Return the study with this Study Instance UID."""
        ...

    def studies_of(self, patient_key: str, /) -> Sequence[StudyKeys]:
        """Return the studies of one patient."""
        ...


@dataclass(frozen=True, slots=True)
class Scope:
    """The studies of one report: those it reads, and earlier ones of the same patient in the export.

    ``reads`` and ``compares`` hold Study Instance UIDs, oldest study first; ``joined_by`` is a :class:`JoinKey`.
    """

    report_id: str
    patient_key: str
    reads: tuple[str, ...]
    compares: tuple[str, ...]
    joined_by: str

    def __post_init__(self) -> None:
        if not self.reads:
            raise ValueError("a scope needs at least one study that is read")


def scope_reports(reports: Iterable[Report], index: StudyIndex) -> tuple[list[Scope], list[Skip]]:
    """Join reports to studies: by accession number, else Study Instance UID, else patient and date.

    Parameters
    ----------
    reports
        One or several a study, each of one or several studies.
    index
        Of the PACS export.

    Returns
    -------
    list of Scope
        In the order of ``reports``.
    list of Skip
        ``item`` is the report's own id, to be keyed before it is published. Reasons: ``no_study_key`` (nothing to join
        by), ``study_not_in_export``, ``ambiguous_study`` (one number at two patients, several studies on one day),
        ``patient_mismatch`` and ``conflicting_keys`` (two keys name different patients or studies), and
        ``part_of_studies_absent`` (the report is used, for the studies that are there).
    """
    join = _Join(index)
    scopes: list[Scope] = []
    skips: list[Skip] = []
    for report in reports:
        outcome = join.scope(report)
        if isinstance(outcome, Scope):
            scopes.append(outcome)
            skips += join.absent_part(report, outcome)
        else:
            skips.append(outcome)
    return scopes, skips


_DETAILS = {
    "no_study_key": (
        "the report names no accession number, no Study Instance UID, and not both patient and date; add one of them"
    ),
    "study_not_in_export": "no study of the PACS export has the report's keys; export the study too",
    "ambiguous_study": (
        "the report's keys fit studies of several patients, or several studies of one day; "
        "give its study_instance_uid in the reports table"
    ),
    "patient_mismatch": (
        "the report's patient_id is not the patient of the study that its other keys name; correct one of them"
    ),
    "conflicting_keys": (
        "the report's accession number and Study Instance UID name different studies; correct one of them"
    ),
    "part_of_studies_absent": "the report is used, but some of the studies it names are not in the PACS export",
}
_ZEROS = "; the export has {} that differs only by leading zeros (a spreadsheet may have cut them): write it in full"


class _Join:
    """The studies of the export by what reports name them by."""

    def __init__(self, index: StudyIndex) -> None:
        self._index = index
        self._by_accession: dict[str, list[StudyKeys]] = {}
        self._by_short_accession: dict[str, set[str]] = {}
        for study in index.studies():
            number = _clean(study.accession_number)
            if number:
                self._by_accession.setdefault(number, []).append(study)
                self._by_short_accession.setdefault(number.lstrip("0"), set()).add(study.patient_key)

    def scope(self, report: Report) -> Scope | Skip:
        """Join one report, or say why not."""
        numbers = _cleaned(report.accession_numbers)
        uids = _cleaned(report.study_instance_uids)
        patient, day = _clean(report.patient_id), report.study_date
        if not (numbers or uids or (patient and day)):
            return _skip(report, "no_study_key")
        key, studies = JoinKey.ACCESSION_NUMBER, self._with_accessions(numbers, uids)
        if not studies:
            key, studies = JoinKey.STUDY_INSTANCE_UID, self._with_uids(uids)
        if not studies and not uids:  # with a UID, a study of the same day is another one
            key, studies = JoinKey.PATIENT_AND_DATE, self._on_day(patient, day)
        return self._joined(report, key, studies) if studies else self._absent(report, numbers, patient)

    def absent_part(self, report: Report, scope: Scope) -> list[Skip]:
        """Say that a report speaks of studies that are not there, too."""
        joined = {
            JoinKey.ACCESSION_NUMBER: [number in self._by_accession for number in _cleaned(report.accession_numbers)],
            JoinKey.STUDY_INSTANCE_UID: [uid in scope.reads for uid in _cleaned(report.study_instance_uids)],
        }
        return [] if all(joined.get(JoinKey(scope.joined_by), [])) else [_skip(report, "part_of_studies_absent")]

    def _with_accessions(self, numbers: Sequence[str], uids: Sequence[str]) -> list[StudyKeys]:
        studies: list[StudyKeys] = []
        for number in numbers:
            same = self._by_accession.get(number, [])
            named = [study for study in same if study.study_instance_uid in uids]
            studies += named or same
        return studies

    def _with_uids(self, uids: Sequence[str]) -> list[StudyKeys]:
        return [study for study in map(self._index.study, uids) if study is not None]

    def _on_day(self, patient: str, day: date | None) -> list[StudyKeys]:
        if not patient or day is None:
            return []
        studies = self._index.studies_of(patient)
        return [study for study in studies if study.study_date == day and _clean(study.patient_id) == patient]

    def _joined(self, report: Report, key: JoinKey, studies: Sequence[StudyKeys]) -> Scope | Skip:
        """Accept the studies that one key found, unless another key of the report speaks against them."""
        numbers, uids = _cleaned(report.accession_numbers), _cleaned(report.study_instance_uids)
        patient = _clean(report.patient_id)
        if len({study.patient_key for study in studies}) > 1:
            return _skip(report, "ambiguous_study")
        known = {_clean(study.patient_id) for study in studies} - {""}
        if patient and known and known != {patient}:
            similar = {value.lstrip("0") for value in known} == {patient.lstrip("0")}
            return _skip(report, "patient_mismatch", _ZEROS.format("a patient id") if similar else "")
        if key is JoinKey.ACCESSION_NUMBER:
            elsewhere = [study for study in self._with_uids(uids) if study.patient_key != studies[0].patient_key]
            unnamed = uids and not any(study.study_instance_uid in uids for study in studies)
            return _skip(report, "conflicting_keys") if elsewhere or unnamed else self._scope(report, key, studies)
        # The accession number found nothing: a study that bears another one is not the report's.
        others = [study for study in studies if numbers and _clean(study.accession_number) not in {"", *numbers}]
        if key is JoinKey.STUDY_INSTANCE_UID:
            return _skip(report, "conflicting_keys") if others else self._scope(report, key, studies)
        left = [study for study in studies if study not in others]
        if not left:
            return self._absent(report, numbers, patient)
        return self._scope(report, key, left) if len(left) == 1 else _skip(report, "ambiguous_study")

    def _scope(self, report: Report, key: JoinKey, studies: Sequence[StudyKeys]) -> Scope:
        read = {study.study_instance_uid: study for study in studies}
        patient_key = studies[0].patient_key
        days = [study.study_date for study in studies if study.study_date is not None]
        earlier = [
            study
            for study in self._index.studies_of(patient_key)
            if days and study.study_date is not None and study.study_date < min(days)
        ]
        return Scope(report.report_id, patient_key, _in_order(read.values()), _in_order(earlier), str(key))

    def _absent(self, report: Report, numbers: Sequence[str], patient: str) -> Skip:
        for number in numbers:
            patients = self._by_short_accession.get(number.lstrip("0"), set())
            if number not in self._by_accession and len(patients) == 1 and (not patient or patient in patients):
                return _skip(report, "study_not_in_export", _ZEROS.format("an accession number"))
        return _skip(report, "study_not_in_export")


def require_a_join(reports: Sequence[Report], scopes: Sequence[Scope], unscoped: Sequence[Skip]) -> None:
    """Stop before a night of segmenting lesions that no report will speak of."""
    if reports and not scopes:
        ((detail, n),) = Counter(skip.detail for skip in unscoped).most_common(1)
        raise ConfigError(
            f"not one of the {len(reports)} reports joined a study of the export; {n} times because {detail}. "
            "To segment lesions without any report, give an empty table"
        )


def studies_without_report(index: Index, scopes: Sequence[Scope]) -> list[Skip]:
    """Studies that were drawn on and that no report reads: their lesions are published without a phrase."""
    read = {uid for scope in scopes for uid in scope.reads}
    detail = "no report of the table reads this study: its lesions are published in `lesions`, without a phrase"
    return [
        Skip("scope", s.study_instance_uid, "study_without_report", detail, private={"uid": s.study_instance_uid})
        for s in index.studies()
        if s.study_instance_uid not in read and index.presentation_states(s.study_instance_uid)
    ]


def _in_order(studies: Iterable[StudyKeys]) -> tuple[str, ...]:
    ordered = sorted(studies, key=lambda study: (study.study_date or date.max, study.study_instance_uid))
    return tuple(study.study_instance_uid for study in ordered)


def _clean(value: str | None) -> str:
    """Return a key without the padding that DICOM and spreadsheets put around it."""
    return (value or "").strip(" \0")


def _cleaned(values: Iterable[str]) -> tuple[str, ...]:
    return tuple(dict.fromkeys(value for value in map(_clean, values) if value))


def _skip(report: Report, reason: str, more: str = "") -> Skip:
    private = {"report_id": report.report_id}
    return Skip("scope", report.report_id, reason, _DETAILS[reason] + more, private=private)
