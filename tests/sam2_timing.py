"""Stop watches for SAM2-family networks: wall and CPU time, time by part of the network, memory, FLOPs."""

from __future__ import annotations

import contextlib
import os
import time
from collections.abc import Callable, Iterator
from functools import cache
from pathlib import Path
from typing import Any, NamedTuple, Self

import psutil
import torch
from sam2_stock import stock_sam2
from torch.utils.flop_counter import FlopCounterMode

BF16_PEAK_TFLOPS = {"B200": 2250.0, "GH200": 989.0, "H200": 989.0, "H100": 989.0, "A100": 312.0, "L40S": 362.0}
"""Dense bf16 peak by a part of the card's name (the maker's data sheets, without sparsity)."""


class Cost(NamedTuple):
    """Wall-clock and process CPU seconds."""

    wall: float
    cpu: float

    def plus(self, other: Cost) -> Cost:
        return Cost(self.wall + other.wall, self.cpu + other.cpu)

    def times(self, factor: float) -> Cost:
        return Cost(self.wall * factor, self.cpu * factor)


NOTHING = Cost(0.0, 0.0)


class Watch:
    """Stop watch that waits for the device: `lap` gives the cost since the last one."""

    def __init__(self, device: str = "cpu"):
        self.cuda = device.startswith("cuda")
        self.last = self._now()

    def lap(self) -> Cost:
        before, self.last = self.last, self._now()
        return self.last.plus(before.times(-1))

    def _now(self) -> Cost:
        if self.cuda:
            torch.cuda.synchronize()
        used = os.times()
        return Cost(time.perf_counter(), used.user + used.system)


class Parts:
    """Seconds spent in the parts of the network while it is entered, whoever runs it, and images encoded.

    It waits for the device before and after each part: on CUDA that costs time, so keep it out of timed runs there.
    """

    def __init__(self, device: str):
        from sam2.modeling.backbones.image_encoder import ImageEncoder
        from sam2.modeling.memory_attention import MemoryAttention
        from sam2.modeling.memory_encoder import MemoryEncoder
        from sam2.modeling.sam.mask_decoder import MaskDecoder

        kinds = (ImageEncoder, MemoryAttention, MaskDecoder, MemoryEncoder)
        names = ("image encoder", "memory attention", "mask decoder", "memory encoder")
        self.device, self.kinds = device, dict(zip(names, kinds, strict=True))
        self.spent = dict.fromkeys(self.kinds, NOTHING)
        self.images = 0

    def __enter__(self) -> Self:
        self.originals = {name: kind.forward for name, kind in self.kinds.items()}
        for name, kind in self.kinds.items():
            kind.forward = self._timed(name, kind.forward)
        return self

    def __exit__(self, *_: object) -> None:
        for name, kind in self.kinds.items():
            kind.forward = self.originals[name]

    def _timed(self, name: str, forward: Callable[..., Any]) -> Callable[..., Any]:
        def timed(module: Any, *args: Any, **kwargs: Any) -> Any:
            watch = Watch(self.device)
            out = forward(module, *args, **kwargs)
            self.spent[name] = self.spent[name].plus(watch.lap())
            if name == "image encoder":
                self.images += len(args[0])
            return out

        return timed

    def shares(self, total: Cost) -> dict[str, float]:
        """Share of ``total`` CPU time (of wall time on CUDA) in each part; ``rest`` is everything else."""
        index = 0 if self.device.startswith("cuda") else 1
        shares = {name: cost[index] / total[index] for name, cost in self.spent.items()}
        return {name: round(share, 3) for name, share in {**shares, "rest": 1 - sum(shares.values())}.items()}


@contextlib.contextmanager
def peak_memory(device: str) -> Iterator[Callable[[], float]]:
    """Give a function that tells by how many MB memory rose since, at most: the device's, or this process's on Linux."""
    if device.startswith("cuda"):
        torch.cuda.reset_peak_memory_stats()
        allocated = torch.cuda.memory_allocated()
        yield lambda: (torch.cuda.max_memory_allocated() - allocated) / 2**20
        return
    resident = psutil.Process().memory_info().rss
    Path("/proc/self/clear_refs").write_text("5")  # the kernel forgets the highest peak so far
    yield lambda: int(Path("/proc/self/status").read_text().split("VmHWM:")[1].split()[0]) / 2**10 - resident / 2**20


def peak_tflops(device: str) -> float | None:
    """Dense bf16 peak of the card, where it is known."""
    name = torch.cuda.get_device_name() if device.startswith("cuda") else ""
    return next((peak for part, peak in BF16_PEAK_TFLOPS.items() if part in name), None)


@cache
@torch.inference_mode()
def flops(size: str, image_size: int, steps: tuple[int, int]) -> tuple[float, float]:
    """FLOPs of encoding one slice, and of tracking one lesion over ``steps`` slices down and up, without encoding.

    Counted on tensors without content, so that attention is counted in full whatever kernel a device would take.
    """
    model: Any = stock_sam2(size, image_size).to("meta")
    with FlopCounterMode(display=False) as encoding:
        encoded = model.forward_image(torch.zeros(1, 3, image_size, image_size, device="meta"))
    _, feats, positions, sizes = model._prepare_backbone_features(encoded)
    points = {"point_coords": torch.zeros(1, 2, 2, device="meta"), "point_labels": torch.ones(1, 2, device="meta")}
    prompted: dict[int, Any] = {}
    per_step = []
    memory = {"cond_frame_outputs": prompted, "non_cond_frame_outputs": {}}
    for step in range(max(steps) + 1):
        with FlopCounterMode(display=False) as tracking:
            out = model.track_step(
                step, step == 0, feats, positions, sizes, None if step else points, None, memory, max(steps) + 1
            )
        (memory["non_cond_frame_outputs"] if step else prompted)[step] = out
        per_step.append(tracking.get_total_flops())
    return float(encoding.get_total_flops()), float(sum(per_step[: steps[0] + 1]) + sum(per_step[1 : steps[1] + 1]))
