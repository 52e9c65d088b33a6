"""Names, ids, dates and UIDs in nasty places of a small hospital: nothing of them is published, logged or printed.

The search here is its own: plain substrings of the decoded output, without the scrubber, and without the audit.
"""

from __future__ import annotations

import csv
import gzip
import io
import json
import logging
import os
import re
import stat
import subprocess
import sys
import unicodedata
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow.parquet as pq
import pytest
from dicom import Patient, StudyInfo, Text, ct_series, gsps, line, on, uid, write
from PIL import Image
from pydicom.dataset import Dataset

from cohort_builder import BuildConfig, Cohort, ConfigError, build, build_cohort, open_cohort
from cohort_builder.cli import main
from cohort_builder.privacy.pseudonyms import load_key
from nlp import load_extractor
from nlp.types import Finding, Report

START, END, SLICE = (25.5, 32.5), (39.5, 32.5), 8
STUDY_UID = "1.2.840.99999.20240305.7712345.1"
NODULE = "FINDINGS: A 14 mm nodule in the right upper lobe. "

# Written into headers, drawings, file names and the table; and what must be found nowhere, folded: no accents, no case.
NAMES = (
    "brunnschweissler", "brunnschweiszler", "zephyrine", "山鬼", "太郎丸", "やまおに", "quorvash", "telmund", "ignatius",
    "mirandolf", "grunwaldine", "haus^greta", "befund", "xavierson", "pelopidas", "drusilla", "kestrelmann", "olympiade",
    "ottokar", "wendelgard", "radbodo", "isengrim",
)  # fmt: skip
IDS = ("7712345", "0098876", "4455667", "mrn", "acq", "5550199", "lungenstadt", "ctstation9", "serial88")
DATES = (
    "20240305",
    "2024-03-05",
    "05.03.2024",
    "march 5",
    "5 mars",
    "19500102",
    "02/01/1950",
    "5.iii.2024",
    "1950-01-02",
)
# Words that are published and hold one of the above by chance are none; "mrn" and the like must stand alone.
ALONE = {"mrn", "acq"}

TEXTS = {
    "spellings": "BRÜNNSCHWEISSLER, Zéphyrine; Z. Brunnschweissler; Bruennschweissler's spleen; 山鬼太郎丸さん; "
    "(zbrunnschweissler); B R U N N S C H W E I S S L E R; Brünn-\nschweißler; Brunnschweissler-Grunwaldine.",
    "record": "Mr. O'Quorvash, Quorvash-Telmund's liver, IGNATIUS O’QUORVASH, his cousin, Drusilla Quorvash; ACC 0098 876, "
    "ACC-0098876, mrn 7712345, 77 123 45, patient 007712345 seen in Lungenstadt Clinic and CTSTATION9.",
    "relatives": "Results were given to his wife, Drusilla Kestrelmann, and to his brother Ottokar. Next of kin: Wendelgard Kestrelmann.",
    "clinicians": "Discussed with Dr.Xavierson, Nurse Pelopidas Xavierson and the surgeon Radbodo Isengrim. "
    "Signed: Mirandolf Xavierson\nDear Olympiade,\nkind regards, Mirandolf Xavierson",
    "dates": "Compared with 05.03.2024, 5.III.2024, 5 mars 2024, March 5, 03 05 2024, 03 / 05 / 2024, Mar-5, the fifth of March; "
    "born 02/01/1950, b. 1950, call 5550199.",
}  # fmt: skip


def _voxels() -> np.ndarray:
    z, y, x = np.meshgrid(np.arange(16) * 2.5, np.arange(64), np.arange(64), indexing="ij")
    inside = (z - 20) ** 2 + (y - 32) ** 2 + (x - 32) ** 2 < 64
    return np.where(inside, 60.0, -800.0) + np.random.default_rng(0).normal(0, 8, inside.shape)


VOXELS = _voxels()


def chest(study: StudyInfo, **elements: Any) -> list[Dataset]:
    """A CT series with a ball in air; ``elements`` go into every header."""
    datasets = ct_series(16, study=study, spacing=(1.0, 1.0), voxels=VOXELS)
    for ds in datasets:
        ds.StationName, ds.InstitutionName = "CTSTATION9", "Lungenstadt Clinic"
        for keyword, value in elements.items():
            setattr(ds, keyword, value)
    return datasets


def drawn(ct: list[Dataset], said: str = "Quorvash 14 mm 05.03.2024") -> Dataset:
    """A presentation state that names people wherever it can."""
    texts = (Text(said, anchor=(41.0, 32.5)),)
    state = gsps([on(ct[SLICE], line(START, END, group=1), *texts)], layer_description="QUORVASH IGNATIUS")
    state.GraphicGroupSequence[0].GraphicGroupLabel = "Quorvash 7712345"
    state.ContentDescription, state.ContentCreatorName = "7712345", "Grunwaldine^Befund"
    return state


def nasty_headers(name: str) -> dict[str, Any]:
    """Elements that technicians write into, each with what it should not say."""
    return {
        "SeriesDescription": f"THORAX {name}",
        "StudyDescription": f"{name} 05.03.2024",
        "ProtocolName": "QUORVASH",
        "PatientComments": "wife: Drusilla",
        "ImageComments": "7712345",
        "Manufacturer": "Quorvash Imaging",
        "ManufacturerModelName": "Scan 20240305",
        "ConvolutionKernel": "B30_QUORVASH",
        "BodyPartExamined": "OQUORVASH",
        "PatientPosition": "QUORVASHTELMUND",
        "ContrastBolusAgent": "Quorvash 50 ml",
        "DeviceSerialNumber": "SERIAL88",
    }


def make_hospital(root: Path) -> None:
    """Write the export and two tables below ``root``."""
    export = root / "pacs"
    rows = []

    def patient(case: str, study: StudyInfo, *, report_id: str, ct: list[Dataset], **columns: str) -> None:
        folder = export / "QUORVASH_IGNATIUS_20240305" / case
        write([*ct, drawn(ct)], folder, prefix="Brunnschweissler^Zephyrine_")
        text = NODULE + TEXTS.get(case, "Normal.")
        rows.append({"report_id": report_id, "text": text, "accession_number": study.accession_number, **columns})

    zephyrine = Patient("Brünnschweißler^Zéphyrine=山鬼^太郎丸=やまおに^たろうまる", patient_id="4455667")
    quorvash = Patient("O'Quorvash-Telmund^Ignatius^J^Dr", patient_id="7712345")
    study = StudyInfo(zephyrine, accession_number="ACQ1")
    patient("spellings", study, report_id="4455667", ct=chest(study), language="Zéphyrine")
    study = StudyInfo(quorvash, accession_number="ACC0098876")
    ct = chest(study, StudyInstanceUID=STUDY_UID, **nasty_headers("O'Quorvash"))
    patient("record", study, report_id="MRN-007712345", ct=ct, language="en-US", status="Ignatius")
    for number, case in enumerate(("relatives", "clinicians", "dates")):
        study = StudyInfo(
            Patient(f"Isengrim{number}^Radbodo", patient_id=f"445566700{number}"), accession_number=f"ACQ9{number}"
        )
        patient(case, study, report_id=f"ACQ9{number}-2024-03-05", ct=chest(study), patient_name="Olympiade Pelopidas")
    study = StudyInfo(Patient("Ottokar^Wendelgard", patient_id="44556671"), accession_number="ACQ71")
    patient("burned", study, report_id="r-71", ct=chest(study, BurnedInAnnotation="YES"))
    study = StudyInfo(Patient("Ottokar^Kestrelmann", patient_id="44556672"), accession_number="ACQ72")
    patient("colour", study, report_id="r-72", ct=chest(study, PhotometricInterpretation="QUORVASH"))
    (export / "Quorvash Ignatius.dcm").write_bytes((next(export.rglob("*_0003"))).read_bytes()[:4000])
    (export / "Quorvash Ignatius.txt").write_text("Quorvash")
    columns = (
        "report_id",
        "text",
        "accession_number",
        "language",
        "status",
        "patient_name",
        "birth_date",
        "next_of_kin",
    )
    with (root / "Quorvash reports.csv").open("w", encoding="utf-8", newline="") as stream:
        writer = csv.DictWriter(stream, columns, restval="")
        writer.writeheader()
        writer.writerows(rows)
        stream.write("Ignatius Quorvash,too few\n")
    broken = '{"report_id": "4455667", "text": "Zephyrine again"}\n{"report_id": "MRN-1", "text": "Ignatius Quorvash"\n'
    (root / "Zephyrine.jsonl").write_text(
        broken + '{"report_id": "MRN-2", "text": "Ignatius", "study_date": "Quorvash"}\n'
    )


def run(root: Path, *more: str) -> subprocess.CompletedProcess[str]:
    tables = [str(root / "Quorvash reports.csv"), str(root / "Zephyrine.jsonl")]
    command = [
        sys.executable,
        "-m",
        "cohort_builder.cli",
        "build",
        *tables,
        str(root / "pacs"),
        "-o",
        str(root / "out"),
    ]
    return subprocess.run(
        [*command, "--key", str(root / "site.key"), *more], capture_output=True, text=True, check=False, cwd=root,
        env=dict(os.environ),
    )  # fmt: skip


@pytest.fixture(scope="module")
def hospital(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A built cohort in ``out/``, and what building it printed in ``printed.txt``."""
    root = tmp_path_factory.mktemp("hospital")
    make_hospital(root)
    done = run(root)
    (root / "printed.txt").write_text(done.stdout + done.stderr, encoding="utf-8")
    assert done.returncode == 0, done.stderr
    return root


@pytest.fixture(scope="module")
def cohort(hospital: Path) -> Cohort:
    return open_cohort(hospital / "out")


def folded(text: str) -> str:
    decomposed = unicodedata.normalize("NFKD", text.casefold())
    return "".join(c for c in decomposed if not unicodedata.combining(c))


def said(text: str) -> list[str]:
    """What a text says of somebody."""
    plain = folded(text)
    joined = re.sub(r"[\s.,;^_'’-]+", "", plain)
    found = []
    for needle in map(folded, (*NAMES, *IDS, *DATES)):
        hit = re.search(rf"(?<!\w){needle}\d", plain) if needle in ALONE else needle in plain
        glued = len(needle) > 5 and needle.isalpha() and needle in joined
        if hit or glued:
            found.append(needle)
    found += re.findall(r"\b[0-2](?:\.\d+){5,}", plain)
    return found


def texts_of(path: Path) -> Iterator[str]:
    """Every text of one published file, decoded with the libraries that users have."""
    yield path.name
    if path.suffix == ".parquet":
        table = pq.read_table(path)
        yield str(pq.read_metadata(path).metadata)
        yield table.schema.to_string(show_schema_metadata=True, truncate_metadata=False)
        for row in table.to_pylist():
            for name, value in row.items():
                if isinstance(value, dict) and isinstance(value.get("bytes"), bytes):
                    data = value.pop("bytes")
                    data = gzip.decompress(data) if data[:2] == b"\x1f\x8b" else data
                    # A NIfTI's header; a PNG's text chunks.
                    yield data[:352].decode("latin-1") if data[:4] != b"\x89PNG" else png_text(data)
                yield f"{name}: {value}"
    elif path.suffix == ".png":
        yield png_text(path.read_bytes())
    else:
        yield path.read_text(encoding="utf-8")


def png_text(data: bytes) -> str:
    """What a PNG holds beside its pixels, which end in compressed bytes that may spell anything."""
    with Image.open(io.BytesIO(data)) as picture:
        picture.load()
        chunks = re.findall(rb"(?:tEXt|zTXt|iTXt|eXIf|tIME)", data)
        return f"{picture.info} {chunks} {data[data.rindex(b'IEND') :].decode('latin-1')}"


def published(out: Path) -> Iterator[Path]:
    return (path for path in out.rglob("*") if path.is_file() and out / "private" not in path.parents)


def rows(cohort: Cohort, folder: str) -> list[dict[str, Any]]:
    return [
        row
        for path in (cohort.dataset_path / "data" / folder).glob("*.parquet")
        for row in pq.read_table(path).to_pylist()
    ]


def private(cohort: Cohort, name: str) -> list[dict[str, Any]]:
    return [json.loads(text) for text in (cohort.path / "private" / name).read_text(encoding="utf-8").splitlines()]


# ---- what leaves ---------------------------------------------------------------------------------------------------


def test_the_hospital_is_built_and_not_only_skipped(cohort: Cohort) -> None:
    assert len(rows(cohort, "reports")) == 7
    assert len(cohort) == 5
    assert all("14 mm nodule in the right upper lobe" in row["phrase"] for row in rows(cohort, "findings"))


def test_no_published_file_says_who(hospital: Path) -> None:
    searched = list(published(hospital / "out"))
    assert {path.suffix for path in searched} >= {".parquet", ".png", ".json", ".jsonl", ".md", ".txt", ".sha256"}
    leaks = {f"{path.name}: {who}" for path in searched for text in texts_of(path) for who in said(text)}
    assert leaks == set()


def test_the_search_would_find_them(hospital: Path) -> None:
    everything = "\n".join(path.read_text(encoding="utf-8") for path in (hospital / "out" / "private").glob("*.jsonl"))
    assert {"quorvash", "7712345", STUDY_UID} <= set(said(everything))
    table = (hospital / "Quorvash reports.csv").read_text(encoding="utf-8")
    assert set(map(folded, NAMES)) - set(said(table)) <= {
        "haus^greta",
        "befund",
        "brunnschweiszler",
        "mirandolf",
        "やまおに",
    }


@pytest.mark.parametrize("more", [(), ("-q",)])
def test_nothing_printed_says_who(hospital: Path, more: tuple[str, ...]) -> None:
    done = run(hospital, *more)
    assert done.returncode == 0
    for text in (done.stdout, done.stderr, (hospital / "printed.txt").read_text(encoding="utf-8")):
        assert said(text.replace(str(hospital), "")) == []


def test_the_audit_agrees(cohort: Cohort) -> None:
    assert cohort.audit() == []


def test_acquisition_keeps_what_is_harmless(cohort: Cohort) -> None:
    volumes = rows(cohort, "volumes")
    facts = [{pair["name"]: pair["value"] for pair in row["acquisition"]} for row in volumes]
    nasty = [fact for fact in facts if "ConvolutionKernel" not in fact]
    assert nasty == [{"ContrastBolusAgent": "given", "KVP": "120", "SliceThickness": "2.5"}]
    plain = next(fact for fact in facts if fact not in nasty)
    assert plain["Manufacturer"], plain["ManufacturerModelName"] == ("Acme", "Scan 1")
    assert (plain["ConvolutionKernel"], plain["BodyPartExamined"], plain["PatientPosition"]) == (
        "STANDARD",
        "CHEST",
        "HFS",
    )


def test_language_is_a_code(cohort: Cohort) -> None:
    assert {row["language"] for row in rows(cohort, "reports")} == {"en", "und"}
    assert {row["language"] for row in rows(cohort, "findings")} == {"en", "und"}


def test_images_with_burned_in_text_are_not_published(cohort: Cohort) -> None:
    assert "burned_in_annotation" in {row["reason"] for row in cohort.skipped}
    crosswalk = {row["pseudonym"]: row["original"] for row in private(cohort, "crosswalk.jsonl")}
    patients = {
        crosswalk[row["patient_id"]] for name in ("findings", "unlinked", "volumes") for row in rows(cohort, name)
    }
    assert "44556671" not in patients
    assert {"7712345", "4455667"} <= patients


def test_every_id_is_a_pseudonym_of_the_crosswalk(cohort: Cohort) -> None:
    known = {row["pseudonym"] for row in private(cohort, "crosswalk.jsonl")}
    for name in ("findings", "reports"):
        for row in rows(cohort, name):
            assert {row["report_id"], row["patient_id"]} <= known
            assert re.fullmatch(r"report-[a-z2-7]{16}", row["report_id"])
    for row in cohort.skipped:
        assert re.fullmatch(r"item-[a-z2-7]{16}", row["item"])


# ---- order tells nothing -------------------------------------------------------------------------------------------


def test_order_does_not_tell_which_came_first(tmp_path: Path) -> None:
    patient = Patient("Quorvash^Ignatius", patient_id="7712345")
    studies = [StudyInfo(patient, accession_number=f"A{i:06d}", date=f"2021{i + 1:02d}11") for i in range(6)]
    for study in studies:
        write(ct_series(2, study=study), tmp_path / "pacs" / study.accession_number)
    reports = [Report(f"r{i}", "FINDINGS: Normal.", (study.accession_number,)) for i, study in enumerate(studies)]
    reports.append(Report("all", "FINDINGS: Normal.", tuple(study.accession_number for study in studies)))
    orders = []
    for name, table in (("a", reports), ("b", reports[::-1])):
        cohort = build_cohort(table, tmp_path / "pacs", out=tmp_path / name, key=tmp_path / "k", progress=False)
        orders.append([row["report_id"] for row in rows(cohort, "reports")])
        (several,) = (row["study_ids"] for row in rows(cohort, "reports") if len(row["study_ids"]) > 1)
        assert several == sorted(several)
    assert orders[0] == orders[1] == sorted(orders[0])


def test_skips_are_published_in_keyed_order(cohort: Cohort) -> None:
    keys = [(row["stage"], row["reason"], row["item"]) for row in cohort.skipped]
    assert len(keys) > 4
    assert keys == sorted(keys)


# ---- what stays ----------------------------------------------------------------------------------------------------


def test_private_files_are_for_their_owner_alone(hospital: Path) -> None:
    folder = hospital / "out" / "private"
    assert stat.S_IMODE(folder.stat().st_mode) == 0o700
    # Finished shards are the published files themselves (hard links).
    files = [path for path in folder.rglob("*") if path.is_file() and path.suffix != ".parquet"]
    assert len(files) > 6
    assert {path.name: oct(stat.S_IMODE(path.stat().st_mode) & 0o077) for path in files} == {
        path.name: "0o0" for path in files
    }


def test_the_key_is_written_nowhere(hospital: Path) -> None:
    secret = (hospital / "site.key").read_bytes()
    for path in (hospital / "out").rglob("*"):
        if path.is_file():
            content = path.read_bytes()
            assert secret not in content
            assert secret.hex().encode() not in content


def test_a_key_inside_the_output_is_refused(tmp_path: Path) -> None:
    out = tmp_path / "out"
    out.mkdir()
    with pytest.raises(ConfigError, match="inside the folder"):
        build_cohort([], tmp_path, out=out, key=out / "site.key", progress=False)
    with pytest.raises(ConfigError, match="inside the folder"):
        load_key(tmp_path / "out" / ".." / "out" / "site.key", outside=tmp_path / "out")
    assert list(out.iterdir()) == []


# ---- when something goes wrong -------------------------------------------------------------------------------------


def test_an_unforeseen_error_is_told_in_private_only(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    def broken(*_: object, **__: object) -> None:
        raise OSError(5, "Input/output error", "/pacs/Quorvash^Ignatius/IM1")

    monkeypatch.setattr(build, "index_export", broken)
    reports = tmp_path / "reports.csv"
    reports.write_text("report_id,text\n1,Normal.\n")
    assert main(["build", str(reports), str(tmp_path), "-o", str(tmp_path / "out"), "--key", str(tmp_path / "k")]) == 1
    printed = "".join(capsys.readouterr())
    logged = (tmp_path / "out" / "log.txt").read_text() + (tmp_path / "out" / "run.json").read_text()
    assert "OSError" in printed
    assert "failed: OSError" in logged
    assert said(printed + logged) == []
    kept = tmp_path / "out" / "private" / "error.txt"
    assert "/pacs/Quorvash^Ignatius/IM1" in kept.read_text()
    assert stat.S_IMODE(kept.stat().st_mode) == 0o600


@pytest.mark.parametrize(
    ("name", "content"),
    [
        ("Quorvash.csv", "7712345,Ignatius Quorvash has a nodule,ACC0098876\n"),  # no header
        ("Quorvash.csv", "report_id,Ignatius Quorvash 7712345\n1,x\n"),
        ("Quorvash.xlsx", ""),
        ("Quorvash.jsonl", '{"Ignatius Quorvash": 1}\n'),
        ("Quorvash.csv", b"report_id,text\n1,Gr\xfc\xdfe, Quorvash\n"),
    ],
)
def test_a_table_that_is_refused_is_not_quoted(
    name: str, content: str | bytes, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    write(ct_series(2), tmp_path / "pacs")
    (tmp_path / name).write_bytes(content if isinstance(content, bytes) else content.encode())
    arguments = ["build", str(tmp_path / name), str(tmp_path / "pacs"), "-o", str(tmp_path / "out")]
    assert main([*arguments, "--key", str(tmp_path / "k")]) == 1
    printed = "".join(capsys.readouterr())
    assert "cohort: " in printed
    assert said(printed + (tmp_path / "out" / "log.txt").read_text()) == []


class Spy:
    """An extractor that publishes whatever it gets to see, and complains loudly about some of it."""

    name = "spy@1"

    def __init__(self) -> None:
        self.seen: list[Report] = []

    def extract(self, reports: list[Report]) -> list[list[Finding]]:
        self.seen += reports
        if "Normal" in reports[0].text:
            raise RuntimeError(f"cannot read {reports[0]}")
        return [list(found) for found in load_extractor("rules").extract(reports)]


def test_an_extractor_sees_no_key_and_its_errors_are_private(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    caplog.set_level(logging.DEBUG)
    reports = []
    for i, text in enumerate(("Normal for Ignatius.", "A 14 mm nodule. Ignatius.")):
        study = StudyInfo(Patient(f"Quorvash{i}^Ignatius", f"7712345{i}"), accession_number=f"ACC009887{i}")
        write(ct_series(2, study=study), tmp_path / "pacs" / str(i))
        reports.append(Report(f"rep{i}", text, (study.accession_number,), (study.study_instance_uid,), f"7712345{i}"))
    spy = Spy()
    config = BuildConfig(max_skip_fraction=1.0)
    cohort = build_cohort(
        reports,
        tmp_path / "pacs",
        out=tmp_path / "out",
        extractor=spy,
        config=config,
        key=tmp_path / "k",
        progress=False,
    )
    assert len(spy.seen) == 2
    for report in spy.seen:
        assert said(f"{report.text} {report.accession_numbers} {report.study_instance_uids} {report.patient_id}") == []
        assert report.study_date is None
    assert said(caplog.text + (tmp_path / "out" / "log.txt").read_text()) == []
    assert [who for path in published(cohort.path) for text in texts_of(path) for who in said(text)] == []


def test_uids_of_the_tests_are_searchable() -> None:
    assert said(f"x {uid('study')} y") != []
