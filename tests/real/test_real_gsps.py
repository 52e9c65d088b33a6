"""Presentation states of real writers (none of them on CT): read or refused by the right name, never misread."""

from __future__ import annotations

import pytest
from cases import real_data

from cohort_builder.annotations import read_annotations

EXPECTED = {
    "agfa_GSPS.dcm": ([], {"no_graphics"}),
    "clunie_prLUTs.dcm": ([], {"no_graphics"}),
    "clunie_prOverlay.dcm": ([], {"no_graphics"}),
    "lunit_Issue168_scrubbed.dcm": ([("OUTLINE", "outline", 1902), ("OUTLINE", "outline", 828)], set()),
    "softneta_PR000000.dcm": ([], {"density_roi"}),
    "softneta_ref_CR000000.dcm": ([], {"not_presentation_state"}),
}


@pytest.mark.parametrize(("name", "expected"), EXPECTED.items())
def test_real_states(name, expected):
    annotations, skips = read_annotations(real_data("gsps") / name)
    assert [(found.kind, found.source.rule, len(found.points)) for found in annotations] == expected[0]
    assert {skip.reason for skip in skips} == expected[1]
    assert not any(skip.failure for skip in skips)


def test_scores_of_a_program_stand_beside_its_outlines():
    (first, second), _ = read_annotations(real_data("gsps") / "lunit_Issue168_scrubbed.dcm")
    assert first.label.startswith("98%")
    assert second.label == "87%"
    assert (first.stated_mm, second.stated_mm) == ((), ())
