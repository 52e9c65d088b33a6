"""The SAM2 family in training (sam2ct.txt 2.3.4): SAM2CT, SAM2 (FT), MedSAM2 and nano.

Training sees what inference sees: prompts, regions, images and what a pass remembers are made by the engine's own
functions.
"""

from __future__ import annotations

import json
from collections import defaultdict
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any, TypeVar

import numpy as np
import torch
import torch.nn.functional as F  # noqa: N812 - as everybody writes it
from numpy.typing import NDArray
from torch import Tensor
from torch.utils.checkpoint import checkpoint

from segmentation.prompts import Kind, drawn_prompt, simulate_prompt
from segmentation.sam2ct.checkpoints import CONFIG_KEY, FORMAT_VERSION
from segmentation.sam2ct.config import SAM2CTConfig
from segmentation.sam2ct.engine import SAM2Segmenter
from segmentation.sam2ct.frames import region_of_interest, whole_slices
from segmentation.sam2ct.model import SAM2CTModel, build_model
from segmentation.sam2ct.passes import Lesion, Pass, Section, recall
from segmentation.sam2ct.prompts import NetworkPrompt, network_prompt
from segmentation.sam2ct.steps import Features, PointPrompt, Step
from segmentation.sam2ct.weights import load_weights, warm_start
from segmentation.training.augmentation import cut, mirrored, moved, window_around
from segmentation.training.config import TrainConfig, TrainingError, Turn
from segmentation.training.losses import slice_losses
from segmentation.training.records import write_tensors
from segmentation.training.samples import Sample
from segmentation.training.trainees import Losses, Trainee
from segmentation.types import EngineError, Prompt, SegmentationError, SegmentationJob, Segmenter, Volume

_CPU = torch.device("cpu")
_UNSEEN = Section.of(np.zeros((1, 1), np.bool_), 0.0, 0.0)  # guards are of inference: training needs no sections
_ATTEMPTS = 5
"""A lesion of a pixel or two has slices on which no line has a length."""
_ENCODER = "model.image_encoder."
_TRUNK = _ENCODER + "trunk."

_Result = TypeVar("_Result")


@dataclass(frozen=True, slots=True, eq=False)
class Clip:
    """A prompted sub-volume of N slices of one lesion.

    Parameters
    ----------
    lesion
        Its job's volume holds just these slices.
    images
        (N, C, S, S) as the network takes them.
    truth
        (N, 1, S, S) share of each network pixel that is lesion.

    """

    sample_id: str
    lesion: Lesion
    images: Tensor
    truth: Tensor

    @property
    def prompted(self) -> int:
        """Place of the prompted slice."""
        return self.lesion.prompt.slice_index

    def tensors(self) -> dict[str, Tensor]:
        """Images, truth and what the network is told."""
        points = self.lesion.frame.points(self.lesion.prompt)
        return {"images": self.images, "truth": self.truth, "points": points.points, "labels": points.labels}


class Sam2Trainee(Trainee):
    """A network of the SAM2 family in training. Made by `Sam2Trainee.of`."""

    def __init__(self, model: SAM2CTModel, config: TrainConfig) -> None:
        super().__init__()
        self.model, self.config = model, config
        self.network: SAM2CTConfig = model.config
        self.name = "sam2ct" if self.network.memory_conditioned else "sam2-ft"
        if self.network.prompt_embeddings == 4:
            self.name = "medsam2"

    @classmethod
    def of(cls, config: TrainConfig, weights: str | Path | None = None) -> Sam2Trainee:
        """Start from random weights, or from ``weights``: those of SAM 2.1, or of an earlier training."""
        network = config.model
        if not isinstance(network, SAM2CTConfig):
            raise TypeError(f"{network!r} is no model of the SAM2 family")
        if weights is None:
            return cls(build_model(network, seed=config.seed), config)
        try:
            model, _ = load_weights(weights, network, **_as_given(network))
        except EngineError:
            if network.prompt_embeddings == 4:
                raise
            model, _ = warm_start(weights, network)
        return cls(model, config)

    def draw(self, sample: Sample, turn: Turn, rng: np.random.Generator) -> Clip:
        """Mirror a lesion, prompt it, cut slices with the prompted one anywhere among them, and change their greys."""
        augmentation, network = self.config.augmentation, self.network
        volume, truth = mirrored(sample.volume, sample.truth, augmentation, rng)
        drawn = self._prompt(volume, truth, turn.kind, rng)
        slices = window_around(drawn.slice_index, turn.n_slices, len(truth), rng)
        volume = cut(volume, slices, augmentation, rng)
        job = SegmentationJob(sample.sample_id, volume, (replace(drawn, slice_index=drawn.slice_index - slices.start),))
        prompt = self._told(job.prompts[0], volume)
        frame = moved(region_of_interest(whole_slices(volume, network), prompt, network), augmentation, rng)
        inside = truth[slices, frame.top : frame.top + frame.rows, frame.left : frame.left + frame.columns]
        goal = torch.from_numpy(inside.astype(np.float32))[:, None]
        if frame.transposed:
            goal = goal.transpose(-1, -2)
        goal = F.interpolate(goal, (frame.side, frame.side), mode="bilinear", antialias=True)
        lesion = Lesion(job, prompt, frame)
        return Clip(sample.sample_id, lesion, frame.images(list(range(len(volume.voxels))), network, _CPU), goal)

    def _prompt(self, volume: Volume, truth: NDArray[np.bool_], kind: Kind, rng: np.random.Generator) -> Prompt:
        """Draw a prompt that the network can be told; where a lesion has none of this kind, a click in it."""
        for attempt in range(_ATTEMPTS):
            wanted: Kind = kind if attempt < _ATTEMPTS - 1 else "point"
            drawn = draw_prompt(truth, wanted, rng, volume, as_drawn=self.config.as_drawn)
            try:
                self._told(drawn, volume)
            except SegmentationError:
                continue
            return drawn
        raise TrainingError(f"no prompt of kind {kind!r} could be drawn on a lesion of {int(truth.sum())} voxels")

    def _told(self, drawn: Prompt, volume: Volume) -> NetworkPrompt:
        told = network_prompt(drawn, volume, point_types=self.network.prompt_embeddings)
        if told is None:
            raise TrainingError(f"this network takes no prompt of type {type(drawn).__name__}: choose other kinds")
        return told

    def forward(self, items: Sequence[Clip]) -> Losses:
        """Mean over clips of the mean loss of their slices: prompt every clip, then track up and down to its ends.

        As the engine would, but without its guards.
        """
        self.model.train(self.config.dropout)
        clips = list(items)
        device = self.model.no_mem_embed.device
        starts = np.cumsum([0, *(len(clip.images) for clip in clips)])
        features: Features = self._run(self.model.encode, torch.cat([clip.images for clip in clips]).to(device))
        truth = torch.cat([clip.truth for clip in clips]).to(device)
        tally = _Tally(self)

        def of(places: Sequence[tuple[int, int]]) -> tuple[Features, Tensor, Tensor]:
            """Features, truth and weight of the slices at (clip, place in it)."""
            rows = torch.tensor([int(starts[clip]) + place for clip, place in places], device=device)
            weights = torch.tensor([1 / (len(clips) * len(clips[clip].images)) for clip, _ in places], device=device)
            return Features(features.high[rows], features.mid[rows], features.low[rows]), truth[rows], weights

        passes: list[tuple[int, Pass]] = []
        for alike in _told_alike(clips):
            seen, goal, weights = of([(i, clips[i].prompted) for i in alike])
            step = self._prompted(seen, [clips[i].lesion for i in alike])
            if clips[alike[0]].lesion.prompt.mask is None:  # a mask is taken as it is: nothing to be judged
                tally.add(step, goal, weights)
            passes += [
                (i, Pass(clips[i].lesion, way, clips[i].prompted, _UNSEEN, (step.memory[row], step.pointer[row])))
                for row, i in enumerate(alike)
                for way in (-1, 1)
            ]
        while passes := [(i, p) for i, p in passes if not p.at_end]:
            seen, goal, weights = of([(i, p.next_slice) for i, p in passes])
            step = self._run(self.model.track, seen, recall([p for _, p in passes], self.network))
            tally.add(step, goal, weights)
            for row, (_, p) in enumerate(passes):
                p.remember(_UNSEEN, (step.memory[row], step.pointer[row]), self.network)
        return tally.losses()

    def _prompted(self, seen: Features, lesions: Sequence[Lesion]) -> Step:
        if lesions[0].prompt.mask is not None:
            masks = torch.cat([lesion.frame.mask(lesion.prompt) for lesion in lesions]).to(seen.low.device)
            return self._run(self.model.prompt, seen, None, masks)
        given = [lesion.frame.points(lesion.prompt) for lesion in lesions]
        points = PointPrompt(torch.cat([p.points for p in given]), torch.cat([p.labels for p in given]))
        return self._run(self.model.prompt, seen, points)

    def _run(self, part: Callable[..., _Result], *inputs: Any) -> _Result:
        """Run a part of the network; with gradient checkpointing it is run again for its gradient."""
        if not self.config.gradient_checkpointing:
            return part(*inputs)
        result: _Result = checkpoint(part, *inputs, use_reentrant=False)
        return result

    def parameter_groups(self, config: TrainConfig) -> list[dict[str, Any]]:
        """Encoder and the rest at their rates, with the layers' decay in the trunk; biases and norms do not decay."""
        groups: defaultdict[tuple[float, float], list[Tensor]] = defaultdict(list)
        blocks = sum(self.network.backbone.stages)
        for name, parameter in self.named_parameters():
            rate = config.learning_rate
            if name.startswith(_ENCODER) and config.encoder_rate is not None:
                rate = config.encoder_rate
            rate *= config.layer_decay ** _layers_above(name, blocks)
            groups[rate, 0.0 if parameter.ndim < 2 else config.weight_decay].append(parameter)
        return [{"params": params, "lr": rate, "weight_decay": decay} for (rate, decay), params in groups.items()]

    def segmenter(self) -> Segmenter:
        """Make the engine of the weights as they are."""
        device = self.model.no_mem_embed.device
        return SAM2Segmenter(self.name, self.model, device=str(device), reload=lambda: self.model)

    def save(self, path: Path, metadata: Mapping[str, Any], *, dtype: torch.dtype = torch.float32) -> Path:
        """Write the weights as `segmentation.sam2ct.weights.load_weights` reads them."""
        inside = {
            "config": json.loads(self.network.to_json()),
            "format_version": FORMAT_VERSION,
            "training": dict(metadata),
        }
        tensors = {name: tensor.to(dtype) for name, tensor in self.model.state_dict().items()}
        return write_tensors(path, tensors, {CONFIG_KEY: json.dumps(inside, sort_keys=True)})


class _Tally:
    """Adds up the weighted losses of slices, part by part."""

    def __init__(self, trainee: Sam2Trainee) -> None:
        self._recipe, self._scores = trainee.config.loss, bool(trainee.model.scores_objects)
        self._parts: dict[str, Tensor] = {}

    def add(self, step: Step, goal: Tensor, weights: Tensor) -> None:
        # In float32 whatever the network computes in.
        with torch.autocast(goal.device.type, enabled=False):
            for name, values in slice_losses(step, goal, self._recipe, scores_objects=self._scores).items():
                self._parts[name] = self._parts.get(name, 0.0) + (weights * values).sum()

    def losses(self) -> Losses:
        if not self._parts:
            raise TrainingError("a batch of mask prompts on one slice each: choose other kinds or more slices")
        total = torch.stack(list(self._parts.values())).sum()
        return Losses(total, {name: part.detach() for name, part in self._parts.items()})


def draw_prompt(
    truth: NDArray[np.bool_], kind: Kind, rng: np.random.Generator, volume: Volume, *, as_drawn: float
) -> Prompt:
    """Simulate a prompt by section 2.2 for training, or draw a share of them with the noise of real annotators."""
    if rng.random() < as_drawn:
        return drawn_prompt(truth, kind, rng, spacing_mm=volume.spacing_mm)
    return simulate_prompt(truth, kind, rng, spacing_mm=volume.spacing_mm, training=True)


def _told_alike(clips: Sequence[Clip]) -> list[list[int]]:
    """Places of clips whose networks are told the same kinds of points, or masks."""
    found: defaultdict[tuple[int, ...], list[int]] = defaultdict(list)
    for i, clip in enumerate(clips):
        found[clip.lesion.prompt.labels].append(i)
    return list(found.values())


def _as_given(network: SAM2CTConfig) -> dict[str, Any]:
    """All fields but those that the tensors decide: a training says what its network is, whatever its weights say."""
    values = {name: getattr(network, name) for name in network.__dataclass_fields__}
    return {name: value for name, value in values.items() if name not in {"size", "prompt_embeddings"}}


def _layers_above(name: str, blocks: int) -> int:
    """Blocks of the trunk between a parameter and the trunk's end, as SAM 2 counts them for its layers' decay."""
    if not name.startswith(_TRUNK) or "pos_embed" in name:
        return 0
    head, _, rest = name.removeprefix(_TRUNK).partition(".")
    if head == "patch_embed":
        return blocks + 1
    return blocks - int(rest.partition(".")[0]) if head == "blocks" else 0
