"""Grayscale softcopy presentation states (PS3.3 A.33.1) to annotations.

What is read: lines, bi-dimensional pairs and arrows drawn as polylines in PIXEL units, each on one image. Every other
encoding becomes a Skip whose reason names it; nothing is dropped silently. Image rotation, flip and displayed area do
not move graphics in PIXEL units (PS3.3 C.10.6) and are ignored.
"""

from __future__ import annotations

import secrets
from collections import defaultdict
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from datetime import datetime
from hashlib import blake2b
from typing import TYPE_CHECKING

from cohort_builder.gsps.captions import Caption, captions_of
from cohort_builder.gsps.graphics import classify
from cohort_builder.gsps.items import DrawnText, Item, Target, read_items
from cohort_builder.gsps.strokes import Hints, Number, Polyline, Shape
from cohort_builder.pacs.elements import is_uid, sequence, text
from cohort_builder.types import Annotation, AnnotationKind, Skip, Source

if TYPE_CHECKING:
    from pydicom.dataset import Dataset

_GSPS = "1.2.840.10008.5.1.4.1.1.11.1"
_OTHER_STATES = {
    "1.2.840.10008.5.1.4.1.1.11.2": "colour_presentation_state",
    "1.2.840.10008.5.1.4.1.1.11.3": "pseudo_colour_presentation_state",
    "1.2.840.10008.5.1.4.1.1.11.4": "blending_presentation_state",
    "1.2.840.10008.5.1.4.1.1.11.5": "xa_xrf_presentation_state",
    "1.2.840.10008.5.1.4.1.1.11.6": "planar_mpr_presentation_state",
    "1.2.840.10008.5.1.4.1.1.11.7": "planar_mpr_presentation_state",
    "1.2.840.10008.5.1.4.1.1.11.8": "advanced_blending_presentation_state",
    "1.2.840.10008.5.1.4.1.1.11.9": "volume_rendering_presentation_state",
    "1.2.840.10008.5.1.4.1.1.11.10": "volume_rendering_presentation_state",
    "1.2.840.10008.5.1.4.1.1.11.11": "volume_rendering_presentation_state",
    "1.2.840.10008.5.1.4.1.1.11.12": "variable_modality_lut_presentation_state",
}
# Tools that viewers name in the description of a layer or the label of a group, and whose lines are no diameters.
_TOOLS = {
    "angle": "angle",
    "cobb angle": "angle",
    "calibration ruler": "calibration_ruler",
    "perpendicular": "perpendicular",
    "leg length difference": "leg_length",
    "arrow": "arrow_without_head",
}
_DETAILS = {
    "angle": "an angle was drawn, not a diameter",
    "ambiguous_crossing": "more than two lines cross each other, so which belong together is not known",
    "arrow_without_head": "the layer says arrow, but no head was found, so its direction is not known",
    "calibration_ruler": "a ruler, not a diameter",
    "closed_outline": "free-hand and other closed outlines are not read yet",
    "leg_length": "a leg length measurement, not a diameter",
    "many_strokes": "more strokes in one item than a reader draws: a ruler, a grid or a picture",
    "no_graphics": "the presentation state holds no graphic annotation",
    "open_polyline": "an open polyline of several points is neither line nor arrow",
    "perpendicular": "a perpendicular drawn onto a line is no second diameter",
    "pointer": "a text that points at a place is not read yet",
    "rectangle": "rectangles are not read yet",
    "text_only": "a text that belongs to no line or arrow",
    "unrecognised_combination": "the line touches another polyline that is not understood",
    "zero_length": "the line has no length",
}
_SESSION_KEY = secrets.token_bytes(16)  # equal names get equal codes within this process, and no code leads to a name


def read_state(ds: Dataset, private: Mapping[str, str]) -> tuple[list[Annotation], list[Skip]]:
    """Read what is drawn in one presentation state; ``private`` goes into every Skip."""
    return _Reader(ds, private).read()


@dataclass(frozen=True, slots=True)
class _Bundle:
    """Strokes on one image that the object says or suggests belong together."""

    target: Target
    polylines: tuple[Polyline, ...]
    grouped: bool


class _Reader:
    """Reads one presentation state."""

    def __init__(self, ds: Dataset, private: Mapping[str, str]) -> None:
        self._ds, self._private = ds, private
        uid = text(ds, "SOPInstanceUID")
        self._uid = uid if uid is not None and is_uid(uid) else ""
        self._skips: list[Skip] = []
        self._layers = {
            text(layer, "GraphicLayer"): text(layer, "GraphicLayerDescription")
            for layer in sequence(ds, "GraphicLayerSequence")
        }
        self._groups = {
            text(group, "GraphicGroupID"): text(group, "GraphicGroupLabel")
            for group in sequence(ds, "GraphicGroupSequence")
        }

    def read(self) -> tuple[list[Annotation], list[Skip]]:
        sop_class = text(self._ds, "SOPClassUID") or ""
        if sop_class != _GSPS or not self._uid:
            reason = _OTHER_STATES.get(sop_class, "not_presentation_state")
            self._skip((), reason, "only grayscale softcopy presentation states are read", failure=not self._uid)
            return [], self._skips
        items = read_items(self._ds, on_refusal=self._skip)
        shapes: list[tuple[Target, Shape]] = []
        for bundle in _bundles(items):
            found = self._classify(bundle, items)
            shapes += [(bundle.target, shape) for shape in found]
        shapes.sort(key=lambda pair: pair[1].members)
        captions = captions_of(shapes, items)
        self._skip_texts(items, captions)
        if not shapes and not self._skips:
            self._skip((), "no_graphics", _DETAILS["no_graphics"])
        return [self._annotation(target, shape, captions) for target, shape in shapes], self._skips

    def _classify(self, bundle: _Bundle, items: Sequence[Item]) -> list[Shape]:
        texts = _texts_beside(bundle, items)
        hints = Hints(
            stated_mm=tuple(drawn.values_mm for drawn in texts if drawn.values_mm),
            angle=any(drawn.is_angle for drawn in texts),
            grouped=bundle.grouped,
        )
        shapes, refusals = classify(bundle.polylines, hints)
        for refusal in refusals:
            self._skip(refusal.members[0], refusal.reason, _DETAILS[refusal.reason])
        kept = []
        for shape in shapes:
            tool = self._tool(shape, items)
            if tool is None or (tool == "arrow_without_head" and shape.kind is AnnotationKind.ARROW):
                kept.append(shape)
            else:
                self._skip(shape.members[0], tool, _DETAILS[tool])
        return kept

    def _tool(self, shape: Shape, items: Sequence[Item]) -> str | None:
        """What the layer's description or the group's label says was drawn, if that is no diameter."""
        item = next(item for item in items if item.number == shape.members[0][0])
        names = (item.layer, self._layers.get(item.layer), self._groups.get(item.groups.get(shape.members[0])))
        return next((_TOOLS[n.casefold()] for n in names if n is not None and n.casefold() in _TOOLS), None)

    def _annotation(self, target: Target, shape: Shape, captions: Mapping[Number, Caption]) -> Annotation:
        number = shape.members[0]
        item = f"{number[0]}.{number[1]}"
        caption = captions.get(number, Caption())
        return Annotation(
            annotation_id=f"{self._uid}/{item}",
            kind=shape.kind,
            points=tuple((point.real, point.imag) for point in shape.points),
            sop_instance_uid=target.sop_instance_uid,
            series_instance_uid=target.series_instance_uid,
            study_instance_uid=text(self._ds, "StudyInstanceUID") or "",
            source=Source(self._uid, item, shape.rule),
            stated_mm=caption.values_mm,
            label=caption.label,
            drawn_at=_drawn_at(self._ds),
            drawn_by_group=_drawn_by_group(self._ds),
        )

    def _skip_texts(self, items: Iterable[Item], captions: Mapping[Number, Caption]) -> None:
        used = {number for caption in captions.values() for number in caption.members}
        for item in items:
            for drawn in item.texts:
                if drawn.number not in used:
                    reason = "pointer" if drawn.points else "text_only"
                    self._skip((item.number,), reason, _DETAILS[reason])

    def _skip(self, number: tuple[int, ...], reason: str, detail: str, *, failure: bool = False) -> None:
        place = ".".join(str(n) for n in number)
        private = {"sop_instance_uid": self._uid, "item": place, **self._private}
        item = f"{self._uid}/{place}" if place else self._uid or "presentation state"
        self._skips.append(Skip("annotations", item, reason, detail, failure=failure, private=private))


def _bundles(items: Iterable[Item]) -> list[_Bundle]:
    """By image and graphic group where the writer gives one, else by image and item."""
    found: dict[tuple[Target, str], list[Polyline]] = defaultdict(list)
    for item in items:
        for polyline in item.polylines:
            group = item.groups.get(polyline.number)
            found[item.target, f"item {item.number}" if group is None else f"group {group}"].append(polyline)
    return [_Bundle(target, tuple(lines), key.startswith("group")) for (target, key), lines in found.items()]


def _texts_beside(bundle: _Bundle, items: Iterable[Item]) -> list[DrawnText]:
    """Texts of the items that the strokes stand in; of their group alone, where the strokes are grouped."""
    numbers = {polyline.number for polyline in bundle.polylines}
    inside = [item for item in items if any(polyline.number in numbers for polyline in item.polylines)]
    groups = {item.groups.get(number) for item in inside for number in numbers} - {None}
    if bundle.grouped:
        return [
            drawn for item in items for drawn in item.texts if drawn.group in groups and item.target == bundle.target
        ]
    return [drawn for item in inside for drawn in item.texts if drawn.group is None]


def _drawn_at(ds: Dataset) -> datetime | None:
    """Presentation Creation Date and Time, in the hospital's own time."""
    day, time = text(ds, "PresentationCreationDate") or "", text(ds, "PresentationCreationTime") or ""
    digits = day.replace(".", "") + (time.replace(":", "").partition(".")[0] + "000000")[:6]
    try:
        return datetime.strptime(digits, "%Y%m%d%H%M%S")  # noqa: DTZ007 - DICOM times carry no zone of their own
    except ValueError:
        return None


def _drawn_by_group(ds: Dataset) -> str | None:
    name = text(ds, "ContentCreatorName")
    if name is None:
        return None
    return blake2b(name.casefold().encode(), digest_size=4, key=_SESSION_KEY).hexdigest()
