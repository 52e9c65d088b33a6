"""Engines on real lesions: the figures, with intervals over lesions, and what the classical engine must keep.

``pytest tests/real/test_engines.py -s`` prints the tables.
"""

from __future__ import annotations

import csv
import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from cases import rasterise, real_data
from real_evaluation import evaluate_real

from segmentation import Mask, SegmentationJob, check_mask, load_segmenter
from segmentation.evaluation import EvaluationCase, evaluate, format_table
from segmentation.metrics import dice

ENGINES = ("--engine", "classical", "--engine", "ellipsoid")
Evaluated = Callable[[str, int], Path]


@pytest.fixture(scope="session")
def evaluated(tmp_path_factory) -> Evaluated:
    """Folder that ``cohort evaluate`` left for a kind of prompt, so many a lesion; scores are shared between kinds."""
    out = tmp_path_factory.mktemp("real")

    def run(kind: str, prompts_per_lesion: int) -> Path:
        more = ("--prompts", kind, "--prompts-per-lesion", str(prompts_per_lesion), "--no-pictures", "-q")
        assert evaluate_real(out, *ENGINES, *more) == 0
        return out

    return run


def of_engine(rows: list[dict[str, Any]], engine: str) -> dict[str, Any]:
    (row,) = (row for row in rows if (row["engine"], row["group"]) == (engine, "all"))
    return row


@pytest.mark.parametrize(
    ("kind", "prompts_per_lesion", "ahead_by", "dice_at_least"),
    [
        ("line", 2, 0.05, 0.70),
        pytest.param("line", 5, 0.05, 0.70, marks=pytest.mark.slow),
        pytest.param("bidimensional", 5, 0.05, 0.74, marks=pytest.mark.slow),
        pytest.param("arrow", 5, 0.2, 0.52, marks=pytest.mark.slow),
    ],
)
def test_classical_ahead_of_the_ellipsoid(evaluated, kind, prompts_per_lesion, ahead_by, dice_at_least):
    folder = evaluated(kind, prompts_per_lesion)
    print((folder / "report.md").read_text())
    found = json.loads((folder / "summary.json").read_text())
    classical = of_engine(found["rows"], "classical")
    assert classical["lesions"] == 18
    assert classical["failures"] == 0
    assert classical["metrics"]["dice"]["mean"] >= dice_at_least
    (pair,) = (pair for pair in found["pairs"] if pair["group"] == "all")
    assert (pair["first"], pair["second"]) == ("classical", "ellipsoid")
    assert pair["dice"]["mean"] >= ahead_by
    assert pair["dice"]["low"] > 0


def test_every_readers_own_line_gives_the_nodule(lidc):
    """The four readers of LIDC-IDRI-0001 drew these; the truth is what at least two of them outlined."""
    jobs = [SegmentationJob(str(i), lidc.volume, (line,)) for i, line in enumerate(lidc.lines)]
    assert len(jobs) == 4
    cases = [EvaluationCase(lidc.case_id, job, lidc.truth) for job in jobs]
    scores = {score.engine: score for score in evaluate(cases, [load_segmenter("ellipsoid"), load_segmenter()])}
    print(f"\nreaders' lines, LIDC\n{format_table(scores.values())}")
    assert all(case.dice > 0.8 for case in scores["classical"].cases)
    assert scores["classical"].dice_above_baseline.mean > 0.1
    for job in jobs:
        (mask,) = load_segmenter("classical").segment([job])
        assert check_mask(mask, job).flags == ()


def test_four_readers_agree_on_one_lesion(lidc):
    masks = []
    for line in lidc.lines:
        (mask,) = load_segmenter().segment([SegmentationJob("a", lidc.volume, (line,))])
        assert isinstance(mask, Mask)
        masks.append(mask.in_volume(lidc.truth.shape))
    assert min(dice(a, b) for i, a in enumerate(masks) for b in masks[:i]) > 0.85


def test_all_lines_of_a_lesion_in_one_job_confirm_it(lidc):
    job = SegmentationJob("a", lidc.volume, lidc.lines)
    (mask,) = load_segmenter().segment([job])
    assert check_mask(mask, job).tier == "A"


def test_low_tiers_are_worse(evaluated):
    found: dict[str, list[float]] = {"A": [], "B": [], "C": []}
    with (evaluated("line", 2) / "cases.csv").open() as file:
        for row in csv.DictReader(file):
            if row["engine"] == "classical":
                found[row["tier"]].append(float(row["dice"]))
    print({tier: (len(values), float(np.mean(values or [0]))) for tier, values in found.items()})
    assert np.mean(found["A"]) > np.mean(found["B"] + found["C"]) + 0.05


def test_our_rasterisation_of_contours_is_the_reference_one(ibsi):
    """The phantom comes with its own rasterised mask: an independent check of the geometry, to the voxel."""
    structure_set = real_data("ibsi_phantom") / "dicom" / "mask" / "DCM_RS_00060.dcm"
    ours = rasterise(structure_set, "GTV-1", ibsi.volume)
    assert int(ibsi.truth.sum()) == 125_256
    assert dice(ours, ibsi.truth) > 0.999
