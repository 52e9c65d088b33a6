"""Generated lesions that a network learns within a minute, and such a network, trained by the package itself.

What it learns is as easy as its lesions are; nobody should segment patients with it.
"""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import numpy as np
from lesions import make_volume

from segmentation.evaluation import EvaluationCase
from segmentation.prompts import Kind, simulate_prompt
from segmentation.sam2ct.config import NANO
from segmentation.training.cache import Cache, build_cache
from segmentation.training.config import Augmentation, LossRecipe, TrainConfig
from segmentation.training.samples import Sample, Split, bare_volume
from segmentation.types import SegmentationJob, Volume

KINDS: tuple[Kind, ...] = ("line", "bidimensional", "arrow")
LUNG_HU, FAT_HU = -850.0, -100.0

EASY = TrainConfig(
    preset="easy",
    model=NANO.with_changes(pointer_scale_fixed=True),
    steps=160,
    learning_rate=2e-3,
    warm_up=0.125,
    lesions=8,
    images=24,
    slices=(3, 4, 6),
    single=0.625,
    kinds=KINDS,
    augmentation=Augmentation(shift=1 / 8),
    loss=LossRecipe(focal=0.0, cross_entropy=10.0),
    checkpoint_every=0,
    device="cpu",
)
"""About a minute on one core: the prompted slice alone first, then short sub-volumes."""


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


def easy_cache(folder: Path, n: int, *, seed: int = 7, val_every: int = 10) -> Cache:
    """Cache of ``n`` lesions, every ``val_every``-th for validation."""

    def samples() -> Iterator[Sample]:
        for i in range(n):
            volume, truth = generated_lesion(np.random.default_rng([seed, i]))
            split: Split = "val" if val_every and i % val_every == 0 else "train"
            bare = bare_volume(volume.voxels, volume.affine)
            yield Sample(f"easy-{i}", f"case-{i}", f"patient-{i}", "easy", "ellipsoid", split, bare, truth)

    return build_cache(samples(), folder)
