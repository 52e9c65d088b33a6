"""The shard plan: every patient once, stable, and rebuilt only when its inputs change."""

from __future__ import annotations

from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from cohort_builder.privacy import Pseudonyms
from cohort_builder.shards import ShardDirectory, ShardPlan, clean, is_done, plan_shards, read_lines

KEY = Pseudonyms(bytes(range(32)))
patients = st.dictionaries(st.text(min_size=1, max_size=8), st.floats(0, 900), max_size=40)


def plan(megabytes: dict[str, float], *, shard_mb: int = 256, content: str = "same") -> list[ShardPlan]:
    signatures = dict.fromkeys(megabytes, "unchanged")
    return plan_shards(megabytes, signatures, KEY, shard_mb=shard_mb, content={"config": content})


@given(patients)
def test_every_patient_lies_in_exactly_one_shard_of_its_split(megabytes: dict[str, float]) -> None:
    plans = plan(megabytes)
    placed = [key for p in plans for key in p.patient_keys]
    assert sorted(placed) == sorted(megabytes)
    assert all(KEY.split_of(key) == p.split for p in plans for key in p.patient_keys)
    assert all(p.patient_keys for p in plans)
    for split in {p.split for p in plans}:
        numbers = [p.number for p in plans if p.split == split]
        assert numbers == list(range(len(numbers)))
        assert {p.count for p in plans if p.split == split} == {len(numbers)}


@given(patients, st.randoms())
def test_the_plan_does_not_depend_on_the_order_of_the_patients(megabytes: dict[str, float], random: object) -> None:
    items = list(megabytes.items())
    random.shuffle(items)  # type: ignore[attr-defined]
    assert plan(dict(items)) == plan(megabytes)


def test_a_change_of_one_patient_rebuilds_one_shard() -> None:
    megabytes = {f"P{i:03d}": 100.0 for i in range(60)}
    before = plan(megabytes)
    signatures = dict.fromkeys(megabytes, "unchanged") | {"P007": "changed"}
    after = plan_shards(megabytes, signatures, KEY, shard_mb=256, content={"config": "same"})
    changed = [b.name for a, b in zip(before, after, strict=True) if a.fingerprint != b.fingerprint]
    assert len(before) > 10
    assert len(changed) == 1


def test_a_change_of_the_configuration_rebuilds_all() -> None:
    megabytes = {f"P{i:03d}": 100.0 for i in range(20)}
    pairs = zip(plan(megabytes), plan(megabytes, content="other"), strict=True)
    assert all(a.fingerprint != b.fingerprint for a, b in pairs)


def test_a_shard_is_done_only_when_committed_whole(tmp_path: Path) -> None:
    (one,) = plan({"P1": 1.0})
    directory = ShardDirectory(tmp_path, one)
    directory.write_lines("skips.jsonl", [{"reason": "a"}, {"reason": "b"}])
    assert not is_done(tmp_path, one)
    directory.commit({"skips": 2})
    assert is_done(tmp_path, one)
    assert read_lines(tmp_path, [one], "skips.jsonl") == [{"reason": "a"}, {"reason": "b"}]


def test_a_shard_of_another_configuration_is_not_done_and_is_replaced(tmp_path: Path) -> None:
    (old,), (new,) = plan({"P1": 1.0}), plan({"P1": 1.0}, content="other")
    for which in (old, new):
        directory = ShardDirectory(tmp_path, which)
        directory.write_lines("links.jsonl", [{"fingerprint": which.fingerprint}])
        directory.commit({})
    assert not is_done(tmp_path, old)
    assert is_done(tmp_path, new)
    assert read_lines(tmp_path, [new], "links.jsonl") == [{"fingerprint": new.fingerprint}]


@pytest.mark.parametrize("damage", ["", "{", "{}"])
def test_a_damaged_marker_means_build_again(tmp_path: Path, damage: str) -> None:
    (one,) = plan({"P1": 1.0})
    ShardDirectory(tmp_path, one).commit({})
    (tmp_path / one.name / "done.json").write_text(damage)
    assert not is_done(tmp_path, one)


def test_clean_removes_what_a_killed_run_left(tmp_path: Path) -> None:
    (one,) = plan({"P1": 1.0})
    ShardDirectory(tmp_path, one).commit({})
    ShardDirectory(tmp_path, one)  # a killed run's temporary directory
    (tmp_path / "train-00099").mkdir()  # a shard of an earlier plan
    clean(tmp_path, [one])
    assert [path.name for path in tmp_path.iterdir()] == [one.name]
