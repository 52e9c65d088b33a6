"""Which image an item of a report lies on, and where in it a point of the patient lies."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING

import numpy as np

from cohort_builder.pacs.elements import READ_ERRORS, is_uid, sequence, text, value_of, values_in
from cohort_builder.sr.concepts import IMAGE_LIBRARIES
from cohort_builder.sr.tree import Node
from segmentation.geometry import index_to_image, slice_affine
from segmentation.types import GeometryError

if TYPE_CHECKING:
    from pydicom.dataset import Dataset

_CT_IMAGE = "1.2.840.10008.5.1.4.1.1.2"
_SEGMENTATIONS = frozenset({"1.2.840.10008.5.1.4.1.1.66.4", "1.2.840.10008.5.1.4.1.1.66.7"})
_OFF_PLANE_MM = 0.5
_FRAME_OF_REFERENCE = ("DCM", "112227")
_POSITION = ("110901", "110902", "110903")
_ORIENTATION = ("110904", "110905", "110906", "110907", "110908", "110909")
_SPACING = ("111066", "111026")  # vertical: between rows; horizontal


@dataclass(frozen=True, slots=True)
class Target:
    """One image, or one frame (from 1) of a multi-frame image; the only frame of a single-frame one is none."""

    sop_instance_uid: str
    frame_number: int | None = None


def series_of_images(ds: Dataset) -> dict[str, str]:
    """Return the Series Instance UID of every image in the report's evidence (PS3.3 C.17.2), by SOP Instance UID."""
    return {
        sop: text(series, "SeriesInstanceUID") or ""
        for keyword in ("CurrentRequestedProcedureEvidenceSequence", "PertinentOtherEvidenceSequence")
        for study in sequence(ds, keyword)
        for series in sequence(study, "ReferencedSeriesSequence")
        for image in sequence(series, "ReferencedSOPSequence")
        if (sop := text(image, "ReferencedSOPInstanceUID")) is not None
    }


def target_of(coordinates: Node, root: Node) -> Target | str:
    """Return the one image that a SCOORD was selected from, or the reason why there is none.

    Reasons: ``no_reference``, ``unresolved_reference``, ``several_images``, ``several_frames``,
    ``no_such_frame``, ``segmentation_reference``.
    """
    images = []
    for child in coordinates.children:
        image = root.at(child.target) if child.target else child
        if image is None or (child.target and image.value_type != "IMAGE"):
            return "unresolved_reference"
        if image.value_type == "IMAGE":
            images.append(image)
    return _one_of(images)


def target_in_space(coordinates: Node, images: Sequence[Node]) -> Target | str:
    """Return the image of a SCOORD3D: its own, else the only one of ``images``, which its group names."""
    own = [child for child in coordinates.children if child.value_type == "IMAGE"]
    found = _one_of(own or images)
    return "scoord3d_without_image" if found == "no_reference" else found


def names_segmentation(node: Node) -> bool:
    """Whether an IMAGE item is a segmentation."""
    return any(
        text(image, "ReferencedSOPClassUID") in _SEGMENTATIONS for image in sequence(node.ds, "ReferencedSOPSequence")
    )


def _one_of(images: Sequence[Node]) -> Target | str:
    references = [image for node in images for image in sequence(node.ds, "ReferencedSOPSequence")]
    uids = {text(image, "ReferencedSOPInstanceUID") for image in references}
    if not uids or not all(map(is_uid, uids)):
        return "no_reference"
    if any(map(names_segmentation, images)):
        return "segmentation_reference"
    if len(uids) > 1:
        return "several_images"
    frames = {number for image in references for number in _frames(image)}
    if len(frames) > 1:
        return "several_frames"
    if any(text(image, "ReferencedSOPClassUID") == _CT_IMAGE for image in references):
        frames.discard(1)  # some writers name the only frame there is
        if frames:
            return "no_such_frame"
    if any(number < 1 for number in frames):
        return "no_such_frame"
    return Target(str(uids.pop()), *frames)


def _frames(image: Dataset) -> list[int]:
    try:
        return [int(value) for value in values_in(value_of(image, "ReferencedFrameNumber"))]
    except READ_ERRORS:
        return [0]


class Library:
    """The geometry of images, as far as a report's own Image Library says it (PS3.16 TID 1600, 1602 and 1604)."""

    def __init__(self, root: Node) -> None:
        self._values: dict[Target, dict[str, float]] = {}
        self._frames: dict[Target, str] = {}
        for library in (node for node in root.below() if node.concept.key in IMAGE_LIBRARIES):
            shared = _described(library)
            for image in library.children:
                target = _one_of([image]) if image.value_type == "IMAGE" else ""
                if isinstance(target, Target):
                    values, frame = _described(image)
                    self._values[target] = {**shared[0], **values}
                    self._frames[target] = frame or shared[1]

    def onto(self, target: Target, points: Sequence[float], frame_of_reference_uid: str) -> list[complex] | str:
        """Project points of the patient (x, y, z, x ... in LPS mm) onto an image.

        Returns
        -------
        (column, row) with corner origin, or a reason: ``scoord3d_without_geometry``, ``scoord3d_other_frame`` (of
        reference), ``scoord3d_off_plane`` (more than 0.5 mm away).

        """
        values, frame = self._values.get(target, {}), self._frames.get(target)
        try:
            where, along, spacing = ([values[key] for key in keys] for keys in (_POSITION, _ORIENTATION, _SPACING))
            affine = slice_affine(where, along, spacing)
        except (KeyError, GeometryError):
            return "scoord3d_without_geometry"
        if frame and frame_of_reference_uid and frame != frame_of_reference_uid:
            return "scoord3d_other_frame"
        off_mm, rows, columns = np.linalg.solve(affine[:3, :3], (np.reshape(points, (-1, 3)) - affine[:3, 3]).T)
        if np.abs(off_mm).max() > _OFF_PLANE_MM:
            return "scoord3d_off_plane"
        return [complex(x, y) for x, y in index_to_image(np.stack([columns, rows], axis=1)).tolist()]


def _described(node: Node) -> tuple[dict[str, float], str]:
    """Return the numbers by their code, and the frame of reference, that stand directly under an item of a library."""
    values = {n.concept.value: number for n in node.children if (number := measured(n.ds)) is not None}
    frames = [text(n.ds, "UID") or "" for n in node.children if n.concept.key == _FRAME_OF_REFERENCE]
    return values, frames[0] if frames else ""


def measured(ds: Dataset) -> float | None:
    """Return the number of a NUM item; None unless there is exactly one."""
    found = [value for item in sequence(ds, "MeasuredValueSequence") for value in _numbers(item)]
    return found[0] if len(found) == 1 else None


def _numbers(item: Dataset) -> list[float]:
    try:
        return [float(value) for value in values_in(value_of(item, "NumericValue"))]
    except READ_ERRORS:
        return []
