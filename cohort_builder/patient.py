"""One patient, read whole and without a pixel: what was drawn, what was said, and which belongs to which."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING

from cohort_builder.gsps import deduplicate, read_annotations
from cohort_builder.lesions import group_lesions, locate
from cohort_builder.linking import LinkConfig, link
from cohort_builder.scrub import ScrubError, scrub_report
from cohort_builder.types import Lesion, Link, Reading, Skip
from nlp.types import Finding, Report, ReportError

if TYPE_CHECKING:
    from cohort_builder.pacs import Index
    from cohort_builder.scope import Scope
    from cohort_builder.scrub import OffsetMap
    from nlp.findings import Extractor


@dataclass(frozen=True, slots=True)
class ReadReport:
    """A scrubbed report with its findings, and the linker's answer for each of them and for each lesion."""

    report: Report
    scope: Scope
    offsets: OffsetMap
    findings: tuple[Finding, ...]
    links: tuple[Link, ...]


@dataclass(frozen=True, slots=True)
class PatientCase:
    """Everything about one patient that needs no voxels."""

    patient_key: str
    lesions: tuple[Lesion, ...]
    reports: tuple[ReadReport, ...]
    skips: tuple[Skip, ...]


def read_patient(
    patient_key: str,
    index: Index,
    reports: Sequence[tuple[Report, Scope]],
    extractor: Extractor,
    config: LinkConfig,
) -> PatientCase:
    """Read a patient's presentation states and reports, group the strokes into lesions, and link.

    Every lesion of every study of the patient is kept, said or not. A report that cannot be scrubbed or read costs that
    report and becomes a Skip.
    """
    lesions, skips = read_lesions(patient_key, index)
    identifiers = {value for study in index.studies_of(patient_key) for value in study.identifiers}
    read: list[ReadReport] = []
    for report, scope in reports:
        try:
            scrubbed, offsets = scrub_report(report, identifiers | _identifiers(report))
            (findings,) = extractor.extract([scrubbed])
        except ReportError as error:
            reason = "scrub_failed" if isinstance(error, ScrubError) else "report_unusable"
            skips.append(Skip("reports", report.report_id, reason, str(error), failure=True))
            continue
        links = link(findings, _in_scope(lesions, scope), config)
        read.append(ReadReport(scrubbed, scope, offsets, tuple(findings), tuple(links)))
    return PatientCase(patient_key, tuple(lesions), tuple(read), tuple(skips))


def read_lesions(patient_key: str, index: Index) -> tuple[list[Lesion], list[Skip]]:
    """Every lesion drawn in the studies of one patient."""
    annotations, skips = [], []
    for study in index.studies_of(patient_key):
        for path in index.presentation_states(study.study_instance_uid):
            found, lost = read_annotations(path)
            annotations += found
            skips += lost
    annotations, lost = deduplicate(annotations)
    skips += lost
    located, lost = locate(annotations, index)
    return group_lesions(located), skips + lost


def _identifiers(report: Report) -> set[str]:
    """What the reports table itself says about who this is."""
    keys = (report.patient_id, *report.accession_numbers, *report.study_instance_uids, *report.identifiers)
    return {value for value in keys if value}


def _in_scope(lesions: Iterable[Lesion], scope: Scope) -> list[Lesion]:
    """The lesions of the studies that a report reads (CURRENT) or only compares with (PRIOR)."""
    chosen = []
    for lesion in lesions:
        if lesion.study_instance_uid in scope.reads:
            chosen.append(replace(lesion, reading=Reading.CURRENT))
        elif lesion.study_instance_uid in scope.compares:
            chosen.append(replace(lesion, reading=Reading.PRIOR))
    return chosen
