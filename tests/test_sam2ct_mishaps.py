"""Memory that does not suffice, a device that is lost, errors of others: what each costs, on `BrightModel`."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import pytest
import torch
from sam2ct_models import (
    SMALL,
    Ball,
    BrightModel,
    answers_of,
    crowd_jobs,
    engine_of,
    jobs_on,
    lost,
    same,
    seeing_nano,
    volume_of,
)

from segmentation import EngineError, SegmentationFailure, SegmentationJob, load_segmenter
from segmentation.sam2ct.config import NANO
from segmentation.sam2ct.model import build_model
from segmentation.sam2ct.weights import save_weights


@pytest.mark.parametrize("kind", ["encode", "prompt", "track"])
@pytest.mark.parametrize(
    "message",
    [None, "[enforce fail] DefaultCPUAllocator: can't allocate memory", "CUDA driver error: out of memory"],
)
def test_a_call_that_does_not_fit_is_halved_and_goes_on(
    kind: str, message: str | None, caplog: pytest.LogCaptureFixture
) -> None:
    def obstacle(what: str, rows: int) -> None:
        if what == kind and rows > 2:
            raise RuntimeError(message) if message else torch.OutOfMemoryError("CUDA out of memory")

    tight = BrightModel(SMALL, obstacle=obstacle)
    answers = answers_of(engine_of(tight, group=16), crowd_jobs())
    wanted = answers_of(engine_of(BrightModel(SMALL), group=16), crowd_jobs())
    assert answers.keys() == wanted.keys()
    assert all(same(answers[key], wanted[key]) for key in wanted)
    assert "do not fit into memory" in caplog.text


@pytest.mark.parametrize("times", [1, 2])
@pytest.mark.parametrize("kind", ["encode", "prompt", "track"])
def test_what_does_not_fit_alone_is_tried_again_and_then_costs_its_lesion(kind: str, times: int) -> None:
    bad = {"encode": 12, "prompt": 8, "track": 20}[kind]
    seen: list[str] = []

    def obstacle(what: str, _rows: int) -> None:
        seen.append(what)
        if what == kind and bad <= seen.count(kind) < bad + times:
            raise torch.OutOfMemoryError("CUDA out of memory")

    answers = answers_of(engine_of(BrightModel(SMALL, obstacle=obstacle), group=1), crowd_jobs())
    wanted = answers_of(engine_of(BrightModel(SMALL)), crowd_jobs())
    failed = [a for a in answers.values() if isinstance(a, SegmentationFailure)]
    assert [failure.reason for failure in failed] == ["out_of_memory"] * (times - 1)
    assert answers.keys() == wanted.keys()
    assert all(same(answers[key], wanted[key]) for key in wanted.keys() - {failure.job_id for failure in failed})


def on_a_gpu_that_is_lost(error: RuntimeError, after: int, **options: object) -> tuple[object, BrightModel]:
    """An engine that believes to be on a GPU, which is lost after so many calls; and the model it goes on with."""
    calls: list[str] = []

    def obstacle(what: str, _rows: int) -> None:
        calls.append(what)
        if len(calls) > after:
            raise error

    fresh = BrightModel(SMALL)
    engine = engine_of(BrightModel(SMALL, obstacle=obstacle), reload=lambda: fresh, **options)
    engine._device = torch.device("cuda")
    return engine, fresh


@pytest.mark.parametrize("after", [0, 3, 11, 30])
@pytest.mark.parametrize("kind", [RuntimeError, torch.AcceleratorError])
def test_a_lost_device_costs_what_was_under_way(kind: type[RuntimeError], after: int) -> None:
    engine, fresh = on_a_gpu_that_is_lost(kind("CUDA error: an illegal memory access was encountered"), after, batch=6)
    answers = answers_of(engine, iter(crowd_jobs()))
    wanted = answers_of(engine_of(BrightModel(SMALL)), crowd_jobs())
    assert answers.keys() == wanted.keys()
    assert all(same(answers[key], wanted[key]) for key in wanted)
    assert fresh.tracked
    assert engine._device == torch.device("cpu")
    again = answers_of(engine, crowd_jobs())
    assert all(same(again[key], wanted[key]) for key in wanted)


def test_a_gpu_without_memory_is_not_a_lost_gpu() -> None:
    engine, fresh = on_a_gpu_that_is_lost(torch.AcceleratorError("CUDA error: out of memory"), 3)
    answers = answers_of(engine, crowd_jobs())
    assert {answer.reason for answer in answers.values()} == {"out_of_memory"}
    assert not fresh.encoded


def test_a_model_in_memory_survives_the_loss_of_its_device() -> None:
    model = seeing_nano()
    ball = Ball(2, 6, 30.0, 30.0, 6.0)
    jobs = jobs_on(volume_of((9, 64, 64), ball), ball)
    engine, wanted = engine_of(model, guards=False), answers_of(engine_of(seeing_nano(), guards=False), jobs)
    engine._device = torch.device("cuda")
    with torch.no_grad():
        for parameter in model.parameters():  # what is on a lost device cannot be read
            parameter.fill_(torch.nan)
    model.encode = lost
    assert same(answers_of(engine, jobs)["0"], wanted["0"])


def test_weights_that_changed_meanwhile_are_not_gone_on_with(tmp_path: Path) -> None:
    path = save_weights(build_model(NANO, seed=0), tmp_path / "nano.safetensors")
    engine = load_segmenter("sam2ct", weights=path, device="cpu")
    engine._reload()
    save_weights(build_model(NANO, seed=1), path)
    with pytest.raises(EngineError, match=r"nano\.safetensors changed"):
        engine._reload()


def test_on_a_cpu_no_error_is_taken_for_a_lost_device() -> None:
    engine = engine_of(BrightModel(SMALL, obstacle=lost))
    with pytest.raises(RuntimeError, match="device-side assert"):
        answers_of(engine, crowd_jobs())


def test_errors_of_the_stream_and_of_the_code_pass_through() -> None:
    def broken() -> Iterator[SegmentationJob]:
        yield from crowd_jobs()
        raise OSError("the disk is gone")

    with pytest.raises(OSError, match="the disk is gone"):
        list(engine_of(BrightModel(SMALL), batch=2).segment(broken()))

    def wrong(what: str, _rows: int) -> None:
        if what == "track":
            raise RuntimeError("size mismatch")

    with pytest.raises(RuntimeError, match="size mismatch"):
        list(engine_of(BrightModel(SMALL, obstacle=wrong)).segment(crowd_jobs()))
