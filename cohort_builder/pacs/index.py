"""An index of a PACS export: which studies, CT series and presentation states it holds, in one SQLite file.

Headers are read once; pixels never. A second run over the same export reads only what is new or changed. The file is
private: it holds patients' identifiers.
"""

from __future__ import annotations

import sqlite3
from collections import Counter, defaultdict
from collections.abc import Callable
from dataclasses import dataclass, replace
from datetime import date
from functools import cached_property
from hashlib import blake2b
from pathlib import Path
from typing import TYPE_CHECKING

from cohort_builder.errors import PacsError
from cohort_builder.pacs import store
from cohort_builder.pacs.elements import is_uid
from cohort_builder.pacs.headers import CT, PRESENTATION_STATE, HeaderError, Instance
from cohort_builder.pacs.sources import Entry, Passed
from cohort_builder.pacs.sources.folder import Folder
from cohort_builder.types import Skip

if TYPE_CHECKING:
    from cohort_builder.pacs.headers import StudyHeader
    from cohort_builder.pacs.sources import Source

__all__ = ["Index", "Instance", "Study", "index_export", "open_index"]

_BATCH = 500
_CONFLICTS = {
    "conflicting_uid": "two files carry one SOP Instance UID and differ in patient, series or geometry: neither is "
    "used; remove the wrong one from the export",
    "conflicting_patient_ids": "the headers of one study carry several Patient IDs; the most frequent is used, so "
    "check that they are one patient",
}


@dataclass(frozen=True, slots=True)
class Study:
    """One study of the export; private as a whole.

    ``patient_key`` is the Patient ID, or ``study:`` and the Study Instance UID where there is none. ``identifiers`` are
    the strings of all its headers that name a person, a case or a place, for the scrubber.
    """

    study_instance_uid: str
    patient_key: str
    patient_id: str | None
    accession_number: str | None
    study_date: date | None
    patient_sex: str | None
    patient_age: str | None
    identifiers: tuple[str, ...]


def index_export(
    pacs_export: str | Path, index: str | Path | None = None, *, progress: Callable[[int], None] | None = None
) -> Index:
    """Read the headers of every DICOM file under a folder.

    Links are not followed. What is not DICOM is counted; a broken DICOM file is a Skip; neither ends the run.

    Parameters
    ----------
    pacs_export
        A folder, in any tree and with any file names.
    index
        File to keep the index in, and to continue from: only new and changed files (by size and modification time) are
        read, those that vanished are taken out. Killed at any moment, it continues from its last batch. Without it the
        index lives in memory.
    progress
        Called with the number of files gone through since the last call.

    Raises
    ------
    PacsError
        The folder is missing or holds no readable DICOM file, or ``index`` is some other file.

    """
    root = Path(pacs_export)
    if not root.is_dir():
        what = "is a file; give the folder of an export" if root.exists() else "does not exist; check the path"
        raise PacsError(f"pacs_export {what}")
    source = Folder(root)
    path = None if index is None else Path(index).resolve()
    connection = store.create(path, source.name)
    try:
        links = _update(connection, source, path, progress or _ignore)
        _require_dicom(connection, links)
        _settle(connection)
        store.set_meta(connection, links=str(links), complete="1")
    except BaseException:
        connection.close()
        raise
    return Index(connection, path, source)


def open_index(path: str | Path) -> Index:
    """Open for reading an index that ``index_export`` completed.

    Raises
    ------
    PacsError
        It is missing, not complete, of another version, or no index.

    """
    resolved = Path(path).resolve()
    connection = store.open_readonly(resolved)
    return Index(connection, resolved, Folder(Path(store.get_meta(connection, "source"))))


class Index:
    """What an export holds. Made by ``index_export`` or ``open_index``; one in a file pickles by its path."""

    def __init__(self, connection: sqlite3.Connection, path: Path | None, source: Source) -> None:
        self._connection, self.path, self._source = connection, path, source

    def __reduce__(self) -> tuple[Callable[[str], Index], tuple[str]]:
        if self.path is None:
            raise PacsError(
                "an index in memory cannot be sent to another process; give index_export a file to keep it in"
            )
        return open_index, (str(self.path),)

    def close(self) -> None:
        """Close the file."""
        self._connection.close()

    def studies(self) -> list[Study]:
        """Every study, in order of Study Instance UID."""
        return list(self._studies.values())

    def study(self, study_instance_uid: str) -> Study | None:
        """One study, or None."""
        return self._studies.get(study_instance_uid)

    def patient_keys(self) -> list[str]:
        """Every patient, sorted."""
        return sorted(self._by_patient)

    def studies_of(self, patient_key: str) -> list[Study]:
        """Studies of one patient, in order of date and Study Instance UID."""
        return list(self._by_patient.get(patient_key, ()))

    def series_of(self, study_instance_uid: str) -> list[str]:
        """Series Instance UIDs of the CT series of a study, sorted."""
        rows = self._connection.execute(
            "SELECT DISTINCT series FROM files WHERE study = ? AND kind = ? AND kept ORDER BY series",
            (study_instance_uid, CT),
        )
        return [series for (series,) in rows]

    def instances(self, series_instance_uid: str) -> list[Instance]:
        """Images of one series, in order of name; those of a multi-frame object frame by frame."""
        rows = self._connection.execute(
            "SELECT path, instance FROM files WHERE series = ? AND kept ORDER BY path", (series_instance_uid,)
        )
        return [self._instance(name, content) for name, content in rows]

    def instance(self, sop_instance_uid: str, frame_number: int | None = None) -> Instance | None:  # noqa: ARG002 - to come
        """One object by its SOP Instance UID, of whatever modality, or one frame (from 1) of it; None if it is absent.

        Without ``frame_number`` a multi-frame object is given as a whole, with the geometry that all its frames share.
        """
        row = self._connection.execute(
            "SELECT path, instance FROM files WHERE sop = ? AND kept", (sop_instance_uid,)
        ).fetchone()
        return None if row is None else self._instance(*row)

    def annotation_objects(self, study_instance_uid: str) -> list[Instance]:
        """Presentation states and structured reports drawn on images of a study, in order of name.

        An object belongs to the study that most of its referenced images lie in; to its own, if none is in the export.
        """
        rows = self._connection.execute(
            "SELECT path, instance FROM files WHERE home = ? AND kept ORDER BY path", (study_instance_uid,)
        )
        return [self._instance(name, content) for name, content in rows]

    def fingerprint(self, patient_key: str) -> str:
        """Equal as long as no CT image, presentation state or structured report of the patient changed."""
        digest = blake2b(digest_size=16)
        for study in self._by_patient.get(patient_key, ()):
            rows = self._connection.execute(
                "SELECT path, size, mtime_ns FROM files WHERE (home = ?1 OR (study = ?1 AND kind = ?2)) AND kept "
                "ORDER BY path",
                (study.study_instance_uid, CT),
            )
            for row in rows:
                digest.update(repr(row).encode())
        return digest.hexdigest()

    @property
    def skips(self) -> list[Skip]:
        """What could not be used. ``item`` counts files within this index; paths and UIDs stand in ``private``."""
        rows = self._connection.execute(
            "SELECT id, path, reason, detail FROM files WHERE reason IS NOT NULL ORDER BY path"
        )
        skips = [
            Skip("index", f"file/{i}", reason, detail, failure=True, private={"path": self._told(name)})
            for i, name, reason, detail in rows
        ]
        rows = self._connection.execute("SELECT reason, uid FROM conflicts ORDER BY reason, uid")
        return skips + [
            Skip("index", uid, reason, _CONFLICTS[reason], failure=reason == "conflicting_uid", private={"uid": uid})
            for reason, uid in rows
        ]

    @property
    def counts(self) -> dict[str, int]:
        """Files by what they are, and studies and patients."""
        by_kind = dict(self._connection.execute("SELECT kind, COUNT(*) FROM files GROUP BY kind").fetchall())
        one = self._connection.execute(
            "SELECT COUNT(*), COUNT(sop), COALESCE(SUM(sop IS NOT NULL AND NOT kept), 0) FROM files"
        )
        files, dicom, unused = one.fetchone()
        return {
            "files": files,
            "dicom": dicom,
            "ct": by_kind.get(CT, 0),
            "presentation_states": by_kind.get(PRESENTATION_STATE, 0),
            "not_dicom": by_kind.get(store.NOT_DICOM, 0),
            "broken": by_kind.get(store.BROKEN, 0),
            "duplicates": unused,
            "links": int(store.get_meta(self._connection, "links")),
            "studies": len(self._studies),
            "patients": len(self._by_patient),
        }

    def _instance(self, name: bytes, content: str) -> Instance:
        path, member, server = self._source.place(name)
        return replace(store.instance_from(path, content), member=member, server=server)

    def _told(self, name: bytes) -> str:
        path, member, server = self._source.place(name)
        return " ".join(part for part in (server, str(path), member) if part)

    @cached_property
    def _studies(self) -> dict[str, Study]:
        headers: dict[str, list[tuple[int, StudyHeader]]] = defaultdict(list)
        rows = self._connection.execute(
            "SELECT f.study, h.content, SUM(CASE f.kind WHEN ? THEN 1000 ELSE 1 END) FROM files f "
            "JOIN study_headers h ON h.id = f.study_header WHERE f.sop IS NOT NULL GROUP BY f.study, h.id "
            "ORDER BY f.study, h.content",
            (CT,),
        )
        for study, content, weight in rows:
            headers[study].append((weight, store.study_header_from(content)))
        return {study: _study(study, found) for study, found in headers.items()}

    @cached_property
    def _by_patient(self) -> dict[str, list[Study]]:
        found: dict[str, list[Study]] = defaultdict(list)
        for study in self._studies.values():
            found[study.patient_key].append(study)
        for studies in found.values():
            studies.sort(key=lambda s: (s.study_date or date.min, s.study_instance_uid))
        return dict(found)


def _study(uid: str, headers: list[tuple[int, StudyHeader]]) -> Study:
    """One study from its headers with their weights: the heaviest value wins, and a CT weighs more than the rest."""

    def chosen(name: str) -> str | None:
        votes: Counter[str] = Counter()
        for weight, header in headers:
            value = getattr(header, name)
            if value is not None:
                votes[value] += weight
        return min(votes, key=lambda value: (-votes[value], value)) if votes else None

    patient_id = chosen("patient_id")
    return Study(
        study_instance_uid=uid,
        patient_key=patient_id or f"study:{uid}",
        patient_id=patient_id,
        accession_number=chosen("accession_number"),
        study_date=_date(chosen("study_date")),
        patient_sex=chosen("patient_sex"),
        patient_age=chosen("patient_age"),
        identifiers=tuple(sorted({value for _, header in headers for value in header.identifiers})),
    )


def _date(value: str | None) -> date | None:
    digits = (value or "").replace(".", "").replace("-", "")
    try:
        return date(int(digits[:4]), int(digits[4:6]), int(digits[6:8])) if len(digits) == 8 else None
    except ValueError:
        return None


def _ignore(_n: int) -> None:
    """No progress asked for."""


def _update(connection: sqlite3.Connection, source: Source, own: Path | None, progress: Callable[[int], None]) -> int:
    """Bring ``files`` up to date with the export; returns the number of links passed over."""
    rows = connection.execute("SELECT id, path, kind, size, mtime_ns FROM files")
    known = {name: (i, kind, size, mtime) for i, name, kind, size, mtime in rows}
    store.set_meta(connection, complete="0")
    links = pending = 0
    connection.execute("BEGIN")
    for entry in source.entries():
        if isinstance(entry, Passed):
            links += 1
            continue
        if (
            own is not None
            and (path := source.place(entry.name)[0]).parent == own.parent
            and path.name.startswith(own.name)
        ):
            continue
        before = known.pop(entry.name, None)
        if before is None or before[1] == store.BROKEN or before[2:] != (entry.size, entry.changed):
            _index_file(connection, source, entry)
            pending += 1
        progress(1)
        if pending >= _BATCH:
            connection.execute("COMMIT")
            connection.execute("BEGIN")
            pending = 0
    connection.executemany("DELETE FROM files WHERE id = ?", [(i,) for i, *_ in known.values()])
    connection.execute("COMMIT")
    return links


def _index_file(connection: sqlite3.Connection, source: Source, entry: Entry) -> None:
    try:
        header = source.read(entry)
    except HeaderError as error:
        store.put(connection, entry.name, entry.size, entry.changed, error)
    else:
        store.put(connection, entry.name, entry.size, entry.changed, header)


def _require_dicom(connection: sqlite3.Connection, links: int) -> None:
    files, dicom = connection.execute("SELECT COUNT(*), COUNT(sop) FROM files").fetchone()
    if not dicom:
        (broken,) = connection.execute("SELECT COUNT(*) FROM files WHERE reason IS NOT NULL").fetchone()
        raise PacsError(
            f"pacs_export holds no readable DICOM file ({files} other files, {broken} of them broken; {links} links, "
            "which are not followed); give the folder that holds the exported series and presentation states"
        )


def _settle(connection: sqlite3.Connection) -> None:
    """Decide what of the files counts: of one object exported twice the first, of two that contradict none."""
    connection.execute("BEGIN")
    connection.execute("DELETE FROM conflicts")
    connection.execute("UPDATE files SET kept = sop IS NOT NULL, home = NULL")
    repeated = connection.execute(
        "SELECT sop, COUNT(DISTINCT signature) FROM files WHERE sop IS NOT NULL GROUP BY sop HAVING COUNT(*) > 1"
    ).fetchall()
    for sop, versions in repeated:
        if versions > 1:
            connection.execute("UPDATE files SET kept = 0 WHERE sop = ?", (sop,))
            connection.execute("INSERT INTO conflicts VALUES ('conflicting_uid', ?)", (sop,))
        else:
            connection.execute(
                "UPDATE files SET kept = 0 WHERE sop = ?1 AND path > (SELECT MIN(path) FROM files WHERE sop = ?1)",
                (sop,),
            )
    connection.execute(
        "INSERT INTO conflicts SELECT 'conflicting_patient_ids', f.study FROM files f JOIN study_headers h "
        "ON h.id = f.study_header WHERE f.sop IS NOT NULL AND h.patient_id IS NOT NULL "
        "GROUP BY f.study HAVING COUNT(DISTINCT h.patient_id) > 1"
    )
    states = connection.execute(
        "SELECT id, study, refs FROM files WHERE kind = ? AND kept", (PRESENTATION_STATE,)
    ).fetchall()
    for i, study, references in states:
        home = _home(connection, study, [uid for uid in references.split() if is_uid(uid)])
        connection.execute("UPDATE files SET home = ? WHERE id = ?", (home, i))
    connection.execute("COMMIT")


def _home(connection: sqlite3.Connection, own_study: str, references: list[str]) -> str:
    votes: Counter[str] = Counter()
    for sop in references:
        row = connection.execute("SELECT study FROM files WHERE sop = ? AND kept", (sop,)).fetchone()
        if row is not None:
            votes[row[0]] += 1
    return min(votes, key=lambda study: (-votes[study], study)) if votes else own_study
