"""Builds one shard: read its patients, stream their lesions through the engine, write rows in a fixed order.

Rows are written in the order of the plan, whatever order the engine answers in, so the same input gives the same bytes.
A volume lives from the moment the engine pulls its first job until its last answer is written. The engine may pull in a
thread of its own: whoever reads or writes the state of the shard does it in his turn.
"""

from __future__ import annotations

import re
import threading
import traceback
from collections import deque
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from contextlib import closing
from dataclasses import dataclass, field, replace
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, Any, TypeVar

from cohort_builder.cases.sieve import Sieve
from cohort_builder.config import BuildConfig
from cohort_builder.ct.series import load_stack
from cohort_builder.engines import BROKEN_ENGINE, ENGINE_FAILED, Engines, Fault, answer_all, share_cores
from cohort_builder.errors import CohortError
from cohort_builder.jobs import PromptedJob, StackPlan, Target, plan_stacks
from cohort_builder.pacs.index import open_index
from cohort_builder.patient import PatientCase, ReadReport, read_patient
from cohort_builder.privacy.pseudonyms import Key, Pseudonyms
from cohort_builder.private_rows import private_link, private_skip
from cohort_builder.progress import News, Tell
from cohort_builder.records import (
    RecordMaker,
    Said,
    SegmentedLesion,
    VolumePlace,
    acquisition_facts,
    drawn_on,
    kernel_of,
    stack_key,
)
from cohort_builder.review.judging import Verdict, match_verdicts, review_candidates
from cohort_builder.scope.store import ReportStore
from cohort_builder.shards import ShardDirectory, ShardPlan
from cohort_builder.types import Decision, Lesion, Link, Skip
from exports.parquet import ShardWriter
from nlp.types import Finding, Report
from segmentation.checks import check_mask
from segmentation.types import GeometryError, Mask, SegmentationFailure, SegmentationJob, Volume

if TYPE_CHECKING:
    from cohort_builder.pacs.index import Index

T = TypeVar("T")
_TIERS = "ABC"
_WORTH_ANOTHER_TRY = BROKEN_ENGINE | {"extractor_failed", "unexpected_error"}  # code may be mended while the files stay
_BEFORE_LESIONS = frozenset({"annotations", "locate", "patient"})  # what fails there would have been a lesion
_CODE = re.compile(r"[a-z][a-z_]{2,39}")


@dataclass(frozen=True, slots=True)
class ShardTask:
    """All that a worker needs to build one shard; picklable, and free of arrays."""

    plan: ShardPlan
    shards_dir: Path
    index_path: Path
    reports_path: Path
    key: Key = field(repr=False)
    config: BuildConfig
    software: str
    engines: Engines
    verdicts: Mapping[str, tuple[Verdict, ...]] = field(default_factory=dict)  # by patient key
    sieve: Sieve = field(default_factory=Sieve)


@dataclass(frozen=True, slots=True)
class ShardSummary:
    """What a finished shard reports to the run: numbers only."""

    name: str
    counts: Mapping[str, int]


def build_shard(task: ShardTask, tell: Tell) -> ShardSummary:
    """Build one shard whole, or leave nothing that looks like one; ``tell`` hears how far it is."""
    directory = ShardDirectory(task.shards_dir, task.plan)
    with (
        closing(open_index(task.index_path)) as index,
        closing(ReportStore.open(task.reports_path)) as reports,
        ShardWriter(directory.path, task.plan.split, task.plan.number, task.plan.count) as writer,
    ):
        run = _ShardRun(task, task.sieve.over(index), reports, writer, tell)
        run.build()
    for name, rows in run.private.items():
        directory.write_lines(f"{name}.jsonl", rows)
    directory.commit(run.counts, retry=run.retry)
    return ShardSummary(task.plan.name, run.counts)


@dataclass(slots=True)
class _OpenStack:
    """A stack whose lesions are with the engine."""

    case: PatientCase
    plan: StackPlan
    volume: Volume
    jobs: dict[str, PromptedJob]
    answers: dict[str, Mask | SegmentationFailure] = field(default_factory=dict)

    @property
    def complete(self) -> bool:
        return len(self.answers) == len(self.plan.targets)


@dataclass(frozen=True, slots=True)
class _PatientEnd:
    """Everything of this patient has been segmented: its reports can be written."""

    case: PatientCase


class _ShardRun:
    """The state of one shard while it is built."""

    def __init__(self, task: ShardTask, index: Index, reports: ReportStore, writer: ShardWriter, tell: Tell) -> None:
        self.task, self.index, self.reports, self.writer, self.tell = task, index, reports, writer, tell
        self.pseudonyms = Pseudonyms(task.key)
        self.records = RecordMaker(self.pseudonyms, task.config, task.software)
        self.segmenter = task.engines.load_segmenter()
        self.extractor = task.engines.load_extractor()
        self.locator = task.engines.load_locator()
        share_cores(task.config.workers)
        self.counts: dict[str, int] = {}
        self.retry, self.tiers = False, task.config.tier_table()
        self.private: dict[str, list[Mapping[str, Any]]] = {
            name: [] for name in ("skips", "links", "crosswalk", "offsets", "review")
        }
        self._turn = threading.Lock()
        self._queue: deque[_OpenStack | _PatientEnd] = deque()
        self._stack_of: dict[str, _OpenStack] = {}
        self._lost: dict[str, str] = {}  # lesion id to the outcome of its phrases, for linked lesions without a row

    def build(self) -> None:
        """Segment and write everything."""
        for answer in answer_all(self.segmenter, self._jobs(), self._turn):
            with self._turn:
                self._stack_of.pop(answer.job_id).answers[answer.job_id] = answer
                self._write_what_is_complete()
                self.tell(News(done=1))
        self._write_what_is_complete()

    # ---- reading -----------------------------------------------------------------------------------------------

    def _jobs(self) -> Iterator[SegmentationJob]:
        for patient_key in self.task.plan.patient_keys:
            read = self._guard("patient", patient_key, partial(self._read, patient_key))
            if read is None:
                self.tell(News(patients=1))
                continue
            case, plans, n_broken = read
            self._count("lesions_failed", n_broken)
            placed = {target.lesion.lesion_id for plan in plans for target in plan.targets}
            self.tell(News(patients=1, lesions=len(case.lesions), done=len(case.lesions) - len(placed)))
            for lesion in case.lesions:
                if lesion.lesion_id not in placed:
                    self._lost.setdefault(lesion.lesion_id, "NO_VOLUME")
            for plan in sorted(plans, key=lambda p: self.pseudonyms.pseudonym("series", stack_key(p.stack))):
                targets = sorted(plan.targets, key=lambda t: self.pseudonyms.pseudonym("lesion", t.lesion.lesion_id))
                yield from self._open(case, replace(plan, targets=tuple(targets)))
            self._queue.append(_PatientEnd(case))

    def _read(self, patient_key: str) -> tuple[PatientCase, list[StackPlan], int]:
        # In keyed order, as everything published: that of the table tells which report came first.
        reports = sorted(
            self.reports.of_patient(patient_key),
            key=lambda pair: self.pseudonyms.pseudonym("report", pair[0].report_id),
        )
        verdicts = self.task.verdicts.get(patient_key, ())

        def judge(
            report: Report, findings: Sequence[Finding], lesions: Sequence[Lesion]
        ) -> Mapping[tuple[str, str], bool]:
            matches = match_verdicts(verdicts, report, findings, lesions, self.pseudonyms)
            return {pair: match.right for pair, match in matches.items()}

        case = read_patient(
            patient_key,
            self.index,
            reports,
            self.extractor,
            self.task.config.link,
            judge=judge,
            locator=self.locator,
            pixel_origin=self.task.config.pixel_origin,
        )
        plans, skips = plan_stacks(
            case.lesions,
            self.index,
            target_series=self.task.config.target_series,
            supports=self.segmenter.supports,
        )
        self._skip_all((*case.skips, *skips))
        self._lost.update({skip.item: "SEGMENTATION_FAILED" for skip in skips if skip.stage == "segmentation"})
        return case, plans, sum(skip.failure and skip.reason == "no_regular_stack" for skip in skips)

    def _open(self, case: PatientCase, plan: StackPlan) -> Iterator[SegmentationJob]:
        volume = self._guard("volumes", plan.stack.series_instance_uid, partial(load_stack, plan.stack))
        make = None if volume is None else partial(plan.jobs, volume, self.segmenter.supports)
        jobs = None if make is None else self._guard("volumes", stack_key(plan.stack), make)
        if volume is None or jobs is None:
            detail = "the CT under the annotation could not be read; the skip of its series says why"
            for target in plan.targets:
                self._lose(target, "NO_VOLUME", "volume_unreadable", detail, failure=True)
            self.tell(News(done=len(plan.targets)))
            return
        opened = _OpenStack(case, plan, volume, {job.given.job_id: job for job in jobs})
        self._queue.append(opened)
        for job in jobs:
            self._stack_of[job.given.job_id] = opened
            yield job.given

    def _guard(self, stage: str, item: str, work: Callable[[], T]) -> T | None:
        """Run ``work``; what goes wrong costs this item, by name, and never the cohort."""
        try:
            return work()
        except CohortError:
            raise
        except GeometryError as error:
            self._skip(Skip(stage, item, "geometry", str(error), failure=True, private={"uid": item}))
        except Exception as error:  # noqa: BLE001 - one study, whatever is wrong with it, must not stop ten years of them
            detail = f"{type(error).__name__}; the private copy of the skips holds the traceback: please report it"
            private = {"uid": item, "traceback": traceback.format_exc()}
            self._skip(Skip(stage, item, "unexpected_error", detail, failure=True, private=private))
        return None

    # ---- writing -----------------------------------------------------------------------------------------------

    def _write_what_is_complete(self) -> None:
        while self._queue:
            head = self._queue[0]
            if isinstance(head, _OpenStack):
                if not head.complete:
                    return
                self._write_stack(head)
            else:
                self._write_patient(head.case)
            self._queue.popleft()

    def _write_stack(self, opened: _OpenStack) -> None:
        said = _said(opened.case.reports)
        judged = [self._judge(opened, target) for target in opened.plan.targets]
        accepted = [lesion for lesion in judged if lesion is not None]
        lesion_ids = [lesion.target.lesion.lesion_id for lesion in accepted]
        place = self._write_volume(opened, lesion_ids, linked=any(i in said for i in lesion_ids))
        for lesion, lesion_id in zip(accepted, lesion_ids, strict=True):
            self._write_lesion(lesion, said.get(lesion_id, [None]), place)
            self._crosswalk("lesion", lesion_id)
            if lesion.target.origin is not None:
                self._crosswalk("series", drawn_on(lesion.target.strokes[0], lesion))
                self._count("carried_to_thinnest")

    def _write_lesion(self, lesion: SegmentedLesion, said: Iterable[Said | None], place: VolumePlace) -> None:
        lesion_id = lesion.target.lesion.lesion_id
        for one in said:
            record = self._guard("segmentation", lesion_id, partial(self.records.finding, lesion, one, place))
            if record is None:
                self._fail(lesion_id, "SEGMENTATION_FAILED")
                continue
            self.writer.add_finding(record)
            self._count("unlinked_lesions" if one is None else "findings")
            self._count(f"tier_{lesion.quality.tier}")

    def _judge(self, opened: _OpenStack, target: Target) -> SegmentedLesion | None:
        """Accept a mask with its quality, or record why the lesion has none."""
        lesion_id = target.lesion.lesion_id
        mask = opened.answers[lesion_id]
        if isinstance(mask, SegmentationFailure):
            self._lose_to_engine(target, mask)
            return None
        job = opened.jobs[lesion_id]
        mask = job.signed(mask)
        quality = self._guard("segmentation", lesion_id, partial(check_mask, mask, job.drawn, self.tiers))
        if quality is None:
            self._fail(lesion_id, "SEGMENTATION_FAILED")
            return None
        if _TIERS.index(quality.tier) > _TIERS.index(self.task.config.min_tier):
            detail = f"tier {quality.tier} is below min_tier {self.task.config.min_tier}: {', '.join(quality.flags)}"
            self._lose(target, "MASK_REJECTED", "mask_not_believable", detail)
            return None
        key, stack = opened.case.patient_key, opened.plan.stack
        images = () if target.origin is None else (target.origin.image, stack.instances[0])
        kernels = tuple(kernel_of(image, self._identifiers(key)) for image in images)
        return SegmentedLesion(key, target, stack, opened.volume, mask, quality, kernels)

    def _identifiers(self, patient_key: str) -> list[str]:
        return [value for study in self.index.studies_of(patient_key) for value in study.identifiers]

    def _lose_to_engine(self, target: Target, failure: SegmentationFailure) -> None:
        """Record a failure of the engine; the words of an engine that is not ours stay private."""
        ours = isinstance(self.task.engines.segmenter, str) or isinstance(failure, Fault)
        reason = failure.reason if _CODE.fullmatch(failure.reason) else ENGINE_FAILED
        detail = (
            failure.detail if ours else "the engine's own failure; its words stand in the private copy of the skips"
        )
        broken = reason in BROKEN_ENGINE
        self._lose(target, "SEGMENTATION_FAILED", reason, detail, failure=broken, said=failure.detail)

    def _lose(
        self, target: Target, outcome: str, reason: str, detail: str, *, failure: bool = False, **private: str
    ) -> None:
        """Record that a lesion gets no row, and what became of its phrases."""
        lesion_id = target.lesion.lesion_id
        stage = "volumes" if outcome == "NO_VOLUME" else "segmentation"
        private |= {"source": target.strokes[0].annotation.annotation_id}
        self._lost[lesion_id] = outcome
        if failure:
            self._fail(lesion_id, outcome)
        self._skip(Skip(stage, lesion_id, reason, detail, failure=failure, private=private))

    def _write_volume(self, opened: _OpenStack, lesion_ids: list[str], *, linked: bool) -> VolumePlace:
        policy = self.task.config.volumes
        if not lesion_ids or policy == "none" or (policy == "linked" and not linked):
            return VolumePlace()
        stack, key = opened.plan.stack, opened.case.patient_key
        facts = acquisition_facts(stack, self._identifiers(key))
        record = self.records.volume(key, stack, opened.volume, lesion_ids, facts)
        location = self.writer.add_volume(record)
        self._count("volumes")
        self._crosswalk("series", stack_key(stack))
        return VolumePlace(location.shard, location.row_group)

    def _write_patient(self, case: PatientCase) -> None:
        self._crosswalk("patient", case.patient_key)
        for study in self.index.studies_of(case.patient_key):
            self._crosswalk("study", study.study_instance_uid)
        for read in case.reports:
            outcomes = {
                link.finding_id: self._lost[link.lesion_id]
                for link in read.links
                if link.decision is Decision.LINKED and link.finding_id and link.lesion_id in self._lost
            }
            make = partial(self.records.report, case.patient_key, read, outcomes)
            record = self._guard("reports", read.report.report_id, make)
            if record is None:
                continue
            self.writer.add_report(record)
            for phrase in record.phrases:
                self._count(f"phrases_{phrase.outcome}")
            self._count("reports")
            self._crosswalk("report", read.report.report_id)
            offsets = self.pseudonyms.pseudonym("report", read.report.report_id)
            self.private["offsets"].append({"report_id": offsets, "offsets": read.offsets.as_lists()})
            for link in read.links:
                self._count(f"links_{link.decision.value}")
                self.private["links"].append(private_link(case, link, read, self.pseudonyms))
        answered = {link.lesion_id for read in case.reports for link in read.links}
        for lesion in case.lesions:
            if lesion.lesion_id not in answered:  # no report speaks of its study
                alone = Link(None, lesion.lesion_id, Decision.UNMATCHED, 0.0)
                self.private["links"].append(private_link(case, alone, None, self.pseudonyms))
        verdicts = self.task.verdicts.get(case.patient_key, ())
        self.private["review"] += review_candidates(case, verdicts, self.task.config.link, self.pseudonyms)
        self._count("patients")
        self._count("lesions", len(case.lesions))

    def _crosswalk(self, kind: str, original: str) -> None:
        pseudonym = self.pseudonyms.pseudonym(kind, original)
        self.private["crosswalk"].append({"kind": kind, "pseudonym": pseudonym, "original": original})

    def _skip_all(self, skips: Iterable[Skip]) -> None:
        for skip in skips:
            self._skip(skip)

    def _skip(self, skip: Skip) -> None:
        self.private["skips"].append(private_skip(skip, self.pseudonyms))
        self._count("skips")
        self.retry |= skip.reason in _WORTH_ANOTHER_TRY
        if skip.failure:
            kind = "before_lesions" if skip.stage in _BEFORE_LESIONS else skip.stage
            self._count(f"failures_{kind}")

    def _fail(self, lesion_id: str, outcome: str) -> None:
        """Note that a lesion gets no row because something is broken."""
        self._lost[lesion_id] = outcome
        self._count("lesions_failed")

    def _count(self, name: str, n: int = 1) -> None:
        self.counts[name] = self.counts.get(name, 0) + n


def _said(reports: Iterable[ReadReport]) -> dict[str, list[Said | None]]:
    """LINKED findings by lesion; two reports may speak of one lesion."""
    said: dict[str, list[Said | None]] = {}
    for read in reports:
        findings = {finding.finding_id: finding for finding in read.findings}
        for link in read.links:
            if link.decision is Decision.LINKED and link.lesion_id and link.finding_id:
                said.setdefault(link.lesion_id, []).append(Said(read, findings[link.finding_id], link))
    return said
