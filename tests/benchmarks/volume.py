"""CT volumes from files, against pydicom, highdicom and SimpleITK on the same files, ours first and last in each round.

``python tests/benchmarks/volume.py --json`` prints one JSON object. A series of 512 x 512 slices is generated in a
temporary folder and read once before anything is timed, so the cache is warm and what is measured is the reader. Ours is
``load_stack`` on instances that the index holds: int16 Hounsfield units. The others end where they end by themselves:
``pydicom`` with the stored values of ``pixel_array`` stacked; ``highdicom`` with its volume of floats, as by default,
and as int16; ``SimpleITK`` with the series reader, the order of the files given. All of it in one process,
in megabytes of stored pixels (10^6 bytes) per second of CPU, the system's time included, so that other load on the
machine does not count. ``ratio`` is the median over rounds of their seconds to ours in the same round;
``by_the_clock`` likewise, where a decoder with threads of its own is faster (GDCM for JPEG 2000);
``over_fastest_plugin`` is the least of these. Per compressed transfer syntax every plug-in of pydicom that is installed
has a row, read with ``pixel_array`` of a dataset with that plug-in; one under the GPL is read, too, where it is installed.

``in_processes`` compares, by the clock, one process with the helpers that ``load_stack`` uses for a long compressed
series, started before; it says how many there were, and counts other load on the machine.

``extra_megabytes`` is how far the peak of memory of a new process rises above the array itself while it loads;
negative where reading the headers had taken more.
"""

from __future__ import annotations

import argparse
import json
import os
import shutil
import subprocess
import sys
import tempfile
from collections.abc import Callable, Iterator
from pathlib import Path
from time import perf_counter, process_time
from typing import Any

os.environ["OMP_NUM_THREADS"] = "1"
sys.path.insert(0, str(Path(__file__).parent.parent))

import highdicom
import numpy as np
import pydicom
import SimpleITK
from dicom import ct_series, uid
from peak import in_a_process_of_its_own
from pydicom.pixels.decoders.base import get_decoder
from pydicom.uid import (
    UID,
    ExplicitVRLittleEndian,
    ImplicitVRLittleEndian,
    JPEG2000Lossless,
    JPEGLosslessSV1,
    JPEGLSLossless,
    RLELossless,
)

from cohort_builder.ct import helpers
from cohort_builder.ct.pixels import read_here
from cohort_builder.ct.series import Stack, load_stack, split_series
from cohort_builder.pacs.headers import read_header

SHAPE = (512, 512)
COMPRESSED = (RLELossless, JPEGLosslessSV1, JPEGLSLossless, JPEG2000Lossless)
_PEAK = """
import sys
from pathlib import Path
from cohort_builder.ct.series import load_stack, split_series
from cohort_builder.pacs.headers import read_header
from peak import peak_bytes
(stack,), _ = split_series([read_header(path).instance for path in Path(sys.argv[1]).iterdir()])
before = peak_bytes()
volume = load_stack(stack)
print((peak_bytes() - before - volume.voxels.nbytes) / 1e6)
"""


def write_series(folder: Path, slices: int, syntax: UID) -> list[Path]:
    """A body with noise, as a scanner's 12 bit image: compressors meet something like what they meet in a hospital."""
    y, x = np.mgrid[: SHAPE[0], : SHAPE[1]]
    body = np.where(np.hypot(y - 256, 0.8 * (x - 256)) < 180, 40.0, -980.0)
    body += 60 * np.sin(x / 17) * np.cos(y / 23)
    folder.mkdir()
    paths = []
    for i in range(slices):
        noise = np.random.default_rng(i).normal(0, 12, SHAPE).round()
        voxels = np.clip((body + noise).round(), -1024, 3071)[None]
        (ds,) = ct_series(
            1,
            shape=SHAPE,
            voxels=voxels,
            positions=[(0, 0, float(i))],
            bits_stored=12,
            series_instance_uid=uid("bench"),
        )
        ds.InstanceNumber = i + 1
        add_scanner_elements(ds, i)
        paths.append(folder / f"{i:04d}")
        write_image(ds, paths[-1], syntax)
    return paths


def add_scanner_elements(ds: pydicom.Dataset, i: int) -> None:
    """Bring the header to the 140 elements and 6 kB that scanners write: acquisition values and private blocks."""
    ds.ExposureTime, ds.XRayTubeCurrent, ds.Exposure, ds.FilterType = 500, 200 + i, 100, "FLAT"
    ds.GantryDetectorTilt, ds.TableHeight, ds.RotationDirection, ds.FocalSpots = 0, 150, "CW", [0.7]
    ds.DataCollectionDiameter, ds.ReconstructionDiameter, ds.SpiralPitchFactor = 500, 360, 0.8
    ds.SliceLocation, ds.SoftwareVersions, ds.ProtocolName = float(i), "1.2.3", "Chest routine"
    for group in (0x0019, 0x0021, 0x0029, 0x0051):
        block = ds.private_block(group, "ACME CT HEADER", create=True)
        for element in range(20):
            block.add_new(
                element, ("LO", "DS", "IS", "UN")[element % 4], (f"value {i}", "1.5", "7", b"x" * 128)[element % 4]
            )


def write_image(ds: pydicom.Dataset, path: Path, syntax: UID) -> None:
    """In one transfer syntax; JPEG by DCMTK."""
    if syntax == JPEGLosslessSV1:
        native = path.with_suffix(".native")
        ds.save_as(native, enforce_file_format=True)
        subprocess.run(["dcmcjpeg", "+e1", "+un", native, path], check=True, capture_output=True)
        native.unlink()
    elif syntax.is_compressed:
        ds.compress(syntax, generate_instance_uid=False)
        ds.save_as(path, enforce_file_format=True)
    else:
        ds.file_meta.TransferSyntaxUID = syntax
        pydicom.dcmwrite(path, ds, implicit_vr=syntax.is_implicit_VR, little_endian=True, enforce_file_format=True)


def stack_of(paths: list[Path]) -> Stack:
    """The series as the index gives it."""
    (stack,), _ = split_series([read_header(path).instance for path in paths])
    return stack


def by_pydicom(paths: list[Path], plugin: str = "") -> np.ndarray:
    """Stored values."""
    images = []
    for path in paths:
        ds = pydicom.dcmread(path)
        if plugin:
            ds.pixel_array_options(decoding_plugin=plugin)
        images.append(ds.pixel_array)
    return np.stack(images)


def by_highdicom(paths: list[Path], dtype: type = np.float64) -> np.ndarray:
    """Hounsfield units, its slices turned to our order."""
    volume = highdicom.get_volume_from_series([pydicom.dcmread(path) for path in paths], dtype=dtype)
    return volume.array[::-1]


def by_simpleitk(paths: list[Path]) -> np.ndarray:
    """Hounsfield units."""
    reader = SimpleITK.ImageSeriesReader()
    reader.SetFileNames([str(path) for path in paths])
    return SimpleITK.GetArrayFromImage(reader.Execute())


def timed(read: Callable[[], np.ndarray]) -> np.ndarray:
    """Seconds of one read: of CPU, and by the clock."""
    start = process_time(), perf_counter()
    read()
    return np.array([process_time(), perf_counter()]) - start


def compare(
    paths: list[Path], others: dict[str, tuple[Callable[[], np.ndarray], float]], rounds: int
) -> dict[str, Any]:
    """Megabytes per second of each reader, and ratios; ``others`` are the readers and what to add to theirs for HU."""
    stack = stack_of(paths)
    truth = load_stack(stack).voxels
    megabytes = truth.nbytes / 1e6
    ours: list[np.ndarray] = []
    seconds: dict[str, list[np.ndarray]] = {name: [] for name in others}
    for name, (read, offset) in others.items():
        if not np.array_equal(read() + offset, truth):
            raise RuntimeError(f"{name} reads other values than ours")
    for _ in range(rounds):
        before = timed(lambda: load_stack(stack).voxels)
        for name, (read, _offset) in others.items():
            seconds[name].append(timed(read))
        ours.append((before + timed(lambda: load_stack(stack).voxels)) / 2)
    rows = {}
    for name, times in seconds.items():
        cpu, clock = np.median([theirs / own for theirs, own in zip(times, ours, strict=True)], axis=0)
        speed = megabytes / np.min(times, axis=0)[0]
        rows[name] = {"megabytes_per_second": round(speed, 1), "ratio": round(cpu, 2), "by_the_clock": round(clock, 2)}
    return {"ours": {"megabytes_per_second": round(megabytes / np.min(ours, axis=0)[0], 1)}} | rows


def uncompressed(root: Path, slices: int, rounds: int) -> Iterator[tuple[str, dict[str, Any]]]:
    """One block for each way of writing native pixels."""
    for syntax in (ExplicitVRLittleEndian, ImplicitVRLittleEndian):
        paths = write_series(root / "native", slices, syntax)
        readers = {
            "pydicom pixel_array": (lambda paths=paths: by_pydicom(paths), -1024.0),
            "highdicom": (lambda paths=paths: by_highdicom(paths), 0.0),
            "highdicom int16": (lambda paths=paths: by_highdicom(paths, np.int16), 0.0),
            "SimpleITK": (lambda paths=paths: by_simpleitk(paths), 0.0),
        }
        result = compare(paths, readers, rounds)
        peak = in_a_process_of_its_own(_PEAK, root / "native")
        yield syntax.name, result | {"extra_megabytes": round(float(peak), 1)}
        shutil.rmtree(root / "native")


def compressed(root: Path, slices: int, rounds: int) -> Iterator[tuple[str, dict[str, Any]]]:
    """One block for each compressed transfer syntax."""
    for syntax in COMPRESSED:
        if syntax == JPEGLosslessSV1 and shutil.which("dcmcjpeg") is None:
            continue
        paths = write_series(root / "compressed", slices, syntax)
        readers = {
            f"pydicom {plugin}": (lambda paths=paths, plugin=plugin: by_pydicom(paths, plugin), -1024.0)
            for plugin in get_decoder(syntax).available_plugins
        }
        yield (
            syntax.name,
            compare(paths, readers | {"SimpleITK": (lambda paths=paths: by_simpleitk(paths), 0.0)}, rounds),
        )
        shutil.rmtree(root / "compressed")


def in_processes(root: Path, slices: int) -> dict[str, Any]:
    """JPEG-LS on one core and on all."""
    stack = stack_of(write_series(root / "long", slices, JPEGLSLossless))
    voxels = load_stack(stack).voxels
    start = perf_counter()
    load_stack(stack)
    together = perf_counter() - start
    start = perf_counter()
    read_here(stack.instances, voxels)
    alone = perf_counter() - start
    count = helpers.count_for(stack.instances, voxels.nbytes)
    shutil.rmtree(root / "long")
    return {
        "slices": slices,
        "processes": count,
        "seconds_in_one": round(alone, 2),
        "ratio": round(alone / together, 2),
    }


def measure(slices: int, rounds: int, root: Path) -> dict[str, Any]:
    """Everything, and the two ratios that the project promises."""
    native = dict(uncompressed(root, slices, rounds))
    packed = dict(compressed(root, max(2, slices // 8), rounds))
    return {
        "subject": "CT volumes, megabytes of pixels per second of CPU",
        "over_pydicom": min(block["pydicom pixel_array"]["ratio"] for block in native.values()),
        "over_highdicom": min(block["highdicom"]["ratio"] for block in native.values()),
        "over_fastest_plugin": {
            name: min(row["by_the_clock"] for reader, row in block.items() if reader.startswith("pydicom"))
            for name, block in packed.items()
        },
        "in_processes": in_processes(root, max(slices, 140)),
        "ran": {"slices": slices, "rounds": rounds, "uncompressed": native, "compressed": packed},
    }


def main() -> None:
    """Run and print."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--json", action="store_true", help="print one JSON object")
    parser.add_argument("--slices", type=int, default=200)
    parser.add_argument("--rounds", type=int, default=5)
    arguments = parser.parse_args()
    with tempfile.TemporaryDirectory() as root:
        result = measure(arguments.slices, arguments.rounds, Path(root))
    if arguments.json:
        print(json.dumps(result))
    else:
        for key, value in result.items():
            print(f"{key}: {json.dumps(value, indent=2) if isinstance(value, dict) else value}")


if __name__ == "__main__":
    main()
