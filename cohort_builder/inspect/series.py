"""CT series by what their geometry and their pixels allow, from headers alone."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from typing import TYPE_CHECKING

import numpy as np

from cohort_builder.ct.series import Stack, split_series
from cohort_builder.inspect.writers import SERIES, writer_of

if TYPE_CHECKING:
    from cohort_builder.inspect.tally import Tally
    from cohort_builder.pacs.index import Index
    from cohort_builder.pacs.instances import Instance

WHOLE, SEVERAL, PART, REFUSED = "one_volume", "several_volumes", "part_of_series", "refused"
SPACINGS_MM = (0.75, 1.25, 1.75, 2.25, 2.75, 3.25, 4.0, 5.5, 8.0)
SLICES = (20, 50, 100, 200, 400, 800, 1600)
"""Upper ends of the bins of spacing and thickness in mm, and of slices; a last bin has none."""

_AXIAL_COSINE = 0.94  # within 20 degrees
_TILTED_DEGREES = 0.5


def count_series(index: Index, study_instance_uid: str, tally: Tally) -> None:
    """Count the CT series of one study."""
    for uid in index.series_of(study_instance_uid):
        instances = index.instances(uid)
        if instances:
            _count_one(instances, tally)


def _count_one(instances: Sequence[Instance], tally: Tally) -> None:
    stacks, skips = split_series(instances)
    used = sum(len(stack.instances) for stack in stacks)
    left_out = len(instances) - used
    tally["ct", "series"] += 1
    tally["ct", "images"] += len(instances)
    tally["ct", "images_in_volumes"] += used
    tally["ct", "volumes"] += len(stacks)
    if stacks:
        tally["verdicts", PART if left_out else (WHOLE if len(stacks) == 1 else SEVERAL)] += 1
    else:
        tally["verdicts", REFUSED, skips[0].reason if len(skips) == 1 else "several_reasons"] += 1
    for skip in skips:
        tally["series_left_out", skip.reason] += 1
        tally["series_details", skip.reason, _advice(skip.detail)] += 1
    for syntax in {instance.transfer_syntax_uid for instance in instances}:
        tally["syntax_series", syntax] += 1
    for instance in instances:
        tally["syntaxes", instance.transfer_syntax_uid] += 1
    tally["writers", SERIES, *writer_of(instances[0])] += 1
    for stack in stacks:
        _count_stack(stack, tally)


def _advice(detail: str) -> str:
    """A detail of the split without the number of images before it."""
    number, _, advice = detail.partition(": ")
    return advice if number.endswith("image(s)") else detail


def _count_stack(stack: Stack, tally: Tally) -> None:
    affine = np.asarray(stack.affine, dtype=np.float64)
    step, down, across = affine[:3, 0], affine[:3, 1], affine[:3, 2]
    normal = np.cross(across, down)
    normal /= np.linalg.norm(normal)
    length = float(np.linalg.norm(step))
    spacing = abs(float(step @ normal))
    tilt = np.degrees(np.arccos(min(1.0, spacing / length)))
    tally["spacings", str(bin_of(spacing, SPACINGS_MM))] += 1
    thickness = stack.instances[0].slice_thickness_mm
    tally["thicknesses", "unknown" if thickness is None else str(bin_of(thickness, SPACINGS_MM))] += 1
    tally["slices", str(bin_of(len(stack.instances), SLICES))] += 1
    tally["planes", _plane(normal)] += 1
    tally["ct", "tilted"] += bool(tilt > _TILTED_DEGREES)


def bin_of(value: float, ends: Iterable[float]) -> int:
    """The number of the bin that holds ``value``: the first with an end above it."""
    return sum(value >= end for end in ends)


def _plane(normal: np.ndarray[tuple[int, ...], np.dtype[np.float64]]) -> str:
    for name, axis in (("sagittal", 0), ("coronal", 1), ("axial", 2)):
        if abs(float(normal[axis])) >= _AXIAL_COSINE:
            return name
    return "oblique"
