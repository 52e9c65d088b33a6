"""Prompts on CT volumes in, 3D masks out. Knows nothing of text or PACS."""

from segmentation.checks import Quality, check_mask
from segmentation.engines import ENGINES, load_segmenter
from segmentation.prompts import simulate_prompt
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

__all__ = [
    "ENGINES",
    "Arrow",
    "Bidimensional",
    "Box",
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
    "load_segmenter",
    "simulate_prompt",
]
