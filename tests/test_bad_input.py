"""The whole job on broken input: what is wrong is named and costs itself, everything else is built, nobody is named."""

from __future__ import annotations

import csv
import json
import logging
import os
import shutil
from collections import Counter
from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path

import numpy as np
import pyarrow.parquet as pq
import pytest
from dicom import (
    Item,
    Patient,
    StudyInfo,
    Text,
    ct_series,
    gsps,
    line,
    localizer,
    on,
    uid,
    write,
)
from pydicom.dataset import Dataset
from pydicom.encaps import encapsulate

from cohort_builder import BuildConfig, Cohort, CohortError, ConfigError, TooManySkips, build_cohort, open_cohort
from cohort_builder.audit import find_leaks
from cohort_builder.cli import main
from cohort_builder.errors import PacsError, SetupError
from exports.types import ExportError
from nlp import load_extractor
from nlp.types import Finding, Report, ReportError
from segmentation import load_segmenter
from segmentation.types import Line, Mask, SegmentationFailure, SegmentationJob

START, END = (26.5, 32.5), (37.5, 32.5)
"""Ends of a line of 11 pixels, 7.7 mm, through the bright blob on slice ``SLICE``."""
SLICE = 4
SAYS = "FINDINGS:\nThere is an 8 mm nodule in the lung (series 2, image 5). Seen with {name}.\n"
COLUMNS = ("report_id", "text", "accession_number", "patient_id", "study_date")


@dataclass
class Hospital:
    """An export and a reports table in the making, and every identifier that went into them."""

    root: Path
    rows: list[dict[str, str]] = field(default_factory=list)
    studies: dict[str, StudyInfo] = field(default_factory=dict)
    needles: set[str] = field(default_factory=lambda: {"Befund^Berta", "Haus^Greta"})

    @property
    def export(self) -> Path:
        return self.root / "pacs_export"

    @property
    def reports(self) -> Path:
        return self.root / "reports.csv"

    def study(self, case: str, number: int = 0, **patient: str) -> StudyInfo:
        """A study of a patient of its own, named after the case."""
        i = len(self.studies) + 1
        name = f"Quorrax{case.title().replace('_', '')}^Zephyrine"
        who = replace(Patient(name=name, patient_id=f"77{i:04d}9", birth_date="19511213"), **patient)
        study = StudyInfo(who, accession_number=f"ACX{i:05d}", date="20230417")
        self.studies[case] = study
        self.know(study)
        return study

    def know(self, study: StudyInfo) -> None:
        patient = study.patient
        self.needles |= {patient.name, patient.patient_id, study.accession_number, study.study_instance_uid, study.date}
        self.needles -= {""}

    def put(self, case: str, datasets: Iterable[Dataset], folder: str = "ct") -> list[Path]:
        return write(datasets, self.export / case / folder)

    def report(self, case: str, *, text: str | None = None, report_id: str | None = None, **columns: str) -> None:
        study = self.studies.get(case)
        name = study.patient.name.partition("^")[0] if study else "Nemo"
        row = {"report_id": report_id or f"BEF-{case}-00017", "text": text or SAYS.format(name=name)}
        row |= {"accession_number": study.accession_number} if study else {}
        self.rows.append(row | columns)
        self.needles.add(self.rows[-1]["report_id"])

    def write_reports(self) -> None:
        with self.reports.open("w", encoding="utf-8", newline="") as stream:
            writer = csv.DictWriter(stream, COLUMNS)
            writer.writeheader()
            writer.writerows(self.rows)

    def patient(self, case: str, **options: object) -> list[Dataset]:
        """A patient with whom nothing is wrong: one CT series, one line on a blob, one report."""
        study = self.study(case)
        ct = chest(study, **options)
        self.put(case, ct)
        self.put(case, [gsps([drawn(ct[SLICE])])], "pr")
        self.report(case)
        return ct


def chest(study: StudyInfo, n: int = 10, **options: object) -> list[Dataset]:
    """A CT series of air-filled lung with a bright blob around the line."""
    return ct_series(n, study=study, voxels=blob(n), **options)


def blob(n: int, at: int = SLICE) -> np.ndarray:
    s, r, c = np.meshgrid(np.arange(n), np.arange(64), np.arange(64), indexing="ij")
    inside = ((s - at) * 2.5 / 4) ** 2 + ((r - 32) * 0.8 / 4.2) ** 2 + ((c - 32) * 0.7 / 4.2) ** 2 <= 1
    noise = np.random.default_rng(0).normal(0, 15, inside.shape)
    return np.where(inside, 40.0, -800.0) + noise


def drawn(image: Dataset, *, said: str | None = None, start: tuple = START, end: tuple = END) -> Item:
    texts = () if said is None else (Text(said, anchor=(end[0] + 1, end[1] + 1)),)
    return on(image, line(start, end), *texts)


def truncate(path: Path, share: float = 0.6) -> None:
    path.write_bytes(path.read_bytes()[: int(path.stat().st_size * share)])


def build(hospital: Hospital, out: Path, **options: object) -> Cohort:
    config = {"pictures": 0} | {name: options.pop(name) for name in list(options) if name in BuildConfig.__slots__}
    return build_cohort(
        options.pop("reports", hospital.reports),
        options.pop("export", hospital.export),
        out=out,
        config=BuildConfig(**config),
        key=hospital.root / "site.key",
        progress=False,
        **options,
    )


def lines(path: Path) -> list[dict]:
    return [json.loads(line) for line in path.read_text(encoding="utf-8").splitlines()]


def table(cohort: Cohort, folder: str) -> list[dict]:
    files = sorted((cohort.dataset_path / "data" / folder).glob("*.parquet"))
    return [row for path in files for row in pq.read_table(path).to_pylist()]


def lesion_rows(cohort: Cohort) -> list[dict]:
    return table(cohort, "findings") + table(cohort, "unlinked")


def assert_nothing_is_lost(cohort: Cohort) -> None:
    """Every lesion is a row or has a skip of its own."""
    pseudonyms = {row["lesion_id"] for row in lesion_rows(cohort)}
    lost = [row for row in lines(cohort.path / "private" / "skips.jsonl") if row["reason"] in LESION_REASONS]
    assert cohort.run["counts"].get("lesions", 0) == len(pseudonyms) + len(lost)


def assert_nobody_is_named(hospital: Hospital, out: Path, *messages: str) -> None:
    assert find_leaks(out, {*hospital.needles, str(hospital.root), str(out)}) == []
    for message in messages:
        assert str(hospital.root) not in message
        assert str(out) not in message
        assert not any(needle in message for needle in hospital.needles)


LESION_REASONS = {
    "no_regular_stack", "volume_unreadable", "unsupported_prompt", "bad_prompt", "numerical", "no_answer", "engine_failed",
    "invalid_mask", "mask_not_believable",
}  # fmt: skip


# ---- one hospital in which one thing is wrong with each patient -------------------------------------------------------


def _breaks(hospital: Hospital) -> None:
    """Every case of the table in ``EXPECTED``."""
    hospital.patient("good")
    _broken_reports(hospital)
    _broken_files(hospital)
    _broken_series(hospital)
    _broken_drawings(hospital)
    hospital.write_reports()


def _broken_reports(hospital: Hospital) -> None:
    hospital.patient("no_report")
    hospital.rows.pop()
    hospital.report("nobody", accession_number="ACX99999")
    hospital.report("no_key")
    ct = hospital.patient("two_reports")
    hospital.report("two_reports", report_id="BEF-addendum-00018", text="IMPRESSION: 8 mm nodule, series 2, image 5.")
    first, second = hospital.study("two_studies"), replace(hospital.study("half"), date="20230417")
    second = replace(second, patient=first.patient)
    hospital.know(second)
    for number, study in ((2, first), (3, second)):
        ct = chest(study, number=number)
        hospital.put(f"two_studies/{number}", [*ct, gsps([drawn(ct[SLICE])])])
    both = "FINDINGS:\nAn 8 mm nodule (series 2, image 5). Another nodule of 8 mm (series 3, image 5).\n"
    numbers = f"{first.accession_number};{second.accession_number}"
    hospital.report("two_studies", text=both, accession_number=numbers)
    for case, accession in (("zeros", "000731"), ("fewer_zeros", "0731")):
        study = replace(hospital.study(case), accession_number=accession)
        hospital.studies[case] = study
        ct = chest(study)
        hospital.put(case, [*ct, gsps([drawn(ct[SLICE])])])
        hospital.report(case)
        hospital.know(study)
    hospital.patient("anonymous")
    study = hospital.study("no_patient_id", patient_id="")
    ct = chest(study)
    hospital.put("no_patient_id", [*ct, gsps([drawn(ct[SLICE])])])
    hospital.report("no_patient_id")
    strange = "Bef\u2028und\u0085 Ωμέγα \U0001f3e5 " + "ä" * 500
    study = hospital.study("strange", name="Ğüneşoğlu^Şükrîye", patient_id="ÄÖ/Ü\u2028-00091")
    ct = chest(study)
    hospital.put("strange/Ğüneşoğlu \u2028 Şükrîye", [*ct, gsps([drawn(ct[SLICE])])])
    hospital.report("strange", report_id=strange)


def _broken_files(hospital: Hospital) -> None:
    study = hospital.study("ct_absent")
    hospital.put("ct_absent", [gsps([drawn(chest(study)[SLICE])])])
    hospital.report("ct_absent")
    hospital.patient("truncated_slice")
    truncate(sorted((hospital.export / "truncated_slice" / "ct").iterdir())[8])
    hospital.patient("truncated_drawing")
    truncate(hospital.export / "truncated_drawing" / "pr" / "IM0000")
    hospital.patient("cut_sequence")
    path = hospital.export / "cut_sequence" / "pr" / "IM0000"
    path.write_bytes(path.read_bytes()[:-40])
    hospital.patient("copies")
    shutil.copytree(hospital.export / "copies", hospital.export / "copies of copies")
    study = hospital.study("codec")
    ct = chest(study)
    pr = gsps([drawn(ct[SLICE])])
    for ds in ct:
        ds.file_meta.TransferSyntaxUID = "1.2.840.10008.1.2.4.100"  # MPEG2: nobody decodes it as a CT
        ds.PixelData = encapsulate([b"\0" * 100])
        ds["PixelData"].VR = "OB"
    hospital.put("codec", [*ct, pr])
    hospital.report("codec")
    (hospital.export / "codec" / "notes.txt").write_text("not DICOM")
    (hospital.export / os.fsdecode(b"Qu\xf6rrax")).write_bytes(b"\0" * 128 + b"DICM" + b"\xff" * 100)
    hospital.needles.add("Quörrax")


def _broken_series(hospital: Hospital) -> None:
    study = hospital.study("one_slice")
    ct = chest(study)
    hospital.put("one_slice", [ct[SLICE], gsps([drawn(ct[SLICE])])])
    hospital.report("one_slice")
    for case, gap in (("far_gap", 8), ("near_gap", SLICE + 1)):
        study = hospital.study(case)
        ct = chest(study, 12)
        hospital.put(case, [*(ds for i, ds in enumerate(ct) if i != gap), gsps([drawn(ct[SLICE])])])
        hospital.report(case)
    study = hospital.study("two_phases")
    phases = [chest(study, acquisition_number=number) for number in (1, 2)]
    hospital.put("two_phases", [*phases[0], *phases[1], gsps([drawn(phases[1][SLICE])])])
    hospital.report("two_phases")
    study = hospital.study("tilted")
    ct = chest(study, positions=[(-22.0, -25.0 + 0.6 * i, 40.0 + 2.5 * i) for i in range(10)])
    hospital.put("tilted", [*ct, gsps([drawn(ct[SLICE])])])
    hospital.report("tilted")
    study = hospital.study("on_localizer")
    ct, scout = chest(study), localizer(study)
    hospital.put("on_localizer", [*ct, scout, gsps([drawn(scout, start=(10, 10), end=(30, 20))])])
    hospital.report("on_localizer")


def _broken_drawings(hospital: Hospital) -> None:
    for case, options in {
        "outside": {"end": (90.0, 32.5)},
        "slightly_off": {"said": "9.2 mm"},
        "grossly_off": {"said": "25 mm"},
    }.items():
        study = hospital.study(case)
        ct = chest(study)
        hospital.put(case, [*ct, gsps([drawn(ct[SLICE], **options)])])
        hospital.report(case)
    study = hospital.study("nan")
    ct = chest(study)
    pr = gsps([drawn(ct[SLICE]), drawn(ct[SLICE], start=(5.0, 5.0), end=(15.0, 5.0))])
    pr.GraphicAnnotationSequence[1].GraphicObjectSequence[0].GraphicData = [5.0, float("nan"), 15.0, 5.0]
    hospital.put("nan", [*ct, pr])
    hospital.report("nan")
    one, other = hospital.study("mixed_up"), hospital.study("mixed_up_too")
    cts = [chest(study) for study in (one, other)]
    hospital.put("mixed_up", [*cts[0], gsps([drawn(cts[0][SLICE]), drawn(cts[0][1]), drawn(cts[1][SLICE])])])
    hospital.put("mixed_up_too", cts[1])
    hospital.report("mixed_up")
    hospital.report("mixed_up_too")
