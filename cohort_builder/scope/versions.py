"""Which of the versions of one report counts.

A report is given out several times: preliminary, final, corrected, with an addendum, and now and then it is taken back.
Versions of one report share their ``version_key``; without one, two reports on one study are two reports (a chest and
an abdomen read from one scan, two readers), however alike they look, and both are read.
"""

from __future__ import annotations

import re
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass
from datetime import datetime
from enum import StrEnum

from nlp.sources.statuses import WITHDRAWN, normal_status


class Standing(StrEnum):
    """What a report's status says of its text."""

    PRELIMINARY = "preliminary"
    FINAL = "final"
    CORRECTED = "corrected"
    ADDENDUM = "addendum"
    WITHDRAWN = "withdrawn"


class Fate(StrEnum):
    """Why a version does not count; the reason of its Skip."""

    SUPERSEDED = "superseded_report"
    WITHDRAWN = "withdrawn_report"
    CONFLICTING = "conflicting_versions"


_WORD = re.compile(r"\w+")
_STANDINGS = {
    "registered": Standing.PRELIMINARY,
    "partial": Standing.PRELIMINARY,
    "preliminary": Standing.PRELIMINARY,
    "amended": Standing.CORRECTED,
    "corrected": Standing.CORRECTED,
    "appended": Standing.ADDENDUM,
    **dict.fromkeys(WITHDRAWN, Standing.WITHDRAWN),
}
_RANKS = {
    Standing.PRELIMINARY: 0,
    Standing.FINAL: 1,
    Standing.CORRECTED: 2,
    Standing.ADDENDUM: 2,
    Standing.WITHDRAWN: 3,
}


def standing_of(status: str) -> Standing:
    """What a status says, in the words of FHIR (DiagnosticReport.status) or of a warehouse; an unknown one is final."""
    return _STANDINGS.get(normal_status(status), Standing.FINAL)


@dataclass(frozen=True, slots=True)
class Version:
    """One report among those with its ``version_key``.

    ``position`` is its place in the source; ``studies`` what it names its studies by: numbers and UIDs as written, and
    the UIDs of the studies it was joined to.
    """

    position: int
    standing: Standing
    issued_at: datetime | None
    studies: frozenset[str]


def settle(versions: Sequence[Version], text_of: Callable[[int], str | None]) -> dict[int, Fate]:
    """Decide which versions of one patient's report do not count.

    The last one counts, by ``issued_at`` where every version has one, then by status (preliminary, final, corrected),
    then by place in the source. An addendum is read beside the version before it where it does not repeat that
    version's text: such an addendum holds the new sentences alone, and in place of the report it would lose every
    finding that it does not speak of. One that repeats the text is a version like any other. A withdrawn version takes
    all the others with it, later ones too: that a report was taken back is a statement of the whole of it, and the
    order in which messages arrive is not to be trusted with the contrary.

    Versions with one key that share no study (two reports on one order) are reports of their own. One that names no
    study at all is a version of each.

    Parameters
    ----------
    versions
        All with one ``version_key``, of one patient.
    text_of
        The text of the version at a position; None if it is not used anyway.

    Returns
    -------
    dict of int to Fate
        By position; what is not in it counts.
    """
    superseded: dict[int, Fate] = {}
    withdrawn: dict[int, Fate] = {}
    for group in _of_one_report(versions):
        if any(version.standing is Standing.WITHDRAWN for version in group):
            withdrawn.update((version.position, Fate.WITHDRAWN) for version in group)
            continue
        counting: list[Version] = []
        for version in _in_order(group):
            if counting and _adds(version, counting[0], text_of):
                counting.append(version)
                continue
            superseded.update((older.position, Fate.SUPERSEDED) for older in counting)
            counting = [version]
    return superseded | withdrawn


def _of_one_report(versions: Sequence[Version]) -> list[list[Version]]:
    """Take apart what shares a key and no study."""
    groups: list[tuple[set[str], list[Version]]] = []
    for version in versions:
        if not version.studies:
            continue
        studies, members = set(version.studies), [version]
        apart = []
        for group in groups:
            if group[0] & studies:
                studies |= group[0]
                members = [*group[1], *members]
            else:
                apart.append(group)
        groups = [*apart, (studies, members)]
    unnamed = [version for version in versions if not version.studies]
    return [[*members, *unnamed] for _, members in groups] or [unnamed]


def _in_order(versions: Iterable[Version]) -> list[Version]:
    """Oldest first. Times decide where all versions have one, all with a time zone or all without."""
    ranked = sorted(versions, key=lambda version: (_RANKS[version.standing], version.position))
    times = [version.issued_at for version in ranked]
    known = [time for time in times if time is not None]
    if len(known) < len(times) or len({time.utcoffset() is None for time in known}) > 1:
        return ranked
    order = sorted(range(len(ranked)), key=lambda i: known[i])
    return [ranked[i] for i in order]


def _adds(version: Version, earlier: Version, text_of: Callable[[int], str | None]) -> bool:
    """Whether it is an addendum that does not hold the text of the version it belongs to."""
    if version.standing is not Standing.ADDENDUM:
        return False
    whole, part = text_of(version.position), text_of(earlier.position)
    return whole is None or part is None or _words(part) not in _words(whole)


def _words(text: str) -> str:
    return " ".join(["", *_WORD.findall(text.casefold()), ""])
