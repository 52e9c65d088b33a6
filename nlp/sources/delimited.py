"""CSV, TSV and their kin, row by row.

The standard library's reader would do, but for its limit on the length of a field, which can only be lifted for the
whole process, and for a quote that is never closed, behind which it reads the rest of the file into memory.
"""

from __future__ import annotations

import io
import re
from collections.abc import Iterable, Iterator, Sequence
from contextlib import contextmanager
from functools import partial

from nlp.sources.base import FileKind, Row, SourceFile, Table, has_undecodable, undecodable
from nlp.sources.rows import could_be_table
from nlp.types import ReportError

_DELIMITERS = ",;\t|"
_DECLARED = re.compile(r'"?sep=(.)"?\s*')  # Excel's own first line
_QUOTED = re.compile(r'"(?:[^"]|"")*"')
_MAX_ROW = 1 << 25
"""Characters. A row that is longer has a quote that is never closed."""


def _recognises(file: SourceFile, head: bytes) -> bool:
    try:
        start = head.decode(file.text_encoding(head), errors="replace")
    except (ReportError, LookupError):
        return False
    columns = next(_Records(start.splitlines()[:2]).read(), ())
    return not isinstance(columns, ReportError) and could_be_table(tuple(columns), file.columns)


def _open(file: SourceFile) -> Table:
    encoding = file.text_encoding(file.head())
    with _lines(file, encoding) as lines:
        columns = next(_Records(lines).read(), [])
    if isinstance(columns, ReportError):
        raise ReportError(f"the first line of {file.name} is not readable as CSV: {columns}")
    if any(map(has_undecodable, columns)):
        raise ReportError(f"the first line of {file.name}: {undecodable(encoding)}")
    names = tuple(column.strip() for column in columns)
    return Table(file.name, names, partial(_rows, file, encoding, names), file.path.parent, encoding)


def _rows(
    file: SourceFile, encoding: str, columns: Sequence[str], wanted: Sequence[str]
) -> Iterator[Row | ReportError]:
    places = [(column, columns.index(column)) for column in wanted]
    with _lines(file, encoding) as lines:
        records = _Records(lines).read()
        next(records, None)
        for values in records:
            if isinstance(values, ReportError):
                yield values
            elif not any(map(str.strip, values)):  # what a spreadsheet leaves below its table
                continue
            elif len(values) == len(columns):
                yield {column: values[place] for column, place in places}
            else:
                yield ReportError(
                    f"the row has {len(values)} fields, the header {len(columns)}; is a text unquoted, or a quote in "
                    "it not doubled?"
                )


@contextmanager
def _lines(file: SourceFile, encoding: str) -> Iterator[Iterator[str]]:
    """Open a file as lines with their ends as they are; bytes that cannot be decoded stay recognisable in them."""
    with (
        file.reading(),
        file.open() as content,
        io.TextIOWrapper(content, encoding, errors="surrogateescape", newline="") as stream,
    ):
        yield _decoded(stream, encoding)


def _decoded(stream: io.TextIOWrapper, encoding: str) -> Iterator[str]:
    try:
        while line := stream.readline(_MAX_ROW):
            yield line
    except UnicodeError:  # half a character of UTF-16
        raise undecodable(encoding) from None


class _Records:
    """Splits lines into records (RFC 4180); the first line decides on the delimiter.

    A record that breaks the rules costs itself: reading goes on with the next line, or, where a quote is not closed in
    ``_MAX_ROW`` characters or at all, with the line after the one that opens it.
    """

    def __init__(self, lines: Iterable[str]) -> None:
        self._lines = iter(lines)
        self._pending: list[str] = []  # read in search of a closing quote that was not there
        self._number = 0
        self._delimiter = _DELIMITERS[0]

    def read(self) -> Iterator[list[str] | ReportError]:
        """Yield the fields of each record, or why they cannot be told apart."""
        self._begin()
        while (line := self._next()) is not None:
            if not line.strip("\r\n"):
                continue
            if '"' not in line:
                yield line.rstrip("\r\n").split(self._delimiter)
                continue
            begin = self._number
            try:
                yield self._fields(line)
            except ReportError as error:
                where = f"line {begin}" if self._number == begin else f"lines {begin} to {self._number}"
                yield ReportError(f"{where} cannot be read as CSV ({error})")

    def _begin(self) -> None:
        header = self._next() or ""
        declared = _DECLARED.fullmatch(header)
        if declared is not None:
            self._delimiter = declared[1]
            return
        self._delimiter = max(_DELIMITERS, key=_QUOTED.sub("", header).count)
        self._put_back([header] if header else [])

    def _next(self) -> str | None:
        line = self._pending.pop() if self._pending else next(self._lines, None)
        self._number += line is not None
        return line

    def _put_back(self, lines: Sequence[str]) -> None:
        self._pending += reversed(lines)
        self._number -= len(lines)

    def _fields(self, line: str) -> list[str]:
        fields: list[str] = []
        position = 0
        while True:
            if line.startswith('"', position):
                field, line, position = self._quoted(line, position + 1)
            else:
                end = line.find(self._delimiter, position)
                field = line[position:end] if end >= 0 else line[position:].rstrip("\r\n")
                position = end if end >= 0 else len(line)
            fields.append(field)
            if not line.startswith(self._delimiter, position):
                break
            position += 1
        if line[position:].strip("\r\n"):
            raise ReportError("a quote inside a quoted text is not doubled, or one is not closed")
        return fields

    def _quoted(self, line: str, position: int) -> tuple[str, str, int]:
        """Read on to the closing quote; return the field, the line that closes it, and the place behind the quote."""
        pieces: list[str] = []
        taken: list[str] = []
        length = 0
        while True:
            end = line.find('"', position)
            if end >= 0 and line.startswith('"', end + 1):
                pieces.append(line[position : end + 1])
                position = end + 2
            elif end >= 0:
                pieces.append(line[position:end])
                return "".join(pieces), line, end + 1
            else:
                pieces.append(line[position:])
                length += len(line)
                following = self._next() if length < _MAX_ROW else None
                if following is None:
                    self._put_back(taken)
                    raise ReportError("a quote is not closed")
                taken.append(following)
                line, position = following, 0


KIND = FileKind("CSV or TSV", (".csv", ".tsv", ".tab", ".psv"), _recognises, _open)
