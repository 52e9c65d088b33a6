"""Strokes in the patient, and which of them are one lesion. Positions are checked against highdicom's transformer."""

from __future__ import annotations

from collections.abc import Iterable
from contextlib import closing
from dataclasses import dataclass, replace
from pathlib import Path

import numpy as np
import pytest
from dicom import AXIAL, SAGITTAL, ct_series, localizer, write
from highdicom.spatial import ImageToReferenceTransformer
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from cohort_builder.lesions.locating import disagreement_mm, group_lesions, locate
from cohort_builder.pacs.headers import Instance
from cohort_builder.pacs.index import index_export
from cohort_builder.types import Annotation, AnnotationKind, Lesion, LocatedAnnotation, Side, Source

LINE, PAIR, ARROW, POINTER = (
    AnnotationKind.LINE,
    AnnotationKind.BIDIMENSIONAL,
    AnnotationKind.ARROW,
    AnnotationKind.POINTER,
)
OBLIQUE = (0.96, 0.28, 0.0, -0.168, 0.576, 0.8)


class FewImages:
    """What ``locate`` asks of an index, answered from datasets."""

    def __init__(self, datasets: Iterable, folder: Path | None = None) -> None:
        self._by_uid = {str(ds.SOPInstanceUID): _instance(ds, folder) for ds in datasets}

    def instance(self, uid: str, frame_number: int | None = None) -> Instance | None:  # noqa: ARG002
        return self._by_uid.get(uid)

    def instances(self, series_uid: str) -> list[Instance]:
        return [i for i in self._by_uid.values() if i.series_instance_uid == series_uid]


def _instance(ds, folder: Path | None) -> Instance:
    path = Path("/nowhere/a.dcm")
    if folder is not None:
        path = folder / f"{ds.SOPInstanceUID}.dcm"
        ds.save_as(path, enforce_file_format=True)
    geometry = [ds.get(k) for k in ("ImagePositionPatient", "ImageOrientationPatient", "PixelSpacing")]
    position, orientation, spacing = (None if v is None else tuple(float(x) for x in v) for v in geometry)
    return Instance(
        path=path,
        sop_instance_uid=str(ds.SOPInstanceUID),
        sop_class_uid=str(ds.SOPClassUID),
        series_instance_uid=str(ds.SeriesInstanceUID),
        study_instance_uid=str(ds.StudyInstanceUID),
        modality=ds.Modality,
        transfer_syntax_uid="1.2.840.10008.1.2.1",
        image_type=tuple(ds.ImageType),
        series_number=ds.get("SeriesNumber"),
        instance_number=ds.get("InstanceNumber"),
        rows=ds.Rows,
        columns=ds.Columns,
        image_position=position,
        image_orientation=orientation,
        pixel_spacing=spacing,
        frame_of_reference_uid=ds.get("FrameOfReferenceUID"),
        number_of_frames=int(ds.get("NumberOfFrames", 1)),
        rescale_slope=float(ds.RescaleSlope),
        rescale_intercept=float(ds.RescaleIntercept),
        slice_thickness_mm=float(ds.SliceThickness),
    )


def mark(
    image,
    *points: tuple[float, float],
    kind: AnnotationKind = LINE,
    stated: tuple[float, ...] = (),
    name: str = "a",
) -> Annotation:
    uid = str(getattr(image, "SOPInstanceUID", image))
    return Annotation(name, kind, points, uid, "1.7", "1.8", Source("1.9", name, "test"), stated_mm=stated)


def locate_one(annotation: Annotation, index: FewImages) -> LocatedAnnotation:
    (located,), skips = locate([annotation], index)
    assert skips == []
    return located


# ---- locate


@pytest.mark.parametrize("orientation", [AXIAL, OBLIQUE, SAGITTAL, (-1.0, 0, 0, 0, -1.0, 0)], ids=str)
def test_points_in_the_patient_equal_highdicom(orientation: tuple[float, ...]) -> None:
    series = ct_series(4, orientation=orientation, spacing=(0.8, 0.6), origin=(-31.0, 12.5, 200.0))
    points = ((0.0, 0.0), (40.25, 17.5))
    located = locate_one(mark(series[2], *points), FewImages(series))
    image = series[2]
    expected = ImageToReferenceTransformer(
        image.ImagePositionPatient, image.ImageOrientationPatient, image.PixelSpacing
    )(np.array(points))
    np.testing.assert_allclose(located.points_lps_mm, expected, atol=1e-4)
    normal = np.cross(orientation[:3], orientation[3:])
    np.testing.assert_allclose(located.slice_normal_lps, normal, atol=1e-6)


def test_lengths_use_row_spacing_down_and_column_spacing_across() -> None:
    series = ct_series(2, spacing=(2.0, 0.5))
    index = FewImages(series)
    assert locate_one(mark(series[0], (10, 10), (30, 10)), index).diameters_mm == pytest.approx((10.0,))
    assert locate_one(mark(series[0], (10, 10), (10, 30)), index).diameters_mm == pytest.approx((40.0,))
    pair = mark(series[0], (10, 20), (30, 20), (20, 10), (20, 30), kind=PAIR)
    assert locate_one(pair, index).diameters_mm == pytest.approx((40.0, 10.0))
    assert locate_one(mark(series[0], (10, 10), (30, 10), kind=ARROW), index).diameters_mm == ()


def test_what_the_image_knows() -> None:
    series = ct_series(5, number=7, step_mm=2.5)
    located = locate_one(mark(series[3], (10, 10), (30, 10)), FewImages(series))
    assert (located.series_number, located.instance_number) == (7, 4)
    assert located.annotation.series_instance_uid == series[3].SeriesInstanceUID  # the state said 1.7
    assert located.annotation.study_instance_uid == series[3].StudyInstanceUID
    assert located.frame_of_reference_uid == series[3].FrameOfReferenceUID
    assert located.slice_thickness_mm == pytest.approx(2.5)
    assert located.level == pytest.approx(0.75)


def test_thickness_is_the_distance_to_the_next_slice_not_the_header() -> None:
    series = ct_series(positions=[(0, 0, 0), (0, 0, 1.25), (0, 0, 1.25), (0, 0, 7)], voxels=np.zeros((4, 64, 64)))
    index = FewImages(series)
    assert locate_one(mark(series[3], (10, 10), (30, 10)), index).slice_thickness_mm == pytest.approx(5.75)
    assert locate_one(mark(series[1], (10, 10), (30, 10)), index).slice_thickness_mm == pytest.approx(1.25)
    alone = ct_series(1, step_mm=4)
    located = locate_one(mark(alone[0], (10, 10), (30, 10)), FewImages(alone))
    assert (located.slice_thickness_mm, located.level) == (4.0, None)


def test_a_localizer_in_the_series_is_no_neighbour() -> None:
    series, scout = ct_series(5, step_mm=2.5), localizer()
    scout.SeriesInstanceUID = series[0].SeriesInstanceUID
    located = locate_one(mark(series[3], (10, 10), (30, 10)), FewImages([*series, scout]))
    assert (located.slice_thickness_mm, located.level) == (pytest.approx(2.5), pytest.approx(0.75))


def test_what_cannot_be_located_says_why() -> None:
    series, scout = ct_series(3), localizer()
    mr, bare, frames, skewed = ct_series(4, number=9)
    mr.Modality = "MR"
    del bare.PixelSpacing
    frames.NumberOfFrames = 3
    skewed.ImageOrientationPatient = [1, 0, 0, 1, 0, 0]
    annotations = {
        "image_not_in_export": mark("1.2.3.4", (1, 1), (9, 9)),
        "localizer": mark(scout, (1, 1), (9, 9)),
        "not_ct": mark(mr, (1, 1), (9, 9)),
        "no_geometry": mark(bare, (1, 1), (9, 9)),
        "ambiguous_frame": mark(frames, (1, 1), (9, 9)),
        "points_outside_image": mark(series[0], (10, 10), (65.1, 10)),
        "covers_image": mark(series[0], (1, 1), (63, 1), (63, 63), (1, 63), kind=AnnotationKind.BOX),
        "zero_length": mark(series[0], (10, 10), (10.2, 10)),
        "text_disagrees": mark(series[0], (10, 10), (50, 10), stated=(14.0,)),
    }
    index = FewImages([*series, scout, mr, bare, frames, skewed])
    located, skips = locate(
        [*annotations.values(), mark(series[0], (-1, 10), (65, 10)), mark(skewed, (1, 1), (9, 9))], index
    )
    assert [skip.reason for skip in skips] == [*annotations, "no_geometry"]
    assert len(located) == 1  # within one pixel of the border
    assert {skip.reason for skip in skips if skip.failure} == {"no_geometry", "points_outside_image"}
    for skip in skips:
        assert "1.2.826" not in skip.detail
        assert skip.private["sop_instance_uid"]


def test_a_frame_is_located_by_its_own_geometry() -> None:
    series = ct_series(5, step_mm=2.5)

    class Frames(FewImages):
        """The five slices as frames of one object."""

        def __init__(self) -> None:
            super().__init__(series)
            slices = list(self._by_uid.values())
            self.frames = [
                replace(s, sop_instance_uid="1.5", number_of_frames=5, frame_number=n + 1) for n, s in enumerate(slices)
            ]

        def instance(self, uid: str, frame_number: int | None = None) -> Instance | None:  # noqa: ARG002
            if frame_number is None:
                return replace(self.frames[0], frame_number=None, image_position=None)
            return self.frames[frame_number - 1] if frame_number <= 5 else None

        def instances(self, series_uid: str) -> list[Instance]:  # noqa: ARG002
            return self.frames

    drawn = [replace(mark("1.5", (10, 10), (30, 10)), frame_number=number) for number in (4, 6, None)]
    (located,), skips = locate(drawn, Frames())
    expected = locate_one(mark(series[3], (10, 10), (30, 10)), FewImages(series))
    assert located.points_lps_mm == expected.points_lps_mm
    assert (located.slice_thickness_mm, located.level) == (expected.slice_thickness_mm, expected.level)
    assert [(skip.reason, skip.failure) for skip in skips] == [("no_such_frame", True), ("ambiguous_frame", False)]


REGIONS = {
    AnnotationKind.ELLIPSE: ((10, 20), (30, 20), (20, 12), (20, 28)),
    AnnotationKind.BOX: ((10, 12), (30, 12), (30, 28), (10, 28)),
    AnnotationKind.OUTLINE: ((10, 20), (20, 12), (30, 20), (20, 28)),
}


@pytest.mark.parametrize("kind", REGIONS, ids=str)
def test_of_a_region_only_what_stands_beside_it_measures(kind: AnnotationKind) -> None:
    series = ct_series(2, spacing=(0.5, 0.5))
    index, points = FewImages(series), REGIONS[kind]
    assert locate_one(mark(series[0], *points, kind=kind), index).diameters_mm == ()
    stated = mark(series[0], *points, kind=kind, stated=(10.2,))  # 20 pixels, and 16 across
    assert locate_one(stated, index).diameters_mm == pytest.approx((10.0,))
    _, (wrong,) = locate([mark(series[0], *points, kind=kind, stated=(40.0,))], index)
    assert wrong.reason == "text_disagrees"
    thin = tuple((x, 20 + (y - 20) / 50) for x, y in points)
    assert locate([mark(series[0], *thin, kind=kind)], index)[1][0].reason == "zero_length"


@pytest.mark.parametrize(
    ("lengths", "stated", "expected"),
    [
        ((37.1,), (), None),
        ((37.1,), (37.1,), 0.0),
        ((37.1,), (37.9,), 0.0),  # 3 % of 37.1 is 1.1
        ((10.0,), (10.6,), 0.0),
        ((10.0,), (10.9,), 0.25),  # 0.9 - 0.6 - 0.05
        ((10.0,), (11.0,), 0.0),  # a whole number may be anything from 10.5 on
        ((10.0,), (12.0,), 0.9),
        ((24.0, 15.0), (15.0,), 0.0),
        ((24.0, 15.0), (15.1, 24.2), 0.0),
        ((24.0, 15.0), (24.0, 16.8), 1.15),
        ((24.0,), (24.3, 3.1), 0.0),
    ],
)
def test_disagreement_of_text_and_geometry(
    lengths: tuple[float, ...], stated: tuple[float, ...], expected: float | None
) -> None:
    located = stroke("a", (0, 0, 0), *lengths)
    located = replace(located, annotation=replace(located.annotation, stated_mm=stated))
    result = disagreement_mm(located)
    assert result is None if expected is None else result == pytest.approx(expected)


def test_the_index_of_an_export_gives_the_same(tmp_path: Path) -> None:
    series = ct_series(4, spacing=(0.8, 0.6))
    write([*series, localizer()], tmp_path)
    annotations = [
        mark(series[2], (10, 10), (30, 20)),
        mark(localizer(), (1, 1), (9, 9)),
        mark("1.2.3", (1, 1), (9, 9)),
    ]
    with closing(index_export(tmp_path)) as index:
        located, skips = locate(annotations, index)
    assert [skip.reason for skip in skips] == ["localizer", "image_not_in_export"]
    assert located == [locate_one(annotations[0], FewImages(series))]


# ---- side

SIDE_SHAPE, SIDE_SPACING = (100, 120), (3.0, 3.0)


def body(*, shift: float = 0.0, effusion: bool = False, wide: float = 44.0) -> np.ndarray:
    """(1, row, column) HU: a body with two lungs on a table, its middle ``shift`` columns right of the image's."""
    rows, columns = np.mgrid[: SIDE_SHAPE[0], : SIDE_SHAPE[1]]
    columns = columns - (SIDE_SHAPE[1] - 1) / 2 - shift
    hu = np.full(SIDE_SHAPE, -1000.0)
    hu[(columns / wide) ** 2 + ((rows - 48) / 30) ** 2 <= 1] = 40
    for centre in (-18, 18):
        lung = ((columns - centre) / 12) ** 2 + ((rows - 46) / 18) ** 2 <= 1
        hu[lung] = 10 if effusion and centre > 0 else -850
    hu[78:80] = 100  # a table of two pixels, as wide as the image, under the back
    return hu[None]


def side_at(folder: Path, column: float, voxels: np.ndarray, orientation: tuple[float, ...] = AXIAL) -> Side | None:
    (image,) = ct_series(1, voxels=voxels, shape=SIDE_SHAPE, spacing=SIDE_SPACING, orientation=orientation)
    located = locate_one(mark(image, (column - 1, 45), (column + 1, 45)), FewImages([image], folder))
    return located.side


@pytest.mark.parametrize(
    ("column", "expected"),
    [(25, Side.RIGHT), (95, Side.LEFT), (60, Side.MIDLINE), (64.5, Side.MIDLINE), (68, Side.LEFT)],
)
def test_side_of_a_supine_patient(tmp_path: Path, column: float, expected: Side) -> None:
    assert side_at(tmp_path, column, body()) is expected


def test_side_follows_the_patient_not_the_image(tmp_path: Path) -> None:
    prone = (-1.0, 0.0, 0.0, 0.0, -1.0, 0.0)
    assert side_at(tmp_path, 25, body(), prone) is Side.LEFT
    assert side_at(tmp_path, 60, body(shift=-12)) is Side.LEFT  # middle of the image, but not of the body


def test_an_effusion_does_not_move_the_middle(tmp_path: Path) -> None:
    assert side_at(tmp_path, 60, body(effusion=True)) is Side.MIDLINE
    assert side_at(tmp_path, 67, body(effusion=True)) is Side.LEFT


def test_no_side_where_it_cannot_be_told(tmp_path: Path) -> None:
    assert side_at(tmp_path, 25, body(wide=70)) is None  # cut off left and right
    assert side_at(tmp_path, 25, np.full((1, *SIDE_SHAPE), -1000.0)) is None
    crop = np.full((1, *SIDE_SHAPE), -1000.0)
    crop[:, :, 30:80] = 40
    assert side_at(tmp_path, 35, crop) is None
    assert side_at(tmp_path, 25, body(), SAGITTAL) is None


def test_two_legs_have_their_middle_between_them(tmp_path: Path) -> None:
    rows, columns = np.mgrid[: SIDE_SHAPE[0], : SIDE_SHAPE[1]]
    legs = np.full((1, *SIDE_SHAPE), -1000.0)
    for centre, radius in ((35, 20), (82, 17)):
        legs[0, (columns - centre) ** 2 + (rows - 50) ** 2 <= radius**2] = 50
    assert side_at(tmp_path, 45, legs) is Side.RIGHT
    assert side_at(tmp_path, 72, legs) is Side.LEFT


def test_no_side_without_pixels() -> None:
    (image,) = ct_series(1)
    assert locate_one(mark(image, (10, 10), (30, 10)), FewImages([image])).side is None


# ---- grouping


def stroke(
    name: str,
    centre: tuple[float, float, float],
    *lengths: float,
    hand: str = "",
    angle: float = 0.0,
    study: str = "1.8",
    series: str = "1.7",
    frame: str = "1.6",
    thickness: float = 2.0,
) -> LocatedAnnotation:
    """A line or a pair on an axial slice; its points are LPS mm; ``angle`` in degrees; each ``hand`` is one state."""
    u = np.array([np.cos(np.radians(angle)), np.sin(np.radians(angle)), 0])
    axes = zip(lengths, (u, np.array([-u[1], u[0], 0])), strict=False)
    points = _points(np.array(centre) + sign * length / 2 * axis for length, axis in axes for sign in (-1, 1))
    kind = LINE if len(lengths) == 1 else PAIR
    image = f"{series}.{points[0][2]:g}"
    source = Source(hand or name, name, "test")
    annotation = Annotation(name, kind, tuple(p[:2] for p in points), image, series, study, source)
    return LocatedAnnotation(annotation, tuple(lengths), points, frame, slice_thickness_mm=thickness)


def pointing(
    name: str, tail: tuple[float, float, float], head: tuple[float, float, float], *, hand: str = ""
) -> LocatedAnnotation:
    points = _points((tail, head))
    source = Source(hand or name, name, "test")
    annotation = Annotation(name, ARROW, tuple(p[:2] for p in points), f"1.7.{head[2]:g}", "1.7", "1.8", source)
    return LocatedAnnotation(annotation, (), points, "1.6", slice_thickness_mm=2.0)


def region(name: str, centre: tuple[float, float, float], length: float, width: float) -> LocatedAnnotation:
    """An outline of two axes, its vertices crowded on one side."""
    angles = np.radians([0, 90, 180, 200, 220, 240, 260, 270, 280, 300, 320, 340])
    around = np.column_stack([length / 2 * np.cos(angles), width / 2 * np.sin(angles), 0 * angles])
    points = _points(np.array(centre) + around)
    source = Source(name, name, "test")
    drawn = Annotation(
        name, AnnotationKind.OUTLINE, tuple(p[:2] for p in points), f"1.7.{centre[2]:g}", "1.7", "1.8", source
    )
    return LocatedAnnotation(drawn, (), points, "1.6", slice_thickness_mm=2.0)


def _points(points: Iterable[Iterable[float]]) -> tuple[tuple[float, float, float], ...]:
    return tuple((float(x), float(y), float(z)) for x, y, z in points)


def names(lesions: list[Lesion]) -> list[str]:
    """Every lesion as the sorted letters of its strokes."""
    return sorted("".join(sorted(a.annotation.annotation_id for a in lesion.annotations)) for lesion in lesions)


GROUPS = {
    "four readers": ([stroke(n, (i, 0, 0), 30 + i, angle=10 * i) for i, n in enumerate("abcd")], ["abcd"]),
    "readers on different slices": ([stroke("a", (0, 0, 0), 20), stroke("b", (1, 1, 6), 17)], ["ab"]),
    "small nodule, next thick slice": (
        [stroke("a", (0, 0, 0), 5, thickness=5), stroke("b", (1, 0, 5), 4, thickness=5)],
        ["ab"],
    ),
    "stacked nodules": ([stroke("a", (0, 0, 0), 8), stroke("b", (0, 0, 9), 8)], ["a", "b"]),
    "touching neighbours, in line": ([stroke("a", (0, 0, 0), 10), stroke("b", (10, 0, 0), 10)], ["a", "b"]),
    "touching neighbours, side by side": ([stroke("a", (0, 0, 0), 10), stroke("b", (0, 8, 0), 10)], ["a", "b"]),
    "a nodule in a mass": ([stroke("a", (0, 0, 0), 60), stroke("b", (1, 1, 0), 8)], ["a", "b"]),
    "a chain does not grow together": (
        [stroke(n, (6.5 * i, 0, 0), 20, 20) for i, n in enumerate("abcd")],
        ["ab", "cd"],
    ),
    "one hand, side by side on one image": (
        [stroke("a", (0, 0, 0), 40, hand="h"), stroke("b", (0, 9, 0), 40, hand="h")],
        ["a", "b"],
    ),
    "the same by two hands is one": ([stroke("a", (0, 0, 0), 40), stroke("b", (0, 9, 0), 40)], ["ab"]),
    "one hand, two slices": ([stroke("a", (0, 0, 0), 20, hand="h"), stroke("b", (0, 1, 4), 18, hand="h")], ["ab"]),
    "two phases of one study": (
        [stroke("a", (0, 0, 0), 20), stroke("b", (1, 0, 0), 20, series="1.77")],
        ["ab"],
    ),
    "two studies": ([stroke("a", (0, 0, 0), 20), stroke("b", (0, 0, 0), 20, study="1.88")], ["a", "b"]),
    "a region round a lesion": ([stroke("a", (0, 0, 0), 10), region("b", (1, 0, 0), 40, 30)], ["ab"]),
    "a region that samples a lesion": ([stroke("a", (0, 0, 0), 60, 50), region("b", (5, 5, 0), 8, 8)], ["ab"]),
    "a region beside a lesion": ([stroke("a", (0, 0, 0), 10), region("b", (25, 0, 0), 20, 20)], ["a", "b"]),
    "a region round two lesions": (
        [stroke("a", (-8, 0, 0), 10), stroke("b", (8, 0, 0), 10), region("c", (0, 0, 0), 40, 30)],
        ["a", "b", "c"],
    ),
    "two regions on one thing": ([region("a", (0, 0, 0), 20, 16), region("b", (1, 0, 2), 24, 18)], ["ab"]),
    "an arrow at a region": (
        [region("a", (0, 0, 0), 20, 16), pointing("b", (30, 0, 0), (12, 0, 0))],
        ["ab"],
    ),
    "two frames of reference": ([stroke("a", (0, 0, 0), 20), stroke("b", (0, 0, 0), 20, frame="1.66")], ["a", "b"]),
    "an arrow that stops short of the rim": (
        [stroke("a", (0, 0, 0), 20), pointing("b", (40, 0, 0), (15, 0, 0))],
        ["ab"],
    ),
    "an arrow whose head lies inside": (
        [stroke("a", (0, 0, 0), 20), stroke("b", (13, 0, 0), 6), pointing("c", (-40, 0, 0), (4, 0, 0))],
        ["ac", "b"],
    ),
    "an arrow that points away": ([stroke("a", (0, 0, 0), 20), pointing("b", (15, 0, 0), (40, 0, 0))], ["a", "b"]),
    "an arrow that stops too far off": (
        [stroke("a", (0, 0, 0), 20), pointing("b", (60, 0, 0), (30, 0, 0))],
        ["a", "b"],
    ),
    "an arrow on another slice": ([stroke("a", (0, 0, 0), 20), pointing("b", (40, 0, 25), (12, 0, 25))], ["a", "b"]),
    "an arrow that may mean two": (
        [stroke("a", (0, 0, 0), 6), stroke("b", (9, 0, 0), 6), pointing("c", (-20, 0, 0), (-5, 0, 0))],
        ["a", "b", "c"],
    ),
    "two hands point at the same spot": (
        [pointing("a", (30, 0, 0), (0, 0, 0)), pointing("b", (0, 30, 0), (1, 2, 0))],
        ["ab"],
    ),
    "one hand points at two spots": (
        [pointing("a", (30, 0, 0), (0, 0, 0), hand="h"), pointing("b", (0, 30, 0), (1, 2, 0), hand="h")],
        ["a", "b"],
    ),
    "the axes of a pair": (
        [stroke("a", (0, 0, 0), 20, hand="h"), stroke("b", (1, 0, 0), 12, hand="h", angle=85)],
        ["ab"],
    ),
}


@pytest.mark.parametrize("case", GROUPS)
def test_groups(case: str) -> None:
    strokes, expected = GROUPS[case]
    assert names(group_lesions(strokes)) == expected
    assert names(group_lesions(strokes[::-1])) == expected


def test_axes_of_one_hand_are_a_pair_and_of_two_hands_are_not() -> None:
    long, short = stroke("b", (0, 0, 0), 20, hand="h"), stroke("a", (1, 0, 0), 12, hand="h", angle=85)
    (pair,) = group_lesions([short, long])
    first, second = pair.annotations
    assert (first.annotation.kind, first.annotation.annotation_id) == (PAIR, "b")
    assert first.annotation.points == long.annotation.points + short.annotation.points
    assert second == short
    assert pair.diameters_mm == first.diameters_mm == pytest.approx((20, 12))

    other = replace(short, annotation=replace(short.annotation, source=Source("k", "a", "t")))
    (two,) = group_lesions([long, other])
    assert [a.annotation.kind for a in two.annotations] == [LINE, LINE]
    assert two.diameters_mm == pytest.approx((16.0,))

    by_one = [replace(item, annotation=replace(item.annotation, drawn_by_group="r")) for item in (long, other)]
    assert group_lesions(by_one)[0].annotations[0].annotation.kind is PAIR


@pytest.mark.parametrize(("angle", "offset"), [(60.0, 0.0), (90.0, 9.5)], ids=["oblique", "at its end"])
def test_lines_that_are_no_axes_of_a_pair(angle: float, offset: float) -> None:
    lines = [stroke("a", (0, 0, 0), 20, hand="h"), stroke("b", (offset, 0, 0), 14, hand="h", angle=angle)]
    kinds = {a.annotation.kind for lesion in group_lesions(lines) for a in lesion.annotations}
    assert kinds == {LINE}


def test_a_tick_is_no_axis_of_a_pair_unless_both_lengths_are_stated() -> None:
    lines = [stroke("a", (0, 0, 0), 20, hand="h"), stroke("b", (1, 0, 0), 4, hand="h", angle=90)]
    assert [a.annotation.kind for lesion in group_lesions(lines) for a in lesion.annotations] == [LINE, LINE]
    stated = [replace(x, annotation=replace(x.annotation, stated_mm=x.diameters_mm)) for x in lines]
    (pair,) = group_lesions(stated)
    assert (pair.annotations[0].annotation.kind, pair.diameters_mm) == (PAIR, pytest.approx((20, 4)))


def test_the_one_to_segment_from_comes_first() -> None:
    strokes = [
        pointing("a", (40, 0, 0), (12, 0, 0)),
        stroke("b", (0, 0, 0), 24),
        stroke("c", (1, 0, 0), 20, 15),
        stroke("d", (0, 1, 0), 22, 14),
    ]
    (found,) = group_lesions(strokes)
    assert [a.annotation.annotation_id for a in found.annotations] == ["d", "c", "b", "a"]
    assert found.lesion_id == "a"
    assert found.diameters_mm == pytest.approx((22.0, 14.5))
    assert found.centre_lps_mm == pytest.approx((0.0, 0.0, 0.0))


def test_an_arrow_alone_is_a_lesion_at_its_head() -> None:
    (found,) = group_lesions([pointing("a", (40, 0, 0), (12, 3, 0))])
    assert found.diameters_mm == ()
    assert found.centre_lps_mm == (12.0, 3.0, 0.0)


@dataclass(frozen=True)
class Body:
    """An ellipsoid: centre, half axes (mm) and their directions (columns)."""

    centre: np.ndarray
    half: np.ndarray
    turn: np.ndarray

    def reach(self, direction: np.ndarray) -> float:
        return float(np.linalg.norm(self.half * (self.turn.T @ direction)))

    def section(self, z: float) -> tuple[np.ndarray, np.ndarray] | None:
        """Middle and quadratic form of the ellipse in the plane ``z``; None where it misses (nearly) the body."""
        form = self.turn @ np.diag(1 / self.half**2) @ self.turn.T
        in_plane, coupling = form[:2, :2], form[:2, 2]
        shift = np.linalg.solve(in_plane, coupling)
        level = 1 - (z - self.centre[2]) ** 2 * (form[2, 2] - coupling @ shift)
        return None if level < 0.05 else (self.centre[:2] - shift * (z - self.centre[2]), in_plane / level)


def _drawn_on(rng: np.random.Generator, body: Body, name: str, hand: str, thickness: float) -> LocatedAnnotation:
    """A reader's longest axis, with error, on a slice near the middle of the body."""
    z = np.round((body.centre[2] + rng.normal(0, 0.2) * body.reach(np.array([0, 0, 1]))) / thickness) * thickness
    if body.section(z) is None:
        z = body.centre[2]
    middle, form = body.section(z)
    values, vectors = np.linalg.eigh(form)
    angle = np.degrees(np.arctan2(vectors[1, 0], vectors[0, 0])) + rng.normal(0, 12)
    long, short = 2 / np.sqrt(values) * rng.normal(0.95, 0.04)
    middle = middle + rng.normal(0, 0.06 * short, 2)
    lengths = (long, short) if rng.random() < 0.5 else (long,)
    return stroke(name, (*middle, z), *lengths, hand=hand, angle=angle, thickness=thickness)


def two_neighbours(rng: np.random.Generator) -> list[LocatedAnnotation]:
    """Two ellipsoids 0.5 to 4 mm apart, alike in size half of the time, each drawn by one to four readers."""
    thickness = float(rng.choice([1.0, 2.5, 5.0]))
    scales = np.clip(rng.lognormal(np.log(7), 0.6, 2), 2, 50)
    if rng.random() < 0.5:
        scales[1] = scales[0] * rng.uniform(0.7, 1.4)
    turns = [np.linalg.qr(rng.normal(size=(3, 3)))[0] for _ in scales]
    bodies = [
        Body(np.zeros(3), scale * np.array([1, *rng.uniform(0.45, 1, 2)]), turn)
        for scale, turn in zip(scales, turns, strict=True)
    ]
    away = rng.normal(size=3)
    away /= np.linalg.norm(away)
    bodies[1] = replace(bodies[1], centre=away * (sum(b.reach(away) for b in bodies) + rng.uniform(0.5, 4)))
    return [
        _drawn_on(rng, body, f"{letter}{reader}", f"hand{reader}", thickness)
        for letter, body in zip("xy", bodies, strict=True)
        for reader in range(rng.integers(1, 5))
    ]


def test_readers_meet_and_neighbours_stay_apart() -> None:
    rng = np.random.default_rng(11)
    wrong = split = 0
    trials = 600
    for _ in range(trials):
        strokes = two_neighbours(rng)
        owners = [{a.annotation.annotation_id[0] for a in lesion.annotations} for lesion in group_lesions(strokes)]
        wrong += any(len(owner) > 1 for owner in owners)
        split += len(owners) > 2
    assert wrong <= 0.005 * trials
    assert split <= 0.08 * trials


@settings(max_examples=60, deadline=None, suppress_health_check=[HealthCheck.too_slow])
@given(st.integers(0, 2**32 - 1), st.randoms(use_true_random=False))
def test_grouping_does_not_depend_on_order(seed: int, shuffler) -> None:
    rng = np.random.default_rng(seed)
    strokes = [stroke for _ in range(2) for stroke in two_neighbours(rng)]
    strokes = [_renamed(s, f"{i:02}") for i, s in enumerate(strokes)]
    strokes += [pointing("p", (30, 0, 0), (float(rng.normal(8, 4)), 0, 0)), pointing("q", (0, 30, 0), (0, 9, 0))]
    before = group_lesions(strokes)
    shuffler.shuffle(strokes)
    assert group_lesions(strokes) == before
    held = [a.annotation.annotation_id for lesion in before for a in lesion.annotations]
    assert sorted(held) == sorted(s.annotation.annotation_id for s in strokes)


def _renamed(located: LocatedAnnotation, name: str) -> LocatedAnnotation:
    return replace(located, annotation=replace(located.annotation, annotation_id=name))
