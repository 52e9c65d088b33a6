"""A stroke from the image it was drawn on to the slices of a stack, through patient space.

The two frames are the same by Frame of Reference UID; nothing is registered or bent.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from math import cos, radians
from typing import TYPE_CHECKING

import numpy as np

from cohort_builder.ct.series import Stack
from cohort_builder.pacs.headers import Instance
from cohort_builder.types import Annotation, AnnotationKind, LocatedAnnotation, Point3D
from segmentation.geometry import FloatArray, apply_affine, image_to_index
from segmentation.regions import fill_outline
from segmentation.types import Point

if TYPE_CHECKING:
    from cohort_builder.pacs.index import Index

_PARALLEL_COS = cos(radians(1))  # 0.7 mm over a region of 40 mm
_IN_SLICE = 0.5  # slices; farther from the plane, another slice is the nearer one
_ON_IMAGE = 0.5  # pixels from the centre of the border's pixels to the edge of the image
_AXES = {AnnotationKind.LINE: 1, AnnotationKind.BIDIMENSIONAL: 2, AnnotationKind.ARROW: 1}


class NotCarriedError(Exception):
    """A stroke cannot be told on this stack; ``reason`` is one of the codes of docs/targets.md."""

    def __init__(self, reason: str) -> None:
        super().__init__(reason)
        self.reason = reason


@dataclass(frozen=True, slots=True)
class Placed:
    """One stroke on the stack that is segmented.

    Parameters
    ----------
    index
        All its points as (slice, row, column) voxel-centre indices of the stack; off the slices where it was drawn on
        another series.
    slice_index
        The slice that it prompts on.
    kind, points
        What it is on that slice: (column, row) pixel-centre indices. Of a pair drawn across the slices only the axis
        that lies in this one is left, a LINE; of what does not lie in it at all the centre, a POINTER.

    """

    stroke: LocatedAnnotation
    index: tuple[Point3D, ...]
    slice_index: int
    kind: AnnotationKind
    points: tuple[Point, ...]


def slice_key(image: Annotation | Instance) -> tuple[str, int]:
    """What tells one slice from every other: the SOP Instance UID, and the frame (1 in a single-frame image)."""
    return image.sop_instance_uid, image.frame_number or 1


def image_under(annotation: Annotation, index: Index) -> Instance | None:
    """The slice under an annotation: the image, or the one frame that it names; None where there is no such slice."""
    uid, number = annotation.sop_instance_uid, annotation.frame_number
    whole = index.instance(uid)
    if whole is None or whole.number_of_frames > 1:
        return None if whole is None or number is None else index.instance(uid, number)
    if number not in {None, 1}:
        return None
    if whole.image_position is not None:
        return whole
    # The geometry of an object of one frame may stand with that frame.
    return next((i for i in index.instances(whole.series_instance_uid) if i.sop_instance_uid == uid), whole)


def place_here(stroke: LocatedAnnotation, stack: Stack) -> Placed | None:
    """A stroke on the slice of ``stack`` that it was drawn on; None where that is not one of them."""
    key = slice_key(stroke.annotation)
    for k, instance in enumerate(stack.instances):
        if slice_key(instance) == key:
            points = _pixels(image_to_index(stroke.annotation.points))
            index = tuple((float(k), row, column) for column, row in points)
            return Placed(stroke, index, k, stroke.annotation.kind, points)
    return None


def carry(stroke: LocatedAnnotation, stack: Stack, *, as_click: bool = False) -> Placed:
    """A stroke on the slice of another stack that is nearest to it.

    A stroke parallel to the slices keeps all its points, moved along the normal onto the nearest slice: by no more than
    half the thickness of the slice that it was drawn on. Of one drawn across them (a coronal reformat), the axis of a
    line, pair or arrow that stays within half a slice of one slice is kept; otherwise, with ``as_click``, the centre.

    Raises
    ------
    NotCarriedError
        ``not_covered``: one of its points is not inside the stack; ``plane_not_axial``: no axis of it lies in a slice.

    """
    index = to_index(stack.affine, stroke.points_lps_mm)
    size = np.array([len(stack.instances), stack.instances[0].rows or 0, stack.instances[0].columns or 0])
    if (index < -_ON_IMAGE).any() or (index > size - 1 + _ON_IMAGE).any():
        raise NotCarriedError("not_covered")
    kind = stroke.annotation.kind
    step_mm = float(np.linalg.norm(stack.affine[:3, 0]))
    along = abs(float(np.asarray(stroke.slice_normal_lps) @ stack.affine[:3, 0])) / step_mm
    if along >= _PARALLEL_COS:
        k = _nearest(index, len(stack.instances))
        if float(np.abs(index[:, 0] - k).max()) * step_mm <= max(stroke.slice_thickness_mm, step_mm) / 2:
            return _placed(stroke, index, k, kind, index)
        raise NotCarriedError("plane_not_axial")
    for axis in range(_AXES.get(kind, 0)):
        ends = index[2 * axis : 2 * axis + 2]
        k = _nearest(ends, len(stack.instances))
        if float(np.abs(ends[:, 0] - k).max()) <= _IN_SLICE:
            return _placed(stroke, index, k, kind if kind is AnnotationKind.ARROW else AnnotationKind.LINE, ends)
    if not as_click or kind is AnnotationKind.ARROW or not _holds_its_centre(stroke.annotation):
        raise NotCarriedError("plane_not_axial")
    centre = index.mean(axis=0, keepdims=True)
    return _placed(stroke, index, _nearest(centre, len(stack.instances)), AnnotationKind.POINTER, centre)


def to_index(affine: FloatArray, points_lps_mm: Sequence[Point3D] | FloatArray) -> FloatArray:
    """(n, 3) LPS mm to (slice, row, column) indices of a grid, fractions kept."""
    inverse = np.asarray(np.linalg.inv(affine), dtype=np.float64)
    return apply_affine(inverse, points_lps_mm).reshape(-1, 3)


def _nearest(index: FloatArray, n_slices: int) -> int:
    return int(np.clip(np.rint(index[:, 0].mean()), 0, n_slices - 1))


def _placed(stroke: LocatedAnnotation, index: FloatArray, k: int, kind: AnnotationKind, told: FloatArray) -> Placed:
    points = tuple((s, r, c) for s, r, c in index.tolist())
    return Placed(stroke, points, k, kind, _pixels(told[:, :0:-1]))


def _pixels(points: FloatArray) -> tuple[Point, ...]:
    return tuple((float(column), float(row)) for column, row in points)


def _holds_its_centre(annotation: Annotation) -> bool:
    """Whether the mean of the points is inside what was drawn; a hand-drawn outline may bend round it."""
    if annotation.kind is not AnnotationKind.OUTLINE:
        return True
    points = np.asarray(annotation.points)
    points = points - np.floor(points.min(axis=0))
    width, height = (int(value) + 1 for value in np.ceil(points.max(axis=0)))
    column, row = points.mean(axis=0).astype(np.intp)
    return bool(fill_outline(image_to_index(points), (height, width))[row, column])
