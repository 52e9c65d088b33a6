"""Reports from wherever they are kept, as a stream of :class:`~nlp.types.Report`.

What each kind of source looks like is in :mod:`nlp.sources`; here is what holds for all of them: which files a path
stands for, that one bad row costs itself, that ids are unique, and what a text may hold.
"""

from __future__ import annotations

import codecs
import re
from array import array
from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import dataclass, replace
from functools import partial
from hashlib import blake2b
from pathlib import Path

from nlp.sources import kind_of, object_kind_of
from nlp.sources.base import Columns, Item, SourceFile, Stream, Table
from nlp.sources.columns import check_given
from nlp.sources.rows import reports_of
from nlp.types import Report, ReportError

OnError = Callable[[ReportError, int], None]

_IGNORED = (".", "~$", "__", "_SUCCESS")  # hidden files, and what other programs leave beside theirs
_BREAKS = "\x0b\x0c\x85\u2028\u2029"
_CONTROLS = re.compile("[\x00-\x08\x0b\x0c\x0e-\x1f\x7f-\x9f\u2028\u2029]")
_AS_SPACE = {code: " " for code in (*range(0x20), *range(0x7F, 0xA0)) if chr(code) not in "\t\n\r"}
_CLEANED = {**_AS_SPACE, **{ord(character): "\n" for character in _BREAKS}}
_FEW_CONTROLS, _MAX_CONTROLS = 2, 0.1  # that many, or that part of a text: more is no text
_HALF_PAIR = re.compile(r"[\ud800-\udfff]")


def read_reports(
    source: object,
    *,
    columns: Columns | None = None,
    encoding: str | None = None,
    on_error: OnError | None = None,
) -> Iterator[Report]:
    """Return the reports of a source, in its order, as a stream.

    Files are read as they are asked for: neither they nor what was read is held in memory, but for about 20 bytes a
    report by which an id is known again, and single JSON documents.

    Parameters
    ----------
    source
        A path, a folder (with its sub-folders, in the order of names), a list of paths; a ``pandas.DataFrame``, a
        ``pyarrow.Table`` (or record batches), a ``datasets.Dataset`` or ``IterableDataset``; or an iterable of
        ``Report``, which passes through. Files may be mixed, and gzipped, and are known by their content first:

        - tables: CSV, TSV and their kin, JSON Lines, Parquet. Columns are found by their usual names (docs/reports.md
          lists them) without regard to case. ``report_id`` and a text are needed; findings, impression and the like in
          columns of their own become one text under headings. A column ``path`` in place of a text names the file that
          holds it, relative to the table. The values of columns with an identifying name become
          ``Report.identifiers``.
        - texts: one .txt a report, its stem the ``report_id``. Nothing says what else a stem is: where it is the
          accession number, say ``columns={"accession_number": "report_id"}``; where the folder's name is the patient,
          ``columns={"patient_id": "folder"}``; where stems repeat, ``columns={"report_id": ["folder", "report_id"]}``;
          else give a table with ``path`` and the keys.
        - FHIR R4 DiagnosticReport (a resource, a Bundle, NDJSON), HL7 v2 ORU^R01, DICOM SR, with their own keys. In a
          folder, DICOM objects that are no SR are passed over.
    columns
        The columns of the tables where their names are not the usual ones: ``{"text": "Befund"}``. Several for the
        text (``{"text": ["Befund", "Beurteilung"]}``) become one under headings; None for a field leaves it out.
        ``identifiers`` takes columns to strike from the text.
    encoding
        Of files that do not say it themselves by a byte order mark, MSH-18 or a character set; UTF-8 without. It is
        never guessed.
    on_error
        Called with the error and the row's number (1 is the first row of data or document, counted over all of
        ``source``) for each that cannot be used: broken syntax, bytes in another encoding, no id, no text, an
        impossible date, an id that was there before (the first is kept). Without it the first such row raises.

    Yields
    ------
    Report
        Control characters of its text other than tab and line breaks are replaced, one by one: by a line break where
        they are one (vertical tab, form feed, U+0085, U+2028, U+2029), else by a space. ``status`` is in the words of
        FHIR where it is known. Rows of one id that differ in status, time or text are versions where the source tells
        versions (``version_key`` is set): all are yielded, the later ones with "#" and a digest of their content
        behind their id.

    Raises
    ------
    ReportError
        At the call: a file that is absent or of no known kind, a table without the needed columns or with two for one
        field, an unknown encoding. While streaming, without ``on_error``: an unusable row. Messages number files and
        rows, and never quote a value or a file's name.
    """
    given = dict(columns or {})
    check_given(given)
    if encoding is not None:
        try:
            encoding = codecs.lookup(encoding).name
        except LookupError:
            raise ReportError(f"the encoding {encoding!r} is unknown to Python; give a name such as 'cp1252'") from None
    reader = _Reader(given, encoding)
    streams = reader.open(source)
    if columns and not reader.has_tables:
        raise ReportError("columns= names columns of tables, and the source is none")
    return _usable(streams, on_error)


@dataclass(slots=True)
class _Reader:
    """Opens sources; what is wrong with a source as a whole raises here, at the call."""

    columns: Columns
    encoding: str | None
    has_tables: bool = False

    def open(self, source: object) -> list[Stream]:
        """Return the streams of a source."""
        kind = object_kind_of(source)
        if kind is not None:
            return [self._table(kind.open(source))]
        if isinstance(source, str | Path):
            return [self._path(Path(source), "the reports file", {})]
        if isinstance(source, Sequence) and source and all(isinstance(item, str | Path) for item in source):
            families: dict[str, str] = {}
            names = [f"reports file {number} of {len(source)}" for number in range(1, len(source) + 1)]
            paths = zip(names, map(Path, source), strict=True)
            return [partial(_prefixed, name, self._path(path, name, families)) for name, path in paths]
        if not isinstance(source, Iterable):
            raise ReportError(
                f"cannot read reports from a {type(source).__name__}; give a path, a list of paths, a "
                "pandas.DataFrame, a pyarrow.Table, a datasets.Dataset or an iterable of nlp.Report"
            )
        return [partial(_only_reports, source)]

    def _path(self, path: Path, name: str, families: dict[str, str]) -> Stream:
        if path.is_dir():
            self.has_tables = True  # it may hold some
            if next(_files(path), None) is None:
                raise ReportError(f"{name.replace('file', 'folder')} holds no file")
            return partial(self._folder, path, name.replace("file", "folder"), families)
        if not path.is_file():
            raise ReportError(f"{name} is not there; check its path")
        return self._file(SourceFile(path, name, self.encoding, self.columns, families))

    def _file(self, file: SourceFile) -> Stream:
        opened = kind_of(file).open(file)
        return self._table(opened) if isinstance(opened, Table) else opened

    def _table(self, table: Table) -> Stream:
        self.has_tables = True
        return reports_of(replace(table, encoding=table.encoding or self.encoding), self.columns)

    def _folder(self, folder: Path, name: str, families: dict[str, str]) -> Iterator[Item]:
        for number, path in enumerate(_files(folder), start=1):
            file = SourceFile(path, f"file {number} of {name}", self.encoding, self.columns, families)
            try:
                kind = kind_of(file)
                if not kind.holds_none(file):
                    yield from _prefixed(file.name, self._file(file))
            except ReportError as error:
                yield error


def _prefixed(name: str, stream: Stream) -> Iterator[Item]:
    """Say of each error in which file it is."""
    for item in stream():
        told = isinstance(item, ReportError) and name not in str(item)  # some name it themselves
        yield ReportError(f"{name}: {item}") if told else item


def _files(folder: Path) -> Iterator[Path]:
    """The files below a folder, in the order of names, folder by folder."""
    try:
        paths = sorted(folder.iterdir())
    except OSError as error:
        raise ReportError(f"a folder of the reports cannot be listed ({type(error).__name__})") from None
    for path in paths:
        if path.name.startswith(_IGNORED):
            continue
        if not path.is_dir():
            yield path
        elif not path.is_symlink():  # a link may lead in a circle
            yield from _files(path)


def _only_reports(source: Iterable[object]) -> Iterator[Item]:
    for item in source:
        if not isinstance(item, Report):
            yield ReportError(f"expected nlp.Report objects, got a {type(item).__name__}")
        else:
            yield item


def _usable(streams: Iterable[Stream], on_error: OnError | None) -> Iterator[Report]:
    """The usable reports; each other item's error, with its number, to ``on_error``."""
    seen = _Seen()
    items = (item for stream in streams for item in _guarded(stream))
    for number, item in enumerate(items, start=1):
        accepted = _accepted(item, seen) if isinstance(item, Report) else item
        if isinstance(accepted, Report):
            yield accepted
        elif on_error is None:
            raise ReportError(f"row {number}: {accepted}")
        else:
            on_error(accepted, number)


def _guarded(stream: Stream) -> Iterator[Item]:
    """What ends one file is one item, and the next file is read."""
    try:
        yield from stream()
    except ReportError as error:
        yield error


def _accepted(report: Report, seen: _Seen) -> Item:
    """The report as it goes on, or why it does not."""
    if any(_HALF_PAIR.search(text) for text in (report.report_id, report.text, report.patient_id or "")):
        return ReportError("the row holds half a surrogate pair, which is no text; export it again as UTF-8")
    text = _cleaned(report.text)
    if text != report.text:
        if not text.strip() or len(_CONTROLS.findall(report.text)) > max(_FEW_CONTROLS, _MAX_CONTROLS * len(text)):
            return ReportError("the text is binary: too many of its characters are control characters")
        report = replace(report, text=text)
    content = f"{report.status}\0{report.issued_at}\0{text}"
    if seen.add(report.report_id):
        if report.version_key is not None:
            seen.add(f"{report.report_id}\0{content}")
        return report
    if report.version_key is None or not seen.add(f"{report.report_id}\0{content}"):
        return ReportError("report_id was already used by an earlier row; it must be unique, the first row is kept")
    version = replace(report, report_id=f"{report.report_id}#{_digest(content, 4).hex()}")
    return version if seen.add(version.report_id) else ReportError("report_id was already used by another version")


def _cleaned(text: str) -> str:
    """The text without control characters, each replaced by one character: offsets into it stay what they are."""
    return text.translate(_CLEANED) if _CONTROLS.search(text) else text


class _Seen:
    """A set of strings that keeps 64 bits of each, in 11 to 22 bytes.

    The odds that one new string among a million is taken for an old one are 3 in 10^8.
    """

    def __init__(self) -> None:
        self._slots = array("Q", bytes(8 << 10))  # open addressing; 0 is free
        self._used = 0

    def add(self, text: str) -> bool:
        """Add a string; return whether it is new."""
        digest = int.from_bytes(_digest(text, 8), "little") or 1
        new = _put(self._slots, digest)
        self._used += new
        if self._used * 4 > len(self._slots) * 3:
            larger = array("Q", bytes(16 * len(self._slots)))
            for old in self._slots:
                if old:
                    _put(larger, old)
            self._slots = larger
        return new


def _put(slots: array[int], digest: int) -> bool:
    mask = len(slots) - 1
    place = digest & mask
    while slots[place]:
        if slots[place] == digest:
            return False
        place = (place + 1) & mask
    slots[place] = digest
    return True


def _digest(text: str, size: int) -> bytes:
    return blake2b(text.encode("utf-8", "surrogatepass"), digest_size=size).digest()
