"""Records in, a published dataset out. Knows nothing of models or PACS.

Names are loaded at first use: ``import exports`` loads neither pyarrow nor matplotlib.
"""

from __future__ import annotations

from importlib import import_module
from typing import TYPE_CHECKING, Any

from exports.types import (
    AnnotationRecord,
    EngineRecord,
    ExportError,
    FindingRecord,
    LinkRecord,
    MeasurementRecord,
    PhraseRecord,
    QualityRecord,
    ReportPhraseRecord,
    ReportRecord,
    VolumeRecord,
)

if TYPE_CHECKING:
    from exports.assembly import assemble
    from exports.card import CardInfo
    from exports.parquet import ShardWriter, VolumeLocation, write_dataset
    from exports.pictures import contact_sheet, finding_picture, preview_png
    from exports.reading import fetch_volume, read_findings, read_row, with_arrays
    from exports.roi import choose_roi

__all__ = [
    "AnnotationRecord",
    "CardInfo",
    "EngineRecord",
    "ExportError",
    "FindingRecord",
    "LinkRecord",
    "MeasurementRecord",
    "PhraseRecord",
    "QualityRecord",
    "ReportPhraseRecord",
    "ReportRecord",
    "ShardWriter",
    "VolumeLocation",
    "VolumeRecord",
    "assemble",
    "choose_roi",
    "contact_sheet",
    "fetch_volume",
    "finding_picture",
    "preview_png",
    "read_findings",
    "read_row",
    "with_arrays",
    "write_dataset",
]

_HOME = {
    "CardInfo": "card",
    "ShardWriter": "parquet",
    "VolumeLocation": "parquet",
    "assemble": "assembly",
    "choose_roi": "roi",
    "contact_sheet": "pictures",
    "fetch_volume": "reading",
    "finding_picture": "pictures",
    "preview_png": "pictures",
    "read_findings": "reading",
    "read_row": "reading",
    "with_arrays": "reading",
    "write_dataset": "parquet",
}


def __getattr__(name: str) -> Any:
    if name not in _HOME:
        raise AttributeError(f"module 'exports' has no attribute {name!r}")
    return getattr(import_module(f"exports.{_HOME[name]}"), name)
