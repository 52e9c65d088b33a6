"""Reports are joined to the right studies, or to none."""

from __future__ import annotations

from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass, replace
from datetime import UTC, date, datetime
from pathlib import Path

import pytest
from dicom import Patient, StudyInfo, ct_series, write
from hypothesis import given
from hypothesis import strategies as st
from scoping import scope_reports

from cohort_builder import ConfigError
from cohort_builder.pacs.index import index_export
from cohort_builder.patient import given_out
from cohort_builder.privacy.pseudonyms import scrub_text
from cohort_builder.scope.accession import core, is_respelled
from cohort_builder.scope.joining import Scope, require_a_join
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
    FakeStudy("7.1", "P7", "RIS-0012345", day(2)),
    FakeStudy("7.2", "P7", "RIS-0012346", day(4)),
    FakeStudy("7.3", "P7", "CT12347", day(6)),
    FakeStudy("8.1", "P8", "800", None),
    FakeStudy("8.2", "P8", "801", day(1)),
    FakeStudy("9.1", "P9", "900", day(3)),
    FakeStudy("9.2", "P9", "901", day(3)),
    FakeStudy("9.3", "P9", "902", day(4)),
    FakeStudy("9.4", "P9", "903", day(1)),
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
        (report("207", patient="PX"), ("3.1",), (), "accession_number"),  # the study names no patient
        (report("400"), ("6.1", "6.2"), (), "accession_number"),
        (report("400", uids=("6.2",)), ("6.2",), (), "accession_number"),
        (report("300", uids=("5.1",)), ("5.1",), (), "accession_number"),
        (report("300", patient="P4"), ("4.1",), (), "accession_number"),  # two sites, one number; the patient tells
        (report("007", on=day(25)), ("1.1",), (), "accession_number"),  # the day of the signature
        (report("007", on=date(2022, 3, 1), patient="P1"), ("1.1",), (), "accession_number"),  # two keys agree
        (report("007", on=date(2022, 3, 1), uids=("1.1",)), ("1.1",), (), "accession_number"),
        (report(uids=("1.3",)), ("1.3",), ("1.1", "1.2"), "study_instance_uid"),
        (report("999", uids=("1.3",)), ("1.3",), ("1.1", "1.2"), "study_instance_uid"),
        (report(patient="P1", on=day(5)), ("1.2",), ("1.1",), "patient_and_date"),
        (report("999", patient="P1", on=day(9)), ("1.3",), ("1.1", "1.2"), "patient_and_date"),
        # a number in another spelling does not speak against what the other keys name
        (report("7", patient="P1", on=day(1)), ("1.1",), (), "patient_and_date"),
        (report("12345", patient="P7", on=day(2)), ("7.1",), (), "patient_and_date"),
        (report("ris 12346", uids=("7.2",)), ("7.2",), ("7.1",), "study_instance_uid"),
        # the table's date where the study has none
        (report("800", on=day(3)), ("8.1",), ("8.2",), "accession_number"),
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
        (report(patient="PX", on=day(1)), "study_not_in_export"),
        (report("999", patient="P1", on=day(5)), "study_not_in_export"),  # that day's study bears another number
        (report("300"), "ambiguous_study"),
        (report("300", patient="P6"), "ambiguous_study"),
        (report("007", on=date(2022, 3, 1)), "date_mismatch"),
        (report("007", on=date(2021, 1, 1)), "date_mismatch"),
        (report("12345"), "study_not_in_export"),  # a prefix joins nothing by itself
        (report("MR12347", patient="P7", on=day(6)), "study_not_in_export"),  # another modality's number
        (report("MR12347", uids=("7.3",)), "conflicting_keys"),
        (report(patient="P8", on=day(3)), "study_not_in_export"),  # may be the study without a date
        (report("999", patient="P9", on=day(3)), "study_not_in_export"),
        (report(patient="P9", on=day(3)), "ambiguous_study"),
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


@pytest.mark.parametrize(
    ("one", "hint"),
    [
        (report("7"), "leading zeros"),
        (report("500", patient="60"), "leading zeros"),
        (report("12345"), "a prefix or separators"),
        (report("CT.0012347"), "a prefix or separators"),
        (report("MR12347"), ""),
        (report("999"), ""),
        (report("7", patient="P2"), ""),
        (report("12345", patient="P2"), ""),
        (report(patient="P8", on=day(3)), "a study that has no date"),
        (report(patient="P2", on=day(3)), "studies of other days"),
        (report("999", patient="P9", on=day(3)), ""),
    ],
)
def test_what_nearly_joins_is_named(one: Report, hint: str) -> None:
    _, (skip,) = scope_reports([one], INDEX)
    hints = ("leading zeros", "a prefix or separators", "a study that has no date", "studies of other days")
    assert [text for text in hints if text in skip.detail] == ([hint] if hint else [])


def test_why_other_studies_are_not_in_scope() -> None:
    scope = joined(report("901"))
    assert (scope.reads, scope.compares, scope.compared_by) == (("9.2",), ("9.4",), "earlier_studies")
    assert scope.left_out == (("9.1", "same_day"), ("9.3", "later"))
    assert joined(report("800")).left_out == (("8.2", "no_date"),)  # which came first is not known
    assert joined(report("800", on=day(3))).left_out == ()
    assert joined(report("801")).left_out == (("8.1", "no_date"),)


def prior(text: str, *priors: date) -> tuple[tuple[str, ...], str]:
    """With which of some priors (named by their number) a report of 15 June 2021 compares, and how that was chosen."""
    before = [FakeStudy(f"{number}", "P1", None, when) for number, when in enumerate(priors, start=1)]
    index = FakeIndex(FakeStudy("now", "P1", "A1", date(2021, 6, 15)), *before)
    scope = joined(replace(report("A1"), text=text), index)
    assert set(scope.left_out) == {(s.study_instance_uid, "not_stated") for s in before} - {
        (uid, "not_stated") for uid in scope.compares
    }
    return scope.compares, scope.compared_by


MARCH, APRIL, YEARS_AGO = date(2021, 3, 4), date(2021, 4, 3), date(2018, 11, 30)


@pytest.mark.parametrize(
    ("section", "compares", "how"),
    [
        ("COMPARISON: CT of 4 March 2021.", "1", "stated_dates"),
        ("COMPARISON: CT of 2021-03-04.", "1", "stated_dates"),
        ("COMPARISON: 20210304", "1", "stated_dates"),
        ("COMPARISON: March 4th, 2021", "1", "stated_dates"),
        ("COMPARISON: 04-Mar-2021", "1", "stated_dates"),
        ("COMPARISON: 4. März 2021", "1", "stated_dates"),
        ("COMPARISON: CT 04.03.21", "1", "stated_dates"),  # with full stops the day is first
        ("COMPARISON: March 2021", "1", "stated_dates"),
        ("COMPARISON: 11/2018", "3", "stated_dates"),
        ("COMPARISON: 30/11/2018 and 2021-03-04", "3 1", "stated_dates"),
        ("COMPARISON: 3/4/2021", "1 2", "stated_dates"),  # read either way, it is a day of the patient's
        ("COMPARISON: 11/30/2018", "3", "stated_dates"),
        # that study is not in the export: its sizes must not meet the lesions of another one
        ("COMPARISON: CT of 1 May 2020.", "", "stated_dates"),
        ("COMPARISON: None.", "", "stated_none"),
        ("Comparison: no prior studies available", "", "stated_none"),
        # nothing that chooses: all that came before
        ("COMPARISON: prior CT", "3 1 2", "earlier_studies"),
        ("COMPARISON: none of the outside studies could be loaded, CT", "3 1 2", "earlier_studies"),
        ("COMPARISON: CT 2018", "3 1 2", "earlier_studies"),
        ("COMPARISON: 31.02.2021", "3 1 2", "earlier_studies"),  # no such day
        ("COMPARISON: prior CT. Date of this exam: 15 June 2021", "3 1 2", "earlier_studies"),
        ("COMPARISON: CT.\n\nDictated 4 March 2021.", "3 1 2", "earlier_studies"),  # behind the section
        ("Compared with the CT of 4 March 2021 it has grown.", "3 1 2", "earlier_studies"),
        ("", "3 1 2", "earlier_studies"),
    ],
)
def test_a_stated_day_chooses_among_the_priors(section: str, compares: str, how: str) -> None:
    text = f"CT CHEST\n\n{section}\n\nFINDINGS: A nodule of 12 mm, previously 9 mm."
    assert prior(text, MARCH, APRIL, YEARS_AGO) == (tuple(compares.split()), how)


def test_a_day_that_the_findings_name_is_compared_with_too() -> None:
    text = "COMPARISON: 4 March 2021.\n\nFINDINGS: 12 mm, 9 mm on 30.11.2018. Fleischner 2017. T12, 3/4 of the lobe."
    assert prior(text, MARCH, APRIL, YEARS_AGO) == (("3", "1"), "stated_dates")
    assert prior(text.replace("4 March 2021", "prior CT"), MARCH, YEARS_AGO) == (("2", "1"), "earlier_studies")


@given(
    st.dates(date(1990, 1, 1), date(2021, 6, 14)),
    st.sampled_from(["%Y-%m-%d", "%Y%m%d", "%d.%m.%Y", "%m/%d/%Y", "%d/%m/%Y", "%d %B %Y", "%b %d, %Y", "%d-%b-%y"]),
)
def test_every_way_to_write_a_day_finds_its_study(when: date, way: str) -> None:
    compares, how = prior(f"COMPARISON: CT of {when.strftime(way)}.\nFINDINGS: Normal.", when)
    assert (compares, how) == (("1",), "stated_dates")


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
    with pytest.raises(
        ConfigError, match="not one of the 3 reports joined a study of the export; 2 times because no keys"
    ):
        require_a_join(3, 0, Counter({"no keys": 2, "elsewhere": 1}))
    require_a_join(0, 0, Counter())
    require_a_join(3, 1, Counter({"no keys": 2}))


numbers = st.text("0123456789ABC-/ ", max_size=8)


@given(numbers, st.sampled_from(["", "0", "00", "-", " "]))
def test_zeros_and_separators_are_another_spelling(number: str, before: str) -> None:
    assert is_respelled(number, before + number) or "".join(filter(str.isalnum, number))[:1].isalpha()
    assert is_respelled(number, f" {number.lower()} ")


@given(numbers, numbers)
def test_spellings_are_mutual_and_share_a_core(one: str, other: str) -> None:
    assert is_respelled(one, other) == is_respelled(other, one)
    assert not is_respelled(one, other) or core(one) == core(other)


@pytest.mark.parametrize(
    ("issued", "by"),
    [
        (None, None),
        (datetime(2021, 3, 5, 12, 30), datetime(2021, 3, 5, 12, 30)),  # noqa: DTZ001 - the hospital's own time
        (datetime(2021, 3, 5), datetime(2021, 3, 6)),  # noqa: DTZ001 - only the day is known: some time of it
        (datetime(2021, 3, 5, tzinfo=UTC), datetime(2021, 3, 6, tzinfo=UTC)),
    ],
)
def test_by_when_a_report_was_given_out(issued: datetime | None, by: datetime | None) -> None:
    assert given_out(replace(report("007", on=day(5)), issued_at=issued)) == by
