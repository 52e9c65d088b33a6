"""Counts that add up over patients and processes: a key is a group and what is counted in it, as short texts."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterable, Mapping
from typing import TYPE_CHECKING, TypeAlias

if TYPE_CHECKING:
    from cohort_builder.types import Skip

Key: TypeAlias = tuple[str, ...]
Tally: TypeAlias = Counter[Key]


def count_skips(skips: Iterable[Skip], tally: Tally) -> None:
    """Count what is left out by stage and reason, and each sentence on what to do."""
    for skip in skips:
        count_skip(skip.stage, skip.reason, skip.detail, tally)


def count_skip(stage: str, reason: str, detail: str, tally: Tally, n: int = 1) -> None:
    """Count ``n`` skips of one stage, reason and detail."""
    tally["skips", stage, reason] += n
    tally["details", stage, reason, detail] += n


def under(tally: Mapping[Key, int], *group: str) -> dict[Key, int]:
    """The counts of one group by what follows it in their keys, the largest first."""
    n = len(group)
    found = {key[n:]: count for key, count in tally.items() if key[:n] == group}
    return dict(sorted(found.items(), key=lambda item: (-item[1], item[0])))


def named(tally: Mapping[Key, int], group: str, order: Iterable[str] = ()) -> dict[str, int]:
    """The counts of one group with one name each: those of ``order`` first, the others by size."""
    found = {name: count for (name,), count in under(tally, group).items()}
    first = {name: found.pop(name) for name in order if name in found}
    return first | found
