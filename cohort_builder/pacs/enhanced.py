"""The frames of a multi-frame CT as images of their own: what the functional groups say (PS3.3 C.7.6.16, A.38, A.70).

Enhanced CT and Legacy Converted Enhanced CT keep geometry, rescale and timing in two sequences: what all frames share,
and one item a frame, in the order of the frames. The item of a frame wins over what is shared.
"""

from __future__ import annotations

from dataclasses import replace
from typing import TYPE_CHECKING, Any

from cohort_builder.pacs.elements import integer, numbers, sequence, text, value_of, values_in
from cohort_builder.pacs.headers import Instance

if TYPE_CHECKING:
    from pydicom.dataset import Dataset


def frames_of(ds: Dataset, instance: Instance) -> tuple[Instance, ...]:
    """Give one ``Instance`` for each frame of a multi-frame CT.

    Parameters
    ----------
    ds
        Its header as read by pydicom; the pixels are not needed.
    instance
        The object as a whole: what no functional group says is taken from here, as is ``pixel_offset``.

    Returns
    -------
    Frames in their order, ``frame_number`` from 1. Empty where there are not as many items as frames: then nothing
    tells which item is which frame's. The instance number is that of the image which was converted (Legacy Converted
    Enhanced CT), or the number of the frame, as viewers count.

    """
    items = sequence(ds, "PerFrameFunctionalGroupsSequence")
    if not items or len(items) != instance.number_of_frames:
        return ()
    common = replace(instance, **_of_object(ds, instance))
    for shared in sequence(ds, "SharedFunctionalGroupsSequence")[:1]:
        common = replace(common, **_of_groups(shared))
    return tuple(
        replace(common, **{"frame_number": number, "instance_number": number} | _of_groups(item))
        for number, item in enumerate(items, start=1)
    )


def _of_object(ds: Dataset, instance: Instance) -> dict[str, Any]:
    """What these classes keep in a sequence at the top, where a CT image has an element of its own."""
    agents = sequence(ds, "ContrastBolusAgentSequence")
    return {"contrast_agent": text(agents[0], "CodeMeaning")} if agents and instance.contrast_agent is None else {}


def _of_groups(item: Dataset) -> dict[str, Any]:
    """What the functional groups of one item say; a group that is there and lacks a value makes it None."""
    said: dict[str, Any] = {}
    for macro in sequence(item, "PlanePositionSequence")[:1]:
        said["image_position"] = numbers(macro, "ImagePositionPatient", 3)
    for macro in sequence(item, "PlaneOrientationSequence")[:1]:
        said["image_orientation"] = numbers(macro, "ImageOrientationPatient", 6)
    for macro in sequence(item, "PixelMeasuresSequence")[:1]:
        said["pixel_spacing"] = numbers(macro, "PixelSpacing", 2)
        said["slice_thickness_mm"] = _number(macro, "SliceThickness")
    for macro in sequence(item, "PixelValueTransformationSequence")[:1]:
        said["rescale_slope"] = _number(macro, "RescaleSlope")
        said["rescale_intercept"] = _number(macro, "RescaleIntercept")
        said["rescale_type"] = text(macro, "RescaleType")
    for macro in sequence(item, "CTImageFrameTypeSequence")[:1]:
        said["image_type"] = tuple(str(value) for value in values_in(value_of(macro, "FrameType")))
    for macro in sequence(item, "CTReconstructionSequence")[:1]:
        said["convolution_kernel"] = text(macro, "ConvolutionKernel")
    for macro in sequence(item, "CTXRayDetailsSequence")[:1]:
        said["kvp"] = text(macro, "KVP")
    for keyword in ("UnassignedSharedConvertedAttributesSequence", "UnassignedPerFrameConvertedAttributesSequence"):
        for macro in sequence(item, keyword)[:1]:
            said |= _converted(macro)
    for macro in sequence(item, "FrameContentSequence")[:1]:
        said |= _content(macro)
    return said


def _converted(macro: Dataset) -> dict[str, Any]:
    """What a converter kept of the single-frame headers because no functional group has a place for it."""
    said: dict[str, Any] = {
        "instance_number": integer(macro, "InstanceNumber"),
        "acquisition_number": integer(macro, "AcquisitionNumber"),
        "acquisition_time": text(macro, "AcquisitionTime"),
        "content_time": text(macro, "ContentTime"),
        "temporal_position": integer(macro, "TemporalPositionIdentifier"),
        "convolution_kernel": text(macro, "ConvolutionKernel"),
        "kvp": text(macro, "KVP"),
        "contrast_agent": text(macro, "ContrastBolusAgent"),
        "pixel_padding_value": integer(macro, "PixelPaddingValue"),
        "pixel_padding_range_limit": integer(macro, "PixelPaddingRangeLimit"),
    }
    return {name: value for name, value in said.items() if value is not None}


def _content(macro: Dataset) -> dict[str, Any]:
    """Frame Content (PS3.3 C.7.6.16.2.2); of its moments, YYYYMMDDHHMMSS.FFFFFF, the time."""
    acquired, content = text(macro, "FrameAcquisitionDateTime"), text(macro, "FrameReferenceDateTime")
    said: dict[str, Any] = {
        "acquisition_number": integer(macro, "FrameAcquisitionNumber"),
        "temporal_position": integer(macro, "TemporalPositionIndex"),
        "acquisition_time": None if acquired is None else acquired[8:],
        "content_time": None if content is None else content[8:],
        "stack_id": text(macro, "StackID"),
    }
    return {name: value for name, value in said.items() if value is not None}


def _number(ds: Dataset, keyword: str) -> float | None:
    value = numbers(ds, keyword, 1)
    return None if value is None else value[0]
