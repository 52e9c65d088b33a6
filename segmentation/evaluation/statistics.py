"""From scores of cases to figures of engines: what is resampled is the patient, then the lesion, never the prompt."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping, Sequence
from math import nan

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
    plain bootstrap over lesions. One patient alone has no interval.

    Raises
    ------
    ValueError
        If there is no value or one is not finite.

    """
    return _summary(_draws(values, seed), mean_over_patients(values), len(values))


def difference(first: Nested, second: Nested, *, seed: int = 0) -> Interval:
    """Interval of `paired`.

    Raises
    ------
    ValueError
        If they have no lesion in common.

    """
    return interval(paired(first, second), seed=seed)


def paired(first: Nested, second: Nested) -> Nested:
    """``first - second`` lesion by lesion, over the lesions that both have."""
    return {
        patient: {lesion: value - second[patient][lesion] for lesion, value in lesions.items() if lesion in other}
        for patient, lesions in first.items()
        if (other := second.get(patient)) and lesions.keys() & other.keys()
    }


def mean_of_cells(cells: Iterable[tuple[str, Nested]], *, seed: int = 0) -> Interval:
    """Mean of the means of several cells, each with the same weight, as in the papers' last rows.

    A replicate draws the patients of each data set once, with all of their lesions, and the draw holds in every cell:
    five prompts of one lesion tell of it once. A cell that no drawn patient is in does not count in that replicate.

    Parameters
    ----------
    cells
        Data set, and the values of e.g. one category and prompt of it.

    Raises
    ------
    ValueError
        If there is no cell, or one is empty.

    """
    every = [(name, {p: float(np.mean(list(found.values()))) for p, found in values.items()}) for name, values in cells]
    if not every or not all(means for _, means in every):
        raise ValueError("needs at least one cell, and a lesion in each")
    rng = np.random.default_rng(seed)
    drawn = np.empty((DRAWS, len(every)))
    most = 0
    for dataset in sorted({name for name, _ in every}):
        mine = [i for i, (name, _) in enumerate(every) if name == dataset]
        patients = sorted({patient for i in mine for patient in every[i][1]})
        most = max(most, len(patients))
        times = rng.multinomial(len(patients), np.full(len(patients), 1 / len(patients)), DRAWS)
        for i in mine:
            means = every[i][1]
            held = times @ np.array([patient in means for patient in patients])
            with np.errstate(invalid="ignore"):  # 0 / 0: the cell does not count
                drawn[:, i] = times @ np.array([means.get(patient, 0.0) for patient in patients]) / held
    mean = float(np.mean([np.mean(list(means.values())) for _, means in every]))
    return _summary(np.nanmean(drawn, axis=1), mean, most)


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


def _summary(drawn: FloatArray, mean: float, patients: int) -> Interval:
    if patients < 2:
        return Interval(mean, nan, nan)
    low, high = np.quantile(drawn, [0.025, 0.975])
    return Interval(mean, float(low), float(high))
