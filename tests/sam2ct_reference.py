"""SAM2CT told as plainly as it can be: one lesion, one slice at a time, written from sam2ct.txt 2.3.

What the library is compared with. The five learned modules are those of a stock `sam2` model (image encoder, memory
attention, memory encoder, prompt encoder's tables, mask decoder); everything between them is written here from the
paper's equations, with lists and loops, and nothing of `segmentation.sam2ct` is used.

Shapes: S is the side of the network input in pixels, C the channels of an image embedding, M those of a memory.
"""

from __future__ import annotations

import math
import re
from collections.abc import Sequence
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING, NamedTuple

import numpy as np
import torch
from torch import Tensor
from torch.nn.functional import interpolate

if TYPE_CHECKING:
    from numpy.typing import NDArray
    from sam2.modeling.sam2_base import SAM2Base

NEGATIVE, POSITIVE, CORNER_1, CORNER_2, LINE_END, ARROW_TAIL, ARROW_HEAD = range(7)
EMPTY = -1024.0
"""Logit of every pixel of a slice on which the model sees no object."""

MEAN, DEVIATION = (0.485, 0.456, 0.406), (0.229, 0.224, 0.225)


@dataclass(frozen=True)
class Rules:
    """What members of the family do differently. The defaults are SAM 2.1's, ``RELEASED`` is SAM2CT's inference code."""

    memory_conditioned: bool = False
    multimask: bool = True
    newest_memory_last: bool = (
        False  # temporal rows of the memories 1, 2, ... slices back: 5, 4, ... instead of 0, 1, ...
    )
    memories: int = 7
    pointer_reach: int = 15
    pointer_scale: int = 15
    pointer_scale_fixed: bool = False
    prompt_pointer_at_zero: bool = False
    mask_as_logits: bool = False  # a mask prompt's 0 and 1 stand where logits are meant


RELEASED = Rules(
    memory_conditioned=True,
    multimask=False,
    newest_memory_last=True,
    pointer_reach=8,
    pointer_scale=7,
    pointer_scale_fixed=True,
    prompt_pointer_at_zero=True,
)


class Click(NamedTuple):
    """A prompt point: network pixel-centre (x, y) and its label."""

    x: float
    y: float
    label: int


Prompt = Sequence[Click] | Tensor
"""Points, or a binary mask (S, S)."""


class Levels(NamedTuple):
    """Embeddings of one slice as the decoder wants them."""

    high: Tensor  # (1, C/8, S/4, S/4)
    mid: Tensor  # (1, C/4, S/8, S/8)
    low: Tensor  # (1, C, S/16, S/16): E_unc
    position: Tensor  # (1, C, S/16, S/16)


class Seen(NamedTuple):
    """What one segmented slice leaves behind."""

    logits: Tensor  # (S/4, S/4)
    iou: float
    object_score: float
    pointer: Tensor  # (C,)
    memory: Tensor  # (1, M, S/16, S/16)


class Decoded(NamedTuple):
    logits: Tensor
    iou: float
    object_score: float
    pointer: Tensor


def with_ct_prompts(net: SAM2Base, seed: int = 0) -> SAM2Base:
    """Add the three embeddings of 2.3.3 (line end, arrow start, arrow end), drawn from ``seed``."""
    draw = torch.Generator().manual_seed(seed)
    for _ in range(3):
        weight = torch.randn(1, net.hidden_dim, generator=draw)
        net.sam_prompt_encoder.point_embeddings.append(torch.nn.Embedding.from_pretrained(weight, freeze=False))
    return net


LIVELY = (
    (r"^memory_attention\..*\.self_attn\.[qk]_proj\.weight", 3.0),
    (r"^memory_attention\..*\.cross_attn_image\.[qk]_proj\.weight", 4.0),
    (r"^memory_attention\..*\.cross_attn_image\.v_proj\.weight", 2.0),
    (r"^memory_attention\..*\.cross_attn_image\.out_proj\.weight", 3.0),
    (r"^maskmem_tpos_enc|^no_mem_embed|^no_obj_ptr|^no_obj_embed_spatial", 30.0),
    (r"^obj_ptr_tpos_proj\.weight", 4.0),
    (r"^obj_ptr_proj\.layers\.2\.weight", 6.0),
    (r"^sam_mask_decoder\.output_hypernetworks_mlps\..*weight", 2.5),
    (r"^sam_mask_decoder\.iou_prediction_head\..*weight", 2.0),
)
"""Tensors by name, and how much larger than freshly drawn they have to be for a model to listen to its memories."""


@torch.no_grad()
def lively(net: SAM2Base) -> SAM2Base:
    """Make random weights listen: to which memory is which, to pointers, to how far back they are.

    In freshly drawn weights the attention is flat: a memory given the wrong temporal encoding moves no logit by more
    than 1e-5, and a comparison at that tolerance proves nothing.
    """
    for name, parameter in net.named_parameters():
        for pattern, gain in LIVELY:
            if re.search(pattern, name):
                parameter.mul_(gain)
    return net


def nano_decoder(net: SAM2Base, feed_forward: int, seed: int = 0) -> SAM2Base:
    """Give the decoder's transformer another feed-forward width: `sam2` builds it with 2048 whatever the size."""
    from sam2.modeling.sam.transformer import TwoWayTransformer

    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(seed)
        transformer = TwoWayTransformer(depth=2, embedding_dim=net.hidden_dim, num_heads=8, mlp_dim=feed_forward)
    net.sam_mask_decoder.transformer = transformer.eval()
    return net


def embed(net: SAM2Base, image: Tensor) -> Levels:
    """E_unc = image_encoder(X), and the two finer levels, of one (3, S, S) image."""
    out = net.image_encoder(image[None])
    stride_4, stride_8, stride_16 = out["backbone_fpn"]
    decoder = net.sam_mask_decoder
    return Levels(decoder.conv_s0(stride_4), decoder.conv_s1(stride_8), stride_16, out["vision_pos_enc"][-1])


def prompt_tokens(net: SAM2Base, clicks: Sequence[Click]) -> Tensor:
    """p = prompt_encoder(prompt): one token per point and one for "no more points"; two of those where there is none."""
    encoder = net.sam_prompt_encoder
    tokens = []
    for click in clicks:
        corner_origin = torch.tensor([[[click.x + 0.5, click.y + 0.5]]])
        place = encoder.pe_layer.forward_with_coords(corner_origin, (net.image_size, net.image_size))
        tokens.append(place[0, 0] + encoder.point_embeddings[click.label].weight[0])
    missing = encoder.not_a_point_embed.weight[0]
    tokens += [missing] if clicks else [missing, missing]
    return torch.stack(tokens)[None]


def decode(net: SAM2Base, levels: Levels, e_cond: Tensor, clicks: Sequence[Click], rules: Rules) -> Decoded:
    """M = mask_decoder(E_cond, p), and the object pointer made from the mask's own token."""
    no_mask = net.sam_prompt_encoder.no_mask_embed.weight.reshape(1, -1, 1, 1).expand_as(e_cond)
    return _decode(net, levels, e_cond, clicks, no_mask, choose=rules.multimask and len(clicks) <= 1)


def _decode(
    net: SAM2Base, levels: Levels, e_cond: Tensor, clicks: Sequence[Click], dense: Tensor, *, choose: bool
) -> Decoded:
    masks, ious, tokens, score = net.sam_mask_decoder(
        image_embeddings=e_cond,
        image_pe=net.sam_prompt_encoder.get_dense_pe(),
        sparse_prompt_embeddings=prompt_tokens(net, clicks),
        dense_prompt_embeddings=dense,
        multimask_output=choose,
        repeat_image=False,
        high_res_features=[levels.high, levels.mid],
    )
    best = int(ious[0].argmax())
    object_score = float(score[0, 0])
    logits, pointer = masks[0, best], net.obj_ptr_proj(tokens[0, best])
    if object_score <= 0:
        logits, pointer = torch.full_like(logits, EMPTY), net.no_obj_ptr[0]
    return Decoded(logits, float(ious[0, best]), object_score, pointer)


def take_mask(net: SAM2Base, levels: Levels, mask: Tensor) -> Decoded:
    """A mask prompt is its own answer; the decoder is asked for the pointer only, on E_unc."""
    mask = mask[None, None].float()
    dense = net.sam_prompt_encoder.mask_downscaling(net.mask_downsample(mask))
    pointer = _decode(net, levels, levels.low, (), dense, choose=False).pointer
    quarter = (net.image_size // 4, net.image_size // 4)
    logits = interpolate(20.0 * mask - 10.0, quarter, mode="bilinear", align_corners=False, antialias=True)
    return Decoded(logits[0, 0], 1.0, 10.0, pointer)


def remember(net: SAM2Base, embedding: Tensor, full_mask: Tensor, object_score: float) -> Tensor:
    """mem = memory_encoder(embedding, M); ``full_mask`` (S, S) in [0, 1], which the encoder is given as [-10, 10]."""
    scaled = 20.0 * full_mask[None, None] - 10.0
    memory = net.memory_encoder(embedding, scaled, skip_mask_sigmoid=True)["vision_features"]
    if object_score <= 0:
        memory = memory + net.no_obj_embed_spatial[0][None, :, None, None]
    return memory


def full_size(net: SAM2Base, logits: Tensor) -> Tensor:
    side = net.image_size
    return interpolate(logits[None, None], (side, side), mode="bilinear", align_corners=False)[0, 0]


def first_slice(net: SAM2Base, levels: Levels, prompt: Prompt, rules: Rules) -> Seen:
    """The slice that was annotated: there is no memory, E_cond = E_unc + the embedding that says so."""
    e_cond = levels.low + net.no_mem_embed.reshape(1, -1, 1, 1)
    if isinstance(prompt, Tensor):
        decoded = take_mask(net, levels, prompt)
        full_mask = torch.sigmoid(prompt.float() if rules.mask_as_logits else 20.0 * prompt.float() - 10.0)
    else:
        decoded = decode(net, levels, e_cond, prompt, rules)
        full_mask = (full_size(net, decoded.logits) > 0).float()
    embedding = e_cond if rules.memory_conditioned else levels.low
    return Seen(*decoded, remember(net, embedding, full_mask, decoded.object_score))


def next_slice(net: SAM2Base, levels: Levels, seen: Sequence[Seen], rules: Rules, slices_in_volume: int) -> Seen:
    """A slice on the way: E_cond = memory_attention(E_unc, mem), M = mask_decoder(E_cond), mem = encoder(E_cond, M).

    ``seen[0]`` is the annotated slice, ``seen[-1]`` the neighbour that was segmented last.
    """
    e_cond = attend(net, levels, seen, rules, slices_in_volume)
    decoded = decode(net, levels, e_cond, (), rules)
    full_mask = torch.sigmoid(full_size(net, decoded.logits))
    embedding = e_cond if rules.memory_conditioned else levels.low
    return Seen(*decoded, remember(net, embedding, full_mask, decoded.object_score))


def attend(net: SAM2Base, levels: Levels, seen: Sequence[Seen], rules: Rules, slices_in_volume: int) -> Tensor:
    """E_cond = memory_attention(E_unc, memories and pointers of the slices behind)."""
    values, keys = [], []
    for memory, row in memories_behind(seen, rules):
        values.append(as_tokens(memory))
        keys.append(
            as_tokens(net.memory_encoder.position_encoding(memory)) + net.maskmem_tpos_enc[row].reshape(1, 1, -1)
        )
    pointer_tokens = 0
    for pointer, distance in pointers_behind(seen, rules, slices_in_volume):
        when = net.obj_ptr_tpos_proj(sine_encoding(distance, net.hidden_dim))
        for part in pointer.split(net.mem_dim):
            values.append(part.reshape(1, 1, -1))
            keys.append(when.reshape(1, 1, -1))
            pointer_tokens += 1
    attended = net.memory_attention(
        curr=as_tokens(levels.low),
        curr_pos=as_tokens(levels.position),
        memory=torch.cat(values),
        memory_pos=torch.cat(keys),
        num_obj_ptr_tokens=pointer_tokens,
    )
    return attended.permute(1, 2, 0).reshape(levels.low.shape)


def memories_behind(seen: Sequence[Seen], rules: Rules) -> list[tuple[Tensor, int]]:
    """Each memory to attend to and its temporal row: the annotated slice's, then those of the slices just behind."""
    found = [(seen[0].memory, rules.memories - 1)]
    for distance in range(1, rules.memories):
        index = len(seen) - distance
        if index >= 1:
            row = rules.memories - 1 - distance if rules.newest_memory_last else distance - 1
            found.append((seen[index].memory, row))
    return found


def pointers_behind(seen: Sequence[Seen], rules: Rules, slices_in_volume: int) -> list[tuple[Tensor, float]]:
    """Each pointer to attend to and how far behind it is, as a share of the longest distance.

    No distance is longer than the volume (SAM 2); the released code counts on eight slices, also where there are fewer.
    """
    longest = rules.pointer_scale if rules.pointer_scale_fixed else min(rules.pointer_scale, slices_in_volume - 1)
    found = [(seen[0].pointer, 0.0 if rules.prompt_pointer_at_zero else len(seen) / longest)]
    for distance in range(1, rules.pointer_reach + 1):
        index = len(seen) - distance
        if index >= 1:
            found.append((seen[index].pointer, distance / longest))
    return found


def sine_encoding(position: float, channels: int) -> Tensor:
    """(channels,) sines, then cosines; neighbouring pairs share a frequency."""
    half = channels // 2
    angles = [position / 10000 ** (2 * (channel // 2) / half) for channel in range(half)]
    return torch.tensor([math.sin(angle) for angle in angles] + [math.cos(angle) for angle in angles])


def as_tokens(feature_map: Tensor) -> Tensor:
    """(1, channels, height, width) to (height x width, 1, channels)."""
    return feature_map.flatten(2).permute(2, 0, 1)


@torch.no_grad()
def one_pass(
    net: SAM2Base,
    images: Sequence[Tensor],
    prompt: Prompt,
    rules: Rules,
    slices_in_volume: int,
    *,
    stop_when_empty: bool = False,
) -> list[Seen]:
    """Segment ``images``, (3, S, S) each, the annotated one first and the others in the order of travel."""
    seen = [first_slice(net, embed(net, images[0]), prompt, rules)]
    for image in images[1:]:
        if stop_when_empty and not bool((seen[-1].logits > 0).any()):
            break
        seen.append(next_slice(net, embed(net, image), seen, rules, slices_in_volume))
    return seen


def both_ways(
    net: SAM2Base, images: Sequence[Tensor], index: int, prompt: Prompt, rules: Rules, **options: bool
) -> dict[int, Seen]:
    """Slice index to result: up from the annotated slice ``index`` to the last one, and down to slice 0 (2.3.2)."""
    up = one_pass(net, images[index:], prompt, rules, len(images), **options)
    down = one_pass(net, images[index::-1], prompt, rules, len(images), **options)
    return {index - k: seen for k, seen in enumerate(down)} | {index + k: seen for k, seen in enumerate(up)}


def released_image(hu: NDArray[np.int16], side: int) -> Tensor:
    """One slice (row, column) in HU as SAM2CT's inference code shows it to the network, (3, side, side).

    Clipped at -500 and 500 HU, scaled to [0, 1] (by fixed numbers: the minimum and maximum of the volume, which the code
    takes, are the same two numbers wherever a scan holds air and bone), rows and columns exchanged, resized bilinearly,
    three equal channels, the mean and deviation of photographs.
    """
    grey = (torch.from_numpy(hu.astype(np.float32)).clamp(-500.0, 500.0) + 500.0) / 1000.0
    grey = interpolate(grey.T[None, None], (side, side), mode="bilinear", align_corners=False)[0]
    return torch.cat([(grey - mean) / deviation for mean, deviation in zip(MEAN, DEVIATION, strict=True)])


def released_clicks(
    points: Sequence[tuple[float, float]], labels: Sequence[int], native: int, side: int
) -> list[Click]:
    """Native pixel-centre (column, row) points in the network's frame: exchanged as the slices are, pixel on pixel."""
    scale = side / native
    return [
        Click((row + 0.5) * scale - 0.5, (column + 0.5) * scale - 0.5, label)
        for (column, row), label in zip(points, labels, strict=True)
    ]


def released_procedure(
    net: SAM2Base, hu: NDArray[np.int16], index: int, prompt: Prompt, *, as_released: bool = False
) -> dict[int, Seen]:
    """SAM2CT's inference, volume (slice, row, column) in HU to logits per slice in the network's own frame.

    ``as_released`` keeps two faults of the published code that can be told apart by their results: the way down ends
    before slice 0, and a mask prompt's 0 and 1 are taken for logits.
    """
    rules = replace(RELEASED, mask_as_logits=as_released)
    images = [released_image(plane, net.image_size) for plane in hu]
    seen = both_ways(net, images, index, prompt, rules, stop_when_empty=True)
    if as_released and index > 0:
        seen.pop(0, None)
    return seen
