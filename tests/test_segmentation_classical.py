"""The default engine: its parts against references, the whole on lesions of known outline."""

from __future__ import annotations

import numpy as np
import pytest
from hypothesis import assume, given, settings
from hypothesis import strategies as st
from lesions import lesion_in_tissue, make_volume

from segmentation import Arrow, Line, Mask, SegmentationJob, load_segmenter, simulate_prompt
from segmentation.classical.arrow import find_ellipses
from segmentation.classical.grid import cut_grid
from segmentation.classical.walker import BIN_HU, bin_of, evidence_table, random_walk
from segmentation.ellipsoid import InPlaneEllipse
from segmentation.metrics import bootstrap_ci, dice
from segmentation.types import Volume


def segment(volume, *prompts, engine="classical"):
    (answer,) = load_segmenter(engine).segment([SegmentationJob("a", volume, prompts)])
    assert isinstance(answer, Mask), answer
    return answer


def filled(volume, *prompts, engine="classical"):
    return segment(volume, *prompts, engine=engine).in_volume(volume.voxels.shape)


def walk_by_hand(image, target, *, steps, pull, inside, outside):
    """The random walker's normal equations, entry by entry, solved directly."""
    index = np.arange(image.size).reshape(image.shape)
    differences = np.concatenate([np.abs(np.diff(image, axis=a)).ravel() for a in range(image.ndim)])
    scale = max(8.0, 1.05 * np.median(differences))
    system, right = np.zeros((image.size, image.size)), np.zeros(image.size)
    for at in np.ndindex(image.shape):
        i = index[at]
        for axis in range(image.ndim):
            other = list(at)
            other[axis] += 1
            if other[axis] == image.shape[axis]:
                continue
            j = index[tuple(other)]
            weight = 0.02 + np.exp(-0.4 * ((image[at] - image[tuple(other)]) / scale) ** 2)
            weight *= (min(steps) / steps[axis]) ** 2
            system[[i, j], [i, j]] += weight
            system[[i, j], [j, i]] -= weight
        strength = 50.0 if inside[at] or outside[at] else pull
        system[i, i] += strength
        right[i] = strength * (1.0 if inside[at] else 0.0 if outside[at] else target[at])
    return np.linalg.solve(system, right).reshape(image.shape)


@pytest.mark.parametrize(("shape", "steps"), [((5, 6), (1.0, 1.0)), ((3, 4, 5), (2.5, 0.8, 0.8))])
def test_random_walk_solves_its_normal_equations(shape, steps):
    rng = np.random.default_rng(3)
    image = rng.normal(0, 30, shape).astype(np.float32)
    target = rng.random(shape).astype(np.float32)
    inside, outside = np.zeros(shape, bool), np.zeros(shape, bool)
    inside[tuple(n // 2 for n in shape)] = True
    outside[..., 0] = True
    ours = random_walk(image, target, steps_mm=steps, pull=0.2, inside=inside, outside=outside, rtol=1e-6)
    assert ours == pytest.approx(
        walk_by_hand(image, target, steps=steps, pull=0.2, inside=inside, outside=outside), abs=1e-4
    )


@given(st.lists(st.integers(-1000, 1000), min_size=5, max_size=40), st.integers(1, 1000))
def test_evidence_is_antisymmetric_and_bounded(lesion, shift):
    a = bin_of(np.array(lesion, np.float32))
    b = bin_of(np.clip(np.array(lesion, np.float32) + shift, -1000, 1000))
    table = evidence_table(a, b)
    assert np.abs(table).max() <= 4
    assert table == pytest.approx(-evidence_table(b, a), abs=1e-5)


def test_evidence_favours_the_lesions_own_values():
    rng = np.random.default_rng(0)
    table = evidence_table(
        bin_of(rng.normal(80, 10, 300).astype(np.float32)), bin_of(rng.normal(0, 10, 300).astype(np.float32))
    )
    at = np.rint((np.array([80, 0]) + 1000) / BIN_HU).astype(int)
    assert table[at[0]] > 2
    assert table[at[1]] < -2


@settings(max_examples=25, deadline=None)
@given(
    semi_long=st.floats(2, 60),
    spacing=st.tuples(st.floats(0.7, 6), st.floats(0.4, 1.5), st.floats(0.4, 1.5)),
    centre=st.tuples(st.integers(0, 39), st.floats(0, 40), st.floats(0, 40)),
)
def test_grid_samples_a_linear_image_exactly_away_from_its_border(semi_long, spacing, centre):
    index = np.indices((40, 64, 64)).astype(float)
    slope = np.array([3.0, 2.0, -1.5])
    volume = make_volume(np.tensordot(slope * spacing, index, 1), spacing)
    ellipse = InPlaneEllipse(centre[0], (centre[2], centre[1]), (1.0, 0.0), semi_long, 0.8 * semi_long)
    grid = cut_grid(volume, ellipse)
    z, y, x = np.meshgrid(grid.z + centre[0] * spacing[0], grid.y + centre[1], grid.x + centre[2], indexing="ij")
    expected = slope[0] * z + slope[1] * y + slope[2] * x
    ends = np.multiply(np.subtract(volume.voxels.shape, 1), spacing)
    clear = 6 * max(grid.step_z, grid.step)
    deep = np.all([(v > clear) & (v < e - clear) for v, e in zip((z, y, x), ends, strict=True)], axis=0)
    deep &= np.abs(expected) < 990
    assume(deep.any())
    # rounding to whole HU is all that is lost
    assert np.abs(grid.image - expected)[deep].max() < 0.6
    assert grid.on_image[deep].all()
    assert grid.image.size < 61 * 61 * 250


def test_grid_and_back_is_the_identity_where_the_grid_is_the_voxels():
    rng = np.random.default_rng(0)
    volume = make_volume(rng.normal(0, 100, (20, 64, 64)), (2.0, 1.0, 1.0))
    grid = cut_grid(volume, InPlaneEllipse(10, (32.0, 32.0), (1.0, 0.0), 9.0, 7.0))
    values = rng.random(grid.image.shape).astype(np.float32)
    back = grid.to_volume(values)
    inside = grid.on_image.any(axis=(1, 2))
    assert back.shape[0] == inside.sum()
    assert back == pytest.approx(values[inside][:, : back.shape[1], : back.shape[2]], abs=1e-5)


def test_ahead_of_the_ellipsoid_on_lesions_of_known_outline():
    ours, theirs = [], []
    for seed in range(12):
        volume, truth = lesion_in_tissue(seed=seed, radius_mm=8 + 1.5 * seed, contrast_hu=(-70, 60, 110)[seed % 3])
        prompt = simulate_prompt(truth, "line", np.random.default_rng(seed), spacing_mm=volume.spacing_mm)
        ours.append(dice(filled(volume, prompt), truth))
        theirs.append(dice(filled(volume, prompt, engine="ellipsoid"), truth))
    assert bootstrap_ci(np.subtract(ours, theirs)).low > 0.05
    assert np.mean(ours) > 0.85


@pytest.mark.parametrize("spacing", [(1.0, 0.7, 0.7), (5.0, 0.9, 0.9), (3.0, 0.6, 1.1)])
@pytest.mark.parametrize("kind", ["line", "bidimensional", "arrow"])
def test_any_spacing_any_prompt(spacing, kind):
    shape = (max(12, int(60 / spacing[0])), int(80 / spacing[1]), int(80 / spacing[2]))
    volume, truth = lesion_in_tissue(seed=4, radius_mm=13, spacing_mm=spacing, shape=shape)
    prompt = simulate_prompt(truth, kind, np.random.default_rng(1), spacing_mm=spacing)
    assert dice(filled(volume, prompt), truth) > 0.8


def test_a_larger_volume_around_the_lesion_changes_nothing():
    volume, truth = lesion_in_tissue(seed=1, radius_mm=9, shape=(40, 96, 96))
    prompt = simulate_prompt(truth, "line", np.random.default_rng(0), spacing_mm=volume.spacing_mm)
    pad = ((7, 5), (11, 4), (20, 9))
    larger = make_volume(np.pad(volume.voxels, pad, constant_values=300), volume.spacing_mm)
    moved = Line(
        prompt.slice_index + 7,
        (prompt.start[0] + 20, prompt.start[1] + 11),
        (prompt.end[0] + 20, prompt.end[1] + 11),
    )
    one, other = segment(volume, prompt), segment(larger, moved)
    assert other.offset == tuple(np.add(one.offset, (7, 11, 20)))
    assert (one.voxels == other.voxels).all()


def test_mirrored_and_transposed_image_gives_the_same_lesion():
    volume, truth = lesion_in_tissue(seed=2, radius_mm=12)
    line = simulate_prompt(truth, "line", np.random.default_rng(0), spacing_mm=volume.spacing_mm)
    plain = filled(volume, line)
    turned = make_volume(volume.voxels[::-1].transpose(0, 2, 1), volume.spacing_mm)
    there = Line(len(plain) - 1 - line.slice_index, line.start[::-1], line.end[::-1])
    assert dice(filled(turned, there)[::-1].transpose(0, 2, 1), plain) > 0.97


def test_which_end_was_drawn_first_does_not_matter():
    volume, truth = lesion_in_tissue(seed=3)
    line = simulate_prompt(truth, "line", np.random.default_rng(0), spacing_mm=volume.spacing_mm)
    assert dice(filled(volume, line), filled(volume, Line(line.slice_index, line.end, line.start))) > 0.97


def test_lesion_cut_by_the_border_is_filled_up_to_it():
    volume, truth = lesion_in_tissue(seed=5, radius_mm=14, centre=(2, 48, 84))
    areas = truth.sum(axis=(1, 2))
    k = int(areas.argmax())
    line = simulate_prompt(truth[k], "line", np.random.default_rng(0), spacing_mm=volume.spacing_mm)
    mask = filled(volume, Line(k, line.start, line.end))
    assert mask[0].any()
    assert mask[..., -1].any()
    assert dice(mask, truth) > 0.75


def test_a_lesion_without_end_along_z_is_flagged():
    rng = np.random.default_rng(0)
    y, x = np.indices((80, 80)) - 40
    column = np.broadcast_to(100.0 * (x**2 + y**2 < 100), (90, 80, 80))
    volume = make_volume(column + rng.normal(0, 8, column.shape), (1.0, 1.0, 1.0))
    assert "z_limit" in segment(volume, Line(45, (30.0, 40.0), (50.0, 40.0))).flags


def test_tilted_gantry_is_flagged():
    volume, truth = lesion_in_tissue(seed=3)
    tilted = make_volume(volume.voxels, volume.spacing_mm, tilt_mm=0.5)
    line = simulate_prompt(truth, "line", np.random.default_rng(0), spacing_mm=volume.spacing_mm)
    assert "sheared_grid" in segment(tilted, line).flags
    assert "sheared_grid" not in segment(volume, line).flags


def test_no_samples_falls_back_to_the_ellipsoid_and_says_so():
    volume = make_volume(np.random.default_rng(0).normal(0, 10, (3, 6, 6)), (5.0, 5.0, 5.0))
    mask = segment(volume, Line(1, (2.0, 2.0), (3.0, 2.0)))
    assert "fallback_ellipsoid" in mask.flags
    assert mask.confidence == 0.3


def test_confidence_follows_the_contrast():
    found = []
    for contrast in (0.0, 30.0, 150.0):
        volume, truth = lesion_in_tissue(seed=6, contrast_hu=contrast)
        line = simulate_prompt(truth, "line", np.random.default_rng(0), spacing_mm=volume.spacing_mm)
        found.append(segment(volume, line).confidence)
    assert found[0] < found[1] < found[2]
    assert found[0] < 0.75 < found[2]


@pytest.mark.parametrize("radius", [5.0, 12.0, 30.0])
def test_an_arrow_finds_the_disc_it_points_at(radius):
    rng = np.random.default_rng(0)
    y, x = np.indices((200, 200)) * 0.8
    disc = 90.0 * ((x - 80) ** 2 + (y - 80) ** 2 < radius**2)
    volume = make_volume(np.stack([disc] * 4) + rng.normal(0, 10, (4, 200, 200)), (3.0, 0.8, 0.8))
    head = (80 - 1.15 * radius) / 0.8
    best = find_ellipses(Arrow(2, (head - 20, 100.0), (head, 100.0)), volume)[0]
    assert np.hypot(best.ellipse.centre_mm[0] - 80, best.ellipse.centre_mm[1] - 80) < 0.25 * radius + 1
    assert np.sqrt(best.ellipse.semi_long_mm * best.ellipse.semi_short_mm) == pytest.approx(radius, rel=0.25)


def test_far_voxels_are_never_read():
    """A CT of 512 x 512 x 400 costs no more than the box of its lesion."""

    class Watched(np.ndarray):
        largest = 0

        def __getitem__(self, key):
            result = super().__getitem__(key)
            Watched.largest = max(Watched.largest, getattr(result, "size", 1))
            return result

    volume, truth = lesion_in_tissue(radius_mm=6, shape=(60, 200, 200))
    watched = Volume(volume.voxels.view(Watched), volume.affine, "1", "2", volume.sop_instance_uids)
    line = simulate_prompt(truth, "line", np.random.default_rng(0), spacing_mm=volume.spacing_mm)
    segment(watched, line)
    assert 0 < Watched.largest < volume.voxels.size / 20
