"""Which image reference belongs to which length or observation of its sentence."""

from __future__ import annotations

import re
from collections.abc import Mapping, Sequence
from itertools import pairwise

from nlp.coordination import is_list
from nlp.types import ImageReference, Size, Span, Temporality

_REFERENCE_GAP = re.compile(r"[\s,;:()\[\]]*(?:and|&)?\s*(?:[^\W\d]+[\s,]+){0,4}[(\[]?\s*", re.IGNORECASE)


def share_references(
    text: str, sizes: Sequence[Size], references: Sequence[ImageReference]
) -> dict[Span, tuple[ImageReference, ...]]:
    """Which image references go with which length of a sentence (by the length's span).

    A reference follows its length; where the sentence begins with a reference and the two alternate, it leads it. Of
    "5 and 7 mm (4/87, 4/91)" each length has one. One inside the bracket of an earlier day's length is that day's.
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
    taken = {id(one) for ones in shared.values() for one in ones}
    for reference in references:
        if id(reference) in taken:
            continue
        behind = [size for size in sizes if size.span[0] >= reference.span[1]]
        before = [size for size in sizes if size.span[1] <= reference.span[0]]
        owner = behind[0] if behind and (leads or not before) else before[-1] if before else None
        if owner is not None and not _is_of_that_day(text, owner, reference):
            shared[owner.span] = (*shared.get(owner.span, ()), reference)
    return shared


def nearest_references(
    head: int, spans: Mapping[int, Span], references: Sequence[ImageReference]
) -> tuple[ImageReference, ...]:
    """The image references of a head in a sentence without lengths: those behind it or, of all ``spans``, nearest."""

    def order(other: int, reference: ImageReference) -> tuple[bool, int]:
        start, end = spans[other]
        return start > reference.span[0], abs(end - reference.span[0])

    return tuple(one for one in references if min(spans, key=lambda other: order(other, one)) == head)


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


def _is_of_that_day(text: str, owner: Size, reference: ImageReference) -> bool:
    """Whether a reference stands in the bracket of an earlier day's length: "(previously 9 mm, series 3, image 40)"."""
    if owner.temporality is not Temporality.PRIOR or reference.span[0] < owner.span[1]:
        return False
    between = text[owner.span[1] : reference.span[0]]
    return not any(mark in between for mark in "()[]")
