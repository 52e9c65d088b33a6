"""What the tests and the demo write is what the standard asks for: DCMTK's dcmpschk and dicom3tools' dciodvfy agree.

Otherwise the reader would be tested on files that nobody writes.
"""

from __future__ import annotations

import shutil
import subprocess
import sysconfig
from pathlib import Path

import pydicom
import pytest
from dicom import Graphic, Text, arrow, bidimensional, gsps, line, on, write
from presentation import CT, compound, display, graphic, item, state, words

DCIODVFY = Path(sysconfig.get_path("scripts")) / "dciodvfy"
KNOWN = {
    # The CT names no body part, so it is not known to be unpaired; without the element dciodvfy finds an error.
    (
        "Warning - is only permitted to be empty when actually unknown; should be absent (not empty) if an unpaired body"
        " part, and have a value if a paired body part - attribute <Laterality>"
    ),
}
A, B = (10.0, 30.0), (50.0, 30.0)


def by_highdicom():
    return gsps([
        on(CT[0], line(A, B), Text("32.0 mm", anchor=(52, 30))),
        on(CT[1], *arrow((5, 5), (40, 30)), Text("nodule", anchor=(40, 30), visible=True)),
        on(CT[2], *bidimensional(((10, 10), (30, 10)), ((20, 4), (20, 16))), Text("a", box=(2, 2, 9, 9))),
        on(CT[3], Graphic(((10, 30), (50, 30), (30, 20), (30, 40)), "ELLIPSE"), Graphic(((20, 20),), "POINT")),
        on(CT[3], Graphic(((0.1, 0.1), (0.4, 0.4)), units="DISPLAY"), Graphic(((9, 9), (12, 9)), "CIRCLE")),
    ])  # fmt: skip


def by_hand():
    ds = state(
        item(graphic(A, B, group=1), words("32 mm", (52, 30), group=1)),
        item(graphic((10, 10), (30, 12), (28, 30), (10, 10), kind="INTERPOLATED")),
        item(graphic((0.1, 0.1), (0.4, 0.4), units="DISPLAY"), words("see", (0.4, 0.4), shown=True, units="DISPLAY")),
        groups={1: "DistanceLine"},
    )
    return display(ds, (5, 5), (40, 50), 90, "Y")


def with_compounds():
    multiline = compound("MULTILINE", A, B, own_id=1)
    arrows = compound("ARROW", B, A, own_id=2)
    return state(
        item(multiline, graphic(A, B, compound=1)),
        item(arrows, graphic(A, B, compound=2), graphic((45, 27), B, (45, 33), compound=2)),
    )


@pytest.mark.parametrize("make", [by_highdicom, by_hand, with_compounds])
def test_presentation_states_of_the_tests_are_valid(make, tmp_path):
    (path,) = write([make()], tmp_path)
    assert_valid(path)


def test_presentation_states_of_the_demo_are_valid(demo, tmp_path):
    headers = {
        path: pydicom.dcmread(path, specific_tags=["Modality"], force=True)
        for path in (demo / "hospital").rglob("*")
        if path.is_file()
    }
    states = sorted(path for path, header in headers.items() if header.get("Modality") == "PR")
    assert states
    for path in states:
        assert_valid(in_ascii(path, tmp_path))


def in_ascii(path: Path, folder: Path) -> Path:
    """Copy a state with plain names: DCMTK 3.6.7 refuses every name that is not ASCII, whatever its character set."""
    ds = pydicom.dcmread(path)
    for element in ds.iterall():
        if element.VR == "PN" and not str(element.value).isascii():
            element.value = "Plain^Name"
    (copy,) = write([ds], folder)
    return copy


def assert_valid(path: Path) -> None:
    found = subprocess.run([DCIODVFY, path], capture_output=True, text=True, check=False)
    complaints = [text for text in (found.stdout + found.stderr).splitlines() if text.startswith(("Error", "Warning"))]
    assert {text for text in complaints if text not in KNOWN} == set()
    if shutil.which("dcmpschk") is None:
        pytest.skip("dcmpschk (Debian package dcmtk) is not installed")
    checked = subprocess.run(["dcmpschk", path], capture_output=True, text=True, check=False)
    assert "Test passed" in checked.stdout + checked.stderr, checked.stdout + checked.stderr
