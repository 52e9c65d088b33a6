"""The engines by name."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

from segmentation.classical import ClassicalSegmenter
from segmentation.ellipsoid import EllipsoidSegmenter
from segmentation.types import Segmenter

ENGINES: dict[str, Callable[..., Segmenter]] = {
    "classical": ClassicalSegmenter,
    "ellipsoid": EllipsoidSegmenter,
}
"""Registered name to class. Both of these need no weights and run on the CPU."""

DEFAULT_ENGINE = "classical"

_CPU = (None, "auto", "cpu")


def load_segmenter(
    name: str | None = None, weights: str | None = None, device: str | None = None, **options: Any
) -> Segmenter:
    """Make the engine ``name``; without a name, `DEFAULT_ENGINE`.

    Parameters
    ----------
    weights, device
        For engines that have weights or run on a GPU; no engine of this version does, so ``weights`` must be None and
        ``device`` None, "auto" or "cpu".
    options
        Keyword arguments of the engine's class.

    Raises
    ------
    ValueError
        If the name, an option, or the combination is wrong; the message lists what is allowed.

    """
    chosen = name or DEFAULT_ENGINE
    if chosen not in ENGINES:
        raise ValueError(f"unknown segmentation engine {chosen!r}; known: {', '.join(sorted(ENGINES))}")
    if weights is not None:
        raise ValueError(f"the engine {chosen!r} takes no weights")
    if device not in _CPU:
        raise ValueError(f"the engine {chosen!r} runs on the CPU, got device {device!r}; allowed: 'auto', 'cpu'")
    try:
        return ENGINES[chosen](**options)
    except TypeError as error:
        raise ValueError(f"the engine {chosen!r} does not take these options: {', '.join(sorted(options))}") from error
