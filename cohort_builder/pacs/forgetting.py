"""Taking patients out of an index without a trace: those on an opt-out list, and what vanished from the export."""

from __future__ import annotations

import json
import sqlite3
import unicodedata
from collections import defaultdict
from collections.abc import Iterable
from dataclasses import dataclass, field
from pathlib import Path

from cohort_builder.pacs import store
from cohort_builder.scope.accession import core, is_respelled

_UNUSED_SHARED = (
    "DELETE FROM shared WHERE id NOT IN (SELECT shared FROM files WHERE shared IS NOT NULL) "
    "AND id NOT IN (SELECT shared FROM frames)"
)
_UNUSED_HEADERS = "DELETE FROM study_headers WHERE id NOT IN (SELECT study_header FROM shared)"


class Spellings:
    """Ids, in whatever spelling: without regard to case, separators, zeros in front, and letters that one of two has.

    For privacy: rather one too many. "0042-17", "4217" and "MRN 4217" are taken for one.
    """

    def __init__(self, ids: Iterable[str] = ()) -> None:
        self._by_core: dict[str, list[str]] = defaultdict(list)
        for one in map(_first_component, ids):
            self._by_core[core(one)].append(one)

    def has(self, other: str | None) -> bool:
        """Whether this is one of them."""
        if not other:
            return False
        own = _first_component(other)
        return any(is_respelled(own, listed) for listed in self._by_core.get(core(own), ()))


@dataclass(frozen=True, slots=True)
class Forgotten:
    """What was taken out for an opt-out list. In memory only: a run needs it to know the reports of these patients."""

    opt_out: Spellings = field(default_factory=Spellings)
    patient_keys: frozenset[str] = frozenset()
    study_instance_uids: frozenset[str] = frozenset()
    accession_numbers: Spellings = field(default_factory=Spellings)


def forget(connection: sqlite3.Connection, opt_out: Spellings, elsewhere: Iterable[tuple[str, str]] = ()) -> Forgotten:
    """Delete every object of every study in which any header names a patient of the list, and what is drawn on them.

    The files of such a patient are read again by the next run, and forgotten again. ``elsewhere`` are the UIDs and
    accession numbers of their studies that were never read.
    """
    uids, numbers = {uid for uid, _ in elsewhere}, [number for _, number in elsewhere if number]
    named = connection.execute("SELECT id, patient_id FROM study_headers WHERE patient_id IS NOT NULL").fetchall()
    listed = [(i,) for i, patient_id in named if opt_out.has(patient_id)]
    if not listed:
        return Forgotten(opt_out, frozenset(), frozenset(uids), Spellings(numbers))
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
        Spellings([*numbers, *(h.accession_number for h in known if h.accession_number)]),
    )


def _delete_drawings(connection: sqlite3.Connection) -> None:
    """Delete what names images of the forgotten studies, whosever it says it is."""
    images = "SELECT sop FROM objects WHERE study IN (SELECT study FROM forgotten)"
    gone = {sop for (sop,) in connection.execute(images)}
    rows = connection.execute("SELECT id, refs FROM files WHERE refs IS NOT NULL").fetchall()
    drawn = [(i,) for i, references in rows if not gone.isdisjoint(json.loads(references))]
    connection.executemany("DELETE FROM files WHERE id = ?", drawn)


def without_remains(connection: sqlite3.Connection, path: Path | None) -> sqlite3.Connection:
    """Leave nothing in the file of those who are no longer in the export; returns the connection to go on with.

    SQLite only marks deleted rows as free, so the file is written anew where a patient or study went: a header that no
    object has any more tells. SQLite's own VACUUM would do it in a temporary file outside the private folder.
    """
    connection.execute("BEGIN")
    connection.execute("DELETE FROM frames WHERE file NOT IN (SELECT id FROM files)")
    gone = sum(connection.execute(unused).rowcount for unused in (_UNUSED_SHARED, _UNUSED_HEADERS))
    if gone:
        store.set_meta(connection, remains="1")  # until they are gone from the file, too
    connection.execute("COMMIT")
    if path is None or store.get_meta(connection, "remains") != "1":
        return connection
    fresh = path.with_name(f".tmp-{path.name}")
    fresh.unlink(missing_ok=True)
    fresh.touch(mode=0o600)
    connection.execute("VACUUM INTO ?", (str(fresh),))
    connection.close()
    connection = sqlite3.connect(fresh, isolation_level=None)
    store.set_meta(connection, remains="0")
    connection.close()
    fresh.replace(path)
    return sqlite3.connect(path, isolation_level=None)


def _first_component(value: str) -> str:
    """Without what HL7 puts behind an id ("4217^^^HOSPITAL"), and without odd forms of letters and digits."""
    return unicodedata.normalize("NFKC", value).partition("^")[0]
