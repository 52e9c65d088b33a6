"""Where a stroke lies, and whether that is where the report says: on generated bodies whose anatomy is known."""

from __future__ import annotations

import pickle
import sys
import tomllib
from collections import Counter
from dataclasses import replace
from importlib.resources import files
from pathlib import Path

import nibabel as nib
import numpy as np
import pytest
from dicom import AXIAL, StudyInfo, ct_series, write
from hypothesis import given
from hypothesis import strategies as st

from cohort_builder.anatomy.locators import LOCATORS, REGIONS, Place, RegionLocator, load_locator
from cohort_builder.anatomy.organs import organ_agreement, parts_of
from cohort_builder.anatomy.placing import place_strokes
from cohort_builder.anatomy.regions import read_body
from cohort_builder.anatomy.totalsegmentator import TotalSegmentatorLocator, read_labels
from cohort_builder.bookkeeping import identity
from cohort_builder.engines import Engines
from cohort_builder.errors import ConfigError, SetupError
from cohort_builder.pacs.index import index_export
from cohort_builder.types import Annotation, AnnotationKind, LocatedAnnotation, Source
from nlp.vocabulary import load_terms
from segmentation.geometry import apply_affine, nifti_affine
from segmentation.phantoms import LABELS, LesionKind, LesionSpec, Organ, Phantom, body_phantom
from segmentation.types import GeometryError, Volume

TABLE = tomllib.loads(files("cohort_builder.anatomy").joinpath("organs.toml").read_text())
SOLID, NODE = LesionKind.SOLID, LesionKind.LYMPH_NODE
SPACING, MATRIX = (5.0, 2.8, 2.8), 140


# ---- words against organs ------------------------------------------------------------------------------------------


@pytest.mark.parametrize("terms", ["anatomy", "structures"])
def test_every_anatomical_term_is_in_the_table(terms) -> None:
    silent = set(TABLE["silent"]["terms"])
    unknown = {t.canonical for t in load_terms(terms).values() if not parts_of(t.canonical)} - silent
    assert not unknown, "add them to cohort_builder/anatomy/organs.toml, under a group of [[words]] or under [silent]"


def test_the_table_uses_its_own_parts_and_the_locators_names() -> None:
    parts = set(TABLE["parts"])
    used = set(TABLE["borders"]) | {part for others in TABLE["borders"].values() for part in others}
    used |= {part for group in TABLE["words"] for part in (*group["parts"], *group.get("near", ()))}
    used |= {part for region in TABLE["regions"].values() for part in (*region["parts"], *region.get("unclear", ()))}
    for mapped in TABLE["classes"].values():
        used |= {mapped} if isinstance(mapped, str) else set(mapped)
    assert used == parts
    assert set(TABLE["regions"]) == set(REGIONS)
    words = [term for group in TABLE["words"] for term in group["terms"]]
    assert len(words) == len(set(words)), [term for term, n in Counter(words).items() if n > 1]


@pytest.mark.parametrize(
    ("anatomy", "organ", "compatible"),
    [
        ("left lower lobe", "lung", True),
        ("left lower lobe superior segment", "border of the lung", True),
        ("right upper lobe", "between the lungs", False),
        ("right upper lobe", "upper abdomen", False),
        ("lung", "bone", False),
        ("mediastinum", "lung", False),
        ("subcarinal", "between the lungs", True),
        ("liver", "upper abdomen", True),
        ("liver segment 7", "under the domes", True),
        ("liver", "lung", False),
        ("T7 vertebral body", "bone", True),
        ("left kidney", "above the lungs", False),
        ("left kidney", "lower abdomen", None),
        ("prostate", "upper abdomen", False),
        ("inguinal", "under the skin", True),
        ("liver", "kidney_right", None),
        ("liver", "lung_lower_lobe_right", False),
        ("left lower lobe", "lung_lower_lobe_left", True),
        ("left lower lobe", "lung_upper_lobe_left", None),
        ("spleen", "spleen", True),
        ("L2 vertebral body", "vertebrae_L2", True),
        ("sternum", "rib_left_7", True),
        ("thyroid", "liver", False),
    ],
)
def test_agreement(anatomy, organ, compatible) -> None:
    found = organ_agreement(anatomy, organ)
    assert (None if found is None else found[0]) is compatible
    assert found is None or 0 < found[1] <= 1


@pytest.mark.parametrize(
    ("anatomy", "organs"),
    [
        ("pleura", ("lung", "border of the lung", "bone", "lung_lower_lobe_left", "rib_left_7", "wall of the chest")),
        ("hilum", ("lung", "between the lungs", "border of the lung", "lung_upper_lobe_left", "heart")),
        ("chest wall", ("bone", "under the skin", "rib_right_3", "wall of the chest", "border of the lung")),
        ("rib", ("wall of the chest", "bone", "under the skin", "border of the lung")),
        ("liver dome", ("base of the lung", "under the domes", "lung_lower_lobe_right", "liver")),
        ("diaphragm", ("liver", "under the domes", "base of the lung", "lung_lower_lobe_right")),
        ("adrenal gland", ("kidney_left", "upper abdomen", "inferior_vena_cava", "under the domes", "liver")),
        ("retroperitoneum", ("kidney_left", "aorta", "adrenal_gland_right", "duodenum", "iliopsoas_left")),
        ("paratracheal", ("trachea", "esophagus", "between the lungs", "above the lungs", "border of the lung")),
        ("pancreatic tail", ("spleen", "stomach", "kidney_left", "upper abdomen")),
    ],
)
def test_neighbours_never_contradict(anatomy, organs) -> None:
    verdicts = {organ: organ_agreement(anatomy, organ) for organ in organs}
    assert not {organ for organ, verdict in verdicts.items() if verdict is not None and not verdict[0]}


@pytest.mark.parametrize(
    ("anatomy", "organ"),
    [(None, "lung"), ("liver", None), ("", "lung"), ("lobe", "lung"), ("nothing known", "lung"), ("liver", "teapot")],
)
def test_nothing_to_compare(anatomy, organ) -> None:
    assert organ_agreement(anatomy, organ) is None


@given(st.sampled_from(sorted(parts_of("lung") | set(TABLE["parts"]))), st.sampled_from(sorted(REGIONS)))
def test_share_is_that_of_the_compatible_regions(anatomy, organ) -> None:
    """Whoever draws a region at random by the table's shares meets a compatible one that often."""
    found = organ_agreement(anatomy, organ)
    if found is None:
        return
    verdicts = {region: organ_agreement(anatomy, region) for region in REGIONS}
    mass = {True: 0.0, False: 0.0}
    for region, verdict in verdicts.items():
        if verdict is not None:
            mass[verdict[0]] += TABLE["regions"][region]["share"]
    assert found[1] == pytest.approx(max(mass[True] / sum(mass.values()), 0.01))


@given(st.lists(st.sampled_from(sorted(t.canonical for t in load_terms("anatomy").values())), min_size=1, max_size=4))
def test_any_chain_of_places_can_be_asked(terms) -> None:
    for organ in (*REGIONS, *TABLE["classes"], *TABLE["parts"], "rib_left_7"):
        found = organ_agreement(" ".join(terms), organ)
        assert found is None or 0 < found[1] <= 1


# ---- the default locator -------------------------------------------------------------------------------------------

SPECS = {
    "chest": [
        LesionSpec(Organ.LUNG, "RIGHT", 0.8, 16.0, SOLID),
        LesionSpec(Organ.LUNG, "LEFT", 0.6, 30.0, SOLID, "wall"),
        LesionSpec(Organ.LUNG, "LEFT", 0.3, 9.0, LesionKind.GROUND_GLASS),
        LesionSpec(Organ.MEDIASTINUM, None, 0.75, 14.0, NODE),
        LesionSpec(Organ.BONE, None, 0.6, 16.0, SOLID),
    ],
    "abdomen": [
        LesionSpec(Organ.LIVER, None, 0.5, 30.0, SOLID),
        LesionSpec(Organ.KIDNEY, "LEFT", 0.5, 24.0, SOLID),
        LesionSpec(Organ.MESENTERY, None, 0.3, 14.0, NODE),
        LesionSpec(Organ.SPLEEN, None, 0.5, 20.0, SOLID),
    ],
}


@pytest.fixture(scope="module", params=["chest", "abdomen"])
def phantom(request) -> Phantom:
    return body_phantom(
        np.random.default_rng(3),
        SPECS[request.param],
        region=request.param,
        n_slices=56,
        spacing_mm=SPACING,
        matrix=MATRIX,
        with_labels=True,
    )


@pytest.fixture(scope="module")
def chest() -> Phantom:
    rng = np.random.default_rng(3)
    return body_phantom(
        rng, SPECS["chest"], region="chest", n_slices=72, spacing_mm=SPACING, matrix=MATRIX, with_labels=True
    )


def long_axis(phantom: Phantom, number: int) -> np.ndarray:
    """Both ends of the longest line on the largest slice of a lesion, LPS mm."""
    lesion = phantom.lesions[number]
    on_slice = int(lesion.mask.sum(axis=(1, 2)).argmax())
    pixels = np.argwhere(lesion.mask[on_slice])
    along = (pixels - pixels.mean(axis=0)) @ np.linalg.svd(pixels - pixels.mean(axis=0))[2][0]
    ends = pixels[[along.argmin(), along.argmax()]]
    index = np.column_stack([[on_slice, on_slice], ends]) + np.array(lesion.offset)
    return apply_affine(phantom.volume.affine, index)


def test_lesions_lie_where_they_grow(phantom) -> None:
    locator = RegionLocator()
    for number, lesion in enumerate(phantom.lesions):
        organ = locator.organ_at(phantom.volume, long_axis(phantom, number))
        agreement = organ_agreement(lesion.location, organ)
        assert agreement is not None, (lesion.location, organ)
        assert agreement[0], (lesion.location, organ)


def test_the_lung_and_what_is_between_the_lungs_are_told_apart(chest) -> None:
    locator = RegionLocator()
    assert locator.organ_at(chest.volume, long_axis(chest, 0)) == "lung"
    assert locator.organ_at(chest.volume, long_axis(chest, 3)) in {"between the lungs", "border of the lung"}


def test_random_points_are_rarely_named_wrongly(phantom) -> None:
    locator, rng = RegionLocator(), np.random.default_rng(0)
    verdicts: Counter = Counter()
    said = {"lung": "lung", "heart": "heart", "liver": "liver", "spleen": "spleen", "kidney": "kidney",
            "adrenal": "adrenal gland", "vertebra": "vertebra"}  # fmt: skip
    for name, anatomy in said.items():
        voxels = np.argwhere(phantom.labels == LABELS[name])
        for voxel in voxels[rng.permutation(len(voxels))[:30]]:
            organ = locator.organ_at(phantom.volume, apply_affine(phantom.volume.affine, voxel[None]))
            verdict = organ_agreement(anatomy, organ)
            verdicts[None if verdict is None else verdict[0]] += 1
    total = sum(verdicts.values())
    assert verdicts[True] >= 0.9 * total
    assert verdicts[False] <= 0.02 * total


def _turned(volume: Volume, kind: str) -> Volume:
    """The same patient stored otherwise: the affine says how."""
    voxels, affine = volume.voxels, volume.affine.copy()
    if kind == "feet last":
        affine[:3, 3] += affine[:3, 0] * (len(voxels) - 1)
        affine[:3, 0] *= -1
        voxels = voxels[::-1]
    elif kind == "prone":  # turned by half a turn on the table, rows and columns as the scanner stores them
        affine[:3, 3] += affine[:3, 1] * (voxels.shape[1] - 1) + affine[:3, 2] * (voxels.shape[2] - 1)
        affine[:3, 1:3] *= -1
        voxels = voxels[:, ::-1, ::-1]
    elif kind == "coronal":
        affine = affine[:, [1, 0, 2, 3]]
        voxels = voxels.transpose(1, 0, 2)
    elif kind == "tilted":
        shift = np.round(np.arange(len(voxels)) * 0.4).astype(int)
        voxels = np.stack([np.roll(one, -n, axis=0) for one, n in zip(voxels, shift, strict=True)])
        affine[:3, 0] += 0.4 * affine[:3, 1]
    uids = tuple(f"1.2.3.{i}" for i in range(len(voxels)))
    return Volume(np.ascontiguousarray(voxels), affine, "1.2.4", "1.2.5", uids)


@pytest.mark.parametrize("kind", ["feet last", "prone", "coronal", "tilted"])
def test_the_way_of_storing_does_not_matter(chest, kind) -> None:
    axes = [long_axis(chest, number) for number in range(4)]
    before = RegionLocator().places(chest.volume, axes)
    after = RegionLocator().places(_turned(chest.volume, kind), axes)
    assert [place.organ for place in after] == [place.organ for place in before]
    assert [place.lung_level for place in after] == pytest.approx([place.lung_level for place in before], abs=0.03)


def test_level_in_the_lungs(chest) -> None:
    """Both ends of the lungs are seen here, and the levels of the lesions have their order."""
    lungs = read_body(chest.volume).lungs
    assert lungs is not None
    assert lungs.low_seen
    assert lungs.high_seen
    axes = [long_axis(chest, number) for number in range(3)]
    levels = [place.lung_level for place in RegionLocator().places(chest.volume, axes)]
    assert levels == sorted(levels, reverse=True)
    assert all(0 < level < 1 for level in levels)
    lung = np.argwhere((chest.labels == LABELS["lung"]).any(axis=(1, 2)))
    lowest, highest = (apply_affine(chest.volume.affine, [int(i), 0, 0])[2] for i in (lung.min(), lung.max()))
    assert lungs.level(lowest) == pytest.approx(0, abs=0.08)
    assert lungs.level(highest) == pytest.approx(1, abs=0.08)


def test_no_level_where_an_end_of_the_lungs_is_not_scanned(chest) -> None:
    part = _cut(chest.volume, slice(0, 40))
    assert RegionLocator().places(part, [long_axis(chest, 2)])[0].lung_level is None


def _cut(
    volume: Volume, slices: slice = slice(None), rows: slice = slice(None), columns: slice = slice(None)
) -> Volume:
    voxels = np.ascontiguousarray(volume.voxels[slices, rows, columns])
    affine = volume.affine.copy()
    affine[:3, 3] = apply_affine(affine, [part.start or 0 for part in (slices, rows, columns)])
    return Volume(voxels, affine, "1.2.4", "1.2.5", tuple(f"1.2.3.{i}" for i in range(len(voxels))))


def test_padding_is_no_lung_and_changes_nothing(chest) -> None:
    padded = chest.volume.voxels.copy()
    rows, columns = np.ogrid[:MATRIX, :MATRIX]
    padded[:, (rows - MATRIX / 2) ** 2 + (columns - MATRIX / 2) ** 2 > (MATRIX / 2) ** 2] = -2048
    axes = [long_axis(chest, number) for number in range(4)]
    plain = RegionLocator().places(chest.volume, axes)
    assert RegionLocator().places(replace(chest.volume, voxels=padded), axes) == plain


@pytest.mark.parametrize("fill", [-2048, -1024, -1000, 0, 40, 300, 3000])
@pytest.mark.parametrize("shape", [(2, 2, 2), (1, 1, 1), (3, 64, 64), (20, 7, 90)])
def test_a_volume_of_nothing_names_nothing(fill, shape) -> None:
    volume = Volume(
        np.full(shape, fill, np.int16), np.diag([5.0, 2.0, 2.0, 1.0])[[2, 1, 0, 3]], "1", "2", ("3",) * shape[0]
    )
    organ = RegionLocator().organ_at(volume, np.zeros((2, 3)))
    assert organ in {None, "bone"} if fill >= 300 else organ is None


def test_outside_the_scan_and_in_the_air_there_is_no_organ(chest) -> None:
    locator = RegionLocator()
    for point in ([5000.0, 0.0, 0.0], [0.0, 0.0, 9000.0], apply_affine(chest.volume.affine, [30, 2, 2])):
        assert locator.organ_at(chest.volume, np.array([point])) is None


@given(st.integers(0, 2**32 - 1))
def test_noise_costs_nothing_but_the_name(seed) -> None:
    rng = np.random.default_rng(seed)
    voxels = rng.integers(-1024, 1500, size=(6, 24, 24)).astype(np.int16)
    volume = Volume(voxels, np.diag([4.0, 3.0, 3.0, 1.0])[[2, 1, 0, 3]], "1", "2", tuple("123456"))
    assert RegionLocator().organ_at(volume, rng.uniform(0, 60, size=(2, 3))) in {None, *REGIONS}


def test_a_crop_names_the_lung_or_something_wide(chest) -> None:
    """A crop without any outside air, as viewers and research exports make them."""
    centre = np.array(chest.lesions[0].offset) + np.array(chest.lesions[0].mask.shape) // 2
    low = np.maximum(centre - [12, 34, 34], 0)
    crop = _cut(chest.volume, *(slice(int(a), int(a) + n) for a, n in zip(low, (24, 68, 68), strict=True)))
    organ = RegionLocator().organ_at(crop, long_axis(chest, 0))
    assert organ in {None, "lung", "border of the lung", "base of the lung"}


def test_another_volume_is_read_anew(chest) -> None:
    locator = RegionLocator()
    points = long_axis(chest, 0)
    assert locator.organ_at(chest.volume, points) == "lung"
    empty = replace(chest.volume, voxels=np.full_like(chest.volume.voxels, -1024))
    assert locator.organ_at(empty, points) is None
    assert pickle.loads(pickle.dumps(locator)).organ_at(chest.volume, points) == "lung"


# ---- choosing one --------------------------------------------------------------------------------------------------


def test_locators_by_name() -> None:
    assert load_locator("none") is None
    assert isinstance(load_locator("regions"), RegionLocator)
    with pytest.raises(ConfigError, match=r"anatomy must be one of .*regions.*got 'brain'"):
        load_locator("brain")
    assert set(LOCATORS) == {"none", "regions", "totalsegmentator"}


def test_the_locator_decides_about_the_shards(chest) -> None:
    plain = Engines("rules", "ellipsoid").identities()["anatomy"]
    assert plain != Engines("rules", "ellipsoid", anatomy="none").identities()["anatomy"]
    RegionLocator().organ_at(chest.volume, np.zeros((1, 3)))
    used = RegionLocator()
    used.organ_at(chest.volume, np.zeros((1, 3)))
    assert identity(used) == identity(RegionLocator())


def test_without_the_package_the_error_names_the_extra(monkeypatch) -> None:
    monkeypatch.setitem(sys.modules, "totalsegmentator", None)
    with pytest.raises(SetupError, match=r"cohort-builder\[totalsegmentator\]"):
        TotalSegmentatorLocator()


# ---- TotalSegmentator: its labels, and its call with a stand-in (its weights cannot be run here) --------------------

STAND_IN = {
    "__init__.py": "",
    "map_to_binary.py": 'class_map = {"total": {1: "lung_upper_lobe_left", 2: "liver"}}\n',
    "python_api.py": """
import nibabel as nib, numpy as np
calls = []
def totalsegmentator(input, output=None, ml=False, fast=False, device="gpu", quiet=False, skip_saving=False):
    print("noise on the standard output")
    calls.append((input.shape, ml, fast, device, quiet, skip_saving))
    hu = np.asarray(input.dataobj)
    return nib.Nifti1Image(np.where(hu < -500, 1, np.where(hu > 50, 2, 0)).astype(np.uint8), input.affine)
""",
}


@pytest.fixture
def stand_in(tmp_path, monkeypatch):
    """A package of the same shape as TotalSegmentator 2: same module names, same call, labels by threshold."""
    folder = tmp_path / "site" / "totalsegmentator"
    folder.mkdir(parents=True)
    for name, text in STAND_IN.items():
        (folder / name).write_text(text)
    monkeypatch.syspath_prepend(folder.parent)
    yield
    for name in [name for name in sys.modules if name.split(".")[0] == "totalsegmentator"]:
        del sys.modules[name]


@pytest.mark.usefixtures("stand_in")
def test_the_adapter_runs_once_a_volume_and_reads_places_in_lps(capsys) -> None:
    voxels = np.zeros((30, 12, 10), np.int16)
    voxels[4:26, :, 6:] = -800
    voxels[:, :, :3] = 100
    affine = np.array([[0, 0, 3.0, -20], [0, 2.0, 0, 7], [6.0, 0, 0, 100], [0, 0, 0, 1]])
    volume = Volume(voxels, affine, "1", "2", tuple(map(str, range(30))))
    locator = TotalSegmentatorLocator(device="cpu")
    at = [apply_affine(affine, [[15, 5, column]]) for column in (8, 1, 4)]
    assert [locator.organ_at(volume, points) for points in at] == ["lung_upper_lobe_left", "liver", None]
    places = locator.places(volume, [apply_affine(affine, [[row, 5, 8]]) for row in (4, 25)])
    assert places == [Place("lung_upper_lobe_left", 0.0), Place("lung_upper_lobe_left", 1.0)]
    from totalsegmentator.python_api import calls

    assert calls == [((10, 12, 30), True, True, "cpu", True, True)]
    assert capsys.readouterr().out == ""


def test_labels_with_their_names_in_the_header(tmp_path) -> None:
    labels = np.zeros((4, 4, 4), np.uint8)
    labels[1:3] = 5
    affine = np.diag([2.0, 2.0, 2.0, 1.0])
    image = nib.Nifti1Image(labels, affine)
    table = '<CaretExtension><LabelTable><Label Key="5" Red="0"><![CDATA[liver]]></Label></LabelTable></CaretExtension>'
    image.header.extensions.append(nib.nifti1.Nifti1Extension(0, table.encode()))
    path = tmp_path / "labels.nii.gz"
    nib.save(image, path)
    found = read_labels(path)
    assert found.organ_at(np.array([[-2.0, -2.0, 2.0], [-4.0, -2.0, 2.0]])) == "liver"  # RAS (2, 2, 2) to (4, 2, 2)
    assert found.organ_at(np.array([[2.0, 2.0, 2.0]])) is None
    with pytest.raises(GeometryError, match="does not name its labels"):
        read_labels(nib.Nifti1Image(labels, affine))
    with pytest.raises(GeometryError, match="3D image of integers"):
        read_labels(nib.Nifti1Image(labels + np.float32(0.5), affine), {5: "liver"})


# ---- before links are made -----------------------------------------------------------------------------------------


@pytest.fixture(scope="module")
def export(chest, tmp_path_factory):
    """Two studies of one chest: a thin series, whose slices are mostly not needed, and a thick one."""
    folder = tmp_path_factory.mktemp("export")
    volume = chest.volume
    studies = [StudyInfo(accession_number=f"ACC{i}") for i in range(2)]
    for study, thick in zip(studies, (1, 2), strict=True):
        voxels = volume.voxels[::2] if thick == 2 else np.repeat(volume.voxels, 4, axis=0)
        step = 5.0 * thick if thick == 2 else 1.25
        images = ct_series(
            study=study,
            voxels=voxels,
            positions=[volume.affine[:3, 3] + [0, 0, i * step] for i in range(len(voxels))],
            orientation=AXIAL,
            spacing=SPACING[1:],
            step_mm=step,
        )
        write(images, folder / study.study_instance_uid)
    return folder, [study.study_instance_uid for study in studies]


def strokes_of(index, chest: Phantom, study: str) -> list[LocatedAnnotation]:
    (series,) = index.series_of(study)
    instances = sorted(index.instances(series), key=lambda i: i.image_position[2])
    heights = np.array([i.image_position[2] for i in instances])
    strokes = []
    for number in range(len(chest.lesions)):
        points = long_axis(chest, number)
        instance = instances[int(np.abs(heights - points[0, 2]).argmin())]
        drawn = Annotation(
            f"{study}/{number}", AnnotationKind.LINE, ((1.0, 1.0), (9.0, 9.0)), instance.sop_instance_uid, series, study,
            Source("1.2.3", "1", "line"),
        )  # fmt: skip
        ends = tuple(tuple(float(v) for v in point) for point in points)
        strokes.append(LocatedAnnotation(drawn, (10.0,), ends, instance.frame_of_reference_uid))
    return strokes


def test_strokes_get_their_organ_from_few_slices(export, chest, monkeypatch) -> None:
    folder, studies = export
    index = index_export(folder)
    try:
        strokes = [stroke for study in studies for stroke in strokes_of(index, chest, study)]
        read: Counter = Counter()
        from cohort_builder.anatomy import placing

        actual = placing.read_hounsfield

        def counted(instance):
            read[instance.study_instance_uid] += 1
            return actual(instance)

        monkeypatch.setattr(placing, "read_hounsfield", counted)
        placed = place_strokes(strokes, index, RegionLocator(), studies=studies[:1])
        assert read == {studies[0]: 72}, "one slice in four of 1.25 mm; nothing of a study without a report"
        for number, stroke in enumerate(placed[: len(chest.lesions)]):
            agreement = organ_agreement(chest.lesions[number].location, stroke.organ)
            assert agreement is not None
            assert agreement[0]
            assert stroke.lung_level is not None
        assert placed[len(chest.lesions) :] == strokes[len(chest.lesions) :]
        assert [replace(stroke, organ=None, lung_level=None) for stroke in placed] == strokes
        both = place_strokes(strokes, index, RegionLocator(), studies=studies)
        assert [stroke.organ for stroke in both[: len(chest.lesions)]] == [
            stroke.organ for stroke in both[len(chest.lesions) :]
        ], "thin and thick slices of one body give the same organs"
    finally:
        index.close()


class Broken:
    name = "broken"

    def organ_at(self, volume, points_lps_mm) -> str | None:
        raise RuntimeError(f"secret text {volume} {points_lps_mm}")


class Named:
    """The least that a locator is: it gets the volume as it is."""

    name = "named"

    def organ_at(self, volume, points_lps_mm) -> str | None:
        return f"{volume.voxels.shape} {points_lps_mm.shape}"


def test_a_locator_of_anybody_gets_the_whole_volume_and_may_fail(export, chest, caplog) -> None:
    folder, studies = export
    index = index_export(folder)
    try:
        strokes = strokes_of(index, chest, studies[1])[:2]
        assert [s.organ for s in place_strokes(strokes, index, Named(), studies=studies)] == [
            "(36, 140, 140) (2, 3)"
        ] * 2
        assert place_strokes(strokes, index, Broken(), studies=studies) == strokes
        assert "RuntimeError" in caplog.text
        assert "secret" not in caplog.text
        arrow = replace(strokes[0], annotation=replace(strokes[0].annotation, kind=AnnotationKind.ARROW))
        assert place_strokes([arrow], index, Named(), studies=studies)[0].organ == "(36, 140, 140) (1, 3)"
    finally:
        index.close()


def test_pixels_that_cannot_be_read_cost_the_organ_alone(export, chest, tmp_path) -> None:
    folder, studies = export
    index = index_export(folder)
    try:
        strokes = strokes_of(index, chest, studies[1])
        gone = replace_paths(index, Path(tmp_path))
        assert place_strokes(strokes, gone, RegionLocator(), studies=studies) == strokes
    finally:
        index.close()


def replace_paths(index, folder: Path):
    """The same index after its files were moved away."""

    class Moved:
        def instances(self, series: str):
            return [replace(i, path=folder / "gone.dcm") for i in index.instances(series)]

    return Moved()


def test_affines_of_the_adapter_are_those_of_the_exporters() -> None:
    affine = np.array([[0, 0, 3.0, -20], [0, 2.0, 0, 7], [6.0, 0, 0, 100], [0, 0, 0, 1]])
    ras = nifti_affine(affine) @ [4, 5, 6, 1]
    assert np.allclose(ras[:3] * [-1, -1, 1], apply_affine(affine, [6, 5, 4]))
