"""``cohort train``: what it refuses before it begins, and what it leaves."""

from __future__ import annotations

import json
import re
from pathlib import Path

import pytest
import torch
from training_layouts import label_with, nifti_pairs, save_nifti

from cohort_builder import cli_train
from cohort_builder.cli import main
from segmentation.training.records import read_log
from segmentation.training.settings import settings_from

NANO = ["--preset", "nano", "--steps", "1", "--device", "cpu", "--set", "lesions=1", "--set", "ema=0.0"]


def refused(arguments: list[str], out: Path, capsys: pytest.CaptureFixture[str]) -> str:
    assert main(["train", *arguments, "-o", str(out), "--quiet"]) != 0
    assert not (out / "cache").exists()  # nothing was cut out for it
    return capsys.readouterr().err


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["--set", "seed=3"], "use --seed"),
        (["--set", "on_nan=skip"], "use --on-nan"),
        (["--set", "rate=3"], "there is no setting rate; there are .*learning_rate"),
        (["--set", "lesions=2.5"], "lesions: takes a whole number, got 2.5"),
        (["--set", "learning_rate=fast"], "learning_rate: takes a number, got 'fast'"),
        (["--set", "dropout=1"], "dropout: takes true or false"),
        (["--set", "betas=0.9"], "betas: takes 2 values, got 0.9"),
        (["--set", "kinds=lines"], "kinds: takes one of line, .*got 'lines'"),
        (["--set", "clip_norm=-1"], "clip_norm.* must not be negative"),
        (["--set", "model=1"], "train from Python"),
        (["--preset", "sam2ct"], "--weights sam2.1_hiera_tiny.pt .--weights none"),
        (["--preset", "medsam2", "--weights", "none"], "sees whole slices, and generated hold only what is around"),
        (["--weights", "/no/such/file.safetensors"], "file.safetensors"),
        (["--device", "cuda"], "no CUDA device"),
        (["--device", "tpu"], "'auto', 'cpu' or 'cuda'"),
    ],
)
def test_what_is_wrong_is_said_before_anything_is_cut_out(arguments, message, tmp_path, capsys) -> None:
    if "cuda" in arguments and torch.cuda.is_available():
        pytest.skip("a CUDA device is here")
    error = refused(["generated:1", *arguments], tmp_path / "out", capsys)
    assert re.search(message, error), error


def test_lesions_in_foreign_ct_need_their_licence(tmp_path, capsys) -> None:
    error = refused([f"generated:1,backgrounds={tmp_path}"], tmp_path / "out", capsys)
    assert "--licence generated=TEXT" in error


@pytest.mark.parametrize(("text", "value"), [("slices=3", (3,)), ("kinds=line", ("line",)), ("weight_decay=1", 1.0)])
def test_one_thing_alone_is_a_list_of_one(text, value) -> None:
    name, given = cli_train.name_and_value(text)
    assert settings_from({name: given}) == {name: value}


def test_a_training_from_files(tmp_path, capsys, monkeypatch) -> None:
    spec = nifti_pairs(tmp_path / "secret project", [1, 1])
    arguments = ["train", spec + ",split=train", "-o", str(tmp_path / "out"), *NANO, "--quiet"]
    monkeypatch.setattr("sys.argv", ["cohort", *arguments])
    assert main(arguments) == 0
    card = (tmp_path / "out/card.md").read_text()
    assert "nifti:images,labels" in card
    assert "secret project" not in card
    assert str(tmp_path) not in card
    assert len(read_log(tmp_path / "out/log.csv")) == 1
    assert json.loads((tmp_path / "out/training.json").read_text())["weights"] is None
    assert main(arguments) == 0
    capsys.readouterr()
    assert main([*arguments, "--set", "weight_decay=0.5"]) == 1
    assert "weight_decay was 0.01" in capsys.readouterr().err
    save_nifti(tmp_path / "secret project/labels/p1.nii.gz", label_with(2))
    assert main(arguments) == 1
    assert "1 of 4 files changed" in (error := capsys.readouterr().err)
    assert "labels/p1.nii.gz is not what it was" in error
