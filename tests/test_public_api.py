"""What is public is what is documented, and importing it stays light."""

from __future__ import annotations

import inspect
import subprocess
import sys

import pytest

import cohort_builder

DESIGN = {
    "build_cohort", "open_cohort", "Cohort", "BuildConfig", "LinkConfig", "index_export", "Index", "read_annotations",
    "locate", "group_lesions", "link", "inspect_export", "Inspection", "load_volume", "Annotation", "LocatedAnnotation", "Lesion", "Link", "Decision",
    "Skip", "CohortError", "ConfigError", "PacsError", "TooManySkips", "SetupError",
    "Report", "Extractor", "Segmenter", "Selection", "AnatomyLocator",
}  # fmt: skip


def test_all_is_exactly_what_is_documented() -> None:
    assert set(cohort_builder.__all__) == DESIGN
    assert cohort_builder.__all__ == sorted(cohort_builder.__all__)


@pytest.mark.parametrize("name", sorted(DESIGN))
def test_every_public_name_exists_and_is_explained(name: str) -> None:
    assert inspect.getdoc(getattr(cohort_builder, name))


def test_an_unknown_name_is_an_attribute_error() -> None:
    with pytest.raises(AttributeError, match="no attribute 'nonsense'"):
        _ = cohort_builder.nonsense


@pytest.mark.parametrize("package", ["cohort_builder", "nlp", "segmentation", "exports"])
def test_importing_a_package_loads_nothing_heavy(package: str) -> None:
    heavy = {"torch", "highdicom", "spacy", "datasets", "matplotlib", "pandas"}
    script = f"import sys, {package}; print(*sorted(set(sys.modules) & {heavy!r}))"
    loaded = subprocess.run([sys.executable, "-c", script], capture_output=True, text=True, check=True).stdout
    assert loaded.strip() == ""


def test_errors_are_the_tree_of_the_design() -> None:
    for name in ("ConfigError", "PacsError", "TooManySkips", "SetupError"):
        assert issubclass(getattr(cohort_builder, name), cohort_builder.CohortError)
    assert issubclass(cohort_builder.ConfigError, ValueError)
