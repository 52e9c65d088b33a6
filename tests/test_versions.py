"""Of the versions of one report the last one counts, and nothing that was taken back."""

from __future__ import annotations

import random
from datetime import UTC, datetime, timedelta, timezone

import pytest
from hypothesis import given
from hypothesis import strategies as st

from cohort_builder.scope.versions import Fate, Standing, Version, settle, standing_of

SUPERSEDED, WITHDRAWN = Fate.SUPERSEDED, Fate.WITHDRAWN
TEXT = "FINDINGS: A 12 mm nodule in the left upper lobe."


def at(hour: int, zone: timezone | None = None) -> datetime:
    return datetime(2024, 3, 5, hour, tzinfo=zone)


def version(position: int, status: str = "final", issued: datetime | None = None, studies: str = "1.1") -> Version:
    return Version(position, standing_of(status), issued, frozenset(studies.split()))


def fates(*versions: Version, **texts: str) -> dict[int, Fate]:
    """``texts``: by position, as ``t2="..."``; the other versions have the same text."""
    return settle(versions, lambda position: texts.get(f"t{position}", TEXT))


@pytest.mark.parametrize(
    ("status", "standing"),
    [
        ("final", Standing.FINAL),
        ("", Standing.FINAL),
        ("Dr. Who", Standing.FINAL),
        ("Preliminary", Standing.PRELIMINARY),
        ("partial", Standing.PRELIMINARY),
        ("amended", Standing.CORRECTED),
        ("CORRECTED", Standing.CORRECTED),
        ("addendum", Standing.ADDENDUM),
        ("appended", Standing.ADDENDUM),
        ("cancelled", Standing.WITHDRAWN),
        ("entered-in-error", Standing.WITHDRAWN),
        ("Entered in Error", Standing.WITHDRAWN),
    ],
)
def test_standing_of_a_status(status: str, standing: Standing) -> None:
    assert standing_of(status) is standing


@pytest.mark.parametrize(
    ("versions", "expected"),
    [
        # by time, whatever the place in the table and the status
        ([version(1, issued=at(9)), version(2, issued=at(8))], {2: SUPERSEDED}),
        ([version(1, "amended", at(8)), version(2, "final", at(9))], {1: SUPERSEDED}),
        ([version(1, issued=at(9, UTC)), version(2, issued=at(10, timezone(timedelta(hours=2))))], {2: SUPERSEDED}),
        # by status, where a time is missing or cannot be compared
        ([version(1, "final"), version(2, "preliminary")], {2: SUPERSEDED}),
        ([version(1, "corrected"), version(2, "final"), version(3, "preliminary")], {2: SUPERSEDED, 3: SUPERSEDED}),
        ([version(1, "final", at(8)), version(2, "preliminary")], {2: SUPERSEDED}),
        ([version(1, "final", at(8)), version(2, "preliminary", at(9, UTC))], {2: SUPERSEDED}),
        # by place
        ([version(1), version(2)], {1: SUPERSEDED}),
        ([version(2, issued=at(8)), version(1, issued=at(8))], {1: SUPERSEDED}),
        # taken back: all of them, also a later one
        ([version(1), version(2, "cancelled")], {1: WITHDRAWN, 2: WITHDRAWN}),
        ([version(1, "entered-in-error", at(8)), version(2, issued=at(9))], {1: WITHDRAWN, 2: WITHDRAWN}),
        # several studies
        ([version(1, studies="1.1 1.2"), version(2, studies="1.2")], {1: SUPERSEDED}),
        ([version(1, studies="1.1"), version(2, studies="1.2"), version(3, studies="1.1 1.2")], {1: SUPERSEDED, 2: SUPERSEDED}),
        # one key, two reports
        ([version(1, studies="1.1"), version(2, studies="1.2")], {}),
        ([version(1, studies="1.1"), version(2, "cancelled", studies="1.2")], {2: WITHDRAWN}),
        # names no study: a version of each
        ([version(1, studies="1.1"), version(2, studies="1.2"), version(3, "cancelled", studies="")], {1: WITHDRAWN, 2: WITHDRAWN, 3: WITHDRAWN}),
        ([version(1, studies=""), version(2, studies="")], {1: SUPERSEDED}),
        ([version(1)], {}),
    ],
)  # fmt: skip
def test_which_version_counts(versions: list[Version], expected: dict[int, Fate]) -> None:
    assert fates(*versions) == expected


NEW = "ADDENDUM: The nodule was seen before."


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        (NEW, {}),
        (f"{TEXT}\n\n{NEW}", {1: SUPERSEDED}),
        (f"findings:  a 12 mm nodule\nin the LEFT upper lobe -\n{NEW}", {1: SUPERSEDED}),  # broken into other lines
        ("ADDENDUM: FINDINGS: A 12 mm nodule in the left upper lobes.", {}),  # another word
        ("", {}),
    ],
)
def test_an_addendum_is_read_beside_what_it_does_not_repeat(text: str, expected: dict[int, Fate]) -> None:
    assert fates(version(1), version(2, "addendum"), t2=text) == expected


def test_a_full_version_supersedes_the_report_and_its_addenda() -> None:
    group = [version(1), version(2, "appended"), version(3, "appended"), version(4, "corrected")]
    assert fates(*group[:3], t2=NEW, t3="And: no change.") == {}
    assert fates(*group, t2=NEW, t3="And: no change.") == {1: SUPERSEDED, 2: SUPERSEDED, 3: SUPERSEDED}
    assert fates(version(1, "appended"), version(2, "appended"), t1=NEW) == {}


def test_an_addendum_to_a_version_that_is_not_used_stands() -> None:
    group = [version(1), version(2, "addendum")]
    assert settle(group, lambda position: None if position == 1 else NEW) == {}


versions = st.lists(
    st.builds(
        Version,
        position=st.integers(1, 99),
        standing=st.sampled_from(Standing),
        issued_at=st.none() | st.integers(0, 23).map(at),
        studies=st.frozensets(st.sampled_from(["1.1", "1.2", "1.3"]), max_size=2),
    ),
    min_size=1,
    max_size=6,
    unique_by=lambda one: one.position,
)


@given(versions, st.randoms())
def test_the_order_of_arrival_does_not_matter(group: list[Version], rng: random.Random) -> None:
    shuffled = rng.sample(group, len(group))
    assert settle(group, lambda _: TEXT) == settle(shuffled, lambda _: TEXT)


@given(versions)
def test_something_counts_unless_it_was_taken_back(group: list[Version]) -> None:
    lost = settle(group, lambda _: TEXT)
    assert set(lost) <= {one.position for one in group}
    if any(one.standing is Standing.WITHDRAWN for one in group):
        return
    assert set(lost.values()) <= {SUPERSEDED}
    assert len(lost) < len(group)
    unnamed = [one for one in group if not one.studies]
    for one in group:
        alone = all(one is other or not (one.studies & other.studies) for other in group) and not unnamed
        assert not alone or one.position not in lost
