"""Engines and extractors of anybody: found by name, refused early, and made reliable.

An engine may raise in the middle, forget a lesion, answer one twice, stop early or paint outside the volume. Behind
``answer_all`` every job gets exactly one answer, and what goes wrong costs the lesion it happened to, and no other.
"""

from __future__ import annotations

import json
import logging
import os
import pickle
import sys
import threading
from collections.abc import Generator, Iterable, Iterator, Mapping
from contextlib import AbstractContextManager
from dataclasses import dataclass, field, replace
from functools import lru_cache
from typing import TYPE_CHECKING, Any

from cohort_builder.anatomy.locators import AnatomyLocator, load_locator
from cohort_builder.anatomy.organs import table_revision
from cohort_builder.bookkeeping import identity
from cohort_builder.errors import CohortError, ConfigError, SetupError
from nlp import EXTRACTORS, ExtractorError, load_extractor
from segmentation import load_segmenter
from segmentation.types import EngineError, Mask, SegmentationFailure, SegmentationJob, Segmenter

if TYPE_CHECKING:
    from nlp.findings import Extractor

logger = logging.getLogger("cohort_builder")

Answer = Mask | SegmentationFailure

ENGINE_FAILED, NO_ANSWER, INVALID_MASK = "engine_failed", "no_answer", "invalid_mask"
BROKEN_ENGINE = frozenset({ENGINE_FAILED, NO_ANSWER, INVALID_MASK, "out_of_memory"})
"""Reasons that speak of the engine or the machine, not of the lesion."""


class Fault(SegmentationFailure):
    """A failure that ``answer_all`` noted, in words of ours: an engine's own may be anybody's."""


# ---- which ---------------------------------------------------------------------------------------------------------


@dataclass(frozen=True, slots=True)
class Engines:
    """Who finds and who segments in a run: objects, or names with what they are loaded with. Free of arrays.

    Parameters
    ----------
    extractor, segmenter
        Name or object.
    weights, device, options
        Of a named segmenter (``segmentation.load_segmenter``).
    weights_sha256
        The weights that ``required`` found: another process must find the same.
    extractor_options
        Of a named extractor (``nlp.load_extractor``).
    anatomy
        Name or object of what names organs.

    """

    extractor: str | Extractor
    segmenter: str | Segmenter
    weights: str | None = None
    device: str | None = "auto"
    options: Mapping[str, Any] = field(default_factory=dict)
    weights_sha256: str | None = None
    extractor_options: Mapping[str, Any] = field(default_factory=dict)
    anatomy: str | AnatomyLocator = "regions"

    def required(self, workers: int) -> Engines:
        """Load both, and refuse what is wrong at the call, not after an hour of indexing.

        Raises
        ------
        ConfigError
            A wrong name, option or object; the message lists what is allowed. Or an object that ``workers`` processes
            cannot share.
        SetupError
            The weights or the device are not there.

        """
        release()  # a file of weights may be another one than in an earlier run of this process
        if isinstance(self.extractor, str) and self.extractor not in EXTRACTORS:
            raise ConfigError(f"unknown extractor {self.extractor!r}; known: {', '.join(sorted(EXTRACTORS))}")
        if not isinstance(self.extractor, str) and not callable(getattr(self.extractor, "extract", None)):
            raise ConfigError("extractor= must be a name or an object with the methods of nlp.Extractor")
        if not isinstance(self.segmenter, str) and (self.weights is not None or self.options):
            raise ConfigError("weights= and engine_options go with the name of an engine; an object brings its own")
        if not isinstance(self.extractor, str) and self.extractor_options:
            raise ConfigError("extractor_options go with the name of an extractor; an object brings its own")
        if not isinstance(self.anatomy, str) and not callable(getattr(self.anatomy, "organ_at", None)):
            raise ConfigError("anatomy= must be a name or an object with the methods of cohort_builder.AnatomyLocator")
        self.load_extractor()
        self.load_locator()
        engine = self.load_segmenter()
        if not isinstance(engine, Segmenter):
            raise ConfigError("segmenter= must be a name or an object with the methods of segmentation.Segmenter")
        if workers > 1:
            _require_sendable(extractor=self.extractor, segmenter=self.segmenter, anatomy=self.anatomy)
        return replace(self, weights_sha256=getattr(engine, "weights_sha256", None))

    def load_segmenter(self) -> Segmenter:
        """Load once a process: weights are large.

        Raises
        ------
        ConfigError, SetupError
            See ``required``; also where the weights are no longer those of the run.

        """
        if not isinstance(self.segmenter, str):
            return self.segmenter
        engine = _named_segmenter(
            self.segmenter, self.weights, self.device, json.dumps(dict(self.options), sort_keys=True)
        )
        if self.weights_sha256 not in {None, getattr(engine, "weights_sha256", None)}:
            raise SetupError("the weights changed while the run was going on; run again: they decide about every shard")
        return engine

    def load_extractor(self) -> Extractor:
        """Load once a process: a model of language is large, too.

        Raises
        ------
        ConfigError, SetupError
            See ``required``.

        """
        if not isinstance(self.extractor, str):
            return self.extractor
        return _named_extractor(self.extractor, json.dumps(dict(self.extractor_options), sort_keys=True))

    def load_locator(self) -> AnatomyLocator | None:
        """Load once a process; None where organs are not asked for. Raises as ``required`` does."""
        return load_locator(self.anatomy) if isinstance(self.anatomy, str) else self.anatomy

    def languages(self) -> frozenset[str] | None:
        """What the extractor reads, as codes of ISO 639-1; None for any."""
        languages: frozenset[str] | None = getattr(self.load_extractor(), "languages", None)
        return None if languages is None else frozenset(languages)

    def identities(self) -> dict[str, object]:
        """What decides about the answers of both, for the fingerprint of the shards.

        A named one says itself what it is, its weights included: they may come from a folder of the machine. How it
        was loaded counts, not what it keeps while it works.
        """
        extractor, engine, locator = self.load_extractor(), self.load_segmenter(), self.load_locator()
        return {
            "extractor": identity(extractor, _decisive(self.extractor, extractor, self.extractor_options)),
            "segmenter": identity(engine, _decisive(self.segmenter, engine, self.options)),
            "anatomy": identity(locator, _decisive(self.anatomy, locator, {})) | {"table": table_revision()},
        }


def _decisive(given: object, loaded: object, options: Mapping[str, Any]) -> dict[str, Any] | None:
    """The options of a named component that decide about its answers; None for an object, which has its own."""
    neutral: frozenset[str] = getattr(loaded, "neutral_options", frozenset())
    named = isinstance(given, str)
    return {name: value for name, value in options.items() if name not in neutral} if named else None


def release() -> None:
    """Forget what is loaded: where workers load their own, this process need not keep one on the device."""
    _named_segmenter.cache_clear()
    _named_extractor.cache_clear()


def share_cores(workers: int) -> None:
    """Let the torch of this worker process use its share of the cores; without torch, do nothing."""
    torch = sys.modules.get("torch")
    if torch is not None and workers > 1:
        # Where it exists: not on macOS.
        cores = len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1
        share = max(1, cores // workers)
        torch.set_num_threads(min(share, torch.get_num_threads()))


@lru_cache(maxsize=1)
def _named_segmenter(name: str, weights: str | None, device: str | None, options: str) -> Segmenter:
    """Load an engine; ``options`` are JSON, whose lists become tuples, as in a signature of Python."""
    values = {key: tuple(value) if isinstance(value, list) else value for key, value in json.loads(options).items()}
    own = sorted({"name", "weights", "device"} & values.keys())
    if own:
        raise ConfigError(f"no option of an engine, but an argument of its own: {', '.join(own)}")
    try:
        return load_segmenter(name, weights=weights, device=device, **values)
    except EngineError as error:
        raise _lacking(error) from error
    except ValueError as error:
        raise ConfigError(str(error)) from error


@lru_cache(maxsize=1)
def _named_extractor(name: str, options: str) -> Extractor:
    try:
        return load_extractor(name, **json.loads(options))
    except ExtractorError as error:
        raise _lacking(error) from error
    except ValueError as error:
        raise ConfigError(str(error)) from error


def _lacking(error: EngineError | ExtractorError) -> SetupError:
    """Say what the machine lacks, in the engine's words."""
    return SetupError(str(error))


def _require_sendable(**components: object) -> None:
    for name, component in components.items():
        if isinstance(component, str):
            continue
        try:
            pickle.dumps(component)
        except Exception as error:
            raise ConfigError(
                f"the {name} object cannot be sent to other processes ({type(error).__name__}): define its class at "
                "the top of a module that can be imported, or use workers = 1"
            ) from error


# ---- their answers -------------------------------------------------------------------------------------------------


def answer_all(
    segmenter: Segmenter, jobs: Iterable[SegmentationJob], turn: AbstractContextManager[object] | None = None
) -> Iterator[Answer]:
    """Stream ``jobs`` through the engine and yield one answer for each, in the order of the engine.

    Where the engine raises, the lesions it held at that moment are given to it again one by one, and then the rest;
    where it ends without having asked for all, it gets the rest. Besides the engine's own failures:
    ``engine_failed`` (it raised on this lesion), ``no_answer`` and ``invalid_mask`` (not inside the volume). Each time,
    at least one lesion is settled: an engine that always fails comes to an end, too.

    Nothing of a failed call is kept while the next one runs: what its frames hold may be the memory that was short.

    Parameters
    ----------
    segmenter
        May ask for jobs from threads of its own.
    jobs
        Read by one thread at a time, while it holds ``turn``.
    turn
        A lock that is not reentrant. Whoever shares state with ``jobs`` holds it while using that state.

    Raises
    ------
    SetupError
        The engine says that it cannot run on this machine, or raises without taking a lesion: neither is this
        lesion's fault.
    Exception
        What ``jobs`` itself raises.

    """
    handout = _Handout(jobs, threading.Lock() if turn is None else turn)
    while not handout.exhausted:
        before = handout.count
        failed_with = yield from _ask(segmenter, handout)
        if failed_with is not None:
            yield from _again(segmenter, handout, failed_with)
            continue
        yield from map(_no_answer, handout.take_back())
        if handout.count == before:  # it asks for no more
            yield from map(_no_answer, handout.rest())


def _again(segmenter: Segmenter, handout: _Handout, failed_with: str) -> Iterator[Answer]:
    """Ask once more, one by one, for the lesions that a failed engine held."""
    waiting = handout.take_back()
    while waiting:
        alone = _Handout([waiting.pop(0)], handout.turn)
        kind = yield from _ask(segmenter, alone)
        yield from (_engine_failed(left, kind or failed_with) for left in (*alone.take_back(), *alone.rest()))


class _Handout:
    """Jobs on their way through an engine. Not a generator: an engine that dies would close it."""

    def __init__(self, jobs: Iterable[SegmentationJob], turn: AbstractContextManager[object]) -> None:
        self._jobs = iter(jobs)
        self._held: dict[str, SegmentationJob] = {}
        self._asking: _Supply | None = None
        self.turn = turn
        self.count = 0
        self.exhausted = False
        self.error: Exception | None = None

    def supply(self) -> _Supply:
        """Open the jobs to the next call of the engine, and close them to what is left of the one before."""
        self._asking = _Supply(self)
        return self._asking

    def next_for(self, asking: _Supply) -> SegmentationJob:
        """Hand out the next job; nothing to a call that has ended, whose threads may not know yet."""
        with self.turn:
            if asking is not self._asking:
                raise StopIteration
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
            yield Fault(job.job_id, INVALID_MASK, "the mask is not inside the volume")
        else:
            yield answer

    def take_back(self) -> list[SegmentationJob]:
        """End the call: what was handed out and not answered."""
        with self.turn:
            self._asking = None
            held = list(self._held.values())
            self._held.clear()
            return held

    def rest(self) -> Iterator[SegmentationJob]:
        """Every job that was not handed out, taken back at once."""
        for job in self.supply():
            del self._held[job.job_id]
            yield job


class _Supply:
    """What one call of ``Segmenter.segment`` takes its jobs from, in any thread."""

    def __init__(self, handout: _Handout) -> None:
        self._handout = handout

    def __iter__(self) -> Iterator[SegmentationJob]:
        return self

    def __next__(self) -> SegmentationJob:
        return self._handout.next_for(self)


def _ask(segmenter: Segmenter, jobs: _Handout) -> Generator[Answer, None, str | None]:
    """Yield what the engine answers; return the kind of what it raised, None if it ended by itself.

    The kind alone: the exception holds the frames it went through, with all their volumes and tensors.
    """
    before = jobs.count
    answers = _answers(segmenter, jobs.supply())
    while True:
        try:
            answer = next(answers)
        except StopIteration:
            if jobs.error is not None:
                raise jobs.error from None
            return None
        except CohortError:
            raise
        except EngineError as error:
            raise _lacking(error) from error
        except Exception as error:
            if jobs.error is not None:
                raise
            kind = type(error).__name__
            if jobs.count == before and not jobs.exhausted:
                raise SetupError(
                    f"the segmentation engine fails with {kind} before it takes a lesion; mend it and run again: "
                    "finished shards are kept"
                ) from error
            return kind
        yield from jobs.settle(answer)


def _answers(segmenter: Segmenter, jobs: Iterable[SegmentationJob]) -> Iterator[object]:
    yield from segmenter.segment(jobs)


def _is_inside(mask: Mask, job: SegmentationJob) -> bool:
    ends = [offset + length for offset, length in zip(mask.offset, mask.voxels.shape, strict=True)]
    shape = job.volume.voxels.shape
    return min(mask.offset) >= 0 and all(end <= limit for end, limit in zip(ends, shape, strict=True))


def _no_answer(job: SegmentationJob) -> SegmentationFailure:
    return Fault(job.job_id, NO_ANSWER, "the engine did not answer this lesion")


def _engine_failed(job: SegmentationJob, kind: str) -> SegmentationFailure:
    return Fault(job.job_id, ENGINE_FAILED, f"the engine failed with {kind}")
