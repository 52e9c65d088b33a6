"""DICOM labels of real patients, read as training data, against the loaders of these tests."""

from __future__ import annotations

import numpy as np
import pydicom
import pytest
from cases import load_lidc, load_sarcomas, real_data

from cohort_builder.training import open_manifest
from cohort_builder.training.readers import ALL_READERS
from segmentation.training.cache import CropPolicy, fill_cache
from segmentation.training.samples import HU_LIMIT
from segmentation.training.sources import ManifestSource


@pytest.mark.slow
def test_structure_sets_of_the_sarcomas_are_the_voxels_of_the_references() -> None:
    manifest = open_manifest(f"rtstruct:{real_data('sarcoma')},GTV_Mass_CT,lesions=whole,least_mm3=0")
    cases = {case.case_id: case for case in load_sarcomas()}
    assert len(manifest.entries) == len(cases) == 13
    for entry in manifest.entries:
        case = cases[entry.label.split("/")[0]]
        volume, labels = ALL_READERS[entry.reader](entry, manifest.root)
        assert np.array_equal(labels > 0, case.truth)
        assert np.array_equal(volume.voxels, case.volume.voxels)
        assert np.allclose(volume.affine, case.volume.affine)


def test_the_segmentation_of_lidc_lies_on_its_ct() -> None:
    manifest = open_manifest(f"seg:{real_data('lidc_0001')}")
    [entry] = manifest.entries
    volume, labels = ALL_READERS[entry.reader](entry, manifest.root)
    one_reader, case = labels > 0, load_lidc()
    assert one_reader.sum() == pydicom.dcmread(manifest.root / entry.label).pixel_array.sum() == 5498
    assert np.array_equal(volume.voxels, case.volume.voxels)
    overlap = 2 * (one_reader & case.truth).sum() / (one_reader.sum() + case.truth.sum())
    assert overlap > 0.85, "one reader against the consensus of four"


def test_cached_sarcomas_are_the_crops_of_their_cts(tmp_path) -> None:
    manifest = open_manifest(f"rtstruct:{real_data('sarcoma') / 'STS_001'},lesions=whole")
    policy = CropPolicy(in_plane=0.5)
    [sample] = fill_cache([ManifestSource(manifest, policy, ALL_READERS)], tmp_path)
    case = load_sarcomas()[0]
    assert sample.truth.sum() == case.truth.sum()
    inside = np.clip(case.volume.voxels[case.truth], -HU_LIMIT, HU_LIMIT)
    assert np.array_equal(sample.volume.voxels[sample.truth], inside)
