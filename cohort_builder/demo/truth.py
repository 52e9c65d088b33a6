"""The truth of a generated hospital, for scoring: masks, strokes, what is said of what, and everything identifying.

``truth.json`` holds one ``Truth``; masks lie beside it. The pipeline never reads either.
"""

from __future__ import annotations

import json
from collections.abc import Iterable, Sequence
from dataclasses import asdict, dataclass, field
from datetime import date
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from cohort_builder.demo import dicom
from cohort_builder.demo.people import institution_of
from cohort_builder.demo.plan import ExamPlan, PatientPlan
from cohort_builder.demo.reports import WrittenReport
from cohort_builder.demo.states import SavedState
from segmentation.phantoms import Phantom

Entry = dict[str, Any]


@dataclass(slots=True)
class Truth:
    """What is true of a hospital.

    Parameters
    ----------
    studies
        ``key, patient_id, study_instance_uid, series_instance_uid, accession_number, prior``.
    lesions
        ``key`` (one for each lesion in each study), ``number`` (the same in all studies of a patient), the UIDs of its
        study and series, ``organ, kind, location, longest_diameter_mm, centre_lps_mm``, ``mask`` (a file below the
        truth's folder: ``voxels`` (slice, row, column) boolean and ``offset`` in the volume, slice 0 at the feet), and
        ``annotations``.
    others
        Annotations on no lesion. An annotation has ``sop_instance_uid`` (of the presentation state), ``item``
        (``Source.item``), ``image_sop_instance_uid, drawing, points`` ((column, row), corner origin), ``diameters_mm,
        usable, reader, resaved``.
    findings
        One for each lesion that a report speaks of: ``report_id, lesion, drawn`` (in a usable way, in a study of the
        report), ``in_export``, and ``mentions`` with ``sentence``, ``size``, ``prior`` (spans of the original text) and
        what they state in mm.
    reports
        ``report_id, style, studies``.
    needles
        Every name, id, date and UID.

    """

    studies: list[Entry] = field(default_factory=list)
    lesions: list[Entry] = field(default_factory=list)
    others: list[Entry] = field(default_factory=list)
    findings: list[Entry] = field(default_factory=list)
    reports: list[Entry] = field(default_factory=list)
    needles: list[str] = field(default_factory=list)


def joined(parts: Iterable[Truth]) -> Truth:
    """Put the truths of several patients together."""
    whole = Truth()
    for part in parts:
        for name, entries in asdict(part).items():
            getattr(whole, name).extend(entries)
    whole.needles = sorted(set(whole.needles))
    return whole


def load_truth(folder: str | Path) -> Truth:
    """Read ``truth.json`` of a hospital's truth folder."""
    return Truth(**json.loads((Path(folder) / "truth.json").read_text(encoding="utf-8")))


def load_mask(folder: str | Path, lesion: Entry) -> tuple[NDArray[np.bool_], tuple[int, int, int]]:
    """Mask of a lesion, (slice, row, column), and the place of its first voxel in the volume."""
    with np.load(Path(folder) / lesion["mask"], allow_pickle=False) as stored:
        voxels: NDArray[np.bool_] = stored["voxels"]
        offset = [int(value) for value in stored["offset"]]
    return voxels, (offset[0], offset[1], offset[2])


def add_exam(
    truth: Truth, folder: Path, plan: PatientPlan, exam: ExamPlan, *, phantom: Phantom, states: Sequence[SavedState]
) -> None:
    """Write the masks of one study, and add its lesions and what was drawn on them."""
    uids = {
        "patient_id": plan.person.patient_id,
        "study_instance_uid": dicom.study_uid(plan, exam),
        "series_instance_uid": dicom.series_uid(plan, exam),
    }
    truth.studies.append({"key": exam.key, **uids, "accession_number": exam.accession_number, "prior": exam.is_prior})
    annotations = [entry for state in states for entry in _annotations(state)]
    truth.needles.extend(entry["image_sop_instance_uid"] for entry in annotations)
    truth.others += [entry for entry in annotations if entry["lesion"] is None]
    for lesion, drawn in zip(exam.lesions, phantom.lesions, strict=True):
        mask = f"masks/{lesion.key}.npz"
        np.savez_compressed(folder / mask, voxels=drawn.mask, offset=np.array(drawn.offset))
        truth.lesions.append(
            {
                "key": lesion.key,
                "number": f"{exam.key.split('.')[0]}.{lesion.number}",
                **uids,
                "organ": lesion.spec.organ.value,
                "kind": lesion.spec.kind.value,
                "location": drawn.location,
                "longest_diameter_mm": drawn.longest_diameter_mm,
                "centre_lps_mm": list(drawn.centre_lps_mm),
                "mask": mask,
                "annotations": [entry for entry in annotations if entry["lesion"] == lesion.key],
            }
        )


def _annotations(state: SavedState) -> list[Entry]:
    entries = []
    items = zip(state.strokes, state.dataset.GraphicAnnotationSequence, strict=True)
    for number, (stroke, item) in enumerate(items, start=1):
        entries.append(
            {
                "lesion": stroke.lesion_key,
                "sop_instance_uid": str(state.dataset.SOPInstanceUID),
                "item": f"{number}.1",
                "image_sop_instance_uid": str(item.ReferencedImageSequence[0].ReferencedSOPInstanceUID),
                "drawing": stroke.drawing.value,
                "points": [list(point) for point in stroke.points],
                "diameters_mm": list(stroke.diameters_mm),
                "usable": stroke.is_usable,
                "reader": state.reader,
                "resaved": state.resaved,
            }
        )
    return entries


def add_report(truth: Truth, report: WrittenReport, *, in_export: bool = True) -> None:
    """Add what one report says."""
    studies = [exam.key for exam in report.exams]
    truth.reports.append({"report_id": report.report_id, "style": report.style.value, "studies": studies})
    drawing = {lesion.key: lesion.drawing for exam in report.exams for lesion in exam.lesions}
    findings: dict[str, Entry] = {}
    for said in report.said:
        entry = findings.setdefault(
            said.key,
            {
                "report_id": report.report_id,
                "lesion": said.key,
                "drawn": drawing[said.key].is_usable and in_export,
                "in_export": in_export,
                "mentions": [],
            },
        )
        mention = asdict(said)
        del mention["key"]
        entry["mentions"].append(mention)
    truth.findings += findings.values()


def needles_of(plan: PatientPlan, reports: Sequence[WrittenReport]) -> list[str]:
    """Every name, id, date and UID of a patient, but those of single images and saved states."""
    person = plan.person
    exams = (*plan.exams, *([plan.prior] if plan.prior is not None else []))
    names = [person.family, person.given, person.table_name, person.dicom_name]
    for doctor in (plan.referrer, *plan.readers):
        names += [doctor.family, doctor.given, doctor.spoken, doctor.dicom_name]
    needles = [*names, institution_of(plan.seed), person.patient_id, *_dates(person.birth_date)]
    needles += [scanner.station for scanner in dicom.SCANNERS]
    for exam in exams:
        needles += [exam.accession_number, dicom.study_id(exam), *_dates(exam.day)]
        needles += [dicom.study_uid(plan, exam), dicom.series_uid(plan, exam), dicom.frame_uid(plan, exam)]
    for report in reports:
        needles += [report.report_id, *(_dates(report.prior_day) if report.prior_day is not None else ())]
    return needles


def _dates(day: date) -> list[str]:
    return [day.isoformat(), f"{day:%Y%m%d}", f"{day:%d.%m.%Y}"]
