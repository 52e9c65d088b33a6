"""Weights of the SAM2 family: told apart, found, loaded strictly, never trusted, saved.

No published file can be had here. Synthetic ones have the names and shapes of the `sam2` package's own models, and each
tensor is one number repeated, of which only one is stored: a file of the large model has 300 kB.
"""

from __future__ import annotations

import gzip
import hashlib
import json
import os
import pickle
import subprocess
import sys
import zipfile
from functools import cache, partial
from pathlib import Path
from unittest import mock

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from safetensors.torch import save_file
from sam2_stock import BASE, instantiate, stock_config

from segmentation.sam2ct import catalogue
from segmentation.sam2ct.config import MEDSAM2, NANO, SAM2, SAM2_FT, SAM2CT
from segmentation.sam2ct.model import build_model
from segmentation.sam2ct.weights import describe, find_weights, load_weights, save_weights, sha256_of, warm_start
from segmentation.types import EngineError

POINT = "sam_prompt_encoder.point_embeddings.{}.weight"
NANO_4 = NANO.with_changes(prompt_embeddings=4, memory_conditioned=False)
FILES = settings(max_examples=20)

# Tensors and numbers of SAM 2.1: 38.9, 46, 80.8 and 224.4 million parameters by its README, and 256 fixed numbers.
OFFICIAL = {
    "tiny": (471, 38_962_498 + 256),
    "small": (519, 46_060_354 + 256),
    "base_plus": (615, 80_850_178 + 256),
    "large": (903, 224_446_642 + 256),
}


def on_meta():
    """Build without memory; Hiera asks for the values of one short linspace."""
    return mock.patch("torch.linspace", partial(torch.linspace, device="cpu")), torch.device("meta")


@cache
def shapes(size: str) -> dict[str, tuple[int, ...]]:
    """Names and shapes of the `sam2` package's own model; of ours for the size that only we have."""
    patch, meta = on_meta()
    with patch, meta:
        model = build_model(NANO_4) if size == "nano" else instantiate({**stock_config(size, 1024), "_target_": BASE})
    return {name: tuple(tensor.shape) for name, tensor in model.state_dict().items()}


def stock(size: str, points: int = 4, dtype: torch.dtype = torch.float32) -> dict[str, torch.Tensor]:
    """Official tensors of one size: the i-th is (i + 1) / 8 everywhere."""
    named = dict(shapes(size))
    named |= {POINT.format(i): named[POINT.format(0)] for i in range(4, points)}
    return {
        name: torch.full((1,), (i + 1) / 8, dtype=dtype).expand(shape) for i, (name, shape) in enumerate(named.items())
    }


def write(path: Path, content: object) -> Path:
    torch.save(content, path)
    return path


def refusal(path: Path, config=None) -> str:
    """Message of the error; it never names a folder."""
    with pytest.raises(EngineError) as caught:
        load_weights(path, config)
    assert str(path.parent) not in str(caught.value)
    return str(caught.value)


@pytest.fixture(scope="module")
def nano():
    return build_model(NANO, seed=5)


@pytest.fixture(scope="module")
def nano_file(nano, tmp_path_factory) -> Path:
    return save_weights(nano, tmp_path_factory.mktemp("weights") / "ours.safetensors")


# What a file is


@pytest.mark.parametrize("size", OFFICIAL)
def test_an_official_file_of_each_size_is_told(size, tmp_path):
    path = write(tmp_path / "checkpoint.pt", {"model": stock(size)})
    info = describe(path)
    tensors, parameters = OFFICIAL[size]
    assert len(shapes(size)) == tensors
    assert (info.family, info.size, info.prompt_embeddings, info.parameters) == ("sam2", size, 4, parameters)
    assert info.engines == (("sam2", "medsam2") if size == "tiny" else ("sam2",))
    assert (info.name, info.format, info.dtypes, info.config) == ("checkpoint.pt", "pytorch", ("float32",), None)
    assert info.n_bytes == path.stat().st_size < 400_000
    assert info.sha256 == hashlib.sha256(path.read_bytes()).hexdigest()


@pytest.mark.parametrize("size", OFFICIAL)
def test_our_model_has_the_official_names_and_shapes(size):
    patch, meta = on_meta()
    with patch, meta:
        model = build_model(SAM2.with_changes(size=size))
    assert {name: tuple(tensor.shape) for name, tensor in model.state_dict().items()} == shapes(size)


def test_the_published_sam2ct_file_is_told(tmp_path):
    info = describe(write(tmp_path / "SAM2CT.pt", {"model": stock("tiny", points=8)}))
    assert (info.family, info.size, info.prompt_embeddings) == ("sam2ct", "tiny", 7)
    assert info.engines == ("sam2ct", "sam2-ft")
    assert info.parameters == OFFICIAL["tiny"][1] + 3 * 256
    assert any(POINT.format(7) in note for note in info.notes)


def test_a_description_reads_well(nano_file):
    text = str(describe(nano_file))
    for part in ("ours.safetensors", "SAM2CT", "nano", sha256_of(nano_file), "engines: sam2ct", '"image_size": 128'):
        assert part in text


def test_a_description_builds_no_model(nano_file):
    code = (
        "import sys; from segmentation.sam2ct.weights import describe; print(describe(sys.argv[1]).size);"
        "print(sorted({'sam2', 'hydra', 'segmentation.sam2ct.model'} & set(sys.modules)))"
    )
    done = subprocess.run([sys.executable, "-c", code, nano_file], capture_output=True, text=True, check=True)
    assert done.stdout.split() == ["nano", "[]"]


def test_files_of_other_models_are_described_and_refused(tmp_path):
    image = {"conv1.weight": torch.zeros(4, 3, 7, 7), "fc.bias": torch.zeros(10)}
    info = describe(write(tmp_path / "resnet.pt", image))
    assert (info.family, info.size, info.engines) == ("unknown", None, ())
    message = refusal(tmp_path / "resnet.pt", SAM2)
    assert "resnet.pt" in message
    assert "conv1.weight" in message
    hub = {"vision_encoder.backbone.pos_embed": torch.zeros(1), "prompt_encoder.point_embed.weight": torch.zeros(4)}
    assert any("transformers" in note for note in describe(write(tmp_path / "hub.pt", hub)).notes)


def test_sam2_of_july_2024_is_refused_by_the_tensors_it_lacks(tmp_path):
    lacking = ("no_obj_embed_spatial", "obj_ptr_tpos_proj.weight", "obj_ptr_tpos_proj.bias")
    state = {name: tensor for name, tensor in stock("nano").items() if name not in lacking}
    path = write(tmp_path / "sam2_hiera_tiny.pt", {"model": state})
    assert any("July 2024" in note for note in describe(path).notes)
    message = refusal(path, NANO_4)
    assert all(name in message for name in lacking)


def test_a_file_is_recognised_by_its_bytes_whatever_its_name(tmp_path, monkeypatch):
    path = write(tmp_path / "renamed.pt", {"model": stock("tiny")})
    entry = catalogue.Published("MedSAM2_latest.pt", "medsam2", "https://example.org", "?", sha256=sha256_of(path))
    monkeypatch.setattr(catalogue, "PUBLISHED", (entry,))
    assert describe(path).engines == ("medsam2",)
    assert any("publish as MedSAM2_latest.pt" in note for note in describe(path).notes)
    other = write(tmp_path / "MedSAM2_latest.pt", {"model": stock("tiny", dtype=torch.float16)})
    assert any("other bytes" in note for note in describe(other).notes)


def test_the_checksum_is_computed_once_while_the_file_stays(tmp_path):
    path = tmp_path / "file.pt"
    path.write_bytes(b"one")
    with mock.patch("hashlib.file_digest", wraps=hashlib.file_digest) as digest:
        assert {sha256_of(path), sha256_of(str(path))} == {hashlib.sha256(b"one").hexdigest()}
        assert digest.call_count == 1
        path.write_bytes(b"other")
        assert sha256_of(path) == hashlib.sha256(b"other").hexdigest()
    with pytest.raises(EngineError, match=r"gone\.pt"):
        sha256_of(tmp_path / "gone.pt")


# Loading


@pytest.mark.parametrize("wrap", ["official", "training", "bare", "safetensors"])
def test_every_tensor_arrives_whatever_the_layout(wrap, tmp_path):
    state = stock("nano")
    path = tmp_path / "checkpoint.pt"
    if wrap == "official":
        write(path, {"model": state})
    elif wrap == "training":
        optimizer = {"state": {0: {"step": torch.tensor(3.0)}}, "param_groups": [{"lr": 1e-4}]}
        write(path, {"model": state, "optimizer": optimizer, "epoch": 3})
    elif wrap == "bare":
        write(path, state)
    else:
        save_file({name: tensor.contiguous() for name, tensor in state.items()}, path)
    model, info = load_weights(path, NANO_4)
    loaded = model.state_dict()
    assert loaded.keys() == state.keys()
    assert all(torch.equal(loaded[name], state[name]) for name in state)
    assert not model.training
    assert info == describe(path)


def test_the_size_is_read_off_the_tensors(tmp_path):
    state = stock("base_plus")
    model, info = load_weights(write(tmp_path / "sam2.1_hiera_base_plus.pt", {"model": state}), SAM2)
    assert info.size == model.config.size == "base_plus"
    assert model.config == SAM2.with_changes(size="base_plus")
    assert all(torch.equal(tensor, state[name]) for name, tensor in model.state_dict().items())


def test_the_published_sam2ct_file_loads_without_its_unused_tensor(tmp_path):
    state = stock("tiny", points=8)
    path = write(tmp_path / "SAM2CT.pt", {"model": state})
    model, _ = load_weights(path)
    assert model.config == SAM2CT
    loaded = model.state_dict()
    assert state.keys() - loaded.keys() == {POINT.format(7)}
    assert all(torch.equal(tensor, state[name]) for name, tensor in loaded.items())
    comparator, _ = load_weights(path, SAM2_FT)
    assert comparator.config == SAM2_FT


@pytest.mark.parametrize("points", [5, 6, 9])
def test_any_other_number_of_point_embeddings_is_refused(points, tmp_path):
    path = write(tmp_path / "odd.pt", {"model": stock("nano", points=points)})
    assert POINT.format(5 if points == 5 else 6 if points == 6 else 8) in refusal(path, NANO)


@pytest.mark.parametrize("dtype", [torch.float16, torch.bfloat16, torch.float64])
def test_other_precisions_become_float32(dtype, tmp_path):
    state = stock("nano", dtype=dtype)
    model, info = load_weights(write(tmp_path / "half.pt", {"model": state}), NANO_4)
    assert info.dtypes == (str(dtype).removeprefix("torch."),)
    assert {tensor.dtype for tensor in model.state_dict().values()} == {torch.float32}
    assert all(torch.equal(tensor, state[name].float()) for name, tensor in model.state_dict().items())


@FILES
@given(data=st.data(), as_safetensors=st.booleans())
def test_whatever_is_wrong_with_a_tensor_the_error_names_it(data, as_safetensors, tmp_path_factory):
    state = stock("nano", points=7)
    name = data.draw(st.sampled_from(sorted(state)))
    damage = data.draw(st.sampled_from(["drop", "rename", "reshape", "add", "nan", "inf", "int"]))
    named = [name]
    tensor = state[name]
    if damage in {"drop", "rename"}:
        del state[name]
    if damage == "rename":
        named.append(name + data.draw(st.sampled_from(["_old", ".0", "2"])))
        state[named[1]] = tensor
    elif damage == "reshape":
        axis = data.draw(st.integers(0, tensor.ndim - 1))
        state[name] = torch.cat([tensor, tensor], dim=axis) if tensor.numel() < 1000 else tensor.flatten()
    elif damage == "add":
        named = ["module.extra"]
        state["module.extra"] = tensor
    elif damage in {"nan", "inf"}:
        state[name] = tensor.clone()
        state[name].view(-1)[data.draw(st.integers(0, tensor.numel() - 1))] = float(damage)
    elif damage == "int":
        state[name] = tensor.to(torch.int32)
    path = tmp_path_factory.mktemp("damaged") / "weights"
    if as_safetensors:
        save_file({key: value.contiguous() for key, value in state.items()}, path)
    else:
        write(path, {"model": state})
    message = refusal(path, NANO)
    assert all(part in message for part in named)


def test_many_wrong_tensors_are_counted(tmp_path):
    state = {name: tensor for name, tensor in stock("nano").items() if not name.startswith("memory_attention.layers.1")}
    message = refusal(write(tmp_path / "short.pt", {"model": state}), NANO_4)
    gone = len(stock("nano")) - len(state)
    assert f"{gone} missing" in message
    assert f"and {gone - 5} more" in message


def test_weights_that_never_learned_lines_are_not_asked_for_lines(tmp_path):
    message = refusal(write(tmp_path / "MedSAM2_latest.pt", {"model": stock("tiny")}), SAM2CT)
    for part in ("no line and arrow embeddings", "'medsam2'", "warm_start"):
        assert part in message


def test_weights_with_lines_are_not_taken_for_sam2(tmp_path):
    assert "'sam2ct'" in refusal(write(tmp_path / "x.pt", {"model": stock("tiny", points=7)}), MEDSAM2)


def test_a_warm_start_makes_the_new_embeddings_of_the_old(tmp_path):
    state = stock("nano")
    path = write(tmp_path / "sam2.pt", {"model": state})
    model, info = warm_start(path, NANO)
    assert info.prompt_embeddings == 4
    assert model.config == NANO
    loaded = model.state_dict()
    negative, positive, first, last = (state[POINT.format(i)] for i in range(4))
    assert torch.equal(loaded[POINT.format(4)], (first + last) / 2)
    assert torch.equal(loaded[POINT.format(5)], negative)
    assert torch.equal(loaded[POINT.format(6)], positive)
    assert all(torch.equal(loaded[name], state[name]) for name in state)
    with pytest.raises(EngineError, match="line and arrow"):
        warm_start(write(tmp_path / "sam2ct.pt", {"model": stock("nano", points=7)}), NANO)


# Ours


def test_what_is_saved_comes_back_with_its_configuration(tmp_path):
    config = NANO.with_changes(memory_conditioned=False, hu_clip=(-160.5, 240.0), temporal_order="sam2ct")
    model = build_model(config, seed=1)
    path = save_weights(model, tmp_path / "ours.safetensors")
    loaded, info = load_weights(path, SAM2CT)
    assert info.config == loaded.config == config
    assert info.engines == ("sam2-ft",)
    assert all(torch.equal(loaded.state_dict()[name], tensor) for name, tensor in model.state_dict().items())
    switched, _ = load_weights(path, SAM2CT, memory_conditioned=True)
    assert switched.config == config.with_changes(memory_conditioned=True)


def test_the_same_model_gives_the_same_bytes(nano_file, tmp_path):
    again = [save_weights(build_model(NANO, seed=5), tmp_path / f"{i}.safetensors") for i in range(4)]
    assert {path.read_bytes() for path in again} == {nano_file.read_bytes()}


def test_a_failed_save_leaves_what_was_there(nano, tmp_path):
    path = tmp_path / "ours.safetensors"
    path.write_bytes(b"before")
    with mock.patch("os.fsync", side_effect=OSError("disk full")), pytest.raises(OSError, match="disk full"):
        save_weights(nano, path)
    assert [(p.name, p.read_bytes()) for p in tmp_path.iterdir()] == [(path.name, b"before")]


def test_a_model_that_diverged_is_not_saved(tmp_path):
    model = build_model(NANO, seed=0)
    model.no_obj_ptr.data[0, 0] = float("nan")
    with pytest.raises(EngineError, match="no_obj_ptr"):
        save_weights(model, tmp_path / "ours.safetensors")
    assert not list(tmp_path.iterdir())


@pytest.mark.parametrize(
    ("inside", "said"),
    [
        ("{", "cannot be read"),
        ("[]", "cannot be read"),
        ("{}", "format_version"),
        ({"format_version": 2, "config": {}}, "format 2"),
        ({"format_version": 1, "config": {"wings": 2}}, "wings"),
        ({"format_version": 1, "config": {"image_size": 1024.0}}, "image_size"),
        ({"format_version": 1, "config": {"memory_conditioned": "yes"}}, "memory_conditioned"),
        ({"format_version": 1, "config": {"size": ["nano"]}}, "cannot be read"),
        ({"format_version": 1, "config": {"hu_clip": 3}}, "cannot be read"),
        ({"format_version": 1, "config": {"memory_slices": 10**9}}, "memory_slices must be from 2"),
    ],
)
def test_a_configuration_that_cannot_be_read_is_refused(inside, said, tmp_path):
    text = inside if isinstance(inside, str) else json.dumps(inside)
    save_file({"x": torch.zeros(1)}, tmp_path / "ours.safetensors", {"sam2ct": text})
    assert said in refusal(tmp_path / "ours.safetensors")


def test_a_configuration_of_another_size_than_the_tensors_is_refused(tmp_path):
    inside = {"format_version": 1, "config": json.loads(SAM2CT.to_json())}
    state = {name: tensor.contiguous() for name, tensor in stock("nano", points=7).items()}
    save_file(state, tmp_path / "ours.safetensors", {"sam2ct": json.dumps(inside)})
    message = refusal(tmp_path / "ours.safetensors", SAM2CT)
    assert "missing" in message
    assert "misshapen" in message


# Files that are not weights, or not only


class Payload:
    """Creates a file when it is unpickled by whoever trusts it."""

    def __init__(self, marker: Path) -> None:
        self.marker = marker

    def __reduce__(self):
        return Path.touch, (self.marker,)


@pytest.mark.parametrize("protocol", [2, 3, 4, 5])
@pytest.mark.parametrize("place", ["beside", "inside", "alone", "legacy"])
def test_a_pickle_is_never_executed(protocol, place, tmp_path):
    marker, path = tmp_path / "executed", tmp_path / "model.pt"
    if place == "alone":
        path.write_bytes(pickle.dumps(Payload(marker), protocol=protocol))
    else:
        state = dict(stock("nano"))
        content: dict = {"model": state}
        (state if place == "inside" else content)["x"] = Payload(marker)
        torch.save(content, path, pickle_protocol=protocol, _use_new_zipfile_serialization=place != "legacy")
    for read in (describe, load_weights, lambda p: find_weights("sam2ct", p.parent)):
        with pytest.raises(EngineError) as caught:
            read(path)
        assert str(tmp_path) not in str(caught.value)
    assert not marker.exists()
    assert "pickle" in refusal(path)


def test_a_pickle_that_the_first_check_misses_is_not_executed_either(tmp_path):
    path = write(tmp_path / "model.pt", {"model": dict(stock("nano")), "x": Payload(tmp_path / "executed")})
    with mock.patch("torch.serialization.get_unsafe_globals_in_checkpoint", return_value=[]):
        assert "pickle" in refusal(path)
    assert not (tmp_path / "executed").exists()


def test_the_payload_of_these_tests_does_execute(tmp_path):
    pickle.loads(pickle.dumps(Payload(tmp_path / "executed")))
    assert (tmp_path / "executed").exists()


@FILES
@given(data=st.data())
def test_a_file_cut_anywhere_is_refused(data, nano_file, tmp_path_factory):
    folder = tmp_path_factory.mktemp("cut")
    whole = nano_file
    if data.draw(st.booleans()):
        whole = write(folder / "whole.pt", {"model": stock("nano")})
    content = whole.read_bytes()
    cut = folder / "cut.pt"
    cut.write_bytes(content[: data.draw(st.integers(0, len(content) - 1) | st.integers(0, 64))])
    for read in (describe, load_weights):
        with pytest.raises(EngineError, match=r"cut\.pt"):
            read(cut)


@FILES
@given(data=st.data())
def test_garbled_tables_of_contents_never_end_in_another_error(data, nano_file, tmp_path_factory):
    folder = tmp_path_factory.mktemp("garbled")
    whole = nano_file
    if data.draw(st.booleans()):
        whole = write(folder / "whole.pt", {"model": stock("nano")})
    content = bytearray(whole.read_bytes())
    for _ in range(data.draw(st.integers(1, 4))):
        content[data.draw(st.integers(0, 40_000))] = data.draw(st.integers(0, 255))
    (folder / "garbled.pt").write_bytes(content)
    try:
        describe(folder / "garbled.pt")
    except EngineError as error:
        assert "garbled.pt" in str(error)  # noqa: PT017 - most changes are refused, some change a name only


def _compressed(path: Path) -> None:
    with zipfile.ZipFile(path, "w", zipfile.ZIP_DEFLATED) as archive:
        archive.writestr("archive/data.pkl", pickle.dumps({"model": {}}))
        archive.writestr("archive/data/0", bytes(10**7))


def _overlapping(path: Path) -> None:
    write(path, {"model": {str(i): torch.zeros(5000) for i in range(2)}})
    with zipfile.ZipFile(path, "a") as archive:  # entries may point at the same bytes
        info = archive.getinfo(next(name for name in archive.namelist() if name.endswith("data/0")))
        for i in range(50):
            twin = zipfile.ZipInfo(f"twin{i}")
            twin.header_offset, twin.file_size, twin.compress_size = info.header_offset, 20_000, 20_000
            twin.CRC = info.CRC
            archive.filelist.append(twin)
        archive._didModify = True


def _no_torch(path: Path) -> None:
    with zipfile.ZipFile(path, "w") as archive:
        archive.writestr("word/document.xml", "<w/>")


def _script(path: Path) -> None:
    with zipfile.ZipFile(path, "w") as archive:
        for name in ("constants.pkl", "data.pkl", "code/__torch__.py"):
            archive.writestr(f"archive/{name}", b"")


NOT_WEIGHTS = {
    "empty": (lambda p: p.write_bytes(b""), "is empty"),
    "text": (lambda p: p.write_text("epoch,loss\n1,0.5\n"), "it is a text"),
    "page": (lambda p: p.write_text("<!DOCTYPE html><html>Sign in</html>"), "it is a web page"),
    "pointer": (lambda p: p.write_text("version https://git-lfs.github.com/spec/v1\noid sha256:0\n"), "Git LFS"),
    "gzip": (lambda p: p.write_bytes(gzip.compress(b"x" * 100)), "unpack"),
    "noise": (lambda p: p.write_bytes(bytes(range(128, 256)) * 9), "neither"),
    "folder": (lambda p: p.mkdir(), "is a folder"),
    "pipe": (os.mkfifo, "not a regular file"),
    "absent": (str, "No such file"),
    "document": (_no_torch, "none that torch.save wrote"),
    "script": (_script, "TorchScript"),
    "compressed": (_compressed, "grows when it is unpacked"),
    "overlapping": (_overlapping, "grows when it is unpacked"),
    "list": (lambda p: write(p, [torch.zeros(2)]), "holds a list"),
    "nothing": (lambda p: write(p, {}), "found nothing"),
    "wrapped": (lambda p: write(p, {"state_dict": {"x": torch.zeros(2)}}), "'state_dict'"),
    "number": (lambda p: write(p, {"model": {"x": torch.zeros(2), "epoch": 3}}), "'epoch'"),
    "unnamed": (lambda p: write(p, {"model": {3: torch.zeros(2)}}), "'3'"),
    "sparse": (lambda p: write(p, {"model": {"x": torch.eye(3).to_sparse()}}), "x is sparse"),
}


@pytest.mark.parametrize("what", NOT_WEIGHTS)
def test_what_is_no_weights_file_is_said_to_be_what_it_is(what, tmp_path):
    make, said = NOT_WEIGHTS[what]
    path = tmp_path / "model.pt"
    make(path)
    message = refusal(path)
    assert said in message
    assert "model.pt" in message


def test_a_table_of_contents_too_large_to_be_one_is_refused(tmp_path):
    path = write(tmp_path / "model.pt", {"model": {}, "log": "x" * (33 << 20)})
    assert "table of contents" in refusal(path)


def test_names_that_no_file_system_has(tmp_path):
    (tmp_path / "file").write_text("")
    for path in (tmp_path / "file" / "model.pt", tmp_path / "nul\0.pt", tmp_path / ("x" * 300)):
        with pytest.raises(EngineError, match="cannot be read"):
            describe(path)


@pytest.mark.skipif(os.geteuid() == 0, reason="root may read everything")
def test_a_file_without_permission(nano_file, tmp_path):
    path = tmp_path / "model.safetensors"
    path.write_bytes(nano_file.read_bytes())
    path.chmod(0)
    assert "Permission denied" in refusal(path)


# Finding


@pytest.fixture
def folder(tmp_path, monkeypatch) -> Path:
    monkeypatch.delenv("COHORT_WEIGHTS", raising=False)
    (tmp_path / "weights").mkdir()
    return tmp_path / "weights"


def test_a_named_file_is_taken(folder, monkeypatch):
    path = write(folder / "mine.pt", {"model": stock("nano")})
    assert find_weights("sam2", path) == find_weights("medsam2", str(path)) == path
    monkeypatch.setenv("HOME", str(folder))
    assert find_weights("sam2", "~/mine.pt") == path


def test_the_order_of_preference_within_a_folder(folder):
    (folder / "notes.txt").write_text("")
    for file in ("sam2.1_hiera_large.pt", "sam2.1_hiera_tiny.pt", "MedSAM2_2411.pt", "MedSAM2_latest.pt", "SAM2CT.pt"):
        (folder / file).write_text("")
    assert find_weights("sam2", folder).name == "sam2.1_hiera_tiny.pt"
    assert find_weights("medsam2", folder).name == "MedSAM2_latest.pt"
    assert find_weights("sam2ct", folder).name == "SAM2CT.pt"


@pytest.mark.parametrize("file", ["MedSAM2_US_Heart.pt", "MedSAM2_MRI_LiverLesion.pt"])
def test_weights_for_something_other_than_ct_must_be_named(file, folder):
    write(folder / file, {"model": stock("tiny")})
    with pytest.raises(EngineError, match=r"MedSAM2_latest\.pt"):
        find_weights("medsam2", folder)
    assert find_weights("medsam2", folder / file).name == file


def test_files_of_unknown_name_are_told_by_what_they_hold(folder):
    write(folder / "checkpoint_50.pt", {"model": stock("tiny", points=8)})
    write(folder / "photographs.pt", {"model": stock("tiny")})
    (folder / "broken.pt").write_text("nothing")
    (folder / "more.pt").mkdir()
    assert find_weights("sam2ct", folder).name == "checkpoint_50.pt"
    for engine in ("sam2", "medsam2", "sam2-ft"):
        with pytest.raises(EngineError, match="can be told"):
            find_weights(engine, folder)
    save_weights(build_model(NANO.with_changes(memory_conditioned=False)), folder / "comparator.safetensors")
    assert find_weights("sam2-ft", folder).name == "comparator.safetensors"
    assert find_weights("sam2ct", folder).name == "checkpoint_50.pt"


def test_several_that_suit_are_named(folder):
    for name in ("a.pt", "b.pt"):
        write(folder / name, {"model": stock("tiny", points=7)})
    with pytest.raises(EngineError, match=r"a\.pt, b\.pt"):
        find_weights("sam2ct", folder)


def test_the_file_of_another_engine_is_refused_by_its_name(folder):
    for engine in ("medsam2", "sam2ct", "sam2-ft"):
        with pytest.raises(EngineError, match="of the engine 'sam2'"):
            find_weights(engine, folder / "sam2.1_hiera_tiny.pt")
    path = write(folder / "SAM2CT.pt", {"model": stock("tiny", points=8)})
    assert find_weights("sam2-ft", path) == path


def test_the_variable_lists_files_and_folders(folder, monkeypatch, nano_file):
    tiny = write(folder / "sam2.1_hiera_tiny.pt", {"model": stock("tiny")})
    places = ["", str(folder / "absent"), str(nano_file), str(folder)]
    monkeypatch.setenv("COHORT_WEIGHTS", os.pathsep.join(places))
    assert find_weights("sam2") == tiny
    assert find_weights("sam2ct") == nano_file
    with pytest.raises(EngineError, match=r"'absent', 'ours.safetensors', 'weights'"):
        find_weights("medsam2")
    monkeypatch.setenv("COHORT_WEIGHTS", os.pathsep.join([str(folder), str(nano_file)]))
    write(folder / "SAM2CT.pt", {"model": stock("tiny", points=8)})
    assert find_weights("sam2ct").name == "SAM2CT.pt"


@pytest.mark.parametrize(
    ("engine", "file", "url"),
    [
        ("sam2", "sam2.1_hiera_tiny.pt", "https://dl.fbaipublicfiles.com/segment_anything_2/092824/"),
        ("medsam2", "MedSAM2_latest.pt", "https://huggingface.co/wanglab/MedSAM2"),
        ("sam2ct", "SAM2CT.pt", "https://zenodo.org/records/18394860"),
        ("sam2-ft", "train", "line and arrow"),
    ],
)
@pytest.mark.parametrize("place", [None, "folder", "file"])
def test_where_weights_are_missing_the_error_says_what_to_do(engine, file, url, place, folder):
    weights = {None: None, "folder": folder, "file": folder / "absent.pt"}[place]
    with pytest.raises(EngineError) as caught:
        find_weights(engine, weights)
    message = str(caught.value)
    for part in (repr(engine), file, url, "COHORT_WEIGHTS", "'classical'"):
        assert part in message
    assert str(folder.parent) not in message


@pytest.mark.parametrize("engine", ["classical", "ellipsoid", "sam3"])
def test_an_engine_without_weights_is_not_searched_for(engine):
    with pytest.raises(ValueError, match=engine):
        find_weights(engine)
