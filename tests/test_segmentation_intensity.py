"""Boxes and prompts from intensity: the paper's algorithm against a naive one, and what it does before an engine."""

from __future__ import annotations

import itertools
import pickle
import tracemalloc
from dataclasses import replace

import numpy as np
import pytest
import SimpleITK as sitk  # noqa: N813  the name its own documentation uses
from hypothesis import assume, given, settings
from hypothesis import strategies as st
from lesions import lesion_in_tissue, make_volume

from segmentation import (
    Arrow,
    Bidimensional,
    Box,
    IntensityParameters,
    IntensityPrompts,
    Line,
    Mask,
    MaskPrompt,
    Points,
    SegmentationError,
    SegmentationFailure,
    SegmentationJob,
    Segmenter,
    intensity_box,
    load_segmenter,
    local_box,
    simulate_prompt,
)
from segmentation.intensity import NothingFoundError
from segmentation.metrics import dice
from segmentation.types import mask_from_volume

# ---- Algorithm 1 ---------------------------------------------------------------------------------------------------


def grown(image, radius):
    """All that is within a radius of an image's foreground, its spacing counted; ITK's distances are float32."""
    distance = sitk.SignedMaurerDistanceMap(image, squaredDistance=True, useImageSpacing=True)
    return sitk.Cast(distance <= radius**2 + 1e-4, sitk.sitkUInt8) | sitk.Cast(image, sitk.sitkUInt8)


def reference_components(mask, radius, spacing_mm):
    """Closing by distances and labels by ITK: (slice, row, column) labels, and their number."""
    frame = [int(np.ceil(radius / mm)) + 1 for mm in spacing_mm]
    if not mask.any():
        return np.zeros(mask.shape, int), 0
    image = sitk.GetImageFromArray(np.pad(mask, [(n, n) for n in frame]).astype(np.uint8))
    image.SetSpacing([float(mm) for mm in spacing_mm[::-1]])
    closed = grown(grown(image, radius) == 0, radius) == 0
    labels = sitk.GetArrayFromImage(sitk.ConnectedComponent(closed, True))
    labels = labels[tuple(slice(n, n + size) for n, size in zip(frame, mask.shape, strict=True))]
    return labels, int(labels.max())


def reference_box(component, margins):
    where = np.argwhere(component)
    last = np.array(component.shape) - 1
    return tuple(np.maximum(where.min(axis=0) - margins, 0)), tuple(np.minimum(where.max(axis=0) + margins, last))


def in_volume(box, shape):
    full = np.zeros(shape, dtype=bool)
    full[tuple(slice(o, o + n) for o, n in zip(box.offset, box.component.shape, strict=True))] = box.component
    return full


def test_the_global_box_is_that_of_the_papers_steps_done_by_itk():
    volume, _ = lesion_in_tissue(shape=(24, 72, 80), contrast_hu=90)
    image = sitk.Clamp(sitk.GetImageFromArray(volume.voxels.astype(np.float64)), lowerBound=-160, upperBound=240)
    kernel = {"variance": 4.0, "maximumKernelWidth": 64, "maximumError": 1e-4, "useImageSpacing": False}
    smooth = sitk.GetArrayFromImage(sitk.DiscreteGaussian(image, **kernel))
    low, high = smooth.mean() + 0.5 * smooth.std(), smooth.mean() + 2 * smooth.std()
    labels, _ = reference_components((smooth > low) & (smooth < high), 3, (1, 1, 1))
    largest = labels == np.bincount(labels[labels > 0]).argmax()

    box = intensity_box(volume)

    # ITK's discrete Gaussian is not the sampled one: a voxel at the rim may fall to the other side.
    assert box.thresholds_hu == pytest.approx((low, high), abs=0.5)
    assert dice(in_volume(box, largest.shape), largest) > 0.98
    lower, upper = reference_box(largest, 5)
    assert np.abs(np.subtract(box.lower, lower)).max() <= 1
    assert np.abs(np.subtract(box.upper, upper)).max() <= 1


small_volumes = st.builds(
    lambda seed, shape, share: np.where(np.random.default_rng(seed).random(shape) < share, 100, 0),
    st.integers(0, 2**32 - 1),
    st.tuples(st.integers(1, 7), st.integers(1, 12), st.integers(1, 12)),
    st.sampled_from([0.03, 0.1, 0.2, 0.3]),
)
spacings = st.sampled_from([(1.0, 1.0, 1.0), (2.5, 0.7, 0.8), (0.6, 0.9, 0.9)])


def volume_of(voxels, spacing_mm=(1.0, 1.0, 1.0)):
    """Also of a single slice, which `make_volume` cannot give a spacing."""
    stack = make_volume(np.concatenate([voxels, voxels[:1]]), spacing_mm)
    return replace(stack, voxels=stack.voxels[:-1], sop_instance_uids=stack.sop_instance_uids[:-1])


@settings(max_examples=60, deadline=None)
@given(small_volumes, spacings, st.sampled_from([0, 1, 1.5, 2, 3]), st.sampled_from(["voxel", "mm"]), st.data())
def test_closing_components_and_box_are_exact(voxels, spacing_mm, radius, unit, data):
    mean, deviation = voxels.mean(), voxels.std()
    assume(deviation > 0)
    parameters = IntensityParameters(
        window_hu=(-1000, 1000), sigma=0, low=0.1, high=20, closing_radius=radius, margin=2, unit=unit
    )
    metric = spacing_mm if unit == "mm" else (1.0, 1.0, 1.0)
    labels, count = reference_components(voxels > mean + 0.1 * deviation, radius, metric)
    sizes = np.bincount(labels.ravel(), minlength=count + 1)[1:]
    volume = volume_of(voxels, spacing_mm)
    margins = [int(np.ceil(2 / mm)) for mm in metric]

    largest = intensity_box(volume, parameters=parameters)
    at = tuple(data.draw(st.integers(0, n - 1)) for n in voxels.shape)
    nearest = intensity_box(volume, at=at, parameters=parameters)

    for box in (largest, nearest):
        full = in_volume(box, voxels.shape)
        (label,) = np.unique(labels[full])
        assert label > 0
        assert (full == (labels == label)).all()
        assert (box.lower, box.upper) == reference_box(full, margins)
    assert largest.component.sum() == sizes.max()
    gaps = np.linalg.norm((np.argwhere(labels) - at) * spacing_mm, axis=1)
    held = np.linalg.norm((np.argwhere(in_volume(nearest, voxels.shape)) - at) * spacing_mm, axis=1)
    assert held.min() == pytest.approx(gaps.min())


def test_dark_mirrors_bright():
    volume, _ = lesion_in_tissue(shape=(12, 48, 48))
    window = IntensityParameters(window_hu=(-500, 500))
    bright = intensity_box(volume, parameters=window)
    dark = intensity_box(replace(volume, voxels=-volume.voxels), dark=True, parameters=window)
    assert (bright.lower, bright.upper) == (dark.lower, dark.upper)
    assert dark.thresholds_hu == pytest.approx([-t for t in bright.thresholds_hu[::-1]], abs=1e-3)


def test_a_region_has_its_own_statistics_and_the_place_chooses():
    voxels = np.full((20, 60, 60), 0)
    voxels[8:13, 10:16, 10:16] = 100
    voxels[8:13, 40:50, 40:50] = 200  # larger, brighter, and not in the region
    volume, sharp = make_volume(voxels, (1.0, 1.0, 1.0)), IntensityParameters(sigma=0, high=20, margin=1)
    region = ((0, 0, 0), (19, 29, 29))
    box = intensity_box(volume, region, at=(2, 2, 2), parameters=sharp)
    assert (box.lower, box.upper) == ((7, 9, 9), (13, 16, 16))
    assert box.thresholds_hu[0] == pytest.approx(voxels[:, :30, :30].mean() + 0.5 * voxels[:, :30, :30].std())
    assert intensity_box(volume, parameters=sharp).lower == (7, 39, 39)
    assert intensity_box(volume, at=(10, 20, 20), parameters=sharp).lower == (7, 9, 9)


@pytest.mark.parametrize("shape", [(1, 64, 64), (2, 64, 64), (300, 4, 4), (3, 1, 1)])
@pytest.mark.parametrize("value", [-2000, 37, 3000])
def test_a_constant_volume_has_no_component(shape, value):
    with pytest.raises(NothingFoundError, match="between"):
        intensity_box(volume_of(np.full(shape, value)))


def test_one_slice_has_a_box():
    voxels = np.full((1, 64, 64), 0)
    voxels[0, 20:40, 30:44] = 80
    box = intensity_box(volume_of(voxels))
    assert box.lower[0] == box.upper[0] == 0
    assert box.lower[1] <= 20
    assert box.upper[1] >= 39


def test_a_place_or_region_off_the_volume_is_refused():
    volume = make_volume(np.zeros((4, 8, 8)), (1.0, 1.0, 1.0))
    for region in (((0, 0, 0), (4, 7, 7)), ((2, 0, 0), (1, 7, 7)), ((-1, 0, 0), (1, 7, 7))):
        with pytest.raises(SegmentationError, match="region"):
            intensity_box(volume, region)
    with pytest.raises(SegmentationError, match="not in the region"):
        intensity_box(volume, ((0, 0, 0), (1, 7, 7)), at=(3, 0, 0))


@pytest.mark.parametrize(
    "wrong",
    [
        {"sigma": -1},
        {"margin": float("nan")},
        {"window_hu": (5, 5)},
        {"low": 2.0, "high": 0.5},
        {"unit": "inch"},
    ],
)
def test_parameters_are_valid_or_do_not_exist(wrong):
    with pytest.raises(ValueError, match="must"):
        IntensityParameters(**wrong)


def test_a_volume_is_held_once_in_single_precision():
    volume, _ = lesion_in_tissue(shape=(40, 160, 160))
    tracemalloc.start()
    intensity_box(volume)
    peak = tracemalloc.get_traced_memory()[1]
    tracemalloc.stop()
    assert peak < 9 * volume.voxels.size


# ---- what an annotation points at ----------------------------------------------------------------------------------


def ball(*, radius_mm, spacing_mm, contrast_hu, shape=(7, 110, 120), centre=None, noise_hu=8.0):
    """A ball of known place in soft tissue, and its mask."""
    middle = np.array(centre if centre is not None else [(n - 1) / 2 for n in shape])
    grid = np.stack(np.meshgrid(*[np.arange(n) for n in shape], indexing="ij"), axis=-1)
    truth = np.linalg.norm((grid - middle) * spacing_mm, axis=-1) <= radius_mm
    noise = np.random.default_rng(3).normal(0, noise_hu, shape)
    return make_volume(40 + contrast_hu * truth + noise, spacing_mm), truth


def bounds(section):
    rows, columns = np.nonzero(section)
    return np.array([columns.min(), rows.min()]), np.array([columns.max(), rows.max()])


balls = st.fixed_dictionaries(
    {
        "radius_mm": st.floats(6, 22),
        "spacing_mm": st.tuples(st.sampled_from([1.0, 5.0]), st.floats(0.6, 0.9), st.floats(0.6, 0.9)),
        "contrast_hu": st.sampled_from([-90.0, 80.0, 150.0]),
        "centre": st.tuples(st.just(1.0), st.floats(48, 61), st.floats(53, 66)),
    }
)


@settings(max_examples=30, deadline=None)
@given(balls, st.floats(0, 6.28), st.booleans())
def test_a_ball_is_found_by_arrow_and_by_click(drawn, angle, by_arrow):
    volume, truth = ball(shape=(3, 110, 120), **drawn)
    _, row_mm, column_mm = drawn["spacing_mm"]
    out = np.array([np.cos(angle) / column_mm, np.sin(angle) / row_mm]) * drawn["radius_mm"]
    middle = np.array(drawn["centre"][:0:-1])
    arrow = Arrow(1, tuple(middle + 2.5 * out), tuple(middle + 1.15 * out))
    box = local_box(arrow if by_arrow else Points(1, (tuple(middle + 0.5 * out),), (1,)), volume)
    assert box.offset[0] == 1
    assert box.component.shape[0] == 1
    assert dice(in_volume(box, truth.shape)[1], truth[1]) > 0.8
    lower, upper = bounds(truth[1])
    allowed = 3 / np.array([column_mm, row_mm]) + 1
    assert (np.abs(np.array(box.lower[:0:-1]) - lower) <= allowed).all()
    assert (np.abs(np.array(box.upper[:0:-1]) - upper) <= allowed).all()


@settings(max_examples=40, deadline=None)
@given(
    st.integers(0, 1000),
    st.sampled_from([(1, 64, 64), (2, 16, 90), (6, 5, 7), (4, 1, 1)]),
    st.tuples(st.floats(-0.5, 1), st.floats(-0.5, 1)),
    st.floats(-100, 100),
)
def test_whatever_is_found_lies_in_the_volume(seed, shape, place, away):
    rng = np.random.default_rng(seed)
    volume = volume_of(rng.normal(0, 150, shape), (3.0, 1.1, 0.9))
    x, y = (min(max(p, 0) * n, n - 1) for p, n in zip(place, shape[:0:-1], strict=True))
    for prompt in (Points(0, ((x, y),), (1,)), Arrow(0, (x + away, y + 1), (x, y))):
        try:
            box = local_box(prompt, volume)
        except SegmentationError:
            continue
        assert (np.array(box.lower) >= 0).all()
        assert (np.array(box.lower) <= box.offset).all()
        assert (np.array(box.upper) < shape).all()
        assert in_volume(box, shape).any()


def test_a_lesion_at_the_images_border_is_found():
    volume, truth = ball(radius_mm=12, spacing_mm=(3.0, 0.8, 0.8), contrast_hu=100, centre=(3, 5, 60))
    box = local_box(Points(3, ((60.0, 3.0),), (1,)), volume)
    assert box.lower[1] == 0
    assert dice(in_volume(box, truth.shape)[3], truth[3]) > 0.8


def test_a_click_outside_the_lesion_stays_outside():
    volume, truth = ball(radius_mm=12, spacing_mm=(3.0, 0.8, 0.8), contrast_hu=100)
    x, y = 59.0, 54.0
    assert local_box(Points(3, ((x, y), (x + 30, y)), (1, 0)), volume).component.sum() > 0.7 * truth[3].sum()
    with pytest.raises(NothingFoundError):
        local_box(Points(3, ((x, y), (x + 3, y)), (1, 0)), volume)


@pytest.mark.parametrize(
    ("prompt", "match"),
    [
        (Points(3, ((500.0, 4.0),), (1,)), "outside"),
        (Points(9, ((50.0, 4.0),), (1,)), "slice 9"),
        (Points(3, ((50.0, 50.0),), (0,)), "only where it is not"),
        (Arrow(3, (50.0, 50.0), (50.0, 50.0)), "nowhere"),
        (Arrow(3, (1e308, -1e308), (50.0, 50.0)), "direction"),
        (Arrow(3, (1.0, 1.0), (-50.0, 50.0)), "outside"),
    ],
)
def test_a_place_that_is_none_is_refused(prompt, match):
    volume, _ = ball(radius_mm=12, spacing_mm=(3.0, 2.0, 2.0), contrast_hu=100)
    with pytest.raises(SegmentationError, match=match):
        local_box(prompt, volume)


# ---- before an engine ----------------------------------------------------------------------------------------------

SPACING_MM = (3.0, 0.8, 0.8)
CENTRE = (59.5, 54.5)
ARROW = Arrow(3, (95.0, 54.5), (78.0, 54.5))
CLICK = Points(3, (CENTRE,), (1,))


@pytest.fixture(scope="module")
def lesion():
    return ball(radius_mm=12, spacing_mm=SPACING_MM, contrast_hu=100)


@pytest.fixture(scope="module")
def noise():
    return volume_of(np.random.default_rng(5).normal(40, 5, (7, 110, 120)), SPACING_MM)


class Recorder:
    """An engine that answers with the voxel at the origin and remembers its jobs."""

    name, revision, weights_sha256 = "recorder", "7", "ab" * 32

    def __init__(self, *kinds, prompt="", fails=False):
        self.supports, self.jobs, self._prompt, self._fails = frozenset(kinds), [], prompt, fails

    def segment(self, jobs):
        for job in jobs:
            self.jobs.append(job)
            if self._fails:
                yield SegmentationFailure(job.job_id, "numerical")
                continue
            mask = mask_from_volume(job.job_id, np.ones((1, 1, 1), dtype=bool), "recorder@7")
            yield replace(mask, prompt=self._prompt, weights_sha256=self.weights_sha256)


def answer(engine, volume, *prompts):
    (found,) = engine.segment(iter([SegmentationJob("a", volume, prompts)]))
    return found


@pytest.mark.parametrize("name", ["classical", "ellipsoid"])
@pytest.mark.parametrize("prompt", [ARROW, CLICK], ids=["arrow", "points"])
def test_before_an_engine_that_measures(lesion, name, prompt):
    volume, truth = lesion
    engine = IntensityPrompts(load_segmenter(name))
    mask = answer(engine, volume, prompt)
    assert isinstance(mask, Mask)
    assert isinstance(engine, Segmenter)
    assert dice(mask.in_volume(truth.shape), truth) > 0.75
    assert mask.prompt == f"{type(prompt).__name__.lower()} as bidimensional by intensity"
    assert mask.engine == f"intensity+{name}@{engine.revision}"
    assert mask.engine.split("@")[0] == engine.name
    assert engine.supports == load_segmenter(name).supports | {Arrow, Points}
    assert mask.weights_sha256 is None
    assert answer(pickle.loads(pickle.dumps(engine)), volume, prompt).voxels.tobytes() == mask.voxels.tobytes()


@pytest.mark.parametrize(
    ("kinds", "expected"),
    [((Line, Bidimensional, Box, Arrow), Box), ((Line, Bidimensional), Bidimensional), ((Line,), Line)],
)
def test_the_best_kind_that_the_engine_supports(lesion, kinds, expected):
    volume, truth = lesion
    inner = Recorder(*kinds)
    later = Line(3, (50.0, 54.0), (70.0, 54.0))
    mask = answer(IntensityPrompts(inner), volume, ARROW, later)
    measured, kept = inner.jobs[0].prompts
    assert kept is later
    assert type(measured) is expected
    assert mask.prompt == f"arrow as {expected.__name__.lower()} by intensity"
    assert mask.weights_sha256 == IntensityPrompts(inner).weights_sha256 == inner.weights_sha256
    lower, upper = bounds(truth[3])
    if isinstance(measured, Box):
        assert np.abs(np.subtract(measured.lower, lower)).max() <= 3
        assert np.abs(np.subtract(measured.upper, upper)).max() <= 3
        return
    axes = [(measured.start, measured.end)] if isinstance(measured, Line) else [measured.long_axis, measured.short_axis]
    for start, end in axes:
        assert np.mean([start, end], axis=0) == pytest.approx(CENTRE, abs=1)
        assert np.linalg.norm(np.subtract(end, start)) == pytest.approx(upper[0] - lower[0], rel=0.15)
    if len(axes) == 2:
        along, across = (np.subtract(end, start) for start, end in axes)
        assert abs(along @ across) < 1e-6 * np.linalg.norm(along) * np.linalg.norm(across)


def test_axes_are_millimetres_where_pixels_are_not_square():
    """An oval of 24 x 12 mm, long along the rows' direction, on pixels of 1.5 x 0.6 mm."""
    y, x = np.mgrid[-20:21, -60:61]
    oval = (y * 1.5 / 12) ** 2 + (x * 0.6 / 6) ** 2 <= 1
    voxels = np.where(oval, 120, 20) + np.random.default_rng(0).normal(0, 5, (3, *oval.shape))
    inner = Recorder(Bidimensional)
    answer(IntensityPrompts(inner), make_volume(voxels, (3.0, 1.5, 0.6)), Points(1, ((60.0, 20.0),), (1,)))
    (pair,) = inner.jobs[0].prompts
    long_mm, short_mm = (np.subtract(b, a) * [0.6, 1.5] for a, b in (pair.long_axis, pair.short_axis))
    assert abs(long_mm[1]) == pytest.approx(24, abs=3)
    assert abs(short_mm[0]) == pytest.approx(12, abs=2.5)
    assert abs(long_mm[0]) < 2


def test_what_an_engine_made_of_the_prompt_is_told(lesion):
    mask = answer(IntensityPrompts(Recorder(Bidimensional, prompt="bidimensional as box")), lesion[0], CLICK)
    assert mask.prompt == "points as box by intensity"


@pytest.mark.parametrize(
    "prompt",
    [
        Line(3, (50.0, 54.0), (70.0, 54.0)),
        Bidimensional(3, ((50.0, 54.0), (70.0, 54.0)), ((60.0, 44.0), (60.0, 64.0))),
        Box(3, (40.0, 40.0), (70.0, 70.0)),
        MaskPrompt(3, np.eye(110, 120, dtype=bool)),
        Points(3, (CENTRE, (62.0, 54.0)), (1, 1)),
        Points(3, (CENTRE,), (0,)),
    ],
    ids=lambda p: type(p).__name__,
)
def test_what_is_not_weak_passes_untouched(lesion, prompt):
    inner = Recorder(Line, Bidimensional, Box, MaskPrompt, Points)
    job = SegmentationJob("a", lesion[0], (prompt, ARROW))
    (mask,) = IntensityPrompts(inner).segment([job])
    assert inner.jobs[0] is job
    assert mask.prompt == ""


def test_a_strong_prompt_gives_the_engines_own_mask(lesion):
    volume, truth = lesion
    line = simulate_prompt(truth, "line", np.random.default_rng(0), spacing_mm=SPACING_MM)
    own, through = answer(load_segmenter(), volume, line), answer(IntensityPrompts(load_segmenter()), volume, line)
    assert own.voxels.tobytes() == through.voxels.tobytes()
    assert (own.offset, own.prompt) == (through.offset, through.prompt)


def test_clicks_that_the_engine_cannot_take_are_served_together(lesion):
    mask = answer(IntensityPrompts(Recorder(Box)), lesion[0], Points(3, (CENTRE, (66.0, 54.0)), (1, 1)))
    assert mask.prompt == "points as box by intensity"
    far = answer(IntensityPrompts(Recorder(Box)), lesion[0], Points(3, (CENTRE, (100.0, 54.0)), (1, 1)))
    assert far.reason == "nothing_found"


def test_where_nothing_is_found_the_engine_gets_what_was_drawn(noise):
    inner = Recorder(Line, Arrow)
    assert answer(IntensityPrompts(inner), noise, ARROW).prompt == ""
    assert inner.jobs[0].prompts == (ARROW,)
    assert isinstance(answer(IntensityPrompts(load_segmenter()), noise, ARROW), Mask)


@pytest.mark.parametrize(
    ("prompt", "reason"),
    [
        (CLICK, "nothing_found"),
        (Points(3, ((900.0, 2.0),), (1,)), "bad_prompt"),
        (Points(3, ((1.0, 2.0),), (0,)), "bad_prompt"),
    ],
)
def test_else_it_is_one_failure(noise, prompt, reason):
    failure = answer(IntensityPrompts(load_segmenter()), noise, prompt)
    assert isinstance(failure, SegmentationFailure)
    assert failure.reason == reason
    assert failure.detail


def test_a_failure_of_the_engine_stays_its_own(lesion):
    assert answer(IntensityPrompts(Recorder(Line, fails=True)), lesion[0], CLICK) == SegmentationFailure(
        "a", "numerical"
    )


def test_every_job_of_a_stream_is_answered_once_and_pulled_when_wanted(lesion, noise):
    volume, _ = lesion
    pulled = []

    def jobs():
        for i in itertools.count():
            pulled.append(i)
            bad = (SegmentationJob(str(i), noise, (CLICK,)), SegmentationJob(str(i), volume, (Box(3, (1, 1), (2, 2)),)))
            yield (*bad, SegmentationJob(str(i), volume, (CLICK,)), SegmentationJob(str(i), volume, (ARROW,)))[i % 4]

    stream = IntensityPrompts(load_segmenter("ellipsoid")).segment(jobs())
    next(stream)
    assert len(pulled) <= 2
    found = [next(stream) for _ in range(10)]
    assert len(pulled) <= 12
    assert [int(one.job_id) for one in found] == list(range(1, 11))
    assert [isinstance(one, Mask) for one in found] == [i % 4 > 1 for i in range(1, 11)]
    last = list(IntensityPrompts(load_segmenter("ellipsoid")).segment([SegmentationJob("a", noise, (CLICK,))]))
    assert [one.job_id for one in last] == ["a"]


def test_an_engine_that_measures_nothing_is_refused():
    with pytest.raises(ValueError, match="recorder segments from none of"):
        IntensityPrompts(Recorder(Points, MaskPrompt))
