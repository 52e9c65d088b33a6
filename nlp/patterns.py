"""How numbers, units, image references and dates are written: the lexical half of :mod:`nlp.sizes`.

All patterns match lower-case text as :func:`fold` returns it; what differs between languages comes from
:mod:`nlp.languages`.
"""

from __future__ import annotations

import re
import unicodedata
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from functools import cache

from nlp.languages import Language, load_language

_UNUSUAL = re.compile(r"[^\n\r\t\x20-\x7e]")
_TWINS = {
    **dict.fromkeys("‐‑‒–—―−﹣－⁃", "-"),
    **dict.fromkeys("×✕✖⨯╳х", "x"),
    **dict.fromkeys("\x0b\x0c\x1c\x1d\x1e\x85\u2028\u2029", "\n"),
    **dict.fromkeys("§†¤", " "),  # what nlp.surroundings blots lengths, dates and references out with
    "⁄": "/",
    "∕": "/",
    "＜": "<",
    "＞": ">",
    "（": "(",
    "）": ")",
    "，": ",",
    "．": ".",
    "∼": "~",
    "～": "~",
}
_INVISIBLE = {"\u00ad", "\ufeff"}
FRACTIONS = {"½": (1, 2), "⅓": (1, 3), "⅔": (2, 3), "¼": (1, 4), "¾": (3, 4), "⅛": (1, 8)}


@dataclass(frozen=True, slots=True)
class Folded:
    """A text in plain characters. ``positions`` maps its indices into the original; None where they are the same."""

    text: str
    positions: tuple[int, ...] | None = None

    def original(self, span: tuple[int, int]) -> tuple[int, int]:
        """Return the span of the original text that a span of this one stands for."""
        if self.positions is None:
            return span
        return self.positions[span[0]], self.positions[span[1] - 1] + 1


def fold(text: str) -> Folded:
    """Return a text with plain spaces, digits, dashes and signs of multiplication, and without invisible marks.

    Every character becomes one character, or none: soft hyphens, zero-width and directional marks and control
    characters, which may stand between two digits, are left out.
    """
    if _UNUSUAL.search(text) is None:
        return Folded(text)
    plain = _UNUSUAL.sub(lambda found: _plain(found[0]), text)
    if len(plain) == len(text):
        return Folded(plain)
    kept = [(index, letter) for index, letter in enumerate(text) if not _UNUSUAL.match(letter) or _plain(letter)]
    return Folded("".join(_plain(letter) for _, letter in kept), tuple(index for index, _ in kept))


def lower(text: str) -> str:
    """Return lower-case text of the same length (a few letters grow in lower case: these stay as they are)."""
    small = text.lower()
    if len(small) == len(text):
        return small
    return "".join(one if len(one := letter.lower()) == 1 else letter for letter in text)


@cache
def _plain(letter: str) -> str:
    if not _UNUSUAL.match(letter):
        return letter
    if letter in _TWINS:
        return _TWINS[letter]
    category = unicodedata.category(letter)
    if category == "Nd":
        return str(unicodedata.digit(letter))
    if category == "Zs":
        return " "
    if letter in _INVISIBLE or category in {"Cf", "Cc"}:
        return ""
    if "ａ" <= letter <= "ｚ" or "Ａ" <= letter <= "Ｚ":
        return unicodedata.normalize("NFKC", letter)
    return letter


@dataclass(frozen=True, slots=True)
class ReferencePatterns:
    """How a text points at images: ``named`` in words, ``bare`` as "(4/87 and 4/91)", a ``pair`` of which is "4/87".

    ``loose`` are "(4, 87)" and "(4.87)", which are images only close behind a length (``before_loose``).
    """

    probe: re.Pattern[str]
    named: tuple[re.Pattern[str], ...]
    bare: re.Pattern[str]
    pair: re.Pattern[str]
    loose: re.Pattern[str]
    before_loose: re.Pattern[str]
    length_near: re.Pattern[str]
    after_date_word: re.Pattern[str]


@dataclass(frozen=True, slots=True)
class Lexicon:
    """The patterns of one language."""

    code: str
    probes: tuple[re.Pattern[str], ...]
    factor: re.Pattern[str]
    times: re.Pattern[str]
    number_start: re.Pattern[str]
    expression: re.Pattern[str]
    centimetre: re.Pattern[str]
    axes_after: re.Pattern[str]
    unit_after_bracket: re.Pattern[str]
    sub_unit: re.Pattern[str]
    list_gap: re.Pattern[str]
    comma_gap: re.Pattern[str]
    list_head: re.Pattern[str]
    place_gap: re.Pattern[str]
    place_left: re.Pattern[str]
    range_gap: re.Pattern[str]
    growth_gap: re.Pattern[str]
    grown_from: re.Pattern[str]
    grown_by: re.Pattern[str]
    between_left: re.Pattern[str]
    arrow_gap: re.Pattern[str]
    arrow_back_gap: re.Pattern[str]
    prior_gap: re.Pattern[str]
    names_number: re.Pattern[str]
    measured_left: re.Pattern[str]
    slip_left: re.Pattern[str]
    slip_right: re.Pattern[str]
    count_right: re.Pattern[str]
    date: re.Pattern[str]
    references: ReferencePatterns


CLOCK = re.compile(r"\b\d{1,2}:\d{2}(?::\d{2})?\s?(?:am|pm|h|uhr|uur)?\b(?!\s?[)\]])")
_FRACTION = "".join(FRACTIONS)
_POWER = r"(?P<power>[23²³](?!\d)|\^[23])?"
_GAP = r"(?:\s{0,3}-?\s?)"
_DATE = (
    r"\[date[^\]\n]{0,40}\]"
    r"|\b\d{1,2}[/.-]\d{1,2}[/.-](?:19|20)?\d{2}\b"
    r"|\b(?:19|20)\d{2}[/.-]\d{1,2}(?:[/.-]\d{1,2})?\b"
    r"|\b(?:\d{1,2}(?:st|nd|rd|th|\.)?\s+)?MONTH[a-zä]{0,9}\.?\s+(?:\d{1,2}(?:st|nd|rd|th)?,?\s+)?(?:19|20)\d{2}\b"
    r"|\b\d{1,2}/(?:19|20)\d{2}\b"
    r"|(?:(?<=\bin\s)|(?<=\bdated\s)|(?<=\bsince\s)|(?<=\byear\s))(?:19|20)\d{2}\b"
    r"|\b(?:19|20)\d{2}(?=\s(?:ct|pet|exam|scan|stud))"
)


@dataclass(frozen=True, slots=True)
class _Written:
    """Regular expressions for what a length is written with."""

    unit: str
    number: str
    number_words: str
    label: str

    @property
    def plain(self) -> str:
        """A number, with its unit where it has one."""
        return rf"{self.number}(?:{_GAP}{self.unit})?"

    @property
    def factor(self) -> str:
        """The same with the axis that may stand behind it."""
        return rf"{self.plain}(?:\s?(?:\((?=[a-z-]+(?:\s[a-z]+)?\)))?\b{self.label}\b\)?)?"


def _written(language: Language) -> _Written:
    words = language.words
    # In "1.2cmx0.8cm" the letter after the unit is a multiplication sign; "m" is a slip that the caller judges.
    unit = (
        rf"(?P<unit>{words['mm']}|{words['cm']}|m){_POWER}"
        rf"(?!(?!x\s?\d|{words['glued']})[^\W\d_]|\d|\s?(?:hg|h2o)\b|\s?/\s?[a-z]|\s?[-·*]\s?gy)"
    )
    bare_unit = _nameless(unit)
    number_words = "|".join(sorted(language.numbers, key=len, reverse=True)) or "(?!)"
    number = (
        rf"(?P<number>\d{{1,6}}\s+[1-9]/[2-9]\b|[1-9]/[2-9](?=[\s-]{{0,3}}{bare_unit})|\d{{0,3}}\s?[{_FRACTION}]"
        rf"|\d+(?:[.,]\d+)?|[.,]\d+|(?:{number_words})(?=[\s-]{{1,3}}{bare_unit}))"
    )
    labels = "|".join(
        re.escape(label).replace(r"\ ", r"[\s-]").replace(r"\-", r"[\s-]?")
        for label in sorted(language.axes, key=lambda label: (-len(label), label))
    )
    return _Written(unit, number, number_words, rf"(?P<label>{labels})")


def _times(signs: Iterable[str]) -> str:
    either = "|".join(["[x*]", *(rf"\b{sign}\b" for sign in signs)])
    return rf"\s{{0,3}}(?:{either})\s{{0,3}}"


def _expression(language: Language, written: _Written) -> str:
    """A number or a product: not inside words, dates, ratios or decimals, and no percentage."""
    plain, factor = _nameless(written.plain), _nameless(written.factor)
    # "3 auf 4 cm" is a product, "von 3 auf 4 cm" growth.
    times, growth = language.lists["times"], set(language.lists["to_growth"])
    before = (*language.lists["grown_from"], *language.lists["grown_by"])
    guard = "".join(rf"(?<!\b{word} )" for word in before if growth & set(times))
    others = _times(sign for sign in times if sign not in growth)
    return (
        r"(?<!\w)(?<!\d[.,:/])(?<![^\s(m]/)"
        rf"(?:{guard}{factor}(?:{_times(times)}{factor})+|{factor}(?:{others}{factor})+|{plain})"
        rf"(?!(?!(?<=m){language.words['glued']})[^\W_]|%|\s?%|(?<=\d)/\d|[.,]\d)"
    )


@cache
def lexicon(code: str) -> Lexicon:
    """Return the patterns of a language, by its code."""
    language = load_language(code)
    words, written = language.words, _written(language)
    centimetre = words["cm"]
    separator = rf"\s?(?:[x/,]|{words['times']})\s?"
    plain_label = _nameless(written.label)
    place = rf"(?:{words['list_place']}(?:[\s-]+|$|:\s*)){{1,4}}"
    return Lexicon(
        code,
        # Two expressions that begin with fixed letters or digits are many times as fast as a strict one.
        probes=(
            re.compile(
                rf"(?:{words['mm']}|{centimetre})\d?(?!(?!{words['glued']})[a-wyz])|{words['sub_unit']}(?:\d|{words['sub_bare']})"
            ),
            re.compile(rf"\d\s?(?:m(?![a-wyz])|[x*]|{words['times']}\b)"),
        ),
        factor=re.compile(written.factor),
        times=re.compile(_times(language.lists["times"])),
        number_start=re.compile(rf"[\d.,{_FRACTION}]|\b(?:{written.number_words})\b"),
        expression=re.compile(_expression(language, written)),
        centimetre=re.compile(centimetre),
        axes_after=re.compile(
            rf"\s*\(\s?({plain_label}){separator}({plain_label})(?:{separator}({plain_label}))?\s?\)"
        ),
        unit_after_bracket=re.compile(rf"\s?\)\s?{written.unit}"),
        sub_unit=re.compile(
            rf"\b{words['sub_unit']}(?:(?P<number>\d+(?:[.,]\d+)?)\s?-?\s?(?P<unit>{words['mm']}|{centimetre})|{words['sub_bare']})\b"
        ),
        list_gap=re.compile(rf"\s*,?\s*{words['list_and']}\s*"),
        comma_gap=re.compile(r"\s*[,;]\s*"),
        list_head=re.compile(rf"(?:\b|(?=:)){words['list_head']}\s*(?:\d{{1,4}}(?:[.,]\d{{1,3}})?\s*,\s*){{0,6}}$"),
        place_gap=re.compile(rf"\s*[,;]\s*(?:{words['list_and']}\s+)?{place}\s*"),
        place_left=re.compile(rf"(?:{words['list_place']}[\s:]+){{1,4}}$"),
        range_gap=re.compile(rf"\s*(?:-|\b{words['to_range']}\b)\s*"),
        growth_gap=re.compile(rf"\s*\b{words['to_growth']}\b\s*"),
        grown_by=re.compile(rf"\b{words['grown_by']}\s*$"),
        grown_from=re.compile(rf"\b{words['grown_from']}\s*$"),
        between_left=re.compile(rf"\b{words['between']}\s*$"),
        arrow_back_gap=re.compile(r"\s*(?:←|⟵|<-+)\s*"),
        arrow_gap=re.compile(r"\s*(?:→|⟶|->|=>|-->)\s*"),
        prior_gap=re.compile(rf"\s*[(\[,;]?\s*(?:{words['prior_gap']}[\s:]*){{1,3}}"),
        names_number=re.compile(rf"\b{words['names_number']}\s*$"),
        measured_left=re.compile(rf"\b{words['measured_left']}\s*$"),
        slip_left=re.compile(rf"\b{words['slip_left']}\s*$"),
        slip_right=re.compile(rf"\s*{words['slip']}"),
        count_right=re.compile(r"[\s-]*(?:\w+\s+){0,2}?\w+s\b"),
        date=re.compile(_DATE.replace("MONTH", words["month"])),
        references=_reference_patterns(words),
    )


def _reference_patterns(words: Mapping[str, str]) -> ReferencePatterns:
    series = rf"{words['series']}\.?\s?[:#=]?\s?"
    named = rf"(?:{words['number_word']}\s?)?[:#=]?\s?"
    image = rf"{words['image']}\.?\s?{named}"
    not_length = rf"(?![\d.,]*\d)(?!\s?-?\s?(?:{words['mm']}|{words['cm']})\b|\s?x\s?\d)"
    first = r"(?P<first>\d{1,5})(?:\s?/\s?\d+(?!\d))?"  # "image 162/343": the 162nd of 343
    last = rf"(?:\s?(?:-|{words['to_range']}|through)\s?(?P<last>\d{{1,5}}){not_length})?"
    more = rf"(?P<more>(?:\s?(?:,\s?{words['list_and']}|,|{words['list_and']})\s?\d{{1,5}}\b{not_length}){{0,20}})"
    of = rf"(?:{words['of']}\s)?(?:{words['the']}\s)?"
    # "(S3/45)", but no segments of liver or lung: "(S5/8)"
    initial = rf"(?:{words['series']}(?=\d{{1,3}}\s?/\s?(?:1[1-9]|[2-9]\d|\d{{3}})))?"
    pair = rf"{initial}" r"(?P<series>\d{1,3})\s?[/:-]\s?(?P<first>\d{1,4})(?:\s?-\s?(?P<last>\d{1,4}))?(?!\d)"
    return ReferencePatterns(
        named=tuple(
            re.compile(pattern)
            for pattern in (
                rf"\b{series}(?P<series>\d{{1,5}})\s?[,;/:-]?\s?(?:{words['list_and']}\s|{words['of']}\s)?\(?{image}{first}{last}{not_length}{more}",
                rf"\b{image}{first}{last}{not_length}(?:(?P<open>\s?\(\s?)|\s?[,;/]?\s?){of}{series}(?P<series>\d{{1,5}})\b(?(open)\s?\))",
                rf"\b{words['series']}\s?/\s?{words['image']}\s?:?\s?(?P<series>\d{{1,5}})\s?/\s?(?P<first>\d{{1,5}}){last}{not_length}(?P<more>)",
                r"\b(?:ima|img)\s?:?\s?(?P<series>\d{1,3})\s?/\s?(?P<first>\d{1,5})(?![\d.,]*\d)(?=\s?[)\];,])(?P<last>)(?P<more>)",
                rf"\b(?:(?P<many>{words['image_many']})\b|{words['image_alone']})\s?{named}{first}{last}{not_length}{more}",
            )
        ),
        probe=re.compile(
            rf"\b(?:{words['series']}|{words['image']})\W{{0,4}}(?:{words['number_word']}|{words['image']})?\W{{0,4}}\d|[(\[]\s?(?:{words['series']})?\d"
        ),
        bare=re.compile(
            rf"[(\[]\s?{_nameless(pair)}(?:\s?(?:[,;]|{words['list_and']}|[,;]\s?{words['list_and']})\s?{_nameless(pair)})*\s?[)\]]"
        ),
        pair=re.compile(pair),
        loose=re.compile(r"[(\[]\s?(?P<series>[1-9]\d?)(?:\s?,\s|\.)(?P<first>3[2-9]|[4-9]\d|[1-9]\d\d)\s?[)\]]"),
        before_loose=re.compile(
            rf"^(?!.*(?:suv|fdg|uptake|volume|\bhu\b|adc|score|ratio|value))(?s:.*)\d[\s-]?{words['mm']}\b[^\d.;:()\[\]]*$"
        ),
        length_near=re.compile(rf"\d[\s-]?(?:{words['mm']}|{words['cm']})\b[^.;]*$"),
        after_date_word=re.compile(rf"\b{words['date_word']}\s*$"),
    )


def _nameless(pattern: str) -> str:
    return re.sub(r"\?P<\w+>", "?:", pattern)
