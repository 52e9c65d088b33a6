"""``private/review.csv``: links for a person to judge, and the verdicts read back from it, whatever saved it.

A spreadsheet changes the delimiter, the encoding, the line ends and the order of columns; none of that matters. What
cannot be understood is an error that names the row, and the file is left alone: a verdict is never lost.
"""

from __future__ import annotations

import csv
import io
import logging
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

from cohort_builder.bookkeeping import write_atomically
from cohort_builder.errors import ConfigError

logger = logging.getLogger("cohort_builder")

COLUMNS = (
    "review_id",
    "verdict",
    "comment",
    "why",
    "stale",
    "phrase",
    "sentence",
    "said_mm",
    "drawn_mm",
    "lesion",
    "probability",
    "explanation",
    "picture",
    "report_id",
    "patient",
    "report",
    "finding_id",
    "lesion_id",
    "features",
)
"""Columns of the file. ``report_id`` is the hospital's own; ``patient``, ``report``, ``finding_id`` and ``lesion_id``
are keyed, so that no spreadsheet takes them for numbers."""

STALE = "stale"
_NEEDED = ("review_id", "verdict", "patient", "report", "finding_id", "lesion_id")
_FILLED = ("review_id", "patient", "finding_id", "lesion_id")
_DELIMITERS = (",", ";", "\t")
_RIGHT = frozenset({"yes", "y", "true", "1", "right", "correct", "ja", "j", "wahr", "waar", "richtig", "juist"})
_WRONG = frozenset({"no", "n", "false", "0", "wrong", "incorrect", "nein", "nee", "falsch", "onwaar", "fout"})
"""What people write, and what spreadsheets of the three languages make of TRUE and FALSE."""
_FORMULA = ("=", "+", "-", "@")
_LONGEST = 2000  # characters of a cell; a spreadsheet holds 32767


@dataclass(frozen=True, slots=True)
class ReviewRow:
    """One row as it stands in the file: ``number`` counts rows as a spreadsheet does, the header being row 1."""

    number: int
    cells: Mapping[str, str]
    right: bool | None

    @property
    def pair(self) -> tuple[str, str]:
        """Keyed finding and lesion."""
        return self.cells["finding_id"], self.cells["lesion_id"]

    @property
    def is_stale(self) -> bool:
        """Whether an earlier build did not find the pair any more."""
        return bool(self.cells["stale"])

    @property
    def is_touched(self) -> bool:
        """Whether a person wrote something into it."""
        return self.right is not None or bool(self.cells["comment"])


@dataclass(frozen=True, slots=True)
class ReviewFile:
    """All rows of a file, and the delimiter that whoever saved it likes."""

    rows: tuple[ReviewRow, ...] = ()
    delimiter: str = ","


def read_review(path: Path) -> ReviewFile:
    """Read a review file; one that does not exist has no rows.

    Raises
    ------
    ConfigError
        It cannot be read or understood, a verdict is none of the known words, or two verdicts contradict each other:
        two for one pair, or two "yes" for one finding, or for one lesion within one report.

    """
    try:
        raw = path.read_bytes()
    except FileNotFoundError:
        return ReviewFile()
    except OSError as error:
        raise ConfigError(
            f"{path.name} cannot be read ({type(error).__name__}); close it elsewhere, or move it"
        ) from error
    delimiter, records = _records(path, _decoded(path, raw))
    rows = [_row(path, number, record) for number, record in records]
    _refuse_contradictions(path, rows)
    return ReviewFile(tuple(_once(rows)), delimiter)


def write_review(path: Path, rows: Iterable[Mapping[str, str]], delimiter: str = ",") -> None:
    """Write a review file whole or not at all, readable by its owner alone, in a form that spreadsheets open."""
    stream = io.StringIO(newline="")
    writer = csv.writer(stream, delimiter=delimiter, lineterminator="\n")
    writer.writerow(COLUMNS)
    for row in rows:
        writer.writerow(_guarded(row.get(column, "")) for column in COLUMNS)
    write_atomically(path, "\ufeff" + stream.getvalue(), mode=0o600)  # without the mark, Excel reads Windows-1252


def cell_text(text: str) -> str:
    """A text as it stands in a cell: one line, nothing unprintable, of bounded length."""
    readable = "".join(c if c.isprintable() else " " for c in text[: 4 * _LONGEST])
    return " ".join(readable.split())[:_LONGEST]


def verdict_of(text: str) -> bool | None:
    """True for right, False for wrong, None for an empty cell.

    Raises
    ------
    ValueError
        It is none of the known words.

    """
    word = text.strip().casefold()
    if not word:
        return None
    if word not in _RIGHT | _WRONG:
        raise ValueError(text)
    return word in _RIGHT


def _decoded(path: Path, raw: bytes) -> str:
    # "Unicode text" of Excel is UTF-16; its plain "CSV" is Windows-1252.
    is_utf16 = raw.startswith((b"\xff\xfe", b"\xfe\xff"))
    for encoding in ["utf-16"] if is_utf16 else ["utf-8-sig", "cp1252"]:
        try:
            text = raw.decode(encoding)
        except UnicodeDecodeError:
            continue
        if encoding == "cp1252":
            logger.warning("%s is not UTF-8 and was read as Windows-1252, as spreadsheets save it", path.name)
        return text
    raise ConfigError(f"{path.name} is no text in UTF-8, UTF-16 or Windows-1252; save it as CSV, or move it away")


def _records(path: Path, text: str) -> tuple[str, list[tuple[int, dict[str, str]]]]:
    """Delimiter, and (row number, cells by column) of all rows that are not empty."""
    for delimiter in _DELIMITERS:
        try:
            lines = list(csv.reader(io.StringIO(text, newline=""), delimiter=delimiter, strict=True))
        except csv.Error:
            continue
        first = 1 if lines and lines[0] and lines[0][0].startswith("sep=") else 0
        header = [name.strip().casefold() for name in lines[first]] if len(lines) > first else []
        if set(_NEEDED) <= set(header):
            numbered = [(first + 2 + i, line) for i, line in enumerate(lines[first + 1 :])]
            return delimiter, [(n, _cells(path, n, header, line)) for n, line in numbered if any(map(str.strip, line))]
    raise ConfigError(
        f"{path.name} cannot be understood: it needs a header with {', '.join(_NEEDED)}, cells separated by comma, "
        "semicolon or tab, and quotes that are closed. Repair it, or move it away to start a new one"
    )


def _cells(path: Path, number: int, header: Sequence[str], line: Sequence[str]) -> dict[str, str]:
    if any(cell.strip() for cell in line[len(header) :]):
        raise ConfigError(f"row {number} of {path.name} has {len(line)} cells, its header has {len(header)}; repair it")
    filled = [*line, *[""] * (len(header) - len(line))]  # spreadsheets leave out the last empty cells
    cells = dict.fromkeys(COLUMNS, "") | {n: _unguarded(c) for n, c in zip(header, filled, strict=False) if n}
    if missing := [name for name in _FILLED if not cells[name]]:
        raise ConfigError(f"row {number} of {path.name} lacks {', '.join(missing)}; restore it, or delete the row")
    return cells


def _row(path: Path, number: int, cells: Mapping[str, str]) -> ReviewRow:
    try:
        right = verdict_of(cells["verdict"])
    except ValueError as error:
        raise ConfigError(
            f"row {number} of {path.name}: the verdict is none of yes, no, y, n, true, false, 1, 0, right, wrong; "
            "leave it empty where you cannot tell, and use the comment"
        ) from error
    return ReviewRow(number, cells, right)


def _refuse_contradictions(path: Path, rows: Iterable[ReviewRow]) -> None:
    """Refuse two verdicts that cannot both be true, among the pairs that still occur."""
    pairs: dict[tuple[str, str], ReviewRow] = {}
    findings: dict[str, ReviewRow] = {}
    lesions: dict[tuple[str, str], ReviewRow] = {}
    for row in rows:
        if row.right is None or row.is_stale:
            continue
        known = pairs.setdefault(row.pair, row)
        if known.right is not row.right:
            raise ConfigError(f"rows {known.number} and {row.number} of {path.name} judge one pair differently")
        if not row.right:
            continue
        finding, lesion = row.pair
        for what, other in (
            ("finding", findings.setdefault(finding, row)),
            ("lesion of one report", lesions.setdefault((row.cells["report"], lesion), row)),
        ):
            if other.pair != row.pair:
                raise ConfigError(
                    f'rows {other.number} and {row.number} of {path.name} both say "yes" for one {what}; it can belong '
                    "to one only"
                )


def _once(rows: Iterable[ReviewRow]) -> Iterable[ReviewRow]:
    """Each review once: of copies of a row the one with a verdict, else with a comment, else the first."""
    best: dict[str, ReviewRow] = {}
    for row in rows:
        name = row.cells["review_id"]
        known = best.get(name)
        if known is None or (row.right is not None, row.is_touched) > (known.right is not None, known.is_touched):
            best[name] = row
    return best.values()


def _guarded(cell: str) -> str:
    """A cell that no spreadsheet takes for a formula."""
    return f"'{cell}" if cell.startswith(_FORMULA) else cell


def _unguarded(cell: str) -> str:
    cell = cell.strip()
    return cell[1:] if cell.startswith("'") and cell[1:].startswith(_FORMULA) else cell
