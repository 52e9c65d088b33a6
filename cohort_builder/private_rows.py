"""The rows of ``private/``: skips and links in terms of the hospital's own ids, which never leave it."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import replace
from typing import TYPE_CHECKING, Any

from cohort_builder.linking.evidence import explain
from cohort_builder.types import Link, Skip

if TYPE_CHECKING:
    from cohort_builder.patient import PatientCase, ReadReport
    from cohort_builder.privacy.pseudonyms import Pseudonyms


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
    """One line of private/links.jsonl: the decision in terms of the original report and presentation states.

    ``rivals`` are keyed: lesions where the line is a finding's, findings where it is a lesion's. ``explanation`` is
    about the pair, or the finding or lesion with its likeliest rival.
    """
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
        "explanation": "",
        "rivals": _rivals(link, p),
    }
    findings = {} if read is None else {finding.finding_id: finding for finding in read.findings}
    lesions = {lesion.lesion_id: lesion for lesion in case.lesions}
    finding, lesion = findings.get(link.finding_id or ""), lesions.get(link.lesion_id or "")
    if read is not None:
        row["report_id"] = read.report.report_id
    if read is not None and finding is not None:
        row["finding_id"] = p.pseudonym("finding", finding.finding_id)
        row["start"], row["end"] = read.offsets.to_original(finding.mentions[0].phrase)
        row["values_mm"] = [list(size.values_mm) for size in finding.sizes]
    if lesion is not None:
        row["lesion_id"] = p.pseudonym("lesion", lesion.lesion_id)
        sources = [located.annotation.source for located in lesion.annotations]
        row["annotations"] = [{"sop_instance_uid": s.sop_instance_uid, "item": s.item} for s in sources]
    likeliest = link.rivals[0][0] if link.rivals else ""
    finding, lesion = finding or findings.get(likeliest), lesion or lesions.get(likeliest)
    if finding is not None and lesion is not None:
        others = link.rivals if link.finding_id is not None else link.rivals[1:]
        row["explanation"] = explain(replace(link, rivals=others), finding, lesion)
    return row


def _rivals(link: Link, pseudonyms: Pseudonyms) -> list[dict[str, Any]]:
    kind = "finding" if link.finding_id is None else "lesion"
    return [{f"{kind}_id": pseudonyms.pseudonym(kind, name), "probability": p} for name, p in link.rivals]
