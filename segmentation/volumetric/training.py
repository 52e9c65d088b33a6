"""Volumetric networks in training: boxes and prompts as the engines see them, with the losses of the recipe."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from functools import partial
from math import cos, sin
from pathlib import Path
from typing import TYPE_CHECKING, Any, cast

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor, nn

from segmentation.prompts import Kind, drawn_prompt, simulate_prompt
from segmentation.training.augmentation import mirrored, other_greys
from segmentation.training.config import TrainConfig, TrainingError, Turn
from segmentation.training.losses import cross_entropy_loss, dice_loss, focal_loss
from segmentation.training.samples import Sample
from segmentation.training.trainees import Losses, Trainee
from segmentation.types import EngineError, Prompt, SegmentationError, Segmenter, Volume
from segmentation.volumetric.aims import Aim, aim_at_section, aim_of
from segmentation.volumetric.config import SUB_VOLUME, Config, PatchConfig, UNet3DConfig
from segmentation.volumetric.engine import BoxSegmenter
from segmentation.volumetric.frames import FloatArray, Frame
from segmentation.volumetric.frames import sample as cut_out
from segmentation.volumetric.inputs import assemble, draw, guide_at, image_of
from segmentation.volumetric.networks import UNet3D, build_network
from segmentation.volumetric.patches import patch_hu, patch_of, patch_values, region_of
from segmentation.volumetric.patchwork import PatchSegmenter
from segmentation.volumetric.weights import engine_of, load_network, save_network

if TYPE_CHECKING:
    from segmentation.sam2ct.nano import NanoModel

_ATTEMPTS = 5
"""A lesion of a pixel or two has slices on which no line has a length."""
_PLACE = 0x51A9
"""Tells the numbers that place a sub-volume from those that draw a lesion."""
_SECOND_LOOKS = 0.25
"""Share of arrows and clicks that are drawn as their second look: at a section as found, not at what was drawn."""
_NARROWED = 0.3
"""How often a side of the sub-volume comes nearer to the lesion."""
_UNSURE = 0.06
"""Spread of a second look's measures beside those of a drawn one."""


@dataclass(frozen=True, slots=True, eq=False)
class Boxed:
    """One prompted lesion in a box.

    Parameters
    ----------
    values
        (channels, z, v, u) as the network takes them.
    constants
        Numbers that go with them; none for the comparators.
    truth
        (1, z, v, u) share of each sample that is lesion.
    first
        First slice of the sub-volume that a tracker passes through, the same for all boxes of a step.

    """

    sample_id: str
    values: Tensor
    constants: Tensor
    truth: Tensor
    first: int = 0

    def tensors(self) -> dict[str, Tensor]:
        """All of them."""
        return {"values": self.values, "constants": self.constants, "truth": self.truth}


class VolumetricTrainee(Trainee):
    """``unet3d``, ``dynunet`` or ``swin-unetr`` in training. Made by `VolumetricTrainee.of`."""

    def __init__(self, network: nn.Module, model: Config, config: TrainConfig) -> None:
        super().__init__()
        self.network, self.model, self.config = network, model, config
        self.name = engine_of(model)

    @classmethod
    def of(cls, config: TrainConfig, weights: str | Path | None = None) -> VolumetricTrainee:
        """Start from random weights, or from ``weights`` of an earlier training.

        A tracker can also start behind the trained network of a ``unet3d``.

        Raises
        ------
        EngineError
            If the weights are of another engine or of another network than ``config`` says, or MONAI is missing.

        """
        model = config.model
        if not isinstance(model, UNet3DConfig | PatchConfig):
            raise TypeError(f"{model!r} is no volumetric network")
        if weights is None:
            return cls(build_network(model, seed=config.seed), model, config)
        network, found = load_network(weights)
        if found.config == model:
            return cls(network, model, config)
        if not (isinstance(model, UNet3DConfig) and found.config == replace(model, tracker="none")):
            raise EngineError(f"the weights are of {found.config}, to be trained is {model}")
        tracker = cast("NanoModel", build_network(model, seed=config.seed))
        tracker.encoder.load_state_dict(network.state_dict())
        return cls(tracker, model, config)

    def draw(self, sample: Sample, turn: Turn, rng: np.random.Generator) -> Boxed:
        """Mirror a lesion, prompt it, and cut a box around the prompt; ``turn.n_slices`` means nothing here."""
        volume, truth = _narrowed(sample.volume, sample.truth, rng)
        volume, truth = mirrored(volume, truth, self.config.augmentation, rng)
        seen = replace(sample, volume=volume, truth=truth)
        prompt, aim = self._prompt(seen, turn.kind, rng)
        if isinstance(self.model, PatchConfig):
            return self._patch(seen, prompt, aim, rng)
        # From a stream of its own, so that every kind of prompt meets every place in the sub-volume.
        place = np.random.default_rng([self.config.seed, _PLACE, turn.step]).integers(SUB_VOLUME)
        return replace(self._box(seen, aim, rng), first=self.model.side // 2 - int(place))

    def _prompt(self, sample: Sample, kind: Kind, rng: np.random.Generator) -> tuple[Prompt, Aim]:
        """Draw a prompt that says something; where a lesion has none of this kind, a click in it."""
        volume, truth = sample.volume, sample.truth
        for attempt in range(_ATTEMPTS):
            wanted: Kind = kind if attempt < _ATTEMPTS - 1 else "point"
            as_drawn = rng.random() < self.config.as_drawn
            draw_one = drawn_prompt if as_drawn else partial(simulate_prompt, training=True)
            drawn = draw_one(truth, wanted, rng, spacing_mm=volume.spacing_mm)
            try:
                return drawn, aim_of(drawn, volume)
            except SegmentationError:
                continue
        raise TrainingError(f"no prompt of kind {kind!r} could be drawn on a lesion of {int(truth.sum())} voxels")

    def _box(self, sample: Sample, aim: Aim, rng: np.random.Generator) -> Boxed:
        model, augmentation = cast("UNet3DConfig", self.model), self.config.augmentation
        volume, truth = sample.volume, sample.truth
        free = aim.length_mm is None
        spread = augmentation.shift / 4
        if free and rng.random() < _SECOND_LOOKS and truth[aim.slice_index].any():
            aim, free, spread = _second_look(volume, truth, aim.slice_index), False, spread + _UNSURE
        aim = _jittered(aim, spread, rng)
        unit = aim.length_mm or float(rng.choice(model.free_mm) * np.exp(rng.uniform(-0.2, 0.2)))
        z, v = np.exp(rng.uniform(-augmentation.zoom, augmentation.zoom, 2))
        guide = guide_at(aim, unit, volume.spacing_mm, model, (float(z), float(v)))
        hu = self._greys(image_of(volume, guide), rng)
        values, constants = assemble(hu, draw(volume, guide, model), guide, volume.spacing_mm, model)
        return _boxed(sample, values, constants, guide.frame)

    def _patch(self, sample: Sample, prompt: Prompt, aim: Aim, rng: np.random.Generator) -> Boxed:
        model, augmentation, volume = cast("PatchConfig", self.model), self.config.augmentation, sample.volume
        frame, region = patch_of(aim, volume.spacing_mm, model), region_of(aim, volume, model)
        # Anywhere in the region that the engine slides over: most of its patches are not in the middle.
        side, room = 2 * np.asarray(frame.half_mm), np.asarray(region.half_mm) - frame.half_mm
        shift = rng.uniform(-1, 1, 3) * (room + augmentation.shift * side)
        z, y, x = (float(c + s) for c, s in zip(region.centre_mm, shift, strict=True))
        frame = replace(frame, centre_mm=(z, y, x))
        hu = self._greys(patch_hu(volume, frame, model), rng)
        values = patch_values(hu, volume, prompt, frame, model)
        return _boxed(sample, values, np.zeros(0, np.float32), frame)

    def _greys(self, hu: FloatArray, rng: np.random.Generator) -> FloatArray:
        return other_greys(np.rint(hu).astype(np.int16), self.config.augmentation, rng).astype(np.float32)

    def forward(self, items: Sequence[Boxed]) -> Losses:
        """Mean over boxes of the recipe's losses."""
        self.network.train()
        device = next(self.network.parameters()).device
        values, truth = (
            torch.stack([getattr(item, part) for item in items]).to(device) for part in ("values", "truth")
        )
        constants = torch.stack([item.constants for item in items]).to(device)
        judged: dict[str, tuple[Tensor, Tensor]] = {}  # prefix of its losses, logits and truth
        if isinstance(self.network, UNet3D):
            judged[""] = self.network(values, constants), truth
        elif isinstance(self.model, PatchConfig):
            judged[""] = self.network(values), truth
        else:
            tracked, guess, slices = cast("NanoModel", self.network).learn(values, constants, items[0].first)
            judged |= {"guess_": (guess, truth), "": (tracked, truth[:, :, slices])}
        recipe, parts = self.config.loss, dict[str, Tensor]()
        with torch.autocast(device.type, enabled=False):  # in float32 whatever the network computes in
            for prefix, (logits, shares) in judged.items():
                for name, weight, loss in (
                    ("focal", recipe.focal, focal_loss),
                    ("cross_entropy", recipe.cross_entropy, cross_entropy_loss),
                    ("dice", recipe.dice, dice_loss),
                ):
                    if weight:
                        parts[prefix + name] = weight * loss(logits.float(), shares).mean()
        if not parts:
            raise TrainingError("the loss of a volumetric network needs focal, cross_entropy or dice")
        return Losses(torch.stack(list(parts.values())).sum(), {name: part.detach() for name, part in parts.items()})

    def parameter_groups(self, config: TrainConfig) -> list[dict[str, Any]]:
        """All at one rate; biases and norms do not decay."""
        parameters = list(self.network.parameters())
        return [
            {
                "params": [p for p in parameters if (p.ndim >= 2) is decays],
                "lr": config.learning_rate,
                "weight_decay": config.weight_decay if decays else 0.0,
            }
            for decays in (True, False)
        ]

    def segmenter(self) -> Segmenter:
        """Make the engine of the weights as they are."""
        device = str(next(self.network.parameters()).device)
        if isinstance(self.model, PatchConfig):
            return PatchSegmenter(self.network, self.model, device=device)
        return BoxSegmenter(self.network, self.model, device=device)

    def save(self, path: Path, metadata: Mapping[str, Any], *, dtype: torch.dtype = torch.float32) -> Path:
        """Write the weights as `segmentation.volumetric.weights.load_network` reads them."""
        return save_network(self.network, self.model, path, metadata, dtype=dtype)


def _narrowed(volume: Volume, truth: NDArray[np.bool_], rng: np.random.Generator) -> tuple[Volume, NDArray[np.bool_]]:
    """Cut off some of what is beyond the lesion: were it always in the middle, the borders would give it away.

    Views; the affine is left: only its spacing still holds.
    """
    chosen, shares = rng.random((3, 2)) < _NARROWED, rng.uniform(0, 1, (3, 2))
    window = []
    for axis, n in enumerate(truth.shape):
        places = np.flatnonzero(truth.any(axis=tuple(other for other in range(3) if other != axis)))
        before, after = (np.array([places[0], n - 1 - places[-1]]) * shares[axis] * chosen[axis]).astype(int)
        window.append(slice(before, n - after))
    kept = tuple(window)
    uids, frames = volume.sop_instance_uids[kept[0]], volume.frame_numbers[kept[0]]
    return replace(volume, voxels=volume.voxels[kept], sop_instance_uids=uids, frame_numbers=frames), truth[kept]


def _boxed(sample: Sample, values: FloatArray, constants: FloatArray, frame: Frame) -> Boxed:
    share = np.clip(cut_out(sample.truth, sample.volume.spacing_mm, frame), 0, 1)  # whatever the rounding
    return Boxed(sample.sample_id, torch.from_numpy(values), torch.from_numpy(constants), torch.from_numpy(share)[None])


def _second_look(volume: Volume, truth: NDArray[np.bool_], slice_index: int) -> Aim:
    """Aim as the engine does at what it found, had it found the truth."""
    _, row_mm, column_mm = volume.spacing_mm
    y, x = np.nonzero(truth[slice_index])
    positions = np.stack([x * column_mm, y * row_mm], axis=-1)
    return aim_at_section(
        "bidimensional", slice_index, np.ones(len(x), np.bool_), positions, (row_mm * column_mm) ** 0.5
    )


def _jittered(aim: Aim, spread: float, rng: np.random.Generator) -> Aim:
    """Move, turn and scale an aim by a share of its length; of an arrow or a click only the direction."""
    numbers = rng.normal(0, spread, 5)
    turn = float(numbers[0])
    dx, dy = aim.direction
    direction = dx * cos(turn) - dy * sin(turn), dx * sin(turn) + dy * cos(turn)
    if aim.length_mm is None:
        return replace(aim, direction=direction)
    x, y = np.asarray(aim.centre_mm) + numbers[1:3] * aim.length_mm
    length, width = aim.length_mm * float(np.exp(numbers[3])), aim.semi_short * float(np.exp(numbers[4]))
    return replace(aim, direction=direction, centre_mm=(float(x), float(y)), length_mm=length, semi_short=width)
