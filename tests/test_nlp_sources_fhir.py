"""FHIR R4 DiagnosticReport, written by hand as servers export it: one resource, Bundles, NDJSON."""

from __future__ import annotations

import base64
import json
from datetime import UTC, date, datetime
from pathlib import Path
from typing import Any

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from nlp import Report, ReportError, read_reports, split_sections

MR = {"type": {"coding": [{"system": "http://terminology.hl7.org/CodeSystem/v2-0203", "code": "MR"}]}}
ACSN = {"type": {"coding": [{"system": "http://terminology.hl7.org/CodeSystem/v2-0203", "code": "ACSN"}]}}
PATIENT = {
    "resourceType": "Patient",
    "id": "p1",
    "identifier": [{"system": "urn:national", "value": "998"}, {**MR, "value": "0042"}],
    "name": [{"family": "Doe", "given": ["Jane", "Q"]}, {"text": "Janie Doe"}],
    "birthDate": "1950-01-02",
    "address": [{"line": ["12 Sample Street"], "city": "Town"}],
    "telecom": [{"system": "phone", "value": "555-0100"}],
}
REQUEST = {
    "resourceType": "ServiceRequest",
    "id": "r1",
    "identifier": [{**ACSN, "value": "00123"}],
    "status": "completed",
}
STUDY = {
    "resourceType": "ImagingStudy",
    "id": "s1",
    "identifier": [{"system": "urn:dicom:uid", "value": "urn:oid:1.2.3.4"}],
    "started": "2021-03-04T09:50:00+01:00",
}
PHYSICIAN = {"resourceType": "Practitioner", "id": "d1", "name": [{"family": "Read", "given": ["Rita"]}]}


def encoded(text: str, encoding: str = "utf-8") -> str:
    return base64.b64encode(text.encode(encoding)).decode()


def report(**fields: Any) -> dict[str, Any]:
    return {
        "resourceType": "DiagnosticReport",
        "id": "dr1",
        "meta": {"versionId": "2", "lastUpdated": "2021-03-06T00:00:00Z"},
        "identifier": [{"system": "urn:ris", "value": "R77"}],
        "status": "final",
        "subject": {"reference": "Patient/p1", "display": "Doe, Jane"},
        "basedOn": [{"reference": "ServiceRequest/r1"}],
        "imagingStudy": [{"reference": "ImagingStudy/s1"}],
        "resultsInterpreter": [{"reference": "Practitioner/d1"}],
        "effectiveDateTime": "2021-03-05",
        "issued": "2021-03-05T10:15:00.000+01:00",
        "presentedForm": [{"contentType": "text/plain", "data": encoded("FINDINGS: 12 mm nodule.")}],
        **fields,
    }


def bundle(*resources: dict[str, Any]) -> dict[str, Any]:
    return {"resourceType": "Bundle", "type": "collection", "entry": [{"resource": resource} for resource in resources]}


def write(path: Path, value: Any, *, indent: int | None = 2) -> Path:
    path.write_text(json.dumps(value, indent=indent), encoding="utf-8")
    return path


def read(tmp_path: Path, value: Any) -> Report:
    (found,) = read_reports(write(tmp_path / "report.json", value))
    return found


def errors(path: Path) -> tuple[list[Report], list[str]]:
    found: list[str] = []
    return list(read_reports(path, on_error=lambda error, row: found.append(f"{row}: {error}"))), found


def test_a_bundle_resolves_what_the_report_refers_to(tmp_path: Path) -> None:
    found = read(tmp_path, bundle(report(), PATIENT, REQUEST, STUDY, PHYSICIAN))
    assert found == Report(
        report_id="dr1",
        text="FINDINGS: 12 mm nodule.",
        accession_numbers=("00123",),
        study_instance_uids=("1.2.3.4",),
        patient_id="0042",
        study_date=date(2021, 3, 4),
        status="final",
        identifiers=found.identifiers,
        version_key="urn:ris|R77",
        issued_at=datetime(2021, 3, 5, 9, 15, tzinfo=UTC),
    )
    assert set(found.identifiers) >= {
        "Doe^Jane^Q", "Janie Doe", "Doe, Jane", "1950-01-02", "0042", "998", "12 Sample Street", "555-0100", "Read^Rita",
    }  # fmt: skip


@pytest.mark.parametrize("form", ["contained", "full url", "absolute", "history"])
def test_every_form_of_reference(form: str, tmp_path: Path) -> None:
    if form == "contained":
        value = report(
            contained=[PATIENT, REQUEST, STUDY], subject={"reference": "#p1"}, basedOn=[{"reference": "#r1"}],
            imagingStudy=[{"reference": "#s1"}],
        )  # fmt: skip
    else:
        prefix = {"full url": "urn:uuid:", "absolute": "https://fhir.hospital.example/r4/", "history": ""}[form]
        suffix = "/_history/3" if form == "history" else ""
        names = {
            kind["id"]: kind["id"] if form == "full url" else f"{kind['resourceType']}/{kind['id']}"
            for kind in (PATIENT, REQUEST, STUDY)
        }
        refer = {key: {"reference": f"{prefix}{name}{suffix}"} for key, name in names.items()}
        value = bundle(
            report(subject=refer["p1"], basedOn=[refer["r1"]], imagingStudy=[refer["s1"]]), PATIENT, REQUEST, STUDY
        )
        if form == "full url":
            for entry in value["entry"][1:]:
                entry["fullUrl"] = f"urn:uuid:{entry['resource']['id']}"
    found = read(tmp_path, value)
    assert (found.patient_id, found.accession_numbers, found.study_instance_uids) == ("0042", ("00123",), ("1.2.3.4",))


@pytest.mark.parametrize(
    ("where", "numbers"),
    [
        ({"identifier": [{**ACSN, "value": "A1"}]}, ("A1",)),
        ({"identifier": [{"system": "http://hospital.example/accession-number", "value": "A1"}]}, ("A1",)),
        ({"basedOn": [{"identifier": {**ACSN, "value": "A1"}}, {"identifier": {**ACSN, "value": "A2"}}]}, ("A1", "A2")),
        ({"basedOn": [{"identifier": {"system": "urn:orders", "value": "A1"}}]}, ("A1",)),
        ({"imagingStudy": [{"identifier": {**ACSN, "value": "A1"}}]}, ("A1",)),
        ({"identifier": [{"system": "urn:ris", "value": "R77"}]}, ()),  # the report's own number is no accession number
    ],
)
def test_where_accession_numbers_stand(where: dict[str, Any], numbers: tuple[str, ...], tmp_path: Path) -> None:
    value = report(**{"basedOn": [], "imagingStudy": [], "identifier": [], **where})
    assert read(tmp_path, value).accession_numbers == numbers


def test_a_logical_reference_to_a_study(tmp_path: Path) -> None:
    study = {"identifier": {"system": "urn:dicom:uid", "value": "urn:oid:1.2.840.1"}}
    assert read(tmp_path, report(imagingStudy=[study])).study_instance_uids == ("1.2.840.1",)


DIV = '<div xmlns="http://www.w3.org/1999/xhtml"><h2>Findings</h2><p>A&#160;<b>9</b> mm &lt; 1 cm nodule.</p></div>'
HTML = "<html><head><style>p {}</style></head><body><p>FINDINGS:<br>A 10 mm nodule.</p></body></html>"
FORMS = {"contentType": "text/html; charset=utf-8", "data": encoded(HTML)}
PDF = {"contentType": "application/pdf", "data": encoded("%PDF")}
LATIN = {"contentType": "text/plain; charset=ISO-8859-1", "data": encoded("Größe 12 mm", "latin-1")}
URL = {"contentType": "text/plain", "url": "https://hospital.example/1"}


@pytest.mark.parametrize(
    ("fields", "text"),
    [
        ({"presentedForm": [PDF, FORMS, LATIN], "text": {"div": DIV}, "conclusion": "C."}, "Größe 12 mm"),
        ({"presentedForm": [PDF, FORMS], "text": {"div": DIV}, "conclusion": "C."}, "FINDINGS:\nA 10 mm nodule."),
        (
            {"presentedForm": [PDF, URL], "text": {"div": DIV}, "conclusion": "C."},
            "Findings\n\nA\xa09 mm < 1 cm nodule.",
        ),
        ({"presentedForm": [PDF], "text": {"div": "<div/>"}, "conclusion": "C."}, "IMPRESSION:\nC."),
    ],
)
def test_the_text_in_the_order_of_trust(fields: dict[str, Any], text: str, tmp_path: Path) -> None:
    assert read(tmp_path, report(**fields)).text == text


def test_tables_of_html_are_lines(tmp_path: Path) -> None:
    table = "<table><tr><th>Lesion</th><th>mm</th></tr><tr><td>Liver</td><td>12</td></tr></table><ul><li>A</li><li>B</li></ul>"
    pre = "<pre>one\n  two</pre><script>var x = 1;</script>end"
    found = read(tmp_path, report(presentedForm=[], text={"div": f"<div>{table}{pre}</div>"}))
    assert found.text == "Lesion\tmm\nLiver\t12\n\nA\nB\n\none\n  two\nend"


@settings(suppress_health_check=[HealthCheck.function_scoped_fixture], max_examples=50)
@given(text=st.text(st.characters(exclude_categories=("Cc", "Cs", "Zl", "Zp")) | st.just("\n"), min_size=1))
def test_any_presented_text_survives(text: str, tmp_path: Path) -> None:
    written = f"a{text}b"
    assert (
        read(tmp_path, report(presentedForm=[{"contentType": "text/plain", "data": encoded(written)}])).text == written
    )


@settings(max_examples=100)
@given(html=st.text(st.sampled_from("<>/&;abp \n\"'=!-[]")))
def test_no_markup_is_too_broken(html: str, tmp_path_factory: pytest.TempPathFactory) -> None:
    path = write(
        tmp_path_factory.mktemp("fhir") / "x.json", report(presentedForm=[], text={"div": f"<p>start</p>{html}"})
    )
    (found,) = read_reports(path)
    assert found.text.startswith("start")


@pytest.mark.parametrize("suffix", [".ndjson", ".json", ".txt"])
def test_ndjson(suffix: str, tmp_path: Path) -> None:
    lines = [report(id=f"dr{i}", identifier=[]) for i in range(3)]
    path = tmp_path / f"export{suffix}"
    path.write_text("\n".join(json.dumps(line) for line in [lines[0], PATIENT, *lines[1:]]) + "\n")
    found = list(read_reports(path))
    assert [item.report_id for item in found] == ["dr0", "dr1", "dr2"]
    assert found[0].version_key == "DiagnosticReport/dr0"
    assert found[0].patient_id is None  # "Patient/p1" is the server's number, not the hospital's


def test_sections_of_a_text_survive(tmp_path: Path) -> None:
    text = "FINDINGS:\r\n12 mm nodule.\r\n\r\nIMPRESSION:\r\nNodule."
    found = read(tmp_path, report(presentedForm=[{"contentType": "text/plain", "data": encoded(text)}]))
    assert [section.name for section in split_sections(found.text)] == ["findings", "impression"]


def test_versions_have_one_key_and_ids_of_their_own(tmp_path: Path) -> None:
    texts = ["8 mm.", "9 mm."]
    forms = [[{"contentType": "text/plain", "data": encoded(text)}] for text in texts]
    first, last = read_reports(
        write(
            tmp_path / "b.json",
            bundle(
                report(presentedForm=forms[0], status="preliminary"),
                report(presentedForm=forms[1], status="amended", issued="2021-03-06T08:00:00Z"),
                PATIENT,
            ),
        )
    )
    assert first.version_key == last.version_key == "urn:ris|R77"
    assert first.report_id != last.report_id
    assert first.issued_at is not None
    assert last.issued_at is not None
    assert first.issued_at < last.issued_at


def test_an_accession_number_is_no_version_key(tmp_path: Path) -> None:
    """Two reports over one accession number are two reports."""
    two = [report(id=f"dr{i}", identifier=[{**ACSN, "value": "00123"}]) for i in range(2)]
    found = list(read_reports(write(tmp_path / "b.json", bundle(*two, PATIENT))))
    assert len({item.version_key for item in found}) == 2


def test_a_report_entered_in_error_may_be_empty(tmp_path: Path) -> None:
    assert read(tmp_path, report(status="entered-in-error", presentedForm=[])).text == ""


def test_the_language(tmp_path: Path) -> None:
    assert read(tmp_path, report(language="de-DE")).language == "de"


BROKEN = {
    "missing patient": (report(subject={"reference": "Patient/Secret"}), "the patient .* is not in the Bundle"),
    "not contained": (report(subject={"reference": "#Secret"}), "not contained"),
    "broken base64": (report(presentedForm=[{"contentType": "text/plain", "data": "Secret!"}]), "not valid base64"),
    "other encoding": (
        report(presentedForm=[{"contentType": "text/plain", "data": encoded("Größe Secret", "latin-1")}]), "not UTF-8",
    ),
    "unknown encoding": (
        report(presentedForm=[{"contentType": "text/plain; charset=klingon", "data": encoded("Secret")}]), "encoding is unknown",
    ),
    "only a PDF": (report(presentedForm=[PDF]), "holds no text"),
    "no id": (report(id=None, identifier=[]), "neither id nor identifier"),
    "wrong types": (report(presentedForm="Secret", text=["Secret"], identifier="Secret", basedOn=7), "holds no text"),
}  # fmt: skip


@pytest.mark.parametrize("case", BROKEN)
def test_a_broken_report_costs_itself(case: str, tmp_path: Path) -> None:
    broken, says = BROKEN[case]
    good = report(id="good", identifier=[])
    found, messages = errors(write(tmp_path / "Secret.json", bundle(broken, good, PATIENT)))
    assert [item.report_id for item in found] == ["good"]
    assert len(messages) == 1
    with pytest.raises(ReportError, match=says):
        list(read_reports(tmp_path / "Secret.json"))
    assert "Secret" not in messages[0]


@pytest.mark.parametrize(
    "content", ['{"resourceType": "Bundle", "entry": [', "[" * 5000 + '"resourceType"', '{"resourceType": 7}']
)
def test_broken_json(content: str, tmp_path: Path) -> None:
    (tmp_path / "x.json").write_text(content)
    found, _messages = errors(tmp_path / "x.json")
    assert found == []


@settings(suppress_health_check=[HealthCheck.function_scoped_fixture], max_examples=60)
@given(
    fields=st.dictionaries(
        st.sampled_from(["id", "identifier", "subject", "text", "presentedForm", "imagingStudy", "basedOn", "issued", "language"]),
        st.recursive(
            st.none() | st.integers() | st.text(max_size=5),
            lambda inner: st.lists(inner, max_size=2)
            | st.dictionaries(st.sampled_from(["reference", "identifier", "value", "data", "div", "contentType", "type"]), inner, max_size=2),
            max_leaves=5,
        ),
    )
)  # fmt: skip
def test_whatever_stands_in_a_field_costs_at_most_the_report(fields: dict[str, Any], tmp_path: Path) -> None:
    found, _messages = errors(
        write(tmp_path / "x.json", bundle(report(**fields), report(id="good", identifier=[]), PATIENT))
    )
    assert found[-1].report_id.split("#")[0] == "good"
