"""Image embeddings of slices, encoded once for all lesions that need them."""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Iterable, Sequence
from dataclasses import dataclass, field
from math import inf

from torch import Tensor, cat

from segmentation.sam2ct.frames import Frame
from segmentation.sam2ct.model import SAM2CTModel
from segmentation.sam2ct.passes import Lesion, Pass
from segmentation.sam2ct.steps import Features

Key = tuple[Frame, int]
"""A slice of a volume as the network sees it."""

_ENCODER_BATCH = 16
"""Slices in one call of the image encoder: more do not fill a GPU better, and their activations are large."""


_SOON = 32
"""Steps: hardly a lesion reaches farther from its prompt, and what is kept must not grow with the slices."""


class FeatureStore:
    """Encodes slices on demand and keeps them while a lesion may come to them, within ``budget_mb``."""

    def __init__(self, model: SAM2CTModel, budget_mb: float) -> None:
        self._model = model
        self._budget = budget_mb * 1e6
        self._kept: dict[Key, Features] = {}

    def get(self, keys: Sequence[Key]) -> Features:
        """Embeddings of ``keys``, in their order; all frames of one network size."""
        missing = [key for key in dict.fromkeys(keys) if key not in self._kept]
        for start in range(0, len(missing), _ENCODER_BATCH):
            self._encode(missing[start : start + _ENCODER_BATCH])
        return Features.cat([self._kept[key] for key in keys])

    def _encode(self, keys: Sequence[Key]) -> None:
        device = self._model.no_mem_embed.device
        images: list[Tensor] = [frame.images([z], self._model.config, device) for frame, z in keys]
        features = self._model.encode(cat(images))
        for i, key in enumerate(keys):
            self._kept[key] = features.take(i)

    def forget(self, passes: Iterable[Pass], waiting: Iterable[Lesion]) -> None:
        """Drop the slices that no lesion can come to, and beyond the budget those that are farthest from any."""
        reach: defaultdict[Frame, _Reach] = defaultdict(_Reach)
        for p in passes:
            (reach[p.lesion.frame].up if p.direction > 0 else reach[p.lesion.frame].down).append(p.next_slice)
        for lesion in waiting:
            reach[lesion.frame].here.append(lesion.prompt.slice_index)
        self._kept = {(f, z): kept for (f, z), kept in self._kept.items() if f in reach and reach[f].holds(z)}
        total = sum(features.n_bytes for features in self._kept.values())
        if total <= self._budget:
            return
        for frame, z in sorted(self._kept, key=lambda key: reach[key[0]].steps_to(key[1]), reverse=True):
            total -= self._kept.pop((frame, z)).n_bytes
            if total <= self._budget:
                return

    def clear(self) -> None:
        """Drop everything."""
        self._kept.clear()


@dataclass(slots=True)
class _Reach:
    """Where the lesions of one frame are: next slices of passes up and down, slices of prompts that wait."""

    up: list[int] = field(default_factory=list)
    down: list[int] = field(default_factory=list)
    here: list[int] = field(default_factory=list)

    def holds(self, z: int) -> bool:
        """Whether some lesion may soon come to slice ``z``."""
        return self.steps_to(z) <= _SOON

    def steps_to(self, z: int) -> float:
        """Least number of steps until one may; infinite if none will."""
        ahead = [z - n for n in self.up if n <= z] + [n - z for n in self.down if n >= z]
        return min([*ahead, *(abs(z - n) for n in self.here)], default=inf)
