"""What is written loads as it was: bit for bit, in a fresh process, and never somebody else's rows."""

from __future__ import annotations

import gzip
import hashlib
import json
import os
import re
import shutil
import subprocess
import sys
import textwrap
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path
from typing import Any

import nibabel as nib
import numpy as np
import pyarrow.parquet as pq
import pytest
import SimpleITK as sitk  # noqa: N813 - its usual name
from hypothesis import given, settings
from hypothesis import strategies as st
from records import AFFINE, PHRASE, SHAPE, SPACING, finding, volume, write_shard

from exports import (
    CardInfo,
    ExportError,
    FindingRecord,
    assemble,
    fetch_volume,
    read_findings,
    read_row,
    write_dataset,
)
from exports.schema import FOLDERS, nifti_bytes, nifti_voxels, schema

Published = tuple[Path, list[FindingRecord], list[FindingRecord]]
VOLUMES = {seed: volume(seed) for seed in range(3)}


def fresh(script: str, cache: Path, *arguments: object) -> Any:
    """Run ``script`` in a new Python with an empty ``datasets`` cache of its own; what it prints last is JSON."""
    environment = os.environ | {
        "HF_HOME": str(cache),
        "HF_DATASETS_CACHE": str(cache / "datasets"),
        "HF_HUB_OFFLINE": "1",
        "HF_DATASETS_DISABLE_PROGRESS_BARS": "1",
    }
    # In a function, and collected before the interpreter ends: a streamed Parquet file that outlives its readers ends in
    # an abort now and then (apache/arrow issue 45214), after all has been said.
    body = textwrap.indent(textwrap.dedent(script), "    ")
    source = f"import gc, json, sys\nfrom datasets import load_dataset\ndef main():\n{body}\nmain()\ngc.collect()\n"
    command = [sys.executable, "-c", source, *map(str, arguments)]
    done = subprocess.run(command, env=environment, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr[-2000:]
    return json.loads(done.stdout.splitlines()[-1])


@pytest.fixture(scope="module")
def published(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Published]:
    """Two train shards and a test shard, assembled."""
    root = tmp_path_factory.mktemp("published")
    shards = [("train", 0, 2), ("train", 1, 2), ("test", 0, 1)]
    pairs = [write_shard(root / f"shard{n}", *shard, seed=n) for n, shard in enumerate(shards)]
    skipped = [{"stage": "link", "item": "k1", "reason": "AMBIGUOUS", "detail": "two lesions fit"}]
    card = CardInfo(title="Test", software="cohort-builder 0")
    assemble([root / f"shard{n}" for n in range(3)], root / "dataset", card=card, skipped=skipped)
    yield root / "dataset", [said for said, _ in pairs], [unsaid for _, unsaid in pairs]
    shutil.rmtree(root)


LOAD_EVERYTHING = """
import hashlib, numpy as np
from exports import with_arrays, fetch_volume
directory = sys.argv[1]

def facts(row):
    image, mask = row["image"], row["mask"]
    return {
        "lesion": row["lesion_id"], "phrase": row["phrase"], "link": row["link"], "quality": row["quality"],
        "measurements": row["measurements"], "annotation": row["annotation"], "engine": row["engine"],
        "shapes": [list(image.shape), list(mask.shape), row["roi_shape_ijk"]],
        "same_affine": bool((image.affine == mask.affine).all()),
        "affine_error": float(np.abs(image.affine - np.array(row["affine_ras"])).max()),
        "affine": row["affine_ras"],
        "dtypes": [str(np.asarray(image.dataobj).dtype), str(np.asarray(mask.dataobj).dtype)],
        "image": hashlib.sha256(np.ascontiguousarray(image.dataobj).tobytes()).hexdigest(),
        "mask": hashlib.sha256(np.ascontiguousarray(mask.dataobj).tobytes()).hexdigest(),
        "preview": list(row["preview"].size),
    }

def is_crop(row):
    whole = fetch_volume(directory, row)
    window = tuple(slice(o, o + n) for o, n in zip(row["roi_origin_ijk"], row["roi_shape_ijk"]))
    return bool((np.asarray(whole.dataobj)[window] == np.asarray(row["image"].dataobj)).all())

out = {"splits": {}}
for config in ("findings", "lesions", "volumes", "reports", "preview"):
    loaded = load_dataset(directory, config)
    out["splits"][config] = {name: len(split) for name, split in loaded.items()}
    info = loaded["train"].info.splits
    out.setdefault("num_bytes", {})[config] = {name: split.num_bytes for name, split in info.items()}
    streamed = load_dataset(directory, config, streaming=True)
    out.setdefault("streamed", {})[config] = {name: sum(1 for _ in split) for name, split in streamed.items()}
default = load_dataset(directory)
out["findings"] = [facts(row) for split in ("train", "test") for row in default[split]]
out["lesions"] = [facts(row) for row in load_dataset(directory, "lesions", split="train")]
out["streamed_rows"] = [facts(row) for row in load_dataset(directory, split="train", streaming=True)]
out["crops"] = [is_crop(row) for row in load_dataset(directory, "lesions", split="train+test")]
out["preview"] = list(load_dataset(directory, "preview", split="test")[0])
out["report"] = load_dataset(directory, "reports", split="test")[0]
series = load_dataset(directory, "volumes", split="test")[0]
out["volume"] = {name: series[name] for name in ("series_id", "shape_ijk", "acquisition", "voxel_sha256")}
voxels = np.asarray(series["image"].dataobj)
out["volume"]["again"] = hashlib.sha256(voxels.astype("<i2").tobytes(order="F")).hexdigest()
arrays = [with_arrays(default["train"])[0], next(iter(with_arrays(load_dataset(directory, split="train", streaming=True))))]
out["arrays"] = [
    [str(row["image"].dtype), str(row["mask"].dtype), str(row["affine_ras"].dtype), list(row["affine_ras"].shape),
     hashlib.sha256(np.ascontiguousarray(row["image"]).tobytes()).hexdigest()] for row in arrays
]
print(json.dumps(out))
"""


@pytest.fixture(scope="module")
def loaded(published: Published, tmp_path_factory: pytest.TempPathFactory) -> dict[str, Any]:
    result: dict[str, Any] = fresh(LOAD_EVERYTHING, tmp_path_factory.mktemp("hf"), published[0])
    return result


def sha256(array: np.ndarray) -> str:
    return hashlib.sha256(np.ascontiguousarray(array).tobytes()).hexdigest()


def test_every_config_loads_whole_and_streamed(loaded: dict[str, Any]) -> None:
    expected = {
        "findings": {"train": 2, "test": 1},
        "lesions": {"train": 4, "test": 2},
        "volumes": {"train": 2, "test": 1},
        "reports": {"train": 2, "test": 1},
        "preview": {"train": 2, "test": 1},
    }
    assert loaded["splits"] == expected
    assert loaded["streamed"] == expected


def test_the_preview_has_no_voxels(loaded: dict[str, Any]) -> None:
    assert loaded["preview"] == ["finding_id", "phrase", "measurements", "preview"]


def test_rows_come_back_bit_for_bit(loaded: dict[str, Any], published: Published) -> None:
    _, said, unsaid = published
    by_lesion = {record.lesion_id: record for record in said + unsaid}
    rows = loaded["findings"] + loaded["lesions"] + loaded["streamed_rows"]
    assert len(rows) == 3 + 4 + 2
    for row in rows:
        record = by_lesion[row["lesion"]]
        assert row["image"] == sha256(record.image)
        assert row["mask"] == sha256(record.mask)
        assert row["dtypes"] == ["int16", "uint8"]
        assert row["shapes"] == [list(record.image.shape)] * 3
        assert row["same_affine"]
        assert row["affine"] == record.affine_ras.tolist()
        assert row["affine_error"] < 1e-4
        assert row["annotation"]["points_ijk"] == [list(point) for point in record.annotations[0].points_ijk]
        assert row["quality"]["flags"] == ["LEAK"]


def test_a_lesion_nobody_mentioned_has_null_phrase_columns(loaded: dict[str, Any]) -> None:
    said = [row for row in loaded["lesions"] if row["phrase"] is not None]
    unsaid = [row for row in loaded["lesions"] if row["phrase"] is None]
    assert len(said) == len(unsaid) == 2
    assert all(row["link"] is None and row["measurements"] is None for row in unsaid)
    assert said[0]["phrase"] == PHRASE
    assert said[0]["link"]["evidence"] == [{"term": "size", "log_odds": 4.5}, {"term": "side", "log_odds": 0.75}]
    assert said[0]["link"]["summary"] == "the size fits (+4.5), the side fits (+0.8)"
    assert [m["value_mm"] for m in said[0]["measurements"]] == [17.0, 12.0]


def test_the_region_is_a_crop_of_its_volume(loaded: dict[str, Any]) -> None:
    assert loaded["crops"] == [True] * 6
    assert loaded["volume"]["voxel_sha256"] == loaded["volume"]["again"]
    assert loaded["volume"]["shape_ijk"] == list(SHAPE)
    assert {"name": "kvp", "value": "120"} in loaded["volume"]["acquisition"]


def test_a_report_keeps_its_spans(loaded: dict[str, Any]) -> None:
    row = loaded["report"]
    linked, negated = row["phrases"]
    assert row["text"][linked["start"] : linked["end"]] == PHRASE
    assert (linked["outcome"], negated["outcome"], negated["lesion_id"]) == ("LINKED", "NEGATED", None)


def test_with_arrays_gives_exact_arrays_whole_and_streamed(loaded: dict[str, Any], published: Published) -> None:
    assert loaded["arrays"] == [["int16", "bool", "float64", [4, 4], sha256(published[1][0].image)]] * 2


def test_the_card_states_the_bytes_that_datasets_counts(loaded: dict[str, Any], published: Published) -> None:
    import yaml

    card = yaml.safe_load((published[0] / "README.md").read_text().split("---")[1])
    for info in card["dataset_info"]:
        for split in info["splits"]:
            counted = loaded["num_bytes"][info["config_name"]][split["name"]]
            # datasets drops or rebuilds the null bitmaps: a few bytes a column and row
            assert abs(split["num_bytes"] - counted) <= 64 * split["num_examples"]


def test_simpleitk_finds_the_drawn_ends_on_the_masks_rim(published: Published, tmp_path: Path) -> None:
    dataset, said, _ = published
    rows = pq.read_table(dataset / "data/findings", columns=["lesion_id", "mask", "image"]).to_pylist()
    by_lesion = {record.lesion_id: record for record in said}
    for row in rows:
        record = by_lesion[row["lesion_id"]]
        (tmp_path / "mask.nii").write_bytes(row["mask"]["bytes"])
        (tmp_path / "image.nii").write_bytes(row["image"]["bytes"])
        mask: Any = sitk.ReadImage(tmp_path / "mask.nii")
        image: Any = sitk.ReadImage(tmp_path / "image.nii")
        assert sitk.GetArrayFromImage(mask).sum() == record.mask.sum()
        assert image.GetPixelID() == sitk.sitkInt16
        annotation = record.annotations[0]
        for ras, ijk in zip(annotation.points_ras_mm, annotation.points_ijk, strict=True):
            index = mask.TransformPhysicalPointToContinuousIndex((-ras[0], -ras[1], ras[2]))
            off_mm = np.abs((np.array(index) - ijk) * SPACING).max()
            assert off_mm < 0.01
        inside = mask.TransformPhysicalPointToIndex(
            tuple(np.mean(annotation.points_ras_mm, axis=0) * np.array([-1.0, -1.0, 1.0]))
        )
        assert mask.GetPixel(*inside) == 1


def test_the_schema_is_what_datasets_itself_would_write() -> None:
    from datasets import Features

    for folder in FOLDERS:
        features = Features.from_arrow_schema(schema(folder))
        assert features.arrow_schema.equals(schema(folder), check_metadata=False)
        assert json.loads(features.arrow_schema.metadata[b"huggingface"]) == json.loads(
            schema(folder).metadata[b"huggingface"]
        )


def test_a_missing_shard_is_an_error(published: Published, tmp_path: Path) -> None:
    shutil.copytree(published[0], tmp_path / "dataset")
    (tmp_path / "dataset/data/findings/train-00001-of-00002.parquet").unlink()
    script = """
    try:
        load_dataset(sys.argv[1])
        print(json.dumps("loaded"))
    except Exception as error:
        print(json.dumps(type(error).__name__))
    """
    assert fresh(script, tmp_path / "hf", tmp_path / "dataset") == "NonMatchingSplitsSizesError"


def test_neither_a_namesake_nor_a_rebuilt_dataset_gives_stale_rows(tmp_path: Path) -> None:
    record = finding(VOLUMES[0])
    for folder in "ABC":
        write_dataset(tmp_path / folder / "dataset", findings=[replace(record, lesion_id=f"lesion-{folder}")])
    cards = [(tmp_path / folder / "dataset/README.md").read_text() for folder in "ABC"]
    # The trap is set: same directory name, same sizes, same counts; only the digest tells the three apart.
    assert len({re.sub(r"content [0-9a-f]{32}", "", card) for card in cards}) == 1
    script = """
    import shutil
    root = sys.argv[1]
    ids = lambda: [load_dataset(f"{root}/{folder}/dataset", split="train")["lesion_id"][0] for folder in "AB"]
    before = ids()
    shutil.rmtree(f"{root}/A/dataset")
    shutil.move(f"{root}/C/dataset", f"{root}/A/dataset")
    print(json.dumps([before, ids()]))
    """
    assert fresh(script, tmp_path / "hf", tmp_path) == [["lesion-A", "lesion-B"], ["lesion-C", "lesion-B"]]


def test_the_same_records_give_the_same_bytes(published: Published, tmp_path: Path) -> None:
    write_shard(tmp_path / "elsewhere", "train", 0, 2, seed=0)
    for folder in FOLDERS:
        name = f"{folder}/train-00000-of-00002.parquet"
        assert (tmp_path / "elsewhere" / name).read_bytes() == (published[0] / "data" / name).read_bytes()


def test_no_path_and_no_embedded_file_name_leaks(published: Published) -> None:
    for path in published[0].rglob("*.parquet"):
        assert str(published[0].parent).encode() not in path.read_bytes()
    row = pq.read_table(published[0] / "data/findings").to_pylist()[0]
    assert [row[name]["path"] for name in ("image", "mask", "preview")] == ["image.nii", "mask.nii", "preview.png"]


def test_a_volume_is_stored_once_and_alone_in_its_row_group(published: Published) -> None:
    metadata = pq.read_metadata(published[0] / "data/volumes/train-00000-of-00002.parquet")
    assert (metadata.num_rows, metadata.num_row_groups) == (1, 1)
    row = pq.read_table(published[0] / "data/volumes/test-00000-of-00001.parquet").to_pylist()[0]
    assert row["image"]["bytes"][4:8] == bytes(4)  # gzip's time of writing
    assert gzip.decompress(row["image"]["bytes"]) == nifti_bytes(VOLUMES[2].image, AFFINE)


def test_empty_tables_and_splits_are_not_declared(tmp_path: Path) -> None:
    write_dataset(tmp_path / "dataset", findings=[finding(VOLUMES[0], said=False)])
    manifest = json.loads((tmp_path / "dataset/manifest.json").read_text())
    assert list(manifest["configs"]) == ["lesions"]
    assert read_findings(tmp_path / "dataset").num_rows == 0
    script = "print(json.dumps(load_dataset(sys.argv[1], split='train')['phrase'][:]))"
    assert fresh(script, tmp_path / "hf", tmp_path / "dataset") == [None]


def test_checksums_and_manifest_cover_every_file(published: Published) -> None:
    root = published[0]
    lines = (root / "checksums.sha256").read_text().splitlines()
    stated = {name: digest for digest, name in (line.split("  ") for line in lines)}
    files = {path.relative_to(root).as_posix(): path for path in root.rglob("*") if path.is_file()}
    assert stated == {name: sha256_file(path) for name, path in files.items() if name != "checksums.sha256"}
    manifest = json.loads((root / "manifest.json").read_text())["files"]
    assert set(manifest) == {name for name in files if name.endswith(".parquet")}
    assert json.loads((root / "skipped.jsonl").read_text())["reason"] == "AMBIGUOUS"


def sha256_file(path: Path) -> str:
    return hashlib.sha256(path.read_bytes()).hexdigest()


def test_read_findings_and_read_row_agree_and_hold_no_voxels(published: Published) -> None:
    root, said, _ = published
    table = read_findings(root)
    assert not {"image", "mask", "preview"} & set(table.column_names)
    assert table["split"].to_pylist() == ["test", "train", "train"]
    by_lesion = {record.lesion_id: record for record in said}
    for index, row in enumerate(table.to_pylist()):
        whole = read_row(root, index)
        record = by_lesion[row["lesion_id"]]
        assert whole["finding_id"] == row["finding_id"]
        assert np.array_equal(np.asarray(whole["image"].dataobj), record.image)
        assert np.array_equal(np.asarray(whole["mask"].dataobj), record.mask)
    for outside in (3, -1):
        with pytest.raises(IndexError):
            read_row(root, outside)


def test_fetch_volume_gives_the_exact_series(published: Published) -> None:
    root, _, unsaid = published
    shard, group = unsaid[1].volume_shard, unsaid[1].volume_row_group
    image = fetch_volume(root, {"volume_shard": shard, "volume_row_group": group})
    assert np.array_equal(np.asarray(image.dataobj), VOLUMES[1].image)
    assert np.array_equal(image.affine, AFFINE)
    assert image.get_data_dtype() == np.int16


@pytest.mark.parametrize(
    ("shard", "message"),
    [
        (None, "no volume"),
        ("../volumes.parquet", "inside"),
        ("/etc/passwd", "inside"),
        ("data/none.parquet", "missing"),
    ],
)
def test_a_volume_that_is_not_there_is_said_so(published: Published, shard: str | None, message: str) -> None:
    with pytest.raises(ExportError, match=message):
        fetch_volume(published[0], {"volume_shard": shard, "volume_row_group": 0})


def test_a_directory_that_is_no_dataset_is_said_so(tmp_path: Path) -> None:
    with pytest.raises(ExportError, match=r"no manifest\.json"):
        read_findings(tmp_path)


@settings(max_examples=40, deadline=None)
@given(st.tuples(*(st.integers(1, 9),) * 3), st.sampled_from([np.int16, np.uint8]), st.booleans(), st.integers(0, 99))
def test_our_fast_nifti_reader_agrees_with_nibabel(shape: Any, dtype: Any, zipped: bool, seed: int) -> None:
    info = np.iinfo(dtype)
    voxels = np.random.default_rng(seed).integers(info.min, info.max, shape, dtype=dtype, endpoint=True)
    encoded = nifti_bytes(voxels, AFFINE)
    decoded = nifti_voxels(gzip.compress(encoded) if zipped else encoded)
    reference = np.asarray(nib.Nifti1Image.from_bytes(encoded).dataobj)
    assert decoded.dtype == reference.dtype == dtype
    assert np.array_equal(decoded, reference)
    assert np.array_equal(decoded, voxels)
    decoded[0, 0, 0] = 7  # writable: torch.from_numpy warns otherwise


@pytest.mark.parametrize(
    "foreign",
    [
        nib.Nifti1Image(np.zeros((2, 2, 2), np.float32), np.eye(4)),
        nib.Nifti1Image(np.zeros((2, 2), np.uint8), np.eye(4)),
        nib.Nifti2Image(np.zeros((2, 2, 2), np.uint8), np.eye(4)),
    ],
)
def test_another_kind_of_nifti_is_refused(foreign: Any) -> None:
    with pytest.raises(ExportError, match="not a NIfTI file of this library"):
        nifti_voxels(foreign.to_bytes())
