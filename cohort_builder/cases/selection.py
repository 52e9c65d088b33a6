"""Which cases of an export go into a cohort: one frozen object, readable from TOML and from the command line.

What the criteria do to an export stands in ``cohort_builder.cases.sieve``; docs/selecting.md explains them to users.
"""

from __future__ import annotations

import csv
import io
import re
from collections.abc import Sequence
from dataclasses import dataclass, field, fields, replace
from datetime import date, datetime
from math import inf, isnan
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal, get_args

from cohort_builder.errors import ConfigError
from nlp.sources.column_names import fields_of

if TYPE_CHECKING:
    from cohort_builder.cases.sieve import Sieve
    from cohort_builder.pacs.index import Index

Contrast = Literal["any", "with", "without"]
Sex = Literal["any", "F", "M", "O"]
Listed = str | Path | Sequence[str]
"""The values themselves, or the path of a file of them: one a line, or a table with a column of the usual name."""

_COLUMNS = {"accession_numbers": "accession_number", "exclude_patients": "patient_id"}
_RANGES = ("slice_thickness_mm", "age_years")
_DAYS = ("studies_from", "studies_until")
_NOT_ONE_VALUE = re.compile(r"[\s#|,;]")


@dataclass(frozen=True, slots=True, kw_only=True)
class Selection:
    """Which studies and CT series are used. Every criterion that is set must be met; what is unknown does not meet it.

    Parameters
    ----------
    accession_numbers
        Accession numbers: a list, or the path of a file. Case and spaces do not count, zeros do.
    studies_from, studies_until
        First and last Study Date, both included; a date, or a text as 2015-01-31.
    body_parts
        Body Part Examined: one of these, whole. Case, spaces, "_" and "-" do not count.
    manufacturers
        Manufacturer: it holds one of these as whole words ("siemens" fits "Siemens Healthineers").
    slice_thickness_mm
        Least and greatest Slice Thickness, both included.
    contrast
        "with": a contrast agent is named, or the series description says so. "without": one of them says so. Where
        neither says anything it is unknown.
    age_years
        Least and greatest Patient's Age at the study, both included: whole years as the header has them; of infants,
        months, weeks and days as fractions.
    sex
        Patient's Sex: "F", "M" or "O".
    exclude_patients
        Patient IDs that must not be used (opt-out): a list, or the path of a file outside the output folder. They also
        match without regard to case, separators, zeros in front, letters that only one of the two has in front, and a
        part that only one of the two has in front or behind ("4217", "MRN 0042-17", "H1-4217", "4217/1"): rather one
        patient too many. A study without a Patient ID is left out, too.

    Notes
    -----
    Series criteria (body part, manufacturer, slice thickness, contrast) look at the CT series that annotations lie on;
    every image of it that states a value must meet them, localizers apart. A study without a series left is left out.

    """

    accession_numbers: Listed = field(default=(), repr=False)
    studies_from: date | str | None = None
    studies_until: date | str | None = None
    body_parts: Sequence[str] = ()
    manufacturers: Sequence[str] = ()
    slice_thickness_mm: tuple[float, float] | None = None
    contrast: Contrast = "any"
    age_years: tuple[float, float] | None = None
    sex: Sex = "any"
    exclude_patients: Listed = field(default=(), repr=False)

    def __post_init__(self) -> None:
        set_ = object.__setattr__
        for name in _COLUMNS:
            given = getattr(self, name)
            set_(self, name, given if isinstance(given, str | Path) else _texts(name, given))
        for name in ("body_parts", "manufacturers"):
            set_(self, name, _texts(name, getattr(self, name)))
        for name in _DAYS:
            set_(self, name, _day(name, getattr(self, name)))
        for name in _RANGES:
            set_(self, name, _range(name, getattr(self, name)))
        first, last = self.first_day, self.last_day
        if first is not None and last is not None and first > last:
            raise ConfigError(f"select.studies_from must not be after studies_until, got {first} and {last}")
        for name, allowed in (("contrast", get_args(Contrast)), ("sex", get_args(Sex))):
            if getattr(self, name) not in allowed:
                raise ConfigError(f"select.{name} must be one of {', '.join(allowed)}, got {getattr(self, name)!r}")

    @property
    def first_day(self) -> date | None:
        """``studies_from`` as a date."""
        return self.studies_from if isinstance(self.studies_from, date) else None

    @property
    def last_day(self) -> date | None:
        """``studies_until`` as a date."""
        return self.studies_until if isinstance(self.studies_until, date) else None

    @property
    def wanted_numbers(self) -> tuple[str, ...]:
        """``accession_numbers``, read from their file where one is given."""
        return self._values("accession_numbers")

    @property
    def opted_out(self) -> tuple[str, ...]:
        """``exclude_patients``, read from their file where one is given."""
        return self._values("exclude_patients")

    @property
    def is_set(self) -> bool:
        """Whether there is any criterion."""
        return self != Selection()

    def read(self, *, outside: str | Path | None = None) -> Selection:
        """Put the values in place of the files that hold them.

        Parameters
        ----------
        outside
            The folder that a build writes to: an opt-out list in it would be one more trace of its patients.

        Raises
        ------
        ConfigError
            A file cannot be read, holds nothing, has no column of a usual name, has a line that may be more than one
            value, or lies in ``outside``.

        """
        for name in _COLUMNS if outside is not None else ():
            given = getattr(self, name)
            if isinstance(given, str | Path) and Path(given).resolve().is_relative_to(Path(outside or "").resolve()):
                raise ConfigError(f"the file of select.{name} lies in the folder to build in; keep it elsewhere")
        return replace(self, accession_numbers=self.wanted_numbers, exclude_patients=self.opted_out)

    def sieve(self, index: Index) -> Sieve:
        """Decide for every study and CT series of an index whether it is used, and count what is not by criterion.

        Raises
        ------
        ConfigError
            A list cannot be read, or nothing is left.

        """
        from cohort_builder.cases.sieve import make_sieve

        return make_sieve(self.read(), index)

    def _values(self, name: str) -> tuple[str, ...]:
        given = getattr(self, name)
        return _values_of(name, Path(given), _COLUMNS[name]) if isinstance(given, str | Path) else tuple(given)

    def as_public(self) -> dict[str, Any]:
        """The criteria that are set, for run.json and the card: of lists only their length, of days only their year.

        A day of a study stands in nothing that is published.
        """
        public: dict[str, Any] = {}
        default = Selection()
        for name in (f.name for f in fields(self)):
            value = getattr(self, name)
            if value == getattr(default, name):
                continue
            if name in _COLUMNS:
                value = "a list in a file" if isinstance(value, str | Path) else f"a list of {len(value)}"
            elif name in _DAYS:
                value = value.year
            elif name in _RANGES:
                value = " to ".join("any" if bound == inf else f"{bound:g}" for bound in value)
            public[name] = list(value) if isinstance(value, tuple) else value
        return public


def _texts(name: str, given: object) -> tuple[str, ...]:
    values = tuple(given) if isinstance(given, Sequence) and not isinstance(given, str | bytes) else (None,)
    texts = tuple(value.strip() for value in values if isinstance(value, str))
    if len(texts) < len(values) or "" in texts:  # what was got is not said: it may be somebody's number
        files = ", or the path of a file of them" if name in _COLUMNS else ""
        raise ConfigError(f"select.{name} must be a list of texts that are not empty{files}")
    return texts


def _day(name: str, given: object) -> date | None:
    if given is None or (isinstance(given, date) and not isinstance(given, datetime)):
        return given
    try:
        return date.fromisoformat(given)  # type: ignore[arg-type]
    except (TypeError, ValueError) as error:
        raise ConfigError(f"select.{name} must be a day as 2015-01-31, got {given!r}") from error


def _range(name: str, given: object) -> tuple[float, float] | None:
    if given is None:
        return None
    values = tuple(given) if isinstance(given, list | tuple) else ()
    numbers = [v for v in values if isinstance(v, int | float) and not isinstance(v, bool) and not isnan(v)]
    if len(values) != 2 or len(numbers) != 2 or not 0 <= numbers[0] <= numbers[1] or numbers[0] == inf:
        raise ConfigError(f"select.{name} must be two numbers, the least (0 or more) and the greatest, got {given!r}")
    return float(numbers[0]), float(numbers[1])


def _values_of(name: str, path: Path, column: str) -> tuple[str, ...]:
    """The values in a file: of the column of a table that has one of the usual names, else one a line."""
    numbered = _numbered_values(name, path, column)
    if not numbered:
        raise ConfigError(f"the file of select.{name} holds no {column}; fill it in, or leave {name} out")
    for number, value in numbered:
        if not value:
            raise ConfigError(f"row {number} of the file of select.{name} has no {column}; fill it in, or delete it")
        if _NOT_ONE_VALUE.search(value):
            raise ConfigError(
                f"row {number} of the file of select.{name} holds a space, tab, #, |, comma or semicolon: give one "
                f"{column} a line, without remarks, and without the spaces that belong to it: they do not count"
            )
    return tuple(dict.fromkeys(value for _, value in numbered))


def _numbered_values(name: str, path: Path, column: str) -> list[tuple[int, str]]:
    """Row, counted without empty lines, and value."""
    try:
        raw = path.read_bytes()
        text = raw.decode("utf-16" if raw.startswith((b"\xff\xfe", b"\xfe\xff")) else "utf-8-sig")
    except (OSError, UnicodeDecodeError) as error:
        # Its name may be anything; whoever gave it knows which it is.
        if isinstance(error, UnicodeDecodeError):
            raise ConfigError(f"the file of select.{name} is no text in UTF-8 or UTF-16; save it as UTF-8") from error
        problem = f"cannot be read ({type(error).__name__}); correct its path"
        raise ConfigError(f"the file of select.{name} {problem}") from error
    lines = [line for line in text.splitlines() if line.strip()]
    delimiter = next((mark for mark in "\t;," if lines and mark in lines[0]), None)
    if delimiter is None:
        start = 1 if lines and _rank(lines[0], column) is not None else 0
        return [(i, line.strip(' \t"')) for i, line in enumerate(lines[start:], start + 1)]
    try:
        header, *rows = csv.reader(io.StringIO(text.lstrip(), newline=""), delimiter=delimiter, strict=True)
    except csv.Error as error:
        raise ConfigError(f"the file of select.{name} is no table that can be read ({error})") from error
    ranks = {i: rank for i, cell in enumerate(header) if (rank := _rank(cell, column)) is not None}
    meant = [i for i, rank in ranks.items() if rank == min(ranks.values())]
    if len(meant) != 1:
        raise ConfigError(
            f"the file of select.{name} is a table with {len(meant)} columns that may be meant; name one of them "
            f"{column}, or give a file with one value a line"
        )
    return [(number, "".join(row[meant[0] : meant[0] + 1]).strip()) for number, row in enumerate(rows, 2) if any(row)]


def _rank(name: str, column: str) -> int | None:
    """How usual a name is for a column, 0 the most; None where it is none."""
    return dict(fields_of(name)).get(column)
