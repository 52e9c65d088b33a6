"""DICOM SR documents as reports: written by highdicom, which refuses to build an invalid one."""

from __future__ import annotations

from datetime import date, datetime
from pathlib import Path
from typing import Any

import highdicom as hd
import pydicom
import pytest
from dicom import StudyInfo, ct_series, gsps, line, on, uid
from highdicom.sr import (
    CodeContentItem,
    CodedConcept,
    ContainerContentItem,
    ContentSequence,
    NumContentItem,
    PnameContentItem,
    RelationshipTypeValues,
    TextContentItem,
)
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from pydicom.dataset import Dataset

from nlp import Report, ReportError, read_reports, split_sections

HAS = RelationshipTypeValues
TITLE = CodedConcept("18747-6", "LN", "CT Report")
STUDY = StudyInfo()


def concept(meaning: str, code: str = "X1", scheme: str = "99TEST") -> CodedConcept:
    return CodedConcept(code, scheme, meaning)


def text(meaning: str, value: str, code: str = "X1", relation: RelationshipTypeValues = HAS.CONTAINS) -> Dataset:
    return TextContentItem(concept(meaning, code), value, relationship_type=relation)


def container(meaning: str, *children: Dataset, code: str = "X1") -> Dataset:
    item = ContainerContentItem(concept(meaning, code), relationship_type=HAS.CONTAINS)
    item.ContentSequence = ContentSequence(children)
    return item


def document(*children: Dataset, number: int = 1, **options: Any) -> Dataset:
    root = ContainerContentItem(TITLE)
    root.ContentSequence = ContentSequence(children)
    ct = ct_series(1, study=STUDY)
    return hd.sr.ComprehensiveSR(
        evidence=ct,
        content=root,
        series_instance_uid=uid("sr series"),
        series_number=9,
        sop_instance_uid=uid("sr", number),
        instance_number=number,
        manufacturer="Somebody",
        **{"is_complete": True, "is_final": True, **options},
    )


def save(path: Path, ds: Dataset) -> Path:
    ds.save_as(path, enforce_file_format=True)
    return path


def read(tmp_path: Path, *children: Dataset, **options: Any) -> Report:
    (report,) = read_reports(save(tmp_path / "report", document(*children, **options)))  # known by its content
    return report


def sections(report: Report) -> list[tuple[str, str]]:
    return [(section.name, report.text[section.start : section.end]) for section in split_sections(report.text)]


def test_a_document_is_a_report_with_its_keys(tmp_path: Path) -> None:
    ds = document(
        PnameContentItem(concept("Person Observer Name", "121008"), "Read^Rita", relationship_type=HAS.HAS_OBS_CONTEXT),
        text("Recording Observer's Organization Name", "Sample Hospital", "121009", HAS.HAS_OBS_CONTEXT),
        text("Findings", "A 12 mm nodule.", "121070"),
        text("Impression", "Nodule.", "121073"),
        is_verified=True,
        verifying_observer_name="Chief^Carla",
        verifying_organization="Sample Hospital",
    )
    ds.ReferringPhysicianName = "Refer^Rob"
    ds.ContentDate, ds.ContentTime = "20240305", "113000"
    ds.VerifyingObserverSequence[0].VerificationDateTime = "20240305120000"
    (report,) = read_reports(save(tmp_path / "report.dcm", ds))
    assert report == Report(
        report_id=uid("sr", 1),
        text="FINDINGS:\nA 12 mm nodule.\n\nIMPRESSION:\nNodule.",
        accession_numbers=("ACC0001",),
        study_instance_uids=(STUDY.study_instance_uid,),
        patient_id="0012345",
        study_date=date(2024, 3, 5),
        identifiers=report.identifiers,
        version_key=uid("sr", 1),
        issued_at=datetime(2024, 3, 5, 12),  # noqa: DTZ001 - DICOM times are the hospital's own
    )
    assert set(report.identifiers) >= {"Muster^Erika", "Read^Rita", "Chief^Carla", "Refer^Rob", "19500102", "0012345"}


def test_containers_are_headings_and_items_stand_in_order(tmp_path: Path) -> None:
    report = read(
        tmp_path,
        container("History", text("Text", "Cough."), code="121060"),
        container(
            "Findings",
            text("Finding", "Lungs clear.", "121071"),
            container("Upper abdomen", text("Liver", "A cyst of 9 mm.")),
            text("Finding", "Aorta normal.", "121071"),
            code="121070",
        ),
        container("Impressions", text("Impression", "Cyst.", "121073"), code="121072"),
    )
    assert report.text == (
        "HISTORY:\nText: Cough.\n\nFINDINGS:\nLungs clear.\n\nUPPER ABDOMEN:\nLiver: A cyst of 9 mm.\n\n"
        "FINDINGS:\nAorta normal.\n\nIMPRESSION:\nCyst."
    )
    assert [name for name, _ in sections(report)] == ["history", "findings", "findings", "impression"]


@pytest.mark.parametrize("meaning", ["Befund", "Findings", "bevindingen"])
def test_concepts_are_known_by_their_meaning(meaning: str, tmp_path: Path) -> None:
    assert sections(read(tmp_path, text(meaning, "A nodule."))) == [("findings", "A nodule.")]


def test_several_requests(tmp_path: Path) -> None:
    requests = []
    for number in ("A1", "A2"):
        item = Dataset()
        item.StudyInstanceUID, item.AccessionNumber = uid("requested", number), number
        requests.append(item)
    report = read(tmp_path, text("Findings", "Nodule."), requested_procedures=requests)
    assert report.accession_numbers == ("A1", "A2", "ACC0001")
    assert set(report.study_instance_uids) == {uid("requested", "A1"), uid("requested", "A2"), STUDY.study_instance_uid}


@pytest.mark.parametrize(
    ("options", "status"),
    [
        ({"is_verified": True, "verifying_observer_name": "A^B", "verifying_organization": "C"}, "final"),
        ({"is_final": False}, "preliminary"),
        ({}, "preliminary"),  # complete, but nobody has put their name to it
        ({"is_complete": False}, "partial"),
    ],
)
def test_the_status(options: dict[str, Any], status: str, tmp_path: Path) -> None:
    assert read(tmp_path, text("Findings", "Nodule."), **options).status == status


def test_the_language(tmp_path: Path) -> None:
    item = CodeContentItem(
        concept("Language of Content Item and Descendants", "121049"), CodedConcept("de-DE", "RFC5646", "German"),
        relationship_type=HAS.HAS_CONCEPT_MOD,
    )  # fmt: skip
    assert read(tmp_path, item, text("Befund", "Rundherd.")).language == "de"


@pytest.mark.parametrize("order", [(1, 2, 3), (3, 2, 1), (2, 1, 3), (2, 3, 1), (3, 1, 2)])
def test_versions_have_one_key_in_whatever_order(order: tuple[int, ...], tmp_path: Path) -> None:
    first = document(text("Findings", "8 mm."), number=1)
    second = document(text("Findings", "9 mm."), number=2, previous_versions=[first])
    third = document(text("Findings", "10 mm."), number=3, previous_versions=[second])
    other = document(text("Findings", "11 mm."), number=4)
    for place, number in enumerate(order):
        save(tmp_path / f"{place}.dcm", (first, second, third)[number - 1])
    save(tmp_path / "9.dcm", other)
    reports = list(read_reports(tmp_path))
    assert len({report.report_id for report in reports}) == 4
    assert len({report.version_key for report in reports}) == (2 if order != (3, 1, 2) else 3)


def test_a_folder_of_mixed_objects(tmp_path: Path) -> None:
    ct = ct_series(1, study=STUDY)
    save(tmp_path / "1.dcm", ct[0])
    save(tmp_path / "2.dcm", gsps([on(ct[0], line((10, 10), (20, 20)))]))
    save(tmp_path / "3.dcm", document(text("Findings", "Nodule.")))
    measured = NumContentItem(
        concept("Diameter"), 12.0, CodedConcept("mm", "UCUM", "mm"), relationship_type=HAS.CONTAINS
    )
    save(tmp_path / "4.dcm", document(measured, number=2))
    found: list[str] = []
    (report,) = read_reports(tmp_path, on_error=lambda error, row: found.append(f"{row}: {error}"))
    assert report.text == "FINDINGS:\nNodule."
    assert found == ["2: file 4 of the reports folder: the Structured Report holds no TEXT content item"]
    with pytest.raises(ReportError, match="is a DICOM object, but no Structured Report"):
        list(read_reports(tmp_path / "1.dcm"))


_texts = st.text(st.characters(exclude_categories=("Cc", "Cs", "Zl", "Zp")) | st.just("\n"), min_size=1, max_size=40)


@settings(suppress_health_check=[HealthCheck.function_scoped_fixture], max_examples=15, deadline=None)
@given(value=_texts)
def test_any_text_survives(value: str, tmp_path: Path) -> None:
    ds = document(text("Findings", f"a{value}b"))
    ds.SpecificCharacterSet = "ISO_IR 192"
    (report,) = read_reports(save(tmp_path / "report.dcm", ds))
    assert report.text == f"FINDINGS:\na{value}b"


def encoded(path: Path, *, declared: str | None) -> Path:
    """A document whose text is Latin-1."""
    ds = document(text("Findings", "Groesse 12 mm"))
    if declared is None:
        del ds.SpecificCharacterSet
    else:
        ds.SpecificCharacterSet = declared
    save(path, ds)
    path.write_bytes(path.read_bytes().replace(b"Groesse", "Größe  ".encode("latin-1")))
    return path


def test_character_sets(tmp_path: Path) -> None:
    path = tmp_path / "report.dcm"
    (report,) = read_reports(encoded(path, declared="ISO_IR 100"))
    assert report.text == "FINDINGS:\nGröße   12 mm"
    encoded(path, declared=None)
    with pytest.raises(ReportError, match=r"no Specific Character Set.*encoding='latin-1'"):
        list(read_reports(path))
    assert [report.text for report in read_reports(path, encoding="latin-1")] == ["FINDINGS:\nGröße   12 mm"]
    with pytest.raises(ReportError, match="not in its Specific Character Set"):
        list(read_reports(encoded(path, declared="ISO_IR 192")))
    content = encoded(path, declared="ISO_IR 192").read_bytes()
    path.write_bytes(content.replace(b"ISO_IR 192", b"ISO_IR 999"))
    with pytest.raises(ReportError, match=r"Specific Character Set .* is unknown"):
        list(read_reports(path))


def test_a_document_without_an_id(tmp_path: Path) -> None:
    ds = document(text("Findings", "Nodule."))
    path = save(tmp_path / "x.dcm", ds)
    again = pydicom.dcmread(path)
    del again.SOPInstanceUID
    again.save_as(path)
    with pytest.raises(ReportError, match="no SOP Instance UID"):
        list(read_reports(path))


@pytest.mark.parametrize("keep", [0.3, 0.6, 0.9, 0.97])
def test_a_truncated_document_costs_itself(keep: float, tmp_path: Path) -> None:
    path = save(tmp_path / "1.dcm", document(text("Findings", "Secret nodule. " * 20)))
    content = path.read_bytes()
    path.write_bytes(content[: int(len(content) * keep)])
    save(tmp_path / "2.dcm", document(text("Findings", "Normal."), number=2))
    found: list[str] = []
    reports = list(read_reports(tmp_path, on_error=lambda error, _: found.append(str(error))))
    assert reports[-1].text == "FINDINGS:\nNormal."
    assert len(reports) + len(found) == 2
    assert not any("Secret" in message for message in found)
