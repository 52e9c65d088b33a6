"""Where a report's sections and sentences begin and end, by rules alone.

A general sentence splitter breaks on what radiology reports are made of: "1.5 cm.", "No. 4", numbered impressions,
headings without a full stop, capitals throughout. These rules know no more than such things.
"""

from __future__ import annotations

import re
from collections.abc import Iterator
from dataclasses import dataclass
from functools import lru_cache

from nlp.types import Span

BODY = "body"

_STUDIES = "(?:studies|exams?|examinations?)"
_HEADINGS = {
    "findings": (
        "(?:ct |imaging |radiological )?findings(?: ?(?:and|&|/) ?impressions?)?|finding|description|report(?: text)?|"
        "observations|results?|body of (?:the )?report"
    ),
    "impression": (
        "(?:(?:final|ct|overall|main) )?impressions?(?: ?(?:and|&|/) ?(?:plan|advice|recommendations?|conclusions?))?|"
        "(?:in )?(?:final )?conclusions?|in summary|opinion|summary(?: of findings)?|(?:final )?diagnosis|assessment|"
        "interpretation"
    ),
    "technique": (
        "(?:(?:scan(?:ning)?|imaging|ct|examination) )?techniques?|procedure|protocol|"
        "contrast(?: (?:agent|medium|material))?(?: used)?|(?:technical )?parameters|(?:radiation )?dose(?: report)?"
    ),
    "comparison": f"comparisons?(?: {_STUDIES})?|prior {_STUDIES}|compared? (?:to|with)",
    "history": (
        "(?:(?:relevant )?(?:medical |clinical )|patient )?history|"
        "clinical (?:information|data|details|context|statement|notes)|anamnesis|background"
    ),
    "indication": (
        "(?:clinical )?indications?|reason for (?:the )?(?:exam(?:ination)?|study|visit|request|referral)|"
        "(?:clinical|targeted) questions?|request"
    ),
    "examination": (
        "examination|exam|study|type of (?:exam(?:ination)?|study)|procedure performed|"
        "(?:pre|post)-?contrast examination"
    ),
    "recommendation": "recommendations?|follow-?up|advice",
    "addendum": "addend(?:um|a)",
    "signature": (
        "(?:electronically )?signed(?: by)?|dictated by|reported by|attending(?: radiologist)?|authori[sz]ation date|"
        "date of authori[sz]ation"
    ),
}
_NAMES = "|".join(f"(?P<{name}>{words})" for name, words in _HEADINGS.items())
_HEADING = re.compile(
    rf"(?:^(?P<alone>[ \t]*+[*#_=-]{{0,3}}[ \t]*+)|(?<=[.!?:;\])])[ \t]++|(?<=[a-z\])][.:]))"
    rf"(?:{_NAMES})(?:[ \t]{{0,3}}\([^()\n]{{0,30}}\))?[*_]{{0,3}}[ \t]{{0,9}}"
    r"(?::[*_]{0,3}|(?(alone)(?:[=-]{0,9}[ \t]{0,9}\r?$|[–—-]{1,2}(?=[ \t])|(?=1[.)][ \t]))|(?!)))",
    re.IGNORECASE | re.MULTILINE,
)

_BEFORE_HEADING = re.compile(r"[.!?:;\])\n]")
_ENUMERATOR = re.compile(
    r"[ \t]*+(?:\(?\d{1,2}[.)]|#\d{1,2}[.):]?|[-*•·–>→]{1,3}|\(?[a-z]\)|(?:i{1,3}|iv|vi{0,3}|ix)[.)])(?=\s)[ \t]*+"
)
_INLINE_ENUMERATOR = re.compile(
    r"(?<=[.;:!?])(?<!No\.)(?<!NO\.)(?<!no\.)[ \t]++(?:\(?\d{1,2}[.)]|#\d{1,2}[.):]?)[ \t]++(?=[A-Z\[]|\d)"
)
_UNIT = r"(?:mm|cm|hu|ml|cc|kg|mg)"
_ABBREVIATION = re.compile(
    r"(?:^|[\s(\[,;/-])(?:no|nos|nr|pt|pat|dr|drs|prof|mr|mrs|ms|st|vs|approx|appr|ca|e\.g|i\.e|eg|ie|cf|fig|figs|im|img|se|ser|max|"
    r"min|diam|prev|resp|lt|rt|bilat|incl|excl|est|dept|jr|sr|seg|segm|neg|pos)$",
    re.IGNORECASE,
)
_UNIT_END = re.compile(rf"(?:^|[\d\s]){_UNIT}$", re.IGNORECASE)
# A full stop, then white space; or none at all between a small letter and a capitalised word ("effusion.There").
_STOP = re.compile(r"(?<![.?!;])[.?!;]++[\"')\]]*+(?=\s|$)|(?<=[a-z])[.](?=[A-Z][a-z])")
_CONTINUED = re.compile(
    r"(?:[,(/]|\b(?:of|the|a|an|in|on|at|and|or|with|to|from|by|is|are|was|were|no|measuring))$", re.IGNORECASE
)
_LINE = re.compile(r"[^\r\n]+|(?<=\n)(?=\r?\n)|(?<=\r)(?=\r)")
_WRAP_COLUMN = 50  # authors break shorter lines on purpose
_ROW = re.compile(r"\t|\||\S {3,}(?=\S)")  # the columns of a table
_LETTER = re.compile(r"[^\W_]")
_INK = re.compile(r"\S")
_LONGEST = 1000  # characters of a sentence; people write half of that
_CUTS = tuple(re.compile(pattern) for pattern in (r"[;\n](?=\s)|\n", r",(?=\s)", r"\s"))
_LOOK_BACK = 24  # characters before a full stop that can hold an abbreviation or a unit


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
    return list(_layout(text)[0])


def split_sentences(text: str) -> list[Span]:
    """Return the sentences of a report in order, as half-open spans without list numbers and outer white space.

    Section headings belong to no sentence, and no sentence crosses one. A row of a table is one. What runs on for more
    than 1000 characters without a full stop (a table, a word list) is cut at semicolons, line ends or commas, else
    between words: whoever reads sentences need not fear their length.
    """
    return list(_layout(text)[1])


@lru_cache(maxsize=4)  # sizes, terms and findings of one report each ask
def _layout(text: str) -> tuple[tuple[Section, ...], tuple[Span, ...]]:
    marks = [(BODY, 0, 0)]
    marks += [(str(mark.lastgroup), mark.start(), mark.end()) for mark in _headings(text)]
    ends = [start for _, start, _ in marks[1:]] + [len(text)]
    sections = []
    for (name, _, start), end in zip(marks, ends, strict=True):
        trimmed = _trim(text, start, end)
        if trimmed is not None:
            sections.append(Section(name, *trimmed))
    sentences = tuple(
        sentence
        for section in sections
        for block in _blocks(text, section.start, section.end)
        for sentence in _sentences(text, *block)
    )
    return tuple(sections), sentences


def _headings(text: str) -> Iterator[re.Match[str]]:
    """Headings stand at the start of a line or behind a full stop, a colon or a bracket: looked for nowhere else."""
    end = 0
    for place in [0, *(match.end() for match in _BEFORE_HEADING.finditer(text))]:
        heading = _HEADING.match(text, place) if place >= end else None
        if heading is not None:
            end = heading.end()
            yield heading


def _blocks(text: str, start: int, end: int) -> Iterator[Span]:
    """Runs of lines that belong together: a wrapped paragraph, one item of a list, one line of a telegram."""
    lines = [(match.start(), match.end()) for match in _LINE.finditer(text, start, end)]
    width = max((last - first for first, last in lines), default=0)
    shouted = not re.search(r"[a-z]{2}", text[start:end])
    block: Span | None = None
    previous = (start, start)
    for line in lines:
        blank = _LETTER.search(text, *line) is None  # empty, or a ruled line
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
    if _ENUMERATOR.match(after) or _ROW.search(after) or _ROW.search(before):
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
            yield from _short(text, start + trimmed[0], start + trimmed[1])
        begin = cut_end


def _short(text: str, start: int, end: int) -> Iterator[Span]:
    """A sentence in pieces of bearable length, cut where it hurts least."""
    while end - start > _LONGEST:
        middle, limit = start + _LONGEST // 2, start + _LONGEST
        cuts = (max((match.end() for match in cut.finditer(text, middle, limit)), default=limit) for cut in _CUTS)
        stop = next((cut for cut in cuts if cut < limit), limit)
        piece = _trim(text, start, stop)
        if piece is not None:
            yield piece
        start = stop
    rest = _trim(text, start, end)
    if rest is not None:
        yield rest


def _ends_sentence(block: str, stop: re.Match[str]) -> bool:
    ink = _INK.search(block, stop.end())
    if ink is None:
        return True
    first = ink.group()
    if stop.group().startswith(";"):
        return first.isupper() or first.isdigit()
    if stop.group().startswith("?") and block[max(0, stop.start() - 2) : stop.start()].strip() in {"", "(", ".", ":"}:
        return False  # "? abscess"
    if stop.group().startswith(("?", "!")):
        return first.isupper() or first.isdigit() or first in "[("
    before = block[max(0, stop.start() - _LOOK_BACK) : stop.start()]
    if _ABBREVIATION.search(before):
        return False
    if first.islower():
        words = before.split()
        return not words or (not _UNIT_END.search(before[-6:]) and len(words[-1]) > 1)
    return True


def _trim(text: str, start: int, end: int) -> Span | None:
    """The span without outer white space; None where nothing is left."""
    kept = text[start:end]
    if not kept.strip():
        return None
    return start + len(kept) - len(kept.lstrip()), start + len(kept.rstrip())
