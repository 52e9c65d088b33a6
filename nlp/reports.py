"""Tables of reports, from a file or from memory, as a stream of :class:`~nlp.types.Report`.

Everything is read as text, so that leading zeros stay. A file is read once for its header, at the call, and then row by
row; no table is held in memory here.
"""

from __future__ import annotations

import csv
import json
import re
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from datetime import date, datetime
from math import isnan
from pathlib import Path
from typing import Any

from nlp.types import Report, ReportError

Row = Mapping[str, object]
_Mapping = tuple[dict[str, str], tuple[str, ...]]
OnError = Callable[[ReportError, int], None]

_NEEDED = ("report_id", "text")
_KNOWN = (*_NEEDED, "accession_number", "study_instance_uid", "patient_id", "study_date", "language", "status")
_ALSO_WRITTEN = {
    "accession_numbers": "accession_number",
    "accessionnumber": "accession_number",
    "study_instance_uids": "study_instance_uid",
    "studyinstanceuid": "study_instance_uid",
    "study_uid": "study_instance_uid",
    "patientid": "patient_id",
    "studydate": "study_date",
    "reportid": "report_id",
}
_IDENTIFYING = re.compile(
    r"(?:^|_)(?:names?|surname|forename|initials|birth\w*|dob|born|mrn|ssn|nhs\w*|insurance\w*|social_security\w*|address|street|"
    r"city|zip|postcode|postal\w*|phone|telephone|mobile|fax|e?mail|physicians?|doctor|radiologist|referr\w*|requester|"
    r"requesting\w*|author\w*|reader\w*|operator\w*|technologist|signed\w*|dictated\w*|other_patient_ids?|(?:visit|encounter|"
    r"admission|case|order|account|hospital|medical_record|patient)_?(?:id|number|no|nr|code)s?|institution\w*|department|ward|"
    r"clinician|consultant|surgeon|gp|attending|resident|provider|requestor|ordering\w*|interpreting\w*|transcri\w*|guardian|"
    r"(?:verified|approved|reported|reviewed)_by|next_of_kin|contact\w*|employer|nachname|vorname|familienname|geburts\w*|"
    r"nom|prenom|apellidos?|nombre|cognome|nome)(?:_|$)|^(?:patient|pat|clinic|hospital)$"
)
_COLUMN_NAME = re.compile(r"[a-z][a-z_.-]{0,24}", re.IGNORECASE)  # of a form that can be shown
_DAY = re.compile(r"(?P<year>\d{4})(?P<dash>-?)(?P<month>\d{2})(?P=dash)(?P<day>\d{2})(?:[T ]\d{2}:\d{2}.*)?")
_DELIMITERS = ",;\t"
_JSON_SUFFIXES = {".jsonl", ".ndjson"}
_CSV_SUFFIXES = {".csv", ".tsv", ".txt"}


@dataclass(frozen=True, slots=True)
class _Table:
    """A table that can be streamed: a name for messages, its columns as found, and its rows."""

    name: str
    columns: tuple[str, ...]
    rows: Callable[[], Iterator[Row | ReportError]]


@dataclass(frozen=True, slots=True)
class _File:
    """A file and what messages call it: its own name may be a patient's."""

    path: Path
    name: str


def read_reports(source: object, *, on_error: OnError | None = None) -> Iterator[Report]:
    """Return the reports of a table, in its order, as a stream.

    Parameters
    ----------
    source
        The path of a CSV file (UTF-8, with or without byte order mark; comma, semicolon or tab; quoted line breaks) or
        of a JSON Lines file, a list of such paths, a ``pandas.DataFrame``, a ``pyarrow.Table``, a ``datasets.Dataset``,
        or an iterable of ``Report``, which passes through. Columns ``report_id`` and ``text`` are needed;
        ``accession_number`` and ``study_instance_uid`` (several separated by ``;``), ``patient_id``, ``study_date``
        (YYYY-MM-DD or YYYYMMDD), ``language`` and ``status`` are used where they are there. The values of other columns
        with an identifying name (``patient_name``, ``birth_date``, ``referring_physician`` ...) become
        ``Report.identifiers``. Column names are compared without regard to case, and spaces count as underscores.
    on_error
        Called with the error and the row's number (1 is the first row of data, counted over all of ``source``) for each
        row that cannot be used: no ``report_id``, an id that was there before (the first is kept), no text, an
        impossible date, broken JSON. Without it the first such row raises.

    Raises
    ------
    ReportError
        At the call: a file that is absent or of an unknown kind, or a table without the needed columns. While
        streaming: a file that is not UTF-8; and, without ``on_error``, an unusable row. Messages
        number files and rows, and never quote a value or a file's name.
    """
    tables = _tables(source)
    if tables is None:
        return _passed_through(source, on_error)
    for table in tables:
        _check_columns(table)
    return _stream(tables, on_error)


def _tables(source: object) -> list[_Table] | None:
    """The tables of a source; None for reports that are reports already."""
    if isinstance(source, (str, Path)):
        return [_file_table(_File(Path(source), "the reports file"))]
    kind = f"{type(source).__module__}.{type(source).__qualname__}"
    if kind.startswith("pandas.") and kind.endswith("DataFrame"):
        return [_frame_table(source)]
    if kind.startswith("pyarrow."):
        return [_arrow_table(source)]
    if kind.startswith("datasets."):
        return [_dataset_table(source)]
    if isinstance(source, Sequence) and source and all(isinstance(item, (str, Path)) for item in source):
        names = [f"reports file {number} of {len(source)}" for number in range(1, len(source) + 1)]
        return [_file_table(_File(Path(str(item)), name)) for item, name in zip(source, names, strict=True)]
    return None


def _passed_through(source: object, on_error: OnError | None) -> Iterator[Report]:
    if not isinstance(source, Iterable):
        raise ReportError(
            f"cannot read reports from a {type(source).__name__}; give a path, a list of paths, a pandas.DataFrame, a "
            "pyarrow.Table, a datasets.Dataset or an iterable of nlp.Report"
        )
    return _unique(_only_reports(source), on_error)


def _only_reports(source: Iterable[object]) -> Iterator[Report]:
    for item in source:
        if not isinstance(item, Report):
            raise ReportError(f"expected nlp.Report objects, got a {type(item).__name__}")
        yield item


def _stream(tables: Sequence[_Table], on_error: OnError | None) -> Iterator[Report]:
    def reports() -> Iterator[Report | ReportError]:
        for table in tables:
            known: dict[tuple[str, ...], _Mapping] = {}
            for row in table.rows():
                if isinstance(row, ReportError):
                    yield row
                    continue
                columns = tuple(row)  # lines of JSON need not all have the same ones
                if columns not in known:
                    known[columns] = _mapping(table.name, columns)
                yield _report(row, *known[columns])

    return _unique(reports(), on_error)


def _unique(items: Iterable[Report | ReportError], on_error: OnError | None) -> Iterator[Report]:
    """The usable reports; each other row's error, with its number, to ``on_error``."""
    seen: set[str] = set()
    for number, item in enumerate(items, start=1):
        error = item if isinstance(item, ReportError) else None
        if isinstance(item, Report) and item.report_id in seen:
            error = ReportError(
                "report_id was already used by an earlier row; it must be unique, the first row is kept"
            )
        if isinstance(item, Report) and not _is_unicode(item):
            error = ReportError("the row holds half a surrogate pair, which is no text; export it again as UTF-8")
        if isinstance(item, Report) and error is None:
            seen.add(item.report_id)
            yield item
        elif error is not None:
            if on_error is None:
                raise ReportError(f"row {number}: {error}")
            on_error(error, number)


def _is_unicode(report: Report) -> bool:
    """Whether a report can be written: JSON may escape halves of surrogate pairs, which no file can hold."""
    texts = (report.report_id, report.text, report.language, report.patient_id or "")
    return all(text.isascii() or not any("\ud800" <= c <= "\udfff" for c in text) for text in texts)


def _file_table(file: _File) -> _Table:
    suffix = file.path.suffix.lower()
    if not file.path.is_file():
        raise ReportError(f"{file.name} is not there; check its path")
    if suffix in _JSON_SUFFIXES:
        first = next(_json_rows(file), None)
        columns = tuple(first) if isinstance(first, Mapping) else ()
        return _Table(file.name, columns, lambda: _json_rows(file))
    if suffix in _CSV_SUFFIXES:
        return _Table(file.name, _csv_columns(file), lambda: _csv_rows(file))
    raise ReportError(
        f"{file.name} is neither CSV ({', '.join(sorted(_CSV_SUFFIXES))}) nor JSON Lines (.jsonl, .ndjson)"
    )


def _csv_columns(file: _File) -> tuple[str, ...]:
    with file.path.open(encoding="utf-8-sig", newline="") as lines:
        try:
            return tuple(next(_csv_reader(lines, file), ()))
        except csv.Error as error:
            raise ReportError(f"the first line of {file.name} is not readable as CSV ({error})") from error


def _csv_reader(lines: Iterable[str], file: _File) -> Iterator[list[str]]:
    # Strict: else a quote that is never closed swallows the next rows, and one patient's text gets another's keys.
    return csv.reader(_decoded(lines, file), delimiter=_delimiter(file), strict=True)


def _csv_rows(file: _File) -> Iterator[Row | ReportError]:
    with file.path.open(encoding="utf-8-sig", newline="") as lines:
        counted = _Counted(lines)
        rows = _csv_reader(counted, file)
        columns = next(rows, [])
        while True:
            begin = counted.done + 1
            try:
                values = next(rows, None)
            except csv.Error as error:
                where = f"line {begin}" if counted.done <= begin else f"lines {begin} to {counted.done}"
                yield ReportError(f"{where} of {file.name} cannot be read as CSV ({error}); is a quote not closed?")
                continue
            if values is None:
                return
            if not values:
                continue
            if len(values) != len(columns):
                yield ReportError(f"the row has {len(values)} fields, the header {len(columns)}; is a text unquoted?")
            else:
                yield dict(zip(columns, values, strict=True))


class _Counted:
    """The lines of a file, and how many of them were read."""

    def __init__(self, lines: Iterable[str]) -> None:
        self._lines, self.done = iter(lines), 0

    def __iter__(self) -> Iterator[str]:
        for line in self._lines:
            self.done += 1
            yield line


def _delimiter(file: _File) -> str:
    with file.path.open(encoding="utf-8-sig", newline="") as lines:
        header = next(_decoded(lines, file), "")
    return max(_DELIMITERS, key=header.count)


def _json_rows(file: _File) -> Iterator[Row | ReportError]:
    with file.path.open(encoding="utf-8-sig") as lines:
        for line in _decoded(lines, file):
            if not line.strip():
                continue
            try:
                row = json.loads(line)
            except json.JSONDecodeError as error:
                yield ReportError(f"the line is not valid JSON ({error.msg} at column {error.colno})")
                continue
            yield row if isinstance(row, dict) else ReportError("the line holds no JSON object")


def _decoded(lines: Iterable[str], file: _File) -> Iterator[str]:
    try:
        yield from lines
    except UnicodeDecodeError as error:
        raise ReportError(
            f"{file.name} is not UTF-8 (first bad byte at {error.start} of a block); convert it first, for example "
            f"with: iconv -f WINDOWS-1252 -t UTF-8 FILE"
        ) from error


def _frame_table(frame: Any) -> _Table:
    columns = tuple(str(column) for column in frame.columns)

    def rows() -> Iterator[Row]:
        for values in frame.itertuples(index=False, name=None):
            yield dict(zip(columns, values, strict=True))

    return _Table("the DataFrame", columns, rows)


def _arrow_table(table: Any) -> _Table:
    def rows() -> Iterator[Row]:
        for batch in table.to_batches(max_chunksize=1024):
            yield from batch.to_pylist()

    return _Table("the pyarrow.Table", tuple(table.column_names), rows)


def _dataset_table(dataset: Any) -> _Table:
    if isinstance(dataset, Mapping):
        raise ReportError("a datasets.DatasetDict has several splits; give one of them")
    return _Table("the Dataset", tuple(dataset.column_names or ()), lambda: iter(dataset))


def _check_columns(table: _Table) -> None:
    mapping, _ = _mapping(table.name, table.columns)
    missing = [name for name in _NEEDED if name not in mapping]
    if missing:
        # Where not one column is known, the first line is no header: it is the first patient and their report.
        shown = [column for column in table.columns if _COLUMN_NAME.fullmatch(column)]
        found = f"{len(table.columns)} columns, such as {shown}" if mapping else "no line with column names at its top"
        raise ReportError(
            f"{table.name} lacks {' and '.join(repr(name) for name in missing)}; it has {found}; needed are "
            f"{list(_NEEDED)}, and accession_number, study_instance_uid or patient_id with study_date to join a report "
            "to its study"
        )


def _mapping(name: str, columns: Sequence[str]) -> _Mapping:
    """Our column names to the table's, and the table's other identifying columns."""
    mapping: dict[str, str] = {}
    identifying = []
    for column in columns:
        plain = re.sub(r"[\s.-]+", "_", re.sub(r"(?<=[a-z])(?=[A-Z])", "_", column.strip())).lower()
        known = _ALSO_WRITTEN.get(plain, plain)
        if known in _KNOWN:
            if known in mapping:
                raise ReportError(f"{name} has two columns for {known!r}: {mapping[known]!r} and {column!r}")
            mapping[known] = column
        elif _IDENTIFYING.search(plain):
            identifying.append(column)
    return mapping, tuple(identifying)


def _report(row: Row, mapping: Mapping[str, str], identifying: Sequence[str]) -> Report | ReportError:
    values = {name: _texts(row.get(column)) for name, column in mapping.items()}
    if not any(text.strip() for text in values.get("text", ())):
        return ReportError("the text is empty")
    first = {name: found[0].strip() if found else "" for name, found in values.items()}
    if not first.get("report_id"):
        return ReportError("report_id is empty; every report needs one that is unique in its source")
    study_date = _date(first.get("study_date", ""))
    if isinstance(study_date, ReportError):
        return study_date
    return Report(
        report_id=first["report_id"],
        text="".join(values["text"]),
        accession_numbers=_several(values.get("accession_number", ())),
        study_instance_uids=_several(values.get("study_instance_uid", ())),
        patient_id=first.get("patient_id") or None,
        study_date=study_date,
        language=first.get("language") or "en",
        status=first.get("status") or "final",
        identifiers=tuple(
            dict.fromkeys(text.strip() for column in identifying for text in _texts(row.get(column)) if text.strip())
        ),
    )


def _texts(value: object) -> tuple[str, ...]:
    """A cell as text; empty where nothing stands. Only a list has several."""
    if isinstance(value, str):
        return (value,)
    if isinstance(value, (list, tuple)):
        return tuple(text for item in value for text in _texts(item))
    if value is None or type(value).__name__ in {"NAType", "NaTType"}:
        return ()
    if isinstance(value, float):
        if isnan(value):
            return ()
        return (str(int(value)) if value.is_integer() else str(value),)
    if isinstance(value, (date, datetime)):
        return (value.isoformat(),)
    return (str(value),)


def _several(cell: Iterable[str]) -> tuple[str, ...]:
    return tuple(dict.fromkeys(part.strip() for text in cell for part in text.split(";") if part.strip()))


def _date(written: str) -> date | ReportError | None:
    if not written:
        return None
    match = _DAY.fullmatch(written)
    try:
        if match is not None:
            return date(int(match["year"]), int(match["month"]), int(match["day"]))
    except ValueError:  # the 31st of February
        pass
    return ReportError("study_date is no date of the form YYYY-MM-DD or YYYYMMDD")
