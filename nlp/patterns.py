"""How numbers, units, image references and dates are written: the lexical half of :mod:`nlp.sizes`."""

from __future__ import annotations

import re

_WORDS = ("one", "two", "three", "four", "five", "six", "seven", "eight", "nine", "ten", "eleven", "twelve")
WORD_VALUES = {word: value for value, word in enumerate(_WORDS, start=1)}

# "m" is a slip for mm only where a word for size follows; "6 m" alone is six months. "cm2" is a slip after two factors.
_UNIT = (
    r"(?P<unit>mm{1,2}s?|millimet(?:er|re)s?|cms?|centimet(?:er|re)s?|m(?=\s+(?:in\s+)?(?:diameter|size|thick|nodul)))"
    r"(?P<power>[23²³](?!\d)|\^[23])?(?![^\W\d_]|\d|\s?(?:hg|h2o)\b|\s?/\s?[a-z])"
)
# In "1.2cmx0.8cm" the letter after the unit is a multiplication sign.
UNIT = _UNIT.replace(r"(?![^\W\d_]", r"(?!(?!x\s?\d)[^\W\d_]")
_BARE_UNIT = UNIT.replace("?P<unit>", "?:").replace("?P<power>", "?:")

NUMBER = (
    rf"(?P<number>\d+\s+[1-9]/[2-9]\b|[1-9]/[2-9](?=[\s-]*{_BARE_UNIT})|\d+(?:[.,]\d+)?|[.,]\d+"
    rf"|(?:{'|'.join(_WORDS)})(?=[\s-]+{_BARE_UNIT}))"
)
AXIS_LABEL = (
    r"(?P<label>ap|tr|trv|trans|transverse|cc|si|ml|craniocaudal|cranio-caudal|anteroposterior|antero-posterior|mediolateral|"
    r"short[\s-]axis|long[\s-]axis)"
)
_GAP = r"(?:\s{0,3}-?\s?)"
FACTOR = re.compile(
    rf"{NUMBER}(?:{_GAP}{UNIT})?(?:\s*(?:\((?=[a-z-]+(?:\saxis)?\)))?\b{AXIS_LABEL}\b\)?)?", re.IGNORECASE
)
_TIMES = r"\s*(?:[x×✕*]|\bby\b)\s*"
TIMES = re.compile(_TIMES, re.IGNORECASE)


def _nameless(pattern: str) -> str:
    return re.sub(r"\?P<\w+>", "?:", pattern)


_PLAIN = _nameless(rf"{NUMBER}(?:{_GAP}{UNIT})?")
_LABELLED = _nameless(rf"{NUMBER}(?:{_GAP}{UNIT})?(?:\s*(?:\((?=[a-z-]+(?:\saxis)?\)))?\b{AXIS_LABEL}\b\)?)?")
# Not inside words, dates, ratios or decimals; not a percentage.
EXPRESSION = re.compile(
    rf"(?<!\w)(?<!\d[.,:/])(?<![^\s(]/)(?:{_LABELLED}(?:{_TIMES}{_LABELLED})+|{_PLAIN})(?![^\W_]|%|\s?%|/\d|[.,]\d)",
    re.IGNORECASE,
)
AXES_AFTER = re.compile(
    rf"\s*\(\s*({_nameless(AXIS_LABEL)})\s*(?:[x×/,]|by)\s*({_nameless(AXIS_LABEL)})"
    rf"(?:\s*(?:[x×/,]|by)\s*({_nameless(AXIS_LABEL)}))?\s*\)",
    re.IGNORECASE,
)
UNIT_AFTER_BRACKET = re.compile(rf"\s*\)\s*{UNIT}", re.IGNORECASE)
SUB_UNIT = re.compile(
    r"\bsub[\s-]?(?:(?P<number>\d+(?:[.,]\d+)?)\s?-?\s?(?P<unit>mm|cm|millimet(?:er|re)s?|centimet(?:er|re)s?)"
    r"|(?P<bare>cm|centimet(?:er|re|ric))s?)\b",
    re.IGNORECASE,
)

LIST_GAP = re.compile(r"\s*,?\s*(?:and|or|&|\+)\s*", re.IGNORECASE)
COMMA_GAP = re.compile(r"\s*,\s*")
RANGE_GAP = re.compile(r"\s*(?:-|–|—|−|\bto\b)\s*", re.IGNORECASE)
ARROW_GAP = re.compile(r"\s*(?:→|⟶|->|=>|-->)\s*")
PRIOR_GAP = re.compile(
    r"\s*[(\[,;]?\s*(?:(?:previously|prior|previous|prev\.?|formerly|was|from|compared|to|with|versus|vs\.?)[\s:]*){1,3}",
    re.IGNORECASE,
)
# A number after one of these is a name, not a length: it never borrows the unit of the next number.
NAMES_A_NUMBER = re.compile(
    r"\b(?:segments?|levels?|series|images?|slices?|ribs?|stations?|no\.?|nr\.?|grade|type|zones?|lobes?|stage|birads|lung-rads|"
    r"vertebrae?|[ltcs]|bi-rads|phase|day|age|aged|year)\s*$",
    re.IGNORECASE,
)

_SERIES = r"(?:series|ser|se|srs|s)\.?\s?[:#=]?\s?"
_IMAGE = r"(?:images?|imgs?|ims?|i|slices?)\.?\s?(?:nos?\.?\s?|numbers?\s?)?[:#=]?\s?"
_COUNT = r"(?:\s?/\s?\d+(?!\d))?"  # "image 162/343": the 162nd of 343
_NOT_LENGTH = r"(?![\d.,]*\d)(?!\s?-?\s?(?:mm|cm|milli|centi)|\s?[x×]\s?\d)"
_FIRST = rf"(?P<first>\d{{1,5}}){_COUNT}"
_LAST = rf"(?:\s?(?:-|–|—|to|through|\bto\b)\s?(?P<last>\d{{1,5}}){_NOT_LENGTH})?"
_MORE = rf"(?P<more>(?:\s?(?:,|and|&|,\s?and)\s?\d{{1,5}}\b{_NOT_LENGTH})*)"
REFERENCES = tuple(
    re.compile(pattern, re.IGNORECASE)
    for pattern in (
        rf"\b{_SERIES}(?P<series>\d{{1,5}})\s?[,;/:]?\s?(?:and\s|at\s|on\s)?\(?{_IMAGE}{_FIRST}{_LAST}{_NOT_LENGTH}{_MORE}",
        rf"\b{_IMAGE}{_FIRST}{_LAST}{_NOT_LENGTH}\s?,?\s?(?:of|on|in|from)?\s?(?:the\s)?{_SERIES}(?P<series>\d{{1,5}})\b",
        rf"\bseries\s?/\s?images?\s?:?\s?(?P<series>\d{{1,5}})\s?/\s?(?P<first>\d{{1,5}}){_LAST}{_NOT_LENGTH}(?P<more>)",
        rf"\b(?:images?|imgs?|im\.?|slices?)\s?(?:nos?\.?\s?|numbers?\s?)?[:#=]?\s?{_FIRST}{_LAST}{_NOT_LENGTH}{_MORE}",
    )
)
BARE_REFERENCE = re.compile(
    r"[(\[]\s?(?P<series>\d{1,3})\s?[/:–-]\s?(?P<first>\d{1,4})(?:\s?[–-]\s?(?P<last>\d{1,4}))?\s?[)\]]"
)
LENGTH_NEAR = re.compile(r"\d[\s-]?(?:mm|cm|millimet|centimet)[^.;]*$", re.IGNORECASE)
AFTER_DATE_WORD = re.compile(r"\b(?:on|dated|from|of|since|at)\s*$", re.IGNORECASE)

_MONTH = r"(?:jan|feb|mar|apr|may|jun|jul|aug|sept?|oct|nov|dec)[a-z]*\.?"
DATE = re.compile(
    r"\[DATE[^\]]*\]"
    r"|\b\d{1,2}[/.-]\d{1,2}[/.-](?:19|20)?\d{2}\b"
    r"|\b(?:19|20)\d{2}[/.-]\d{1,2}(?:[/.-]\d{1,2})?\b"
    rf"|\b(?:\d{{1,2}}(?:st|nd|rd|th)?\s+)?{_MONTH}\s+(?:\d{{1,2}}(?:st|nd|rd|th)?,?\s+)?(?:19|20)\d{{2}}\b"
    r"|\b\d{1,2}/(?:19|20)\d{2}\b"
    r"|(?<=\bin\s)(?:19|20)\d{2}\b",
    re.IGNORECASE,
)
CLOCK = re.compile(r"\b\d{1,2}:\d{2}(?::\d{2})?\s?(?:am|pm|h)?\b(?!\s?[)\]])", re.IGNORECASE)
