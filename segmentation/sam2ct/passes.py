"""One lesion on its way through a volume: passes up and down from the prompted slice, and what each remembers."""

from __future__ import annotations

from collections import deque
from collections.abc import Sequence
from dataclasses import dataclass, field, replace
from typing import Any

import numpy as np
import scipy.ndimage as ndi
import torch
from numpy.typing import NDArray
from torch import Tensor

from segmentation.sam2ct.config import SAM2CTConfig
from segmentation.sam2ct.frames import Ends, Frame
from segmentation.sam2ct.prompts import NetworkPrompt
from segmentation.sam2ct.steps import Recall
from segmentation.types import Mask, SegmentationFailure, SegmentationJob, Volume, mask_from_volume

AREA_JUMP = 4.0
"""A slice so many times larger than the one before it is another thing (SAM 2 floods when it loses its target)."""
SMALL_AREA = 8
"""Pixels: jumps between smaller sections say nothing."""
FLOOD = 3.0
"""A slice so many times larger than the ellipse of the measurement: no lesion is that much wider elsewhere."""

PIECES_DROPPED = "pieces_dropped"
STOPPED_AREA_JUMP, STOPPED_DRIFT, STOPPED_FLOOD = "stopped_area_jump", "stopped_drift", "stopped_flood"


@dataclass(frozen=True, slots=True, eq=False)
class Section:
    """The lesion on one slice.

    Parameters
    ----------
    mask
        (row, column) boolean, cropped to its bounding box; of no size where the slice is empty.
    top, left
        Of its first pixel, in the frame.
    confidence, stability
        The network's estimate of its IoU times its belief that there is an object; IoU of the section under a stricter
        and a laxer threshold. Both in [0, 1].

    """

    mask: NDArray[np.bool_]
    top: int
    left: int
    confidence: float
    stability: float

    @classmethod
    def of(cls, mask: NDArray[np.bool_], confidence: float, stability: float) -> Section:
        """Crop a (rows, columns) mask of a whole frame."""
        rows, columns = np.flatnonzero(mask.any(axis=1)), np.flatnonzero(mask.any(axis=0))
        if not len(rows):
            return cls(mask[:0, :0].copy(), 0, 0, confidence, stability)
        top, left = int(rows[0]), int(columns[0])
        return cls(mask[top : rows[-1] + 1, left : columns[-1] + 1].copy(), top, left, confidence, stability)

    def near(self, ends: Ends) -> Section:
        """Only the pieces that reach into this part of the frame; all of it where none does."""
        labels, count = ndi.label(self.mask, np.ones((3, 3)))
        top, left, bottom, right = ends
        part = labels[max(top - self.top, 0) : max(bottom - self.top, 0)]
        part = part[:, max(left - self.left, 0) : max(right - self.left, 0)]
        return self._only(labels, np.setdiff1d(part, 0), count)

    def nearest(self, points: Sequence[tuple[float, float]]) -> Section:
        """Only the pieces that are nearest to these (row, column) of the frame."""
        labels, count = ndi.label(self.mask, np.ones((3, 3)))
        places = np.argwhere(labels) + (self.top, self.left)  # noqa: RUF005 - a shift of all rows
        of_place = labels[labels > 0]
        meant = [of_place[((places - point) ** 2).sum(axis=1).argmin()] for point in points if len(places)]
        return self._only(labels, np.array(meant), count)

    def _only(self, labels: NDArray[np.integer[Any]], meant: NDArray[np.integer[Any]], count: int) -> Section:
        if count < 2 or not len(meant):
            return self
        kept = Section.of(np.isin(labels, meant), self.confidence, self.stability)
        return replace(kept, top=kept.top + self.top, left=kept.left + self.left)

    @property
    def area(self) -> int:
        """Pixels."""
        return int(np.count_nonzero(self.mask))

    @property
    def ends(self) -> Ends:
        """First row, first column, and those after the last, in the frame."""
        rows, columns = self.mask.shape
        return self.top, self.left, self.top + rows, self.left + columns


@dataclass(slots=True, eq=False)
class Lesion:
    """A job that has been admitted."""

    job: SegmentationJob
    prompt: NetworkPrompt
    frame: Frame
    volume_number: int = 0
    sections: dict[int, Section] = field(default_factory=dict)
    flags: set[str] = field(default_factory=set)
    passes: list[Pass] = field(default_factory=list)

    def answer(self, engine: str, weights_sha256: str | None) -> Mask | SegmentationFailure:
        """Put the sections together on the grid of the volume."""
        if not any(section.area for section in self.sections.values()):
            return SegmentationFailure(self.job.job_id, "empty_mask", "the network saw no object at the prompt")
        first, last = min(self.sections), max(self.sections)
        order = [self.sections[z] for z in range(first, last + 1)]
        ends = np.array([section.ends for section in order if section.area])
        (top, left), (bottom, right) = ends[:, :2].min(axis=0), ends[:, 2:].max(axis=0)
        stack = np.zeros((len(order), bottom - top, right - left), np.bool_)
        for layer, section in zip(stack, order, strict=True):
            if section.area:
                r0, c0, r1, c1 = section.ends
                layer[r0 - top : r1 - top, c0 - left : c1 - left] = section.mask
        return mask_from_volume(
            self.job.job_id,
            stack,
            engine,
            origin=(first, self.frame.top + int(top), self.frame.left + int(left)),
            flags=tuple(sorted(self.flags)),
            slice_confidence=tuple(section.confidence for section in order),
            slice_stability=tuple(section.stability for section in order),
            prompt=self.prompt.described,
            weights_sha256=weights_sha256,
        )


Memory = tuple[Tensor, Tensor]
"""(M, S/16, S/16) spatial memory and (C,) object pointer of one slice."""


@dataclass(slots=True, eq=False)
class Pass:
    """One direction of one lesion.

    Parameters
    ----------
    slice_index, last
        The slice that was segmented last, and the lesion on it.
    prompted
        Memory of the prompted slice.
    memories, pointers
        Of the slices since then, the last one first.
    steps
        Slices since the prompted one.

    """

    lesion: Lesion
    direction: int
    slice_index: int
    last: Section
    prompted: Memory
    memories: deque[Tensor] = field(default_factory=deque)
    pointers: deque[Tensor] = field(default_factory=deque)
    steps: int = 0

    @property
    def next_slice(self) -> int:
        """Slice to segment next."""
        return self.slice_index + self.direction

    @property
    def at_end(self) -> bool:
        """Whether the volume ends here."""
        return not 0 <= self.next_slice < len(self.lesion.job.volume.voxels)

    @property
    def length(self) -> tuple[int, int]:
        """Memories and pointers beside those of the prompted slice: passes of one length need no padding."""
        return len(self.memories), len(self.pointers)

    def remember(self, section: Section, memory: Memory, config: SAM2CTConfig) -> None:
        """Go on to the next slice, forgetting what the model does not look back to."""
        self.slice_index, self.last, self.steps = self.next_slice, section, self.steps + 1
        for held, new, most in (
            (self.memories, memory[0], config.memory_slices - 1),
            (self.pointers, memory[1], config.pointer_reach),
        ):
            held.appendleft(new)
            if len(held) > most:
                held.pop()

    def objection(self, section: Section) -> str | None:
        """Why ``section`` cannot be the same lesion as the slice before it, as a flag."""
        if floods(section, self.lesion):
            return STOPPED_FLOOD
        if section.area > AREA_JUMP * max(self.last.area, SMALL_AREA):
            return STOPPED_AREA_JUMP
        if not self.last.area or not section.area:
            return None
        row, column = np.argwhere(section.mask).mean(axis=0) + np.array([section.top, section.left])
        top, left, bottom, right = self.last.ends
        return None if top - 1 <= row <= bottom and left - 1 <= column <= right else STOPPED_DRIFT


def floods(section: Section, lesion: Lesion) -> bool:
    """Whether a section is far larger than the ellipse of the measurement; never where nothing was measured."""
    ellipse = lesion.prompt.ellipse
    if ellipse is None or section.area <= SMALL_AREA:
        return False
    _, row_mm, column_mm = lesion.job.volume.spacing_mm
    return section.area * row_mm * column_mm > FLOOD * np.pi * ellipse.semi_long_mm * ellipse.semi_short_mm


def recall(passes: Sequence[Pass], config: SAM2CTConfig) -> Recall:
    """Put together what ``passes`` remember; shorter ones are padded, and the padding is marked as absent."""
    n_memories = max(len(p.memories) for p in passes)
    n_pointers = max(len(p.pointers) for p in passes)
    device = passes[0].prompted[0].device
    distances = torch.full((len(passes), 1 + n_memories), -1)
    times = torch.full((len(passes), 1 + n_pointers), torch.nan)
    memories: list[Tensor] = []
    pointers: list[Tensor] = []
    for row, p in enumerate(passes):
        memory, pointer = p.prompted
        memories += [memory, *p.memories] + [memory] * (n_memories - len(p.memories))
        pointers += [pointer, *p.pointers] + [pointer] * (n_pointers - len(p.pointers))
        scale = pointer_scale(p.lesion.job.volume, config)
        distances[row, : 1 + len(p.memories)] = torch.arange(1 + len(p.memories))
        times[row, : 1 + len(p.pointers)] = torch.arange(1 + len(p.pointers)) / scale
        times[row, 0] = 0 if config.prompt_pointer_at_zero else (p.steps + 1) / scale
    rows = len(passes)
    return Recall(
        torch.stack(memories).reshape(rows, 1 + n_memories, *memories[0].shape),
        distances.to(device),
        torch.stack(pointers).reshape(rows, 1 + n_pointers, *pointers[0].shape),
        times.to(device),
        complete=len({p.length for p in passes}) == 1,
    )


def pointer_scale(volume: Volume, config: SAM2CTConfig) -> int:
    """Distance that counts as 1 for a pointer."""
    if config.pointer_scale_fixed:
        return config.pointer_scale
    return min(config.pointer_scale, max(len(volume.voxels) - 1, 1))
