"""Which links a person is asked about, and where his verdicts go.

A build offers withheld and doubtful links, and a few confident ones chosen by the key, so that whoever refits the
model on the verdicts does not see doubtful ones only. A verdict belongs to a pair of a finding and a lesion; the next
build finds the pair again by their keyed ids, else by what names them (the report and its words, one of the strokes).
"""

from __future__ import annotations

import json
import logging
from collections import Counter
from collections.abc import Callable, Container, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from heapq import heappush, heappushpop
from itertools import groupby
from math import ceil
from pathlib import Path
from typing import TYPE_CHECKING, Any

from cohort_builder.errors import ConfigError
from cohort_builder.linking.assignment import link
from cohort_builder.linking.config import LinkConfig
from cohort_builder.linking.evidence import explain, pair_features
from cohort_builder.patient import PatientCase, ReadReport, lesions_in_scope
from cohort_builder.review.file import STALE, ReviewRow, cell_text, read_review, write_review
from cohort_builder.review.pictures import draw_reviews, image_of
from cohort_builder.types import Decision, Lesion, Link
from nlp.types import Finding, Mention, Report, Size, SizeKind, Span, Temporality

if TYPE_CHECKING:
    from cohort_builder.privacy.pseudonyms import Pseudonyms
    from cohort_builder.progress import Progress

logger = logging.getLogger("cohort_builder")

FILE = "review.csv"
WITHHELD, DOUBTFUL, SAMPLE, JUDGED = "withheld", "doubtful", "sample", "judged"
"""Why a pair is offered; ``JUDGED``: only because somebody has judged it before."""

_SURE = 0.99
_LEAST_RIVAL, _RIVALS = 0.1, 3  # of one withheld finding
_OF_SIZE_ALONE = frozenset({"prior", "size", "axes"})
_AROUND = 600  # characters of a sentence on each side of the phrase
_SHARES = {SAMPLE: 0.2, DOUBTFUL: 0.4}  # of what is offered; the rest is withheld

Candidate = Mapping[str, Any]
"""One pair as a shard leaves it: ``cells`` of the file, ``was`` (ids of older rows of the same pair), ``order``,
``text`` and ``highlight`` (sentence, and the phrase in it), ``image`` (what to draw)."""


@dataclass(frozen=True, slots=True)
class Verdict:
    """A person's word on one pair; everything but ``phrase`` is keyed."""

    review_id: str
    report: str
    finding: str
    lesion: str
    phrase: str
    right: bool


@dataclass(frozen=True, slots=True)
class Match:
    """A verdict on a pair of today; ``review_id`` is that of the row it was written into."""

    review_id: str
    right: bool


# ---- from the file into the build ----------------------------------------------------------------------------------


def read_verdicts(private: Path) -> dict[str, tuple[Verdict, ...]]:
    """Verdicts of ``private/review.csv`` by the patient's pseudonym, in an order of their own.

    Raises
    ------
    ConfigError
        The file cannot be understood, or contradicts itself; see :func:`read_review`.

    """
    found: dict[str, list[Verdict]] = {}
    for row in read_review(private / FILE).rows:
        if row.right is not None:
            cells = row.cells
            verdict = Verdict(cells["review_id"], cells["report"], *row.pair, cells["phrase"], row.right)
            found.setdefault(cells["patient"], []).append(verdict)
    return {patient: tuple(sorted(some, key=lambda v: v.review_id)) for patient, some in found.items()}


def match_verdicts(
    verdicts: Sequence[Verdict],
    report: Report,
    findings: Sequence[Finding],
    lesions: Sequence[Lesion],
    pseudonyms: Pseudonyms,
) -> dict[tuple[str, str], Match]:
    """Find the pairs that verdicts speak of among the findings of one report and the lesions in its scope.

    A finding that has moved is found by the words of its phrase, if no other finding of the report has them; a lesion
    that has got another stroke, by the stroke that it was named after. Where that makes verdicts contradict each other
    (both words for one pair, "yes" for two lesions of one finding or two findings of one lesion), none of them counts.

    Returns
    -------
    (finding id, lesion id), the hospital's own, to its verdict.

    """
    key = pseudonyms.pseudonym("report", report.report_id)
    own = [verdict for verdict in verdicts if verdict.report == key]
    if not own:
        return {}
    by_id = {pseudonyms.pseudonym("finding", f.finding_id): f.finding_id for f in findings}
    by_words = _unique((cell_text(_phrase(report, f)), f.finding_id) for f in findings)
    strokes = ((a.annotation.annotation_id, lesion.lesion_id) for lesion in lesions for a in lesion.annotations)
    by_stroke = {pseudonyms.pseudonym("lesion", name): lesion_id for name, lesion_id in strokes}
    by_stroke |= {pseudonyms.pseudonym("lesion", lesion.lesion_id): lesion.lesion_id for lesion in lesions}
    exact: dict[tuple[str, str], Match] = {}
    moved: dict[tuple[str, str], list[Match]] = {}
    for verdict in own:
        finding_id = by_id.get(verdict.finding) or by_words.get(verdict.phrase)
        lesion_id = by_stroke.get(verdict.lesion)
        if finding_id is not None and lesion_id is not None:
            match = Match(verdict.review_id, verdict.right)
            if verdict.finding in by_id and verdict.lesion == pseudonyms.pseudonym("lesion", lesion_id):
                exact[finding_id, lesion_id] = match
            else:
                moved.setdefault((finding_id, lesion_id), []).append(match)
    agreed = {pair: some[0] for pair, some in moved.items() if len({match.right for match in some}) == 1}
    return _consistent({**agreed, **exact})


def _consistent(found: Mapping[tuple[str, str], Match]) -> dict[tuple[str, str], Match]:
    right = [pair for pair, match in found.items() if match.right]
    findings, lesions = (Counter(pair[side] for pair in right) for side in (0, 1))
    return {
        pair: match
        for pair, match in found.items()
        if not match.right or (findings[pair[0]] == 1 and lesions[pair[1]] == 1)
    }


def _unique(named: Iterable[tuple[str, str]]) -> dict[str, str]:
    pairs = list(named)
    times = Counter(name for name, _ in pairs)
    return {name: value for name, value in pairs if times[name] == 1}


# ---- from a patient into his shard ---------------------------------------------------------------------------------


def review_candidates(
    case: PatientCase, verdicts: Sequence[Verdict], config: LinkConfig, pseudonyms: Pseudonyms
) -> Iterator[Candidate]:
    """Every pair of a patient that may be offered for review: all that are linked or withheld, and all judged ones."""
    for read in case.reports:
        in_scope = lesions_in_scope(case.lesions, read.scope)
        lesions = {lesion.lesion_id: lesion for lesion in in_scope}
        matches = match_verdicts(verdicts, read.report, read.findings, in_scope, pseudonyms)
        now, before = (
            {answer.finding_id: answer for answer in answers} for answers in (read.links, read.unjudged or read.links)
        )
        for finding in read.findings:
            judged = {lesion_id: match for (name, lesion_id), match in matches.items() if name == finding.finding_id}
            for lesion_id, match in judged.items():  # as the linker saw it before it was told
                answer = before[finding.finding_id]
                pair = _Pair(read, finding, lesions[lesion_id], answer, _reasons(answer).get(lesion_id, JUDGED))
                yield _candidate(case, pair, match, config, pseudonyms)
            for lesion_id, why in _reasons(now[finding.finding_id]).items():
                if lesion_id not in judged:
                    pair = _Pair(read, finding, lesions[lesion_id], now[finding.finding_id], why)
                    yield _candidate(case, pair, None, config, pseudonyms)


@dataclass(frozen=True, slots=True)
class _Pair:
    """A finding, a lesion, what the linker answered for the finding, and why a person is asked."""

    read: ReadReport
    finding: Finding
    lesion: Lesion
    answer: Link
    why: str

    @property
    def probability(self) -> float:
        """What the linker gave this pair."""
        if self.answer.lesion_id == self.lesion.lesion_id:
            return self.answer.probability
        return dict(self.answer.rivals).get(self.lesion.lesion_id, 0.0)

    def link(self, config: LinkConfig) -> Link:
        """The answer as one on this very pair; of several rivals, the linker gives the evidence of the best only."""
        best = self.answer.lesion_id or next((name for name, _ in self.answer.rivals), None)
        if self.lesion.lesion_id == best:
            return self.answer
        (alone, *_) = link([self.finding], [self.lesion], config)
        return replace(self.answer, probability=self.probability, evidence=alone.evidence)


def _reasons(answer: Link) -> dict[str, str]:
    """Lesion ids to why they are offered for the finding of an answer."""
    if answer.decision is Decision.LINKED and answer.lesion_id is not None:
        return {answer.lesion_id: DOUBTFUL if _is_doubtful(answer) else SAMPLE}
    if answer.decision is not Decision.AMBIGUOUS:
        return {}
    likely = [name for name, probability in answer.rivals if probability >= _LEAST_RIVAL]
    return dict.fromkeys(likely[:_RIVALS] or [name for name, _ in answer.rivals[:1]], WITHHELD)


def _is_doubtful(answer: Link) -> bool:
    """Whether a link is not quite certain, or carried by its size alone."""
    more = any(value > 0 for term, value in answer.evidence.items() if term not in _OF_SIZE_ALONE)
    return answer.probability < _SURE or not more


def _candidate(
    case: PatientCase, pair: _Pair, match: Match | None, config: LinkConfig, pseudonyms: Pseudonyms
) -> Candidate:
    p, report, finding, lesion = pseudonyms, pair.read.report, pair.finding, pair.lesion
    (start, end), highlight = _shown(finding.mentions[0])
    cells = {
        "review_id": p.pseudonym("review", json.dumps([finding.finding_id, lesion.lesion_id])),
        "why": pair.why,
        "phrase": cell_text(_phrase(report, finding)),
        "sentence": cell_text(report.text[start:end]),
        "said_mm": "; ".join(_said(size) for size in finding.sizes if size.kind is SizeKind.LESION),
        "drawn_mm": " x ".join(f"{value:.1f}" for value in lesion.diameters_mm),
        "lesion": _where(lesion),
        "probability": f"{pair.probability:.5f}",
        "explanation": explain(pair.link(config), finding, lesion),
        "report_id": cell_text(report.report_id),
        "patient": p.pseudonym("patient", case.patient_key),
        "report": p.pseudonym("report", report.report_id),
        "finding_id": p.pseudonym("finding", finding.finding_id),
        "lesion_id": p.pseudonym("lesion", lesion.lesion_id),
        "features": json.dumps(pair_features(finding, lesion, config), sort_keys=True),
    }
    return {
        "cells": cells,
        "was": [] if match is None else [match.review_id],
        "order": p.unit("review", finding.finding_id),
        "text": report.text[start:end],
        "highlight": highlight,
        "image": image_of(lesion, case.lesions),
    }


def _shown(mention: Mention) -> tuple[Span, Span]:
    """What a person gets to read: the sentence, or of a very long one the part around the phrase; the phrase in it."""
    first, last = mention.phrase[0], min(mention.phrase[1], mention.phrase[0] + _AROUND)
    start, end = max(mention.sentence[0], first - _AROUND), min(mention.sentence[1], last + _AROUND)
    return (start, end), (max(first, start) - start, max(min(last, end), start) - start)


def _phrase(report: Report, finding: Finding) -> str:
    return report.text[slice(*finding.mentions[0].phrase)]


def _said(size: Size) -> str:
    values = " x ".join(f"{value:g}" for value, _ in size.lengths_mm)
    return f"{values} (earlier)" if size.temporality is Temporality.PRIOR else values


def _where(lesion: Lesion) -> str:
    """Where to look a lesion up: the strokes by kind, series and image number."""
    places = [
        f"{located.annotation.kind.value.lower()}, series {_or_unknown(located.series_number)}"
        f" image {_or_unknown(located.instance_number)}"
        for located in lesion.annotations
    ]
    return "; ".join(dict.fromkeys(places))


def _or_unknown(number: int | None) -> str:
    return "?" if number is None else str(number)


# ---- from the shards into the file ---------------------------------------------------------------------------------


def offer_reviews(
    private: Path,
    candidates: Iterable[Candidate],
    limit: int,
    progress: Progress,
    *,
    is_gone: Callable[[str], bool] = lambda _patient: False,
) -> Counter[str]:
    """Write ``private/review.csv`` and its pictures: all that a person has touched, and ``limit`` pairs to judge.

    What somebody wrote while the build went on is read and kept. If the file cannot be understood by now, it is left as
    it is and a warning says so: the dataset is finished, and the next build will say what is wrong with it. The rows of
    a patient (pseudonym) who ``is_gone`` go, with what was written into them.

    Returns
    -------
    ``reviews_open``, ``reviews_judged`` and ``reviews_stale``: how many rows of each; ``verdicts_lost`` where all
    verdicts are stale: how many.

    """
    path = private / FILE
    try:
        known = read_review(path)
    except ConfigError as error:
        logger.warning("the reviews are left as they are: %s", error)
        return Counter()
    rows_left = [row for row in known.rows if not is_gone(row.cells["patient"])]
    touched = {row.cells["review_id"]: row for row in rows_left if row.is_touched}
    judged, offered = _sorted_out(candidates, touched, limit)
    refreshed = {name for candidate in judged for name in _names(candidate)}
    stale = [{**row.cells, "stale": STALE} for name, row in touched.items() if name not in refreshed]
    lost = _warn_of_lost(touched.values(), refreshed)
    chosen = _share_out(offered, limit)
    if not (chosen or judged or known.rows):
        return Counter()
    with progress.stage("review", len(chosen) + len(judged), unit="pictures") as stage:
        rows = draw_reviews(private, [*chosen, *judged], keep=stale, on_each=stage.advance)
    try:
        write_review(path, [*rows, *stale], known.delimiter)
    except OSError as error:
        logger.warning("%s cannot be written (%s); close it elsewhere and build again", FILE, type(error).__name__)
    counts = Counter(reviews_open=len(chosen), reviews_judged=len(judged), reviews_stale=len(stale))
    if lost:
        counts["verdicts_lost"] = lost
    return counts


def _warn_of_lost(rows: Iterable[ReviewRow], refreshed: Container[str]) -> int:
    """How many verdicts there are if none counts, else 0: with another key nothing is found again."""
    judged = [row for row in rows if row.right is not None]
    if not judged or any(row.cells["review_id"] in refreshed for row in judged):
        return 0
    logger.warning(
        "none of the %d verdicts in %s counts: their pairs no longer occur. Verdicts are tied to the site's key: if "
        "another one was used, build again with the key that they were given under (--key)",
        len(judged),
        FILE,
    )
    return len(judged)


def _names(candidate: Candidate) -> list[str]:
    return [candidate["cells"]["review_id"], *candidate["was"]]


def _sorted_out(
    candidates: Iterable[Candidate], touched: Mapping[str, ReviewRow], limit: int
) -> tuple[list[Candidate], Mapping[str, list[list[Candidate]]]]:
    """Candidates that a person has touched, with his words; and the first ``limit`` findings of every other reason."""
    judged: list[Candidate] = []
    heaps: dict[str, list[tuple[float, str, list[Candidate]]]] = {WITHHELD: [], DOUBTFUL: [], SAMPLE: []}
    for finding_id, pairs in groupby(candidates, key=lambda candidate: candidate["cells"]["finding_id"]):
        unseen = []
        for candidate in pairs:
            row = next((touched[name] for name in _names(candidate) if name in touched), None)
            if row is None:
                unseen.append(candidate)
            else:
                kept = {name: row.cells[name] for name in ("verdict", "comment")}
                judged.append({**candidate, "cells": {**candidate["cells"], **kept}})
        if not unseen or unseen[0]["cells"]["why"] not in heaps or limit == 0:
            continue
        heap = heaps[unseen[0]["cells"]["why"]]
        item = (-unseen[0]["order"], finding_id, unseen)
        if len(heap) < limit:
            heappush(heap, item)
        else:
            heappushpop(heap, item)
    return judged, {why: [pairs for *_, pairs in sorted(heap, reverse=True)] for why, heap in heaps.items()}


def _share_out(offered: Mapping[str, list[list[Candidate]]], limit: int) -> list[Candidate]:
    """At most ``limit`` pairs, all of a finding together: a fifth confident ones, the rest withheld and doubtful."""
    chosen: list[Candidate] = []
    left: list[list[Candidate]] = []
    for why in (SAMPLE, DOUBTFUL, WITHHELD):
        room = min(limit - len(chosen), ceil(_SHARES.get(why, 1.0) * limit))
        for pairs in offered[why]:
            if len(pairs) <= room:
                chosen += pairs
                room -= len(pairs)
            elif why != SAMPLE:
                left.append(pairs)
    for pairs in left:
        if len(chosen) + len(pairs) <= limit:
            chosen += pairs
    order = (WITHHELD, DOUBTFUL, SAMPLE)
    return sorted(chosen, key=lambda candidate: order.index(candidate["cells"]["why"]))
