"""The engines ``unet3d`` and ``sam2ct-nano``: one look at a box around the prompt, at the prompt's own scale."""

from __future__ import annotations

import hashlib
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass
from itertools import islice
from pathlib import Path
from typing import cast

import numpy as np
import torch

from segmentation.devices import device_of, dtype_of
from segmentation.types import (
    Arrow,
    Bidimensional,
    Box,
    Line,
    Mask,
    MaskPrompt,
    Points,
    Prompt,
    SegmentationError,
    SegmentationFailure,
    SegmentationJob,
)
from segmentation.volumetric.aims import Aim, aim_of, aims_of_contours
from segmentation.volumetric.config import Config, UNet3DConfig
from segmentation.volumetric.frames import FloatArray
from segmentation.volumetric.inputs import Drawn, Guide, assemble, draw, guides_of, image_of
from segmentation.volumetric.results import Found, judge, mask_of, measure
from segmentation.volumetric.weights import engine_of, find_network, load_network

NOT_FINITE = ("numerical", "the network answered with values that are no numbers")
"""Reason and detail of a failure: broken weights, or an overflow in half precision. No mask stands in for it."""
_CODE_REVISION = "3"


@dataclass(frozen=True, slots=True, eq=False)
class _Look:
    """One box of one job, as the network takes it."""

    job: int
    guide: Guide
    drawn: Drawn
    values: FloatArray
    constants: FloatArray


class BoxSegmenter:
    """``unet3d`` and ``sam2ct-nano``: every kind of prompt, by a network that sees a box at the prompt's own scale.

    A line, pair, box or mask sets the box. An arrow or a click says no size: boxes of several are tried, for an arrow
    also those around the closed contours ahead of it (as ``classical`` finds them), and the surest is kept. What was
    found without a size is measured and segmented again as if that had been drawn.

    Flags: ``fallback_ellipsoid`` (nothing found: the prompt's ellipsoid, confidence 0.3; with ``assumed_size`` where an
    arrow or a click gave no size), ``crop_limit`` (the lesion may go on beyond the box), ``negative_point_inside``,
    ``sheared_grid`` (the gantry was tilted; the shift between slices is ignored).

    Parameters
    ----------
    network
        `segmentation.volumetric.networks.UNet3D` or `segmentation.sam2ct.nano.NanoModel`; not copied.
    config
        What it was built from.
    weights_sha256
        Of their file.
    device
        None or "auto", "cpu", "cuda", "cuda:1".
    dtype
        ``"fp32"`` or ``"bf16"``; None: bf16 on a GPU, else fp32.
    batch
        Boxes that the network sees at once, and jobs under way at most; None: 32 on a GPU, else 2.

    Raises
    ------
    EngineError
        If the device is not there.
    ValueError
        If an option is out of range.

    """

    supports: frozenset[type[Prompt]] = frozenset({Line, Bidimensional, Box, MaskPrompt, Arrow, Points})
    neutral_options = frozenset({"batch"})
    """Options that decide about speed and memory, not about masks."""

    def __init__(
        self,
        network: torch.nn.Module,
        config: UNet3DConfig,
        *,
        weights_sha256: str | None = None,
        device: str | None = "auto",
        dtype: str | None = None,
        batch: int | None = None,
    ) -> None:
        self._device = device_of(device)
        self._dtype = dtype_of(dtype, self._device)
        if batch is not None and not (type(batch) is int and batch >= 1):
            raise ValueError(f"batch must be at least 1, got {batch!r}")
        self._batch = batch or (32 if self._device.type == "cuda" else 2)
        self.name, self.config, self.weights_sha256 = engine_of(config), config, weights_sha256
        self._network = network.to(self._device).eval()
        self.revision = revision_of(network, config, weights_sha256, self._dtype)

    def segment(self, jobs: Iterable[SegmentationJob]) -> Iterator[Mask | SegmentationFailure]:
        """Segment every job from its first prompt, a few at a time and in their order."""
        stream = iter(jobs)
        while chunk := list(islice(stream, self._batch)):
            yield from self._answers(chunk)

    def _answers(self, jobs: Sequence[SegmentationJob]) -> list[Mask | SegmentationFailure]:
        failures: dict[int, SegmentationFailure] = {}
        looks: list[_Look] = []
        for i, job in enumerate(jobs):
            try:
                aims = (aim_of(job.prompts[0], job.volume), *_contours(job))
                looks += [self._look(i, job, guide) for aim in aims for guide in self._guides(job, aim)]
            except SegmentationError as error:
                failures[i] = SegmentationFailure(job.job_id, "bad_prompt", str(error))
        best: dict[int, Found] = {}
        for look, found in self._found(jobs, looks, failures):
            if look.job not in best or _rank(found) > _rank(best[look.job]):
                best[look.job] = found
        for _ in range(self.config.refinements):
            best |= self._refined(jobs, best, failures)
        answers: list[Mask | SegmentationFailure] = []
        for i, job in enumerate(jobs):
            try:
                answers.append(failures[i] if i in failures else self._mask(job, best[i]))
            except SegmentationError as error:
                answers.append(SegmentationFailure(job.job_id, "nothing_found", str(error)))
        return answers

    def _mask(self, job: SegmentationJob, found: Found) -> Mask:
        return mask_of(job, found, f"{self.name}@{self.revision}", sha256=self.weights_sha256)

    def _refined(
        self, jobs: Sequence[SegmentationJob], best: dict[int, Found], failures: dict[int, SegmentationFailure]
    ) -> dict[int, Found]:
        """Measure what was found, and look again; what is found no more stays as it was."""
        looks = []
        for i, found in best.items():
            job = jobs[i]
            free = found.guide.aim.length_mm is None
            if found.fallback or not (free or self.config.refine_measured):
                continue
            aim = measure(found, job.volume.spacing_mm, len(job.volume.voxels))
            looks += [self._look(i, job, guide) for guide in self._guides(job, aim)]
        return {look.job: found for look, found in self._found(jobs, looks, failures) if not found.fallback}

    def _guides(self, job: SegmentationJob, aim: Aim) -> tuple[Guide, ...]:
        return guides_of(aim, job.volume.spacing_mm, self.config)

    def _look(self, index: int, job: SegmentationJob, guide: Guide) -> _Look:
        drawn = draw(job.volume, guide, self.config)
        values, constants = assemble(image_of(job.volume, guide), drawn, guide, job.volume.spacing_mm, self.config)
        return _Look(index, guide, drawn, values, constants)

    def _found(
        self, jobs: Sequence[SegmentationJob], looks: Sequence[_Look], failures: dict[int, SegmentationFailure]
    ) -> Iterator[tuple[_Look, Found]]:
        """What the network finds in each box; a job that it has no number for goes to ``failures``."""
        for first in range(0, len(looks), self._batch):
            part = looks[first : first + self._batch]
            values = torch.from_numpy(np.stack([look.values for look in part])).to(self._device)
            constants = torch.from_numpy(np.stack([look.constants for look in part])).to(self._device)
            with torch.inference_mode(), computing(self._device, self._dtype):
                logits = self._network(values, constants)
            probabilities = torch.sigmoid(logits.float())[:, 0].cpu().numpy()
            for look, probability in zip(part, probabilities, strict=True):
                job = jobs[look.job]
                if not np.isfinite(probability).all():
                    failures[look.job] = SegmentationFailure(job.job_id, *NOT_FINITE)
                    continue
                shape, spacing_mm = job.volume.voxels.shape, job.volume.spacing_mm
                yield look, judge(probability, look.drawn, look.guide, shape, spacing_mm)


def _contours(job: SegmentationJob) -> tuple[Aim, ...]:
    """What an arrow may point at; nothing for other prompts, or where it points out of the image."""
    prompt = job.prompts[0]
    if not isinstance(prompt, Arrow):
        return ()
    try:
        return aims_of_contours(prompt, job.volume)
    except SegmentationError:
        return ()


def open_box_engine(
    name: str,
    *,
    weights: str | Path | None = None,
    device: str | None = "auto",
    dtype: str | None = None,
    batch: int | None = None,
) -> BoxSegmenter:
    """Find and load the weights of ``unet3d`` or ``sam2ct-nano``.

    Parameters
    ----------
    weights
        File, or folder with the file; None: in ``COHORT_WEIGHTS``.
    device, dtype, batch
        Of `BoxSegmenter`.

    Raises
    ------
    EngineError
        If the weights or the device are missing or wrong.
    ValueError
        If an option is out of range.

    """
    device_of(device)
    network, found = load_network(find_network(name, weights), name)
    config = cast("UNet3DConfig", found.config)
    return BoxSegmenter(network, config, weights_sha256=found.sha256, device=device, dtype=dtype, batch=batch)


def computing(device: torch.device, dtype: torch.dtype) -> torch.autocast:
    """Context to run a network in."""
    return torch.autocast(device.type, dtype, enabled=dtype is not torch.float32)


def revision_of(network: torch.nn.Module, config: Config, sha256: str | None, dtype: torch.dtype) -> str:
    """Code, weights and every option that decides about the masks."""
    digest = hashlib.sha256()
    if sha256 is None:
        for name, tensor in sorted(network.state_dict().items()):
            digest.update(name.encode())
            digest.update(tensor.detach().cpu().contiguous().reshape(-1).view(torch.uint8).numpy())
    digest.update(repr([sha256, config, str(dtype)]).encode())
    return f"{_CODE_REVISION}-{digest.hexdigest()[:12]}"


def _rank(found: Found) -> float:
    """How much to be preferred over other boxes for the same prompt."""
    return -1.0 if found.fallback else found.certainty - found.cut_off
