"""Presentation states, built by highdicom, to annotations."""

from __future__ import annotations

import io
from dataclasses import replace
from datetime import datetime, timedelta

import numpy as np
import pydicom
import pytest
from dicom import (
    CREATED,
    Compound,
    Graphic,
    Item,
    Text,
    arrow,
    bidimensional,
    ct_series,
    gsps,
    line,
    on,
    polyline,
    write,
)
from hypothesis import example, given, settings
from hypothesis import strategies as st

from cohort_builder.annotations import deduplicate, read_annotations
from cohort_builder.gsps.texts import lengths_mm
from cohort_builder.types import AnnotationKind

CT = ct_series(4)
LINE, PAIR, ARROW = AnnotationKind.LINE, AnnotationKind.BIDIMENSIONAL, AnnotationKind.ARROW


def read(*items, **options):
    return read_annotations(gsps(items, **options))


def drawn(*drawings):
    """Annotations and reasons of drawings on one image."""
    annotations, skips = read(on(CT[1], *drawings))
    return annotations, [skip.reason for skip in skips]


def along(start, degrees, length):
    """A point at ``length`` from ``start``."""
    return start[0] + length * np.cos(np.radians(degrees)), start[1] + length * np.sin(np.radians(degrees))


def close(points, expected):
    np.testing.assert_allclose(points, expected, atol=1e-4)


# ---- what is read ------------------------------------------------------------------------------------------------------


def test_a_line_is_read_as_stored():
    (found,), skips = read(on(CT[1], line((10.5, 12.25), (30.5, 20.75))))
    assert skips == []
    assert (found.kind, found.points) == (LINE, ((10.5, 12.25), (30.5, 20.75)))
    assert found.sop_instance_uid == CT[1].SOPInstanceUID
    assert found.series_instance_uid == CT[1].SeriesInstanceUID
    assert found.study_instance_uid == CT[1].StudyInstanceUID
    assert (found.source.item, found.source.rule, found.source.kind) == ("1.1", "line", "GSPS")
    assert found.annotation_id == f"{found.source.sop_instance_uid}/1.1"
    assert (found.drawn_at, found.frame_number, found.stated_mm, found.label) == (CREATED, None, (), "")


points = st.tuples(st.floats(0, 64, width=32), st.floats(0, 64, width=32))


@settings(max_examples=60, deadline=None)
@given(st.lists(st.tuples(points, points), min_size=1, max_size=4))
def test_points_survive_the_round_trip_through_highdicom(segments):
    segments = [(a, b) for a, b in segments if np.hypot(a[0] - b[0], a[1] - b[1]) > 1e-3]
    if segments:
        stream = io.BytesIO()
        gsps([on(CT[i % 4], line(*ends)) for i, ends in enumerate(segments)]).save_as(stream)
        stream.seek(0)
        annotations, skips = read_annotations(pydicom.dcmread(stream))
        assert [a.points for a in annotations] == segments
        assert [a.sop_instance_uid for a in annotations] == [CT[i % 4].SOPInstanceUID for i in range(len(segments))]
        assert skips == []


@settings(max_examples=60, deadline=None)
@given(
    tilt=st.floats(0, 360), off=st.floats(-14, 14), ratio=st.floats(0.3, 0.95), at=st.floats(0.2, 0.8),
    across=st.floats(0.2, 0.8), swap=st.booleans(),
)  # fmt: skip
def test_two_lines_across_each_other_are_a_pair(tilt, off, ratio, at, across, swap):  # noqa: PLR0917 - given by name
    start = (30.0, 30.0)
    long = (start, along(start, tilt, 24.0))
    crossing = along(start, tilt, 24.0 * at)
    turn = tilt + 90 + off
    short = (along(crossing, turn, -24 * ratio * across), along(crossing, turn, 24 * ratio * (1 - across)))
    (found,), reasons = drawn(*bidimensional(*((short, long) if swap else (long, short))))
    assert (found.kind, reasons, found.source.rule) == (PAIR, [], "bidimensional")
    close(found.points, (*long, *short))


@settings(max_examples=60, deadline=None)
@given(
    direction=st.floats(0, 360), length=st.floats(12, 25), fraction=st.floats(0.1, 0.45),
    style=st.sampled_from(["shaft+head", "shaft+filled", "one stroke"]), flip=st.booleans(),
)  # fmt: skip
def test_an_arrow_is_told_from_its_tail(direction, length, fraction, style, flip):
    tail = (32.0, 32.0)
    head = along(tail, direction, length)
    strokes = list(arrow(tail, head, size=fraction * length, style=style))
    if flip and style != "one stroke":
        strokes[0] = line(head, tail)
        strokes.reverse()
    (found,), reasons = drawn(*strokes)
    assert (found.kind, reasons) == (ARROW, [])
    close(found.points, (tail, head))


def test_an_arrow_may_have_two_loose_barbs():
    (found,), reasons = drawn(line((5, 5), (40, 30)), line((40, 30), (34, 28)), line((40, 30), (37, 24)))
    assert (found.kind, found.source.rule, reasons) == (ARROW, "arrow:shaft_and_two_barbs", [])
    close(found.points, ((5, 5), (40, 30)))


def test_a_filled_head_may_sit_on_the_end_of_its_shaft():
    (found,), reasons = drawn(line((5, 30), (36, 30)), polyline((36, 27), (42, 30), (36, 33), (36, 27), filled=True))
    assert (found.kind, reasons) == (ARROW, [])
    close(found.points, ((5, 30), (42, 30)))


def test_a_line_with_a_head_at_each_end_is_a_line():
    (found,), reasons = drawn(
        line((10, 30), (50, 30)), polyline((14, 28), (10, 30), (14, 32)), polyline((46, 28), (50, 30), (46, 32))
    )
    assert (found.kind, found.source.rule, reasons) == (LINE, "line:two_heads", [])


@pytest.mark.parametrize(("value", "kind"), [("1.1 cm", LINE), ("11 x 3 mm", PAIR), ("", PAIR)])
def test_a_tick_of_fixed_size_on_a_short_line_is_told_by_its_one_length(value, kind):
    texts = [Text(value, anchor=(18, 36))] if value else []
    (found,), _ = drawn(line((10, 30), (26, 30)), line((18, 27.6), (18, 32.4)), *texts)
    assert found.kind is kind


def test_ticks_and_caps_are_decoration_and_said():
    (found,), reasons = drawn(line((10, 30), (50, 30)), line((30, 28), (30, 32)))
    assert (found.kind, found.source.rule, reasons) == (LINE, "line+mid_tick", [])
    (found,), reasons = drawn(line((10, 30), (50, 30)), line((10, 27), (10, 33)), line((50, 27), (50, 33)))
    assert (found.kind, found.source.rule, reasons) == (LINE, "line+end_cap", [])
    crosses = [line((x - 3, 30 - d), (x + 3, 30 + d)) for x in (10, 50) for d in (3, -3)]
    (found,), reasons = drawn(line((10, 30), (50, 30)), *crosses)
    assert (found.points, found.source.rule, reasons) == (((10, 30), (50, 30)), "line+end_cap", [])


def test_a_small_second_diameter_with_its_value_is_no_tick():
    strokes = line((10, 30), (50, 30)), line((30, 27), (30, 33))
    (found,), _ = drawn(*strokes, Text("28.0 x 4.8 mm", anchor=(52, 30)))
    assert (found.kind, found.stated_mm) == (PAIR, (28.0, 4.8))
    (found,), _ = drawn(*strokes, Text("28.0 mm", anchor=(52, 30)))
    assert (found.kind, found.stated_mm) == (LINE, (28.0,))


def test_a_shadow_is_not_a_second_stroke():
    pair = bidimensional(((10, 10), (30, 10)), ((20, 4), (20, 16)))
    strokes = arrow((5, 50), (40, 30))
    annotations, reasons = drawn(*pair, *pair, *strokes, line((40, 30), (5, 50)), strokes[1])
    assert ([a.kind for a in annotations], reasons) == ([PAIR, ARROW], [])


def test_several_annotations_in_one_object_stay_apart():
    annotations, skips = read(
        on(CT[0], line((10, 10), (30, 10))),
        on(CT[1], *arrow((5, 5), (40, 30)), line((10, 50), (30, 50))),
        on(CT[2], *bidimensional(((10, 10), (30, 10)), ((20, 4), (20, 16)))),
    )
    assert [(a.kind, a.source.item, a.sop_instance_uid) for a in annotations] == [
        (LINE, "1.1", CT[0].SOPInstanceUID),
        (ARROW, "2.1", CT[1].SOPInstanceUID),
        (LINE, "2.3", CT[1].SOPInstanceUID),
        (PAIR, "3.1", CT[2].SOPInstanceUID),
    ]
    assert skips == []


def test_two_pairs_in_one_item_stay_apart():
    one = bidimensional(((10, 10), (30, 10)), ((20, 4), (20, 16)))
    two = bidimensional(((40, 40), (60, 45)), ((48.5, 48), (51, 38)))
    annotations, reasons = drawn(*one, *two)
    assert ([a.kind for a in annotations], reasons) == ([PAIR, PAIR], [])


def test_lines_side_by_side_or_at_a_slant_are_two():
    assert [a.kind for a in drawn(line((10, 10), (30, 10)), line((10, 14), (30, 14)))[0]] == [LINE, LINE]
    assert [a.kind for a in drawn(line((10, 10), (40, 10)), line((20, 5), (34, 15)))[0]] == [LINE, LINE]


def test_a_group_joins_strokes_of_several_items():
    annotations, skips = read(
        on(CT[1], line((10, 10), (30, 10), group=4), Text("20 mm", anchor=(32, 10), group=4)),
        on(CT[1], line((20, 10), (20, 22), group=4), Text("9,6 mm", anchor=(20, 24), group=4)),
    )
    assert skips == []
    (found,) = annotations
    assert (found.kind, found.source.rule, found.stated_mm) == (PAIR, "bidimensional:group", (20.0, 9.6))


def test_an_item_without_reference_is_on_the_only_image_of_the_object():
    (found,), skips = read(Item((line((1, 1), (9, 9)),), None), images=CT[2:3])
    assert (found.sop_instance_uid, skips) == (CT[2].SOPInstanceUID, [])


def test_rotation_flip_and_displayed_area_do_not_move_pixel_graphics():
    state = gsps([on(CT[1], line((10, 10), (30, 20)))])
    state.ImageRotation, state.ImageHorizontalFlip = 90, "Y"
    area = state.DisplayedAreaSelectionSequence[0]
    area.DisplayedAreaTopLeftHandCorner, area.DisplayedAreaBottomRightHandCorner = [5, 5], [20, 20]
    assert read_annotations(state)[0][0].points == ((10, 10), (30, 20))


# ---- text --------------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        ("37.1 mm", (37.1,)),
        ("12,3 mm", (12.3,)),
        ("7712 mm 1950 mm 14 mm", (14.0,)),  # an id, a year
        ("1.2 x 3.4 cm", (12, 34)),
        ("12 × 8 mm", (12, 8)),
        ("12 mm x 8 mm", (12, 8)),
        ("1.2cm", (12,)),
        ("10 x 9 x 8 mm", (10, 9, 8)),
        ("L: 12.5 mm\r\nS: 8 mm", (12.5, 8)),
        ("D=14.2mm", (14.2,)),
        ("Länge 4,5 cm", (45,)),
        ("12 mm (prev. 9 mm)", (12,)),
        ("9 mm -> 12 mm", (12,)),
        ("Ø37.1mm", (37.1,)),
        ("+37.1 mm", (37.1,)),
        ("12 mm ± 1 mm", (12,)),
        ("12+3 mm", ()),
        ("1,234.5 mm", ()),  # longer than anybody
        ("", ()),
        ("lesion 3", ()),
        ("45 HU", ()),
        ("119.58 cm²", ()),
        ("Area: 1.2 cm2", ()),
        ("3.1 cm^3", ()),
        ("Area: 119.58 cm² (W: 12.68 cm H:12.01 cm)", ()),
        ("87.3°", ()),
        ("-102.5 mm", ()),
        ("12/05/2024 mm", ()),
        ("0 mm", ()),
        ("Perimeter 30 mm", ()),
        ("Slice thickness 5 mm", ()),
        ("12.5.3 mm", ()),
    ],
)
def test_lengths_beside_a_drawing(text, expected):
    assert lengths_mm(text) == pytest.approx(expected)


def test_each_line_takes_the_text_beside_it():
    annotations, reasons = drawn(
        line((10, 10), (30, 10)), line((10, 50), (30, 50)),
        Text("14.0 mm", box=(32, 46, 50, 54)), Text("13,9 mm\nDr. Befund", anchor=(31, 9)),
    )  # fmt: skip
    assert [(a.stated_mm, a.label) for a in annotations] == [((13.9,), "13,9 mm\nDr. Befund"), ((14.0,), "14.0 mm")]
    assert reasons == []


def test_a_text_in_an_item_of_its_own_goes_to_what_is_clearly_nearest():
    near = Text("14 mm", anchor=(33, 11))
    (found, _), skips = read(on(CT[1], line((10, 10), (30, 10))), on(CT[1], line((10, 40), (30, 40))), on(CT[1], near))
    assert (found.stated_mm, skips) == ((14,), [])
    between = replace(near, anchor=(33, 25))
    annotations, skips = read(
        on(CT[1], line((10, 10), (30, 10))), on(CT[1], line((10, 40), (30, 40))), on(CT[1], between)
    )
    assert [a.stated_mm for a in annotations] == [(), ()]
    assert [s.reason for s in skips] == ["value_only"]
    annotations, skips = read(on(CT[1], line((10, 10), (30, 10))), on(CT[2], near))
    assert (annotations[0].stated_mm, [s.reason for s in skips]) == ((), ["value_only"])


def test_a_text_that_points_is_a_pointer():
    (found,), reasons = drawn(Text("nodule", anchor=(20, 20), visible=True))
    assert (found.kind, found.points, found.label, reasons) == (AnnotationKind.POINTER, ((20, 20),), "nodule", [])
    (found,), reasons = drawn(line((10, 10), (30, 10)), Text("14 mm", anchor=(20, 10), visible=True))
    assert (found.stated_mm, reasons) == ((14,), [])


# ---- what is refused by name -------------------------------------------------------------------------------------------

SQUARE = ((10, 10), (30, 10), (30, 20), (10, 20), (10, 10))
REFUSED = {
    "no_displayed_area": Graphic(((0.1, 0.1), (0.4, 0.4)), units="DISPLAY"),
    "open_polyline": Graphic(((10, 10), (30, 12), (28, 30), (50, 40), (10, 60))),
    "lone_triangle": Graphic(((10, 10), (30, 12), (28, 30), (10, 10))),
    "angle": Graphic(((10, 10), (30, 12), (12, 40))),
    "zero_length": Graphic(((10, 10), (10, 10))),
    "compound_cutline": Compound("CUTLINE", ((10, 10), (30, 12))),
    "compound_other": Compound("VENDOR_THING", ((10, 10), (30, 12))),
}


@pytest.mark.parametrize(("reason", "drawing"), REFUSED.items(), ids=REFUSED.keys())
def test_every_other_encoding_is_refused_by_name(reason, drawing):
    state = gsps([on(CT[1], drawing)])
    del state.DisplayedAreaSelectionSequence
    annotations, skips = read_annotations(state)
    assert (annotations, [skip.reason for skip in skips]) == ([], [reason])


def test_lines_that_are_no_diameters_are_refused():
    cobb = line((10, 10), (40, 12)), line((26, 2), (24, 30))
    assert drawn(*cobb, Text("87.1°", anchor=(42, 12))) == ([], ["angle"])
    assert drawn(line((10, 30), (50, 30)), line((30, 30), (30, 50))) == ([], ["perpendicular"])
    ruler = [line((10 + 8 * i, 28), (10 + 8 * i, 32)) for i in range(6)]
    assert drawn(line((10, 30), (50, 30)), *ruler) == ([], ["calibration_ruler"])
    star = line((10, 30), (50, 30)), line((30, 10), (30, 50)), line((25, 10), (25, 50))
    assert drawn(*star) == ([], ["ambiguous_crossing"])
    assert drawn(line((10, 10), (40, 10)), polyline((40, 10), (60, 10), (60, 30)))[1] == [
        "unrecognised_combination",
        "angle",
    ]
    assert drawn(*[line((i % 60, 1), (i % 60, 40 + i / 10)) for i in range(70)]) == ([], ["many_strokes"])


@pytest.mark.parametrize(
    ("tool", "reason"),
    [("Angle", "angle"), ("Calibration Ruler", "calibration_ruler"), ("Arrow", "arrow_without_head")],
)
def test_a_layer_that_names_its_tool_is_believed(tool, reason):
    annotations, skips = read(on(CT[1], line((10, 10), (30, 10))), layer_description=tool)
    assert (annotations, [s.reason for s in skips]) == ([], [reason])
    annotations, _ = read(on(CT[1], *arrow((10, 10), (40, 10))), layer_description="Arrow")
    assert [a.kind for a in annotations] == [ARROW]


def test_an_annotation_on_several_images_is_ambiguous():
    for item in (Item((line((1, 1), (9, 9)),), tuple(CT[:2])), Item((line((1, 1), (9, 9)),), None)):
        annotations, skips = read(item, images=CT[:2])
        assert (annotations, [(s.reason, s.failure) for s in skips]) == ([], [("several_images", False)])


def test_references_to_nothing():
    state = gsps([on(CT[1], line((1, 1), (9, 9)))])
    state.GraphicAnnotationSequence[0].ReferencedImageSequence[0].ReferencedSOPInstanceUID = "1"
    assert [(s.reason, s.failure) for s in read_annotations(state)[1]] == [("no_reference", True)]


def edited(edit):
    state = gsps([on(CT[1], line((10, 10), (30, 10))), on(CT[1], line((40, 50), (60, 50)))])
    edit(state.GraphicAnnotationSequence[0].GraphicObjectSequence[0])
    annotations, skips = read_annotations(state)
    assert [a.source.item for a in annotations] == ["2.1"]
    return [(s.reason, s.failure) for s in skips]


@pytest.mark.parametrize("value", [float("nan"), float("inf"), -float("inf")])
def test_a_coordinate_that_is_no_number_costs_that_stroke(value):
    assert edited(lambda g: setattr(g, "GraphicData", [10, 10, value, 10])) == [("nonfinite_coordinates", True)]


@pytest.mark.parametrize(
    "edit",
    [
        lambda g: setattr(g, "GraphicData", [10.0, 10.0, 30.0]),
        lambda g: setattr(g, "NumberOfGraphicPoints", 7),
        lambda g: setattr(g, "GraphicDimensions", 3),
        lambda g: delattr(g, "GraphicData"),
        lambda g: delattr(g, "GraphicAnnotationUnits"),
    ],
)
def test_a_malformed_graphic_costs_that_stroke(edit):
    assert edited(edit) == [("malformed_graphic", True)]


@pytest.mark.parametrize(
    ("sop_class", "reason"),
    [
        ("1.2.840.10008.5.1.4.1.1.11.6", "planar_mpr_presentation_state"),
        ("1.2.840.10008.5.1.4.1.1.2", "not_presentation_state"),
    ],
)
def test_other_classes_are_refused_by_name(sop_class, reason):
    state = gsps([on(CT[1], line((1, 1), (9, 9)))])
    state.SOPClassUID = sop_class
    annotations, (skip,) = read_annotations(state)
    assert (annotations, skip.reason, skip.failure) == ([], reason, False)


def test_a_state_without_graphics_is_said():
    annotations, (skip,) = read(images=CT[:1])
    assert (annotations, skip.reason) == ([], "no_graphics")


def test_skips_and_annotations_name_nobody(tmp_path):
    items = [
        on(CT[1], Text("Muster Erika", anchor=(9, 9), visible=True), polyline((30, 30), (50, 30), (50, 40), (30, 40))),
        on(CT[1], line((1, 1), (9, 9))),
    ]
    (path,) = write([gsps(items)], tmp_path / "Muster")
    annotations, skips = read_annotations(path)
    assert [skip.reason for skip in skips] == ["open_polyline"]
    for skip in skips:
        assert not any(
            word in skip.item + skip.reason + skip.detail for word in ("Muster", "Erika", "Befund", "0012345")
        )
        assert skip.private["path"] == str(path)
    assert "Befund" not in repr(annotations)
    assert annotations[0].drawn_by_group


def test_hands_are_told_apart():
    by = [
        read(on(CT[1], line((1, 1), (9, 9))), creator=c, number=1 + i)[0][0].drawn_by_group
        for i, c in enumerate(("A^B", "C^D", "A^B"))
    ]
    assert by[0] == by[2] != by[1]


# ---- the same thing saved twice ----------------------------------------------------------------------------------------


def test_the_newest_of_the_same_annotation_is_kept():
    def at(minutes, *drawings):
        return read(on(CT[1], *drawings), created=CREATED + timedelta(minutes=minutes), number=10 + minutes)[0]

    old = at(0, line((10, 10), (30, 12)), *bidimensional(((40, 40), (60, 40)), ((50, 34), (50, 46))))
    new = at(5, line((30, 12), (10, 10)), line((10, 10), (31, 12)))
    kept, skips = deduplicate([*new, *old])
    assert kept == [*new, old[1]]
    assert [(s.reason, s.item, s.failure) for s in skips] == [("superseded", old[0].annotation_id, False)]
    assert deduplicate([*old, *new]) == ([old[1], *new], skips)
    elsewhere = read(on(CT[2], line((10, 10), (30, 12))))[0]
    assert deduplicate([*new, *elsewhere]) == ([*new, *elsewhere], [])


def test_a_state_without_a_date_is_the_oldest():
    (dated,), _ = read(on(CT[1], line((10, 10), (30, 12))))
    undated = replace(dated, annotation_id="x", drawn_at=None)
    assert deduplicate([undated, dated])[0] == [dated]
    assert dated.drawn_at == datetime(2024, 3, 5, 11, 30)  # noqa: DTZ001 - DICOM times are the hospital's own


# ---- damage ------------------------------------------------------------------------------------------------------------

STATE = [on(CT[1], line((10, 10), (30, 12)), Text("14 mm", anchor=(31, 12))), on(CT[2], *arrow((5, 5), (40, 30)))]


def encoded(*, undefined_length):
    state = gsps(STATE)
    for element in state:
        if element.VR == "SQ":
            element.is_undefined_length = undefined_length
    stream = io.BytesIO()
    state.save_as(stream)
    return stream.getvalue()


BYTES = {flag: encoded(undefined_length=flag) for flag in (False, True)}
WHOLE = read_annotations(gsps(STATE))[0]


@settings(max_examples=120, deadline=None)
@given(keep=st.floats(0, 1), undefined_length=st.booleans())
def test_of_a_truncated_state_nothing_wrong_is_read(tmp_path_factory, keep, undefined_length):
    content = BYTES[undefined_length]
    path = tmp_path_factory.getbasetemp() / "truncated"
    path.write_bytes(content[: int(keep * len(content))])
    annotations, skips = read_annotations(path)
    read_whole = {(a.annotation_id, a.points, a.kind) for a in WHOLE}
    assert {(a.annotation_id, a.points, a.kind) for a in annotations} <= read_whole
    assert annotations or skips


@settings(max_examples=150, deadline=None)
@given(
    edits=st.lists(st.tuples(st.floats(0, 1), st.binary(min_size=1, max_size=6)), min_size=1, max_size=5),
    flag=st.booleans(),
)
@example(edits=[(0.876953125, b"\x01")], flag=True)  # a length that is no multiple of a number's
def test_no_damage_raises(tmp_path_factory, edits, flag):
    content = bytearray(BYTES[flag])
    for place, new in edits:
        at = int(place * (len(content) - 1))
        content[at : at + len(new)] = new
    path = tmp_path_factory.getbasetemp() / "damaged"
    path.write_bytes(content)
    annotations, skips = read_annotations(path)
    assert annotations or skips


def test_a_missing_file_is_a_skip(tmp_path):
    annotations, (skip,) = read_annotations(tmp_path / "Muster")
    assert (annotations, skip.reason, skip.failure) == ([], "unreadable_dicom", True)
    assert "Muster" not in skip.item + skip.detail
