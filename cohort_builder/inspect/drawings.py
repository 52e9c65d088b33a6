"""What was drawn: by encoding, where its coordinates lie in the pixel, and whether the numbers beside it fit."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from functools import cache
from math import hypot
from typing import TYPE_CHECKING

from cohort_builder.inspect.tally import Tally
from cohort_builder.inspect.writers import Writer, writer_of
from cohort_builder.lesions.stated import rounding_mm, stated_and_drawn, text_tolerance_mm
from cohort_builder.types import AnnotationKind

if TYPE_CHECKING:
    from cohort_builder.pacs.index import Index
    from cohort_builder.types import Annotation

FRACTION_BINS = 20
DIFFERENCE_BINS_MM = tuple(step / 2 for step in range(-10, 11))
"""Middles of the bins of stated minus drawn length; the first and the last hold all beyond."""

_EXACT_PX = 1e-3  # single precision keeps a column of 4,096 to 0.0005
_POINTS_OF_ONE = 4  # an outline of 500 vertices is one habit, not 250 lines
_AXES = {AnnotationKind.LINE: 1, AnnotationKind.BIDIMENSIONAL: 2, AnnotationKind.ELLIPSE: 2}
_AS_DRAWN = frozenset({
    AnnotationKind.LINE, AnnotationKind.BIDIMENSIONAL, AnnotationKind.ARROW, AnnotationKind.POINTER,
    AnnotationKind.OUTLINE,
})  # fmt: skip
"""Kinds whose points are those of the writer; corners and axes of the others may be computed."""
_LEAST_DRAWN_MM = 0.5
_LEAST_RATIO, _MOST_RATIO = 0.1, 10.0


def count_drawings(drawn: Iterable[Annotation], index: Index, tally: Tally) -> None:
    """Count the annotations of one patient, as they were read."""

    @cache
    def writer(sop_instance_uid: str) -> Writer:
        found = index.instance(sop_instance_uid)
        return ("", "", "") if found is None else writer_of(found)

    for annotation in drawn:
        source = annotation.source
        tally["strokes", "read"] += 1
        tally["encodings", source.kind, annotation.kind.value, source.rule, f"{source.confidence:.2f}"] += 1
        by = writer(source.sop_instance_uid)
        _count_fractions(annotation, by, tally)
        if annotation.stated_mm:
            _count_differences(annotation, by, index, tally)


def _count_fractions(annotation: Annotation, by: Writer, tally: Tally) -> None:
    if annotation.kind not in _AS_DRAWN:
        return
    for value in (value for point in annotation.points[:_POINTS_OF_ONE] for value in point):
        fraction = value % 1.0
        tally["fractions", *by, str(int(fraction * FRACTION_BINS + 0.5) % FRACTION_BINS)] += 1
        tally["whole", *by] += min(fraction, 1.0 - fraction) <= _EXACT_PX
        tally["half", *by] += abs(fraction - 0.5) <= _EXACT_PX


def _count_differences(annotation: Annotation, by: Writer, index: Index, tally: Tally) -> None:
    image = index.instance(annotation.sop_instance_uid, annotation.frame_number)
    if image is None or image.pixel_spacing is None:
        return
    for stated, drawn in stated_and_drawn(annotation.stated_mm, _lengths_mm(annotation, image.pixel_spacing)):
        if drawn < _LEAST_DRAWN_MM:
            continue
        away = stated - drawn
        ratio = min(max(stated / drawn, _LEAST_RATIO), _MOST_RATIO)
        last = len(DIFFERENCE_BINS_MM) - 1
        place = min(max(round((away - DIFFERENCE_BINS_MM[0]) * 2), 0), last)
        tally["differences", *by, str(place)] += 1
        tally["ratios", *by, f"{ratio:.2f}"] += 1
        tally["beyond", *by] += abs(away) > text_tolerance_mm(drawn) + rounding_mm(stated)


def _lengths_mm(annotation: Annotation, spacing: tuple[float, float]) -> list[float]:
    """Lengths of the axes from (between rows, between columns) ``spacing`` in mm."""
    ends = annotation.points[: 2 * _AXES.get(annotation.kind, 0)]
    return [
        hypot((end[0] - start[0]) * spacing[1], (end[1] - start[1]) * spacing[0])
        for start, end in zip(ends[::2], ends[1::2], strict=True)
    ]


def median_of(counts: Mapping[float, int]) -> float:
    """The median of values that were counted."""
    half, seen = sum(counts.values()) / 2, 0
    for value in sorted(counts):
        seen += counts[value]
        if seen >= half:
            return value
    raise ValueError("the median of nothing is asked for")
