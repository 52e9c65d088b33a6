"""Report text without what identifies somebody, and the exact map between it and the original.

Text is scrubbed once, on reading, and everything after works on the scrubbed text: published spans are exact, and the
map back stays private. What is removed leaves a typed tag ("[NAME]", "[DATE]" ...), so that "measured 9 mm on [DATE]"
still reads as a prior. Rules find what they know; a scrubbed text must be reviewed before it is shared.
"""

from __future__ import annotations

import re
import unicodedata
from bisect import bisect_left, bisect_right
from collections import Counter
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field, replace
from functools import lru_cache
from itertools import chain

from cohort_builder.privacy.scrub_identifiers import KnownIdentifiers
from cohort_builder.privacy.scrub_names import find_untold_names
from cohort_builder.privacy.scrub_patterns import Hit, Tag, find_generic
from nlp.types import Report, ReportError, Span

Segment = tuple[int, int, int, int]
"""(scrubbed start, scrubbed end, original start, original end) of one replaced stretch, all half-open."""

_MAX_ROUNDS = 4
_DIVIDED = re.compile(r"(?<=[^\W\d_])-[ \t]*\r?\n[ \t]*(?=[^\W\d_])")
_TELLING_DIGITS = 4
"""Ids of reports with fewer digits ("CT chest 12") count and describe them."""
_TAG = re.compile(rf"\[(?:{'|'.join(Tag)})\]")
_LETTERS = {
    **dict(zip("øØłŁđĐðÐı", "oOlLdDdDi", strict=True)),
    **dict(zip("ßẞæÆœŒþÞ", ("ss", "SS", "ae", "Ae", "oe", "Oe", "th", "Th"), strict=True)),
    **dict.fromkeys("‘’ʼ`´′‛", "'"),
    **dict.fromkeys("‐‑‒–—―−", "-"),
    **dict.fromkeys("⁄∕", "/"),
}
"""What Unicode does not decompose."""


class ScrubError(ReportError):
    """A report could not be scrubbed: it is not used (``scrub_failed``). Never holds the text."""


@dataclass(frozen=True, slots=True)
class OffsetMap:
    """Where the scrubbed text stands in the original: equal outside ``segments``, which run left to right.

    A span that touches a replaced stretch, however little, maps to a span that holds the whole stretch.
    """

    segments: tuple[Segment, ...] = ()

    def __post_init__(self) -> None:
        scrubbed_end = original_end = 0
        for segment in self.segments:
            scrubbed = segment[0] - scrubbed_end
            if scrubbed < 0 or segment[1] <= segment[0] or segment[3] <= segment[2]:
                raise ValueError(f"segments must be ordered, disjoint and not empty, got {segment}")
            if segment[2] - original_end != scrubbed:
                raise ValueError(f"the text between segments must be equally long on both sides, got {segment}")
            scrubbed_end, original_end = segment[1], segment[3]

    def to_original(self, span: Span) -> Span:
        """Map a half-open span of the scrubbed text to the original."""
        return _mapped(span, self.segments)

    def to_scrubbed(self, span: Span) -> Span:
        """Map a half-open span of the original text to the scrubbed one."""
        return _mapped(span, [(*segment[2:], *segment[:2]) for segment in self.segments])

    def as_lists(self) -> list[list[int]]:
        """Return the segments as lists, for JSON."""
        return [list(segment) for segment in self.segments]

    @classmethod
    def from_lists(cls, segments: Iterable[Sequence[int]]) -> OffsetMap:
        """Read what :meth:`as_lists` wrote. Raises ValueError when it is no offset map."""
        return cls(tuple((start, end, from_, to) for start, end, from_, to in segments))


@dataclass(frozen=True, slots=True)
class Scrubbed:
    """A scrubbed text, its map back, and how many stretches of each tag were removed."""

    text: str
    offsets: OffsetMap
    removed: Mapping[str, int] = field(default_factory=dict)


def scrub_text(text: str, identifiers: Iterable[str] = ()) -> Scrubbed:
    """Replace what identifies somebody by typed tags.

    Parameters
    ----------
    text
        The report as written.
    identifiers
        What the patient's record knows: names (any form), ids, dates, accession numbers, UIDs, institutions. Ids of
        fewer than four characters are only found behind a label ("MRN 42").

    Returns
    -------
    Scrubbed
        Sizes, image references, spine levels and scores are left as they are; so are years alone and ages up to 89.

    Examples
    --------
    >>> scrub_text("John Smith, 12 mm nodule (4/87), seen 03/04/2021 by Dr. Jones.", ["SMITH^JOHN"]).text
    '[NAME], 12 mm nodule (4/87), seen [DATE] by Dr. [NAME].'
    """
    known = _known(tuple(sorted({identifier for identifier in identifiers if identifier.strip()})))
    spans: list[Hit] = []
    for _ in range(_MAX_ROUNDS):
        scrubbed = _replaced(text, spans)
        found = _find(scrubbed.text, known)
        if not found:
            return scrubbed
        # What was removed changes what stands beside the rest: look until nothing is found any more.
        spans = _merged([*spans, *((*scrubbed.offsets.to_original((start, end)), tag) for start, end, tag in found)])
    raise ScrubError(f"after {_MAX_ROUNDS} rounds the text still holds identifying stretches; the report is not used")


def scrub_report(report: Report, identifiers: Iterable[str] = ()) -> tuple[Report, OffsetMap]:
    """Scrub a report with what its study's headers and its own row know of the patient.

    Parameters
    ----------
    report
        Its ``identifiers``, ``patient_id``, accession numbers and UIDs are searched for too. The keys that join it stay
        in the returned report; its ``identifiers`` do not.
    identifiers
        What the DICOM headers add.

    Raises
    ------
    ScrubError
        Scrubbing failed, or a second look at the scrubbed text still finds an identifier. The report must not be used.
    """
    own = (*report.identifiers, *report.accession_numbers, *report.study_instance_uids, report.patient_id or "")
    for name in (report.report_id, *re.split(r"[\^/|]", report.version_key or "")):
        if sum(map(str.isdigit, name)) >= _TELLING_DIGITS:  # it may be a record, order or accession number
            own = (*own, name)
    try:
        scrubbed = scrub_text(report.text, (*identifiers, *own))
    except ScrubError:
        raise
    except Exception as error:  # noqa: BLE001 - fails closed: whatever broke, this text must not go on
        # Not chained: the cause may quote the text.
        raise ScrubError(f"scrubbing failed with {type(error).__name__}; the report is not used") from None
    return replace(report, text=scrubbed.text, identifiers=()), scrubbed.offsets


def _replaced(text: str, spans: Sequence[Hit]) -> Scrubbed:
    """Put tags in the place of disjoint, ordered spans."""
    pieces: list[str] = []
    segments: list[Segment] = []
    read = written = 0
    for start, end, tag in spans:
        replacement = f"[{tag}]"
        pieces += [text[read:start], replacement]
        written += start - read
        segments.append((written, written + len(replacement), start, end))
        written += len(replacement)
        read = end
    pieces.append(text[read:])
    return Scrubbed("".join(pieces), OffsetMap(tuple(segments)), Counter(str(tag) for *_, tag in spans))


def _find(text: str, known: KnownIdentifiers) -> list[Hit]:
    """Find what identifies somebody, outside the tags that already stand in the text; spans of ``text``."""
    folded, origins = _folded(text)
    tags = [match.span() for match in _TAG.finditer(text)]
    hits = []
    for start, end, tag in chain(
        known.find(folded), _across_lines(folded, known), find_untold_names(folded), find_generic(folded)
    ):
        span = origins[start], origins[end - 1] + 1
        while span[1] < len(text) and not _folded_character(text[span[1]]):
            span = span[0], span[1] + 1  # the accent that follows its letter
        if start < end and not any(opening <= span[0] and span[1] <= closing for opening, closing in tags):
            hits.append((*span, tag))
    return hits


def _across_lines(text: str, known: KnownIdentifiers) -> Iterator[Hit]:
    """Yield identifiers that a hyphen at the end of a line divides: "Smi-", "th"."""
    breaks = [match.span() for match in _DIVIDED.finditer(text)]
    if not breaks:
        return
    outside: list[int] = []  # indices of what is kept
    read = 0
    for start, end in (*breaks, (len(text), len(text))):
        outside += range(read, start)
        read = end
    joined = "".join(text[index] for index in outside)
    for start, end, tag in known.find(joined):
        if outside[end - 1] - outside[start] >= end - start:  # it runs over a line's end
            yield outside[start], outside[end - 1] + 1, tag


def _merged(hits: Iterable[Hit]) -> list[Hit]:
    """Unite overlapping hits; the union bears the tag that comes first in :class:`Tag`."""
    order = list(Tag)
    merged: list[Hit] = []
    for start, end, tag in sorted(hits):
        if merged and start < merged[-1][1]:
            before = merged.pop()
            merged.append((before[0], max(end, before[1]), min(tag, before[2], key=order.index)))
        else:
            merged.append((start, end, tag))
    return merged


def _mapped(span: Span, segments: Sequence[Segment]) -> Span:
    """Map a span from the first to the second side of ``segments``, taking in every stretch that it touches."""
    start, end = span
    if not 0 <= start <= end:
        raise ValueError(f"a span is 0 <= start <= end, got {span}")
    first = bisect_right(segments, start, key=lambda segment: segment[1])  # the first that ends behind the start
    touched = first < len(segments) and segments[first][0] < (start if start == end else start + 1)
    if touched:
        mapped_start = segments[first][2]
    else:
        mapped_start = start + (segments[first - 1][3] - segments[first - 1][1] if first else 0)
        if start == end:
            return mapped_start, mapped_start
    last = bisect_left(segments, end, key=lambda segment: segment[0]) - 1  # the last that starts before the end
    if last < 0:
        return mapped_start, end
    _, segment_end, _, mapped_end = segments[last]
    return mapped_start, mapped_end + max(0, end - segment_end)


@lru_cache(maxsize=256)
def _known(identifiers: tuple[str, ...]) -> KnownIdentifiers:
    """Prepare the search for one patient: several reports in a row are often one patient's."""
    return KnownIdentifiers(_folded(identifier)[0] for identifier in identifiers)


def _folded(text: str) -> tuple[str, list[int]]:
    """Return ``text`` without accents and typographic variants, and for each character the index that it came from."""
    characters: list[str] = []
    origins: list[int] = []
    for index, character in enumerate(text):
        folded = _folded_character(character)
        characters.append(folded)
        origins += [index] * len(folded)
    return "".join(characters), origins


@lru_cache(maxsize=4096)
def _folded_character(character: str) -> str:
    if character.isascii():
        return character
    if character in _LETTERS:
        return _LETTERS[character]
    decomposed: str = unicodedata.normalize("NFKD", character)
    return "".join(part for part in decomposed if unicodedata.category(part) not in {"Mn", "Cf"})
