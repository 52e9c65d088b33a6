"""Rows of a table as reports."""

from __future__ import annotations

import re
from collections.abc import Iterable, Iterator, Mapping, Sequence
from datetime import date, datetime, time
from decimal import Decimal
from functools import lru_cache
from math import isnan
from pathlib import Path

from nlp.sources.base import Columns, Item, Row, SourceFile, Stream, Table, decoded, has_undecodable, undecodable
from nlp.sources.columns import ColumnMap, map_columns, missing, require_columns
from nlp.sources.dates import parse_day, required_time
from nlp.sources.headings import holds, joined
from nlp.sources.statuses import WITHDRAWN, normal_status
from nlp.types import Report, ReportError

_FLAGS = {"y", "yes", "true", "t", "1", "j", "ja", "n", "no", "false", "f", "0", "nein", "nee"}
_ABSENT = {"NAType", "NaTType"}


def reports_of(table: Table, given: Columns) -> Stream:
    """Return the reports of a table as a stream.

    Raises
    ------
    ReportError
        Now: the table lacks a needed column, or has two for one field.
    """
    found = map_columns(table.name, table.columns, given)
    require_columns(table.name, table.columns, found)

    @lru_cache(maxsize=64)
    def mapped(columns: tuple[str, ...]) -> ColumnMap:
        return map_columns(table.name, columns, {f: c for f, c in given.items() if _all_in(c, columns)})

    def stream() -> Iterator[Item]:
        for row in table.rows(found.columns):
            if isinstance(row, ReportError):
                yield row
                continue
            try:
                columns = tuple(row)  # lines of JSON need not all have the same ones
                yield _report(row, found if set(columns) <= set(table.columns) else mapped(columns), table)
            except ReportError as error:
                yield error

    return stream


def _all_in(given: str | Sequence[str] | None, columns: Sequence[str]) -> bool:
    return given is None or all(column in columns for column in ([given] if isinstance(given, str) else given))


def _report(row: Row, columns: ColumnMap, table: Table) -> Report:
    """Make a report of one row. Raises ReportError."""

    def cell(field: str) -> str:
        names = columns.fields.get(field, ())
        return next((text.strip() for name in names for text in cell_texts(row.get(name), table.encoding)), "")

    def cells(field: str) -> tuple[str, ...]:
        names = columns.fields.get(field, ())
        return _several(text for name in names for text in cell_texts(row.get(name), table.encoding))

    status = normal_status(cell("status"))
    text, appended = _text(row, columns, table)
    ids = [cell_texts(row.get(name), table.encoding) for name in columns.fields.get("report_id", ())]
    report_id = "/".join(text.strip() for texts in ids for text in texts[:1]) or (
        Path(cell("path")).stem if "report_id" not in columns.fields else ""
    )
    if not report_id:
        raise ReportError("report_id is empty; every report needs one that is unique in its source")
    if not text.strip() and status not in WITHDRAWN:
        raise ReportError("the text is empty")
    return Report(
        report_id=report_id,
        text=text,
        accession_numbers=cells("accession_number"),
        study_instance_uids=cells("study_instance_uid"),
        patient_id=cell("patient_id") or None,
        study_date=parse_day(cell("study_date"), "study_date"),
        language=_language(cell("language")) or columns.language or "en",
        status="appended" if appended and status == "final" else status,
        identifiers=_identifiers(row, columns, table),
        version_key=cell("version_key") or (report_id if columns.versioned else None),
        issued_at=required_time(cell("issued_at"), "issued_at"),
    )


def _language(written: str) -> str:
    """The language of a tag ("de-DE"), else what is written."""
    return re.sub(r"^([a-z]{2})[-_].*", r"\1", written.lower())


def _text(row: Row, columns: ColumnMap, table: Table) -> tuple[str, bool]:
    """The text of a row, and whether an addendum is part of it."""
    parts = [(heading, _cell_text(row.get(column), table.encoding)) for heading, column in columns.parts]
    parts = [(heading, text) for heading, text in parts if not _is_flag(heading, text)]
    whole = joined(parts) if columns.parts else _referenced_text(row, columns, table)
    more = [(heading, _cell_text(row.get(column), table.encoding)) for heading, column in columns.extra]
    more = [(heading, text) for heading, text in more if text.strip() and not _is_flag(heading, text)]
    unsaid = [(heading, text) for heading, text in more if not holds(whole, text)]
    if unsaid:
        whole = joined([("", whole), *unsaid])
    return whole, any(heading == "addendum" and text.strip() for heading, text in (*parts, *more))


def _is_flag(heading: str, text: str) -> bool:
    """Whether a cell under "addendum" only says whether there is one."""
    return heading == "addendum" and text.strip().lower() in _FLAGS


def _referenced_text(row: Row, columns: ColumnMap, table: Table) -> str:
    """The text of the file that a row names, relative to the folder of the table."""
    written = _cell_text(row.get(columns.fields["path"][0]), None).strip()
    if not written:
        raise ReportError("the text is empty: the row names no file")
    path = table.folder / written
    if not path.is_file():
        raise ReportError("the file that the row names is not there; its path counts from the folder of the table")
    return decoded(SourceFile(path, "the file that the row names").content(), None, table.encoding)


def _cell_text(value: object, encoding: str | None) -> str:
    return "\n".join(cell_texts(value, encoding))


def cell_texts(value: object, encoding: str | None) -> tuple[str, ...]:
    """A cell as text; empty where nothing stands. Only a list has several.

    Raises
    ------
    ReportError
        The cell holds bytes in another encoding, or an object.
    """
    if isinstance(value, str):
        if has_undecodable(value):
            raise undecodable(encoding or "utf-8")
        return (value,)
    if value is None or type(value).__name__ in _ABSENT:
        return ()
    if isinstance(value, float | Decimal):
        if isnan(value):
            return ()
        return (str(int(value)) if value % 1 == 0 else str(value),)
    if isinstance(value, date | datetime | time):
        return (value.isoformat(),)
    if isinstance(value, bytes | bytearray | memoryview):
        return (decoded(bytes(value), None, encoding),)
    if isinstance(value, Mapping):
        raise ReportError("a cell holds an object, where a text or a list of texts is needed")
    listed = value.tolist() if hasattr(value, "tolist") else value  # of NumPy
    if isinstance(listed, list | tuple):
        return tuple(text for item in listed for text in cell_texts(item, encoding))
    return (str(listed),)


def _several(cell: Iterable[str]) -> tuple[str, ...]:
    return tuple(dict.fromkeys(part.strip() for text in cell for part in text.split(";") if part.strip()))


def _identifiers(row: Row, columns: ColumnMap, table: Table) -> tuple[str, ...]:
    found = (text.strip() for column in columns.identifying for text in cell_texts(row.get(column), table.encoding))
    return tuple(dict.fromkeys(text for text in found if text))


def could_be_table(columns: Sequence[str], given: Columns) -> bool:
    """Whether a first line is the header of a table of reports."""
    try:
        found = map_columns("the file", columns, {f: c for f, c in given.items() if _all_in(c, columns)})
    except ReportError:
        return len(columns) > 2  # two columns of known names: a header, and an ambiguous one
    return len(columns) > 1 and not missing(found)
