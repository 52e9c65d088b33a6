"""FHIR R4 DiagnosticReport: one resource, a Bundle, or NDJSON, as JSON.

Read as plain JSON rather than validated: what servers export is often not valid, and readable all the same.
"""

from __future__ import annotations

import base64
import binascii
import re
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from functools import partial
from typing import Any

from nlp.sources.base import FileKind, Item, SourceFile, Stream, decoded
from nlp.sources.dates import parse_time
from nlp.sources.headings import joined
from nlp.sources.html_text import html_to_text
from nlp.sources.json_lines import json_values
from nlp.sources.statuses import WITHDRAWN, normal_status
from nlp.types import Report, ReportError

Resource = Mapping[str, Any]

_OID = re.compile(r"(?:urn:oid:)?(?P<uid>[0-2](?:\.\d+)+)")
_CHARSET = re.compile(r";\s*charset\s*=\s*\"?(?P<name>[\w.:-]+)", re.IGNORECASE)
_SPECIFIC_NUMBERS = {"ACSN", "PLAC", "FILL"}  # of the order, not of the report
_NAMED = ("subject", "performer", "resultsInterpreter", "requester", "encounter")


def _recognises(file: SourceFile, head: bytes) -> bool:  # noqa: ARG001
    return head.lstrip(b"\xef\xbb\xbf \t\r\n").startswith((b"{", b"[")) and b'"resourceType"' in head.replace(
        b"\0", b""
    )


def _open(file: SourceFile) -> Stream:
    return partial(_reports, file)


def _reports(file: SourceFile) -> Iterator[Item]:
    for resource in json_values(file):
        if isinstance(resource, ReportError):
            yield resource
        elif not isinstance(resource, dict) or "resourceType" not in resource:
            yield ReportError("the JSON object is no FHIR resource: it has no resourceType")
        elif resource["resourceType"] == "Bundle":
            yield from _bundled(resource, file.encoding)
        elif resource["resourceType"] == "DiagnosticReport":
            yield _item(_Context(resource, {}, in_bundle=False), file.encoding)


def _bundled(bundle: Resource, encoding: str | None) -> Iterator[Item]:
    """The reports of a Bundle. Other resources are there to be referred to."""
    entries = [entry for entry in _dicts(bundle.get("entry")) if isinstance(entry.get("resource"), dict)]
    known: dict[str, Resource] = {}
    for entry in entries:
        resource = entry["resource"]
        known[f"{resource.get('resourceType')}/{resource.get('id')}"] = resource
        if isinstance(entry.get("fullUrl"), str):
            known[entry["fullUrl"]] = resource
    for entry in entries:
        resource = entry["resource"]
        if resource.get("resourceType") == "Bundle":
            yield from _bundled(resource, encoding)
        elif resource.get("resourceType") == "DiagnosticReport":
            yield _item(_Context(resource, known, in_bundle=True, url=_string(entry.get("fullUrl"))), encoding)


def _item(context: _Context, encoding: str | None) -> Item:
    try:
        return _report(context, encoding)
    except ReportError as error:
        return error


@dataclass(frozen=True, slots=True)
class _Context:
    """A report and the resources that it may refer to."""

    report: Resource
    known: Mapping[str, Resource]
    in_bundle: bool
    url: str = ""

    def resolved(self, reference: object) -> Resource | None:
        """Return the contained or bundled resource that a Reference names."""
        target = _string(reference.get("reference")) if isinstance(reference, dict) else ""
        if target.startswith("#"):
            contained = _dicts(self.report.get("contained"))
            return next((resource for resource in contained if f"#{resource.get('id')}" == target), None)
        relative = "/".join(target.split("/_history/")[0].split("/")[-2:])
        return self.known.get(target) or self.known.get(relative)

    def all_resolved(self, field: str) -> list[Resource]:
        """Return what the references of a field of the report name."""
        return [
            found for reference in _dicts(self.report.get(field)) if (found := self.resolved(reference)) is not None
        ]


def _report(context: _Context, encoding: str | None) -> Report:
    report = context.report
    status = normal_status(_string(report.get("status")))
    own = _own_identifier(report)
    report_id = _string(report.get("id")) or own.rpartition("|")[2] or context.url
    if not report_id:
        raise ReportError("the DiagnosticReport has neither id nor identifier; every report needs one")
    patient = _patient(context)
    text = _text(report, encoding)
    if not text.strip() and status not in WITHDRAWN:
        raise ReportError(
            "the DiagnosticReport holds no text: no presentedForm with data in text/plain or text/html, no text.div "
            "and no conclusion (a PDF, or a form behind a URL, cannot be read; export it as text)"
        )
    issued = _string(report.get("issued")) or _string(_child(report, "meta").get("lastUpdated"))
    return Report(
        report_id=report_id,
        text=text,
        accession_numbers=_accession_numbers(context),
        study_instance_uids=_study_uids(context),
        patient_id=_patient_id(report, patient),
        study_date=_study_date(context),
        language=_string(report.get("language")).split("-")[0].lower() or "en",
        status=status,
        identifiers=_identifiers(context, patient),
        version_key=own or f"DiagnosticReport/{report_id}",
        issued_at=parse_time(issued),
    )


def _text(report: Resource, encoding: str | None) -> str:
    """The text, in the order of trust: the form that was issued, the narrative, the conclusion."""
    forms = [form for form in _dicts(report.get("presentedForm")) if _string(form.get("data"))]
    for kind in ("text/plain", "text/html", "application/xhtml"):
        for form in forms:
            if _string(form.get("contentType")).lower().startswith(kind):
                text = _form_text(form, encoding)
                if text.strip():
                    return text if kind == "text/plain" else html_to_text(text)
    narrative = html_to_text(_string(_child(report, "text").get("div")))
    if narrative.strip():
        return narrative
    return joined([("impression", _string(report.get("conclusion")))])


def _form_text(form: Resource, encoding: str | None) -> str:
    try:
        content = base64.b64decode("".join(form["data"].split()), validate=True)
    except (binascii.Error, ValueError):
        raise ReportError("the data of presentedForm are not valid base64") from None
    charset = _CHARSET.search(_string(form.get("contentType")))
    return decoded(content, charset["name"] if charset is not None else None, encoding)


def _patient(context: _Context) -> Resource | None:
    """The Patient resource, None where it is elsewhere. Raises ReportError where it should be there and is not."""
    subject = context.report.get("subject")
    if not isinstance(subject, dict):
        return None
    patient = context.resolved(subject)
    target = _string(subject.get("reference"))
    if patient is None and not isinstance(subject.get("identifier"), dict) and target:
        if target.startswith("#"):
            raise ReportError("the patient that the DiagnosticReport refers to is not contained in it")
        if context.in_bundle:
            raise ReportError(
                "the patient that the DiagnosticReport refers to is not in the Bundle; export it too "
                "(_include=DiagnosticReport:subject): its names must be known to be struck from the text"
            )
    return patient


def _patient_id(report: Resource, patient: Resource | None) -> str | None:
    """The hospital's number of the patient; the id of the resource is the server's own and joins nothing."""
    numbers = [*_dicts(_child(report, "subject").get("identifier")), *_dicts((patient or {}).get("identifier"))]
    typed = [number for number in numbers if _codes(number) & {"MR", "PI", "PT"}]
    usual = [number for number in numbers if number.get("use") in {"usual", "official"}]
    return next((value for number in (*typed, *usual, *numbers) if (value := _string(number.get("value")))), None)


def _accession_numbers(context: _Context) -> tuple[str, ...]:
    """Accession numbers, of the best sort there is: typed so; of a system named so; the filler's; the request's."""
    requests = [*context.all_resolved("basedOn"), *context.all_resolved("imagingStudy")]
    logical = [*_dicts(context.report.get("basedOn")), *_dicts(context.report.get("imagingStudy"))]
    of_order = [number for holder in (*requests, *logical) for number in _dicts(holder.get("identifier"))]
    of_order += [
        number
        for study in context.all_resolved("imagingStudy")
        for request in _dicts(study.get("basedOn"))
        for number in (*_dicts(request.get("identifier")), *_dicts((context.resolved(request) or {}).get("identifier")))
    ]
    numbers = [*_dicts(context.report.get("identifier")), *of_order]
    untyped = [number for number in of_order if not _codes(number) and not _uid(number)]
    sorts = (
        [number for number in numbers if "ACSN" in _codes(number)],
        [number for number in numbers if "accession" in _string(number.get("system")).lower()],
        [number for number in numbers if "FILL" in _codes(number)],
        untyped,
    )
    best = next(filter(None, sorts), [])
    return tuple(dict.fromkeys(value for number in best if (value := _string(number.get("value")))))


def _study_uids(context: _Context) -> tuple[str, ...]:
    holders = [*_dicts(context.report.get("imagingStudy")), *context.all_resolved("imagingStudy")]
    numbers = [number for holder in holders for number in _dicts(holder.get("identifier"))]
    return tuple(dict.fromkeys(uid for number in numbers if (uid := _uid(number))))


def _uid(number: Resource) -> str:
    match = _OID.fullmatch(_string(number.get("value")))
    named = number.get("system") == "urn:dicom:uid" or _string(number.get("value")).startswith("urn:oid:")
    return match["uid"] if match is not None and named else ""


def _study_date(context: _Context) -> Any:
    report = context.report
    written = [_string(study.get("started")) for study in context.all_resolved("imagingStudy")]
    written += [_string(report.get("effectiveDateTime")), _string(_child(report, "effectivePeriod").get("start"))]
    times = (parse_time(time) for time in written)
    return next((time.date() for time in times if time is not None), None)


def _own_identifier(report: Resource) -> str:
    """The report's business identifier, "system|value": the same for all its versions. "" where it has none."""
    for number in _dicts(report.get("identifier")):
        accession = "accession" in _string(number.get("system")).lower()
        if _string(number.get("value")) and not _codes(number) & _SPECIFIC_NUMBERS and not accession:
            return f"{_string(number.get('system'))}|{_string(number.get('value'))}"
    return ""


def _identifiers(context: _Context, patient: Resource | None) -> tuple[str, ...]:
    """Names, numbers, birth date and addresses of the patient; names of whoever else the report refers to."""
    found = list(_of_person(patient or {}))
    found += [_string(number.get("value")) for number in _dicts((patient or {}).get("identifier"))]
    found += [_string(number.get("value")) for number in _dicts(_child(context.report, "subject").get("identifier"))]
    requests = context.all_resolved("basedOn")
    for holder in (context.report, *requests):
        for field in _NAMED:
            for reference in _dicts(holder.get(field)):
                found.append(_string(reference.get("display")))
                found += _of_person(context.resolved(reference) or {})
    for resource in _dicts(context.report.get("contained")):
        found += _of_person(resource)
    return tuple(dict.fromkeys(text.strip() for text in found if text.strip()))


def _of_person(resource: Resource) -> Iterator[str]:
    names = resource.get("name")
    if isinstance(names, str):  # of an organisation
        yield names
    for name in _dicts(names):
        given = _strings(name.get("given"))
        yield from ("^".join([_string(name.get("family")), *given]).strip("^"), _string(name.get("text")))
    yield _string(resource.get("birthDate"))
    for address in _dicts(resource.get("address")):
        yield from _strings(address.get("line"))
        yield _string(address.get("text"))
    yield from (_string(contact.get("value")) for contact in _dicts(resource.get("telecom")))


def _codes(number: Resource) -> set[str]:
    return {_string(coding.get("code")) for coding in _dicts(_child(number, "type").get("coding"))}


def _child(resource: Resource, field: str) -> Resource:
    value = resource.get(field)
    return value if isinstance(value, dict) else {}


def _dicts(value: object) -> list[dict[str, Any]]:
    """The objects of a field that holds one or a list, whatever else stands there."""
    values = value if isinstance(value, list) else [value]
    return [item for item in values if isinstance(item, dict)]


def _strings(value: object) -> list[str]:
    return [item for item in value if isinstance(item, str)] if isinstance(value, list) else []


def _string(value: object) -> str:
    return value if isinstance(value, str) else ""


KIND = FileKind("FHIR DiagnosticReport", (), _recognises, _open)
