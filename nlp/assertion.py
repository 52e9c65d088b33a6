"""Present, absent or uncertain: which words of a sentence are denied or doubted, and how far that reaches.

After ConText (Harkema et al., J Biomed Inform 2009): triggers before and after a thing, a scope that ends with the
clause, and look-alikes ("no change in") that trigger nothing.
"""

from __future__ import annotations

import re
from collections.abc import Iterator, Sequence
from dataclasses import dataclass

from nlp.types import Assertion, Span

_BEFORE = r"(?:prior|previous\w*|old|older|earlier|preceding|last|past|comparison|before|baseline|initial|outside)"
_SEEN = (
    r"(?:seen|observed|detected|identified|visuali[sz]ed|demonstrated|noted|found|present|evident|visible|apparent|appreciated|encountered|"
    r"shown|depicted|distinguished|delineated|discernible|recogni[sz]ed|recogni[sz]able|detectable|identifiable|monitored|recorded|"
    r"determined|selected|witnessed|revealed|watched|available|existent)"
)
_GROWTH = (
    r"(?:chang\w+|increas\w+(?!\s+in\s+(?:wall\s+)?thickness)|decreas\w+|growth|grown?|progress\w+|regress\w+|difference|different\b|differs?\b|alter\w+|"
    r"evolution|worsen\w+|improve\w+|shrinkage|reduction)"
)
_DEGREE = (
    r"(?:(?:any|significant(?:ly)?|interval|substantial|appreciable|relevant|definite|marked|much|clear|really|further|other|"
    r"obvious|size|sign\s+of)\s+)*"
)
_PARTLY = r"(?:partial|incomplete|subtotal|near|large|most|almost|nearly|partly|some\s*what|well\s+on)\w*"
_REMOVED = r"(?:removed|resected|excised|ablated|enucleated|evacuated|extracted|explanted)"
_REMOVAL = r"(?:removal|resection|excision|ablation|enucleation|evacuation|extraction|explantation)"

# What looks like a denial and is none.
_LOOKALIKE = re.compile(
    rf"\bno(?:t)?\s+{_DEGREE}{_GROWTH}|\b(?:no|without)\s+{_DEGREE}enlarge\w+\s+(?:of|in)\s+(?:the|this|these|those|its|their|known|any|previous\w*)\b"
    rf"|\bwithout\s+{_DEGREE}(?:chang\w+|growth|progress\w+|increase|decrease|alter\w+|difference)|\bnot\s+without\b"
    r"|\bnot\s+(?:only|necessarily|just|previously|given|available|evaluated|included|covered|optimal\w*|performed|administered|amenable|yet|(?:fully|well|"
    rf"optimally|adequately|completely|entirely)\s+{_SEEN})"
    rf"|\bno\.\s*\d|\bno\s+(?:comparison|{_BEFORE}|contrast|further\s+(?:follow|evaluation|work|imaging|action)|intravenous|iv\b|oral|doubt|need|"
    r"(?:dedicated\s+)?follow-?\s?up)"
    rf"|\b(?:not|no\s+longer)\s+{_SEEN}\s+(?:on|in|at|by|during)\s+(?:the\s+|his\s+|her\s+|a\s+|any\s+)?(?:most\s+recent\s+)?{_BEFORE}"
    rf"|\bnot\s+(?:yet\s+)?(?:{_SEEN}\s+)?{_BEFORE}|\bno\s+longer\s+(?:enlarged|pathologic\w*|measurable|as\s+large)"
    rf"|\bnot\s+(?:yet\s+)?(?:\w+ly\s+)?(?:resolved|disappeared|cleared|{_REMOVED})|\b{_PARTLY}(?:[\s-]+complete(?:ly)?)?\s+(?:resol\w+|cleared|clearing|disappear\w+|{_REMOVED}|{_REMOVAL})"
    rf"|\b(?:for|before|prior\s+to|consider\w*|recommend\w*|suggest\w*|plan\w*|await\w*|schedul\w*|propos\w*|possible|attempted|failed|refus\w+)\s+(?:(?:surgical|complete|the|a|an)\s+)*{_REMOVAL}\b"
    r"|\bresolution\s+(?:ct|period|phase|range|scan|chest)|\bhigh[\s-]resolution|\bfree\s+(?:air|fluid|gas|intra\w+|edge|margin|flap)"
)
_NOT_CAN = (
    r"(?:can\s?not|can't|could\s?n[o']t|could\s+not|may\s+not|is\s+not\s+possible\s+to|unable\s+to|difficult\s+to|"
    r"impossible\s+to|does\s+not|do\s+not|did\s+not)"
)
_APART = r"(?:excluded|ruled\s+out|differentiated|distinguished|separated|discriminated|delimited)\b"
# Doubt behind the thing.
_UNSURE_BEHIND = re.compile(
    rf"\b{_NOT_CAN}\s+(?:be\s+)?(?:\w+ly\s+)?(?:be\s+)?{_APART}|\bnot\s+(?:\w+ly\s+)?(?:excluded|ruled\s+out)\b"
    r"|\b(?:is|are|was|were)\s+not\s+(?:\w+ly\s+)?(?:differentiated|discriminated)\b"
    r"|\b(?:is|are|was|were|remains?|seems?|appears?)\s+(?:\w+ly\s+|also\s+|more\s+|less\s+|thought\s+)?(?:suspected|possible|probable|likely|unlikely|questioned|"
    r"suggested|suspicious|dubious|questionable|doubtful|uncertain|equivocal|conceivable|presumed|favou?red|in\s+question|not\s+certain)"
    r"(?=\s*(?:[.,;)]|$)|\s+(?:in|on|at|here|and|but|given|due|because|based|with|as|too|there|from|by)\b)"
    r"|\b(?:is|are|was|were|be)\s+considered\b(?=\s*(?:[.,;)]|$|in\b|first|primarily))|\bdifferential\b|\bin\s+the\s+dd\b"
    r"|\b(?:should|must|needs?\s+to|has\s+to|have\s+to|to)\s+be\s+(?:considered|excluded|ruled\s+out|thought\s+of)\b|\b(?:unlikely|less\s+likely)\s*(?=[.,;)]|$)"
    rf"|\bnot\s+(?:clearly|definite(?:ly)?|convincingly|certainly|unequivocally)\s+(?:be\s+)?{_SEEN}"
)
_QUESTION = re.compile(r"\?")
_ASKED = re.compile(r"(?:^|[\s(,/])\?\s?(?=[^\W\d])")
# Doubt ahead of the thing.
_UNSURE_AHEAD = re.compile(
    r"\b(?:possibl[ey]|possibility\s+of|possibilities|probabl[ey]|(?:un)?likely|likelihood\s+of|suspicious\s+(?:for|of|in\s+terms\s+of)|suspicion\s+(?:for|of)|"
    r"(?:raises?|raising)\s+(?:the\s+)?(?:suspicion|question|concern)|suspect(?:ed|ing)?|may\s+(?:also\s+|still\s+|well\s+)?(?:be(?!\s+(?:helpful|useful|obtained|"
    r"performed|considered|recommended))|represent|reflect|suggest|indicate|belong|correspond|have|include|relate|mimic)|might|"
    r"could\s+(?:also\s+|still\s+)?(?:be(?!\s+(?:evaluat|assess|seen|obtain|perform))|represent|reflect|indicate|correspond|suggest)|concern(?:ing)?\s+(?:for|of)|"
    r"suggest(?:s|ive|ing|ed|ion)?(?!\s+(?:mri?|ct|pet|follow|biopsy|further|correlation|to\b))(?:\s+(?:of|for))?|worrisome\s+for|worry\s+for|question(?:able)?\s+of|questionable|"
    r"query|presumabl[ey]|presumptive|presumed|perhaps|maybe|versus(?!\s*§)|vs(?!\.?\s*§)\.?|(?:to\s+|please\s+)?rule\s+out|r/o|(?:to|should|must|please)\s+(?:\w+ly\s+)?exclude|"
    r"evaluat\w+\s+for|assess\w*\s+for|screen\w+\s+for|search\w*\s+for|in\s+favou?r\s+of|favou?r(?:s|ing|ed)?(?!\s+of\s+the\s+heart)|equivocal\s+for|"
    r"differential(?:\s+diagnos\w+)?|ddx?\b|in\s+terms\s+of|if\b|in\s+case\s+of|risk\s+(?:of|for)|thought\s+to|believed\s+to|(?:atypical|not\s+(?:very\s+|entirely\s+)?"
    r"(?:typical|specific|characteristic|diagnostic))\s+(?:for|of)|cannot\s+rule\s+out|in\s+the\s+differential|resembl\w+|mimic\w*|seems?\s+to\s+be|"
    r"early\s+or)"
    rf"|\b{_NOT_CAN}\s+(?:\w+ly\s+)?(?:exclude|rule\s+out)|\bwithout\s+(?:excluding|ruling\s+out)"
)
_NEGATION_AHEAD = re.compile(
    r"\b(?:no|without|absence\s+of|negative\s+for|free\s+(?:of|from)|clear\s+of|neither|nor|never|lack(?:s|ing)?(?:\s+of)?|devoid\s+of|(?:complete\s+|interval\s+)*resolution\s+of|"
    r"disappearance\s+of|surgically\s+absent|rather\s+than|instead\s+of|as\s+opposed\s+to|nothing\s+to|fail(?:s|ed)\s+to|excludes|rules\s+out|"
    r"denies|zero)\b"
    rf"|(?:\bnot|n't)\b(?!\s+(?:\w+ly\s+)?(?:been\s+|be\s+)?{_SEEN})|(?:^|[,;.]\s*|\b(?:the|now|a|completely|of)\s+)resolved\b(?=\s+[a-z§])"
    rf"|\b(?:{_REMOVAL}|passage)\s+of\b|(?<!was\s)(?<!were\s)(?<!been\s)\b(?:resected|excised|removed)\b(?=\s+(?:(?:the|an?|known|prior|previous|left|right)\s+)*§)"
    r"|(?:^|[,;.]\s*|\b(?:the|a|an|of|previously|surgically|completely|now)\s+)(?:resected|excised)\b(?=\s+(?!in\b|on\b|at\b|and\b|by\b)[a-z])"
)
_NEGATION_BEHIND = re.compile(
    rf"(?:\b(?:not|no\s+longer|nor|never)|n't)\s+(?:\w+ly\s+)?(?:been\s+|be\s+)?(?:\w+ly\s+)?{_SEEN}\b|\b(?:can\s?not|can't|could\s+not)\s+be\s+(?:\w+ly\s+)?{_SEEN}\b"
    r"|\b(?:is|are|was|were)\s+(?:now\s+)?absent\b"
    r"|\b(?:has|have|had)\s+(?:\w+ly\s+|now\s+|since\s+|all\s+)*(?:resolved|disappeared|vanished|cleared|regressed\s+completely)\b|\b(?:is|are|was|were)\s+(?:now\s+|completely\s+|fully\s+)*resolved\b"
    r"|(?:[,(]|\bnow|\bsince|\bcompletely|\bfully|\binterval)\s*(?:resolved|disappeared|vanished)\b(?!\s+(?:[a-z]|§))"
    rf"|\b(?:has|have|had|was|were)\s+(?:\w+ly\s+|since\s+|now\s+|been\s+)*(?:{_REMOVED}|passed)\b"
    r"|(?<!be )(?<!not )\b(?:resected|excised|removed)"
    r"(?=\s+(?:in|on|at|by|from|during|since|surgically|elsewhere|previously|\d)|\s*(?:[.,;)]|$))"
    r"|\b(?:is|are|was|were|has|have)\s+(?:now\s+|since\s+|all\s+)*gone\b"
    rf"|\b(?:status[\s-]+post|s/p)\s+(?:(?:complete|surgical|wedge|interval|radical|prior|thermal)\s+)?{_REMOVAL}\b(?=\s*(?:[.,;)]|in\b|on\b|$))"
    r"|\b(?:ruled\s+out|excluded)\b"
)
_LABELLED = re.compile(
    rf"\s*[:=-]\s*(?:(?:none|absent|negative|no|nil|neg\.?|ø|(?:now\s+|completely\s+)?(?:resolved|disappeared|gone|resected|removed))(?=\s*(?:[.,;)]|$))|not\s+(?:\w+ly\s+)?{_SEEN})|\s*\((?:-|absent|negative|none|no)\)|\s-ve\b"
)
# Most sentences hold none of these, and neither deny nor doubt.
_DENYING = tuple(
    (  # noqa: SIM905 - a list of seventy lines says no more
        "no |no\n|no.|no)|not|n't|nor |none|neither|never|nothing|nil|neg|without|absen|free |clear|lack|"
        "devoid|resol|disappear|vanish|remov|resect|excis|ablat|enucleat|explant|gone|passed|passage|surgically|evacuat|extract|rather|instead|opposed|fail|exclu|"
        "ruled|rules|denies|zero|-ve|(-|ø|regressed"
    ).split("|")
)
_DOUBTING = tuple(
    (  # noqa: SIM905 - a list of seventy lines says no more
        "?|possib|probab|likel|susp|may |may\n|maybe|might|could|can |can'|cannot|concern|suggest|worr|quer|"
        "question|presum|perhaps|versus|vs|rul|r/o|exclu|evaluat|assess|screen|search|favo|equivoc|differ|dd|"
        "terms|if |case of|risk|thought|believ|typical|specific|characteristic|diagnostic|resembl|mimic|seem|"
        "early or|unable|difficult|impossible|consider|dubious|doubt|uncertain|conceiv|remain|clearly|"
        "definite|convincing|certain|unequivocal|to be|does not|do not|did not"
    ).split("|")
)
_ADJECTIVE = (
    r"(?:stable|unchanged|new|increased|mild|minimal|small|large|moderate|few|multiple|several|old|known|persistent|"
    r"bilateral|scattered)"
)
_END = re.compile(
    r";|:|\b(?:but|however|except(?:ing)?|excluding|although|though|yet|besides|aside\s+from|other\s+than|apart\s+from|which|whereas|while|because|due\s+to|"
    r"secondary\s+to|compared\s+(?:to|with)|nevertheless|still)\b|\bthere\s+(?:is|are|was|were)\b|,\s*(?:and\s+)?(?:there|a|an|the|with)\b"
    rf"|,\s*(?:and\s+)?{_ADJECTIVE}\b(?![^;]*\bn?or\b)|,(?=(?:(?!\bthan\b|exceed|\babove\b|\bover\b|[<>,;]).)*§)"
    rf"|\band\s+(?:a|an|the|there|with|{_ADJECTIVE})\b|\b(?:is|are|was|were)\s+(?:also\s+)?(?:seen|observed|noted|present|visible)\b"
    rf"|\band\s+(?=(?:[\w-]+\s+){{1,5}}(?:is|are|was|were|has|have|measures?|shows?)\s+(?:\w+ly\s+)?(?!not\b|no\b|been\b|{_SEEN}))"
)
_PARTS_WITH = re.compile(rf"^without$|{_REMOVAL}|{_REMOVED}")  # "resection of the mass with a new nodule"
_WITH = re.compile(r"\bwith\b(?!\s+(?:a\s+)?(?:size|diameter))")
_START = re.compile(
    rf";|:(?=\s)|\b(?:but|however|except|although|though|whereas|while|yet)\b|,\s*(?:and\s+)?there\b|§[^,;]*,|§[^,;]*\band\s+(?:the|a|an)\b"
    rf"|\b(?:is|are|was|were)\s+(?:also\s+|\w+ly\s+)?(?:{_SEEN}|normal|natural|unremarkable|stable|unchanged|clear|open|patent|preserved|calibrated|intact)\b(?:\s+and\b)?"
)
# "The nodule was 9 mm; it is no longer visible": what "it" is stands in the clause before.
_PRONOUN = re.compile(
    r"[\s,]*(?:and\s+|but\s+|which\s+|that\s+)*(?:it|this|these|they|which)?\s*(?:is|are|has|have|was|were)?\s*(?:now\s+)?"
)
_OPENS_WITH_IT = re.compile(r"\s*(?:it|this|these|they)\b")
_GONE = re.compile(rf"no\s+longer|resolved|disappeared|vanished|cleared|gone|passed|{_REMOVED}")
_OF_SOMEONE = re.compile(r"\b(?:patient\s+with|history\s+of|h/o)\b")
_SINGULAR = re.compile(r"\b(?:is|was|has)\s+$")
_NEW_SUBJECT = re.compile(r"\band\s+(?:the|a|an)\b")
_COLON = re.compile(r"\s*:")
_QUESTION_START = re.compile(r"[(,;?:]|\b(?:and|with|of|in|is|are|was|were)\b")
_SHORT_REACH = 60  # characters that a bare "not" reaches
_BLOT = "\N{MIDDLE DOT}"


@dataclass(frozen=True, slots=True)
class Scope:
    """Words of a sentence that are denied or doubted, as a span in it, and where the trigger stands."""

    assertion: Assertion
    span: Span
    trigger: Span


def find_scopes(sentence: str) -> list[Scope]:
    """Return what a sentence (lower case, lengths blotted out with ``§``) denies and doubts."""
    denies = any(word in sentence for word in _DENYING)
    doubts = any(word in sentence for word in _DOUBTING)
    if not denies and not doubts:
        return []
    words = _blot(sentence, _LOOKALIKE)
    scopes = [*_doubts(words)] if doubts else []
    if denies:
        scopes += _denials(_blot(_blot(words, _UNSURE_BEHIND), _UNSURE_AHEAD) if doubts else words)
    return scopes


def assertion_of(span: Span, scopes: Sequence[Scope]) -> Assertion:
    """Denied beats doubted beats present."""
    found = {scope.assertion for scope in scopes if scope.span[0] <= span[0] and span[1] <= scope.span[1]}
    return next((kind for kind in (Assertion.ABSENT, Assertion.UNCERTAIN) if kind in found), Assertion.PRESENT)


def takes_back(sentence: str) -> bool:
    """Whether a sentence (lower case) says that what the one before it spoke of is gone: "It has resolved."."""
    opening = _OPENS_WITH_IT.match(sentence)
    if opening is None:
        return False
    return any(
        scope.assertion is Assertion.ABSENT
        and scope.span[1] >= opening.end()
        and _PRONOUN.fullmatch(sentence, *scope.span) is not None
        and _GONE.search(sentence, *scope.trigger) is not None
        for scope in find_scopes(sentence)
    )


def _doubts(words: str) -> Iterator[Scope]:
    for match in _UNSURE_BEHIND.finditer(words):
        yield Scope(Assertion.UNCERTAIN, (_back(words, match.start(), _START), match.start()), match.span())
    for match in _QUESTION.finditer(words):
        yield Scope(Assertion.UNCERTAIN, (_back(words, match.start(), _QUESTION_START), match.start()), match.span())
    for pattern in (_ASKED, _UNSURE_AHEAD):
        for match in pattern.finditer(words):
            colon = _COLON.match(words, match.end())
            yield Scope(
                Assertion.UNCERTAIN, (match.end(), _ahead(words, colon.end() if colon else match.end())), match.span()
            )


def _denials(words: str) -> Iterator[Scope]:
    for match in _LABELLED.finditer(words):
        yield Scope(Assertion.ABSENT, (_back(words, match.start(), _START), match.start()), match.span())
    for match in _NEGATION_BEHIND.finditer(words):
        start = _back(words, match.start(), _START)
        if start and words[start - 1] == "," and not words[start : match.start()].strip():
            # "the cyst, 20 mm before, has resolved": the length stands in brackets of commas
            start = _back(words, max(0, words.rfind(",", 0, start - 1)), _START)
        if match.group().startswith(("is ", "was ", "has ")) or _SINGULAR.search(words, start, match.start()):
            # "and the effusion has resolved" says it of one
            start = max(start, _back(words, match.start(), _NEW_SUBJECT))
        start = max(_past_pronoun(words, start, match.start()), _back(words, match.start(), _OF_SOMEONE))
        yield Scope(Assertion.ABSENT, (start, match.start()), match.span())
    for match in _NEGATION_AHEAD.finditer(words):
        end = _ahead(words, match.end())
        if match.group() in {"not", "n't"}:
            end = min(end, match.end() + _SHORT_REACH)
        elif _PARTS_WITH.search(match.group()) and (accompanied := _WITH.search(words, match.end(), end)) is not None:
            end = accompanied.start()
        yield Scope(Assertion.ABSENT, (match.end(), end), match.span())


def _past_pronoun(words: str, start: int, end: int) -> int:
    """Where a denial behind begins to reach: over the clause before its own where that has only a pronoun."""
    empty = _PRONOUN.fullmatch(words, start, end) is not None
    while empty and start > 0:
        end = max(match.start() for match in _START.finditer(words, 0, end))
        start = _back(words, end, _START)
        empty = not words[start:end].strip()
    return start


def _blot(words: str, pattern: re.Pattern[str]) -> str:
    return pattern.sub(lambda match: _BLOT * len(match.group()), words)


def _ahead(words: str, start: int) -> int:
    end = _END.search(words, start)
    return end.start() if end is not None else len(words)


def _back(words: str, end: int, pattern: re.Pattern[str]) -> int:
    return max((match.end() for match in pattern.finditer(words, 0, end)), default=0)
