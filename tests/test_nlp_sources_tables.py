"""Tables and texts as sources: usual and given columns, sections, encodings, broken files, every library's table."""

from __future__ import annotations

import csv
import gzip
import io
import json
from datetime import UTC, date, datetime
from pathlib import Path
from typing import Any

import datasets
import pandas as pd
import pyarrow as pa
import pyarrow.dataset as pads
import pyarrow.parquet as pq
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from nlp import Report, ReportError, read_reports, split_sections


def write(path: Path, *rows: list[str], delimiter: str = ",", encoding: str = "utf-8") -> Path:
    text = io.StringIO()
    csv.writer(text, delimiter=delimiter).writerows(rows)
    path.write_bytes(text.getvalue().encode(encoding))
    return path


def errors(source: Any, **options: Any) -> tuple[list[Report], list[str]]:
    found: list[str] = []
    reports = list(read_reports(source, on_error=lambda error, row: found.append(f"{row}: {error}"), **options))
    return reports, found


def sections(report: Report) -> dict[str, str]:
    return {section.name: report.text[section.start : section.end] for section in split_sections(report.text)}


USUAL: dict[str, tuple[dict[str, str], dict[str, Any]]] = {
    "MIMIC-CXR": (
        {"subject_id": "10", "study_id": "50", "findings": "Clear lungs.", "impression": "Normal."},
        {"report_id": "50", "patient_id": "10", "sections": {"findings": "Clear lungs.", "impression": "Normal."}},
    ),
    "MIMIC-IV-Note": (
        {"note_id": "10-RR-1", "subject_id": "10", "hadm_id": "2", "note_type": "RR", "note_seq": "1",
         "charttime": "2180-05-06 21:19:00", "storetime": "2180-05-06 23:32:00", "text": "Normal."},
        {"report_id": "10-RR-1", "patient_id": "10", "study_date": date(2180, 5, 6), "text": "Normal.",
         "issued_at": datetime(2180, 5, 6, 23, 32), "identifiers": ("2",)},  # noqa: DTZ001
    ),
    "CT-RATE": (
        {"VolumeName": "valid_1_a_1.nii.gz", "ClinicalInformation_EN": "Cough.", "Technique_EN": "Non-contrast.",
         "Findings_EN": "A 5 mm nodule.", "Impressions_EN": "Nodule."},
        {"report_id": "valid_1_a_1.nii.gz", "language": "en", "sections": {
            "history": "Cough.", "technique": "Non-contrast.", "findings": "A 5 mm nodule.", "impression": "Nodule."}},
    ),
    "CheXpert Plus": (
        {"path_to_image": "train/p1/s1/view1.jpg", "deid_patient_id": "p1", "section_narrative": "NARRATIVE: Clear.",
         "section_findings": "Clear.", "section_impression": "Normal.", "section_clinical_history": "Cough.",
         "section_history": "", "section_accession_number": "1", "report": "FINDINGS: Clear. IMPRESSION: Normal.", "sex": "F"},
        {"report_id": "train/p1/s1/view1.jpg", "patient_id": "p1", "text": "FINDINGS: Clear. IMPRESSION: Normal."},
    ),
    "Epic Clarity": (
        {"ORDER_PROC_ID": "9", "ACC_NUM": "E1", "PAT_MRN_ID": "0042", "PAT_ID": "Z7", "BEGIN_EXAM_DTTM": "04-MAR-2021 10:15",
         "FINALIZED_DTTM": "03/04/2021", "REPORT_TEXT": "Normal."},
        {"errors": "issued_at is no date"},
    ),
    "Epic, narrative and impression": (
        {"ORDER_ID": "9", "ACCESSION_NUM": "E1", "NARRATIVE": "Lungs clear.", "IMPRESSION": "Normal.", "PAT_ID": "Z7",
         "MRN": "0042"},
        {"report_id": "9", "accession_numbers": ("E1",), "patient_id": "0042", "identifiers": ("Z7",),
         "sections": {"findings": "Lungs clear.", "impression": "Normal."}},
    ),
    "Cerner": (
        {"EVENT_ID": "5", "ACCESSION_NBR": "C1", "PERSON_ID": "77", "RESULT_STATUS": "Auth (Verified)",
         "VERIFIED_DT_TM": "2021-03-04T11:30:00Z", "BLOB_CONTENTS": "Normal."},
        {"report_id": "5", "accession_numbers": ("C1",), "patient_id": "77", "status": "final", "version_key": "5",
         "issued_at": datetime(2021, 3, 4, 11, 30, tzinfo=UTC), "text": "Normal."},
    ),
    "German RIS": (
        {"Akzessionsnummer": "D1", "Patientennummer": "0042", "Nachname": "Muster", "Geburtsdatum": "02.01.1950",
         "Untersuchungsdatum": "04.03.2021", "Fragestellung": "Rundherd?", "Befund": "Rundherd 1,2 cm.",
         "Beurteilung": "Rundherd.", "Befundstatus": "vidiert", "Vidierdatum": "5.3.2021 08:30"},
        {"report_id": "D1", "accession_numbers": ("D1",), "patient_id": "0042", "study_date": date(2021, 3, 4),
         "status": "final", "identifiers": ("Muster", "02.01.1950"), "issued_at": datetime(2021, 3, 5, 8, 30),  # noqa: DTZ001
         "sections": {"indication": "Rundherd?", "findings": "Rundherd 1,2 cm.", "impression": "Rundherd."}},
    ),
    "Dutch RIS": (
        {"accessienummer": "N1", "patientnummer": "0042", "onderzoeksdatum": "2021-03-04", "verslag": "Nodus van 12 mm.",
         "conclusie": "Nodus."},
        {"report_id": "N1", "accession_numbers": ("N1",), "patient_id": "0042", "study_date": date(2021, 3, 4),
         "text": "Nodus van 12 mm.\n\nIMPRESSION:\nNodus."},
    ),
    "one column": (
        {"id": "1", "Befund": "Rundherd."},
        {"report_id": "1", "text": "Rundherd.", "accession_numbers": ()},
    ),
}  # fmt: skip


@pytest.mark.parametrize("case", USUAL)
@pytest.mark.parametrize("made", ["csv", "jsonl", "parquet", "frame"])
def test_usual_columns(case: str, made: str, tmp_path: Path) -> None:
    row, expected = USUAL[case]
    source: Any = tmp_path / f"reports.{made}"
    if made == "csv":
        write(source, list(row), list(row.values()), delimiter=";")
    elif made == "jsonl":
        source.write_text(json.dumps(row))
    elif made == "parquet":
        pq.write_table(pa.Table.from_pylist([row]), source)
    else:
        source = pd.DataFrame([row])
    reports, found = errors(source)
    if "errors" in expected:
        assert expected["errors"] in found[0]
        return
    (report,) = reports
    for name, value in expected.items():
        assert (sections(report) if name == "sections" else getattr(report, name)) == value, name


def test_a_column_that_cannot_be_read_can_be_left_out(tmp_path: Path) -> None:
    row = USUAL["Epic Clarity"][0]
    path = write(tmp_path / "reports.csv", list(row), list(row.values()))
    assert "columns={'issued_at': None}" in errors(path)[1][0]
    (report,) = read_reports(path, columns={"issued_at": None})
    assert (report.study_date, report.issued_at, report.patient_id) == (date(2021, 3, 4), None, "0042")


def test_given_columns(tmp_path: Path) -> None:
    path = write(
        tmp_path / "x.csv", ["Nr", "Rx Befund", "Schluss", "Feld 7", "Frau"], ["1", "Rundherd 8 mm.", "Rundherd.", "A1;A2", "Muster"]
    )  # fmt: skip
    given: dict[str, Any] = {
        "report_id": "nr",
        "text": "Rx Befund",
        "accession_number": "Feld 7",
        "identifiers": "Frau",
    }
    (report,) = read_reports(path, columns=given)
    assert (report.text, report.accession_numbers, report.identifiers) == ("Rundherd 8 mm.", ("A1", "A2"), ("Muster",))
    (report,) = read_reports(path, columns={**given, "text": ["Rx Befund", "Schluss"]})
    assert report.text == "RX BEFUND:\nRundherd 8 mm.\n\nSCHLUSS:\nRundherd."
    (report,) = read_reports(path, columns={**given, "text": None, "findings": "Rx Befund", "impression": "Schluss"})
    assert report.text == "FINDINGS:\nRundherd 8 mm.\n\nIMPRESSION:\nRundherd."


@pytest.mark.parametrize(
    ("given", "says"),
    [
        ({"txt": "a"}, "no field 'txt'; allowed are"),
        ({"text": "c"}, "has no column 'c'"),
        ({"study_date": ["a", "b"]}, "takes one column for 'study_date'"),
    ],
)
def test_given_columns_that_are_wrong(given: dict[str, Any], says: str) -> None:
    with pytest.raises(ReportError, match=says):
        read_reports(pd.DataFrame({"report_id": ["1"], "text": ["x"]}), columns=given)


def test_a_first_line_that_is_no_header_is_not_quoted(tmp_path: Path) -> None:
    (tmp_path / "x.csv").write_text("7,Doe,Nodule\n8,Roe,Normal\n")
    for chosen in ({}, {"text": "Befund"}):
        with pytest.raises(ReportError, match="no line with column names") as error:
            read_reports(tmp_path / "x.csv", columns=chosen)
        assert "Doe" not in str(error.value)


def test_given_columns_without_a_table(tmp_path: Path) -> None:
    (tmp_path / "x.json").write_text('{"resourceType": "DiagnosticReport"}')
    with pytest.raises(ReportError, match="the source is none"):
        read_reports(tmp_path / "x.json", columns={"text": "a"})


@pytest.mark.parametrize(
    ("columns", "field"),
    [
        (("id", "text", "Report"), "text"), (("id", "Findings_EN", "Findings_TR"), "findings"),
        (("id", "impression", "conclusion", "findings"), "impression"), (("report_id", "Report-ID", "text"), "report_id"),
        (("id", "text", "accession", "Accession #"), "accession_number"),
        (("id", "text", "accessionnumber", "ACC_NUM"), "accession_number"),
    ],
)  # fmt: skip
def test_ambiguous_columns_are_named(columns: tuple[str, ...], field: str) -> None:
    with pytest.raises(ReportError, match=f"two columns for '{field}'") as error:
        read_reports(pd.DataFrame({column: ["1"] for column in columns}))
    named = [column for column in columns if f"{column!r}" in str(error.value)]
    assert len(named) == 2
    chosen = {field: named[0]}
    assert len(list(read_reports(pd.DataFrame({column: ["1"] for column in columns}), columns=chosen))) == 1


@pytest.mark.parametrize(
    ("impression", "text"),
    [
        ("Nodule: 8 mm in the lung.", "FINDINGS: Nodule. IMPRESSION:\nNodule, 8  mm in the lung"),  # said already
        ("Nodule", "FINDINGS: Nodule. IMPRESSION:\nNodule, 8  mm in the lung"),
        ("Nodule, 8 mm in the Lung.", "FINDINGS: Nodule. IMPRESSION:\nNodule, 8  mm in the lung"),
        ("8 mm.", "FINDINGS: Nodule. IMPRESSION:\nNodule, 8  mm in the lung\n\nIMPRESSION:\n8 mm."),
        ("New effusion.", "FINDINGS: Nodule. IMPRESSION:\nNodule, 8  mm in the lung\n\nIMPRESSION:\nNew effusion."),
    ],
)
def test_a_separate_impression_is_added_where_the_text_lacks_it(impression: str, text: str) -> None:
    whole = "FINDINGS: Nodule. IMPRESSION:\nNodule, 8  mm in the lung"
    (report,) = read_reports(pd.DataFrame({"id": ["1"], "text": [whole], "impression": [impression]}))
    assert report.text == text


@pytest.mark.parametrize(
    ("addendum", "status", "adds"),
    [("", "final", ""), ("N", "final", ""), ("Now 9 mm.", "appended", "\n\nADDENDUM:\nNow 9 mm.")],
)
def test_an_addendum(addendum: str, status: str, adds: str) -> None:
    (report,) = read_reports(pd.DataFrame({"id": ["1"], "text": ["A nodule."], "addendum": [addendum]}))
    assert (report.text, report.status) == (f"A nodule.{adds}", status)


def test_a_part_that_brings_its_own_heading_gets_no_other() -> None:
    frame = pd.DataFrame({"id": ["1"], "findings": ["Findings: Clear."], "impression": ["IMPRESSION:\nNormal."]})
    (report,) = read_reports(frame)
    assert report.text == "Findings: Clear.\n\nIMPRESSION:\nNormal."


# ---- texts -------------------------------------------------------------------------------------------------------


def test_a_folder_of_texts(tmp_path: Path) -> None:
    for name in ("p10/A1.txt", "p10/A2.TXT", "p11/A3.txt", ".hidden/x.txt", "p11/~$A3.txt"):
        (tmp_path / name).parent.mkdir(exist_ok=True)
        (tmp_path / name).write_text(f"Nodule in {name}.", encoding="utf-8")
    reports = list(read_reports(tmp_path))
    assert [report.report_id for report in reports] == ["A1", "A2", "A3"]
    assert [report.accession_numbers for report in reports] == [()] * 3
    keyed = list(read_reports(tmp_path, columns={"accession_number": "report_id", "patient_id": "folder"}))
    assert [(report.accession_numbers, report.patient_id) for report in keyed] == [
        (("A1",), "p10"), (("A2",), "p10"), (("A3",), "p11"),
    ]  # fmt: skip


def test_an_id_of_several_columns(tmp_path: Path) -> None:
    for patient in ("p10", "p11"):
        (tmp_path / patient).mkdir()
        (tmp_path / patient / "report.txt").write_text(f"Nodule of {patient}.")
    assert len(errors(tmp_path)[1]) == 1
    reports = list(read_reports(tmp_path, columns={"report_id": ["folder", "report_id"]}))
    assert [report.report_id for report in reports] == ["p10/report", "p11/report"]


def test_a_table_of_paths(tmp_path: Path) -> None:
    """As cxr-study-list.csv of MIMIC-CXR."""
    (tmp_path / "files/p10").mkdir(parents=True)
    (tmp_path / "files/p10/s50.txt").write_text("FINDINGS: Nodule.")
    path = write(
        tmp_path / "list.csv", ["subject_id", "study_id", "path"], ["10", "50", "files/p10/s50.txt"], ["10", "51", "files/Secret.txt"],
        ["10", "52", ""],
    )  # fmt: skip
    (report,), found = errors(path)
    assert (report.report_id, report.patient_id, report.text) == ("50", "10", "FINDINGS: Nodule.")
    assert [message.split(":")[0] for message in found] == ["2", "3"]
    assert "is not there" in found[0]
    assert "Secret" not in "".join(found)
    (report,), _ = errors(write(tmp_path / "list.csv", ["path"], ["files/p10/s50.txt"]))
    assert report.report_id == "s50"


def test_a_text_file_that_is_a_table_or_a_text(tmp_path: Path) -> None:
    (tmp_path / "a.txt").write_text("report_id\ttext\n1\tA nodule.\n")
    (tmp_path / "b.txt").write_text("FINDINGS, IMPRESSION: nothing new.\nReport, ID 7\n")
    assert [report.text for report in read_reports(tmp_path)] == [
        "A nodule.", "FINDINGS, IMPRESSION: nothing new.\nReport, ID 7\n",
    ]  # fmt: skip


def test_a_mixed_folder_and_a_list_of_folders(tmp_path: Path) -> None:
    for name in ("one", "two"):
        (tmp_path / name).mkdir()
        write(tmp_path / name / "a.csv", ["report_id", "text"], [f"{name} 1", "A."])
        with gzip.open(tmp_path / name / "b.jsonl.gz", "wt") as lines:
            lines.write(json.dumps({"report_id": f"{name} 2", "text": "B."}))
        (tmp_path / name / "Secret.xlsx").write_bytes(b"PK\x03\x04")
        (tmp_path / name / "c.csv").write_text("nothing,of,use\nSecret,2,3\n")
        (tmp_path / name / "d.txt").write_text(f"D {name}")
        (tmp_path / name / "e.txt.gz").write_bytes(gzip.compress(b"E.")[:-3])
    (tmp_path / "two" / "d.txt").rename(tmp_path / "two" / "f.txt")
    reports, found = errors([tmp_path / "one", tmp_path / "two", tmp_path / "one" / "a.csv"])
    assert [report.report_id for report in reports] == ["one 1", "one 2", "d", "two 1", "two 2", "f"]
    assert len(found) == 7
    assert "file 1 of reports folder 1 of 3 is of no known kind" in found[0]
    assert "file 4 of reports folder 1 of 3 lacks 'report_id' and 'text'" in found[1]
    assert "already used" in found[-1]
    assert not any("Secret" in message or str(tmp_path) in message for message in found)


def test_an_empty_folder(tmp_path: Path) -> None:
    with pytest.raises(ReportError, match="the reports folder holds no file"):
        read_reports(tmp_path)


# ---- encodings ---------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("encoding", ["utf-8", "utf-8-sig", "utf-16", "utf-32"])
@pytest.mark.parametrize("suffix", ["csv", "jsonl", "json", "txt"])
def test_encodings_that_say_so(encoding: str, suffix: str, tmp_path: Path) -> None:
    path = tmp_path / f"7.{suffix}"
    if suffix == "csv":
        write(path, ["report_id", "text"], ["7", "Größe 12 mm"], encoding=encoding)
    else:
        rows = {
            "jsonl": '{"report_id": "7", "text": "Größe 12 mm"}\n',
            "json": '[{"report_id": "7",\n"text": "Größe 12 mm"}]',
        }
        path.write_bytes(rows.get(suffix, "Größe 12 mm").encode(encoding))
    assert [(report.report_id, report.text) for report in read_reports(path)] == [("7", "Größe 12 mm")]


@pytest.mark.parametrize("encoding", ["cp1252", "utf-16-le", "iso8859-15"])
@pytest.mark.parametrize("suffix", ["csv", "jsonl", "txt"])
def test_encodings_that_must_be_declared(encoding: str, suffix: str, tmp_path: Path) -> None:
    path = tmp_path / f"7.{suffix}"
    if suffix == "csv":
        write(path, ["report_id", "text"], ["6", "Normal."], ["7", "Größe 12 mm"], encoding=encoding)
    else:
        rows = ['{"report_id": "6", "text": "Normal."}', '{"report_id": "7", "text": "Größe 12 mm"}']
        path.write_bytes(("\n".join(rows) if suffix == "jsonl" else "Größe 12 mm").encode(encoding))
    with pytest.raises(ReportError, match=r"declare (?:its encoding|it with encoding=)"):
        list(read_reports(path))
    assert list(read_reports(path, encoding=encoding))[-1].text == "Größe 12 mm"


def test_an_unknown_encoding_is_refused_at_the_call(tmp_path: Path) -> None:
    with pytest.raises(ReportError, match="'klingon' is unknown"):
        read_reports(tmp_path, encoding="klingon")


def test_bytes_of_another_encoding_cost_their_row(tmp_path: Path) -> None:
    path = tmp_path / "x.csv"
    path.write_bytes(b'report_id,text\n1,A.\n2,Gr\xf6\xdfe Secret\n3,"B\n\xff\xfe"\n4,C\x00D.\n')
    reports, found = errors(path)
    assert [(report.report_id, report.text) for report in reports] == [("1", "A."), ("4", "C D.")]
    assert [message[:20] for message in found] == ["2: the text is not U", "3: the text is not U"]
    assert "Secret" not in "".join(found)


# ---- broken files ------------------------------------------------------------------------------------------------


def test_a_quote_that_is_never_closed_costs_its_line(tmp_path: Path) -> None:
    path = tmp_path / "x.csv"
    path.write_text('report_id,text\n1,"A ""b"" c"\n2,"Never closed\n3,D\n4,"E, f\n"\n')
    reports, found = errors(path)
    # Quotes of rows 2 and 4 pair up; what they hold is no row. Nobody's text gets another's id.
    assert [report.report_id for report in reports] == ["1"]
    assert "lines 3 to 5 cannot be read as CSV" in found[0]
    path.write_text('report_id,text\n1,A\n2,"Never closed\n3,D\n4,E\n')
    reports, found = errors(path)
    assert [report.report_id for report in reports] == ["1", "3", "4"]
    assert "line 3 cannot be read as CSV (a quote is not closed)" in found[0]


def test_a_declared_delimiter_and_quoted_headers(tmp_path: Path) -> None:
    path = tmp_path / "x.csv"
    path.write_text('sep=|\n"Report; ID, (new)"|report id|"text"\n"9"|"1"|"A, b; c"\n||\n | |\n\n')
    (report,) = read_reports(path)
    assert (report.report_id, report.text) == ("1", "A, b; c")


_grid = st.lists(
    st.lists(st.text(st.sampled_from('ab ",;\n\r'), max_size=5), min_size=2, max_size=2), min_size=1, max_size=5
)


@settings(suppress_health_check=[HealthCheck.function_scoped_fixture], max_examples=100)
@given(grid=_grid, style=st.sampled_from([(csv.QUOTE_MINIMAL, "\r\n"), (csv.QUOTE_ALL, "\n")]))
def test_csv_reads_as_the_standard_library_writes(grid: list[list[str]], style: Any, tmp_path: Path) -> None:
    path = tmp_path / "x.csv"
    with path.open("w", newline="") as lines:
        writer = csv.writer(lines, quoting=style[0], lineterminator=style[1])
        writer.writerow(["report_id", "text"])
        writer.writerows([f"{number}{first}", f"x{second}"] for number, (first, second) in enumerate(grid))
    reports = list(read_reports(path))
    assert [report.text for report in reports] == [f"x{second}" for _, second in grid]
    assert [report.report_id for report in reports] == [
        f"{number}{first}".strip() for number, (first, _) in enumerate(grid)
    ]


@settings(suppress_health_check=[HealthCheck.function_scoped_fixture], max_examples=100)
@given(
    content=st.binary(max_size=120),
    name=st.sampled_from(["x.csv", "x.jsonl", "x.txt", "x.json", "x.tsv", "x.parquet", "x.dcm", "x"]),
)
def test_nothing_in_a_folder_raises(content: bytes, name: str, tmp_path: Path) -> None:
    (tmp_path / name).write_bytes(b"report_id,text\n" + content if name == "x.csv" else content)
    for report in errors(tmp_path)[0]:
        assert report.report_id
    (tmp_path / name).unlink()


def test_broken_json(tmp_path: Path) -> None:
    path = tmp_path / "x.jsonl"
    path.write_text(
        '{"report_id": "1", \n{"report_id": "2", "text": "B."}\n[1]\n{"report_id": "3", "text": {"a": "Secret"}}\n7\n'
    )
    reports, found = errors(path)
    assert [report.report_id for report in reports] == ["2"]
    assert [message[0] for message in found] == ["1", "3", "4", "5"]
    assert "Secret" not in "".join(found)
    path.write_text('[\n {"report_id": "1", "text": "A."},\n {"report_id": "2", "text": "B."}\n]')
    assert [report.report_id for report in read_reports(path)] == ["1", "2"]


def test_a_broken_parquet_file(tmp_path: Path) -> None:
    table = pa.table({"report_id": [str(i) for i in range(6)], "text": [f"Nodule {i}. " + "x" * 500 for i in range(6)]})
    path = tmp_path / "x.parquet"
    pq.write_table(table, path, row_group_size=2, compression="snappy", use_dictionary=False)
    content = bytearray(path.read_bytes())
    start = pq.ParquetFile(path).metadata.row_group(1).column(1).data_page_offset
    content[start : start + 60] = b"\xff" * 60
    path.write_bytes(content)
    reports, found = errors(path)
    assert [report.report_id for report in reports] == ["0", "1", "4", "5"]
    assert found[0].startswith("3: row group 2 of 3 cannot be read")
    path.write_bytes(b"PAR1" + b"x" * 50)
    with pytest.raises(ReportError, match="no whole Parquet file"):
        read_reports(path)


def test_texts_of_parquet_as_bytes(tmp_path: Path) -> None:
    table = pa.table({"report_id": ["1", "2"], "text": pa.array(["Größe".encode("cp1252"), b"Normal."], pa.binary())})
    pq.write_table(table, tmp_path / "x.parquet")
    assert [report.text for report in errors(tmp_path / "x.parquet")[0]] == ["Normal."]
    assert [report.text for report in read_reports(tmp_path / "x.parquet", encoding="cp1252")] == ["Größe", "Normal."]


# ---- tables in memory --------------------------------------------------------------------------------------------

ROWS = [{"report_id": str(i), "text": f"Nodule of {i} mm.", "n": i} for i in range(1, 4)]


@pytest.mark.parametrize(
    "make",
    [
        pd.DataFrame,
        pa.Table.from_pylist,
        pa.RecordBatch.from_pylist,
        lambda rows: pa.Table.from_pylist(rows).to_reader(),
        lambda rows: pads.dataset(pa.Table.from_pylist(rows)),
        datasets.Dataset.from_list,
        lambda rows: datasets.Dataset.from_list(rows).to_iterable_dataset(),
        lambda rows: datasets.IterableDataset.from_generator(lambda: iter(rows)),
    ],
    ids=["frame", "table", "batch", "reader", "dataset", "Dataset", "IterableDataset", "generated"],
)
def test_tables_of_every_library(make: Any) -> None:
    assert [(report.report_id, report.text) for report in read_reports(make(ROWS))] == [
        (row["report_id"], row["text"]) for row in ROWS
    ]


def test_pictures_beside_a_report_are_not_decoded() -> None:
    features = datasets.Features(
        {"report_id": datasets.Value("string"), "text": datasets.Value("string"), "image": datasets.Image()}
    )
    rows = [{"report_id": "1", "text": "Normal.", "image": {"bytes": b"no picture", "path": None}}]
    assert [report.text for report in read_reports(datasets.Dataset.from_list(rows, features=features))] == ["Normal."]


def test_a_dictionary_of_splits_is_refused() -> None:
    with pytest.raises(ReportError, match="give one of them"):
        read_reports(datasets.DatasetDict({"train": datasets.Dataset.from_list(ROWS)}))


@pytest.mark.parametrize(
    ("written", "day"),
    [
        ("2021-03-04", date(2021, 3, 4)), ("20210304", date(2021, 3, 4)), ("2021-03-04T10:15:00.5+01:00", date(2021, 3, 4)),
        ("2021/03/04 10:15", date(2021, 3, 4)), ("4.3.2021", date(2021, 3, 4)), ("04-MAR-2021", date(2021, 3, 4)),
        ("Mar  4 2021 10:15AM", date(2021, 3, 4)), ("20210304101500", date(2021, 3, 4)), ("", None),
        ("03/04/2021", ReportError), ("04-03-2021", ReportError), ("2021-02-31", ReportError), ("04-MAR-21", ReportError),
        ("soon", ReportError),
    ],
)  # fmt: skip
def test_dates_have_one_reading_or_none(written: str, day: Any) -> None:
    reports, found = errors(pd.DataFrame({"report_id": ["1"], "text": ["A."], "study_date": [written]}))
    if day is ReportError:
        assert "study_date is no date" in found[0]
        assert "columns={'study_date': None}" in found[0]
    else:
        assert [report.study_date for report in reports] == [day]


@given(time=st.datetimes(min_value=datetime(1900, 1, 1), timezones=st.none() | st.just(UTC)))  # noqa: DTZ001
def test_times_are_read_as_python_writes_them(time: datetime) -> None:
    frame = pd.DataFrame({"report_id": ["1"], "text": ["A."], "issued_at": [time.isoformat()]})
    assert [report.issued_at for report in read_reports(frame)] == [time]
