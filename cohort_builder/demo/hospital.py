"""``generate_hospital``: a PACS export and reports like a real hospital's, and the truth beside them."""

from __future__ import annotations

import csv
import json
import os
from collections.abc import Callable, Iterator, Mapping, Sequence
from concurrent.futures import ProcessPoolExecutor
from dataclasses import asdict, dataclass, replace
from functools import partial
from multiprocessing import get_context
from pathlib import Path

import numpy as np
from pydicom.dataset import Dataset

from cohort_builder.demo import dicom
from cohort_builder.demo.people import institution_of
from cohort_builder.demo.plan import SLICES, Drawing, ExamPlan, LesionPlan, PatientPlan, Scenario, plan_patient
from cohort_builder.demo.reports import WrittenReport, write_report
from cohort_builder.demo.sights import Sight, compared
from cohort_builder.demo.simulate import imagine_sights
from cohort_builder.demo.states import SavedState, Stroke, draw, saved_states
from cohort_builder.demo.truth import Truth, add_exam, add_report, joined, needles_of
from cohort_builder.errors import ConfigError
from cohort_builder.executors import die_with_parent
from segmentation.phantoms import Phantom, PhantomError, PhantomLesion, body_phantom

EXPORT, REPORTS, TRUTH = "pacs_export", "reports.csv", "truth"
_COLUMNS = (
    "report_id",
    "accession_number",
    "patient_id",
    "patient_name",
    "birth_date",
    "study_date",
    "referring_physician",
    "status",
    "text",
)
_NOISE_HU = 14.0


@dataclass(frozen=True, slots=True)
class Hospital:
    """Where the parts of a generated hospital are; ``truth`` is for scoring only."""

    root: Path
    pacs_export: Path
    reports_csv: Path
    truth: Path


@dataclass(frozen=True, slots=True)
class _Made:
    """What making one patient leaves besides files."""

    rows: tuple[Mapping[str, str], ...]
    truth: Truth


def generate_hospital(
    directory: str | Path,
    *,
    patients: int = 12,
    seed: int = 0,
    progress: Callable[[int], None] | None = None,
    workers: int = 2,
    slices: tuple[int, int] = SLICES,
) -> Hospital:
    """Write ``pacs_export/``, ``reports.csv`` and ``truth/`` into ``directory``.

    Same arguments, same bytes, whatever ``workers`` is.

    Parameters
    ----------
    patients
        Besides these, one report is on a patient whose study is not in the export.
    progress
        Called with the number of patients made since the last call.
    workers
        Processes; 1 works in this one.
    slices
        Fewest and most slices of a CT series.

    Raises
    ------
    ConfigError
        ``patients`` or ``slices`` are out of range, or ``directory`` holds a hospital already.

    """
    root = Path(directory)
    _require(root, patients, slices)
    hospital = Hospital(root, root / EXPORT, root / REPORTS, root / TRUTH)
    (hospital.truth / "masks").mkdir(parents=True)
    hospital.pacs_export.mkdir(parents=True)
    _write_strays(hospital.pacs_export, seed)
    made = []
    for done in _made_patients(partial(_make_patient, hospital, seed, slices), patients, workers):
        made.append(done)
        if progress is not None:
            progress(1)
    made.append(_without_study(seed, patients, slices))
    with hospital.reports_csv.open("w", newline="", encoding="utf-8") as stream:
        table = csv.DictWriter(stream, _COLUMNS, lineterminator="\n")
        table.writeheader()
        table.writerows(row for done in made for row in done.rows)
    truth = joined(done.truth for done in made)
    (hospital.truth / "truth.json").write_text(
        json.dumps(asdict(truth), indent=1, ensure_ascii=False) + "\n", encoding="utf-8"
    )
    return hospital


def _require(root: Path, patients: int, slices: tuple[int, int]) -> None:
    if patients < 1:
        raise ConfigError(f"patients must be at least 1, got {patients}")
    if not 20 <= slices[0] <= slices[1] <= 80:
        raise ConfigError(f"slices must be two numbers from 20 to 80, the smaller first, got {slices}")
    if any((root / name).exists() for name in (EXPORT, REPORTS, TRUTH)):
        raise ConfigError("the directory holds a generated hospital already; give an empty or new one")


def _made_patients(make: Callable[[int], _Made], patients: int, workers: int) -> Iterator[_Made]:
    """Make them one after another, in order, or several at a time."""
    if min(workers, patients) <= 1:
        yield from map(make, range(patients))
        return
    with ProcessPoolExecutor(
        min(workers, patients),
        mp_context=get_context("spawn"),
        initializer=die_with_parent,
        initargs=(os.getpid(),),
    ) as pool:
        yield from pool.map(make, range(patients))


# ---- one patient ---------------------------------------------------------------------------------------------------


def _make_patient(hospital: Hospital, seed: int, slices: tuple[int, int], index: int) -> _Made:
    plan = plan_patient(seed, index, slices=slices)
    truth = Truth()
    sights: dict[str, dict[str, Sight]] = {}
    exams: dict[str, ExamPlan] = {}
    for exam in (*plan.exams, *([plan.prior] if plan.prior else [])):
        phantom, exams[exam.key] = _phantom(plan, exam)
        sights[exam.key] = _make_exam(hospital, plan, exams[exam.key], phantom, truth)
    plan = replace(
        plan,
        exams=tuple(exams[exam.key] for exam in plan.exams),
        prior=None if plan.prior is None else exams[plan.prior.key],
    )
    reports = _reports(plan, sights)
    for report in reports:
        add_report(truth, report)
    truth.needles.extend(needles_of(plan, reports))
    return _Made(tuple(_row(plan, report) for report in reports), truth)


def _phantom(plan: PatientPlan, exam: ExamPlan) -> tuple[Phantom, ExamPlan]:
    """Draw the body; a lesion that finds no room in this scan is left out of the exam.

    The last ones go first: the place of a lesion in the list decides its shape.
    """
    for n in range(len(exam.lesions), 0, -1):
        try:
            phantom = body_phantom(
                np.random.default_rng(exam.body_seed),
                [lesion.spec for lesion in exam.lesions[:n]],
                region=exam.region,
                n_slices=exam.n_slices,
                spacing_mm=exam.spacing_mm,
                padding_value=dicom.PADDING_HU if dicom.SCANNERS[exam.scanner].is_signed else None,
                noise_hu=_NOISE_HU,
                series_instance_uid=dicom.series_uid(plan, exam),
                frame_of_reference_uid=dicom.frame_uid(plan, exam),
                sop_instance_uids=dicom.image_uids(plan, exam),
            )
        except PhantomError:
            continue
        return phantom, replace(exam, lesions=exam.lesions[:n])
    raise PhantomError(f"no lesion of a generated {exam.region} CT of {exam.n_slices} slices finds room")


def _make_exam(
    hospital: Hospital, plan: PatientPlan, exam: ExamPlan, phantom: Phantom, truth: Truth
) -> dict[str, Sight]:
    """Write one study and its truth; return what is seen of it."""
    images = dicom.ct_images(plan, exam, phantom.volume)
    drawn = {
        lesion.key: _drawn_on(plan, exam, lesion, found)
        for lesion, found in zip(exam.lesions, phantom.lesions, strict=True)
    }
    states = _states(plan, exam, images, drawn)
    scout = dicom.localizer(plan, exam, phantom.volume)
    paths = [hospital.pacs_export / name for name in file_names(plan, exam, len(images) + 1 + len(states))]
    for path in paths:
        path.parent.mkdir(parents=True, exist_ok=True)
    for image, path, hounsfield in zip(images, paths, phantom.volume.voxels, strict=False):
        dicom.set_pixels(image, hounsfield)
        image.save_as(path, enforce_file_format=True)
        del image.PixelData
    others = [scout, *(state.dataset for state in states)]
    for ds, path in zip(others, paths[len(images) :], strict=True):
        ds.save_as(path, enforce_file_format=True)
    add_exam(truth, hospital.truth, plan, exam, phantom=phantom, states=states)
    truth.needles.extend(str(ds.SOPInstanceUID) for ds in (*images, *others))
    truth.needles.extend({str(ds.SeriesInstanceUID) for ds in others})
    return {
        lesion.key: _sight(exam, lesion, found.location, drawn[lesion.key])
        for lesion, found in zip(exam.lesions, phantom.lesions, strict=True)
    }


@dataclass(frozen=True, slots=True)
class _Drawn:
    """What was saved on a lesion, by reader, and the measurement that the report states."""

    saved: tuple[Stroke, ...]
    dictated: Stroke


def _drawn_on(plan: PatientPlan, exam: ExamPlan, lesion: LesionPlan, found: PhantomLesion) -> _Drawn:
    n_readers = 0 if lesion.drawing is Drawing.NONE else 2 if lesion.second_reader else 1
    saved = tuple(
        draw(found, lesion.key, lesion.drawing, exam.spacing_mm, plan.rng("stroke", lesion.key, reader))
        for reader in range(n_readers)
    )
    rng = plan.rng("dictated", lesion.key)
    if lesion.drawing.is_measured:
        return _Drawn(saved, saved[int(rng.integers(n_readers))])
    return _Drawn(saved, draw(found, lesion.key, Drawing.NONE, exam.spacing_mm, rng))


def _sight(exam: ExamPlan, lesion: LesionPlan, location: str, drawn: _Drawn) -> Sight:
    """The report points at the image with the drawing on it."""
    shown = drawn.saved[0] if lesion.drawing is Drawing.ARROW else drawn.dictated
    image = dicom.instance_number(exam, shown.slice_index)
    return Sight(lesion, location, drawn.dictated.diameters_mm, exam.series_number, image)


def _states(
    plan: PatientPlan, exam: ExamPlan, images: Sequence[Dataset], drawn: Mapping[str, _Drawn]
) -> list[SavedState]:
    first = [strokes.saved[0] for strokes in drawn.values() if strokes.saved]
    second = [strokes.saved[1] for strokes in drawn.values() if len(strokes.saved) > 1]
    first.append(_useless(plan, exam, images))
    states = saved_states(plan, exam, images, first, reader=0)
    if plan.index % 3 == 0:
        states += saved_states(plan, exam, images, first, reader=0, again=True)
    return states + (saved_states(plan, exam, images, second, reader=1) if second else [])


def _useless(plan: PatientPlan, exam: ExamPlan, images: Sequence[Dataset]) -> Stroke:
    """Draw what nothing can be segmented from: a text, a region of interest, a line on an image not in the export."""
    middle = len(images) // 2
    kind = (plan.index + plan.seed) % 3
    if kind == 0:
        return Stroke(None, Drawing.NONE, middle, (), (), label="see report")
    if kind == 1:
        roi = ((240.5, 260.5), (270.5, 260.5), (255.5, 250.5), (255.5, 270.5))
        return Stroke(None, Drawing.ELLIPSE, middle, roi, (), label="Mean 58 HU")
    line = ((200.25, 301.5), (221.75, 310.25))
    length = 23.3 * exam.spacing_mm[1]
    return Stroke(None, Drawing.LINE, middle, line, (length,), on_absent_image=True)


# ---- reports -------------------------------------------------------------------------------------------------------


def _reports(plan: PatientPlan, sights: Mapping[str, Mapping[str, Sight]]) -> list[WrittenReport]:
    """Reports of the table on this patient."""
    reports = []
    if plan.has_report:
        today = {key: sight for exam in plan.exams for key, sight in sights[exam.key].items()}
        before = sights[plan.prior.key] if plan.prior is not None else None
        seen, day = compared(plan, today, before)
        reports.append(write_report(plan, plan.exams, seen, prior_day=day))
    if plan.prior is not None and plan.prior_has_report:
        reports.append(write_report(plan, [plan.prior], sights[plan.prior.key]))
    return reports


def _without_study(seed: int, index: int, slices: tuple[int, int]) -> _Made:
    """Make a report on a patient who has nothing in the export."""
    plan = replace(plan_patient(seed, index, slices=slices), scenario=Scenario.SINGLE, prior=None)
    plan = replace(plan, exams=plan.exams[:1])
    report = write_report(plan, plan.exams, imagine_sights(plan, plan.exams[0]))
    truth = Truth(needles=needles_of(plan, [report]))
    add_report(truth, report, in_export=False)
    return _Made((_row(plan, report),), truth)


def _row(plan: PatientPlan, report: WrittenReport) -> dict[str, str]:
    return {
        "report_id": report.report_id,
        "accession_number": ";".join(exam.accession_number for exam in report.exams),
        "patient_id": plan.person.patient_id,
        "patient_name": plan.person.table_name,
        "birth_date": plan.person.birth_date.isoformat(),
        "study_date": report.exams[0].day.isoformat(),
        "referring_physician": plan.referrer.spoken,
        "status": "final",
        "text": report.text,
    }


# ---- files ---------------------------------------------------------------------------------------------------------


def file_names(plan: PatientPlan, exam: ExamPlan, n: int) -> list[str]:
    """Names as four kinds of exporting stations give them, below the export, in an order that says nothing."""
    rng = plan.rng("files", exam.key)
    order = [int(i) for i in rng.permutation(n)]
    study = int(exam.key[-1])
    style = plan.index % 4
    if style == 0:
        return [f"DICOM/PA{plan.index:06d}/ST{study:06d}/SE{i % 3:06d}/IM{i + 117:06d}" for i in order]
    if style == 1:
        family = "".join(c for c in plan.person.family.upper() if c.isascii() and c.isalpha())
        return [f"{plan.person.patient_id}_{family}/{exam.day:%Y%m%d}/{i * 2654435761 % 2**32:08X}" for i in order]
    if style == 2:
        return [f"IMAGES/{plan.index:04d}{study}/{dicom.uid(plan, exam.key, 'file', i)}.dcm" for i in order]
    return [f"{plan.index:04d}/{study:04d}/{i // 20:04d}/I{i % 20 * 10}" for i in order]


def _write_strays(export: Path, seed: int) -> None:
    """Write what else lies in an export: nothing of it is DICOM."""
    (export / "DICOM").mkdir()
    (export / "README.TXT").write_text(
        f"{institution_of(seed)}, Department of Radiology\r\nExport for research. Not for clinical use.\r\n",
        encoding="utf-8",
        newline="",
    )
    (export / ".DS_Store").write_bytes(b"\0\0\0\1Bud1\0\0\x10\0" + bytes(200))
    (export / "DICOM" / "VERSION").write_text("2.1\n")
    (export / "DICOM" / "preview.jpg").write_bytes(b"\xff\xd8\xff\xe0\0\x10JFIF\0" + bytes(64) + b"\xff\xd9")
