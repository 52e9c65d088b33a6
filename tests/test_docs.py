"""The documentation is true: commands, links, reason codes and the notebook."""

from __future__ import annotations

import os
import re
from pathlib import Path

import pytest

ROOT = Path(__file__).parent.parent
PAGES = [ROOT / "README.md", ROOT / "CONTRIBUTING.md", *(ROOT / "docs").glob("*.md")]


@pytest.mark.parametrize("page", PAGES, ids=lambda page: page.name)
def test_links_lead_somewhere(page: Path) -> None:
    for target in re.findall(r"\]\(([^)#]+)\)", page.read_text(encoding="utf-8")):
        assert target.startswith("http") or (page.parent / target).exists(), target


def test_make_targets_of_the_readme_exist() -> None:
    makefile = (ROOT / "Makefile").read_text()
    text = "".join(page.read_text(encoding="utf-8") for page in PAGES)
    for target in set(re.findall(r"`?make ([a-z-]+)`?", text)):
        assert re.search(rf"^{target}:", makefile, re.MULTILINE), target


def test_ci_runs_the_readmes_test_command_and_nothing_else() -> None:
    lines = (ROOT / ".ci" / "run").read_text().splitlines()
    assert lines[-1] == "exec make test"
    assert "make test" in (ROOT / "README.md").read_text()


def test_python_of_the_readme_compiles() -> None:
    blocks = re.findall(r"```python\n(.*?)```", (ROOT / "README.md").read_text(), re.DOTALL)
    assert len(blocks) >= 2
    for block in blocks:
        compile(block, "README.md", "exec")


def test_the_readmes_load_dataset_runs(demo: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    blocks = re.findall(r"```python\n(.*?)```", (ROOT / "README.md").read_text(), re.DOTALL)
    (block,) = (block for block in blocks if "load_dataset" in block)
    monkeypatch.chdir(demo)
    scope: dict[str, object] = {}
    exec(block, scope)
    assert scope["row"]["phrase"]  # type: ignore[index]


def test_the_options_of_the_readme_are_the_defaults() -> None:
    import tomllib

    from cohort_builder import BuildConfig

    (block,) = re.findall(r"```toml\n(.*?)```", (ROOT / "README.md").read_text(), re.DOTALL)
    assert BuildConfig.from_mapping(tomllib.loads(block)) == BuildConfig()


def test_every_reason_for_a_skip_is_explained() -> None:
    """No page documents a reason that the code does not have; tests/test_bad_input.py looks at the other direction."""
    explained = set(re.findall(r"^\| `([a-z0-9_]+)`", (ROOT / "docs" / "skips.md").read_text(), re.MULTILINE))
    source = "".join(
        p.read_text(encoding="utf-8")
        for p in [*(ROOT / "cohort_builder").rglob("*.py"), *(ROOT / "segmentation").rglob("*.py")]
    )
    assert len(explained) > 10
    made_of_parts = {reason for reason in explained if reason.startswith("compound_") and 'f"compound_{' in source}
    assert {reason for reason in explained - made_of_parts if f'"{reason}"' not in source} == set()


def test_reasons_of_the_demo_are_explained(demo: Path) -> None:
    from cohort_builder import open_cohort

    page = (ROOT / "docs" / "skips.md").read_text()
    assert {row["reason"] for row in open_cohort(demo / "cohort").skipped if f"`{row['reason']}`" not in page} == set()


def test_the_notebook_runs(demo: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    import nbformat
    from nbclient import NotebookClient

    monkeypatch.setenv("COHORT", str(demo / "cohort"))
    monkeypatch.setenv("PYTHONPATH", os.pathsep.join([str(ROOT)]))
    notebook = nbformat.read(ROOT / "notebooks" / "explore.ipynb", as_version=4)
    NotebookClient(notebook, timeout=120, resources={"metadata": {"path": str(ROOT / "notebooks")}}).execute()
    text = "".join(str(output) for cell in notebook.cells for output in cell.get("outputs", []))
    assert "bit for bit: True" in text
    assert "image/png" in text
