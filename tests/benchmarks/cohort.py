"""Cases per minute of the whole job against the script that people write instead, on one generated hospital.

``python tests/benchmarks/cohort.py [--json]``. Ours: ``build_cohort``, one process, no pictures: index, reports, links,
masks, checks, previews, Parquet. The script: pydicom for the lines, SimpleITK's series reader and confidence connected
for the masks, NIfTI files in a folder; no reports, no links, no checks, no privacy. They take turns.
"""

from __future__ import annotations

import argparse
import json
import logging
import os
import platform
import resource
import tempfile
import time
from pathlib import Path

os.environ.setdefault("OMP_NUM_THREADS", "1")

import numpy as np
import pydicom
import SimpleITK as sitk  # noqa: N813 - the name its own documentation uses
from pydicom.misc import is_dicom

from cohort_builder import BuildConfig, build_cohort
from cohort_builder.demo.hospital import generate_hospital

PATIENTS, SEED, ROUNDS = 4, 1, 2


def script(export: Path, out: Path) -> int:
    """The weekend script; returns how many masks it wrote."""
    out.mkdir()
    images, states = {}, []
    for path in export.rglob("*"):
        if path.is_file() and is_dicom(path):
            header = pydicom.dcmread(path, stop_before_pixels=True)
            if header.Modality == "CT":
                images[header.SOPInstanceUID] = (
                    path.parent,
                    header.SeriesInstanceUID,
                    header.get("ImagePositionPatient"),
                )
            elif header.Modality == "PR":
                states.append(header)
    volumes: dict[str, sitk.Image] = {}
    written = 0
    for state in states:
        for annotation in state.get("GraphicAnnotationSequence", []):
            image = annotation.ReferencedImageSequence[0].ReferencedSOPInstanceUID
            for graphic in annotation.get("GraphicObjectSequence", []):
                if image not in images or graphic.GraphicType != "POLYLINE" or graphic.NumberOfGraphicPoints != 2:
                    continue
                folder, series, position = images[image]
                if series not in volumes:
                    reader = sitk.ImageSeriesReader()
                    reader.SetFileNames(reader.GetGDCMSeriesFileNames(str(folder), series))
                    volumes[series] = sitk.Cast(reader.Execute(), sitk.sitkFloat32)
                written += segment(volumes[series], position, graphic.GraphicData, out / f"{written}")
    return written


def segment(volume: sitk.Image, position: list[float], points: list[float], name: Path) -> int:
    """Grow from the middle of the line in a box around it; write image and mask."""
    middle = [(points[0] + points[2]) / 2 - 0.5, (points[1] + points[3]) / 2 - 0.5]
    height = volume.TransformPhysicalPointToContinuousIndex([float(v) for v in position])[2]
    centre = np.array([*middle, height])
    reach = np.ceil(40 / np.array(volume.GetSpacing()))
    size = np.array(volume.GetSize())
    low = np.clip(centre - reach, 0, size - 1).astype(int)
    high = np.clip(centre + reach, 0, size - 1).astype(int)
    box = sitk.RegionOfInterest(volume, (high - low + 1).tolist(), low.tolist())
    seed = np.clip(np.rint(centre - low).astype(int), 0, high - low).tolist()
    mask = sitk.ConfidenceConnected(box, seedList=[seed], numberOfIterations=2, multiplier=2.5)
    sitk.WriteImage(sitk.Cast(box, sitk.sitkInt16), f"{name}_image.nii.gz")
    sitk.WriteImage(mask, f"{name}_mask.nii.gz")
    return 1


def measure(root: Path) -> dict[str, object]:
    logging.getLogger("cohort_builder").setLevel(logging.ERROR)
    sitk.ProcessObject.SetGlobalDefaultNumberOfThreads(1)
    hospital = generate_hospital(root / "hospital", patients=PATIENTS, seed=SEED)
    seconds, cases, masks = {"ours": 0.0, "peer": 0.0}, 0, 0
    for i in range(ROUNDS):
        started = time.perf_counter()
        cohort = build_cohort(
            hospital.reports_csv,
            hospital.pacs_export,
            out=root / f"ours-{i}",
            config=BuildConfig(pictures=0),
            key=root / "site.key",
            progress=False,
        )
        between = time.perf_counter()
        masks = script(hospital.pacs_export, root / f"peer-{i}")
        ended = time.perf_counter()
        seconds["ours"] += between - started
        seconds["peer"] += ended - between
        cases = cohort.run["counts"]["index_studies"]
    ours, peer = (60 * ROUNDS * cases / seconds[name] for name in ("ours", "peer"))
    return {
        "subject": "cases (CT studies) per minute of the whole job, one process",
        "ours": round(ours, 1),
        "peer": round(peer, 1),
        "ratio": round(ours / peer, 3),
        "ran": {
            "ours": "build_cohort, classical, previews, no pictures",
            "peer": f"pydicom + SimpleITK {sitk.Version_VersionString()} script, NIfTI files, no reports and no checks",
            "cases": cases,
            "rounds": ROUNDS,
            "rows_ours": cohort.run["counts"]["findings"] + cohort.run["counts"].get("unlinked_lesions", 0),
            "masks_peer": masks,
            "peak_rss_mb": round(resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1024),
            "machine": f"{platform.machine()}, {os.cpu_count()} CPUs, Python {platform.python_version()}",
        },
    }


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--json", action="store_true", help="print one JSON object")
    arguments = parser.parse_args()
    with tempfile.TemporaryDirectory() as root:
        result = measure(Path(root))
    if arguments.json:
        print(json.dumps(result))
        return
    for key, value in result.items():
        print(f"{key}: {value}")


if __name__ == "__main__":
    main()
