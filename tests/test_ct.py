"""CT series to volumes, against highdicom and SimpleITK where they can represent the series, by arithmetic elsewhere."""

from __future__ import annotations

from dataclasses import replace

import highdicom
import numpy as np
import pydicom
import pytest
import SimpleITK
from dicom import ct_series, localizer, set_pixels, uid, write
from hypothesis import given, settings
from hypothesis import strategies as st
from pydicom.uid import (
    ExplicitVRBigEndian,
    ImplicitVRLittleEndian,
    JPEG2000Lossless,
    JPEGLSLossless,
    RLELossless,
)

from cohort_builder.ct.series import load_stack, load_volume, split_series
from cohort_builder.pacs.headers import read_header
from segmentation.geometry import apply_affine
from segmentation.types import GeometryError

OBLIQUE = (0.9, 0.3, np.sqrt(1 - 0.9**2 - 0.3**2), *np.cross([0.3, -0.9, 0], [0.9, 0.3, np.sqrt(1 - 0.9**2 - 0.3**2)]))
OBLIQUE = (*OBLIQUE[:3], *(np.asarray(OBLIQUE[3:]) / np.linalg.norm(OBLIQUE[3:])))
ORIENTATIONS = {
    "axial": (1, 0, 0, 0, 1, 0),
    "prone": (-1, 0, 0, 0, -1, 0),
    "coronal": (1, 0, 0, 0, 0, -1),
    "sagittal": (0, 1, 0, 0, 0, -1),
    "oblique": OBLIQUE,
}


def instances(datasets, folder):
    return [read_header(path).instance for path in write(datasets, folder)]


def split(datasets, folder):
    return split_series(instances(datasets, folder))


def summary(stacks, skips):
    return [len(s.instances) for s in stacks], sorted(s.reason for s in skips)


# ---- regular series --------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("orientation", ORIENTATIONS.values(), ids=ORIENTATIONS.keys())
def test_a_regular_series_equals_highdicom_and_simpleitk(tmp_path, orientation):
    datasets = ct_series(7, orientation=orientation, origin=(-31.3, 12.5, -400.25), step_mm=1.25)
    np.random.default_rng(0).shuffle(datasets)
    paths = write(datasets, tmp_path)
    volume = load_volume(tmp_path)

    ours = highdicom.get_volume_from_series(datasets).flip_spatial(0)
    np.testing.assert_allclose(volume.affine, ours.affine, atol=1e-5)
    np.testing.assert_array_equal(volume.voxels, ours.array)

    by_uid = {str(pydicom.dcmread(path).SOPInstanceUID): path for path in paths}
    image = SimpleITK.ReadImage([str(by_uid[u]) for u in volume.sop_instance_uids])
    np.testing.assert_array_equal(volume.voxels, SimpleITK.GetArrayFromImage(image))
    for index in [(0, 0, 0), (6, 10, 3), (2, 63, 40)]:
        expected = image.TransformIndexToPhysicalPoint(index[::-1])
        np.testing.assert_allclose(apply_affine(volume.affine, index), expected, atol=1e-4)
    assert volume.frame_of_reference_uid == datasets[0].FrameOfReferenceUID
    assert volume.series_instance_uid == datasets[0].SeriesInstanceUID


def test_slices_run_along_the_positive_normal(tmp_path):
    (stack,), skips = split(ct_series(5), tmp_path)
    assert skips == []
    assert stack.flags == ()
    assert [i.image_position[2] for i in stack.instances] == [40.0, 42.5, 45.0, 47.5, 50.0]
    assert load_stack(stack).sop_instance_uids == tuple(i.sop_instance_uid for i in stack.instances)
    np.testing.assert_allclose(stack.affine @ [2, 3, 5, 1], [-22 + 5 * 0.7, -25 + 3 * 0.8, 45, 1])


@settings(max_examples=30, deadline=None)
@given(st.permutations(range(12)))
def test_the_order_of_files_does_not_matter(tmp_path_factory, order):
    if not hasattr(test_the_order_of_files_does_not_matter, "made"):
        two_phases = ct_series(5) + ct_series(5, acquisition_number=2, origin=(-22, -25, 45))
        gap = ct_series(
            2, number=9, frame_of_reference_uid=uid("other"), series_instance_uid=two_phases[0].SeriesInstanceUID
        )
        test_the_order_of_files_does_not_matter.made = instances([*two_phases, *gap], tmp_path_factory.mktemp("ct"))
    made = test_the_order_of_files_does_not_matter.made
    expected, skips = split_series(made)
    stacks, skips_again = split_series([made[i] for i in order])
    assert [s.instances for s in stacks] == [s.instances for s in expected]
    assert skips_again == skips
    assert [len(s.instances) for s in stacks] == [5, 5, 2]


@pytest.mark.parametrize("step", [0.625, 0.75, 1.25, 2.5, 3.0])
@pytest.mark.parametrize("orientation", ["axial", "oblique"])
def test_positions_written_with_one_decimal_are_regular(tmp_path, step, orientation):
    exact = ct_series(24, step_mm=step, orientation=ORIENTATIONS[orientation], shape=(8, 8))
    rounded = ct_series(
        24, orientation=ORIENTATIONS[orientation], shape=(8, 8),
        positions=[np.round(np.asarray(ds.ImagePositionPatient, dtype=float), 1) for ds in exact],
    )  # fmt: skip
    (stack,), skips = split(rounded, tmp_path)
    assert skips == []
    (true,), _ = split(exact, tmp_path / "exact")
    for s in (0, 11, 23):
        assert np.linalg.norm(stack.affine @ [s, 4, 4, 1] - true.affine @ [s, 4, 4, 1]) < 0.15
    assert ("positions_rounded" in stack.flags) == (orientation == "oblique" or step not in {2.5, 3.0})


# ---- series that are not one volume ------------------------------------------------------------------------------------


def test_a_missing_slice_leaves_two_regular_parts(tmp_path):
    datasets = ct_series(12)
    del datasets[4]
    stacks, skips = split(datasets, tmp_path)
    assert summary(stacks, skips) == ([7, 4], ["irregular_spacing"])
    assert all(s.flags == ("part_of_series",) for s in stacks)
    np.testing.assert_allclose([np.linalg.norm(s.affine[:3, 0]) for s in stacks], 2.5)
    assert not skips[0].failure


def test_mixed_spacing_leaves_one_part_for_each(tmp_path):
    heights = [0, 3, 6, 9, 12, 17, 22, 27]
    stacks, skips = split(ct_series(positions=[(0, 0, h) for h in heights]), tmp_path)
    assert summary(stacks, skips) == ([5, 3], ["irregular_spacing"])
    np.testing.assert_allclose([np.linalg.norm(s.affine[:3, 0]) for s in stacks], [3, 5])


def test_two_slices_beside_a_gap_are_no_volume(tmp_path):
    heights = [0, 5, 12.5, 15, 17.5, 20]
    stacks, skips = split(ct_series(positions=[(0, 0, h) for h in heights]), tmp_path)
    assert summary(stacks, skips) == ([4], ["irregular_spacing", "single_slice"])


@settings(max_examples=60, deadline=None)
@given(st.sets(st.integers(0, 30), min_size=2), st.sampled_from([0.6, 1.0, 2.5]))
def test_every_stack_is_regular_and_no_slice_is_in_two(kept, step):
    template = _template()
    made = [
        replace(template, sop_instance_uid=f"1.2.{i}", image_position=(0.0, 0.0, i * step), slice_thickness_mm=step)
        for i in sorted(kept)
    ]
    stacks, skips = split_series(made)
    used = [i.sop_instance_uid for s in stacks for i in s.instances]
    assert len(used) == len(set(used))
    for stack in stacks:
        gaps = np.diff([i.image_position[2] for i in stack.instances])
        np.testing.assert_allclose(gaps, np.linalg.norm(stack.affine[:3, 0]), atol=1e-6)
        assert len(stack.instances) >= 2
    if len(used) < len(made):
        lost = {u for s in skips for u in s.private["sop_instance_uids"].split()}
        assert {i.sop_instance_uid for i in made} <= lost | set(used)
    longest = max((len(s.instances) for s in stacks), default=0)
    run = best = 1
    for i in range(1, 31):
        run = run + 1 if i in kept and i - 1 in kept else 1
        best = max(best, run)
    assert best < 3 or longest >= best


_TEMPLATE = []


def _template():
    if not _TEMPLATE:
        import tempfile
        from pathlib import Path

        with tempfile.TemporaryDirectory() as folder:
            _TEMPLATE.extend(instances(ct_series(1, shape=(8, 8)), Path(folder)))
    return _TEMPLATE[0]


def test_a_localizer_in_the_series_is_left_out(tmp_path):
    datasets = ct_series(4)
    scout = localizer(shape=(64, 64))
    scout.SeriesInstanceUID = datasets[0].SeriesInstanceUID
    assert summary(*split([*datasets, scout], tmp_path)) == ([4], ["localizer"])


@pytest.mark.parametrize(
    "odd",
    [
        {"shape": (32, 64)},
        {"spacing": (0.8, 0.71)},
        {"orientation": (np.cos(0.01), np.sin(0.01), 0, -np.sin(0.01), np.cos(0.01), 0)},
        {"frame_of_reference_uid": "1.2.3"},
    ],
)
def test_an_odd_slice_is_no_part_of_the_stack(tmp_path, odd):
    datasets = ct_series(6)
    (strange,) = ct_series(positions=[datasets[-1].ImagePositionPatient], number=5, **odd)
    strange.SeriesInstanceUID = datasets[0].SeriesInstanceUID
    assert summary(*split([*datasets[:-1], strange], tmp_path)) == ([5], ["single_slice"])


@pytest.mark.parametrize(
    "key", ["AcquisitionNumber", "TemporalPositionIdentifier", "AcquisitionTime", "ContentTime", "ConvolutionKernel"]
)
def test_two_phases_in_one_series_are_told_apart(tmp_path, key):
    first, second = ct_series(5), ct_series(5, voxels=np.full((5, 64, 64), 77.0))
    for i, ds in enumerate(second):
        ds.SOPInstanceUID = ds.file_meta.MediaStorageSOPInstanceUID = uid("second", i)
    values = {
        "ConvolutionKernel": ("B30", "B70"),
        "AcquisitionNumber": (1, 2),
        "TemporalPositionIdentifier": (1, 2),
    }.get(key, ("100000", "100100"))
    for datasets, value in zip((first, second), values, strict=True):
        for ds in datasets:
            setattr(ds, key, value)
    stacks, skips = split([*first, *second], tmp_path)
    assert summary(stacks, skips) == ([5, 5], [])
    volumes = [load_stack(s) for s in stacks]
    assert sorted(bool((v.voxels == 77).all()) for v in volumes) == [False, True]
    assert all(s.flags[0].startswith("split_by_") for s in stacks)


def test_interleaved_acquisitions_are_not_one_fine_stack(tmp_path):
    first, second = ct_series(5), ct_series(5, acquisition_number=2, origin=(-22, -25, 41.25))
    stacks, _ = split([*first, *second], tmp_path)
    assert [len(s.instances) for s in stacks] == [5, 5]
    assert {round(float(np.linalg.norm(s.affine[:3, 0])), 6) for s in stacks} == {2.5}


def test_consecutive_acquisitions_stay_one_stack(tmp_path):
    datasets = ct_series(8)
    for i, ds in enumerate(datasets):
        ds.AcquisitionNumber = 1 + i // 2
    assert summary(*split(datasets, tmp_path)) == ([8], [])


def _half_a_step_on(change) -> list[pydicom.Dataset]:
    """Two phases of 10 slices every 5 mm, the second 2.5 mm on and of 77 HU; ``change(ds, phase, i)`` sets them apart."""
    made = []
    for phase, value in enumerate((40.0, 77.0)):
        positions = [(-22, -25, 5 * i + 2.5 * phase) for i in range(10)]
        images = ct_series(positions=positions, voxels=np.full((10, 64, 64), value))
        for i, ds in enumerate(images):
            change(ds, phase, i)
        made += images
    return made


def _timed(seconds):
    def change(ds, phase, i):
        minutes, rest = divmod(15 * 60 + seconds(phase, i), 60)
        ds.AcquisitionTime = ds.ContentTime = f"10{minutes:02.0f}{rest:09.6f}"

    return change


INTERLEAVED = {
    "one time a phase": _timed(lambda phase, _: 40 * phase),
    "one time a slice": _timed(lambda phase, i: 40 * phase + 0.4 * i),
    "one time a slice, scanned back": _timed(lambda phase, i: 40 * phase + 0.4 * (9 - i if phase else i)),
    "two slices a rotation": _timed(lambda phase, i: 40 * phase + 3 * (i // 2)),
    "contrast": lambda ds, phase, _: phase and setattr(ds, "ContrastBolusAgent", "given"),
    "image type": lambda ds, phase, _: setattr(ds, "ImageType", ["ORIGINAL", "PRIMARY", "AXIAL", f"E{phase}"]),
    "content time": lambda ds, phase, _: setattr(ds, "ContentTime", f"10150{4 * phase}"),
}


@pytest.mark.parametrize("name", INTERLEAVED)
def test_phases_half_a_step_apart_are_not_one_fine_stack(tmp_path, name):
    stacks, skips = split(_half_a_step_on(INTERLEAVED[name]), tmp_path)
    assert summary(stacks, skips) == ([10, 10], [])
    assert sorted(set(np.unique(load_stack(s).voxels).tolist()) for s in stacks) in ([{40}, {77}], [{77}, {40}])
    assert {round(float(np.linalg.norm(s.affine[:3, 0])), 6) for s in stacks} == {5.0}


def test_slices_of_passes_that_nothing_tells_apart_are_refused(tmp_path):
    times = np.random.default_rng(0).permutation(20) * 7
    images = _half_a_step_on(_timed(lambda phase, i: int(times[10 * phase + i])))
    assert summary(*split(images, tmp_path)) == ([], ["interleaved_passes"])


@pytest.mark.parametrize(
    "at",
    [
        lambda i: 0.4 * i,
        lambda i: 60 - 3 * i,  # slice by slice, from the top
        lambda i: 4 * (i // 2),  # step and shoot: pairs share a time
        lambda i: 20 * (i // 8),  # slabs, a breath between them
        lambda i: 0.4 * i + (-1) ** i,  # gated: now this beat, now that
        lambda i: 45 if i == 9 else 0.4 * i,  # one slice taken again
    ],
)
def test_the_times_of_one_pass_leave_one_stack(tmp_path, at):
    images = ct_series(20)
    for i, ds in enumerate(images):
        _timed(lambda _, i: at(i))(ds, 0, i)
        ds.ContentTime = f"1200{17 * i % 20:02d}"  # reconstructed in any order
    assert summary(*split(images, tmp_path)) == ([20], [])


def test_one_pass_over_midnight_is_one_stack(tmp_path):
    images = ct_series(8)
    for i, ds in enumerate(images):
        ds.AcquisitionTime = f"2359{44 + 4 * i:02d}" if i < 4 else f"0000{4 * (i - 4):02d}"
    assert summary(*split(images, tmp_path)) == ([8], [])


def test_two_acquisitions_with_two_kernels_are_four_stacks(tmp_path):
    images = []
    for number in (1, 2):
        for kernel, value in (("B30", 40.0), ("B60", 41.0)):
            voxels = np.full((5, 64, 64), value + 10 * number)
            images += ct_series(5, acquisition_number=number, kernel=kernel, voxels=voxels)
    for i, ds in enumerate(images):
        ds.SOPInstanceUID = ds.file_meta.MediaStorageSOPInstanceUID = uid("of four", i)
    stacks, skips = split(images, tmp_path)
    assert summary(stacks, skips) == ([5, 5, 5, 5], [])
    assert sorted(np.unique(load_stack(s).voxels).tolist() for s in stacks) == [[50], [51], [60], [61]]
    assert {s.flags for s in stacks} == {("split_by_acquisition_number", "split_by_convolution_kernel")}


def test_spectral_images_that_differ_in_image_type_alone_are_told_apart(tmp_path):
    images = []
    for kind, value in (("MONO", 40.0), ("VNC", 30.0)):
        images += ct_series(
            5, image_type=("DERIVED", "PRIMARY", "AXIAL", kind), voxels=np.full((5, 64, 64), value)
        )  # fmt: skip
    for i, ds in enumerate(images):
        ds.SOPInstanceUID = ds.file_meta.MediaStorageSOPInstanceUID = uid("spectral", i)
    stacks, skips = split(images, tmp_path)
    assert summary(stacks, skips) == ([5, 5], [])
    assert sorted(np.unique(load_stack(s).voxels).tolist() for s in stacks) == [[30], [40]]


@pytest.mark.parametrize("step", [1.25, 1.5, 2.4])
def test_positions_written_in_whole_millimetres_are_no_shorter_steps(tmp_path, step):
    images = ct_series(24, step_mm=step, positions=[(0, 0, np.round(step * i)) for i in range(24)], shape=(8, 8))
    stacks, skips = split(images, tmp_path)
    assert stacks == []
    assert {s.reason for s in skips} >= {"rounded_positions"}


def test_missing_slices_at_whole_millimetres_are_missing_slices(tmp_path):
    heights = [h for h in range(24) if h not in {6, 13}]
    images = ct_series(step_mm=1.0, positions=[(0, 0, h) for h in heights], shape=(8, 8))
    assert summary(*split(images, tmp_path)) == ([10, 6, 6], ["irregular_spacing"])


def test_repeated_positions_that_nothing_explains_are_refused(tmp_path):
    first, second = ct_series(5), ct_series(5, voxels=np.full((5, 64, 64), 77.0))
    for i, ds in enumerate(second):
        ds.SOPInstanceUID = ds.file_meta.MediaStorageSOPInstanceUID = uid("second", i)
    assert summary(*split([*first, *second], tmp_path)) == ([], ["duplicate_positions"])


def test_a_series_sent_twice_under_new_uids_is_used_once(tmp_path):
    first, second = ct_series(5), ct_series(5)
    for i, ds in enumerate(second):
        ds.SOPInstanceUID = ds.file_meta.MediaStorageSOPInstanceUID = uid("second", i)
    (stack,), (skip,) = split([*first, *second], tmp_path)
    assert (len(stack.instances), skip.reason, skip.failure) == (5, "duplicate_slice", False)
    assert stack.flags == ()
    assert len(skip.private["sop_instance_uids"].split()) == 5


@pytest.mark.parametrize("degrees", [1, 5, 20])
def test_gantry_tilt_is_refused(tmp_path, degrees):
    step = np.array([0, np.sin(np.radians(degrees)), np.cos(np.radians(degrees))]) * 3
    positions = [np.array([0, 0, 0]) + i * step for i in range(10)]
    assert summary(*split(ct_series(positions=positions), tmp_path)) == ([], ["gantry_tilt"])


def test_a_slice_moved_sideways_is_not_papered_over(tmp_path):
    datasets = ct_series(9)
    datasets[4].ImagePositionPatient = [-20.0, -25.0, datasets[4].ImagePositionPatient[2]]
    stacks, _ = split(datasets, tmp_path)
    assert stacks == []


def test_one_slice_is_no_volume(tmp_path):
    stacks, (skip,) = split(ct_series(1), tmp_path)
    assert (stacks, skip.reason, skip.failure, skip.stage) == ([], "single_slice", False, "volumes")


@pytest.mark.parametrize(
    ("keyword", "reason"),
    [
        ("ImagePositionPatient", "no_geometry"),
        ("ImageOrientationPatient", "no_geometry"),
        ("PixelSpacing", "no_geometry"),
        ("FrameOfReferenceUID", "no_geometry"),
        ("RescaleSlope", "no_rescale"),
        ("RescaleIntercept", "no_rescale"),
    ],
)
def test_what_lacks_geometry_or_rescale_is_a_failure(tmp_path, keyword, reason):
    datasets = ct_series(4)
    for ds in datasets:
        delattr(ds, keyword)
    stacks, (skip,) = split(datasets, tmp_path)
    assert (stacks, skip.reason, skip.failure) == ([], reason, True)


def test_maps_that_are_not_hounsfield_are_refused(tmp_path):
    datasets = ct_series(4)
    for ds in datasets:
        ds.RescaleType = "Z_EFF"
    assert summary(*split(datasets, tmp_path)) == ([], ["not_hounsfield"])


def test_what_is_no_ct_image_is_refused_by_name(tmp_path):
    made = instances(ct_series(2), tmp_path)
    whole = replace(made[0], sop_class_uid="1.2.840.10008.5.1.4.1.1.2.1", number_of_frames=20)
    screen = replace(made[1], sop_class_uid="1.2.840.10008.5.1.4.1.1.7")
    assert summary(*split_series([whole, screen])) == ([], ["frames_without_geometry", "not_ct_image"])


# ---- pixels ------------------------------------------------------------------------------------------------------------


def hu(shape=(3, 64, 64), low=-1000, high=2000):
    return np.random.default_rng(1).integers(low, high, shape).astype(float)


@pytest.mark.parametrize(
    "options",
    [
        {},
        {"signed": True, "intercept": 0.0},
        {"signed": True, "intercept": -8192.0},
        {"bits_stored": 12, "intercept": -1024.0},
        {"signed": True, "bits_stored": 13, "intercept": 0.0},
        {"slope": 2.0, "intercept": -1000.0},
    ],
)
def test_hounsfield_units_are_exact(tmp_path, options):
    truth = hu() if options.get("slope") is None else np.round(hu() / 2) * 2
    write(ct_series(3, voxels=truth, **options), tmp_path)
    volume = load_volume(tmp_path)
    assert volume.voxels.dtype == np.int16
    np.testing.assert_array_equal(volume.voxels, truth)


def test_slope_is_that_of_each_slice(tmp_path):
    datasets = ct_series(4, voxels=np.full((4, 64, 64), 56.0), slope=[1, 2, 4, 8])
    write(datasets, tmp_path)
    assert (load_volume(tmp_path).voxels == 56).all()
    assert len({int(ds.pixel_array[0, 0]) for ds in datasets}) == 4


def test_fractions_of_a_unit_are_rounded_and_said(tmp_path):
    write(ct_series(3, voxels=hu(), slope=0.7, intercept=-1000.3), tmp_path)
    (stack,), _ = split_series([read_header(p).instance for p in tmp_path.iterdir()])
    assert stack.flags == ("rounded_to_integer_hu",)
    exact = np.stack([pydicom.dcmread(i.path).pixel_array * 0.7 - 1000.3 for i in stack.instances])
    assert np.abs(load_stack(stack).voxels - exact).max() <= 0.5 + 1e-9


@pytest.mark.parametrize("signed", [True, False])
def test_padding_becomes_air(tmp_path, signed):
    padding = -2000 if signed else 63536
    datasets = ct_series(3, voxels=np.full((3, 64, 64), 40.0), signed=signed, intercept=0.0, padding=padding)
    for ds in datasets:
        stored = ds.pixel_array.copy()
        stored[:5] = padding
        set_pixels(ds, stored, signed=signed)
    write(datasets, tmp_path)
    voxels = load_volume(tmp_path).voxels
    assert (voxels[:, :5] == -1024).all()
    assert (voxels[:, 5:] == 40).all()


def test_a_range_of_padding_becomes_air_and_its_neighbours_stay(tmp_path):
    datasets = ct_series(3, voxels=np.full((3, 64, 64), 40.0), padding=3000, padding_limit=3010)
    for ds in datasets:
        stored = ds.pixel_array.copy()
        stored[0, :4] = [2999, 3000, 3010, 3011]
        set_pixels(ds, stored)
    write(datasets, tmp_path)
    assert load_volume(tmp_path).voxels[1, 0, :4].tolist() == [1975, -1024, -1024, 1987]


def test_padding_outside_bits_stored_is_found_before_the_mask(tmp_path):
    datasets = ct_series(3, voxels=np.full((3, 64, 64), 40.0), bits_stored=12, padding=63536)
    for ds in datasets:
        stored = ds.pixel_array.copy()
        stored[0, 0], stored[0, 1] = 63536, 1064 | 0x4000  # an overlay in the high bits
        ds.PixelData = stored.tobytes()
    write(datasets, tmp_path)
    assert load_volume(tmp_path).voxels[2, 0, :3].tolist() == [-1024, 40, 40]


def test_what_does_not_fit_into_int16_is_refused(tmp_path):
    write(ct_series(3, voxels=np.full((3, 64, 64), 40000.0)), tmp_path)
    with pytest.raises(GeometryError, match="int16"):
        load_volume(tmp_path)


def test_monochrome1_is_refused(tmp_path):
    datasets = ct_series(3)
    datasets[1].PhotometricInterpretation = "MONOCHROME1"
    write(datasets, tmp_path)
    with pytest.raises(GeometryError, match="MONOCHROME1"):
        load_volume(tmp_path)


@pytest.mark.parametrize(
    "syntax",
    [RLELossless, JPEGLSLossless, JPEG2000Lossless, ImplicitVRLittleEndian, ExplicitVRBigEndian],
)
@pytest.mark.parametrize("signed", [True, False])
def test_every_syntax_gives_the_same_volume(tmp_path, syntax, signed):
    truth = hu(shape=(2, 64, 64))
    datasets = ct_series(2, voxels=truth, signed=signed, intercept=0.0 if signed else -1024.0)
    paths = []
    for i, ds in enumerate(datasets):
        path = tmp_path / str(i)
        if not syntax.is_compressed:
            ds.file_meta.TransferSyntaxUID = syntax
            if not syntax.is_little_endian:
                ds.PixelData = ds.pixel_array.byteswap().tobytes()
            pydicom.dcmwrite(
                path,
                ds,
                implicit_vr=syntax.is_implicit_VR,
                little_endian=syntax.is_little_endian,
                enforce_file_format=True,
            )
        else:
            ds.compress(syntax, generate_instance_uid=False)
            ds.save_as(path)
        paths.append(path)
    np.testing.assert_array_equal(load_volume(paths).voxels, truth)


def test_a_missing_codec_names_the_extra(tmp_path, monkeypatch):
    datasets = ct_series(2)
    for ds in datasets:
        ds.compress(JPEG2000Lossless, generate_instance_uid=False)
    write(datasets, tmp_path)
    monkeypatch.setattr(pydicom.pixels.decoders.base.Decoder, "available_plugins", property(lambda _: ()))
    with pytest.raises(GeometryError, match="codecs"):
        load_volume(tmp_path)


def test_a_file_that_changed_since_it_was_indexed_is_refused(tmp_path):
    (stack,), _ = split(ct_series(3), tmp_path)
    other = ct_series(1, number=8)[0]
    other.save_as(stack.instances[1].path)
    with pytest.raises(GeometryError, match="index the export again"):
        load_stack(stack)


def test_a_damaged_slice_is_one_error(tmp_path):
    (stack,), _ = split(ct_series(3), tmp_path)
    path = stack.instances[1].path
    path.write_bytes(path.read_bytes()[:-2000])
    with pytest.raises(GeometryError, match="cannot be read"):
        load_stack(stack)
    path.unlink()
    with pytest.raises(GeometryError, match="cannot be read") as caught:
        load_stack(stack)
    assert path.name not in str(caught.value)


def test_load_volume_wants_exactly_one_stack(tmp_path):
    made = instances(ct_series(4), tmp_path)
    assert load_volume(made).voxels.shape == (4, 64, 64)
    (stack,), _ = split_series(made)
    np.testing.assert_array_equal(load_volume(stack).voxels, load_volume(tmp_path).voxels)
    with pytest.raises(GeometryError, match="single_slice"):
        load_volume([made[0].path])
    with pytest.raises(GeometryError, match="found 2"):
        load_volume([*made, *instances(ct_series(3, number=4), tmp_path / "b")])


def test_a_file_that_is_named_and_is_no_dicom_is_an_error(tmp_path):
    paths = write(ct_series(3), tmp_path / "series")
    notes = tmp_path / "series" / "notes.txt"
    notes.write_text("no image")
    assert len(load_volume(tmp_path / "series").voxels) == 3
    with pytest.raises(GeometryError, match="not DICOM"):
        load_volume([*paths, notes])
    with pytest.raises(GeometryError, match="not DICOM"):
        load_volume(notes)
