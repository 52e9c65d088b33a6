"""What speaks for and against one finding being one lesion: natural log odds, term by term.

Absent evidence says nothing (no term). All terms are likelihood ratios: how often the report would say this of this
lesion, over how often it would say it of any other. Their constants come from the literature and the simulation of
tests/test_linking.py; they are fields of ``LinkConfig``, to be refitted on reviewed links.
"""

from __future__ import annotations

import re
from collections.abc import Iterable, Sequence
from dataclasses import dataclass, fields
from math import erf, exp, hypot, isfinite, log, sqrt
from statistics import median, pstdev

from cohort_builder.errors import ConfigError
from cohort_builder.types import AnnotationKind, Lesion, LocatedAnnotation, Side
from nlp.types import Axis, Finding, ImageReference, Laterality, Qualifier, Size

_FINEST_ROUNDING_MM = 0.05  # "12.43 mm" is not meant to the hundredth
_SIDE_OF = {Laterality.LEFT: Side.LEFT, Laterality.RIGHT: Side.RIGHT}
_LIES_ON = (
    (re.compile(r"\b(?:spleen|splenic)\b"), Side.LEFT),
    (re.compile(r"\bgallbladder\b|\bliver\b.*\bsegment (?:[5-8]|v|vi|vii|viii)\b"), Side.RIGHT),
)
_CROSSES_MIDDLE = re.compile(r"\bliver\b")
_SHORT_SERIES, _LONG_SERIES = 30, 300  # images
_TEXT_TOLERANCE_MM, _TEXT_TOLERANCE = 0.6, 0.03


@dataclass(frozen=True, slots=True, kw_only=True)
class LinkConfig:
    """Thresholds and terms of the join. Log odds are natural.

    Parameters
    ----------
    linked
        A pair is LINKED from this posterior probability on.
    ambiguous
        A finding that is one of the lesions with at least this probability, but not LINKED, is AMBIGUOUS.
    match_weight
        Prior odds of a pair: mean number of findings with a lesion per report, over that of findings without one times
        that of lesions without a finding.
    uncertain, unsized, absorber
        Factors on ``match_weight`` for findings the report is unsure of, for findings without a size, and for sizes
        that are not a lesion's (an aorta, a distance): never linked, but a line may have been drawn on them.
    size_noise_mm, size_noise_fraction
        Standard deviation of a written size around the drawn line: hypot(mm, fraction x size).
    stated_noise_mm
        The same where the line's own length stands beside it as text.
    unrelated_size
        Probability that a written size is not that of the line although the two belong together.
    background_median_mm, background_log_sd
        Log-normal distribution of written lesion sizes.
    same_image, near_image, near_images, other_image, other_series
        Log odds of an image reference: the lesion is drawn on that image; within ``near_images`` of it; elsewhere on
        that series; or only on other series. The first two are for a series of 300 images and less in shorter ones.
    same_side, other_side
        Log odds of a stated side. Nothing within 15 mm of the middle.
    one_of_pair
        Log odds of a single length, its axis not said, against a lesion of which two axes were drawn: who draws two
        mostly dictates two.
    drawn_unsized, said_unsized
        Log odds of a stated size against a lesion that only an arrow points at, and of a measured lesion without a
        stated size.
    min_size
        Least log odds of the size term of a link, whatever else speaks for it.
    coarse_mm, min_coarse
        Sizes rounded more coarsely than this (whole centimetres) link without an image reference only if size and side
        together give at least ``min_coarse``.

    """

    linked: float = 0.95
    ambiguous: float = 0.2
    match_weight: float = 2.5
    uncertain: float = 0.5
    unsized: float = 0.5
    absorber: float = 0.4
    size_noise_mm: float = 0.4
    size_noise_fraction: float = 0.01
    stated_noise_mm: float = 0.15
    unrelated_size: float = 0.02
    background_median_mm: float = 12.0
    background_log_sd: float = 0.65
    same_image: float = 5.6
    near_image: float = 0.8
    near_images: int = 2
    other_image: float = -3.9
    other_series: float = -2.0
    same_side: float = 0.66
    other_side: float = -2.8
    one_of_pair: float = -1.0
    drawn_unsized: float = -2.0
    said_unsized: float = -2.5
    min_size: float = 0.0
    coarse_mm: float = 2.0
    min_coarse: float = 3.7

    def __post_init__(self) -> None:
        for field in fields(self):
            value = getattr(self, field.name)
            if isinstance(value, bool) or not isinstance(value, int | float) or not isfinite(value):
                raise ConfigError(f"{field.name} must be a finite number, got {value!r}")
        _require_range("linked", self.linked, above=0.5, upto=1)
        _require_range("ambiguous", self.ambiguous, above=0, upto=self.linked)
        _require_range("unrelated_size", self.unrelated_size, above=0, upto=0.5)
        for name in ("match_weight", "uncertain", "unsized", "absorber", "size_noise_mm", "stated_noise_mm"):
            _require_range(name, getattr(self, name), above=0)
        for name in ("background_median_mm", "background_log_sd"):
            _require_range(name, getattr(self, name), above=0)
        for name in ("size_noise_fraction", "near_images", "coarse_mm"):
            if getattr(self, name) < 0:
                raise ConfigError(f"{name} must be 0 or more, got {getattr(self, name)!r}")


def _require_range(name: str, value: float, *, above: float, upto: float = float("inf")) -> None:
    if not above < value <= upto:
        raise ConfigError(f"{name} must be more than {above} and at most {upto}, got {value!r}")


@dataclass(frozen=True, slots=True)
class Measured:
    """One drawn measurement of a lesion: its axes in mm (``short`` None for a lone line) and how exact they are."""

    long_mm: float
    short_mm: float | None
    noise_mm: float


def text_tolerance_mm(drawn_mm: float) -> float:
    """How far a number beside a line may be from the line's own length, viewers' rounding of points considered."""
    return max(_TEXT_TOLERANCE_MM, _TEXT_TOLERANCE * drawn_mm)


def stated_lengths(located: LocatedAnnotation) -> tuple[float, ...]:
    """The drawn lengths, longest first, each replaced by the number that stands beside it where the two agree."""
    stated = located.annotation.stated_mm
    lengths = []
    for drawn in located.diameters_mm:
        nearest = min(stated, key=lambda value: (abs(value - drawn), value), default=drawn)
        lengths.append(nearest if abs(nearest - drawn) <= text_tolerance_mm(drawn) else drawn)
    return tuple(sorted(lengths, reverse=True))


def measurements(lesion: Lesion, config: LinkConfig) -> list[Measured]:
    """What each reader measured on the lesion: one entry a stroke; a line that is the axis of a pair counts once.

    An arrow has none, unless a length stands beside it.
    """
    pairs = [a.annotation for a in lesion.annotations if a.annotation.kind is AnnotationKind.BIDIMENSIONAL]
    found = []
    for located in lesion.annotations:
        annotation = located.annotation
        lengths = stated_lengths(located) or tuple(sorted(annotation.stated_mm, reverse=True))
        part_of_pair = annotation.kind is AnnotationKind.LINE and any(
            pair.sop_instance_uid == annotation.sop_instance_uid and set(annotation.points) <= set(pair.points)
            for pair in pairs
        )
        if not lengths or part_of_pair:
            continue
        exact = set(lengths) <= set(annotation.stated_mm)
        noise = (
            config.stated_noise_mm if exact else hypot(config.size_noise_mm, config.size_noise_fraction * lengths[0])
        )
        found.append(Measured(lengths[0], lengths[1] if len(lengths) > 1 else None, noise))
    return found


def size_evidence(sizes: Sequence[Size], drawn: Sequence[Measured], config: LinkConfig) -> float:
    """Log odds of the written ``sizes`` of one finding (not empty) given what was ``drawn`` (not empty).

    The report quotes one of the readers, each equally likely, or in one case of five something between them: a normal
    around their median as wide as their spread. Sizes that findings and impression state differently count equally.
    """
    readers = list(drawn)
    ratios = [_mean(_likelihood_ratio(size, reader, config) for reader in readers) for size in sizes]
    if len(readers) > 1:
        shorts = [reader.short_mm for reader in readers if reader.short_mm is not None]
        spread = pstdev(reader.long_mm for reader in readers)
        between = Measured(
            median(reader.long_mm for reader in readers),
            median(shorts) if shorts else None,
            hypot(spread, max(reader.noise_mm for reader in readers)),
        )
        ratios = [
            0.8 * ratio + 0.2 * _likelihood_ratio(size, between, config)
            for ratio, size in zip(ratios, sizes, strict=True)
        ]
    return log(_mean(ratios))


def axes_evidence(sizes: Sequence[Size], drawn: Sequence[Measured], config: LinkConfig) -> float | None:
    """Log odds of how many axes are said where two were drawn; None where the report says two, or which one."""
    one = all(size.axes == (None,) for size in sizes)
    pair = all(measured.short_mm is not None for measured in drawn)
    return config.one_of_pair if one and pair else None


def reference_evidence(
    references: Sequence[ImageReference], lesion: Lesion, n_images: int, config: LinkConfig
) -> float | None:
    """Log odds of the best of the ``references`` over all strokes of the lesion; None without a comparable pair.

    ``n_images`` is about how many images the series has: in a short one a lesion is on the said image by chance.
    """
    shorter = log(min(max(n_images, _SHORT_SERIES), _LONG_SERIES) / _LONG_SERIES)
    values = [
        value
        for reference in references
        for located in lesion.annotations
        if (value := _one_reference(reference, located, shorter, config)) is not None
    ]
    return max(values, default=None)


def is_exact_reference(references: Sequence[ImageReference], lesion: Lesion) -> bool:
    """Whether a stroke of the lesion lies on an image that the finding names."""
    return any(
        located.instance_number is not None
        and reference.image_first <= located.instance_number <= reference.image_last
        and reference.series_number in {None, located.series_number}
        for reference in references
        for located in lesion.annotations
    )


def _one_reference(
    reference: ImageReference, located: LocatedAnnotation, shorter: float, config: LinkConfig
) -> float | None:
    number = located.instance_number
    if number is None or (reference.series_number is not None and located.series_number is None):
        return None
    if reference.series_number is not None and reference.series_number != located.series_number:
        return config.other_series
    away = max(reference.image_first - number, number - reference.image_last, 0)
    if away == 0:
        return max(config.same_image + shorter - log(1 + reference.image_last - reference.image_first), 0.0)
    return config.near_image + shorter if away <= config.near_images else config.other_image


def side_evidence(finding: Finding, lesion: Lesion, config: LinkConfig) -> float | None:
    """Log odds of the stated side; None where the report or the image does not tell, or strokes disagree.

    An organ that lies on one side speaks against the other one, and not for its own. The left lobe of the liver is no
    side.
    """
    anatomy = finding.anatomy or ""
    said = _SIDE_OF.get(finding.laterality) if finding.laterality is not None else None
    if said is Side.LEFT and _CROSSES_MIDDLE.search(anatomy):
        said = None
    sides = {located.side for located in lesion.annotations if located.side is not None}
    if len(sides) != 1 or Side.MIDLINE in sides:
        return None
    if said is not None:
        return config.same_side if said in sides else config.other_side
    lies = next((side for pattern, side in _LIES_ON if pattern.search(anatomy)), None)
    return None if lies is None or lies in sides else config.other_side


def _likelihood_ratio(size: Size, drawn: Measured, config: LinkConfig) -> float:
    """P(the report writes ``size`` | it means this line) / P(it writes ``size``)."""
    if size.qualifier in _BOUNDS:
        return _bound_ratio(size, drawn, config)
    widen = 2.0 if size.qualifier is Qualifier.APPROXIMATE else 1.0
    noise = widen * drawn.noise_mm
    ratio = 0.0
    for weight, written, length in _readings(size, drawn):
        term = weight * _match(written[0], length[0], noise, _background(written[0], config), config)
        if len(written) == 2:
            (value, rounding), first = written[1], written[0][0]
            term *= _match((value, rounding), length[1], noise, _second_background(value, rounding, first), config)
        ratio += term
    return ratio


_Written = tuple[float, float]  # value and rounding, mm
_Reading = tuple[float, tuple[_Written, ...], tuple[float, ...]]  # weight, written axes, the drawn lengths they mean


def _readings(size: Size, drawn: Measured) -> list[_Reading]:
    """Which drawn axis each written number may mean, with weights that sum to 1.

    A lone number is the long axis, unless the report says short axis; a lone line is the long axis of a written pair;
    either the other way round once in eight (exp(-2)). Of three numbers, any two may lie in the plane of the drawing.
    """
    written = tuple(zip(size.values_mm, size.roundings_mm, strict=True))
    short, other = drawn.short_mm, exp(-2)
    if len(written) == 1:
        if short is None:
            return [(1.0, written, (drawn.long_mm,))]
        if size.axes[0] is Axis.SHORT:
            return [(1.0, written, (short,))]
        if size.axes[0] is not None:
            return [(1.0, written, (drawn.long_mm,))]
        return [(1 - other, written, (drawn.long_mm,)), (other, written, (short,))]
    in_plane = (
        [w for w, axis in zip(written, size.axes, strict=True) if axis is not Axis.CC] if len(written) > 2 else []
    )
    chosen = tuple(in_plane) if len(in_plane) >= 2 else written
    if short is None:
        rest = len(chosen) - 1
        return [(1 - other if i == 0 else other / rest, (w,), (drawn.long_mm,)) for i, w in enumerate(chosen)]
    pairs = [(chosen[i], chosen[j]) for i in range(len(chosen)) for j in range(i + 1, len(chosen))]
    return [(1 / len(pairs), pair, (drawn.long_mm, short)) for pair in pairs]


def _match(written: _Written, length: float, noise: float, background: float, config: LinkConfig) -> float:
    value, rounding = written[0], max(written[1], _FINEST_ROUNDING_MM)
    mass = _normal_cdf((value + rounding - length) / noise) - _normal_cdf((value - rounding - length) / noise)
    return (1 - config.unrelated_size) * mass / background + config.unrelated_size


def _background(written: _Written, config: LinkConfig) -> float:
    """Probability that any lesion is written down as this number: mass of the log-normal in the box of its rounding."""
    value, rounding = written[0], max(written[1], _FINEST_ROUNDING_MM)
    mass = _background_cdf(value + rounding, config) - _background_cdf(value - rounding, config)
    return max(mass, 1e-4 * rounding)


def _second_background(value: float, rounding: float, first: float) -> float:
    """The same for a second axis, given the first: short over long is normal(0.75, 0.15), one in ten anything."""
    box = max(rounding, _FINEST_ROUNDING_MM) / first
    ratio = value / first
    mass = _normal_cdf((ratio + box - 0.75) / 0.15) - _normal_cdf((ratio - box - 0.75) / 0.15)
    return 0.9 * mass + 0.1 * min(2 * box, 1.0)


_BOUNDS = {Qualifier.UP_TO, Qualifier.AT_LEAST, Qualifier.LESS_THAN, Qualifier.GREATER_THAN}


def _bound_ratio(size: Size, drawn: Measured, config: LinkConfig) -> float:
    """P(drawn length | the bound) / P(drawn length): background cut at the bound.

    "Up to" and "at least" are as often the size itself as a bound of it.
    """
    value, rounding = size.values_mm[0], size.roundings_mm[0]
    below = size.qualifier in {Qualifier.UP_TO, Qualifier.LESS_THAN}
    limit = value + rounding if below else max(value - rounding, 0.0)
    share = _background_cdf(limit, config) if below else 1 - _background_cdf(limit, config)
    slack = 2 * drawn.noise_mm
    keeps = drawn.long_mm <= limit + slack if below else drawn.long_mm >= limit - slack
    bound = (1 - config.unrelated_size) * keeps / max(share, 0.05) + config.unrelated_size
    if size.qualifier in {Qualifier.LESS_THAN, Qualifier.GREATER_THAN}:
        return bound
    written = (value, rounding)
    return 0.5 * bound + 0.5 * _match(written, drawn.long_mm, drawn.noise_mm, _background(written, config), config)


def _background_cdf(length: float, config: LinkConfig) -> float:
    if length <= 0:
        return 0.0
    return _normal_cdf(log(length / config.background_median_mm) / config.background_log_sd)


def _normal_cdf(z: float) -> float:
    return 0.5 * (1 + erf(z / sqrt(2)))


def _mean(values: Iterable[float]) -> float:
    numbers = list(values)
    return sum(numbers) / len(numbers)
