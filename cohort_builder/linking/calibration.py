"""The join's parameters, learnt from pairs of finding and lesion that a person has judged.

Every rate has a beta prior at its start value, worth ``_PRIOR_ROWS`` judged pairs; the noise of sizes a log-normal one.
A few rows move little, a few hundred decide. What judged pairs do not tell (how much is said and drawn at all, the
sizes of lesions) stays as it was.
"""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import replace
from itertools import product
from math import exp, isfinite, log, log1p
from typing import Any

import numpy as np
from numpy.typing import NDArray

from cohort_builder.errors import ConfigError
from cohort_builder.linking.config import LinkConfig
from cohort_builder.linking.evidence import FEATURES
from cohort_builder.linking.sizes import noise_prior, written_as

FloatArray = NDArray[np.float64]

_PRIOR_ROWS = 20.0
_LOG_MEDIAN_SD, _LOG_SD_SD = 1.5, 1.0  # of the prior on the noise: a factor of four; nearly three
_MEDIANS = tuple(float(v) for v in np.geomspace(0.05, 4.0, 45))
_LOG_SDS = tuple(float(v) for v in np.geomspace(0.3, 2.0, 18))
_SHARES = (0.001, 0.002, 0.005, 0.01, 0.02, 0.035, 0.05, 0.08, 0.12, 0.2, 0.3)
_SHIFT_SD = 0.5  # of the posterior's log odds
_THRESHOLDS = (
    "linked_on_image", "linked", "linked_by_size", "linked_together", "least_linked", "certain",
)  # fmt: skip
_NEWTON_STEPS = 30
_LEAST_P = 1e-4
_LOWEST, _HIGHEST = 0.8, 0.9995  # a threshold


def fit_link_model(rows: Iterable[Mapping[str, Any]], start: LinkConfig | None = None) -> LinkConfig:
    """Refit rates, noise and threshold to judged pairs.

    Parameters
    ----------
    rows
        One for each judged pair: ``verdict`` (True: the finding is the lesion) and ``features`` (what
        ``evidence.pair_features`` returned). Optional: ``probability``, the posterior that ``link`` gave the pair, from
        which the threshold is moved; ``reading``, the same for the pairs of one report, whose noise is one.
    start
        What is fitted from; the defaults when None.

    Returns
    -------
    The configuration with fitted ``noise_median_mm, noise_log_sd, unrelated_size, side_right, organ_right,
    level_right, reference_exact, reference_near, two_of_two, two_of_one`` and the thresholds ``linked...``,
    ``least_linked`` and ``certain``, which are compared with posteriors.
    Without rows, ``start``.

    Raises
    ------
    ConfigError
        If a row has no boolean ``verdict``, or features that are not numbers.

    """
    start = start or LinkConfig()
    judged = [_checked(number, row) for number, row in enumerate(rows, start=1)]
    right = [features for is_right, features, _ in judged if is_right]
    fitted: dict[str, Any] = {
        name: _rate([features[feature] for features in right if feature in features], getattr(start, name))
        for name, feature in (("side_right", "side"), ("organ_right", "organ"), ("level_right", "level"))
    }
    for name, drawn in (("two_of_two", 1.0), ("two_of_one", 0.0)):
        said = [one["two_said"] for one in right if one.get("two_drawn") == drawn and "two_said" in one]
        fitted[name] = _rate(said, getattr(start, name))
    named = [features["reference"] for features in right if "reference" in features]
    fitted["reference_exact"] = _rate([float(value > 1.5) for value in named], start.reference_exact)
    near = _rate([float(0.5 < value < 1.5) for value in named], start.reference_near)
    fitted["reference_near"] = min(near, 0.999 - fitted["reference_exact"])
    readings = defaultdict(list)
    for number, (is_right, features, row) in enumerate(judged):
        if is_right and "written_mm" in features:
            readings[row.get("reading", number)].append(features)
    if readings:
        fitted |= _fit_noise(list(readings.values()), start)
    beliefs = [(float(row["probability"]), is_right) for is_right, _, row in judged if "probability" in row]
    if beliefs:
        shift = _shift(beliefs)
        fitted |= {name: _moved(getattr(start, name), shift) for name in _THRESHOLDS}
    return replace(start, **fitted) if judged else start


def _checked(number: int, row: Mapping[str, Any]) -> tuple[bool, dict[str, float], Mapping[str, Any]]:
    verdict, features = row.get("verdict"), row.get("features")
    if not isinstance(verdict, bool | np.bool_):
        raise ConfigError(f"judged pair {number}: verdict must be True or False, got a {type(verdict).__name__}")
    if not isinstance(features, Mapping):
        raise ConfigError(f"judged pair {number}: features must be a mapping, got a {type(features).__name__}")
    known = {}
    for name in FEATURES:
        if name in features:
            value = features[name]
            if isinstance(value, str) or not isfinite(value):
                raise ConfigError(f"judged pair {number}: feature {name} must be a finite number")
            known[name] = float(value)
    probability = row.get("probability", 0.0)
    if isinstance(probability, str) or not 0 <= probability <= 1:
        raise ConfigError(f"judged pair {number}: probability must be between 0 and 1")
    return bool(verdict), known, row


def _rate(agree: Sequence[float], start: float) -> float:
    """Posterior mean of a rate with a beta prior at ``start``."""
    return (sum(agree) + _PRIOR_ROWS * start) / (len(agree) + _PRIOR_ROWS)


def _fit_noise(readings: Sequence[Sequence[Mapping[str, float]]], start: LinkConfig) -> dict[str, float]:
    """Most probable noise distribution and share of unrelated sizes, on a grid.

    The pairs of one reading share their standard deviation, which is summed over.
    """
    matched = [np.array([written_as(pair, start) for pair in reading]) for reading in readings]  # (pair, level + 1)
    grid = list(product(sorted({*_MEDIANS, start.noise_median_mm}), sorted({*_LOG_SDS, start.noise_log_sd})))
    shares = np.array([noise_prior(replace(start, noise_median_mm=median, noise_log_sd=sd)) for median, sd in grid])
    log_prior = np.array(
        [
            -0.5 * (log(median / start.noise_median_mm) / _LOG_MEDIAN_SD) ** 2
            - 0.5 * (log(sd / start.noise_log_sd) / _LOG_SD_SD) ** 2
            for median, sd in grid
        ]
    )
    best: tuple[float, dict[str, float]] = (-np.inf, {})
    for unrelated in sorted({*_SHARES, start.unrelated_size}):
        mixed = [(1 - unrelated) * one[:, :-1] + unrelated * one[:, -1:] for one in matched]
        per_level = np.array([np.log(one).sum(axis=0) for one in mixed])  # (reading, level)
        most = per_level.max(axis=1, keepdims=True)
        likelihood = np.log(np.exp(per_level - most) @ shares.T + 1e-300).sum(axis=0) + most.sum()
        as_start = start.unrelated_size * log(unrelated) + (1 - start.unrelated_size) * log1p(-unrelated)
        total = likelihood + log_prior + _PRIOR_ROWS * as_start
        k = int(total.argmax())
        if total[k] > best[0]:
            found = {"noise_median_mm": grid[k][0], "noise_log_sd": grid[k][1], "unrelated_size": unrelated}
            best = (float(total[k]), found)
    return best[1]


def _shift(beliefs: Sequence[tuple[float, bool]]) -> float:
    """What has to be added to the posterior's log odds, fitted by Newton with a normal prior around 0."""
    p = np.clip([p for p, _ in beliefs], _LEAST_P, 1 - _LEAST_P)
    logits, right = np.log(p / (1 - p)), np.array([is_right for _, is_right in beliefs], dtype=np.float64)
    shift = 0.0
    for _ in range(_NEWTON_STEPS):
        expected = 1 / (1 + np.exp(-(logits + shift)))
        slope = float((right - expected).sum()) - shift / _SHIFT_SD**2
        curvature = float((expected * (1 - expected)).sum()) + 1 / _SHIFT_SD**2
        shift += slope / curvature
    return shift


def _moved(threshold: float, shift: float) -> float:
    """The threshold that keeps its meaning when the log odds are off by ``shift``."""
    if threshold >= 1:
        return threshold
    moved = 1 / (1 + exp(shift - log(threshold / (1 - threshold))))
    return min(max(moved, min(_LOWEST, threshold)), max(_HIGHEST, threshold))
