"""Sizes of real, machine-translated chest CT reports against their labels, by the labels' own scorer."""

from __future__ import annotations

import re
import subprocess
import sys
from pathlib import Path

import pytest
from cases import real_data

import nlp

_LAST_LINE = re.compile(
    r"current-lesion-size F1 (?P<f1>[\d.]+) n=(?P<sizes>\d+); prior recall (?P<recall>[\d.]+) n=(?P<priors>\d+)"
)


@pytest.fixture(scope="module")
def report() -> str:
    folder = real_data("reports") / "ctrate_dev"
    if not (folder / "score.py").is_file():
        pytest.skip("the labelled reports of ctrate_dev are not there")
    command = [sys.executable, "score.py", "nlp:find_sizes", "--path", str(Path(nlp.__file__).parents[1])]
    return subprocess.run(command, cwd=folder, capture_output=True, text=True, check=True, timeout=300).stdout


def test_current_lesion_sizes_and_priors(report: str) -> None:
    score = _LAST_LINE.fullmatch(report.splitlines()[-1])
    assert score is not None
    assert int(score["sizes"]) >= 90
    assert float(score["f1"]) >= 0.985
    assert float(score["recall"]) >= 0.9


@pytest.mark.parametrize(
    ("figure", "floor"), [("kind lesion-vs-not", 0.985), ("temporality", 0.985), ("rounding", 0.98)]
)
def test_what_is_said_of_the_sizes_found(report: str, figure: str, floor: float) -> None:
    found = re.search(rf"^accuracy {re.escape(figure)}\s+([\d.]+)", report, re.MULTILINE)
    assert found is not None
    assert float(found[1]) >= floor
