"""An index of a PACS export: which studies, CT series and presentation states it holds, in one SQLite file.

Headers are read once; pixels never. A second run over the same export reads only what is new or changed. The file is
private: it holds patients' identifiers.
"""

from __future__ import annotations

import json
import sqlite3
from collections import Counter, defaultdict
from collections.abc import Callable
from dataclasses import dataclass
from datetime import date
from functools import cached_property
from hashlib import blake2b
from pathlib import Path
from typing import TYPE_CHECKING

from cohort_builder.errors import PacsError
from cohort_builder.pacs import store
from cohort_builder.pacs.forgetting import Forgotten, OptOut, drop_unused, forget, without_remains
from cohort_builder.pacs.instances import CT, PRESENTATION_STATE, STRUCTURED_REPORT, Instance
from cohort_builder.pacs.sources import open_source, reopen
from cohort_builder.pacs.updating import require_dicom, settle, update
from cohort_builder.types import Skip

if TYPE_CHECKING:
    from cohort_builder.cases.selection import Selection
    from cohort_builder.pacs.instances import StudyHeader
    from cohort_builder.pacs.sources import Source

__all__ = ["Index", "Instance", "Study", "index_export", "open_index"]

_CONFLICTS = {
    "conflicting_uid": "two files carry one SOP Instance UID and differ in patient, series, geometry or pixels: "
    "neither is used; remove the wrong one from the export",
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
    pacs_export: str | Path,
    index: str | Path | None = None,
    *,
    progress: Callable[[int], None] | None = None,
    select: Selection | None = None,
) -> Index:
    """Read the headers of every DICOM object of an export.

    Links are not followed. What is not DICOM is counted; a broken DICOM file is a Skip; neither ends the run.

    Parameters
    ----------
    pacs_export
        A folder, in any tree and with any file names; a zip; a DICOMDIR; or the address of a server, as text:
        ``dicomweb+https://host/path``, ``dimse://AET@host:port`` (docs/pacs.md).
    index
        File to keep the index in, and to continue from: only new and changed files (by size and modification time) are
        read, those that vanished are taken out. Killed at any moment, it continues from its last batch. Without it the
        index lives in memory.
    progress
        Called with the number of files gone through since the last call.
    select
        Its opt-out list: the index keeps nothing of these patients. A server is asked only for its dates and accession
        numbers.

    Raises
    ------
    PacsError
        The export is missing, cannot be read or holds no readable DICOM file, or ``index`` is some other file.

    """
    path = None if index is None else Path(index).resolve()
    source = open_source(pacs_export, keep=_keep(path), select=select)
    connection = store.create(path, source.name)
    try:
        if not store.get_meta(connection, "complete"):  # it is new: copies of before may be older than the server's
            source.keep_only(())
        passed = update(connection, source, path, progress or _ignore)
        links = passed.pop("link", 0)
        require_dicom(connection, links)
        forgotten = forget(connection, OptOut(() if select is None else select.opted_out), source.opted_out)
        drop_unused(connection)
        settle(connection)
        store.set_meta(connection, links=str(links), passed=json.dumps(passed), complete="1")
        without_remains(connection, path)
        source.keep_only(name for (name,) in connection.execute("SELECT name FROM files"))
        store.release(connection)
    except BaseException:
        connection.close()
        source.close()
        raise
    return Index(connection, path, source, forgotten)


def open_index(path: str | Path) -> Index:
    """Open for reading an index that ``index_export`` completed.

    Raises
    ------
    PacsError
        It is missing, not complete, of another version, or no index.

    """
    resolved = Path(path).resolve()
    connection = store.open_readonly(resolved)
    return Index(connection, resolved, reopen(store.get_meta(connection, "source"), _keep(resolved)))


def _keep(index: Path | None) -> Path | None:
    """Where objects of a server are kept: beside the index."""
    return None if index is None else index.parent / "pacs"


class Index:
    """What an export holds. Made by ``index_export`` or ``open_index``; one in a file pickles by its path."""

    def __init__(
        self, connection: sqlite3.Connection, path: Path | None, source: Source, forgotten: Forgotten | None = None
    ) -> None:
        self._connection, self.path, self._source = connection, path, source
        self.forgotten = forgotten or Forgotten()

    def __reduce__(self) -> tuple[Callable[[str], Index], tuple[str]]:
        if self.path is None:
            raise PacsError(
                "an index in memory cannot be sent to another process; give index_export a file to keep it in"
            )
        return open_index, (str(self.path),)

    def close(self) -> None:
        """Close the file, and connections to a server."""
        self._connection.close()
        self._source.close()

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
            "SELECT DISTINCT series FROM shared s WHERE study = ? AND kind = ? "
            "AND EXISTS (SELECT 1 FROM files f WHERE f.shared = s.id AND f.kept) ORDER BY series",
            (study_instance_uid, CT),
        )
        return [series for (series,) in rows]

    def instances(self, series_instance_uid: str) -> list[Instance]:
        """Images of one series, in order of name; those of a multi-frame object frame by frame."""
        of_series = "WHERE f.kept AND f.shared IN (SELECT id FROM shared WHERE series = ?)"
        frames: dict[bytes, list[Instance]] = defaultdict(list)
        for name, frame in self._select(store.FRAMES, f"{of_series} ORDER BY f.name, t.number", series_instance_uid):
            frames[name].append(frame)
        whole = self._select(store.FILES, f"{of_series} ORDER BY f.name", series_instance_uid)
        return [image for name, instance in whole for image in frames.get(name, (instance,))]

    def instance(self, sop_instance_uid: str, frame_number: int | None = None) -> Instance | None:
        """One object by its SOP Instance UID, of whatever modality, or one frame (from 1) of it; None if it is absent.

        Without ``frame_number`` a multi-frame object is given as a whole, with the geometry that all its frames share.
        A single-frame image is its own first frame.
        """
        for _, instance in self._select(store.FILES, "WHERE f.sop = ? AND f.kept", sop_instance_uid):
            if frame_number is None or (frame_number == 1 and instance.number_of_frames == 1):
                return instance
        where = "WHERE f.sop = ? AND f.kept AND t.number = ?"
        return next((i for _, i in self._select(store.FRAMES, where, sop_instance_uid, frame_number)), None)

    def annotation_objects(self, study_instance_uid: str) -> list[Instance]:
        """Presentation states and structured reports drawn on images of a study, in order of name.

        An object belongs to the study that most of its referenced images lie in; to its own, if none is in the export.
        """
        where = "WHERE f.home = ? AND f.kept ORDER BY f.name"
        return [instance for _, instance in self._select(store.FILES, where, study_instance_uid)]

    def fingerprint(self, patient_key: str) -> str:
        """Equal as long as no CT image, presentation state or structured report of the patient changed."""
        digest = blake2b(digest_size=16)
        for study in self._by_patient.get(patient_key, ()):
            rows = self._connection.execute(
                "SELECT name, size, changed FROM files WHERE kept AND (home = ?1 "
                "OR shared IN (SELECT id FROM shared WHERE study = ?1 AND kind = ?2)) ORDER BY name",
                (study.study_instance_uid, CT),
            )
            for row in rows:
                digest.update(repr(row).encode())
        return digest.hexdigest()

    def tally(self, *names: str) -> dict[tuple[object, ...], int]:
        """Count the objects by attributes of ``Instance``, or by their ``kind`` (``ct``, ``presentation_state`` ...).

        Of an object exported twice the one counts that is used; a multi-frame object counts once. Attributes that the
        images of a series share (manufacturer, model, software, modality, transfer syntax, SOP class ...) cost the same
        however many images there are.

        Raises
        ------
        ValueError
            A name is none of these.

        """
        if not names:
            raise ValueError("tally takes at least one name")
        columns = ", ".join(store.column_of(name) for name in names)
        of_files = any(store.column_of(name).startswith("f.") for name in names)
        source = (
            "files" if of_files else "(SELECT shared, 1 AS kept, COUNT(*) AS n FROM files WHERE kept GROUP BY shared)"
        )
        rows = self._connection.execute(
            f"SELECT {columns}, {'COUNT(*)' if of_files else 'SUM(f.n)'} FROM {source} f "  # noqa: S608 - own names
            f"JOIN shared s ON s.id = f.shared WHERE f.kept GROUP BY {columns}"
        )
        return {tuple(row[:-1]): row[-1] for row in rows}

    @property
    def skips(self) -> list[Skip]:
        """What could not be used. ``item`` counts files within this index; paths and UIDs stand in ``private``."""
        rows = self._connection.execute(
            "SELECT id, name, reason, detail FROM files WHERE reason IS NOT NULL ORDER BY name"
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
        (unused,) = self._connection.execute("SELECT COUNT(*) FROM files WHERE sop IS NOT NULL AND NOT kept").fetchone()
        files = sum(by_kind.values())
        not_dicom, broken = by_kind.get(store.NOT_DICOM, 0), by_kind.get(store.BROKEN, 0)
        return {
            "files": files,
            "dicom": files - not_dicom - broken,
            "ct": by_kind.get(CT, 0),
            "presentation_states": by_kind.get(PRESENTATION_STATE, 0),
            "structured_reports": by_kind.get(STRUCTURED_REPORT, 0),
            "not_dicom": not_dicom,
            "broken": broken,
            "duplicates": unused,
            "links": int(store.get_meta(self._connection, "links")),
            **json.loads(store.get_meta(self._connection, "passed")),  # special_file, other_modality: if any
            "studies": len(self._studies),
            "patients": len(self._by_patient),
        }

    def _select(self, columns: str, where: str, *values: object) -> list[tuple[bytes, Instance]]:
        """Name and Instance of files or of frames."""
        return store.instances_from(self._connection.execute(f"{columns} {where}", values), self._source.place)

    def _told(self, name: bytes) -> str:
        path, member, server = self._source.place(name)
        return " ".join(part for part in (server, str(path), member) if part)

    @cached_property
    def _studies(self) -> dict[str, Study]:
        headers: dict[str, list[tuple[int, StudyHeader]]] = defaultdict(list)
        rows = self._connection.execute(
            "SELECT s.study, h.content, SUM(n.files * CASE s.kind WHEN ? THEN 1000 ELSE 1 END) "
            "FROM (SELECT shared, COUNT(*) AS files FROM files WHERE shared IS NOT NULL GROUP BY shared) n "
            "JOIN shared s ON s.id = n.shared JOIN study_headers h ON h.id = s.study_header "
            "GROUP BY s.study, h.id ORDER BY s.study, h.content",
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
