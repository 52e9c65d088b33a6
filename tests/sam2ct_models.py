"""A network that does what a test says, in the place of a `SAM2CTModel`, and the volumes that it understands.

`BrightModel` sees as object what is brighter than 0 HU and hangs together with the prompt, or with its own mask of the
slice before. So the truth is drawn into the voxels, and a mask that a row was given by mistake (of another lesion, of
another slice) shows in the result.
"""

from __future__ import annotations

import hashlib
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass, field

import numpy as np
import scipy.ndimage as ndi
import torch
import torch.nn.functional as F  # noqa: N812 - as everybody writes it
from torch import Tensor, nn

from segmentation import (
    Line,
    Mask,
    SegmentationFailure,
    SegmentationJob,
    Volume,
)
from segmentation.sam2ct.config import NANO, SAM2CTConfig
from segmentation.sam2ct.engine import SAM2Segmenter
from segmentation.sam2ct.model import SAM2CTModel, build_model
from segmentation.sam2ct.steps import Features, PointPrompt, Recall, Step

BRIGHT, DARK = 400, -400
PIXEL_MM, SLICE_MM = 0.8, 2.0
PLAIN = SAM2CTConfig(size="nano", image_size=256, roi="full")
LOGITS_PER_GREY = 20.0
SURE, UNSURE, NOTHING = 5.0, -5.0, -1024.0
UNPROMPTED = 4
"""Side of the square of network pixels per logit."""


class BrightModel(nn.Module):
    """Stands in for `SAM2CTModel`; records what it is asked.

    Parameters
    ----------
    obstacle
        Called with what is about to be done (``"encode"``, ``"prompt"``, ``"track"``) and the rows; may raise.
    distracted
        Sees everything bright wherever it sees its object.

    """

    def __init__(
        self,
        config: SAM2CTConfig = PLAIN,
        *,
        obstacle: Callable[[str, int], None] | None = None,
        weight: float = 0.0,
        distracted: bool = False,
    ) -> None:
        super().__init__()
        self.distracted = distracted
        self.config = config
        self.no_mem_embed = nn.Parameter(torch.full((1,), weight), requires_grad=False)
        self.obstacle = obstacle or (lambda _what, _rows: None)
        self.encoded: list[bytes] = []
        self.encoder_calls: list[int] = []
        self.images: list[Tensor] = []
        self.prompts: list[PointPrompt | Tensor] = []
        self.tracked: list[int] = []

    def encode(self, images: Tensor) -> Features:
        self.obstacle("encode", len(images))
        self.encoder_calls.append(len(images))
        self.encoded += [hashlib.sha256(image.numpy().tobytes()).digest() for image in images]
        self.images += list(images.clone())
        grey = F.avg_pool2d(images[:, :1] * 0.229 + 0.485, UNPROMPTED)
        few = grey.new_zeros(len(images), 1, images.shape[-1] // 16, images.shape[-1] // 16)
        return Features(grey, few, few)

    def prompt(self, features: Features, points: PointPrompt | None = None, mask: Tensor | None = None) -> Step:
        self.obstacle("prompt", len(features.high))
        if mask is not None:
            self.prompts.append(mask)
            seeds = F.avg_pool2d(mask, UNPROMPTED)[:, 0].numpy() > 0
            return self._step(features, seeds)
        self.prompts.append(points)
        seeds = np.zeros((len(features.high), *features.high.shape[-2:]), np.bool_)
        for seed, xy, labels in zip(seeds, points.points.numpy(), points.labels.tolist(), strict=True):
            for x, y in _inside(xy, labels):
                column, row = (int(np.floor((c + 0.5) / UNPROMPTED)) for c in (x, y))
                if 0 <= row < seed.shape[0] and 0 <= column < seed.shape[1]:
                    seed[row, column] = True
        return self._step(features, seeds)

    def track(self, features: Features, recall: Recall) -> Step:
        self.obstacle("track", len(features.high))
        self.tracked.append(len(features.high))
        back = recall.distances.masked_fill(recall.distances <= 0, 1000).argmin(dim=1)  # 0, the prompt's, if all are
        row = torch.arange(len(back))
        masks = F.pixel_shuffle(recall.memories[row, back], UNPROMPTED)[:, 0]
        if not torch.equal(recall.pointers[row, back, 0], masks.sum(dim=(1, 2))):
            raise ValueError("the pointer is of another slice than the memory")
        return self._step(features, masks.numpy() > 0)

    def _step(self, features: Features, seeds: np.ndarray) -> Step:
        grey = features.high[:, 0]
        logits = (grey - 0.5) * LOGITS_PER_GREY
        for one, seed in zip(logits, seeds, strict=True):
            labels, _ = ndi.label(one.numpy() > 0)
            own = np.isin(labels, np.unique(labels[seed & (labels > 0)])) & (labels > 0)
            if own.any() and self.distracted:
                continue
            if own.any():
                one[torch.from_numpy((labels > 0) & ~own)] = -LOGITS_PER_GREY / 2
            else:
                one[:] = NOTHING
        masks = (logits > 0).float()[:, None]
        seen = masks.sum(dim=(1, 2, 3))
        return Step(
            logits[:, None],
            torch.full_like(seen, 0.9),
            torch.where(seen > 0, SURE, UNSURE),
            torch.stack([seen, seen * 0], dim=1),
            F.pixel_unshuffle(masks, UNPROMPTED),
        )


def _inside(points: np.ndarray, labels: Sequence[int]) -> Iterable[np.ndarray]:
    """Where the lesion is: at clicks, at the middle of a box or measurement, before the head of an arrow."""
    if 1 in labels:
        return [xy for xy, label in zip(points, labels, strict=True) if label == 1]
    if labels[-1] == 6:
        tail, head = points
        return [head + (head - tail) * 0.5]
    return [points.mean(axis=0)]


@dataclass(frozen=True, slots=True)
class Ball:
    """A bright disc on the slices ``first`` to ``last``, both inclusive; (x, y) and radius in pixels of 0.8 mm.

    ``radii`` and ``shifts`` (along x) say otherwise for single slices.
    """

    first: int
    last: int
    x: float
    y: float
    radius: float = 8.0
    radii: dict[int, float] = field(default_factory=dict)
    shifts: dict[int, float] = field(default_factory=dict)

    @property
    def middle(self) -> int:
        return (self.first + self.last) // 2


def volume_of(
    shape: tuple[int, int, int],
    *balls: Ball,
    spacing_mm: tuple[float, float, float] = (SLICE_MM, PIXEL_MM, PIXEL_MM),
    seed: int = 0,
) -> Volume:
    """Dark volume with bright discs, their rims shaded by how much of a pixel they cover, and a little noise."""
    slices, rows, columns = shape
    draw = np.random.default_rng(seed)
    voxels = np.rint(draw.uniform(DARK - 4, DARK + 4, shape)).astype(np.int16)
    y, x = np.mgrid[:rows, :columns] * np.array(spacing_mm[1:])[:, None, None]
    for ball in balls:
        for z in range(ball.first, ball.last + 1):
            cx, cy = (ball.x + ball.shifts.get(z, 0.0)) * spacing_mm[2], ball.y * spacing_mm[1]
            inside = ball.radii.get(z, ball.radius) * PIXEL_MM - np.hypot(x - cx, y - cy)
            covered = np.clip(inside / min(spacing_mm[1:]) + 0.5, 0, 1)
            bright = np.rint(DARK + (BRIGHT - DARK) * covered).astype(np.int16)
            voxels[z] = np.where(covered > 0, np.maximum(voxels[z], bright), voxels[z])
    affine = np.diag([*spacing_mm, 1.0])
    return Volume(voxels, affine, "1.2", f"1.3.{seed}", tuple(f"1.4.{seed}.{z}" for z in range(slices)))


def line_on(ball: Ball, z: int | None = None) -> Line:
    """The diameter of ``ball`` along x, on its middle slice or on ``z``."""
    z = ball.middle if z is None else z
    x, radius = ball.x + ball.shifts.get(z, 0.0), ball.radii.get(z, ball.radius)
    return Line(z, (x - radius, ball.y), (x + radius, ball.y))


def jobs_on(volume: Volume, *balls: Ball, name: str = "") -> list[SegmentationJob]:
    """One job for each ball, by its diameter: ``0``, ``1`` ..."""
    return [SegmentationJob(f"{name}{i}", volume, (line_on(ball),)) for i, ball in enumerate(balls)]


def engine_of(model: nn.Module, **options: object) -> SAM2Segmenter:
    return SAM2Segmenter("sam2ct", model, **{"device": "cpu", **options})


def answers_of(engine: SAM2Segmenter, jobs: Iterable[SegmentationJob]) -> dict[str, Mask | SegmentationFailure]:
    """Answers by job; raises where one was answered twice."""
    answers: dict[str, Mask | SegmentationFailure] = {}
    for answer in engine.segment(jobs):
        if answer.job_id in answers:
            raise ValueError(f"{answer.job_id} was answered twice")
        answers[answer.job_id] = answer
    return answers


def slices_of(mask: Mask) -> tuple[int, int]:
    """First and last slice."""
    return mask.offset[0], mask.offset[0] + len(mask.voxels) - 1


def bright_part(volume: Volume, ball: Ball) -> np.ndarray:
    """Voxels of one ball, told from the others by its slices and its distance."""
    rows, columns = np.mgrid[: volume.voxels.shape[1], : volume.voxels.shape[2]]
    truth = np.zeros(volume.voxels.shape, np.bool_)
    for z in range(ball.first, ball.last + 1):
        far = ball.radii.get(z, ball.radius) + 2
        near = np.hypot(columns - ball.x - ball.shifts.get(z, 0.0), rows - ball.y) <= far
        truth[z] = (volume.voxels[z] > 0) & near
    return truth


def dice(mask: Mask, truth: np.ndarray) -> float:
    found = mask.in_volume(truth.shape)
    return 2 * float((found & truth).sum()) / float(found.sum() + truth.sum())


def same(a: Mask | SegmentationFailure, b: Mask | SegmentationFailure) -> bool:
    """Whether two answers are equal in every voxel and number (not in who gave them)."""
    if isinstance(a, SegmentationFailure) or isinstance(b, SegmentationFailure):
        return a == b
    numbers = [(m.offset, m.slice_confidence, m.slice_stability, m.flags, m.prompt) for m in (a, b)]
    return numbers[0] == numbers[1] and np.array_equal(a.voxels, b.voxels)


SMALL = PLAIN.with_changes(image_size=128)
SHAPE = (24, 64, 64)
CROWD = [Ball(z, z + n, 10.0 + 11 * i, 12.0 + 20 * (i % 3), 4.0) for i, (z, n) in enumerate(
    [(0, 23), (2, 5), (3, 0), (4, 9), (20, 3)]
)]  # fmt: skip
"""Lesions beside each other whose slices overlap: the first and the last slice, a whole volume, a single slice."""


def crowd_jobs() -> list[SegmentationJob]:
    return [job for i in range(2) for job in jobs_on(volume_of(SHAPE, *CROWD, seed=i), *CROWD, name=f"{i}-")]


def seeing_nano(config: SAM2CTConfig = NANO, seed: int = 0) -> SAM2CTModel:
    """Random weights that see an object almost everywhere."""
    model = build_model(config, seed=seed)
    with torch.no_grad():
        model.sam_mask_decoder.pred_obj_score_head.layers[-1].bias += 3.0
    return model


def lost(*_: object, **__: object) -> None:
    raise RuntimeError("CUDA error: device-side assert triggered")
