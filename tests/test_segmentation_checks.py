"""Believability of a mask, without a truth: each fault raises its flag, a good mask raises none."""

from __future__ import annotations

import numpy as np
import pytest
import scipy.ndimage as ndi
from hypothesis import given, settings
from hypothesis import strategies as st
from lesions import lesion_in_tissue, make_volume

from segmentation import (
    Arrow,
    Bidimensional,
    Box,
    Line,
    MaskPrompt,
    Points,
    SegmentationJob,
    check_mask,
    load_segmenter,
)
from segmentation.believability import BELIEVABLE, CHECKS, ENGINE, raised
from segmentation.checks import NOT_CALIBRATED, evidence, measure
from segmentation.prompts import draw_arrow, draw_bidimensional, draw_line
from segmentation.tiers import DOUBTS, KINDS, EngineFit, KindFit, TierTable
from segmentation.types import mask_from_volume

SPACING = (2.5, 0.8, 0.8)
SHAPE = (40, 120, 120)
CENTRE = (20, 60, 60)

TRUSTED = TierTable(
    (EngineFit("test", "1", {kind: KindFit(5.0, {"flags": 8.0}, 0.5, {}) for kind in KINDS.values()}, "by hand"),)
)
"""An engine whose masks are good unless a flag says otherwise: what the flags do is seen alone."""


def ball(radius_mm=12.0, centre=CENTRE, stretch_z=1.0, shape=SHAPE):
    z, y, x = (
        (np.arange(n).reshape([-1 if i == axis else 1 for i in range(3)]) - centre[axis]) * SPACING[axis]
        for axis, n in enumerate(shape)
    )
    return (x**2 + y**2 + (z / stretch_z) ** 2) < radius_mm**2


def line(length_mm=22.0, *, at=CENTRE, k=None):
    half = length_mm / 2 / SPACING[2]
    return Line(at[0] if k is None else k, (at[2] - half, float(at[1])), (at[2] + half, float(at[1])))


def verdict(voxels, *prompts, flags=(), confidence=0.9, lesion=None):
    """Judge ``voxels`` where ``lesion`` (by default the same) stands out of its surroundings by 80 HU."""
    volume = seen(voxels if lesion is None else lesion)
    mask = mask_from_volume("a", voxels, "test@1", flags=flags, confidence=confidence)
    return check_mask(mask, SegmentationJob("a", volume, prompts or (line(),)), TRUSTED)


def seen(lesion, contrast_hu=80.0, noise_hu=10.0):
    noise = np.random.default_rng(0).normal(0, noise_hu, lesion.shape)
    return make_volume(40 + contrast_hu * lesion + noise, SPACING)


def test_a_ball_on_its_own_line_is_believed():
    quality = verdict(ball())
    assert quality.tier == "A"
    assert quality.flags == ()
    assert quality.score > 0.9
    assert quality.volume_mm3 == pytest.approx(4 / 3 * np.pi * 12**3, rel=0.03)
    assert quality.recist_mm == pytest.approx(24, abs=1.2)


@pytest.mark.parametrize(
    ("voxels", "prompts", "flag", "tier"),
    [
        (ball(15.5), (line(22),), "length_disagrees", "B"),
        (ball(25), (line(22),), "length_wrong", "C"),
        (ball(5), (line(22),), "length_wrong", "C"),
        (ball(), (line(at=(20, 60, 66)),), "ends_off_rim", "B"),
        (ball(), (line(at=(20, 90, 90)),), "centre_outside", "C"),
        (ball(), (line(k=35),), "prompt_slice_empty", "C"),
        (ball(stretch_z=2.4), (line(),), "leak_z", "B"),
        (ball(22), (line(),), "leak_volume", "C"),
        (ball(centre=(2, 60, 60)), (line(at=(2, 60, 60)),), "border", "B"),
        (ball(centre=(20, 60, 5)), (line(at=(20, 60, 5)),), "border", None),
        (ball() | ball(6, (20, 100, 100)), (line(),), "islands", None),
        (ball(), (line(), line(at=(20, 100, 100))), "misses_other_prompt", "B"),
        (ball(), (Arrow(20, (60.0, 10.0), (60.0, 20.0)),), "far_from_arrow", "C"),
        (ball(), (Arrow(2, (60.0, 10.0), (60.0, 43.0)),), "prompt_slice_empty", "C"),
    ],
)
def test_each_fault_raises_its_flag(voxels, prompts, flag, tier):
    quality = verdict(voxels, *prompts)
    assert flag in quality.flags
    assert quality.tier == tier or tier is None
    assert quality.tier != "A"
    assert quality.score < verdict(ball()).score


def test_a_good_arrow_and_a_second_good_line_raise_nothing():
    assert verdict(ball(), Arrow(20, (60.0, 20.0), (60.0, 43.0))).tier == "A"
    assert verdict(ball(), line(), line(20, at=(21, 61, 60))).tier == "A"


def test_the_short_axis_is_checked_as_well():
    pair = Bidimensional(20, ((46.0, 60.0), (74.0, 60.0)), ((60.0, 58.0), (60.0, 62.0)))
    assert "short_axis_wrong" in verdict(ball(), pair).flags
    assert verdict(ball(), pair).tier == "C"
    wider = Bidimensional(20, ((46.0, 60.0), (74.0, 60.0)), ((60.0, 51.0), (60.0, 69.0)))
    assert verdict(ball(), wider).flags == ("ends_off_rim", "short_axis_disagrees")
    drawn = Bidimensional(20, ((46.0, 60.0), (74.0, 60.0)), ((60.0, 47.5), (60.0, 72.5)))
    assert verdict(ball(), drawn).tier == "A"


def test_a_slice_that_floods_is_an_area_jump():
    voxels = ball()
    voxels[23, 20:100, 20:100] = True
    assert "area_jump" in verdict(voxels).flags
    assert "area_jump" not in verdict(ball()).flags


@pytest.mark.parametrize(("confidence", "flag", "tier"), [(0.7, "low_confidence", "B"), (0.3, "no_evidence", "C")])
def test_the_engines_own_doubt_counts(confidence, flag, tier):
    quality = verdict(ball(), confidence=confidence)
    assert flag in quality.flags
    assert quality.tier == tier


def test_the_engines_flags_are_kept():
    assert "sheared_grid" in verdict(ball(), flags=("sheared_grid",)).flags
    assert verdict(ball(), flags=("sheared_grid",)).tier == "A"
    assert verdict(ball(), flags=("z_limit",)).tier == "B"


def test_no_confidence_is_no_fault():
    assert verdict(ball(), confidence=None).tier == "A"


def test_lines_as_radiologists_draw_them_agree_with_the_true_mask():
    """The truth itself must pass, or the thresholds are wrong."""
    tiers = []
    for seed in range(24):
        volume, truth = lesion_in_tissue(seed=seed, radius_mm=6 + seed % 12)
        draw = draw_line if seed % 2 else draw_bidimensional
        prompt = draw(truth, np.random.default_rng(seed), spacing_mm=volume.spacing_mm)
        mask = mask_from_volume("a", truth, "test@1", confidence=0.9)
        tiers.append(check_mask(mask, SegmentationJob("a", volume, (prompt,)), TRUSTED).tier)
    assert "C" not in tiers
    assert tiers.count("A") >= 16


def test_tiers_separate_good_masks_from_bad_ones():
    """Measured on the engine: a line on nothing is not believed as often as one on a lesion."""
    tiers = {"lesion": [], "nothing": []}
    for seed in range(8):
        volume, truth = lesion_in_tissue(seed=seed, contrast_hu=90)
        prompt = draw_line(truth, np.random.default_rng(seed), spacing_mm=volume.spacing_mm)
        nothing, _ = lesion_in_tissue(seed=seed, contrast_hu=0)
        for name, image in (("lesion", volume), ("nothing", nothing)):
            job = SegmentationJob("a", image, (prompt,))
            (mask,) = load_segmenter().segment([job])
            tiers[name].append(check_mask(mask, job).tier)
    assert tiers["lesion"].count("A") >= 6
    assert tiers["nothing"].count("A") <= 2


def test_a_leak_beside_the_line_is_seen_although_its_ends_lie_on_the_rim():
    z, y, x = np.ogrid[: SHAPE[0], : SHAPE[1], : SHAPE[2]]
    beside = (abs(z - CENTRE[0]) < 5) & (y >= CENTRE[1]) & (y < CENTRE[1] + 34) & (abs(x - CENTRE[2]) < 14)
    quality = verdict(ball() | beside)
    assert quality.flags == ("wider_than_line",)
    assert quality.tier == "B"
    assert verdict(ball(centre=CENTRE, radius_mm=12) | (beside | np.roll(beside, 26, axis=1))).tier == "C"


def test_a_line_on_the_short_axis_of_a_node_is_no_fault_of_the_mask():
    """Nodes are measured by their short axis alone: the mask is longer than the line, and usable."""
    z, y, x = np.ogrid[: SHAPE[0], : SHAPE[1], : SHAPE[2]]
    across = ((x - CENTRE[2]) * SPACING[2] / 11) ** 2 + ((z - CENTRE[0]) * SPACING[0] / 11) ** 2
    node = across + ((y - CENTRE[1]) * SPACING[1] / 20) ** 2 < 1
    assert verdict(node, line(20.0)).tier == "B"


def test_a_mask_of_one_slice_of_a_large_lesion_is_flat():
    one = ball()
    one[: CENTRE[0]] = one[CENTRE[0] + 1 :] = False
    assert verdict(one).flags == ("flat",)
    small = ball(radius_mm=4.0)
    small[: CENTRE[0]] = small[CENTRE[0] + 1 :] = False
    assert verdict(small, line(7.0)).tier == "A"  # thick slices hold it whole


@pytest.mark.parametrize(
    ("flag", "tier"),
    [
        ("stopped_area_jump", "B"),
        ("stopped_drift", "B"),
        ("stopped_flood", "B"),
        ("pieces_dropped", "B"),
        ("z_limit", "B"),
        ("crop_limit", "B"),
    ],
)
def test_an_engine_that_gave_up_asks_for_review(flag, tier):
    quality = verdict(ball(), flags=(flag,))
    assert (quality.flags, quality.tier, quality.verdict) == ((flag,), tier, "review")


def test_two_reasons_to_give_up_are_no_mask_to_believe():
    assert verdict(ball(), flags=("stopped_flood", "stopped_drift")).verdict == "reject"
    assert verdict(ball(), flags=("stopped_drift", "stopped_area_jump")).verdict == "reject"


def test_a_line_that_leaves_the_mask_is_seen_where_its_ends_and_middle_are_inside():
    notched = ball()
    notched[:, :, 50:57] = notched[:, :, 64:68] = False
    values = measured(notched, line())
    assert values["centre_inside"] == 1
    assert values["length"] == pytest.approx(measured(ball(), line())["length"])
    assert values["line_inside"] == pytest.approx(1 - 11 * SPACING[2] / 22, abs=0.03)
    assert "line_outside" in verdict(notched, lesion=ball()).flags
    assert measured(ball(), line())["line_inside"] == 1


def measured(voxels, *prompts, volume=None):
    mask = mask_from_volume("a", voxels, "test@1")
    return measure(mask, SegmentationJob("a", volume or seen(voxels), prompts))


def test_the_rim_of_a_mask_that_is_too_large_is_unlike_its_core():
    """An arrow says nothing of the size: only the image can tell."""
    arrow = Arrow(20, (60.0, 20.0), (60.0, 43.0))
    assert verdict(ball(), arrow).tier == "A"
    too_large = verdict(ball(20.0), arrow, lesion=ball())
    assert "rim_unlike_core" in too_large.flags
    assert too_large.tier == "C"


def test_a_mask_that_stops_inside_the_lesion_is_not_separate():
    arrow = Arrow(20, (60.0, 20.0), (60.0, 43.0))
    inside = verdict(ball(6.0), arrow, lesion=ball(16.0))
    assert "not_separate" in inside.flags
    assert inside.tier == "C"


def test_what_ct_does_not_show_is_reviewed_with_a_measurement_and_rejected_without():
    nothing = np.zeros(SHAPE, dtype=bool)
    assert verdict(ball(), lesion=nothing).flags == ("not_separate",)
    assert verdict(ball(), lesion=nothing).tier == "B"
    assert verdict(ball(), Arrow(20, (60.0, 20.0), (60.0, 43.0)), lesion=nothing).tier == "C"


def test_a_dark_core_within_a_bright_rim_is_separate():
    """Necrosis: neither part is like the surroundings, and none is taken for them."""
    necrotic = seen(ball()).voxels - 120 * ball(7.0).astype(np.int16)
    assert measured(ball(), line(), volume=make_volume(necrotic, SPACING))["separation"] > 0.9


def test_separation_is_a_half_without_contrast_and_one_with_much():
    for contrast, least, most in ((0.0, 0.4, 0.65), (15.0, 0.75, 0.95), (200.0, 0.99, 1.0)):
        assert least <= measured(ball(), line(), volume=seen(ball(), contrast))["separation"] <= most


def test_a_mask_that_fills_the_volume_has_nothing_around_it():
    whole = np.ones((3, 12, 12), dtype=bool)
    values = measured(whole, line(6.0, at=(1, 6, 6)), volume=make_volume(np.zeros(whole.shape), SPACING))
    assert "separation" not in values
    assert values["border_distance"] == 0


def test_the_leak_is_held_against_the_short_axis_where_one_was_drawn():
    """As long as the long axis in every direction: a sphere on the line, and far too much beside a narrow pair."""
    pair = Bidimensional(20, ((46.0, 60.0), (74.0, 60.0)), ((60.0, 56.0), (60.0, 64.0)))
    alone, narrow = measured(ball(), line()), measured(ball(), pair)
    assert alone["volume"] == pytest.approx((24 / 23.1) ** 3, rel=0.05)
    assert narrow["volume"] > 2.5 * alone["volume"]
    assert "leak_volume" in verdict(ball(15.0), pair).flags


@pytest.mark.parametrize(
    ("prompt", "flag", "tier"),
    [
        (Points(20, ((60.0, 60.0), (90.0, 60.0)), (1, 0)), None, "A"),
        (Points(20, ((60.0, 60.0), (66.0, 60.0), (90.0, 60.0)), (1, 0, 0)), "click_disagrees", "B"),
        (Points(20, ((90.0, 60.0),), (1,)), "clicks_wrong", "C"),
        (Points(2, ((60.0, 60.0),), (1,)), "prompt_slice_empty", "C"),
        (Box(20, (45.0, 45.0), (75.0, 75.0)), None, "A"),
        (Box(20, (40.0, 40.0), (80.0, 80.0)), "box_disagrees", "B"),
        (Box(20, (80.0, 80.0), (110.0, 110.0)), "box_wrong", "C"),
        (MaskPrompt(20, ball()[20]), None, "A"),
        (MaskPrompt(20, ball(8.0)[20]), "outline_disagrees", "B"),
        (MaskPrompt(20, ball(4.0)[20]), "outline_wrong", "C"),
    ],
)
def test_clicks_boxes_and_outlines_are_to_be_obeyed(prompt, flag, tier):
    quality = verdict(ball(), prompt)
    assert quality.tier == tier
    assert quality.flags == (() if flag is None else (flag,))


def test_every_row_of_the_table_has_a_source_and_harsher_rows_have_wider_limits():
    for check in CHECKS:
        assert check.source
        assert 0 < check.penalty <= 1
        for other in CHECKS:
            if check.measure == other.measure != ENGINE and other.penalty > check.penalty:
                assert other.least <= check.least
                assert other.most >= check.most


def test_every_measure_has_a_limit_and_every_limit_a_measure():
    """A number that nothing judges, or a limit that nothing reaches, is a mistake."""
    pair = Bidimensional(20, ((46.0, 60.0), (74.0, 60.0)), ((60.0, 48.0), (60.0, 72.0)))
    others = (
        Arrow(20, (60.0, 20.0), (60.0, 43.0)),
        Points(20, ((60.0, 60.0),), (1,)),
        Box(20, (45.0, 45.0), (75.0, 75.0)),
        MaskPrompt(20, ball()[20]),
    )
    mask = mask_from_volume("a", ball(), "test@1", confidence=0.9)
    jobs = [
        SegmentationJob("a", seen(ball()), prompts) for prompts in ((pair, line()), *((other,) for other in others))
    ]
    assert {name for job in jobs for name in measure(mask, job)} == {c.measure for c in CHECKS} - {ENGINE}


MEASURES = sorted({check.measure for check in CHECKS} - {ENGINE})


@given(
    st.dictionaries(st.sampled_from(MEASURES), st.floats(-5, 50)),
    st.sets(st.sampled_from([*(check.flag for check in CHECKS), "sheared_grid"])),
)
def test_no_more_than_one_row_of_a_measure_is_raised_and_the_harshest(values, engine_flags):
    found = raised(values, engine_flags)
    expected = dict.fromkeys(engine_flags - {"sheared_grid"})
    for name, value in values.items():
        failed = [c for c in CHECKS if c.measure == name and not c.least <= value <= c.most]
        if failed:
            expected[max(failed, key=lambda c: c.penalty).flag] = None
    assert set(found) == set(expected)


@settings(max_examples=30)
@given(
    st.integers(-6, 6),
    st.integers(-24, 24),
    st.floats(5, 22),
    st.sets(st.sampled_from(["z_limit", "pieces_dropped", "stopped_flood", "sheared_grid"])),
    st.none() | st.floats(0, 1),
)
def test_verdict_and_tier_are_one_partition_and_the_score_is_a_share(dz, dx, radius, flags, confidence):
    voxels = ball(radius, (20 + dz, 60, 60 + dx))
    quality = verdict(voxels, flags=tuple(flags), confidence=confidence, lesion=ball())
    assert quality.verdict == {"A": "accept", "B": "review", "C": "reject"}[quality.tier]
    assert 0 <= quality.score <= 1
    table = {check.flag for check in CHECKS}
    assert (quality.tier == "A") == (not table & set(quality.flags))
    assert quality.score < BELIEVABLE or quality.tier != "C"
    assert flags <= set(quality.flags)


@pytest.mark.parametrize("fault", ["grown", "moved", "shrunk"])
@pytest.mark.parametrize("draw", [draw_line, draw_bidimensional, draw_arrow])
def test_a_true_mask_that_is_spoilt_badly_is_never_accepted(fault, draw):
    for seed in range(3):
        volume, truth = lesion_in_tissue(seed=seed, radius_mm=12)
        prompt = draw(truth, np.random.default_rng(seed), spacing_mm=volume.spacing_mm)
        depth = ndi.distance_transform_edt(truth, volume.spacing_mm)
        spoilt = {
            "grown": ndi.distance_transform_edt(~truth, volume.spacing_mm) < 7,
            "moved": np.roll(truth, 14, axis=2),
            "shrunk": depth > 0.6 * depth.max(),
        }[fault]
        mask = mask_from_volume("a", spoilt, "test@1")
        assert check_mask(mask, SegmentationJob("a", volume, (prompt,)), TRUSTED).tier != "A"


def test_without_a_fit_nothing_is_accepted_and_the_row_says_so():
    job = SegmentationJob("a", seen(ball()), (line(),))
    for engine in ("unheard@1", "test@2"):
        quality = check_mask(mask_from_volume("a", ball(), engine, confidence=0.9), job, TRUSTED)
        assert (quality.tier, quality.flags) == ("B", (NOT_CALIBRATED,))
        assert quality.score > 0.9
        far = check_mask(mask_from_volume("a", ball(25), engine, confidence=0.9), job, TRUSTED)
        assert far.tier == "C"
        assert far.score < quality.score
    only_arrows = TierTable((EngineFit("test", "1", {"arrow": KindFit(5.0, {}, 0.5, {})}, "by hand"),))
    assert check_mask(mask_from_volume("a", ball(), "test@1"), job, only_arrows).tier == "B"


def test_the_score_is_the_fitted_probability_and_the_threshold_decides():
    job = SegmentationJob("a", seen(ball()), (line(),))
    mask = mask_from_volume("a", ball(), "test@1", confidence=0.86)
    probability = 1 / (1 + np.exp(-(3.0 - 0.2 * 4.0)))  # the doubt is a fifth of the way from 1 to 0.3
    for accept, tier in ((probability - 0.001, "A"), (probability + 0.001, "B"), (None, "B")):
        fit = KindFit(3.0, {"engine_doubts": 4.0}, accept, {})
        quality = check_mask(mask, job, TierTable((EngineFit("test", "1", {"line": fit}, "by hand"),)))
        assert quality.score == pytest.approx(probability)
        assert (quality.tier, quality.flags) == (tier, ())


def test_every_doubt_is_of_a_measure_that_is_taken():
    mask = mask_from_volume("a", ball(), "test@1", confidence=0.9, slice_stability=(0.9,) * SHAPE[0])
    names = set(evidence(mask, seen(ball()))) | {"penalties"}
    names |= {check.measure.removesuffix("_unmeasured") for check in CHECKS}
    assert {doubt.measure for doubt in DOUBTS} <= names
    assert len({doubt.name for doubt in DOUBTS}) == len(DOUBTS)
