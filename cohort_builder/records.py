"""From private objects to published rows: every id becomes a pseudonym here, every coordinate RAS, every date nothing.

This is the only file that turns a UID into something that leaves the hospital.
"""

from __future__ import annotations

import json
import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING

import numpy as np

from cohort_builder.lesions.locating import disagreement_mm
from cohort_builder.linking.evidence import explain
from cohort_builder.privacy.scrub import scrub_text
from cohort_builder.privacy.scrub_names import is_ordinary, names_nobody
from cohort_builder.scope.languages import language_code
from cohort_builder.targets.carrying import slice_key
from cohort_builder.types import Decision, Link, LocatedAnnotation
from exports.roi import choose_roi
from exports.types import (
    AnnotationRecord,
    EngineRecord,
    FindingRecord,
    LinkRecord,
    MeasurementRecord,
    PhraseRecord,
    QualityRecord,
    ReportPhraseRecord,
    ReportRecord,
    VolumeRecord,
)
from nlp.sections import split_sections
from nlp.types import Assertion, Axis, Finding, Report, SizeKind, Temporality
from segmentation.geometry import apply_affine, crop_affine, lps_to_ras, nifti_affine
from segmentation.metrics import long_and_short_diameter
from segmentation.types import Mask, Volume

if TYPE_CHECKING:
    from cohort_builder.config import BuildConfig
    from cohort_builder.ct.series import Stack
    from cohort_builder.jobs import Target
    from cohort_builder.pacs.headers import Instance
    from cohort_builder.patient import ReadReport
    from cohort_builder.privacy.pseudonyms import Pseudonyms
    from segmentation.checks import Quality


@dataclass(frozen=True, slots=True)
class Said:
    """The said half of a row: a LINKED finding of one report."""

    report: ReadReport
    finding: Finding
    link: Link


@dataclass(frozen=True, slots=True, eq=False)
class SegmentedLesion:
    """The drawn half of a row: an accepted mask with all it was made from."""

    patient_key: str
    target: Target
    stack: Stack
    volume: Volume
    mask: Mask
    quality: Quality
    kernels: tuple[str | None, ...] = ()
    """Where it was carried here: Convolution Kernel of the drawn series and of this one, unless it names somebody."""


@dataclass(frozen=True, slots=True)
class VolumePlace:
    """Where the whole volume of a row is published; None where it is not."""

    shard: str | None = None
    row_group: int | None = None


class RecordMaker:
    """Makes the published rows of one patient; holds the key through ``pseudonyms`` and nothing of the patient's."""

    def __init__(self, pseudonyms: Pseudonyms, config: BuildConfig, software: str) -> None:
        self.pseudonyms, self.config, self.software = pseudonyms, config, software

    def finding(self, lesion: SegmentedLesion, said: Said | None, place: VolumePlace) -> FindingRecord:
        """One segmented lesion, grounded (``said``) or not."""
        p, volume, mask, strokes = self.pseudonyms, lesion.volume, lesion.mask, lesion.target.strokes
        lesion_id = lesion.target.lesion.lesion_id
        points = [np.asarray(placed.index, dtype=np.float64) for placed in lesion.target.placed]
        low, high = _bounding_box(mask)
        origin, shape = choose_roi(
            (*low, *high),
            np.concatenate(points),
            volume.voxels.shape,
            volume.spacing_mm,
            p.rng("roi", lesion_id),
            margin_mm=self.config.roi_margin_mm,
            minimum_mm=self.config.roi_min_mm,
        )
        window = tuple(slice(o, o + n) for o, n in zip(origin, shape, strict=True))
        quality = lesion.quality
        return FindingRecord(
            lesion_id=p.pseudonym("lesion", lesion_id),
            patient_id=p.pseudonym("patient", lesion.patient_key),
            study_id=p.pseudonym("study", lesion.target.lesion.study_instance_uid),
            series_id=p.pseudonym("series", stack_key(lesion.stack)),
            said=None if said is None else self._phrase(said, lesion),
            annotations=tuple(
                _annotation(stroke, index, origin, volume, p.pseudonym("series", drawn_on(stroke, lesion)))
                for stroke, index in zip(strokes, points, strict=True)
            ),
            image=np.ascontiguousarray(volume.voxels[window].transpose(2, 1, 0)),
            mask=np.ascontiguousarray(mask.in_volume(volume.voxels.shape)[window].transpose(2, 1, 0).astype(np.uint8)),
            affine_ras=nifti_affine(crop_affine(volume.affine, origin)),
            roi_origin_ijk=(origin[2], origin[1], origin[0]),
            bbox_ijk=(low[2], low[1], low[0], high[2], high[1], high[0]),
            volume_shard=place.shard,
            volume_row_group=place.row_group,
            engine=_engine(mask, strokes[0]),
            quality=QualityRecord(quality.tier, quality.flags, quality.score, quality.volume_mm3, quality.recist_mm),
            split_key=p.split_key(lesion.patient_key),
            provenance=self._provenance(lesion, said),
        )

    def volume(
        self, patient_key: str, stack: Stack, volume: Volume, lesion_ids: Sequence[str], acquisition: Mapping[str, str]
    ) -> VolumeRecord:
        """One CT stack, whole."""
        p = self.pseudonyms
        return VolumeRecord(
            series_id=p.pseudonym("series", stack_key(stack)),
            study_id=p.pseudonym("study", stack.study_instance_uid),
            patient_id=p.pseudonym("patient", patient_key),
            image=np.ascontiguousarray(volume.voxels.transpose(2, 1, 0)),
            affine_ras=nifti_affine(volume.affine),
            acquisition=tuple(sorted(acquisition.items())),
            lesion_ids=tuple(p.pseudonym("lesion", lesion_id) for lesion_id in lesion_ids),
            split_key=p.split_key(patient_key),
        )

    def report(self, patient_key: str, read: ReadReport, outcomes: Mapping[str, str]) -> ReportRecord:
        """One scrubbed report with every phrase and what became of it (``outcomes`` override by finding id)."""
        p = self.pseudonyms
        link_of = {link.finding_id: link for link in read.links if link.finding_id is not None}
        phrases = []
        for finding in read.findings:
            link = link_of.get(finding.finding_id)
            start, end = finding.mentions[0].phrase
            outcome = outcomes.get(finding.finding_id) or outcome_of(finding, link)
            linked = link is not None and link.decision in {Decision.LINKED, Decision.PRIOR_LINKED}
            phrases.append(
                ReportPhraseRecord(
                    finding_id=p.pseudonym("finding", finding.finding_id),
                    start=start,
                    end=end,
                    section=finding.mentions[0].section,
                    assertion=finding.assertion.value,
                    observation=finding.observation,
                    anatomy=finding.anatomy,
                    laterality=None if finding.laterality is None else finding.laterality.value,
                    outcome=outcome,
                    lesion_id=p.pseudonym("lesion", link.lesion_id) if linked and link and link.lesion_id else None,
                    probability=None if link is None else link.probability,
                )
            )
        return ReportRecord(
            report_id=p.pseudonym("report", read.report.report_id),
            patient_id=p.pseudonym("patient", patient_key),
            study_ids=tuple(sorted(p.pseudonym("study", uid) for uid in read.scope.reads)),  # not by date
            text=read.report.text,
            language=language_code(read.report.language),
            sections=tuple((s.name, s.start, s.end) for s in split_sections(read.report.text)),
            phrases=tuple(phrases),
            split_key=p.split_key(patient_key),
        )

    def _phrase(self, said: Said, lesion: SegmentedLesion) -> PhraseRecord:
        report, finding, link = said.report.report, said.finding, said.link
        mention = finding.mentions[0]
        return PhraseRecord(
            finding_id=self.pseudonyms.pseudonym("finding", finding.finding_id),
            report_id=self.pseudonyms.pseudonym("report", report.report_id),
            phrase=report.text[slice(*mention.phrase)],
            phrase_start=mention.phrase[0],
            phrase_end=mention.phrase[1],
            sentence=report.text[slice(*mention.sentence)],
            section=mention.section,
            language=language_code(report.language),
            assertion=finding.assertion.value,
            observation=finding.observation,
            anatomy=finding.anatomy,
            laterality=None if finding.laterality is None else finding.laterality.value,
            measurements=_measurements(report, finding, lesion.mask, lesion.volume),
            link=LinkRecord(
                decision=link.decision.value,
                probability=link.probability,
                evidence=tuple(sorted(link.evidence.items())),
                summary=explain(link, finding, lesion.target.lesion),
            ),
        )

    def _provenance(self, lesion: SegmentedLesion, said: Said | None) -> str:
        facts = {
            "software": self.software,
            "strokes": len(lesion.target.lesion.annotations),
            "strokes_on_this_series": len(lesion.target.strokes),
            "text_disagreement_mm": disagreement_mm(lesion.target.strokes[0]),
            "stack_flags": list(lesion.stack.flags),
            "target_series": _target_facts(lesion),
            "mask_flags": list(lesion.mask.flags),
            "joined_by": None if said is None else said.report.scope.joined_by,
            "extractor": None if said is None else said.finding.extractor,
        }
        return json.dumps(facts, sort_keys=True)


def outcome_of(finding: Finding, link: Link | None) -> str:
    """What became of a phrase, as published in ``reports``: the linker's decision, or why it had no chance."""
    if finding.assertion is Assertion.ABSENT:
        return "NEGATED"
    if link is None or link.decision is Decision.UNMATCHED:
        current = any(s.temporality is Temporality.CURRENT and s.kind is SizeKind.LESION for s in finding.sizes)
        return "UNMATCHED" if current or finding.image_references else "NO_SIZE"
    return link.decision.value


def stack_key(stack: Stack) -> str:
    """What a published series is: one regular stack (a Series Instance UID can hold two, and so can one object)."""
    first = stack.instances[0]
    frame = "" if first.frame_number is None else f"/{first.frame_number}"
    return f"{stack.series_instance_uid}/{first.sop_instance_uid}{frame}"


_SAFE_VALUE = re.compile(r"[A-Za-z0-9 .,;+/_()-]{1,40}")
_POSITIONS = frozenset(
    f"{end}{side}" for end in ("HF", "FF", "LF", "RF", "AF", "PF") for side in ("P", "S", "DR", "DL")
)
"""Patient Position: the terms of PS3.3 C.7.3.1.1.2, and a few combinations that it does not have."""


def acquisition_facts(stack: Stack, identifiers: Sequence[str]) -> dict[str, str]:
    """Technical facts of the acquisition: an allow-list of attributes, of a harmless form and free of identifiers.

    Technicians write into these fields too: a value in which the scrubber of the reports finds anything is left out.
    """
    first = stack.instances[0]
    facts = {
        "Manufacturer": first.manufacturer,
        "ManufacturerModelName": first.manufacturer_model_name,
        "ConvolutionKernel": first.convolution_kernel,
        "SliceThickness": None if first.slice_thickness_mm is None else f"{first.slice_thickness_mm:g}",
        "KVP": first.kvp,
        "ContrastBolusAgent": "given" if first.contrast_agent else "not recorded",
        "BodyPartExamined": first.body_part_examined,
        "PatientPosition": first.patient_position if first.patient_position in _POSITIONS else None,
    }
    return {name: value for name, value in facts.items() if value and _names_nobody(value, identifiers)}


def kernel_of(image: Instance, identifiers: Sequence[str]) -> str | None:
    """Convolution Kernel, where it has a harmless form and is free of identifiers."""
    kernel = image.convolution_kernel
    return kernel if kernel and _names_nobody(kernel, identifiers) else None


def _names_nobody(value: str, identifiers: Sequence[str]) -> bool:
    """Whether a value has a harmless form and the scrubber finds nothing in it, as written or in title case.

    In title case, since in capitals alone a short name ("LI") passes for an abbreviation.
    """
    if not _SAFE_VALUE.fullmatch(value):
        return False
    words = {word for identifier in identifiers for word in re.findall(r"[^\W\d_]{4,}", identifier.casefold())}
    glued = re.sub(r"[\W_]", "", value.casefold())
    if any(word in glued for word in words if not is_ordinary(word) and not names_nobody(word)):
        return False
    return all(scrub_text(form, identifiers).text == form for form in (value, value.title()))


def _bounding_box(mask: Mask) -> tuple[tuple[int, int, int], tuple[int, int, int]]:
    """Lower and upper (exclusive) corner, (slice, row, column)."""
    (s, r, c), (n_s, n_r, n_c) = mask.offset, mask.voxels.shape
    return (s, r, c), (s + n_s, r + n_r, c + n_c)


def drawn_on(stroke: LocatedAnnotation, lesion: SegmentedLesion) -> str:
    """Key (``stack_key``) of the series that a stroke was drawn on: another one than this where it was carried over."""
    origin = lesion.target.origin
    if origin is None or slice_key(stroke.annotation) in {slice_key(image) for image in lesion.stack.instances}:
        return stack_key(lesion.stack)
    return stroke.annotation.series_instance_uid if origin.stack is None else stack_key(origin.stack)


def _target_facts(lesion: SegmentedLesion) -> dict[str, object]:
    """Which series was segmented, and where that is not the drawn one, how both differ."""
    origin, volume = lesion.target.origin, lesion.volume
    if origin is None:
        return {"carried": False, "stayed": lesion.target.stayed or None}
    pixel_mm = list(origin.image.pixel_spacing or ())
    return {
        "carried": True,
        "drawn_spacing_mm": [_rounded(mm) for mm in (origin.slice_mm, *pixel_mm)],
        "segmented_spacing_mm": [_rounded(mm) for mm in volume.spacing_mm],
        "drawn_kernel": lesion.kernels[0],
        "segmented_kernel": lesion.kernels[1],
        "correlation": _rounded(origin.agreement.correlation),
        "difference_hu": _rounded(origin.agreement.difference_hu),
        "inside_hu": _rounded(origin.agreement.inside_hu),
    }


def _rounded(value: float) -> float:
    return round(value, 4)


def _annotation(
    stroke: LocatedAnnotation, index: np.ndarray, origin: tuple[int, int, int], volume: Volume, series_id: str
) -> AnnotationRecord:
    ras = lps_to_ras(apply_affine(volume.affine, index))
    ijk = (index - np.asarray(origin, dtype=np.float64))[:, ::-1]
    annotation = stroke.annotation
    return AnnotationRecord(
        kind=annotation.kind.value,
        points_ras_mm=tuple((float(x), float(y), float(z)) for x, y, z in ras),
        points_ijk=tuple((float(i), float(j), float(k)) for i, j, k in ijk),
        stated_mm=annotation.stated_mm,
        drawn_mm=stroke.diameters_mm,
        source_kind=annotation.source.kind,
        rule=annotation.source.rule,
        confidence=annotation.source.confidence,
        series_id=series_id,
    )


_SHA256 = re.compile(r"[0-9a-f]{64}")
_PROMPT = re.compile(r"[a-z][a-z +-]{0,39}")


def _engine(mask: Mask, stroke: LocatedAnnotation) -> EngineRecord:
    """Who made the mask; what an engine of anybody's says is published only in the form that it is meant to have."""
    name, _, revision = mask.engine.partition("@")
    sha256 = mask.weights_sha256 if _SHA256.fullmatch(mask.weights_sha256 or "") else None
    prompt = mask.prompt if _PROMPT.fullmatch(mask.prompt) else stroke.annotation.kind.value
    return EngineRecord(name, revision, sha256, prompt)


def _measurements(report: Report, finding: Finding, mask: Mask, volume: Volume) -> tuple[MeasurementRecord, ...]:
    """The finding's current lesion sizes beside the mask's own long and short in-plane diameters."""
    diameters = long_and_short_diameter(mask.voxels, volume.spacing_mm)
    of_mask = (diameters.long_mm, diameters.short_mm)
    records = []
    for size in finding.sizes:
        if size.kind is not SizeKind.LESION or size.temporality is not Temporality.CURRENT:
            continue
        # A range is one length with two ends.
        for rank, ((value, rounding), axis) in enumerate(zip(size.lengths_mm, size.axes, strict=False)):
            known = _same_axis_of_mask(rank, axis, of_mask)
            records.append(
                MeasurementRecord(
                    kind=size.kind.value,
                    axis=None if axis is None else axis.value,
                    value_mm=value,
                    rounding_mm=rounding,
                    source_text=report.text[slice(*size.span)],
                    start=size.span[0],
                    end=size.span[1],
                    mask_value_mm=known,
                    ratio=None if known is None else known / value,
                )
            )
    return tuple(records)


def _same_axis_of_mask(rank: int, axis: Axis | None, of_mask: tuple[float, float]) -> float | None:
    """Compare long with long and short with short; a body axis (AP, TR, CC) or a third value has no in-plane twin."""
    if axis not in {None, Axis.LONG, Axis.SHORT}:
        return None
    column = 1 if axis is Axis.SHORT else rank
    return of_mask[column] if column < len(of_mask) else None
