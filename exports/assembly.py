"""Joins finished shards into one dataset directory: whole, checked, and swapped in at once."""

from __future__ import annotations

import hashlib
import json
import os
import shutil
from collections import Counter
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pyarrow.dataset as pads
import pyarrow.parquet as pq

from exports.card import CardInfo, ConfigFacts, Contents, SplitFacts, render_card
from exports.schema import FOLDERS, digest, schema
from exports.types import ExportError

FORMAT = 1
_CONFIGS: Mapping[str, tuple[str, ...]] = {
    "findings": ("findings",),
    "lesions": ("findings", "unlinked"),
    "volumes": ("volumes",),
    "reports": ("reports",),
    "preview": ("findings",),
}
# For the Hub's viewer, which cannot show NIfTI, and for leafing through. The same files: nothing is stored twice.
PREVIEW_COLUMNS = ("finding_id", "phrase", "measurements", "preview")
_SPLIT_ORDER = ("train", "validation", "test")


@dataclass(frozen=True, slots=True)
class _Part:
    """One Parquet file of the dataset: ``path`` is relative to the dataset, ``arrow_bytes`` by column."""

    folder: str
    split: str
    path: str
    rows: int
    row_groups: int
    arrow_bytes: Mapping[str, int]
    size: int
    sha256: str


def assemble(
    shard_dirs: Iterable[Path | str],
    out: Path | str,
    *,
    card: CardInfo | None = None,
    skipped: Iterable[Mapping[str, Any]] = (),
) -> None:
    """Join the directories that ``ShardWriter`` filled into the dataset ``out``, replacing an earlier one.

    Files are hard links where the file system allows it, else copies. Everything is made beside ``out`` and swapped
    in at the end, so that ``out`` is the old dataset or the new one, never a mixture. Empty splits and configs are
    left out: ``datasets`` cannot load them.

    Parameters
    ----------
    shard_dirs
        In any order; each holds ``<folder>/<split>-NNNNN-of-NNNNN.parquet``.
    out
        Becomes ``README.md, data/, manifest.json, checksums.sha256, skipped.jsonl``.
    card
        What to say on the card beside what is counted here.
    skipped
        What did not become a row, one mapping each, without anything private; ``reason`` is counted on the card.

    Raises
    ------
    ExportError
        If there is no row at all, two shards claim the same file, the shards contradict each other, or ``out`` holds
        something that is not such a dataset.

    """
    out = Path(out).absolute()
    _refuse_foreign(out)
    fresh, stale = out.with_name(f".{out.name}.new"), out.with_name(f".{out.name}.old")
    for leftover in (fresh, stale):
        shutil.rmtree(leftover, ignore_errors=True)
    fresh.mkdir(parents=True)
    try:
        parts = [_place(source, folder, fresh) for folder, source in _sources(shard_dirs)]
        _fill(fresh, parts, card or CardInfo(), skipped)
        if out.exists():
            out.replace(stale)
        fresh.replace(out)
    finally:
        shutil.rmtree(fresh, ignore_errors=True)
        shutil.rmtree(stale, ignore_errors=True)
    sync(out.parent)


def sync(path: Path) -> None:
    """Force a file, or the names in a directory, to the disk."""
    descriptor = os.open(path, os.O_RDONLY)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)


def _refuse_foreign(out: Path) -> None:
    if out.exists() and not (out / "manifest.json").is_file() and (not out.is_dir() or any(out.iterdir())):
        raise ExportError(f"{out.name!r} exists and is not a dataset of this library; choose another directory")


def _sources(shard_dirs: Iterable[Path | str]) -> list[tuple[str, Path]]:
    """(folder, file) of every part file, ordered by the name it will have."""
    found: dict[tuple[str, str], Path] = {}
    for directory in shard_dirs:
        for folder in FOLDERS:
            for source in (Path(directory) / folder).glob("[!.]*.parquet"):
                if found.setdefault((folder, source.name), source) != source:
                    raise ExportError(f"two shards hold {folder}/{source.name}; give every shard directory once")
    if not found:
        raise ExportError(
            "there is not one row to write: no lesion was segmented and no report was read. "
            "See the skipped items for the reasons; the build's summary counts them by stage"
        )
    return [(folder, found[folder, name]) for folder, name in sorted(found, key=lambda k: (FOLDERS.index(k[0]), k[1]))]


def _place(source: Path, folder: str, root: Path) -> _Part:
    """Link or copy one part file into the dataset and measure it."""
    relative = f"data/{folder}/{source.name}"
    target = root / relative
    target.parent.mkdir(parents=True, exist_ok=True)
    try:
        os.link(source, target)
    except OSError:
        shutil.copyfile(source, target)
        sync(target)
    metadata = pq.read_metadata(target)
    if not metadata.schema.to_arrow_schema().equals(schema(folder)):
        raise ExportError(f"{relative} has other columns than this version writes; build its shard again")
    return _Part(
        folder=folder,
        split=source.name.split("-", 1)[0],
        path=relative,
        rows=metadata.num_rows,
        row_groups=metadata.num_row_groups,
        arrow_bytes=_arrow_bytes(target),
        size=target.stat().st_size,
        sha256=_sha256(target),
    )


def _arrow_bytes(path: Path) -> dict[str, int]:
    """Bytes of each column as Arrow, read as ``datasets`` reads them; it also proves that every page decodes."""
    total: Counter[str] = Counter()
    with path.open("rb") as stream:
        fragment = pads.ParquetFileFormat().make_fragment(stream)
        rows = fragment.row_groups[0].num_rows
        for batch in fragment.to_batches(batch_size=rows, batch_readahead=0, fragment_readahead=0):
            total.update({name: batch.column(name).nbytes for name in batch.schema.names})
    return total


def _fill(root: Path, parts: Sequence[_Part], card: CardInfo, skipped: Iterable[Mapping[str, Any]]) -> None:
    """Write everything that is not Parquet."""
    contents = _contents(root, parts, _write_skipped(root / "skipped.jsonl", skipped))
    _write(root / "README.md", render_card(card, contents))
    _write(root / "manifest.json", json.dumps(_manifest(contents, parts), indent=2) + "\n")
    sums = {part.path: part.sha256 for part in parts}
    sums |= {name: _sha256(root / name) for name in ("README.md", "manifest.json", "skipped.jsonl")}
    _write(root / "checksums.sha256", "".join(f"{sums[path]}  {path}\n" for path in sorted(sums)))
    for directory in (*root.glob("data/*"), root / "data", root):
        sync(directory)


def _write_skipped(path: Path, skipped: Iterable[Mapping[str, Any]]) -> Counter[str]:
    """Write the skipped items as they come, as many as they may be, and count their reasons."""
    reasons: Counter[str] = Counter()
    with path.open("w", encoding="utf-8", newline="\n") as stream:
        for item in skipped:
            reasons[str(item.get("reason", "UNKNOWN"))] += 1
            stream.write(f"{json.dumps(dict(item), sort_keys=True)}\n")
    sync(path)
    return reasons


def _contents(root: Path, parts: Sequence[_Part], skipped: Counter[str]) -> Contents:
    tiers: Counter[str] = Counter()
    engines: Counter[str] = Counter()
    assertions: Counter[str] = Counter()
    outcomes: Counter[str] = Counter()
    patients: set[str] = set()
    findings: Counter[str] = Counter()
    row_groups = {part.path: part.row_groups for part in parts if part.folder == "volumes"}
    for part in parts:
        if part.folder in {"findings", "unlinked"}:
            columns = ["finding_id", "patient_id", "assertion", "engine", "quality", "volume_shard", "volume_row_group"]
            for row in pq.read_table(root / part.path, columns=columns).to_pylist():
                tiers[row["quality"]["tier"]] += 1
                engines[f"{row['engine']['name']}@{row['engine']['revision']}"] += 1
                patients.add(row["patient_id"])
                if part.folder == "findings":
                    findings[row["finding_id"]] += 1
                    assertions[row["assertion"]] += 1
                _check_location(row, row_groups)
        elif part.folder == "reports":
            for row in pq.read_table(root / part.path, columns=["phrases"]).to_pylist():
                outcomes.update(phrase["outcome"] for phrase in row["phrases"])
    return Contents(
        configs=tuple(config for name in _CONFIGS if (config := _config_facts(name, parts)) is not None),
        patients=len(patients),
        engines=dict(engines.most_common()),
        tiers=dict(sorted(tiers.items())),
        assertions=dict(sorted(assertions.items())),
        outcomes=dict(outcomes.most_common()),
        skipped=dict(skipped.most_common()),
    )


def _check_location(row: Mapping[str, Any], row_groups: Mapping[str, int]) -> None:
    shard, group = row["volume_shard"], row["volume_row_group"]
    if shard is not None and not (group is not None and 0 <= group < row_groups.get(shard, 0)):
        raise ExportError(f"a row points at row group {group} of {shard}, which is not among the shards given")


def _config_facts(name: str, parts: Sequence[_Part]) -> ConfigFacts | None:
    """Exact facts of one config; None where it has no rows."""
    own = [part for part in parts if part.folder in _CONFIGS[name]]
    if not own:
        return None
    by_split: dict[str, list[_Part]] = {}
    for part in own:
        by_split.setdefault(part.split, []).append(part)
    names = sorted(by_split, key=lambda split: (_SPLIT_ORDER.index(split) if split in _SPLIT_ORDER else 9, split))
    columns = PREVIEW_COLUMNS if name == "preview" else ()
    digest = hashlib.sha256("".join(f"{part.sha256}  {part.path}\n" for part in own).encode())
    return ConfigFacts(
        name=name,
        splits=tuple(
            SplitFacts(split, sum(p.rows for p in by_split[split]), _bytes_of(by_split[split], columns))
            for split in names
        ),
        paths={split: _patterns(by_split[split]) for split in names},
        download_size=sum(part.size for part in own),
        digest=digest.hexdigest()[:32],
        columns=columns,
    )


def _bytes_of(parts: Sequence[_Part], columns: Sequence[str]) -> int:
    """Arrow bytes of some columns, or of all where none is named."""
    return sum(part.arrow_bytes[name] for part in parts for name in columns or part.arrow_bytes)


def _patterns(parts: Sequence[_Part]) -> tuple[str, ...]:
    """Glob patterns of one split, one per folder (file by file, a large dataset's card would be all names)."""
    return tuple(dict.fromkeys(f"data/{part.folder}/{part.split}-*.parquet" for part in parts))


def _manifest(contents: Contents, parts: Sequence[_Part]) -> dict[str, Any]:
    return {
        "format": FORMAT,
        "schema": digest(),
        "configs": {
            config.name: {
                "digest": config.digest,
                "splits": {split.name: split.num_examples for split in config.splits},
            }
            for config in contents.configs
        },
        "files": {
            part.path: {
                "bytes": part.size,
                "sha256": part.sha256,
                "rows": part.rows,
                "row_groups": part.row_groups,
            }
            for part in parts
        },
    }


def _write(path: Path, text: str) -> None:
    path.write_text(text, encoding="utf-8", newline="\n")
    sync(path)


def _sha256(path: Path) -> str:
    with path.open("rb") as stream:
        return hashlib.file_digest(stream, "sha256").hexdigest()
