"""Why a finding is, or is not, a lesion: in one line for a person, in numbers for a program.

Both are made of structured values only: numbers, sides, names of organs. No text of the report, no text drawn beside a
line and no identifier is in them.
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from typing import Final

from cohort_builder.anatomy.organs import is_known
from cohort_builder.linking.config import LinkConfig
from cohort_builder.linking.references import half_axis_mm, images_away, is_near
from cohort_builder.linking.sizes import measurements
from cohort_builder.linking.terms import level_agrees, organ_of, side_agrees, sizes_of_lesion
from cohort_builder.types import Lesion, Link, Reading
from nlp.types import Axis, Finding, ImageReference, Laterality, Qualifier, Size, SizeKind, Temporality

FEATURES: Final = (
    "written_mm", "rounding_mm", "drawn_mm", "two_said", "two_drawn", "reference", "side", "organ", "organ_share",
    "level",
)  # fmt: skip
"""What ``pair_features`` may return; what is not known of a pair is left out."""

_EXACT, _NEAR, _ELSEWHERE = 2.0, 1.0, 0.0
_SAYS = {
    "axes": "number of axes", "drawn_unsized": "no size drawn", "said_unsized": "no size said",
    "unnamed": "no image said", "label": "text beside the line", "reviewed": "reviewed",
    "other_plane": "drawn in another plane",
}  # fmt: skip
_NOT_SHOWN = {"prior"}
_BOUND = {
    Qualifier.UP_TO: "up to ", Qualifier.AT_LEAST: "at least ", Qualifier.LESS_THAN: "less than ",
    Qualifier.GREATER_THAN: "more than ", Qualifier.APPROXIMATE: "about ",
}  # fmt: skip


def explain(link: Link, finding: Finding, lesion: Lesion) -> str:
    """Say in one line what speaks for and against a link.

    Parameters
    ----------
    link
        The answer for ``finding``: linked to ``lesion``, or withheld with ``lesion`` as the likeliest.
    finding, lesion
        The pair that is explained.

    Returns
    -------
    Such as "12 x 8 mm said, 11.8 x 7.9 mm drawn (+6.1); image 3/41 said and drawn (+5.6); left (+0.7); p 0.997, next
    0.002". Log odds in brackets are natural; "next" is the likeliest rival.

    """
    parts = []
    for term, value in link.evidence.items():
        if term not in _NOT_SHOWN and term != "size":
            parts.append(f"{_say(term, value, finding, lesion)} ({value:+.1f})")
    sizes = _sizes(finding, lesion)
    said = ", ".join(map(_size, sizes)) + " said" if sizes else "no size said"
    measured = measurements(lesion)
    drawn = " and ".join(_axes((one.long_mm, one.short_mm)) for one in measured[:3]) + " drawn"
    if measured or sizes:
        strength = f" ({link.evidence['size']:+.1f})" if "size" in link.evidence else ""
        parts.insert(0, f"{said}, {drawn if measured else 'no size drawn'}{strength}")
    others = [p for name, p in link.rivals if name != lesion.lesion_id]
    following = f", next {max(others):.3f}" if others else ""
    return "; ".join([*parts, f"p {link.probability:.3f}{following}"])


def _say(term: str, value: float, finding: Finding, lesion: Lesion) -> str:
    if term in {"reference", "reference_near"}:
        return _say_images(term, value, finding, lesion)
    if term == "side":
        drawn = _one_of(str(located.side).lower() for located in lesion.annotations if located.side is not None)
        if value >= 0:
            return drawn
        said = finding.laterality
        return (
            f"{str(said).lower() if said in {Laterality.LEFT, Laterality.RIGHT} else 'other side'} said, {drawn} drawn"
        )
    if term == "organ":
        names = (located.organ for located in lesion.annotations)
        organ = _one_of(name for name in names if name is not None and is_known(name)) or "organ"
        return f"{organ.replace('_', ' ')} {'fits' if value >= 0 else 'does not fit'}"
    if term == "level":
        return f"height in the lungs {'fits' if value >= 0 else 'does not fit'}"
    if term == "middle":
        return f"place in the middle {'fits' if value >= 0 else 'does not fit'}"
    if term == "time":
        return "drawn long before or after the report"
    return _SAYS.get(term, term)


def _say_images(term: str, value: float, finding: Finding, lesion: Lesion) -> str:
    said = " or ".join(map(_image, finding.image_references[:3]))
    if value >= 0 and term == "reference":
        return f"image {said} said and drawn"
    drawn = _one_of(
        f"{located.series_number if located.series_number is not None else '-'}/{located.instance_number}"
        for located in lesion.annotations
        if located.instance_number is not None
    )
    return f"image {said} said, {drawn} drawn"


def _image(reference: ImageReference) -> str:
    last = f"-{reference.image_last}" if reference.image_last != reference.image_first else ""
    series = f"{reference.series_number}/" if reference.series_number is not None else ""
    return f"{series}{reference.image_first}{last}"


def _one_of(names: Iterable[str]) -> str:
    return next(iter(sorted(set(names))), "")


def _size(size: Size) -> str:
    bound = _BOUND.get(size.qualifier, "") if size.qualifier is not None else ""
    axis = " short axis" if size.axes == (Axis.SHORT,) else ""
    return f"{bound}{_axes([length for length, _ in size.lengths_mm])}{axis}"


def _axes(lengths: Sequence[float | None]) -> str:
    return " x ".join(f"{round(length, 1):g}" for length in lengths if length is not None) + " mm"


def _sizes(finding: Finding, lesion: Lesion) -> tuple[Size, ...]:
    when = Temporality.CURRENT if lesion.reading is Reading.CURRENT else Temporality.PRIOR
    return sizes_of_lesion(size for size in finding.sizes if size.temporality is when and size.kind is SizeKind.LESION)


def pair_features(finding: Finding, lesion: Lesion, config: LinkConfig | None = None) -> dict[str, float]:
    """Say of a pair what ``calibration.fit_link_model`` learns from, once a person has judged it.

    Returns
    -------
    Numbers by name (``FEATURES``), without what is not known: ``written_mm`` and ``rounding_mm`` of the long axis and
    the nearest ``drawn_mm``; whether ``two_said`` and ``two_drawn`` axes; ``reference`` 2 (on the named image), 1 (near
    it) or 0; ``side``, ``organ`` and ``level`` 1 where they agree, else 0; ``organ_share`` how often an organ would
    agree by chance.

    """
    config = config or LinkConfig()
    found: dict[str, float | None] = {}
    sizes, drawn = _sizes(finding, lesion), measurements(lesion)
    plain = [size for size in sizes if size.qualifier in {None, Qualifier.RANGE} and Axis.SHORT not in size.axes[:1]]
    if plain and drawn:
        size = plain[0]
        written, rounding = size.lengths_mm[0]
        nearest = min((one.long_mm for one in drawn), key=lambda length: (abs(length - written), length))
        found |= {"written_mm": written, "rounding_mm": rounding, "drawn_mm": nearest}
        found["two_said"] = float(len(size.lengths_mm) > 1)
        found["two_drawn"] = float(all(one.short_mm is not None for one in drawn))
    found["reference"] = _nearest_reference(finding, lesion, config)
    organ = organ_of(finding, lesion)
    if organ is not None:
        found |= {"organ": float(organ[0]), "organ_share": organ[1]}
    for name, agrees in (("side", side_agrees(finding, lesion)), ("level", level_agrees(finding, lesion))):
        found[name] = None if agrees is None else float(agrees)
    return {name: float(value) for name, value in found.items() if value is not None}


def _nearest_reference(finding: Finding, lesion: Lesion, config: LinkConfig) -> float | None:
    half_mm = half_axis_mm(lesion)
    found = [
        _EXACT if away == 0 else _NEAR if is_near(away, located, half_mm, config) else _ELSEWHERE
        for reference in finding.image_references
        for located in lesion.annotations
        if (away := images_away(reference, located)) is not None
    ]
    return max(found, default=None) if lesion.reading is Reading.CURRENT else None
