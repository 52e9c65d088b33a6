"""What every engine owes, whatever is inside. Those that need weights owe it in test_sam2ct_*.py."""

from __future__ import annotations

import numpy as np
import pytest
from lesions import lesion_in_tissue, make_volume

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
    Segmenter,
    load_segmenter,
    simulate_prompt,
)
from segmentation.engines import BEFORE, WITHOUT_WEIGHTS

ENGINES = [*WITHOUT_WEIGHTS, *(BEFORE + name for name in WITHOUT_WEIGHTS)]
KINDS = ("line", "bidimensional", "arrow")
UNSUPPORTED = (
    Points(15, ((48.0, 48.0),), (1,)),
    Box(15, (40.0, 40.0), (56.0, 56.0)),
    MaskPrompt(15, np.eye(96, dtype=bool)),
)


@pytest.fixture(params=sorted(ENGINES))
def engine(request):
    return load_segmenter(request.param)


@pytest.fixture(scope="module")
def case():
    return lesion_in_tissue()


def prompt_of(kind, truth, volume, seed=0):
    return simulate_prompt(truth, kind, np.random.default_rng(seed), spacing_mm=volume.spacing_mm)


def answers(engine, *jobs):
    return {answer.job_id: answer for answer in engine.segment(iter(jobs))}


def test_is_a_segmenter_of_its_registered_name(engine):
    assert isinstance(engine, Segmenter)
    assert type(load_segmenter(engine.name)) is type(engine)


@pytest.mark.parametrize("kind", KINDS)
def test_mask_lies_on_the_volume_and_touches_its_measurement(engine, case, kind):
    volume, truth = case
    prompt = prompt_of(kind, truth, volume)
    mask = answers(engine, SegmentationJob("a", volume, (prompt,)))["a"]
    assert isinstance(mask, Mask)
    assert mask.engine.split("@")[0] == engine.name
    full = mask.in_volume(volume.voxels.shape)
    assert full.sum() == mask.voxels.sum()
    assert full[prompt.slice_index].any()
    if kind != "arrow":
        start, end = (prompt.start, prompt.end) if isinstance(prompt, Line) else prompt.long_axis
        middle = np.rint((np.array(start) + end) / 2).astype(int)
        assert full[prompt.slice_index, middle[1], middle[0]]
    assert all(0 <= value <= 1 for value in mask.slice_confidence)
    assert mask.confidence is None or 0 <= mask.confidence <= 1
    for axis in range(3):
        hit = mask.voxels.any(axis=tuple(a for a in range(3) if a != axis))
        assert hit[0]
        assert hit[-1]


@pytest.mark.parametrize("kind", KINDS)
def test_same_job_same_bytes(engine, case, kind):
    volume, truth = case
    job = SegmentationJob("a", volume, (prompt_of(kind, truth, volume),))
    first = answers(engine, job)["a"]
    again = answers(load_segmenter(engine.name), job)["a"]
    assert first.voxels.tobytes() == again.voxels.tobytes()
    assert first.offset == again.offset
    assert first.slice_confidence == again.slice_confidence


def test_the_volume_is_left_as_it_was(engine, case):
    volume, truth = case
    before = volume.voxels.copy()
    volume.voxels.flags.writeable = False
    answers(engine, SegmentationJob("a", volume, (prompt_of("line", truth, volume),)))
    assert (volume.voxels == before).all()


@pytest.mark.parametrize("prompt", UNSUPPORTED, ids=lambda p: type(p).__name__)
def test_what_it_does_not_support_is_a_failure_that_says_so(engine, case, prompt):
    if type(prompt) in engine.supports:
        pytest.skip(f"{engine.name} supports it")
    failure = answers(engine, SegmentationJob("a", case[0], (prompt,)))["a"]
    assert isinstance(failure, SegmentationFailure)
    assert failure.reason == "unsupported_prompt"


@pytest.mark.parametrize(
    "prompt",
    [
        Line(99, (40.0, 40.0), (50.0, 50.0)),
        Line(-1, (40.0, 40.0), (50.0, 50.0)),
        Line(15, (400.0, 40.0), (450.0, 50.0)),
        Line(15, (40.0, 40.0), (40.0, 40.0)),
        Bidimensional(15, ((-80.0, 4.0), (-60.0, 4.0)), ((-70.0, 0.0), (-70.0, 8.0))),
        Arrow(15, (40.0, 40.0), (40.0, 40.0)),
        Arrow(15, (40.0, 40.0), (-40.0, 40.0)),
    ],
    ids=lambda p: f"{type(p).__name__}{p.slice_index}",
)
def test_a_bad_lesion_costs_one_failure_not_the_stream(engine, case, prompt):
    volume, truth = case
    good = prompt_of("line", truth, volume)
    found = answers(
        engine,
        SegmentationJob("first", volume, (good,)),
        SegmentationJob("bad", volume, (prompt,)),
        SegmentationJob("last", volume, (good,)),
    )
    assert set(found) == {"first", "bad", "last"}
    assert isinstance(found["bad"], SegmentationFailure)
    assert found["bad"].reason == "bad_prompt"
    assert isinstance(found["first"], Mask)
    assert isinstance(found["last"], Mask)


def test_pulls_jobs_one_by_one(engine, case):
    volume, truth = case
    pulled = []

    def jobs():
        for i in range(50):
            pulled.append(i)
            yield SegmentationJob(str(i), volume, (prompt_of("line", truth, volume),))

    stream = engine.segment(jobs())
    next(stream)
    assert len(pulled) < 50


@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize("value", [-2000, 0, 3000])
def test_an_image_without_any_contrast_still_answers(engine, value, kind):
    volume = make_volume(np.full((12, 64, 64), value), (3.0, 0.9, 0.9))
    prompts = {
        "line": Line(6, (24.0, 30.0), (38.0, 34.0)),
        "bidimensional": Bidimensional(6, ((24.0, 30.0), (38.0, 34.0)), ((32.0, 27.0), (30.0, 36.0))),
        "arrow": Arrow(6, (10.0, 30.0), (24.0, 30.0)),
    }
    assert set(answers(engine, SegmentationJob("a", volume, (prompts[kind],)))) == {"a"}


@pytest.mark.parametrize("spot", [(0, 3), (0, 60), (11, 3), (11, 60)])
def test_corners_of_the_volume(engine, spot):
    slice_index, at = spot
    rng = np.random.default_rng(1)
    volume = make_volume(rng.normal(30, 20, (12, 64, 64)), (3.0, 0.9, 0.9))
    line = Line(slice_index, (at - 2.5, at - 2.5), (at + 2.5, at + 2.5))
    mask = answers(engine, SegmentationJob("a", volume, (line,)))["a"]
    assert isinstance(mask, Mask)
    assert mask.in_volume(volume.voxels.shape)[slice_index].any()


def test_a_volume_of_two_slices(engine):
    volume = make_volume(np.random.default_rng(2).normal(30, 20, (2, 64, 64)), (5.0, 0.9, 0.9))
    mask = answers(engine, SegmentationJob("a", volume, (Line(1, (20.0, 30.0), (34.0, 31.0)),)))["a"]
    assert isinstance(mask, Mask)


def test_unknown_engine_names_those_there_are():
    with pytest.raises(ValueError, match="classical, dynunet, ellipsoid"):
        load_segmenter("sam99")


def test_default_engine_is_classical():
    assert load_segmenter().name == "classical"


@pytest.mark.parametrize(
    "arguments", [{"weights": "a.pt"}, {"device": "cuda"}, {"colour": "red"}], ids=lambda a: next(iter(a))
)
def test_options_an_engine_does_not_take_are_refused(engine, arguments):
    with pytest.raises(ValueError, match=engine.name.removeprefix(BEFORE)):
        load_segmenter(engine.name, **arguments)
