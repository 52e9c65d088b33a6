"""Series of real scanners, bit by bit against pydicom."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pydicom
import pytest
from cases import real_data

from cohort_builder import index_export
from cohort_builder.ct import frames
from cohort_builder.ct.decoders import decode
from cohort_builder.ct.series import load_stack, split_series
from segmentation.geometry import apply_affine


@pytest.mark.parametrize("name", ["lidc_0001", "sarcoma/STS_001", "sarcoma/STS_025", "sarcoma/STS_049", "ibsi_phantom"])
def test_a_real_series_equals_pydicom_slice_by_slice(name: str, monkeypatch: pytest.MonkeyPatch) -> None:
    folder = real_data(name.partition("/")[0]) / name.partition("/")[2]
    parsed: list[object] = []
    thorough = frames.OpenObject._parsed
    monkeypatch.setattr(
        frames.OpenObject, "_parsed", lambda self, instance: parsed.append(instance) or thorough(self, instance)
    )
    index = index_export(folder)
    ((study,),) = ([s.study_instance_uid for s in index.studies() if index.series_of(s.study_instance_uid)],)
    (series,) = index.series_of(study)
    (stack,), skips = split_series(index.instances(series))
    assert skips == []
    volume = load_stack(stack)
    assert parsed == []  # the index knows the place of the pixels of every slice
    for i, instance in enumerate(stack.instances):
        ds = pydicom.dcmread(instance.path)
        exact = ds.pixel_array * float(ds.RescaleSlope) + float(ds.RescaleIntercept)
        np.testing.assert_array_equal(volume.voxels[i], np.maximum(np.rint(exact), -1024))
        np.testing.assert_allclose(
            apply_affine(volume.affine, (i, 0, 0)), np.asarray(ds.ImagePositionPatient, dtype=float), atol=0.11
        )


def test_jpeg_2000_of_a_real_scanner_equals_pydicom() -> None:
    """Its headers lack UIDs, so the series is refused; its frames decode."""
    paths = sorted(Path(real_data("ct_plain") / "example_ct_dicom").iterdir())
    for path in paths[::5]:
        ds = pydicom.dcmread(path)
        layout = frames.PixelLayout(
            str(ds.file_meta.TransferSyntaxUID), ds.Rows, ds.Columns, 1, ds.BitsAllocated, ds.BitsStored, ds.HighBit,
            ds.PixelRepresentation == 1, 0, len(ds.PixelData),
        )  # fmt: skip
        encoded = pydicom.encaps.get_frame(ds.PixelData, 0, number_of_frames=1)
        np.testing.assert_array_equal(decode(encoded, layout), ds.pixel_array)
