"""Which image reference belongs to which length or observation of its sentence."""

from __future__ import annotations

import re
from collections.abc import Mapping, Sequence
from itertools import pairwise

from nlp.coordination import is_list
from nlp.types import ImageReference, Size, Span, Temporality

# The words of an earlier day right before a reference, or anywhere between the length before it and it.
_PRIOR_CUE = re.compile(
    r"\b(?:prior|prev(?:ious(?:ly)?)?|formerly|earlier|old|last|baseline|compar(?:ed|ison))\b", re.IGNORECASE
)
_RIGHT_BEFORE = 30  # characters that can hold such words with "on the", "study" or a date
_CUED = re.compile(rf"{_PRIOR_CUE.pattern}[^.;,)\]]*$", re.IGNORECASE)
_NEXT_TO = re.compile(
    r"[\s,;:(\[]*(?:(?:on|in|at|of|from|the|see|image|series|axial|prior|previous(?:ly)?|comparison|ct|scan|study|exam\w*)\b[\s,;:(\[]*)*",
    re.IGNORECASE,
)
_REFERENCE_GAP = re.compile(r"[\s,;:()\[\]]*(?:and|&)?\s*(?:[^\W\d]+[\s,]+){0,4}[(\[]?\s*", re.IGNORECASE)


def share_references(
    text: str, sizes: Sequence[Size], references: Sequence[ImageReference]
) -> dict[Span, tuple[ImageReference, ...]]:
    """Which image references go with which length of a sentence (by the length's span).

    A reference follows its length; where the sentence begins with a reference and the two alternate, it leads it. Of
    "5 and 7 mm (4/87, 4/91)" each length has one. One that belongs to an earlier day's length goes with none: it is an
    image of another study.
    """
    shared: dict[Span, tuple[ImageReference, ...]] = {}
    if not sizes or not references:
        return shared
    order = sorted([*((size.span, True) for size in sizes), *((one.span, False) for one in references)])
    kinds = [is_size for _, is_size in order]
    leads = not kinds[0] and len(sizes) == len(references) and all(a is not b for a, b in pairwise(kinds))
    for first in range(len(sizes)):
        run, listed = _run_after(text, sizes[first:], references)
        if run > 1 and run == len(listed):
            shared |= {size.span: (one,) for size, one in zip(sizes[first : first + run], listed, strict=True)}
    earlier = {id(one) for one in references if _is_of_other_day(text, one, sizes, leads=leads)}
    shared = {span: tuple(one for one in ones if id(one) not in earlier) for span, ones in shared.items()}
    taken = {id(one) for ones in shared.values() for one in ones} | earlier
    for reference in references:
        if id(reference) in taken:
            continue
        behind = [size for size in sizes if size.span[0] >= reference.span[1]]
        before = [size for size in sizes if size.span[1] <= reference.span[0]]
        owner = behind[0] if behind and (leads or not before) else before[-1] if before else None
        if owner is not None:
            shared[owner.span] = (*shared.get(owner.span, ()), reference)
    return shared


def nearest_references(
    text: str, head: int, spans: Mapping[int, Span], references: Sequence[ImageReference]
) -> tuple[ImageReference, ...]:
    """The image references of a head in a sentence without lengths: those behind it or, of all ``spans``, nearest."""

    def order(other: int, reference: ImageReference) -> tuple[bool, int]:
        start, end = spans[other]
        return start > reference.span[0], abs(end - reference.span[0])

    today = [one for one in references if not _is_cued(text, one, 0)]
    return tuple(one for one in today if min(spans, key=lambda other: order(other, one)) == head)


def _run_after(
    text: str, sizes: Sequence[Size], references: Sequence[ImageReference]
) -> tuple[int, list[ImageReference]]:
    """How many lengths stand in a list from the first on, and the image references listed right behind them."""
    run = 1
    while run < len(sizes) and is_list(text, [sizes[run - 1].span, sizes[run].span]):
        run += 1
    listed: list[ImageReference] = []
    end = sizes[run - 1].span[1]
    for reference in references:
        if reference.span[0] >= sizes[run - 1].span[1] and _REFERENCE_GAP.fullmatch(
            text, end, max(end, reference.span[0])
        ):
            listed.append(reference)
            end = reference.span[1]
    return run, listed


def _is_of_other_day(text: str, reference: ImageReference, sizes: Sequence[Size], *, leads: bool) -> bool:
    """Whether an image is one of an earlier study: "prior (4/50) 6 mm", "(previously 9 mm, series 3, image 40)"."""
    start, end = reference.span
    before = max((size for size in sizes if size.span[1] <= start), key=lambda size: size.span, default=None)
    behind = min((size for size in sizes if size.span[0] >= end), key=lambda size: size.span, default=None)
    since = before.span[1] if before is not None else 0
    if behind is not None and behind.temporality is Temporality.PRIOR:
        cued = _PRIOR_CUE.search(text[max(since, start - _RIGHT_BEFORE) : start]) is not None
        if cued or (leads and _PRIOR_CUE.search(text[end : behind.span[0]]) is None):
            return True
    if leads:
        return False
    if before is not None and before.temporality is Temporality.PRIOR and _NEXT_TO.fullmatch(text, since, start):
        return True
    return _is_cued(text, reference, since)


def _is_cued(text: str, reference: ImageReference, since: int) -> bool:
    """Whether the words right before a reference, from ``since`` on, name an earlier study."""
    start = reference.span[0]
    return _CUED.search(text[max(since, start - _RIGHT_BEFORE) : start]) is not None
