"""Two reports of one patient that say different things of one lesion. Pure: no files, no models, no pixels.

A thorax and an abdomen report of one study each see all its lesions and link on their own, so a line that fits what
both say would be linked twice. Only what says the same thing of the lesion (a repeat: an addendum, a final report after
a preliminary one) is linked in both.
"""

from __future__ import annotations

import re
from collections.abc import Sequence
from dataclasses import replace
from itertools import combinations, product

from cohort_builder.anatomy.organs import parts_of
from cohort_builder.types import Decision, Link
from nlp.types import Axis, Finding, Laterality, Size, SizeKind, Temporality

__all__ = ["withhold_contradictions"]

# Words for a focal thing whose nature is left open: one report may say "mass" where another says "lesion".
_GENERIC = frozenset({
    "nodule", "ground-glass nodule", "perifissural nodule", "mass", "lesion", "tumor", "opacity",
    "ground-glass opacity", "incidentaloma", "focus",
})  # fmt: skip
# What such a word may turn out to be. Two of these are two opinions, unless they are the same one.
_GENERIC_OF = frozenset({
    "malignancy", "carcinoma", "metastasis", "implant", "lymphoma", "adenoma", "hamartoma", "granuloma", "fibroid",
    "lipoma", "angiomyolipoma", "myelolipoma", "hemangioma", "focal nodular hyperplasia",
})  # fmt: skip
_SAME_AS = {
    "calculus": "stone", "gallstone": "stone", "pseudocyst": "cyst", "node": "lymph node",
    "lymphadenopathy": "lymph node", "conglomerate": "lymph node", "effusion": "pleural effusion",
}  # fmt: skip
_NO_PLACE = frozenset(
    {"left", "right", "bilateral", "upper", "lower", "middle", "lobe", "segment", "pole", "of", "the"}
)
_SEGMENT = re.compile(r"\bsegments?\W+(\d+|[ivx]+\b)")
_LEVELS = frozenset({"upper", "middle", "lower"})
_SAME_NUMBER_MM = 1e-6


def withhold_contradictions(reports: Sequence[tuple[Sequence[Finding], Sequence[Link]]]) -> list[tuple[Link, ...]]:
    """Withhold the links by which two reports of one patient say different things of one lesion.

    Findings say the same where nothing of side, part of the body, kind of thing and size of today differs. Where one
    names no place, or neither, kind and size (or image) must agree. A link that a person has judged to be right stays,
    also against another such; what contradicts it is withheld.

    Parameters
    ----------
    reports
        Findings and ``link``'s answers of each report.

    Returns
    -------
    The answers of each report. A contradicted link becomes ``AMBIGUOUS`` for its finding and ``UNMATCHED`` for its
    lesion.

    """
    said: dict[str, list[tuple[int, Link, Finding]]] = {}
    for number, (findings, links) in enumerate(reports):
        by_id = {finding.finding_id: finding for finding in findings}
        for one in links:
            if one.decision is Decision.LINKED and one.lesion_id and one.finding_id:
                said.setdefault(one.lesion_id, []).append((number, one, by_id[one.finding_id]))
    contested = {pair for lesion_id, some in said.items() for pair in _contested(lesion_id, some)}
    answers = [
        [answer for one in links for answer in (_apart(one) if (number, one.lesion_id) in contested else (one,))]
        for number, (_, links) in enumerate(reports)
    ]
    return [tuple(sorted(links, key=lambda one: one.finding_id is None)) for links in answers]


def _contested(lesion_id: str, said: Sequence[tuple[int, Link, Finding]]) -> set[tuple[int, str]]:
    """(report, lesion) of the links to one lesion that do not stand."""
    judged = [finding for _, one, finding in said if "reviewed" in one.evidence]
    own = [(number, finding) for number, one, finding in said if "reviewed" not in one.evidence]
    lost = {number for number, finding in own if any(_contradict(finding, other) for other in judged)}
    left = [(number, finding) for number, finding in own if number not in lost]
    if any(_contradict(a, b) for (_, a), (_, b) in combinations(left, 2)):
        lost |= {number for number, _ in left}
    return {(number, lesion_id) for number in lost}


def _apart(one: Link) -> tuple[Link, ...]:
    """A link as an answer for its finding and one for its lesion."""
    if one.decision is not Decision.LINKED or one.lesion_id is None or one.finding_id is None:
        return (one,)
    return (
        replace(
            one,
            lesion_id=None,
            decision=Decision.AMBIGUOUS,
            rivals=((one.lesion_id, one.probability), *one.rivals),
        ),
        replace(one, finding_id=None, decision=Decision.UNMATCHED, rivals=((one.finding_id, one.probability),)),
    )


def _contradict(a: Finding, b: Finding) -> bool:
    """Whether two findings can hardly be said of one lesion; what cannot be compared counts as a contradiction."""
    sides = _side(a), _side(b)
    if None not in sides and sides[0] is not sides[1]:
        return True
    same_size = _same_size(a, b)
    if same_size is False or not _same_kind(a.observation, b.observation):
        return True
    if a.anatomy and b.anatomy:
        return not _same_place(a.anatomy, b.anatomy)
    return not (same_size or _same_image(a, b))


def _side(finding: Finding) -> Laterality | None:
    if finding.laterality is not None:
        return finding.laterality
    named = {"left", "right"} & set((finding.anatomy or "").lower().split())
    return Laterality(named.pop().upper()) if len(named) == 1 else None


def _same_place(a: str, b: str) -> bool:
    """Whether two places share a part of the body; of words that say no part, whether they share one that tells."""
    a, b = a.lower(), b.lower()
    words = set(a.split()), set(b.split())
    for inside in (tuple(map(set, map(_SEGMENT.findall, (a, b)))), tuple(some & _LEVELS for some in words)):
        if all(inside) and not inside[0] & inside[1]:
            return False
    parts = parts_of(a), parts_of(b)
    if all(parts):
        return bool(parts[0] & parts[1])
    return a == b or bool(words[0] & words[1] - _NO_PLACE)


def _same_kind(a: str, b: str) -> bool:
    a, b = _SAME_AS.get(a, a), _SAME_AS.get(b, b)
    if a == b:
        return True
    return bool({a, b} & _GENERIC) and {a, b} <= _GENERIC | _GENERIC_OF


def _same_size(a: Finding, b: Finding) -> bool | None:
    """Whether a size of today is in both within its rounding; None where one of them has none."""
    sizes = [
        [s for s in one.sizes if s.temporality is Temporality.CURRENT and s.kind is SizeKind.LESION] for one in (a, b)
    ]
    return any(_agree(*pair) for pair in product(*sizes)) if all(sizes) else None


def _agree(a: Size, b: Size) -> bool:
    """Whether all axes that both sizes have are the same length, as finely as they are written."""
    if Axis.SHORT in {a.axes[0], b.axes[0]} and a.axes[0] is not b.axes[0]:
        short, other = (a, b) if a.axes[0] is Axis.SHORT else (b, a)
        return len(other.lengths_mm) > 1 and _close(short.lengths_mm[0], other.lengths_mm[1])
    return all(_close(x, y) for x, y in zip(a.lengths_mm, b.lengths_mm, strict=False))


def _close(a: tuple[float, float], b: tuple[float, float]) -> bool:
    return abs(a[0] - b[0]) < max(a[1] + b[1], _SAME_NUMBER_MM)


def _same_image(a: Finding, b: Finding) -> bool:
    return any(
        (x.series_number, x.image_first, x.image_last) == (y.series_number, y.image_first, y.image_last)
        for x, y in product(a.image_references, b.image_references)
    )
