"""Lesions per second of the SAM2 family's engine against the published scripts of MedSAM2 and SAM2CT.

``python tests/benchmarks/segment.py [--json] [--quick] [--device cpu|cuda] [--lesions 1,4,16,64]``. All run the same
random weights on one generated CT of 512x512x120, whose lesions lie evenly over the slices; each is made to reach 5
slices below and 6 above its prompt, because random weights say nothing about extent. What would take too long is
measured in part and scaled; every row says what ran. ``--memory`` measures the peak memory against the number of
slices instead, ``--profile`` where the time goes.
"""

from __future__ import annotations

import argparse
import json
import os
import platform
import subprocess
import sys
import tempfile
from collections.abc import Callable
from dataclasses import replace
from functools import partial
from pathlib import Path
from statistics import median
from typing import Any

sys.path.insert(0, str(Path(__file__).resolve().parents[1]))

import psutil
import torch
from sam2_bench import (
    MEDSAM2,
    SAM2CT,
    SIDE,
    SLICES,
    TARGET_LESIONS,
    VISITED,
    Bench,
    Rates,
    Row,
    Way,
    generated,
    jobs_of,
    segment,
)
from sam2_timing import Cost, Watch, peak_memory, peak_tflops


def median_row(rows: list[Row]) -> Row:
    """Median cost of rows of the same thing."""
    cost = Cost(*(median(row.lesion[i] for row in rows) for i in (0, 1)))
    return replace(rows[0], lesion=cost, ran=rows[0].ran + (f", median of {len(rows)}" if len(rows) > 1 else ""))


def speed(bench: Bench, counts: list[int], rounds: int) -> dict[str, Any]:
    """Measure one lesion of everything, in turns so that what else the machine does costs all alike; then the others.

    What takes longer than a third of the limit is measured once.
    """
    volume = generated(SLICES)
    single: dict[str, list[Row]] = {}
    rates: dict[str, Rates] = {}
    turns: list[tuple[str, Callable[[], Row]]] = [
        (MEDSAM2, lambda: bench.medsam2(volume)),
        (SAM2CT, lambda: bench.sam2ct(volume)),
    ]

    def once(way: Way) -> Row:
        row, rates[way.name] = bench.ours(way, volume, 1, None)
        return row

    turns += [(way.name, partial(once, way)) for way in bench.ways]
    spent: dict[str, float] = {}
    for _ in range(rounds):
        for name, turn in turns:
            if spent.get(name, 0.0) < bench.limit / 3:
                watch = Watch()
                single.setdefault(name, []).append(turn())
                spent[name] = watch.lap().wall
    peers = {name: median_row(single[name]) for name in (MEDSAM2, SAM2CT)}
    rows = list(peers.values())
    for way in bench.ways:
        of_one = median_row(single[way.name])
        rows += [of_one if count == 1 else bench.ours(way, volume, count, rates[way.name])[0] for count in counts]
    return {"rows": rows, "targets": compared(bench, rows, peers)}


def compared(bench: Bench, rows: list[Row], peers: dict[str, Row]) -> list[dict[str, Any]]:
    """Each way at the number of lesions of its target, or at the nearest number measured, against its peer.

    On the CPU a target is met only if both times meet it: of the wall clock, and of the processors.
    """
    kind = "cpu" if bench.on_cpu else "cuda"
    results = []
    for way in bench.ways:
        row = min((r for r in rows if r.name == way.name), key=lambda r: abs(r.lesions - TARGET_LESIONS[kind]))
        peer = peers[way.peer].lesion
        ratios = Cost(peer.wall / row.lesion.wall, peer.cpu / row.lesion.cpu)
        worst, target = min(ratios) if bench.on_cpu else ratios.wall, way.targets.get(kind)
        results.append(
            {
                "way": way.name,
                "peer": way.peer,
                "lesions": row.lesions,
                "ratio": round(ratios.wall, 2),
                "ratio_cpu_time": round(ratios.cpu, 2),
                "target": target,
                "met": None if target is None else worst >= target,
            }
        )
    return results


def profile(bench: Bench) -> list[Row]:
    """Where the time goes with as many lesions as a target is about, on a part of the volume that is as full."""
    share, options = (4, {}) if bench.on_cpu else (1, {"compile": False})  # compiled parts cannot be told apart
    volume = generated(SLICES // share)
    jobs = jobs_of(volume, TARGET_LESIONS["cpu" if bench.on_cpu else "cuda"] // share)
    ran = f"{len(jobs)} in {len(volume.voxels)} slices"
    return [bench.run(way, jobs, ran, watch_parts=True, **options)[0] for way in bench.ways]


# ---- memory: each measurement in a process of its own ---------------------------------------------------------------

NARROW, IMAGE_SIZE, PER_LESION = 256, 128, 20
"""Side of the volume, of the network's input, and slices of the volume per lesion."""
STACKS, BATCHES = (100, 500, 2000), (8, 32)
"""Slices of the volumes; passes under way at once, two for each lesion."""


def memory_child(bench: Bench, slices: int, lesions: int, batch: int) -> dict[str, float]:
    """How memory rises while ``lesions`` on so many slices are segmented."""
    volume = generated(slices, NARROW)
    jobs = jobs_of(volume, lesions)
    engine = bench.engine(bench.ways[0], image_size=IMAGE_SIZE, batch=batch)
    segment(engine, jobs[:1])
    with peak_memory(bench.device) as peak:
        loaded = psutil.Process().memory_info().rss - volume.voxels.nbytes
        segment(engine, jobs)
        risen = peak()
    return {"risen_mb": risen, "beyond_volume_mb": loaded / 2**20 + risen}


def memory(arguments: argparse.Namespace) -> dict[str, Any]:
    """Peak memory against slices, lesions spread over all of them; and against the batch."""

    def child(slices: int, lesions: int, batch: int) -> dict[str, float]:
        command = [sys.executable, __file__, "--size", arguments.size or "nano", "--device", arguments.device]
        command += ["--threads", str(torch.get_num_threads())]
        command += ["--memory-child", f"{slices},{lesions},{batch}"]
        return json.loads(subprocess.run(command, check=True, capture_output=True, text=True).stdout)

    stacks = {slices: child(slices, slices // PER_LESION, BATCHES[0]) for slices in STACKS}
    small, large = (child(STACKS[0], 2 * BATCHES[1], batch)["risen_mb"] for batch in BATCHES)
    beyond = [found["beyond_volume_mb"] for found in stacks.values()]
    return {
        "lesions": f"1 per {PER_LESION} slices of {NARROW}x{NARROW}, batch {BATCHES[0]}, network {IMAGE_SIZE}",
        "by_slices": {str(s): {key: round(mb, 1) for key, mb in found.items()} for s, found in stacks.items()},
        "spread": round(max(beyond) / min(beyond) - 1, 3),
        "flat": max(beyond) <= 1.1 * min(beyond),
        "mb_per_lesion_in_flight": round((large - small) / ((BATCHES[1] - BATCHES[0]) / 2), 2),
    }


# ---- output ---------------------------------------------------------------------------------------------------------


def machine(device: str) -> dict[str, Any]:
    card = torch.cuda.get_device_name() if device.startswith("cuda") else None
    return {
        "device": card or "cpu",
        "dtype": "bf16 autocast" if card else "fp32",
        "machine": f"{platform.machine()}, {os.cpu_count()} CPUs, Python {platform.python_version()}",
        "threads": torch.get_num_threads(),
        "load": round(os.getloadavg()[0], 1),
        "torch": torch.__version__,
    }


def as_json(rows: list[Row]) -> list[dict[str, Any]]:
    return [
        {
            "name": row.name,
            "lesions": row.lesions,
            "lesions_per_s": float(f"{row.per_second:.3g}"),
            "wall_s": round(row.lesion.wall, 3),
            "cpu_s": round(row.lesion.cpu, 3),
            "peak_mb": row.peak_mb,
            "ran": row.ran,
            "shares": row.shares,
            "peak_share": row.peak_share,
        }
        for row in rows
    ]


def show(rows: list[Row]) -> None:
    print(f"{'':24} lesions  lesions/s  s wall   s CPU   peak MB  ran")
    for row in rows:
        peak = "" if row.peak_mb is None else f"{row.peak_mb:.0f}"
        share = "" if row.peak_share is None else f"; {row.peak_share:.1%} of bf16 peak"
        print(
            f"{row.name:24} {row.lesions:7}  {row.per_second:9.3g}  {row.lesion.wall:6.2f}  {row.lesion.cpu:6.2f}"
            f"  {peak:>7}  {row.ran}{share}"
        )
        if row.shares:
            print(f"{'':24} " + ", ".join(f"{name} {share:.0%}" for name, share in row.shares.items()))


def parsed() -> argparse.Namespace:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--json", action="store_true", help="print one JSON object")
    parser.add_argument(
        "--quick", action="store_true", help="nano weights, half the pixels a side, one round: below a minute"
    )
    parser.add_argument("--memory", action="store_true", help="measure peak memory instead")
    parser.add_argument("--profile", action="store_true", help="measure where the time goes instead")
    parser.add_argument("--device", default="cuda" if torch.cuda.is_available() else "cpu")
    parser.add_argument("--lesions", default="1,4,16,64", help="how many at once, with commas")
    parser.add_argument("--size", help="of the weights; default tiny, nano with --quick and --memory")
    parser.add_argument("--rounds", type=int, help="repeats of what is quick; default 3, 1 with --quick")
    parser.add_argument("--limit", type=float, help="seconds one measurement may take; default 40, 6 with --quick")
    parser.add_argument("--threads", type=int, help="of the CPU; 1 on a machine that is busy; default: torch's own")
    parser.add_argument("--peak-tflops", type=float, help="bf16 peak of the card; default: a table of cards")
    parser.add_argument("--memory-child", help=argparse.SUPPRESS)
    return parser.parse_args()


def main() -> None:
    arguments = parsed()
    quick = arguments.quick
    if arguments.threads:
        torch.set_num_threads(arguments.threads)
    if arguments.memory:
        print(json.dumps(memory(arguments)))
        return
    with tempfile.TemporaryDirectory() as folder:
        bench = Bench(
            arguments.size or ("nano" if quick else "tiny"),
            arguments.device,
            Path(folder),
            arguments.limit or (6.0 if quick else 40.0),
            shrink=2 if quick else 1,
            peak=arguments.peak_tflops or peak_tflops(arguments.device),
        )
        if arguments.memory_child:
            print(json.dumps(memory_child(bench, *map(int, arguments.memory_child.split(",")))))
            return
        if arguments.profile:
            rows = profile(bench)
            print(json.dumps({"rows": as_json(rows), **machine(bench.device)})) if arguments.json else show(rows)
            return
        counts = [int(count) for count in arguments.lesions.split(",")]
        result = speed(bench, counts, arguments.rounds or (1 if quick else 3))
    ours, peer = headline(result["rows"], result["targets"][0])
    if arguments.json:
        summary = {
            "subject": f"lesions per second, {ours.lesions} lesions of {VISITED} slices on {SIDE}x{SIDE}x{SLICES}",
            "ours": float(f"{ours.per_second:.3g}"),
            "peer": float(f"{peer.per_second:.3g}"),
            "ratio": result["targets"][0]["ratio"],
            "ran": {
                "ours": ours.name,
                "peer": peer.name,
                "weights": f"{bench.size}, random",
                "targets": result["targets"],
                "rows": as_json(result["rows"]),
                **machine(bench.device),
            },
        }
        print(json.dumps(summary))
        return
    show(result["rows"])
    for target in result["targets"]:
        print(target)
    print({"weights": f"{bench.size}, random", **machine(bench.device)})


def headline(rows: list[Row], target: dict[str, Any]) -> tuple[Row, Row]:
    """Rows of ours and of the peer that a target compares."""
    ours = next(row for row in rows if (row.name, row.lesions) == (target["way"], target["lesions"]))
    return ours, next(row for row in rows if row.name == target["peer"])


if __name__ == "__main__":
    main()
