"""What one training is: data, schedule, losses, augmentation. Everything that decides about the loss curve is in here.

Does not import torch.
"""

from __future__ import annotations

import json
from dataclasses import asdict, dataclass, field, replace
from math import ceil, cos, inf, pi
from typing import Any, Literal

from segmentation.prompts import KINDS, Kind
from segmentation.sam2ct.config import MEDSAM2, NANO, SAM2CTConfig
from segmentation.volumetric.config import DYNUNET, SWIN_UNETR, PatchConfig, UNet3DConfig


class TrainingError(Exception):
    """A training cannot begin, or cannot go on."""


@dataclass(frozen=True, slots=True)
class Turn:
    """What all lesions of one step have in common.

    Parameters
    ----------
    kind
        Kind of the prompts.
    n_slices
        Slices of each sub-volume, at most.

    """

    step: int
    kind: Kind
    n_slices: int


@dataclass(frozen=True, slots=True)
class Augmentation:
    """How far what is seen may be from what was scanned. All zeros: not at all.

    Parameters
    ----------
    gain
        Contrast is multiplied by exp(N(0, ``gain``)) about 40 HU.
    offset_hu, noise_hu
        Standard deviation of an offset; the most of the standard deviation of white noise.
    narrow
        How often values are clipped to a range narrower than the network's, as if scanned through a window.
    mirror
        How often each of the three axes is mirrored.
    shift, zoom
        A region of interest is moved by at most this share of its side, and scaled by at most exp(+-``zoom``).

    """

    gain: float = 0.0
    offset_hu: float = 0.0
    noise_hu: float = 0.0
    narrow: float = 0.0
    mirror: float = 0.0
    shift: float = 0.0
    zoom: float = 0.0


@dataclass(frozen=True, slots=True)
class LossRecipe:
    """Weights of the parts of the loss; those of SAM 2 (its training code, ``training/loss_fns.py``).

    ``cross_entropy`` instead of ``focal`` is for random weights, which must learn from confident mistakes first.
    """

    focal: float = 20.0
    cross_entropy: float = 0.0
    dice: float = 1.0
    iou: float = 1.0
    object_score: float = 1.0


@dataclass(frozen=True, slots=True, kw_only=True)
class TrainConfig:
    """One training.

    Parameters
    ----------
    preset
        Name under which it is known, for the card.
    model
        The network.
    steps, epochs
        One of them; an epoch deals every training lesion once, or as ``repeats`` say (`with_steps`).
    learning_rate, encoder_rate
        At the peak; of the image encoder (None: the same).
    warm_up, final_rate
        Share of the steps with a linearly rising rate, then half a cosine down to this share of the rate.
    layer_decay
        Factor on the rate from each block of the encoder's trunk to the one before it.
    clip_norm
        Of the gradient; 0: not clipped. The loss is the mean over slices.
    lesions, images
        Lesions of a step over all processes, at most; slices of a step, at most. See `rows`.
    slices
        Slices of the sub-volumes, in turn. Volumetric networks see a box of their own instead: 1, so that a step has
        ``lesions`` lesions.
    single
        Share of the steps, from the first, on the prompted slice alone.
    kinds
        Kinds of prompts, in turn.
    as_drawn
        Share of the prompts that are drawn with the noise of real annotators rather than by section 2.2.
    repeats
        How often lesions of a data set appear in one epoch, (data set, factor) each; those not named: once.
    dropout
        As in the network's training mode; off: the network trains as it runs.
    ema
        Decay of the moving average of the weights that is validated and saved; 0: the weights themselves.
    on_nan
        What a loss or gradient that is not finite does: ``"stop"`` the training with the batch saved, or ``"skip"`` the
        step and count it, up to ``most_skipped``.
    validate_every, picture_every, checkpoint_every
        Steps; 0: never (but a checkpoint at the end). A training of so many epochs draws pictures at the end of each.
    validation_lesions, pictures
        At most; None: all lesions of the split "val".
    dtype
        Of the weights file.
    device, workers, minutes
        Where it runs, processes that draw lesions (0: in the training process), and after which wall time it stops, to
        be resumed. They, and how often it validates, do not change the loss curve.

    """

    preset: str = "custom"
    model: SAM2CTConfig | UNet3DConfig | PatchConfig = NANO
    seed: int = 0
    steps: int | None = None
    epochs: float | None = None
    learning_rate: float = 1e-3
    encoder_rate: float | None = None
    warm_up: float = 0.02
    final_rate: float = 0.05
    weight_decay: float = 0.01
    betas: tuple[float, float] = (0.9, 0.99)
    layer_decay: float = 1.0
    clip_norm: float = 1.0
    lesions: int = 8
    images: int = 24
    slices: tuple[int, ...] = (8,)
    single: float = 0.0
    kinds: tuple[Kind, ...] = ("line", "bidimensional", "arrow")
    as_drawn: float = 0.0
    repeats: tuple[tuple[str, float], ...] = ()
    augmentation: Augmentation = field(default_factory=Augmentation)
    loss: LossRecipe = field(default_factory=LossRecipe)
    dropout: bool = False
    precision: Literal["fp32", "bf16"] = "fp32"
    gradient_checkpointing: bool = False
    ema: float = 0.0
    on_nan: Literal["stop", "skip"] = "stop"
    most_skipped: int = 100
    validate_every: int = 0
    validation_lesions: int | None = 24
    picture_every: int = 0
    pictures: int = 6
    checkpoint_every: int = 500
    dtype: Literal["fp16", "fp32"] = "fp32"
    device: str = "auto"
    workers: int = 0
    minutes: float | None = None

    def __post_init__(self) -> None:
        wrong = {
            "give steps or epochs, not both": self.steps is not None and self.epochs is not None,
            "steps, lesions, images and slices must be at least 1": min(
                1 if self.steps is None else self.steps, self.lesions, self.images, *(self.slices or (0,))
            )
            < 1,
            "epochs, rates, layer_decay and minutes must be positive": not all(
                0 < value < inf
                for value in (self.epochs, self.learning_rate, self.encoder_rate, self.layer_decay, self.minutes)
                if value is not None
            ),
            "clip_norm, weight_decay and repeats must not be negative": not all(
                0 <= value < inf
                for value in (self.clip_norm, self.weight_decay, *(factor for _, factor in self.repeats))
            ),
            "seed, workers and what happens every so many steps must not be negative": min(
                self.seed, self.workers, self.validate_every, self.picture_every, self.checkpoint_every
            )
            < 0,
            "validation_lesions must be at least 1": self.validation_lesions is not None
            and self.validation_lesions < 1,
            f"kinds must be some of {', '.join(KINDS)}": not self.kinds or not set(self.kinds) <= set(KINDS),
            "on one slice, a network of the SAM2 family learns nothing from a mask prompt": self._takes_masks
            and "mask" in self.kinds
            and max(self.slices, default=0) < 2,
            "warm_up, final_rate, single and as_drawn must be shares from 0 to 1": not all(
                0 <= share <= 1 for share in (self.warm_up, self.final_rate, self.single, self.as_drawn)
            ),
            "ema and betas must be from 0 to below 1": not all(0 <= value < 1 for value in (self.ema, *self.betas)),
            "precision must be 'fp32' or 'bf16'": self.precision not in ("fp32", "bf16"),
            "dtype must be 'fp16' or 'fp32'": self.dtype not in ("fp16", "fp32"),
            "on_nan must be 'stop' or 'skip'": self.on_nan not in ("stop", "skip"),
        }
        problems = [message for message, is_wrong in wrong.items() if is_wrong]
        if problems:
            raise ValueError("; ".join(problems))

    def with_changes(self, **changes: Any) -> TrainConfig:
        """Copy with some fields changed."""
        return replace(self, **changes)

    def with_steps(self, lesions: int) -> TrainConfig:
        """Copy with the epochs counted in steps, where an epoch deals so many lesions."""
        if self.steps is not None:
            return self
        if self.epochs is None:
            raise ValueError("give steps or epochs")
        later = sum(self.rows(n) for n in self.slices) / len(self.slices)
        a_step = self.single * self.rows(1) + (1 - self.single) * later
        steps = ceil(self.epochs * lesions / a_step)
        every = ceil(lesions / a_step) if self.picture_every else 0
        return replace(self, steps=steps, epochs=None, picture_every=every)

    @property
    def total_steps(self) -> int:
        """Steps of the whole training."""
        if self.steps is None:
            raise ValueError("steps are not known yet: with_steps() counts the epochs")
        return self.steps

    def turn(self, step: int) -> Turn:
        """What the lesions of a step have in common: every kind of prompt with each length, in turn."""
        n_slices = self.slices[step // len(self.kinds) % len(self.slices)]
        if step < self.single * self.total_steps:
            n_slices = 1
        kinds = self.kinds
        if n_slices == 1 and self._takes_masks:
            kinds = tuple(kind for kind in kinds if kind != "mask")
        return Turn(step, kinds[step % len(kinds)], n_slices)

    @property
    def sees_whole_slices(self) -> bool:
        """Whether the network is shown more than what is around the prompt."""
        return isinstance(self.model, SAM2CTConfig) and self.model.roi != "fit"

    @property
    def _takes_masks(self) -> bool:
        """Whether a mask prompt is the answer of its slice, as in SAM 2."""
        return isinstance(self.model, SAM2CTConfig)

    def rows(self, n_slices: int) -> int:
        """Lesions of a step with sub-volumes of so many slices, over all processes."""
        return max(1, min(self.lesions, self.images // n_slices))

    def require_processes(self, processes: int) -> None:
        """Check that the lesions of every step can be divided among so many processes.

        Raises
        ------
        TrainingError
            If they cannot.

        """
        lengths = {1, *self.slices} if self.single else set(self.slices)
        uneven = sorted(rows for rows in map(self.rows, lengths) if rows % processes)
        if uneven:
            raise TrainingError(
                f"{uneven[0]} lesions a step cannot be divided among {processes} processes: --set lesions={processes}"
                f" or a multiple of it, and images of at least as many times {max(self.slices)} slices"
            )

    def rate(self, step: int) -> float:
        """Factor on the learning rates."""
        rising = self.warm_up * self.total_steps
        if step < rising:
            return (step + 1) / ceil(rising)
        along = (step - rising) / max(self.total_steps - rising, 1)
        return self.final_rate + (1 - self.final_rate) * (1 + cos(pi * along)) / 2

    def curve(self) -> dict[str, Any]:
        """All that decides about the loss curve, as JSON."""
        values: dict[str, Any] = json.loads(json.dumps(asdict(self)))
        return {name: value for name, value in values.items() if name not in _NEUTRAL}


_NEUTRAL = frozenset(
    {"preset", "device", "workers", "minutes", "validate_every", "validation_lesions", "picture_every", "pictures"}
    | {"checkpoint_every", "dtype", "on_nan", "most_skipped", "epochs"}
)

_NANO_AUGMENTATION = Augmentation(
    gain=0.12, offset_hu=15.0, noise_hu=20.0, narrow=0.25, mirror=0.5, shift=1 / 8, zoom=0.15
)
_ORIENTATIONS = Augmentation(mirror=0.5)

_NANO = TrainConfig(
    preset="nano",
    model=UNet3DConfig(tracker="mcm"),
    precision="bf16",  # half the time of fp32 also on a CPU that has it
    steps=2000,
    learning_rate=2e-3,
    slices=(1,),
    kinds=("line", "bidimensional", "arrow", "box", "line", "mask", "arrow", "point"),
    as_drawn=0.5,
    augmentation=_NANO_AUGMENTATION,
    loss=LossRecipe(focal=0.0, cross_entropy=2.0),
    ema=0.995,
    validate_every=250,
    validation_lesions=48,
    picture_every=500,
    checkpoint_every=100,
    dtype="fp16",
)

_FULL = SAM2CTConfig(eight_bit=True, pointer_scale_fixed=True)
"""SAM 2.1 tiny at 1024 pixels. Sub-volumes are short: pointers count slices as they do in a whole series."""

_SAM2CT = TrainConfig(
    preset="sam2ct",
    model=_FULL,
    epochs=80,  # 2.3.4, and so are 8 slices and both rates; all else as SAM 2 is fine-tuned (its MOSE configuration)
    learning_rate=5e-6,
    encoder_rate=3e-6,
    warm_up=0.0,
    final_rate=0.1,
    weight_decay=0.1,
    betas=(0.9, 0.999),
    layer_decay=0.9,
    clip_norm=0.1 / 8,  # SAM 2 clips the sum over the slices at 0.1
    lesions=1,
    images=8,
    slices=(8,),
    kinds=("line", "arrow", "bidimensional", "point", "box", "mask"),
    augmentation=_ORIENTATIONS,
    dropout=True,
    precision="bf16",
    gradient_checkpointing=True,
    validate_every=1000,
    validation_lesions=None,
    picture_every=5000,
)

_COMPARATOR = TrainConfig(
    model=DYNUNET,
    epochs=150,  # 2.4
    learning_rate=5e-3,
    warm_up=20 / 150,
    final_rate=0.0,
    betas=(0.9, 0.999),
    clip_norm=12.0,
    lesions=2,
    slices=(1,),
    kinds=("line", "arrow", "bidimensional", "point", "box", "mask"),
    augmentation=_ORIENTATIONS,
    loss=LossRecipe(focal=1.0, dice=1.0, iou=0.0, object_score=0.0),
    precision="bf16",
    validate_every=1000,
    validation_lesions=None,
    picture_every=5000,
)


PRESETS: dict[str, TrainConfig] = {
    "sam2ct": _SAM2CT,
    "sam2-ft": _SAM2CT.with_changes(preset="sam2-ft", model=_FULL.with_changes(memory_conditioned=False)),
    # Boxes only, at MedSAM2's rates; a single mask, so that the one that is given is the one that learns.
    "medsam2": _SAM2CT.with_changes(
        preset="medsam2",
        model=MEDSAM2.with_changes(multimask=False, pointer_scale_fixed=True),
        learning_rate=5e-5,
        encoder_rate=3e-5,
        kinds=("box",),
    ),
    "nano": _NANO,
    "nano-no-mcm": _NANO.with_changes(preset="nano-no-mcm", model=UNet3DConfig(tracker="sam2")),
    "nano-no-image-prompt": _NANO.with_changes(
        preset="nano-no-image-prompt", model=UNet3DConfig(tracker="mcm", image_prompt=False)
    ),
    "unet3d": _NANO.with_changes(preset="unet3d", model=UNet3DConfig()),
    "dynunet": _COMPARATOR.with_changes(preset="dynunet", model=DYNUNET),
    "swin-unetr": _COMPARATOR.with_changes(preset="swin-unetr", model=SWIN_UNETR),
}
"""Preset to training, of sections 2.3.4 and 2.4 but for ``nano`` and its ablations, which are ours."""
