"""A run laid out as Tables 2 to 5 of the SAM2CT paper, the published figures beside ours."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Sequence

from segmentation.evaluation.cases import DRAWN_KINDS
from segmentation.evaluation.published import ALL_DATASETS, Place, Published, published
from segmentation.evaluation.run import Run
from segmentation.evaluation.scoring import CaseScore
from segmentation.evaluation.statistics import METRICS, interval, mean_of_cells, nested
from segmentation.metrics import Interval

TABLES = (2, 3, 4, 5)

_KINDS = {"arrow": "Arrow", "line": "Line", "point": "Point", "box": "BBox", "mask": "Mask"}
_PAPER, _SAME, _FEWER, _OTHER = "paper", "ours", "ours †", "ours ‡"
_LEGEND = (
    f"*{_PAPER}*: as printed (Church et al. 2026). *{_SAME}*: measured here on as many lesions of the same data set; "
    f"the paper does not publish which ones it drew. *{_FEWER}*: of the same data set, but another number of lesions. "
    f"*{_OTHER}*: other data: not comparable. Ours are means over patients with 95 % bootstrap intervals; "
    "-: not asked or not published. A failed case counts as Dice 0 and an error of 100 %."
)

Row = Sequence[str]
Part = Callable[[CaseScore], bool]


def table_markdown(number: int, run: Run) -> str:
    """Lay out Table ``number``.

    Raises
    ------
    ValueError
        If it is none of `TABLES`.

    """
    if number not in TABLES:
        raise ValueError(f"table must be one of {TABLES}, got {number!r}")
    title, head, rows = {2: _table_2, 3: _table_3, 4: _table_4, 5: _table_5}[number](run, published())
    return f"## Table {number}. {title}\n\n{markdown(head, rows)}\n\n{_LEGEND}\n"


def markdown(head: Row, rows: Iterable[Row]) -> str:
    """Format a Markdown table; a bar in a name does not end its cell."""
    lines = [head, ["---"] * len(head), *rows]
    return "\n".join(f"| {' | '.join(cell.replace('|', chr(92) + '|') for cell in line)} |" for line in lines)


def _table_2(run: Run, paper: Published) -> tuple[str, Row, list[Row]]:
    rows: list[Row] = []
    for place in paper.hold_out:
        rows += _printed_2(paper, place.name)
        rows += _own_2(run, place.name, place.holds, place)
    rows += _printed_2(paper, ALL_DATASETS)
    for engine in run.engines:
        cells = [_over_places(run.of(engine, kind), paper.hold_out) for kind in _KINDS]
        if any(cells):
            own = [score for score in run.scores if score.engine == engine]
            held = sum(any(map(place.holds, own)) for place in paper.hold_out)
            name = ALL_DATASETS if held == len(paper.hold_out) else f"{held} of {len(paper.hold_out)} data sets"
            whole = all(place.is_same([s for s in own if place.holds(s)]) for place in paper.hold_out)
            rows.append([name, _model(engine), _SAME if whole else _FEWER, *map(_figure, cells)])
    other = _outside(paper.hold_out, paper.external)
    for dataset in sorted({score.dataset for score in run.scores if other(score)}):
        rows += _own_2(run, dataset or "(none)", _of(other, "dataset", dataset), None)
    return "Dice by data set and prompt", ["Dataset", "Model", "Whose", *_KINDS.values()], rows


def _printed_2(paper: Published, name: str) -> list[Row]:
    return [
        [name, model, _PAPER, *(_figure(paper.dice.get((name, model, kind))) for kind in _KINDS)]
        for model in paper.models.values()
    ]


def _own_2(run: Run, name: str, part: Part, place: Place | None) -> list[Row]:
    rows: list[Row] = []
    for engine in run.engines:
        cells = [_mean(run.of(engine, kind), part) for kind in _KINDS]
        if any(cells):
            held = [score for score in run.scores if score.engine == engine and part(score)]
            whose = _OTHER if place is None else _SAME if place.is_same(held) else _FEWER
            rows.append([name, _model(engine), whose, *map(_figure, cells)])
    return rows


def _table_3(run: Run, paper: Published) -> tuple[str, Row, list[Row]]:
    rows: list[Row] = [
        [model, _PAPER, *(_figure(paper.boxes[place.name, model]) for place in paper.external), "-"]
        for model in dict.fromkeys(model for _, model in paper.boxes)
    ]
    for engine in run.engines:
        scores = run.of(engine, "box")
        if scores:
            cells = [_mean(scores, place.holds) for place in paper.external]
            other = _mean(scores, _outside(paper.external))
            rows.append([_model(engine), _FEWER if any(cells) else _OTHER, *map(_figure, (*cells, other))])
    head = ["Model", "Whose", *(place.name for place in paper.external), "other data ‡"]
    return "Dice with a box on DeepLesion3D, by lesion type", head, rows


def _table_4(run: Run, paper: Published) -> tuple[str, Row, list[Row]]:
    rows: list[Row] = []
    for model in dict.fromkeys(name for name, _ in paper.recist):
        errors = [paper.recist[model, test_set] for test_set in ("hold_out", "external")]
        # Printed in percent already.
        rows.append([model, _PAPER, *(f"{e.mean:g} [{e.low:g}, {e.high:g}]" for e in errors), "-"])
    parts = [_inside(paper.hold_out), _inside(paper.external), _outside(paper.hold_out, paper.external)]
    for engine in run.engines:
        scores = run.of(engine, "box")
        if scores:
            found = [_mean(scores, part, "recist_error") for part in parts]
            cells = [value.percent if value else "-" for value in found]
            rows.append([_model(engine), _FEWER if any(found[:2]) else _OTHER, *cells])
    head = ["Model", "Whose", "Hold-out test set", "External test set", "other data ‡"]
    return "RECIST error (%), box prompts (the paper does not say which; a box is what all its models take)", head, rows


def _table_5(run: Run, paper: Published) -> tuple[str, Row, list[Row]]:
    rows: list[Row] = []
    for finding in dict.fromkeys(finding for finding, _, _ in paper.emergency):
        for model in dict.fromkeys(model for _, _, model in paper.emergency):
            cells = [paper.emergency.get((finding, how, model)) for how in ("original", "box")]
            rows.append([finding, model, _PAPER, *map(_figure, cells)])
    for engine in run.engines:
        drawn = [score for kind in DRAWN_KINDS for score in run.of(engine, kind)]
        boxed = run.of(engine, "box")
        for category in sorted({score.category for score in (*drawn, *boxed)}):
            part = _of(_outside(), "category", category)
            rows.append(
                [category or "(none)", _model(engine), _OTHER, *(_figure(_mean(s, part)) for s in (drawn, boxed))]
            )
    head = [
        "Finding",
        "Model",
        "Whose",
        "Original annotations (ours: simulated lines, pairs, arrows)",
        "Box annotations",
    ]
    return "Dice on Emergency Department findings", head, rows


def _inside(places: Sequence[Place]) -> Part:
    return lambda score: any(place.holds(score) for place in places)


def _outside(*groups: Sequence[Place]) -> Part:
    return lambda score: not any(place.holds(score) for places in groups for place in places)


def _of(part: Part, name: str, value: str) -> Part:
    return lambda score: part(score) and getattr(score, name) == value


def _mean(scores: Iterable[CaseScore], part: Part, metric: str = "dice") -> Interval | None:
    values = nested((score for score in scores if part(score)), METRICS[metric])
    return interval(values) if values else None


def _over_places(scores: Sequence[CaseScore], places: Sequence[Place]) -> Interval | None:
    cells = [(place.dataset, nested(filter(place.holds, scores), METRICS["dice"])) for place in places]
    found = [cell for cell in cells if cell[1]]
    return mean_of_cells(found) if found else None


def _model(engine: str) -> str:
    model = published().models.get(engine, engine)
    return engine if model == engine else f"{model} ({engine})"


def _figure(value: Interval | None) -> str:
    return "-" if value is None else str(value)
