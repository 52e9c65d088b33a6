"""An inspection of all the real data at hand: it reads everything, adds up, and names nobody."""

from __future__ import annotations

import json
from pathlib import Path

import pytest
from cases import ROOT

from cohort_builder import Inspection, inspect_export
from cohort_builder.audit.search import find_leaks
from cohort_builder.pacs.index import open_index


@pytest.fixture(scope="module")
def index(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return tmp_path_factory.mktemp("inspect") / "index.sqlite"


@pytest.fixture(scope="module")
def found(index: Path) -> Inspection:
    if not ROOT.is_dir():
        pytest.skip(f"real data is not at {ROOT} (set COHORT_REAL_DATA)")
    return inspect_export(ROOT, index=index, progress=False)


def test_everything_is_counted_once(found: Inspection) -> None:
    assert sum(one.objects for one in found.objects) == found.export["dicom"] - found.export["duplicates"]
    assert sum(found.ct.verdicts.values()) == found.export["ct_series"] == found.ct.counts["series"]
    assert sum(one.images for one in found.syntaxes) == found.ct.counts["images"]
    lost = found.skips["annotations"].get("superseded", 0) + sum(found.skips["locate"].values())
    assert found.strokes["read"] == found.strokes["used"] + lost
    assert found.ct.verdicts["one_volume"] >= 15  # LIDC, the sarcomas and the phantom
    assert not any(one.decoder is False for one in found.syntaxes)


def test_device_names_are_told_and_people_are_not(found: Inspection, index: Path, tmp_path: Path) -> None:
    assert "GE MEDICAL SYSTEMS" in {one.manufacturer for one in found.writers}
    assert found.writers_withheld > 0  # a sample whose Manufacturer is its author
    for name, said in (
        ("text", found.summary()),
        ("html", found.html()),
        ("json", json.dumps(found.as_dict())),
    ):
        (tmp_path / f"inspection.{name}").write_text(said)
        assert "Clunie" not in said
    opened = open_index(index)
    needles = {study.patient_id for study in opened.studies() if study.patient_id}
    needles |= {study.study_instance_uid for study in opened.studies()}
    opened.close()
    assert find_leaks(tmp_path, needles) == []
