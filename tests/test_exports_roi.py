"""The published region: enough around the lesion, and the lesion not in its centre."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from exports import ExportError, choose_roi


@st.composite
def regions(draw: st.DrawFn) -> tuple[Any, ...]:
    shape = [draw(st.integers(2, 300)) for _ in range(3)]
    spacing = [draw(st.floats(0.3, 8)) for _ in range(3)]
    lower = [draw(st.integers(0, n - 1)) for n in shape]
    upper = [draw(st.integers(lo + 1, n)) for lo, n in zip(lower, shape, strict=True)]
    points = draw(st.lists(st.tuples(*(st.floats(-3, n + 3) for n in shape)), max_size=4))
    return (*lower, *upper), points, shape, spacing, draw(st.integers(0, 2**32 - 1))


@settings(max_examples=150, deadline=None)
@given(regions())
def test_the_region_keeps_its_margin_and_length_or_ends_with_the_volume(region: tuple[Any, ...]) -> None:
    bbox, points, shape, spacing, seed = region
    origin, size = choose_roi(bbox, np.array(points).reshape(-1, 3), shape, spacing, np.random.default_rng(seed))
    again = choose_roi(bbox, np.array(points).reshape(-1, 3), shape, spacing, np.random.default_rng(seed))
    assert (origin, size) == again
    for axis in range(3):
        first, last, n, step = origin[axis], origin[axis] + size[axis], shape[axis], spacing[axis]
        inside = [min(max(point[axis], 0), n - 1) for point in points]
        low, high = min([bbox[axis], *inside]), max([bbox[axis + 3] - 1, *inside])
        assert 0 <= first < last <= n
        assert first <= low
        assert high <= last - 1
        assert first == 0 or (low - first) * step >= 20 - 1e-9
        assert last == n or (last - 1 - high) * step >= 20 - 1e-9
        assert (first == 0 and last == n) or size[axis] * step >= 64 - 1e-9


@given(st.integers(1, 80), st.floats(0.5, 2))
@settings(max_examples=20, deadline=None)
def test_lesions_do_not_sit_in_the_centre(length: int, spacing: float) -> None:
    bbox, shape = (400, 400, 400, 400 + length, 400 + length, 400 + length), (1000, 1000, 1000)
    offsets = []
    for seed in range(200):
        origin, size = choose_roi(bbox, np.empty((0, 3)), shape, (spacing,) * 3, np.random.default_rng(seed))
        offsets.append((400 + length / 2 - np.array(origin) - np.array(size) / 2) * spacing)
    spread = np.array(offsets)
    assert (np.ptp(spread, axis=0) > 15).all()
    assert (np.abs(spread.mean(axis=0)) < 3).all()
    assert (np.abs(np.corrcoef(spread.T) - np.eye(3)) < 0.35).all()


@pytest.mark.parametrize(
    ("bbox", "points", "spacing"),
    [
        ((5, 5, 5, 5, 9, 9), [], (1, 1, 1)),
        ((-1, 0, 0, 3, 3, 3), [], (1, 1, 1)),
        ((0, 0, 0, 3, 3, 11), [], (1, 1, 1)),
        ((0, 0, 0, 3, 3, 3), [(np.nan, 0, 0)], (1, 1, 1)),
        ((0, 0, 0, 3, 3, 3), [], (0, 1, 1)),
    ],
)
def test_an_impossible_region_is_refused(bbox: Any, points: Any, spacing: Any) -> None:
    with pytest.raises(ExportError):
        choose_roi(bbox, np.array(points, dtype=float), (10, 10, 10), spacing, np.random.default_rng(0))
