"""Strokes to lesions: locate what was drawn in the patient, and join the strokes that lie on the same thing.

``locate`` refuses what cannot be trusted (an image that is absent, points outside it, a drawn number that the geometry
contradicts); ``group_lesions`` decides which strokes are one lesion, from geometry alone.
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from math import dist, hypot
from typing import TYPE_CHECKING

import numpy as np

from cohort_builder.grouping import Stroke, join_axes, join_strokes
from cohort_builder.side import side_of
from cohort_builder.types import (
    Annotation,
    AnnotationKind,
    Lesion,
    LocatedAnnotation,
    Point2D,
    Point3D,
    Side,
    Skip,
)
from segmentation.geometry import FloatArray, apply_affine, image_points_to_lps, slice_affine
from segmentation.types import GeometryError

if TYPE_CHECKING:
    from cohort_builder.pacs import Index, Instance
