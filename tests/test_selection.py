"""Which cases go into a cohort: every criterion, what it leaves out by count, and patients of whom nothing may stay."""

from __future__ import annotations

import gzip
import json
import re
import shutil
import sqlite3
import tomllib
from collections.abc import Iterator
from dataclasses import dataclass, field, fields
from datetime import date
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow.parquet as pq
import pydicom
import pytest
from dicom import Patient, StudyInfo, ct_series, gsps, line, localizer, on, uid, write
from hypothesis import given
from hypothesis import strategies as st

from cohort_builder import BuildConfig, Cohort, ConfigError, Selection, build_cohort, index_export
from cohort_builder.cases.contrast import contrast_given
from cohort_builder.cases.criteria import age_years
from cohort_builder.cases.sieve import SelectedIndex, Sieve
from cohort_builder.cli import main
from cohort_builder.pacs.forgetting import OptOut, forget
from cohort_builder.pacs.index import Index, open_index
from cohort_builder.privacy.pseudonyms import Pseudonyms
from cohort_builder.scope.joining import ReportJoin, Scope, selected
from cohort_builder.scope.store import ReportStore
from nlp.types import Report

HERE = Path(__file__).parent
KEY = b"\x07" * 32
START, END, SLICE = (26.5, 32.5), (37.5, 32.5), 4


# ---- what is asked for ---------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"studies_from": "2015"}, "studies_from must be a day as 2015-01-31"),
        ({"studies_from": 2015}, "studies_from must be a day"),
        ({"studies_from": "2015-02-01", "studies_until": "2015-01-01"}, "must not be after studies_until"),
        ({"body_parts": "CHEST"}, "body_parts must be a list of texts"),
        ({"manufacturers": [""]}, "manufacturers must be a list of texts"),
        ({"accession_numbers": [12]}, "accession_numbers must be a list of texts that are not empty, or the path"),
        ({"slice_thickness_mm": (3, 1)}, "slice_thickness_mm must be two numbers"),
        ({"slice_thickness_mm": (1,)}, "slice_thickness_mm must be two numbers"),
        ({"age_years": (-1, 3)}, "age_years must be two numbers"),
        ({"age_years": "18:90"}, "age_years must be two numbers"),
        ({"contrast": "maybe"}, "contrast must be one of any, with, without"),
        ({"sex": "female"}, "sex must be one of any, F, M, O"),
    ],
)
def test_a_wrong_criterion_is_refused_with_what_is_allowed(options: dict[str, Any], message: str) -> None:
    with pytest.raises(ConfigError, match=message):
        Selection(**options)


def test_a_table_of_the_configuration_becomes_a_selection(tmp_path: Path) -> None:
    (tmp_path / "cohort.toml").write_text(
        '[select]\nstudies_from = 2015-01-01\nstudies_until = "2024-12-31"\nbody_parts = ["CHEST"]\n'
        'slice_thickness_mm = [0.5, 3.0]\ncontrast = "with"\nage_years = [18, 90]\nexclude_patients = "optout.csv"\n'
    )
    config = BuildConfig.from_toml(tmp_path / "cohort.toml")
    assert config.select == Selection(
        studies_from=date(2015, 1, 1),
        studies_until=date(2024, 12, 31),
        body_parts=("CHEST",),
        slice_thickness_mm=(0.5, 3),
        contrast="with",
        age_years=(18, 90),
        exclude_patients="optout.csv",
    )
    assert BuildConfig.from_mapping(config.as_dict()) == config


def test_the_example_of_the_documentation_is_a_configuration() -> None:
    page = (Path(__file__).parent.parent / "docs" / "selecting.md").read_text(encoding="utf-8")
    (example,) = re.findall(r"```toml\n(.*?)```", page, re.DOTALL)
    config = BuildConfig.from_mapping(tomllib.loads(example))
    assert config.select.first_day == date(2015, 1, 1)
    assert config.pixel_origin == {"Some Vendor": "center"}
    assert {f.name for f in fields(Selection)} == set(
        re.findall(r"^(\w+) =", example.partition("[select]")[2], re.MULTILINE)
    )


@pytest.mark.parametrize(
    ("content", "expected"),
    [
        (b"A1\n\nA2\r\n A1 \n", ("A1", "A2")),
        (b"accession_number\nA1\n", ("A1",)),
        ("Akzessionsnummer;Name\nA1;Müller\nA2;\n".encode(), ("A1", "A2")),
        ("\ufeffid,accession\n1,A1\n2,A2\n".encode(), ("A1", "A2")),
        ("accession\tname\nA1\tx\n".encode("utf-16"), ("A1",)),
        (b'"A1"\n"A2"\n', ("A1", "A2")),
        (b"A1 \n\n A2 \n", ("A1", "A2")),
        (b"accession;remark\nA1;asked twice, see mail\n", ("A1",)),
    ],
)
def test_lists_may_be_lines_or_a_column(tmp_path: Path, content: bytes, expected: tuple[str, ...]) -> None:
    (tmp_path / "list").write_bytes(content)
    assert Selection(accession_numbers=tmp_path / "list").read().accession_numbers == expected


@pytest.mark.parametrize(
    ("content", "message"),
    [
        (None, "cannot be read"),
        (b"\xff\xfa\x00", "no text in UTF-8 or UTF-16; save it as UTF-8"),
        (b"000255436 # withdrew 2026-01-02", "row 1 .* holds a space"),
        (b"4216\n4217 4218\n", "row 2 .* holds a space"),
        (b"4217|x\n", "row 1 .* holds a space"),
        (b"4217\n4218,Mustermann\n", "row 2 .* holds a space"),
        (b"# Mustermann\n4217\n", "row 1 .* holds a space"),
        (b"patient_id;name\n4217 4218;x\n", "row 2 .* holds a space"),
        (b"", "holds no patient_id"),
        (b" \n\n", "holds no patient_id"),
        (b"patient_id\n", "holds no patient_id"),
        (b"patient_id;name\n", "holds no patient_id"),
        (b"name,age\nMustermann,3\n", "0 columns that may be meant"),
        (b"patient_id,patient_ids\n1,2\n", "2 columns that may be meant"),
        (b"name,patient_id\nMustermann,\n", "row 2 of the file of select.exclude_patients has no patient_id"),
    ],
)
def test_an_opt_out_list_that_is_not_understood_stops_everything(
    tmp_path: Path, content: bytes | None, message: str
) -> None:
    path = tmp_path / "Mustermann.csv"
    if content is not None:
        path.write_bytes(content)
    with pytest.raises(ConfigError, match=message) as caught:
        Selection(exclude_patients=path).read()
    assert "Mustermann" not in str(caught.value)


def test_an_empty_list_of_accession_numbers_is_a_mistake(tmp_path: Path) -> None:
    (tmp_path / "empty").write_text("\n")
    with pytest.raises(ConfigError, match="holds no accession_number"):
        Selection(accession_numbers=tmp_path / "empty").read()


def test_what_is_published_of_a_selection_names_nobody_and_no_day() -> None:
    select = Selection(
        accession_numbers=["ACC77"], exclude_patients=["4711"], studies_from="2015-03-05", slice_thickness_mm=(0.5, 3)
    )
    published = BuildConfig(select=select).what_is_published()["select"]
    assert published == {
        "accession_numbers": "a list of 1",
        "studies_from": 2015,
        "slice_thickness_mm": "0.5 to 3",
        "exclude_patients": "a list of 1",
    }
    assert "4711" not in repr(select)
    assert "ACC77" not in repr(select)
    assert BuildConfig().what_is_published()["select"] == {}


@pytest.mark.parametrize(
    ("text", "years"), [("074Y", 74), ("018M", 1.5), ("26w", 0.4983), ("000D", 0), ("74", None), (None, None)]
)
def test_an_age_is_read_as_the_standard_writes_it(text: str | None, years: float | None) -> None:
    assert age_years(text) == (None if years is None else pytest.approx(years, abs=1e-3))


@pytest.mark.parametrize(
    ("agent", "description", "given"),
    [
        ("Omnipaque 350", None, True),
        ("ORAL & IV", "THORAX", True),
        ("NONE", None, False),
        ("ohne", None, False),
        ("", "THORAX NATIV", False),
        ("n/a", "Thorax 1.0 B31f", None),
        (None, None, None),
        ("Ultravist", "Thorax nativ", None),
        ("Ultravist", "Thorax mit und ohne KM", None),
        ("Oral", None, True),
        ("YES", None, True),
        ("non-ionic 300", None, True),
        ("NO CONTRAST", None, False),
        ("WITHOUT CONTRAST", None, False),
        ("w/o", None, False),
        ("None given", None, False),
        ("no iv", None, False),
        ("KEIN KM", None, False),
        ("ohne KM", None, False),
        ("nativ", None, False),
        ("N", None, False),
        ("NON CONTRAST", "ABD portal venous", None),
        ("0 ml", None, None),
        ("0", "Thorax KM", True),
        ("water", None, None),
        ("Omnipaque, no oral", None, None),
        ("with/without", None, None),
    ],
)
def test_contrast_is_known_where_something_says_so(
    agent: str | None, description: str | None, given: bool | None
) -> None:
    assert contrast_given(agent, description) is given


def test_contrast_is_read_from_descriptions_as_they_are_written() -> None:
    rows = [row for row in (HERE / "contrast.txt").read_text(encoding="utf-8").splitlines() if row[0] in "+-?"]
    read = {None: "?", True: "+", False: "-"}
    assert len(rows) >= 150
    assert [f"{read[contrast_given(None, row[2:])]} {row[2:]}" for row in rows] == rows


@given(st.text(st.sampled_from("wo/ 0+-.kmc"), max_size=12), st.sampled_from(["no", "without", "ohne", "keine", "w/o"]))
def test_what_negates_an_agent_never_reads_as_with(around: str, negation: str) -> None:
    assert contrast_given(None, f"{negation} contrast {around}") is not True
    assert contrast_given(f"{negation} contrast", None) is not True


@pytest.mark.parametrize(
    ("listed", "other", "same"),
    [
        ("12345", "0012345", True),
        ("mrn-12345", "MRN 12345", True),
        ("12345", "MRN0012345", True),
        ("12345^^^HOSPITAL", "12345", True),
        ("１２３４５", "12345", True),
        ("12345", "12346", False),
        ("A12345", "B12345", False),
        ("7", "A7", True),
        ("217", "MRN 217", True),
        ("PAT217", "217", True),
        ("001", "PAT-001", True),
        ("4217", "H1-4217", True),
        ("H1-4217", "4217", True),
        ("4217", "4217/1", True),
        ("4217", "0042-17/1", True),
        ("4217", "A1/0042-17", True),
        ("٤٢١٧", "4217", True),
        ("000", "X0", True),
        ("1", "4217/1", False),
        ("2020-4217", "2020-4218", False),
        ("H1-4217", "H2-4217", False),
        ("MRN4217", "H1-4217", False),
        ("SMITH", "000", False),
        ("SMITH", "Smith", True),
        ("LIDC-IDRI-0001", "QIN-0001", False),
        ("12345", None, False),
        ("12345", "", False),
    ],
)
def test_an_opted_out_patient_is_known_in_every_spelling(listed: str, other: str | None, same: bool) -> None:
    assert OptOut([listed]).has(other) is same


@given(st.text(st.characters(codec="utf-8", exclude_characters="^"), min_size=1), st.integers(0, 3))
def test_an_id_is_its_own_spelling_whatever_is_around_it(value: str, zeros: int) -> None:
    assert OptOut([value]).has(f" {value.swapcase().swapcase()} ")
    if value.isdigit() and value.isascii():
        assert OptOut([value]).has("0" * zeros + value)


# ---- what it leaves of an index ------------------------------------------------------------------------------------


def study(n: int, *, patient: str | None = None, **options: Any) -> StudyInfo:
    """Study ``n``, of a patient of its own unless one is named."""
    who = Patient(name=f"Quorrax{patient or n}^Zephyrine", patient_id=patient or f"77{n}00{n}9")
    return StudyInfo(who, **{"accession_number": f"ACX0000{n}", "date": f"2023041{n}", **options})


def with_elements(datasets: list[Any], **elements: Any) -> list[Any]:
    for ds in datasets:
        for keyword, value in elements.items():
            if value is None:
                delattr(ds, keyword)
            else:
                setattr(ds, keyword, value)
    return datasets


@pytest.fixture(scope="module")
def varied(tmp_path_factory: pytest.TempPathFactory) -> Index:
    """Six studies, each with something of its own; study 2 has two CT series."""
    root = tmp_path_factory.mktemp("varied")
    parts = [
        ct_series(3, study=study(1)),
        ct_series(3, study=study(2), step_mm=5.0),
        ct_series(3, study=study(2), number=3, step_mm=1.0),
        [localizer(study(2))],
        with_elements(ct_series(3, study=study(3)), Manufacturer="Siemens Healthineers", BodyPartExamined="HEAD_NECK"),
        with_elements(ct_series(3, study=study(4)), ContrastBolusAgent="Omnipaque", PatientAge="006M", PatientSex="M"),
        with_elements(ct_series(3, study=study(5)), StudyDate="", PatientAge=None, SliceThickness=None, PatientSex=""),
        with_elements(ct_series(3, study=study(6)), PatientID="", AccessionNumber="", BodyPartExamined=None),
        with_elements(ct_series(3, study=study(7)), Modality="MR", SOPClassUID="1.2.840.10008.5.1.4.1.1.4"),
    ]
    for i, datasets in enumerate(parts):
        write(datasets, root / f"s{i}")
    return index_export(root)


def numbers(index: Index) -> list[int]:
    """Which of the studies are left."""
    names = {study(n).study_instance_uid: n for n in range(1, 8)}
    return sorted(names[one.study_instance_uid] for one in index.studies())


@pytest.mark.parametrize(
    ("options", "left", "counts"),
    [
        ({"accession_numbers": [" acx00001", "ACX00005", "none"]}, [1, 5], {"studies_accession_numbers": 4, "studies_accession_numbers_unknown": 1}),
        ({"studies_from": "2023-04-13"}, [3, 4, 6, 7], {"studies_study_date": 2, "studies_study_date_unknown": 1}),
        ({"studies_from": "2023-04-12", "studies_until": "2023-04-13"}, [2, 3], {"studies_study_date": 4, "studies_study_date_unknown": 1}),
        ({"age_years": (18, 90)}, [1, 2, 3, 6, 7], {"studies_age_years": 1, "studies_age_years_unknown": 1}),
        ({"age_years": (0, 1)}, [4], {"studies_age_years": 5, "studies_age_years_unknown": 1}),
        ({"sex": "F"}, [1, 2, 3, 6, 7], {"studies_sex": 1, "studies_sex_unknown": 1}),
        ({"body_parts": ["Head Neck"]}, [3], {"studies_body_parts": 4, "studies_body_parts_unknown": 2}),
        ({"manufacturers": ["SIEMENS"]}, [3], {"studies_manufacturers": 5, "studies_manufacturers_unknown": 1}),
        ({"manufacturers": ["iemen"]}, None, {}),
        ({"slice_thickness_mm": (0.5, 2.5)}, [1, 2, 3, 4, 6], {"series_slice_thickness_mm": 1, "studies_slice_thickness_mm_unknown": 2}),
        ({"contrast": "with"}, [4], {"studies_contrast_unknown": 6}),
        ({"contrast": "without"}, None, {}),
        ({"sex": "F", "manufacturers": ["acme"], "slice_thickness_mm": (5, 5)}, [2], {"studies_sex": 1, "studies_sex_unknown": 1, "studies_manufacturers": 1, "studies_manufacturers_unknown": 1, "studies_slice_thickness_mm": 2, "series_slice_thickness_mm": 1}),
    ],
)  # fmt: skip
def test_each_criterion_leaves_what_meets_it_and_counts_the_rest(
    varied: Index, options: dict[str, Any], left: list[int] | None, counts: dict[str, int]
) -> None:
    select = Selection(**options)
    if left is None:
        with pytest.raises(ConfigError, match=f"leaves nothing of the export.*{next(iter(options))}.*: [67] studies"):
            select.sieve(varied)
        return
    sieve = select.sieve(varied)
    assert numbers(sieve.over(varied)) == left
    told = {k.removeprefix("not_selected_"): n for k, n in sieve.counts.items() if k.startswith("not_selected_")}
    assert told == counts
    assert sieve.counts["selected_studies"] == len(left)
    assert sum(int(skip.detail.split()[0]) for skip in sieve.skips() if "stud" in skip.detail) == 7 - len(left)


def test_without_a_selection_the_index_is_the_index(varied: Index) -> None:
    sieve = Selection().sieve(varied)
    assert sieve.over(varied) is varied
    assert (sieve.counts, sieve.skips(), sieve.told()) == ({}, [], "")


def test_of_an_opt_out_list_it_is_said_how_many_of_it_were_found(
    tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    for n in (1, 2, 3):
        write(ct_series(2, study=study(n, patient=f"471{n}")), tmp_path / str(n))
    known = Selection(
        exclude_patients=["MRN 4711", "004711", "4712/1", "9999"], accession_numbers=["ACX00001", "ACX00003"]
    )
    index = index_export(tmp_path, select=known)
    sieve = known.sieve(index)
    assert sieve.counts == {
        "selected_studies": 1,
        "opt_out_ids_listed": 4,
        "opt_out_ids_found": 3,
        "not_selected_studies_exclude_patients": 2,
    }  # an accession number of a patient who opted out is in the export
    assert "opt-out list: 4 Patient ID(s) listed, 3 found" in sieve.told()
    assert caplog.text == ""
    unknown = Selection(exclude_patients=["9999"])
    counts = unknown.sieve(index_export(tmp_path, select=unknown)).counts
    assert (counts["opt_out_ids_listed"], counts["opt_out_ids_found"]) == (1, 0)
    assert "none of the 1 Patient ID(s) of the opt-out list is in the export" in caplog.text
    assert "9999" not in caplog.text


def test_a_view_shows_nothing_of_what_is_left_out(varied: Index) -> None:
    sieve = Selection(studies_until="2023-04-12", slice_thickness_mm=(0, 2.5)).sieve(varied)
    view = sieve.over(varied)
    second, third = (study(n).study_instance_uid for n in (2, 3))
    thin, thick = uid("series", second, 3), uid("series", second, 2)
    assert set(view.series_of(second)) == {thin, uid("series", second, 1)}  # a localizer is no case of its own
    assert len(view.instances(thin)) == 3
    assert view.instances(thick) == []
    assert view.study(second) is not None
    assert view.study(third) is None
    assert view.series_of(third) == []
    assert view.patient_keys() == [study(n).patient.patient_id for n in (1, 2)]
    sop = varied.instances(thick)[0].sop_instance_uid
    assert varied.instance(sop) is not None
    assert view.instance(sop) is None
    part = sieve.part(varied, [study(3).patient.patient_id])
    assert set(part.studies) == {third}
    assert part.series == {}


def test_a_view_has_an_answer_of_its_own_for_all_that_an_index_is_asked() -> None:
    asked = {name for name in vars(Index) if not name.startswith("_")}
    assert asked <= set(vars(SelectedIndex))


def test_a_view_keeps_the_identifiers_of_all_studies_of_a_patient(tmp_path: Path) -> None:
    """A report may name what stands only in the header of a study that is left out."""
    for n, name in ((1, "Kestrelmann^Ottokar"), (2, "Isengrim^Radbodo")):
        one = with_elements(ct_series(2, study=study(n, patient="77123")), ReferringPhysicianName=name)
        write(one, tmp_path / str(n))
    index = index_export(tmp_path)
    (left,) = Selection(studies_until="2023-04-11").sieve(index).over(index).studies_of("77123")
    assert {"Kestrelmann", "Isengrim"} <= set(left.identifiers)


# ---- which reports are read ----------------------------------------------------------------------------------------


def test_a_report_is_joined_among_all_studies_before_it_is_asked_whether_its_study_is_selected(tmp_path: Path) -> None:
    chest, head = study(1, patient="77123"), study(2, patient="77123", date="20230411")
    write(ct_series(2, study=chest), tmp_path / "a")
    write(with_elements(ct_series(2, study=head), BodyPartExamined="HEAD"), tmp_path / "b")
    index = index_export(tmp_path)
    sieve = Selection(body_parts=["CHEST"]).sieve(index)
    join = ReportJoin(index)
    by_day = join.scope(Report("r1", "Normal.", patient_id="77123", study_date=date(2023, 4, 11)))
    assert not isinstance(by_day, Scope)
    assert by_day.reason == "ambiguous_study"
    of_head = join.scope(Report("r2", "Normal.", accession_numbers=(head.accession_number,)))
    assert isinstance(of_head, Scope)
    lost = selected(of_head, sieve)
    assert not isinstance(lost, Scope)
    assert (lost.reason, lost.failure, "body_parts" in lost.detail) == ("not_selected", False, True)


def test_a_prior_that_is_left_out_is_not_compared_with(tmp_path: Path) -> None:
    prior, now = study(1, patient="77123"), study(5, patient="77123")
    for n, one in enumerate((prior, now)):
        write(ct_series(2, study=one), tmp_path / str(n))
    index = index_export(tmp_path)
    scope = ReportJoin(index).scope(Report("r1", "Normal.", accession_numbers=(now.accession_number,)))
    assert isinstance(scope, Scope)
    assert scope.compares == (prior.study_instance_uid,)
    left = selected(scope, Selection(studies_from="2023-04-15").sieve(index))
    assert isinstance(left, Scope)
    assert (left.reads, left.compares) == ((now.study_instance_uid,), ())
    assert left.left_out == ((prior.study_instance_uid, "not_selected"),)


def test_of_reports_of_opted_out_patients_nothing_is_written_down(tmp_path: Path) -> None:
    """Also where a server was never asked for their studies, and whatever else would become of the report."""
    write(ct_series(2, study=study(1, patient="77123")), tmp_path / "pacs")
    index = index_export(tmp_path / "pacs")
    forgotten = forget(index._connection, OptOut(["8822765"]), [("1.2.3.99", "RIS-0098765", "8822765")])
    common: dict[str, Any] = {"status": "cancelled", "version_key": "v8822765"}
    reports = [
        Report("BEF-1", "Says 8822765.", patient_id="008822765", **common),
        Report("BEF-2", "Says 8822765.", accession_numbers=("98765",)),
        Report("BEF-3", "Says 8822765.", study_instance_uids=(" 1.2.3.99",)),
        Report("BEF-4", "Normal.", accession_numbers=("ACX00001",)),
        Report("BEF-5", "Normal.", accession_numbers=("98766",)),
    ]
    store = ReportStore.create(tmp_path, Pseudonyms(KEY))
    for _ in store.add(reports, index, None, Sieve(forgotten=forgotten)):
        pass
    assert (store.read, store.forgotten, store.used) == (5, 3, 1)
    assert [row["private"]["report_id"] for row in store.skips()] == ["BEF-5"]
    store.finish(tmp_path / "reports.sqlite")
    store.close()
    data = (tmp_path / "reports.sqlite").read_bytes()
    assert [needle for needle in (b"8822765", b"BEF-1", b"BEF-2", b"BEF-3", b"1.2.3.99") if needle in data] == []
    assert b"BEF-4" in data


# ---- builds --------------------------------------------------------------------------------------------------------


@dataclass
class Hospital:
    """An export, a reports table and an output folder in the making."""

    root: Path
    reports: list[Report] = field(default_factory=list)

    def __post_init__(self) -> None:
        (self.root / "site.key").write_bytes(KEY)
        (self.root / "site.key").chmod(0o600)

    @property
    def out(self) -> Path:
        return self.root / "out"

    def patient(self, one: StudyInfo, **elements: Any) -> None:
        """A patient with one CT series with a blob, a line on it, and a report."""
        ct = with_elements(ct_series(10, study=one, voxels=BLOB), **elements)
        folder = self.root / "pacs" / f"{one.patient.name}_{one.accession_number}"
        write(ct, folder)
        write([gsps([on(ct[SLICE], line(START, END))])], folder / "pr")
        text = f"FINDINGS:\nAn 8 mm nodule in the lung (series 2, image 5) of {one.patient.name.partition('^')[0]}.\n"
        number = one.accession_number
        self.reports.append(
            Report(f"BEF-{number}-17", text, accession_numbers=(number,), patient_id=one.patient.patient_id)
        )

    def build(self, select: Selection | None = None, **options: Any) -> Cohort:
        config = BuildConfig(**{"engine": "ellipsoid", "pictures": 1, "select": select or Selection(), **options})
        reports, export, key = self.reports, self.root / "pacs", self.root / "site.key"
        return build_cohort(reports, export, out=self.out, config=config, key=key, progress=False)


def _blob() -> np.ndarray:
    s, r, c = np.meshgrid(np.arange(10), np.arange(64), np.arange(64), indexing="ij")
    inside = ((s - SLICE) * 2.5 / 4) ** 2 + ((r - 32) * 0.8 / 4.2) ** 2 + ((c - 32) * 0.7 / 4.2) ** 2 <= 1
    return np.where(inside, 40.0, -800.0).astype(np.float64) + np.random.default_rng(0).normal(0, 15, inside.shape)


BLOB = _blob()


def lines(path: Path) -> list[dict[str, Any]]:
    return [json.loads(text) for text in path.read_text(encoding="utf-8").splitlines()]


def rows(out: Path) -> dict[str, list[str]]:
    """Every published row, as text, by patient."""
    found: dict[str, list[str]] = {}
    for path in sorted((out / "dataset" / "data").rglob("*.parquet")):
        for row in pq.read_table(path).to_pylist():
            found.setdefault(row["patient_id"], []).append(repr({"in": path.parent.name, **row}))
    return found


@pytest.fixture(scope="module")
def built(tmp_path_factory: pytest.TempPathFactory) -> Hospital:
    """A cohort of three of five patients, and of a patient with a series that is left out."""
    hospital = Hospital(tmp_path_factory.mktemp("selected"))
    for n in (1, 2, 3):
        hospital.patient(study(n))
    hospital.patient(study(4), ContrastBolusAgent="Omnipaque", Manufacturer="Vendorix")
    hospital.patient(study(5), StudyDate="", ContrastBolusAgent="Omnipaque")
    two = study(3)
    other = with_elements(ct_series(10, study=two, voxels=BLOB, number=7), Manufacturer="Vendorix")
    write(other, hospital.root / "pacs" / "other")
    write([gsps([on(other[SLICE], line(START, END))], number=2)], hospital.root / "pacs" / "other" / "pr")
    hospital.build(Selection(studies_from="2023-04-11", manufacturers=["ACME"]))
    return hospital


def test_a_build_holds_what_is_selected_and_counts_the_rest(built: Hospital) -> None:
    cohort = Cohort(built.out)
    pseudonyms = Pseudonyms(KEY)
    assert set(rows(built.out)) == {pseudonyms.pseudonym("patient", study(n).patient.patient_id) for n in (1, 2, 3)}
    assert len(cohort) == 3
    counts = cohort.run["counts"]
    assert counts["selected_studies"] == 3
    assert counts["not_selected_studies_study_date_unknown"] == 1
    assert counts["not_selected_studies_manufacturers"] == 1
    assert counts["not_selected_series_manufacturers"] == 1
    assert (counts["reports_read"], counts["reports_not_selected"], counts["reports"]) == (5, 2, 3)
    assert "Left out by the selection" in cohort.summary()
    assert cohort.run["config"]["select"] == {"studies_from": 2023, "manufacturers": ["ACME"]}


def test_each_thing_left_out_has_a_reason_that_is_no_failure(built: Hospital) -> None:
    found = [row for row in Cohort(built.out).skipped if row["reason"] == "not_selected"]
    assert not any(row["failure"] for row in found)
    assert sorted(row["stage"] for row in found) == ["scope", "scope", "select", "select", "select"]
    (drawn,) = (row for row in found if "drawn on an image" in row["detail"])
    assert "criterion manufacturers: it is not met" in drawn["detail"]
    listed = lines(built.out / "private" / "not_selected.jsonl")
    assert {row["uid"] for row in listed if row["kind"] == "study"} == {study(n).study_instance_uid for n in (4, 5)}


def test_a_selection_by_the_very_day_of_a_study_publishes_no_day(built: Hospital) -> None:
    assert Cohort(built.out).audit() == []


def test_another_selection_rebuilds_only_what_it_changes(built: Hospital, tmp_path: Path) -> None:
    shutil.copytree(built.root, tmp_path / "h")
    hospital = Hospital(tmp_path / "h", built.reports)
    marks = {p.parent.name: p.stat().st_mtime_ns for p in (hospital.out / "private" / "shards").glob("*/done.json")}
    index = (hospital.out / "private" / "index.sqlite").stat().st_ino
    hospital.build(Selection(studies_from="2020-01-01", manufacturers=["ACME"]))  # the same studies, by another day
    assert marks == {
        p.parent.name: p.stat().st_mtime_ns for p in (hospital.out / "private" / "shards").glob("*/done.json")
    }
    assert (hospital.out / "private" / "index.sqlite").stat().st_ino == index
    assert len(hospital.build(Selection())) == 5


def test_a_selection_that_leaves_nothing_says_what_left_it(built: Hospital) -> None:
    hospital = Hospital(built.root, built.reports)
    with pytest.raises(ConfigError, match=r"study_date: 4 studies; study_date \(unknown\): 1 study. Widen"):
        hospital.build(Selection(studies_from="2024-01-01"))
    hospital.build(Selection(studies_from="2023-04-11", manufacturers=["ACME"]))


def test_reports_of_other_studies_alone_do_not_stop_a_build(
    built: Hospital, tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    shutil.copytree(built.root / "pacs", tmp_path / "pacs")
    hospital = Hospital(tmp_path, [r for r in built.reports if "ACX00004" in r.accession_numbers])
    cohort = hospital.build(Selection(manufacturers=["ACME"], studies_until="2023-04-11"))
    assert (len(cohort), cohort.run["counts"]["unlinked_lesions"]) == (0, 1)
    assert "no report reads a selected study" in caplog.text


# ---- a patient who goes ------------------------------------------------------------------------------------------------


GONE, STAYS = 2, (1, 3, 7)  # 7 lies in another split


def everything_of_the_gone(hospital: Hospital) -> set[bytes]:
    """What must be found nowhere: identifiers, UIDs and pseudonyms of one patient, of the export and of the cohort."""
    pseudonyms, one = Pseudonyms(KEY), study(GONE, patient="8822765")
    found = {"8822765", one.patient.name, "Quorrax8822765", one.accession_number, f"BEF-{one.accession_number}-17"}
    found |= {pseudonyms.pseudonym(kind, value) for kind in ("patient", "study", "report", "item") for value in found}
    (folder,) = (hospital.root / "pacs").glob("Quorrax8822765*")
    keywords = ("SOPInstanceUID", "SeriesInstanceUID", "StudyInstanceUID", "FrameOfReferenceUID")
    for path in folder.rglob("*"):
        if path.is_file():
            header = pydicom.dcmread(path, stop_before_pixels=True)
            found |= {str(header[keyword].value) for keyword in keywords if keyword in header}
    patient = pseudonyms.pseudonym("patient", "8822765")
    for row in (row for row in published(hospital.out) if row["patient_id"] == patient):
        found |= {value for name, value in row.items() if name.endswith("_id") and value}
    return {text.encode() for text in found}


def published(out: Path) -> Iterator[dict[str, Any]]:
    for path in sorted((out / "dataset" / "data").rglob("*.parquet")):
        yield from pq.read_table(path).to_pylist()


def everything_under(out: Path) -> Iterator[tuple[str, bytes]]:
    """Every file as it lies on the disk, its name, and what of it is compressed once more as it reads."""
    for path in out.rglob("*"):
        yield f"{path} (name)", path.name.encode()
        if path.is_file():
            yield str(path), path.read_bytes()
            if path.suffix == ".parquet":
                for row in pq.read_table(path).to_pylist():
                    yield f"{path} (rows)", repr(row).encode()
                    for value in row.values():
                        data = value.get("bytes") if isinstance(value, dict) else None
                        if data:
                            yield f"{path} (voxels)", gzip.decompress(data) if data[:2] == b"\x1f\x8b" else data


def traces(out: Path, needles: set[bytes]) -> set[tuple[str, bytes]]:
    return {(where, needle) for where, data in everything_under(out) for needle in needles if needle in data}


@pytest.fixture(scope="module")
def judged(tmp_path_factory: pytest.TempPathFactory) -> Hospital:
    """A cohort of four patients with a verdict on every link, and with what killed and failed runs leave."""
    hospital = Hospital(tmp_path_factory.mktemp("judged"))
    for n in (1, GONE, 3, 7):
        hospital.patient(study(n, patient=f"88{n}{n}765"))
    hospital.build()
    review = hospital.out / "private" / "review.csv"
    head, *body = review.read_text(encoding="utf-8-sig").splitlines()
    place = head.split(",").index("verdict")
    body = [",".join([*cells[:place], "yes", *cells[place + 1 :]]) for cells in (row.split(",") for row in body)]
    review.write_text("\n".join([head, *body]) + "\n", encoding="utf-8")
    hospital.build()
    (hospital.out / "private" / "error.txt").write_text("Traceback: Quorrax8822765")
    (hospital.out / "private" / ".tmp-abc").write_text("8822765")
    return hospital


@pytest.fixture
def before(judged: Hospital, tmp_path: Path) -> Hospital:
    """A copy of it, built and judged, to take a patient out of."""
    shutil.copytree(judged.root, tmp_path / "h")
    return Hospital(tmp_path / "h", judged.reports)


def test_the_search_for_traces_would_find_them(judged: Hospital) -> None:
    needles = everything_of_the_gone(judged)
    assert len(needles) > 25
    found = {needle for _, needle in traces(judged.out, needles)}
    pseudonyms = Pseudonyms(KEY)
    ids = {"8822765", f"BEF-ACX0000{GONE}-17", study(GONE, patient="8822765").study_instance_uid}
    keyed = {pseudonyms.pseudonym("patient", "8822765"), pseudonyms.pseudonym("report", f"BEF-ACX0000{GONE}-17")}
    assert {text.encode() for text in ids | keyed} <= found
    assert len(found) > 20


def assert_gone(hospital: Hospital, judged: Hospital) -> None:
    assert traces(hospital.out, everything_of_the_gone(judged)) == set()
    before_rows = rows(judged.out)
    pseudonyms = Pseudonyms(KEY)
    stays = {pseudonyms.pseudonym("patient", study(n, patient=f"88{n}{n}765").patient.patient_id) for n in STAYS}
    assert rows(hospital.out) == {patient: before_rows[patient] for patient in stays}
    reviews = (hospital.out / "private" / "review.csv").read_text(encoding="utf-8")
    assert all(patient in reviews for patient in stays)


def test_of_a_patient_on_the_opt_out_list_nothing_stays(before: Hospital, judged: Hospital) -> None:
    shards = before.out / "private" / "shards"
    of_others = [path for path in shards.glob("*/done.json") if path.parent.name.startswith("test")]
    marks = [path.stat().st_ino for path in of_others]
    (before.root / "optout.csv").write_text("patient_id,since\nMRN-8822765,2024\n")
    cohort = before.build(Selection(exclude_patients=str(before.root / "optout.csv")))
    assert_gone(before, judged)
    assert [path.stat().st_ino for path in of_others] == marks  # shards of others alone are not built again
    assert marks
    assert cohort.run["counts"]["not_selected_studies_exclude_patients"] == 1
    assert cohort.run["counts"]["reports_not_selected"] == 1
    assert "MRN" not in (before.out / "run.json").read_text()
    before.build(Selection(exclude_patients=str(before.root / "optout.csv")))  # the files are read again
    assert_gone(before, judged)


def test_of_a_patient_whose_files_and_reports_were_deleted_nothing_stays(before: Hospital, judged: Hospital) -> None:
    (folder,) = (before.root / "pacs").glob("Quorrax8822765*")
    shutil.rmtree(folder)
    before.reports = [r for r in before.reports if r.patient_id != "8822765"]
    before.build()
    assert_gone(before, judged)


def test_verdicts_given_under_another_key_are_not_thrown_away(before: Hospital) -> None:
    """A mistyped --key makes all patients unknown: that is no reason to delete what a person wrote."""
    (before.root / "site.key").write_bytes(b"\x08" * 32)
    before.build()
    (before.root / "site.key").write_bytes(KEY)
    judged = (before.out / "private" / "review.csv").read_text(encoding="utf-8")
    pseudonyms = Pseudonyms(KEY)
    assert all(pseudonyms.pseudonym("patient", f"88{n}{n}765") in judged for n in (1, GONE, 3, 7))


def test_an_index_forgets_every_study_that_names_the_patient_and_what_is_drawn_on_it(tmp_path: Path) -> None:
    """One header of a study is enough; and another patient's presentation state that names its images goes, too."""
    export, file = tmp_path / "pacs", tmp_path / "index.sqlite"
    mixed = ct_series(4, study=study(1, patient="4711"))
    mixed[3].PatientID = "0008822765"
    other = ct_series(4, study=study(2, patient="4712"))
    drawn = gsps([on(other[1], line((5, 5), (20, 9))), on(mixed[1], line((5, 5), (20, 9)))], images=other)
    for name, datasets in (("a", mixed), ("b", other), ("c", [drawn])):
        write(datasets, export / name)
    index_export(export, file).close()
    assert b"0008822765" in file.read_bytes()
    index = index_export(export, file, select=Selection(exclude_patients=["8822765"]))
    assert [one.patient_id for one in index.studies()] == ["4712"]
    assert index.annotation_objects(study(2, patient="4712").study_instance_uid) == []
    assert index.forgotten.study_instance_uids == {study(1, patient="4711").study_instance_uid}
    index.close()
    for needle in (b"8822765", b"4711", study(1, patient="4711").study_instance_uid.encode()):
        assert needle not in file.read_bytes()
    assert [path.name for path in tmp_path.iterdir() if path.name.startswith(".tmp")] == []
    opened = open_index(file)
    assert opened.instances(uid("series", study(2, patient="4712").study_instance_uid, 2))
    opened.close()
    whole = index_export(export, file)
    assert len(whole.studies()) == 2
    whole.close()


def test_an_index_whose_patient_vanished_is_written_anew(tmp_path: Path) -> None:
    export, file = tmp_path / "pacs", tmp_path / "index.sqlite"
    for n in (1, 2):
        write(ct_series(4, study=study(n, patient=f"471{n}")), export / str(n))
    index_export(export, file).close()
    shutil.rmtree(export / "1")
    index_export(export, file).close()
    assert study(1, patient="4711").study_instance_uid.encode() not in file.read_bytes()
    connection = sqlite3.connect(file)
    assert connection.execute("PRAGMA freelist_count").fetchone() == (0,)
    connection.close()


def test_a_study_without_a_patient_id_is_left_out_where_there_is_an_opt_out_list(tmp_path: Path) -> None:
    write(ct_series(2, study=study(1)), tmp_path / "a")
    write(with_elements(ct_series(2, study=study(2)), PatientID=""), tmp_path / "b")
    select = Selection(exclude_patients=["1"])
    index = index_export(tmp_path, select=select)
    sieve = select.sieve(index)
    assert numbers(sieve.over(index)) == [1]
    assert sieve.counts["not_selected_studies_exclude_patients_unknown"] == 1


def test_an_opt_out_list_in_the_output_folder_is_refused(tmp_path: Path) -> None:
    hospital = Hospital(tmp_path)
    hospital.out.mkdir()
    (hospital.out / "optout.csv").write_text("8822765\n")
    with pytest.raises(ConfigError, match="lies in the folder to build in"):
        hospital.build(Selection(exclude_patients=str(hospital.out / "optout.csv")))


# ---- the command line ----------------------------------------------------------------------------------------------


def test_the_command_line_counts_instead_of_the_configuration(built: Hospital, tmp_path: Path) -> None:
    (tmp_path / "cohort.toml").write_text(
        'engine = "ellipsoid"\npictures = 0\n[select]\nmanufacturers = ["Vendorix"]\nstudies_from = 2023-04-11\n'
    )
    (tmp_path / "reports.csv").write_text("report_id,text,accession_number\nr1,An 8 mm nodule.,ACX00001\n")
    command = ["build", str(tmp_path / "reports.csv"), str(built.root / "pacs"), "-o", str(tmp_path / "out"), "-q"]
    command += ["--key", str(built.root / "site.key"), "--config", str(tmp_path / "cohort.toml")]
    options = ["--manufacturer", "acme", "--manufacturer", "other", "--until", "2023-04-12", "--slice-thickness", ":3"]
    assert main([*command, *options, "--age", "18:", "--body-part", "chest", "--target-series", "same"]) == 0
    config = json.loads((tmp_path / "out" / "run.json").read_text())["config"]
    assert config["select"] == {
        "studies_from": 2023,
        "studies_until": 2023,
        "body_parts": ["chest"],
        "manufacturers": ["acme", "other"],
        "slice_thickness_mm": "0 to 3",
        "age_years": "18 to any",
    }


@pytest.mark.parametrize(
    ("option", "message"),
    [
        (["--from", "2015"], "must be a day as 2015-01-31"),
        (["--slice-thickness", "3"], "must be MIN:MAX"),
        (["--slice-thickness", ":"], "must be MIN:MAX"),
        (["--slice-thickness", "-1:3"], "must be MIN:MAX"),
        (["--age", "9:1"], "must be MIN:MAX"),
        (["--age", "a:b"], "must be MIN:MAX"),
        (["--contrast", "x"], "invalid choice"),
    ],
)
def test_a_wrong_option_of_the_command_line_exits_2(
    option: list[str], message: str, capsys: pytest.CaptureFixture[str]
) -> None:
    with pytest.raises(SystemExit) as stop:
        main(["build", "r.csv", "pacs", "-o", "out", *option])
    assert stop.value.code == 2
    said = capsys.readouterr().err
    assert "usage: cohort build" in said
    assert message in said


def test_a_missing_list_exits_2(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    command = ["build", "r.csv", str(tmp_path), "-o", str(tmp_path / "out"), "--exclude-patients", "nowhere.csv"]
    assert main(command) == 2
    assert "the file of select.exclude_patients cannot be read" in capsys.readouterr().err
