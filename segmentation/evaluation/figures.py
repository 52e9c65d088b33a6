"""Figures 4 and 5 of the SAM2CT paper, of a run."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from pathlib import Path
from typing import NamedTuple

import numpy as np
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.ticker import MaxNLocator

from segmentation.evaluation.ablation import EXTERNAL, HOLD_OUT, TEST_SETS, WITH_MCM, mean_over_cells, test_sets
from segmentation.evaluation.published import ALL_DATASETS, Published, published
from segmentation.evaluation.run import Run
from segmentation.evaluation.scoring import CaseScore
from segmentation.evaluation.summary import Summary
from segmentation.metrics import Interval

FIGURES = (4, 5)
COLOURS = ("#1f6fb4", "#e07b00", "#2a9d4a", "#b5338a", "#7a5230", "#5a5ac8", "#a0a000", "#c03030")
_PAPER = "#b8b8b8"


def draw_figure(number: int, run: Run, summary: Summary, path: Path) -> None:
    """Draw Figure ``number`` as a PNG.

    Raises
    ------
    ValueError
        If it is none of `FIGURES`.

    """
    if number not in FIGURES:
        raise ValueError(f"figure must be one of {FIGURES}, got {number!r}")
    if number == 4:
        _figure_4(run, path)
    else:
        _figure_5(run, summary, path)


class _Bar(NamedTuple):
    label: str
    value: Interval
    colour: str
    hatch: str | None = None


def _figure_4(run: Run, path: Path) -> None:
    """Bars of every engine and its ablation, a panel a test set, the paper's own in grey where it has them."""
    parts = test_sets(run)
    engines = [engine for engine in run.engines if engine not in run.bases]
    figure = Figure(figsize=(max(5.5, 1.9 * len(engines) + 1.5), 3.4 * len(parts)), layout="constrained")
    for panel, (name, part) in zip(figure.subplots(len(parts), 1, squeeze=False)[:, 0], parts, strict=True):
        for place, engine in enumerate(engines):
            _draw_bars(panel, place, _bars(run, engine, name, part))
        panel.set_xticks(range(len(engines)), engines)
        panel.set_ylim(0, 1.12)
        panel.set_ylabel("Dice")
        panel.set_title(TEST_SETS[name] + ("" if name in (HOLD_OUT, EXTERNAL) else " (not the paper's)"), fontsize=10)
        panel.grid(axis="y", alpha=0.3)
        handles, labels = panel.get_legend_handles_labels()
        once = dict(zip(labels, handles, strict=True))
        panel.legend(once.values(), once.keys(), fontsize=8, ncols=4, loc="upper center")
    figure.savefig(path, dpi=130)


def _bars(run: Run, engine: str, name: str, part: Callable[[CaseScore], bool]) -> list[_Bar]:
    bars = []
    for label in (engine, *(on for on, off in run.bases.items() if off == engine)):
        scores = [score for score in run.scores if score.engine == label and part(score)]
        if scores:
            with_mcm = label != engine
            bars.append(_Bar("here" + WITH_MCM * with_mcm, mean_over_cells(scores), COLOURS[with_mcm]))
    printed = _printed(published(), published().models.get(engine, ""), name)
    for label, hatch, value in zip(("paper", "paper" + WITH_MCM), (None, "//"), printed, strict=False):
        bars.append(_Bar(label, Interval(value, value, value), _PAPER, hatch))
    return bars


def _draw_bars(panel: Axes, place: int, bars: Sequence[_Bar]) -> None:
    width = 0.8 / max(len(bars), 2)
    for i, (label, value, colour, hatch) in enumerate(bars):
        x = place + (i - (len(bars) - 1) / 2) * width
        panel.bar(x, value.mean, width * 0.92, color=colour, label=label, hatch=hatch, edgecolor="white")
        if value.high > value.low:
            reach = [[value.mean - value.low], [value.high - value.mean]]
            panel.errorbar(x, value.mean, reach, color="black", capsize=2, linewidth=1)
        panel.text(x, max(value.mean, value.high) + 0.015, f"{value.mean:.3f}", ha="center", fontsize=7)


def _printed(paper: Published, model: str, part: str) -> tuple[float, ...]:
    """Mean of a model over its prompts (Table 2) or lesion types (Table 3), and with the gain of section 3.4."""
    if part == HOLD_OUT:
        found = [v.mean for (data, name, _), v in paper.dice.items() if (data, name) == (ALL_DATASETS, model)]
    else:
        found = [v.mean for (_, name), v in paper.boxes.items() if name == model and part == EXTERNAL]
    if not found:
        return ()
    plain = float(np.mean(found))
    gains = [gain.reached or plain + gain.gain for gain in paper.gains if (gain.model, gain.test_set) == (model, part)]
    return plain, *gains


def _figure_5(run: Run, summary: Summary, path: Path) -> None:
    """2D Dice by the distance from the prompted slice, a panel a kind of prompt, bands of 95 %."""
    kinds = [kind for kind in run.plan.kinds if any(k == kind for _, k in summary.distances)]
    figure = Figure(figsize=(4.2 * len(kinds), 3.6), layout="constrained")
    for panel, kind in zip(figure.subplots(1, len(kinds), squeeze=False, sharey=True)[0], kinds, strict=True):
        for engine, colour in zip(run.engines, COLOURS * len(run.engines), strict=False):
            curve = summary.distances.get((engine, kind), {})
            if curve:
                at = list(curve)
                panel.plot(at, [v.mean for v in curve.values()], color=colour, marker=".", label=engine)
                low, high = [v.low for v in curve.values()], [v.high for v in curve.values()]
                panel.fill_between(at, low, high, color=colour, alpha=0.18, linewidth=0)
        panel.set_title(kind, fontsize=10)
        panel.set_xlabel("slices from the prompt")
        panel.xaxis.set_major_locator(MaxNLocator(integer=True))
        panel.set_ylim(0, 1)
        panel.grid(alpha=0.3)
        panel.legend(fontsize=8)
        panel.set_ylabel("2D Dice") if kind == kinds[0] else None
    figure.savefig(path, dpi=130)
