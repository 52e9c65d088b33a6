"""The rows of ``private/``: skips and links in terms of the hospital's own ids, which never leave it."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import replace
from typing import TYPE_CHECKING, Any

from cohort_builder.types import Link, Skip

if TYPE_CHECKING:
    from cohort_builder.patient import PatientCase, ReadReport
    from cohort_builder.privacy import Pseudonyms


def private_skip(skip: Skip, pseudonyms: Pseudonyms) -> dict[str, Any]:
    """A skip as kept in ``private/``: its keyed item beside the raw one, which ``public_skip`` takes away."""
    keyed = replace(skip, item=pseudonyms.pseudonym("item", skip.item))
    return {
        "stage": keyed.stage,
        "item": keyed.item,
        "reason": keyed.reason,
        "detail": keyed.detail,
        "failure": keyed.failure,
        "private": {**skip.private, "item": skip.item},
    }


def public_skip(row: Mapping[str, Any]) -> dict[str, Any]:
    """The published half of a skip."""
    return {name: value for name, value in row.items() if name != "private"}


def private_link(case: PatientCase, link: Link, read: ReadReport | None, pseudonyms: Pseudonyms) -> Mapping[str, Any]:
    """One line of private/links.jsonl: the decision in terms of the original report and presentation states."""
    p = pseudonyms
    row: dict[str, Any] = {
        "finding_id": None,
        "lesion_id": None,
        "report_id": None,
        "start": None,
        "end": None,
        "values_mm": [],
        "annotations": [],
        "decision": link.decision.value,
        "probability": link.probability,
        "evidence": dict(link.evidence),
    }
    if read is not None:
        row["report_id"] = read.report.report_id
        for finding in read.findings:
            if finding.finding_id == link.finding_id:
                row["finding_id"] = p.pseudonym("finding", finding.finding_id)
                row["start"], row["end"] = read.offsets.to_original(finding.mentions[0].phrase)
                row["values_mm"] = [list(size.values_mm) for size in finding.sizes]
    for lesion in case.lesions:
        if lesion.lesion_id == link.lesion_id:
            row["lesion_id"] = p.pseudonym("lesion", lesion.lesion_id)
            sources = [located.annotation.source for located in lesion.annotations]
            row["annotations"] = [{"sop_instance_uid": s.sop_instance_uid, "item": s.item} for s in sources]
    return row
