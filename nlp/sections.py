"""Where a report's sections and sentences begin and end, by rules alone.

A general sentence splitter breaks on what radiology reports are made of: "1.5 cm.", "No. 4", numbered impressions,
headings without a full stop, capitals throughout. These rules know no more than such things.
"""

from __future__ import annotations

import re
from collections.abc import Iterator
from dataclasses import dataclass

from nlp.types import Span

BODY = "body"

_HEADINGS = {
    "findings": "findings|finding|description|report|observations|results?|ct findings",
    "impression": "impressions?|(?:in )?conclusions?|in summary|opinion|summary|diagnosis|assessment|interpretation",
    "technique": "techniques?|procedure|protocol|scan technique|imaging technique|ct technique",
    "comparison": "comparisons?|comparison studies|prior studies|compared? (?:to|with)",
    "history": "(?:clinical )?history|clinical (?:information|data|details|context|statement)|anamnesis|background",
    "indication": "(?:clinical )?indications?|reason for (?:the )?(?:exam(?:ination)?|study|visit)|clinical question",
    "examination": "examination|exam|study|type of (?:exam(?:ination)?|study)|procedure performed",
    "recommendation": "recommendations?|follow-?up|advice",
    "addendum": "addend(?:um|a)",
    "signature": "signed(?: by)?|electronically signed(?: by)?|dictated by|attending",
}
_NAMES = "|".join(f"(?P<{name}>{words})" for name, words in _HEADINGS.items())
_HEADING = re.compile(
    rf"(?:^(?P<alone>[ \t]*[*#_]{{0,3}}[ \t]*)|(?<=[.!?:;\])])[ \t]+|(?<=[a-z\])][.:]))"
    rf"(?:{_NAMES})(?:[ \t]*\([^()\n]{{0,30}}\))?[*_]{{0,3}}[ \t]*(?::[*_]{{0,3}}|(?(alone)\r?$|(?!)))",
    re.IGNORECASE | re.MULTILINE,
)

_ENUMERATOR = re.compile(r"[ \t]*(?:\(?\d{1,2}[.)](?=\s)|[-*•·–>]+(?=\s)|\([a-z]\)(?=\s))[ \t]*")
_INLINE_ENUMERATOR = re.compile(r"(?<=[.;:!?])[ \t]+\(?\d{1,2}[.)][ \t]+(?=[A-Z\[])")
_UNIT = r"(?:mm|cm|hu|ml|cc|kg|mg)"
_ABBREVIATION = re.compile(
    r"(?:^|[\s(\[,;/-])(?:no|nos|nr|dr|drs|prof|mr|mrs|ms|st|vs|approx|appr|ca|e\.g|i\.e|eg|ie|cf|fig|figs|im|img|se|ser|max|"
    r"min|diam|prev|resp|lt|rt|bilat|incl|excl|est|dept|jr|sr|seg|segm|neg|pos)$",
    re.IGNORECASE,
)
_UNIT_END = re.compile(rf"(?:^|[\d\s]){_UNIT}$", re.IGNORECASE)
# A full stop, then white space; or none at all between a small letter and a capitalised word ("effusion.There").
_STOP = re.compile(r"[.?!;]+[\"')\]]*(?=\s|$)|(?<=[a-z])[.](?=[A-Z][a-z])")
_CONTINUED = re.compile(
    r"(?:[,(/]|\b(?:of|the|a|an|in|on|at|and|or|with|to|from|by|is|are|was|were|no|measuring))$", re.IGNORECASE
)
_LINE = re.compile(r"[^\r\n]+|(?<=\n)(?=\r?\n)|(?<=\r)(?=\r)")
_WRAP_COLUMN = 50  # authors break shorter lines on purpose


@dataclass(frozen=True, slots=True)
class Section:
    """A section's normalised name and the span of its text, without its heading and outer white space."""

    name: str
    start: int
    end: int


def split_sections(text: str) -> list[Section]:
    """Return the sections of a report in order.

    Names are ``findings``, ``impression``, ``technique``, ``comparison``, ``history``, ``indication``, ``examination``,
    ``recommendation``, ``addendum`` and ``signature``; ``body`` for text that stands under no heading. Empty sections
    are left out.
    """
    marks = [(BODY, 0, 0)]
    marks += [(_name(mark), mark.start(), mark.end()) for mark in _HEADING.finditer(text)]
    ends = [start for _, start, _ in marks[1:]] + [len(text)]
    sections = []
    for (name, _, start), end in zip(marks, ends, strict=True):
        trimmed = _trim(text, start, end)
        if trimmed is not None:
            sections.append(Section(name, *trimmed))
    return sections


def split_sentences(text: str) -> list[Span]:
    """Return the sentences of a report in order, as half-open spans without list numbers and outer white space.

    Section headings belong to no sentence, and no sentence crosses one.
    """
    return [
        sentence
        for section in split_sections(text)
        for block in _blocks(text, section.start, section.end)
        for sentence in _sentences(text, *block)
    ]


def _name(heading: re.Match[str]) -> str:
    return next(name for name in _HEADINGS if heading[name] is not None)


def _blocks(text: str, start: int, end: int) -> Iterator[Span]:
    """Runs of lines that belong together: a wrapped paragraph, one item of a list, one line of a telegram."""
    lines = [(match.start(), match.end()) for match in _LINE.finditer(text, start, end)]
    width = max((last - first for first, last in lines), default=0)
    shouted = not re.search(r"[a-z]{2}", text[start:end])
    block: Span | None = None
    previous = (start, start)
    for line in lines:
        blank = not text[slice(*line)].strip()
        if block is not None and (blank or _breaks(text, previous, line, width, shouted=shouted)):
            yield block
            block = None
        if not blank:
            block = (line[0] if block is None else block[0], line[1])
        previous = line
    if block is not None:
        yield block


def _breaks(text: str, line: Span, following: Span, width: int, *, shouted: bool) -> bool:
    """Whether the author ended something with this line, rather than run out of room."""
    after = text[slice(*following)]
    before = text[slice(*line)].rstrip()
    if _ENUMERATOR.match(after):
        return True
    first = after.lstrip()[0]
    if first.islower() or _CONTINUED.search(before):
        return False
    if first.isupper() and not shouted:
        return True
    room = len(before) + 1 + len(after.split(maxsplit=1)[0]) <= width
    return room or len(before) < _WRAP_COLUMN


def _sentences(text: str, start: int, end: int) -> Iterator[Span]:
    block = text[start:end]
    cuts = [(match.end(), match.end()) for match in _STOP.finditer(block) if _ends_sentence(block, match)]
    cuts += [(match.start(), match.end()) for match in _INLINE_ENUMERATOR.finditer(block)]
    begin = 0
    for cut_start, cut_end in [*sorted(cuts), (len(block), len(block))]:
        if cut_start < begin:
            continue
        enumerator = _ENUMERATOR.match(block, begin)
        if enumerator is not None and enumerator.end() >= cut_start and cut_start < len(block):
            continue  # the full stop of "2." itself
        first = enumerator.end() if enumerator is not None else begin
        trimmed = _trim(block, first, cut_start)
        if trimmed is not None:
            yield start + trimmed[0], start + trimmed[1]
        begin = cut_end


def _ends_sentence(block: str, stop: re.Match[str]) -> bool:
    after = block[stop.end() :].lstrip()
    if not after:
        return True
    first = after[0]
    if stop.group().startswith(";"):
        return first.isupper() or first.isdigit()
    if stop.group().startswith(("?", "!")):
        return first.isupper() or first.isdigit() or first in "[("
    before = block[: stop.start()]
    if _ABBREVIATION.search(before[-10:]):
        return False
    if first.islower():
        return not _UNIT_END.search(before[-6:]) and len(before.split()[-1:][0]) > 1 if before.split() else True
    return True


def _trim(text: str, start: int, end: int) -> Span | None:
    """The span without outer white space; None where nothing is left."""
    kept = text[start:end]
    if not kept.strip():
        return None
    return start + len(kept) - len(kept.lstrip()), start + len(kept.rstrip())
