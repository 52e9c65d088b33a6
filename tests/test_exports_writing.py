"""A shard and a dataset are written whole or not at all."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import pyarrow.parquet as pq
import pytest
from records import AFFINE, finding, placed, report, volume, write_shard

from exports import ExportError, ShardWriter, assemble, write_dataset

VOLUMES = {seed: volume(seed) for seed in range(2)}


def test_row_groups_are_cut_by_size(tmp_path: Path) -> None:
    records = [finding(VOLUMES[0], n) for n in range(5)]
    two_rows = 2 * (records[0].image.nbytes + records[0].mask.nbytes) + 200_000
    with ShardWriter(tmp_path, "train", 0, 1, row_group_bytes=two_rows) as writer:
        for record in records:
            writer.add_finding(record)
    metadata = pq.read_metadata(tmp_path / "findings/train-00000-of-00001.parquet")
    assert [metadata.row_group(g).num_rows for g in range(metadata.num_row_groups)] == [2, 2, 1]
    assert metadata.row_group(0).column(0).has_column_index


def test_an_interrupted_shard_leaves_no_file_under_its_final_name(tmp_path: Path) -> None:
    def interrupted() -> None:
        with ShardWriter(tmp_path, "train", 0, 1) as writer:
            writer.add_volume(VOLUMES[0])
            writer.add_report(report(VOLUMES[0]))
            raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        interrupted()
    assert [path for path in tmp_path.rglob("*") if path.is_file()] == []


def test_a_second_attempt_removes_what_the_first_one_left(tmp_path: Path) -> None:
    write_shard(tmp_path, "train", 0, 1, seed=0)
    with ShardWriter(tmp_path, "train", 0, 1) as writer:
        writer.add_report(report(VOLUMES[0]))
    assert [path.parent.name for path in tmp_path.rglob("*.parquet")] == ["reports"]


@pytest.mark.parametrize(("split", "number", "count"), [("a-b", 0, 1), ("", 0, 1), ("train", 1, 1), ("train", -1, 1)])
def test_a_shard_that_cannot_be_named_is_refused(tmp_path: Path, split: str, number: int, count: int) -> None:
    with pytest.raises(ExportError, match=r"split|shard number"):
        ShardWriter(tmp_path, split, number, count)


def test_a_sheared_affine_is_refused(tmp_path: Path) -> None:
    sheared = AFFINE.copy()
    sheared[1, 2] = 0.4
    with pytest.raises(ExportError, match="resample"):
        write_dataset(tmp_path / "dataset", findings=[replace(finding(VOLUMES[0]), affine_ras=sheared)])
    assert list(tmp_path.iterdir()) == []


def test_nothing_at_all_is_no_dataset(tmp_path: Path) -> None:
    with pytest.raises(ExportError, match="not one row"):
        write_dataset(tmp_path / "dataset", findings=[])
    assert not (tmp_path / "dataset").exists()


def test_a_failed_assembly_leaves_the_old_dataset(tmp_path: Path) -> None:
    out = tmp_path / "dataset"
    write_dataset(out, findings=[finding(VOLUMES[0])])
    before = (out / "checksums.sha256").read_bytes()
    dangling = placed(finding(VOLUMES[1]), "data/volumes/train-00007-of-00009.parquet", 0)
    with pytest.raises(ExportError, match="not among the shards"):
        write_dataset(out, findings=[dangling])
    assert (out / "checksums.sha256").read_bytes() == before
    assert [path.name for path in tmp_path.iterdir()] == ["dataset"]


def test_what_a_killed_assembly_left_is_swept(tmp_path: Path) -> None:
    for leftover in (".dataset.new", ".dataset.old"):
        (tmp_path / leftover / "data").mkdir(parents=True)
    write_dataset(tmp_path / "dataset", findings=[finding(VOLUMES[0])])
    assert [path.name for path in tmp_path.iterdir()] == ["dataset"]


def test_somebody_elses_directory_is_never_replaced(tmp_path: Path) -> None:
    (tmp_path / "thesis.txt").write_text("irreplaceable")
    with pytest.raises(ExportError, match="not a dataset"):
        write_dataset(tmp_path, findings=[finding(VOLUMES[0])])
    assert (tmp_path / "thesis.txt").read_text() == "irreplaceable"


def test_a_shard_given_twice_is_refused(tmp_path: Path) -> None:
    for copy in ("a", "b"):
        write_shard(tmp_path / copy, "train", 0, 1, seed=0)
    with pytest.raises(ExportError, match="two shards hold findings"):
        assemble([tmp_path / "a", tmp_path / "b"], tmp_path / "dataset")
