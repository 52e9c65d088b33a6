"""Lesions per second of the default engine against SimpleITK's confidence connected, on one generated CT.

``python tests/benchmarks/segmenters.py [--json]``. Both segment the same lesions from the same lines in one process,
on one thread, taking turns, so that what else the machine does costs both alike. The peer gets the same box around the
lesion that our engine reads, and seeds on the line: what a user of the toolkit would write.
"""

from __future__ import annotations

import argparse
import json
import os
import platform
import time

os.environ.setdefault("OMP_NUM_THREADS", "1")

import numpy as np
import SimpleITK as sitk  # noqa: N813 - the name its own documentation uses

from segmentation import Line, Mask, SegmentationJob, Volume, load_segmenter
from segmentation.metrics import dice
from segmentation.phantoms import body_phantom, random_lesion_specs
from segmentation.prompts import draw_line

SPACING_MM = (2.5, 0.75, 0.75)
LESIONS, ROUNDS, SEED = 8, 3, 1


def generated_jobs() -> tuple[list[SegmentationJob], list[np.ndarray]]:
    rng = np.random.default_rng(SEED)
    specs = random_lesion_specs(rng, "abdomen", LESIONS)
    phantom = body_phantom(rng, specs, region="abdomen", n_slices=80, spacing_mm=SPACING_MM)
    jobs, truths = [], []
    for i, lesion in enumerate(phantom.lesions):
        truth = lesion.in_volume(phantom.volume.voxels.shape)
        line = draw_line(truth, rng, spacing_mm=phantom.volume.spacing_mm)
        jobs.append(SegmentationJob(str(i), phantom.volume, (line,)))
        truths.append(truth)
    return jobs, truths


def confidence_connected(volume: Volume, line: Line) -> np.ndarray:
    """Region growing from the middle half of the line, within the box that the line's length allows."""
    spacing = np.array(volume.spacing_mm)
    ends = np.array([(line.slice_index, y, x) for x, y in (line.start, line.end)])
    middle = ends.mean(axis=0)
    length = np.linalg.norm((ends[1] - ends[0]) * spacing)
    reach = np.ceil((0.8 * length + 4) / spacing).astype(int)
    low = np.maximum(np.rint(middle).astype(int) - reach, 0)
    high = np.minimum(np.rint(middle).astype(int) + reach + 1, volume.voxels.shape)
    box = tuple(slice(a, b) for a, b in zip(low, high, strict=True))
    image = sitk.GetImageFromArray(volume.voxels[box].astype(np.float32))
    image.SetSpacing(spacing[::-1].tolist())
    smooth = sitk.CurvatureFlow(image, timeStep=0.0625, numberOfIterations=3)
    seeds = {tuple(int(v) for v in np.rint(middle + t * (ends[1] - ends[0]) - low)[::-1]) for t in (-0.25, 0, 0.25)}
    grown = sitk.ConfidenceConnected(
        smooth, seedList=sorted(seeds), numberOfIterations=2, multiplier=2.5, initialNeighborhoodRadius=1
    )
    closed = sitk.BinaryMorphologicalClosing(grown, [1, 1, 1])
    full = np.zeros(volume.voxels.shape, dtype=bool)
    full[box] = sitk.GetArrayFromImage(closed) > 0
    return full


def measure() -> dict[str, object]:
    sitk.ProcessObject.SetGlobalDefaultNumberOfThreads(1)
    jobs, truths = generated_jobs()
    engine = load_segmenter()
    seconds = {"ours": 0.0, "peer": 0.0}
    scores: dict[str, list[float]] = {"ours": [], "peer": []}
    list(engine.segment(jobs[:1]))
    confidence_connected(jobs[0].volume, jobs[0].prompts[0])
    for _ in range(ROUNDS):
        for job, truth in zip(jobs, truths, strict=True):
            started = time.perf_counter()
            (mask,) = engine.segment([job])
            between = time.perf_counter()
            grown = confidence_connected(job.volume, job.prompts[0])
            ended = time.perf_counter()
            seconds["ours"] += between - started
            seconds["peer"] += ended - between
            scores["ours"].append(dice(mask.in_volume(truth.shape), truth) if isinstance(mask, Mask) else 0.0)
            scores["peer"].append(dice(grown, truth))
    count = ROUNDS * len(jobs)
    ours, peer = count / seconds["ours"], count / seconds["peer"]
    return {
        "subject": "lesions per second, line prompt, one CPU thread",
        "ours": round(ours, 2),
        "peer": round(peer, 2),
        "ratio": round(ours / peer, 3),
        "ran": {
            "ours": f"segmentation {engine.name}",
            "peer": f"SimpleITK {sitk.Version_VersionString()} CurvatureFlow + ConfidenceConnected",
            "lesions": len(jobs),
            "rounds": ROUNDS,
            "volume": list(jobs[0].volume.voxels.shape),
            "dice_ours": round(float(np.mean(scores["ours"])), 3),
            "dice_peer": round(float(np.mean(scores["peer"])), 3),
            "machine": f"{platform.machine()}, {os.cpu_count()} CPUs, Python {platform.python_version()}",
        },
    }


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--json", action="store_true", help="print one JSON object")
    arguments = parser.parse_args()
    result = measure()
    if arguments.json:
        print(json.dumps(result))
        return
    for key, value in result.items():
        print(f"{key}: {value}")


if __name__ == "__main__":
    main()
