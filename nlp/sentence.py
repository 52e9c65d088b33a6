"""The findings of one sentence: its observations with their places, sides, lengths and phrases."""

from __future__ import annotations

import re
from collections.abc import Iterator, Sequence
from dataclasses import replace

from nlp.attach import Attached, are_several, assign, group_sizes, of_one, without_lesion
from nlp.coordination import RESPECTIVELY, Anchor, between_separators, find_anchors, own_anchors, respective
from nlp.graph import Graph, Relation
from nlp.passages import Antecedent, Passage, noun_of, speaks_of_another, speaks_of_before
from nlp.phrases import distance, finish, grow, hull, with_side
from nlp.places import (
    canonical_place,
    combined,
    in_text_order,
    is_beside,
    laterality_of,
    may_say_side,
    place_name,
    rank,
)
from nlp.references import nearest_references, share_references
from nlp.types import Assertion, Finding, ImageReference, Laterality, Mention, Report, Size, SizeKind, Span
from nlp.vocabulary import observation_name

_LARGEST = re.compile(
    r"\b(?:larger|largest|biggest|greatest|dominant|index)\b(?!\s+(?:axial\s+)?(?:diameter|dimension|axis))",
    re.IGNORECASE,
)
_BARE_PLACE = re.compile(r"\b(?:bilateral|both)\b")
_ATTACHED_KINDS = frozenset({SizeKind.LESION, SizeKind.OTHER})


class SentenceFindings:
    """Reads the findings off one sentence of a report's graph; made for each sentence, in order."""

    def __init__(self, report: Report, graph: Graph, passage: Passage, extractor: str, said: dict[int, Span]) -> None:
        """``said``: the phrase of each head's first finding so far; this sentence's are added."""
        self._report = report
        self._text = report.text
        self._entities = graph.entities
        self._graph = graph
        self._passage = passage
        self._extractor = extractor
        self._said = said
        self._heads = passage.heads
        self._known_places: dict[int, list[int]] = {}
        self._says_side = may_say_side(self._text[slice(*passage.sentence)])
        self._anatomy = [index for index in passage.entities if graph.entities[index].label.is_anatomy]
        self._lengths = [
            size.span
            for size in passage.sizes
            if size.kind in _ATTACHED_KINDS or size.kind is SizeKind.NORMAL_STRUCTURE
        ]
        self._before: Antecedent | None = None

    def findings(self, before: Antecedent | None) -> Iterator[Finding]:
        """Yield the sentence's findings; ``before`` is what a pronoun at its start means."""
        attached = [size for size in self._passage.sizes if size.kind in _ATTACHED_KINDS]
        assigned = assign(
            self._text, self._graph, self._heads, attached, sizes=self._passage.sizes, sentence=self._passage.sentence
        )
        self._in_order = tuple(assigned.by_head) if assigned.in_order else ()
        self._references = share_references(self._text, self._passage.sizes, self._passage.references)
        for size in self._passage.sizes:
            if size.kind is SizeKind.NORMAL_STRUCTURE:
                yield from self._structure(size)
        for head in self._heads:
            sizes = assigned.by_head.get(head)
            yield from self._of_head(head, self._grouped(sizes) if sizes else [])
        if before is not None and assigned.orphans and not assigned.by_head:
            self._before = before
            yield from self._go_on(before, self._grouped(assigned.orphans))

    def _grouped(self, sizes: Sequence[Size]) -> list[Attached]:
        return group_sizes(self._text, sizes, [self._entities[index].span for index in self._anatomy])

    def _go_on(self, before: Antecedent, groups: Sequence[Attached]) -> Iterator[Finding]:
        """Of a sentence about what was said before it: "it measures", "another is", an item of the list it opens."""
        another = not self._heads and speaks_of_another(self._text, self._passage)
        listed = not self._heads and before.passage.opens_list
        if not (another or listed or speaks_of_before(self._text, self._passage)):
            return
        places = [] if another else self._places_of(before.head)
        if len(groups) > 1:
            yield from self._of_several(before.head, groups, places)
        else:
            yield self._of_antecedent(before.head, self._alone(before.head, groups[0]), places)

    def _of_head(self, head: int, groups: Sequence[Attached]) -> Iterator[Finding]:
        places = self._places_of(head)
        if not groups:
            spans = {other: self._entities[other].span for other in self._heads}
            images = () if self._passage.sizes else self._passage.references
            yield self._finding(head, None, places, nearest_references(self._text, head, spans, images))
            return
        if len(groups) == 1:
            group = self._alone(head, groups[0])
            since, here = self._largest(head, group) or (None, [])
            yield self._finding(head, group, here or places, self._references_of(group), since=since)
            return
        yield from self._of_several(head, groups, places)

    def _of_several(self, head: int, groups: Sequence[Attached], places: Sequence[int]) -> Iterator[Finding]:
        """The findings of one word with several lengths, each at its own place or all at one."""
        own = self._own_anchors(head, groups)
        anchors = own or [[] for _ in groups]
        found = [self._listed(head, index, groups, places, anchors) for index in range(len(groups))]
        if own is None:
            found = [replace(one, anatomy=None, laterality=None) for one in found]
        apart = len({(finding.anatomy, finding.laterality) for finding in found}) == len(found)
        several = apart or are_several(self._text, self._entities[head].span, groups)
        yield from found if several else (replace(one, sizes=without_lesion(one.sizes)) for one in found)

    def _places_of(self, head: int) -> list[int]:
        """The places of a head and of what describes it, with what describes those."""
        if head not in self._known_places:
            self._known_places[head] = self._look_up_places(head)
        return self._known_places[head]

    def _look_up_places(self, head: int) -> list[int]:
        found: set[int] = set()
        for member in self._graph.closure(head):
            for target in self._graph.targets(member, Relation.LOCATED_AT):
                found |= self._graph.chain(target)
        return self._without_label(sorted(found)) or self._only_place(head)

    def _without_label(self, places: list[int]) -> list[int]:
        """The places without those of a label ("Bones: ...") where others stand behind, unless it is their whole."""
        behind = [index for index in places if self._entities[index].span[0] >= self._passage.label_end]
        parts = self._passage.label is not None and all(rank(self._entities[index].term) > 0 for index in behind)
        return places if not behind or parts else behind

    def _only_place(self, head: int) -> list[int]:
        """Where the graph does not say: the sentence's one place behind its one head, if the words lead into it."""
        if len(self._heads) != 1 or not self._anatomy or self._anatomy[0] < head:
            return []
        chain = self._graph.chain(self._anatomy[0])
        lead = self._text[self._entities[head].span[1] : self._entities[self._anatomy[0]].span[0]].lower()
        leads_in = re.search(r"\b(?:in|within|of|at)\s+(?:the\s+)?$", lead) is not None and not is_beside(lead)
        return sorted(chain) if leads_in and chain >= set(self._anatomy) else []

    def _within(self, start: int, end: int) -> list[int]:
        return [index for index in self._anatomy if start <= self._entities[index].span[0] < end]

    def _largest(self, head: int, attached: Attached) -> tuple[int, list[int]] | None:
        """In "nodules in both lungs, the largest 8 mm in the lingula": where "largest" ends, and what places follow."""
        head_end = self._entities[head].span[1]
        end = self._end_of_clause(max(head_end, attached.span[1]))
        mark = _LARGEST.search(self._text, head_end, end)
        return None if mark is None else (mark.end(), self._within(mark.end(), end))

    def _end_of_clause(self, start: int) -> int:
        """Where the next head or a semicolon begins."""
        ends = [self._entities[head].span[0] for head in self._heads if self._entities[head].span[0] >= start]
        semicolon = self._text.find(";", start, self._passage.sentence[1])
        return min([*ends, *([semicolon] if semicolon >= 0 else []), self._passage.sentence[1]])

    def _end_of_own_places(self, head: int, start: int) -> int:
        """Where a clause or the next head's place begins: "6 mm in the lower lobe, and in the left lung, masses"."""
        others = {place for other in self._heads if other != head for place in self._places_of(other)}
        begins = [self._entities[place].span[0] for place in others.difference(self._places_of(head))]
        return min([self._end_of_clause(start), *(begin for begin in begins if begin >= start)])

    def _alone(self, head: int, group: Attached) -> Attached:
        """The one group of lengths of a head; of several things alike they are no one lesion's size."""
        spans = {other: self._entities[other].span for other in (head, *self._heads)}
        said = head in self._in_order
        return group if said else of_one(self._text, spans[head], group, [*spans.values()], self._passage.sentence)

    def _own_anchors(self, head: int, groups: Sequence[Attached]) -> list[list[Anchor]] | None:
        """Which of several lengths stands where: empty lists where all stand in one place, None if it is not said."""
        first, last = groups[0].span[0], groups[-1].span[1]
        span = self._entities[head].span
        others = [self._entities[other].span[1] for other in self._heads if other != head]
        lead = max([end for end in others if end <= first], default=self._passage.sentence[0])
        lead = span[1] if lead <= span[0] and span[1] <= first else lead
        places = [(index, self._entities[index].span) for index in self._anatomy]
        if RESPECTIVELY.search(self._text, first, self._passage.sentence[1]):
            everywhere = find_anchors(self._text, self._passage.sentence, places)
            return respective(self._text, len(groups), everywhere)
        end = self._end_of_own_places(head, last)
        anchors = find_anchors(self._text, (lead, end), places)
        return own_anchors(self._text, lead, [group.span for group in groups], end, anchors)

    def _listed(
        self,
        head: int,
        index: int,
        groups: Sequence[Attached],
        places: Sequence[int],
        anchors: Sequence[Sequence[Anchor]],
    ) -> Finding:
        """One of several lengths of a head, at its own place (``anchors[index]``)."""
        group, everywhere = groups[index], [anchor for ones in anchors for anchor in ones]
        own = [anchor.place for anchor in anchors[index] if anchor.place is not None]
        owned = {anchor.place for anchor in everywhere}
        words = [self._text[slice(*anchor.span)].lower() for anchor in anchors[index] if anchor.place is None]
        side = laterality_of(self._terms(own), words)
        terms = self._terms(places)
        if anchors[index]:
            terms = combined(
                self._terms([place for place in places if place not in owned]) or terms, self._terms(own), side
            )
        references = self._references_of(group)
        core = [size.span for size in group.sizes] + [reference.span for reference in references]
        noun = [self._entities[member].span for member in self._members(head)]
        here = [place for place in places if place in self._passage.entities]
        where = [self._entities[place].span for place in here if place not in owned or place in own]
        foreign = [span for span in self._lengths if span not in core]
        if not everywhere or RESPECTIVELY.search(self._text, group.span[0], self._passage.sentence[1]):
            lengths = [size.span for one in groups for size in one.sizes]
            phrase = hull([*core, *noun, *where, *lengths, *(anchor.span for anchor in everywhere)])
            keep, foreign = [hull(lengths)], []
        else:
            keep = [*core, *(anchor.span for anchor in anchors[index])]
            phrase = grow(keep, [*noun, *where], foreign)
            keep += [span for span in noun if phrase[0] <= span[0] and span[1] <= phrase[1]]
        side = side or laterality_of(terms)
        if side is None and everywhere and not anchors[index]:  # "left effusion 30 mm, right 10 mm"
            side = laterality_of([], [self._free_words(self._clause(phrase, head)[0], group.span[1])])
            phrase = with_side(self._text, phrase, side, self._passage.sentence, foreign)
        apart = head not in self._passage.entities and not everywhere  # "they measure 5 and 7 mm"
        start = self._passage.sentence[0] if apart else phrase[0]
        return self._make(
            head,
            phrase=self._finished((start, phrase[1]), keep, foreign),
            terms=terms,
            side=side,
            sizes=group.sizes,
            references=references,
            since=self._noun(phrase) if apart else None,
        )

    def _finished(self, phrase: Span, keep: Sequence[Span], foreign: Sequence[Span]) -> Span:
        places = [self._entities[place].span for place in self._anatomy]
        bounds = self._passage.sentence[0], self._passage.label_end, self._passage.sentence[1]
        return finish(self._text, phrase, bounds, keep=keep, places=places, foreign=foreign)

    def _references_of(self, group: Attached) -> tuple[ImageReference, ...]:
        return tuple(reference for size in group.sizes for reference in self._references.get(size.span, ()))

    def _finding(
        self,
        head: int,
        group: Attached | None,
        places: Sequence[int],
        references: tuple[ImageReference, ...],
        *,
        since: int | None = None,
    ) -> Finding:
        """The one finding of a head; ``since``: where the words of its largest member begin."""
        sizes = group.sizes if group is not None else ()
        terms = self._terms(places)
        side = None
        if group is not None and since is not None:  # a side said of the largest alone
            side = laterality_of([], [self._free_words(since, self._end_of_clause(group.span[1]))])
            side = side if side in {Laterality.LEFT, Laterality.RIGHT} else None
            terms = [_BARE_PLACE.sub(side.lower(), term) for term in terms] if side is not None else terms
        keep = [self._entities[head].span, *(size.span for size in sizes)]
        if head in self._in_order:
            keep = [hull([*(self._entities[other].span for other in self._in_order), *self._lengths])]
        foreign = [span for span in self._lengths if span not in keep and head not in self._in_order]
        extras = [self._entities[index].span for index in (*self._members(head), *places)]
        extras += [reference.span for reference in references]
        phrase = grow(keep, extras, foreign)
        if side is None:
            side = laterality_of(terms, self._words_around(phrase, head, since or 0))
        return self._make(
            head,
            phrase=with_side(self._text, self._finished(phrase, keep, foreign), side, self._passage.sentence, foreign),
            terms=terms,
            side=side,
            sizes=sizes,
            references=references,
        )

    def _terms(self, places: Sequence[int]) -> list[str]:
        return in_text_order(self._text, [self._entities[index] for index in places])

    def _free_words(self, start: int, end: int) -> str:
        """The words of a clause without its places, whose sides are their own."""
        words = self._text[start:end]
        for index in self._within(start, end):
            first, last = self._entities[index].span
            words = words[: first - start] + " " * (min(last, end) - first) + words[last - start :]
        return words

    def _members(self, head: int) -> list[int]:
        return [index for index in self._graph.closure(head) if index in self._passage.entities]

    def _words_around(self, phrase: Span, head: int, since: int) -> list[str]:
        """The words that can say a head's side, where the sentence says one at all."""
        if not self._says_side:
            return []
        start, end = self._clause(phrase, head)
        return [self._free_words(max(start, since), end)]

    def _clause(self, phrase: Span, head: int) -> Span:
        """A phrase with the words around it that belong to no other head and to no place of another head."""
        if len(self._heads) == 1:
            return self._passage.sentence
        others = [
            self._entities[index].span
            for other in self._heads
            if other != head
            for index in (other, *self._places_of(other))
        ]
        start = max([end for _, end in others if end <= phrase[0]], default=self._passage.sentence[0])
        end = min([start for start, _ in others if start >= phrase[1]], default=self._passage.sentence[1])
        return between_separators(self._text, (start, end), phrase, self._passage.sentence)

    def _structure(self, size: Size) -> Iterator[Finding]:
        """The calibre of a vessel or the length of an organ: it keeps lines drawn there away from lesions."""
        spans = {index: self._entities[index].span for index in self._anatomy}
        nearest = min(spans, key=lambda index: distance(spans[index], size.span), default=None)
        if nearest is None:
            return
        term = self._terms([nearest])
        yield self._make(
            nearest,
            phrase=hull([spans[nearest], size.span]),
            terms=term,
            side=laterality_of(term),
            sizes=(size,),
            references=(),
        )

    def _of_antecedent(self, head: int, group: Attached, places: Sequence[int]) -> Finding:
        """Of "it measures 12 mm": the thing and, unless said here, its place stand before."""
        sentence = self._passage.sentence
        here = self._within(*sentence)
        terms = self._terms(here or places)
        references = self._references_of(group)
        ends = [*(self._entities[index].span[1] for index in here), *(reference.span[1] for reference in references)]
        foreign = [span for span in self._lengths if span not in {size.span for size in group.sizes}]
        phrase = sentence[0], max([group.span[1], *ends])
        if any(phrase[0] <= span[0] < phrase[1] for span in foreign):
            phrase = group.span
        phrase = phrase[0], self._finished(phrase, [group.span], foreign)[1]
        return self._make(
            head,
            phrase=phrase,
            terms=terms,
            side=laterality_of(terms, [self._free_words(*sentence)]),
            sizes=group.sizes,
            references=references,
            since=self._noun(phrase),
        )

    def _noun(self, phrase: Span) -> Span | None:
        """Where the phrase of the thing that "it" means begins, and its sentence, if the two can be one phrase."""
        noun = self._said.get(self._before.head) if self._before is not None else None
        if self._before is None or noun is None:
            return None
        return noun_of(self._text, self._graph, self._passage, self._before, noun=noun, phrase=phrase)

    def _make(
        self,
        about: int,
        *,
        phrase: Span,
        terms: Sequence[str],
        side: Laterality | None,
        sizes: tuple[Size, ...],
        references: tuple[ImageReference, ...],
        since: Span | None = None,
    ) -> Finding:
        """One finding; ``since``: where phrase and sentence begin if that is in the sentence before."""
        entity = self._entities[about]
        sentence = self._passage.sentence
        if since is not None:
            phrase, sentence = (since[0], phrase[1]), (since[1], sentence[1])
        self._said.setdefault(about, phrase)
        anatomy = place_name(terms)
        if anatomy is None and self._passage.label is not None:
            label = self._terms([self._passage.label])
            anatomy, side = place_name(label), side or laterality_of(label)
        return Finding(
            finding_id=f"{self._report.report_id}#{phrase[0]}-{phrase[1]}",
            report_id=self._report.report_id,
            observation=self._name(about),
            assertion=Assertion.PRESENT if entity.label.is_anatomy else entity.label.assertion,
            mentions=(Mention(self._passage.section, phrase, sentence),),
            extractor=self._extractor,
            anatomy=anatomy,
            laterality=side,
            sizes=sizes,
            image_references=references,
        )

    def _name(self, about: int) -> str:
        """The normalised term; a describing word alone ("enlarged") is named after the thing that it is said of."""
        entity = self._entities[about]
        if entity.label.is_anatomy:
            return canonical_place(entity.term)
        return observation_name(entity.term, [self._entities[place].term for place in self._places_of(about)])
