"""What part of the body an annotation lies in, and whether that is where the report says it is.

The knowledge stands in ``organs.toml``: parts of the body with the share of drawn lesions in each, which of them border
on each other, what a locator's names may hold, and what the words of a report mean.
"""

from __future__ import annotations

import hashlib
import re
import tomllib
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from functools import cache
from importlib.resources import files
from typing import Any

from nlp.vocabulary import load_terms

_Parts = frozenset[str]
_SIDE_OR_NUMBER = re.compile(r"_(?:left|right)(?=_|$)|_?\d+$")
_LONG_NUMBER = re.compile(r"\d{3}")  # no vertebra and no rib
_LEAST_SHARE = 0.01


def organ_agreement(anatomy: str | None, organ: str | None) -> tuple[bool, float] | None:
    """Whether the place a finding names may be the organ an annotation lies in.

    Conservative: neighbours that a report and a locator may call differently (pleura and lung, hilum and mediastinum,
    adrenal gland and kidney) are compatible or say nothing; they never contradict.

    Parameters
    ----------
    anatomy
        ``Finding.anatomy``: English terms of ``nlp/terms`` in any chain; sides are ignored.
    organ
        ``LocatedAnnotation.organ``: a region of ``anatomy.REGIONS``, a class of TotalSegmentator's task "total", or a
        part of ``organs.toml``.

    Returns
    -------
    (compatible, share): share is the part of all drawn lesions that would be compatible by chance, above 0 and up to 1.
    It is that of a locator with names as coarse or as fine as this one, of those lesions whose name says something.
    None where either side says nothing that can be compared.

    Examples
    --------
    >>> organ_agreement("left lower lobe", "lung")[0], organ_agreement("left lower lobe", "liver")[0]
    (True, False)
    >>> organ_agreement("adrenal gland", "kidney_left") is None
    True

    """
    said = _meaning(anatomy or "")
    if not said.parts or organ is None:
        return None
    table = _table()
    name = organ if organ in table.regions else _SIDE_OR_NUMBER.sub("", organ)
    names = table.regions if name in table.regions else table.classes
    if name not in names:
        return None
    verdict = names[name].holds(said)
    return None if verdict is None else (verdict, _share(said, coarse=names is table.regions))


def is_known(organ: str) -> bool:
    """Whether a locator's name is one of the table: only such a name may be published."""
    table = _table()
    names = organ, _SIDE_OR_NUMBER.sub("", organ)
    return not _LONG_NUMBER.search(organ) and any(
        name in known for name in names for known in (table.regions, table.classes)
    )


def parts_of(anatomy: str | None) -> frozenset[str]:
    """Parts of the body (``organs.toml``) that a report's words may mean; empty where they say nothing."""
    return _meaning(anatomy or "").parts


def table_revision() -> str:
    """What changes when the table does: it decides about links."""
    return hashlib.sha256(_source()).hexdigest()[:12]


@dataclass(frozen=True, slots=True)
class _Meaning:
    """The parts that words of a report mean, and those beside them, in which a lesion says nothing."""

    parts: _Parts = frozenset()
    near: _Parts = frozenset()


@dataclass(frozen=True, slots=True)
class _Name:
    """What a locator's name may hold, what else does not contradict it, and the share of drawn lesions that get it."""

    parts: _Parts
    unclear: _Parts
    share: float

    def holds(self, said: _Meaning) -> bool | None:
        """Whether what is said may be here; None where it may be next to it."""
        if said.parts & self.parts:
            return True
        return None if said.parts & self.unclear or said.near & self.parts else False


@cache
def _meaning(anatomy: str) -> _Meaning:
    """Of several words what they have in common counts ("upper pole of the kidney"), else all of them."""
    table = _table()
    text = " ".join(anatomy.lower().replace("-", " ").split())
    found = [table.words[table.canonical.get(match, match)] for match in table.pattern.findall(text)]
    telling = [meaning for meaning in found if meaning.parts]
    if not telling:
        return _Meaning()
    common = frozenset.intersection(*(meaning.parts for meaning in telling))
    parts = common or frozenset.union(*(meaning.parts for meaning in telling))
    return _Meaning(parts, frozenset.union(*(meaning.near for meaning in telling)))


@cache
def _share(said: _Meaning, *, coarse: bool) -> float:
    """Share of drawn lesions whose name would be compatible, of those whose name would say anything."""
    names = _table().regions if coarse else _table().single
    mass = {True: 0.0, False: 0.0}
    for name in names.values():
        verdict = name.holds(said)
        if verdict is not None:
            mass[verdict] += name.share
    total = mass[True] + mass[False]
    return max(mass[True] / total, _LEAST_SHARE) if total else 1.0


@dataclass(frozen=True, slots=True)
class _Table:
    """``organs.toml``, ready to ask.

    ``regions`` and ``classes`` by name; ``single`` has one name for each part; ``words`` gives the meaning of a
    canonical term (no parts: says nothing), ``canonical`` the term of another spelling, ``pattern`` finds spellings.
    """

    regions: Mapping[str, _Name]
    classes: Mapping[str, _Name]
    single: Mapping[str, _Name]
    words: Mapping[str, _Meaning]
    canonical: Mapping[str, str]
    pattern: re.Pattern[str]


def _source() -> bytes:
    return files("cohort_builder.anatomy").joinpath("organs.toml").read_bytes()


@cache
def _table() -> _Table:
    table = tomllib.loads(_source().decode())
    borders = _borders(table["borders"])
    whole = sum(table["parts"].values())
    single = {
        part: _Name(frozenset({part}), frozenset(borders.get(part, ())), share / whole)
        for part, share in table["parts"].items()
    }
    classes = {
        name: _joined([single[part] for part in ([parts] if isinstance(parts, str) else parts)])
        for name, parts in table["classes"].items()
    }
    drawn = sum(region["share"] for region in table["regions"].values())
    regions = {
        name: _Name(frozenset(region["parts"]), frozenset(region.get("unclear", ())), region["share"] / drawn)
        for name, region in table["regions"].items()
    }
    words = {term: _Meaning() for term in table["silent"]["terms"]}
    for group in table["words"]:
        meaning = _Meaning(frozenset(group["parts"]), frozenset(group.get("near", ())))
        words |= {term.lower(): meaning for term in group["terms"]}
    canonical = _canonical(words)
    spellings = sorted({*words, *canonical}, key=lambda word: (-len(word), word))
    pattern = re.compile(r"\b(?:" + "|".join(map(re.escape, spellings)) + r")\b")
    return _Table(regions, single | classes, single, words, canonical, pattern)


def _borders(table: Mapping[str, Iterable[str]]) -> dict[str, set[str]]:
    """Neighbours of each part, both ways."""
    found: dict[str, set[str]] = {}
    for part, neighbours in table.items():
        for other in neighbours:
            found.setdefault(part, set()).add(other)
            found.setdefault(other, set()).add(part)
    return found


def _joined(names: list[_Name]) -> _Name:
    parts = frozenset[str]().union(*(name.parts for name in names))
    unclear = frozenset[str]().union(*(name.unclear for name in names))
    return _Name(parts, unclear - parts, sum(name.share for name in names))


def _canonical(words: Mapping[str, Any]) -> dict[str, str]:
    """Every spelling of the report's term lists to a word of the table; a term that it lacks is read word by word."""
    spellings: dict[str, str] = {}
    for terms in (load_terms("structures"), load_terms("anatomy")):
        for spelling, term in terms.items():
            written, known = spelling.replace("-", " "), term.canonical.lower()
            if written not in words and known in words:
                spellings[written] = known
    return spellings
