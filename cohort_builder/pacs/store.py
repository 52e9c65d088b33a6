"""The SQLite file behind ``cohort_builder.pacs.index.Index``: its schema, and rows to and from dataclasses."""

from __future__ import annotations

import json
import sqlite3
from dataclasses import fields
from pathlib import Path
from typing import Any

from cohort_builder.errors import PacsError
from cohort_builder.pacs.headers import Header, HeaderError, Instance, StudyHeader

NOT_DICOM, BROKEN = "not_dicom", "broken"

_APPLICATION_ID = 0x434F4849
_SCHEMA_VERSION = 3
_SCHEMA = """
CREATE TABLE meta (name TEXT PRIMARY KEY, value TEXT NOT NULL);
CREATE TABLE study_headers (id INTEGER PRIMARY KEY, content TEXT NOT NULL UNIQUE, patient_id TEXT);
CREATE TABLE files (
    id INTEGER PRIMARY KEY,
    path BLOB NOT NULL UNIQUE,  -- below the root, as the file system spells it
    size INTEGER NOT NULL,
    mtime_ns INTEGER NOT NULL,
    kind TEXT NOT NULL,
    reason TEXT, detail TEXT,  -- why it is broken
    sop TEXT, series TEXT, study TEXT,
    study_header INTEGER REFERENCES study_headers (id),
    instance TEXT,  -- JSON of the rest of Instance
    signature TEXT,  -- equal for two copies of one object
    refs TEXT,  -- images that a presentation state applies to, space separated
    kept INTEGER NOT NULL DEFAULT 0,  -- neither a copy nor in conflict
    home TEXT  -- study that a presentation state is drawn on
);
CREATE INDEX files_sop ON files (sop);
CREATE INDEX files_series ON files (series);
CREATE INDEX files_study ON files (study);
CREATE INDEX files_home ON files (home);
CREATE TABLE conflicts (reason TEXT NOT NULL, uid TEXT NOT NULL);
"""
_TABLES = ("conflicts", "files", "study_headers", "meta")
_IN_COLUMNS = ("path", "sop_instance_uid", "series_instance_uid", "study_instance_uid")
_SIGNED = (
    "sop_class_uid", "modality", "rows", "columns", "image_position", "image_orientation", "pixel_spacing",
    "frame_of_reference_uid", "number_of_frames", "series_instance_uid", "study_instance_uid",
)  # fmt: skip


def create(path: Path | None, source: str) -> sqlite3.Connection:
    """Open the index of an export for writing, empty unless it was made of the same ``source``.

    Raises
    ------
    PacsError
        ``path`` is a file that is no index, or cannot be written.

    """
    try:
        if path is not None and not path.exists():
            path.touch(mode=0o600)  # it names patients
        connection = sqlite3.connect(":memory:" if path is None else path, isolation_level=None)
        _require_ours(connection)
        if _version(connection) != _SCHEMA_VERSION or get_meta(connection, "source") != source:
            _make_empty(connection, source)
    except (sqlite3.Error, OSError) as error:
        what = error if isinstance(error, sqlite3.Error) else type(error).__name__
        raise PacsError(
            f"the index file cannot be used ({what}); delete it or give another path: it is made again from the export"
        ) from error
    return connection


def open_readonly(path: Path) -> sqlite3.Connection:
    """Open a complete index.

    Raises
    ------
    PacsError
        It is missing, incomplete, of another version, or no index.

    """
    advice = "call index_export on the export to make it again"
    if not path.is_file():
        raise PacsError(f"there is no index at this path; {advice}")
    try:
        # An engine may ask for its jobs, which are read from here, in a thread of its own: one thread at a time.
        connection = sqlite3.connect(
            f"{path.as_uri()}?mode=ro", uri=True, isolation_level=None, check_same_thread=False
        )
        _require_ours(connection)
        usable = _version(connection) == _SCHEMA_VERSION and get_meta(connection, "complete") == "1"
    except sqlite3.Error as error:
        raise PacsError(f"the index file cannot be read ({error}); {advice}") from error
    if not usable:
        connection.close()
        raise PacsError(f"the index is not complete or was made by another version; {advice}")
    return connection


def get_meta(connection: sqlite3.Connection, name: str) -> str:
    """One fact about the index as a whole; empty if not recorded."""
    row = connection.execute("SELECT value FROM meta WHERE name = ?", (name,)).fetchone()
    return "" if row is None else str(row[0])


def set_meta(connection: sqlite3.Connection, **facts: str) -> None:
    """Record facts about the index as a whole."""
    connection.executemany("INSERT OR REPLACE INTO meta VALUES (?, ?)", facts.items())


def put(
    connection: sqlite3.Connection, name: bytes, size: int, mtime_ns: int, found: Header | HeaderError | None
) -> None:
    """Store one file: its header, why it is broken, or (None) that it is not DICOM."""
    row: dict[str, Any] = {"path": name, "size": size, "mtime_ns": mtime_ns, "kind": NOT_DICOM}
    if isinstance(found, HeaderError):
        row |= {"kind": BROKEN, "reason": found.reason, "detail": found.detail}
    elif found is not None:
        instance = found.instance
        row |= {
            "kind": found.kind,
            "sop": instance.sop_instance_uid,
            "series": instance.series_instance_uid,
            "study": instance.study_instance_uid,
            "study_header": _study_header_id(connection, found.study),
            "instance": json.dumps(
                {f.name: getattr(instance, f.name) for f in fields(instance) if f.name not in _IN_COLUMNS}
                | {n: getattr(instance, n) for n in _IN_COLUMNS[1:]}
            ),
            "signature": json.dumps([getattr(instance, n) for n in _SIGNED] + [found.study.patient_id]),
            "refs": " ".join(found.references),
        }
    columns = ", ".join(row)
    marks = ", ".join("?" * len(row))
    connection.execute(
        f"INSERT OR REPLACE INTO files ({columns}) VALUES ({marks})",  # noqa: S608 - names of this function, no input
        tuple(row.values()),
    )


def instance_from(path: Path, content: str) -> Instance:
    """The Instance that ``put`` stored."""
    values: dict[str, Any] = json.loads(content)
    values = {name: tuple(value) if isinstance(value, list) else value for name, value in values.items()}
    return Instance(path=path, **values)


def study_header_from(content: str) -> StudyHeader:
    """The StudyHeader that ``put`` stored."""
    values = json.loads(content)
    return StudyHeader(**(values | {"identifiers": tuple(values["identifiers"])}))


def _study_header_id(connection: sqlite3.Connection, header: StudyHeader) -> int:
    """One row for all files that say the same, as those of a series do."""
    content = json.dumps({f.name: getattr(header, f.name) for f in fields(header)})
    connection.execute(
        "INSERT OR IGNORE INTO study_headers (content, patient_id) VALUES (?, ?)", (content, header.patient_id)
    )
    (i,) = connection.execute("SELECT id FROM study_headers WHERE content = ?", (content,)).fetchone()
    return int(i)


def _require_ours(connection: sqlite3.Connection) -> None:
    (application,) = connection.execute("PRAGMA application_id").fetchone()
    (tables,) = connection.execute("SELECT COUNT(*) FROM sqlite_master").fetchone()
    if tables and application != _APPLICATION_ID:
        raise PacsError("the index file is another program's database; give another path")


def _version(connection: sqlite3.Connection) -> int:
    (tables,) = connection.execute("SELECT COUNT(*) FROM sqlite_master WHERE name = 'meta'").fetchone()
    (version,) = connection.execute("PRAGMA user_version").fetchone()
    return int(version) if tables else 0


def _make_empty(connection: sqlite3.Connection, source: str) -> None:
    connection.execute(f"PRAGMA application_id = {_APPLICATION_ID}")
    drop = "".join(f"DROP TABLE IF EXISTS {table};" for table in _TABLES)
    connection.executescript(f"BEGIN; {drop} {_SCHEMA} PRAGMA user_version = {_SCHEMA_VERSION}; COMMIT;")
    set_meta(connection, source=source)
