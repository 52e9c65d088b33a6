"""What the published inference scripts of MedSAM2 and SAM2CT do for one lesion, rebuilt on stock `sam2` models.

For speed comparisons: the order and the amount of work are the scripts', the code is ours. Both handle one lesion at a
time and share nothing between two lesions of one volume. To be scaled up, both can be run on the part of the volume
around the prompt; see `Pass` and `LesionCost`.
"""

from __future__ import annotations

import contextlib
from collections.abc import Iterable, Iterator
from dataclasses import dataclass, field
from functools import reduce
from statistics import median
from typing import TYPE_CHECKING, Any
from unittest import mock

import numpy as np
import torch
from PIL import Image
from sam2_stock import VIDEO_PREDICTOR, stock_sam2
from sam2_timing import NOTHING, Cost, Watch
from scipy import ndimage
from torch.nn.functional import interpolate

if TYPE_CHECKING:
    from numpy.typing import NDArray
    from sam2.modeling.sam2_base import SAM2Base

MEAN, DEVIATION = (0.485, 0.456, 0.406), (0.229, 0.224, 0.225)
CHUNK = 8
"""Slices that SAM2CT's script encodes at once."""
RAMP = 8
"""Steps from the prompt after which a step costs the same for good: seven memories are full."""


@dataclass
class Pass:
    """Costs of the slices of one direction, nearest to the prompt first."""

    slices: list[Cost] = field(default_factory=list)

    def scaled(self, count: int) -> Cost:
        """What ``count`` slices cost: the measured ones, and for each missing one the median beyond the ramp."""
        total = reduce(Cost.plus, self.slices[:count], NOTHING)
        missing = count - len(self.slices)
        if missing <= 0:
            return total
        steady = self.slices[RAMP:] or self.slices[-1:]
        return total.plus(Cost(median(c.wall for c in steady), median(c.cpu for c in steady)).times(missing))


@dataclass
class LesionCost:
    """One lesion by one of the scripts, on ``slices`` slices of a volume.

    Parameters
    ----------
    per_volume
        What grows with the slices of the volume: reading it into a tensor, components.
    once
        What does not: the state, the prompt.
    up, down
        Propagation away from the prompt; the prompt's slice counts in both where the script visits it twice.
    mask
        (slice, row, column) of the slices it ran on.

    """

    slices: int
    per_volume: Cost
    once: Cost
    up: Pass
    down: Pass
    mask: NDArray[np.bool_]

    def scaled(self, slices: int, above: int, below: int) -> Cost:
        """The same lesion in a volume of ``slices``, with ``above`` and ``below`` slices to visit, the prompt's too."""
        grown = self.per_volume.times(slices / self.slices)
        return reduce(Cost.plus, (self.once, self.up.scaled(above), self.down.scaled(below)), grown)


def autocast(device: str) -> contextlib.AbstractContextManager[Any]:
    """bf16 on CUDA, as both scripts; fp32 on a CPU."""
    return torch.autocast("cuda", dtype=torch.bfloat16) if device.startswith("cuda") else contextlib.nullcontext()


def medsam2_model(size: str, *, seed: int, device: str, image_size: int = 512) -> SAM2Base:
    """Stock video predictor. Holes are not filled: that needs the package's CUDA extension, and it saves time."""
    return stock_sam2(size, image_size, seed=seed, target=VIDEO_PREDICTOR).to(device)


@torch.inference_mode()
def medsam2_script(
    predictor: Any,
    voxels: NDArray[np.int16],
    prompt_slice: int,
    box: tuple[float, float, float, float],
    *,
    window: tuple[float, float] = (-160.0, 240.0),
    device: str = "cpu",
) -> LesionCost:
    """One lesion as MedSAM2's script for CT lesions does it (Ma et al. 2025, arXiv:2504.03600).

    The whole volume is windowed and brought to the network's size slice by slice into a float64 tensor; the box is
    given, and propagated from its slice to the end of the volume; the state is emptied, the box given again, and
    propagated to the start. Nothing stops early. Of the result the largest component stays.
    """
    watch = Watch(device)
    with autocast(device):
        images = _medsam2_tensor(voxels, predictor.image_size, window, device)
        per_volume = watch.lap()
        state = _video_state(predictor, images, voxels.shape[1:])
        once, passes = watch.lap(), []
        found = np.zeros(voxels.shape, dtype=bool)
        for reverse in (False, True):
            predictor.add_new_points_or_box(state, frame_idx=prompt_slice, obj_id=1, box=np.array(box, np.float32))
            once = once.plus(watch.lap())
            passes.append(Pass())
            # Its progress bar is silenced: it would fill the benchmark's output.
            with mock.patch("sam2.sam2_video_predictor.tqdm", _without_bar):
                for index, _, logits in predictor.propagate_in_video(state, reverse=reverse):
                    found[index] |= (logits[0, 0] > 0).cpu().numpy()
                    passes[-1].slices.append(watch.lap())
            predictor.reset_state(state)
    mask = _largest_component(found)
    return LesionCost(len(voxels), per_volume.plus(watch.lap()), once, *passes, mask)


def _medsam2_tensor(voxels: NDArray[np.int16], side: int, window: tuple[float, float], device: str) -> torch.Tensor:
    clipped = np.clip(voxels, *window)
    grey = np.uint8((clipped - clipped.min()) / (clipped.max() - clipped.min()) * 255.0)
    images = np.zeros((len(grey), 3, side, side))
    for index, section in enumerate(grey):
        images[index] = np.asarray(Image.fromarray(section).convert("RGB").resize((side, side))).transpose(2, 0, 1)
    tensor = torch.from_numpy(images / 255.0).to(device)
    tensor -= torch.tensor(MEAN, device=device)[:, None, None]
    tensor /= torch.tensor(DEVIATION, device=device)[:, None, None]
    return tensor


def _video_state(predictor: Any, images: torch.Tensor, shape: tuple[int, ...]) -> dict[str, Any]:
    """The predictor's own `init_state`, given a tensor where it would read a folder of JPEG files."""
    with mock.patch("sam2.sam2_video_predictor.load_video_frames", return_value=(images, *shape)):
        return predictor.init_state(video_path="")


def _without_bar(frames: Iterable[int], **_: object) -> Iterator[int]:
    return iter(frames)


def _largest_component(found: NDArray[np.bool_]) -> NDArray[np.bool_]:
    labels, count = ndimage.label(found, structure=np.ones((3, 3, 3)))
    return labels == 1 + np.argmax(np.bincount(labels.ravel())[1:]) if count else found


def sam2ct_model(size: str, *, seed: int, device: str, image_size: int = 1024) -> SAM2Base:
    """Stock model with the two settings of SAM2CT's script: one mask per prompt, pointers of eight slices."""
    return stock_sam2(
        size, image_size, seed=seed, multimask_output_in_sam=False, max_obj_ptrs_in_encoder=8
    ).to(device)  # fmt: skip


@torch.inference_mode()
def sam2ct_script(
    model: Any,
    voxels: NDArray[np.int16],
    prompt_slice: int,
    box: tuple[float, float, float, float],
    *,
    extent: tuple[int, int],
    clip: tuple[float, float] = (-500.0, 500.0),
    device: str = "cpu",
) -> LesionCost:
    """One lesion as SAM2CT's script does it (sam2ct.txt 2.3), the lesion taken to end ``extent`` slices below and above.

    The whole volume is brought to the network's size in fp32, three channels. From the prompt upwards, then from the
    slice before it downwards, eight slices are encoded at once and segmented one after another until one is empty; the
    rest of the eight was encoded for nothing. Memories are made of memory-conditioned embeddings (MCM).

    The box stands for the line: two points as well, and known to stock weights.
    """
    watch = Watch(device)
    with autocast(device):
        images = _sam2ct_tensor(voxels, model.image_size, clip, device)
        per_volume, passes = watch.lap(), []
        scale = model.image_size / np.array(voxels.shape[:0:-1], np.float32)
        corners = torch.tensor(np.array(box, np.float32).reshape(2, 2) * scale, device=device)
        prompt = {"point_coords": corners[None], "point_labels": torch.tensor([[2, 3]], device=device)}
        found = torch.zeros(len(images), *images.shape[2:], device=device)
        kept: dict[int, Any] = {}
        upwards = range(prompt_slice, min(prompt_slice + extent[1] + 1, len(images)))
        downwards = range(prompt_slice - 1, max(prompt_slice - extent[0] - 1, -1), -1)
        for order in (upwards, downwards):
            passes.append(Pass())
            memory = {"cond_frame_outputs": kept, "non_cond_frame_outputs": {}}
            for index, features in _in_chunks(model, images, order):
                first = index == prompt_slice
                given = prompt if first else None
                out = _conditioned_step(
                    model, features, index, count=len(images), prompt=given, memory=memory, order=order
                )
                (kept if first else memory["non_cond_frame_outputs"])[index] = out
                found[index] = out["pred_masks_high_res"][0, 0] > 0
                passes[-1].slices.append(watch.lap())
    # The script ends here; the mask on the volume's own grid is for tests.
    mask = interpolate(found[:, None], voxels.shape[1:], mode="nearest")[:, 0].bool().cpu().numpy()
    return LesionCost(len(voxels), per_volume, NOTHING, *passes, mask)


def _sam2ct_tensor(voxels: NDArray[np.int16], side: int, clip: tuple[float, float], device: str) -> torch.Tensor:
    images = torch.from_numpy(voxels).float().clamp_(*clip)[:, None]
    images = (images - images.min()) / (images.max() - images.min())
    images = interpolate(images, size=(side, side), mode="bilinear", align_corners=False).repeat(1, 3, 1, 1)
    images = (images - torch.tensor(MEAN)[:, None, None]) / torch.tensor(DEVIATION)[:, None, None]
    return images.to(device)


def _in_chunks(model: Any, images: torch.Tensor, order: range) -> Iterator[tuple[int, tuple[Any, ...]]]:
    """Indices of ``order`` with their features; always whole chunks are encoded, as far as the volume goes."""
    end = len(images) if order.step > 0 else -1
    for start in order[::CHUNK]:
        chunk = range(start, end, order.step)[:CHUNK]
        _, features, positions, sizes = model._prepare_backbone_features(model.forward_image(images[list(chunk)]))
        for row, index in enumerate(chunk):
            if index in order:
                yield index, ([f[:, [row]] for f in features], [p[:, [row]] for p in positions], sizes)


def _conditioned_step(
    model: Any, features: tuple[Any, ...], index: int, *, count: int, prompt: Any, memory: dict[str, Any], order: range
) -> dict[str, Any]:
    """One slice, its memory encoded from the embedding after memory attention."""
    feats, positions, sizes = features
    out, sam, _, conditioned = model._track_step(
        index, prompt is not None, feats, positions, sizes, prompt, None, memory, count, order.step < 0, None
    )
    out["pred_masks_high_res"], out["obj_ptr"], score = sam[4:]
    out["maskmem_features"], out["maskmem_pos_enc"] = model._encode_new_memory(
        [conditioned.flatten(2).permute(2, 0, 1)], sizes, out["pred_masks_high_res"], score, prompt is not None
    )
    return out
