"""Stored pixel values of one CT image to Hounsfield units (PS3.3 C.7.6.3, C.7.5.1.1.2, C.11.1)."""

from __future__ import annotations

from contextlib import suppress
from typing import TYPE_CHECKING, Any

import numpy as np
from numpy.typing import NDArray

from cohort_builder.pacs.elements import READ_ERRORS, integer, quietly, text
from cohort_builder.pacs.objects import open_object
from segmentation.types import GeometryError

if TYPE_CHECKING:
    from pydicom.dataset import Dataset
    from pydicom.uid import UID

    from cohort_builder.pacs.headers import Instance

AIR_HU = -1024
_PHOTOMETRIC = frozenset({"MONOCHROME1", "MONOCHROME2", "PALETTE COLOR", "RGB", "YBR_FULL", "YBR_FULL_422"})


def installed_decoders() -> dict[str, list[str]]:
    """Plug-ins that decode each compressed transfer syntax here; with another one, files of before can be read."""
    from pydicom.pixels.decoders.base import get_decoder
    from pydicom.uid import AllTransferSyntaxes

    found = {}
    for syntax in AllTransferSyntaxes:
        with suppress(NotImplementedError):
            found[str(syntax)] = sorted(get_decoder(syntax).available_plugins)
    return found


def read_hounsfield(instance: Instance) -> NDArray[np.int16]:
    """(row, column) int16 HU of a single-frame CT image, padding and all below -1024 HU set to -1024.

    Raises
    ------
    GeometryError
        The file cannot be read or decoded, is not the indexed image, is no single-sample MONOCHROME2 image, or exceeds
        int16.

    """
    import pydicom

    try:
        with quietly(), open_object(instance) as stream:
            ds = pydicom.dcmread(stream, force=True)
            _require_same(ds, instance)
            raw = np.asarray(_decoded(ds))
    except READ_ERRORS as error:
        raise GeometryError(f"an image of the series cannot be read or decoded ({type(error).__name__})") from error
    if raw.shape != (instance.rows, instance.columns):
        raise GeometryError(
            f"an image decodes to shape {raw.shape}, its header says ({instance.rows}, {instance.columns})"
        )
    stored, padding = _stored_values(raw, ds, instance)
    return _to_hounsfield(stored, padding, instance)


def _require_same(ds: Dataset, instance: Instance) -> None:
    if text(ds, "SOPInstanceUID") != instance.sop_instance_uid:
        raise GeometryError("a file of the series changed since it was indexed; index the export again")
    samples, photometric = integer(ds, "SamplesPerPixel"), text(ds, "PhotometricInterpretation")
    if samples != 1 or photometric != "MONOCHROME2":
        got = photometric if photometric in _PHOTOMETRIC else "something else"  # a header's text is not quoted
        raise GeometryError(f"a CT image must be MONOCHROME2 with 1 sample a pixel, got {got} with {samples}")
    bits = [integer(ds, keyword) for keyword in ("BitsAllocated", "BitsStored", "HighBit")]
    if None in bits or bits[0] not in {8, 16, 32} or not 1 <= (bits[1] or 0) <= (bits[2] or 0) + 1 <= (bits[0] or 0):
        raise GeometryError(f"Bits Allocated, Bits Stored and High Bit {bits} do not fit together")


def _decoded(ds: Dataset) -> NDArray[np.generic]:
    syntax = ds.file_meta.get("TransferSyntaxUID")
    if syntax is not None and syntax.is_encapsulated and not _has_decoder(syntax):
        # Not a private UID: it can tell who and when.
        known = syntax.name if syntax.type == "Transfer Syntax" else "a private one"
        raise GeometryError(
            f"no installed codec decodes the transfer syntax ({known}); install them: "
            "pip install 'cohort-builder[codecs]'"
        )
    if syntax is not None and syntax.is_encapsulated:
        pixels: NDArray[np.generic] = ds.pixel_array
        return pixels
    return _native(ds)


def _has_decoder(syntax: UID) -> bool:
    from pydicom.pixels.decoders.base import get_decoder

    try:
        return bool(get_decoder(syntax).is_available)
    except NotImplementedError:  # a video, or a vendor's own
        return False


def _native(ds: Dataset) -> NDArray[np.generic]:
    """Uncompressed values as allocated; pydicom's own array hides what lies outside Bits Stored."""
    order = "<" if ds.original_encoding[1] else ">"
    kind = "i" if integer(ds, "PixelRepresentation") == 1 else "u"
    rows, columns = integer(ds, "Rows") or 0, integer(ds, "Columns") or 0
    dtype = np.dtype(f"{order}{kind}{(integer(ds, 'BitsAllocated') or 0) // 8}")
    return np.frombuffer(ds.PixelData, dtype=dtype, count=rows * columns).reshape(rows, columns)


def _stored_values(
    raw: NDArray[np.generic], ds: Dataset, instance: Instance
) -> tuple[NDArray[np.integer[Any]], NDArray[np.bool_] | None]:
    """Values as stored in the Bits Stored below High Bit, sign extended, and where they are padding (None: no padding).

    They are wider than stored, since numpy 2 raises on uint16 + (-1024). Bits outside may hold an overlay. A padding
    value need not fit into Bits Stored, so it is looked for before and after the mask.
    """
    values: NDArray[np.integer[Any]] = raw.astype(np.int64 if raw.dtype.itemsize > 2 else np.int32)
    allocated, stored = integer(ds, "BitsAllocated") or 16, integer(ds, "BitsStored") or 16
    shift = (integer(ds, "HighBit") or stored - 1) + 1 - stored
    signed = integer(ds, "PixelRepresentation") == 1
    inner = values
    if (shift, stored) != (0, allocated):
        inner = (values >> shift) & ((1 << stored) - 1)
        if signed:
            inner = inner - ((inner >> (stored - 1)) << stored)
    if instance.pixel_padding_value is None:
        return inner, None
    limit = instance.pixel_padding_range_limit
    ends = [instance.pixel_padding_value, instance.pixel_padding_value if limit is None else limit]
    low, high = sorted(_as_stored(end, allocated, signed=signed) for end in ends)
    return inner, ((values >= low) & (values <= high)) | ((inner >= low) & (inner <= high))


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
