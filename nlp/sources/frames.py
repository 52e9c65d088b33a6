"""Tables in memory or behind a library: pandas, pyarrow, datasets. None of them is imported here."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from itertools import islice
from typing import Any

from nlp.sources.base import ObjectKind, Row, Table
from nlp.sources.parquet import batch_rows
from nlp.types import ReportError

_BATCH = 1024


def _pandas(frame: Any) -> Table:
    columns = tuple(str(column) for column in frame.columns)

    def rows(wanted: Sequence[str]) -> Iterator[Row]:
        part = frame.iloc[:, [columns.index(column) for column in wanted]]
        for values in part.itertuples(index=False, name=None):
            yield dict(zip(wanted, values, strict=True))

    return Table("the DataFrame", columns, rows)


def _arrow(table: Any) -> Table:
    """Of a Table, a RecordBatch, a RecordBatchReader or a pyarrow dataset."""
    name = f"the pyarrow.{type(table).__name__}"

    def rows(wanted: Sequence[str]) -> Iterator[Row | ReportError]:
        names = list(wanted)
        if type(table).__name__ == "Table":
            batches = table.select(names).to_batches(max_chunksize=_BATCH)
        elif hasattr(table, "to_batches"):
            batches = table.to_batches(columns=names, batch_size=_BATCH)
        elif type(table).__name__ == "RecordBatch":
            batches = [table.select(names)]
        else:
            batches = (batch.select(names) for batch in table)
        for batch in batches:
            yield from batch_rows(batch)

    return Table(name, tuple(table.schema.names), rows)


def _dataset(dataset: Any) -> Table:
    """Of a Dataset or an IterableDataset."""
    if isinstance(dataset, Mapping):
        raise ReportError("a datasets.DatasetDict has several splits; give one of them")
    columns = dataset.column_names
    if columns is None:  # a stream that has not been looked into
        first: Mapping[str, object] = next(iter(islice(dataset, 1)), {})
        columns = list(first)

    def rows(wanted: Sequence[str]) -> Iterator[Row]:
        # Only these columns: pictures beside a report would be decoded, row by row.
        yield from dataset.select_columns(list(wanted))

    return Table(f"the {type(dataset).__name__}", tuple(columns), rows)


PANDAS = ObjectKind("pandas.DataFrame", "pandas", ("DataFrame",), _pandas)
ARROW = ObjectKind(
    "pyarrow.Table",
    "pyarrow",
    ("Table", "RecordBatch", "RecordBatchReader", "Dataset", "FileSystemDataset", "InMemoryDataset", "UnionDataset"),
    _arrow,
)
DATASETS = ObjectKind("datasets.Dataset", "datasets", ("Dataset", "IterableDataset", "DatasetDict"), _dataset)
