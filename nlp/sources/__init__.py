"""Where reports come from: one file a kind, and one line here for each.

A new kind of file is a module with a ``KIND`` (:class:`~nlp.sources.base.FileKind`) that opens to a table, whose
columns :mod:`nlp.sources.columns` then finds, or to a stream of reports; and its entry in ``FILE_KINDS``.
"""

from __future__ import annotations

from nlp.sources import (
    delimited,
    dicom_sr,
    fhir,
    frames,
    hl7,
    json_lines,
    parquet,
    plain_text,
)
from nlp.sources.base import FileKind, ObjectKind, SourceFile
from nlp.types import ReportError

FILE_KINDS: tuple[FileKind, ...] = (
    dicom_sr.KIND,
    parquet.KIND,
    hl7.KIND,
    fhir.KIND,
    json_lines.KIND,
    delimited.KIND,
    plain_text.KIND,
)
"""In the order asked: what is known by its first bytes before what is known by its first line."""

OBJECT_KINDS: tuple[ObjectKind, ...] = (frames.PANDAS, frames.ARROW, frames.DATASETS)


def kind_of(file: SourceFile) -> FileKind:
    """Return the kind of a file, by its content where that is sure, else by its suffix.

    Raises
    ------
    ReportError
        It cannot be read, or is of no kind.
    """
    head = file.head()
    suffix = file.suffix()
    by_suffix = next((kind for kind in FILE_KINDS if suffix in kind.suffixes), None)
    if not head and by_suffix is not None:
        return by_suffix
    by_content = next((kind for kind in FILE_KINDS if kind.recognises(file, head)), None)
    kind = by_content or by_suffix
    if kind is None:
        known = "; ".join(f"{kind.name} ({', '.join(kind.suffixes) or 'JSON'})" for kind in FILE_KINDS)
        raise ReportError(f"{file.name} is of no known kind, by its content or its suffix; known are {known}")
    return kind


def object_kind_of(source: object) -> ObjectKind | None:
    """Return the kind of an object in memory, None for what is none of them."""
    classes = {(cls.__module__.partition(".")[0], cls.__name__) for cls in type(source).__mro__}
    return next((kind for kind in OBJECT_KINDS if any((kind.package, name) in classes for name in kind.classes)), None)
