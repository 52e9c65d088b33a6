"""The shard plan: every patient once, stable, and rebuilt only when its inputs change."""

from __future__ import annotations

import json
from collections import Counter
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import dicom
import pytest
from hypothesis import given
from hypothesis import strategies as st

from cohort_builder import BuildConfig, ConfigError, LinkConfig, build_cohort, open_cohort
from cohort_builder.privacy.pseudonyms import Pseudonyms
from cohort_builder.shards import ShardDirectory, ShardPlan, clean, is_done, plan_shards, read_lines
from nlp import RulesExtractor
from nlp.types import Report
from segmentation.ellipsoid import EllipsoidSegmenter

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
    assert list(read_lines(tmp_path, [one], "skips.jsonl")) == [{"reason": "a"}, {"reason": "b"}]


def test_a_shard_of_another_configuration_is_not_done_and_is_replaced(tmp_path: Path) -> None:
    (old,), (new,) = plan({"P1": 1.0}), plan({"P1": 1.0}, content="other")
    for which in (old, new):
        directory = ShardDirectory(tmp_path, which)
        directory.write_lines("links.jsonl", [{"fingerprint": which.fingerprint}])
        directory.commit({})
    assert not is_done(tmp_path, old)
    assert is_done(tmp_path, new)
    assert list(read_lines(tmp_path, [new], "links.jsonl")) == [{"fingerprint": new.fingerprint}]


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


# ---- what makes a whole build build a shard again ------------------------------------------------------------------

STUDIES = [
    dicom.StudyInfo(dicom.Patient(f"Fall^{i}", f"4455{i}"), accession_number=f"ACC{i}", study_id=f"S{i}")
    for i in range(6)
]


class Site:
    """Six small patients in shards of their own, built by the fastest engine."""

    def __init__(self, root: Path) -> None:
        self.root = root
        self.reports = []
        for i, study in enumerate(STUDIES):
            self.images = dicom.ct_series(study=study, shape=(256, 256))
            dicom.write(self.images, root / "pacs" / f"ct{i}")
            self.draw(i, 12.0)
            text = "FINDINGS: A 12 mm nodule in the left upper lobe."
            self.reports.append(Report(f"r{i}", text, accession_numbers=(study.accession_number,)))
        self.arguments: dict[str, Any] = {"segmenter": "ellipsoid", "key": root / "key"}
        self.config = BuildConfig(pictures=0, min_tier="C", shard_mb=1)

    def draw(self, i: int, length: float) -> None:
        images = dicom.ct_series(study=STUDIES[i], shape=(256, 256))
        state = dicom.gsps([dicom.on(images[4], dicom.line((50.0, 50.0), (50.0 + length, 50.0)))], images=images)
        dicom.write([state], self.root / "pacs" / f"pr{i}")

    def build(self) -> set[str]:
        """Build, and return the shards that were built in this run."""
        build_cohort(
            self.reports, self.root / "pacs", out=self.root / "out", config=self.config, progress=False,
            **self.arguments,
        )  # fmt: skip
        markers = (self.root / "out" / "private" / "shards").glob("*/done.json")
        now = {path.parent.name: path.stat().st_ino for path in markers}
        built = {name for name, inode in now.items() if getattr(self, "before", {}).get(name) != inode}
        self.before = now
        return built


@pytest.fixture(scope="module")
def site(tmp_path_factory: pytest.TempPathFactory) -> Site:
    site = Site(tmp_path_factory.mktemp("site"))
    assert len(site.build()) > 2
    return site


def _redraw(site: Site, _: pytest.MonkeyPatch) -> None:
    site.draw(1, 13.0)


def _reword(site: Site, _: pytest.MonkeyPatch) -> None:
    site.reports[1] = replace(site.reports[1], text=site.reports[1].text.replace("left", "right"))


def _another_name(site: Site, _: pytest.MonkeyPatch) -> None:
    """An image that is no CT, with a name that the reports must be scrubbed of."""
    (image,) = dicom.ct_series(1, study=STUDIES[1], number=9)
    image.Modality, image.OperatorsName = "OT", "Neu^Nora"
    dicom.write([image], site.root / "pacs" / "other")


def _correct(site: Site, _: pytest.MonkeyPatch) -> None:
    """A later version of a report: the earlier one counts no more."""
    old = site.reports[1]
    site.reports[1] = replace(old, version_key="v1", status="preliminary")
    site.reports.append(replace(old, report_id="r1#2", version_key="v1", text=old.text.replace("12 mm", "15 mm")))


@pytest.mark.parametrize("change", [_redraw, _reword, _another_name, _correct])
def test_a_change_in_one_patient_builds_its_shard_alone(
    site: Site, monkeypatch: pytest.MonkeyPatch, change: Callable[[Site, pytest.MonkeyPatch], None]
) -> None:
    assert site.build() == set()
    change(site, monkeypatch)
    assert len(site.build()) == 1
    assert site.build() == set()


def test_what_does_not_count_builds_nothing(site: Site, monkeypatch: pytest.MonkeyPatch) -> None:
    """Another order of the table, a report of another hospital, an older version, one that was taken back."""
    site.build()
    first = replace(site.reports[0], version_key="v0")
    monkeypatch.setattr(site, "reports", [first, *site.reports[1:]])
    assert len(site.build()) == 1
    private = site.root / "out" / "private"
    scopes = sorted((private / "scopes.jsonl").read_text().splitlines())
    before = Counter(row["reason"] for row in open_cohort(site.root / "out").skipped)
    more = [
        replace(first, report_id="old", status="preliminary", text="FINDINGS: A 13 mm nodule."),
        replace(first, report_id="not here", accession_numbers=("ELSEWHERE",), version_key=None),
        replace(first, report_id="dutch", language="nl", version_key=None),
        replace(first, report_id="gone", status="entered-in-error", version_key="another"),
    ]
    monkeypatch.setattr(site, "reports", [*reversed(site.reports), *more])
    assert site.build() == set()
    cohort = open_cohort(site.root / "out")
    reasons = Counter(row["reason"] for row in cohort.skipped)
    new = ("superseded_report", "study_not_in_export", "language_not_supported", "withdrawn_report")
    assert reasons - before == Counter(new)
    assert cohort.run["skips"] == reasons
    assert cohort.run["counts"]["skips"] == len(cohort.skipped)
    assert sorted((private / "scopes.jsonl").read_text().splitlines()) == scopes
    assert {json.loads(line)["joined_by"] for line in scopes} == {"accession_number"}
    assert not list(private.glob(".tmp-*"))


def test_a_table_in_a_language_that_is_not_read_is_refused(site: Site) -> None:
    dutch = [replace(report, language="nl") for report in site.reports]
    with pytest.raises(ConfigError, match=r"not one of the \d+ reports .* does not read the language 'nl'"):
        build_cohort(dutch, site.root / "pacs", out=site.root / "out3", progress=False, **site.arguments)


def _link_config(site: Site, patch: pytest.MonkeyPatch) -> None:
    patch.setattr(site, "config", replace(site.config, link=LinkConfig(linked=0.97)))


def _engine_revision(_: Site, patch: pytest.MonkeyPatch) -> None:
    patch.setattr(EllipsoidSegmenter, "revision", "next")


def _engine_options(site: Site, patch: pytest.MonkeyPatch) -> None:
    patch.setitem(site.arguments, "segmenter", EllipsoidSegmenter(assumed_diameter_mm=21.0))


def _extractor_version(_: Site, patch: pytest.MonkeyPatch) -> None:
    patch.setattr(RulesExtractor, "version", "next")


def _key(site: Site, patch: pytest.MonkeyPatch) -> None:
    patch.setitem(site.arguments, "key", site.root / "another.key")


@pytest.mark.parametrize("change", [_link_config, _engine_revision, _engine_options, _extractor_version, _key])
def test_a_change_of_the_method_builds_every_shard(
    site: Site, monkeypatch: pytest.MonkeyPatch, change: Callable[[Site, pytest.MonkeyPatch], None]
) -> None:
    site.build()
    change(site, monkeypatch)
    assert site.build() == set(site.before)


def test_an_unknown_engine_is_refused_before_anything_is_built(site: Site) -> None:
    with pytest.raises(ConfigError, match="unknown segmentation engine 'magic'; known: classical"):
        build_cohort(site.reports, site.root / "pacs", out=site.root / "out2", segmenter="magic", progress=False)
