"""Which strokes lie on the same thing: geometry in patient space, millimetres, one frame of reference.

Every measured stroke is read as an ellipsoid: long axis as drawn; short axis as drawn, or 0.7 of the long one for a
lone line (the usual ratio); across the slices their mean; each widened by what drawing and slicing blur. Two strokes
are on the same thing when the centre of each lies well inside the other's ellipsoid and their sizes are alike. Centres
of neighbours that touch lie on each other's rim or beyond, so they stay apart. A region (ellipse, box, outline) is read
by its own extents; drawn round a lesion or inside it, it says where rather than how large.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace
from itertools import combinations
from math import inf

import numpy as np

from cohort_builder.types import AnnotationKind, LocatedAnnotation, Point3D
from segmentation.geometry import FloatArray
from segmentation.regions import farthest_pair

_INSIDE, _INSIDE_LOOSE = 0.75, 1.0  # radii from centre to centre: to join two strokes; to belong to one lesion
_ALIKE, _ALIKE_LOOSE = 0.5, 0.4  # smaller over larger long axis
_COINCIDENT = 0.15
_SHORT_OVER_LONG = 0.7
_DRAWING_MM = 1.0
_ARROW_REACH_MM = 10.0  # how far before the lesion an arrow's head may stop
_ARROWS_APART_MM = 4.0
_LEAST_CROSSING = 0.1  # axes of a pair cross away from their ends
_PERPENDICULAR_COS = 0.34  # within 20 degrees
_TICK_OVER_LINE = 0.2

POINTING = frozenset({AnnotationKind.ARROW, AnnotationKind.POINTER})
REGIONS = frozenset({AnnotationKind.ELLIPSE, AnnotationKind.BOX, AnnotationKind.OUTLINE})


@dataclass(frozen=True, slots=True, eq=False)
class Stroke:
    """One measurement or arrow, and the annotations it was made of (two for a pair drawn as two lines).

    ``frame`` is (3, 3): the rows are the unit directions of the long axis, the short axis and the slice normal;
    ``radii_mm`` are the half axes along them. Both are None for arrows. ``centre`` is the head of an arrow.
    """

    members: tuple[LocatedAnnotation, ...]
    centre: FloatArray
    frame: FloatArray | None = None
    radii_mm: FloatArray | None = None

    @property
    def located(self) -> LocatedAnnotation:
        """The annotation to segment from."""
        return self.members[0]

    @property
    def key(self) -> tuple[str, tuple[Point3D, ...]]:
        """Fixes the order among strokes, whatever order they came in."""
        return self.located.annotation.annotation_id, self.located.points_lps_mm


def strokes_of(located: Sequence[LocatedAnnotation]) -> list[Stroke]:
    """One stroke for each annotation, but one for two lines that the same hand drew as the axes of a pair.

    The axes of a pair: two lines on one image, from one presentation state or by one creator, within 20 degrees of
    perpendicular, crossing away from their ends. One of at most a fifth of the other is its tick, unless a length
    stands beside each. The best such partners are joined, each line once.
    """
    ordered = sorted(located, key=lambda item: (item.annotation.annotation_id, item.points_lps_mm))
    lines = [item for item in ordered if item.annotation.kind is AnnotationKind.LINE]
    pairs = [(quality, a, b) for a, b in combinations(lines, 2) if (quality := _axes_of_pair(a, b)) is not None]
    taken: set[int] = set()
    strokes = []
    for _, a, b in sorted(pairs, key=lambda pair: pair[0]):
        if not taken & {id(a), id(b)}:
            taken |= {id(a), id(b)}
            long, short = (a, b) if a.diameters_mm[0] >= b.diameters_mm[0] else (b, a)
            strokes.append(_stroke((_pair(long, short), short)))
    return strokes + [_stroke((item,)) for item in ordered if id(item) not in taken]


def same_thing(strokes: Sequence[Stroke]) -> list[list[Stroke]]:
    """Partition ``strokes`` (one study, one frame of reference) into lesions; independent of their order.

    Measured strokes join pair by pair, closest first. Two groups become one only if *every* stroke of one is within
    looser bounds of every stroke of the other, so a chain of neighbours does not grow together. Then what is drawn as
    regions alone joins the one measured lesion whose centre it holds, or in which its own centre lies, whatever the
    sizes. Then an arrow joins the one lesion that its head lies in or, if in none, that its ray enters within 10 mm.
    What could mean two stays alone. Arrows of two presentation states whose heads almost touch are one.
    """
    ordered = sorted(strokes, key=lambda stroke: stroke.key)
    lesions = _with_regions(_join([stroke for stroke in ordered if stroke.frame is not None]))
    for arrows in _join([stroke for stroke in ordered if stroke.frame is None]):
        inside, ahead = set[int](), set[int]()
        for k, lesion in enumerate(lesions):
            reached = [
                _distance_along(arrow, stroke) for arrow in arrows for stroke in lesion if stroke.frame is not None
            ]
            if any(distance == 0 for distance in reached):
                inside.add(k)
            if any(distance <= _ARROW_REACH_MM for distance in reached):
                ahead.add(k)
        meant = inside or ahead
        if len(meant) == 1:
            lesions[meant.pop()] += arrows
        else:
            lesions.append(arrows)
    return lesions


def _with_regions(groups: Sequence[list[Stroke]]) -> list[list[Stroke]]:
    """Add what is drawn as regions alone to the one measured lesion it can mean."""
    lesions = [group for group in groups if not all(_is_region(stroke) for stroke in group)]
    measured = [list(lesion) for lesion in lesions]
    for regions in (group for group in groups if all(_is_region(stroke) for stroke in group)):
        meant = [
            i
            for i, lesion in enumerate(measured)
            if any(min(_in_radii(a, b.centre), _in_radii(b, a.centre)) <= _INSIDE for a in regions for b in lesion)
        ]
        if len(meant) == 1:
            lesions[meant[0]] += regions
        else:
            lesions.append(regions)
    return lesions


def _is_region(stroke: Stroke) -> bool:
    return stroke.located.annotation.kind in REGIONS


def _join(strokes: Sequence[Stroke]) -> list[list[Stroke]]:
    apart = {(i, j): _apart(strokes[i], strokes[j]) for i, j in combinations(range(len(strokes)), 2)}
    group = {i: [i] for i in range(len(strokes))}
    for i, j in sorted(apart, key=lambda pair: (apart[pair][0], pair)):
        distance, loose = apart[i, j]
        if not distance <= _INSIDE or group[i] is group[j] or not loose:
            continue
        if all(apart[min(a, b), max(a, b)][1] for a in group[i] for b in group[j]):
            joined = group[i] + group[j]
            group.update(dict.fromkeys(joined, joined))
    unique = {id(members): members for members in group.values()}
    return [[strokes[i] for i in sorted(members)] for members in unique.values()]


def _apart(a: Stroke, b: Stroke) -> tuple[float, bool]:
    """Distance of the centres in radii (inf: never to be joined directly), and whether one lesion may hold both."""
    if a.frame is None or b.frame is None:
        return _arrows_apart(a, b)
    distance = max(_in_radii(a, b.centre), _in_radii(b, a.centre))
    sizes = sorted(float(stroke.radii_mm[0]) for stroke in (a, b) if stroke.radii_mm is not None)
    alike = sizes[0] / sizes[1]
    one_hand = _same_object(a.located, b.located) and _same_image(a.located, b.located)
    if one_hand and distance > _COINCIDENT and not _strokes_cross(a, b):
        return inf, False  # nobody measures one thing twice, side by side, on one image
    loose = distance <= _INSIDE_LOOSE and alike >= _ALIKE_LOOSE
    return (distance if alike >= _ALIKE else inf), loose


def _arrows_apart(a: Stroke, b: Stroke) -> tuple[float, bool]:
    normal = np.asarray(a.located.slice_normal_lps)
    away = b.centre - a.centre
    across = abs(float(away @ normal))
    in_plane = float(np.linalg.norm(away - (away @ normal) * normal))
    thickness = max(a.located.slice_thickness_mm, b.located.slice_thickness_mm)
    close = in_plane <= _ARROWS_APART_MM and across <= 1.5 * thickness
    if (_same_object(a.located, b.located) and in_plane + across > 0) or not close:
        return inf, False
    return _INSIDE * in_plane / _ARROWS_APART_MM, True


def _same_object(a: LocatedAnnotation, b: LocatedAnnotation) -> bool:
    """One presentation state is one reader's; a creator's name may be a login that several share."""
    return a.annotation.source.sop_instance_uid == b.annotation.source.sop_instance_uid


def _same_image(a: LocatedAnnotation, b: LocatedAnnotation) -> bool:
    first, second = a.annotation, b.annotation
    return (first.sop_instance_uid, first.frame_number) == (second.sop_instance_uid, second.frame_number)


def _strokes_cross(a: Stroke, b: Stroke) -> bool:
    return any(_crossing(p, q) is not None for p in _segments(a.located) for q in _segments(b.located))


def _segments(located: LocatedAnnotation) -> list[FloatArray]:
    """The straight lines of a stroke, each (2, 3) LPS mm."""
    points = np.asarray(located.points_lps_mm, dtype=np.float64)
    if located.annotation.kind in {AnnotationKind.LINE, AnnotationKind.BIDIMENSIONAL, AnnotationKind.ELLIPSE}:
        return [points[i : i + 2] for i in range(0, len(points) - 1, 2)]
    return []


def _crossing(first: FloatArray, second: FloatArray) -> tuple[float, float] | None:
    """Where two coplanar (2, 3) segments cross, as fractions of their lengths; None where they do not."""
    u, v, w = first[1] - first[0], second[1] - second[0], second[0] - first[0]
    uu, vv, uv = float(u @ u), float(v @ v), float(u @ v)
    determinant = uu * vv - uv * uv
    if determinant <= 1e-9 * uu * vv:
        return None
    s = (float(w @ u) * vv - float(w @ v) * uv) / determinant
    t = (float(w @ u) * uv - float(w @ v) * uu) / determinant
    return (s, t) if 0 <= s <= 1 and 0 <= t <= 1 else None


def _axes_of_pair(a: LocatedAnnotation, b: LocatedAnnotation) -> tuple[float, str, str] | None:
    """How well two lines serve as the axes of one pair (small is good), with ids to break ties; None if not at all."""
    creator = a.annotation.drawn_by_group
    same_creator = creator is not None and creator == b.annotation.drawn_by_group
    if not (same_creator or _same_object(a, b)) or not _same_image(a, b):
        return None
    p, q = np.asarray(a.points_lps_mm), np.asarray(b.points_lps_mm)
    crossing = _crossing(p, q)
    if crossing is None or any(not _LEAST_CROSSING <= at <= 1 - _LEAST_CROSSING for at in crossing):
        return None
    u, v = p[1] - p[0], q[1] - q[0]
    short, long = sorted((float(np.linalg.norm(u)), float(np.linalg.norm(v))))
    is_tick = short <= _TICK_OVER_LINE * long and not (a.annotation.stated_mm and b.annotation.stated_mm)
    cosine = abs(float(u @ v)) / (short * long)
    if is_tick or cosine > _PERPENDICULAR_COS:
        return None
    off_centre = abs(crossing[0] - 0.5) + abs(crossing[1] - 0.5)
    return cosine + off_centre, a.annotation.annotation_id, b.annotation.annotation_id


def _pair(long: LocatedAnnotation, short: LocatedAnnotation) -> LocatedAnnotation:
    """The bi-dimensional measurement that two lines make; it keeps the identity of the long one."""
    annotation = replace(
        long.annotation,
        kind=AnnotationKind.BIDIMENSIONAL,
        points=long.annotation.points + short.annotation.points,
        source=replace(long.annotation.source, rule="crossing_lines"),
        stated_mm=long.annotation.stated_mm + short.annotation.stated_mm,
        label="\n".join(text for text in (long.annotation.label, short.annotation.label) if text),
    )
    return replace(
        long,
        annotation=annotation,
        diameters_mm=(long.diameters_mm[0], short.diameters_mm[0]),
        points_lps_mm=long.points_lps_mm + short.points_lps_mm,
    )


def _stroke(members: tuple[LocatedAnnotation, ...]) -> Stroke:
    located = members[0]
    points = np.asarray(located.points_lps_mm, dtype=np.float64)
    if located.annotation.kind in POINTING:
        return Stroke(members, points[-1])
    axes = _segments(located) or [farthest_pair(points)]
    long = max(axes, key=lambda segment: float(np.linalg.norm(np.diff(segment, axis=0))))
    length = float(np.linalg.norm(long[1] - long[0]))
    u = (long[1] - long[0]) / length
    normal = np.asarray(located.slice_normal_lps, dtype=np.float64)
    v = np.cross(normal, u)
    width = float(np.ptp(points @ v)) if len(points) > 2 else _SHORT_OVER_LONG * length
    centre = points.mean(axis=0)
    if located.annotation.kind is AnnotationKind.OUTLINE:  # its vertices may crowd on one side
        for axis in (u, v):
            along = points @ axis
            centre += ((along.min() + along.max()) / 2 - float(centre @ axis)) * axis
    half = np.array([length, width, (length + width) / 2]) / 2
    radii = half + _DRAWING_MM + np.array([0.0, 0.0, located.slice_thickness_mm])
    return Stroke(members, centre, np.array([u, v, normal]), radii)


def _in_radii(stroke: Stroke, point: FloatArray) -> float:
    """Distance of ``point`` from the stroke's centre in units of its ellipsoid: 1 is the rim."""
    return float(np.linalg.norm(_to_unit_ball(stroke, point - stroke.centre)))


def _to_unit_ball(stroke: Stroke, vector: FloatArray) -> FloatArray:
    if stroke.frame is None or stroke.radii_mm is None:
        raise ValueError("an arrow has no ellipsoid")
    result: FloatArray = (stroke.frame @ vector) / stroke.radii_mm
    return result


def _distance_along(arrow: Stroke, stroke: Stroke) -> float:
    """How far ahead of its head, in mm, an arrow enters the stroke's ellipsoid: 0 inside, inf never.

    A pointer has no direction: it enters only where it stands.
    """
    at = _to_unit_ball(stroke, arrow.centre - stroke.centre)
    c = float(at @ at) - 1
    if c <= 0:
        return 0.0
    points = np.asarray(arrow.located.points_lps_mm, dtype=np.float64)
    if len(points) < 2 or arrow.located.annotation.kind is not AnnotationKind.ARROW:
        return inf
    ahead = (points[1] - points[0]) / np.linalg.norm(points[1] - points[0])
    step = _to_unit_ball(stroke, ahead)
    a, b = float(step @ step), float(at @ step)
    root = b * b - a * c
    if root < 0 or b >= 0:
        return inf
    return (-b - float(np.sqrt(root))) / a
