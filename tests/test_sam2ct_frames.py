"""What the network is shown and told, and the way back: no shift of half a pixel on either."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from sam2ct_models import PLAIN, Ball, BrightModel, answers_of, dice, engine_of, line_on, volume_of
from torch import Tensor

from segmentation import (
    Arrow,
    Bidimensional,
    Box,
    Line,
    Mask,
    MaskPrompt,
    Points,
    SegmentationFailure,
    SegmentationJob,
    Volume,
)
from segmentation.sam2ct.config import IMAGE_SIZES, SAM2CTConfig
from segmentation.sam2ct.frames import Frame, region_of_interest, whole_slices
from segmentation.sam2ct.prompts import NetworkPrompt, network_prompt
from segmentation.types import Prompt

ROIS = ("full", "auto", "fit")


def segment(
    prompt: Prompt, volume: Volume, config: SAM2CTConfig, **options: object
) -> tuple[Mask | SegmentationFailure, BrightModel]:
    model = BrightModel(config)
    return answers_of(engine_of(model, **options), [SegmentationJob("0", volume, (prompt,))])["0"], model


def centre_of(mask: Mask, z: int) -> np.ndarray:
    """(x, y) centroid of one slice, in pixels of the volume."""
    rows, columns = np.nonzero(mask.voxels[z - mask.offset[0]])
    return np.array([columns.mean() + mask.offset[2], rows.mean() + mask.offset[1]])


def told(model: BrightModel) -> tuple[np.ndarray, list[int]]:
    """(P, 2) points and labels of the only prompt of points."""
    (prompt,) = model.prompts
    return prompt.points[0].numpy(), prompt.labels[0].tolist()


# ---- there and back --------------------------------------------------------------------------------------------------


@settings(max_examples=60)
@given(
    roi=st.sampled_from(ROIS),
    transposed=st.booleans(),
    image_size=st.sampled_from([128, 512]),
    shape=st.tuples(st.integers(100, 180), st.integers(100, 180)),
    row_mm=st.floats(0.7, 1.4),
    column_mm=st.floats(0.7, 1.4),
    place=st.tuples(st.floats(0.3, 0.7), st.floats(0.3, 0.7)),
)
def test_masks_land_where_the_lesion_is(  # noqa: PLR0917 - hypothesis names them
    roi: str,
    transposed: bool,
    image_size: int,
    shape: tuple[int, int],
    row_mm: float,
    column_mm: float,
    place: tuple[float, float],
) -> None:
    config = PLAIN.with_changes(roi=roi, transpose_slices=transposed, image_size=image_size)
    x, y = place[0] * shape[1], place[1] * shape[0]
    ball = Ball(0, 1, x, y, 22.0)
    volume = volume_of((3, *shape), ball, spacing_mm=(2.0, row_mm, column_mm))
    half = 22.0 * 0.8 / column_mm
    mask, _ = segment(Line(0, (x - half, y), (x + half, y)), volume, config, guards=False)
    for z in (0, 1):
        assert np.abs(centre_of(mask, z) - (x, y)).max() < 0.2
    assert len(mask.voxels) == 2
    assert dice(mask, volume.voxels > 0) > 0.96


@settings(max_examples=40)
@given(
    roi=st.sampled_from(ROIS),
    transposed=st.booleans(),
    shape=st.tuples(st.integers(60, 140), st.integers(60, 140)),
    row_mm=st.floats(0.7, 1.4),
    column_mm=st.floats(0.7, 1.4),
    end=st.tuples(st.floats(0.05, 0.95), st.floats(0.05, 0.95)),
)
def test_a_point_is_told_where_it_is_shown(  # noqa: PLR0917 - hypothesis names them
    roi: str, transposed: bool, shape: tuple[int, int], row_mm: float, column_mm: float, end: tuple[float, float]
) -> None:
    """A bright spot in the voxels and the end of a line on it meet in the network's own pixels."""
    config = PLAIN.with_changes(roi=roi, transpose_slices=transposed, image_size=512)
    x, y = round(end[0] * (shape[1] - 1)), round(end[1] * (shape[0] - 1))
    volume = volume_of((1, *shape), spacing_mm=(2.0, row_mm, column_mm))
    volume.voxels[:] = -500
    volume.voxels[0, y, x] = 500
    centre = (x + 6.0 if x < shape[1] / 2 else x - 6.0, float(y))
    _, model = segment(Line(0, (x, y), centre), volume, config)
    bright = model.images[0][0].numpy().astype(np.float64)
    bright = bright - bright.min()
    rows, columns = np.indices(bright.shape)
    seen = np.array([(columns * bright).sum(), (rows * bright).sum()]) / bright.sum()
    clear = min(x, y, shape[1] - 1 - x, shape[0] - 1 - y) > 0  # else a border cuts what resizing spreads
    assert not clear or np.abs(told(model)[0][0] - seen).max() < 0.02


@pytest.mark.parametrize("roi", ROIS)
@pytest.mark.parametrize("transposed", [False, True])
def test_coordinates_are_of_pixel_centres(roi: str, transposed: bool) -> None:
    config = PLAIN.with_changes(roi=roi, transpose_slices=transposed, image_size=512)
    volume = volume_of((1, 160, 200), spacing_mm=(2.0, 1.2, 0.9))
    line = Line(0, (150.0, 21.0), (170.0, 25.5))
    _, model = segment(line, volume, config)
    asked = network_prompt(line, volume, point_types=7)
    frame = region_of_interest(whole_slices(volume, config), asked, config)
    expected = [
        (
            (x - frame.left + 0.5) * frame.side / frame.columns - 0.5,
            (y - frame.top + 0.5) * frame.side / frame.rows - 0.5,
        )
        for x, y in (line.start, line.end)
    ]
    points, labels = told(model)
    assert points == pytest.approx(np.array(expected)[:, ::-1] if transposed else np.array(expected), abs=1e-4)
    assert labels == [4, 4]
    assert (frame is frame.whole) == (roi == "full")


# ---- regions of interest ---------------------------------------------------------------------------------------------


@settings(max_examples=200)
@given(
    roi=st.sampled_from(["auto", "fit"]),
    image_size=st.sampled_from(IMAGE_SIZES),
    shape=st.tuples(st.integers(64, 700), st.integers(64, 700)),
    row_mm=st.floats(0.4, 2.0),
    column_mm=st.floats(0.4, 2.0),
    ends=st.tuples(*[st.floats(0, 1)] * 4),
)
def test_a_region_holds_its_prompt_and_keeps_the_scale(  # noqa: PLR0917 - hypothesis names them
    roi: str,
    image_size: int,
    shape: tuple[int, int],
    row_mm: float,
    column_mm: float,
    ends: tuple[float, float, float, float],
) -> None:
    config = PLAIN.with_changes(roi=roi, image_size=image_size)
    rows, columns = shape
    volume = Volume(np.zeros((1, *shape), np.int16), np.diag([2.0, row_mm, column_mm, 1.0]), "1", "2", ("3",))
    x = [ends[i] * (columns - 1) for i in (0, 1)]
    y = [ends[i] * (rows - 1) for i in (2, 3)]
    extent_mm = max(abs(x[0] - x[1]) * column_mm, abs(y[0] - y[1]) * row_mm)
    if extent_mm < 2.0:
        return
    asked = network_prompt(Line(0, (x[0], y[0]), (x[1], y[1])), volume, point_types=7)
    whole = whole_slices(volume, config)
    full_mm = min(rows * row_mm, columns * column_mm)
    frame, before = region_of_interest(whole, asked, config), 0.0
    steps = 0
    while frame is not whole:
        assert frame.top >= 0 <= frame.left
        assert frame.top + frame.rows <= rows
        assert frame.left + frame.columns <= columns
        assert frame.left - 0.5 <= min(x) <= max(x) <= frame.left + frame.columns - 0.5
        assert frame.top - 0.5 <= min(y) <= max(y) <= frame.top + frame.rows - 0.5
        high_mm, wide_mm = frame.rows * row_mm, frame.columns * column_mm
        assert abs(high_mm - wide_mm) <= (row_mm + column_mm) / 2 + 1e-6
        least = max(3 * extent_mm, 2 * before)
        assert max(high_mm, wide_mm) >= least * 0.99 - max(row_mm, column_mm)
        if roi == "auto":
            assert frame.side in IMAGE_SIZES
            for mm, pixel_mm in ((high_mm, row_mm), (wide_mm, column_mm)):
                assert abs(mm - frame.side * full_mm / image_size) <= pixel_mm / 2 + 1e-6
        else:
            assert frame.side == image_size
        before = min(high_mm, wide_mm)
        frame = region_of_interest(whole, asked, config, larger_than=frame)
        steps += 1
    assert steps <= 9
    assert (frame.rows, frame.columns, frame.side) == (rows, columns, image_size)


@pytest.mark.parametrize(("roi", "sides"), [("auto", [128, 256, 512]), ("fit", [512, 512, 512])])
@pytest.mark.parametrize("prompted", [4, 8])
def test_a_lesion_that_runs_out_of_its_region_is_seen_whole(roi: str, sides: list[int], prompted: int) -> None:
    """On the prompted slice itself, or on a later one; the wide part is found from a small one only so."""
    ball = Ball(2, 8, 60.0, 100.0, 45.0, radii={8: 5.0, 7: 5.0})
    volume = volume_of((10, 160, 160), ball)
    prompt = line_on(Ball(prompted, prompted, 60.0, 100.0, 5.0))
    config = PLAIN.with_changes(roi=roi, image_size=512)
    mask, model = segment(prompt, volume, config, guards=False)
    assert dice(mask, volume.voxels > 0) > 0.98
    assert mask.flags == ()
    on_prompted = [image.shape[-1] for image in model.images]
    assert sorted(set(on_prompted)) == sorted(set(sides))
    assert len(model.prompts) == len(sides)


def test_a_lesion_as_large_as_the_slice_ends_at_the_whole_slice() -> None:
    volume = volume_of((4, 120, 150))
    volume.voxels[1:3] = 400
    config = PLAIN.with_changes(roi="fit", image_size=128)
    mask, model = segment(Line(1, (70.0, 60.0), (76.0, 60.0)), volume, config, guards=False)
    assert mask.voxels.shape == (2, 120, 150)
    assert mask.voxels.all()
    assert len(model.prompts) == 3  # 32 mm, 64 mm, all


def test_a_region_of_one_lesion_serves_the_next_one_too_where_it_is_the_whole_slice() -> None:
    balls = [Ball(1, 4, 40.0, 40.0, 20.0), Ball(2, 5, 100.0, 100.0, 18.0)]
    volume, config = volume_of((7, 140, 140), *balls), PLAIN.with_changes(roi="auto")
    model = BrightModel(config)
    jobs = [SegmentationJob(str(i), volume, (line_on(ball),)) for i, ball in enumerate(balls)]
    answers_of(engine_of(model), jobs)
    assert len(model.encoded) == len(set(model.encoded)) == 7


# ---- what the network is told ----------------------------------------------------------------------------------------

LINE = Line(0, (40.0, 50.0), (60.0, 30.0))
PAIR = Bidimensional(0, ((40.0, 50.0), (60.0, 30.0)), ((44.0, 36.0), (52.0, 44.0)))
CLICKS = Points(0, ((50.0, 40.0), (20.0, 22.0)), (1, 0))
HALF = np.hypot(20 * 0.9, 20 * 1.2) / 2  # mm of LINE on pixels of 1.2 x 0.9 mm
CORNERS = ((50 - HALF / 0.9, 40 - HALF / 1.2), (50 + HALF / 0.9, 40 + HALF / 1.2))
TOLD: list[tuple[Prompt, int, Sequence[tuple[float, float]], list[int], str]] = [
    (LINE, 7, (LINE.start, LINE.end), [4, 4], ""),
    (PAIR, 7, (*PAIR.long_axis, *PAIR.short_axis), [4, 4, 4, 4], ""),
    (Arrow(0, (20.0, 15.0), (45.0, 35.0)), 7, ((20.0, 15.0), (45.0, 35.0)), [5, 6], ""),
    (CLICKS, 7, CLICKS.points, [1, 0], ""),
    (Box(0, (41.0, 32.5), (60.0, 49.0)), 7, ((41.0, 32.5), (60.0, 49.0)), [2, 3], ""),
    (LINE, 4, CORNERS, [2, 3], "line as box"),
    (Line(0, LINE.end, LINE.start), 4, CORNERS, [2, 3], "line as box"),
    (PAIR, 4, ((40.0, 30.0), (60.0, 50.0)), [2, 3], "bidimensional as box"),
    (CLICKS, 4, CLICKS.points, [1, 0], ""),
    (Box(0, (41.0, 32.5), (60.0, 49.0)), 4, ((41.0, 32.5), (60.0, 49.0)), [2, 3], ""),
]


@pytest.mark.parametrize("transposed", [False, True])
@pytest.mark.parametrize(("prompt", "point_types", "points", "labels", "said"), TOLD)
def test_prompts_reach_the_network(  # noqa: PLR0917 - pytest names them
    prompt: Prompt,
    point_types: int,
    points: Sequence[tuple[float, float]],
    labels: list[int],
    said: str,
    transposed: bool,
) -> None:
    config = PLAIN.with_changes(prompt_embeddings=point_types, transpose_slices=transposed)
    volume = volume_of((2, 80, 100), spacing_mm=(2.0, 1.2, 0.9))
    volume.voxels[0, 25:56, 35:66] = 400
    mask, model = segment(prompt, volume, config, guards=False)
    expected = (np.array(points) + 0.5) * (256 / 100, 256 / 80) - 0.5
    assert told(model)[0] == pytest.approx(expected[:, ::-1] if transposed else expected, abs=1e-4)
    assert told(model)[1] == labels
    assert mask.prompt == said
    assert mask.voxels.shape == (1, 31, 31)


def test_prompts_of_one_kind_share_a_call_whatever_lies_between() -> None:
    volume = volume_of((2, 80, 100), Ball(0, 0, 50.0, 40.0, 14.0), spacing_mm=(2.0, 1.2, 0.9))
    prompts = [LINE, PAIR, Line(0, (45.0, 40.0), (55.0, 40.0)), CLICKS, LINE]
    model = BrightModel()
    jobs = [SegmentationJob(str(i), volume, (prompt,)) for i, prompt in enumerate(prompts)]
    assert len(answers_of(engine_of(model), jobs)) == 5
    assert [len(asked.points) for asked in model.prompts] == [3, 1, 1]


def test_an_arrow_needs_a_model_that_knows_arrows() -> None:
    volume = volume_of((1, 80, 100), Ball(0, 0, 50.0, 40.0, 14.0))
    arrow = Arrow(0, (20.0, 15.0), (45.0, 35.0))
    engine = engine_of(BrightModel(PLAIN.with_changes(prompt_embeddings=4)))
    (failure,) = engine.segment([SegmentationJob("0", volume, (arrow,))])
    assert failure == SegmentationFailure("0", "unsupported_prompt", "sam2ct does not segment from Arrow")
    assert Arrow not in engine.supports
    assert Arrow in engine_of(BrightModel()).supports


@pytest.mark.parametrize("roi", ROIS)
@pytest.mark.parametrize("transposed", [False, True])
def test_a_drawn_mask_is_the_answer_on_its_slice(roi: str, transposed: bool) -> None:
    config = PLAIN.with_changes(roi=roi, transpose_slices=transposed)
    ball = Ball(1, 5, 50.0, 30.0, 9.0)
    volume = volume_of((8, 90, 120), ball)
    drawn = np.random.default_rng(0).random((90, 120)) > 0.6
    drawn[:24], drawn[37:], drawn[:, :45], drawn[:, 55:] = False, False, False, False
    mask, model = segment(MaskPrompt(3, drawn), volume, config, guards=False)
    assert np.array_equal(mask.in_volume(volume.voxels.shape)[3], drawn)
    assert mask.offset[0] == 1
    assert len(mask.voxels) == 5
    assert mask.slice_confidence[2] == mask.slice_stability[2] == 1
    assert np.abs(centre_of(mask, 2) - (50.0, 30.0)).max() < 0.3
    (asked,) = model.prompts
    assert isinstance(asked, Tensor)
    share = float(asked.mean()) * (frame_of(volume, config, MaskPrompt(3, drawn)).rows ** 2)
    assert roi == "full" or share == pytest.approx(drawn.sum(), rel=0.35)


def frame_of(volume: Volume, config: SAM2CTConfig, prompt: Prompt) -> Frame:
    asked = network_prompt(prompt, volume, point_types=config.prompt_embeddings)
    if not isinstance(asked, NetworkPrompt):
        raise TypeError(prompt)
    return region_of_interest(whole_slices(volume, config), asked, config)


def test_a_drawn_mask_smaller_than_a_pixel_of_the_network_is_not_lost() -> None:
    ball = Ball(0, 2, 150.0, 91.0, 8.0)
    volume = volume_of((4, 300, 320), ball)
    drawn = np.zeros((300, 320), np.bool_)
    drawn[91, 150] = True
    mask, model = segment(MaskPrompt(1, drawn), volume, PLAIN.with_changes(image_size=128), guards=False)
    ((asked,),) = model.prompts
    _, rows, columns = np.nonzero(asked.numpy())
    assert np.abs((np.array([columns.mean(), rows.mean()]) + 0.5) * (320 / 128, 300 / 128) - (150.5, 91.5)).max() < 2
    assert len(rows) == 1
    assert len(mask.voxels) == 3
