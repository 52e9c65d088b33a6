"""Random walker with priors, and the table of evidence that a Hounsfield value gives for the lesion."""

from __future__ import annotations

import numpy as np
import scipy.ndimage as ndi
from numpy.typing import NDArray
from scipy.sparse import dia_array
from scipy.sparse.linalg import cg

from segmentation.classical.grid import HU_LIMIT, BoolArray, FloatArray

BIN_HU = 4
N_BINS = 2 * HU_LIMIT // BIN_HU + 1
EVIDENCE_LIMIT = 4.0
SEED_STRENGTH = 50.0
PRIOR_FLOOR = 0.002

_MIN_SCALE_HU = 8.0


def bin_of(image: FloatArray) -> NDArray[np.intp]:
    """Bin of each Hounsfield value for `evidence_table`."""
    bins: NDArray[np.intp] = np.rint((image + HU_LIMIT) / BIN_HU).astype(np.intp)
    return bins


def evidence_table(
    lesion: NDArray[np.intp], background: NDArray[np.intp], lesion_weights: FloatArray | None = None
) -> FloatArray:
    """Log odds of lesion against background per bin, from the bins of samples of both."""
    odds = _log_density(lesion, lesion_weights) - _log_density(background, None)
    return np.clip(odds, -EVIDENCE_LIMIT, EVIDENCE_LIMIT).astype(np.float32)


def _log_density(bins: NDArray[np.intp], weights: FloatArray | None) -> NDArray[np.float64]:
    counts = np.bincount(bins, weights=weights, minlength=N_BINS).astype(np.float64)
    density = ndi.gaussian_filter1d(counts, 8 / BIN_HU, mode="constant")
    result: NDArray[np.float64] = np.log(density / max(density.sum(), 1e-12) + 0.2 / N_BINS)
    return result


def posterior(prior: FloatArray, evidence: FloatArray) -> FloatArray:
    """Shape prior and evidence of the intensity, combined as log odds."""
    return np.asarray(1 / (1 + (1 / prior - 1) * np.exp(-evidence)), dtype=np.float32)


def random_walk(
    image: FloatArray,
    target: FloatArray,
    *,
    steps_mm: tuple[float, ...],
    pull: float,
    inside: BoolArray,
    outside: BoolArray,
    rtol: float,
) -> FloatArray:
    """Minimise ``sum w_ij (x_i - x_j)^2 + sum g_i (x_i - target_i)^2`` over neighbours i, j of the grid.

    ``w`` falls with the squared difference of the two Hounsfield values and with the square of their distance; ``g``
    is ``pull``, and `SEED_STRENGTH` at the seeds (``inside`` pulled to 1, ``outside`` to 0).

    Parameters
    ----------
    image, target, inside, outside
        Arrays of one shape, two or three axes.
    steps_mm
        Grid step along each axis.

    Returns
    -------
    x: the probability of each grid point to belong to the lesion.

    """
    size = image.size
    differences = [np.diff(image, axis=axis) for axis in range(image.ndim)]
    median = float(np.median(np.concatenate([np.abs(d).ravel() for d in differences])))
    scale = max(_MIN_SCALE_HU, 1.05 * median)
    strength: FloatArray = np.where(inside | outside, SEED_STRENGTH, pull).astype(np.float32).ravel()
    goal: FloatArray = np.where(inside, 1, np.where(outside, 0, target)).astype(np.float32).ravel()
    bands = np.zeros((2 * image.ndim + 1, size), dtype=np.float32)
    offsets = [0]
    bands[0] = strength
    for axis, difference in enumerate(differences):
        link = (0.02 + np.exp(-0.4 * (difference / scale) ** 2)) * (min(steps_mm) / steps_mm[axis]) ** 2
        weight = np.pad(link, [(0, int(a == axis)) for a in range(image.ndim)]).ravel()
        stride = int(np.prod(image.shape[axis + 1 :], dtype=np.intp))
        # A band is indexed by column: entry (i, i + stride) stands at i + stride, entry (i + stride, i) at i.
        above, below = bands[2 * axis + 1], bands[2 * axis + 2]
        above[stride:] = -weight[:-stride]
        below[:] = -weight
        bands[0] -= above + below
        offsets += [stride, -stride]
    system: dia_array[np.float32] = dia_array((bands, np.array(offsets)), shape=(size, size))
    jacobi: dia_array[np.float32] = dia_array((np.float32(1) / bands[:1], np.array([0])), shape=(size, size))
    solution, _ = cg(system, strength * goal, x0=goal, rtol=rtol, maxiter=150, M=jacobi)
    return np.asarray(solution, dtype=np.float32).reshape(image.shape)
