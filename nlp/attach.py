"""Which length belongs to which observation of its sentence."""

from __future__ import annotations

import re
from bisect import bisect_left
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace

from nlp.coordination import RESPECTIVELY, is_list
from nlp.graph import Graph, Relation
from nlp.types import Assertion, Axis, Qualifier, Size, SizeKind, Span, Temporality

# Log-odds-like weights set by hand on written examples, not fitted; a length goes to the best head above the floor.
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
_NEAR = 16  # heads that are weighed for one length

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
_PLURAL = re.compile(r"(?:(?<!ascite)(?<!\bga)(?<![siu])s|sses|[fglc]i|ae)$", re.IGNORECASE)
_OF_ONE = re.compile(
    r"\b(?:larger|largest|biggest|greatest|widest|dominant|index|up\s+to|maximum|maximal|max|reach\w*|one|another|single|(?:for\s+)?example|e\.g|"
    r"such\s+as|especially|including)\b",
    re.IGNORECASE,
)
_OF_ALL = re.compile(r"\b(?:they|these|those|their|both|each|all)\b", re.IGNORECASE)
_AND_ONE = re.compile(r"\band\s+(?:an?|another|one|the\s+other)\b", re.IGNORECASE)
_LARGEST_OF = re.compile(r"\b(?:larger|largest|biggest|greatest|dominant)\b", re.IGNORECASE)
_MEASURES = re.compile(r"\s+(?:measures?|measured|is|was)(?:\s+(?:approximately|about|up\s+to|at))?\s+$", re.IGNORECASE)
_PART_BEHIND = re.compile(
    r"\s+(?:thick\s+)?(?:(?:inner|central|internal|solid|cystic|necrotic|enhancing|calcified|fatty|"
    r"soft[\s-]tissue|ground[\s-]glass)\s+){0,2}"
    r"(?:component|portion|(?<=solid )part)\b|\s+(?:thick\s+)?(?:wall|rim)\b(?!-|\s+(?:thick|enhanc))",
    re.IGNORECASE,
)
_PART_AHEAD = re.compile(
    r"\b(?:component|portion|(?<=solid )part|(?:wall|rim)\s+thickness)\s*"
    r"(?:[:(]|\b(?:of|is|was|measures|measured|measuring)\b)?"
    r"\s*(?:(?:up\s+to|about|approximately)\s+)?$",
    re.IGNORECASE,
)
_VERB_LENGTH = 40  # characters before a length that can hold its verb
_SUBJECT = re.compile(r"(?:^|[;:,.]|\band\b)\s*(?:the\s+)?$", re.IGNORECASE)
_NEXT_PLACE = re.compile(r"[^\w,;]*(?:[,;]|\band\b|&)\s*(?:[^\W\d]+\s+){0,3}", re.IGNORECASE)
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


@dataclass(slots=True)
class Assigned:
    """Which lengths of a sentence belong to which head; ``orphans`` to none or not to one alone.

    ``in_order``: several heads have theirs by "respectively".
    """

    by_head: dict[int, list[Size]]
    orphans: list[Size]
    in_order: bool = False


def assign(
    text: str, graph: Graph, heads: Sequence[int], lengths: Sequence[Size], *, sizes: Sequence[Size], sentence: Span
) -> Assigned:
    """Give each of a sentence's ``lengths`` (of lesions) to a head; ``sizes`` are all lengths of the sentence.

    A graph's measurement decides, then "respectively", then position.
    """
    by_head: dict[int, list[Size]] = {}
    orphans: list[Size] = []
    if not lengths:
        return Assigned(by_head, orphans)
    measured = [index for index in _around(graph, sentence) if graph.entities[index].label.is_measurement]
    in_order = _in_order(text, graph, heads, lengths, sentence)
    for size in lengths:
        if _is_of_place(text, graph, size, sentence) or _is_of_part(text, size, sentence):
            continue
        head = _measured_head(graph, heads, measured, size)
        if head is None and in_order is not None:
            head = in_order.get(size.span)
        elif head is None:
            reached = {head: own[-1].span[1] for head, own in by_head.items()}
            head = _best_head(text, graph, _near(graph, heads, size), size, sizes=sizes, reached=reached)
        if head is None:
            orphans.append(size)
        else:
            by_head.setdefault(head, []).append(size)
    return Assigned(by_head, orphans, in_order=in_order is not None and len(by_head) > 1)


def group_sizes(text: str, sizes: Sequence[Size], places: Sequence[Span] = ()) -> list[Attached]:
    """Return one entry per lesion among the lengths of one head, in text order: "5 and 7 mm" are two lesions.

    ``places`` are the sentence's: "hilar 9 mm and subcarinal 8 mm in short axis" are two lesions as well.
    """
    paired = _paired_lists(text, sizes)
    if paired is not None:
        return paired
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
        elif (
            groups
            and not waiting
            and _is_other_axis(size, groups[-1])
            and not _moves_on(text, groups[-1], size, places)
        ):
            groups[-1].append(size)
        else:
            groups.append([*waiting, size])
            waiting = []
    if waiting:
        groups.append(waiting)
    return [Attached(tuple(sorted(group, key=lambda size: size.span))) for group in groups]


def _moves_on(text: str, group: Sequence[Size], size: Size, places: Sequence[Span]) -> bool:
    """Whether a length is that of a list's next place: "hilar 9 mm and subcarinal 8 mm"."""
    end = max(other.span[1] for other in group)
    return any(
        _NEXT_PLACE.fullmatch(text, end, max(end, start)) and not text[stop : size.span[0]].strip(" :(")
        for start, stop in places
        if end <= start and stop <= size.span[0]
    )


def _paired_lists(text: str, sizes: Sequence[Size]) -> list[Attached] | None:
    """A list of today's lengths beside a list of as many of an earlier day: "5 and 7 mm (previously 4 and 6 mm)"."""
    half, odd = divmod(len(sizes), 2)
    if odd or half < _MANY - 1:
        return None
    first, second = sizes[:half], sizes[half:]
    days = {size.temporality for size in first}, {size.temporality for size in second}
    if any(len(day) > 1 for day in days) or days[0] == days[1]:
        return None
    if not all(is_list(text, [size.span for size in part]) for part in (first, second)):
        return None
    return [Attached(tuple(sorted(pair, key=lambda size: size.span))) for pair in zip(first, second, strict=True)]


def _is_of_place(text: str, graph: Graph, size: Size, sentence: Span) -> bool:
    """Whether a length is that of the place which is its subject: "the right lobe measures 5 cm and has a nodule"."""
    verb = _MEASURES.search(text, max(sentence[0], size.span[0] - _VERB_LENGTH), size.span[0])
    if verb is None:
        return False
    for index in _around(graph, (sentence[0], verb.start() + 1)):
        entity = graph.entities[index]
        if entity.label.is_anatomy and entity.span[1] == verb.start():
            return _SUBJECT.search(text[sentence[0] : entity.span[0]]) is not None
    return False


def _is_of_part(text: str, size: Size, sentence: Span) -> bool:
    """Whether a length is that of a part of the lesion: "with a 4 mm solid component"."""
    before = text[max(sentence[0], size.span[0] - _VERB_LENGTH) : size.span[0]]
    return bool(_PART_BEHIND.match(text, size.span[1], sentence[1]) or _PART_AHEAD.search(before))


def _around(graph: Graph, sentence: Span) -> range:
    """The entities of a sentence."""
    first = bisect_left(graph.entities, sentence[0], key=lambda entity: entity.span[0])
    return range(first, bisect_left(graph.entities, sentence[1], key=lambda entity: entity.span[0]))


def _near(graph: Graph, heads: Sequence[int], size: Size) -> Sequence[int]:
    """The few heads on either side that a length can belong to; a sentence may be a table of hundreds."""
    if len(heads) <= _NEAR:
        return heads
    place = bisect_left(heads, size.span[0], key=lambda head: graph.entities[head].span[0])
    return heads[max(0, place - _NEAR // 2) : place + _NEAR // 2]


def _measured_head(graph: Graph, heads: Sequence[int], measured: Sequence[int], size: Size) -> int | None:
    """The one head that a measurement of the graph over this length describes, itself or by the place it lies at."""
    over = {index for index in measured if overlap(graph.entities[index].span, size.span)}
    if not over:
        return None
    direct = [head for head in heads if not over.isdisjoint(graph.closure(head))]
    if len(direct) == 1:
        return _described(graph, heads, direct[0])
    placed = [
        head
        for head in heads
        if any(
            not over.isdisjoint(graph.closure(place))
            for member in graph.closure(head)
            for place in graph.targets(member, Relation.LOCATED_AT)
        )
    ]
    return _described(graph, heads, placed[0]) if len(placed) == 1 and not direct else None


def _in_order(
    text: str, graph: Graph, heads: Sequence[int], lengths: Sequence[Size], sentence: Span
) -> dict[Span, int] | None:
    """Which head each length has by "respectively"; empty where the counts differ, None where it is not said so."""
    today = [size for size in lengths if size.temporality is Temporality.CURRENT]
    if len(today) < _MANY - 1 or RESPECTIVELY.search(text, today[0].span[0], sentence[1]) is None:
        return None
    things = [
        head
        for head in heads
        if graph.entities[head].label.assertion is not Assertion.ABSENT
        and not graph.sources(head, Relation.SUGGESTIVE_OF)
    ]
    if len(things) == 1:
        return {size.span: things[0] for size in lengths}
    spans = [graph.entities[head].span for head in things]
    apart = all(end <= today[0].span[0] for _, end in spans) or all(start >= today[-1].span[1] for start, _ in spans)
    if len(things) != len(today) or not apart or not is_list(text, [size.span for size in today]):
        return {}
    prior = [size for size in lengths if size.temporality is Temporality.PRIOR]
    order = {size.span: head for size, head in zip(today, things, strict=True)}
    if len(prior) == len(things) and is_list(text, [size.span for size in prior]):
        order |= {size.span: head for size, head in zip(prior, things, strict=True)}
    return order


def _best_head(
    text: str, graph: Graph, heads: Sequence[int], size: Size, *, sizes: Sequence[Size], reached: Mapping[int, int]
) -> int | None:
    """The head that a length belongs to by position; None where none is likely or two are equally so.

    ``reached`` says how far the lengths already given to a head reach: a list is counted from its last member.
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


def overlap(first: Span, second: Span) -> bool:
    """Whether two half-open spans share a character."""
    return first[0] < second[1] and second[0] < first[1]


def _score(
    text: str, graph: Graph, heads: Sequence[int], head: int, *, sizes: Sequence[Size], size: Size, reached: int
) -> float:
    entity = graph.entities[head]
    follows = entity.span[0] >= size.span[1]
    between = (size.span[1], entity.span[0]) if follows else (max(entity.span[1], reached), size.span[0])
    behind = [other.span[1] for other in sizes if between[0] <= other.span[0] < between[1]] if follows else []
    listed = bool(behind)  # "5 and 7 mm nodules"
    blanks = [other.span for other in sizes]
    if listed:  # "hilar 9 mm, subcarinal 8 mm lymph nodes"
        places = [
            graph.entities[index].span for index in _around(graph, between) if graph.entities[index].label.is_anatomy
        ]
        blanks += places if all(end <= max(behind) for _, end in places) else []
    gap = _without(text, between, blanks) if follows else text[slice(*between)]
    words, commas = len(gap.split()), gap.count(",")
    if len(heads) == 1 or _LARGEST_OF.search(gap):  # however far away, there is no other
        words, commas = min(words, _FAR), min(commas, _MANY)
    score = _PER_WORD * words + _COMMA * commas
    if not _CLAUSE_BREAK.search(gap):
        score += _SAME_CLAUSE
    if words <= (_WORDS_AFTER if follows else _WORDS_BEFORE):
        score += _IN_WINDOW
    if follows:
        listed |= size.temporality is Temporality.PRIOR  # "previously 9 mm, the nodule now measures 12 mm"
        named = not _NOT_A_NAME.search(_IN_DIMENSION.sub("", gap))
        score += _NAMED_BY if named else _LISTED if listed else _UNRELATED
    if entity.label.assertion is Assertion.ABSENT:
        score += _ABSENT
    if any(between[0] <= graph.entities[other].span[0] < between[1] for other in heads if other != head):
        score += _HEAD_BETWEEN
    return score


def _without(text: str, gap: Span, blanks: Sequence[Span]) -> str:
    """The words of a gap without some spans and without what stands in brackets."""
    words = list(text[slice(*gap)])
    for first, last in blanks:
        start, end = max(first, gap[0]), min(last, gap[1])
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


def of_one(text: str, head: Span, attached: Attached, heads: Sequence[Span], sentence: Span) -> Attached:
    """The one length of a head, as no lesion's where it is that of several things alike: "two 6 mm nodules".

    ``heads``: all of the sentence that the length stands in; the plural may stand in the sentence before.
    """
    start, end = sentence
    apart = head[0] < start and not _OF_ALL.search(text, start, end)
    bound = any(size.qualifier is Qualifier.UP_TO for size in attached.sizes)
    if apart or bound or not _PLURAL.search(text[slice(*head)]):
        return attached
    first, last = max(start, min(head[0], attached.span[0])), max(head[1], attached.span[1])
    start = max([start, text.rfind(";", start, first), *(other[1] for other in heads if other[1] <= first)])
    behind = text.find(";", last, end)
    end = min([behind if behind >= 0 else end, *(other[0] for other in heads if other[0] >= last)])
    return attached if _OF_ONE.search(text, start, end) else Attached(without_lesion(attached.sizes))


def without_lesion(sizes: Sequence[Size]) -> tuple[Size, ...]:
    """Today's lengths as not known to be a lesion's size: they compete for what was drawn, and link to nothing."""
    return tuple(
        replace(size, kind=SizeKind.OTHER)
        if size.kind is SizeKind.LESION and size.temporality is Temporality.CURRENT
        else size
        for size in sizes
    )
