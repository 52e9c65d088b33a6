"""Generated bodies: anatomy in place, Hounsfield units in range, lesions of the wanted size with exact, irregular masks."""

from __future__ import annotations

import itertools

import numpy as np
import pytest
import SimpleITK as sitk  # noqa: N813  the name its own documentation uses
from pydicom.uid import UID
from scipy import ndimage as ndi

from segmentation.ellipsoid import EllipsoidSegmenter
from segmentation.phantoms import (
    LABELS,
    LesionKind,
    LesionSpec,
    Organ,
    Phantom,
    PhantomError,
    PhantomLesion,
    Side,
    Touching,
    body_phantom,
    catalogue,
    random_lesion_specs,
)
from segmentation.prompts import draw_line
from segmentation.types import Mask, SegmentationJob

K, O, L, R = LesionKind, Organ, Side.LEFT, Side.RIGHT

CHEST = (
    LesionSpec(O.LUNG, R, 0.85, 24.0, K.SPICULATED),
    LesionSpec(O.LUNG, L, 0.1, 30.0, K.LOBULATED, Touching.WALL),
    LesionSpec(O.LUNG, L, 0.8, 18.0, K.GROUND_GLASS),
    LesionSpec(O.LUNG, R, 0.3, 36.0, K.NECROTIC),
    LesionSpec(O.LUNG, L, 0.5, 16.0, K.CALCIFIED),
    LesionSpec(O.LUNG, R, 0.6, 12.0, K.SOLID, Touching.VESSEL),
    LesionSpec(O.MEDIASTINUM, R, 0.6, 16.0, K.LYMPH_NODE),
)
ABDOMEN = (
    LesionSpec(O.LIVER, None, 0.7, 28.0, K.SOLID),
    LesionSpec(O.LIVER, None, 0.3, 20.0, K.CYST),
    LesionSpec(O.LIVER, None, 0.5, 45.0, K.NECROTIC),
    LesionSpec(O.LIVER, None, 0.6, 26.0, K.CALCIFIED, Touching.WALL),
    LesionSpec(O.KIDNEY, L, 0.5, 26.0, K.SOLID, Touching.WALL),
    LesionSpec(O.SPLEEN, None, None, 16.0, K.SOLID),
    LesionSpec(O.ADRENAL, R, None, 22.0, K.LOBULATED),
    LesionSpec(O.RETROPERITONEUM, L, 0.5, 16.0, K.LYMPH_NODE),
    LesionSpec(O.MESENTERY, R, 0.5, 18.0, K.LYMPH_NODE),
    LesionSpec(O.BONE, None, 0.5, 14.0, K.CALCIFIED),
)
SMALL = {"n_slices": 48, "spacing_mm": (5.0, 1.48, 1.48), "matrix": 256}


def draw(seed: int, specs: tuple[LesionSpec, ...], region: str, **options) -> Phantom:
    return body_phantom(np.random.default_rng(seed), specs, region=region, **{**SMALL, **options})


@pytest.fixture(scope="module")
def chest() -> Phantom:
    return draw(5, CHEST, "chest", with_labels=True)


@pytest.fixture(scope="module")
def abdomen() -> Phantom:
    return draw(6, ABDOMEN, "abdomen", with_labels=True)


@pytest.fixture(scope="module")
def both(chest, abdomen) -> list[tuple[Phantom, PhantomLesion]]:
    return [(p, lesion) for p in (chest, abdomen) for lesion in p.lesions]


@pytest.fixture(scope="module")
def full_size() -> Phantom:
    specs = (LesionSpec(O.LUNG, R, 0.5, 20.0, K.SOLID),)
    return body_phantom(np.random.default_rng(9), specs, region="chest", n_slices=20, padding_value=-2000)


def find(phantom: Phantom, organ: Organ, kind: LesionKind) -> tuple[np.ndarray, np.ndarray, PhantomLesion]:
    """(voxels, mask, lesion) of the one lesion of this organ and kind."""
    (lesion,) = [found for found in phantom.lesions if (found.spec.organ, found.spec.kind) == (organ, kind)]
    return phantom.volume.voxels, lesion.in_volume(phantom.volume.voxels.shape), lesion


def pixel_diameter_mm(mask: np.ndarray, spacing_mm: tuple[float, ...]) -> float:
    """Longest distance between two pixel centres of one slice, by comparing all pairs on the outline."""
    longest = 0.0
    for section in mask:
        points = np.argwhere(section & ~ndi.binary_erosion(section)) * spacing_mm[1:]
        if len(points):
            longest = max(longest, float(np.linalg.norm(points[:, None] - points[None], axis=-1).max()))
    return longest


# --- the volume -------------------------------------------------------------------------------------------------------


def test_the_same_seed_gives_the_same_bits():
    first, second = (draw(3, CHEST[:2], "chest", n_slices=30) for _ in range(2))
    assert np.array_equal(first.volume.voxels, second.volume.voxels)
    assert np.array_equal(first.volume.affine, second.volume.affine)
    assert first.volume.sop_instance_uids == second.volume.sop_instance_uids
    for a, b in zip(first.lesions, second.lesions, strict=True):
        assert (a.offset, a.location, a.centre_lps_mm) == (b.offset, b.location, b.centre_lps_mm)
        assert np.array_equal(a.mask, b.mask)


def test_lesions_change_the_body_only_where_they_are(chest):
    bare = draw(5, (), "chest")
    changed = chest.volume.voxels != bare.volume.voxels
    near = np.zeros(changed.shape, dtype=bool)
    for lesion in chest.lesions:
        near |= ndi.binary_dilation(lesion.in_volume(changed.shape), iterations=5)
    assert changed.any()
    # Noise follows the thickness of the body by tiny amounts, hence the rounding of single voxels.
    far = np.abs(chest.volume.voxels.astype(int) - bare.volume.voxels)[~near]
    assert (far > 4).mean() < 1e-3


def test_bodies_differ_between_seeds():
    first, second = (draw(seed, (), "chest", n_slices=12).volume for seed in (1, 2))
    outside = [(v.voxels < -500) for v in (first, second)]
    assert (outside[0] != outside[1]).mean() > 0.02
    assert first.series_instance_uid != second.series_instance_uid


def test_volume_geometry_is_supine_axial_feet_first(full_size):
    volume = full_size.volume
    assert volume.voxels.dtype == np.int16
    assert volume.voxels.shape == (20, 512, 512)
    assert volume.spacing_mm == pytest.approx((5.0, 0.74, 0.74))
    expected = np.array([[0, 0, 0.74], [0, 0.74, 0], [5.0, 0, 0]])  # LPS per (slice, row, column)
    assert np.allclose(volume.affine[:3, :3], expected)
    uids = [volume.series_instance_uid, volume.frame_of_reference_uid, *volume.sop_instance_uids]
    assert len(set(uids)) == len(uids) == 22
    assert all(UID(uid).is_valid for uid in uids)


def test_uids_of_the_caller_are_kept():
    uids = tuple(f"1.2.3.{i}" for i in range(6))
    options = {"series_instance_uid": "1.2.3", "frame_of_reference_uid": "1.2.4", "sop_instance_uids": uids}
    volume = draw(1, (), "chest", n_slices=6, matrix=128, spacing_mm=(5.0, 3.0, 3.0), **options).volume
    assert (volume.series_instance_uid, volume.frame_of_reference_uid) == ("1.2.3", "1.2.4")
    assert volume.sop_instance_uids == uids


def test_padding_lies_outside_the_circle_and_nowhere_else(full_size, chest):
    voxels = full_size.volume.voxels
    row, column = np.indices(voxels.shape[1:]) - 255.5
    outside = np.hypot(row, column) > 256
    assert (voxels[:, outside] == -2000).all()
    assert (voxels[:, ~outside] >= -1024).all()
    assert chest.volume.voxels.min() >= -1024


# --- the anatomy ------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("region", "label", "low", "high"),
    [
        ("chest", "fat", -115, -85),
        ("chest", "muscle", 45, 70),
        ("chest", "lung", -905, -800),
        ("chest", "airway", -1010, -850),
        ("chest", "heart", 95, 215),
        ("chest", "vessel", 110, 215),
        ("chest", "vertebra", 120, 300),
        ("abdomen", "liver", 98, 122),
        ("abdomen", "spleen", 112, 132),
        ("abdomen", "kidney", 130, 210),
        ("abdomen", "muscle", 45, 70),
        ("abdomen", "vessel", 130, 215),
    ],
)
def test_organs_have_their_hounsfield_units(request, region, label, low, high):
    phantom = request.getfixturevalue(region)
    inside = phantom.labels == LABELS[label]
    assert inside.sum() > 500
    deep = ndi.binary_erosion(inside, np.ones((1, 3, 3)))
    for lesion in phantom.lesions:
        deep &= ~ndi.binary_dilation(lesion.in_volume(deep.shape), iterations=2)
    assert low < np.median(phantom.volume.voxels[deep]) < high


def label_centre(phantom: Phantom, label: str) -> np.ndarray:
    """LPS centroid."""
    index = np.argwhere(phantom.labels == LABELS[label]).mean(axis=0)
    return phantom.volume.affine[:3, :3] @ index + phantom.volume.affine[:3, 3]


def test_organs_lie_where_they_belong(chest, abdomen):
    middle = abdomen.middle_x_mm
    assert label_centre(abdomen, "liver")[0] < middle - 20  # LPS x grows to the patient's left
    assert label_centre(abdomen, "spleen")[0] > middle + 40
    assert abs(label_centre(abdomen, "kidney")[0] - middle) < 12
    assert label_centre(abdomen, "liver")[2] > label_centre(abdomen, "kidney")[2]
    assert label_centre(chest, "heart")[0] > chest.middle_x_mm
    assert label_centre(chest, "vertebra")[1] > label_centre(chest, "heart")[1] + 40  # LPS y grows to the back
    assert label_centre(chest, "lung")[2] > label_centre(chest, "heart")[2]


def test_middle_of_the_body_is_the_midline(chest):
    columns = np.flatnonzero((chest.labels > 0).any(axis=(0, 1)))
    middle = chest.volume.affine[0, 3] + columns.mean() * 1.48
    assert chest.middle_x_mm == pytest.approx(middle, abs=8)


def test_noise_is_correlated_and_as_strong_as_asked():
    options = {"n_slices": 10, "spacing_mm": (5.0, 0.74, 0.74), "with_labels": True}
    quiet, usual = (draw(4, (), "abdomen", noise_hu=hu, **options) for hu in (0.0, 20.0))
    noise = usual.volume.voxels.astype(float) - quiet.volume.voxels
    body = (usual.labels > 0) & (np.abs(quiet.volume.voxels) < 300)
    assert 12 < noise[body].std() < 28
    neighbours = np.corrcoef(noise[:, :, 1:].ravel(), noise[:, :, :-1].ravel())[0, 1]
    assert 0.2 < neighbours < 0.8
    assert abs(np.corrcoef(noise[1:].ravel(), noise[:-1].ravel())[0, 1]) < 0.05


def test_noise_is_weaker_in_air():
    quiet, usual = (draw(4, (), "abdomen", n_slices=6, noise_hu=hu, with_labels=True) for hu in (0.0, 20.0))
    noise = usual.volume.voxels.astype(float) - quiet.volume.voxels
    free_air = (usual.labels == 0) & (quiet.volume.voxels > -1010)
    assert noise[free_air].std() < 0.8 * noise[usual.labels == LABELS["liver"]].std()


# --- the lesions ------------------------------------------------------------------------------------------------------


def test_diameters_are_met(both):
    for phantom, lesion in both:
        assert lesion.longest_diameter_mm == pytest.approx(lesion.spec.diameter_mm, rel=0.15)
        between_centres = pixel_diameter_mm(lesion.mask, phantom.volume.spacing_mm)
        assert between_centres == pytest.approx(lesion.spec.diameter_mm, rel=0.15, abs=2 * 1.48)


def test_masks_are_tight_in_one_piece_and_disjoint(both):
    for _, lesion in both:
        assert ndi.label(lesion.mask)[1] == 1
        assert all(lesion.mask.take(i, axis).any() for axis in range(3) for i in (0, -1))
    for (p, a), (q, b) in itertools.combinations(both, 2):
        if p is q:
            shape = p.volume.voxels.shape
            grown = ndi.binary_dilation(a.in_volume(shape))
            assert not (grown & b.in_volume(shape)).any()


def test_centres_agree_with_simpleitk(both):
    for phantom, lesion in both:
        volume = phantom.volume
        image = sitk.GetImageFromArray(lesion.in_volume(volume.voxels.shape).astype(np.uint8))
        image.SetSpacing(volume.spacing_mm[::-1])
        image.SetOrigin(volume.affine[:3, 3])
        statistics = sitk.LabelShapeStatisticsImageFilter()
        statistics.Execute(image)
        assert lesion.centre_lps_mm == pytest.approx(statistics.GetCentroid(1), abs=1e-3)


def test_sides_are_the_patients(both):
    for phantom, lesion in both:
        if lesion.spec.side is None:
            continue
        sign = 1 if lesion.spec.side == Side.LEFT else -1
        assert sign * (lesion.centre_lps_mm[0] - phantom.middle_x_mm) > 0
        if lesion.spec.organ in {O.LUNG, O.KIDNEY, O.ADRENAL}:
            assert lesion.spec.side.lower() in lesion.location


def test_lesions_lie_in_their_organ(both):
    home = {
        O.LUNG: ("lung", "vessel", "airway"),
        O.LIVER: ("liver", "vessel"),
        O.SPLEEN: ("spleen",),
        O.BONE: ("vertebra",),
    }
    for phantom, lesion in both:
        if lesion.spec.organ in home:
            labels = phantom.labels[lesion.in_volume(phantom.labels.shape)]
            assert np.isin(labels, [LABELS[name] for name in home[lesion.spec.organ]]).mean() > 0.85


def test_locations_follow_the_level():
    specs = [LesionSpec(O.LUNG, R, level, 10.0, K.SOLID) for level in (0.05, 0.95)]
    low, high = draw(8, specs, "chest").lesions
    assert low.location == "right lower lobe"
    assert high.location == "right upper lobe"
    assert high.centre_lps_mm[2] > low.centre_lps_mm[2] + 80


def test_touching_a_wall_or_a_vessel(chest):
    lung = np.isin(chest.labels, [LABELS[name] for name in ("lung", "airway", "vessel")])
    wall = ~ndi.binary_closing(lung, np.ones((1, 5, 5)))

    def contact(lesion: PhantomLesion, what: np.ndarray) -> float:
        mask = lesion.in_volume(what.shape)
        shell = ndi.binary_dilation(mask, np.ones((3, 3, 3))) & ~mask
        return float(what[shell].mean())

    by_touch = {
        t: [x for x in chest.lesions if x.spec.organ is O.LUNG and x.spec.touching == t] for t in ("wall", None)
    }
    assert all(contact(lesion, wall) > 0.1 for lesion in by_touch["wall"])
    assert all(contact(lesion, wall) < 0.1 for lesion in by_touch[None])
    (at_vessel,) = [lesion for lesion in chest.lesions if lesion.spec.touching == "vessel"]
    assert contact(at_vessel, chest.labels == LABELS["vessel"]) > 0.02


def test_lung_lesions_stand_out_from_the_lung(chest):
    for kind, low, high in (
        (K.SPICULATED, -250, 70),
        (K.SOLID, -350, 70),
        (K.LOBULATED, -150, 70),
        (K.GROUND_GLASS, -720, -400),
    ):
        voxels, mask, _ = find(chest, O.LUNG, kind)
        ring = ndi.binary_dilation(mask, np.ones((1, 3, 3)), iterations=4) & ~ndi.binary_dilation(mask, iterations=2)
        assert low < voxels[mask].mean() < high
        assert np.median(voxels[mask]) > np.median(voxels[ring & (chest.labels == LABELS["lung"])]) + 120


@pytest.mark.parametrize(
    ("organ", "kind", "low", "high"),
    [
        (O.LIVER, K.SOLID, 30, 90),
        (O.LIVER, K.CYST, -10, 35),
        (O.KIDNEY, K.SOLID, 40, 125),
        (O.SPLEEN, K.SOLID, 45, 105),
    ],
)
def test_lesions_of_enhancing_organs_are_darker(abdomen, organ, kind, low, high):
    voxels, mask, _ = find(abdomen, organ, kind)
    organ_hu = np.median(voxels[(abdomen.labels == LABELS[organ.value.lower()]) & ~mask])
    inside = float(np.median(voxels[mask]))
    assert low < inside < high
    assert inside < organ_hu - 18


def test_necrosis_is_darker_inside_than_at_the_rim(abdomen):
    voxels, mask, _ = find(abdomen, O.LIVER, K.NECROTIC)
    core = ndi.binary_erosion(mask, np.ones((1, 3, 3)), iterations=6)
    rim = mask & ~ndi.binary_erosion(mask, np.ones((1, 3, 3)), iterations=2)
    assert voxels[core].mean() < voxels[rim].mean() - 15


def test_calcifications_are_bright_spots_in_soft_tissue(abdomen):
    voxels, mask, _ = find(abdomen, O.LIVER, K.CALCIFIED)
    assert np.median(voxels[mask]) < 110
    assert voxels[mask].max() > 200


def test_nodes_are_soft_tissue_in_fat(abdomen):
    voxels, mask, _ = find(abdomen, O.MESENTERY, K.LYMPH_NODE)
    ring = ndi.binary_dilation(mask, np.ones((1, 3, 3)), iterations=4) & ~ndi.binary_dilation(mask, iterations=2)
    assert 20 < np.median(voxels[mask]) < 115
    assert np.median(voxels[ring]) < np.median(voxels[mask]) - 50


def dice(first: np.ndarray, second: np.ndarray) -> float:
    return float(2 * (first & second).sum() / (first.sum() + second.sum()))


def test_lesions_are_not_balls(both):
    """The ball of the same volume and centre overlaps imperfectly with each, and poorly with most."""
    overlaps = []
    for phantom, lesion in both:
        spacing = np.array(phantom.volume.spacing_mm)
        mask = np.pad(lesion.mask, ((4, 4), (8, 8), (8, 8)))
        grid = np.indices(mask.shape).reshape(3, -1).T * spacing
        distance = np.linalg.norm(grid - np.argwhere(mask).mean(axis=0) * spacing, axis=1).reshape(mask.shape)
        ball = distance <= np.sort(distance.ravel())[mask.sum() - 1]
        overlaps.append(dice(mask, ball))
    assert max(overlaps) < 0.95
    assert np.mean(overlaps) < 0.85


def test_the_ellipsoid_of_the_line_is_not_the_lesion(both):
    rng = np.random.default_rng(0)
    segmenter = EllipsoidSegmenter()
    scores = []
    for phantom, lesion in both:
        truth = lesion.in_volume(phantom.volume.voxels.shape)
        job = SegmentationJob("lesion", phantom.volume, (draw_line(truth, rng, spacing_mm=phantom.volume.spacing_mm),))
        (answer,) = segmenter.segment([job])
        assert isinstance(answer, Mask)
        scores.append(dice(answer.in_volume(truth.shape), truth))
    assert 0.4 < np.mean(scores) < 0.8


def test_heights_vary(both):
    heights = [x.mask.shape[0] * 5.0 / x.longest_diameter_mm for _, x in both if x.spec.diameter_mm > 20]
    assert max(heights) > 1.15 * min(heights)
    assert 0.35 < min(heights) < max(heights) < 2.0


# --- asking -----------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    "arguments",
    [
        (O.LIVER, "LEFT", None, 20.0, K.SOLID),
        (O.LIVER, None, None, 20.0, K.GROUND_GLASS),
        (O.LUNG, "MIDDLE", None, 20.0, K.SOLID),
        (O.LUNG, L, 1.5, 20.0, K.SOLID),
        (O.LUNG, L, None, float("nan"), K.SOLID),
        (O.LUNG, L, None, 500.0, K.SOLID),
        (O.SPLEEN, None, None, 20.0, K.SOLID, "vessel"),
        ("HEART", None, None, 20.0, K.SOLID),
    ],
)
def test_impossible_lesions_are_refused(arguments):
    with pytest.raises(PhantomError):
        LesionSpec(*arguments)


def test_no_room_and_no_organ_are_said():
    huge = LesionSpec(O.BONE, None, None, 60.0, K.SOLID)
    with pytest.raises(PhantomError, match="no room for a 60 mm SOLID lesion in BONE"):
        draw(1, (huge,), "abdomen", n_slices=12)
    with pytest.raises(PhantomError, match="does not show the lung"):
        draw(1, CHEST[:1], "abdomen", n_slices=8)


@pytest.mark.parametrize(
    "options",
    [
        {"n_slices": 2},
        {"matrix": 16},
        {"spacing_mm": (5.0, 0.7, 0.8)},
        {"spacing_mm": (0.0, 0.7, 0.7)},
        {"padding_value": -500},
        {"region": "head"},
    ],
)
def test_impossible_scans_are_refused(options):
    with pytest.raises(PhantomError):
        draw(1, (), **{"region": "chest", **options})


@pytest.mark.parametrize("region", ["chest", "abdomen", "chest_abdomen"])
def test_random_specs_fit_the_catalogue(region):
    specs = random_lesion_specs(np.random.default_rng(2), region, 60)
    assert specs == random_lesion_specs(np.random.default_rng(2), region, 60)
    assert len({spec.organ for spec in specs}) > 2
    for spec in specs:
        entry = catalogue()[spec.organ]
        low, high = entry.diameter_mm
        assert region in entry.regions
        assert low <= spec.diameter_mm <= high


def test_random_specs_keep_wanted_diameters():
    specs = random_lesion_specs(np.random.default_rng(3), "chest", 3, diameters_mm=[7.0, 15.0, 55.0])
    assert [spec.diameter_mm for spec in specs] == [7.0, 15.0, 55.0]
    with pytest.raises(PhantomError, match="2 diameters for 3"):
        random_lesion_specs(np.random.default_rng(3), "chest", 3, diameters_mm=[7.0, 8.0])
    with pytest.raises(PhantomError, match="no organ of the abdomen"):
        random_lesion_specs(np.random.default_rng(3), "abdomen", 1, diameters_mm=[110.0])


@pytest.mark.parametrize("seed", [11, 12, 13])
def test_random_bodies_hold_their_lesions(seed):
    region, dz = (("chest", 2.5), ("abdomen", 5.0), ("chest", 5.0))[seed - 11]
    specs = random_lesion_specs(np.random.default_rng(seed), region, 4)
    phantom = draw(seed, specs, region, n_slices=40, spacing_mm=(dz, 1.48, 1.48))
    total = np.zeros(phantom.volume.voxels.shape, dtype=int)
    for spec, lesion in zip(specs, phantom.lesions, strict=True):
        assert lesion.spec == spec
        assert lesion.longest_diameter_mm == pytest.approx(spec.diameter_mm, rel=0.15)
        total += lesion.in_volume(total.shape)
    assert total.max() == 1
