"""Evaluating engines: what is resampled, what a failure costs, what is kept, and the papers' tables."""

from __future__ import annotations

import csv
import json
import tomllib
from collections.abc import Iterator
from dataclasses import dataclass, replace
from functools import partial
from importlib.resources import files
from pathlib import Path

import nibabel as nib
import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from lesions import lesion_in_tissue

from cohort_builder.cli import main
from segmentation import (
    Arrow,
    Bidimensional,
    Box,
    EngineError,
    Line,
    MaskPrompt,
    SegmentationFailure,
    Volume,
    load_segmenter,
)
from segmentation.evaluation import CaseScore, EvaluationCase, prompted_cases, score_case
from segmentation.evaluation.ablation import WITH_MCM, effects
from segmentation.evaluation.cases import can_ask, prompt_for
from segmentation.evaluation.contenders import Contender, folds_of, read_patients
from segmentation.evaluation.ledger import Ledger
from segmentation.evaluation.published import ALL_DATASETS, published
from segmentation.evaluation.report import report_markdown
from segmentation.evaluation.run import EvaluationError, Plan, Run, chosen_cases, run_evaluation
from segmentation.evaluation.statistics import METRICS, by_distance, difference, interval, mean_of_cells, nested
from segmentation.evaluation.summary import over_categories, summarise
from segmentation.evaluation.tables import TABLES, table_markdown
from segmentation.metrics import bootstrap_ci, dice, hausdorff95_mm, normalised_surface_dice
from segmentation.tiers import EngineFit, KindFit, TierTable
from segmentation.types import mask_from_volume

SPACING = (2.5, 0.8, 0.8)


@dataclass(frozen=True, eq=False)
class Lesion:
    """A lesion as `run_evaluation` takes it."""

    sample_id: str
    patient_id: str
    volume: Volume
    truth: np.ndarray
    dataset: str = "toy"
    category: str = "Lesion"


@pytest.fixture(scope="module")
def lesions() -> list[Lesion]:
    """Five lesions of four patients, 14 to 34 mm."""
    made = [lesion_in_tissue(seed=i, radius_mm=6 + 2 * i, shape=(20, 72, 72)) for i in range(5)]
    return [Lesion(f"l{i}", f"p{min(i, 3)}", *one) for i, one in enumerate(made)]


class Truthful:
    """Answers with the truth, grown or shifted; counts what it is asked."""

    supports = frozenset({Line, Bidimensional})

    def __init__(self, lesions: list[Lesion], *, name: str = "truthful", shift: int = 0, revision: str = "1") -> None:
        self.name, self.revision, self.asked = name, revision, 0
        self._truths = {id(lesion.volume): np.roll(lesion.truth, shift, axis=2) for lesion in lesions}

    def segment(self, jobs):
        for job in jobs:
            self.asked += 1
            yield mask_from_volume(job.job_id, self._truths[id(job.volume)], f"{self.name}@{self.revision}")


class Wayward:
    """Fails in one of the ways an engine can."""

    name, revision = "wayward", "1"
    supports = frozenset({Line})

    def __init__(self, way: str) -> None:
        self.way = way

    def segment(self, jobs):
        for job in jobs:
            if self.way == "raises":
                raise RuntimeError("out of luck")
            if self.way == "lacks":
                raise EngineError("no weights")
            if self.way == "says so":
                yield SegmentationFailure(job.job_id, "no_lesion_found")
            if self.way == "outside":
                far = mask_from_volume(job.job_id, np.ones((1, 4, 4), bool), "wayward@1", origin=(0, 70, 70))
                yield far


def first_case(lesion: Lesion, kind: str = "line") -> EvaluationCase:
    return next(prompted_cases(lesion, (kind,), 1))


def units_of(lesions: list[Lesion]) -> list:
    return [partial(iter, [lesion]) for lesion in lesions]


def contender(engine, label: str | None = None, **options) -> Contender:
    return Contender(label or engine.name, lambda _weights: engine, **options)


def score(patient: str, lesion: str, value: float, **fields) -> CaseScore:
    known = {"kind": "line", "engine": "e", "longest_mm": 30.0, "nsd": value, **fields}
    return CaseScore(lesion, known.pop("engine"), value, value - 1, 1 - value, 0.1, patient_id=patient, **known)


# ---- one case


def test_a_score_holds_what_the_metrics_say(lesions):
    lesion, engine = lesions[2], Truthful(lesions, shift=3)
    got = score_case(first_case(lesion), engine)
    mask = np.roll(lesion.truth, 3, axis=2)
    assert got.dice == pytest.approx(dice(mask, lesion.truth))
    assert got.nsd == pytest.approx(normalised_surface_dice(mask, lesion.truth, SPACING, 2.0))
    assert got.hd95_mm == pytest.approx(hausdorff95_mm(mask, lesion.truth, SPACING))
    assert got.volume_error == 0
    assert dict(got.slices)[0] == pytest.approx(
        dice(mask[k := first_case(lesion).job.prompts[0].slice_index], lesion.truth[k])
    )
    assert [k for k, _ in got.slices] == [int(s) - k for s in np.flatnonzero(lesion.truth.any(axis=(1, 2)))]
    assert got.tier in {"A", "B", "C"}
    assert got.patient == "p2"


@pytest.mark.parametrize(
    ("way", "reason"),
    [("raises", "engine_failed"), ("says so", "no_lesion_found"), ("silent", "no_answer"), ("outside", "invalid_mask")],
)
def test_a_failed_case_scores_nothing_and_says_why(lesions, way, reason):
    got = score_case(first_case(lesions[0]), Wayward(way))
    assert (got.dice, got.nsd, got.volume_error, got.recist_error, got.hd95_mm) == (0, 0, -1, 1, None)
    assert got.failure == reason
    assert {value for _, value in got.slices} == {0.0}


def test_an_engine_that_cannot_run_ends_the_run(lesions):
    with pytest.raises(EngineError, match="no weights"):
        score_case(first_case(lesions[0]), Wayward("lacks"))


def test_a_truth_of_another_shape_is_refused(lesions):
    case = first_case(lesions[0])
    for truth, said in ((lesions[0].truth[:-1], "does not lie on an image"), (lesions[0].truth & False, "empty")):
        with pytest.raises(ValueError, match=said):
            score_case(replace(case, truth=truth), Truthful(lesions))


# ---- prompts


def test_prompts_depend_on_seed_and_lesion_alone(lesions):
    def prompts(which: list[Lesion], **options) -> dict:
        return {c.job.job_id: c for one in which for c in prompted_cases(one, ("line", "arrow"), 2, **options)}

    one, same = prompts(lesions), prompts(lesions[::-1])
    assert len(one) == 20
    assert all(
        one[name].job.prompts == same[name].job.prompts and one[name].digest == same[name].digest for name in one
    )
    assert len({case.digest for case in one.values()}) > 15  # of a small lesion two random lines may be one
    other = prompts(lesions, seed=1)
    assert all(case.job.prompts != other[name].job.prompts for name, case in one.items() if "arrow" in name)
    drawn = prompts(lesions, drawing="as-drawn")
    assert all(case.job.prompts != drawn[name].job.prompts for name, case in one.items())


def test_prompts_do_not_depend_on_what_a_source_is_called(lesions):
    one = next(prompted_cases(lesions[0], ("arrow",), 1))
    named = next(prompted_cases(replace(lesions[0], sample_id="mine/l0"), ("arrow",), 1))
    assert (one.job.prompts, one.digest) == (named.job.prompts, named.digest)


def test_a_prompt_that_cannot_be_told_otherwise_costs_its_case(lesions):
    speck = np.zeros(lesions[0].truth.shape[1:], bool)
    speck[30, 30] = True
    case = first_case(lesions[0])
    case = replace(case, job=replace(case.job, prompts=(MaskPrompt(10, speck),)))
    assert score_case(case, Truthful(lesions)).failure == "bad_prompt"


def test_a_box_becomes_the_lines_between_the_middles_of_its_sides():
    box = Box(3, (10.0, 20.0), (30.0, 24.0))
    pair, how = prompt_for(box, {Bidimensional}, (1.0, 1.0))
    assert how == "box as bidimensional"
    assert pair == Bidimensional(3, ((10.0, 22.0), (30.0, 22.0)), ((20.0, 20.0), (20.0, 24.0)))
    assert prompt_for(box, {Line}, (1.0, 1.0)) == (Line(3, (10.0, 22.0), (30.0, 22.0)), "box as line")
    assert prompt_for(box, {Box, Line}, (1.0, 1.0)) == (box, "")


def test_an_outline_becomes_its_box_and_an_arrow_nothing():
    mask = np.zeros((40, 40), bool)
    mask[10:13, 5:20] = True
    assert prompt_for(MaskPrompt(0, mask), {Box, Line}, (1.0, 1.0)) == (
        Box(0, (5.0, 10.0), (19.0, 12.0)),
        "mask as box",
    )
    line, how = prompt_for(MaskPrompt(0, mask), {Line}, (1.0, 1.0))
    assert how == "mask as line"
    assert {line.start[0], line.end[0]} == {5.0, 19.0}
    assert prompt_for(Arrow(0, (0.0, 0.0), (5.0, 5.0)), {Line, Bidimensional, Box}, (1.0, 1.0)) is None
    assert can_ask("mask", {Line})
    assert not can_ask("point", {Line, Box})


# ---- statistics


@given(st.lists(st.floats(0, 1), min_size=2, max_size=12), st.integers(1, 4))
def test_one_lesion_a_patient_is_the_plain_bootstrap_whatever_the_prompts(values, prompts):
    scores = [score(f"p{i}", f"l{i}", value) for i, value in enumerate(values) for _ in range(prompts)]
    got, plain = interval(nested(scores, METRICS["dice"])), bootstrap_ci(values)
    assert (got.mean, got.low, got.high) == pytest.approx((plain.mean, plain.low, plain.high))


def test_lesions_of_one_patient_do_not_narrow_the_interval_as_patients_do():
    rng = np.random.default_rng(0)
    level = rng.uniform(0.2, 0.9, 6)
    clustered = [score(f"p{i}", f"l{i}.{k}", level[i] + rng.normal(0, 0.01)) for i in range(6) for k in range(8)]
    alone = [replace(one, patient_id=one.case_id) for one in clustered]
    wide, narrow = (interval(nested(scores, METRICS["dice"])) for scores in (clustered, alone))
    assert wide.high - wide.low > 2 * (narrow.high - narrow.low)
    few = interval(nested([one for one in clustered if one.case_id.endswith(".0")], METRICS["dice"]))
    assert wide.high - wide.low == pytest.approx(few.high - few.low, rel=0.15)


def test_every_patient_weighs_the_same():
    scores = [score("many", f"m{k}", 0.2) for k in range(9)] + [score("one", "o", 0.8)]
    assert interval(nested(scores, METRICS["dice"])).mean == pytest.approx(0.5)


def test_differences_are_paired_over_common_lesions():
    ours = [score(f"p{i}", f"l{i}", 0.5 + 0.04 * i) for i in range(6)]
    theirs = [score(f"p{i}", f"l{i}", 0.4 + 0.04 * i) for i in range(8)]
    got = difference(nested(ours, METRICS["dice"]), nested(theirs, METRICS["dice"]))
    assert (got.mean, got.low, got.high) == pytest.approx((0.1, 0.1, 0.1))
    with pytest.raises(ValueError, match="at least one lesion"):
        difference(nested(ours[:1], METRICS["dice"]), nested(theirs[6:], METRICS["dice"]))


def test_the_mean_of_cells_weighs_cells_equally():
    groups = [
        nested([score(f"{n}{i}", f"{n}{i}", v) for i in range(n)], METRICS["dice"]) for n, v in ((2, 0.2), (20, 0.8))
    ]
    assert mean_of_cells([("one", groups[0]), ("two", groups[1])]).mean == pytest.approx(0.5)
    with pytest.raises(ValueError, match="at least one cell"):
        mean_of_cells([("one", {})])


def test_intervals_over_cells_hold_the_truth_as_often_as_they_say():
    """24 patients, each with a lesion of two categories and five prompts of it: ten cells that tell much the same."""
    rng, hits = np.random.default_rng(3), 0
    for seed in range(120):
        patients = rng.normal(0.6, 0.1, 24)
        cells = [
            ("data", {f"p{i}": {f"l{c}": float(v + rng.normal(0, 0.02))} for i, v in enumerate(patients)})
            for c in range(2)
            for _ in range(5)
        ]
        got = mean_of_cells(cells, seed=seed)
        hits += got.low <= 0.6 <= got.high
    assert 0.85 < hits / 120 < 1


def test_one_patient_has_a_mean_and_no_interval():
    alone = interval(nested([score("p", f"l{i}", 0.2 * i) for i in range(4)], METRICS["dice"]))
    assert str(alone) == "0.300"
    assert alone.percent == "30.0"
    assert str(mean_of_cells([("a", {"p": {"l": 0.5}}), ("b", {"q": {"l": 0.7}})])) == "0.600"


def test_distance_takes_both_directions_of_a_lesion_together():
    near = ((-1, 0.6), (0, 1.0), (1, 0.8))
    scores = [score(f"p{i}", f"l{i}", 0.5, slices=(*near, (2, 0.4)) if i == 0 else near) for i in range(3)]
    got = by_distance(scores)
    assert list(got) == [0, 1]  # a single lesion reaches further: no curve of it
    assert got[1].mean == pytest.approx(0.7)


def test_the_test_over_categories_is_the_papers():
    """Six lesion types, all better: 2/64; one worse, by the third smallest difference: 10/64 (section 3.4)."""

    def side(values):
        return [score(f"{c}{i}", f"{c}{i}", v, dataset=f"d{c}") for c, v in enumerate(values) for i in range(3)]

    zero = side([0.5] * 6)
    assert over_categories(side([0.51, 0.52, 0.53, 0.54, 0.55, 0.56]), zero) == (6, pytest.approx(2 / 64))
    assert over_categories(side([0.51, 0.52, 0.47, 0.54, 0.55, 0.56]), zero) == (6, pytest.approx(10 / 64))
    assert over_categories(zero[:3], zero[:3]) == (1, None)


# ---- runs


def test_a_run_scores_every_engine_and_names_the_failed(lesions, tmp_path):
    good, bad = Truthful(lesions), Wayward("raises")
    plan = Plan(("line", "arrow"), 2)
    run = run_evaluation(units_of(lesions), [contender(good), contender(bad)], plan, tmp_path)
    assert len(run.scores) == 20
    assert run.not_asked == {"truthful": ("arrow",), "wayward": ("arrow",)}
    summary = summarise(run)
    row = summary.row("wayward", "line")
    assert (row.failures, row.cases, row.lesions, row.patients) == (10, 10, 5, 4)
    assert row.metrics["dice"].mean == 0
    assert "hd95_mm" not in row.metrics
    assert summary.row("truthful", "line").metrics["dice"].mean == 1
    assert {r.group: r.lesions for r in summary.rows if r.engine == "truthful"} == {"all": 5, "small": 2, "large": 3}
    pair = next(p for p in summary.pairs if p.group == "all")
    assert (pair.first, pair.second, pair.dice.low) == ("truthful", "wayward", 1)
    text = report_markdown(run, summary)
    assert text.count("| wayward | line | l") == 10
    assert "of the split train" not in text
    assert "- truthful: arrow" in text


def test_the_table_tells_how_often_an_ellipsoid_stands_in_and_gives_hd95_its_interval(lesions, tmp_path):
    engine = Truthful(lesions, shift=3)
    run = run_evaluation(units_of(lesions), [contender(engine)], Plan(), tmp_path)
    scores = tuple(replace(one, flags=("fallback_ellipsoid",)) if i < 2 else one for i, one in enumerate(run.scores))
    summary = summarise(replace(run, scores=scores))
    text = report_markdown(run, summary)
    assert "| 0 of 5 | 2 of 5 |" in text
    assert f"| {summary.row('truthful', 'line').metrics['hd95_mm'].text(1)} |" in text
    assert " [" in summary.row("truthful", "line").metrics["hd95_mm"].text(1)


def test_a_second_run_asks_no_engine_again(lesions, tmp_path):
    def run(engine, **options):
        return run_evaluation(units_of(lesions), [contender(engine, **options)], Plan(("line",), 2), tmp_path)

    first, again = Truthful(lesions), Truthful(lesions)
    scores = run(first).scores
    known = run(again, label="renamed")
    assert (first.asked, again.asked, known.reused) == (10, 0, 10)
    assert [replace(one, engine="truthful") for one in known.scores] == list(scores)
    better = Truthful(lesions, revision="2")
    run(better)
    assert better.asked == 10
    other_options = Truthful(lesions)
    run(other_options, identity="roi=auto")
    assert other_options.asked == 10


def test_a_run_that_was_killed_goes_on(lesions, tmp_path):
    engine = Truthful(lesions)
    run_evaluation(units_of(lesions), [contender(engine)], Plan(), tmp_path)
    path = tmp_path / "scores.jsonl"
    whole = path.read_text()
    path.write_text(whole[: len(whole) - 40])  # cut off within the last line
    again = Truthful(lesions)
    run = run_evaluation(units_of(lesions), [contender(again)], Plan(), tmp_path)
    assert (again.asked, run.reused) == (1, 4)
    assert [json.loads(line)["score"]["dice"] for line in path.read_text().splitlines()] == [1.0] * 5


@pytest.mark.parametrize(("way", "again"), [("raises", True), ("silent", True), ("says so", False)])
def test_what_may_be_over_in_the_next_run_is_tried_again(lesions, tmp_path, way, again):
    run_evaluation(units_of(lesions), [contender(Wayward(way))], Plan(), tmp_path)
    mended = Truthful(lesions, name="wayward")
    run = run_evaluation(units_of(lesions), [contender(mended)], Plan(), tmp_path)
    assert mended.asked == (5 if again else 0)
    assert {one.dice for one in run.scores} == {1.0 if again else 0.0}


def test_transient_failures_of_an_older_file_are_not_believed(lesions, tmp_path):
    engine = Truthful(lesions)
    run_evaluation(units_of(lesions), [contender(engine)], Plan(), tmp_path)
    path = tmp_path / "scores.jsonl"
    path.write_text(path.read_text().replace('"failure": null', '"failure": "engine_failed"'))
    run_evaluation(units_of(lesions), [contender(engine)], Plan(), tmp_path)
    assert engine.asked == 10


@pytest.mark.parametrize(
    "damage", ["{", "[]", '{"revision": 1, "engine": "e", "case": "c", "score": {"failure": null}}']
)
def test_a_damaged_line_is_named(lesions, tmp_path, damage):
    path = tmp_path / "scores.jsonl"
    run_evaluation(units_of(lesions), [contender(Truthful(lesions))], Plan(), tmp_path)
    path.write_text(f"{damage}\n{path.read_text()}")
    with pytest.raises(EvaluationError, match=r"line 1 of scores\.jsonl is damaged"):
        run_evaluation(units_of(lesions), [contender(Truthful(lesions))], Plan(), tmp_path)


def test_masks_are_judged_by_the_tiers_that_were_given(lesions, tmp_path):
    fit = KindFit(bias=5.0, weights={}, accept=0.5, figures={})
    own = TierTable((EngineFit("truthful", "1", {"line": fit}, "by hand"),))
    for tiers, tier, asked in ((None, "B", 5), (own, "A", 5), (own, "A", 0)):
        engine = Truthful(lesions)
        run = run_evaluation(units_of(lesions), [contender(engine, tiers=tiers)], Plan(), tmp_path)
        assert (run.scores[4].tier, engine.asked) == (tier, asked)


def test_an_engine_without_a_revision_is_asked_each_time(lesions, tmp_path):
    for _ in range(2):
        engine = Truthful(lesions)
        del engine.revision
        engine.revision = None
        run_evaluation(units_of(lesions), [contender(engine)], Plan(), tmp_path)
        assert engine.asked == 5
    assert Ledger(tmp_path / "scores.jsonl").get("truthful", "x") is None


def test_a_lesion_given_twice_and_no_lesion_at_all_are_refused(lesions, tmp_path):
    one = contender(Truthful(lesions))
    with pytest.raises(EvaluationError, match="two lesions are called l0"):
        run_evaluation(units_of([lesions[0], lesions[0]]), [one], Plan(), tmp_path)
    with pytest.raises(EvaluationError, match="no lesion"):
        run_evaluation([], [one], Plan(), tmp_path)


def test_cases_to_draw_are_those_of_the_run(lesions, tmp_path):
    plan = Plan(("line", "arrow"), 3, seed=4)
    run = run_evaluation(units_of(lesions), [contender(load_segmenter("ellipsoid"))], plan, tmp_path)
    read = []

    def noting(lesion: Lesion) -> Iterator[Lesion]:
        read.append(lesion.sample_id)
        yield lesion

    (case,) = chosen_cases([partial(noting, lesion) for lesion in lesions], run, [("l3", "arrow", 2)])
    assert read == ["l3"]
    assert case.digest == next(s.digest for s in run.scores if (s.case_id, s.kind, s.number) == ("l3", "arrow", 2))


# ---- leave patients out


def test_each_patient_is_scored_with_weights_that_have_not_seen_it(lesions, tmp_path):
    used = []

    def load(weights: Path | None) -> Truthful:
        used.append(weights)
        return Truthful(lesions, revision=str(weights), shift=0 if weights == Path("a") else 4)

    (tmp_path / "a.txt").write_text("# fold a\np0\np1\n\n")
    (tmp_path / "b.txt").write_text("p2\np3\n")
    folds = folds_of([(Path("a"), tmp_path / "a.txt"), (Path("b"), tmp_path / "b.txt")])
    run = run_evaluation(units_of(lesions), [Contender("e", load, folds=folds)], Plan(), tmp_path)
    assert used == [Path("a"), Path("b")]
    assert [one.dice == 1 for one in run.scores] == [True, True, False, False, False]


def test_a_patient_in_no_fold_needs_weights_of_its_own(lesions, tmp_path):
    def load(weights):
        return Truthful(lesions, revision=str(weights))

    folds = {"p0": Path("a")}
    with pytest.raises(EvaluationError, match="no fold of 'e' leaves out"):
        run_evaluation(units_of(lesions), [Contender("e", load, folds=folds)], Plan(), tmp_path)
    run = run_evaluation(units_of(lesions), [Contender("e", load, folds=folds, weights=Path("w"))], Plan(), tmp_path)
    assert len(run.scores) == 5


def test_a_patient_of_two_folds_and_an_empty_fold_are_refused(tmp_path):
    for name, text in (("a", "p0\np1\n"), ("b", "p1\n"), ("c", "# nobody\n"), ("d", "p0\np0\n")):
        (tmp_path / name).write_text(text)
    with pytest.raises(ValueError, match="1 patients of b are left out by two folds"):
        folds_of([(Path("x"), tmp_path / "a"), (Path("y"), tmp_path / "b")])
    for name in "cd":
        with pytest.raises(ValueError, match="must name patients, each once"):
            read_patients(tmp_path / name)


# ---- the paper


def test_the_last_rows_of_table_2_are_the_means_of_its_data_sets():
    """All but those that the header of published.toml lists as not adding up in the paper."""
    paper = published()
    names = [place.name for place in paper.hold_out]
    assert len(paper.dice) == 9 * (3 + 1 + 4 * 5)
    for model, kind in [(m, k) for (d, m, k) in paper.dice if d == ALL_DATASETS]:
        if model in {"DynUNet", "Swin UNETR"} or (model, kind) == ("SAM2", "mask"):
            continue
        mean = np.mean([paper.dice[name, model, kind].mean for name in names])
        assert paper.dice[ALL_DATASETS, model, kind].mean == pytest.approx(mean, abs=0.0011), (model, kind)


def test_what_the_text_says_of_the_tables_is_in_them():
    paper = published()
    sam2ct = [paper.dice[ALL_DATASETS, "SAM2CT", kind].mean for kind in ("arrow", "line", "point", "box", "mask")]
    assert sam2ct == [0.649, 0.757, 0.721, 0.777, 0.803]
    external = [paper.boxes[place.name, "SAM2CT"].mean for place in paper.external]
    assert external == [0.720, 0.773, 0.547, 0.704, 0.734, 0.776]
    gains = {(g.model, g.test_set): g for g in paper.gains}
    assert np.mean(sam2ct) == pytest.approx(gains["SAM2 (FT)", "hold_out"].sam2ct, abs=0.0006)
    assert np.mean(external) == pytest.approx(gains["SAM2 (FT)", "external"].sam2ct, abs=0.0006)
    fine_tuned = np.mean([paper.boxes[place.name, "SAM2 (FT)"].mean for place in paper.external])
    gain = gains["SAM2 (FT)", "external"]
    assert fine_tuned + gain.gain == pytest.approx(gain.reached, abs=0.0006)
    assert paper.recist["SAM2CT", "hold_out"].mean == 11.1
    assert [g.p for g in paper.gains] == ["< 0.001", "0.031", "0.547", "0.031", "< 0.001", "0.1562"]


def test_averages_of_table_5_are_those_of_its_findings():
    paper = published()
    findings = {finding for finding, _, _ in paper.emergency} - {"Average"}
    assert len(findings) == 13
    for how, model in {(how, model) for _, how, model in paper.emergency}:
        mean = np.mean([paper.emergency[finding, how, model].mean for finding in findings])
        assert paper.emergency["Average", how, model].mean == pytest.approx(mean, abs=0.005), (how, model)


def test_every_published_interval_holds_its_mean():
    paper = published()
    for found in (paper.dice, paper.boxes, paper.recist, paper.emergency):
        assert all(value.low < value.mean < value.high for value in found.values())
    raw = files("segmentation.evaluation").joinpath("published.toml").read_text()
    assert len(tomllib.loads(raw)["table_2"]) == 54


def paper_run() -> Run:
    """SAM2CT as many times on MSD Colon as the paper, on one of KiTS23, and on data of our own."""
    scores = [
        score(f"{data}{i}", f"{data}{i}", 0.5, engine="sam2ct", kind=kind, dataset=data, category=category)
        for data, category, n in (("msd_colon", "Colon", 10), ("kits23", "Kidney", 1), ("ours", "Node", 2),
                                  ("deeplesion3d-external", "Lung", 3))
        for i in range(n)
        for kind in ("line", "box")
    ]  # fmt: skip
    return Run(Plan(("line", "box")), ("sam2ct",), tuple(scores), {}, {}, {})


def test_tables_set_ours_beside_the_papers_and_mark_other_data():
    text = {number: table_markdown(number, paper_run()) for number in TABLES}
    lines = text[2].splitlines()
    paper = lines.index(next(line for line in lines if line.startswith("| MSD Colon | SAM2CT | paper")))
    assert lines[paper] == (
        "| MSD Colon | SAM2CT | paper | 0.675 [0.612, 0.733] | 0.708 [0.652, 0.759] | 0.653 [0.587, 0.717] "
        "| 0.729 [0.677, 0.773] | 0.760 [0.717, 0.799] |"
    )
    same = "0.500 [0.500, 0.500]"
    assert lines[paper + 1] == f"| MSD Colon | SAM2CT (sam2ct) | ours | - | {same} | - | {same} | - |"
    assert "| KiTS23 | SAM2CT (sam2ct) | ours † | - | 0.500 | - | 0.500 | - |" in lines
    assert f"| 2 of 8 data sets | SAM2CT (sam2ct) | ours † | - | {same} | - | {same} | - |" in lines
    assert f"| ours | SAM2CT (sam2ct) | ours ‡ | - | {same} | - | {same} | - |" in lines
    assert not any(line.startswith("| deeplesion3d-external") for line in lines)
    assert f"| SAM2CT (sam2ct) | ours † | - | - | {same} | - | - | - | {same} |" in text[3]
    assert "| SAM2CT | paper | 11.1 [9.13, 12.9] | 15.9 [8.49, 26.5] | - |" in text[4]
    assert "| SAM2CT (sam2ct) | ours † | 50.0 [50.0, 50.0] | 50.0 [50.0, 50.0] | 50.0 [50.0, 50.0] |" in text[4]
    assert "| Gallstone | SAM2CT | paper | 0.725 [0.543, 0.852] | 0.830 [0.780, 0.879] |" in text[5]
    assert f"| Node | SAM2CT (sam2ct) | ours ‡ | {same} | {same} |" in text[5]
    whole = paper_run()
    places = [replace(whole.scores[0], dataset=p.dataset, category=p.category) for p in published().hold_out]
    assert "| All Datasets | SAM2CT (sam2ct) |" in table_markdown(2, replace(whole, scores=tuple(places)))
    with pytest.raises(ValueError, match="table must be one of"):
        table_markdown(1, paper_run())


# ---- the command


@pytest.fixture(scope="module")
def source(tmp_path_factory, lesions) -> str:
    root = tmp_path_factory.mktemp("nifti")
    for lesion in lesions[:3]:
        affine = np.diag([-1.0, -1.0, 1.0, 1.0]) @ lesion.volume.affine[:, [2, 1, 0, 3]]
        for folder, array in (("ct", lesion.volume.voxels), ("labels", lesion.truth.astype(np.uint8))):
            (root / folder).mkdir(exist_ok=True)
            nib.save(nib.Nifti1Image(array.transpose(2, 1, 0), affine), root / folder / f"{lesion.sample_id}.nii.gz")
    return f"toy=nifti:{root / 'ct'},{root / 'labels'}"


def evaluate(source: str, out: Path, *more: str) -> int:
    return main(["evaluate", source, "--split", "all", "-o", str(out), "-q", *more])


def test_the_command_leaves_a_report_a_table_and_pictures(source, tmp_path, capsys):
    more = ["--engine", "classical", "--engine", "base=ellipsoid", "--prompts", "line,box"]
    assert evaluate(source, tmp_path, *more, "--table", "2", "--figure", "5", "--figure", "4") == 0
    assert "classical / box as bidimensional" in capsys.readouterr().out
    names = {"report.md", "cases.csv", "summary.json", "scores.jsonl"}
    pictures = {"figure_4.png", "figure_5.png", "cases_line.png", "cases_box.png"}
    assert {path.name for path in tmp_path.iterdir()} == names | pictures
    text = (tmp_path / "report.md").read_text()
    assert "## Table 2" in text
    assert all(f"]({name})" in text for name in pictures)
    with (tmp_path / "cases.csv").open() as file:
        rows = list(csv.DictReader(file))
    assert len(rows) == 3 * 2 * 2
    assert {row["engine"] for row in rows} == {"classical", "base"}
    summary = json.loads((tmp_path / "summary.json").read_text())
    mean = np.mean([float(row["dice"]) for row in rows if (row["engine"], row["kind"]) == ("base", "line")])
    (line,) = (r for r in summary["rows"] if (r["engine"], r["kind"], r["group"]) == ("base", "line", "all"))
    assert line["metrics"]["dice"]["mean"] == pytest.approx(mean, abs=1e-5)


@pytest.mark.parametrize(
    ("more", "said"),
    [
        (["--engine", "classical", "--engine", "classical"], "given twice"),
        (["--weights", "sam2=x.pt"], "'sam2' is no engine of this run"),
        (["--engine", "nonsense"], "unknown segmentation engine"),
        (["--engine", "classical", "--engine-option", "classical:nonsense=1"], "takes no nonsense"),
        (["--fold", "classical=weights.pt"], "--fold must be LABEL=WEIGHTS:PATIENTS"),
        (["--fold", "classical=weights.pt:/no/such/file"], "--fold classical"),
        (["--test-time-mcm"], "needs one of the engines"),
        (["--engine", "classical", "--weights", "classical=x.pt"], "takes no weights"),
        (["--tiers", "/no/such/tiers.json"], "--tiers: the fitted tiers tiers.json cannot be read"),
        (["--engine", "classical", "--prompts", "line,point"], "no engine of this run takes point"),
    ],
)
def test_wrong_arguments_exit_2_and_say_what_is_allowed(source, tmp_path, capsys, more, said):
    assert evaluate(source, tmp_path, *more) == 2
    assert said in capsys.readouterr().err


@pytest.mark.parametrize(
    "more",
    [
        ["--prompts", "line,scribble"],
        ["--prompts-per-lesion", "0"],
        ["--table", "1"],
        ["--seed", "-1"],
        ["--size-cut", "nan"],
        ["--size-cut", "-3"],
    ],
)
def test_arguments_of_the_wrong_kind_exit_2(source, tmp_path, more):
    with pytest.raises(SystemExit) as stop:
        evaluate(source, tmp_path, *more)
    assert stop.value.code == 2


def test_a_split_without_lesions_and_missing_weights_are_said(source, tmp_path, capsys, monkeypatch):
    monkeypatch.delenv("COHORT_WEIGHTS", raising=False)
    assert evaluate(source, tmp_path, "--engine", "sam2", "--prompts", "box") == 1
    assert "weights" in capsys.readouterr().err
    assert main(["evaluate", f"{source},split=train", "-o", str(tmp_path), "-q"]) == 2
    assert "no lesion in the split 'test'" in capsys.readouterr().err


def test_engines_are_opened_before_anything_is_read(tmp_path, capsys, monkeypatch):
    monkeypatch.delenv("COHORT_WEIGHTS", raising=False)
    assert evaluate(f"nifti:{tmp_path / 'nowhere'}", tmp_path, "--engine", "sam2", "--prompts", "box") == 1
    assert "weights" in capsys.readouterr().err


def test_a_bar_in_a_label_does_not_end_its_cell(source, tmp_path):
    assert evaluate(source, tmp_path, "--engine", "a|b=ellipsoid", "--no-pictures") == 0
    text = (tmp_path / "report.md").read_text()
    assert "a\\|b" in text
    assert "a|b" not in text


def test_one_source_twice_needs_names(source, tmp_path, capsys):
    spec = source.partition("=")[2]
    assert main(["evaluate", spec, spec, "--split", "all", "-o", str(tmp_path), "-q", "--no-pictures"]) == 1
    assert "a name of its own" in capsys.readouterr().err


def test_test_time_mcm_runs_the_same_weights_twice(source, tmp_path):
    pytest.importorskip("torch")
    from sam2ct_models import seeing_nano

    from segmentation.sam2ct.weights import save_weights

    weights = save_weights(seeing_nano(), tmp_path / "nano.safetensors")
    out = tmp_path / "out"
    more = ["--engine", "sam2-ft", "--weights", f"sam2-ft={weights}", "--device", "cpu", "--prompts", "line,box"]
    assert evaluate(source, out, *more, "--test-time-mcm", "--figure", "4") == 0
    summary = json.loads((out / "summary.json").read_text())
    assert summary["engines"] == ["sam2-ft", "sam2-ft" + WITH_MCM]
    (effect,) = summary["test_time_mcm"]
    assert effect["engine"] == "sam2-ft"
    text = (out / "report.md").read_text()
    assert "## Test-time MCM" in text
    assert "**sam2-ft: the lesions here include those of the split train." in text
    assert "| SAM2 (FT) | external test set | - | 0.703 | 0.007 | - | 0.1562 |" in text
    keys = {json.loads(line)["engine"].split()[0] for line in (out / "scores.jsonl").read_text().splitlines()}
    assert len(keys) == 2  # with and without are two revisions


def test_the_gain_of_an_ablation_is_that_of_its_cells():
    """Ten lesions that MCM does nothing for and two of another category that it helps: cells weigh the same."""
    scores = [
        score(f"p{i}", f"l{i}", 0.5 + 0.3 * on * (i > 9), engine="sam2" + WITH_MCM * on, kind=kind,
              dataset="ours", category="rare" if i > 9 else "common")
        for i in range(12) for kind in ("line", "box") for on in (0, 1)
    ]  # fmt: skip
    run = Run(Plan(("line", "box")), ("sam2", "sam2 + MCM"), tuple(scores), {"sam2 + MCM": "sam2"}, {}, {})
    (effect,) = effects(run)
    assert effect.gain.mean == pytest.approx(effect.on.mean - effect.off.mean) == pytest.approx(0.15)


def test_an_ablation_is_paired_by_lesion():
    pairs = [(f"p{i}", 0.5 + 0.05 * i) for i in range(5)]
    scores = [
        score(p, p, v + 0.1 * on, engine="sam2" + WITH_MCM * on, dataset="ours") for p, v in pairs for on in (0, 1)
    ]
    run = Run(Plan(("line",)), ("sam2", "sam2 + MCM"), tuple(scores), {"sam2 + MCM": "sam2"}, {}, {})
    (effect,) = effects(run)
    assert (effect.engine, effect.test_set) == ("sam2", "other data")
    assert (effect.gain.mean, effect.gain.low) == pytest.approx((0.1, 0.1))
    assert effect.on.mean - effect.off.mean == pytest.approx(0.1)
