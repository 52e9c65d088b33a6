"""One finding for what a report says twice: with "the nodule" in the next sentence, or again in the impression."""

from __future__ import annotations

import re
from collections.abc import Sequence
from dataclasses import replace

from nlp.sections import BODY
from nlp.types import Assertion, Finding, Size, Temporality

_GENERIC = frozenset(
    {"nodule", "mass", "lesion", "focus", "opacity", "tumor", "hypodensity", "hyperdensity", "ground-glass nodule"}
)
# What "the nodule" or "the lesion" can mean beside another such word.
_FOCAL = _GENERIC | {
    "adenoma",
    "angiomyolipoma",
    "carcinoma",
    "cavity",
    "cyst",
    "fibroid",
    "focal nodular hyperplasia",
    "granuloma",
    "hamartoma",
    "hemangioma",
    "implant",
    "lipoma",
    "lytic lesion",
    "malignancy",
    "meningioma",
    "metastasis",
    "polyp",
    "pseudocyst",
    "sclerotic lesion",
}
_DEFINITE = re.compile(r"\b(?:the|this|that|said)\s+(?:\w+\s+){0,2}$", re.IGNORECASE)
_PRONOUN = re.compile(
    r"\W*(?:however\W+)?(?:it|this|that|these|they|its|their|measur\w+|size|largest|"
    r"the\s+(?:size|diameter|dimensions?|largest|short|long)|previously|now|currently)\b",
    re.IGNORECASE,
)
_NEIGHBOUR = 400  # characters that "the nodule" may stand behind its nodule
_MEANT = 8  # findings of one sentence that "it" is looked for among
_SECTION = "impression"
_ALIKE = 100  # findings of one word: more are a list, of which none is repeated for sure
_BLANK_LINE = re.compile(r"\n[ \t\r]*\n")


def merge_repeats(text: str, findings: Sequence[Finding]) -> list[Finding]:
    """Merge definite repeats and impression repeats where exactly one earlier finding can be meant; order kept.

    A report without headings repeats itself in its last paragraph: there only what has the same word and size as one
    earlier finding is a repeat.
    """
    kept: list[Finding] = []
    by_word: dict[str, list[int]] = {}  # what is no impression's, by observation; generic words under one key
    repeated: set[int] = set()
    summary = max((match.end() for match in _BLANK_LINE.finditer(text.rstrip())), default=len(text))
    for finding in findings:
        section = finding.mentions[0].section
        impression = section == _SECTION
        alike = by_word.get(_key(finding), [])
        if not impression:
            alike = alike if finding.mentions[0].sentence[0] >= summary else []
        repeats = [index for index in alike if _repeats(kept[index], finding)] if len(alike) <= _ALIKE else []
        if not impression:
            repeats = [index for index in repeats if _is_summed_up(kept[index], finding, summary)]
        sized = [index for index in repeats if kept[index].sizes]
        candidates = sized if finding.sizes and sized else repeats
        if len(candidates) == 1 and candidates[0] not in repeated:
            repeated.add(candidates[0])
            kept[candidates[0]] = _merged(text, kept[candidates[0]], finding)
        elif (continued := _continued(text, kept, finding)) is not None:
            kept[continued] = _merged(text, kept[continued], finding)
        else:
            if not impression:
                by_word.setdefault(_key(finding), []).append(len(kept))
            kept.append(finding)
    return kept


def _key(finding: Finding) -> str:
    return "" if finding.observation in _GENERIC else finding.observation


def _repeats(earlier: Finding, later: Finding) -> bool:
    """Whether the impression (or a last paragraph) says the same thing again."""
    if earlier.assertion is not later.assertion or not _agree(earlier, later):
        return False
    return earlier.observation == later.observation or bool(_today(earlier) and _today(later))


def _is_summed_up(earlier: Finding, later: Finding, summary: int) -> bool:
    """Whether both have today's size, one before and one in the last paragraph (from ``summary`` on) of a bare text."""
    bare = earlier.mentions[0].section == later.mentions[0].section == BODY
    apart = earlier.mentions[0].sentence[1] <= summary <= later.mentions[0].sentence[0]
    return bare and apart and bool(_today(earlier) and _today(later))


def _continued(text: str, kept: Sequence[Finding], later: Finding) -> int | None:
    """Which finding a later sentence goes on about: the last, or the only one of its sentence that has the name."""
    if not kept:
        return None
    if _continues(text, kept[-1], later):
        return len(kept) - 1
    sentence = kept[-1].mentions[0].sentence
    alike = [
        index
        for index in range(max(len(kept) - _MEANT, 0), len(kept))
        if kept[index].observation == later.observation and kept[index].mentions[0].sentence == sentence
    ]
    return alike[0] if len(alike) == 1 and _continues(text, kept[alike[0]], later) else None


def _continues(text: str, earlier: Finding, later: Finding) -> bool:
    """Whether a later sentence of the section goes on about the same thing ("it", "the nodule") and gives its size."""
    if earlier.assertion is not later.assertion or earlier.assertion is Assertion.ABSENT or not _agree(earlier, later):
        return False
    generic = later.observation in _GENERIC and earlier.observation in _FOCAL
    if earlier.observation != later.observation and not generic:
        return False
    if not later.sizes or (_today(earlier) and _today(later)):
        return False
    before, after = earlier.mentions[0], later.mentions[0]
    if after.phrase[0] == before.phrase[0]:  # the builder has resolved a pronoun and joined it with its noun
        return before.section == after.section and before.sentence[1] < after.sentence[1]
    gap = after.phrase[0] - before.phrase[1]
    if before.section != after.section or before.sentence == after.sentence or not 0 <= gap < _NEIGHBOUR:
        return False
    lead = text[after.sentence[0] : after.phrase[0]]
    if not lead:  # a pronoun that stands apart from its noun
        return _is_pronoun(text, later)
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


def _is_pronoun(text: str, finding: Finding) -> bool:
    """Whether a finding is all of a sentence about "it", without a noun."""
    mention = finding.mentions[0]
    return mention.phrase[0] == mention.sentence[0] and bool(_PRONOUN.match(text, *mention.sentence))


def _merged(text: str, earlier: Finding, later: Finding) -> Finding:
    """The earlier finding with a mention more; the mention that carries the size leads, unless it has no noun."""
    leads = bool(_today(later)) and not _today(earlier) and not _is_pronoun(text, later)
    first, second = (later, earlier) if leads else (earlier, later)
    return replace(
        earlier,
        mentions=first.mentions + second.mentions,
        sizes=first.sizes if _today(first) and _today(second) else first.sizes + second.sizes,
        anatomy=earlier.anatomy or later.anatomy,
        laterality=earlier.laterality or later.laterality,
        image_references=first.image_references or second.image_references,
    )


def named(findings: Sequence[Finding]) -> list[Finding]:
    """The findings with the id of the phrase of their first mention; ``.2``, ``.3`` where phrases are equal."""
    used: dict[str, int] = {}
    named = []
    for finding in findings:
        start, end = finding.mentions[0].phrase
        identity = f"{finding.report_id}#{start}-{end}"
        used[identity] = used.get(identity, 0) + 1
        suffix = f".{used[identity]}" if used[identity] > 1 else ""
        named.append(replace(finding, finding_id=identity + suffix))
    return named
