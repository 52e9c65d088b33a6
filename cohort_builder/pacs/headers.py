"""One DICOM object in, what the index keeps of its header out; nothing of the pixels but where they lie.

``cohort_builder.pacs.scanner`` reads nearly every file; pydicom, here, whatever the scanner hands on. Both give the
same fields.
"""

from __future__ import annotations

import os
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import TYPE_CHECKING, Any, BinaryIO, Literal

from cohort_builder.pacs.bombs import Patience, is_bomb
from cohort_builder.pacs.elements import (
    READ_ERRORS,
    integer,
    is_truncated,
    is_uid,
    numbers,
    quietly,
    referenced_images,
    reported_objects,
    sequence,
    text,
    value_of,
    values_in,
)
from cohort_builder.pacs.instances import (
    BIG_ENDIAN,
    CT,
    DEFLATED,
    ENHANCED_CT_CLASSES,
    EXPLICIT,
    IDENTIFYING,
    IMPLICIT,
    OTHER,
    PRESENTATION_STATE,
    STRUCTURED_REPORT,
    Header,
    HeaderError,
    Instance,
    StudyHeader,
    kind_of,
    name_forms,
    native_bytes,
    said,
)
from cohort_builder.pacs.scanner import fragments_length, scan
from cohort_builder.pacs.walk import UNDEFINED_LENGTH

if TYPE_CHECKING:
    from pydicom.dataset import Dataset

__all__ = [
    "CT", "OTHER", "PRESENTATION_STATE", "STRUCTURED_REPORT", "Header", "HeaderError", "Instance", "StudyHeader",
    "header_of", "read_header", "read_header_from",
]  # fmt: skip

_DICOMDIR_CLASS = "1.2.840.10008.1.3.10"
_PREAMBLE = 128
_GRAPHIC_ANNOTATION_SEQUENCE = 0x00700001


def read_header(path: Path) -> Header | None:
    """Read one file.

    Returns
    -------
    None if it is not DICOM. A file without the 128-byte preamble counts as DICOM only when it parses into a dataset
    with valid UIDs.

    Raises
    ------
    HeaderError
        It is DICOM and broken: ``unreadable_file``, ``unreadable_dicom``, ``truncated``, ``invalid_uid``,
        ``too_large``. A CT is truncated when its pixel data are shorter than Rows, Columns and Bits Allocated need, or
        compressed frames end without their delimiter.

    """
    try:
        descriptor = os.open(path, os.O_RDONLY)
        try:
            size = os.fstat(descriptor).st_size
            header = scan(lambda offset, n: os.pread(descriptor, n, offset), size, path)
        finally:
            os.close(descriptor)
        if header is not None:
            return header
        with path.open("rb") as stream:
            return _parse(stream, path, None)
    except OSError as error:
        raise HeaderError("unreadable_file", f"the file cannot be opened or read ({type(error).__name__})") from error


def read_header_from(stream: BinaryIO, path: Path, size: int | None = None) -> Header | None:
    """Read one object from a stream that seeks, as ``read_header`` does; ``path`` goes into the Instance.

    ``size`` of the object spares a stream that is slow to seek, as a compressed member of a zip, the way to its end.
    """
    size = stream.seek(0, os.SEEK_END) if size is None else size
    return scan(_reader(stream), size, path) or _parse(stream, path, size)


def _reader(stream: BinaryIO) -> Callable[[int, int], bytes]:
    def read(offset: int, n: int) -> bytes:
        stream.seek(offset)
        return stream.read(n)

    return read


def _may_start_dataset(start: bytes) -> bool:
    """Whether a file without preamble begins with an element of group 2 or 8, as every dataset does."""
    return len(start) >= 8 and start[:2] in {b"\x02\x00", b"\x08\x00", b"\x00\x08"}


def _parse(stream: BinaryIO, path: Path, size: int | None) -> Header | None:
    """Read it through pydicom, whatever it is."""
    stream.seek(0)
    start = stream.read(_PREAMBLE + 4)
    has_preamble = start[_PREAMBLE:] == b"DICM"
    if not has_preamble and not _may_start_dataset(start):
        return None
    stream.seek(0)
    try:
        return _parse_dataset(stream, path, size, has_preamble=has_preamble)
    except HeaderError:
        if has_preamble:
            raise
        return None


def _parse_dataset(stream: BinaryIO, path: Path, size: int | None, *, has_preamble: bool) -> Header | None:
    import pydicom

    try:
        if is_bomb(stream):
            raise HeaderError("too_large", "more sequence items than any image, or deflated to more than 16 MiB")
        stream.seek(0)
        with quietly():
            ds = pydicom.dcmread(Patience(stream), stop_before_pixels=True, force=not has_preamble)
            offset, length = _pixel_data(ds, stream, size)
            header = header_of(ds, path, pixel_offset=offset, pixel_length=length)
            if header is not None:
                _require_whole(ds, header)
            return header
    except READ_ERRORS as error:
        raise HeaderError("unreadable_dicom", f"the header cannot be parsed ({type(error).__name__})") from error


def header_of(
    ds: Dataset, path: Path, *, pixel_offset: int | None = None, pixel_length: int | None = None
) -> Header | None:
    """Header of a dataset without its pixels, from a file or from a server's JSON; None for a DICOMDIR.

    Raises
    ------
    HeaderError
        ``invalid_uid``.

    """
    meta = getattr(ds, "file_meta", None)
    if text(ds, "SOPInstanceUID") is None and meta and text(meta, "MediaStorageSOPClassUID") == _DICOMDIR_CLASS:
        return None
    keywords = ("SOPInstanceUID", "SOPClassUID", "SeriesInstanceUID", "StudyInstanceUID")
    uids = {keyword: text(ds, keyword) or "" for keyword in keywords}
    bad = [keyword for keyword, value in uids.items() if not is_uid(value)]
    if bad:
        raise HeaderError("invalid_uid", f"{', '.join(bad)} missing or no UID; if the file is cut off, export it again")
    sop, sop_class, series, study_uid = uids.values()
    fields = _image(ds) | _acquisition(ds) | _pixel_description(ds)
    fields |= {"pixel_offset": pixel_offset, "pixel_length": pixel_length}
    instance = Instance(path, sop, sop_class, series, study_uid, **fields)
    kind = kind_of(instance.sop_class_uid)
    references: tuple[str, ...] = ()
    frames: tuple[Instance, ...] = ()
    if kind == PRESENTATION_STATE:
        references = tuple(sop for _, sop in referenced_images(ds))
    elif kind == STRUCTURED_REPORT:
        references = tuple(reported_objects(ds))
    elif instance.sop_class_uid in ENHANCED_CT_CLASSES:
        from cohort_builder.pacs.enhanced import frames_of

        frames = frames_of(ds, instance)
    study = StudyHeader(
        patient_id=text(ds, "PatientID"),
        accession_number=text(ds, "AccessionNumber"),
        study_date=text(ds, "StudyDate"),
        patient_sex=text(ds, "PatientSex"),
        patient_age=text(ds, "PatientAge"),
        identifiers=tuple(sorted(set(_identifiers(ds)))),
    )
    return Header(kind, instance, study, references, frames)


def _image(ds: Dataset) -> dict[str, Any]:
    position, spacing = numbers(ds, "ImagePositionPatient", 3), numbers(ds, "PixelSpacing", 2)
    return {
        "modality": text(ds, "Modality") or "",
        "transfer_syntax_uid": _transfer_syntax(ds),
        "series_number": integer(ds, "SeriesNumber"),
        "instance_number": integer(ds, "InstanceNumber"),
        "acquisition_number": integer(ds, "AcquisitionNumber"),
        "image_type": tuple(str(value) for value in values_in(value_of(ds, "ImageType"))),
        "rows": integer(ds, "Rows"),
        "columns": integer(ds, "Columns"),
        "image_position": position,
        "image_orientation": numbers(ds, "ImageOrientationPatient", 6),
        "pixel_spacing": spacing,
        "frame_of_reference_uid": text(ds, "FrameOfReferenceUID"),
        "number_of_frames": integer(ds, "NumberOfFrames") or 1,
    }


def _acquisition(ds: Dataset) -> dict[str, Any]:
    return {
        "rescale_slope": _number(ds, "RescaleSlope"),
        "rescale_intercept": _number(ds, "RescaleIntercept"),
        "rescale_type": text(ds, "RescaleType"),
        "acquisition_time": text(ds, "AcquisitionTime"),
        "content_time": text(ds, "ContentTime"),
        "temporal_position": integer(ds, "TemporalPositionIdentifier"),
        "convolution_kernel": text(ds, "ConvolutionKernel"),
        "series_description": text(ds, "SeriesDescription"),
        "slice_thickness_mm": _number(ds, "SliceThickness"),
        "manufacturer": text(ds, "Manufacturer"),
        "manufacturer_model_name": text(ds, "ManufacturerModelName"),
        "software_versions": text(ds, "SoftwareVersions"),
        "kvp": text(ds, "KVP"),
        "contrast_agent": text(ds, "ContrastBolusAgent"),
        "body_part_examined": text(ds, "BodyPartExamined"),
        "patient_position": text(ds, "PatientPosition"),
    }


def _pixel_description(ds: Dataset) -> dict[str, Any]:
    return {
        "burned_in_annotation": text(ds, "BurnedInAnnotation") == "YES",
        "lossy": text(ds, "LossyImageCompression") == "01",
        "pixel_padding_value": integer(ds, "PixelPaddingValue"),
        "pixel_padding_range_limit": integer(ds, "PixelPaddingRangeLimit"),
        "samples_per_pixel": integer(ds, "SamplesPerPixel"),
        "photometric_interpretation": text(ds, "PhotometricInterpretation"),
        "bits_allocated": integer(ds, "BitsAllocated"),
        "bits_stored": integer(ds, "BitsStored"),
        "high_bit": integer(ds, "HighBit"),
        "pixel_representation": integer(ds, "PixelRepresentation"),
    }


def _number(ds: Dataset, keyword: str) -> float | None:
    value = numbers(ds, keyword, 1)
    return None if value is None else value[0]


def _transfer_syntax(ds: Dataset) -> str:
    meta = getattr(ds, "file_meta", None)
    declared = None if meta is None else text(meta, "TransferSyntaxUID")
    if declared is not None:
        return declared
    implicit, little_endian = ds.original_encoding
    if little_endian is False:
        return BIG_ENDIAN
    return IMPLICIT if implicit else EXPLICIT


def _identifiers(ds: Dataset) -> Iterator[str]:
    """Every string of the header that names a person, a case or a place, at any depth; graphics apart."""
    from pydicom.datadict import dictionary_has_tag, dictionary_VR, keyword_for_tag

    for tag in ds.keys():  # noqa: SIM118 - iterating a Dataset would convert every value
        vr = ds.get_item(tag).VR
        if vr in {None, "UN"}:
            vr = dictionary_VR(tag) if dictionary_has_tag(tag) else "UN"
        if tag == _GRAPHIC_ANNOTATION_SEQUENCE:
            continue
        if vr == "SQ":
            for item in sequence(ds, tag):
                yield from _identifiers(item)
        elif vr == "PN":
            for name in values_in(value_of(ds, tag)):
                yield from name_forms(str(name))
        elif keyword_for_tag(tag) in IDENTIFYING:
            for value in values_in(value_of(ds, tag)):
                yield from said(str(value))


def _require_whole(ds: Dataset, header: Header) -> None:
    if is_truncated(ds):
        raise HeaderError("truncated", "the file ends in the middle of its header; export it again")
    image = header.instance
    if header.kind == CT and image.transfer_syntax_uid != DEFLATED:
        if image.pixel_length is not None and image.pixel_length >= native_bytes(image):
            return
        raise HeaderError("truncated", "the pixel data are absent or shorter than the image; export it again")


def _pixel_data(ds: Dataset, stream: BinaryIO, size: int | None) -> tuple[int | None, int | None]:
    """Start and length of the Pixel Data value as far as it is there, from where pydicom stopped.

    Compressed frames are followed to their end for CT only: without it their length is None.
    """
    implicit, little_endian = ds.original_encoding
    start = b"" if _transfer_syntax(ds) == DEFLATED else stream.read(8 if implicit else 12)
    order: Literal["little", "big"] = "little" if little_endian else "big"
    tag = int.from_bytes(start[:2], order), int.from_bytes(start[2:4], order)
    if len(start) < (8 if implicit else 12) or tag != (0x7FE0, 0x0010):
        return None, None
    declared, begin = int.from_bytes(start[-4:], order), stream.tell()
    end = stream.seek(0, os.SEEK_END) if size is None else size
    if declared != UNDEFINED_LENGTH:
        return begin, min(declared, end - begin)
    if kind_of(text(ds, "SOPClassUID") or "") != CT:
        return begin, None
    return begin, fragments_length(_reader(stream), begin, end)
