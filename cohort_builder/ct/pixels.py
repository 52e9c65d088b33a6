"""Stored pixel values of CT images to Hounsfield units (PS3.3 C.7.6.3, C.7.5.1.1.2, C.11.1), without copies on the way.

Uncompressed slices are read straight into the array of the volume and made Hounsfield units where they lie.
"""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Sequence
from contextlib import closing
from typing import TYPE_CHECKING, Any

import numpy as np
from numpy.typing import NDArray

from cohort_builder.ct import helpers
from cohort_builder.ct.decoders import decode, installed_decoders
from cohort_builder.ct.frames import BIG_ENDIAN, NATIVE, OpenObject, PixelLayout
from cohort_builder.pacs.elements import READ_ERRORS, quietly
from cohort_builder.pacs.objects import fetch
from segmentation.types import GeometryError

if TYPE_CHECKING:
    from cohort_builder.pacs.headers import Instance

__all__ = ["AIR_HU", "installed_decoders", "read_hounsfield", "read_slices"]

AIR_HU = -1024
_INT16 = np.iinfo(np.int16)


def read_hounsfield(instance: Instance) -> NDArray[np.int16]:
    """(row, column) int16 HU of a CT image or frame, padding and all below -1024 HU set to -1024.

    Raises
    ------
    GeometryError
        As ``read_slices``.

    """
    voxels = np.empty((1, instance.rows or 0, instance.columns or 0), dtype=np.int16)
    read_slices([instance], voxels)
    image: NDArray[np.int16] = voxels[0]
    return image


def read_slices(instances: Sequence[Instance], voxels: NDArray[np.int16]) -> None:
    """Fill ``voxels``, (slice, row, column) and contiguous, with int16 HU of ``instances``, one a slice.

    Raises
    ------
    GeometryError
        An object cannot be read or decoded, is not the indexed image, is no single-sample MONOCHROME2 image, or exceeds
        int16.

    """
    try:
        with quietly():
            fetch(instances)
    except READ_ERRORS as error:
        raise GeometryError(f"the images of the series cannot be fetched ({type(error).__name__})") from error
    count = helpers.count_for(instances, voxels.nbytes)
    if count:
        helpers.read_with(count, instances, voxels)
    else:
        read_here(instances, voxels)


def read_here(instances: Sequence[Instance], voxels: NDArray[np.int16]) -> None:
    """As ``read_slices``, of what is on this machine, in this process."""
    objects: dict[tuple[str, str, str], list[int]] = defaultdict(list)
    for i, instance in enumerate(instances):
        objects[str(instance.path), instance.member, instance.sop_instance_uid].append(i)
    try:
        with quietly():
            for slices in objects.values():
                with closing(OpenObject(instances[slices[0]])) as opened:
                    for i in slices:
                        _read_frame(opened, instances[i], voxels[i])
    except READ_ERRORS as error:
        raise GeometryError(f"an image of the series cannot be read or decoded ({type(error).__name__})") from error


def _read_frame(opened: OpenObject, instance: Instance, out: NDArray[np.int16]) -> None:
    layout = opened.layout
    if (layout.rows, layout.columns) != out.shape:
        raise GeometryError(f"an image decodes to shape {(layout.rows, layout.columns)}, its header says {out.shape}")
    frame = (instance.frame_number or 1) - 1
    if not 0 <= frame < layout.frames or (instance.frame_number is None and layout.frames > 1):
        raise GeometryError(f"an image of {layout.frames} frame(s) was asked for frame {instance.frame_number}")
    stored = _stored(opened, frame, out)
    if not _shifted_in_place(out, stored, layout, instance):
        out[...] = _to_hounsfield(*_stored_values(stored, layout, instance), instance)


def _stored(opened: OpenObject, frame: int, out: NDArray[np.int16]) -> NDArray[np.integer[Any]]:
    """(row, column) values as allocated; those of 16 bits lie in the memory of ``out``."""
    layout = opened.layout
    if layout.syntax not in NATIVE:
        pixels = decode(opened.encoded(frame), layout)
        if pixels.dtype.itemsize != out.itemsize:
            return pixels
        stored = out.view(pixels.dtype)
        stored[...] = pixels
        return stored
    order, kind = ">" if layout.syntax == BIG_ENDIAN else "<", "i" if layout.signed else "u"
    dtype = np.dtype(f"{order}{kind}{layout.pixel_bytes}")
    if layout.pixel_bytes != out.itemsize:
        buffer = bytearray(layout.frame_bytes)
        opened.read_into(frame, memoryview(buffer))
        return np.frombuffer(buffer, dtype=dtype).reshape(out.shape)
    opened.read_into(frame, out.data.cast("B"))
    if not dtype.isnative:
        out.byteswap(inplace=True)
    return out.view(dtype.newbyteorder("="))


def _shifted_in_place(
    out: NDArray[np.int16], stored: NDArray[np.integer[Any]], layout: PixelLayout, instance: Instance
) -> bool:
    """Add the intercept to 16 bit values where they lie, if nothing else is to be done; else change nothing.

    ``stored`` is the memory of ``out``, signed or unsigned, if it is of 16 bits. The sum may wrap round: it fits in the
    end.
    """
    slope, intercept = instance.rescale_slope, instance.rescale_intercept
    if stored.itemsize != out.itemsize or layout.high_bit + 1 != layout.bits_stored:
        return False
    if slope != 1 or intercept is None or not intercept.is_integer() or abs(intercept) > _INT16.max:
        return False
    offset, padding = int(intercept), _padding_range(layout, instance)
    values, below = 1 << layout.bits_stored, 1 << layout.bits_stored - 1 if layout.signed else 0
    high = int(stored.max())
    low = 0 if not layout.signed and padding is None else int(stored.min())
    if not -below <= low <= high < values - below:  # there is something outside Bits Stored
        return False
    if low + offset < _INT16.min or high + offset > _INT16.max:
        return False
    if padding is not None and low <= padding[1] and padding[0] <= high and min(padding[1], high) + offset > AIR_HU:
        return False
    if offset:
        out += np.int16(offset)
    if low + offset < AIR_HU:
        np.maximum(out, AIR_HU, out=out)
    return True


def _stored_values(
    raw: NDArray[np.integer[Any]], layout: PixelLayout, instance: Instance
) -> tuple[NDArray[np.integer[Any]], NDArray[np.bool_] | None]:
    """Values as stored in the Bits Stored below High Bit, sign extended, and where they are padding (None: no padding).

    They are wider than stored, since numpy 2 raises on uint16 + (-1024). Bits outside may hold an overlay. A padding
    value need not fit into Bits Stored, so it is looked for before and after the mask.
    """
    values: NDArray[np.integer[Any]] = raw.astype(np.int64 if raw.dtype.itemsize > 2 else np.int32)
    allocated, stored = layout.bits_allocated, layout.bits_stored
    shift = layout.high_bit + 1 - stored
    inner = values
    if (shift, stored) != (0, allocated):
        inner = (values >> shift) & ((1 << stored) - 1)
        if layout.signed:
            inner = inner - ((inner >> (stored - 1)) << stored)
    padding = _padding_range(layout, instance)
    if padding is None:
        return inner, None
    low, high = padding
    return inner, ((values >= low) & (values <= high)) | ((inner >= low) & (inner <= high))


def _padding_range(layout: PixelLayout, instance: Instance) -> tuple[int, int] | None:
    """Stored values that are padding, both ends included; None where there is none."""
    if instance.pixel_padding_value is None:
        return None
    limit = instance.pixel_padding_range_limit
    ends = [instance.pixel_padding_value, instance.pixel_padding_value if limit is None else limit]
    low, high = sorted(_as_stored(end, layout.bits_allocated, signed=layout.signed) for end in ends)
    return low, high


def _as_stored(value: int, bits: int, *, signed: bool) -> int:
    """A padding value, whose VR is ambiguous (US or SS), in the Pixel Representation of the image."""
    value &= (1 << bits) - 1
    return value - (1 << bits) if signed and value >= 1 << (bits - 1) else value


def _to_hounsfield(
    stored: NDArray[np.integer[Any]], padding: NDArray[np.bool_] | None, instance: Instance
) -> NDArray[np.int16]:
    slope, intercept = instance.rescale_slope, instance.rescale_intercept
    if slope is None or intercept is None:
        raise GeometryError("an image has no Rescale Slope and Intercept, so no Hounsfield units")
    exact = slope == 1 and intercept.is_integer() and abs(intercept) < 1 << 20
    hounsfield = stored + np.int64(intercept).astype(stored.dtype) if exact else np.rint(stored * slope + intercept)
    if padding is not None:
        hounsfield[padding] = AIR_HU
    if hounsfield.max(initial=AIR_HU) > np.iinfo(np.int16).max:
        raise GeometryError(f"an image reaches {hounsfield.max():.0f} HU, which does not fit into int16")
    result: NDArray[np.int16] = np.maximum(hounsfield, AIR_HU).astype(np.int16)
    return result
