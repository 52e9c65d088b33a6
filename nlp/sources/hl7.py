"""HL7 version 2 result messages (ORU^R01): one or many a file, with or without MLLP frames and batch headers.

One report is one OBR with the OBX that follow it. Messages of other types are passed over.
"""

from __future__ import annotations

import base64
import binascii
import io
import re
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass, field, replace
from datetime import datetime
from functools import partial

from nlp.sources.base import FileKind, Item, SourceFile, Stream, decoded
from nlp.sources.column_names import section_of
from nlp.sources.dates import parse_time
from nlp.sources.headings import CODED, joined
from nlp.sources.hl7_syntax import Segment, parse_message, split_messages
from nlp.sources.html_text import html_to_text
from nlp.sources.statuses import WITHDRAWN, normal_status
from nlp.types import Report, ReportError

_BEGINS = re.compile(rb"(?:\xef\xbb\xbf|[\x0b\s])*(?:MSH|FHS|BHS)[^A-Za-z0-9\s]")
_TEXT_TYPES = {"TX", "FT", "ST", ""}
_WITHDRAWN_LINES = {"D", "W", "X"}  # HL7 table 0085
_STATUSES = {
    **dict.fromkeys("OIS", "registered"),
    "A": "partial",
    **dict.fromkeys("PR", "preliminary"),
    "F": "final",
    **dict.fromkeys("CK", "corrected"),
    "M": "amended",
    "X": "cancelled",
}  # HL7 table 0123, in the words of FHIR
_SUFFIXES = {"GDT": "findings", "IMP": "impression", "ADT": "addendum", "HIS": "history", "REC": "recommendation"}
_STUDY_UID = {"113014", "110180"}  # DICOM Study, Study Instance UID (PS3.16), as IHE sends them in an OBX
_NAMES = {  # fields that hold persons' names, by segment; (field, first component of the name)
    "PID": ((5, 1), (6, 1), (9, 1)),
    "NK1": ((2, 1),),
    "PV1": ((7, 2), (8, 2), (9, 2), (17, 2)),
    "ORC": ((10, 2), (11, 2), (12, 2), (19, 2)),
    "OBR": ((10, 2), (16, 2), (28, 2), (32, 2), (33, 2), (34, 2), (35, 2)),
    "OBX": ((16, 2),),
}
_NUMBERS = {"PID": (2, 3, 4, 7, 13, 14, 18, 19, 20), "PV1": (19,)}
_PREFERRED_NUMBERS = ("MR", "PI", "PT")


@dataclass(slots=True)
class _Group:
    """An OBR with what belongs to it."""

    order: Segment
    control: Segment | None
    results: list[Segment] = field(default_factory=list)
    others: list[Segment] = field(default_factory=list)


def _recognises(file: SourceFile, head: bytes) -> bool:
    try:
        start = head.decode(file.text_encoding(head), errors="replace").encode("utf-8")
    except (ReportError, LookupError):
        start = head
    return _BEGINS.match(start) is not None


def _open(file: SourceFile) -> Stream:
    return partial(_reports, file)


def _reports(file: SourceFile) -> Iterator[Item]:
    head = file.head()
    found = False
    with file.reading(), file.open() as stream:
        marked = head.startswith((b"\xff\xfe", b"\xfe\xff")) or (file.encoding or "").startswith(("utf-16", "utf-32"))
        content = io.BytesIO(decoded(stream.read(), None, file.encoding).encode()) if marked else stream
        for message in split_messages(content):
            try:
                segments = parse_message(message, "utf-8" if marked else file.encoding)
            except ReportError as error:
                found = True
                yield error
                continue
            if segments[0].first(9) == "ORU":
                found = True
                yield from _of_message(segments)
    if not found:
        yield ReportError(f"{file.name} holds no ORU message: HL7 messages of other types hold no reports")


def _of_message(segments: Sequence[Segment]) -> Iterator[Item]:
    """The reports of one message, which may be of several patients."""
    starts = [place for place, segment in enumerate(segments) if segment.name == "PID"] or [1]
    for start, end in zip(starts, [*starts[1:], len(segments)], strict=True):
        yield from _of_patient(segments[0], segments[start:end])


def _of_patient(header: Segment, segments: Sequence[Segment]) -> Iterator[Item]:
    """The reports of one patient, and why an order gave none."""
    person = [segment for segment in segments if segment.name in {"PID", "PV1", "NK1"}]
    try:
        groups = list(_groups(segments))
    except ReportError as error:
        yield error
        return
    reports: list[Report] = []
    broken = False
    for group in groups:
        try:
            reports.append(_report(header, person, group, _text(group)))
        except ReportError as error:
            broken = True
            yield error
    united = _united(reports)
    yield from united
    if not (united or broken):
        yield ReportError("no OBX of the message holds text (TX, FT, ST, or ED as text)")


def _united(reports: Iterable[Report]) -> list[Report]:
    """The reports of one message.

    Orders of one number are parts of one report; so are orders that repeat one text; an order without a text belongs to
    the report before it, or else to the first.
    """
    spoken: list[Report] = []
    silent: list[Report] = []
    withdrawn: list[Report] = []
    for report in reports:
        same = next((place for place, other in enumerate(spoken) if _is_one(other, report)), None)
        if not report.text.strip() and report.status in WITHDRAWN:
            withdrawn.append(report)
        elif not report.text.strip() and spoken:
            spoken[-1] = _with_keys(spoken[-1], report)
        elif not report.text.strip():
            silent.append(report)
        elif same is None:
            spoken.append(report)
        else:
            whole = spoken[same].text
            text = whole if report.text in whole else f"{whole}\n\n{report.text}"
            spoken[same] = replace(_with_keys(spoken[same], report), text=text)
    for report in silent if spoken else ():
        spoken[0] = _with_keys(spoken[0], report)
    return [*spoken, *withdrawn]


def _is_one(report: Report, other: Report) -> bool:
    return report.version_key == other.version_key or report.text == other.text


def _with_keys(report: Report, other: Report) -> Report:
    return replace(
        report,
        accession_numbers=_unique((*report.accession_numbers, *other.accession_numbers)),
        study_instance_uids=_unique((*report.study_instance_uids, *other.study_instance_uids)),
        identifiers=_unique((*report.identifiers, *other.identifiers)),
    )


def _groups(segments: Iterable[Segment]) -> Iterator[_Group]:
    control: Segment | None = None
    group: _Group | None = None
    for segment in segments:
        if segment.name == "ORC":
            control = segment
        elif segment.name == "OBR":
            if group is not None:
                yield group
            group = _Group(segment, control)
            control = None
        elif segment.name == "OBX" and group is None:
            raise ReportError("an OBX stands before any OBR: the message has no OBR segment that it belongs to")
        elif segment.name == "OBX" and group is not None:
            if len(segment.fields) < 4:
                raise ReportError(
                    f"an OBX segment has only {len(segment.fields) - 1} fields; the message is broken off"
                )
            group.results.append(segment)
        elif group is not None:
            group.others.append(segment)
    if group is not None:
        yield group


def _report(header: Segment, person: Sequence[Segment], group: _Group, text: str) -> Report:
    order, control = group.order, group.control
    number = order.first(3) or (control.first(3) if control is not None else "") or order.first(18)
    if not number:
        raise ReportError("the OBR has no filler order number (OBR-3, ORC-3); every report needs one")
    patient = next((segment for segment in person if segment.name == "PID"), None)
    performed = parse_time(order.first(7))
    lines = [time for result in group.results if (time := parse_time(result.first(14))) is not None]
    issued = parse_time(order.first(22)) or max(lines, key=datetime.timestamp, default=None)
    space = order.first(3, 2)
    return Report(
        report_id=number,
        text=text,
        accession_numbers=_accession_numbers(group),
        study_instance_uids=_study_uids(group),
        patient_id=_patient_id(patient),
        study_date=performed.date() if performed is not None else None,
        language=_language(header),
        status=_status(group),
        identifiers=_identifiers([*person, *([control] if control is not None else []), order, *group.results]),
        version_key=f"{number}^{space}" if space else number,
        issued_at=issued or parse_time(header.first(7)),
    )


def _text(group: _Group) -> str:
    """The text of an order: OBX and repetitions are lines, sections become headings."""
    parts: list[tuple[str, str]] = []
    kept = [result for result in group.results if result.first(11) not in _WITHDRAWN_LINES]
    unread = ""
    for result in kept or group.results:  # a report that is withdrawn as a whole keeps its text
        kind, heading = result.first(2), _heading(result)
        if result.first(3) in _STUDY_UID:
            continue
        if kind == "ED":
            for repeat in result.repeats(5):
                text, unread = _encapsulated(result, repeat, unread)
                parts.append((heading, text))
        elif kind in _TEXT_TYPES:
            lines = [result.unescaped(repeat) for repeat in result.repeats(5)] or [""]
            parts.append((heading, "\n".join(lines)))
    if unread and not any(text.strip() for _, text in parts):
        raise ReportError(f"the report is only there as {unread} (OBX-5), which cannot be read; send it as text")
    return joined(_merged(parts)).strip("\n")


def _merged(parts: Iterable[tuple[str, str]]) -> Iterator[tuple[str, str]]:
    """Successive lines under one heading as one part, empty lines between them kept."""
    heading, lines = "", list[str]()
    for following, line in parts:
        if following != heading and any(text.strip() for text in lines):
            yield heading, "\n".join(lines).rstrip("\n")
            lines = []
        heading = following
        lines.append(line)
    yield heading, "\n".join(lines)


def _encapsulated(result: Segment, repeat: str, unread: str) -> tuple[str, str]:
    """The text of encapsulated data (ED: source, type, subtype, encoding, data), and what could not be read."""
    parts = repeat.split(result.delimiters.component)
    kind, subtype, coding, data = [*(result.unescaped(part).strip() for part in parts[1:5]), "", "", "", ""][:4]
    subtype = subtype.lower().removeprefix("x-").removeprefix("hl7-")
    if subtype not in {"", "plain", "text", "txt", "html", "htm", "xhtml"} or kind.lower() in {"image", "audio"}:
        return "", unread or "".join(filter(str.isalnum, subtype))[:10].upper() or "an image"
    content = data
    if coding.lower() in {"base64", "hex"}:
        try:
            packed = "".join(data.split())
            raw = base64.b64decode(packed, validate=True) if coding.lower() == "base64" else bytes.fromhex(packed)
        except (binascii.Error, ValueError):
            raise ReportError(f"the encapsulated data of OBX-5 are not valid {coding.lower()}") from None
        content = decoded(raw, result.charset if result.charset != "ascii" else None, None)
    return (html_to_text(content) if "htm" in subtype else content.replace("\r\n", "\n").replace("\r", "\n")), unread


def _heading(result: Segment) -> str:
    """The section that an OBX-3 names: by a suffix ("71250&IMP"), a LOINC code, or its name."""
    mark = result.delimiters.subcomponent
    repeats = result.repeats(3)
    parts = repeats[0].split(result.delimiters.component) if repeats else []
    for part in parts:
        suffix = part.rpartition(mark)[2].strip().upper()
        if mark and mark in part and suffix in _SUFFIXES:
            return _SUFFIXES[suffix]
    for part in parts:
        if part.strip() in CODED and not part.strip().startswith("121"):
            return CODED[part.strip()]
    names = [part for part in parts[:2] if part.strip().lower() not in {"", "narrative"}]  # the last is a whole report
    named = next(filter(None, map(section_of, names)), None)
    return named[0] if named is not None else ""


def _accession_numbers(group: _Group) -> tuple[str, ...]:
    order, control = group.order, group.control
    procedures = [segment.first(1) for segment in group.others if segment.name == "IPC"]
    own = (*procedures, order.first(18), order.first(3))
    return _unique(own) or _unique([control.first(3) if control is not None else ""])


def _study_uids(group: _Group) -> tuple[str, ...]:
    uids = [segment.first(1) for segment in group.others if segment.name == "ZDS"]
    uids += [segment.first(3) for segment in group.others if segment.name == "IPC"]
    uids += [result.first(5) for result in group.results if result.first(3) in _STUDY_UID]
    return _unique(uid for uid in uids if re.fullmatch(r"[0-2](?:\.\d+)+", uid))


def _patient_id(patient: Segment | None) -> str | None:
    """The medical record number of PID-3, else its first number, else PID-2."""
    if patient is None:
        return None
    numbers = [patient.components(repeat) for repeat in patient.repeats(3)]
    for sort in _PREFERRED_NUMBERS:
        for parts in numbers:
            if len(parts) > 4 and parts[4].upper() == sort and parts[0]:
                return parts[0]
    return next((parts[0] for parts in numbers if parts[0]), patient.first(2)) or None


def _status(group: _Group) -> str:
    """The status of the order (OBR-25, table 0123), else that of its lines (OBX-11, table 0085)."""
    lines = {result.first(11).upper() for result in group.results} - {""}
    if lines and lines <= _WITHDRAWN_LINES:
        return "entered-in-error"
    written = group.order.first(25)
    if written:
        return _STATUSES.get(written.upper(), normal_status(written))
    return next((_STATUSES[letter] for letter in "PRC" if letter in lines), "final")


def _language(header: Segment) -> str:
    written = header.first(19).lower()[:2]
    return written if re.fullmatch(r"[a-z]{2}", written) else "en"


def _identifiers(segments: Iterable[Segment]) -> tuple[str, ...]:
    """Names, numbers, birth date and street of the patient; names of the relatives and physicians."""
    found: list[str] = []
    for segment in segments:
        for place, first in _NAMES.get(segment.name, ()):
            for repeat in segment.repeats(place):
                whole = segment.components(repeat)
                if len(whole) == 1 and segment.delimiters.subcomponent in repeat:  # a name within a name field
                    whole = repeat.split(segment.delimiters.subcomponent)
                parts = whole[first - 1 : first + 2] if len(whole) > 1 or first == 1 else whole
                found.append("^".join(parts).strip("^"))
        for place in _NUMBERS.get(segment.name, ()):
            found += [segment.components(repeat)[0] for repeat in segment.repeats(place)]
        if segment.name == "PID":
            found += [segment.components(repeat)[0] for repeat in segment.repeats(11)]
    return _unique(found)


def _unique(values: Iterable[str]) -> tuple[str, ...]:
    return tuple(dict.fromkeys(value for value in values if value.strip()))


KIND = FileKind("HL7 v2 ORU", (".hl7", ".oru"), _recognises, _open)
