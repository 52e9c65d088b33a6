"""What the codes of a measurement report mean here: tables, and nothing else.

Codes of DCM, SCT and SRT (the older form of SNOMED) are those of PS3.16 CID 7470 and TID 1410, 1411, 1500 and 1501;
other schemes, a hospital's own among them, are understood by the meaning they write, where it is one of these words.
"""

from __future__ import annotations

from enum import StrEnum

from cohort_builder.sr.tree import Code


class Measure(StrEnum):
    """What a number measures, as far as it says what its coordinates are."""

    LENGTH = "LENGTH"
    LONG_AXIS = "LONG_AXIS"
    SHORT_AXIS = "SHORT_AXIS"
    ANGLE = "ANGLE"
    RADIUS = "RADIUS"
    OTHER = "OTHER"
    UNKNOWN = "UNKNOWN"


DIAMETERS = frozenset({Measure.LENGTH, Measure.LONG_AXIS, Measure.SHORT_AXIS})

_STANDARD = {"DCM", "SCT", "SRT", "UCUM", "IBSI"}
_MEASURES = {
    ("SCT", "410668003"): Measure.LENGTH, ("SRT", "G-D7FE"): Measure.LENGTH,
    ("SCT", "81827009"): Measure.LENGTH, ("SRT", "M-02550"): Measure.LENGTH,
    ("SCT", "103355008"): Measure.LENGTH, ("SRT", "G-A220"): Measure.LENGTH,  # width
    ("SCT", "131197000"): Measure.LENGTH, ("SRT", "G-D785"): Measure.LENGTH,  # depth
    ("DCM", "121206"): Measure.LENGTH, ("DCM", "121207"): Measure.LENGTH, ("DCM", "121227"): Measure.LENGTH,
    ("SCT", "103339001"): Measure.LONG_AXIS, ("SRT", "G-A185"): Measure.LONG_AXIS,
    ("SCT", "131187009"): Measure.LONG_AXIS, ("SRT", "G-A193"): Measure.LONG_AXIS,
    ("SCT", "103340004"): Measure.SHORT_AXIS, ("SRT", "G-A186"): Measure.SHORT_AXIS,
    ("SCT", "131188004"): Measure.SHORT_AXIS, ("SRT", "G-A194"): Measure.SHORT_AXIS,
    ("SCT", "131189007"): Measure.SHORT_AXIS, ("SRT", "G-A195"): Measure.SHORT_AXIS,  # perpendicular axis
    ("SCT", "285285000"): Measure.ANGLE, ("SCT", "1483009"): Measure.ANGLE, ("SRT", "G-A1F0"): Measure.ANGLE,
    ("DCM", "121224"): Measure.ANGLE,
    ("SCT", "131190003"): Measure.RADIUS, ("SRT", "G-A196"): Measure.RADIUS,
    ("SCT", "42798000"): Measure.OTHER, ("SRT", "G-A166"): Measure.OTHER,  # area
    ("SCT", "131184002"): Measure.OTHER, ("SRT", "G-A16A"): Measure.OTHER,
    ("SCT", "131191004"): Measure.OTHER, ("SRT", "G-A197"): Measure.OTHER,  # perimeter
    ("SCT", "74551000"): Measure.OTHER, ("SRT", "M-02560"): Measure.OTHER,  # circumference
    ("SCT", "118565006"): Measure.OTHER, ("SRT", "G-D705"): Measure.OTHER,  # volume
    ("DCM", "121211"): Measure.OTHER, ("DCM", "111010"): Measure.OTHER,  # path length, centre
}  # fmt: skip
_WORDS = {
    **dict.fromkeys(("length", "distance", "diameter", "width", "height", "depth", "thickness", "longest diameter",
                     "maximum diameter", "max diameter", "linear measurement", "caliper", "line",
                     "länge", "durchmesser", "distanz", "abstand", "breite", "dicke",
                     "lengte", "diameter (mm)", "afstand", "breedte", "longueur", "diamètre"), Measure.LENGTH),
    **dict.fromkeys(("long axis", "major axis", "long diameter", "long axis diameter", "langachse", "lange achse",
                     "lange as", "längsdurchmesser", "grand axe"), Measure.LONG_AXIS),
    **dict.fromkeys(("short axis", "minor axis", "short diameter", "short axis diameter", "perpendicular diameter",
                     "kurzachse", "kurze achse", "korte as", "querdurchmesser", "petit axe"), Measure.SHORT_AXIS),
    **dict.fromkeys(("angle", "cobb angle", "winkel", "hoek"), Measure.ANGLE),
    **dict.fromkeys(("radius", "straal"), Measure.RADIUS),
    **dict.fromkeys(("area", "perimeter", "circumference", "volume", "mean", "fläche", "umfang", "volumen",
                     "oppervlakte", "omtrek"), Measure.OTHER),
}  # fmt: skip
MM_PER_UNIT = {"mm": 1.0, "cm": 10.0, "m": 1000.0, "um": 1e-3}

HOUNSFIELD = frozenset({"[hnsf'U]", "HU"})

MEASUREMENT_GROUP = ("DCM", "125007")
IMAGE_LIBRARIES = frozenset({("DCM", "111028"), ("DCM", "126200")})
REGIONS = frozenset({("DCM", "111030"), ("DCM", "111041"), ("DCM", "121231")})
"""Image region, outline, volume surface: a polyline of theirs bounds an area also where it is left open."""
CENTRES = frozenset({("DCM", "111010")})
SEGMENTS = frozenset({("DCM", "121191"), ("DCM", "121214")})
VIEWER_SCHEMES = frozenset({"99CS3D"})
"""Coordinates under these are a viewer's own: where its text box lies, the control points of its splines."""
TRACKING_IDENTIFIER = ("DCM", "112039")
OBSERVER_TYPE = ("DCM", "121005")
PERSON, DEVICE = ("DCM", "121006"), ("DCM", "121007")
OBSERVER_NAME = ("DCM", "121008")
DEVICE_OBSERVER = frozenset({("DCM", f"1210{n}") for n in (12, 13, 14, 15, 16, 17)})
"""UID, name, manufacturer, model, serial number and place of a device that observed."""
ALGORITHM_NAME = ("DCM", "111001")
LABELS = frozenset({("DCM", "121071"), ("SCT", "363698007"), ("SRT", "G-C0E3"), ("DCM", "121106")})
"""Finding, finding site, comment."""
TEMPORAL_OFFSET = ("DCM", "128740")
_EARLIER = frozenset({
    ("DCM", "121068"), ("DCM", "121069"), ("DCM", "121549"),  # previous findings, previous finding, previous reports
    ("SCT", "410513005"), ("SCT", "410587008"), ("SCT", "410588003"),  # in the past
})  # fmt: skip
_EARLIER_WORDS = frozenset({"prior", "previous", "past", "prior study", "previous study", "prior examination"})
_ABSENT = frozenset({("SCT", "410516002"), ("SRT", "G-A46B")})  # known absent

_VIEWERS = ("cornerstonetools@", "cornerstone3dtools@")
ARROW, RECTANGLES = "ArrowAnnotate", frozenset({"RectangleROI", "RectangleRoi"})
REFUSED_TOOLS = {
    "Angle": "angle",
    "CobbAngle": "angle",
    "CalibrationLine": "calibration_ruler",
    "DragProbe": "density_roi",
    "KeyImage": "key_image",
    "Probe": "density_roi",
}


def measure_of(code: Code) -> tuple[Measure, bool]:
    """Return what a number measures, and whether its code says so (True) or only the word beside a private one."""
    measure = _MEASURES.get(code.key)
    if measure is not None:
        return measure, True
    if code.scheme in _STANDARD:
        return Measure.OTHER, True
    return _WORDS.get(code.meaning.casefold().strip(), Measure.UNKNOWN), False


def is_earlier(code: Code) -> bool:
    """Whether it says that what it stands with belongs to an earlier examination."""
    return code.key in _EARLIER or code.meaning.casefold().strip() in _EARLIER_WORDS


def is_absent(code: Code) -> bool:
    """Whether it says that what it stands with is not there."""
    return code.key in _ABSENT


def tool_of(tracking_identifier: str) -> str | None:
    """Return the viewer's tool that a cornerstone tracking identifier names ("Cornerstone3DTools@^0.1.0:Length")."""
    viewer, *names = tracking_identifier.split(":")
    if not names or not viewer.casefold().startswith(_VIEWERS):
        return None
    return next((name for name in reversed(names) if name in REFUSED_TOOLS), names[0])
