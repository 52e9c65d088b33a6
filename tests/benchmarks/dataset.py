"""Sequential reads of the published dataset against a folder of .nii.gz files, the usual way to publish CT regions.

``python tests/benchmarks/dataset.py --json`` prints one JSON object. Both sides end with the same int16 and uint8
arrays in memory; the dataset side also brings every other column of the row. Ours is a warm ``datasets`` cache, as
from the second epoch on; ``first_load_seconds`` is what the first one costs.
"""

from __future__ import annotations

import argparse
import json
import os
import sys
import tempfile
from collections.abc import Callable, Iterator
from pathlib import Path
from time import perf_counter
from typing import Any

import nibabel as nib
import numpy as np

sys.path.insert(0, str(Path(__file__).parent.parent))
from records import finding, volume

from exports import FindingRecord, with_arrays, write_dataset


def records(count: int) -> Iterator[FindingRecord]:
    """``count`` regions from four bodies."""
    sources = [volume(seed) for seed in range(4)]
    for number in range(count):
        yield finding(sources[number % 4], number)


def write_folder(root: Path, count: int) -> None:
    """Write image and mask of every region as .nii.gz, at nibabel's own level."""
    root.mkdir()
    for number, record in enumerate(records(count)):
        for name in ("image", "mask"):
            nib.Nifti1Image(getattr(record, name), record.affine_ras).to_filename(root / f"{number:05d}_{name}.nii.gz")


def read_folder(root: Path) -> tuple[int, int]:
    """Rows, and a checksum that touches every voxel."""
    rows = total = 0
    for path in sorted(root.glob("*_image.nii.gz")):
        image = np.asarray(nib.Nifti1Image.from_filename(path).dataobj)
        mask = np.asarray(nib.Nifti1Image.from_filename(str(path).replace("_image", "_mask")).dataobj)
        total += int(image.sum(dtype=np.int64)) + int(mask.sum(dtype=np.int64))
        rows += 1
    return rows, total


def read_rows(rows: Any) -> tuple[int, int]:
    """As ``read_folder``, of rows with arrays."""
    count = total = 0
    for row in rows:
        total += int(row["image"].sum(dtype=np.int64)) + int(row["mask"].sum(dtype=np.int64))
        count += 1
    return count, total


def best(read: Callable[[], tuple[int, int]], repeats: int) -> tuple[float, int]:
    """Rows per second of the fastest repeat, and the checksum."""
    fastest, checksum = 0.0, 0
    for _ in range(repeats):
        start = perf_counter()
        rows, checksum = read()
        fastest = max(fastest, rows / (perf_counter() - start))
    return fastest, checksum


def measure(count: int, repeats: int, root: Path) -> dict[str, Any]:
    """Write both, read both, compare."""
    os.environ |= {"HF_HOME": str(root / "hf"), "HF_HUB_OFFLINE": "1", "HF_DATASETS_DISABLE_PROGRESS_BARS": "1"}
    import datasets  # after HF_HOME: it reads its cache folder on import

    write_dataset(root / "dataset", findings=records(count))
    write_folder(root / "folder", count)
    start = perf_counter()
    loaded = datasets.load_dataset(str(root / "dataset"), split="train")
    first_load = perf_counter() - start
    streamed = datasets.load_dataset(str(root / "dataset"), split="train", streaming=True)
    ours, ours_sum = best(lambda: read_rows(with_arrays(loaded)), repeats)
    stream, stream_sum = best(lambda: read_rows(with_arrays(streamed)), repeats)
    peer, peer_sum = best(lambda: read_folder(root / "folder"), repeats)
    if not ours_sum == stream_sum == peer_sum:
        raise RuntimeError("the two sides did not read the same voxels")
    return {
        "subject": "rows per second of the published dataset, sequential",
        "ours": round(ours, 1),
        "peer": round(peer, 1),
        "ratio": round(ours / peer, 2),
        "ran": {
            "ours": "load_dataset + with_arrays, from the second epoch on",
            "peer": "nibabel on a folder of .nii.gz",
            "regions": count,
            "best_of": repeats,
            "streaming": round(stream, 1),
            "first_load_seconds": round(first_load, 2),
            "ours_megabytes": round(size(root / "dataset" / "data") / 1e6, 2),
            "peer_megabytes": round(size(root / "folder") / 1e6, 2),
        },
    }


def size(root: Path) -> int:
    """Bytes of all files below ``root``."""
    return sum(path.stat().st_size for path in root.rglob("*") if path.is_file())


def main() -> None:
    """Run and print."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--json", action="store_true", help="print one JSON object")
    parser.add_argument("--rows", type=int, default=48)
    parser.add_argument("--repeats", type=int, default=3)
    arguments = parser.parse_args()
    with tempfile.TemporaryDirectory() as root:
        result = measure(arguments.rows, arguments.repeats, Path(root))
    if arguments.json:
        print(json.dumps(result))
    else:
        for key, value in result.items():
            print(f"{key}: {value}")


if __name__ == "__main__":
    main()
