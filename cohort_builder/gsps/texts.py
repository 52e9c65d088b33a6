"""What is written beside a drawing: lengths, angles, densities, and what a viewer's tool calls itself."""

from __future__ import annotations

import re
from dataclasses import dataclass

from cohort_builder.gsps.strokes import Number, Target

_NUMBER = r"\d{1,4}(?:[.,]\d{1,3})?"
_LENGTH = re.compile(
    rf"(?:(?<![\w.,+\-\u2212/\u00b1])|(?<![\w.,+\-\u2212/\u00b1])\+|(?<=[\u00d8\u00f8]))({_NUMBER})\s*(mm|cm)?"
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
_EARLIER = re.compile(
    r"^.*(?:\u2192|->|=>)"  # from what it was, to what it is
    r"|\b(?:prev(?:ious(?:ly)?)?|prior|was|before|baseline|last|vor(?:her\w*|mals|unters\w*|befund\w*)?|zuvor|zuletzt|fr\u00fcher|ehemals|vorig\w*"
    r"|eerder|voorheen)\b[^;)]*"
    r"|\u00b1\s*\d+(?:[.,]\d+)?\s*(?:mm|cm)?",
    re.IGNORECASE,
)
"""What is no size of today: an earlier one, or a tolerance."""
_DEGREES = re.compile(r"\d\s*(?:[\u00b0\u00ba\u02da]|deg(?:rees?)?\b|grad(?:en)?\b)", re.IGNORECASE)
_DENSITY = re.compile(
    r"\d\s*(?:hu|he)\b|\bhu\s*[:=]|hounsfield"
    r"|(?:\b(?:mean|avg|average|mittel(?:wert)?|gemiddelde?|std(?:ev)?|s\.?d\.?|min(?:imum)?|max(?:imum)?)\b|[\u00b5\u03bc\u03c3])"
    r"[\s.:=(]*[-\u2212+]?\d+(?:[.,]\d+)?(?!\d|[.,]\d|\s*(?:mm|cm|[x\u00d7*]))",
    re.IGNORECASE,
)
_EXTENT = re.compile(r"\d\s*(?:mm|cm|ml|cc)(?![a-z])|%", re.IGNORECASE)

# Tools by the names that viewers give them in the description of a layer or the label of a group, in English, German
# and Dutch, case-folded. Numbers, single letters and the words of ``_BESIDE_A_NAME`` do not matter ("Rectangle_SAL",
# "Measurement oval", "Line 3"); any other word makes it the name of something else ("Circle of Willis").
_TOOLS = {
    "angle": "angle, cobb angle, cobb, winkel, cobb winkel, cobbwinkel, winkelmessung, hoek, cobb hoek, cobbhoek,"
    " hoekmeting",
    "calibration_ruler": "calibration ruler, calibration, calibration line, scale bar, kalibrierung, kalibrierlineal,"
    " eichung, massstab, kalibratie, kalibratieliniaal, schaalbalk",
    "perpendicular": "perpendicular, perpendicular line, senkrechte, lotrechte, loodlijn",
    "leg_length": "leg length, leg length difference, leg length discrepancy, lld, beinlänge, beinlängendifferenz,"
    " beenlengte, beenlengteverschil",
    "cardiothoracic_ratio": "cardiothoracic ratio, cardio thoracic ratio, ctr, heart thorax ratio,"
    " herz thorax quotient, herz thorax ratio, hart thorax ratio",
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
_BESIDE_A_NAME = {
    *("measurement", "measurements", "measure", "annotation", "annotations"),
    *("messung", "meting", "tool", "roi", "layer", "sal"),
}
_SEVERAL_LINES = frozenset({"angle", "leg_length", "cardiothoracic_ratio"})
_WRITTEN_OUT = {
    tool: re.compile(rf"\b(?:{'|'.join(name.strip() for name in _TOOLS[tool].split(','))})\b")
    for tool in ("calibration_ruler", "leg_length", "cardiothoracic_ratio")
}
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
    def sizes_mm(self) -> list[tuple[float, ...]]:
        """Sizes in mm, in the order written."""
        return sizes_mm(self.value)

    @property
    def values_mm(self) -> tuple[float, ...]:
        """Lengths in mm, in the order written."""
        return lengths_mm(self.value)

    @property
    def is_density(self) -> bool:
        """Whether it reads out pixel values."""
        return is_density(self.value)

    @property
    def is_reading(self) -> bool:
        """Whether a tool wrote it: a length, angle, density, area, volume or share, not the words of a person."""
        return bool(self.values_mm or self.tool or self.is_density or _EXTENT.search(self.value))

    @property
    def tool(self) -> str | None:
        """The tool that it names beside a value, of those whose strokes are no lesion whatever their form."""
        if not re.search(r"\d", self.value):
            return None
        words = " ".join(_words(self.value))
        named = next((tool for tool, names in _WRITTEN_OUT.items() if names.search(words)), None)
        is_angle = _DEGREES.search(self.value) is not None or tool_of(self.value) == "angle"
        return named or ("angle" if is_angle and not self.values_mm else None)

    @property
    def is_of_several_lines(self) -> bool:
        """Whether that tool draws several lines, of which the text may stand at any."""
        return self.tool in _SEVERAL_LINES


def tool_of(name: str) -> str | None:
    """What the name of a layer or a group says was drawn with it; None where it names something else, or several."""
    words = [word for word in _words(name) if len(word) > 1 and word not in _BESIDE_A_NAME]
    found: set[str] = set()
    start = 0
    while start < len(words):
        names = (" ".join(words[start : start + n]) for n in range(_LONGEST_NAME, 0, -1))
        known = next((n for n in names if n in _BY_NAME), None)
        if known is None:
            return None
        found.add(_BY_NAME[known])
        start += len(known.split())
    return found.pop() if len(found) == 1 else None


def _words(value: str) -> list[str]:
    """Words in lower case, "CobbAngle" as two."""
    return re.findall(r"[^\W\d_]+", re.sub(r"(?<=[a-zäöü])(?=[A-Z])", " ", value).casefold())


def is_density(value: str) -> bool:
    """Whether words, or a number with its name and unit, read out pixel values: HU, a mean, a deviation, a maximum."""
    return _DENSITY.search(re.sub(r"(?<=\w)/(?=\w)", " ", value)) is not None


def sizes_mm(value: str) -> list[tuple[float, ...]]:
    """Sizes written in a text beside a drawing, in mm, each of one to three lengths: "37.1 mm", "1.2 x 3.4 cm".

    Areas, volumes, Hounsfield units, degrees and numbers without a unit are no lengths, nor is anything on a line that
    speaks of a perimeter, radius, thickness or position, nor what is said of an earlier time ("prev 40.2 mm").
    """
    found = []
    for line in value.splitlines():
        if _NO_DIAMETER.search(line):
            continue
        for match in _LENGTH.finditer(_EARLIER.sub(" ", line)):
            parts, units = match.group(1, 3, 5), match.group(2, 4, 6)
            written = [(part, units[i]) for i, part in enumerate(parts) if part is not None]
            last = written[-1][1]
            if last is None:
                continue
            factors = [10.0 if (unit or last).lower() == "cm" else 1.0 for _, unit in written]
            values = [float(p.replace(",", ".")) * f for (p, _), f in zip(written, factors, strict=True)]
            size = tuple(round(v, 6) for v in values if 0 < v <= _MOST_MM)
            if size:
                found.append(size)
    return found


def lengths_mm(value: str) -> tuple[float, ...]:
    """All lengths of ``sizes_mm``, in the order written."""
    return tuple(length for size in sizes_mm(value) for length in size)
