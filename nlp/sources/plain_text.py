"""Texts, one file a report, as a table of one row: ``report_id`` (the file's stem), ``text`` and ``folder``.

It is a table, so that ``columns=`` can say what else stem and folder are: an accession number, a patient.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from pathlib import Path

from nlp.sources.base import FileKind, Row, SourceFile, Table, decoded
from nlp.types import ReportError


def _recognises(file: SourceFile, head: bytes) -> bool:  # noqa: ARG001 - anything may be a text
    return False


def _open(file: SourceFile) -> Table:
    def rows(wanted: Sequence[str]) -> Iterator[Row | ReportError]:  # noqa: ARG001
        try:
            file.text_encoding(file.head())  # refuses what is not text
            text = decoded(file.content(), None, file.encoding)
        except ReportError as error:
            yield error
            return
        stem = Path(file.path.name.removesuffix(".gz")).stem
        yield {"report_id": stem, "text": text, "folder": file.path.parent.name}

    return Table(file.name, ("report_id", "text", "folder"), rows, file.path.parent, file.encoding)


KIND = FileKind("plain text", (".txt",), _recognises, _open)
