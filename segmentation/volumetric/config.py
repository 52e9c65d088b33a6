"""What one volumetric model is: everything that its tensors do not say themselves."""

from __future__ import annotations

import json
from dataclasses import asdict, dataclass, fields
from math import isfinite
from typing import Any, Literal, Self

Comparator = Literal["dynunet", "swin-unetr"]
Tracker = Literal["none", "sam2", "mcm"]

LARGEST_SIDE = 256
WIDEST = 1024
"""A configuration comes from a file: it makes no tensor of any size it likes."""


class _Stored:
    """A configuration as text in the header of a safetensors file."""

    def to_json(self) -> str:
        """Text that `from_json` reads."""
        return json.dumps(asdict(self), sort_keys=True)  # type: ignore[call-overload]

    @classmethod
    def from_json(cls, text: str) -> Self:
        """Read what `to_json` wrote.

        Raises
        ------
        ValueError
            If it is no such text, or a value is out of range.

        """
        values: Any = json.loads(text)
        if not isinstance(values, dict):
            raise ValueError("the configuration of a model must be a JSON object")  # noqa: TRY004 - bad data, not a bad call
        known = {each.name for each in fields(cls)}  # type: ignore[arg-type]
        if set(values) - known:
            raise ValueError(
                f"unknown fields in the configuration of a model: {', '.join(sorted(set(values) - known))}"
            )
        return cls(**{key: tuple(value) if isinstance(value, list) else value for key, value in values.items()})


@dataclass(frozen=True, slots=True)
class UNet3DConfig(_Stored):
    """The small network with prompt channels.

    Parameters
    ----------
    side
        Samples of the cubic network input along each axis, a multiple of 8.
    half_in_plane, half_z
        Half sides of the box around a measurement, in lengths of the measurement.
    free_mm
        An arrow or a point has no length: boxes of these half sides are tried, the surest result wins.
    refinements
        How often what was found in a box without a length is measured and segmented again, as if it had been drawn.
    refine_measured
        Refine what was found from a measurement, too.
    widths, blocks
        Channels and residual blocks at a half, a quarter and an eighth of the resolution.
    relative
        Image channel: HU about the median near the prompt.
    ratio
        Image channel: log likelihood ratio of each HU between the prompt's inside and a ring around it.
    image_prompt
        Draw the prompt into the box; off (an ablation): the network is told it by numbers and tokens only.
    tracker
        Behind the volumetric network: none (``"unet3d"``), the one of SAM 2, or that with memory-conditioned memories
        (``"mcm"``, sam2ct.txt 2.3.3). See `segmentation.sam2ct.nano`.

    """

    side: int = 48
    half_in_plane: float = 1.0
    half_z: float = 1.4
    free_mm: tuple[float, ...] = (25.0, 60.0)
    refinements: int = 1
    refine_measured: bool = False
    widths: tuple[int, int, int] = (32, 64, 128)
    blocks: tuple[int, int, int] = (1, 2, 3)
    relative: bool = True
    ratio: bool = True
    image_prompt: bool = True
    tracker: Tracker = "none"

    def __post_init__(self) -> None:
        _require_types(self)
        wrong = {
            f"side must be a multiple of 8 from 16 to {LARGEST_SIDE}": self.side % 8 != 0
            or not 16 <= self.side <= LARGEST_SIDE,
            "half_in_plane and half_z must be from 0.6 to 4": not _all_within(
                (self.half_in_plane, self.half_z), 0.6, 4.0
            ),
            "free_mm must be one to four lengths from 5 to 300 mm": not (
                1 <= len(self.free_mm) <= 4 and _all_within(self.free_mm, 5, 300)
            ),
            "refinements must be from 0 to 3": not 0 <= self.refinements <= 3,
            f"widths must be three multiples of 8 up to {WIDEST}": len(self.widths) != 3
            or any(w % 8 or not 8 <= w <= WIDEST for w in self.widths),
            "tracker must be 'none', 'sam2' or 'mcm'": self.tracker not in ("none", "sam2", "mcm"),
            "blocks must be three numbers from 1 to 8": len(self.blocks) != 3 or not _all_within(self.blocks, 1, 8),
        }
        _refuse(wrong)


@dataclass(frozen=True, slots=True)
class PatchConfig(_Stored):
    """A comparator of sam2ct.txt 2.4: image and binary prompt mask in two channels.

    The paper states no patch; this is a cube of 128 mm around the prompt, larger where the prompt is (see `region`).

    Parameters
    ----------
    network
        ``"dynunet"`` or ``"swin-unetr"``.
    patch
        (slice, row, column) samples of the network input; multiples of 32.
    spacing_mm
        Between samples, (slice, row, column).
    region
        The window slides over a box of so many lengths of the prompt, and over one patch at least.
    hu_clip
        (low, high) HU, mapped to [0, 1].
    widths
        DynUNet: channels of each level, the first at full resolution. Swin UNETR: its feature size alone.

    """

    network: Comparator = "dynunet"
    patch: tuple[int, int, int] = (64, 128, 128)
    spacing_mm: tuple[float, float, float] = (2.0, 1.0, 1.0)
    region: float = 3.0
    hu_clip: tuple[float, float] = (-500.0, 500.0)
    widths: tuple[int, ...] = (32, 64, 128, 256, 320)

    def __post_init__(self) -> None:
        _require_types(self)
        wrong = {
            "network must be 'dynunet' or 'swin-unetr'": self.network not in ("dynunet", "swin-unetr"),
            f"patch must be three multiples of 32 up to {LARGEST_SIDE}": len(self.patch) != 3
            or any(n % 32 or not 32 <= n <= LARGEST_SIDE for n in self.patch),
            "the patch of swin-unetr must be longer than 32 along one axis": self.network == "swin-unetr"
            and max(self.patch, default=0) == 32,
            "spacing_mm must be three lengths from 0.1 to 10 mm": len(self.spacing_mm) != 3
            or not _all_within(self.spacing_mm, 0.1, 10),
            "region must be from 1 to 6": not _all_within((self.region,), 1, 6),
            "hu_clip must be (low, high) with low below high": len(self.hu_clip) != 2
            or not self.hu_clip[0] < self.hu_clip[1],
            "widths must be two to six multiples of 4 (swin-unetr: one of 12)": not _are_widths(
                self.widths, self.network
            ),
        }
        _refuse(wrong)


Config = UNet3DConfig | PatchConfig


def _require_types(config: Config) -> None:
    """Refuse ``"False"`` for False and 48.0 for 48: what is read from a file is checked before it is used."""
    for each in fields(config):
        value, kind = getattr(config, each.name), type(each.default)
        whole = type(value) is kind or (kind is float and type(value) is int)
        parts = value if isinstance(value, tuple) else ()
        if not whole or any(isinstance(part, bool) or not isinstance(part, int | float) for part in parts):
            raise ValueError(f"{each.name} must be of type {kind.__name__}, got {value!r}")
        if not all(isfinite(number) for number in (*parts, value) if isinstance(number, int | float)):
            raise ValueError(f"{each.name} must be finite, got {value!r}")


def _all_within(values: tuple[float, ...], low: float, high: float) -> bool:
    return all(low <= value <= high for value in values)


def _are_widths(widths: tuple[int, ...], network: str) -> bool:
    if network == "swin-unetr":
        return len(widths) == 1 and widths[0] % 12 == 0 and 12 <= widths[0] <= 96
    return 2 <= len(widths) <= 6 and all(w % 4 == 0 and 4 <= w <= WIDEST for w in widths)


def _refuse(problems: dict[str, bool]) -> None:
    messages = [message for message, is_wrong in problems.items() if is_wrong]
    if messages:
        raise ValueError("; ".join(messages))


SUB_VOLUME = 8
"""Slices of the box that a tracker passes through in a training step (sam2ct.txt 2.3.2)."""

UNET3D = UNet3DConfig()
SAM2CT_NANO = UNet3DConfig(tracker="mcm")
DYNUNET = PatchConfig()
SWIN_UNETR = PatchConfig("swin-unetr", patch=(64, 96, 96), widths=(48,))
PRESETS: dict[str, Config] = {
    "unet3d": UNET3D,
    "sam2ct-nano": SAM2CT_NANO,
    "dynunet": DYNUNET,
    "swin-unetr": SWIN_UNETR,
}
"""Engine name to its configuration."""
