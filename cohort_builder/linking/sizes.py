"""The likelihood that a line was measured as this text: rounding, axes, several readers, and the noise between them.

Everything is computed for a few standard deviations of the noise at once (``NOISE_MM``), because the noise of a reading
is not known: ``linking`` weighs them by how well each explains the whole report.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, replace
from math import erf, exp, log, sqrt
from statistics import median, pstdev

import numpy as np
from numpy.typing import NDArray

from cohort_builder.lesions.stated import stated_lengths
from cohort_builder.linking.config import LinkConfig
from cohort_builder.types import AnnotationKind, Lesion
from nlp.types import Axis, Qualifier, Size

FloatArray = NDArray[np.float64]

NOISE_MM = (0.05, 0.3, 0.75, 1.5, 3.0)
"""Standard deviations of what is written around what was drawn, each standing for those near it."""

HALF_CM_MM = 2.5
"""Half of the step in which a report that keeps to half centimetres writes."""

_FINEST_ROUNDING_MM = 0.05  # "12.43 mm" is not meant to the hundredth
_EQUAL_MM = 0.7  # standard deviation between lesions of equal size
_BETWEEN = 0.2  # how often a report says something between its readers
_SHORT_OVER_LONG, _SHORT_OVER_LONG_SD = 0.75, 0.15
_ANY_RATIO = 0.1  # share of pairs with any other ratio
_LEAST_BACKGROUND = 1e-4  # per mm of rounding
_LEAST_NOISE = 1e-12  # share of the readings: none of the levels is impossible
_BOUNDS = {Qualifier.UP_TO, Qualifier.AT_LEAST, Qualifier.LESS_THAN, Qualifier.GREATER_THAN}


@dataclass(frozen=True, slots=True)
class Measured:
    """One drawn measurement of a lesion, in mm: its axes (``short`` None for a lone line).

    ``stated``: the lengths stand beside it as text. ``spread_mm``: what it is uncertain by itself.
    """

    long_mm: float
    short_mm: float | None
    stated: bool = False
    spread_mm: float = 0.0


def measurements(lesion: Lesion) -> list[Measured]:
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
        stated = set(lengths) <= set(annotation.stated_mm)
        found.append(Measured(lengths[0], lengths[1] if len(lengths) > 1 else None, stated))
    return found


def keeps_to_half_cm(sizes: Iterable[Size]) -> bool:
    """Whether a report with these sizes may round all of them to half centimetres."""
    return all(value % 5 == 0 for size in sizes for value in size.values_mm)


def in_half_cm(sizes: Sequence[Size]) -> tuple[Size, ...]:
    """The sizes as a report means them that rounds to half centimetres."""
    return tuple(
        replace(size, roundings_mm=tuple(max(rounding, HALF_CM_MM) for rounding in size.roundings_mm)) for size in sizes
    )


def log_written(sizes: Iterable[Size], config: LinkConfig) -> float:
    """Log probability that any lesions are written down as these sizes."""
    total = 0.0
    for size in sizes:
        written = size.lengths_mm
        total += log(_background(written[0], config))
        total += sum(log(_second_background(*other, written[0][0])) for other in written[1:2])
    return total


@dataclass(frozen=True, slots=True)
class _Term:
    """One way to read a text as a measurement: it adds to the pair's ratio with ``weight``."""

    pair: int
    weight: float
    widen: float
    stated: bool
    spread_mm: float
    long: tuple[float, float, float, float]  # value, rounding, drawn length, background
    short: tuple[float, float, float, float] | None


def size_ratios(sizes: Sequence[Sequence[Size]], drawn: Sequence[Sequence[Measured]], config: LinkConfig) -> FloatArray:
    """P(the report writes the sizes | it means the lesion) / P(it writes them).

    Parameters
    ----------
    sizes
        The written sizes of each finding. Several of one finding (findings and impression differ) count equally.
    drawn
        What was measured on each lesion. The report quotes one of the readers, each equally likely, or in one case of
        five something between them.

    Returns
    -------
    (noise level, finding, lesion) ratios; 1 where either side has no size. A lesion of the same size as others of the
    patient is not told from them: the ratio against a finding whose own lesion was not drawn takes that into account.

    """
    shape = (len(sizes), len(drawn))
    terms: list[_Term] = []
    ratios = np.zeros((len(NOISE_MM), shape[0] * shape[1]))
    has_size = np.zeros(shape, dtype=np.bool_)
    for i, written in enumerate(sizes):
        for j, readers in enumerate(drawn):
            has_size[i, j] = bool(written and readers)
            for weight, reader in _readers(readers) if written else ():
                for size in written:
                    share = weight / len(written)
                    if size.qualifier in _BOUNDS:
                        ratios[:, i * shape[1] + j] += share * _bound_ratio(size, reader, config)
                    else:
                        terms += _terms(i * shape[1] + j, share, size, reader, config)
    alone = ratios.copy()  # by the long axis only: lesions of equal size have short axes of their own
    if terms:
        _add(terms, ratios, alone, config)
    measured = has_size.sum(axis=1)
    copies = np.where(has_size, alone.reshape(-1, *shape), 0.0).sum(axis=2) / np.maximum(measured, 1)
    equal = config.equal_size * measured / (measured + 1)  # of all its lesions the patient has at least one more
    unlike: FloatArray = ratios.reshape(-1, *shape) / (1 - equal + equal * copies)[:, :, None]
    return np.where(has_size, unlike, 1.0)


def _readers(drawn: Sequence[Measured]) -> list[tuple[float, Measured]]:
    if len(drawn) < 2:
        return [(1.0, reader) for reader in drawn]
    shorts = [reader.short_mm for reader in drawn if reader.short_mm is not None]
    between = Measured(
        median(reader.long_mm for reader in drawn),
        median(shorts) if shorts else None,
        spread_mm=pstdev(reader.long_mm for reader in drawn),
    )
    return [((1 - _BETWEEN) / len(drawn), reader) for reader in drawn] + [(_BETWEEN, between)]


def _terms(pair: int, weight: float, size: Size, reader: Measured, config: LinkConfig) -> Iterable[_Term]:
    widen = 2.0 if size.qualifier is Qualifier.APPROXIMATE else 1.0
    for share, written, lengths in _readings(size, reader, config):
        short = None
        if len(written) == 2:
            short = (*written[1], lengths[1], _second_background(*written[1], written[0][0]))
        yield _Term(
            pair,
            weight * share,
            widen,
            reader.stated,
            reader.spread_mm,
            (*written[0], lengths[0], _background(written[0], config)),
            short,
        )


def _add(terms: Sequence[_Term], ratios: FloatArray, alone: FloatArray, config: LinkConfig) -> None:
    """Add every term to its pair: ``ratios`` by all axes, ``alone`` as if by the long one of another, equal lesion."""
    noise = np.array(NOISE_MM)[:, None]
    weight = np.array([term.weight for term in terms])
    pairs = np.array([term.pair for term in terms])
    widen = np.array([term.widen for term in terms])
    spread = np.array([term.spread_mm for term in terms])
    copied = np.array([config.stated_copied if term.stated else 0.0 for term in terms])
    no_short = (1.0, 1.0, 1.0, 1.0)
    has_short = np.array([term.short is not None for term in terms])
    long = np.array([term.long for term in terms])
    short = np.array([term.short or no_short for term in terms])
    by_long, by_all = np.zeros((len(noise), len(terms))), np.zeros((len(noise), len(terms)))
    for share, level in ((1 - copied, noise), (copied, np.full_like(noise, config.stated_noise_mm))):
        if not share.any():
            continue
        sd = np.sqrt(level**2 + spread**2 + (config.drawing_noise * long[:, 2]) ** 2) * widen
        first = _matches(long, sd, config)
        by_long += share * _matches(long, np.hypot(sd, _EQUAL_MM), config)
        by_all += share * first * np.where(has_short, _matches(short, sd, config), 1.0)
    for k, pair in enumerate(pairs):
        alone[:, pair] += weight[k] * by_long[:, k]
        ratios[:, pair] += weight[k] * by_all[:, k]


def _matches(axis: FloatArray, sd: FloatArray, config: LinkConfig) -> FloatArray:
    """(level, term) mass of the normal around the drawn length in the box of the rounding, over the background."""
    from scipy.special import ndtr  # SciPy is loaded by those who link

    value, rounding, length, background = axis.T
    rounding = np.maximum(rounding, _FINEST_ROUNDING_MM)
    mass = ndtr((value + rounding - length) / sd) - ndtr((value - rounding - length) / sd)
    ratio: FloatArray = (1 - config.unrelated_size) * mass / background + config.unrelated_size
    return ratio


_Written = tuple[float, float]  # value and rounding, mm
_Reading = tuple[float, tuple[_Written, ...], tuple[float, ...]]  # weight, written axes, the drawn lengths they mean


def _readings(size: Size, drawn: Measured, config: LinkConfig) -> list[_Reading]:
    """Which drawn axis each written number may mean, with weights that sum to 1.

    A lone number is the long axis, unless the report says short axis; a lone line is the long axis of a written pair;
    either may be the other way round. Of three numbers, any two may lie in the plane of the drawing.
    """
    written = size.lengths_mm
    short, other = drawn.short_mm, config.swapped_axes
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
        other = other if rest == 1 else exp(-2)
        return [(1 - other if i == 0 else other / rest, (w,), (drawn.long_mm,)) for i, w in enumerate(chosen)]
    pairs = [(chosen[i], chosen[j]) for i in range(len(chosen)) for j in range(i + 1, len(chosen))]
    return [(1 / len(pairs), pair, (drawn.long_mm, short)) for pair in pairs]


def _background(written: _Written, config: LinkConfig) -> float:
    """Probability that any lesion is written down as this number: mass of the log-normal in the box of its rounding."""
    value, rounding = written[0], max(written[1], _FINEST_ROUNDING_MM)
    mass = _background_cdf(value + rounding, config) - _background_cdf(value - rounding, config)
    return max(mass, _LEAST_BACKGROUND * rounding)


def _second_background(value: float, rounding: float, first: float) -> float:
    """The same for a second axis, given the first: short over long is normal, one in ten anything."""
    box = max(rounding, _FINEST_ROUNDING_MM) / first
    ratio = value / first
    upper = _normal_cdf((ratio + box - _SHORT_OVER_LONG) / _SHORT_OVER_LONG_SD)
    lower = _normal_cdf((ratio - box - _SHORT_OVER_LONG) / _SHORT_OVER_LONG_SD)
    return (1 - _ANY_RATIO) * (upper - lower) + _ANY_RATIO * min(2 * box, 1.0)


def _bound_ratio(size: Size, drawn: Measured, config: LinkConfig) -> FloatArray:
    """(level,) P(drawn length | the bound) / P(drawn length): background cut at the bound.

    "Up to" and "at least" are as often the size itself as a bound of it.
    """
    from scipy.special import ndtr  # SciPy is loaded by those who link

    value, rounding = size.values_mm[0], size.roundings_mm[0]
    below = size.qualifier in {Qualifier.UP_TO, Qualifier.LESS_THAN}
    limit = value + rounding if below else max(value - rounding, 0.0)
    share = _background_cdf(limit, config) if below else 1 - _background_cdf(limit, config)
    sd = np.sqrt(np.array(NOISE_MM) ** 2 + (config.drawing_noise * drawn.long_mm) ** 2)
    keeps = ndtr((limit - drawn.long_mm) / sd if below else (drawn.long_mm - limit) / sd)
    bound = (1 - config.unrelated_size) * keeps / max(share, 0.05) + config.unrelated_size
    if size.qualifier in {Qualifier.LESS_THAN, Qualifier.GREATER_THAN}:
        return np.asarray(bound, dtype=np.float64)
    axis = np.array([[value, rounding, drawn.long_mm, _background((value, rounding), config)]])
    either: FloatArray = 0.5 * bound + 0.5 * _matches(axis, sd[:, None], config)[:, 0]
    return either


def _background_cdf(length: float, config: LinkConfig) -> float:
    if length <= 0:
        return 0.0
    return _normal_cdf(log(length / config.background_median_mm) / config.background_log_sd)


def _normal_cdf(z: float) -> float:
    return 0.5 * (1 + erf(z / sqrt(2)))


def noise_prior(config: LinkConfig) -> FloatArray:
    """(level,) prior share of the readings that have each of ``NOISE_MM``."""
    z = np.log(np.array(NOISE_MM) / config.noise_median_mm) / config.noise_log_sd
    share = np.maximum(np.exp(0.5 * ((z**2).min() - z**2)), _LEAST_NOISE)
    total: FloatArray = share / share.sum()
    return total


def written_as(pair: Mapping[str, float], config: LinkConfig) -> list[float]:
    """Probability of the written long axis at each of ``NOISE_MM`` and, last, of any lesion's.

    ``pair`` is what ``evidence.pair_features`` says of it.
    """
    written = (pair["written_mm"], pair["rounding_mm"])
    drawn, rounding = pair["drawn_mm"], max(written[1], _FINEST_ROUNDING_MM)
    found = []
    for noise in NOISE_MM:
        sd = sqrt(noise**2 + (config.drawing_noise * drawn) ** 2)
        upper, lower = ((written[0] + sign * rounding - drawn) / sd for sign in (1, -1))
        found.append(max(_normal_cdf(upper) - _normal_cdf(lower), 1e-300))
    return [*found, _background(written, config)]
