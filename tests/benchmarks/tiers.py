"""What the fitted tiers are worth on real lesions: precision and coverage of tier A, by kind of prompt.

``python tests/benchmarks/tiers.py [--engine NAME] [--tiers FILE] [--prompts N] [--rows FILE]``. The lesions of
``../shared/data``: no weight was fitted on them, but they were looked at when limits of the flags and the rule for
thresholds were chosen, so the result is not blind; half of the drawings as radiologists draw, half by SAM2CT section 2.2.
Intervals are 95 % bootstrap over patients: one with many accepted masks counts for all of them. ``--rows`` keeps the
measured masks, so that another fit is judged without segmenting again.
"""

from __future__ import annotations

import os

os.environ.setdefault("OMP_NUM_THREADS", "1")

import argparse
import json
import sys
from collections.abc import Iterator, Sequence
from dataclasses import asdict
from pathlib import Path

import numpy as np

from segmentation import load_segmenter
from segmentation.calibration import judged
from segmentation.calibration_rows import Row, rows_of
from segmentation.tiers import TierTable, shipped

sys.path.insert(0, str(Path(__file__).resolve().parent))


def measured(engine: str, prompts: int) -> Iterator[Row]:
    from believability import real_lesions

    segmenter = load_segmenter(engine)
    for lesion in real_lesions():
        truth = np.zeros(lesion.volume.voxels.shape, dtype=bool)
        truth[tuple(slice(a, a + n) for a, n in zip(lesion.low, lesion.truth.shape, strict=True))] = lesion.truth
        yield from rows_of(segmenter, [(lesion.volume, truth)] * prompts, (7,), lesion.name)


def interval(good: np.ndarray, accepted: np.ndarray, patients: Sequence[str]) -> str:
    """Precision with its interval: patients are drawn, each with all of its masks."""
    if not accepted.any():
        return "-"
    names = sorted(set(patients))
    who = np.array([names.index(name) for name in patients])
    hits, counts = (np.bincount(who[chosen], minlength=len(names)) for chosen in (accepted & good, accepted))
    draws = np.random.default_rng(0).integers(0, len(names), (4000, len(names)))
    drawn = counts[draws].sum(axis=1)
    shares = hits[draws].sum(axis=1)[drawn > 0] / drawn[drawn > 0]
    low, high = np.quantile(shares, [0.025, 0.975])
    return f"{hits.sum() / counts.sum():.3f} [{low:.3f}, {high:.3f}]"


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--engine", default="classical")
    parser.add_argument("--tiers", type=Path, help="file of fit-tiers; default: what comes with the package")
    parser.add_argument("--prompts", type=int, default=4, help="of each kind on each lesion")
    parser.add_argument("--rows", type=Path, help="file to keep measured masks in")
    options = parser.parse_args()
    if options.rows and options.rows.is_file():
        rows = [Row(**json.loads(line)) for line in options.rows.read_text().splitlines()]
    else:
        rows = list(measured(options.engine, options.prompts))
        if options.rows:
            options.rows.write_text("".join(json.dumps(asdict(row)) + "\n" for row in rows))
    table = TierTable.read(options.tiers) if options.tiers else shipped()
    (fit,) = [f for f in table.fits if f.engine == options.engine and f.family == rows[0].family]
    print("| prompt | masks | good | tier A | good in A | patients in A |\n|---|---|---|---|---|---|")
    everything: list[tuple[np.ndarray, np.ndarray, list[str]]] = []
    for kind, model in fit.kinds.items():
        chosen = [row for row in rows if row.kind == kind]
        good, accepted = judged(model, chosen)
        everything.append((good, accepted, [row.scene for row in chosen]))
        show(kind, *everything[-1])
    good, accepted = (np.concatenate([part[i] for part in everything]) for i in (0, 1))
    show("all", good, accepted, [name for part in everything for name in part[2]])


def show(kind: str, good: np.ndarray, accepted: np.ndarray, patients: Sequence[str]) -> None:
    who = len({name for name, one in zip(patients, accepted, strict=True) if one})
    share = interval(good, accepted, patients)
    print(f"| {kind} | {len(good)} | {good.mean():.3f} | {accepted.mean():.3f} | {share} | {who} |")


if __name__ == "__main__":
    main()
