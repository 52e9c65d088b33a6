"""Of which day a length is: of this examination or of an earlier one, read from the words around it."""

from __future__ import annotations

import re
from collections.abc import Sequence
from itertools import pairwise

from nlp.contrast import Contrast
from nlp.expressions import Item
from nlp.surroundings import DATE_MARK, SIZE_MARK, Place, Rules
from nlp.types import Temporality

_PRIOR_SECTIONS = frozenset({"history", "indication", "comparison"})
_MARKS = re.compile("§+")


class Days:
    """Tells the lengths of today from earlier ones, in one language."""

    def __init__(self, rules: Rules) -> None:
        self._rules = rules
        self._says = rules.says
        self._contrast = Contrast(rules)

    def read(
        self,
        shadow: str,
        items: Sequence[Item],
        places: Sequence[Place],
        *,
        section: str,
        report: str,
        near: tuple[str, str],
    ) -> list[Temporality]:
        """Return the day of each length of a sentence; see :meth:`nlp.context.Reader.read`."""
        cued = self._says("time_cue", shadow)
        times = self._times(shadow, items, places, section, cued=cued)
        if len(items) > 1 and section not in _PRIOR_SECTIONS and (cued or self._hints_at_two_days(shadow, places[0])):
            times = self._contrast.read(shadow, items, times)
        elif len(items) == 1 and times[0] is Temporality.CURRENT and self._is_told_nearby(places[0], *near):
            return [Temporality.PRIOR]
        if not any(place.in_brackets for place in places):
            return times
        marked = [self._stands_alone_in_brackets(place) for place in places]
        if any(marked) and (
            self._says("values_in_brackets", report)
            or _has_prior_in_brackets(places, times)
            or (self._says("is_change", shadow) and not self._says("same", shadow) and _differ(places))
        ):
            times = [Temporality.PRIOR if mark else time for mark, time in zip(marked, times, strict=True)]
        return times

    def _hints_at_two_days(self, shadow: str, place: Place) -> bool:
        """Whether a sentence that names no day may still compare two: by a change, or "it was"."""
        return self._says("is_change", shadow) or self._says("were_left", place.left)

    def _is_told_nearby(self, place: Place, before: str, after: str) -> bool:
        """Whether a lone length is an earlier one for the sentences around its own: "It was 8 mm. Now it is 9 mm."."""
        if self._says("opens_now", after) and self._says("just_was", place.left):
            told = True
        else:
            told = self._says("opened_prior", before) and self._says("goes_on_prior", place.left)
        return told and not self._says("today", place.left + place.right)

    def _times(
        self, shadow: str, items: Sequence[Item], places: Sequence[Place], section: str, *, cued: bool
    ) -> list[Temporality]:
        if section in _PRIOR_SECTIONS and not (cued and section == "comparison"):
            return [Temporality.PRIOR] * len(items)
        if not cued and len(items) == 1 and items[0].temporality is None:
            return [Temporality.CURRENT]
        times = [
            item.temporality or (Temporality.PRIOR if self._is_prior(place, cued=cued) else Temporality.CURRENT)
            for item, place in zip(items, places, strict=True)
        ]
        if section == "comparison" and Temporality.PRIOR not in times and not self._says("today", shadow):
            return [Temporality.PRIOR] * len(items)
        for index in range(1, len(items)):
            gap = shadow[items[index - 1].span[1] : items[index].group[0]]
            if times[index - 1] is Temporality.PRIOR and self._shares_day(gap, items[index], places[index]):
                times[index] = Temporality.PRIOR
        return times

    def _shares_day(self, gap: str, item: Item, place: Place) -> bool:
        """Whether a length is of the day of the one before it, for the words between them: a list, or "and it was"."""
        if item.temporality is not None or self._says("current_right", place.right):
            return False
        if "," in gap and self._says("own_thing", place.right):  # "previously 9 mm, and 8 mm cyst"
            return False
        if self._says("goes_on", gap):
            return not self._says("other_day", gap) and not self._says("today", gap)
        return self._says("shares_day_in_brackets" if place.in_brackets else "shares_day", gap)

    def _stands_alone_in_brackets(self, place: Place) -> bool:
        """Whether a length stands behind another one as in "12 mm (9 mm)"."""
        return (
            place.in_brackets and place.right.lstrip()[:1] in {")", "]"} and self._says("lone_in_brackets", place.left)
        )

    def _is_prior(self, place: Place, *, cued: bool) -> bool:
        """Whether the length is an earlier one; without a cue only "from 12 mm to" and "was 12 mm" can say so."""
        left, right = place.left, place.right
        if place.in_brackets:  # "(30 and 15 mm in the previous examination)"
            right = right[self._rules.reach("list_behind", right) :]
        if self._says("current_right", right):
            return False
        if cued:
            told = self._is_prior_by_cue(place, right)
            if told is not None:
                return told
        elif self._says("was_left", left):
            return True
        left = self._without_list(left)
        started = self._rules["from_left"].search(left)
        if started is not None:
            if self._says("before_word", started.group()):
                return True
            spread = self._says("is_spread", left) or self._says("than_word", started.group())
            return not spread and (self._says("is_change", left) or SIZE_MARK in left)
        grown = self._says("grows_to", right) and self._says("is_change", left) and not self._says("is_spread", left)
        if grown and not self._says("change_left", left):  # "grown by 3 mm to 15 mm"
            return True
        return self._is_first_of_two_days(place) or (cued and self._is_foil(place))

    def _without_list(self, left: str) -> str:
        listed = self._rules["list_before"].search(left)
        return left[: listed.start()] if listed is not None else left

    def _is_prior_by_cue(self, place: Place, right: str) -> bool | None:
        """What the words that name a day say of a length; None where they do not say."""
        left = place.left
        attached = self._says("prior_right", right)
        if self._says("current_left", place.own_left):
            return attached and not self._says("now_left", place.own_left)
        if place.in_brackets and self._says("bracket_after_exam", left):
            return SIZE_MARK in left or not self._says("same", left)
        if attached or self._says("was_left", left) or self._says("gone_now", right):
            return True
        if self._says("opens_prior", left) and self._says("was_right", right) and not self._says("same", right):
            return not self._says("today", left + right)
        if self._says("seen_before", left):
            return self._says("gone_right", right) and not self._says("same", right)
        if self._says("bare_previous", left):
            own_right = right[: right.find(")")] if place.in_brackets else right
            return SIZE_MARK in right or not self._says("same", own_right)
        left = self._without_list(left)
        compared = self._says("compared_left", left)
        named = not compared and self._says("prior_left", left)
        if named and not self._says("day_taken", left) and not self._is_overruled(left):
            return True
        if not compared and SIZE_MARK in left and self._says("comma_after_exam", left):
            return True
        seen = self._rules["seen_before_right"].search(right)
        if seen is not None and not self._says("not_before_right", right):
            after = right[seen.end() :]
            if self._says("gone_right", after) and not self._says("same", after):
                return True
        return None

    def _is_first_of_two_days(self, place: Place) -> bool:
        """Whether it is the old one of "which was 18 mm, is now 8 mm", or of "9 and 7 mm before are 6 and 5 mm"."""
        left, right = place.left, place.right
        if self._says("then_left", left) and self._says("now_right", right) and not self._says("other_thing", right):
            return True
        rest = right[self._rules.reach("list_then", right) :]
        told = rest != right and self._says("prior_right", rest)
        return told and (SIZE_MARK in rest or self._says("were_left", left))

    def _is_overruled(self, left: str) -> bool:
        """Whether today is named behind the other day: "not there on the previous CT, and now a nodule of"."""
        words = left[left.rfind(SIZE_MARK) + 1 :]
        today = [found.end() for found in self._rules["today"].finditer(words)]
        other = [found.end() for found in self._rules["other_day"].finditer(words)]
        return bool(today) and today[-1] > max(other, default=0) and DATE_MARK not in words[today[-1] :]

    def _is_foil(self, place: Place) -> bool:
        """Whether the sentence speaks of another day and gives its one other length as today's."""
        words = place.left + SIZE_MARK + place.right
        here = len(place.left)
        days = [
            day
            for day in self._rules["other_day"].finditer(words)
            if not self._says("no_measuring", words[: day.start()])
        ]
        others = [mark for mark in _MARKS.finditer(words) if mark.start() != here]
        if len(others) != 1 or not days or self._says("other_thing", words) or self._says("opens_today", place.left):
            return False
        start, end = others[0].span()
        if self._says("prior_left", words[:start]):
            return False
        if self._says("current_left", words[:start]) or self._says("current_right", words[end:]):
            return True
        between = words[here + 1 : start]
        told = any(here < day.start() < start for day in days)
        return told and not self._says("same", between) and self._says("reading_left", between)


def _has_prior_in_brackets(places: Sequence[Place], times: Sequence[Temporality]) -> bool:
    """Whether another length of the sentence is in brackets, and said to be a previous one."""
    return any(place.in_brackets and time is Temporality.PRIOR for place, time in zip(places, times, strict=True))


def _differ(places: Sequence[Place]) -> bool:
    """Whether every length in brackets is another one than that before it: "1 cm (10 mm)" repeats itself."""
    return all(not place.in_brackets or place.longest_mm != other.longest_mm for other, place in pairwise(places))
