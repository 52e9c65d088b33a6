"""The reports of one run in one SQLite file: read once as a stream, joined row by row, read again patient by patient.

A table of reports may be larger than the memory and larger than the export: a row that joins no study leaves nothing
but its Skip, one that does is written down at once, and a worker reads the reports of the patient at hand. The file is
made anew in every run under a temporary name (mode 0600: it holds the text) and renamed when it is whole, so that what
a killed run leaves is never taken for reports. It holds the skips of the reports, too: they may be as many as the rows.
"""

from __future__ import annotations

import hashlib
import json
import os
import sqlite3
import tempfile
from collections import Counter
from collections.abc import Iterable, Iterator
from contextlib import contextmanager
from dataclasses import fields
from datetime import date, datetime
from pathlib import Path
from typing import TYPE_CHECKING, Any

from cohort_builder.errors import SetupError
from cohort_builder.private_rows import private_skip
from cohort_builder.scope.joining import ReportJoin, Scope, StudyIndex, partly_absent, selected
from cohort_builder.scope.languages import UNKNOWN, language_code
from cohort_builder.scope.versions import Fate, Standing, Version, settle, standing_of
from cohort_builder.types import Skip
from nlp.types import Report

if TYPE_CHECKING:
    from cohort_builder.cases.sieve import Sieve
    from cohort_builder.pacs.forgetting import Forgotten
    from cohort_builder.privacy.pseudonyms import Pseudonyms

_APPLICATION_ID = 0x434F4852
_TEMPORARY = ".tmp-reports-"
_PAGE = 1000  # versions looked up at a time
_OF_REPORT, _OF_SCOPE = ([field.name for field in fields(kind)] for kind in (Report, Scope))
_SCHEMA = f"""
PRAGMA page_size = 16384;  -- several reports a page
PRAGMA application_id = {_APPLICATION_ID};
PRAGMA journal_mode = OFF;  -- made anew in every run: there is nothing to roll back to
PRAGMA synchronous = OFF;
CREATE TABLE reports (
    position INTEGER PRIMARY KEY,
    report_id BLOB NOT NULL,
    patient BLOB,  -- patient key of the joined study; of a version without one, the patient it names
    content TEXT,  -- JSON of Report and Scope; NULL for a version that is not used
    digest TEXT,  -- of content
    partly_absent INTEGER NOT NULL DEFAULT 0,
    version BLOB, standing TEXT, issued_at TEXT, studies TEXT  -- of reports with a version_key
);
CREATE INDEX reports_patient ON reports (patient, digest) WHERE content IS NOT NULL;
CREATE INDEX reports_version ON reports (version, patient) WHERE version IS NOT NULL;
CREATE INDEX reports_partly ON reports (position) WHERE partly_absent;
CREATE TABLE skips (stage TEXT NOT NULL, reason TEXT NOT NULL, item TEXT NOT NULL, content TEXT NOT NULL);
CREATE INDEX skips_order ON skips (stage, reason, item);
BEGIN;
"""  # indexes first: made later, they would be sorted in a temporary file outside the private folder

_DETAILS = {
    Fate.SUPERSEDED: "a later version of this report is in the table and counts instead",
    Fate.WITHDRAWN: "the report was cancelled or entered in error, and no version of it is used",
    Fate.CONFLICTING: (
        "versions of one report (the same version_key) name different patients, so none of them is used; correct the "
        "patient of the wrong ones, or the column that version_key is read from"
    ),
}
_OTHER_LANGUAGE = (
    "the extractor does not read the language {}, only {}; correct the language of the report, or give an extractor "
    "that reads it"
)


class ReportStore:
    """The reports of a run and what became of each. ``create`` it, ``add`` reports, ``finish`` it; workers ``open`` it.

    ``read`` counts the reports that came, ``failed`` the rows that are broken, ``not_selected`` the reports of studies
    that the selection leaves out, ``forgotten`` those of patients on the opt-out list (of which nothing is written
    down), ``refused`` how often each sentence of a Skip was given to a report.
    """

    def __init__(self, connection: sqlite3.Connection, path: Path | None, pseudonyms: Pseudonyms | None) -> None:
        self._connection, self._path, self._pseudonyms = connection, path, pseudonyms
        self.read = self.failed = self.not_selected = self.forgotten = 0
        self.refused: Counter[str] = Counter()

    @classmethod
    def create(cls, folder: Path | None, pseudonyms: Pseudonyms) -> ReportStore:
        """Return an empty store in a temporary file of ``folder``, or in memory.

        What a killed run left half written there is removed: only one run at a time may use a folder.

        Raises
        ------
        SetupError
            The file cannot be written.
        """
        with _told():
            path = None
            if folder is not None:
                for leftover in folder.glob(f"{_TEMPORARY}*"):
                    leftover.unlink()
                descriptor, name = tempfile.mkstemp(prefix=_TEMPORARY, dir=folder)  # mode 0600
                os.close(descriptor)
                path = Path(name)
            connection = sqlite3.connect(":memory:" if path is None else path, isolation_level=None)
            connection.executescript(_SCHEMA)
        return cls(connection, path, pseudonyms)

    @classmethod
    def open(cls, path: Path) -> ReportStore:
        """Open a finished store for reading.

        Raises
        ------
        SetupError
            It is not there, or is no such store.
        """
        if not path.is_file():
            raise SetupError("the store of the reports is not there; run the build again: it makes it from the table")
        with _told():
            # As the index: an engine may ask for its jobs in a thread of its own.
            connection = sqlite3.connect(
                f"{path.resolve().as_uri()}?mode=ro", uri=True, isolation_level=None, check_same_thread=False
            )
            (application,) = connection.execute("PRAGMA application_id").fetchone()
        if application != _APPLICATION_ID:
            connection.close()
            raise SetupError("the store of the reports is another program's file; delete it and run the build again")
        return cls(connection, path, None)

    # ---- writing ---------------------------------------------------------------------------------------------------

    def add(
        self,
        reports: Iterable[Report],
        index: StudyIndex,
        languages: frozenset[str] | None = None,
        sieve: Sieve | None = None,
    ) -> Iterator[None]:
        """Join each report as it comes, and write down what is used; yields after each, for whoever counts.

        Parameters
        ----------
        reports
            A stream; one report is held at a time.
        languages
            ISO 639-1 codes of what the extractor reads; None for any. A report whose language is not known is read.
        sieve
            What the selection leaves out of ``index``, which holds all studies but those of the opt-out list.

        Raises
        ------
        SetupError
            The file cannot be written (a full disk).
        nlp.ReportError
            Of the stream.
        """
        join = ReportJoin(index)
        for report in reports:
            self.read += 1
            if sieve is not None and _is_of(report, sieve.forgotten):
                self.forgotten += 1
            else:
                with _told():
                    self._add(report, join, languages, sieve)
            yield

    def add_skip(self, skip: Skip) -> None:
        """Record that a report, or a row that never became one, is not used."""
        if self._pseudonyms is None:
            raise ValueError("a store opened for reading takes no skips")
        self.failed += skip.failure
        row = private_skip(skip, self._pseudonyms)
        with _told():
            self._connection.execute(
                "INSERT INTO skips VALUES (?, ?, ?, ?)",
                (row["stage"], row["reason"], row["item"], json.dumps(row, sort_keys=True)),
            )

    def finish(self, path: Path | None = None) -> None:
        """Let the last version of each report count, and give the file its name."""
        with _told():
            self._settle_versions()
            rows = self._connection.execute("SELECT report_id FROM reports WHERE partly_absent ORDER BY position")
            for (report_id,) in rows:
                self.add_skip(partly_absent(_text(report_id)))
            self._connection.execute("COMMIT")
            if path is not None and self._path is not None:
                self._connection.close()
                self._path = self._path.replace(path)
                self._connection = sqlite3.connect(path, isolation_level=None)

    def close(self) -> None:
        """Close the file, and remove it if it was not finished."""
        self._connection.close()
        if self._path is not None and self._path.name.startswith(_TEMPORARY):
            self._path.unlink(missing_ok=True)

    def _add(self, report: Report, join: ReportJoin, languages: frozenset[str] | None, sieve: Sieve | None) -> None:
        outcome = join.scope(report)
        joined = None if isinstance(outcome, Skip) else outcome
        if sieve is not None and joined is not None:
            outcome = selected(joined, sieve)
            self.not_selected += isinstance(outcome, Skip)
        standing = standing_of(report.status)
        language = language_code(report.language)
        skip = None
        if standing is Standing.WITHDRAWN:
            skip = _gone(report.report_id, Fate.WITHDRAWN)
        elif isinstance(outcome, Skip):
            skip = outcome
        elif languages is not None and language not in {*languages, UNKNOWN}:
            detail = _OTHER_LANGUAGE.format(f"'{language}'", ", ".join(sorted(languages)))
            private = {"report_id": report.report_id}
            skip = Skip("reports", report.report_id, "language_not_supported", detail, private=private)
        if skip is not None:
            self.add_skip(skip)
            self.refused[skip.detail] += 1
            if report.version_key is None:
                return
        scope = None if isinstance(outcome, Skip) else outcome
        row: dict[str, Any] = {
            "position": self.read,
            "report_id": _blob(report.report_id),
            "patient": _blob(joined.patient_key if joined is not None else report.patient_id),
        }
        if skip is None and scope is not None:
            content = _content(report, scope)
            row |= {"content": content, "digest": hashlib.sha256(content.encode()).hexdigest()}
            row["partly_absent"] = join.is_partly_absent(report, scope) or scope.reads != (joined or scope).reads
        if report.version_key is not None:
            named = (*report.accession_numbers, *report.study_instance_uids, *(joined.reads if joined else ()))
            studies = {key.strip() for key in named} - {""}
            row |= {
                "version": _blob(report.version_key),
                "standing": standing.value,
                "issued_at": report.issued_at and report.issued_at.isoformat(),
                "studies": json.dumps(sorted(studies)),
            }
        marks = ", ".join("?" * len(row))
        self._connection.execute(
            f"INSERT INTO reports ({', '.join(row)}) VALUES ({marks})",  # noqa: S608 - names of this function, no input
            tuple(row.values()),
        )

    def _settle_versions(self) -> None:
        page = (
            "SELECT version, COUNT(DISTINCT patient) FROM reports WHERE version > ? "
            "GROUP BY version HAVING COUNT(*) > 1 ORDER BY version LIMIT ?"
        )
        after = b""
        while rows := self._connection.execute(page, (after, _PAGE)).fetchall():
            for version, n_patients in rows:
                if n_patients > 1:
                    self._drop_all(version)
                else:
                    self._settle(version)
            after = rows[-1][0]

    def _settle(self, version: bytes) -> None:
        rows = self._connection.execute(
            "SELECT position, standing, issued_at, studies FROM reports WHERE version = ? ORDER BY position", (version,)
        ).fetchall()
        for position, fate in settle([_version(*row) for row in rows], self._text_at).items():
            (report_id, content) = self._connection.execute(
                "SELECT report_id, content FROM reports WHERE position = ?", (position,)
            ).fetchone()
            if content is not None:  # else its Skip is there already
                self._lose(report_id, fate)
                self._connection.execute("DELETE FROM reports WHERE position = ?", (position,))

    def _drop_all(self, version: bytes) -> None:
        """Use none of the versions; they may be the whole table, if its column was misread."""
        rows = self._connection.execute(
            "SELECT report_id FROM reports WHERE version = ? AND content IS NOT NULL ORDER BY position", (version,)
        )
        for (report_id,) in rows:
            self._lose(report_id, Fate.CONFLICTING)
        self._connection.execute("DELETE FROM reports WHERE version = ?", (version,))

    def _lose(self, report_id: bytes, fate: Fate) -> None:
        self.add_skip(_gone(_text(report_id), fate))
        self.refused[_DETAILS[fate]] += 1

    def _text_at(self, position: int) -> str | None:
        (content,) = self._connection.execute("SELECT content FROM reports WHERE position = ?", (position,)).fetchone()
        return None if content is None else str(json.loads(content)["report"]["text"])

    # ---- reading ---------------------------------------------------------------------------------------------------

    @property
    def used(self) -> int:
        """How many reports are used."""
        (n,) = self._connection.execute("SELECT COUNT(*) FROM reports WHERE content IS NOT NULL").fetchone()
        return int(n)

    def of_patient(self, patient_key: str) -> list[tuple[Report, Scope]]:
        """The reports that speak of a patient, in an order that does not depend on that of the table."""
        return [_pair(content) for (content,) in self._of_patient("content", patient_key)]

    def digests_of(self, patient_key: str) -> list[str]:
        """A hash of each report of a patient with its scope, sorted: what the patient's shard depends on."""
        return [digest for (digest,) in self._of_patient("digest", patient_key)]

    def _of_patient(self, column: str, patient_key: str) -> sqlite3.Cursor:
        return self._connection.execute(
            f"SELECT {column} FROM reports WHERE patient = ? AND content IS NOT NULL ORDER BY digest",  # noqa: S608 - ours
            (_blob(patient_key),),
        )

    def scopes(self) -> Iterator[Scope]:
        """The scope of every report that is used, in the order of the table."""
        rows = self._connection.execute("SELECT content FROM reports WHERE content IS NOT NULL ORDER BY position")
        for (content,) in rows:
            yield _pair(content)[1]

    def skips(self) -> Iterator[dict[str, Any]]:
        """The private rows of all skips, in the order in which they are published: stage, reason, keyed item."""
        for (content,) in self._connection.execute("SELECT content FROM skips ORDER BY stage, reason, item, rowid"):
            yield json.loads(content)


def _is_of(report: Report, forgotten: Forgotten) -> bool:
    """Whether a report is of a forgotten patient, by any of its keys in any spelling."""
    if forgotten.opt_out.has(report.patient_id) or any(map(forgotten.accession_numbers.has, report.accession_numbers)):
        return True
    return not forgotten.study_instance_uids.isdisjoint(uid.strip(" \0") for uid in report.study_instance_uids)


def _gone(report_id: str, fate: Fate) -> Skip:
    return Skip("reports", report_id, fate.value, _DETAILS[fate], private={"report_id": report_id})


def _version(position: int, standing: str, issued_at: str | None, studies: str) -> Version:
    time = None if issued_at is None else datetime.fromisoformat(issued_at)
    return Version(position, Standing(standing), time, frozenset(json.loads(studies)))


def _content(report: Report, scope: Scope) -> str:
    values = {
        "report": {name: getattr(report, name) for name in _OF_REPORT},
        "scope": {name: getattr(scope, name) for name in _OF_SCOPE},
    }
    return json.dumps(values, sort_keys=True, default=_iso)


def _pair(content: str) -> tuple[Report, Scope]:
    """The Report and Scope that ``_content`` wrote."""
    values = json.loads(content)
    report, scope = ({name: _tuples(value) for name, value in values[kind].items()} for kind in ("report", "scope"))
    if report["study_date"] is not None:
        report["study_date"] = date.fromisoformat(report["study_date"])
    if report["issued_at"] is not None:
        report["issued_at"] = datetime.fromisoformat(report["issued_at"])
    return Report(**report), Scope(**scope)


def _tuples(value: Any) -> Any:
    """JSON's lists as the tuples that they were."""
    return tuple(map(_tuples, value)) if isinstance(value, list) else value


def _iso(value: object) -> str:
    if isinstance(value, date):  # a datetime is one
        return value.isoformat()
    raise TypeError(f"a report holds a {type(value).__name__}, which cannot be stored")


def _blob(text: str | None) -> bytes | None:
    """A key as bytes: DICOM text may decode to lone surrogates, which SQLite's text cannot hold."""
    return None if text is None else text.encode("utf-8", "surrogatepass")


def _text(blob: bytes) -> str:
    return blob.decode("utf-8", "surrogatepass")


@contextmanager
def _told() -> Iterator[None]:
    """Turn the errors of SQLite and of the file system into one that says what to do, and quotes no path."""
    try:
        yield
    except (sqlite3.Error, OSError) as error:
        what = error if isinstance(error, sqlite3.Error) else type(error).__name__
        raise SetupError(
            f"the store of the reports cannot be used ({what}); see that private/ in the output folder can be written "
            "to and that the disk has room, and run the build again"
        ) from error
