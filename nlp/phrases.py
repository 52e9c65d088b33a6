"""The words of a finding: the shortest span that says what and where, as it was dictated."""

from __future__ import annotations

import re
from collections.abc import Sequence

from nlp.places import lead_in, may_say_side
from nlp.types import Laterality, Span

_SPECIFIC = re.compile(
    r"\b(?:right|left|lobe|segment|pole|lingula|head|tail|body|dome|apex|rul|rml|rll|lul|lll|region|station|level|quadrant)\b",
    re.IGNORECASE,
)
_PAIRS = (("(", ")"), ("[", "]"))
_BRACKET_REST = 60  # characters up to the bracket's end that a phrase takes in rather than leave the bracket out
_SIDE_AHEAD = re.compile(r"\b(right|left)(?:[\s-]+sided)?\s+$", re.IGNORECASE)
_SIDE_BEHIND = re.compile(
    r"(?:\s*,)?(?:\s+(?:is|are|was|were|also|now|again|seen|observed|noted|present|detected|identified)){0,4}\s+"
    r"(?:on|at|in)\s+the\s+(right|left)(?:\s+side)?(?=\s*(?:[.,;)]|$|and\b|with\b))",
    re.IGNORECASE,
)
_SIDE_LENGTH = 20  # characters before a phrase that can hold "right-sided"
_LEADING = re.compile(r"[\s,;:.)\]\u2013-]*")
_TRAILING = re.compile(
    r"(?:[\s,;:\u2013-]|\b(?:measuring|measures|measured|of|in|with|and|the|a|an|is|are)\b(?=\s*$))+$", re.IGNORECASE
)


def hull(spans: Sequence[Span]) -> Span:
    """From the first to the last of some spans."""
    return min(start for start, _ in spans), max(end for _, end in spans)


def grow(core: Sequence[Span], extras: Sequence[Span], foreign: Sequence[Span]) -> Span:
    """Return the span of ``core`` with the ``extras`` that it reaches without a length of another finding between."""
    phrase = hull(core)
    barriers = [span for span in foreign if not _holds(phrase, span)]
    for extra in sorted(extras, key=lambda span: distance(span, phrase)):
        wider = hull([phrase, extra])
        if not any(wider[0] < stop and start < wider[1] for start, stop in barriers):
            phrase = wider
    return phrase


def finish(
    text: str,
    phrase: Span,
    bounds: tuple[int, int, int],
    *,
    keep: Sequence[Span],
    places: Sequence[Span],
    foreign: Sequence[Span],
) -> Span:
    """Return a phrase without a label in front, with its brackets closed and its first little words.

    ``bounds`` are where the sentence begins, its label ends and the sentence ends; ``keep`` the spans that the phrase
    must not lose, the observation and its lengths; ``places`` those of its places.
    """
    first, label_end, last = bounds
    start, end = phrase
    if start < label_end < end and all(span[0] >= label_end for span in keep):
        # "Mediastinum:" is the label of a paragraph; "Left kidney:" is a place and stays.
        start = start if _SPECIFIC.search(text, first, label_end) else label_end
    start, end = _closed(text, (start, end), (first, last), keep=keep, foreign=foreign)
    skip = _LEADING.match(text, start, end)
    start = min(skip.end() if skip is not None else start, *(span[0] for span in keep))
    tail = _TRAILING.search(text, max(span[1] for span in keep), end)
    if tail is not None and tail.end() == end:
        end = tail.start()
    return lead_in(text, start, first, at_place=any(span[0] == start for span in places)), end


def with_side(text: str, phrase: Span, side: Laterality | None, sentence: Span, foreign: Sequence[Span]) -> Span:
    """Return a phrase with the bare side word at its edge: "Left PICC", "an effusion is seen on the right"."""
    if side not in {Laterality.LEFT, Laterality.RIGHT} or may_say_side(text[slice(*phrase)]):
        return phrase
    ahead = _SIDE_AHEAD.search(text, max(sentence[0], phrase[0] - _SIDE_LENGTH), phrase[0])
    if ahead is not None and ahead[1].upper() == side:
        return ahead.start(), phrase[1]
    behind = _SIDE_BEHIND.match(text, phrase[1], sentence[1])
    if behind is None or behind[1].upper() != side:
        return phrase
    taken = any(phrase[1] <= start < behind.end() for start, _ in foreign)
    return phrase if taken else (phrase[0], behind.end())


def _closed(text: str, phrase: Span, sentence: Span, *, keep: Sequence[Span], foreign: Sequence[Span]) -> Span:
    """A span with the brackets that it opens, closes or leaves open made whole, or without them."""
    start, end = phrase
    for opening, closing in _PAIRS:
        words = text[start:end]
        if opening not in words and closing not in words:
            continue
        first, depth = _unbalanced(words, opening, closing)
        if first < 0:  # closes what it does not open
            opened = text.rfind(opening, sentence[0], start)
            if opened >= 0 and not text[opened + 1 : start].strip():
                start = opened
        if depth > 0:
            close = text.find(closing, end, sentence[1])
            opened = start + words.rfind(opening)
            can_close = close >= 0 and not any(span[0] < close and end < span[1] for span in foreign)
            can_cut = all(span[1] <= opened for span in keep)
            if can_close and (close - end < _BRACKET_REST or not can_cut):
                end = close + 1
            elif can_cut:
                end = start + len(text[start:opened].rstrip())
    return start, end


def _unbalanced(words: str, opening: str, closing: str) -> tuple[int, int]:
    """The lowest depth of brackets, and the depth at the end."""
    depth = lowest = 0
    for letter in words:
        if letter == opening:
            depth += 1
        elif letter == closing:
            depth -= 1
            lowest = min(lowest, depth)
    return lowest, depth - lowest


def _holds(outer: Span, inner: Span) -> bool:
    return outer[0] <= inner[0] and inner[1] <= outer[1]


def distance(first: Span, second: Span) -> int:
    """Return how many characters stand between two spans."""
    return max(0, second[0] - first[1], first[0] - second[1])
