"""Slice positions along one normal to runs of equal spacing, in millimetres."""

from __future__ import annotations

import numpy as np

from segmentation.geometry import FloatArray

ROUNDED_MM = 0.11  # two positions written with one decimal are off by 0.05 mm each
_LONG_RUN = 20  # steps; a millimetre over them is 5 % of one
_WHOLE_MM = 1e-3
_JITTER_FRACTION = 0.2  # of the spacing; a missing slice shows as at least 0.5


def regular_runs(heights_mm: FloatArray) -> list[tuple[int, int]]:
    """Half-open index ranges of equal spacing in sorted distinct positions, in order.

    The longest run is taken first, and every slice is in one run at most. A pair is a run only where its distance is
    also that of a longer run, or where there are just these two slices: two beside a gap say nothing of its width.
    """
    found: list[tuple[int, int]] = []
    pending = [(0, len(heights_mm))]
    while pending:
        low, high = pending.pop()
        if high - low >= 2:
            a, b = _longest_run(heights_mm, low, high)
            found.append((a, b))
            pending += [(low, a), (b, high)]
    steps = [_step(heights_mm[a:b]) for a, b in found if b - a > 2]
    return [
        (a, b)
        for a, b in sorted(found)
        if b - a > 2
        or len(heights_mm) == 2
        or any(abs(_step(heights_mm[a:b]) - step) <= _tolerance(step) for step in steps)
    ]


def is_rounded_to_mm(heights_mm: FloatArray, run: tuple[int, int], thickness_mm: float | None) -> bool:
    """Whether a run of equal steps may come of rounding alone: 0, 1.25, 2.5, 3.75, 5 written as 0, 1, 2, 4, 5.

    So it may where all sorted positions are whole millimetres and other steps, one longer or shorter, come up as well;
    not if the step is the slices' own thickness, or if the run is so long that rounding cannot have made it.
    """
    first, last = run
    step = _step(heights_mm[first:last])
    if np.abs(heights_mm - heights_mm[0] - np.rint(heights_mm - heights_mm[0])).max() > _WHOLE_MM:
        return False
    if last - first > _LONG_RUN or abs((thickness_mm or 0.0) - step) <= _tolerance(step):
        return False
    others = np.abs(np.abs(np.diff(heights_mm) - step) - 1) <= _WHOLE_MM
    return int(others.sum()) > 1


def off_grid_mm(heights_mm: FloatArray) -> float:
    """Largest distance of a slice from the even grid between the first and the last."""
    return float(np.abs(heights_mm - np.linspace(heights_mm[0], heights_mm[-1], len(heights_mm))).max())


def _longest_run(heights_mm: FloatArray, low: int, high: int) -> tuple[int, int]:
    if _is_regular(heights_mm[low:high]):
        return low, high
    best, b = (low, low + 2), low + 2
    for a in range(low, high - 1):
        b = max(b, a + 2)
        while b < high and _is_regular(heights_mm[a : b + 1]):
            b += 1
        if b - a > best[1] - best[0]:
            best = (a, b)
    return best


def _is_regular(heights_mm: FloatArray) -> bool:
    return off_grid_mm(heights_mm) <= _tolerance(_step(heights_mm))


def _step(heights_mm: FloatArray) -> float:
    return float(heights_mm[-1] - heights_mm[0]) / (len(heights_mm) - 1)


def _tolerance(step_mm: float) -> float:
    return min(ROUNDED_MM, _JITTER_FRACTION * step_mm)
