"""From scores of cases to figures of engines: what is resampled is the patient, then the lesion, never the prompt."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping, Sequence

import numpy as np
from numpy.typing import NDArray

from segmentation.evaluation.scoring import CaseScore
from segmentation.metrics import Interval

FloatArray = NDArray[np.float64]
Nested = Mapping[str, Mapping[str, float]]
"""Patient to lesion to a value: the mean over the lesion's prompts."""

Metric = Callable[[CaseScore], float | None]

METRICS: dict[str, Metric] = {
    "dice": lambda score: score.dice,
    "nsd": lambda score: score.nsd,
    "hd95_mm": lambda score: score.hd95_mm,
    "volume_error": lambda score: abs(score.volume_error),
    "recist_error": lambda score: score.recist_error,
}

DRAWS = 2000
_CHUNK = 1 << 22


def nested(scores: Iterable[CaseScore], metric: Metric) -> Nested:
    """Mean over the prompts of every lesion, by patient; a case where the metric is None does not count."""
    values: dict[str, dict[str, list[float]]] = {}
    for score in scores:
        value = metric(score)
        if value is not None:
            values.setdefault(score.patient, {}).setdefault(score.case_id, []).append(value)
    return {
        patient: {lesion: float(np.mean(found)) for lesion, found in lesions.items()}
        for patient, lesions in values.items()
    }


def mean_over_patients(values: Nested) -> float:
    """Mean over patients of the mean over their lesions."""
    return float(np.mean([np.mean(list(lesions.values())) for lesions in values.values()]))


def interval(values: Nested, *, seed: int = 0) -> Interval:
    """Mean over patients of the mean over their lesions, with its 95 % bootstrap interval.

    Patients are drawn with replacement, then as many lesions of each as it has. With one lesion a patient this is the
    plain bootstrap over lesions.

    Raises
    ------
    ValueError
        If there is no value or one is not finite.

    """
    return _summary(_draws(values, seed), mean_over_patients(values))


def difference(first: Nested, second: Nested, *, seed: int = 0) -> Interval:
    """``first - second`` lesion by lesion, over the lesions that both have, with its interval.

    Raises
    ------
    ValueError
        If they have no lesion in common.

    """
    both = {
        patient: {lesion: value - second[patient][lesion] for lesion, value in lesions.items() if lesion in other}
        for patient, lesions in first.items()
        if (other := second.get(patient)) and lesions.keys() & other.keys()
    }
    return interval(both, seed=seed)


def mean_of_groups(groups: Iterable[Nested], *, seed: int = 0) -> Interval:
    """Mean of the means of several data sets or categories, each with the same weight, as in the papers' last rows.

    Patients are drawn within each group.
    """
    every = list(groups)
    drawn = np.mean([_draws(values, seed + i) for i, values in enumerate(every)], axis=0)
    return _summary(drawn, float(np.mean([mean_over_patients(values) for values in every])))


def by_distance(scores: Sequence[CaseScore], *, least: int = 2, seed: int = 0) -> dict[int, Interval]:
    """2D Dice by the distance from the prompted slice (SAM2CT, Figure 5), where at least ``least`` lesions reach."""
    reach = max((abs(k) for score in scores for k, _ in score.slices), default=-1)
    found = {}
    for distance in range(reach + 1):
        values = nested(scores, lambda score, d=distance: _at(score, d))  # type: ignore[misc]
        if sum(len(lesions) for lesions in values.values()) >= least:
            found[distance] = interval(values, seed=seed)
    return found


def _at(score: CaseScore, distance: int) -> float | None:
    """Mean of the slices above and below at this distance."""
    found = [value for k, value in score.slices if abs(k) == distance]
    return float(np.mean(found)) if found else None


def _draws(values: Nested, seed: int) -> FloatArray:
    """Bootstrap replicates of `mean_over_patients`."""
    lesions = [np.array(list(found.values()), dtype=np.float64) for found in values.values()]
    if not lesions or not all(len(found) and np.isfinite(found).all() for found in lesions):
        raise ValueError("needs at least one lesion, and all values finite")
    counts = np.array([len(found) for found in lesions])
    padded = np.zeros((len(lesions), counts.max()))
    for row, found in zip(padded, lesions, strict=True):
        row[: len(found)] = found
    rng = np.random.default_rng(seed)
    chunk = max(1, _CHUNK // padded.size)
    means = []
    for start in range(0, DRAWS, chunk):
        shape = (min(chunk, DRAWS - start), len(lesions))
        patients = rng.integers(0, len(lesions), shape)
        many = counts[patients]
        if padded.shape[1] == 1:
            means.append(padded[patients, 0].mean(axis=1))
            continue
        which = (rng.random((*shape, padded.shape[1])) * many[..., None]).astype(np.intp)
        taken = padded[patients[..., None], which] * (np.arange(padded.shape[1]) < many[..., None])
        means.append((taken.sum(axis=2) / many).mean(axis=1))
    result: FloatArray = np.concatenate(means)
    return result


def _summary(drawn: FloatArray, mean: float) -> Interval:
    low, high = np.quantile(drawn, [0.025, 0.975])
    return Interval(mean, float(low), float(high))
