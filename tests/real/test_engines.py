"""Engines on real lesions: the figures, with intervals over lesions, and what the classical engine must keep.

``pytest tests/real/test_engines.py -s`` prints the tables.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator

import numpy as np
import pytest
from cases import RealCase, rasterise, real_data

from segmentation import Mask, SegmentationJob, check_mask, load_segmenter, simulate_prompt
from segmentation.evaluate import EngineScore, EvaluationCase, evaluate, format_table
from segmentation.metrics import bootstrap_ci, dice


@pytest.fixture(scope="session")
def all_cases(lidc, sarcomas, ibsi, deeplesion) -> tuple[RealCase, ...]:
    return (lidc, *sarcomas, ibsi, *deeplesion)


def prompted(cases: Iterable[RealCase], kind: str, prompts_per_lesion: int) -> Iterator[EvaluationCase]:
    for case in cases:
        rng = np.random.default_rng(7)
        for i in range(prompts_per_lesion):
            prompt = simulate_prompt(case.truth, kind, rng, spacing_mm=case.volume.spacing_mm)
            job = SegmentationJob(f"{case.case_id}.{i}", case.volume, (prompt,))
            yield EvaluationCase(case.case_id, job, case.truth)


def by_engine(cases: Iterable[EvaluationCase]) -> dict[str, EngineScore]:
    engines = [load_segmenter("ellipsoid"), load_segmenter("classical")]
    return {score.engine: score for score in evaluate(cases, engines)}


def print_by_set(score: EngineScore) -> None:
    """Dice per data set, each lesion the mean of its prompts."""
    lesions: dict[str, list[float]] = {}
    for case in score.cases:
        lesions.setdefault(case.case_id, []).append(case.dice)
    sets: dict[str, list[float]] = {}
    for name, values in lesions.items():
        sets.setdefault(name.split("_")[0], []).append(float(np.mean(values)))
    print(f"  {score.engine}: " + ", ".join(f"{name} {bootstrap_ci(values)}" for name, values in sets.items()))


@pytest.mark.parametrize(
    ("kind", "prompts_per_lesion", "ahead_by", "dice_at_least"),
    [
        ("line", 2, 0.05, 0.70),
        pytest.param("line", 5, 0.05, 0.70, marks=pytest.mark.slow),
        pytest.param("bidimensional", 5, 0.05, 0.74, marks=pytest.mark.slow),
        pytest.param("arrow", 5, 0.2, 0.52, marks=pytest.mark.slow),
    ],
)
def test_classical_ahead_of_the_ellipsoid(all_cases, kind, prompts_per_lesion, ahead_by, dice_at_least):
    scores = by_engine(prompted(all_cases, kind, prompts_per_lesion))
    print(f"\n{kind}, {prompts_per_lesion} prompts a lesion\n{format_table(scores.values())}")
    for score in scores.values():
        print_by_set(score)
    classical = scores["classical"]
    assert classical.lesions >= 8
    assert classical.failures == 0
    assert classical.dice_above_baseline.mean >= ahead_by
    assert classical.dice_above_baseline.low > 0
    assert classical.dice.mean >= dice_at_least


def test_every_readers_own_line_gives_the_nodule(lidc):
    """The four readers of LIDC-IDRI-0001 drew these; the truth is what at least two of them outlined."""
    jobs = [SegmentationJob(str(i), lidc.volume, (line,)) for i, line in enumerate(lidc.lines)]
    assert len(jobs) == 4
    scores = by_engine(EvaluationCase(lidc.case_id, job, lidc.truth) for job in jobs)
    print(f"\nreaders' lines, LIDC\n{format_table(scores.values())}")
    assert all(case.dice > 0.8 for case in scores["classical"].cases)
    assert scores["classical"].dice_above_baseline.mean > 0.1
    for job in jobs:
        (mask,) = load_segmenter().segment([job])
        assert check_mask(mask, job).tier == "A"


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


def test_low_tiers_are_worse(all_cases):
    found: dict[str, list[float]] = {"A": [], "B": [], "C": []}
    for case in prompted(all_cases, "line", 2):
        (mask,) = load_segmenter().segment([case.job])
        found[check_mask(mask, case.job).tier].append(dice(mask.in_volume(case.truth.shape), case.truth))
    print({tier: (len(values), float(np.mean(values or [0]))) for tier, values in found.items()})
    assert np.mean(found["A"]) > np.mean(found["B"] + found["C"]) + 0.05


def test_our_rasterisation_of_contours_is_the_reference_one(ibsi):
    """The phantom comes with its own rasterised mask: an independent check of the geometry, to the voxel."""
    structure_set = real_data("ibsi_phantom") / "dicom" / "mask" / "DCM_RS_00060.dcm"
    ours = rasterise(structure_set, "GTV-1", ibsi.volume)
    assert int(ibsi.truth.sum()) == 125_256
    assert dice(ours, ibsi.truth) > 0.999
