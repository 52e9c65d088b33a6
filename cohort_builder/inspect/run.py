"""``inspect_export``: one pass over the patients of an export, in as many processes as asked for."""

from __future__ import annotations

import os
import random
import secrets
import shutil
import tempfile
import time
from collections.abc import Iterator, Sequence
from contextlib import closing, contextmanager, suppress
from dataclasses import replace
from pathlib import Path
from stat import S_ISDIR
from typing import TYPE_CHECKING, Any

from cohort_builder.cases.selection import Selection
from cohort_builder.config import BuildConfig
from cohort_builder.engines import Engines
from cohort_builder.errors import CohortError, ConfigError, SetupError
from cohort_builder.executors import load_executor
from cohort_builder.inspect.estimate import Measured, Trial, estimate_build, try_build
from cohort_builder.inspect.inspection import Estimate, Inspection, Sample
from cohort_builder.inspect.patients import InspectTask, inspect_patients
from cohort_builder.inspect.results import inspection_of
from cohort_builder.inspect.tally import Tally, count_skip, count_skips
from cohort_builder.inspect.writers import WriterNames, writers_in
from cohort_builder.pacs.index import index_export
from cohort_builder.privacy.pseudonyms import KEY_BYTES, Pseudonyms
from cohort_builder.progress import Progress
from cohort_builder.prompting import EVERY_PROMPT
from cohort_builder.scope.joining import studies_without_report
from cohort_builder.scope.store import ReportStore
from cohort_builder.types import Skip
from nlp import EXTRACTORS
from nlp.types import ReportError

if TYPE_CHECKING:
    from cohort_builder.pacs.index import Index
    from nlp.findings import Extractor
    from segmentation.types import Segmenter

_PATIENTS_A_TASK = 20
_FOLDER, _LOCK = "cohort-inspect-", "in-use.lock"
_FRESH_S = 60.0  # a younger folder may not have its lock yet


def inspect_export(
    pacs_export: str | Path,
    reports: Any = None,
    *,
    config: BuildConfig | None = None,
    extractor: str | Extractor | None = None,
    segmenter: str | Segmenter | None = None,
    weights: str | Path | None = None,
    device: str | None = "auto",
    index: str | Path | None = None,
    sample: int | None = None,
    seed: int = 0,
    estimate: bool = True,
    progress: bool = True,
) -> Inspection:
    """Say what an export and its reports hold, what of them would link, and what a build would take.

    Nothing is published or kept. For the estimate a few patients are built and thrown away.

    Parameters
    ----------
    pacs_export
        As for ``build_cohort``.
    reports
        As for ``build_cohort``; None: what is drawn alone.
    config
        Options of the build that is to come.
    extractor, segmenter
        Name or object; by default those of ``config``.
    weights, device
        Of a named segmenter, as for ``build_cohort``. Where it lacks something, the inspection says so and goes on.
    index
        File of the index, made if it is not there, to be kept for the next time: it names patients. By default a
        temporary one.
    sample
        Read only so many patients, drawn by ``seed``; the headers of all are read all the same.
    estimate
        Whether to try a build for the estimate of its time and size (up to about 20 seconds).
    progress
        Draw progress bars (on a terminal) or log lines (elsewhere).

    Raises
    ------
    ConfigError
        An argument is wrong.
    PacsError
        The export is missing, or holds no DICOM file.
    nlp.ReportError
        The reports cannot be read.

    """
    if sample is not None and sample < 1:
        raise ConfigError(f"sample must be 1 or more patients, got {sample!r}")
    config = config or BuildConfig()
    config = replace(config, select=config.select.read())
    engines = Engines(
        extractor or config.extractor,
        segmenter or config.engine,
        None if weights is None else str(weights),
        device,
        config.engine_options,
        extractor_options=config.extractor_options,
        anatomy=config.anatomy,
    )
    if isinstance(engines.extractor, str) and engines.extractor not in EXTRACTORS:
        raise ConfigError(f"unknown extractor {engines.extractor!r}; known: {', '.join(sorted(EXTRACTORS))}")
    with _own_folder() as folder:
        run = _Run(folder, config, engines, Progress(show=progress), (sample, seed))
        with closing(run.open_reports(reports)), closing(run.index(pacs_export, index)):
            run.select()
            run.join_reports()
            run.read_patients()
            return run.result(estimated=estimate)


@contextmanager
def _own_folder() -> Iterator[Path]:
    """Make a private folder that goes when the run ends; those that killed runs of this user left go first."""
    from filelock import FileLock, Timeout

    for path in Path(tempfile.gettempdir()).glob(f"{_FOLDER}*"):
        with suppress(OSError, Timeout):  # somebody else's, gone by now, or in use
            status = path.lstat()
            if status.st_uid != os.getuid() or not S_ISDIR(status.st_mode) or time.time() - status.st_mtime < _FRESH_S:
                continue
            with FileLock(path / _LOCK, timeout=0):
                shutil.rmtree(path)
    with tempfile.TemporaryDirectory(prefix=_FOLDER) as made, FileLock(Path(made) / _LOCK):  # mode 0700
        yield Path(made)


class _Run:
    """One inspection: what it needs, and what it has found so far."""

    def __init__(
        self, private: Path, config: BuildConfig, engines: Engines, progress: Progress, sample: tuple[int | None, int]
    ) -> None:
        self.private, self.config, self.engines, self.progress = private, config, engines, progress
        self.sample_size, self.seed = sample
        self.tally = Tally()
        self.candidates: list[str] = []
        self.reports_path = private / "reports.sqlite"
        self.engine = _loaded(engines)

    def open_reports(self, reports: Any) -> ReportStore:
        """Look at the table before the export is read: a missing column must not cost an hour of indexing."""
        self.store = ReportStore.create(self.private, Pseudonyms(secrets.token_bytes(KEY_BYTES)))
        self.asked = reports is not None

        def note(error: ReportError, row: int) -> None:
            self.store.add_skip(Skip("reports", f"row {row}", "report_unusable", str(error), failure=True))

        self.rows = self.config.open_reports(reports, on_error=note) if self.asked else iter(())
        return self.store

    def index(self, pacs_export: str | Path, kept: str | Path | None) -> Index:
        """Read the headers of the export."""
        self.index_path = self.private / "index.sqlite" if kept is None else Path(kept)
        with self.progress.stage("index", unit="files") as stage:
            self.opened = index_export(pacs_export, self.index_path, progress=stage.advance, select=self.config.select)
        return self.opened

    def select(self) -> None:
        """Decide which studies and series are used, as a build does, and count what is stored."""
        _count_export(self.opened, self.tally)
        self.sieve = self.config.select.sieve(self.opened)
        self.selected = self.sieve.over(self.opened)
        self.tally.update({("selection", name): n for name, n in self.sieve.counts.items()})
        count_skips(self.sieve.skips(), self.tally)

    def join_reports(self) -> None:
        """Read the reports, and count of which studies something is said."""
        with self.progress.stage("reports", unit="reports") as stage:
            for _ in self.store.add(self.rows, self.opened, self.engines.languages(), self.sieve):
                stage.advance()
            self.store.finish(self.reports_path)
        if self.asked:
            _count_reports(self.selected, self.store, self.tally)

    def read_patients(self) -> None:
        """Count what the patients have, in as many processes as asked for."""
        everybody = self.selected.patient_keys()
        chosen = everybody
        if self.sample_size is not None and self.sample_size < len(everybody):
            chosen = sorted(random.Random(self.seed).sample(everybody, self.sample_size))
        self.sample = Sample(len(chosen), len(everybody), self.seed) if len(chosen) < len(everybody) else None
        supports = EVERY_PROMPT if isinstance(self.engine, CohortError) else self.engine.supports
        tasks = [
            InspectTask(
                tuple(part),
                self.index_path,
                self.reports_path,
                replace(self.config, select=Selection()),
                replace(self.engines, segmenter=self.config.engine),  # nothing is segmented: an object stays here
                frozenset(supports),
                self.sieve.part(self.opened, part),
                self.seed,
            )
            for part in _parts(chosen)
        ]
        with self.progress.stage("links", len(chosen), unit="patients") as stage:
            executor = load_executor(self.config.workers)
            for found in executor.run(inspect_patients, tasks, lambda news: stage.advance(news.patients)):
                self.tally.update(found.tally)
                self.candidates += found.candidates

    def result(self, *, estimated: bool) -> Inspection:
        """Put everything together; a build of a few patients is tried where that is ``estimated`` from."""
        guess = self._estimate() if estimated else None
        identifiers = (value for study in self.opened.studies() for value in study.identifiers)
        names = WriterNames(writers_in(self.tally), identifiers)
        return replace(inspection_of(self.tally, names), sample=self.sample, estimate=guess)

    def _estimate(self) -> Estimate:
        name = self.engines.segmenter if isinstance(self.engines.segmenter, str) else "an engine of your own"
        measured = Measured(
            self.progress.seconds["index"],
            self.tally["export", "files"],
            self.progress.seconds["reports"],
            self.tally["reports", "read"],
            sum(path.stat().st_size for path in (self.index_path, self.reports_path)),
        )
        scale = self.sample.of / self.sample.patients if self.sample else 1.0
        return estimate_build(self.tally, measured, self._trial(), self.config, engine=name, scale=scale)

    def _trial(self) -> Trial | CohortError:
        if isinstance(self.engine, CohortError):
            return self.engine
        random.Random(self.seed).shuffle(self.candidates)
        try:
            with self.progress.stage("trial", 1, unit="builds"):
                return try_build(
                    self.candidates,
                    self.engine,
                    self.engines,
                    replace(self.config, select=Selection()),
                    self.sieve.part(self.opened, self.candidates),
                    index_path=self.index_path,
                    reports_path=self.reports_path,
                )
        except CohortError as error:
            return error
        except Exception as error:  # noqa: BLE001 - what a trial may run into must not cost the inspection
            return SetupError(f"the trial ended with an unexpected {type(error).__name__}")


def _loaded(engines: Engines) -> Segmenter | CohortError:
    """The engine, for what it takes decides about prompts, and it may be tried; or what it lacks."""
    try:
        return engines.load_segmenter()
    except ConfigError:
        raise
    except CohortError as error:
        return error


def _parts(patients: Sequence[str]) -> Iterator[Sequence[str]]:
    for start in range(0, len(patients), _PATIENTS_A_TASK):
        yield patients[start : start + _PATIENTS_A_TASK]


def _count_export(index: Index, tally: Tally) -> None:
    tally.update({("export", name): n for name, n in index.counts.items()})
    for (modality, sop_class), n in index.tally("modality", "sop_class_uid").items():
        tally["objects", str(modality), str(sop_class)] += n
    count_skips(index.skips, tally)


def _count_reports(index: Index, store: ReportStore, tally: Tally) -> None:
    tally["reports", "read"] += store.read
    tally["reports", "used"] += store.used
    tally.update(("reports", f"by_{scope.joined_by}") for scope in store.scopes())
    for row in store.skips():
        count_skip(row["stage"], row["reason"], row["detail"], tally)
    count_skips(studies_without_report(index, store.scopes()), tally)
