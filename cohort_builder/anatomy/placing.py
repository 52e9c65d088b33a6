"""Which organ each stroke lies in, before anything is linked: a few slices of each series are enough.

Links are made before volumes are loaded, so the series under the strokes is read here for itself: thinned for a
locator that can do with that, one series at a time. Whatever goes wrong costs this evidence and nothing else; pixels
that cannot be read become a Skip where the volume is needed.
"""

from __future__ import annotations

import logging
from collections import defaultdict
from collections.abc import Collection, Sequence
from dataclasses import replace
from typing import TYPE_CHECKING

import numpy as np

from cohort_builder.anatomy.locators import AnatomyLocator, Place, PlaceLocator
from cohort_builder.anatomy.regions import averaged_pixels, pixel_blocks, slice_step, thinned_affine
from cohort_builder.ct.pixels import read_hounsfield
from cohort_builder.ct.series import Stack, load_stack, split_series
from cohort_builder.errors import CohortError
from cohort_builder.lesions.grouping import POINTING
from cohort_builder.targets.carrying import slice_key
from cohort_builder.types import LocatedAnnotation
from segmentation.geometry import FloatArray
from segmentation.types import GeometryError, Volume

if TYPE_CHECKING:
    from cohort_builder.pacs.index import Index

logger = logging.getLogger("cohort_builder")


def place_strokes(
    located: Sequence[LocatedAnnotation], index: Index, locator: AnatomyLocator, *, studies: Collection[str]
) -> list[LocatedAnnotation]:
    """Fill in ``organ`` and ``lung_level``.

    Parameters
    ----------
    studies
        Study Instance UIDs in which it matters: those that a report speaks of.

    Returns
    -------
    The same strokes in the same order; unchanged outside ``studies``, on images that belong to no regular stack, and
    where pixels or locator fail.

    """
    by_series: dict[str, list[int]] = defaultdict(list)
    for i, item in enumerate(located):
        if item.annotation.study_instance_uid in studies:
            by_series[item.annotation.series_instance_uid].append(i)
    placed = list(located)
    for series, members in by_series.items():
        for stack in split_series(index.instances(series))[0]:
            held = {slice_key(instance) for instance in stack.instances}
            on_it = [i for i in members if slice_key(located[i].annotation) in held]
            for i, place in zip(on_it, _places([located[i] for i in on_it], stack, locator), strict=True):
                placed[i] = replace(located[i], organ=place.organ, lung_level=place.lung_level)
    return placed


def _places(strokes: Sequence[LocatedAnnotation], stack: Stack, locator: AnatomyLocator) -> list[Place]:
    """One ``Place`` a stroke on this stack, all empty where it cannot be read or named."""
    if not strokes:
        return []
    points = [_points(stroke) for stroke in strokes]
    try:
        volume = load_thinned(stack) if getattr(locator, "is_coarse", False) else load_stack(stack)
        if isinstance(locator, PlaceLocator):
            return locator.places(volume, points)
        return [Place(locator.organ_at(volume, each)) for each in points]
    except CohortError:
        raise
    except GeometryError:
        return [Place()] * len(strokes)
    except Exception as error:  # noqa: BLE001 - a locator is anybody's code, and it is evidence at most
        logger.warning("the anatomy locator failed on a series with %s: its lesions link without", type(error).__name__)
        return [Place()] * len(strokes)


def _points(stroke: LocatedAnnotation) -> FloatArray:
    """(n, 3) LPS mm between which the lesion lies: of an arrow its head alone."""
    points = np.asarray(stroke.points_lps_mm, dtype=np.float64).reshape(-1, 3)
    return points[-1:] if stroke.annotation.kind in POINTING else points


def load_thinned(stack: Stack) -> Volume:
    """Read every so many slices of a stack and average its pixels, to about 5 x 3 x 3 mm.

    Raises
    ------
    GeometryError
        A slice that is needed cannot be read, or fewer than two are left.

    """
    first = stack.instances[0]
    spacing = np.linalg.norm(stack.affine[:3, :3], axis=0)
    step, blocks = slice_step(float(spacing[0])), pixel_blocks(spacing[1:].tolist())
    step = min(step, len(stack.instances) - 1)
    chosen = stack.instances[::step]
    return Volume(
        voxels=np.stack([averaged_pixels(read_hounsfield(instance), blocks) for instance in chosen]),
        affine=thinned_affine(stack.affine, step, blocks),
        frame_of_reference_uid=first.frame_of_reference_uid or "",
        series_instance_uid=first.series_instance_uid,
        sop_instance_uids=tuple(instance.sop_instance_uid for instance in chosen),
    )
