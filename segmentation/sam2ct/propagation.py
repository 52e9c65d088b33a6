"""The wavefront: every lesion of a volume, and of the next volumes, in both directions, advances as one batch.

A step segments the next slice of every pass that is under way. Passes that end leave the batch, and lesions that wait
enter it. A slice is encoded once for all lesions that come near it, and forgotten when none can any more. Memory is
bounded by the batch and the budget of the features, not by the slices or lesions of a volume.
"""

from __future__ import annotations

import logging
from collections import defaultdict, deque
from collections.abc import Callable, Hashable, Iterable, Iterator, Sequence
from contextlib import AbstractContextManager
from dataclasses import dataclass
from typing import Any, TypeVar

import torch

from segmentation.ellipsoid import unsupported
from segmentation.sam2ct.features import FeatureStore
from segmentation.sam2ct.frames import Ends, Frame, region_of_interest, whole_slices
from segmentation.sam2ct.model import SAM2CTModel
from segmentation.sam2ct.passes import PIECES_DROPPED, STOPPED_FLOOD, Lesion, Memory, Pass, Section, floods, recall
from segmentation.sam2ct.prompts import network_prompt
from segmentation.sam2ct.steps import PointPrompt, Step
from segmentation.types import Mask, SegmentationError, SegmentationFailure, SegmentationJob

logger = logging.getLogger("segmentation")

_Item = TypeVar("_Item")
_STABILITY_OFFSET = 1.0
"""Logits above +1 against above -1, as SAM scores the stability of a mask."""

OUT_OF_MEMORY = "out_of_memory"
_NO_MEMORY = ("can't allocate memory", "out of memory", "CUBLAS_STATUS_ALLOC_FAILED", "CUDNN_STATUS_ALLOC")
"""Of the messages of other allocators than that of torch on a GPU: the CPU's, the driver's, those of libraries."""


@dataclass(frozen=True, slots=True)
class Plan:
    """How to propagate.

    Parameters
    ----------
    batch
        Passes under way at once; a lesion has two.
    group
        Passes in one call of the network at most, and slices in one call of the image encoder; halved where memory does
        not suffice.
    ragged
        Let passes of different lengths share a call, the shorter ones padded: fewer and larger calls, for a GPU.
    volumes
        Volumes under way at once, at most; and no more than twice as many are begun before the oldest is done. One more
        may be held, whose first job ended the jobs of the one before.
    features_mb
        Memory for image embeddings that are kept because another lesion may need their slice.
    guards
        Leave out pieces of a mask that are apart from the lesion, and stop a pass whose next section cannot be the same
        lesion; flagged.
    extent
        (down, up): segment exactly so many slices beside the prompted one, empty or not; for benchmarks, where random
        weights say nothing of where a lesion ends. None: to the first empty slice.

    """

    batch: int
    group: int
    ragged: bool
    volumes: int = 4
    features_mb: float = 1024.0
    guards: bool = True
    extent: tuple[int, int] | None = None


class Wavefront:
    """Segments one stream of jobs with one model.

    Parameters
    ----------
    engine, weights_sha256
        What the masks say of who made them.
    computing
        Makes the context that the network runs in: no gradients, mixed precision.

    """

    def __init__(
        self,
        model: SAM2CTModel,
        plan: Plan,
        *,
        engine: str,
        weights_sha256: str | None,
        computing: Callable[[], AbstractContextManager[Any]],
    ) -> None:
        self.model, self.plan, self.config = model, plan, model.config
        self._engine, self._weights_sha256, self._computing = engine, weights_sha256, computing
        self._group = max(plan.group, 1)
        self._open: dict[Lesion, None] = {}
        self._waiting: deque[Lesion] = deque()
        self._passes: list[Pass] = []
        self._answers: deque[Mask | SegmentationFailure] = deque()
        self._features = FeatureStore(model, plan.features_mb)
        self._next_job: SegmentationJob | None = None
        self._volumes_pulled = 0

    def run(self, jobs: Iterable[SegmentationJob]) -> Iterator[Mask | SegmentationFailure]:
        """Answer every job once, in any order."""
        stream = iter(jobs)
        while True:
            self._admit(stream)
            self._advance()
            yield from self.answers()
            if not self._open and self._next_job is None:
                return

    def answers(self) -> Iterator[Mask | SegmentationFailure]:
        """Hand out the answers that are ready."""
        while self._answers:
            yield self._answers.popleft()

    @property
    def unanswered(self) -> list[SegmentationJob]:
        """Jobs that were taken from the stream and have no answer yet."""
        jobs = [lesion.job for lesion in self._open]
        return jobs if self._next_job is None else [*jobs, self._next_job]

    # ---- lesions in ---------------------------------------------------------------------------------------------

    def _admit(self, stream: Iterator[SegmentationJob]) -> None:
        """Fill the batch: with lesions that wait, then with those of the next volume.

        No further than to an answer: what ends on its prompted slice would let the whole stream in at once.
        """
        while len(self._passes) < max(self.plan.batch - 1, 1) and not self._answers:
            if not self._waiting:
                self._pull_volume(stream)
            if not self._waiting:
                return
            room = max((self.plan.batch - len(self._passes)) // 2, 1)
            self._start([self._waiting.popleft() for _ in range(min(room, len(self._waiting)))])

    def _pull_volume(self, stream: Iterator[SegmentationJob]) -> None:
        """Take the jobs of one volume, in the order of their slices, so that neighbours are under way together."""
        if self._far_ahead():
            return
        job = self._next_job or next(stream, None)
        self._next_job = None
        if job is None:
            return
        volume, lesions = job.volume, []
        under_way = next((lesion for lesion in self._open if lesion.job.volume is volume), None)
        if under_way is None:
            self._volumes_pulled += 1
        number = under_way.volume_number if under_way else self._volumes_pulled
        whole = under_way.frame.whole if under_way else whole_slices(volume, self.config)
        while job is not None and job.volume is volume:
            lesion = self._prepare(job, whole, number)
            if lesion is not None:
                lesions.append(lesion)
            job = next(stream, None)
        self._next_job = job
        self._waiting.extend(sorted(lesions, key=lambda lesion: lesion.prompt.slice_index))

    def _far_ahead(self) -> bool:
        """Whether enough volumes are under way, or one takes so long that others pile up behind it.

        Whoever writes in the order of the stream holds every volume since the oldest that has no answer yet.
        """
        numbers = {lesion.volume_number for lesion in self._open}
        oldest = min(numbers, default=self._volumes_pulled)
        return len(numbers) >= self.plan.volumes or self._volumes_pulled - oldest >= 2 * self.plan.volumes

    def _prepare(self, job: SegmentationJob, whole: Frame, volume_number: int) -> Lesion | None:
        """Check the job's first prompt; what cannot be segmented is answered at once."""
        try:
            prompt = network_prompt(job.prompts[0], job.volume, point_types=self.config.prompt_embeddings)
        except SegmentationError as error:
            self._answers.append(SegmentationFailure(job.job_id, "bad_prompt", str(error)))
            return None
        if prompt is None:
            self._answers.append(unsupported(job, self._engine.partition("@")[0]))
            return None
        lesion = Lesion(job, prompt, region_of_interest(whole, prompt, self.config), volume_number)
        self._open[lesion] = None
        return lesion

    def _start(self, lesions: Sequence[Lesion]) -> None:
        """Segment the prompted slices; lesions whose networks are told alike share a call."""
        for alike in _split(lesions, key=lambda lesion: (lesion.frame.side, lesion.prompt.labels)):
            self._in_groups(alike, self._prompt, lambda lesion: lesion)

    def _prompt(self, lesions: Sequence[Lesion]) -> None:
        keys = [(lesion.frame, lesion.prompt.slice_index) for lesion in lesions]
        with self._computing():
            features = self._features.get(keys)
            if lesions[0].prompt.mask is None:
                given = [lesion.frame.points(lesion.prompt) for lesion in lesions]
                points = PointPrompt(torch.cat([p.points for p in given]), torch.cat([p.labels for p in given]))
                step = self.model.prompt(features, points=points)
            else:
                masks = torch.cat([lesion.frame.mask(lesion.prompt) for lesion in lesions])
                step = self.model.prompt(features, mask=masks.to(features.low.device))
            sections = _sections(step, [lesion.frame for lesion in lesions])
            memories = _memories(step)
        # Nothing below allocates on the device: a call is done wholly or not at all.
        for lesion, section, memory in zip(lesions, sections, memories, strict=True):
            drawn = lesion.frame.drawn(lesion.prompt)
            if drawn is not None:
                self._begin(lesion, Section.of(drawn, 1.0, 1.0), memory)
                continue
            self._begin(lesion, self._at(lesion.frame.middle_of(lesion.prompt), section, lesion), memory)

    def _begin(self, lesion: Lesion, section: Section, memory: Memory) -> None:
        """Take the section of the prompted slice, and start the passes from it."""
        flooded = self.plan.guards and floods(section, lesion)
        if self._runs_out(section, lesion) and not flooded:
            self._enlarge(lesion)
            return
        lesion.sections[lesion.prompt.slice_index] = section
        if flooded:
            lesion.flags.add(STOPPED_FLOOD)
        elif section.area > 0 or self.plan.extent is not None:
            for direction in (-1, 1):
                begun = Pass(lesion, direction, lesion.prompt.slice_index, section, memory)
                if not self._is_over(begun):
                    lesion.passes.append(begun)
                    self._passes.append(begun)
        self._finish_if_done(lesion)

    def _runs_out(self, section: Section, lesion: Lesion) -> bool:
        """Whether the lesion goes on beyond the region that the network saw."""
        return self.plan.extent is None and section.area > 0 and lesion.frame.is_left_by(section.ends)

    # ---- one step -----------------------------------------------------------------------------------------------

    def _advance(self) -> None:
        """Segment the next slice of every pass."""
        under_way = list(self._passes)
        for alike in _split(under_way, key=lambda p: (p.lesion.frame.side, () if self.plan.ragged else p.length)):
            self._in_groups(alike, self._track, lambda p: p.lesion)
        self._features.forget(self._passes, self._waiting)

    def _track(self, passes: Sequence[Pass]) -> None:
        # An earlier call of this step may have ended the lesion of a pass that was still to come.
        passes = [p for p in passes if p in p.lesion.passes]
        if not passes:
            return
        with self._computing():
            features = self._features.get([(p.lesion.frame, p.next_slice) for p in passes])
            step = self.model.track(features, recall(passes, self.config))
            sections = _sections(step, [p.lesion.frame for p in passes])
            memories = _memories(step)
        for p, section, memory in zip(passes, sections, memories, strict=True):
            if p in p.lesion.passes:
                self._go_on(p, self._at(p.last.ends, section, p.lesion), memory)

    def _at(self, ends: Ends | None, section: Section, lesion: Lesion) -> Section:
        """Leave out what is apart from this part of the frame, or from what was pointed at; the memory keeps it."""
        if not self.plan.guards:
            return section
        kept = section.near(ends) if ends else section.nearest(lesion.frame.meant_by(lesion.prompt))
        if kept.area < section.area:
            lesion.flags.add(PIECES_DROPPED)
        return kept

    def _go_on(self, p: Pass, section: Section, memory: Memory) -> None:
        """Take the next section of a pass, or end it."""
        lesion = p.lesion
        ends = section.area == 0 and self.plan.extent is None
        objection = p.objection(section) if self.plan.guards and not ends else None
        if objection:
            lesion.flags.add(objection)
        elif self._runs_out(section, lesion):
            self._enlarge(lesion)
            return
        if not ends and not objection:
            lesion.sections[p.next_slice] = section
            p.remember(section, memory, self.config)
        if ends or objection or self._is_over(p):
            lesion.passes.remove(p)
            self._passes.remove(p)
            self._finish_if_done(lesion)

    def _is_over(self, p: Pass) -> bool:
        return p.at_end or (self.plan.extent is not None and p.steps >= self.plan.extent[p.direction > 0])

    # ---- lesions out --------------------------------------------------------------------------------------------

    def _enlarge(self, lesion: Lesion) -> None:
        """Begin again with a region twice as large: the lesion runs out of the one that the network saw."""
        self._drop(lesion)
        lesion.frame = region_of_interest(lesion.frame.whole, lesion.prompt, self.config, larger_than=lesion.frame)
        lesion.sections.clear()
        lesion.flags.clear()
        self._waiting.appendleft(lesion)

    def _finish_if_done(self, lesion: Lesion) -> None:
        if not lesion.passes:
            self._answers.append(lesion.answer(self._engine, self._weights_sha256))
            del self._open[lesion]

    def _fail(self, lesion: Lesion, reason: str, detail: str) -> None:
        self._drop(lesion)
        self._answers.append(SegmentationFailure(lesion.job.job_id, reason, detail))
        del self._open[lesion]

    def _drop(self, lesion: Lesion) -> None:
        """Take its passes out of the batch."""
        self._passes = [p for p in self._passes if p.lesion is not lesion]
        lesion.passes.clear()

    # ---- memory -------------------------------------------------------------------------------------------------

    def _in_groups(
        self, items: Sequence[_Item], work: Callable[[Sequence[_Item]], None], lesion_of: Callable[[_Item], Lesion]
    ) -> None:
        """Do ``work`` on as many items at once as fit into memory; one that twice does not fit costs its lesion.

        Twice: before the second time everything is freed that is only kept because another lesion may need it.
        """
        done, alone = 0, -1
        while done < len(items):
            group = items[done : done + self._group]
            try:
                work(group)
            except RuntimeError as error:
                if not is_out_of_memory(error):
                    raise
            else:
                done += len(group)
                continue
            # Out here, where no traceback holds the tensors of the failed call any more.
            self._features.clear()
            if torch.cuda.is_available():
                torch.cuda.empty_cache()
            if len(group) > 1:
                self._group = len(group) // 2
                logger.warning("%d passes do not fit into memory at once; going on with %d", len(group), self._group)
            elif alone != done:
                alone = done
            else:
                detail = f"one slice of {self.config.image_size} pixels does not fit into the memory of the device"
                self._fail(lesion_of(group[0]), OUT_OF_MEMORY, detail)
                done += 1


def is_out_of_memory(error: BaseException) -> bool:
    """Whether a GPU (or the allocator of the CPU) had no more memory."""
    return isinstance(error, torch.OutOfMemoryError) or any(words in str(error) for words in _NO_MEMORY)


def _split(items: Sequence[_Item], key: Callable[[_Item], Hashable]) -> list[list[_Item]]:
    """Put items of equal ``key`` together, in the order of their first."""
    found: defaultdict[Hashable, list[_Item]] = defaultdict(list)
    for item in items:
        found[key(item)].append(item)
    return list(found.values())


def _memories(step: Step) -> list[Memory]:
    """What to keep of each row, copied so that the rest of the batch can be freed."""
    return [(memory.clone(), pointer.clone()) for memory, pointer in zip(step.memory, step.pointer, strict=True)]


def _sections(step: Step, frames: Sequence[Frame]) -> list[Section]:
    """Masks on the pixels of the frames, and their numbers; one transfer from the device for frames of one shape."""
    confidence = (step.iou.float() * torch.sigmoid(step.object_score.float())).clamp(0, 1).tolist()
    sections: dict[int, Section] = {}
    for rows in _split(range(len(frames)), key=lambda i: (frames[i].rows, frames[i].columns, frames[i].transposed)):
        logits = frames[rows[0]].to_slice(step.logits[rows])
        strict = (logits > _STABILITY_OFFSET).sum(dim=(1, 2))
        lax = (logits > -_STABILITY_OFFSET).sum(dim=(1, 2))
        stability = (strict / lax.clamp(min=1)).tolist()
        masks = (logits > 0).cpu().numpy()
        for i, row in enumerate(rows):
            sections[row] = Section.of(masks[i], confidence[row], stability[i])
    return [sections[row] for row in range(len(frames))]
