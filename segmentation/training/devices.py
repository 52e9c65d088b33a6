"""Devices, processes and precision of a training."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

import torch

from segmentation.training.config import TrainConfig
from segmentation.types import EngineError


@contextmanager
def accelerator_for(config: TrainConfig) -> Iterator[Any]:
    """Open Accelerate, which keeps all of them in global state; it is put back.

    Raises
    ------
    EngineError
        If the device is not there, or the package accelerate.

    """
    try:
        from accelerate import Accelerator
        from accelerate.state import AcceleratorState
        from accelerate.utils import DistributedDataParallelKwargs
    except ModuleNotFoundError as error:
        raise EngineError(f"training needs the package {error.name!r}: pip install 'cohort-builder[train]'") from error
    if config.device not in {"auto", "cpu", "cuda"}:
        raise EngineError(f"a training runs on 'auto', 'cpu' or 'cuda', got {config.device!r}")
    if config.device == "cuda" and not torch.cuda.is_available():
        raise EngineError("no CUDA device is there (torch.cuda.is_available() is false); use device 'cpu' or 'auto'")
    try:
        yield Accelerator(
            mixed_precision="bf16" if config.precision == "bf16" else "no",
            cpu=config.device == "cpu" or not torch.cuda.is_available(),
            # Which parts of the network have a share in the loss depends on the turn.
            kwargs_handlers=[DistributedDataParallelKwargs(find_unused_parameters=True)],
        )
    finally:
        AcceleratorState._reset_state(reset_partial_state=True)  # noqa: SLF001 - there is no public way
