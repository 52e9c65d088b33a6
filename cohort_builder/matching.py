"""How probable is each pair, when every finding and every lesion has at most one partner.

A partial one-to-one matching M has the weight ``prod(exp(log_odds[i, j]) for (i, j) in M)``; the empty matching weighs
1. The probability of a pair is the weight of all matchings that hold it over the weight of all matchings: the
monomer-dimer model. The sum is exact, by dynamic programming over subsets, for components with up to ``EXACT_SIDE``
rows or columns on their smaller side. Larger ones are answered by belief propagation, which converges on this model
(Bayati, Gamarnik, Katz, Nair and Tetali, "Simple deterministic approximation algorithms for counting matchings", 2007)
and is exact on trees.
"""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray

FloatArray = NDArray[np.float64]

EXACT_SIDE = 14
"""Largest smaller side of a component that is summed exactly: 2**14 subsets, some 25 ms at 14 by 14."""

NEGLIGIBLE = -9.0
"""Pairs below these log odds are left out: each could take at most exp(-9) = 0.0001 from a rival."""

_LARGEST = 30.0  # keeps the smallest ratio of two subsets, exp(-14 * 30), above underflow
_ITERATIONS = 500
_SETTLED = 1e-10


def pair_probabilities(log_odds: FloatArray, *, exact_side: int = EXACT_SIDE) -> FloatArray:
    """Posterior probability of every pair under the one-to-one constraint.

    Parameters
    ----------
    log_odds
        (finding, lesion) natural log odds that the two belong together, against both standing alone, were there no
        rivals; -inf for what cannot be.
    exact_side
        Components whose smaller side is larger than this are approximated.

    Returns
    -------
    (finding, lesion) probabilities; every row and every column sums to at most 1.

    Raises
    ------
    ValueError
        If ``log_odds`` is not a matrix or holds NaN.

    """
    if log_odds.ndim != 2 or np.isnan(log_odds).any():
        raise ValueError(f"log_odds must be a matrix without NaN, got {log_odds.ndim} dimensions")
    probabilities = np.zeros(log_odds.shape)
    possible = log_odds > NEGLIGIBLE
    weights = np.where(possible, np.exp(np.minimum(log_odds, _LARGEST)), 0.0)
    for rows, columns in _components(possible):
        block = weights[np.ix_(rows, columns)]
        if min(block.shape) > exact_side:
            answer = _by_belief_propagation(block)
        elif block.shape[0] < block.shape[1]:
            answer = _exact(block.T).T
        else:
            answer = _exact(block)
        probabilities[np.ix_(rows, columns)] = answer
    return probabilities


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


def _exact(weights: FloatArray) -> FloatArray:
    """Sum over all matchings of (n, m) ``weights``: 2**m subsets of taken columns, rows one after the other.

    ``before[i][s]`` is the weight of matching rows 0..i-1 onto exactly the columns of subset s, ``after[s]`` that of
    all ways to go on when s is taken. Each is rescaled freely: the scale cancels within a row.
    """
    n, m = weights.shape
    subsets = np.arange(1 << m)
    without = [subsets[(subsets >> j) & 1 == 0] for j in range(m)]
    before = [np.zeros(1 << m)]
    before[0][0] = 1.0
    for i in range(n - 1):
        step = before[i].copy()
        for j in range(m):
            step[without[j] | 1 << j] += weights[i, j] * before[i][without[j]]
        before.append(step / step.max())
    probabilities = np.zeros((n, m))
    after = np.ones(1 << m)
    for i in reversed(range(n)):
        paired = np.zeros(m)
        step = after.copy()
        for j in range(m):
            onward = weights[i, j] * after[without[j] | 1 << j]
            paired[j] = before[i][without[j]] @ onward
            step[without[j]] += onward
        probabilities[i] = paired / (before[i] @ after + paired.sum())
        after = step / step.max()
    return probabilities


def _by_belief_propagation(weights: FloatArray) -> FloatArray:
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
    return odds / (1 + odds)


def _free(pull: FloatArray, axis: int) -> FloatArray:
    """1 / (1 + the sum of ``pull`` along ``axis`` without the entry itself)."""
    rest = np.maximum(pull.sum(axis=axis, keepdims=True) - pull, 0.0)
    free: FloatArray = 1.0 / (1.0 + rest)
    return free
