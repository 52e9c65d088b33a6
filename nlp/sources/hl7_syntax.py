"""The encoding rules of HL7 version 2 (chapter 2): messages, segments, fields, escapes. Knows nothing of reports."""

from __future__ import annotations

import codecs
import re
from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from typing import IO

from nlp.sources.base import decoded
from nlp.types import ReportError

_BLOCK = 1 << 16
_LINE_END = re.compile(rb"\r\n|\r|\n|[\x1c\x0b]")
_ENVELOPE = (b"FHS", b"BHS", b"BTS", b"FTS")
_SEGMENT = re.compile(r"[A-Z][A-Z0-9]{2}")
_CHARACTER_SETS = {
    "ASCII": "ascii",
    "": None,
    **{f"8859/{part}": f"iso8859-{part}" for part in range(1, 17)},
    "UNICODE": "utf-8",
    "UNICODE UTF-8": "utf-8",
    "UNICODE UTF-16": "utf-16",
    "UNICODE UTF-32": "utf-32",
    "UTF8": "utf-8",
    "ISO IR14": "shift_jis",
    "ISO IR87": "iso2022_jp",
    "ISO IR159": "iso2022_jp_1",
    "GB 18030-2000": "gb18030",
    "KS X 1001": "euc_kr",
    "CNS 11643-1992": "big5",
    "BIG-5": "big5",
}  # HL7 table 0211


@dataclass(frozen=True, slots=True)
class Delimiters:
    """The five delimiters of a message, from its MSH-1 and MSH-2."""

    field: str = "|"
    component: str = "^"
    repetition: str = "~"
    escape: str = "\\"
    subcomponent: str = "&"


@dataclass(frozen=True, slots=True)
class Segment:
    """One segment; ``fields[0]`` is its name, ``fields[n]`` field n of the standard."""

    name: str
    fields: tuple[str, ...]
    delimiters: Delimiters
    charset: str | None

    def raw(self, field: int) -> str:
        """Return a field as written; "" where the segment is shorter."""
        value = self.fields[field] if field < len(self.fields) else ""
        return "" if value == '""' else value  # two quotes delete what was there

    def repeats(self, field: int) -> list[str]:
        """Return the repetitions of a field, as written."""
        value = self.raw(field)
        return value.split(self.delimiters.repetition) if value else []

    def components(self, repeat: str) -> list[str]:
        """Return the components of one repetition, escapes resolved; subcomponents keep their delimiter."""
        return [self.unescaped(part).strip() for part in repeat.split(self.delimiters.component)]

    def first(self, field: int, component: int = 1) -> str:
        """Return a component (from 1) of the first repetition of a field; "" where there is none."""
        repeats = self.repeats(field)
        parts = self.components(repeats[0]) if repeats else []
        return parts[component - 1] if component <= len(parts) else ""

    def unescaped(self, text: str) -> str:
        """Resolve the escapes of a text (chapter 2.7); what is none of them is kept as it stands."""
        escape = self.delimiters.escape
        if not escape or escape not in text:
            return text
        mark = re.escape(escape)
        form = rf"{mark}([FSTREPHN]|X(?:[0-9A-Fa-f]{{2}})+|\.(?:br|sp|in|ti|fi|nf|ce|sk)[ ]?[+-]?\d*){mark}"
        return re.sub(form, lambda match: self._resolved(match[1]), text)

    def _resolved(self, code: str) -> str:
        own = self.delimiters
        letters = {"F": own.field, "S": own.component, "T": own.subcomponent, "R": own.repetition, "E": own.escape}
        if code in letters:
            return letters[code]
        if code.startswith("X"):
            return decoded(bytes.fromhex(code[1:]), self.charset, None).replace("\r\n", "\n").replace("\r", "\n")
        number = re.search(r"\d+", code)
        if code.startswith(".sp"):
            return "\n" * (int(number[0]) if number is not None else 1)
        if code.startswith(".sk"):
            return " " * (int(number[0]) if number is not None else 1)
        return {".br": "\n", ".ce": "\n", "P": "#"}.get(code[:3], "")  # highlighting, indents and filling are no text


def split_messages(stream: IO[bytes]) -> Iterator[bytes]:
    """Yield the messages of a file as they are, segments parted by carriage returns.

    Batch headers and trailers (FHS, BHS, BTS, FTS) and the frames of MLLP belong to no message.
    """
    lines: list[bytes] = []
    for line in (line.removeprefix(codecs.BOM_UTF8) for line in _lines(stream)):
        if line.startswith((b"MSH", *_ENVELOPE)) and not line[3:4].isalnum():
            if lines:
                yield b"\r".join(lines)
            lines = []
        if not line.startswith(_ENVELOPE):
            lines.append(line)
    if lines:
        yield b"\r".join(lines)


def parse_message(content: bytes, encoding: str | None) -> list[Segment]:
    """Return the segments of a message, MSH first.

    A line that is no segment continues the text of an OBX before it: some systems write line breaks as they are.

    Raises
    ------
    ReportError
        It does not begin with an MSH that defines the delimiters, its bytes are not in its character set (MSH-18) or
        that set is unknown, or a line is no segment.
    """
    header = content.split(b"\r", 1)[0].decode("latin-1")
    if not header.startswith("MSH") or len(header) < 8:
        raise ReportError("the message does not begin with an MSH segment that defines its delimiters")
    field = header[3]
    marks = header[4:].split(field, 1)[0]
    delimiters = Delimiters(field, *marks[:4])
    declared = [*header.split(field), *[""] * 18][17].split(delimiters.repetition)[0].strip()
    charset = _charset(declared)
    text = decoded(content, charset if charset != "ascii" else None, encoding)
    segments: list[Segment] = []
    for number, line in enumerate(text.split("\r"), start=1):
        if not line.strip():
            continue
        if _SEGMENT.match(line) and line[3:4] == field:
            parts = line.split(field)
            if line.startswith("MSH"):
                parts.insert(1, field)  # MSH-1 is the delimiter itself
            segments.append(Segment(parts[0], tuple(parts), delimiters, charset))
        elif segments and segments[-1].name == "OBX" and len(segments[-1].fields) == 6:
            before = segments.pop()
            segments.append(Segment("OBX", _continued(before.fields, line, field), delimiters, charset))
        else:
            raise ReportError(f"line {number} of the message is no segment")
    return segments


def _continued(fields: tuple[str, ...], line: str, delimiter: str) -> tuple[str, ...]:
    first, *more = line.split(delimiter)
    return (*fields[:-1], f"{fields[-1]}\n{first}", *more)


def _charset(declared: str) -> str | None:
    known = declared.upper()
    if known in _CHARACTER_SETS:
        return _CHARACTER_SETS[known]
    return declared.replace("/", "-")  # Python's own names, or an error that says it is unknown


def _lines(stream: IO[bytes]) -> Iterator[bytes]:
    rest = b""
    for block in _blocks(stream):
        *whole, rest = _LINE_END.split(rest + block)
        yield from filter(None, whole)
    if rest:
        yield rest


def _blocks(stream: IO[bytes]) -> Iterable[bytes]:
    return iter(lambda: stream.read(_BLOCK), b"")
