"""Headers of real scanners and viewers: the scanner gives what pydicom gives, and reads nearly all of them itself."""

from __future__ import annotations

import pytest
from cases import real_data

from cohort_builder.pacs import headers, scanner

# Share of its DICOM images (no presentation states and reports) that the scanner must read itself.
FOLDERS = {"lidc_0001": 1.0, "sarcoma": 1.0, "ibsi_phantom": 1.0, "gsps": 0.1, "sr": 0.3}


@pytest.mark.parametrize(("name", "share"), FOLDERS.items())
def test_real_headers_are_pydicoms(name, share):
    images = [path for path in sorted(real_data(name).rglob("*")) if path.is_file() and is_dicom(path)]
    read = 0
    for path in images[:200]:
        with path.open("rb") as stream:
            found = scanner.scan(headers._reader(stream), path.stat().st_size, path)
            if found is not None:
                read += 1
                assert found == headers._parse(stream, path, path.stat().st_size)
    assert read >= share * len(images[:200]) > 0


def is_dicom(path):
    with path.open("rb") as stream:
        return stream.read(132).endswith(b"DICM")
