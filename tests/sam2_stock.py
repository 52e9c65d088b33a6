"""Stock models of the `sam2` package with random weights: what parity tests and benchmarks compare with.

A model is what the package's own `configs/sam2.1/*.yaml` say, read here with pyyaml: no hydra composition, no
torchvision. So its arguments are those of the published models by construction, but for those named in `stock_config`.
"""

from __future__ import annotations

import importlib
import re
from importlib import resources
from typing import TYPE_CHECKING, Any

import torch
import yaml

from segmentation.sam2ct.config import BACKBONES, STRIDE

if TYPE_CHECKING:
    from sam2.modeling.sam2_base import SAM2Base

CONFIGS = {"tiny": "t", "small": "s", "base_plus": "b+", "base+": "b+", "large": "l"}
BASE = "sam2.modeling.sam2_base.SAM2Base"
VIDEO_PREDICTOR = "sam2.sam2_video_predictor.SAM2VideoPredictor"
TRANSFORMER = "sam2.modeling.sam.transformer.TwoWayTransformer"

PREDICTOR_OVERRIDES: dict[str, Any] = {
    "sam_mask_decoder_extra_args": {
        "dynamic_multimask_via_stability": True,
        "dynamic_multimask_stability_delta": 0.05,
        "dynamic_multimask_stability_thresh": 0.98,
    },
    "binarize_mask_from_pts_for_mem_enc": True,
}
"""What `sam2.build_sam.build_sam2_video_predictor` adds to a configuration, but for the filling of holes: that works on
the masks shown to a user, after the model, and needs the package's CUDA extension."""


class _Loader(yaml.SafeLoader):
    """YAML 1.1 reads 1e-6 as text; the files mean the number."""


_Loader.add_implicit_resolver("tag:yaml.org,2002:float", re.compile(r"[-+]?\d+e[-+]?\d+$"), list("-+0123456789"))


def published_config(size: str) -> dict[str, Any]:
    """``model`` section of the package's own SAM 2.1 configuration, as it is in the file."""
    name = f"sam2.1_hiera_{CONFIGS[size]}.yaml"
    text = (resources.files("sam2") / "configs" / "sam2.1" / name).read_text(encoding="utf-8")
    return yaml.load(text, _Loader)["model"]


def stock_config(size: str = "tiny", image_size: int = 512, **overrides: Any) -> dict[str, Any]:
    """Published configuration at another image size; ``nano`` is the published tiny one with `BACKBONES`' dimensions.

    ``image_size`` sets the input size and, as the published 512 pixel models do, the size that the rotary encodings are
    made for. ``overrides`` are arguments of the model (top level).
    """
    config = published_config("tiny" if size == "nano" else size)
    if size == "nano":
        _shrink(config)
    config["image_size"] = image_size
    layer = config["memory_attention"]["layer"]
    for attention in ("self_attention", "cross_attention"):
        layer[attention]["feat_sizes"] = [image_size // STRIDE] * 2
    return {**config, **PREDICTOR_OVERRIDES, **overrides}


def _shrink(config: dict[str, Any]) -> None:
    nano = BACKBONES["nano"]
    config["image_encoder"]["trunk"].update(
        embed_dim=nano.embed_dim,
        num_heads=nano.num_heads,
        stages=nano.stages,
        global_att_blocks=nano.global_att_blocks,
        window_spec=nano.window_spec,
        window_pos_embed_bkg_spatial_size=nano.pos_embed_size,
    )
    neck = config["image_encoder"]["neck"]
    neck.update(d_model=nano.hidden_dim, backbone_channel_list=[nano.embed_dim * scale for scale in (8, 4, 2, 1)])
    neck["position_encoding"]["num_pos_feats"] = nano.hidden_dim
    attention = config["memory_attention"]
    attention.update(d_model=nano.hidden_dim, num_layers=nano.attention_layers)
    attention["layer"].update(d_model=nano.hidden_dim, dim_feedforward=nano.feed_forward)
    attention["layer"]["self_attention"]["embedding_dim"] = nano.hidden_dim
    attention["layer"]["cross_attention"].update(embedding_dim=nano.hidden_dim, kv_in_dim=nano.memory_dim)
    memory = config["memory_encoder"]
    memory["out_dim"] = memory["position_encoding"]["num_pos_feats"] = nano.memory_dim
    memory["mask_downsampler"]["embed_dim"] = memory["in_dim"] = memory["fuser"]["layer"]["dim"] = nano.hidden_dim


def stock_sam2(
    size: str = "tiny", image_size: int = 512, *, seed: int = 0, target: str = BASE, **overrides: Any
) -> SAM2Base:
    """SAM 2.1 of the `sam2` package in eval mode on the CPU, fp32, with random weights from ``seed``.

    Parameters
    ----------
    size
        ``tiny``, ``small``, ``base_plus`` (or ``base+``), ``large``, ``nano``.
    image_size
        Side of the network input in pixels.
    seed
        Same seed and size, same weights, whatever the image size. Nothing is left at a constant (see
        `randomise_constants`), and every slice is found to hold an object: see `see_objects`.
    target
        Class to build: `BASE`, or `VIDEO_PREDICTOR` (same weights).
    **overrides
        Arguments of that class, over the published ones and `PREDICTOR_OVERRIDES`.

    """
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(seed)
        model = instantiate({**stock_config(size, image_size, **overrides), "_target_": target}).eval()
        if size == "nano":  # the one dimension that SAM2Base does not take from its arguments
            heads = {"embedding_dim": model.hidden_dim, "num_heads": 8, "mlp_dim": BACKBONES["nano"].feed_forward}
            model.sam_mask_decoder.transformer = instantiate({"_target_": TRANSFORMER, "depth": 2, **heads}).eval()
        randomise_constants(model)
        see_objects(model)
    return model


def instantiate(node: Any) -> Any:
    """Build a node of a configuration, inner nodes first: ``_target_`` is what to call with the rest."""
    if isinstance(node, dict):
        values = {key: instantiate(value) for key, value in node.items() if key != "_target_"}
        if "_target_" not in node:
            return values
        module, name = node["_target_"].rsplit(".", 1)
        return getattr(importlib.import_module(module), name)(**values)
    if isinstance(node, list):
        return [instantiate(value) for value in node]
    return node


@torch.no_grad()
def randomise_constants(model: torch.nn.Module) -> None:
    """Give every parameter that is born constant (zero positions and biases, unit norms, tiny layer scales) values that
    differ, as training does: a comparison on constants would not see a transposed or a forgotten tensor.
    """
    for parameter in model.parameters():
        if parameter.numel() > 1 and bool((parameter == parameter.flatten()[0]).all()):
            centre = 0.1 if 0 < float(parameter.flatten()[0]) < 1e-3 else float(parameter.flatten()[0])
            parameter.copy_(centre + 0.05 * torch.randn_like(parameter))


@torch.no_grad()
def see_objects(model: SAM2Base, *, score: float = 3.0) -> None:
    """Move the object score by ``score``: positive almost always for 3, negative for -3.

    Where it is not positive, SAM2 replaces the mask's logits by -1024, so that masks of random weights would be empty
    on some seeds and full of holes on others.
    """
    model.sam_mask_decoder.pred_obj_score_head.layers[-1].bias.add_(score)
