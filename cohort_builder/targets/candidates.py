"""Which stacks of a study could show a stroke better than the series that it was drawn on, the best first.

They have the same Frame of Reference, are axial, thinner, and of the same phase as far as the headers tell. What the
headers leave open is no reason to take one: then the lesion stays where it was drawn.
"""

from __future__ import annotations

import re
from collections.abc import Callable, Iterable, Sequence
from typing import TYPE_CHECKING

import numpy as np

from cohort_builder.ct.phases import seconds
from cohort_builder.targets.carrying import to_index
from segmentation.geometry import apply_affine, slice_affine

if TYPE_CHECKING:
    from cohort_builder.ct.series import Stack
    from cohort_builder.pacs.headers import Instance

THINNER = 0.75
"""Largest thickness over that of the drawn slice: less of a gain is not worth the move."""

_AXIAL_COS = 0.866  # within 30 degrees: a tilted head is axial, too
_ALIKE = 1.2  # thicknesses closer than this are equal, and the kernel decides
_SAME_TIME_S = 1.0
_PROJECTED = ("MIP", "PROJECTION", "RENDER", "VOLREND", "VRT", "SSD")
_PROJECTIONS = frozenset({"MAX_IP", "MIN_IP", "MAX IP", "MIN IP", "MEDIAN", "STD_DEVIATION", "VR"})
_AVERAGES = frozenset({"AVERAGE", "MEAN"})
_THICKEST_AVERAGE_MM = 5.0  # the mean over less is what a scanner's own slice is
_SHARP = re.compile(r"BONE|LUNG|EDGE|DETAIL|CHEST|CHST|ULTRA|[BHIJDTUQ][A-Z]?[5-9]\d|FC[358]\d|Y[A-D]$|[DEL]$")
_SOFT = re.compile(r"STANDARD|STND|SOFT|BODY|[BHIJDTUQ][A-Z]?[1-4]\d|FC[01246]\d|[ABC]$")


def is_axial(normal: Sequence[float]) -> bool:
    """Whether slices with this LPS unit normal are cut across the body."""
    return abs(normal[2]) >= _AXIAL_COS


def is_projection(image: Instance) -> bool:
    """Whether Image Type says that the pixels are no slice of anatomy: a projection (MIP), a rendering, a thick mean.

    The terms are those of PS3.3 C.8.16.1 (value 4), and what scanners and workstations write in their place. A mean
    over up to 5 mm, as reformats are made, is a slice.
    """
    kinds = {value.upper() for value in image.image_type}
    thick = image.slice_thickness_mm is None or image.slice_thickness_mm > _THICKEST_AVERAGE_MM
    if kinds & _PROJECTIONS or (thick and kinds & _AVERAGES):
        return True
    return any(word in kind for kind in kinds for word in _PROJECTED)


def thickness_mm(stack: Stack) -> float:
    """What a slice blurs: the distance between slices, or their thickness where they overlap."""
    step = float(np.linalg.norm(stack.affine[:3, 0]))
    return max(step, *(instance.slice_thickness_mm or 0.0 for instance in stack.instances))


def best_first(
    image: Instance, drawn_mm: float, normal: Sequence[float], stacks: Iterable[Stack]
) -> tuple[list[Stack], str]:
    """Choose among the stacks of the study for a stroke on ``image``, whose slices are ``drawn_mm`` thick.

    Thinnest first; of those within 20 % of the thinnest the drawn image's own kernel, then a soft one, one that is not
    known, a sharp one (lung, bone); then the thinnest and the longest. A stroke that was not drawn on an axial image
    may go to axial slices that are no thicker.

    Returns
    -------
    The stacks, and where there is none the reason: ``no_thinner_series``, ``other_phase`` or ``phase_unknown``.

    """
    most = drawn_mm * (THINNER if is_axial(normal) else 1.0)
    thinner = [
        stack
        for stack in stacks
        if stack.frame_of_reference_uid == image.frame_of_reference_uid
        and is_axial((stack.affine[:3, 0] / np.linalg.norm(stack.affine[:3, 0])).tolist())
        and thickness_mm(stack) <= most
        and not any(is_projection(instance) for instance in stack.instances)
    ]
    phases = [(stack, another_phase(image, stack)) for stack in thinner]
    same = [stack for stack, reason in phases if reason is None]
    if not same:
        found = {reason for _, reason in phases}
        return [], "phase_unknown" if "phase_unknown" in found else "other_phase" if found else "no_thinner_series"
    thinnest = min(thickness_mm(stack) for stack in same)

    def order(stack: Stack) -> tuple[float, int, float, int, str]:
        first = stack.instances[0]
        mm = thickness_mm(stack)
        group = 0.0 if mm <= _ALIKE * thinnest else mm
        return group, _kernel_rank(image, first), mm, -len(stack.instances), first.sop_instance_uid

    return sorted(same, key=order), ""


def kernel_kind(kernel: str | None) -> str:
    """``soft``, ``sharp`` (lung, bone) or ``unknown``, by how the vendors name their kernels."""
    name = (kernel or "").strip().upper()
    return "sharp" if _SHARP.match(name) else "soft" if _SOFT.match(name) else "unknown"


def another_phase(image: Instance, stack: Stack) -> str | None:
    """Why a stack is not taken for the same acquisition and phase as ``image``; None where the headers say that it is.

    The slices of the stack that lie where the image does are asked, for one series may hold one phase after the other.
    Acquisition Time within that of theirs says so, by a second; Acquisition Number does not, as many scanners write 1
    throughout. Number, temporal position and contrast agent, where both have one, must not say otherwise.

    Returns
    -------
    ``other_phase``, ``phase_unknown`` (one of the two has no time) or None.

    """
    slices = _beside(image, stack)
    if _differ(image, slices, lambda i: i.temporal_position) or _differ(image, slices, lambda i: i.acquisition_number):
        return "other_phase"
    if any(bool(instance.contrast_agent) != bool(image.contrast_agent) for instance in slices):
        return "other_phase"
    drawn = seconds(image.acquisition_time)
    times = [at for at in (seconds(instance.acquisition_time) for instance in slices) if at is not None]
    if drawn is None or not times:
        return "phase_unknown"
    return None if min(times) - _SAME_TIME_S <= drawn <= max(times) + _SAME_TIME_S else "other_phase"


def _beside(image: Instance, stack: Stack) -> Sequence[Instance]:
    """Slices of the stack within the thickness of the image: a few, or all of them that a coronal one cuts."""
    affine = slice_affine(image.image_position or (), image.image_orientation or (), image.pixel_spacing or ())
    corners = [(0.0, float(row), float(column)) for row in (0, image.rows or 0) for column in (0, image.columns or 0)]
    heights = to_index(stack.affine, apply_affine(affine, corners))[:, 0]
    step_mm, last = float(np.linalg.norm(stack.affine[:3, 0])), len(stack.instances) - 1
    around = max((image.slice_thickness_mm or 0.0) / 2 / step_mm, 0.5)
    low, high = np.rint(np.clip([heights.min() - around, heights.max() + around], 0, last)).astype(np.intp)
    return stack.instances[low : high + 1]


def _differ(image: Instance, slices: Sequence[Instance], value: Callable[[Instance], int | None]) -> bool:
    """Whether the image has a number that none of the slices with one has."""
    drawn, others = value(image), {value(instance) for instance in slices} - {None}
    return drawn is not None and bool(others) and drawn not in others


def _kernel_rank(image: Instance, first: Instance) -> int:
    if first.convolution_kernel is not None and first.convolution_kernel == image.convolution_kernel:
        return 0
    return {"soft": 1, "unknown": 2, "sharp": 3}[kernel_kind(first.convolution_kernel)]
