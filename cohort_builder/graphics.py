"""Strokes on one image to what a radiologist drew with them: a line, a bi-dimensional pair, an arrow.

A presentation state stores bare polylines; the tool that drew them is lost. The rules here recognise the encodings that
are unmistakable and refuse the rest by name. Points are complex numbers, column + row * 1j, in pixels.
"""

from __future__ import annotations

from cmath import phase
from collections import defaultdict
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass
from itertools import combinations
from math import degrees

from cohort_builder.types import AnnotationKind

Number = tuple[int, int]

_SAME_POINT_PX = 0.5
_BARB_DEGREES = (5.0, 75.0)
_BARB_FRACTION = 0.8
_HEAD_AWAY_FRACTION = 0.35
_PERPENDICULAR_DEGREES, _GROUPED_DEGREES = 75.0, 65.0
_ACROSS_FRACTION = 0.03  # a diameter goes on beyond the other one; a perpendicular drawn onto a line ends on it
_SHORT_FRACTION, _TICK_FRACTION = 0.25, 0.2
_STEEP_DEGREES = 60.0
_RULER_TICKS = 4
_STATED_RATIO = 0.25


@dataclass(frozen=True, slots=True)
class Polyline:
    """One graphic object: ``number`` is (item, object) in the presentation state, both from 1."""

    number: Number
    points: tuple[complex, ...]
    filled: bool = False


@dataclass(frozen=True, slots=True)
class Hints:
    """What stands beside the strokes: drawn values in mm by text, whether one is an angle, and the strokes' grouping.

    ``grouped`` is True where the writer itself says that the strokes are one (a Graphic Group).
    """

    stated_mm: tuple[tuple[float, ...], ...] = ()
    angle: bool = False
    grouped: bool = False


@dataclass(frozen=True, slots=True)
class Shape:
    """What was drawn, in the point order of ``Annotation``; ``rule`` says by which encoding it was recognised."""

    kind: AnnotationKind
    points: tuple[complex, ...]
    rule: str
    members: tuple[Number, ...]


@dataclass(frozen=True, slots=True)
class Refusal:
    """Strokes that are none of the recognised encodings: ``reason`` names theirs."""

    reason: str
    members: tuple[Number, ...]


@dataclass(frozen=True, slots=True)
class _Segment:
    members: tuple[Number, ...]
    start: complex
    end: complex

    @property
    def length(self) -> float:
        return abs(self.end - self.start)

    @property
    def middle(self) -> complex:
        return (self.start + self.end) / 2

    @property
    def ends(self) -> tuple[complex, complex]:
        return self.start, self.end


@dataclass(frozen=True, slots=True)
class _Head:
    apex: complex
    barbs: tuple[complex, complex]
    members: tuple[Number, ...]


def classify(polylines: Iterable[Polyline], hints: Hints = Hints()) -> tuple[list[Shape], list[Refusal]]:  # noqa: B008
    """Recognise the strokes that belong together (one item, or one graphic group, on one image).

    In this order: arrows (shaft and three-point head, shaft and closed triangle, shaft and two barbs, one polyline with
    barbs; a head at both ends makes a line), rulers (refused), mid-point ticks and end caps (dropped, named in the
    rule), bi-dimensional pairs (two lines across each other within 15 degrees of perpendicular, 25 if grouped), lines.

    Returns
    -------
    Shapes and refusals, in the order of their first stroke; every stroke is a member of exactly one of them.

    """
    segments, heads, shapes, refusals = _sorted_out(polylines)
    arrows, segments, unused = _arrows(segments, heads)
    shapes += arrows
    refusals += unused
    loose = {number for refusal in refusals for number in refusal.members}
    pieces = [p for p in polylines if p.number in loose and len(p.points) > 2]
    segments, touched = _apart(segments, pieces)
    refusals += [Refusal("unrecognised_combination", s.members) for s in touched]
    if hints.angle and not hints.stated_mm:
        refusals += [Refusal("angle", s.members) for s in segments]
        segments = []
    rest, ruled = _without_rulers(segments)
    refusals += ruled
    pairs, lines, unclear = _pairs(_undecorated(rest, hints), hints)
    shapes += pairs + [Shape(AnnotationKind.LINE, s.ends, rule, s.members) for s, rule in lines]
    refusals += unclear
    return sorted(shapes, key=lambda s: s.members), sorted(refusals, key=lambda r: r.members)


def _sorted_out(polylines: Iterable[Polyline]) -> tuple[list[_Segment], list[_Head], list[Shape], list[Refusal]]:
    segments: list[_Segment] = []
    heads: list[_Head] = []
    shapes: list[Shape] = []
    refusals: list[Refusal] = []
    for polyline in polylines:
        points = _without_repeats(polyline.points)
        members = (polyline.number,)
        closed = len(points) > 3 and abs(points[0] - points[-1]) <= _SAME_POINT_PX
        arrow = _one_stroke_arrow(points)
        if len(points) < 2:
            refusals.append(Refusal("zero_length", members))
        elif len(points) == 2:
            segments.append(_Segment(members, *points))
        elif arrow is not None:
            shapes.append(Shape(AnnotationKind.ARROW, arrow, "arrow:one_polyline", members))
        elif closed and len(points) == 4:
            a, b, c = points[:3]
            heads += [_Head(a, (b, c), members), _Head(b, (c, a), members), _Head(c, (a, b), members)]
        elif len(points) == 3 and not polyline.filled:
            heads.append(_Head(points[1], (points[0], points[2]), members))
        elif closed or polyline.filled:
            refusals.append(Refusal("rectangle" if _is_rectangle(points) else "closed_outline", members))
        else:
            refusals.append(Refusal("open_polyline", members))
    return segments, heads, shapes, refusals


def _without_repeats(points: Sequence[complex]) -> tuple[complex, ...]:
    kept: list[complex] = []
    for point in points:
        if not kept or abs(point - kept[-1]) > 1e-6:
            kept.append(point)
    return tuple(kept)


def _one_stroke_arrow(points: Sequence[complex]) -> tuple[complex, complex] | None:
    """(Tail, head) of a polyline that runs tail, head, barb, head, barb in any order; a closed head also counts."""
    vertices: list[complex] = []
    for point in points:
        if all(abs(point - vertex) > _SAME_POINT_PX for vertex in vertices):
            vertices.append(point)
    if len(vertices) != 4:
        return None
    named = [min(range(4), key=lambda i, p=point: abs(p - vertices[i])) for point in points]  # type: ignore[misc]
    edges = {frozenset(edge) for edge in zip(named, named[1:], strict=False) if edge[0] != edge[1]}
    for hub in range(4):
        spokes = {i for edge in edges if hub in edge for i in edge} - {hub}
        beyond = [edge for edge in edges if hub not in edge]
        if len(spokes) != 3 or len(beyond) > 1:
            continue
        tail = max(spokes, key=lambda i: abs(vertices[i] - vertices[hub]))
        barbs = [vertices[i] for i in spokes - {tail}]
        if not any(tail in edge for edge in beyond) and _is_head(vertices[tail], vertices[hub], barbs[0], barbs[1]):
            return vertices[tail], vertices[hub]
    return None


def _is_head(tail: complex, apex: complex, one: complex, two: complex) -> bool:
    """Whether two barbs go back from the apex on both sides of the shaft."""
    shaft = tail - apex
    if abs(shaft) == 0 or apex in (one, two):
        return False
    angles = [degrees(phase((barb - apex) / shaft)) for barb in (one, two)]
    lengths = [abs(barb - apex) for barb in (one, two)]
    low, high = _BARB_DEGREES
    return (
        angles[0] * angles[1] < 0
        and all(low <= abs(angle) <= high for angle in angles)
        and max(lengths) < _BARB_FRACTION * abs(shaft)
    )


def _is_rectangle(points: Sequence[complex]) -> bool:
    corners = points[:-1]
    if len(points) != 5:
        return False
    sides = [corners[i] - corners[i - 1] for i in range(4)]
    return all(abs(abs(_angle(sides[i], sides[i - 1])) - 90) < 2 for i in range(4))


def _arrows(segments: list[_Segment], heads: list[_Head]) -> tuple[list[Shape], list[_Segment], list[Refusal]]:
    """Put heads onto shafts, nearest first; a shaft with a head at each end is a line."""
    heads = heads + list(_heads_of_barbs(segments))
    fits = sorted(
        (abs(head.apex - tip), shaft.members, head.members, shaft, head, tip)
        for shaft in segments
        for head in heads
        for tip in shaft.ends
        if not set(head.members) & set(shaft.members) and _fits(shaft, head, tip)
    ) if segments and heads else []  # fmt: skip
    taken: set[Number] = set()
    chosen: dict[_Segment, list[tuple[_Head, complex]]] = defaultdict(list)
    for _, _, _, shaft, head, tip in fits:
        busy = taken & {*head.members, *shaft.members}
        if not busy and all(other is not tip and other != tip for _, other in chosen[shaft]):
            chosen[shaft].append((head, tip))
            taken |= set(head.members)
    return _with_heads(segments, heads, {s: h for s, h in chosen.items() if h}, taken)


def _with_heads(
    segments: list[_Segment],
    heads: list[_Head],
    chosen: dict[_Segment, list[tuple[_Head, complex]]],
    taken: set[Number],
) -> tuple[list[Shape], list[_Segment], list[Refusal]]:
    shapes = []
    for shaft, on_it in chosen.items():
        members = tuple(sorted({*shaft.members, *(n for head, _ in on_it for n in head.members)}))
        if len(on_it) == 2:
            shapes.append(Shape(AnnotationKind.LINE, shaft.ends, "line:two_heads", members))
            continue
        ((head, tip),) = on_it
        tail = shaft.end if tip == shaft.start else shaft.start
        style = "head" if len(head.members) == 1 else "two_barbs"
        shapes.append(Shape(AnnotationKind.ARROW, (tail, head.apex), f"arrow:shaft_and_{style}", members))
    used = {number for shape in shapes for number in shape.members}
    lone = {head.members: head for head in heads if len(head.members) == 1 and not used & set(head.members)}
    refusals = [Refusal("angle" if _n_heads(heads, members) == 1 else "closed_outline", members) for members in lone]
    return shapes, [s for s in segments if not used & set(s.members)], refusals


def _n_heads(heads: Iterable[_Head], members: tuple[Number, ...]) -> int:
    """A closed triangle could point three ways, an open polyline of three points only one."""
    return sum(head.members == members for head in heads)


def _heads_of_barbs(segments: Sequence[_Segment]) -> Iterator[_Head]:
    """Two segments that share an end."""
    for a, b in combinations(segments, 2):
        for apex, one in ((a.start, a.end), (a.end, a.start)):
            for other, two in ((b.start, b.end), (b.end, b.start)):
                if abs(apex - other) <= _SAME_POINT_PX:
                    yield _Head(apex, (one, two), tuple(sorted(a.members + b.members)))


def _fits(shaft: _Segment, head: _Head, tip: complex) -> bool:
    """Whether the head's apex lies on the shaft's line near ``tip`` and its barbs go back along it."""
    tail = shaft.end if tip == shaft.start else shaft.start
    if shaft.length == 0:
        return False
    away = (head.apex - tip) / ((tail - tip) / shaft.length)
    near = abs(away.real) <= _HEAD_AWAY_FRACTION * shaft.length and abs(away.imag) <= max(1.0, 0.1 * shaft.length)
    return near and _is_head(tail, head.apex, *head.barbs)


def _apart(segments: Sequence[_Segment], pieces: Sequence[Polyline]) -> tuple[list[_Segment], list[_Segment]]:
    """Segments away from, and segments touching, the open polylines and triangles that nothing explains."""
    apart, touched = [], []
    for segment in segments:
        reach = max(2.0, 0.1 * segment.length)
        near = any(_distance(point, segment) <= reach for piece in pieces for point in piece.points)
        (touched if near else apart).append(segment)
    return apart, touched


def _without_rulers(segments: Sequence[_Segment]) -> tuple[list[_Segment], list[Refusal]]:
    """Take out every line with four or more short ticks across it."""
    refusals: list[Refusal] = []
    gone: set[Number] = set()
    for line in segments:
        ticks = [
            s
            for s in segments
            if s.length <= _SHORT_FRACTION * line.length
            and _angle(s.end - s.start, line.end - line.start) >= _STEEP_DEGREES
            and min(_distance(point, line) for point in (*s.ends, s.middle)) <= max(1.0, 0.02 * line.length)
        ]
        members = {n for s in (line, *ticks) for n in s.members}
        if len(ticks) >= _RULER_TICKS and not gone & members:
            gone |= members
            refusals.append(Refusal("calibration_ruler", tuple(sorted(members))))
    return [s for s in segments if not gone & set(s.members)], refusals


def _undecorated(segments: Sequence[_Segment], hints: Hints) -> list[tuple[_Segment, str]]:
    """Segments without the ticks and caps on them, which become members of their line, with the rule."""
    owner: dict[_Segment, tuple[_Segment, str]] = {}
    for small in segments:
        for line in sorted(segments, key=lambda s: -s.length):
            what = _decoration(small, line, hints)
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
        found.append((_Segment(members, *segment.ends), rule))
    return found


def _decoration(small: _Segment, line: _Segment, hints: Hints) -> str | None:
    """What ``small`` is on ``line``: a mid-point tick, an end cap, or nothing."""
    ratio = small.length / line.length if line.length else 1.0
    slack = max(1.0, 0.02 * line.length)
    if ratio > _SHORT_FRACTION:
        return None
    if min(abs(small.middle - end) for end in line.ends) <= slack:
        return "end_cap"
    steep = _angle(small.end - small.start, line.end - line.start) >= _STEEP_DEGREES
    if not steep or abs(small.middle - line.middle) > slack or _is_stated(ratio, hints):
        return None
    one_value = bool(hints.stated_mm) and all(len(values) == 1 for values in hints.stated_mm)
    return "mid_tick" if ratio <= _TICK_FRACTION or one_value else None


def _is_stated(ratio: float, hints: Hints) -> bool:
    """Whether a text beside the strokes gives two diameters of this ratio."""
    pairs = [values for values in hints.stated_mm if len(values) == 2]
    return any(abs(min(pair) / max(pair) - ratio) <= _STATED_RATIO * ratio for pair in pairs)


def _pairs(
    segments: Sequence[tuple[_Segment, str]], hints: Hints
) -> tuple[list[Shape], list[tuple[_Segment, str]], list[Refusal]]:
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
        elif meeting == "onto":
            refusals.append(Refusal("perpendicular", tuple(sorted(a.members + b.members))))
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


def _bidimensional(a: tuple[_Segment, str], b: tuple[_Segment, str], *, grouped: bool) -> Shape:
    long, short = sorted((a, b), key=lambda s: -s[0].length)
    rule = "bidimensional:group" if grouped else "bidimensional"
    members = tuple(sorted(long[0].members + short[0].members))
    return Shape(AnnotationKind.BIDIMENSIONAL, (*long[0].ends, *short[0].ends), f"{rule}{long[1]}{short[1]}", members)


def _meeting(a: _Segment, b: _Segment, hints: Hints) -> str | None:
    """How two lines near perpendicular to each other meet: ``across``, one ``onto`` the other, or not at all."""
    one, two = a.end - a.start, b.end - b.start
    if _angle(one, two) < (_GROUPED_DEGREES if hints.grouped else _PERPENDICULAR_DEGREES):
        return None
    area = (one.conjugate() * two).imag
    between = b.start - a.start
    fractions = ((between.conjugate() * two).imag / area, (between.conjugate() * one).imag / area)
    if all(_ACROSS_FRACTION <= f <= 1 - _ACROSS_FRACTION for f in fractions):
        return "across"
    if not all(-_ACROSS_FRACTION <= f <= 1 + _ACROSS_FRACTION for f in fractions):
        return None
    stated_pair = any(len(values) == 2 for values in hints.stated_mm)
    return "across" if hints.grouped or stated_pair else "onto"


def _angle(one: complex, two: complex) -> float:
    """Angle between two undirected lines, 0 to 90 degrees."""
    if one == 0 or two == 0:
        return 0.0
    angle = abs(degrees(phase(one / two)))
    return min(angle, 180 - angle)


def _distance(point: complex, segment: _Segment) -> float:
    direction = segment.end - segment.start
    along = ((point - segment.start) * direction.conjugate()).real / abs(direction) ** 2
    return abs(point - (segment.start + min(1.0, max(0.0, along)) * direction))
