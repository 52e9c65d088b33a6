"""Reading tables of reports: what files and frames hold, and what they hold wrongly."""

from __future__ import annotations

import csv
import json
import tracemalloc
import unicodedata
from datetime import UTC, date, datetime
from pathlib import Path
from typing import Any

import datasets
import pandas as pd
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from nlp import Report, ReportError, read_reports

ROWS = [
    {
        "report_id": "007",
        "text": 'FINDINGS: "No effusion",\nNodule 12 mm.\n\nIMPRESSION: Nodule.',
        "accession_number": "00123;A-9 ; 00123",
        "study_instance_uid": "1.2.3;1.2.4",
        "patient_id": "0042",
        "study_date": "2021-03-04",
        "patient_name": "Doe^Jane",
        "referring_physician": "Dr. Who",
        "colour": "blue",
    },
    {"report_id": "8", "text": "Normal.", "study_date": "20210305", "status": "preliminary", "language": "de"},
]
REPORTS = [
    Report(
        "007",
        ROWS[0]["text"],
        ("00123", "A-9"),
        ("1.2.3", "1.2.4"),
        "0042",
        date(2021, 3, 4),
        identifiers=("Doe^Jane", "Dr. Who"),
        version_key="007",  # with a status, rows of one id can be versions
    ),
    Report("8", "Normal.", study_date=date(2021, 3, 5), status="preliminary", language="de", version_key="8"),
]
COLUMNS = list(dict.fromkeys(name for row in ROWS for name in row))


def write_csv(
    path: Path, rows: list[dict[str, str]], *, encoding: str = "utf-8", delimiter: str = ",", newline: str = "\n"
) -> Path:
    with path.open("w", encoding=encoding, newline="") as lines:
        writer = csv.DictWriter(lines, COLUMNS, delimiter=delimiter, lineterminator=newline, extrasaction="ignore")
        writer.writeheader()
        writer.writerows(rows)
    return path


def as_csv(folder: Path) -> Any:
    return write_csv(folder / "reports.csv", ROWS)


def as_excel_csv(folder: Path) -> Any:
    return str(write_csv(folder / "reports.csv", ROWS, encoding="utf-8-sig", delimiter=";", newline="\r\n"))


def as_jsonl(folder: Path) -> Any:
    path = folder / "reports.jsonl"
    path.write_text("\n".join(json.dumps(row) for row in ROWS) + "\n\n", encoding="utf-8")
    return path


def as_frame(_: Path) -> Any:
    return pd.DataFrame(ROWS, columns=COLUMNS)


def as_table(_: Path) -> Any:
    return pa.Table.from_pylist([{name: row.get(name) for name in COLUMNS} for row in ROWS])


def as_dataset(_: Path) -> Any:
    return datasets.Dataset.from_list([{name: row.get(name) for name in COLUMNS} for row in ROWS])


def as_files(folder: Path) -> Any:
    return [write_csv(folder / "a.csv", ROWS[:1]), write_csv(folder / "b.csv", ROWS[1:])]


def as_reports(_: Path) -> Any:
    return iter(REPORTS)


@pytest.mark.parametrize("make", [as_csv, as_excel_csv, as_jsonl, as_frame, as_table, as_dataset, as_files, as_reports])
def test_every_source_gives_the_same_reports(make: Any, tmp_path: Path) -> None:
    assert list(read_reports(make(tmp_path))) == REPORTS


def test_missing_and_numeric_cells_of_a_frame() -> None:
    frame = pd.DataFrame(
        {
            "Report ID": [1, 2],
            "Text": ["Normal.", "Nodule."],
            "AccessionNumber": [123.0, float("nan")],
            "patient id": [pd.NA, 12345678901234567],
            "study_date": [pd.Timestamp("2021-03-04"), pd.NaT],
        }
    )
    first, second = read_reports(frame)
    assert (first.report_id, first.accession_numbers, first.patient_id, first.study_date) == (
        "1",
        ("123",),
        None,
        date(2021, 3, 4),
    )
    assert (second.accession_numbers, second.patient_id, second.study_date) == ((), "12345678901234567", None)


def test_lists_in_json_lines(tmp_path: Path) -> None:
    path = tmp_path / "reports.jsonl"
    path.write_text('{"report_id": 5, "text": "Normal.", "accession_number": ["01", "02"], "patient_name": null}\n')
    (report,) = read_reports(path)
    assert (report.report_id, report.accession_numbers, report.identifiers) == ("5", ("01", "02"), ())


def test_lines_of_json_may_have_different_keys(tmp_path: Path) -> None:
    path = tmp_path / "reports.jsonl"
    path.write_text('{"report_id": "1", "text": "A."}\n{"text": "B.", "birth_date": "1950-01-02", "report_id": "2"}\n')
    assert [report.identifiers for report in read_reports(path)] == [(), ("1950-01-02",)]


def test_missing_columns_are_named_at_the_call(tmp_path: Path) -> None:
    path = tmp_path / "Jane Doe.csv"
    path.write_text("nr,says,accession\n1,Jane Doe has a nodule,9\n")
    with pytest.raises(ReportError, match="the reports file lacks") as error:
        read_reports(path)
    message = str(error.value)
    assert all(word in message for word in ("lacks 'text'", "'says'", "accession_number", "columns={"))
    assert "Jane" not in message
    assert str(tmp_path) not in message


@pytest.mark.parametrize(("name", "message"), [("Jane.csv", "is not there"), ("Jane.xlsx", "is of no known kind")])
def test_files_that_cannot_be_read(name: str, message: str, tmp_path: Path) -> None:
    (tmp_path / "Jane.xlsx").write_bytes(b"PK")
    (tmp_path / "good.csv").write_text("report_id,text\n")
    with pytest.raises(ReportError, match=f"reports file 2 of 2 {message}") as error:
        read_reports([tmp_path / "good.csv", tmp_path / name])
    assert "Jane" not in str(error.value)


def test_two_columns_for_one_thing_are_refused() -> None:
    with pytest.raises(ReportError, match="two columns"):
        read_reports(pd.DataFrame({"report_id": ["1"], "Report ID": ["2"], "text": ["x"]}))


@pytest.mark.parametrize("source", [7, [Report("1", "x"), "y"]])
def test_other_objects_are_refused(source: object) -> None:
    with pytest.raises(ReportError, match=r"nlp\.Report"):
        list(read_reports(source))


def test_other_encodings_are_refused_with_a_way_out(tmp_path: Path) -> None:
    path = tmp_path / "latin.csv"
    path.write_bytes("report_id,text\n1,Größe 12 mm\n".encode("cp1252"))
    with pytest.raises(ReportError, match=r"row 1: the text is not UTF-8; declare its encoding.*iconv"):
        list(read_reports(path))


BAD = """report_id,text,study_date
1,Normal,2021-03-04
1,Secret text,2021-03-04
,Secret text,
3,,
4,Secret text,04/03/2021
5,Secret,text,unquoted
6,Normal,2021-02-31
7,Normal,
"""


def test_a_bad_row_costs_itself(tmp_path: Path) -> None:
    path = tmp_path / "reports.csv"
    path.write_text(BAD)
    errors: list[tuple[int, str]] = []
    reports = list(read_reports(path, on_error=lambda error, row: errors.append((row, str(error)))))
    assert [report.report_id for report in reports] == ["1", "7"]
    assert [row for row, _ in errors] == [2, 3, 4, 5, 6, 7]
    reasons = ["already used", "report_id is empty", "text is empty", "study_date", "4 fields", "study_date"]
    assert all(reason in message for reason, (_, message) in zip(reasons, errors, strict=True))
    assert not any("Secret" in message or "04/03" in message for _, message in errors)


def test_without_a_handler_the_first_bad_row_raises(tmp_path: Path) -> None:
    path = tmp_path / "reports.csv"
    path.write_text(BAD)
    stream = read_reports(path)
    assert next(stream).report_id == "1"
    with pytest.raises(ReportError, match="row 2"):
        next(stream)


def test_broken_json_costs_its_line(tmp_path: Path) -> None:
    path = tmp_path / "reports.jsonl"
    path.write_text(
        '{"report_id": "1", "text": "Normal."}\n{"report_id": "2", \n[1]\n{"report_id": "4", "text": "Normal."}\n'
    )
    rows: list[int] = []
    assert [report.report_id for report in read_reports(path, on_error=lambda _, row: rows.append(row))] == ["1", "4"]
    assert rows == [2, 3]


def test_the_same_report_in_two_files_is_read_once(tmp_path: Path) -> None:
    paths = [write_csv(tmp_path / "a.csv", ROWS), write_csv(tmp_path / "b.csv", ROWS)]
    rows: list[int] = []
    assert list(read_reports(paths, on_error=lambda _, row: rows.append(row))) == REPORTS
    assert rows == [3, 4]


def test_an_iterator_with_something_else_costs_that_item() -> None:
    errors: list[tuple[int, str]] = []
    source = [REPORTS[0], "text", REPORTS[1]]
    assert list(read_reports(source, on_error=lambda error, row: errors.append((row, str(error))))) == REPORTS
    assert errors == [(2, "expected nlp.Report objects, got a str")]


def test_control_characters_are_replaced_one_by_one() -> None:
    text = "A 12 mm nodule (4/87) in the\x0bright\x00upper\x9flobe.\x0cStable.\x85Next\u2028line.\tTab\r\nEnd"
    (report,) = read_reports([Report("1", text)])
    assert report.text == "A 12 mm nodule (4/87) in the\nright upper lobe.\nStable.\nNext\nline.\tTab\r\nEnd"
    assert len(report.text) == len(text)


@given(text=st.text(max_size=200))
def test_every_offset_into_a_text_stays(text: str) -> None:
    read = [report.text for report in read_reports([Report("1", text)], on_error=lambda *_: None)]
    for kept in read:  # none where the text is binary
        assert len(kept) == len(text)
        for before, after in zip(text, kept, strict=True):
            control = unicodedata.category(before) == "Cc" and before not in "\t\n\r"
            assert after in " \n" if control or before in "\u2028\u2029" else after == before


@pytest.mark.parametrize("text", ["\x00\x01\x02", "A\x00\x01\x02B" * 20])
def test_binary_is_no_text(text: str) -> None:
    with pytest.raises(ReportError, match="row 1: the text is binary"):
        list(read_reports([Report("1", text)]))


@pytest.mark.parametrize("text", [".", "A nodule of 8 mm. " * 280_000], ids=["one character", "5 MB"])
@pytest.mark.parametrize("suffix", ["csv", "jsonl", "txt"])
def test_short_and_long_reports(text: str, suffix: str, tmp_path: Path) -> None:
    path = tmp_path / f"7.{suffix}"
    if suffix == "csv":
        write_csv(path, [{"report_id": "7", "text": text + '\n"quoted", end'}])
    else:
        path.write_text(text if suffix == "txt" else json.dumps({"report_id": "7", "text": text}), encoding="utf-8")
    (report,) = read_reports(path)
    assert report.text.startswith(text)


VERSIONS = """report_id,text,status,verified_datetime
1,Nodule of 8 mm.,P,2021-03-04 10:15
2,Normal.,F,2021-03-04 10:20
1,Nodule of 9 mm.,F,2021-03-04 11:00
1,Nodule of 8 mm.,P,2021-03-04 10:15
1,Nodule of 9 mm.,C,2021-03-05T08:00:00+01:00
"""


def test_versions_of_one_report_are_all_given(tmp_path: Path) -> None:
    path = tmp_path / "reports.csv"
    path.write_text(VERSIONS)
    rows: list[int] = []
    reports = list(read_reports(path, on_error=lambda _, row: rows.append(row)))
    assert rows == [4]  # word by word what row 1 is
    assert [report.report_id.split("#")[0] for report in reports] == ["1", "2", "1", "1"]
    assert len({report.report_id for report in reports}) == 4
    assert [report.version_key for report in reports] == ["1", "2", "1", "1"]
    assert [report.status for report in reports] == ["preliminary", "final", "final", "corrected"]
    naive = datetime(2021, 3, 4, 10, 15)  # noqa: DTZ001 - the hospital's own clock
    assert reports[0].issued_at == naive
    assert reports[3].issued_at == datetime(2021, 3, 5, 7, tzinfo=UTC)


def test_the_ids_of_versions_do_not_depend_on_the_order_of_the_others(tmp_path: Path) -> None:
    header, *rows = VERSIONS.splitlines()
    path = tmp_path / "reports.csv"
    seen = []
    for order in (rows[:3], [rows[0], rows[2], rows[1]]):
        path.write_text("\n".join([header, *order]))
        seen.append({(report.report_id, report.text) for report in read_reports(path)})
    assert seen[0] == seen[1]


def test_without_a_sign_of_versions_one_id_is_one_report() -> None:
    frame = pd.DataFrame({"report_id": ["1", "1"], "text": ["A.", "B."]})
    with pytest.raises(ReportError, match="row 2: report_id was already used"):
        list(read_reports(frame))


def test_a_withdrawn_version_needs_no_text() -> None:
    frame = pd.DataFrame({"report_id": ["1", "1"], "text": ["A nodule.", ""], "status": ["F", "Cancelled"]})
    assert [(report.status, report.text) for report in read_reports(frame)] == [
        ("final", "A nodule."),
        ("cancelled", ""),
    ]


_cells = st.text(
    st.characters(codec="utf-8", exclude_categories=("Cc", "Cs", "Zl", "Zp"))
    | st.sampled_from("\n\t\"',;|\\"),
    min_size=1,
).filter(lambda cell: cell.strip())  # fmt: skip


@settings(suppress_health_check=[HealthCheck.function_scoped_fixture], max_examples=40)
@given(texts=st.lists(_cells, min_size=1, max_size=4), delimiter=st.sampled_from(",;\t|"))
def test_any_text_survives_csv_unchanged(texts: list[str], delimiter: str, tmp_path: Path) -> None:
    rows = [{"report_id": str(number), "text": text} for number, text in enumerate(texts)]
    path = write_csv(tmp_path / "reports.csv", rows, delimiter=delimiter)
    assert [report.text for report in read_reports(path)] == texts


def test_memory_stays_flat(tmp_path: Path) -> None:
    """6 MB of CSV and as much of Parquet: neither is held, and an id costs a few bytes."""
    path = tmp_path / "reports.csv"
    text = "A 12 mm nodule in the right upper lobe.\n" * 25
    write_csv(path, [{"report_id": f"report {number}", "text": text} for number in range(6000)])
    batches = (
        pa.RecordBatch.from_pydict({"report_id": [f"r{start + i}" for i in range(1000)], "text": [text] * 1000})
        for start in range(0, 6000, 1000)
    )
    first = next(batches)
    with pq.ParquetWriter(tmp_path / "reports.parquet", first.schema) as writer:
        for batch in (first, *batches):
            writer.write_batch(batch)
    for source in (path, tmp_path / "reports.parquet"):
        tracemalloc.start()
        try:
            assert sum(1 for _ in read_reports(source)) == 6000
            peak = tracemalloc.get_traced_memory()[1]
        finally:
            tracemalloc.stop()
        assert peak < 2_000_000  # bytes
