"""Names and sides of places in the body."""

from __future__ import annotations

import re
from collections.abc import Sequence

from nlp.types import Laterality

_SIDE_WORDS = re.compile(r"\b(right|left|bilateral|both|rt|lt)\b(?:-sided)?")
_IMPLIED = ((re.compile(r"\blingula"), Laterality.LEFT), (re.compile(r"\bmiddle lobe\b"), Laterality.RIGHT))
_MIDLINE = re.compile(r"\bmidline\b(?!\s+shift)")
_LOBE = re.compile(r"\blobe\b")
_PART = re.compile(r"\b(?:segment|pole|apex|base|fissure|station|head|tail|body|dome|lingula|level|cortex|root|arch)\b")
_LEFT_VERB = re.compile(r"\bleft\s+(?:in|over|unchanged|behind)\b")


def place_name(terms: Sequence[str]) -> str | None:
    """One name for a chain of places, side first, the whole before its part: "left lower lobe superior segment".

    ``terms`` are in text order; None if there are none. The lung is not named beside its lobe.
    """
    if not terms:
        return None
    sides = _sides(terms)
    bare = list(dict.fromkeys(re.sub(r"\b(?:right|left|both|bilateral|rt|lt)\s+", "", term) for term in terms))
    if any(_LOBE.search(term) for term in bare):
        bare = [term for term in bare if term != "lung"]
    ordered = sorted(bare, key=_rank)
    prefix = "" if not sides else f"{sides[0]} " if len(sides) == 1 else "bilateral "
    return prefix + " ".join(ordered)


def laterality_of(terms: Sequence[str], words: Sequence[str]) -> Laterality | None:
    """The side of a finding: from its places, else from the words around it; None where these disagree."""
    for texts in (list(terms), [_LEFT_VERB.sub(" ", text.lower()) for text in words]):
        found = _sides(texts)
        if found == ["right"]:
            return Laterality.RIGHT
        if found == ["left"]:
            return Laterality.LEFT
        if found:
            both = any(
                re.search(r"\b(?:bilateral|both)\b|\b(?:right|left)\s+and\s+(?:right|left)\b", text) for text in texts
            )
            return Laterality.BILATERAL if both else None
        if any(_MIDLINE.search(text) for text in texts):
            return Laterality.MIDLINE
        implied = {side for pattern, side in _IMPLIED for text in texts if pattern.search(text)}
        if implied:
            return implied.pop() if len(implied) == 1 else None
    return None


def _sides(texts: Sequence[str]) -> list[str]:
    found: set[str] = set()
    for text in texts:
        for word in _SIDE_WORDS.findall(text):
            found |= {"right": {"right"}, "rt": {"right"}, "left": {"left"}, "lt": {"left"}}.get(
                word, {"right", "left"}
            )
    return sorted(found)


def _rank(term: str) -> int:
    if _LOBE.search(term):
        return 1
    return 2 if _PART.search(term) else 0


_LEVEL = r"[TLCS]\d{1,2}(?:[-/][TLCS]?\d{1,2})?\s+"
_LEAD_IN = re.compile(rf"\b(?:(?:in|within|at)\s+(?:the\s+)?(?:{_LEVEL})?|{_LEVEL}|previously\s+)$", re.IGNORECASE)


def lead_in(text: str, start: int, floor: int) -> int:
    """Move the ``start`` of a phrase left over the little words before it, so that it reads as it was dictated.

    "In the T7" before "vertebral body there is ...", "previously" before "8 mm"; not beyond ``floor``.
    """
    match = _LEAD_IN.search(text, floor, start)
    return match.start() if match else start
