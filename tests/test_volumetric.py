"""The volumetric engines: boxes in and out of a volume, prompts of all kinds, what is found, weights, training."""

from __future__ import annotations

import sys
from dataclasses import replace

import numpy as np
import pytest
import scipy.ndimage as ndi
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from lesions import lesion_in_tissue, make_volume
from safetensors.torch import load_file, save_file

from segmentation import (
    Arrow,
    Bidimensional,
    Box,
    EngineError,
    Line,
    Mask,
    MaskPrompt,
    Points,
    SegmentationFailure,
    SegmentationJob,
    Segmenter,
    describe,
    load_segmenter,
    simulate_prompt,
)
from segmentation.metrics import dice
from segmentation.prompts import KINDS
from segmentation.training.config import Augmentation, LossRecipe, TrainConfig, Turn
from segmentation.training.samples import Sample
from segmentation.training.trainees import make_trainee
from segmentation.types import SegmentationError
from segmentation.volumetric.aims import aim_of
from segmentation.volumetric.config import PatchConfig, UNet3DConfig
from segmentation.volumetric.engine import BoxSegmenter
from segmentation.volumetric.frames import Frame, paste, sample
from segmentation.volumetric.inputs import CONSTANTS, ON_THE_RIM, assemble, channels, draw, guides_of, image_of
from segmentation.volumetric.networks import build_network
from segmentation.volumetric.patches import patch_hu, patch_of, patch_values, region_of
from segmentation.volumetric.patchwork import PatchSegmenter
from segmentation.volumetric.weights import HEADER_KEY, find_network, load_network, save_network

TINY = UNet3DConfig(side=24, widths=(8, 16, 16), blocks=(1, 1, 1))
FEATURE_CONFIG = UNet3DConfig()
AUGMENTED = Augmentation(gain=0.12, offset_hu=15.0, noise_hu=20.0, narrow=0.25, mirror=0.5, shift=1 / 8, zoom=0.15)
FROM_SCRATCH = LossRecipe(focal=0.0, cross_entropy=2.0, dice=1.0)


class Brighter(torch.nn.Module):
    """Stands in for a trained network, and is equivariant: whatever is brighter than 80 HU is the lesion."""

    def __init__(self, config=FEATURE_CONFIG):
        super().__init__()
        self.config = config

    def forward(self, values, constants):
        assert constants.shape[1] == CONSTANTS
        return 40 * (values[:, 1:2] - 0.15)


class Nothing(Brighter):
    def forward(self, values, constants):
        return super().forward(values, constants) * 0 - 10


@pytest.fixture(scope="module")
def case():
    """A lesion brighter than all that is around it."""
    volume, truth = lesion_in_tissue(noise_hu=4)
    voxels = np.where(ndi.binary_dilation(truth, iterations=3), volume.voxels, np.minimum(volume.voxels, 50))
    return replace(volume, voxels=voxels.astype(np.int16)), truth


def prompt_of(kind, truth, volume, seed=0):
    return simulate_prompt(truth, kind, np.random.default_rng(seed), spacing_mm=volume.spacing_mm)


def answer(engine, volume, prompt):
    (found,) = engine.segment([SegmentationJob("a", volume, (prompt,))])
    return found


def ellipsoid(shape, spacing, semi, angle=0.0, centre=None):
    centre = np.asarray(centre if centre is not None else [(n - 1) / 2 for n in shape])
    z, y, x = ((i - c) * mm for i, c, mm in zip(np.indices(shape), centre, spacing, strict=True))
    u, v = x * np.cos(angle) + y * np.sin(angle), y * np.cos(angle) - x * np.sin(angle)
    return (z / semi[0]) ** 2 + (v / semi[1]) ** 2 + (u / semi[2]) ** 2 <= 1


# ---- boxes ----------------------------------------------------------------------------------------------------------


@given(
    angle=st.floats(0, np.pi),
    pixel=st.floats(0.5, 1.2),
    slice_mm=st.floats(0.8, 3.0),
    across=st.floats(8, 60),
    flat=st.floats(0.55, 1.0),
)
@settings(max_examples=25, deadline=None)
def test_a_lesion_survives_the_way_into_its_box_and_back(angle, pixel, slice_mm, across, flat):
    length = across * max(pixel, slice_mm if slice_mm > 2 * pixel else pixel)
    spacing = (min(slice_mm, flat * length / 8), pixel, pixel)
    semi = (flat * length / 2, flat * length / 2, length / 2)
    shape = tuple(int(1.3 * length / mm) + 4 for mm in spacing)
    truth = ellipsoid(shape, spacing, semi, angle)
    volume = make_volume(np.zeros(shape), spacing)
    middle = [(n - 1) / 2 for n in shape]
    ends = [
        (middle[2] + s * length / 2 * np.cos(angle) / pixel, middle[1] + s * length / 2 * np.sin(angle) / pixel)
        for s in (-1, 1)
    ]
    (guide,) = guides_of(aim_of(Line(round(middle[0]), *ends), volume), volume.spacing_mm, UNet3DConfig())
    share, origin = paste(sample(truth, spacing, guide.frame), guide.frame, shape, spacing)
    back = np.zeros(shape, bool)
    back[tuple(slice(o, o + n) for o, n in zip(origin, share.shape, strict=True))] = share > 0.5
    assert dice(back, truth) >= 0.97


def test_samples_are_those_of_scipy():
    rng = np.random.default_rng(0)
    voxels, spacing = rng.normal(0, 100, (20, 50, 60)), (2.0, 0.8, 0.7)
    frame = Frame((18.0, 20.0, 22.0), (np.cos(0.6), np.sin(0.6)), (9.0, 8.0, 7.0), (12, 24, 20))
    z, y, x = frame.position(
        frame.coordinates_mm(0)[:, None, None], frame.coordinates_mm(1)[:, None], frame.coordinates_mm(2)
    )
    at = np.broadcast_arrays(z / spacing[0], y / spacing[1], x / spacing[2])
    expected = ndi.map_coordinates(voxels, at, order=1, mode="nearest")
    np.testing.assert_allclose(sample(voxels, spacing, frame), expected, atol=1e-3)


@pytest.mark.parametrize("half", [8.0, 40.0, 90.0])
@pytest.mark.parametrize("depth", [9, 48, 90])
def test_a_ramp_stays_a_ramp_however_thinned_out(half, depth):
    spacing, shape = (2.0, 0.7, 0.7), (depth, 400, 400)
    z, y, x = np.indices(shape, dtype=np.float32)
    voxels = 0.3 * z * spacing[0] + 2 * y * spacing[1] - x * spacing[2]
    frame = Frame((depth * 1.0, 140.0, 140.0), (0.6, 0.8), (min(half, depth * 0.4), half, half), (24, 24, 24))
    at = frame.position(
        frame.coordinates_mm(0)[:, None, None], frame.coordinates_mm(1)[:, None], frame.coordinates_mm(2)
    )
    inside = (2, -2) if depth > 9 else (8, -8)  # at the borders of the volume a blurred ramp bends
    part = slice(*inside)
    expected = np.broadcast_to(0.3 * at[0] + 2 * at[1] - at[2], frame.shape)
    np.testing.assert_allclose(sample(voxels, spacing, frame)[part], expected[part], atol=0.05 * half / 8)


def test_a_position_is_found_where_it_was_put():
    frame = Frame((5.0, 6.0, 7.0), (0.6, 0.8), (1.0, 2.0, 3.0), (4, 4, 4))
    assert frame.locate(*frame.position(0.5, -1.5, 2.5)) == pytest.approx((0.5, -1.5, 2.5))
    assert frame.position(0.0, 0.0, 5.0) == pytest.approx((5.0, 10.0, 10.0))  # u runs along (x, y) = (0.6, 0.8)


def test_a_box_beside_the_volume_pastes_nothing():
    frame = Frame((500.0, 500.0, 500.0), (1.0, 0.0), (5.0, 5.0, 5.0), (8, 8, 8))
    share, _ = paste(np.ones((8, 8, 8), np.float32), frame, (10, 20, 20), (1.0, 1.0, 1.0))
    assert not share.any()


# ---- aims -----------------------------------------------------------------------------------------------------------

PLAIN = make_volume(np.zeros((9, 60, 80)), (3.0, 0.5, 0.5))


def test_a_line_means_the_same_from_either_end():
    one, other = (aim_of(Line(4, *ends), PLAIN) for ends in (((10, 40), (40, 12)), ((40, 12), (10, 40))))
    assert one.direction == pytest.approx(other.direction)
    assert one.centre_mm == pytest.approx(other.centre_mm)
    assert one.length_mm == pytest.approx(np.hypot(15, 14) + 0.5)  # from rim to rim: half a pixel more at each end


def test_what_each_prompt_says():
    pair = aim_of(Bidimensional(4, ((10, 20), (50, 20)), ((30, 14), (30, 30))), PLAIN)
    assert pair.centre_mm == pytest.approx((15, 11))  # in the middle of both axes
    assert pair.semi_short * pair.length_mm == pytest.approx(8.5 / 2)
    box = aim_of(Box(4, (10, 5), (19, 44)), PLAIN)
    assert (box.length_mm, box.direction) == (pytest.approx(20), (0.0, 1.0))
    assert box.semi_short == pytest.approx(0.125 * 1.2) or box.semi_short == pytest.approx(0.15)
    mask = aim_of(MaskPrompt(4, ellipsoid((1, 60, 80), (1, 0.5, 0.5), (1, 5, 10), angle=0.5)[0]), PLAIN)
    assert mask.length_mm == pytest.approx(20, rel=0.04)
    assert mask.direction == pytest.approx((np.cos(0.5), np.sin(0.5)), abs=0.03)
    assert mask.semi_short == pytest.approx(0.25, rel=0.06)
    points = aim_of(Points(4, ((10, 10), (20, 30), (70, 50)), (1, 1, 0)), PLAIN)
    assert points.centre_mm == pytest.approx((7.5, 10))
    assert points.length_mm is None
    arrow = aim_of(Arrow(4, (10, 10), (10, 30)), PLAIN)
    assert (arrow.centre_mm, arrow.direction) == ((5.0, 15.0), (0.0, 1.0))


BAD = (
    Line(9, (10, 10), (20, 20)),
    Line(4, (10, 10), (10, 10)),
    Line(4, (10, 10), (99, 10)),
    Arrow(4, (10, 10), (10, 10)),
    Arrow(4, (10, 10), (-9, 10)),
    Box(-1, (1, 1), (5, 5)),
    Box(4, (1, 1), (5, 500)),
    Points(4, ((10, 10),), (0,)),
    Points(4, ((10, 100),), (1,)),
    MaskPrompt(4, np.zeros((60, 80), bool)),
    MaskPrompt(4, np.ones((60, 70), bool)),
    MaskPrompt(12, np.ones((60, 80), bool)),
)


@pytest.mark.parametrize("prompt", BAD, ids=lambda p: f"{type(p).__name__}{p.slice_index}")
def test_a_bad_prompt_costs_its_own_lesion(prompt):
    with pytest.raises(SegmentationError):
        aim_of(prompt, PLAIN)
    good = SegmentationJob("good", PLAIN, (Line(4, (10, 10), (30, 20)),))
    found = list(
        BoxSegmenter(Brighter(), FEATURE_CONFIG).segment([good, SegmentationJob("bad", PLAIN, (prompt,)), good])
    )
    assert [type(each) for each in found] == [Mask, SegmentationFailure, Mask]
    assert found[1].reason == "bad_prompt"


@pytest.mark.parametrize("kind", KINDS)
def test_the_prompt_is_drawn_where_the_lesion_is(case, kind):
    volume, truth = case
    config = UNet3DConfig()
    for guide in guides_of(aim_of(prompt_of(kind, truth, volume), volume), volume.spacing_mm, config):
        drawn = draw(volume, guide, config)
        values, constants = assemble(image_of(volume, guide), drawn, guide, volume.spacing_mm, config)
        assert values.shape == (channels(config), 48, 48, 48)
        assert constants.shape == (CONSTANTS,)
        assert np.isfinite(values).all()
        assert np.abs(constants).max() < 4
        inside = sample(truth, volume.spacing_mm, guide.frame) > 0.5
        assert inside.any()
        assert drawn.expected[inside].mean() > 3 * drawn.expected[~inside].mean()
        assert values[3][inside].mean() > values[3][~inside].mean()  # the ratio tells lesion from what is around it
        if guide.aim.length_mm is not None:
            assert dice(drawn.expected > ON_THE_RIM, inside) > 0.6


# ---- the engine -----------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("kind", KINDS)
def test_what_the_network_sees_is_found_from_every_prompt(case, kind):
    volume, truth = case
    engine = BoxSegmenter(Brighter(), FEATURE_CONFIG)
    assert isinstance(engine, Segmenter)
    mask = answer(engine, volume, prompt_of(kind, truth, volume))
    assert dice(mask.in_volume(truth.shape), truth) > 0.9
    assert mask.flags == ()
    assert 0.8 < mask.confidence <= 1
    assert all(0 <= value <= 1 for value in (*mask.slice_confidence, *mask.slice_stability))
    assert len(mask.slice_stability) == len(mask.voxels)
    again = answer(BoxSegmenter(Brighter(), FEATURE_CONFIG, batch=7), volume, prompt_of(kind, truth, volume))
    assert again.voxels.tobytes() == mask.voxels.tobytes()
    assert again.engine == mask.engine


@pytest.mark.parametrize("kind", ["line", "bidimensional", "arrow", "box"])
@pytest.mark.parametrize("change", ["turned", "mirrored", "upside down"])
def test_a_turned_volume_gives_the_turned_mask(case, kind, change):
    volume, truth = case
    depth, _, columns = truth.shape
    moves = {
        "turned": (lambda a: np.rot90(a, axes=(1, 2)), lambda p: (p[1], columns - 1 - p[0]), lambda k: k),
        "mirrored": (lambda a: a[:, :, ::-1], lambda p: (columns - 1 - p[0], p[1]), lambda k: k),
        "upside down": (lambda a: a[::-1], lambda p: p, lambda k: depth - 1 - k),
    }
    array, point, index = moves[change]
    prompt = prompt_of(kind, truth, volume, seed=3)
    moved = _moved(prompt, point, index)
    engine = BoxSegmenter(Brighter(), FEATURE_CONFIG)
    mask = answer(engine, volume, prompt).in_volume(truth.shape)
    turned = answer(engine, replace(volume, voxels=np.ascontiguousarray(array(volume.voxels))), moved)
    assert dice(turned.in_volume(truth.shape), array(mask)) > 0.995


def _moved(prompt, point, index):
    at = index(prompt.slice_index)
    if isinstance(prompt, Line):
        return Line(at, point(prompt.start), point(prompt.end))
    if isinstance(prompt, Arrow):
        return Arrow(at, point(prompt.tail), point(prompt.head))
    if isinstance(prompt, Box):
        corners = np.array([point(prompt.lower), point(prompt.upper)])
        return Box(at, tuple(corners.min(axis=0)), tuple(corners.max(axis=0)))
    return Bidimensional(at, tuple(map(point, prompt.long_axis)), tuple(map(point, prompt.short_axis)))


@pytest.mark.parametrize("kind", KINDS)
def test_where_nothing_is_found_the_ellipsoid_is_given_and_says_so(case, kind):
    volume, truth = case
    mask = answer(BoxSegmenter(Nothing(), FEATURE_CONFIG), volume, prompt_of(kind, truth, volume))
    assert "fallback_ellipsoid" in mask.flags
    assert ("assumed_size" in mask.flags) == (kind in ("arrow", "point"))
    assert mask.confidence == pytest.approx(0.3)
    if kind in ("line", "bidimensional", "box", "mask"):
        assert dice(mask.in_volume(truth.shape), truth) > 0.6


class Broken(Brighter):
    """One value is no number, from a look on."""

    def __init__(self, after):
        super().__init__()
        self.left = after

    def forward(self, values, constants):
        self.left -= 1
        found = super().forward(values, constants)
        if self.left < 0:
            found[:, :, 0, 0, 0] = np.nan
        return found


@pytest.mark.parametrize("kind", ["line", "arrow"])
def test_values_that_are_no_numbers_are_a_failure_and_no_ellipsoid(case, kind):
    volume, truth = case
    prompt = prompt_of(kind, truth, volume)
    for after in range(2 if kind == "arrow" else 1):  # of several boxes, one is enough
        failed = answer(BoxSegmenter(Broken(after), FEATURE_CONFIG), volume, prompt)
        assert (type(failed), failed.reason) == (SegmentationFailure, "numerical")


def test_what_goes_on_beyond_the_box_says_so(case):
    volume, _ = case
    bright = replace(volume, voxels=np.full_like(volume.voxels, 200))
    assert "crop_limit" in answer(BoxSegmenter(Brighter(), FEATURE_CONFIG), bright, Line(15, (44, 48), (52, 48))).flags
    whole = answer(BoxSegmenter(Brighter(), FEATURE_CONFIG), bright, Line(15, (1, 48), (94, 48)))
    assert "crop_limit" not in whole.flags  # the volume ends there, not the box


def test_a_click_outside_the_lesion_is_told(case):
    volume, truth = case
    k = int(truth.sum(axis=(1, 2)).argmax())
    row, column = (int(v) for v in np.argwhere(ndi.binary_erosion(truth[k], iterations=4))[0])
    inside, elsewhere = (column, row), (5, 90)
    engine = BoxSegmenter(Brighter(), FEATURE_CONFIG)
    assert answer(engine, volume, Points(k, (inside, elsewhere), (1, 0))).flags == ()
    middle = tuple(np.argwhere(truth[k]).mean(axis=0)[::-1])
    assert answer(engine, volume, Points(k, (inside, middle), (1, 0))).flags == ("negative_point_inside",)


def test_a_drawn_outline_is_the_answer_on_its_slice(case):
    volume, truth = case
    outline = truth[15] & (np.arange(96) > 46)  # half of what is bright there
    mask = answer(BoxSegmenter(Brighter(), FEATURE_CONFIG), volume, MaskPrompt(15, outline))
    assert (mask.in_volume(truth.shape)[15] == outline).all()


def test_the_whole_of_a_drawn_outline_is_kept(case):
    """The network agrees with one end of it: the mask still reaches the other."""
    volume, truth = case
    k = 15
    outline = truth[k].copy()
    outline[48, 20:90] = True
    for network in (Brighter(), Nothing()):
        mask = answer(BoxSegmenter(network, FEATURE_CONFIG), volume, MaskPrompt(k, outline))
        assert (mask.in_volume(truth.shape)[k] == outline).all()


def test_jobs_are_pulled_as_there_is_room(case):
    volume, truth = case
    pulled = []

    def jobs():
        for i in range(50):
            pulled.append(i)
            yield SegmentationJob(str(i), volume, (prompt_of("line", truth, volume),))

    stream = BoxSegmenter(Brighter(), FEATURE_CONFIG, batch=3).segment(jobs())
    assert next(stream).job_id == "0"
    assert len(pulled) == 3


@pytest.mark.parametrize("spot", [(0, 3), (0, 60), (11, 3), (11, 60)])
def test_corners_of_the_volume(spot):
    k, at = spot
    volume = make_volume(np.random.default_rng(1).normal(30, 20, (12, 64, 64)), (3.0, 0.9, 0.9))
    for network in (Brighter(), Nothing()):
        mask = answer(
            BoxSegmenter(network, FEATURE_CONFIG), volume, Line(k, (at - 2.5, at - 2.5), (at + 2.5, at + 2.5))
        )
        assert mask.in_volume(volume.voxels.shape).any()


def test_a_tilted_gantry_is_flagged(case):
    volume, truth = case
    tilted = make_volume(volume.voxels, volume.spacing_mm, tilt_mm=0.5)
    assert (
        "sheared_grid"
        in answer(BoxSegmenter(Brighter(), FEATURE_CONFIG), tilted, prompt_of("line", truth, volume)).flags
    )


# ---- weights --------------------------------------------------------------------------------------------------------


@pytest.fixture
def weights(tmp_path):
    return save_network(build_network(TINY, seed=1), TINY, tmp_path / "tiny.safetensors", {"steps": 3})


def test_saved_weights_answer_as_the_network_did(weights, case):
    volume, truth = case
    network = build_network(TINY, seed=1).half().float().eval()
    engine = load_segmenter("unet3d", weights=weights, device="cpu")
    job = SegmentationJob("a", volume, (prompt_of("line", truth, volume),))
    (one,), (other,) = BoxSegmenter(network, TINY).segment([job]), engine.segment([job])
    assert one.voxels.tobytes() == other.voxels.tobytes()
    assert other.weights_sha256 == load_network(weights)[1].sha256
    assert load_network(weights)[1].metadata == {"steps": 3}


def test_a_weights_file_says_what_it_is(weights):
    said = str(describe(weights))
    assert "tiny.safetensors: volumetric network of the engine unet3d" in said
    assert load_network(weights)[1].sha256 in said
    assert "steps: 3" in said
    again = save_network(build_network(TINY, seed=1), TINY, weights.with_name("again.safetensors"), {"steps": 3})
    assert again.read_bytes() == weights.read_bytes()


@pytest.mark.parametrize(
    ("change", "says"),
    [
        (lambda state: state.pop("stem.bias"), "stem.bias is missing"),
        (lambda state: state.update(extra=torch.zeros(1)), "extra is too many"),
        (lambda state: state.update({"stem.bias": torch.zeros(3)}), "stem.bias has shape"),
        (lambda state: state.update({"stem.bias": state["stem.bias"].long()}), "stem.bias is of type"),
        (lambda state: state["stem.bias"].fill_(torch.nan), "stem.bias holds"),
    ],
)
def test_weights_that_do_not_fit_are_refused_by_name(weights, change, says):
    state = load_file(weights)
    change(state)
    from safetensors import safe_open

    with safe_open(weights, "pt") as file:
        header = file.metadata()
    save_file(state, weights, metadata=header)
    with pytest.raises(EngineError, match=says):
        load_network(weights)


@pytest.mark.parametrize(
    "header",
    ["[]", "{}", "{", '{"engine": "unet3d", "config": {"side": 47}, "format_version": 1, "training": {}}'],
)
def test_a_header_that_cannot_be_read_is_refused(weights, header):
    save_file(load_file(weights), weights, metadata={HEADER_KEY: header})
    with pytest.raises(EngineError, match="cannot be read"):
        load_network(weights)


def test_weights_are_found_in_a_folder_and_told_apart(weights, monkeypatch):
    save_file({"a": torch.zeros(1)}, weights.with_name("other.safetensors"))
    assert find_network("unet3d", weights.parent) == weights
    monkeypatch.setenv("COHORT_WEIGHTS", str(weights.parent))
    assert find_network("unet3d") == weights
    with pytest.raises(EngineError, match="no weights for the engine 'dynunet'"):
        find_network("dynunet")
    with pytest.raises(EngineError, match="of the engine 'unet3d', not of 'dynunet'"):
        load_segmenter("dynunet", weights=weights)
    weights.with_name("second.safetensors").write_bytes(weights.read_bytes())
    with pytest.raises(EngineError, match=r"second.safetensors, tiny.safetensors"):
        find_network("unet3d", weights.parent)


def test_options_it_does_not_take_are_refused(weights):
    for wrong in ({"colour": 1}, {"dtype": "fp8"}, {"batch": 0}):
        with pytest.raises(ValueError, match=next(iter(wrong))):
            load_segmenter("unet3d", weights=weights, **wrong)


@pytest.mark.parametrize(
    "values",
    [{"side": 20}, {"side": 48.0}, {"free_mm": ()}, {"widths": (8, 8)}, {"ratio": "False"}, {"half_z": float("nan")}],
)
def test_a_configuration_is_valid_or_does_not_exist(values):
    with pytest.raises(ValueError, match=next(iter(values))):
        UNet3DConfig(**values)


@pytest.mark.parametrize("config", [TINY, PatchConfig(), UNet3DConfig(free_mm=(20.0, 40.0, 80.0))])
def test_a_configuration_survives_its_text(config):
    assert type(config).from_json(config.to_json()) == config


# ---- training -------------------------------------------------------------------------------------------------------


def lesion(case, sample_id="one"):
    volume, truth = case
    return Sample(sample_id, "case", "patient", "made", "made", "train", volume, truth)


def config_of(model, **changes):
    values = {"model": model, "steps": 10, "augmentation": AUGMENTED, "loss": FROM_SCRATCH, "slices": (1,), **changes}
    return TrainConfig(**values)


@pytest.mark.parametrize("as_drawn", [0.0, 1.0])
@pytest.mark.parametrize("kind", KINDS)
def test_what_is_drawn_depends_on_the_generator_alone(case, kind, as_drawn):
    trainee = make_trainee(config_of(TINY, as_drawn=as_drawn))
    one, same, other = (
        trainee.draw(lesion(case), Turn(0, kind, 1), np.random.default_rng([7, seed])) for seed in (1, 1, 2)
    )
    assert one.tensors().keys() == {"values", "constants", "truth"}
    for name, tensor in one.tensors().items():
        assert torch.equal(tensor, same.tensors()[name])
        assert torch.isfinite(tensor).all()
    assert not torch.equal(one.values, other.values)
    assert 0 < one.truth.mean() < 0.6
    assert 0 <= one.truth.min() <= one.truth.max() <= 1


def test_training_sees_what_the_engine_sees(case):
    """Without augmentation the box of a training prompt is the box that the engine makes of it."""
    volume, truth = case
    trainee = make_trainee(config_of(TINY, augmentation=Augmentation()))
    still = replace(volume, voxels=volume.voxels)
    rng = np.random.default_rng(3)
    narrow = lesion((still, truth))
    item = trainee.draw(narrow, Turn(0, "line", 1), rng)
    assert item.values.shape == (channels(TINY), 24, 24, 24)
    expected, inside = item.values[-1], item.truth[0] > 0.5
    assert dice((expected > ON_THE_RIM).numpy(), inside.numpy()) > 0.6


def test_losses_are_those_of_the_recipe_and_add_up(case):
    trainee = make_trainee(config_of(TINY))
    items = [trainee.draw(lesion(case), Turn(0, "line", 1), np.random.default_rng(i)) for i in range(3)]
    losses = trainee(items)
    assert losses.parts.keys() == {"cross_entropy", "dice"}
    assert float(losses.total.detach()) == pytest.approx(sum(float(part) for part in losses.parts.values()), rel=1e-5)
    alone = [float(trainee([item]).total.detach()) for item in items]
    assert float(losses.total.detach()) == pytest.approx(np.mean(alone), rel=1e-4)  # a batch may be split
    groups = trainee.parameter_groups(trainee.config)
    assert {p for group in groups for p in group["params"]} == set(trainee.parameters())
    assert [group["weight_decay"] for group in groups] == [0.01, 0.0]


def test_one_case_is_learned_by_heart(case, tmp_path):
    volume, truth = case
    trainee = make_trainee(config_of(TINY, augmentation=Augmentation()))
    optimizer = torch.optim.AdamW(trainee.parameters(), lr=1e-2)
    prompt = prompt_of("line", truth, volume)
    before = dice(answer(trainee.segmenter(), volume, prompt).in_volume(truth.shape), truth)
    for step in range(30):
        items = [trainee.draw(lesion(case), Turn(step, "line", 1), np.random.default_rng([step, i])) for i in range(3)]
        optimizer.zero_grad()
        trainee(items).total.backward()
        optimizer.step()
    mask = answer(trainee.segmenter(), volume, prompt)
    after = dice(mask.in_volume(truth.shape), truth)
    assert "fallback_ellipsoid" not in mask.flags
    assert after > max(0.93, before + 0.03)
    path = trainee.save(tmp_path / "learned.safetensors", {"steps": 40}, dtype=torch.float16)
    saved = answer(load_segmenter("unet3d", weights=path, device="cpu"), volume, prompt)
    assert dice(saved.in_volume(truth.shape), truth) == pytest.approx(after, abs=0.01)
    again = make_trainee(config_of(TINY), weights=path)
    items = [again.draw(lesion(case), Turn(0, "line", 1), np.random.default_rng(0))]
    assert float(again(items).total.detach()) == pytest.approx(float(trainee(items).total.detach()), rel=0.02)
    with pytest.raises(EngineError, match="to be trained"):
        make_trainee(config_of(UNet3DConfig()), weights=path)


# ---- the comparators ------------------------------------------------------------------------------------------------

SMALL = {
    "dynunet": PatchConfig("dynunet", patch=(32, 64, 64), spacing_mm=(2.0, 1.0, 1.0), widths=(4, 8, 8)),
    "swin-unetr": PatchConfig("swin-unetr", patch=(64, 32, 32), spacing_mm=(1.0, 1.5, 1.5), widths=(12,)),
}


class BrighterPatch(torch.nn.Module):
    def forward(self, values):
        return 400 * (values[:, :1] - 0.58)


@pytest.mark.parametrize("kind", KINDS)
def test_a_patch_shows_image_and_prompt(case, kind):
    pytest.importorskip("monai")
    volume, truth = case
    config, prompt = SMALL["dynunet"], prompt_of(kind, truth, volume)
    frame = patch_of(aim_of(prompt, volume), volume.spacing_mm, config)
    values = patch_values(patch_hu(volume, frame, config), volume, prompt, frame, config)
    assert values.shape == (2, 32, 64, 64)
    assert 0 <= values[0].min() < values[0].max() <= 1
    assert set(np.unique(values[1])) == {0, 1}
    layers = np.flatnonzero(values[1].any(axis=(1, 2)))
    assert np.abs(frame.coordinates_mm(0)[layers]).max() <= volume.spacing_mm[0] / 2
    if kind == "mask":
        drawn, _ = paste(values[1], frame, truth.shape, volume.spacing_mm)
        assert drawn.max() > 0.5
    mask = answer(PatchSegmenter(BrighterPatch(), config), volume, prompt)
    if kind != "arrow":  # which may end before the lesion, at whatever else there is
        assert dice(mask.in_volume(truth.shape), truth) > 0.85


@pytest.mark.parametrize("value", [np.nan, 1.0])
def test_a_comparator_that_computes_no_numbers_has_failed(case, value):
    pytest.importorskip("monai")
    volume, truth = case

    class Overflows(BrighterPatch):
        def forward(self, values):
            return super().forward(values) * value

    found = answer(PatchSegmenter(Overflows(), SMALL["dynunet"]), volume, prompt_of("line", truth, volume))
    assert getattr(found, "reason", None) == ("numerical" if np.isnan(value) else None)


def test_a_region_ends_half_a_patch_beyond_the_volume():
    config = SMALL["dynunet"]
    volume = make_volume(np.zeros((40, 200, 300)), (2.0, 1.0, 1.0))
    for line in (Line(20, (10.0, 100.0), (290.0, 100.0)), Line(0, (5.0, 5.0), (5.0, 150.0))):
        aim = aim_of(line, volume)
        frame = region_of(aim, volume, config)
        for axis, n in enumerate(volume.voxels.shape):
            half_patch = config.patch[axis] * config.spacing_mm[axis] / 2
            low, high = frame.centre_mm[axis] - frame.half_mm[axis], frame.centre_mm[axis] + frame.half_mm[axis]
            assert low >= -half_patch - config.spacing_mm[axis]
            assert high <= (n - 1) * volume.spacing_mm[axis] + half_patch + config.spacing_mm[axis]
        values = patch_values(patch_hu(volume, frame, config), volume, line, frame, config)
        drawn, _ = paste(values[1], frame, volume.voxels.shape, volume.spacing_mm)
        assert drawn.any()
    small = region_of(aim_of(Line(20, (100.0, 100.0), (110.0, 100.0)), volume), volume, config)
    assert small.shape == config.patch
    assert small.centre_mm == (40.0, 100.0, 105.0)


def test_a_lesion_far_from_the_prompt_is_not_what_was_meant():
    pytest.importorskip("monai")
    dark = np.zeros((30, 120, 120))
    dark[10:20, 60:72, 90:102] = 120.0
    volume, engine = make_volume(dark, (2.0, 1.0, 1.0)), PatchSegmenter(BrighterPatch(), SMALL["dynunet"])
    beside, far = Line(15, (74.0, 66.0), (86.0, 66.0)), Line(15, (64.0, 66.0), (76.0, 66.0))
    assert isinstance(answer(engine, volume, beside), Mask)
    assert answer(engine, volume, far).reason == "nothing_found"


def test_comparators_train_anywhere_in_the_region_that_they_slide_over(case):
    """Where the prompt is drawn says where in it a patch lies."""
    pytest.importorskip("monai")
    config = replace(SMALL["dynunet"], patch=(32, 32, 32), spacing_mm=(0.5, 0.5, 0.5), widths=(4, 8, 8))
    trainee = make_trainee(config_of(config, augmentation=Augmentation()))
    drawn = [trainee.draw(lesion(case), Turn(0, "mask", 1), np.random.default_rng(seed)) for seed in range(60)]
    with_prompt = [bool(item.values[1].any()) for item in drawn]
    with_lesion = [bool(item.truth.any()) for item in drawn]
    assert 0 < sum(with_prompt) < sum(with_lesion) < 60  # beside the prompted slice, and beside the lesion


@pytest.mark.parametrize("name", ["dynunet", pytest.param("swin-unetr", marks=pytest.mark.slow)])
def test_comparators_train_save_and_load(case, name, tmp_path):
    pytest.importorskip("monai")
    volume, truth = case
    trainee = make_trainee(config_of(SMALL[name], loss=LossRecipe(focal=1.0), lesions=1))
    items = [trainee.draw(lesion(case), Turn(0, "line", 1), np.random.default_rng(i)) for i in range(2)]
    losses = trainee(items)
    losses.total.backward()
    assert losses.parts.keys() == {"focal", "dice"}
    path = trainee.save(tmp_path / "comparator.safetensors", {})
    engine = load_segmenter(name, weights=path, device="cpu")
    assert engine.name == name
    jobs = [SegmentationJob(kind, volume, (prompt_of(kind, truth, volume),)) for kind in ("line", "arrow")]
    assert [found.job_id for found in engine.segment(jobs)] == ["line", "arrow"]


def test_without_monai_the_comparators_say_what_to_install(monkeypatch):
    monkeypatch.setitem(sys.modules, "monai.networks.nets", None)
    with pytest.raises(EngineError, match=r"pip install 'cohort-builder\[monai\]'"):
        build_network(PatchConfig())
