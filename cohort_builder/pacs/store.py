"""The SQLite file behind ``cohort_builder.pacs.index.Index``: its schema, and rows to and from dataclasses.

What the images of a series have in common is stored once (``shared``), what tells one from another in columns
(``files``, and ``frames`` of multi-frame objects). ``objects`` joins both.
"""

from __future__ import annotations

import json
import sqlite3
from collections.abc import Callable, Iterable
from dataclasses import fields
from operator import attrgetter
from pathlib import Path
from typing import Any

from cohort_builder.errors import PacsError
from cohort_builder.pacs.instances import Header, HeaderError, Instance, StudyHeader

NOT_DICOM, BROKEN = "not_dicom", "broken"

_APPLICATION_ID = 0x434F4849
_SCHEMA_VERSION = 5
_CACHE_KB = 32_768
_WAIT_SECONDS = 1.0
_MOST_REMEMBERED = 4096
_OWN = (
    "instance_number", "acquisition_number", "acquisition_time", "content_time", "temporal_position", "rescale_slope",
    "rescale_intercept", "pixel_offset", "pixel_length",
)  # fmt: skip
_POSITION = ("x", "y", "z")
_OWN_COLUMNS = (*_OWN, *_POSITION)
_PLACE = ("path", "member", "server", "stamp")
_SHARED = tuple(
    f.name
    for f in fields(Instance)
    if f.name not in {*_OWN, *_PLACE, "sop_instance_uid", "image_position", "frame_number"}
)
_SIGNED = (
    "sop_class_uid", "modality", "rows", "columns", "image_orientation", "pixel_spacing", "frame_of_reference_uid",
    "number_of_frames", "series_instance_uid", "study_instance_uid", "bits_stored", "pixel_representation",
    "pixel_padding_value", "pixel_padding_range_limit", "lossy",
)  # fmt: skip
_OWN_SCHEMA = """
    instance_number INTEGER, acquisition_number INTEGER, acquisition_time TEXT, content_time TEXT,
    temporal_position INTEGER, rescale_slope REAL, rescale_intercept REAL, pixel_offset INTEGER, pixel_length INTEGER,
    x REAL, y REAL, z REAL  -- Image Position
"""
_SCHEMA = f"""
CREATE TABLE meta (name TEXT PRIMARY KEY, value TEXT NOT NULL);
CREATE TABLE study_headers (id INTEGER PRIMARY KEY, content TEXT NOT NULL UNIQUE, patient_id TEXT);
CREATE TABLE shared (
    id INTEGER PRIMARY KEY,
    study_header INTEGER NOT NULL REFERENCES study_headers (id),
    study TEXT NOT NULL, series TEXT NOT NULL, kind TEXT NOT NULL,
    content TEXT NOT NULL,  -- JSON of the part of Instance
    signature TEXT NOT NULL,  -- with the position equal for two copies of one object
    UNIQUE (content, study_header)
);
CREATE INDEX shared_series ON shared (series);
CREATE INDEX shared_study ON shared (study);
CREATE TABLE files (
    id INTEGER PRIMARY KEY,
    name BLOB NOT NULL UNIQUE,  -- what the source calls it
    size INTEGER NOT NULL,
    changed INTEGER NOT NULL,
    kind TEXT NOT NULL,
    kept INTEGER NOT NULL,  -- an object, and neither a copy nor in conflict
    reason TEXT, detail TEXT,  -- why it is broken
    sop TEXT,
    shared INTEGER REFERENCES shared (id),
    refs TEXT,  -- JSON: objects that a presentation state or structured report speaks of
    home TEXT,  -- study that it is drawn on
    {_OWN_SCHEMA}
);
CREATE INDEX files_sop ON files (sop) WHERE sop IS NOT NULL;
CREATE INDEX files_shared ON files (shared, kept) WHERE shared IS NOT NULL;
CREATE INDEX files_kind ON files (kind);
CREATE INDEX files_unused ON files (id) WHERE sop IS NOT NULL AND NOT kept;
CREATE INDEX files_broken ON files (name) WHERE reason IS NOT NULL;
CREATE INDEX files_refs ON files (id) WHERE refs IS NOT NULL;
CREATE INDEX files_home ON files (home) WHERE home IS NOT NULL;
CREATE TABLE frames (
    file INTEGER NOT NULL REFERENCES files (id), number INTEGER NOT NULL, shared INTEGER NOT NULL,
    {_OWN_SCHEMA},
    PRIMARY KEY (file, number)
) WITHOUT ROWID;
CREATE VIEW objects AS SELECT f.*, s.study, s.series, s.study_header FROM files f JOIN shared s ON s.id = f.shared;
CREATE TABLE conflicts (reason TEXT NOT NULL, uid TEXT NOT NULL);
"""  # noqa: S608 - no input
_ROW_COLUMNS = ("name", "size", "changed", "kind", "kept", "reason", "detail", "sop", "shared", "refs", *_OWN_COLUMNS)
_PUT_FILE = (
    f"INSERT INTO files ({', '.join(_ROW_COLUMNS)}) VALUES ({', '.join('?' * len(_ROW_COLUMNS))}) "  # noqa: S608
    f"ON CONFLICT (name) DO UPDATE SET home = NULL, {', '.join(f'{c} = excluded.{c}' for c in _ROW_COLUMNS[1:])}"
)
_PUT_FRAME = f"INSERT OR REPLACE INTO frames VALUES (?, ?, ?, {', '.join('?' * len(_OWN_COLUMNS))})"  # noqa: S608
_NO_OBJECT = (None,) * (len(_ROW_COLUMNS) - 7)

_own_of: Callable[[Instance], tuple[Any, ...]] = attrgetter(*_OWN)
_shared_of: Callable[[Instance], tuple[Any, ...]] = attrgetter(*_SHARED)
_signed_of: Callable[[Instance], tuple[Any, ...]] = attrgetter(*_SIGNED)

_SELECT = (
    "SELECT f.name, f.size, f.changed, f.sop, s.content, {number}, {own} FROM {table} "
    "JOIN shared s ON s.id = {t}.shared"
)
FILES = _SELECT.format(number="NULL", own=", ".join(f"f.{c}" for c in _OWN_COLUMNS), table="files f", t="f")
FRAMES = _SELECT.format(
    number="t.number", own=", ".join(f"t.{c}" for c in _OWN_COLUMNS),
    table="frames t JOIN files f ON f.id = t.file", t="t",
)  # fmt: skip


def create(path: Path | None, source: str) -> sqlite3.Connection:
    """Open the index of an export for writing, empty unless it was made of the same ``source``.

    Nobody else can read or write it until ``release``, or until this process ends, however it ends.

    Raises
    ------
    PacsError
        ``path`` is a file that is no index, cannot be written, or is being written by another process.

    """
    try:
        if path is not None and not path.exists():
            if not path.parent.is_dir():
                raise PacsError("the folder of the index file does not exist; make it, or give another path")
            path.touch(mode=0o600)  # it names patients
        connection = sqlite3.connect(":memory:" if path is None else path, isolation_level=None, timeout=0)
        try:
            _claim(connection, source)
        except BaseException:
            connection.close()
            raise
    except (sqlite3.Error, OSError) as error:
        if _is_busy(error):
            raise PacsError(
                "the index file is in use by another process; wait until it is done, or give another path"
            ) from error
        what = error if isinstance(error, sqlite3.Error) else type(error).__name__
        raise PacsError(
            f"the index file cannot be used ({what}); delete it or give another path: it is made again from the export"
        ) from error
    return connection


def _claim(connection: sqlite3.Connection, source: str) -> None:
    _require_ours(connection)
    connection.execute("PRAGMA locking_mode = EXCLUSIVE")
    connection.execute("BEGIN EXCLUSIVE")
    connection.execute("COMMIT")
    connection.execute(f"PRAGMA cache_size = -{_CACHE_KB}")
    connection.execute("PRAGMA secure_delete = ON")  # otherwise it depends on how SQLite was compiled
    if _version(connection) != _SCHEMA_VERSION or get_meta(connection, "source") != source:
        _make_empty(connection, source)


def _is_busy(error: Exception) -> bool:
    return getattr(error, "sqlite_errorname", "").startswith("SQLITE_BUSY")


def release(connection: sqlite3.Connection) -> None:
    """Let others read the index."""
    connection.execute("PRAGMA locking_mode = NORMAL")
    get_meta(connection, "complete")  # the lock goes with the next statement


def open_readonly(path: Path) -> sqlite3.Connection:
    """Open a complete index.

    Raises
    ------
    PacsError
        It is missing, incomplete, being written, of another version, or no index.

    """
    advice = "call index_export on the export to make it again"
    if not path.is_file():
        raise PacsError(f"there is no index at this path; {advice}")
    try:
        # An engine may ask for its jobs, which are read from here, in a thread of its own: one thread at a time.
        connection = sqlite3.connect(
            f"{path.as_uri()}?mode=ro", uri=True, isolation_level=None, check_same_thread=False, timeout=_WAIT_SECONDS
        )
        _require_ours(connection)
        usable = _version(connection) == _SCHEMA_VERSION and get_meta(connection, "complete") == "1"
    except sqlite3.Error as error:
        if _is_busy(error):
            raise PacsError("the index file is being written by another process; wait until it is done") from error
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


def note_remains(connection: sqlite3.Connection, *, there: bool = True) -> None:
    """Note whether the file may still hold what was deleted."""
    set_meta(connection, remains=str(int(there)))


def has_remains(connection: sqlite3.Connection) -> bool:
    """Whether the file may still hold what was deleted."""
    return get_meta(connection, "remains") == "1"


class Writer:
    """Puts files into an index, in batches; ``flush`` after the last."""

    def __init__(self, connection: sqlite3.Connection) -> None:
        self._connection = connection
        self._rows: list[tuple[Any, ...]] = []
        self._shared: dict[tuple[Any, ...], int] = {}
        self._last: tuple[StudyHeader | None, tuple[Any, ...], int] = (None, (), 0)

    def put(self, name: bytes, size: int, changed: int, found: Header | HeaderError | None) -> None:
        """Store one file: its header, why it is broken, or (None) that it is not DICOM."""
        if found is None:
            self._rows.append((name, size, changed, NOT_DICOM, 0, None, None, *_NO_OBJECT))
        elif isinstance(found, HeaderError):
            self._rows.append((name, size, changed, BROKEN, 0, found.reason, found.detail, *_NO_OBJECT))
        else:
            refs = json.dumps(found.references) if found.references else None
            instance, shared = found.instance, self._shared_id(found, found.instance)
            own = (found.kind, 1, None, None, instance.sop_instance_uid, shared, refs, *_own_row(instance))
            self._rows.append((name, size, changed, *own))
            if found.frames:
                self._put_frames(name, found)

    def flush(self) -> None:
        """Write what was put."""
        self._connection.executemany(_PUT_FILE, self._rows)
        self._rows.clear()

    def _put_frames(self, name: bytes, found: Header) -> None:
        self.flush()
        (file,) = self._connection.execute("SELECT id FROM files WHERE name = ?", (name,)).fetchone()
        rows = ((file, frame.frame_number, self._shared_id(found, frame), *_own_row(frame)) for frame in found.frames)
        self._connection.executemany(_PUT_FRAME, rows)

    def _shared_id(self, found: Header, instance: Instance) -> int:
        """One row for all images that say the same, as those of a series do."""
        values = _shared_of(instance)
        if self._last[0] is found.study and self._last[1] == values:  # cheaper than their hash
            return self._last[2]
        key = (found.study, *values)
        if key not in self._shared:
            if len(self._shared) >= _MOST_REMEMBERED:
                self._shared.clear()
            self._shared[key] = self._put_shared(found, instance, values)
        self._last = (found.study, values, self._shared[key])
        return self._shared[key]

    def _put_shared(self, found: Header, instance: Instance, values: tuple[Any, ...]) -> int:
        study_header = _id_of(
            self._connection,
            "study_headers",
            {"content": json.dumps({f.name: getattr(found.study, f.name) for f in fields(found.study)})},
            {"patient_id": found.study.patient_id},
        )
        return _id_of(
            self._connection,
            "shared",
            {"content": json.dumps(dict(zip(_SHARED, values, strict=True))), "study_header": study_header},
            {
                "study": instance.study_instance_uid,
                "series": instance.series_instance_uid,
                "kind": found.kind,
                "signature": json.dumps([*_signed_of(instance), found.study.patient_id]),
            },
        )


def _own_row(instance: Instance) -> tuple[Any, ...]:
    return _own_of(instance) + (instance.image_position or (None, None, None))


def _id_of(connection: sqlite3.Connection, table: str, key: dict[str, Any], rest: dict[str, Any]) -> int:
    """Id of a row, which is made if it is not there."""
    row = key | rest
    where = " AND ".join(f"{column} = ?" for column in key)
    columns, marks = ", ".join(row), ", ".join("?" * len(row))
    # Names of this module, no input.
    connection.execute(f"INSERT OR IGNORE INTO {table} ({columns}) VALUES ({marks})", tuple(row.values()))  # noqa: S608
    (i,) = connection.execute(f"SELECT id FROM {table} WHERE {where}", tuple(key.values())).fetchone()  # noqa: S608
    return int(i)


def instances_from(
    rows: Iterable[tuple[Any, ...]], place: Callable[[bytes], tuple[Path, str, str]]
) -> list[tuple[bytes, Instance]]:
    """Name and Instance of rows of ``FILES`` or ``FRAMES``."""
    parsed: dict[str, dict[str, Any]] = {}
    found = []
    for name, size, changed, sop, content, number, *own in rows:
        shared = parsed.get(content)
        if shared is None:
            shared = parsed[content] = {
                key: tuple(value) if isinstance(value, list) else value for key, value in json.loads(content).items()
            }
        path, member, server = place(name)
        position = tuple(own[len(_OWN) :])
        instance = Instance(
            path,
            sop,
            **shared,
            **dict(zip(_OWN, own, strict=False)),
            image_position=None if position[0] is None else position,
            frame_number=number,
            member=member,
            server=server,
            stamp=None if member or server else (size, changed),  # the name of a member holds its checksum
        )
        found.append((name, instance))
    return found


def column_of(attribute: str) -> str:
    """SQL of an attribute of Instance, of the tables ``f`` (files) and ``s`` (shared).

    Raises
    ------
    ValueError
        It is none, or one that no two images share.

    """
    if attribute == "kind":
        return "s.kind"
    if attribute in _SHARED:
        return f"json_extract(s.content, '$.{attribute}')"
    if attribute in _OWN:
        return f"f.{attribute}"
    allowed = ", ".join(sorted({"kind", *_SHARED, *_OWN}))
    raise ValueError(f"objects are counted by attributes of Instance ({allowed}), got {attribute!r}")


def study_header_from(content: str) -> StudyHeader:
    """The StudyHeader that was put."""
    values = json.loads(content)
    return StudyHeader(**(values | {"identifiers": tuple(values["identifiers"])}))


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
    old = connection.execute("SELECT type, name FROM sqlite_master WHERE type IN ('table', 'view')").fetchall()
    drop = "".join(f"DROP {kind} {name};" for kind, name in old)
    connection.executescript(f"BEGIN; {drop} {_SCHEMA} PRAGMA user_version = {_SCHEMA_VERSION}; COMMIT;")
    set_meta(connection, source=source)
    if old:
        note_remains(connection)
