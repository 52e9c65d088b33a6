"""The command line: exit codes, help, and messages that say what to do."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from pathlib import Path

import pytest
from dicom import ct_series, gsps, line, on, write
from records import finding, volume

from cohort_builder.cli import main
from exports import write_dataset

VERBS = ["demo", "inspect", "build", "show", "audit", "fit-links", "fit-tiers", "evaluate"]


@pytest.fixture(autouse=True)
def own_configuration(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Keep the developer's own key out of the tests."""
    monkeypatch.setenv("XDG_CONFIG_HOME", str(tmp_path / "config"))


@pytest.mark.parametrize("verb", VERBS)
def test_help_has_an_example(verb: str, capsys: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(SystemExit) as stop:
        main([verb, "--help"])
    assert stop.value.code == 0
    assert f"example: cohort {verb}" in capsys.readouterr().out


def test_no_verb_prints_the_help_and_is_a_bad_argument(capsys: pytest.CaptureFixture[str]) -> None:
    assert main([]) == 2
    err = capsys.readouterr().err
    assert all(verb in err for verb in VERBS)


@pytest.mark.parametrize(
    "arguments",
    [
        ["nonsense"],
        ["build"],
        ["build", "r.csv", "pacs"],
        ["inspect"],
        ["inspect", "pacs", "--workers", "0"],
        ["fit-links"],
        ["demo", "--patients", "0"],
        ["demo", "--patients", "x"],
        ["demo", "--seed", "-1"],
    ],
)
def test_bad_arguments_exit_2(arguments: list[str], capsys: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(SystemExit) as stop:
        main(arguments)
    assert stop.value.code == 2
    assert "usage: cohort" in capsys.readouterr().err


def build(tmp_path: Path, reports: Path, export: Path, *more: str) -> int:
    return main(["build", str(reports), str(export), "-o", str(tmp_path / "out"), "-q", *more])


def test_a_missing_export_exits_1_and_says_what_to_do(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    reports = tmp_path / "reports.csv"
    reports.write_text("report_id,text\n1,Normal.\n")
    assert build(tmp_path, reports, tmp_path / "nowhere") == 1
    assert "cohort: " in capsys.readouterr().err


def test_an_empty_export_exits_1(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    reports = tmp_path / "reports.csv"
    reports.write_text("report_id,text\n1,Normal.\n")
    (tmp_path / "pacs").mkdir()
    assert build(tmp_path, reports, tmp_path / "pacs") == 1
    assert "DICOM" in capsys.readouterr().err


def test_a_wrong_configuration_exits_2(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    config = tmp_path / "cohort.toml"
    config.write_text("nonsense = 1\n")
    assert build(tmp_path, tmp_path / "r.csv", tmp_path / "pacs", "--config", str(config)) == 2
    assert "unknown keys ['nonsense']" in capsys.readouterr().err


def test_show_of_a_folder_without_a_cohort_exits_2(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["show", str(tmp_path)]) == 2
    assert "no finished cohort" in capsys.readouterr().err


def test_a_finding_that_does_not_exist_exits_2(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    write_dataset(tmp_path / "dataset", findings=[finding(volume(0), 0)])
    for number in ("1", "-1"):
        assert main(["show", str(tmp_path), "--finding", number]) == 2
        assert f"finding {number} does not exist: the cohort has 1" in capsys.readouterr().err


def test_an_audit_without_the_private_folder_exits_2(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    """Nothing to search for is not nothing found."""
    write_dataset(tmp_path / "dataset", findings=[finding(volume(0), 0)])
    assert main(["audit", str(tmp_path)]) == 2
    assert "private folder" in capsys.readouterr().err


def test_a_foreign_folder_is_never_built_in(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    (tmp_path / "out").mkdir()
    (tmp_path / "out" / "thesis.docx").write_text("precious")
    assert build(tmp_path, tmp_path / "r.csv", tmp_path) == 2
    assert "other things in it" in capsys.readouterr().err
    assert [path.name for path in (tmp_path / "out").iterdir()] == ["thesis.docx"]


@pytest.fixture
def export(tmp_path: Path) -> Path:
    ct = ct_series(4)
    write([*ct, gsps([on(ct[1], line((10.0, 30.0), (30.0, 30.0)))])], tmp_path / "pacs")
    return tmp_path / "pacs"


def test_inspect_prints_counts_and_writes_them_for_machines(
    export: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    reports, found = tmp_path / "reports.csv", tmp_path / "found.json"
    reports.write_text("report_id,text,accession_number\n1,FINDINGS: A 14 mm nodule (series 2 image 2).,ACC0001\n")
    assert main(["inspect", str(export), str(reports), "--json", str(found), "-q"]) == 0
    out = capsys.readouterr().out
    assert out.startswith("Inspection\n")
    values = json.loads(found.read_text())
    assert (values["findings"]["linkable"], values["lesions"]["drawn"], values["coverage"]) == (1, 1, 1.0)
    assert main(["inspect", str(export), "-q"]) == 0
    assert "Coverage" not in capsys.readouterr().out


def test_inspect_of_nothing_exits_1_and_of_wrong_arguments_2(
    export: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    assert main(["inspect", str(tmp_path / "nowhere"), "-q"]) == 1
    assert main(["inspect", str(export), str(tmp_path / "none.csv"), "-q"]) == 1
    assert main(["inspect", str(export), "-q", "--json", str(tmp_path / "no" / "such.json")]) == 2
    assert "cannot be written" in capsys.readouterr().err
    config = tmp_path / "cohort.toml"
    config.write_text("nonsense = 1\n")
    assert main(["inspect", str(export), "-q", "--config", str(config)]) == 2


def test_fit_links_without_reviews_exits_2(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    out = tmp_path / "link.toml"
    assert main(["fit-links", str(tmp_path), "-o", str(out)]) == 2
    assert "private/review.csv" in capsys.readouterr().err
    (tmp_path / "private").mkdir()
    (tmp_path / "private" / "review.csv").write_text("review_id,verdict,patient,report,finding_id,lesion_id\n")
    assert main(["fit-links", str(tmp_path), "-o", str(out)]) == 2
    assert "0 verdicts" in capsys.readouterr().err
    assert not out.exists()


def test_the_installed_command_runs() -> None:
    command = Path(sys.executable).with_name("cohort")
    done = subprocess.run([command, "--help"], capture_output=True, text=True, check=False, env=dict(os.environ))
    assert done.returncode == 0
    assert "build" in done.stdout
