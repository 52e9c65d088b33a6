"""Findings to lesions: which phrase speaks of which drawn thing. Pure: no files, no models, no pixels.

For one report, every pair of a finding and a lesion gets log odds (``link_terms``, ``size_evidence``); the posterior of
a pair is exact over all ways to match findings and lesions one to one (``matching``). What is not known of the whole
reading is summed over: how far its sizes lie from what was drawn, and whether it keeps to half centimetres. Each
possibility weighs what it explains of the report. A pair is LINKED only from a posterior chosen for precision on, and
only if neither size nor side, organ or image speaks against it; what has a believable rival is withheld as AMBIGUOUS.
A wrong link is much worse than a withheld one. docs/linking.md has the measured precision and coverage.
"""

from __future__ import annotations

from collections.abc import Container, Iterable, Mapping, Sequence
from dataclasses import dataclass, replace
from datetime import datetime
from math import log

import numpy as np
from numpy.typing import NDArray

from cohort_builder.linking.config import LinkConfig
from cohort_builder.linking.matching import sum_matchings
from cohort_builder.linking.references import is_exact_reference, lies_on_image
from cohort_builder.linking.sizes import (
    in_half_cm,
    keeps_to_half_cm,
    log_written,
    measurements,
    noise_prior,
    size_ratios,
)
from cohort_builder.linking.terms import (
    Candidate,
    context_of,
    row_evidence,
    sizes_of_lesion,
)
from cohort_builder.types import Decision, Lesion, Link, Reading
from nlp.types import Assertion, Finding, ImageReference, Laterality, Qualifier, Size, SizeKind, Temporality

FloatArray = NDArray[np.float64]

_ABSORBERS = {SizeKind.DISTANCE, SizeKind.NORMAL_STRUCTURE, SizeKind.OTHER}
_RIVALS = 5
_CERTAIN_SHARE = 0.5
_WEAK = 1.0  # log odds besides size that change nothing: a side alone
_LEAST_RIVAL = 0.005
_NO_RIVAL = 0.02  # times as probable as the best
_REVIEWED = 12.0  # log odds of what a person saw
_BESIDES_SIZE = ("reference", "reference_near", "other_plane", "side", "middle", "organ", "level", "label")
_BOUNDS = {Qualifier.LESS_THAN, Qualifier.GREATER_THAN}

Pair = tuple[str, str]
"""Finding id and lesion id."""


@dataclass(frozen=True, slots=True)
class _Problem:
    """Candidates and lesions of one reading, the evidence of every pair, and its (candidate, lesion) posterior."""

    candidates: Sequence[Candidate]
    lesions: Sequence[Lesion]
    evidence: Sequence[Sequence[Mapping[str, float]]]
    probabilities: FloatArray


def link(
    findings: Sequence[Finding],
    lesions: Sequence[Lesion],
    config: LinkConfig | None = None,
    *,
    verdicts: Mapping[Pair, bool] | None = None,
    reported_at: datetime | None = None,
) -> list[Link]:
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
        Thresholds and rates; the defaults when None.
    verdicts
        What a person said of pairs of finding and lesion: True links them whatever the evidence, False forbids the
        pair. Pairs of other reports are ignored.
    reported_at
        When the report was given out: evidence where it is known when a line was drawn.

    Returns
    -------
    One answer for each finding, in order, then one for each lesion that no finding was linked to, in order:

    * ``LINKED`` and ``PRIOR_LINKED`` name both, with their posterior and the log odds by term; no finding and no lesion
      occurs in two of them. A finding is ``PRIOR_LINKED`` only if it has no candidate in the current studies. The term
      ``reviewed`` is that of a verdict, with probability 1.
    * ``AMBIGUOUS`` and ``UNMATCHED`` name the finding only: ``rivals`` are the lesions it could have been, best first;
      ``probability`` and ``evidence`` are those of the best.
    * A lesion of its own is ``UNMATCHED``; its rivals are findings.

    Raises
    ------
    ValueError
        If two findings or two lesions have one id, or if verdicts link one finding to two lesions, or one lesion to two
        findings.
    TypeError
        If a verdict is no bool.

    """
    config = config or LinkConfig()
    _require_unique("findings", [finding.finding_id for finding in findings])
    _require_unique("lesions", [lesion.lesion_id for lesion in lesions])
    judged = _Judged.of(findings, lesions, verdicts or {})
    left = [lesion for lesion in lesions if lesion.lesion_id not in judged.finding_of]
    open_findings = [finding for finding in findings if finding.finding_id not in judged.lesion_of]
    current, prior = (
        _solve(open_findings, left, reading, config, wrong=judged.wrong, reported_at=reported_at)
        for reading in (Reading.CURRENT, Reading.PRIOR)
    )
    chosen, earlier = _chosen(current, config), _chosen(prior, config)
    answers = []
    for finding in findings:
        if finding.finding_id in judged.lesion_of:
            answers.append(_reviewed(finding, judged.lesion_of[finding.finding_id], config))
            continue
        answer = _answer(finding, current, chosen, config)
        if answer.decision is Decision.UNMATCHED:
            before = _answer(finding, prior, earlier, config)
            answer = replace(before, decision=Decision.PRIOR_LINKED) if before.lesion_id else answer
        answers.append(answer)
    taken = {answer.lesion_id for answer in answers}
    alone = {id(lesion): answer for problem in (current, prior) for lesion, answer in _unlinked(problem)}
    return answers + [alone[id(lesion)] for lesion in lesions if lesion.lesion_id not in taken]


def _require_unique(what: str, ids: Sequence[str]) -> None:
    if len(set(ids)) < len(ids):
        raise ValueError(f"{len(ids)} {what} have {len(set(ids))} different ids; give each an id of its own")


@dataclass(frozen=True, slots=True)
class _Judged:
    """Verdicts of a person on the pairs of this report."""

    lesion_of: Mapping[str, Lesion]
    finding_of: Mapping[str, str]
    wrong: frozenset[Pair]

    @classmethod
    def of(cls, findings: Sequence[Finding], lesions: Sequence[Lesion], verdicts: Mapping[Pair, bool]) -> _Judged:
        for is_right in verdicts.values():
            if not isinstance(is_right, bool | np.bool_):
                raise TypeError(f"a verdict must be True or False, got a {type(is_right).__name__}")
        known = {finding.finding_id for finding in findings}
        by_id = {lesion.lesion_id: lesion for lesion in lesions}
        here = {pair: right for pair, right in verdicts.items() if pair[0] in known and pair[1] in by_id}
        right = sorted(pair for pair, is_right in here.items() if is_right)
        finding_of = {lesion_id: finding_id for finding_id, lesion_id in right}
        lesion_of = {finding_id: by_id[lesion_id] for finding_id, lesion_id in right}
        if min(len(finding_of), len(lesion_of)) < len(right):
            raise ValueError(
                f"verdicts link a finding or a lesion twice: {len(right)} pairs are said to be right, of "
                f"{len(lesion_of)} findings and {len(finding_of)} lesions; withdraw all but one of each"
            )
        return cls(lesion_of, finding_of, frozenset(pair for pair, is_right in here.items() if not is_right))


def _reviewed(finding: Finding, lesion: Lesion, config: LinkConfig) -> Link:
    """A link that a person made, with what speaks for it besides."""
    alone = _solve([finding], [lesion], lesion.reading, config)
    evidence = dict(alone.evidence[0][0]) if alone.candidates else {}
    decision = Decision.LINKED if lesion.reading is Reading.CURRENT else Decision.PRIOR_LINKED
    return Link(finding.finding_id, lesion.lesion_id, decision, 1.0, {**evidence, "reviewed": _REVIEWED})


def _solve(
    findings: Sequence[Finding],
    lesions: Sequence[Lesion],
    reading: Reading,
    config: LinkConfig,
    *,
    wrong: Container[Pair] = frozenset(),
    reported_at: datetime | None = None,
) -> _Problem:
    chosen = [lesion for lesion in lesions if lesion.reading is reading]
    candidates = [c for finding in findings for c in _candidates(finding, reading, config)]
    if not candidates or not chosen:
        return _Problem(candidates, chosen, [[] for _ in candidates], np.zeros((len(candidates), len(chosen))))
    context = context_of(candidates, chosen, config, reported_at)
    drawn = [measurements(lesion) for lesion in chosen]
    evidence = [row_evidence(candidate, chosen, drawn, context, config) for candidate in candidates]
    fixed = np.array([[sum(terms.values()) for terms in row] for row in evidence])
    for i, candidate in enumerate(candidates):
        for j, lesion in enumerate(chosen):
            if (candidate.finding.finding_id, lesion.lesion_id) in wrong:
                fixed[i, j] = -np.inf
    ways = _ways_to_read(candidates, config)
    probabilities, ratios = np.zeros(fixed.shape), np.zeros(fixed.shape)
    solved = []
    for log_prior, sizes in ways:
        of_sizes = size_ratios(sizes, drawn, config)
        for share, ratio in zip(noise_prior(config), of_sizes, strict=True):
            answer = sum_matchings(fixed + np.log(ratio))
            solved.append((log_prior + log(share) + answer.log_weight, answer.probabilities, ratio))
    most = max(weight for weight, _, _ in solved)
    weights = np.exp([weight - most for weight, _, _ in solved])
    for weight, (_, answer_of, ratio) in zip(weights / weights.sum(), solved, strict=True):
        probabilities += weight * answer_of
        ratios += weight * ratio
    for i, candidate in enumerate(candidates):
        for j in range(len(chosen)):
            if candidate.sizes and drawn[j]:
                evidence[i][j]["size"] = log(ratios[i, j])
    return _Problem(candidates, chosen, evidence, probabilities)


def _ways_to_read(candidates: Sequence[Candidate], config: LinkConfig) -> list[tuple[float, list[tuple[Size, ...]]]]:
    """The sizes as rounded like they are written and, where all could be, to half centimetres; with log priors."""
    sizes = [candidate.sizes for candidate in candidates]
    every = [size for of_one in sizes for size in of_one]
    as_written = (0.0, sizes)
    if not every or not keeps_to_half_cm(every):
        return [as_written]
    coarse = [in_half_cm(of_one) for of_one in sizes]
    written, kept = log_written(every, config), log_written([size for of_one in coarse for size in of_one], config)
    return [(log(1 - config.half_cm) + written, sizes), (log(config.half_cm) + kept, coarse)]


def _candidates(finding: Finding, reading: Reading, config: LinkConfig) -> list[Candidate]:
    """The lesion a finding speaks of, if it may have been drawn, and its other lengths, which compete.

    Image references point into the current study, so they say nothing about lesions of a prior one. What lies on both
    sides is never one lesion: it competes.
    """
    is_current = reading is Reading.CURRENT
    when = Temporality.CURRENT if is_current else Temporality.PRIOR
    sizes = [size for size in finding.sizes if size.temporality is when]
    of_lesion = sizes_of_lesion(size for size in sizes if size.kind is SizeKind.LESION)
    references: tuple[ImageReference, ...] = finding.image_references if is_current else ()
    absent = finding.assertion is Assertion.ABSENT
    one_lesion = finding.laterality is not Laterality.BILATERAL
    factor = config.uncertain if finding.assertion is Assertion.UNCERTAIN else 1.0
    found = []
    if of_lesion and absent:
        found.append(Candidate(finding, of_lesion, references, factor * config.absorber, linkable=False))
    elif of_lesion:
        found.append(Candidate(finding, of_lesion, references, factor, linkable=one_lesion))
    elif references and not absent and not any(size.kind is SizeKind.LESION for size in finding.sizes):
        found.append(Candidate(finding, (), references, factor * config.unsized, linkable=one_lesion))
    found += [
        Candidate(finding, (size,), references, config.absorber, linkable=False)
        for size in sizes
        if size.kind in _ABSORBERS
    ]
    return found


def _chosen(problem: _Problem, config: LinkConfig) -> frozenset[tuple[int, int]]:
    """The (candidate, lesion) pairs that are linked: supported, without rival, and probable by themselves or together.

    Together: as many of the most probable pairs as keep the expected precision of the report's links at
    ``linked_together``, if at least half of them are certain and as much as ``strong`` speaks for these besides sizes.
    """
    best = []
    for i, candidate in enumerate(problem.candidates):
        if not candidate.linkable or not problem.lesions:
            continue
        j = _best(problem.probabilities[i], problem.lesions)
        p, terms, least = float(problem.probabilities[i, j]), problem.evidence[i][j], _least(problem, i, j, config)
        if least <= 1 and (p >= least or least < config.certain):
            certain = _besides_size(terms) >= config.strong and p >= config.certain
            best.append((p, i, j, p >= least, certain))
    best.sort(key=lambda one: (-round(one[0], 9), problem.candidates[one[1]].finding.finding_id))
    together = certain_ones = 0
    expected = 0.0
    for k, (p, _, _, _, certain) in enumerate(best, start=1):
        expected, certain_ones = expected + p, certain_ones + certain
        enough = certain_ones >= _CERTAIN_SHARE * k and expected >= config.linked_together * k
        together = k if enough and p >= config.least_linked else together
    probable = [(i, j) for k, (_, i, j, alone, _) in enumerate(best) if k < together or alone]
    return frozenset((i, j) for i, j in probable if not _has_rival(problem, i, j, config))


def _least(problem: _Problem, i: int, j: int, config: LinkConfig) -> float:
    """Least posterior by which the pair is linked; more than 1 where its evidence carries no link."""
    candidate, lesion, terms = problem.candidates[i], problem.lesions[j], problem.evidence[i][j]
    if not _is_supported(candidate, lesion, terms, config):
        return 2.0
    besides = _besides_size(terms)
    if not _is_exact(candidate, lesion, terms):
        return _threshold(besides, config)
    if min(terms.get("organ", 0.0), terms.get("middle", 0.0)) < 0:
        return config.certain
    alone = sum(lies_on_image(candidate.references, other) for other in problem.lesions) < 2
    return config.linked_on_image if alone else config.linked


def _has_rival(problem: _Problem, i: int, j: int, config: LinkConfig) -> bool:
    """Whether the finding would be linked to another lesion, had this one not been drawn, and is not far from it.

    Of two lesions that are both believable by themselves the likelier one may be the unrelated one.
    """
    posterior = problem.probabilities[i]
    least = max(config.least_rival * (1 - posterior[j]), _NO_RIVAL * posterior[j])
    return any(p >= least for k, p in enumerate(posterior) if k != j)


def _besides_size(evidence: Mapping[str, float]) -> float:
    return sum(evidence.get(term, 0.0) for term in _BESIDES_SIZE)


def _is_exact(candidate: Candidate, lesion: Lesion, evidence: Mapping[str, float]) -> bool:
    return is_exact_reference(candidate.references, lesion, evidence.get("reference", 0.0))


def _threshold(besides: float, config: LinkConfig) -> float:
    """Least posterior of a link away from a named image, by the log odds of what speaks for it besides sizes."""
    share = min(max((besides - _WEAK) / (config.strong - _WEAK), 0.0), 1.0)
    return config.linked_by_size + share * (config.linked - config.linked_by_size)


def _best(posterior: FloatArray, lesions: Sequence[Lesion]) -> int:
    return min(range(len(posterior)), key=lambda j: (-round(float(posterior[j]), 9), lesions[j].lesion_id))


def _answer(finding: Finding, problem: _Problem, chosen: Container[tuple[int, int]], config: LinkConfig) -> Link:
    """Answer for ``finding`` within one reading; LINKED stands for a link in either."""
    rows = [i for i, c in enumerate(problem.candidates) if c.finding is finding and c.linkable]
    if not rows or not problem.lesions:
        return Link(finding.finding_id, None, Decision.UNMATCHED, 0.0)
    row = rows[0]
    posterior = problem.probabilities[row]
    rivals = _ranked((lesion.lesion_id, float(p)) for lesion, p in zip(problem.lesions, posterior, strict=True))
    best = _best(posterior, problem.lesions)
    probability, lesion, evidence = float(posterior[best]), problem.lesions[best], problem.evidence[row][best]
    if (row, best) in chosen:
        others = tuple(rival for rival in rivals if rival[0] != lesion.lesion_id)
        return Link(finding.finding_id, lesion.lesion_id, Decision.LINKED, probability, evidence, others)
    withheld = Decision.AMBIGUOUS if posterior.sum() >= config.ambiguous else Decision.UNMATCHED
    return Link(finding.finding_id, None, withheld, probability, evidence, rivals)


def _is_supported(candidate: Candidate, lesion: Lesion, evidence: Mapping[str, float], config: LinkConfig) -> bool:
    """Whether the evidence itself, not the lack of rivals, carries a link, and no part of it speaks against.

    The other side, an image far from all strokes, or words beside the line that are another finding's withhold
    whatever the rest says; a place in the middle of the body that the lesion is far from, and a size that is only a
    bound, unless the image is exact; another organ unless the size is right besides.
    """
    exact = _is_exact(candidate, lesion, evidence)
    if any(evidence.get(term, 0.0) < 0 for term in ("side", "reference", "label")):
        return False
    if not exact and any(evidence.get(term, 0.0) < 0 for term in ("organ", "middle")):
        return False
    besides = _besides_size(evidence)
    if "size" not in evidence:
        return exact and besides >= config.min_unsized and evidence.get("organ", 0.0) >= 0
    if evidence["size"] < (config.strong if evidence.get("organ", 0.0) < 0 else config.min_size):
        return False
    coarse = all(size.roundings_mm[0] > config.coarse_mm for size in candidate.sizes)
    bounded = all(size.qualifier in _BOUNDS for size in candidate.sizes)
    return exact or (not bounded and (not coarse or evidence["size"] + besides >= config.min_coarse))


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
