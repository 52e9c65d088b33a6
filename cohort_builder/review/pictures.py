"""The picture of each link to review: the one slice under the lesion's first stroke, read on its own."""

from __future__ import annotations

import hashlib
import io
import json
import os
from collections.abc import Callable, Iterable, Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from cohort_builder.ct.pixels import read_hounsfield
from cohort_builder.pacs.index import open_index
from cohort_builder.targets.carrying import slice_key
from cohort_builder.types import Lesion, LocatedAnnotation
from segmentation.geometry import image_to_index
from segmentation.types import GeometryError

if TYPE_CHECKING:
    from PIL.Image import Image

    from cohort_builder.pacs.headers import Instance
    from cohort_builder.pacs.index import Index
    from exports.slices import DrawnSlice

FOLDER = "review"
_DRAWN_FROM = "drawn-from"  # keyword of the PNG's text chunk
_STYLE = "1"  # a change of the layout draws all pictures again


def image_of(lesion: Lesion, all_lesions: Iterable[Lesion]) -> dict[str, Any]:
    """What to draw for a lesion: its first stroke's image, its strokes there, and those of other lesions there."""
    drawn = lesion.annotations[0].annotation
    key = slice_key(drawn)
    others = [other for other in all_lesions if other.lesion_id != lesion.lesion_id]
    return {
        "sop_instance_uid": drawn.sop_instance_uid,
        "frame_number": drawn.frame_number,
        "strokes": [_stroke(a) for a in lesion.annotations if slice_key(a.annotation) == key],
        "others": [_stroke(a) for o in others for a in o.annotations if slice_key(a.annotation) == key],
    }


def _stroke(located: LocatedAnnotation) -> list[Any]:
    return [located.annotation.kind.value, image_to_index(located.annotation.points).tolist()]


def draw_reviews(
    private: Path,
    candidates: Iterable[Mapping[str, Any]],
    *,
    keep: Iterable[Mapping[str, str]],
    on_each: Callable[[], None],
) -> list[dict[str, str]]:
    """Draw what is not drawn yet into ``private/review/``, and remove the pictures that no row names any more.

    Returns
    -------
    The cells of each candidate, ``picture`` filled: a path below ``private/``, empty where the image cannot be read.

    """
    folder = private / FOLDER
    folder.mkdir(mode=0o700, exist_ok=True)
    rows = []
    index = open_index(private / "index.sqlite")
    try:
        for candidate in candidates:
            path = folder / f"{candidate['cells']['review_id']}.png"
            drawn = _draw(path, candidate, index)
            rows.append({**candidate["cells"], "picture": f"{FOLDER}/{path.name}" if drawn else ""})
            on_each()
    finally:
        index.close()
    wanted = {row["picture"] for row in [*rows, *keep]}
    for path in folder.iterdir():
        if f"{FOLDER}/{path.name}" not in wanted:
            path.unlink()
    return rows


def _draw(path: Path, candidate: Mapping[str, Any], index: Index) -> bool:
    """Draw one picture, unless the same one is there; False where it cannot be drawn."""
    cells, image = candidate["cells"], candidate["image"]
    instance = index.instance(image["sop_instance_uid"], image["frame_number"])
    if instance is None:
        return False
    facts = _facts(cells)
    parts = [_STYLE, candidate["text"], candidate["highlight"], facts, image]
    digest = hashlib.sha256(json.dumps(parts).encode()).hexdigest()
    if _drawn_from(path) == digest:
        return True
    try:
        drawn = _slice(instance, image)
    except GeometryError:  # the lesion has no volume either, and a Skip that says so
        return False
    from exports.slices import slice_picture

    start, end = candidate["highlight"]
    _save(path, slice_picture(drawn, candidate["text"], (start, end), facts), digest)
    return True


def _slice(instance: Instance, image: Mapping[str, Any]) -> DrawnSlice:
    from exports.slices import DrawnSlice

    strokes, others = (
        [(kind, np.asarray(points, dtype=np.float64)) for kind, points in image[name]] for name in ("strokes", "others")
    )
    return DrawnSlice(
        image=read_hounsfield(instance),
        spacing_mm=instance.pixel_spacing or (1.0, 1.0),
        strokes=strokes,
        others=others,
        letters=_letters(instance.image_orientation or (1.0, 0.0, 0.0, 0.0, 1.0, 0.0)),
    )


def _letters(orientation: Sequence[float]) -> tuple[str, str, str, str]:
    """Where the left, right, top and bottom of the image lie in the patient (PS3.3 C.7.6.1.1.1)."""
    ends = []
    for direction in (orientation[:3], orientation[3:]):
        axis = max(range(3), key=lambda i: abs(direction[i]))
        towards, away = ("LR", "PA", "HF")[axis]
        ends.append((away, towards) if direction[axis] > 0 else (towards, away))
    (left, right), (top, bottom) = ends
    return left, right, top, bottom


def _facts(cells: Mapping[str, str]) -> list[str]:
    """Sizes and places. What the linker thinks stands in the file alone: a picture should not suggest the answer."""
    facts = [
        f"{word} (mm): {cells[name]}" for word, name in (("said", "said_mm"), ("drawn", "drawn_mm")) if cells[name]
    ]
    return [*facts, *cells["lesion"].split("; ")]


def _drawn_from(path: Path) -> str | None:
    """What an existing picture was drawn from."""
    from PIL import Image, UnidentifiedImageError

    try:
        with Image.open(path) as picture:
            return str(picture.info.get(_DRAWN_FROM))
    except (OSError, UnidentifiedImageError):
        return None


def _save(path: Path, picture: Image, digest: str) -> None:
    """Write a picture whole or not at all, for its owner alone."""
    from PIL.PngImagePlugin import PngInfo

    info, stream = PngInfo(), io.BytesIO()
    info.add_text(_DRAWN_FROM, digest)
    picture.save(stream, format="PNG", pnginfo=info)
    temporary = path.with_suffix(".tmp")
    descriptor = os.open(temporary, os.O_WRONLY | os.O_CREAT | os.O_TRUNC, 0o600)
    with os.fdopen(descriptor, "wb") as file:
        file.write(stream.getvalue())
    temporary.replace(path)
