"""Which studies a report reads, and which it can only be comparing with.

A wrong join poisons every link after it, so keys are compared exactly as they are written (leading zeros included), and
keys that contradict each other join nothing. An accession number in another spelling (cut zeros, a prefix) joins
nothing by itself; it only does not speak against a study that other keys name.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Collection, Iterable, Sequence
from dataclasses import dataclass, replace
from datetime import date
from enum import StrEnum
from typing import TYPE_CHECKING, Protocol

from cohort_builder.errors import ConfigError
from cohort_builder.scope.accession import core, is_respelled
from cohort_builder.scope.comparison import read_comparison
from cohort_builder.types import Skip
from nlp.types import Report

if TYPE_CHECKING:
    from cohort_builder.cases.sieve import Sieve
    from cohort_builder.pacs.index import Index


class JoinKey(StrEnum):
    """By what a report was joined to its studies, in the order tried."""

    ACCESSION_NUMBER = "accession_number"
    STUDY_INSTANCE_UID = "study_instance_uid"
    PATIENT_AND_DATE = "patient_and_date"


class ComparedBy(StrEnum):
    """How the studies that a report compares with were chosen among the earlier ones of its patient."""

    EARLIER = "earlier_studies"  # all of them: the report names no day
    STATED_DATES = "stated_dates"  # those of the days that the report names
    STATED_NONE = "stated_none"  # none: the report says that it compares with nothing


class LeftOut(StrEnum):
    """Why a report neither reads nor compares with another study of its patient."""

    SAME_DAY = "same_day"  # with another number: another report's, or a part of this one's that its keys do not name
    LATER = "later"
    NO_DATE = "no_date"  # of this study or of those that are read: which came first is not known
    NOT_STATED = "not_stated"  # earlier, and the report names other days
    NOT_SELECTED = "not_selected"  # one to compare with, which the selection leaves out


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

    ``reads`` and ``compares`` hold Study Instance UIDs, oldest study first; ``joined_by`` is a :class:`JoinKey`,
    ``compared_by`` a :class:`ComparedBy`. ``left_out`` pairs each other study of the patient with a :class:`LeftOut`.
    """

    report_id: str
    patient_key: str
    reads: tuple[str, ...]
    compares: tuple[str, ...]
    joined_by: str
    compared_by: str = ComparedBy.EARLIER
    left_out: tuple[tuple[str, str], ...] = ()

    def __post_init__(self) -> None:
        if not self.reads:
            raise ValueError("a scope needs at least one study that is read")


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
    "date_mismatch": (
        "the report's accession number is that of a study of another month, and no other key of the report names that "
        "study: two systems may have given out one number; add its patient_id or study_instance_uid"
    ),
    "conflicting_keys": (
        "the report's accession number and Study Instance UID name different studies; correct one of them"
    ),
    "part_of_studies_absent": (
        "the report is used, but some of the studies it names are not in the PACS export, or not in the selection"
    ),
}
_ZEROS = "; the export has {} that differs only by leading zeros (a spreadsheet may have cut them): write it in full"
_SPELLED = "; the export has an accession number that differs only by a prefix or separators: write it as it is there"
_OTHER_DAYS = "; the patient is in the export, with studies of other days"
_UNDATED = "; the patient is in the export, with a study that has no date: give its accession number or UID"
_DAYS_BETWEEN = 31  # a report's date may be the day of its dictation or signature


class ReportJoin:
    """The studies of an export by what reports name them by. Holds a few words a study, and no report."""

    def __init__(self, index: StudyIndex) -> None:
        self._index = index
        self._by_accession: dict[str, list[StudyKeys]] = {}
        self._by_core: dict[str, list[StudyKeys]] = {}
        for study in index.studies():
            number = _clean(study.accession_number)
            if number:
                self._by_accession.setdefault(number, []).append(study)
                self._by_core.setdefault(core(number), []).append(study)

    def scope(self, report: Report) -> Scope | Skip:
        """Join one report by accession number, else Study Instance UID, else patient and date, or say why not.

        What it compares with are the earlier studies of the patient. Where its comparison section names days, only
        those of a day that the text names (``comparison.py``): the size of a prior that is not in the export must not
        meet the lesions of another one. A study of the same day is neither.

        The ``item`` of a Skip is the report's own id, to be keyed before it is published. Reasons: ``no_study_key``
        (nothing to join by), ``study_not_in_export``, ``ambiguous_study`` (one number at two patients, several studies
        on one day), ``patient_mismatch``, ``date_mismatch`` and ``conflicting_keys`` (two keys name different patients,
        days or studies).
        """
        numbers = _cleaned(report.accession_numbers)
        uids = _cleaned(report.study_instance_uids)
        patient, day = _clean(report.patient_id), report.study_date
        if not (numbers or uids or (patient and day)):
            return _skip(report, "no_study_key")
        key, studies = JoinKey.ACCESSION_NUMBER, self._with_accessions(numbers, uids, patient)
        if not studies:
            key, studies = JoinKey.STUDY_INSTANCE_UID, self._with_uids(uids)
        if not studies and not uids:  # with a UID, a study of the same day is another one
            key, studies = JoinKey.PATIENT_AND_DATE, self._on_day(patient, day)
        return self._joined(report, key, studies) if studies else self._absent(report, numbers, patient)

    def is_partly_absent(self, report: Report, scope: Scope) -> bool:
        """Whether a report speaks of studies that are not there, too."""
        numbers, uids = _cleaned(report.accession_numbers), _cleaned(report.study_instance_uids)
        if scope.joined_by == JoinKey.ACCESSION_NUMBER:
            return not all(number in self._by_accession for number in numbers)
        return scope.joined_by == JoinKey.STUDY_INSTANCE_UID and not all(uid in scope.reads for uid in uids)

    def _with_accessions(self, numbers: Sequence[str], uids: Sequence[str], patient: str) -> list[StudyKeys]:
        """Studies by accession number; where two sites gave out one number, those that a second key names, too."""
        studies: list[StudyKeys] = []
        for number in numbers:
            same = self._by_accession.get(number, [])
            named = [study for study in same if study.study_instance_uid in uids]
            if not named and len({study.patient_key for study in same}) > 1:
                named = [study for study in same if patient and _clean(study.patient_id) == patient]
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
            if elsewhere or unnamed:
                return _skip(report, "conflicting_keys")
            confirmed = uids or (patient and known)
            if not confirmed and _is_far(report.study_date, studies):
                return _skip(report, "date_mismatch")
            return self._scope(report, key, studies)
        # The accession number found nothing: a study that bears another one is not the report's.
        others = [study for study in studies if _bears_another(study, numbers)]
        if key is JoinKey.STUDY_INSTANCE_UID:
            return _skip(report, "conflicting_keys") if others else self._scope(report, key, studies)
        left = [study for study in studies if study not in others]
        if not left:
            return self._absent(report, numbers, patient)
        return self._scope(report, key, left) if len(left) == 1 else _skip(report, "ambiguous_study")

    def _scope(self, report: Report, key: JoinKey, studies: Sequence[StudyKeys]) -> Scope:
        read = {study.study_instance_uid: study for study in studies}
        patient_key = studies[0].patient_key
        days = {study.study_date for study in studies if study.study_date is not None}
        if not days and report.study_date is not None:  # what the table says of the study, where the study is silent
            days = {report.study_date}
        others = [s for s in self._index.studies_of(patient_key) if s.study_instance_uid not in read]
        earlier = [s for s in others if days and s.study_date is not None and s.study_date < min(days)]
        compares, compared_by = _compared(report.text, earlier, min(days)) if earlier else (earlier, ComparedBy.EARLIER)
        left_out = sorted(
            (study.study_instance_uid, str(_why_not(study, days))) for study in others if study not in compares
        )
        return Scope(
            report.report_id,
            patient_key,
            _in_order(read.values()),
            _in_order(compares),
            str(key),
            str(compared_by),
            tuple(left_out),
        )

    def _absent(self, report: Report, numbers: Sequence[str], patient: str) -> Skip:
        for number in numbers:
            alike = self._by_core.get(core(number), [])
            similar = [study for study in alike if is_respelled(number, _clean(study.accession_number))]
            patients = {study.patient_key for study in similar}
            if len(patients) == 1 and (not patient or patient in patients):
                zeros = any(_clean(s.accession_number).lstrip("0") == number.lstrip("0") for s in similar)
                return _skip(report, "study_not_in_export", _ZEROS.format("an accession number") if zeros else _SPELLED)
        of_patient = [s for s in self._index.studies_of(patient) if _clean(s.patient_id) == patient] if patient else []
        if any(study.study_date is None for study in of_patient):
            return _skip(report, "study_not_in_export", _UNDATED)
        day = report.study_date
        other_days = of_patient and day is not None and all(study.study_date != day for study in of_patient)
        return _skip(report, "study_not_in_export", _OTHER_DAYS if other_days else "")


def _compared(text: str, earlier: list[StudyKeys], before: date) -> tuple[list[StudyKeys], ComparedBy]:
    """Choose among the earlier studies those that a report compares with."""
    stated = read_comparison(text)
    if not stated.chooses(before):
        return earlier, ComparedBy.EARLIER
    if stated.none:
        return [], ComparedBy.STATED_NONE
    named = [study for study in earlier if study.study_date is not None and stated.names(study.study_date, before)]
    return named, ComparedBy.STATED_DATES


def _why_not(study: StudyKeys, days: Collection[date]) -> LeftOut:
    """Why a study of the patient is neither read (on ``days``) nor compared with."""
    if study.study_date is None or not days:
        return LeftOut.NO_DATE
    if study.study_date in days:
        return LeftOut.SAME_DAY
    return LeftOut.NOT_STATED if study.study_date < min(days) else LeftOut.LATER


def selected(scope: Scope, sieve: Sieve) -> Scope | Skip:
    """What a selection leaves of the studies of a report, or a Skip (``not_selected``) where it reads none of them.

    Reports are joined among all studies first: what is left out must not make the wrong study the only one that fits.
    """
    reads = tuple(uid for uid in scope.reads if uid not in sieve.studies)
    if not reads:
        why = sieve.studies[scope.reads[0]]
        detail = f"the study that the report reads is {why.sentence}"
        return Skip("scope", scope.report_id, "not_selected", detail, private={"report_id": scope.report_id})
    compares = tuple(uid for uid in scope.compares if uid not in sieve.studies)
    lost = [(uid, str(LeftOut.NOT_SELECTED)) for uid in (*scope.reads, *scope.compares) if uid in sieve.studies]
    return replace(scope, reads=reads, compares=compares, left_out=tuple(sorted([*scope.left_out, *lost])))


def require_a_join(n_reports: int, n_joined: int, refused: Counter[str]) -> None:
    """Stop before a night of segmenting lesions that no report will speak of.

    Parameters
    ----------
    refused
        How often each ``Skip.detail`` was given.

    Raises
    ------
    ConfigError
        There are reports, and not one is of use.
    """
    if n_reports and not n_joined:
        ((detail, n),) = refused.most_common(1)
        raise ConfigError(
            f"not one of the {n_reports} reports joined a study of the export; {n} times because {detail}. "
            "To segment lesions without any report, give an empty table"
        )


def studies_without_report(index: Index, scopes: Iterable[Scope]) -> list[Skip]:
    """Studies that were drawn on and that no report reads: their lesions are published without a phrase."""
    read = {uid for scope in scopes for uid in scope.reads}
    detail = "no report of the table reads this study: its lesions are published in `lesions`, without a phrase"
    return [
        Skip("scope", s.study_instance_uid, "study_without_report", detail, private={"uid": s.study_instance_uid})
        for s in index.studies()
        if s.study_instance_uid not in read and index.annotation_objects(s.study_instance_uid)
    ]


def _in_order(studies: Iterable[StudyKeys]) -> tuple[str, ...]:
    ordered = sorted(studies, key=lambda study: (study.study_date or date.max, study.study_instance_uid))
    return tuple(study.study_instance_uid for study in ordered)


def _clean(value: str | None) -> str:
    """Return a key without the padding that DICOM and spreadsheets put around it."""
    return (value or "").strip(" \0")


def _cleaned(values: Iterable[str]) -> tuple[str, ...]:
    return tuple(dict.fromkeys(value for value in map(_clean, values) if value))


def _bears_another(study: StudyKeys, numbers: Sequence[str]) -> bool:
    """Whether a study bears an accession number that is none of a report's, however that is spelled."""
    own = _clean(study.accession_number)
    return bool(numbers and own) and not any(is_respelled(own, number) for number in numbers)


def _is_far(day: date | None, studies: Iterable[StudyKeys]) -> bool:
    """Whether a report's date is that of none of its studies, by far."""
    days = [study.study_date for study in studies if study.study_date is not None]
    return day is not None and bool(days) and all(abs((day - other).days) > _DAYS_BETWEEN for other in days)


def partly_absent(report_id: str) -> Skip:
    """Say that a report is used, but not for all of its studies."""
    reason = "part_of_studies_absent"
    return Skip("scope", report_id, reason, _DETAILS[reason], private={"report_id": report_id})


def _skip(report: Report, reason: str, more: str = "") -> Skip:
    private = {"report_id": report.report_id}
    return Skip("scope", report.report_id, reason, _DETAILS[reason] + more, private=private)
