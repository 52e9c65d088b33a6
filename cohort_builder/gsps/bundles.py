"""Strokes of one image that are read together: those that the writer joins, else those that touch."""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from itertools import pairwise

import numpy as np
from numpy.typing import NDArray

from cohort_builder.figures import without_repeats
from cohort_builder.gsps.items import Item, Key
from cohort_builder.gsps.strokes import REACH_FRACTION, REACH_PX, Polyline, Target

_MOST_POINTS = 7  # strokes of more are whole: nothing is a head, a tick or a dot


@dataclass(frozen=True, slots=True)
class Bundle:
    """Strokes on one image, in their order, and the ``key`` by which the writer says that they are one."""

    target: Target
    strokes: tuple[Polyline, ...]
    key: Key | None = None


def bundles_of(items: Iterable[Item]) -> list[Bundle]:
    """Put every stroke into one bundle; bundles in the order of their first strokes.

    Strokes with a graphic group or a tracking UID are joined by that. The others of an item are together, and with them
    those of other items of the image, whatever their layer, that touch or cross them: some writers store every stroke
    in an item of its own, and a shaft without its head, or a tick without its line, looks like a diameter.
    """
    keyed: dict[tuple[Target, Key], list[Polyline]] = defaultdict(list)
    loose: dict[Target, list[list[Polyline]]] = defaultdict(list)
    for item in items:
        own = [stroke for stroke in item.strokes if stroke.number not in item.keys]
        if own:
            loose[item.target].append(own)
        for stroke in item.strokes:
            if stroke.number in item.keys:
                keyed[item.target, item.keys[stroke.number]].append(stroke)
    bundles = [Bundle(target, tuple(strokes), key) for (target, key), strokes in keyed.items()]
    bundles += [Bundle(target, strokes) for target, parts in loose.items() for strokes in _joined(parts)]
    return sorted(bundles, key=lambda bundle: bundle.strokes[0].number)


def _joined(parts: Sequence[Sequence[Polyline]]) -> list[tuple[Polyline, ...]]:
    """Join the parts that touch, through others too."""
    edges = [(part, *edge) for part, strokes in enumerate(parts) for stroke in strokes for edge in _edges(stroke)]
    owner = np.array([part for part, _, _ in edges], dtype=np.intp)
    start = np.array([one for _, one, _ in edges], dtype=np.complex128)
    end = np.array([other for _, _, other in edges], dtype=np.complex128)
    group = np.arange(len(parts))
    for i in range(len(edges) if len(parts) > 1 else 0):
        apart = i + np.flatnonzero(group[owner[i:]] != group[owner[i]])
        met = group[owner[[i, *apart[_touch(start[i], end[i], start[apart], end[apart])]]]]
        group[np.isin(group, met)] = met.min()
    joined: dict[int, list[Polyline]] = defaultdict(list)
    for part, strokes in enumerate(parts):
        joined[int(group[part])] += strokes
    return [tuple(strokes) for strokes in joined.values()]


def _edges(stroke: Polyline) -> list[tuple[complex, complex]]:
    """The lines of a stroke: sides, of an open triangle too; axes of an ellipse; a circle's drawn radius."""
    points = without_repeats(stroke.points)
    if len(points) > _MOST_POINTS:
        return []
    if len(points) == 1:
        return [(points[0], points[0])]
    if stroke.graphic_type == "ELLIPSE":
        return list(pairwise(points))[::2]
    return list(pairwise(points[-1:] + points if len(points) == 3 else points))


def _touch(
    start: complex, end: complex, starts: NDArray[np.complex128], ends: NDArray[np.complex128]
) -> NDArray[np.bool_]:
    """Which of the lines cross the one, or come within reach of it."""
    one, other = np.full_like(starts, start), np.full_like(starts, end)
    near = np.minimum(
        np.minimum(_away(starts, one, other), _away(ends, one, other)),
        np.minimum(_away(one, starts, ends), _away(other, starts, ends)),
    )
    across = (_side(one, other, starts) * _side(one, other, ends) < 0) & (
        _side(starts, ends, one) * _side(starts, ends, other) < 0
    )
    longer = np.maximum(np.abs(ends - starts), abs(end - start))
    found: NDArray[np.bool_] = across | (near <= np.maximum(REACH_PX, REACH_FRACTION * longer))
    return found


def _away(
    points: NDArray[np.complex128], starts: NDArray[np.complex128], ends: NDArray[np.complex128]
) -> NDArray[np.float64]:
    """From every point to its line, in pixels."""
    along = ends - starts
    square = np.abs(along) ** 2
    part = ((points - starts) * along.conj()).real / np.where(square > 0, square, 1.0)
    result: NDArray[np.float64] = np.abs(points - starts - np.clip(part, 0.0, 1.0) * along)
    return result


def _side(
    starts: NDArray[np.complex128], ends: NDArray[np.complex128], points: NDArray[np.complex128]
) -> NDArray[np.float64]:
    """Sign of the side of its line on which every point lies."""
    result: NDArray[np.float64] = np.sign(((ends - starts).conj() * (points - starts)).imag)
    return result
