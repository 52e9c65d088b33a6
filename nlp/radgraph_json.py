"""RadGraph's JSON as a :class:`~nlp.graph.Graph`: exact characters for its tokens, our terms for its words.

The schema is that of Jain et al. (RadGraph, NeurIPS Datasets and Benchmarks 2021), as the ``radgraph`` package writes
it: ``text`` holds the tokens joined by single spaces, and an entity counts in tokens, both ends inclusive. Beside it,
an entity may have a ``score``, and a relation a third member, its score.

RadGraph marks words, ``Graph`` things, so three things differ between document and graph:

- Of two overlapping entities of one kind the surer one is kept (without scores the longer one), with the relations of
  both: one nodule must not become two findings.
- Neighbouring words of one place that describe each other ("right", "lower", "lobe") become one entity.
- Terms are those of our lists where they hold the words, the longest one that ends with the entity ("effusion" after
  "pleural"); else the words in lower case.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from itertools import pairwise
from types import MappingProxyType
from typing import Any

from nlp.graph import Entity, Graph, Label, Relation
from nlp.types import ReportError, Span
from nlp.vocabulary import load_terms

LABELS_V1: Mapping[str, Label] = MappingProxyType(
    {
        "ANAT-DP": Label.ANATOMY_PRESENT,
        "OBS-DP": Label.OBSERVATION_PRESENT,
        "OBS-U": Label.OBSERVATION_UNCERTAIN,
        "OBS-DA": Label.OBSERVATION_ABSENT,
    }
)
LABELS_XL: Mapping[str, Label] = MappingProxyType({label.value: label for label in Label})
_LABELS = {**LABELS_V1, **LABELS_XL}
_RELATIONS = {relation.value: relation for relation in Relation}

# What RadGraph-XL's tokeniser does away with: escapes that were written out, each as long as what replaces it.
_ESCAPES = (("\\n", "  "), ("\\f", "  "), ("\\u2122", "      "), ('\\"', "``"))
_WORDS_BEFORE = 3  # how many words an observation's term may have before its own
_SIDES = {"rt": "right", "lt": "left", "r": "right", "l": "left"}


@dataclass(slots=True)
class _Node:
    """An entity on its way into the graph; ``first`` and ``last`` count tokens, ``links`` go to other nodes."""

    first: int
    last: int
    label: Label
    score: float | None
    links: dict[tuple[Relation, int], float | None] = field(default_factory=dict)

    @property
    def kind(self) -> tuple[bool, bool]:
        return self.label.is_measurement, self.label.is_anatomy


def read_document(document: Mapping[str, Any], text: str) -> Graph:
    """Read one document of RadGraph's JSON that was made from ``text``.

    Raises
    ------
    ReportError
        The document has another form, an unknown label, or is not one of this text.

    """
    try:
        tokens = document["text"].split()
        nodes = _nodes(document["entities"], len(tokens))
    except (KeyError, TypeError, AttributeError) as error:
        raise ReportError(
            f"not a document of RadGraph ({type(error).__name__}): it needs 'text', and 'entities' with 'label', "
            "'start_ix', 'end_ix' and 'relations'; of the package's answer to several texts, give one member"
        ) from error
    if not nodes or not text.strip():
        return Graph(())
    return _graph(nodes, align_tokens(tokens, text), text)


def align_tokens(tokens: Sequence[str], text: str) -> list[Span]:
    """Where RadGraph's tokens stand in the text that they were made from.

    Its tokenisers add and drop white space, and no other character but written-out escapes. So the tokens are the
    text's characters in their order, and ``text[start:end]`` is the token, but for an escaped quotation mark, which
    is two backticks.

    Raises
    ------
    ReportError
        The tokens are not those of this text.

    """
    spans = _walk(tokens, text)
    if spans is None and "\\" in text:
        without = text
        for escape, replacement in _ESCAPES:
            without = without.replace(escape, replacement)
        spans = _walk(tokens, without)
    if spans is None:
        raise ReportError(
            f"the document of RadGraph is not one of this text: its {len(tokens)} tokens are not the text's"
        )
    return spans


def _nodes(entities: Mapping[str, Any], n_tokens: int) -> list[_Node]:
    number = {key: index for index, key in enumerate(entities)}
    nodes = []
    for position, entity in enumerate(entities.values(), 1):
        first, last, label, score = entity["start_ix"], entity["end_ix"], entity["label"], entity.get("score")
        if not (isinstance(first, int) and isinstance(last, int) and 0 <= first <= last < n_tokens):
            raise ReportError(f"entity {position} of the document of RadGraph is outside its {n_tokens} tokens")
        if label not in _LABELS:
            raise ReportError(
                f"entity {position} of the document of RadGraph has a label of neither RadGraph nor RadGraph-XL"
            )
        node = _Node(first, last, _LABELS[label], None if score is None else float(score))
        for relation, target, *scores in entity["relations"]:
            if relation not in _RELATIONS or target not in number:
                raise ReportError(
                    f"entity {position} of the document of RadGraph has an unknown relation or one to no entity"
                )
            node.links.setdefault((_RELATIONS[relation], number[target]), float(scores[0]) if scores else None)
        nodes.append(node)
    return nodes


def _graph(nodes: Sequence[_Node], spans: Sequence[Span], text: str) -> Graph:
    kept = _without_overlaps(nodes)
    joined = _whole_places(nodes, kept)
    home = [joined[kept[index]] for index in range(len(nodes))]
    first = {head: nodes[head].first for head in home}
    for part, head in joined.items():
        first[head] = min(first[head], nodes[part].first)
    order = sorted(first, key=lambda head: (first[head], nodes[head].last))
    place = {head: position for position, head in enumerate(order)}
    links: dict[int, dict[tuple[Relation, int], float | None]] = {head: {} for head in order}
    for index, node in enumerate(nodes):
        for (relation, target), score in node.links.items():
            if home[target] != home[index]:
                links[home[index]].setdefault((relation, place[home[target]]), score)
    return Graph(tuple(_entity(nodes[head], first[head], links[head], spans, text) for head in order))


def _entity(
    node: _Node, first: int, links: Mapping[tuple[Relation, int], float | None], spans: Sequence[Span], text: str
) -> Entity:
    scores = [score for score in links.values() if score is not None]
    return Entity(
        (spans[first][0], spans[node.last][1]),
        node.label,
        _term(text, spans, first, node),
        tuple(links),
        score=node.score,
        relation_scores=tuple(scores) if len(scores) == len(links) else (),
    )


def _without_overlaps(nodes: Sequence[_Node]) -> dict[int, int]:
    """Each node to the one that stands for it: itself, or what it overlaps of the same kind that is surer or longer."""

    def worth(index: int) -> tuple[float, int, int]:
        node = nodes[index]
        return (-(node.score or 0.0), node.first - node.last, node.first)

    stands_for: dict[int, int] = {}
    kept: dict[tuple[tuple[bool, bool], int], int] = {}  # of a kind, at a token
    for index in sorted(range(len(nodes)), key=worth):
        node = nodes[index]
        places = [(node.kind, token) for token in range(node.first, node.last + 1)]
        stands_for[index] = next((kept[place] for place in places if place in kept), index)
        if stands_for[index] == index:
            kept |= dict.fromkeys(places, index)
    return stands_for


def _whole_places(nodes: Sequence[_Node], kept: Mapping[int, int]) -> dict[int, int]:
    """Each kept node to the last word of its place: in "right lower lobe", both words before describe the lobe."""
    heads = {index: index for index in set(kept.values())}
    places = sorted((index for index in heads if nodes[index].label.is_anatomy), key=lambda index: -nodes[index].first)
    for later, earlier in pairwise(places):
        touches = nodes[earlier].last + 1 == nodes[later].first
        described = {heads[kept[target]] for kind, target in nodes[earlier].links if kind is Relation.MODIFY}
        if touches and heads[later] in described:
            heads[earlier] = heads[later]
    return heads


def _term(text: str, spans: Sequence[Span], first: int, node: _Node) -> str:
    def written(start: int) -> str:
        return " ".join(text[spans[start][0] : spans[node.last][1]].lower().split())

    if node.label.is_anatomy:
        return _place_term(written(first).split())
    listed = load_terms("observations")
    for start in range(max(0, first - _WORDS_BEFORE), first + 1):
        if written(start) in listed:
            return listed[written(start)].canonical
    return written(first)


def _place_term(words: list[str]) -> str:
    """The side written out, and the longest name of our list at the end as it is spelt there."""
    words[0] = _SIDES.get(words[0].rstrip("."), words[0])
    listed = load_terms("anatomy")
    for start in range(len(words)):
        name = " ".join(words[start:])
        if name in listed:
            return " ".join([*words[:start], listed[name].canonical])
    return " ".join(words)


def _walk(tokens: Sequence[str], text: str) -> list[Span] | None:
    """The spans of tokens that follow each other with nothing but white space between; None where they do not."""
    spans, position = [], 0
    for token in tokens:
        while position < len(text) and text[position].isspace():
            position += 1
        if not text.startswith(token, position):
            return None
        spans.append((position, position + len(token)))
        position += len(token)
    return spans if not text[position:].strip() else None
