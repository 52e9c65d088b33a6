"""What was drawn, whatever it is stored in: presentation states and structured reports to annotations."""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Iterable, Mapping
from io import BytesIO
from pathlib import Path
from typing import TYPE_CHECKING

from cohort_builder.gsps.reader import read_state
from cohort_builder.gsps.units import PixelOrigin
from cohort_builder.pacs.bombs import Patience, is_bomb
from cohort_builder.pacs.elements import READ_ERRORS, is_truncated, quietly, text
from cohort_builder.pacs.headers import Instance
from cohort_builder.pacs.objects import open_object
from cohort_builder.sr.reader import read_report
from cohort_builder.types import Annotation, AnnotationKind, Point2D, Skip

if TYPE_CHECKING:
    from pydicom.dataset import Dataset

_REPORTS = "1.2.840.10008.5.1.4.1.1.88."  # every SR storage class (PS3.4 B.5)
_MOST_BYTES = 16 * 1024 * 1024
_MOST_ITEMS = 50_000
_SAME_PX = 0.1


def read_annotations(
    source: str | Path | Instance | Dataset, *, pixel_origin: Mapping[str, str] | None = None
) -> tuple[list[Annotation], list[Skip]]:
    """Read what is drawn in one presentation state or structured report.

    Parameters
    ----------
    source
        A file, an object of an index, or a pydicom dataset.
    pixel_origin
        Writers that do not count pixels as the standard does, to what they do: "manufacturer", "manufacturer/model" or
        "manufacturer/model/version" (in any case, the most exact that fits wins) to "corner" (the standard: (0, 0) is
        the corner of the first pixel), "center" ((0, 0) is its centre) or "one_based" ((1, 1) is its centre). Their
        points are brought to the corner, which the rule says; points in DISPLAY units are not touched.

    Returns
    -------
    Annotations in the order of the object, and a Skip for everything that is not one of the encodings read
    (docs/skips.md lists the reasons, docs/annotations.md the rules). ``Annotation.points`` are (column, row), corner
    origin. ``annotation_id`` is the SOP Instance UID, a slash and ``Source.item``: of a presentation state, the
    numbers, from 1, of the graphic annotation item and of the first graphic object in it ("2.1"; "2.C1" counts the
    compound graphics, "2.T1" the texts). ``stated_mm`` are lengths written beside it, ``label`` the raw text (private).
    ``drawn_by_group`` tells readers apart within one process only: it is a keyed code, and the key is never kept.

    Raises
    ------
    ValueError
        ``pixel_origin`` holds another value.

    """
    origins = pixel_origin or {}
    for origin in origins.values():
        PixelOrigin(origin)
    with quietly():
        if not isinstance(source, str | Path | Instance):
            return _read(source, {}, origins)
        private = {"path": str(source.path if isinstance(source, Instance) else source)}
        loaded = _load(source, private)
        return ([], [loaded]) if isinstance(loaded, Skip) else _read(loaded, private, origins)


def _read(ds: Dataset, private: Mapping[str, str], origins: Mapping[str, str]) -> tuple[list[Annotation], list[Skip]]:
    read = read_report if (text(ds, "SOPClassUID") or "").startswith(_REPORTS) else read_state
    return read(ds, private, pixel_origin=origins)


def deduplicate(annotations: Iterable[Annotation]) -> tuple[list[Annotation], list[Skip]]:
    """Of the same annotation saved several times, keep the one in the newest object, of whatever class.

    The same means: the same image and frame, kind and points (to 0.1 pixel, whichever end or corner comes first).

    Returns
    -------
    The annotations kept, in the order given, and a Skip ``superseded`` for each of the others.

    """
    annotations = list(annotations)
    kept: dict[tuple[object, ...], list[Annotation]] = defaultdict(list)
    instead: dict[int, Annotation] = {}
    for i in sorted(range(len(annotations)), key=lambda i: _age(annotations[i]), reverse=True):
        annotation = annotations[i]
        place = _middle(annotation)
        around = [_cell(annotation, place, dx, dy) for dx in (-1, 0, 1) for dy in (-1, 0, 1)]
        same = next((other for cell in around for other in kept.get(cell, ()) if _is_same(annotation, other)), None)
        if same is not None:
            instead[i] = same
        else:
            kept[_cell(annotation, place, 0, 0)].append(annotation)
    skips = [
        Skip(
            "annotations",
            annotation.annotation_id,
            "superseded",
            f"the same annotation is kept from {_whence(annotation, instead[i])}",
            private={"sop_instance_uid": annotation.source.sop_instance_uid, "item": annotation.source.item},
        )
        for i, annotation in enumerate(annotations)
        if i in instead
    ]
    return [annotation for i, annotation in enumerate(annotations) if i not in instead], skips


def _whence(gone: Annotation, kept: Annotation) -> str:
    if gone.source.sop_instance_uid == kept.source.sop_instance_uid:
        return "another item of this object"
    return "another object of the same time" if gone.drawn_at == kept.drawn_at else "a newer object"


def _middle(annotation: Annotation) -> Point2D:
    n = len(annotation.points)
    return sum(x for x, _ in annotation.points) / n, sum(y for _, y in annotation.points) / n


def _cell(annotation: Annotation, place: Point2D, dx: int, dy: int) -> tuple[object, ...]:
    """Key of one image, kind and number of points at about one place: cells around it hold all that may be the same."""
    image = annotation.sop_instance_uid, annotation.frame_number, annotation.kind, len(annotation.points)
    return *image, int(place[0] // _SAME_PX) + dx, int(place[1] // _SAME_PX) + dy


def _is_same(one: Annotation, other: Annotation) -> bool:
    """Whether every point of one lies on its counterpart, in one of the orders that mean the same."""
    a, b = one.points, other.points
    if one.kind in {AnnotationKind.BOX, AnnotationKind.OUTLINE}:
        first = min(range(len(b)), key=lambda i: abs(b[i][0] - a[0][0]) + abs(b[i][1] - a[0][1]))
        forward = b[first:] + b[:first]
        return _coincide(a, forward) or _coincide(a, forward[:1] + forward[:0:-1])
    if one.kind in {AnnotationKind.ARROW, AnnotationKind.POINTER}:
        return _coincide(a, b)
    either_axis_first = (b, b[2:] + b[:2])  # of two that are as long as each other
    return any(
        all(
            _coincide(a[i : i + 2], c[i : i + 2]) or _coincide(a[i : i + 2], c[i : i + 2][::-1])
            for i in range(0, len(a), 2)
        )
        for c in either_axis_first
    )


def _coincide(a: tuple[Point2D, ...], b: tuple[Point2D, ...]) -> bool:
    return all(abs(p[0] - q[0]) <= _SAME_PX and abs(p[1] - q[1]) <= _SAME_PX for p, q in zip(a, b, strict=True))


def _age(annotation: Annotation) -> tuple[str, str]:
    return annotation.drawn_at.isoformat() if annotation.drawn_at else "", annotation.annotation_id


def _load(source: str | Path | Instance, private: Mapping[str, str]) -> Dataset | Skip:
    import pydicom

    try:
        with open_object(source) if isinstance(source, Instance) else Path(source).open("rb") as stream:
            content = stream.read(_MOST_BYTES + 1)
        if len(content) > _MOST_BYTES or is_bomb(BytesIO(content), most_items=_MOST_ITEMS, most_inflated=_MOST_BYTES):
            reason, detail = "too_large", "larger, or of more sequence items, than what a reader draws in one object"
        else:
            ds = pydicom.dcmread(Patience(BytesIO(content)), force=True)
            if not is_truncated(ds):
                return ds
            reason, detail = "truncated", "the file ends in the middle; export it again"
    except READ_ERRORS as error:
        reason, detail = "unreadable_dicom", f"the object cannot be parsed ({type(error).__name__})"
    return Skip("annotations", "presentation state", reason, detail, failure=True, private=private)
