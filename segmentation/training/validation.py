"""How good a trainee is in between: the engine that it is at this moment, on lesions that it does not learn from."""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np

from segmentation.metrics import dice
from segmentation.prompts import Kind, simulate_prompt
from segmentation.training.cache import Cache
from segmentation.training.config import TrainConfig
from segmentation.training.samples import Sample
from segmentation.training.trainees import Trainee
from segmentation.types import Mask, SegmentationJob

_CHOICE = 0x7A11
"""Tells the numbers that choose and prompt lesions from those of the training."""


@dataclass(frozen=True, slots=True, eq=False)
class Judged:
    """A lesion, its prompt, and what the engine made of it.

    Parameters
    ----------
    is_fallback
        The network found nothing, and the engine gave the prompt's ellipsoid.
    dice
        Of what the network found; 0 where it found nothing.

    """

    sample: Sample
    kind: Kind
    job: SegmentationJob
    mask: Mask | None
    is_fallback: bool
    dice: float


def judge(trainee: Trainee, cache: Cache, config: TrainConfig) -> list[Judged]:
    """Segment ``config.validation_lesions`` lesions (None: all) of the split "val", each by one kind of prompt in turn.

    Prompts are those of evaluation (sam2ct.txt 2.2), the same every time. Where there are none of that split, those of
    "train" are taken, which says how well they were learned by heart.
    """
    places = cache.indices("val") or cache.indices("train")
    chosen = np.random.default_rng([config.seed, _CHOICE]).permutation(len(places))[: config.validation_lesions]
    kinds = tuple(dict.fromkeys(config.kinds))
    asked: dict[str, tuple[Sample, Kind, SegmentationJob]] = {}
    for i, place in enumerate(chosen):
        sample, kind = cache[places[place]], kinds[i % len(kinds)]
        rng = np.random.default_rng([config.seed, _CHOICE, i])
        prompt = simulate_prompt(sample.truth, kind, rng, spacing_mm=sample.volume.spacing_mm)
        asked[str(i)] = sample, kind, SegmentationJob(str(i), sample.volume, (prompt,))
    answers = {answer.job_id: answer for answer in trainee.segmenter().segment(job for _, _, job in asked.values())}
    judged = []
    for name, (sample, kind, job) in asked.items():
        answer = answers.get(name)
        mask = answer if isinstance(answer, Mask) else None
        is_fallback = mask is not None and "fallback_ellipsoid" in mask.flags
        score = 0.0
        if mask is not None and not is_fallback:
            score = dice(mask.in_volume(sample.truth.shape), sample.truth)
        judged.append(Judged(sample, kind, job, mask, is_fallback, score))
    return judged


def means(judged: Sequence[Judged]) -> dict[str, float]:
    """Mean Dice of all, and of each kind of prompt; and the share of those for which the ellipsoid stands in."""
    by_kind: defaultdict[str, list[float]] = defaultdict(list)
    for one in judged:
        by_kind["all"].append(one.dice)
        by_kind[one.kind].append(one.dice)
    shares = {"fallback": float(np.mean([one.is_fallback for one in judged]))}
    return {kind: float(np.mean(scores)) for kind, scores in by_kind.items()} | shares
