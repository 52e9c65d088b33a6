"""One finding for what a report says twice: with "the nodule" in the next sentence, or again in the impression."""

from __future__ import annotations

import re
from collections.abc import Sequence
from dataclasses import replace

from nlp.places import lead_in
from nlp.types import Assertion, Finding, Size, Temporality

_GENERIC = frozenset(
    {"nodule", "mass", "lesion", "focus", "opacity", "tumor", "hypodensity", "hyperdensity", "ground-glass nodule"}
)
_DEFINITE = re.compile(r"\b(?:the|this|that|said)\s+(?:\w+\s+){0,2}$", re.IGNORECASE)
_PRONOUN = re.compile(
    r"\W*(?:however\W+)?(?:it|this|that|these|they|its|their|measur\w+|size|largest|"
    r"the\s+(?:size|diameter|dimensions?|largest|short|long)|previously|now|currently)\b",
    re.IGNORECASE,
)
_NEIGHBOUR = 400  # characters that "the nodule" may stand behind its nodule
_SECTION = "impression"


def merge_repeats(text: str, findings: Sequence[Finding]) -> list[Finding]:
    """Merge definite repeats and impression repeats where exactly one earlier finding can be meant; order kept."""
    kept: list[Finding] = []
    repeated: set[str] = set()
    for finding in findings:
        impression = finding.mentions[0].section == _SECTION
        earlier = [other for other in kept if other.mentions[0].section != _SECTION] if impression else kept[-1:]
        same = [other for other in earlier if _is_same(text, other, finding, impression=impression)]
        sized = [other for other in same if other.sizes]
        candidates = sized if finding.sizes and sized else same
        if len(candidates) == 1 and candidates[0].finding_id not in repeated:
            merged = _merged(candidates[0], finding)
            kept[kept.index(candidates[0])] = merged
            if impression:
                repeated.add(merged.finding_id)
        else:
            kept.append(finding)
    return kept


def _is_same(text: str, earlier: Finding, later: Finding, *, impression: bool) -> bool:
    if earlier.assertion is not later.assertion or not _agree(earlier, later):
        return False
    same_word = earlier.observation == later.observation
    generic = {earlier.observation, later.observation} <= _GENERIC
    if impression:
        equal = bool(earlier.sizes and later.sizes)
        return same_word or (generic and equal)
    return _continues(text, earlier, later) and (same_word or later.observation in _GENERIC)


def _continues(text: str, earlier: Finding, later: Finding) -> bool:
    """Whether a later sentence of the section goes on about the same thing ("it", "the nodule") and gives its size."""
    if earlier.assertion is Assertion.ABSENT or not later.sizes or (earlier.sizes and _today(later)):
        return False
    before, after = earlier.mentions[0], later.mentions[0]
    gap = after.phrase[0] - before.phrase[1]
    if before.section != after.section or before.sentence == after.sentence or not 0 <= gap < _NEIGHBOUR:
        return False
    lead = text[after.sentence[0] : after.phrase[0]]
    if not lead:  # the builder has resolved a pronoun
        return bool(_PRONOUN.match(text[slice(*after.sentence)]))
    return later.anatomy is None and bool(_DEFINITE.search(lead))


def _agree(earlier: Finding, later: Finding) -> bool:
    """Whether side, place and size do not contradict each other."""
    if earlier.laterality is not later.laterality and None not in {earlier.laterality, later.laterality}:
        return False
    if earlier.anatomy and later.anatomy:
        first, second = set(earlier.anatomy.split()), set(later.anatomy.split())
        if not (first <= second or second <= first):
            return False
    return _sizes_agree(_today(earlier), _today(later))


def _today(finding: Finding) -> list[Size]:
    return [size for size in finding.sizes if size.temporality is Temporality.CURRENT]


def _sizes_agree(earlier: Sequence[Size], later: Sequence[Size]) -> bool:
    """Equal longest diameters within the coarser rounding; a repeat may leave its size out."""
    if not earlier or not later:
        return True
    slack = earlier[0].rounding_mm + later[0].rounding_mm
    pairs = zip(earlier[0].values_mm, later[0].values_mm, strict=False)
    return all(abs(first - second) <= max(slack, 0.5) for first, second in pairs)


def _merged(earlier: Finding, later: Finding) -> Finding:
    """The earlier finding with a mention more; the mention that carries the size leads."""
    leads = bool(_today(later)) and not _today(earlier)
    first, second = (later, earlier) if leads else (earlier, later)
    return replace(
        earlier,
        mentions=first.mentions + second.mentions,
        sizes=first.sizes if _today(first) and _today(second) else first.sizes + second.sizes,
        anatomy=earlier.anatomy or later.anatomy,
        laterality=earlier.laterality or later.laterality,
        image_references=first.image_references or second.image_references,
    )


def named(text: str, findings: Sequence[Finding]) -> list[Finding]:
    """The findings with phrases as they were dictated, and the id that goes with them."""
    used: dict[str, int] = {}
    named = []
    for finding in findings:
        mentions = tuple(
            replace(mention, phrase=(lead_in(text, mention.phrase[0], mention.sentence[0]), mention.phrase[1]))
            for mention in finding.mentions
        )
        start, end = mentions[0].phrase
        identity = f"{finding.report_id}#{start}-{end}"
        used[identity] = used.get(identity, 0) + 1
        suffix = f".{used[identity]}" if used[identity] > 1 else ""
        named.append(replace(finding, mentions=mentions, finding_id=identity + suffix))
    return named
