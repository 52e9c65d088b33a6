"""What a training leaves on disk: checkpoints, the log of its steps, files of tensors. Each is whole or not there."""

from __future__ import annotations

import csv
import json
import os
import re
import shutil
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from safetensors import safe_open
from safetensors.torch import load_file
from safetensors.torch import save as to_safetensors
from torch import Tensor

from segmentation.files import write_bytes
from segmentation.training.config import TrainingError
from segmentation.types import EngineError

_KEPT = 2
_CHECKPOINT = re.compile(r"step-(\d{8})")
_WEIGHTS, _OPTIMIZER, _STATE = "weights.safetensors", "optimizer.pt", "state.json"


def write_tensors(path: Path, tensors: Mapping[str, Tensor], metadata: Mapping[str, str]) -> Path:
    """Write safetensors; the same tensors give the same bytes.

    Raises
    ------
    EngineError
        If a tensor is not finite: also one that was, and is too large for half precision.

    """
    # Tensors of a training may share memory, which this format refuses.
    state = {name: tensor.detach().to("cpu", copy=True).contiguous() for name, tensor in tensors.items()}
    bad = [name for name, tensor in state.items() if not bool(torch.isfinite(tensor.float()).all())]
    if bad:
        raise EngineError(f"{path.name} is not written: NaN or infinite numbers in {len(bad)} tensors, first {bad[0]}")
    return write_bytes(path, to_safetensors(state, metadata=dict(metadata)))


@dataclass(frozen=True, slots=True, eq=False)
class Checkpoint:
    """Where a training stands after ``step`` steps.

    Parameters
    ----------
    weights
        Of the network, and under ``average.`` of the moving average of its weights.
    optimizer
        Its state.
    state
        JSON: what else there is to remember.

    """

    step: int
    weights: dict[str, Tensor]
    optimizer: dict[str, Any]
    state: dict[str, Any]


class Checkpoints:
    """The last two checkpoints of a training, in a folder of its own each."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder

    def write(self, checkpoint: Checkpoint) -> None:
        """Write a checkpoint, then remove all but the last two."""
        self.folder.mkdir(parents=True, exist_ok=True)
        final = self.folder / f"step-{checkpoint.step:08d}"
        temporary = self.folder / f".{final.name}.{os.getpid()}.tmp"
        temporary.mkdir(exist_ok=True)
        write_tensors(temporary / _WEIGHTS, checkpoint.weights, {"format": "pt"})
        torch.save(checkpoint.optimizer, temporary / _OPTIMIZER)
        write_bytes(temporary / _STATE, json.dumps({"step": checkpoint.step, **checkpoint.state}).encode())
        shutil.rmtree(final, ignore_errors=True)
        temporary.replace(final)
        for old in self._found()[:-_KEPT]:
            shutil.rmtree(old)
        for left in self.folder.glob(".*.tmp"):  # of a run that was killed while it wrote; a file: the best weights
            shutil.rmtree(left) if left.is_dir() else left.unlink()

    def read_last(self, device: torch.device) -> Checkpoint | None:
        """Read the last checkpoint; None where there is none.

        Raises
        ------
        TrainingError
            If it cannot be read.

        """
        found = self._found()
        if not found:
            return None
        try:
            state = json.loads((found[-1] / _STATE).read_text())
            weights = load_file(found[-1] / _WEIGHTS, device=str(device))
            optimizer = torch.load(found[-1] / _OPTIMIZER, map_location=device, weights_only=True)
        except Exception as error:
            raise TrainingError(
                f"the checkpoint {found[-1].name} cannot be read ({type(error).__name__}): remove its folder to go on "
                "from the one before it"
            ) from error
        return Checkpoint(int(state.pop("step")), weights, optimizer, state)

    def clear(self) -> None:
        """Remove all checkpoints."""
        for old in self._found():
            shutil.rmtree(old)

    def _found(self) -> list[Path]:
        if not self.folder.is_dir():
            return []
        return sorted(path for path in self.folder.iterdir() if _CHECKPOINT.fullmatch(path.name))


def read_header(path: Path) -> dict[str, str]:
    """Metadata of a file of safetensors."""
    with safe_open(str(path), framework="pt") as file:
        return dict(file.metadata() or {})


class Log:
    """A CSV file, a row a step; after a resume the rows of steps that are done again are left out.

    Parameters
    ----------
    before
        Rows of this step and later ones are dropped.

    """

    def __init__(self, path: Path, *, before: int) -> None:
        self.path = path
        kept = [row for row in read_log(path) if int(row["step"]) < before] if path.is_file() else []
        self._names: list[str] = list(kept[0]) if kept else []
        if kept:
            lines = [",".join(self._names), *(",".join(row.values()) for row in kept)]
            write_bytes(path, ("\n".join(lines) + "\n").encode())
        else:
            path.unlink(missing_ok=True)
        self._file = path.open("a", newline="")
        self._writer = csv.writer(self._file, lineterminator="\n")

    def add(self, row: Mapping[str, object]) -> None:
        """Write a row; the first one decides about the columns."""
        if not self._names:
            self._names = list(row)
            self._writer.writerow(self._names)
        self._writer.writerow([_shown(row.get(name, "")) for name in self._names])
        self._file.flush()

    def close(self) -> None:
        """Close the file."""
        self._file.close()


def read_log(path: Path) -> list[dict[str, str]]:
    """Rows of a log; the last one is left out where a run was killed while it wrote it."""
    with path.open(newline="") as file:
        text = file.read()
    rows = list(csv.DictReader(text[: text.rfind("\n") + 1].splitlines()))
    return [row for row in rows if None not in row.values() and None not in row]


def _shown(value: object) -> str:
    return f"{value:.9g}" if isinstance(value, float) else str(value)


class Board:
    """TensorBoard, where it is installed; nothing otherwise."""

    def __init__(self, folder: Path, *, first_step: int) -> None:
        try:
            from torch.utils.tensorboard import SummaryWriter
        except ImportError:
            self._writer: Any = None
        else:
            self._writer = SummaryWriter(str(folder), purge_step=first_step)

    def add(self, values: Mapping[str, float], step: int) -> None:
        """Write scalars."""
        if self._writer is not None:
            for name, value in values.items():
                self._writer.add_scalar(name, value, step)

    def close(self) -> None:
        """Write what is not yet written."""
        if self._writer is not None:
            self._writer.close()


def write_bad_batch(
    folder: Path, step: int, items: Sequence[Any], about: Mapping[str, object], *, rank: int = 0
) -> Path:
    """Keep the batch whose loss is no number: its tensors, and a JSON file that says how it was drawn."""
    place = folder / (f"bad-step-{step:08d}" + (f"-process-{rank}" if rank else ""))
    place.mkdir(parents=True, exist_ok=True)
    tensors = {f"{i}/{name}": tensor for i, item in enumerate(items) for name, tensor in item.tensors().items()}
    data = to_safetensors({name: tensor.detach().to("cpu", copy=True).contiguous() for name, tensor in tensors.items()})
    write_bytes(place / "batch.safetensors", data)
    described = {"step": step, "samples": [item.sample_id for item in items], **about}
    write_bytes(place / "batch.json", json.dumps(described, indent=1, default=str).encode())
    return place
