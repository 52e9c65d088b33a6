"""A SAM2CT that learns within a minute on one core: generated lesions, simulated prompts, the losses of SAM 2.

Training sees what inference sees: prompts, regions, images and what a pass remembers are made by the engine's own
functions. What it learns is as easy as its lesions are; nobody should segment patients with it.
"""

from __future__ import annotations

import time
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, replace

import numpy as np
import torch
import torch.nn.functional as F  # noqa: N812 - as everybody writes it
from lesions import make_volume
from torch import Tensor

from segmentation.evaluate import EvaluationCase
from segmentation.prompts import Kind, simulate_prompt
from segmentation.sam2ct.config import NANO, SAM2CTConfig
from segmentation.sam2ct.frames import Frame, region_of_interest, whole_slices
from segmentation.sam2ct.model import SAM2CTModel, build_model
from segmentation.sam2ct.passes import Lesion, Pass, Section, recall
from segmentation.sam2ct.prompts import network_prompt
from segmentation.sam2ct.steps import Features, PointPrompt, Step
from segmentation.types import SegmentationJob, Volume

KINDS: tuple[Kind, ...] = ("line", "bidimensional", "arrow")

LUNG_HU, FAT_HU = -850.0, -100.0
_CPU = torch.device("cpu")
_UNSEEN = Section.of(np.zeros((1, 1), np.bool_), 0.0, 0.0)  # guards are of inference: training needs no sections


@dataclass(frozen=True, slots=True)
class Course:
    """How long to train, and on what.

    Parameters
    ----------
    single, clips
        Steps on the prompted slice alone, then steps on sub-volumes.
    slices
        Slices of a sub-volume (3 to 8 as in sam2ct.txt 2.3.2), in turn.
    images
        Slices in one step at most, so that long sub-volumes cost no more than short ones.
    lesions
        Lesions in one step at most.

    """

    single: int = 100
    clips: int = 60
    slices: tuple[int, ...] = (3, 4, 6)
    images: int = 24
    lesions: int = 8
    learning_rate: float = 2e-3
    warm_up: int = 20

    @property
    def steps(self) -> int:
        return self.single + self.clips

    def slices_of(self, step: int) -> int:
        """One, then in turn, all kinds of prompts with each length."""
        return 1 if step < self.single else self.slices[step // len(KINDS) % len(self.slices)]

    def rate_of(self, step: int) -> float:
        """Linear warm-up, then half a cosine down to a twentieth."""
        cosine = (1 + np.cos(np.pi * step / self.steps)) / 2
        return self.learning_rate * min(1.0, (step + 1) / self.warm_up) * (0.95 * cosine + 0.05)


@dataclass(frozen=True, slots=True, eq=False)
class Clip:
    """A sub-volume of one lesion: ``images`` (N, 3, S, S) and ``truth`` (N, 1, S, S) of slices ``first`` and on."""

    lesion: Lesion
    first: int
    images: Tensor
    truth: Tensor

    @property
    def prompted(self) -> int:
        """Place of the prompted slice in the clip."""
        return self.lesion.prompt.slice_index - self.first


# ---- lesions ------------------------------------------------------------------------------------------------------


def generated_lesion(rng: np.random.Generator) -> tuple[Volume, np.ndarray]:
    """Soft tissue ellipsoid of 10 to 40 mm in lung or fat, turned in its plane, and what else such tissue may be there.

    The easy family: its rim is sharp but for partial volume, and nothing of its own density touches it. But every other
    one has a neighbour (a ball, or long like a vessel) and every other one a wall, so that bright is not yet lesion.
    """
    diameter = float(np.exp(rng.uniform(np.log(10), np.log(40))))
    semi = diameter / 2 * np.array([rng.uniform(0.7, 1), rng.uniform(0.65, 1), 1.0])
    spacing = (min(rng.uniform(1, 3), diameter / 6), *[rng.uniform(0.7, 1)] * 2)
    half = np.array([semi[0] + 4 * spacing[0], *[max(2.2 * diameter, 25)] * 2])
    shape = np.maximum((2 * half / spacing).astype(int), 16)
    centre = (shape - 1) / 2 + np.array([rng.uniform(-1, 1), *rng.uniform(-0.15, 0.15, 2) * shape[1:]])
    z, y, x = ((np.arange(n, dtype=np.float32) - c) * mm for n, c, mm in zip(shape, centre, spacing, strict=True))
    z, y = z[:, None, None], y[:, None]

    def turned(angle: float) -> tuple[np.ndarray, np.ndarray]:
        return x * np.cos(angle) + y * np.sin(angle), y * np.cos(angle) - x * np.sin(angle)

    along, across = turned(rng.uniform(0, np.pi))
    level = np.sqrt((z / semi[0]) ** 2 + (across / semi[1]) ** 2 + (along / semi[2]) ** 2)
    tissue = _share_inside((1 - level) * semi.min(), spacing[1])
    if rng.random() < 0.5:
        radius, (away, aside) = diameter / 2 * rng.uniform(0.2, 0.8), turned(rng.uniform(0, 2 * np.pi))
        distance = diameter / 2 + radius + rng.uniform(2, 6)
        gap = radius - np.sqrt((z * rng.uniform(0.1, 1)) ** 2 + (away - distance) ** 2 + aside**2)
        tissue = np.maximum(tissue, _share_inside(gap, spacing[1]))
    if rng.random() < 0.5:
        away, _ = turned(rng.uniform(0, 2 * np.pi))
        tissue = np.maximum(tissue, _share_inside(away - diameter * rng.uniform(0.6, 1.4), spacing[1]))
    around = LUNG_HU if rng.random() < 0.5 else FAT_HU
    voxels = around + (rng.uniform(20, 70) - around) * tissue
    voxels += rng.uniform(5, 20) * rng.standard_normal(voxels.shape, dtype=np.float32)
    return make_volume(voxels, spacing), level < 1


def _share_inside(depth_mm: np.ndarray, voxel_mm: float) -> np.ndarray:
    """Share of each voxel inside a surface so deep below it: a ramp one voxel wide."""
    return np.clip(depth_mm / voxel_mm + 0.5, 0, 1)


def held_out(n: int, kind: Kind, *, seed: int = 999) -> Iterator[EvaluationCase]:
    """Prompts as sam2ct.txt 2.2 simulates them for evaluation, on lesions that no training sees."""
    rng = np.random.default_rng([seed, 1])
    for i in range(n):
        volume, truth = generated_lesion(rng)
        prompt = simulate_prompt(truth, kind, rng, spacing_mm=volume.spacing_mm)
        yield EvaluationCase(f"{kind}{i}", SegmentationJob(f"{kind}{i}", volume, (prompt,)), truth)


# ---- training -----------------------------------------------------------------------------------------------------


def train_nano(
    *, seed: int = 0, course: Course | None = None, config: SAM2CTConfig = NANO
) -> tuple[SAM2CTModel, float]:
    """Train from random weights; the model in eval mode and the seconds of CPU that it took."""
    course, started = course or Course(), time.process_time()
    rng = np.random.default_rng([seed, 0])
    # In eval mode: there is no drop-out to speak of, and the decoder picks among its masks as it does in inference,
    # so that the masks it picks are those that learn.
    model = build_model(config, seed=seed)
    optimizer = torch.optim.AdamW(model.parameters(), betas=(0.9, 0.99), weight_decay=0.01)
    for step in range(course.steps):
        n_slices, kind = course.slices_of(step), KINDS[step % len(KINDS)]
        rows = min(course.lesions, course.images // n_slices)
        clips = [draw_clip(rng, kind, n_slices, config) for _ in range(rows)]
        optimizer.param_groups[0]["lr"] = course.rate_of(step)
        optimizer.zero_grad()
        clips_loss(model, clips).backward()
        torch.nn.utils.clip_grad_norm_(model.parameters(), 1.0)
        optimizer.step()
    return model, time.process_time() - started


def draw_clip(rng: np.random.Generator, kind: Kind, n_slices: int, config: SAM2CTConfig) -> Clip:
    """Generate a lesion and a training prompt, and cut ``n_slices`` with the prompted one anywhere among them."""
    volume, truth = generated_lesion(rng)
    drawn = simulate_prompt(truth, kind, rng, spacing_mm=volume.spacing_mm, training=True)
    prompt = network_prompt(drawn, volume, point_types=config.prompt_embeddings)
    assert prompt is not None
    frame = _moved(rng, region_of_interest(whole_slices(volume, config), prompt, config))
    first = prompt.slice_index - int(rng.integers(n_slices))
    first = min(max(first, 0), len(truth) - n_slices)
    slices = list(range(first, first + n_slices))
    in_frame = truth[slices, frame.top : frame.top + frame.rows, frame.left : frame.left + frame.columns]
    goal = F.interpolate(
        torch.from_numpy(in_frame.astype(np.float32))[:, None],
        (frame.side, frame.side),
        mode="bilinear",
        antialias=True,
    )
    lesion = Lesion(SegmentationJob("training", volume, (drawn,)), prompt, frame)
    return Clip(lesion, first, frame.images(slices, config, _CPU), goal)


def _moved(rng: np.random.Generator, frame: Frame) -> Frame:
    """Shift by up to an eighth of its side: where in the image the lesion lies, the prompt must say, not the middle."""
    _, rows, columns = frame.volume.voxels.shape
    down, right = rng.uniform(-1 / 8, 1 / 8, 2) * (frame.rows, frame.columns)
    top = min(max(frame.top + round(down), 0), rows - frame.rows)
    return replace(frame, top=top, left=min(max(frame.left + round(right), 0), columns - frame.columns))


def clips_loss(model: SAM2CTModel, clips: Sequence[Clip]) -> Tensor:
    """Mean loss of a slice: prompt every clip, then track up and down to its ends, as the engine would.

    All clips have one number of slices and one kind of prompt.
    """
    n_slices = len(clips[0].images)
    features = model.encode(torch.cat([clip.images for clip in clips]))

    def of(places: list[tuple[int, int]]) -> tuple[Features, Tensor]:
        """Features and truth of the slices at (clip, place in it)."""
        rows = torch.tensor([clip * n_slices + place for clip, place in places])
        goal = torch.stack([clips[clip].truth[place] for clip, place in places])
        return Features(features.high[rows], features.mid[rows], features.low[rows]), goal

    given = [clip.lesion.frame.points(clip.lesion.prompt) for clip in clips]
    points = PointPrompt(torch.cat([p.points for p in given]), torch.cat([p.labels for p in given]))
    seen, goal = of([(i, clip.prompted) for i, clip in enumerate(clips)])
    step = model.prompt(seen, points=points)
    losses = [slice_losses(step, goal)]
    passes = [
        (i, Pass(clip.lesion, way, clip.lesion.prompt.slice_index, _UNSEEN, (step.memory[i], step.pointer[i])))
        for i, clip in enumerate(clips)
        for way in (-1, 1)
    ]
    while passes := [(i, p) for i, p in passes if 0 <= p.next_slice - clips[i].first < n_slices]:
        seen, goal = of([(i, p.next_slice - clips[i].first) for i, p in passes])
        step = model.track(seen, recall([p for _, p in passes], model.config))
        losses.append(slice_losses(step, goal))
        for row, (_, p) in enumerate(passes):
            p.remember(_UNSEEN, (step.memory[row], step.pointer[row]), model.config)
    return torch.cat(losses).mean()


def slice_losses(step: Step, goal: Tensor) -> Tensor:
    """(B,) losses of SAM 2: mask, Dice, IoU (L1) where there is an object, and whether there is one.

    Cross-entropy in place of the focal loss: from random weights, confident mistakes are what must be learned from.
    """
    logits = F.interpolate(step.logits, size=goal.shape[-2:], mode="bilinear", align_corners=False)
    goal_is, mask_is = goal > 0.5, logits > 0
    present = goal_is.flatten(1).any(dim=1).float()
    # Slices without an object are written as -1024, and so is an object that is overlooked: that one's mask cannot learn.
    mask = F.binary_cross_entropy_with_logits(logits.clamp(-20, 20), goal, reduction="none").mean(dim=(1, 2, 3))
    share = torch.sigmoid(logits)
    overlap = 2 * (share * goal).sum(dim=(1, 2, 3)) + 1
    dice = 1 - overlap / ((share + goal).sum(dim=(1, 2, 3)) + 1)
    iou = (goal_is & mask_is).sum(dim=(1, 2, 3)) / (goal_is | mask_is).sum(dim=(1, 2, 3)).clamp(min=1)
    seen = F.binary_cross_entropy_with_logits(step.object_score, present, reduction="none")
    return present * (10 * mask + dice + (step.iou - iou).abs()) + seen
