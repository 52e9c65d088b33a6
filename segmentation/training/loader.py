"""Batches, drawn ahead of the network by other processes. All chance comes from seed, step and row."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from functools import lru_cache
from typing import Any

import numpy as np
import torch
from torch.utils.data import DataLoader, Dataset

from segmentation.training.cache import Cache
from segmentation.training.config import TrainConfig, TrainingError
from segmentation.training.trainees import Trainee

_AHEAD = 4
"""Batches that each process has ready."""
_DECK = 0xDECC
"""Tells the numbers that order an epoch from those that draw a lesion."""


Shares = tuple[tuple[int, float], ...]
"""Places in a cache, each with how often an epoch deals it."""


class Batches(Dataset[list[Any]]):
    """The batch of every step, for one of several processes."""

    def __init__(
        self, trainee: Trainee, cache: Cache, config: TrainConfig, *, rank: int = 0, processes: int = 1
    ) -> None:
        self._trainee, self._cache, self._config = trainee, cache, config
        self._rank, self._processes = rank, processes
        self._shares = shares_of(cache, config)
        config.require_processes(processes)
        rows = [config.rows(config.turn(step).n_slices) for step in range(config.total_steps)]
        self._dealt = np.cumsum([0, *rows])

    def __len__(self) -> int:
        return self._config.total_steps

    def __getitem__(self, step: int) -> list[Any]:
        config = self._config
        turn = config.turn(step)
        n_rows = config.rows(turn.n_slices) // self._processes
        rows = range(self._rank * n_rows, (self._rank + 1) * n_rows)
        return [
            self._trainee.draw(
                self._cache[self.place(step, row)], turn, np.random.default_rng([config.seed, step, row])
            )
            for row in rows
        ]

    def place(self, step: int, row: int) -> int:
        """Place in the cache of a row: an epoch deals every lesion once, or as often as its data set is repeated."""
        epoch, place = divmod(int(self._dealt[step]) + row, cards_of(self._shares))
        return _deck(self._shares, self._config.seed, epoch)[place]


def shares_of(cache: Cache, config: TrainConfig) -> Shares:
    """Training lesions of a cache, each with how often an epoch deals it.

    Raises
    ------
    TrainingError
        If there are none, or a data set that is to be repeated has none.

    """
    shares = dict.fromkeys(cache.indices("train"), 1.0)
    for dataset, factor in config.repeats:
        named = cache.indices("train", dataset=dataset)
        if not named:
            raise TrainingError(f"there are no training lesions of {dataset!r} to be repeated")
        shares |= dict.fromkeys(named, factor)
    if not shares or not any(shares.values()):
        raise TrainingError("there are no lesions of the split 'train' to learn from")
    return tuple(shares.items())


def cards_of(shares: Shares) -> int:
    """Count the lesions that every epoch deals."""
    return len(_deck(shares, 0, 0))


@lru_cache(maxsize=4)
def _deck(shares: Shares, seed: int, epoch: int) -> Sequence[int]:
    """Lesions of one epoch in the order in which they are dealt; every epoch has as many."""
    rng = np.random.default_rng([seed, _DECK, epoch])
    places, factors = (np.array(values) for values in zip(*shares, strict=True))
    order = rng.permutation(len(places))
    # A systematic sample: a lesion's copies vary by one from epoch to epoch, and their sum does not.
    ends = np.floor(np.cumsum(factors[order]) + 0.5 + 1e-6)
    counts = np.diff(ends, prepend=0).astype(int)
    deck = np.repeat(places[order], counts)
    return tuple(int(i) for i in rng.permutation(deck))


def batches_from(
    first: int, trainee: Trainee, cache: Cache, config: TrainConfig, *, rank: int = 0, processes: int = 1
) -> Iterator[list[Any]]:
    """Batches of the steps from ``first`` on."""
    data = Batches(trainee, cache, config, rank=rank, processes=processes)
    steps = range(first, config.total_steps)
    if config.workers == 0:
        return (data[step] for step in steps)
    loader: DataLoader[list[Any]] = DataLoader(
        data,
        batch_size=None,
        sampler=steps,
        num_workers=config.workers,
        prefetch_factor=_AHEAD,
        # Without one of its own it would draw from the random state of the program.
        generator=torch.Generator().manual_seed(config.seed),
    )
    return iter(loader)
