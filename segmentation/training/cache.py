"""Lesions ready for the loader: one windowed sub-volume each, in shards that are mapped into memory.

A shard is a safetensors file: ``<i>/voxels`` int16 and ``<i>/truth`` bool, both (slice, row, column), for sample i of
the shard, and what else a sample holds as JSON in the header. Its name says what it was made from, so that an
interrupted build finds its own finished shards, and a changed source makes only its own shards anew.
"""

from __future__ import annotations

import hashlib
import json
import multiprocessing
import struct
from collections.abc import Iterable, Iterator, Sequence
from concurrent.futures import Future, ProcessPoolExecutor, as_completed
from math import prod
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from segmentation.files import replacing, write_bytes
from segmentation.training.samples import HU_LIMIT, CropPolicy, Sample, Split, bare_volume
from segmentation.training.sources import Source, samples_of

__all__ = ["Cache", "CacheError", "CropPolicy", "Sample", "build_cache", "fill_cache", "samples_of"]

_INDEX = "index.json"
_FORMAT = "lesion cache 1"
_SAMPLES_PER_SHARD = 64


class CacheError(Exception):
    """A cache is missing, unfinished or damaged."""


def build_cache(samples: Iterable[Sample], folder: str | Path) -> Cache:
    """Write ``samples`` as they come, in one process, and open the cache. Not resumable: see `fill_cache`."""
    folder = Path(folder)
    folder.mkdir(parents=True, exist_ok=True)
    names: list[str] = []
    batch: list[Sample] = []
    for sample in samples:
        batch.append(sample)
        if len(batch) == _SAMPLES_PER_SHARD:
            names.append(_write_shard(batch, folder, f"part-{len(names):05d}"))
            batch = []
    if batch:
        names.append(_write_shard(batch, folder, f"part-{len(names):05d}"))
    return _finish(folder, names, ())


def fill_cache(sources: Sequence[Source], folder: str | Path, *, workers: int = 1) -> Cache:
    """Write what ``sources`` give, one shard per unit, and open the cache; finished shards are kept.

    Parameters
    ----------
    workers
        Processes; 1 works in this one.

    Raises
    ------
    ManifestError
        If a case cannot be read.

    """
    folder = Path(folder)
    folder.mkdir(parents=True, exist_ok=True)
    units = [(source, unit) for source in sources for unit in range(len(source))]
    names = [f"unit-{source.unit_digest(unit)[:24]}" for source, unit in units]
    todo = [i for i, name in enumerate(names) if not _shard(folder, name).is_file()]
    if workers == 1:
        for i in todo:
            _fill(*units[i], folder, names[i])
    elif todo:
        context = multiprocessing.get_context("spawn")
        with ProcessPoolExecutor(min(workers, len(todo)), mp_context=context) as pool:
            done: list[Future[None]] = [pool.submit(_fill, *units[i], folder, names[i]) for i in todo]
            try:
                for future in as_completed(done):
                    future.result()
            except BaseException:
                pool.shutdown(wait=False, cancel_futures=True)
                raise
    return _finish(folder, names, tuple(source.digest for source in sources))


class Cache:
    """A finished cache: a sequence of samples that lie in mapped memory, each found at once.

    Voxels are read-only views of the file: only the pages that are looked at are read, and processes share them.
    Instances pickle; every process maps the files itself.

    Raises
    ------
    CacheError
        If there is no finished cache in ``folder``, or a shard is missing or has another length.

    """

    def __init__(self, folder: str | Path) -> None:
        self.folder = Path(folder)
        try:
            text = (self.folder / _INDEX).read_bytes()
        except OSError as error:
            raise CacheError(f"there is no finished cache in {self.folder}: its {_INDEX} is missing") from error
        index = json.loads(text)
        if index.get("format") != _FORMAT:
            raise CacheError(f"{self.folder / _INDEX} is no index of a lesion cache of this version; build it again")
        self.digest = hashlib.sha256(text).hexdigest()
        self.sources: tuple[str, ...] = tuple(index["sources"])
        self._shards: list[dict[str, Any]] = index["shards"]
        self._rows: list[tuple[int, dict[str, Any]]] = [
            (number, row) for number, shard in enumerate(self._shards) for row in shard["samples"]
        ]
        self._maps: dict[int, NDArray[np.uint8]] = {}
        for shard in self._shards:
            path = self.folder / shard["name"]
            if not path.is_file() or path.stat().st_size != shard["bytes"]:
                raise CacheError(f"shard {shard['name']} of the cache is missing or has another length; build it again")

    def __len__(self) -> int:
        return len(self._rows)

    def __iter__(self) -> Iterator[Sample]:
        return (self[i] for i in range(len(self)))

    def __getitem__(self, index: int) -> Sample:
        number, row = self._rows[index]
        data = self._mapped(number)
        shape = tuple(row["shape"])
        voxels = _view(data, row["voxels"], 2 * prod(shape)).view(np.int16).reshape(shape)
        truth = _view(data, row["truth"], prod(shape)).view(np.bool_).reshape(shape)
        return Sample(
            row["sample_id"],
            row["case_id"],
            row["patient_id"],
            row["dataset"],
            row["category"],
            row["split"],
            bare_volume(voxels, np.array(row["affine"])),
            truth,
        )

    def __getstate__(self) -> dict[str, Any]:
        return {**self.__dict__, "_maps": {}}

    def indices(self, split: Split, *, dataset: str | None = None, category: str | None = None) -> tuple[int, ...]:
        """Places of the samples of ``split``, and of one dataset or category where it is named."""
        return tuple(
            i
            for i, (_, row) in enumerate(self._rows)
            if row["split"] == split and dataset in (None, row["dataset"]) and category in (None, row["category"])
        )

    def check(self) -> None:
        """Read every shard and compare it with its digest.

        Raises
        ------
        CacheError
            If one was changed.

        """
        for shard in self._shards:
            if _sha256(self.folder / shard["name"]) != shard["sha256"]:
                raise CacheError(f"shard {shard['name']} of the cache was changed; build it again")

    def _mapped(self, number: int) -> NDArray[np.uint8]:
        if number not in self._maps:
            self._maps[number] = np.memmap(self.folder / self._shards[number]["name"], np.uint8, mode="r")
        return self._maps[number]


def _view(data: NDArray[np.uint8], start: int, length: int) -> NDArray[np.uint8]:
    return np.asarray(data[start : start + length])


def _shard(folder: Path, stem: str) -> Path:
    return folder / f"{stem}.safetensors"


def _fill(source: Source, unit: int, folder: Path, stem: str) -> None:
    _write_shard(list(source.samples(unit)), folder, stem)


def _write_shard(samples: Sequence[Sample], folder: Path, stem: str) -> str:
    from safetensors.numpy import save_file

    tensors: dict[str, NDArray[Any]] = {}
    rows = []
    for i, sample in enumerate(samples):
        tensors[f"{i}/voxels"] = np.ascontiguousarray(
            np.clip(sample.volume.voxels, -HU_LIMIT, HU_LIMIT), dtype=np.int16
        )
        tensors[f"{i}/truth"] = np.ascontiguousarray(sample.truth)
        rows.append(
            {
                "sample_id": sample.sample_id,
                "case_id": sample.case_id,
                "patient_id": sample.patient_id,
                "dataset": sample.dataset,
                "category": sample.category,
                "split": sample.split,
                "affine": sample.volume.affine.tolist(),
            }
        )
    with replacing(_shard(folder, stem)) as temporary:
        save_file(tensors, temporary, metadata={"samples": json.dumps(rows)})
    return stem


def _finish(folder: Path, stems: Sequence[str], sources: Sequence[str]) -> Cache:
    """Read the tables of contents of all shards into the index: its presence says that the cache is whole."""
    shards = [_contents(_shard(folder, stem)) for stem in stems]
    index = {"format": _FORMAT, "sources": list(sources), "shards": shards}
    write_bytes(folder / _INDEX, json.dumps(index).encode())
    return Cache(folder)


def _contents(path: Path) -> dict[str, Any]:
    with path.open("rb") as file:
        (length,) = struct.unpack("<Q", file.read(8))
        header = json.loads(file.read(length))
    samples = json.loads(header["__metadata__"]["samples"])
    for i, sample in enumerate(samples):
        voxels, truth = header[f"{i}/voxels"], header[f"{i}/truth"]
        sample["shape"] = voxels["shape"]
        sample["voxels"] = 8 + length + voxels["data_offsets"][0]
        sample["truth"] = 8 + length + truth["data_offsets"][0]
    return {"name": path.name, "bytes": path.stat().st_size, "sha256": _sha256(path), "samples": samples}


def _sha256(path: Path) -> str:
    with path.open("rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()
