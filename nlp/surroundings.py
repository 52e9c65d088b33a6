"""The words around a length, and the rules of a language that read them.

Every length, date and image reference is blotted out by one mark per character, so that a rule can say "a date
follows" or "no other length in between" without knowing how these are written.

Brackets that hold a length are read apart: what stands in them says nothing of the lengths outside, and of those
inside first of all.
"""

from __future__ import annotations

import re
from collections.abc import Callable, Mapping
from dataclasses import dataclass

from nlp.expressions import Item
from nlp.languages import ALTERNATIVE

SIZE_MARK = "§"
DATE_MARK = "†"
REFERENCE_MARK = "¤"

_MAX_CONTEXT = 400  # characters of a sentence that are looked at on each side of a number
_LAST_WORDS = 100  # characters that a chain of filling words takes at most
_BRACKET = re.compile(r"[(\[][^()\[\]§]*§[^()\[\]]*[)\]]")


@dataclass(frozen=True, slots=True)
class Place:
    """The words of a sentence before and behind a length, brackets with other lengths left out.

    ``own_left`` are those before it in its own pair of brackets.
    """

    left: str
    right: str
    own_left: str
    in_brackets: bool
    longest_mm: float


def place_of(shadow: str, item: Item) -> Place:
    """Return the words around a length of a sentence."""
    start, end = item.group
    left, right = shadow[max(0, start - _MAX_CONTEXT) : start], shadow[end : end + _MAX_CONTEXT]
    opened = max(left.rfind("("), left.rfind("["))
    closing = re.search(r"[()\[\]]", right)
    inside = opened > max(left.rfind(")"), left.rfind("]")) and closing is not None and closing.group() in ")]"
    if inside and closing is not None:
        own = left[opened:]
        left = _BRACKET.sub("", left[:opened]) + own
        right = right[: closing.end()] + _BRACKET.sub("", right[closing.end() :])
    else:
        own = left = _BRACKET.sub("", left)
        right = _BRACKET.sub("", right)
    return Place(left, right, own, inside, item.longest_mm)


class Rules:
    """The rules of a language by name, each searched no further than it can reach."""

    def __init__(self, rules: Mapping[str, re.Pattern[str]]) -> None:
        self._patterns = rules
        self._first = {name: _finder(pattern) for name, pattern in rules.items()}

    def __getitem__(self, rule: str) -> re.Pattern[str]:
        return self._patterns[rule]

    def says(self, rule: str, words: str) -> bool:
        """Whether a rule holds in some words."""
        return self._first[rule](words) is not None

    def reach(self, rule: str, words: str) -> int:
        """Return the end of a rule's first match, 0 where there is none."""
        found = self._first[rule](words)
        return found.end() if found is not None else 0


def _finder(rule: re.Pattern[str]) -> Callable[[str], re.Match[str] | None]:
    """Search no further than a rule can reach: from the start, or in the last words where it ends at a length."""
    patterns = rule.pattern.split(ALTERNATIVE)
    if all(pattern.startswith("^") for pattern in patterns):
        return rule.match
    if all(pattern.endswith("$") and "[^" not in pattern for pattern in patterns):
        return lambda words: rule.search(words, max(0, len(words) - _LAST_WORDS))
    return rule.search
