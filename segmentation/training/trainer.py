"""The loop: batches in, a weights file with its card out. Interrupted at any moment, it goes on where it stood."""

from __future__ import annotations

import json
import logging
import time
from collections.abc import Iterator, Mapping
from contextlib import ExitStack, closing, contextmanager
from math import inf
from pathlib import Path
from typing import Any, cast

import numpy as np
import torch
from safetensors.torch import load_file
from torch import Tensor
from torch.optim.swa_utils import AveragedModel
from tqdm import tqdm

from segmentation.training.cache import Cache
from segmentation.training.card import Outcome, Provenance, write_card
from segmentation.training.claim import CLAIM, claim
from segmentation.training.config import TrainConfig, TrainingError
from segmentation.training.devices import accelerator_for
from segmentation.training.loader import batches_from, cards_of, shares_of
from segmentation.training.pictures import draw_predictions
from segmentation.training.records import (
    Board,
    Checkpoint,
    Checkpoints,
    Log,
    read_header,
    read_log,
    write_bad_batch,
    write_tensors,
)
from segmentation.training.trainees import Losses, Trainee
from segmentation.training.validation import judge, means

logger = logging.getLogger("segmentation")

WEIGHTS, CARD, LOG = "weights.safetensors", "card.md", "log.csv"
_VALIDATION = "validation.csv"
_AVERAGE = "average."


def train(
    trainee: Trainee,
    cache: Cache,
    config: TrainConfig,
    out: str | Path,
    *,
    resume: bool = True,
    progress: bool = True,
    provenance: Provenance | None = None,
) -> Path:
    """Train, or go on with the training that ``out`` holds.

    ``out`` gets ``weights.safetensors`` (the best by validation; without lesions to validate on, the last),
    ``card.md``, ``log.csv`` (a row a step), ``validation.csv``, ``pictures/``, ``checkpoints/`` and ``tensorboard/``.
    Where it stops before the end (``config.minutes``) the weights are those so far, and the same call goes on.

    Parameters
    ----------
    trainee
        Trained in place.
    resume
        False: begin anew; what an earlier training left in ``out`` is removed.
    provenance
        For the card: where the lesions come from.

    Returns
    -------
    The weights file.

    Raises
    ------
    TrainingError
        If there is nothing to learn from, ``out`` holds another training, or a loss is no number and
        ``config.on_nan`` says to stop: the batch is then kept in ``out``.
    EngineError
        If the device is not there, or the package accelerate.

    """
    # Before anything is written: this refuses what has nothing to learn from, or cannot be divided.
    config = config.with_steps(cards_of(shares_of(cache, config)))
    with accelerator_for(config) as accelerator:
        config.require_processes(accelerator.num_processes)
        run = _Run(accelerator, trainee, cache, config, Path(out), progress=progress)
        try:
            run.begin(resume=resume)
            run.go_on()
        finally:
            run.close()
        return run.end(provenance or Provenance())


class _Run:
    def __init__(
        self, accelerator: Any, trainee: Trainee, cache: Cache, config: TrainConfig, out: Path, *, progress: bool
    ) -> None:
        self.accelerator, self.cache, self.config, self.out = accelerator, cache, config, out
        self.trainee, self.progress = trainee.to(accelerator.device), progress
        self.started, self.step = time.monotonic(), 0
        self.skipped, self.seconds, self.stopped = 0, 0.0, False
        self.checkpoints = Checkpoints(out / "checkpoints")
        self.average = AveragedModel(self.trainee, multi_avg_fn=_averaging(config.ema)) if config.ema else None
        groups = trainee.parameter_groups(config)
        for group in groups:
            group["peak"] = group["lr"]
        self.optimizer = torch.optim.AdamW(groups, betas=config.betas, fused=True)
        self.parameters = [parameter for group in groups for parameter in group["params"]]
        self.model: Any = None
        self.open = ExitStack()

    @property
    def is_main(self) -> bool:
        return bool(self.accelerator.is_main_process)

    # ---- begin and end ------------------------------------------------------------------------------------------

    def begin(self, *, resume: bool) -> None:
        """Read what there is to go on from."""
        self.out.mkdir(parents=True, exist_ok=True)
        if self.is_main:
            if not resume:
                self.checkpoints.clear()
                for name in (CLAIM, _VALIDATION, LOG, "checkpoints/best.safetensors"):
                    (self.out / name).unlink(missing_ok=True)
            claim(self.out, self.trainee, self.config, self.cache.digest)
        self.accelerator.wait_for_everyone()
        last = self.checkpoints.read_last(self.accelerator.device)
        if last is not None:
            self._restore(last)
        self.model = self.accelerator.prepare(self.trainee)
        if self.is_main:
            self.log = self.open.enter_context(closing(Log(self.out / LOG, before=self.step)))
            self.validations = self.open.enter_context(closing(Log(self.out / _VALIDATION, before=self.step + 1)))
            self.board = self.open.enter_context(closing(Board(self.out / "tensorboard", first_step=self.step)))

    def _restore(self, last: Checkpoint) -> None:
        own = {name: tensor for name, tensor in last.weights.items() if not name.startswith(_AVERAGE)}
        self.trainee.load_state_dict(own)
        if self.average is not None:
            averaged = {n.removeprefix(_AVERAGE): t for n, t in last.weights.items() if n.startswith(_AVERAGE)}
            self.average.load_state_dict(averaged)
        self.optimizer.load_state_dict(last.optimizer)
        self.step, self.skipped, self.seconds = last.step, last.state["skipped"], last.state["seconds"]

    def close(self) -> None:
        """Close what is written to, and take from the trainee what Accelerate put around it."""
        self.open.close()
        if self.model is not None:
            self.accelerator.unwrap_model(self.model, keep_fp32_wrapper=False)

    def end(self, provenance: Provenance) -> Path:
        """Write weights and card."""
        path = self.out / WEIGHTS
        self.accelerator.wait_for_everyone()
        if not self.is_main:
            return path
        judged = self._best()
        chosen = self._averaged()
        at = self.step
        if judged is not None:
            chosen.load_state_dict(load_file(self._best_path, device=str(self.accelerator.device)))
            at = int(judged["step"])
        outcome = Outcome(
            steps=self.step,
            weights_step=at,
            dice=None if judged is None else float(judged["dice"]),
            skipped=self.skipped,
            seconds=self.seconds,
            log=read_log(self.out / LOG) if self.step else [],
            validation=read_log(self.out / _VALIDATION) if (self.out / _VALIDATION).is_file() else [],
        )
        about = {
            "preset": self.config.preset,
            "seed": self.config.seed,
            "steps": at,
            "of_steps": self.config.total_steps,
            "lesions_sha256": self.cache.digest,
            "manifest_sha256": provenance.manifest_sha256,
        }
        dtype = torch.float16 if self.config.dtype == "fp16" else torch.float32
        chosen.save(path, about, dtype=dtype)
        write_card(
            self.out / CARD, weights=path, cache=self.cache, config=self.config, origin=provenance, outcome=outcome
        )
        return path

    # ---- steps --------------------------------------------------------------------------------------------------

    def go_on(self) -> None:
        """Take the steps that are left."""
        config, accelerator = self.config, self.accelerator
        batches = batches_from(
            self.step,
            self.trainee,
            self.cache,
            config,
            rank=accelerator.process_index,
            processes=accelerator.num_processes,
        )
        bar = tqdm(
            total=config.total_steps, initial=self.step, disable=not (self.progress and self.is_main), unit="step"
        )
        with bar:
            while self.step < config.total_steps and not self.stopped:
                begun = time.monotonic()
                items = next(batches)
                waited = time.monotonic() - begun
                numbers = self._take(items)
                seconds = time.monotonic() - begun
                self.seconds += seconds
                if self.is_main:
                    self._note({**numbers, "seconds": seconds, "waited": waited})
                    bar.set_postfix(loss=f"{numbers['loss']:.3f}", waited=f"{waited / seconds:.0%}", refresh=False)
                    bar.update()
                self.step += 1
                self._look()
        self._checkpoint()

    def _take(self, items: list[Any]) -> dict[str, float]:
        """Take one step, unless its loss or gradient is no number."""
        factor = self.config.rate(self.step)
        for group in self.optimizer.param_groups:
            group["lr"] = group["peak"] * factor
        norm = inf
        with self._chance():
            losses: Losses = self.model(items)
            late = float(self.config.minutes is not None and self._minutes >= self.config.minutes)
            stacked = torch.stack([losses.total.detach().float(), *losses.parts.values()])
            total, *parts, late = self.accelerator.reduce(
                torch.cat([stacked, stacked.new_tensor([late])]), reduction="mean"
            ).tolist()
            if np.isfinite(total):
                self.accelerator.backward(losses.total)
                norm = float(self.accelerator.clip_grad_norm_(self.parameters, self.config.clip_norm or inf))
        if np.isfinite(norm):
            self.optimizer.step()
            if self.average is not None:
                self.average.update_parameters(self.trainee)
        self.optimizer.zero_grad(set_to_none=True)
        self.stopped = late > 0
        numbers = {"loss": total, **dict(zip(losses.parts, parts, strict=True)), "grad_norm": norm}
        if not np.isfinite(norm):
            self._refuse(items, numbers)
        return numbers

    @contextmanager
    def _chance(self) -> Iterator[None]:
        """Seed what the network draws (drop-out) by the step, and leave the random state of the program alone."""
        device = self.accelerator.device
        devices = [device] if device.type == "cuda" else []
        with torch.random.fork_rng(devices=devices, enabled=self.config.dropout):
            if self.config.dropout:
                words = np.random.SeedSequence([self.config.seed, self.step, self.accelerator.process_index])
                torch.manual_seed(int(words.generate_state(1)[0]))
            yield

    def _refuse(self, items: list[Any], numbers: Mapping[str, float]) -> None:
        """Keep the batch whose loss or gradient is no number and stop, or count it."""
        self.skipped += 1
        if self.config.on_nan == "skip":
            if self.skipped > self.config.most_skipped:
                raise TrainingError(
                    f"{self.skipped} steps had a loss or gradient that is no number, the last {self.step}"
                )
            return
        turn = self.config.turn(self.step)
        about = {"seed": self.config.seed, "kind": turn.kind, "slices": turn.n_slices, **numbers}
        place = write_bad_batch(self.out, self.step, items, about, rank=self.accelerator.process_index)
        raise TrainingError(
            f"the loss or gradient of step {self.step} is no number: the batch is kept in {place.name}; the last"
            " checkpoint stands. A lower learning rate or fp32 may help; --on-nan skip leaves such steps out"
        )

    @property
    def _minutes(self) -> float:
        return (time.monotonic() - self.started) / 60

    # ---- in between ---------------------------------------------------------------------------------------------

    def _note(self, numbers: Mapping[str, float]) -> None:
        turn = self.config.turn(self.step)
        rate = self.config.rate(self.step) * self.config.learning_rate
        row = {"step": self.step, **numbers, "rate": rate, "kind": turn.kind, "slices": turn.n_slices}
        self.log.add({**row, "skipped": self.skipped})
        self.board.add({f"train/{name}": value for name, value in {**numbers, "rate": rate}.items()}, self.step)

    def _look(self) -> None:
        """Write a checkpoint, validate and draw, where it is time to."""
        config = self.config
        last = self.step == config.total_steps

        def due(every: int) -> bool:
            return every > 0 and (self.step % every == 0 or last)

        if due(config.checkpoint_every) and not last:
            self._checkpoint()
        if due(config.validate_every) or due(config.picture_every):
            if self.is_main:
                self._validate(draw=due(config.picture_every))
            self.accelerator.wait_for_everyone()

    def _validate(self, *, draw: bool) -> None:
        trainee = self._averaged()
        judged = judge(trainee, self.cache, self.config)
        scores = means(judged)
        if self.cache.indices("val"):
            self.validations.add({"step": self.step, "lesions": len(judged), **scores})
            self.board.add({f"validation/{name}": value for name, value in scores.items()}, self.step)
            best = self._best()
            if best is None or scores["all"] > float(best["dice"]):
                header = {"about": json.dumps({"step": self.step, "dice": scores["all"]})}
                self._best_path.parent.mkdir(parents=True, exist_ok=True)
                write_tensors(self._best_path, trainee.state_dict(), header)
        if draw:
            draw_predictions(judged[: self.config.pictures], self.out / "pictures" / f"step-{self.step:08d}.png")

    @property
    def _best_path(self) -> Path:
        return self.out / "checkpoints" / "best.safetensors"

    def _best(self) -> dict[str, Any] | None:
        """Step and Dice of the best weights so far, which say so themselves."""
        if not self._best_path.is_file():
            return None
        found: dict[str, Any] = json.loads(read_header(self._best_path)["about"])
        return found

    def _averaged(self) -> Trainee:
        """The trainee whose weights count."""
        return self.trainee if self.average is None else cast("Trainee", self.average.module)

    def _checkpoint(self) -> None:
        if self.is_main:
            weights: dict[str, Tensor] = dict(self.trainee.state_dict())
            if self.average is not None:
                weights |= {_AVERAGE + name: tensor for name, tensor in self.average.state_dict().items()}
            state = {"skipped": self.skipped, "seconds": self.seconds}
            self.checkpoints.write(Checkpoint(self.step, weights, self.optimizer.state_dict(), state))
        self.accelerator.wait_for_everyone()


def _averaging(decay: float) -> Any:
    """Moving average whose memory grows with the steps taken, up to ``decay``: it forgets the random weights."""

    @torch.no_grad()
    def update(averaged: list[Tensor], current: list[Tensor], taken: Tensor | int) -> None:
        n = int(taken)
        torch._foreach_lerp_(averaged, current, 1 - min(decay, (1 + n) / (10 + n)))

    return update
