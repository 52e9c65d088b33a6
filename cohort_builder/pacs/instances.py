"""What the index keeps of one DICOM object, and which of its strings name a person, a case or a place."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass, field
from pathlib import Path

CT, PRESENTATION_STATE, STRUCTURED_REPORT, OTHER = "ct", "presentation_state", "structured_report", "other"

IMPLICIT, EXPLICIT, DEFLATED, BIG_ENDIAN = (f"1.2.840.10008.1.2{end}" for end in ("", ".1", ".1.99", ".2"))
ENHANCED_CT_CLASSES = frozenset({"1.2.840.10008.5.1.4.1.1.2.1", "1.2.840.10008.5.1.4.1.1.2.2"})
_CT_CLASSES = ENHANCED_CT_CLASSES | {"1.2.840.10008.5.1.4.1.1.2"}
_PR_CLASS_PREFIX, SR_CLASS_PREFIX = "1.2.840.10008.5.1.4.1.1.11.", "1.2.840.10008.5.1.4.1.1.88."
# Enhanced, Comprehensive, Comprehensive 3D and Extensible SR, Chest and Colon CAD SR: those that can hold coordinates.
# A dose report comes with nearly every CT; were it one of them, every study would seem drawn on.
_SR_CLASSES = frozenset(f"{SR_CLASS_PREFIX}{number}" for number in (22, 33, 34, 35, 65, 69))

# Keywords of the strings, beside every person's name, that the scrubber looks for.
IDENTIFYING = frozenset({
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
    ``stack_id`` (PS3.3 C.7.6.16.2.2) is a frame's; ``lossy`` says that Lossy Image Compression is 01.
    ``stamp`` is size and modification time (ns) of the file when it was indexed, where nothing else tells that it is
    still the same. ``series_description`` is private. What is absent, malformed or not finite is None.
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
    stack_id: str | None = None
    lossy: bool = False
    stamp: tuple[int, int] | None = field(default=None, compare=False)


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


def kind_of(sop_class_uid: str) -> str:
    """``CT``, ``PRESENTATION_STATE``, ``STRUCTURED_REPORT`` (one that can hold coordinates) or ``OTHER``."""
    if sop_class_uid in _CT_CLASSES:
        return CT
    if sop_class_uid.startswith(_PR_CLASS_PREFIX):
        return PRESENTATION_STATE
    return STRUCTURED_REPORT if sop_class_uid in _SR_CLASSES else OTHER


def native_bytes(instance: Instance) -> int:
    """Size that the pixels of an image must have; 1 for compressed ones, of which only the end can be checked."""
    if instance.transfer_syntax_uid not in {IMPLICIT, EXPLICIT, BIG_ENDIAN}:
        return 1
    pixels = (instance.rows or 0) * (instance.columns or 0) * instance.number_of_frames
    return pixels * (instance.bits_allocated or 0) * (instance.samples_per_pixel or 1) // 8


def name_forms(name: str) -> Iterator[str]:
    """A person's name (PS3.5 6.2.1) as stored, by component, and as it is written in running text."""
    yield from said(name)
    for group in name.split("="):
        parts = [part.strip() for part in group.split("^")]
        for part in parts:
            yield from said(part)
        family, given = (*parts, "", "")[:2]
        if family and given:
            yield from (f"{given} {family}", f"{family} {given}", f"{family}, {given}")


def said(value: str) -> Iterator[str]:
    """Single characters identify nobody and would be struck from every word."""
    cleaned = value.replace("\0", "").strip()
    if len(cleaned) > 1:
        yield cleaned
