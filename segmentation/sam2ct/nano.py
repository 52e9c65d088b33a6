"""A SAM2CT small enough to train on a CPU and to ship: the tracker of SAM 2 behind a volumetric encoder.

From random weights, prompts as tokens alone are learned slowly. Here the prompt is also in the image: the encoder is
the network of `segmentation.volumetric`, which sees a box in the measurement's own length, with the measurement drawn
into it. It gives each slice of the box its embeddings and a first guess of the mask. From there on it is SAM2CT
(2.3.3): prompt tokens, passes up and down from the prompted slice, memories conditioned by memory attention. The first
guess enters the decoder as SAM's dense mask prompt, and its logits are what the decoder adds to.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field

import torch
from torch import Tensor, nn

from segmentation.geometry import HALF_PIXEL
from segmentation.sam2ct.config import NANO, STRIDE, SAM2CTConfig
from segmentation.sam2ct.model import MASK_LOGIT, SAM2CTModel
from segmentation.sam2ct.prompts import ARROW_HEAD, ARROW_TAIL, BOX_FIRST, BOX_LAST, LINE_END, POSITIVE
from segmentation.sam2ct.steps import Features, PointPrompt, Recall
from segmentation.volumetric.aims import AIM_KINDS, HEAD_AT, AimKind
from segmentation.volumetric.config import SUB_VOLUME, UNet3DConfig
from segmentation.volumetric.inputs import KIND_FIRST, SHORT_AXIS
from segmentation.volumetric.networks import FULL_CHANNELS, Levels, UNet3D

PIXELS_PER_FEATURE = 4
"""Pixels of the box per feature of the coarsest level, which SAM 2 counts as `STRIDE` network pixels."""
LEAST_LOGIT = -2.0
"""A slice is tracked through if the first guess comes as near as this to seeing the lesion there,"""
MARGIN = 2
"""or on so many slices beside it."""


class NanoModel(SAM2CTModel):
    """SAM2CT over boxes around prompts."""

    mask_stride = PIXELS_PER_FEATURE
    scores_objects = False

    def __init__(self, box: UNet3DConfig) -> None:
        super().__init__(NANO.with_changes(memory_conditioned=box.tracker == "mcm"))
        self.box, self.encoder = box, UNet3D(box)
        self.readout = Readout(box.widths, self.config.backbone.hidden_dim)
        # Of mask prompts, of slices without an object, and of the encoder that is not here: nothing would train them.
        for name in ("image_encoder", "mask_downsample", "no_obj_ptr", "no_obj_embed_spatial", "no_mem_pos_enc"):
            delattr(self, name)

    def forward(self, values: Tensor, constants: Tensor) -> Tensor:
        """Segment B boxes, prompted on their middle slice: (B, 1, z, v, u) logits.

        Slices on which the first guess sees nothing, and nothing on those beside them, are not tracked through.
        """
        levels = self.encoder.levels(values, constants)
        depth, middle = values.shape[2], values.shape[2] // 2
        ranges = []
        for seen in (levels.logits > LEAST_LOGIT).flatten(3).any(dim=3).flatten(1):
            found = [*seen.nonzero().flatten().tolist(), middle]
            ranges.append((max(min(found) - MARGIN, 0), min(max(found) + MARGIN + 1, depth)))
        first, last = min(a for a, _ in ranges), max(b for _, b in ranges)
        tracked = self._tracked(levels, constants, first, last)
        answer = levels.logits.clone()
        for row, (a, b) in enumerate(ranges):  # of each box its own range: what else is in the batch changes nothing
            answer[row, :, a:b] = tracked[row, :, a - first : b - first].to(answer.dtype)
        return answer

    def learn(self, values: Tensor, constants: Tensor, first: int) -> tuple[Tensor, Tensor, slice]:
        """Track through a sub-volume, as a training step does.

        Parameters
        ----------
        first
            Its first slice; the prompted one, in the middle of the box, is among its `SUB_VOLUME`.

        Returns
        -------
        tuple
            Logits (B, 1, `SUB_VOLUME`, v, u), the first guess of all slices (B, 1, z, v, u), and which slices the
            sub-volume is.

        """
        levels = self.encoder.levels(values, constants)
        slices = slice(first, first + SUB_VOLUME)
        return self._tracked(levels, constants, slices.start, slices.stop), levels.logits, slices

    def _tracked(self, levels: Levels, constants: Tensor, first: int, last: int) -> Tensor:
        guess = Guess(self.readout(levels), levels.logits[:, 0])
        return self._track(guess, drawn_points(constants, self.box), first, last)

    def _track(self, guess: Guess, prompt: PointPrompt, first: int, last: int) -> Tensor:
        """Prompt the middle slice, then pass up and down from it, all boxes and both ways at once."""
        boxes, depth = guess.logits.shape[:2]
        middle = depth // 2
        logits, *memory = self._decide(*guess.at([middle], boxes), prompt, None)
        found = {middle: logits}
        passes = [_Pass(way, (memory[0], memory[1])) for way in (1, -1)]
        for distance in range(1, max(last - middle, middle - first + 1)):
            under_way = [p for p in passes if first <= middle + p.way * distance < last]
            places = [middle + p.way * distance for p in under_way]
            step = self._decide(*guess.at(places, boxes), None, _recall(under_way, distance, self.config))
            for p, place, *parts in zip(under_way, places, *(torch.split(t, boxes) for t in step), strict=True):
                found[place] = parts[0]
                p.held.insert(0, (parts[1], parts[2]))
        return torch.stack([found[z] for z in range(first, last)], dim=2)

    def _image_encoder(self) -> nn.Module:
        return nn.Identity()

    def _for_memory(self, logits: Tensor) -> Tensor:
        return logits

    def _decide(
        self, seen: Features, guess: Tensor, prompt: PointPrompt | None, recall: Recall | None
    ) -> tuple[Tensor, Tensor, Tensor]:
        """Logits (B, 1, v, u), memory and pointer of one slice of each of B passes."""
        low = seen.low
        conditioned = low + self.no_mem_embed.reshape(1, -1, 1, 1) if recall is None else self._condition(low, recall)
        dense = guess.detach().clamp(-MASK_LOGIT, MASK_LOGIT)
        correction, _, score, pointer = self._heads(seen, conditioned, prompt, multimask=False, dense=dense)
        logits = guess + correction
        return logits, self._remember(low, conditioned, torch.sigmoid(logits), score), pointer


@dataclass(frozen=True, slots=True)
class Guess:
    """What the encoder makes of B boxes of D slices: logits (B, D, v, u), embeddings box by box."""

    features: Features
    logits: Tensor

    def at(self, slices: Sequence[int], boxes: int) -> tuple[Features, Tensor]:
        """Embeddings and (N, 1, v, u) logits of each of ``slices`` of all boxes: slice by slice, box by box."""
        depth = self.logits.shape[1]
        rows = [box * depth + z for z in slices for box in range(boxes)]
        f = self.features
        return Features(f.high[rows], f.mid[rows], f.low[rows]), self.logits.flatten(0, 1)[rows][:, None]


class Readout(nn.Module):
    """Embeddings of every slice, at the three scales that SAM 2's decoder takes, from the levels of the encoder."""

    def __init__(self, widths: Sequence[int], hidden: int) -> None:
        super().__init__()
        half, quarter, _ = widths
        self.high = nn.Conv3d(FULL_CHANNELS, hidden // 8, 1)
        self.mid = nn.Conv3d(half, 2 * (hidden // 4), 1)
        self.low = nn.Conv3d(quarter, 4 * hidden, 1)
        self.low_fine = nn.Conv3d(half, 2 * hidden, (1, 2, 2), (1, 2, 2))

    def forward(self, levels: Levels) -> Features:
        """Slice by slice, box by box; a level that is coarser along z gives several slices channels of their own."""
        low = _slices(self.low(levels.quarter), 4) + _slices(self.low_fine(levels.half), 2)
        return Features(_slices(self.high(levels.full), 1), _slices(self.mid(levels.half), 2), low)


def drawn_points(constants: Tensor, box: UNet3DConfig) -> PointPrompt:
    """What was drawn, as SAM2CT's points (2.3.3) on the prompted slice, from the numbers that go with each box.

    Four points a box: where fewer were drawn, the last one again.
    """
    kinds = constants[:, KIND_FIRST:].argmax(dim=1).tolist()
    shorts = (constants[:, SHORT_AXIS] / 2).tolist()
    drawn = [_points(AIM_KINDS[kind], semi_short) for kind, semi_short in zip(kinds, shorts, strict=True)]
    half = [1.0 if AIM_KINDS[kind] in ("arrow", "point") else box.half_in_plane for kind in kinds]
    places = torch.tensor([[(u, v) for u, v, _ in points] for points in drawn]) / torch.tensor(half)[:, None, None]
    labels = torch.tensor([[label for _, _, label in points] for points in drawn])
    side = box.side * STRIDE // PIXELS_PER_FEATURE
    network = (places + 1) / 2 * side - HALF_PIXEL
    return PointPrompt(network.to(constants.device), labels.to(constants.device))


def _points(kind: AimKind, semi_short: float) -> list[tuple[float, float, int]]:
    """Four (u, v, label) in lengths of the measurement, or in half sides of the box where it has none."""
    ends = [(-0.5, 0.0, LINE_END), (0.5, 0.0, LINE_END)]
    points = {
        "line": ends,
        "bidimensional": [*ends, (0.0, -semi_short, LINE_END), (0.0, semi_short, LINE_END)],
        "box": [(-0.5, -semi_short, BOX_FIRST), (0.5, semi_short, BOX_LAST)],
        "mask": [(0.0, 0.0, POSITIVE)],
        "arrow": [(2 * HEAD_AT, 0.0, ARROW_TAIL), (HEAD_AT, 0.0, ARROW_HEAD)],
        "point": [(0.0, 0.0, POSITIVE)],
    }[kind]
    return (points + 4 * points[-1:])[:4]


@dataclass(slots=True)
class _Pass:
    """One direction of all boxes: memory and pointer of the prompted slice, and of those since, the last one first."""

    way: int
    prompted: tuple[Tensor, Tensor]
    held: list[tuple[Tensor, Tensor]] = field(default_factory=list)


def _recall(passes: Sequence[_Pass], distance: int, config: SAM2CTConfig) -> Recall:
    """What passes remember ``distance`` slices from the prompted one: pass by pass, box by box."""
    memories = [[p.prompted[0], *(m for m, _ in p.held[: config.memory_slices - 1])] for p in passes]
    pointers = [[p.prompted[1], *(q for _, q in p.held[: config.pointer_reach])] for p in passes]
    rows, device = len(passes) * len(passes[0].prompted[0]), passes[0].prompted[0].device
    times = torch.arange(len(pointers[0]), device=device) / config.pointer_scale
    times[0] = distance / config.pointer_scale
    return Recall(
        torch.cat([torch.stack(of_pass, dim=1) for of_pass in memories]),
        torch.arange(len(memories[0]), device=device).expand(rows, -1),
        torch.cat([torch.stack(of_pass, dim=1) for of_pass in pointers]),
        times.expand(rows, -1),
        complete=True,
    )


def _slices(x: Tensor, folded: int) -> Tensor:
    """(B, ``folded`` C, z, v, u) to (B ``folded`` z, C, v, u): slice by slice, box by box."""
    b, c, z, v, u = x.shape
    apart = x.reshape(b, folded, c // folded, z, v, u).permute(0, 3, 1, 2, 4, 5)
    return apart.reshape(b * z * folded, c // folded, v, u)
