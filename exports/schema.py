"""The columns of the published tables, and records turned into rows.

The schemas carry the ``huggingface`` metadata of the ``datasets`` library (>= 4.4), so that ``image`` and ``mask`` load
as ``Nifti`` and ``preview`` as ``Image``. It is written here rather than by that library: a worker that writes shards
need not import it, and its version does not reach the bytes.
"""

from __future__ import annotations

import gzip
import hashlib
import json
from collections.abc import Mapping
from dataclasses import asdict
from functools import cache
from types import MappingProxyType
from typing import Any

import numpy as np
import pyarrow as pa
from numpy.typing import NDArray

from exports.types import ExportError, FindingRecord, PhraseRecord, ReportRecord, VolumeRecord
from segmentation.geometry import is_orthogonal

Row = dict[str, Any]

_TEXT, _INT, _REAL = pa.string(), pa.int32(), pa.float64()
_FILE = pa.struct([("bytes", pa.binary()), ("path", pa.string())])
_INDEX = pa.list_(_INT, 3)
_POINTS = pa.list_(pa.list_(_REAL, 3))
_AFFINE = pa.list_(pa.list_(_REAL, 4), 4)

# Null in data/unlinked: what only a phrase has.
_PHRASE_COLUMNS: tuple[tuple[str, pa.DataType], ...] = (
    ("finding_id", _TEXT),
    ("report_id", _TEXT),
    ("phrase", _TEXT),
    ("phrase_start", _INT),
    ("phrase_end", _INT),
    ("sentence", _TEXT),
    ("section", _TEXT),
    ("language", _TEXT),
    ("assertion", _TEXT),
    ("observation", _TEXT),
    ("anatomy", _TEXT),
    ("laterality", _TEXT),
    (
        "measurements",
        pa.list_(
            pa.struct(
                [
                    ("kind", _TEXT),
                    ("axis", _TEXT),
                    ("value_mm", _REAL),
                    ("rounding_mm", _REAL),
                    ("source_text", _TEXT),
                    ("start", _INT),
                    ("end", _INT),
                    ("mask_value_mm", _REAL),
                    ("ratio", _REAL),
                ]
            )
        ),
    ),
    (
        "link",
        pa.struct(
            [
                ("decision", _TEXT),
                ("probability", _REAL),
                ("evidence", pa.list_(pa.struct([("term", _TEXT), ("log_odds", _REAL)]))),
                ("summary", _TEXT),
            ]
        ),
    ),
)
_ANNOTATION = pa.struct(
    [
        ("kind", _TEXT),
        ("points_ras_mm", _POINTS),
        ("points_ijk", _POINTS),
        ("stated_mm", pa.list_(_REAL)),
        ("drawn_mm", pa.list_(_REAL)),
        ("source_kind", _TEXT),
        ("rule", _TEXT),
        ("confidence", _REAL),
        ("series_id", _TEXT),
    ]
)
_LESION_COLUMNS: tuple[tuple[str, pa.DataType], ...] = (
    ("lesion_id", _TEXT),
    ("patient_id", _TEXT),
    ("study_id", _TEXT),
    ("series_id", _TEXT),
    ("annotation", _ANNOTATION),
    ("other_annotations", pa.list_(_ANNOTATION)),
    ("image", _FILE),
    ("mask", _FILE),
    ("affine_ras", _AFFINE),
    ("spacing_mm", pa.list_(_REAL, 3)),
    ("roi_origin_ijk", _INDEX),
    ("roi_shape_ijk", _INDEX),
    ("bbox_ijk", pa.list_(_INT, 6)),
    ("volume_shard", _TEXT),
    ("volume_row_group", _INT),
    ("engine", pa.struct([("name", _TEXT), ("revision", _TEXT), ("weights_sha256", _TEXT), ("prompt", _TEXT)])),
    (
        "quality",
        pa.struct(
            [
                ("tier", _TEXT),
                ("flags", pa.list_(_TEXT)),
                ("score", _REAL),
                ("volume_mm3", _REAL),
                ("recist_mm", _REAL),
            ]
        ),
    ),
    ("preview", _FILE),
    ("split_key", _REAL),
    ("provenance", _TEXT),
)
_VOLUME_COLUMNS: tuple[tuple[str, pa.DataType], ...] = (
    ("series_id", _TEXT),
    ("study_id", _TEXT),
    ("patient_id", _TEXT),
    ("image", _FILE),
    ("affine_ras", _AFFINE),
    ("spacing_mm", pa.list_(_REAL, 3)),
    ("shape_ijk", _INDEX),
    ("acquisition", pa.list_(pa.struct([("name", _TEXT), ("value", _TEXT)]))),
    ("voxel_sha256", _TEXT),
    ("lesion_ids", pa.list_(_TEXT)),
    ("split_key", _REAL),
)
_REPORT_COLUMNS: tuple[tuple[str, pa.DataType], ...] = (
    ("report_id", _TEXT),
    ("patient_id", _TEXT),
    ("study_ids", pa.list_(_TEXT)),
    ("text", _TEXT),
    ("language", _TEXT),
    ("sections", pa.list_(pa.struct([("name", _TEXT), ("start", _INT), ("end", _INT)]))),
    (
        "phrases",
        pa.list_(
            pa.struct(
                [
                    ("finding_id", _TEXT),
                    ("start", _INT),
                    ("end", _INT),
                    ("section", _TEXT),
                    ("assertion", _TEXT),
                    ("observation", _TEXT),
                    ("anatomy", _TEXT),
                    ("laterality", _TEXT),
                    ("outcome", _TEXT),
                    ("lesion_id", _TEXT),
                    ("probability", _REAL),
                ]
            )
        ),
    ),
    ("split_key", _REAL),
)
_COLUMNS: Mapping[str, tuple[tuple[str, pa.DataType], ...]] = MappingProxyType(
    {
        "findings": _PHRASE_COLUMNS + _LESION_COLUMNS,
        "unlinked": _PHRASE_COLUMNS + _LESION_COLUMNS,
        "volumes": _VOLUME_COLUMNS,
        "reports": _REPORT_COLUMNS,
    }
)
FOLDERS = tuple(_COLUMNS)
_MEDIA = MappingProxyType({"image": "Nifti", "mask": "Nifti", "preview": "Image"})
_NIFTI_TYPES: Mapping[int, np.dtype[Any]] = MappingProxyType({2: np.dtype(np.uint8), 4: np.dtype("<i2")})
VOXEL_COLUMNS = ("image", "mask", "preview")


@cache
def schema(folder: str) -> pa.Schema:
    """Arrow schema of the files in ``data/<folder>``, one of ``FOLDERS``, with the metadata that ``datasets`` reads."""
    columns = _COLUMNS[folder]
    features = {name: {"_type": _MEDIA[name]} if pa_type is _FILE else _feature(pa_type) for name, pa_type in columns}
    metadata = {"huggingface": json.dumps({"info": {"features": features}})}
    return pa.schema(list(columns), metadata=metadata)


@cache
def digest() -> str:
    """Hash of all columns and types: files of another digest were written by another version."""
    text = "\n".join(f"{folder}\n{schema(folder).to_string(show_schema_metadata=False)}" for folder in FOLDERS)
    return hashlib.sha256(text.encode()).hexdigest()[:16]


def finding_row(record: FindingRecord, preview_png: bytes) -> Row:
    """Row of ``data/findings`` or, without ``said``, of ``data/unlinked``."""
    said = dict.fromkeys(name for name, _ in _PHRASE_COLUMNS) if record.said is None else _phrase_row(record.said)
    drawn = [asdict(annotation) for annotation in record.annotations]
    return {
        **said,
        "lesion_id": record.lesion_id,
        "patient_id": record.patient_id,
        "study_id": record.study_id,
        "series_id": record.series_id,
        "annotation": drawn[0] if drawn else None,
        "other_annotations": drawn[1:],
        "image": {"bytes": nifti_bytes(record.image, record.affine_ras), "path": "image.nii"},
        "mask": {"bytes": nifti_bytes(record.mask, record.affine_ras), "path": "mask.nii"},
        "affine_ras": record.affine_ras.tolist(),
        "spacing_mm": _spacing_mm(record.affine_ras),
        "roi_origin_ijk": list(record.roi_origin_ijk),
        "roi_shape_ijk": list(record.image.shape),
        "bbox_ijk": list(record.bbox_ijk),
        "volume_shard": record.volume_shard,
        "volume_row_group": record.volume_row_group,
        "engine": asdict(record.engine),
        "quality": asdict(record.quality),
        "preview": {"bytes": preview_png, "path": "preview.png"},
        "split_key": record.split_key,
        "provenance": record.provenance,
    }


def volume_row(record: VolumeRecord) -> Row:
    """Row of ``data/volumes``; ``voxel_sha256`` covers the little-endian int16 voxels with i running fastest."""
    voxels = np.asarray(record.image, dtype="<i2")
    return {
        "series_id": record.series_id,
        "study_id": record.study_id,
        "patient_id": record.patient_id,
        # Level 1: measured within 4 % of level 6 on CT, at several times its speed. mtime 0: the same bytes every time.
        "image": {
            "bytes": gzip.compress(nifti_bytes(record.image, record.affine_ras), compresslevel=1, mtime=0),
            "path": "volume.nii.gz",
        },
        "affine_ras": record.affine_ras.tolist(),
        "spacing_mm": _spacing_mm(record.affine_ras),
        "shape_ijk": list(record.image.shape),
        "acquisition": [{"name": name, "value": value} for name, value in record.acquisition],
        "voxel_sha256": hashlib.sha256(np.ravel(voxels, order="F").data).hexdigest(),
        "lesion_ids": list(record.lesion_ids),
        "split_key": record.split_key,
    }


def report_row(record: ReportRecord) -> Row:
    """Row of ``data/reports``."""
    return {
        "report_id": record.report_id,
        "patient_id": record.patient_id,
        "study_ids": list(record.study_ids),
        "text": record.text,
        "language": record.language,
        "sections": [{"name": name, "start": start, "end": end} for name, start, end in record.sections],
        "phrases": [asdict(phrase) for phrase in record.phrases],
        "split_key": record.split_key,
    }


def nifti_bytes(voxels: NDArray[np.int16] | NDArray[np.uint8], affine_ras: NDArray[np.float64]) -> bytes:
    """Encode (i, j, k) voxels as one uncompressed NIfTI-1 file: sform and qform in scanner space, millimetres.

    The header holds the affine in float32; the ``affine_ras`` column holds it in float64.

    Raises
    ------
    ExportError
        If the affine is sheared: NIfTI's qform, ITK and SimpleITK cannot represent it.

    """
    import nibabel

    if affine_ras.shape != (4, 4) or not np.isfinite(affine_ras).all() or not is_orthogonal(affine_ras):
        raise ExportError("affine_ras must be a finite, orthogonal 4x4 matrix; resample a tilted series first")
    image = nibabel.Nifti1Image(voxels, affine_ras)
    image.header.set_xyzt_units("mm")
    image.set_qform(affine_ras, code="scanner")
    image.set_sform(affine_ras, code="scanner")
    encoded: bytes = image.to_bytes()
    return encoded


def nifti_voxels(encoded: bytes) -> NDArray[Any]:
    """Decode the voxels of a file that ``nifti_bytes`` wrote, gzipped or not: a new (i, j, k) array, i fastest.

    Several times faster than a NIfTI library, because it knows the one layout it reads.

    Raises
    ------
    ExportError
        If it is another kind of NIfTI file.

    """
    if encoded[:2] == b"\x1f\x8b":
        encoded = gzip.decompress(encoded)
    # Fields of the NIfTI-1 header (nifti1.h): dim at byte 40, datatype at 70, vox_offset at 108.
    n_axes, *shape = np.frombuffer(encoded, "<i2", count=4, offset=40).tolist()
    dtype = _NIFTI_TYPES.get(int.from_bytes(encoded[70:72], "little"))
    if n_axes != 3 or dtype is None or encoded[344:348] != b"n+1\0":
        raise ExportError("not a NIfTI file of this library: it must be 3D int16 or uint8, little-endian")
    offset = int(np.frombuffer(encoded, "<f4", count=1, offset=108)[0])
    voxels: NDArray[Any] = np.frombuffer(encoded, dtype, count=int(np.prod(shape)), offset=offset)
    return voxels.reshape(shape, order="F").copy(order="F")


def _phrase_row(said: PhraseRecord) -> Row:
    row = {name: getattr(said, name) for name, _ in _PHRASE_COLUMNS if name not in {"measurements", "link"}}
    return row | {
        "measurements": [asdict(measurement) for measurement in said.measurements],
        "link": {
            "decision": said.link.decision,
            "probability": said.link.probability,
            "evidence": [{"term": term, "log_odds": log_odds} for term, log_odds in said.link.evidence],
            "summary": said.link.summary,
        },
    }


def _spacing_mm(affine_ras: NDArray[np.float64]) -> list[float]:
    spacing: list[float] = np.linalg.norm(affine_ras[:3, :3], axis=0).tolist()
    return spacing


def _feature(pa_type: pa.DataType) -> dict[str, Any]:
    """One Arrow type in the JSON of ``datasets.Features``."""
    if pa.types.is_struct(pa_type):
        return {field.name: _feature(field.type) for field in pa_type}
    if pa.types.is_fixed_size_list(pa_type):
        return {"feature": _feature(pa_type.value_type), "length": pa_type.list_size, "_type": "List"}
    if pa.types.is_list(pa_type):
        return {"feature": _feature(pa_type.value_type), "_type": "List"}
    return {"dtype": "float64" if pa_type == _REAL else str(pa_type), "_type": "Value"}
