"""Parquet, a row group and in it a batch at a time, and only the columns that are read."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from functools import partial
from typing import Any

from nlp.sources.base import FileKind, Row, SourceFile, Table
from nlp.types import ReportError

_MAGIC = b"PAR1"
_BATCH = 256
_BUFFER = 1 << 20


def batch_rows(batch: Any) -> Iterator[Row | ReportError]:
    """Yield the rows of a ``pyarrow.RecordBatch``; one whose text is not UTF-8 costs itself."""
    try:
        rows = batch.to_pylist()
    except UnicodeDecodeError:
        rows = None
    if rows is not None:
        yield from rows
        return
    for place in range(batch.num_rows):
        try:
            yield from batch.slice(place, 1).to_pylist()
        except UnicodeDecodeError:
            yield ReportError("a text is not UTF-8, as its column declares; write the column as binary, or anew")


def _recognises(file: SourceFile, head: bytes) -> bool:  # noqa: ARG001
    return head.startswith(_MAGIC)


def _open(file: SourceFile) -> Table:
    from pyarrow import ArrowException
    from pyarrow.parquet import ParquetFile

    try:
        with file.reading(), ParquetFile(file.path) as content:
            columns = tuple(content.schema_arrow.names)
    except ArrowException as error:
        raise ReportError(f"{file.name} is no whole Parquet file ({type(error).__name__})") from None
    return Table(file.name, columns, partial(_rows, file), file.path.parent, file.encoding)


def _rows(file: SourceFile, wanted: Sequence[str]) -> Iterator[Row | ReportError]:
    from pyarrow import ArrowException
    from pyarrow.parquet import ParquetFile

    # Pages are read as they are needed, not all of a column in a row group at once: 12 MB rather than the row group.
    with file.reading(), ParquetFile(file.path, buffer_size=_BUFFER, pre_buffer=False) as content:
        for group in range(content.num_row_groups):
            try:
                for batch in content.iter_batches(_BATCH, row_groups=[group], columns=list(wanted)):
                    yield from batch_rows(batch)
            except (ArrowException, OSError) as error:
                yield ReportError(
                    f"row group {group + 1} of {content.num_row_groups} cannot be read ({type(error).__name__})"
                )


KIND = FileKind("Parquet", (".parquet", ".pq"), _recognises, _open)
