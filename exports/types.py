"""The published rows, arrays included, and the error of a dataset that was not written whole.

Arrays are in NIfTI order (i, j, k) = (column, row, slice) with a RAS affine, never flipped; every ``_ijk`` is in that
order, every ``_ras_mm`` in that frame. All ids are keyed pseudonyms.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

Index3 = tuple[int, int, int]
Point3 = tuple[float, float, float]


class ExportError(Exception):
    """A dataset was not written whole."""


@dataclass(frozen=True, slots=True)
class MeasurementRecord:
    """One diameter as the report states it, and the same diameter of the mask.

    ``axis`` is LONG, SHORT, AP, TR, CC or None.

    ``start`` and ``end`` are the span of ``source_text`` in ``reports.text``; ``ratio`` is mask over report.
    """

    kind: str
    axis: str | None
    value_mm: float
    rounding_mm: float
    source_text: str
    start: int
    end: int
    mask_value_mm: float | None
    ratio: float | None


@dataclass(frozen=True, slots=True)
class AnnotationRecord:
    """What was drawn: ``points_ijk`` are voxel-centre indices of the ROI, ``rule`` the encoding that was recognised.

    ``confidence`` (0 to 1) is how sure that rule is; ``series_id`` the series that it was drawn on. Where that is not
    the row's, it was carried over through patient space, and its points need not lie on a slice.
    """

    kind: str
    points_ras_mm: tuple[Point3, ...]
    points_ijk: tuple[Point3, ...]
    stated_mm: tuple[float, ...]
    drawn_mm: tuple[float, ...]
    source_kind: str
    rule: str
    confidence: float
    series_id: str


@dataclass(frozen=True, slots=True)
class LinkRecord:
    """Why the phrase and the lesion belong together: posterior, natural log odds by term, and both in one line.

    ``summary`` quotes no text of the report.
    """

    decision: str
    probability: float
    evidence: tuple[tuple[str, float], ...]
    summary: str


@dataclass(frozen=True, slots=True)
class EngineRecord:
    """Who made the mask and from which prompt."""

    name: str
    revision: str
    weights_sha256: str | None
    prompt: str


@dataclass(frozen=True, slots=True)
class QualityRecord:
    """Whether the mask is believable: ``tier`` A, B or C, the flags that decided it, and the mask's own sizes.

    ``recist_mm`` is the longest in-plane diameter of the mask; ``score`` runs from 0 to 1.
    """

    tier: str
    flags: tuple[str, ...]
    score: float
    volume_mm3: float
    recist_mm: float


@dataclass(frozen=True, slots=True)
class PhraseRecord:
    """The said half of a grounded finding. Spans are half-open offsets into ``reports.text``."""

    finding_id: str
    report_id: str
    phrase: str
    phrase_start: int
    phrase_end: int
    sentence: str
    section: str
    language: str
    assertion: str
    observation: str
    anatomy: str | None
    laterality: str | None
    measurements: tuple[MeasurementRecord, ...]
    link: LinkRecord


@dataclass(frozen=True, slots=True, eq=False)
class FindingRecord:
    """One segmented lesion: a row of ``findings`` (``said`` given) or of ``data/unlinked`` (``said`` None).

    ``annotations[0]`` is the stroke it was segmented from. ``image`` is int16 HU and ``mask`` uint8, both (i, j, k) on
    the same grid; ``affine_ras`` is the ROI's.
    ``roi_origin_ijk`` and ``bbox_ijk`` (lower, then upper exclusive) count in the volume of ``series_id``.
    """

    lesion_id: str
    patient_id: str
    study_id: str
    series_id: str
    said: PhraseRecord | None
    annotations: tuple[AnnotationRecord, ...]
    image: NDArray[np.int16]
    mask: NDArray[np.uint8]
    affine_ras: NDArray[np.float64]
    roi_origin_ijk: Index3
    bbox_ijk: tuple[int, int, int, int, int, int]
    volume_shard: str | None
    volume_row_group: int | None
    engine: EngineRecord
    quality: QualityRecord
    split_key: float
    provenance: str

    def __post_init__(self) -> None:
        if self.image.shape != self.mask.shape or self.image.ndim != 3:
            raise ExportError(f"image {self.image.shape} and mask {self.mask.shape} must share one 3D grid")
        if self.image.dtype != np.int16 or self.mask.dtype != np.uint8:
            raise ExportError(f"image must be int16 and mask uint8, got {self.image.dtype} and {self.mask.dtype}")
        if not self.mask.any():
            raise ExportError("an empty mask is no finding")


@dataclass(frozen=True, slots=True, eq=False)
class VolumeRecord:
    """One CT series: ``image`` (i, j, k) int16 HU. ``acquisition`` holds safe acquisition facts only, as strings."""

    series_id: str
    study_id: str
    patient_id: str
    image: NDArray[np.int16]
    affine_ras: NDArray[np.float64]
    acquisition: tuple[tuple[str, str], ...]
    lesion_ids: tuple[str, ...]
    split_key: float


@dataclass(frozen=True, slots=True)
class ReportPhraseRecord:
    """One phrase of a report and what became of it: LINKED, PRIOR_LINKED, AMBIGUOUS, NEGATED, NO_SIZE ..."""

    finding_id: str
    start: int
    end: int
    section: str
    assertion: str
    observation: str
    anatomy: str | None
    laterality: str | None
    outcome: str
    lesion_id: str | None
    probability: float | None


@dataclass(frozen=True, slots=True)
class ReportRecord:
    """One report, scrubbed: ``sections`` are (name, start, end)."""

    report_id: str
    patient_id: str | None
    study_ids: tuple[str, ...]
    text: str
    language: str
    sections: tuple[tuple[str, int, int], ...]
    phrases: tuple[ReportPhraseRecord, ...]
    split_key: float
