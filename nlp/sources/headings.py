"""Texts that come in parts, as one text under headings that :func:`nlp.sections.split_sections` knows."""

from __future__ import annotations

import re
from collections.abc import Iterable

from nlp.sections import BODY, split_sections

ORDER = (
    "examination",
    "indication",
    "history",
    "technique",
    "comparison",
    "findings",
    "impression",
    "recommendation",
    "addendum",
)
"""Sections, in the order in which a text is put together; each is its own heading in capitals."""

CODED = {
    # LOINC, as HL7 v2 and FHIR write them; the DICOM Content Mapping Resource (PS3.16 CID 7001), as SR does.
    **dict.fromkeys(("59776-5", "18782-3", "121070", "121071"), "findings"),
    **dict.fromkeys(("19005-8", "55110-1", "121072", "121073", "121076", "121077", "121111"), "impression"),
    **dict.fromkeys(("55111-9", "121064", "121065"), "technique"),
    **dict.fromkeys(("18834-2",), "comparison"),
    **dict.fromkeys(("11329-0", "10164-2", "121060"), "history"),
    **dict.fromkeys(("18785-6", "55115-0", "121109"), "indication"),
    **dict.fromkeys(("18783-1", "121074", "121075"), "recommendation"),
    **dict.fromkeys(("55107-7",), "addendum"),
}
"""Section by the code of its concept."""

_WORD = re.compile(r"\w+")
_SENTENCE_END = re.compile(r"[.:;!?](?=\s|$)|\n")
_FEW = 4


def joined(parts: Iterable[tuple[str, str]]) -> str:
    """Return one text of (heading, text) parts in their order.

    A part without heading, and one that brings a heading of its own, stands as it is; parts that follow each other
    under one heading share it.
    """
    pieces: list[str] = []
    before = ""
    for heading, text in parts:
        if not text.strip():
            continue
        if heading and heading == before:
            pieces.append(f"\n{text}")
            continue
        pieces.append("\n\n" if pieces else "")
        pieces.append(text if not heading or begins_with_heading(text) else f"{heading.upper()}:\n{text}")
        before = heading
    return "".join(pieces)


def begins_with_heading(text: str) -> bool:
    """Whether a text brings its own first heading."""
    sections = split_sections(text[:2000])
    return bool(sections) and sections[0].name != BODY


def holds(text: str, part: str) -> bool:
    """Whether ``text`` says all of ``part``, apart from spaces, punctuation and capitals.

    A few words must be a sentence of their own: "Normal." is not what "not normal." says.
    """
    words = _WORD.findall(part.lower())
    if len(words) > _FEW:
        return f" {' '.join(words)} " in f" {' '.join(_WORD.findall(text.lower()))} "
    return words in [_WORD.findall(sentence.lower()) for sentence in _SENTENCE_END.split(text)]
