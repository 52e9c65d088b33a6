"""Our own term lists (``nlp/terms/*.txt``) with their plural and hyphenated spellings."""

from __future__ import annotations

import re
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from functools import cache, lru_cache
from importlib.resources import files
from types import MappingProxyType
from typing import Literal

TermList = Literal["observations", "modifiers", "anatomy", "structures", "extended"]

_ENTRY = re.compile(r"(?P<canonical>[^|>]+?)\s*(?:>=\s*(?P<minimum>\d+))?\s*(?:\|(?P<others>.*))?")
_LATIN_PLURALS = (("is", "es"), ("um", "a"), ("ma", "mata"), ("us", "i"), ("ix", "ices"))
_MIN_STEM = 3


@dataclass(frozen=True, slots=True)
class Term:
    """One entry of a list. ``minimum_mm`` is the shortest length that a structure plausibly has (0: any)."""

    canonical: str
    minimum_mm: float = 0.0


@cache
def load_terms(name: TermList) -> MappingProxyType[str, Term]:
    """Every spelling of a list, lower case and with single spaces or hyphens, to its entry."""
    terms: dict[str, Term] = {}
    for line in files("nlp.terms").joinpath(f"{name}.txt").read_text(encoding="utf-8").splitlines():
        entry = _ENTRY.fullmatch(line.strip())
        if entry is None or line.startswith("#"):
            continue
        term = Term(entry["canonical"], float(entry["minimum"] or 0))
        written = [term.canonical, *(other.strip() for other in (entry["others"] or "").split("|"))]
        for spelling in filter(None, written):
            for form in _forms(spelling.lower()):
                terms.setdefault(form, term)
    return MappingProxyType(terms)


@lru_cache(maxsize=4096)
def canonical(name: TermList, written: str) -> str:
    """The name under which a list knows a term; the term itself, lower case, where it does not."""
    spelling = " ".join(written.lower().split())
    term = load_terms(name).get(spelling)
    return spelling if term is None else term.canonical


def observation_name(written: str, places: Sequence[str]) -> str:
    """The name of an observation; a describing word alone ("enlarged") is named after the thing it is said of."""
    name = canonical("observations", written)
    if name not in load_terms("modifiers"):
        return name
    things = (canonical("observations", place) for place in places)
    return next((thing for thing in things if thing in load_terms("observations")), name)


def alternation(spellings: Iterable[str]) -> str:
    """A regular expression, without a group name, that matches any spelling: the longest first, spaces as hyphens.

    The spellings are folded where they begin alike, so that a long list costs little more than a short one.
    """
    tree = _Tree()
    for spelling in spellings:
        branch = tree
        for letter in spelling.replace("-", " "):
            branch = branch.setdefault(letter, _Tree())
        branch[""] = _Tree()
    return _folded(tree)


class _Tree(dict[str, "_Tree"]):
    """Spellings letter by letter; an empty key where one ends."""


def _forms(spelling: str) -> set[str]:
    """Singular and plural, with spaces and with hyphens."""
    forms = {spelling, _plural(spelling)}
    for singular, plural in _LATIN_PLURALS:
        if spelling.endswith(singular) and len(spelling) > len(singular) + _MIN_STEM:
            forms.add(spelling.removesuffix(singular) + plural)
    return forms | {form.replace(" ", "-") for form in forms} | {form.replace("-", " ") for form in forms}


def _plural(spelling: str) -> str:
    if spelling.endswith(("s", "x", "sh", "ch")):
        return spelling + "es"
    if spelling.endswith("y") and spelling[-2] not in "aeiou":
        return spelling[:-1] + "ies"
    return spelling + "s"


def _folded(tree: _Tree) -> str:
    branches = [
        (r"[\s-]+" if letter == " " else re.escape(letter)) + _folded(tree[letter])
        for letter in sorted(filter(None, tree))
    ]
    if not branches:
        return ""
    if len(branches) == 1 and "" not in tree:
        return branches[0]
    return f"(?:{'|'.join(branches)})" + ("?" if "" in tree else "")
