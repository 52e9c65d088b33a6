"""What one SAM2-family model is: everything that its tensors do not say themselves."""

from __future__ import annotations

import json
from dataclasses import asdict, dataclass, fields, replace
from math import inf
from typing import Any, Literal

Size = Literal["tiny", "small", "base_plus", "large", "nano"]
TemporalOrder = Literal["sam2", "sam2ct"]
RoiPolicy = Literal["full", "auto", "fit"]

IMAGE_SIZES = (128, 256, 512, 1024)
MOST_MEMORIES = 64
"""Spatial memories of a configuration, at most: the one inside a file makes no tensor of any size it likes."""
STRIDE = 16
"""Network pixels per feature of the coarsest level that the tracker works on."""


@dataclass(frozen=True, slots=True)
class Backbone:
    """Dimensions of one size of the model: those of SAM 2.1 (Hiera trunk and heads), and a nano one of our own.

    Parameters
    ----------
    embed_dim, num_heads, stages, global_att_blocks, window_spec, pos_embed_size
        Of the Hiera trunk.
    hidden_dim
        Channels of image embeddings, prompts and tokens.
    memory_dim
        Channels of a memory; divides ``hidden_dim``.
    attention_layers, feed_forward
        Of the memory attention; ``feed_forward`` also of the mask decoder's transformer.

    """

    embed_dim: int
    num_heads: int
    stages: tuple[int, int, int, int]
    global_att_blocks: tuple[int, ...]
    window_spec: tuple[int, int, int, int] = (8, 4, 14, 7)
    pos_embed_size: tuple[int, int] = (7, 7)
    hidden_dim: int = 256
    memory_dim: int = 64
    attention_layers: int = 4
    feed_forward: int = 2048


BACKBONES: dict[str, Backbone] = {
    "tiny": Backbone(96, 1, (1, 2, 7, 2), (5, 7, 9)),
    "small": Backbone(96, 1, (1, 2, 11, 2), (7, 10, 13)),
    "base_plus": Backbone(112, 2, (2, 3, 16, 3), (12, 16, 20), pos_embed_size=(14, 14)),
    "large": Backbone(144, 2, (2, 6, 36, 4), (23, 33, 43), window_spec=(8, 4, 16, 8)),
    # Ours, for training on a CPU and for tests; everything scaled down, nothing left out.
    "nano": Backbone(
        32, 1, (1, 1, 2, 1), (3,), window_spec=(8, 4, 8, 4), hidden_dim=64, memory_dim=32, attention_layers=2,
        feed_forward=256,
    ),
}  # fmt: skip
"""Size to dimensions. Those of SAM 2.1 are its published configurations (Ravi et al. 2024, arXiv:2408.00714)."""


@dataclass(frozen=True, slots=True)
class SAM2CTConfig:
    """One model of the SAM2 family. Only ``size`` and ``prompt_embeddings`` decide names and shapes of tensors.

    Parameters
    ----------
    size
        Dimensions, a key of `BACKBONES`.
    image_size
        Side of the square network input in pixels, one of `IMAGE_SIZES`.
    hu_clip
        (low, high) in HU, mapped to [0, 1]: sam2ct.txt 2.3.4 clips at -500 and 500 HU. A CT window of centre c and
        width w is (c - w/2, c + w/2).
    eight_bit
        Cut the clipped image to 256 grey values, as the paper (2.3.4) and MedSAM2 do; the released inference code of
        SAM2CT does not.
    transpose_slices
        Feed each slice with rows and columns exchanged. The published SAM2CT weights were trained on slices whose rows
        run along the patient's left-right axis.
    memory_conditioned
        Memory-conditioned memories (MCM, 2.3.3): encode each memory from the image embedding after memory attention,
        mem_t = encoder(E_cond, M_t); off: from the embedding before it, as SAM2 does.
    prompt_embeddings
        Learned point types: 4 (SAM2: negative, positive, two box corners) or 7 (2.3.3: and line end, arrow start,
        arrow end).
    temporal_order
        Which temporal encoding the memory of d slices back gets: ``"sam2"`` row d - 1, ``"sam2ct"`` row
        memory_slices - 1 - d (the order of SAM2CT's released inference). The prompted slice always gets the last.
    memory_slices
        Spatial memories attended to: the prompted slice and the ``memory_slices - 1`` last ones. Fixed at 7 by the
        published tensors.
    pointer_reach
        Object pointers attended to: the prompted slice's and those of the last ``pointer_reach`` slices.
    pointer_scale
        A pointer d slices back is encoded at d / ``pointer_scale``.
    pointer_scale_fixed
        Also in a volume of fewer slices (SAM2CT's released inference); SAM2 counts no further than its video is long.
    prompt_pointer_at_zero
        Encode the prompted slice's pointer at distance 0 wherever it is (SAM2CT's released inference) instead of at its
        distance (SAM2).
    multimask
        Let the decoder choose among three masks after a single click and while tracking (SAM2, MedSAM2); SAM2CT never
        does.
    roi
        What the network sees: ``"full"`` slices; ``"auto"``, a square around the prompt at the scale that the full
        slice would have; ``"fit"``, a square of a fixed multiple of the prompt's extent, at whatever scale fills the
        network input.

    """

    size: Size = "tiny"
    image_size: int = 1024
    hu_clip: tuple[float, float] = (-500.0, 500.0)
    eight_bit: bool = False
    transpose_slices: bool = False
    memory_conditioned: bool = True
    prompt_embeddings: int = 7
    temporal_order: TemporalOrder = "sam2"
    memory_slices: int = 7
    pointer_reach: int = 15
    pointer_scale: int = 15
    pointer_scale_fixed: bool = False
    prompt_pointer_at_zero: bool = False
    multimask: bool = False
    roi: RoiPolicy = "full"

    def __post_init__(self) -> None:
        for field in fields(self):
            kind = type(field.default)
            if kind in (bool, int, str) and type(getattr(self, field.name)) is not kind:  # "False" would count as true
                raise ValueError(f"{field.name} must be of type {kind.__name__}, got {getattr(self, field.name)!r}")
        wrong = {
            f"size must be one of {', '.join(BACKBONES)}": self.size not in BACKBONES,
            f"image_size must be one of {IMAGE_SIZES}": self.image_size not in IMAGE_SIZES,
            "hu_clip must be (low, high), two finite numbers with low below high": not _is_range(self.hu_clip),
            "prompt_embeddings must be 4 or 7": self.prompt_embeddings not in (4, 7),
            "temporal_order must be 'sam2' or 'sam2ct'": self.temporal_order not in ("sam2", "sam2ct"),
            "roi must be 'full', 'auto' or 'fit'": self.roi not in ("full", "auto", "fit"),
            f"memory_slices must be from 2 to {MOST_MEMORIES}": not 2 <= self.memory_slices <= MOST_MEMORIES,
            "pointer_reach and pointer_scale must be positive": min(self.pointer_reach, self.pointer_scale) < 1,
        }
        problems = [message for message, is_wrong in wrong.items() if is_wrong]
        if problems:
            raise ValueError("; ".join(problems))

    @property
    def backbone(self) -> Backbone:
        """Dimensions of ``size``."""
        return BACKBONES[self.size]

    def to_json(self) -> str:
        """Text for the header of a safetensors file."""
        return json.dumps(asdict(self), sort_keys=True)

    @classmethod
    def from_json(cls, text: str) -> SAM2CTConfig:
        """Read what `to_json` wrote.

        Raises
        ------
        ValueError
            If it is no such text, or holds a field that this version does not know.

        """
        values: Any = json.loads(text)
        if not isinstance(values, dict):
            raise ValueError("the configuration of a model must be a JSON object")  # noqa: TRY004 - bad data, not a bad call
        unknown = set(values) - {field.name for field in fields(cls)}
        if unknown:
            raise ValueError(f"unknown fields in the configuration of a model: {', '.join(sorted(unknown))}")
        if "hu_clip" in values:
            low, high = values["hu_clip"]
            values["hu_clip"] = (float(low), float(high))
        return cls(**values)

    def with_changes(self, **changes: Any) -> SAM2CTConfig:
        """Copy with some fields changed."""
        return replace(self, **changes)


def _is_range(values: object) -> bool:
    if not isinstance(values, tuple) or len(values) != 2 or not all(isinstance(v, int | float) for v in values):
        return False
    return bool(-inf < values[0] < values[1] < inf)


SAM2 = SAM2CTConfig(memory_conditioned=False, prompt_embeddings=4, multimask=True, eight_bit=True)
"""SAM 2.1 as published: 1024 pixels, 8-bit images. Trained on photographs: the HU range is that of sam2ct.txt 2.3.4."""

MEDSAM2 = SAM2.with_changes(image_size=512, hu_clip=(-160.0, 240.0))
"""MedSAM2: SAM 2.1 tiny at 512 pixels, 8-bit images of a CT window; abdomen 400/40 where nothing else is said."""

SAM2CT = SAM2CTConfig(
    transpose_slices=True,
    temporal_order="sam2ct",
    pointer_reach=8,
    pointer_scale=7,
    pointer_scale_fixed=True,
    prompt_pointer_at_zero=True,
)
"""SAM2CT as its authors' released inference runs its published weights."""

SAM2_FT = SAM2CT.with_changes(memory_conditioned=False)
"""The paper's comparator (2.4): line and arrow prompts, no memory-conditioned memories."""

NANO = SAM2CTConfig(size="nano", image_size=128, roi="fit")
"""Small enough to train and run on a CPU."""
