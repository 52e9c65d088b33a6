"""The network: image encoder, memory attention, mask decoder and memory encoder of ``sam2.modeling``, reassembled.

The only file that imports ``sam2``; itself imported at first use. What is ours: one step for many lesions at once (the
"time" of a slice is its distance from the prompted one, so that passes up and down from prompts on different slices are
rows of one batch), line and arrow prompts, and memory-conditioned memories (sam2ct.txt 2.3.3). Names and shapes of all
tensors are those of SAM 2.1, so its weights load as they are.
"""

from __future__ import annotations

import math
from typing import Any

import torch
import torch.nn.functional as F  # noqa: N812 - as everybody writes it
from hydra.core.global_hydra import GlobalHydra
from torch import Tensor, nn

from segmentation.geometry import HALF_PIXEL
from segmentation.sam2ct.config import STRIDE, SAM2CTConfig
from segmentation.sam2ct.steps import Features, PointPrompt, Recall, Step

_HYDRA_WAS_SET = GlobalHydra.instance().is_initialized()

from sam2.modeling.backbones.hieradet import Hiera  # noqa: E402 - importing sam2 sets Hydra's global state: see below
from sam2.modeling.backbones.image_encoder import FpnNeck, ImageEncoder  # noqa: E402
from sam2.modeling.memory_attention import MemoryAttention, MemoryAttentionLayer  # noqa: E402
from sam2.modeling.memory_encoder import CXBlock, Fuser, MaskDownSampler, MemoryEncoder  # noqa: E402
from sam2.modeling.position_encoding import PositionEmbeddingSine, compute_axial_cis  # noqa: E402
from sam2.modeling.sam.mask_decoder import MaskDecoder  # noqa: E402
from sam2.modeling.sam.prompt_encoder import PromptEncoder  # noqa: E402
from sam2.modeling.sam.transformer import RoPEAttention, TwoWayTransformer  # noqa: E402
from sam2.modeling.sam2_utils import MLP, get_1d_sine_pe  # noqa: E402

if not _HYDRA_WAS_SET:  # leave a host program that uses Hydra as we found it
    GlobalHydra.instance().clear()

NO_OBJECT_LOGIT = -1024.0
"""What SAM 2 writes everywhere in the logits of a slice on which it sees no object."""
MASK_LOGIT = 10.0
"""A mask prompt is taken as logits of -10 outside and +10 inside (SAM 2)."""
MEMORY_SCALE, MEMORY_BIAS = 20.0, -10.0
"""Probabilities p enter the memory encoder as 20 p - 10 (SAM 2.1)."""
NOT_A_POINT = -1
"""Label of a point that is not there (SAM)."""
_THETA = 10000.0


class RotaryAttention(RoPEAttention):  # type: ignore[misc] # sam2 is untyped
    """Rotary attention in real numbers (compilers give up on complex ones), for any image size, with absent keys."""

    def __init__(self, *args: object, **kwargs: object) -> None:
        super().__init__(*args, **kwargs)
        self.present: Tensor | None = None
        self._waves: dict[tuple[int, torch.device], tuple[Tensor, Tensor]] = {}

    def forward(self, q: Tensor, k: Tensor, v: Tensor, num_k_exclude_rope: int = 0) -> Tensor:
        """Attend from (B, N, C) to (B, L, .): N a square number, the first L - ``num_k_exclude_rope`` keys rotated.

        ``present``, (B, L) or None, says which keys are there.
        """
        q, k, v = (
            self._separate_heads(projected, self.num_heads)
            for projected in (self.q_proj(q), self.k_proj(k), self.v_proj(v))
        )
        cos, sin = self._wave(q.shape[-2], q.device)
        rotated = k.shape[-2] - num_k_exclude_rope
        keys = torch.cat([_rotate(k[:, :, :rotated], cos, sin), k[:, :, rotated:]], dim=2)
        mask = None if self.present is None else self.present[:, None, None, :]
        out = F.scaled_dot_product_attention(_rotate(q, cos, sin), keys, v, attn_mask=mask)
        result: Tensor = self.out_proj(self._recombine_heads(out))
        return result

    def _wave(self, n: int, device: torch.device) -> tuple[Tensor, Tensor]:
        if (n, device) not in self._waves:
            side = math.isqrt(n)
            angles = compute_axial_cis(self.internal_dim // self.num_heads, side, side, _THETA).to(device)
            self._waves[n, device] = angles.real.contiguous(), angles.imag.contiguous()
        return self._waves[n, device]


def _rotate(x: Tensor, cos: Tensor, sin: Tensor) -> Tensor:
    """Turn each pair of channels of (B, heads, r N, D) by the angles (N, D/2) of its place, r times over."""
    b, heads, n, d = x.shape
    pairs = x.float().reshape(b, heads, n // len(cos), len(cos), d // 2, 2)
    even, odd = pairs.unbind(-1)
    turned = torch.stack([even * cos - odd * sin, even * sin + odd * cos], dim=-1)
    return turned.reshape(b, heads, n, d).type_as(x)


class CTPromptEncoder(PromptEncoder):  # type: ignore[misc] # sam2 is untyped
    """SAM's prompt encoder with line ends, arrow tails and heads (sam2ct.txt 2.3.3), for any image size."""

    def __init__(self, hidden_dim: int, image_size: int, point_types: int) -> None:
        features = image_size // STRIDE
        super().__init__(hidden_dim, (features, features), (image_size, image_size), mask_in_chans=16)
        self.num_point_embeddings = point_types
        for _ in range(point_types - len(self.point_embeddings)):
            self.point_embeddings.append(nn.Embedding(1, hidden_dim))
        self._grids: dict[tuple[int, torch.device], Tensor] = {}

    def sparse(self, prompt: PointPrompt | None, rows: int, side: int) -> Tensor:
        """(B, P + 1, C) tokens of points on images of ``side`` pixels; one more says "no further point" (SAM 2)."""
        device = self.not_a_point_embed.weight.device
        points = torch.zeros(rows, 1, 2, device=device)
        labels = torch.full((rows, 1), NOT_A_POINT, device=device)
        if prompt is None:
            points, labels = points.expand(rows, 2, 2), labels.expand(rows, 2)
        else:
            points = torch.cat([prompt.points.to(device), points], dim=1)
            labels = torch.cat([prompt.labels.to(device), labels], dim=1)
        table = torch.cat([self.not_a_point_embed.weight, *(e.weight for e in self.point_embeddings)])
        places: Tensor = self.pe_layer.forward_with_coords(points + HALF_PIXEL, (side, side))
        return places * (labels != NOT_A_POINT)[..., None] + table[labels + 1]

    def dense(self, masks: Tensor | None, rows: int, side: int) -> Tensor:
        """(B, C, S/16, S/16) of (B, 1, S/4, S/4) mask prompts, or of their absence."""
        if masks is not None:
            embedded: Tensor = self._embed_masks(masks)
            return embedded
        features = side // STRIDE
        absent: Tensor = self.no_mask_embed.weight.reshape(1, -1, 1, 1).expand(rows, -1, features, features)
        return absent

    def grid(self, side: int) -> Tensor:
        """(1, C, S/16, S/16) positions of the features of an image of ``side`` pixels."""
        matrix = self.pe_layer.positional_encoding_gaussian_matrix
        key = (side, matrix.device)
        if key not in self._grids:
            grid: Tensor = self.pe_layer((side // STRIDE, side // STRIDE))[None].detach()
            self._grids[key] = grid
        return self._grids[key]


class SAM2CTModel(nn.Module):
    """A SAM2-family network that steps many passes at once. Made by `build_model`."""

    mask_stride = STRIDE
    """Pixels of the mask that enters the memory encoder, per feature."""
    scores_objects = True
    """Whether a slice can be found empty, and an unstable mask give way to the best of three."""

    def __init__(self, config: SAM2CTConfig) -> None:
        super().__init__()
        self.config = config
        size = config.backbone
        hidden, memory = size.hidden_dim, size.memory_dim
        self.image_encoder: Any = self._image_encoder()
        self.position_encoding = PositionEmbeddingSine(num_pos_feats=hidden)
        self.memory_attention: Any = _memory_attention(config)
        self.memory_encoder: Any = MemoryEncoder(
            out_dim=memory,
            in_dim=hidden,
            mask_downsampler=MaskDownSampler(hidden, kernel_size=3, stride=2, padding=1, total_stride=self.mask_stride),
            fuser=Fuser(CXBlock(dim=hidden, kernel_size=7, padding=3), num_layers=2),
            position_encoding=PositionEmbeddingSine(num_pos_feats=memory),
        )
        self.mask_downsample = nn.Conv2d(1, 1, kernel_size=4, stride=4)
        self.maskmem_tpos_enc = nn.Parameter(torch.zeros(config.memory_slices, 1, 1, memory))
        self.no_mem_embed = nn.Parameter(torch.zeros(1, 1, hidden))
        self.no_mem_pos_enc = nn.Parameter(torch.zeros(1, 1, hidden))  # of SAM 2.1's weights; no step reads it
        self.no_obj_ptr = nn.Parameter(torch.zeros(1, hidden))
        self.no_obj_embed_spatial = nn.Parameter(torch.zeros(1, memory))
        for parameter in (
            self.maskmem_tpos_enc, self.no_mem_embed, self.no_mem_pos_enc, self.no_obj_ptr, self.no_obj_embed_spatial
        ):  # fmt: skip
            nn.init.trunc_normal_(parameter, std=0.02)
        self.sam_prompt_encoder = CTPromptEncoder(hidden, config.image_size, config.prompt_embeddings)
        self.sam_mask_decoder = MaskDecoder(
            num_multimask_outputs=3,
            transformer=TwoWayTransformer(depth=2, embedding_dim=hidden, mlp_dim=size.feed_forward, num_heads=8),
            transformer_dim=hidden,
            use_high_res_features=True,
            iou_prediction_use_sigmoid=True,
            pred_obj_scores=self.scores_objects,
            pred_obj_scores_mlp=self.scores_objects,
            use_multimask_token_for_obj_ptr=True,
            # As SAM 2's own predictors run it: an unstable single mask gives way to the best of three.
            dynamic_multimask_via_stability=self.scores_objects,
            dynamic_multimask_stability_delta=0.05,
            dynamic_multimask_stability_thresh=0.98,
        )
        self.obj_ptr_proj = MLP(hidden, hidden, hidden, 3)
        self.obj_ptr_tpos_proj = nn.Linear(hidden, memory)

    def encode(self, images: Tensor) -> Features:
        """Embed (N, 3, S, S) normalised images; S any of the four sizes, whatever the configuration's."""
        high, mid, low = self.image_encoder(images)["backbone_fpn"]
        return Features(self.sam_mask_decoder.conv_s0(high), self.sam_mask_decoder.conv_s1(mid), low)

    def prompt(self, features: Features, points: PointPrompt | None = None, mask: Tensor | None = None) -> Step:
        """Segment the prompted slice of B lesions from points, or from a (B, 1, S, S) boolean mask.

        A mask is taken as the answer and only remembered (SAM 2). With memory-conditioned memories E_cond of this
        slice is E_unc with the "no memory" embedding added, in either case.
        """
        conditioned = features.low + self.no_mem_embed.reshape(1, -1, 1, 1)
        if mask is not None:
            return self._accept(features, conditioned, mask.float())
        if points is None:
            raise ValueError("a prompted slice needs points or a mask")
        few = points.labels.shape[1] <= 1
        logits, iou, score, pointer = self._heads(
            features, conditioned, points, multimask=self.config.multimask and few
        )
        probabilities = (self._for_memory(logits) > 0).float()
        return Step(logits, iou, score, pointer, self._remember(features.low, conditioned, probabilities, score))

    def track(self, features: Features, recall: Recall) -> Step:
        """Segment the next slice of B passes from what they remember."""
        conditioned = self._condition(features.low, recall)
        logits, iou, score, pointer = self._heads(features, conditioned, None, multimask=self.config.multimask)
        probabilities = torch.sigmoid(self._for_memory(logits))
        return Step(logits, iou, score, pointer, self._remember(features.low, conditioned, probabilities, score))

    def _image_encoder(self) -> nn.Module:
        return _image_encoder(self.config)

    def _for_memory(self, logits: Tensor) -> Tensor:
        """Logits at the scale of masks that enter the memory encoder."""
        return _upsample(logits)

    def _condition(self, low: Tensor, recall: Recall) -> Tensor:
        """E_cond = memory_attention(E_unc, memories), (B, C, S/16, S/16)."""
        b, c, h, w = low.shape
        n_memories, n_pointers = recall.memories.shape[1], recall.pointers.shape[1]
        memory_dim, split = self.config.backbone.memory_dim, c // self.config.backbone.memory_dim
        order = self._temporal_row(recall.distances)
        place = _positions(self.memory_encoder.position_encoding, memory_dim, h, low)
        memory_pos = place + self.maskmem_tpos_enc[order].reshape(b, n_memories, 1, memory_dim)
        # A pointer of C channels is attended to as C / M tokens of M channels.
        times = get_1d_sine_pe(recall.pointer_times.nan_to_num(), dim=c)
        pointer_pos = self.obj_ptr_tpos_proj(times).repeat_interleave(split, dim=1)
        tokens = recall.pointers.reshape(b, n_pointers * split, memory_dim)
        memory = torch.cat([recall.memories.flatten(3).transpose(2, 3).reshape(b, -1, memory_dim), tokens], dim=1)
        position = torch.cat([memory_pos.reshape(b, -1, memory_dim), pointer_pos], dim=1)
        present = None if recall.complete else _present(recall, h * w, split)
        for layer in self.memory_attention.layers:
            layer.cross_attn_image.present = present
        conditioned = self.memory_attention(
            curr=low.flatten(2).permute(2, 0, 1),
            curr_pos=_positions(self.position_encoding, c, h, low).permute(1, 0, 2),
            memory=memory.transpose(0, 1),
            memory_pos=position.transpose(0, 1),
            num_obj_ptr_tokens=n_pointers * split,
        )
        result: Tensor = conditioned.permute(1, 2, 0).reshape(b, c, h, w)
        return result

    def _temporal_row(self, distances: Tensor) -> Tensor:
        """Row of ``maskmem_tpos_enc`` for memories so many slices back; the last row is the prompted slice's."""
        last = self.config.memory_slices - 1
        rows = distances - 1 if self.config.temporal_order == "sam2" else last - distances
        return torch.where(distances <= 0, last, rows)

    def _heads(
        self,
        features: Features,
        conditioned: Tensor,
        points: PointPrompt | None,
        *,
        multimask: bool,
        dense: Tensor | None = None,
    ) -> tuple[Tensor, Tensor, Tensor, Tensor]:
        """Decode: logits (B, 1, S/4, S/4), IoU (B,), object score (B,), pointer (B, C)."""
        rows, side = len(conditioned), conditioned.shape[-1] * STRIDE
        masks, ious, tokens, scores = self.sam_mask_decoder(
            image_embeddings=conditioned,
            image_pe=self.sam_prompt_encoder.grid(side),
            sparse_prompt_embeddings=self.sam_prompt_encoder.sparse(points, rows, side),
            dense_prompt_embeddings=self.sam_prompt_encoder.dense(dense, rows, side),
            multimask_output=multimask,
            repeat_image=False,
            high_res_features=[features.high, features.mid],
        )
        best = ious.argmax(dim=1) if multimask else ious.new_zeros(rows, dtype=torch.long)
        row = torch.arange(rows, device=best.device)
        pointer, masks = self.obj_ptr_proj(tokens[row, best]), masks.float()
        if self.scores_objects:
            seen = scores > 0
            masks = torch.where(seen[:, :, None, None], masks, NO_OBJECT_LOGIT)
            pointer = torch.where(seen, pointer, self.no_obj_ptr.to(pointer.dtype))
        return masks[row, best][:, None], ious[row, best], scores[:, 0], pointer

    def _accept(self, features: Features, conditioned: Tensor, mask: Tensor) -> Step:
        """Take a (B, 1, S, S) mask prompt of zeros and ones as the answer of its slice."""
        _, _, _, pointer = self._heads(features, features.low, None, multimask=False, dense=self.mask_downsample(mask))
        full = mask * 2 * MASK_LOGIT - MASK_LOGIT
        quarter = mask.shape[-1] // 4
        logits = F.interpolate(full, size=(quarter, quarter), mode="bilinear", align_corners=False, antialias=True)
        drawn = mask.flatten(1).any(dim=1)
        pointer = torch.where(drawn[:, None], pointer, self.no_obj_ptr.to(pointer.dtype))
        score = torch.where(drawn, MASK_LOGIT, -MASK_LOGIT)
        memory = self._remember(features.low, conditioned, torch.sigmoid(full), score)
        return Step(logits, torch.ones_like(score), score, pointer, memory)

    def _remember(self, low: Tensor, conditioned: Tensor, probabilities: Tensor, score: Tensor) -> Tensor:
        """mem_t = encoder(E_cond, M_t) with memory-conditioned memories, encoder(E_unc, M_t) without (2.3.3)."""
        embedding = conditioned if self.config.memory_conditioned else low
        masks = probabilities * MEMORY_SCALE + MEMORY_BIAS
        memory: Tensor = self.memory_encoder(embedding, masks, skip_mask_sigmoid=True)["vision_features"]
        if not self.scores_objects:
            return memory
        absent = (score <= 0).to(memory.dtype)[:, None, None, None]
        return memory + absent * self.no_obj_embed_spatial[..., None, None].to(memory.dtype)


def build_model(config: SAM2CTConfig, *, seed: int | None = None) -> SAM2CTModel:
    """Make the network with random weights: float32, on the CPU, in eval mode.

    Parameters
    ----------
    seed
        Makes the weights repeatable without touching the global random state; None: as the caller seeded torch.

    """
    with torch.random.fork_rng(devices=[], enabled=seed is not None):
        if seed is not None:
            torch.manual_seed(seed)
        return SAM2CTModel(config).eval()


def _image_encoder(config: SAM2CTConfig) -> nn.Module:
    size = config.backbone
    trunk = Hiera(
        embed_dim=size.embed_dim,
        num_heads=size.num_heads,
        stages=size.stages,
        global_att_blocks=size.global_att_blocks,
        window_pos_embed_bkg_spatial_size=size.pos_embed_size,
        window_spec=size.window_spec,
    )
    neck = FpnNeck(
        position_encoding=PositionEmbeddingSine(num_pos_feats=size.hidden_dim),
        d_model=size.hidden_dim,
        backbone_channel_list=[size.embed_dim * 2**i for i in (3, 2, 1, 0)],
        fpn_top_down_levels=[2, 3],
        fpn_interp_model="nearest",
    )
    encoder: nn.Module = ImageEncoder(trunk=trunk, neck=neck, scalp=1)
    return encoder


def _memory_attention(config: SAM2CTConfig) -> nn.Module:
    size, features = config.backbone, config.image_size // STRIDE
    shared = {"embedding_dim": size.hidden_dim, "num_heads": 1, "feat_sizes": (features, features)}
    layer = MemoryAttentionLayer(
        activation="relu",
        d_model=size.hidden_dim,
        dim_feedforward=size.feed_forward,
        dropout=0.1,
        pos_enc_at_attn=False,
        pos_enc_at_cross_attn_keys=True,
        pos_enc_at_cross_attn_queries=False,
        self_attention=RotaryAttention(**shared),
        cross_attention=RotaryAttention(**shared, rope_k_repeat=True, kv_in_dim=size.memory_dim),
    )
    attention: nn.Module = MemoryAttention(
        d_model=size.hidden_dim, pos_enc_at_input=True, layer=layer, num_layers=size.attention_layers
    )
    return attention


def _present(recall: Recall, memory_tokens: int, pointer_tokens: int) -> Tensor:
    """(B, L) which keys of the memory attention are there."""
    memories = (recall.distances >= 0).repeat_interleave(memory_tokens, dim=1)
    return torch.cat([memories, (~recall.pointer_times.isnan()).repeat_interleave(pointer_tokens, dim=1)], dim=1)


def _positions(encoding: nn.Module, channels: int, side: int, like: Tensor) -> Tensor:
    """(1, side * side, channels) sine positions. Asked for one image only: ``sam2`` would repeat them for each."""
    one: Tensor = encoding(like.new_empty(1, 1, side, side))
    return one.reshape(1, channels, side * side).transpose(1, 2)


def _upsample(logits: Tensor) -> Tensor:
    """(B, 1, S/4, S/4) to (B, 1, S, S)."""
    side = logits.shape[-1] * 4
    return F.interpolate(logits, size=(side, side), mode="bilinear", align_corners=False)
