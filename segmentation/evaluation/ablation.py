"""Test-time MCM (SAM2CT, section 3.4): the same weights with memory-conditioned memories and without."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass

from segmentation.evaluation.published import published
from segmentation.evaluation.run import Run
from segmentation.evaluation.scoring import CaseScore
from segmentation.evaluation.statistics import METRICS, Nested, mean_of_cells, nested, paired
from segmentation.evaluation.summary import over_categories
from segmentation.evaluation.tables import markdown
from segmentation.metrics import Interval

MCM_ENGINES = ("sam2", "medsam2", "sam2-ft")
"""Engines of section 3.4: trained without memory-conditioned memories."""

WITH_MCM = " + MCM"
"""Behind the label of an engine: with memory-conditioned memories."""

HOLD_OUT, EXTERNAL, OTHER = "hold_out", "external", "other data"
TEST_SETS = {HOLD_OUT: "hold-out test set", EXTERNAL: "external test set", OTHER: OTHER}


@dataclass(frozen=True, slots=True)
class Effect:
    """What MCM brought to one engine on one test set.

    Parameters
    ----------
    off, on
        Mean of the means by category and prompt, as the paper's last rows are.
    gain
        Mean over the same categories and prompts of the difference lesion by lesion: ``on`` less ``off``.
    categories
        Pairs of category and prompt that ``p`` (exact Wilcoxon) is over; None: too few.

    """

    engine: str
    test_set: str
    off: Interval
    on: Interval
    gain: Interval
    categories: int
    p: float | None


def test_sets(run: Run) -> list[tuple[str, Callable[[CaseScore], bool]]]:
    """Test sets of the paper that the run holds lesions of, and other data."""
    paper = published()

    def part(score: CaseScore) -> str:
        if any(place.holds(score) for place in paper.hold_out):
            return HOLD_OUT
        return EXTERNAL if any(place.holds(score) for place in paper.external) else OTHER

    held = {part(score) for score in run.scores}
    return [(name, lambda score, n=name: part(score) == n) for name in TEST_SETS if name in held]  # type: ignore[misc]


def effects(run: Run) -> list[Effect]:
    """Hold every ablation of the run against its engine."""
    found: list[Effect] = []
    for on, off in run.bases.items():
        for name, belongs in test_sets(run):
            sides = [[s for s in run.scores if s.engine == engine and belongs(s)] for engine in (on, off)]
            if all(sides):
                with_mcm, without = (_cells(side) for side in sides)
                gain = mean_of_cells((cell[0], paired(values, without[cell])) for cell, values in with_mcm.items())
                means = [mean_over_cells(side) for side in sides]
                found.append(Effect(off, name, means[1], means[0], gain, *over_categories(*sides)))
    return found


def mean_over_cells(scores: Sequence[CaseScore]) -> Interval:
    """Mean Dice over categories and prompts, each with the same weight."""
    return mean_of_cells((cell[0], values) for cell, values in _cells(scores).items())


def _cells(scores: Sequence[CaseScore]) -> dict[tuple[str, str, str], Nested]:
    """Dice by data set, category and kind of prompt."""
    cells: dict[tuple[str, str, str], list[CaseScore]] = {}
    for score in scores:
        cells.setdefault((score.dataset, score.category, score.kind), []).append(score)
    return {cell: nested(held, METRICS["dice"]) for cell, held in cells.items()}


def ablation_markdown(run: Run) -> str:
    """Lay out the ablation, and what the paper found beside it."""
    paper = published()
    rows = [
        [e.engine, TEST_SETS[e.test_set], str(e.off), str(e.on), str(e.gain), str(e.categories), _p(e.p)]
        for e in effects(run)
    ]
    printed = [
        [gain.model, TEST_SETS[gain.test_set], "-", f"{gain.reached or '-'}", f"{gain.gain:.3f}", "-", gain.p]
        for gain in paper.gains
    ]
    head = ["Model", "Data", "MCM off", "MCM on", "Gain", "Categories × prompts", "p"]
    return (
        f"## Test-time MCM\n\nMeasured here\n\n{markdown(head, rows)}\n\nIn the paper (section 3.4)\n\n"
        f"{markdown(head, printed)}\n\nDice; off and on are means of the means by category and prompt, the gain is the "
        "mean of the differences in the same, lesion by lesion; 95 % bootstrap intervals over patients, drawn once for "
        "all categories and prompts; p is that of the exact Wilcoxon test.\n"
    )


def _p(value: float | None) -> str:
    return "-" if value is None else "< 0.001" if value < 0.001 else f"{value:.3f}"
