"""Present, absent or uncertain: which words of a sentence are denied or doubted, and how far that reaches.

After ConText (Harkema et al., J Biomed Inform 2009): triggers before and after a thing, a scope that ends with the
clause, and look-alikes ("no change") that trigger nothing.
"""

from __future__ import annotations

import re
from dataclasses import dataclass

from nlp.types import Assertion, Span

_BEFORE = r"(?:prior|previous\w*|old|earlier|preceding|last|past|comparison|before)"
_FOUND = (
    r"(?:seen|observed|detected|identified|visuali[sz]ed|demonstrated|noted|found|present|evident|visible|appreciated|encountered|"
    r"shown|distinguished|monitored|recogni[sz]ed|recorded|determined|selected|witnessed)"
)
_LOOKALIKE = re.compile(
    r"\bno(?:t)?\s+(?:(?:significant|significantly|interval|substantial|appreciable|relevant|definite|marked|any|much|clear|really)\s+)*"
    r"(?:chang\w+|increas\w+(?!\s+in\s+(?:wall|thickness))|decreas\w+|growth|progress\w+|difference|different|differ)"
    r"|\bwithout\s+(?:(?:significant|interval|any)\s+)*(?:change|growth|progression)"
    r"|\bnot\s+(?:only|necessarily|previously|given|available|evaluated|included)"
    r"|\bno\.\s*\d|\bno\s+(?:comparison|prior|previous|contrast|further\s+follow|intravenous|iv\b|oral)"
    rf"|\b(?:not|no\s+longer)\s+{_FOUND}\s+(?:on|in|at|by|during)\s+(?:the\s+|his\s+|her\s+|a\s+)?(?:most\s+recent\s+)?{_BEFORE}"
    rf"|\bnot\s+(?:{_FOUND}\s+)?{_BEFORE}|\bnot\s+present\s+(?:on|in)\s+(?:the\s+)?{_BEFORE}"
)
_UNSURE_BEHIND = re.compile(
    r"\b(?:can\s?not|can't|could\s+not)\s+(?:be\s+)?(?:\w+ly\s+)?(?:excluded|ruled\s+out|differentiated|distinguished)\b"
    r"|\bnot\s+(?:\w+ly\s+)?(?:excluded|ruled\s+out)\b|\b(?:is|are|was|were)\s+(?:suspected|possible|questioned|suggested|suspicious|dubious|questionable)\b"
    r"|\bdifferential\b|\bshould\s+be\s+(?:considered|excluded)\b"
)
_QUESTION = re.compile(r"\?")
_UNSURE_AHEAD = re.compile(
    r"\b(?:possibl[ey]|possibility\s+of|probabl[ey]|likely|suspicious\s+(?:for|of|in\s+terms\s+of)|suspicion\s+(?:for|of)|suspected|"
    r"may\s+(?:also\s+)?(?:be|represent|reflect|suggest|indicate|belong|correspond|have|include)|might|"
    r"could\s+(?:also\s+)?(?:be(?!\s+(?:evaluat|assess|seen))|represent|reflect)|(?:can\s?not|can't|could\s+not)\s+(?:entirely\s+)?(?:exclude|rule\s+out)|"
    r"concern(?:ing)?\s+(?:for|of)|suggest(?:s|ive|ing|ed|ion)?(?:\s+(?:of|for))?|worrisome\s+for|question\s+of|questionable|"
    r"presumabl[ey]|presumed|versus|vs\.?|rule\s+out|r/o|evaluat\w+\s+for|in\s+favou?r\s+of|equivocal|differential(?:\s+diagnos\w+)?|"
    r"in\s+terms\s+of|if\b|in\s+case\s+of|thought\s+to)"
)
_NEGATION_AHEAD = re.compile(
    r"\b(?:no\s+(?:\w+\s+)?(?:evidence|sign|signs|indication|findings?)\s+(?:of|for|compatible\s+with|consistent\s+with|in\s+favou?r\s+of|suggest\w+(?:\s+of)?)|"
    r"no|without|absence\s+of|negative\s+for|free\s+of|neither|nor|never|lack\s+of|devoid\s+of|resolution\s+of|rather\s+than)\b"
    rf"|\bnot\b(?!\s+(?:\w+ly\s+)?(?:been\s+)?{_FOUND})"
)
_NEGATION_BEHIND = re.compile(
    rf"\b(?:not|n't|no\s+longer|nor)\s+(?:\w+ly\s+)?(?:been\s+)?{_FOUND}\b|\b(?:is|are|was|were)\s+absent\b"
    r"|\b(?:has|have|had)\s+(?:\w+ly\s+|now\s+|since\s+)?(?:resolved|disappeared|vanished|cleared)\b|\b(?:is|are)\s+(?:now\s+)?resolved\b"
    r"|\b(?:ruled\s+out|excluded)\b|:\s*(?:none|absent|negative|no)\b(?!\s+\w)"
)
_END = re.compile(
    r";|:|\b(?:but|however|except|although|though|yet|aside\s+from|other\s+than|apart\s+from|which|whereas|while|because|due\s+to|"
    r"secondary\s+to)\b|\bthere\s+(?:is|are|was|were)\b|,\s*(?:and\s+)?(?:there|a|an|the|stable|unchanged|new|with|increased|mild)\b|,\s*(?:\d|§)"
    r"|\band\s+(?:a|an|the|there|stable|unchanged|with)\b|\b(?:is|are|was|were)\s+(?:also\s+)?(?:seen|observed|noted|present|visible)\b"
)
_START = re.compile(
    rf";|:(?=\s)|\b(?:but|however|except|although|though|whereas|while)\b|,\s*(?:and\s+)?there\b|§[^,;]*,"
    rf"|\b(?:is|are|was|were)\s+(?:also\s+|\w+ly\s+)?(?:{_FOUND}|normal|natural|unremarkable|stable|unchanged|clear|open|preserved|calibrated)\b(?:\s+and\b)?"
)
_QUESTION_START = re.compile(r"[(,;?]|\b(?:and|with|of|in|is|are|was|were)\b")
_SHORT_REACH = 60  # characters that a bare "not" reaches


@dataclass(frozen=True, slots=True)
class Scope:
    """Words of a sentence that are denied or doubted, as a span in it, and where the trigger stands."""

    assertion: Assertion
    span: Span
    trigger: Span


def find_scopes(sentence: str) -> list[Scope]:
    """Return what a sentence (lower case, lengths blotted out with ``§``) denies and doubts."""
    words = _blot(sentence, _LOOKALIKE)
    scopes = [
        Scope(Assertion.UNCERTAIN, (_back(words, match.start(), _START), match.start()), match.span())
        for match in _UNSURE_BEHIND.finditer(words)
    ]
    words = _blot(words, _UNSURE_BEHIND)
    scopes += [
        Scope(Assertion.UNCERTAIN, (_back(words, match.start(), _QUESTION_START), match.start()), match.span())
        for match in _QUESTION.finditer(words)
    ]
    scopes += [
        Scope(Assertion.UNCERTAIN, (match.end(), _ahead(words, match.end())), match.span())
        for match in _UNSURE_AHEAD.finditer(words)
    ]
    unsure = re.compile(r"\b(?:can\s?not|can't|could\s+not)\b")
    words = _blot(words, unsure)
    scopes += [
        Scope(Assertion.ABSENT, (_back(words, match.start(), _START), match.start()), match.span())
        for match in _NEGATION_BEHIND.finditer(words)
    ]
    for match in _NEGATION_AHEAD.finditer(words):
        end = _ahead(words, match.end())
        if match.group() == "not":
            end = min(end, match.end() + _SHORT_REACH)
        scopes.append(Scope(Assertion.ABSENT, (match.end(), end), match.span()))
    return scopes


def assertion_of(span: Span, scopes: list[Scope]) -> Assertion:
    """Denied beats doubted beats present."""
    found = {scope.assertion for scope in scopes if scope.span[0] <= span[0] and span[1] <= scope.span[1]}
    return next((kind for kind in (Assertion.ABSENT, Assertion.UNCERTAIN) if kind in found), Assertion.PRESENT)


def _blot(words: str, pattern: re.Pattern[str]) -> str:
    return pattern.sub(lambda match: "·" * len(match.group()), words)


def _ahead(words: str, start: int) -> int:
    end = _END.search(words, start)
    return end.start() if end is not None else len(words)


def _back(words: str, end: int, pattern: re.Pattern[str]) -> int:
    return max((match.end() for match in pattern.finditer(words, 0, end)), default=0)
