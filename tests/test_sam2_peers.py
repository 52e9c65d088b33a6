"""What the library is compared with is what it claims to be: stock models, and the two published procedures."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import numpy as np
import pytest
import sam2_peers
import torch
from hydra import compose, initialize_config_module
from hydra.core.global_hydra import GlobalHydra
from hydra.utils import instantiate
from omegaconf import OmegaConf
from PIL import Image
from sam2_stock import VIDEO_PREDICTOR, stock_sam2
from sam2_timing import Cost
from sam2ct_reference import DEVIATION, MEAN, Click, Rules, both_ways, full_size

SIDE, PROMPT, BOX = 128, 6, (20.0, 24.0, 40.0, 50.0)


@pytest.fixture
def hydra() -> Iterator[None]:
    GlobalHydra.instance().clear()
    with initialize_config_module("sam2", version_base="1.2"):
        yield


@pytest.fixture(scope="module")
def voxels() -> np.ndarray:
    noise = np.random.default_rng(1).normal(0, 150, (12, 64, 64))
    return np.clip(noise, -160, 240).astype(np.int16)


def settings(model: torch.nn.Module) -> dict[str, object]:
    """Every public plain attribute of every module."""
    plain = (int, float, bool, str, type(None))
    return {
        f"{name}.{key}": value
        for name, module in model.named_modules()
        for key, value in vars(module).items()
        if not key.startswith("_") and isinstance(value, plain)
    }


@pytest.mark.usefixtures("hydra")
@pytest.mark.parametrize(("size", "letter"), [("tiny", "t"), ("base_plus", "b+")])
def test_stock_models_are_those_of_the_packages_own_builder(size, letter):
    config = compose(f"configs/sam2.1/sam2.1_hiera_{letter}.yaml")
    OmegaConf.resolve(config)
    built = instantiate(config.model, _recursive_=True)
    ours = stock_sam2(size, 1024)
    expected = settings(built) | {".binarize_mask_from_pts_for_mem_enc": True, ".training": False}
    expected |= {key: False for key in expected if key.endswith(".training")}
    expected |= {
        "sam_mask_decoder.dynamic_multimask_via_stability": True,
        "sam_mask_decoder.dynamic_multimask_stability_delta": 0.05,
        "sam_mask_decoder.dynamic_multimask_stability_thresh": 0.98,
    }
    found = settings(ours)
    assert {key: found.get(key) for key in expected if key != ".sam_mask_decoder_extra_args"} == {
        key: value for key, value in expected.items() if key != ".sam_mask_decoder_extra_args"
    }
    assert {k: v.shape for k, v in ours.state_dict().items()} == {k: v.shape for k, v in built.state_dict().items()}


def test_medsam2_peer_gives_the_masks_of_the_predictor_on_a_folder_of_frames(tmp_path: Path, voxels, monkeypatch):
    monkeypatch.setattr("sam2.sam2_video_predictor.tqdm", lambda frames, **_: iter(frames))
    monkeypatch.setattr("sam2.utils.misc.tqdm", lambda frames, **_: iter(frames))
    monkeypatch.setattr(sam2_peers, "_largest_component", lambda found: found)
    ours = sam2_peers.medsam2_script(
        sam2_peers.medsam2_model("nano", seed=3, device="cpu", image_size=SIDE), voxels, PROMPT, BOX
    )
    grey = np.uint8((voxels + 160.0) / 400.0 * 255.0)
    for index, section in enumerate(grey):  # the package insists on the name, PIL reads what is inside: nothing is lost
        Image.fromarray(section).save(tmp_path / f"{index}.jpg", format="PNG")
    predictor = stock_sam2("nano", SIDE, seed=3, target=VIDEO_PREDICTOR)
    expected = np.zeros(voxels.shape, dtype=bool)
    for reverse in (False, True):
        state = predictor.init_state(str(tmp_path))
        predictor.add_new_points_or_box(state, PROMPT, 1, box=BOX)
        for index, _, logits in predictor.propagate_in_video(state, reverse=reverse):
            expected[index] |= (logits[0, 0] > 0).numpy()
    assert 0.05 < expected.mean() < 0.95
    assert (ours.mask != expected).mean() < 1e-4
    assert len(ours.up.slices) == len(voxels) - PROMPT
    assert len(ours.down.slices) == PROMPT + 1


def test_largest_component_is_kept():
    found = np.zeros((4, 8, 8), dtype=bool)
    found[0, :2, :2] = True
    found[2:, 4:, 4:] = True
    kept = sam2_peers._largest_component(found)
    assert kept.sum() == 32
    assert not kept[0].any()
    assert not sam2_peers._largest_component(np.zeros_like(found)).any()


def test_sam2ct_peer_gives_the_masks_of_the_plain_procedure(voxels):
    model = sam2_peers.sam2ct_model("nano", seed=3, device="cpu", image_size=SIDE)
    ours = sam2_peers.sam2ct_script(model, voxels, PROMPT, BOX, extent=(5, 4))
    grey = (voxels.astype(np.float32) - voxels.min()) / float(voxels.max() - voxels.min())
    resized = torch.nn.functional.interpolate(torch.from_numpy(grey)[:, None], (SIDE, SIDE), mode="bilinear")
    images = [
        torch.cat([(image - mean) / deviation for mean, deviation in zip(MEAN, DEVIATION, strict=True)])
        for image in resized
    ]
    scale = SIDE / voxels.shape[1]
    clicks = [Click(BOX[0] * scale, BOX[1] * scale, 2), Click(BOX[2] * scale, BOX[3] * scale, 3)]
    rules = Rules(memory_conditioned=True, multimask=False, pointer_reach=7, pointer_scale=7)
    seen = both_ways(model, images, PROMPT, clicks, rules)
    step = SIDE // voxels.shape[1]
    for index in range(len(voxels)):
        expected = (full_size(model, seen[index].logits) > 0).numpy()[::step, ::step]
        if PROMPT - 5 <= index <= PROMPT + 4:
            assert 0.02 < expected.mean() < 0.98
            assert (ours.mask[index] != expected).mean() < 2e-3
        else:
            assert not ours.mask[index].any()


def test_a_run_on_part_of_a_volume_is_scaled_to_the_whole():
    one, long = Cost(1.0, 2.0), Cost(10.0, 20.0)
    up = sam2_peers.Pass([long] * sam2_peers.RAMP + [one] * 4)
    cost = sam2_peers.LesionCost(20, one, one, up, sam2_peers.Pass([one, one]), np.zeros((1, 1, 1), dtype=bool))
    # Twice the volume, the state, 8 slow and 12 fast slices up; of the short way down only the first is wanted.
    assert cost.scaled(40, above=20, below=1) == Cost(2 + 1 + 92 + 1, 2 * (2 + 1 + 92 + 1))
