"""The manifests of the join: what was drawn, what it lies on, what it was linked to, and what was left out.

``Annotation.points`` are corner-origin image coordinates (PS3.3 C.10.5); everything located is in LPS millimetres.
Conversions live in ``segmentation.geometry``.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from datetime import datetime
from enum import StrEnum
from math import isfinite

Point2D = tuple[float, float]
Point3D = tuple[float, float, float]


class AnnotationKind(StrEnum):
    """What a radiologist drew."""

    LINE = "LINE"
    BIDIMENSIONAL = "BIDIMENSIONAL"
    ARROW = "ARROW"
    POINTER = "POINTER"
    ELLIPSE = "ELLIPSE"
    BOX = "BOX"
    OUTLINE = "OUTLINE"


_N_POINTS = {
    AnnotationKind.LINE: 2,
    AnnotationKind.BIDIMENSIONAL: 4,
    AnnotationKind.ARROW: 2,
    AnnotationKind.POINTER: 1,
    AnnotationKind.ELLIPSE: 4,
    AnnotationKind.BOX: 4,
}


class Side(StrEnum):
    """Side of the patient on which something lies, from its LPS position."""

    LEFT = "LEFT"
    RIGHT = "RIGHT"
    MIDLINE = "MIDLINE"


class Reading(StrEnum):
    """Whether a report reads a study or only compares with it."""

    CURRENT = "CURRENT"
    PRIOR = "PRIOR"


class Decision(StrEnum):
    """What the linker decided. Only ``LINKED`` is published as a grounded finding."""

    LINKED = "LINKED"
    AMBIGUOUS = "AMBIGUOUS"
    UNMATCHED = "UNMATCHED"
    PRIOR_LINKED = "PRIOR_LINKED"


@dataclass(frozen=True, slots=True)
class Source:
    """Where an annotation stands: the object's SOP Instance UID, the item in it, and the rule that recognised it.

    ``kind`` is the kind of object (``GSPS``, ``SR``); ``confidence`` (0 to 1) how sure the rule is that this is what
    was drawn, a judgement by encoding and not a measured rate (docs/annotations.md).
    """

    sop_instance_uid: str
    item: str
    rule: str
    kind: str = "GSPS"
    confidence: float = 1.0


@dataclass(frozen=True, slots=True)
class Annotation:
    """One annotation as drawn, readable without any CT.

    ``points`` are (column, row) with (0, 0) at the top left *corner* of the first pixel: the two ends of a line; long
    axis then short axis of a pair, and of an ellipse, which they are inscribed in; tail then head of an arrow; the
    anchor of a pointer; the four corners of a box, in order round it; the vertices of an outline (at least 3, the first
    not repeated), in order. ``frame_number`` (from 1) is that of a multi-frame image. ``label`` is the raw text that
    stands beside it: private, never published.
    """

    annotation_id: str
    kind: AnnotationKind
    points: tuple[Point2D, ...]
    sop_instance_uid: str
    series_instance_uid: str
    study_instance_uid: str
    source: Source
    frame_number: int | None = None
    stated_mm: tuple[float, ...] = ()
    label: str = ""
    drawn_at: datetime | None = None
    drawn_by_group: str | None = None

    def __post_init__(self) -> None:
        expected = _N_POINTS.get(self.kind)
        if expected is not None and len(self.points) != expected:
            raise ValueError(f"a {self.kind} needs {expected} points, got {len(self.points)}")
        if not all(isfinite(value) for point in self.points for value in point):
            raise ValueError(f"the points of a {self.kind} must be finite")


@dataclass(frozen=True, slots=True)
class LocatedAnnotation:
    """An annotation and what the index knows of the image it lies on.

    ``diameters_mm`` (longest first) come from Pixel Spacing: none of arrows and pointers, of regions those that stand
    beside them as text; ``points_lps_mm`` run parallel to ``annotation.points``; ``level`` is the height in the series'
    extent (0 towards the feet, 1 towards the head); ``organ`` is what an ``AnatomyLocator`` names there, ``lung_level``
    the height relative to the lungs (0 at
    their lowest slice, 1 at their highest, beyond these outside; None where the series does not show both ends);
    ``slice_normal_lps`` the unit normal of the image plane and ``slice_thickness_mm`` the distance to the next
    slice, which bound how far apart two strokes on one thing may lie.
    """

    annotation: Annotation
    diameters_mm: tuple[float, ...]
    points_lps_mm: tuple[Point3D, ...]
    frame_of_reference_uid: str
    series_number: int | None = None
    instance_number: int | None = None
    side: Side | None = None
    level: float | None = None
    organ: str | None = None
    lung_level: float | None = None
    slice_normal_lps: Point3D = (0.0, 0.0, 1.0)
    slice_thickness_mm: float = 0.0


@dataclass(frozen=True, slots=True)
class Lesion:
    """One thing that was drawn, once or several times. ``annotations[0]`` is the one to segment from."""

    lesion_id: str
    annotations: tuple[LocatedAnnotation, ...]
    diameters_mm: tuple[float, ...]
    centre_lps_mm: Point3D
    frame_of_reference_uid: str
    study_instance_uid: str
    reading: Reading = Reading.CURRENT

    def __post_init__(self) -> None:
        if not self.annotations:
            raise ValueError("a lesion needs at least one annotation")


@dataclass(frozen=True, slots=True)
class Link:
    """A decision about a finding, a lesion, or the pair, with its evidence (term to natural log odds) and rivals.

    ``rivals`` are (id, probability) of what else it could have been: lesions for a finding, findings for a lesion.
    """

    finding_id: str | None
    lesion_id: str | None
    decision: Decision
    probability: float
    evidence: Mapping[str, float] = field(default_factory=dict)
    rivals: tuple[tuple[str, float], ...] = ()

    def __post_init__(self) -> None:
        if self.finding_id is None and self.lesion_id is None:
            raise ValueError("a link needs a finding or a lesion")
        if self.decision in {Decision.LINKED, Decision.PRIOR_LINKED} and None in {self.finding_id, self.lesion_id}:
            raise ValueError(f"a {self.decision} link needs both a finding and a lesion")


@dataclass(frozen=True, slots=True)
class Skip:
    """Something that did not become a row, and why.

    ``item`` is a keyed id in a cohort (the object's UID when ``read_annotations`` is called on its own); ``reason`` is
    one of a closed set of short codes (docs/skips.md), ``detail`` a sentence that says what to do. Neither ever holds a
    patient's identifier or report text. ``private`` (paths, UIDs) stays in ``private/``. ``failure`` is True for what
    is broken (unreadable, impossible geometry) and counts against ``max_skip_fraction``; False for what is merely not
    usable (an unmatched annotation, an unsupported encoding).
    """

    stage: str
    item: str
    reason: str
    detail: str
    failure: bool = False
    private: Mapping[str, str] = field(default_factory=dict)
