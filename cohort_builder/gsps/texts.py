"""What is written beside a drawing: lengths, angles, densities, and what a viewer's tool calls itself."""

from __future__ import annotations

import re
from dataclasses import dataclass

from cohort_builder.gsps.strokes import Number, Target

_NUMBER = r"\d{1,4}(?:[.,]\d{1,3})?"
_LENGTH = re.compile(
    rf"(?<![\w.,+\-\u2212/])({_NUMBER})\s*(mm|cm)?"
    rf"(?:\s*[x\u00d7*]\s*({_NUMBER})\s*(mm|cm)?)?(?:\s*[x\u00d7*]\s*({_NUMBER})\s*(mm|cm)?)?"
    r"(?![\w\u00b2\u00b3^]|[.,]\d)",
    re.IGNORECASE,
)
_MOST_MM = 1000.0
"""Larger numbers are typed by mistake, or are years or ids: what is read here is published."""
_NO_DIAMETER = re.compile(
    r"area|perimeter|circumf|umfang|radius|thick|schicht|dicke|locat|position|depth|volum|fl\u00e4che|mean|std|\bsd\b",
    re.IGNORECASE,
)
_ANGLE = re.compile(r"\d\s*(?:\u00b0|deg|grad\b)|angle|winkel|cobb", re.IGNORECASE)
_DENSITY = re.compile(
    r"\d\s*(?:hu|he)\b|\bhu\s*[:=]|hounsfield"
    r"|\b(?:mean|avg|average|mittel(?:wert)?|gemiddelde?|std|s\.?d\.?)\b\.?\s*[:=(]?\s*[-\u2212+]?\d",
    re.IGNORECASE,
)
_EXTENT = re.compile(r"\d\s*(?:mm|cm)\s*[\u00b2\u00b323^]|\d\s*(?:ml|cc)\b|%", re.IGNORECASE)

# Tools by the names that viewers give them in the description of a layer or the label of a group, in English, German
# and Dutch, case-folded. What is left of a name ("Rectangle_SAL", "Measurement oval", "Line 3") does not matter.
_TOOLS = {
    "angle": "angle, cobb angle, cobb, winkel, cobb winkel, cobbwinkel, winkelmessung, hoek, cobb hoek, cobbhoek,"
    " hoekmeting",
    "calibration_ruler": "calibration ruler, calibration, calibration line, scale bar, kalibrierung, kalibrierlineal,"
    " eichung, massstab, kalibratie, kalibratieliniaal, schaalbalk",
    "perpendicular": "perpendicular, perpendicular line, senkrechte, lotrechte, loodlijn",
    "leg_length": "leg length, leg length difference, leg length discrepancy, beinlänge, beinlängendifferenz,"
    " beenlengte, beenlengteverschil",
    "cardiothoracic_ratio": "cardiothoracic ratio, cardio thoracic ratio, heart thorax ratio, herz thorax quotient,"
    " herz thorax ratio, hart thorax ratio",
    "density_roi": "hu, hounsfield, density, pixel value, probe, dichte, dichtewert, pixelwert, dichtheid, pixelwaarde",
    "reference_line": "reference line, scout line, cut line, referenzlinie, schnittlinie, referentielijn, snijlijn",
    "arrow": "arrow, pfeil, pijl",
    "box": "rectangle, rect, rechteck, rechthoek",
    "ellipse": "circle, ellipse, oval, kreis, cirkel, ovaal",
    "outline": "polygon, freehand, free hand, contour, freihand, kontur, umriss, polygoon, vrije hand, vrijehand",
    "line": "line, distance, length, distance line, linie, distanz, abstand, strecke, länge, lijn, afstand, lengte",
    "pair": "bidirectional, bidimensional, recist, bidirektional, bidimensionaal, bidirectioneel",
}
_BY_NAME = {name.strip(): tool for tool, names in _TOOLS.items() for name in names.split(",")}
_LONGEST_NAME = max(len(name.split()) for name in _BY_NAME)
_WRITTEN_OUT = frozenset({"calibration_ruler", "leg_length", "cardiothoracic_ratio"})
"""Tools that a text beside a value names without doubt; a "density" there may be what is seen in the lung."""


@dataclass(frozen=True, slots=True)
class DrawnText:
    """A text object: raw ``value`` (private), the lengths in it, and where it stands in image coordinates.

    ``box`` is (left, top, right, bottom); ``points`` is True where a leader line to the anchor is shown; ``key`` is the
    strongest that joins it with strokes (``items.Item``), ``compound`` the compound graphic it is a part of.
    """

    number: Number
    value: str
    target: Target
    key: tuple[str, str] | None = None
    anchor: complex | None = None
    box: tuple[float, float, float, float] | None = None
    points: bool = False
    compound: Number | None = None

    @property
    def values_mm(self) -> tuple[float, ...]:
        """Lengths in mm, in the order written."""
        return lengths_mm(self.value)

    @property
    def is_angle(self) -> bool:
        """Whether it speaks of an angle."""
        return _ANGLE.search(self.value) is not None

    @property
    def is_density(self) -> bool:
        """Whether it reads out pixel values: a density in HU, a mean, a deviation."""
        return _DENSITY.search(self.value) is not None

    @property
    def is_reading(self) -> bool:
        """Whether a tool wrote it: a length, angle, density, area, volume or share, not the words of a person."""
        return bool(self.values_mm or self.is_angle or self.is_density or _EXTENT.search(self.value))

    @property
    def tool(self) -> str | None:
        """The tool that it names beside a value, of those whose strokes are no lesion whatever their form."""
        tool = tool_of(self.value) if self.is_reading else None
        return tool if tool in _WRITTEN_OUT else None


def tool_of(name: str) -> str | None:
    """What the name of a layer or a group says was drawn with it; None where it names no tool, or several."""
    words = re.findall(r"[^\W\d_]+", re.sub(r"(?<=[a-zäöü])(?=[A-Z])", " ", name).casefold())
    found: set[str] = set()
    start = 0
    while start < len(words):
        names = (" ".join(words[start : start + n]) for n in range(_LONGEST_NAME, 0, -1))
        known = next((n for n in names if n in _BY_NAME), None)
        if known is not None:
            found.add(_BY_NAME[known])
        start += len(known.split()) if known is not None else 1
    return found.pop() if len(found) == 1 else None


def lengths_mm(value: str) -> tuple[float, ...]:
    """Lengths written in a text beside a drawing, in mm: "37.1 mm", "1.2 x 3.4 cm", "12,3 mm", "12 mm x 8 mm".

    Areas, volumes, Hounsfield units, degrees and numbers without a unit are no lengths, nor is anything on a line that
    speaks of a perimeter, radius, thickness or position.
    """
    found: list[float] = []
    for line in value.splitlines():
        if _NO_DIAMETER.search(line):
            continue
        for match in _LENGTH.finditer(line):
            parts, units = match.group(1, 3, 5), match.group(2, 4, 6)
            written = [(part, units[i]) for i, part in enumerate(parts) if part is not None]
            last = written[-1][1]
            if last is None:
                continue
            factors = [10.0 if (unit or last).lower() == "cm" else 1.0 for _, unit in written]
            values = [float(p.replace(",", ".")) * f for (p, _), f in zip(written, factors, strict=True)]
            found += [round(v, 6) for v in values if 0 < v <= _MOST_MM]
    return tuple(found)
