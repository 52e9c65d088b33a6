"""Reads a published dataset back."""

from __future__ import annotations

import json
from collections.abc import Callable, Mapping
from io import BytesIO
from pathlib import Path, PurePosixPath
from typing import TYPE_CHECKING, Any, TypeVar

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq

from exports.schema import VOXEL_COLUMNS, digest, nifti_voxels, schema
from exports.types import ExportError

if TYPE_CHECKING:
    import datasets
    import nibabel

    AnyDataset = TypeVar("AnyDataset", datasets.Dataset, datasets.IterableDataset)


def read_findings(dataset_dir: Path | str) -> pa.Table:
    """Rows of config ``findings``, all splits, without voxels and previews; plus ``split``, its first column.

    Empty, with its columns, where the dataset has no finding.

    Raises
    ------
    ExportError
        If ``dataset_dir`` is not a dataset of this library.

    """
    columns = [name for name in schema("findings").names if name not in VOXEL_COLUMNS]
    tables = [
        _with_split(pq.ParquetFile(path).read(columns=columns), path.name.split("-", 1)[0])
        for path in _finding_files(dataset_dir)
    ]
    empty = _with_split(schema("findings").empty_table().select(columns), "")
    return pa.concat_tables([empty, *tables]).replace_schema_metadata(None)


def read_row(dataset_dir: Path | str, index: int) -> dict[str, Any]:
    """Read row ``index`` of ``read_findings`` whole: ``image``, ``mask`` and ``preview`` decoded as by ``datasets``.

    Raises
    ------
    IndexError
        If there is no such row.
    ExportError
        If ``dataset_dir`` is not a dataset of this library.

    """
    import nibabel
    from PIL import Image

    left = index
    for file in map(pq.ParquetFile, _finding_files(dataset_dir)):
        for group in range(file.num_row_groups):
            rows = file.metadata.row_group(group).num_rows
            if 0 <= left < rows:
                [row] = file.read_row_group(group).slice(left, 1).to_pylist()
                decoded = {name: nibabel.Nifti1Image.from_bytes(row[name]["bytes"]) for name in ("image", "mask")}
                return {**row, **decoded, "preview": Image.open(BytesIO(row["preview"]["bytes"]))}
            left -= rows
    raise IndexError(f"finding {index} does not exist")


def fetch_volume(dataset_dir: Path | str, row: Mapping[str, Any]) -> nibabel.Nifti1Image:
    """Fetch the whole CT of one row of ``findings`` or ``lesions``, at the cost of that one volume.

    Parameters
    ----------
    dataset_dir
        The dataset's directory.
    row
        Anything with ``volume_shard`` and ``volume_row_group``, such as a row of ``load_dataset`` or ``read_findings``.

    Returns
    -------
    A NIfTI image, (i, j, k) int16 Hounsfield units in ``dataobj``, whose ``affine`` (RAS mm) is the exact float64 one.
    Voxel ``roi_origin_ijk + x`` of it is voxel ``x`` of the row's ``image``.

    Raises
    ------
    ExportError
        If no volume was published for the row, or its shard is missing.

    """
    import nibabel

    shard, group = row["volume_shard"], row["volume_row_group"]
    if shard is None or group is None:
        raise ExportError('no volume was published for this row; build with volumes="linked" or "all"')
    relative = PurePosixPath(shard)
    if relative.is_absolute() or ".." in relative.parts:
        raise ExportError("volume_shard must be a path inside the dataset")
    path = _dataset(dataset_dir) / relative
    if not path.is_file():
        raise ExportError(f"{shard} is missing; the dataset is incomplete, fetch or build it again")
    table = pq.ParquetFile(path).read_row_group(group, columns=["image", "affine_ras"])
    [found] = table.to_pylist()
    image = nibabel.Nifti1Image(nifti_voxels(found["image"]["bytes"]), np.asarray(found["affine_ras"], np.float64))
    image.header.set_xyzt_units("mm")
    return image


def with_arrays(dataset: AnyDataset) -> AnyDataset:
    """Give NumPy arrays instead of NIfTI images: for training, with any config that has ``image``.

    ``image`` becomes int16 (i, j, k) Hounsfield units, ``mask`` boolean on the same grid, ``affine_ras`` a (4, 4)
    float64 matrix; ``preview`` stays a PIL image, decoded when looked at. The ``datasets`` formats "numpy" and "torch"
    cannot hold NIfTI columns.

    Parameters
    ----------
    dataset
        A ``datasets.Dataset`` (decoded on access, ``with_transform``) or ``IterableDataset`` (``map``).

    """
    import datasets

    for name, feature in (dataset.features or {}).items():
        if isinstance(feature, datasets.Nifti | datasets.Image):
            dataset = dataset.cast_column(name, type(feature)(decode=False))
    if isinstance(dataset, datasets.IterableDataset):
        return dataset.map(_as_arrays, batched=True, batch_size=1)
    return dataset.with_transform(_as_arrays)


def _as_arrays(batch: dict[str, list[Any]]) -> dict[str, list[Any]]:
    """Encoded columns of a batch to arrays."""
    from PIL import Image

    convert: dict[str, Callable[[Any], Any]] = {
        "image": lambda file: nifti_voxels(file["bytes"]),
        "mask": lambda file: nifti_voxels(file["bytes"]).astype(np.bool_),
        "affine_ras": lambda affine: np.asarray(affine, dtype=np.float64),
        "preview": lambda file: Image.open(BytesIO(file["bytes"])),
    }
    arrays = {name: [function(value) for value in batch[name]] for name, function in convert.items() if name in batch}
    return batch | arrays


def _finding_files(dataset_dir: Path | str) -> list[Path]:
    return sorted(_dataset(dataset_dir).glob("data/findings/*.parquet"))


def _with_split(table: pa.Table, split: str) -> pa.Table:
    return table.add_column(0, "split", pa.array([split] * len(table), pa.string()))


def _dataset(dataset_dir: Path | str) -> Path:
    root = Path(dataset_dir)
    if not (root / "manifest.json").is_file():
        raise ExportError(f"{root.name!r} is not a dataset: it has no manifest.json; give the directory with README.md")
    if json.loads((root / "manifest.json").read_text(encoding="utf-8")).get("schema") != digest():
        raise ExportError(
            f"{root.name!r} was written by another version of this library, with other columns: open it with "
            "datasets.load_dataset, or build it again"
        )
    return root
