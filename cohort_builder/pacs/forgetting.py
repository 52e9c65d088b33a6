"""Taking patients out of an index without a trace: those on an opt-out list, and what vanished from the export."""

from __future__ import annotations

import re
import sqlite3
import unicodedata
from collections import defaultdict
from collections.abc import Iterable, Iterator, Mapping
from contextlib import closing
from dataclasses import dataclass, field
from itertools import takewhile
from pathlib import Path
from typing import TypeAlias

from cohort_builder.pacs import store
from cohort_builder.scope.accession import core, is_respelled

_UNUSED_SHARED = (
    "DELETE FROM shared WHERE id NOT IN (SELECT shared FROM files WHERE shared IS NOT NULL) "
    "AND id NOT IN (SELECT shared FROM frames)"
)
_UNUSED_HEADERS = "DELETE FROM study_headers WHERE id NOT IN (SELECT study_header FROM shared)"


_PARTS = re.compile(r"[^\W_]+")

_Spelling: TypeAlias = tuple[str, str]
"""Letters in front, and the rest without zeros in front."""


class OptOut:
    """Patient IDs of an opt-out list, known again in whatever spelling.

    For privacy: rather one patient too many. Two IDs are one patient's if they are equal without regard to case,
    separators, zeros in front, and letters that only one of the two has in front; or if one of them is the other
    without its first or last part, where separators set that off and the rest is not shorter: "4217", "0042-17",
    "MRN 4217", "H1-4217" and "4217/1" are taken for one.
    """

    def __init__(self, ids: Iterable[str] = ()) -> None:
        self._whole: dict[str, set[tuple[str, str]]] = defaultdict(set)
        self._without_part: dict[str, set[tuple[str, str]]] = defaultdict(set)
        listed = set(ids)
        for one in listed:
            (letters, rest), *others = _spellings(one)
            self._whole[rest].add((letters, one))
            for letters, rest in others:
                self._without_part[rest].add((letters, one))
        self.listed = len(listed)

    def matches(self, other: str | None) -> set[str]:
        """Those of the list that are another spelling of this ID."""
        if not other:
            return set()
        whole, *others = _spellings(other)
        found = {one for spelling in (whole, *others) for one in _meeting(spelling, self._whole)}
        return found | set(_meeting(whole, self._without_part))

    def has(self, other: str | None) -> bool:
        """Whether this is one of them."""
        return bool(self.matches(other))


def _meeting(spelling: _Spelling, among: Mapping[str, set[tuple[str, str]]]) -> Iterator[str]:
    letters, rest = spelling
    for others, one in among.get(rest, ()):
        if letters == others or (rest and not (letters and others)):
            yield one


def _spellings(value: str) -> list[_Spelling]:
    """An ID as a whole, then without its first and without its last part."""
    parts = _PARTS.findall("".join(str(unicodedata.decimal(c, c)) for c in _first_component(value).upper()))
    letters, rest = _letters_and_rest("".join(parts))
    found = [(letters, rest)]
    for less, part in ((parts[1:], parts[:1]), (parts[:-1], parts[-1:])):
        kept = "".join(less)
        number = _letters_and_rest(kept)[1]
        if number and len(kept) >= len("".join(part)):
            found.append((letters, number))
    return found


def _letters_and_rest(kept: str) -> _Spelling:
    letters = "".join(takewhile(str.isalpha, kept))
    rest = kept[len(letters) :]
    return letters, rest.lstrip("0") or rest[:1]


class AccessionNumbers:
    """Accession numbers, known again in the spellings that reports are joined by."""

    def __init__(self, numbers: Iterable[str] = ()) -> None:
        self._by_core: dict[str, list[str]] = defaultdict(list)
        for one in map(_first_component, numbers):
            self._by_core[core(one)].append(one)

    def has(self, other: str | None) -> bool:
        """Whether this is one of them."""
        if not other:
            return False
        own = _first_component(other)
        return any(is_respelled(own, listed) for listed in self._by_core.get(core(own), ()))


@dataclass(frozen=True, slots=True)
class Forgotten:
    """What was taken out for an opt-out list. In memory only: a run needs it to know the reports of these patients.

    ``found`` counts the IDs of the list that a header of the export has.
    """

    opt_out: OptOut = field(default_factory=OptOut)
    patient_keys: frozenset[str] = frozenset()
    study_instance_uids: frozenset[str] = frozenset()
    accession_numbers: AccessionNumbers = field(default_factory=AccessionNumbers)
    found: int = 0


def forget(
    connection: sqlite3.Connection, opt_out: OptOut, elsewhere: Iterable[tuple[str, str, str]] = ()
) -> Forgotten:
    """Delete every object of every study in which any header names a patient of the list, and what is drawn on them.

    The files of such a patient are read again by the next run, and forgotten again. ``elsewhere`` are Study Instance
    UID, accession number and Patient ID of their studies that were never read.
    """
    elsewhere = list(elsewhere)
    uids, numbers = {uid for uid, _, _ in elsewhere}, [number for _, number, _ in elsewhere if number]
    found = {one for _, _, patient_id in elsewhere for one in opt_out.matches(patient_id)}
    listed = []
    named = connection.execute("SELECT id, patient_id FROM study_headers WHERE patient_id IS NOT NULL").fetchall()
    for i, patient_id in named:
        if matching := opt_out.matches(patient_id):
            listed.append((i,))
            found |= matching
    if not listed:
        return Forgotten(opt_out, frozenset(), frozenset(uids), AccessionNumbers(numbers), len(found))
    connection.execute("BEGIN")
    connection.execute("CREATE TEMP TABLE forgotten (study TEXT PRIMARY KEY)")
    connection.executemany("INSERT OR IGNORE INTO forgotten SELECT study FROM objects WHERE study_header = ?", listed)
    headers = connection.execute(
        "SELECT DISTINCT o.study, h.content FROM objects o JOIN study_headers h ON h.id = o.study_header "
        "WHERE o.study IN (SELECT study FROM forgotten)"
    ).fetchall()
    _delete_drawings(connection)
    of_theirs = "SELECT id FROM objects WHERE study IN (SELECT study FROM forgotten)"
    connection.execute(f"DELETE FROM files WHERE id IN ({of_theirs})")  # noqa: S608 - ours
    connection.execute("DROP TABLE forgotten")
    connection.execute("COMMIT")
    studies = frozenset(study for study, _ in headers)
    known = [store.study_header_from(content) for _, content in headers]
    return Forgotten(
        opt_out,
        frozenset([h.patient_id for h in known if h.patient_id] + [f"study:{uid}" for uid in studies]),
        studies | uids,
        AccessionNumbers([*numbers, *(h.accession_number for h in known if h.accession_number)]),
        len(found),
    )


def _delete_drawings(connection: sqlite3.Connection) -> None:
    """Delete what names images of the forgotten studies, whosever it says it is."""
    connection.execute(
        "DELETE FROM files WHERE refs IS NOT NULL AND EXISTS (SELECT 1 FROM json_each(files.refs) r "
        "JOIN objects o ON o.sop = r.value WHERE o.study IN (SELECT study FROM forgotten))"
    )


def drop_unused(connection: sqlite3.Connection) -> None:
    """Delete what no file has any more, and note that it is still to be taken out of the index file, too."""
    connection.execute("BEGIN")
    connection.execute("DELETE FROM frames WHERE file NOT IN (SELECT id FROM files)")
    if sum(connection.execute(unused).rowcount for unused in (_UNUSED_SHARED, _UNUSED_HEADERS)):
        store.note_remains(connection)
    connection.execute("COMMIT")


def without_remains(connection: sqlite3.Connection, path: Path | None) -> None:
    """Leave nothing in the file at ``path`` of those who are no longer in the export.

    SQLite only marks deleted rows as free, so the file is written anew where something went for good. SQLite's own
    VACUUM would do it in a temporary file outside the private folder. The clean copy is written back into the file
    itself, under the lock of ``connection``: whoever waits for that never gets hold of another file.
    """
    if path is None or not store.has_remains(connection):
        return
    fresh = path.with_name(f".tmp-{path.name}")
    fresh.unlink(missing_ok=True)
    fresh.touch(mode=0o600)
    connection.execute("VACUUM INTO ?", (str(fresh),))
    with closing(sqlite3.connect(fresh, isolation_level=None)) as clean:
        store.note_remains(clean, there=False)
        clean.backup(connection)
    fresh.unlink()


def _first_component(value: str) -> str:
    """Without what HL7 puts behind an id ("4217^^^HOSPITAL"), and without odd forms of letters and digits."""
    return unicodedata.normalize("NFKC", value).partition("^")[0]
