"""Structured reports in the styles of OHIF and cornerstone, highdicom and dcmqi, to annotations."""

from __future__ import annotations

from datetime import datetime

import highdicom
import numpy as np
import pytest
from dicom import uid
from pydicom.dataset import Dataset
from pydicom.sr.codedict import codes
from structured import (
    AREA,
    CENTER,
    COMPREHENSIVE,
    CS4,
    CT,
    FINDING,
    LENGTH,
    LONG_AXIS,
    PERIMETER,
    PIXEL,
    REGION,
    SHORT_AXIS,
    A,
    B,
    C,
    D,
    coded,
    cornerstone,
    group,
    hd_group,
    hd_measurement,
    hd_region,
    hd_report,
    image_of,
    item,
    length,
    number,
    one,
    read,
    reasons,
    report,
    scoord,
    tracked,
)

from cohort_builder.annotations import read_annotations
from cohort_builder.types import AnnotationKind

LINE, PAIR, ARROW = AnnotationKind.LINE, AnnotationKind.BIDIMENSIONAL, AnnotationKind.ARROW
POINTER, ELLIPSE, BOX, OUTLINE = (AnnotationKind[k] for k in ("POINTER", "ELLIPSE", "BOX", "OUTLINE"))


def test_a_length_of_ohif():
    annotation = one(cornerstone("Length", length(CT[1], A, B, 21.0), finding="Herd VI"))
    assert (annotation.kind, annotation.points, annotation.stated_mm) == (LINE, (A, B), (21.0,))
    assert annotation.sop_instance_uid == CT[1].SOPInstanceUID
    assert annotation.series_instance_uid == CT[1].SeriesInstanceUID
    assert annotation.study_instance_uid == CT[1].StudyInstanceUID
    assert annotation.frame_number is None
    assert annotation.label == "Herd VI"
    assert annotation.drawn_at == datetime(2024, 3, 5, 11, 30)  # noqa: DTZ001
    assert annotation.annotation_id == f"{report(images=CT).SOPInstanceUID}/1.4.1.4.1"
    assert (annotation.source.kind, annotation.source.rule, annotation.source.confidence) == ("SR", "sr:length", 1.0)


def test_a_bidirectional_of_ohif():
    annotation = one(
        cornerstone("Bidirectional", length(CT[0], A, B, 21.0, LONG_AXIS), length(CT[0], C, D, 11.6, SHORT_AXIS))
    )
    assert (annotation.kind, annotation.points) == (PAIR, (A, B, C, D))
    assert (annotation.stated_mm, annotation.source.rule) == ((21.0, 11.6), "sr:bidirectional")


def test_axes_that_a_writer_swapped_are_ordered_by_length():
    annotation = one(
        cornerstone("Bidirectional", length(CT[0], C, D, 11.6, LONG_AXIS), length(CT[0], A, B, 21.0, SHORT_AXIS))
    )
    assert (annotation.points, annotation.stated_mm) == ((A, B, C, D), (21.0, 11.6))


def test_axes_on_two_images_are_two_lines():
    annotations, skips = read(
        cornerstone("Bidirectional", length(CT[0], A, B, 21.0, LONG_AXIS), length(CT[1], C, D, 9, SHORT_AXIS))
    )
    assert [(a.kind, a.source.rule) for a in annotations] == [(LINE, "sr:long_axis"), (LINE, "sr:short_axis")]
    assert skips == []


def test_an_arrow_of_cornerstone3d_has_its_head_first():
    """Its adapter swaps the handles so that the arrow's point is written first; dcmjs calls both points a POINT."""
    annotation = one(
        cornerstone("ArrowAnnotate", number(CENTER, None, scoord("POINT", [A, B], image_of(CT[1]))), finding="hier")
    )
    tail, head = annotation.points
    assert (annotation.kind, head, tail, annotation.label) == (ARROW, A, B, "hier")
    label = ("111010", "DCM", "label")
    newer = number(label, 0, scoord("POLYLINE", [A, B], image_of(CT[1])), unit=PIXEL)
    assert one(cornerstone("ArrowAnnotate", newer)).points == (B, A)


def test_an_arrow_of_cornerstone_4_is_its_tip_alone():
    annotation = one(
        cornerstone("ArrowAnnotate", number(CENTER, None, scoord("POINT", [A], image_of(CT[1]))), viewer=CS4)
    )
    assert (annotation.kind, annotation.points, annotation.source.rule) == (POINTER, (A,), "sr:arrow_tip")


def test_two_points_that_are_no_arrow_are_refused():
    assert reasons(cornerstone("Length", number(CENTER, None, scoord("POINT", [A, B], image_of(CT[1]))))) == [
        "malformed_graphic"
    ]


def test_an_elliptical_roi_of_ohif():
    """dcmjs gives its area the code of a length, in mm2."""
    ends = [(10, 30), (50, 30), (30, 20), (30, 40)]
    square = ("mm2", "UCUM", "mm2")
    annotation = one(
        cornerstone("EllipticalROI", number(AREA, 628.3, scoord("ELLIPSE", ends, image_of(CT[1])), unit=square))
    )
    assert (annotation.kind, annotation.points, annotation.stated_mm) == (ELLIPSE, tuple(ends), ())
    swapped = number(AREA, 628.3, scoord("ELLIPSE", ends[2:] + ends[:2], image_of(CT[1])), unit=square)
    assert one(cornerstone("EllipticalROI", swapped)).points == tuple(ends)


def test_a_circle_roi_of_ohif():
    circle = scoord("CIRCLE", [(30, 30), (33, 34)], image_of(CT[1]))
    elsewhere = item("", None, "INFERRED FROM")
    del elsewhere.ValueType
    elsewhere.ReferencedContentItemIdentifier = [1, 1, 7]  # dcmjs: a path to nowhere
    radius = number(("131190003", "SCT", "Radius"), 5.0, elsewhere)
    annotation = one(cornerstone("CircleROI", number(PERIMETER, 31.4, circle), radius))
    assert annotation.kind == ELLIPSE
    assert np.allclose(annotation.points, [(25, 30), (35, 30), (30, 25), (30, 35)])
    assert annotation.stated_mm == ()


@pytest.mark.parametrize("corners", [[0, 1, 2, 3, 0], [0, 1, 3, 2]])
def test_a_rectangle_roi_of_ohif_closed_or_as_its_handles_lie(corners):
    square = [(10, 10), (30, 10), (30, 20), (10, 20)]
    drawn = scoord("POLYLINE", [square[i] for i in corners], image_of(CT[1]))
    annotation = one(cornerstone("RectangleROI", number(PERIMETER, 60, drawn)))
    assert annotation.kind == BOX
    assert annotation.points == tuple(square)


def test_a_freehand_roi_of_ohif():
    vertices = [(10, 10), (30, 12), (33, 25), (12, 22)]
    closed = number(PERIMETER, 60, scoord("POLYLINE", [*vertices, vertices[0]], image_of(CT[1])))
    assert one(cornerstone("PlanarFreehandROI", closed)).points == tuple(vertices)
    assert one(cornerstone("PlanarFreehandROI", closed)).kind == OUTLINE
    left_open = number(PERIMETER, 60, scoord("POLYLINE", vertices, image_of(CT[1])))
    assert reasons(cornerstone("PlanarFreehandROI", left_open)) == ["open_polyline"]


@pytest.mark.parametrize(("tool", "reason"), [
    ("Angle", "angle"), ("CobbAngle", "angle"), ("CalibrationLine", "calibration_ruler"), ("Probe:KeyImage", "key_image"),
])  # fmt: skip
def test_tools_of_ohif_that_draw_no_lesion(tool, reason):
    assert reasons(cornerstone(tool, length(CT[1], A, B, 21.0))) == [reason]


def test_the_place_of_a_text_box_is_no_annotation():
    where = scoord(
        "POINT",
        [C],
        image_of(CT[1]),
        relationship="CONTAINS",
        concept=("TextPosition", "99CS3D", "Text Annotation Position"),
    )
    assert one(cornerstone("Length", length(CT[1], A, B, 21.0), where)).points == (A, B)


def test_measurements_of_highdicom():
    groups = [
        hd_group(
            hd_measurement(codes.SCT.LongAxis, 2.1, "POLYLINE", [A, B], CT[2], unit=codes.UCUM.Centimeter),
            hd_measurement(codes.SCT.ShortAxis, 1.16, "POLYLINE", [C, D], CT[2], unit=codes.UCUM.Centimeter),
            finding_type=codes.SCT.Nodule,
            finding_sites=[highdicom.sr.FindingSite(codes.SCT.Lung)],
        ),
        hd_group(hd_measurement(codes.SCT.Diameter, 12, "POLYLINE", [A, C], CT[1], frame=1), name="Lesion 2"),
    ]
    (pair, diameter), skips = read_annotations(hd_report(groups, CT))
    assert skips == []
    assert (pair.kind, pair.points, pair.stated_mm) == (PAIR, (A, B, C, D), (21.0, 11.6))
    assert pair.label == "Lesion 1\nNodule\nLung"
    assert (diameter.kind, diameter.points, diameter.frame_number) == (LINE, (A, C), None)


def test_planar_regions_of_highdicom():
    """TID 1410: the region stands beside its numbers; a polyline of an image region may be left open and is closed."""
    ten = highdicom.sr.Measurement(codes.SCT.Diameter, 10, codes.UCUM.Millimeter)
    groups = [
        hd_region("CIRCLE", [(30, 30), (30, 35)], CT[1], measurements=[ten], name="a"),
        hd_region("POLYLINE", [(10, 10), (30, 12), (33, 25), (15, 22)], CT[1], name="b"),
        hd_region("POINT", [(10, 10)], CT[1], name="c"),
        hd_region("POLYLINE", [A, B], CT[1], measurements=[ten], name="d"),
        hd_region("POLYLINE", [A, B], CT[1], name="e"),
    ]
    annotations, (skip,) = read_annotations(hd_report(groups, CT, in_space=False))
    assert [a.kind for a in annotations] == [ELLIPSE, OUTLINE, POINTER, LINE]
    assert [a.stated_mm for a in annotations] == [(10.0,), (), (), (10.0,)]
    assert [a.source.confidence for a in annotations] == [1.0, 0.8, 0.8, 0.8]
    assert skip.reason == "unmeasured_line"


def test_a_volumetric_measurement_of_dcmqi_refers_to_a_segmentation():
    segmentation = Dataset()
    segmentation.SOPClassUID, segmentation.SOPInstanceUID = "1.2.840.10008.5.1.4.1.1.66.4", uid("seg")
    segment = image_of(segmentation, None, ("121191", "DCM", "Referenced Segment"), "CONTAINS")
    volume = number(("118565006", "SCT", "Volume"), 4000, unit=("mm3", "UCUM", "cubic millimeter"))
    assert reasons(group(*tracked("Tumor"), segment, coded(FINDING, ("108369006", "SCT", "Neoplasm")), volume)) == [
        "segmentation_reference"
    ]


def test_a_planar_region_of_dcmqi():
    region = scoord(
        "POLYLINE", [(10, 10), (30, 12), (33, 25), (10, 10)], image_of(CT[1]), relationship="CONTAINS", concept=REGION
    )
    annotation = one(
        group(*tracked("Tumor"), coded(FINDING, ("108369006", "SCT", "Neoplasm")), region), sop_class=COMPREHENSIVE
    )
    assert (annotation.kind, annotation.source.confidence, annotation.label) == (OUTLINE, 1.0, "Tumor\nNeoplasm")


# ---- concepts, units, references -------------------------------------------------------------------------------------


@pytest.mark.parametrize(("concept", "kind", "confidence"), [
    (("81827009", "SCT", "Diameter"), LINE, 1.0), (("M-02550", "SRT", "Diameter"), LINE, 1.0),
    (("M-02550", "SNM3", "Diameter"), LINE, 1.0), (("121206", "DCM", "Distance"), LINE, 1.0),
    (("D1", "99LOCAL", "Längsdurchmesser"), LINE, 0.9), (("x", "99LOCAL", "Herd"), LINE, 0.7),
    (("103355008", "SCT", "Width"), LINE, 1.0),
])  # fmt: skip
def test_concepts_of_a_line(concept, kind, confidence):
    annotation = one(group(length(CT[1], A, B, 21.0, concept)))
    assert (annotation.kind, annotation.source.confidence, annotation.stated_mm) == (kind, confidence, (21.0,))


@pytest.mark.parametrize(("concept", "unit", "reason"), [
    (("285285000", "SCT", "Cobb angle"), ("deg", "UCUM", "degree"), "angle"),
    (("W", "99LOCAL", "Winkel"), ("deg", "UCUM", "degree"), "angle"),
    (("131190003", "SCT", "Radius"), ("mm", "UCUM", "mm"), "radius"),
    (("121211", "DCM", "Path length"), ("mm", "UCUM", "mm"), "not_diameter"),
    (("x", "99LOCAL", "Herd"), PIXEL, "unknown_measurement"),
])  # fmt: skip
def test_concepts_of_a_line_that_is_no_diameter(concept, unit, reason):
    assert reasons(group(number(concept, 12, scoord("POLYLINE", [A, B], image_of(CT[1])), unit=unit))) == [reason]


@pytest.mark.parametrize(("unit", "value", "stated"), [
    (("mm", "UCUM", "mm"), 21.5, (21.5,)), (("cm", "UCUM", "cm"), 2.15, (21.5,)), (("m", "UCUM", "m"), 0.0215, (21.5,)),
    (("cm", "99LOCAL", "cm"), 2.15, (21.5,)), (PIXEL, 30, ()), (("mm2", "UCUM", "mm2"), 30, ()),
    (("mm", "UCUM", "mm"), 4000, ()), (("mm", "UCUM", "mm"), -3, ()), (("mm", "UCUM", "mm"), None, ()),
])  # fmt: skip
def test_units(unit, value, stated):
    assert one(group(number(LENGTH, value, scoord("POLYLINE", [A, B], image_of(CT[1])), unit=unit))).stated_mm == stated


def test_an_image_by_reference():
    """OHIF's image library holds the image, and the coordinates refer to it (PS3.3 C.17.3.2.5)."""
    by_reference = Dataset()
    by_reference.RelationshipType, by_reference.ReferencedContentItemIdentifier = "SELECTED FROM", [1, 4, 1]
    enhanced = image_of(CT[2], 3, relationship="CONTAINS")
    enhanced.ReferencedSOPSequence[0].ReferencedSOPClassUID = "1.2.840.10008.5.1.4.1.1.2.1"
    library = item("CONTAINER", ("111028", "DCM", "Image Library"), "CONTAINS", enhanced)
    drawn = group(number(LENGTH, 21, scoord("POLYLINE", [A, B], by_reference)))
    annotation = one(drawn, context=[library])
    assert (annotation.sop_instance_uid, annotation.frame_number) == (CT[2].SOPInstanceUID, 3)
    for path in ([1, 4, 2], [1], [2, 4, 1], [1, 4, 0], [1, 1], []):
        by_reference.ReferencedContentItemIdentifier = path
        expected = "unresolved_reference" if path else "no_reference"
        assert reasons(drawn, context=[library]) == [expected]


def test_coordinates_that_a_number_refers_to():
    by_reference = Dataset()
    by_reference.RelationshipType, by_reference.ReferencedContentItemIdentifier = "INFERRED FROM", [1, 4, 1, 1]
    drawn = scoord("POLYLINE", [A, B], image_of(CT[1]), relationship="CONTAINS")
    annotation = one(group(drawn, number(LENGTH, 21, by_reference)))
    assert (annotation.kind, annotation.stated_mm, annotation.source.item) == (LINE, (21.0,), "1.4.1.1")


def test_references_that_are_not_one_image():
    def lying(*images):
        return group(number(LENGTH, 21, scoord("POLYLINE", [A, B], *images)))

    two_frames = image_of(CT[1])
    two_frames.ReferencedSOPSequence[0].ReferencedFrameNumber = [1, 2]
    no_uid = image_of(CT[1])
    no_uid.ReferencedSOPSequence[0].ReferencedSOPInstanceUID = ""
    assert reasons(lying()) == ["no_reference"]
    assert reasons(lying(no_uid)) == ["no_reference"]
    assert reasons(lying(image_of(CT[1]), image_of(CT[2]))) == ["several_images"]
    assert reasons(lying(image_of(CT[1:3]))) == ["several_images"]
    assert reasons(lying(two_frames)) == ["several_frames"]
    assert one(lying(image_of(CT[1]), image_of(CT[1]))).sop_instance_uid == CT[1].SOPInstanceUID


@pytest.mark.parametrize(("frame", "reason"), [(0, "no_such_frame"), (2, "no_such_frame"), (1, None), (None, None)])
def test_frames_of_an_image_that_has_one(frame, reason):
    """Some writers name the only frame there is; a presentation state is read in the same way."""
    drawn = group(number(LENGTH, 21, scoord("POLYLINE", [A, B], image_of(CT[1], frame))))
    annotations, skips = read(drawn)
    assert [skip.reason for skip in skips] == [reason] * (reason is not None)
    assert [a.frame_number for a in annotations] == [None] * (reason is None)


def test_axes_that_do_not_cross_near_perpendicular_are_two_lines():
    def pair(start, end):
        return read(
            cornerstone("Bidirectional", length(CT[0], A, B, 21.0, LONG_AXIS), length(CT[0], start, end, 9, SHORT_AXIS))
        )

    for start, end in (((50, 40), (50, 52)), ((25, 22), (25, 34)), ((15, 18), (35, 23))):
        annotations, skips = pair(start, end)
        assert [(a.kind, a.source.rule) for a in annotations] == [(LINE, "sr:long_axis"), (LINE, "sr:short_axis")]
        assert skips == []
    for start, end in (((25, 14), (25, 28)), ((25, 20.5), (25, 32)), ((22, 14), (28, 28))):
        annotations, skips = pair(start, end)
        assert ([a.kind for a in annotations], skips) == ([PAIR], [])


HU, BARE = ("[hnsf'U]", "UCUM", "Hounsfield unit"), ("1", "UCUM", "no units")
MEAN = ("373098007", "SCT", "Mean")
ENDS = [(10, 30), (50, 30), (30, 20), (30, 40)]
RING = [(10, 10), (30, 12), (33, 25), (15, 22), (10, 10)]


@pytest.mark.parametrize(("graphic_type", "points"), [
    ("CIRCLE", [(30, 30), (30, 35)]), ("ELLIPSE", ENDS), ("POINT", [A]),
    ("POLYLINE", [(10, 10), (30, 10), (30, 20), (10, 20), (10, 10)]),
])  # fmt: skip
@pytest.mark.parametrize(("concept", "unit"), [
    (MEAN, HU), (("112031", "DCM", "Attenuation Coefficient"), HU), (("x", "99X", "Mean"), BARE),
    (("x", "99X", "HU"), BARE), (("386136009", "SCT", "Standard Deviation"), HU),
])  # fmt: skip
def test_a_region_or_point_at_which_a_density_was_read_out_is_no_lesion(graphic_type, points, concept, unit):
    """As in a presentation state: in the number of its coordinates, of the same ones beside an area, or of the group."""
    square = ("mm2", "UCUM", "mm2")
    drawn = scoord(graphic_type, points, image_of(CT[1]))
    region = scoord(graphic_type, points, image_of(CT[1]), relationship="CONTAINS", concept=REGION)
    assert reasons(group(number(concept, 35, drawn, unit=unit))) == ["density_roi"]
    assert reasons(group(number(AREA, 300, drawn, unit=square), number(concept, 35, drawn, unit=unit))) == [
        "density_roi"
    ]
    assert reasons(group(region, number(concept, 35, unit=unit))) == ["density_roi"]
    assert len(read(group(region, number(AREA, 300, unit=square)))[0]) == 1


def test_a_density_beside_an_outline_or_a_length():
    outline = scoord("POLYLINE", RING, image_of(CT[1]))
    found = one(group(number(PERIMETER, 60, outline), number(MEAN, 35, outline, unit=HU)))
    assert (found.kind, found.source.rule, found.source.confidence) == (OUTLINE, "sr:outline+density", 0.7)
    measured = one(group(length(CT[1], A, B, 21), number(MEAN, 35, unit=HU)))
    assert (measured.kind, measured.source.rule) == (LINE, "sr:length")
    assert (
        one(group(number(("x", "99X", "Mean diameter"), 9, scoord("CIRCLE", [A, C], image_of(CT[1]))))).kind == ELLIPSE
    )


@pytest.mark.parametrize("tool", ["Probe", "DragProbe"])
def test_probes_of_cornerstone(tool):
    assert reasons(cornerstone(tool, number(CENTER, None, scoord("POINT", [A], image_of(CT[1]))))) == ["density_roi"]


@pytest.mark.parametrize(("points", "reason"), [
    ([(10, 10), (40, 10), (10, 30), (40, 30), (10, 10)], "self_crossing_outline"),
    ([(10, 10), (40, 10), (20, 10), (10, 10)], "zero_area"),
    ([(10, 10), (20, 5), (30, 10), (35, 20)], "open_polyline"),  # a trace that does not come back
    ([(10, 10), (30, 10), (25, 20)], "open_polyline"),  # an angle
    ([(10, 10), (40, 10), (10, 30), (40, 30)], "self_crossing_outline"),
    ([(50 + 40 * np.cos(t), 50 + 40 * np.sin(t)) for t in np.linspace(0, 6.28, 4001)], "many_points"),
])  # fmt: skip
def test_regions_that_are_none(points, reason):
    drawn = scoord("POLYLINE", points, image_of(CT[1]), relationship="CONTAINS", concept=REGION)
    assert reasons(group(drawn)) == [reason]


def test_an_outline_too_long_for_its_value_representation(tmp_path):
    """More than 65,534 bytes are stored as UN (PS3.5 6.2.2)."""
    ring = [(200 + 150 * np.cos(t), 200 + 150 * np.sin(t)) for t in np.linspace(0, 6.28, 24_000)]
    document = report(group(scoord("POLYLINE", ring, image_of(CT[1]), concept=REGION)), images=CT)
    with pytest.warns(UserWarning, match="changed from 'FL' to 'UN'"):
        document.save_as(tmp_path / "report", enforce_file_format=True)
    annotations, (skip,) = read_annotations(tmp_path / "report")
    assert (annotations, skip.reason, skip.failure) == ([], "many_points", False)


def test_points_of_all_regions_together_are_limited():
    ring = [(100 + 80 * np.cos(t), 100 + 80 * np.sin(t)) for t in np.linspace(0, 2 * np.pi, 4000)]
    drawn = [scoord("POLYLINE", ring, image_of(CT[1]), concept=REGION, relationship="CONTAINS") for _ in range(14)]
    _, skips = read(*(group(one_of_them) for one_of_them in drawn))
    assert [skip.reason for skip in skips] == ["many_points", "many_points"]


def test_one_line_and_two_numbers_are_one_annotation():
    both = group(length(CT[1], A, B, 21), length(CT[1], A, B, 21, ("81827009", "SCT", "Diameter")))
    assert one(both).source.item == "1.4.1.1.1"
