"""Reading tables of reports: what files and frames hold, and what they hold wrongly."""

from __future__ import annotations

import csv
import json
from datetime import date
from pathlib import Path
from typing import Any

import datasets
import pandas as pd
import pyarrow as pa
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
    ),
    Report("8", "Normal.", study_date=date(2021, 3, 5), status="preliminary", language="de"),
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
    path.write_text("id,report,accession_number\n1,Jane Doe has a nodule,9\n")
    with pytest.raises(ReportError, match="the reports file lacks") as error:
        read_reports(path)
    message = str(error.value)
    assert all(word in message for word in ("'report_id'", "'text'", "'report'", "accession_number"))
    assert "Jane" not in message
    assert str(tmp_path) not in message


@pytest.mark.parametrize(("name", "message"), [("Jane.csv", "is not there"), ("Jane.xlsx", "is neither CSV")])
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
    with pytest.raises(ReportError, match=r"the reports file is not UTF-8.*iconv"):
        list(read_reports(path))


BAD = """report_id,text,study_date
1,Normal,2021-03-04
1,Secret text,2021-03-04
,Secret text,
3,,
4,Secret text,04.03.2021
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
    assert not any("Secret" in message or "04.03" in message for _, message in errors)


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


_cells = st.text(st.characters(codec="utf-8", exclude_characters="\r\x00"), min_size=1).filter(
    lambda cell: cell.strip()
)


@settings(suppress_health_check=[HealthCheck.function_scoped_fixture], max_examples=40)
@given(texts=st.lists(_cells, min_size=1, max_size=4))
def test_any_text_survives_csv_unchanged(texts: list[str], tmp_path: Path) -> None:
    rows = [{"report_id": str(number), "text": text} for number, text in enumerate(texts)]
    path = write_csv(tmp_path / "reports.csv", rows)
    assert [report.text for report in read_reports(path)] == texts
