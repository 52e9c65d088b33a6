"""Prompts on CT volumes in, 3D masks out. Knows nothing of text or PACS."""

from importlib import import_module
from typing import TYPE_CHECKING

from segmentation.types import (
    Arrow,
    Bidimensional,
    Box,
    EngineError,
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
    from segmentation.evaluation import EvaluationCase, format_table
    from segmentation.intensity import IntensityBox, IntensityParameters, intensity_box
    from segmentation.intensity_prompts import IntensityPrompts, local_box
    from segmentation.prompts import simulate_prompt
    from segmentation.sam2ct.weights import describe

__all__ = [
    "ENGINES",
    "Arrow",
    "Bidimensional",
    "Box",
    "EngineError",
    "EvaluationCase",
    "GeometryError",
    "IntensityBox",
    "IntensityParameters",
    "IntensityPrompts",
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
    "describe",
    "format_table",
    "intensity_box",
    "load_segmenter",
    "local_box",
    "simulate_prompt",
]

_LATER = {
    "ENGINES": "engines",
    "EvaluationCase": "evaluation",
    "IntensityBox": "intensity",
    "IntensityParameters": "intensity",
    "IntensityPrompts": "intensity_prompts",
    "Quality": "checks",
    "check_mask": "checks",
    "describe": "sam2ct.weights",
    "format_table": "evaluation",
    "intensity_box": "intensity",
    "load_segmenter": "engines",
    "local_box": "intensity_prompts",
    "simulate_prompt": "prompts",
}
"""Names that need scipy or torch, imported at first use: whoever wants the types does not wait for them."""


def __getattr__(name: str) -> object:
    if name not in _LATER:
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    return getattr(import_module(f"{__name__}.{_LATER[name]}"), name)
