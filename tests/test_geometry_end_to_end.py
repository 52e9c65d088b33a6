"""From what is drawn on a slice to what is published, for geometries in which a swapped axis or a sign would show.

Every case is a CT with unequal spacings and a matrix that is not square, made from a scene in patient space (a body and
a ball in it), so the truth is known without any of our formulas. What is published is read with nibabel and SimpleITK
and held against that scene, against highdicom's own transformers, and against the source pixels.
"""

from __future__ import annotations

import gzip
import io
import json
import random
from dataclasses import dataclass
from pathlib import Path

import dicom
import highdicom.spatial
import nibabel
import numpy as np
import pyarrow.parquet as pq
import pytest
import SimpleITK
from pydicom.dataset import Dataset

from cohort_builder import BuildConfig, build_cohort
from nlp.types import Report

RADIUS_MM = 9.0
TURNED = np.linalg.qr(np.random.default_rng(5).normal(size=(3, 3)))[0]
TURNED *= np.sign(np.linalg.det(TURNED))
NEARLY_AXIAL = (0.999391, 0.0, -0.034899, 0.0, 1.0, 0.0)  # 2 degrees about y, as scanners write it


@dataclass(frozen=True)
class Case:
    """One CT: how it lies in the patient. ``side`` is the ball's, 26 mm off the body's middle along LPS x."""

    name: str
    orientation: tuple[float, ...] = dicom.AXIAL
    spacing: tuple[float, float] = (1.3, 0.9)
    step_mm: float = 3.0
    shape: tuple[int, int] = (92, 144)
    middle: tuple[float, float, float] = (3.0, -20.0, 55.0)
    side: str | None = "LEFT"
    decimals: int | None = None
    slope: float = 1.0
    signed: bool = False
    reverse: bool = False
    drift_mm: float = 0.0

    @property
    def normal(self) -> np.ndarray:
        return np.cross(self.orientation[:3], self.orientation[3:])

    @property
    def ball(self) -> np.ndarray:
        return np.asarray(self.middle) + np.array([26.0 if self.side != "RIGHT" else -26.0, 4.0, 5.0])


CASES = (
    Case("supine"),
    Case("right", side="RIGHT", slope=0.5, signed=True),
    Case("prone", orientation=(-1, 0, 0, 0, -1, 0)),
    Case("feet_first", orientation=(-1, 0, 0, 0, 1, 0)),
    Case("feet_first_prone", orientation=(1, 0, 0, 0, -1, 0), side="RIGHT"),
    Case("coronal", orientation=(1, 0, 0, 0, 0, -1)),
    Case("sagittal", orientation=(0, 1, 0, 0, 0, -1), side=None),
    Case("oblique", orientation=tuple(TURNED[:2].ravel()), side=None),
    Case("tall_pixels", spacing=(0.7, 1.4), shape=(150, 88), reverse=True),
    Case("far_away", middle=(1503.2, -2310.7, 4021.9), reverse=True),
    Case("rounded", orientation=NEARLY_AXIAL, decimals=1, step_mm=2.5),
    # 0.1 mm sideways over 75 mm: within rounding, and more than NIfTI's qform and ITK can hold.
    Case("drifting", drift_mm=0.004),
)


def series(case: Case, study: dicom.StudyInfo) -> list[Dataset]:
    n = 26
    row, column = np.asarray(case.orientation[:3]), np.asarray(case.orientation[3:])
    extent = [(case.shape[1] - 1) * case.spacing[1], (case.shape[0] - 1) * case.spacing[0], (n - 1) * case.step_mm]
    first = np.asarray(case.middle) - (row * extent[0] + column * extent[1] + case.normal * extent[2]) / 2
    positions = [first + i * (case.step_mm * case.normal + case.drift_mm * row) for i in range(n)]
    if case.decimals is not None:
        positions = [np.round(position, case.decimals) for position in positions]
    across, down = np.meshgrid(np.arange(case.shape[1]) * case.spacing[1], np.arange(case.shape[0]) * case.spacing[0])
    rng = np.random.default_rng(1)
    slices = []
    for position in positions:
        xyz = position + across[..., None] * row + down[..., None] * column
        hu = np.full(case.shape, -1000.0)
        hu[np.linalg.norm(xyz - case.middle, axis=-1) < 46.0] = -90.0
        hu[np.linalg.norm(xyz - case.ball, axis=-1) < RADIUS_MM] = 60.0
        slices.append(hu + rng.integers(-6, 7, case.shape))
    datasets = dicom.ct_series(
        study=study, positions=positions, orientation=case.orientation, spacing=case.spacing, step_mm=case.step_mm,
        shape=case.shape, voxels=np.stack(slices), slope=case.slope, signed=case.signed,
    )  # fmt: skip
    if case.reverse:
        for number, dataset in enumerate(reversed(datasets), start=1):
            dataset.InstanceNumber = number
    return list(datasets)


def drawn_on(case: Case, image: Dataset) -> tuple[dicom.Point, dicom.Point]:
    """Ends of a diameter of the ball on ``image``, neither along its rows nor its columns, by highdicom."""
    to_image = highdicom.spatial.ReferenceToImageTransformer(
        image.ImagePositionPatient, image.ImageOrientationPatient, image.PixelSpacing
    )
    row, column = np.asarray(case.orientation[:3]), np.asarray(case.orientation[3:])
    direction = (0.8 * row + 0.6 * column) * RADIUS_MM * 0.95
    ends = to_image(np.stack([case.ball - direction, case.ball + direction]))[:, :2]
    return tuple(map(tuple, ends.tolist()))


def middle_slice(case: Case, images: list[Dataset]) -> Dataset:
    heights = [abs((np.asarray(i.ImagePositionPatient, float) - case.ball) @ case.normal) for i in images]
    return images[int(np.argmin(heights))]


@dataclass(frozen=True)
class Built:
    """What went in and what came out of one case."""

    case: Case
    images: list[Dataset]
    image: Dataset
    points: tuple[dicom.Point, dicom.Point]
    row: dict
    volume: dict


@pytest.fixture(scope="module")
def built(tmp_path_factory: pytest.TempPathFactory) -> dict[str, Built]:
    root = tmp_path_factory.mktemp("geometry")
    shuffled, sources, reports = random.Random(0), {}, []
    for number, case in enumerate(CASES):
        patient = dicom.Patient(name=f"Fall^{case.name.title()}", patient_id=f"77{number:04d}1")
        study = dicom.StudyInfo(patient, accession_number=f"GEO{number:04d}")
        images = series(case, study)
        image = middle_slice(case, images)
        points = drawn_on(case, image)
        state = dicom.gsps([dicom.on(image, dicom.line(*points))], images=images)
        files = [*images, state]
        shuffled.shuffle(files)
        dicom.write(files, root / "pacs" / case.name)
        sources[case.name] = images, image, points
        where = f"{case.side.lower()} lung" if case.side else "lung"
        text = (
            f"FINDINGS: There is a {2 * 0.95 * RADIUS_MM:.1f} mm nodule in the {where} (image {image.InstanceNumber})."
        )
        reports.append(Report(f"report {case.name}", text, accession_numbers=(study.accession_number,)))
    cohort = build_cohort(
        reports, root / "pacs", out=root / "out", key=root / "key", progress=False,
        config=BuildConfig(pictures=0, min_tier="C"),
    )  # fmt: skip
    crosswalk = [json.loads(line) for line in (root / "out/private/crosswalk.jsonl").read_text().splitlines()]
    original = {entry["pseudonym"]: entry["original"] for entry in crosswalk}
    rows = {original[row["patient_id"]]: row for row in _rows(cohort.dataset_path / "data" / "findings")}
    volumes = {original[row["patient_id"]]: row for row in _rows(cohort.dataset_path / "data" / "volumes")}
    result = {}
    for number, case in enumerate(CASES):
        patient = f"77{number:04d}1"
        assert patient in rows, (case.name, cohort.skipped)
        result[case.name] = Built(case, *sources[case.name], rows[patient], volumes[patient])
    return result


def _rows(folder: Path) -> list[dict]:
    return [row for path in sorted(folder.glob("*.parquet")) for row in pq.read_table(path).to_pylist()]


each = pytest.mark.parametrize("name", [case.name for case in CASES])


def nifti(row: dict, column: str) -> nibabel.Nifti1Image:
    data = row[column]["bytes"]
    return nibabel.Nifti1Image.from_stream(io.BytesIO(gzip.decompress(data) if data[:2] == b"\x1f\x8b" else data))


def itk(row: dict, column: str, folder: Path) -> SimpleITK.Image:
    path = folder / row[column]["path"]
    path.write_bytes(row[column]["bytes"])
    return SimpleITK.ReadImage(str(path))


@each
def test_the_drawn_points_are_where_highdicom_puts_them(built: dict[str, Built], name: str) -> None:
    one = built[name]
    to_patient = highdicom.spatial.ImageToReferenceTransformer(
        one.image.ImagePositionPatient, one.image.ImageOrientationPatient, one.image.PixelSpacing
    )
    lps = to_patient(np.asarray(one.points))
    annotation = one.row["annotation"]
    np.testing.assert_allclose(np.asarray(annotation["points_ras_mm"]) * [-1, -1, 1], lps, atol=0.1)
    np.testing.assert_allclose(annotation["drawn_mm"], [np.linalg.norm(lps[1] - lps[0])], atol=0.01)


@each
def test_the_indices_of_the_points_are_voxels_of_the_crop_and_of_the_volume(
    built: dict[str, Built], name: str, tmp_path: Path
) -> None:
    one = built[name]
    annotation = one.row["annotation"]
    ijk, ras = np.asarray(annotation["points_ijk"]), np.asarray(annotation["points_ras_mm"])
    for column in ("image", "mask"):
        image = itk(one.row, column, tmp_path)
        for index, point in zip(ijk, ras * [-1, -1, 1], strict=True):
            np.testing.assert_allclose(image.TransformContinuousIndexToPhysicalPoint(index.tolist()), point, atol=0.1)
        found = nibabel.affines.apply_affine(nifti(one.row, column).affine, ijk)
        np.testing.assert_allclose(found, ras, atol=0.1)
    in_volume = ijk + one.row["roi_origin_ijk"]
    np.testing.assert_allclose(
        nibabel.affines.apply_affine(nifti(one.volume, "image").affine, in_volume), ras, atol=0.1
    )
    assert len(set(np.round(in_volume[:, 2], 6))) == 1
    assert in_volume[0, 2] == pytest.approx(round(in_volume[0, 2]), abs=1e-6)


@each
def test_the_mask_lies_on_the_ball(built: dict[str, Built], name: str, tmp_path: Path) -> None:
    one = built[name]
    mask = itk(one.row, "mask", tmp_path)
    inside = np.argwhere(SimpleITK.GetArrayFromImage(mask))[:, ::-1]
    points = np.array([mask.TransformIndexToPhysicalPoint(index.tolist()) for index in inside])
    assert np.linalg.norm(points.mean(axis=0) - one.case.ball) < 2.0
    in_ball = np.linalg.norm(points - one.case.ball, axis=1) < RADIUS_MM
    voxel = float(np.prod(mask.GetSpacing()))
    dice = 2 * in_ball.sum() * voxel / (len(points) * voxel + 4 / 3 * np.pi * RADIUS_MM**3)
    assert dice > 0.85
    assert one.row["quality"]["volume_mm3"] == pytest.approx(len(points) * voxel, rel=1e-4)
    low, high = np.asarray(one.row["bbox_ijk"][:3]), np.asarray(one.row["bbox_ijk"][3:])
    np.testing.assert_array_equal(inside.min(axis=0) + one.row["roi_origin_ijk"], low)
    np.testing.assert_array_equal(inside.max(axis=0) + 1 + one.row["roi_origin_ijk"], high)


@each
def test_every_voxel_is_the_source_pixel_at_its_place(built: dict[str, Built], name: str, tmp_path: Path) -> None:
    """From the published grid, by ITK, to the nearest source slice, by highdicom: no index of ours in between."""
    one = built[name]
    image = itk(one.row, "image", tmp_path)
    rng = np.random.default_rng(2)
    heights = np.array([np.asarray(i.ImagePositionPatient, float) @ one.case.normal for i in one.images])
    for index in rng.integers(0, image.GetSize(), size=(60, 3)):
        point = np.array(image.TransformIndexToPhysicalPoint(index.tolist()))
        source = one.images[int(np.abs(heights - point @ one.case.normal).argmin())]
        to_pixel = highdicom.spatial.ReferenceToPixelTransformer(
            source.ImagePositionPatient, source.ImageOrientationPatient, source.PixelSpacing, round_output=False
        )
        column, row, away = to_pixel(point[None])[0]
        pixel = one.images[0].PixelSpacing
        assert abs(column - round(column)) * pixel[1] < 0.1
        assert abs(row - round(row)) * pixel[0] < 0.1
        assert abs(away) < 0.1
        expected = source.pixel_array[round(row), round(column)] * source.RescaleSlope + source.RescaleIntercept
        assert abs(image.GetPixel(index.tolist()) - max(expected, -1024)) <= 0.5


@each
def test_the_crop_is_a_part_of_the_published_volume(built: dict[str, Built], name: str) -> None:
    one = built[name]
    volume, crop = np.asarray(nifti(one.volume, "image").dataobj), np.asarray(nifti(one.row, "image").dataobj)
    assert list(volume.shape) == one.volume["shape_ijk"] == [one.case.shape[1], one.case.shape[0], len(one.images)]
    window = tuple(slice(o, o + n) for o, n in zip(one.row["roi_origin_ijk"], one.row["roi_shape_ijk"], strict=True))
    np.testing.assert_array_equal(volume[window], crop)
    expected = [one.case.spacing[1], one.case.spacing[0], one.case.step_mm]
    np.testing.assert_allclose(one.row["spacing_mm"], expected, atol=2e-3)
    np.testing.assert_allclose(one.volume["spacing_mm"], expected, atol=2e-3)


@each
def test_the_published_grid_is_orthogonal_and_the_column_is_the_header(built: dict[str, Built], name: str) -> None:
    one = built[name]
    for row in (one.row, one.volume):
        affine = np.asarray(row["affine_ras"])
        axes = affine[:3, :3] / np.linalg.norm(affine[:3, :3], axis=0)
        assert np.abs(axes.T @ axes - np.eye(3)).max() < 1e-5
        assert np.linalg.det(axes) * np.linalg.det(np.asarray(built["supine"].row["affine_ras"])[:3, :3]) > 0
        header = nifti(row, "image")
        for found in (header.get_sform(), header.get_qform()):
            np.testing.assert_allclose(found, affine, atol=2e-2 if name == "far_away" else 5e-3)


@each
def test_the_side_is_the_patients(built: dict[str, Built], name: str) -> None:
    one = built[name]
    side = {term["term"]: term["log_odds"] for term in one.row["link"]["evidence"]}.get("side")
    assert (side is not None and side > 0) == (one.case.side is not None)
