"""Training: what decides about the loss curve, what survives a kill, and what is left when it is done.

That a network learns is shown in test_sam2ct_learns.py.
"""

from __future__ import annotations

import json
import os
import signal
import socket
import subprocess
import sys
import textwrap
import time
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import pytest
import torch
from easy_lesions import EASY, easy_cache
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import nn

from segmentation import SegmentationJob, load_segmenter, simulate_prompt
from segmentation.sam2ct.config import SAM2CTConfig
from segmentation.sam2ct.steps import Step
from segmentation.sam2ct.weights import load_weights
from segmentation.training.augmentation import mirrored, moved, other_greys, window_around
from segmentation.training.cache import Cache
from segmentation.training.config import PRESETS, Augmentation, LossRecipe, TrainConfig, TrainingError, Turn
from segmentation.training.loader import Batches, batches_from
from segmentation.training.losses import dice_loss, focal_loss, slice_losses
from segmentation.training.records import read_log, write_bad_batch
from segmentation.training.trainees import Losses, Trainee, make_trainee
from segmentation.training.trainer import train
from segmentation.training.validation import judge, means
from segmentation.volumetric.config import UNet3DConfig

HERE = Path(__file__).resolve().parent
QUICK = EASY.with_changes(
    steps=6, lesions=2, images=4, slices=(2,), single=0.5, kinds=("line", "arrow", "box"), augmentation=PRESETS["nano"].augmentation
)  # fmt: skip


@pytest.fixture(scope="module")
def cache(tmp_path_factory) -> Cache:
    return easy_cache(tmp_path_factory.mktemp("cache"), 12, val_every=4)


def losses_of(folder: Path) -> np.ndarray:
    return np.array([float(row["loss"]) for row in read_log(folder / "log.csv")])


# ---- losses ---------------------------------------------------------------------------------------------------------


@settings(deadline=None, max_examples=20)
@given(st.integers(0, 10_000))
def test_losses_are_those_of_monai(seed):
    losses = pytest.importorskip("monai.losses")
    rng = torch.Generator().manual_seed(seed)
    logits = 4 * torch.randn(3, 1, 8, 8, generator=rng)
    goal = (torch.rand(3, 1, 8, 8, generator=rng) < 0.3).float()
    focal = losses.FocalLoss(gamma=2.0, alpha=0.25, reduction="none")(logits, goal).flatten(1).mean(dim=1)
    torch.testing.assert_close(focal_loss(logits, goal), focal)
    dice = losses.DiceLoss(sigmoid=True, smooth_nr=1.0, smooth_dr=1.0, reduction="none")(logits, goal).flatten()
    torch.testing.assert_close(dice_loss(logits, goal), dice)


def step_of(logits: torch.Tensor, *, score: float, iou: float) -> Step:
    rows = len(logits)
    return Step(
        logits, torch.full((rows,), iou), torch.full((rows,), score), torch.zeros(rows, 4), torch.zeros(rows, 1)
    )


def test_a_slice_without_an_object_is_judged_by_its_score_alone():
    step = step_of(torch.full((1, 1, 4, 4), 8.0), score=3.0, iou=0.5)
    parts = slice_losses(step, torch.zeros(1, 1, 8, 8), LossRecipe())
    assert {name: float(part) for name, part in parts.items() if name != "object"} == {"focal": 0, "dice": 0, "iou": 0}
    assert float(parts["object"]) == pytest.approx(np.log1p(np.exp(3.0)))
    everywhere = slice_losses(step, torch.zeros(1, 1, 8, 8), LossRecipe(), scores_objects=False)
    assert "object" not in everywhere
    assert everywhere["dice"] > 0.9


def test_iou_is_compared_with_that_of_the_mask():
    logits = torch.full((1, 1, 8, 8), -5.0)
    logits[..., :4] = 5.0
    goal = torch.zeros(1, 1, 8, 8)
    goal[..., 2:4] = 1.0  # half of the mask: IoU 0.5
    assert float(slice_losses(step_of(logits, score=0, iou=0.8), goal, LossRecipe())["iou"]) == pytest.approx(0.3)


# ---- schedule -------------------------------------------------------------------------------------------------------


@given(st.integers(1, 400), st.floats(0, 1), st.floats(0, 1))
def test_rates_rise_then_fall_to_their_final_share(steps, warm_up, final):
    config = TrainConfig(steps=steps, warm_up=warm_up, final_rate=final)
    rates = [config.rate(step) for step in range(steps)]
    assert all(0 <= rate <= 1 + 1e-9 for rate in rates)
    top = int(np.argmax(rates))
    assert np.all(np.diff(rates[: top + 1]) >= -1e-9)
    assert np.all(np.diff(rates[top:]) <= 1e-9)


def test_presets_are_those_of_the_paper():
    paper = PRESETS["sam2ct"]
    assert (paper.learning_rate, paper.encoder_rate, paper.epochs, paper.slices) == (5e-6, 3e-6, 80, (8,))
    assert isinstance(paper.model, SAM2CTConfig)
    assert paper.model.hu_clip == (-500, 500)
    assert paper.model.eight_bit
    assert paper.model.memory_conditioned
    assert not PRESETS["sam2-ft"].model.memory_conditioned
    for name in ("dynunet", "swin-unetr"):
        config = PRESETS[name].with_steps(100)
        per_epoch = config.total_steps / 150
        rates = [config.rate(step) * config.learning_rate for step in range(config.total_steps)]
        assert np.argmax(rates) == pytest.approx(20 * per_epoch, abs=1)
        assert max(rates) == pytest.approx(5e-3)


def test_every_kind_meets_every_length():
    config = EASY.with_changes(steps=400, kinds=("line", "arrow", "mask"), slices=(1, 3, 8), single=0.1)
    turns = [config.turn(step) for step in range(400)]
    assert {t.n_slices for t in turns[:40]} == {1}
    assert {(t.kind, t.n_slices) for t in turns[40:]} >= {(k, n) for k in config.kinds for n in (3, 8)}
    assert not any(t.kind == "mask" and t.n_slices == 1 for t in turns)


@pytest.mark.parametrize(
    ("changes", "named"),
    [
        ({"steps": 0}, "steps"),
        ({"epochs": 2.0}, "not both"),
        ({"kinds": ("lines",)}, "kinds"),
        ({"kinds": ("mask",), "slices": (1,)}, "mask"),
        ({"learning_rate": 0.0}, "positive"),
        ({"ema": 1.0}, "ema"),
        ({"clip_norm": -1.0}, "clip_norm"),
        ({"learning_rate": float("nan")}, "positive"),
        ({"slices": ()}, "slices"),
        ({"validation_lesions": 0}, "validation_lesions"),
        ({"on_nan": "ignore"}, "on_nan"),
    ],
)
def test_a_wrong_configuration_is_refused(changes, named):
    with pytest.raises(ValueError, match=named):
        EASY.with_changes(**changes)


# ---- lesions --------------------------------------------------------------------------------------------------------


def test_an_epoch_deals_every_lesion_once(cache):
    config = QUICK.with_changes(steps=50, lesions=3)
    batches = Batches(make_trainee(config), cache, config)
    train_lesions = cache.indices("train")
    dealt = [batches.place(step, row) for step in range(2 * len(train_lesions) // 3) for row in range(3)]
    for epoch in range(2):
        assert sorted(dealt[epoch * len(train_lesions) : (epoch + 1) * len(train_lesions)]) == sorted(train_lesions)


@settings(deadline=None, max_examples=30)
@given(
    lesions=st.integers(1, 6),
    images=st.integers(1, 20),
    slices=st.lists(st.integers(1, 8), min_size=1, max_size=3).map(tuple),
    single=st.sampled_from([0.0, 0.3]),
    processes=st.sampled_from([1, 2]),
)
def test_every_card_is_dealt_once_whatever_a_step_holds(cache, processes, single, **step):
    config = QUICK.with_changes(steps=12, single=single, **step)
    trainee, n = make_trivial(), len(cache.indices("train"))
    try:
        ranks = [Batches(trainee, cache, config, rank=rank, processes=processes) for rank in range(processes)]
    except TrainingError as error:
        assert processes == 2
        assert "--set lesions=2" in str(error)  # noqa: PT017 - it need not be raised
        return
    dealt = [item.sample_id for step in range(12) for rank in ranks for item in rank[step]]
    for first in range(0, len(dealt) - n + 1, n):
        assert len(set(dealt[first : first + n])) == n


def test_epochs_count_what_is_dealt(cache, tmp_path):
    n = len(cache.indices("train"))
    config = QUICK.with_changes(steps=None, epochs=2.0, lesions=4, images=4, slices=(2,), single=0.0, picture_every=9)
    train(make_trivial(), cache, config, tmp_path / "once", progress=False)
    assert len(read_log(tmp_path / "once/log.csv")) == n  # two lesions a step, as images // slices says
    assert {path.stem for path in (tmp_path / "once/pictures").iterdir()} == {
        f"step-{step:08d}" for step in (-(-n // 2), 2 * -(-n // 2), n) if step <= n
    }
    twice = config.with_changes(repeats=(("easy", 2.0),), picture_every=0)
    train(make_trivial(), cache, twice, tmp_path / "twice", progress=False)
    assert len(read_log(tmp_path / "twice/log.csv")) == 2 * n


def test_a_data_set_is_repeated(cache):
    config = QUICK.with_changes(repeats=(("easy", 2.5),))
    batches = Batches(make_trainee(config), cache, config)
    n = len(cache.indices("train"))
    cards = 2 * n + (n + 1) // 2
    counts = np.unique([batches.place(0, row) for row in range(cards)], return_counts=True)[1]
    assert len(counts) == n
    assert set(counts.tolist()) == {2, 3}
    with pytest.raises(TrainingError, match="'hard'"):
        Batches(make_trainee(config), cache, config.with_changes(repeats=(("hard", 2.0),)))


def test_without_training_lesions_nothing_begins(tmp_path):
    empty = easy_cache(tmp_path / "cache", 1, val_every=1)
    with pytest.raises(TrainingError, match="no lesions of the split 'train'"):
        train(make_trainee(QUICK), empty, QUICK, tmp_path / "out", progress=False)
    assert not (tmp_path / "out").exists()


def test_processes_draw_the_same_lesions(cache):
    config = QUICK.with_changes(steps=4)
    trainee = make_trainee(config)
    state = torch.random.get_rng_state()
    here = list(batches_from(1, trainee, cache, config))
    there = list(batches_from(1, trainee, cache, config.with_changes(workers=2)))
    assert torch.equal(state, torch.random.get_rng_state())
    assert len(here) == len(there) == 3
    for ours, theirs in zip(here, there, strict=True):
        for a, b in zip(ours, theirs, strict=True):
            assert a.sample_id == b.sample_id
            assert all(torch.equal(a.tensors()[name], b.tensors()[name]) for name in a.tensors())


@settings(deadline=None, max_examples=40)
@given(
    st.integers(0, 11), st.integers(0, 10**6), st.sampled_from(["line", "bidimensional", "point"]), st.integers(1, 8)
)
def test_what_is_drawn_lies_on_the_lesion(cache, place, seed, kind, n_slices):
    """Points of these prompts are pixels of the lesion: so they are in what the network sees, mirrored and moved."""
    config = QUICK.with_changes(augmentation=Augmentation(mirror=0.5, shift=1 / 8, zoom=0.15))
    clip = make_clip(config, cache, place, Turn(0, kind, n_slices), seed)
    assert len(clip.images) == len(clip.truth) == min(n_slices, len(cache[place].truth))
    shown = clip.truth[clip.prompted, 0]
    side = shown.shape[0]
    for x, y in clip.tensors()["points"][0].tolist():
        if 0 <= x <= side - 1 and 0 <= y <= side - 1:
            assert shown[round(y), round(x)] > 0.3


_TRAINEES: dict[str, Trainee] = {}


def make_clip(config: TrainConfig, cache: Cache, place: int, turn: Turn, seed: int):
    trainee = _TRAINEES.setdefault("one", make_trainee(config))
    trainee.config = config
    return trainee.draw(cache[place], turn, np.random.default_rng(seed))


@given(st.integers(0, 40), st.integers(1, 12), st.integers(1, 40), st.integers(0, 1000))
def test_windows_hold_the_prompted_slice(prompted, n_slices, limit, seed):
    prompted %= limit
    window = window_around(prompted, n_slices, limit, np.random.default_rng(seed))
    assert 0 <= window.start <= prompted < window.stop <= limit
    assert window.stop - window.start == min(n_slices, limit)


@settings(deadline=None, max_examples=30)
@given(st.integers(0, 11), st.integers(0, 1000))
def test_mirrors_keep_the_lesion_on_its_voxels(cache, place, seed):
    sample = cache[place]
    volume, truth = mirrored(sample.volume, sample.truth, Augmentation(mirror=0.5), np.random.default_rng(seed))
    assert truth.sum() == sample.truth.sum()
    np.testing.assert_array_equal(np.sort(volume.voxels[truth]), np.sort(sample.volume.voxels[sample.truth]))


def test_no_augmentation_changes_nothing():
    rng = np.random.default_rng(0)
    voxels = rng.integers(-1000, 1000, (3, 5, 7)).astype(np.int16)
    np.testing.assert_array_equal(other_greys(voxels, Augmentation(), rng), voxels)


@settings(deadline=None, max_examples=30)
@given(st.integers(0, 11), st.integers(0, 1000), st.floats(0, 0.5), st.floats(0, 0.5))
def test_moved_regions_stay_on_the_slice(cache, place, seed, shift, zoom):
    config = QUICK.with_changes(augmentation=Augmentation(shift=shift, zoom=zoom))
    frame = make_clip(config, cache, place, Turn(0, "line", 1), seed).lesion.frame
    frame = moved(frame, config.augmentation, np.random.default_rng(seed))
    _, rows, columns = frame.volume.voxels.shape
    assert 0 <= frame.top <= frame.top + frame.rows <= rows
    assert 0 <= frame.left <= frame.left + frame.columns <= columns


# ---- the network ----------------------------------------------------------------------------------------------------


def test_every_parameter_is_in_one_group_at_its_rate():
    config = PRESETS["sam2ct"].with_changes(model=SAM2CTConfig(size="tiny", image_size=128))
    trainee = make_trainee(config)
    groups = trainee.parameter_groups(config)
    listed = [p for group in groups for p in group["params"]]
    assert len(listed) == len({id(p) for p in listed}) == len(list(trainee.parameters()))
    rate = {id(p): group["lr"] for group in groups for p in group["params"]}
    named = dict(trainee.named_parameters())
    assert rate[id(named["model.sam_mask_decoder.conv_s0.weight"])] == pytest.approx(5e-6)
    assert rate[id(named["model.image_encoder.neck.convs.0.conv.weight"])] == pytest.approx(3e-6)
    last, first = (named[f"model.image_encoder.trunk.blocks.{i}.attn.qkv.weight"] for i in (11, 0))
    assert rate[id(last)] == pytest.approx(3e-6 * 0.9)
    assert rate[id(first)] == pytest.approx(3e-6 * 0.9**12)
    assert rate[id(named["model.image_encoder.trunk.pos_embed"])] == pytest.approx(3e-6)


def gradients(config: TrainConfig, cache: Cache) -> tuple[float, dict[str, torch.Tensor]]:
    trainee = make_trainee(config)
    losses = trainee(Batches(trainee, cache, config)[config.total_steps - 1])
    losses.total.backward()
    assert losses.total.item() == pytest.approx(sum(losses.parts.values()).item(), rel=1e-6)
    return losses.total.item(), {n: p.grad for n, p in trainee.named_parameters() if p.grad is not None}


def test_gradient_checkpointing_changes_no_gradient(cache):
    loss, plain = gradients(QUICK, cache)
    again, checkpointed = gradients(QUICK.with_changes(gradient_checkpointing=True), cache)
    assert again == pytest.approx(loss, rel=1e-6)
    assert plain.keys() == checkpointed.keys()
    assert any("memory_attention" in name for name in plain)
    for name, gradient in plain.items():
        torch.testing.assert_close(checkpointed[name], gradient, rtol=1e-3, atol=1e-6)


def test_masks_are_prompts_too(cache):
    loss, found = gradients(QUICK.with_changes(kinds=("mask",), single=0.0), cache)
    assert np.isfinite(loss)
    assert found


# ---- the loop -------------------------------------------------------------------------------------------------------


@pytest.fixture(scope="module")
def whole(cache, tmp_path_factory) -> Path:
    """A training without interruption."""
    out = tmp_path_factory.mktemp("whole")
    config = QUICK.with_changes(
        ema=0.9, dropout=True, validate_every=3, validation_lesions=2, picture_every=6, dtype="fp16"
    )
    train(make_trainee(config), cache, config, out, progress=False)
    return out


def test_it_leaves_weights_that_the_engine_reads(whole, cache):
    _, info = load_weights(whole / "weights.safetensors")
    assert info.dtypes == ("float16",)
    assert info.config == QUICK.model
    sample = cache[0]
    line = simulate_prompt(sample.truth, "line", np.random.default_rng(0), spacing_mm=sample.volume.spacing_mm)
    engine = load_segmenter("sam2ct", weights=whole / "weights.safetensors", device="cpu")
    assert len(list(engine.segment([SegmentationJob("a", sample.volume, (line,))]))) == 1


def test_it_leaves_a_log_a_card_and_pictures(whole, cache):
    log = read_log(whole / "log.csv")
    assert [int(row["step"]) for row in log] == list(range(6))
    for row in log:
        parts = [float(row[name]) for name in ("cross_entropy", "dice", "iou", "object")]
        assert sum(parts) == pytest.approx(float(row["loss"]), rel=1e-4)
        assert 0 <= float(row["waited"]) <= float(row["seconds"])
    assert [row["step"] for row in read_log(whole / "validation.csv")] == ["3", "6"]
    card = (whole / "card.md").read_text()
    assert cache.digest in card
    assert "easy" in card
    assert (whole / "pictures" / "step-00000006.png").stat().st_size > 1000


def test_a_second_call_takes_no_step(whole, cache):
    before = (whole / "weights.safetensors").read_bytes()
    config = QUICK.with_changes(
        ema=0.9, dropout=True, validate_every=3, validation_lesions=2, picture_every=6, dtype="fp16"
    )
    train(make_trainee(config), cache, config, whole, progress=False)
    assert (whole / "weights.safetensors").read_bytes() == before


def test_another_training_is_not_gone_on_with(whole, cache):
    config = QUICK.with_changes(ema=0.9, dropout=True, learning_rate=1e-4)
    with pytest.raises(TrainingError, match=r"learning_rate was 0\.002"):
        train(make_trainee(config), cache, config, whole, progress=False)


def test_other_weights_to_start_from_are_another_training(cache, tmp_path):
    config = QUICK.with_changes(steps=1, single=1.0)
    first = train(make_trainee(config), cache, config, tmp_path / "first", progress=False)
    from_it = config.with_changes(seed=3)
    train(make_trainee(from_it, first), cache, from_it, tmp_path / "second", progress=False)
    train(make_trainee(from_it, first), cache, from_it, tmp_path / "second", progress=False)
    with pytest.raises(TrainingError, match=r"weights was '[0-9a-f]{64}'"):
        train(make_trainee(from_it), cache, from_it, tmp_path / "second", progress=False)


def test_killed_while_it_wrote_the_best_weights_it_goes_on(cache, tmp_path):
    config = QUICK.with_changes(steps=1)
    (tmp_path / "checkpoints/.step-00000001.99.tmp").mkdir(parents=True)
    (tmp_path / "checkpoints/.best.safetensors.99.tmp").write_bytes(b"half")
    train(make_trivial(), cache, config, tmp_path, progress=False)
    assert [path.name for path in (tmp_path / "checkpoints").iterdir()] == ["step-00000001"]


def test_an_ellipsoid_in_place_of_an_answer_scores_nothing(cache, tmp_path):
    config = QUICK.with_changes(model=UNet3DConfig(side=16, widths=(8, 8, 8), blocks=(1, 1, 1)), slices=(1,), steps=1)
    config = config.with_changes(validate_every=1, validation_lesions=None)
    trainee = make_trainee(config)
    with torch.no_grad():
        trainee.network.answer.bias.fill_(-50.0)
    judged = judge(trainee, cache, config)
    assert len(judged) == len(cache.indices("val"))
    assert all(one.is_fallback and one.mask is not None for one in judged)
    assert means(judged) == {"all": 0.0, **{one.kind: 0.0 for one in judged}, "fallback": 1.0}
    train(trainee, cache, config.with_changes(learning_rate=1e-9), tmp_path, progress=False)
    [row] = read_log(tmp_path / "validation.csv")
    assert (row["all"], row["fallback"]) == ("0", "1")


def test_stopped_by_the_clock_it_goes_on(whole, cache, tmp_path):
    config = QUICK.with_changes(ema=0.9, dropout=True, minutes=1e-9)
    for steps in range(1, 4):
        train(make_trainee(config), cache, config, tmp_path, progress=False)
        assert len(read_log(tmp_path / "log.csv")) == steps
        assert (tmp_path / "weights.safetensors").is_file()
    later = config.with_changes(minutes=None)
    train(make_trainee(later), cache, later, tmp_path, progress=False)
    np.testing.assert_allclose(losses_of(tmp_path), losses_of(whole), rtol=1e-4)


TRAINER = """
    import sys
    from pathlib import Path
    import torch
    torch.set_num_threads(1)
    sys.path.insert(0, {here!r})
    from test_training import QUICK
    from segmentation.training.cache import Cache
    from segmentation.training.trainees import make_trainee
    from segmentation.training.trainer import train
    config = QUICK.with_changes(**{changes!r})
    train(make_trainee(config), Cache({cache!r}), config, Path({out!r}), progress=False)
"""


def started(cache: Cache, out: Path, environment: dict[str, str] | None = None, **changes: object) -> subprocess.Popen:
    code = textwrap.dedent(TRAINER).format(here=str(HERE), cache=str(cache.folder), out=str(out), changes=changes)
    return subprocess.Popen(
        [sys.executable, "-c", code],
        env={**os.environ, "OMP_NUM_THREADS": "1", **(environment or {})},
        stderr=subprocess.PIPE,
        text=True,
    )


def finished(*processes: subprocess.Popen) -> None:
    for process in processes:
        _, errors = process.communicate(timeout=300)
        assert process.returncode == 0, errors


@pytest.mark.parametrize("rows", [3, pytest.param(1, marks=pytest.mark.slow), pytest.param(5, marks=pytest.mark.slow)])
def test_killed_at_any_step_it_goes_on_as_if_it_had_not_been(rows, whole, cache, tmp_path):
    """A real SIGKILL, with a checkpoint every other step: the curve is that of the training without."""
    options = {"ema": 0.9, "dropout": True, "checkpoint_every": 2}
    log, until = tmp_path / "log.csv", time.monotonic() + 240
    process = started(cache, tmp_path, **options)
    while not log.is_file() or log.read_text().count("\n") < rows + 1:
        assert process.poll() is None, process.communicate()[1]
        assert time.monotonic() < until
        time.sleep(0.01)
    process.send_signal(signal.SIGKILL)
    process.communicate()
    assert not (tmp_path / "weights.safetensors").exists()
    finished(started(cache, tmp_path, **options))
    assert [int(row["step"]) for row in read_log(log)] == list(range(6))
    np.testing.assert_allclose(losses_of(tmp_path), losses_of(whole), rtol=1e-4)
    assert len(list((tmp_path / "checkpoints").glob("step-*"))) == 2
    assert not list((tmp_path / "checkpoints").glob(".*"))


@pytest.mark.slow
def test_two_processes_lose_what_one_loses(cache, tmp_path):
    """DDP over gloo, half the lesions each."""
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        port = str(free.getsockname()[1])
    ranks = [
        {"RANK": str(r), "LOCAL_RANK": str(r), "WORLD_SIZE": "2", "MASTER_ADDR": "127.0.0.1", "MASTER_PORT": port}
        for r in range(2)
    ]
    finished(
        started(cache, tmp_path / "one"), *(started(cache, tmp_path / "two", environment) for environment in ranks)
    )
    np.testing.assert_allclose(losses_of(tmp_path / "two"), losses_of(tmp_path / "one"), rtol=2e-3)
    np.testing.assert_allclose(losses_of(tmp_path / "two")[:2], losses_of(tmp_path / "one")[:2], rtol=1e-5)


# ---- losses that are no numbers -------------------------------------------------------------------------------------


@dataclass(frozen=True)
class Number:
    sample_id: str
    value: float

    def tensors(self) -> dict[str, torch.Tensor]:
        return {"value": torch.tensor(self.value)}


class Fragile(Trainee):
    """One weight; its loss is no number at one step."""

    name = "fragile"

    def __init__(self, breaks_at: int | None = 2) -> None:
        super().__init__()
        self.weight = nn.Parameter(torch.ones(1))
        self.breaks_at = breaks_at

    def draw(self, sample, turn, rng):
        return Number(sample.sample_id, float("nan") if turn.step == self.breaks_at else float(rng.random()))

    def forward(self, items):
        total = sum((self.weight - item.value).square().sum() for item in items) / len(items)
        return Losses(total, {"square": total.detach()})

    def parameter_groups(self, config):
        return [{"params": [self.weight], "lr": config.learning_rate, "weight_decay": 0.0}]

    def segmenter(self):
        return load_segmenter("ellipsoid")

    def save(self, path, metadata, *, dtype=torch.float32):  # noqa: ARG002 - of the contract
        path.write_text(json.dumps({"weight": self.weight.item(), **metadata}))
        return path


def make_trivial() -> Fragile:
    return Fragile(breaks_at=None)


def test_every_process_keeps_its_own_bad_batch(tmp_path):
    places = {write_bad_batch(tmp_path, 3, [Number(str(rank), 0.0)], {}, rank=rank) for rank in range(3)}
    assert [json.loads((place / "batch.json").read_text())["samples"] for place in sorted(places)] == [
        ["0"],
        ["1"],
        ["2"],
    ]


def test_a_loss_that_is_no_number_stops_with_its_batch_saved(cache, tmp_path):
    with pytest.raises(TrainingError, match=r"step 2 is no number.*bad-step-00000002"):
        train(Fragile(), cache, QUICK, tmp_path, progress=False)
    about = json.loads((tmp_path / "bad-step-00000002" / "batch.json").read_text())
    assert about["step"] == 2
    assert len(about["samples"]) == 2
    from safetensors.torch import load_file

    assert torch.isnan(load_file(tmp_path / "bad-step-00000002" / "batch.safetensors")["0/value"])


def test_or_is_left_out_and_counted(cache, tmp_path):
    config = QUICK.with_changes(on_nan="skip")
    path = train(Fragile(), cache, config, tmp_path, progress=False)
    assert np.isfinite(json.loads(path.read_text())["weight"])
    assert [row["skipped"] for row in read_log(tmp_path / "log.csv")] == ["0", "0", "1", "1", "1", "1"]
    assert np.isnan(losses_of(tmp_path)[2])
    assert "| steps left out, their loss or gradient no number | 1 |" in (tmp_path / "card.md").read_text()


def test_but_not_for_ever(cache, tmp_path):
    with pytest.raises(TrainingError, match="1 steps had a loss"):
        train(Fragile(), cache, QUICK.with_changes(on_nan="skip", most_skipped=0), tmp_path, progress=False)
