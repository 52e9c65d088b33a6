"""Which terms of the lists stand where in a text: words on a blank spaCy vocabulary, matched as phrases.

Words are matched without case, a hyphen counts as a space, and words that no list knows become one placeholder, so
that spaCy's store of strings does not grow with the reports that are read.
"""

from __future__ import annotations

import re
from bisect import bisect_left
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from functools import cache
from typing import TYPE_CHECKING

from nlp.places import BOTH_SIDES, LEVELS, SIDES
from nlp.types import Span
from nlp.vocabulary import load_terms

if TYPE_CHECKING:
    from spacy.matcher import PhraseMatcher
    from spacy.vocab import Vocab

OBSERVATION, ANATOMY, MODIFIER = "observations", "anatomy", "modifiers"

_KINDS = (OBSERVATION, ANATOMY, MODIFIER)
_TOKEN = re.compile(r"[^\W_]+|[^\w\s-]|_|-+(?!\w)|(?<!\w)-+")
_UNKNOWN = "\N{MIDDLE DOT}"
_SIDED = frozenset({"right", "left"}) | BOTH_SIDES
_AND = frozenset({"and", "or", "&", "/", "+"})
_AREAS = frozenset(
    ["area", "areas", "region", "regions", "space", "spaces", "level", "levels", "station", "stations", "zone", "zones"]
)
_AND_OR_COMMA = _AND | {","}
_NUMBERED = re.compile(
    r"\b(?P<what>seg(?:ment)?s?\.?|stations?|levels?)\s+(?P<numbers>(?:[ivx]{1,4}|\d{1,2})[ablr]{0,2}"
    r"(?:\s*(?:,|/|-|&|and)\s*(?:[ivx]{1,4}|\d{1,2})[ablr]{0,2})*)\b(?!\s*-?\s*(?:mm|cm|x\s*\d|\xd7|[.,]\d))"
)
_COUNTED = ("seg", "station", "level")
_DIGIT = re.compile(r"[cdtls]\d")
_NUMBER = re.compile(r"[^\s,/&-]+")
_VERTEBRA = r"(?:c[1-7]|[td](?:1[0-2]|[1-9])|l[1-6]|s[1-5])"
_VERTEBRAE = re.compile(
    rf"\b{_VERTEBRA}(?:(?:\s?[-/\u2013,]\s?|\s+and\s+){_VERTEBRA})*+(?=[\s-]+(?:vertebra|corp(?:us|or)|bod(?:y|ies)|dis[ck]|"
    r"spinous|transverse|pedicle|lamina|end\s?plate|nerve))"
)
# "T12 lesion", where no sequence is meant: "T2 lesion".
_VERTEBRA_BEFORE = re.compile(
    r"\b(?:c[3-7]|t(?:1[0-2]|[5-9])|l[1-5])(?=\s+(?:[a-z]+\s+){0,2}(?:lesions?|metastas[ie]s|fractures?|hemangiomas?|mass(?:es)?|"
    r"lytic|sclerotic|compression|deposits?|island)\b)"
)
_NUMBERED_STATION = re.compile(r"\b(?:no|nr)\.?\s?(?P<number>\d{1,2}[lr]?)\s+station\b")
_AT_VERTEBRA = re.compile(
    rf"(?:(?<=level of )|(?<=\bof )|(?<=\bin )|(?<=\bat ))(?!s\d){_VERTEBRA}\b(?:\s?[-/\u2013]\s?{_VERTEBRA}\b)?"
    r"(?!\s+vertebra|(?<=t[1-4])(?:-|\s?[nm]\d|\s+(?:stage|tumou?r|weight|hyper|hypo|sequence|image|signal|and\s+flair)))"
)
# Words for a part of the lung that other organs have too: "the base of the bladder", "the neck of the hernia".
_PARTS = frozenset(["apex", "apices", "base", "bases", "dome", "hila", "hilum", "hilus", "isthmus", "neck"])
_PART_NAMES = frozenset(["hilum", "isthmus", "liver dome", "lung apex", "lung base", "neck"])
_OF = re.compile(r"\s+of\s+(?:the\s+)?|\s*")
_OWNERS = frozenset(["its", "their"])
_CHEST = re.compile(r"lung|lobe|lingula|pleura|hilum|zone|bronch|mediastin|thorax|thyroid|carina|trachea")


@dataclass(frozen=True, slots=True)
class Hit:
    """A term found in a text. ``kind`` is the list it stands in, ``term`` its normalised name."""

    span: Span
    kind: str
    term: str


def find_terms(text: str) -> list[Hit]:
    """Return the terms of a text in order; of overlapping ones the longest.

    A place takes the side and level words before it ("right upper lobe"); where several share their noun ("right upper
    and left lower lobes", "segments 4 and 7") each is a hit of its own.
    """
    tokens = [match.span() for match in _TOKEN.finditer(text)]
    words = [text[start:end].lower() for start, end in tokens]
    taken = bytearray(len(tokens))
    hits = list(_numbered(text, tokens, taken))
    for first, end, kind, term in _phrases(words, taken):
        last = end
        if kind != ANATOMY:
            hits.append(Hit((tokens[first][0], tokens[last - 1][1]), kind, term))
            continue
        lead = _lead(words, taken, first)
        if last < len(words) and words[last] in _AREAS and not taken[last]:  # "the right pleural area"
            taken[last] = 1
            last += 1
        name = " ".join([*(SIDES.get(word, word) for word in words[lead:first]), term])
        if last - first > 1 or " " not in term:  # "RUL" shares no noun
            name, elided = _elided(words, taken, lead, name)
            hits += [Hit((tokens[start][0], tokens[end - 1][1]), ANATOMY, place) for start, end, place in elided]
        hits.append(Hit((tokens[lead][0], tokens[last - 1][1]), ANATOMY, name))
    return list(_without_parts(text, sorted(hits, key=lambda hit: hit.span)))


def _without_parts(text: str, hits: Sequence[Hit]) -> Iterator[Hit]:
    """The hits without "base", "neck" and the like where these are parts of something else than the list says."""
    for index, hit in enumerate(hits):
        if hit.term in _PART_NAMES and text[slice(*hit.span)].lower() in _PARTS:
            before = text[: hit.span[0]].rsplit(maxsplit=1)
            if before and before[-1].lower() in _OWNERS:  # "at its base"
                continue
            behind = hits[index + 1] if index + 1 < len(hits) else None
            if behind is not None and _is_whole(behind) and _OF.fullmatch(text, hit.span[1], behind.span[0]):
                continue
            ahead = hits[index - 1] if index else None
            if ahead is not None and _is_whole(ahead) and text[ahead.span[1] : hit.span[0]] in {" ", "-"}:
                continue
        yield hit


def _is_whole(hit: Hit) -> bool:
    return hit.kind != MODIFIER and _CHEST.search(hit.term) is None


def _phrases(words: Sequence[str], taken: bytearray) -> Iterator[tuple[int, int, str, str]]:
    """Word ranges of the listed terms, their kind and name; marks the words as taken."""
    from spacy.tokens import Doc

    lexicon = _lexicon()
    known = lexicon.words
    doc = Doc(lexicon.vocab, words=[word if word in known else _UNKNOWN for word in words])
    found = [(start - end, *lexicon.terms[key], start, end) for key, start, end in lexicon.matcher(doc)]
    for _, rank, term, start, end in sorted(found):
        if not any(taken[start:end]):
            taken[start:end] = b"\1" * (end - start)
            yield start, end, _KINDS[rank], term


def _lead(words: Sequence[str], taken: bytearray, first: int) -> int:
    """Where the side and level words before a place begin; takes them."""
    lead = first
    while lead and not taken[lead - 1] and _is_place_word(words[lead - 1]):
        lead -= 1
    taken[lead:first] = b"\1" * (first - lead)
    return lead


def _is_place_word(word: str) -> bool:
    return word in LEVELS or word in SIDES or word in BOTH_SIDES


def _elided(words: Sequence[str], taken: bytearray, lead: int, name: str) -> tuple[str, list[tuple[int, int, str]]]:
    """Places before "and" that leave their noun to the place behind it: "right upper and left lower lobes".

    Returns the name of the place behind, with the side that it leaves to the first ("right middle and lower lobes"),
    and the word range and name of each place before.
    """
    parts: list[tuple[int, int]] = []
    start = lead
    while start > 1 and words[start - 1] in (_AND_OR_COMMA if parts else _AND):
        end = start - 1
        while end and words[end - 1] == ",":
            end -= 1
        begin = end
        while begin and not taken[begin - 1] and _is_place_word(words[begin - 1]):
            begin -= 1
        if begin == end:
            break
        parts.append((begin, end))
        start = begin
    whole = name.split()
    levels = [word for word in whole[:-1] if word in LEVELS]
    noun = [word for word in whole[:-1] if not _is_place_word(word)] + whole[-1:]
    side: list[str] = []
    found = []
    for begin, end in reversed(parts):
        taken[begin:end] = b"\1" * (end - begin)
        own = [SIDES.get(word, word) for word in words[begin:end]]
        side = [word for word in own if word not in LEVELS] or side
        found.append((begin, end, " ".join([*side, *([word for word in own if word in LEVELS] or levels), *noun])))
    inherits = side and levels and not any(word in _SIDED for word in whole)
    return (" ".join([*side, name]) if inherits else name), found


def _numbered(text: str, tokens: Sequence[Span], taken: bytearray) -> Iterator[Hit]:
    """Places that are counted: "segment 7", "stations 4R and 7", "T12" before its vertebra."""
    lower = text.lower()
    if len(lower) != len(text):  # a few letters grow in lower case
        return
    found: list[tuple[Span, str]] = []
    for match in _NUMBERED.finditer(lower) if any(word in lower for word in _COUNTED) else ():
        what = match["what"].rstrip(".").rstrip("s")
        numbers = [part for part in _NUMBER.finditer(lower, *match.span("numbers")) if part.group() != "and"]
        for number in numbers:
            start = match.start() if number is numbers[0] else number.start()
            found.append(((start, number.end()), f"{'segment' if what == 'seg' else what} {number.group()}"))
    if "station" in lower:
        found += [(match.span(), f"station {match['number']}") for match in _NUMBERED_STATION.finditer(lower)]
    if _DIGIT.search(lower) is None:
        lower = ""
    found += [(match.span(), match.group()) for match in _VERTEBRAE.finditer(lower)]
    found += [(match.span(), f"{match.group()} vertebra") for match in _AT_VERTEBRA.finditer(lower)]
    found += [(match.span(), f"{match.group()} vertebra") for match in _VERTEBRA_BEFORE.finditer(lower)]
    starts = [start for start, _ in tokens]
    for (start, end), term in found:
        first, last = bisect_left(starts, start), bisect_left(starts, end)
        if last > first and not any(taken[first:last]):
            taken[first:last] = b"\1" * (last - first)
            yield Hit((start, end), ANATOMY, term)


@dataclass(frozen=True, slots=True)
class _Lexicon:
    """The compiled lists: ``terms`` names the matcher's keys, ``words`` are all words of all terms."""

    vocab: Vocab
    matcher: PhraseMatcher
    terms: dict[int, tuple[int, str]]
    words: frozenset[str]


@cache
def _lexicon() -> _Lexicon:
    import spacy
    from spacy.matcher import PhraseMatcher
    from spacy.tokens import Doc

    vocab = spacy.blank("en").vocab
    matcher = PhraseMatcher(vocab, attr="ORTH")
    patterns: dict[tuple[int, str], set[tuple[str, ...]]] = {}
    for rank, kind in enumerate(_KINDS):
        for spelling, term in load_terms(kind).items():
            words = tuple(spelling[slice(*match.span())] for match in _TOKEN.finditer(spelling))
            patterns.setdefault((rank, term.canonical), set()).add(words)
    keys = {}
    for name, phrases in patterns.items():
        key = f"{name[0]} {name[1]}"
        matcher.add(key, [Doc(vocab, words=list(phrase)) for phrase in sorted(phrases)])
        keys[vocab.strings[key]] = name
    known = frozenset(word for phrases in patterns.values() for phrase in phrases for word in phrase)
    return _Lexicon(vocab, matcher, keys, known)
