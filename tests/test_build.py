"""The whole job on a generated hospital: what leaves it, what does not, and what survives a kill."""

from __future__ import annotations

import hashlib
import json
import os
import random
import shutil
import signal
import subprocess
import sys
import time
from collections import Counter
from collections.abc import Callable, Iterable
from pathlib import Path

import numpy as np
import pydicom
import pytest
from filelock import FileLock

from cohort_builder import BuildConfig, Cohort, ConfigError, build_cohort, open_cohort
from cohort_builder.audit.search import find_leaks

COMMAND = Path(sys.executable).with_name("cohort")


@pytest.fixture(scope="module")
def cohort(demo: Path) -> Cohort:
    return open_cohort(demo / "cohort")


def digests(folder: Path) -> dict[str, str]:
    """Content of every file, by relative path."""
    return {
        str(path.relative_to(folder)): hashlib.sha256(path.read_bytes()).hexdigest()
        for path in sorted(folder.rglob("*"))
        if path.is_file()
    }


def lines(path: Path) -> list[dict]:
    return [json.loads(line) for line in path.read_text(encoding="utf-8").splitlines()]


# ---- what is published ---------------------------------------------------------------------------------------------

FRESH_PROCESS = """
import sys, json, numpy as np
from datasets import load_dataset
out = []
for config in ("findings", "lesions", "volumes", "reports"):
    for split, rows in load_dataset(sys.argv[1], config).items():
        for row in rows:
            entry = {"config": config, "split": split, "patient_id": row["patient_id"]}
            if config in ("findings", "lesions"):
                image, mask = row["image"], row["mask"]
                affine = np.array(row["affine_ras"]).reshape(4, 4)
                voxels = np.asarray(mask.dataobj)
                entry |= {
                    "same_grid": image.shape == mask.shape and np.array_equal(image.affine, mask.affine),
                    "affine_error": float(np.abs(image.affine - affine).max()),
                    "dtypes": [str(np.asarray(image.dataobj).dtype), str(voxels.dtype)],
                    "n_mask": int(voxels.sum()),
                    "lesion_id": row["lesion_id"],
                    "phrase": row["phrase"],
                }
                errors = []
                for drawn in [row["annotation"], *row["other_annotations"]]:
                    ras = np.array(drawn["points_ras_mm"])
                    ijk = np.array(drawn["points_ijk"])
                    back = ijk @ affine[:3, :3].T + affine[:3, 3]
                    errors.append(float(np.abs(back - ras).max()))
                    index = np.linalg.solve(affine[:3, :3], (ras - affine[:3, 3]).T).T
                    errors.append(float(np.abs(index[:, 2] - np.round(index[:, 2])).max()) * np.linalg.norm(affine[:3, 2]))
                    entry["on_slice"] = bool(voxels[:, :, int(round(index[0, 2]))].any())
                entry["point_error_mm"] = max(errors)
            if config == "volumes":
                entry["shape"] = list(row["image"].shape)
            out.append(entry)
print(json.dumps(out))
"""


@pytest.fixture(scope="module")
def rows_in_a_fresh_process(cohort: Cohort, tmp_path_factory: pytest.TempPathFactory) -> list[dict]:
    """Every row of every config, loaded by `datasets` alone, in a process that knows nothing of this library."""
    away = tmp_path_factory.mktemp("elsewhere")
    copy = away / "a dataset somebody downloaded"
    shutil.copytree(cohort.dataset_path, copy)
    env = {k: v for k, v in os.environ.items() if k != "PYTHONPATH"} | {"HF_DATASETS_CACHE": str(away / "cache")}
    done = subprocess.run(
        [sys.executable, "-c", FRESH_PROCESS, str(copy)], capture_output=True, text=True, check=True, cwd=away, env=env
    )
    return json.loads(done.stdout.splitlines()[-1])


def test_every_row_loads_and_image_and_mask_share_a_grid(rows_in_a_fresh_process: list[dict]) -> None:
    rows = [row for row in rows_in_a_fresh_process if "same_grid" in row]
    assert len(rows) > 10
    assert all(row["same_grid"] and row["n_mask"] > 0 and row["dtypes"] == ["int16", "uint8"] for row in rows)
    assert max(row["affine_error"] for row in rows) < 1e-3


def test_the_affine_puts_the_drawn_points_on_the_masks_slice(rows_in_a_fresh_process: list[dict]) -> None:
    rows = [row for row in rows_in_a_fresh_process if "point_error_mm" in row]
    assert max(row["point_error_mm"] for row in rows) < 0.1
    assert all(row["on_slice"] for row in rows)


def test_a_patient_lies_in_one_split_of_all_configs(rows_in_a_fresh_process: list[dict]) -> None:
    splits: dict[str, set[str]] = {}
    for row in rows_in_a_fresh_process:
        splits.setdefault(row["patient_id"], set()).add(row["split"])
    assert {row["config"] for row in rows_in_a_fresh_process} == {"findings", "lesions", "volumes", "reports"}
    assert all(len(found) == 1 for found in splits.values())


def test_lesions_holds_the_findings_and_what_nobody_said(rows_in_a_fresh_process: list[dict], cohort: Cohort) -> None:
    lesions = [row for row in rows_in_a_fresh_process if row["config"] == "lesions"]
    assert sum(row["phrase"] is not None for row in lesions) == len(cohort)
    assert any(row["phrase"] is None for row in lesions)


def test_voxels_equal_the_source_dicom(demo: Path, cohort: Cohort) -> None:
    """An independent reading: pydicom, the position formula of PS3.3 C.7.6.2.1.1, and nothing of ours."""
    series = {
        r["pseudonym"]: r["original"].split("/")[0]
        for r in lines(cohort.path / "private" / "crosswalk.jsonl")
        if r["kind"] == "series"
    }
    slices: dict[str, list[pydicom.Dataset]] = {}
    for path in (demo / "hospital" / "pacs_export").rglob("*"):
        if path.is_file() and pydicom.misc.is_dicom(path):
            dataset = pydicom.dcmread(path)
            if dataset.Modality == "CT" and "ImagePositionPatient" in dataset:
                slices.setdefault(dataset.SeriesInstanceUID, []).append(dataset)
    rng = np.random.default_rng(0)
    for i in range(len(cohort)):
        row = cohort.row(i)
        image = np.asarray(row["image"].dataobj)
        affine = np.array(row["affine_ras"]).reshape(4, 4)
        stack = slices[series[row["series_id"]]]
        for index in rng.integers(0, image.shape, size=(20, 3)):
            x, y, z = (affine @ [*index, 1])[:3] * [-1, -1, 1]
            dataset = min(stack, key=lambda d: abs(d.ImagePositionPatient[2] - z))
            row_mm, column_mm = dataset.PixelSpacing
            column = (x - dataset.ImagePositionPatient[0]) / column_mm
            line = (y - dataset.ImagePositionPatient[1]) / row_mm
            assert abs(dataset.ImagePositionPatient[2] - z) < 0.01
            assert abs(column - round(column)) < 0.01
            assert abs(line - round(line)) < 0.01
            stored = int(dataset.pixel_array[round(line), round(column)])
            expected = stored * dataset.RescaleSlope + dataset.RescaleIntercept
            padding = stored == dataset.get("PixelPaddingValue")
            assert image[tuple(index)] == expected or (padding and image[tuple(index)] <= -1000)


def test_every_phrase_is_the_span_of_its_published_report(cohort: Cohort) -> None:
    import pyarrow.parquet as pq

    texts = {}
    for path in (cohort.dataset_path / "data" / "reports").glob("*.parquet"):
        for row in pq.read_table(path, columns=["report_id", "text"]).to_pylist():
            texts[row["report_id"]] = row["text"]
    rows = cohort.findings.to_pylist()
    assert rows
    for row in rows:
        text = texts[row["report_id"]]
        assert text[row["phrase_start"] : row["phrase_end"]] == row["phrase"]
        assert row["phrase"] in row["sentence"]
        assert row["sentence"] in text
        for measurement in row["measurements"]:
            assert measurement["source_text"] in row["sentence"] or measurement["source_text"] in text


# ---- nobody is named -----------------------------------------------------------------------------------------------


def test_nothing_identifying_leaves(demo: Path, cohort: Cohort) -> None:
    needles = json.loads((demo / "hospital" / "truth" / "truth.json").read_text(encoding="utf-8"))["needles"]
    assert len(needles) > 50
    assert find_leaks(cohort.path, needles) == []
    assert cohort.audit() == []


def test_the_leak_search_would_find_one(demo: Path, tmp_path: Path) -> None:
    needles = json.loads((demo / "hospital" / "truth" / "truth.json").read_text(encoding="utf-8"))["needles"]
    shutil.copytree(demo / "cohort", tmp_path / "cohort")
    with (tmp_path / "cohort" / "dataset" / "README.md").open("a") as card:
        card.write(f"\nthanks to {needles[0]}\n")
    assert find_leaks(tmp_path / "cohort", needles)


def test_the_private_half_is_private(cohort: Cohort) -> None:
    assert (cohort.path / "private").stat().st_mode & 0o777 == 0o700


# ---- scores against the truth --------------------------------------------------------------------------------------


def test_no_wrong_link_and_most_linked(demo: Path) -> None:
    links = json.loads((demo / "score.json").read_text())["links"]
    assert links["wrong"] == 0
    assert links["right"] >= 0.6 * links["linkable"]


def test_everything_that_is_no_row_has_a_reason(cohort: Cohort) -> None:
    assert {"stage", "item", "reason", "detail", "failure"} == set().union(*cohort.skipped)
    assert all(row["reason"] and row["detail"] for row in cohort.skipped)
    counts = cohort.run["counts"]
    lost = Counter(row["stage"] for row in cohort.skipped)["segmentation"]
    lost += sum(row["reason"] == "no_regular_stack" for row in cohort.skipped)
    segmented = set()
    for folder in ("findings", "unlinked"):
        import pyarrow.parquet as pq

        for path in (cohort.dataset_path / "data" / folder).glob("*.parquet"):
            segmented |= set(pq.read_table(path, columns=["lesion_id"])["lesion_id"].to_pylist())
    assert counts["lesions"] == len(segmented) + lost


# ---- runs ----------------------------------------------------------------------------------------------------------


def test_a_second_run_changes_nothing_and_builds_no_shard(demo: Path, tmp_path: Path) -> None:
    shutil.copytree(demo, tmp_path / "demo")
    before = digests(tmp_path / "demo" / "cohort" / "dataset")
    done = subprocess.run(
        [COMMAND, "demo", "-o", tmp_path / "demo", "--patients", "5", "--seed", "3"],
        capture_output=True,
        text=True,
        check=True,
    )
    assert "shards are already built" in done.stderr
    assert digests(tmp_path / "demo" / "cohort" / "dataset") == before


def test_one_process_makes_the_same_bytes_as_two(demo: Path, tmp_path: Path) -> None:
    hospital = demo / "hospital"
    config = BuildConfig(shard_mb=64, workers=1, pictures=0)
    build_cohort(
        hospital / "reports.csv",
        hospital / "pacs_export",
        out=tmp_path / "out",
        config=config,
        key=demo / "site.key",
        progress=False,
    )
    parquet = {k: v for k, v in digests(tmp_path / "out" / "dataset").items() if k.endswith(".parquet")}
    assert parquet
    assert parquet == {k: v for k, v in digests(demo / "cohort" / "dataset").items() if k.endswith(".parquet")}


def test_a_second_run_at_the_same_time_is_refused(tmp_path: Path) -> None:
    (tmp_path / "out" / "private").mkdir(parents=True)
    with FileLock(tmp_path / "out" / "private" / "lock"), pytest.raises(ConfigError, match="another run"):
        build_cohort([], tmp_path, out=tmp_path / "out", progress=False)


def kill_and_resume(demo: Path, out: Path, moments: Iterable[Callable[[float], bool]]) -> int:
    """Kill the demo with SIGKILL when each of ``moments`` (of the seconds since its start) says so, then let it finish.

    Returns how often it was still running then.
    """
    out.mkdir()
    shutil.copy(demo / "site.key", out / "site.key")
    command = [COMMAND, "demo", "-o", out, "--patients", "5", "--seed", "3", "-q"]
    killed = 0
    for is_time in moments:
        process = subprocess.Popen(command, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL)
        started = time.monotonic()
        while process.poll() is None and not is_time(time.monotonic() - started):
            time.sleep(0.02)
        killed += process.poll() is None
        process.send_signal(signal.SIGKILL)
        process.wait()
    done = subprocess.run(command, check=False, capture_output=True, text=True)
    assert done.returncode == 0, done.stderr
    return killed


def test_killed_and_started_again_it_ends_with_the_same_rows(demo: Path, tmp_path: Path) -> None:
    """Killed while the hospital is made, when the first shard is done, and when the dataset is there."""
    out = tmp_path / "out"
    states = (
        lambda _: any((out / ".hospital.tmp").rglob("*.npz")),
        lambda _: any((out / "cohort" / "private" / "shards").glob("*/done.json")),
        lambda _: (out / "cohort" / "dataset" / "manifest.json").exists(),
    )
    assert kill_and_resume(demo, out, states) == len(states)
    assert digests(out / "cohort" / "dataset") == digests(demo / "cohort" / "dataset")


@pytest.mark.slow
def test_killed_at_ten_random_moments_it_ends_with_the_same_rows(demo: Path, tmp_path: Path) -> None:
    clock = random.Random(0)
    moments = [clock.uniform(0.3, 20) for _ in range(10)]
    killed = kill_and_resume(demo, tmp_path / "out", (lambda now, at=at: now > at for at in moments))
    assert killed >= 3  # the later ones may come when everything is done
    assert digests(tmp_path / "out" / "cohort" / "dataset") == digests(demo / "cohort" / "dataset")
