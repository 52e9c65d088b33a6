"""Images of one grid to phases: passes over the patient and reconstructions, which must never be mixed in one stack."""

from __future__ import annotations

import re
from collections import defaultdict
from collections.abc import Sequence
from dataclasses import dataclass
from itertools import pairwise

import numpy as np

from cohort_builder.ct.spacing import regular_runs
from cohort_builder.pacs.headers import Instance
from segmentation.geometry import FloatArray

SAME_POSITION_MM = 0.01

_KEYS = (
    "acquisition_number", "temporal_position", "stack_id", "contrast_agent", "image_type", "acquisition_time",
    "content_time", "convolution_kernel",
)  # fmt: skip
_PAUSE_S = 2.0  # slices of one rotation or one heart beat are less apart
_DAY_S = 86400.0

_Phases = list[list[Instance]]


@dataclass(frozen=True, slots=True)
class Phase:
    """Images of one grid in order of their position; ``keys`` are the attributes that separated them from others."""

    instances: tuple[Instance, ...]
    keys: tuple[str, ...] = ()


def split_phases(group: Sequence[Instance]) -> list[Phase]:
    """Split images of one grid where positions repeat, or where two kinds of images alternate along the patient.

    The attribute that leaves no position twice is taken, or else the first that separates any; what it leaves is split
    by the others. Slices of one pass that differ in an attribute and lie one after the other stay together.
    """
    return _split(group, _KEYS, ())


def heights_mm(group: Sequence[Instance], members: Sequence[Instance]) -> FloatArray:
    """Positions along the slice normal of the group, in mm."""
    orientation = np.asarray(group[0].image_orientation, dtype=np.float64)
    positions = np.asarray([i.image_position for i in members], dtype=np.float64)
    heights: FloatArray = positions @ np.cross(orientation[:3], orientation[3:])
    return heights


def is_one_pass(ordered: Sequence[Instance], key: str = "acquisition_time") -> bool:
    """Whether the times of images, in order of their position, only rise or only fall.

    Steps of up to 2 s and one slice that was taken again do not count; images without a time say nothing.
    """
    at = _times(ordered, key)
    if at is None:
        return True
    steps = np.diff(at)
    rising, falling = int((steps > _PAUSE_S).sum()), int((steps < -_PAUSE_S).sum())
    return min(rising, falling) == 0 or rising == falling == 1


def seconds(time: str | None) -> float | None:
    """Seconds since midnight of a TM value (PS3.5 6.2), to the second at least; None for anything else."""
    digits = (time or "").strip().replace(":", "")
    if not re.fullmatch(r"\d{6}(\.\d{1,6})?", digits):
        return None
    return int(digits[:2]) * 3600 + int(digits[2:4]) * 60 + float(digits[4:])


def _split(group: Sequence[Instance], keys: Sequence[str], used: tuple[str, ...]) -> list[Phase]:
    ordered = [group[i] for i in np.lexsort((np.arange(len(group)), heights_mm(group, group)))]
    explained = [(key, found) for key in keys if (found := _explained(ordered, key))]
    if not explained:
        return [Phase(tuple(ordered), used)]
    key, phases = next((each for each in explained if _is_clean(each[1])), explained[0])
    others = [other for other in keys if other != key]
    return [part for phase in phases for part in _split(phase, others, (*used, key))]


def _explained(ordered: Sequence[Instance], key: str) -> _Phases | None:
    """The phases by one attribute, if they say why positions repeat or kinds of images alternate."""
    repeats = _repeats(heights_mm(ordered, ordered))
    if key.endswith("_time"):  # often each slice has its own
        phases = _by_time(ordered, key)
        if phases is None or repeats or (key == "acquisition_time" and not is_one_pass(ordered)):
            return phases
        # Content Time is that of the reconstruction, which may go by any order: only two whole stacks are two phases.
        whole = key == "content_time" and not is_one_pass(ordered, key) and all(_is_regular(phase) for phase in phases)
        return phases if whole else None
    phases = _by_value(ordered, key)
    sizes = [len(phase) for phase in phases]
    if len(phases) < 2 or max(sizes) < 2:
        return None
    if repeats:
        return phases if _separates(ordered, key) else None
    return phases if min(sizes) > 1 and _interleaved([heights_mm(ordered, phase) for phase in phases]) else None


def _value(instance: Instance, key: str) -> str:
    value = getattr(instance, key)
    return str(
        value[2:] if key == "image_type" else value
    )  # the first two are the same in a primary and a spectral map


def _by_value(ordered: Sequence[Instance], key: str) -> _Phases:
    phases: dict[str, list[Instance]] = defaultdict(list)
    for instance in ordered:
        phases[_value(instance, key)].append(instance)
    return [phase for _, phase in sorted(phases.items())]


def _by_time(ordered: Sequence[Instance], key: str) -> _Phases | None:
    """Two passes with a pause between them, or images that share their moments; None where neither is to be had."""
    at = _times(ordered, key)
    candidates: list[_Phases] = []
    if at is not None:
        moments = np.unique(at)
        pauses = np.diff(moments)
        for i in np.argsort(-pauses, kind="stable")[: int((pauses > _PAUSE_S).sum())]:
            early = at <= moments[i]
            candidates.append([[ordered[j] for j in np.flatnonzero(which).tolist()] for which in (early, ~early)])
    candidates.append(_by_value(ordered, key))
    for phases in candidates:
        large = len(phases) > 1 and min(len(phase) for phase in phases) > 1
        if large and _is_clean(phases) and all(is_one_pass(phase, key) for phase in phases):
            return phases
    return None


def _times(members: Sequence[Instance], key: str) -> FloatArray | None:
    """Seconds, those after midnight counted on; None if one is not known."""
    known = [at for at in (seconds(getattr(instance, key)) for instance in members) if at is not None]
    if len(known) < len(members):
        return None
    at = np.asarray(known, dtype=np.float64)
    at[at < at.max() - _DAY_S / 2] += _DAY_S
    return at


def _separates(ordered: Sequence[Instance], key: str) -> bool:
    """Whether two images at one position differ in the attribute."""
    gaps = np.diff(heights_mm(ordered, ordered))
    return any(
        gap < SAME_POSITION_MM and _value(a, key) != _value(b, key)
        for gap, (a, b) in zip(gaps, pairwise(ordered), strict=True)
    )


def _is_clean(phases: _Phases) -> bool:
    return not any(_repeats(heights_mm(phase, phase)) for phase in phases)


def _is_regular(phase: Sequence[Instance]) -> bool:
    return len(phase) > 2 and regular_runs(np.sort(heights_mm(phase, phase))) == [(0, len(phase))]


def _repeats(heights: FloatArray) -> bool:
    return bool((np.diff(np.sort(heights)) < SAME_POSITION_MM).any())


def _interleaved(phases: Sequence[FloatArray]) -> bool:
    """Whether the extents of two phases overlap: alternating slices of two acquisitions look like one fine stack."""
    extents = sorted((float(h.min()), float(h.max())) for h in phases)
    return any(low < highest for (_, highest), (low, _) in pairwise(extents))
