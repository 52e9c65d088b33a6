"""What every kind of source is made of: files, tables, and streams of items.

An item is a :class:`~nlp.types.Report`, or the :class:`~nlp.types.ReportError` of what could not become one: a stream
goes on behind a bad item.
"""

from __future__ import annotations

import gzip
import re
import zlib
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import IO, cast

from nlp.types import Report, ReportError

Row = Mapping[str, object]
Item = Report | ReportError
Stream = Callable[[], Iterator[Item]]
Columns = Mapping[str, str | Sequence[str] | None]

_MOST_BYTES = 512 << 20  # of one document, so that a small zipped file cannot take all memory
_HEAD_BYTES = 65536
_GZIP = b"\x1f\x8b"
_BYTE_ORDER_MARKS = (
    (b"\xef\xbb\xbf", "utf-8-sig"),
    (b"\xff\xfe\x00\x00", "utf-32"),
    (b"\x00\x00\xfe\xff", "utf-32"),
    (b"\xff\xfe", "utf-16"),
    (b"\xfe\xff", "utf-16"),
)
_ESCAPED = re.compile("[\udc80-\udcff]")  # where Python put a byte that the encoding does not have


@dataclass(frozen=True, slots=True)
class SourceFile:
    """A file, what messages call it (its own name may be a patient's), and what the caller said of it.

    ``encoding`` is used where the file itself declares none. A gzipped file reads as what is in it. ``families`` is
    shared by the files of one call: what documents that name their predecessors have told of each other.
    """

    path: Path
    name: str
    encoding: str | None = None
    columns: Columns = field(default_factory=dict)
    families: dict[str, str] = field(default_factory=dict)

    def open(self) -> IO[bytes]:
        """Open the file for reading, unzipped."""
        with self.path.open("rb") as raw:
            zipped = raw.read(len(_GZIP)) == _GZIP
        return cast("IO[bytes]", gzip.open(self.path, "rb")) if zipped else self.path.open("rb")

    def head(self) -> bytes:
        """Return the first 64 KiB."""
        with self.reading(), self.open() as content:
            return content.read(_HEAD_BYTES)

    def content(self) -> bytes:
        """Return all of it, for kinds that hold one document a file.

        Raises
        ------
        ReportError
            It cannot be read, or is larger, unzipped, than a document can be.
        """
        with self.reading(), self.open() as stream:
            content = stream.read(_MOST_BYTES + 1)
        if len(content) > _MOST_BYTES:
            raise ReportError(f"{self.name} holds more than 512 MiB as one document; split it")
        return content

    def suffix(self) -> str:
        """Return the suffix in lower case, that of what is zipped for a zipped file."""
        suffixes = [suffix.lower() for suffix in self.path.suffixes]
        return next((suffix for suffix in reversed(suffixes) if suffix != ".gz"), "")

    @contextmanager
    def reading(self) -> Iterator[None]:
        """Turn what the operating system says, which names the file, into a ReportError, which does not."""
        try:
            yield
        except (OSError, EOFError, zlib.error) as error:
            raise ReportError(f"{self.name} cannot be read ({type(error).__name__})") from None

    def text_encoding(self, head: bytes) -> str:
        """Return the encoding that the byte order mark, the caller, or nobody (UTF-8) declares.

        Raises
        ------
        ReportError
            Nobody did, and it is not UTF-8 but UTF-16 or binary.
        """
        marked = next((name for mark, name in _BYTE_ORDER_MARKS if head.startswith(mark)), None)
        if marked is not None:
            return marked
        if self.encoding is not None:
            return self.encoding
        start = head[:256]
        if start.count(0) * 4 > len(start):
            raise ReportError(
                f"{self.name} is full of NUL bytes: it is binary, or UTF-16 without a byte order mark; "
                "if it is text, declare it with encoding='utf-16-le' (or 'utf-16-be')"
            )
        return "utf-8"


@dataclass(frozen=True, slots=True)
class Table:
    """A table that can be streamed.

    ``rows`` yields mappings that hold at least the columns asked for; ``folder`` is where a column of paths is relative
    to.
    """

    name: str
    columns: tuple[str, ...]
    rows: Callable[[Sequence[str]], Iterator[Row | ReportError]]
    folder: Path = Path()
    encoding: str | None = None


@dataclass(frozen=True, slots=True)
class FileKind:
    """A kind of file.

    ``recognises`` says of a file and its first bytes that they are of this kind and of no other; ``suffixes`` decide
    where no kind is sure. ``open`` gives a table, or a stream of items; it raises ReportError for a file that cannot be
    used as a whole. ``holds_none`` says of a file that it is of this kind and no report: it is passed over in a folder.
    """

    name: str
    suffixes: tuple[str, ...]
    recognises: Callable[[SourceFile, bytes], bool]
    open: Callable[[SourceFile], Table | Stream]
    holds_none: Callable[[SourceFile], bool] = lambda _file: False


@dataclass(frozen=True, slots=True)
class ObjectKind:
    """A kind of object in memory: the package and classes it is known by (so that none needs importing)."""

    name: str
    package: str
    classes: tuple[str, ...]
    open: Callable[[object], Table]


def has_undecodable(text: str) -> bool:
    """Whether a text that was decoded with ``surrogateescape`` holds a byte that its encoding does not have."""
    return not text.isascii() and _ESCAPED.search(text) is not None


def undecodable(encoding: str) -> ReportError:
    """Return the error of a text with bytes that its encoding does not have."""
    written = "UTF-8" if encoding.startswith("utf-8") else encoding
    return ReportError(
        f"the text is not {written}; declare its encoding, for example encoding='cp1252', or convert the source first: "
        "iconv -f WINDOWS-1252 -t UTF-8 FILE"
    )


def decoded(content: bytes, declared: str | None, encoding: str | None) -> str:
    """Decode what a format holds as bytes: as the format declares, else the caller, else UTF-8.

    Where the bytes are not what the format declares, the caller's encoding is used if there is one.

    Raises
    ------
    ReportError
        The bytes are in none of them, or the format declares an encoding that Python does not know.
    """
    marked = next((name for mark, name in _BYTE_ORDER_MARKS if content.startswith(mark)), None)
    first = marked or declared or encoding or "utf-8"
    for name in dict.fromkeys([first, encoding or first]):
        try:
            return content.decode(name)
        except UnicodeDecodeError:
            continue
        except LookupError:
            raise ReportError("the declared encoding is unknown; declare another with encoding=") from None
    raise undecodable(first)
