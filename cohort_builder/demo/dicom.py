"""CT images and localizers as a scanner writes them (PS3.3 A.3, CT Image Storage)."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from datetime import datetime, timedelta

import numpy as np
from numpy.typing import NDArray
from pydicom.dataset import Dataset, FileDataset, FileMetaDataset
from pydicom.uid import UID, CTImageStorage, ExplicitVRLittleEndian, generate_uid

from cohort_builder.demo.plan import ExamPlan, PatientPlan
from segmentation.types import Volume

_INTERCEPT = -1024
_STORED_PADDING = -2000
_MAX_12_BIT = 4095
_LOCALIZER_PIXEL_MM = 1.0
_IMPLEMENTATION = generate_uid(entropy_srcs=["generated hospital"])

# What a phantom stores outside its field of view, to be told from air.
PADDING_HU = -2000


@dataclass(frozen=True, slots=True)
class Scanner:
    """One of the hospital's scanners, as its headers describe it.

    Parameters
    ----------
    is_signed
        Stored values are signed and what lies outside the round field of view has a padding value; else 12 bits
        unsigned and air.
    head_first
        Instance 1 is the slice nearest to the head; else to the feet.

    """

    manufacturer: str
    model: str
    station: str
    kernel: str
    software: str
    is_signed: bool
    head_first: bool


SCANNERS = (
    Scanner("Meridian Imaging", "Helix 64", "CTROOM1", "STANDARD", "12.3", is_signed=True, head_first=True),
    Scanner("Borealis Medical", "Aurora Edge", "RAVCT02", "B30f", "VA20A", is_signed=False, head_first=False),
)


def uid(plan: PatientPlan, *words: object) -> str:
    """Return a UID that depends on the hospital's seed, the patient and the words only."""
    return str(generate_uid(entropy_srcs=[repr((plan.seed, plan.index, *words))]))


def study_uid(plan: PatientPlan, exam: ExamPlan) -> str:
    """Study Instance UID."""
    return uid(plan, exam.key, "study")


def series_uid(plan: PatientPlan, exam: ExamPlan) -> str:
    """Series Instance UID of the CT series."""
    return uid(plan, exam.key, "series")


def study_id(exam: ExamPlan) -> str:
    """Study ID."""
    return exam.accession_number[-6:]


def frame_uid(plan: PatientPlan, exam: ExamPlan) -> str:
    """Frame of Reference UID of the CT series and its localizer."""
    return uid(plan, exam.key, "frame")


def image_uids(plan: PatientPlan, exam: ExamPlan) -> tuple[str, ...]:
    """SOP Instance UIDs from the feet up."""
    return tuple(uid(plan, exam.key, "image", i) for i in range(exam.n_slices))


def instance_number(exam: ExamPlan, slice_index: int) -> int:
    """Instance Number of a slice that is counted from the feet up."""
    return exam.n_slices - slice_index if SCANNERS[exam.scanner].head_first else slice_index + 1


def ct_images(plan: PatientPlan, exam: ExamPlan, volume: Volume) -> list[FileDataset]:
    """Make the images of a CT series, from the feet up, without pixels: ``set_pixels`` adds them on writing."""
    scanner = SCANNERS[exam.scanner]
    images = []
    for i, sop_uid in enumerate(volume.sop_instance_uids):
        ds = _image(plan, exam, sop_uid, series_uid(plan, exam), exam.series_number)
        _set_moment(ds, exam.acquired_at + timedelta(seconds=12 + 0.25 * i))
        ds.ImageType = ["ORIGINAL", "PRIMARY", "AXIAL"]
        ds.InstanceNumber, ds.AcquisitionNumber = instance_number(exam, i), 1
        ds.SeriesDescription = f"{exam.region.capitalize()} portal venous {exam.spacing_mm[0]:g} mm"
        position = volume.affine @ np.array([i, 0, 0, 1.0])
        ds.ImagePositionPatient = [round(float(value), 4) for value in position[:3]]
        ds.ImageOrientationPatient = [1.0, 0.0, 0.0, 0.0, 1.0, 0.0]
        ds.PixelSpacing = [exam.spacing_mm[1], exam.spacing_mm[2]]
        ds.SliceThickness, ds.SliceLocation = exam.spacing_mm[0], round(float(position[2]), 4)
        ds.ConvolutionKernel, ds.ReconstructionDiameter = scanner.kernel, round(512 * exam.spacing_mm[2], 2)
        ds.ContrastBolusAgent, ds.ContrastBolusRoute = "IOHEXOL", "IV"
        _describe_pixels(ds, volume.voxels.shape[1:], scanner)
        images.append(ds)
    return images


def set_pixels(ds: Dataset, hounsfield: NDArray[np.int16]) -> None:
    """Store (row, column) Hounsfield units as the image's own header says; ``PADDING_HU`` marks padding."""
    stored = hounsfield.astype(np.int32) - _INTERCEPT
    if ds.PixelRepresentation:
        stored[hounsfield == PADDING_HU] = _STORED_PADDING
        ds.PixelData = stored.astype("<i2").tobytes()
    else:
        ds.PixelData = np.clip(stored, 0, _MAX_12_BIT).astype("<u2").tobytes()


def localizer(plan: PatientPlan, exam: ExamPlan, volume: Volume) -> FileDataset:
    """Make the scout view that the series was planned on: a coronal projection, its own series, with pixels."""
    steps, _, spacing = exam.spacing_mm
    rows = np.clip(volume.voxels, -1000, 1500).mean(axis=1, dtype=np.float32)[::-1]
    rows = np.repeat(rows, max(1, round(steps / _LOCALIZER_PIXEL_MM)), axis=0)
    ds = _image(plan, exam, uid(plan, exam.key, "localizer"), uid(plan, exam.key, "localizer series"), 1)
    _set_moment(ds, exam.acquired_at)
    ds.ImageType = ["ORIGINAL", "PRIMARY", "LOCALIZER"]
    ds.InstanceNumber, ds.AcquisitionNumber, ds.SeriesDescription = 1, 1, "Scout"
    n_slices, n_rows, _ = volume.voxels.shape
    top = volume.affine @ np.array([n_slices - 1, n_rows / 2, 0, 1.0])
    pixel = steps / max(1, round(steps / _LOCALIZER_PIXEL_MM))
    ds.ImagePositionPatient = [round(float(value), 4) for value in (top[0], top[1], top[2] + steps / 2 - pixel / 2)]
    ds.ImageOrientationPatient = [1.0, 0.0, 0.0, 0.0, 0.0, -1.0]
    ds.PixelSpacing = [pixel, spacing]
    ds.SliceThickness = round(n_rows * spacing, 2)
    _describe_pixels(ds, rows.shape, SCANNERS[1])
    set_pixels(ds, np.rint(rows * 2 + 400).astype(np.int16))
    return ds


def _image(plan: PatientPlan, exam: ExamPlan, sop_uid: str, series: str, number: int) -> FileDataset:
    """Header of a CT image: patient, study, series, equipment, frame of reference."""
    meta = FileMetaDataset()
    meta.MediaStorageSOPClassUID, meta.MediaStorageSOPInstanceUID = CTImageStorage, UID(sop_uid)
    meta.TransferSyntaxUID, meta.ImplementationClassUID = ExplicitVRLittleEndian, _IMPLEMENTATION
    ds = FileDataset("", {}, file_meta=meta, preamble=b"\0" * 128)
    scanner, person = SCANNERS[exam.scanner], plan.person
    values: Mapping[str, object] = {
        "SpecificCharacterSet": _character_set(plan),
        "SOPClassUID": CTImageStorage,
        "SOPInstanceUID": sop_uid,
        "Modality": "CT",
        "PatientName": person.dicom_name,
        "PatientID": person.patient_id,
        "PatientBirthDate": f"{person.birth_date:%Y%m%d}",
        "PatientSex": person.sex,
        "PatientAge": f"{person.age_at(exam.day):03d}Y",
        "StudyInstanceUID": study_uid(plan, exam),
        "StudyDate": f"{exam.day:%Y%m%d}",
        "StudyTime": f"{exam.acquired_at:%H%M%S}",
        "StudyID": study_id(exam),
        "StudyDescription": f"CT {exam.region} with contrast",
        "AccessionNumber": exam.accession_number,
        "ReferringPhysicianName": plan.referrer.dicom_name,
        "SeriesInstanceUID": series,
        "SeriesNumber": number,
        "SeriesDate": f"{exam.day:%Y%m%d}",
        "SeriesTime": f"{exam.acquired_at:%H%M%S}",
        "FrameOfReferenceUID": frame_uid(plan, exam),
        "PositionReferenceIndicator": "",
        "Manufacturer": scanner.manufacturer,
        "ManufacturerModelName": scanner.model,
        "StationName": scanner.station,
        "SoftwareVersions": scanner.software,
        "DeviceSerialNumber": f"{7043 + exam.scanner}",
        "InstitutionName": plan.institution,
        "PatientPosition": "HFS",
        "BodyPartExamined": exam.region.upper(),
        "KVP": "120",
        "XRayTubeCurrent": 210,
        "ExposureTime": 500,
        "BurnedInAnnotation": "NO",
    }
    for keyword, value in values.items():
        setattr(ds, keyword, value)
    return ds


def _character_set(plan: PatientPlan) -> str:
    """Latin-1 where that can write all names of the study, else UTF-8 (PS3.3 C.12.1.1.2)."""
    names = (plan.person.dicom_name, plan.institution, *(d.dicom_name for d in (plan.referrer, *plan.readers)))
    try:
        "".join(names).encode("latin-1")
    except UnicodeEncodeError:
        return "ISO_IR 192"
    return "ISO_IR 100"


def _set_moment(ds: Dataset, moment: datetime) -> None:
    ds.AcquisitionDate = ds.ContentDate = f"{moment:%Y%m%d}"
    ds.AcquisitionTime = ds.ContentTime = f"{moment:%H%M%S.%f}"


def _describe_pixels(ds: Dataset, shape: tuple[int, ...], scanner: Scanner) -> None:
    ds.SamplesPerPixel, ds.PhotometricInterpretation = 1, "MONOCHROME2"
    ds.Rows, ds.Columns = int(shape[0]), int(shape[1])
    bits = 16 if scanner.is_signed else 12
    ds.BitsAllocated, ds.BitsStored, ds.HighBit, ds.PixelRepresentation = 16, bits, bits - 1, int(scanner.is_signed)
    if scanner.is_signed:
        ds.add_new(0x00280120, "SS", _STORED_PADDING)
    # One window only: presentation states take it over, and must not have two.
    ds.WindowCenter, ds.WindowWidth = 40, 400
    ds.RescaleSlope, ds.RescaleIntercept = 1, _INTERCEPT
    if "LOCALIZER" not in ds.ImageType:
        ds.RescaleType = "HU"
