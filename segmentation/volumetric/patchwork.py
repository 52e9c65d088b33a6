"""The engines ``dynunet`` and ``swin-unetr``: the comparators of sam2ct.txt 2.4, through MONAI."""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from pathlib import Path
from typing import Any

import numpy as np
import scipy.ndimage as ndi
import torch
from numpy.typing import NDArray
from torch import nn

from segmentation.devices import device_of, dtype_of
from segmentation.ellipsoid import one_by_one
from segmentation.geometry import is_orthogonal
from segmentation.types import (
    Arrow,
    Bidimensional,
    Box,
    Line,
    Mask,
    MaskPrompt,
    Points,
    Prompt,
    SegmentationFailure,
    SegmentationJob,
    mask_from_volume,
)
from segmentation.volumetric.aims import aim_of
from segmentation.volumetric.config import PatchConfig
from segmentation.volumetric.engine import NOT_FINITE, computing, revision_of
from segmentation.volumetric.frames import FloatArray, Frame, paste
from segmentation.volumetric.networks import monai
from segmentation.volumetric.patches import patch_hu, patch_values, region_of
from segmentation.volumetric.weights import engine_of, find_network, load_network

_OVERLAP = 0.25
_REACH_MM = 30.0
"""How far from an arrow or a click a lesion is looked for: they have no length of their own."""


class PatchSegmenter:
    """Slides a network over a box around the prompt and keeps the piece at the prompt.

    Flags: ``sheared_grid`` (the gantry was tilted; the shift between slices is ignored). Where nothing is found there
    is no mask: the comparators have no other source of one.

    Parameters
    ----------
    network
        Takes (B, 2, z, v, u), in eval mode; not copied.
    device, dtype
        As of `segmentation.volumetric.engine.BoxSegmenter`.

    Raises
    ------
    EngineError
        If the device or MONAI is not there.
    ValueError
        If an option is out of range.

    """

    supports: frozenset[type[Prompt]] = frozenset({Line, Bidimensional, Box, MaskPrompt, Arrow, Points})

    def __init__(
        self,
        network: nn.Module,
        config: PatchConfig,
        *,
        weights_sha256: str | None = None,
        device: str | None = "auto",
        dtype: str | None = None,
    ) -> None:
        self._device = device_of(device)
        self._dtype = dtype_of(dtype, self._device)
        self._sliding: Any = monai("monai.inferers").sliding_window_inference
        self.config, self.weights_sha256 = config, weights_sha256
        self.name = engine_of(config)
        self._network = network.to(self._device).eval()
        self.revision = revision_of(network, config, weights_sha256, self._dtype)

    def segment(self, jobs: Iterable[SegmentationJob]) -> Iterator[Mask | SegmentationFailure]:
        """Segment every job, one at a time, from its first prompt."""
        return one_by_one(jobs, self._segment_one)

    def _segment_one(self, job: SegmentationJob) -> Mask | SegmentationFailure:
        volume, prompt = job.volume, job.prompts[0]
        aim = aim_of(prompt, volume)
        frame = region_of(aim, volume, self.config)
        values = patch_values(patch_hu(volume, frame, self.config), volume, prompt, frame, self.config)
        probability = self._probability(values)
        if not np.isfinite(probability).all():
            return SegmentationFailure(job.job_id, *NOT_FINITE)
        piece = _piece_at(probability > 0.5, values[1] > 0, frame, aim.length_mm or _REACH_MM)
        if piece is None:
            return SegmentationFailure(job.job_id, "nothing_found", "the network found nothing at the prompt")
        share, origin = paste(probability * piece, frame, volume.voxels.shape, volume.spacing_mm)
        found = share > 0.5
        if not found.any():
            return SegmentationFailure(job.job_id, "nothing_found", "what was found is smaller than a voxel")
        sections = (share * found).sum(axis=(1, 2), dtype=np.float64) / np.maximum(found.sum(axis=(1, 2)), 1)
        return mask_from_volume(
            job.job_id,
            found,
            f"{self.name}@{self.revision}",
            origin=origin,
            flags=() if is_orthogonal(volume.affine) else ("sheared_grid",),
            slice_confidence=tuple(float(value) for value in np.clip(sections, 0, 1)),
            weights_sha256=self.weights_sha256,
        )

    def _probability(self, values: FloatArray) -> FloatArray:
        with torch.inference_mode(), computing(self._device, self._dtype):
            logits = self._sliding(
                torch.from_numpy(values)[None].to(self._device),
                self.config.patch,
                1,
                self._network,
                overlap=_OVERLAP,
                mode="gaussian",
            )
        probability: FloatArray = torch.sigmoid(logits.float())[0, 0].cpu().numpy()
        return probability


def open_comparator(
    name: str,
    *,
    weights: str | Path | None = None,
    device: str | None = "auto",
    dtype: str | None = None,
) -> PatchSegmenter:
    """Find and load the weights of ``dynunet`` or ``swin-unetr``.

    Raises
    ------
    EngineError
        If the weights, the device or MONAI are missing or wrong.
    ValueError
        If an option is out of range.

    """
    device_of(device)
    network, found = load_network(find_network(name, weights), name)
    if not isinstance(found.config, PatchConfig):
        raise TypeError(f"{name} has no patches")
    return PatchSegmenter(network, found.config, weights_sha256=found.sha256, device=device, dtype=dtype)


def _piece_at(
    mask: NDArray[np.bool_], drawn: NDArray[np.bool_], frame: Frame, reach_mm: float
) -> NDArray[np.bool_] | None:
    """Piece that holds most of what was drawn, or else the nearest within reach, with the samples around it."""
    labels, count = ndi.label(mask)
    if not count:
        return None
    inside = np.bincount(labels[drawn], minlength=count + 1)[1:]
    if inside.any():
        chosen = 1 + int(inside.argmax())
    else:
        nearest = np.where(mask, ndi.distance_transform_edt(~drawn, frame.step_mm), np.inf)
        if nearest.min() > reach_mm:
            return None
        chosen = int(labels.ravel()[nearest.argmin()])
    others = mask & (labels != chosen)
    piece: NDArray[np.bool_] = ndi.binary_dilation(labels == chosen, iterations=2) & ~others
    return piece
