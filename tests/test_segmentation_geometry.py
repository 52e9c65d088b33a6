"""Coordinates, against closed forms and two independent implementations."""

from __future__ import annotations

import nibabel as nib
import numpy as np
import pytest
from highdicom.spatial import ImageToReferenceTransformer, PixelToReferenceTransformer
from hypothesis import given
from hypothesis import strategies as st
from scipy.spatial.transform import Rotation

from segmentation.geometry import (
    apply_affine,
    crop_affine,
    image_points_to_lps,
    image_to_index,
    index_to_image,
    is_orthogonal,
    lps_to_ras,
    nifti_affine,
    slice_affine,
    volume_affine,
)
from segmentation.regions import farthest_pair
from segmentation.types import GeometryError, Volume

AXIAL = (1.0, 0.0, 0.0, 0.0, 1.0, 0.0)
millimetres = st.floats(-400, 400, allow_nan=False)
spacings = st.floats(0.2, 8)
points = st.lists(st.tuples(st.floats(-2, 600), st.floats(-2, 600)), min_size=1, max_size=5)


@st.composite
def planes(draw):
    """Position, orientation and spacing of an arbitrarily turned plane."""
    position = tuple(draw(millimetres) for _ in range(3))
    turn = Rotation.from_rotvec([draw(st.floats(-3, 3)) for _ in range(3)]).as_matrix()
    return position, (*turn[0], *turn[1]), (draw(spacings), draw(spacings))


def test_centre_of_the_first_pixel_is_half_a_pixel_from_its_corner():
    assert image_to_index([(0.5, 0.5)]).tolist() == [[0.0, 0.0]]
    assert index_to_image([(0, 0), (511, 3)]).tolist() == [[0.5, 0.5], [511.5, 3.5]]


def test_anisotropic_axial_slice_by_hand():
    affine = slice_affine((-10.0, 20.0, 5.0), AXIAL, (0.5, 0.25))
    # three columns to the left (+x), two rows to the back (+y)
    assert apply_affine(affine, (0, 2, 3)) == pytest.approx((-10 + 3 * 0.25, 20 + 2 * 0.5, 5))
    # the corner of the image lies half a pixel before the centre that ImagePositionPatient names
    assert image_points_to_lps([(0, 0)], 0, affine)[0] == pytest.approx((-10.125, 19.75, 5))


def test_sagittal_slice_by_hand():
    # rows run to the back (+y), columns downwards (-z): the normal points to -x (the patient's right)
    affine = slice_affine((1.0, 2.0, 3.0), (0, 1, 0, 0, 0, -1), (2.0, 1.0))
    assert apply_affine(affine, (4, 1, 1)) == pytest.approx((1 - 4, 2 + 1, 3 - 2))


@given(planes(), points)
def test_image_coordinates_agree_with_highdicom(plane, image_points):
    position, orientation, spacing = plane
    reference = ImageToReferenceTransformer(position, orientation, spacing)
    ours = image_points_to_lps(image_points, 0, slice_affine(position, orientation, spacing))
    assert ours == pytest.approx(reference(np.array(image_points)), abs=1e-6)


@given(planes(), st.integers(0, 511), st.integers(0, 511))
def test_pixel_indices_agree_with_highdicom(plane, column, row):
    position, orientation, spacing = plane
    reference = PixelToReferenceTransformer(position, orientation, spacing)
    ours = apply_affine(slice_affine(position, orientation, spacing), (0, row, column))
    assert ours == pytest.approx(reference(np.array([[column, row]]))[0], abs=1e-6)


@given(planes(), st.integers(2, 90), st.floats(0.3, 8), st.floats(-2, 2), points)
def test_volume_slices_agree_with_highdicom_slice_by_slice(plane, n_slices, gap, shear, image_points):
    position, orientation, spacing = plane
    normal = np.cross(orientation[:3], orientation[3:])
    step = gap * normal + shear * np.asarray(orientation[3:])
    last = np.asarray(position) + (n_slices - 1) * step
    affine = volume_affine(position, tuple(last), n_slices, orientation, spacing)
    k = n_slices // 2
    reference = ImageToReferenceTransformer(tuple(np.asarray(position) + k * step), orientation, spacing)
    ours = image_points_to_lps(image_points, k, affine)
    assert ours == pytest.approx(reference(np.array(image_points)), abs=1e-6)
    assert is_orthogonal(affine) == (abs(shear) <= 1e-3 * np.hypot(gap, shear))


@given(planes())
def test_rounded_direction_cosines_neither_stretch_nor_shear(plane):
    position, orientation, spacing = plane
    affine = slice_affine(position, np.round(orientation, 3), spacing)
    assert np.linalg.norm(affine[:3, :3], axis=0) == pytest.approx((1, *spacing), rel=1e-12)
    assert is_orthogonal(affine, tolerance=1e-6)
    exact = slice_affine(position, orientation, spacing)
    assert affine[:3, 1:3] / spacing == pytest.approx(exact[:3, 1:3] / spacing, abs=1.5e-3)


def test_direction_cosines_that_misplace_the_far_corner_are_refused():
    with pytest.raises(GeometryError, match="ImageOrientationPatient"):
        slice_affine((0, 0, 0), (0.86, 0.5, 0, -0.5, 0.87, 0), (1, 1))


def test_reversed_stack_has_a_mirrored_affine():
    up = volume_affine((0, 0, 0), (0, 0, 30), 11, AXIAL, (1, 1))
    down = volume_affine((0, 0, 30), (0, 0, 0), 11, AXIAL, (1, 1))
    assert apply_affine(up, (2, 5, 7)) == pytest.approx(apply_affine(down, (8, 5, 7)))
    assert np.linalg.det(up[:3, :3]) == pytest.approx(-np.linalg.det(down[:3, :3]))


@given(planes(), st.tuples(*[st.integers(0, 300)] * 3))
def test_nifti_affine_names_the_same_place_in_nibabel(plane, index):
    position, orientation, spacing = plane
    normal = np.cross(orientation[:3], orientation[3:])
    affine = volume_affine(position, tuple(np.asarray(position) + 9 * 2.5 * normal), 10, orientation, spacing)
    ras = nib.affines.apply_affine(nifti_affine(affine), index[::-1])
    assert ras == pytest.approx(lps_to_ras(apply_affine(affine, index)), abs=1e-6)


def test_nifti_axes_of_an_axial_stack():
    affine = volume_affine((0, 0, 0), (0, 0, 30), 11, AXIAL, (0.5, 0.25))
    assert nib.aff2axcodes(nifti_affine(affine)) == ("L", "P", "S")
    assert nib.affines.voxel_sizes(nifti_affine(affine)) == pytest.approx((0.25, 0.5, 3))


@given(st.tuples(*[millimetres] * 3))
def test_lps_to_ras_is_its_own_inverse(point):
    assert lps_to_ras(lps_to_ras(point)) == pytest.approx(point)


@given(st.tuples(*[st.integers(0, 90)] * 3), st.tuples(*[st.integers(0, 90)] * 3))
def test_crop_moves_the_origin_only(origin, index):
    affine = volume_affine((5, 6, 7), (5, 9, 37), 11, AXIAL, (0.5, 0.25))
    inside = apply_affine(crop_affine(affine, origin), index)
    assert inside == pytest.approx(apply_affine(affine, np.add(origin, index)))


@pytest.mark.parametrize(
    ("position", "orientation", "spacing"),
    [
        ((0, 0, float("nan")), AXIAL, (1, 1)),
        ((0, 0), AXIAL, (1, 1)),
        ((0, 0, 0), (1, 0, 0, 0.5, 0.86, 0), (1, 1)),
        ((0, 0, 0), (2, 0, 0, 0, 1, 0), (1, 1)),
        ((0, 0, 0), AXIAL, (0, 1)),
        ((0, 0, 0), AXIAL, (1, -1)),
    ],
)
def test_geometry_that_cannot_be_is_refused(position, orientation, spacing):
    with pytest.raises(GeometryError):
        slice_affine(position, orientation, spacing)


def test_one_slice_is_no_volume():
    with pytest.raises(GeometryError, match="at least two"):
        volume_affine((0, 0, 0), (0, 0, 0), 1, AXIAL, (1, 1))


def test_volume_spacing_is_the_length_of_its_steps():
    affine = volume_affine((0, 0, 0), (0, 12, 16), 5, AXIAL, (0.5, 0.25))
    volume = Volume(np.zeros((5, 4, 4), np.int16), affine, "1", "2", ("1",) * 5)
    assert volume.spacing_mm == pytest.approx((5.0, 0.5, 0.25))


@pytest.mark.parametrize("turn", [np.eye(3)[:, :2], np.array([[0.8, 0.36], [0.0, 0.8], [-0.6, 0.48]])])
def test_the_farthest_pair_of_many_points_is_that_of_all_pairs(turn):
    """Of an outline in the image, and of the same in a plane of the patient."""
    chance = np.random.default_rng(7)
    for count in (2, 3, 33, 200, 1000):
        for flat in (chance.normal(size=(count, 2)), np.outer(np.arange(count), (2.0, 1.0)), np.ones((count, 2))):
            for points in (flat, flat @ turn.T + 5.0):
                apart = np.linalg.norm(points[:, None] - points, axis=2)
                start, end = farthest_pair(points)
                assert np.linalg.norm(end - start) == pytest.approx(apart.max())
                assert any((start == point).all() for point in points)
