"""The networks: a small residual U-Net that is told the scale and kind of its prompt, and MONAI's comparators."""

from __future__ import annotations

from typing import Any, NamedTuple, cast

import torch
import torch.nn.functional as F  # noqa: N812 - as everybody writes it
from torch import Tensor, nn

from segmentation.types import EngineError
from segmentation.volumetric.config import Config, PatchConfig, UNet3DConfig
from segmentation.volumetric.inputs import CONSTANTS, channels

_EMBEDDING = 64
FULL_CHANNELS = 16
"""Channels at full resolution, where they cost most."""
_GROUPS = 8


class Levels(NamedTuple):
    """Features (B, channels, ...) at a half, a quarter and the full resolution, and logits (B, 1, z, v, u)."""

    half: Tensor
    quarter: Tensor
    full: Tensor
    logits: Tensor


class _ResidualBlock(nn.Module):
    """Two convolutions around a skip; the embedded constants scale and shift what is between them."""

    def __init__(self, width: int) -> None:
        super().__init__()
        self.first = nn.Conv3d(width, width, 3, padding=1, bias=False)
        self.first_norm = nn.GroupNorm(_GROUPS, width)
        self.told = nn.Linear(_EMBEDDING, 2 * width)
        self.second = nn.Conv3d(width, width, 3, padding=1, bias=False)
        self.second_norm = nn.GroupNorm(_GROUPS, width)
        nn.init.zeros_(self.told.weight)
        nn.init.zeros_(self.told.bias)
        nn.init.zeros_(self.second_norm.weight)

    def forward(self, x: Tensor, told: Tensor) -> Tensor:
        scale, shift = self.told(told)[:, :, None, None, None].chunk(2, dim=1)
        y = F.silu(self.first_norm(self.first(x)) * (1 + scale) + shift)
        return F.silu(x + self.second_norm(self.second(y)))


class _Blocks(nn.Module):
    def __init__(self, width: int, count: int) -> None:
        super().__init__()
        self.blocks = nn.ModuleList(_ResidualBlock(width) for _ in range(count))

    def forward(self, x: Tensor, told: Tensor) -> Tensor:
        for block in self.blocks:
            x = block(x, told)
        return x


class UNet3D(nn.Module):
    """Residual U-Net at a half, a quarter and an eighth of the resolution, with a thin head at full resolution.

    Most of the work is at half resolution and below: eight neighbouring samples become channels first and are told
    apart again last.
    """

    def __init__(self, config: UNet3DConfig) -> None:
        super().__init__()
        n, (w0, w1, w2), (b0, b1, b2) = channels(config), config.widths, config.blocks
        self.embed = nn.Sequential(
            nn.Linear(CONSTANTS, _EMBEDDING), nn.SiLU(), nn.Linear(_EMBEDDING, _EMBEDDING), nn.SiLU()
        )
        self.stem = nn.Conv3d(8 * n, w0, 3, padding=1)
        self.at_half = _Blocks(w0, b0)
        self.to_quarter = nn.Conv3d(w0, w1, 2, stride=2)
        self.at_quarter = _Blocks(w1, b1)
        self.to_eighth = nn.Conv3d(w1, w2, 2, stride=2)
        self.at_eighth = _Blocks(w2, b2)
        self.from_eighth = nn.Conv3d(w2, w1, 1)
        self.join_quarter = nn.Conv3d(2 * w1, w1, 1)
        self.quarter_again = _Blocks(w1, 1)
        self.from_quarter = nn.Conv3d(w1, w0, 1)
        self.join_half = nn.Conv3d(2 * w0, w0, 1)
        self.half_again = _Blocks(w0, 1)
        self.unfold = nn.Conv3d(w0, 8 * (FULL_CHANNELS // 2), 1)
        self.full = nn.Conv3d(FULL_CHANNELS // 2 + n, FULL_CHANNELS, 3, padding=1)
        self.answer = nn.Conv3d(FULL_CHANNELS, 1, 3, padding=1)
        nn.init.constant_(self.answer.bias, -2.0)  # type: ignore[arg-type]  # a lesion fills a tenth of its box

    def forward(self, values: Tensor, constants: Tensor) -> Tensor:
        """Logits.

        Parameters
        ----------
        values
            (B, channels, z, v, u) as `segmentation.volumetric.inputs.assemble` makes them.
        constants
            (B, `CONSTANTS`).

        Returns
        -------
        (B, 1, z, v, u).

        """
        return self.levels(values, constants).logits

    def levels(self, values: Tensor, constants: Tensor) -> Levels:
        """What the logits are made from, and they."""
        told = self.embed(constants)
        half = self.at_half(F.silu(self.stem(_fold(values))), told)
        quarter = self.at_quarter(F.silu(self.to_quarter(half)), told)
        eighth = self.at_eighth(F.silu(self.to_eighth(quarter)), told)
        quarter = self.quarter_again(F.silu(self.join_quarter(_joined(self.from_eighth(eighth), quarter))), told)
        half = self.half_again(F.silu(self.join_half(_joined(self.from_quarter(quarter), half))), told)
        full = F.silu(self.full(torch.cat([_unfold(self.unfold(half)), values], dim=1)))
        return Levels(half, quarter, full, self.answer(full))


def _fold(x: Tensor) -> Tensor:
    """(B, C, 2z, 2v, 2u) to (B, 8C, z, v, u)."""
    b, c, z, v, u = x.shape
    parts = x.reshape(b, c, z // 2, 2, v // 2, 2, u // 2, 2).permute(0, 1, 3, 5, 7, 2, 4, 6)
    return parts.reshape(b, 8 * c, z // 2, v // 2, u // 2)


def _unfold(x: Tensor) -> Tensor:
    """(B, 8C, z, v, u) to (B, C, 2z, 2v, 2u)."""
    b, c, z, v, u = x.shape
    parts = x.reshape(b, c // 8, 2, 2, 2, z, v, u).permute(0, 1, 5, 2, 6, 3, 7, 4)
    return parts.reshape(b, c // 8, 2 * z, 2 * v, 2 * u)


def _joined(coarse: Tensor, fine: Tensor) -> Tensor:
    return torch.cat([F.interpolate(coarse, scale_factor=2, mode="nearest"), fine], dim=1)


def build_network(config: Config, *, seed: int | None = None) -> nn.Module:
    """Make a network with random weights, in train mode; with a seed, always the same, whatever was drawn before.

    Raises
    ------
    EngineError
        If MONAI is needed and not there.

    """
    if seed is None:
        return _make(config)
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(seed)
        return _make(config)


def _make(config: Config) -> nn.Module:
    if isinstance(config, PatchConfig):
        return _comparator(config)
    if config.tracker == "none":
        return UNet3D(config)
    try:
        from segmentation.sam2ct.nano import NanoModel
    except ModuleNotFoundError as error:
        raise EngineError(
            f"the tracker of SAM 2 needs the package {error.name!r}: pip install 'cohort-builder[sam2]'"
        ) from error
    return NanoModel(config)


def _comparator(config: PatchConfig) -> nn.Module:
    """DynUNet with the kernels of nnU-Net, or Swin UNETR: two channels in, one out."""
    nets: Any = monai("monai.networks.nets")
    if config.network == "swin-unetr":
        return cast("nn.Module", nets.SwinUNETR(in_channels=2, out_channels=1, feature_size=config.widths[0]))
    levels = len(config.widths)
    return cast(
        "nn.Module",
        nets.DynUNet(
            spatial_dims=3,
            in_channels=2,
            out_channels=1,
            kernel_size=[3] * levels,
            strides=[1] + [2] * (levels - 1),
            upsample_kernel_size=[2] * (levels - 1),
            filters=list(config.widths),
            norm_name=("INSTANCE", {"affine": True}),
            res_block=True,
        ),
    )


def monai(module: str) -> Any:
    """Import a module of MONAI.

    Raises
    ------
    EngineError
        If it, or something that it needs, is not installed.

    """
    from importlib import import_module

    try:
        return import_module(module)
    except ModuleNotFoundError as error:
        raise EngineError(
            f"DynUNet and Swin UNETR need the package {error.name!r}: pip install 'cohort-builder[monai]'"
        ) from error
