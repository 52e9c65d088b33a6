"""Engines in the main job: every lesion answered once whatever the engine does, and rows that say what made them."""

from __future__ import annotations

import hashlib
import json
import logging
import os
import signal
import subprocess
import sys
import threading
import time
import weakref
from collections import Counter
from collections.abc import Callable, Iterable, Iterator
from dataclasses import replace
from itertools import islice
from pathlib import Path
from typing import Any

import dicom
import numpy as np
import pyarrow.parquet as pq
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from cohort_builder import BuildConfig, Cohort, ConfigError, SetupError, TooManySkips, build_cohort, open_cohort
from cohort_builder.cli import main
from cohort_builder.engines import answer_all, share_cores
from cohort_builder.progress import LesionCount, News, Progress
from nlp.types import Report
from segmentation import ENGINES, EngineError, load_segmenter
from segmentation.ellipsoid import EllipsoidSegmenter
from segmentation.tiers import EngineFit, KindFit, TierTable
from segmentation.types import Line, Mask, SegmentationFailure, SegmentationJob, Volume

SHA = "0" * 63 + "a"
Answer = Mask | SegmentationFailure


# ---- one answer for every lesion, whatever the engine does ---------------------------------------------------------


def volume(uid: str) -> Volume:
    return Volume(np.zeros((3, 24, 24), np.int16), np.diag([2.0, 1.0, 1.0, 1.0]), "1.2", uid, ("1", "2", "3"))


def stream(volumes: int, lesions: int, opened: list[weakref.ref[Any]] | None = None) -> Iterator[SegmentationJob]:
    """Jobs of several volumes, each loaded when its first job is asked for, as the main job does."""
    for v in range(volumes):
        loaded = volume(f"{v}")
        if opened is not None:
            opened.append(weakref.ref(loaded.voxels))
        for i in range(lesions):
            yield SegmentationJob(f"{v}/{i}", loaded, (Line(1, (6.0, 8.0), (14.0, 8.0)),))


def masks(jobs: Iterable[SegmentationJob]) -> Iterator[Answer]:
    return EllipsoidSegmenter().segment(jobs)


class Activations:
    """What a forward pass holds on the device."""


class Wavefront:
    """As the engines with a network work: lesions of several volumes advance as one batch, and end in any order.

    The calls of ``short_of_memory`` (counted from 0) raise as torch does where a batch does not fit.
    """

    name, revision, weights_sha256 = "wavefront", "1", SHA
    supports = frozenset({Line})

    def __init__(self, batch: int = 4, short_of_memory: Iterable[int] = (), reverse: bool = True) -> None:
        self.batch, self.short, self.reverse, self.calls = batch, frozenset(short_of_memory), reverse, 0
        self.held: list[weakref.ref[Activations]] = []

    def segment(self, jobs: Iterable[SegmentationJob]) -> Iterator[Answer]:
        source, rows = iter(jobs), list[SegmentationJob]()
        while True:
            rows += islice(source, self.batch - len(rows))
            if not rows:
                return
            activations = Activations()
            self.held.append(weakref.ref(activations))
            self._forward()
            ended = rows[1::2] or rows  # the others go on for some more slices
            rows = [row for row in rows if row not in ended]
            yield from masks(reversed(ended) if self.reverse else ended)

    def _forward(self) -> None:
        self.calls += 1
        if self.calls - 1 in self.short:
            import torch

            raise torch.OutOfMemoryError("CUDA out of memory. Tried to allocate 2.00 GiB")


def names(answers: Iterable[Answer]) -> list[str]:
    return sorted(answer.job_id for answer in answers)


EVERY = [f"{v}/{i}" for v in range(5) for i in range(3)]


@settings(max_examples=40)
@given(st.integers(1, 9), st.sets(st.integers(0, 30), max_size=12), st.booleans())
def test_a_batch_that_does_not_fit_costs_no_lesion_its_answer(batch: int, short: set[int], reverse: bool) -> None:
    answers = list(answer_all(Wavefront(batch, short, reverse=reverse), stream(5, 3)))
    assert names(answers) == EVERY
    assert len([answer for answer in answers if isinstance(answer, SegmentationFailure)]) <= len(short)


def test_one_batch_out_of_memory_costs_a_retry_and_nothing_else() -> None:
    answers = list(answer_all(Wavefront(4, {2}), stream(5, 3)))
    assert names(answers) == EVERY
    assert all(isinstance(answer, Mask) for answer in answers)


def test_an_engine_that_always_fails_comes_to_an_end() -> None:
    engine = Wavefront(4, range(1000))
    answers = list(answer_all(engine, stream(5, 3)))
    assert names(answers) == EVERY
    assert {(a.reason, a.detail) for a in answers if isinstance(a, SegmentationFailure)} == {
        ("engine_failed", "the engine failed with OutOfMemoryError")
    }
    assert engine.calls <= 2 * len(EVERY)


def test_nothing_of_a_failed_batch_is_kept_while_its_lesions_are_given_again() -> None:
    """Its frames hold the tensors that did not fit: kept, they would not fit again."""
    kept: list[int] = []

    class Watched(Wavefront):
        def _forward(self) -> None:
            kept.append(sum(ref() is not None for ref in self.held[:-1]))
            super()._forward()

    opened: list[weakref.ref[Any]] = []
    answers = answer_all(Watched(3, {0, 3}), stream(12, 3, opened))
    alive = [sum(ref() is not None for ref in opened) for _answer in answers]
    assert max(kept) == 0
    assert max(alive) <= 3  # those in the batch, and the one that the next job is on
    assert len(opened) == 12


class InAThread:
    """Pulls its jobs ahead in a thread of its own, as an engine does that loads while the device works."""

    name, revision = "ahead", "1"
    supports = frozenset({Line})

    def __init__(self, ahead: int = 4, fails_at: int | None = None, keeps_pulling: bool = False) -> None:
        self.ahead, self.fails_at, self.keeps_pulling = ahead, fails_at, keeps_pulling
        self.pulled_by: set[int] = set()
        self.last: threading.Thread | None = None

    def segment(self, jobs: Iterable[SegmentationJob]) -> Iterator[Answer]:
        found: list[SegmentationJob] = []
        room, there = threading.Semaphore(self.ahead), threading.Semaphore(0)

        def pull() -> None:
            for job in jobs:
                self.pulled_by.add(threading.get_ident())
                found.append(job)
                there.release()
                room.acquire()
            there.release()

        thread = threading.Thread(target=pull, daemon=True)
        thread.start()
        number = 0
        while there.acquire() and found:
            if number == self.fails_at:
                self.fails_at = None
                if self.keeps_pulling:  # it does not stop its thread: it pulls on while the next call works
                    room.release(100)
                raise MemoryError
            yield from masks([found.pop(0)])
            number += 1
            room.release()
        thread.join()

    def __getstate__(self) -> dict[str, Any]:
        return {"ahead": self.ahead, "fails_at": self.fails_at, "keeps_pulling": self.keeps_pulling}


@pytest.mark.parametrize("ahead", [1, 4, 100])
@pytest.mark.parametrize("keeps_pulling", [False, True])
@pytest.mark.parametrize("fails_at", [None, 0, 5])
def test_jobs_may_be_pulled_in_another_thread(ahead: int, fails_at: int | None, keeps_pulling: bool) -> None:
    answers = list(answer_all(InAThread(ahead, fails_at, keeps_pulling), stream(5, 3)))
    assert names(answers) == EVERY
    assert all(isinstance(answer, Mask) for answer in answers)


def test_two_threads_that_pull_at_once_get_every_job_once() -> None:
    class Two(Wavefront):
        def segment(self, jobs: Iterable[SegmentationJob]) -> Iterator[Answer]:
            found: list[list[SegmentationJob]] = [[], []]
            threads = [threading.Thread(target=part.extend, args=(jobs,)) for part in found]
            for thread in threads:
                thread.start()
            for thread in threads:
                thread.join()
            yield from masks(found[0] + found[1])

    assert names(answer_all(Two(), stream(50, 3))) == sorted(f"{v}/{i}" for v in range(50) for i in range(3))


def test_a_lesion_that_the_engine_does_not_take_again_still_gets_its_answer() -> None:
    class Sulks(Wavefront):
        def segment(self, jobs: Iterable[SegmentationJob]) -> Iterator[Answer]:
            self.calls += 1
            if self.calls == 1:
                list(islice(jobs, 2))
                raise RuntimeError
            return iter(())

    answers = list(answer_all(Sulks(), stream(1, 3)))
    assert names(answers) == ["0/0", "0/1", "0/2"]
    assert Counter(a.reason for a in answers if isinstance(a, SegmentationFailure)) == {
        "engine_failed": 2,
        "no_answer": 1,
    }


def test_what_an_engine_lacks_ends_the_run_in_its_own_words() -> None:
    class Lost(Wavefront):
        def _forward(self) -> None:
            super()._forward()
            if self.calls == 3:
                raise EngineError("the device cuda:1 is gone; use device='cpu'")

    with pytest.raises(SetupError, match=r"^the device cuda:1 is gone; use device='cpu'$"):
        list(answer_all(Lost(2), stream(5, 3)))


def test_worker_processes_share_the_cores(monkeypatch: pytest.MonkeyPatch) -> None:
    import torch

    before, cores = torch.get_num_threads(), len(os.sched_getaffinity(0))
    try:
        torch.set_num_threads(4 * cores)
        share_cores(1)
        assert torch.get_num_threads() == 4 * cores
        share_cores(2)
        assert torch.get_num_threads() == max(1, cores // 2)
        share_cores(cores * 3)
        assert torch.get_num_threads() == 1
        monkeypatch.delattr(os, "sched_getaffinity")  # macOS
        share_cores(2)
    finally:
        torch.set_num_threads(before)


# ---- in a build ----------------------------------------------------------------------------------------------------

PATIENTS, STROKES = 5, ((60.0, 30.0), (90.0, 70.0))
LESIONS = PATIENTS * len(STROKES)


class Site:
    """Patients in several shards, with as many lesions each as ``strokes``."""

    def __init__(
        self, root: Path, patients: int = PATIENTS, strokes: tuple[tuple[float, float], ...] = STROKES
    ) -> None:
        self.root, self.reports = root, list[Report]()
        (root / "key").write_bytes(b"\x11" * 32)  # four shards, each split among them
        (root / "key").chmod(0o600)
        for i in range(patients):
            study = dicom.StudyInfo(
                dicom.Patient(f"Fall^{i}", f"4455{i}"), accession_number=f"ACC{i}", study_id=f"S{i}"
            )
            images = dicom.ct_series(study=study, shape=(256, 256), n=5)
            drawn = [dicom.line((x, y), (x + 9.0 + 3 * k, y)) for k, (x, y) in enumerate(strokes)]
            state = dicom.gsps([dicom.on(images[2 + k], stroke) for k, stroke in enumerate(drawn)], images=images)
            dicom.write(images, root / "pacs" / f"ct{i}")
            dicom.write([state], root / "pacs" / f"pr{i}")
            text = "FINDINGS: A 6 mm nodule (image 3) and an 8 mm nodule (image 4)."
            self.reports.append(Report(f"r{i}", text, accession_numbers=(study.accession_number,)))

    def build(self, out: Path, *, workers: int = 1, options: dict[str, Any] | None = None, **arguments: Any) -> Cohort:
        config = BuildConfig(
            pictures=0, min_tier="C", shard_mb=1, workers=workers, engine_options=options or {}, max_skip_fraction=0.9
        )
        return build_cohort(
            self.reports, self.root / "pacs", out=out, config=config, key=self.root / "key",
            **{"progress": False, **arguments},
        )  # fmt: skip


@pytest.fixture(scope="module")
def site(tmp_path_factory: pytest.TempPathFactory) -> Site:
    return Site(tmp_path_factory.mktemp("site"))


@pytest.fixture(scope="module")
def tiny(tmp_path_factory: pytest.TempPathFactory) -> Site:
    """For what must be built often: two lesions in two shards."""
    return Site(tmp_path_factory.mktemp("tiny"), 2, STROKES[:1])


def rows(cohort: Cohort) -> list[dict[str, Any]]:
    folders = [cohort.dataset_path / "data" / name for name in ("findings", "unlinked")]
    return [
        row
        for folder in folders
        for path in sorted(folder.glob("*.parquet"))
        for row in pq.read_table(path).to_pylist()
    ]


def parquet(cohort: Cohort) -> dict[str, str]:
    """Digest of every file with rows."""
    files = sorted(cohort.dataset_path.rglob("*.parquet"))
    return {str(p.relative_to(cohort.dataset_path)): hashlib.sha256(p.read_bytes()).hexdigest() for p in files}


def shards(out: Path) -> dict[str, int]:
    """Finished shards, each with a number that changes when it is built again."""
    return {path.parent.name: path.stat().st_ino for path in (out / "private" / "shards").glob("[!.]*/done.json")}


@pytest.fixture(scope="module")
def reference(site: Site) -> Cohort:
    """Built in one go, one lesion after the other."""
    cohort = site.build(site.root / "reference", segmenter=Wavefront(1, reverse=False))
    assert len(rows(cohort)) == LESIONS
    assert len(shards(cohort.path)) >= 3
    return cohort


def test_the_row_names_the_prompt_and_the_weights(tiny: Site, tmp_path: Path) -> None:
    cohort = tiny.build(tmp_path / "out", segmenter=Telling("line as box", SHA))
    assert {tuple(row["engine"].values()) for row in rows(cohort)} == {("ellipsoid", "1", SHA, "line as box")}


@pytest.mark.parametrize(
    ("prompt", "sha256"), [("", None), ("Fall^1, 44551", "/home/erika/sam2ct.pt"), ("line\nas box", SHA.upper())]
)
def test_what_an_engine_should_not_say_is_not_published(
    tiny: Site, tmp_path: Path, prompt: str, sha256: str | None
) -> None:
    cohort = tiny.build(tmp_path / "out", segmenter=Telling(prompt, sha256))
    assert {tuple(row["engine"].values()) for row in rows(cohort)} == {("ellipsoid", "1", None, "LINE")}


class Telling(EllipsoidSegmenter):
    """Says of each mask how it was prompted, and with which weights."""

    def __init__(self, prompt: str, sha256: str | None) -> None:
        super().__init__()
        self.prompt, self.weights_sha256 = prompt, sha256

    def segment(self, jobs: Iterable[SegmentationJob]) -> Iterator[Answer]:
        for answer in super().segment(jobs):
            assert isinstance(answer, Mask)
            yield replace(answer, prompt=self.prompt, weights_sha256=self.weights_sha256)


class Wordy(EllipsoidSegmenter):
    """Fails with reasons of this library and words of its own, until it is mended."""

    def __init__(self, *reasons: str) -> None:
        super().__init__()
        self.reasons = list(reasons)

    def segment(self, jobs: Iterable[SegmentationJob]) -> Iterator[Answer]:
        for job in jobs:
            failed = [SegmentationFailure(job.job_id, reason, f"/home/erika/{job.job_id}") for reason in self.reasons]
            yield from failed or super().segment([job])


@pytest.mark.parametrize("reason", ["engine_failed", "out_of_memory"])
def test_what_a_foreign_engine_says_stays_private_and_its_fault_is_tried_again(
    tiny: Site, tmp_path: Path, reason: str
) -> None:
    engine = Wordy(reason)
    with pytest.raises(TooManySkips):
        tiny.build(tmp_path / "out", segmenter=engine)
    private = (tmp_path / "out" / "private" / "skips.jsonl").read_text().splitlines()
    skips = [row for row in map(json.loads, private) if row["stage"] == "segmentation"]
    assert [row["reason"] for row in skips] == [reason, reason]
    assert all(row["failure"] and "erika" not in row["detail"] and "erika" in row["private"]["said"] for row in skips)
    engine.reasons.clear()
    assert len(rows(tiny.build(tmp_path / "out", segmenter=engine))) == 2


@pytest.mark.parametrize(
    "engine",
    [Wavefront(7), Wavefront(5, {1}), InAThread(4), InAThread(2, fails_at=1, keeps_pulling=True)],
    ids=["batches", "out of memory", "a thread", "a thread and out of memory"],
)
def test_rows_do_not_depend_on_how_the_engine_works(site: Site, reference: Cohort, tmp_path: Path, engine: Any) -> None:
    cohort = site.build(tmp_path / "out", segmenter=engine)
    assert parquet(cohort) == parquet(reference)
    assert cohort.skipped == reference.skipped
    if isinstance(engine, InAThread):
        assert threading.get_ident() not in engine.pulled_by


def test_an_engine_that_cannot_go_on_ends_the_run_and_the_next_one_continues(
    site: Site, reference: Cohort, tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    out = tmp_path / "out"
    with pytest.raises(SetupError, match="the device is gone"):
        site.build(out, segmenter=Dying(LESIONS - 1))
    kept = shards(out)
    assert 0 < len(kept) < len(shards(reference.path))
    assert json.loads((out / "run.json").read_text())["status"] == "failed: SetupError"
    markers = (out / "private" / "shards").glob("*/done.json")
    finished = sum(json.loads(path.read_text())["counts"]["lesions"] for path in markers)
    caplog.clear()
    with caplog.at_level(logging.INFO, logger="cohort_builder"):
        resumed = site.build(out, segmenter=Dying(None))
    assert {name: inode for name, inode in shards(out).items() if name in kept} == kept
    assert parquet(resumed) == parquet(reference)
    done = [int(line.split()[3]) for line in said(caplog)]
    assert done == list(range(finished + 1, LESIONS + 1)), "lesions of finished shards count as done"


class Dying(Wavefront):
    """A device that is gone after so many lesions; ``_left`` is no option and not in the fingerprint."""

    def __init__(self, lives: int | None) -> None:
        super().__init__(1, reverse=False)
        self._left = [lives]

    def segment(self, jobs: Iterable[SegmentationJob]) -> Iterator[Answer]:
        for job in jobs:
            if self._left[0] is not None:
                self._left[0] -= 1
                if self._left[0] < 0:
                    raise EngineError("the device is gone")
            yield from masks([job])


# ---- progress ------------------------------------------------------------------------------------------------------


def said(caplog: pytest.LogCaptureFixture) -> list[str]:
    return [line for line in caplog.messages if line.startswith("lesions and links: ")]


def test_progress_of_several_processes_counts_lesions_to_the_last_one(demo: Path) -> None:
    lesions = open_cohort(demo / "cohort").run["counts"]["lesions"]
    told = [line for line in (demo / "cohort" / "log.txt").read_text().splitlines() if "lesions and links: " in line]
    assert f"lesions and links: {lesions} of {lesions} lesions, " in told[-1]
    assert all(line.endswith(" a second") for line in told)


@settings(max_examples=30)
@given(st.lists(st.tuples(st.integers(0, 9), st.integers(0, 9)), min_size=1, max_size=8), st.data())
def test_the_total_is_exact_once_all_patients_are_read(found: list[tuple[int, int]], data: st.DataObject) -> None:
    """``found``: lesions of each patient with and without a volume; some patients are of finished shards."""
    finished = data.draw(st.integers(0, len(found)))
    before = sum(a + b for a, b in found[:finished])
    with Progress(show=False).stage("lesions", before=before) as stage:
        count = LesionCount(stage, finished, len(found) - finished)
        for on_volume, without in found[finished:]:
            count.hear(News(patients=1, lesions=on_volume + without, done=without))
            assert stage.total is not None
            assert stage.done <= stage.total
            for _ in range(on_volume):
                count.hear(News(done=1))
        assert (stage.done, stage.total, stage.exact) == (sum(map(sum, found)), sum(map(sum, found)), True)


# ---- which engine: weights, device, options ------------------------------------------------------------------------


class Loader:
    """Stands for ``segmentation.load_segmenter``: an engine with weights that are found in a folder where none given."""

    def __init__(self, home: Path) -> None:
        self.home, self.calls = home, list[tuple[str | None, str | None, dict[str, Any]]]()

    def __call__(self, name: str, weights: str | None = None, device: str | None = None, **options: Any) -> Wavefront:
        self.calls.append((weights, device, options))
        path = self.home if weights is None else Path(weights)
        path = path / "sam2ct.pt" if path.is_dir() else path
        if not path.is_file():
            raise EngineError(f"the weights {path.name} are missing; put them into the folder COHORT_WEIGHTS names")
        if set(options) - {"roi", "hu_clip"}:
            raise ValueError(f"{name} takes the options hu_clip, roi")
        if options.get("hu_clip") == [0, 1]:
            raise ValueError("a list is no tuple")
        engine = Wavefront(4)
        engine.weights_sha256 = hashlib.sha256(path.read_bytes()).hexdigest()
        return engine


@pytest.fixture
def weighty(tiny: Site, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Callable[..., set[str]]:
    """Build with the engine ``sam2ct`` of `Loader`; returns the shards that were built in this call."""
    (tmp_path / "home").mkdir()
    (tmp_path / "home" / "sam2ct.pt").write_bytes(b"first")
    loader = Loader(tmp_path / "home")
    monkeypatch.setattr("cohort_builder.engines.load_segmenter", loader)

    def build(**arguments: Any) -> set[str]:
        before = shards(tmp_path / "out")
        tiny.build(tmp_path / "out", **{"segmenter": "sam2ct", **arguments})
        return {name for name, inode in shards(tmp_path / "out").items() if before.get(name) != inode}

    build.loader = loader  # type: ignore[attr-defined]
    return build


def test_the_weights_decide_about_the_shards_and_their_place_does_not(
    weighty: Callable[..., set[str]], tmp_path: Path
) -> None:
    home, elsewhere = tmp_path / "home" / "sam2ct.pt", tmp_path / "moved.pt"
    every = weighty(weights=home)
    assert len(every) == 2
    os.utime(home, (1, 1))
    elsewhere.write_bytes(home.read_bytes())
    assert [weighty(weights=w) for w in (home, elsewhere, str(home), tmp_path / "home", None)] == [set()] * 5
    elsewhere.write_bytes(b"other")
    assert weighty(weights=elsewhere) == every
    home.write_bytes(b"third")
    assert weighty() == every, "found by the engine itself"
    home.write_bytes(b"first")
    assert weighty(weights=home) == every


def test_options_of_the_engine_decide_about_the_shards(weighty: Callable[..., set[str]]) -> None:
    every = weighty()
    assert weighty(options={"roi": "auto"}) == every
    assert weighty(options={"roi": "auto"}) == set()
    assert weighty(options={"roi": "full"}) == every


def test_device_and_options_reach_the_engine(weighty: Callable[..., set[str]], tmp_path: Path) -> None:
    weighty(weights=tmp_path / "home", device="cuda:1", options={"hu_clip": [-160, 240], "roi": "auto"})
    expected = (str(tmp_path / "home"), "cuda:1", {"hu_clip": (-160, 240), "roi": "auto"})
    assert weighty.loader.calls == [expected]  # type: ignore[attr-defined]


def test_missing_weights_are_told_at_the_call(weighty: Callable[..., set[str]], tmp_path: Path) -> None:
    with pytest.raises(SetupError, match=r"the weights nowhere\.pt are missing; put them into the folder COHORT_W"):
        weighty(weights=tmp_path / "nowhere.pt")
    assert not (tmp_path / "out" / "run.json").exists()


def test_a_wrong_option_is_told_at_the_call(weighty: Callable[..., set[str]]) -> None:
    with pytest.raises(ConfigError, match="sam2ct takes the options hu_clip, roi"):
        weighty(options={"rio": "auto"})
    with pytest.raises(ConfigError, match=r"an argument of its own: device, weights"):
        weighty(options={"weights": "x.pt", "device": "cpu"})


@pytest.mark.parametrize("arguments", [{"weights": "x.pt"}, {"options": {"roi": "auto"}}])
def test_an_object_brings_its_own_weights_and_options(tiny: Site, tmp_path: Path, arguments: dict[str, Any]) -> None:
    with pytest.raises(ConfigError, match="go with the name of an engine"):
        tiny.build(tmp_path / "out", segmenter=Wavefront(), **arguments)


@pytest.mark.parametrize("value", [None, {"a": 1}, [None], b"x"])
def test_options_are_plain_values(value: object) -> None:
    with pytest.raises(ConfigError, match=r"engine_options\.roi must be a number, a text"):
        BuildConfig(engine_options={"roi": value})


@pytest.fixture
def command(tmp_path: Path) -> Callable[..., list[str]]:
    """Arguments of `cohort build` for a site."""

    def arguments(site: Site, out: Path, *more: object, options: str = "") -> list[str]:
        reports, toml = tmp_path / "reports.csv", tmp_path / "cohort.toml"
        lines = [f"{r.report_id},{r.text},{r.accession_numbers[0]}\n" for r in site.reports]
        reports.write_text("report_id,text,accession_number\n" + "".join(lines))
        toml.write_text(
            f"pictures = 0\nshard_mb = 1\nmin_tier = 'C'\nmax_skip_fraction = 0.9\n[engine_options]\n{options}\n"
        )
        given = [
            "build",
            reports,
            site.root / "pacs",
            "-o",
            out,
            "-q",
            "--key",
            site.root / "key",
            "--config",
            toml,
            *more,
        ]
        return [str(argument) for argument in given]

    return arguments


def test_options_come_from_the_configuration_and_the_command_line(
    tiny: Site, command: Callable[..., list[str]], tmp_path: Path
) -> None:
    ellipsoid = command(tiny, tmp_path / "out", "--engine", "ellipsoid", options="assumed_diameter_mm = 12.5")
    assert main(ellipsoid) == 0
    assert open_cohort(tmp_path / "out").run["config"]["engine_options"] == {"assumed_diameter_mm": 12.5}
    assert main([*ellipsoid, "--engine-option", "assumed_diameter_mm=21"]) == 0
    run = open_cohort(tmp_path / "out").run
    assert (run["config"]["engine"], run["config"]["engine_options"]) == ("ellipsoid", {"assumed_diameter_mm": 21})
    assert main([*ellipsoid, "--engine-option", "nonsense=1"]) == 2


@pytest.mark.parametrize("text", ["roi", "=auto", ""])
def test_an_option_without_a_name_or_value_is_refused(text: str, capsys: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(SystemExit) as stop:
        main(["build", "r.csv", "pacs", "-o", "out", "--engine-option", text])
    assert stop.value.code == 2
    assert "must be NAME=VALUE" in capsys.readouterr().err


def test_the_help_lists_the_engines(capsys: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(SystemExit):
        main(["build", "--help"])
    text = capsys.readouterr().out
    assert {name for name in ENGINES if name not in text} == set()
    assert "--engine sam2ct --weights" in text


# ---- the real engine -----------------------------------------------------------------------------------------------


@pytest.fixture(scope="module")
def nano(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Random weights of the smallest model, chosen to see an object at most prompts."""
    from segmentation.sam2ct.config import NANO
    from segmentation.sam2ct.model import build_model
    from segmentation.sam2ct.weights import save_weights

    folder = tmp_path_factory.mktemp("nano")
    for seed in range(20):
        path = save_weights(build_model(NANO, seed=seed), folder / f"{seed}.safetensors")
        if any(isinstance(answer, Mask) for answer in load_segmenter("sam2ct", weights=path).segment(stream(1, 1))):
            return path
    raise RuntimeError("no seed gives a model that sees something")


def test_sam2ct_killed_and_started_again_ends_with_the_same_rows(
    site: Site, nano: Path, command: Callable[..., list[str]], tmp_path: Path
) -> None:
    options = ("--engine", "sam2ct", "--weights", nano, "--device", "cpu", "--engine-option", "guards=false")
    assert main(command(site, tmp_path / "whole", *options)) == 0
    whole = open_cohort(tmp_path / "whole")
    made = rows(whole)
    assert len(made) + len(whole.skipped) == LESIONS
    assert made
    sha256 = hashlib.sha256(nano.read_bytes()).hexdigest()
    assert {(row["engine"]["name"], row["engine"]["weights_sha256"]) for row in made} == {("sam2ct", sha256)}

    again = command(site, tmp_path / "killed", *options)
    process = subprocess.Popen([Path(sys.executable).with_name("cohort"), *again], stderr=subprocess.DEVNULL)
    while process.poll() is None and not shards(tmp_path / "killed"):
        time.sleep(0.01)
    process.send_signal(signal.SIGKILL)
    assert process.wait() == -signal.SIGKILL, "it was over before it could be killed"
    kept = shards(tmp_path / "killed")
    assert main(again) == 0
    assert {name: inode for name, inode in shards(tmp_path / "killed").items() if name in kept} == kept
    assert parquet(open_cohort(tmp_path / "killed")) == parquet(whole)


def test_sam2ct_without_weights_says_what_to_do(
    tiny: Site, command: Callable[..., list[str]], tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    missing = tmp_path / "nowhere" / "sam2ct.pt"
    assert main(command(tiny, tmp_path / "out", "--engine", "sam2ct", "--weights", missing)) == 1
    told = capsys.readouterr().err
    assert "COHORT_WEIGHTS" in told
    assert str(tmp_path) not in told
    assert main(command(tiny, tmp_path / "out", "--engine", "sam2ct", "--engine-option", "rio=auto")) != 0


def test_own_tiers_judge_the_masks_and_rebuild_them(tiny: Site, tmp_path: Path) -> None:
    revision = load_segmenter("classical").revision
    even = KindFit(bias=0.0, weights={}, accept=None, figures={})
    own = TierTable((EngineFit("classical", revision, {"line": even}, "by hand"),))
    (tmp_path / "tiers.json").write_text(own.to_json())
    for tiers, all_even in ((None, False), (str(tmp_path / "tiers.json"), True)):
        config = BuildConfig(pictures=0, min_tier="C", shard_mb=1, tiers=tiers)
        cohort = build_cohort(
            tiny.reports, tiny.root / "pacs", out=tmp_path / "out", config=config, key=tiny.root / "key", progress=False
        )
        assert ({row["quality"]["score"] for row in rows(cohort)} == {0.5}) == all_even
