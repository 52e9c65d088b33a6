"""How long a build would take here and how much it would write: a few patients are built and thrown away.

The model is linear. What was timed in this inspection anyway (index, reports, drawings and links) is taken as it was;
reading of CT goes by bytes; segmentation, and checking and writing, go by lesions.
"""

from __future__ import annotations

import secrets
from collections.abc import Iterable, Iterator, Sequence
from contextlib import closing
from dataclasses import dataclass, replace
from pathlib import Path
from time import perf_counter
from typing import TYPE_CHECKING

from cohort_builder.errors import CohortError
from cohort_builder.inspect.inspection import Estimate, Part
from cohort_builder.inspect.tally import Tally, under
from cohort_builder.pacs.index import open_index
from cohort_builder.patient import read_patient
from cohort_builder.privacy.pseudonyms import KEY_BYTES, Key
from cohort_builder.scope.store import ReportStore
from cohort_builder.shards import ShardPlan, counts_of
from cohort_builder.worker import ShardTask, build_shard
from segmentation.types import Mask, Prompt, SegmentationFailure, SegmentationJob

if TYPE_CHECKING:
    from cohort_builder.cases.sieve import Sieve
    from cohort_builder.config import BuildConfig
    from cohort_builder.engines import Engines
    from segmentation.types import Segmenter

_MOST_PATIENTS, _MOST_SECONDS = 8, 20.0
_FEW_LESIONS = 10
_WIDE, _NARROW = 3.0, 2.0
_PICTURE_SECONDS, _REVIEW_SECONDS = 0.4, 0.18  # measured on one core of a shared 2-core machine
_DRAWINGS, _READING, _SEGMENTING, _WRITING = (
    "drawings and links", "reading CT", "segmentation", "checks and writing",
)  # fmt: skip
_SHARED = frozenset({_DRAWINGS, _READING, _SEGMENTING, _WRITING})
"""Parts that the workers share."""
_ROI_SHARE = (0.2, 0.8)  # of its raw bytes, where nothing was written to measure it
_VOLUME_SHARE = (0.3, 0.6)
_SPREAD = 1.5


@dataclass(frozen=True, slots=True)
class Trial:
    """What a few patients cost: bytes of CT, lesions, seconds by part, and bytes written."""

    patients: int = 0
    lesions: int = 0
    read_seconds: float = 0.0
    engine_seconds: float = 0.0
    write_seconds: float = 0.0
    ct_bytes: int = 0
    lesion_bytes: int = 0
    volume_bytes: int = 0
    volume_source_bytes: int = 0

    def __add__(self, other: Trial) -> Trial:
        return Trial(*(getattr(self, name) + getattr(other, name) for name in self.__slots__))


class _Timed:
    """A segmenter that knows how long it worked and how long it waited for its jobs, and ends at a ``deadline``."""

    def __init__(self, engine: Segmenter, deadline: float) -> None:
        self.name, self._engine, self._deadline = engine.name, engine, deadline
        self.waited = self.worked = 0.0
        self.ct_bytes = self.lesions = 0
        self._volume: object = None

    @property
    def supports(self) -> frozenset[type[Prompt]]:
        return self._engine.supports

    def segment(self, jobs: Iterable[SegmentationJob]) -> Iterator[Mask | SegmentationFailure]:
        """Segment as the engine does."""
        before = self.waited
        answers = iter(self._engine.segment(self._pulled(jobs)))
        while True:
            started = perf_counter()
            answer = next(answers, None)
            self.worked += perf_counter() - started
            if answer is None:
                break
            yield answer
        self.worked -= self.waited - before

    def _pulled(self, jobs: Iterable[SegmentationJob]) -> Iterator[SegmentationJob]:
        waiting = iter(jobs)
        while not self.lesions or perf_counter() < self._deadline:
            started = perf_counter()
            job = next(waiting, None)
            self.waited += perf_counter() - started
            if job is None:
                return
            if job.volume is not self._volume:
                self._volume = job.volume
                self.ct_bytes += job.volume.voxels.nbytes
            self.lesions += 1
            yield job


def try_build(
    patient_keys: Sequence[str],
    engine: Segmenter,
    engines: Engines,
    config: BuildConfig,
    sieve: Sieve,
    *,
    index_path: Path,
    reports_path: Path,
) -> Trial:
    """Build a few patients one by one, for up to twenty seconds, in the folder of the reports, which is temporary.

    Raises
    ------
    CohortError
        The engine lacks what it needs.

    """
    folder = reports_path.parent / "trial"
    folder.mkdir(mode=0o700)
    key = Key(secrets.token_bytes(KEY_BYTES))
    config = replace(config, workers=1)

    def build(number: int, patient_key: str, deadline: float) -> Trial:
        timed = _Timed(engine, deadline)
        task = ShardTask(
            plan=ShardPlan("train", number, _MOST_PATIENTS + 1, (patient_key,), "trial"),
            shards_dir=folder,
            index_path=index_path,
            reports_path=reports_path,
            key=key,
            config=config,
            software="trial",
            engines=replace(engines, segmenter=timed, options={}, weights=None, weights_sha256=None),
            sieve=sieve,
        )
        return _timed_build(task, timed, _seconds_to_read(patient_key, task))

    for first in patient_keys[:1]:
        build(0, first, deadline=0.0)  # one lesion, to load whatever is loaded once
    total, deadline = Trial(), perf_counter() + _MOST_SECONDS
    for number, patient_key in enumerate(patient_keys[:_MOST_PATIENTS], 1):
        if perf_counter() > deadline:
            break
        total += build(number, patient_key, deadline)
    return total


def _seconds_to_read(patient_key: str, task: ShardTask) -> float:
    """How long the drawings and reports of a patient take, which the build reads before its CT."""
    extractor, locator = task.engines.load_extractor(), task.engines.load_locator()
    with closing(open_index(task.index_path)) as whole, closing(ReportStore.open(task.reports_path)) as reports:
        index, started = task.sieve.over(whole), perf_counter()
        said, origin = reports.of_patient(patient_key), task.config.pixel_origin
        read_patient(patient_key, index, said, extractor, task.config.link, locator=locator, pixel_origin=origin)
        return perf_counter() - started


def _timed_build(task: ShardTask, timed: _Timed, reading: float) -> Trial:
    started = perf_counter()
    build_shard(task, lambda _news: None)
    seconds = perf_counter() - started
    shard = task.shards_dir / task.plan.name
    volume_bytes = _bytes_in(shard / "volumes")
    published = counts_of(task.shards_dir, task.plan).get("volumes", 0)
    return Trial(
        patients=1,
        lesions=timed.lesions,
        read_seconds=max(0.0, timed.waited - reading),
        engine_seconds=max(0.0, timed.worked),
        write_seconds=max(0.0, seconds - timed.waited - timed.worked),
        ct_bytes=timed.ct_bytes,
        lesion_bytes=_bytes_in(shard) - volume_bytes,
        volume_bytes=volume_bytes,
        volume_source_bytes=timed.ct_bytes if published else 0,
    )


def _bytes_in(folder: Path) -> int:
    return sum(path.stat().st_size for path in folder.rglob("*") if path.is_file())


@dataclass(frozen=True, slots=True)
class Measured:
    """What the inspection itself timed and wrote: seconds by stage, files, reports, and bytes of what a build keeps."""

    index_seconds: float
    files: int
    reports_seconds: float
    reports: int
    private_bytes: int


def estimate_build(
    tally: Tally, measured: Measured, trial: Trial | CohortError, config: BuildConfig, *, engine: str, scale: float
) -> Estimate:
    """Put together what was measured. ``scale`` is patients of the export by patients read."""
    tried = Trial() if isinstance(trial, CohortError) else trial
    parts = (
        *_timed_parts(tally, measured, scale),
        *_tried_parts(tally, tried, scale),
        *_drawn_parts(tally, config, scale),
    )
    known = bool(tried.lesions) or not tally["plan", "lesions"]
    return Estimate(
        engine=engine,
        workers=config.workers,
        tried=tried.lesions,
        parts=parts,
        seconds=_range(_wall(parts, config.workers), _factor(tried)) if known else None,
        disk_bytes=_disk(tally, tried, measured, scale),
        assumptions=_assumptions(config, tried, scale),
        not_tried=str(trial) if isinstance(trial, CohortError) else None,
    )


def _timed_parts(tally: Tally, measured: Measured, scale: float) -> Iterator[Part]:
    basis = "timed in this inspection"
    read = tally["patients", "drawn_or_reported"]
    for name, amount, seconds in (
        ("index", measured.files, measured.index_seconds),
        ("reports", measured.reports, measured.reports_seconds),
    ):
        unit = "files" if name == "index" else name
        yield Part(name, amount, unit, _rate(amount, seconds), seconds, basis)
    rate = _rate(read, tally["time", "microseconds"] / 1e6)
    yield _part(_DRAWINGS, scale * read, "patients", rate, basis)


def _tried_parts(tally: Tally, tried: Trial, scale: float) -> Iterator[Part]:
    if not tried.lesions:
        return
    basis = f"tried on {tried.patients} patients with {tried.lesions} lesions"
    lesions, megabytes = scale * tally["plan", "lesions"], scale * tally["plan", "bytes"] / 1e6
    yield _part(_READING, megabytes, "MB", _rate(tried.ct_bytes / 1e6, tried.read_seconds), basis)
    yield _part(_SEGMENTING, lesions, "lesions", _rate(tried.lesions, tried.engine_seconds), basis)
    yield _part(_WRITING, lesions, "lesions", _rate(tried.lesions, tried.write_seconds), basis)


def _drawn_parts(tally: Tally, config: BuildConfig, scale: float) -> Iterator[Part]:
    basis = "a figure of the authors' machine"
    offered = scale * sum(under(tally, "probabilities").values())
    pictures = min(config.pictures, scale * tally["plan", "lesions"])
    yield _part("pictures", pictures, "pictures", 1 / _PICTURE_SECONDS, basis)
    yield _part("pictures to review", min(config.review, offered), "pictures", 1 / _REVIEW_SECONDS, basis)


def _part(name: str, amount: float, unit: str, rate: float | None, basis: str) -> Part:
    return Part(name, amount, unit, rate, amount / rate if rate else 0.0, basis)


def _rate(amount: float, seconds: float) -> float | None:
    return amount / seconds if amount and seconds else None


def _wall(parts: Sequence[Part], workers: int) -> float:
    return sum(part.seconds / (workers if part.name in _SHARED else 1) for part in parts)


def _factor(tried: Trial) -> float:
    return _NARROW if tried.lesions >= _FEW_LESIONS else _WIDE


def _range(value: float, factor: float) -> tuple[float, float]:
    return value / factor, value * factor


def _disk(tally: Tally, tried: Trial, measured: Measured, scale: float) -> tuple[float, float]:
    """Bytes of lesions and volumes by what the trial wrote, else by the rule of the published region; and the rest."""
    if tried.lesions:
        each = tried.lesion_bytes / tried.lesions
        lesions = _range(scale * tally["plan", "lesions"] * each, _SPREAD)
    else:
        lesions = _between(scale * tally["plan", "roi_bytes"], _ROI_SHARE)
    source = scale * tally["plan", "volume_bytes"]
    if tried.volume_bytes:
        volumes = _range(source * tried.volume_bytes / tried.volume_source_bytes, _SPREAD)
    else:
        volumes = _between(source, _VOLUME_SHARE)
    return lesions[0] + volumes[0] + measured.private_bytes, lesions[1] + volumes[1] + measured.private_bytes


def _between(value: float, shares: tuple[float, float]) -> tuple[float, float]:
    return value * shares[0], value * shares[1]


def _assumptions(config: BuildConfig, tried: Trial, scale: float) -> tuple[str, ...]:
    found = [
        "Time grows in proportion: reading with bytes of CT, segmentation, checks and writing with lesions.",
        "The patients tried are like the others; this machine, its disk and its load are those of the build.",
        f"Work on patients is shared evenly by {config.workers} process(es); the rest is done by one.",
        "CT comes off the disk as fast as in the trial, where the system may have held copies of some files.",
        "The index is made as fast as in this inspection, where one that was kept costs nearly nothing.",
        f"Whole CT volumes are published as volumes = {config.volumes!r} says, and no mask is rejected.",
    ]
    if tried.lesions:
        factors = f"{_factor(tried):g} either way in time, and of {_SPREAD:g} in bytes written"
        found.append(f"The range is a factor of {factors}.")
    else:
        regions, volumes = (f"{low:.0%} to {high:.0%}" for low, high in (_ROI_SHARE, _VOLUME_SHARE))
        found.append(f"Nothing was tried: published regions shrink to {regions} of their bytes, volumes to {volumes}.")
    if scale > 1:
        found.append("The patients that were not read are like those that were.")
    return tuple(found)
