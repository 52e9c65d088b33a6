"""From entities, relations and lengths to findings: one per thing that the report speaks of."""

from __future__ import annotations

import re
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, replace
from itertools import pairwise
from typing import Protocol

from nlp.attach import Attached, are_several, best_head, group_sizes, overlap, without_lesion
from nlp.graph import Graph, Relation
from nlp.merge import merge_repeats, named
from nlp.places import laterality_of, place_name
from nlp.sections import split_sections, split_sentences
from nlp.types import (
    Assertion,
    Finding,
    ImageReference,
    Laterality,
    Mention,
    Report,
    Size,
    SizeKind,
    Span,
)

_SPEAKS_OF_BEFORE = re.compile(
    r"\W*(?:however\W+)?(?:it|this|that|these|they|its|their|measur\w+|size|(?:the\s+)?(?:larger|largest|biggest|smaller|smallest|dominant)|"
    r"the\s+(?:size|diameter|dimensions?|short|long)|(?:short|long)\s+(?:axis|diameter)|now|currently|previously|approximately|\d)",
    re.IGNORECASE,
)
_LARGEST = re.compile(
    r"\b(?:larger|largest|biggest|greatest|dominant|index)\b(?!\s+(?:axial\s+)?(?:diameter|dimension|axis))",
    re.IGNORECASE,
)
_RESPECTIVELY = re.compile(r"\brespectively\b", re.IGNORECASE)
_BRACKET_REST = 30  # characters between a phrase's end and the bracket that it leaves open
_ATTACHED_KINDS = frozenset({SizeKind.LESION, SizeKind.OTHER})


class Extractor(Protocol):
    """Anything that turns reports into findings.

    ``extract`` returns one sequence per report, in the order of the reports. Spans are offsets into ``Report.text``,
    and ``Finding.finding_id`` is ``f"{report_id}#{start}-{end}"`` of the first mention's phrase.
    """

    name: str

    def extract(self, reports: Sequence[Report]) -> Sequence[Sequence[Finding]]:
        """Return the findings of each report."""
        ...


@dataclass(frozen=True, slots=True)
class _Place:
    """Where the sentence of a finding stands."""

    sentence: Span
    section: str
    sizes: tuple[Size, ...]
    references: tuple[ImageReference, ...]
    entities: tuple[int, ...]
    heads: tuple[int, ...]


def build_findings(
    report: Report, graph: Graph, *, sizes: Sequence[Size], references: Sequence[ImageReference], extractor: str
) -> list[Finding]:
    """Turn a report's graph and lengths into findings, in text order.

    A head observation and each lesion length attached to it make one finding ("nodules of 5 and 7 mm" make two); an
    earlier day's length goes with today's. Its phrase runs from the first to the last of head, describing words,
    places, lengths and image reference, within one sentence. A length that could belong to two heads is left out. The
    length of a vessel, duct or organ makes a finding named after it. Several lengths of one thing at one place ("the
    nodule, nadir 12 mm, 15 mm") are the size of none. What the impression repeats becomes a second mention. Two
    findings with the same phrase keep distinct ids by ``.2``, ``.3`` behind the second and third.
    """
    findings: list[Finding] = []
    before: tuple[_Place, int] | None = None  # the last sentence with one head that a pronoun can mean
    heads = frozenset(graph.heads())
    for place in _places(report.text, graph, heads, sizes, references):
        builder = _Builder(report, graph, place, extractor)
        found = list(builder.findings(before))
        findings += found
        before = builder.antecedent(before)
    return named(
        report.text, merge_repeats(report.text, sorted(findings, key=lambda finding: finding.mentions[0].phrase))
    )


class _Builder:
    """The findings of one sentence."""

    def __init__(self, report: Report, graph: Graph, place: _Place, extractor: str) -> None:
        self._report = report
        self._text = report.text
        self._graph = graph
        self._place = place
        self._extractor = extractor
        self._heads = place.heads

    def findings(self, before: tuple[_Place, int] | None) -> Iterator[Finding]:
        """Yield the sentence's findings; ``before`` is what a pronoun at its start means."""
        by_head: dict[int, list[Size]] = {head: [] for head in self._heads}
        orphans: list[Size] = []
        for size in self._place.sizes:
            if size.kind is SizeKind.NORMAL_STRUCTURE:
                yield from self._structure(size)
            elif size.kind in _ATTACHED_KINDS:
                reached = {head: sizes[-1].span[1] for head, sizes in by_head.items() if sizes}
                head = best_head(self._text, self._graph, self._heads, size, sizes=self._place.sizes, reached=reached)
                (orphans if head is None else by_head[head]).append(size)
        for head, own in by_head.items():
            yield from self._of_head(head, group_sizes(self._text, own))
        if before is not None and self._speaks_of_before() and not any(by_head.values()):
            for attached in group_sizes(self._text, orphans):
                yield self._of_antecedent(before[1], attached)

    def antecedent(self, before: tuple[_Place, int] | None) -> tuple[_Place, int] | None:
        """The one present thing that the next sentence's "it" can mean, in this sentence or, through it, before."""
        things = [
            head
            for head in self._heads
            if self._graph.entities[head].label.assertion is not Assertion.ABSENT
            and not self._graph.sources(head, Relation.SUGGESTIVE_OF)
        ]
        if len(things) == 1:
            return self._place, things[0]
        same_section = before is not None and before[0].section == self._place.section
        silent = not self._place.entities or (not self._heads and self._speaks_of_before())
        return before if same_section and silent else None

    def _speaks_of_before(self) -> bool:
        return bool(_SPEAKS_OF_BEFORE.match(self._text[slice(*self._place.sentence)]))

    def _of_head(self, head: int, groups: Sequence[Attached]) -> Iterator[Finding]:
        places = self._places_of(head)
        if not groups:
            yield self._finding(head, None, places, self._references(None, self._graph.entities[head].span))
            return
        if len(groups) == 1:
            since, here = self._largest(head, groups[0]) or (None, [])
            references = self._references(groups[0], groups[0].span)
            yield self._finding(head, groups[0], here or places, references, since=since)
            return
        found = [
            self._finding(head, attached, here, self._references(attached, attached.span), alone=False)
            for attached, here in zip(groups, self._own_places(head, groups), strict=True)
        ]
        apart = len({(finding.anatomy, finding.laterality) for finding in found}) == len(found)
        several = apart or are_several(self._text, self._graph.entities[head].span, groups)
        yield from found if several else (replace(one, sizes=without_lesion(one.sizes)) for one in found)

    def _places_of(self, head: int) -> list[int]:
        """The places of a head and of what describes it, with what describes those."""
        found: set[int] = set()
        for member in self._graph.closure(head):
            for target in self._graph.targets(member, Relation.LOCATED_AT):
                found |= self._with_wholes(target)
        return sorted(found)

    def _with_wholes(self, place: int) -> set[int]:
        """A place, its parts and the wholes that it is part of."""
        found = set(self._graph.closure(place))
        wholes = [place]
        while wholes:
            wholes = [
                whole for part in wholes for whole in self._graph.targets(part, Relation.MODIFY) if whole not in found
            ]
            found.update(wholes)
        return {index for index in found if self._graph.entities[index].label.is_anatomy}

    def _within(self, start: int, end: int) -> list[int]:
        return [
            index
            for index in self._place.entities
            if self._graph.entities[index].label.is_anatomy and start <= self._graph.entities[index].span[0] < end
        ]

    def _largest(self, head: int, attached: Attached) -> tuple[int, list[int]] | None:
        """In "nodules in both lungs, the largest 8 mm in the lingula": where "largest" ends, and what places follow."""
        head_end = self._graph.entities[head].span[1]
        end = self._end_of_clause(max(head_end, attached.span[1]))
        mark = _LARGEST.search(self._text, head_end, end)
        return None if mark is None else (mark.end(), self._within(mark.end(), end))

    def _end_of_clause(self, start: int) -> int:
        """Where the next head or a semicolon begins."""
        ends = [
            self._graph.entities[head].span[0] for head in self._heads if self._graph.entities[head].span[0] >= start
        ]
        semicolon = self._text.find(";", start, self._place.sentence[1])
        return min([*ends, *([semicolon] if semicolon >= 0 else []), self._place.sentence[1]])

    def _own_places(self, head: int, groups: Sequence[Attached]) -> list[list[int]]:
        """Which of several lengths stands where, if the sentence says it in one order throughout; else nowhere."""
        shared = self._places_of(head)
        start, end = self._graph.entities[head].span[1], self._end_of_clause(groups[-1].span[1])
        cuts = [group.span for group in groups]
        if _RESPECTIVELY.search(self._text, cuts[-1][1], self._place.sentence[1]):
            return [[] for _ in groups]
        first = self._within(start, cuts[0][0]) if start < cuts[0][0] else []
        whole = [index for index in shared if self._graph.entities[index].span[0] < cuts[0][0]]
        behind = [self._within(a[1], b[0]) for a, b in pairwise(cuts)] + [self._within(cuts[-1][1], end)]
        if all(behind):  # "in the right lung, 12 mm in the upper lobe and 8 mm in the lower lobe"
            return [self._in_whole(whole, here) for here in behind]
        if not any(behind[:-1]):
            return [shared for _ in groups]
        if not behind[-1] and first and all(behind[:-1]):
            return [first, *behind[:-1]]
        return [[] for _ in groups]

    def _in_whole(self, whole: Sequence[int], part: list[int]) -> list[int]:
        """A part with the whole said before it, unless the part says its own side."""
        own = laterality_of([self._graph.entities[index].term for index in part], [])
        return part if own is not None else [*whole, *part]

    def _references(self, attached: Attached | None, span: Span) -> tuple[ImageReference, ...]:
        """The image references of a length or head: those nearer to it than to the sentence's other lengths."""
        sizes = [size.span for size in self._place.sizes]
        if attached is None and sizes:
            return ()
        anchors = sizes or [self._graph.entities[head].span for head in self._heads]
        return tuple(
            reference for reference in self._place.references if overlap(_owner(anchors, reference.span) or span, span)
        )

    def _finding(
        self,
        head: int,
        attached: Attached | None,
        places: Sequence[int],
        references: tuple[ImageReference, ...],
        *,
        alone: bool = True,
        since: int | None = None,
    ) -> Finding:
        entities = self._graph.entities
        spans = [entities[index].span for index in (*self._members(head), *places)]
        spans += [size.span for size in attached.sizes] if attached else []
        spans += [reference.span for reference in references]
        terms = [entities[index].term for index in places]
        side = None
        if attached and (since is not None or not alone):  # a side said of this length alone
            here = self._side_words(attached) if since is None else (since, self._end_of_clause(attached.span[1]))
            side = laterality_of([], [self._free_words(*here)])
            if side in {Laterality.LEFT, Laterality.RIGHT}:
                spans += [here] if since is None else []
                terms = [re.sub(r"\b(?:both|bilateral)\b", side.lower(), term) for term in terms]
            else:
                side = None
        phrase = self._closed(min(start for start, _ in spans), max(end for _, end in spans))
        if side is None:
            start, end = self._clause(phrase, head)
            side = laterality_of(terms, [self._free_words(max(start, since or 0), end)] if alone else [])
        return self._make(
            observation=entities[head].term,
            assertion=entities[head].label.assertion,
            phrase=phrase,
            terms=terms,
            side=side,
            sizes=attached.sizes if attached else (),
            references=references,
        )

    def _free_words(self, start: int, end: int) -> str:
        """The words of a clause without its places, whose sides are their own."""
        words = self._text[start:end]
        for index in self._within(start, end):
            first, last = self._graph.entities[index].span
            words = words[: first - start] + " " * (min(last, end) - first) + words[last - start :]
        return words

    def _members(self, head: int) -> list[int]:
        return [index for index in self._graph.closure(head) if index in self._place.entities]

    def _closed(self, start: int, end: int) -> Span:
        """A span with the bracket that it opens but does not close."""
        words = self._text[start:end]
        for opening, closing in ("()", "[]"):
            close = self._text.find(closing, end, min(end + _BRACKET_REST, self._place.sentence[1]))
            if words.count(opening) > words.count(closing) and close >= 0:
                end = close + 1
        return start, end

    def _side_words(self, attached: Attached) -> Span:
        """In "40 mm on the right and 30 mm on the left": from a length to the side named before the next length."""
        following = [size.span[0] for size in self._place.sizes if size.span[0] >= attached.span[1]]
        start, end = attached.span[1], min([*following, self._end_of_clause(attached.span[1])])
        match = re.match(r"[^,;()]{0,60}?\b(?:right|left)\b(?:\s+side)?", self._text[start:end], re.IGNORECASE)
        return (start, start + match.end()) if match else (start, start)

    def _clause(self, phrase: Span, head: int) -> Span:
        """A phrase with the words around it that belong to no other head and to no place of another head."""
        others = [
            self._graph.entities[index].span
            for other in self._heads
            if other != head
            for index in (other, *self._places_of(other))
        ]
        start = max([end for _, end in others if end <= phrase[0]], default=self._place.sentence[0])
        end = min([start for start, _ in others if start >= phrase[1]], default=self._place.sentence[1])
        return start, end

    def _structure(self, size: Size) -> Iterator[Finding]:
        """The calibre of a vessel or the length of an organ: it keeps lines drawn there away from lesions."""
        places = [index for index in self._place.entities if self._graph.entities[index].label.is_anatomy]
        nearest = min(places, key=lambda index: _distance(self._graph.entities[index].span, size.span), default=None)
        if nearest is None:
            return
        entity = self._graph.entities[nearest]
        yield self._make(
            observation=entity.term,
            assertion=Assertion.PRESENT,
            phrase=(min(entity.span[0], size.span[0]), max(entity.span[1], size.span[1])),
            terms=[entity.term],
            side=laterality_of([entity.term], []),
            sizes=(size,),
            references=(),
        )

    def _of_antecedent(self, head: int, attached: Attached) -> Finding:
        """Of "it measures 12 mm": the phrase stands here, the thing and, unless said here, its place before."""
        here = self._within(*self._place.sentence)
        entities = self._graph.entities
        places = here or self._places_of(head)
        references = self._references(attached, attached.span)
        ends = [*(entities[index].span[1] for index in here), *(reference.span[1] for reference in references)]
        return self._make(
            observation=entities[head].term,
            assertion=entities[head].label.assertion,
            phrase=(self._place.sentence[0], max([attached.span[1], *ends])),
            terms=[entities[index].term for index in places],
            side=laterality_of([entities[index].term for index in places], [self._free_words(*self._place.sentence)]),
            sizes=attached.sizes,
            references=references,
        )

    def _make(
        self,
        *,
        observation: str,
        assertion: Assertion,
        phrase: Span,
        terms: Sequence[str],
        side: Laterality | None,
        sizes: tuple[Size, ...],
        references: tuple[ImageReference, ...],
    ) -> Finding:
        return Finding(
            finding_id=f"{self._report.report_id}#{phrase[0]}-{phrase[1]}",
            report_id=self._report.report_id,
            observation=observation,
            assertion=assertion,
            mentions=(Mention(self._place.section, phrase, self._place.sentence),),
            extractor=self._extractor,
            anatomy=place_name(terms),
            laterality=side,
            sizes=sizes,
            image_references=references,
        )


def _places(
    text: str,
    graph: Graph,
    heads: frozenset[int],
    sizes: Sequence[Size],
    references: Sequence[ImageReference],
) -> Iterator[_Place]:
    sections = split_sections(text)
    for start, end in split_sentences(text):
        inside = tuple(index for index, entity in enumerate(graph.entities) if start <= entity.span[0] < end)
        yield _Place(
            sentence=(start, end),
            section=next((part.name for part in sections if part.start <= start < part.end), "body"),
            sizes=tuple(size for size in sizes if start <= size.span[0] < end),
            references=tuple(reference for reference in references if start <= reference.span[0] < end),
            entities=inside,
            heads=tuple(index for index in inside if index in heads),
        )


def _owner(anchors: Sequence[Span], reference: Span) -> Span | None:
    """The length (or head) that an image reference follows; else the one behind it."""
    before = [anchor for anchor in anchors if anchor[1] <= reference[0]]
    if before:
        return max(before, key=lambda anchor: anchor[1])
    return min(anchors, key=lambda anchor: _distance(anchor, reference), default=None)


def _distance(first: Span, second: Span) -> int:
    return max(0, second[0] - first[1], first[0] - second[1])
