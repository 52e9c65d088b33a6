"""Presentation states of real writers (none of them on CT, none with a line): refused by the right name, never misread."""

from __future__ import annotations

import pytest
from cases import real_data

from cohort_builder.annotations import read_annotations

EXPECTED = {
    "agfa_GSPS.dcm": {"no_graphics"},
    "clunie_prLUTs.dcm": {"no_graphics"},
    "clunie_prOverlay.dcm": {"no_graphics"},
    "lunit_Issue168_scrubbed.dcm": {"closed_outline", "pointer", "text_only"},
    "softneta_PR000000.dcm": {"ellipse", "text_only"},
    "softneta_ref_CR000000.dcm": {"not_presentation_state"},
}


@pytest.mark.parametrize(("name", "reasons"), EXPECTED.items())
def test_real_states_are_refused_by_name(name, reasons):
    annotations, skips = read_annotations(real_data("gsps") / name)
    assert annotations == []
    assert {skip.reason for skip in skips} == reasons
    assert not any(skip.failure for skip in skips)
