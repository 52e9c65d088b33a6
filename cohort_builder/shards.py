"""The unit of work: one idempotent shard, a hash bucket of patients of one split.

Planned first, written under a temporary name, renamed, and marked by the rename: a directory under ``private/shards``
with a ``done.json`` of the right fingerprint is whole, anything else is built again. Resuming, processes and (later)
Slurm slices are all "run the shards that are not done".
"""

from __future__ import annotations

import hashlib
import json
import logging
import os
import shutil
import tempfile
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from cohort_builder.privacy.pseudonyms import Pseudonyms

logger = logging.getLogger("cohort_builder")

SPLITS = ("train", "validation", "test")
MARKER = "done.json"
_TEMPORARY = ".tmp-"


@dataclass(frozen=True, slots=True)
class ShardPlan:
    """Shard ``number`` of ``count`` of one split: its patients, and a hash of all that decides its content."""

    split: str
    number: int
    count: int
    patient_keys: tuple[str, ...]
    fingerprint: str

    @property
    def name(self) -> str:
        """Directory name, free of identifiers."""
        return f"{self.split}-{self.number:05d}"


def plan_shards(
    megabytes: Mapping[str, float],
    signatures: Mapping[str, str],
    pseudonyms: Pseudonyms,
    *,
    shard_mb: int,
    content: Mapping[str, Any],
) -> list[ShardPlan]:
    """Distribute patients over shards by their keyed hash.

    Parameters
    ----------
    megabytes
        Uncompressed CT megabytes of each patient key.
    signatures
        Hash of each patient's inputs (files, reports).
    content
        Everything else that decides about content: configuration, versions, engine.

    """
    plans = []
    for split in SPLITS:
        members = [key for key in megabytes if pseudonyms.split_of(key) == split]
        total = sum(megabytes[key] for key in members)
        n_buckets = 1
        while n_buckets * shard_mb < total:  # a power of two, so that a growing archive seldom moves its patients
            n_buckets *= 2
        buckets: dict[int, list[str]] = {}
        for key in members:
            buckets.setdefault(int(pseudonyms.unit("shard", key) * n_buckets), []).append(key)
        ordered = [sorted(buckets[b], key=lambda key: pseudonyms.pseudonym("patient", key)) for b in sorted(buckets)]
        for number, keys in enumerate(ordered):
            parts = [split, number, len(ordered), [signatures[key] for key in keys], content]
            plans.append(ShardPlan(split, number, len(ordered), tuple(keys), _digest(parts)))
    return plans


def is_done(shards_dir: Path, plan: ShardPlan) -> bool:
    """Whether this very shard was written whole, and nothing in it is worth another try."""
    try:
        marker = json.loads((shards_dir / plan.name / MARKER).read_text())
    except (OSError, ValueError):
        return False
    return bool(marker.get("fingerprint") == plan.fingerprint and not marker.get("retry"))


def clean(shards_dir: Path, plans: Iterable[ShardPlan]) -> None:
    """Remove what a killed run left half written, and shards of an earlier plan."""
    wanted = {plan.name for plan in plans}
    for path in shards_dir.iterdir():
        if path.name.startswith(_TEMPORARY) or path.name not in wanted:
            shutil.rmtree(path)


def remaining(shards_dir: Path, plans: Sequence[ShardPlan]) -> list[ShardPlan]:
    """The shards that are not done, and a word about those of an earlier run."""
    todo = [plan for plan in plans if not is_done(shards_dir, plan)]
    stale = sum((shards_dir / plan.name / MARKER).is_file() for plan in todo)
    if len(todo) < len(plans):
        logger.info("%d of %d shards are already built", len(plans) - len(todo), len(plans))
    if stale:
        logger.warning(
            "%d of %d shards were built from other inputs, options, versions or another key: they are built again",
            stale,
            len(plans),
        )
    return todo


def counts_of(shards_dir: Path, plan: ShardPlan) -> dict[str, int]:
    """What was counted while a finished shard was built."""
    counts: dict[str, int] = json.loads((shards_dir / plan.name / MARKER).read_text())["counts"]
    return counts


class ShardDirectory:
    """A shard being written: a temporary directory that ``commit`` turns into the finished one."""

    def __init__(self, shards_dir: Path, plan: ShardPlan) -> None:
        self.plan = plan
        self.path = Path(tempfile.mkdtemp(prefix=f"{_TEMPORARY}{plan.name}-", dir=shards_dir))
        self._final = shards_dir / plan.name

    def write_lines(self, name: str, rows: Sequence[Mapping[str, Any]]) -> None:
        """Write one JSON object a line; ASCII, since ids and paths may hold line separators and broken characters."""
        _write_synced(self.path / name, "".join(json.dumps(row, sort_keys=True) + "\n" for row in rows))

    def commit(self, counts: Mapping[str, int], *, retry: bool = False) -> None:
        """Mark and rename; from here on the shard is done. ``retry``: but the next run builds it again."""
        marker = {"fingerprint": self.plan.fingerprint, "counts": dict(counts), "retry": retry}
        _write_synced(self.path / MARKER, json.dumps(marker, sort_keys=True))
        for folder in filter(Path.is_dir, self.path.iterdir()):  # its files are the dataset's, which may be read
            folder.chmod(0o700)
        if self._final.exists():
            shutil.rmtree(self._final)
        self.path.rename(self._final)
        descriptor = os.open(self._final.parent, os.O_RDONLY)
        try:
            os.fsync(descriptor)
        finally:
            os.close(descriptor)


def read_lines(shards_dir: Path, plans: Sequence[ShardPlan], name: str) -> Iterator[dict[str, Any]]:
    """All rows of one JSON-lines file over all shards, in the order of the plan."""
    for plan in plans:
        with (shards_dir / plan.name / name).open(encoding="utf-8") as lines:
            yield from map(json.loads, lines)


def signature(parts: Iterable[object]) -> str:
    """Hash of a patient's inputs."""
    return _digest(list(parts))


def _digest(value: object) -> str:
    return hashlib.sha256(json.dumps(value, sort_keys=True, default=_plain).encode()).hexdigest()


def _plain(value: object) -> object:
    if hasattr(value, "__dataclass_fields__"):
        return asdict(value)  # type: ignore[call-overload]
    return str(value)


def _write_synced(path: Path, text: str) -> None:
    descriptor = os.open(path, os.O_WRONLY | os.O_CREAT | os.O_TRUNC, 0o600)  # private: it names patients
    with os.fdopen(descriptor, "w", encoding="utf-8") as stream:
        stream.write(text)
        stream.flush()
        os.fsync(stream.fileno())
