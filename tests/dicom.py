"""Builders of small, valid DICOM objects: CT series, localizers and presentation states, with one defect each if asked.

CT by pydicom, presentation states by highdicom (which refuses to build an invalid one), so that what the reader is
tested against was written by somebody else. Coordinates of graphics are (column, row), corner origin, as in the standard.
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from copy import deepcopy
from dataclasses import dataclass
from datetime import datetime
from pathlib import Path

import numpy as np
from numpy.typing import ArrayLike, NDArray
from pydicom.dataset import Dataset, FileDataset, FileMetaDataset
from pydicom.sequence import Sequence as DicomSequence
from pydicom.uid import CTImageStorage, ExplicitVRLittleEndian, generate_uid

Point = tuple[float, float]
AXIAL = (1.0, 0.0, 0.0, 0.0, 1.0, 0.0)
SAGITTAL = (0.0, 1.0, 0.0, 0.0, 0.0, -1.0)
INTERCEPT = -1024.0
CREATED = datetime(2024, 3, 5, 11, 30)  # noqa: DTZ001 - DICOM times are the hospital's own


def uid(*words: object) -> str:
    """The same UID for the same words."""
    return str(generate_uid(prefix="1.2.826.0.1.3680043.10.999.", entropy_srcs=[repr(words)]))


@dataclass(frozen=True)
class Patient:
    """Who it is: every field lands in the headers. ``name`` keys the UIDs of the patient's studies."""

    name: str = "Muster^Erika"
    patient_id: str = "0012345"
    birth_date: str = "19500102"
    sex: str = "F"
    age: str = "074Y"


@dataclass(frozen=True)
class StudyInfo:
    """One examination of a patient."""

    patient: Patient = Patient()
    accession_number: str = "ACC0001"
    date: str = "20240305"
    time: str = "101500"
    study_id: str = "ST1"

    @property
    def study_instance_uid(self) -> str:
        return uid("study", self.patient.name, self.patient.patient_id, self.accession_number, self.date)


def ct_series(
    n: int = 8,
    *,
    study: StudyInfo = StudyInfo(),
    number: int = 2,
    shape: tuple[int, int] = (64, 64),
    spacing: tuple[float, float] = (0.8, 0.7),
    step_mm: float = 2.5,
    origin: Sequence[float] = (-22.0, -25.0, 40.0),
    orientation: Sequence[float] = AXIAL,
    positions: Iterable[Sequence[float]] | None = None,
    voxels: ArrayLike | None = None,
    slope: float | Sequence[float] = 1.0,
    intercept: float = INTERCEPT,
    signed: bool = False,
    bits_stored: int = 16,
    padding: int | None = None,
    padding_limit: int | None = None,
    frame_of_reference_uid: str | None = None,
    series_instance_uid: str | None = None,
    acquisition_number: int = 1,
    kernel: str = "STANDARD",
    image_type: Sequence[str] = ("ORIGINAL", "PRIMARY", "AXIAL"),
) -> list[FileDataset]:
    """A CT series, one dataset a slice along the positive slice normal. ``voxels`` are (slice, row, column) HU.

    Without ``voxels`` every slice is a smooth pattern that differs in each slice, row and column. ``spacing`` is (row,
    column); ``positions`` (LPS mm) replace the regular ones. ``slope`` may be one number a slice.
    """
    normal = np.cross(orientation[:3], orientation[3:])
    if positions is None:
        positions = [np.asarray(origin) + i * step_mm * normal for i in range(n)]
    where = [np.asarray(p, dtype=float) for p in positions]
    hounsfield = _pattern(len(where), shape) if voxels is None else np.asarray(voxels, dtype=float)
    slopes = [float(slope)] * len(where) if isinstance(slope, int | float) else [float(s) for s in slope]
    series = series_instance_uid or uid("series", study.study_instance_uid, number)
    frame = frame_of_reference_uid or uid("frame", study.study_instance_uid)
    datasets = []
    for i, (position, hu, factor) in enumerate(zip(where, hounsfield, slopes, strict=True)):
        ds = _ct_header(study, series, frame, number)
        ds.ImageType = list(image_type)
        ds.SOPInstanceUID = uid("image", series, acquisition_number, i, tuple(np.round(position, 4)))
        ds.file_meta.MediaStorageSOPInstanceUID = ds.SOPInstanceUID
        ds.InstanceNumber = i + 1
        ds.AcquisitionNumber = acquisition_number
        ds.ConvolutionKernel = kernel
        ds.ImagePositionPatient = [round(float(v), 6) for v in position]
        ds.ImageOrientationPatient = [round(float(v), 9) for v in orientation]
        ds.PixelSpacing = [float(v) for v in spacing]
        ds.SliceThickness = float(step_mm)
        ds.RescaleSlope, ds.RescaleIntercept, ds.RescaleType = factor, intercept, "HU"
        set_pixels(ds, np.rint((hu - intercept) / factor), signed=signed, bits_stored=bits_stored)
        _set_padding(ds, padding, padding_limit, signed=signed)
        datasets.append(ds)
    return datasets


def localizer(study: StudyInfo = StudyInfo(), *, number: int = 1, shape: tuple[int, int] = (48, 64)) -> FileDataset:
    """A scout view: a single sagittal image in the frame of reference of the study's CT series."""
    (ds,) = ct_series(
        study=study,
        number=number,
        shape=shape,
        positions=[(0.0, -100.0, 100.0)],
        orientation=SAGITTAL,
        image_type=("ORIGINAL", "PRIMARY", "LOCALIZER"),
    )
    del ds.RescaleType
    return ds


def set_pixels(ds: Dataset, stored: NDArray[np.floating], *, signed: bool = False, bits_stored: int = 16) -> None:
    """Write (row, column) stored values as native little endian 16-bit pixels."""
    ds.SamplesPerPixel, ds.PhotometricInterpretation = 1, "MONOCHROME2"
    ds.Rows, ds.Columns = stored.shape
    ds.BitsAllocated, ds.BitsStored, ds.HighBit = 16, bits_stored, bits_stored - 1
    ds.PixelRepresentation = int(signed)
    ds.PixelData = stored.astype("<i2" if signed else "<u2").tobytes()


def _pattern(n: int, shape: tuple[int, int]) -> NDArray[np.float64]:
    s, r, c = np.meshgrid(np.arange(n), np.arange(shape[0]), np.arange(shape[1]), indexing="ij")
    result: NDArray[np.float64] = -900.0 + 40 * s + 7 * r + 3 * c
    return result


def _set_padding(ds: Dataset, value: int | None, limit: int | None, *, signed: bool) -> None:
    vr = "SS" if signed else "US"
    if value is not None:
        ds.add_new(0x00280120, vr, value)
    if limit is not None:
        ds.add_new(0x00280121, vr, limit)


def _ct_header(study: StudyInfo, series_uid: str, frame_uid: str, number: int) -> FileDataset:
    meta = FileMetaDataset()
    meta.MediaStorageSOPClassUID = CTImageStorage
    meta.TransferSyntaxUID = ExplicitVRLittleEndian
    meta.ImplementationClassUID = uid("implementation")
    ds = FileDataset("", {}, file_meta=meta, preamble=b"\0" * 128)
    ds.SOPClassUID, ds.Modality = CTImageStorage, "CT"
    patient = study.patient
    ds.SpecificCharacterSet = "ISO_IR 192"
    ds.PatientName, ds.PatientID, ds.PatientBirthDate = patient.name, patient.patient_id, patient.birth_date
    ds.PatientSex, ds.PatientAge = patient.sex, patient.age
    ds.StudyInstanceUID, ds.StudyDate, ds.StudyTime = study.study_instance_uid, study.date, study.time
    ds.AccessionNumber, ds.StudyID, ds.ReferringPhysicianName = study.accession_number, study.study_id, "Haus^Greta"
    ds.SeriesInstanceUID, ds.SeriesNumber = series_uid, number
    ds.SeriesDate, ds.SeriesTime = study.date, study.time
    ds.AcquisitionDate, ds.AcquisitionTime = study.date, study.time
    ds.ContentDate, ds.ContentTime = study.date, study.time
    ds.FrameOfReferenceUID, ds.PositionReferenceIndicator = frame_uid, ""
    ds.Manufacturer, ds.ManufacturerModelName = "Acme", "Scan 1"
    ds.InstitutionName, ds.StationName = "Haus am See", "CT7"
    ds.PatientPosition, ds.BodyPartExamined = "HFS", "CHEST"
    ds.KVP, ds.BurnedInAnnotation = "120", "NO"
    ds.PatientOrientation = ""
    ds.WindowCenter, ds.WindowWidth = 40, 400  # one value: highdicom copies it, and two are not valid in a GSPS
    return ds


# ---- presentation states -----------------------------------------------------------------------------------------------


@dataclass(frozen=True)
class Graphic:
    """A GraphicObject to be."""

    points: tuple[Point, ...]
    graphic_type: str = "POLYLINE"
    filled: bool = False
    units: str = "PIXEL"
    group: int | None = None


@dataclass(frozen=True)
class Text:
    """A TextObject to be, by its anchor or the (left, top, right, bottom) of its bounding box."""

    value: str
    anchor: Point | None = None
    box: tuple[float, float, float, float] | None = None
    visible: bool = False
    units: str = "PIXEL"
    group: int | None = None


@dataclass(frozen=True)
class Compound:
    """An item of CompoundGraphicSequence to be (PS3.3 C.10.5.1.3)."""

    compound_type: str
    points: tuple[Point, ...]
    instance_id: int = 1


Drawing = Graphic | Text | Compound


@dataclass(frozen=True)
class Item:
    """One item of GraphicAnnotationSequence: what is drawn, and on which images (None: no reference of its own)."""

    drawings: tuple[Drawing, ...]
    images: tuple[Dataset, ...] | None


def line(start: Point, end: Point, group: int | None = None) -> Graphic:
    """A line of two points."""
    return Graphic((start, end), group=group)


def polyline(*points: Point, filled: bool = False, group: int | None = None) -> Graphic:
    """A polyline of any number of points."""
    return Graphic(points, filled=filled, group=group)


def bidimensional(long_axis: tuple[Point, Point], short_axis: tuple[Point, Point]) -> tuple[Graphic, Graphic]:
    """Two lines in one item, long axis first."""
    return line(*long_axis), line(*short_axis)


def arrow(tail: Point, head: Point, *, size: float = 4.0, style: str = "shaft+head") -> tuple[Graphic, ...]:
    """An arrow as shaft and open head, shaft and filled head, or one stroke."""
    t, h = np.asarray(tail, dtype=float), np.asarray(head, dtype=float)
    back = (t - h) / np.linalg.norm(t - h)
    side = np.array([-back[1], back[0]])
    one, two = (tuple(float(v) for v in h + size * (back + s * 0.5 * side)) for s in (1, -1))
    if style == "shaft+head":
        return line(tail, head), polyline(one, head, two)
    if style == "shaft+filled":
        return line(tail, head), polyline(one, head, two, one, filled=True)
    if style == "one stroke":
        return (polyline(tail, head, one, head, two),)
    raise ValueError(style)


def on(image: Dataset, *drawings: Drawing) -> Item:
    """Drawings on one image."""
    return Item(drawings, (image,))


def gsps(
    items: Sequence[Item],
    *,
    images: Sequence[Dataset] | None = None,
    creator: str = "Befund^Berta",
    created: datetime = CREATED,
    number: int = 1,
    layer: str = "MEASUREMENTS",
    layer_description: str | None = None,
) -> Dataset:
    """A grayscale softcopy presentation state of ``items``; ``images`` are referenced by the object besides theirs."""
    from highdicom import pr

    referenced: dict[str, Dataset] = {}
    for image in (*(images or ()), *(i for item in items for i in item.images or ())):
        referenced[str(image.SOPInstanceUID)] = image
    on_images = list(referenced.values())
    ids = sorted({d.group for item in items for d in item.drawings if isinstance(d, Graphic | Text) and d.group})
    groups = {i: pr.GraphicGroup(i, f"group {i}") for i in ids}
    graphic_layer = pr.GraphicLayer(layer, order=1, description=layer_description)
    annotations = [_annotation(pr, item, on_images, graphic_layer, groups) for item in items]
    study = str(on_images[0].StudyInstanceUID)
    state: Dataset = pr.GrayscaleSoftcopyPresentationState(
        referenced_images=on_images,
        series_instance_uid=uid("pr series", study, creator),
        series_number=900 + number,
        sop_instance_uid=uid("pr", study, creator, number, created),
        instance_number=number,
        manufacturer="Acme",
        manufacturer_model_name="View 1",
        software_versions="1.0",
        device_serial_number="1",
        content_label="MEASUREMENTS",
        graphic_annotations=annotations or None,
        graphic_layers=[graphic_layer] if annotations else None,
        graphic_groups=list(groups.values()) or None,
        content_creator_name=creator,
    )
    state = deepcopy(state)  # highdicom shares the elements of patient and study with the image
    state.PresentationCreationDate = created.strftime("%Y%m%d")
    state.PresentationCreationTime = created.strftime("%H%M%S")
    state.Laterality = ""
    for item, annotation in zip(items, state.get("GraphicAnnotationSequence", ()), strict=True):
        _add_compounds(annotation, [d for d in item.drawings if isinstance(d, Compound)])
        if item.images is None:
            del annotation.ReferencedImageSequence
    return state


def _annotation(pr, item: Item, on_images, layer, groups):
    graphics = [
        pr.GraphicObject(
            d.graphic_type,
            np.asarray(d.points, dtype=np.float64),
            units=d.units,
            is_filled=d.filled,
            graphic_group=groups.get(d.group),
        )
        for d in item.drawings
        if isinstance(d, Graphic)
    ]
    texts = [
        pr.TextObject(
            d.value,
            units=d.units,
            bounding_box=d.box,
            anchor_point=d.anchor,
            anchor_point_visible=d.visible,
            graphic_group=groups.get(d.group),
        )
        for d in item.drawings
        if isinstance(d, Text)
    ]
    only_compound = not graphics and not texts
    if only_compound:  # highdicom knows no compound graphics and refuses an item without another drawing
        texts = [pr.TextObject("-", units="PIXEL", anchor_point=(0.0, 0.0))]
    annotation = pr.GraphicAnnotation(
        referenced_images=list(item.images or on_images),
        graphic_layer=layer,
        graphic_objects=graphics or None,
        text_objects=texts or None,
    )
    if only_compound:
        del annotation.TextObjectSequence
    return annotation


def _add_compounds(annotation: Dataset, compounds: Sequence[Compound]) -> None:
    made = []
    for compound in compounds:
        ds = Dataset()
        ds.CompoundGraphicUnits, ds.GraphicDimensions = "PIXEL", 2
        ds.NumberOfGraphicPoints = len(compound.points)
        ds.GraphicData = [float(v) for p in compound.points for v in p]
        ds.CompoundGraphicType, ds.CompoundGraphicInstanceID = compound.compound_type, compound.instance_id
        ds.GraphicFilled = "N"
        made.append(ds)
    if made:
        annotation.CompoundGraphicSequence = DicomSequence(made)


def write(datasets: Iterable[Dataset], folder: Path, *, prefix: str = "IM") -> list[Path]:
    """Write one file a dataset, with names that say nothing."""
    folder.mkdir(parents=True, exist_ok=True)
    paths = []
    for i, ds in enumerate(datasets):
        path = folder / f"{prefix}{i:04d}"
        ds.save_as(path, enforce_file_format=True)
        paths.append(path)
    return paths
