"""Reports are joined to the right studies, or to none."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace
from datetime import date
from pathlib import Path

import pytest
from dicom import Patient, StudyInfo, ct_series, write
from hypothesis import given
from hypothesis import strategies as st

from cohort_builder.pacs import index_export
from cohort_builder.privacy import scrub_text
from cohort_builder.scope import Scope, scope_reports
from nlp.types import Report


@dataclass(frozen=True)
class FakeStudy:
    study_instance_uid: str
    patient_id: str | None
    accession_number: str | None = None
    study_date: date | None = None

    @property
    def patient_key(self) -> str:
        return self.patient_id or f"study:{self.study_instance_uid}"


class FakeIndex:
    def __init__(self, *studies: FakeStudy) -> None:
        self._studies = studies

    def studies(self) -> Sequence[FakeStudy]:
        return self._studies

    def study(self, uid: str) -> FakeStudy | None:
        return next((study for study in self._studies if study.study_instance_uid == uid), None)

    def studies_of(self, patient_key: str) -> Sequence[FakeStudy]:
        return [study for study in self._studies if study.patient_key == patient_key]


def day(number: int) -> date:
    return date(2021, 3, number)


INDEX = FakeIndex(
    FakeStudy("1.1", "P1", "007", day(1)),
    FakeStudy("1.2", "P1", "008", day(5)),
    FakeStudy("1.3", "P1", None, day(9)),
    FakeStudy("1.4", "P1", "010", None),
    FakeStudy("2.1", "P2", "107", day(5)),
    FakeStudy("2.2", "P2", "108", day(7)),
    FakeStudy("2.3", "P2", "109", day(7)),
    FakeStudy("3.1", None, "207", day(2)),
    FakeStudy("4.1", "P4", "300", day(2)),
    FakeStudy("5.1", "P5", "300", day(2)),
    FakeStudy("6.1", "P6", "400", day(2)),
    FakeStudy("6.2", "P6", "400", day(2)),
    FakeStudy("6.3", "0060", "500", day(2)),
)


def report(*accessions: str, uids: tuple[str, ...] = (), patient: str | None = None, on: date | None = None) -> Report:
    return Report("r", "text", accessions, uids, patient, on)


def joined(one: Report, index: FakeIndex = INDEX) -> Scope:
    scopes, skips = scope_reports([one], index)
    assert not skips
    return scopes[0]


def refused(one: Report, index: FakeIndex = INDEX) -> str:
    scopes, skips = scope_reports([one], index)
    assert not scopes
    (skip,) = skips
    assert skip.stage == "scope"
    assert not skip.failure
    return skip.reason


@pytest.mark.parametrize(
    ("one", "reads", "compares", "joined_by"),
    [
        (report("008"), ("1.2",), ("1.1",), "accession_number"),
        (report(" 008 "), ("1.2",), ("1.1",), "accession_number"),
        (report("008", patient="P1"), ("1.2",), ("1.1",), "accession_number"),
        (report("008", "007"), ("1.1", "1.2"), (), "accession_number"),
        (report("010"), ("1.4",), (), "accession_number"),  # no date: nothing is known to be earlier
        (report("207", patient="P9"), ("3.1",), (), "accession_number"),  # the study names no patient
        (report("400"), ("6.1", "6.2"), (), "accession_number"),
        (report("400", uids=("6.2",)), ("6.2",), (), "accession_number"),
        (report("300", uids=("5.1",)), ("5.1",), (), "accession_number"),
        (report(uids=("1.3",)), ("1.3",), ("1.1", "1.2"), "study_instance_uid"),
        (report("999", uids=("1.3",)), ("1.3",), ("1.1", "1.2"), "study_instance_uid"),
        (report(patient="P1", on=day(5)), ("1.2",), ("1.1",), "patient_and_date"),
        (report("999", patient="P1", on=day(9)), ("1.3",), ("1.1", "1.2"), "patient_and_date"),
    ],
)
def test_join(one: Report, reads: tuple[str, ...], compares: tuple[str, ...], joined_by: str) -> None:
    scope = joined(one)
    assert (scope.reads, scope.compares, scope.joined_by) == (reads, compares, joined_by)
    assert scope.report_id == "r"
    assert {INDEX.study(uid).patient_key for uid in (*reads, *compares)} == {scope.patient_key}


@pytest.mark.parametrize(
    ("one", "reason"),
    [
        (report(), "no_study_key"),
        (report(patient="P1"), "no_study_key"),
        (report(on=day(1)), "no_study_key"),
        (report(" ", uids=("",)), "no_study_key"),
        (report("999"), "study_not_in_export"),
        (report("7"), "study_not_in_export"),  # 007 is another number
        (report("0107"), "study_not_in_export"),
        (report(uids=("9.9",)), "study_not_in_export"),
        (report(uids=("9.9",), patient="P1", on=day(5)), "study_not_in_export"),
        (report(patient="P1", on=day(2)), "study_not_in_export"),
        (report(patient="P9", on=day(1)), "study_not_in_export"),
        (report("999", patient="P1", on=day(5)), "study_not_in_export"),  # that day's study bears another number
        (report("300"), "ambiguous_study"),
        (report("300", patient="P4"), "ambiguous_study"),
        (report("007", "107"), "ambiguous_study"),
        (report(uids=("1.1", "2.1")), "ambiguous_study"),
        (report(patient="P2", on=day(7)), "ambiguous_study"),
        (report("007", patient="P2"), "patient_mismatch"),
        (report("007", patient="p1"), "patient_mismatch"),
        (report(uids=("1.1",), patient="P2"), "patient_mismatch"),
        (report("500", patient="60"), "patient_mismatch"),
        (report("007", uids=("2.1",)), "conflicting_keys"),
        (report("007", uids=("1.2",)), "conflicting_keys"),
        (report("999", uids=("1.1",)), "conflicting_keys"),  # that study bears another number
    ],
)
def test_refusal(one: Report, reason: str) -> None:
    assert refused(one) == reason


def test_cut_zeros_are_named_but_not_joined() -> None:
    _, (accession,) = scope_reports([report("7")], INDEX)
    _, (patient,) = scope_reports([report("500", patient="60")], INDEX)
    _, (absent,) = scope_reports([report("999")], INDEX)
    _, (elsewhere,) = scope_reports([report("7", patient="P2")], INDEX)
    assert "leading zeros" in accession.detail
    assert "leading zeros" in patient.detail
    assert "leading zeros" not in absent.detail
    assert "leading zeros" not in elsewhere.detail


def test_report_over_an_absent_study_too_is_used_and_said() -> None:
    scopes, skips = scope_reports([report("008", "999")], INDEX)
    assert [scope.reads for scope in scopes] == [("1.2",)]
    assert [skip.reason for skip in skips] == ["part_of_studies_absent"]


def test_several_reports_over_one_study() -> None:
    reports = [replace(report("008"), report_id=name) for name in ("first", "addendum")]
    scopes, skips = scope_reports(reports, INDEX)
    assert [(scope.report_id, scope.reads) for scope in scopes] == [("first", ("1.2",)), ("addendum", ("1.2",))]
    assert not skips


def test_skips_name_no_patient() -> None:
    reports = [report("007", patient="P2"), report("300"), report("999", patient="SECRET", on=day(1))]
    _, skips = scope_reports(reports, INDEX)
    assert len(skips) == 3
    for skip in skips:
        assert not any(secret in skip.detail + skip.item for secret in ("P2", "300", "007", "SECRET", "999", "1.1"))


def test_scope_reads_something() -> None:
    with pytest.raises(ValueError, match="at least one"):
        Scope("r", "P1", (), (), "accession_number")


def test_join_over_a_real_index(tmp_path: Path) -> None:
    patient = Patient(name="Muster^Erika", patient_id="0012345")
    before = StudyInfo(patient, "ACC0001", date="20240101")
    now = StudyInfo(patient, "ACC0002", date="20240305")
    write([*ct_series(3, study=before), *ct_series(3, study=now)], tmp_path)
    index = index_export(tmp_path)
    for one, by in (
        (report("ACC0002"), "accession_number"),
        (report(uids=(now.study_instance_uid,)), "study_instance_uid"),
        (report(patient="0012345", on=date(2024, 3, 5)), "patient_and_date"),
    ):
        (scope,), skips = scope_reports([one], index)
        assert not skips
        assert (scope.reads, scope.compares) == ((now.study_instance_uid,), (before.study_instance_uid,))
        assert (scope.joined_by, scope.patient_key) == (by, "0012345")
    assert refused(report("ACC0002", patient="12345"), index) == "patient_mismatch"
    text = "Erika Muster, ID 12345, of 03/05/2024 (ACC 0002): 12 mm nodule (1/2)"
    header = index.study(now.study_instance_uid)
    assert scrub_text(text, header.identifiers).text == "[NAME], [ID], of [DATE] ([ID]): 12 mm nodule (1/2)"
    index.close()


keys = st.sampled_from(["", "1", "01", "001", "2", "02"])
studies = st.lists(
    st.builds(
        FakeStudy,
        study_instance_uid=st.sampled_from(["1.1", "1.2", "1.3", "1.4"]),
        patient_id=keys.map(lambda value: value or None),
        accession_number=keys.map(lambda value: value or None),
        study_date=st.none() | st.dates(day(1), day(4)),
    ),
    unique_by=lambda study: study.study_instance_uid,
)
reports = st.builds(
    report,
    keys,
    uids=st.lists(st.sampled_from(["1.1", "1.2", "1.5"]), max_size=2).map(tuple),
    patient=keys,
    on=st.none() | st.dates(day(1), day(4)),
)


@given(export=studies, one=reports)
def test_no_join_contradicts_a_key(export: list[FakeStudy], one: Report) -> None:
    index = FakeIndex(*export)
    scopes, skips = scope_reports([one], index)
    assert len(scopes) <= 1
    assert scopes or len(skips) == 1
    for scope in scopes:
        read = [index.study(uid) for uid in scope.reads]
        assert {study.patient_key for study in read} == {scope.patient_key}
        assert all(study.patient_id in {None, one.patient_id} for study in read) or not one.patient_id
        agreed = [study for study in read if study.accession_number in one.accession_numbers and study.accession_number]
        named = [study for study in read if study.study_instance_uid in one.study_instance_uids]
        dated = [study for study in read if study.patient_id == one.patient_id and study.study_date == one.study_date]
        by = {"accession_number": agreed, "study_instance_uid": named, "patient_and_date": dated}
        assert by[scope.joined_by] == read
        for uid in scope.compares:
            earlier = index.study(uid)
            assert earlier.patient_key == scope.patient_key
            assert all(earlier.study_date < study.study_date for study in read if study.study_date)
            assert uid not in scope.reads


@given(export=studies, one=reports)
def test_order_of_the_export_does_not_matter(export: list[FakeStudy], one: Report) -> None:
    assert scope_reports([one], FakeIndex(*export)) == scope_reports([one], FakeIndex(*reversed(export)))


def test_a_table_of_which_no_report_joins_is_refused_with_the_commonest_reason() -> None:
    from cohort_builder import ConfigError
    from cohort_builder.scope import require_a_join
    from cohort_builder.types import Skip

    reports = [report(None), report(None)]
    skips = [Skip("scope", "1", "no_study_key", "no keys"), Skip("scope", "2", "no_study_key", "no keys")]
    with pytest.raises(
        ConfigError, match="not one of the 2 reports joined a study of the export; 2 times because no keys"
    ):
        require_a_join(reports, [], skips)
    require_a_join([], [], [])
