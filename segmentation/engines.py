"""The engines by name."""

from __future__ import annotations

from collections.abc import Callable
from functools import partial
from inspect import signature
from pathlib import Path
from typing import Any

from segmentation.classical import ClassicalSegmenter
from segmentation.ellipsoid import EllipsoidSegmenter
from segmentation.intensity_prompts import IntensityPrompts
from segmentation.types import EngineError, Segmenter


def _sam2_family(name: str, **options: Any) -> Segmenter:
    """Import torch and sam2 only where one of their engines is used."""
    try:
        from segmentation.sam2ct.engine import open_engine
    except ModuleNotFoundError as error:
        raise EngineError(
            f"the engine {name!r} needs the package {error.name!r}: pip install 'cohort-builder[sam2]'; the engine "
            f"{DEFAULT_ENGINE!r} runs without"
        ) from error
    return open_engine(name, **options)


def _volumetric(name: str, **options: Any) -> Segmenter:
    """Import torch, and for the comparators MONAI, only where one of these engines is used."""
    try:
        from segmentation.volumetric.engine import open_box_engine
        from segmentation.volumetric.patchwork import open_comparator
    except ModuleNotFoundError as error:
        raise EngineError(
            f"the engine {name!r} needs the package {error.name!r}: pip install 'cohort-builder[sam2]' for 'unet3d' and"
            f" 'sam2ct-nano', 'cohort-builder[monai]' for the others; the engine {DEFAULT_ENGINE!r} runs without"
        ) from error
    opened = partial(open_box_engine if name in ("unet3d", "sam2ct-nano") else open_comparator, name)
    allowed = sorted(set(signature(opened).parameters) - {"name"})
    if not options.keys() <= set(allowed):
        wrong = ", ".join(sorted(options.keys() - set(allowed)))
        raise ValueError(f"the engine {name!r} takes no {wrong}; its options: {', '.join(allowed)}")
    return opened(**options)


WITHOUT_WEIGHTS: dict[str, Callable[..., Segmenter]] = {
    "classical": ClassicalSegmenter,
    "ellipsoid": EllipsoidSegmenter,
}
"""Registered name to class, of the engines that need no weights and run on the CPU."""

WITH_WEIGHTS: dict[str, Callable[..., Segmenter]] = {
    **{name: partial(_sam2_family, name) for name in ("sam2", "medsam2", "sam2ct", "sam2-ft")},
    **{name: partial(_volumetric, name) for name in ("sam2ct-nano", "unet3d", "dynunet", "swin-unetr")},
}
"""Registered name to what makes it, of the engines that need weights: see docs/segmentation.md."""

ENGINES = WITHOUT_WEIGHTS | WITH_WEIGHTS

DEFAULT_ENGINE = "classical"

BEFORE = "intensity+"
"""Written before the name of an engine: arrows and single clicks become boxes or diameters first."""

_CPU = (None, "auto", "cpu")


def load_segmenter(
    name: str | None = None, weights: str | Path | None = None, device: str | None = None, **options: Any
) -> Segmenter:
    """Make the engine ``name``; without a name, `DEFAULT_ENGINE`.

    Parameters
    ----------
    name
        A key of `ENGINES`, or one with ``intensity+`` before it: arrows and single clicks become boxes or diameters by
        intensity first (`IntensityPrompts`).
    weights
        File or folder of weights, for the engines that need some; None: searched in ``COHORT_WEIGHTS``.
    device
        None or "auto" (a GPU where there is one and the engine can use it), "cpu", "cuda", "cuda:1".
    options
        Keyword arguments of the engine: for ``classical`` and ``ellipsoid`` those of their classes, for the SAM2 family
        those of `segmentation.sam2ct.engine.open_engine` and ``SAM2Segmenter``.

    Raises
    ------
    ValueError
        If the name, an option, or the combination is wrong; the message lists what is allowed.
    EngineError
        If the weights or the device are missing, or the weights are of another model.

    """
    chosen = name or DEFAULT_ENGINE
    if chosen.startswith(BEFORE) and chosen != BEFORE:
        return IntensityPrompts(load_segmenter(chosen.removeprefix(BEFORE), weights, device, **options))
    if chosen not in ENGINES:
        known = f"{', '.join(sorted(ENGINES))}, and each of them with {BEFORE!r} before it"
        raise ValueError(f"unknown segmentation engine {chosen!r}; known: {known}")
    if chosen in WITH_WEIGHTS:
        options |= {"weights": weights, "device": device}
    elif weights is not None:
        raise ValueError(f"the engine {chosen!r} takes no weights")
    elif device not in _CPU:
        raise ValueError(f"the engine {chosen!r} runs on the CPU, got device {device!r}; allowed: 'auto', 'cpu'")
    else:
        allowed = sorted(signature(ENGINES[chosen]).parameters)
        if not options.keys() <= set(allowed):
            wrong = ", ".join(sorted(options.keys() - set(allowed)))
            raise ValueError(f"the engine {chosen!r} takes no {wrong}; its options: {', '.join(allowed) or 'none'}")
    return ENGINES[chosen](**options)
