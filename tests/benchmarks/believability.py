"""How Dice falls with the quality tier, and what each flag of `segmentation.checks` is worth.

``python tests/benchmarks/believability.py [--json] [--real] [--measures]``. Masks of two engines, true masks, and true
masks spoilt in known ways are held against simulated annotations of generated lesions; ``--real`` adds the lesions of
``../shared/data``; ``--measures`` prints what true and bad masks measure. Limits and penalties were chosen on the
bodies of ``TUNED_ON``; those of ``HELD_OUT`` were only looked at, and so were the real lesions but for the one penalty
that `segmentation.believability` names. ``--json`` speaks of lines and pairs on ``HELD_OUT`` alone; its peer is what
anyone can do with a measurement: how far the mask's longest diameter is from what the drawn one lets expect. Intervals
are 95 % bootstrap over lesions.
"""

from __future__ import annotations

import os

os.environ.setdefault("OMP_NUM_THREADS", "1")

import argparse
import json
import sys
from collections.abc import Iterator, Sequence
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import scipy.ndimage as ndi
from scipy.stats import rankdata

from segmentation import Mask, Quality, SegmentationJob, Volume, check_mask, load_segmenter
from segmentation.checks import measure
from segmentation.metrics import Interval, bootstrap_ci, dice, longest_diameter_mm
from segmentation.phantoms import PhantomError, body_phantom, random_lesion_specs
from segmentation.prompts import draw_arrow, draw_bidimensional, draw_line
from segmentation.types import Arrow, mask_from_volume

TUNED_ON, HELD_OUT = range(6), range(100, 104)
LESIONS = 8
SPACINGS_MM = ((2.5, 0.75, 0.75), (5.0, 0.8, 0.8), (1.5, 0.7, 0.7))
ENGINES = ("classical", "ellipsoid")
BAD, WRONG, GOOD = 0.6, 0.7, 0.8
EXPECTED = 1.15  # longest diameter of a true mask over the drawn one, DeepLesion


@dataclass(frozen=True, slots=True)
class Case:
    """A judged mask: where it comes from, whether a line or a pair was drawn, its Dice."""

    lesion: str
    source: str
    measured: bool
    dice: float
    quality: Quality
    measures: dict[str, float]


@dataclass(frozen=True, slots=True, eq=False)
class Lesion:
    """A true mask in a box with room around it: everything is computed there."""

    name: str
    volume: Volume
    truth: np.ndarray
    low: tuple[int, int, int]

    @property
    def image(self) -> np.ndarray:
        return self.volume.voxels[tuple(slice(a, a + n) for a, n in zip(self.low, self.truth.shape, strict=True))]

    @property
    def radius_mm(self) -> float:
        return longest_diameter_mm(self.truth, self.volume.spacing_mm) / 2


def boxed(name: str, volume: Volume, truth: np.ndarray) -> Lesion:
    """Cut a box with room for a mask that lies beside the lesion."""
    found = ndi.find_objects(truth.astype(np.int8))[0]
    room = 1.1 * longest_diameter_mm(truth[found], volume.spacing_mm)
    low = [max(part.start - int(room / step) - 2, 0) for part, step in zip(found, volume.spacing_mm, strict=True)]
    high = [part.stop + int(room / step) + 2 for part, step in zip(found, volume.spacing_mm, strict=True)]
    return Lesion(name, volume, truth[tuple(map(slice, low, high))], (low[0], low[1], low[2]))


def generated_lesions(seeds: Sequence[int]) -> Iterator[Lesion]:
    for seed in seeds:
        region = "abdomen" if seed % 2 else "chest"
        spacing = SPACINGS_MM[seed % len(SPACINGS_MM)]
        specs = random_lesion_specs(np.random.default_rng([4, seed]), region, LESIONS)
        phantom = None
        while phantom is None:
            with suppress(PhantomError):  # no room for all of them: without the last
                phantom = body_phantom(
                    np.random.default_rng([5, seed]),
                    specs,
                    region=region,
                    n_slices=round(180 / spacing[0]),
                    spacing_mm=spacing,
                )
            specs = specs[:-1]
        for i, lesion in enumerate(phantom.lesions):
            yield boxed(f"{seed}.{i}", phantom.volume, lesion.in_volume(phantom.volume.voxels.shape))


def real_lesions() -> Iterator[Lesion]:
    """All of ``../shared/data``; one that is not there is named on stderr and left out."""
    sys.path.insert(0, str(Path(__file__).resolve().parents[1] / "real"))
    import pytest
    from cases import load_deeplesion, load_ibsi, load_lidc, load_sarcomas

    for load in (load_lidc, load_sarcomas, load_ibsi, load_deeplesion):
        try:
            loaded = load()
        except pytest.skip.Exception as reason:
            print(f"left out: {reason}", file=sys.stderr)
            continue
        for case in loaded if isinstance(loaded, tuple) else (loaded,):
            yield boxed(case.case_id, case.volume, case.truth)


def moved(mask: np.ndarray, step: tuple[int, int, int]) -> np.ndarray:
    """The mask elsewhere; what leaves the box is lost."""
    result = np.zeros_like(mask)
    if any(abs(s) >= n for s, n in zip(step, mask.shape, strict=True)):
        return result
    source = tuple(slice(max(-s, 0), n - max(s, 0)) for s, n in zip(step, mask.shape, strict=True))
    target = tuple(slice(max(s, 0), n - max(-s, 0)) for s, n in zip(step, mask.shape, strict=True))
    result[target] = mask[source]
    return result


class Spoiler:
    """Spoils a true mask in known ways, each mildly and badly."""

    def __init__(self, lesion: Lesion) -> None:
        spacing = lesion.volume.spacing_mm
        self.truth, self.radius, self.spacing = lesion.truth, lesion.radius_mm, spacing
        self.outside, self.inside = (ndi.distance_transform_edt(part, spacing) for part in (~self.truth, self.truth))
        self.alike = looks_alike(lesion)

    def all(self, middle: int, rng: np.random.Generator) -> Iterator[tuple[str, np.ndarray]]:
        """The true mask and every fault; ``middle`` is the annotated slice of the box."""
        truth, radius = self.truth, self.radius
        yield "truth", truth
        for share in (0.1, 0.3, 0.6):
            yield "dilated", self.outside <= share * radius
            yield "eroded", self.inside > share * radius
        for share in (0.3, 0.8, 1.5, 2.1):
            turn = rng.uniform(0, 2 * np.pi)
            step = [
                share * radius * part / s
                for part, s in zip((np.sin(turn), np.cos(turn)), self.spacing[1:], strict=True)
            ]
            yield "elsewhere" if share > 2 else "moved in plane", moved(truth, (0, round(step[0]), round(step[1])))
        slices = int(truth.any(axis=(1, 2)).sum())
        for share in (0.25, 0.5):
            yield "moved in z", moved(truth, (int(rng.choice((-1, 1))) * max(round(share * slices), 1), 0, 0))
        for share in (0.5, 1.5):
            yield "flooded", flooded(truth, self.alike & (self.outside <= share * radius))
        for below, above in ((slices, slices // 2), (slices // 5, slices // 5)):
            cut = truth.copy()
            cut[: max(middle - below, 0)] = cut[middle + above + 1 :] = False
            yield "cut in z", cut


def looks_alike(lesion: Lesion) -> np.ndarray:
    """What a flooding mask would take: smoothed voxels within the lesion's own range of Hounsfield values."""
    smooth = ndi.gaussian_filter(lesion.image.astype(np.float32), [min(0.8 / s, 1.0) for s in lesion.volume.spacing_mm])
    low, high = np.percentile(smooth[lesion.truth], [5, 95])
    return (smooth > low - 15) & (smooth < high + 15)


def flooded(truth: np.ndarray, alike: np.ndarray) -> np.ndarray:
    labels, _ = ndi.label(truth | alike)
    return labels == labels[tuple(np.argwhere(truth)[0])]


def cases_of(lesion: Lesion) -> Iterator[Case]:
    """Every engine and every fault, against a line, a pair and an arrow as radiologists draw them."""
    engines, spoiler = [load_segmenter(name) for name in ENGINES], Spoiler(lesion)
    full = np.zeros(lesion.volume.voxels.shape, dtype=bool)
    full[tuple(slice(a, a + n) for a, n in zip(lesion.low, lesion.truth.shape, strict=True))] = lesion.truth
    for kind, draw in (("line", draw_line), ("pair", draw_bidimensional), ("arrow", draw_arrow)):
        rng = np.random.default_rng([*map(ord, lesion.name), *map(ord, kind)])
        prompt = draw(full, rng, spacing_mm=lesion.volume.spacing_mm)
        job = SegmentationJob(f"{lesion.name}.{kind}", lesion.volume, (prompt,))
        masks = [(engine.name, answer) for engine in engines for answer in engine.segment([job])]
        scored = [
            (source, mask, dice(mask.in_volume(full.shape), full)) for source, mask in masks if isinstance(mask, Mask)
        ]
        for source, voxels in spoiler.all(prompt.slice_index - lesion.low[0], rng):
            if voxels.any():
                mask = mask_from_volume(job.job_id, voxels, "spoilt@1", origin=lesion.low)
                scored.append((source, mask, dice(voxels, lesion.truth)))
        for source, mask, value in scored:
            measured = not isinstance(prompt, Arrow)
            yield Case(lesion.name, source, measured, value, check_mask(mask, job), measure(mask, job))


def auc(scores: Sequence[float], bad: Sequence[bool]) -> float | None:
    """Probability that a bad mask scores lower than one that is not bad; None without both."""
    wrong = np.asarray(bad)
    count, rest = int(wrong.sum()), int((~wrong).sum())
    if not (count and rest):
        return None
    return float((rankdata(-np.asarray(scores))[wrong].sum() - count * (count + 1) / 2) / (count * rest))


def by_lesion(cases: Sequence[Case]) -> Interval:
    """Mean Dice: of each lesion's masks first, then over lesions."""
    values: dict[str, list[float]] = {}
    for case in cases:
        values.setdefault(case.lesion, []).append(case.dice)
    return bootstrap_ci([float(np.mean(group)) for group in values.values()])


def family(case: Case) -> str:
    return case.source if case.source in (*ENGINES, "truth") else "spoilt"


def tier_table(cases: Sequence[Case]) -> list[dict[str, object]]:
    """One row per kind of annotation, origin of the mask and tier."""
    rows: list[dict[str, object]] = []
    for measured in (True, False):
        for source in (*ENGINES, "truth", "spoilt"):
            chosen = [case for case in cases if case.measured == measured and family(case) == source]
            known = auc([case.quality.score for case in chosen], [case.dice < WRONG for case in chosen])
            for tier in "ABC":
                inside = [case for case in chosen if case.quality.tier == tier]
                row = {
                    "annotation": "line, pair" if measured else "arrow",
                    "mask": source,
                    "tier": tier,
                    "n": len(inside),
                }
                if inside:
                    row |= {
                        "dice": str(by_lesion(inside)),
                        "bad": round(float(np.mean([c.dice < BAD for c in inside])), 3),
                    }
                rows.append(row | ({"auc": round(known, 3)} if known is not None and tier == "A" else {}))
    return rows


def flag_table(cases: Sequence[Case]) -> list[dict[str, object]]:
    """How often each flag fires on bad and on good masks, and on how many of them it is the only one."""
    bad, good = [c for c in cases if c.dice < BAD], [c for c in cases if c.dice > GOOD]
    rows: list[dict[str, object]] = []
    for flag in sorted({flag for case in cases for flag in case.quality.flags}):
        row: dict[str, object] = {"flag": flag}
        for name, chosen in (("bad", bad), ("good", good)):
            row[f"on {name}"] = round(float(np.mean([flag in case.quality.flags for case in chosen])), 3)
            row[f"alone on {name}"] = sum(case.quality.flags == (flag,) for case in chosen)
        rows.append(row)
    return rows


def measure_table(cases: Sequence[Case]) -> list[dict[str, object]]:
    """Smallest, 5, 50, 95 % and largest value of each measure on true and on bad masks."""
    rows: list[dict[str, object]] = []
    for name in sorted({name for case in cases for name in case.measures}):
        row: dict[str, object] = {"measure": name}
        for title, chosen in (
            ("true", [c for c in cases if c.source == "truth"]),
            ("bad", [c for c in cases if c.dice < BAD]),
        ):
            values = [case.measures[name] for case in chosen if name in case.measures]
            row[title] = " ".join(f"{v:.2f}" for v in np.percentile(values, (0, 5, 50, 95, 100))) if values else ""
        rows.append(row)
    return rows


def show(title: str, rows: Sequence[dict[str, object]]) -> None:
    columns = list(dict.fromkeys(key for row in rows for key in row))
    print(f"\n{title}\n\n| {' | '.join(columns)} |\n|{'---|' * len(columns)}")
    for row in rows:
        print(f"| {' | '.join(str(row.get(column, '')) for column in columns)} |")


def result() -> dict[str, object]:
    """What ``--json`` prints."""
    cases = [case for lesion in generated_lesions(HELD_OUT) for case in cases_of(lesion)]
    measured = [case for case in cases if case.measured]
    bad = [case.dice < WRONG for case in measured]
    ours = auc([case.quality.score for case in measured], bad)
    peer = auc([-abs(np.log(max(case.measures.get("width", 0), 1e-3) / EXPECTED)) for case in measured], bad)
    return {
        "subject": f"AUC for Dice < {WRONG} of masks held against a line or a pair, held-out generated lesions",
        "ours": round(ours, 3),
        "peer": round(peer, 3),
        "ratio": round(ours / peer, 3),
        "ran": {
            "ours": "score of segmentation.check_mask",
            "peer": f"distance of the longest diameter over the drawn one from {EXPECTED}",
            "masks": len(measured),
            "lesions": len({case.lesion for case in measured}),
            "tiers": tier_table(cases),
        },
    }


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--json", action="store_true", help="print one JSON object")
    parser.add_argument("--real", action="store_true", help="real lesions as well")
    parser.add_argument("--measures", action="store_true", help="print what the measures of true and bad masks are")
    arguments = parser.parse_args()
    if arguments.json:
        print(json.dumps(result()))
        return
    groups = [
        ("generated, tuned on", generated_lesions(TUNED_ON)),
        ("generated, held out", generated_lesions(HELD_OUT)),
    ]
    for title, lesions in [*groups, *([("real", real_lesions())] if arguments.real else [])]:
        cases = [case for lesion in lesions for case in cases_of(lesion)]
        if not cases:
            continue
        show(f"{title}: {len({case.lesion for case in cases})} lesions", tier_table(cases))
        for measured, name in ((True, "lines and pairs"), (False, "arrows")):
            chosen = [case for case in cases if case.measured == measured]
            show(f"{title}, flags, {name}", flag_table(chosen))
            if arguments.measures:
                show(f"{title}, measures, {name}", measure_table(chosen))


if __name__ == "__main__":
    main()
