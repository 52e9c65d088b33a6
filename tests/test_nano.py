"""The tracker of SAM 2 behind the volumetric encoder: its points, its passes, its memories, and how it learns."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from easy_lesions import generated_lesion

from segmentation import SegmentationJob, load_segmenter, simulate_prompt
from segmentation.metrics import dice
from segmentation.prompts import KINDS
from segmentation.sam2ct.nano import NanoModel, drawn_points
from segmentation.training.cache import build_cache
from segmentation.training.config import PRESETS, Turn
from segmentation.training.samples import Sample
from segmentation.training.trainees import make_trainee
from segmentation.training.trainer import train
from segmentation.types import Mask
from segmentation.volumetric.aims import AIM_KINDS, aim_of
from segmentation.volumetric.config import SUB_VOLUME, UNet3DConfig
from segmentation.volumetric.inputs import CONSTANTS, assemble, channels, draw, guides_of, image_of
from segmentation.volumetric.networks import build_network
from segmentation.volumetric.weights import save_network

TINY = UNet3DConfig(side=24, widths=(8, 16, 16), blocks=(1, 1, 1), tracker="mcm")


@pytest.fixture(scope="module")
def network() -> NanoModel:
    return build_network(TINY, seed=3).eval()


def boxes(n: int, seed: int = 0) -> tuple[torch.Tensor, torch.Tensor]:
    """Values and constants of n lines."""
    source = torch.Generator().manual_seed(seed)
    values = torch.randn(n, channels(TINY), 24, 24, 24, generator=source)
    constants = torch.zeros(n, CONSTANTS)
    constants[:, 3], constants[:, 4] = 0.8, 1.0
    return values, constants


def sample(number: int, split: str = "train") -> Sample:
    volume, truth = generated_lesion(np.random.default_rng([11, number]))
    return Sample(f"easy/{number}", f"{number}", f"{number}", "easy", "Easy", split, volume, truth)


@pytest.mark.parametrize("kind", KINDS)
def test_points_are_where_the_prompt_is_drawn_into_the_box(kind):
    """The tokens and the image say the same place: SAM 2's coordinates are four to a voxel of the box here."""
    lesion = sample(1)
    prompt = simulate_prompt(lesion.truth, kind, np.random.default_rng(4), spacing_mm=lesion.volume.spacing_mm)
    aim = aim_of(prompt, lesion.volume)
    guide = guides_of(aim, lesion.volume.spacing_mm, TINY)[0]
    drawn = draw(lesion.volume, guide, TINY)
    values, constants = assemble(image_of(lesion.volume, guide), drawn, guide, lesion.volume.spacing_mm, TINY)
    given = drawn_points(torch.from_numpy(constants)[None], TINY)
    assert given.points.shape == (1, 4, 2)
    u, v = ((given.points[0].numpy() + 0.5) / 4 - 0.5).T
    middle = TINY.side // 2
    near = drawn.distance[middle, np.clip(np.rint(v), 0, 23).astype(int), np.clip(np.rint(u), 0, 23).astype(int)]
    step = 2 * TINY.half_z / TINY.side
    tails = given.labels[0].numpy() == 5
    if kind == "bidimensional":  # the short axis is drawn as the width of the ellipsoid alone
        assert drawn.expected[middle, np.rint(v[2:]).astype(int), np.rint(u[2:]).astype(int)] == pytest.approx(
            np.exp(-1), abs=0.2
        )
        near, tails = near[:2], tails[:2]
    assert (near[~tails] < 2 * step).all()
    if kind == "arrow":
        assert sorted(set(given.labels[0].tolist())) == [5, 6]
        assert u[tails][0] < u[~tails][0]
    assert values.shape[1:] == (24, 24, 24)


def test_every_kind_has_points():
    for i in range(len(AIM_KINDS)):
        constants = torch.zeros(1, CONSTANTS)
        constants[0, 3], constants[0, 4 + i] = 0.6, 1
        assert drawn_points(constants, TINY).labels.shape == (1, 4)


def test_what_else_is_in_the_batch_changes_nothing(network):
    values, constants = boxes(4)
    with torch.no_grad():
        together = network(values, constants)
        alone = torch.cat([network(values[i : i + 1], constants[i : i + 1]) for i in range(4)])
    torch.testing.assert_close(together, alone, rtol=1e-4, atol=1e-4)


def test_passes_reach_both_ends_and_begin_at_the_prompt(network):
    values, constants = boxes(2)
    with torch.no_grad():
        levels = network.encoder.levels(values, constants)
        whole = network._tracked(levels, constants, 0, 24)
        part = network._tracked(levels, constants, 9, 15)
    assert whole.shape == (2, 1, 24, 24, 24)
    # A shorter sub-volume is the same passes, broken off.
    torch.testing.assert_close(part, whole[:, :, 9:15])
    assert (whole - levels.logits).abs().amax(dim=(0, 1, 3, 4)).min() > 0  # the tracker speaks on every slice


def test_memory_conditioning_tells_from_the_second_slice_on(network):
    """E_cond of the prompted slice is E_unc plus an embedding: what it remembers differs, what it answers does not."""
    plain = build_network(UNet3DConfig(**{f: getattr(TINY, f) for f in TINY.__slots__} | {"tracker": "sam2"}), seed=3)
    plain.load_state_dict(network.state_dict())
    values, constants = boxes(1)
    with torch.no_grad():
        on, off = (
            net._tracked(net.encoder.levels(values, constants), constants, 8, 16) for net in (network, plain.eval())
        )
    assert torch.equal(on[:, :, 4], off[:, :, 4])
    assert (on - off).abs().amax(dim=(0, 1, 3, 4))[[3, 5]].min() > 0


def test_it_starts_behind_the_network_of_a_unet3d(tmp_path):
    encoder_config = UNet3DConfig(side=24, widths=(8, 16, 16), blocks=(1, 1, 1))
    encoder = build_network(encoder_config, seed=9)
    weights = save_network(encoder, encoder_config, tmp_path / "u.safetensors", dtype=torch.float32)
    config = PRESETS["nano"].with_changes(model=TINY, steps=2)
    trainee = make_trainee(config, weights)
    values, constants = boxes(1)
    with torch.no_grad():
        guess = trainee.network.encoder.eval()(values, constants)
        torch.testing.assert_close(guess, encoder.eval()(values, constants))


def test_every_kind_meets_every_place_of_the_sub_volume():
    config = PRESETS["nano"].with_changes(model=TINY, steps=2000)
    trainee, lesion = make_trainee(config), sample(2)
    met: dict[str, set[int]] = {}
    for step in range(400):
        kind = config.turn(step).kind
        if len(met.get(kind, ())) < SUB_VOLUME:
            item = trainee.draw(lesion, Turn(step, kind, 1), np.random.default_rng(step))
            met.setdefault(kind, set()).add(12 - item.first)
    assert met == {kind: set(range(SUB_VOLUME)) for kind in config.kinds}


def test_it_learns_saves_and_runs_as_an_engine(tmp_path):
    config = PRESETS["nano"].with_changes(
        model=TINY, steps=40, lesions=4, kinds=("line",), precision="fp32", validate_every=0, picture_every=0,
        checkpoint_every=0, warm_up=0.1, ema=0.0, learning_rate=5e-3,
    )  # fmt: skip
    cache = build_cache([sample(i) for i in range(6)], tmp_path / "cache")
    path = train(make_trainee(config), cache, config, tmp_path / "out", progress=False)
    engine = load_segmenter("sam2ct-nano", weights=path)
    assert engine.name == "sam2ct-nano"
    lesion = cache[0]
    prompt = simulate_prompt(lesion.truth, "line", np.random.default_rng(0), spacing_mm=lesion.volume.spacing_mm)
    (mask,) = engine.segment([SegmentationJob("a", lesion.volume, (prompt,))])
    assert isinstance(mask, Mask)
    assert "fallback_ellipsoid" not in mask.flags
    assert dice(mask.in_volume(lesion.truth.shape), lesion.truth) > 0.6
    with pytest.raises(Exception, match="not of 'unet3d'"):
        load_segmenter("unet3d", weights=path)
