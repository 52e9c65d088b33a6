"""Whether a lesion lies on the image that the report names: exactly, near it, or far from it."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from math import log

from cohort_builder.linking.config import LinkConfig
from cohort_builder.types import Lesion, LocatedAnnotation, Point3D
from nlp.types import ImageReference

NARROW = 5
"""Most images of a range that still names an image."""

_LEAST_EXACT = 2.0  # log odds below which an image, of few, is anybody's
_SHORT_SERIES, _LONG_SERIES = 30, 300  # images
_AXIAL = (0.0, 0.0, 1.0)
_SAME_PLANE = 0.9  # cosine of the angle between two normals


@dataclass(frozen=True, slots=True)
class Images:
    """What is known of the images of a reading: about how many a series has, how many series, and all strokes."""

    n_images: int
    n_series: int
    strokes: tuple[LocatedAnnotation, ...]

    @classmethod
    def of(cls, lesions: Iterable[Lesion], references: Iterable[ImageReference]) -> Images:
        """Look at all strokes and all references of a reading."""
        strokes = tuple(located for lesion in lesions for located in lesion.annotations)
        numbers = [located.instance_number or 0 for located in strokes]
        numbers += [reference.image_last for reference in references]
        return cls(
            min(max(*numbers, _SHORT_SERIES), _LONG_SERIES) if numbers else _SHORT_SERIES,
            len({located.annotation.series_instance_uid for located in strokes}) or 1,
            strokes,
        )


def reference_evidence(
    references: Sequence[ImageReference], lesion: Lesion, images: Images, config: LinkConfig
) -> tuple[str, float | None]:
    """Name and log odds of the best of the ``references`` over all strokes; None without a comparable one.

    In a short series a lesion is on the said image by chance. A number without its series may count in any of those
    that were drawn on.
    """
    half_mm = half_axis_mm(lesion)
    found = (
        _one_reference(reference, located, half_mm, images, config)
        for reference in references
        for located in lesion.annotations
    )
    comparable = [(value, name) for name, value in found if value is not None]
    if not comparable:
        return "reference", None
    value, name = max(comparable)
    return name, value


def _one_reference(
    reference: ImageReference, located: LocatedAnnotation, half_mm: float, images: Images, config: LinkConfig
) -> tuple[str, float | None]:
    away = images_away(reference, located)
    if away is None:
        is_known = located.instance_number is not None and located.series_number is not None
        return _in_another_series(reference, located, half_mm, images, config) if is_known else ("reference", None)
    same_series = 1.0 if reference.series_number is not None else (1 + 1 / images.n_series) / 2
    if away == 0:
        share = same_series * config.reference_exact * images.n_images / _n_images(reference)
        return "reference", max(log(share), 0.0)
    if is_near(away, located, half_mm, config):
        reach = config.near_images if away <= config.near_images else half_mm / located.slice_thickness_mm
        return "reference_near", _near(same_series, 2 * reach / images.n_images, config)
    if reference.series_number is None and not _is_parallel(located.slice_normal_lps, _AXIAL):
        return "other_plane", config.other_plane
    return "reference", _far(same_series, config)


def _in_another_series(
    reference: ImageReference, located: LocatedAnnotation, half_mm: float, images: Images, config: LinkConfig
) -> tuple[str, float]:
    """Where a stroke of the reading lies on the said image its place counts, else what a redrawn lesion is worth."""
    said = [
        other
        for other in images.strokes
        if other.series_number == reference.series_number
        and other.frame_of_reference_uid == located.frame_of_reference_uid
    ]
    there = [other for other in said if images_away(reference, other) == 0 and other.slice_thickness_mm > 0]
    if there and _n_images(reference) <= NARROW:
        gap_mm, plane = min(((_gap_mm(located, other), other) for other in there), key=lambda one: one[0])
        near_mm = max(config.near_images * plane.slice_thickness_mm, half_mm)
        if gap_mm > near_mm:
            return "reference", _far(1.0, config)
        slices = max(2 * near_mm / plane.slice_thickness_mm, 1.0)
        return "reference_near", _near(1.0, slices / images.n_images, config)
    normal = said[0].slice_normal_lps if said else _AXIAL
    if not _is_parallel(located.slice_normal_lps, normal):
        return "other_plane", config.other_plane
    return "reference", config.other_series


def images_away(reference: ImageReference, located: LocatedAnnotation) -> int | None:
    """How many images the stroke lies beside the said ones, 0 on one of them; None where this cannot be compared."""
    number = located.instance_number
    if number is None or reference.series_number not in {None, located.series_number}:
        return None
    return max(reference.image_first - number, number - reference.image_last, 0)


def is_near(away: int, located: LocatedAnnotation, half_mm: float, config: LinkConfig) -> bool:
    """Whether a stroke so many images away may still lie on the said lesion: half its long axis, or ``near_images``."""
    return away <= config.near_images or 0 < away * located.slice_thickness_mm <= half_mm


def half_axis_mm(lesion: Lesion) -> float:
    """Half of the longest diameter that was drawn; 0 for arrows."""
    return max((length for located in lesion.annotations for length in located.diameters_mm), default=0.0) / 2


def lies_on_image(references: Iterable[ImageReference], lesion: Lesion) -> bool:
    """Whether a stroke of the lesion lies on one of the few images that the finding names."""
    return any(
        _n_images(reference) <= NARROW and images_away(reference, located) == 0
        for reference in references
        for located in lesion.annotations
    )


def is_exact_reference(references: Iterable[ImageReference], lesion: Lesion, log_odds: float) -> bool:
    """Whether the finding names an image of the lesion, and this says something: ``log_odds`` of the reference."""
    return log_odds > _LEAST_EXACT and lies_on_image(references, lesion)


def _n_images(reference: ImageReference) -> int:
    return 1 + reference.image_last - reference.image_first


def _near(same_series: float, by_chance: float, config: LinkConfig) -> float:
    return log(same_series * config.reference_near / min(by_chance, 1.0))


def _far(same_series: float, config: LinkConfig) -> float:
    return log(1 - same_series * (config.reference_exact + config.reference_near) + 1e-3)


def _gap_mm(located: LocatedAnnotation, plane: LocatedAnnotation) -> float:
    """Least distance in mm of the stroke from the image plane that another one lies in."""
    normal, origin = plane.slice_normal_lps, plane.points_lps_mm[0]
    heights = [_dot(normal, point) - _dot(normal, origin) for point in located.points_lps_mm]
    return 0.0 if min(heights) <= 0 <= max(heights) else min(map(abs, heights))


def _is_parallel(a: Point3D, b: Point3D) -> bool:
    return abs(_dot(a, b)) >= _SAME_PLANE


def _dot(a: Point3D, b: Point3D) -> float:
    return a[0] * b[0] + a[1] * b[1] + a[2] * b[2]
