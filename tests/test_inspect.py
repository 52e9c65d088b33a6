"""What an inspection tells in advance is what a build then does, and it tells of nobody."""

from __future__ import annotations

import json
import os
import tempfile
from collections import Counter
from pathlib import Path

import pytest
from dicom import ct_series, gsps, line, on, write
from filelock import FileLock

from cohort_builder import BuildConfig, Cohort, ConfigError, Inspection, PacsError, inspect_export, open_cohort
from cohort_builder.audit.search import find_leaks
from cohort_builder.pacs.index import open_index
from nlp.types import Finding, Report, ReportError

BEFORE_MASKS = {"index", "reports", "scope", "annotations", "locate", "patient", "volumes"}


@pytest.fixture(scope="module")
def cohort(demo: Path) -> Cohort:
    return open_cohort(demo / "cohort")


@pytest.fixture(scope="module")
def inspection(demo: Path) -> Inspection:
    """Of the demo's hospital, by two processes."""
    hospital = demo / "hospital"
    config = BuildConfig(workers=2)
    return inspect_export(hospital / "pacs_export", hospital / "reports.csv", config=config, progress=False)


@pytest.fixture(scope="module")
def links(cohort: Cohort) -> list[dict]:
    lines = (cohort.path / "private" / "links.jsonl").read_text().splitlines()
    return [json.loads(one) for one in lines]


def test_links_are_those_of_the_build(inspection: Inspection, links: list[dict]) -> None:
    assert inspection.decisions == Counter(one["decision"] for one in links if one["finding_id"])
    linked = [one for one in links if one["decision"] == "LINKED"]
    assert sum(inspection.evidence.values()) == len(linked) > 5
    assert inspection.lesions["linked"] == len({one["lesion_id"] for one in linked})
    assert sum("side" in name for name in inspection.evidence) > 0
    chosen = [one for one in links if one["finding_id"] and one["decision"] in {"LINKED", "AMBIGUOUS"}]
    bins = Counter(min(int(10 * one["probability"]), 9) for one in chosen)
    assert inspection.probabilities == tuple(bins[i] for i in range(10))


def test_counts_are_those_of_the_build(inspection: Inspection, cohort: Cohort) -> None:
    counts = cohort.run["counts"]
    assert inspection.lesions["drawn"] == counts["lesions"]
    assert sum(inspection.lesions.values()) == 2 * counts["lesions"]  # every one is in one further group
    assert (inspection.reports["read"], inspection.reports["used"]) == (
        counts["reports_read"],
        counts["reports_scoped"],
    )
    assert {
        f"index_{name}": n for name, n in inspection.export.items() if name != "ct_series"
    }.items() <= counts.items()
    assert inspection.findings["found"] == sum(n for name, n in counts.items() if name.startswith("phrases_"))
    assert set(inspection.annotations) >= {"LINE", "BIDIMENSIONAL"}


def test_what_is_left_out_is_what_the_build_leaves_out_before_the_masks(inspection: Inspection, cohort: Cohort) -> None:
    found = Counter((row["stage"], row["reason"]) for row in cohort.skipped if row["stage"] in BEFORE_MASKS)
    assert {(stage, name): n for stage, some in inspection.skips.items() for name, n in some.items()} == found
    assert found


def test_every_count_has_its_parts(inspection: Inspection, cohort: Cohort) -> None:
    """Nothing is dropped between two counts without a reason."""
    lost = inspection.skips["annotations"].get("superseded", 0) + sum(inspection.skips["locate"].values())
    assert inspection.strokes["read"] == inspection.strokes["used"] + lost
    assert inspection.strokes["used"] == sum(inspection.annotations.values())
    assert inspection.strokes["read"] == sum(one.annotations for one in inspection.encodings)
    said = inspection.findings
    assert said["found"] == said["absent"] + inspection.decisions["LINKED"] + sum(inspection.withheld.values())
    assert sum(inspection.ct.verdicts.values()) == inspection.ct.counts["series"] == inspection.export["ct_series"]
    assert inspection.ct.counts["images"] == inspection.export["ct"] == sum(one.images for one in inspection.syntaxes)
    assert sum(one.objects for one in inspection.objects) == inspection.export["dicom"]
    states = sum(one.objects for one in inspection.writers if one.of == "presentation states")
    assert states == inspection.export["presentation_states"]
    rows = sum(cohort.run["counts"].get(name, 0) for name in ("findings", "unlinked_lesions"))
    rejected = sum(row["stage"] == "segmentation" for row in cohort.skipped)
    assert sum(inspection.prompts.values()) == rows + rejected


def test_the_estimate_says_what_it_is_made_of(inspection: Inspection, cohort: Cohort) -> None:
    guess = inspection.estimate
    assert guess is not None
    assert guess.tried > 0
    assert guess.seconds is not None
    low, high = guess.seconds
    shared = {"drawings and links", "reading CT", "segmentation", "checks and writing"}
    middle = sum(part.seconds / (guess.workers if part.name in shared else 1) for part in guess.parts)
    assert low < middle < high
    assert all(part.amount == pytest.approx(part.rate * part.seconds, abs=1) for part in guess.parts if part.rate)
    written = [path for path in (cohort.path / "dataset").rglob("*") if path.is_file()]
    assert guess.disk_bytes[0] < sum(path.stat().st_size for path in written) < 3 * guess.disk_bytes[1]


def test_coverage_is_of_what_could_link(inspection: Inspection) -> None:
    linked = inspection.decisions["LINKED"]
    assert inspection.coverage == pytest.approx(linked / inspection.findings["linkable"])
    assert linked <= inspection.with_references <= inspection.findings["linkable"]


def test_it_is_readable_for_people_and_machines_and_names_nobody(
    inspection: Inspection, demo: Path, tmp_path: Path
) -> None:
    values = json.loads(json.dumps(inspection.as_dict()))
    assert values["decisions"] == dict(inspection.decisions)
    assert values["coverage"] == inspection.coverage
    summary = inspection.summary()
    for heading in (
        "Export",
        "Writers",
        "Lesions",
        "Reports",
        "Findings",
        "Linked by",
        "Coverage",
        "Left out",
        "Estimate",
    ):
        assert f"\n{heading}\n" in summary
    (tmp_path / "inspection.json").write_text(json.dumps(values))
    (tmp_path / "inspection.txt").write_text(summary)
    (tmp_path / "inspection.html").write_text(inspection.html())
    index = open_index(demo / "cohort" / "private" / "index.sqlite")
    needles = {value for study in index.studies() for value in (*study.identifiers, study.study_instance_uid)}
    index.close()
    assert find_leaks(tmp_path, needles) == []


def test_image_references_would_settle_what_sizes_cannot(tmp_path: Path) -> None:
    """Two lines of one length and "14 mm": withheld; with an image named, it would be linked."""
    ct = ct_series(12)
    lines = [on(ct[i], line((10.0, 30.0), (30.0, 30.0))) for i in (2, 9)]
    write([*ct, gsps(lines)], tmp_path / "pacs")
    index = tmp_path / "index.sqlite"
    report = Report("r", "FINDINGS: A 14 mm nodule.", accession_numbers=("ACC0001",))
    found = inspect_export(tmp_path / "pacs", [report], index=index, estimate=False, progress=False)
    assert (found.decisions, found.findings["linkable"], found.coverage) == ({"AMBIGUOUS": 1}, 1, 0.0)
    assert found.with_references == 1
    assert found.lesions == {"drawn": 2, "unmentioned": 2}
    assert index.is_file()  # kept, since somebody asked for it
    alone = inspect_export(tmp_path / "pacs", index=index, estimate=False, progress=False)
    assert (alone.lesions, alone.coverage, alone.reports) == ({"drawn": 2, "without_report": 2}, None, {})
    assert "Coverage" not in alone.summary()


class Broken:
    """An extractor that fails."""

    name = "broken"

    def extract(self, reports: list[Report]) -> list[list[Finding]]:
        raise RuntimeError(reports[0].text)


def test_a_failure_costs_its_item_and_is_counted(tmp_path: Path) -> None:
    ct = ct_series(4)
    write([*ct, gsps([on(ct[1], line((10.0, 30.0), (30.0, 30.0)))])], tmp_path / "pacs")
    reports = [
        Report("r", "A 14 mm nodule of Quorvash.", accession_numbers=("ACC0001",)),
        Report("s", "Normal.", accession_numbers=("ELSEWHERE",)),
    ]
    found = inspect_export(tmp_path / "pacs", reports, extractor=Broken(), estimate=False, progress=False)
    assert found.skips["reports"] == {"extractor_failed": 1}
    assert found.skips["scope"]["study_not_in_export"] == 1
    assert found.details["reports"]["extractor_failed"].startswith("the extractor failed with RuntimeError")
    assert "Quorvash" not in found.summary()


def test_it_says_why_most_reports_are_unusable(tmp_path: Path) -> None:
    write(ct_series(4), tmp_path / "pacs")
    (tmp_path / "r.csv").write_text("report_id,text,accession_number\n1\n2\n,Quorvash,ACC0001\n3,Normal.,ACC0001\n")
    found = inspect_export(tmp_path / "pacs", tmp_path / "r.csv", progress=False)
    assert found.skips["reports"] == {"report_unusable": 3}
    detail = found.as_dict()["details"]["reports"]["report_unusable"]
    assert detail.startswith("the row has 1 fields, the header 3")
    assert f"\n    {detail}" in found.summary()
    assert "Quorvash" not in found.summary()


def test_what_a_killed_inspection_left_is_removed_by_the_next(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(tempfile, "tempdir", str(tmp_path))
    killed, running, fresh, other = (
        tmp_path / f"{name}-x" for name in ("cohort-inspect-a", "cohort-inspect-b", "cohort-inspect-c", "other")
    )
    for folder in (killed, running, fresh, other):
        folder.mkdir()
        (folder / "in-use.lock").touch()
        (folder / "index.sqlite").write_text("Quorvash")
    (tmp_path / "cohort-inspect-link").symlink_to(other)
    for folder in (killed, running, other):
        os.utime(folder, (0, 0))
    write(ct_series(2), tmp_path / "pacs")
    with FileLock(running / "in-use.lock"):
        inspect_export(tmp_path / "pacs", estimate=False, progress=False)
        assert sorted(path.name for path in tmp_path.glob("*-*")) == [
            "cohort-inspect-b-x",
            "cohort-inspect-c-x",
            "cohort-inspect-link",
            "other-x",
        ]
    assert (other / "index.sqlite").is_file()


def test_linkable_is_said_to_mean_something_else_than_in_the_score(inspection: Inspection) -> None:
    for said in (inspection.summary(), inspection.html()):
        assert "what was never drawn itself counts, too." in said


def test_wrong_arguments(tmp_path: Path) -> None:
    with pytest.raises(PacsError):
        inspect_export(tmp_path / "nowhere", progress=False)
    with pytest.raises(ConfigError, match="unknown extractor 'nonsense'"):
        inspect_export(tmp_path, extractor="nonsense", progress=False)
    (tmp_path / "r.csv").write_text("a,b\n1,2\n")
    with pytest.raises(ReportError):
        inspect_export(tmp_path, tmp_path / "r.csv", progress=False)
