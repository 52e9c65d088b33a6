"""An extractor that needs no weights: term lists, word order and scopes, in RadGraph's schema."""

from __future__ import annotations

import re
from bisect import bisect_left
from collections.abc import Iterator, Sequence
from dataclasses import replace
from functools import lru_cache
from itertools import pairwise

from nlp.assertion import Scope, assertion_of, find_scopes, takes_back
from nlp.findings import build_findings
from nlp.graph import Entity, Graph, Label, Relation
from nlp.lexicon import ANATOMY, MODIFIER, OBSERVATION, Hit, find_terms
from nlp.places import is_beside, is_listed_with, rank
from nlp.sections import split_sections, split_sentences
from nlp.sizes import find_image_references, find_sizes
from nlp.types import Assertion, Finding, Report

_LANGUAGE = "en"
_REPEATED = 400  # characters of a sentence that is worth remembering
_OBSERVATION = {
    Assertion.PRESENT: Label.OBSERVATION_PRESENT,
    Assertion.UNCERTAIN: Label.OBSERVATION_UNCERTAIN,
    Assertion.ABSENT: Label.OBSERVATION_ABSENT,
}
_HYPOTHETICAL_SECTIONS = frozenset({"history", "indication", "recommendation"})
# Observations that, said "with" another one, describe it.
_ATTRIBUTES = frozenset(
    [
        "air bronchogram",
        "area of enhancement",
        "calcification",
        "cavity",
        "edema",
        "enhancement",
        "fat stranding",
        "gas",
        "hemorrhage",
        "hyperdensity",
        "hypodensity",
        "irregularity",
        "necrosis",
        "septation",
        "stranding",
        "thickening",
        "volume loss",
    ]
)
# Observations whose name says where they are: they have no share in the place of what is listed with them.
_SELF_PLACED = frozenset(
    [
        "accessory spleen",
        "appendicitis",
        "cardiomegaly",
        "cholecystitis",
        "cirrhosis",
        "gallstone",
        "goiter",
        "gynecomastia",
        "hepatomegaly",
        "hepatosteatosis",
        "hernia",
        "hydronephrosis",
        "midline shift",
        "pancreatitis",
        "pericardial effusion",
        "pneumomediastinum",
        "pneumoperitoneum",
        "scoliosis",
        "splenomegaly",
    ]
)
_LENGTH = re.compile(r"\d[\d.,]*(?:\s?[x×-]\s?\d[\d.,]*)*\s?-?\s?(?=mm\b|cm\b|millimet|centimet)")
_CHAIN = re.compile(r"\s*(?P<comma>,)?\s*(?:\(|-)?\s*(?:of|in)?\s*(?:the\s+)?(?:level\s+of\s+(?:the\s+)?)?")
# Between a describing word and its noun: other describing words, never a verb, a preposition or a new noun phrase.
_STOPPERS = re.compile(
    r"[;:.()]|\b(?:is|are|was|were|in|of|at|on|with|without|within|from|to|near|which|that|has|have|there|the|a|an|no|but|measuring|"
    r"measures|measured|along|adjacent|by|also|seen|observed|noted)\b"
)
_PARTED = re.compile(rf"[,;]|{_STOPPERS.pattern}")
_HARD_STOP = re.compile(r"[;]|\btoo\b|\bbut\b|\bhowever\b|\band\s+(?:a|an|the|there|no)\b|\bthere\s+(?:is|are)\b")
_THERE_IS = re.compile(r"there (?:is|are|was|were)(?: an?)?")
_INTO_PLACE = re.compile(
    r"\b(?:in|within|at|of|involving|along|on|throughout|over|inside|into|to|occupying|arising\s+from|from)\s+"
    r"(?:(?:the|a|its|level|region|area|aspect|part|portion|pole|periphery|dome|left|right|both|of|posterior|anterior|lateral|medial|"
    r"superior|inferior|upper|lower|middle|mid|central|peripheral|subpleural)\s+|and\s+)*(?:[\w-]+\s+){0,2}$"
)
_MEASURE_WORDS = re.compile(r"\bmeasur\w+|\bmm|\bcm")
_WORD = re.compile(r"[a-z]{2}")
_SIDED = re.compile(r"\b(?:right|left|both|bilateral)\b")
_OPENING = re.compile(r"\W*(?:(?:in|at|on|within|throughout)\s+)?(?:the\s+)?(?:level\s+of\s+(?:the\s+)?)?")
_CLAUSE_OPENING = re.compile(
    r"(?:[,;]|\band)\s+(?:and\s+|while\s+|whereas\s+)?(?:in|at|on|within)\s+(?:the\s+)?(?:level\s+of\s+(?:the\s+)?)?$"
)
_LEADS_TO = re.compile(
    r"\s*(?:,\s*)?there\s+(?:is|are|was|were)\b(?:\s+(?!(?:and|or|with|without)\b)[\w§-]+){0,8}\s*|"
    r"\s*,\s*(?:(?!(?:and|or|with|without|as|in|at|on|the)\b)[\w§-]+\s+){0,6}\s*"
)
_AND_ONE = re.compile(r"\s*,?\s*and\s+(?:an?|one)\s+(?:[a-z-]+\s+){0,2}")
_AND = re.compile(r"\s*(?:,|,?\s*(?:and|or|and/or|/|-))\s*(?:\w+\s+){0,2}")
_WITH = re.compile(
    r"[\s,]*(?:(?:(?:of|measuring)\s+)?§+\s?(?:mm|cm)\s+(?:in\s+(?:diameter|size)\s+)?)?(?:(?:is|are)\s+seen\s+)?(?:with|without|and|showing|containing)\s+(?:\w+[\s-]+){0,3}"
)
_SUGGESTS = re.compile(
    r"\b(?:likely|probabl[ey]|possibl[ey]|suspicious\s+(?:for|of)|suspected|may\s+(?:be|represent|reflect)|might|could\s+(?:be|represent)|"
    r"concerning\s+for|worrisome\s+for|suggest\w*|consistent\s+with|compatible\s+with|in\s+keeping\s+with|represent\w*|in\s+favou?r\s+of|"
    r"indicative\s+of|due\s+to|thought\s+to|differential|dd|versus|vs\.?|rule\s+out|exclude)\b|\([^()]*$"
)


class RulesExtractor:
    """Findings by rules: own term lists on a blank spaCy pipeline, ConText-like scopes, lengths attached by position.

    Precision comes before recall: a length that could belong to two things belongs to neither. What is not listed in
    ``nlp/terms`` (about 270 observations and 360 places, each in several spellings) is not found.
    """

    name = "rules"
    version = "2"
    languages = frozenset({_LANGUAGE})

    def extract(self, reports: Sequence[Report]) -> Sequence[Sequence[Finding]]:
        """Return the findings of each report, in the order of the reports."""
        return [self._findings(report) for report in reports]

    def graph(self, text: str) -> Graph:
        """Return the entities and relations of a report's text, with character offsets into it."""
        sections = iter(split_sections(text))
        section = next(sections, None)
        entities: list[Entity] = []
        last = 0
        for start, end in split_sentences(text):
            while section is not None and section.end <= start:
                section = next(sections, None)
            hypothetical = section is not None and section.name in _HYPOTHETICAL_SECTIONS
            read = _read_again if end - start <= _REPEATED else _read
            base = len(entities)
            if takes_back(_shadow(text[start:end])):
                _deny_only_head(entities, last)
            last = base
            entities += [
                Entity(
                    (entity.span[0] + start, entity.span[1] + start),
                    entity.label,
                    entity.term,
                    tuple((relation, target + base) for relation, target in entity.relations),
                )
                for entity in read(text[start:end], hypothetical=hypothetical)
            ]
        return Graph(tuple(entities))

    def _findings(self, report: Report) -> list[Finding]:
        return build_findings(
            report,
            self.graph(report.text),
            sizes=find_sizes(report.text, _LANGUAGE),
            references=find_image_references(report.text, _LANGUAGE),
            extractor=f"{self.name}@{self.version}",
        )


def _read(sentence: str, *, hypothetical: bool) -> tuple[Entity, ...]:
    """The entities of a sentence, with spans and relations counted in it."""
    hits = find_terms(sentence)
    return tuple(_Sentence(_shadow(sentence), hits).entities(hypothetical=hypothetical)) if hits else ()


_read_again = lru_cache(maxsize=4096)(_read)  # reports repeat their sentences


class _Sentence:
    """The terms of one sentence and how they hang together. ``words`` is its text as :func:`_shadow` returns it."""

    def __init__(self, words: str, hits: Sequence[Hit]) -> None:
        self._words = words
        self._hits = hits
        self._spans = [hit.span for hit in hits]
        self._heads = [index for index, hit in enumerate(hits) if hit.kind == OBSERVATION]
        self._places = [index for index, hit in enumerate(hits) if hit.kind == ANATOMY]
        self._relations: list[list[tuple[Relation, int]]] = [[] for _ in hits]

    def entities(self, *, hypothetical: bool) -> Iterator[Entity]:
        """The sentence's entities; a describing word that describes nothing ("old CT") is left out.

        ``hypothetical``: what the sentence says is asked for and not seen.
        """
        self._chain_places()
        if self._heads:
            self._describe()
            self._locate()
            self._suggest()
        scopes = find_scopes(self._words) if self._heads else []
        kept = [index for index, hit in enumerate(self._hits) if hit.kind != MODIFIER or self._relations[index]]
        position = {index: place for place, index in enumerate(kept)}
        for index in kept:
            relations = tuple((kind, position[target]) for kind, target in dict.fromkeys(self._relations[index]))
            label = self._label(index, scopes, hypothetical=hypothetical)
            yield Entity(self._spans[index], label, self._hits[index].term, relations)

    def _label(self, index: int, scopes: Sequence[Scope], *, hypothetical: bool) -> Label:
        kind = self._hits[index].kind
        if kind == ANATOMY:
            return Label.ANATOMY_PRESENT
        assertion = assertion_of(self._spans[index], scopes)
        if assertion is Assertion.PRESENT and hypothetical and kind == OBSERVATION:
            assertion = Assertion.UNCERTAIN
        return _OBSERVATION[assertion]

    def _between(self, first: int, second: int) -> str:
        return self._words[self._spans[first][1] : self._spans[second][0]]

    def _bare(self, first: int, second: int) -> str:
        """The words between two terms, without the terms among them."""
        pieces = [self._words[end:start] for (_, end), (start, _) in pairwise(self._spans[first : second + 1])]
        return " ".join(pieces)

    def _lead(self, index: int) -> str:
        """The sentence up to a term."""
        return self._words[: self._spans[index][0]]

    def _chain_places(self) -> None:
        """In "segment 7 of the liver" and "right lung upper lobe" each place describes the next one.

        A comma makes a list of equals ("liver, spleen") and a chain of a whole and its part ("liver, segment 7").
        """
        for first, second in pairwise(self._places):
            chain = _CHAIN.fullmatch(self._between(first, second)) if second == first + 1 else None
            if chain is not None and not (
                chain["comma"] and rank(self._hits[first].term) == rank(self._hits[second].term)
            ):
                self._relations[first].append((Relation.MODIFY, second))

    def _describe(self) -> None:
        """Describing words go to the noun that follows, else to the noun before; heads side by side to the last one."""
        heads = self._heads
        for index, hit in enumerate(self._hits):
            if hit.kind != MODIFIER:
                continue
            order = bisect_left(heads, index)
            if order < len(heads) and not _STOPPERS.search(self._bare(index, heads[order])):
                self._relations[index].append((Relation.MODIFY, heads[order]))
            elif order and not _HARD_STOP.search(self._between(heads[order - 1], index)):
                self._relations[index].append((Relation.MODIFY, heads[order - 1]))
        for first, second in pairwise(heads):
            gap = self._between(first, second)
            if not gap.strip():
                self._relations[first].append((Relation.MODIFY, second))
            elif self._hits[second].term in _ATTRIBUTES and _WITH.fullmatch(gap):
                self._relations[second].append((Relation.MODIFY, first))

    def _locate(self) -> None:
        claimed: set[int] = set()
        last = -1
        for order, head in enumerate(self._heads):
            before = [place for place in self._places if last < place < head]
            last = head
            found = list(
                self._places_of(head, [place for place in before if place not in claimed], self._heads[order + 1 :])
            )
            claimed.update(found)
            self._relations[head] += [(Relation.LOCATED_AT, index) for index in found]
        for first, second in pairwise(self._heads):
            self._share_places(first, second)

    def _share_places(self, first: int, second: int) -> None:
        """In "a cyst and a hemangioma in the liver" both lie there."""
        places = [index for kind, index in self._relations[second] if kind is Relation.LOCATED_AT]
        if not places or min(places) < second or self._hits[first].term in _SELF_PLACED:
            return
        placed = any(kind is Relation.LOCATED_AT for kind, _ in self._relations[first])
        if not placed and _AND_ONE.fullmatch(self._between(first, second)):
            self._relations[first] += [(Relation.LOCATED_AT, index) for index in places]

    def _places_of(self, head: int, before: Sequence[int], later_heads: Sequence[int]) -> Iterator[int]:
        close = [place for place in before if not _STOPPERS.search(self._bare(place, head))]
        inside: list[int] = []
        after = [place for place in self._places if place > head]
        if after:
            limit = self._reach(head, later_heads)
            inside = [place for place in after if self._spans[place][0] < limit and self._is_inside(head, place)][:1]
        yield from close
        yield from inside
        yield from (place for place in self._linked(inside) if place in after)
        if inside:
            yield from self._listed(inside[0], [place for place in after if self._spans[place][0] < limit])
        introduced = [place for place in before if place not in close and self._introduces(place, head)]
        if not close and not inside:
            yield from introduced[-1:]
        elif not any(_SIDED.search(self._hits[place].term) for place in (*close, *inside)):
            yield from (
                place
                for place in introduced[-1:]
                if _OPENING.fullmatch(self._lead(place)) or self._opens_clause(place, head)
            )

    def _listed(self, place: int, after: Sequence[int]) -> Iterator[int]:
        """The places that stand in one list with a place: "in the liver, spleen and left kidney"."""
        current = place
        for following in after:
            if following <= current:
                continue
            gap, behind = self._bare(current, following), self._words[self._spans[following][1] :]
            if following != current + 1 or not (is_listed_with(gap, behind) or self._is_linked(current, following)):
                return
            later = bisect_left(self._heads, following)
            if later < len(self._heads) and self._opens_clause(following, self._heads[later]):
                return
            yield following
            current = following

    def _opens_clause(self, place: int, head: int) -> bool:
        """Whether a place in mid-sentence leads to the head behind it: "..., and in the left lung, nodules"."""
        return bool(_CLAUSE_OPENING.search(self._lead(place)) and _LEADS_TO.fullmatch(self._bare(place, head)))

    def _is_linked(self, first: int, second: int) -> bool:
        return (Relation.MODIFY, second) in self._relations[first]

    def _introduces(self, place: int, head: int) -> bool:
        """Whether a place before the head is no mere neighbour: "in the left lung, there is a nodule"."""
        if is_beside(self._lead(place)):
            return False
        return not _HARD_STOP.search(_THERE_IS.sub("", self._between(place, head)))

    def _reach(self, head: int, later_heads: Sequence[int]) -> int:
        """Where the places behind a head stop being its own: at the next head, unless "A and B in the lung"."""
        if later_heads and self._hits[head].term in _SELF_PLACED:
            return self._spans[later_heads[0]][0]
        current = head
        for later in later_heads:
            lead = self._lead(later)
            if lead.count("(") > lead.count(")"):  # an explanation in brackets
                continue
            if (Relation.MODIFY, head) in self._relations[later]:  # "with calcification"
                continue
            if not _AND.fullmatch(self._bare(current, later)) and self._between(current, later).strip():
                return self._spans[later][0]
            current = later
        return len(self._words)

    def _is_inside(self, head: int, place: int) -> bool:
        lead = self._lead(place)
        if _HARD_STOP.search(self._between(head, place)) or is_beside(lead):
            return False
        if _INTO_PLACE.search(lead):
            return True
        return not _WORD.search(_MEASURE_WORDS.sub("", self._bare(head, place))) and not self._names_next(place)

    def _names_next(self, place: int) -> bool:
        """Whether a place stands right before a head of its own: "right adrenal nodule 15 mm, left adrenal nodule"."""
        order = bisect_left(self._heads, place)
        return order < len(self._heads) and not _PARTED.search(self._bare(place, self._heads[order]))

    def _linked(self, places: Sequence[int]) -> list[int]:
        return [
            target for place in places for relation, target in self._relations[place] if relation is Relation.MODIFY
        ]

    def _suggest(self) -> None:
        for first, second in pairwise(self._heads):
            described = any(relation is Relation.MODIFY for relation, _ in self._relations[first])
            if not described and _SUGGESTS.search(self._between(first, second)):
                self._relations[first].append((Relation.SUGGESTIVE_OF, second))


def _deny_only_head(entities: list[Entity], first: int) -> None:
    """Deny the one thing that the entities from ``first`` on, those of a sentence, say is there."""
    present = [
        index
        for index in range(first, len(entities))
        if entities[index].label is Label.OBSERVATION_PRESENT
        and not any(relation is Relation.MODIFY for relation, _ in entities[index].relations)
    ]
    if len(present) == 1:
        entities[present[0]] = replace(entities[present[0]], label=Label.OBSERVATION_ABSENT)


def _shadow(sentence: str) -> str:
    """A sentence in lower case with its lengths blotted out, character for character."""
    words = sentence.lower()
    if len(words) != len(sentence):  # a few letters grow in lower case
        words = sentence
    return _LENGTH.sub(lambda match: "§" * len(match.group()), words)
