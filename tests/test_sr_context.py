"""Structured reports: who, when and of which examination; damaged trees; the same line elsewhere."""

from __future__ import annotations

import subprocess
import sys
from datetime import datetime
from pathlib import Path

import numpy as np
import pytest
from dicom import Graphic, ct_series, gsps, line, on, write
from hypothesis import given, settings
from hypothesis import strategies as st
from pydicom.dataset import Dataset
from pydicom.sequence import Sequence as DicomSequence
from structured import (
    AREA,
    CENTER,
    COMPREHENSIVE,
    COMPREHENSIVE_3D,
    CT,
    FINDING,
    GROUP,
    LENGTH,
    LONG_AXIS,
    PIXEL,
    REGION,
    SHORT_AXIS,
    SITE,
    A,
    B,
    C,
    D,
    coded,
    cornerstone,
    group,
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
    said,
    scoord,
    tracked,
)

from cohort_builder import index_export
from cohort_builder.annotations import deduplicate, read_annotations
from cohort_builder.patient import read_lesions
from cohort_builder.types import AnnotationKind


def test_who_and_when():
    verified = report(group(length(CT[1], A, B)), images=CT, observer="unknown^unknown")
    observer = Dataset()
    observer.VerifyingObserverName = "Befund^Berta"
    verified.VerifyingObserverSequence = DicomSequence([observer])
    stamped = length(CT[1], A, B)
    stamped.ObservationDateTime = "20240306081500.5+0100"
    (by_verifier,), _ = read_annotations(verified)
    by_observer, other = one(group(stamped)), one(group(length(CT[1], A, B)), observer="Nord^Nils")
    (in_state,), _ = read_annotations(gsps([on(CT[1], line(A, B))]))
    assert by_verifier.drawn_by_group == by_observer.drawn_by_group == in_state.drawn_by_group
    assert other.drawn_by_group not in {None, by_observer.drawn_by_group}
    assert by_observer.drawn_at == datetime(2024, 3, 6, 8, 15)  # noqa: DTZ001
    assert one(group(length(CT[1], A, B)), observer="unknown^unknown").drawn_by_group is None


@pytest.mark.parametrize("flags", [("PARTIAL", "UNVERIFIED"), ("COMPLETE", "VERIFIED")])
def test_reports_are_read_before_anyone_verified_them(flags):
    document = report(group(length(CT[1], A, B)), images=CT)
    document.CompletionFlag, document.VerificationFlag = flags
    assert len(read_annotations(document)[0]) == 1


def test_what_belongs_to_an_earlier_examination_is_refused():
    drawn = length(CT[1], A, B, 21)
    temporal = ("410510008", "SCT", "Temporal context")
    past = coded(temporal, ("410513005", "SCT", "Past"), "HAS CONCEPT MOD")
    offset = number(("128740", "DCM", "Longitudinal Temporal Offset from Event"), -30, unit=("d", "UCUM", "day"))
    offset.RelationshipType = "HAS OBS CONTEXT"
    prior = item("CONTAINER", ("121068", "DCM", "Previous Findings"), "CONTAINS", group(drawn))
    with_past = length(CT[1], A, B, 21)
    with_past.ContentSequence.append(past)
    assert reasons(group(drawn, past)) == ["prior_measurement"]
    assert reasons(group(drawn, offset)) == ["prior_measurement"]
    assert reasons(prior) == ["prior_measurement"]
    assert reasons(group(with_past)) == ["prior_measurement"]
    (annotation,), (skip,) = read(group(with_past, length(CT[1], C, D, 11)))
    assert (annotation.points, skip.reason) == ((C, D), "prior_measurement")
    now = coded(temporal, ("15240007", "SCT", "Current"), "HAS CONCEPT MOD")
    assert one(group(drawn, now)).points == (A, B)


def test_what_an_algorithm_measured_and_what_is_absent():
    named = said(("111001", "DCM", "Algorithm Name"), "Nodule finder", "HAS CONCEPT MOD")
    absent = coded(("408729009", "SCT", "Finding context"), ("410516002", "SCT", "Known absent"))
    assert reasons(group(length(CT[1], A, B), named)) == ["drawn_by_algorithm"]
    assert reasons(group(length(CT[1], A, B), absent)) == ["absent_finding"]
    spiculation = coded(("129737002", "SCT", "Radiographic lesion margin"), ("272519000", "SCT", "Absent"))
    assert one(group(length(CT[1], A, B), spiculation)).points == (A, B)


def test_what_a_device_observed_without_a_person_is_refused():
    """PS3.16 TID 1002: the nearest level that names an observer decides, and a person beside a device measured."""
    kind, device, person = ("121005", "DCM", "Observer Type"), ("121007", "DCM", "Device"), ("121006", "DCM", "Person")
    by_device, by_person = (coded(kind, value, "HAS OBS CONTEXT") for value in (device, person))
    named = said(("121013", "DCM", "Device Observer Name"), "Finder", "HAS OBS CONTEXT")
    drawn = length(CT[1], A, B)

    def of_nobody(*groups, context=()):
        document = report(*groups, images=CT, context=context)
        items = document.ContentSequence
        document.ContentSequence = [i for i in items if i.get("ValueType") != "PNAME"]
        return [skip.reason for skip in read_annotations(document)[1]]

    assert of_nobody(group(drawn)) == []
    assert of_nobody(group(drawn), context=[by_device]) == ["drawn_by_algorithm"]
    assert of_nobody(group(drawn), context=[named]) == ["drawn_by_algorithm"]
    assert of_nobody(group(drawn), context=[by_device, by_person]) == []
    assert of_nobody(group(by_person, drawn), context=[by_device]) == []
    assert reasons(group(by_device, drawn)) == ["drawn_by_algorithm"]
    assert len(read(group(drawn), context=[by_device, named])[0]) == 1  # a person is named at the same level


def test_reports_without_drawings():
    text = report(images=CT, context=[said(("121070", "DCM", "Findings"), "Herd von 12 mm")])
    ((skip,),) = [read_annotations(text)[1]]
    assert (skip.reason, skip.failure, skip.item) == ("no_measurements", False, text.SOPInstanceUID)
    assert reasons(group(number(LENGTH, 12))) == ["measurement_without_coordinates"]
    text.SOPClassUID = "1.2.840.10008.5.1.4.1.1.88.59"
    assert [s.reason for s in read_annotations(text)[1]] == ["not_measurement_report"]
    text.SOPClassUID = "1.2.840.10008.5.1.4.1.1.88.65"
    assert [s.reason for s in read_annotations(text)[1]] == ["cad_report"]


def test_coordinates_under_a_sentence():
    circle = scoord("CIRCLE", [(30, 30), (30, 35)], image_of(CT[1]))
    sentence = said(FINDING, "Herd")
    sentence.ContentSequence = DicomSequence([circle, scoord("POLYLINE", [A, B], image_of(CT[1]))])
    (annotation,), (skip,) = read(item("CONTAINER", ("121070", "DCM", "Findings"), "CONTAINS", sentence))
    assert (annotation.kind, annotation.source.confidence, skip.reason) == (
        AnnotationKind.ELLIPSE,
        0.7,
        "unmeasured_line",
    )


def test_regions_under_an_unknown_concept_and_of_older_highdicom():
    nipple = scoord("POINT", [A], image_of(CT[1]), relationship="CONTAINS", concept=("111043", "DCM", "Nipple"))
    assert reasons(group(nipple)) == ["unknown_region"]
    region = scoord("POINT", [A], image_of(CT[1]), relationship="CONTAINS", concept=REGION)
    region.PixelOriginInterpretation = "VOLUME"  # of a CT image, which has no matrix of tiles, the same as FRAME
    assert one(group(region)).points == (A,)


def test_nothing_of_the_report_stands_in_a_skip():
    document = report(
        group(
            *tracked("Geheim"),
            number(("x", "99GEHEIM", "Geheim"), 3, scoord("POLYLINE", [A, B], image_of(CT[1])), unit=PIXEL),
        ),
        images=CT,
    )
    document.Manufacturer = "Geheim"
    (skip,) = read_annotations(document)[1]
    assert "Geheim" not in f"{skip.item}{skip.reason}{skip.detail}"


# ---- damage ----------------------------------------------------------------------------------------------------------


def test_trees_that_are_deep_or_endless_are_refused_whole():
    deep = group(length(CT[1], A, B))
    for _ in range(40):
        deep = item("CONTAINER", GROUP, "CONTAINS", deep)
    assert reasons(deep) == ["content_tree_too_large"]
    loop = group(length(CT[1], A, B))
    loop.ContentSequence.append(loop)
    assert reasons(loop) == ["content_tree_too_large"]
    wide = report(images=CT)
    wide.ContentSequence = DicomSequence([Dataset()] * 20_001)
    assert [s.reason for s in read_annotations(wide)[1]] == ["content_tree_too_large"]


def test_items_that_refer_to_each_other_end():
    one_item, other = Dataset(), Dataset()
    for ds, target in ((one_item, [1, 4, 1, 1, 1]), (other, [1, 4, 1, 1, 1, 1])):
        ds.RelationshipType, ds.ReferencedContentItemIdentifier = "SELECTED FROM", target
    drawn = scoord("POLYLINE", [A, B], one_item)
    assert reasons(group(number(LENGTH, 21, drawn))) == ["unresolved_reference"]


@pytest.mark.parametrize(("change", "reason"), [
    (lambda s: setattr(s, "GraphicData", [1.0, 2.0, 3.0]), "malformed_graphic"),
    (lambda s: setattr(s, "GraphicData", []), "malformed_graphic"),
    (lambda s: delattr(s, "GraphicData"), "malformed_graphic"),
    (lambda s: setattr(s, "GraphicData", [float("nan"), 2.0, 3.0, 4.0]), "nonfinite_coordinates"),
    (lambda s: setattr(s, "GraphicData", [5.0, 5.0, 5.0, 5.0]), "zero_length"),
    (lambda s: setattr(s, "GraphicType", "RECTANGLE"), "unknown_graphic_type"),
    (lambda s: delattr(s, "GraphicType"), "unknown_graphic_type"),
    (lambda s: setattr(s, "GraphicType", "ELLIPSE"), "malformed_graphic"),
    (lambda s: setattr(s, "GraphicType", "MULTIPOINT"), "multipoint"),
    (lambda s: delattr(s, "ContentSequence"), "no_reference"),
    (lambda s: setattr(s, "GraphicData", [1.0, 2.0, 3.0, 4.0, 5.0, 9.0]), "open_polyline"),
])  # fmt: skip
def test_damaged_coordinates(change, reason):
    drawn = scoord("POLYLINE", [A, B], image_of(CT[1]))
    change(drawn)
    assert reasons(group(number(LENGTH, 21, drawn))) == [reason]


def test_an_ellipse_whose_axes_do_not_cross_in_the_middle_or_at_right_angles():
    for ends in ([(10, 30), (50, 30), (45, 20), (45, 40)], [(10, 30), (50, 30), (20, 22), (40, 38)]):
        assert reasons(group(number(AREA, 1, scoord("ELLIPSE", ends, image_of(CT[1]))))) == ["malformed_graphic"]


def test_missing_codes_and_empty_items():
    bare = length(CT[1], A, B, 21)
    del bare.ConceptNameCodeSequence
    assert one(group(bare)).source.confidence == 0.7
    bare.MeasuredValueSequence[0].MeasurementUnitsCodeSequence = DicomSequence()
    assert reasons(group(bare)) == ["unknown_measurement"]
    empty = report(group(Dataset(), Dataset()), images=CT)
    assert [s.reason for s in read_annotations(empty)[1]] == ["measurement_without_coordinates"]
    del empty.SOPInstanceUID
    assert [(s.reason, s.failure) for s in read_annotations(empty)[1]] == [("not_measurement_report", True)]


@pytest.fixture(scope="module")
def scratch(tmp_path_factory):
    return tmp_path_factory.mktemp("mutated")


WHOLE = report(
    cornerstone("Bidirectional", length(CT[0], A, B, 21.0, LONG_AXIS), length(CT[0], C, D, 11.6, SHORT_AXIS)),
    cornerstone("ArrowAnnotate", number(CENTER, None, scoord("POINT", [A, B], image_of(CT[1])))),
    images=CT,
)


@given(data=st.data())
@settings(max_examples=150)
def test_mutated_reports_never_raise(scratch, data):
    path = scratch / "report"
    WHOLE.save_as(path, enforce_file_format=True)
    content = bytearray(path.read_bytes())
    for _ in range(data.draw(st.integers(1, 6))):
        content[data.draw(st.integers(132, len(content) - 1))] = data.draw(st.integers(0, 255))
    path.write_bytes(content[: data.draw(st.sampled_from([len(content), len(content) // 2, len(content) - 7]))])
    annotations, skips = read_annotations(path)
    assert all(np.isfinite(annotation.points).all() for annotation in annotations)
    assert annotations or skips


# ---- together with presentation states -------------------------------------------------------------------------------


def test_the_same_line_in_a_presentation_state_and_in_a_report_is_one():
    in_state = read_annotations(gsps([on(CT[1], line(A, B))]))[0]
    in_report = read(group(length(CT[1], B, A, 21)))[0]
    kept, (skip,) = deduplicate([*in_state, *in_report])
    assert (len(kept), skip.reason) == (1, "superseded")


@pytest.mark.parametrize(("in_state", "in_report"), [
    (Graphic(((30, 30), (40, 30)), "CIRCLE"), ("CIRCLE", [(30, 30), (36, 38)])),
    (Graphic(((20, 30), (40, 30), (30, 20), (30, 40)), "ELLIPSE"), ("ELLIPSE", [(30, 20), (30, 40), (20, 30), (40, 30)])),
    (Graphic(((10, 30), (50, 30), (29, 20), (31, 40)), "ELLIPSE"), ("ELLIPSE", [(10, 30), (50, 30), (29, 20), (31, 40)])),
    (
        Graphic(((10, 10), (40, 10), (40, 30), (10, 30), (10, 10))),
        ("POLYLINE", [(10, 10), (40, 10), (40, 30), (10, 30), (10.3, 10.2)]),
    ),
])  # fmt: skip
def test_the_same_region_in_a_presentation_state_and_in_a_report_is_one(in_state, in_report):
    """Whatever point of a circle is stored, whichever of equal axes comes first, however nearly a rectangle closes."""
    graphic_type, points = in_report
    region = scoord(graphic_type, points, image_of(CT[1], 1), relationship="CONTAINS", concept=REGION)
    state, stated = read_annotations(gsps([on(CT[1], in_state)]))
    document, said_of_it = read(group(region))
    assert (stated, said_of_it) == ([], [])
    assert len(deduplicate([*state, *document])[0]) == 1


def test_what_these_tests_write_is_valid(tmp_path):
    """dciodvfy (dicom3tools) checks modules and, of the trees it knows, templates."""
    paths = write(
        [
            report(cornerstone("Length", length(CT[1], A, B, 21.0)), images=CT, sop_class=COMPREHENSIVE),
            report(
                group(
                    *tracked("Herd"),
                    coded(FINDING, ("27925004", "SCT", "Nodule")),
                    coded(SITE, ("39607008", "SCT", "Lung"), "HAS CONCEPT MOD"),
                    length(CT[0], A, B, 21.0, ("103339001", "SCT", "Long Axis")),
                ),
                images=CT,
                sop_class=COMPREHENSIVE_3D,
                number=2,
            ),
            hd_report([hd_region("CIRCLE", [(30, 30), (30, 35)], CT[1])], CT),
        ],
        tmp_path,
    )
    for path in paths:
        out = subprocess.run(
            [Path(sys.executable).with_name("dciodvfy"), path], capture_output=True, text=True, check=False
        )
        assert "Error" not in out.stderr + out.stdout, out.stderr


def test_a_writer_that_counts_from_the_centre_of_pixels():
    document = report(group(length(CT[1], A, B, 21)), images=CT)
    (annotation,), _ = read_annotations(document, pixel_origin={"acme": "center"})
    assert annotation.points == ((10.75, 21.0), (40.75, 21.0))
    assert annotation.source.rule == "sr:length+center_origin"
    assert read_annotations(document, pixel_origin={"other": "center"})[0][0].points == (A, B)


def test_a_report_in_an_export_gives_the_lesion_of_the_presentation_state_and_only_one(tmp_path):
    images = ct_series(4)

    def lesions(name, *objects):
        write([*images, *objects], tmp_path / name)
        index = index_export(tmp_path / name)
        (patient,) = index.patient_keys()
        found, skips, _ = read_lesions(patient, index)
        return found, [skip.reason for skip in skips]

    state = gsps([on(images[1], line(A, B))])
    document = report(cornerstone("Length", length(images[1], A, B, 21.0)), images=images, sop_class=COMPREHENSIVE)
    (by_state,), _ = lesions("state", state)
    (by_report,), skipped = lesions("report", document)
    (by_both,), both_skipped = lesions("both", state, document)
    assert (skipped, both_skipped) == ([], ["superseded"])
    assert by_report.annotations[0].points_lps_mm == by_state.annotations[0].points_lps_mm
    assert by_report.diameters_mm == by_state.diameters_mm == by_both.diameters_mm == pytest.approx((21.0,))
    assert len(by_both.annotations) == 1
