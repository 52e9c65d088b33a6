"""Structured reports (PS3.16 TID 1500 and its like) to annotations.

What is read: coordinates on one image (PS3.3 C.18.6), whatever template they stand in: the line that a length was
inferred from, the long and short axis of one group, ellipses, circles, closed polylines, points, and the arrows of
cornerstone viewers. The tree is walked on pydicom's datasets and nothing in it is taken for granted. Everything else
becomes a Skip whose reason names it.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from math import isfinite
from typing import TYPE_CHECKING

from cohort_builder.figures import (
    ACROSS_FRACTION,
    AXES_DEGREES,
    MOST_POINTS,
    MOST_VERTICES,
    READ_OUT,
    SAME_POINT_PX,
    angle,
    in_order_of_length,
    meeting_of,
)
from cohort_builder.gsps.units import PixelOrigin, origin_of
from cohort_builder.pacs.elements import READ_ERRORS, is_uid, text, value_of, values_in
from cohort_builder.sr.concepts import (
    ARROW,
    CENTRES,
    DIAMETERS,
    RECTANGLES,
    REFUSED_TOOLS,
    REGIONS,
    Measure,
    measure_of,
)
from cohort_builder.sr.groups import Group, drawn_at, groups_of, reads_density, refusal_of, value_mm
from cohort_builder.sr.images import Library, Target, series_of_images, target_in_space, target_of
from cohort_builder.sr.shapes import Shape, shape_of
from cohort_builder.sr.tree import NO_CODE, ContentTreeError, Node, read_tree
from cohort_builder.types import Annotation, AnnotationKind, Skip, Source

if TYPE_CHECKING:
    from pydicom.dataset import Dataset

_READ = frozenset({
    "1.2.840.10008.5.1.4.1.1.88.11", "1.2.840.10008.5.1.4.1.1.88.22", "1.2.840.10008.5.1.4.1.1.88.33",
    "1.2.840.10008.5.1.4.1.1.88.34", "1.2.840.10008.5.1.4.1.1.88.35",
})  # fmt: skip
_CAD = frozenset({
    "1.2.840.10008.5.1.4.1.1.88.50", "1.2.840.10008.5.1.4.1.1.88.65", "1.2.840.10008.5.1.4.1.1.88.69",
})  # fmt: skip
_DETAILS = {
    "absent_finding": "the report says that what was measured is not there",
    "angle": "an angle was drawn, not a diameter",
    "cad_report": "marks of a detection program, not of a reader",
    "calibration_ruler": "a ruler, not a diameter",
    "content_tree_too_large": "more than 20,000 items or 32 levels: no report is like this; look at the writer",
    "density_roi": "a region or point at which pixel values were read out: no lesion, or not its edge",
    "drawn_by_algorithm": "an algorithm, or a device and no person, is named as the one who measured",
    "key_image": "a mark on a key image points at nothing in it",
    "malformed_graphic": "the number or arrangement of the points does not fit the graphic type",
    "many_points": "more points than a reader draws: the result of a program; reduce it",
    "measurement_without_coordinates": "numbers without anything drawn",
    "multipoint": "several points in one item are not an encoding that is read",
    "no_measurements": "the report holds no coordinates and no measurement group",
    "no_reference": "the coordinates name no image, or not by a valid UID",
    "no_such_frame": "the coordinates name a frame that their image cannot have",
    "nonfinite_coordinates": "a coordinate is not a number",
    "not_diameter": "the line was measured as something else than a diameter",
    "not_measurement_report": "a structured report of a kind that holds no measurements of images",
    "open_polyline": "an open polyline of several points is neither line nor arrow nor outline",
    "prior_measurement": "the report repeats it from an earlier examination",
    "radius": "a radius, not a diameter",
    "scoord3d_off_plane": "a point in space lies more than 0.5 mm from the image it refers to",
    "scoord3d_other_frame": "the points in space lie in another frame of reference than the image",
    "scoord3d_without_geometry": "points in space, and the image library does not say where their image lies",
    "scoord3d_without_image": "points in space that refer to no image",
    "segmentation_reference": "a segmentation was measured; it is stored as another object",
    "self_crossing_outline": "the outline crosses itself, so what lies inside is not known",
    "several_frames": "the coordinates apply to several frames of one image",
    "several_images": "the coordinates apply to several images, so the slice they were drawn on is not known",
    "unknown_graphic_type": "a graphic type that the standard does not have for coordinates on an image",
    "unknown_measurement": "the line has neither a known concept nor a unit of length",
    "unknown_region": "the coordinates stand under a concept that is no region",
    "unmeasured_line": "a line without a measurement: what it stands for is not known",
    "unresolved_reference": "an item is included by reference, and there is no image at its place",
    "zero_area": "the region has no area",
    "zero_length": "the drawing has no length",
}
_FAILURES = frozenset({
    "content_tree_too_large", "malformed_graphic", "no_reference", "nonfinite_coordinates", "unresolved_reference",
})  # fmt: skip
_BY_CODE, _BY_WORD, _BY_UNIT, _IMPLIED, _POINTED = 1.0, 0.9, 0.7, 0.8, 0.8
_IN_TEXT = 0.7
_WITH_DENSITY = -0.3
_RULES = {
    AnnotationKind.POINTER: "sr:point",
    AnnotationKind.ELLIPSE: "sr:ellipse",
    AnnotationKind.BOX: "sr:rectangle",
    AnnotationKind.OUTLINE: "sr:outline",
}


def read_report(
    ds: Dataset, private: Mapping[str, str], *, pixel_origin: Mapping[str, str] | None = None
) -> tuple[list[Annotation], list[Skip]]:
    """Read what is drawn in one structured report; ``private`` goes into every Skip.

    A report that is partial, preliminary or not verified is read like any other: what was drawn was drawn.
    ``Source.item`` is the Content Item Identifier of the coordinates (PS3.3 C.17.3.2.5), with 1 for the root.
    ``pixel_origin`` is that of ``read_annotations``; points in space have no pixels to count.
    """
    return _Reader(ds, private, origin_of(ds, pixel_origin or {})).read()


@dataclass(frozen=True, slots=True)
class _Drawing:
    """One recognised SCOORD, not yet an annotation: its NUM where it has one, and the rule that recognised it."""

    node: Node
    target: Target
    shape: Shape
    rule: str
    confidence: float
    measure: Measure = Measure.UNKNOWN
    stated_mm: tuple[float, ...] = ()


class _Reader:
    """Reads one report."""

    def __init__(self, ds: Dataset, private: Mapping[str, str], origin: PixelOrigin) -> None:
        self._ds, self._private = ds, private
        self._origin = origin
        uid = text(ds, "SOPInstanceUID")
        self._uid = uid if uid is not None and is_uid(uid) else ""
        self._skips: list[Skip] = []
        self._series = series_of_images(ds)
        self._points_left = MOST_POINTS

    def read(self) -> tuple[list[Annotation], list[Skip]]:
        sop_class = text(self._ds, "SOPClassUID") or ""
        if not self._uid or sop_class not in _READ:
            self._skip("", "cad_report" if sop_class in _CAD else "not_measurement_report", failure=not self._uid)
            return [], self._skips
        try:
            self._root = read_tree(self._ds)
        except ContentTreeError:
            self._skip("", "content_tree_too_large")
            return [], self._skips
        self._library = Library(self._root)
        annotations = [annotation for group in groups_of(self._root) for annotation in self._group(group)]
        if not annotations and not self._skips:
            self._skip("", "no_measurements")
        return annotations, self._skips

    def _group(self, group: Group) -> list[Annotation]:
        refused = group.refusal or REFUSED_TOOLS.get(group.tool or "")
        if refused is None and not group.coordinates:
            refused = "segmentation_reference" if group.names_segmentation else "measurement_without_coordinates"
        if refused is not None:
            self._skip(group.node.item, refused)
            return []
        drawings: dict[tuple[Target, Shape], _Drawing] = {}  # one of each: several numbers are inferred from one line
        dense = set()
        for node in group.coordinates:
            drawing = self._drawing(node, group)
            if isinstance(drawing, str):
                self._skip(node.item, drawing)
                continue
            drawings.setdefault((drawing.target, drawing.shape), drawing)
            number = group.number_of(node)
            if group.is_density or (number is not None and reads_density(number)):
                dense.add((drawing.target, drawing.shape))
        read = [self._as_said(drawing, dense=key in dense) for key, drawing in drawings.items()]
        paired = _with_pairs(_with_numbers([drawing for drawing in read if drawing is not None], group))
        return [self._annotation(drawing, group) for drawing in paired]

    def _as_said(self, drawing: _Drawing, *, dense: bool) -> _Drawing | None:
        """Return the drawing, unless pixel values were read out of it that leave in doubt what it was drawn round."""
        if dense and drawing.shape.kind in READ_OUT:
            self._skip(drawing.node.item, "density_roi")
            return None
        if dense and drawing.shape.kind is AnnotationKind.OUTLINE:
            confidence = round(drawing.confidence + _WITH_DENSITY, 2)
            return replace(drawing, rule=f"{drawing.rule}+density", confidence=confidence)
        return drawing

    def _drawing(self, node: Node, group: Group) -> _Drawing | str:
        """Recognise what one SCOORD or SCOORD3D draws, or say why it is refused."""
        number = group.number_of(node)
        if number is not None and (refused := refusal_of(number)) is not None:
            return refused
        placed = self._points(node, group)
        if isinstance(placed, str):
            return placed
        target, points = placed
        if group.tool == ARROW and len(points) == 2:
            tail_last = Shape(AnnotationKind.ARROW, (points[1], points[0]))  # cornerstone writes the head first
            long_enough = abs(points[1] - points[0]) > SAME_POINT_PX
            return _Drawing(node, target, tail_last, "sr:arrow", _POINTED) if long_enough else "zero_length"
        shape = shape_of(
            text(node.ds, "GraphicType") or "",
            points,
            bounds_region=node.concept.key in REGIONS,
            rectangle=group.tool in RECTANGLES,
        )
        if isinstance(shape, str):
            return shape
        if number is not None:
            return _measured(node, target, shape, number, group.tool)
        return _region(node, target, shape, group)

    def _points(self, node: Node, group: Group) -> tuple[Target, list[complex]] | str:
        """Return the image and the points on it."""
        in_space = node.value_type == "SCOORD3D"
        dimensions = 3 if in_space else 2
        stored = value_of(node.ds, "GraphicData")
        if isinstance(stored, bytes) and len(stored) > 4 * dimensions * MOST_VERTICES:
            return "many_points"  # too long for its value representation, it is stored as UN (PS3.5 6.2.2)
        try:
            values = [float(value) for value in values_in(stored)]
        except READ_ERRORS:
            return "malformed_graphic"
        if not values or len(values) % dimensions:
            return "malformed_graphic"
        count = len(values) // dimensions
        if count > min(MOST_VERTICES, self._points_left):
            return "many_points"
        self._points_left -= count
        if not all(map(isfinite, values)):
            return "nonfinite_coordinates"
        target = target_in_space(node, group.images) if in_space else target_of(node, self._root)
        if isinstance(target, str):
            return target
        if not in_space:
            shift = complex(self._origin.shift, self._origin.shift)
            return target, [complex(x, y) + shift for x, y in zip(values[::2], values[1::2], strict=True)]
        points = self._library.onto(target, values, text(node.ds, "ReferencedFrameOfReferenceUID") or "")
        return points if isinstance(points, str) else (target, points)

    def _annotation(self, drawing: _Drawing, group: Group) -> Annotation:
        rule = drawing.rule
        if drawing.node.value_type == "SCOORD" and self._origin is not PixelOrigin.CORNER:
            rule += f"+{self._origin}_origin"
        return Annotation(
            annotation_id=f"{self._uid}/{drawing.node.item}",
            kind=drawing.shape.kind,
            points=tuple((point.real, point.imag) for point in drawing.shape.points),
            sop_instance_uid=drawing.target.sop_instance_uid,
            series_instance_uid=self._series.get(drawing.target.sop_instance_uid, ""),
            study_instance_uid=text(self._ds, "StudyInstanceUID") or "",
            source=Source(self._uid, drawing.node.item, rule, "SR", drawing.confidence),
            frame_number=drawing.target.frame_number,
            stated_mm=tuple(sorted(drawing.stated_mm, reverse=True)),
            label=group.label,
            drawn_at=drawn_at(drawing.node),
            drawn_by_group=group.drawn_by_group,
        )

    def _skip(self, place: str, reason: str, *, failure: bool = False) -> None:
        private = {"sop_instance_uid": self._uid, "item": place, **self._private}
        item = f"{self._uid}/{place}" if place else self._uid or "structured report"
        failed = failure or reason in _FAILURES
        self._skips.append(Skip("annotations", item, reason, _DETAILS[reason], failure=failed, private=private))


def _measured(node: Node, target: Target, shape: Shape, number: Node, tool: str | None) -> _Drawing | str:
    """Judge the coordinates that a number was inferred from."""
    measure, by_code = measure_of(number.concept)
    mm = value_mm(number)
    stated = () if mm is None or measure not in DIAMETERS else (mm,)
    confidence = _BY_CODE if by_code else _BY_WORD
    if measure is Measure.ANGLE:
        return "angle"
    if shape.kind is not AnnotationKind.LINE:
        if shape.kind is AnnotationKind.POINTER:
            rule = "sr:arrow_tip" if tool == ARROW else _RULES[shape.kind]
            return _Drawing(node, target, shape, rule, _POINTED)
        return _Drawing(node, target, shape, _RULES[shape.kind], _BY_CODE, measure, stated)
    if measure is Measure.UNKNOWN:
        if mm is None:
            return "unknown_measurement"
        stated, confidence = (mm,), _BY_UNIT
    elif measure not in DIAMETERS:
        return "radius" if measure is Measure.RADIUS else "not_diameter"
    rules = {Measure.LONG_AXIS: "sr:long_axis", Measure.SHORT_AXIS: "sr:short_axis"}
    return _Drawing(node, target, shape, rules.get(measure, "sr:length"), confidence, measure, stated)


def _region(node: Node, target: Target, shape: Shape, group: Group) -> _Drawing | str:
    """Judge coordinates that no number was inferred from: a region of a group, or what a sentence points at."""
    in_group = node.parent is group.node
    if in_group and node.concept.key not in {*REGIONS, *CENTRES, NO_CODE.key}:
        return "unknown_region"
    confidence = _BY_CODE if in_group else _IN_TEXT
    if shape.implied or shape.kind is AnnotationKind.POINTER:
        confidence = min(confidence, _IMPLIED)
    if shape.kind is not AnnotationKind.LINE:
        return _Drawing(node, target, shape, _RULES[shape.kind], confidence)
    if not in_group or len(group.lengths) != 1:
        return "unmeasured_line"
    return _Drawing(node, target, shape, "sr:length", _IMPLIED)


def _with_numbers(drawings: Sequence[_Drawing], group: Group) -> list[_Drawing]:
    """Give the one drawing of a planar region (TID 1410) the diameters stated of it."""
    if len(drawings) != 1 or drawings[0].stated_mm:
        return list(drawings)
    axes = {AnnotationKind.LINE: 1, AnnotationKind.ELLIPSE: 2}.get(drawings[0].shape.kind, 0)
    if not 0 < len(group.lengths) <= axes:
        return list(drawings)
    return [replace(drawings[0], stated_mm=tuple(group.lengths))]


def _with_pairs(drawings: Sequence[_Drawing]) -> list[_Drawing]:
    """Join the long and the short axis of a group, where there is one of each on one image and they cross."""
    lines = [d for d in drawings if d.shape.kind is AnnotationKind.LINE]
    longs = [d for d in lines if d.measure is Measure.LONG_AXIS]
    shorts = [d for d in lines if d.measure is Measure.SHORT_AXIS]
    if len(longs) != 1 or len(shorts) != 1 or longs[0].target != shorts[0].target:
        return list(drawings)
    (long,), (short,) = longs, shorts
    if not _cross(long.shape.points, short.shape.points):
        return list(drawings)
    axes = in_order_of_length(long.shape.points, short.shape.points)
    pair = _Drawing(
        long.node,
        long.target,
        Shape(AnnotationKind.BIDIMENSIONAL, axes),
        "sr:bidirectional",
        min(long.confidence, short.confidence),
        stated_mm=long.stated_mm + short.stated_mm,
    )
    return [pair if d is long else d for d in drawings if d is not short]


def _cross(one: Sequence[complex], other: Sequence[complex]) -> bool:
    """Whether two lines meet on both of them and near perpendicular, as the axes of one thing do."""
    met = meeting_of(one, other)
    return (
        met is not None
        and angle(one[1] - one[0], other[1] - other[0]) >= AXES_DEGREES
        and all(-ACROSS_FRACTION <= fraction <= 1 + ACROSS_FRACTION for fraction in met)
    )
