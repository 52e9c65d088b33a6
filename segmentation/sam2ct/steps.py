"""What goes into one step of the network and what comes out, for many passes at once."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import torch
from torch import Tensor


@dataclass(frozen=True, slots=True, eq=False)
class Features:
    """Image embeddings of N slices at S network pixels: (N, C/8, S/4, S/4), (N, C/4, S/8, S/8), (N, C, S/16, S/16)."""

    high: Tensor
    mid: Tensor
    low: Tensor

    def take(self, index: int) -> Features:
        """Copy slice ``index``, so that the rest of the batch can be freed."""
        one = slice(index, index + 1)
        return Features(self.high[one].clone(), self.mid[one].clone(), self.low[one].clone())

    @staticmethod
    def cat(parts: Sequence[Features]) -> Features:
        """Put the slices of several together."""
        if len(parts) == 1:
            return parts[0]
        return Features(*(torch.cat(maps) for maps in zip(*((p.high, p.mid, p.low) for p in parts), strict=True)))

    @property
    def n_bytes(self) -> int:
        """Memory that they hold."""
        return self.high.nbytes + self.mid.nbytes + self.low.nbytes


@dataclass(frozen=True, slots=True, eq=False)
class PointPrompt:
    """(B, P, 2) network pixel-centre (x, y) and (B, P) labels; every row has P points."""

    points: Tensor
    labels: Tensor


@dataclass(frozen=True, slots=True, eq=False)
class Recall:
    """What B passes remember when they come to their next slice.

    Parameters
    ----------
    memories
        (B, T, M, S/16, S/16), the prompted slice's first.
    distances
        (B, T) slices back, 0 for the prompted slice wherever it is, -1 where there is none.
    pointers
        (B, P, C) object pointers.
    pointer_times
        (B, P) their distance over the pointer scale; NaN where there is none.
    complete
        Nothing is missing in any row: the attention needs no mask, which is faster.

    """

    memories: Tensor
    distances: Tensor
    pointers: Tensor
    pointer_times: Tensor
    complete: bool = False


@dataclass(frozen=True, slots=True, eq=False)
class Step:
    """One slice of B passes.

    Parameters
    ----------
    logits
        (B, 1, S/4, S/4) float32; above 0 is lesion.
    iou, object_score
        (B,) the decoder's estimate of its own IoU; logit that there is an object at all.
    pointer
        (B, C).
    memory
        (B, M, S/16, S/16).

    """

    logits: Tensor
    iou: Tensor
    object_score: Tensor
    pointer: Tensor
    memory: Tensor
