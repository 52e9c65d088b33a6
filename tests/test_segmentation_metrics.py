"""Metrics against closed forms, SimpleITK and MONAI."""

from __future__ import annotations

import itertools

import numpy as np
import pytest
import scipy.ndimage as ndi
import SimpleITK as sitk  # noqa: N813 - the name its own documentation uses
from hypothesis import given, settings
from hypothesis import strategies as st
from hypothesis.extra.numpy import arrays
from lesions import lesion_in_tissue
from scipy.stats import rankdata

from segmentation import SegmentationFailure, SegmentationJob, load_segmenter, simulate_prompt
from segmentation.evaluation import EvaluationCase, evaluate, format_table
from segmentation.metrics import (
    bootstrap_ci,
    dice,
    dice_by_distance,
    extent_mm,
    hausdorff95_mm,
    long_and_short_diameter,
    longest_diameter_mm,
    normalised_surface_dice,
    recist_error,
    volume_error,
    wilcoxon_over_categories,
)
from segmentation.types import mask_from_volume

SPACING = (2.5, 0.7, 0.9)
masks = arrays(bool, (4, 7, 6))


def disc(radius_px=12, shape=(41, 41)):
    row, column = np.indices(shape)
    return (row - shape[0] // 2) ** 2 + (column - shape[1] // 2) ** 2 <= radius_px**2


def as_image(mask):
    image = sitk.GetImageFromArray(mask.astype(np.uint8))
    image.SetSpacing(SPACING[::-1])
    return image


@settings(max_examples=40, deadline=None)
@given(masks, masks)
def test_dice_and_volume_agree_with_simpleitk(first, second):
    first[0, 0, 0] = second[0, 0, 0] = True
    reference = sitk.LabelOverlapMeasuresImageFilter()
    reference.Execute(as_image(first), as_image(second))
    assert dice(first, second) == pytest.approx(reference.GetDiceCoefficient())
    assert dice(first, second) == dice(second, first)
    # its similarity is 2 (source - target) / (source + target)
    similarity = reference.GetVolumeSimilarity()
    assert volume_error(first, second) == pytest.approx((2 + similarity) / (2 - similarity) - 1)


@settings(max_examples=40, deadline=None)
@given(masks)
def test_longest_diameter_agrees_with_all_pairs(mask):
    expected = 0.0
    for section in mask:
        rows, columns = np.nonzero(section)
        for r0, c0 in zip(rows, columns, strict=True):
            x, y = (columns - c0) * SPACING[2], (rows - r0) * SPACING[1]
            expected = max(expected, np.hypot(x, y).max() + _pixel(x, y))
    assert longest_diameter_mm(mask, SPACING) == pytest.approx(expected, abs=0.3)


def _pixel(x, y):
    far = np.hypot(x, y).argmax()
    length = np.hypot(x[far], y[far])
    return SPACING[2] if length == 0 else np.hypot(x[far] / length * SPACING[2], y[far] / length * SPACING[1])


def test_diameters_of_a_rectangle_include_its_pixels():
    mask = np.zeros((3, 20, 20), bool)
    mask[1, 5, 3:13] = True
    assert longest_diameter_mm(mask, SPACING) == pytest.approx(10 * 0.9)
    assert extent_mm(mask[1], (0, 1), SPACING) == pytest.approx(0.7)
    found = long_and_short_diameter(mask, SPACING)
    assert (found.long_mm, found.short_mm, found.slice_index) == pytest.approx((9.0, 0.7, 1))


def test_longest_diameter_is_in_the_plane():
    tall = np.zeros((30, 9, 9), bool)
    tall[:, 4, 4:6] = True
    assert longest_diameter_mm(tall, SPACING) == pytest.approx(1.8)
    assert longest_diameter_mm(np.zeros((2, 3, 3), bool), SPACING) == 0


@pytest.mark.parametrize("angle", [0, 30, 45, 77, 90])
def test_extent_of_a_disc_is_its_diameter_in_every_direction(angle):
    direction = (np.cos(np.radians(angle)), np.sin(np.radians(angle)))
    assert extent_mm(disc(), direction, (1.0, 1.0)) == pytest.approx(25, abs=1.5)


def test_recist_error_is_a_fraction_of_the_truth():
    small, large = disc(8), disc(16)
    assert recist_error(small, large, (1, 1)) == pytest.approx(1 - 17 / 33)
    assert recist_error(large, large, (1, 1)) == 0


def test_hausdorff_agrees_with_simpleitk_on_shifted_boxes():
    first = np.zeros((9, 30, 30), bool)
    first[3:6, 8:14, 8:14] = True
    second = np.roll(first, 4, axis=2)
    reference = sitk.HausdorffDistanceImageFilter()
    reference.Execute(as_image(first), as_image(second))
    assert hausdorff95_mm(first, second, SPACING) <= reference.GetHausdorffDistance() + 1e-6
    assert hausdorff95_mm(first, second, SPACING) == pytest.approx(4 * 0.9)
    assert hausdorff95_mm(first, first, SPACING) == 0
    assert np.isnan(hausdorff95_mm(first, np.zeros_like(first), SPACING))


def test_masks_on_two_grids_are_refused():
    with pytest.raises(ValueError, match="one grid"):
        dice(np.ones((2, 2), bool), np.ones((2, 3), bool))


def test_empty_truth_has_no_relative_error():
    empty, full = np.zeros((2, 3, 3), bool), np.ones((2, 3, 3), bool)
    with pytest.raises(ValueError, match="empty"):
        volume_error(full, empty)
    with pytest.raises(ValueError, match="empty"):
        recist_error(full, empty, SPACING)
    assert dice(empty, empty) == 1


def test_bootstrap_interval_covers_as_often_as_it_says():
    rng = np.random.default_rng(0)
    intervals = [bootstrap_ci(rng.normal(0.7, 0.1, 40), n=400, seed=i) for i in range(200)]
    assert 0.88 < np.mean([i.low <= 0.7 <= i.high for i in intervals]) < 0.99


def test_pairing_removes_what_the_lesions_share():
    rng = np.random.default_rng(1)
    hardness = rng.normal(0.7, 0.2, 30)
    better = hardness + 0.05 + rng.normal(0, 0.01, 30)
    assert bootstrap_ci(better - hardness).low > 0.03
    assert bootstrap_ci(better).low < bootstrap_ci(hardness).high


def test_bootstrap_is_deterministic_and_refuses_nothing_and_nan():
    assert bootstrap_ci([0.1, 0.5, 0.9]) == bootstrap_ci([0.1, 0.5, 0.9])
    with pytest.raises(ValueError, match="at least one"):
        bootstrap_ci([])
    with pytest.raises(ValueError, match="finite"):
        bootstrap_ci([0.5, float("nan")])


# ---- surfaces

monai_warns_of_itself = pytest.mark.filterwarnings("ignore:monai.metrics.utils get_mask_edges:FutureWarning")


def as_monai(mask):
    import torch

    return torch.from_numpy(mask[None, None].astype(np.float32))


def spoiled(truth, seed):
    """Another reader's mask: shifted, swollen or shrunk, and rough."""
    rng = np.random.default_rng(seed)
    mask = np.roll(truth, rng.integers(-1, 2, 3) * (0, 2, 2), (0, 1, 2))
    rough = ndi.gaussian_filter(rng.standard_normal(truth.shape), 2) * 20
    distance = ndi.distance_transform_edt(mask) - ndi.distance_transform_edt(~mask)
    return distance + rough > rng.uniform(-1.5, 1.5)


@monai_warns_of_itself
@settings(max_examples=40, deadline=None)
@given(masks, masks)
def test_hausdorff_agrees_with_monai(first, second):
    monai = pytest.importorskip("monai.metrics")
    first[0, 0, 0] = second[0, 0, 0] = True
    expected = monai.compute_hausdorff_distance(
        as_monai(first), as_monai(second), include_background=True, percentile=95, spacing=list(SPACING)
    )
    assert hausdorff95_mm(first, second, SPACING) == pytest.approx(float(expected), rel=1e-5)


@monai_warns_of_itself
@pytest.mark.parametrize("spacing", [(1.0, 0.7, 0.7), (2.5, 0.8, 0.8), (5.0, 0.7, 0.9)])
@pytest.mark.parametrize("radius_mm", [5.0, 12.0])
def test_surface_dice_agrees_with_monai_on_lesions(spacing, radius_mm):
    """MONAI has the areas of the surface-distance package; voxels counted alike would be off by up to 0.2."""
    monai = pytest.importorskip("monai.metrics")
    for seed in range(3):
        truth = lesion_in_tissue(seed=seed, radius_mm=radius_mm, spacing_mm=spacing)[1]
        mask = spoiled(truth, seed)
        expected = monai.compute_surface_dice(
            as_monai(mask), as_monai(truth), [2.0], include_background=True, spacing=list(spacing), use_subvoxels=True
        )
        found = normalised_surface_dice(mask, truth, spacing)
        assert found == pytest.approx(float(expected), abs=0.01)
        assert 0.1 < found < 1


def test_surface_dice_and_hausdorff_of_the_surface_distance_packages_own_cases():
    """Its test file's figures: two voxels 2 mm apart, and two half spaces of which one is a voxel deeper."""
    first, second = np.zeros((2, 8, 8, 10), bool)
    first[4, 4, 4] = second[4, 4, 6] = True
    assert normalised_surface_dice(first, second, (3.0, 2.0, 1.0), tolerance_mm=1) == pytest.approx(0.5)
    assert hausdorff95_mm(first, second, (3.0, 2.0, 1.0)) == pytest.approx(2)

    first, second = np.zeros((2, 100, 100, 100), bool)
    first[:50] = second[:51] = True
    assert normalised_surface_dice(first, second, (2.0, 1.0, 1.0), tolerance_mm=1) == pytest.approx(0.836, abs=5e-4)
    assert hausdorff95_mm(first, second, (2.0, 1.0, 1.0)) == pytest.approx(2)


def test_surface_dice_of_a_shifted_cube_by_hand():
    """A cube of 20 mm shifted by 3 mm along x, at 2 mm.

    Far of each cube, in mm2: the side left behind 20 x 20, a strip 1 mm wide on four sides 4 x 20, and of the side
    inside the other cube what is not within 2 mm of that one's four sides, 16 x 16; of 6 x 20 x 20.
    """
    first = np.zeros((50, 50, 50), bool)
    first[5:45, 5:45, 4:44] = True
    second = np.roll(first, 6, axis=2)
    expected = 1 - (400 + 80 + 256) / 2400
    assert normalised_surface_dice(first, second, (0.5, 0.5, 0.5)) == pytest.approx(expected, abs=0.02)


@settings(max_examples=30, deadline=None)
@given(masks, masks, st.floats(0.5, 4))
def test_surface_dice_is_symmetric_has_no_unit_and_grows_with_the_tolerance(first, second, unit):
    one = normalised_surface_dice(first, second, SPACING)
    assert one == normalised_surface_dice(second, first, SPACING)
    assert 0 <= one <= 1
    assert one <= normalised_surface_dice(first, second, SPACING, tolerance_mm=4)
    scaled = tuple(unit * s for s in SPACING)
    # off the distances that occur, or rounding decides
    assert normalised_surface_dice(first, second, scaled, 2.0101 * unit) == pytest.approx(
        normalised_surface_dice(first, second, SPACING, 2.0101)
    )
    assert normalised_surface_dice(first, first, SPACING, 0) == 1


def test_surface_dice_of_nothing_and_of_one_slice():
    full, empty = np.ones((2, 3, 3), bool), np.zeros((2, 3, 3), bool)
    assert normalised_surface_dice(empty, empty, SPACING) == 1
    assert normalised_surface_dice(full, empty, SPACING) == normalised_surface_dice(empty, full, SPACING) == 0
    with pytest.raises(ValueError, match="2D"):
        normalised_surface_dice(full[0], full[0], SPACING)


# ---- by distance from the prompt


def test_dice_by_distance_by_hand():
    truth, mask = np.zeros((2, 6, 4, 4), bool)
    truth[1:5, :, :2] = True
    mask[2, :, :2] = mask[3, :, 1:3] = mask[0] = True  # whole, half, and beyond the lesion
    assert dice_by_distance(mask, truth, 3) == {-2: 0.0, -1: 1.0, 0: 0.5, 1: 0.0}
    assert list(dice_by_distance(mask, truth, 0)) == [1, 2, 3, 4]
    assert dice_by_distance(mask, np.zeros_like(truth), 3) == {}
    with pytest.raises(ValueError, match="2D"):
        dice_by_distance(mask[0], truth[0], 0)


@settings(max_examples=30, deadline=None)
@given(masks, masks, st.integers(0, 3))
def test_dice_by_distance_adds_up_to_the_dice_of_the_slices_with_truth(mask, truth, k):
    found = dice_by_distance(mask, truth, k)
    held = truth.any(axis=(1, 2))
    sizes = (mask.sum(axis=(1, 2)) + truth.sum(axis=(1, 2)))[held]
    assert [distance + k for distance in found] == list(np.flatnonzero(held))
    if held.any():
        assert np.average(list(found.values()), weights=sizes) == pytest.approx(dice(mask[held], truth[held]))


# ---- the paper's test


def categories(*differences):
    first = {str(i): [0.5 + d, 0.5 + d] for i, d in enumerate(differences)}
    return first, {name: [0.4, 0.6] for name in first}


@pytest.mark.parametrize(
    ("differences", "published"),
    [
        ((0.1, 0.12, 0.2, 0.15, 0.3, 0.17), 0.031),  # six gains: SAM2 and MedSAM2 with MCM, external
        ((-0.01, -0.04, 0.05, 0.06, 0.07, 0.08), 0.1562),  # ranks 1 and 2 lost: SAM2 (FT) with MCM, external
        ((-0.01, -0.03, -0.04, -0.05, 0.02, 0.06, 0.07, 0.08), 0.547),  # eight data sets, lost ranks 1 + 3 + 4 + 5
    ],
)
def test_wilcoxon_over_categories_has_the_papers_values(differences, published):
    assert wilcoxon_over_categories(*categories(*differences)) == pytest.approx(published, abs=6e-4)


@settings(max_examples=40, deadline=None)
@given(st.lists(st.integers(-9, 9).filter(bool), min_size=1, max_size=7, unique_by=abs))
def test_wilcoxon_over_categories_counts_all_signs(differences):
    """By its definition: the share of all signs of the ranks whose sum is as far from even as that found."""
    ranks = rankdata(np.abs(differences))
    sums = np.array([ranks @ signs for signs in itertools.product((0, 1), repeat=len(ranks))])
    found = ranks @ (np.array(differences) > 0)
    expected = np.mean(np.abs(sums - ranks.sum() / 2) >= abs(found - ranks.sum() / 2))
    first, second = categories(*(d / 20 for d in differences))
    assert wilcoxon_over_categories(first, second) == pytest.approx(expected)
    assert wilcoxon_over_categories(second, first) == pytest.approx(expected)


@pytest.mark.parametrize(
    ("first", "second", "message"),
    [
        ({}, {}, "same categories"),
        ({"lung": [1]}, {"liver": [1]}, "same categories"),
        ({"lung": []}, {"lung": [1]}, "'lung'"),
        ({"lung": [1]}, {"lung": [float("nan")]}, "finite"),
    ],
)
def test_wilcoxon_over_categories_refuses_what_it_cannot_pair(first, second, message):
    with pytest.raises(ValueError, match=message):
        wilcoxon_over_categories(first, second)


# ---- harness


def harness_cases(n=6, per_lesion=2):
    for seed in range(n):
        volume, truth = lesion_in_tissue(seed=seed, radius_mm=9, shape=(24, 72, 72))
        for k in range(per_lesion):
            prompt = simulate_prompt(truth, "line", np.random.default_rng(k), spacing_mm=volume.spacing_mm)
            job = SegmentationJob(f"{seed}.{k}", volume, (prompt,))
            yield EvaluationCase(f"lesion {seed}", job, mask_from_volume("t", truth, "truth@1") if k else truth)


class Never:
    name = "never"
    supports = frozenset()

    def segment(self, jobs):
        for job in jobs:
            yield SegmentationFailure(job.job_id, "unsupported_prompt")


def test_harness_counts_lesions_not_prompts_and_pairs_with_the_ellipsoid():
    engines = [load_segmenter("ellipsoid"), load_segmenter("classical"), Never()]
    scores = {score.engine: score for score in evaluate(harness_cases(), engines)}
    classical = scores["classical"]
    assert classical.lesions == 6
    assert len(classical.cases) == 12
    assert classical.dice.low <= classical.dice.mean <= classical.dice.high
    difference = classical.dice.mean - scores["ellipsoid"].dice.mean
    assert classical.dice_above_baseline.mean == pytest.approx(difference)
    assert scores["ellipsoid"].dice_above_baseline is None
    assert scores["never"].failures == 12
    assert scores["never"].dice.mean == 0
    table = format_table(scores.values())
    assert table.count("\n") == 4
    assert "| classical | 6 |" in table


def test_more_prompts_of_the_same_lesions_do_not_narrow_the_interval():
    few = evaluate(harness_cases(per_lesion=1), [load_segmenter("ellipsoid")])[0].dice
    same = [case for case in harness_cases(per_lesion=1) for _ in range(5)]
    many = evaluate(same, [load_segmenter("ellipsoid")])[0].dice
    assert many == few


def test_harness_refuses_an_empty_truth():
    case = next(harness_cases(1))
    empty = EvaluationCase("x", case.job, np.zeros(case.job.volume.voxels.shape, bool))
    with pytest.raises(ValueError, match="empty"):
        evaluate([empty], [load_segmenter("ellipsoid")])
