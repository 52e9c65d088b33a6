"""What the network sees of a volume: which square of each slice, at which scale, in which greys; and the way back."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TypeVar

import numpy as np
import torch
import torch.nn.functional as F  # noqa: N812 - as everybody writes it
from numpy.typing import NDArray
from torch import Tensor

from segmentation.ellipsoid import ASSUMED_DIAMETER_MM
from segmentation.geometry import rescale_index
from segmentation.sam2ct.config import IMAGE_SIZES, SAM2CTConfig
from segmentation.sam2ct.prompts import ARROW_HEAD, BOX_FIRST, POSITIVE, NetworkPrompt
from segmentation.sam2ct.steps import PointPrompt
from segmentation.types import Volume

_T = TypeVar("_T", bound=np.generic)

Ends = tuple[int, int, int, int]
"""First row and column, row and column after the last."""

# Of ImageNet, as SAM 2 normalises.
_MEAN, _STD = (0.485, 0.456, 0.406), (0.229, 0.224, 0.225)

CONTEXT = 3.0
"""Side of a region of interest over the extent of the prompt, at least."""
SMALLEST_SHARE = 4
"""Side of the slice over that of a region of interest at its scale, at most: 128 of 512 pixels."""
LEAST_MM = 32.0
"""Side of the smallest square that ``"fit"`` shows: what a few pixels are is seen by what is around them."""
_HALF_COVERED = 0.5
"""Share of a network pixel that a mask prompt must cover to hold it."""


@dataclass(frozen=True, slots=True, eq=False)
class Frame:
    """A rectangle of every slice of a volume, and the network input that it becomes. Compared by identity.

    Parameters
    ----------
    top, left, rows, columns
        In pixels of the volume.
    side
        Network pixels of the square input.
    transposed
        The network sees rows and columns exchanged.
    of
        The frame of whole slices that this is a region of; None if it is that frame itself.

    """

    volume: Volume
    top: int
    left: int
    rows: int
    columns: int
    side: int
    transposed: bool
    of: Frame | None = None

    def middle_of(self, prompt: NetworkPrompt) -> Ends | None:
        """Middle half of what a measurement or a box spans, at least a pixel; None for other prompts."""
        if prompt.ellipse is None and BOX_FIRST not in prompt.labels:
            return None
        (x0, y0), (x1, y1) = prompt.lower, prompt.upper
        half_rows, half_columns = max((y1 - y0) / 4, 1.0), max((x1 - x0) / 4, 1.0)
        row, column = (y0 + y1) / 2 - self.top, (x0 + x1) / 2 - self.left
        return (
            round(row - half_rows),
            round(column - half_columns),
            round(row + half_rows) + 1,
            round(column + half_columns) + 1,
        )

    def meant_by(self, prompt: NetworkPrompt) -> list[tuple[float, float]]:
        """(row, column) in the frame of clicks inside the lesion and of an arrow's head."""
        return [
            (float(y) - self.top, float(x) - self.left)
            for (x, y), label in zip(prompt.points, prompt.labels, strict=True)
            if label in {POSITIVE, ARROW_HEAD}
        ]

    def is_left_by(self, ends: Ends) -> bool:
        """Whether what lies in (first row, first column, row and column after the last) runs out of it into more."""
        _, all_rows, all_columns = self.volume.voxels.shape
        top, left, bottom, right = ends
        return (
            (self.top > 0 and top == 0)
            or (self.left > 0 and left == 0)
            or (self.top + self.rows < all_rows and bottom == self.rows)
            or (self.left + self.columns < all_columns and right == self.columns)
        )

    @property
    def whole(self) -> Frame:
        """The frame of whole slices."""
        return self.of or self

    def points(self, prompt: NetworkPrompt) -> PointPrompt:
        """(1, P, 2) network pixel-centre (x, y)."""
        scale = (self.side / self.columns, self.side / self.rows)
        xy = rescale_index(prompt.points - (self.left, self.top), scale)
        if self.transposed:
            xy = xy[:, ::-1].copy()
        return PointPrompt(torch.from_numpy(xy).float()[None], torch.tensor([prompt.labels]))

    def drawn(self, prompt: NetworkPrompt) -> NDArray[np.bool_] | None:
        """(rows, columns) part of a mask prompt in the frame; None for points."""
        return None if prompt.mask is None else self._crop(prompt.mask).copy()

    def mask(self, prompt: NetworkPrompt) -> Tensor:
        """(1, 1, side, side) zeros and ones of a mask prompt."""
        drawn = self.drawn(prompt)
        if drawn is None:
            raise ValueError("a prompt of points has no mask")
        resized = self._turn(_resize(torch.from_numpy(drawn)[None, None].float(), self.side))
        covered = min(_HALF_COVERED, float(resized.max()))  # a mask that fills no network pixel marks one all the same
        return ((resized >= covered) & (resized > 0)).float()

    def images(self, slices: list[int], config: SAM2CTConfig, device: torch.device) -> Tensor:
        """(N, 3, side, side) normalised images of ``slices``."""
        low, high = config.hu_clip
        crop = np.ascontiguousarray(self._crop(self.volume.voxels[slices]))
        hu = torch.from_numpy(crop).to(device, non_blocking=True).float()[:, None]
        grey = (hu.clamp(low, high) - low) / (high - low)
        if config.eight_bit:
            grey = (grey * 255).floor() / 255  # as a cast to uint8 does
        grey = self._turn(_resize(grey, self.side))
        mean, std = (torch.tensor(v, device=device).reshape(1, 3, 1, 1) for v in (_MEAN, _STD))
        return (grey - mean) / std

    def to_slice(self, logits: Tensor) -> Tensor:
        """(N, 1, s, s) logits of the network to (N, rows, columns) on the pixels of the frame."""
        return F.interpolate(self._turn(logits), size=(self.rows, self.columns), mode="bilinear", align_corners=False)[
            :, 0
        ]

    def _crop(self, array: NDArray[_T]) -> NDArray[_T]:
        return array[..., self.top : self.top + self.rows, self.left : self.left + self.columns]

    def _turn(self, images: Tensor) -> Tensor:
        return images.transpose(-1, -2) if self.transposed else images


def whole_slices(volume: Volume, config: SAM2CTConfig) -> Frame:
    """Full slices at the configuration's image size."""
    _, rows, columns = volume.voxels.shape
    return Frame(volume, 0, 0, rows, columns, config.image_size, config.transpose_slices)


def region_of_interest(
    whole: Frame, prompt: NetworkPrompt, config: SAM2CTConfig, larger_than: Frame | None = None
) -> Frame:
    """Square (in millimetres) around ``prompt`` by the configuration's policy, or ``whole`` where it holds no square.

    ``"auto"`` keeps the scale that the whole slice would have, with the smallest network size that holds `CONTEXT`
    times the prompt. ``"fit"`` scales such a square to the whole network input. ``larger_than`` asks for a region at
    least twice as large as that one.
    """
    _, rows, columns = whole.volume.voxels.shape
    _, row_mm, column_mm = whole.volume.spacing_mm
    full_mm = min(rows * row_mm, columns * column_mm)
    extent_mm = max((prompt.upper[0] - prompt.lower[0]) * column_mm, (prompt.upper[1] - prompt.lower[1]) * row_mm)
    if extent_mm == 0:  # an arrow or one click says where, not how large
        extent_mm = ASSUMED_DIAMETER_MM
    least_mm = LEAST_MM if config.roi == "fit" else full_mm / SMALLEST_SHARE
    wanted_mm = max(CONTEXT * extent_mm, least_mm)
    if larger_than is not None:
        wanted_mm = max(wanted_mm, 2 * min(larger_than.rows * row_mm, larger_than.columns * column_mm))
    side, side_mm = config.image_size, wanted_mm
    if config.roi == "auto":
        side, side_mm = _at_scale(full_mm, wanted_mm, config)
    if config.roi == "full" or side_mm >= full_mm:
        return whole
    n_rows, n_columns = (max(2, min(round(side_mm / mm), n)) for mm, n in ((row_mm, rows), (column_mm, columns)))
    top = _start((prompt.lower[1] + prompt.upper[1]) / 2, n_rows, rows)
    left = _start((prompt.lower[0] + prompt.upper[0]) / 2, n_columns, columns)
    return Frame(whole.volume, top, left, n_rows, n_columns, side, config.transpose_slices, whole)


def _at_scale(full_mm: float, wanted_mm: float, config: SAM2CTConfig) -> tuple[int, float]:
    """Network size and millimetres of the smallest square at the scale of the whole slice that is large enough."""
    rounding = 1 - 1e-2  # a doubled region, counted in whole pixels, may be a hair over the next size
    for side in IMAGE_SIZES:
        side_mm = full_mm * side / config.image_size
        if side <= config.image_size and side_mm >= wanted_mm * rounding:
            return side, side_mm
    return config.image_size, full_mm


def _start(centre: float, length: int, limit: int) -> int:
    """First pixel of ``length`` pixels around ``centre``, moved so that they lie inside ``limit``."""
    return min(max(round(centre - (length - 1) / 2), 0), limit - length)


def _resize(images: Tensor, side: int) -> Tensor:
    shrinking = side < max(images.shape[-2:])
    return F.interpolate(images, size=(side, side), mode="bilinear", align_corners=False, antialias=shrinking)
