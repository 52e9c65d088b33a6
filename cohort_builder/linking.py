"""Findings to lesions: which phrase speaks of which drawn thing. Pure: no files, no models, no pixels.

For one report, every pair of a finding and a lesion gets log odds (``evidence.py``); the posterior of a pair is exact
over all ways to match findings and lesions one to one (``matching.py``). A pair is LINKED only from a posterior chosen
for precision on, and only if neither size nor side nor image speaks against it; what has a believable rival is withheld
as AMBIGUOUS. A wrong link is much worse than a withheld one.

Precision / recall in the simulation of tests/test_linking.py (2,000 reports a row; one to twelve lesions, a fifth of
them not drawn, a fifth not said, a tenth of equal size). "noise" is the standard deviation, in mm, of what is dictated
around what was drawn; 2 % of the stated images and sides are wrong:

===============================================  ===========  ==============  ===========
evidence                                         p >= 0.90    0.95 (default)  p >= 0.98
===============================================  ===========  ==============  ===========
size, noise 0                                    .974 / .52   .978 / .41      .987 / .22
size, noise 0.3                                  .970 / .49   .977 / .37      .987 / .19
size, noise 0.7                                  .941 / .37   .961 / .26      .984 / .14
size, noise 1.5                                  .822 / .20   .869 / .14      .920 / .07
noise 0.3, side for 60 %                         .976 / .61   .984 / .49      .991 / .29
noise 0.3, image for 50 %                        .988 / .79   .991 / .72      .996 / .61
noise 0.3, image for 90 %                        .996 / .95   .997 / .93      .999 / .90
noise 0.3, image for 50 %, side for all          .991 / .87   .994 / .81      .997 / .70
noise 0.7, image for 50 %, side for all          .986 / .76   .991 / .69      .997 / .59
noise 0, up to six lesions, image 50 %, side all .995 / .92   .997 / .88      .999 / .78
===============================================  ===========  ==============  ===========

The default is the least threshold that keeps 0.975 on size alone and 0.99 where half of the findings name their image;
its calibration error is at most 0.025 up to noise 0.3. (This generator says one or two axes whatever was drawn, so the
``axes`` term costs recall here; in ``cohort_builder.demo``, where who draws two mostly dictates two, it halves the
wrong links.) The constants were chosen on this generator, so these figures
are an upper bound until they are refitted on reviewed links.
"""

from __future__ import annotations

from collections.abc import Container, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from itertools import combinations
from math import log

import numpy as np
from numpy.typing import NDArray

from cohort_builder.evidence import (
    LinkConfig,
    Measured,
    axes_evidence,
    is_exact_reference,
    measurements,
    reference_evidence,
    side_evidence,
    size_evidence,
)
from cohort_builder.matching import pair_probabilities
from cohort_builder.types import Decision, Lesion, Link, Reading
from nlp.types import Assertion, Axis, Finding, ImageReference, Size, SizeKind, Temporality

__all__ = ["LinkConfig", "link", "withhold_contradictions"]

_ABSORBERS = {SizeKind.DISTANCE, SizeKind.NORMAL_STRUCTURE, SizeKind.OTHER}
_SIDE_WORDS = frozenset({"left", "right", "bilateral"})
_RIVALS = 5
_LEAST_RIVAL = 0.005


@dataclass(frozen=True, slots=True)
class _Candidate:
    """Something the report says that may have been drawn. ``linkable`` is False for what only competes for a lesion."""

    finding: Finding
    sizes: tuple[Size, ...]
    references: tuple[ImageReference, ...]
    prior: float
    linkable: bool


@dataclass(frozen=True, slots=True)
class _Problem:
    """Candidates and lesions of one reading, the evidence of every pair, and its (candidate, lesion) posterior."""

    candidates: Sequence[_Candidate]
    lesions: Sequence[Lesion]
    evidence: Sequence[Sequence[Mapping[str, float]]]
    probabilities: NDArray[np.float64]


def link(findings: Sequence[Finding], lesions: Sequence[Lesion], config: LinkConfig | None = None) -> list[Link]:
    """Decide for every finding of ONE report, and every lesion of the studies in its scope, what belongs to what.

    Only findings that are present (or uncertain, at lower prior odds) with a current lesion size are linked to lesions
    of the current studies; without a size, only an image reference links, and only to a lone candidate there. Lengths
    that are not a lesion's (an aorta, a distance), and sizes of what is said to be absent, compete for lesions and are
    never linked. Sizes quoted from an earlier examination are matched with lesions of prior studies only.

    Parameters
    ----------
    findings
        All findings of the report, also those without a size: they compete.
    lesions
        Lesions of the studies the report reads (``CURRENT``) and compares with (``PRIOR``).
    config
        Thresholds and terms; the defaults when None.

    Returns
    -------
    One answer for each finding, in order, then one for each lesion that no finding was linked to, in order:

    * ``LINKED`` and ``PRIOR_LINKED`` name both, with their posterior and the log odds by term; no finding and no lesion
      occurs in two of them. A finding is ``PRIOR_LINKED`` only if it has no candidate in the current studies.
    * ``AMBIGUOUS`` and ``UNMATCHED`` name the finding only: ``rivals`` are the lesions it could have been, best first;
      ``probability`` and ``evidence`` are those of the best.
    * A lesion of its own is ``UNMATCHED``; its rivals are findings.

    """
    config = config or LinkConfig()
    current = _solve(findings, lesions, Reading.CURRENT, config)
    prior = _solve(findings, lesions, Reading.PRIOR, config)
    answers = []
    for finding in findings:
        answer = _answer(finding, current, config)
        if answer.decision is Decision.UNMATCHED:
            earlier = _answer(finding, prior, config)
            answer = replace(earlier, decision=Decision.PRIOR_LINKED) if earlier.lesion_id else answer
        answers.append(answer)
    taken = {answer.lesion_id for answer in answers}
    alone = {id(lesion): answer for problem in (current, prior) for lesion, answer in _unlinked(problem)}
    return answers + [alone[id(lesion)] for lesion in lesions if lesion.lesion_id not in taken]


def withhold_contradictions(reports: Sequence[tuple[Sequence[Finding], Sequence[Link]]]) -> list[tuple[Link, ...]]:
    """Withhold the links by which two reports of one patient say different things of one lesion.

    A thorax and an abdomen report of one study each see all its lesions and link on their own, so a size that both name
    would be linked twice. Findings contradict each other when their sides differ, or when no word of their places is
    the same. A repeat (an addendum, a final report after a preliminary one) stays linked.

    Parameters
    ----------
    reports
        Findings and ``link``'s answers of each report.

    Returns
    -------
    The answers of each report, ``AMBIGUOUS`` where they contradict another's.

    """
    said: dict[str, list[Finding]] = {}
    for findings, links in reports:
        by_id = {finding.finding_id: finding for finding in findings}
        for one in links:
            if one.decision is Decision.LINKED and one.lesion_id and one.finding_id:
                said.setdefault(one.lesion_id, []).append(by_id[one.finding_id])
    contested = {
        lesion_id
        for lesion_id, findings in said.items()
        if any(_contradict(a, b) for a, b in combinations(findings, 2))
    }
    answers = [[answer for one in links for answer in _withheld(one, contested)] for _, links in reports]
    return [tuple(sorted(links, key=lambda one: one.finding_id is None)) for links in answers]


def _contradict(a: Finding, b: Finding) -> bool:
    if a.laterality is not None and b.laterality is not None and a.laterality is not b.laterality:
        return True
    return bool(a.anatomy and b.anatomy and not set(a.anatomy.split()) & set(b.anatomy.split()) - _SIDE_WORDS)


def _withheld(one: Link, contested: Container[str]) -> Iterator[Link]:
    """The answer as it is or, where its lesion is contested, for the finding and for the lesion apart."""
    if one.decision is not Decision.LINKED or one.lesion_id not in contested:
        yield one
        return
    lesion_rival, finding_rival = ((str(name), one.probability) for name in (one.lesion_id, one.finding_id))
    yield replace(one, lesion_id=None, decision=Decision.AMBIGUOUS, rivals=(lesion_rival, *one.rivals))
    yield replace(one, finding_id=None, decision=Decision.UNMATCHED, rivals=(finding_rival,))


def _solve(findings: Sequence[Finding], lesions: Sequence[Lesion], reading: Reading, config: LinkConfig) -> _Problem:
    chosen = [lesion for lesion in lesions if lesion.reading is reading]
    candidates = [c for finding in findings for c in _candidates(finding, reading, config)]
    drawn = [measurements(lesion, config) for lesion in chosen]
    n_images = _about_how_many_images(candidates, chosen)
    evidence = [
        [
            _evidence(candidate, lesion, measured, n_images, config)
            for lesion, measured in zip(chosen, drawn, strict=True)
        ]
        for candidate in candidates
    ]
    log_odds = np.array([[sum(terms.values()) for terms in row] for row in evidence]).reshape(
        len(candidates), len(chosen)
    )
    return _Problem(candidates, chosen, evidence, pair_probabilities(log_odds))


def _candidates(finding: Finding, reading: Reading, config: LinkConfig) -> list[_Candidate]:
    """The lesion a finding speaks of, if it may have been drawn, and its other lengths, which compete.

    Image references point into the current study, so they say nothing about lesions of a prior one.
    """
    is_current = reading is Reading.CURRENT
    when = Temporality.CURRENT if is_current else Temporality.PRIOR
    sizes = [size for size in finding.sizes if size.temporality is when]
    of_lesion = _merge_axes([size for size in sizes if size.kind is SizeKind.LESION])
    references = finding.image_references if is_current else ()
    absent = finding.assertion is Assertion.ABSENT
    weight = config.match_weight * (config.uncertain if finding.assertion is Assertion.UNCERTAIN else 1.0)
    found = []
    if of_lesion and absent:
        found.append(_Candidate(finding, of_lesion, references, log(weight * config.absorber), linkable=False))
    elif of_lesion:
        found.append(_Candidate(finding, of_lesion, references, log(weight), linkable=True))
    elif references and not absent and not any(size.kind is SizeKind.LESION for size in finding.sizes):
        found.append(_Candidate(finding, (), references, log(weight * config.unsized), linkable=True))
    absorber = log(config.match_weight * config.absorber)
    found += [
        _Candidate(finding, (size,), references, absorber, linkable=False) for size in sizes if size.kind in _ABSORBERS
    ]
    return found


def _merge_axes(sizes: Sequence[Size]) -> tuple[Size, ...]:
    """Join a long and a short axis that are written apart ("2.3 cm node, short axis 1.1 cm") into one size."""
    shorts = [size for size in sizes if size.axes == (Axis.SHORT,)]
    rest = [size for size in sizes if size.axes != (Axis.SHORT,)]
    if not shorts or not rest:
        return tuple(sizes)
    short = shorts[0]
    merged = []
    for size in rest:
        if len(size.values_mm) == 1 and size.values_mm[0] >= short.values_mm[0]:
            pair = (size.values_mm[0], short.values_mm[0])
            roundings = (size.roundings_mm[0], short.roundings_mm[0])
            merged.append(replace(size, values_mm=pair, roundings_mm=roundings, axes=(Axis.LONG, Axis.SHORT)))
        else:
            merged.append(size)
    return tuple(merged)


def _about_how_many_images(candidates: Sequence[_Candidate], lesions: Sequence[Lesion]) -> int:
    """Highest image number that anything said or drawn names: a series is hardly longer by much."""
    said = [reference.image_last for candidate in candidates for reference in candidate.references]
    drawn = [located.instance_number or 0 for lesion in lesions for located in lesion.annotations]
    return max(said + drawn, default=0)


def _evidence(
    candidate: _Candidate, lesion: Lesion, drawn: Sequence[Measured], n_images: int, config: LinkConfig
) -> dict[str, float]:
    """Log odds by term that the candidate is this lesion; their sum is the log odds of the pair without rivals."""
    terms = {"prior": candidate.prior}
    if candidate.sizes and drawn:
        terms["size"] = size_evidence(candidate.sizes, drawn, config)
        axes = axes_evidence(candidate.sizes, drawn, config)
        if axes is not None:
            terms["axes"] = axes
    elif candidate.sizes:
        terms["drawn_unsized"] = config.drawn_unsized
    elif drawn:
        terms["said_unsized"] = config.said_unsized
    reference = reference_evidence(candidate.references, lesion, n_images, config)
    if reference is not None:
        terms["reference"] = reference
    side = side_evidence(candidate.finding, lesion, config)
    if side is not None:
        terms["side"] = side
    return terms


def _answer(finding: Finding, problem: _Problem, config: LinkConfig) -> Link:
    """Answer for ``finding`` within one reading; LINKED stands for a link in either."""
    rows = [i for i, c in enumerate(problem.candidates) if c.finding is finding and c.linkable]
    if not rows or not problem.lesions:
        return Link(finding.finding_id, None, Decision.UNMATCHED, 0.0)
    row = rows[0]
    posterior = problem.probabilities[row]
    rivals = _ranked((lesion.lesion_id, float(p)) for lesion, p in zip(problem.lesions, posterior, strict=True))
    best = min(range(len(posterior)), key=lambda j: (-round(posterior[j], 9), problem.lesions[j].lesion_id))
    probability, lesion, evidence = float(posterior[best]), problem.lesions[best], problem.evidence[row][best]
    if probability >= config.linked and _is_supported(problem.candidates[row], lesion, evidence, config):
        others = tuple(rival for rival in rivals if rival[0] != lesion.lesion_id)
        return Link(finding.finding_id, lesion.lesion_id, Decision.LINKED, probability, evidence, others)
    withheld = Decision.AMBIGUOUS if posterior.sum() >= config.ambiguous else Decision.UNMATCHED
    return Link(finding.finding_id, None, withheld, probability, evidence, rivals)


def _is_supported(candidate: _Candidate, lesion: Lesion, evidence: Mapping[str, float], config: LinkConfig) -> bool:
    """Whether the evidence itself, not the lack of rivals, carries a link, and no part of it speaks against.

    The other side, or an image on which no stroke lies, withholds whatever the rest says.
    """
    exact = is_exact_reference(candidate.references, lesion)
    if evidence.get("side", 0.0) < 0 or ("reference" in evidence and not exact):
        return False
    if "size" not in evidence:
        return exact
    if evidence["size"] < config.min_size:
        return False
    coarse = all(size.roundings_mm[0] > config.coarse_mm for size in candidate.sizes)
    return exact or not coarse or evidence["size"] + evidence.get("side", 0.0) >= config.min_coarse


def _unlinked(problem: _Problem) -> Iterable[tuple[Lesion, Link]]:
    """For each lesion the answer it gets when no finding is linked to it."""
    for j, lesion in enumerate(problem.lesions):
        column = problem.probabilities[:, j]
        if not len(column):
            yield lesion, Link(None, lesion.lesion_id, Decision.UNMATCHED, 0.0)
            continue
        best = int(column.argmax())
        rivals = _ranked((c.finding.finding_id, float(p)) for c, p in zip(problem.candidates, column, strict=True))
        evidence = problem.evidence[best][j]
        yield lesion, Link(None, lesion.lesion_id, Decision.UNMATCHED, float(column[best]), evidence, rivals)


def _ranked(rivals: Iterable[tuple[str, float]]) -> tuple[tuple[str, float], ...]:
    """The likeliest few, best first; several candidates of one finding add up."""
    total: dict[str, float] = {}
    for name, probability in rivals:
        total[name] = total.get(name, 0.0) + probability
    likely = [(name, p) for name, p in total.items() if p >= _LEAST_RIVAL]
    return tuple(sorted(likely, key=lambda rival: (-round(rival[1], 9), rival[0]))[:_RIVALS])
