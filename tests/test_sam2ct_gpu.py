"""The SAM2 engines on a GPU. Nothing here has been run where this was written: there was none."""

from __future__ import annotations

import pytest
import torch
from sam2ct_models import CROWD, SHAPE, answers_of, crowd_jobs, jobs_on, seeing_nano, volume_of

from segmentation import Mask
from segmentation.sam2ct.config import NANO
from segmentation.sam2ct.engine import SAM2Segmenter

pytestmark = [
    pytest.mark.gpu,
    pytest.mark.skipif(not torch.cuda.is_available(), reason="needs a CUDA device; torch.cuda.is_available() is false"),
]


def engine(**options: object) -> SAM2Segmenter:
    return SAM2Segmenter("sam2ct", seeing_nano(NANO), guards=False, **options)


def overlap(a: object, b: object) -> float:
    assert isinstance(a, Mask)
    assert isinstance(b, Mask)
    one, other = (mask.in_volume(SHAPE) for mask in (a, b))
    return 2 * float((one & other).sum()) / float(one.sum() + other.sum())


@pytest.mark.parametrize(("dtype", "least"), [("fp32", 0.999), ("bf16", 0.95)])
def test_masks_are_those_of_the_cpu(dtype: str, least: float) -> None:
    cpu = answers_of(engine(device="cpu"), crowd_jobs())
    gpu = answers_of(engine(device="cuda", dtype=dtype), crowd_jobs())
    assert min(overlap(cpu[job_id], gpu[job_id]) for job_id in cpu) > least


def test_compiled_masks_are_those_of_the_cpu() -> None:
    cpu = answers_of(engine(device="cpu"), crowd_jobs())
    gpu = answers_of(engine(device="cuda", dtype="fp32", compile=True), crowd_jobs())
    assert min(overlap(cpu[job_id], gpu[job_id]) for job_id in cpu) > 0.999


def test_too_large_a_batch_is_halved_and_goes_on() -> None:
    """Asks for more than any card has: thousands of passes in one call, of 1024 pixels."""
    model = seeing_nano(NANO.with_changes(image_size=1024, roi="full"))
    jobs = [job for i in range(512) for job in jobs_on(volume_of(SHAPE, *CROWD[:1], seed=0), *CROWD[:1], name=f"{i}-")]
    crowded = SAM2Segmenter("sam2ct", model, guards=False, device="cuda", batch=2048, volumes=1024, extent=(1, 1))
    assert len(answers_of(crowded, jobs)) == len(jobs)
