"""Known identifiers, and the search for all of them at once in the forms that they are written in.

Text is read once, word by word, whatever the number of identifiers: a hospital's audit searches for millions.
"""

from __future__ import annotations

import re
import secrets
import unicodedata
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass
from datetime import date
from hashlib import blake2b
from itertools import pairwise

from cohort_builder.privacy.scrub_identifiers import names_institution
from cohort_builder.privacy.scrub_names import is_ordinary, names_nobody

_MIN_LETTERS = 3
_MIN_CODED = 4
_MIN_DIGITS = 5
_MIN_UNSURE = 8
"""In compressed bytes chance writes short words: only longer ones are found there."""
_MIN_GLUED = 5
"""Names of fewer letters do not count beside a digit, where hashes and pseudonyms write them by chance."""
_MAX_NAME_WORDS = 5
_MAX_GROUPS = 4

_TOKEN = re.compile(r"[^\W\d_]+|\d+")
_TITLE = re.compile(r"\b(?:(?:mrs?|ms|miss|drs?|prof|doctor)\.?|(?:patient|name|physician|by|with)\s*:?)\s+$")
_TITLE_REACH = 14
_GAP = re.compile(r"[\W_]{0,3}")
_UID = re.compile(r"(?<![\w.])[0-2](?:\.\d+){3,}")
_GROUPED = re.compile(r"\d+(?:[ /-]\d+)+")
_MONTHS = "jan feb mar apr may jun jul aug sep oct nov dec".split()  # noqa: SIM905 - read as words
_MONTH = rf"({'|'.join(_MONTHS)})[a-z]*\.?"
_DATES = (
    re.compile(r"(?<![\d.])(?P<a>\d{1,4})([-/. _])(?P<b>\d{1,2})\2(?P<c>\d{1,4})(?![\d])"),
    re.compile(r"(?<!\d)(?P<a>(?:19|20)\d{2})(?P<b>\d{2})(?P<c>\d{2})(?=\d{4,6}(?:\D|$)|\D|$)"),
    re.compile(
        rf"(?<!\d)(?P<a>\d{{1,2}})(?:st|nd|rd|th|\.)?[\s./-]*(?:of\s+)?(?P<b>{_MONTH})[\s,./-]*(?P<c>\d{{4}})(?!\d)"
    ),
    re.compile(rf"\b(?P<b>{_MONTH})[\s./-]*(?P<a>\d{{1,2}})(?:st|nd|rd|th)?[\s,./-]+(?P<c>\d{{4}})(?!\d)"),
)


@dataclass(frozen=True, slots=True)
class _Sequence:
    """Words in a row, as folded; ``capital``: only where it begins with one, ``titled``: only behind a title."""

    words: tuple[str, ...]
    kind: str
    needle: str
    capital: bool = False
    titled: bool = False


class Needles:
    """Identifiers to search for: names, ids, dates, UIDs, addresses.

    Parameters
    ----------
    needles
        As the source writes them. A name is searched for in both orders, and its parts alone (an ordinary word
        only behind a title); a number with and without leading zeros and separators; a date in all usual spellings.
    """

    def __init__(self, needles: Iterable[str]) -> None:
        self._secret = secrets.token_bytes(16)
        self._sequences: dict[str, list[_Sequence]] = {}
        self._numbers: dict[str, str] = {}
        self._dates: dict[date, str] = {}
        self._uids: dict[str, str] = {}
        for needle in dict.fromkeys(" ".join(needle.split()) for needle in needles):
            self._learn(needle)

    def short_id(self, text: str) -> str:
        """Return a short id of ``text``: the same within this search, and no way back."""
        return blake2b(_folded(text).encode("utf-8", "surrogatepass"), key=self._secret, digest_size=4).hexdigest()

    def find(self, text: str, *, sure: bool = True) -> Iterator[tuple[str, str]]:
        """Yield (kind, short id) of what ``text`` holds, repeats included.

        ``sure`` is False for what may be no text at all (the printable stretches of compressed bytes).
        """
        folded = _folded(text)
        for match in _UID.finditer(folded):
            if match.group() in self._uids:
                yield "uid", self._uids[match.group()]
        tokens = list(_TOKEN.finditer(folded))
        # Folding may move characters: where it did, capitals are looked up no more and every case counts.
        original = text if len(text) == len(folded) else folded.upper()
        for index, token in enumerate(tokens):
            for sequence in self._sequences.get(token.group(), ()):
                if self._stands(sequence, tokens[index : index + len(sequence.words)], folded, original, sure=sure):
                    yield sequence.kind, sequence.needle
        if sure:
            yield from self._found_numbers(folded, tokens)
            yield from self._found_dates(folded)

    def _learn(self, needle: str) -> None:
        folded, short = _folded(needle), self.short_id(needle)
        words = tuple(_TOKEN.findall(folded))
        if _UID.fullmatch(folded):
            self._uids[folded] = short
            return
        for day in _dates_in(folded) if any(pattern.fullmatch(folded) for pattern in _DATES) else ():
            self._dates[day] = short
        if "@" in folded:
            self._add(_Sequence(words, "e-mail", short))
        elif any(word.isdigit() for word in words):
            if sum(map(len, words)) >= _MIN_CODED:
                self._add(_Sequence(words, "id", short))
            number = max((word.lstrip("0") for word in words if word.isdigit()), key=len)
            if len(number) >= _MIN_DIGITS:
                self._numbers[number] = short
        elif names_institution(folded) or len(words) > _MAX_NAME_WORDS:
            self._add(_Sequence(words, "text", short))
        else:
            self._learn_name(words, short)

    def _learn_name(self, words: tuple[str, ...], short: str) -> None:
        if len(words) > 1:
            pairs = {words, words[::-1], words[:2], words[1::-1]}
            for sequence in sorted(pairs | {("".join(pair),) for pair in pairs}):
                self._add(_Sequence(sequence, "name", short))
        for word in words:
            if not names_nobody(word):
                ordinary = is_ordinary(word)
                capital = ordinary or len(word) == _MIN_LETTERS
                self._add(_Sequence((word,), "name", short, capital=capital, titled=ordinary))

    def _add(self, sequence: _Sequence) -> None:
        if sum(map(len, sequence.words)) >= _MIN_LETTERS:
            self._sequences.setdefault(sequence.words[0], []).append(sequence)

    @staticmethod
    def _stands(
        sequence: _Sequence, tokens: Sequence[re.Match[str]], folded: str, original: str, *, sure: bool
    ) -> bool:
        """Whether a sequence that begins with the first token is written there whole."""
        if tuple(token.group() for token in tokens) != sequence.words:
            return False
        if any(not _GAP.fullmatch(folded, left.end(), right.start()) for left, right in pairwise(tokens)):
            return False
        letters = sum(map(len, sequence.words))
        start, end = tokens[0].start(), tokens[-1].end()
        if letters < _MIN_GLUED or sequence.kind == "id":
            around = folded[max(0, start - 1) : start] + folded[end : end + 1]
            if any(character.isalnum() for character in around):
                return False
        if sequence.titled and not _TITLE.search(folded[max(0, start - _TITLE_REACH) : start]):
            return False
        return (sure or letters >= _MIN_UNSURE) and (not sequence.capital or original[start].isupper())

    def _found_numbers(self, folded: str, tokens: Iterable[re.Match[str]]) -> Iterator[tuple[str, str]]:
        if not self._numbers:
            return
        for token in tokens:
            fraction = token.start() > 1 and folded[token.start() - 1] in ".," and folded[token.start() - 2].isdigit()
            number = token.group().lstrip("0")
            if number in self._numbers and not fraction:
                yield "id", self._numbers[number]
        for match in _GROUPED.finditer(folded):
            runs = re.findall(r"\d+", match.group())
            for first in range(len(runs)):
                for last in range(first + 2, min(len(runs), first + _MAX_GROUPS) + 1):
                    number = "".join(runs[first:last]).lstrip("0")
                    if number in self._numbers:
                        yield "id", self._numbers[number]

    def _found_dates(self, folded: str) -> Iterator[tuple[str, str]]:
        if self._dates:
            for day in _dates_in(folded):
                if day in self._dates:
                    yield "date", self._dates[day]


def _folded(text: str) -> str:
    """Return ``text`` in lower case without accents."""
    if text.isascii():
        return text.lower()
    decomposed = unicodedata.normalize("NFKD", text)
    return "".join(c for c in decomposed if not unicodedata.combining(c)).casefold()


def _dates_in(folded: str) -> Iterator[date]:
    """Yield every day that a date in the text can mean, day first or month first, in this century or the last."""
    for pattern in _DATES:
        for match in pattern.finditer(folded):
            a, b, c = match["a"], match["b"], match["c"]
            month = str(_MONTHS.index(b[:3]) + 1) if b[:3] in _MONTHS else b
            if len(a) == 4:
                orders = [(a, month, c)]
            elif len(c) in {2, 4}:
                years = [c] if len(c) == 4 else [f"19{c}", f"20{c}"]
                orders = [(year, *rest) for year in years for rest in ((month, a), (a, month))]
            else:
                continue
            for order in orders:
                try:
                    yield date(*map(int, order))
                except ValueError:  # no such day: read the other way round, or no date
                    continue
