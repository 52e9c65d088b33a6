"""Arrows: a shaft and a head, in the ways that writers store them."""

from __future__ import annotations

from cmath import phase
from collections import defaultdict
from collections.abc import Iterator, Sequence
from itertools import chain, combinations, islice, pairwise, product
from math import degrees

from cohort_builder.figures import SAME_POINT_PX
from cohort_builder.gsps.strokes import Head, Number, Segment, Shape
from cohort_builder.types import AnnotationKind

_BARB_DEGREES = (5.0, 75.0)
_BARB_FRACTION = 0.8
_HEAD_AWAY_FRACTION = 0.35
_MOST_HEADS = 200  # a star of lines that meet in one point makes thousands, and no arrow


def one_stroke_arrow(points: Sequence[complex]) -> tuple[complex, complex] | None:
    """(Tail, head) of a polyline that runs tail, head, barb, head, barb in any order; a closed head also counts."""
    vertices: list[complex] = []
    for point in points:
        if all(abs(point - vertex) > SAME_POINT_PX for vertex in vertices):
            vertices.append(point)
        if len(vertices) > 4:
            return None
    if len(vertices) != 4:
        return None
    named = [min(range(4), key=lambda i, p=point: abs(p - vertices[i])) for point in points]  # type: ignore[misc]
    edges = {frozenset(edge) for edge in pairwise(named) if edge[0] != edge[1]}
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


def put_heads_on(segments: Sequence[Segment], heads: Sequence[Head]) -> tuple[list[Shape], list[Segment]]:
    """Join shafts and heads, the nearest first; a shaft with a head at each end is a line.

    Returns
    -------
    The shapes, and the segments that are neither shaft nor barb.

    """
    heads = list(islice(chain(heads, _heads_of_barbs(segments)), _MOST_HEADS))
    fits = [
        (shaft, head, tip)
        for shaft, head in product(segments, heads)
        for tip in shaft.ends
        if not set(head.members) & set(shaft.members) and _fits(shaft, head, tip)
    ]
    fits.sort(key=lambda fit: (abs(fit[1].apex - fit[2]), fit[0].members, fit[1].members))
    used: set[Number] = set()
    chosen: dict[Segment, list[tuple[Head, complex]]] = defaultdict(list)
    barbs: set[Number] = set()
    for shaft, head, tip in fits:
        already = [other for _, other in chosen[shaft]]
        if barbs & {*head.members, *shaft.members} or used & set(head.members) or tip in already:
            continue
        chosen[shaft].append((head, tip))
        barbs |= set(head.members)
        used |= {*head.members, *shaft.members}
    shapes = [_with_heads(shaft, on_it) for shaft, on_it in chosen.items() if on_it]
    return shapes, [segment for segment in segments if not used & set(segment.members)]


def _with_heads(shaft: Segment, on_it: Sequence[tuple[Head, complex]]) -> Shape:
    members = tuple(sorted({*shaft.members, *(number for head, _ in on_it for number in head.members)}))
    if len(on_it) == 2:
        return Shape(AnnotationKind.LINE, shaft.ends, "line:two_heads", members)
    ((head, tip),) = on_it
    tail = shaft.end if tip == shaft.start else shaft.start
    style = "head" if len(head.members) == 1 else "two_barbs"
    return Shape(AnnotationKind.ARROW, (tail, head.apex), f"arrow:shaft_and_{style}", members)


def _heads_of_barbs(segments: Sequence[Segment]) -> Iterator[Head]:
    """Two segments that share an end."""
    for a, b in combinations(segments, 2):
        for apex, one in ((a.start, a.end), (a.end, a.start)):
            for other, two in ((b.start, b.end), (b.end, b.start)):
                if abs(apex - other) <= SAME_POINT_PX:
                    yield Head(apex, (one, two), tuple(sorted(a.members + b.members)))


def _fits(shaft: Segment, head: Head, tip: complex) -> bool:
    """Whether the head's apex lies on the shaft's line near ``tip`` and its barbs go back along it."""
    tail = shaft.end if tip == shaft.start else shaft.start
    if shaft.length == 0:
        return False
    away = (head.apex - tip) / ((tail - tip) / shaft.length)
    near = abs(away.real) <= _HEAD_AWAY_FRACTION * shaft.length and abs(away.imag) <= max(1.0, 0.1 * shaft.length)
    return near and _is_head(tail, head.apex, *head.barbs)
