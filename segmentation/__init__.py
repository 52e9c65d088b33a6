"""Prompts on CT volumes in, 3D masks out. Knows nothing of text or PACS."""

from importlib import import_module
from typing import TYPE_CHECKING

from segmentation.types import (
    Arrow,
    Bidimensional,
    Box,
    GeometryError,
    Line,
    Mask,
    MaskPrompt,
    Points,
    Prompt,
    SegmentationError,
    SegmentationFailure,
    SegmentationJob,
    Segmenter,
    Volume,
)

if TYPE_CHECKING:
    from segmentation.checks import Quality, check_mask
    from segmentation.engines import ENGINES, load_segmenter
    from segmentation.evaluate import EvaluationCase, format_table
    from segmentation.prompts import simulate_prompt

__all__ = [
    "ENGINES",
    "Arrow",
    "Bidimensional",
    "Box",
    "EvaluationCase",
    "GeometryError",
    "Line",
    "Mask",
    "MaskPrompt",
    "Points",
    "Prompt",
    "Quality",
    "SegmentationError",
    "SegmentationFailure",
    "SegmentationJob",
    "Segmenter",
    "Volume",
    "check_mask",
    "format_table",
    "load_segmenter",
    "simulate_prompt",
]

_LATER = {
    "ENGINES": "engines",
    "EvaluationCase": "evaluate",
    "Quality": "checks",
    "check_mask": "checks",
    "format_table": "evaluate",
    "load_segmenter": "engines",
    "simulate_prompt": "prompts",
}
"""Names that need scipy, imported at first use: whoever wants the types does not wait for it."""


def __getattr__(name: str) -> object:
    if name not in _LATER:
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    return getattr(import_module(f"{__name__}.{_LATER[name]}"), name)
