"""Metrics against closed forms and SimpleITK; simulated prompts against the rules they are drawn by."""

from __future__ import annotations

import numpy as np
import pytest
import SimpleITK as sitk  # noqa: N813 - the name its own documentation uses
from hypothesis import given, settings
from hypothesis.extra.numpy import arrays
from lesions import lesion_in_tissue

from segmentation import SegmentationError, SegmentationFailure, SegmentationJob, load_segmenter, simulate_prompt
from segmentation.evaluate import EvaluationCase, evaluate, format_table
from segmentation.metrics import (
    bootstrap_ci,
    dice,
    extent_mm,
    hausdorff95_mm,
    long_and_short_diameter,
    longest_diameter_mm,
    paired_difference_ci,
    recist_error,
    volume_error,
)
from segmentation.prompts import ARROW_LENGTH_MM, draw_arrow, draw_bidimensional, draw_line
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
    assert paired_difference_ci(better, hardness).low > 0.03
    assert bootstrap_ci(better).low < bootstrap_ci(hardness).high


def test_bootstrap_is_deterministic_and_refuses_nothing_and_nan():
    assert bootstrap_ci([0.1, 0.5, 0.9]) == bootstrap_ci([0.1, 0.5, 0.9])
    with pytest.raises(ValueError, match="at least one"):
        bootstrap_ci([])
    with pytest.raises(ValueError, match="finite"):
        bootstrap_ci([0.5, float("nan")])


# ---- prompts


@pytest.fixture(scope="module")
def lesion():
    return lesion_in_tissue(radius_mm=11)


def ends_mm(start, end, spacing):
    return np.hypot((end[0] - start[0]) * spacing[2], (end[1] - start[1]) * spacing[1])


def on_rim(mask, k, point):
    column, row = (int(v) for v in point)
    assert (column, row) == point, "not a pixel centre"
    inside = mask[k, row, column]
    return inside and not mask[k, row - 1 : row + 2, column - 1 : column + 2].all()


@pytest.mark.parametrize(("training", "share"), [(False, 0.1), (True, 0.5)])
def test_line_is_one_of_the_longest_between_edge_pixel_centres(lesion, training, share):
    volume, truth = lesion
    areas = truth.sum(axis=(1, 2))
    for seed in range(20):
        line = simulate_prompt(
            truth, "line", np.random.default_rng(seed), spacing_mm=volume.spacing_mm, training=training
        )
        assert on_rim(truth, line.slice_index, line.start)
        assert on_rim(truth, line.slice_index, line.end)
        if not training:
            assert areas[line.slice_index] >= np.sort(areas)[-3]
        points = np.argwhere(truth[line.slice_index])
        rim = np.array([p for p in points if on_rim(truth, line.slice_index, (int(p[1]), int(p[0])))])
        pairs = np.hypot(*((rim[:, None] - rim[None]) * volume.spacing_mm[1:]).transpose(2, 0, 1))
        # the rim here counts diagonal neighbours too, so it holds a few more and shorter pairs
        limit = np.quantile(pairs[np.triu_indices(len(rim), 1)], 1 - share) * 0.97
        assert ends_mm(line.start, line.end, volume.spacing_mm) >= limit


def test_training_prompts_reach_every_slice_by_its_area(lesion):
    volume, truth = lesion
    slices = [
        simulate_prompt(
            truth, "line", np.random.default_rng(s), spacing_mm=volume.spacing_mm, training=True
        ).slice_index
        for s in range(80)
    ]
    assert len(set(slices)) > 4
    assert all(truth[k].any() for k in slices)


def test_pair_crosses_nearly_at_a_right_angle(lesion):
    volume, truth = lesion
    for seed in range(20):
        pair = simulate_prompt(truth, "bidimensional", np.random.default_rng(seed), spacing_mm=volume.spacing_mm)
        scale = np.array([volume.spacing_mm[2], volume.spacing_mm[1]])
        a, b = np.array(pair.long_axis) * scale, np.array(pair.short_axis) * scale
        u, v = a[1] - a[0], b[1] - b[0]
        cosine = abs(u @ v) / np.linalg.norm(u) / np.linalg.norm(v)
        assert cosine < np.sin(np.radians(10.1))
        s, t = np.linalg.solve(np.column_stack([u, -v]), b[0] - a[0])
        assert 0 <= s <= 1
        assert 0 <= t <= 1


def test_arrow_points_at_the_centroid_from_outside(lesion):
    volume, truth = lesion
    for seed in range(30):
        arrow = simulate_prompt(truth, "arrow", np.random.default_rng(seed), spacing_mm=volume.spacing_mm)
        scale = np.array([volume.spacing_mm[2], volume.spacing_mm[1]])
        head, tail = np.array(arrow.head) * scale, np.array(arrow.tail) * scale
        centroid = np.argwhere(truth[arrow.slice_index]).mean(axis=0)[::-1] * scale
        assert np.linalg.norm(head - tail) == pytest.approx(ARROW_LENGTH_MM)
        along = (centroid - head) / np.linalg.norm(centroid - head)
        assert (head - tail) @ along / ARROW_LENGTH_MM >= np.cos(np.radians(15)) - 1e-9
        distance = np.linalg.norm(head - centroid)
        assert distance <= 1.5 * 1.3 * 11 + 1
        assert distance >= 0.6 * 11


@pytest.mark.parametrize("kind", ["line", "bidimensional", "arrow"])
@pytest.mark.parametrize("spot", [[(3, 3)], [(3, 3), (3, 4)], [(3, 3), (4, 4)], [(3, 2), (3, 3), (3, 4)]])
def test_masks_of_a_few_pixels_have_prompts(kind, spot):
    mask = np.zeros((8, 8), bool)
    mask[tuple(np.transpose(spot))] = True
    prompt = simulate_prompt(mask, kind, np.random.default_rng(0), spacing_mm=(1.0, 1.0))
    assert prompt.slice_index == 0


def test_same_generator_same_prompt(lesion):
    volume, truth = lesion
    draw = [simulate_prompt(truth, "line", np.random.default_rng(5), spacing_mm=volume.spacing_mm) for _ in range(2)]
    assert draw[0] == draw[1]


def test_no_prompt_for_an_empty_mask_or_an_unknown_kind(lesion):
    with pytest.raises(SegmentationError):
        simulate_prompt(np.zeros((3, 4, 4), bool), "line", np.random.default_rng(0), spacing_mm=SPACING)
    with pytest.raises(ValueError, match="'arrow'"):
        simulate_prompt(lesion[1], "scribble", np.random.default_rng(0), spacing_mm=SPACING)


def test_drawn_lines_are_shorter_than_the_mask_as_radiologists_lines_are():
    ratios, short_over_long = [], []
    for seed in range(60):
        volume, truth = lesion_in_tissue(seed=seed, radius_mm=10)
        spacing = volume.spacing_mm
        line = draw_line(truth, np.random.default_rng(seed), spacing_mm=spacing)
        ratios.append(longest_diameter_mm(truth, spacing) / ends_mm(line.start, line.end, spacing))
        pair = draw_bidimensional(truth, np.random.default_rng(seed), spacing_mm=spacing)
        short_over_long.append(ends_mm(*pair.short_axis, spacing) / ends_mm(*pair.long_axis, spacing))
        arrow = draw_arrow(truth, np.random.default_rng(seed), spacing_mm=spacing)
        assert truth[arrow.slice_index].any()
    assert 1.13 < np.mean(ratios) < 1.23
    assert np.std(ratios) > 0.02
    assert np.median(short_over_long) < 1


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
