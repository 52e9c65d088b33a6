"""CT series to regular stacks, from headers alone but where two images claim one position.

A series on disk is often not one volume: a localizer rides along, two phases share positions, slices are missing,
spacing changes. ``split_series`` finds the parts that are regular and says what it left out; nothing is resampled,
invented or closed up.
"""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Iterable, Sequence
from dataclasses import dataclass, field
from itertools import pairwise

import numpy as np

from cohort_builder.ct.phases import SAME_POSITION_MM, Phase, heights_mm, is_one_pass, split_phases
from cohort_builder.ct.pixels import read_hounsfield
from cohort_builder.ct.spacing import ROUNDED_MM, is_rounded_to_mm, off_grid_mm, regular_runs
from cohort_builder.pacs.headers import Instance
from cohort_builder.types import Skip
from segmentation.geometry import FloatArray, slice_affine, volume_affine
from segmentation.types import GeometryError

_CT_IMAGE_STORAGE = "1.2.840.10008.5.1.4.1.1.2"
_CT_CLASSES = frozenset({_CT_IMAGE_STORAGE, f"{_CT_IMAGE_STORAGE}.1", f"{_CT_IMAGE_STORAGE}.2"})  # enhanced, converted
_NOT_HOUNSFIELD = frozenset({"OD", "MGML", "PCT", "ED", "EDW", "Z_EFF"})  # PS3.3 C.11.1.1.2
_ORIENTATION_RAD = 5e-4  # moves the far corner of a 360 mm slice by 0.2 mm
_SPACING_FRACTION = 1e-4
_EXACT_MM = 0.005
_SIDEWAYS_FRACTION = 5e-4  # what three decimals of Image Orientation do; left in the grid, half of it is an error
_HIGHDICOM_PERPENDICULAR = 1e-2  # for two rounded thin slices; the tilt itself is bounded by the two above
_MAYBE_LOSSY = frozenset(f"1.2.840.10008.1.2.4.{end}" for end in ("50", "51", "81", "91", "203"))
_DETAILS = {
    "not_ct_image": "they are no CT Image Storage objects (a screen save, a report); only those are read",
    "frames_without_geometry": "a multi-frame image whose functional groups do not say where each frame lies",
    "localizer": "localizers are no slices of a volume",
    "burned_in_annotation": "Burned In Annotation is YES: text in the pixels may name the patient",
    "no_geometry": "Image Position, Image Orientation, Pixel Spacing, Rows, Columns or Frame of Reference UID is "
    "absent or not valid",
    "no_rescale": "Rescale Slope or Intercept is absent, so stored values cannot become Hounsfield units",
    "not_hounsfield": "their Rescale Type is not Hounsfield units",
    "duplicate_positions": "several images lie at one position, and neither acquisition, time, contrast, image type "
    "nor kernel tells them apart; export the phases as separate series",
    "interleaved_passes": "slices that were taken at different times alternate, and nothing tells which belong "
    "together; export the phases as separate series",
    "rounded_positions": "positions are written to whole millimetres, by which slices of another spacing look regular "
    "in places; export them with their decimals",
    "duplicate_slice": "the same pixels at the same position as another image of the series, which is used",
    "irregular_spacing": "slices are missing or the spacing changes; each regular part is a volume of its own",
    "gantry_tilt": "the slices are stacked obliquely to their plane (gantry tilt), which is not read yet",
    "single_slice": "no regular neighbour, so there is no volume around them",
}
_BROKEN = frozenset({"no_geometry", "no_rescale", "frames_without_geometry"})


@dataclass(frozen=True, slots=True, eq=False)
class Stack:
    """A regular stack of at least two slices of one series.

    Parameters
    ----------
    instances
        Ordered along the positive slice normal (row direction x column direction).
    affine
        (4, 4), index (slice, row, column, 1) to LPS mm, of pixel centres.
    flags
        ``part_of_series``, ``positions_rounded``, ``split_by_<attribute>``, ``rounded_to_integer_hu``,
        ``lossy_compression`` (an image says so, or its transfer syntax is one that loses).

    """

    series_instance_uid: str
    study_instance_uid: str
    frame_of_reference_uid: str
    instances: tuple[Instance, ...]
    affine: FloatArray
    flags: tuple[str, ...] = field(default=())


def split_series(instances: Iterable[Instance]) -> tuple[list[Stack], list[Skip]]:
    """Split the images of a series into regular stacks.

    Images are grouped by grid (Rows, Columns, orientation, Pixel Spacing, Frame of Reference), then, where positions
    repeat or phases interleave, by acquisition number, temporal position, stack, contrast agent, Image Type,
    acquisition time, content time and kernel, as many of them as it takes. Of images at one position that nothing
    separates one is used if their pixels are equal, none if not. What is left is cut into its longest runs of equal
    spacing; those that whole-millimetre rounding may have made are refused. Regularity is confirmed by
    ``highdicom.spatial.get_volume_positions``. The order of ``instances`` does not matter.

    Returns
    -------
    Stacks, longest first, and one Skip for each series and reason: ``not_ct_image``, ``frames_without_geometry``,
    ``localizer``, ``burned_in_annotation``, ``no_geometry``, ``no_rescale``, ``not_hounsfield``,
    ``duplicate_positions``, ``duplicate_slice``, ``interleaved_passes``, ``irregular_spacing``, ``rounded_positions``,
    ``gantry_tilt``, ``single_slice``.

    """
    left_out: dict[tuple[str, str], list[Instance]] = defaultdict(list)
    usable: dict[str, list[Instance]] = defaultdict(list)
    for instance in sorted(instances, key=_identity):
        reason = _unusable(instance)
        if reason is None:
            usable[instance.series_instance_uid].append(instance)
        else:
            left_out[instance.series_instance_uid, reason].append(instance)
    stacks: list[Stack] = []
    for series, members in usable.items():
        for group in _by_grid(members):
            for part in split_phases(group):
                found, lost = _regular_stacks(part)
                stacks += found
                for reason, slices in lost:
                    left_out[series, reason] += slices
    stacks.sort(key=lambda s: (-len(s.instances), *_identity(s.instances[0])))
    return stacks, [_skip(series, reason, members) for (series, reason), members in sorted(left_out.items())]


def _skip(series: str, reason: str, members: Sequence[Instance]) -> Skip:
    return Skip(
        "volumes",
        series,
        reason,
        f"{len(members)} image(s): {_DETAILS[reason]}",
        failure=reason in _BROKEN,
        private={"series_instance_uid": series, "sop_instance_uids": " ".join(i.sop_instance_uid for i in members)},
    )


def _identity(instance: Instance) -> tuple[str, int]:
    return instance.sop_instance_uid, instance.frame_number or 0


def _unusable(instance: Instance) -> str | None:
    """Why an image cannot be a slice, or None."""
    kinds = {value.upper() for value in instance.image_type}
    complete = bool(instance.rows and instance.columns and instance.frame_of_reference_uid)
    if instance.sop_class_uid not in _CT_CLASSES:
        return "not_ct_image"
    if instance.frame_number is None and (instance.number_of_frames > 1 or instance.sop_class_uid != _CT_IMAGE_STORAGE):
        return "frames_without_geometry"
    if any("LOCALIZER" in kind or "SCOUT" in kind for kind in kinds):
        return "localizer"
    if instance.burned_in_annotation:
        return "burned_in_annotation"
    if not complete or _affine(instance) is None:
        return "no_geometry"
    if instance.rescale_slope in {None, 0.0} or instance.rescale_intercept is None:
        return "no_rescale"
    return "not_hounsfield" if instance.rescale_type in _NOT_HOUNSFIELD else None


def _affine(instance: Instance) -> FloatArray | None:
    position, orientation, spacing = instance.image_position, instance.image_orientation, instance.pixel_spacing
    if position is None or orientation is None or spacing is None:
        return None
    try:
        return slice_affine(position, orientation, spacing)
    except GeometryError:
        return None


def _by_grid(members: Sequence[Instance]) -> list[list[Instance]]:
    """Images whose pixels can be put one behind the other."""
    groups: list[list[Instance]] = []
    for instance in members:
        for group in groups:
            if _same_grid(group[0], instance):
                group.append(instance)
                break
        else:
            groups.append([instance])
    return groups


def _same_grid(a: Instance, b: Instance) -> bool:
    if (a.rows, a.columns, a.frame_of_reference_uid) != (b.rows, b.columns, b.frame_of_reference_uid):
        return False
    turned = np.abs(np.subtract(a.image_orientation, b.image_orientation)).max()  # type: ignore[arg-type]
    stretched = np.abs(np.divide(a.pixel_spacing, b.pixel_spacing) - 1).max()  # type: ignore[arg-type]
    return bool(turned <= _ORIENTATION_RAD and stretched <= _SPACING_FRACTION)


_Lost = list[tuple[str, Sequence[Instance]]]


def _regular_stacks(part: Phase) -> tuple[list[Stack], _Lost]:
    members, lost = _one_for_each_position(part.instances)
    if len(members) < 2:
        return [], lost + [("single_slice", [member]) for member in members]
    if not is_one_pass(members):
        return [], [*lost, ("interleaved_passes", members)]
    heights = heights_mm(members, members)
    runs = regular_runs(heights)
    regular = runs == [(0, len(heights))]
    whole = regular and not any(reason == "duplicate_positions" for reason, _ in lost)
    used = {i for first, last in runs for i in range(first, last)}
    alone = [member for i, member in enumerate(members) if i not in used]
    if not regular:
        lost.append(("irregular_spacing", members))
    if alone:
        lost.append(("single_slice", alone))
    stacks = []
    for first, last in runs:
        slices = members[first:last]
        if not regular and is_rounded_to_mm(heights, (first, last), slices[0].slice_thickness_mm):
            lost.append(("rounded_positions", slices))
        elif _is_tilted(slices):
            lost.append(("gantry_tilt", slices))
        elif not _confirmed(slices):
            lost.append(("irregular_spacing", slices))
        else:
            stacks.append(_stack(slices, part.keys, whole=whole))
    return stacks, lost


def _one_for_each_position(members: Sequence[Instance]) -> tuple[list[Instance], _Lost]:
    """Of images at one position the first if their pixels are equal; else none: which one fits is not known."""
    heights = heights_mm(members, members)
    starts = [0, *(np.flatnonzero(np.diff(heights) >= SAME_POSITION_MM) + 1), len(members)]
    kept: list[Instance] = []
    lost: _Lost = []
    for low, high in pairwise(starts):
        first, *others = members[low:high]
        if all(_same_image(first, other) for other in others):
            kept.append(first)
            lost += [("duplicate_slice", others)] if others else []
        else:
            lost.append(("duplicate_positions", [first, *others]))
    return kept, lost


def _same_image(a: Instance, b: Instance) -> bool:
    """Whether two images of one grid lie at one place and hold the same Hounsfield units; no, if one is damaged."""
    if np.abs(np.subtract(a.image_position, b.image_position)).max() >= SAME_POSITION_MM:  # type: ignore[arg-type]
        return False
    try:
        return bool(np.array_equal(read_hounsfield(a), read_hounsfield(b)))
    except GeometryError:
        return False


def _is_tilted(slices: Sequence[Instance]) -> bool:
    """Whether the slices step sideways: by more than the rounding of their positions and orientation explains."""
    positions = np.asarray([i.image_position for i in slices], dtype=np.float64)
    orientation = np.asarray(slices[0].image_orientation, dtype=np.float64)
    sideways = (positions - positions[0]) @ np.column_stack([orientation[:3], orientation[3:]])
    span = float(np.linalg.norm(positions[-1] - positions[0]))
    return float(np.linalg.norm(sideways, axis=1).max()) > max(ROUNDED_MM, _SIDEWAYS_FRACTION * span)


def _confirmed(slices: Sequence[Instance]) -> bool:
    """Whether every slice lies on the line from the first to the last, and highdicom finds them regular in this order.

    Its normal points the other way.
    """
    from highdicom.spatial import get_volume_positions

    positions = np.asarray([i.image_position for i in slices], dtype=np.float64)
    n = len(slices)
    if np.abs(positions - np.linspace(positions[0], positions[-1], n)).max() > 2 * ROUNDED_MM:
        return False
    orientation = np.asarray(slices[0].image_orientation, dtype=np.float64).tolist()
    spacing, order = get_volume_positions(
        positions.tolist(), orientation, atol=2 * ROUNDED_MM, perpendicular_tol=_HIGHDICOM_PERPENDICULAR
    )
    return spacing is not None and order in (list(range(n)), list(range(n))[::-1])


def _stack(slices: Sequence[Instance], keys: Sequence[str], *, whole: bool) -> Stack:
    first, last = slices[0], slices[-1]
    heights = heights_mm(slices, slices)
    flags = {
        "part_of_series": not whole,
        "positions_rounded": off_grid_mm(heights) > _EXACT_MM,
        **{f"split_by_{key}": True for key in keys},
        "rounded_to_integer_hu": any(
            not _is_whole(i.rescale_slope) or not _is_whole(i.rescale_intercept) for i in slices
        ),
        "lossy_compression": any(i.lossy or i.transfer_syntax_uid in _MAYBE_LOSSY for i in slices),
    }
    return Stack(
        series_instance_uid=first.series_instance_uid,
        study_instance_uid=first.study_instance_uid,
        frame_of_reference_uid=first.frame_of_reference_uid or "",
        instances=tuple(slices),
        affine=_orthogonal_affine(first, last, len(slices)),
        flags=tuple(name for name, holds in flags.items() if holds),
    )


def _orthogonal_affine(first: Instance, last: Instance, n_slices: int) -> FloatArray:
    """Affine of a stack that is not tilted, its slices stepping exactly along their normal.

    Rounded headers step sideways by a fraction of a millimetre. NIfTI's qform and ITK cannot hold that shear (ITK reads
    it as a rotation), so it is shared out between the first and the last slice.
    """
    orientation, spacing = first.image_orientation or (), first.pixel_spacing or ()
    start, end = np.asarray(first.image_position, dtype=np.float64), np.asarray(last.image_position, dtype=np.float64)
    normal = slice_affine(start.tolist(), orientation, spacing)[:3, 0]
    half = ((end - start) - ((end - start) @ normal) * normal) / 2
    return volume_affine((start + half).tolist(), (end - half).tolist(), n_slices, orientation, spacing)


def _is_whole(value: float | None) -> bool:
    return value is not None and float(value).is_integer()
