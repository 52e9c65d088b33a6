"""Worst, median and best cases of a run, drawn: every engine a column, truth and mask as contours."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Literal, NamedTuple

import numpy as np
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from numpy.typing import NDArray

from segmentation.evaluation.cases import EvaluationCase
from segmentation.evaluation.contenders import Contender
from segmentation.evaluation.run import Run, Unit, chosen_cases
from segmentation.evaluation.scoring import CaseScore, ask
from segmentation.types import Arrow, Bidimensional, Box, Line, Mask, MaskPrompt, Points, Prompt, Volume

BoolArray = NDArray[np.bool_]

_TRUTH, _MASK, _PROMPT = "#39d353", "#ff5a36", "#ffd400"
_MARGIN_MM = 15.0


class Chosen(NamedTuple):
    """A case to draw, and why."""

    case_id: str
    number: int
    why: str


def draw_cases(
    units: Sequence[Unit], run: Run, contenders: Sequence[Contender], folder: Path, *, each: int = 2
) -> dict[str, Path]:
    """Draw the ``each`` worst, middle and best lesions of every kind of prompt, by the Dice of the first engine.

    Of a lesion it is the prompt where the engine does worst, nearest to its middle, or best. The cases are read and
    segmented again: engines answer the same each time.

    Returns
    -------
    Kind of prompt to its picture.

    """
    chosen = {kind: found for kind in run.plan.kinds if (found := _choose(run, kind, each))}
    wanted = {(c.case_id, kind, c.number) for kind, cases in chosen.items() for c in cases}
    drawn: dict[str, dict[tuple[str, int], tuple[EvaluationCase, dict[str, Mask]]]] = {}
    for case in chosen_cases(units, run, wanted):
        masks = {}
        for contender in contenders:
            if contender.takes(case.kind, case.patient_id):
                answer, _ = ask(case, contender.engine(case.patient_id))
                if isinstance(answer, Mask):
                    masks[contender.label] = answer
        drawn.setdefault(case.kind, {})[case.case_id, case.number] = (case, masks)
    pictures: dict[str, Path] = {}
    for kind, cases in chosen.items():
        pictures[kind] = folder / f"cases_{kind}.png"
        _sheet(run, kind, cases, drawn[kind], pictures[kind])
    return pictures


def _choose(run: Run, kind: str, each: int) -> list[Chosen]:
    first = next((engine for engine in run.engines if run.of(engine, kind)), None)
    if first is None:
        return []
    lesions: dict[str, list[CaseScore]] = {}
    for score in run.of(first, kind):
        lesions.setdefault(score.case_id, []).append(score)
    order = sorted(lesions, key=lambda name: (float(np.mean([s.dice for s in lesions[name]])), name))
    middle = max((len(order) - each) // 2, 0)
    chosen: dict[str, Chosen] = {}
    for why, names in (("worst", order[:each]), ("best", order[-each:]), ("median", order[middle : middle + each])):
        for name in names:
            by_dice = sorted(lesions[name], key=lambda s: (s.dice, s.number))
            pick = {"worst": by_dice[0], "best": by_dice[-1], "median": by_dice[len(by_dice) // 2]}[why]
            chosen.setdefault(name, Chosen(name, pick.number, why))
    return sorted(chosen.values(), key=lambda c: ("worst", "median", "best").index(c.why))


def _sheet(
    run: Run,
    kind: str,
    chosen: Sequence[Chosen],
    drawn: Mapping[tuple[str, int], tuple[EvaluationCase, dict[str, Mask]]],
    path: Path,
) -> None:
    engines = [engine for engine in run.engines if run.of(engine, kind)]
    scores = {(s.engine, s.case_id, s.number): s for s in run.scores if s.kind == kind}
    figure = Figure(figsize=(2.6 * (len(engines) + 1), 4.4 * len(chosen) + 0.4), layout="constrained")
    figure.suptitle(f"{kind}: truth green, mask red, prompt yellow", fontsize=10)
    rows = figure.subplots(2 * len(chosen), len(engines) + 1, squeeze=False)
    for i, pick in enumerate(chosen):
        case, masks = drawn[pick.case_id, pick.number]
        truth = case.true_mask().in_volume(case.job.volume.voxels.shape)
        view = _View(case, [truth, *(mask.in_volume(truth.shape) for mask in masks.values())])
        view.draw(rows[2 * i][0], rows[2 * i + 1][0], None)
        one = scores[engines[0], pick.case_id, pick.number]
        rows[2 * i][0].set_title(f"{pick.why}: {one.dataset or pick.case_id}\n{one.longest_mm:.0f} mm", fontsize=8)
        for column, engine in enumerate(engines, start=1):
            score, mask = scores[engine, pick.case_id, pick.number], masks.get(engine)
            full = None if mask is None else mask.in_volume(truth.shape)
            view.draw(rows[2 * i][column], rows[2 * i + 1][column], full)
            said = f"Dice {score.dice:.2f}, tier {score.tier}" if score.failure is None else score.failure
            rows[2 * i][column].set_title(f"{engine}\n{said}", fontsize=8)
    figure.savefig(path, dpi=110)


class _View:
    """Axial slice of the prompt and the coronal plane through the lesion, around everything that is drawn."""

    def __init__(self, case: EvaluationCase, shown: Sequence[BoolArray]) -> None:
        volume, prompt = case.job.volume, case.job.prompts[0]
        self._volume, self._prompt, self._truth = volume, prompt, shown[0]
        union = np.logical_or.reduce(shown)
        low, high = [], []
        for axis, step in enumerate(volume.spacing_mm):
            others = tuple(a for a in range(3) if a != axis)
            hit = np.flatnonzero(union.any(axis=others))
            room = round(_MARGIN_MM / step) + 1
            low.append(max(int(hit[0]) - room, 0))
            high.append(min(int(hit[-1]) + room + 1, union.shape[axis]))
        self._box = tuple(slice(a, b) for a, b in zip(low, high, strict=True))
        rows = np.flatnonzero(shown[0].any(axis=(0, 2)))
        self._row = int(rows[len(rows) // 2])
        self._window = _window(volume, shown[0])

    def draw(self, axial: Axes, coronal: Axes, mask: BoolArray | None) -> None:
        slice_mm, row_mm, column_mm = self._volume.spacing_mm
        slices, rows, columns = self._box
        index = self._prompt.slice_index
        planes = (
            (axial, (index, rows, columns), row_mm / column_mm, (columns.start, rows.start)),
            (coronal, (slices, self._row, columns), slice_mm / column_mm, (columns.start, slices.start)),
        )
        for axes, part, aspect, (x, y) in planes:
            image = self._volume.voxels[part]
            left, right, first, last = x - 0.5, x + image.shape[1] - 0.5, y - 0.5, y + image.shape[0] - 0.5
            # Rows run down the page, slices towards the head and so up it.
            bounds = (left, right, last, first) if axes is axial else (left, right, first, last)
            low, high = self._window
            origin: Literal["upper", "lower"] = "upper" if axes is axial else "lower"
            axes.imshow(image, cmap="gray", vmin=low, vmax=high, aspect=aspect, origin=origin, extent=bounds)
            for region, colour in ((self._truth, _TRUTH), (mask, _MASK)):
                section = None if region is None else region[part]
                if section is not None and section.any() and not section.all():
                    at = (np.arange(section.shape[1]) + x, np.arange(section.shape[0]) + y)
                    axes.contour(*at, section, levels=[0.5], colors=colour, linewidths=1.1)
            axes.set_axis_off()
        if mask is None:
            _draw_prompt(axial, self._prompt)
        limits = axial.axis()
        axial.axis(limits)
        coronal.axhline(index, color=_PROMPT, linewidth=0.6, linestyle=":")


def _window(volume: Volume, truth: BoolArray) -> tuple[float, float]:
    """(low, high) HU: lung, bone or soft tissue, by what the lesion lies in and is."""
    slices = np.flatnonzero(truth.any(axis=(1, 2)))
    k = int(slices[len(slices) // 2])
    rows, columns = (np.flatnonzero(truth[k].any(axis=axis)) for axis in (1, 0))
    around = volume.voxels[k, max(rows[0] - 8, 0) : rows[-1] + 9, max(columns[0] - 8, 0) : columns[-1] + 9]
    if np.mean(around < -500) > 0.25:
        return -1350.0, 150.0
    return (-450.0, 1050.0) if float(np.median(volume.voxels[truth])) > 250 else (-160.0, 240.0)


def _draw_prompt(axes: Axes, prompt: Prompt) -> None:
    limits = axes.axis()
    if isinstance(prompt, Line):
        _segments(axes, (prompt.start, prompt.end))
    elif isinstance(prompt, Bidimensional):
        _segments(axes, prompt.long_axis, prompt.short_axis)
    elif isinstance(prompt, Arrow):
        look = {"arrowstyle": "->", "color": _PROMPT, "linewidth": 1.4}
        axes.annotate("", prompt.head, prompt.tail, arrowprops=look, annotation_clip=False)
    elif isinstance(prompt, Points):
        axes.plot(*np.transpose(prompt.points), "+", color=_PROMPT, markersize=9)
    elif isinstance(prompt, Box):
        (x0, y0), (x1, y1) = prompt.lower, prompt.upper
        axes.plot([x0, x1, x1, x0, x0], [y0, y0, y1, y1, y0], color=_PROMPT, linewidth=1.2)
    elif isinstance(prompt, MaskPrompt):
        axes.contour(prompt.mask, levels=[0.5], colors=_PROMPT, linewidths=0.8, linestyles="dotted")
    axes.axis(limits)


def _segments(axes: Axes, *segments: tuple[tuple[float, float], tuple[float, float]]) -> None:
    for start, end in segments:
        axes.plot([start[0], end[0]], [start[1], end[1]], color=_PROMPT, linewidth=1.4)
