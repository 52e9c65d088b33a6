"""What is written beside strokes, and drawn for it: it tells what else than a lesion was measured or marked."""

from __future__ import annotations

import pytest
from presentation import compound, drawn, graphic, item, read, state, words

from cohort_builder.types import AnnotationKind

A, B = (10.0, 30.0), (50.0, 30.0)
C, D = (12.0, 50.0), (50.0, 58.0)
LINE, PAIR = AnnotationKind.LINE, AnnotationKind.BIDIMENSIONAL
ROUND = graphic((10, 30), (50, 30), (30, 20), (30, 40), kind="ELLIPSE")


def kinds(annotations):
    return [found.kind for found in annotations]


# ---- a text that names a tool ------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("value", "reason"),
    [
        ("Leg Length Difference 3 mm", "leg_length"), ("CTR: 0.45", "cardiothoracic_ratio"),
        ("Herz-Thorax-Quotient 0,45", "cardiothoracic_ratio"), ("37.5°", "angle"), ("Cobb: 37", "angle"),
    ],
)  # fmt: skip
@pytest.mark.parametrize("where", ["in the item", "in the group", "in an item of its own", "every stroke in its own"])
def test_a_tool_of_several_lines_refuses_them_all(value, reason, where):
    if where == "in the group":
        ds = state(item(graphic(A, B, group=1)), item(graphic(C, D, group=1), words(value, (52, 30), group=1)))
    elif where == "in an item of its own":
        ds = state(item(graphic(A, B), graphic(C, D)), item(words(value, (30, 40))))
    elif where == "every stroke in its own":
        ds = state(item(graphic(A, B)), item(graphic(C, D)), item(words(value, (52, 30))))
    else:
        ds = state(item(graphic(A, B), graphic(C, D), words(value, (52, 30))))
    assert read(ds) == ([], [reason, reason])


def test_a_length_beside_a_line_tells_it_from_the_arms_of_an_angle():
    annotations, reasons = drawn(
        graphic(A, B), graphic(C, D), graphic((10, 5), (40, 5)), words("24 mm", (41, 5)), words("37.5°", (30, 40))
    )
    assert ([(a.source.item, a.stated_mm) for a in annotations], reasons) == ([("1.3", (24,))], ["angle", "angle"])


def test_an_angle_that_was_refused_costs_no_line():
    arms = item(graphic((30, 45), (30, 58), (44, 58)))
    annotations, reasons = read(state(arms, item(graphic((5, 5), (25, 5))), item(words("90°", (45, 52)))))
    assert (kinds(annotations), reasons) == ([LINE], ["angle", "value_only"])


@pytest.mark.parametrize("value", ["nodule in left cardiophrenic angle", "3 degenerative discs", "see Cobb report"])
def test_a_word_of_a_sentence_is_no_tool(value):
    (found,), reasons = drawn(graphic(A, B), words(value, (52, 30)))
    assert (found.kind, found.label, reasons) == (LINE, value, [])


@pytest.mark.parametrize("name", ["Oval nodule", "Circle of Willis aneurysm", "low density lesion", "left hip angle"])
def test_a_group_named_after_a_thing_names_no_tool(name):
    annotations, reasons = read(state(item(graphic(A, B, group=1)), groups={1: name}))
    assert (kinds(annotations), reasons) == ([LINE], [])


# ---- densities and sizes -----------------------------------------------------------------------------------------------


def test_a_density_cross_is_no_pair():
    cross = graphic((26, 30), (34, 30)), graphic((30, 26), (30, 34))
    assert drawn(*cross, words("HU: 35", (36, 26))) == ([], ["density_roi"])
    assert drawn(graphic(A, B), words("35 HU", (52, 30))) == ([], ["density_roi"])
    (found,), reasons = drawn(*cross, words("6 x 6 mm, 35 HU", (36, 26)))
    assert (found.kind, found.stated_mm, reasons) == (PAIR, (6, 6), [])


@pytest.mark.parametrize("value", ["µ=35.2 σ=12", "μ 35", "Min/Max: -12 / 55", "Min: -12 Max: 55", "Mean: 45.2"])
def test_densities_are_known_by_what_they_count(value):
    assert drawn(ROUND, words(value, (52, 30))) == ([], ["density_roi"])


@pytest.mark.parametrize("value", ["max 32 mm", "Max: 32 x 16 mm", "mean diameter 24 mm", "Area: 402 mm²"])
def test_a_greatest_length_is_no_density(value):
    (found,), reasons = drawn(ROUND, words(value, (52, 30)))
    assert (found.kind, reasons) == (AnnotationKind.ELLIPSE, [])


@pytest.mark.parametrize(
    ("value", "stated"),
    [
        ("37.1 mm (prev 40.2 mm)", (37.1,)), ("37.1 mm / 40.2 mm", (37.1,)), ("40.2 mm → 37.1 mm", (37.1,)),
        ("37.1 mm, zuvor 40.2 mm", (37.1,)), ("prior 40.2 mm", ()), ("Ø 37.1mm", (37.1,)), ("12 x 8 mm", (12, 8)),
    ],
)  # fmt: skip
def test_an_earlier_size_is_not_stated_of_today(value, stated):
    (found,), _ = drawn(graphic(A, B), words(value, (52, 30)))
    assert found.stated_mm == stated


def test_words_with_a_size_at_a_leader_are_refused_for_what_they_are():
    assert drawn(words("Nodule 12 mm", (20, 24), shown=True)) == ([], ["value_only"])


# ---- frames, leaders, block arrows -------------------------------------------------------------------------------------

FRAME = ((40, 5), (60, 5), (60, 15), (40, 15), (40, 5))
BLOCK = [(5, 28), (20, 28), (20, 24), (28, 30), (20, 36), (20, 32), (5, 32)]


def test_the_frame_of_a_text_is_no_box_and_leaves_the_text_to_the_line():
    size = words("32.0 mm", box=(41, 6, 59, 14))
    (found,), reasons = drawn(graphic(A, B), graphic(*FRAME), size)
    assert (found.kind, found.stated_mm, reasons) == (LINE, (32,), ["label_frame"])
    larger = words("32.0 mm", box=(38, 4, 62, 16))
    assert drawn(graphic(*FRAME), larger) == ([], ["label_frame", "value_only"])


def test_a_box_round_a_lesion_may_hold_a_text():
    (found,), reasons = drawn(graphic((5, 5), (60, 5), (60, 60), (5, 60), (5, 5)), words("met", box=(6, 6, 20, 12)))
    assert (found.kind, found.label, reasons) == (AnnotationKind.BOX, "met", [])


def test_the_line_from_a_text_to_its_thing_is_no_diameter():
    met = words("met", box=(41, 6, 59, 14))
    leader = graphic((20, 40), (45, 15))
    assert drawn(leader, graphic(*FRAME), met) == ([], ["leader_line", "label_frame", "text_only"])
    assert drawn(graphic((20, 40), (45, 15)), met) == ([], ["leader_line", "text_only"])
    capped = graphic((20, 10), (40, 10)), graphic((20, 8), (20, 12)), graphic((40, 8), (40, 12))
    (found,), _ = drawn(*capped, met)
    assert found.source.rule == "line+end_cap"
    (found,), _ = drawn(graphic((20, 40), (45, 15)), words("28 mm", box=(41, 6, 59, 14)))
    assert (found.kind, found.stated_mm) == (LINE, (28,))


@pytest.mark.parametrize("turn", [1, 1j, complex(0.6, 0.8), complex(-0.8, 0.6)])
@pytest.mark.parametrize("first", [0, 3])
def test_a_block_arrow_encloses_nothing(turn, first):
    turned = [complex(x - 16, y - 30) * turn + complex(32, 30) for x, y in BLOCK[first:] + BLOCK[:first]]
    ring = [(p.real, p.imag) for p in turned]
    assert drawn(graphic(*ring, ring[0])) == ([], ["block_arrow"])
    assert drawn(graphic(*ring, filled="Y")) == ([], ["block_arrow"])


def test_seven_corners_of_another_form_are_an_outline():
    for ring in (
        [(10, 10), (30, 8), (44, 20), (40, 38), (26, 46), (12, 40), (4, 24)],
        [(30, 10), (45, 17), (49, 33), (38, 46), (22, 46), (11, 33), (15, 17)],  # regular
    ):
        annotations, reasons = drawn(graphic(*ring, ring[0]))
        assert (kinds(annotations), reasons) == ([AnnotationKind.OUTLINE], [])


def test_a_region_in_a_layer_of_arrows_is_refused():
    ring = ((10, 10), (30, 12), (28, 30), (12, 25), (5, 15), (10, 10))
    assert drawn(graphic(*ring), layers={"LAYER1": "Arrow"}) == ([], ["tool_disagrees"])


# ---- compound graphics and their renderings ----------------------------------------------------------------------------


def test_of_a_compound_graphic_that_cannot_be_turned_the_rendering_is_read():
    annotations, reasons = drawn(compound("RULER", A, B, turn=30.0), graphic(A, B, compound=1))
    assert ([a.source.item for a in annotations], reasons) == (["1.1"], ["malformed_graphic"])


def test_a_rendering_in_another_item_is_not_read_again():
    size = words("32 mm", (2, 2), compound=1)
    (found,), reasons = read(state(item(graphic(A, B, compound=1), size), item(compound("RULER", A, B))))
    assert (found.source.item, found.stated_mm, reasons) == ("2.C1", (32,), [])
    each = [item(compound("RULER", p, q), graphic(p, q, compound=1)) for p, q in ((A, B), (C, D))]  # counted anew
    annotations, reasons = read(state(*each))
    assert ([a.source.item for a in annotations], reasons) == (["1.C1", "2.C1"], [])
