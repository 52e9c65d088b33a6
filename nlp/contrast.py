"""Which of two lengths is of which day, told from the examinations that a sentence names.

A day ("now", "in the previous examination") belongs to the length in whose clause it stands: to the one before it where
no clause begins in between, else to the one behind it. A length without a day of its own takes the other day than its
partner. Days that only say what was compared, or that a thing was seen before, belong to no length.
"""

from __future__ import annotations

import re
from collections.abc import Iterator, Sequence

from nlp.expressions import Item
from nlp.surroundings import Rules
from nlp.types import Span, Temporality

_OTHER = {Temporality.PRIOR: Temporality.CURRENT, Temporality.CURRENT: Temporality.PRIOR}
_PAIR = 2
_ASIDE = re.compile(r"\([^()]*\)")


class Contrast:
    """Reads sentences that give one thing's length on two days, in one language."""

    def __init__(self, rules: Rules) -> None:
        self._rules = rules
        self._says = rules.says

    def read(self, shadow: str, items: Sequence[Item], times: Sequence[Temporality]) -> list[Temporality]:
        """Return the days of the lengths of a sentence; ``times`` where it does not set two lengths against another."""
        if len(items) == _PAIR and self._says("both_days", before := shadow[: items[0].span[0]]):
            first = Temporality.PRIOR if self._says("then_now", before) else Temporality.CURRENT
            return [first, _OTHER[first]]
        units = list(self._units(shadow, items))
        start, end = items[0].span
        # "8 mm (prior) vs 10 mm (current)", "grown by 3 mm to 15 mm"
        told = self._says("bracketed_day", shadow[end:]) or self._says("change_left", shadow[:start])
        if told or len(units) != _PAIR or any(item.temporality is not None for item in items):
            return list(times)
        days = self._days(shadow, *units)
        if days is None:
            return list(times)
        return [days[0] if item.span[1] <= units[0][1] else days[1] for item in items]

    def _units(self, shadow: str, items: Sequence[Item]) -> Iterator[Span]:
        """The lengths of a sentence, those of a list as one."""
        start, end = items[0].span
        for item in items[1:]:
            gap, behind = shadow[end : item.span[0]], shadow[item.span[1] :]
            if not self._says("joins_list", gap) or ("," in gap and self._says("own_thing", behind)):
                yield start, end
                start = item.span[0]
            end = item.span[1]
        yield start, end

    def _days(self, shadow: str, one: Span, two: Span) -> tuple[Temporality, Temporality] | None:
        before, gap, behind = shadow[: one[0]], shadow[one[1] : two[0]], shadow[two[1] :]
        if self._says("other_subject", gap):
            return None
        first, second = self._own(gap, behind)
        if first is None or second is None:
            if self._says("new_subject", gap):
                return None
            leading = [day for _, _, day in self._named(before)]
            if second is not None:
                first = self._with_first(second, leading)
            elif first is not None:
                second = self._with_second(first, leading, gap)
            elif self._turns(before, gap, shadow):
                first, second = Temporality.PRIOR, Temporality.CURRENT
        return None if first is None or second is None or first is second else (first, second)

    def _own(self, gap: str, behind: str) -> tuple[Temporality | None, Temporality | None]:
        """The days in the clauses of the two, from the words between and behind them."""
        first: Temporality | None = None
        second = next((day for at, _, day in self._named(behind) if not self._says("clause_break", behind[:at])), None)
        named = list(self._named(gap))
        if len({day for _, _, day in named}) == _PAIR:
            return named[0][2], second or named[-1][2]
        for start, end, day in named:
            led = self._says("clause_break", _ASIDE.sub("", gap[:start])) or self._says("day_and_verb", gap[start:])
            ended = self._says("clause_break", gap[end:]) or self._says("clause_verb", gap[end:])
            if led and second is None:
                second = day
            elif led or ended:
                first = first or day
        return first, second

    def _turns(self, before: str, gap: str, shadow: str) -> bool:
        """Whether verbs alone tell the days: "has reached" in a comparison, or "was 8 mm, and it is"."""
        if self._says("has_become", gap) and (self._says("time_cue", shadow) or not self._says("clause_break", gap)):
            return True
        return self._says("were_left", before) and self._says("turns_present", gap)

    def _with_first(self, second: Temporality, leading: Sequence[Temporality]) -> Temporality | None:
        """The day of the first length, from the one of the second and the days named before both."""
        missing = _OTHER[second]
        return missing if missing is Temporality.CURRENT or missing in leading else None

    def _with_second(self, first: Temporality, leading: Sequence[Temporality], gap: str) -> Temporality | None:
        """The day of the second length, which a verb of its own must tell."""
        missing = _OTHER[first]
        if missing is Temporality.PRIOR and missing not in leading:
            return missing if self._says("just_was", gap) else None
        return missing if self._says("reads", gap) else None

    def _named(self, words: str) -> Iterator[tuple[int, int, Temporality]]:
        """The days that words name as those of a measurement, with their spans."""
        for found in self._rules["day_named"].finditer(words):
            if not self._says("no_measuring", words[: found.start()]):
                day = Temporality.CURRENT if found.lastgroup == "now" else Temporality.PRIOR
                yield found.start(), found.end(), day
