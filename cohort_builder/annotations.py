"""What was drawn, whatever it is stored in: presentation states and structured reports to annotations."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping
from pathlib import Path
from typing import TYPE_CHECKING, TypeAlias

from cohort_builder.gsps.reader import read_state
from cohort_builder.pacs.elements import READ_ERRORS, is_truncated, quietly
from cohort_builder.pacs.headers import Instance
from cohort_builder.pacs.objects import open_object
from cohort_builder.types import Annotation, AnnotationKind, Skip

if TYPE_CHECKING:
    from pydicom.dataset import Dataset

Reader: TypeAlias = "Callable[[Dataset, Mapping[str, str]], tuple[list[Annotation], list[Skip]]]"
"""Reads one object; the mapping goes into the ``private`` of every Skip."""


def read_annotations(path_or_dataset: str | Path | Instance | Dataset) -> tuple[list[Annotation], list[Skip]]:
    """Read what is drawn in one presentation state.

    Parameters
    ----------
    path_or_dataset
        A file, an object of an index, or a pydicom dataset.

    Returns
    -------
    Annotations in the order of the object, and a Skip for everything that is not one of the encodings read
    (docs/skips.md lists the reasons). ``Annotation.points`` are (column, row) as stored, corner origin.
    ``annotation_id`` is the SOP Instance UID, a slash and ``Source.item``: the numbers, from 1, of the graphic
    annotation item and of the first graphic object in it. ``stated_mm`` are lengths written beside it, ``label`` the
    raw text (private). ``drawn_by_group`` tells readers apart within one process only: it is a keyed code, and the key
    is never kept.

    """
    with quietly():
        if not isinstance(path_or_dataset, str | Path | Instance):
            return _read(path_or_dataset, {})
        path = path_or_dataset.path if isinstance(path_or_dataset, Instance) else Path(path_or_dataset)
        private = {"path": str(path)}
        loaded = _load(path_or_dataset, private)
        return ([], [loaded]) if isinstance(loaded, Skip) else _read(loaded, private)


def _read(ds: Dataset, private: Mapping[str, str]) -> tuple[list[Annotation], list[Skip]]:
    return read_state(ds, private)


def deduplicate(annotations: Iterable[Annotation]) -> tuple[list[Annotation], list[Skip]]:
    """Of the same annotation saved several times, keep the one in the newest presentation state.

    The same means: the same image, kind and points (to 0.1 pixel, whichever end comes first).

    Returns
    -------
    The annotations kept, in the order given, and a Skip ``superseded`` for each of the others.

    """
    annotations = list(annotations)
    newest: dict[tuple[object, ...], Annotation] = {}
    for annotation in annotations:
        before = newest.get(_identity(annotation))
        if before is None or _age(annotation) > _age(before):
            newest[_identity(annotation)] = annotation
    kept = {id(annotation) for annotation in newest.values()}
    skips = [
        Skip(
            "annotations",
            annotation.annotation_id,
            "superseded",
            "the same annotation stands in a newer presentation state",
            private={"sop_instance_uid": annotation.source.sop_instance_uid, "item": annotation.source.item},
        )
        for annotation in annotations
        if id(annotation) not in kept
    ]
    return [annotation for annotation in annotations if id(annotation) in kept], skips


def _identity(annotation: Annotation) -> tuple[object, ...]:
    points = [(round(x, 1), round(y, 1)) for x, y in annotation.points]
    if annotation.kind in {AnnotationKind.LINE, AnnotationKind.BIDIMENSIONAL}:
        points = [point for i in range(0, len(points), 2) for point in sorted(points[i : i + 2])]
    return annotation.sop_instance_uid, annotation.frame_number, annotation.kind, tuple(points)


def _age(annotation: Annotation) -> tuple[str, str]:
    return annotation.drawn_at.isoformat() if annotation.drawn_at else "", annotation.annotation_id


def _load(source: str | Path | Instance, private: Mapping[str, str]) -> Dataset | Skip:
    import pydicom

    try:
        with open_object(source) if isinstance(source, Instance) else Path(source).open("rb") as stream:
            ds = pydicom.dcmread(stream, force=True)
        if not is_truncated(ds):
            return ds
        reason, detail = "truncated", "the file ends in the middle; export it again"
    except READ_ERRORS as error:
        reason, detail = "unreadable_dicom", f"the object cannot be parsed ({type(error).__name__})"
    return Skip("annotations", "presentation state", reason, detail, failure=True, private=private)
