"""Detectors of what identifies anybody: dates, numbers, addresses, and the names that stand behind a title or a label.

They know nothing of the patient (:mod:`cohort_builder.identifiers` does) and work on text whose accents, dashes and
quotes are folded to ASCII. What a radiologist writes in numbers must survive them: sizes, image references in brackets
("(4/87)"), spine levels, scores. Where a number can be both, its context decides, and a date without a year needs a
word that asks for one.
"""

from __future__ import annotations

import re
from collections.abc import Iterator
from enum import StrEnum


class Tag(StrEnum):
    """What stands in the scrubbed text, in brackets, for what was removed. Earlier ones win where two overlap."""

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

_UNIT = r"(?:mm|cm|ml|cc|dl|l|hu|mgy|msv|kg|mg|%|percent|voxels?|mcg|x\s*\d|×|by\s+\d)"
_NOT_A_SIZE = rf"(?!\s*-?{_UNIT}(?![a-z]))(?!\d|[.,]\d)"
"""A number that a unit or a second factor follows is a measurement."""

_DAY = r"(?:0?[1-9]|[12]\d|3[01])"
_MONTH = r"(?:0?[1-9]|1[0-2])"
_YEAR4 = r"(?:19|20)\d{2}"
_MONTH_NAME = (
    r"(?:jan(?:uary|uar)?|feb(?:ruary|ruar)?|mar(?:ch|z)?|maerz|apr(?:il)?|mai|may|june?|juni|july?|juli|aug(?:ust)?"
    r"|sept?(?:ember)?|o[ck]t(?:ober)?|nov(?:ember)?|de[cz](?:ember)?)"
)
_CLOCK = r"(?:[01]?\d|2[0-3]):[0-5]\d(?::[0-5]\d(?:[.,]\d+)?)?(?:\s*(?:[ap]\.?m\b\.?|hrs?\b|hours?\b|h\b|uhr\b))?"
_ZONE = r"(?:\s*(?:z\b|utc\b|gmt\b|[ecmp][sd]t\b|[+-]\d{2}:?\d{2}))?"
_TIME_AFTER = rf"(?:(?:t|,?\s+(?:at\s+|um\s+)?|,\s*|@\s*){_CLOCK}{_ZONE})?"
_TIME_BEFORE = rf"(?:(?<![\d:]){_CLOCK}\s*(?:,\s*)?(?:on\s+(?:the\s+)?)?)?"
_START = r"(?<![\w/.:-])(?<!\d,)"
_END = r"(?![\w/])(?!-\d)(?!\.\d)"
_YEAR = rf"(?:{_YEAR4}|'?\d{{2}})"

_WEEKDAY = r"(?:(?:mon|tue(?:s)?|wed(?:nes)?|thu(?:rs)?|fri|sat(?:ur)?|sun)(?:day)?\.?,?\s+)?"
_FULL_DATES = (
    rf"{_YEAR4}([-/._ ]){_MONTH}\1{_DAY}(?!\d)",  # 2021-03-04
    rf"{_YEAR4}(?:0[1-9]|1[0-2])(?:0[1-9]|[12]\d|3[01])(?:\d{{4,6}}(?:\.\d+)?)?(?!\d)",  # 20210304, 20210304104500
    rf"(?:{_DAY}([-/.])\s?{_MONTH}|{_MONTH}([-/.])\s?{_DAY})(?:[-/.])\s?(?:{_YEAR4}|\d{{2}}){_NOT_A_SIZE}",  # 03/04/21
    rf"{_DAY}(?:st|nd|rd|th|\.)?(?:\s+of)?[\s./-]*{_MONTH_NAME}\.?[\s,./-]*{_YEAR}{_NOT_A_SIZE}",  # 4th of March, 2021
    rf"{_MONTH_NAME}\.?[\s./-]*{_DAY}(?:st|nd|rd|th)?(?:\s*,\s*|[\s./-]+){_YEAR}{_NOT_A_SIZE}",  # March 4, 2021
    rf"{_YEAR4}[\s./-]+{_MONTH_NAME}[\s./-]+{_DAY}(?!\d)",  # 2021-Mar-04
    rf"{_MONTH_NAME}\.?[\s,./-]*(?:of\s+)?(?:{_YEAR4}|'\d{{2}})(?!\d)",  # Mar 2021, March '21
    rf"{_MONTH}[-/.]{_YEAR4}(?!\d)",  # 03/2021
    rf"{_YEAR4}[-/](?:0[1-9]|1[0-2])(?!\d)",  # 2021-03
)
_DATE = [
    re.compile(rf"{_TIME_BEFORE}{_WEEKDAY}{_START}(?:{form}){_END}{_TIME_AFTER}", re.IGNORECASE)
    for form in _FULL_DATES[1:2]
] + [
    re.compile(rf"{_TIME_BEFORE}{_WEEKDAY}{_START}(?:{form}){_TIME_AFTER}", re.IGNORECASE)
    for form in _FULL_DATES[:1] + _FULL_DATES[2:]
]
_COUNTED = re.compile(
    r"(?:\b(?:ribs?|segments?|levels?|stations?|images?|im(?:g|a)?|series|se|slices?|sl|grades?|score|phases?|nos?)"
    r"\.?[\s:#]*(?:\d+\s*(?:,|and|to|-)\s*)*)$",
    re.IGNORECASE,
)
"""Before a group of numbers: they count anatomy or images."""

# A day and a month without a year: only where a word asks for a date. "May" is more often a verb.
_DAY_MONTH = [
    re.compile(rf"{_START}{_DAY}(?:st|nd|rd|th|\.)?(?:\s+of)?[\s-]+{_MONTH_NAME}\b(?!\s*\d)", re.IGNORECASE),
    re.compile(rf"\b{_MONTH_NAME}\.?\s+(?:the\s+)?{_DAY}(?:st|nd|rd|th)?(?![\w/-]){_NOT_A_SIZE}", re.IGNORECASE),
]
_MAY = re.compile(r"(?<![A-Za-z])(?:MAY|may)(?![A-Za-z])")
_ASKED_DAY_MONTH = re.compile(
    r"(?:\bon(?:\s+the)?|\b(?:dated?|since|exam(?:ination)?|study|studies|scan|ct|mri?|pet|films?|x-?rays?|radiographs?"
    r"|compar(?:ison|ed)|priors?|previous(?:ly)?|from|admitted|discharged|surgery|until)"
    r"(?:\s+(?:of|from|on|dated|performed|to|with|is|was))*)\s*:?\s+"
    rf"(?P<date>{_MONTH}/{_DAY}|{_DAY}/{_MONTH}|{_MONTH}/\d{{2}})(?![\w/])(?!\s*(?:of\b|lymph|nodes?\b|th\b))"
    rf"{_NOT_A_SIZE}",
    re.IGNORECASE,
)
_MONTH_ALONE = re.compile(
    r"\b(?:in|since|from|of|last|during|until|early|late|mid)[\s-]+"
    r"(?P<date>January|February|March|April|May|June|July|August|September|October|November|December)\b"
)
_CLOCK_ALONE = re.compile(r"(?<![\d:/.])(?:[01]?\d|2[0-3]):[0-5]\d(?::[0-5]\d)?\s*(?:[ap]\.?m\b\.?|hrs?\b|hours\b)", re.I)
_BIRTH_YEAR = re.compile(rf"\b(?:born(?:\s+in)?|birth\s*year|year\s+of\s+birth|yob|dob)\s*:?\s*(?P<date>{_YEAR4})\b", re.I)

_URL = re.compile(
    r"(?:https?|ftp|file|dicomweb)(?:\+\w+)?://[^\s<>\"]+|\bwww\.[\w-]+\.[^\s<>\"]+"
    r"|(?<![\w.@-])[a-z0-9][\w-]*(?:\.[\w-]+)*\.(?:com|org|net|edu|gov|info)\b(?:/[^\s<>\"]*)?",
    re.IGNORECASE,
)
_EMAIL = re.compile(r"[\w.+%-]+@[\w-]+(?:\.[\w-]+)*\.?\w")
_UID = re.compile(r"(?<![\w.])[0-2](?:\.\d+){4,}(?!\d)")

_LABELLED_ID = re.compile(
    r"\b(?:MRN|medical\s+record(?:\s+(?:number|no\.?))?|accession(?:\s+(?:number|no\.?))?|acc\.?\s*(?=[#:])"
    r"|(?:patient|hospital|case|exam|order|study|visit|encounter|account|insurance|policy|episode|requisition|NHS|CHI)"
    r"\s*(?:id\b|identifier|number|no\b\.?|nr\b\.?|\#)|PID|SSN|social\s+security(?:\s+(?:number|no\.?))?"
    r"|(?-i:ID|Id)(?=\s*[:#])|NHS)\s*(?:is|was)?\s*[:#.]{0,2}\s*"
    r"(?P<id>(?=[\w./-]*\d)[A-Za-z]{0,6}[\s-]?\d[\w/-]*(?:[\s-]\d{2,})*)",
    re.IGNORECASE,
)
_LONG_NUMBER = re.compile(rf"(?<!\d)(?<!\d[.,])(?:\b[A-Za-z]{{1,5}}[-_]?)?\d{{6,}}(?:[A-Za-z]{{1,3}}\b)?{_NOT_A_SIZE}", re.I)
_GROUPED_NUMBER = re.compile(r"(?<![\w./-])(?=[\d-]{8,})\d{2,}(?:-\d{2,}){1,4}(?![\w/-])")
_CODED_NUMBER = re.compile(r"(?<![\w./-])[A-Za-z]{1,6}[-/]?\d{2,4}[-/]\d{4,}(?![\w/-])")

_PHONE = [
    re.compile(r"(?<![\w.])\+\d(?:[\s().-]{0,2}\d){6,14}(?!\d)"),
    re.compile(r"(?<![\w.])(?:1[\s.-])?\(\d{2,5}\)[\s.-]?\d{3,4}(?:[\s.-]?\d{3,4})?(?![\w])"),
    re.compile(r"(?<![\w./-])(?:1[\s.-])?\d{3}([\s.-])\d{3}\1\d{4}(?![\w/])"),
    re.compile(r"(?<![\w./-])0\d{2,4}[\s/-]\d{3,4}[\s-]?\d{3,4}(?![\w/])"),
    re.compile(r"(?<![\w./-])[2-9]\d{2}-\d{4}(?![\w/-])"),
    re.compile(
        r"\b(?:tel(?:ephone)?|phone|mobile|cell|pager|beeper|bleep|fax|ext(?:ension)?|call\s*back|dect)\b"
        r"\.?\s*(?:number|no\.?|at|is)?\s*[:#]?\s*(?P<phone>\(?\d(?:[\s().-]{0,2}\d){2,14})(?!\d)",
        re.IGNORECASE,
    ),
    re.compile(r"(?<![\w.])x(?P<phone>\d{4,5})(?![\w.])(?!\s*(?:mm|cm))"),
]

_OLD = r"(?:9\d|1[0-4]\d)"
_AGE = [
    re.compile(rf"(?<![\d.,/x-])(?P<age>{_OLD})(?=[\s-]*(?:years?|yrs?)?[\s-]*(?:old|of\s+age)\b)", re.IGNORECASE),
    re.compile(rf"(?<![\d.,/x-])(?P<age>{_OLD})(?=[\s-]*(?:y/?o\b|y\.\s?o\.|yrs?/o\b|yo[mf]\b))", re.IGNORECASE),
    re.compile(rf"(?<![\d.,/x-])(?P<age>{_OLD})(?=[\s-]*(?:years?|yrs?|y)?[\s-]*(?:fe)?male\b)", re.IGNORECASE),
    re.compile(rf"\bage[ds]?(?:\s+of)?\s*:?\s*(?P<age>{_OLD})\b(?!\s*(?:mm|cm|%))", re.IGNORECASE),
    re.compile(r"(?<!\w)(?P<age>0?9\d|1[0-4]\d)[Yy](?![\w])"),
    re.compile(
        r"\b(?P<age>ninety(?:[\s-](?:one|two|three|four|five|six|seven|eight|nine))?|(?:one|a)\s+hundred(?:\s+(?:and\s+)?\w+)?)"
        r"(?=[\s-]+years?[\s-]+(?:old|of\s+age))",
        re.IGNORECASE,
    ),
]


def find_generic(text: str) -> Iterator[Hit]:
    """Yield what identifies somebody in ``text`` (folded to ASCII letters, dashes and quotes), overlaps included."""
    for pattern, tag, group in _SIMPLE:
        for match in pattern.finditer(text):
            if not (tag in _COUNTABLE and _COUNTED.search(text, 0, match.start(group))):
                yield *match.span(group), tag
    for pattern in _DAY_MONTH:
        for match in pattern.finditer(text):
            if not _MAY.search(match.group()):
                yield *match.span(), Tag.DATE


_COUNTABLE = {Tag.DATE, Tag.PHONE}
_SIMPLE: list[tuple[re.Pattern[str], Tag, str | int]] = [
    (_URL, Tag.URL, 0),
    (_EMAIL, Tag.EMAIL, 0),
    (_UID, Tag.UID, 0),
    *((pattern, Tag.DATE, 0) for pattern in _DATE),
    (_ASKED_DAY_MONTH, Tag.DATE, "date"),
    (_MONTH_ALONE, Tag.DATE, "date"),
    (_CLOCK_ALONE, Tag.DATE, 0),
    (_BIRTH_YEAR, Tag.DATE, "date"),
    *((pattern, Tag.PHONE, "phone" if "phone" in pattern.groupindex else 0) for pattern in _PHONE),
    (_LABELLED_ID, Tag.ID, "id"),
    (_LONG_NUMBER, Tag.ID, 0),
    (_GROUPED_NUMBER, Tag.ID, 0),
    (_CODED_NUMBER, Tag.ID, 0),
    *((pattern, Tag.AGE, "age") for pattern in _AGE),
]
