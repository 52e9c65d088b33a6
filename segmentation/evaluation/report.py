"""What a run leaves: report.md, cases.csv, summary.json and pictures."""

from __future__ import annotations

import csv
import io
import json
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import asdict
from math import isnan
from pathlib import Path

from segmentation.evaluation.ablation import ablation_markdown, effects
from segmentation.evaluation.run import Run
from segmentation.evaluation.scoring import CaseScore
from segmentation.evaluation.summary import ALL, LARGE, SMALL, Row, Summary
from segmentation.evaluation.tables import markdown, table_markdown
from segmentation.files import write_bytes

_COLUMNS = (
    "engine", "kind", "number", "case_id", "patient", "dataset", "category", "longest_mm", "dice", "nsd", "hd95_mm",
    "recist_error", "volume_error", "seconds", "tier", "flags", "prompt", "failure",
)  # fmt: skip
_AWAY = (0, 1, 2, 3, 5, 8, 12, 20)
_DRAWING = {"paper": "simulated by SAM2CT section 2.2", "as-drawn": "as drawn by readers"}
_HOW = (
    "Means over patients, of the means over each patient's lesions, of the means over each lesion's prompts, with 95 % "
    "bootstrap intervals over patients, then lesions. A failed case counts as Dice and NSD 0 and errors of 100 %; HD95 "
    "is over the others. NSD: tolerance 2 mm. RECIST with a line or two axes says little: the prompt gives the length "
    "away. Time: one case, wall, on the machine that scored it. Ellipsoid: where the engine found nothing, and gave "
    "that of the prompt. One patient alone has no interval. Where lesions are connected components of a "
    "label, those under 20 mm³ (least_mm3) are left out and not counted.\n"
)


def write_report(
    run: Run,
    summary: Summary,
    folder: Path,
    *,
    tables: Sequence[int] = (),
    pictures: Iterable[Path] = (),
    warnings: Sequence[str] = (),
) -> None:
    """Write ``report.md``, ``cases.csv`` and ``summary.json`` into ``folder``; ``pictures`` lie in it already."""
    shown = [path.name for path in pictures]
    texts = {
        "cases.csv": _csv(run.scores),
        "summary.json": json.dumps(_without_nan(_json(run, summary)), indent=1) + "\n",
        "report.md": report_markdown(run, summary, tables=tables, pictures=shown, warnings=warnings),
    }
    for name, text in texts.items():
        write_bytes(folder / name, text.encode())


def report_markdown(
    run: Run,
    summary: Summary,
    *,
    tables: Sequence[int] = (),
    pictures: Sequence[str] = (),
    warnings: Sequence[str] = (),
) -> str:
    """Lay out a run for people."""
    plan = run.plan
    lesions = {score.case_id for score in run.scores}
    parts = [
        "# Evaluation\n",
        (
            f"{len(lesions)} lesions of {len({s.patient for s in run.scores})} patients, {plan.prompts_per_lesion} "
            f"prompts of each kind a lesion ({_DRAWING[plan.drawing]}, seed {plan.seed}), {len(run.scores)} answers.\n"
        ),
        *(f"**{warning}**\n" for warning in warnings),
        _HOW,
    ]
    for kind in plan.kinds:
        rows = [row for engine in run.engines if (row := summary.row(engine, kind))]
        if rows:
            parts += [f"## {kind}\n", engine_table(rows) + "\n"]
            parts += _by_group(run, summary, kind)
            parts += _pairs(summary, kind)
            parts += _distances(run, summary, kind)
    if run.bases and effects(run):
        parts.append(ablation_markdown(run))
    parts += [table_markdown(number, run) for number in tables]
    parts += _not_asked(run)
    parts += failures_markdown(run.scores)
    if pictures:
        parts += ["## Pictures\n", *(f"![{name}]({name})\n" for name in pictures)]
    return "\n".join(parts)


def engine_table(rows: Iterable[Row]) -> str:
    """One line an engine: every metric, time, failures, fallbacks and tiers; how it was prompted where not as drawn."""
    head = ["engine", "patients", "lesions", "Dice", "NSD", "HD95 mm", "volume error %", "RECIST error %"]
    return markdown(
        [*head, "s a case", "failed", "ellipsoid", "tier A / B / C"],
        [
            [
                " / ".join([row.engine, *row.prompts]),
                str(row.patients),
                str(row.lesions),
                str(row.metrics["dice"]),
                str(row.metrics["nsd"]),
                row.metrics["hd95_mm"].text(1) if "hd95_mm" in row.metrics else "-",
                row.metrics["volume_error"].percent,
                row.metrics["recist_error"].percent,
                f"{row.seconds:.2f}",
                f"{row.failures} of {row.cases}",
                f"{row.fallbacks} of {row.cases}",
                " / ".join(str(row.tiers[tier]) for tier in "ABC"),
            ]
            for row in rows
        ],
    )


def failures_markdown(scores: Iterable[CaseScore]) -> list[str]:
    """Every failed case by name; counted as 0 above."""
    failed = [score for score in scores if score.failure is not None]
    if not failed:
        return ["## Failed cases\n", "None.\n"]
    rows = [[s.engine, s.kind, s.case_id, str(s.number), s.failure or ""] for s in failed]
    return ["## Failed cases\n", markdown(["engine", "prompt", "lesion", "number", "reason"], rows) + "\n"]


def _by_group(run: Run, summary: Summary, kind: str) -> list[str]:
    groups = list(dict.fromkeys(row.group for row in summary.rows if row.kind == kind and row.group != ALL))
    engines = [engine for engine in run.engines if summary.row(engine, kind)]
    cut = f"{run.plan.size_cut_mm:g} mm"
    names = {SMALL: f"small (< {cut})", LARGE: f"large (≥ {cut})"}
    rows = []
    for group in groups:
        found = [summary.row(engine, kind, group) for engine in engines]
        lesions = next(row.lesions for row in found if row)
        rows.append([names.get(group, group), str(lesions), *(_dice(row) for row in found)])
    return ["Dice by group\n", markdown(["lesions", "n", *engines], rows) + "\n"] if rows else []


def _dice(row: Row | None) -> str:
    return "-" if row is None else str(row.metrics["dice"])


def _pairs(summary: Summary, kind: str) -> list[str]:
    pairs = [pair for pair in summary.pairs if pair.kind == kind]
    rows = [
        [
            f"{p.first} - {p.second}",
            p.group,
            str(p.lesions),
            str(p.dice),
            str(p.nsd),
            "-" if p.p is None else f"{p.p:.3g} ({p.categories})",
        ]
        for p in pairs
    ]
    head = ["paired difference", "lesions", "n", "Dice", "NSD", "Wilcoxon p (categories)"]
    return [markdown(head, rows) + "\n"] if rows else []


def _distances(run: Run, summary: Summary, kind: str) -> list[str]:
    curves = {engine: summary.distances.get((engine, kind), {}) for engine in run.engines}
    away = [k for k in _AWAY if any(k in curve for curve in curves.values())]
    rows = [
        [engine, *(str(curve[k]) if k in curve else "-" for k in away)] for engine, curve in curves.items() if curve
    ]
    return (
        ["2D Dice by slices from the prompted one\n", markdown(["engine", *map(str, away)], rows) + "\n"]
        if rows
        else []
    )


def _not_asked(run: Run) -> list[str]:
    if not run.not_asked:
        return []
    lines = [f"- {engine}: {', '.join(kinds)}" for engine, kinds in run.not_asked.items()]
    return ["## Not asked\n", "Engines that have no such prompt; these are not failures.\n", *lines, ""]


def _json(run: Run, summary: Summary) -> Mapping[str, object]:
    return {
        "plan": asdict(run.plan),
        "engines": list(run.engines),
        "not_asked": {engine: list(kinds) for engine, kinds in run.not_asked.items()},
        "failures": sum(score.failure is not None for score in run.scores),
        **summary.as_dict(),
        "test_time_mcm": [asdict(effect) for effect in effects(run)],
    }


def _without_nan(value: object) -> object:
    """JSON has no nan: what has no interval has null there."""
    if isinstance(value, Mapping):
        return {name: _without_nan(one) for name, one in value.items()}
    if isinstance(value, list | tuple):
        return [_without_nan(one) for one in value]
    return None if isinstance(value, float) and isnan(value) else value


def _csv(scores: Iterable[CaseScore]) -> str:
    text = io.StringIO()
    writer = csv.writer(text, lineterminator="\n")
    writer.writerow(_COLUMNS)
    for score in scores:
        writer.writerow([_value(getattr(score, name)) for name in _COLUMNS])
    return text.getvalue()


def _value(value: object) -> object:
    if isinstance(value, float):
        return f"{value:.6g}"
    return ";".join(map(str, value)) if isinstance(value, tuple) else "" if value is None else value
