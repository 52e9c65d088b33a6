"""One DICOM file in, what the index keeps of its header out; nothing of the pixels but whether they are all there."""

from __future__ import annotations

import struct
from collections.abc import Iterator
from dataclasses import dataclass, replace
from pathlib import Path
from typing import TYPE_CHECKING, BinaryIO

from cohort_builder.pacs.elements import (
    READ_ERRORS,
    integer,
    is_truncated,
    is_uid,
    numbers,
    quietly,
    referenced_images,
    sequence,
    text,
    value_of,
    values_in,
)

if TYPE_CHECKING:
    from pydicom.dataset import Dataset

CT, PRESENTATION_STATE, STRUCTURED_REPORT, OTHER = "ct", "presentation_state", "structured_report", "other"

_CT_CLASSES = frozenset({"1.2.840.10008.5.1.4.1.1.2", "1.2.840.10008.5.1.4.1.1.2.1", "1.2.840.10008.5.1.4.1.1.2.2"})
_PR_CLASS_PREFIX = "1.2.840.10008.5.1.4.1.1.11."
_DICOMDIR_CLASS = "1.2.840.10008.1.3.10"
_IMPLICIT, _EXPLICIT, _DEFLATED, _BIG_ENDIAN = (f"1.2.840.10008.1.2{end}" for end in ("", ".1", ".1.99", ".2"))
_PREAMBLE = 128
_UNDEFINED_LENGTH = 0xFFFFFFFF
_GRAPHIC_ANNOTATION_SEQUENCE = 0x00700001
_IDENTIFYING = frozenset({
    "PatientID", "OtherPatientIDs", "PatientBirthDate", "PatientAddress", "PatientTelephoneNumbers",
    "MedicalRecordLocator", "AccessionNumber", "StudyID", "AdmissionID", "RequestedProcedureID",
    "PlacerOrderNumberImagingServiceRequest", "FillerOrderNumberImagingServiceRequest", "InstitutionName",
    "InstitutionAddress", "InstitutionalDepartmentName", "StationName", "ReferringPhysicianAddress",
    "ReferringPhysicianTelephoneNumbers", "PatientTelecomInformation", "PatientInstitutionResidence",
    "CurrentPatientLocation", "ResponsibleOrganization", "PersonAddress", "PersonTelephoneNumbers", "ServiceEpisodeID",
    "ScheduledProcedureStepID", "PerformedProcedureStepID", "PlacerOrderNumberProcedure", "FillerOrderNumberProcedure",
    "DeviceSerialNumber", "GantryID", "DeviceUID",
})  # fmt: skip


class HeaderError(Exception):
    """One file that is DICOM and cannot be used: ``args`` are the Skip's reason and detail."""

    def __init__(self, reason: str, detail: str) -> None:
        super().__init__(reason, detail)
        self.reason, self.detail = reason, detail


@dataclass(frozen=True, slots=True)
class Instance:
    """The header of one image, in the standard's units: LPS mm, ``pixel_spacing`` (between rows, between columns).

    Its bytes are read through ``cohort_builder.pacs.objects``: they are the file ``path``; or the ``member`` of the zip
    ``path``; or lie on ``server`` until they are fetched to ``path``. ``frame_number`` (from 1) is set where the image
    is one frame of a multi-frame object: geometry is then that frame's, ``pixel_offset`` and ``pixel_length`` still
    those of the whole Pixel Data value, counted from the start of the object (None: not known, or deflated).
    ``series_description`` is private. What is absent, malformed or not finite is None.
    """

    path: Path
    sop_instance_uid: str
    sop_class_uid: str
    series_instance_uid: str
    study_instance_uid: str
    modality: str
    transfer_syntax_uid: str
    series_number: int | None = None
    instance_number: int | None = None
    acquisition_number: int | None = None
    image_type: tuple[str, ...] = ()
    rows: int | None = None
    columns: int | None = None
    image_position: tuple[float, float, float] | None = None
    image_orientation: tuple[float, float, float, float, float, float] | None = None
    pixel_spacing: tuple[float, float] | None = None
    frame_of_reference_uid: str | None = None
    number_of_frames: int = 1
    rescale_slope: float | None = None
    rescale_intercept: float | None = None
    rescale_type: str | None = None
    pixel_padding_value: int | None = None
    pixel_padding_range_limit: int | None = None
    acquisition_time: str | None = None
    content_time: str | None = None
    temporal_position: int | None = None
    convolution_kernel: str | None = None
    series_description: str | None = None
    slice_thickness_mm: float | None = None
    burned_in_annotation: bool = False
    manufacturer: str | None = None
    manufacturer_model_name: str | None = None
    kvp: str | None = None
    contrast_agent: str | None = None
    body_part_examined: str | None = None
    patient_position: str | None = None
    software_versions: str | None = None
    samples_per_pixel: int | None = None
    photometric_interpretation: str | None = None
    bits_allocated: int | None = None
    bits_stored: int | None = None
    high_bit: int | None = None
    pixel_representation: int | None = None
    pixel_offset: int | None = None
    pixel_length: int | None = None
    frame_number: int | None = None
    member: str = ""
    server: str = ""


@dataclass(frozen=True, slots=True)
class StudyHeader:
    """What one header says of patient and study; private as a whole."""

    patient_id: str | None
    accession_number: str | None
    study_date: str | None
    patient_sex: str | None
    patient_age: str | None
    identifiers: tuple[str, ...]


@dataclass(frozen=True, slots=True)
class Header:
    """One DICOM object.

    ``references`` are the SOP Instance UIDs of the images that a presentation state or a structured report applies to;
    ``frames`` the images of a multi-frame object, in order.
    """

    kind: str
    instance: Instance
    study: StudyHeader
    references: tuple[str, ...] = ()
    frames: tuple[Instance, ...] = ()


def read_header(path: Path) -> Header | None:
    """Read one file.

    Returns
    -------
    None if it is not DICOM. A file without the 128-byte preamble counts as DICOM only when it parses into a dataset
    with valid UIDs.

    Raises
    ------
    HeaderError
        It is DICOM and broken: ``unreadable_file``, ``unreadable_dicom``, ``truncated``, ``invalid_uid``. A CT is
        truncated when its pixel data are shorter than Rows, Columns and Bits Allocated need, or compressed frames end
        without their delimiter.

    """
    try:
        with path.open("rb") as stream:
            start = stream.read(_PREAMBLE + 4)
            has_preamble = start[_PREAMBLE:] == b"DICM"
            if not has_preamble and not _may_start_dataset(start):
                return None
            stream.seek(0)
            try:
                return _parse(stream, path, has_preamble=has_preamble)
            except HeaderError:
                if has_preamble:
                    raise
                return None
    except OSError as error:
        raise HeaderError("unreadable_file", f"the file cannot be opened or read ({type(error).__name__})") from error


def _may_start_dataset(start: bytes) -> bool:
    """Whether a file without preamble begins with an element of group 2 or 8, as every dataset does."""
    return len(start) >= 8 and start[:2] in {b"\x02\x00", b"\x08\x00", b"\x00\x08"}


def _parse(stream: BinaryIO, path: Path, *, has_preamble: bool) -> Header | None:
    import pydicom

    try:
        with quietly():
            ds = pydicom.dcmread(stream, stop_before_pixels=True, force=not has_preamble)
            header = _header(ds, path)
            if header is not None:
                _require_whole(ds, stream, header)
            return header
    except READ_ERRORS as error:
        raise HeaderError("unreadable_dicom", f"the header cannot be parsed ({type(error).__name__})") from error


def _header(ds: Dataset, path: Path) -> Header | None:
    meta = getattr(ds, "file_meta", None)
    if text(ds, "SOPInstanceUID") is None and meta and text(meta, "MediaStorageSOPClassUID") == _DICOMDIR_CLASS:
        return None
    instance = _instance(ds, path)
    kind = OTHER
    if instance.sop_class_uid in _CT_CLASSES:
        kind = CT
    elif instance.sop_class_uid.startswith(_PR_CLASS_PREFIX):
        kind = PRESENTATION_STATE
    references = tuple(sop for _, sop in referenced_images(ds)) if kind == PRESENTATION_STATE else ()
    study = StudyHeader(
        patient_id=text(ds, "PatientID"),
        accession_number=text(ds, "AccessionNumber"),
        study_date=text(ds, "StudyDate"),
        patient_sex=text(ds, "PatientSex"),
        patient_age=text(ds, "PatientAge"),
        identifiers=tuple(sorted(set(_identifiers(ds)))),
    )
    return Header(kind, instance, study, references)


def _instance(ds: Dataset, path: Path) -> Instance:
    keywords = ("SOPInstanceUID", "SOPClassUID", "SeriesInstanceUID", "StudyInstanceUID")
    uids = {keyword: text(ds, keyword) or "" for keyword in keywords}
    bad = [keyword for keyword, value in uids.items() if not is_uid(value)]
    if bad:
        raise HeaderError("invalid_uid", f"{', '.join(bad)} missing or no UID; if the file is cut off, export it again")
    position, spacing = numbers(ds, "ImagePositionPatient", 3), numbers(ds, "PixelSpacing", 2)
    orientation = numbers(ds, "ImageOrientationPatient", 6)
    instance = Instance(
        path, uids["SOPInstanceUID"], uids["SOPClassUID"], uids["SeriesInstanceUID"], uids["StudyInstanceUID"],
        modality=text(ds, "Modality") or "",
        transfer_syntax_uid=_transfer_syntax(ds),
        series_number=integer(ds, "SeriesNumber"),
        instance_number=integer(ds, "InstanceNumber"),
        acquisition_number=integer(ds, "AcquisitionNumber"),
        image_type=tuple(str(value) for value in values_in(value_of(ds, "ImageType"))),
        rows=integer(ds, "Rows"),
        columns=integer(ds, "Columns"),
        image_position=None if position is None else (position[0], position[1], position[2]),
        image_orientation=None if orientation is None else (*orientation[:3], *orientation[3:]),  # type: ignore[arg-type]
        pixel_spacing=None if spacing is None else (spacing[0], spacing[1]),
        frame_of_reference_uid=text(ds, "FrameOfReferenceUID"),
        number_of_frames=integer(ds, "NumberOfFrames") or 1,
    )  # fmt: skip
    return _with_acquisition(instance, ds)


def _with_acquisition(instance: Instance, ds: Dataset) -> Instance:
    slope, intercept = numbers(ds, "RescaleSlope", 1), numbers(ds, "RescaleIntercept", 1)
    thickness = numbers(ds, "SliceThickness", 1)
    return replace(
        instance,
        rescale_slope=None if slope is None else slope[0],
        rescale_intercept=None if intercept is None else intercept[0],
        rescale_type=text(ds, "RescaleType"),
        pixel_padding_value=integer(ds, "PixelPaddingValue"),
        pixel_padding_range_limit=integer(ds, "PixelPaddingRangeLimit"),
        acquisition_time=text(ds, "AcquisitionTime"),
        content_time=text(ds, "ContentTime"),
        temporal_position=integer(ds, "TemporalPositionIdentifier"),
        convolution_kernel=text(ds, "ConvolutionKernel"),
        series_description=text(ds, "SeriesDescription"),
        slice_thickness_mm=None if thickness is None else thickness[0],
        burned_in_annotation=text(ds, "BurnedInAnnotation") == "YES",
        manufacturer=text(ds, "Manufacturer"),
        manufacturer_model_name=text(ds, "ManufacturerModelName"),
        kvp=text(ds, "KVP"),
        contrast_agent=text(ds, "ContrastBolusAgent"),
        body_part_examined=text(ds, "BodyPartExamined"),
        patient_position=text(ds, "PatientPosition"),
    )


def _transfer_syntax(ds: Dataset) -> str:
    declared = text(ds.file_meta, "TransferSyntaxUID")
    if declared is not None:
        return declared
    implicit, little_endian = ds.original_encoding
    if not little_endian:
        return _BIG_ENDIAN
    return _IMPLICIT if implicit else _EXPLICIT


def _identifiers(ds: Dataset) -> Iterator[str]:
    """Every string of the header that names a person, a case or a place, at any depth; graphics apart."""
    from pydicom.datadict import dictionary_has_tag, dictionary_VR, keyword_for_tag

    for tag in ds.keys():  # noqa: SIM118 - iterating a Dataset would convert every value
        vr = ds.get_item(tag).VR or (dictionary_VR(tag) if dictionary_has_tag(tag) else "UN")
        if tag == _GRAPHIC_ANNOTATION_SEQUENCE:
            continue
        if vr == "SQ":
            for item in sequence(ds, tag):
                yield from _identifiers(item)
        elif vr == "PN":
            for name in values_in(value_of(ds, tag)):
                yield from _name_forms(str(name))
        elif keyword_for_tag(tag) in _IDENTIFYING:
            for value in values_in(value_of(ds, tag)):
                yield from _said(str(value))


def _name_forms(name: str) -> Iterator[str]:
    """A person's name (PS3.5 6.2.1) as stored, by component, and as it is written in running text."""
    yield from _said(name)
    for group in name.split("="):
        parts = [part.strip() for part in group.split("^")]
        for part in parts:
            yield from _said(part)
        family, given = (*parts, "", "")[:2]
        if family and given:
            yield from (f"{given} {family}", f"{family} {given}", f"{family}, {given}")


def _said(value: str) -> Iterator[str]:
    """Single characters identify nobody and would be struck from every word."""
    cleaned = value.replace("\0", "").strip()
    if len(cleaned) > 1:
        yield cleaned


def _require_whole(ds: Dataset, stream: BinaryIO, header: Header) -> None:
    if is_truncated(ds):
        raise HeaderError("truncated", "the file ends in the middle of its header; export it again")
    if header.kind == CT and header.instance.transfer_syntax_uid != _DEFLATED:
        implicit, little_endian = ds.original_encoding
        order = "<" if little_endian else ">"
        length = _pixel_data_length(stream, order, implicit=bool(implicit))
        if length is None or length < _needed_bytes(ds):
            raise HeaderError("truncated", "the pixel data are absent or shorter than the image; export it again")


def _needed_bytes(ds: Dataset) -> int:
    """Size of native pixel data; 1 for compressed, of which only the end is checked."""
    if _transfer_syntax(ds) not in {_IMPLICIT, _EXPLICIT, _BIG_ENDIAN}:
        return 1
    values = [integer(ds, keyword) or 0 for keyword in ("Rows", "Columns", "BitsAllocated")]
    frames, samples = integer(ds, "NumberOfFrames") or 1, integer(ds, "SamplesPerPixel") or 1
    return values[0] * values[1] * values[2] * frames * samples // 8


def _pixel_data_length(stream: BinaryIO, order: str, *, implicit: bool) -> int | None:
    """Bytes of pixel data really there, where pydicom stopped; None if absent or (compressed) without their end."""
    start = stream.read(8 if implicit else 12)
    if len(start) < (8 if implicit else 12) or struct.unpack(order + "HH", start[:4]) != (0x7FE0, 0x0010):
        return None
    declared = int.from_bytes(start[-4:], "little" if order == "<" else "big")
    begin = stream.tell()
    end = stream.seek(0, 2)
    if declared != _UNDEFINED_LENGTH:
        return min(declared, end - begin)
    stream.seek(begin)
    while len(item := stream.read(8)) == 8:
        group, element, length = struct.unpack(order + "HHL", item)
        if (group, element) == (0xFFFE, 0xE0DD):
            return stream.tell() - begin
        if (group, element) != (0xFFFE, 0xE000) or stream.tell() + length > end:
            return None
        stream.seek(length, 1)
    return None
