"""One patient, read whole and without a pixel: what was drawn, what was said, and which belongs to which."""

from __future__ import annotations

import traceback
from collections.abc import Callable, Collection, Container, Iterable, Mapping, Sequence
from dataclasses import dataclass, replace
from datetime import datetime, time, timedelta
from functools import partial
from typing import TYPE_CHECKING

from cohort_builder.anatomy.placing import place_strokes
from cohort_builder.annotations import deduplicate, read_annotations
from cohort_builder.cases.sieve import without_left_out
from cohort_builder.errors import CohortError
from cohort_builder.lesions.locating import group_lesions, locate
from cohort_builder.linking.assignment import link
from cohort_builder.linking.config import LinkConfig
from cohort_builder.linking.contradictions import withhold_contradictions
from cohort_builder.privacy.scrub import ScrubError, scrub_report
from cohort_builder.scope.languages import language_code
from cohort_builder.types import Annotation, Lesion, Link, LocatedAnnotation, Reading, Skip
from nlp.types import Finding, Report, ReportError

if TYPE_CHECKING:
    from cohort_builder.anatomy.locators import AnatomyLocator
    from cohort_builder.pacs.index import Index
    from cohort_builder.privacy.scrub import OffsetMap
    from cohort_builder.scope.joining import Scope
    from nlp.findings import Extractor


Judge = Callable[[Report, Sequence[Finding], Sequence[Lesion]], Mapping[tuple[str, str], bool]]
"""Verdicts on the pairs (finding id, lesion id) of one report."""


@dataclass(frozen=True, slots=True)
class ReadReport:
    """A scrubbed report with its findings, and the linker's answer for each of them and for each lesion.

    ``unjudged`` are the answers without the verdicts of a reviewer; empty where there were none.
    """

    report: Report
    scope: Scope
    offsets: OffsetMap
    findings: tuple[Finding, ...]
    links: tuple[Link, ...]
    unjudged: tuple[Link, ...] = ()


@dataclass(frozen=True, slots=True)
class PatientCase:
    """Everything about one patient that needs no voxels; ``drawn`` as read, what is then left out included."""

    patient_key: str
    lesions: tuple[Lesion, ...]
    reports: tuple[ReadReport, ...]
    skips: tuple[Skip, ...]
    drawn: tuple[Annotation, ...] = ()


def read_patient(
    patient_key: str,
    index: Index,
    reports: Sequence[tuple[Report, Scope]],
    extractor: Extractor,
    config: LinkConfig,
    *,
    judge: Judge | None = None,
    locator: AnatomyLocator | None = None,
    pixel_origin: Mapping[str, str] | None = None,
) -> PatientCase:
    """Read a patient's presentation states and reports, group the strokes into lesions, and link.

    Every lesion of every study of the patient is kept, said or not. A report that cannot be scrubbed or read costs that
    report and becomes a Skip. ``judge`` knows what a person said of the pairs of a report; ``locator`` names the organs
    of the strokes in the studies that a report speaks of; ``pixel_origin`` the writers with an origin of their own
    (``read_annotations``).
    """
    spoken_of = {uid for _, scope in reports for uid in (*scope.reads, *scope.compares)}
    lesions, skips, drawn = read_lesions(
        patient_key, index, locator=locator, spoken_of=spoken_of, pixel_origin=pixel_origin
    )
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
        in_scope = lesions_in_scope(lesions, scope)
        answer = partial(link, findings, in_scope, config, reported_at=given_out(report))
        links: Sequence[Link] = answer()
        unjudged: Sequence[Link] = ()
        if judge is not None and (verdicts := judge(scrubbed, findings, in_scope)):
            links, unjudged = answer(verdicts=verdicts), links
        read.append(ReadReport(scrubbed, scope, offsets, findings, tuple(links), tuple(unjudged)))
    agreed = withhold_contradictions([(one.findings, one.links) for one in read])
    read = [replace(one, links=links) for one, links in zip(read, agreed, strict=True)]
    return PatientCase(patient_key, tuple(lesions), tuple(read), tuple(skips), tuple(drawn))


def read_lesions(
    patient_key: str,
    index: Index,
    *,
    locator: AnatomyLocator | None = None,
    spoken_of: Collection[str] = (),
    pixel_origin: Mapping[str, str] | None = None,
) -> tuple[list[Lesion], list[Skip], list[Annotation]]:
    """Every lesion drawn in the studies of one patient, with its organ in those that are ``spoken_of``.

    With them what was left out, and every annotation as it was read.
    """
    drawn: list[Annotation] = []
    skips: list[Skip] = []
    for study in index.studies_of(patient_key):
        for stored in index.annotation_objects(study.study_instance_uid):
            found, lost = read_annotations(stored, pixel_origin=pixel_origin)
            drawn += found
            skips += lost
    annotations, lost = deduplicate(drawn)
    skips += lost
    annotations, lost = without_left_out(annotations, index)
    skips += lost
    located, lost = locate(annotations, index)
    own = {study.study_instance_uid for study in index.studies_of(patient_key)}
    skips += [*lost, *(_of_another(item.annotation) for item in located if not _is_in(own, item))]
    kept = [item for item in located if _is_in(own, item)]
    if locator is not None:
        kept = place_strokes(kept, index, locator, studies=spoken_of)
    return group_lesions(kept), skips, drawn


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
    """What an extractor, who may be anybody's, gets to see: the scrubbed text, its language as a code, and no key."""
    report = replace(report, accession_numbers=(), study_instance_uids=(), patient_id=None, study_date=None)
    return replace(report, version_key=None, issued_at=None, language=language_code(report.language))


def given_out(report: Report) -> datetime | None:
    """By when a report was given out, as far as is known; midnight stands for a day without a time of day.

    The day of the study says nothing of it: what was drawn in the course of that day would seem drawn after the report.
    """
    issued = report.issued_at
    return issued + timedelta(days=1) if issued is not None and issued.time() == time() else issued


def lesions_in_scope(lesions: Iterable[Lesion], scope: Scope) -> list[Lesion]:
    """The lesions of the studies that a report reads (CURRENT) or only compares with (PRIOR)."""
    chosen = []
    for lesion in lesions:
        if lesion.study_instance_uid in scope.reads:
            chosen.append(replace(lesion, reading=Reading.CURRENT))
        elif lesion.study_instance_uid in scope.compares:
            chosen.append(replace(lesion, reading=Reading.PRIOR))
    return chosen
