"""Masks against the truth of a generated hospital: those published, and those of every engine on the same strokes."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from cohort_builder.demo.plan import Drawing
from cohort_builder.demo.score_links import Strokes
from cohort_builder.demo.truth import Entry, Truth, load_mask
from segmentation.evaluation import EvaluationCase
from segmentation.geometry import image_to_index
from segmentation.metrics import Interval, bootstrap_ci, dice, volume_error
from segmentation.types import Arrow, Bidimensional, Line, Mask, Prompt, SegmentationJob, Volume

BoolArray = NDArray[np.bool_]
Index = tuple[int, int, int]


@dataclass(frozen=True, slots=True)
class PublishedMasks:
    """Masks of the dataset's rows against the truth.

    Parameters
    ----------
    lesions
        Rows that were scored; a row whose strokes lie on no lesion of the truth, or on several, scores Dice 0.
    unscored
        Rows whose lesion stands in no line of ``private/links.jsonl`` (no report speaks of its patient).
    volume_error
        Absolute, as a fraction of the truth. None, as ``dice``, where no row was scored.

    """

    lesions: int
    unscored: int
    dice: Interval | None
    volume_error: Interval | None


def score_published(cohort_dir: Path, links: Sequence[Entry], truth: Truth, truth_dir: Path) -> PublishedMasks:
    """Score the mask of every row of configs ``findings`` and ``lesions``, each lesion once."""
    strokes = Strokes(truth)
    on = {row["lesion_id"]: strokes.lesions_of(row["annotations"]) for row in links if row["lesion_id"] is not None}
    lesions = {lesion["key"]: lesion for lesion in truth.lesions}
    scores: dict[str, tuple[float, float]] = {}
    unscored = set()
    for lesion_id, mask, origin in _published(cohort_dir):
        keys = on.get(lesion_id)
        if keys is None:
            unscored.add(lesion_id)
        elif len(keys) == 1 and (key := next(iter(keys))) is not None:
            scores[lesion_id] = _compared(mask, origin, *load_mask(truth_dir, lesions[key]))
        else:
            scores[lesion_id] = (0.0, 1.0)
    values = np.array(list(scores.values())).reshape(-1, 2)
    intervals = [bootstrap_ci(values[:, i]) for i in range(2)] if len(values) else [None, None]
    return PublishedMasks(len(scores), len(unscored), intervals[0], intervals[1])


def _published(cohort_dir: Path) -> Iterator[tuple[str, BoolArray, Index]]:
    """(Lesion id, mask (slice, row, column), place of its first voxel in the volume) of every row."""
    import nibabel as nib
    import pyarrow.parquet as pq

    columns = ["lesion_id", "mask", "roi_origin_ijk"]
    for folder in ("findings", "unlinked"):
        for path in sorted((cohort_dir / "dataset" / "data" / folder).glob("*.parquet")):
            with pq.ParquetFile(path) as shard:
                for batch in shard.iter_batches(batch_size=16, columns=columns):
                    for row in batch.to_pylist():
                        image = nib.Nifti1Image.from_bytes(row["mask"]["bytes"])
                        mask = np.asarray(image.dataobj).astype(np.bool_).transpose(2, 1, 0)
                        i, j, k = (int(value) for value in row["roi_origin_ijk"])
                        yield row["lesion_id"], mask, (k, j, i)


def _compared(mask: BoolArray, origin: Index, truth: BoolArray, offset: Index) -> tuple[float, float]:
    """(Dice, absolute volume error) of two crops of one volume."""
    low = np.minimum(origin, offset)
    high = np.maximum(np.add(origin, mask.shape), np.add(offset, truth.shape))
    full = []
    for crop, start in ((mask, origin), (truth, offset)):
        whole = np.zeros(tuple(high - low), dtype=np.bool_)
        whole[tuple(slice(s - b, s - b + n) for s, b, n in zip(start, low, crop.shape, strict=True))] = crop
        full.append(whole)
    return dice(full[0], full[1]), abs(volume_error(full[0], full[1]))


def evaluation_cases(
    truth: Truth, truth_dir: Path, pacs_export: Path, drawings: Sequence[Drawing]
) -> Iterator[EvaluationCase]:
    """Make one case a lesion with a usable stroke of one of these kinds, from the first such stroke.

    Volumes are read back from the export, one at a time.
    """
    from cohort_builder.ct.series import load_stack, split_series
    from cohort_builder.pacs.index import index_export

    chosen: dict[str, list[tuple[Entry, Entry]]] = {}
    for lesion in truth.lesions:
        usable = [a for a in lesion["annotations"] if a["usable"] and a["drawing"] in set(drawings)]
        if usable:
            chosen.setdefault(lesion["series_instance_uid"], []).append((lesion, usable[0]))
    index = index_export(pacs_export)
    for series_uid, found in chosen.items():
        stacks, _ = split_series(index.instances(series_uid))
        volume = load_stack(max(stacks, key=lambda stack: len(stack.instances)))
        for lesion, annotation in found:
            voxels, offset = load_mask(truth_dir, lesion)
            mask = Mask(lesion["key"], voxels, offset, (1.0,) * len(voxels), "truth")
            job = SegmentationJob(lesion["key"], volume, (_prompt(annotation, volume),))
            yield EvaluationCase(lesion["key"], job, mask)
    index.close()


def _prompt(annotation: Entry, volume: Volume) -> Prompt:
    index = volume.sop_instance_uids.index(annotation["image_sop_instance_uid"])
    points = [(float(column), float(row)) for column, row in image_to_index(annotation["points"])]
    if annotation["drawing"] == Drawing.BIDIMENSIONAL:
        return Bidimensional(index, (points[0], points[1]), (points[2], points[3]))
    return (Arrow if annotation["drawing"] == Drawing.ARROW else Line)(index, points[0], points[1])
