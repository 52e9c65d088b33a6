"""Which length belongs to which observation of its sentence."""

from __future__ import annotations

import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace

from nlp.graph import Graph, Relation
from nlp.types import Assertion, Axis, Size, SizeKind, Span, Temporality

# Log-odds-like weights set by hand on written examples, not fitted; a length goes to the best head above the floor.
_GRAPH_MEASURES = 4.0
_NAMED_BY = 3.0
_SAME_CLAUSE = 2.0
_IN_WINDOW = 1.0
_PER_WORD = -0.15
_COMMA = -0.3
_LISTED = -1.5
_UNRELATED = -5.0
_HEAD_BETWEEN = -3.0
_ABSENT = -2.0
_FLOOR = -1.0
_WORDS_BEFORE, _WORDS_AFTER = 6, 4
_FAR, _MANY = 12, 3

_CLAUSE_BREAK = re.compile(
    r"[;]|\b(?:but|however|while|whereas)\b|\band\s+(?:there|an?)\b|,\s*(?:and\s+)?(?:there|an?)\b", re.IGNORECASE
)
_NOT_A_NAME = re.compile(
    r"[;:,.()\[\]]|\b(?:is|are|was|were|in|of|at|on|with|without|within|from|to|near|which|that|has|have|there|the|a|an|and|or|no|but|"
    r"measuring|previously|prior|now|seen|noted|observed)\b",
    re.IGNORECASE,
)
_IN_DIMENSION = re.compile(
    r"^\s*(?:(?:in|of)\s+)?(?:(?:its|the|maximum|maximal|greatest|largest|short|long|axial|transverse|ap|cc)[\s-]+)*"
    r"(?:diameters?|size|sized|dimensions?|thick|long|axis)\b",
    re.IGNORECASE,
)
# "Nodules", "masses", "metastases", "foci", "bullae", "opacities"; not "mass", "metastasis", "focus".
_PLURAL = re.compile(r"(?:[^siu]s|sses|[fglc]i|ae)$", re.IGNORECASE)
_AND_ONE = re.compile(r"\band\s+(?:an?|another|one|the\s+other)\b", re.IGNORECASE)
_LARGEST_OF = re.compile(r"\b(?:larger|largest|biggest|greatest|dominant)\b", re.IGNORECASE)
_AXES_OF_ONE = frozenset({Axis.SHORT, Axis.LONG, Axis.AP, Axis.TR, Axis.CC})
_LEADS_ON = re.compile(
    r"^\W*(?:to\b|→|⟶|-+>|=>|(?:and\s+)?(?:it\s+)?(?:is\s+)?(?:now|currently|today)\b)", re.IGNORECASE
)


@dataclass(frozen=True, slots=True)
class Attached:
    """The lengths of one lesion: today's (several only if they name different axes) and those of earlier days."""

    sizes: tuple[Size, ...]

    @property
    def span(self) -> Span:
        """From the first to the last of them."""
        return self.sizes[0].span[0], max(size.span[1] for size in self.sizes)


def best_head(
    text: str, graph: Graph, heads: Sequence[int], size: Size, *, sizes: Sequence[Size], reached: Mapping[int, int]
) -> int | None:
    """The head among one sentence's that a length belongs to; None where none is likely or two are equally so.

    ``sizes`` are all of the sentence's; ``reached`` says how far the lengths already given to a head reach: a list is
    counted from its last member.
    """
    scored = sorted(
        (
            (_score(text, graph, heads, head, sizes=sizes, size=size, reached=reached.get(head, 0)), head)
            for head in heads
        ),
        reverse=True,
    )
    if not scored or scored[0][0] < _FLOOR:
        return None
    if len(scored) > 1 and scored[0][0] == scored[1][0]:
        return None
    return _described(graph, heads, scored[0][1])


def group_sizes(text: str, sizes: Sequence[Size]) -> list[Attached]:
    """Return one entry per lesion among the lengths of one head, in text order: "5 and 7 mm" are two lesions."""
    groups: list[list[Size]] = []
    waiting: list[Size] = []  # lengths of earlier days whose today's length follows
    for index, size in enumerate(sizes):
        following = sizes[index + 1] if index + 1 < len(sizes) else None
        if size.temporality is Temporality.PRIOR:
            after = text[size.span[1] : following.span[0]] if following is not None else ""
            leads_on = following is not None and following.temporality is Temporality.CURRENT and _LEADS_ON.match(after)
            if groups and not leads_on:
                groups[-1].append(size)
            else:
                waiting.append(size)
        elif groups and not waiting and _is_other_axis(size, groups[-1]):
            groups[-1].append(size)
        else:
            groups.append([*waiting, size])
            waiting = []
    if waiting:
        groups.append(waiting)
    return [Attached(tuple(sorted(group, key=lambda size: size.span))) for group in groups]


def overlap(first: Span, second: Span) -> bool:
    """Whether two half-open spans share a character."""
    return first[0] < second[1] and second[0] < first[1]


def _score(
    text: str, graph: Graph, heads: Sequence[int], head: int, *, sizes: Sequence[Size], size: Size, reached: int
) -> float:
    entity = graph.entities[head]
    follows = entity.span[0] >= size.span[1]
    between = (size.span[1], entity.span[0]) if follows else (max(entity.span[1], reached), size.span[0])
    gap = _without_lengths(text, between, sizes) if follows else text[slice(*between)]
    words, commas = len(gap.split()), gap.count(",")
    if len(heads) == 1 or _LARGEST_OF.search(gap):  # however far away, there is no other
        words, commas = min(words, _FAR), min(commas, _MANY)
    score = _PER_WORD * words + _COMMA * commas
    if not _CLAUSE_BREAK.search(gap):
        score += _SAME_CLAUSE
    if words <= (_WORDS_AFTER if follows else _WORDS_BEFORE):
        score += _IN_WINDOW
    if follows:
        listed = size.temporality is Temporality.PRIOR  # "previously 9 mm, the nodule now measures 12 mm"
        listed |= any(between[0] <= other.span[0] < between[1] for other in sizes)  # "5 and 7 mm nodules"
        named = not _NOT_A_NAME.search(_IN_DIMENSION.sub("", gap))
        score += _NAMED_BY if named else _LISTED if listed else _UNRELATED
    if entity.label.assertion is Assertion.ABSENT:
        score += _ABSENT
    if any(between[0] <= graph.entities[other].span[0] < between[1] for other in heads if other != head):
        score += _HEAD_BETWEEN
    if any(
        graph.entities[member].label.is_measurement and overlap(graph.entities[member].span, size.span)
        for member in graph.closure(head)
    ):
        score += _GRAPH_MEASURES
    return score


def _without_lengths(text: str, gap: Span, sizes: Sequence[Size]) -> str:
    """The words of a gap without lengths and without what stands in brackets."""
    words = list(text[slice(*gap)])
    for size in sizes:
        start, end = max(size.span[0], gap[0]), min(size.span[1], gap[1])
        if start < end:
            words[start - gap[0] : end - gap[0]] = " " * (end - start)
    return re.sub(r"^[^()\[\]]*[)\]]|\([^()]*\)|\[[^\[\]]*\]", " ", "".join(words))


def _described(graph: Graph, heads: Sequence[int], head: int) -> int:
    """What is only suggested has the size of the thing that suggests it."""
    source = next((other for other in graph.sources(head, Relation.SUGGESTIVE_OF) if other in heads), None)
    return head if source is None or graph.entities[source].label.assertion is Assertion.ABSENT else source


def _is_other_axis(size: Size, group: Sequence[Size]) -> bool:
    """Whether a length is one more diameter of the same lesion."""
    if size.kind is not SizeKind.LESION or len(size.axes) != 1:
        return False
    known = {axis for other in group if other.temporality is Temporality.CURRENT for axis in other.axes}
    return size.axes[0] in _AXES_OF_ONE and size.axes[0] not in known


def are_several(text: str, head: Span, groups: Sequence[Attached]) -> bool:
    """Whether the lengths of one head are those of several things: one nodule has one size today, whichever it is."""
    return bool(_PLURAL.search(text[slice(*head)]) or _AND_ONE.search(text[groups[0].span[1] : groups[-1].span[0]]))


def without_lesion(sizes: Sequence[Size]) -> tuple[Size, ...]:
    """Today's lengths as not known to be a lesion's size: they compete for what was drawn, and link to nothing."""
    return tuple(
        replace(size, kind=SizeKind.OTHER)
        if size.kind is SizeKind.LESION and size.temporality is Temporality.CURRENT
        else size
        for size in sizes
    )
