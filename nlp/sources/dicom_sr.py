"""The text of DICOM Structured Reports (PS3.3 C.17.3): TEXT content items under the names of their concepts."""

from __future__ import annotations

import io
import logging
import warnings
import zlib
from collections.abc import Iterable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from datetime import datetime
from functools import partial
from typing import Any

from nlp.sources.base import FileKind, Item, SourceFile, Stream, decoded
from nlp.sources.column_names import section_of
from nlp.sources.dates import parse_time
from nlp.sources.headings import CODED, joined
from nlp.types import Report, ReportError

_PREFIX = b"DICM"
_SR = "1.2.840.10008.5.1.4.1.1.88."  # every SR storage class (PS3.4 B.5)
_SEQUENCE_END = b"\xfe\xff\xdd\xe0\0\0\0\0"
_UNDEFINED = 0xFFFFFFFF
_SOP_CLASS = 0x00080016
_HEAD_BYTES = 4096  # File Meta Information and SOP Class UID
_DEFLATED = b"1.2.840.10008.1.2.1.99"
_META_START = 144  # behind preamble, prefix and group length
_ITEM_TAGS = (b"\xfe\xff\x00\xe0", b"\xff\xfe\xe0\x00")  # little and big endian
_MOST_ITEMS, _MOST_INFLATED, _MOST_BYTES = 100_000, 4 << 20, 32 << 20
_KEY_OBJECT = "1.2.840.10008.5.1.4.1.1.88.59"
_SAID = {"", "CONTAINS", "HAS PROPERTIES", "INFERRED FROM"}  # not the context, and not the modifiers of a concept
_LANGUAGE = "121049"  # Language of Content Item and Descendants (PS3.16 TID 1204)
_NUMBERS = (
    "PatientID",
    "PatientBirthDate",
    "OtherPatientIDs",
    "PatientAddress",
    "PatientTelephoneNumbers",
    "InstitutionName",
)


@dataclass(frozen=True, slots=True)
class _Texts:
    """Reads the text attributes of one dataset; ``declared`` says whether its character set is."""

    declared: bool
    encoding: str | None

    def of(self, item: Any, keyword: str) -> str:
        """Return an attribute as text, several values joined by a backslash; "" where it is absent or empty.

        Raises
        ------
        ReportError
            It holds characters that no character set was declared for, or that the declared one does not have.
        """
        value = item.get(keyword)
        values = value if type(value).__name__ == "MultiValue" else [value]
        text = "\\".join("" if part is None else str(part) for part in values).strip(" \0")
        if not text.isascii() and not self.declared:
            if self.encoding is None:
                raise ReportError(
                    "the Structured Report holds characters beyond ASCII and no Specific Character Set (0008,0005); "
                    "declare the encoding, for example encoding='latin-1'"
                )
            text = decoded(text.encode("latin-1"), self.encoding, None)  # pydicom reads undeclared bytes as Latin-1
        if "\ufffd" in text:
            raise ReportError("a text of the Structured Report is not in its Specific Character Set (0008,0005)")
        return text.replace("\r\n", "\n").replace("\r", "\n")


def _recognises(file: SourceFile, head: bytes) -> bool:  # noqa: ARG001
    return head[128:132] == _PREFIX


def _holds_none(file: SourceFile) -> bool:
    """Whether a file is an object in which no report can be: an image, a presentation state, a key object note."""
    from pydicom.filereader import read_partial

    try:
        with file.reading(), _quietly(), file.open() as stream:
            head = stream.read(_HEAD_BYTES)
            if _DEFLATED in head:
                head += stream.read()
                if _is_bomb(head):
                    return False
            ds = read_partial(io.BytesIO(head), lambda tag, _vr, _length: int(tag) > _SOP_CLASS)
            sop_class = str(ds.get("SOPClassUID", ""))
    except Exception:  # noqa: BLE001 - opening it as a report says what is wrong
        return False
    return not sop_class.startswith(_SR) or sop_class == _KEY_OBJECT


def _open(file: SourceFile) -> Stream:
    return partial(_reports, file)


def _is_bomb(content: bytes) -> bool:
    """Whether it holds more sequence items than any report (pydicom takes a kilobyte for each), or inflates to more."""
    if _DEFLATED in content[:_HEAD_BYTES]:
        start = _META_START + int.from_bytes(content[_META_START - 4 : _META_START], "little")
        content = zlib.decompressobj(-zlib.MAX_WBITS).decompress(content[start:], _MOST_INFLATED + 1)
        if len(content) > _MOST_INFLATED:
            return True
    return len(content) > _MOST_BYTES or sum(content.count(tag) for tag in _ITEM_TAGS) > _MOST_ITEMS


def _reports(file: SourceFile) -> Iterator[Item]:
    ds = _dataset(file)
    try:
        with _quietly():
            report = _report(ds, file)
    except ReportError as error:
        yield error
    except Exception as error:  # noqa: BLE001 - pydicom converts values on access, and its messages quote them
        yield ReportError(f"{file.name} holds an attribute that cannot be read ({type(error).__name__})")
    else:
        yield report


def _dataset(file: SourceFile) -> Any:
    from pydicom import dcmread

    try:
        with file.reading(), _quietly():
            content = file.content()
            bomb = _is_bomb(content)
            ds = None if bomb else dcmread(io.BytesIO(content), stop_before_pixels=True)
            whole = bomb or _is_whole(ds, content[-len(_SEQUENCE_END) :])
    except ReportError:
        raise
    except Exception as error:  # noqa: BLE001 - pydicom raises what it meets, and its messages quote values
        raise ReportError(f"{file.name} cannot be parsed as DICOM ({type(error).__name__})") from None
    if bomb:
        raise ReportError(f"{file.name} holds more items, or inflates to more, than any report: it is not parsed")
    if not whole:
        raise ReportError(f"{file.name} is truncated: it ends in the middle of an element; export it again")
    return ds


def _is_whole(ds: Any, tail: bytes = _SEQUENCE_END) -> bool:
    """Whether no element holds fewer bytes than it declares: pydicom reads what is there, and says nothing."""
    last: Any = None
    for tag in ds.keys():  # noqa: SIM118 - iterating a Dataset would convert every value
        last = ds.get_item(tag)
        if type(last).__name__ == "RawDataElement":
            if isinstance(last.value, bytes) and last.length != _UNDEFINED and len(last.value) < last.length:
                return False
        elif last.VR == "SQ" and not all(map(_is_whole, last.value)):
            return False
    return tail == _SEQUENCE_END or not getattr(last, "is_undefined_length", False)


def _report(ds: Any, file: SourceFile) -> Report:
    if not str(ds.get("SOPClassUID", "")).startswith(_SR):
        raise ReportError(f"{file.name} is a DICOM object, but no Structured Report")
    uid = str(ds.get("SOPInstanceUID", ""))
    if not uid:
        raise ReportError("the Structured Report has no SOP Instance UID; every report needs an id")
    texts = _Texts(_declares_characters(ds), file.encoding)
    text = joined(_parts(ds, "", texts))
    if not text.strip():
        raise ReportError("the Structured Report holds no TEXT content item")
    requests = list(_items(ds, "ReferencedRequestSequence"))
    evidence = list(_items(ds, "CurrentRequestedProcedureEvidenceSequence"))
    day = parse_time(texts.of(ds, "StudyDate"))
    return Report(
        report_id=uid,
        text=text,
        accession_numbers=_unique(texts.of(item, "AccessionNumber") for item in (*requests, ds)),
        study_instance_uids=_unique(texts.of(item, "StudyInstanceUID") for item in (*requests, *evidence, ds)),
        patient_id=texts.of(ds, "PatientID") or None,
        study_date=day.date() if day is not None else None,
        language=_language(ds),
        status=_status(ds),
        identifiers=_unique(_identifiers(ds, texts)),
        version_key=_family(ds, uid, file.families),
        issued_at=_issued_at(ds),
    )


def _declares_characters(ds: Any) -> bool:
    from pydicom.charset import python_encoding

    value = ds.get("SpecificCharacterSet")
    sets = [str(part) for part in (value if type(value).__name__ == "MultiValue" else [value or ""])]
    if any(name not in python_encoding for name in sets):
        raise ReportError("the Specific Character Set (0008,0005) of the Structured Report is unknown")
    return not set(sets) <= {"", "ISO_IR 6"}


def _parts(item: Any, section: str, texts: _Texts) -> Iterator[tuple[str, str]]:
    """The texts below a content item, depth first, each with the heading that it stands under."""
    for child in _items(item, "ContentSequence"):
        if str(child.get("RelationshipType") or "") not in _SAID:
            continue
        kind = str(child.get("ValueType") or "")
        concept = next(_items(child, "ConceptNameCodeSequence"), None)
        meaning = texts.of(concept, "CodeMeaning") if concept is not None else ""
        known = section_of(meaning)
        heading = CODED.get(str(concept.get("CodeValue")) if concept is not None else "") or (known[0] if known else "")
        if kind == "TEXT":
            text = texts.of(child, "TextValue").strip("\n")
            label = f"{meaning}: " if section and meaning and not heading else ""
            yield section or heading or meaning, f"{label}{text}" if text else ""
        yield from _parts(child, (heading or meaning or section) if kind == "CONTAINER" else section, texts)


def _items(item: Any, keyword: str) -> Iterator[Any]:
    yield from item.get(keyword) or ()


def _language(ds: Any) -> str:
    """The language of the document (PS3.16 TID 1204), an RFC 5646 code; English where none is said."""
    for item in _items(ds, "ContentSequence"):
        concept = next(_items(item, "ConceptNameCodeSequence"), None)
        code = next(_items(item, "ConceptCodeSequence"), None)
        if concept is not None and code is not None and str(concept.get("CodeValue")) == _LANGUAGE:
            return str(code.get("CodeValue") or "en").split("-")[0].lower()
    return "en"


def _status(ds: Any) -> str:
    """Final is what somebody verified (PS3.3 C.17.2)."""
    if str(ds.get("PreliminaryFlag")) == "PRELIMINARY":
        return "preliminary"
    if str(ds.get("VerificationFlag")) == "VERIFIED":
        return "final"
    return "partial" if str(ds.get("CompletionFlag")) == "PARTIAL" else "preliminary"


def _issued_at(ds: Any) -> datetime | None:
    """When the last observer verified the document, else when its content was made."""
    verified = [str(item.get("VerificationDateTime") or "") for item in _items(ds, "VerifyingObserverSequence")]
    times = [time for written in verified if (time := parse_time(written)) is not None]
    if times:
        return max(times, key=datetime.timestamp)
    return parse_time(f"{ds.get('ContentDate') or ''}{ds.get('ContentTime') or ''}")


def _family(ds: Any, uid: str, families: dict[str, str]) -> str:
    """What the versions of a document share: the UID of one of them, as far as its predecessors are known."""
    predecessors = [
        str(reference.get("ReferencedSOPInstanceUID") or "")
        for study in _items(ds, "PredecessorDocumentsSequence")
        for series in _items(study, "ReferencedSeriesSequence")
        for reference in _items(series, "ReferencedSOPSequence")
    ]
    members = [uid, *filter(None, predecessors)]
    key = next((families[member] for member in reversed(members) if member in families), members[-1])
    if len(members) > 1:  # what stands alone need not be remembered: it is its own key
        families.update(dict.fromkeys(members, key))
    return key


def _identifiers(ds: Any, texts: _Texts) -> Iterator[str]:
    """Every person's name at any depth, and what else identifies the patient."""
    for keyword in _NUMBERS:
        yield texts.of(ds, keyword)
    for element in ds.iterall():
        if element.VR == "PN" and element.value:
            names = element.value if type(element.value).__name__ == "MultiValue" else [element.value]
            yield from (str(name) for name in names)


def _unique(values: Iterable[str]) -> tuple[str, ...]:
    return tuple(dict.fromkeys(value for value in values if value.strip()))


@contextmanager
def _quietly() -> Iterator[None]:
    """Keep pydicom's warnings from every log: they quote values, and names are values."""
    pydicom_logger = logging.getLogger("pydicom")
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        pydicom_logger.addFilter(_dropped)
        try:
            yield
        finally:
            pydicom_logger.removeFilter(_dropped)


def _dropped(_record: logging.LogRecord) -> bool:
    return False


KIND = FileKind("DICOM SR", (".dcm", ".dicom", ".sr"), _recognises, _open, _holds_none)
