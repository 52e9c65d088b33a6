"""What can be trained: how it draws a lesion, what it loses on a batch, and the engine that it becomes."""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any, NamedTuple, Protocol

import numpy as np
import torch
from torch import Tensor, nn

from segmentation.sam2ct.checkpoints import sha256_of
from segmentation.sam2ct.config import SAM2CTConfig
from segmentation.training.config import TrainConfig, Turn
from segmentation.training.samples import Sample
from segmentation.types import Segmenter

__all__ = ["Item", "Losses", "Trainee", "Turn", "make_trainee"]


class Item(Protocol):
    """One lesion of a batch, on the CPU: what `Trainee.draw` makes and `Trainee.forward` takes. It can be pickled."""

    @property
    def sample_id(self) -> str:
        """Of the sample it was drawn from."""
        ...

    def tensors(self) -> Mapping[str, Tensor]:
        """All that is needed to look at it, should its loss be no number."""
        ...


class Losses(NamedTuple):
    """Loss of a batch: a mean over its lesions, so that a batch may be split over processes.

    Parameters
    ----------
    total
        () float32 with a gradient.
    parts
        () each, without a gradient, by the same names in every step; they add up to ``total``.

    """

    total: Tensor
    parts: dict[str, Tensor]


class Trainee(nn.Module, ABC):
    """A network in training.

    Parameters
    ----------
    name
        Of the engine that it becomes.
    started_from
        SHA-256 of the weights that it began with; None: random ones.

    """

    name: str
    started_from: str | None = None

    @abstractmethod
    def draw(self, sample: Sample, turn: Turn, rng: np.random.Generator) -> Item:
        """Augment a sample, prompt it and make its tensors: on the CPU, in another process, without the weights.

        All chance is taken from ``rng``.
        """

    @abstractmethod
    def forward(self, items: Sequence[Any]) -> Losses:
        """Loss of the items of one turn; they are moved to the network's device here."""

    @abstractmethod
    def parameter_groups(self, config: TrainConfig) -> list[dict[str, Any]]:
        """Groups for the optimizer: ``params``, ``lr`` at the peak and ``weight_decay`` each."""

    @abstractmethod
    def segmenter(self) -> Segmenter:
        """Make the engine of the weights as they are, in eval mode, on their device; valid until the next step."""

    @abstractmethod
    def save(self, path: Path, metadata: Mapping[str, Any], *, dtype: torch.dtype = torch.float32) -> Path:
        """Write the weights as the engine reads them, with ``metadata`` (JSON) in their header; whole or not at all."""


def make_trainee(config: TrainConfig, weights: str | Path | None = None) -> Trainee:
    """Make the network of a configuration.

    Parameters
    ----------
    weights
        To start from; None: random weights, by ``config.seed``.

    Raises
    ------
    EngineError
        If the weights cannot be read, or are of another network.
    ValueError
        If the network is unknown.

    """
    trainee: Trainee
    if isinstance(config.model, SAM2CTConfig):
        from segmentation.training.sam2 import Sam2Trainee

        trainee = Sam2Trainee.of(config, weights)
    else:
        from segmentation.volumetric.training import VolumetricTrainee

        trainee = VolumetricTrainee.of(config, weights)
    if weights is not None:
        trainee.started_from = sha256_of(Path(weights))
    return trainee
