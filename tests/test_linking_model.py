"""The parts under the join: sums over matchings, the line that explains a link, and the refit from judged pairs."""

from __future__ import annotations

import json
from itertools import permutations

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from link_worlds import ROWS, SERIES, Row, finding, judged, lesion, line, size, stroke, worlds

from cohort_builder.errors import ConfigError
from cohort_builder.linking.assignment import link
from cohort_builder.linking.calibration import fit_link_model
from cohort_builder.linking.config import LinkConfig
from cohort_builder.linking.evidence import FEATURES, explain, pair_features
from cohort_builder.linking.matching import sum_matchings
from cohort_builder.types import Decision, Side
from nlp.types import Axis, Laterality, Qualifier

matrices = st.integers(0, 2**32 - 1).map(np.random.default_rng)


def enumerate_matchings(log_odds: np.ndarray) -> np.ndarray:
    """Pair probabilities by listing every partial matching."""
    n, m = log_odds.shape
    total, held = 1.0, np.zeros((n, m))
    for k in range(1, min(n, m) + 1):
        for rows in permutations(range(n), k):
            for columns in permutations(range(m), k):
                if list(rows) == sorted(rows):
                    weight = np.exp(log_odds[list(rows), list(columns)].sum())
                    total += weight
                    held[list(rows), list(columns)] += weight
    return held / total


@settings(max_examples=80, deadline=None)
@given(matrices, st.integers(1, 4), st.integers(1, 4))
def test_posterior_equals_enumeration(rng: np.random.Generator, n: int, m: int) -> None:
    log_odds = np.clip(rng.normal(0, 4, (n, m)), -8.5, 20)
    log_odds[rng.random((n, m)) < 0.2] = -np.inf
    np.testing.assert_allclose(sum_matchings(log_odds).probabilities, enumerate_matchings(log_odds), atol=1e-9)


@settings(max_examples=40, deadline=None)
@given(matrices, st.integers(2, 9), st.integers(2, 9))
def test_approximation_of_large_components_stays_close(rng: np.random.Generator, n: int, m: int) -> None:
    log_odds = np.clip(rng.normal(-1, 4, (n, m)), -8.5, 12)
    exact, approximate = sum_matchings(log_odds).probabilities, sum_matchings(log_odds, exact_side=0).probabilities
    assert np.abs(approximate - exact).max() < 0.12
    assert (approximate.sum(axis=0) <= 1 + 1e-6).all()
    assert (approximate.sum(axis=1) <= 1 + 1e-6).all()
    assert (exact[approximate >= LinkConfig().linked] > 0.9).all()


@settings(max_examples=60, deadline=None)
@given(matrices, st.integers(1, 9), st.integers(1, 9))
def test_sum_equals_enumeration_of_the_pairs_of_one_row(rng: np.random.Generator, n: int, m: int) -> None:
    """Independent reference: the first finding alone or with each lesion, and the sum over what is left."""
    log_odds = np.clip(rng.normal(0, 3, (n, m)), -8.5, 15)
    total = sum_matchings(log_odds).log_weight
    parts = [sum_matchings(log_odds[1:]).log_weight if n > 1 else 0.0]
    for j in range(m):
        rest = np.delete(log_odds[1:], j, axis=1)
        parts.append(log_odds[0, j] + (sum_matchings(rest).log_weight if rest.size else 0.0))
    assert total == pytest.approx(np.logaddexp.reduce(parts), abs=1e-3)  # negligible pairs are left out


def test_a_large_component_is_exact_up_to_its_limit() -> None:
    rng = np.random.default_rng(0)
    log_odds = rng.normal(0, 2, (15, 17))
    found = sum_matchings(log_odds)
    np.testing.assert_allclose(found.probabilities, sum_matchings(log_odds.T).probabilities.T, atol=1e-12)
    assert found.log_weight == pytest.approx(sum_matchings(log_odds, exact_side=0).log_weight, abs=0.5)


def test_approximation_is_exact_on_a_chain() -> None:
    log_odds = np.full((5, 5), -np.inf)
    for i in range(5):
        log_odds[i, i] = 1.5 - 0.4 * i
        if i:
            log_odds[i, i - 1] = 2.0
    np.testing.assert_allclose(
        sum_matchings(log_odds, exact_side=0).probabilities, sum_matchings(log_odds).probabilities, rtol=0, atol=1e-6
    )


# ---- one line for a person


def explained(said, *lesions):
    answer = next(a for a in link([said], list(lesions)) if a.finding_id == "f")
    best = answer.lesion_id or answer.rivals[0][0]
    return explain(answer, said, next(one for one in lesions if one.lesion_id == best))


def test_the_line_says_what_agrees() -> None:
    said = finding("f", size(12, 8), laterality=Laterality.LEFT, images=((SERIES, 241, 241),), anatomy="left kidney")
    text = explained(said, line("A", 11.8, 7.9, image=241, side=Side.LEFT, organ="kidney_left"), line("B", 30, image=9))
    assert text.startswith("12 x 8 mm said, 11.8 x 7.9 mm drawn (+")
    assert "; image 3/241 said and drawn (+5.4)" in text
    assert "; left (+0.7)" in text
    assert "; kidney left fits (+" in text
    assert text.endswith("p 1.000")


@pytest.mark.parametrize(
    ("said", "drawn", "part"),
    [
        (finding("f", size(12), images=((SERIES, 241, 243),)), line("A", 12, image=244), "image 3/241-243 said, 3/244 drawn"),
        (finding("f", size(12), images=((None, 241, 241),)), line("A", 12, image=9), "image 241 said, 3/9 drawn (-"),
        (finding("f", size(12), laterality=Laterality.LEFT), line("A", 12, side=Side.RIGHT), "left said, right drawn (-"),
        (finding("f", size(12), anatomy="spleen"), line("A", 12, side=Side.RIGHT), "other side said, right drawn (-"),
        (finding("f", size(12), anatomy="kidney"), line("A", 12, organ="hip_left"), "hip left does not fit (-"),
        (finding("f", size(12), anatomy="left upper lobe"), line("A", 12, lung_level=0.8), "height in the lungs fits (+"),
        (finding("f", size(9, axis=Axis.SHORT)), line("A", 17, 9), "9 mm short axis said, 17 x 9 mm drawn"),
        (finding("f", size(8, qualifier=Qualifier.UP_TO)), line("A", 7.6), "up to 8 mm said, 7.6 mm drawn"),
        (finding("f", size(12), images=((SERIES, 41, 41),)), lesion("A", stroke("A", image=41)), "12 mm said, no size drawn"),
        (finding("f", images=((SERIES, 41, 41),)), line("A", 12, image=41), "no size said, 12 mm drawn"),
        (finding("f", size(12)), lesion("A", stroke("A", 12), stroke("a", 14)), "12 mm and 14 mm drawn"),
    ],
)  # fmt: skip
def test_the_line_says_what_differs(said, drawn, part) -> None:
    assert part in explained(said, drawn)


def test_the_line_names_nobody() -> None:
    said = finding("f", size(12), observation="secret", anatomy="liver")
    text = explained(said, line("A", 12, label="SMITH 12 mm liver"), line("B", 12))
    assert not {"SMITH", "smith", "secret", "liver", " f", "A"} & set(text.split())
    assert ", next 0." in text


# ---- features and refit


def test_features_are_numbers_that_json_keeps() -> None:
    said = finding("f", size(12, 8), laterality=Laterality.LEFT, images=((SERIES, 41, 41),), anatomy="left lower lobe")
    drawn = line("A", 11.8, image=42, side=Side.RIGHT, organ="lung_lower_lobe_left", lung_level=0.2)
    found = pair_features(said, drawn)
    assert json.loads(json.dumps(found)) == found
    assert set(found) == set(FEATURES)
    assert (found["written_mm"], found["rounding_mm"], found["drawn_mm"]) == (12, 0.5, 11.8)
    assert (found["two_said"], found["two_drawn"], found["reference"]) == (1, 0, 1)
    assert (found["side"], found["organ"], found["level"]) == (0, 1, 1)
    assert pair_features(finding("f"), lesion("A", stroke("A"))) == {}


def test_without_rows_nothing_changes() -> None:
    start = LinkConfig(side_right=0.9)
    assert fit_link_model([], start) == start


def test_a_few_rows_move_little() -> None:
    start = LinkConfig()
    fitted = fit_link_model(judged(ROWS[10], 2, 1), start)
    for name in ("side_right", "organ_right", "reference_exact", "two_of_two", "two_of_one"):
        assert getattr(fitted, name) == pytest.approx(getattr(start, name), abs=0.12)
    assert abs(fitted.linked - start.linked) < 0.03


@pytest.mark.parametrize(("noise", "low", "high"), [(0.3, 0.1, 0.6), (1.5, 0.9, 2.5)])
def test_planted_noise_is_found(noise: float, low: float, high: float) -> None:
    row = Row("planted", noise, sides=1.0, references=1.0)
    fitted = fit_link_model(judged(row, 25, 2))
    assert low < fitted.noise_median_mm < high
    assert fitted.noise_log_sd < LinkConfig().noise_log_sd


def test_planted_rates_are_found() -> None:
    """Rows made by hand: sides agree in 80 %, organs in 70 %, images exactly in 60 % and nearly in 30 %."""
    rng = np.random.default_rng(3)
    rows = [
        {
            "verdict": True,
            "features": {
                "side": float(rng.random() < 0.8),
                "organ": float(rng.random() < 0.7),
                "organ_share": 0.2,
                "reference": float(rng.choice([2, 1, 0], p=[0.6, 0.3, 0.1])),
                "two_drawn": 1.0,
                "two_said": float(rng.random() < 0.9),
            },
        }
        for _ in range(1500)
    ]
    fitted = fit_link_model(rows)
    assert fitted.side_right == pytest.approx(0.8, abs=0.03)
    assert fitted.organ_right == pytest.approx(0.7, abs=0.04)
    assert fitted.reference_exact == pytest.approx(0.6, abs=0.04)
    assert fitted.reference_near == pytest.approx(0.3, abs=0.04)
    assert fitted.two_of_two == pytest.approx(0.9, abs=0.03)
    assert fitted.two_of_one == LinkConfig().two_of_one


@pytest.mark.parametrize("shift", [-1.5, 1.0])
def test_the_threshold_follows_overconfidence(shift: float) -> None:
    rng = np.random.default_rng(4)
    logits = rng.normal(2, 2, 3000)
    right = rng.random(3000) < 1 / (1 + np.exp(-(logits + shift)))
    rows = [
        {"verdict": bool(is_right), "features": {}, "probability": float(1 / (1 + np.exp(-logit)))}
        for logit, is_right in zip(logits, right, strict=True)
    ]
    start = LinkConfig()
    fitted = fit_link_model(rows)
    moved = fitted.linked_by_size
    expected = np.log(start.linked_by_size / (1 - start.linked_by_size)) - shift
    assert np.log(moved / (1 - moved)) == pytest.approx(expected, abs=0.25)
    for name in ("linked_on_image", "linked", "linked_together", "least_linked", "certain"):
        assert (getattr(fitted, name) < getattr(start, name)) == (shift > 0), name


@pytest.mark.parametrize(
    ("row", "message"),
    [
        ({"features": {}}, "verdict"),
        ({"verdict": "yes", "features": {}}, "verdict"),
        ({"verdict": True}, "features"),
        ({"verdict": True, "features": {"side": float("nan")}}, "side"),
        ({"verdict": True, "features": {"side": "left"}}, "side"),
        ({"verdict": True, "features": {}, "probability": 1.2}, "probability"),
    ],
)
def test_impossible_rows(row: dict[str, object], message: str) -> None:
    with pytest.raises(ConfigError, match=f"judged pair 2.*{message}"):
        fit_link_model([{"verdict": True, "features": {}}, row])


def test_a_refit_finds_more_links_where_sizes_are_dictated_off_the_display() -> None:
    row = Row("exact", 0.0)
    fitted = fit_link_model(judged(row, 30, 5))

    def links(config: LinkConfig | None) -> tuple[int, int]:
        made = right = 0
        for world in worlds(row, 30, 6):
            for answer in link(world.findings, world.lesions, config):
                if answer.decision is Decision.LINKED and answer.finding_id is not None:
                    made, right = made + 1, right + (world.truth.get(answer.finding_id) == answer.lesion_id)
        return made, right

    (before, _), (after, right) = links(None), links(fitted)
    assert after > before
    assert right >= 0.97 * after
