"""Engines and extractors of anybody: found by name, refused early, and made reliable.

An engine may raise in the middle, forget a lesion, answer one twice, stop early or paint outside the volume. Behind
``answer_all`` every job gets exactly one answer, and what goes wrong costs the lesion it happened to, and no other.
"""

from __future__ import annotations

import logging
import pickle
from collections.abc import Generator, Iterable, Iterator
from functools import lru_cache
from typing import TYPE_CHECKING

from cohort_builder.errors import CohortError, ConfigError, SetupError
from nlp import EXTRACTORS, load_extractor
from segmentation import load_segmenter
from segmentation.types import Mask, SegmentationFailure, SegmentationJob, Segmenter

if TYPE_CHECKING:
    from nlp.findings import Extractor

logger = logging.getLogger("cohort_builder")

Answer = Mask | SegmentationFailure

ENGINE_FAILED, NO_ANSWER, INVALID_MASK = "engine_failed", "no_answer", "invalid_mask"
BROKEN_ENGINE = frozenset({ENGINE_FAILED, NO_ANSWER, INVALID_MASK})
"""Reasons that speak of the engine, not of the lesion."""


def require_engines(
    extractor: str | Extractor, segmenter: str | Segmenter, weights: str | None, device: str | None
) -> None:
    """Refuse a wrong name, weights, device or object at the call, not after an hour of indexing.

    Raises
    ------
    ConfigError
        The message lists what is allowed.

    """
    if isinstance(extractor, str) and extractor not in EXTRACTORS:
        raise ConfigError(f"unknown extractor {extractor!r}; known: {', '.join(sorted(EXTRACTORS))}")
    if not isinstance(extractor, str) and not callable(getattr(extractor, "extract", None)):
        raise ConfigError("extractor= must be a name or an object with the methods of nlp.Extractor")
    try:
        if not isinstance(loaded_segmenter(segmenter, weights, device), Segmenter):
            raise ConfigError("segmenter= must be a name or an object with the methods of segmentation.Segmenter")
    except ValueError as error:
        raise error if isinstance(error, ConfigError) else ConfigError(str(error)) from error


def require_sendable(extractor: object, segmenter: object, workers: int) -> None:
    """Refuse objects that several processes cannot share.

    Raises
    ------
    ConfigError
        It cannot be pickled.

    """
    for name, component in (("extractor", extractor), ("segmenter", segmenter)):
        if workers == 1 or component is None or isinstance(component, str):
            continue
        try:
            pickle.dumps(component)
        except Exception as error:
            raise ConfigError(
                f"the {name} object cannot be sent to other processes ({type(error).__name__}): define its class at "
                "the top of a module that can be imported, or use workers = 1"
            ) from error


@lru_cache(maxsize=1)
def _named_segmenter(name: str, weights: str | None, device: str | None) -> Segmenter:
    return load_segmenter(name, weights=weights, device=device)


def loaded_segmenter(segmenter: str | Segmenter, weights: str | None, device: str | None) -> Segmenter:
    """Load once a process: weights are large."""
    return _named_segmenter(segmenter, weights, device) if isinstance(segmenter, str) else segmenter


@lru_cache(maxsize=1)
def _named_extractor(name: str) -> Extractor:
    return load_extractor(name)


def loaded_extractor(extractor: str | Extractor) -> Extractor:
    """Load once a process."""
    return _named_extractor(extractor) if isinstance(extractor, str) else extractor


def answer_all(segmenter: Segmenter, jobs: Iterable[SegmentationJob]) -> Iterator[Answer]:
    """Stream ``jobs`` through the engine and yield one answer for each, in the order of the engine.

    Where the engine raises, the lesions it held at that moment are given to it again one by one, and then the rest;
    where it ends without having asked for all, it gets the rest. Besides the engine's own failures:
    ``engine_failed`` (it raised on this lesion), ``no_answer`` and ``invalid_mask`` (not inside the volume).

    Raises
    ------
    SetupError
        The engine raises without taking a lesion: it is not this lesion's fault.
    Exception
        What ``jobs`` itself raises.

    """
    handout = _Handout(jobs)
    while not handout.exhausted:
        before = handout.count
        error = yield from _ask(segmenter, handout)
        held = handout.take_back()
        if error is None:
            yield from map(_no_answer, held)
            if handout.count == before:  # it asks for no more
                yield from map(_no_answer, handout)
        elif handout.count == before and not handout.exhausted:
            raise SetupError(
                f"the segmentation engine fails with {type(error).__name__} before it takes a lesion; mend it and run "
                "again: finished shards are kept"
            ) from error
        elif len(held) == 1:
            yield _engine_failed(held[0], error)
        else:
            for job in held:
                alone = _Handout([job])
                again = yield from _ask(segmenter, alone)
                yield from (_engine_failed(left, again or error) for left in alone.take_back())


class _Handout:
    """Jobs on their way through an engine. Not a generator: an engine that dies would close it."""

    def __init__(self, jobs: Iterable[SegmentationJob]) -> None:
        self._jobs = iter(jobs)
        self._held: dict[str, SegmentationJob] = {}
        self.count = 0
        self.exhausted = False
        self.error: Exception | None = None

    def __iter__(self) -> Iterator[SegmentationJob]:
        return self

    def __next__(self) -> SegmentationJob:
        try:
            job = next(self._jobs)
        except StopIteration:
            self.exhausted = True
            raise
        except Exception as error:
            self.error = error
            raise
        self._held[job.job_id] = job
        self.count += 1
        return job

    def settle(self, answer: object) -> Iterator[Answer]:
        """Yield the answer if it is one to a lesion that waits for it."""
        job = self._held.pop(answer.job_id, None) if isinstance(answer, Mask | SegmentationFailure) else None
        if job is None or not isinstance(answer, Mask | SegmentationFailure):
            logger.warning("the engine answered a lesion twice, or one that it was not asked for: not used")
        elif isinstance(answer, Mask) and not _is_inside(answer, job):
            yield SegmentationFailure(job.job_id, INVALID_MASK, "the mask is not inside the volume")
        else:
            yield answer

    def take_back(self) -> list[SegmentationJob]:
        """What was handed out and not answered."""
        held = list(self._held.values())
        self._held.clear()
        return held


def _ask(segmenter: Segmenter, jobs: _Handout) -> Generator[Answer, None, Exception | None]:
    """Yield what the engine answers and return what it raised; None if it ended by itself."""
    answers = _answers(segmenter, jobs)
    while True:
        try:
            answer = next(answers)
        except StopIteration:
            if jobs.error is not None:
                raise jobs.error from None
            return None
        except CohortError:
            raise
        except Exception as error:
            if jobs.error is not None:
                raise
            return error
        yield from jobs.settle(answer)


def _answers(segmenter: Segmenter, jobs: Iterable[SegmentationJob]) -> Iterator[object]:
    yield from segmenter.segment(jobs)


def _is_inside(mask: Mask, job: SegmentationJob) -> bool:
    ends = [offset + length for offset, length in zip(mask.offset, mask.voxels.shape, strict=True)]
    shape = job.volume.voxels.shape
    return min(mask.offset) >= 0 and all(end <= limit for end, limit in zip(ends, shape, strict=True))


def _no_answer(job: SegmentationJob) -> SegmentationFailure:
    return SegmentationFailure(job.job_id, NO_ANSWER, "the engine did not answer this lesion")


def _engine_failed(job: SegmentationJob, error: Exception) -> SegmentationFailure:
    return SegmentationFailure(job.job_id, ENGINE_FAILED, f"the engine failed with {type(error).__name__}")
