"""An extractor that needs no weights: term lists, word order and scopes, in RadGraph's schema."""

from __future__ import annotations

import itertools
import re
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, replace
from functools import cache
from typing import Any

from nlp.assertion import Scope, assertion_of, find_scopes
from nlp.findings import build_findings
from nlp.graph import Entity, Graph, Label, Relation
from nlp.sections import split_sections, split_sentences
from nlp.sizes import find_image_references, find_sizes
from nlp.types import Assertion, Finding, Report, Span
from nlp.vocabulary import load_terms

_MAX_TERMS = 150
_OBSERVATION = {
    Assertion.PRESENT: Label.OBSERVATION_PRESENT,
    Assertion.UNCERTAIN: Label.OBSERVATION_UNCERTAIN,
    Assertion.ABSENT: Label.OBSERVATION_ABSENT,
}
_HYPOTHETICAL_SECTIONS = frozenset({"history", "indication", "recommendation"})
# Observations that, said "with" another one, describe it.
_ATTRIBUTES = frozenset(
    [
        "calcification",
        "necrosis",
        "cavity",
        "thickening",
        "septation",
        "enhancement",
        "edema",
        "hemorrhage",
        "stranding",
        "hypodensity",
        "hyperdensity",
    ]
) | {"air bronchogram", "fat stranding", "volume loss", "area of enhancement"}

_PLACE_WORDS = re.compile(
    r"(?:\b(?:right|left|bilateral|both|upper|lower|mid|middle|anterior|posterior|lateral|medial|inferior|superior|proximal|distal|"
    r"central|basal|apical|ascending|descending|main|great|common|external|internal|rt|lt|r|l)[\s-]+)+$"
)
_SIDES = {"rt": "right", "r": "right", "lt": "left", "l": "left"}
_PLACE_NUMBER = re.compile(
    r"\b(?:seg(?:ment)?s?\.?\s+(?:[ivx]{1,4}|\d{1,2})(?:\s?[ab])?(?:\s?[/-]\s?(?:[ivx]{1,4}|\d{1,2})(?:[ab])?)?|(?:station|level)\s+\d{1,2}[lr]?)\b"
)
_CHAIN = re.compile(r"\s*(?:,|\(|-)?\s*(?:of|in)?\s*(?:the\s+)?(?:level\s+of\s+(?:the\s+)?)?")
_SIDE_CHAIN = re.compile(r"\s+")
# Between a describing word and its noun: other describing words, never a verb, a preposition or a new noun phrase.
_STOPPERS = re.compile(
    r"[;:.()]|\b(?:is|are|was|were|in|of|at|on|with|without|within|from|to|near|which|that|has|have|there|the|a|an|no|but|measuring|"
    r"measures|measured|along|adjacent|by|also|seen|observed|noted)\b"
)
_HARD_STOP = re.compile(r"[;]|\btoo\b|\bbut\b|\bhowever\b|\band\s+(?:a|an|the|there|no)\b|\bthere\s+(?:is|are)\b")
_INTO_PLACE = re.compile(
    r"\b(?:in|within|at|of|involving|along|on|throughout|over|inside|into|to|occupying|arising\s+from|from)\s+"
    r"(?:(?:the|a|its|level|region|area|aspect|part|portion|pole|periphery|dome|left|right|both|of|posterior|anterior|lateral|medial|"
    r"superior|inferior|upper|lower|middle|mid|central|peripheral|subpleural)\s+|and\s+)*(?:[\w-]+\s+){0,2}$"
)
_BESIDE = re.compile(
    r"(?:\b(?:adjacent|close|next|contiguous|anterior|posterior|superior|inferior|lateral|medial|proximal|distal|relative|extending|extends|"
    r"invading|compared|similar|up|down)\s+(?:\w+\s+)?to|\babutting|\bnear|\bbeside|\btouching|\bcontacting|\babove|\bbelow|\bbeneath|"
    r"\b(?:mm|cm|§)\s+from|\baway\s+from|\bdistance\s+\w+|\bbehind|\binvading|\bdisplacing|\bcompressing)\s+(?:(?:the|left|right|both|adjacent)\s+)*$"
)
_SIDED = re.compile(r"\b(?:right|left|both|bilateral)\b")
_OPENING = re.compile(r"\W*(?:(?:in|at|on|within|throughout)\s+)?(?:the\s+)?(?:level\s+of\s+(?:the\s+)?)?")
_AND = re.compile(r"\s*(?:,|,?\s*(?:and|or|and/or|/|-))\s*(?:\w+\s+){0,2}")
_WITH = re.compile(r"[\s,]*(?:(?:is|are)\s+seen\s+)?(?:with|without|and|showing|containing)\s+(?:\w+[\s-]+){0,3}")
_SUGGESTS = re.compile(
    r"\b(?:likely|probabl[ey]|possibl[ey]|suspicious\s+(?:for|of)|suspected|may\s+(?:be|represent|reflect)|might|could\s+(?:be|represent)|"
    r"concerning\s+for|worrisome\s+for|suggest\w*|consistent\s+with|compatible\s+with|in\s+keeping\s+with|represent\w*|in\s+favou?r\s+of|"
    r"indicative\s+of|due\s+to|thought\s+to|differential|versus|vs\.?|rule\s+out|exclude)\b|\([^()]*$"
)


@dataclass(frozen=True, slots=True)
class _Hit:
    """A term found in a sentence."""

    span: Span
    kind: str
    term: str


class RulesExtractor:
    """Findings by rules: own term lists on a blank spaCy pipeline, ConText-like scopes, lengths attached by position.

    Precision comes before recall: a length that could belong to two things belongs to neither. English only. It knows
    about 150 observations and 200 places (``nlp/terms``); what is not listed is not found.
    """

    name = "rules"
    version = "1"

    def extract(self, reports: Sequence[Report]) -> Sequence[Sequence[Finding]]:
        """Return the findings of each report, in the order of the reports."""
        return [self._findings(report) for report in reports]

    def graph(self, text: str) -> Graph:
        """Return the entities and relations of a report's text, with character offsets into it."""
        hits = sorted(_hits(text), key=lambda hit: hit.span)
        sections = split_sections(text)
        entities: list[Entity] = []
        for start, end in split_sentences(text):
            section = next((part.name for part in sections if part.start <= start < part.end), "")
            inside = [hit for hit in hits if start <= hit.span[0] and hit.span[1] <= end]
            if len(inside) > _MAX_TERMS:  # a table or a word list, not a sentence
                continue
            entities += _Sentence(_shadow(text, (start, end)), start, inside).entities(len(entities), section)
        return Graph(tuple(entities))

    def _findings(self, report: Report) -> list[Finding]:
        return build_findings(
            report,
            self.graph(report.text),
            sizes=find_sizes(report.text),
            references=find_image_references(report.text),
            extractor=f"{self.name}@{self.version}",
        )


class _Sentence:
    """The terms of one sentence and how they hang together. ``words`` is its text as :func:`_shadow` returns it."""

    def __init__(self, words: str, offset: int, hits: Sequence[_Hit]) -> None:
        self._words = words
        self._hits = [replace(hit, span=(hit.span[0] - offset, hit.span[1] - offset)) for hit in hits]
        self._offset = offset
        self._relations: list[list[tuple[Relation, int]]] = [[] for _ in hits]

    def entities(self, base: int, section: str) -> Iterator[Entity]:
        """The sentence's entities; ``base`` is the index of the first one in the graph.

        A describing word that describes nothing ("old CT") is left out.
        """
        self._chain_places()
        self._describe()
        self._locate()
        self._suggest()
        scopes = find_scopes(self._words)
        kept = [i for i, hit in enumerate(self._hits) if hit.kind != "modifiers" or self._relations[i]]
        position = {index: base + place for place, index in enumerate(kept)}
        for index in kept:
            hit = self._hits[index]
            start, end = hit.span
            yield Entity(
                (start + self._offset, end + self._offset),
                self._label(hit, scopes, section),
                hit.term,
                tuple((relation, position[target]) for relation, target in dict.fromkeys(self._relations[index])),
            )

    @staticmethod
    def _label(hit: _Hit, scopes: list[Scope], section: str) -> Label:
        if hit.kind == "anatomy":
            return Label.ANATOMY_PRESENT
        assertion = assertion_of(hit.span, scopes)
        if assertion is Assertion.PRESENT and section in _HYPOTHETICAL_SECTIONS and hit.kind == "observations":
            assertion = Assertion.UNCERTAIN
        return _OBSERVATION[assertion]

    def _between(self, first: int, second: int) -> str:
        return self._words[self._hits[first].span[1] : self._hits[second].span[0]]

    def _of(self, *kinds: str) -> list[int]:
        return [index for index, hit in enumerate(self._hits) if hit.kind in kinds]

    def _chain_places(self) -> None:
        """In "segment 7 of the liver" and "right lung upper lobe" each place describes the next one."""
        for first, second in zip(self._of("anatomy"), self._of("anatomy")[1:], strict=False):
            if second == first + 1 and _CHAIN.fullmatch(self._between(first, second)):
                self._relations[first].append((Relation.MODIFY, second))

    def _describe(self) -> None:
        """Describing words go to the noun that follows, else to the noun before; heads side by side to the last one."""
        heads = self._of("observations")
        for index in self._of("modifiers"):
            after = next((head for head in heads if head > index), None)
            before = next((head for head in reversed(heads) if head < index), None)
            if after is not None and not _STOPPERS.search(self._bare(index, after)):
                self._relations[index].append((Relation.MODIFY, after))
            elif before is not None and not _HARD_STOP.search(self._between(before, index)):
                self._relations[index].append((Relation.MODIFY, before))
        for first, second in itertools.pairwise(heads):
            gap = self._between(first, second)
            if not gap.strip():
                self._relations[first].append((Relation.MODIFY, second))
            elif self._hits[second].term in _ATTRIBUTES and _WITH.fullmatch(gap):
                self._relations[second].append((Relation.MODIFY, first))

    def _bare(self, first: int, second: int) -> str:
        """The words between two terms, without the terms among them."""
        text = self._between(first, second)
        start = self._hits[first].span[1]
        for hit in self._hits[first + 1 : second]:
            text = text[: hit.span[0] - start] + " " * (hit.span[1] - hit.span[0]) + text[hit.span[1] - start :]
        return text

    def _locate(self) -> None:
        heads = self._of("observations")
        claimed: set[int] = set()
        for order, head in enumerate(heads):
            before = [place for place in self._of("anatomy") if (heads[order - 1] if order else -1) < place < head]
            found = list(self._places_of(head, [place for place in before if place not in claimed], heads[order + 1 :]))
            claimed.update(found)
            self._relations[head] += [(Relation.LOCATED_AT, index) for index in found]

    def _places_of(self, head: int, before: Sequence[int], later_heads: Sequence[int]) -> Iterator[int]:
        after = [place for place in self._of("anatomy") if place > head]
        close = [place for place in before if not _STOPPERS.search(self._bare(place, head))]
        limit = self._reach(head, later_heads)
        inside = [place for place in after if self._hits[place].span[0] < limit and self._is_inside(head, place)]
        yield from close
        yield from inside[:1]
        yield from (place for place in self._linked(inside[:1]) if place in after)
        introduced = [place for place in before if place not in close and self._introduces(place, head)]
        if not close and not inside:
            yield from introduced[-1:]
        elif not any(_SIDED.search(self._hits[place].term) for place in (*close, *inside)):
            yield from (
                place for place in introduced[-1:] if _OPENING.fullmatch(self._words[: self._hits[place].span[0]])
            )

    def _introduces(self, place: int, head: int) -> bool:
        """Whether a place before the head is no mere neighbour: "in the left lung, there is a nodule"."""
        if _BESIDE.search(self._words[: self._hits[place].span[0]]):
            return False
        return not _HARD_STOP.search(re.sub(r"there (?:is|are)(?: an?)?", "", self._between(place, head)))

    def _reach(self, head: int, later_heads: Sequence[int]) -> int:
        """Where the places behind a head stop being its own: at the next head, unless "A and B in the lung"."""
        current = head
        for later in later_heads:
            lead = self._words[: self._hits[later].span[0]]
            if lead.count("(") > lead.count(")"):  # an explanation in brackets
                continue
            if not _AND.fullmatch(self._bare(current, later)) and self._between(current, later).strip():
                return self._hits[later].span[0]
            current = later
        return len(self._words)

    def _is_inside(self, head: int, place: int) -> bool:
        gap = self._between(head, place)
        lead = self._words[: self._hits[place].span[0]]
        if _HARD_STOP.search(gap) or _BESIDE.search(lead):
            return False
        return bool(_INTO_PLACE.search(lead)) or not re.search(
            r"[a-z]{2}", re.sub(r"\bmeasur\w+|\bmm|\bcm", "", self._bare(head, place))
        )

    def _linked(self, places: Sequence[int]) -> list[int]:
        return [
            target for place in places for relation, target in self._relations[place] if relation is Relation.MODIFY
        ]

    def _suggest(self) -> None:
        heads = self._of("observations")
        for first, second in itertools.pairwise(heads):
            described = any(relation is Relation.MODIFY for relation, _ in self._relations[first])
            if not described and _SUGGESTS.search(self._between(first, second)):
                self._relations[first].append((Relation.SUGGESTIVE_OF, second))


def _hits(text: str) -> list[_Hit]:
    """Terms of the report, the longest first where they overlap; a place takes the side and level words before it."""
    tokenizer, matcher = _pipeline()
    doc = tokenizer(text)
    order = {"observations": 0, "anatomy": 1, "modifiers": 2}
    lower = text.lower() if len(text.lower()) == len(text) else text
    found = []
    for span in matcher(doc, as_spans=True):
        kind = span.label_
        if "\n\n" in text[span.start_char : span.end_char]:
            continue
        term = load_terms(kind)[re.sub(r"\s*([-'/])\s*", r"\1", re.sub(r"\s+", " ", span.text.lower()))].canonical
        found.append(_Hit((span.start_char, span.end_char), kind, term))
    found += [_Hit(match.span(), "anatomy", _numbered(match.group())) for match in _PLACE_NUMBER.finditer(lower)]
    found.sort(key=lambda hit: (hit.span[0] - hit.span[1], order[hit.kind]))
    kept: list[_Hit] = []
    for hit in found:
        if all(hit.span[1] <= other.span[0] or hit.span[0] >= other.span[1] for other in kept):
            kept.append(hit)
    return [_with_place_words(lower, hit) if hit.kind == "anatomy" else hit for hit in kept]


def _numbered(written: str) -> str:
    return re.sub(r"^segs?\.?\s+|^segments?\s+", "segment ", " ".join(written.split()))


def _with_place_words(lower: str, hit: _Hit) -> _Hit:
    match = _PLACE_WORDS.search(lower[max(0, hit.span[0] - 60) : hit.span[0]])
    if match is None:
        return hit
    words = " ".join(_SIDES.get(word, word) for word in match.group().replace("-", " ").split())
    return _Hit((hit.span[0] - len(match.group()), hit.span[1]), "anatomy", f"{words} {hit.term}")


def _shadow(text: str, sentence: Span) -> str:
    """The sentence in lower case with its lengths blotted out, character for character."""
    start, end = sentence
    words = text[start:end].lower()
    if len(words) != end - start:
        words = text[start:end]
    return re.sub(
        r"\d[\d.,]*(?:\s?[x×-]\s?\d[\d.,]*)*\s?-?\s?(?=mm\b|cm\b|millimet|centimet)",
        lambda match: "§" * len(match.group()),
        words,
    )


@cache
def _pipeline() -> tuple[Any, Any]:
    """A blank pipeline's tokenizer, which cuts at every punctuation mark, and a matcher of the term lists."""
    import spacy
    from spacy.matcher import PhraseMatcher
    from spacy.tokenizer import Tokenizer

    mark = r"[^\w\s]|_"
    vocab = spacy.blank("en").vocab
    tokenizer = Tokenizer(
        vocab,
        prefix_search=re.compile(rf"^(?:{mark})").search,
        suffix_search=re.compile(rf"(?:{mark})$").search,
        infix_finditer=re.compile(mark).finditer,
    )
    matcher = PhraseMatcher(vocab, attr="LOWER")
    matcher.add("observations", list(tokenizer.pipe(load_terms("observations"))))
    matcher.add("anatomy", list(tokenizer.pipe(load_terms("anatomy"))))
    matcher.add("modifiers", list(tokenizer.pipe(load_terms("modifiers"))))
    return tokenizer, matcher
