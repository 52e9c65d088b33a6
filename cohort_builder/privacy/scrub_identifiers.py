"""What a patient's own record identifies the patient by, looked for in text in every spelling.

Each identifier is sorted once: an e-mail address or UID (as it is), a number or coded id (with other separators, with
or without leading zeros), a phrase (an address, an institution), else the name of a person.
"""

from __future__ import annotations

import re
from collections.abc import Iterable, Iterator

from cohort_builder.privacy.scrub_names import KnownNames
from cohort_builder.privacy.scrub_patterns import NOT_A_SIZE, Hit, Tag

_MIN_ID = 4
"""Shorter ids ("42", "F", "45Y") are everywhere in a report; :func:`find_generic` removes them behind a label."""
_SURE_DIGITS = 5
"""From this many digits, leading zeros apart, a number is taken for the id wherever it stands."""
_MAX_NAME_WORDS = 6

_INSTITUTION = (
    r"(?:hospitals?|clinics?|cent(?:er|re)s?|university|universitair\w*|universitaets\w*|medical|medicine|radiology"
    r"|imaging|institutes?|health(?:care)?|departments?|dept|infirmary|foundation|trust|school|college|laboratory|klinik"
    r"\w*|krankenhaus|ziekenhuis|hopital|ospedale|practice|associates|diagnostics?|services?|system|surgery|oncology)"
)
_ANY_PLACE = frozenset({"general", "saint", "regional", "county", "national", "memorial", "community", "city", "state"})
_INSTITUTION_WORD = re.compile(rf"\b{_INSTITUTION}\b")
_DATE = re.compile(r"(?:19|20)\d{2}[-/.]?(?:0[1-9]|1[0-2])[-/.]?(?:0[1-9]|[12]\d|3[01])")
_UID = re.compile(r"[0-2](?:\.\d+){3,}")
_IMAGE_BEFORE = re.compile(r"\b(?:images?|im(?:g|a)?|series|se|slices?)\.?[\s:#]*$", re.IGNORECASE)


def names_institution(text: str) -> bool:
    """Whether an identifier in lower case is the name of a hospital or department rather than of a person."""
    return "^" not in text and _INSTITUTION_WORD.search(text) is not None


class KnownIdentifiers:
    """Finds one patient's identifiers in text.

    Parameters
    ----------
    identifiers
        Names, ids, dates, addresses as the headers and the table write them, folded to ASCII letters, dashes, quotes.
    """

    def __init__(self, identifiers: Iterable[str]) -> None:
        names: list[str] = []
        self._patterns: list[tuple[re.Pattern[str], Tag]] = []
        self._short: list[re.Pattern[str]] = []
        for identifier in dict.fromkeys(" ".join(text.split()) for text in identifiers):
            if any(character.isdigit() for character in identifier) or "@" in identifier:
                self._learn_coded(identifier.lower())
            elif names_institution(identifier.lower()):
                self._learn_institution(identifier.lower())
            elif len(identifier.split()) > _MAX_NAME_WORDS:
                self._add(_phrase(identifier.lower()), Tag.NAME)
            else:
                names.append(identifier)
        self._names = KnownNames(names)

    def find(self, text: str) -> Iterator[Hit]:
        """Yield every span of ``text`` (folded; capitals kept) that holds an identifier, overlaps included."""
        yield from self._names.find(text)
        for pattern, tag in self._patterns:
            for match in pattern.finditer(text):
                yield *match.span(), tag
        for pattern in self._short:
            for match in pattern.finditer(text):
                if not _IMAGE_BEFORE.search(text[max(0, match.start() - 12) : match.start()]):
                    yield *match.span(), Tag.ID

    def _add(self, pattern: str, tag: Tag) -> None:
        self._patterns.append((re.compile(pattern, re.IGNORECASE), tag))

    def _learn_coded(self, identifier: str) -> None:
        runs = re.findall(r"[^\W\d_]+|\d+", identifier)
        digits = max((run for run in runs if run.isdigit()), key=lambda run: len(run.lstrip("0")), default="")
        core = digits.lstrip("0")
        if "@" in identifier:
            self._add(re.escape(identifier), Tag.EMAIL)
        elif _UID.fullmatch(identifier):
            self._add(rf"(?<![\w.]){re.escape(identifier)}(?![\w])", Tag.UID)
        elif len("".join(runs)) < _MIN_ID:
            return
        elif identifier.isdigit() and len(core) < _SURE_DIGITS:
            # "4821" may be the patient or the HU of a screw: not before a unit, not as the number of an image.
            self._short.append(re.compile(rf"(?<![\w.,/-])(?:{digits}|0+{core}){NOT_A_SIZE}(?!\w)", re.IGNORECASE))
        else:
            tag = Tag.DATE if _DATE.fullmatch(identifier) else Tag.ID
            self._add(_coded(runs, loose=len(core) >= _MIN_ID), tag)
            if len(runs) > 1 and len(core) >= _SURE_DIGITS:
                self._add(_coded([digits], loose=True), tag)

    def _learn_institution(self, identifier: str) -> None:
        words = re.findall(r"[^\W\d_]+", identifier)
        telling = [
            word
            for word in words
            if len(word) >= _MIN_ID and word not in _ANY_PLACE and not _INSTITUTION_WORD.fullmatch(word)
        ]
        if telling:
            self._add(_phrase(identifier), Tag.NAME)
        for word in telling:
            self._add(rf"(?<!\w){word}(?:'s)?(?:\W{{1,3}}\w+){{0,2}}?\W{{1,3}}{_INSTITUTION}(?!\w)", Tag.NAME)


def _coded(runs: list[str], *, loose: bool) -> str:
    """Return the pattern of an id: ``loose`` ids may be written with other separators and leading zeros."""
    if not loose:
        return r"(?<!\w)" + r"[\s_-]?".join(runs) + r"(?!\w)"
    written = [_digits(run) if run.isdigit() else run for run in runs]
    before = r"(?<!\d)(?<!\d[.,])" if runs[0].isdigit() else r"(?<![^\W_])"
    after = r"(?!\d|[.,]\d)" if runs[-1].isdigit() else r"(?![^\W_])"
    return before + r"[\s_./^#:-]{0,2}".join(written) + after


def _digits(run: str) -> str:
    stripped = run.lstrip("0") or "0"
    between = r"[\s./-]?" if len(stripped) >= _SURE_DIGITS else ""
    return "0*" + between.join(stripped)


def _phrase(text: str) -> str:
    """Return the pattern of words in this order, whatever stands between them."""
    return r"(?<!\w)" + r"[\W_]{1,3}".join(re.findall(r"[^\W_]+", text)) + r"(?!\w)"
