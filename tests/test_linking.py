"""The join of findings and lesions: cases with the answer beside them, laws, and a simulation that measures precision.

The simulated reports follow the working lists the linker was designed on: one to twelve lesions of log-normal size
(median 12 mm), some undrawn, some unsaid, some of equal size, some earlier sizes mistaken for today's.
"""

from __future__ import annotations

from dataclasses import dataclass, replace
from itertools import permutations

import numpy as np
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from cohort_builder.errors import ConfigError
from cohort_builder.linking import LinkConfig, link, withhold_contradictions
from cohort_builder.matching import pair_probabilities
from cohort_builder.types import (
    Annotation,
    AnnotationKind,
    Decision,
    Lesion,
    Link,
    LocatedAnnotation,
    Reading,
    Side,
    Source,
)
from nlp.types import (
    Assertion,
    Axis,
    Finding,
    ImageReference,
    Laterality,
    Mention,
    Qualifier,
    Size,
    SizeKind,
    Temporality,
)

SERIES = 3


def drawn(
    name: str,
    *lengths: float,
    image: int | None = 1,
    series: int = SERIES,
    side: Side | None = None,
    stated: tuple[float, ...] = (),
    points: tuple[tuple[float, float], ...] | None = None,
) -> LocatedAnnotation:
    """A line, a pair of axes (two ``lengths``) or an arrow (none)."""
    long, short = (*lengths, 0.0, 0.0)[:2]
    kinds = {0: AnnotationKind.ARROW, 1: AnnotationKind.LINE, 2: AnnotationKind.BIDIMENSIONAL}
    axes = ((0.0, 0.0), (long or 9.0, 0.0)), ((long / 2, -short / 2), (long / 2, short / 2))
    points = points or (axes[0] if len(lengths) < 2 else axes[0] + axes[1])
    annotation = Annotation(
        name, kinds[len(lengths)], points, f"1.2.{image}", "1.2.3", "1.2", Source("1.9", name, "test"), stated_mm=stated
    )
    in_patient = tuple((x, y, 0.0) for x, y in points)
    return LocatedAnnotation(annotation, tuple(lengths), in_patient, "1.1", series, image, side)


def lesion(name: str, *strokes: LocatedAnnotation, reading: Reading = Reading.CURRENT) -> Lesion:
    return Lesion(name, strokes, strokes[0].diameters_mm, (0.0, 0.0, 0.0), "1.1", "1.2", reading)


def line(name: str, length: float, **facts: object) -> Lesion:
    return lesion(name, drawn(name, length, **facts))


def size(*values: float, rounding: float = 0.5, axis: Axis | None = None, **facts: object) -> Size:
    return Size(values, (rounding,) * len(values), (axis,) * len(values), (0, 1), **facts)


def finding(
    name: str,
    *sizes: Size,
    side: Laterality | None = None,
    images: tuple[tuple[int | None, int, int], ...] = (),
    assertion: Assertion = Assertion.PRESENT,
) -> Finding:
    references = tuple(ImageReference(series, first, last, (0, 1)) for series, first, last in images)
    mention = Mention("findings", (0, 1), (0, 1))
    return Finding(name, "r", "nodule", assertion, (mention,), "test", None, side, sizes, references)


def linked(answers: list[Link]) -> dict[str, str]:
    """Finding to lesion, of what would be published."""
    return {
        a.finding_id: a.lesion_id for a in answers if a.decision is Decision.LINKED and a.finding_id and a.lesion_id
    }


def answer_of(answers: list[Link], name: str) -> Link:
    (answer,) = [a for a in answers if a.finding_id == name]
    return answer


IMAGE_1 = ((SERIES, 1, 1),)
PRIOR = Temporality.PRIOR
UNSIZED = lesion("A", drawn("A"))

CASES: dict[str, tuple[list[Finding], list[Lesion], dict[str, str]]] = {
    "a lone line of the said size": ([finding("f", size(12))], [line("A", 11.8)], {"f": "A"}),
    "1.2 cm is anything that rounds to it": ([finding("f", size(12))], [line("A", 12.45), line("B", 20)], {"f": "A"}),
    "another size, no rival": ([finding("f", size(12))], [line("A", 16)], {}),
    "another size, but side and image agree": (
        [finding("f", size(12), side=Laterality.LEFT, images=IMAGE_1)],
        [line("A", 16, side=Side.LEFT)],
        {},
    ),
    "two lines of the said size": ([finding("f", size(12))], [line("A", 12), line("B", 12)], {}),
    "two that differ less than the rounding": ([finding("f", size(12))], [line("A", 11.7), line("B", 12.3)], {}),
    "two findings of that size, one line": ([finding("f", size(12)), finding("g", size(12))], [line("A", 12)], {}),
    "the image decides between equal lines": (
        [finding("f", size(12), images=((SERIES, 41, 41),))],
        [line("A", 12, image=41), line("B", 12, image=90)],
        {"f": "A"},
    ),
    "a range of images": (
        [finding("f", size(12), images=((SERIES, 39, 42),))],
        [line("A", 12, image=41), line("B", 12, image=90)],
        {"f": "A"},
    ),
    "an image without its series": (
        [finding("f", size(12), images=((None, 41, 41),))],
        [line("A", 12, image=41), line("B", 12, image=90)],
        {"f": "A"},
    ),
    "the image number of another series says nothing for it": (
        [finding("f", size(12), images=((SERIES, 41, 41),))],
        [line("A", 12, image=41, series=SERIES + 1), line("B", 12, image=90, series=SERIES + 1)],
        {},
    ),
    "of two series the said one counts": (
        [finding("f", size(12), images=((SERIES, 41, 41),))],
        [line("A", 12, image=41, series=SERIES + 1), line("B", 12, image=41)],
        {"f": "B"},
    ),
    "the said image holds nothing": (
        [finding("f", size(12), images=((SERIES, 41, 41),))],
        [line("A", 12, image=90)],
        {},
    ),
    "any stroke may lie on the said image": (
        [finding("f", size(12), images=((SERIES, 41, 41),))],
        [lesion("A", drawn("A", 12, image=90), drawn("a", 12.2, image=41)), line("B", 12, image=7)],
        {"f": "A"},
    ),
    "the side decides between equal lines": (
        [finding("f", size(12, 8), side=Laterality.LEFT)],
        [lesion("A", drawn("A", 12, 8, side=Side.RIGHT)), lesion("B", drawn("B", 12, 8, side=Side.LEFT))],
        {"f": "B"},
    ),
    "the other side": ([finding("f", size(12), side=Laterality.LEFT)], [line("A", 12, side=Side.RIGHT)], {}),
    "near the middle the side says nothing": (
        [finding("f", size(12), side=Laterality.LEFT)],
        [line("A", 12, side=Side.MIDLINE)],
        {"f": "A"},
    ),
    "whole centimetres alone": ([finding("f", size(30, rounding=5))], [line("A", 29)], {}),
    "whole centimetres and the image": (
        [finding("f", size(30, rounding=5), images=IMAGE_1)],
        [line("A", 29)],
        {"f": "A"},
    ),
    "the second axis decides": (
        [finding("f", size(12, 7))],
        [lesion("A", drawn("A", 12, 11.4)), lesion("B", drawn("B", 12, 7))],
        {"f": "B"},
    ),
    "short axis of a node": (
        [finding("f", size(9, axis=Axis.SHORT))],
        [lesion("A", drawn("A", 17, 9)), lesion("B", drawn("B", 25, 17))],
        {"f": "A"},
    ),
    "long and short axis said apart": (
        [finding("f", size(23), size(11, axis=Axis.SHORT))],
        [lesion("A", drawn("A", 23, 11)), lesion("B", drawn("B", 23, 18))],
        {"f": "A"},
    ),
    "of three diameters two lie in the plane": (
        [finding("f", size(40, 30, 21))],
        [lesion("A", drawn("A", 30, 21)), lesion("B", drawn("B", 12, 8))],
        {"f": "A"},
    ),
    "the number beside the line beats its geometry": (
        [finding("f", size(11.6, rounding=0.05))],
        [line("A", 11.9, stated=(11.6,)), line("B", 11.6, stated=(12.1,))],
        {"f": "A"},
    ),
    "the report quotes the second reader": (
        [finding("f", size(14))],
        [lesion("A", drawn("A", 12), drawn("a", 14)), line("B", 20)],
        {"f": "A"},
    ),
    "up to 8 mm is too little alone": ([finding("f", size(8, qualifier=Qualifier.UP_TO))], [line("A", 5)], {}),
    "up to 8 mm and the image": (
        [finding("f", size(8, qualifier=Qualifier.UP_TO), images=IMAGE_1)],
        [line("A", 5)],
        {"f": "A"},
    ),
    "up to 8 mm is not 12": (
        [finding("f", size(8, qualifier=Qualifier.UP_TO), images=IMAGE_1)],
        [line("A", 12)],
        {},
    ),
    "at least 6 cm and the image": (
        [finding("f", size(60, qualifier=Qualifier.AT_LEAST), images=IMAGE_1)],
        [line("A", 71)],
        {"f": "A"},
    ),
    "about 12 mm": (
        [finding("f", size(12, 9, qualifier=Qualifier.APPROXIMATE))],
        [lesion("A", drawn("A", 13, 9))],
        {"f": "A"},
    ),
    "absent": ([finding("f", size(12), images=IMAGE_1, assertion=Assertion.ABSENT)], [line("A", 12)], {}),
    "uncertain, on its image": (
        [finding("f", size(12), images=IMAGE_1, assertion=Assertion.UNCERTAIN)],
        [line("A", 12)],
        {"f": "A"},
    ),
    "an earlier size": ([finding("f", size(12, temporality=PRIOR), images=IMAGE_1)], [line("A", 12)], {}),
    "today's size and an earlier one": (
        [finding("f", size(12), size(9, temporality=PRIOR))],
        [line("A", 12), line("B", 9)],
        {"f": "A"},
    ),
    "a distance": ([finding("f", size(12, kind=SizeKind.DISTANCE), images=IMAGE_1)], [line("A", 12)], {}),
    "a threshold does not compete": (
        [finding("f", size(12)), finding("g", size(12, kind=SizeKind.THRESHOLD))],
        [line("A", 12)],
        {"f": "A"},
    ),
    "the aorta may be what was drawn": (
        [finding("f", size(39)), finding("g", size(39, kind=SizeKind.NORMAL_STRUCTURE))],
        [line("A", 39)],
        {},
    ),
    "no size, but an arrow on its image": ([finding("f", images=IMAGE_1)], [UNSIZED], {"f": "A"}),
    "no size and two arrows there": ([finding("f", images=IMAGE_1)], [UNSIZED, lesion("B", drawn("B"))], {}),
    "no size, no image": ([finding("f", side=Laterality.LEFT)], [lesion("A", drawn("A", side=Side.LEFT))], {}),
    "a size and an arrow": ([finding("f", size(12))], [UNSIZED], {}),
    "a size and an arrow on its image, of many": (
        [finding("f", size(12), images=((SERIES, 280, 280),))],
        [lesion("A", drawn("A", image=280))],
        {"f": "A"},
    ),
    "a size and an arrow on its image, of few": ([finding("f", size(12), images=IMAGE_1)], [UNSIZED], {}),
    "the image next to it": (
        [finding("f", size(12, 8), images=IMAGE_1)],
        [lesion("A", drawn("A", 12, 8, image=2))],
        {},
    ),
    "the image, but the other side": (
        [finding("f", size(12, 8), side=Laterality.LEFT, images=((SERIES, 280, 280),))],
        [lesion("A", drawn("A", 12, 8, image=280, side=Side.RIGHT))],
        {},
    ),
}


@pytest.mark.parametrize("case", CASES)
def test_case(case: str) -> None:
    findings, lesions, expected = CASES[case]
    assert linked(link(findings, lesions)) == expected


def test_withheld_for_a_rival_names_both() -> None:
    answer = answer_of(link([finding("f", size(12))], [line("A", 12), line("B", 12)]), "f")
    assert answer.decision is Decision.AMBIGUOUS
    assert answer.lesion_id is None
    assert [name for name, _ in answer.rivals] == ["A", "B"]
    assert answer.rivals[0][1] == pytest.approx(answer.rivals[1][1])


def test_many_rivals_are_still_ambiguous() -> None:
    lesions = [line(name, 12) for name in "ABCDEFGH"]
    assert answer_of(link([finding("f", size(12))], lesions), "f").decision is Decision.AMBIGUOUS


def test_a_link_says_why() -> None:
    said = finding("f", size(12), side=Laterality.LEFT, images=((SERIES, 300, 300),))
    config = LinkConfig()
    answer = answer_of(link([said], [line("A", 12, side=Side.LEFT, image=300)], config), "f")
    assert answer.evidence["side"] == config.same_side
    assert answer.evidence["reference"] == config.same_image
    assert answer.evidence["prior"] == pytest.approx(np.log(config.match_weight))
    odds = np.exp(sum(answer.evidence.values()))  # without rivals the posterior is the odds themselves
    assert answer.probability == pytest.approx(odds / (1 + odds))


def test_size_evidence_is_a_likelihood_ratio() -> None:
    """Independent reference: how often a 12 mm line is written "12", over how often any lesion is, by sampling."""
    rng = np.random.default_rng(5)
    config = LinkConfig(unrelated_size=1e-9)
    written_of_this = 12.3 + rng.normal(0, np.hypot(config.size_noise_mm, config.size_noise_fraction * 12.3), 400_000)
    written_of_any = rng.lognormal(np.log(config.background_median_mm), config.background_log_sd, 400_000)
    ratio = np.mean(np.round(written_of_this) == 12) / np.mean(np.round(written_of_any) == 12)
    answer = answer_of(link([finding("f", size(12))], [line("A", 12.3)], config), "f")
    assert answer.evidence["size"] == pytest.approx(np.log(ratio), abs=0.03)


def test_earlier_sizes_meet_earlier_lesions_only() -> None:
    findings = [finding("f", size(9, temporality=PRIOR)), finding("g", size(14))]
    lesions = [line("A", 9), lesion("B", drawn("B", 9), reading=Reading.PRIOR)]
    lesions += [lesion("C", drawn("C", 14), reading=Reading.PRIOR)]
    answers = link(findings, lesions)
    assert linked(answers) == {}
    assert answer_of(answers, "f").decision is Decision.PRIOR_LINKED
    assert answer_of(answers, "f").lesion_id == "B"
    assert {a.lesion_id for a in answers if a.finding_id is None} == {"A", "C"}


def test_a_linked_finding_answers_once_although_its_earlier_size_was_drawn() -> None:
    findings = [finding("f", size(12), size(9, temporality=PRIOR))]
    answers = link(findings, [line("A", 12), lesion("B", drawn("B", 9), reading=Reading.PRIOR)])
    assert linked(answers) == {"f": "A"}
    (other,) = [a for a in answers if a.finding_id is None]
    assert other.lesion_id == "B"
    assert other.rivals[0][0] == "f"


def test_the_short_line_of_a_pair_is_no_reader() -> None:
    """A pair drawn as two lines holds its short line as a second stroke: "8 mm" must not match it as a long axis."""
    pair = drawn("A", 12, 8)
    short = drawn("a", 8, points=pair.annotation.points[2:])
    alone, with_line = (
        answer_of(link([finding("f", size(8))], [lesion("A", *strokes)]), "f") for strokes in ([pair], [pair, short])
    )
    assert with_line.evidence == alone.evidence


def test_without_a_size_only_the_image_links_whatever_the_configuration() -> None:
    config = LinkConfig(drawn_unsized=9.0)
    assert linked(link([finding("f", size(12))], [UNSIZED], config)) == {}
    assert linked(link([finding("f", size(12), images=IMAGE_1)], [UNSIZED], config)) == {"f": "A"}


def test_nothing_to_link() -> None:
    assert link([], []) == []
    (answer,) = link([finding("f", size(12))], [])
    assert (answer.decision, answer.probability) == (Decision.UNMATCHED, 0.0)
    (answer,) = link([], [line("A", 12)])
    assert (answer.finding_id, answer.lesion_id, answer.decision) == (None, "A", Decision.UNMATCHED)


@pytest.mark.parametrize(
    "bad",
    [
        {"linked": 0.5},
        {"linked": 1.2},
        {"ambiguous": 0.97},
        {"size_noise_mm": 0.0},
        {"unrelated_size": 0.0},
        {"match_weight": float("nan")},
        {"absorber": -1.0},
        {"same_image": "high"},
    ],
)
def test_impossible_configuration(bad: dict[str, float]) -> None:
    with pytest.raises(ConfigError, match=next(iter(bad))):
        LinkConfig(**bad)


# ---- laws


@dataclass(frozen=True)
class World:
    """A simulated report: ``truth`` maps the findings whose lesion was drawn to that lesion."""

    findings: list[Finding]
    lesions: list[Lesion]
    truth: dict[str, str]


def simulate(
    rng: np.random.Generator, *, noise: float = 0.3, images: float = 0.0, sides: float = 0.0, most: int = 12
) -> World:
    """One report and its drawn lesions; ``noise`` is the sd in mm of what is dictated around what was drawn.

    80 % of the lesions are drawn and, independently, 80 % said; 10 % copy another's size; 45 % are said and 35 % drawn
    with two axes; 15 % of the findings quote an earlier size, of which 30 % are taken for today's. ``images`` and
    ``sides`` are the shares of findings that state one; 2 % of those are wrong.
    """
    world = World([], [], {})
    count = int(rng.integers(1, most + 1))
    lengths = np.clip(rng.lognormal(np.log(12), 0.65, count), 3, 150)
    for i in range(count):
        if i and rng.random() < 0.1:
            lengths[i] = lengths[rng.integers(i)]
        long = float(lengths[i])
        short = long * float(np.clip(rng.normal(0.75, 0.12), 0.4, 1))
        image, left = int(rng.integers(1, 301)), bool(rng.random() < 0.5)
        is_said, is_drawn = rng.random(2) < 0.8
        if is_drawn:
            axes = (long, short) if rng.random() < 0.35 else (long,)
            world.lesions.append(
                lesion(f"L{i}", drawn(f"L{i}", *axes, image=image, side=Side.LEFT if left else Side.RIGHT))
            )
        if not is_said:
            continue
        axes = (long, short) if rng.random() < 0.45 else (long,)
        written = sorted((max(1.0, float(np.round(axis + rng.normal(0, noise)))) for axis in axes), reverse=True)
        named = image if rng.random() > 0.02 else int(rng.integers(1, 301))
        references = ((SERIES, named, named),) if rng.random() < images else ()
        side = Laterality.LEFT if left == (rng.random() > 0.02) else Laterality.RIGHT
        side_said = side if rng.random() < sides else None
        world.findings.append(finding(f"F{i}", size(*written), side=side_said, images=references))
        if is_drawn:
            world.truth[f"F{i}"] = f"L{i}"
        if rng.random() < 0.15 * 0.3:
            earlier = float(np.clip(np.round(written[0] * np.exp(rng.normal(0, 0.25))), 2, 200))
            world.findings.append(finding(f"P{i}", size(earlier), side=side_said))
    return world


worlds = st.builds(
    lambda seed, images, sides: simulate(np.random.default_rng(seed), images=images, sides=sides, most=7),
    st.integers(0, 2**32 - 1),
    st.sampled_from([0.0, 0.5]),
    st.sampled_from([0.0, 1.0]),
)
lawful = settings(max_examples=60, deadline=None, suppress_health_check=[HealthCheck.too_slow])


@lawful
@given(worlds)
def test_everything_is_answered_once_and_nothing_linked_twice(world: World) -> None:
    answers = link(world.findings, world.lesions)
    named = [a.finding_id for a in answers if a.finding_id is not None]
    assert named == [f.finding_id for f in world.findings]
    held = [a.lesion_id for a in answers if a.lesion_id is not None]
    assert sorted(held) == sorted(item.lesion_id for item in world.lesions)
    assert all(0 <= a.probability <= 1 for a in answers)
    assert all(a.probability >= LinkConfig().linked for a in answers if a.decision is Decision.LINKED)


@lawful
@given(worlds, st.randoms(use_true_random=False))
def test_order_does_not_matter(world: World, shuffler: object) -> None:
    findings, lesions = list(world.findings), list(world.lesions)
    shuffler.shuffle(findings)  # type: ignore[attr-defined]
    shuffler.shuffle(lesions)  # type: ignore[attr-defined]
    before = {(a.finding_id, a.lesion_id): a for a in link(world.findings, world.lesions)}
    after = {(a.finding_id, a.lesion_id): a for a in link(findings, lesions)}
    assert before.keys() == after.keys()
    for key, answer in before.items():
        assert after[key].decision is answer.decision
        assert after[key].probability == pytest.approx(answer.probability, abs=1e-9)
        assert dict(after[key].rivals) == pytest.approx(dict(answer.rivals), abs=1e-9)


@lawful
@given(worlds, st.integers(0, 100))
def test_an_identical_rival_undoes_a_link(world: World, pick: int) -> None:
    before = linked(link(world.findings, world.lesions))
    if not before:
        return
    said, held = sorted(before.items())[pick % len(before)]
    (original,) = [item for item in world.lesions if item.lesion_id == held]
    twin = lesion("twin", *original.annotations)
    after = answer_of(link(world.findings, [*world.lesions, twin]), said)
    assert after.decision is not Decision.LINKED
    assert after.probability <= 0.5 + 1e-9


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
    np.testing.assert_allclose(pair_probabilities(log_odds), enumerate_matchings(log_odds), atol=1e-9)


@settings(max_examples=40, deadline=None)
@given(matrices, st.integers(2, 9), st.integers(2, 9))
def test_approximation_of_large_components_stays_close(rng: np.random.Generator, n: int, m: int) -> None:
    log_odds = np.clip(rng.normal(-1, 4, (n, m)), -8.5, 12)
    exact, approximate = pair_probabilities(log_odds), pair_probabilities(log_odds, exact_side=0)
    assert np.abs(approximate - exact).max() < 0.12
    assert (approximate.sum(axis=0) <= 1 + 1e-6).all()
    assert (approximate.sum(axis=1) <= 1 + 1e-6).all()
    assert (exact[approximate >= LinkConfig().linked] > 0.9).all()


def test_approximation_is_exact_on_a_chain() -> None:
    log_odds = np.full((5, 5), -np.inf)
    for i in range(5):
        log_odds[i, i] = 1.5 - 0.4 * i
        if i:
            log_odds[i, i - 1] = 2.0
    np.testing.assert_allclose(
        pair_probabilities(log_odds, exact_side=0), pair_probabilities(log_odds), rtol=0, atol=1e-6
    )


def test_a_large_report_of_equal_sizes_is_withheld() -> None:
    findings = [finding(f"f{i:02}", size(8)) for i in range(25)]
    lesions = [line(f"L{i:02}", 8) for i in range(25)]
    answers = link(findings, lesions)
    assert linked(answers) == {}
    assert {a.decision for a in answers if a.finding_id is not None} == {Decision.AMBIGUOUS}


# ---- simulation


@dataclass(frozen=True)
class Score:
    precision: float
    recall: float
    calibration_error: float


def score(reports: int, config: LinkConfig | None = None, *, seed: int = 0, **facts: float) -> Score:
    """Of LINKED findings the right ones; of linkable findings the linked ones; expected calibration error in tenths."""
    rng = np.random.default_rng(seed)
    right = held = linkable = 0
    believed, was_right = [], []
    for _ in range(reports):
        world = simulate(rng, **facts)  # type: ignore[arg-type]
        linkable += len(world.truth)
        for answer in link(world.findings, world.lesions, config):
            if answer.finding_id is None:
                continue
            best = answer.lesion_id or (answer.rivals[0][0] if answer.rivals else None)
            is_right = best is not None and world.truth.get(answer.finding_id) == best
            believed.append(answer.probability)
            was_right.append(is_right)
            held += answer.decision is Decision.LINKED
            right += is_right and answer.decision is Decision.LINKED
    p, y = np.array(believed), np.array(was_right, dtype=float)
    tenth = np.minimum((10 * p).astype(int), 9)
    error = sum(abs(p[tenth == k].mean() - y[tenth == k].mean()) * (tenth == k).mean() for k in np.unique(tenth))
    return Score(right / held, right / linkable, float(error))


# Floors under the table in the docstring of cohort_builder.linking, with room for 400 reports instead of 2,000.
@pytest.mark.parametrize(
    ("facts", "precision", "recall"),
    [
        ({"noise": 0.0}, 0.975, 0.42),
        ({"noise": 0.3}, 0.975, 0.36),
        ({"noise": 0.7}, 0.95, 0.24),
        ({"noise": 0.3, "sides": 0.6}, 0.98, 0.45),
        ({"noise": 0.3, "images": 0.5}, 0.985, 0.70),
        ({"noise": 0.3, "images": 0.9}, 0.99, 0.88),
        ({"noise": 0.7, "images": 0.5, "sides": 1.0}, 0.98, 0.64),
    ],
    ids=str,
)
def test_precision_before_recall(facts: dict[str, float], precision: float, recall: float) -> None:
    result = score(400, seed=1, **facts)
    assert result.precision >= precision
    assert result.recall >= recall
    assert result.calibration_error <= 0.04


def test_a_hospital_with_references_and_sides() -> None:
    result = score(1000, seed=2, noise=0.0, images=0.5, sides=1.0, most=6)
    assert result.precision >= 0.99
    assert result.recall >= 0.8


def test_a_higher_threshold_trades_recall_for_precision() -> None:
    loose, strict = (score(300, LinkConfig(linked=t), seed=3, noise=0.7) for t in (0.6, 0.97))
    assert strict.precision > loose.precision + 0.05
    assert strict.recall < loose.recall


# ---- what an organ says of the side, and a pair of the length ------------------------------------------------------


@pytest.mark.parametrize(
    ("anatomy", "said", "lies", "is_linked"),
    [
        ("spleen", None, Side.RIGHT, False),
        ("spleen", None, Side.LEFT, True),
        ("liver segment 6", None, Side.LEFT, False),
        ("liver segment 2", None, Side.LEFT, True),
        ("gallbladder", None, Side.LEFT, False),
        ("gallbladder", None, Side.MIDLINE, True),
        ("left liver lobe", Laterality.LEFT, Side.RIGHT, True),  # it crosses the midline
        ("right liver lobe", Laterality.RIGHT, Side.LEFT, False),
    ],
)
def test_an_organ_of_one_side_is_not_linked_on_the_other(anatomy, said, lies, is_linked):
    one = replace(finding("f", size(12), side=said), anatomy=anatomy)
    answers = link([one], [line("A", 12.0, side=lies)])
    assert bool(linked(answers)) == is_linked


def test_a_single_length_says_less_of_a_lesion_with_two_drawn_axes():
    pair = lesion("A", drawn("A", 15.2, 11.0))
    assert "axes" not in answer_of(link([finding("f", size(15, 11))], [pair]), "f").evidence
    assert "axes" not in answer_of(link([finding("f", size(11, axis=Axis.SHORT))], [pair]), "f").evidence
    assert "axes" not in answer_of(link([finding("f", size(15))], [line("A", 15.2)]), "f").evidence
    alone = answer_of(link([finding("f", size(15))], [pair]), "f")
    assert alone.evidence["axes"] == LinkConfig().one_of_pair < 0
    assert alone.decision is Decision.AMBIGUOUS
    assert linked(link([finding("f", size(15), images=IMAGE_1)], [pair])) == {"f": "A"}


# ---- several reports of one study ----------------------------------------------------------------------------------


def two_reports(first: dict, second: dict) -> list[dict[str, str]]:
    """What stays linked when both reports say 12 mm of the one lesion that was drawn."""
    drawn_once = line("A", 12.0)
    reports = []
    for name, facts in (("f", first), ("g", second)):
        findings = [replace(finding(name, size(12)), **facts)]
        reports.append((findings, link(findings, [drawn_once])))
        assert linked(reports[-1][1]) == {name: "A"}
    answers = withhold_contradictions(reports)
    for (findings, _), kept in zip(reports, answers, strict=True):
        assert [one.finding_id for one in kept if one.finding_id] == [f.finding_id for f in findings]
        assert {one.lesion_id for one in kept if one.lesion_id} == {"A"}
    return [linked(list(kept)) for kept in answers]


def test_two_reports_that_say_different_things_of_one_lesion_are_withheld():
    assert two_reports({"anatomy": "left upper lobe"}, {"anatomy": "liver segment 4"}) == [{}, {}]
    assert two_reports({"laterality": Laterality.LEFT}, {"laterality": Laterality.RIGHT}) == [{}, {}]
    assert two_reports({"anatomy": "left kidney"}, {"anatomy": "left adrenal"}) == [{}, {}]


def test_two_reports_that_agree_on_one_lesion_stay_linked():
    both = [{"f": "A"}, {"g": "A"}]
    assert two_reports({"anatomy": "left upper lobe"}, {"anatomy": "left upper lobe apex"}) == both
    assert two_reports({"anatomy": "left upper lobe"}, {"laterality": Laterality.LEFT}) == both
