"""Builders of structured reports in the styles of their writers: OHIF and cornerstone, highdicom, dcmqi.

The first and the last are written by hand in plain pydicom, item by item as those programs write them (dcmjs TID300
classes, dcmqi tid1500writer); highdicom's by highdicom. Coordinates are (column, row), corner origin.
"""

from __future__ import annotations

from collections.abc import Sequence
from copy import deepcopy

import numpy as np
from dicom import Point, ct_series, uid
from pydicom.dataset import Dataset, FileDataset, FileMetaDataset
from pydicom.sequence import Sequence as DicomSequence
from pydicom.sr.codedict import codes
from pydicom.uid import ExplicitVRLittleEndian

from cohort_builder.annotations import read_annotations

CT = ct_series(4)
A, B, C, D = (10.25, 20.5), (40.25, 20.5), (25.0, 14.0), (25.0, 28.5)

ENHANCED, COMPREHENSIVE, COMPREHENSIVE_3D = (f"1.2.840.10008.5.1.4.1.1.88.{n}" for n in (22, 33, 34))
LENGTH = ("G-D7FE", "SRT", "Length")
LONG_AXIS, SHORT_AXIS = ("G-A185", "SRT", "Long Axis"), ("G-A186", "SRT", "Short Axis")
AREA, CENTER = ("G-D7FE", "SRT", "AREA"), ("111010", "DCM", "Center")
PERIMETER = ("131191004", "SCT", "Perimeter")
REGION = ("111030", "DCM", "Image Region")
GROUP = ("125007", "DCM", "Measurement Group")
FINDING, SITE = ("121071", "DCM", "Finding"), ("363698007", "SCT", "Finding Site")
MILLIMETRE, PIXEL = ("mm", "UCUM", "mm"), ("1", "UCUM", "px")
CS4, CS3D = "cornerstoneTools@^4.0.0", "Cornerstone3DTools@^0.1.0"

CodeTriple = tuple[str, str, str]


def code(triple: CodeTriple) -> DicomSequence:
    """A code sequence of one item."""
    ds = Dataset()
    value, ds.CodingSchemeDesignator, ds.CodeMeaning = triple
    setattr(ds, "CodeValue" if len(value) <= 16 else "LongCodeValue", value)
    return DicomSequence([ds])


def item(
    value_type: str, concept: CodeTriple | None = None, relationship: str = "CONTAINS", *children: Dataset
) -> Dataset:
    """A content item."""
    ds = Dataset()
    ds.RelationshipType, ds.ValueType = relationship, value_type
    if concept is not None:
        ds.ConceptNameCodeSequence = code(concept)
    if value_type == "CONTAINER":
        ds.ContinuityOfContent = "SEPARATE"
    if children:
        ds.ContentSequence = DicomSequence(children)
    return ds


def image_of(
    image: Dataset | Sequence[Dataset],
    frame: int | None = None,
    concept: CodeTriple | None = None,
    relationship: str = "SELECTED FROM",
) -> Dataset:
    """An IMAGE item."""
    ds = item("IMAGE", concept, relationship)
    references = []
    for one in [image] if isinstance(image, Dataset) else image:
        reference = Dataset()
        reference.ReferencedSOPClassUID, reference.ReferencedSOPInstanceUID = one.SOPClassUID, one.SOPInstanceUID
        if frame is not None:
            reference.ReferencedFrameNumber = frame
        references.append(reference)
    ds.ReferencedSOPSequence = DicomSequence(references)
    return ds


def scoord(
    graphic_type: str,
    points: Sequence[Point],
    *children: Dataset,
    relationship: str = "INFERRED FROM",
    concept: CodeTriple | None = None,
) -> Dataset:
    """An SCOORD; without children it refers to no image."""
    ds = item("SCOORD", concept, relationship, *children)
    ds.GraphicType, ds.GraphicData = graphic_type, [float(v) for point in points for v in point]
    return ds


def number(concept: CodeTriple, value: float | None, *children: Dataset, unit: CodeTriple = MILLIMETRE) -> Dataset:
    """A NUM."""
    ds = item("NUM", concept, "CONTAINS", *children)
    ds.MeasuredValueSequence = DicomSequence()
    if value is not None:
        measured = Dataset()
        measured.NumericValue, measured.MeasurementUnitsCodeSequence = f"{value:.12g}", code(unit)
        ds.MeasuredValueSequence.append(measured)
    return ds


def coded(concept: CodeTriple, value: CodeTriple, relationship: str = "CONTAINS") -> Dataset:
    """A CODE."""
    ds = item("CODE", concept, relationship)
    ds.ConceptCodeSequence = code(value)
    return ds


def said(concept: CodeTriple, value: str, relationship: str = "CONTAINS") -> Dataset:
    """A TEXT."""
    ds = item("TEXT", concept, relationship)
    ds.TextValue = value
    return ds


def tracked(identifier: str, *words: object) -> tuple[Dataset, Dataset]:
    """Tracking Identifier and Tracking Unique Identifier."""
    ref = item("UIDREF", ("112040", "DCM", "Tracking Unique Identifier"), "HAS OBS CONTEXT")
    ref.UID = uid("tracking", identifier, *words)
    return said(("112039", "DCM", "Tracking Identifier"), identifier, "HAS OBS CONTEXT"), ref


def group(*children: Dataset) -> Dataset:
    """A measurement group."""
    return item("CONTAINER", GROUP, "CONTAINS", *children)


def cornerstone(tool: str, *numbers: Dataset, viewer: str = CS3D, finding: str | None = None) -> Dataset:
    """The measurement group of one tool, as cornerstone's adapters and dcmjs' TID300 classes write it."""
    free = [coded(FINDING, ("CORNERSTONEFREETEXT", "CST4", finding))] if finding else []
    return group(*tracked(f"{viewer}:{tool}"), *free, *numbers)


def length(image: Dataset, start: Point, end: Point, mm: float | None = None, concept: CodeTriple = LENGTH) -> Dataset:
    """A NUM inferred from a line on an image."""
    return number(concept, mm, scoord("POLYLINE", [start, end], image_of(image)))


def report(
    *groups: Dataset,
    images: Sequence[Dataset],
    sop_class: str = ENHANCED,
    observer: str = "Befund^Berta",
    context: Sequence[Dataset] = (),
    number: int = 1,
) -> Dataset:
    """A measurement report (TID 1500) around the groups."""
    meta = FileMetaDataset()
    meta.MediaStorageSOPClassUID, meta.TransferSyntaxUID = sop_class, ExplicitVRLittleEndian
    meta.ImplementationClassUID = uid("implementation")
    ds = FileDataset("", {}, file_meta=meta, preamble=b"\0" * 128)
    first = images[0]
    for keyword in (
        "SpecificCharacterSet",
        "PatientName",
        "PatientID",
        "PatientBirthDate",
        "PatientSex",
        "StudyInstanceUID",
        "StudyDate",
        "StudyTime",
        "AccessionNumber",
        "StudyID",
        "ReferringPhysicianName",
    ):
        setattr(ds, keyword, first.get(keyword))
    ds.SOPClassUID, ds.Modality, ds.SeriesNumber, ds.InstanceNumber = sop_class, "SR", 800, number
    ds.SeriesInstanceUID = uid("sr series", first.StudyInstanceUID)
    ds.SOPInstanceUID = meta.MediaStorageSOPInstanceUID = uid("sr", first.StudyInstanceUID, number)
    ds.Manufacturer, ds.ReferencedPerformedProcedureStepSequence = "Acme", DicomSequence()
    ds.ManufacturerModelName, ds.DeviceSerialNumber, ds.SoftwareVersions = "View 1", "1", "1.0"
    ds.ContentDate, ds.ContentTime, ds.SeriesDate, ds.SeriesTime = "20240305", "113000", "20240305", "113000"
    ds.CompletionFlag, ds.VerificationFlag = "COMPLETE", "UNVERIFIED"
    ds.PerformedProcedureCodeSequence = DicomSequence()
    ds.CurrentRequestedProcedureEvidenceSequence = _evidence(images)
    template = Dataset()
    template.MappingResource, template.TemplateIdentifier = "DCMR", "1500"
    ds.ContentTemplateSequence = DicomSequence([template])
    ds.ValueType, ds.ContinuityOfContent = "CONTAINER", "SEPARATE"
    ds.ConceptNameCodeSequence = code(("126000", "DCM", "Imaging Measurement Report"))
    person = item("PNAME", ("121008", "DCM", "Person Observer Name"), "HAS OBS CONTEXT")
    person.PersonName = observer
    language = coded(
        ("121049", "DCM", "Language of Content Item and Descendants"), ("en", "RFC5646", "English"), "HAS CONCEPT MOD"
    )
    reported = coded(
        ("121058", "DCM", "Procedure reported"), ("25045-6", "LN", "CT unspecified body region"), "HAS CONCEPT MOD"
    )
    measurements = item("CONTAINER", ("126010", "DCM", "Imaging Measurements"), "CONTAINS", *groups)
    ds.ContentSequence = DicomSequence([language, person, reported, *context, measurements])
    return ds


def _evidence(images: Sequence[Dataset]) -> DicomSequence:
    study = Dataset()
    study.StudyInstanceUID = images[0].StudyInstanceUID
    study.ReferencedSeriesSequence = DicomSequence()
    for series_uid in dict.fromkeys(image.SeriesInstanceUID for image in images):
        series = Dataset()
        series.SeriesInstanceUID = series_uid
        series.ReferencedSOPSequence = DicomSequence()
        for image in images:
            if image.SeriesInstanceUID == series_uid:
                reference = Dataset()
                reference.ReferencedSOPClassUID = image.SOPClassUID
                reference.ReferencedSOPInstanceUID = image.SOPInstanceUID
                series.ReferencedSOPSequence.append(reference)
        study.ReferencedSeriesSequence.append(series)
    return DicomSequence([study])


# ---- highdicom ---------------------------------------------------------------------------------------------------------


def source(image: Dataset, frame: int | None = None):
    """highdicom's reference to an image."""
    from highdicom import sr

    return sr.SourceImageForRegion(image.SOPClassUID, image.SOPInstanceUID, None if frame is None else [frame])


def hd_measurement(name, mm, graphic_type, points, image, *, frame=None, unit=codes.UCUM.Millimeter):
    """A Measurement inferred from coordinates."""
    from highdicom import sr

    where = sr.CoordinatesForMeasurement(graphic_type, np.asarray(points, dtype=float), source(image, frame))
    return sr.Measurement(name, mm, unit, referenced_coordinates=[where])


def hd_group(*measurements, name="Lesion 1", **options):
    """A TID 1501 group."""
    from highdicom import sr

    return sr.MeasurementsAndQualitativeEvaluations(
        sr.TrackingIdentifier(uid=uid("hd", name), identifier=name), measurements=list(measurements), **options
    )


def hd_region(graphic_type, points, image, *, frame=None, measurements=(), name="Region 1", **options):
    """A TID 1410 group."""
    from highdicom import sr

    return sr.PlanarROIMeasurementsAndQualitativeEvaluations(
        sr.TrackingIdentifier(uid=uid("hd", name), identifier=name),
        referenced_region=sr.ImageRegion(graphic_type, np.asarray(points, dtype=float), source(image, frame)),
        measurements=list(measurements) or None,
        **options,
    )


def hd_report(groups, images, *, observer="Befund^Berta", library=False, in_space=True):
    """A Comprehensive 3D SR (or a Comprehensive SR) of highdicom."""
    from highdicom import sr

    person = sr.ObserverContext(
        observer_type=codes.DCM.Person,
        observer_identifying_attributes=sr.PersonObserverIdentifyingAttributes(name=observer),
    )
    content = sr.MeasurementReport(
        sr.ObservationContext(observer_person_context=person),
        codes.LN.CTUnspecifiedBodyRegion,
        imaging_measurements=list(groups),
        referenced_images=list(images) if library else None,
    )
    document = (sr.Comprehensive3DSR if in_space else sr.ComprehensiveSR)(
        evidence=[deepcopy(image) for image in images],
        content=content,
        series_instance_uid=uid("hd series", images[0].StudyInstanceUID),
        series_number=801,
        sop_instance_uid=uid("hd sr", images[0].StudyInstanceUID),
        instance_number=1,
        manufacturer="Acme",
        is_complete=True,
    )
    document.ContentDate, document.ContentTime = "20240305", "113000"
    return document


def read(*groups, **options):
    """Annotations and Skips of a report on the images ``CT``."""
    return read_annotations(report(*groups, images=CT, **options))


def one(*groups, **options):
    """The only annotation of a report in which nothing is refused."""
    (annotation,), skips = read(*groups, **options)
    assert skips == []
    return annotation


def reasons(*groups, **options):
    """Why nothing of a report is read."""
    annotations, skips = read(*groups, **options)
    assert annotations == []
    return [skip.reason for skip in skips]
