"""Multi-frame CT: each frame is a slice, with the geometry, values and timing that its functional groups give it."""

from __future__ import annotations

from copy import deepcopy
from pathlib import Path

import highdicom
import numpy as np
import pydicom
import pytest
from dicom import ct_series, uid
from highdicom.legacy import LegacyConvertedEnhancedCTImage
from pydicom.dataset import Dataset
from pydicom.encaps import encapsulate, encapsulate_extended, generate_frames
from pydicom.uid import EnhancedCTImageStorage, JPEG2000Lossless, JPEGLSLossless, RLELossless

from cohort_builder import index_export
from cohort_builder.ct.pixels import read_hounsfield
from cohort_builder.ct.series import load_stack, load_volume, split_series
from cohort_builder.pacs.headers import read_header
from segmentation.types import GeometryError, Volume

N = 8


def converted(n: int = N, **options) -> Dataset:
    """A Legacy Converted Enhanced CT by highdicom."""
    made = LegacyConvertedEnhancedCTImage(
        ct_series(n, shape=(40, 48), **options), uid("converted series"), 7, uid("converted"), 1
    )
    return deepcopy(made)  # highdicom shares elements with the images


def enhanced(n: int = N, **options) -> Dataset:
    """An Enhanced CT: as a scanner writes it, by hand on top of the converted one."""
    ds = converted(n, **options)
    ds.SOPClassUID = ds.file_meta.MediaStorageSOPClassUID = EnhancedCTImageStorage
    shared = ds.SharedFunctionalGroupsSequence[0]
    kernel = Dataset()
    kernel.ConvolutionKernel = "BONE"
    shared.CTReconstructionSequence = [kernel]
    del shared.UnassignedSharedConvertedAttributesSequence
    for item in ds.PerFrameFunctionalGroupsSequence:
        del item.UnassignedPerFrameConvertedAttributesSequence
    return ds


def per_frame(ds: Dataset, macro: str) -> list[Dataset]:
    """A macro of each frame, moved there if it is shared."""
    shared = ds.SharedFunctionalGroupsSequence[0]
    if macro in shared:
        for item in ds.PerFrameFunctionalGroupsSequence:
            setattr(item, macro, deepcopy(shared[macro].value))
        del shared[macro]
    return [item[macro].value[0] for item in ds.PerFrameFunctionalGroupsSequence]


def save(ds: Dataset, folder: Path) -> Path:
    folder.mkdir(parents=True, exist_ok=True)
    path = folder / "MF0001"
    ds.save_as(path, enforce_file_format=True)
    return path


def require_equal_to_highdicom(volume: Volume, path: Path) -> None:
    theirs = highdicom.imread(path).get_volume(dtype=np.float64)
    if float(theirs.affine[:3, 0] @ volume.affine[:3, 0]) < 0:  # its slices run along the negative normal
        theirs = theirs.flip_spatial(0)
    np.testing.assert_allclose(volume.affine, theirs.affine, atol=1e-5)
    np.testing.assert_array_equal(volume.voxels, np.rint(theirs.array))


@pytest.mark.parametrize("make", [converted, enhanced])
@pytest.mark.parametrize("orientation", [(1, 0, 0, 0, 1, 0), (0, 1, 0, 0, 0, -1)])
def test_a_multi_frame_ct_is_the_volume_that_highdicom_reads(tmp_path, make, orientation):
    path = save(make(orientation=orientation), tmp_path)
    volume = load_volume(path)
    require_equal_to_highdicom(volume, path)
    assert volume.sop_instance_uids == (pydicom.dcmread(path).SOPInstanceUID,) * N
    assert sorted(volume.frame_numbers) == list(range(1, N + 1))


def test_a_converted_series_is_that_of_its_single_images(tmp_path):
    single = ct_series(N, shape=(40, 48))
    for ds in single:
        ds.save_as(tmp_path / f"{ds.InstanceNumber}", enforce_file_format=True)
    expected = load_volume(tmp_path)
    volume = load_volume(save(converted(), tmp_path / "mf"))
    np.testing.assert_array_equal(volume.voxels, expected.voxels)
    np.testing.assert_allclose(volume.affine, expected.affine)
    assert expected.frame_numbers == (None,) * N


def test_each_frame_says_what_its_functional_groups_say(tmp_path):
    ds = enhanced()
    for i, macro in enumerate(per_frame(ds, "PixelValueTransformationSequence")):
        macro.RescaleSlope, macro.RescaleIntercept = 1 + i % 2, -1000 - i
    for i, macro in enumerate(per_frame(ds, "FrameContentSequence")):
        macro.TemporalPositionIndex, macro.StackID, macro.FrameAcquisitionNumber = 1 + i // 4, "A", 3
        macro.FrameAcquisitionDateTime = f"2024030510{i:02d}00.5"
    for i, macro in enumerate(per_frame(ds, "CTImageFrameTypeSequence")):
        macro.FrameType = ["ORIGINAL", "PRIMARY", "LOCALIZER" if i == 0 else "VOLUME", "NONE"]
    path = save(ds, tmp_path)
    frames = read_header(path).frames
    assert [f.frame_number for f in frames] == list(range(1, N + 1))
    assert [f.instance_number for f in frames] == list(range(1, N + 1))
    assert [f.rescale_slope for f in frames] == [1.0, 2.0] * 4
    assert [f.rescale_intercept for f in frames] == [-1000.0 - i for i in range(N)]
    assert [f.temporal_position for f in frames] == [1] * 4 + [2] * 4
    assert {(f.stack_id, f.acquisition_number, f.convolution_kernel) for f in frames} == {("A", 3, "BONE")}
    assert [f.acquisition_time for f in frames] == [f"10{i:02d}00.5" for i in range(N)]
    assert [f.image_type[2] for f in frames] == ["LOCALIZER"] + ["VOLUME"] * (N - 1)
    said = [item.PlanePositionSequence[0].ImagePositionPatient for item in ds.PerFrameFunctionalGroupsSequence]
    assert [list(f.image_position) for f in frames] == [list(map(float, position)) for position in said]
    (stack,), (skip,) = split_series(frames)
    assert (len(stack.instances), skip.reason) == (N - 1, "localizer")
    pixels = pydicom.dcmread(path).pixel_array.astype(int)
    volume = load_stack(stack)
    for i, frame in enumerate(stack.instances):
        truth = pixels[frame.frame_number - 1] * frame.rescale_slope + frame.rescale_intercept
        np.testing.assert_array_equal(volume.voxels[i], np.maximum(truth, -1024))


def test_the_number_of_the_image_that_was_converted_is_kept(tmp_path):
    frames = read_header(save(converted(), tmp_path)).frames
    assert [f.instance_number for f in frames] == list(range(N, 0, -1))  # highdicom sorts them the other way
    assert {(f.kvp, f.convolution_kernel) for f in frames} == {("120", "STANDARD")}


@pytest.mark.parametrize("key", ["TemporalPositionIndex", "StackID", "FrameAcquisitionNumber"])
def test_two_phases_of_one_object_are_two_stacks(tmp_path, key):
    """Both name one SOP Instance UID: a slice is a frame of it."""
    ds = enhanced(2 * N)
    positions = [item.PlanePositionSequence[0].ImagePositionPatient for item in ds.PerFrameFunctionalGroupsSequence]
    for i, macro in enumerate(per_frame(ds, "PlanePositionSequence")):
        macro.ImagePositionPatient = positions[i % N]
    for i, macro in enumerate(per_frame(ds, "FrameContentSequence")):
        setattr(macro, key, str(1 + i // N) if key == "StackID" else 1 + i // N)
    path = save(ds, tmp_path)
    stacks, skips = split_series(read_header(path).frames)
    assert ([len(s.instances) for s in stacks], skips) == ([N, N], [])
    first, second = ({f.frame_number for f in s.instances} for s in stacks)
    assert {frozenset(first), frozenset(second)} == {frozenset(range(1, N + 1)), frozenset(range(N + 1, 2 * N + 1))}
    pixels = pydicom.dcmread(path).pixel_array.astype(int) - 1024
    for stack in stacks:
        volume = load_stack(stack)
        for i, number in enumerate(volume.frame_numbers):
            np.testing.assert_array_equal(volume.voxels[i], pixels[number - 1])


def test_frames_come_out_of_the_index_one_by_one(tmp_path):
    path = save(enhanced(), tmp_path / "ct")
    ds = pydicom.dcmread(path)
    index = index_export(tmp_path / "ct")
    (stack,), skips = split_series(index.instances(ds.SeriesInstanceUID))
    assert skips == []
    require_equal_to_highdicom(load_stack(stack), path)
    third = index.instance(ds.SOPInstanceUID, 3)
    np.testing.assert_array_equal(read_hounsfield(third), ds.pixel_array[2].astype(int) - 1024)


@pytest.mark.parametrize("table", ["none", "basic", "extended", "fragments"])
@pytest.mark.parametrize("syntax", [RLELossless, JPEGLSLossless, JPEG2000Lossless], ids=lambda s: s.name[:9])
def test_compressed_frames_are_found_by_every_kind_of_table(tmp_path, syntax, table):
    ds = enhanced()
    expected = load_volume(save(ds, tmp_path / "native"))
    ds.compress(syntax, generate_instance_uid=False)
    frames = list(generate_frames(ds.PixelData, number_of_frames=N))
    if table == "extended":
        ds.PixelData, ds.ExtendedOffsetTable, ds.ExtendedOffsetTableLengths = encapsulate_extended(frames)
    else:
        several = 3 if table == "fragments" else 1
        ds.PixelData = encapsulate(frames, fragments_per_frame=several, has_bot=table != "none")
    path = save(ds, tmp_path / "compressed")
    volume = load_volume(path)
    np.testing.assert_array_equal(volume.voxels, expected.voxels)
    require_equal_to_highdicom(volume, path)


def test_fragments_without_a_table_are_refused(tmp_path):
    ds = enhanced()
    ds.compress(JPEGLSLossless, generate_instance_uid=False)
    frames = list(generate_frames(ds.PixelData, number_of_frames=N))
    ds.PixelData = encapsulate(frames, fragments_per_frame=2, has_bot=False)
    with pytest.raises(GeometryError, match="offset table"):
        load_volume(save(ds, tmp_path))


def test_items_that_are_not_as_many_as_the_frames_are_refused(tmp_path):
    ds = enhanced()
    ds.PerFrameFunctionalGroupsSequence.pop()
    header = read_header(save(ds, tmp_path))
    assert header.frames == ()
    stacks, (skip,) = split_series([header.instance])
    assert (stacks, skip.reason, skip.failure) == ([], "frames_without_geometry", True)


def test_a_frame_without_position_is_left_out(tmp_path):
    ds = enhanced()
    del ds.PerFrameFunctionalGroupsSequence[2].PlanePositionSequence
    stacks, skips = split_series(read_header(save(ds, tmp_path)).frames)
    assert [len(s.instances) for s in stacks] == [5, 2]
    assert {s.reason for s in skips} == {"no_geometry", "irregular_spacing"}


def test_a_frame_that_is_not_there_is_refused(tmp_path):
    from dataclasses import replace

    frame = read_header(save(enhanced(), tmp_path)).frames[0]
    with pytest.raises(GeometryError, match="frame"):
        read_hounsfield(replace(frame, frame_number=N + 1))
    with pytest.raises(GeometryError, match="frame"):
        read_hounsfield(replace(frame, frame_number=None))
