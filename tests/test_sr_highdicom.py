"""Structured reports against highdicom: what it wrote is read back, in the image and in space."""

from __future__ import annotations

import copy
import io

import highdicom
import numpy as np
import pydicom
import pytest
from dicom import AXIAL, ct_series, uid
from hypothesis import given, settings
from hypothesis import strategies as st
from pydicom.sequence import Sequence as DicomSequence
from pydicom.sr.codedict import codes
from structured import (
    COMPREHENSIVE_3D,
    LENGTH,
    REGION,
    group,
    hd_group,
    hd_measurement,
    hd_region,
    hd_report,
    image_of,
    item,
    number,
    report,
)

from cohort_builder.annotations import read_annotations
from cohort_builder.types import AnnotationKind

CT = ct_series(4)
LINE, PAIR, POINTER, ELLIPSE, OUTLINE = (
    AnnotationKind[k] for k in ("LINE", "BIDIMENSIONAL", "POINTER", "ELLIPSE", "OUTLINE")
)
ENHANCED = copy.deepcopy(CT[3])
ENHANCED.SOPClassUID, ENHANCED.SOPInstanceUID = "1.2.840.10008.5.1.4.1.1.2.1", uid("enhanced")
A, B, D = (10.25, 20.5), (40.25, 20.5), (25.0, 28.5)


TILTED = (*np.round((np.cos(0.3), np.sin(0.3), 0), 9), *np.round((0.0, 0.0, -1.0), 9))


def in_space(graphic_type, points, image, *, refer=True, purpose=None):
    """A region in patient coordinates, as highdicom writes it, in a group that names the image or none."""
    ds = item("SCOORD3D", REGION if purpose is None else purpose, "CONTAINS")
    ds.GraphicType, ds.GraphicData = graphic_type, [float(v) for p in points for v in p]
    ds.ReferencedFrameOfReferenceUID = image.FrameOfReferenceUID
    named = [image_of(image, None, ("121233", "DCM", "Source Image for Segmentation"), "CONTAINS")] if refer else []
    return ds, named


def with_library(groups, images):
    document = hd_report([hd_region("POINT", [A], images[0])], images, library=True)
    stream = io.BytesIO()
    document.save_as(stream, enforce_file_format=True)
    stream.seek(0)
    document = pydicom.dcmread(stream)  # plain datasets: highdicom's own refuse what they do not know
    document.ContentSequence[-1].ContentSequence = DicomSequence(groups)
    return document


@pytest.mark.parametrize("orientation", [AXIAL, TILTED])
def test_points_in_space_are_projected_with_the_geometry_in_the_image_library(orientation):
    images = ct_series(3, orientation=orientation)
    to_patient = highdicom.spatial.ImageToReferenceTransformer.for_image(images[1])
    line_in_space = number(LENGTH, 21, in_space("POLYLINE", to_patient(np.array([A, B])), images[1])[0])
    line_in_space.ContentSequence[0].RelationshipType = "INFERRED FROM"
    polygon, named = in_space("POLYGON", to_patient(np.array([A, B, D, A])), images[1])
    annotations, skips = read_annotations(with_library([group(line_in_space, *named), group(polygon, *named)], images))
    assert skips == []
    assert [a.kind for a in annotations] == [LINE, OUTLINE]
    assert np.allclose(annotations[0].points, [A, B], atol=1e-4)
    assert np.allclose(annotations[1].points, [A, B, D], atol=1e-4)
    assert {a.sop_instance_uid for a in annotations} == {images[1].SOPInstanceUID}


def test_points_in_space_that_lie_on_no_known_image_are_refused():
    images = ct_series(3)
    to_patient = highdicom.spatial.ImageToReferenceTransformer.for_image(images[1])
    where = to_patient(np.array([A, B, D, A]))
    cases = {
        "scoord3d_without_image": in_space("POLYGON", where, images[1], refer=False),
        "scoord3d_off_plane": in_space("POLYGON", where + np.array([0, 0, 1.0]), images[1]),
        "scoord3d_other_frame": in_space("POLYGON", where, images[1]),
        "unknown_graphic_type": in_space("ELLIPSOID", where, images[1]),
    }
    cases["scoord3d_other_frame"][0].ReferencedFrameOfReferenceUID = uid("elsewhere")
    for reason, (region, named) in cases.items():
        annotations, skips = read_annotations(with_library([group(region, *named)], images))
        assert (annotations, [s.reason for s in skips]) == ([], [reason])
    region, named = in_space("POLYGON", where, images[1])
    annotations, skips = read_annotations(report(group(region, *named), images=CT, sop_class=COMPREHENSIVE_3D))
    assert (annotations, [s.reason for s in skips]) == ([], ["scoord3d_without_geometry"])


# ---- against highdicom -----------------------------------------------------------------------------------------------

coordinate = st.floats(0.5, 60, width=32)
point = st.tuples(coordinate, coordinate)


def far(*points):
    return all(abs(complex(*p) - complex(*q)) > 2 for i, p in enumerate(points) for q in points[:i])


@st.composite
def drawings(draw):
    """A measurement or region of highdicom, the kind it is and its points."""
    image, frame = draw(st.sampled_from(CT)), None
    if draw(st.booleans()):
        image, frame = ENHANCED, draw(st.integers(1, 500))
    kind = draw(st.sampled_from(["line", "pair", "ellipse", "circle", "point", "outline"]))
    name = f"Lesion {draw(st.integers(0, 10**6))}"
    if kind == "line":
        points = draw(st.tuples(point, point).filter(lambda p: far(*p)))
        mm = draw(st.floats(1, 900))
        made = hd_group(hd_measurement(codes.SCT.Length, mm, "POLYLINE", points, image, frame=frame), name=name)
        return made, (LINE, points, image, frame, (round(mm, 6),))
    centre, along, across = draw(point), draw(st.floats(4, 30, width=32)), draw(st.floats(1, 3, width=32))
    turn = np.exp(1j * draw(st.floats(0, 6)))
    ends = [complex(*centre) + turn * step for step in (-along, along, -across * 1j, across * 1j)]
    points = tuple((float(np.float32(p.real)), float(np.float32(p.imag))) for p in ends)
    if min(v for p in points for v in p) < 0:
        points = tuple((x + 64, y + 64) for x, y in points)
    if kind == "pair":
        axes = points[:2], points[2:]
        made = hd_group(
            *(
                hd_measurement(c, 9.0, "POLYLINE", p, image, frame=frame)
                for c, p in zip((codes.SCT.LongAxis, codes.SCT.ShortAxis), axes, strict=True)
            ),
            name=name,
        )
        return made, (PAIR, points, image, frame, (9.0, 9.0))
    if kind == "ellipse":
        return hd_region("ELLIPSE", points, image, frame=frame, name=name), (ELLIPSE, points, image, frame, ())
    if kind == "circle":
        return hd_region("CIRCLE", points[:2], image, frame=frame, name=name), (ELLIPSE, None, image, frame, ())
    if kind == "point":
        return hd_region("POINT", points[:1], image, frame=frame, name=name), (POINTER, points[:1], image, frame, ())
    left, right, _, bottom = (np.array(p) for p in points)
    nearer = (left + right) / 4 + bottom / 2  # half way to the centre: no rhombus, and crosses nothing
    kite = (points[0], points[2], points[1], tuple(nearer.tolist()))
    return hd_region("POLYLINE", [*kite, kite[0]], image, frame=frame, name=name), (OUTLINE, kite, image, frame, ())


@given(st.lists(drawings(), min_size=1, max_size=5))
@settings(max_examples=60)
def test_what_highdicom_wrote_is_read_back(made):
    groups, expected = zip(*made, strict=True)
    document = hd_report(groups, [*CT, ENHANCED])
    annotations, skips = read_annotations(document)
    assert skips == []
    assert len(annotations) == len(expected)
    for annotation, (kind, points, image, frame, stated) in zip(annotations, expected, strict=True):
        assert (annotation.kind, annotation.frame_number) == (kind, frame)
        assert annotation.sop_instance_uid == image.SOPInstanceUID
        assert np.allclose(annotation.stated_mm, stated)
        if points is not None:
            assert np.array_equal(np.float32(annotation.points), np.float32(points))


@given(st.lists(drawings(), min_size=1, max_size=4))
@settings(max_examples=15)
def test_highdicoms_reader_sees_the_same_coordinates(made):
    """highdicom.sr.srread is the independent reader: same coordinates and images, by value."""
    stream = io.BytesIO()
    hd_report([g for g, _ in made], [*CT, ENHANCED]).save_as(stream, enforce_file_format=True)
    stream.seek(0)
    theirs = [
        (str(found.ContentSequence[0].ReferencedSOPSequence[0].ReferencedSOPInstanceUID), found.value.tolist())
        for found in _scoords(highdicom.sr.srread(stream))
    ]
    stream.seek(0)
    annotations, _ = read_annotations(pydicom.dcmread(stream))
    ours = [(a.sop_instance_uid, a.source.item) for a in annotations]
    axes = [len(expected[1]) // 2 if expected[0] == PAIR else 1 for _, expected in made]
    assert len(theirs) == sum(axes)
    for annotation, count in zip(annotations, axes, strict=True):
        found = [theirs.pop(0) for _ in range(count)]
        assert {image for image, _ in found} == {annotation.sop_instance_uid}
        points = np.array([point for _, points in found for point in points])
        if annotation.kind == ELLIPSE and len(points) == 2:
            continue  # a circle: centre and a point on it
        assert np.array_equal(points[: len(annotation.points)], annotation.points)
    assert ours


def _scoords(node):
    for child in node.get("ContentSequence", ()):
        if child.ValueType == "SCOORD":
            yield child
        else:
            yield from _scoords(child)
