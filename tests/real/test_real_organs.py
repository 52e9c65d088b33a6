"""Regions on real CT: against the organ labels of one abdomen, and where nodules, sarcomas and crops are known to lie."""

from __future__ import annotations

import numpy as np
import pytest
from cases import real_data
from organ_labels import labelled_abdomen, lps_volume, named, points_in, said_of, verdicts

from cohort_builder.anatomy.locators import RegionLocator
from cohort_builder.anatomy.organs import organ_agreement, parts_of
from cohort_builder.anatomy.regions import read_body
from segmentation.geometry import apply_affine, image_points_to_lps, index_to_image, lps_to_ras
from segmentation.types import Volume


@pytest.mark.parametrize("name", ["example_ct.nii.gz", "example_ct_sm.nii.gz"])
def test_points_in_labelled_organs_get_a_compatible_region(name) -> None:
    """Of 40 points in each of 41 organs: at least 95 % compatible, at most 1 % contradicted."""
    volume, labels = labelled_abdomen(name)
    if name == "example_ct_sm.nii.gz":
        assert volume.voxels.shape == labels.labels.shape[::-1]
    found = named(RegionLocator(), volume, points_in(labels, 40, np.random.default_rng(0)))
    assert all(parts_of(said_of(organ)) for organ in found)
    total = verdicts(found)
    n = sum(total.values())
    assert n > 1200
    assert total[True] >= 0.95 * n
    assert total[False] <= 0.01 * n


def test_wrong_organs_are_contradicted_where_they_are_far() -> None:
    volume, labels = labelled_abdomen()
    locator = RegionLocator()
    for far in ("thyroid", "mediastinum", "right upper lobe", "brain", "prostate"):
        contradicted = [
            verdict is not None and not verdict[0]
            for organ, point in points_in(labels, 3, np.random.default_rng(1))
            if organ in {"pancreas", "kidney_left", "gallbladder", "duodenum", "small_bowel"}
            and ((verdict := organ_agreement(far, locator.organ_at(volume, point))) or True)
        ]
        assert np.mean(contradicted) > 0.6, far


def test_the_labels_of_the_file_are_read_where_they_are() -> None:
    """Every labelled voxel centre reads its own label back, through LPS."""
    _, labels = labelled_abdomen()
    for organ, point in points_in(labels, 5, np.random.default_rng(2)):
        assert labels.organ_at(point) == organ
    assert labels.lung_level(np.zeros((1, 3))) is None, "the lungs go on above the scan"
    assert len(labels.names) == 117
    silent = [name for name in labels.names.values() if organ_agreement("liver", name) is None and name != "liver"]
    assert {"aorta", "stomach"} <= set(silent)
    assert organ_agreement("liver", "lung_upper_lobe_left") is not None


def test_every_class_of_the_package_is_in_the_table() -> None:
    _, labels = labelled_abdomen()
    words = ("liver", "lung", "brain", "femur", "prostate")
    unknown = [name for name in labels.names.values() if all(organ_agreement(word, name) is None for word in words)]
    assert not unknown


def test_a_nodule_lies_in_the_lung(lidc) -> None:
    locator = RegionLocator()
    for line in lidc.lines:
        points = image_points_to_lps(index_to_image([line.start, line.end]), line.slice_index, lidc.volume.affine)
        (place,) = locator.places(lidc.volume, [points])
        verdict = organ_agreement("lung", place.organ)
        assert verdict is not None
        assert verdict[0]
        assert not organ_agreement("liver", place.organ)[0]
        assert 0 < place.lung_level < 1


def test_a_limb_is_contradicted_by_nothing_that_is_named_there(sarcomas) -> None:
    """Crops of thighs, arms and other soft parts: mostly nothing can be said, and nothing may be called lung."""
    names = []
    for case in sarcomas:
        centre = apply_affine(case.volume.affine, np.argwhere(case.truth).mean(axis=0)[None])
        names.append(RegionLocator().organ_at(case.volume, centre))
        verdict = organ_agreement("muscle", names[-1])
        assert verdict is None or verdict[0] or names[-1] == "bone", case.case_id
    assert not {"lung", "between the lungs"} & set(names)
    assert names.count(None) >= 10


def test_a_tumour_in_a_crop_of_one_lung_is_not_put_elsewhere(ibsi) -> None:
    centre = apply_affine(ibsi.volume.affine, np.argwhere(ibsi.truth).mean(axis=0)[None])
    verdict = organ_agreement("lung", RegionLocator().organ_at(ibsi.volume, centre))
    assert verdict is None or verdict[0]


@pytest.mark.parametrize(
    "name", ["aorta_report/test_result/models/ct_cropped.nii.gz", "pulmonary_report/models/ct_cropped.nii.gz"]
)
def test_a_crop_round_the_heart_is_full_of_lung(name) -> None:
    """No labels here: what is as light as lung and away from its border must be called lung, and contrast no bone."""
    volume = lps_volume(real_data("ct_plain") / name)
    locator, rng = RegionLocator(), np.random.default_rng(0)
    body = read_body(volume)
    from scipy import ndimage

    lung = ndimage.binary_erosion((volume.voxels > -930) & (volume.voxels < -700), iterations=4)
    points = np.argwhere(lung)
    names = [
        locator.organ_at(volume, apply_affine(volume.affine, point[None]))
        for point in points[rng.permutation(len(points))[:60]]
    ]
    assert np.mean([name in {"lung", "border of the lung", "base of the lung"} for name in names]) >= 0.95
    assert np.mean([name == "lung" for name in names]) >= 0.7
    assert body.lungs.level(0.0) is None, "the crop does not show both ends of the lungs"
    contrast = ndimage.binary_erosion(volume.voxels > 250, iterations=6)  # more than 9 mm from its border: no bone
    inside = np.argwhere(contrast)
    named_bone = [
        locator.organ_at(volume, apply_affine(volume.affine, point[None])) == "bone"
        for point in inside[rng.permutation(len(inside))[:60]]
    ]
    assert np.mean(named_bone) <= 0.02


def test_thick_slices_and_coarse_pixels_name_the_same(lidc) -> None:
    """Every fourth slice and pixel of a chest: 10 x 2.8 mm."""
    volume = lidc.volume
    affine = volume.affine @ np.diag([4.0, 4.0, 4.0, 1.0])
    coarse = Volume(volume.voxels[::4, ::4, ::4].copy(), affine, "1", "2", volume.sop_instance_uids[::4])
    rng, body = np.random.default_rng(3), read_body(volume)
    to_lps, inside = np.linalg.inv(body.to_index), np.argwhere(body.body)
    points = [apply_affine(to_lps, inside[i][None]) for i in rng.permutation(len(inside))[:80]]
    fine, rough = RegionLocator().places(volume, points), RegionLocator().places(coarse, points)
    assert np.mean([a.organ == b.organ for a, b in zip(fine, rough, strict=True)]) >= 0.8


def test_labels_and_volume_share_their_frame() -> None:
    volume, labels = labelled_abdomen("example_ct_sm.nii.gz")
    corner = apply_affine(volume.affine, [0, 0, 0])
    assert np.allclose(lps_to_ras(corner), labels.affine_ras[:3, 3])
