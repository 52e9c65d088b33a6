"""The middle of the body on one CT slice: what tells left from right for a point in the patient."""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray

from segmentation.geometry import FloatArray

_TISSUE_HU = -300.0
_WORKING_MM = 2.0  # the slice is thinned to about this grid
_TABLE_MM = 6.0  # what is thinner than this (table, blanket, lines) is cut off
_LEAST_BODY_MM2 = 4000.0
_OTHER_LEG = 0.2


def body_middle_mm(hounsfield: NDArray[np.int16], affine: FloatArray) -> float | None:
    """LPS x of the body's middle on one slice, or None where it cannot be told.

    The body is the largest piece above -300 HU after an opening that cuts off table and lines, with others of at least
    a fifth of its area (the other leg), lungs and bowel filled. Its middle is its centroid, which an arm or a pleural
    effusion moves less than its extremes. A reconstruction of one limb alone gives the middle of that limb.

    Parameters
    ----------
    hounsfield
        (row, column) HU.
    affine
        Maps (0, row, column, 1) of the slice to LPS mm (``segmentation.geometry.slice_affine``).

    Returns
    -------
    None when neither rows nor columns run from left to right (a sagittal slice), when the image cuts the body off at
    its left or right, or both in front and behind (a crop), and when no body is found.

    """
    from scipy import ndimage

    spacing = np.linalg.norm(affine[:3, 1:3], axis=0)
    across = affine[0, 1:3] / spacing
    along_x = int(np.argmax(np.abs(across)))
    if abs(across[along_x]) < 0.8:
        return None
    steps = np.maximum(1, np.round(_WORKING_MM / spacing)).astype(int)
    tissue = hounsfield[:: steps[0], :: steps[1]] > _TISSUE_HU
    grid = spacing * steps
    cut = max(1, round(_TABLE_MM / 2 / float(grid.mean())))
    opened = ndimage.binary_opening(np.pad(tissue, cut, mode="edge"), iterations=cut)[cut:-cut, cut:-cut]
    pieces, count = ndimage.label(opened)
    if count == 0:
        return None
    areas = np.bincount(pieces.ravel())
    areas[0] = 0
    filled = ndimage.binary_fill_holes(np.isin(pieces, np.flatnonzero(areas >= _OTHER_LEG * areas.max())))
    if float(filled.sum() * grid.prod()) < _LEAST_BODY_MM2:
        return None
    front_and_back = np.take(filled, [0, -1], axis=1 - along_x).any(axis=along_x)
    if np.take(filled, [0, -1], axis=along_x).any() or front_and_back.all():
        return None
    row, column = np.argwhere(filled).mean(axis=0) * steps
    return float(affine[0, 3] + affine[0, 1] * row + affine[0, 2] * column)
