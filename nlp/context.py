"""What a number is the length of, of which day, along which axis and how exact: read from the words around it.

The words come with every length, date and image reference blotted out by one mark per character, so that a rule can
say "a date follows" or "no other length in between" without knowing how these are written.
"""

from __future__ import annotations

import re
from dataclasses import dataclass
from functools import cache

from nlp.types import Axis, Qualifier, SizeKind, Temporality
from nlp.vocabulary import alternation, load_terms

SIZE_MARK = "§"
DATE_MARK = "†"
REFERENCE_MARK = "¤"

_PRIOR_SECTIONS = frozenset({"history", "indication", "comparison"})
_CHANGE = (
    r"(?:increas|decreas|grow|grew|progress|regress|shr[aiu]nk|enlarg|reduc|chang|evolv|diminish|dropp|declin|"
    r"larger|smaller)\w*"
)
_EXAM = (
    r"(?:ct|mri?|pet\S*|scans?|exam\w*|stud(?:y|ies)|imaging|reviews?|investigations?|tomograph\w+|reports?|series|"
    r"¤+|†+)"
)
_BEFORE = r"(?:previous|prior|old|earlier|preceding|last|former|outside|baseline)"
_ABOUT = r"(?:approximately|approx\.?|about|around|circa|ca\.|ca|roughly|nearly|almost|estimated(?:\sat)?|~|≈|c\.)"
_FILLER = (
    rf"(?:(?:{_EXAM}|{_ABOUT}|it|size|was|were|measured|measuring|had|been|of|at|as|a|an|the|value|dimensions?|diameter|"
    r"axis|short|long|up|to|on|in|which|by|with|from|max(?:imum|imal)?|measurements?|\(|:|=|~|≈)[\s:(]*)"
)

_TECHNIQUE_RIGHT = re.compile(
    r"^[\s-]*(?:(?:thick|thin|axial|coronal|sagittal|contiguous|overlapping|multiplanar|helical|spiral|slice|section|and|"
    r"×|x)[\s,-]+){0,5}(?:slices?|slice thickness|sections|section thickness|reconstruct\w+|reformat\w+|recons?|"
    r"collimation|cuts|increments?|images|mips?|slab|intervals|thickness)\b(?!\s+of\s+the)"
)
_TECHNIQUE_LEFT = re.compile(
    r"(?:slice|section|reconstruct\w*|collimation|increments?|(?:slice|section)[\s-]thickness|pitch|field of view|fov)"
    rf"(?:[\s:=]+{_FILLER}{{0,4}}|\s+(?:thickness|interval)[\s:=]*{_FILLER}{{0,4}})$"
)
_DEVICE = (
    r"(?:stents?|drains?|catheters?|clips?|coils?|screws?|wires?|leads?|port|needles?|pigtail|plugs?|prosthes[ie]s|endoprosthesis|"
    r"grafts?|stent[\s-]graft|sheath|mesh|guidewire|fiducials?|pacemaker|tubes?)"
)
_DEVICE_RIGHT = re.compile(rf"^[\s-]*(?:(?!in\b|of\b|with\b|near\b|and\b)[a-z-]+\s+){{0,3}}{_DEVICE}\b")
_DEVICE_LEFT = re.compile(
    rf"\b{_DEVICE}(?:\s+(?:is|are|in|place|calib\w+|size[ds]?|diameter|with|a|of|measur\w+|,|the)){{0,5}}\s*$"
)

_DELTA = re.compile(
    rf"(?:{_CHANGE}|growth)\b(?:\s+(?:in|of|the|its|their|maximum|size|diameter|length|axis|long|short|slightly|thickness|about)){{0,6}}"
    rf"\s+by\s+(?:{_ABOUT}\s*)?$|\b(?:difference|change|increase|growth)\s+of\s+(?:{_ABOUT}\s*)?$"
    rf"|\b(?:grown|grew|shrunk|shrank)\s+(?:{_ABOUT}\s*)?$"
)
_DELTA_RIGHT = re.compile(r"^\s*(?:interval\s+)?(?:increase|decrease|growth|reduction|difference|change)\b")

_LESS = (
    r"(?:<|⩽|(?:less|smaller|lower)\s+than|under|below|(?:no|not)\s+(?:larger|greater|more|bigger)\s+than|"
    r"not\s+exceed\w*)"
)
_MORE = r"(?:>|(?:larger|greater|bigger|more)\s+than|over|above|exceed\w*|in\s+excess\s+of)"
_LIMIT_TAIL = rf"\s*(?:(?:the|a|{_ABOUT}|or|equal|to)\s+)*$"
_LIMITS = (
    (re.compile(rf"(?:≤|<=|\bat\s+most|(?:less|smaller)\s+than\s+or\s+equal\s+to){_LIMIT_TAIL}"), Qualifier.UP_TO),
    (re.compile(rf"(?:≥|>=|(?:larger|greater|more)\s+than\s+or\s+equal\s+to){_LIMIT_TAIL}"), Qualifier.AT_LEAST),
    (re.compile(rf"{_LESS}{_LIMIT_TAIL}"), Qualifier.LESS_THAN),
    (re.compile(rf"{_MORE}{_LIMIT_TAIL}"), Qualifier.GREATER_THAN),
    (re.compile(r"\bnormal(?:\s+(?:is|limits?|range|value|size|up to|upper limit|:|of))*\s*$"), Qualifier.UP_TO),
    (re.compile(r"\b(?:threshold|cut-?off|criterion|criteria)(?:\s+(?:of|is|for|size|at))*\s*$"), Qualifier.AT_LEAST),
)
_NEGATED_LIMIT = re.compile(rf"\b(?:not|no|n't|nor)\s+(?:\w+\s+)?exceed\w*{_LIMIT_TAIL}")
_LIMIT_RIGHT = (
    (re.compile(r"^\s*(?:or|and)\s+(?:larger|greater|more|above|over|bigger)\b"), Qualifier.AT_LEAST),
    (re.compile(r"^\s*(?:or|and)\s+(?:less|smaller|below|under|fewer)\b"), Qualifier.UP_TO),
)
_APPROXIMATE = re.compile(rf"(?:\b|(?=[~≈])){_ABOUT}(?:\s+(?:up\s+to|a|the|of))?\s*$")
_AT_LEAST = re.compile(r"\b(?:at\s+least|no\s+less\s+than|minimum(?:\s+of)?)\s*$")
_UP_TO = re.compile(
    r"\b(?:up\s?to|as\s+(?:large|big|thick)\s+as|reach(?:es|ing|ed)?(?:\s+up\s+to)?"
    r"(?:\s+(?:a|the|an|its|maximum|thickness|size|diameter|depth|width|of|dimensions?)){0,5})\s*$"
)

_PLACE = (
    r"(?:(?:just\s+)?(?:above|below|beyond|beneath|(?:proximal|distal|superior|inferior|cranial|caudal|cephalad|caudad|anterior|"
    r"posterior|lateral|medial|deep)\s+to|outside\s+of|inside\s+of|to\s+the\s+(?:left|right)\s+of))"
)
_DISTANCE_RIGHT = re.compile(
    r"^\s*(?:(?:in\s+)?distance\b|(?:of\s+)?(?:\w+\s+)?(?:displacement|distraction)\b|away\b|apart\b|short\s+of\b|off\s+(?:the\b)|of\s+(?:midline|leftward|rightward)\b"
    r"|(?:leftward|rightward|left-to-right|right-to-left|midline)\s+(?:midline\s+)?(?:shift|deviation)"
    rf"|from\b(?!\s+(?:(?:a|the|an)\s+)?(?:{_BEFORE}|§|{_ABOUT}|†|ct\b|mri\b|pet|\d|basal|the\s+basal)))"
)
_PLACE_RIGHT = re.compile(rf"^\s*{_PLACE}\b")
_MEASURING_LEFT = re.compile(
    r"\b(?:measur\w+|diameters?|size[ds]?|dimensions?|thickness|length|of|with)(?:\s+(?:approximately|about|up|to|of|is|as|at|a)){0,3}\s*$"
)
_DISTANCE_LEFT = re.compile(
    r"\b(?:distance|shift|displace\w+|separat\w+|gap|step-?off|(?:antero|retro)listhesis|deviat\w+|descent)\b[^.;,§]{0,60}$"
    r"|\bwithin\s*$|\b(?:extend\w*|protrud\w+|project\w*)(?:\s+(?:approximately|about|for|over|by))*\s*$"
)

_LONG_EXTENT = re.compile(r"^[\s-]*(?:long|in\s+length)\b[^.;,]*\b(?:strictur|stenos|segment|occlus|narrow)\w*")
_SEGMENT_LEFT = re.compile(
    r"\b(?:stricture|stenosis|occlusion|narrowing|(?:narrowed|involved|thickened|stenotic)\s+segment)\b[^.;,§]*\b(?:length|over|long|of|measuring)\s*(?:a\s*)?$"
)

_NOUN_PHRASE = re.compile(
    r"^[^.;:,()\[\]§†¤]*?(?=$|[.;:,()\[\]§†¤]|\b(?:is|are|was|were|in|of|at|on|with|within|near|adjacent|from|and|has|have|to|which|"
    r"that|seen|noted|involving|previously|now|compared|without)\b)"
)
_NEW_THING_LEFT = re.compile(r"\b(?:a|an|with|containing)\s+$")
_INSIDE = re.compile(
    r"\b(?:in|of|at|on|to|near|within|from|by|around|along|involv\w+|abut\w*|encas\w+|compress\w+|"
    r"displac\w+|touch\w+|contact\w+|invad\w+|surround\w+|narrow\w+|into|through|over|behind|beside|inside|and)\s+"
    r"(?:(?:the|both|left|right|a|an|its|distal|proximal|mid|middle|upper|lower|posterior|anterior|enlarged|dilated)\s+){0,4}(?:\w+\s+)?$"
)
_OWN_LENGTH = re.compile(
    r"\b(?:diameters?|calib\w+|width|size|span|length|thickness|dimensions?|measurements?|dilat\w+|ectasia|enlargement)\s+of\s+"
    r"(?:(?:the|both|left|right|a|an|its|distal|proximal|mid|middle)\s+){0,4}$"
)
_INSIDE_RIGHT = re.compile(r"^[^.;,()§]{0,20}\b(?:in|of|at)\s+(?:the\s+)?(?:\w+\s+)?$")
_CALIBRE_LEFT = re.compile(r"\b(?:calib\w+|width|dilat\w+|ectas\w+|ectatic|diameter)\b[^.;§]*$")
_CALIBRE_IS = re.compile(r"\bcalib(?:er|re|ration)\b[^.;,§]*$")

_AXIS_WORDS = (
    (re.compile(r"(?:short(?:est)?|narrow(?:est)?)[\s-]+(?:axis|axes|diameters?|dimensions?)|\bsad\b"), Axis.SHORT),
    (
        re.compile(
            r"(?:long(?:est)?|greatest|largest|maximum|maximal)[\s-]+(?:axial\s+)?(?:axis|axes|diameters?|dimensions?)|\blad\b"
        ),
        Axis.LONG,
    ),
    (re.compile(r"\b(?:ap|antero-?posterior)\b"), Axis.AP),
    (re.compile(r"\b(?:transverse|tr)(?:\s+(?:diameter|dimension))?\b"), Axis.TR),
    (re.compile(r"\b(?:cranio-?caudal|cc)\b"), Axis.CC),
)
_AXIS_RIGHT = re.compile(r"^(?P<words>[^§;,.]{0,60})")
_AXIS_LEFT = re.compile(r"(?P<words>[^§;.]{0,60})$")

_CURRENT_LEFT = re.compile(
    rf"\b(?:now|currently|today|(?:current|present|today's|this)\s+{_EXAM})\s*,?\s*(?:(?:measur\w+|is|are|it|at|of|a|an)\s+|{_FILLER}){{0,6}}$"
)
_CURRENT_RIGHT = re.compile(
    r"^\s*(?:in\s(?:size|diameter|thickness)\s*)?,?\s*(?:(?:now|currently|today)\b(?![^.;§]{0,30}§)|(?:in|on|at)\s+(?:the\s+)?(?:current|present|today's|this)\s)"
)
_PRIOR_LEFT = (
    rf"\b(?:history\s+of|last\s+(?:year|month|week))\W{{0,3}}{_FILLER}{{0,5}}$",
    rf"\b(?:previously|formerly|initially|originally|prev\.?|earlier|prior(?:\s+to\s+that)?)\W{{0,3}}{_FILLER}{{0,7}}$",
    rf"\b{_BEFORE}\s+(?:\w+\s+)?{_EXAM}[\s:(]+{_FILLER}{{0,7}}$",
    rf"\b(?:previous|prior|baseline)\s+{_FILLER}{{0,4}}$",
    rf"(?:compared|comparison)\s+(?:to|with)\s+(?:(?:{_BEFORE}|{_FILLER})\s*){{0,5}}$",
    rf"\b(?:versus|vs\.?)\s+(?:{_BEFORE}\s+)?{_FILLER}{{0,3}}$",
    rf"†\)?[\s:,=]*{_FILLER}{{0,5}}$",
    (
        rf"^\W*(?:on|in|at)\s+(?:the\s+|a\s+|his\s+|her\s+)?(?:{_BEFORE}\s+\w*\s*)?(?:{_EXAM}\s*)?(?:(?:of|from|dated)\s+)?"
        rf"(?:pet\S*(?:[\s/-]ct)?|mri?|ultraso\w+|†+|(?<=\s){_BEFORE}\s+{_EXAM})[^.;§]*\b(?:was|were|measured)\s+{_FILLER}{{0,5}}$"
    ),
    rf"^\W*(?:on|in|at)\s+(?:the\s+|his\s+|her\s+)?{_BEFORE}\s+[^.;§]*\b(?:was|were|measured)\s+{_FILLER}{{0,5}}$",
)
# "Compared to the CT of [DATE], the 12 mm nodule ...": what follows the comma is today's.
_COMPARED_LEFT = re.compile(r"\b(?:compar\w+\s+(?:to|with)|since)\b[^§;]*†+\)?\s*,[^§;]*$")
_WAS_LEFT = re.compile(rf"§[^§]*(?:\(\s*(?:it\s+)?|,\s*(?:which\s+|it\s+)?)(?:was|were|had\s+been)\s+{_FILLER}{{0,4}}$")
_FROM_LEFT = re.compile(
    rf"\b(?:from|than)\s+(?P<prior>{_BEFORE}\s+)?(?:(?:a|the|of|size|{_BEFORE}|{_ABOUT}|{_EXAM})\s+)*$"
)
_BARE_PREVIOUS = re.compile(
    rf"\b(?:{_BEFORE}|previously)\s+(?:(?:seen|described|noted|known|reported|mentioned|demonstrated|identified|measured)\s+)?$"
)
_SEEN_BEFORE = re.compile(
    r"\bpreviously\s+(?:seen|described|noted|known|reported|mentioned|demonstrated|identified)\s+$"
)
_GONE_OR_CHANGED = re.compile(
    rf"\b(?:resolved|no\s+longer|disappeared|not\s+(?:seen|visible|identified|observed|detected)|now|{_CHANGE})\b"
)
_SAME = re.compile(r"\b(?:unchanged|stable|persist\w*|again|still|similar)\b")
_SIZE_WORD = (
    r"(?:(?:in\s+)?(?:its\s+)?(?:short(?:\saxis)?|long(?:\saxis)?|diameter|size|thickness|length|width|axis)\s*)?"
)
_PRIOR_RIGHT = (
    (
        rf"^\s*{_SIZE_WORD}[(,]?\s*(?:as\s+)?(?:seen\s|measured\s|noted\s|was\s)?(?:on|in|at|by|during)\s+(?:the\s+|a\s+|his\s+|her\s+)?"
        rf"(?:most\s+recent\s+|recent\s+)?(?:{_BEFORE}\b|comparison\b|pet\b)"
    ),
    rf"^\s*{_SIZE_WORD}\(?(?:previously|earlier|before|formerly|prior|at\s+baseline)\s*(?:[).,;]|$|and\b|now\b|but\b)",
    r"^\s*,?\s*\(?\d+\s*(?:days?|weeks?|months?|years?)\s*(?:ago|earlier|before|prior)",
    (
        rf"^\s*{_SIZE_WORD}(?:(?:nodule|lesion|mass|node|lymph\snode|cyst)\s+)?(?:as\s+)?(?:on|in|from|dated|at|by)\s+(?:the\s+|a\s+)?"
        rf"(?:{_BEFORE}\s+)?(?:(?:{_EXAM})\s*)?(?:(?:of|on|from|dated|in)\s+)?(?:the\s+)?†"
    ),
    r"^\s*,?\s*\(?(?:last\s+(?:year|month|week)|at\s+that\s+time|back\s+then)\b(?![^.;]{0,20}§)",
    r"^\s*,?\s*\(?†",
    r"^\s*(?:→|⟶|-+>|=>)",
    rf"^\s*(?:nodule|lesion|mass|node|cyst)s?\s+(?:seen\s+|noted\s+)?(?:on|in|at)\s+(?:the\s+)?{_BEFORE}\b(?![^.;]*\b(?:unchanged|stable)\b)",
)
_PRIOR_LEFT_ANY = re.compile("|".join(f"(?:{pattern})" for pattern in _PRIOR_LEFT))
_PRIOR_RIGHT_ANY = re.compile("|".join(f"(?:{pattern})" for pattern in _PRIOR_RIGHT))
_IS_CHANGE = re.compile(rf"\b{_CHANGE}\b|→")
_IS_SPREAD = re.compile(r"\b(?:rang|var[iy]|between)\w*\b[^.;]*$")
_TO_CURRENT = re.compile(rf"^\s*to\s+(?:{_ABOUT}\s*)?§")
_OTHER_DAY = re.compile(rf"\b{_BEFORE}\s+(?:\w+\s+){{0,2}}{_EXAM}|\bpreviously\b")
_OTHER_THING = re.compile(r"\b(?:new|another|second|additional|unchanged|stable|same)\b")


@dataclass(frozen=True, slots=True)
class Context:
    """What the words around a length say of it."""

    kind: SizeKind
    temporality: Temporality
    qualifier: Qualifier | None
    axis: Axis | None


def read_context(left: str, right: str, *, longest_mm: float, section: str) -> Context:
    """Judge a length by the words of its sentence before and after it (lower case, marks for lengths and dates)."""
    temporality = _temporality(left, right, section)
    limit = _limit(left, right)
    kind = _kind(left, right, longest_mm, section, is_limit=limit is not None, temporality=temporality)
    return Context(kind, temporality, limit or _qualifier(left), _axis(left, right))


def is_change(left: str) -> bool:
    """Whether these words speak of growth or shrinkage, so that "9 to 12" is a history and not a range."""
    return bool(_IS_CHANGE.search(left))


def is_spread(left: str) -> bool:
    """Whether these words end in a spread ("ranging from"), so that "9 to 12" is a range."""
    return bool(_IS_SPREAD.search(left))


def _kind(
    left: str, right: str, longest_mm: float, section: str, *, is_limit: bool, temporality: Temporality
) -> SizeKind:
    if section == "technique" or _TECHNIQUE_RIGHT.search(right) or _TECHNIQUE_LEFT.search(left):
        return SizeKind.TECHNIQUE
    delta = _DELTA.search(left) or _DELTA_RIGHT.search(right)
    if is_limit or (delta and temporality is Temporality.CURRENT):
        return SizeKind.THRESHOLD
    if _DISTANCE_RIGHT.search(right) or _DISTANCE_LEFT.search(left):
        return SizeKind.DISTANCE
    if _PLACE_RIGHT.search(right) and not _MEASURING_LEFT.search(left):
        return SizeKind.DISTANCE
    if _DEVICE_RIGHT.search(right) or _DEVICE_LEFT.search(left):
        return SizeKind.DEVICE
    if _LONG_EXTENT.search(right) or _SEGMENT_LEFT.search(left):
        return SizeKind.OTHER
    return SizeKind.NORMAL_STRUCTURE if _is_structure(left, right, longest_mm) else SizeKind.LESION


def _is_structure(left: str, right: str, longest_mm: float) -> bool:
    """Whether the length is that of a vessel, duct or organ: the nearest noun it can belong to."""
    nouns = _nouns()
    phrase = _NOUN_PHRASE.match(right)
    for noun in reversed([*nouns.finditer(phrase.group() if phrase else "")]):
        return _is_long_enough(noun, longest_mm)
    if phrase and phrase.group().strip() and _NEW_THING_LEFT.search(left):
        return False
    clause = re.split(r";|\bbut\b|\bhowever\b", left)[-1]
    for noun in reversed([*nouns.finditer(clause)]):
        if noun["structure"] is None:
            return False
        before = clause[: noun.start()]
        if _OWN_LENGTH.search(before) or not _INSIDE.search(before):
            return _is_long_enough(noun, longest_mm)
    if _CALIBRE_IS.search(clause):
        return True
    for noun in nouns.finditer(right):
        inside = _INSIDE_RIGHT.search(right[: noun.start()])
        return bool(inside and _CALIBRE_LEFT.search(clause)) and _is_long_enough(noun, longest_mm)
    return False


def _is_long_enough(noun: re.Match[str], longest_mm: float) -> bool:
    if noun["structure"] is None:
        return False
    spelling = re.sub(r"\s+", " ", noun["structure"])
    return longest_mm >= load_terms("structures")[spelling].minimum_mm


@cache
def _nouns() -> re.Pattern[str]:
    """Things that have a length: focal observations and measured structures, the longer name first."""
    structures = load_terms("structures")
    extended = load_terms("extended")
    focal = [spelling for spelling, term in load_terms("observations").items() if term.canonical not in extended]
    longer = [spelling for spelling in focal if any(name in spelling for name in structures)]
    shorter = set(focal) - set(longer)
    return re.compile(rf"\b(?:{alternation(longer)}|(?P<structure>{alternation(structures)})|{alternation(shorter)})\b")


def _limit(left: str, right: str) -> Qualifier | None:
    if _NEGATED_LIMIT.search(left):
        return Qualifier.LESS_THAN
    for pattern, qualifier in _LIMITS:
        if pattern.search(left):
            return qualifier
    return next((qualifier for pattern, qualifier in _LIMIT_RIGHT if pattern.search(right)), None)


def _qualifier(left: str) -> Qualifier | None:
    for pattern, qualifier in (
        (_APPROXIMATE, Qualifier.APPROXIMATE),
        (_AT_LEAST, Qualifier.AT_LEAST),
        (_UP_TO, Qualifier.UP_TO),
    ):
        if pattern.search(left):
            return qualifier
    return None


def _axis(left: str, right: str) -> Axis | None:
    """The axis named right after the length, or else last before it."""
    after = _AXIS_RIGHT.match(right)
    words = after["words"] if after else ""
    following = right[len(words) :].lstrip()
    if not following.startswith(SIZE_MARK):  # the words before the next length describe that one
        words = re.split(r"\band\b|\(", words)[0]
        hits = [(match.start(), axis) for pattern, axis in _AXIS_WORDS for match in [pattern.search(words)] if match]
        if hits:
            return min(hits)[1]
    before = _AXIS_LEFT.search(left)
    words = before["words"] if before else ""
    hits = [(match.start(), axis) for pattern, axis in _AXIS_WORDS for match in pattern.finditer(words)]
    return max(hits)[1] if hits else None


def _temporality(left: str, right: str, section: str) -> Temporality:
    if section in _PRIOR_SECTIONS or _is_prior(left, right):
        return Temporality.PRIOR
    return Temporality.CURRENT


def _is_prior(left: str, right: str) -> bool:
    if _CURRENT_LEFT.search(left) or _CURRENT_RIGHT.search(right):
        return False
    if _PRIOR_RIGHT_ANY.search(right) or _WAS_LEFT.search(left):
        return True
    if _SEEN_BEFORE.search(left):
        return bool(_GONE_OR_CHANGED.search(right)) and not _SAME.search(right)
    if _BARE_PREVIOUS.search(left):
        return not (_SAME.search(right) and SIZE_MARK not in right)
    if _PRIOR_LEFT_ANY.search(left) and not _COMPARED_LEFT.search(left):
        return True
    started = _FROM_LEFT.search(left)
    if started is not None:
        spread = _IS_SPREAD.search(left) or started.group().startswith("than")
        return bool(started["prior"]) or (not spread and (bool(_IS_CHANGE.search(left)) or SIZE_MARK in left))
    if _TO_CURRENT.search(right) and _IS_CHANGE.search(left) and not _IS_SPREAD.search(left):
        return True
    return _is_foil(left, right)


def _is_foil(left: str, right: str) -> bool:
    """Whether the sentence speaks of another day and marks its one other length as today's."""
    words = left + " " + SIZE_MARK + " " + right
    if _OTHER_THING.search(words) or not _OTHER_DAY.search(words):
        return False
    marks = [match.span() for match in re.finditer(f"{SIZE_MARK}+", words)]
    others = [mark for mark in marks if mark[0] != len(left) + 1]
    if len(others) != 1:
        return False
    start, end = others[0]
    return bool(_CURRENT_LEFT.search(words[:start]) or _CURRENT_RIGHT.search(words[end:]))
