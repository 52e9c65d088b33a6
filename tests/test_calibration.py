"""The fit of the tiers: it keeps its promise on lesions it has not seen, it is monotone, and it goes on where it stopped."""

from __future__ import annotations

import json
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from lesions import lesion_in_tissue
from scipy.stats import binomtest

from cohort_builder.cli import main
from segmentation import Line, SegmentationJob, check_mask, load_segmenter
from segmentation.believability import table_digest
from segmentation.calibration import (
    LEAST_ACCEPTED,
    fit_kind,
    fit_tiers,
    judged,
    lower_bound,
    summary,
    threshold,
    with_check,
)
from segmentation.calibration_rows import GENERATOR, LESIONS_PER_SCENE, Row, collect, rows_of, scene
from segmentation.checks import NOT_CALIBRATED
from segmentation.metrics import dice
from segmentation.phantoms.patches import Patch
from segmentation.prompts import draw_line, drawn_prompt, simulate_prompt
from segmentation.tiers import DOUBTS, PRECISION, EngineFit, KindFit, TierError, TierTable, doubts_of, shipped
from segmentation.training.sources import GeneratedSource
from segmentation.types import mask_from_volume


def law(values) -> float:
    return 1 / (1 + np.exp(-(5.5 - 5 * (1 - values["separation"]) / 0.5 - 4 * (1 - values["confidence"]) / 0.7)))


def rows_by_law(n: int, seed: int, *, flags: float = 0.0) -> list[Row]:
    """Masks whose probability of being good falls with separation and confidence by a known law, and with no more."""
    rng = np.random.default_rng(seed)
    rows = []
    for i in range(n):
        separation, confidence, islands = rng.uniform(0.5, 1), rng.uniform(0.3, 1), rng.uniform(0, 0.1)
        values = {"separation": separation, "confidence": confidence, "islands": islands, "penalties": 0.0}
        if rng.random() < flags:
            values["penalties"] = 0.3
        good = rng.random() < law(values)
        rows.append(Row(f"{i // 8}.{i % 8}", "line", drawn=True, dice=0.8 if good else 0.5, family="1", values=values))
    return rows


def test_the_promise_is_kept_on_lesions_that_were_not_seen():
    fit = fit_kind(rows_by_law(1200, 0))
    good, accepted = judged(fit, rows_by_law(3000, 1))
    assert good.mean() < 0.75
    assert good[accepted].mean() >= PRECISION
    assert accepted.mean() > 0.15


def test_the_probability_is_that_of_the_law():
    fit = fit_kind(rows_by_law(2500, 0))
    rows = rows_by_law(1000, 1)
    fitted = np.array([fit.probability(doubts_of(row.values)) for row in rows])
    assert np.abs(fitted - [law(row.values) for row in rows]).mean() < 0.03


def test_the_law_is_found_and_what_tells_nothing_weighs_little():
    weights = fit_kind(rows_by_law(2500, 0)).weights
    assert weights["alike"] == pytest.approx(5, rel=0.25)
    assert weights["engine_doubts"] == pytest.approx(4, rel=0.25)
    assert weights.get("islands", 0.0) < 1


def test_masks_without_rhyme_or_reason_are_never_accepted():
    rng = np.random.default_rng(0)
    rows = [replace(row, dice=float(rng.choice([0.5, 0.8]))) for row in rows_by_law(400, 0)]
    fit = with_check(fit_kind(rows), rows)
    assert fit.accept is None
    assert fit.figures["coverage"] == fit.figures["held_out_coverage"] == 0


def test_a_flag_is_never_accepted():
    rows = rows_by_law(1000, 0, flags=0.5)
    _, accepted = judged(fit_kind(rows), rows)
    assert accepted.any()
    assert not (accepted & np.array([row.flagged for row in rows])).any()


def test_too_few_masks_are_refused():
    with pytest.raises(ValueError, match="too few"):
        fit_kind(rows_by_law(99, 0))


@given(st.integers(1, 400), st.floats(0.5, 1))
def test_the_lower_bound_is_that_of_the_exact_test(n, share):
    hits = round(n * share)
    exact = binomtest(hits, n, alternative="greater").proportion_ci(0.95, "exact").low
    assert lower_bound(hits, n) == pytest.approx(exact, abs=1e-9)


@given(st.lists(st.tuples(st.floats(0.8, 1), st.sampled_from([True] * 30 + [False])), min_size=1, max_size=300))
def test_what_a_threshold_accepts_is_good_and_believed_to_be(found):
    probability, good = (np.array(part) for part in zip(*found, strict=True))
    chosen = threshold(probability, good)
    if chosen is not None:
        accepted = probability >= chosen
        assert accepted.sum() >= LEAST_ACCEPTED
        assert min(good[accepted].mean(), probability[accepted].mean()) >= PRECISION


def test_the_lowest_threshold_is_taken_and_none_where_the_model_is_unsure():
    probability = np.repeat([0.99, 0.96, 0.92, 0.6], 100)
    good = np.arange(400) < 300
    assert threshold(probability, good) == pytest.approx(0.605)
    assert threshold(probability - 0.033, good) == pytest.approx(0.93)
    assert threshold(probability - 0.1, good) is None
    assert threshold(probability[:19], good[:19]) is None


ALL_NAMES = sorted({doubt.measure for doubt in DOUBTS})


@settings(max_examples=60)
@given(
    st.dictionaries(st.sampled_from([d.name for d in DOUBTS]), st.floats(0, 10)),
    st.dictionaries(st.sampled_from(ALL_NAMES), st.floats(-5, 200)),
    st.sampled_from(DOUBTS),
    st.floats(0, 100),
)
def test_more_doubt_never_raises_the_probability(weights, values, doubt, more):
    fit = KindFit(2.0, weights, None, {})
    worse = doubts_of(values)
    worse[doubt.name] = min(worse[doubt.name] + more, 1.0)
    assert 0 <= fit.probability(worse) <= fit.probability(doubts_of(values)) <= 1
    absent = {name: value for name, value in values.items() if name != doubt.measure}
    assert doubts_of(absent)[doubt.name] == 1


def small_scene(seed: int, number: int):
    """Two lesions in plain tissue: what a scene costs is not what is tested."""
    return [small_lesion(100 * seed + 2 * number + i, 6.0 + 2 * i) for i in range(2)]


def small_lesion(seed: int, radius_mm: float = 7.0):
    return lesion_in_tissue(seed=seed, radius_mm=radius_mm, shape=(16, 48, 48))


@pytest.fixture(scope="module")
def measured(tmp_path_factory) -> tuple[Path, list[Row]]:
    path = tmp_path_factory.mktemp("rows") / "rows"
    found = collect(load_segmenter("ellipsoid"), (3, 3), 3, path, small_scene)
    return path, [row for _, rows in found for row in rows]


def test_rows_hold_every_kind_and_the_dice_of_the_mask(measured):
    _, rows = measured
    assert {row.lesion for row in rows} == {f"{n}.{i}" for n in range(4) for i in range(2)}
    assert {row.kind for row in rows} == {"line", "bidimensional", "arrow", "box", "mask"}
    assert {row.drawn for row in rows} == {True, False}
    assert not any(row.drawn for row in rows if row.kind in {"box", "mask"})
    assert 0.7 < np.mean([row.dice for row in rows if row.kind == "mask"]) < 1
    assert all(row.family == "1" for row in rows)


def test_dice_is_that_of_the_metrics():
    volume, truth = small_lesion(0)
    engine = load_segmenter("ellipsoid")
    for row in rows_of(engine, [(volume, truth)], (0,), "0"):
        rng = np.random.default_rng([0, 0, *row.kind.encode()])
        if row.kind in {"line", "arrow"}:
            draw = drawn_prompt if rng.integers(2) else simulate_prompt
            prompt = draw(truth, row.kind, rng, spacing_mm=volume.spacing_mm)
            (mask,) = engine.segment([SegmentationJob("a", volume, (prompt,))])
            assert row.dice == pytest.approx(dice(mask.in_volume(truth.shape), truth))


def test_an_interrupted_run_goes_on_with_the_same_rows(measured, tmp_path):
    path, rows = measured
    lines = path.read_text().splitlines(keepends=True)
    cut = tmp_path / "cut"
    cut.write_text("".join(lines[:3]) + lines[3][:100])
    made = []

    def make(seed: int, number: int):
        made.append(number)
        return small_scene(seed, number)

    again = [row for _, found in collect(load_segmenter("ellipsoid"), (3, 3), 3, cut, make) for row in found]
    assert made == [2, 3]
    assert again == rows
    assert cut.read_bytes() == path.read_bytes()


@pytest.mark.parametrize(("engine", "seed"), [("classical", 3), ("ellipsoid", 4)])
def test_rows_of_another_engine_or_seed_are_not_mixed_in(measured, engine, seed):
    with pytest.raises(TierError, match="another engine, seed"):
        next(collect(load_segmenter(engine), (1, 1), seed, measured[0]))


def test_a_file_that_holds_something_else_is_refused(tmp_path):
    (tmp_path / "rows").write_text("hello\n")
    with pytest.raises(TierError, match="remove it"):
        next(collect(load_segmenter("ellipsoid"), (1, 1), 3, tmp_path / "rows"))


def test_too_few_lesions_for_any_kind_are_an_error(measured, tmp_path):
    copy = tmp_path / "rows"
    copy.write_bytes(measured[0].read_bytes())
    with pytest.raises(TierError, match="use more lesions"):
        fit_tiers(load_segmenter("ellipsoid"), lesions=3, held_out=3, seed=3, rows=copy)


@pytest.mark.slow
@pytest.mark.parametrize("number", [0, 1, 2])
def test_scenes_are_the_same_every_time(number):
    first, second = scene(5, number), scene(5, number)
    assert len(first) == len(second) >= 4
    for (volume, truth), (again, same) in zip(first, second, strict=True):
        assert np.array_equal(volume.voxels, again.voxels)
        assert np.array_equal(truth, same)
        assert truth.any()
        assert truth.shape == volume.voxels.shape


def test_scenes_share_no_random_numbers_with_generated_training_lesions(monkeypatch):
    """Of the generators alone: real backgrounds take half a minute."""
    volume, truth = small_lesion(0)
    drawn = []

    def noting(rng, _backgrounds=None):
        drawn.append(float(rng.random()))
        return Patch(volume, truth)

    monkeypatch.setattr("segmentation.calibration_rows.generated_sample", noting)
    monkeypatch.setattr("segmentation.calibration_rows._backgrounds", lambda: None)
    monkeypatch.setattr("segmentation.phantoms.patches.generated_sample", noting)
    for number in (1, 3, 5):
        scene(5, number)
    list(GeneratedSource(count=8, seed=5).samples(0))
    assert len(drawn) == len(set(drawn)) == 3 * LESIONS_PER_SCENE + 8


# ---- the file


def table() -> TierTable:
    fit = with_check(fit_kind(rows_by_law(600, 0)), rows_by_law(300, 1))
    return TierTable((EngineFit("nano", "f" * 64, {"line": fit}, "by hand"),))


def test_a_table_survives_its_file(tmp_path):
    path = tmp_path / "tiers.json"
    path.write_text(table().to_json())
    assert TierTable.read(path) == table()
    assert TierTable.read(path).digest == table().digest


def test_the_digest_changes_with_what_decides_and_with_nothing_else():
    (fit,) = table().fits
    line = fit.kinds["line"]
    other = replace(fit, kinds={"line": replace(line, accept=0.5)})
    assert TierTable((other,)).digest != table().digest
    told = replace(fit, kinds={"line": replace(line, figures={})}, source="elsewhere")
    assert TierTable((told,)).digest == table().digest


def test_the_builds_digest_follows_the_shipped_fits(monkeypatch):
    before = table_digest()
    monkeypatch.setattr("segmentation.believability.shipped", table)
    assert table_digest() != before


def test_a_new_fit_replaces_that_of_the_same_weights_only():
    (fit,) = table().fits
    newer, other = replace(fit, source="newer"), replace(fit, family="e" * 64)
    assert table().with_fit(newer).fits == (newer,)
    assert table().with_fit(other).fits == (other, fit)


def test_weights_decide_and_not_the_device_they_run_on():
    (fit,) = table().fits
    line = Line(1, (1.0, 1.0), (3.0, 3.0))
    mask = mask_from_volume("a", np.ones((2, 4, 4), dtype=bool), "nano@1-bf16", weights_sha256="f" * 64)
    assert table().fit_of(mask, line) == fit.kinds["line"]
    assert table().fit_of(replace(mask, engine="nano@1-fp32"), line) == fit.kinds["line"]
    assert table().fit_of(replace(mask, weights_sha256="e" * 64), line) is None
    assert table().fit_of(replace(mask, engine="sam2@1"), line) is None


@pytest.mark.parametrize(
    "change",
    [
        {"version": 0},
        {"fits": [{"engine": "a"}]},
        {"fits": [{"engine": "a", "family": "1", "source": "", "kinds": {"line": {"bias": 1}}}]},
        {
            "fits": [
                {
                    "engine": "a",
                    "family": "1",
                    "source": "",
                    "kinds": {"line": {"bias": 1, "weights": {"flags": -1}, "accept": 0.9, "figures": {}}},
                }
            ]
        },
    ],
)
def test_another_file_is_refused(tmp_path, change):
    path = tmp_path / "tiers.json"
    path.write_text(json.dumps({"version": 1, "fits": []} | change))
    with pytest.raises(TierError):
        TierTable.read(path)


def test_engines_without_a_download_come_with_their_fits():
    assert {fit.engine for fit in shipped().fits} >= {"classical", "ellipsoid"}
    for fit in shipped().fits:
        for kind, model in fit.kinds.items():
            assert model.figures["masks"] >= 100, kind
            assert model.figures["held_out_masks"] >= 90, kind
            if model.accept is not None:
                assert min(model.figures["precision"], model.figures["held_out_precision"]) >= PRECISION
    assert NOT_CALIBRATED in shipped_flags("classical@0")
    assert NOT_CALIBRATED not in shipped_flags(f"classical@{load_segmenter('classical').revision}")


def shipped_flags(engine: str) -> tuple[str, ...]:
    volume, truth = small_lesion(0)
    prompt = draw_line(truth, np.random.default_rng(0), spacing_mm=volume.spacing_mm)
    return check_mask(mask_from_volume("a", truth, engine), SegmentationJob("a", volume, (prompt,))).flags


# ---- the verb


def test_the_verb_goes_on_from_measured_rows_and_writes_the_table(tmp_path, capsys):
    """The rows come from a law here: what is tested is the way from rows to the table."""
    out = tmp_path / "tiers.json"
    out.write_text(table().to_json())
    head = {"engine": "ellipsoid", "revision": "1", "seed": 2, "generator": GENERATOR}
    scenes = [rows_by_law(8, seed) for seed in range(150)]
    named = [[replace(row, lesion=f"{i}.{j}") for j, row in enumerate(rows)] for i, rows in enumerate(scenes)]
    lines = [json.dumps([8, [{k: getattr(row, k) for k in Row.__slots__} for row in rows]]) for rows in named]
    rows_file = tmp_path / "tiers.json.ellipsoid.rows"
    rows_file.write_text("\n".join([json.dumps(head), *lines]) + "\n")
    asked = ["fit-tiers", "-q", "--engine", "ellipsoid", "--lesions", "800", "--held-out", "400", "--seed", "2"]
    assert main([*asked, "-o", str(out)]) == 0
    written = TierTable.read(out)
    assert [fit.engine for fit in written.fits] == ["ellipsoid", "nano"]
    assert written.fits[0].kinds["line"].figures["held_out_masks"] == 400
    assert summary(written.fits[0]) in capsys.readouterr().out
    assert not rows_file.exists()


@pytest.mark.parametrize(
    ("arguments", "words"),
    [
        (["--lesions", "0"], "must be 1 or more"),
        (["--engine", "psychic"], "unknown segmentation engine"),
        (["--seed", "7"], "another engine, seed"),
    ],
)
def test_what_cannot_be_fitted_exits_2(tmp_path, capsys, arguments, words):
    out = tmp_path / "tiers.json"
    (tmp_path / "tiers.json.ellipsoid.rows").write_text('{"engine": "ellipsoid"}\n')
    assert main(["fit-tiers", "-q", "--engine", "ellipsoid", "-o", str(out), *arguments]) == 2
    assert words in capsys.readouterr().err
    assert not out.exists()
