"""What of one patient would be segmented, what is said of it, and which belongs to which."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import replace
from math import ceil, prod
from typing import TYPE_CHECKING

import numpy as np

from cohort_builder.inspect.tally import Tally, count_skips
from cohort_builder.linking.assignment import link
from cohort_builder.patient import PatientCase, ReadReport, given_out, lesions_in_scope
from cohort_builder.types import Decision, Lesion, Link
from nlp.types import Assertion, Finding, ImageReference, SizeKind, Temporality

if TYPE_CHECKING:
    from cohort_builder.config import BuildConfig
    from cohort_builder.jobs import StackPlan
    from cohort_builder.linking.config import LinkConfig

BINS = 10
_KINDS_OF_EVIDENCE = ("size", "reference", "reference_near", "side", "organ", "level", "label")
_POINTED_MM = 15.0  # what an arrow points at, where nobody measured it


def count_case(case: PatientCase, plans: Sequence[StackPlan], config: BuildConfig, tally: Tally) -> None:
    """Count the lesions, prompts, findings and links of one patient; ``plans`` are those of a build."""
    count_skips(case.skips, tally)
    strokes = [stroke.annotation.kind.value for lesion in case.lesions for stroke in lesion.annotations]
    tally.update(("annotations", kind) for kind in strokes)
    tally["strokes", "used"] += len(strokes)
    linked = _count_lesions(case, tally)
    for plan in plans:
        _count_plan(plan, linked, config, tally)
    for read in case.reports:
        in_scope = lesions_in_scope(case.lesions, read.scope)
        _count_findings(read, in_scope, config.link, tally)
        tally["with_references",] += _linked_with_references(read, in_scope, config.link)


def _count_lesions(case: PatientCase, tally: Tally) -> frozenset[str]:
    """Count each lesion once by what becomes of it; returns those that are linked."""
    answers = [one for read in case.reports for one in read.links if one.finding_id is not None and one.lesion_id]
    states = {one.lesion_id: "prior_linked" for one in answers if one.decision is Decision.PRIOR_LINKED}
    linked = {one.lesion_id for one in answers if one.decision is Decision.LINKED}
    states |= dict.fromkeys(linked, "linked")
    reported = {uid for read in case.reports for uid in read.scope.reads}
    for lesion in case.lesions:
        unlinked = "unmentioned" if lesion.study_instance_uid in reported else "without_report"
        tally["lesions", "drawn"] += 1
        tally["lesions", states.get(lesion.lesion_id, unlinked)] += 1
    return frozenset(lesion_id for lesion_id in linked if lesion_id is not None)


def _count_plan(plan: StackPlan, linked: frozenset[str], config: BuildConfig, tally: Tally) -> None:
    """Count the prompts on one stack, and the bytes to read and to publish."""
    first = plan.stack.instances[0]
    shape = (len(plan.stack.instances), first.rows or 0, first.columns or 0)
    n_bytes = 2 * prod(shape)
    tally["plan", "stacks"] += 1
    tally["plan", "lesions"] += len(plan.targets)
    tally["plan", "bytes"] += n_bytes
    wanted = config.volumes == "all" or (
        config.volumes == "linked" and any(target.lesion.lesion_id in linked for target in plan.targets)
    )
    tally["plan", "volume_bytes"] += n_bytes * wanted
    spacing = np.linalg.norm(np.asarray(plan.stack.affine)[:3, :3], axis=0)
    for target in plan.targets:
        tally["prompts", target.strokes[0].annotation.kind.value] += 1
        tally["plan", "roi_bytes"] += _roi_bytes(target.lesion, shape, spacing.tolist(), config)


def _roi_bytes(lesion: Lesion, shape: Sequence[int], spacing_mm: Sequence[float], config: BuildConfig) -> int:
    """Bytes of the region published with a lesion, int16 image and uint8 mask, by the rule of ``exports.roi``.

    The mask is taken for a ball on the longest line in the middle of its volume.
    """
    from exports.roi import choose_roi

    radius_mm = max(lesion.diameters_mm, default=_POINTED_MM) / 2
    lower, upper = [], []
    for length, spacing in zip(shape, spacing_mm, strict=True):
        half = min(ceil(radius_mm / spacing), length // 2)
        lower.append(length // 2 - half)
        upper.append(max(length // 2 + half, length // 2 - half + 1))
    _, extent = choose_roi(
        (*lower, *upper),
        np.empty((0, 3)),
        shape,
        spacing_mm,
        np.random.default_rng(0),
        margin_mm=config.roi_margin_mm,
        minimum_mm=config.roi_min_mm,
    )
    return 3 * prod(extent)


def _count_findings(read: ReadReport, lesions: Sequence[Lesion], config: LinkConfig, tally: Tally) -> None:
    answers = {answer.finding_id: answer for answer in read.links}
    drawn = any(lesion.study_instance_uid in read.scope.reads for lesion in lesions)
    for finding in read.findings:
        answer = answers[finding.finding_id]
        sized, pointing = _has_size(finding), bool(finding.image_references)
        here = finding.assertion is not Assertion.ABSENT
        tally["findings", "found"] += 1
        tally["findings", "absent"] += not here
        tally["findings", "with_size"] += here and sized
        tally["findings", "with_image_reference"] += here and pointing
        tally["findings", "linkable"] += drawn and here and (sized or pointing)
        tally["decisions", answer.decision.value] += 1
        if answer.decision in {Decision.LINKED, Decision.AMBIGUOUS}:
            tally["probabilities", str(min(int(answer.probability * BINS), BINS - 1))] += 1
        if answer.decision is Decision.LINKED:
            tally["evidence", _kinds_of_evidence(answer)] += 1
        elif here:
            tally["withheld", _why_withheld(answer, config, drawn=drawn, said=sized or pointing)] += 1


def _why_withheld(answer: Link, config: LinkConfig, *, drawn: bool, said: bool) -> str:
    """Why a finding that is present gets no lesion, as one short code."""
    if answer.decision is Decision.PRIOR_LINKED:
        return "of_an_earlier_study"
    if answer.decision is Decision.AMBIGUOUS:
        likely = [name for name, probability in answer.rivals if probability >= config.ambiguous]
        return "several_lesions_fit" if len(likely) > 1 else "not_sure_enough"
    if not said:
        return "no_size_and_no_image"
    return "no_lesion_fits" if drawn else "nothing_drawn"


def _has_size(finding: Finding) -> bool:
    return any(s.temporality is Temporality.CURRENT and s.kind is SizeKind.LESION for s in finding.sizes)


def _kinds_of_evidence(answer: Link) -> str:
    found = [name for name in _KINDS_OF_EVIDENCE if answer.evidence.get(name, 0.0) > 0]
    return " + ".join(found) or "other"


def _linked_with_references(read: ReadReport, lesions: Sequence[Lesion], config: LinkConfig) -> int:
    """How many findings were linked if each that has a likely lesion, and names no image, named that lesion's.

    The likeliest findings choose first, so that no two name one lesion.
    """
    by_id = {lesion.lesion_id: lesion for lesion in lesions}
    taken = {answer.lesion_id for answer in read.links if answer.finding_id is not None}
    named: dict[str, Lesion] = {}
    for answer in sorted(read.links, key=lambda one: -one.probability):
        if answer.finding_id is None or answer.decision is not Decision.AMBIGUOUS:
            continue
        free = [name for name, _ in answer.rivals if name not in taken and name in by_id]
        if free:
            taken.add(free[0])
            named[answer.finding_id] = by_id[free[0]]
    linked = sum(answer.decision is Decision.LINKED for answer in read.links)
    if not named:
        return linked
    findings = [_pointing(finding, named) for finding in read.findings]
    answers = link(findings, lesions, config, reported_at=given_out(read.report))
    return max(linked, sum(answer.decision is Decision.LINKED for answer in answers))


def _pointing(finding: Finding, named: Mapping[str, Lesion]) -> Finding:
    lesion = named.get(finding.finding_id)
    if lesion is None or finding.image_references:
        return finding
    first = lesion.annotations[0]
    if first.instance_number is None:
        return finding
    image = first.instance_number
    return replace(finding, image_references=(ImageReference(first.series_number, image, image, (0, 1)),))
