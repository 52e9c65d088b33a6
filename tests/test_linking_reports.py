"""Several reports of one patient: what contradicts another is withheld, what a person judged stays; what link refuses."""

from __future__ import annotations

from dataclasses import replace
from typing import Any

import pytest
from link_worlds import SERIES, finding, line, size

from cohort_builder.linking.assignment import link
from cohort_builder.linking.contradictions import withhold_contradictions
from cohort_builder.linking.evidence import explain
from cohort_builder.types import Decision, Link
from nlp.types import Axis, Finding, Laterality, Temporality

LEFT, RIGHT = Laterality.LEFT, Laterality.RIGHT
BOTH, NONE, SECOND, FIRST = [{"f": "A"}, {"g": "A"}], [{}, {}], [{}, {"g": "A"}], [{"f": "A"}, {}]
DRAWN = line("A", 12.0, 8.0, image=41)


def linked(answers: list[Link] | tuple[Link, ...]) -> dict[str | None, str | None]:
    return {one.finding_id: one.lesion_id for one in answers if one.decision is Decision.LINKED}


def kept(*said: Finding, right: str = "") -> list[dict[str | None, str | None]]:
    """What stays linked of reports with one finding each, all linked to the one lesion that was drawn."""
    reports = []
    for one in said:
        verdicts = {(one.finding_id, "A"): True} if one.finding_id in right else None
        reports.append(([one], link([one], [DRAWN], verdicts=verdicts)))
        assert linked(reports[-1][1]) == {one.finding_id: "A"}
    answers = withhold_contradictions(reports)
    assert all(found == tuple(sorted(found, key=lambda a: a.finding_id is None)) for found in answers)
    for (findings, _), found in zip(reports, answers, strict=True):
        assert [one.finding_id for one in found if one.finding_id] == [f.finding_id for f in findings]
        assert {one.lesion_id for one in found if one.lesion_id} == {"A"}
    return [linked(found) for found in answers]


def of(name: str, facts: dict[str, Any]) -> Finding:
    return replace(finding(name, size(12, 8)), **facts)


def in_the(anatomy: str, observation: str = "nodule", side: Laterality | None = None) -> dict[str, Any]:
    return {"anatomy": anatomy, "observation": observation, "laterality": side}


@pytest.mark.parametrize(
    ("first", "second"),
    [
        (in_the("left upper lobe"), in_the("liver segment 4")),
        ({"laterality": LEFT}, {"laterality": RIGHT}),
        (in_the("left kidney"), in_the("left adrenal")),
        (in_the("left lung"), in_the("right lung")),
        (in_the("right lower lobe", side=RIGHT), in_the("right lobe of liver", "cyst", RIGHT)),
        (in_the("right lower lobe", side=RIGHT), in_the("right lobe of liver", side=RIGHT)),
        (in_the("left upper lobe", side=LEFT), in_the("upper pole of left kidney", "cyst", LEFT)),
        (in_the("upper pole of left kidney"), in_the("lower pole of left kidney")),
        (in_the("liver segment 4"), in_the("liver segment 7")),
        ({}, in_the("liver", "cyst")),
        ({}, {"observation": "stone"}),
        (in_the("liver"), in_the("liver", "cyst")),
        (in_the("liver", "adenoma"), in_the("liver", "metastasis")),
        (in_the("rib", "fracture"), in_the("rib", "lesion")),
        (in_the("neck", "lymph node"), in_the("neck", "mass")),
        (in_the("liver"), {**in_the("liver"), "sizes": (size(13, 8),)}),
        (in_the("liver"), {**in_the("liver"), "sizes": (size(9, axis=Axis.SHORT),)}),
    ],
)
def test_two_reports_that_say_different_things_of_one_lesion_are_withheld(first, second) -> None:
    reports = []
    for name, facts in (("f", first), ("g", second)):  # as if linked, whatever the linker thinks of them now
        said = of(name, facts)
        reports.append(([said], (Link(name, "A", Decision.LINKED, 0.99, {"size": 5.0}, (("B", 0.01),)),)))
    answers = withhold_contradictions(reports)
    assert [linked(found) for found in answers] == NONE
    for found, name in zip(answers, "fg", strict=True):
        of_finding, of_lesion = found
        assert (of_finding.decision, of_finding.rivals) == (Decision.AMBIGUOUS, (("A", 0.99), ("B", 0.01)))
        assert (of_lesion.lesion_id, of_lesion.decision) == ("A", Decision.UNMATCHED)
        assert of_lesion.rivals == ((name, 0.99),)
    assert withhold_contradictions(reports[::-1]) == answers[::-1]


@pytest.mark.parametrize(
    ("first", "second"),
    [
        ({}, {}),
        (in_the("left upper lobe"), in_the("left upper lobe")),
        (in_the("left upper lobe"), in_the("left upper lobe apex")),
        (in_the("left upper lobe"), {"laterality": LEFT}),
        (in_the("left upper lobe"), in_the("lung", "mass")),
        (in_the("liver", "lesion"), in_the("right lobe of liver", "metastasis", RIGHT)),
        (in_the("kidney", "stone"), in_the("left kidney", "calculus", LEFT)),
        (in_the("neck", "lymph node"), in_the("neck", "lymphadenopathy")),
        (in_the("some unheard-of recess"), in_the("unheard-of recess")),
        (in_the("liver"), {**in_the("liver"), "sizes": (size(12.4, rounding=0.05), size(20, temporality=Temporality.PRIOR))}),
        (in_the("liver"), {**in_the("liver"), "sizes": (size(8, axis=Axis.SHORT),)}),
    ],
)  # fmt: skip
def test_two_reports_that_agree_on_one_lesion_stay_linked(first, second) -> None:
    reports = [([of(n, f)], (Link(n, "A", Decision.LINKED, 0.99),)) for n, f in (("f", first), ("g", second))]
    assert [linked(found) for found in withhold_contradictions(reports)] == BOTH


def test_an_addendum_stays_linked() -> None:
    said = finding("f", size(12, 8), anatomy="right lower lobe", laterality=RIGHT)
    assert kept(said, replace(said, finding_id="g")) == BOTH


def test_without_place_and_size_the_image_says_it_is_the_same() -> None:
    def answers(image: int) -> list[dict[str | None, str | None]]:
        said = finding("f", size(12), images=((SERIES, 41, 41),)), finding("g", images=((SERIES, image, image),))
        reports = [([one], (Link(one.finding_id, "A", Decision.LINKED, 0.99),)) for one in said]
        return [linked(found) for found in withhold_contradictions(reports)]

    assert answers(41) == BOTH
    assert answers(42) == NONE


LUNG, LIVER = finding("f", size(12, 8), anatomy="lung"), finding("g", size(12, 8), anatomy="liver")


def test_what_a_person_judged_stays_and_what_contradicts_it_is_withheld() -> None:
    assert kept(LUNG, LIVER) == NONE
    assert kept(LUNG, LIVER, right="f") == FIRST
    assert kept(LUNG, LIVER, right="g") == SECOND
    assert kept(LUNG, LIVER, right="fg") == BOTH


def test_a_third_report_that_agrees_with_the_judged_one_stays() -> None:
    third = replace(LUNG, finding_id="h")
    assert kept(LUNG, LIVER, third, right="f") == [{"f": "A"}, {}, {"h": "A"}]
    assert kept(LUNG, LIVER, third) == [{}, {}, {}]


def test_reports_of_different_lesions_do_not_touch_each_other() -> None:
    b = line("B", 30.0, image=9)
    other = finding("g", size(30), anatomy="liver", images=((SERIES, 9, 9),))
    mine = replace(LUNG, image_references=finding("x", images=((SERIES, 41, 41),)).image_references)
    reports = [([one], link([one], [DRAWN, b])) for one in (mine, other)]
    answers = withhold_contradictions(reports)
    assert [list(found) for found in answers] == [links for _, links in reports]
    assert [linked(found) for found in answers] == [{"f": "A"}, {"g": "B"}]


# ---- what link refuses, and what is never said -----------------------------------------------------------------------


def test_ids_that_occur_twice_are_refused() -> None:
    with pytest.raises(ValueError, match="2 findings have 1 different ids"):
        link([LUNG, LUNG], [DRAWN])
    with pytest.raises(ValueError, match="2 lesions have 1 different ids"):
        link([LUNG], [DRAWN, DRAWN])


@pytest.mark.parametrize("verdict", ["no", "yes", 1, 0, None])
def test_a_verdict_is_a_bool(verdict: object) -> None:
    with pytest.raises(TypeError, match="must be True or False"):
        link([LUNG], [DRAWN], verdicts={("f", "A"): verdict})  # type: ignore[dict-item]


@pytest.mark.parametrize(
    ("organ", "said"),
    [
        ("lung_lower_lobe_left", "lung lower lobe left fits"),
        ("vertebrae_L1", "vertebrae L1 fits"),
        ("border of the lung", "border of the lung fits"),
        ("Quorvash", "organ fits"),
        ("kidney_left_4711", "organ fits"),
    ],
)
def test_only_names_of_the_table_are_said(organ: str, said: str) -> None:
    drawn = line("A", 12.0, 8.0, organ=organ)
    text = explain(Link("f", "A", Decision.LINKED, 0.99, {"organ": 1.2}), LUNG, drawn)
    assert f"{said} (+1.2)" in text
