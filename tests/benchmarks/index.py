"""The index against pydicom and against the disk: files per second and core, then time and memory as exports grow.

``python tests/benchmarks/index.py --json`` prints one JSON object. Files are generated: a CT header of about 140
elements and 6 kB with private blocks and short sequences as scanners write them, and 128 bytes of pixels. All sides
read the same files from a warm cache, in turns within one run; time is CPU time of the process, so that what else runs
counts little. ``shuffled`` gives the files of all series in random order, where nothing is learned from neighbours.

``--full`` indexes 10,000, 100,000 and 1,000,000 files, each in a process of its own, whose peak memory is reported;
the headers are then 1.2 kB long, so that a million fits on a small disk.
"""

from __future__ import annotations

import argparse
import json
import os
import random
import shutil
import sys
import tempfile
from collections.abc import Callable, Iterator, Sequence
from io import BytesIO
from pathlib import Path
from time import process_time
from typing import Any

import pydicom
from pydicom.dataset import Dataset, FileMetaDataset
from pydicom.uid import CTImageStorage, ExplicitVRLittleEndian

sys.path.insert(0, str(Path(__file__).parent.parent))

from peak import in_a_process_of_its_own

SLICES = 100  # of a series
FULL = (10_000, 100_000, 1_000_000)
SMALL = (2_000, 20_000)
SIDE = 8  # of an image, in pixels
_INDEX_ALONE = """
import json, sys, time
from pathlib import Path
from cohort_builder.pacs.index import index_export
from peak import peak_bytes
before, started, cpu = peak_bytes() / 2**20, time.perf_counter(), time.process_time()
index = index_export(sys.argv[1], sys.argv[2])
first, cpu = time.perf_counter() - started, time.process_time() - cpu
index.close()
started = time.perf_counter()
index_export(sys.argv[1], sys.argv[2]).close()
again = time.perf_counter() - started
print(json.dumps({
    "cpu_us": 1e6 * cpu, "seconds": first, "again_seconds": again, "peak_mb": peak_bytes() / 2**20, "import_mb": before,
}))
"""


def header(number: int, *, long: bool) -> Dataset:
    """CT slice ``number`` of its series; UIDs are numbers of fixed width, to be replaced in the bytes."""
    ds = Dataset()
    ds.SpecificCharacterSet = "ISO_IR 100"
    ds.ImageType = ["ORIGINAL", "PRIMARY", "AXIAL"]
    ds.SOPClassUID, ds.SOPInstanceUID = CTImageStorage, "1.2.840.99999.3.1000000000.10000"
    ds.StudyDate = ds.SeriesDate = ds.AcquisitionDate = ds.ContentDate = "20240305"
    ds.StudyTime, ds.AcquisitionTime = "101500", f"1015{number % 60:02d}.{number:06d}"
    ds.ContentTime = f"1016{number % 60:02d}.{number:06d}"
    ds.AccessionNumber, ds.Modality, ds.Manufacturer = "A0000000000", "CT", "SIEMENS"
    ds.PatientName, ds.PatientID, ds.PatientBirthDate = "Muster^Erika", "0000000000", "19500102"
    ds.PatientSex, ds.PatientAge = "F", "074Y"
    ds.StudyInstanceUID, ds.SeriesInstanceUID = "1.2.840.99999.1.1000000000", "1.2.840.99999.2.1000000000"
    ds.FrameOfReferenceUID, ds.SeriesNumber, ds.InstanceNumber = "1.2.840.99999.4.1000000000", 2, number + 1
    ds.ImagePositionPatient = [-180.5, -160.25, round(-500 + 1.25 * number, 2)]
    ds.ImageOrientationPatient, ds.PixelSpacing = [1, 0, 0, 0, 1, 0], [0.703125, 0.703125]
    ds.SamplesPerPixel, ds.PhotometricInterpretation, ds.Rows, ds.Columns = 1, "MONOCHROME2", SIDE, SIDE
    ds.BitsAllocated, ds.BitsStored, ds.HighBit, ds.PixelRepresentation = 16, 12, 11, 0
    ds.RescaleIntercept, ds.RescaleSlope, ds.RescaleType = -1024, 1, "HU"
    if long:
        _as_scanners_write(ds, number)
    ds.PixelData = bytes(2 * SIDE * SIDE)
    return ds


def _as_scanners_write(ds: Dataset, number: int) -> None:
    """Add what an index does not need and has to pass: dose, technique, requests, private blocks."""
    ds.InstitutionName, ds.StationName, ds.ReferringPhysicianName = "Haus am See", "CT7", "Arzt^Anna"
    ds.StudyDescription, ds.SeriesDescription = "CT Thorax Abdomen", "Thorax 1.25 Br40"
    ds.ManufacturerModelName, ds.OperatorsName = "SOMATOM Force", "Tech^Tim"
    ds.BodyPartExamined, ds.SliceThickness, ds.KVP, ds.DataCollectionDiameter = "CHEST", 1.25, 120, 500
    ds.DeviceSerialNumber, ds.SoftwareVersions, ds.ProtocolName = "12345", "syngo CT VB20A", "ThorAbd"
    ds.ReconstructionDiameter, ds.GantryDetectorTilt, ds.TableHeight = 360, 0, 150.5
    ds.ExposureTime, ds.XRayTubeCurrent, ds.Exposure = 500, 200 + number % 37, 80 + number % 11
    ds.FilterType, ds.GeneratorPower, ds.FocalSpots = "FLAT", 40, [0.8, 1.1]
    ds.ConvolutionKernel, ds.PatientPosition, ds.CTDIvol = ["Br40f", "2"], "HFS", 7.25 + number % 5
    ds.AcquisitionNumber, ds.SliceLocation = 1, round(-500 + 1.25 * number, 2)
    ds.WindowCenter, ds.WindowWidth, ds.WindowCenterWidthExplanation = [40, -600], [400, 1200], ["W1", "W2"]
    ds.SmallestImagePixelValue, ds.LargestImagePixelValue = 0, 3000 + number
    code = Dataset()
    code.CodeValue, code.CodingSchemeDesignator, code.CodeMeaning = "CTTHOAB", "99SITE", "CT Thorax and Abdomen"
    request = Dataset()
    request.RequestedProcedureID, request.ScheduledProcedureStepID = "RP1", "SPS1"
    request.RequestedProcedureCodeSequence = [code]
    ds.RequestAttributesSequence, ds.ProcedureCodeSequence = [request], [code]
    reference = Dataset()
    reference.ReferencedSOPClassUID, reference.ReferencedSOPInstanceUID = CTImageStorage, "1.2.840.99999.5.1"
    ds.ReferencedStudySequence = ds.SourceImageSequence = [reference]
    for group, creator, size in (
        (0x0019, "SIEMENS CT VA0  COAD", 24),
        (0x0021, "SIEMENS MED", 16),
        (0x0029, "CSA", 60),
    ):
        block = ds.private_block(group, creator, create=True)
        for element in range(20):
            block.add_new(element, "LO" if element % 2 else "OB", "x" * size if element % 2 else bytes(2 * size))
    ds.private_block(0x0029, "CSA").add_new(0x40, "SL", number)


def templates(*, long: bool) -> list[bytes]:
    """Bytes of the slices of one series."""
    found = []
    for number in range(SLICES):
        ds = header(number, long=long)
        ds.file_meta = FileMetaDataset()
        ds.file_meta.TransferSyntaxUID = ExplicitVRLittleEndian
        stream = BytesIO()
        pydicom.dcmwrite(stream, ds, enforce_file_format=True)
        found.append(stream.getvalue())
    return found


def write(root: Path, count: int, *, long: bool = True) -> list[Path]:
    """``count`` files, a folder for each series, a study and patient for three series."""
    bodies, paths = [_with_gaps(body) for body in templates(long=long)], []
    for start in range(0, count, SLICES):
        series = start // SLICES
        folder = root / f"{series // 100:04d}" / f"{series:06d}"
        folder.mkdir(parents=True)
        uids = {b"series": b"%d" % (1_000_000_000 + series), b"study": b"%d" % (1_000_000_000 + series // 3)}
        for number in range(min(SLICES, count - start)):
            values = uids | {b"number": b"%d" % (10_000 + number), b"id": b"%010d" % (series // 3)}
            path = folder / f"IM{number:05d}"
            path.write_bytes(bodies[number] % values)
            paths.append(path)
    return paths


def _with_gaps(body: bytes) -> bytes:
    """Make a format of a file, with gaps of the same length for what tells files apart."""
    body = body.replace(b"%", b"%%").replace(b".3.1000000000.10000", b".3.%(series)b.%(number)b")
    for kind in (b".2.", b".4."):
        body = body.replace(kind + b"1000000000", kind + b"%(series)b")
    return body.replace(b".1.1000000000", b".1.%(study)b").replace(b"0000000000", b"%(id)b")


def by_pydicom(paths: Sequence[Path]) -> None:
    for path in paths:
        pydicom.dcmread(path, stop_before_pixels=True)


def by_reading(paths: Sequence[Path]) -> None:
    for path in paths:
        descriptor = os.open(path, os.O_RDONLY)
        os.read(descriptor, 8192)
        os.close(descriptor)


def by_scanner(paths: Sequence[Path]) -> None:
    from cohort_builder.pacs.headers import read_header

    for path in paths:
        read_header(path)


def speeds(paths: Sequence[Path], root: Path, repeats: int) -> dict[str, float]:
    """Files per second of CPU time, best of ``repeats`` turns."""
    from cohort_builder.pacs.index import index_export

    shuffled = random.Random(0).sample(list(paths), len(paths))

    def by_index(_paths: Sequence[Path]) -> None:
        with tempfile.TemporaryDirectory() as folder:
            index_export(root, Path(folder) / "index.sqlite").close()

    sides: dict[str, Callable[[Sequence[Path]], None]] = {
        "read": by_reading, "scanner": by_scanner, "index": by_index, "pydicom": by_pydicom,
    }  # fmt: skip
    fastest = dict.fromkeys((*sides, "shuffled"), 0.0)
    for _ in range(repeats):
        for name, side, files in (*((n, s, paths) for n, s in sides.items()), ("shuffled", by_scanner, shuffled)):
            started = process_time()
            side(files)
            fastest[name] = max(fastest[name], len(files) / (process_time() - started))
    return fastest


def growth(counts: Sequence[int], root: Path) -> Iterator[dict[str, Any]]:
    """Index exports of several sizes, each in a process of its own; their files are deleted at once."""
    for count in counts:
        export, index = root / "growing", root / "growing.sqlite"
        write(export, count, long=False)
        found = json.loads(in_a_process_of_its_own(_INDEX_ALONE, export, index))
        yield {
            "files": count,
            "cpu_us_per_file": round(found["cpu_us"] / count, 1),
            "seconds": round(found["seconds"], 1),
            "again_seconds": round(found["again_seconds"], 1),
            "peak_mb": round(found["peak_mb"], 1),
            "import_mb": round(found["import_mb"], 1),
            "index_bytes_per_file": round(index.stat().st_size / count),
        }
        shutil.rmtree(export)
        index.unlink()


def measure(count: int, repeats: int, counts: Sequence[int], root: Path) -> dict[str, Any]:
    """Run everything."""
    export = root / "export"
    paths = write(export, count)
    size = paths[0].stat().st_size
    fastest = speeds(paths, export, repeats)
    shutil.rmtree(export)
    return {
        "subject": "headers per second and core: index_export against pydicom.dcmread(stop_before_pixels=True)",
        "ours": round(fastest["index"]),
        "peer": round(fastest["pydicom"]),
        "ratio": round(fastest["index"] / fastest["pydicom"], 2),
        "ran": {
            "files": count,
            "bytes_per_file": size,
            "best_of": repeats,
            "files_per_second": {name: round(value) for name, value in fastest.items()},
            "scanner_over_pydicom": round(fastest["scanner"] / fastest["pydicom"], 2),
            "shuffled_over_pydicom": round(fastest["shuffled"] / fastest["pydicom"], 2),
            "reading_over_scanner": round(fastest["read"] / fastest["scanner"], 2),
            "reading_over_index": round(fastest["read"] / fastest["index"], 2),
            "growth": list(growth(counts, root)),
        },
    }


def main() -> None:
    """Run and print."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--json", action="store_true", help="print one JSON object")
    parser.add_argument("--files", type=int, default=2000)
    parser.add_argument("--repeats", type=int, default=3)
    parser.add_argument("--full", action="store_true", help="index up to a million files (5 GB of disk)")
    parser.add_argument("--counts", type=int, nargs="*", help="sizes of the exports, in files")
    arguments = parser.parse_args()
    counts = arguments.counts or (FULL if arguments.full else SMALL)
    with tempfile.TemporaryDirectory() as root:
        result = measure(arguments.files, arguments.repeats, counts, Path(root))
    if arguments.json:
        print(json.dumps(result))
    else:
        for key, value in result.items():
            print(f"{key}: {value}")


if __name__ == "__main__":
    main()
