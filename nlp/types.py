"""The manifests of the text side: what a report is, what it says, and how large.

All spans are half-open character offsets ``(start, end)`` into ``Report.text``; all lengths are millimetres.
"""

from __future__ import annotations

from dataclasses import dataclass
from datetime import date, datetime
from enum import StrEnum
from math import isfinite

Span = tuple[int, int]


class ReportError(ValueError):
    """One report cannot be used: it costs that report, never the cohort."""


class ExtractorError(ValueError):
    """An extractor cannot run on this machine: a package, weights or device is missing, or the weights are not its own.

    It says nothing of a report and ends a run.
    """


class Assertion(StrEnum):
    """Whether an observation is there, in RadGraph's words."""

    PRESENT = "PRESENT"
    ABSENT = "ABSENT"
    UNCERTAIN = "UNCERTAIN"


class Laterality(StrEnum):
    """Side of the patient, as the report says it."""

    LEFT = "LEFT"
    RIGHT = "RIGHT"
    BILATERAL = "BILATERAL"
    MIDLINE = "MIDLINE"


class Axis(StrEnum):
    """Which diameter a number measures: RECIST long or short axis, or a body axis."""

    LONG = "LONG"
    SHORT = "SHORT"
    AP = "AP"
    TR = "TR"
    CC = "CC"


class Qualifier(StrEnum):
    """How a number bounds the true size."""

    APPROXIMATE = "APPROXIMATE"
    UP_TO = "UP_TO"
    AT_LEAST = "AT_LEAST"
    LESS_THAN = "LESS_THAN"
    GREATER_THAN = "GREATER_THAN"
    RANGE = "RANGE"


class Temporality(StrEnum):
    """Measured today, or quoted from an earlier examination."""

    CURRENT = "CURRENT"
    PRIOR = "PRIOR"


class SizeKind(StrEnum):
    """What a length in the text is the length of. Only ``LESION`` sizes link to drawn lesions."""

    LESION = "LESION"
    DISTANCE = "DISTANCE"
    THRESHOLD = "THRESHOLD"
    DEVICE = "DEVICE"
    TECHNIQUE = "TECHNIQUE"
    NORMAL_STRUCTURE = "NORMAL_STRUCTURE"
    OTHER = "OTHER"


@dataclass(frozen=True, slots=True)
class Report:
    """One free-text report and the keys that join it to studies. A report may cover several studies.

    ``identifiers`` are the values of the table's other identifying columns (a patient's name, a referrer's):
    the scrubber removes them from the text, and they go no further. ``version_key`` is what the versions of one
    report share (a preliminary text and the final one; None: there is only this one), ``issued_at`` when this version
    was given out (aware where the source writes an offset from UTC, else by the clock of the hospital): the last one
    counts. ``status`` is FHIR's word for it where it is known (``nlp.sources.statuses``).
    """

    report_id: str
    text: str
    accession_numbers: tuple[str, ...] = ()
    study_instance_uids: tuple[str, ...] = ()
    patient_id: str | None = None
    study_date: date | None = None
    language: str = "en"
    status: str = "final"
    identifiers: tuple[str, ...] = ()
    version_key: str | None = None
    issued_at: datetime | None = None

    def __post_init__(self) -> None:
        if not self.report_id:
            raise ReportError("report_id is empty; every report needs one that is unique in its source")


@dataclass(frozen=True, slots=True)
class Size:
    """A measurement as written.

    ``values_mm`` runs longest first; ``roundings_mm`` (half of the last written digit: "1.2 cm" is 12 +- 0.5) and
    ``axes`` run parallel to it. A range ("8-9 mm", qualifier RANGE) has its two ends, both of one axis: compare with
    :attr:`lengths_mm`, which makes one length of them.
    """

    values_mm: tuple[float, ...]
    roundings_mm: tuple[float, ...]
    axes: tuple[Axis | None, ...]
    span: Span
    qualifier: Qualifier | None = None
    temporality: Temporality = Temporality.CURRENT
    kind: SizeKind = SizeKind.LESION

    def __post_init__(self) -> None:
        if not self.values_mm or not len(self.values_mm) == len(self.roundings_mm) == len(self.axes):
            raise ValueError(
                f"values_mm, roundings_mm and axes must be parallel and not empty, got {len(self.values_mm)}, "
                f"{len(self.roundings_mm)} and {len(self.axes)} entries"
            )
        if list(self.values_mm) != sorted(self.values_mm, reverse=True):
            raise ValueError(f"values_mm must run longest first, got {self.values_mm}")
        if not all(isfinite(value) and value > 0 for value in self.values_mm):
            raise ValueError(f"values_mm must be positive and finite, got {self.values_mm}")
        if not all(isfinite(rounding) and rounding >= 0 for rounding in self.roundings_mm):
            raise ValueError(f"roundings_mm must be finite and not negative, got {self.roundings_mm}")

    @property
    def lengths_mm(self) -> tuple[tuple[float, float], ...]:
        """What a ruler should find, longest first: (length, half width of its interval) per axis.

        A range is its midpoint, with half its width added to the rounding: "8-9 mm" is 8.5 +- 1.
        """
        if self.qualifier is not Qualifier.RANGE or len(self.values_mm) != 2:
            return tuple(zip(self.values_mm, self.roundings_mm, strict=True))
        high, low = self.values_mm
        return (((high + low) / 2, self.rounding_mm + (high - low) / 2),)

    @property
    def rounding_mm(self) -> float:
        """The coarsest of the written roundings."""
        return max(self.roundings_mm)


@dataclass(frozen=True, slots=True)
class ImageReference:
    """An image that the text points at ("series 3, image 41"), numbers as written.

    ``image_last == image_first`` for a single image.
    """

    series_number: int | None
    image_first: int
    image_last: int
    span: Span

    def __post_init__(self) -> None:
        if self.image_last < self.image_first:
            raise ValueError(f"image_last ({self.image_last}) lies before image_first ({self.image_first})")


@dataclass(frozen=True, slots=True)
class Mention:
    """One place where a finding is said: its section's name, the phrase and the whole sentence around it."""

    section: str
    phrase: Span
    sentence: Span


@dataclass(frozen=True, slots=True)
class Finding:
    """What the report says once or several times about one thing.

    ``mentions[0]`` is the mention that carries the size (else the first), and the phrase that is published. A phrase
    names its thing: where the size stands with a mere "it", the phrase begins at the noun in the sentence before (and
    the mention's sentence is both), or the noun's mention leads and the size's follows.
    ``observation`` and ``anatomy`` are normalised terms (lower case); ``extractor`` is ``name@version``.
    """

    finding_id: str
    report_id: str
    observation: str
    assertion: Assertion
    mentions: tuple[Mention, ...]
    extractor: str
    anatomy: str | None = None
    laterality: Laterality | None = None
    sizes: tuple[Size, ...] = ()
    image_references: tuple[ImageReference, ...] = ()

    def __post_init__(self) -> None:
        if not self.mentions:
            raise ValueError("a finding needs at least one mention")
