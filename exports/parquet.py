"""Writes the Parquet files of a dataset, one shard at a time, and a whole small dataset in one call.

The same records in the same order give the same bytes: no time, host or path enters a file.
"""

from __future__ import annotations

import re
import tempfile
from collections.abc import Iterable
from dataclasses import dataclass, replace
from pathlib import Path
from types import TracebackType
from typing import Self

import pyarrow as pa
import pyarrow.parquet as pq

from exports.assembly import assemble, sync
from exports.card import CardInfo
from exports.pictures import preview_png
from exports.reading import fetch_volume, read_findings, read_row, with_arrays
from exports.schema import FOLDERS, Row, finding_row, report_row, schema, volume_row
from exports.types import ExportError, FindingRecord, ReportRecord, VolumeRecord

__all__ = [
    "ShardWriter",
    "VolumeLocation",
    "assemble",
    "fetch_volume",
    "read_findings",
    "read_row",
    "with_arrays",
    "write_dataset",
]

# Uncompressed bytes per row group: a reader, and the Hub's viewer, holds one row group in memory at a time.
ROW_GROUP_BYTES = 32 * 2**20
_SPLIT = re.compile(r"\w+")
_ZSTD_LEVEL = 3


@dataclass(frozen=True, slots=True)
class VolumeLocation:
    """Where a volume is published: ``shard`` relative to the dataset, and the row group that holds it alone."""

    shard: str
    row_group: int


class ShardWriter:
    """Writes the part files of one shard: ``directory/<folder>/<split>-NNNNN-of-NNNNN.parquet``, one folder per table.

    A context manager. Files appear under their final name only when the block ends without an exception, after fsync;
    a table without rows gets no file. Memory is bounded by one row group per table (``row_group_bytes``) and one
    volume. What an interrupted attempt at the same shard left in ``directory`` is removed first.

    Parameters
    ----------
    directory
        The shard's own directory; made if absent.
    split
        Name of the split: letters, digits and underscores.
    number, count
        This shard's number, from 0, among the shards of the split.
    row_group_bytes
        Row groups are cut before they exceed this many uncompressed bytes.

    Raises
    ------
    ExportError
        If the split's name or the shard's number is not valid.

    """

    def __init__(
        self,
        directory: Path | str,
        split: str,
        number: int,
        count: int,
        *,
        row_group_bytes: int = ROW_GROUP_BYTES,
    ) -> None:
        if not _SPLIT.fullmatch(split):
            raise ExportError(f"a split is named by letters, digits and underscores, got {split!r}")
        if not 0 <= number < count:
            raise ExportError(f"shard number {number} must lie between 0 and {count - 1}")
        name = f"{split}-{number:05d}-of-{count:05d}.parquet"
        self._name = name
        self._tables = {
            folder: _TableWriter(Path(directory) / folder / name, schema(folder), row_group_bytes) for folder in FOLDERS
        }

    def __enter__(self) -> Self:
        for table in self._tables.values():
            table.clear()
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, traceback: TracebackType | None
    ) -> None:
        if kind is None:
            for table in self._tables.values():
                table.finish()
            for table in self._tables.values():
                table.publish()
        else:
            for table in self._tables.values():
                table.abandon()

    def add_volume(self, record: VolumeRecord) -> VolumeLocation:
        """Write one volume as a row group of its own and say where it stands."""
        row_group = self._tables["volumes"].write_alone(volume_row(record))
        return VolumeLocation(f"data/volumes/{self._name}", row_group)

    def add_finding(self, record: FindingRecord) -> None:
        """Write one segmented lesion: to ``findings``, or to ``unlinked`` where nothing was said of it."""
        folder = "unlinked" if record.said is None else "findings"
        self._tables[folder].write(finding_row(record, preview_png(record)))

    def add_report(self, record: ReportRecord) -> None:
        """Write one scrubbed report."""
        self._tables["reports"].write(report_row(record))


def write_dataset(
    out: Path | str,
    *,
    findings: Iterable[FindingRecord],
    volumes: Iterable[VolumeRecord] = (),
    reports: Iterable[ReportRecord] = (),
    split: str = "train",
    card: CardInfo | None = None,
) -> None:
    """Write a whole dataset of one split and one shard to the directory ``out``, replacing an earlier one.

    Findings whose ``series_id`` is among ``volumes`` get that volume's location; the others keep their own.

    Raises
    ------
    ExportError
        If there is nothing to write, or ``out`` holds something else than a dataset.

    """
    out = Path(out)
    out.parent.mkdir(parents=True, exist_ok=True)
    with tempfile.TemporaryDirectory(prefix=f".{out.name}.", dir=out.parent) as scratch:
        with ShardWriter(scratch, split, 0, 1) as writer:
            places = {volume.series_id: writer.add_volume(volume) for volume in volumes}
            for finding in findings:
                place = places.get(finding.series_id)
                writer.add_finding(
                    finding
                    if place is None
                    else replace(finding, volume_shard=place.shard, volume_row_group=place.row_group)
                )
            for report in reports:
                writer.add_report(report)
        assemble([Path(scratch)], out, card=card or CardInfo())


class _TableWriter:
    """One Parquet file under a temporary name, opened at its first row."""

    def __init__(self, path: Path, table_schema: pa.Schema, row_group_bytes: int) -> None:
        self._path, self._schema, self._limit = path, table_schema, row_group_bytes
        self._temporary = path.with_name(f".{path.name}.tmp")
        self._writer: pq.ParquetWriter | None = None
        self._pending: list[pa.Table] = []
        self._pending_bytes = 0
        self._row_groups = 0

    def clear(self) -> None:
        self._path.unlink(missing_ok=True)
        self._temporary.unlink(missing_ok=True)

    def write(self, row: Row) -> None:
        table = pa.Table.from_pylist([row], self._schema)
        if self._pending_bytes + table.nbytes > self._limit:
            self._flush()
        self._pending.append(table)
        self._pending_bytes += table.nbytes

    def write_alone(self, row: Row) -> int:
        self._flush()
        self.write(row)
        self._flush()
        return self._row_groups - 1

    def finish(self) -> None:
        self._flush()
        if self._writer is not None:
            self._writer.close()
            sync(self._temporary)

    def publish(self) -> None:
        if self._writer is not None:
            self._temporary.replace(self._path)
            sync(self._path.parent)

    def abandon(self) -> None:
        self._pending.clear()
        if self._writer is not None:
            self._writer.close()
            self._temporary.unlink(missing_ok=True)

    def _flush(self) -> None:
        if not self._pending:
            return
        table = pa.concat_tables(self._pending).combine_chunks()
        self._pending.clear()
        self._pending_bytes = 0
        if self._writer is None:
            self._writer = self._open()
        self._writer.write_table(table, row_group_size=table.num_rows)
        self._row_groups += 1

    def _open(self) -> pq.ParquetWriter:
        self._path.parent.mkdir(parents=True, exist_ok=True)
        return pq.ParquetWriter(
            self._temporary,
            self._schema,
            compression="zstd",
            compression_level=_ZSTD_LEVEL,
            # Voxels and sentences do not repeat; zstd finds what little does.
            use_dictionary=False,
            # Statistics prune row groups when a reader filters by id; those of voxels would only swell the footer.
            write_statistics=[field.name for field in self._schema if not pa.types.is_nested(field.type)],
            write_page_index=True,
            # Cut pages by content: after one changed row, an upload moves only what changed.
            use_content_defined_chunking=True,
        )
