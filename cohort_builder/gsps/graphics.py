"""Strokes on one image to what a radiologist drew with them: lines, pairs, arrows, regions, points.

A presentation state stores bare strokes; the tool that drew them is lost. The rules here recognise the encodings that
are unmistakable and refuse the rest by name. Points are complex numbers, column + row * 1j, in image coordinates.
"""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Mapping, Sequence
from dataclasses import replace
from itertools import combinations

from cohort_builder.figures import (
    ACROSS_FRACTION,
    AXES_DEGREES,
    MOST_VERTICES,
    SAME_POINT_PX,
    angle,
    meeting_of,
    without_repeats,
)
from cohort_builder.gsps.arrows import one_stroke_arrow, put_heads_on
from cohort_builder.gsps.regions import put_dots_on, region_of
from cohort_builder.gsps.strokes import (
    REACH_FRACTION,
    REACH_PX,
    Head,
    Hints,
    Number,
    Polyline,
    Refusal,
    Segment,
    Shape,
    box_of,
    distance,
)
from cohort_builder.types import AnnotationKind

_MOST_STROKES = 64
_PIECE_POINTS, _HEAD_FRACTION = 6, 0.5
_PERPENDICULAR_DEGREES = 75.0
_ANGLE_DEGREES = 10.0  # less is one line drawn on in two parts
_SHORT_FRACTION, _TICK_FRACTION = 0.25, 0.2
_TICK_OF_ONE_VALUE = 0.35  # across the middle of a line with one length beside it; a tick has a size of its own
_STEEP_DEGREES = 60.0
_RULER_TICKS = 4
_STATED_RATIO = 0.25
_NO_HINTS = Hints()


def classify(polylines: Sequence[Polyline], hints: Hints = _NO_HINTS) -> tuple[list[Shape], list[Refusal]]:
    """Recognise the strokes of one bundle (``bundles_of``).

    In this order: regions and points; arrows (shaft and three-point head, shaft and closed triangle, shaft and two
    barbs, one polyline with barbs; a head at both ends makes a line); rulers (refused); mid-point ticks and end caps
    (dropped, named in the rule); bi-dimensional pairs (two lines across each other within 15 degrees of perpendicular,
    25 if grouped; one may end on the other only where a text gives both lengths); angles (two lines that share an end);
    lines. Points and small circles on the ends or the middle of something are marks on it.

    Returns
    -------
    Shapes and refusals, in the order of their first stroke; every stroke is a member of exactly one of them. Reasons
    are those of ``region_of``, and ``zero_length``, ``lone_triangle``, ``angle``, ``perpendicular``,
    ``calibration_ruler``, ``ambiguous_crossing``, ``unrecognised_combination``, ``many_strokes`` and ``many_points``.

    """
    if len(polylines) > _MOST_STROKES:
        return [], [Refusal("many_strokes", tuple(sorted(p.number for p in polylines)))]
    polylines, copies = _without_copies(polylines)
    rulers = _mistyped_rulers(polylines)
    ruled = {number for ruler in rulers for number in ruler.members}
    shapes, refusals = _recognised([p for p in polylines if p.number not in ruled], hints)
    refusals += rulers
    return (
        sorted((replace(s, members=_and_copies(s.members, copies)) for s in shapes), key=lambda s: s.members),
        sorted((replace(r, members=_and_copies(r.members, copies)) for r in refusals), key=lambda r: r.members),
    )


def _recognised(polylines: Sequence[Polyline], hints: Hints) -> tuple[list[Shape], list[Refusal]]:
    segments, heads, shapes, refusals = _sorted_out(polylines)
    arrows, segments = put_heads_on(segments, heads)
    shapes += arrows
    refusals += _unused(heads, {number for shape in arrows for number in shape.members})
    heads_of_a_kind = _unknown_heads(shapes, segments)
    refusals += [Refusal("unrecognised_combination", shape.members) for shape in heads_of_a_kind]
    shapes = [shape for shape in shapes if shape not in heads_of_a_kind]
    segments, touched = _apart(segments, _pieces(polylines, refusals))
    refusals += [Refusal("unrecognised_combination", segment.members) for segment in touched]
    segments, ruled = _without_rulers(segments)
    pairs, lines, unclear = _pairs(_undecorated(segments, hints), hints)
    shapes += pairs + [Shape(AnnotationKind.LINE, line.ends, rule, line.members) for line, rule in lines]
    return put_dots_on(shapes), refusals + ruled + unclear


def _mistyped_rulers(polylines: Sequence[Polyline]) -> list[Refusal]:
    """Rulers whose long line is stored as a CIRCLE of two points, with the ticks across it."""
    lines = [
        Segment((p.number,), *p.points)
        for p in polylines
        if len(p.points) == 2 and p.graphic_type in {"POLYLINE", "CIRCLE"}
    ]
    circles = {p.number for p in polylines if p.graphic_type == "CIRCLE"}
    _, ruled = _without_rulers(lines)
    return [refusal for refusal in ruled if circles & set(refusal.members)]


def _without_copies(polylines: Sequence[Polyline]) -> tuple[list[Polyline], dict[Number, list[Number]]]:
    """Strokes drawn twice on one place (a line and its shadow) once, and the numbers of the others by the first."""
    first: dict[tuple[str | complex, ...], Polyline] = {}
    copies: dict[Number, list[Number]] = defaultdict(list)
    for polyline in polylines:
        one_way = tuple(complex(round(p.real, 2), round(p.imag, 2)) for p in polyline.points)
        either_way = min(one_way, one_way[::-1], key=str) if polyline.graphic_type == "POLYLINE" else one_way
        kept = first.setdefault((polyline.graphic_type, *either_way), polyline)
        if kept is not polyline:
            copies[kept.number].append(polyline.number)
    return list(first.values()), copies


def _and_copies(members: tuple[Number, ...], copies: Mapping[Number, Sequence[Number]]) -> tuple[Number, ...]:
    return tuple(sorted({*members, *(copy for number in members for copy in copies.get(number, ()))}))


def _sorted_out(polylines: Sequence[Polyline]) -> tuple[list[Segment], list[Head], list[Shape], list[Refusal]]:
    """Two-point lines, possible heads, what is whole in one stroke, and what is none of them."""
    segments: list[Segment] = []
    heads: list[Head] = []
    shapes: list[Shape] = []
    refusals: list[Refusal] = []
    for polyline in polylines:
        points = without_repeats(polyline.points)
        members = (polyline.number,)
        straight = polyline.graphic_type == "POLYLINE" or (polyline.graphic_type == "INTERPOLATED" and len(points) == 2)
        closed = len(points) > 2 and abs(points[0] - points[-1]) <= SAME_POINT_PX
        corners = len(points) - closed
        arrow = one_stroke_arrow(points) if straight else None
        if len(points) > MOST_VERTICES:
            refusals.append(Refusal("many_points", members))
        elif polyline.graphic_type == "POINT":
            shapes.append(Shape(AnnotationKind.POINTER, points[:1], "pointer:point", members))
        elif len(points) < 2:
            refusals.append(Refusal("zero_length", members))
        elif straight and len(points) == 2:
            segments.append(Segment(members, *points))
        elif arrow is not None:
            shapes.append(Shape(AnnotationKind.ARROW, arrow, "arrow:one_polyline", members))
        elif straight and closed and corners == 2:
            refusals.append(Refusal("zero_area", members))
        elif straight and corners == 3 and (closed or polyline.filled):
            a, b, c = points[:3]
            heads += [Head(a, (b, c), members), Head(b, (c, a), members), Head(c, (a, b), members)]
        elif straight and corners == 3:
            heads.append(Head(points[1], (points[0], points[2]), members))
        elif isinstance(region := region_of(polyline), Shape):
            shapes.append(region)
        else:
            refusals.append(region)
    return segments, heads, shapes, refusals


def _unused(heads: Sequence[Head], used: set[Number]) -> list[Refusal]:
    """A triangle that is no head may be an outline or point three ways; an open one is an angle."""
    ways: dict[tuple[Number, ...], int] = defaultdict(int)
    for head in heads:
        ways[head.members] += 1
    return [
        Refusal("angle" if n == 1 else "lone_triangle", members)
        for members, n in ways.items()
        if not used & set(members)
    ]


def _unknown_heads(shapes: Sequence[Shape], segments: Sequence[Segment]) -> list[Shape]:
    """Outlines of few corners at the end of a longer line: arrow heads of a form that is not known, or labels."""
    return [
        shape
        for shape in shapes
        if shape.kind is AnnotationKind.OUTLINE and len(shape.points) <= _PIECE_POINTS
        for left, top, right, bottom in [box_of(shape.points)]
        if any(
            max(right - left, bottom - top) <= _HEAD_FRACTION * segment.length
            and any(distance(tip, side) <= _reach(segment) for tip in segment.ends for side in shape.lines)
            for segment in segments
        )
    ]


def _pieces(polylines: Sequence[Polyline], refusals: Sequence[Refusal]) -> list[Polyline]:
    """Small unexplained polylines: a line that touches one may be part of something else."""
    refused = {number for refusal in refusals for number in refusal.members}
    return [p for p in polylines if p.number in refused and 3 <= len(p.points) <= _PIECE_POINTS]


def _reach(segment: Segment) -> float:
    return max(REACH_PX, REACH_FRACTION * segment.length)


def _apart(segments: Sequence[Segment], pieces: Sequence[Polyline]) -> tuple[list[Segment], list[Segment]]:
    """Segments away from, and segments touching, the open polylines and triangles that nothing explains."""
    apart: list[Segment] = []
    touched: list[Segment] = []
    for segment in segments:
        near = any(distance(point, segment) <= _reach(segment) for piece in pieces for point in piece.points)
        (touched if near else apart).append(segment)
    return apart, touched


def _without_rulers(segments: Sequence[Segment]) -> tuple[list[Segment], list[Refusal]]:
    """Take out every line with four or more short ticks across it."""
    refusals: list[Refusal] = []
    gone: set[Number] = set()
    for line in segments:
        ticks = [
            s
            for s in segments
            if s.length <= _SHORT_FRACTION * line.length
            and angle(s.end - s.start, line.end - line.start) >= _STEEP_DEGREES
            and min(distance(point, line) for point in (*s.ends, s.middle)) <= max(1.0, 0.02 * line.length)
        ]
        members = {n for s in (line, *ticks) for n in s.members}
        if len(ticks) >= _RULER_TICKS and not gone & members:
            gone |= members
            refusals.append(Refusal("calibration_ruler", tuple(sorted(members))))
    return [s for s in segments if not gone & set(s.members)], refusals


def _undecorated(segments: Sequence[Segment], hints: Hints) -> list[tuple[Segment, str]]:
    """Segments without the ticks and caps on them, which become members of their line, with the rule."""
    owner: dict[Segment, tuple[Segment, str]] = {}
    for small in segments:
        for line in sorted(segments, key=lambda s: -s.length):
            what = _decoration(small, line, segments, hints)
            if what is not None and line not in owner:
                owner[small] = (line, what)
                break
    found = []
    for segment in segments:
        if segment in owner:
            continue
        mine = [(small, what) for small, (line, what) in owner.items() if line is segment]
        members = tuple(sorted({*segment.members, *(n for small, _ in mine for n in small.members)}))
        rule = "".join(f"+{what}" for what in sorted({what for _, what in mine}))
        found.append((Segment(members, *segment.ends), rule))
    return found


def _decoration(small: Segment, line: Segment, segments: Sequence[Segment], hints: Hints) -> str | None:
    """What ``small`` is on ``line``: a mid-point tick, an end cap, or nothing.

    A cap is short, or is one of two alike, one on each end: those are longer than a short line.
    """
    ratio = small.length / line.length if line.length else 1.0
    slack = max(1.0, 0.02 * line.length)
    if ratio < 1 and min(abs(small.middle - end) for end in line.ends) <= slack:
        other = line.start + line.end - small.middle
        alike = any(
            s not in {small, line} and abs(s.middle - other) <= 2 * slack and _is_parallel(small, s, slack)
            for s in segments
        )
        return "end_cap" if ratio <= _SHORT_FRACTION or alike else None
    steep = angle(small.end - small.start, line.end - line.start) >= _STEEP_DEGREES
    if not steep or abs(small.middle - line.middle) > slack or _is_stated(ratio, hints):
        return None
    one_value = bool(hints.stated_mm) and all(len(values) == 1 for values in hints.stated_mm)
    return "mid_tick" if ratio <= (_TICK_OF_ONE_VALUE if one_value else _TICK_FRACTION) else None


def _is_parallel(a: Segment, b: Segment, slack: float) -> bool:
    """Whether two segments have the same direction and length, whichever end comes first."""
    one, two = a.end - a.start, b.end - b.start
    return min(abs(one - two), abs(one + two)) <= slack


def _is_stated(ratio: float, hints: Hints) -> bool:
    """Whether a text beside the strokes, or two of their group, give two diameters of this ratio."""
    pairs = [values for values in hints.stated_mm if len(values) == 2]
    if hints.grouped and [len(values) for values in hints.stated_mm] == [1, 1]:
        pairs.append((hints.stated_mm[0][0], hints.stated_mm[1][0]))
    return any(abs(min(pair) / max(pair) - ratio) <= _STATED_RATIO * ratio for pair in pairs)


def _pairs(
    segments: Sequence[tuple[Segment, str]], hints: Hints
) -> tuple[list[Shape], list[tuple[Segment, str]], list[Refusal]]:
    """Bi-dimensional pairs, single lines, and what crosses in a way that is neither."""
    partners: dict[int, list[int]] = defaultdict(list)
    refusals: list[Refusal] = []
    gone: set[int] = set()
    for i, j in combinations(range(len(segments)), 2):
        a, b = segments[i][0], segments[j][0]
        meeting = _meeting(a, b, hints)
        if meeting == "across":
            partners[i].append(j)
            partners[j].append(i)
        elif meeting is not None:
            refusals.append(Refusal(meeting, tuple(sorted(a.members + b.members))))
            gone |= {i, j}
    shapes = []
    for i, j in combinations(range(len(segments)), 2):
        if partners[i] == [j] and partners[j] == [i] and not gone & {i, j}:
            gone |= {i, j}
            shapes.append(_bidimensional(segments[i], segments[j], grouped=hints.grouped))
    unclear = [i for i in range(len(segments)) if partners[i] and i not in gone]
    if unclear:
        members = tuple(sorted(n for i in unclear for n in segments[i][0].members))
        refusals.append(Refusal("ambiguous_crossing", members))
    lines = [
        (segment, f"line{rule}") for i, (segment, rule) in enumerate(segments) if i not in gone and i not in unclear
    ]
    return shapes, lines, _merged(refusals)


def _merged(refusals: Sequence[Refusal]) -> list[Refusal]:
    """One refusal a stroke."""
    seen: set[Number] = set()
    kept = []
    for refusal in refusals:
        members = tuple(n for n in refusal.members if n not in seen)
        seen |= set(members)
        if members:
            kept.append(Refusal(refusal.reason, members))
    return kept


def _bidimensional(a: tuple[Segment, str], b: tuple[Segment, str], *, grouped: bool) -> Shape:
    long, short = sorted((a, b), key=lambda s: -s[0].length)
    rule = "bidimensional:group" if grouped else "bidimensional"
    members = tuple(sorted(long[0].members + short[0].members))
    return Shape(AnnotationKind.BIDIMENSIONAL, (*long[0].ends, *short[0].ends), f"{rule}{long[1]}{short[1]}", members)


def _meeting(a: Segment, b: Segment, hints: Hints) -> str | None:
    """How two lines meet: ``across`` near perpendicular, as a ``perpendicular`` onto the other, as an ``angle``."""
    one, two = a.end - a.start, b.end - b.start
    if angle(one, two) < (AXES_DEGREES if hints.grouped else _PERPENDICULAR_DEGREES):
        shares_end = any(abs(p - q) <= SAME_POINT_PX for p in a.ends for q in b.ends)
        return "angle" if shares_end and angle(one, two) >= _ANGLE_DEGREES else None
    fractions = meeting_of(a.ends, b.ends)
    if fractions is None:
        return None
    if all(ACROSS_FRACTION <= f <= 1 - ACROSS_FRACTION for f in fractions):
        return "across"
    if not all(-ACROSS_FRACTION <= f <= 1 + ACROSS_FRACTION for f in fractions):
        return None
    ratio = min(a.length, b.length) / max(a.length, b.length)
    return "across" if _is_stated(ratio, hints) else "perpendicular"
