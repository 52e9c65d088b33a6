"""What speaks for and against one finding being one lesion: natural log odds, term by term.

Absent evidence says nothing (no term). All terms are likelihood ratios: how often the report would say this of this
lesion, over how often it would say it of any other. Their rates are fields of ``LinkConfig``, to be refitted on
reviewed links; sizes are in ``sizes``, images in ``references``.
"""

from __future__ import annotations

import re
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from datetime import datetime, timedelta
from functools import lru_cache
from math import log

from cohort_builder.anatomy.organs import organ_agreement
from cohort_builder.linking.config import LinkConfig
from cohort_builder.linking.references import Images, reference_evidence
from cohort_builder.linking.sizes import Measured, measurements
from cohort_builder.types import Lesion, Reading, Side
from nlp.types import Axis, Finding, ImageReference, Laterality, Size

_SIDE_OF = {Laterality.LEFT: Side.LEFT, Laterality.RIGHT: Side.RIGHT}
_LIES_ON = (
    (re.compile(r"\b(?:spleen|splenic)\b"), Side.LEFT),
    (re.compile(r"\bgallbladder\b|\bliver\b.*\bsegment (?:[5-8]|v|vi|vii|viii)\b"), Side.RIGHT),
)
_FAR_FROM_MIDDLE = re.compile(r"\bspleen\b|\bliver\b.*\bsegment (?:[5-8]|v|vi|vii|viii)\b")
_IN_MIDDLE = re.compile(
    r"\b(?:aortocaval|interaortocaval|subcarinal|prevascular|vertebrae?|vertebral|spine|spinal|sternum|sternal|trachea|"
    r"esophagus|midline)\b"
)
_CROSSES_MIDDLE = re.compile(r"\bliver\b")
_OF_LUNG = re.compile(r"\b(?:lobes?|lungs?|pulmonary|apex|apical|apices|lung bases?|basal|basilar|lingula)\b")
_LEVELS = (
    (re.compile(r"\b(?:upper|apex|apical|apices)\b"), (0.5, 1.1)),
    (re.compile(r"\b(?:lower|bases?|basal|basilar)\b"), (-0.1, 0.5)),
    (re.compile(r"\b(?:middle|lingula)\b"), (0.1, 0.7)),
)
_BORDER = 0.1  # of a level: nearer to the limit than this says nothing
_LABEL_WORD = re.compile(r"[^\W\d_]+ ?\d{1,2}\b|[^\W\d_]+")
_LOBES = {
    "rul": "right upper", "rml": "right middle", "rll": "right lower", "lul": "left upper", "lll": "left lower",
    "re": "right", "li": "left", "rt": "right", "lt": "left",
}  # fmt: skip
_LATE, _LONG_BEFORE = timedelta(hours=1), timedelta(days=7)
_SIDE_SHARE, _LEVEL_SHARE, _MIDDLE_SHARE = 0.5, 0.5, 0.25
_WEIGHT_AT_LARGE = 4.0
_LEAST_SHARE = 0.1  # lesions of one patient cluster: the rarest organ is never that rare


@dataclass(frozen=True, slots=True)
class Candidate:
    """Something the report says that may have been drawn. ``linkable`` is False for what only competes for a lesion."""

    finding: Finding
    sizes: tuple[Size, ...]
    references: tuple[ImageReference, ...]
    factor: float
    linkable: bool


@dataclass(frozen=True, slots=True)
class Context:
    """What the evidence of one pair needs to know of the whole reading.

    Parameters
    ----------
    log_weight
        Log of the prior odds of any pair.
    images
        The images that were drawn on.
    pairs_drawn
        Share of the measured lesions that have two axes.
    images_named
        Share of the candidates that name an image; 0 if none does.
    words
        Of each word beside a line: the share of the candidates that say it.
    reported_at
        When the report was given out.

    """

    log_weight: float
    images: Images
    pairs_drawn: float
    images_named: float
    words: Mapping[str, float]
    reported_at: datetime | None = None


def context_of(
    candidates: Sequence[Candidate],
    lesions: Sequence[Lesion],
    config: LinkConfig,
    reported_at: datetime | None = None,
) -> Context:
    """Look at a whole reading once."""
    strokes = [located for lesion in lesions for located in lesion.annotations]
    drawn = [measured for lesion in lesions if (measured := measurements(lesion))]
    pairs = sum(all(one.short_mm is not None for one in measured) for measured in drawn)
    said = [candidate for candidate in candidates if candidate.linkable and candidate.sizes]
    naming = sum(bool(candidate.references) for candidate in said)
    beside = frozenset(word for located in strokes for word in _words(located.annotation.label))
    spoken = [finding_words(candidate.finding) for candidate in candidates] if beside else []
    return Context(
        log_weight=log(config.match_weight / (1 + (len(candidates) + len(lesions)) / 2)),
        images=Images.of(lesions, (reference for one in candidates for reference in one.references)),
        pairs_drawn=(pairs + 1) / (len(drawn) + 2),
        images_named=(naming + 0.5) / (len(said) + 1) if naming else 0.0,
        words={
            word: (count + 0.6) / (len(spoken) + 2)
            for word in sorted(beside)
            if (count := sum(word in words for words in spoken))
        },
        reported_at=reported_at,
    )


def row_evidence(
    candidate: Candidate,
    lesions: Sequence[Lesion],
    drawn: Sequence[Sequence[Measured]],
    context: Context,
    config: LinkConfig,
) -> list[dict[str, float]]:
    """Log odds by term of the candidate with each lesion, without the size.

    Their sum with the size is the log odds of the pair without rivals. How often a side or an organ agrees by chance
    is told by the other lesions of the reading as much as by what is known of lesions at large.
    """
    finding = candidate.finding
    prior = context.log_weight + log(candidate.factor)
    unnamed = _unnamed_evidence(candidate, context, config)
    sides = [side_agrees(finding, lesion) for lesion in lesions]
    organs = [organ_of(finding, lesion) for lesion in lesions]
    of_organ = [None if organ is None else organ[0] for organ in organs]
    middles = [middle_agrees(finding, lesion) for lesion in lesions]
    rows = []
    for j, lesion in enumerate(lesions):
        terms: dict[str, float | None] = {"prior": prior, "unnamed": unnamed}
        if candidate.sizes and drawn[j]:
            terms["axes"] = _axes_evidence(candidate.sizes, drawn[j], context, config)
        elif candidate.sizes:
            terms["drawn_unsized"] = config.drawn_unsized
        elif drawn[j]:
            terms["said_unsized"] = config.said_unsized
        name, value = reference_evidence(candidate.references, lesion, context.images, config)
        terms[name] = value
        terms["side"] = _of_rate(sides[j], config.side_right, _by_chance(sides, j, _SIDE_SHARE))
        terms["middle"] = _of_rate(middles[j], config.middle_right, _by_chance(middles, j, _MIDDLE_SHARE))
        organ = organs[j]
        if organ is not None:
            terms["organ"] = _of_rate(organ[0], config.organ_right, _by_chance(of_organ, j, organ[1]))
        terms["level"] = _of_rate(level_agrees(finding, lesion), config.level_right, _LEVEL_SHARE)
        terms["label"] = _label_evidence(finding, lesion, context, config)
        terms["time"] = _time_evidence(lesion, context.reported_at, config)
        rows.append({name: value for name, value in terms.items() if value is not None})
    return rows


def _by_chance(agree: Sequence[bool | None], j: int, share: float) -> float:
    """How often lesions other than ``j`` agree; ``share`` of lesions at large counts like four of them."""
    others = [one for k, one in enumerate(agree) if k != j and one is not None]
    return (sum(others) + _WEIGHT_AT_LARGE * share) / (len(others) + _WEIGHT_AT_LARGE)


def _unnamed_evidence(candidate: Candidate, context: Context, config: LinkConfig) -> float | None:
    """Log odds of naming no image in a report that names images."""
    if not candidate.linkable or not candidate.sizes or candidate.references or not context.images_named:
        return None
    named = context.images_named
    return log((1 - named) / ((1 - named) * (1 - config.unnamed) + config.unnamed))


def _of_rate(agrees: bool | None, rate: float, share: float) -> float | None:
    """Log likelihood ratio of something that agrees at ``rate`` in right pairs, and in ``share`` of any others."""
    if agrees is None:
        return None
    share = min(max(share, _LEAST_SHARE), 1 - _LEAST_SHARE)
    return log(rate / share) if agrees else min(log((1 - rate) / (1 - share)), 0.0)


def _axes_evidence(
    sizes: Sequence[Size], drawn: Sequence[Measured], context: Context, config: LinkConfig
) -> float | None:
    """Log odds of how many axes are said, by how many were drawn; None where the report says which axis it means."""
    if any(axis is Axis.SHORT for size in sizes for axis in size.axes):
        return None
    two = any(len(size.lengths_mm) > 1 for size in sizes)
    rate = config.two_of_two if all(one.short_mm is not None for one in drawn) else config.two_of_one
    any_rate = context.pairs_drawn * config.two_of_two + (1 - context.pairs_drawn) * config.two_of_one
    return log(rate / any_rate) if two else log((1 - rate) / (1 - any_rate))


def side_agrees(finding: Finding, lesion: Lesion) -> bool | None:
    """Whether the stated side is that of the lesion; None where report or image do not tell, or strokes disagree.

    An organ that lies on one side speaks against the other one, and not for its own. The left lobe of the liver is no
    side.
    """
    anatomy = finding.anatomy or ""
    said = _SIDE_OF.get(finding.laterality) if finding.laterality is not None else None
    if said is Side.LEFT and _CROSSES_MIDDLE.search(anatomy):
        said = None
    sides = {located.side for located in lesion.annotations if located.side is not None}
    if len(sides) != 1:
        return None
    if Side.MIDLINE in sides:
        return False if _FAR_FROM_MIDDLE.search(anatomy) else None
    if said is not None:
        return said in sides
    lies = next((side for pattern, side in _LIES_ON if pattern.search(anatomy)), None)
    return None if lies is None or lies in sides else False


def middle_agrees(finding: Finding, lesion: Lesion) -> bool | None:
    """Whether the lesion lies near the middle as the stated place does; None where no such place is said."""
    if finding.laterality is not None or not _IN_MIDDLE.search(finding.anatomy or ""):
        return None
    sides = {located.side for located in lesion.annotations if located.side is not None}
    return Side.MIDLINE in sides if sides else None


def organ_of(finding: Finding, lesion: Lesion) -> tuple[bool, float] | None:
    """Whether the stated place may be the organ of any stroke, and how often it would by chance."""
    found = [
        agreement
        for organ in sorted({located.organ for located in lesion.annotations if located.organ is not None})
        if (agreement := organ_agreement(finding.anatomy, organ)) is not None
    ]
    return max(found, default=None)


def level_agrees(finding: Finding, lesion: Lesion) -> bool | None:
    """Whether the lesion lies as high in the lungs as the stated lobe; None near the limit, or where not known."""
    anatomy = finding.anatomy or ""
    if not _OF_LUNG.search(anatomy):
        return None
    said = [limits for pattern, limits in _LEVELS if pattern.search(anatomy)]
    levels = [located.lung_level for located in lesion.annotations if located.lung_level is not None]
    if len(said) != 1 or not levels:
        return None
    (lower, upper), level = said[0], sum(levels) / len(levels)
    if min(abs(level - lower), abs(level - upper)) < _BORDER:
        return None
    return lower < level < upper


def finding_words(finding: Finding) -> frozenset[str]:
    """The words by which a label beside a line may name the finding."""
    side = finding.laterality.value if finding.laterality is not None else ""
    return _words(f"{finding.observation} {finding.anatomy or ''} {side}")


@lru_cache(maxsize=4096)
def _words(text: str) -> frozenset[str]:
    """Lower-case words, "lesion 2" as one; abbreviated lobes and sides spelt out."""
    found: set[str] = set()
    for word in _LABEL_WORD.findall(text.lower()):
        found.update(_LOBES.get(word, word).split(" ") if not word[-1].isdigit() else [word.replace(" ", "")])
    return frozenset(word for word in found if len(word) > 2 or word[-1].isdigit())


def _label_evidence(finding: Finding, lesion: Lesion, context: Context, config: LinkConfig) -> float | None:
    """Log odds of the text beside the strokes: None if nothing that the report says is among its words.

    The rarest of the shared words counts.
    """
    label = frozenset(word for located in lesion.annotations for word in _words(located.annotation.label))
    told = {word: context.words[word] for word in label if word in context.words}
    if not told:
        return None
    said = finding_words(finding)
    shared = [share for word, share in told.items() if word in said]
    if shared:
        return max(log(config.label_right / min(shared)), 0.0)
    return _of_rate(agrees=False, rate=config.label_right, share=min(told.values()))


def _time_evidence(lesion: Lesion, reported_at: datetime | None, config: LinkConfig) -> float | None:
    """Log odds of when the strokes were drawn; None where a time is not known, or as expected."""
    if reported_at is None or lesion.reading is not Reading.CURRENT:
        return None
    drawn = [located.annotation.drawn_at for located in lesion.annotations]
    before = [
        reported_at - at for at in drawn if at is not None and (at.tzinfo is None) == (reported_at.tzinfo is None)
    ]
    if not before or len(before) < len(drawn):
        return None
    if all(time < -_LATE for time in before):
        return config.drawn_late
    return config.drawn_long_before if all(time > _LONG_BEFORE for time in before) else None


def sizes_of_lesion(sizes: Iterable[Size]) -> tuple[Size, ...]:
    """Join a long and a short axis that are written apart ("2.3 cm node, short axis 1.1 cm") into one size."""
    sizes = tuple(sizes)
    shorts = [size for size in sizes if size.axes == (Axis.SHORT,)]
    rest = [size for size in sizes if size.axes != (Axis.SHORT,)]
    if not shorts or not rest:
        return sizes
    return tuple(_with_short(size, shorts[0]) for size in rest)


def _with_short(size: Size, short: Size) -> Size:
    if len(size.values_mm) != 1 or size.values_mm[0] < short.values_mm[0]:
        return size
    return Size(
        (size.values_mm[0], short.values_mm[0]),
        (size.roundings_mm[0], short.roundings_mm[0]),
        (Axis.LONG, Axis.SHORT),
        size.span,
        size.qualifier,
        size.temporality,
        size.kind,
    )
