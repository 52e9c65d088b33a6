"""Compare engines on cases with a truth. The unit that is resampled is the lesion, never the prompt."""

from __future__ import annotations

import time
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from segmentation.metrics import (
    Interval,
    bootstrap_ci,
    dice,
    paired_difference_ci,
    recist_error,
    volume_error,
)
from segmentation.types import Mask, SegmentationFailure, SegmentationJob, Segmenter

BASELINE = "ellipsoid"


@dataclass(frozen=True, slots=True, eq=False)
class EvaluationCase:
    """One prompt of one lesion and the truth.

    Parameters
    ----------
    case_id
        The lesion; cases of one lesion (several prompts) share it and count once together.
    truth
        A mask, or a (slice, row, column) boolean array over the whole volume of ``job``; not empty.

    """

    case_id: str
    job: SegmentationJob
    truth: Mask | NDArray[np.bool_]


@dataclass(frozen=True, slots=True)
class CaseScore:
    """One engine's answer to one case; a failure scores Dice 0 and errors of 1."""

    case_id: str
    dice: float
    volume_error: float
    recist_error: float
    seconds: float
    failure: str | None = None


@dataclass(frozen=True, slots=True)
class EngineScore:
    """One engine over all lesions: means with 95 % bootstrap intervals over lesions.

    Parameters
    ----------
    dice, volume_error, recist_error
        The errors are absolute fractions of the truth.
    seconds
        Wall time of one case, mean.
    dice_above_baseline
        Paired difference of Dice to the ellipsoid; None for itself or where it was not run.
    cases
        Every case, in the order given.

    """

    engine: str
    lesions: int
    failures: int
    dice: Interval
    volume_error: Interval
    recist_error: Interval
    seconds: float
    dice_above_baseline: Interval | None
    cases: tuple[CaseScore, ...]


def evaluate(
    cases: Iterable[EvaluationCase], engines: Mapping[str, Segmenter] | Sequence[Segmenter], *, seed: int = 0
) -> tuple[EngineScore, ...]:
    """Run every engine on every case, one case at a time.

    Raises
    ------
    ValueError
        If there is no case or a truth is empty.

    """
    named = dict(engines) if isinstance(engines, Mapping) else {engine.name: engine for engine in engines}
    scores: dict[str, list[CaseScore]] = {name: [] for name in named}
    for case in cases:
        truth = case.truth.in_volume(case.job.volume.voxels.shape) if isinstance(case.truth, Mask) else case.truth
        if not truth.any():
            raise ValueError("a truth is empty: there is nothing to score against")
        for name, engine in named.items():
            scores[name].append(_score(case, truth, engine))
    lesion_dice = {name: _per_lesion(found, "dice") for name, found in scores.items()}
    return tuple(
        _summary(name, found, lesion_dice[name], None if name == BASELINE else lesion_dice.get(BASELINE), seed)
        for name, found in scores.items()
    )


def format_table(scores: Iterable[EngineScore]) -> str:
    """Markdown table, one line an engine; percentages of the truth for the errors."""
    lines = [
        "| engine | lesions | Dice | above ellipsoid | volume error % | RECIST error % | s / lesion | failures |",
        "|---|---|---|---|---|---|---|---|",
    ]
    for score in scores:
        above = "" if score.dice_above_baseline is None else str(score.dice_above_baseline)
        lines.append(
            f"| {score.engine} | {score.lesions} | {score.dice} | {above} | {_percent(score.volume_error)} "
            f"| {_percent(score.recist_error)} | {score.seconds:.3f} | {score.failures} |"
        )
    return "\n".join(lines)


def _score(case: EvaluationCase, truth: NDArray[np.bool_], engine: Segmenter) -> CaseScore:
    started = time.perf_counter()
    answers = list(engine.segment([case.job]))
    seconds = time.perf_counter() - started
    answer = next((a for a in answers if a.job_id == case.job.job_id), None)
    if not isinstance(answer, Mask):
        reason = answer.reason if isinstance(answer, SegmentationFailure) else "no_answer"
        return CaseScore(case.case_id, 0.0, -1.0, 1.0, seconds, reason)
    mask = answer.in_volume(truth.shape)
    return CaseScore(
        case.case_id,
        dice(mask, truth),
        volume_error(mask, truth),
        recist_error(mask, truth, case.job.volume.spacing_mm),
        seconds,
    )


def _per_lesion(scores: Sequence[CaseScore], field: str) -> list[float]:
    """Mean over the prompts of each lesion, in the order in which lesions first appear."""
    values: dict[str, list[float]] = {}
    for score in scores:
        values.setdefault(score.case_id, []).append(abs(float(getattr(score, field))))
    return [float(np.mean(group)) for group in values.values()]


def _summary(
    name: str, scores: Sequence[CaseScore], lesion_dice: list[float], baseline: list[float] | None, seed: int
) -> EngineScore:
    return EngineScore(
        engine=name,
        lesions=len(lesion_dice),
        failures=sum(score.failure is not None for score in scores),
        dice=bootstrap_ci(lesion_dice, seed=seed),
        volume_error=bootstrap_ci(_per_lesion(scores, "volume_error"), seed=seed),
        recist_error=bootstrap_ci(_per_lesion(scores, "recist_error"), seed=seed),
        seconds=float(np.mean([score.seconds for score in scores])),
        dice_above_baseline=None if baseline is None else paired_difference_ci(lesion_dice, baseline, seed=seed),
        cases=tuple(scores),
    )


def _percent(interval: Interval) -> str:
    return f"{100 * interval.mean:.1f} [{100 * interval.low:.1f}, {100 * interval.high:.1f}]"
