"""How sure each rule is that what it recognises was drawn as a measurement of, or a pointer at, a lesion.

These are judgements, not measured rates: no annotated collection of presentation states exists to measure them on. What
is ranked is how much else the same strokes are used for.
"""

from __future__ import annotations

RULES = {
    "line": (0.85, "two points: nearly always a length, but viewers save reference lines so too"),
    "line:two_heads": (0.85, "a length with a head at each end"),
    "line:compound_rangeline": (0.9, "the standard's own form of a distance"),
    "line:compound_ruler": (0.75, "a length with ticks; also laid beside things for scale"),
    "line:compound_axis": (0.6, "a line with labelled ticks: measures, but also scales"),
    "line:compound_multiline": (0.8, "one line, said to be one of several"),
    "bidimensional": (0.9, "two lines across each other near perpendicular"),
    "bidimensional:group": (0.95, "the same, and the writer says that they are one"),
    "bidimensional:compound_multiline": (0.85, "two lines of one compound graphic, near perpendicular"),
    "arrow:shaft_and_head": (0.95, "a line and a head of three points or a triangle"),
    "arrow:shaft_and_two_barbs": (0.85, "three lines that meet in one point"),
    "arrow:one_polyline": (0.9, "one stroke that runs through the tip and both barbs"),
    "arrow:compound_rendered": (0.95, "said to be an arrow, and drawn as one"),
    "arrow:compound": (0.3, "said to be an arrow, but writers differ in which end is the head: never segmented from"),
    "ellipse": (0.8, "drawn round something; also used to read out densities"),
    "ellipse:circle": (0.75, "the same; whether it fits the thing is less sure"),
    "ellipse:compound": (0.8, "as a simple ellipse"),
    "box": (0.7, "round something, with a margin of the reader's choice"),
    "box:compound": (0.7, "as a simple rectangle"),
    "outline": (0.85, "drawn along the edge of something, often by a program"),
    "outline:interpolated": (0.8, "the same; the curve between its points is ours"),
    "pointer:text": (0.7, "words with a line to a place: the place is on or beside the thing"),
    "pointer:point": (0.5, "a point: on a lesion, or where something was read out"),
    "pointer:compound_multipoint": (0.5, "as a simple point"),
}
"""Confidence and reason of every rule, without what was found on it."""

_FOUND_ON_IT = {"mid_tick": 0.05, "end_cap": 0.05, "dot": 0.02, "density": -0.3}
_VALUE, _NAMED = 0.08, 0.08
_LEAST, _MOST = 0.05, 0.99


def confidence(rule: str, *, has_value: bool, is_named: bool) -> float:
    """Confidence of a rule with all that was found on it.

    Parameters
    ----------
    rule
        As in ``Source.rule``: a key of ``RULES``, then "+" and what was found on it, any number of times.
    has_value
        A length stands beside it: it was drawn to measure.
    is_named
        Its layer or group has the name of the tool that draws this.

    """
    base, *found = rule.split("+")
    total = RULES[base][0] + sum(_FOUND_ON_IT.get(one, 0.0) for one in found)
    total += _VALUE * has_value + _NAMED * is_named
    return round(min(_MOST, max(_LEAST, total)), 2)
