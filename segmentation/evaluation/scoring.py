"""One engine's answer to one case, measured."""

from __future__ import annotations

import logging
import time
from dataclasses import dataclass, replace

import numpy as np
from numpy.typing import NDArray

from segmentation.checks import check_mask
from segmentation.evaluation.cases import EvaluationCase, prompt_for
from segmentation.metrics import (
    dice,
    dice_by_distance,
    hausdorff95_mm,
    longest_diameter_mm,
    normalised_surface_dice,
    recist_error,
    volume_error,
)
from segmentation.tiers import TierTable
from segmentation.types import EngineError, Mask, SegmentationError, SegmentationFailure, SegmentationJob, Segmenter

logger = logging.getLogger("segmentation")
BoolArray = NDArray[np.bool_]

UNSUPPORTED, BAD_PROMPT = "unsupported_prompt", "bad_prompt"
ENGINE_FAILED, NO_ANSWER = "engine_failed", "no_answer"


@dataclass(frozen=True, slots=True)
class CaseScore:
    """One engine's answer to one case; a failure scores Dice and NSD 0 and errors of 1.

    Parameters
    ----------
    case_id, patient_id, dataset, category, kind, number, digest
        Of the case.
    engine
        Label of the engine in this run.
    longest_mm
        Longest in-plane diameter of the truth.
    nsd
        Normalised surface Dice at 2 mm.
    hd95_mm
        None for a failure: no distance says how far nothing is away.
    volume_error
        Signed fraction of the truth; -1 for a failure.
    recist_error
        Absolute fraction of the truth's longest diameter.
    slices
        Dice of each slice that holds truth, by its distance from the prompted one in slices, negative below it.
    tier
        Of `segmentation.checks.check_mask`; "" for a failure.
    prompt
        How the engine was prompted where that is not what was drawn.
    failure
        Reason; None where there is a mask.

    """

    case_id: str
    engine: str
    dice: float
    volume_error: float
    recist_error: float
    seconds: float
    failure: str | None = None
    nsd: float = 0.0
    hd95_mm: float | None = None
    slices: tuple[tuple[int, float], ...] = ()
    flags: tuple[str, ...] = ()
    tier: str = ""
    prompt: str = ""
    longest_mm: float = 0.0
    patient_id: str = ""
    dataset: str = ""
    category: str = ""
    kind: str = ""
    number: int = 0
    digest: str = ""

    @property
    def patient(self) -> str:
        """Unit of resampling."""
        return self.patient_id or self.case_id

    def of(self, case: EvaluationCase, engine: str) -> CaseScore:
        """Return the same measurements as those of ``case`` by the engine with this label."""
        return replace(
            self,
            case_id=case.case_id,
            engine=engine,
            patient_id=case.patient_id,
            dataset=case.dataset,
            category=case.category,
            kind=case.kind,
            number=case.number,
            digest=case.digest,
        )


def score_case(
    case: EvaluationCase, engine: Segmenter, label: str | None = None, tiers: TierTable | None = None
) -> CaseScore:
    """Ask one engine for one case and measure its answer.

    An engine that raises, gives no answer or a mask outside the volume has failed on the case.

    Raises
    ------
    EngineError
        The engine cannot run on this machine.
    ValueError
        If the truth is empty or of another shape than the image.

    """
    truth, prompted = case.true_mask(), case.job.prompts[0].slice_index
    answer, seconds = ask(case, engine)
    if isinstance(answer, Mask):
        score = _measure(answer, truth, case.job, seconds, tiers)
    else:
        slices = _slice_dice(np.zeros_like(truth.voxels), truth.voxels, prompted - truth.offset[0])
        score = CaseScore("", "", 0.0, -1.0, 1.0, seconds, answer.reason, slices=slices)
    score = replace(score, longest_mm=longest_diameter_mm(truth.voxels, case.job.volume.spacing_mm))
    return score.of(case, label or engine.name)


def ask(case: EvaluationCase, engine: Segmenter) -> tuple[Mask | SegmentationFailure, float]:
    """Segment one case; the answer and the wall time in seconds.

    Raises
    ------
    EngineError
        The engine cannot run on this machine.

    """
    job = case.job
    try:
        told = prompt_for(job.prompts[0], engine.supports, job.volume.spacing_mm)
    except SegmentationError as error:  # an outline of one pixel has no diameters
        return SegmentationFailure(job.job_id, BAD_PROMPT, str(error)), 0.0
    if told is None:
        return SegmentationFailure(job.job_id, UNSUPPORTED), 0.0
    prompt, how = told
    job = SegmentationJob(job.job_id, job.volume, (prompt, *job.prompts[1:]))
    started = time.perf_counter()
    try:
        answers = list(engine.segment([job]))
    except EngineError:
        raise
    except Exception as error:  # noqa: BLE001 - one bad case costs one case: it is scored 0 and listed
        logger.warning("the engine %s failed on a case with %s", engine.name, type(error).__name__)
        answers = [SegmentationFailure(job.job_id, ENGINE_FAILED, type(error).__name__)]
    seconds = time.perf_counter() - started
    answer = next((a for a in answers if a.job_id == job.job_id), None)
    if answer is None:
        return SegmentationFailure(job.job_id, NO_ANSWER), seconds
    if isinstance(answer, Mask):
        ends = np.add(answer.offset, answer.voxels.shape)
        if min(answer.offset) < 0 or bool((ends > job.volume.voxels.shape).any()):
            return SegmentationFailure(job.job_id, "invalid_mask"), seconds
        if how and not answer.prompt:
            answer = replace(answer, prompt=how)
    return answer, seconds


def _measure(answer: Mask, truth: Mask, job: SegmentationJob, seconds: float, tiers: TierTable | None) -> CaseScore:
    spacing, quality = job.volume.spacing_mm, check_mask(answer, job, tiers)
    # In the box of both: distances over a whole scan take seconds and say the same.
    low = np.minimum(answer.offset, truth.offset)
    high = np.maximum(np.add(answer.offset, answer.voxels.shape), np.add(truth.offset, truth.voxels.shape))
    mask, true = (_in_box(one, low, high) for one in (answer, truth))
    return CaseScore(
        "",
        "",
        dice(mask, true),
        volume_error(mask, true),
        recist_error(mask, true, spacing),
        seconds,
        nsd=normalised_surface_dice(mask, true, spacing, tolerance_mm=2.0),
        hd95_mm=hausdorff95_mm(mask, true, spacing),
        slices=_slice_dice(mask, true, job.prompts[0].slice_index - int(low[0])),
        flags=quality.flags,
        tier=quality.tier,
        prompt=answer.prompt,
    )


def _in_box(mask: Mask, low: NDArray[np.intp], high: NDArray[np.intp]) -> BoolArray:
    full = np.zeros(tuple(high - low), dtype=np.bool_)
    start = np.subtract(mask.offset, low)
    full[tuple(slice(int(s), int(s) + n) for s, n in zip(start, mask.voxels.shape, strict=True))] = mask.voxels
    return full


def _slice_dice(mask: BoolArray, truth: BoolArray, prompted: int) -> tuple[tuple[int, float], ...]:
    return tuple((int(k), float(value)) for k, value in dice_by_distance(mask, truth, prompted).items())
