"""Pictures show the patient the right way round, to scale, with the drawing and the contour where they belong."""

from __future__ import annotations

import io
import itertools
from dataclasses import replace
from typing import Any

import nibabel as nib
import numpy as np
import pytest
from nibabel import orientations
from numpy.typing import NDArray
from PIL import Image
from records import SPACING, finding, phrase, volume

from exports import ExportError, FindingRecord, contact_sheet, finding_picture, preview_png
from exports.scene import scene_of

YELLOW, CYAN = (255, 210, 63), (61, 219, 217)
SOURCE = volume()


def pixels(picture: Image.Image, colour: tuple[int, int, int], tolerance: int = 40) -> NDArray[np.int64]:
    """(n, 2) row and column of the pixels of ``colour``."""
    distance = np.abs(np.asarray(picture.convert("RGB"), dtype=np.int64) - colour).max(axis=2)
    return np.argwhere(distance <= tolerance)


def panels(picture: Image.Image) -> list[Image.Image]:
    """The axial, coronal and sagittal panel, cut from the middle of the three thirds (see ``preview_png``)."""
    width = picture.width // 3
    return [picture.crop((n * width, 0, (n + 1) * width, picture.height)) for n in range(3)]


def preview(record: FindingRecord) -> Image.Image:
    return Image.open(io.BytesIO(preview_png(record))).convert("RGB")


def with_voxels(record: FindingRecord, image: NDArray[np.int16]) -> FindingRecord:
    return replace(record, image=np.ascontiguousarray(image.astype(np.int16)))


def marked(axis: int, side: int) -> FindingRecord:
    """A dark cube, bright from the lesion's middle on towards one side of ``axis`` of the region (i, j, k)."""
    record = finding(SOURCE)
    middle = np.argwhere(record.mask).mean(axis=0)
    index = np.indices(record.image.shape)[axis]
    bright = index > middle[axis] + 5 if side > 0 else index < middle[axis] - 5
    if axis == 2:
        bright = index > middle[2] + 2 if side > 0 else index < middle[2] - 2
    return with_voxels(record, np.where(bright, 120, -300))


# The region's i runs to the patient's left, j to the back, k to the head.
@pytest.mark.parametrize(
    ("axis", "side", "panel", "edge"),
    [
        (0, +1, 0, "right"),  # left of the patient: right of the axial picture
        (0, -1, 0, "left"),
        (1, +1, 0, "bottom"),  # back: bottom of the axial picture
        (1, -1, 0, "top"),
        (0, +1, 1, "right"),
        (2, +1, 1, "top"),  # head: top of the coronal picture
        (2, -1, 1, "bottom"),
        (1, +1, 2, "right"),  # back: right of the sagittal picture
        (2, +1, 2, "top"),
    ],
)
def test_the_patient_is_the_right_way_round(axis: int, side: int, panel: int, edge: str) -> None:
    grey = np.asarray(panels(preview(marked(axis, side)))[panel].convert("L"), dtype=float)
    n = grey.shape[0] // 5
    middle = slice(2 * n, 3 * n)
    strips = {
        "left": grey[middle, n // 4 : n],
        "right": grey[middle, -n : -n // 4],
        "top": grey[n // 2 : n, middle],
        "bottom": grey[-n : -n // 2, middle],
    }
    opposite = {"left": "right", "right": "left", "top": "bottom", "bottom": "top"}[edge]
    assert np.median(strips[edge]) > np.median(strips[opposite]) + 100


def turned(record: FindingRecord, codes: str) -> FindingRecord:
    """The same record stored in another axis order, turned by nibabel."""
    affine = record.affine_ras
    turn = orientations.ornt_transform(orientations.io_orientation(affine), orientations.axcodes2ornt(tuple(codes)))
    image = nib.Nifti1Image(record.image, affine).as_reoriented(turn)
    mask = nib.Nifti1Image(record.mask, affine).as_reoriented(turn)
    annotation = record.annotations[0]
    points = nib.affines.apply_affine(np.linalg.inv(image.affine), np.asarray(annotation.points_ras_mm))
    return replace(
        record,
        image=np.ascontiguousarray(image.dataobj),
        mask=np.ascontiguousarray(mask.dataobj),
        affine_ras=image.affine,
        annotations=(replace(annotation, points_ijk=tuple(map(tuple, points.tolist()))),),
    )


@pytest.mark.parametrize("codes", ["LPS", "RAS", "LAS", "SPL", "PIR", "ASR"])
def test_the_picture_does_not_depend_on_the_storage_order(codes: str) -> None:
    record = finding(SOURCE)
    expected, got = np.asarray(preview(record), dtype=int), np.asarray(preview(turned(record, codes)), dtype=int)
    assert (np.abs(expected - got).max(axis=2) > 30).mean() < 1e-3


def test_a_sphere_is_round_in_every_plane_whatever_the_spacing() -> None:
    record = finding(SOURCE, radii_mm=(9.0, 9.0, 9.0))
    for plane in panels(preview(record)):
        ring = pixels(plane, CYAN, 60)
        height, width = np.ptp(ring, axis=0)
        # one slice is 2.5 mm: up to a seventh of the sphere
        assert height / width == pytest.approx(1, abs=0.16)


@pytest.mark.parametrize("radii", [(8.5, 6.0, 7.0), (12.0, 9.0, 8.0), (4.0, 3.0, 5.0)])
def test_line_and_contour_have_the_same_scale_and_place(radii: tuple[float, float, float]) -> None:
    record = finding(SOURCE, radii_mm=radii)
    axial = panels(preview(record))[0]
    ring, line = pixels(axial, CYAN, 60), pixels(axial, YELLOW, 60)
    mm_per_pixel = 2 * (max(radii) + 20) / axial.width
    # a voxel and the lines' own width
    assert np.ptp(line[:, 1]) * mm_per_pixel == pytest.approx(2 * radii[0], abs=1.6)
    assert np.ptp(ring[:, 1]) * mm_per_pixel == pytest.approx(2 * radii[0], abs=1.6)
    assert np.abs(line.mean(axis=0) - ring.mean(axis=0)).max() * mm_per_pixel < 1.6


@pytest.mark.parametrize("kind", ["LINE", "BIDIMENSIONAL", "ARROW", "POINTER", "OUTLINE"])
def test_every_kind_of_drawing_is_seen(kind: str) -> None:
    axial = panels(preview(finding(SOURCE, kind=kind)))[0]
    plain = panels(preview(replace(finding(SOURCE, kind=kind), annotations=())))[0]
    assert len(pixels(axial, YELLOW, 60)) > len(pixels(plain, YELLOW, 60)) + 20


def test_an_arrow_has_its_head_at_the_lesion() -> None:
    record = finding(SOURCE, kind="ARROW")
    yellow = pixels(panels(preview(record))[0], YELLOW, 60)
    ring = pixels(panels(preview(record))[0], CYAN, 60)
    distance = np.hypot(*(yellow - ring.mean(axis=0)).T)
    near, far = distance < np.quantile(distance, 0.3), distance > np.quantile(distance, 0.7)
    across = [np.linalg.svd(yellow[part] - yellow[part].mean(axis=0))[1][1] / part.sum() ** 0.5 for part in (near, far)]
    assert across[0] > across[1]


def test_the_grey_scale_follows_the_tissue() -> None:
    record = finding(SOURCE)
    solid = with_voxels(record, np.full(record.image.shape, 50))
    bone = with_voxels(record, np.full(record.image.shape, 700))
    outside = with_voxels(record, np.full(record.image.shape, -1000))
    assert [scene_of(r).window for r in (record, solid, bone, outside)] == [
        "lung",
        "soft tissue",
        "bone",
        "soft tissue",
    ]


@pytest.mark.parametrize("shape", [(300, 280, 120), (40, 40, 6)])
def test_the_preview_is_small_bare_and_the_same_every_time(shape: tuple[int, int, int]) -> None:
    rng = np.random.default_rng(5)
    mask = np.zeros(shape, dtype=np.uint8)
    mask[tuple(slice(n // 3, 2 * n // 3) for n in shape)] = 1
    noise = rng.integers(-400, 500, shape).astype(np.int16)  # white noise compresses worst
    record = replace(finding(SOURCE), image=noise, mask=mask, annotations=())
    encoded = preview_png(record)
    assert len(encoded) <= 60_000
    assert encoded == preview_png(record)
    assert Image.open(io.BytesIO(encoded)).info == {}


def test_a_published_row_draws_the_same_picture_as_its_record() -> None:
    record = finding(SOURCE)
    row = published_row(record)
    arrays = row | {"image": record.image, "mask": record.mask > 0, "affine_ras": record.affine_ras}
    expected = finding_picture(record).tobytes()
    assert finding_picture(row).tobytes() == expected
    assert finding_picture(arrays).tobytes() == expected


def published_row(record: FindingRecord) -> dict[str, Any]:
    """As ``load_dataset`` gives it: decoded NIfTI, lists."""
    from exports.schema import finding_row

    row = finding_row(record, b"")
    return row | {name: nib.Nifti1Image.from_bytes(row[name]["bytes"]) for name in ("image", "mask")}


@pytest.mark.parametrize(
    "text", ["costs $5 or $10 \\frac{1}{", "結節 in the lung", "line\nbreak\tand   blanks", "é ä × ≤ “q”", "x" * 4000]
)
def test_no_words_can_break_a_picture(text: str) -> None:
    record = replace(finding(SOURCE), said=phrase("f", "r", text))
    assert finding_picture(record).size == finding_picture(finding(SOURCE)).size


def test_the_words_are_on_the_picture() -> None:
    said, unsaid = finding(SOURCE), finding(SOURCE, said=False)
    captions = [np.asarray(finding_picture(record))[-150:, :] for record in (said, unsaid)]
    assert not np.array_equal(captions[0], captions[1])
    assert all((caption.min(axis=2) > 200).sum() > 500 for caption in captions)


@pytest.mark.parametrize(("n", "columns", "across", "down"), [(1, 4, 1, 1), (5, 4, 4, 2), (3, 2, 2, 2)])
def test_a_contact_sheet_is_a_grid(n: int, columns: int, across: int, down: int) -> None:
    sheet = contact_sheet([finding(SOURCE, number) for number in range(n)], columns)
    one = contact_sheet([finding(SOURCE)])
    assert sheet.size == (one.width * across, one.height * down)
    cells = itertools.product(range(down), range(across))
    filled = [
        len(pixels(sheet.crop((c * one.width, r * one.height, (c + 1) * one.width, (r + 1) * one.height)), CYAN)) > 50
        for r, c in cells
    ]
    assert filled == [index < n for index in range(across * down)]


def test_a_contact_sheet_of_nothing_is_refused() -> None:
    with pytest.raises(ExportError, match="at least one row"):
        contact_sheet([])


def test_the_spacing_of_the_scene_is_that_of_the_affine() -> None:
    assert scene_of(turned(finding(SOURCE), "SPL")).spacing == pytest.approx(SPACING)
