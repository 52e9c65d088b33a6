"""Believability on real lesions: true masks that CT shows raise no flag, and spoilt ones are never accepted."""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from dataclasses import replace

import numpy as np
import pytest
import scipy.ndimage as ndi
from cases import RealCase

from segmentation import Mask, SegmentationJob, check_mask, load_segmenter
from segmentation.checks import NOT_CALIBRATED
from segmentation.metrics import dice, longest_diameter_mm
from segmentation.prompts import draw_arrow, draw_bidimensional, draw_line
from segmentation.types import mask_from_volume

DRAWINGS = (draw_line, draw_bidimensional, draw_arrow)


@pytest.fixture(scope="module")
def visible(lidc, deeplesion) -> tuple[RealCase, ...]:
    """Lesions that stand out from what is around them; many of the limb tumours do not."""
    return (lidc, *deeplesion)


def drawn(cases: Iterable[RealCase]) -> Iterator[tuple[Mask, SegmentationJob]]:
    for case in cases:
        mask = mask_from_volume(case.case_id, case.truth, TRUE, confidence=1.0)
        for draw in DRAWINGS:
            prompt = draw(case.truth, np.random.default_rng(5), spacing_mm=case.volume.spacing_mm)
            yield mask, SegmentationJob(case.case_id, case.volume, (prompt,))


TRUE = f"classical@{load_segmenter('classical').revision}"
"""True masks are judged as those of an engine with a fit: what none was made for is never accepted."""


def test_true_masks_of_visible_lesions_raise_no_flag(visible):
    found = [check_mask(mask, job) for mask, job in drawn(visible)]
    assert len(found) == 3 * len(visible)
    assert "reject" not in {quality.verdict for quality in found}
    assert sum(quality.flags == () for quality in found) >= len(found) - 1


def test_nobodys_masks_are_never_accepted(lidc):
    ((mask, job), *_) = drawn((lidc,))
    quality = check_mask(replace(mask, engine="nobody@1"), job)
    assert (quality.verdict, quality.flags) == ("review", (NOT_CALIBRATED,))


def test_the_consensus_agrees_with_every_readers_own_line(lidc):
    mask = mask_from_volume("lidc", lidc.truth, TRUE, confidence=1.0)
    for line in lidc.lines:
        assert check_mask(mask, SegmentationJob("lidc", lidc.volume, (line,))).verdict == "accept"


def test_a_mask_half_beside_the_lesion_is_never_accepted(visible, sarcomas):
    for mask, job in drawn((*visible, *sarcomas)):
        step = round(longest_diameter_mm(mask.voxels, job.volume.spacing_mm) * 0.75 / job.volume.spacing_mm[2])
        left = mask.offset[2] - step
        offset = (*mask.offset[:2], left if left > 0 else mask.offset[2] + step)
        if offset[2] + mask.voxels.shape[2] <= job.volume.voxels.shape[2]:
            assert check_mask(replace(mask, offset=offset), job).verdict != "accept"


def test_a_mask_that_is_far_too_large_is_never_accepted(visible):
    for mask, job in drawn(visible):
        full = mask.in_volume(job.volume.voxels.shape)
        grow = 0.3 * longest_diameter_mm(mask.voxels, job.volume.spacing_mm)
        room = [int(grow / step) + 2 for step in job.volume.spacing_mm]
        low = [max(o - r, 0) for o, r in zip(mask.offset, room, strict=True)]
        high = [o + n + r for o, n, r in zip(mask.offset, mask.voxels.shape, room, strict=True)]
        box = tuple(map(slice, low, high))
        grown = ndi.distance_transform_edt(~full[box], job.volume.spacing_mm) <= grow
        assert dice(grown, full[box]) < 0.6
        large = mask_from_volume(job.job_id, grown, TRUE, origin=(low[0], low[1], low[2]), confidence=1.0)
        assert check_mask(large, job).verdict != "accept"
