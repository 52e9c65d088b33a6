"""Accession numbers as systems write them: with a site's prefix, with separators, padded with zeros that others cut."""

from __future__ import annotations

from itertools import takewhile

_TELLING = 4  # a shorter number says nothing without the letters before it


def is_respelled(one: str, other: str) -> bool:
    """Whether two numbers differ only by separators, case, zeros or letters that one of them has in front.

    It proves nothing: two sites may have numbers that differ only by their prefix.

    Examples
    --------
    >>> is_respelled("RIS-0012345", "12345"), is_respelled("CT12345", "MR12345"), is_respelled("A7", "7")
    (True, False, False)
    """
    (letters, digits), (other_letters, other_digits) = _parts(one), _parts(other)
    only_one_has_letters = len(digits) >= _TELLING and not (letters and other_letters)
    return digits == other_digits and (letters == other_letters or only_one_has_letters)


def core(number: str) -> str:
    """What all spellings of a number share."""
    return _parts(number)[1]


def _parts(number: str) -> tuple[str, str]:
    """The letters in front, and the rest without zeros in front."""
    kept = "".join(filter(str.isalnum, number.upper()))
    letters = "".join(takewhile(str.isalpha, kept))
    return letters, kept[len(letters) :].lstrip("0")
