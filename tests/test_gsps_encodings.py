"""Every encoding of the table of encodings, in the style of the writers that use it: read, or refused by name."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from presentation import CT, IMAGE, compound, drawn, graphic, item, read, state, stored, words
from pydicom.dataset import Dataset

from cohort_builder.annotations import read_annotations
from cohort_builder.gsps.confidence import RULES
from cohort_builder.types import AnnotationKind

A, B = (10.0, 30.0), (50.0, 30.0)
LINE, PAIR, ARROW = AnnotationKind.LINE, AnnotationKind.BIDIMENSIONAL, AnnotationKind.ARROW
ELLIPSE, BOX = AnnotationKind.ELLIPSE, AnnotationKind.BOX
OUTLINE, POINTER = AnnotationKind.OUTLINE, AnnotationKind.POINTER
SQUARE = ((10, 10), (30, 10), (30, 20), (10, 20), (10, 10))
FREE = ((10, 10), (30, 12), (28, 30), (12, 25), (5, 15), (10, 10))


@dataclass
class Row:
    """One row of the table: objects of one item (or a whole state), and what must come of them."""

    objects: Sequence[Dataset] = ()
    kind: AnnotationKind | None = None
    points: Sequence[tuple[float, float]] | None = None
    rule: str = ""
    reasons: Sequence[str] = ()
    layer: str | None = None
    label: str | None = None
    state: Dataset | None = None
    count: int = 1
    options: dict = field(default_factory=dict)


def head(*tip_first: tuple[float, float], **joins) -> Dataset:
    tip, one, two = tip_first
    return graphic(one, tip, two, **joins)


ROWS = {
    "01 line": Row([graphic(A, B)], LINE, (A, B), "line"),
    "01 line without Graphic Filled": Row([graphic(A, B, filled=None)], LINE, (A, B), "line"),
    "01 line (two points INTERPOLATED)": Row([graphic(A, B, kind="INTERPOLATED")], LINE, (A, B), "line"),
    "01 line in group DistanceLine (PS3.17 YY.2)": Row(
        kind=LINE, points=(A, B), rule="line", label="52.20 mm",
        state=state(item(graphic(A, B, group=1), words("52.20 mm", (70, 30), group=1)), groups={1: "DistanceLine"}),
    ),
    "02 line with a tick at its middle (Agfa)": Row(
        [graphic(A, B, filled=None), graphic((30, 28), (30, 32), filled=None), words("32.0 mm", box=(52, 30, 60, 34))],
        LINE, (A, B), "line+mid_tick", layer="Line",
    ),
    "03 line with end caps": Row(
        [graphic(A, B), graphic((10, 27), (10, 33)), graphic((50, 27), (50, 33))], LINE, (A, B), "line+end_cap"
    ),
    "03 line with calliper crosses": Row(
        [graphic(A, B), *(graphic((x - 3, 30 - d), (x + 3, 30 + d)) for x in (10, 50) for d in (3, -3))],
        LINE, (A, B), "line+end_cap",
    ),
    "03 line with points on its ends": Row(
        [graphic(A, B), graphic(A, kind="POINT"), graphic(B, kind="POINT")], LINE, (A, B), "line+dot"
    ),
    "03 line with circles on its ends": Row(
        [graphic(A, B), graphic(A, (11.5, 30), kind="CIRCLE"), graphic(B, (51.5, 30), kind="CIRCLE")],
        LINE, (A, B), "line+dot",
    ),
    "04 bi-dimensional, long axis first (Larvitar)": Row(
        [graphic(A, B), graphic((28, 20), (28, 42))], PAIR, (A, B, (28, 20), (28, 42)), "bidimensional"
    ),
    "04 bi-dimensional, short axis first": Row(
        [graphic((28, 20), (28, 42)), graphic(A, B)], PAIR, (A, B, (28, 20), (28, 42)), "bidimensional"
    ),
    "05 perpendicular (Agfa, by its layer)": Row(
        [graphic(A, B), graphic((30, 20), (30, 40))], reasons=["perpendicular"], layer="Perpendicular"
    ),
    "05 perpendicular (by its form)": Row([graphic(A, B), graphic((30, 30), (30, 50))], reasons=["perpendicular"]),
    "05 Cobb angle, two lines and its text (Larvitar)": Row(
        [graphic(A, (45, 20)), graphic((12, 50), (50, 60)), words("31.2°", (55, 40))],
        reasons=["angle", "angle"],
    ),
    "05 angle, three points (Agfa)": Row([graphic(A, (30, 45), B)], reasons=["angle"]),
    "05 angle, two long and two short lines (Agfa)": Row(
        [graphic((30, 45), A), graphic((30, 45), B), graphic((26, 42), (28, 40)), graphic((32, 40), (34, 42))],
        reasons=["angle"], layer="Angle",
    ),
    "05 angle, two lines that share an end": Row([graphic((30, 45), A), graphic((30, 45), B)], reasons=["angle"]),
    "06 arrow, shaft and head, text at its tip (Agfa)": Row(
        [graphic(A, B, filled=None), head(B, (45, 27), (45, 33), filled=None), words("susp. met", B)],
        ARROW, (A, B), "arrow:shaft_and_head", layer="Arrow", label="susp. met",
    ),
    "06 arrow with an empty text (Agfa)": Row(
        [graphic(B, A, filled=None), head(B, (45, 27), (45, 33), filled=None), words("", B)],
        ARROW, (A, B), "arrow:shaft_and_head", layer="Arrow", label="",
    ),
    "06 arrow layer without a head": Row([graphic(A, B)], reasons=["arrow_without_head"], layer="Arrow"),
    "06 arrow, every stroke in an item of its own": Row(
        kind=ARROW, points=(A, B), rule="arrow:shaft_and_head",
        state=state(item(graphic(A, B)), item(head(B, (45, 27), (45, 33)))),
    ),
    "07 arrow in one polyline, tail first": Row(
        [graphic(A, B, (45, 27), B, (45, 33))], ARROW, (A, B), "arrow:one_polyline"
    ),
    "07 arrow in one polyline, barb first": Row(
        [graphic((45, 27), B, (45, 33), B, A)], ARROW, (A, B), "arrow:one_polyline"
    ),
    "08 arrow with a filled head": Row(
        [graphic(A, B), graphic(B, (45, 27), (45, 33), B, filled="Y")], ARROW, (A, B), "arrow:shaft_and_head"
    ),
    "08 arrow with a filled head that is not closed": Row(
        [graphic(A, B), graphic(B, (45, 27), (45, 33), filled="Y")], ARROW, (A, B), "arrow:shaft_and_head"
    ),
    "08 head of an unknown form": Row(
        [graphic(A, B), graphic(B, (44, 26), (46, 30), (44, 34), B, filled="Y")],
        reasons=["unrecognised_combination", "unrecognised_combination"],
    ),
    "08 head alone": Row([graphic(B, (45, 27), (45, 33), B, filled="Y")], reasons=["lone_triangle"]),
    "09 compound arrow without rendering, tail first (Larvitar)": Row(
        [compound("ARROW", A, B, own_id=None)], ARROW, (A, B), "arrow:compound"
    ),
    "09 compound arrow, head first, with its rendering (the standard)": Row(
        [
            compound("ARROW", B, A), graphic(A, B, compound=1),
            graphic((45, 27), B, compound=1), graphic((45, 33), B, compound=1),
        ],
        ARROW, (A, B), "arrow:compound_rendered",
    ),
    "09 compound arrow, tail first, with its rendering": Row(
        [compound("ARROW", A, B), graphic(A, B, compound=1), head(B, (45, 27), (45, 33), compound=1)],
        ARROW, (A, B), "arrow:compound_rendered",
    ),
    "09 compound arrow whose rendering shows no head": Row(
        [compound("ARROW", B, A), graphic(A, B, compound=1)], reasons=["arrow_without_head"]
    ),
    "10 pointer, a text with a shown anchor (Weasis)": Row(
        [words("nodule", (20, 24), box=(30, 30, 50, 36), shown=True)], POINTER, ((20, 24),), "pointer:text",
        label="nodule",
    ),
    "10 text whose anchor is not shown": Row([words("nodule", (20, 24))], reasons=["text_only"]),
    "10 value with a shown anchor and no line": Row([words("14 mm", (20, 24), shown=True)], reasons=["value_only"]),
    "10 point": Row([graphic((20, 24), kind="POINT")], POINTER, ((20, 24),), "pointer:point"),
    "10 point with its name": Row(
        [graphic((20, 24), kind="POINT"), words("met", (20, 24), shown=True)], POINTER, ((20, 24),), "pointer:point",
        label="met",
    ),
    "10 point at which a density was read out": Row(
        [graphic((20, 24), kind="POINT"), words("45 HU", (22, 24))], reasons=["density_roi"]
    ),
    "11 RULER": Row([compound("RULER", A, B)], LINE, (A, B), "line:compound_ruler"),
    "11 RANGELINE beside its rendering": Row(
        [compound("RANGELINE", A, B), graphic(A, B, compound=1), words("32 mm", (70, 60), compound=1)],
        LINE, (A, B), "line:compound_rangeline", label="32 mm",
    ),
    "11 AXIS (PS3.17 YY.1)": Row([compound("AXIS", A, B)], LINE, (A, B), "line:compound_axis"),
    "11 MULTILINE of one line": Row([compound("MULTILINE", A, B)], LINE, (A, B), "line:compound_multiline"),
    "11 MULTILINE of two axes": Row(
        [compound("MULTILINE", A, B, (28, 20), (28, 42))],
        PAIR, (A, B, (28, 20), (28, 42)), "bidimensional:compound_multiline",
    ),
    "11 MULTILINE of separate lines": Row(
        [compound("MULTILINE", A, B, (10, 40), (50, 40))], reasons=["compound_multiline"]
    ),
    "11 INFINITELINE": Row([compound("INFINITELINE", A, B)], reasons=["compound_infiniteline"]),
    "11 CUTLINE beside its rendering": Row(
        [compound("CUTLINE", A, B), graphic(A, B, compound=1)], reasons=["compound_cutline"]
    ),
    "11 CROSSHAIR": Row([compound("CROSSHAIR", A)], reasons=["compound_crosshair"]),
    "11 RECTANGLE": Row(
        [compound("RECTANGLE", (10, 20), (30, 50))], BOX, ((10, 20), (30, 20), (30, 50), (10, 50)), "box:compound"
    ),
    "11 RECTANGLE turned by 90 degrees": Row(
        [compound("RECTANGLE", (10, 20), (30, 50), turn=90.0, about=(20, 35))],
        BOX, ((5, 45), (5, 25), (35, 25), (35, 45)), "box:compound",
    ),
    "11 ELLIPSE": Row(
        [compound("ELLIPSE", (10, 20), (30, 50))], ELLIPSE, ((20, 20), (20, 50), (10, 35), (30, 35)), "ellipse:compound"
    ),
    "11 ELLIPSE turned by 30 degrees": Row(
        [compound("ELLIPSE", (0, 20), (40, 40), turn=30.0, about=(20, 30))],
        ELLIPSE,
        [(20 + r * np.cos(np.radians(a)), 30 - r * np.sin(np.radians(a))) for r, a in ((20, 210), (20, 30), (10, 120), (10, 300))],
        "ellipse:compound",
    ),
    "11 turned about nothing": Row([compound("RECTANGLE", A, (50, 60), turn=30.0)], reasons=["malformed_graphic"]),
    "11 MULTIPOINT of one": Row(
        [compound("MULTIPOINT", (20, 24))], POINTER, ((20, 24),), "pointer:compound_multipoint"
    ),
    "11 MULTIPOINT of several": Row([compound("MULTIPOINT", A, B)], reasons=["compound_multipoint"]),
    "11 ANGLE (not the standard's)": Row([compound("ANGLE", A, B, B, (30, 50))], reasons=["angle"]),
    "11 a type nobody knows": Row([compound("VENDOR_THING", A, B)], reasons=["compound_other"]),
    "12 circle": Row(
        [graphic((30, 30), (36, 38), kind="CIRCLE")],
        ELLIPSE, ((20, 30), (40, 30), (30, 20), (30, 40)), "ellipse:circle",
    ),
    "12 circle with its area (Agfa)": Row(
        [graphic((30, 30), (40, 30), kind="CIRCLE"), words("Area: 201.1 mm²", box=(42, 30, 60, 40))],
        ELLIPSE, ((20, 30), (40, 30), (30, 20), (30, 40)), "ellipse:circle", layer="Circle",
    ),
    "12 circle that reads out a density": Row(
        [graphic((30, 30), (40, 30), kind="CIRCLE"), words("Mean: 45.2 SD: 12.1", box=(42, 30, 60, 40))],
        reasons=["density_roi"],
    ),
    "12 line in a layer for circles": Row([graphic(A, B)], reasons=["tool_disagrees"], layer="Circle"),
    "13 ellipse": Row(
        [graphic((10, 30), (50, 30), (30, 20), (30, 40), kind="ELLIPSE")],
        ELLIPSE, ((10, 30), (50, 30), (30, 20), (30, 40)), "ellipse",
    ),
    "13 ellipse, short axis first": Row(
        [graphic((30, 20), (30, 40), (10, 30), (50, 30), kind="ELLIPSE")],
        ELLIPSE, ((10, 30), (50, 30), (30, 20), (30, 40)), "ellipse",
    ),
    "13 ellipse of axes that do not halve each other": Row(
        [graphic((10, 30), (50, 30), (40, 20), (40, 40), kind="ELLIPSE")], reasons=["malformed_graphic"]
    ),
    "14 rectangle": Row([graphic(*SQUARE)], BOX, SQUARE[:4], "box"),
    "14 rectangle with its text (Agfa)": Row(
        [graphic(*SQUARE), words("16.0 x 8.0 mm", box=(32, 10, 60, 14))], BOX, SQUARE[:4], "box", layer="Rectangle_SAL"
    ),
    "14 rectangle, filled, not closed": Row([graphic(*SQUARE[:4], filled="Y")], BOX, SQUARE[:4], "box"),
    "14 rectangle with points on its sides": Row(
        [graphic((10, 10), (20, 10), (30, 10), (30, 20), (10, 20), (10, 15), (10, 10))], BOX, SQUARE[:4], "box"
    ),
    "14 rectangle askew": Row(
        [graphic((20, 10), (30, 20), (20, 30), (10, 20), (20, 10))],
        BOX, ((20, 10), (30, 20), (20, 30), (10, 20)), "box",
    ),
    "15 free-hand outline": Row([graphic(*FREE)], OUTLINE, FREE[:5], "outline"),
    "15 free-hand outline with mean and deviation": Row(
        [graphic(*FREE), words("Mean 45.2 HU", (35, 20))], OUTLINE, FREE[:5], "outline+density"
    ),
    "15 free-hand outline, filled, not closed": Row([graphic(*FREE[:5], filled="Y")], OUTLINE, FREE[:5], "outline"),
    "15 INTERPOLATED (Agfa Freehand)": Row(
        [graphic(*FREE, kind="INTERPOLATED")], OUTLINE, None, "outline:interpolated", layer="Freehand"
    ),
    "15 outline that crosses itself": Row(
        [graphic((10, 10), (30, 30), (30, 10), (10, 30), (5, 20), (10, 10))], reasons=["self_crossing_outline"]
    ),
    "15 rectangle whose corners are joined crosswise": Row(
        [graphic((10, 10), (30, 10), (10, 20), (30, 20), (10, 10))], reasons=["self_crossing_outline"]
    ),
    "15 outline without an inside": Row([graphic((10, 10), (30, 10), (50, 10), (30, 10), (10, 10))], reasons=["zero_area"]),
    "15 line forth and back": Row([graphic(A, B, A)], reasons=["zero_area"]),
    "15 open curve": Row([graphic(*FREE[:5], kind="INTERPOLATED")], reasons=["open_polyline"]),
    "15 open polyline": Row([graphic(*FREE[:5])], reasons=["open_polyline"]),
    "16 calibration ruler (by its layer)": Row(
        [graphic(A, B), graphic((10, 28), (10, 32))], reasons=["calibration_ruler"], layer="Calibration Ruler"
    ),
    "16 calibration ruler (by its ticks)": Row(
        [graphic(A, B), *(graphic((10 + 8 * i, 28), (10 + 8 * i, 32)) for i in range(6))], reasons=["calibration_ruler"]
    ),
    "16 calibration ruler whose line is a CIRCLE (Agfa)": Row(
        [graphic(A, B, kind="CIRCLE"), *(graphic((10 + 8 * i, 28), (10 + 8 * i, 32)) for i in range(6))],
        reasons=["calibration_ruler"],
    ),
    "16 calibration (by its text)": Row(
        [graphic(A, B), words("Calibration 100 mm", (52, 30))], reasons=["calibration_ruler"]
    ),
    "17 contours of shapes a writer does not know (Weasis)": Row(
        [graphic(*FREE), graphic(*[(x + 30, y + 25) for x, y in FREE])], OUTLINE, FREE[:5], "outline", count=2
    ),
    "17 a graphic type that the standard does not have": Row(
        [graphic(A, B, kind="SPIRAL")], reasons=["unknown_graphic_type"]
    ),
}  # fmt: skip


@pytest.mark.parametrize("row", ROWS.values(), ids=ROWS.keys())
def test_encoding(row):
    layers = None if row.layer is None else {"LAYER1": row.layer}
    annotations, reasons = read(row.state or state(item(*row.objects), layers=layers))
    assert reasons == list(row.reasons)
    assert len(annotations) == (0 if row.kind is None else row.count)
    for found in annotations[:1]:
        assert (found.kind, found.source.rule) == (row.kind, row.rule)
        assert found.sop_instance_uid == IMAGE.SOPInstanceUID
        assert 0 < found.source.confidence < 1
        if row.points is not None:
            np.testing.assert_allclose(found.points, row.points, atol=1e-5)
        if row.label is not None:
            assert found.label == row.label


def test_every_row_of_the_table_is_there():
    assert {name[:2] for name in ROWS} == {f"{n:02}" for n in range(1, 18)}


def test_every_rule_is_reached():
    met = {row.rule.split("+")[0] for row in ROWS.values() if row.kind is not None}
    assert set(RULES) - met == {
        "line:two_heads",
        "bidimensional:group",
        "arrow:shaft_and_two_barbs",
    }  # tests/test_gsps.py


def test_what_is_refused_costs_nothing_else():
    for row in ROWS.values():
        if row.kind is None:
            other = item(graphic((5, 55), (25, 60)), layer="OTHER", images=[CT[2]])
            layers = {} if row.layer is None else {"LAYER1": row.layer}
            annotations, reasons = read(state(item(*row.objects), other, layers=layers, images=[IMAGE, CT[2]]))
            assert [found.points for found in annotations] == [((5, 55), (25, 60))]
            assert reasons == list(row.reasons)


# ---- names of tools ----------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("name", "reason"),
    [
        ("Cobb Angle", "angle"), ("CobbAngle 2", "angle"), ("Winkel", "angle"), ("Hoekmeting", "angle"),
        ("Kalibrierung", "calibration_ruler"), ("Maßstab", "calibration_ruler"), ("Kalibratie 1", "calibration_ruler"),
        ("Senkrechte", "perpendicular"), ("Loodlijn", "perpendicular"),
        ("Leg Length Difference", "leg_length"), ("Beinlängendifferenz", "leg_length"), ("Beenlengte", "leg_length"),
        ("Cardiothoracic ratio", "cardiothoracic_ratio"), ("Herz-Thorax-Quotient", "cardiothoracic_ratio"),
        ("Referenzlinie", "reference_line"), ("Pfeil", "arrow_without_head"), ("PIJL_3", "arrow_without_head"),
        ("Rechthoek", "tool_disagrees"), ("Kreis", "tool_disagrees"), ("Vrije hand", "tool_disagrees"),
        ("Dichte", "density_roi"),
    ],
)  # fmt: skip
def test_names_of_tools_in_three_languages_are_believed(name, reason):
    assert read(state(item(graphic(A, B)), layers={"LAYER1": name})) == ([], [reason])
    grouped = state(item(graphic(A, B, group=4)), groups={4: name})
    assert read(grouped) == ([], [reason])


@pytest.mark.parametrize("name", ["Distance", "Line 3", "DistanceLine", "Abstand", "Länge", "Afstand", "LIJN-2"])
def test_a_name_that_fits_makes_surer(name):
    (plain,), _ = drawn(graphic(A, B))
    (named,), reasons = drawn(graphic(A, B), layers={"LAYER1": name})
    assert reasons == []
    assert named.source.confidence > plain.source.confidence
    assert named.points == plain.points


@pytest.mark.parametrize(
    "name", ["MEASUREMENTS", "for AI analysis", "Lines and angles", "Freehand line", "Arrow or line", "triangle"]
)
def test_a_name_of_no_tool_or_of_several_says_nothing(name):
    (plain,), _ = drawn(graphic(A, B))
    (named,), reasons = drawn(graphic(A, B), layers={"LAYER1": name})
    assert (named.source, reasons) == (plain.source, [])


# ---- texts beside a drawing --------------------------------------------------------------------------------------------


@pytest.mark.parametrize("value", ["32.0 mm", "31 mm", "3.2 cm", "120 mm", "32.0 x 12.0 mm"])
def test_a_text_never_sets_the_geometry(value):
    (found,), _ = drawn(graphic(A, B), words(value, (52, 30)))
    (bare,), _ = drawn(graphic(A, B))
    assert (found.points, found.kind) == (bare.points, bare.kind)
    assert found.label == value
    assert found.source.confidence > bare.source.confidence


def test_a_pointer_keeps_what_it_says_it_points_to():
    annotations, reasons = drawn(
        graphic((5, 5), (15, 5)), words("10 mm", (16, 5)), words("lesion 2?", (45, 45), shown=True)
    )
    assert [(a.kind, a.label, a.stated_mm) for a in annotations] == [(LINE, "10 mm", (10,)), (POINTER, "lesion 2?", ())]
    assert annotations[1].source.item == "1.T2"
    assert reasons == []


def test_a_text_at_a_refused_stroke_is_no_pointer():
    assert drawn(graphic(*FREE[:5]), words("see here", (28, 29), shown=True)) == ([], ["open_polyline", "text_only"])


# ---- strokes that belong together --------------------------------------------------------------------------------------


def test_a_tracking_uid_joins_strokes_and_text_of_several_items():
    axes = [graphic(A, B, tracking="1.2.3"), graphic((28, 20), (28, 42), tracking="1.2.3")]
    (found,), reasons = read(
        state(item(axes[0]), item(axes[1], words("32 x 17.6 mm", (2, 2), tracking="1.2.3")), item(words("", (1, 1))))
    )
    assert (found.kind, found.stated_mm, reasons) == (PAIR, (32, 17.6), [])


def test_a_group_is_stronger_than_a_tracking_uid_and_both_than_the_item():
    joined = [graphic(A, B, group=1, tracking="1.2.3"), graphic((28, 20), (28, 42), group=2, tracking="1.2.3")]
    annotations, _ = read(state(item(*joined)))
    assert [found.kind for found in annotations] == [LINE, LINE]
    apart = [graphic(A, B, tracking="1.2.3"), graphic((28, 20), (28, 42), tracking="1.2.4")]
    annotations, _ = drawn(*apart)
    assert [found.kind for found in annotations] == [LINE, LINE]


def test_lines_in_items_of_their_own_are_a_pair_where_they_cross():
    across, beside = graphic((28, 20), (28, 42)), graphic((28, 36), (28, 58))
    (found,), reasons = read(state(item(graphic(A, B)), item(across, layer="B")))
    assert (found.kind, found.source.item, reasons) == (PAIR, "1.1", [])
    annotations, reasons = read(state(item(graphic(A, B)), item(beside)))
    assert ([found.kind for found in annotations], reasons) == ([LINE, LINE], [])


@pytest.mark.parametrize("layers", [("A", "A", "A"), ("A", "B", "B")], ids=["one layer", "two layers"])
def test_an_arrow_of_strokes_in_items_of_their_own_is_an_arrow(layers):
    strokes = graphic(A, B), graphic((45, 27), B), graphic((45, 33), B)
    (found,), reasons = read(state(*(item(one, layer=name) for one, name in zip(strokes, layers, strict=True))))
    assert (found.kind, found.points, reasons) == (ARROW, (A, B), [])
    off = graphic(A, B), head((52, 30), (46, 27), (46, 33))  # the shaft ends within the head
    (found,), reasons = read(state(*(item(one, layer=name) for one, name in zip(off, layers[1:], strict=True))))
    assert (found.kind, found.points, reasons) == (ARROW, (A, (52, 30)), [])


@pytest.mark.parametrize(
    ("small", "rule"),
    [
        ([graphic((30, 28), (30, 32))], "line+mid_tick"),
        ([graphic((10, 26), (10, 34)), graphic((50, 26), (50, 34))], "line+end_cap"),
        ([graphic(A, (11.5, 30), kind="CIRCLE"), graphic(B, kind="POINT")], "line+dot"),
        ([graphic(B, A)], "line"),
    ],
    ids=["tick", "caps", "dots", "copy"],
)
def test_decoration_in_items_of_its_own_is_decoration(small, rule):
    (found,), reasons = read(state(item(graphic(A, B)), *(item(one, layer="B") for one in small)))
    assert (found.points, found.source.rule, reasons) == ((A, B), rule, [])


def test_a_small_second_diameter_in_an_item_of_its_own_is_no_tick():
    (found,), _ = read(state(item(graphic(A, B), words("32 x 3.2 mm", (52, 30))), item(graphic((30, 28), (30, 32)))))
    assert (found.kind, found.stated_mm) == (PAIR, (32, 3.2))


def test_two_caps_alike_may_be_long_and_one_may_not():
    line, caps = graphic((10, 30), (18, 30)), [graphic((x, 27), (x, 33)) for x in (10, 18)]
    (found,), reasons = drawn(line, *caps)
    assert (found.points, found.source.rule, reasons) == (((10, 30), (18, 30)), "line+end_cap", [])
    assert drawn(line, caps[0]) == ([], ["perpendicular"])
    assert drawn(line, caps[0], graphic((18, 29), (18, 31)))[1] == ["perpendicular"]


@pytest.mark.parametrize("joins", [{"group": 1}, {"tracking": "1.2.3"}], ids=["group", "tracking"])
def test_a_perpendicular_in_a_group_is_no_pair_unless_texts_give_both_lengths(joins):
    strokes = graphic(A, B, **joins), graphic((30, 30), (30, 50), **joins)
    assert drawn(*strokes) == ([], ["perpendicular"])
    assert drawn(*strokes, words("16 mm", (60, 60), **joins))[0] == []
    assert drawn(*strokes, words("32 x 30 mm", (60, 60), **joins))[0] == []  # the lengths of something else
    for texts in (("32 x 16 mm",), ("32 mm", "16 mm")):
        (found,), reasons = drawn(*strokes, *(words(text, (60, 60), **joins) for text in texts))
        assert (found.kind, found.stated_mm, reasons) == (PAIR, (32, 16), [])


def test_an_angle_costs_only_what_it_touches():
    angle = item(graphic((30, 45), (30, 58), (44, 58)), words("90°", (46, 46)))
    lines = item(graphic((5, 5), (25, 5))), item(graphic((40, 8), (55, 20)))
    touching = item(graphic((44, 58), (60, 50)))
    annotations, reasons = read(state(angle, *lines, touching))
    assert [found.source.item for found in annotations] == ["2.1", "3.1"]
    assert reasons[:2] == ["angle", "unrecognised_combination"]


def test_a_refusal_of_several_graphics_says_how_many():
    grid = [item(graphic((4 + i, 1), (4 + i, 40))) for i in range(70)]
    perpendicular = item(graphic((100, 30), (140, 30)), graphic((120, 30), (120, 50)))
    several = item(*[graphic((1, i), (9, i)) for i in range(5)], images=CT[:2])
    alone = item(graphic((100, 60), (100, 60)))
    annotations, skips = read_annotations(stored(state(*grid, perpendicular, several, alone)))
    assert annotations == []
    found = {skip.reason: (skip.detail, skip.private.get("members", "").split()) for skip in skips}
    assert len(found) == len(skips) == 4
    for reason, members in (
        ("many_strokes", [f"{n}.1" for n in range(1, 71)]),
        ("perpendicular", ["71.1", "71.2"]),
        ("several_images", [f"72.{n}" for n in range(1, 6)]),
    ):
        assert (found[reason][0].endswith(f"({len(members)} graphics)"), found[reason][1]) == (True, members)
    assert "graphics)" not in found["zero_length"][0]


def test_many_single_strokes_that_do_not_touch_are_read():
    strokes = [item(graphic((2, 2 + 4 * i), (20, 2 + 4 * i))) for i in range(70)]
    shaft, tip = item(graphic((40, 30), (60, 30))), item(head((60, 30), (55, 27), (55, 33)))
    annotations, reasons = read(state(*strokes, shaft, tip))
    assert ([found.kind for found in annotations], reasons) == ([LINE] * 70 + [ARROW], [])


@settings(max_examples=40, deadline=None)
@given(st.permutations(range(7)))
def test_the_order_of_items_changes_nothing(order):
    strokes = [
        graphic(A, B), graphic((45, 27), B), graphic((45, 33), B),  # an arrow
        graphic((5, 5), (25, 5)), graphic((15, 4), (15, 6)),  # a line and its tick
        graphic((40, 2), (60, 2)), graphic((50, -4), (50, 8)),  # a pair
    ]  # fmt: skip
    annotations, reasons = read_annotations(state(*(item(strokes[i]) for i in order)))
    found = {(one.kind, one.points[:2], one.source.rule) for one in annotations}
    assert found == {
        (ARROW, (A, B), "arrow:shaft_and_two_barbs"),
        (LINE, ((5, 5), (25, 5)), "line+mid_tick"),
        (PAIR, ((40, 2), (60, 2)), "bidimensional"),
    }
    assert reasons == []


def test_a_compound_graphic_and_another_beside_its_rendering():
    annotations, reasons = drawn(
        compound("RULER", A, B, own_id=7),
        graphic(A, B, compound=7),
        graphic((10, 50), (40, 50), compound=0),  # an ID that no compound graphic has
    )
    assert [(a.source.item, a.source.rule) for a in annotations] == [("1.2", "line"), ("1.C1", "line:compound_ruler")]
    assert reasons == []


def test_of_a_damaged_compound_graphic_the_rendering_is_read():
    broken = compound("RULER", A, B, own_id=7)
    broken.GraphicData = [1.0, 2.0, 3.0]
    annotations, reasons = drawn(broken, graphic(A, B, compound=7))
    assert ([found.points for found in annotations], reasons) == ([(A, B)], ["malformed_graphic"])


# ---- regions -----------------------------------------------------------------------------------------------------------


def test_an_interpolated_outline_is_a_curve_through_its_points():
    ring = [(30 + 12 * np.cos(t), 30 + 12 * np.sin(t)) for t in np.linspace(0, 2 * np.pi, 9)]
    (found,), _ = drawn(graphic(*ring, kind="INTERPOLATED"))
    vertices = np.array(found.points)
    for point in ring:
        assert np.hypot(*(vertices - point).T).min() < 1e-4
    assert np.abs(np.hypot(*(vertices - 30).T) - 12).max() < 0.15  # the straight outline is off by 0.91
    assert np.hypot(*np.diff(vertices, axis=0).T).max() < 2.1
    area = 0.5 * abs(
        np.dot(vertices[:, 0], np.roll(vertices[:, 1], 1)) - np.dot(vertices[:, 1], np.roll(vertices[:, 0], 1))
    )
    assert area == pytest.approx(np.pi * 144, rel=0.02)


def test_an_outline_of_pixels_may_touch_itself():
    ring = ((0, 0), (4, 0), (4, 4), (8, 4), (8, 8), (4, 8), (4, 4), (0, 4), (0, 0))
    (found,), reasons = drawn(graphic(*ring))
    assert (found.kind, reasons) == (OUTLINE, [])
