"""Whether a CT series was acquired with a contrast agent, as far as technicians' abbreviations tell.

Precision before recall: a negation near an agent never reads as "with", and what names both is unknown.
"""

from __future__ import annotations

import re
import unicodedata

_AND = r"(?:\s*(?:/|&|\+|,|-|\band\b|\bund\b|\bet\b|\ben\b|\be\b|\by\b|\bor\b|\bthen\b))"
_KM = r"(?:iv\s+)?(?:km\b|kontr)"
_BOTH, _WITH, _WITHOUT = " both ", " with ", " without "
# In this order: what a later pattern would misread is replaced by an earlier one.
_REWRITTEN = tuple(
    (re.compile(pattern), replacement)
    for pattern, replacement in (
        (r"\bnon[\s-]?ionic\w*|\b(?:low|high|edge|soft)[\s-]*(?:contrast|enhanc\w*)", " "),  # no negation, no agent
        (r"\bc\s*-?\s*(?:spine|arm|ws|wirbel\w*|section)\b", " "),
        (r"\bi\.\s?v\.?(?!\w)", " iv "),
        (r"\bp\.\s?o\.?(?!\w)", " oral "),
        (r"\+\s*/?\s*-|-\s*/\s*\+|±", _BOTH),
        (rf"\bw\s*/?{_AND}?\s*w\s*/?\s*o(?:ut)?\b", _BOTH),
        (r"\bw\s*/?\s*o(?:ut)?\b", _WITHOUT),
        (r"\bnon?[\s-]?con\b", " without contrast "),
        (rf"\bo(?:\.\s*|\s+)(?={_KM})", _WITHOUT),
        (rf"\bm(?:\.\s*|\s+)(?={_KM})|\bcon(?=\s+(?:contr|mezzo|medio|mdc))", _WITH),
        (r"\b(?:ohne|sans|zonder|senza|sine?|utan|uten|uden|bez|pre|vor)\b", _WITHOUT),
        (r"\bw(?:/|\b)|\b(?:mit|avec|met|post|nach|after)\b", _WITH),
        (rf"\bwithout{_AND}\s*with\b|\bwith{_AND}*\s*without\b", _BOTH),
        (r"(?:(?<!\w)c|\bce|\bkm)\s?\+|\+\s?(?:c|ce|km|iv|contrast|kontrast)(?!\w)", " contrast "),
        (r"(?:(?<!\w)c|\bce|\bkm)-(?=\s|$)|(?<!\S)-(?:c|ce|km)(?!\w)", " without contrast "),
        (r"(?:(?<!\w)c|\bce|\bkm)\s+-(?=\s|$)|(?<!\S)-\s+(?:c|ce|km)(?!\w)", _BOTH),  # minus, or a dash
    )
)
_CLAUSE = re.compile(r"[,;]|\.(?=\s|$)")
_WORD = re.compile(r"[^\W_]+")

_NEGATION = frozenset({
    "without", "no", "non", "not", "none", "nil", "un", "kein", "keine", "keinen", "nicht", "nein", "geen", "niet",
    "nee", "pas", "never", "refused", "neg", "negative",
})  # fmt: skip
_AGENT = re.compile(r"contrast\w*|kontrast\w*|contr|kontr|km|mdc|enhanc\w*")
_AFTER_A_WORD = frozenset({"iv", "c", "ce", "con", "injection", "inj"})
"""Agents only right behind "with" or a negation: alone they may be anything."""
_OTHER_WAYS = frozenset({"oral", "orales", "orale", "orals", "po", "rectal", "rektal", "rektales", "enteral"})
_BY_VEIN = re.compile(r"iv|intraven\w*")
_NATIVE = re.compile(r"nativ\w*|blanco|blank|unenhanced|plain|ncct|nect|nonc?on\w*|nonenh\w*|precontrast")
_PHASE = re.compile(
    r"cect|cta|postcontrast|arterial\w*|arteriell\w*|portal\w*|venous|venoes\w*|venös\w*|nephrographic|angio\w*"
)
_BEFORE, _BEHIND = 5, 3
"""Words before and behind an agent among which a negation is looked for."""

_SAYS_NOTHING = re.compile(r"n/?a|[-0?., ]+(?:ml|cc|g|mg)?|unknown|unbekannt|water|wasser|air|saline|nacl")
_DONE = frozenset({"given", "used", "administered", "gegeben", "gabe", "injected", "applied"})
_FILLERS = _DONE | _OTHER_WAYS | frozenset({
    "n", "agent", "iv", "any", "the", "use", "of", "mezzo", "di", "medio", "de", "medium", "media", "mittel", "intra",
    "intravenous", "intravenös", "intravenöse", "intravenöses", "intraveneus", "intraveneuze", "intravenoses", "and",
    "or", "oder", "und", "additional", "produit", "administration", "was", "is",
})  # fmt: skip


def contrast_given(agent: str | None, description: str | None) -> bool | None:
    """Whether a series was acquired with a contrast agent, from Contrast/Bolus Agent and Series Description.

    None where neither tells, or they contradict each other. By the standard the element is absent where none was given
    (PS3.3 A.3.3), but scanners leave it out, and technicians empty, in scans with contrast too: absence proves nothing.
    """
    named, said = _rewritten(agent), _rewritten(description)
    if "both" in named or "both" in said:
        return None
    clauses = [_WORD.findall(clause) for clause in _CLAUSE.split(said)]
    says = {answer for words in clauses for answer in _said_in(words)}
    if _plain(agent) and not _SAYS_NOTHING.fullmatch(_plain(agent)):
        says.add(_named(_WORD.findall(named)))
    return says.pop() if len(says) == 1 else None


def _named(words: list[str]) -> bool | None:
    """What the element of the agent says: any name is one, but beside a negation."""
    rest = [word for word in words if word not in _NEGATION | _FILLERS and not _AGENT.fullmatch(word)]
    if "n" in words or not _NEGATION.isdisjoint(words):
        return None if rest else False
    return None if any(map(_NATIVE.fullmatch, words)) and len(words) > 1 else not any(map(_NATIVE.fullmatch, words))


def _said_in(words: list[str]) -> set[bool | None]:
    """What the words of a clause say of contrast; None among it: nothing that could be relied on."""
    says: set[bool | None] = set()
    for i, word in enumerate(words):
        before = words[i - 1] if i else ""
        if _NATIVE.fullmatch(word):
            says.add(None if before in _NEGATION else False)
        elif _PHASE.fullmatch(word):
            says.add(None if before in _NEGATION else True)
        elif _AGENT.fullmatch(word) or (word in _AFTER_A_WORD and before in _NEGATION | {"with"}):
            says.add(_said_of(words, i))
    return says


def _said_of(words: list[str], i: int) -> bool | None:
    """Whether the agent at ``i`` was given."""
    before, behind = words[max(0, i - _BEFORE) : i][::-1], words[i + 1 : i + 1 + _BEHIND]
    if _NEGATION.isdisjoint(before + behind):
        return True
    negated = _leads_to_negation(before) or (
        "with" not in before and _leads_to_negation(behind) and _FILLERS.issuperset(set(behind) - _NEGATION)
    )
    swallowed = not _OTHER_WAYS.isdisjoint(before + behind) and not any(map(_BY_VEIN.fullmatch, before + behind))
    return False if negated and not swallowed else None


def _leads_to_negation(words: list[str]) -> bool:
    """Whether a negation comes first, but for words that change nothing."""
    return next((word for word in words if word not in _FILLERS), "") in _NEGATION


def _rewritten(text: str | None) -> str:
    """The text in lower case, with "with", "without" and "both" in place of what stands for them."""
    found = _plain(text)
    for pattern, replacement in _REWRITTEN:
        found = pattern.sub(replacement, found)
    return found


def _plain(text: str | None) -> str:
    folded = unicodedata.normalize("NFKC", text or "").casefold().replace("\0", "").replace("_", " ")
    return " ".join(folded.split())
