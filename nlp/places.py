"""Names and sides of places in the body."""

from __future__ import annotations

import re
from collections.abc import Sequence
from functools import lru_cache

from nlp.graph import Entity
from nlp.types import Laterality
from nlp.vocabulary import load_terms

SIDES = {"right": "right", "left": "left", "rt": "right", "lt": "left", "r": "right", "l": "left"}
BOTH_SIDES = frozenset({"both", "bilateral"})
LEVELS = frozenset(
    [
        "upper",
        "lower",
        "mid",
        "middle",
        "anterior",
        "posterior",
        "lateral",
        "medial",
        "inferior",
        "superior",
        "proximal",
        "distal",
        "central",
        "basal",
        "apical",
        "ascending",
        "descending",
        "main",
        "great",
        "common",
        "external",
        "internal",
    ]
)
_PLACE_WORDS = LEVELS | BOTH_SIDES | frozenset(SIDES)
_EITHER = re.compile(r"\b(?:both|bilateral)\s+")

_SIDE_WORDS = re.compile(r"\b(right|left|bilateral|bilaterally|both|rt|lt)\b(?:-sided)?")
_SIDE_WORD = re.compile(r"\b(?:right|left|both|bilateral|rt|lt)\s+")
_BOTH_SIDES = re.compile(r"\b(?:bilateral(?:ly)?|both)\b|\b(?:right|left)\s+and\s+(?:right|left)\b")
_IMPLIED = ((re.compile(r"\blingula"), Laterality.LEFT), (re.compile(r"\bmiddle lobe\b"), Laterality.RIGHT))
_ANY_SIDE = re.compile(r"right|left|both|bilat|midline|lingula|middle|\b[rl]t\b", re.IGNORECASE)
_MIDLINE = re.compile(r"\bmidline\b(?!\s+shift)")
_LOBE = re.compile(r"\blobe\b")
_PART = re.compile(
    r"\b(?:segment|pole|apex|base|fissure|station|head|tail|body|dome|lingula|level|cortex|root|arch|zone|limb|interpolar|quadrant)\b"
)
# "Left behind", "both hypodense": no sides, outside of a place's name.
_NO_SIDE = re.compile(r"\bleft\s+(?:in|over|unchanged|behind)\b|\bboth\b(?!\s+(?:sides?|flanks?|halves|hemi\w+)\b)")
_LEVEL = r"[TLCS]\d{1,2}(?:[-/][TLCS]?\d{1,2})?\s+"
_INTO_PLACE = re.compile(
    rf"\b(?:(?:in|within|at)\s+(?:the\s+)?(?:level\s+of\s+(?:the\s+)?)?(?:{_LEVEL})?|{_LEVEL})$", re.IGNORECASE
)
_PREVIOUSLY = re.compile(r"\bpreviously\s+$", re.IGNORECASE)
_LEAD_IN_LENGTH = 40
_BESIDE = re.compile(
    r"(?:\b(?:adjacent|close|next|contiguous|anterior|posterior|superior|inferior|lateral|medial|proximal|distal|relative|extending|extends|"
    r"invading|compared|similar|up|down|attached|adherent|caudal|cranial|dorsal|ventral)\s+(?:\w+\s+)?to|\babut(?:s|ting)?|\bnear|\bbeside|\btouch(?:es|ing)|"
    r"\bcontact(?:s|ing)|\babove|\bbelow|\bbeneath|\bunder|\b(?:mm|cm|§)\s+from|\baway\s+from|\bdistance\s+\w+|\bbehind|\bin\s+front\s+of|\binvad(?:es|ing)|"
    r"\bdisplac(?:es|ing)|\bcompress(?:es|ing)|\bencas(?:es|ing)|\bsparing|\bobliterat(?:es|ing)|\bsurround(?:s|ing)|\bneighbou?rhood\s+of|"
    r"\bwith\s+(?:the\s+)?(?:invasion|infiltration|compression|encasement)\s+of)\s+(?:(?:the|left|right|both|adjacent|lower|upper)\s+)*$"
)
_BESIDE_LENGTH = 80
_CHAINED = re.compile(r"[\s(-]*(?:(?:of|in)\s+)?(?:the\s+)?", re.IGNORECASE)
_LISTED = re.compile(
    r"\s*(?:,|,?\s*(?:and|or|&|/|\+|as\s+well\s+as)|\()\s*(?:(?:also\s+)?(?:in|at|on|of|within)\s+)?(?:the\s+|both\s+)?"
)
_OWN_VERB = re.compile(
    r"\s*(?:\w+ly\s+)?(?:is|are|was|were|has|have|shows?|appears?|demonstrates?|measur\w+|nodules?|:|unremarkable|normal)\b"
)


def place_name(terms: Sequence[str]) -> str | None:
    """One name for a chain of places, side first, the whole before its part: "left lower lobe superior segment".

    ``terms`` are in text order; None if there are none. The lung is not named beside its lobe. Places that stand side
    by side are joined by "and": "right upper lobe and left lower lobe".
    """
    return _place_name(tuple(terms)) if terms else None


@lru_cache(maxsize=4096)
def _place_name(terms: tuple[str, ...]) -> str:
    groups: list[list[str]] = []
    for term in dict.fromkeys(terms):
        if groups and not _rival(groups[-1], term):
            groups[-1].append(term)
        else:
            groups.append([term])
    names = dict.fromkeys(_chain_name(group) for group in groups)
    return " and ".join(names)


def _rival(group: Sequence[str], term: str) -> bool:
    """Whether a term is another place and no part or whole of the group: "left lower lobe" after "right upper lobe"."""
    sides, side = _sides(group), _sides([term])
    if sides and side and sides != side and "bilateral" not in term and "both" not in term:
        return True
    bare = _SIDE_WORD.sub("", term)
    return any(rank(other) == rank(term) and _SIDE_WORD.sub("", other) != bare for other in group)


def _chain_name(terms: Sequence[str]) -> str:
    sides = _sides(terms)
    bare = list(dict.fromkeys(_SIDE_WORD.sub("", term) for term in terms))
    if any(_LOBE.search(term) or "lingula" in term for term in bare):
        bare = [term for term in bare if term != "lung"]
    prefix = "" if not sides else f"{sides[0]} " if len(sides) == 1 else "bilateral "
    return prefix + " ".join(sorted(bare, key=rank))


def in_text_order(text: str, entities: Sequence[Entity]) -> list[str]:
    """The normalised names of places in text order; one name for what hangs together ("segment 7 of the liver")."""
    chains: list[list[str]] = []
    end = -1
    for entity in sorted(entities, key=lambda entity: entity.span):
        if end < 0 or not _CHAINED.fullmatch(text, end, entity.span[0]):
            chains.append([])
        chains[-1].append(entity.term.lower())
        end = entity.span[1]
    return [_name_of_chain(tuple(chain)) for chain in chains]


@lru_cache(maxsize=4096)
def _name_of_chain(chain: tuple[str, ...]) -> str:
    return _chain_name(_fused(chain))


def _fused(chain: Sequence[str]) -> list[str]:
    """Side and level words of their own ("right", "upper", "lobe") join the place behind them."""
    terms: list[str] = []
    leading: list[str] = []
    for term in chain:
        words = term.split()
        if _PLACE_WORDS.issuperset(words):
            leading += words
        else:
            terms.append(canonical_place(" ".join([*leading, *words])))
            leading = []
    return [*terms, " ".join(leading)] if leading else terms


@lru_cache(maxsize=4096)
def canonical_place(term: str) -> str:
    """A place as the term lists name it: "Rt upper lobes" is "right upper lobe"."""
    words = [SIDES.get(word, word) for word in term.lower().split()]
    known = load_terms("anatomy")
    for first in range(len(words)):
        name = known.get(" ".join(words[first:]))
        if name is not None:
            return " ".join([*words[:first], name.canonical])
        if words[first] not in _PLACE_WORDS:
            break
    return " ".join(words)


def combined(shared: Sequence[str], own: Sequence[str], side: Laterality | None) -> list[str]:
    """The terms of one member of a list: its own place in the whole that all share, on its own side.

    "Renal cysts", "right upper pole": "right kidney upper pole"; of "left lung" and "right upper lobe" only the latter.
    """
    if not own:
        bare = [_SIDE_WORD.sub("", term) for term in shared]
        return bare if side is None else [f"{side.lower()} {term}" for term in bare]
    depth = min(rank(term) for term in own)
    whole = [term for term in shared if rank(term) < depth]
    if side in {Laterality.LEFT, Laterality.RIGHT}:
        other = "left" if side is Laterality.RIGHT else "right"
        whole = [_EITHER.sub("", term) for term in whole if not re.search(rf"\b{other}\b", term)]
    return [*whole, *own]


def rank(term: str) -> int:
    """How deep a place lies in its whole: 0 an organ or region, 1 a lobe, 2 a part of either."""
    if _LOBE.search(term):
        return 1
    return 2 if _PART.search(term) else 0


def laterality_of(terms: Sequence[str], words: Sequence[str] = ()) -> Laterality | None:
    """The side of a finding: from its places, else from the words around it; None where these disagree."""
    known, side = _side_of(tuple(terms))
    if known or not words:
        return side
    texts = tuple(_NO_SIDE.sub(" ", text.lower()) for text in words if may_say_side(text))
    return _side_of.__wrapped__(texts)[1] if texts else None


def may_say_side(text: str) -> bool:
    """Whether words can hold a side at all; most do not."""
    return _ANY_SIDE.search(text) is not None


@lru_cache(maxsize=4096)
def _side_of(texts: tuple[str, ...]) -> tuple[bool, Laterality | None]:
    """Whether some texts speak of sides, and the one side that they say."""
    found = _sides(texts)
    if found == ["right"]:
        return True, Laterality.RIGHT
    if found == ["left"]:
        return True, Laterality.LEFT
    if found:
        return True, Laterality.BILATERAL if any(_BOTH_SIDES.search(text) for text in texts) else None
    if any(_MIDLINE.search(text) for text in texts):
        return True, Laterality.MIDLINE
    implied = {side for pattern, side in _IMPLIED for text in texts if pattern.search(text)}
    return bool(implied), implied.pop() if len(implied) == 1 else None


def is_beside(lead: str) -> bool:
    """Whether the words before a place (lower case) make it a neighbour: "adjacent to the", "2 cm from the"."""
    return bool(_BESIDE.search(lead[-_BESIDE_LENGTH:]))


def is_listed_with(gap: str, behind: str) -> bool:
    """Whether a place goes on the list of the one before it, by the words between and behind them (lower case)."""
    return bool(_LISTED.fullmatch(gap)) and not _OWN_VERB.match(behind)


def lead_in(text: str, start: int, floor: int, *, at_place: bool) -> int:
    """Move the ``start`` of a phrase left over the little words before it, so that it reads as it was dictated.

    "In the" before a place that leads ("in the right lung there is ..."), "previously" before "8 mm"; not beyond
    ``floor``.
    """
    pattern = _INTO_PLACE if at_place else _PREVIOUSLY
    match = pattern.search(text, max(floor, start - _LEAD_IN_LENGTH), start)
    return match.start() if match else start


def _sides(texts: Sequence[str]) -> list[str]:
    found: set[str] = set()
    for text in texts:
        for word in _SIDE_WORDS.findall(text):
            found |= {"right": {"right"}, "rt": {"right"}, "left": {"left"}, "lt": {"left"}}.get(
                word, {"right", "left"}
            )
    return sorted(found)
