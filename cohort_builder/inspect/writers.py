"""Which machines and programs wrote an export, said without saying who was examined.

Manufacturer, model and software version are a header's text. They are written by machines, but nothing in the standard
keeps a name out of them. A manufacturer is shown only if every word of it is one of known makers or of the trade; model
and version only beside such a one, if they have the form of such names and share no word with an identifier of any
study of the export.
"""

from __future__ import annotations

import re
from collections.abc import Iterable, Iterator, Mapping, Sequence
from typing import TYPE_CHECKING, TypeAlias

from cohort_builder.inspect.tally import Key, under

if TYPE_CHECKING:
    from cohort_builder.pacs.instances import Instance

Writer: TypeAlias = tuple[str, str, str]
"""Manufacturer, model and software version as the header has them; empty where it has none. Private."""

WITHHELD, OTHER_MAKER = "(withheld)", "(other maker)"
SERIES, STATES, REPORTS = "CT series", "presentation states", "structured reports"
"""What somebody wrote, as counted."""

_NAME = re.compile(r"[A-Za-z0-9][A-Za-z0-9 .,_/&()+-]{0,47}")
_MOST_WORDS, _MOST_DIGITS = 6, 4
_VERSION = re.compile(
    r"[A-Za-z]{0,6}[-_]?[0-9][0-9A-Za-z.]{0,11}(?:_[0-9A-Za-z]{1,6}){0,2}"  # VA48A_02_P12, 07MW18.4, 12.3
    r"|[a-z]{2,9}[0-9]{0,2}(?:_[a-z0-9]{2,6}){0,2}[.][0-9]{1,3}"  # dm09_hl2sp1.23
)
_VERSION_WORDS = frozenset({
    "version", "release", "build", "rev", "syngo", "ct", "sp", "hotfix", "patch", "update", "beta", "server", "client",
})  # fmt: skip
_LONG_NUMBER = re.compile(r"[0-9]{5,}")
_DATE = re.compile(
    r"(?:19|20)[0-9]{2}(?:[-./_ ]?[0-9]{2}){2}(?![0-9])|(?:19|20)[0-9]{2}[-./_ ][0-9]{1,2}[-./_ ][0-9]{1,2}|"
    r"[0-9]{1,2}[-./_ ][0-9]{1,2}[-./_ ](?:19|20)[0-9]{2}"
)
_UID_LIKE = re.compile(r"(?:[0-9]+\.){5,}")
_WORD = re.compile(r"[^\W_]+")
_LEAST_WORD, _LEAST_PART = 3, 5
_PERSONAL = frozenset({"dr", "prof", "mr", "mrs", "ms", "herr", "frau", "praxis", "hospital", "klinik", "klinikum"})
# fmt: off
_MAKERS = frozenset({
    "aycan", "anke", "imatron", "marconi", "medis", "medixant", "neurologica", "planmeca", "terarecon",
    "tiani", "dedalus", "telemis", "visus", "jivex", "ibm", "minfound", "united", "uih", "chili",
    "agfa", "barco", "bayer", "brainlab", "bracco", "bruker", "canon", "carestream", "cerner", "elekta", "fuji",
    "fujifilm", "ge", "hitachi", "hologic", "infinitt", "intelerad", "lunit", "mckesson", "medison", "merge", "mevis",
    "mim", "mindray", "mint", "neusoft", "nuclear", "ohif", "osirix", "horos", "philips", "picker", "samsung", "sectra",
    "siemens", "softneta", "toshiba", "mec", "varian", "visage", "vital", "vitrea", "weasis", "shimadzu", "synapse",
})
"""Words of the names of those who make CT scanners, archives and viewers."""
_TRADE = frozenset({
    "medical", "systems", "system", "imaging", "images", "health", "healthcare", "healthineers", "solutions",
    "technology", "technologies", "electronics", "corporation", "company", "inc", "ltd", "gmbh", "llc", "pacs", "ris",
    "viewer", "workstation", "scanner", "view", "scan", "dicom", "the", "and", "ct", "co", "corp", "ag", "kg", "bv",
    "nv", "sa", "group", "industries", "international", "digital", "software", "vision", "lifesciences", "enterprise",
    "radiology",
})
_KNOWN = _MAKERS | _TRADE  # a patient called Philips, or a hospital with Medical in its name, must not hide the vendor
# fmt: on


def writer_of(instance: Instance) -> Writer:
    """Who wrote an object, as its header says."""
    return (
        instance.manufacturer or "",
        instance.manufacturer_model_name or "",
        instance.software_versions or "",
    )


def writers_in(tally: Mapping[Key, int]) -> Iterator[Writer]:
    """Every writer that was counted: of most objects first."""
    for _, manufacturer, model, version in under(tally, "writers"):
        yield manufacturer, model, version
    for manufacturer, model, version, *_ in under(tally, "whole") | under(tally, "beyond"):
        yield manufacturer, model, version


class WriterNames:
    """What of the writers of an export may be said.

    Parameters
    ----------
    writers
        All of them, in the order in which those without a name are numbered.
    identifiers
        Every identifier of every study of the export; gone through once, and not kept.

    """

    def __init__(self, writers: Iterable[Writer], identifiers: Iterable[str]) -> None:
        writers = list(dict.fromkeys(writers))
        values = {value for writer in writers for value in writer if value}
        places = {(value, i) for writer in writers for i, value in enumerate(writer) if value}
        clean = values - {value for value, i in places if i and not _is_name_like(value, i)}
        self._shown = clean - _coinciding(clean, identifiers)
        self.withheld = len(values - {w[i] for w in writers for i in range(len(w)) if self._may_be_shown(w, i)})
        self._labels = self._number(writers)

    def parts(self, writer: Writer) -> tuple[str, str, str]:
        """Manufacturer, model and version, each as it may be shown."""
        manufacturer, model, version = (
            value if self._may_be_shown(writer, i) else WITHHELD if i else OTHER_MAKER for i, value in enumerate(writer)
        )
        return (
            manufacturer if writer[0] else "",
            model if writer[1] else "",
            ", ".join(version.split("\\")) if writer[2] else "",
        )

    def label(self, writer: Writer) -> str:
        """One name, different for different writers."""
        return self._labels[writer]

    def _may_be_shown(self, writer: Writer, place: int) -> bool:
        return _is_known_maker(writer[0]) and (place == 0 or writer[place] in self._shown)

    def _number(self, writers: Sequence[Writer]) -> dict[Writer, str]:
        labels: dict[Writer, str] = {}
        for writer in writers:
            said = " ".join(part for part in self.parts(writer) if part) or "(not named)"
            same = sum(one == said or one.startswith(f"{said} #") for one in labels.values())
            labels[writer] = f"{said} #{same + 1}" if same else said
        return labels


def _is_known_maker(value: str) -> bool:
    words = set(_words(value))
    return bool(_NAME.fullmatch(value)) and words <= _KNOWN and not words.isdisjoint(_MAKERS)


def _is_name_like(value: str, place: int) -> bool:
    """Whether a text has the form of a model (``place`` 1) or of software versions (2)."""
    if _LONG_NUMBER.search(value) or _DATE.search(value) or _UID_LIKE.search(value):
        return False
    if place == 1:
        if not _PERSONAL.isdisjoint(_words(value)):
            return False
        digits = sum(character.isdigit() for character in value)
        return bool(_NAME.fullmatch(value)) and len(value.split()) <= _MOST_WORDS and digits <= _MOST_DIGITS
    words = value.replace("\\", " ").split()
    return 0 < len(words) <= _MOST_WORDS and all(
        word.lower() in _VERSION_WORDS or _VERSION.fullmatch(word) for word in words
    )


def _coinciding(values: Iterable[str], identifiers: Iterable[str]) -> set[str]:
    """Those of ``values`` that share a word with an identifier, or hold one once both are stripped to letters."""
    words = {value: set(_words(value)) - _KNOWN for value in values}
    squeezed = {value: "".join(_words(value)) for value in values}
    suspicious = {word for found in words.values() for word in found}
    everything = "\n".join(squeezed.values())
    met, inside = set[str](), set[str]()
    for identifier in identifiers:
        parts = _words(identifier)
        met.update(part for part in parts if len(part) >= _LEAST_WORD and part in suspicious)
        whole = "".join(parts)
        met.update({whole} & suspicious)
        if len(whole) >= _LEAST_PART and whole not in _KNOWN and whole in everything:
            inside.add(whole)
    return {
        value
        for value in words
        if words[value] & met or any(part in squeezed[value] for part in inside if not _is_trade(part))
    }


def _words(text: str) -> list[str]:
    return [word.casefold() for word in _WORD.findall(text)]


def _is_trade(squeezed: str) -> bool:
    return squeezed in _KNOWN
