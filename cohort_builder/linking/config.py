"""Every number that decides about links, in one place. Defaults are refitted by ``calibration.fit_link_model``."""

from __future__ import annotations

from dataclasses import dataclass, fields
from math import isfinite

from cohort_builder.errors import ConfigError


@dataclass(frozen=True, slots=True, kw_only=True)
class LinkConfig:
    """Thresholds and rates of the join. What is called a rate is a probability given that the pair is right.

    Parameters
    ----------
    linked_on_image, linked, linked_by_size, strong
        A pair is LINKED from a posterior probability of ``linked_on_image`` on where the lesion is drawn on an image
        that the finding names, of ``linked`` where another lesion is drawn on it too; of ``linked_by_size`` where only
        sizes, or sizes and a side, speak for it; of ``linked`` where side, organ, level and label together give log
        odds of ``strong``; and of something between where they give less. Of sizes alone one has to be surer, because
        how far they lie from the lines is not known. The defaults keep a precision of 0.99 in every kind of report that
        was simulated (docs/linking.md has the table).
    linked_together, least_linked, certain
        Where at least half of a report's links have a posterior of ``certain``, with ``strong`` evidence, less
        certain ones are linked too, down to ``least_linked``, as long as the expected precision of all its links is at
        least ``linked_together``. On a named image another organ, or a place in the middle that the lesion is far from,
        links from ``certain`` on, the organ only with a size term of ``strong``.
    least_rival
        No pair is linked whose finding, had the lesion not been drawn, were another one with this probability: so a
        lesion more or less hardly ever turns one link into another.
    ambiguous
        A finding that is one of the lesions with at least this probability, but not LINKED, is AMBIGUOUS.
    match_weight
        Prior odds of a pair are ``match_weight / (1 + (findings + lesions) / 2)``: the more is said and drawn, the less
        likely any two belong together.
    uncertain, unsized, absorber
        Factors on the prior odds for findings the report is unsure of, for findings without a size, and for sizes that
        are not a lesion's (an aorta, a distance): never linked, but a line may have been drawn on them.
    noise_median_mm, noise_log_sd
        How far a report's sizes lie from what was drawn is not known and differs between readings (0: dictated off the
        display; 3 mm: measured anew): the log-normal distribution of that standard deviation over readings.
    drawing_noise
        Standard deviation of every measurement, as a fraction of its length.
    stated_noise_mm, stated_copied
        The standard deviation where the line's own length stands beside it as text and was copied, and how often it is.
    unrelated_size
        Rate of a size that is not that of the line although the two belong together.
    swapped_axes
        Rate of a lone number that means the short axis of a pair, or of a lone line that is the short axis of a pair.
    background_median_mm, background_log_sd
        Log-normal distribution of written lesion sizes.
    equal_size
        Probability that a lesion has the size of another one of the same patient.
    half_cm
        Share of the reports that round to half centimetres where all their sizes could be so rounded.
    two_of_two, two_of_one
        Rates of two axes said where two, and where one, was drawn.
    reference_exact, reference_near, near_images
        Rates of an image reference that names an image of the lesion, and one near it: within ``near_images`` (a whole
        number), or within half the lesion's long axis where the distance of the slices is known.
    other_series, other_plane
        Log odds of a reference to another series than the lesion is drawn on, where nothing on the said image tells how
        far they lie apart; and of one in another plane (coronal): it may be drawn on a reformat. The former withholds.
    unnamed
        Share of what is said but not drawn that never names an image (an earlier size, say): in reports that name
        images, a finding without one is less likely drawn.
    side_right, middle_right, organ_right, level_right, label_right
        Rates of a side, a place in the middle of the body, an organ, a level of the lung, and words beside the line,
        that agree.
    drawn_late, drawn_long_before
        Log odds of a line drawn after the report was given out, and more than a week before.
    drawn_unsized, said_unsized
        Log odds of a stated size against a lesion that only an arrow points at, and of a measured lesion without a
        stated size.
    min_size
        Least log odds of the size term of a link, whatever else speaks for it.
    min_unsized
        Least log odds of image, side, organ, level and label together of a link where no size is said or none drawn;
        the lesion lies on the said image besides.
    coarse_mm, min_coarse
        Sizes rounded more coarsely than this (whole centimetres) link without an image reference only if all evidence
        together gives at least ``min_coarse``.

    """

    linked_on_image: float = 0.85
    linked: float = 0.955
    linked_by_size: float = 0.985
    strong: float = 2.7
    linked_together: float = 0.977
    least_linked: float = 0.9
    least_rival: float = 0.9
    certain: float = 0.99
    ambiguous: float = 0.2
    match_weight: float = 20.0
    uncertain: float = 0.5
    unsized: float = 0.2
    absorber: float = 0.4
    noise_median_mm: float = 0.5
    noise_log_sd: float = 1.5
    drawing_noise: float = 0.005
    stated_noise_mm: float = 0.1
    stated_copied: float = 0.7
    unrelated_size: float = 0.005
    swapped_axes: float = 0.03
    background_median_mm: float = 12.0
    background_log_sd: float = 0.65
    equal_size: float = 0.2
    half_cm: float = 0.1
    two_of_two: float = 0.65
    two_of_one: float = 0.35
    reference_exact: float = 0.94
    reference_near: float = 0.04
    near_images: int = 2
    other_series: float = -2.0
    other_plane: float = -1.0
    unnamed: float = 0.2
    side_right: float = 0.97
    middle_right: float = 0.7
    organ_right: float = 0.93
    level_right: float = 0.8
    label_right: float = 0.8
    drawn_late: float = -2.0
    drawn_long_before: float = -1.0
    drawn_unsized: float = -2.0
    said_unsized: float = -2.5
    min_size: float = 0.0
    min_unsized: float = 3.7
    coarse_mm: float = 2.0
    min_coarse: float = 3.7

    def __post_init__(self) -> None:
        for field in fields(self):
            value = getattr(self, field.name)
            if isinstance(value, bool) or not isinstance(value, int | float) or not isfinite(value):
                raise ConfigError(f"{field.name} must be a finite number, got {value!r}")
        for name in _PROBABLE:
            _require_range(name, getattr(self, name), above=0.5, upto=1)
        least = min(self.linked_on_image, self.linked, self.linked_by_size, self.least_linked)
        _require_range("ambiguous", self.ambiguous, above=0, upto=least)
        for name in _RATES:
            _require_between(name, getattr(self, name), 1e-9, 1 - 1e-6)
        _require_range("reference_exact + reference_near", self.reference_exact + self.reference_near, above=0, upto=1)
        for (least, most), names in _BETWEEN.items():
            for name in names:
                _require_between(name, getattr(self, name), least, most)
        if not isinstance(self.near_images, int):
            raise ConfigError(f"near_images must be a whole number, got {self.near_images!r}")


_RATES = (
    "stated_copied", "unrelated_size", "swapped_axes", "equal_size", "half_cm", "two_of_two", "two_of_one",
    "reference_exact", "reference_near", "unnamed", "side_right", "middle_right", "organ_right", "level_right",
    "label_right",
)  # fmt: skip
_PROBABLE = (
    "linked_on_image", "linked", "linked_by_size", "linked_together", "least_linked", "least_rival", "certain",
)  # fmt: skip
_BETWEEN = {
    (1e-6, 1e6): ("match_weight", "uncertain", "unsized", "absorber"),
    (1e-2, 1e2): ("noise_median_mm", "stated_noise_mm"),
    (0.05, 10): ("noise_log_sd", "background_log_sd"),
    (0.1, 1000): ("background_median_mm",),
    (0, 1): ("drawing_noise",),
    (0, 100): ("near_images", "coarse_mm"),
    (-100, 100): (
        "strong", "other_series", "other_plane", "drawn_late", "drawn_long_before", "drawn_unsized", "said_unsized",
        "min_size", "min_unsized", "min_coarse",
    ),
}  # fmt: skip
"""Least and most, by which nothing that is computed of them leaves the range of a float."""


def _require_range(name: str, value: float, *, above: float, upto: float) -> None:
    if not above < value <= upto:
        raise ConfigError(f"{name} must be more than {above} and at most {upto}, got {value!r}")


def _require_between(name: str, value: float, least: float, most: float) -> None:
    if not least <= value <= most:
        raise ConfigError(f"{name} must be between {least:g} and {most:g}, got {value!r}")
