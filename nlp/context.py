"""What a number is the length of, of which day, along which axis and how exact: read from the words around it.

The rules, and the words in them, are those of a language: see :mod:`nlp.languages`. What they see of a sentence is told
in :mod:`nlp.surroundings`, and :mod:`nlp.days` tells the lengths of today from earlier ones.
"""

from __future__ import annotations

import re
from collections.abc import Sequence
from dataclasses import dataclass, replace
from functools import cache

from nlp.days import Days
from nlp.expressions import Item
from nlp.languages import Language, load_language
from nlp.surroundings import SIZE_MARK, Place, Rules, place_of
from nlp.types import Axis, Qualifier, SizeKind, Temporality

_LONE_TARGET_MM = 30.0  # "increased by 46 mm" gives the new size: nothing grows that much between two examinations
_LIMITS = (
    ("at_most", Qualifier.UP_TO),
    ("or_above", Qualifier.AT_LEAST),
    ("less", Qualifier.LESS_THAN),
    ("more", Qualifier.GREATER_THAN),
    ("normal_limit", Qualifier.UP_TO),
    ("threshold", Qualifier.AT_LEAST),
)
_LIMITS_RIGHT = (("or_more_right", Qualifier.AT_LEAST), ("or_less_right", Qualifier.UP_TO))
_QUALIFIERS = (
    ("approximate", Qualifier.APPROXIMATE),
    ("at_least", Qualifier.AT_LEAST),
    ("up_to", Qualifier.UP_TO),
)
_AXIS_RIGHT = re.compile(r"^(?P<words>[^§;,.]{0,60})")
_AXIS_LEFT = re.compile(r"(?P<words>[^§;.]*)$")
_AXIS_REACH = 60  # characters before a length


@dataclass(frozen=True, slots=True)
class Context:
    """What the words around a length say of it."""

    kind: SizeKind
    temporality: Temporality
    qualifier: Qualifier | None
    axis: Axis | None


@cache
def reader(code: str) -> Reader:
    """Return the reader of a language, by its code."""
    return Reader(load_language(code))


class Reader:
    """Judges the lengths of a sentence by its words, in one language."""

    def __init__(self, language: Language) -> None:
        self.code = language.code
        self._rules = Rules(language.rules)
        self._says = self._rules.says
        self._days = Days(self._rules)
        self._nouns = language.nouns
        self._minimum_mm = language.minimum_mm

    def read(
        self, shadow: str, items: Sequence[Item], *, before: str, after: str, section: str, report: str
    ) -> list[Context]:
        """Return a context for each length of a sentence.

        Parameters
        ----------
        shadow
            The sentence, lower case, with its lengths, dates and image references blotted out.
        items
            Its lengths.
        before
            The sentence before it, lower case: it may name what "it" is, and of which day.
        after
            The sentence behind it, lower case: "now" there tells that this one speaks of an earlier day.
        section
            The section that it stands in.
        report
            The whole text, lower case: it may say once for all that its brackets hold the previous values.
        """
        places = [place_of(shadow, item) for item in items]
        times = self._days.read(shadow, items, places, section=section, report=report, near=(before, after))
        earlier = [place.longest_mm for place, time in zip(places, times, strict=True) if time is Temporality.PRIOR]
        contexts: list[Context] = []
        for index, (place, time) in enumerate(zip(places, times, strict=True)):
            context = self._context(place, time, section, before, earlier)
            if index > 0 and self._says("repeats", shadow[items[index - 1].span[1] : items[index].group[0]]):
                context = _inherit(contexts[-1], context)
            contexts.append(context)
        return contexts

    def _context(self, place: Place, time: Temporality, section: str, before: str, earlier: Sequence[float]) -> Context:
        limit = self._limit(place)
        if limit is not None or (time is Temporality.CURRENT and self._is_change(place, earlier)):
            kind = SizeKind.THRESHOLD
        else:
            kind = SizeKind.LESION
        if (
            section == "technique"
            or self._says("technique_right", place.right)
            or self._says("technique_left", place.left)
        ):
            kind = SizeKind.TECHNIQUE
        if kind is SizeKind.LESION:
            kind = self._kind(place, before)
        return Context(kind, time, limit or self._qualifier(place.left), self._axis(place))

    def _kind(self, place: Place, before: str) -> SizeKind:
        left, right = place.left, place.right
        if self._says("normal_right", right) and self._says("wall", left):
            return SizeKind.NORMAL_STRUCTURE
        if self._is_distance(place):
            return SizeKind.DISTANCE
        if self._says("device_right", right) or self._says("device_left", left):
            return SizeKind.DEVICE
        if self._says("stricture_right", right) or self._says("stricture_left", left):
            return SizeKind.OTHER
        return SizeKind.NORMAL_STRUCTURE if self._is_structure(place, before) else SizeKind.LESION

    def _is_change(self, place: Place, earlier: Sequence[float]) -> bool:
        """Whether the length is a difference: "increased by 3 mm".

        "Increased by 46 mm" often stands for "to 46 mm": where that is more than was there before, or more than grows
        in between; a decrease "by" most of what was there likewise.
        """
        if self._says("change_right", place.right):
            return True
        if not self._says("change_left", place.left):
            return False
        if not self._says("increase", place.left):
            return not any(place.longest_mm < was < 2 * place.longest_mm for was in earlier)
        return place.longest_mm < (max(earlier) if earlier else _LONE_TARGET_MM)

    def _is_distance(self, place: Place) -> bool:
        left, right = place.left, place.right
        if any(self._says(rule, left) for rule in ("distance_subject", "distance_left")):
            return True
        if self._says("distance_right", right):
            return True
        if not self._says("measuring_left", left) and left.rstrip()[-1:].isalpha() and self._says("place_right", right):
            return True
        if not self._says("tube", left) or not (self._says("landmark", left) or self._says("landmark", right)):
            return False
        return not any(self._minimum(noun) is None for noun in self._nouns.finditer(left))

    def _minimum(self, noun: re.Match[str]) -> float | None:
        """The shortest plausible length of a structure; None for what is focal."""
        return self._minimum_mm.get(noun.lastgroup or "")

    def _is_structure(self, place: Place, before: str) -> bool:
        """Whether the length is that of a vessel, duct or organ: the nearest noun it can belong to."""
        left, right = place.left, place.right
        phrase = self._rules["noun_phrase"].match(right)
        words = phrase.group() if phrase else ""
        for noun in reversed([*self._nouns.finditer(words)]):
            return self._is_long_enough(noun, place)
        if self._says("new_thing_left", left) and not self._says("size_phrase", words):
            return False
        clause = self._rules["clause_start"].split(left)[-1]
        nouns = [*self._nouns.finditer(clause)]
        verdict = self._by_subject(clause, nouns, place)
        if verdict is not None:
            return verdict
        following = [*self._nouns.finditer(right)]
        for noun in following[:1]:
            start = right[: noun.start()]
            if self._minimum(noun) is None:
                continue
            if self._says("inside_right", start) and self._says("calibre", clause + start) and not nouns:
                return self._is_long_enough(noun, place)
            if not nouns and self._says("leads", start):
                return self._is_long_enough(noun, place)
        if nouns or following:
            return False
        for words in (left, before):
            nouns = [*self._nouns.finditer(words)]
            if any(self._minimum(noun) is None for noun in nouns):
                return False
            if nouns:
                return self._by_subject(words, nouns, place) or False
        return False

    def _by_subject(self, clause: str, nouns: Sequence[re.Match[str]], place: Place) -> bool | None:
        """Whether the last noun that is no mere place is a structure; None where there is no such noun."""
        passed: re.Match[str] | None = None
        for index in reversed(range(len(nouns))):
            noun = nouns[index]
            before = clause[: noun.start()]
            if self._minimum(noun) is None:
                if index > 0 and self._says("aside", before):
                    continue
                return False
            if self._says("own_length", before):
                return self._is_long_enough(noun, place)
            passed = passed or noun
            joined = index > 0 and self._says("joins_nouns", clause[nouns[index - 1].end() : noun.start()])
            if joined and not self._says("is_subject", clause[noun.end() :]):
                continue
            if not self._says("inside", before):
                return self._is_long_enough(noun, place)
        if self._says("calibre_is", clause):
            return True
        if passed is not None and self._says("calibre", clause):
            return self._is_long_enough(passed, place)
        return None

    def _is_long_enough(self, noun: re.Match[str], place: Place) -> bool:
        minimum = self._minimum(noun)
        return minimum is not None and place.longest_mm >= minimum

    def _limit(self, place: Place) -> Qualifier | None:
        for rule, qualifier in _LIMITS:
            if self._says(rule, place.left):
                return qualifier
        return next((qualifier for rule, qualifier in _LIMITS_RIGHT if self._says(rule, place.right)), None)

    def _qualifier(self, left: str) -> Qualifier | None:
        return next((qualifier for rule, qualifier in _QUALIFIERS if self._says(rule, left)), None)

    def _axis(self, place: Place) -> Axis | None:
        """The axis named right after the length, or else last before it."""
        after = _AXIS_RIGHT.match(place.right)
        words = after["words"] if after else ""
        parts = self._rules["axis_and"].split(words)
        # Words right before the next length describe that one.
        if len(parts) > 1 or not place.right[len(words) :].lstrip().startswith(SIZE_MARK):
            hit = self._rules["axis"].search(parts[0])
            if hit is not None:
                return Axis(str(hit.lastgroup))
        before = _AXIS_LEFT.search(place.left, max(0, len(place.left) - _AXIS_REACH))
        words = before["words"] if before else ""
        hits = [*self._rules["axis"].finditer(words)]
        return Axis(str(hits[-1].lastgroup)) if hits else None


def _inherit(first: Context, second: Context) -> Context:
    """In "a short axis up to 19 mm on the right and 24 mm on the left" both are short axes, and bounds."""
    qualifier = Qualifier.UP_TO if first.qualifier is Qualifier.UP_TO and second.qualifier is None else second.qualifier
    return replace(second, axis=second.axis or first.axis, qualifier=qualifier)
