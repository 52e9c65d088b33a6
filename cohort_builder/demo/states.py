"""Strokes on lesions, and the presentation states (GSPS, PS3.3 A.33.1) that two kinds of workstations save them in.

Points are (column, row) in the standard's image coordinates: (0, 0) is the top left corner of the first pixel.
"""

from __future__ import annotations

from collections.abc import Sequence
from copy import deepcopy
from dataclasses import dataclass
from datetime import datetime, timedelta
from math import hypot
from typing import Any

import numpy as np
from numpy.typing import NDArray
from pydicom.dataset import Dataset

from cohort_builder.demo.dicom import uid
from cohort_builder.demo.plan import Drawing, ExamPlan, PatientPlan
from segmentation.geometry import index_to_image
from segmentation.phantoms import PhantomLesion
from segmentation.prompts import draw_arrow, draw_bidimensional, draw_line
from segmentation.types import Point

_LARGE_SECTION = 0.75
_TICK_PX = 3.0
_HEAD_PX = 7.0
_TEXT_BOX_PX = (70.0, 14.0)


@dataclass(frozen=True, slots=True)
class Stroke:
    """One annotation on one image.

    Parameters
    ----------
    lesion_key
        What it was drawn on; None for what is on no lesion.
    points
        A line's two ends; long then short axis; an arrow's tail and head; the four ends of an ellipse's axes.
    label
        Text drawn beside it, or the text itself where there are no points.
    on_absent_image
        Its image was not exported.

    """

    lesion_key: str | None
    drawing: Drawing
    slice_index: int
    points: tuple[Point, ...]
    diameters_mm: tuple[float, ...]
    label: str = ""
    on_absent_image: bool = False

    @property
    def is_usable(self) -> bool:
        """Whether the pipeline can be expected to segment from it."""
        return self.drawing.is_usable and not self.on_absent_image


@dataclass(frozen=True, slots=True, eq=False)
class SavedState:
    """A presentation state and the strokes of its items, in order."""

    dataset: Dataset
    strokes: tuple[Stroke, ...]
    reader: str
    resaved: bool


@dataclass(frozen=True, slots=True)
class Workstation:
    """How a vendor saves annotations.

    Parameters
    ----------
    per_image
        One object for each image, else one for all that a reader drew in the study.
    ticks
        A short line across the middle of a single line.
    label
        Format of the value beside a measurement.
    boxed
        Text stands in a bounding box, else at an anchor point.

    """

    manufacturer: str
    model: str
    layer: str
    per_image: bool
    ticks: bool
    label: str
    boxed: bool


_WORKSTATIONS = (
    Workstation(
        "Meridian Imaging", "ReadStation", "MEASUREMENTS", per_image=False, ticks=False, label="mm", boxed=True
    ),
    Workstation("Lumenview", "Reader 5", "DISTANCE", per_image=True, ticks=True, label="cm", boxed=False),
    Workstation("Lumenview", "Reader 3", "ANNOTATIONS", per_image=False, ticks=False, label="", boxed=False),
)


def workstation_of(plan: PatientPlan, exam: ExamPlan) -> Workstation:
    """Return the workstation on which the exam was read."""
    return _WORKSTATIONS[(plan.index + int(exam.key[-1])) % len(_WORKSTATIONS)]


def draw(
    lesion: PhantomLesion, key: str, drawing: Drawing, spacing_mm: Sequence[float], rng: np.random.Generator
) -> Stroke:
    """Draw on a lesion as a radiologist does; ``Drawing.NONE`` measures it all the same, without saving.

    Returns
    -------
    Points rounded to the 32-bit floats that a presentation state holds; diameters of these points.

    """
    offset = np.array([lesion.offset[2], lesion.offset[1]], dtype=np.float64)
    areas = lesion.mask.sum(axis=(1, 2))
    # Readers scroll to where a lesion is largest: not to the tip of one that spans two or three slices.
    mask = lesion.mask & (areas >= _LARGE_SECTION * areas.max())[:, None, None]
    index: list[Point]
    if drawing is Drawing.ARROW:
        arrow = draw_arrow(mask, rng, spacing_mm=spacing_mm)
        row, index = arrow.slice_index, [arrow.tail, arrow.head]
    elif drawing in {Drawing.BIDIMENSIONAL, Drawing.ELLIPSE}:
        pair = draw_bidimensional(mask, rng, spacing_mm=spacing_mm)
        row, index = pair.slice_index, [*pair.long_axis, *pair.short_axis]
    else:
        line = draw_line(mask, rng, spacing_mm=spacing_mm)
        row, index = line.slice_index, [line.start, line.end]
    points = index_to_image(np.array(index) + offset).astype(np.float32)
    if drawing is Drawing.ELLIPSE:  # its axes halve each other
        points[2:] += points[:2].mean(axis=0) - points[2:].mean(axis=0)
    ends = tuple((float(column), float(row_)) for column, row_ in points)
    lengths = (
        [] if drawing is Drawing.ARROW else [_length(ends[i], ends[i + 1], spacing_mm) for i in range(0, len(ends), 2)]
    )
    return Stroke(key, drawing, lesion.offset[0] + row, ends, tuple(sorted(lengths, reverse=True)))


def _length(first: Point, second: Point, spacing_mm: Sequence[float]) -> float:
    return hypot((second[0] - first[0]) * spacing_mm[-1], (second[1] - first[1]) * spacing_mm[-2])


def labelled(stroke: Stroke, station: Workstation) -> str:
    """Text that the workstation writes beside a stroke: "12.3 mm", "1.23 cm", "23.1 x 18.0 mm", or nothing."""
    if not station.label or not stroke.drawing.is_measured:
        return stroke.label
    if station.label == "cm" and len(stroke.diameters_mm) == 1:
        return f"{stroke.diameters_mm[0] / 10:.1f} cm"
    return " x ".join(f"{value:.1f}" for value in stroke.diameters_mm) + " mm"


def saved_states(
    plan: PatientPlan,
    exam: ExamPlan,
    images: Sequence[Dataset],
    strokes: Sequence[Stroke],
    *,
    reader: int,
    again: bool = False,
) -> list[SavedState]:
    """Save what one reader drew in one study.

    Parameters
    ----------
    images
        Headers of the CT series, from the feet up; those without their own object may miss pixels.
    again
        The reader opened the study once more and saved it unchanged: other objects, the same graphics.

    """
    station = workstation_of(plan, exam)
    groups: dict[object, list[Stroke]] = {}
    for stroke in strokes:
        groups.setdefault((stroke.slice_index, stroke.on_absent_image) if station.per_image else 0, []).append(stroke)
    doctor = plan.readers[reader]
    created = exam.acquired_at + timedelta(minutes=20 + 90 * reader + (35 if again else 0))
    result = []
    for number, group in enumerate(groups.values(), start=1):
        name = (exam.key, "state", reader, again, number)
        dataset = _state(plan, exam, images, group, name=name, created=created + timedelta(seconds=40 * number))
        result.append(SavedState(dataset, tuple(group), doctor.dicom_name, again))
    return result


def _state(
    plan: PatientPlan,
    exam: ExamPlan,
    images: Sequence[Dataset],
    strokes: Sequence[Stroke],
    *,
    name: tuple[str, str, int, bool, int],
    created: datetime,
) -> Dataset:
    from highdicom import pr

    station = workstation_of(plan, exam)
    *_, reader, again, number = name
    doctor = plan.readers[reader]
    layer = pr.GraphicLayer(station.layer, order=1)
    under = [
        _absent(plan, exam, images[s.slice_index]) if s.on_absent_image else images[s.slice_index] for s in strokes
    ]
    referenced = {str(image.SOPInstanceUID): image for image in under}
    state: Dataset = pr.GrayscaleSoftcopyPresentationState(
        referenced_images=list(referenced.values()),
        series_instance_uid=uid(plan, *name[:-1], "series"),
        series_number=900 + 2 * reader + again,
        sop_instance_uid=uid(plan, *name),
        instance_number=number,
        manufacturer=station.manufacturer,
        manufacturer_model_name=station.model,
        software_versions="5.1",
        device_serial_number="4711",
        content_label="MEASUREMENTS",
        graphic_annotations=[_item(pr, s, image, layer, station) for s, image in zip(strokes, under, strict=True)],
        graphic_layers=[layer],
        institution_name=plan.institution,
        content_creator_name=doctor.dicom_name,
    )
    state.SpecificCharacterSet = images[0].SpecificCharacterSet
    del state.ContributingEquipmentSequence  # names the library and the time of this run
    for prefix in ("PresentationCreation", "InstanceCreation", "Content", "Series"):
        if prefix in {"PresentationCreation", "InstanceCreation"} or f"{prefix}Date" in state:
            setattr(state, f"{prefix}Date", f"{created:%Y%m%d}")
            setattr(state, f"{prefix}Time", f"{created:%H%M%S}")
    # Type 2C; validators want it since the CT names no paired body part.
    state.Laterality = ""
    return state


def _absent(plan: PatientPlan, exam: ExamPlan, image: Dataset) -> Dataset:
    """Header of an image of another reconstruction that nobody exported."""
    absent = deepcopy(image)
    absent.SOPInstanceUID = uid(plan, exam.key, "absent", str(image.SOPInstanceUID))
    absent.SeriesInstanceUID = uid(plan, exam.key, "absent series")
    absent.file_meta.MediaStorageSOPInstanceUID = absent.SOPInstanceUID
    return absent


def _item(pr: Any, stroke: Stroke, image: Dataset, layer: Any, station: Workstation) -> Any:
    graphics = [
        pr.GraphicObject(kind, np.asarray(points, dtype=np.float64), units="PIXEL", is_filled=False)
        for kind, points in _graphics(stroke, station)
    ]
    text = labelled(stroke, station)
    texts = [_text(pr, text, stroke, station)] if text else []
    return pr.GraphicAnnotation(
        referenced_images=[image], graphic_layer=layer, graphic_objects=graphics or None, text_objects=texts or None
    )


def _text(pr: Any, text: str, stroke: Stroke, station: Workstation) -> Any:
    column, row = max(stroke.points, default=(30.0, 40.0))
    column, row = min(column + 6.0, 512 - _TEXT_BOX_PX[0]), min(row + 4.0, 512 - _TEXT_BOX_PX[1])
    if station.boxed or not stroke.points:
        box = (column, row, column + _TEXT_BOX_PX[0], row + _TEXT_BOX_PX[1])
        return pr.TextObject(text, units="PIXEL", bounding_box=box)
    return pr.TextObject(text, units="PIXEL", anchor_point=(column, row), anchor_point_visible=False)


def _graphics(stroke: Stroke, station: Workstation) -> list[tuple[str, NDArray[np.float64]]]:
    points = np.array(stroke.points, dtype=np.float64)
    if stroke.drawing is Drawing.ELLIPSE:
        return [("ELLIPSE", points)]
    if stroke.drawing is Drawing.BIDIMENSIONAL:
        return [("POLYLINE", points[:2]), ("POLYLINE", points[2:])]
    if stroke.drawing is Drawing.ARROW:
        return _arrow(points[0], points[1], one_stroke=station.per_image)
    if stroke.drawing is Drawing.LINE:
        tick = [("POLYLINE", _tick(points[0], points[1]))] if station.ticks else []
        return [("POLYLINE", points), *tick]
    return []


def _tick(start: NDArray[np.float64], end: NDArray[np.float64]) -> NDArray[np.float64]:
    """A short line across the middle."""
    along = (end - start) / max(float(np.hypot(*(end - start))), 1e-6)
    across = np.array([-along[1], along[0]]) * min(_TICK_PX, 0.15 * float(np.hypot(*(end - start))))
    middle = (start + end) / 2
    return np.array([middle - across, middle + across])


def _arrow(
    tail: NDArray[np.float64], head: NDArray[np.float64], *, one_stroke: bool
) -> list[tuple[str, NDArray[np.float64]]]:
    """Shaft and head as two polylines, or as one that returns to the tip."""
    back = (tail - head) / np.hypot(*(tail - head))
    side = np.array([-back[1], back[0]])
    left, right = (head + _HEAD_PX * (back + sign * 0.45 * side) for sign in (1, -1))
    if one_stroke:
        return [("POLYLINE", np.array([tail, head, left, head, right]))]
    return [("POLYLINE", np.array([tail, head])), ("POLYLINE", np.array([left, head, right]))]
