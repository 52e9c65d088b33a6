"""Compare engines on cases in memory, against the ellipsoid."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass

import numpy as np

from segmentation.evaluation.cases import EvaluationCase
from segmentation.evaluation.scoring import CaseScore, score_case
from segmentation.evaluation.statistics import METRICS, difference, interval, nested
from segmentation.metrics import Interval
from segmentation.types import Segmenter

BASELINE = "ellipsoid"


@dataclass(frozen=True, slots=True)
class EngineScore:
    """One engine over all lesions: means with 95 % bootstrap intervals over patients, then lesions.

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
    """Run every engine on every case, one case at a time; an engine that fails on one scores 0 on it.

    Raises
    ------
    ValueError
        If there is no case or a truth is empty.
    EngineError
        An engine cannot run on this machine.

    """
    named = dict(engines) if isinstance(engines, Mapping) else {engine.name: engine for engine in engines}
    scores: dict[str, list[CaseScore]] = {name: [] for name in named}
    for case in cases:
        for name, engine in named.items():
            scores[name].append(score_case(case, engine, name))
    return tuple(
        _summary(name, found, None if name == BASELINE else scores.get(BASELINE), seed)
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
            f"| {score.engine} | {score.lesions} | {score.dice} | {above} | {score.volume_error.percent} "
            f"| {score.recist_error.percent} | {score.seconds:.3f} | {score.failures} |"
        )
    return "\n".join(lines)


def _summary(name: str, scores: Sequence[CaseScore], baseline: Sequence[CaseScore] | None, seed: int) -> EngineScore:
    values = {metric: nested(scores, METRICS[metric]) for metric in ("dice", "volume_error", "recist_error")}
    above = None
    if baseline is not None:
        above = difference(values["dice"], nested(baseline, METRICS["dice"]), seed=seed)
    return EngineScore(
        engine=name,
        lesions=len({score.case_id for score in scores}),
        failures=sum(score.failure is not None for score in scores),
        **{metric: interval(found, seed=seed) for metric, found in values.items()},
        seconds=float(np.mean([score.seconds for score in scores])),
        dice_above_baseline=above,
        cases=tuple(scores),
    )
