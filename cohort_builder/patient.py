"""One patient, read whole and without a pixel: what was drawn, what was said, and which belongs to which."""

from __future__ import annotations

import traceback
from collections.abc import Container, Iterable, Sequence
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING

from cohort_builder.errors import CohortError
from cohort_builder.gsps import deduplicate, read_annotations
from cohort_builder.lesions import group_lesions, locate
from cohort_builder.linking import LinkConfig, link, withhold_contradictions
from cohort_builder.scrub import ScrubError, scrub_report
from cohort_builder.types import Annotation, Lesion, Link, LocatedAnnotation, Reading, Skip
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
            scrubbed, offsets = scrub_report(report, identifiers)
            findings = _extract(extractor, _without_keys(scrubbed))
        except ReportError as error:
            reason = "scrub_failed" if isinstance(error, ScrubError) else "report_unusable"
            skips.append(Skip("reports", report.report_id, reason, str(error), failure=True))
            continue
        except CohortError:
            raise
        except Exception as error:  # noqa: BLE001 - an extractor is anybody's code, and one report must not stop the rest
            detail = f"the extractor failed with {type(error).__name__}; the private copy holds the traceback"
            private = {"traceback": traceback.format_exc()}
            skips.append(Skip("reports", report.report_id, "extractor_failed", detail, failure=True, private=private))
            continue
        links = link(findings, _in_scope(lesions, scope), config)
        read.append(ReadReport(scrubbed, scope, offsets, findings, tuple(links)))
    agreed = withhold_contradictions([(one.findings, one.links) for one in read])
    read = [replace(one, links=links) for one, links in zip(read, agreed, strict=True)]
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
    own = {study.study_instance_uid for study in index.studies_of(patient_key)}
    skips += [*lost, *(_of_another(item.annotation) for item in located if not _is_in(own, item))]
    return group_lesions([item for item in located if _is_in(own, item)]), skips


def _is_in(studies: Container[str], located: LocatedAnnotation) -> bool:
    return located.annotation.study_instance_uid in studies


def _of_another(annotation: Annotation) -> Skip:
    """One presentation state that draws on two patients: what lies on the other one must not be published as this."""
    return Skip(
        "locate",
        annotation.annotation_id,
        "other_patient",
        "it is drawn on another patient's image than the rest of its presentation state; export them apart",
        private={"annotation_id": annotation.annotation_id, "sop_instance_uid": annotation.sop_instance_uid},
    )


def _extract(extractor: Extractor, report: Report) -> tuple[Finding, ...]:
    """Findings of one scrubbed report, checked: their spans are published as they are."""
    (findings,) = extractor.extract([report])
    for finding in findings:
        spans = [span for mention in finding.mentions for span in (mention.phrase, mention.sentence)]
        spans += [size.span for size in finding.sizes]
        if finding.report_id != report.report_id or any(not 0 <= a < b <= len(report.text) for a, b in spans):
            raise ValueError("a finding has a span that is not in the text, or is of another report")
    if len({finding.finding_id for finding in findings}) < len(findings):
        raise ValueError("two findings of one report have the same finding_id")
    return tuple(findings)


def _without_keys(report: Report) -> Report:
    """What an extractor, who may be anybody's, gets to see: the scrubbed text and nothing to join it by."""
    return replace(report, accession_numbers=(), study_instance_uids=(), patient_id=None, study_date=None)


def _in_scope(lesions: Iterable[Lesion], scope: Scope) -> list[Lesion]:
    """The lesions of the studies that a report reads (CURRENT) or only compares with (PRIOR)."""
    chosen = []
    for lesion in lesions:
        if lesion.study_instance_uid in scope.reads:
            chosen.append(replace(lesion, reading=Reading.CURRENT))
        elif lesion.study_instance_uid in scope.compares:
            chosen.append(replace(lesion, reading=Reading.PRIOR))
    return chosen
