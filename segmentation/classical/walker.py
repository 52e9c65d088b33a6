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
    table: FloatArray = np.clip(odds, -EVIDENCE_LIMIT, EVIDENCE_LIMIT).astype(np.float32)
    return table


def _log_density(bins: NDArray[np.intp], weights: FloatArray | None) -> NDArray[np.float64]:
    counts = np.bincount(bins, weights=weights, minlength=N_BINS).astype(np.float64)
    density = ndi.gaussian_filter1d(counts, 8 / BIN_HU, mode="constant")
    result: NDArray[np.float64] = np.log(density / max(density.sum(), 1e-12) + 0.2 / N_BINS)
    return result


def posterior(prior: FloatArray, evidence: FloatArray) -> FloatArray:
    """Shape prior and evidence of the intensity, combined as log odds."""
    result: FloatArray = 1 / (1 + (1 / prior - 1) * np.exp(-evidence))
    return result


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
    size, shape = image.size, image.shape
    differences = [np.diff(image, axis=axis) for axis in range(image.ndim)]
    median = float(np.median(np.concatenate([np.abs(d).ravel() for d in differences])))
    scale = max(_MIN_SCALE_HU, 1.05 * median)
    strength = np.where(inside | outside, np.float32(SEED_STRENGTH), np.float32(pull)).ravel()
    goal = np.where(inside, np.float32(1), np.where(outside, np.float32(0), target)).ravel()
    diagonal = strength.copy()
    bands, offsets = [diagonal], [0]
    for axis, difference in enumerate(differences):
        link = (0.02 + np.exp(-0.4 * (difference / scale) ** 2)) * (min(steps_mm) / steps_mm[axis]) ** 2
        widths = [(0, 1) if a == axis else (0, 0) for a in range(image.ndim)]
        weight = np.pad(link, widths).astype(np.float32).ravel()
        stride = int(np.prod(shape[axis + 1 :], dtype=np.intp))
        above = np.zeros(size, dtype=np.float32)
        above[stride:] = weight[:-stride]
        diagonal += weight + above
        bands += [-above, -weight]
        offsets += [stride, -stride]
    system = dia_array((np.stack(bands), offsets), shape=(size, size))
    jacobi = dia_array(((1 / diagonal)[None], [0]), shape=(size, size))
    solution, _ = cg(system, strength * goal, x0=goal, rtol=rtol, maxiter=150, M=jacobi)
    result: FloatArray = solution.reshape(shape).astype(np.float32, copy=False)
    return result
