"""Presentation states in the style of one writer or another, element by element: what highdicom would refuse to write.

Coordinates are (column, row), as they are stored.
"""

from __future__ import annotations

import io
from collections.abc import Mapping, Sequence
from copy import deepcopy
from functools import cache

import pydicom
from dicom import Point, ct_series, gsps, line, on
from pydicom.dataset import Dataset
from pydicom.sequence import Sequence as DicomSequence

from cohort_builder.annotations import read_annotations

CT = ct_series(4, spacing=(0.8, 0.8))
IMAGE = CT[1]


def graphic(*points: Point, kind: str = "POLYLINE", units: str = "PIXEL", filled: str | None = "N", **joins) -> Dataset:
    """An item of GraphicObjectSequence; ``joins``: ``compound``, ``group``, ``tracking``."""
    ds = _joined(Dataset(), joins)
    ds.GraphicAnnotationUnits, ds.GraphicDimensions, ds.NumberOfGraphicPoints = units, 2, len(points)
    ds.GraphicData = [float(v) for point in points for v in point]
    ds.GraphicType = kind
    if filled is not None:
        ds.GraphicFilled = filled
    return ds


def words(value: str, anchor: Point | None = None, *, box=None, shown: bool = False, units: str = "PIXEL", **joins):
    """An item of TextObjectSequence."""
    ds = _joined(Dataset(), joins)
    ds.UnformattedTextValue = value
    if anchor is not None:
        ds.AnchorPoint, ds.AnchorPointAnnotationUnits = list(anchor), units
        ds.AnchorPointVisibility = "Y" if shown else "N"
    if box is not None:
        ds.BoundingBoxAnnotationUnits = units
        ds.BoundingBoxTopLeftHandCorner, ds.BoundingBoxBottomRightHandCorner = list(box[:2]), list(box[2:])
        ds.BoundingBoxTextHorizontalJustification = "LEFT"
    return ds


def compound(kind: str, *points: Point, own_id: int | None = 1, units: str = "PIXEL", turn=None, about=None, **joins):
    """An item of CompoundGraphicSequence."""
    ds = _joined(Dataset(), joins)
    if own_id is not None:
        ds.CompoundGraphicInstanceID = own_id
    ds.CompoundGraphicUnits, ds.GraphicDimensions, ds.NumberOfGraphicPoints = units, 2, len(points)
    ds.GraphicData = [float(v) for point in points for v in point]
    ds.CompoundGraphicType = kind
    if turn is not None:
        ds.RotationAngle = turn
    if about is not None:
        ds.RotationPoint = list(about)
    return ds


def _joined(ds: Dataset, joins: Mapping[str, object]) -> Dataset:
    keywords = {"compound": "CompoundGraphicInstanceID", "group": "GraphicGroupID", "tracking": "TrackingUID"}
    for name, value in joins.items():
        setattr(ds, keywords[name], value)
    return ds


def item(
    *objects: Dataset, images: Sequence[Dataset] | None = (IMAGE,), frames: Sequence[int] = (), layer: str = "LAYER1"
) -> Dataset:
    """An item of GraphicAnnotationSequence; without ``images`` it has no reference of its own."""
    ds = Dataset()
    ds.GraphicLayer = layer
    if images is not None:
        ds.ReferencedImageSequence = DicomSequence([reference(image, frames) for image in images])
    for keyword, mark in (
        ("GraphicObjectSequence", "GraphicType"),
        ("TextObjectSequence", "UnformattedTextValue"),
        ("CompoundGraphicSequence", "CompoundGraphicType"),
    ):
        if found := [one for one in objects if mark in one]:
            setattr(ds, keyword, DicomSequence(found))
    return ds


def reference(image: Dataset, frames: Sequence[int] = ()) -> Dataset:
    ds = Dataset()
    ds.ReferencedSOPClassUID, ds.ReferencedSOPInstanceUID = image.SOPClassUID, image.SOPInstanceUID
    if frames:
        ds.ReferencedFrameNumber = list(frames)
    return ds


@cache
def _base() -> Dataset:
    return gsps([on(IMAGE, line((1, 1), (9, 9)))])


def state(
    *items: Dataset,
    images: Sequence[Dataset] = (IMAGE,),
    layers: Mapping[str, str] | None = None,
    groups: Mapping[int, str] | None = None,
) -> Dataset:
    """A whole presentation state of these items; ``layers`` and ``groups`` have a description or label each."""
    ds = deepcopy(_base())
    ds.GraphicAnnotationSequence = DicomSequence(items)
    ds.ReferencedSeriesSequence[0].ReferencedImageSequence = DicomSequence([reference(image) for image in images])
    ds.GraphicLayerSequence = DicomSequence([])
    for order, name in enumerate(sorted({one.GraphicLayer for one in items}), start=1):
        layer = Dataset()
        layer.GraphicLayer, layer.GraphicLayerOrder = name, order
        if layers and name in layers:
            layer.GraphicLayerDescription = layers[name]
        ds.GraphicLayerSequence.append(layer)
    if groups:
        ds.GraphicGroupSequence = DicomSequence([])
        for number, label in groups.items():
            group = Dataset()
            group.GraphicGroupID, group.GraphicGroupLabel = number, label
            ds.GraphicGroupSequence.append(group)
    for selection in ds.DisplayedAreaSelectionSequence:
        selection.ReferencedImageSequence = DicomSequence([reference(image) for image in images])
    return ds


def display(ds: Dataset, first: Sequence[int], last: Sequence[int], turn: int = 0, flip: str = "N") -> Dataset:
    """Show this area of every image, turned and flipped."""
    ds.ImageRotation, ds.ImageHorizontalFlip = turn, flip
    for selection in ds.DisplayedAreaSelectionSequence:
        selection.DisplayedAreaTopLeftHandCorner, selection.DisplayedAreaBottomRightHandCorner = list(first), list(last)
    return ds


def stored(ds: Dataset) -> Dataset:
    """The state as it comes back from a file: coordinates are 32-bit floats."""
    stream = io.BytesIO()
    ds.save_as(stream, enforce_file_format=True)
    return pydicom.dcmread(io.BytesIO(stream.getvalue()))


def read(ds: Dataset, **options):
    """Annotations and reasons of a state."""
    annotations, skips = read_annotations(stored(ds), **options)
    return annotations, [skip.reason for skip in skips]


def drawn(*objects: Dataset, **options):
    """Annotations and reasons of objects in one item on one image."""
    return read(state(item(*objects), **options))
