"""The sentences of a report with what stands in them, and what a sentence that names nothing is about."""

from __future__ import annotations

import re
from bisect import bisect_left
from collections.abc import Iterator, Sequence
from dataclasses import dataclass

from nlp.graph import Graph, Relation
from nlp.places import rank
from nlp.sections import BODY, split_sections, split_sentences
from nlp.types import Assertion, ImageReference, Size, Span, Temporality

_PRONOUN = re.compile(
    r"\W*(?:however\W+)?(?:it|this|that|these|they|its|their|measur\w+|size|(?:the\s+)?(?:larger|largest|biggest|smaller|smallest|dominant)|"
    r"the\s+(?:size|diameter|dimensions?|short|long)|(?:short|long)\s+(?:axis|diameter)|now|currently|previously|approximately|\d)",
    re.IGNORECASE,
)
_ANOTHER = re.compile(r"\W*(?:another|an?\s+(?:second|third|further)|the\s+(?:other|second|third))\b", re.IGNORECASE)
_LABEL = re.compile(r"\W*[^\W\d][^:.;\d]{0,60}?:(?=\s|$)")
_LABEL_LENGTH = 80
_BLANK_LINE = 2  # line ends
_JOINED = 300  # characters of a phrase that begins in the sentence before
_WORD = re.compile(r"[^\W_]")


@dataclass(frozen=True, slots=True)
class Passage:
    """One sentence: its lengths, image references, entities (indexes of the graph) and heads.

    ``label`` is the one place that the last label up to here names ("Liver: ..."; a part of an organ only for its own
    sentence), ``label_end`` where a label in this
    sentence ends (its start if it has none). ``opens_list``: a colon ends it, and the items behind have no noun of
    their own.
    """

    sentence: Span
    section: str
    sizes: tuple[Size, ...]
    references: tuple[ImageReference, ...]
    entities: range
    heads: tuple[int, ...]
    label: int | None
    label_end: int
    opens_list: bool


@dataclass(frozen=True, slots=True)
class Antecedent:
    """What "it" can mean: a head and the passage that it stands in."""

    passage: Passage
    head: int


def passages(text: str, graph: Graph, sizes: Sequence[Size], references: Sequence[ImageReference]) -> Iterator[Passage]:
    """Yield a report's sentences in order. Entities, ``sizes`` and ``references`` must be sorted by their spans."""
    heads = graph.heads()
    entity_starts = [entity.span[0] for entity in graph.entities]
    size_starts = [size.span[0] for size in sizes]
    reference_starts = [reference.span[0] for reference in references]
    sections = iter(split_sections(text))
    section = next(sections, None)
    label: int | None = None
    last = 0
    for start, end in split_sentences(text):
        while section is not None and section.end <= start:
            section = next(sections, None)
        inside = range(bisect_left(entity_starts, start), bisect_left(entity_starts, end))
        colon = text.find(":", start, min(end, start + _LABEL_LENGTH)) >= 0
        labelled = _LABEL.match(text, start, end) if colon else None
        new_line = "\n" in text[last:start] or last == 0 or (section is not None and section.start == start)
        own = None
        if new_line or labelled is not None:  # "Liver: normal. Spleen: ..." has labels inside its line
            own = _label(text, graph, (start, end), inside)
            label = None if own is None or rank(graph.entities[own].term) > 0 else own
        last = end
        yield Passage(
            sentence=(start, end),
            section=BODY if section is None else section.name,
            sizes=tuple(sizes[bisect_left(size_starts, start) : bisect_left(size_starts, end)]),
            references=tuple(references[bisect_left(reference_starts, start) : bisect_left(reference_starts, end)]),
            entities=inside,
            heads=tuple(heads[bisect_left(heads, inside.start) : bisect_left(heads, inside.stop)]),
            label=label if own is None else own,
            label_end=start if labelled is None else labelled.end(),
            opens_list=text[end - 1] == ":",
        )


def next_antecedent(text: str, graph: Graph, passage: Passage, before: Antecedent | None) -> Antecedent | None:
    """The one present thing that the next sentence's "it" can mean, in this sentence or, through it, before."""
    things = [
        head
        for head in passage.heads
        if graph.entities[head].label.assertion is not Assertion.ABSENT
        and not graph.sources(head, Relation.SUGGESTIVE_OF)
    ]
    if len(things) == 1:
        return Antecedent(passage, things[0])
    if before is None or passage.heads or before.passage.section != passage.section:
        return None
    if speaks_of_another(text, passage):  # "it" is now that one, which has no noun
        return None
    goes_on = not passage.entities or speaks_of_before(text, passage) or (before.passage.opens_list and passage.sizes)
    return before if goes_on else None


def speaks_of_before(text: str, passage: Passage) -> bool:
    """Whether a sentence starts like one about the thing before it: "it measures", "the largest is"."""
    return bool(_PRONOUN.match(text, *passage.sentence))


def speaks_of_another(text: str, passage: Passage) -> bool:
    """Whether a sentence starts like one about one more of the things before it: "another is present in"."""
    return bool(_ANOTHER.match(text, *passage.sentence))


def noun_of(text: str, graph: Graph, passage: Passage, before: Antecedent, *, noun: Span, phrase: Span) -> Span | None:
    """Return where the words begin that "it" stands for (``noun``), and where their sentence does.

    None where the two sentences do not adjoin, or where today's size or another thing stands between. ``phrase`` is
    what ``passage`` says of it.
    """
    earlier = before.passage
    gap = text[earlier.sentence[1] : passage.sentence[0]]
    adjoin = not gap.strip() and gap.count("\n") < _BLANK_LINE and speaks_of_before(text, passage)
    if not adjoin or earlier.section != passage.section or phrase[1] - noun[0] > _JOINED:
        return None
    between = [size.span[0] for size in earlier.sizes if size.temporality is Temporality.CURRENT]
    between += [graph.entities[head].span[0] for head in earlier.heads if head != before.head]
    return None if any(start >= noun[0] for start in between) else (noun[0], earlier.sentence[0])


def _label(text: str, graph: Graph, sentence: Span, entities: range) -> int | None:
    """The place that is all of a paragraph's label; None for "Lungs and pleura:"."""
    if not entities or not graph.entities[entities.start].label.is_anatomy:
        return None
    label = _LABEL.match(text, *sentence)
    first = graph.entities[entities.start]
    if label is None or first.span[1] > label.end():
        return None
    rest = text[sentence[0] : first.span[0]] + text[first.span[1] : label.end()]
    return None if _WORD.search(rest) else entities.start
