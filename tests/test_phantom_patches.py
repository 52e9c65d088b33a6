"""Training patches: what is promised of every patch, and the geometry behind them against closed forms."""

from pathlib import Path

import nibabel as nib
import numpy as np
import pytest
from hypothesis import assume, given, settings
from hypothesis import strategies as st
from scipy.ndimage import label

from segmentation.metrics import dice, longest_diameter_mm
from segmentation.phantoms import PhantomError, body_phantom
from segmentation.phantoms.canvas import SmoothField
from segmentation.phantoms.patch_backgrounds import Place, Tissue, plain_volume
from segmentation.phantoms.patch_grids import Grid
from segmentation.phantoms.patch_lesions import paint_lesion
from segmentation.phantoms.patch_limbs import limb_volume
from segmentation.phantoms.patch_outlines import Outline, random_outline
from segmentation.phantoms.patches import (
    Background,
    Backgrounds,
    Patch,
    augmented_real,
    generated_sample,
    load_backgrounds,
)
from segmentation.phantoms.shapes import Shape
from segmentation.phantoms.types import LesionKind

SEEDS = st.integers(0, 2**32 - 1)


@pytest.fixture(scope="module")
def backgrounds() -> Backgrounds:
    rng = np.random.default_rng(5)
    body = body_phantom(rng, [], region="chest", n_slices=36, spacing_mm=(5.0, 2.2, 2.2), matrix=170, noise_hu=0.0)
    return Backgrounds([Background(body.volume), Background(plain_volume(*limb_volume(rng)))])


def extents_mm(patch: Patch) -> list[tuple[float, float, float]]:
    """(room before, extent, room after) of the lesion along (slice, row, column)."""
    result = []
    for axis, step in enumerate(patch.volume.spacing_mm):
        hit = np.flatnonzero(patch.truth.any(axis=tuple(a for a in range(3) if a != axis)))
        result.append((hit[0] * step, (hit[-1] - hit[0] + 1) * step, (patch.truth.shape[axis] - 1 - hit[-1]) * step))
    return result


@settings(max_examples=25, deadline=None)
@given(seed=SEEDS)
def test_every_generated_patch_keeps_what_is_promised(backgrounds: Backgrounds, seed: int) -> None:
    patch = generated_sample(np.random.default_rng(seed), backgrounds)

    voxels, truth = patch.volume.voxels, patch.truth
    assert truth.shape == voxels.shape
    assert truth.dtype == np.bool_
    assert all(n <= most for n, most in zip(voxels.shape, (52, 112, 112), strict=True))
    assert label(truth)[1] == 1, "one connected lesion"
    z_mm, y_mm, x_mm = patch.volume.spacing_mm
    diameter = longest_diameter_mm(truth, patch.volume.spacing_mm)
    assert 3 < diameter < 175
    assert y_mm == pytest.approx(x_mm)
    assert y_mm >= 0.6
    assert y_mm <= 1.0 or voxels.shape[1] >= 108, "coarse pixels only where fine ones would be too many"
    assert z_mm >= 1.0
    (below, height, above), *in_plane = extents_mm(patch)
    assert min(min(before, after) for before, _, after in in_plane) >= 0.8 * diameter
    if len(voxels) < 52:
        assert min(below, above) >= 0.9 * height + 3 * z_mm - 1e-3
    assert min(below, above) >= 3 * z_mm, "an end of the lesion can always be seen"


@settings(max_examples=5, deadline=None)
@given(seed=SEEDS)
def test_the_same_state_gives_the_same_patch(backgrounds: Backgrounds, seed: int) -> None:
    first, second = (generated_sample(np.random.default_rng(seed), backgrounds) for _ in range(2))

    assert np.array_equal(first.volume.voxels, second.volume.voxels)
    assert np.array_equal(first.truth, second.truth)
    assert np.array_equal(first.volume.affine, second.volume.affine)


def test_patches_are_of_every_size_and_mostly_visible(backgrounds: Backgrounds) -> None:
    diameters, contrasts = [], []
    rng = np.random.default_rng(1)
    for _ in range(40):
        patch = generated_sample(rng, backgrounds)
        diameters.append(longest_diameter_mm(patch.truth, patch.volume.spacing_mm))
        inside, outside = patch.volume.voxels[patch.truth], patch.volume.voxels[~patch.truth]
        contrasts.append(abs(float(np.median(inside)) - float(np.median(outside))))

    assert min(diameters) < 12
    assert max(diameters) > 90
    assert np.median(contrasts) > 20


def sphere(diameter_mm: float, height: float = 1.0) -> Outline:
    field = SmoothField.random(np.random.default_rng(0), (-2, -2, -2), (2, 2, 2), 1.0)
    none4, none5 = np.zeros((0, 4), np.float32), np.zeros((0, 5), np.float32)
    shape = Shape(
        LesionKind.SOLID,
        axes=(height, 1.0, 1.0),
        turn=0.0,
        lean=(0.0, 0.0),
        bend=0.0,
        lobes=none4,
        spikes=none5,
        noise=(0.0, 0.0),
        fields=(field, field),
        spots=none5,
        core=None,
        softness=0.0,
        texture_hu=0.0,
    )
    half = diameter_mm / 2
    return Outline(shape, half, (0.0, 0.0, 0.0), diameter_mm, diameter_mm, height * diameter_mm, 0.0, None)


@pytest.mark.parametrize("thickness_mm", [1.0, 2.5, 5.0])
@pytest.mark.parametrize(("diameter_mm", "height"), [(12.0, 1.0), (40.0, 0.5), (30.0, 1.8)])
def test_the_mask_has_the_volume_of_the_ellipsoid(thickness_mm: float, diameter_mm: float, height: float) -> None:
    grid = Grid((int(height * diameter_mm / thickness_mm) + 14, 90, 90), (thickness_mm, 0.7, 0.7))
    hu = np.full(grid.shape, -100, dtype=np.float32)

    truth = paint_lesion(
        np.random.default_rng(0),
        hu,
        grid.axes(),
        sphere(diameter_mm, height),
        Tissue.FAT,
        base_hu=40.0,
        blur=(0.0, 0.4, 0.4),
        simple=True,
    )

    assert truth is not None
    exact = np.pi / 6 * diameter_mm**3 * height
    assert truth.sum() * thickness_mm * 0.7**2 == pytest.approx(exact, rel=0.06)
    assert dice(hu > -30, truth) > 0.93, "the image shows the lesion where the mask says it is"


@settings(max_examples=15, deadline=None)
@given(seed=SEEDS, diameter_mm=st.floats(8, 150), tissue=st.sampled_from(list(Tissue)), simple=st.booleans())
def test_an_outline_has_the_diameter_asked_for(seed: int, diameter_mm: float, tissue: Tissue, simple: bool) -> None:
    outline = random_outline(np.random.default_rng(seed), tissue, diameter_mm, simple=simple)
    axis = (np.arange(-40, 41) * diameter_mm / 53).astype(np.float32)
    tall = (np.arange(-40, 41) * outline.height_mm / 66).astype(np.float32)
    assume(outline.tube_mm is None)  # what a lesion wraps is cut out of it

    inside = outline.level_mm(tall, axis, axis) > 0

    spacing = (outline.height_mm / 66, diameter_mm / 53, diameter_mm / 53)
    assert longest_diameter_mm(inside, spacing) == pytest.approx(diameter_mm, rel=0.12)
    hit = np.flatnonzero(inside.any(axis=(1, 2)))
    assert (hit[-1] - hit[0] + 1) * spacing[0] == pytest.approx(outline.height_mm, rel=0.2)
    assert abs(tall[hit[0]] + tall[hit[-1]]) < 0.2 * outline.height_mm, "in the middle of its box"


@settings(max_examples=20, deadline=None)
@given(seed=SEEDS)
def test_pushing_aside_folds_nothing(seed: int) -> None:
    outline = random_outline(np.random.default_rng(seed), Tissue.SOFT, 50.0, simple=False)
    axis = np.linspace(-120, 120, 61).astype(np.float32)

    factor = outline.displacement(axis, axis, axis)

    if factor is None:
        assert outline.push == 0
    else:
        looked_up = factor[:, 30, 30] * axis
        assert (np.diff(looked_up) > 0).all()
        assert abs(looked_up[0] - axis[0]) < 0.35 * outline.push * 120


def test_lesions_keep_off_real_ones() -> None:
    voxels = np.full((40, 90, 90), 50, dtype=np.float32)
    forbidden = np.zeros(voxels.shape, dtype=bool)
    forbidden[10:30, 20:40, 20:40] = True
    source = Backgrounds([Background(plain_volume(voxels, (3.0, 2.0, 2.0)), forbidden)])
    rng = np.random.default_rng(0)
    real = np.argwhere(forbidden) * (3.0, 2.0, 2.0)

    places = [source.place(rng, Tissue.SOFT, 20.0, clear_mm=25.0) for _ in range(50)]

    centres = np.array([place.centre for place in places if place is not None]) * (3.0, 2.0, 2.0)
    assert len(centres) == 50
    assert min(np.linalg.norm(real - centre, axis=1).min() for centre in centres) > 21  # 25 less a coarse voxel
    assert np.ptp(centres, axis=0).min() > 40
    assert source.place(rng, Tissue.LUNG, 20.0, clear_mm=0.0) is None


def test_no_room_is_said() -> None:
    air = plain_volume(np.full((12, 30, 30), -1000, dtype=np.float32), (3.0, 1.0, 1.0))

    with pytest.raises(PhantomError, match="no room for a lesion in 1 backgrounds"):
        generated_sample(np.random.default_rng(0), Backgrounds([Background(air)]))
    with pytest.raises(PhantomError, match="at least one CT"):
        Backgrounds([])
    with pytest.raises(PhantomError, match="forbidden must have the volume's shape"):
        Background(air, np.zeros((2, 2, 2), dtype=bool))


def test_nifti_backgrounds_are_read_upright_and_label_maps_passed_over(tmp_path: Path) -> None:
    hu = np.full((40, 44, 24), -1000, dtype=np.int16)  # x to the left of the patient, y to the front, z to the head
    hu[5:35, 5:39] = 40
    hu[30, 33, 4] = 900  # left, front, feet
    affine = np.diag([-2.0, 2.0, 3.0, 1.0])
    nib.save(nib.Nifti1Image(hu, affine), tmp_path / "ct.nii.gz")
    nib.save(nib.Nifti1Image((hu > 0).astype(np.uint8), affine), tmp_path / "labels.nii.gz")
    empty = tmp_path / "empty"
    empty.mkdir()

    source = load_backgrounds([tmp_path], generated=False)

    assert len(source) == 1
    here = np.zeros((3, 1, 1, 1), dtype=np.float32)
    values, voxel_mm = source.sample(Place(0, (4.0, 44 - 1 - 33, 30.0)), here, (3.0, 2.0, 2.0))
    assert values.item() == 900
    assert voxel_mm == (3.0, 2.0, 2.0)
    with pytest.raises(PhantomError, match="no NIfTI CT in the folder 'empty'"):
        load_backgrounds([empty], generated=False)


def test_a_coarse_patch_sees_means_and_air_beside_the_scan() -> None:
    stripes = np.zeros((8, 64, 64), dtype=np.float32)
    stripes[:, :, ::2] = 100
    source = Backgrounds([Background(plain_volume(stripes, (3.0, 1.0, 1.0)))])
    offsets = np.zeros((3, 1, 1, 3), dtype=np.float32)
    offsets[2, 0, 0] = (0, 3.7, 100)

    coarse, _ = source.sample(Place(0, (4.0, 30.5, 30.5)), offsets, (3.0, 2.0, 2.0))
    fine, _ = source.sample(Place(0, (4.0, 30.0, 30.0)), offsets, (3.0, 0.8, 0.8))

    assert coarse[0, 0] == pytest.approx([50, 50, -1000])
    assert fine[0, 0, 0] == pytest.approx(100)


@settings(max_examples=10, deadline=None)
@given(seed=SEEDS)
def test_a_deformed_real_lesion_takes_its_mask_along(seed: int) -> None:
    z, y, x = np.mgrid[0:40, 0:90, 0:90].astype(np.float32)
    truth = ((z - 19) * 3 / 24) ** 2 + ((y - 50) / 22) ** 2 + ((x - 42) / 15) ** 2 < 1
    volume = plain_volume(np.where(truth, 600, -400).astype(np.float32), (3.0, 1.0, 1.0))

    patch = augmented_real(np.random.default_rng(seed), volume, truth)

    assert patch.truth.any()
    assert dice(patch.volume.voxels > 100, patch.truth) > 0.95
    size = patch.truth.sum() * np.prod(patch.volume.spacing_mm)
    assert 0.15 < size / (truth.sum() * 3.0) < 6
    again = augmented_real(np.random.default_rng(seed), volume, truth)
    assert np.array_equal(again.volume.voxels, patch.volume.voxels)
    assert np.array_equal(again.truth, patch.truth)


@settings(max_examples=30, deadline=None)
@given(seed=SEEDS, axis=st.integers(0, 2), at_end=st.booleans(), gap=st.integers(-2, 3))
def test_a_lesion_near_the_border_of_its_scan_has_no_ghost(seed: int, axis: int, at_end: bool, gap: int) -> None:
    shape, radius = np.array((24, 70, 80)), np.array((4.0, 9.0, 9.0))
    centre = (shape - 1) / 2
    centre[axis] = radius[axis] + gap
    if at_end:
        centre[axis] = shape[axis] - 1 - centre[axis]
    z, y, x = ((np.arange(n) - c) / r for n, c, r in zip(shape, centre, radius, strict=True))
    truth = z[:, None, None] ** 2 + y[:, None] ** 2 + x**2 < 1
    volume = plain_volume(np.where(truth, 2500, -400).astype(np.float32), (3.0, 1.0, 1.0))

    patch = augmented_real(np.random.default_rng(seed), volume, truth)

    assert patch.truth.any()
    assert not np.any(~patch.truth & (patch.volume.voxels > 1900))


def test_a_real_lesion_needs_its_mask() -> None:
    volume = plain_volume(np.zeros((8, 20, 20), dtype=np.float32), (3.0, 1.0, 1.0))

    with pytest.raises(PhantomError, match="truth is empty"):
        augmented_real(np.random.default_rng(0), volume, np.zeros((8, 20, 20), dtype=bool))
    with pytest.raises(PhantomError, match="truth must have the volume's shape"):
        augmented_real(np.random.default_rng(0), volume, np.zeros((8, 20, 21), dtype=bool))


def test_a_limb_has_skin_fat_muscle_and_bone() -> None:
    hu, spacing_mm = limb_volume(np.random.default_rng(2))

    body = hu > -300
    litres = body.sum() * np.prod(spacing_mm) / 1e6
    assert 1.5 < litres < 11
    assert 0.3 < np.mean((hu[body] > 10) & (hu[body] < 100)) < 0.97, "mostly muscle"
    assert np.mean((hu[body] > -130) & (hu[body] < -60)) > 0.02, "fat"
    assert all((section > 700).sum() > 40 for section in hu), "bone on every slice"
    assert (hu[:, 0] < -900).all(), "air round it"
