"""Lists taken apart: which of several lengths stands at which of several places.

"5 mm in the upper lobe and 7 mm in the lower lobe", "right 12 mm, left 8 mm", "in the liver and spleen, 31 and 25 mm,
respectively". Where the order or the count leaves a choice, nothing is said.
"""

from __future__ import annotations

import re
from collections.abc import Sequence
from dataclasses import dataclass
from itertools import pairwise

from nlp.places import is_beside
from nlp.types import Span

RESPECTIVELY = re.compile(r"\brespectively\b|\bin\s+(?:this|that|the\s+same)\s+order\b", re.IGNORECASE)

_SIDE = re.compile(r"\b(?:right|left)(?:[\s-]+sided?)?\b(?!\s+(?:in|over|unchanged|behind)\b)", re.IGNORECASE)
_SEPARATOR = re.compile(r"[,;]|\band\b|&|\bas\s+well\s+as\b", re.IGNORECASE)
_LISTED = re.compile(
    r"\s*(?:sides?\b\s*)?(?:,\s*(?:and\s+|or\s+)?|and\s+|&\s*|/\s*|\+\s*|as\s+well\s+as\s+)(?:(?:in|of|on|at|within)\s+)?(?:the\s+|an?\s+)?",
    re.IGNORECASE,
)
_CHAINED = re.compile(r"[\s-]*(?:(?:of|in)\s+)?(?:the\s+)?", re.IGNORECASE)
_VALUES_LISTED = re.compile(
    r"\s*(?:mm|cm)?\s*(?:,\s*(?:and\s+|or\s+)?|and\s+|&\s*|/\s*|or\s+)(?:(?:about|approximately|approx\.?|the|a)\s+)*",
    re.IGNORECASE,
)


@dataclass(frozen=True, slots=True)
class Anchor:
    """Something that says where: an entity of the graph (``place``), or a bare "right" or "left" (None)."""

    span: Span
    place: int | None = None


def find_anchors(text: str, window: Span, places: Sequence[tuple[int, Span]]) -> list[Anchor]:
    """Return the places and the side words outside of them in a window of the text, in order."""
    inside = [
        Anchor(span, place)
        for place, span in places
        if window[0] <= span[0] and span[1] <= window[1] and not is_beside(text[window[0] : span[0]].lower())
    ]
    sides = [
        Anchor(match.span())
        for match in _SIDE.finditer(text, *window)
        if all(match.end() <= anchor.span[0] or anchor.span[1] <= match.start() for anchor in inside)
    ]
    return sorted([*inside, *sides], key=lambda anchor: anchor.span)


def own_anchors(
    text: str, lead: int, lengths: Sequence[Span], end: int, anchors: Sequence[Anchor]
) -> list[list[Anchor]] | None:
    """Return the anchors of each length, if all stand on the same side of their lengths.

    The first length has none of its own where the noun before it says its place.

    Parameters
    ----------
    lead, end
        Where the clause of the lengths begins and ends.
    lengths
        Spans of at least two lengths, each with the earlier day's that belongs to it.

    Returns
    -------
    One list for each length; empty lists where no anchor stands between the lengths; None where it cannot be said.

    """
    runs = _runs(text, lengths)
    if 1 < len(runs) < len(lengths):  # "3 and 4 mm in the lower lobe and 6 mm in the upper lobe"
        units = own_anchors(text, lead, [(run[0][0], run[-1][1]) for run in runs], end, anchors)
        return None if units is None else [unit for unit, run in zip(units, runs, strict=True) for _ in run]
    edges = [(lead, lengths[0][0]), *((a[1], b[0]) for a, b in pairwise(lengths)), (lengths[-1][1], end)]
    gaps = [
        [anchor for anchor in anchors if start <= anchor.span[0] and anchor.span[1] <= stop] for start, stop in edges
    ]
    inner = gaps[1:-1]
    if not any(inner):
        return [[] for _ in lengths]
    if not all(inner):
        return None
    directions = {_direction(text, edge, gap) for edge, gap in zip(edges[1:-1], inner, strict=True)} - {0}
    if len(directions) > 1:
        return None
    behind = directions == {1} if directions else bool(gaps[-1])
    if behind:
        return gaps[1:] if gaps[-1] else None
    if not gaps[0]:  # "the right cyst measures 12 mm, the left one 8 mm": the first stands where its noun does
        return [[], *inner] if directions else None
    return [_last_chain(text, gaps[0]), *inner]


def respective(text: str, count: int, anchors: Sequence[Anchor]) -> list[list[Anchor]] | None:
    """Return the one list of ``count`` places among the anchors, member by member; None if there is none or another."""
    chains: list[list[Anchor]] = []
    for anchor in anchors:
        if chains and _CHAINED.fullmatch(text, chains[-1][-1].span[1], anchor.span[0]):
            chains[-1].append(anchor)
        else:
            chains.append([anchor])
    runs: list[list[list[Anchor]]] = []
    for chain in chains:
        if runs and _LISTED.fullmatch(text, runs[-1][-1][-1].span[1], chain[0].span[0]):
            runs[-1].append(chain)
        else:
            runs.append([chain])
    lists = [run for run in runs if len(run) > 1]
    return lists[0] if len(lists) == 1 and len(lists[0]) == count else None


def is_list(text: str, spans: Sequence[Span]) -> bool:
    """Whether lengths stand in one list: "31, 25 and 24 mm"."""
    return all(_VALUES_LISTED.fullmatch(text, first[1], second[0]) for first, second in pairwise(spans))


def between_separators(text: str, clause: Span, phrase: Span, sentence: Span) -> Span:
    """Return a clause between two other things without the words that belong to these.

    "On the left an effusion, and on the right | a mass": up to the last separator before the next thing, and from the
    first one behind the thing before.
    """
    start, end = clause
    if start > sentence[0]:
        first = _SEPARATOR.search(text, start, phrase[0])
        start = start if first is None else first.end()
    if end < sentence[1]:
        separators = [match.start() for match in _SEPARATOR.finditer(text, phrase[1], end)]
        end = separators[-1] if separators else end
    return start, end


def _runs(text: str, lengths: Sequence[Span]) -> list[list[Span]]:
    """Lengths in groups that no word divides: "3 and 4 mm", "6 mm"."""
    runs: list[list[Span]] = []
    for length in lengths:
        if runs and is_list(text, [runs[-1][-1], length]):
            runs[-1].append(length)
        else:
            runs.append([length])
    return runs


def _direction(text: str, edge: Span, gap: Sequence[Anchor]) -> int:
    """1 where the anchors between two lengths belong to the first, -1 to the second, 0 where it is not said."""
    before = _SEPARATOR.search(text, edge[0], gap[0].span[0])
    after = _SEPARATOR.search(text, gap[-1].span[1], edge[1])
    return bool(after) - bool(before)


def _last_chain(text: str, anchors: Sequence[Anchor]) -> list[Anchor]:
    """The anchors right before a length, without those that only lead there."""
    chain = [anchors[-1]]
    for anchor in reversed(anchors[:-1]):
        if not _CHAINED.fullmatch(text, anchor.span[1], chain[0].span[0]):
            break
        chain.insert(0, anchor)
    return chain
