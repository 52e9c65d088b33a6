"""docs/reports.md is true: its examples run, and the names of columns it lists are found."""

from __future__ import annotations

import re
from pathlib import Path

import pytest

from nlp import Report
from nlp.sources.column_names import fields_of, section_of

PAGE = (Path(__file__).parent.parent / "docs" / "reports.md").read_text(encoding="utf-8")
EXAMPLES = re.findall(r"```python\n(.*?)```", PAGE, re.DOTALL)


@pytest.fixture
def folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    for name in ("export", "texts/p10"):
        (tmp_path / name).mkdir(parents=True)
    (tmp_path / "export" / "a.csv").write_text("id,text\n1,Normal.\n2,\n")
    (tmp_path / "ris.csv").write_bytes(
        "Auftrag;Befund;Beurteilung;Frau/Herr;Vidierdatum\nA1;Größe 8 mm.;Rundherd.;Muster;03/04/2021\n".encode(
            "cp1252"
        )
    )
    (tmp_path / "texts" / "p10" / "A1.txt").write_text("Normal.")
    monkeypatch.chdir(tmp_path)
    return tmp_path


def run(example: str) -> dict[str, object]:
    scope: dict[str, object] = {}
    exec(example, scope)
    return scope


@pytest.mark.usefixtures("folder")
def test_the_examples_run(capsys: pytest.CaptureFixture[str]) -> None:
    folder_of_files, given, texts = EXAMPLES
    run(folder_of_files)
    assert capsys.readouterr().out == "1 () final 7\n1 rows could not be used\n"
    text = "FINDINGS:\nGröße 8 mm.\n\nIMPRESSION:\nRundherd."
    assert run(given)["reports"] == [Report("A1", text, ("A1",), identifiers=("Muster",))]
    assert run(texts)["reports"] == [Report("A1", "Normal.", ("A1",), patient_id="p10")]


def test_the_columns_of_the_page_are_found() -> None:
    rows = re.findall(
        r"^\| (`\w+`|parts of it) \| (.*) \|$", PAGE.split("## Columns")[1].split("## Encodings")[0], re.MULTILINE
    )
    assert len(rows) == 10
    for field, names in rows:
        for name in re.findall(r"`(\w{3,}|id)`", names):
            if field == "parts of it":
                assert section_of(name) is not None or name.startswith("_") or name.endswith("_"), name
            else:
                assert field.strip("`") in dict(fields_of(name)), name
