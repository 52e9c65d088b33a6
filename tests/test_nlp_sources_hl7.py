"""HL7 v2 ORU^R01: messages written by hand, with every escape, envelope and oddity that feeds have."""

from __future__ import annotations

import base64
from datetime import UTC, date, datetime, timedelta
from pathlib import Path

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from nlp import Report, ReportError, read_reports, split_sections

MSH = r"MSH|^~\&|RIS|HOSP|PACS|HOSP|20210304120000+0100||ORU^R01^ORU_R01|M1|P|2.4||||||UNICODE UTF-8"
PID = "PID|1||0042^^^HOSP^MR~998^^^NAT^NI||Doe^Jane^Q~Roe^Jane||19500102|F|||12 Sample Street^^Town||555-0100||||||999-11-2222"
PV1 = "PV1|1|I|W3^2^1||||77^Attend^Ann|78^Refer^Rob"
ORC = "ORC|RE|P1|F1^RIS|||||||||99^Order^Olga"
OBR = (
    "OBR|1|P1|F1^RIS|CTCH^CT CHEST|||202103041015|||||||||99^Order^Olga||00123||||20210304113000|||F|||||||88&Read&Rita"
)
ZDS = "ZDS|1.2.3^PACS^Application^DICOM"
START = [MSH, PID, PV1, ORC, OBR, ZDS]


def obx(text: str, *, kind: str = "TX", name: str = "CTCH^CT CHEST", status: str = "F", at: str = "") -> str:
    return f"OBX|1|{kind}|{name}||{text}||||||{status}|||{at}||"


def write(path: Path, *messages: list[str], end: str = "\r", encoding: str = "utf-8") -> Path:
    path.write_bytes(end.join(line for message in messages for line in message).encode(encoding))
    return path


def read(tmp_path: Path, *lines: str, start: list[str] | None = None) -> Report:
    (report,) = read_reports(write(tmp_path / "feed.hl7", [*(START if start is None else start), *lines]))
    return report


def errors(path: Path) -> tuple[list[Report], list[str]]:
    found: list[str] = []
    reports = list(read_reports(path, on_error=lambda error, row: found.append(f"{row}: {error}")))
    return reports, found


def test_a_message_is_a_report_with_its_keys(tmp_path: Path) -> None:
    report = read(tmp_path, obx("CT of the chest."), obx("Nodule of 12 mm."))
    assert report == Report(
        report_id="F1",
        text="CT of the chest.\nNodule of 12 mm.",
        accession_numbers=("00123", "F1"),
        study_instance_uids=("1.2.3",),
        patient_id="0042",
        study_date=date(2021, 3, 4),
        status="final",
        identifiers=report.identifiers,
        version_key="F1^RIS",
        issued_at=datetime(2021, 3, 4, 11, 30),  # noqa: DTZ001 - the hospital's own clock
    )
    assert set(report.identifiers) == {
        "Doe^Jane^Q", "Roe^Jane", "19500102", "0042", "998", "12 Sample Street", "555-0100", "999-11-2222",
        "Attend^Ann", "Refer^Rob", "Order^Olga", "Read^Rita",
    }  # fmt: skip


@pytest.mark.parametrize(
    ("written", "text"),
    [
        (r"5 \F\ 6", "5 | 6"),
        (r"5 \S\ 6", "5 ^ 6"),
        (r"5 \T\ 6", "5 & 6"),
        (r"5 \R\ 6", "5 ~ 6"),
        (r"5 \E\ 6", "5 \\ 6"),
        (r"a\E\.br\E\b", r"a\.br\b"),  # what is escaped is no escape
        (r"one\.br\two\.sp\three\.sp2\four\.ce\five", "one\ntwo\nthree\n\nfour\nfive"),
        (r"\.in+2\one\.ti-1\ two\.fi\ three\.nf\ four\.sk3\five", "one two three four   five"),
        (r"\H\bold\N\ text", "bold text"),
        (r"\X0D0A\next \X41\\XC3A4\ ", "\nnext Aä"),
        (r"50\P\ ", "50#"),
        (r"C:\folder\file \Zown\ end\ ", r"C:\folder\file \Zown\ end" + "\\"),
        ("one~two~~four", "one\ntwo\n\nfour"),
        ("2^3 & 4", "2^3 & 4"),  # unescaped, as many write it: a text has no components
    ],
)
def test_escapes(written: str, text: str, tmp_path: Path) -> None:
    assert read(tmp_path, obx("Start"), obx(written.rstrip(" ")), obx("end")).text == f"Start\n{text}\nend"


_ESCAPES = {"|": r"\F\ ", "^": r"\S\ ", "&": r"\T\ ", "~": r"\R\ ", "\\": r"\E\ ", "\n": r"\.br\ "}
_texts = st.text(
    st.characters(codec="utf-8", exclude_categories=("Cc", "Zl", "Zp")) | st.sampled_from("|^&~\\\n"), min_size=1
)


@settings(suppress_health_check=[HealthCheck.function_scoped_fixture], max_examples=60)
@given(text=_texts.filter(lambda text: text.strip()), kind=st.sampled_from(["TX", "FT", "ST"]))
def test_any_text_survives(text: str, kind: str, tmp_path: Path) -> None:
    written = "".join(_ESCAPES.get(character, character).removesuffix(" ") or " " for character in text)
    assert read(tmp_path, obx(f"a{written}b", kind=kind)).text == f"a{text}b"


@pytest.mark.parametrize("end", ["\r", "\n", "\r\n"])
@pytest.mark.parametrize("envelope", ["none", "mllp", "batch"])
def test_many_messages_a_file(end: str, envelope: str, tmp_path: Path) -> None:
    messages = [[MSH, PID, OBR.replace("F1", f"F{i}"), obx(f"Nodule {i}.")] for i in range(3)]
    if envelope == "mllp":
        content = b"".join(b"\x0b" + end.join(lines).encode() + end.encode() + b"\x1c\r" for lines in messages)
        (tmp_path / "feed.dat").write_bytes(content)
    else:
        batch = envelope == "batch"
        head = [r"FHS|^~\&|RIS", r"BHS|^~\&|RIS"] if batch else []
        write(tmp_path / "feed.dat", head, *messages, ["BTS|3", "FTS|1"] if batch else [], end=end)
    reports = list(read_reports(tmp_path / "feed.dat"))  # known by its content
    assert [(report.report_id, report.text) for report in reports] == [(f"F{i}", f"Nodule {i}.") for i in range(3)]


def test_delimiters_are_those_of_the_message(tmp_path: Path) -> None:
    lines = [
        "MSH#*%!$#RIS#HOSP###20210304##ORU*R01#M1#P#2.3",
        "PID#1##0042***HOSP*MR##Doe*Jane",
        "OBR#1##F1*RIS####20210304",
        "OBX#1#TX#X##one !F! two%three ^ | ~ &",
    ]
    report = read(tmp_path, *lines, start=[])
    assert (report.text, report.patient_id) == ("one # two\nthree ^ | ~ &", "0042")
    assert "Doe^Jane" in report.identifiers


@pytest.mark.parametrize(
    ("declared", "encoding"), [("8859/1", "latin-1"), ("8859/15", "iso8859-15"), ("UNICODE UTF-8", "utf-8"), ("", "utf-8"),
                               ("ASCII", "utf-8"), ("windows-1252", "cp1252"), ("GB 18030-2000", "gb18030")]
)  # fmt: skip
def test_the_character_set_is_that_of_the_message(declared: str, encoding: str, tmp_path: Path) -> None:
    lines = [MSH.replace("UNICODE UTF-8", declared), PID, OBR, obx("Größe 12 mm, à droite")]
    (report,) = read_reports(write(tmp_path / "feed.hl7", lines, encoding=encoding))
    assert report.text == "Größe 12 mm, à droite"


def test_an_undeclared_character_set_must_be_declared(tmp_path: Path) -> None:
    bad = [MSH.replace("|||||UNICODE UTF-8", ""), PID, OBR, obx("Größe")]
    good = [MSH, PID, OBR.replace("F1", "F2"), obx("Normal.")]
    path = write(tmp_path / "feed.hl7", bad, good, encoding="latin-1")
    reports, found = errors(path)
    assert [report.report_id for report in reports] == ["F2"]
    (error,) = found
    assert error.startswith("1: the text is not UTF-8")
    assert "encoding='cp1252'" in error
    assert [report.text for report in read_reports(path, encoding="latin-1")] == ["Größe", "Normal."]


@pytest.mark.parametrize("encoding", ["utf-8-sig", "utf-16"])
def test_byte_order_marks(encoding: str, tmp_path: Path) -> None:
    path = write(tmp_path / "feed", [*START, obx("Größe")], encoding=encoding)
    assert [report.text for report in read_reports(path)] == ["Größe"]


@pytest.mark.parametrize(
    "names",
    [
        ("71250&GDT^CT", "71250&IMP^CT", "71250&ADT^CT"),
        ("59776-5^Findings^LN", "19005-8^Impression^LN", "55107-7^Addendum^LN"),
        ("FINDINGS", "IMPRESSION", "ADDENDUM"),
        ("1^Findings", "2^Impression", "3^Addendum"),
    ],
)
def test_sections_become_headings(names: tuple[str, str, str], tmp_path: Path) -> None:
    report = read(
        tmp_path,
        obx("Lungs clear.", name=names[0]), obx("", name=names[0]), obx("Nodule of 12 mm.", name=names[0]),
        obx("Nodule.", name=names[1]), obx("Nodule of 13 mm.", name=names[2]),
    )  # fmt: skip
    sections = [(section.name, report.text[section.start : section.end]) for section in split_sections(report.text)]
    assert sections == [
        ("findings", "Lungs clear.\n\nNodule of 12 mm."), ("impression", "Nodule."), ("addendum", "Nodule of 13 mm."),
    ]  # fmt: skip


@pytest.mark.parametrize("coding", ["Base64", "Hex", "A"])
@pytest.mark.parametrize("kind", ["plain", "html"])
def test_encapsulated_text(coding: str, kind: str, tmp_path: Path) -> None:
    content = "Größe 12 mm" if kind == "plain" else "<p>Größe 12 mm</p>"
    data = {
        "Base64": base64.b64encode(content.encode()).decode(),
        "Hex": content.encode().hex(),
        "A": content,
    }[coding]
    assert read(tmp_path, obx(f"RIS^TEXT^{kind}^{coding}^{data}", kind="ED")).text == "Größe 12 mm"


@pytest.mark.parametrize(
    ("data", "says"),
    [("RIS^Application^PDF^Base64^JVBERi0=", "only there as PDF"), ("RIS^TEXT^plain^Base64^%%%", "not valid base64")],
)
def test_encapsulated_data_that_cannot_be_read(data: str, says: str, tmp_path: Path) -> None:
    reports, found = errors(write(tmp_path / "feed.hl7", [*START, obx(data, kind="ED")]))
    assert reports == []
    assert says in found[0]
    assert read(tmp_path, obx("RIS^Application^PDF^Base64^JVBERi0=", kind="ED"), obx("Text.")).text == "Text."


@pytest.mark.parametrize(
    ("written", "status"),
    [
        ("F", "final"),
        ("P", "preliminary"),
        ("R", "preliminary"),
        ("C", "corrected"),
        ("A", "partial"),
        ("X", "cancelled"),
    ],
)
def test_the_status_of_the_result(written: str, status: str, tmp_path: Path) -> None:
    order = OBR.replace("|||F|||||||", f"|||{written}|||||||")
    assert read(tmp_path, obx("Text."), start=[MSH, PID, order]).status == status


def test_a_wrong_report_is_taken_back(tmp_path: Path) -> None:
    right = [*START, obx("Nodule."), obx("Wrong line.", status="D")]
    wrong = [MSH, PID, OBR, obx("Nodule.", status="W")]
    first, last = read_reports(write(tmp_path / "feed.hl7", right, wrong))
    assert (first.text, first.status) == ("Nodule.", "final")
    assert (last.text, last.status, last.version_key) == ("Nodule.", "entered-in-error", "F1^RIS")


def test_versions_share_the_filler_number(tmp_path: Path) -> None:
    later = OBR.replace("20210304113000|||F", "20210305080000-0500|||C")
    first, last = read_reports(write(tmp_path / "f", [*START, obx("8 mm.")], [MSH, PID, later, obx("9 mm.")]))
    assert first.version_key == last.version_key
    assert first.report_id != last.report_id
    assert last.issued_at == datetime(2021, 3, 5, 13, tzinfo=UTC)


def test_the_time_of_the_lines_then_of_the_message(tmp_path: Path) -> None:
    order = OBR.replace("20210304113000", "")
    report = read(tmp_path, obx("a", at="202103041030"), obx("b", at="202103041035"), start=[MSH, PID, order])
    assert report.issued_at == datetime(2021, 3, 4, 10, 35)  # noqa: DTZ001
    sent = read(tmp_path, obx("a"), start=[MSH, PID, order]).issued_at
    assert sent is not None
    assert sent.utcoffset() == timedelta(hours=1)


def test_one_report_over_several_orders(tmp_path: Path) -> None:
    """Orders without a text, and those that repeat it, belong to the report that has it."""
    second, third = OBR.replace("F1", "F2").replace("00123", ""), OBR.replace("F1", "F3").replace("00123", "")
    for message in (
        [*START, obx("Text."), second, third, obx("Text.")],
        [MSH, PID, OBR, second, obx("Text."), third],
    ):
        (report,) = read_reports(write(tmp_path / "feed.hl7", message))
        assert report.text == "Text."
        assert set(report.accession_numbers) == {"00123", "F1", "F2", "F3"}
    parts = [*START, obx("FINDINGS: One."), OBR, obx("IMPRESSION: Two.")]
    (report,) = read_reports(write(tmp_path / "feed.hl7", parts))
    assert report.text == "FINDINGS: One.\n\nIMPRESSION: Two."
    two = [*START, obx("One."), second, obx("Two.")]
    assert [report.text for report in read_reports(write(tmp_path / "feed.hl7", two))] == ["One.", "Two."]


def test_the_study_uid_in_an_obx_is_a_key_and_no_text(tmp_path: Path) -> None:
    report = read(
        tmp_path, obx("1.2.3.4", kind="ST", name="113014^DICOM Study^DCM"), obx("Text."), start=[MSH, PID, OBR]
    )
    assert (report.study_instance_uids, report.text) == (("1.2.3.4",), "Text.")


def test_accession_number_from_the_control_segment(tmp_path: Path) -> None:
    order = "OBR|1||||||202103041015"
    report = read(tmp_path, obx("Text."), start=[MSH, PID, ORC, order])
    assert (report.accession_numbers, report.report_id) == (("F1",), "F1")


def test_raw_line_breaks_in_a_text_are_its_lines(tmp_path: Path) -> None:
    path = tmp_path / "feed.hl7"
    path.write_bytes("\r".join([*START, "OBX|1|TX|X||First line.\nSecond line, 12 mm.\n\nThird||||||F"]).encode())
    (report,) = read_reports(path)
    assert report.text == "First line.\nSecond line, 12 mm.\nThird"


BROKEN = {
    "no delimiters": (["MSH"], "does not begin with an MSH"),
    "no order": ([MSH, PID, obx("Secret.")], "no OBR"),
    "no text": ([MSH, PID, OBR], "no OBX of the message holds text"),
    "no number": ([MSH, PID, "OBR|1", obx("Secret.")], "no filler order number"),
    "broken off": ([*START, obx("Secret."), "OBX|2"], "broken off"),
    "no segment": ([MSH, "Secret words", PID, OBR, obx("Secret.")], "line 2 of the message is no segment"),
    "unknown set": (
        [MSH.replace("UNICODE UTF-8", "KLINGON"), PID, OBR, obx("Secret.")],
        "declared encoding is unknown",
    ),
}


@pytest.mark.parametrize("case", BROKEN)
def test_a_broken_message_costs_itself(case: str, tmp_path: Path) -> None:
    lines, says = BROKEN[case]
    good = [MSH, PID, OBR.replace("F1", "F2"), obx("Normal.")]
    reports, found = errors(write(tmp_path / "Secret.hl7", lines, good))
    assert [report.text for report in reports] == ["Normal."]
    assert len(found) == 1
    assert found[0].startswith("1: ")
    assert says in found[0]
    assert "Secret" not in found[0]


def test_a_broken_order_costs_itself(tmp_path: Path) -> None:
    orders = [OBR.replace("F1", f"F{number}") for number in range(3)]
    lines = [
        MSH,
        PID,
        orders[0],
        obx("One."),
        orders[1],
        obx("RIS^A^PDF^Base64^JVA=", kind="ED"),
        orders[2],
        obx("Three."),
    ]
    reports, found = errors(write(tmp_path / "feed.hl7", lines))
    assert [report.text for report in reports] == ["One.", "Three."]
    assert len(found) == 1


def test_other_messages_are_passed_over(tmp_path: Path) -> None:
    other = [MSH.replace("ORU^R01^ORU_R01", "ADT^A01"), PID]
    path = write(tmp_path / "feed.hl7", other, [*START, obx("Text.")])
    assert errors(path)[1] == []
    with pytest.raises(ReportError, match="holds no ORU message"):
        list(read_reports(write(path, other)))


@settings(suppress_health_check=[HealthCheck.function_scoped_fixture], max_examples=60)
@given(cut=st.integers(0, 700), junk=st.binary(max_size=8))
def test_a_damaged_feed_never_raises(cut: int, junk: bytes, tmp_path: Path) -> None:
    whole = "\r".join([*START, obx("Nodule of 12 mm."), obx("x", kind="ED")]).encode()
    (tmp_path / "feed.hl7").write_bytes(whole[:cut] + junk + whole[cut:])
    for report in errors(tmp_path / "feed.hl7")[0]:
        assert report.report_id
