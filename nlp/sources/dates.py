"""Days and times as sources write them, where only one reading is possible.

"03/04/2021" is the third of April or the fourth of March: it is not read.
"""

from __future__ import annotations

import re
from datetime import date, datetime, timedelta, timezone

from nlp.types import ReportError

_TIME = (
    r"(?:[T ,]*(?P<hour>\d{1,2})(?::?(?P<minute>\d{2})(?::?(?P<second>\d{2})(?:[.,:](?P<fraction>\d+))?)?)?"
    r"\s*(?P<half>[AaPp])?(?:(?<=[AaPp])\.?[Mm]\.?)?)?"
    r"\s*(?P<offset>Z|z|UTC|[+-]\d{2}:?\d{2})?"
)
_FORMS = tuple(
    re.compile(day + _TIME)
    for day in (
        r"(?P<year>\d{4})(?P<dash>[-/.]?)(?P<month>\d{2})(?P=dash)(?P<day>\d{2})",  # ISO 8601, DICOM, HL7
        r"(?P<day>\d{1,2})\.(?P<month>\d{1,2})\.(?P<year>\d{4})",  # with full stops the day comes first
        r"(?P<day>\d{1,2})[- ](?P<name>[A-Za-z]{3})[a-z]*[- ,]+(?P<year>\d{4})",  # 04-MAR-2021
        r"(?P<name>[A-Za-z]{3})[a-z]* +(?P<day>\d{1,2}),? +(?P<year>\d{4})",  # Mar 4 2021
    )
)
_MONTHS = ("jan", "feb", "mar", "apr", "may", "jun", "jul", "aug", "sep", "oct", "nov", "dec")


def parse_time(written: str) -> datetime | None:
    """Return a day and time, midnight where only the day is written; None where it is not unambiguously one.

    Aware where an offset from UTC is written, naive (the clock of the place) where none is.

    Examples
    --------
    >>> parse_time("20210304101500.25+0100").isoformat()
    '2021-03-04T10:15:00.250000+01:00'
    >>> parse_time("4.3.2021 10:15").isoformat()
    '2021-03-04T10:15:00'
    >>> parse_time("03/04/2021") is None
    True
    """
    match = next(filter(None, (form.fullmatch(written.strip()) for form in _FORMS)), None)
    if match is None:
        return None
    found = match.groupdict()
    try:
        month = int(found["month"]) if found.get("month") else _MONTHS.index(found["name"].lower()) + 1
        hour = int(found["hour"] or 0)
        if found["half"]:
            hour = hour % 12 + (12 if found["half"].lower() == "p" else 0)
        return datetime(
            int(found["year"]),
            month,
            int(found["day"]),
            hour,
            int(found["minute"] or 0),
            min(int(found["second"] or 0), 59),  # a leap second is written as 60
            int(f"{found['fraction'] or 0:0<6}"[:6]),
            _offset(found["offset"]),
        )
    except ValueError:  # the 31st of February
        return None


def parse_day(written: str, field: str) -> date | None:
    """Return a day, None where nothing is written.

    Raises
    ------
    ReportError
        Something else is written.
    """
    time = required_time(written, field)
    return None if time is None else time.date()


def required_time(written: str, field: str) -> datetime | None:
    """Return a day and time, None where nothing is written.

    Raises
    ------
    ReportError
        Something else is written; ``field`` names it.
    """
    if not written.strip():
        return None
    time = parse_time(written)
    if time is None:
        raise ReportError(
            f"{field} is no date of the form YYYY-MM-DD or YYYYMMDD (or DD.MM.YYYY, DD-MON-YYYY), with or without a "
            f"time; write it so, or leave it out with columns={{'{field}': None}}"
        )
    return time


def _offset(written: str | None) -> timezone | None:
    if not written:
        return None
    if written.upper() in {"Z", "UTC"}:
        return timezone.utc  # noqa: UP017 - one class for all offsets
    minutes = int(written[1:3]) * 60 + int(written[-2:])
    return timezone(timedelta(minutes=-minutes if written.startswith("-") else minutes))
