"""Numbers of one sentence that are lengths: products, ranges, lists and growth, with the units they have or borrow."""

from __future__ import annotations

import re
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, replace

from nlp.languages import load_language
from nlp.patterns import FRACTIONS, Lexicon
from nlp.types import Axis, Qualifier, Span, Temporality

_MM_PER_CM = 10.0
_POWERS = {"2": 2, "²": 2, "^2": 2, "3": 3, "³": 3, "^3": 3}
_LONGEST_MM = 10_000.0  # nothing in a patient is longer
_LONGEST_SLIP = 300.0  # "m" that stands for mm
_MOST_FACTORS = 4  # more numbers joined by "x" are no size
_LOOK_BACK = 120  # characters before a number
_MOST_COUNTED = 4  # "2 x 5 mm nodules" counts nodules ...
_FLATTEST = 2.0  # ... if no nodule is that flat


@dataclass(frozen=True, slots=True)
class Factor:
    """One written number. ``mm_per_unit`` is None until a unit is found for it."""

    value: float
    rounding: float
    mm_per_unit: float | None
    axis: Axis | None = None
    power: int | None = None

    @property
    def value_mm(self) -> float:
        """The length; a number without a unit is taken for millimetres."""
        return round(self.value * (self.mm_per_unit or 1.0), 6)

    @property
    def rounding_mm(self) -> float:
        """Half of the last written digit."""
        return round(self.rounding * (self.mm_per_unit or 1.0), 6)


@dataclass(frozen=True, slots=True)
class Item:
    """A number, product or range on its way to a Size. ``group`` is the list it stands in, which shares one context."""

    factors: tuple[Factor, ...]
    span: Span
    group: Span
    is_range: bool = False
    temporality: Temporality | None = None
    qualifier: Qualifier | None = None

    @property
    def has_unit(self) -> bool:
        """Whether its last number has a unit, of its own or borrowed."""
        return self.factors[-1].mm_per_unit is not None

    @property
    def longest_mm(self) -> float:
        """The largest of its numbers."""
        return max(factor.value_mm for factor in self.factors)


def read_items(masked: str, words: Lexicon) -> list[Item]:
    """Return the lengths of a sentence in order (lower case, dates and image references masked).

    Ranges are joined, growth is told apart from ranges, lists share a group.
    """
    limits = list(_sub_units(masked, words))
    ends = {limit.span[1] for limit in limits}
    plain = [item for item in _plain_items(masked, words) if item.span[1] not in ends]
    return sorted(_share_groups([*plain, *limits]), key=lambda item: item.span)


def _plain_items(masked: str, words: Lexicon) -> list[Item]:
    raw = [_parse(masked, match, words) for match in _expressions(masked, words)]
    settled: list[Item] = []  # from right to left
    for item in reversed([item for item in raw if item is not None]):
        following = settled[-1] if settled else None
        resolved = _resolve_unit(masked, item, following, words)
        if following is None or resolved is None:
            settled += [] if resolved is None else [resolved]
            continue
        joined = _join(masked, resolved, following, words)
        if joined is None:
            settled.append(resolved)
        else:
            settled[-1:] = joined
    return [item for item in settled if item.has_unit or words.measured_left.search(_left(masked, item.span[0], 40))]


def _expressions(masked: str, words: Lexicon) -> Iterator[re.Match[str]]:
    """What looks like numbers. Looking for the first letter of a number first is five times as fast."""
    last = 0
    for start in words.number_start.finditer(masked):
        if start.start() >= last and (match := words.expression.match(masked, start.start())) is not None:
            last = match.end()
            yield match


def _left(masked: str, position: int, reach: int = _LOOK_BACK) -> str:
    return masked[max(0, position - reach) : position]


def _parse(masked: str, match: re.Match[str], words: Lexicon) -> Item | None:
    factors = list(_factors(masked, match, words))
    if not 0 < len(factors) <= _MOST_FACTORS or not _is_length(masked, match, factors, words):
        return None
    labels = words.axes_after.match(masked, match.end())
    if labels is not None and len([label for label in labels.groups() if label]) == len(factors):
        named = [_axis(label, words) for label in labels.groups() if label]
        factors = [replace(factor, axis=axis) for factor, axis in zip(factors, named, strict=True)]
    unit: float | None = None
    for index in reversed(range(len(factors))):  # a factor takes the next unit to its right
        unit = factors[index].mm_per_unit or unit
        factors[index] = replace(factors[index], mm_per_unit=unit)
    for index in range(1, len(factors)):  # "1.2 cm x 8": else the one before
        if factors[index].mm_per_unit is None:
            factors[index] = replace(factors[index], mm_per_unit=factors[index - 1].mm_per_unit)
    if any(not 0 < factor.value_mm <= _LONGEST_MM for factor in factors):
        return None
    if _is_count(masked, match, factors, words):
        factors = factors[1:]
    return Item(tuple(factors), match.span(), match.span())


def _is_length(masked: str, match: re.Match[str], factors: Sequence[Factor], words: Lexicon) -> bool:
    """No area and no volume; "cm2" after two numbers or after "diameter" is a slip, and so is "m" for mm."""
    measured = words.slip_left.search(_left(masked, match.start(), 60)) is not None
    for factor in factors:
        if factor.power is not None and factor.power != len(factors) and not (measured and len(factors) == 1):
            return False
    if re.search(r"(?<![a-z])m(?![a-wyz])", match.group()) is None:
        return True
    right = words.slip_right.match(masked, match.end()) is not None
    return (measured or right or len(factors) > 1) and all(factor.value <= _LONGEST_SLIP for factor in factors)


def _is_count(masked: str, match: re.Match[str], factors: Sequence[Factor], words: Lexicon) -> bool:
    """Whether "2 x 5 mm nodules" is two nodules of 5 mm: a small count, plural, and too flat for a nodule."""
    if len(factors) != 2 or not re.match(r"\d\s+x\s", match.group()):
        return False
    count, length = factors
    flat = count.value_mm <= _MOST_COUNTED and length.value_mm >= _FLATTEST * count.value_mm
    measured = words.slip_left.search(_left(masked, match.start(), 60)) is not None
    return flat and not measured and words.count_right.match(masked, match.end()) is not None


def _factors(masked: str, match: re.Match[str], words: Lexicon) -> Iterator[Factor]:
    """The numbers of an expression one by one, each with the unit and the axis written right behind it."""
    position, end = match.span()
    while position < end and (factor := words.factor.match(masked, position)) is not None:
        unit = factor["unit"]
        yield Factor(
            *_number(factor["number"], words),
            mm_per_unit=None if unit is None else _mm_per_unit(unit, words),
            axis=_axis(factor["label"], words) if factor["label"] and factor.end() <= end else None,
            power=_POWERS.get(factor["power"] or ""),
        )
        times = words.times.match(masked, factor.end())
        position = end if times is None else times.end()


def _resolve_unit(masked: str, item: Item, following: Item | None, words: Lexicon) -> Item | None:
    """The item with a unit of its own, or one borrowed from its right; None if it is no length."""
    if item.has_unit:
        return item
    after = words.unit_after_bracket.match(masked, item.span[1])
    if after is not None and after["power"] is None and after["unit"] != "m":
        return _with_unit(item, _mm_per_unit(after["unit"], words), item.span)
    product = len(item.factors) > 1
    if following is None or not following.has_unit:
        return item if product else None
    gap = masked[item.span[1] : following.span[0]]
    unit = following.factors[0].mm_per_unit
    if words.arrow_gap.fullmatch(gap):
        return _with_unit(item, unit, item.span)
    left = _left(masked, item.span[0], 40)
    if words.names_number.search(left):
        return None
    if words.prior_gap.fullmatch(gap):
        return _with_unit(item, unit, item.span)
    single = len(following.factors) == 1 or following.is_range
    if (words.range_gap.fullmatch(gap) or words.growth_gap.fullmatch(gap)) and single and not product:
        return _with_unit(item, unit, item.span)
    if words.place_gap.fullmatch(gap) and words.place_left.search(left):  # "RUL 4, RLL 6 mm"
        return _with_unit(item, unit, item.span)
    ends_in_and = following.group != following.span
    comma = words.comma_gap.fullmatch(gap) and (ends_in_and or words.list_head.search(left))
    listed = words.list_gap.fullmatch(gap) or comma
    if listed and (product or single):
        return _with_unit(item, unit, (item.span[0], following.group[1]))
    return item if product else None


def _join(masked: str, item: Item, following: Item, words: Lexicon) -> list[Item] | None:
    """The two, right one first, as growth; the one range they make; None where they are unrelated."""
    gap = masked[item.span[1] : following.span[0]]
    if words.arrow_gap.fullmatch(gap):
        return [following, replace(item, temporality=Temporality.PRIOR)]
    if words.arrow_back_gap.fullmatch(gap):
        return [replace(following, temporality=Temporality.PRIOR), item]
    single = len(item.factors) == len(following.factors) == 1
    left = _left(masked, item.span[0])
    between = single and words.between_left.search(left) and words.list_gap.fullmatch(gap)
    to_range, to_growth = words.range_gap.fullmatch(gap), words.growth_gap.fullmatch(gap)
    rules = load_language(words.code).rules
    if to_growth and item.has_unit and words.grown_by.search(left):  # "grown by 3 mm to 15 mm"
        return None
    if to_growth:
        spread = rules["is_spread"].search(left)
        if words.grown_from.search(left) or (rules["is_change"].search(left) and not spread):
            return [
                replace(following, temporality=Temporality.CURRENT),
                replace(item, temporality=Temporality.PRIOR),
            ]
    if (between or to_range) and single and following.has_unit and not following.is_range:
        span = (item.span[0], following.span[1])
        return [Item(item.factors + following.factors, span, span, is_range=True)]
    return None


def _share_groups(items: Sequence[Item]) -> Iterator[Item]:
    """A list shares the words around it: every member gets the widest span that holds it."""
    shared: Span = (-1, -1)
    for item in sorted(items, key=lambda item: item.span):
        if item.span[0] >= shared[1]:
            shared = item.group
        yield replace(item, group=(shared[0], max(shared[1], item.group[1])))


def _sub_units(masked: str, words: Lexicon) -> Iterator[Item]:
    for match in words.sub_unit.finditer(masked):
        value, rounding = _number(match["number"] or "1", words)
        factor = Factor(value, rounding, _mm_per_unit(match["unit"] or "cm", words))
        if 0 < factor.value_mm <= _LONGEST_MM:
            yield Item((factor,), match.span(), match.span(), qualifier=Qualifier.LESS_THAN)


def _with_unit(item: Item, mm_per_unit: float | None, group: Span) -> Item:
    factors = tuple(replace(factor, mm_per_unit=factor.mm_per_unit or mm_per_unit) for factor in item.factors)
    return replace(item, factors=factors, group=group)


def _number(written: str, words: Lexicon) -> tuple[float, float]:
    """Value and half of the last written digit, in the unit as written: 1.2 +- 0.05, "1 1/2" is 1.5 +- 0.25."""
    named = load_language(words.code).numbers.get(written)
    if named is not None:
        return float(named), 0.5
    if written[-1] in FRACTIONS:
        above, below = FRACTIONS[written[-1]]
        return float(written[:-1].strip() or 0) + above / below, 0.5 / below
    if "/" in written:
        *whole, fraction = written.split()
        above, below = map(int, fraction.split("/"))
        return sum(map(float, whole)) + above / below, 0.5 / below
    point = written.replace(",", ".")
    decimals = len(point.partition(".")[2])
    return float(point), 0.5 * 10.0**-decimals


def _mm_per_unit(written: str, words: Lexicon) -> float:
    return _MM_PER_CM if words.centimetre.match(written) else 1.0


def _axis(label: str, words: Lexicon) -> Axis | None:
    bare = re.sub(r"[\s-]", "", label)
    return next(
        (axis for name, axis in load_language(words.code).axes.items() if re.sub(r"[\s-]", "", name) == bare), None
    )
