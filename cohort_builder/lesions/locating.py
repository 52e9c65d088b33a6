"""Strokes to lesions: locate what was drawn in the patient, and join the strokes that lie on the same thing.

``locate`` refuses what cannot be trusted (an image that is absent, points outside it, a drawn number that the geometry
contradicts); ``group_lesions`` decides which strokes are one lesion, from geometry alone.
"""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Iterable, Sequence
from dataclasses import dataclass, replace
from math import hypot
from statistics import median
from typing import TYPE_CHECKING

import numpy as np

from cohort_builder.ct.pixels import read_hounsfield
from cohort_builder.lesions.body import body_middle_mm
from cohort_builder.lesions.grouping import POINTING, Stroke, same_thing, strokes_of
from cohort_builder.lesions.stated import rounding_mm, stated_and_drawn, text_tolerance_mm
from cohort_builder.targets.carrying import image_under
from cohort_builder.types import Annotation, AnnotationKind, Lesion, LocatedAnnotation, Point3D, Side, Skip
from segmentation.geometry import FloatArray, apply_affine, image_points_to_lps, slice_affine
from segmentation.regions import farthest_pair
from segmentation.types import GeometryError

if TYPE_CHECKING:
    from cohort_builder.pacs.headers import Instance
    from cohort_builder.pacs.index import Index

_OUTSIDE_PX = 1.0
_MOST_OF_IMAGE = 0.5
_LEAST_LENGTH_MM = 0.5
_MIDLINE_MM = 15.0
_SAME_PLANE_MM = 0.01
_GROSS_MM, _GROSS_FRACTION = 3.0, 0.2
_SEGMENTS = {
    AnnotationKind.LINE: 1,
    AnnotationKind.BIDIMENSIONAL: 2,
    AnnotationKind.ELLIPSE: 2,
    AnnotationKind.ARROW: 1,
}
_REGIONS = frozenset({AnnotationKind.ELLIPSE, AnnotationKind.BOX, AnnotationKind.OUTLINE})
_BEST_PROMPT = (
    AnnotationKind.BIDIMENSIONAL,  # two diameters from rim to rim
    AnnotationKind.LINE,
    AnnotationKind.OUTLINE,  # follows the rim, or samples the inside
    AnnotationKind.ELLIPSE,  # round the lesion, or inside it
    AnnotationKind.BOX,
    AnnotationKind.ARROW,  # says where, not how large
    AnnotationKind.POINTER,
)
"""What says most about the lesion's extent first."""


class _NotLocated(Exception):  # noqa: N818 - it never leaves this module; it becomes a Skip
    """One annotation cannot be located: ``args`` are the Skip's reason and detail, and whether it is a failure."""

    def __init__(self, reason: str, detail: str, *, failure: bool = False) -> None:
        super().__init__(reason, detail)
        self.reason, self.detail, self.failure = reason, detail, failure


def locate(annotations: Iterable[Annotation], index: Index) -> tuple[list[LocatedAnnotation], list[Skip]]:
    """Place annotations in the patient by what the index knows of their images.

    Lengths come from Pixel Spacing, positions from Image Position and Image Orientation (Patient); the side of the
    patient from the pixels of that one slice, read once. Series and study are those of the image itself, whatever the
    presentation state says.

    Returns
    -------
    What was located, in order, and a Skip for everything else: ``image_not_in_export``, ``not_ct``, ``localizer``,
    ``ambiguous_frame``, ``no_such_frame``, ``no_geometry``, ``points_outside_image``, ``covers_image``,
    ``zero_length`` and ``text_disagrees`` (the number drawn beside the line is more than 3 mm and 20 % off: the wrong
    image, or a calibration of its own).

    """
    surroundings = _Surroundings(index)
    located, skips = [], []
    for annotation in annotations:
        try:
            located.append(_locate_one(annotation, index, surroundings))
        except _NotLocated as error:
            skips.append(
                Skip(
                    "locate",
                    annotation.annotation_id,
                    error.reason,
                    error.detail,
                    failure=error.failure,
                    private={
                        "annotation_id": annotation.annotation_id,
                        "sop_instance_uid": annotation.sop_instance_uid,
                        "study_instance_uid": annotation.study_instance_uid,
                    },
                )
            )
    return located, skips


def disagreement_mm(located: LocatedAnnotation) -> float | None:
    """By how many mm the numbers drawn beside a measurement differ from its geometry beyond tolerance.

    Tolerance is 0.6 mm or 3 %, whichever is more, plus half the last digit of the drawn number (a whole number counts
    as rounded to whole mm). Several numbers are compared longest with longest; if there are more of one than of the
    other, each with its nearest.

    Returns
    -------
    0.0 where they agree, None where nothing can be compared.

    """
    pairs = stated_and_drawn(located.annotation.stated_mm, located.diameters_mm)
    excess = [max(0.0, abs(stated - drawn) - text_tolerance_mm(drawn) - rounding_mm(stated)) for stated, drawn in pairs]
    return max(excess, default=None)


def group_lesions(located: Sequence[LocatedAnnotation]) -> list[Lesion]:
    """Join the strokes that lie on the same thing: one ``Lesion`` each. The order of ``located`` does not matter.

    Strokes are compared in patient space within one study and one frame of reference, so an axial and a coronal stroke,
    or those of two phases, meet; two studies never do. The rule (``grouping.py``): each measurement is an
    ellipsoid; two are on one thing when the centre of each lies within 0.75 radii of the other's centre and their long
    axes differ by less than a factor of two. A lesion grows only while *all* its strokes stay within looser bounds of
    each other (1 radius, factor 2.5). Two lines side by side on one image from one hand are two things; two that cross
    near perpendicular are the two axes of one. An arrow joins the one lesion that it points at, or stays alone.

    Returns
    -------
    Lesions in order of their id, which is the least ``annotation_id`` in them. ``annotations[0]`` is the one to segment
    from: a pair before a line, then an outline, an ellipse, a box, an arrow, a pointer; of one kind the longest. Two
    lines that are the axes of one pair appear as that pair (with the identity of the long line) followed by the short
    line. ``diameters_mm`` are the medians over the strokes of long and (where drawn) short axis; empty if nothing
    measures it: arrows, pointers and regions do not.

    """
    spaces: dict[tuple[str, str], list[LocatedAnnotation]] = defaultdict(list)
    for item in located:
        spaces[item.annotation.study_instance_uid, item.frame_of_reference_uid].append(item)
    lesions = [_lesion(strokes) for space in spaces.values() for strokes in same_thing(strokes_of(space))]
    return sorted(lesions, key=lambda lesion: lesion.lesion_id)


def _lesion(strokes: Sequence[Stroke]) -> Lesion:
    ordered = sorted(strokes, key=_prompt_order)
    measured = [stroke for stroke in ordered if stroke.located.annotation.kind not in POINTING]
    first = ordered[0].located
    centre = np.median([stroke.centre for stroke in measured or ordered], axis=0)
    lengths = [stroke.located.diameters_mm for stroke in measured if stroke.located.diameters_mm]
    longs = [axes[0] for axes in lengths]
    shorts = [axes[1] for axes in lengths if len(axes) > 1]
    diameters = [median(axis) for axis in (longs, shorts) if axis]
    members = [member for stroke in ordered for member in stroke.members]
    return Lesion(
        lesion_id=min(member.annotation.annotation_id for member in members),
        annotations=tuple(members),
        diameters_mm=tuple(sorted(diameters, reverse=True)),
        centre_lps_mm=_point(centre),
        frame_of_reference_uid=first.frame_of_reference_uid,
        study_instance_uid=first.annotation.study_instance_uid,
    )


def _prompt_order(stroke: Stroke) -> tuple[int, float, str]:
    kind, lengths = stroke.located.annotation.kind, stroke.located.diameters_mm
    return _BEST_PROMPT.index(kind), -max(lengths, default=0.0), stroke.key[0]


def _locate_one(annotation: Annotation, index: Index, surroundings: _Surroundings) -> LocatedAnnotation:
    instance = _image_of(annotation, index)
    _require_ct_slice(instance)
    affine = _affine(instance)
    _require_inside(annotation, instance)
    normal = _point(affine[:3, 0])
    spacing = instance.pixel_spacing or (1.0, 1.0)
    extent = surroundings.extent(instance, affine)
    points = image_points_to_lps(annotation.points, 0, affine)
    centre = points[-1] if annotation.kind in POINTING else points.mean(axis=0)
    lengths = _lengths_mm(annotation, spacing)
    if annotation.kind not in POINTING:
        _require_agreement(annotation.stated_mm, lengths)
    return LocatedAnnotation(
        annotation=replace(
            annotation,
            series_instance_uid=instance.series_instance_uid,
            study_instance_uid=instance.study_instance_uid,
        ),
        diameters_mm=_diameters_mm(annotation, lengths),
        points_lps_mm=tuple(_point(point) for point in points),
        frame_of_reference_uid=instance.frame_of_reference_uid or "",
        series_number=instance.series_number,
        instance_number=instance.instance_number,
        side=surroundings.side(instance, affine, float(centre[0])),
        level=extent.level(float(centre[2])),
        slice_normal_lps=normal,
        slice_thickness_mm=extent.step_mm(instance, affine),
    )


def _image_of(annotation: Annotation, index: Index) -> Instance:
    """The slice that it is drawn on: of a multi-frame image, the frame that it names."""
    whole = index.instance(annotation.sop_instance_uid)
    if whole is None:
        raise _NotLocated(
            "image_not_in_export", "the image it is drawn on is not in the export; export that series too"
        )
    if whole.number_of_frames > 1 and annotation.frame_number is None:
        raise _NotLocated(
            "ambiguous_frame", "it is drawn on a multi-frame image and does not say on which of its frames"
        )
    image = image_under(annotation, index)
    if image is None:
        raise _NotLocated("no_such_frame", "it names a frame that its image does not have", failure=True)
    return image


def _require_ct_slice(instance: Instance) -> None:
    kinds = {value.upper() for value in instance.image_type}
    if instance.modality != "CT":
        raise _NotLocated("not_ct", "it is drawn on an image that is not a CT; only CT is read")
    if any("LOCALIZER" in kind or "SCOUT" in kind for kind in kinds):
        raise _NotLocated("localizer", "it is drawn on a localizer, which is no slice of a volume")


def _affine(instance: Instance) -> FloatArray:
    position, orientation, spacing = instance.image_position, instance.image_orientation, instance.pixel_spacing
    if position is None or orientation is None or spacing is None or not instance.frame_of_reference_uid:
        raise _NotLocated(
            "no_geometry",
            "its image lacks Image Position, Image Orientation, Pixel Spacing or Frame of Reference UID",
            failure=True,
        )
    try:
        return slice_affine(position, orientation, spacing)
    except GeometryError as error:
        raise _NotLocated("no_geometry", f"the geometry of its image is not valid: {error}", failure=True) from error


def _require_inside(annotation: Annotation, instance: Instance) -> None:
    rows, columns = instance.rows, instance.columns
    if rows is None or columns is None:
        raise _NotLocated("no_geometry", "its image lacks Rows or Columns", failure=True)
    inside = all(
        -_OUTSIDE_PX <= x <= columns + _OUTSIDE_PX and -_OUTSIDE_PX <= y <= rows + _OUTSIDE_PX
        for x, y in annotation.points
    )
    if not inside:
        raise _NotLocated(
            "points_outside_image",
            f"its points lie more than {_OUTSIDE_PX:g} pixel outside the {columns} x {rows} image: it was drawn on "
            "another image, or in other units",
            failure=True,
        )
    if annotation.kind in _REGIONS:
        width, height = np.ptp(annotation.points, axis=0)
        if width * height > _MOST_OF_IMAGE * columns * rows:
            raise _NotLocated(
                "covers_image", f"the region covers more than {_MOST_OF_IMAGE:.0%} of its image, which is no lesion"
            )


def _lengths_mm(annotation: Annotation, spacing: tuple[float, float]) -> tuple[float, ...]:
    """Lengths of what was drawn, longest first, from (between rows, between columns) ``spacing`` in mm.

    Of lines and ellipses the axes, of a box its sides, of an outline the longest chord and the width across it. A
    segment shorter than half a millimetre is no measurement and no direction, a region as thin as that no region.
    """
    points = np.asarray(annotation.points) * (spacing[1], spacing[0])
    if annotation.kind is AnnotationKind.BOX:
        lengths = [hypot(*(points[i + 1] - points[i])) for i in range(2)]
    elif annotation.kind is AnnotationKind.OUTLINE:
        u = np.diff(farthest_pair(points), axis=0)[0]
        lengths = [hypot(*u), float(np.ptp(points @ (-u[1], u[0]))) / max(hypot(*u), _LEAST_LENGTH_MM)]
    else:
        n = _SEGMENTS.get(annotation.kind, 0)
        lengths = [hypot(*(points[2 * i + 1] - points[2 * i])) for i in range(n)]
    if any(length < _LEAST_LENGTH_MM for length in lengths):
        raise _NotLocated("zero_length", f"one of its lines is shorter than {_LEAST_LENGTH_MM:g} mm")
    return tuple(sorted(lengths, reverse=True))


def _diameters_mm(annotation: Annotation, lengths_mm: tuple[float, ...]) -> tuple[float, ...]:
    """What of its lengths measures a lesion.

    Lines do. A region is drawn round a lesion, or inside it to sample its density, and neither is its diameter: of its
    lengths those count alone that stand beside it as text.
    """
    if annotation.kind in {AnnotationKind.LINE, AnnotationKind.BIDIMENSIONAL}:
        return lengths_mm
    if annotation.kind in POINTING:
        return ()
    return tuple(
        length
        for length in lengths_mm
        if any(abs(length - value) <= text_tolerance_mm(length) + rounding_mm(value) for value in annotation.stated_mm)
    )


def _require_agreement(stated_mm: Sequence[float], lengths_mm: Sequence[float]) -> None:
    for stated, drawn in stated_and_drawn(stated_mm, lengths_mm):
        off = abs(stated - drawn) - rounding_mm(stated)
        if off > _GROSS_MM and off > _GROSS_FRACTION * drawn:
            raise _NotLocated(
                "text_disagrees",
                f"the length drawn beside it is more than {_GROSS_MM:g} mm and {_GROSS_FRACTION:.0%} off its geometry: "
                "it was drawn on another image, or with a calibration of its own",
            )


@dataclass(frozen=True, slots=True)
class _Extent:
    """The parallel slices of a series: sorted positions along their normal, and their extent in height, LPS mm."""

    positions_mm: FloatArray
    lowest_mm: float
    highest_mm: float

    def level(self, height_mm: float) -> float | None:
        """Height in the extent, 0 towards the feet; None where the extent is flat."""
        span = self.highest_mm - self.lowest_mm
        if span < 1:
            return None
        return float(np.clip((height_mm - self.lowest_mm) / span, 0, 1))

    def step_mm(self, instance: Instance, affine: FloatArray) -> float:
        """Distance to the nearest other slice, or the slice thickness where there is none."""
        away = np.abs(self.positions_mm - float(affine[:3, 3] @ affine[:3, 0]))
        others = away[away > _SAME_PLANE_MM]
        return float(others.min()) if len(others) else instance.slice_thickness_mm or 0.0


class _Surroundings:
    """What an image's neighbours and its pixels tell, looked up once each."""

    def __init__(self, index: Index) -> None:
        self._index = index
        self._extents: dict[tuple[str, tuple[float, ...]], _Extent] = {}
        self._middles: dict[tuple[str, int | None], float | None] = {}

    def extent(self, instance: Instance, affine: FloatArray) -> _Extent:
        """Extent of the slices of the instance's series that are parallel to it."""
        normal = affine[:3, 0]
        key = instance.series_instance_uid, tuple(np.round(normal, 3).tolist())
        if key not in self._extents:
            self._extents[key] = _extent_of(self._index.instances(instance.series_instance_uid), normal)
        return self._extents[key]

    def side(self, instance: Instance, affine: FloatArray, x_mm: float) -> Side | None:
        """Side of the patient of LPS ``x_mm`` on that slice: +x is left; within 15 mm of the middle is MIDLINE."""
        key = instance.sop_instance_uid, instance.frame_number
        if key not in self._middles:
            try:
                self._middles[key] = body_middle_mm(read_hounsfield(instance), affine)
            except GeometryError:  # the pixels become a Skip where they are needed for more than the side
                self._middles[key] = None
        middle = self._middles[key]
        if middle is None:
            return None
        if abs(x_mm - middle) <= _MIDLINE_MM:
            return Side.MIDLINE
        return Side.LEFT if x_mm > middle else Side.RIGHT


def _extent_of(instances: Iterable[Instance], normal: FloatArray) -> _Extent:
    positions, heights = [], []
    for other in instances:
        if None in {other.rows, other.columns} or (other.frame_number is None and other.number_of_frames > 1):
            continue
        try:
            affine = _affine(other)
        except _NotLocated:
            continue
        if float(affine[:3, 0] @ normal) < 0.999:
            continue
        positions.append(float(affine[:3, 3] @ normal))
        last_row, last_column = (other.rows or 1) - 1, (other.columns or 1) - 1
        corners = [(0, row, column) for row in (0, last_row) for column in (0, last_column)]
        heights += apply_affine(affine, corners)[:, 2].tolist()
    return _Extent(np.sort(positions), min(heights, default=0.0), max(heights, default=0.0))


def _point(values: FloatArray) -> Point3D:
    return float(values[0]), float(values[1]), float(values[2])
