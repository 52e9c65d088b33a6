"""What the default anatomy locator costs a series, and how often it is right: the figures of docs/anatomy.md.

``python tests/benchmarks/organs.py [--json]``. CPU seconds on one core. The confusion table needs the real data of
tests/real; where they are absent the generated bodies stand alone.
"""

from __future__ import annotations

import argparse
import json
import sys
from collections import Counter
from pathlib import Path
from statistics import median
from time import process_time
from typing import Any

sys.path.insert(0, str(Path(__file__).resolve().parents[1]))
sys.path.insert(0, str(Path(__file__).resolve().parents[1] / "real"))

import numpy as np
import pytest
from cases import load_lidc
from organ_labels import labelled_abdomen, named, points_in, points_of_phantom, verdicts

from cohort_builder.anatomy.locators import REGIONS, RegionLocator
from cohort_builder.anatomy.regions import read_body
from segmentation.phantoms import body_phantom

SHAPES = {
    "chest 120 x 512 x 512, 2.5 mm": ("chest", 120, (2.5, 0.7, 0.7)),
    "abdomen 60 x 512 x 512, 5 mm": ("abdomen", 60, (5.0, 0.74, 0.74)),
}


def seconds(volume: Any, repeats: int = 5) -> float:
    """CPU seconds of reading one volume that lies in memory, as it is on disk."""
    taken = []
    for _ in range(repeats):
        start = process_time()
        read_body(volume)
        taken.append(process_time() - start)
    return median(taken)


def table(found: dict[str, Counter]) -> str:
    """Confusion table, one row an organ."""
    columns = [region for region in (*REGIONS, None) if any(names[region] for names in found.values())]
    lines = ["| organ | " + " | ".join(str(c or "none") for c in columns) + " |", "|-" * (len(columns) + 1) + "|"]
    lines += [f"| {organ} | " + " | ".join(str(n[c] or "") for c in columns) + " |" for organ, n in found.items()]
    return "\n".join(lines)


def main() -> None:
    """Measure and print."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--json", action="store_true", help="one JSON object instead of text")
    as_json = parser.parse_args().json
    rng = np.random.default_rng(0)
    result: dict[str, Any] = {"benchmark": "organs", "cpu_seconds_a_series": {}, "agreement": {}}
    tables = {}
    for name, (region, n, spacing) in SHAPES.items():
        phantom = body_phantom(rng, [], region=region, n_slices=n, spacing_mm=spacing, with_labels=True)
        result["cpu_seconds_a_series"][name] = round(seconds(phantom.volume), 3)
        tables[f"generated {region}"] = named(RegionLocator(), phantom.volume, points_of_phantom(phantom, 100, rng))
    try:
        volume, labels = labelled_abdomen()
        tables["labelled abdomen"] = named(RegionLocator(), volume, points_in(labels, 100, rng))
        result["cpu_seconds_a_series"]["lidc_0001, 133 x 512 x 512"] = round(seconds(load_lidc().volume), 3)
    except pytest.skip.Exception as reason:
        result["left_out"] = str(reason)
    for name, found in tables.items():
        total = verdicts(found)
        n = sum(total.values())
        result["agreement"][name] = {
            "points": n,
            **{
                word: round(total[verdict] / n, 4)
                for word, verdict in (("compatible", True), ("says_nothing", None), ("wrong", False))
            },
        }
    if as_json:
        print(json.dumps(result))
        return
    print(json.dumps(result, indent=1))
    for name, found in tables.items():
        print(f"\n{name}\n{table(found)}")


if __name__ == "__main__":
    main()
