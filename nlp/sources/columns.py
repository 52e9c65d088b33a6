"""Which columns of a table are what: by their usual names, or as the caller says."""

from __future__ import annotations

import re
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass

from nlp.sources.base import Columns
from nlp.sources.column_names import FIELDS, SECTIONS, fields_of, is_identifying, plain, section_of
from nlp.sources.headings import ORDER
from nlp.types import ReportError

_SHOWN = re.compile(r"[a-z][a-z_.-]{0,24}", re.IGNORECASE)  # a name of this form quotes nobody
_LISTS = {"report_id", "text", "accession_number", "study_instance_uid", "identifiers", *SECTIONS}
_GIVEN = {*FIELDS, *SECTIONS, "identifiers"}
_VERSIONING = {"version", "status", "issued_at"}


@dataclass(frozen=True, slots=True)
class ColumnMap:
    """The columns of a table by what they hold.

    ``parts`` are (heading, column) of the text in their order; a heading is "" where the column is the text itself.
    ``extra`` are parts that are only used where the text does not hold them already (a separate impression).
    """

    fields: Mapping[str, tuple[str, ...]]
    parts: tuple[tuple[str, str], ...]
    extra: tuple[tuple[str, str], ...]
    identifying: tuple[str, ...]
    language: str

    @property
    def versioned(self) -> bool:
        """Whether several rows of one id can be versions of one report."""
        return not _VERSIONING.isdisjoint(self.fields)

    @property
    def columns(self) -> tuple[str, ...]:
        """Every column that is read."""
        named = [column for columns in self.fields.values() for column in columns]
        return tuple(dict.fromkeys([*named, *(c for _, c in (*self.parts, *self.extra)), *self.identifying]))

    def has_text(self) -> bool:
        """Whether there is something to read: a text, or the path of one."""
        return bool(self.parts) or "path" in self.fields


def check_given(columns: Columns) -> None:
    """Refuse fields that do not exist, or several columns for what takes one.

    Raises
    ------
    ReportError
        With what is allowed.
    """
    for field, given in columns.items():
        if field not in _GIVEN:
            raise ReportError(f"columns= has no field {field!r}; allowed are {sorted(_GIVEN)}")
        if given is not None and not isinstance(given, str) and field not in _LISTS:
            raise ReportError(f"columns= takes one column for {field!r}; several are allowed for {sorted(_LISTS)}")


def map_columns(name: str, columns: Sequence[str], given: Columns) -> ColumnMap:
    """Find what each column of the table ``name`` holds.

    Raises
    ------
    ReportError
        A given column is not there, or two columns of equally good names would hold the same.
    """
    chosen: dict[str, tuple[str, ...]] = {}
    for field, wanted in given.items():
        wished = () if wanted is None else (wanted,) if isinstance(wanted, str) else tuple(wanted)
        chosen[field] = tuple(_present(name, columns, column) for column in wished)
    claimed = {column for found in chosen.values() for column in found}
    free = [column for column in columns if column not in claimed]
    fields = {**_found(name, free, given), **{field: found for field, found in chosen.items() if field in FIELDS}}
    if "report_id" not in fields:  # a column that was given for a key may serve as id, too
        also = _found(name, columns, {**given, "text": None}) if "report_id" not in given else {}
        fields["report_id"] = also.get("report_id", chosen.get("accession_number", ())[:1])
    fields = {field: found for field, found in fields.items() if found}
    sections = _sections(name, free, chosen, whole=bool(fields.get("text")))
    text = fields.pop("text", ())
    parts: tuple[tuple[str, str], ...]
    extra: tuple[tuple[str, str], ...] = ()
    if len(text) == 1:
        parts = (("", text[0]),)
        extra = tuple((s, c) for s, c in sections if s in {"findings", "impression", "addendum"})
    elif text:
        parts = tuple((_heading(column), column) for column in text)
    else:
        parts = sections
    if len(parts) == 1 and parts[0][0] == "findings":  # often the whole report, in one column
        parts = (("", parts[0][1]),)
    used = {column for found in fields.values() for column in found} | {c for _, c in (*parts, *extra)}
    return ColumnMap(
        fields=fields,
        parts=parts,
        extra=extra,
        identifying=(*chosen.get("identifiers", ()), *(c for c in free if c not in used and _identifies(c))),
        language=_language(parts),
    )


def missing(found: ColumnMap) -> list[str]:
    """Return the needed fields that a table lacks."""
    lacking = {
        "report_id": "report_id" not in found.fields and "path" not in found.fields,
        "text": not found.has_text(),
    }
    return [field for field, lacks in lacking.items() if lacks]


def require_columns(name: str, columns: Sequence[str], found: ColumnMap) -> None:
    """Refuse a table that cannot give reports.

    Raises
    ------
    ReportError
        With the columns that it has, where they can be shown.
    """
    lacking = missing(found)
    if not lacking:
        return
    has = _described(columns)
    raise ReportError(
        f"{name} lacks {' and '.join(repr(field) for field in lacking)}; it has {has}; needed are ['report_id', "
        "'text'] (or findings and impression), and accession_number, study_instance_uid or patient_id with study_date "
        "to join a report to its study; name columns of other names with columns={'text': ...}"
    )


def _found(name: str, columns: Iterable[str], given: Columns) -> dict[str, tuple[str, ...]]:
    """Find the columns of each field that was not given, by their names."""
    best: dict[str, dict[int, list[str]]] = {}
    for column in columns:
        for field, rank in fields_of(column):
            if field not in given:
                best.setdefault(field, {}).setdefault(rank, []).append(column)
    found: dict[str, tuple[str, ...]] = {}
    for field, ranks in best.items():
        several = ranks[min(ranks)]
        if len(several) > 1 and field not in {"version", "issued_at", "path"}:
            raise _ambiguous(name, field, several)
        found[field] = (several[0],)
    return found


def _sections(
    name: str, free: Iterable[str], chosen: Mapping[str, tuple[str, ...]], *, whole: bool
) -> tuple[tuple[str, str], ...]:
    """The (section, column) pairs of a table, in the order in which sections are put together."""
    best: dict[str, dict[int, list[str]]] = {}
    for column in free:
        named = section_of(column)
        if named is not None and named[0] not in chosen:
            best.setdefault(named[0], {}).setdefault(named[1], []).append(column)
    sections = {section: list(columns) for section, columns in chosen.items() if section in SECTIONS}
    for section, ranks in best.items():
        several = ranks[min(ranks)]
        if len(several) > 1 and not whole:
            raise _ambiguous(name, section, several)
        sections[section] = several
    return tuple((section, column) for section in ORDER for column in sections.get(section, ()))


def _ambiguous(name: str, field: str, columns: Sequence[str]) -> ReportError:
    both = " and ".join(repr(column) for column in columns)
    return ReportError(
        f"{name} has two columns for {field!r}: {both}; say which is meant with columns={{{field!r}: {columns[0]!r}}}"
    )


def _present(name: str, columns: Sequence[str], wanted: str) -> str:
    """The column that the caller names: as written, else without regard to case and punctuation."""
    if wanted in columns:
        return wanted
    similar = [column for column in columns if plain(column) == plain(wanted)]
    if len(similar) != 1:
        raise ReportError(f"{name} has no column {wanted!r}; it has {_described(columns)}")
    return similar[0]


def _described(columns: Sequence[str]) -> str:
    """The columns as far as they can be shown: where not one is known, they may be the first patient's own line."""
    if not any(fields_of(column) or section_of(column) for column in columns):
        return "no line with column names at its top that are known"
    return f"{len(columns)} columns, such as {[column for column in columns if _SHOWN.fullmatch(column)]}"


def _heading(column: str) -> str:
    """The heading of a column that is a part of the text: its section, else its own name."""
    section = section_of(column)
    return section[0] if section is not None else column


def _identifies(column: str) -> bool:
    # A key that another column was preferred to is a number of the patient or the case all the same.
    keys = {"patient_id", "accession_number"}
    return is_identifying(column) or any(field in keys for field, _ in fields_of(column))


def _language(parts: Iterable[tuple[str, str]]) -> str:
    """The language that all columns of the text name ("Findings_EN"); "" where they name none, or several."""
    named = {section[2] if section is not None else "" for section in (section_of(column) for _, column in parts)}
    return named.pop() if len(named) == 1 else ""
