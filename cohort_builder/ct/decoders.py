"""Compressed frames to stored values, by the fastest installed decoder that is not under the GPL.

pydicom's plug-ins do the work. None of them releases Python's lock, so threads decode no faster than one.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import numpy as np
from numpy.typing import NDArray

from segmentation.types import GeometryError

if TYPE_CHECKING:
    from cohort_builder.ct.frames import PixelLayout

_EXTENDED = "1.2.840.10008.1.2.4.51"

# For each transfer syntax the fastest first (tests/benchmarks/volume.py). pylibjpeg stands for its plug-ins for RLE and
# JPEG 2000 only: JPEG and JPEG-LS it would give to pylibjpeg-libjpeg, which is GPL.
_PLUGINS = {
    "1.2.840.10008.1.2.5": ("pylibjpeg", "pydicom"),  # RLE
    "1.2.840.10008.1.2.4.50": ("gdcm", "pillow"),  # JPEG baseline, 8 bit
    _EXTENDED: ("gdcm", "pillow"),
    "1.2.840.10008.1.2.4.57": ("gdcm",),  # JPEG lossless
    "1.2.840.10008.1.2.4.70": ("gdcm",),  # JPEG lossless, first order prediction
    "1.2.840.10008.1.2.4.80": ("pyjpegls", "gdcm"),  # JPEG-LS
    "1.2.840.10008.1.2.4.81": ("pyjpegls", "gdcm"),
    "1.2.840.10008.1.2.4.90": ("gdcm", "pylibjpeg", "pillow"),  # JPEG 2000; GDCM decodes on all cores
    "1.2.840.10008.1.2.4.91": ("gdcm", "pylibjpeg", "pillow"),
    "1.2.840.10008.1.2.4.201": ("pylibjpeg",),  # HTJ2K
    "1.2.840.10008.1.2.4.202": ("pylibjpeg",),
    "1.2.840.10008.1.2.4.203": ("pylibjpeg",),
}


def installed_decoders() -> dict[str, list[str]]:
    """Decoders of each compressed transfer syntax here, the one that is used first; with another, more can be read."""
    return {syntax: _installed(syntax) for syntax in _PLUGINS}


def decode(encoded: bytes, layout: PixelLayout) -> NDArray[np.integer[Any]]:
    """(row, column) stored values of one compressed frame, their sign corrected as pydicom does.

    Bits outside Bits Stored are as the decoder leaves them.

    Raises
    ------
    GeometryError
        No installed decoder knows the transfer syntax.

    What a damaged bit stream raises is in ``cohort_builder.pacs.elements.READ_ERRORS``.

    """
    from pydicom.encaps import encapsulate
    from pydicom.pixels.decoders.base import get_decoder
    from pydicom.uid import UID

    syntax = UID(layout.syntax)
    installed = _installed(layout.syntax)
    if syntax == _EXTENDED and layout.bits_stored > 8:
        installed = [name for name in installed if name == "gdcm"]
    if not installed:
        # Not a private UID: it can tell who and when.
        known = syntax.name if syntax.type == "Transfer Syntax" else "a private one"
        raise GeometryError(
            f"no installed codec decodes the transfer syntax ({known}); install them: "
            "pip install 'cohort-builder[codecs]'"
        )
    if syntax == _EXTENDED and layout.bits_stored > 8:
        return _extended_12_bit(encoded, layout)
    options: dict[str, Any] = {
        "rows": layout.rows,
        "columns": layout.columns,
        "samples_per_pixel": 1,
        "photometric_interpretation": "MONOCHROME2",
        "bits_allocated": layout.bits_allocated,
        "bits_stored": layout.bits_stored,
        "pixel_representation": int(layout.signed),
        "number_of_frames": 1,
        "correct_unused_bits": False,  # a padding value may need them
    }
    decoder = get_decoder(syntax)
    pixels, _ = decoder.as_array(encapsulate([encoded]), index=0, raw=True, decoding_plugin=installed[0], **options)
    return pixels


def _installed(syntax: str) -> list[str]:
    from pydicom.pixels.decoders.base import get_decoder

    names = _PLUGINS.get(syntax, ())
    return [name for name in names if name in get_decoder(syntax).available_plugins]


def _extended_12_bit(encoded: bytes, layout: PixelLayout) -> NDArray[np.integer[Any]]:
    """By GDCM itself, which pydicom does not let do it; it gives what DCMTK gives."""
    import gdcm

    fragment, fragments = gdcm.Fragment(), gdcm.SequenceOfFragments.New()
    fragment.SetByteStringValue(encoded)
    fragments.AddFragment(fragment)
    element = gdcm.DataElement(gdcm.Tag(0x7FE0, 0x0010))
    element.SetValue(fragments.__ref__())
    image = gdcm.Image()
    image.SetNumberOfDimensions(2)
    image.SetDimensions((layout.columns, layout.rows, 1))
    image.SetDataElement(element)
    image.SetPhotometricInterpretation(gdcm.PhotometricInterpretation(gdcm.PhotometricInterpretation.MONOCHROME2))
    image.SetTransferSyntax(gdcm.TransferSyntax(gdcm.TransferSyntax.JPEGExtendedProcess2_4))
    bits = (layout.bits_allocated, layout.bits_stored, layout.high_bit, int(layout.signed))
    image.SetPixelFormat(gdcm.PixelFormat(1, *bits))
    values = image.GetBuffer().encode("utf-8", "surrogateescape")  # GDCM hands bytes over as text
    kind = "i" if layout.signed else "u"
    return np.frombuffer(values, dtype=f"<{kind}{layout.pixel_bytes}").reshape(layout.rows, layout.columns)
