"""The default engine: a random walker with an intensity and a shape prior. No download, no GPU, about 0.2 s a lesion.

L. Grady, "Multilabel random walker image segmentation using prior models", CVPR 2005, is the walker; the shape prior
comes from the measurement, the intensity prior from the lesion itself.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from dataclasses import dataclass, replace
from math import log, sqrt

import numpy as np

from segmentation.classical.arrow import find_ellipses
from segmentation.classical.recipe import (
    ARROW_SPREAD,
    LINE_SPREAD,
    PAIR_SPREAD,
    NothingFoundError,
    Segmented,
    segment_ellipse,
)
from segmentation.ellipsoid import InPlaneEllipse, ellipse_of, fill_ellipsoid, unsupported
from segmentation.metrics import dice
from segmentation.types import (
    Arrow,
    Bidimensional,
    Line,
    Mask,
    Prompt,
    SegmentationError,
    SegmentationFailure,
    SegmentationJob,
    mask_from_volume,
)

_FALLBACK_CONFIDENCE = 0.3


class ClassicalSegmenter:
    """Segments from a line, a bi-dimensional pair or an arrow; other prompts of the lesion check the result.

    Flags: ``fallback_ellipsoid`` (no evidence in the image: the measurement's ellipsoid, confidence 0.3), ``z_limit``
    (the lesion may go on along z), ``misses_other_prompt`` (the middle of another line of this lesion lies outside),
    ``sheared_grid`` (the gantry was tilted; the shift between slices is ignored).
    """

    name = "classical"
    supports: frozenset[type[Prompt]] = frozenset({Line, Bidimensional, Arrow})

    def segment(self, jobs: Iterable[SegmentationJob]) -> Iterator[Mask | SegmentationFailure]:
        """Segment every job, one at a time, from its first prompt."""
        for job in jobs:
            try:
                yield self._segment_one(job)
            except SegmentationError as error:
                yield SegmentationFailure(job.job_id, "bad_prompt", str(error))

    def _segment_one(self, job: SegmentationJob) -> Mask | SegmentationFailure:
        prompt = job.prompts[0]
        if isinstance(prompt, Line | Bidimensional):
            ellipse = ellipse_of(prompt, job.volume)
            spread = LINE_SPREAD if isinstance(prompt, Line) else PAIR_SPREAD
            try:
                found = segment_ellipse(job.volume, ellipse, spread)
            except NothingFoundError:
                return self._fallback(job, ellipse)
            return self._mask(job, found, 0.69 + 0.115 * log(found.separation))
        if isinstance(prompt, Arrow):
            return self._from_arrow(job, prompt)
        return unsupported(job, self.name)

    def _from_arrow(self, job: SegmentationJob, prompt: Arrow) -> Mask:
        candidates = find_ellipses(prompt, job.volume)
        results = []
        for candidate in candidates:
            try:
                found = segment_ellipse(job.volume, candidate.ellipse, ARROW_SPREAD)
            except NothingFoundError:
                continue
            results.append((candidate.score + 0.1 * found.separation, candidate.score, found))
        return self._fallback(job, candidates[0].ellipse)
