"""CT series to volumes: the regular stacks of ``split_series``, with their pixels as Hounsfield units."""

from __future__ import annotations

from collections.abc import Iterable
from itertools import chain
from pathlib import Path

import numpy as np

from cohort_builder.ct.pixels import read_slices
from cohort_builder.ct.splitting import Stack, split_series
from cohort_builder.pacs.headers import HeaderError, Instance, read_header
from segmentation.types import GeometryError, Volume

__all__ = ["Stack", "load_stack", "load_volume", "split_series"]


def load_stack(stack: Stack) -> Volume:
    """Read the pixels of a stack as int16 Hounsfield units.

    Slope and intercept are those of each slice. Padding, and whatever lies below -1024 HU, becomes -1024 HU; fractions
    of a unit are rounded.

    Raises
    ------
    GeometryError
        A slice cannot be read or decoded, is no single-sample MONOCHROME2 image, is not the image that was indexed, or
        does not fit into int16.

    """
    first = stack.instances[0]
    voxels = np.empty((len(stack.instances), first.rows or 0, first.columns or 0), dtype=np.int16)
    read_slices(stack.instances, voxels)
    return Volume(
        voxels=voxels,
        affine=stack.affine,
        frame_of_reference_uid=stack.frame_of_reference_uid,
        series_instance_uid=stack.series_instance_uid,
        sop_instance_uids=tuple(instance.sop_instance_uid for instance in stack.instances),
        frame_numbers=tuple(instance.frame_number for instance in stack.instances),
    )


def load_volume(series: str | Path | Stack | Iterable[str | Path | Instance]) -> Volume:
    """Load one CT volume.

    Parameters
    ----------
    series
        A folder, the files or the indexed instances of one series, in any order, or a stack.

    Raises
    ------
    GeometryError
        They are not exactly one regular stack, or a file that was named is not DICOM; the message says what they are.

    """
    if isinstance(series, Stack):
        return load_stack(series)
    named = not (isinstance(series, str | Path) and Path(series).is_dir())
    if isinstance(series, str | Path):
        series = [series] if named else sorted(path for path in Path(series).iterdir() if path.is_file())
    images = [(item,) if isinstance(item, Instance) else _read_images(Path(item)) for item in series]
    if named and () in images:
        raise GeometryError("a file that was named is not DICOM, or is cut off at its start; leave it out or export it")
    stacks, skips = split_series(chain.from_iterable(images))
    if len(stacks) != 1:
        reasons = ", ".join(sorted({skip.reason for skip in skips})) or "nothing skipped"
        raise GeometryError(
            f"expected one regular CT stack, found {len(stacks)} ({reasons}); give the files of one series, or use "
            "split_series and load_stack"
        )
    return load_stack(stacks[0])


def _read_images(path: Path) -> tuple[Instance, ...]:
    try:
        header = read_header(path)
    except HeaderError as error:
        raise GeometryError(f"a file of the series is not usable ({error.reason}): {error.detail}") from error
    return () if header is None else header.frames or (header.instance,)
