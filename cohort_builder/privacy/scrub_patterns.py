"""Detectors of numbers and addresses that identify anybody: dates, ages over 89, ids, phones, e-mail, URLs, UIDs.

They know nothing of the patient (``scrub_identifiers.py`` does) and work on text whose accents, dashes
and quotes are folded to ASCII. What a radiologist writes in numbers must survive them: sizes, image references
("(4/87)", "series 3, image 41"), spine levels, scores. Where a number can be both, its context decides, and a day and
month without a year need a word that asks for a date.
"""

from __future__ import annotations

import re
from collections.abc import Iterator
from enum import StrEnum


class Tag(StrEnum):
    """What stands in the scrubbed text, in brackets, for what was removed. Of two that overlap the earlier names it."""

    EMAIL = "EMAIL"
    URL = "URL"
    UID = "UID"
    NAME = "NAME"
    DATE = "DATE"
    PHONE = "PHONE"
    ID = "ID"
    AGE = "AGE"


Hit = tuple[int, int, Tag]
"""Half-open span of the folded text, and what it is."""

_I = re.IGNORECASE

_UNIT = r"(?:mm|cm|m|ml|cc|dl|l|hu|mgy|msv|kg|g|mg|mcg|%|percent|voxels?|french|fr|x\s*\d|×|by\s+\d)"
NOT_A_SIZE = rf"(?!\d|[.,]\d|\s*-?{_UNIT}(?![a-z]))"
"""Look-ahead: a number that a unit or a second factor follows is a measurement."""

# ---- dates ----------------------------------------------------------------------------------------------------------
_DAY = r"(?:0?[1-9]|[12]\d|3[01])"
_NTH = rf"{_DAY}(?:st|nd|rd|th|er|\.)?"
_MONTH = r"(?:0?[1-9]|1[0-2])"
_YEAR4 = r"(?:19|20)\d{2}"
_YEAR = rf"(?:{_YEAR4}|'?\d{{2}})"
_MONTH_NAME = (
    r"(?:jan(?:uary|uar)?|feb(?:ruary|ruar)?|mar(?:ch|z)?|maerz|apr(?:il)?|mai|may|june?|juni|july?|juli|aug(?:ust)?"
    r"|sept?(?:ember)?|o[ck]t(?:ober)?|nov(?:ember)?|de[cz](?:ember)?"
    # French, Spanish, Italian, Dutch
    r"|janvier|fevrier|mars|avril|juin|juillet|aout|septembre|octobre|novembre|decembre"
    r"|enero|febrero|marzo|abril|mayo|junio|julio|agosto|septiembre|octubre|noviembre|diciembre"
    r"|gennaio|febbraio|aprile|maggio|giugno|luglio|settembre|ottobre|dicembre|januari|februari|maart|mei|augustus)"
)
_ORDINAL = (
    r"(?:(?:twenty|thirty)[ -])?(?:first|second|third|fourth|fifth|sixth|seventh|eighth|ninth|tenth|eleventh|twelfth"
    r"|thirteenth|fourteenth|fifteenth|sixteenth|seventeenth|eighteenth|nineteenth)|twentieth|thirtieth"
)
_ROMAN_MONTH = r"(?:x?i{1,3}|i?[vx]|vi{1,3}|xii?)"
_CLOCK = (
    r"(?:(?:[01]?\d|2[0-3]):[0-5]\d(?::[0-5]\d(?:[.,]\d+)?)?(?:\s*(?:[ap]m\b|[ap]\.m\.|hrs?\b|hours?\b|h\b|uhr\b))?"
    r"|(?:[01]\d|2[0-3])[0-5]\d\s*(?:hrs?|hours|h)\b)"
)
_ZONE = r"(?:\s*(?:z\b|utc\b|gmt\b|[ecmp][sd]t\b|[+-]\d{2}:?\d{2}))?"
_TIME_AFTER = rf"(?:(?:t|,?\s+(?:at\s+|um\s+)?|,|\s*@\s*){_CLOCK}{_ZONE})?"
_WEEKDAY = r"(?:(?:mon|tues?|wed(?:nes)?|thu(?:rs?)?|fri|sat(?:ur)?|sun)(?:day)?\.?,?\s+)?"
_BEFORE = rf"(?:(?<![\d:]){_CLOCK}\s*,?\s*(?:on\s+(?:the\s+)?)?)?{_WEEKDAY}(?<![\w/.:-])(?<!\d,)"

_SURE_DATES = (
    rf"{_YEAR4}([-/._ ]){_MONTH}\1{_DAY}(?!\d)",  # 2021-03-04
    rf"{_YEAR4}(?:0[1-9]|1[0-2])(?:0[1-9]|[12]\d|3[01])(?:\d{{4,6}}(?:\.\d+)?)?(?!\w)",  # 20210304, 20210304104500
    rf"(?:{_DAY}\s?([-/.])\s?{_MONTH}\s?\1|{_MONTH}\s?([-/.])\s?{_DAY}\s?\2)\s?{_YEAR4}(?!\d)",  # 03/04/2021
    rf"{_DAY}([./-]){_ROMAN_MONTH}\1{_YEAR4}(?!\d)",  # 4.III.2021
    rf"{_DAY}\.\s{_MONTH}\.\s?{_YEAR4}(?!\d)",  # 4. 3. 2021
    rf"{_NTH}(?:\s+(?:of|de|di))?[\s./-]*{_MONTH_NAME}\.?(?:\s+de)?[\s,./-]*{_YEAR}{NOT_A_SIZE}",  # 4th of March, 2021
    rf"{_MONTH_NAME}\.?[\s./-]*(?:the\s+)?{_NTH}(?:\s*,\s*|[\s./-]+){_YEAR}{NOT_A_SIZE}",  # March 4, 2021
    rf"{_YEAR4}[\s./-]+{_MONTH_NAME}[\s./-]+{_DAY}(?!\d)",  # 2021-Mar-04
    rf"{_MONTH_NAME}\.?[\s,./-]*(?:of\s+)?(?:{_YEAR4}|'\d{{2}})(?!\d)",  # Mar 2021, March '21
)
_COUNTABLE_DATES = (
    rf"(?:{_DAY}([-/.]){_MONTH}\1|{_MONTH}([-/.]){_DAY}\2)\d{{2}}(?!\w)(?!-\d){NOT_A_SIZE}",  # 03/04/21
    rf"(?:{_DAY}\s{_MONTH}|{_MONTH}\s{_DAY})\s{_YEAR4}(?!\w){NOT_A_SIZE}",  # 03 04 2021
    rf"{_MONTH}[-/.]{_YEAR4}(?!\w){NOT_A_SIZE}",  # 03/2021
    rf"{_YEAR4}[-/](?:0[1-9]|1[0-2])(?!\w){NOT_A_SIZE}",  # 2021-03
)
_ASKED = (
    r"(?:\bon(?:\s+the)?|\b(?:dated?|since|exam(?:ination)?|study|studies|scan|ct|mri?|pet|films?|x-?rays?|radiographs?"
    r"|compar(?:ison|ed)|priors?|previous(?:ly)?|from|admitted|discharged|surgery|until)"
    r"(?:\s+(?:of|from|on|dated|performed|to|with|is|was))*)\s*:?\s+"
)
_DAY_AND_MONTH = re.compile(  # since 3/4, prior CT of 03/04, on 28/4
    rf"{_ASKED}(?P<it>{_MONTH}/{_DAY}|{_DAY}/{_MONTH}|(?:0[1-9]|1[0-2])/\d{{2}})(?![\w/])"
    rf"(?!\s*(?:of\b|lymph|nodes?\b|th\b)){NOT_A_SIZE}",
    _I,
)
_MONTH_ALONE = re.compile(
    r"\b(?:in|since|from|of|last|during|until|early|late|mid)[\s-]+"
    r"(?P<it>January|February|March|April|May|June|July|August|September|October|November|December)\b"
)
_BIRTH_YEAR = re.compile(
    rf"\b(?:born(?:\s+in)?|b\.|birth\s*year|year\s+of\s+birth|yob|dob)\s*:?\s*(?P<it>{_YEAR4})\b", _I
)
_CLOCK_ALONE = re.compile(
    r"(?<![\d:/.])(?:[01]?\d|2[0-3]):[0-5]\d(?::[0-5]\d)?\s*(?:[ap]m\b|[ap]\.m\.|hrs?\b|hours\b)", _I
)
_NAMED_DAYS = (
    re.compile(rf"(?<![\w/.:-]){_DAY}(?:st|nd|rd|th|\.)?(?:\s+of)?[\s-]+{_MONTH_NAME}\b(?!\s*\d)", _I),  # 4 March
    re.compile(rf"\b{_MONTH_NAME}\.?[\s/-]+(?:the\s+)?{_DAY}(?:st|nd|rd|th)?(?![\w/-]){NOT_A_SIZE}", _I),  # March 4
    re.compile(rf"\b(?:{_ORDINAL})\s+of\s+{_MONTH_NAME}\b|\b{_MONTH_NAME}\s+(?:the\s+)?(?:{_ORDINAL})\b", _I),
)
_VERB_MAY = re.compile(r"(?<![A-Za-z])(?:MAY|may)(?![A-Za-z])")
"""Without a year, only "May" is the month: "segment 4 may represent"."""

# ---- addresses and numbers ------------------------------------------------------------------------------------------
_URL = re.compile(
    r"(?:https?|ftp|file|dicomweb)(?:\+\w+)?://[^\s<>\"]*[\w/=]|\bwww\.[\w-]+\.[^\s<>\"]*[\w/=]"
    r"|(?<![\w.@-])[a-z0-9][\w-]*(?:\.[\w-]+)*\.(?:com|org|net|edu|gov|info|local|lan|intranet)\b(?:/(?:[^\s<>\"]*[\w/=])?)?",
    _I,
)
_EMAIL = re.compile(r"(?<![\w.+%-])[\w.+%-]+@[\w-]+(?:\.[\w-]+)*")
_UID = re.compile(r"(?<![\w.])[0-2](?:\.\d+){4,}(?!\d)")
_NUMBER_WORD = r"(?:id\b|identifier|number|n[or]\s*[.:#]|\#)"
_LABELLED_ID = re.compile(
    rf"\b(?:(?:MRN|PID|SSN|NHS|CHI|accession|medical\s+record|social\s+security|acc\.?(?=\s*[#:]))(?:\s*{_NUMBER_WORD})?"
    r"|(?:patient|hospital|case|exam|order|study|visit|encounter|account|insurance|policy|episode|requisition|record"
    r"|specimen|pathology|serial|lot|chart|device)"
    rf"\s*{_NUMBER_WORD}|(?-i:ID|Id)(?=\s*[:#]))\s*(?:is|was)?\s*[:#.]{{0,2}}\s*"
    rf"(?P<it>(?=[\w./-]*\d)[A-Za-z]{{0,6}}[ -]?\d[\w/-]*(?:[ -]\d{{3,}})*){NOT_A_SIZE}",
    _I,
)
_LONG_NUMBER = re.compile(
    rf"(?<!\d)(?<!\d[.,])(?:\b[A-Za-z]{{1,5}}[-_]?)?\d{{6,}}(?:[A-Za-z]{{1,3}}\b)?{NOT_A_SIZE}", _I
)
_CODED_NUMBER = re.compile(r"(?<![\w./-])[A-Za-z]{1,6}[-/]?\d{2,4}[-/]\d{4,}(?![\w/-])")  # CT21-004567
_GROUPED_NUMBER = re.compile(  # 123-45-6789; but not 2019-2021
    rf"(?<![\w./-])(?=[\d-]{{8,}})(?!{_YEAR4}-{_YEAR4}\b)\d{{2,}}(?:-\d{{2,}}){{1,4}}(?![\w/-]){NOT_A_SIZE}", _I
)
_POSTCODE = re.compile(r"\b(?-i:[A-Z]{2})[ ,]+\d{5}(?:-\d{4})?(?![\w./-])", _I)  # IL 62704
_LABELLED_PHONE = re.compile(
    r"\b(?:tel(?:ephone)?|phone|mobile|cell|pager|beeper|bleep|fax|ext(?:ension)?|call\s*back|dect)\b"
    rf"\.?\s*(?:number|no\.?|at|is)?\s*[:#]?\s*(?P<it>\(?\d(?:[ ().-]{{0,2}}\d){{2,14}}){NOT_A_SIZE}",
    _I,
)
_PHONES = (
    r"\+\d(?:[ ().-]{0,2}\d){6,14}(?!\d)",
    r"(?:1[ .-])?\(\d{2,5}\)[ .-]?\d{3,4}(?:[ .-]?\d{3,4})?(?!\w)",
    r"(?:1[ .-])?\d{3}([ .-])\d{3}\1\d{4}(?![\w/])",
    r"0\d{2,4}[ /-]\d{3,4}[ -]?\d{3,4}(?![\w/])",
    r"[2-9]\d{2}-\d{4}(?![\w/-])",
    r"(?<!\d )x\d{4,5}(?![\w.])",
)

# ---- ages over 89 ---------------------------------------------------------------------------------------------------
_OLD = r"(?<![\d.,/x-])(?P<it>9\d|1[0-4]\d)"
_OLD_IN_WORDS = (
    r"ninety(?:[\s-](?:one|two|three|four|five|six|seven|eight|nine))?|(?:one|a)\s+hundred(?:\s+(?:and\s+)?\w+)?"
)
_AGES = (
    rf"{_OLD}(?=[\s-]*(?:years?|yrs?)?[\s-]*(?:old|of\s+age)\b)",
    rf"{_OLD}(?=[\s-]*(?:y/?o\b|y\.\s?o\.|yrs?/o\b|yo[mf]\b))",
    rf"{_OLD}(?=[\s-]*(?:years?|yrs?|y)?[\s-]*(?:fe)?male\b)",
    r"(?<=\()(?P<it>9\d|1[0-4]\d)(?=\s?[/-]?\s?[mf]\))",
    r"\bage[ds]?(?:\s+of)?\s*:?\s*(?P<it>9\d|1[0-4]\d)\b(?!\s*(?:mm|cm|%))",
    r"(?<!\w)(?P<it>0?9\d|1[0-4]\d)y(?!\w)",
    rf"\b(?P<it>{_OLD_IN_WORDS})(?=[\s-]+years?[\s-]+(?:old|of\s+age))",
    rf"\bage[ds]?\s+(?P<it>{_OLD_IN_WORDS})\b",
    r"\b(?P<it>(?:super)?centenarian|nonagenarian)s?\b",
)


def _compiled(tag: Tag, *patterns: str, before: str = "") -> list[tuple[re.Pattern[str], Tag]]:
    return [(re.compile(before + pattern, _I), tag) for pattern in patterns]


_ALWAYS: list[tuple[re.Pattern[str], Tag]] = [
    (_URL, Tag.URL),
    (_EMAIL, Tag.EMAIL),
    (_UID, Tag.UID),
    *_compiled(Tag.DATE, *(form + _TIME_AFTER for form in _SURE_DATES), before=_BEFORE),
    *((pattern, Tag.DATE) for pattern in (_DAY_AND_MONTH, _MONTH_ALONE, _BIRTH_YEAR, _CLOCK_ALONE)),
    (_LABELLED_PHONE, Tag.PHONE),
    (_POSTCODE, Tag.ID),
    *((pattern, Tag.ID) for pattern in (_LABELLED_ID, _LONG_NUMBER, _CODED_NUMBER)),
    *_compiled(Tag.AGE, *_AGES),
]
_UNLESS_COUNTED: list[tuple[re.Pattern[str], Tag]] = [
    *_compiled(Tag.DATE, *(form + _TIME_AFTER for form in _COUNTABLE_DATES), before=_BEFORE),
    *_compiled(Tag.PHONE, *(form + NOT_A_SIZE for form in _PHONES), before=r"(?<![\w./-])"),
    (_GROUPED_NUMBER, Tag.ID),
]
_COUNTED = re.compile(
    r"\b(?:ribs?|segments?|levels?|stations?|images?|im(?:g|a)?|series|se|slices?|sl|grades?|scores?|phases?)"
    r"\.?[\s:#]*(?:\d+\s*(?:,|and|to|-)\s*)*$",
    _I,
)
"""Before a group of numbers: they count anatomy or images."""
_COUNTED_REACH = 40


def find_generic(text: str) -> Iterator[Hit]:
    """Yield what identifies somebody in ``text`` (folded to ASCII letters, dashes and quotes), overlaps included."""
    for pattern, tag in _ALWAYS:
        for match in pattern.finditer(text):
            yield *match.span("it" if "it" in pattern.groupindex else 0), tag
    for pattern, tag in _UNLESS_COUNTED:
        for match in pattern.finditer(text):
            if not _COUNTED.search(text[max(0, match.start() - _COUNTED_REACH) : match.start()]):
                yield *match.span(), tag
    for pattern in _NAMED_DAYS:
        for match in pattern.finditer(text):
            if not _VERB_MAY.search(match.group()):
                yield *match.span(), Tag.DATE
