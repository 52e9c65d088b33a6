"""What an inspection found, as counts: the result, for people and for machines."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import asdict, dataclass, field
from typing import Any

from cohort_builder.types import Decision


@dataclass(frozen=True, slots=True)
class Sample:
    """Of how many patients how many were read, chosen by a seeded draw."""

    patients: int
    of: int
    seed: int


@dataclass(frozen=True, slots=True)
class ObjectCount:
    """Objects of one modality and SOP class, by the name the standard gives it."""

    modality: str
    sop_class: str
    objects: int


@dataclass(frozen=True, slots=True)
class WriterCount:
    """Who wrote CT series, or presentation states, or structured reports (``objects`` of them)."""

    of: str
    manufacturer: str
    model: str
    version: str
    objects: int


@dataclass(frozen=True, slots=True)
class EncodingCount:
    """Annotations that one rule recognised in one kind of object (GSPS, SR), and how sure that rule is."""

    source: str
    kind: str
    rule: str
    confidence: float
    annotations: int


@dataclass(frozen=True, slots=True)
class CoordinateHabit:
    """Where the coordinates of one writer lie within a pixel.

    ``histogram`` counts the fractional parts in 20 equal bins, the first of which is centred on 0 and the eleventh on
    0.5; ``whole`` and ``half`` of them are so to 0.001. ``verdict``: ``too_few``, ``whole``, ``half``, ``sub_pixel``
    or ``mixed``. Nothing is corrected by it.
    """

    writer: str
    coordinates: int
    whole: int
    half: int
    histogram: tuple[int, ...]
    verdict: str


@dataclass(frozen=True, slots=True)
class TextAgreement:
    """Numbers beside measurements of one writer against the geometry.

    ``histogram`` counts stated minus drawn length in bins of 0.5 mm whose middles run from -5 to 5 mm; the first and
    the last hold all beyond. ``beyond`` are more than 0.6 mm or 3 % off, rounding allowed for. ``median_ratio`` is of
    stated to drawn. ``verdict``: ``too_few``, ``agrees``, ``scaled`` (the median is off, so spacing or coordinates are)
    or ``scattered``.
    """

    writer: str
    numbers: int
    beyond: int
    median_ratio: float
    histogram: tuple[int, ...]
    verdict: str


@dataclass(frozen=True, slots=True)
class SyntaxCount:
    """CT images in one transfer syntax; ``decoder``: None where none is needed, else whether one is installed here."""

    name: str
    images: int
    series: int
    decoder: bool | None


@dataclass(frozen=True, slots=True)
class SeriesGeometry:
    """CT series by what can be made of them.

    Parameters
    ----------
    counts
        ``series`` and ``images``; ``volumes`` (regular stacks) and ``images_in_volumes``; ``tilted`` volumes.
    verdicts
        Every series once: ``one_volume`` (all its images), ``several_volumes`` (phases, or parts beside a gap; all its
        images), ``part_of_series`` (some images left out), ``refused: <reason>``.
    left_out
        Series by each reason for which some of their images are left out; ``details`` say what to do.
    spacings_mm, thicknesses_mm, slices, planes
        Volumes by distance of their slices, by Slice Thickness, by number of slices and by plane.

    """

    counts: Mapping[str, int] = field(default_factory=dict)
    verdicts: Mapping[str, int] = field(default_factory=dict)
    left_out: Mapping[str, int] = field(default_factory=dict)
    details: Mapping[str, str] = field(default_factory=dict)
    spacings_mm: Mapping[str, int] = field(default_factory=dict)
    thicknesses_mm: Mapping[str, int] = field(default_factory=dict)
    slices: Mapping[str, int] = field(default_factory=dict)
    planes: Mapping[str, int] = field(default_factory=dict)


@dataclass(frozen=True, slots=True)
class Part:
    """One part of the work of a build: how much, how fast, and how long by that (seconds, all workers together)."""

    name: str
    amount: float
    unit: str
    rate: float | None
    seconds: float
    basis: str


@dataclass(frozen=True, slots=True)
class Estimate:
    """What a build of this export would take on this machine: ranges, not promises.

    ``seconds`` and ``disk_bytes`` are (low, high); None where the engine could not be tried (``not_tried`` says why).
    ``tried`` is the number of lesions that were segmented and written for it, and thrown away.
    """

    engine: str
    workers: int
    tried: int
    parts: tuple[Part, ...]
    seconds: tuple[float, float] | None
    disk_bytes: tuple[float, float]
    assumptions: tuple[str, ...]
    not_tried: str | None = None


@dataclass(frozen=True, slots=True)
class Inspection:
    """What would go into a cohort, as counts; of headers it shows makers, models and versions.

    Parameters
    ----------
    export
        Patients, studies, CT series, presentation states and files.
    annotations
        Strokes that can be used, by kind.
    lesions
        ``drawn``; of them ``linked``, ``prior_linked`` and ``unmentioned`` (a report reads the study, and no phrase of
        it was linked to them) and ``without_report``.
    reports
        ``read`` from the source, ``used`` with at least one study, and these ``by_<key>``.
    findings
        ``found`` in the used reports; ``absent`` are negated; ``present`` and ``uncertain`` ones of them ``with_size``
        (a current one of a lesion) and ``with_image_reference``; ``linkable``: one or both of these, and something
        drawn in the studies.
    decisions
        Answers of the linker for findings.
    probabilities
        Linked and withheld findings by the probability of their best lesion: ten equal bins from 0 to 1.
    evidence
        Linked findings by what speaks for them: ``size``, ``size + side`` ...
    with_references
        How many of the linkable findings would be linked if each named the image of what it fits best.
    skips
        What is left out, by stage and reason (docs/skips.md); of the masks a build leaves out more.
    details
        The commonest detail of each of these reasons; it quotes nobody.
    sample
        Set where only some of the patients were read: all but ``export``, ``objects`` and ``reports`` is of them.
    selection
        Studies and series by what ``config.select`` decides of them; empty where it asks for nothing.
    objects, writers, encodings, habits, texts, ct, syntaxes, estimate
        See their types. ``writers_withheld`` texts of headers are not shown: they might name somebody.
    strokes
        ``read`` annotations; of them ``used`` in lesions, the others are among the ``skips``.
    prompts
        Lesions that would be segmented, by the kind of the annotation they would be segmented from.
    withheld
        Findings that are present and not linked, by why.

    """

    export: Mapping[str, int]
    annotations: Mapping[str, int]
    lesions: Mapping[str, int]
    reports: Mapping[str, int]
    findings: Mapping[str, int]
    decisions: Mapping[str, int]
    probabilities: tuple[int, ...]
    evidence: Mapping[str, int]
    with_references: int
    skips: Mapping[str, Mapping[str, int]]
    details: Mapping[str, Mapping[str, str]]
    sample: Sample | None = None
    selection: Mapping[str, int] = field(default_factory=dict)
    objects: tuple[ObjectCount, ...] = ()
    writers: tuple[WriterCount, ...] = ()
    writers_withheld: int = 0
    strokes: Mapping[str, int] = field(default_factory=dict)
    encodings: tuple[EncodingCount, ...] = ()
    prompts: Mapping[str, int] = field(default_factory=dict)
    habits: tuple[CoordinateHabit, ...] = ()
    texts: tuple[TextAgreement, ...] = ()
    ct: SeriesGeometry = field(default_factory=SeriesGeometry)
    syntaxes: tuple[SyntaxCount, ...] = ()
    withheld: Mapping[str, int] = field(default_factory=dict)
    estimate: Estimate | None = None

    @property
    def coverage(self) -> float | None:
        """Linked among the linkable findings; None where there are none."""
        linkable = self.findings.get("linkable", 0)
        return self.decisions.get(Decision.LINKED.value, 0) / linkable if linkable else None

    @property
    def coverage_with_references(self) -> float | None:
        """What ``coverage`` would be if the reports named images; None where nothing is linkable."""
        linkable = self.findings.get("linkable", 0)
        return self.with_references / linkable if linkable else None

    def as_dict(self) -> dict[str, Any]:
        """Plain values, for machines."""
        return {
            **asdict(self),
            "coverage": self.coverage,
            "coverage_with_references": self.coverage_with_references,
        }

    def summary(self) -> str:
        """Everything as text."""
        from cohort_builder.inspect.content import sample_note, sections_of
        from cohort_builder.inspect.plain import as_text

        return as_text(sections_of(self), sample_note(self))

    def html(self) -> str:
        """Everything as one page that needs nothing else: no script, no file, no network."""
        from cohort_builder.inspect.content import headlines_of, sample_note, sections_of
        from cohort_builder.inspect.html import as_page

        return as_page(headlines_of(self), sections_of(self), sample_note(self))
