"""Brings the rows of an index up to date with an export, and decides which of its objects count."""

from __future__ import annotations

import os
import sqlite3
from collections import Counter
from collections.abc import Callable
from pathlib import Path
from typing import TYPE_CHECKING

from cohort_builder.errors import PacsError
from cohort_builder.pacs import store
from cohort_builder.pacs.instances import PRESENTATION_STATE, STRUCTURED_REPORT, HeaderError
from cohort_builder.pacs.sources import Entry, Passed

if TYPE_CHECKING:
    from cohort_builder.pacs.instances import Header
    from cohort_builder.pacs.sources import Source

_BATCH = 5000
# What two copies of one object must agree in, beside their signature. Pixels differ in length between syntaxes only.
_DIFFERING = " || ' ' || ".join(f"COALESCE({c}, '')" for c in ("x", "y", "z", "rescale_slope", "rescale_intercept"))
_SYNTAX = "json_extract(s.content, '$.transfer_syntax_uid')"


def update(
    connection: sqlite3.Connection, source: Source, own: Path | None, progress: Callable[[int], None]
) -> Counter[str]:
    """Read what is new or changed, take out what vanished; returns how much was passed over, by reason.

    ``own`` is the index file, which may lie in the export. What is written survives a kill from batch to batch.
    """
    store.set_meta(connection, complete="0")
    (last,) = connection.execute("SELECT COALESCE(MAX(id), 0) FROM files").fetchone()
    connection.execute("CREATE TEMP TABLE seen (id INTEGER PRIMARY KEY)")
    writer = store.Writer(connection)
    passed: Counter[str] = Counter()
    pending = 0
    connection.execute("BEGIN")
    for entry in source.entries():
        if isinstance(entry, Passed):
            passed[entry.reason] += 1
            continue
        if own is not None and _is_own(source, entry, own):
            continue
        if not (last and _is_known(connection, entry)):
            writer.put(entry.name, entry.size, entry.changed, _read(source, entry))
            pending += 1
        progress(1)
        if pending >= _BATCH:
            writer.flush()
            connection.execute("COMMIT")
            connection.execute("BEGIN")
            pending = 0
    writer.flush()
    connection.execute("DELETE FROM files WHERE id <= ? AND id NOT IN (SELECT id FROM seen)", (last,))
    connection.execute("COMMIT")
    connection.execute("DROP TABLE seen")
    return passed


def _is_own(source: Source, entry: Entry, own: Path) -> bool:
    if os.fsencode(own.name) not in entry.name:
        return False
    path = source.place(entry.name)[0]
    return path.parent == own.parent and path.name.startswith(own.name)


def _is_known(connection: sqlite3.Connection, entry: Entry) -> bool:
    """Whether its row is as good as reading it again; what was broken is tried again."""
    row = connection.execute("SELECT id, kind, size, changed FROM files WHERE name = ?", (entry.name,)).fetchone()
    if row is None:
        return False
    connection.execute("INSERT OR IGNORE INTO seen VALUES (?)", row[:1])
    if row[1] != store.BROKEN and row[2:] == (entry.size, entry.changed):
        return True
    connection.execute("DELETE FROM frames WHERE file = ?", row[:1])
    return False


def _read(source: Source, entry: Entry) -> Header | HeaderError | None:
    try:
        return source.read(entry)
    except HeaderError as error:
        return error


def require_dicom(connection: sqlite3.Connection, links: int) -> None:
    """Raise PacsError if nothing in the export is a DICOM object that can be read."""
    if connection.execute("SELECT 1 FROM files WHERE sop IS NOT NULL LIMIT 1").fetchone() is None:
        files, broken = connection.execute("SELECT COUNT(*), COUNT(reason) FROM files").fetchone()
        raise PacsError(
            f"pacs_export holds no readable DICOM file ({files} other files, {broken} of them broken; {links} links, "
            "which are not followed); give the folder that holds the exported series and presentation states"
        )


def settle(connection: sqlite3.Connection) -> None:
    """Decide what of the files counts, and which study a drawing belongs to.

    Of one object exported twice the first counts, of two that contradict none. A presentation state or structured
    report belongs to the study that most of the objects lie in of which it speaks, or to its own.
    """
    connection.execute("BEGIN")
    connection.execute("DELETE FROM conflicts")
    connection.execute("UPDATE files SET kept = 1 WHERE sop IS NOT NULL AND NOT kept")
    connection.execute(
        "CREATE TEMP TABLE repeated AS SELECT sop, MIN(name) AS first FROM files WHERE sop IS NOT NULL "
        "GROUP BY sop HAVING COUNT(*) > 1"
    )
    connection.execute(
        "INSERT INTO conflicts SELECT 'conflicting_uid', f.sop FROM repeated r JOIN files f ON f.sop = r.sop "  # noqa: S608
        f"JOIN shared s ON s.id = f.shared GROUP BY f.sop HAVING COUNT(DISTINCT s.signature || {_DIFFERING}) > 1 "
        f"OR COUNT(DISTINCT {_SYNTAX} || ' ' || pixel_length) > COUNT(DISTINCT {_SYNTAX})"
    )
    connection.execute("UPDATE files SET kept = 0 FROM repeated r WHERE files.sop = r.sop AND files.name > r.first")
    connection.execute("UPDATE files SET kept = 0 WHERE sop IN (SELECT uid FROM conflicts)")
    connection.execute("DROP TABLE repeated")
    connection.execute(
        "INSERT INTO conflicts SELECT 'conflicting_patient_ids', s.study FROM shared s JOIN study_headers h "
        "ON h.id = s.study_header WHERE h.patient_id IS NOT NULL GROUP BY s.study "
        "HAVING COUNT(DISTINCT h.patient_id) > 1"
    )
    connection.execute("UPDATE files SET home = NULL WHERE home IS NOT NULL")
    connection.execute(
        "UPDATE files SET home = COALESCE("
        "(SELECT s.study FROM json_each(files.refs) r JOIN files i ON i.sop = r.value AND i.kept "
        "JOIN shared s ON s.id = i.shared GROUP BY s.study ORDER BY COUNT(*) DESC, s.study LIMIT 1), "
        "(SELECT s.study FROM shared s WHERE s.id = files.shared)) "
        "WHERE kind IN (?, ?) AND kept",
        (PRESENTATION_STATE, STRUCTURED_REPORT),
    )
    connection.execute("COMMIT")
