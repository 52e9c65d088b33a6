"""Which series a lesion is segmented on, how a stroke gets there, and what an engine is told of each kind.

The scene is one generated lesion (``lesions.lesion_in_tissue``) on slices of 1 mm; every other series is made from it.
"""

from __future__ import annotations

import json
from collections.abc import Iterator
from contextlib import closing, contextmanager
from dataclasses import replace
from functools import cache
from pathlib import Path

import dicom
import numpy as np
import pyarrow.parquet as pq
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from lesions import lesion_in_tissue
from matplotlib.path import Path as Polygon
from pydicom.dataset import FileDataset
from scipy import ndimage

from cohort_builder import BuildConfig, build_cohort
from cohort_builder.ct.phases import seconds
from cohort_builder.ct.series import Stack, load_stack
from cohort_builder.jobs import CARRIED, PromptedJob, StackPlan, Target, plan_stacks
from cohort_builder.lesions.locating import group_lesions, locate
from cohort_builder.pacs.headers import Instance
from cohort_builder.pacs.index import Index, index_export
from cohort_builder.prompting import EVERY_PROMPT, Drawn, can_prompt, prompt_for
from cohort_builder.targets.candidates import best_first, is_projection, kernel_kind
from cohort_builder.targets.carrying import NotCarriedError, carry, place_here, to_index
from cohort_builder.types import Annotation, AnnotationKind, Lesion, LocatedAnnotation, Skip, Source
from nlp.types import Report
from segmentation import load_segmenter
from segmentation.geometry import apply_affine, index_to_image, slice_affine, volume_affine
from segmentation.metrics import dice
from segmentation.regions import fill_outline
from segmentation.types import Arrow, Bidimensional, Box, Line, Mask, MaskPrompt, Points, SegmentationJob

LINE, PAIR, ARROW, POINTER, ELLIPSE, BOX, OUTLINE = (
    AnnotationKind.LINE,
    AnnotationKind.BIDIMENSIONAL,
    AnnotationKind.ARROW,
    AnnotationKind.POINTER,
    AnnotationKind.ELLIPSE,
    AnnotationKind.BOX,
    AnnotationKind.OUTLINE,
)
CLASSICAL = load_segmenter("classical").supports
STUDY = dicom.StudyInfo(dicom.Patient(name="Ziel^Zoe", patient_id="TGT001"), accession_number="TGT1")
SHAPE, PIXEL_MM, THICK = (40, 96, 96), 0.8, 5
FIRST = np.array([-38.0, -36.0, 100.0])
AT, ON = 22, 4  # the thin slice in the middle of the thick one that is drawn on
CORONAL = (1.0, 0.0, 0.0, 0.0, 0.0, -1.0)


@cache
def scene() -> tuple[np.ndarray, np.ndarray]:
    """(slice, row, column) HU and truth, 1 x 0.8 x 0.8 mm, the lesion about the middle."""
    volume, truth = lesion_in_tissue(seed=3, radius_mm=10, spacing_mm=(1.0, PIXEL_MM, PIXEL_MM), shape=SHAPE)
    return volume.voxels.astype(float), truth


def thin(number: int = 3, *, voxels: np.ndarray | None = None, first: int = 0, **options) -> list[FileDataset]:
    return dicom.ct_series(
        study=STUDY, number=number, spacing=(PIXEL_MM, PIXEL_MM), step_mm=1.0, shape=SHAPE[1:],
        positions=[np.add(FIRST, (0, 0, first + i)) for i in range(SHAPE[0] - first)],
        voxels=(scene()[0] if voxels is None else voxels)[first:], **options,
    )  # fmt: skip


def thick(number: int = 2, *, every: int = THICK, **options) -> list[FileDataset]:
    """Means of ``every`` thin slices, each at the middle of its own."""
    voxels = scene()[0].reshape(-1, every, *SHAPE[1:]).mean(axis=1)
    return dicom.ct_series(
        study=STUDY, number=number, spacing=(PIXEL_MM, PIXEL_MM), step_mm=float(every), shape=SHAPE[1:],
        positions=[np.add(FIRST, (0, 0, every * i + (every - 1) / 2)) for i in range(len(voxels))], voxels=voxels, **options,
    )  # fmt: skip


def coronal(number: int = 5, rows: slice = slice(14, 82, 4)) -> list[FileDataset]:
    """A reformat: every fourth row of the scene (3.2 mm), the head up."""
    voxels = scene()[0][::-1, rows].transpose(1, 0, 2)
    at = np.arange(SHAPE[1])[rows]
    positions = [np.add(FIRST, (0, PIXEL_MM * row, SHAPE[0] - 1)) for row in at]
    return dicom.ct_series(
        study=STUDY, number=number, spacing=(1.0, PIXEL_MM), step_mm=3.2, shape=voxels.shape[1:], positions=positions,
        voxels=voxels, orientation=CORONAL, image_type=("DERIVED", "SECONDARY", "REFORMATTED"),
    )  # fmt: skip


def lps_of(*index: tuple[float, float, float]) -> np.ndarray:
    """(slice, row, column) of the scene to LPS mm, without any of our formulas."""
    return np.array([np.add(FIRST, (PIXEL_MM * column, PIXEL_MM * row, k)) for k, row, column in index])


def drawn(
    image: FileDataset, *lps: tuple[float, float, float], kind: AnnotationKind = LINE, name: str = "a", **source
) -> Annotation:
    """What a reader draws on ``image`` through these places (LPS mm)."""
    affine = slice_affine(image.ImagePositionPatient, image.ImageOrientationPatient, image.PixelSpacing)
    index = to_index(affine, lps)
    points = tuple((float(x), float(y)) for x, y in index_to_image(index[:, :0:-1]))
    origin = Source("1.9", name, "test", **source)
    return Annotation(name, kind, points, str(image.SOPInstanceUID), "1", "1", origin)


@contextmanager
def indexed(folder: Path, *series: list[FileDataset]) -> Iterator[Index]:
    dicom.write([image for one in series for image in one], folder)
    with closing(index_export(folder)) as index:
        yield index


def lesion_of(index: Index, *annotations: Annotation) -> Lesion:
    located, skips = locate(annotations, index)
    assert skips == []
    (lesion,) = group_lesions(located)
    return lesion


def only(plans: tuple[list[StackPlan], list[Skip]]) -> tuple[StackPlan, Target]:
    (plan,), skips = plans
    assert skips == []
    (target,) = plan.targets
    return plan, target


def diameter() -> tuple[tuple[float, float, float], tuple[float, float, float]]:
    """Ends of the lesion's widest row on the thin slice in the middle of the thick one through its centre."""
    truth = scene()[1]
    k = AT
    row = int(truth[k].sum(axis=1).argmax())
    columns = np.flatnonzero(truth[k, row])
    return (k, row, float(columns[0])), (k, row, float(columns[-1]))


def line_on(image: FileDataset) -> Annotation:
    return drawn(image, *map(tuple, lps_of(*diameter())))


def segmented(plan: StackPlan, engine: str = "classical") -> np.ndarray:
    """The mask of the plan's one lesion, on the grid of its volume."""
    volume = load_stack(plan.stack)
    segmenter = load_segmenter(engine)
    (job,) = plan.jobs(volume, segmenter.supports)
    (mask,) = segmenter.segment([job.given])
    return job.signed(mask).in_volume(volume.voxels.shape)


# ---- the thinner series of one acquisition


def test_the_default_stays_on_the_drawn_series(tmp_path: Path) -> None:
    images = thick()
    with indexed(tmp_path, images, thin()) as index:
        plan, target = only(plan_stacks([lesion_of(index, line_on(images[ON]))], index))
    assert plan.stack.series_instance_uid == images[0].SeriesInstanceUID
    assert (target.origin, target.stayed, target.placed[0].slice_index) == (None, "", ON)
    (job,) = plan.jobs(load_stack(plan.stack))
    assert (job.described, job.flags) == ("", ())


def test_a_line_on_thick_slices_is_segmented_on_the_thin_ones(tmp_path: Path) -> None:
    images, fine = thick(), thin()
    with indexed(tmp_path, images, fine) as index:
        lesion = lesion_of(index, line_on(images[ON]))
        plan, target = only(plan_stacks([lesion], index, target_series="thinnest", supports=CLASSICAL))
        kept, _ = only(plan_stacks([lesion], index))
        on_thin, on_thick = segmented(plan), segmented(kept)
    assert plan.stack.series_instance_uid == fine[0].SeriesInstanceUID
    assert target.origin is not None
    assert target.origin.agreement.correlation > 0.999
    assert target.origin.agreement.difference_hu < 1
    (placed,) = target.placed
    np.testing.assert_allclose(placed.index, diameter(), atol=1e-4)
    assert placed.slice_index == AT
    (job,) = plan.jobs(load_stack(plan.stack))
    assert job.flags == (CARRIED,)
    (prompt,) = job.given.prompts
    assert isinstance(prompt, Line)
    assert prompt.slice_index == AT
    np.testing.assert_allclose([prompt.start, prompt.end], [end[:0:-1] for end in diameter()], atol=1e-4)
    truth = scene()[1]
    better, worse = dice(on_thin, truth), dice(np.repeat(on_thick, THICK, axis=0), truth)
    assert better > 0.8
    assert better >= worse


def _renamed(series: list[FileDataset], **values) -> list[FileDataset]:
    for image in series:
        for keyword, value in values.items():
            if value is None:
                delattr(image, keyword)
            else:
                setattr(image, keyword, value)
    return series


def moved_scene(*mm: float) -> np.ndarray:
    """The scene with the patient moved by (slice, row, column) mm."""
    return ndimage.shift(scene()[0], np.array(mm) / (1.0, PIXEL_MM, PIXEL_MM), order=1, mode="nearest")


STAYS = {
    "no other series": (list, "no_thinner_series"),
    "another frame of reference": (lambda: thin(frame_of_reference_uid="1.2.3"), "no_thinner_series"),
    "hardly thinner": (lambda: thick(4, every=4), "no_thinner_series"),
    "thin slices that blur as much": (lambda: _renamed(thin(), SliceThickness=5), "no_thinner_series"),
    "a projection": (
        lambda: thin(image_type=("DERIVED", "SECONDARY", "AXIAL", "MIP")), "no_thinner_series"
    ),
    "does not reach the lesion": (lambda: thin(first=30), "not_covered"),
    "another time": (lambda: _renamed(thin(), AcquisitionTime="101540"), "other_phase"),
    "another acquisition": (lambda: thin(acquisition_number=2), "other_phase"),
    "another contrast": (lambda: _renamed(thin(), ContrastBolusAgent="given"), "other_phase"),
    "another temporal position": (lambda: _renamed(thin(), TemporalPositionIdentifier=2), "other_phase"),
    "no time and no number": (
        lambda: _renamed(thin(), AcquisitionTime=None, AcquisitionNumber=None), "phase_unknown"
    ),
    "a number that agrees, and no time": (lambda: _renamed(thin(), AcquisitionTime=None), "phase_unknown"),
    "the patient moved": (lambda: thin(voxels=np.roll(scene()[0], 8, axis=2)), "target_series_disagrees"),
    "enhanced otherwise": (
        lambda: thin(voxels=scene()[0] + 40 * (scene()[0] > 0)), "target_series_disagrees"
    ),
    "the lesion enhanced": (lambda: thin(voxels=scene()[0] + 20 * scene()[1]), "target_series_disagrees"),
    "soft tissue a little brighter": (
        lambda: thin(voxels=scene()[0] + 15 * (scene()[0] > -100)), "target_series_disagrees"
    ),
    "moved by 3 mm in the plane": (lambda: thin(voxels=moved_scene(0, 0, 3)), "target_series_disagrees"),
    "moved by 4 mm across it": (lambda: thin(voxels=moved_scene(4, 0, 0)), "target_series_disagrees"),
    "moved by 4 mm, the other way": (lambda: thin(voxels=moved_scene(-4, 0, 0)), "target_series_disagrees"),
    "pixels that nobody can decode": (lambda: _renamed(thin(), BitsStored=99), "not_readable"),
}  # fmt: skip


@pytest.mark.parametrize("name", STAYS)
def test_a_lesion_stays_where_it_was_drawn_and_says_why(name: str, tmp_path: Path) -> None:
    make, reason = STAYS[name]
    images = thick()
    for image in images:
        image.TemporalPositionIdentifier = 1
    with indexed(tmp_path, images, make()) as index:
        lesion = lesion_of(index, line_on(images[ON]))
        plan, target = only(plan_stacks([lesion], index, target_series="thinnest"))
    assert plan.stack.series_instance_uid == images[0].SeriesInstanceUID
    assert (target.stayed, target.origin) == (reason, None)


def test_a_time_alone_says_that_the_phase_is_the_same(tmp_path: Path) -> None:
    images, fine = thick(), _renamed(thin(), AcquisitionNumber=None)
    with indexed(tmp_path, images, fine) as index:
        plan, _ = only(plan_stacks([lesion_of(index, line_on(images[ON]))], index, target_series="thinnest"))
    assert plan.stack.series_instance_uid == fine[0].SeriesInstanceUID


@pytest.mark.parametrize(("seconds_on", "reason"), [(0, ""), (12, "other_phase")])
def test_the_time_of_the_slices_beside_the_stroke_counts(seconds_on: int, reason: str, tmp_path: Path) -> None:
    """Slices that took 40 s: the same moment lies somewhere among those of a later pass, too, but not here."""
    images, fine = thick(), thin()
    for series, first in ((images, 0), (fine, seconds_on)):
        for image in series:
            z = float(image.ImagePositionPatient[2]) - FIRST[2]
            image.AcquisitionTime = f"1015{first + z / 1.5:09.6f}"
    with indexed(tmp_path, images, fine) as index:
        _, target = only(plan_stacks([lesion_of(index, line_on(images[ON]))], index, target_series="thinnest"))
    assert target.stayed == reason


def test_a_softer_kernel_and_noise_still_agree(tmp_path: Path) -> None:
    noise = np.random.default_rng(0).normal(0, 15, scene()[0].shape)
    images, fine = thick(), thin(voxels=ndimage.gaussian_filter(scene()[0], (0, 0.8, 0.8)) + noise)
    with indexed(tmp_path, images, fine) as index:
        plan, target = only(plan_stacks([lesion_of(index, line_on(images[ON]))], index, target_series="thinnest"))
    assert plan.stack.series_instance_uid == fine[0].SeriesInstanceUID
    assert target.origin.agreement.inside_hu < 10
    assert target.origin.agreement.moved_mm == 0


def test_the_next_best_series_is_taken_where_the_best_does_not_agree(tmp_path: Path) -> None:
    images = thick()
    moved, fine = thin(3, voxels=np.roll(scene()[0], 8, axis=2)), thick(4, every=2)
    with indexed(tmp_path, images, moved, fine) as index:
        lesion = lesion_of(index, line_on(images[ON]))
        plan, target = only(plan_stacks([lesion], index, target_series="thinnest"))
    assert plan.stack.series_instance_uid == fine[0].SeriesInstanceUID
    assert target.placed[0].slice_index == 11  # at 122.5 mm, drawn at 122


def test_one_image_that_is_no_volume_is_carried_or_skipped(tmp_path: Path) -> None:
    alone, fine = thick()[ON : ON + 1], thin()
    with indexed(tmp_path / "both", alone, fine) as index:
        lesion = lesion_of(index, line_on(alone[0]))
        plans, skips = plan_stacks([lesion], index, target_series="thinnest")
        assert [skip.reason for skip in skips] == ["single_slice"]
        assert plans[0].stack.series_instance_uid == fine[0].SeriesInstanceUID
        assert plans[0].targets[0].origin.stack is None
        assert [skip.reason for skip in plan_stacks([lesion], index)[1]] == ["single_slice", "no_regular_stack"]
    moved = thin(voxels=np.roll(scene()[0], 8, axis=2))
    with indexed(tmp_path / "moved", alone, moved) as index:
        lesion = lesion_of(index, line_on(alone[0]))
        plans, skips = plan_stacks([lesion], index, target_series="thinnest")
    assert plans == []
    assert [skip.reason for skip in skips] == ["single_slice", "target_series_disagrees"]


def test_all_strokes_of_the_carried_series_come_along(tmp_path: Path) -> None:
    images, fine = thick(), thin()
    (k, row, left), (_, _, right) = diameter()
    on_thick = drawn(
        images[ON + 1], *map(tuple, lps_of((k + 5, row + 1, left + 2), (k + 5, row + 1, right - 2))), name="b"
    )
    on_thin = drawn(fine[24], *map(tuple, lps_of((24, row, left), (24, row, right))), name="c")
    with indexed(tmp_path, images, fine) as index:
        lesion = lesion_of(index, line_on(images[ON]), on_thick, on_thin)
        plan, target = only(plan_stacks([lesion], index, target_series="thinnest"))
    placed = {one.stroke.annotation.annotation_id: one.slice_index for one in target.placed}
    assert placed == {"a": 22, "b": 27, "c": 24}
    assert plan.stack.series_instance_uid == fine[0].SeriesInstanceUID


# ---- the order of the candidates


def _stack(kernel: str, mm: float = 1.0, *, n: int = 40, uid: str = "") -> Stack:
    affine = volume_affine((0, 0, 0), (0, 0, mm * (n - 1)), n, dicom.AXIAL, (0.7, 0.7))
    name = uid or f"1.2.{kernel.encode().hex()}"
    images = tuple(_image(kernel, mm, f"{name}.{i}") for i in range(n))
    return Stack(name, "1.8", "1.6", images, affine)


def _image(kernel: str | None = None, mm: float = 5.0, uid: str = "1.9", **values) -> Instance:
    return Instance(
        Path("/nowhere"), uid, "1.2", "1.7", "1.8", "CT", "1", rows=64, columns=64, frame_of_reference_uid="1.6",
        acquisition_time="101500", convolution_kernel=kernel, slice_thickness_mm=mm,
        image_position=(0.0, 0.0, 0.0), image_orientation=dicom.AXIAL, pixel_spacing=(0.7, 0.7), **values,
    )  # fmt: skip


@pytest.mark.parametrize(
    ("drawn_kernel", "offered", "expected"),
    [
        ("B30f", ["B70f", "B40f"], "B40f"),  # soft before sharp
        ("B70f", ["B70f", "B40f"], "B70f"),  # but the drawn one's own first
        ("STANDARD", ["LUNG", "XYZ"], "XYZ"),
        ("STANDARD", ["LUNG", "SOFT", "STANDARD"], "STANDARD"),
    ],
)
def test_of_equal_thickness_the_kernel_decides(drawn_kernel: str, offered: list[str], expected: str) -> None:
    stacks = [_stack(kernel, 1.0 + i / 20) for i, kernel in enumerate(offered)]
    found, reason = best_first(_image(drawn_kernel), 5.0, (0, 0, 1), stacks)
    assert (found[0].instances[0].convolution_kernel, reason) == (expected, "")
    assert best_first(_image(drawn_kernel), 5.0, (0, 0, 1), stacks[::-1])[0] == found


def test_thickness_comes_before_the_kernel() -> None:
    found, _ = best_first(_image("B30f"), 5.0, (0, 0, 1), [_stack("B30f", 2.0), _stack("B70f", 1.0)])
    assert [stack.instances[0].convolution_kernel for stack in found] == ["B70f", "B30f"]


@pytest.mark.parametrize(
    ("kernel", "kind"),
    [
        ("B30f", "soft"), ("I41f", "soft"), ("Br40d", "soft"), ("B70f", "sharp"), ("Bl57d", "sharp"), ("H60s", "sharp"),
        ("STANDARD", "soft"), ("SOFT", "soft"), ("LUNG", "sharp"), ("BONEPLUS", "sharp"), ("FC08", "soft"),
        ("FC51", "sharp"), ("B", "soft"), ("YC", "sharp"), ("L", "sharp"), ("", "unknown"), (None, "unknown"),
        ("IMR1", "unknown"),
    ],
)  # fmt: skip
def test_kernels_by_the_names_of_the_vendors(kernel: str | None, kind: str) -> None:
    assert kernel_kind(kernel) == kind


@pytest.mark.parametrize(
    ("image_type", "thickness", "expected"),
    [
        (("ORIGINAL", "PRIMARY", "AXIAL"), 5.0, False),
        (("DERIVED", "SECONDARY", "REFORMATTED", "AVERAGE"), 3.0, False),
        (("DERIVED", "SECONDARY", "REFORMATTED", "AVERAGE"), 20.0, True),
        (("DERIVED", "SECONDARY", "REFORMATTED", "AVERAGE"), None, True),
        (("DERIVED", "SECONDARY", "REFORMATTED", "MIN IP"), 3.0, True),
        (("DERIVED", "SECONDARY", "MPR", "MIP THICK"), 3.0, True),
        (("DERIVED", "PRIMARY", "PROJECTION IMAGE"), 3.0, True),
        (("DERIVED", "PRIMARY", "VOLUME", "MAX_IP"), 3.0, True),
        (("DERIVED", "SECONDARY", "MPR"), 3.0, False),
    ],
)
def test_projections_by_their_image_type(image_type: tuple[str, ...], thickness: float | None, expected: bool) -> None:
    assert is_projection(replace(_image(), image_type=image_type, slice_thickness_mm=thickness)) is expected


@pytest.mark.parametrize(
    ("value", "expected"),
    [("101502.25", 36902.25), ("10:15:02", 36902), ("1015", None), ("", None), (None, None), ("noon", None)],
)
def test_seconds_of_a_time(value: str | None, expected: float | None) -> None:
    assert seconds(value) == expected


# ---- across the slices


def test_a_line_across_a_coronal_reformat_becomes_one_on_an_axial_slice(tmp_path: Path) -> None:
    images, fine = coronal(), thin()
    image = min(images, key=lambda ds: abs(ds.ImagePositionPatient[1] - lps_of(diameter()[0])[0][1]))
    y = float(image.ImagePositionPatient[1])
    ends = [(float(x), y, float(z)) for x, _, z in lps_of(*diameter())]
    with indexed(tmp_path, images, fine) as index:
        lesion = lesion_of(index, drawn(image, *ends))
        here, _ = only(plan_stacks([lesion], index))
        plan, target = only(plan_stacks([lesion], index, target_series="thinnest"))
        mask = segmented(plan)
    assert here.stack.series_instance_uid == images[0].SeriesInstanceUID  # "same": a reformat is a stack of its own
    assert plan.stack.series_instance_uid == fine[0].SeriesInstanceUID
    (placed,) = target.placed
    assert (placed.kind, placed.slice_index) == (LINE, AT)
    row = (y - FIRST[1]) / PIXEL_MM
    np.testing.assert_allclose(placed.points, [(end[2], row) for end in diameter()], atol=1e-4)
    assert dice(mask, scene()[1]) > 0.75


def test_of_a_coronal_pair_the_axis_in_the_slice_is_left(tmp_path: Path) -> None:
    images, fine = coronal(), thin()
    (_, row, left), (_, _, right) = diameter()
    image = min(images, key=lambda ds: abs(ds.ImagePositionPatient[1] - (FIRST[1] + PIXEL_MM * row)))
    y, middle = float(image.ImagePositionPatient[1]), (left + right) / 2
    places = lps_of((12, 0, middle), (29, 0, middle), (20, 0, left), (20, 0, right))
    pair = drawn(image, *[(float(x), y, float(z)) for x, _, z in places], kind=PAIR)
    with indexed(tmp_path, images, fine) as index:
        plan, target = only(plan_stacks([lesion_of(index, pair)], index, target_series="thinnest"))
    (job,) = plan.jobs(load_stack(plan.stack))
    assert isinstance(job.given.prompts[0], Line)
    assert (job.given.prompts[0].slice_index, job.described) == (20, "bidimensional as line")
    assert len(target.placed[0].index) == 4  # published as drawn


def test_what_lies_in_no_axial_slice_stays_on_its_reformat_or_becomes_a_click(tmp_path: Path) -> None:
    images, fine = coronal(), thin()
    (_, row, left), (_, _, right) = diameter()
    middle = (left + right) / 2
    image = min(images, key=lambda ds: abs(ds.ImagePositionPatient[1] - (FIRST[1] + PIXEL_MM * row)))
    y = float(image.ImagePositionPatient[1])
    upright = [(float(x), y, float(z)) for x, _, z in lps_of((12, 0, middle), (28, 0, middle + 3))]
    with indexed(tmp_path / "stack", images, fine) as index:
        lesion = lesion_of(index, drawn(image, *upright))
        plan, target = only(plan_stacks([lesion], index, target_series="thinnest"))
        assert plan.stack.series_instance_uid == images[0].SeriesInstanceUID
        assert target.stayed == "plane_not_axial"
    with indexed(tmp_path / "alone", [image], fine) as index:
        lesion = lesion_of(index, drawn(image, *upright))
        plans, skips = plan_stacks([lesion], index, target_series="thinnest", supports=CLASSICAL)
        assert plans == []
        assert [skip.reason for skip in skips] == ["single_slice", "plane_not_axial"]
        (plan,), _ = plan_stacks([lesion], index, target_series="thinnest", supports=EVERY_PROMPT)
        (job,) = plan.jobs(load_stack(plan.stack))
        (prompt,) = job.given.prompts
        assert isinstance(prompt, Points)
        assert (prompt.slice_index, prompt.labels, job.described) == (20, (1,), "line as points")
        np.testing.assert_allclose(prompt.points, [(middle + 1.5, (y - FIRST[1]) / PIXEL_MM)], atol=1e-4)
        arrow = lesion_of(index, drawn(image, *upright, kind=ARROW))
        assert plan_stacks([arrow], index, target_series="thinnest")[1][-1].reason == "plane_not_axial"


# ---- the geometry alone

_NUMBERS = st.floats(-300, 300)
_ANGLES = st.floats(-3.2, 3.2)


def _turned(a: float, b: float, c: float) -> tuple[float, ...]:
    ca, sa, cb, sb, cc, sc = np.cos(a), np.sin(a), np.cos(b), np.sin(b), np.cos(c), np.sin(c)
    z = np.array([[ca, -sa, 0], [sa, ca, 0], [0, 0, 1]])
    y = np.array([[cb, 0, sb], [0, 1, 0], [-sb, 0, cb]])
    x = np.array([[1, 0, 0], [0, cc, -sc], [0, sc, cc]])
    turned = z @ y @ x
    return (*turned[:, 0], *turned[:, 1])


@given(
    st.tuples(_ANGLES, _ANGLES, _ANGLES), st.tuples(_NUMBERS, _NUMBERS, _NUMBERS), st.floats(0.3, 8), st.floats(0.2, 2),
    st.lists(st.tuples(_NUMBERS, _NUMBERS, _NUMBERS), min_size=1, max_size=6),
)  # fmt: skip
def test_to_a_grid_and_back_is_the_identity(angles, position, step, pixel, points) -> None:
    orientation = _turned(*angles)
    normal = np.cross(orientation[:3], orientation[3:])
    last = np.asarray(position) + 20 * step * normal
    affine = volume_affine(position, last.tolist(), 21, orientation, (pixel, pixel * 1.3))
    np.testing.assert_allclose(apply_affine(affine, to_index(affine, points)), points, atol=1e-6)


@settings(max_examples=60)
@given(
    st.tuples(_ANGLES, _ANGLES, _ANGLES),
    st.floats(-0.4, 0.4),
    st.lists(st.tuples(st.floats(5, 58), st.floats(5, 58)), min_size=3, max_size=5),
)
def test_a_parallel_stroke_keeps_its_place_in_the_patient(angles, off, points) -> None:
    orientation = _turned(*angles)
    normal = np.cross(orientation[:3], orientation[3:])
    affine = volume_affine((0, 0, 0), (normal * 39).tolist(), 40, orientation, (0.7, 0.7))
    stack = replace(_stack("B30f"), affine=affine)
    lps = apply_affine(affine, [(20 + off, row, column) for column, row in points])
    drawn_points = tuple((c + 0.5, r + 0.5) for c, r in points)
    annotation = Annotation("a", OUTLINE, drawn_points, "1.3", "1.7", "1.8", Source("1.9", "a", "t"))
    stroke = LocatedAnnotation(
        annotation, (), tuple(map(tuple, lps.tolist())), "1.6",
        slice_normal_lps=tuple(normal.tolist()), slice_thickness_mm=5.0,
    )  # fmt: skip
    placed = carry(stroke, stack)
    assert (placed.slice_index, placed.kind) == (20, OUTLINE)
    np.testing.assert_allclose(apply_affine(affine, placed.index), lps, atol=1e-6)
    np.testing.assert_allclose(placed.points, points, atol=1e-6)


def test_an_outline_that_bends_round_its_centre_is_no_click() -> None:
    ring = [(0, 0), (20, 0), (20, 20), (16, 20), (16, 4), (4, 4), (4, 20), (0, 20)]
    for points, holds in ((ring, False), ([(0, 0), (20, 0), (20, 20), (0, 20)], True)):
        annotation = Annotation("a", OUTLINE, tuple(map(tuple, points)), "1", "1", "1", Source("1", "a", "t"))
        lps = tuple((float(x), 10.0, float(z)) for x, z in points)
        stroke = LocatedAnnotation(annotation, (), lps, "1.6", slice_normal_lps=(0, 1, 0), slice_thickness_mm=3.0)
        if holds:
            assert carry(stroke, _stack("B30f"), as_click=True).kind is POINTER
        else:
            with pytest.raises(NotCarriedError, match="plane_not_axial"):
                carry(stroke, _stack("B30f"), as_click=True)


def test_frames_of_one_object_are_slices_of_their_own() -> None:
    stack = _stack("B30f")
    frames = tuple(replace(i, sop_instance_uid="1.5", frame_number=n + 1) for n, i in enumerate(stack.instances))
    stack = replace(stack, instances=frames)
    annotation = Annotation("a", LINE, ((1, 1), (9, 9)), "1.5", "1.7", "1.8", Source("1.9", "a", "t"), frame_number=7)
    stroke = LocatedAnnotation(annotation, (8.0,), ((0, 0, 0), (1, 1, 0)), "1.6")
    placed = place_here(stroke, stack)
    assert placed is not None
    assert placed.slice_index == 6
    other = replace(stroke, annotation=replace(annotation, frame_number=41))
    assert place_here(other, stack) is None


# ---- prompts of every kind

SQUARE = ((10.0, 20.0), (30.0, 20.0), (30.0, 40.0), (10.0, 40.0))
SHAPES = {
    LINE: ((10.0, 10.0), (20.0, 10.0)),
    PAIR: ((10.0, 10.0), (20.0, 10.0), (15.0, 7.0), (15.0, 13.0)),
    ARROW: ((10.0, 10.0), (20.0, 10.0)),
    POINTER: ((12.0, 9.0),),
    ELLIPSE: ((10.0, 10.0), (30.0, 10.0), (20.0, 5.0), (20.0, 15.0)),
    BOX: SQUARE,
    OUTLINE: SQUARE,
}


def told(kind: AnnotationKind, supports=EVERY_PROMPT, points=None, spacing=(0.5, 0.5)):
    return prompt_for(Drawn(kind, 3, points or SHAPES[kind], (64, 64), spacing, kind), supports)


@pytest.mark.parametrize(
    ("kind", "prompt", "described"),
    [
        (LINE, Line, ""), (PAIR, Bidimensional, ""), (ARROW, Arrow, ""), (POINTER, Points, ""),
        (ELLIPSE, Box, "ellipse as box"), (BOX, Box, ""), (OUTLINE, MaskPrompt, ""),
    ],
)  # fmt: skip
def test_each_kind_has_its_own_prompt(kind: AnnotationKind, prompt: type, described: str) -> None:
    made, said = told(kind)
    assert (type(made), made.slice_index, said) == (prompt, 3, described)


@pytest.mark.parametrize(
    ("kind", "described"),
    [
        (ELLIPSE, "ellipse as bidimensional"), (BOX, "box as bidimensional"), (OUTLINE, "outline as bidimensional"),
    ],
)  # fmt: skip
def test_regions_for_an_engine_that_takes_measurements_alone(kind: AnnotationKind, described: str) -> None:
    made, said = told(kind, CLASSICAL)
    assert (type(made), said) == (Bidimensional, described)


def test_a_box_is_told_by_the_lines_between_its_sides_longer_in_mm_first() -> None:
    corners = ((10.0, 20.0), (30.0, 20.0), (30.0, 35.0), (10.0, 35.0))
    made, _ = told(BOX, CLASSICAL, corners)
    assert (made.long_axis, made.short_axis) == (((10.0, 27.5), (30.0, 27.5)), ((20.0, 20.0), (20.0, 35.0)))
    made, _ = told(BOX, CLASSICAL, corners, spacing=(2.0, 0.5))
    assert made.long_axis == ((20.0, 20.0), (20.0, 35.0))


def test_an_outline_is_told_by_its_longest_chord_and_the_width_across() -> None:
    diamond = ((10.0, 20.0), (20.0, 14.0), (40.0, 20.0), (20.0, 26.0))
    made, _ = told(OUTLINE, CLASSICAL, diamond)
    assert set(made.long_axis) == {(10.0, 20.0), (40.0, 20.0)}
    assert {tuple(np.round(p, 6)) for p in made.short_axis} == {(20.0, 14.0), (20.0, 26.0)}


def test_a_turned_box_is_boxed_by_its_bounds_and_says_so() -> None:
    turned = ((20.0, 10.0), (30.0, 20.0), (20.0, 30.0), (10.0, 20.0))
    made, said = told(BOX, points=turned)
    assert said == "rotated box as box"
    assert (made.lower, made.upper) == ((10.5, 10.5), (29.5, 29.5))
    nearly = ((10.0, 20.0), (30.0, 20.2), (30.0, 40.0), (10.1, 40.0))
    assert told(BOX, points=nearly)[1] == ""


@given(st.floats(0, 3.2), st.floats(4, 20), st.floats(2, 20))
def test_the_box_of_an_ellipse_holds_it_tightly(angle: float, a: float, b: float) -> None:
    u, v = np.array([np.cos(angle), np.sin(angle)]), np.array([-np.sin(angle), np.cos(angle)])
    ends = [tuple((32 + s * half * axis).tolist()) for half, axis in ((a, u), (b, v)) for s in (-1, 1)]
    made, _ = told(ELLIPSE, points=tuple(ends))
    t = np.linspace(0, 2 * np.pi, 2000)[:, None]
    rim = 32 + a * np.cos(t) * u + b * np.sin(t) * v
    np.testing.assert_allclose(np.array([made.lower, made.upper]), [rim.min(0) + 0.5, rim.max(0) - 0.5], atol=1e-2)


@pytest.mark.parametrize(
    ("kind", "supports", "expected"),
    [
        (POINTER, CLASSICAL, False), (ARROW, {Line, Box}, False), (LINE, {Bidimensional}, False), (PAIR, {Line}, True),
        (OUTLINE, {Box}, True), (ELLIPSE, {Line}, False), (POINTER, {Points}, True),
    ],
)  # fmt: skip
def test_what_would_not_be_honest_is_no_prompt(kind: AnnotationKind, supports: set[type], expected: bool) -> None:
    assert can_prompt(kind, supports) is expected
    if not expected:
        with pytest.raises(ValueError, match=f"cannot be prompted with {kind.value}"):
            told(kind, supports)


# ---- outlines, filled


@st.composite
def _stars(draw: st.DrawFn) -> np.ndarray:
    """Outlines round (20, 18) that may leave the slice."""
    n = draw(st.integers(3, 24))
    radii = np.array(draw(st.lists(st.floats(1.5, 26), min_size=n, max_size=n)))
    angles = np.arange(n) * 2 * np.pi / n + draw(st.floats(0, 1))
    return np.column_stack([20.123 + radii * np.cos(angles), 18.456 + radii * np.sin(angles)])


@given(_stars(), st.booleans())
def test_a_filled_outline_holds_the_pixel_centres_inside(vertices: np.ndarray, reverse: bool) -> None:
    rows, columns = np.mgrid[:40, :44]
    centres = np.column_stack([columns.ravel(), rows.ravel()])
    inside = Polygon(vertices).contains_points(centres).reshape(40, 44)
    filled = fill_outline(vertices[::-1] if reverse else vertices, (40, 44))
    if inside.any():
        np.testing.assert_array_equal(filled, inside)
    else:
        assert filled.sum() == 1


def test_centres_on_the_edge_belong_to_one_of_two_neighbours() -> None:
    left, right = [(2, 2), (6, 2), (6, 8), (2, 8)], [(6, 2), (9, 2), (9, 8), (6, 8)]
    a, b = fill_outline(left, (12, 12)), fill_outline(right, (12, 12))
    assert not (a & b).any()
    np.testing.assert_array_equal(a | b, fill_outline([(2, 2), (9, 2), (9, 8), (2, 8)], (12, 12)))
    assert a.sum() == 4 * 6


def test_a_hand_that_overshoots_its_start_leaves_no_hole() -> None:
    t = np.linspace(0, 2.2 * np.pi, 80)
    around = np.column_stack([20 + 9.3 * np.cos(t), 20 + 9.3 * np.sin(t)])
    once = fill_outline(around[t < 2 * np.pi], (40, 40))
    assert (fill_outline(around, (40, 40)) >= once).all()


def test_an_outline_smaller_than_a_pixel_is_that_pixel() -> None:
    filled = fill_outline([(7.2, 3.1), (7.4, 3.1), (7.3, 3.3)], (10, 10))
    assert np.argwhere(filled).tolist() == [[3, 7]]


# ---- what is not segmented from


@pytest.mark.parametrize(
    ("change", "reason"),
    [
        ({"source": Source("1.9", "a", "guess", confidence=0.4)}, "low_confidence"),
        ({"kind": POINTER, "points": ((50.0, 50.0),)}, "unsupported_prompt"),
    ],
)
def test_a_stroke_alone_that_cannot_be_a_prompt_is_skipped_by_name(change: dict, reason: str, tmp_path: Path) -> None:
    images = thick()
    annotation = replace(line_on(images[ON]), **change)
    with indexed(tmp_path, images) as index:
        lesion = lesion_of(index, annotation)
        plans, (skip,) = plan_stacks([lesion], index, supports=CLASSICAL)
        assert (plans, skip.reason, skip.stage, skip.item, skip.failure) == ([], reason, "segmentation", "a", False)
        good = replace(line_on(images[ON]), annotation_id="b", source=Source("1.99", "b", "test"))
        both = lesion_of(index, annotation, good)
        plan, target = only(plan_stacks([both], index, supports=CLASSICAL))
    assert [stroke.annotation.annotation_id for stroke in target.strokes] == ["b", "a"]
    (job,) = plan.jobs(load_stack(plan.stack), CLASSICAL)
    assert len(job.given.prompts) == 1
    assert len(job.drawn.prompts) == (1 if reason == "low_confidence" else 2)


def test_a_projection_is_no_anatomy(tmp_path: Path) -> None:
    images = thick(image_type=("DERIVED", "SECONDARY", "REFORMATTED", "MIP"))
    with indexed(tmp_path, images, thin()) as index:
        lesion = lesion_of(index, line_on(images[ON]))
        for target_series in ("same", "thinnest"):
            plans, (skip,) = plan_stacks([lesion], index, target_series=target_series)
            assert (plans, skip.reason) == ([], "projection_image")


def test_what_the_engine_converts_again_is_told_from_the_drawing_on() -> None:
    volume, _ = lesion_in_tissue(shape=(4, 32, 32), radius_mm=4)
    one = SegmentationJob("a", volume, (Line(0, (0, 0), (1, 1)),))
    mask = Mask("a", np.ones((1, 1, 1), bool), (0, 0, 0), (1.0,), "e@1", prompt="bidimensional as box")
    signed = PromptedJob(one, one, "ellipse as bidimensional", (CARRIED,)).signed(mask)
    assert (signed.prompt, signed.flags) == ("ellipse as box", (CARRIED,))
    kept = PromptedJob(one, one).signed(mask)
    assert (kept.prompt, kept.flags) == ("bidimensional as box", ())


@pytest.mark.parametrize("kind", [ELLIPSE, BOX, OUTLINE])
def test_a_region_round_the_lesion_is_segmented(kind: AnnotationKind, tmp_path: Path) -> None:
    fine, (_, truth) = thin(), scene()
    rows, columns = np.nonzero(truth[AT])
    (top, bottom), (left, right) = ((v.min() - 0.5, v.max() + 0.5) for v in (rows, columns))
    x, y = (left + right) / 2, (top + bottom) / 2
    t = np.linspace(0, 2 * np.pi, 40, endpoint=False)
    shapes = {
        ELLIPSE: [(left, y), (right, y), (x, top), (x, bottom)],
        BOX: [(left, top), (right, top), (right, bottom), (left, bottom)],
        OUTLINE: [(x + (right - left) / 2 * np.cos(a), y + (bottom - top) / 2 * np.sin(a)) for a in t],
    }
    annotation = drawn(fine[AT], *map(tuple, lps_of(*((AT, row, column) for column, row in shapes[kind]))), kind=kind)
    with indexed(tmp_path, fine) as index:
        lesion = lesion_of(index, annotation)
        plan, _ = only(plan_stacks([lesion], index, supports=CLASSICAL))
        mask = segmented(plan)
    assert lesion.diameters_mm == ()
    assert dice(mask, truth) > 0.75


# ---- through the whole build


def test_build_on_the_thinnest_series(tmp_path: Path) -> None:
    images, fine = thick(kernel="B30f"), thin(kernel="B31f")
    (_, row, left), (_, _, right) = diameter()
    ends = tuple((float(column) + 0.5, float(row) + 0.5) for column in (left, right))
    state = dicom.gsps([dicom.on(images[ON], dicom.line(*ends))], images=images)
    dicom.write([*images, *fine, state], tmp_path / "pacs")
    length = (right - left) * PIXEL_MM
    text = f"FINDINGS: There is a {length:.1f} mm nodule (series 2, image 5)."
    reports = [Report("r", text, accession_numbers=("TGT1",))]
    config = BuildConfig(target_series="thinnest", min_tier="C", volumes="all", pictures=0)
    cohort = build_cohort(reports, tmp_path / "pacs", out=tmp_path / "out", key=tmp_path / "site.key", config=config)
    (row_of,) = [
        r for p in sorted((tmp_path / "out/dataset/data/findings").glob("*")) for r in pq.read_table(p).to_pylist()
    ]
    (volume,) = [r for p in (tmp_path / "out/dataset/data/volumes").glob("*") for r in pq.read_table(p).to_pylist()]
    assert (volume["shape_ijk"][2], volume["series_id"]) == (SHAPE[0], row_of["series_id"])
    annotation, facts = row_of["annotation"], json.loads(row_of["provenance"])["target_series"]
    assert annotation["series_id"] != row_of["series_id"]
    assert 0 < annotation["confidence"] <= 1
    assert CARRIED in row_of["quality"]["flags"]
    assert facts["drawn_spacing_mm"] == [5.0, PIXEL_MM, PIXEL_MM]
    assert facts["segmented_spacing_mm"] == [1.0, PIXEL_MM, PIXEL_MM]
    assert (facts["drawn_kernel"], facts["segmented_kernel"]) == ("B30f", "B31f")
    assert facts["correlation"] > 0.99
    crosswalk = (tmp_path / "out/private/crosswalk.jsonl").read_text()
    assert annotation["series_id"] in crosswalk
    np.testing.assert_allclose(np.array(annotation["points_ras_mm"]) * (-1, -1, 1), lps_of(*diameter()), atol=1e-4)
    assert cohort.run["counts"]["carried_to_thinnest"] == 1


def test_a_line_on_a_frame_is_segmented_on_the_frames(tmp_path: Path) -> None:
    from highdicom.legacy import LegacyConvertedEnhancedCTImage

    fine = thin()
    frames = LegacyConvertedEnhancedCTImage(fine, "1.2.826.0.1.7", 9, "1.2.826.0.1.8", 1)
    heights = [i.PlanePositionSequence[0].ImagePositionPatient[2] for i in frames.PerFrameFunctionalGroupsSequence]
    named = 1 + heights.index(fine[AT].ImagePositionPatient[2])  # highdicom puts the frames in an order of its own
    line = replace(line_on(fine[AT]), sop_instance_uid=str(frames.SOPInstanceUID))
    lines = [replace(line, frame_number=number) for number in (named, None)]
    with indexed(tmp_path, [frames]) as index:
        (located,), (skip,) = locate(lines, index)
        plan, target = only(plan_stacks(group_lesions([located]), index, supports=CLASSICAL))
        mask = segmented(plan)
    assert skip.reason == "ambiguous_frame"
    assert target.placed[0].slice_index == AT
    np.testing.assert_allclose(located.points_lps_mm, lps_of(*diameter()), atol=1e-4)
    assert dice(mask, scene()[1]) > 0.8
