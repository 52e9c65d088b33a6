"""A folder belongs to one training: what that is stands in ``training.json``."""

from __future__ import annotations

import json
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from segmentation.files import write_bytes
from segmentation.training.config import TrainConfig, TrainingError
from segmentation.training.devices import accelerator_for
from segmentation.training.trainees import Trainee

CLAIM = "training.json"


def claim(out: Path, trainee: Trainee, config: TrainConfig, lesions: str) -> None:
    """Write down what a training is, or refuse to go on with another one.

    Parameters
    ----------
    lesions
        Digest of their cache.

    Raises
    ------
    TrainingError
        If ``out`` holds another training.

    """
    path = out / CLAIM
    mine = _identity(trainee, config) | {"lesions": lesions}
    if path.is_file():
        _require_same(path, mine)
    else:
        write_bytes(path, json.dumps(mine, indent=1).encode())


def check_start(trainee: Trainee, config: TrainConfig, out: Path, *, resume: bool) -> None:
    """Find what would stop a training before its lesions are cut out, which may take hours.

    Raises
    ------
    TrainingError
        If ``out`` holds another training that is to be resumed.
    EngineError
        If the device is not there, or the package accelerate.

    """
    with accelerator_for(config) as accelerator:
        config.require_processes(accelerator.num_processes)
    path = out / CLAIM
    if resume and path.is_file():
        mine = _identity(trainee, config)
        if config.epochs is not None:  # the number of lesions decides about the steps
            del mine["config"]["steps"]
        _require_same(path, mine)


def _identity(trainee: Trainee, config: TrainConfig) -> dict[str, Any]:
    """What a training is, but for its lesions."""
    return {"config": config.curve(), "weights": trainee.started_from}


def _require_same(path: Path, mine: Mapping[str, Any]) -> None:
    theirs = json.loads(path.read_text())
    before, now = ({**what, **what["config"]} for what in (theirs, mine))
    changed = [f"{name} was {before.get(name)!r}" for name in now if name != "config" and before.get(name) != now[name]]
    if changed:
        raise TrainingError(
            f"{path.parent} holds another training ({'; '.join(changed)}): give the same options to go on with it,"
            " another folder, or say to begin anew"
        )
