"""A run in numbers: by engine, kind of prompt and group, with intervals."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import asdict, dataclass
from itertools import combinations
from typing import Any

import numpy as np

from segmentation.evaluation.run import Run
from segmentation.evaluation.scoring import CaseScore
from segmentation.evaluation.statistics import METRICS, by_distance, difference, interval, nested
from segmentation.metrics import Interval, wilcoxon_over_categories

ALL, SMALL, LARGE = "all", "small", "large"


@dataclass(frozen=True, slots=True)
class Row:
    """One engine on one kind of prompt and one group of lesions.

    Parameters
    ----------
    group
        "all", "small", "large", "dataset: NAME" or "category: NAME".
    metrics
        Name in `statistics.METRICS` to its interval; "hd95_mm" is missing where every case failed, and never counts
        failed cases.
    tiers
        Tier to the number of cases in it.
    fallbacks
        Cases where the engine found nothing and answered with the prompt's ellipsoid.
    prompts
        How the engine was prompted where that is not what was drawn.

    """

    engine: str
    kind: str
    group: str
    patients: int
    lesions: int
    cases: int
    failures: int
    metrics: Mapping[str, Interval]
    fallbacks: int
    seconds: float
    tiers: Mapping[str, int]
    prompts: tuple[str, ...]


@dataclass(frozen=True, slots=True)
class Pair:
    """``first - second`` in Dice and NSD over the lesions that both were asked for.

    ``categories`` and ``p`` are of the exact Wilcoxon test over the means of the categories (SAM2CT, section 3.4);
    None where there are fewer than two, or where it cannot tell anything.
    """

    first: str
    second: str
    kind: str
    group: str
    lesions: int
    dice: Interval
    nsd: Interval
    categories: int = 0
    p: float | None = None


@dataclass(frozen=True, slots=True)
class Summary:
    """All rows and pairs of a run, and 2D Dice by distance: (engine, kind) to slices away to interval."""

    rows: tuple[Row, ...]
    pairs: tuple[Pair, ...]
    distances: Mapping[tuple[str, str], Mapping[int, Interval]]

    def row(self, engine: str, kind: str, group: str = ALL) -> Row | None:
        """Find one row."""
        return next((r for r in self.rows if (r.engine, r.kind, r.group) == (engine, kind, group)), None)

    def as_dict(self) -> dict[str, Any]:
        """For JSON."""
        return {
            "rows": [asdict(row) for row in self.rows],
            "pairs": [asdict(pair) for pair in self.pairs],
            "dice_by_distance": [
                {"engine": engine, "kind": kind, "slices": {str(k): asdict(value) for k, value in curve.items()}}
                for (engine, kind), curve in self.distances.items()
            ],
        }


def summarise(run: Run) -> Summary:
    """Compute every figure of a run."""
    rows: list[Row] = []
    pairs: list[Pair] = []
    distances: dict[tuple[str, str], Mapping[int, Interval]] = {}
    for kind in run.plan.kinds:
        asked = [engine for engine in run.engines if run.of(engine, kind)]
        for engine in asked:
            distances[engine, kind] = by_distance(run.of(engine, kind))
        for group, belongs in groups_of(run):
            found = {engine: [s for s in run.of(engine, kind) if belongs(s)] for engine in asked}
            rows += [_row(engine, kind, group, scores) for engine, scores in found.items() if scores]
            if group in (ALL, SMALL, LARGE):
                pairs += [
                    _pair(kind, group, found[first], found[second])
                    for first, second in combinations([engine for engine, scores in found.items() if scores], 2)
                ]
    return Summary(tuple(rows), tuple(pairs), distances)


def groups_of(run: Run) -> Iterator[tuple[str, Callable[[CaseScore], bool]]]:
    """All lesions, small and large ones, every data set and category; what holds all of them is not repeated."""
    cut = run.plan.size_cut_mm
    yield ALL, lambda _: True
    if len({score.longest_mm < cut for score in run.scores}) > 1:
        yield SMALL, lambda score: score.longest_mm < cut
        yield LARGE, lambda score: score.longest_mm >= cut
    for name in ("dataset", "category"):
        values = sorted({getattr(score, name) for score in run.scores} - {""})
        for value in values if len(values) > 1 else ():
            yield f"{name}: {value}", lambda score, n=name, v=value: getattr(score, n) == v  # type: ignore[misc]


def category_of(score: CaseScore) -> str:
    """What the test over categories counts as one: a category of a data set."""
    return f"{score.dataset} {score.category}".strip()


def over_categories(first: Sequence[CaseScore], second: Sequence[CaseScore]) -> tuple[int, float | None]:
    """Number of categories, with their prompts, and p of the exact Wilcoxon test over them; None if it says nothing."""
    sides = [_categories(scores) for scores in (first, second)]
    if len(sides[0]) < 2 or sides[0].keys() != sides[1].keys():
        return len(sides[0]), None
    p = wilcoxon_over_categories(sides[0], sides[1])
    return len(sides[0]), p if np.isfinite(p) else None


def _categories(scores: Sequence[CaseScore]) -> dict[str, list[float]]:
    """Category and prompt to the Dice of its lesions."""
    found: dict[str, list[float]] = {}
    for name in sorted({(category_of(score), score.kind) for score in scores}):
        values = nested([s for s in scores if (category_of(s), s.kind) == name], METRICS["dice"])
        found[" ".join(name)] = [value for lesions in values.values() for value in lesions.values()]
    return found


def _row(engine: str, kind: str, group: str, scores: Sequence[CaseScore]) -> Row:
    values = {name: nested(scores, metric) for name, metric in METRICS.items()}
    return Row(
        engine,
        kind,
        group,
        patients=len(values["dice"]),
        lesions=len({score.case_id for score in scores}),
        cases=len(scores),
        failures=sum(score.failure is not None for score in scores),
        fallbacks=sum("fallback_ellipsoid" in score.flags for score in scores),
        metrics={name: interval(found) for name, found in values.items() if found},
        seconds=float(np.mean([score.seconds for score in scores])),
        tiers={tier: sum(score.tier == tier for score in scores) for tier in "ABC"},
        prompts=tuple(sorted({score.prompt for score in scores} - {""})),
    )


def _pair(kind: str, group: str, ours: Sequence[CaseScore], theirs: Sequence[CaseScore]) -> Pair:
    dice, nsd = (difference(nested(ours, METRICS[name]), nested(theirs, METRICS[name])) for name in ("dice", "nsd"))
    categories, p = over_categories(ours, theirs)
    return Pair(ours[0].engine, theirs[0].engine, kind, group, len({s.case_id for s in ours}), dice, nsd, categories, p)
