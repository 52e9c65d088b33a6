"""Reports of any number go through one file, and come back patient by patient as they were."""

from __future__ import annotations

import csv
import random
import signal
import sqlite3
import subprocess
import sys
from collections.abc import Iterable
from dataclasses import replace
from datetime import UTC, datetime
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st
from scoping import scope_reports
from test_scope import FakeIndex, FakeStudy, day

from cohort_builder import SetupError
from cohort_builder.privacy.pseudonyms import Pseudonyms
from cohort_builder.scope.languages import language_code
from cohort_builder.scope.store import ReportStore
from cohort_builder.types import Skip
from nlp.types import Report

NAMES = Pseudonyms(bytes(range(32)))
INDEX = FakeIndex(
    FakeStudy("1.1", "P1", "A1", day(1)),
    FakeStudy("1.2", "P1", "A2", day(5)),
    FakeStudy("2.1", "P2", "B1", day(2)),
    FakeStudy("3.1", "P\ud8003", "C1", day(2)),  # DICOM text may decode to half a surrogate pair
)
TEXT = "FINDINGS: A 12 mm nodule."


def report(name: str, number: str = "A1", text: str = TEXT, **more: object) -> Report:
    return Report(name, text, (number,) if number else (), **more)  # type: ignore[arg-type]


def filled(
    reports: Iterable[Report], folder: Path | None = None, languages: frozenset[str] | None = None
) -> ReportStore:
    store = ReportStore.create(folder, NAMES)
    for _ in store.add(reports, INDEX, languages):
        pass
    store.finish(None if folder is None else folder / "reports.sqlite")
    return store


def used(store: ReportStore) -> list[str]:
    return [scope.report_id for scope in store.scopes()]


def reasons(store: ReportStore) -> dict[str, str]:
    """Reason by report id (the raw one, of the private half)."""
    return {row["private"]["item"]: row["reason"] for row in store.skips()}


def test_reports_come_back_as_they_were_with_their_scope() -> None:
    full = Report(
        "r1",
        "Zeilen\nmit 🫁 und\ttab\0",
        ("A2", "A\udc001"),
        ("1.2",),
        "P1",
        day(5),
        "de",
        "amended",
        ("Erika", "Muster"),
        "v1",
        datetime(2021, 3, 5, 12, 30, 1, tzinfo=UTC),
    )
    reports = [full, report("r2", "A1"), report("r3", "B1"), report("r4", "C1")]
    scopes, _ = scope_reports(reports, INDEX)
    store = filled(reports)
    by_id = {scope.report_id: scope for scope in scopes}
    assert sorted(store.of_patient("P1"), key=lambda pair: pair[0].report_id) == [
        (full, by_id["r1"]),
        (reports[1], by_id["r2"]),
    ]
    assert store.of_patient("P2") == [(reports[2], by_id["r3"])]
    assert store.of_patient("P\ud8003") == [(reports[3], by_id["r4"])]
    assert store.of_patient("nobody") == []
    assert list(store.scopes()) == scopes
    assert (store.read, store.used, store.failed) == (4, 4, 0)


numbers = st.sampled_from(["A1", "A2", "B1", "X9", ""])
tables = st.lists(st.tuples(numbers, st.text(max_size=20)), max_size=8).map(
    lambda rows: [report(f"r{i}", number, f"text {text}") for i, (number, text) in enumerate(rows)]
)


@given(tables, st.randoms())
def test_a_patients_digests_depend_on_his_reports_alone(table: list[Report], rng: random.Random) -> None:
    shuffled = filled(rng.sample(table, len(table)))
    store = filled(table)
    others = filled(one for one in table if one.accession_numbers != ("B1",))
    for patient in ("P1", "P2"):
        assert store.digests_of(patient) == shuffled.digests_of(patient)
        assert store.of_patient(patient) == shuffled.of_patient(patient)
    assert store.digests_of("P1") == others.digests_of("P1")
    assert len(store.digests_of("P1")) == len(store.of_patient("P1"))


@pytest.mark.parametrize(
    "change",
    [{"text": "else"}, {"language": "de"}, {"issued_at": datetime(2021, 3, 5, tzinfo=UTC)}, {"identifiers": ("X",)}],
)
def test_a_changed_report_changes_its_patients_digests_and_no_others(change: dict[str, object]) -> None:
    table = [report("r1"), report("r2", "B1")]
    before, after = filled(table), filled([replace(table[0], **change), table[1]])  # type: ignore[arg-type]
    assert before.digests_of("P1") != after.digests_of("P1")
    assert before.digests_of("P2") == after.digests_of("P2")


# ---- versions, languages and what else is not used -----------------------------------------------------------------


def test_the_last_version_is_used_and_the_others_are_counted() -> None:
    store = filled([
        report("old", version_key="v", status="preliminary"),
        report("other", version_key="w"),
        report("new", version_key="v", status="final"),
        report("apart", "B1"),
    ])  # fmt: skip
    assert used(store) == ["other", "new", "apart"]
    assert reasons(store) == {"old": "superseded_report"}
    assert store.digests_of("P1") == filled(
        [report("other", version_key="w"), report("new", version_key="v")]
    ).digests_of("P1")


def test_equal_reports_without_a_version_key_are_all_used() -> None:
    assert used(filled([report("one"), report("two"), report("three", status="amended")])) == ["one", "two", "three"]


def test_an_addendum_is_read_beside_its_report() -> None:
    base = report("base", version_key="v")
    addendum = report("more", version_key="v", status="addendum", text="ADDENDUM: No rib fracture.")
    assert used(filled([base, addendum])) == ["base", "more"]
    whole = replace(addendum, text=f"{TEXT}\n{addendum.text}")
    store = filled([base, whole])
    assert (used(store), reasons(store)) == (["more"], {"base": "superseded_report"})


def test_what_was_taken_back_is_not_used_with_or_without_a_version_key() -> None:
    store = filled([
        report("alone", status="entered-in-error"),
        report("first", version_key="v"),
        report("last", "", "", version_key="v", status="cancelled"),  # the message names no study and has no text
        report("good", "B1"),
    ])  # fmt: skip
    assert used(store) == ["good"]
    assert reasons(store) == dict.fromkeys(("alone", "first", "last"), "withdrawn_report")


def test_versions_of_two_patients_are_none_of_them_used() -> None:
    """Dictated on the wrong patient and corrected: which one is wrong, the table does not say."""
    store = filled([report("wrong", "A1", version_key="v"), report("right", "B1", version_key="v"), report("r", "B1")])
    assert used(store) == ["r"]
    assert reasons(store) == dict.fromkeys(("wrong", "right"), "conflicting_versions")


def test_a_corrected_version_outside_the_export_counts_against_the_earlier_one() -> None:
    """The text in the export is known to be superseded, though not by what."""
    moved = report("new", "X9", version_key="v", patient_id="P2")
    store = filled([report("old", "A1", version_key="v"), moved])
    assert (used(store), reasons(store)) == ([], {"old": "conflicting_versions", "new": "study_not_in_export"})
    same = replace(moved, accession_numbers=("A1", "B1"), patient_id=None)  # two patients: it joins nothing
    store = filled([report("old", "A1", version_key="v"), same])
    assert (used(store), reasons(store)) == ([], {"old": "superseded_report", "new": "ambiguous_study"})


def test_one_order_with_two_reports_keeps_both() -> None:
    store = filled([report("thorax", "A1", version_key="order"), report("abdomen", "A2", version_key="order")])
    assert used(store) == ["thorax", "abdomen"]


def test_more_versions_than_are_looked_up_at_a_time() -> None:
    table = [report(f"{i}-{n}", version_key=f"v{i}") for n in range(2) for i in range(1200)]
    store = filled(table)
    assert used(store) == [f"{i}-1" for i in range(1200)]
    assert list(reasons(store).values()) == ["superseded_report"] * 1200


def test_a_partly_absent_study_is_said_of_reports_that_are_used() -> None:
    two = Report("two", TEXT, ("A1", "X9"), version_key="v")
    assert reasons(filled([two])) == {"two": "part_of_studies_absent"}
    store = filled([two, report("new", version_key="v")])
    assert reasons(store) == {"two": "superseded_report"}


def test_a_language_that_the_extractor_does_not_read_is_a_skip() -> None:
    table = [report(name, language=name) for name in ("en", "en-GB", "English", "de", "NL", "Dr. Who", "xx")]
    store = filled(table, languages=frozenset({"en", "nl"}))
    assert used(store) == ["en", "en-GB", "English", "NL", "Dr. Who", "xx"]  # what is no language may be any
    (row,) = store.skips()
    assert (row["stage"], row["reason"], row["failure"]) == ("reports", "language_not_supported", False)
    assert "does not read the language 'de', only en, nl" in row["detail"]
    assert used(filled(table)) == [one.report_id for one in table]


@pytest.mark.parametrize(
    ("written", "code"),
    [
        ("en", "en"),
        ("EN_us", "en"),
        (" German ", "de"),
        ("deu", "de"),
        ("dut", "nl"),
        ("Zéphyrine", "und"),
        ("", "und"),
    ],
)
def test_language_codes(written: str, code: str) -> None:
    assert language_code(written) == code


def test_skips_come_in_the_order_in_which_they_are_published_and_name_nobody() -> None:
    store = ReportStore.create(None, NAMES)
    for row in (7, 2, 5):
        store.add_skip(Skip("reports", f"row {row}", "report_unusable", "the text is empty", failure=True))
    for _ in store.add([report("SECRET1", "X9"), report("SECRET2", "", patient_id="SECRET3")], INDEX):
        pass
    store.finish()
    rows = list(store.skips())
    assert [row["item"] for row in rows] == [
        row["item"] for row in sorted(rows, key=lambda row: (row["stage"], row["reason"], row["item"]))
    ]
    assert (len(rows), store.failed, store.read) == (5, 3, 2)
    assert sum(store.refused.values()) == 2
    assert "SECRET" not in str([{**row, "private": None} for row in rows])


# ---- the file ------------------------------------------------------------------------------------------------------


def test_the_file_is_the_owners_alone_and_other_processes_read_it(tmp_path: Path) -> None:
    store = filled([report("r1")], tmp_path)
    path = tmp_path / "reports.sqlite"
    assert [entry.name for entry in tmp_path.iterdir()] == [path.name]
    assert path.stat().st_mode & 0o777 == 0o600
    store.close()
    again = ReportStore.open(path)
    assert again.of_patient("P1")[0][0] == report("r1")
    with pytest.raises(ValueError, match="opened for reading"):
        again.add_skip(Skip("reports", "x", "report_unusable", "x"))
    again.close()


def test_what_was_not_finished_leaves_the_last_store_alone_and_nothing_else(tmp_path: Path) -> None:
    filled([report("r1")], tmp_path).close()

    def broken() -> Iterable[Report]:
        yield report("r2")
        raise RuntimeError

    store = ReportStore.create(tmp_path, NAMES)
    with pytest.raises(RuntimeError):
        list(store.add(broken(), INDEX))
    store.add_skip(Skip("reports", "row 3", "report_unusable", "broken"))
    assert reasons(store) == {"row 3": "report_unusable"}  # what a failed run says
    store.close()
    assert [entry.name for entry in tmp_path.iterdir()] == ["reports.sqlite"]
    assert used(ReportStore.open(tmp_path / "reports.sqlite")) == ["r1"]


KILLED = """
import sys, time
sys.path.insert(0, {tests!r})
from pathlib import Path
from test_report_store import NAMES, INDEX, report
from cohort_builder.scope.store import ReportStore
def endless():
    i = 0
    while True:
        yield report(f"r{{i}}", text="x" * 5000)
        i += 1
        if i == 400:
            print("ready", flush=True)
store = ReportStore.create(Path({folder!r}), NAMES)
for _ in store.add(endless(), INDEX):
    pass
"""


def test_a_killed_run_leaves_nothing_that_is_taken_for_reports(tmp_path: Path) -> None:
    filled([report("r1")], tmp_path).close()
    script = KILLED.format(tests=str(Path(__file__).parent), folder=str(tmp_path))
    with subprocess.Popen([sys.executable, "-c", script], stdout=subprocess.PIPE, text=True) as process:
        assert process.stdout is not None
        assert process.stdout.readline() == "ready\n"
        process.send_signal(signal.SIGKILL)
    assert len(list(tmp_path.iterdir())) == 2
    assert all(entry.stat().st_mode & 0o777 == 0o600 for entry in tmp_path.iterdir())
    assert used(ReportStore.open(tmp_path / "reports.sqlite")) == ["r1"]
    store = filled([report("r2")], tmp_path)
    assert [entry.name for entry in tmp_path.iterdir()] == ["reports.sqlite"]
    assert used(store) == ["r2"]


@pytest.mark.parametrize("content", [None, b"", b"no database at all", "another"])
def test_a_file_that_is_no_store_is_refused(tmp_path: Path, content: bytes | str | None) -> None:
    path = tmp_path / "reports.sqlite"
    if content == "another":
        with sqlite3.connect(path) as connection:
            connection.execute("CREATE TABLE t (x)")
        connection.close()
    elif isinstance(content, bytes):
        path.write_bytes(content)
    with pytest.raises(SetupError, match=r"the store of the reports .* run the build again"):
        ReportStore.open(path)


def test_a_folder_that_cannot_be_written_to_is_named_without_its_path(tmp_path: Path) -> None:
    with pytest.raises(SetupError, match=r"cannot be used \(FileNotFoundError\)") as error:
        ReportStore.create(tmp_path / "SECRET", NAMES)
    assert "SECRET" not in str(error.value)


# ---- scale ---------------------------------------------------------------------------------------------------------

MEASURE = """
import resource, sys
sys.path.insert(0, {tests!r})
from pathlib import Path
from test_report_store import NAMES, INDEX
from cohort_builder.scope.store import ReportStore
from nlp import read_reports
def peak_mb():
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1024
def run(table):
    store = ReportStore.create(Path({folder!r}), NAMES)
    for _ in store.add(read_reports(table), INDEX):
        pass
    store.finish(Path({folder!r}) / "reports.sqlite")
    n = store.used, sum(1 for _ in store.skips()), sum(1 for _ in store.scopes())
    store.close()
    return n
run(sys.argv[1])  # whatever is imported late
before = peak_mb()
print(*run(sys.argv[2]), peak_mb() - before)
"""


def write_table(path: Path, rows: int) -> float:
    """A table of which a half joins; returns its size in MB."""
    words = TEXT.split()
    rng = random.Random(1)
    texts = [" ".join(rng.choices(words, k=360)) for _ in range(50)]
    with path.open("w", newline="") as stream:
        writer = csv.writer(stream)
        writer.writerow(["report_id", "text", "accession_number"])
        writer.writerows((f"R{i:09d}", texts[i % 50], "A1" if i % 2 else f"OUT{i}") for i in range(rows))
    return path.stat().st_size / 1e6


def measure(folder: Path, rows: int) -> tuple[float, list[float]]:
    """Size of the table in MB; reports used, skips, scopes, and MB by which the peak of memory rose."""
    write_table(folder / "few.csv", 20)
    size = write_table(folder / "many.csv", rows)
    script = MEASURE.format(tests=str(Path(__file__).parent), folder=str(folder))
    command = [sys.executable, "-c", script, str(folder / "few.csv"), str(folder / "many.csv")]
    done = subprocess.run(command, capture_output=True, text=True, check=True)
    return size, [float(value) for value in done.stdout.split()]


def test_a_table_costs_no_memory_of_its_size(tmp_path: Path) -> None:
    size, (n_used, n_skips, n_scopes, grown) = measure(tmp_path, 12_000)
    assert size > 18
    assert (n_used, n_skips, n_scopes) == (6000, 6000, 6000)
    assert grown < 6


@pytest.mark.slow
def test_a_table_of_100_mb_costs_a_few_mb(tmp_path: Path) -> None:
    size, (n_used, n_skips, _, grown) = measure(tmp_path, 60_000)
    assert size > 100
    assert (n_used, n_skips) == (30_000, 30_000)
    assert grown < 8
