"""How probable is each pair, when every finding and every lesion has at most one partner.

A partial one-to-one matching M has the weight ``prod(exp(log_odds[i, j]) for (i, j) in M)``; the empty matching weighs
1. The probability of a pair is the weight of all matchings that hold it over the weight of all matchings: the
monomer-dimer model. The sum is exact, by dynamic programming over subsets, for components with up to ``EXACT_SIDE``
rows or columns on their smaller side. Larger ones are answered by belief propagation, which converges on this model
(Bayati, Gamarnik, Katz, Nair and Tetali, "Simple deterministic approximation algorithms for counting matchings", 2007)
and is exact on trees.
"""

from __future__ import annotations

from dataclasses import dataclass
from functools import cache
from math import log

import numpy as np
from numpy.typing import NDArray

FloatArray = NDArray[np.float64]

EXACT_SIDE = 15
"""Largest smaller side of a component that is summed exactly: 2**15 subsets."""

NEGLIGIBLE = -9.0
"""Pairs below these log odds are left out: each could take at most exp(-9) = 0.0001 from a rival."""

_LARGEST = 30.0  # keeps the smallest ratio of two subsets, exp(-15 * 30), above underflow
_LOW_BITS = 5  # columns that one small matrix product takes at once
_ITERATIONS = 500
_SETTLED = 1e-10


@dataclass(frozen=True, slots=True, eq=False)
class Matchings:
    """The sum over all matchings: (finding, lesion) ``probabilities`` and the log of the total weight."""

    probabilities: FloatArray
    log_weight: float


def sum_matchings(log_odds: FloatArray, *, exact_side: int = EXACT_SIDE) -> Matchings:
    """Sum over all partial one-to-one matchings.

    Parameters
    ----------
    log_odds
        (finding, lesion) natural log odds that the two belong together, against both standing alone, were there no
        rivals; -inf for what cannot be.
    exact_side
        Components whose smaller side is larger than this are approximated.

    Returns
    -------
    Probabilities, of which every row and every column sums to at most 1, and the log of the sum.

    Raises
    ------
    ValueError
        If ``log_odds`` is not a matrix or holds NaN.

    """
    if log_odds.ndim != 2 or np.isnan(log_odds).any():
        raise ValueError(f"log_odds must be a matrix without NaN, got {log_odds.ndim} dimensions")
    probabilities = np.zeros(log_odds.shape)
    log_weight = 0.0
    possible = log_odds > NEGLIGIBLE
    weights = np.where(possible, np.exp(np.minimum(log_odds, _LARGEST)), 0.0)
    for rows, columns in _components(possible):
        block = weights[np.ix_(rows, columns)]
        if block.size == 1:
            answer, total = block / (1 + block), log(1 + float(block[0, 0]))
        elif min(block.shape) > exact_side:
            answer, total = _by_belief_propagation(block)
        elif block.shape[0] < block.shape[1]:
            turned, total = _exact(block.T)
            answer = turned.T
        else:
            answer, total = _exact(block)
        probabilities[np.ix_(rows, columns)] = answer
        log_weight += total
    return Matchings(probabilities, log_weight)


def _components(possible: NDArray[np.bool_]) -> list[tuple[NDArray[np.intp], NDArray[np.intp]]]:
    """Rows and columns of each connected component that holds at least one possible pair."""
    found = []
    left: NDArray[np.bool_] = np.any(possible, axis=1)
    while left.any():
        rows = np.zeros(len(left), dtype=np.bool_)
        rows[int(left.argmax())] = True
        reached = 0
        while reached < rows.sum():
            reached = int(rows.sum())
            columns = np.any(possible[rows], axis=0)
            rows = np.any(possible[:, columns], axis=1)
        found.append((np.flatnonzero(rows), np.flatnonzero(columns)))
        left &= ~rows
    return found


def _exact(weights: FloatArray) -> tuple[FloatArray, float]:
    """Sum over all matchings of (n, m) ``weights``: 2**m subsets of taken columns, rows one after the other.

    ``before[i][s]`` is the weight of matching rows 0..i-1 onto exactly the columns of subset s, ``after[s]`` that of
    all ways to go on when s is taken. A subset is a place in a matrix: its low bits the column, where one product with
    a small matrix adds any of the low columns, its high bits the row. Each is rescaled freely: within a row the scale
    cancels.
    """
    n, m = weights.shape
    low = min(m, _LOW_BITS)
    source, target, taken = _low_steps(low)
    size = 1 << low
    before = np.zeros((n + 1, 1 << m - low, size))
    before[0, 0, 0] = 1.0
    log_total = 0.0
    steps = np.zeros((n, size, size))
    steps[:, source, target] = weights[:, taken]
    for i in range(n):
        step = before[i] @ steps[i] + before[i]
        for j in range(low, m):
            free, used = _split(before[i], j - low), _split(step, j - low)
            used[:, 1] += weights[i, j] * free[:, 0]
        scale = float(step.max())
        before[i + 1] = step / scale
        log_total += log(scale)
    log_total += log(float(before[n].sum()))
    probabilities = np.zeros((n, m))
    after = np.ones(before.shape[1:])
    for i in reversed(range(n)):
        step = after + after @ steps[i].T
        shared = before[i].T @ after
        paired = np.zeros(m)
        np.add.at(paired, taken, shared[source, target])
        for j in range(low, m):
            free, used = _split(before[i], j - low)[:, 0], _split(after, j - low)[:, 1]
            paired[j] = np.einsum("ab,ab->", free, used)
            _split(step, j - low)[:, 0] += weights[i, j] * used
        paired *= weights[i]
        probabilities[i] = paired / (np.einsum("ab,ab->", before[i], after) + paired.sum())
        after = step / step.max()
    return probabilities, log_total


def _split(states: FloatArray, bit: int) -> FloatArray:
    """View of the subsets without (0) and with (1) the high column ``bit``, on the middle axis."""
    size = states.shape[1] << bit
    return states.reshape(-1, 2, size)


@cache
def _low_steps(bits: int) -> tuple[NDArray[np.intp], NDArray[np.intp], NDArray[np.intp]]:
    """Every way to add one column to a subset of ``bits`` columns: the subset, the larger one, the column."""
    ways = [(s, s | 1 << j, j) for j in range(bits) for s in range(1 << bits) if not s >> j & 1]
    source, target, column = (np.array(part, dtype=np.intp) for part in zip(*ways, strict=True))
    return source, target, column


def _by_belief_propagation(weights: FloatArray) -> tuple[FloatArray, float]:
    """Bethe approximation of the same sum. A message is the probability that its sender is free but for the receiver.

    Updated messages move half way, which keeps strongly tied pairs from flipping to and fro.
    """
    from_columns = np.ones_like(weights)
    for _ in range(_ITERATIONS):
        from_rows = _free(weights * from_columns, axis=1)
        update = _free(weights * from_rows, axis=0)
        change = float(np.abs(update - from_columns).max())
        from_columns = (from_columns + update) / 2
        if change < _SETTLED:
            break
    from_rows = _free(weights * from_columns, axis=1)
    odds = weights * from_rows * from_columns
    log_weight = (
        np.log1p((weights * from_columns).sum(axis=1)).sum()
        + np.log1p((weights * from_rows).sum(axis=0)).sum()
        - np.log1p(odds).sum()
    )
    return odds / (1 + odds), float(log_weight)


def _free(pull: FloatArray, axis: int) -> FloatArray:
    """1 / (1 + the sum of ``pull`` along ``axis`` without the entry itself)."""
    rest = np.maximum(pull.sum(axis=axis, keepdims=True) - pull, 0.0)
    free: FloatArray = 1.0 / (1.0 + rest)
    return free
