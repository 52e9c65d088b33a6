"""Bad input to the SAM2 family costs its own lesion, or says at once what is wrong; odd input is just segmented."""

from __future__ import annotations

from math import inf, nan
from pathlib import Path

import numpy as np
import pytest
import torch
from sam2ct_models import (
    PLAIN,
    Ball,
    BrightModel,
    answers_of,
    bright_part,
    dice,
    engine_of,
    jobs_on,
    line_on,
    same,
    slices_of,
    volume_of,
)

from segmentation import (
    Arrow,
    Bidimensional,
    Box,
    EngineError,
    GeometryError,
    Line,
    Mask,
    MaskPrompt,
    Points,
    Prompt,
    SegmentationFailure,
    SegmentationJob,
    Volume,
    load_segmenter,
)
from segmentation.sam2ct.config import NANO
from segmentation.sam2ct.model import build_model
from segmentation.sam2ct.weights import save_weights

SHAPE = (8, 64, 80)
GOOD = Ball(2, 5, 40.0, 30.0, 7.0)
SMALL = PLAIN.with_changes(image_size=128)
OUTLINE = np.zeros(SHAPE[1:], np.bool_)


@pytest.fixture(scope="module")
def weights(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Random nano weights."""
    return save_weights(build_model(NANO, seed=0), tmp_path_factory.mktemp("weights") / "nano.safetensors")


# ---- prompts ---------------------------------------------------------------------------------------------------------

BAD_PROMPTS: dict[str, tuple[Prompt, str]] = {
    "line before the first slice": (Line(-1, (30.0, 30.0), (40.0, 30.0)), "slice -1 is not one of the 8 slices"),
    "line after the last slice": (Line(8, (30.0, 30.0), (40.0, 30.0)), "slice 8 is not one of the 8 slices"),
    "line beside the slice": (Line(3, (90.0, 30.0), (99.0, 30.0)), "outside the 64 rows x 80 columns"),
    "line that leaves the slice": (Line(3, (-200.0, 30.0), (260.0, 30.0)), "outside the 64 rows x 80 columns"),
    "line of no length": (Line(3, (30.0, 30.0), (30.0, 30.0)), "has no direction"),
    "axes of no length": (Bidimensional(3, ((9.0, 9.0), (9.0, 9.0)), ((8.0, 9.0), (10.0, 9.0))), "has no direction"),
    "axes on no slice": (Bidimensional(99, ((9.0, 9.0), (20.0, 9.0)), ((14.0, 5.0), (14.0, 12.0))), "slice 99"),
    "arrow of no length": (Arrow(3, (9.0, 9.0), (9.0, 9.0)), "points nowhere"),
    "arrow that leaves the slice": (Arrow(3, (70.0, 30.0), (85.0, 30.0)), "outside the 64 rows x 80 columns"),
    "click beside the slice": (Points(3, ((30.0, 30.0), (30.0, 64.0)), (1, 0)), "outside the 64 rows x 80 columns"),
    "clicks outside only": (Points(3, ((30.0, 30.0),), (0,)), "at least one 1"),
    "click of a strange label": (Points(3, ((30.0, 30.0), (31.0, 30.0)), (1, 4)), "labels 0 and 1"),
    "box of no height": (Box(3, (20.0, 30.0), (40.0, 30.0)), "lower corner"),
    "box upside down": (Box(3, (20.0, 40.0), (40.0, 30.0)), "lower corner"),
    "box beside the slice": (Box(3, (90.0, 20.0), (99.0, 30.0)), "outside the 64 rows x 80 columns"),
    "empty mask": (MaskPrompt(3, OUTLINE), "marks no lesion"),
    "mask of another shape": (MaskPrompt(3, np.ones((80, 64), np.bool_)), r"of shape \(80, 64\)"),
    "mask on no slice": (MaskPrompt(-2, ~OUTLINE), "slice -2"),
}


@pytest.mark.parametrize("point_types", [4, 7])
def test_a_bad_prompt_costs_its_own_lesion(point_types: int) -> None:
    model = BrightModel(SMALL.with_changes(prompt_embeddings=point_types))
    volume, other = volume_of(SHAPE, GOOD), volume_of(SHAPE, GOOD, seed=1)
    jobs = [SegmentationJob(name, volume, (prompt,)) for name, (prompt, _) in BAD_PROMPTS.items()]
    good = jobs_on(volume, GOOD, name="good ")
    jobs = [*jobs[:5], *good, *jobs[5:], *jobs_on(other, GOOD, name="other ")]
    answers = answers_of(engine_of(model), iter(jobs))
    assert answers.keys() == {job.job_id for job in jobs}
    for name, (prompt, detail) in BAD_PROMPTS.items():
        answer = answers[name]
        assert isinstance(answer, SegmentationFailure)
        unknown = point_types == 4 and isinstance(prompt, Arrow)
        assert answer.reason == ("unsupported_prompt" if unknown else "bad_prompt")
        if not unknown:
            with pytest.raises(ValueError, match=detail):
                raise ValueError(answer.detail)
    for name in ("good 0", "other 0"):
        assert slices_of(answers[name]) == (2, 5)


@pytest.mark.parametrize("bad", [nan, inf, -inf])
def test_a_prompt_of_no_number_is_no_prompt(bad: float) -> None:
    for make in (
        lambda: Line(3, (30.0, bad), (40.0, 30.0)),
        lambda: Bidimensional(3, ((30.0, 30.0), (40.0, 30.0)), ((bad, 30.0), (35.0, 34.0))),
        lambda: Arrow(3, (bad, 30.0), (40.0, 30.0)),
        lambda: Points(3, ((30.0, bad),), (1,)),
        lambda: Box(3, (bad, 30.0), (40.0, 40.0)),
    ):
        with pytest.raises(GeometryError, match="finite"):
            make()


def test_what_the_network_does_not_see_is_a_failure_not_an_empty_mask() -> None:
    volume = volume_of(SHAPE, GOOD)
    wrong_slice, wrong_place = line_on(GOOD, 7), Line(3, (5.0, 50.0), (12.0, 50.0))
    jobs = [SegmentationJob(str(i), volume, (prompt,)) for i, prompt in enumerate((wrong_slice, wrong_place))]
    answers = answers_of(engine_of(BrightModel(SMALL)), [*jobs, *jobs_on(volume, GOOD, name="good ")])
    assert [answers[key].reason for key in "01"] == ["empty_mask"] * 2
    assert isinstance(answers["good 0"], Mask)


def test_nothing_gives_nothing() -> None:
    assert list(engine_of(BrightModel(SMALL)).segment([])) == []


# ---- volumes ---------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("roi", ["full", "auto", "fit"])
@pytest.mark.parametrize(
    ("shape", "spacing_mm", "balls"),
    [
        pytest.param((1, 64, 64), (2.0, 0.8, 0.8), [Ball(0, 0, 30.0, 30.0)], id="one slice"),
        pytest.param((2, 64, 64), (2.0, 0.8, 0.8), [Ball(0, 1, 30.0, 30.0), Ball(0, 0, 50.0, 50.0)], id="two slices"),
        pytest.param(
            (3000, 16, 16), (0.3, 3.2, 3.2),
            [Ball(0, 2, 6.0, 6.0, 10.0), Ball(1400, 1460, 8.0, 8.0, 12.0), Ball(2999, 2999, 6.0, 8.0, 10.0)],
            id="3,000 slices",
        ),
        pytest.param((3, 2048, 2048), (2.0, 0.2, 0.2), [Ball(0, 1, 600.0, 1500.0, 25.0)], id="2048 x 2048"),
        pytest.param((4, 60, 300), (5.0, 2.0, 0.4), [Ball(1, 3, 200.0, 20.0, 18.0)], id="pixels of 2 x 0.4 mm"),
        pytest.param((4, 64, 64), (2.0, 0.8, 0.8), [Ball(0, 3, 9.0, 54.0, 9.0)], id="in the corner"),
    ],
)  # fmt: skip
def test_volumes_of_any_shape(
    roi: str, shape: tuple[int, int, int], spacing_mm: tuple[float, float, float], balls: list[Ball]
) -> None:
    """Radii are of 0.8 mm whatever the pixels."""
    volume = volume_of(shape, *balls, spacing_mm=spacing_mm)
    width = 0.8 / spacing_mm[2]
    jobs = [
        SegmentationJob(str(i), volume, (Line(b.middle, (b.x - b.radius * width, b.y), (b.x + b.radius * width, b.y)),))
        for i, b in enumerate(balls)
    ]
    model = BrightModel(PLAIN.with_changes(roi=roi))
    answers = answers_of(engine_of(model), jobs)
    for i, ball in enumerate(balls):
        mask = answers[str(i)]
        assert (slices_of(mask), mask.flags) == ((ball.first, ball.last), ())
        truth = np.zeros(shape, np.bool_)
        truth[ball.first : ball.last + 1] = volume.voxels[ball.first : ball.last + 1] > 0
        found = np.count_nonzero(mask.in_volume(shape) & truth) / np.count_nonzero(mask.voxels)
        assert found > 0.9
    assert len(model.encoded) < 80  # of 3,000: those that were needed


@pytest.mark.parametrize("shape", [(1, 64, 64), (3, 2048, 2048), (3, 7, 700), (2, 1, 64)])
@pytest.mark.parametrize("engine", ["sam2ct", "sam2-ft"])
def test_a_real_network_takes_volumes_of_any_shape(shape: tuple[int, int, int], engine: str, weights: Path) -> None:
    volume = Volume(np.zeros(shape, np.int16), np.diag([2.0, 0.5, 0.5, 1.0]), "1", "2", ("3",) * shape[0])
    volume.voxels[:] = np.random.default_rng(0).integers(-2000, 4000, shape, dtype=np.int16)
    row, column = shape[1] // 2, shape[2] // 2
    lines = [Line(z, (column - 3.0, float(row)), (column + 3.0, float(row))) for z in (0, shape[0] - 1)]
    jobs = [SegmentationJob(str(i), volume, (line,)) for i, line in enumerate(lines)]
    answers = answers_of(load_segmenter(engine, weights=weights, device="cpu", extent=(1, 1)), jobs)
    assert answers.keys() == {"0", "1"}
    for answer in answers.values():
        assert isinstance(answer, Mask) or answer.reason == "empty_mask"


@pytest.mark.parametrize("roi", ["full", "auto", "fit"])
def test_a_tilted_volume_is_followed_along_its_stack(roi: str) -> None:
    """Propagation is from slice to slice of the scanner, whose pixels a tilt does not shear."""
    ball = Ball(1, 6, 60.0, 50.0, 8.0)
    straight = volume_of((8, 110, 120), ball)
    affine = straight.affine.copy()
    affine[1, 0] = 0.9  # each slice 0.9 mm further along the rows' direction, 24 degrees at 2 mm
    tilted = Volume(straight.voxels, affine, "1.2", "1.9", straight.sop_instance_uids)
    config = PLAIN.with_changes(roi=roi)
    one, other = (
        answers_of(engine_of(BrightModel(config)), jobs_on(volume, ball))["0"] for volume in (straight, tilted)
    )
    assert slices_of(other) == (1, 6)
    assert dice(other, bright_part(tilted, ball)) > 0.95
    assert same(one, other)


def test_voxels_of_another_type_are_no_volume() -> None:
    for voxels in (np.zeros((2, 8, 8)), np.zeros((2, 8, 8), np.uint16), np.zeros((8, 8), np.int16)):
        with pytest.raises(GeometryError, match="3D int16"):
            Volume(voxels, np.eye(4), "1", "2", ("3", "4"))


def test_the_whole_range_of_int16_is_ct() -> None:
    volume = volume_of(SHAPE, GOOD)
    volume.voxels[volume.voxels > 0] = 32767
    volume.voxels[volume.voxels < 0] = -32768
    mask = answers_of(engine_of(BrightModel(SMALL)), jobs_on(volume, GOOD))["0"]
    assert dice(mask, bright_part(volume, GOOD)) > 0.95


# ---- devices, options, weights ---------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("device", "gpus", "message"),
    [
        ("cuda", 0, "no CUDA device is there"),
        ("cuda:0", 0, "no CUDA device is there"),
        ("cuda:1", 1, "not one of the 1 CUDA devices"),
        ("cuda:99", 2, "not one of the 2 CUDA devices"),
        ("cuda:1000", 2, "not one of the 2 CUDA devices"),
        ("tpu", 0, "'tpu' is no device"),
        ("", 0, "is no device"),
        ("cuda:-1", 1, "is no device"),
        ("mps", 0, "not on 'mps'"),
        ("meta", 0, "not on 'meta'"),
    ],
)
def test_a_device_that_is_not_there(
    device: str, gpus: int, message: str, weights: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(torch.cuda, "is_available", lambda: gpus > 0)
    monkeypatch.setattr(torch.cuda, "device_count", lambda: gpus)
    with pytest.raises(EngineError, match=message):
        load_segmenter("sam2ct", weights=weights, device=device)
    with pytest.raises(EngineError, match=message):
        engine_of(BrightModel(), device=device)


def test_without_a_gpu_auto_is_the_cpu(weights: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(torch.cuda, "is_available", lambda: False)
    revisions = {load_segmenter("sam2ct", weights=weights, device=device).revision for device in (None, "auto", "cpu")}
    assert len(revisions) == 1


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"sharpness": 2}, "takes no sharpness"),
        ({"dtype": "fp16"}, "dtype must be one of fp32, bf16"),
        ({"dtype": torch.float32}, "dtype must be one of fp32, bf16"),
        ({"batch": 0}, "batch must be at least 2"),
        ({"batch": 1}, "batch must be at least 2"),
        ({"group": 0}, "group must be at least 1"),
        ({"features_mb": -1.0}, "features_mb must be at least 0"),
        ({"features_mb": nan}, "features_mb must be at least 0"),
        ({"roi": "square"}, "roi must be"),
        ({"image_size": 300}, "image_size must be"),
        ({"hu_clip": (200.0, -100.0)}, "hu_clip must be"),
        ({"hu_clip": (nan, 100.0)}, "hu_clip must be"),
        ({"hu_clip": (-inf, inf)}, "hu_clip must be"),
        ({"volumes": 0}, "volumes must be at least 1"),
        ({"batch": "8"}, "batch must be at least 2, got '8'"),
        ({"group": 2.5}, "group must be at least 1"),
        ({"hu_clip": 5}, "hu_clip must be"),
        ({"hu_clip": ("a", "b")}, "hu_clip must be"),
        ({"image_size": "512"}, "image_size must be"),
        ({"mcm": "False"}, "memory_conditioned must be of type bool, got 'False'"),
        ({"guards": "False"}, "guards must be True or False, got 'False'"),
        ({"compile": "no"}, "compile must be True or False"),
        ({"config": "nano"}, "config must be a SAM2CTConfig"),
    ],
)
def test_a_wrong_option(options: dict[str, object], message: str, weights: Path) -> None:
    with pytest.raises(ValueError, match=message):
        load_segmenter("sam2ct", weights=weights, device="cpu", **options)


def test_an_unknown_engine_or_one_that_takes_no_weights(weights: Path) -> None:
    with pytest.raises(ValueError, match=r"unknown segmentation engine 'sam3'; known: .*sam2ct"):
        load_segmenter("sam3")
    with pytest.raises(ValueError, match=r"unknown segmentation engine 'intensity\+'"):
        load_segmenter("intensity+")
    with pytest.raises(ValueError, match="assumed_diameter_mm must be positive, got 'abc'"):
        load_segmenter("ellipsoid", assumed_diameter_mm="abc")
    with pytest.raises(ValueError, match="takes no weights"):
        load_segmenter("classical", weights=weights)
    with pytest.raises(ValueError, match="runs on the CPU"):
        load_segmenter("ellipsoid", device="cuda")


@pytest.mark.parametrize("engine", ["sam2", "medsam2", "sam2ct", "sam2-ft"])
def test_missing_weights_say_what_to_do(engine: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delenv("COHORT_WEIGHTS", raising=False)
    for place in (None, tmp_path, tmp_path / "gone.pt"):
        with pytest.raises(
            EngineError, match=rf"no weights for the engine '{engine}'.*COHORT_WEIGHTS.*without weights"
        ):
            load_segmenter(engine, weights=place, device="cpu")


def test_weights_without_line_embeddings_are_not_sam2ct(tmp_path: Path) -> None:
    path = save_weights(build_model(NANO.with_changes(prompt_embeddings=4), seed=0), tmp_path / "w.safetensors")
    with pytest.raises(EngineError, match="no line and arrow embeddings"):
        load_segmenter("sam2ct", weights=path, device="cpu")
