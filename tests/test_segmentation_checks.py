"""Believability of a mask, without a truth: each fault raises its flag, a good mask raises none."""

from __future__ import annotations

import numpy as np
import pytest
from lesions import lesion_in_tissue, make_volume

from segmentation import Arrow, Bidimensional, Line, SegmentationJob, check_mask, load_segmenter
from segmentation.prompts import draw_bidimensional, draw_line
from segmentation.types import mask_from_volume

SPACING = (2.5, 0.8, 0.8)
SHAPE = (40, 120, 120)
CENTRE = (20, 60, 60)


def ball(radius_mm=12.0, centre=CENTRE, stretch_z=1.0, shape=SHAPE):
    z, y, x = (
        (np.arange(n).reshape([-1 if i == axis else 1 for i in range(3)]) - centre[axis]) * SPACING[axis]
        for axis, n in enumerate(shape)
    )
    return (x**2 + y**2 + (z / stretch_z) ** 2) < radius_mm**2


def line(length_mm=22.0, *, at=CENTRE, k=None):
    half = length_mm / 2 / SPACING[2]
    return Line(at[0] if k is None else k, (at[2] - half, float(at[1])), (at[2] + half, float(at[1])))


def verdict(voxels, *prompts, flags=(), confidence=0.9):
    volume = make_volume(np.zeros(voxels.shape), SPACING)
    mask = mask_from_volume("a", voxels, "test@1", flags=flags, confidence=confidence)
    return check_mask(mask, SegmentationJob("a", volume, prompts or (line(),)))


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
        (ball(), (line(at=(20, 60, 69)),), "ends_off_rim", "B"),
        (ball(), (line(at=(20, 90, 90)),), "centre_outside", "C"),
        (ball(), (line(k=35),), "prompt_slice_empty", "C"),
        (ball(stretch_z=2.4), (line(),), "leak_z", "B"),
        (ball(22), (line(),), "leak_volume", "C"),
        (ball(centre=(2, 60, 60)), (line(at=(2, 60, 60)),), "border", "B"),
        (ball(centre=(20, 60, 5)), (line(at=(20, 60, 5)),), "border", None),
        (ball() | ball(6, (20, 100, 100)), (line(),), "islands", None),
        (ball(), (line(), line(at=(20, 100, 100))), "misses_other_prompt", "B"),
        (ball(), (Arrow(20, (60.0, 10.0), (60.0, 20.0)),), "far_from_arrow", "C"),
        (ball(), (Arrow(2, (60.0, 10.0), (60.0, 43.0)),), "far_from_arrow", "C"),
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
    assert "length_wrong" in verdict(ball(), pair).flags


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
        mask = mask_from_volume("a", truth, "truth@1", confidence=0.9)
        tiers.append(check_mask(mask, SegmentationJob("a", volume, (prompt,))).tier)
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
