"""What lengths look like in a language: one TOML file per language, and the rules that all of them share.

A file ``xx.toml`` holds ``[numbers]`` (number words), ``[words]`` (lists of lower-case regular expressions under fixed
names), ``[axes]`` (labels of a body axis), ``[[structures]]`` (vessels, ducts and organs that are measured themselves,
with the shortest plausible length), ``focal`` (what is measured with a line) and ``[rules]`` (regular expressions
beyond the shared ones of ``shared.toml``). In all of them ``{name}`` stands for any of the words of that name, and in
the rules ``§`` for a length, ``†`` for a date and ``¤`` for an image reference.
"""

from __future__ import annotations

import re
import tomllib
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from functools import cache
from importlib.resources import files
from types import MappingProxyType
from typing import Any

from nlp.types import Axis
from nlp.vocabulary import alternation, load_terms

ALTERNATIVE = "|(?#or)"  # between the patterns of a rule: each can be told from the others
_SHARED = "shared"
_PLACEHOLDER = re.compile(r"\{([a-z_]+)\}")


@dataclass(frozen=True, slots=True)
class Language:
    """One language, ready to match lower-case text.

    ``words`` and ``rules`` are regular expressions by name, ``lists`` the words one by one as they stand in the file.
    ``nouns`` finds whatever can have a length; where it is a structure, the group's name starts with ``structure`` and
    ``minimum_mm`` has its shortest plausible length.
    """

    code: str
    numbers: Mapping[str, int]
    words: Mapping[str, str]
    lists: Mapping[str, tuple[str, ...]]
    axes: Mapping[str, Axis]
    rules: Mapping[str, re.Pattern[str]]
    nouns: re.Pattern[str]
    minimum_mm: Mapping[str, float]


@cache
def known_languages() -> tuple[str, ...]:
    """Return the codes of the languages that have a file."""
    names = (entry.name.removesuffix(".toml") for entry in files(__name__).iterdir() if entry.name.endswith(".toml"))
    return tuple(sorted(name for name in names if name != _SHARED))


@cache
def language_code(name: str) -> str:
    """Return the known code of a language tag: "de" of "de", "de-DE" or "DE_at".

    Raises
    ------
    ValueError
        For a language without a file.
    """
    code = re.split(r"[-_]", name.strip().lower(), maxsplit=1)[0]
    if code not in known_languages():
        raise ValueError(f"unknown language {name!r}; known are {', '.join(known_languages())}")
    return code


@cache
def load_language(name: str) -> Language:
    """Return a language by its tag.

    Raises
    ------
    ValueError
        For a language without a file, and for a file that lacks words which the shared rules need.
    """
    code = language_code(name)
    shared, own = _read(_SHARED), _read(code)
    words = _Words(code, shared["words"] | own["words"])
    rules = {
        rule: re.compile(ALTERNATIVE.join(words.fill(pattern) for pattern in [*patterns, *own["rules"].get(rule, ())]))
        for rule, patterns in shared["rules"].items()
    }
    unknown = sorted(own["rules"].keys() - rules.keys())
    if unknown:
        raise ValueError(f"language {code!r}: rules {unknown} are used by nothing; known are {sorted(rules)}")
    nouns, minimum = _nouns(own, words)
    return Language(
        code,
        numbers=MappingProxyType(own["numbers"]),
        words=MappingProxyType({name: words.get(name) for name in words.names}),
        lists=MappingProxyType({name: tuple(entries) for name, entries in own["words"].items()}),
        axes=MappingProxyType({label: Axis(axis) for axis, labels in own["axes"].items() for label in labels}),
        rules=MappingProxyType(rules),
        nouns=nouns,
        minimum_mm=MappingProxyType(minimum),
    )


class _Words:
    """The word lists of a language as alternations, with the lists that they name inside filled in."""

    def __init__(self, code: str, lists: Mapping[str, list[str]]) -> None:
        self._code = code
        self._lists = lists
        self._done: dict[str, str] = {}
        self.names = tuple(lists)

    def get(self, name: str) -> str:
        if name not in self._lists:
            raise ValueError(f"language {self._code!r} lacks the words {name!r}; an empty list says there are none")
        if name not in self._done:
            entries = [self.fill(entry) for entry in self._lists[name]]
            self._done[name] = f"(?:{'|'.join(entries)})" if entries else "(?!)"
        return self._done[name]

    def fill(self, pattern: str) -> str:
        return _PLACEHOLDER.sub(lambda found: self.get(found[1]), pattern)


def _read(name: str) -> dict[str, Any]:
    return tomllib.loads(files(__name__).joinpath(f"{name}.toml").read_text(encoding="utf-8"))


def _nouns(own: Mapping[str, Any], words: _Words) -> tuple[re.Pattern[str], dict[str, float]]:
    """Longer names come before the shorter ones that they hold: "appendicolith" before "appendix"."""
    structures = {
        f"structure{index}": (words.fill("|".join(entry["words"])), float(entry.get("minimum_mm", 0.0)))
        for index, entry in enumerate(own["structures"])
    }
    focal = [words.fill(word) for word in own["focal"]]
    listed = "|".join(f"(?P<{name}>{pattern})" for name, (pattern, _) in structures.items())
    first, rest = _by_terms(own.get("not_focal"), listed)
    pattern = "|".join(filter(None, [*focal, first, listed, rest]))
    return re.compile(rf"\b(?:{pattern})\b"), {name: minimum for name, (_, minimum) in structures.items()}


def _by_terms(not_focal: Iterable[str] | None, structures: str) -> tuple[str, str]:
    """Our English observations as two alternations: those whose words hold a structure's name, and the others.

    Those of the list ``extended`` have no diameter of their own, and so they are left out.
    """
    if not_focal is None:
        return "", ""
    left_out = {*not_focal, *load_terms("extended")}
    terms = load_terms("observations").items()
    plain = ((spelling.replace("-", " "), term.canonical) for spelling, term in terms)
    spellings = {spelling for spelling, canonical in plain if left_out.isdisjoint((spelling, canonical))}
    inside = re.compile(rf"\b(?:{structures})\b")
    longer = {spelling for spelling in spellings if inside.search(spelling)}
    return (alternation(longer) if longer else ""), alternation(spellings - longer)
