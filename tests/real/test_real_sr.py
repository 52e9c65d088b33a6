"""Structured reports of real writers: what they draw is read, and everything else is refused by the right name."""

from __future__ import annotations

import highdicom
import numpy as np
import pytest
from cases import real_data

from cohort_builder.annotations import read_annotations

OHIF = {
    "dcmjs/test/sample-sr.dcm": [("BIDIMENSIONAL", "sr:bidirectional", ())],
    "dcmjs/examples/data/structured_report.dcm": [
        ("POINTER", "sr:arrow_tip", ()),
        ("ELLIPSE", "sr:ellipse", ()),
        ("BIDIMENSIONAL", "sr:bidirectional", (93.9, 47.0)),
        ("LINE", "sr:length", (39.366493,)),
        ("LINE", "sr:length", (133.992062,)),
        ("ELLIPSE", "sr:ellipse", ()),
    ],
}
HIGHDICOM = {
    "sr_document.dcm": ([("ELLIPSE", ())], []),
    "sr_document_with_multiple_groups.dcm": (
        [("ELLIPSE", (10.0,)), ("BOX", ())],
        ["measurement_without_coordinates", "scoord3d_without_geometry"],
    ),
}
TEXTS = {
    "reportsi.dcm": "no_measurements",
    "reportsi_with_empty_number_tags.dcm": "no_measurements",
    "test-SR.dcm": "no_reference",
}


@pytest.mark.parametrize(("name", "expected"), OHIF.items())
def test_reports_of_ohif(name, expected):
    annotations, skips = read_annotations(real_data("sr") / name)
    assert skips == []
    assert [(a.kind, a.source.rule, a.stated_mm) for a in annotations] == expected
    assert all(a.series_instance_uid for a in annotations)


def test_the_numbers_of_ohif_are_the_lengths_of_its_lines():
    """Its pixels are square: every stated value over its line is the pixel spacing."""
    annotations, _ = read_annotations(real_data("sr") / "dcmjs/examples/data/structured_report.dcm")
    spacings = [
        mm / abs(complex(*end) - complex(*start))
        for a in annotations
        for mm, start, end in zip(a.stated_mm, a.points[::2], a.points[1::2], strict=False)
    ]
    assert len(spacings) == 4
    assert np.ptp(spacings) < 0.01


@pytest.mark.parametrize(("name", "expected"), HIGHDICOM.items())
def test_reports_of_highdicom(name, expected):
    path = real_data("sr") / "highdicom/data/test_files" / name
    annotations, skips = read_annotations(path)
    assert ([(a.kind, a.stated_mm) for a in annotations], [s.reason for s in skips]) == expected
    theirs = highdicom.sr.srread(path).content.get_planar_roi_measurement_groups()
    regions = [g.roi for g in theirs if isinstance(g.roi, highdicom.sr.ImageRegion)]
    assert len(regions) == len(annotations)
    for region, annotation in zip(regions, annotations, strict=True):
        if annotation.kind == "BOX":
            assert np.array_equal(region.value, annotation.points)
        else:  # a circle: its centre is the middle of both axes
            assert np.allclose(region.value[0], np.mean(annotation.points, axis=0))


@pytest.mark.parametrize(("name", "reason"), TEXTS.items())
def test_reports_without_a_measurement_on_an_image(name, reason):
    annotations, (skip,) = read_annotations(real_data("sr") / "pydicom/src/pydicom/data/test_files" / name)
    assert (annotations, skip.reason) == ([], reason)
