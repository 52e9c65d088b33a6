"""With which earlier studies a report says that it compares: the dates in its comparison section.

The text is read as it came, before the scrubber takes its dates out. A date can be written in ways that nobody can
read for certain (3/4/2021), so it is never believed by itself: it only chooses among the days on which the patient has
a study in the export, and of two readings the one counts that is such a day.
"""

from __future__ import annotations

import re
from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from datetime import date, timedelta

from nlp.sections import split_sections

_MONTHS = {
    name: number
    for number, names in enumerate(
        (
            "jan january januar januari",
            "feb february februar februari",
            "mar march märz maerz mrz maart mrt",
            "apr april",
            "may mai mei",
            "jun june juni",
            "jul july juli",
            "aug august augustus",
            "sep sept september",
            "oct october okt oktober",
            "nov november",
            "dec december dez dezember",
        ),
        start=1,
    )
    for name in names.split()
}
_NAMED = "(?P<name>" + "|".join(sorted(_MONTHS, key=len, reverse=True)) + r")\b\.?"
_YEAR = r"(?P<year>(?:19|20)\d{2})"
_DATES = tuple(
    re.compile(rf"(?<![\w./-]){form}(?![\w/-]|\.\d)", re.IGNORECASE)
    for form in (
        rf"{_YEAR}(?P<mark>[-./]?)(?P<month>0[1-9]|1[0-2])(?P=mark)(?P<day>[0-3]\d)",
        r"(?P<first>\d{1,2})(?P<mark>[-./])(?P<second>\d{1,2})(?P=mark)(?P<year>(?:19|20)?\d{2})",
        rf"(?P<day>\d{{1,2}})(?:st|nd|rd|th|\.)?[\s-]*(?:of\s+)?{_NAMED},?[\s-]*(?P<year>(?:19|20)?\d{{2}})",
        rf"{_NAMED}\s*(?P<day>\d{{1,2}})(?:st|nd|rd|th)?(?:,\s*|\s+){_YEAR}",
        rf"{_NAMED},?[\s/-]*{_YEAR}",
        rf"(?P<month>0?[1-9]|1[0-2])[/.]{_YEAR}",
    )
)
_NONE = re.compile(
    r"(?:none|nil|n/?a|not\s+available|no\s+(?:relevant\s+|available\s+)?(?:prior|previous|earlier|comparison)\w*)\b"
    r"(?:\s+(?:stud(?:y|ies)|exam\w*|images?|imaging|ct|scans?|is|are|for|available|comparison|at\s+this\s+time))*\s*[.;]?",
    re.IGNORECASE,
)
_BLANK_LINE = re.compile(r"\n[ \t]*\r?\n")
_CENTURY_FROM = 70  # of years written with two digits

Days = tuple[date, date]
"""First and last day that a date can mean."""


@dataclass(frozen=True, slots=True)
class StatedComparison:
    """What a report says of the studies it compares with.

    ``section`` holds each date of its comparison section, ``anywhere`` those of all its text, each with all its
    readings; ``none`` is True where the section says that there is nothing to compare with.
    """

    section: tuple[tuple[Days, ...], ...] = ()
    anywhere: tuple[tuple[Days, ...], ...] = ()
    none: bool = False

    def chooses(self, before: date) -> bool:
        """Whether the section names a day before ``before``, or says that there is none."""
        return any(self._is_before(readings, before) for readings in self.section) or self.none

    def names(self, day: date, before: date) -> bool:
        """Whether any of the dates can mean this day."""
        dates = (readings for readings in self.anywhere if self._is_before(readings, before))
        return any(first <= day <= last for readings in dates for first, last in readings)

    @staticmethod
    def _is_before(readings: Iterable[Days], before: date) -> bool:
        return any(first < before for first, _ in readings)


def read_comparison(text: str) -> StatedComparison:
    """Read the dates of a report, and whether its comparison section says that it compares with nothing.

    Parameters
    ----------
    text
        As written, not scrubbed.

    Returns
    -------
    StatedComparison
        Empty where the report has no comparison section (``nlp.split_sections``), or one without a full date or a
        month: then nothing is known, and a year or "prior CT" chooses no study.
    """
    parts = [text[s.start : s.end] for s in split_sections(text) if s.name == "comparison"]
    # Where the next heading is not recognised, the section would run on into the findings.
    parts = [_BLANK_LINE.split(part, maxsplit=1)[0] for part in parts]
    section = tuple(readings for part in parts for readings in _dates(part))
    none = bool(parts) and not section and all(_NONE.fullmatch(part.strip()) for part in parts)
    return StatedComparison(section, _dates(text) if section else (), none)


def _dates(text: str) -> tuple[tuple[Days, ...], ...]:
    """Each date of a text with its readings; one written in full is not read again as a month."""
    found: list[tuple[Days, ...]] = []

    def take(match: re.Match[str]) -> str:
        readings = tuple(dict.fromkeys(_readings(match)))
        if not readings:
            return match.group()
        found.append(readings)
        return "|" * len(match.group())

    for pattern in _DATES:
        text = pattern.sub(take, text)
    return tuple(found)


def _readings(match: re.Match[str]) -> Iterator[Days]:
    found = match.groupdict()
    year = int(found["year"])
    if len(found["year"]) == 2:
        year += 1900 if year >= _CENTURY_FROM else 2000
    if "first" in found:
        first, second = int(found["first"]), int(found["second"])
        yield from _day(year, second, first)
        if found["mark"] != ".":  # with full stops the day is first
            yield from _day(year, first, second)
        return
    month = _MONTHS[found["name"].lower()] if "name" in found else int(found["month"])
    if "day" in found:
        yield from _day(year, month, int(found["day"]))
    else:
        yield date(year, month, 1), date(year + month // 12, month % 12 + 1, 1) - timedelta(days=1)


def _day(year: int, month: int, day: int) -> Iterator[Days]:
    try:
        found = date(year, month, day)
    except ValueError:
        return
    yield found, found
