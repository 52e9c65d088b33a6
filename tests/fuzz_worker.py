"""Reads every file of a folder through the public functions, under a memory limit; one line of JSON for each fault.

Run as ``python fuzz_worker.py FOLDER LIMIT_MB``. What a file must give: annotations or Skips; a Volume or a
GeometryError; reports or ReportErrors. Anything else that is raised, and more memory or time than a file deserves, is a
fault. The folder as a whole must give an index that accounts for every file.
"""

from __future__ import annotations

import json
import resource
import signal
import sys
import time
import traceback
from collections.abc import Callable
from pathlib import Path

from peak import peak_bytes

from cohort_builder import index_export, load_volume, read_annotations
from cohort_builder.errors import PacsError
from cohort_builder.types import Skip
from nlp import ReportError, read_reports
from segmentation.types import GeometryError

FILE_SECONDS = 60


class TooLong(BaseException):
    """No handler for broken files catches it."""


def main(folder: Path, limit_mb: int) -> None:
    resource.setrlimit(resource.RLIMIT_AS, (limit_mb << 20, limit_mb << 20))
    signal.signal(signal.SIGALRM, _alarm)
    slowest = [(0.0, "", "")]
    for path in sorted(folder.iterdir()):
        for act in (annotations, volume, reports):
            start = time.process_time()
            _watched(path.name, act, path)
            slowest = sorted([*slowest, (round(time.process_time() - start, 2), act.__name__, path.name)])[-12:]
    _watched("the folder", indexed, folder)
    print(json.dumps({"done": True, "peak_mb": peak_bytes() >> 20, "slowest_s": slowest}))


def annotations(path: Path) -> None:
    found, skips = read_annotations(path)
    if (not found and not skips) or not all(isinstance(skip, Skip) and skip.reason for skip in skips):
        raise AssertionError("neither annotations nor skips")


def volume(path: Path) -> None:
    try:
        load_volume([path])
    except GeometryError:
        return


def reports(path: Path) -> None:
    refused: list[ReportError] = []
    try:
        for _ in read_reports(path, on_error=lambda error, _row: refused.append(error)):
            pass
    except ReportError:
        return


def indexed(folder: Path) -> None:
    files = sum(1 for path in folder.iterdir() if path.is_file())
    try:
        index = index_export(folder)
    except PacsError:
        return
    counts, skips = index.counts, index.skips
    if counts["files"] != files or counts["dicom"] + counts["not_dicom"] + counts["broken"] != files:
        raise AssertionError(f"{files} files, counted {counts}")
    if len([skip for skip in skips if skip.failure]) < counts["broken"]:
        raise AssertionError("a broken file without a skip")
    for study in index.studies():
        for stored in index.annotation_objects(study.study_instance_uid):
            read_annotations(stored)
        for series in index.series_of(study.study_instance_uid):
            index.instances(series)


def _watched(name: str, act: Callable[[Path], None], path: Path) -> None:
    print(json.dumps({"at": name, "in": act.__name__}), flush=True)
    signal.alarm(FILE_SECONDS if path.is_file() else 10 * FILE_SECONDS)
    try:
        act(path)
    except BaseException as error:  # noqa: BLE001 - this is what is looked for
        where = traceback.extract_tb(error.__traceback__)[-4:]
        print(json.dumps({"fault": type(error).__name__, "at": name, "in": act.__name__, "trace": [f"{f.filename}:{f.lineno}" for f in where], "says": str(error)[:200]}), flush=True)  # fmt: skip
    finally:
        signal.alarm(0)


def _alarm(_signal: int, _frame: object) -> None:
    raise TooLong(f"more than {FILE_SECONDS} s")


if __name__ == "__main__":
    main(Path(sys.argv[1]), int(sys.argv[2]))
