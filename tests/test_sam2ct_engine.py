"""The wavefront by what it does: on a network that sees exactly what was drawn into the voxels (`BrightModel`)."""

from __future__ import annotations

import gc
import subprocess
import sys
import weakref
from collections.abc import Callable, Iterator
from contextlib import nullcontext
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from sam2ct_models import (
    CROWD,
    SHAPE,
    SMALL,
    Ball,
    BrightModel,
    answers_of,
    bright_part,
    dice,
    engine_of,
    jobs_on,
    line_on,
    lost,
    same,
    seeing_nano,
    slices_of,
    volume_of,
)

from segmentation import Arrow, Mask, Points, SegmentationJob, load_segmenter
from segmentation.sam2ct.config import NANO
from segmentation.sam2ct.model import build_model
from segmentation.sam2ct.propagation import Plan, Wavefront
from segmentation.sam2ct.steps import Features, Recall
from segmentation.sam2ct.weights import save_weights

# ---- from the prompted slice to the first empty one ------------------------------------------------------------------


@settings(max_examples=40)
@given(st.data())
def test_a_lesion_is_followed_both_ways_to_its_first_empty_slice(data: st.DataObject) -> None:
    first = data.draw(st.integers(0, 9))
    last = data.draw(st.integers(first, 9))
    prompted = data.draw(st.integers(first, last))
    gap = data.draw(st.sampled_from([None, *(z for z in range(first, last + 1) if z != prompted)]))
    ball = Ball(first, last, 30.0, 33.0, 7.0)
    volume = volume_of((10, 64, 64), ball)
    if gap is not None:
        volume.voxels[gap] = -400
        first, last = (first, gap - 1) if gap > prompted else (gap + 1, last)
    mask = answers_of(engine_of(BrightModel(SMALL)), [SegmentationJob("0", volume, (line_on(ball, prompted),))])["0"]
    assert (slices_of(mask), mask.flags) == ((first, last), ())
    truth = bright_part(volume, Ball(first, last, 30.0, 33.0, 7.0))
    assert dice(mask, truth) > 0.95
    assert len(mask.slice_confidence) == len(mask.slice_stability) == last - first + 1
    assert all(0 < number <= 1 for number in (*mask.slice_confidence, *mask.slice_stability))


@pytest.mark.parametrize("options", [{}, {"batch": 2}, {"batch": 5, "group": 3}, {"features_mb": 0.0}])
def test_lesions_do_not_disturb_each_other(options: dict[str, float]) -> None:
    volumes = [volume_of(SHAPE, *CROWD, seed=seed) for seed in range(3)]
    jobs = [job for i, v in enumerate(volumes) for job in jobs_on(v, *CROWD, name=f"{i}-")]
    alone = {j.job_id: answers_of(engine_of(BrightModel(SMALL)), [j])[j.job_id] for j in jobs}
    together = answers_of(engine_of(BrightModel(SMALL), **options), iter(jobs))
    assert together.keys() == alone.keys()
    for job_id, mask in together.items():
        ball = CROWD[int(job_id[-1])]
        assert slices_of(mask) == (ball.first, ball.last)
        assert dice(mask, bright_part(volumes[int(job_id[0])], ball)) > 0.9
        assert same(mask, alone[job_id])


# ---- what it costs ---------------------------------------------------------------------------------------------------


def test_a_slice_is_encoded_once_however_many_lesions_need_it() -> None:
    volumes = [volume_of(SHAPE, *CROWD, seed=seed) for seed in range(3)]
    jobs = [job for i, v in enumerate(volumes) for job in jobs_on(v, *CROWD, name=f"{i}-")]
    model = BrightModel(SMALL)
    answers_of(engine_of(model), jobs)
    assert len(model.encoded) == len(set(model.encoded)) == 3 * 24


def test_slices_that_no_lesion_comes_to_are_not_encoded() -> None:
    balls = [Ball(3, 5, 20.0, 20.0), Ball(14, 14, 40.0, 40.0)]
    model = BrightModel(SMALL)
    answers_of(engine_of(model), jobs_on(volume_of(SHAPE, *balls), *balls))
    assert len(model.encoded) == len({2, 3, 4, 5, 6, 13, 14, 15})  # an empty slice beyond either end tells the end


def test_a_volume_that_comes_back_while_it_is_under_way_is_not_encoded_again() -> None:
    volumes = [volume_of(SHAPE, *CROWD, seed=seed) for seed in range(2)]
    jobs = [
        j for pair in zip(*(jobs_on(v, *CROWD, name=f"{i}-") for i, v in enumerate(volumes)), strict=True) for j in pair
    ]
    model = BrightModel(SMALL)
    answers_of(engine_of(model), jobs)
    assert len(model.encoded) == len(set(model.encoded)) == 2 * 24


def test_little_memory_for_features_costs_encodings_not_masks() -> None:
    balls = [Ball(0, 23, 12.0, 12.0, 5.0), Ball(0, 23, 40.0, 40.0, 5.0)]
    volume = volume_of(SHAPE, *balls)
    jobs = [
        SegmentationJob(str(i), volume, (line_on(b, z),)) for i, (b, z) in enumerate(zip(balls, (2, 21), strict=True))
    ]
    rich, poor = BrightModel(SMALL), BrightModel(SMALL)
    enough = answers_of(engine_of(rich, batch=2), jobs)
    scarce = answers_of(engine_of(poor, batch=2, features_mb=0.02), jobs)
    assert len(rich.encoded) == 24 < len(poor.encoded)
    assert all(same(enough[job.job_id], scarce[job.job_id]) for job in jobs)


def test_features_are_dropped_when_no_lesion_can_come_to_their_slice_any_more() -> None:
    held: list[int] = []

    def count(what: str, _rows: int) -> None:
        if what == "track" and len(model.tracked) == 15:
            gc.collect()
            held.append(sum(type(thing) is Features for thing in gc.get_objects()))

    model = BrightModel(SMALL, obstacle=count)
    ball = Ball(0, 39, 30.0, 30.0)
    answers_of(engine_of(model), jobs_on(volume_of((40, 64, 64), ball), ball))
    assert held
    assert max(held) <= 6  # of two passes: each one's slice, and what is just being put together


@pytest.mark.parametrize("batch", [2, 3, 6, 8])
def test_the_batch_is_filled_and_never_exceeded(batch: int) -> None:
    volumes = [volume_of(SHAPE, *CROWD, seed=seed) for seed in range(3)]
    jobs = [job for i, v in enumerate(volumes) for job in jobs_on(v, *CROWD, name=f"{i}-")]
    model = BrightModel(SMALL)
    plan = Plan(batch, group=100, ragged=True)  # ragged: one call of the network for one step of all passes
    front = Wavefront(model, plan, engine="test@1", weights_sha256=None, computing=nullcontext)
    masks = {mask.job_id: mask for mask in front.run(jobs)}
    assert len(masks) == len(jobs)
    assert max(model.tracked) == batch
    needed = sum(
        24 - 1 if n == "0" else 5 + 2 if n == "1" else 2 if n == "2" else 9 + 2 if n == "3" else 4 for n in "01234" * 3
    )
    assert sum(model.tracked) == needed  # a pass that has ended takes no more place
    alone = answers_of(engine_of(BrightModel(SMALL)), jobs)
    assert all(same(masks[key], alone[key]) for key in masks)


def stream_of(make: Callable[[int], list[SegmentationJob]], n: int, alive: list[int]) -> Iterator[SegmentationJob]:
    """Jobs of ``n`` volumes, made when asked for; ``alive`` gets the volumes in memory at each."""
    voxels: list[weakref.ref[np.ndarray]] = []
    for i in range(n):
        jobs = make(i)
        voxels.append(weakref.ref(jobs[0].volume.voxels))
        alive.append(sum(ref() is not None for ref in voxels))
        while jobs:
            yield jobs.pop(0)


@pytest.mark.parametrize(
    ("shape", "ball", "painted"),
    [
        pytest.param((6, 48, 48), Ball(1, 4, 20.0, 20.0, 5.0), True, id="lesions"),
        pytest.param((1, 48, 48), Ball(0, 0, 20.0, 20.0, 5.0), True, id="volumes of one slice"),
        pytest.param((6, 48, 48), Ball(2, 2, 20.0, 20.0, 5.0), False, id="nothing to see"),
        pytest.param((6, 48, 48), Ball(9, 9, 20.0, 20.0, 5.0), False, id="prompts beside the volume"),
    ],
)
def test_no_more_volumes_are_taken_than_are_under_way(shape: tuple[int, int, int], ball: Ball, painted: bool) -> None:
    def make(i: int) -> list[SegmentationJob]:
        return jobs_on(volume_of(shape, *([ball] if painted else []), seed=i), ball, name=f"{i}-")

    alive: list[int] = []
    taken_at_first = 0
    answered = 0
    for _ in engine_of(BrightModel(SMALL), batch=4).segment(stream_of(make, 30, alive)):
        taken_at_first = taken_at_first or len(alive)
        answered += 1
    assert answered == len(alive) == 30
    assert max(alive) <= 4  # two lesions under way, one volume ahead, and the one that is being made
    assert taken_at_first <= 4


# ---- guards ----------------------------------------------------------------------------------------------------------

LEAK = {z: 10 ** (0.2 * (z - 10)) * 6.0 for z in range(11, 16)}  # each slice 2.5 times the one before
GUARDED = {
    "stopped_area_jump": (Ball(5, 15, 40.0, 40.0, 6.0, radii={12: 3.0, 13: 8.0}), 12),
    "stopped_drift": (Ball(5, 15, 40.0, 40.0, 6.0, shifts=dict.fromkeys(range(13, 16), 9.0)), 12),
    "stopped_flood": (Ball(5, 15, 40.0, 40.0, 6.0, radii={z: min(r, 30.0) for z, r in LEAK.items()}), 11),
}


@pytest.mark.parametrize("flag", GUARDED)
@pytest.mark.parametrize("mirrored", [False, True])
def test_a_guard_stops_its_own_direction_and_says_so(flag: str, mirrored: bool) -> None:
    ball, last = GUARDED[flag]
    volume, well = volume_of((20, 80, 80), ball), (5, last)
    z = 10
    if mirrored:
        volume.voxels[:] = volume.voxels[::-1].copy()
        well, z = (19 - last, 19 - 5), 19 - z
    job = SegmentationJob("0", volume, (line_on(Ball(z, z, 40.0, 40.0, 6.0)),))
    guarded = answers_of(engine_of(BrightModel(SMALL)), [job])["0"]
    assert (guarded.flags, slices_of(guarded)) == ((flag,), well)
    free = answers_of(engine_of(BrightModel(SMALL), guards=False), [job])["0"]
    assert (free.flags, slices_of(free)) == ((), (4, 14) if mirrored else (5, 15))


def test_a_flooded_prompted_slice_is_kept_and_not_followed() -> None:
    ball = Ball(5, 15, 40.0, 40.0, 20.0)
    job = SegmentationJob("0", volume_of((20, 80, 80), ball), (line_on(Ball(10, 10, 40.0, 40.0, 6.0)),))
    mask = answers_of(engine_of(BrightModel(SMALL)), [job])["0"]
    assert (mask.flags, slices_of(mask)) == (("stopped_flood",), (10, 10))


@pytest.mark.parametrize("roi", ["full", "fit"])
def test_pieces_apart_from_the_lesion_are_left_out_and_do_not_widen_the_region(roi: str) -> None:
    meant, other = Ball(5, 15, 60.0, 60.0, 6.0), Ball(3, 18, 76.0, 60.0, 5.0)
    volume = volume_of((20, 160, 160), meant, other)
    job = SegmentationJob("0", volume, (line_on(Ball(10, 10, 60.0, 60.0, 6.0)),))
    config = SMALL.with_changes(roi=roi)
    guarded = answers_of(engine_of(BrightModel(config, distracted=True)), [job])["0"]
    # Beyond the lesion the network sees only the other: that pass has drifted.
    assert (guarded.flags, slices_of(guarded)) == (("pieces_dropped", "stopped_drift"), (5, 15))
    assert dice(guarded, bright_part(volume, meant)) > 0.85
    free = answers_of(engine_of(BrightModel(config, distracted=True), guards=False), [job])["0"]
    assert free.voxels.sum() > 1.5 * guarded.voxels.sum()
    alone = answers_of(engine_of(BrightModel(config)), [job])["0"]
    assert alone.flags == ()
    for prompt in (Arrow(10, (40.0, 60.0), (52.0, 60.0)), Points(10, ((58.0, 61.0),), (1,))):
        pointed = answers_of(engine_of(BrightModel(config, distracted=True)), [replace(job, prompts=(prompt,))])["0"]
        assert dice(pointed, bright_part(volume, meant)) > 0.85


# ---- the same again --------------------------------------------------------------------------------------------------


def few_jobs() -> list[SegmentationJob]:
    volume = volume_of((6, 64, 64), Ball(1, 4, 30.0, 30.0))
    return jobs_on(volume, *(Ball(z, z, 20.0 + 5 * z, 30.0, 8.0) for z in (0, 3, 4)))


def test_the_same_stream_gives_the_same_masks() -> None:
    engine = engine_of(seeing_nano(), guards=False, batch=4)
    first, again = (answers_of(engine, few_jobs()) for _ in range(2))
    assert sum(isinstance(answer, Mask) for answer in first.values()) == len(first)
    assert list(first) == list(again)
    assert all(same(first[key], again[key]) for key in first)
    for mask in first.values():
        assert len(mask.slice_confidence) == len(mask.slice_stability) == len(mask.voxels)
        assert all(0 <= number <= 1 for number in (*mask.slice_confidence, *mask.slice_stability))


def test_the_revision_names_what_decides_about_masks(tmp_path: Path) -> None:
    files = [save_weights(build_model(NANO, seed=seed), tmp_path / f"{seed}.safetensors") for seed in range(2)]

    def revision(weights: Path = files[0], **options: object) -> str:
        return load_segmenter("sam2ct", weights=weights, device="cpu", **options).revision

    deciding = [{}, {"mcm": False}, {"roi": "full"}, {"hu_clip": (-100.0, 200.0)}, {"image_size": 256}]
    deciding += [{"dtype": "bf16"}, {"guards": False}, {"weights": files[1]}]
    assert len({revision(**options) for options in deciding}) == len(deciding)
    assert len({revision(**options) for options in [{}, {"batch": 2}, {"group": 1}, {"features_mb": 1.0}]}) == 1


def test_models_in_memory_are_told_apart_by_their_weights() -> None:
    first, second, again = (engine_of(build_model(NANO, seed=seed)) for seed in (0, 1, 0))
    assert first.revision == again.revision != second.revision
    assert first.weights_sha256 is None


def test_an_engine_leaves_its_model_fit_for_training() -> None:
    model = seeing_nano()
    answers_of(engine_of(model, guards=False), few_jobs())
    features, start = model.encode(torch.zeros(1, 3, 128, 128)), torch.zeros(1, 1, dtype=torch.long)
    step = model.prompt(features, mask=torch.ones(1, 1, 128, 128))
    step = model.track(features, Recall(step.memory[:, None], start, step.pointer[:, None], start.float()))
    step.logits.sum().backward()
    assert model.no_mem_embed.grad.isfinite().all()


def test_bf16_gives_nearly_the_same_masks() -> None:
    exact, coarse = (
        answers_of(engine_of(seeing_nano(), dtype=dtype, guards=False), few_jobs()) for dtype in ("fp32", "bf16")
    )
    for key, mask in exact.items():
        assert isinstance(coarse[key], Mask)
        assert dice(coarse[key], mask.in_volume((6, 64, 64))) > 0.9
    assert any(exact[key].slice_confidence != coarse[key].slice_confidence for key in exact)


@pytest.mark.slow
@pytest.mark.filterwarnings("ignore::DeprecationWarning")
def test_a_compiled_network_gives_the_same_masks(caplog: pytest.LogCaptureFixture) -> None:
    plain = answers_of(engine_of(seeing_nano(), guards=False), few_jobs())
    compiled = answers_of(engine_of(seeing_nano(), guards=False, compile=True), few_jobs())
    assert "could not be compiled" not in caplog.text
    for key, mask in plain.items():
        assert dice(compiled[key], mask.in_volume((6, 64, 64))) > 0.999


@pytest.mark.parametrize("module", ["image_encoder", "memory_attention"])
def test_a_network_that_cannot_be_compiled_runs_without(
    module: str, caplog: pytest.LogCaptureFixture, monkeypatch: pytest.MonkeyPatch
) -> None:
    def refuse(self: torch.nn.Module, **_: object) -> None:
        self._compiled_call_impl = lost if self is getattr(model, module) else None

    monkeypatch.setattr(torch.nn.Module, "compile", refuse)
    model = seeing_nano()
    answers = answers_of(engine_of(model, compile=True, guards=False), few_jobs())
    assert "could not be compiled" in caplog.text
    assert all(isinstance(answer, Mask) for answer in answers.values())


# ---- what is imported ------------------------------------------------------------------------------------------------

WITHOUT_TORCH = """
import sys, segmentation
segmentation.load_segmenter("classical"), segmentation.load_segmenter("ellipsoid")
sys.exit(", ".join({"torch", "sam2", "hydra"} & set(sys.modules)))
"""
HYDRA_AS_BEFORE = """
import sys, segmentation
from hydra import initialize_config_module
from hydra.core.global_hydra import GlobalHydra
hydra = GlobalHydra.instance()
segmentation.load_segmenter("sam2ct", weights=sys.argv[1], device="cpu")
if "sam2" not in sys.modules or hydra.is_initialized():
    sys.exit("Hydra was set")
for name in [name for name in sys.modules if name.startswith(("sam2", "segmentation."))]:
    del sys.modules[name]
initialize_config_module("segmentation", version_base=None)
before = hydra.hydra
from segmentation.engines import load_segmenter
load_segmenter("sam2ct", weights=sys.argv[1], device="cpu")
if "sam2" not in sys.modules or hydra.hydra is not before:
    sys.exit("Hydra was changed")
"""


def run(code: str, *arguments: object) -> str:
    command = [sys.executable, "-c", code, *map(str, arguments)]
    return subprocess.run(command, capture_output=True, text=True, check=False).stderr.strip()


def test_engines_without_weights_load_neither_torch_nor_sam2() -> None:
    assert run(WITHOUT_TORCH) == ""


def test_hydra_is_left_as_it_was(tmp_path: Path) -> None:
    assert run(HYDRA_AS_BEFORE, save_weights(build_model(NANO), tmp_path / "w.safetensors")) == ""


def test_volumes_do_not_pile_up_behind_a_long_one() -> None:
    """Whoever writes in the order of the stream holds all volumes since the oldest without an answer."""
    long, short = Ball(0, 119, 30.0, 30.0, 6.0), Ball(1, 2, 30.0, 30.0, 6.0)
    pulled: list[str] = []

    def stream() -> Iterator[SegmentationJob]:
        for i in range(40):
            ball = short if i else long
            pulled.append(str(i))
            yield SegmentationJob(str(i), volume_of((120 if i == 0 else 4, 64, 64), ball), (line_on(ball, 1),))

    ahead = {answer.job_id: len(pulled) for answer in engine_of(BrightModel(SMALL), volumes=4).segment(stream())}
    assert len(ahead) == 40
    assert ahead["1"] <= ahead["0"] <= 10
