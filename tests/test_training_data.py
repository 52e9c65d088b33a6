"""Data for training: recipes and other sources, manifests, and the cache of lesions."""

from __future__ import annotations

import itertools
import json
import pickle
from pathlib import Path

import nibabel as nib
import numpy as np
import pydicom
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from records import finding, volume
from training_layouts import (
    AFFINE,
    LAYOUTS,
    Halting,
    ball,
    image,
    kits23,
    label_with,
    lits17,
    nifti_pairs,
    rectangle,
    save_nifti,
    save_pair,
    splits_of,
    write_ct,
    write_rtstruct,
    write_seg,
)

from cohort_builder.ct.series import load_volume
from cohort_builder.errors import ConfigError
from cohort_builder.pacs.headers import read_header
from cohort_builder.training import open_manifest, open_sources, readers
from cohort_builder.training.readers import ALL_READERS
from exports import write_dataset
from segmentation.geometry import apply_affine, lps_to_ras
from segmentation.training.cache import Cache, CacheError, CropPolicy, Sample, build_cache, fill_cache, samples_of
from segmentation.training.labels import lesions_in
from segmentation.training.manifest import Entry, Manifest, ManifestError, join
from segmentation.training.nifti import read_volume
from segmentation.training.recipes import RECIPES, manifest_of
from segmentation.training.samples import HU_LIMIT, SPLITS
from segmentation.training.sources import ManifestSource
from segmentation.training.splits import exact_splits, proportional_splits

SIGNED_PERMUTATIONS = [
    np.array([[sign * (column == to) for column in range(3)] for sign, to in zip(signs, order, strict=True)], float)
    for order in itertools.permutations(range(3))
    for signs in itertools.product((1, -1), repeat=3)
]


# ---- NIfTI --------------------------------------------------------------------------------------------------------


@settings(max_examples=25, deadline=None)
@given(st.sampled_from(SIGNED_PERMUTATIONS), st.floats(-0.15, 0.15), st.integers(0, 2**32 - 1))
def test_nifti_of_any_orientation_keeps_every_voxel_in_its_place(
    tmp_path_factory: pytest.TempPathFactory, axes: np.ndarray, turn: float, seed: int
) -> None:
    rng = np.random.default_rng(seed)
    shape = tuple(int(n) for n in rng.integers(2, 6, 3))
    data = rng.permutation(np.prod(shape)).reshape(shape).astype(np.int16)
    rotation = np.array([[np.cos(turn), -np.sin(turn), 0], [np.sin(turn), np.cos(turn), 0], [0, 0, 1]])
    affine = np.eye(4)
    affine[:3, :3] = rotation @ axes @ np.diag(rng.uniform(0.5, 3, 3))
    affine[:3, 3] = rng.uniform(-100, 100, 3)
    read = read_volume(save_nifti(tmp_path_factory.mktemp("nifti") / "a.nii", data, affine))
    for index in itertools.product(*map(range, shape)):
        lps = lps_to_ras(nib.affines.apply_affine(affine, index))
        found = np.rint(apply_affine(np.linalg.inv(read.affine), lps)).astype(int)
        assert read.voxels[tuple(found)] == data[index]
    along_slice, along_row, along_column = (read.affine[axis, i] for i, axis in enumerate((2, 1, 0)))
    assert min(along_slice, along_row, along_column) > 0


def test_fractions_and_slopes_are_read_as_hounsfield_units(tmp_path: Path) -> None:
    scaled = nib.Nifti1Image(image(), AFFINE)
    scaled.header.set_slope_inter(0.5, -10)
    nib.save(scaled, tmp_path / "scaled.nii")
    expected = np.asarray(nib.load(tmp_path / "scaled.nii").dataobj)
    assert np.abs(read_volume(tmp_path / "scaled.nii").voxels.transpose(2, 1, 0) - expected).max() <= 0.5
    save_nifti(tmp_path / "float.nii", np.full((3, 3, 3), 12.6, np.float32))
    assert (read_volume(tmp_path / "float.nii").voxels == 13).all()
    save_nifti(tmp_path / "nan.nii", np.full((3, 3, 3), np.nan, np.float32))
    with pytest.raises(ManifestError, match="no numbers"):
        read_volume(tmp_path / "nan.nii")


# ---- lesions ------------------------------------------------------------------------------------------------------


def test_lesions_are_components_of_26_neighbours_of_a_least_volume() -> None:
    label = np.zeros((6, 6, 6), np.uint8)
    label[0, 0, 0] = label[1, 1, 1] = 1  # a corner in common
    label[4, 4, 4] = 1
    assert lesions_in(label, (1, 1, 1), least_mm3=0).max() == 2
    assert np.argwhere(lesions_in(label, (1, 1, 1), least_mm3=2)).tolist() == [[0, 0, 0], [1, 1, 1]]
    assert not lesions_in(label, (1, 1, 1), least_mm3=3).any()


def test_values_are_lesions_of_their_own_where_asked() -> None:
    label = np.zeros((2, 4, 4), np.uint8)
    label[0, :2], label[0, 2:], label[1, 0, 0] = 3, 7, 9  # touching; the last one small
    lesions = lesions_in(label, (1, 1, 1), pieces="values", least_mm3=2)
    assert [np.unique(label[lesions == n]).tolist() for n in range(3)] == [[0, 9], [3], [7]]
    assert lesions_in(label, (1, 1, 1), pieces="whole", values=(3, 7), least_mm3=0).max() == 1


def test_a_label_of_three_classes_must_say_which_is_lesion() -> None:
    label = np.array([[[0, 1, 2, 3]]])
    with pytest.raises(ManifestError, match="values 1, 2, 3: say which"):
        lesions_in(label, (9, 9, 9))
    assert (lesions_in(label, (9, 9, 9), values=(2,)) > 0).ravel().tolist() == [False, False, True, False]


# ---- recipes ------------------------------------------------------------------------------------------------------


def enough_for(name: str) -> list[int]:
    """Lesions of patients, one to five each, a tenth more than Table 1 has."""
    counts: list[int] = []
    while sum(counts) < 1.1 * sum(RECIPES[name].sizes):
        counts.append(1 + len(counts) % 5)
    return counts


@pytest.mark.parametrize("name", RECIPES)
def test_a_recipe_makes_the_splits_of_table_1_by_patient(name: str, tmp_path: Path) -> None:
    LAYOUTS[name](tmp_path, enough_for(name))
    manifest = manifest_of(name, tmp_path, seed=3)
    got = splits_of(manifest)
    assert tuple(got[split] for split in SPLITS) == RECIPES[name].sizes
    patients = {split: {e.patient_id for e in manifest.entries if e.split == split} for split in SPLITS}
    assert all(not patients[a] & patients[b] for a, b in itertools.combinations(SPLITS, 2))
    assert all(entry.files.keys() == {entry.image, entry.label} for entry in manifest.entries)


def test_splits_are_of_the_seed(tmp_path: Path) -> None:
    LAYOUTS["msd_lung"](tmp_path, enough_for("msd_lung"))
    first, again, other = (manifest_of("msd_lung", tmp_path, seed=seed, workers=2).digest for seed in (3, 3, 4))
    assert first == again != other


def test_table_1_adds_up() -> None:
    assert [sum(recipe.sizes[i] for recipe in RECIPES.values()) for i in range(3)] == [1662, 384, 188]


def test_deeplesion3d_tests_other_categories_on_patients_that_training_has_not_seen(tmp_path: Path) -> None:
    LAYOUTS["deeplesion3d"](tmp_path, enough_for("deeplesion3d"))
    entries = manifest_of("deeplesion3d", tmp_path).entries
    external = [entry for entry in entries if entry.dataset == "deeplesion3d-external"]
    assert external
    assert {(entry.category, entry.split) for entry in external} == {("Kidney", "test")}
    seen = {entry.patient_id for entry in entries if entry.split != "test"}
    assert not seen & {entry.patient_id for entry in external}


def test_only_the_lesions_value_counts(tmp_path: Path) -> None:
    kits23(tmp_path, [3])
    [entry] = manifest_of("kits23", tmp_path, sizes="proportional").entries
    assert entry.n_lesions == 3
    samples = list(samples_of(Manifest(tmp_path, (entry,))))
    segmentation = nib.load(tmp_path / entry.label).get_fdata()
    assert sum(sample.truth.sum() for sample in samples) == (segmentation == 2).sum()


def test_an_incomplete_download_is_an_error_or_split_in_proportion(
    tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    LAYOUTS["msd_lung"](tmp_path, [1] * 20)
    with pytest.raises(ManifestError, match=r"20 lesions in 20 patients, Table 1 has 63.*proportional"):
        manifest_of("msd_lung", tmp_path)
    manifest = manifest_of("msd_lung", tmp_path, sizes="proportional")
    assert splits_of(manifest) == {"train": 12, "val": 5, "test": 3}  # of 37 : 16 : 10
    assert "12/5/3 lesions in train/val/test, Table 1 has 37/16/10" in caplog.text


def test_lits_without_voxel_sizes_and_without_lesions_is_left_out(
    tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    lits17(tmp_path, [1, 1, 0])
    folder = next(tmp_path.rglob("volume-1.nii")).parent
    save_pair(folder / "volume-1.nii", folder / "segmentation-1.nii", label_with(1, 2), np.eye(4))
    manifest = manifest_of("lits17", tmp_path, sizes="proportional")
    assert [entry.case_id for entry in manifest.entries] == ["volume-0"]
    assert "1 cases without voxel sizes" in caplog.text
    assert "1 cases without a lesion" in caplog.text


def test_wrong_folders_say_what_is_wrong(tmp_path: Path) -> None:
    with pytest.raises(ManifestError, match="holds none of its cases"):
        manifest_of("kits23", tmp_path)
    with pytest.raises(ManifestError, match="there is no folder"):
        manifest_of("kits23", tmp_path / "none")
    with pytest.raises(ManifestError, match="no recipe 'kits19'; there are kits23"):
        manifest_of("kits19", tmp_path)
    (tmp_path / "labels").mkdir()
    (tmp_path / "labels/000010_02_02_100_lesion_01.nii.gz.zip").write_bytes(b"")
    with pytest.raises(ManifestError, match="still zipped"):
        manifest_of("deeplesion3d", tmp_path)
    LAYOUTS["nih_ln_abd"](tmp_path, [1])
    next(tmp_path.rglob("*.dcm")).unlink()
    with pytest.raises(ManifestError, match="no DICOM files below a folder ABD_LYMPH_001"):
        manifest_of("nih_ln_abd", tmp_path)


COUNTS = st.dictionaries(st.text("ab", min_size=1, max_size=5), st.integers(1, 9), min_size=1)


@given(COUNTS, st.tuples(*[st.integers(0, 20)] * 3), st.integers(0, 99))
def test_exact_splits_never_hold_more_than_asked(counts: dict[str, int], sizes: tuple[int, ...], seed: int) -> None:
    wanted = dict(zip(SPLITS, sizes, strict=True))
    splits = exact_splits(counts, wanted, np.random.default_rng(seed))
    for split in SPLITS:
        room = wanted[split] - sum(counts[p] for p, s in splits.items() if s == split)
        assert room >= 0
        left = [n for p, n in counts.items() if p not in splits]
        assert not any(n <= room for n in left), "a patient that fits was left over"


@given(COUNTS, st.integers(0, 99))
def test_proportional_splits_place_every_patient(counts: dict[str, int], seed: int) -> None:
    sizes = {"train": 8, "val": 1, "test": 1}
    splits = proportional_splits(counts, sizes, np.random.default_rng(seed))
    assert splits.keys() == counts.keys()
    total = sum(counts.values())
    for split, size in sizes.items():
        got = sum(counts[p] for p, s in splits.items() if s == split)
        assert got <= size / 10 * total + max(counts.values())


# ---- manifests ----------------------------------------------------------------------------------------------------


def test_a_manifest_is_read_back_and_moves_with_its_data(tmp_path: Path) -> None:
    manifest = open_manifest(nifti_pairs(tmp_path / "a", [1, 2]))
    manifest.write(tmp_path / "manifest.jsonl")
    assert Manifest.read(tmp_path / "manifest.jsonl") == manifest
    (tmp_path / "a").rename(tmp_path / "b")
    moved = Manifest.read(tmp_path / "manifest.jsonl", root=tmp_path / "b")
    moved.check()
    assert moved.digest == manifest.digest


def test_changed_files_are_named_before_training(tmp_path: Path) -> None:
    manifest = open_manifest(nifti_pairs(tmp_path, [1, 1, 1]))
    save_nifti(tmp_path / "labels/p0.nii.gz", label_with(2))
    (tmp_path / "images/p2_0000.nii.gz").unlink()
    with pytest.raises(
        ManifestError, match=r"2 of 6 files changed.*p0.nii.gz is not what it was.*p2_0000.nii.gz is missing"
    ):
        manifest.check()


@pytest.mark.parametrize(
    "damage", [lambda s: s.replace("train", "test", 1), lambda s: s[:-20], lambda _: "", lambda _: "[]\n"]
)
def test_a_manifest_that_was_edited_is_refused(damage, tmp_path: Path) -> None:
    open_manifest(nifti_pairs(tmp_path, [1])).write(tmp_path / "m.jsonl")
    (tmp_path / "m.jsonl").write_text(damage((tmp_path / "m.jsonl").read_text()))
    with pytest.raises(ManifestError, match=r"m\.jsonl"):
        Manifest.read(tmp_path / "m.jsonl")


@pytest.mark.parametrize("path", ["/etc/passwd", "../x.nii", "a/../../x.nii", ""])
def test_an_entry_cannot_leave_its_root(path: str) -> None:
    with pytest.raises(ValueError, match="no path below the root"):
        Entry("c", "d", "k", "p", "train", "nifti", path, "label.nii")


def test_manifests_join_below_their_common_folder(tmp_path: Path) -> None:
    parts = [open_manifest(nifti_pairs(tmp_path / name, [1])) for name in "ab"]
    joined = join(parts)
    assert joined.root == tmp_path.resolve()
    assert [entry.image for entry in joined.entries] == ["a/images/p0_0000.nii.gz", "b/images/p0_0000.nii.gz"]
    joined.check()


# ---- bad input ----------------------------------------------------------------------------------------------------


def test_labels_that_do_not_fit_their_images_are_listed(tmp_path: Path) -> None:
    spec = nifti_pairs(tmp_path, [1, 1, 1, 1])
    save_nifti(tmp_path / "labels/p0.nii.gz", label_with(1)[:-1])
    save_nifti(tmp_path / "labels/p1.nii.gz", label_with(1), AFFINE + np.eye(4)[3] * [[2.0], [0], [0], [0]])
    whole = (tmp_path / "labels/p2.nii.gz").read_bytes()
    (tmp_path / "labels/p2.nii.gz").write_bytes(whole[: len(whole) // 2])
    with pytest.raises(ManifestError) as caught:
        open_manifest(spec)
    message = str(caught.value)
    assert message.startswith("3 of 4 cases cannot be used")
    assert "p0: the label has the shape (12, 12, 11) and its image (12, 12, 12)" in message
    assert "p1: the label lies up to 2.00 mm off its image" in message
    assert "p2: p2.nii.gz cannot be read" in message


def test_colours_and_labels_that_are_no_numbers_are_errors(tmp_path: Path) -> None:
    spec = nifti_pairs(tmp_path, [1, 1])
    label = label_with(1).astype(np.float32)
    label[-1] = np.nan
    save_nifti(tmp_path / "labels/p0.nii.gz", label)
    colours = np.zeros((12, 12, 12), dtype=[("R", "u1"), ("G", "u1"), ("B", "u1")])
    save_nifti(tmp_path / "images/p1_0000.nii.gz", colours)
    with pytest.raises(ManifestError, match=r"p0: .* not whole numbers.*p1: .*one number a voxel, got colours"):
        open_manifest(spec)
    save_nifti(tmp_path / "labels/p1.nii.gz", colours)
    with pytest.raises(ManifestError, match=r"p1: .*got colours"):
        open_manifest(spec)


def test_empty_labels_and_labels_of_three_classes_are_errors(tmp_path: Path) -> None:
    spec = nifti_pairs(tmp_path, [1, 0])
    with pytest.raises(ManifestError, match="1 of 2 labels hold no lesion: p1"):
        open_manifest(spec)
    label = label_with(2, 3)
    label[-1], label[-2] = 1, 2
    save_nifti(tmp_path / "labels/p1.nii.gz", label)
    with pytest.raises(ManifestError, match=r"p1: the label has the values 1, 2, 3: .*values=2.*lesions=values"):
        open_manifest(spec)
    with pytest.raises(ManifestError, match="labels hold no lesion: p0"):
        open_manifest(f"{spec},values=3")
    assert [e.n_lesions for e in open_manifest(f"{spec},values=1+3").entries] == [1, 3]


@pytest.mark.parametrize(
    ("spec", "message"),
    [
        ("nifti", "a kind and its place"),
        ("nifti:/only-one", "takes two folders"),
        ("floppy:/a", "unknown kind 'floppy'"),
        ("kits23:/a,colour=red", "unknown option colour"),
        ("kits23:/a,sizes=half", "sizes must be one of"),
        ("generated:many", "number of lesions"),
        ("generated:0", "count must be positive"),
        ("generated:5,backgrounds=/no/such/folder", "no folder"),
        ("seg:/no/such/folder", "takes a folder"),
        ("dataset:/no/such/folder", "not a dataset"),
    ],
)
def test_specs_that_cannot_be_understood_are_refused(spec: str, message: str) -> None:
    with pytest.raises(ConfigError, match=message):
        open_sources([spec])
    with pytest.raises(ConfigError, match="at least one source"):
        open_sources([])


# ---- other sources ------------------------------------------------------------------------------------------------


def test_a_table_says_patients_splits_and_categories(tmp_path: Path) -> None:
    nifti_pairs(tmp_path, [1, 2])
    rows = ["images/p0_0000.nii.gz,labels/p0.nii.gz,A,val,Bone", "images/p1_0000.nii.gz,labels/p1.nii.gz,A,val,Lung"]
    (tmp_path / "cases.csv").write_text("\n".join(["image,label,patient,split,category", *rows]))
    entries = open_manifest(f"nifti:{tmp_path / 'cases.csv'}").entries
    assert [(e.case_id, e.split, e.category, e.n_lesions) for e in entries] == [
        ("p0", "val", "Bone", 1),
        ("p1", "val", "Lung", 2),
    ]
    assert len({e.patient_id for e in entries}) == 1
    (tmp_path / "cases.csv").write_text("image,label\n../x.nii,labels/p0.nii.gz")
    with pytest.raises(ConfigError, match="line 2: images and labels must lie beside"):
        open_manifest(f"nifti:{tmp_path / 'cases.csv'}")


def test_a_table_may_name_links_to_data_elsewhere(tmp_path: Path) -> None:
    nifti_pairs(tmp_path / "store", [1])
    (tmp_path / "mine").mkdir()
    (tmp_path / "mine/images").symlink_to(tmp_path / "store/images")
    (tmp_path / "mine/p0.nii.gz").symlink_to(tmp_path / "store/labels/p0.nii.gz")
    (tmp_path / "mine/cases.csv").write_text("image,label\nimages/p0_0000.nii.gz,p0.nii.gz")
    manifest = open_manifest(f"nifti:{tmp_path / 'mine/cases.csv'}")
    assert len(list(samples_of(manifest))) == 1


def test_headers_of_a_flat_folder_are_read_once_whatever_lies_in_it(tmp_path: Path, monkeypatch) -> None:
    series = write_ct(tmp_path)
    for name in "abcd":
        write_seg(tmp_path / f"seg-{name}.dcm", series, {"Lesion": ball()})
    read: list[Path] = []

    def counted(path: Path):
        read.append(path)
        return read_header(path)

    monkeypatch.setattr(readers, "read_header", counted)
    manifest = open_manifest(f"seg:{tmp_path}")
    assert len(list(samples_of(manifest, readers=ALL_READERS))) == 4
    assert len(read) == 2 * len(list(tmp_path.iterdir()))  # to list the cases, and to load their CT


@pytest.mark.parametrize("name", ["SharedFunctionalGroupsSequence", "PerFrameFunctionalGroupsSequence"])
def test_a_segmentation_without_a_needed_element_is_refused(name: str, tmp_path: Path) -> None:
    write_seg(tmp_path / "seg.dcm", write_ct(tmp_path / "ct"), {"Lesion": ball()})
    ds = pydicom.dcmread(tmp_path / "seg.dcm")
    delattr(ds, name)
    ds.save_as(tmp_path / "seg.dcm")
    with pytest.raises(ManifestError, match=r"seg-0001: its label has no .*Sequence; export it again"):
        open_manifest(f"seg:{tmp_path}")


def test_a_contour_without_points_is_refused(tmp_path: Path) -> None:
    series = write_ct(tmp_path / "ct")
    write_rtstruct(tmp_path / "rs.dcm", series, {"GTV": [rectangle(series, 4, (10, 10), (20, 20))]})
    ds = pydicom.dcmread(tmp_path / "rs.dcm")
    del ds.ROIContourSequence[0].ContourSequence[0].ContourData
    ds.save_as(tmp_path / "rs.dcm")
    with pytest.raises(ManifestError, match="rtstruct-0001: its label has no ContourData"):
        open_manifest(f"rtstruct:{tmp_path}")


def test_a_segmentation_is_read_on_its_ct(tmp_path: Path) -> None:
    series = write_ct(tmp_path / "ct")
    first, second = ball(), ball(centre=(2, 50, 50))
    write_seg(tmp_path / "seg/a.dcm", series, {"Lesion 1": first, "Lesion 2": second, "Liver": ~first})
    with pytest.raises(ManifestError, match=r"say which segment is lesion.*'Lesion 1', 'Lesion 2', 'Liver'"):
        open_manifest(f"seg:{tmp_path}")
    manifest = open_manifest(f"dicom:{tmp_path},Lesion*")
    [entry] = manifest.entries
    assert (entry.n_lesions, entry.image, entry.case_id) == (2, "ct", "seg-0001")
    read, labels = ALL_READERS[entry.reader](entry, manifest.root)
    expected = load_volume(tmp_path / "ct")
    assert np.array_equal(read.voxels, expected.voxels)
    assert np.array_equal(labels, first + 2 * second)
    assert "0012345" not in (json.dumps([entry.patient_id, entry.case_id]))


def test_a_segmentation_on_another_grid_is_refused(tmp_path: Path) -> None:
    series = write_ct(tmp_path / "ct")
    for ds in series:
        ds.ImagePositionPatient = [float(v) + 0.3 for v in ds.ImagePositionPatient]
    write_seg(tmp_path / "seg/a.dcm", series, {"Lesion": ball()})
    with pytest.raises(ManifestError, match="seg-0001: a frame of its segmentation does not lie on the pixels"):
        open_manifest(f"seg:{tmp_path}")


def test_contours_are_filled_by_the_even_odd_rule(tmp_path: Path) -> None:
    series = write_ct(tmp_path / "ct")
    contours = [rectangle(series, i, (10, 20), (29, 33)) for i in (3, 4)] + [rectangle(series, 4, (15, 25), (18, 28))]
    write_rtstruct(tmp_path / "rs.dcm", series, {"GTV-1": contours, "Body": [rectangle(series, 4, (1, 1), (60, 60))]})
    expected = np.zeros((8, 64, 64), bool)
    expected[3:5, 10:30, 20:34] = True
    expected[4, 15:19, 25:29] = False
    manifest = open_manifest(f"rtstruct:{tmp_path},GTV*")
    [entry] = manifest.entries
    assert np.array_equal(ALL_READERS["rtstruct"](entry, manifest.root)[1], expected)
    with pytest.raises(ManifestError, match="say which structure is lesion"):
        open_manifest(f"rtstruct:{tmp_path}")
    with pytest.raises(ManifestError, match="no case of this kind"):
        open_manifest(f"seg:{tmp_path}")


def test_a_contour_between_slices_is_refused(tmp_path: Path) -> None:
    series = write_ct(tmp_path / "ct")
    above = np.array([0, 0, 1.0])
    write_rtstruct(tmp_path / "rs.dcm", series, {"GTV": [rectangle(series, 4, (10, 10), (20, 20)) + above]})
    with pytest.raises(ManifestError, match="rtstruct-0001: a contour of its structure set does not lie on a slice"):
        open_manifest(f"rtstruct:{tmp_path}")


def test_a_dicom_ct_with_a_nifti_mask_needs_the_shape_alone(tmp_path: Path) -> None:
    write_ct(tmp_path / "CT Lymph Nodes/ABD_LYMPH_001/study/series")
    ct = load_volume(tmp_path / "CT Lymph Nodes/ABD_LYMPH_001/study/series")
    mask = (1 * ball() + 2 * ball(centre=(2, 50, 50))).astype(np.uint8)
    path = tmp_path / "MED_ABD_LYMPH_MASKS/ABD_LYMPH_001/ABD_LYMPH_001_mask.nii.gz"
    save_nifti(path, mask.transpose(2, 1, 0), np.diag([-1.0, -1.0, 1.0, 1.0]))
    for file in (tmp_path / "CT Lymph Nodes").rglob("IM*"):
        file.rename(file.with_suffix(".dcm"))
    manifest = manifest_of("nih_ln_abd", tmp_path, sizes="proportional")
    samples = list(samples_of(manifest, CropPolicy(in_plane=None), ALL_READERS))
    assert [int(sample.truth.sum()) for sample in samples] == [int((mask == n).sum()) for n in (1, 2)]
    assert samples[0].volume.spacing_mm == pytest.approx(ct.spacing_mm)
    save_nifti(path, mask.transpose(2, 1, 0)[:, :, :-1], np.diag([-1.0, -1.0, 1.0, 1.0]))
    with pytest.raises(ManifestError, match="ABD_LYMPH_001: the label has the shape"):
        list(samples_of(manifest, CropPolicy(), ALL_READERS))


def test_a_published_dataset_trains_the_next_engine(tmp_path: Path) -> None:
    record = finding(volume(0), 0)
    write_dataset(tmp_path / "dataset", findings=[record])
    tier = record.quality.tier
    [source] = open_sources(
        [f"dataset:{tmp_path / 'dataset'},tiers={tier}"], policy=CropPolicy(in_plane=None, out_of_plane=9)
    )
    [sample] = source.samples(0)
    assert (sample.patient_id, sample.split) == (record.patient_id, "train")
    assert np.array_equal(sample.truth, record.mask.transpose(2, 1, 0).astype(bool))
    assert np.array_equal(sample.volume.voxels, np.clip(record.image.transpose(2, 1, 0), -HU_LIMIT, HU_LIMIT))
    corner = apply_affine(sample.volume.affine, (0, 0, 0))
    assert lps_to_ras(corner) == pytest.approx(record.affine_ras[:3, 3])
    with pytest.raises(ManifestError, match="no case"):
        open_sources([f"dataset:{tmp_path / 'dataset'},tiers=Z"])


# ---- crops --------------------------------------------------------------------------------------------------------

SHAPES = st.tuples(st.integers(1, 40), st.integers(2, 60), st.integers(2, 60))


@given(SHAPES, st.data(), st.sampled_from([None, 0.0, 0.5, 3.0]), st.integers(0, 9), st.floats(0, 60))
def test_a_crop_holds_its_lesion_and_its_margins(shape, data, in_plane, least_slices, least_mm) -> None:
    low = [data.draw(st.integers(0, n - 1)) for n in shape]
    high = [data.draw(st.integers(a + 1, n)) for a, n in zip(low, shape, strict=True)]
    box = tuple(slice(a, b) for a, b in zip(low, high, strict=True))
    lesion = np.ones([b - a for a, b in zip(low, high, strict=True)], bool)
    policy = CropPolicy(in_plane, 0.0, least_mm, least_slices)
    window = policy.window(lesion, box, shape, (3.0, 1.0, 2.0))
    for axis, mm in ((0, 3.0), (1, 1.0), (2, 2.0)):
        assert 0 <= window[axis].start <= low[axis]
        assert high[axis] <= window[axis].stop <= shape[axis]
        size = window[axis].stop - window[axis].start
        if axis == 0:
            assert size >= min(shape[0], high[0] - low[0] + 2 * least_slices)
        elif in_plane is None:
            assert size == shape[axis]
        else:
            diameter = high[1] - low[1]  # at least so long, in rows of 1 mm
            assert size * mm >= min(
                shape[axis] * mm, max(least_mm, (high[axis] - low[axis]) * mm + 2 * in_plane * diameter)
            )


@pytest.mark.parametrize("bad", [{"in_plane": -1.0}, {"least_mm": float("nan")}, {"out_of_plane": float("inf")}])
def test_a_policy_without_sense_is_refused(bad: dict[str, float]) -> None:
    with pytest.raises(ValueError, match="finite"):
        CropPolicy(**bad)


# ---- the cache ----------------------------------------------------------------------------------------------------

POLICY = CropPolicy(in_plane=0.5, out_of_plane=0.5, least_mm=8, least_slices=1)


@pytest.fixture(scope="module")
def source(tmp_path_factory: pytest.TempPathFactory) -> ManifestSource:
    """Forty lesions of each of five patients: two units."""
    spec = nifti_pairs(tmp_path_factory.mktemp("pairs"), [20] * 5)
    [opened] = open_sources([spec], policy=POLICY)
    assert isinstance(opened, ManifestSource)
    assert len(opened) == 2
    return opened


def same(a: Sample, b: Sample) -> bool:
    arrays = (a.volume.voxels, b.volume.voxels), (a.truth, b.truth), (a.volume.affine, b.volume.affine)
    ids = [(s.sample_id, s.case_id, s.patient_id, s.dataset, s.category, s.split) for s in (a, b)]
    return ids[0] == ids[1] and all(np.array_equal(x, y) for x, y in arrays)


def test_a_cache_gives_back_what_was_put_in(source: ManifestSource, tmp_path: Path) -> None:
    samples = list(samples_of(source.manifest, POLICY))
    cache = fill_cache([source], tmp_path / "filled")
    assert len(cache) == len(samples) == 100
    assert all(same(a, b) for a, b in zip(cache, samples, strict=True))
    assert all(same(a, b) for a, b in zip(build_cache(iter(samples), tmp_path / "built"), samples, strict=True))
    assert sorted(itertools.chain.from_iterable(map(cache.indices, SPLITS))) == list(range(100))
    assert all(cache[i].split == "val" for i in cache.indices("val"))
    assert cache.sources == (source.digest,)
    cache.check()


def test_deformed_copies_stand_beside_training_lesions_alone(tmp_path: Path) -> None:
    spec = nifti_pairs(tmp_path, [2] * 10)
    [plain], [source], [again] = (open_sources([spec + more], policy=POLICY) for more in ("", *[",deformed=2"] * 2))
    samples = list(itertools.chain.from_iterable(source.samples(unit) for unit in range(len(source))))
    lesions = [sample for sample in samples if sample.sample_id.count("/") == 2]
    copies = [sample for sample in samples if sample.sample_id.count("/") == 3]
    train = [sample for sample in lesions if sample.split == "train"]
    assert 0 < len(train) < len(lesions) == 20
    # A lesion of a few voxels can vanish in a copy.
    assert {c.sample_id for c in copies} <= {f"{s.sample_id}/{copy}" for s in train for copy in (1, 2)}
    assert len(copies) > len(train) / 2
    assert {c.split for c in copies} == {"train"}
    assert all(c.truth.any() for c in copies)
    assert source.digest == again.digest != plain.digest
    repeated = itertools.chain.from_iterable(again.samples(unit) for unit in range(len(again)))
    assert all(same(a, b) for a, b in zip(samples, repeated, strict=True))
    with pytest.raises(ConfigError, match="number of copies"):
        open_sources([spec + ",deformed=many"])


def test_cached_voxels_are_mapped_and_cannot_be_written(source: ManifestSource, tmp_path: Path) -> None:
    cache = pickle.loads(pickle.dumps(fill_cache([source], tmp_path)))
    voxels = cache[3].volume.voxels
    base = voxels
    while isinstance(base, np.ndarray) and not isinstance(base, np.memmap):
        base = base.base
    assert isinstance(base, np.memmap)
    with pytest.raises(ValueError, match="read-only"):
        voxels[0, 0, 0] = 1
    assert cache[-1].sample_id == cache[99].sample_id
    with pytest.raises(IndexError):
        cache[100]


def test_cached_hounsfield_units_are_clipped(tmp_path: Path) -> None:
    save_pair(tmp_path / "images/a.nii.gz", tmp_path / "labels/a.nii.gz", label_with(1))
    save_nifti(tmp_path / "images/a.nii.gz", (image() * 3).astype(np.int16))
    [opened] = open_sources([f"nifti:{tmp_path / 'images'},{tmp_path / 'labels'}"])
    voxels = fill_cache([opened], tmp_path / "cache")[0].volume.voxels
    assert (voxels.min(), voxels.max()) == (-HU_LIMIT, HU_LIMIT)


def test_an_interrupted_build_goes_on_where_it_was(source: ManifestSource, tmp_path: Path) -> None:
    whole = fill_cache([source], tmp_path / "whole").digest
    with pytest.raises(ManifestError, match="stopped"):
        fill_cache([Halting(source, 1)], tmp_path / "cut")
    with pytest.raises(CacheError, match="no finished cache"):
        Cache(tmp_path / "cut")
    [shard] = (tmp_path / "cut").glob("*.safetensors")
    written = shard.stat().st_mtime_ns
    assert fill_cache([Halting(source, 0)], tmp_path / "cut").digest == whole, "the first unit was made again"
    assert shard.stat().st_mtime_ns == written


def test_processes_build_the_same_cache(source: ManifestSource, tmp_path: Path) -> None:
    assert fill_cache([source], tmp_path / "two", workers=2).digest == fill_cache([source], tmp_path / "one").digest


def test_damage_is_found(source: ManifestSource, tmp_path: Path) -> None:
    cache = fill_cache([source], tmp_path)
    shard = next(tmp_path.glob("*.safetensors"))
    content = bytearray(shard.read_bytes())
    content[-1] ^= 1
    shard.write_bytes(content)
    with pytest.raises(CacheError, match="was changed"):
        cache.check()
    shard.write_bytes(content[:-1])
    with pytest.raises(CacheError, match="another length"):
        Cache(tmp_path)


def test_another_policy_or_seed_makes_other_shards(source: ManifestSource, tmp_path: Path) -> None:
    other = ManifestSource(source.manifest, CropPolicy(in_plane=None), source.readers)
    assert {other.unit_digest(u) for u in range(len(other))}.isdisjoint(
        source.unit_digest(u) for u in range(len(source))
    )
    cache = fill_cache([source, other], tmp_path)
    assert len(cache) == 200
    assert len({sample.volume.voxels.shape for sample in cache}) > 1


@pytest.mark.slow
def test_generated_lesions_do_not_depend_on_their_number() -> None:
    few, more = open_sources(["generated:1", "generated:2"], seed=5)
    assert same(next(few.samples(0)), next(more.samples(0)))
    assert few.digest != more.digest
