"""What `benchmarks/segment.py` runs: ways of ours and the published scripts, on generated lesions of a forced extent."""

from __future__ import annotations

from contextlib import nullcontext
from dataclasses import dataclass, field
from functools import cached_property
from pathlib import Path
from typing import Any

import numpy as np
import torch
from sam2_peers import CHUNK, medsam2_model, medsam2_script, sam2ct_model, sam2ct_script
from sam2_stock import stock_sam2
from sam2_timing import NOTHING, Cost, Parts, Watch, flops, peak_memory

from segmentation import Box, Mask, SegmentationJob, Volume, load_segmenter

EXTENT = (5, 6)
"""Slices below and above the prompt that every lesion is made to reach: 12 with the prompt's own."""
VISITED = sum(EXTENT) + 1
SLICES, SIDE, BOX, SEED = 120, 512, 40, 1
SPACING_MM = (2.5, 0.75, 0.75)
TARGET_LESIONS = {"cpu": 16, "cuda": 64}
PARTS_OF_VOLUME = (1, 2, 4, 8)


@dataclass(frozen=True)
class Way:
    """One way of ours to run, and the script it is held against."""

    name: str
    engine: str
    options: dict[str, Any]
    peer: str
    targets: dict[str, float]
    """How many times faster than the peer it must be, by kind of device."""
    image_size: int
    """Side of what the image encoder sees, in network pixels; for the ROI that of the lesions generated here."""

    def images(self, jobs: list[SegmentationJob]) -> int:
        """Images to encode: each slice once for all lesions, or each lesion's own crops."""
        if self.options.get("roi") == "auto":
            return VISITED * len(jobs)
        prompts = {job.prompts[0].slice_index for job in jobs}
        return len({z for prompt in prompts for z in range(prompt - EXTENT[0], prompt + EXTENT[1] + 1)})


MEDSAM2, SAM2CT = "MedSAM2's script", "SAM2CT's script"


def ways(shrink: int = 1) -> tuple[Way, ...]:
    """Three ways; the sides of all network inputs divided by ``shrink``, for a quick look."""
    small, large = 512 // shrink, 1024 // shrink
    at_large = {"mcm": True, "image_size": large}
    # A box of 40 pixels gets a crop of 128, at the scale that it has in the full frame.
    crop = 128 * large // SIDE
    return (
        Way(f"ours, frame of {small}", "medsam2", {"image_size": small}, MEDSAM2, {"cpu": 8.0, "cuda": 100.0}, small),
        Way(f"ours, frame of {large}, MCM", "sam2", at_large, SAM2CT, {"cpu": 1.3, "cuda": 20.0}, large),
        Way("ours, roi auto, MCM", "sam2", {**at_large, "roi": "auto"}, MEDSAM2, {"cpu": 30.0}, crop),
    )


@dataclass
class Row:
    """What one lesion costs in one way: seconds, and MB that memory rose above volume and weights."""

    name: str
    lesions: int
    lesion: Cost
    ran: str
    peak_mb: float | None = None
    shares: dict[str, float] = field(default_factory=dict)
    peak_share: float | None = None

    @property
    def per_second(self) -> float:
        return 1 / self.lesion.wall


@dataclass(frozen=True)
class Rates:
    """What a way costs per encoded image and, beside that, per lesion; learnt from a run on the CPU."""

    image: Cost = NOTHING
    lesion: Cost = NOTHING

    def predict(self, way: Way, jobs: list[SegmentationJob]) -> Cost:
        return self.image.times(way.images(jobs)).plus(self.lesion.times(len(jobs)))


@dataclass
class Bench:
    """One size of weights on one device."""

    size: str
    device: str
    folder: Path
    limit: float
    """Seconds that one measurement may be expected to take."""
    shrink: int = 1
    """By which the sides of all network inputs are divided."""
    peak: float | None = None
    """bf16 TFLOP/s of the device."""

    @cached_property
    def weights(self) -> Path:
        """A file in the layout of the official ones: the numbers of the peers' models."""
        path = self.folder / "weights.pt"
        torch.save({"model": stock_sam2(self.size, seed=SEED).state_dict()}, path)
        return path

    @cached_property
    def ways(self) -> tuple[Way, ...]:
        return ways(self.shrink)

    @cached_property
    def on_cpu(self) -> bool:
        return not self.device.startswith("cuda")

    def engine(self, way: Way, **options: Any) -> Any:
        """Make the engine of ``way``: exactly `EXTENT`, nothing stops early."""
        options = {**way.options, "guards": False, "extent": EXTENT, **options}
        return load_segmenter(way.engine, weights=str(self.weights), device=self.device, **options)

    def run(
        self, way: Way, jobs: list[SegmentationJob], ran: str, *, watch_parts: bool, **options: Any
    ) -> tuple[Row, Rates]:
        """Segment ``jobs`` in one call."""
        engine = self.engine(way, **options)
        if not self.on_cpu:
            segment(engine, jobs)  # compile, warm up
        with peak_memory(self.device) as peak, Parts(self.device) if watch_parts else nullcontext() as parts:
            watch = Watch(self.device)
            segment(engine, jobs)
            total, risen = watch.lap(), peak()
        row = Row(way.name, len(jobs), total.times(1 / len(jobs)), ran, round(risen))
        if self.peak:
            image, lesion = flops(self.size, way.image_size, EXTENT)
            row.peak_share = (way.images(jobs) * image + len(jobs) * lesion) / total.wall / (self.peak * 1e12)
        if parts is None:
            return row, Rates()
        row.shares = parts.shares(total)
        encoder = parts.spent["image encoder"]
        rest = total.plus(encoder.times(-1))
        return row, Rates(encoder.times(1 / parts.images), rest.times(1 / len(jobs)))

    def ours(self, way: Way, volume: Volume, lesions: int, rates: Rates | None) -> tuple[Row, Rates]:
        """Measure ``lesions``, on all or on a part of the volume that is as full of them, or calculate them.

        The largest part that ``rates`` promise to stay within the limit is taken. The number of lesions that a target
        is about is always measured, on the smallest part if need be.
        """
        jobs = jobs_of(volume, lesions)
        if rates is None or not self.on_cpu:
            return self.run(way, jobs, f"all {lesions}", watch_parts=self.on_cpu)
        parts = [
            (share, jobs_of(slices_of(volume, slice(0, len(volume.voxels) // share)), lesions // share))
            for share in PARTS_OF_VOLUME
            if lesions % share == 0 and lesions > share and len(volume.voxels) // share >= VISITED
        ]
        short = [part for part in parts if rates.predict(way, part[1]).wall <= self.limit]
        if not short and lesions != TARGET_LESIONS["cpu"]:
            cost = rates.predict(way, jobs)
            return Row(way.name, lesions, cost.times(1 / lesions), "calculated from 1 lesion's parts"), rates
        share, fewer = short[0] if short else parts[-1]
        slices = len(fewer[0].volume.voxels)
        ran = f"all {lesions}" if share == 1 else f"{len(fewer)} in {slices} slices, scaled by {share}"
        row, found = self.run(way, fewer, ran, watch_parts=True)
        row.lesions = lesions
        return row, found

    def medsam2(self, volume: Volume) -> Row:
        """One lesion in the middle; on the CPU 12 slices each way, the others at the median of steady slices."""
        side = 512 // self.shrink
        model = medsam2_model(self.size, seed=SEED, device=self.device, image_size=side)
        whole = len(volume.voxels)
        near, at, box = around(volume, reach=12 if self.on_cpu else whole)
        if not self.on_cpu:
            medsam2_script(model, near.voxels, at, box, device=self.device)  # warm up
        with peak_memory(self.device) as peak:
            cost = medsam2_script(model, near.voxels, at, box, device=self.device)
            risen = peak()
        middle = (whole - 1 + EXTENT[0] - EXTENT[1]) // 2
        ran = f"1 lesion at {side}, {len(near.voxels)} of {whole} slices, scaled"
        return Row(MEDSAM2, 1, cost.scaled(whole, above=whole - middle, below=middle + 1), ran, round(risen))

    def sam2ct(self, volume: Volume) -> Row:
        """One lesion in the middle with all of its chunks; on the CPU only the slices in their reach are read."""
        side = 1024 // self.shrink
        model = sam2ct_model(self.size, seed=SEED, device=self.device, image_size=side)
        whole = len(volume.voxels)
        near, at, box = around(volume, reach=CHUNK if self.on_cpu else whole)
        if not self.on_cpu:
            sam2ct_script(model, near.voxels, at, box, extent=EXTENT, device=self.device)  # warm up
        with peak_memory(self.device) as peak:
            cost = sam2ct_script(model, near.voxels, at, box, extent=EXTENT, device=self.device)
            risen = peak()
        ran = f"1 lesion at {side}, reading of {len(near.voxels)} slices scaled to {whole}"
        return Row(SAM2CT, 1, cost.scaled(whole, above=EXTENT[1] + 1, below=EXTENT[0]), ran, round(risen))


def segment(engine: Any, jobs: list[SegmentationJob]) -> None:
    """Segment all and keep nothing; a lesion that fails ends the benchmark."""
    count = 0
    for answer in engine.segment(jobs):
        count += isinstance(answer, Mask)
    if count != len(jobs):
        raise RuntimeError(f"{count} masks of {len(jobs)} lesions")


def generated(slices: int, side: int = SIDE) -> Volume:
    """Soft tissue in a round body, with noise. Filled slice by slice: nothing but the volume is ever held."""
    rng = np.random.default_rng(SEED)
    rows, columns = np.ogrid[:side, :side]
    body = np.where(np.hypot(rows - side / 2, columns - side / 2) < 0.45 * side, 40, -1000).astype(np.int16)
    voxels = np.empty((slices, side, side), dtype=np.int16)
    for section in voxels:
        section[:] = body + rng.integers(-60, 60, (side, side), dtype=np.int16)
    dz, dy, dx = SPACING_MM
    affine = np.array([[0, 0, dx, 0], [0, dy, 0, 0], [dz, 0, 0, 0], [0, 0, 0, 1.0]])
    return Volume(voxels, affine, "1.2.3", "1.2.3.4", tuple(f"1.2.3.4.{i}" for i in range(slices)))


def slices_of(volume: Volume, part: slice) -> Volume:
    """Volume of some slices, sharing their memory. Where it lies in the patient does not matter here."""
    return Volume(volume.voxels[part], volume.affine, "1.2.3", "1.2.3.4", volume.sop_instance_uids[part])


def jobs_of(volume: Volume, lesions: int) -> list[SegmentationJob]:
    """Lesions prompted evenly over the slices, anywhere in the body, by boxes of 40 of 512 pixels."""
    rng = np.random.default_rng(SEED)
    slices, side, _ = volume.voxels.shape
    ends = (EXTENT[0], slices - 1 - EXTENT[1])
    heights = np.linspace(*ends, lesions) if lesions > 1 else np.array([sum(ends) / 2])
    width = BOX * side / SIDE
    corners = rng.uniform(0.25 * side, 0.75 * side - width, (lesions, 2)).tolist()
    return [
        SegmentationJob(str(i), volume, (Box(int(height), (x, y), (x + width, y + width)),))
        for i, (height, (x, y)) in enumerate(zip(heights, corners, strict=True))
    ]


def around(volume: Volume, reach: int) -> tuple[Volume, int, tuple[float, float, float, float]]:
    """The only lesion of `jobs_of`: the slices in reach of its prompt, the prompt's among them, its box."""
    (job,) = jobs_of(volume, 1)
    box: Any = job.prompts[0]
    low = max(box.slice_index - reach, 0)
    near = slices_of(volume, slice(low, box.slice_index + reach + 1))
    return near, box.slice_index - low, (*box.lower, *box.upper)
