"""From a label image to lesions: which values, which pieces, and does it lie on the grid of the CT."""

from __future__ import annotations

from collections.abc import Sequence
from itertools import product
from math import prod
from typing import Literal, get_args

import numpy as np
import scipy.ndimage as ndi
from numpy.typing import NDArray

from segmentation.geometry import apply_affine
from segmentation.training.manifest import ManifestError

Pieces = Literal["components", "values", "whole"]
"""What one lesion is: a connected component (26 neighbours), a value of the label, or all that is labelled."""

LEAST_MM3 = 20.0
"""Components below this are specks of the outliner's brush: a ball of 3.4 mm."""

_TOLERANCE = 0.25  # voxels that two grids may lie apart; headers are rounded, and half a voxel would move the mask


def lesions_in(
    label: NDArray[np.integer],
    spacing_mm: Sequence[float],
    *,
    values: Sequence[int] = (),
    pieces: Pieces = "components",
    least_mm3: float = LEAST_MM3,
) -> NDArray[np.int32]:
    """Number the lesions of a label from 1.

    Parameters
    ----------
    label
        (slice, row, column); 0 is background.
    values
        That are lesion. Empty: whatever is not 0, which must then be one value unless ``pieces`` is ``"values"``.
    least_mm3
        Smaller lesions are left out.

    Raises
    ------
    ManifestError
        If the label has several values and nobody said which of them is lesion.

    """
    if pieces not in get_args(Pieces):
        raise ManifestError(f"lesions must be one of {get_args(Pieces)}, got {pieces!r}")
    found = [int(value) for value in np.unique(label) if value != 0]
    if len(found) > 1 and not values and pieces != "values":
        raise ManifestError(
            f"the label has the values {', '.join(map(str, found[:10]))}: say which is lesion (values=2, or"
            " values=2+3), or that each is a lesion of its own (lesions=values)"
        )
    lesion = np.isin(label, values) if values else label != 0
    if pieces == "components":
        numbered = np.asarray(ndi.label(lesion, structure=np.ones((3, 3, 3)))[0], dtype=np.int32)
    elif pieces == "values":
        numbered = np.where(lesion, np.searchsorted(np.array(found), label) + 1, 0).astype(np.int32)
    else:
        numbered = lesion.astype(np.int32)
    sizes = np.bincount(numbered.ravel()) * prod(spacing_mm)
    kept = (sizes >= least_mm3) & (np.arange(len(sizes)) > 0)
    numbers = np.where(kept, np.cumsum(kept), 0).astype(np.int32)
    renumbered: NDArray[np.int32] = numbers[numbered]
    return renumbered


def require_same_grid(
    image_shape: tuple[int, ...],
    image_affine: NDArray[np.float64],
    label_shape: tuple[int, ...],
    label_affine: NDArray[np.float64],
) -> None:
    """Compare where the eight corners of two grids lie.

    Raises
    ------
    ManifestError
        If the shapes differ, or a corner is off by more than a quarter of a voxel.

    """
    if image_shape != label_shape:
        raise ManifestError(
            f"the label has the shape {label_shape} and its image {image_shape} (slice, row, column): they are not of"
            " one grid; resample the label to the image"
        )
    corners = np.array(list(product(*((0, n - 1) for n in image_shape))))
    apart = apply_affine(label_affine, corners) - apply_affine(image_affine, corners)
    off_mm = float(np.linalg.norm(apart, axis=1).max())
    voxel_mm = float(np.linalg.norm(image_affine[:3, :3], axis=0).min())
    if off_mm > _TOLERANCE * voxel_mm:
        raise ManifestError(
            f"the label lies up to {off_mm:.2f} mm off its image, of {voxel_mm:.2f} mm voxels: their affines are not of"
            " one grid; resample the label to the image, or correct the header that is wrong"
        )
