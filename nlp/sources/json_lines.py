"""JSON Lines, line by line, and JSON arrays of objects."""

from __future__ import annotations

import json
from collections.abc import Iterator, Mapping, Sequence
from functools import partial
from itertools import chain, islice
from typing import Any

from nlp.sources.base import FileKind, Row, SourceFile, Table, decoded
from nlp.types import ReportError

_LOOKED_AT = 100  # lines, for their columns: lines need not all have the same ones, and may be broken


def json_values(file: SourceFile) -> Iterator[Any | ReportError]:
    """Yield the values of a JSON file: one a line, or the elements of its one array, or its one object.

    A line that is broken costs itself. Only a file of one value is held in memory.

    Raises
    ------
    ReportError
        The file cannot be read.
    """
    encoding = file.text_encoding(file.head())
    if encoding.startswith(("utf-16", "utf-32")) or _is_one_value(file, encoding):
        yield from _whole(file, encoding)
        return
    with file.reading(), file.open() as content:
        for line in content:
            if not line.strip():
                continue
            try:
                yield json.loads(decoded(line, None, file.encoding))
            except ReportError as error:
                yield error
            except (json.JSONDecodeError, RecursionError) as error:
                yield _broken("the line", error)


def _is_one_value(file: SourceFile, encoding: str) -> bool:
    """Whether the file is one value over several lines, rather than lines of JSON whose first may be broken."""
    with file.reading(), file.open() as content:
        first, second = islice(chain((line for line in content if line.strip()), (b"", b"")), 2)
    return _is_opened(first.decode(encoding, errors="replace"), second.decode(encoding, errors="replace"))


def _is_opened(first: str, second: str) -> bool:
    """Whether a first line opens a value that goes on in the second: no value of JSON Lines begins with a name."""
    try:
        value = json.loads(first.lstrip("\ufeff"))
    except (json.JSONDecodeError, RecursionError):
        return first.lstrip("\ufeff \t").startswith("[") or not second.lstrip().startswith("{")
    return isinstance(value, list) and not second


def _whole(file: SourceFile, encoding: str) -> Iterator[Any | ReportError]:
    text = decoded(file.content(), encoding, file.encoding)
    lines = [line for line in text.split("\n") if line.strip()]
    if len(lines) > 1 and not _is_opened(*lines[:2]):
        values: Iterator[Any] = iter(lines)
    else:
        values = iter([text])
    for value in values:
        try:
            parsed = json.loads(value.lstrip("\ufeff"))
        except (json.JSONDecodeError, RecursionError) as error:
            yield _broken("the line" if value in lines else file.name, error)
        else:
            yield from parsed if isinstance(parsed, list) and value is text else [parsed]


def _broken(what: str, error: Exception) -> ReportError:
    where = f"{error.msg} at column {error.colno}" if isinstance(error, json.JSONDecodeError) else "nested too deeply"
    return ReportError(f"{what} is not valid JSON ({where})")


def _recognises(file: SourceFile, head: bytes) -> bool:  # noqa: ARG001
    return head.lstrip(b"\xef\xbb\xbf \t\r\n").startswith((b"{", b"["))


def _open(file: SourceFile) -> Table:
    rows = [row for row in islice(_rows(file, ()), _LOOKED_AT) if isinstance(row, Mapping)]
    columns = tuple(dict.fromkeys(column for row in rows for column in row))
    return Table(file.name, columns, partial(_rows, file), file.path.parent, file.encoding)


def _rows(file: SourceFile, wanted: Sequence[str]) -> Iterator[Row | ReportError]:  # noqa: ARG001 - all is parsed
    for value in json_values(file):
        if isinstance(value, ReportError | dict):
            yield value
        else:
            yield ReportError("the line holds no JSON object")


KIND = FileKind("JSON Lines", (".jsonl", ".ndjson", ".json"), _recognises, _open)
