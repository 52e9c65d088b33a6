"""``build_cohort``: the pipeline, in the order a reader would tell it.

reports and PACS export in, a published dataset out. Everything before the shards is cheap and done again in every run;
the shards are done once; what they leave is joined in ``_publish``.
"""

from __future__ import annotations

import json
import logging
import platform
import traceback
from collections import Counter
from collections.abc import Iterable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import asdict, replace
from importlib import metadata
from pathlib import Path
from shutil import rmtree
from time import monotonic
from typing import TYPE_CHECKING, Any

from cohort_builder.bookkeeping import make_folders, versions, write_atomically, write_lines
from cohort_builder.cases.removal import remove_leftovers, who_is_gone
from cohort_builder.cases.selection import Selection
from cohort_builder.cases.sieve import Sieve, nothing_left
from cohort_builder.cohort import Cohort, open_cohort
from cohort_builder.config import BuildConfig
from cohort_builder.ct.pixels import installed_decoders
from cohort_builder.engines import Engines, release
from cohort_builder.errors import CohortError, ConfigError
from cohort_builder.executors import load_executor
from cohort_builder.pacs.index import index_export
from cohort_builder.pacs.sources import is_address
from cohort_builder.planning import plan_patients
from cohort_builder.privacy.pseudonyms import Key, Pseudonyms, load_key
from cohort_builder.progress import LesionCount, Progress
from cohort_builder.review.judging import Verdict, offer_reviews, read_verdicts
from cohort_builder.run_skips import RunSkips
from cohort_builder.scope.joining import require_a_join, studies_without_report
from cohort_builder.scope.store import ReportStore
from cohort_builder.shards import ShardPlan, clean, counts_of, plan_shards, read_lines, remaining
from cohort_builder.types import Skip
from cohort_builder.worker import ShardTask, build_shard
from exports.assembly import assemble
from exports.card import CardInfo
from exports.schema import digest
from exports.types import ExportError
from nlp.types import Report, ReportError
from segmentation.believability import table_digest

if TYPE_CHECKING:
    from cohort_builder.anatomy.locators import AnatomyLocator
    from cohort_builder.pacs.index import Index
    from nlp.findings import Extractor
    from segmentation.types import Segmenter

logger = logging.getLogger("cohort_builder")


def build_cohort(
    reports: Any,
    pacs_export: str | Path,
    *,
    out: str | Path,
    config: BuildConfig | None = None,
    extractor: str | Extractor | None = None,
    segmenter: str | Segmenter | None = None,
    weights: str | Path | None = None,
    device: str | None = "auto",
    anatomy: str | AnatomyLocator | None = None,
    key: str | Path | None = None,
    progress: bool = True,
) -> Cohort:
    """Turn reports and a PACS export into a dataset of image / mask / phrase triples.

    Started again on the same ``out``, it continues where an earlier run ended.

    Parameters
    ----------
    reports
        Path of a file or folder (tables, texts, FHIR, HL7, DICOM SR: docs/reports.md), a list of paths, a
        ``pandas.DataFrame``, a ``pyarrow.Table``, a ``datasets.Dataset`` or an iterable of ``Report``. A table needs
        ``report_id`` and ``text``, and what it can of ``accession_number``, ``study_instance_uid``, ``patient_id`` and
        ``study_date``.
    pacs_export
        Folder of DICOM files: CT series and presentation states, in any tree. ``config.select`` says which of its cases
        are used (docs/selecting.md).
    out
        Folder to build in: ``dataset/``, ``pictures/`` and ``run.json`` name nobody; ``private/`` does.
    config
        Options; ``BuildConfig.from_toml`` reads them from a file.
    extractor, segmenter, anatomy
        Name or object; by default those of ``config``.
    weights, device
        For engines by name. A file of weights, or a folder that holds it under the name its authors gave it; by default
        the folder that the environment variable ``COHORT_WEIGHTS`` names. ``"auto"`` (a GPU where there is one),
        ``"cpu"``, ``"cuda"`` or ``"cuda:N"``. Further options of the engine: ``config.engine_options``; all of an
        extractor by name: ``config.extractor_options``.
    key
        File of the site's pseudonym key. Default: ``site.key`` in the user's configuration folder, made on first use.
    progress
        Draw progress bars (on a terminal) or log lines (elsewhere).

    Raises
    ------
    ConfigError
        An argument is wrong, or another run is building in ``out``.
    SetupError
        The engine lacks its weights or its device, before or in the middle of the run: what was finished is kept.
    PacsError
        The export is missing, or holds no DICOM file.
    TooManySkips
        More than ``max_skip_fraction`` of the items of a stage failed.
    nlp.ReportError
        The reports table cannot be read or lacks a column.
    exports.ExportError
        The dataset could not be written whole.

    """
    config = _with_names(config or BuildConfig(), extractor, segmenter, anatomy)
    config = replace(config, select=config.select.read(outside=out))
    run = _Run(Path(out), config, load_key(key, outside=out), Progress(show=progress))
    engines = Engines(
        extractor or config.extractor,
        segmenter or config.engine,
        None if weights is None else str(weights),
        device,
        config.engine_options,
        extractor_options=config.extractor_options,
        anatomy=anatomy or config.anatomy,
    ).required(config.workers)
    with run.exclusively():
        run.read_verdicts()
        rows, store = run.open_reports(reports)
        index = run.index(pacs_export)
        try:
            run.select(index)
            run.join_reports(rows, index, store, engines)
            plans = run.plan(index, store, engines)
            run.build_shards(plans, index, engines)
        finally:
            index.close()
        return run.publish(plans)


def _with_names(config: BuildConfig, extractor: object, segmenter: object, anatomy: object) -> BuildConfig:
    """Put names given as arguments into the configuration: what is published says what was used."""
    given = {"extractor": extractor, "engine": segmenter, "anatomy": anatomy}
    names: dict[str, Any] = {name: value for name, value in given.items() if isinstance(value, str)}
    return replace(config, **names)


class _Run:
    """One run over one output folder."""

    def __init__(self, out: Path, config: BuildConfig, key: Key, progress: Progress) -> None:
        self.out, self.config, self.key, self.progress = out, config, key, progress
        self.private = out / "private"
        self.shards_dir = self.private / "shards"
        self.reports_path = self.private / "reports.sqlite"
        self.pseudonyms = Pseudonyms(key)
        self.software = f"cohort-builder {metadata.version('cohort-builder')}"
        self.skips = RunSkips(self.pseudonyms, self.shards_dir)
        self.sieve = Sieve()
        self.counts: Counter[str] = Counter()
        self.verdicts: Mapping[str, tuple[Verdict, ...]] = {}  # by the patient's pseudonym
        self._started = monotonic()

    # ---- stages ------------------------------------------------------------------------------------------------

    def read_verdicts(self) -> None:
        """Read what a person said of the links of the last build."""
        self.verdicts = read_verdicts(self.private)
        self.counts.update(verdicts=sum(map(len, self.verdicts.values())))

    def _verdicts_of(self, patient_key: str) -> tuple[Verdict, ...]:
        return self.verdicts.get(self.pseudonyms.pseudonym("patient", patient_key), ())

    def open_reports(self, source: Any) -> tuple[Iterator[Report], ReportStore]:
        """Look at the table before the export is read: a missing column must not cost an hour of indexing."""
        store = self.skips.reports = ReportStore.create(self.private, self.pseudonyms)

        def on_error(error: ReportError, row: int) -> None:
            store.add_skip(Skip("reports", f"row {row}", "report_unusable", str(error), failure=True))

        return self.config.open_reports(source, on_error=on_error), store

    def index(self, pacs_export: str | Path) -> Index:
        """Read the headers of the export; only new or changed files are read again."""
        if not is_address(pacs_export):
            rmtree(self.private / "pacs", ignore_errors=True)  # what a build from a server kept
        file, select = self.private / "index.sqlite", self.config.select
        with self.progress.stage("index", unit="files") as stage:
            index = index_export(pacs_export, file, progress=stage.advance, select=select)
        whole = not (is_address(pacs_export) and select.is_set)
        self._is_gone = who_is_gone(index, self.pseudonyms, self.private / "crosswalk.jsonl", whole=whole)
        self.skips.add(index.skips)
        self.counts.update({f"index_{name}": n for name, n in index.counts.items()})
        self._refuse_too_many("index", sum(skip.failure for skip in index.skips), stage.done)
        return index

    def select(self, index: Index) -> None:
        """Decide which studies and series are used; the index itself stays whole."""
        self.sieve = self.config.select.sieve(index)
        self.counts.update(self.sieve.counts)
        self.skips.add(self.sieve.skips())
        (self.private / "not_selected.jsonl").unlink(missing_ok=True)
        if self.config.select.is_set:
            write_lines(self.private / "not_selected.jsonl", self.sieve.listed())
        if told := self.sieve.told():
            logger.info("%d studies are selected; left out by the selection: %s", self.sieve.kept, told)

    def join_reports(self, rows: Iterable[Report], index: Index, store: ReportStore, engines: Engines) -> None:
        """Read the reports as a stream, find for each the studies it speaks of, and keep what is used."""
        with self.progress.stage("reports", unit="reports") as stage:
            for _ in store.add(rows, index, engines.languages(), self.sieve):
                stage.advance()
            store.finish(self.reports_path)
        self.counts.update(reports_read=store.read, reports_scoped=store.used)
        self.counts.update(reports_not_selected=store.not_selected + store.forgotten)
        self._refuse_too_many("reports", store.failed, store.failed + store.read)
        self.skips.add(studies_without_report(self.sieve.over(index), store.scopes()))
        require_a_join(store.read - store.forgotten, store.used + store.not_selected, store.refused)
        if store.not_selected and not store.used:
            logger.warning("no report reads a selected study: lesions are published without a phrase")
        write_lines(self.private / "scopes.jsonl", map(asdict, store.scopes()))

    def plan(self, index: Index, store: ReportStore, engines: Engines) -> list[ShardPlan]:
        """Distribute the patients that were drawn on or reported over shards."""
        megabytes, signatures = plan_patients(index, self.sieve, store, self._verdicts_of)
        self.counts.update(patients_planned=len(megabytes))
        if self.config.select.is_set and not megabytes:
            raise nothing_left(self.sieve)
        content = {
            "software": self.software,
            "config": self.config.what_a_shard_holds(),
            "versions": versions(),
            "schema": digest(),
            "checks": table_digest(self.config.tier_table()),
            **engines.identities(),
            "decoders": installed_decoders(),
            "key": self.pseudonyms.pseudonym("key", "fingerprint"),
        }
        return plan_shards(megabytes, signatures, self.pseudonyms, shard_mb=self.config.shard_mb, content=content)

    def build_shards(self, plans: Sequence[ShardPlan], index: Index, engines: Engines) -> None:
        """Build every shard that an earlier run did not finish."""
        self.shards_dir.mkdir(mode=0o700, exist_ok=True)
        self.shards_dir.chmod(0o700)
        clean(self.shards_dir, plans)
        todo = remaining(self.shards_dir, plans)
        if self.config.workers > 1:
            release()
        tasks = [
            ShardTask(
                plan=plan,
                shards_dir=self.shards_dir,
                index_path=self.private / "index.sqlite",
                reports_path=self.reports_path,
                key=self.key,
                config=replace(self.config, select=Selection()),
                software=self.software,
                engines=engines,
                verdicts={key: said for key in plan.patient_keys if (said := self._verdicts_of(key))},
                sieve=self.sieve.part(index, plan.patient_keys),
            )
            for plan in todo
        ]
        finished = [plan for plan in plans if plan not in todo]
        before = sum(counts_of(self.shards_dir, plan).get("lesions", 0) for plan in finished)
        with self.progress.stage("lesions and links", unit="lesions", before=before) as stage:
            count = LesionCount(stage, *(sum(len(plan.patient_keys) for plan in part) for part in (finished, todo)))
            for _summary in load_executor(self.config.workers).run(build_shard, tasks, count.hear):
                pass

    def publish(self, plans: Sequence[ShardPlan]) -> Cohort:
        """Join the shards into the dataset, draw the pictures, and write what the run did."""
        for plan in plans:
            self.counts.update(counts_of(self.shards_dir, plan))
        self.skips.finished = plans
        self._write_skips()
        self._refuse_too_many_lost()
        for name in ("links", "crosswalk", "offsets"):
            write_lines(self.private / f"{name}.jsonl", read_lines(self.shards_dir, plans, f"{name}.jsonl"))
        with self.progress.stage("dataset", 1, unit="datasets"):
            assemble(
                [self.shards_dir / plan.name for plan in plans],
                self.out / "dataset",
                card=self._card(),
                skipped=self.skips.public(),
            )
        cohort = open_cohort(self.out)
        n_pictures = min(self.config.pictures, len(cohort))
        with self.progress.stage("pictures", n_pictures, unit="pictures") as stage:
            cohort.draw(n_pictures, on_each=stage.advance)
        candidates = read_lines(self.shards_dir, plans, "review.jsonl")
        self.counts.update(
            offer_reviews(self.private, candidates, self.config.review, self.progress, is_gone=self._is_gone)
        )
        if not self.counts["findings"]:
            logger.warning("no finding was grounded: the outcomes of the phrases above and the skips say why")
        self.counts["skips"] = self.skips.reasons().total()
        self._write_run("complete")
        return open_cohort(self.out)

    def _card(self) -> CardInfo:
        seen = ("index_dicom", "patients_planned", "reports_read", "reports", "lesions", "findings", "unlinked_lesions")
        return CardInfo(
            software=self.software,
            config=self.config.what_is_published(),
            counts={name.replace("_", " "): self.counts[name] for name in seen if name in self.counts},
        )

    # ---- housekeeping ------------------------------------------------------------------------------------------

    @contextmanager
    def exclusively(self) -> Iterator[None]:
        """Hold the output folder for this run alone, log into it, and leave run.json also when the run fails."""
        from filelock import FileLock, Timeout

        make_folders(self.out, self.private)
        lock = FileLock(self.private / "lock", timeout=0, mode=0o600)
        try:
            lock.acquire()
        except Timeout as error:
            raise ConfigError(
                "another run is building in this output folder; wait for it, or choose another folder with out="
            ) from error
        remove_leftovers(self.private)
        handler = logging.FileHandler(self.out / "log.txt", encoding="utf-8")
        handler.setFormatter(logging.Formatter("%(asctime)s %(levelname)s %(message)s"))
        logger.addHandler(handler)
        level = logger.level
        logger.setLevel(logging.INFO)
        self._write_run("running")  # what a killed run leaves: not the "complete" of the run before
        try:
            if self.key.created:
                logger.warning(
                    "a new pseudonym key was made (the file of --key, or site.key in your configuration folder); "
                    "keep it: it ties the patients of the next cohort to this one"
                )
            yield
        except (CohortError, ReportError, ExportError) as error:
            logger.error("%s: %s", type(error).__name__, error)  # noqa: TRY400 - the message is the whole story
            self._write_skips()
            self._write_run(f"failed: {type(error).__name__}")
            raise
        except KeyboardInterrupt:
            self._write_skips()
            self._write_run("stopped")
            raise
        except Exception as error:
            # Nobody foresaw this one: its message may quote a path or a value.
            kind = type(error).__name__
            write_atomically(self.private / "error.txt", traceback.format_exc(), mode=0o600)
            logger.error("the run ended with an unexpected %s; private/error.txt says where", kind)  # noqa: TRY400
            self._write_skips()
            self._write_run(f"failed: {kind}")
            raise
        finally:
            if self.skips.reports is not None:
                self.skips.reports.close()
            logger.removeHandler(handler)
            logger.setLevel(level)
            handler.close()
            lock.release()

    def _refuse_too_many(self, stage: str, failed: int, of: int) -> None:
        self.skips.refuse_too_many(stage, failed, of, share=self.config.max_skip_fraction)

    def _refuse_too_many_lost(self) -> None:
        """Judge what the shards lost: reports that failed, and lesions, those that were never seen included."""
        counts = self.counts
        self._refuse_too_many("findings", counts["failures_reports"], counts["reports"] + counts["failures_reports"])
        unseen = counts["failures_before_lesions"]
        self._refuse_too_many("lesions", unseen + counts["lesions_failed"], unseen + counts["lesions"])

    def _write_skips(self) -> None:
        """Write the private copy of all skips so far."""
        write_lines(self.private / "skips.jsonl", self.skips.private())

    def _write_run(self, status: str) -> None:
        run = {
            "status": status,
            "software": self.software,
            "python": platform.python_version(),
            "versions": {
                name: metadata.version(name) for name in ("numpy", "pydicom", "highdicom", "datasets", "pyarrow")
            },
            "config": self.config.as_dict(places=False),
            "counts": dict(sorted(self.counts.items())),
            "skips": dict(sorted(self.skips.reasons().items())),
            "seconds": {**self.progress.seconds, "total": round(monotonic() - self._started, 3)},
        }
        write_atomically(self.out / "run.json", json.dumps(run, indent=1, sort_keys=True) + "\n")
