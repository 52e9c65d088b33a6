"""The state of a report in one vocabulary, that of FHIR's DiagnosticReport.status."""

from __future__ import annotations

WITHDRAWN = frozenset({"cancelled", "entered-in-error"})
"""A version in such a state takes the report back; it may hold no text."""

_ALSO_WRITTEN = {
    "registered": "ordered scheduled registered angemeldet",
    "partial": "partial",
    "preliminary": "p prelim preliminary draft unverified dictated transcribed unsigned in_progress pending "
    "vorlaeufig vorläufig nicht_freigegeben voorlopig concept",
    "final": "f final finalized finalised complete completed verified signed approved authenticated auth validated "
    "auth_(verified) final_result endgültig endgueltig freigegeben vidiert definitief geautoriseerd geverifieerd",
    "amended": "amended modified altered geändert geaendert gewijzigd",
    "corrected": "c corrected correction korrigiert gecorrigeerd",
    "appended": "appended addendum addended ergänzt ergaenzt aangevuld",
    "cancelled": "x cancelled canceled storniert geannuleerd",
    "entered-in-error": "entered-in-error entered_in_error in_error inerror deleted wrong",
}
_STATUSES = {word: status for status, words in _ALSO_WRITTEN.items() for word in words.split()}


def normal_status(written: str) -> str:
    """Return FHIR's word for a status as FHIR or a warehouse writes it.

    Nothing written is ``final``; a word that is not known is kept, in lower case.

    Examples
    --------
    >>> normal_status("F"), normal_status("Auth (Verified)"), normal_status("Second Look")
    ('final', 'final', 'second look')
    """
    plain = " ".join(written.split()).lower()
    return _STATUSES.get(plain.replace(" ", "_"), plain) or "final"
