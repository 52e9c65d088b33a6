"""Simulated prompts against the rules of SAM2CT section 2.2 and SAM2, by property; drawn ones against their habits."""

from __future__ import annotations

from dataclasses import replace

import numpy as np
import pytest
import scipy.ndimage as ndi
from hypothesis import given, settings
from hypothesis import strategies as st
from lesions import lesion_in_tissue
from scipy.stats import chisquare, ks_2samp, kstest

from segmentation import SegmentationError, simulate_prompt
from segmentation.metrics import longest_diameter_mm
from segmentation.prompts import (
    ARROW_LENGTH_MM,
    CAREFUL,
    HABITS,
    KINDS,
    Habits,
    draw_arrow,
    draw_bidimensional,
    draw_line,
    drawn_prompt,
)
from segmentation.sections import MOST_LINES

SPACING = (2.5, 0.8, 0.8)
DRAWN = ("line", "bidimensional", "arrow")
seeds = st.integers(0, 2**32 - 1)
spacings = st.tuples(st.floats(0.7, 5), st.floats(0.4, 1.4), st.floats(0.4, 1.4))


@st.composite
def lesions(draw):
    """Lumpy lesions of one pixel to 40 across: concave, holed and in pieces, with room on every side."""
    shape = (draw(st.integers(1, 5)), draw(st.integers(1, 40)), draw(st.integers(1, 40)))
    rng = np.random.default_rng(draw(seeds))
    lumps = ndi.gaussian_filter(rng.standard_normal(shape), draw(st.floats(0.3, 3)))
    mask = lumps >= np.quantile(lumps, draw(st.floats(0, 0.9)))
    return np.pad(mask, draw(st.integers(0, 3)))


@pytest.fixture(scope="module")
def lesion():
    return lesion_in_tissue(radius_mm=11)[1]


def draws(mask, kind, n, *, spacing_mm=SPACING, draw=simulate_prompt, **options):
    return [draw(mask, kind, np.random.default_rng([7, i]), spacing_mm=spacing_mm, **options) for i in range(n)]


def edge_of(section):
    """(n, 2) (column, row) of the pixels with one of their four neighbours outside: written out, as a reference."""
    padded = np.pad(section, 1)
    enclosed = padded[:-2, 1:-1] & padded[2:, 1:-1] & padded[1:-1, :-2] & padded[1:-1, 2:]
    return np.argwhere(section & ~enclosed)[:, ::-1]


def all_lengths(section, spacing_mm):
    points = edge_of(section) * np.array([spacing_mm[-1], spacing_mm[-2]])
    first, second = np.triu_indices(len(points), 1)
    return np.hypot(*(points[first] - points[second]).T)


def in_mm(point, spacing_mm):
    return np.array(point) * [spacing_mm[-1], spacing_mm[-2]]


def length_mm(ends, spacing_mm=SPACING):
    return float(np.linalg.norm(in_mm(ends[1], spacing_mm) - in_mm(ends[0], spacing_mm)))


def ends_of(line):
    return line.start, line.end


# ---- section 2.2: slices


@settings(max_examples=60, deadline=None)
@given(lesions(), st.sampled_from(KINDS), seeds, st.booleans())
def test_a_prompt_lies_on_a_slice_of_the_lesion_and_in_evaluation_on_one_of_the_three_largest(
    mask, kind, seed, training
):
    prompt = simulate_prompt(mask, kind, np.random.default_rng(seed), spacing_mm=SPACING, training=training)
    areas = mask.sum(axis=(1, 2))
    assert areas[prompt.slice_index] > 0
    if not training:
        assert areas[prompt.slice_index] >= np.sort(areas)[-3:].min()


def test_in_training_slices_are_chosen_by_their_area(lesion):
    areas = lesion.sum(axis=(1, 2))
    found = np.bincount([p.slice_index for p in draws(lesion, "mask", 1500, training=True)], minlength=len(areas))
    assert chisquare(found[areas > 0], 1500 * areas[areas > 0] / areas.sum()).pvalue > 1e-3


def test_in_evaluation_the_three_largest_slices_come_equally_often(lesion):
    largest = np.argsort(-lesion.sum(axis=(1, 2)), kind="stable")[:3]
    found = np.bincount([p.slice_index for p in draws(lesion, "mask", 600)], minlength=len(lesion))
    assert chisquare(found[largest]).pvalue > 1e-3
    assert found[largest].sum() == 600


# ---- section 2.2: lines


@settings(max_examples=100, deadline=None)
@given(lesions(), spacings, seeds, st.booleans())
def test_a_line_joins_edge_pixels_and_is_among_the_longest_tenth_or_in_training_half(mask, spacing, seed, training):
    line = simulate_prompt(mask, "line", np.random.default_rng(seed), spacing_mm=spacing, training=training)
    section = mask[line.slice_index]
    edge = set(map(tuple, edge_of(section).tolist()))
    assert {line.start, line.end} <= edge
    lengths = all_lengths(section, spacing)
    if lengths.size:
        longer = np.count_nonzero(lengths > length_mm(ends_of(line), spacing) + 1e-9)
        assert longer < max(1, (0.5 if training else 0.1) * len(lengths))


def ellipse(long_px, short_px, lump=0.0):
    """One section, tilted by 30 degrees; ``lump`` roughens its outline."""
    n = long_px + 9
    row, column = (axis - n // 2 for axis in np.indices((n, n)))
    along, across = column * 0.866 + row * 0.5, row * 0.866 - column * 0.5
    noise = ndi.gaussian_filter(np.random.default_rng(3).standard_normal((n, n)), 2)
    return np.hypot(2 * along / long_px, 2 * across / short_px) + lump * noise / noise.std() < 1


@pytest.mark.parametrize("across_px", [40, 140])
@pytest.mark.parametrize(("training", "share"), [(False, 0.1), (True, 0.5)])
def test_lines_have_the_papers_distribution_however_large_the_section(across_px, training, share):
    """Their rank among all lines is uniform, and so are their directions those of the lines allowed.

    The larger section has more than `MOST_LINES` lines and is ranked on a sample of its lines.
    """
    section = ellipse(across_px, int(0.7 * across_px), lump=0.08)
    spacing = (0.7, 0.9)
    lengths = np.sort(all_lengths(section, spacing))
    assert (len(lengths) > MOST_LINES) == (across_px == 140)
    lines = draws(section, "line", 300, spacing_mm=spacing, training=training)
    found = np.array([length_mm(ends_of(line), spacing) for line in lines])
    rank = np.searchsorted(lengths, found - 1e-9) / len(lengths)
    assert 1 - share - 0.008 < rank.min() < 1 - 0.95 * share
    assert kstest(rank, "uniform", args=(1 - share, share)).pvalue > 1e-3

    points = edge_of(section) * np.array(spacing)[::-1]
    first, second = np.triu_indices(len(points), 1)
    offsets = points[first] - points[second]
    allowed = offsets[np.hypot(*offsets.T) >= lengths[int((1 - share) * len(lengths))]]
    steps = np.array([in_mm(line.end, spacing) - in_mm(line.start, spacing) for line in lines])
    assert ks_2samp(direction(steps), direction(allowed)).pvalue > 1e-3


def direction(offsets):
    return np.arctan2(offsets[:, 1], offsets[:, 0]) % np.pi


def test_lines_of_equal_length_are_chosen_alike():
    """A disc has one longest line a direction; an order of the pixels must not prefer any."""
    row, column = np.indices((41, 41)) - 20
    lines = draws(row**2 + column**2 <= 100, "line", 400, spacing_mm=(1.0, 1.0))
    steps = np.array([np.subtract(line.end, line.start) for line in lines])
    quarters = np.bincount((direction(steps) // (np.pi / 4)).astype(int), minlength=4)
    assert chisquare(quarters).pvalue > 1e-3


def test_a_pair_crosses_nearly_at_a_right_angle(lesion):
    for pair in draws(lesion, "bidimensional", 40):
        edge = set(map(tuple, edge_of(lesion[pair.slice_index]).tolist()))
        assert {*pair.long_axis, *pair.short_axis} <= edge
        a, b = (np.array([in_mm(end, SPACING) for end in axis]) for axis in (pair.long_axis, pair.short_axis))
        u, v = a[1] - a[0], b[1] - b[0]
        assert abs(u @ v) / np.linalg.norm(u) / np.linalg.norm(v) < np.sin(np.radians(10.01))
        s, t = np.linalg.solve(np.column_stack([u, -v]), b[0] - a[0])
        assert 0 <= s <= 1
        assert 0 <= t <= 1


# ---- section 2.2: arrows


def reach_of(arrow, section, spacing_mm):
    """Head's distance from the centroid over that of each edge pixel on the ray from the centroid to the head."""
    centroid = np.argwhere(section).mean(axis=0)[::-1]
    head = in_mm(arrow.head, spacing_mm) - in_mm(centroid, spacing_mm)
    edge = in_mm(edge_of(section) - centroid, spacing_mm)
    distance, reach = np.hypot(*edge.T), np.hypot(*head)
    on_ray = edge @ head >= np.cos(1e-4) * distance * reach - 1e-9
    return reach / np.maximum(distance[on_ray], 1e-9), reach - distance[on_ray]


@settings(max_examples=100, deadline=None)
@given(lesions(), spacings, seeds, st.booleans())
def test_an_arrows_head_is_on_the_ray_through_an_edge_pixel_up_to_half_as_far_again(mask, spacing, seed, training):
    arrow = simulate_prompt(mask, "arrow", np.random.default_rng(seed), spacing_mm=spacing, training=training)
    section = mask[arrow.slice_index]
    ratios, beyond = reach_of(arrow, section, spacing)
    at_centroid = np.abs(beyond) < 1e-4  # an edge pixel on the centroid itself: the head stays there
    assert ((ratios <= 1.5 + 1e-4) | at_centroid).any()
    assert 0 <= arrow.head[0] <= mask.shape[2] - 1
    assert 0 <= arrow.head[1] <= mask.shape[1] - 1

    centroid = in_mm(np.argwhere(section).mean(axis=0)[::-1], spacing)
    head, tail = in_mm(arrow.head, spacing), in_mm(arrow.tail, spacing)
    assert np.linalg.norm(head - tail) == pytest.approx(ARROW_LENGTH_MM, abs=1e-4)
    if np.linalg.norm(centroid - head) > 1e-3:
        assert angle_deg(head - tail, centroid - head) <= 15 + 0.1


def angle_deg(u, v):
    return np.degrees(np.arccos(np.clip(u @ v / np.linalg.norm(u) / np.linalg.norm(v), -1, 1)))


def test_an_arrows_reach_and_turn_are_uniform():
    row, column = np.indices((61, 61)) - 30
    disc = row**2 + column**2 <= 400
    arrows = draws(disc, "arrow", 400, spacing_mm=(1.0, 1.0))
    ratios = [reach_of(arrow, disc, (1.0, 1.0))[0].max() for arrow in arrows]
    assert kstest(ratios, "uniform", args=(0, 1.5)).pvalue > 1e-3
    turns = [angle_deg(np.subtract(arrow.head, arrow.tail), np.subtract((30, 30), arrow.head)) for arrow in arrows]
    assert kstest(turns, "uniform", args=(0, 15)).pvalue > 1e-3


# ---- SAM2's protocol: points, boxes, masks


@settings(max_examples=60, deadline=None)
@given(lesions(), seeds)
def test_a_click_is_the_pixel_farthest_from_the_outside(mask, seed):
    click = simulate_prompt(mask, "point", np.random.default_rng(seed), spacing_mm=SPACING)
    assert click.labels == (1,)
    outside = np.argwhere(~np.pad(mask[click.slice_index], 1)) - 1
    inside = np.argwhere(mask[click.slice_index])
    depth = np.hypot(*(inside[:, None] - outside[None]).transpose(2, 0, 1)).min(axis=1)
    ((column, row),) = click.points
    assert depth[(inside == (row, column)).all(axis=1)] == pytest.approx(depth.max())


def test_in_training_every_pixel_of_the_section_is_clicked_alike():
    section = ellipse(9, 6)
    found = np.zeros(section.shape)
    for click in draws(section, "point", 2000, training=True):
        ((column, row),) = click.points
        found[int(row), int(column)] += 1
    assert found[~section].sum() == 0
    assert chisquare(found[section]).pvalue > 1e-3


@settings(max_examples=60, deadline=None)
@given(lesions(), seeds, st.booleans())
def test_a_boxs_sides_move_by_up_to_a_tenth_and_stay_in_the_image(mask, seed, training):
    box = simulate_prompt(mask, "box", np.random.default_rng(seed), spacing_mm=SPACING, training=training)
    points = np.argwhere(mask[box.slice_index])[:, ::-1]
    low, high = points.min(axis=0), points.max(axis=0)
    assert (np.abs(np.array([box.lower, box.upper]) - [low, high]) <= 0.1 * (high - low) + 1e-9).all()
    assert min(box.lower) >= 0
    assert (np.array(box.upper) <= np.array(mask.shape[:0:-1]) - 1).all()


def test_a_large_boxs_sides_move_by_up_to_twenty_pixels_in_and_out():
    section = np.zeros((400, 500), bool)
    section[50:350, 60:460] = True
    moves = np.array(
        [[*np.subtract(b.lower, (60, 50)), *np.subtract(b.upper, (459, 349))] for b in draws(section, "box", 300)]
    )
    assert np.abs(moves).max() <= 20
    assert kstest(moves.ravel(), "uniform", args=(-20, 40)).pvalue > 1e-3


@settings(max_examples=30, deadline=None)
@given(lesions(), seeds)
def test_a_mask_prompt_is_the_section_and_its_own_array(mask, seed):
    prompt = simulate_prompt(mask, "mask", np.random.default_rng(seed), spacing_mm=SPACING)
    np.testing.assert_array_equal(prompt.mask, mask[prompt.slice_index])
    assert not np.shares_memory(prompt.mask, mask)


# ---- all kinds


def moved(prompt, step):
    """The prompt with ``step`` (slice, row, column) added to its slice and points."""
    shift = np.array([step[2], step[1]])
    values = {}
    for name in prompt.__slots__:
        value = getattr(prompt, name)
        if name == "mask":
            values[name] = np.roll(value, step[1:], (0, 1))
        elif name not in ("slice_index", "labels"):
            values[name] = np.asarray(value) + shift
    return prompt.slice_index + step[0], values


@settings(max_examples=40, deadline=None)
@given(lesions(), st.sampled_from(KINDS), seeds, st.booleans(), st.tuples(*[st.integers(0, 6)] * 3))
def test_a_prompt_moves_with_the_lesion(mask, kind, seed, as_drawn, step):
    """Same generator, same prompt, wherever the lesion lies."""
    wide = np.pad(mask, 8)
    draw = drawn_prompt if as_drawn else simulate_prompt
    here, there = (
        draw(np.roll(wide, by, (0, 1, 2)), kind, np.random.default_rng(seed), spacing_mm=SPACING)
        for by in ((0, 0, 0), step)
    )
    slice_index, values = moved(here, step)
    assert there.slice_index == slice_index
    for name, value in values.items():
        np.testing.assert_allclose(getattr(there, name), value, atol=1e-5)


@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize("draw", [simulate_prompt, drawn_prompt])
@pytest.mark.parametrize("spot", [[(3, 3)], [(3, 3), (3, 4)], [(3, 3), (4, 4)], [(3, 2), (3, 3), (3, 4)]])
def test_masks_of_a_few_pixels_have_prompts(kind, draw, spot):
    mask = np.zeros((8, 8), bool)
    mask[tuple(np.transpose(spot))] = True
    assert draw(mask, kind, np.random.default_rng(0), spacing_mm=(1.0, 1.0)).slice_index == 0


@pytest.mark.parametrize("draw", [simulate_prompt, drawn_prompt])
def test_no_prompt_for_an_empty_mask_or_an_unknown_kind(lesion, draw):
    for kind in KINDS:
        with pytest.raises(SegmentationError, match="empty"):
            draw(np.zeros((3, 4, 4), bool), kind, np.random.default_rng(0), spacing_mm=SPACING)
    with pytest.raises(ValueError, match=r"'arrow'.*'scribble'"):
        draw(lesion, "scribble", np.random.default_rng(0), spacing_mm=SPACING)


# ---- as drawn


def test_drawn_lines_are_shorter_than_the_mask_as_radiologists_lines_are():
    ratios, short_over_long = [], []
    for seed in range(20):
        mask = lesion_in_tissue(seed=seed, radius_mm=10)[1]
        line = draw_line(mask, np.random.default_rng(seed), spacing_mm=SPACING)
        ratios.append(longest_diameter_mm(mask, SPACING) / length_mm(ends_of(line)))
        pair = draw_bidimensional(mask, np.random.default_rng(seed), spacing_mm=SPACING)
        short_over_long.append(length_mm(pair.short_axis) / length_mm(pair.long_axis))
    assert 1.13 < np.mean(ratios) < 1.23
    assert np.std(ratios) > 0.02
    assert np.median(short_over_long) < 1


def test_drawn_ends_lie_off_pixel_centres(lesion):
    for kind in DRAWN:
        for prompt in draws(lesion, kind, 20, draw=drawn_prompt):
            points = [np.ravel(getattr(prompt, name)) for name in prompt.__slots__ if name != "slice_index"]
            assert (np.concatenate(points) % 1 != 0).any()


ROUND = ellipse(30, 30)


@pytest.mark.parametrize("kind", ["line", "bidimensional"])
def test_overshot_ends_pass_the_rim_and_undershot_ones_stay_inside(kind):
    steady = replace(CAREFUL, end_spread=0.0)
    for habits, outside in (
        (replace(steady, overshoot=1.0), True),
        (replace(steady, undershoot=1.0), False),
        (steady, False),
    ):
        prompts = draws(ROUND, kind, 30, draw=drawn_prompt, habits=habits, spacing_mm=(1.0, 1.0))
        axes = [ends_of(p) if kind == "line" else p.long_axis for p in prompts]
        axes += [p.short_axis for p in prompts if kind == "bidimensional"]
        radii = np.hypot(*(np.array(axes) - (len(ROUND) // 2)).reshape(-1, 2).T)
        assert (radii > 14.5).all() if outside else (radii < 15).all()
    lengths = [
        [
            length_mm(ends_of(p), (1.0, 1.0))
            for p in draws(ROUND, "line", 60, draw=drawn_prompt, habits=h, spacing_mm=(1, 1))
        ]
        for h in (replace(steady, undershoot=1.0), steady, replace(steady, overshoot=1.0))
    ]
    assert np.mean(lengths[0]) < np.mean(lengths[1]) < 30 < np.mean(lengths[2])


@pytest.mark.parametrize("kind", DRAWN)
def test_off_slice_is_the_same_drawing_one_slice_away(lesion, kind):
    on = draws(lesion, kind, 30, draw=drawn_prompt, habits=CAREFUL)
    off = draws(lesion, kind, 30, draw=drawn_prompt, habits=replace(CAREFUL, off_slice=1.0))
    assert {b.slice_index - a.slice_index for a, b in zip(on, off, strict=True)} == {-1, 1}
    assert all(replace(b, slice_index=a.slice_index) == a for a, b in zip(on, off, strict=True))


def test_off_slice_of_a_thin_lesion_misses_it_but_not_the_volume():
    habits = replace(CAREFUL, off_slice=1.0)
    for depth, expected in ((1, {0}), (2, {0}), (3, {0, 2})):
        mask = np.zeros((depth, *ROUND.shape), bool)
        mask[depth // 2] = ROUND
        lines = draws(mask, "line", 20, draw=drawn_prompt, habits=habits)
        assert {line.slice_index for line in lines} == expected


def test_the_short_axis_alone_is_across_the_lesion():
    node = ellipse(60, 30)
    habits = replace(CAREFUL, short_axis_only=1.0)
    for line in draws(node, "line", 30, draw=drawn_prompt, habits=habits, spacing_mm=(1.0, 1.0)):
        step = np.subtract(line.end, line.start)
        assert angle_deg(step, np.array([0.866, 0.5])) == pytest.approx(90, abs=30)
        assert 20 < np.hypot(*step) < 32


def test_arrows_may_end_at_a_distance_before_the_lesion():
    habits = replace(HABITS, arrow_before=1.0, off_slice=0.0)
    low, high = habits.arrow_gap_mm
    image = np.pad(ROUND, 30)  # with room for all heads
    arrows = draws(image, "arrow", 200, draw=drawn_prompt, habits=habits, spacing_mm=(1.0, 1.0))
    gaps = [reach_of(arrow, image, (1.0, 1.0))[1].min() for arrow in arrows]
    assert kstest(gaps, "uniform", args=(low, high - low)).pvalue > 1e-3
    centre = np.array([len(image) // 2] * 2)
    lengths = [np.hypot(*np.subtract(arrow.head, arrow.tail)) for arrow in arrows]
    turns = [angle_deg(np.subtract(arrow.head, arrow.tail), centre - arrow.head) for arrow in arrows]
    assert habits.arrow_length_mm[0] <= min(lengths) < 15
    assert 35 < max(lengths) <= habits.arrow_length_mm[1]
    assert 15 < max(turns) <= habits.arrow_turn_deg + 0.1


def test_drawn_arrows_lie_where_the_lesion_is_near_its_largest(lesion):
    areas = lesion.sum(axis=(1, 2))
    for seed in range(20):
        arrow = draw_arrow(lesion, np.random.default_rng(seed), spacing_mm=SPACING)
        assert areas[arrow.slice_index] > 0.5 * areas.max()


def test_habits_come_as_often_as_they_say():
    node = ellipse(60, 24)
    mask = np.pad(node[None], ((2, 2), (0, 0), (0, 0)))
    habits = replace(HABITS, off_slice=0.3, short_axis_only=0.25, end_spread=0.0, overshoot=0.0, undershoot=0.0)
    lines = draws(mask, "line", 400, draw=drawn_prompt, habits=habits, spacing_mm=(1.0, 1.0, 1.0))
    assert np.mean([line.slice_index != 2 for line in lines]) == pytest.approx(0.3, abs=0.07)
    assert np.mean([length_mm(ends_of(line), (1.0, 1.0)) < 35 for line in lines]) == pytest.approx(0.25, abs=0.07)


@pytest.mark.parametrize("kind", ["point", "box"])
def test_what_nobody_draws_is_simulated(lesion, kind):
    assert draws(lesion, kind, 5, draw=drawn_prompt) == draws(lesion, kind, 5)


@pytest.mark.parametrize(
    ("habit", "wrong"),
    [
        ({"off_slice": 1.5}, "off_slice"),
        ({"arrow_before": -0.1}, "arrow_before"),
        ({"overshoot": 0.6, "undershoot": 0.6}, "exclude"),
        ({"arrow_gap_mm": (5.0, 2.0)}, "arrow_gap_mm"),
    ],
)
def test_impossible_habits_are_refused(habit, wrong):
    with pytest.raises(ValueError, match=wrong):
        Habits(**habit)
