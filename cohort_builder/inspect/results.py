"""Counts to an ``Inspection``: names that may be said, distributions, and verdicts in words."""

from __future__ import annotations

from collections import Counter, defaultdict
from collections.abc import Iterator, Mapping, Sequence
from itertools import pairwise

from cohort_builder.inspect.cases import BINS
from cohort_builder.inspect.drawings import DIFFERENCE_BINS_MM, FRACTION_BINS, median_of
from cohort_builder.inspect.inspection import (
    CoordinateHabit,
    EncodingCount,
    Inspection,
    ObjectCount,
    SeriesGeometry,
    SyntaxCount,
    TextAgreement,
    WriterCount,
)
from cohort_builder.inspect.series import SLICES, SPACINGS_MM
from cohort_builder.inspect.tally import Tally, named, under
from cohort_builder.inspect.writers import Writer, WriterNames
from cohort_builder.types import Decision

LEAST_COORDINATES = 40  # ten lines
LEAST_NUMBERS = 10
_NEARLY_ALL, _HARDLY_ANY = 0.95, 0.15
_FLAT = 3.0  # times the mean of the other bins
_SCALED = 0.03
_OFTEN = 0.2
_MODALITIES = frozenset({
    "CT", "MR", "PT", "NM", "US", "CR", "DX", "MG", "XA", "RF", "OT", "SC", "PR", "SR", "SEG", "KO", "RTSTRUCT",
    "RTPLAN", "RTDOSE", "RTIMAGE", "REG", "DOC", "ES", "XC", "ECG", "SM", "PX", "IO", "BMD", "FID", "RWV", "ANN", "M3D",
})  # fmt: skip
_OTHER = "(other)"


def inspection_of(tally: Tally, names: WriterNames) -> Inspection:
    """Put together what was counted; ``names`` decides which writers are named."""
    export = named(tally, "export") | {"ct_series": tally["ct", "series"]}
    first = ("patients", "studies", "ct_series", "presentation_states", "files", "dicom", "ct")
    skips: dict[str, dict[str, int]] = defaultdict(dict)
    for (stage, reason), n in under(tally, "skips").items():
        skips[stage][reason] = n
    details: dict[str, dict[str, str]] = defaultdict(dict)
    for stage, reason, detail in under(tally, "details"):  # the commonest first
        details[stage].setdefault(reason, detail)
    bins = named(tally, "probabilities")
    return Inspection(
        export={name: export[name] for name in (*first, *sorted(export.keys() - set(first))) if name in export},
        annotations=named(tally, "annotations"),
        lesions=named(tally, "lesions", ("drawn", "linked", "prior_linked", "unmentioned", "without_report")),
        reports=named(tally, "reports", ("read", "used")),
        findings=named(tally, "findings", ("found", "absent", "with_size", "with_image_reference", "linkable")),
        decisions=named(tally, "decisions", [decision.value for decision in Decision]),
        probabilities=tuple(bins.get(str(i), 0) for i in range(BINS)),
        evidence=named(tally, "evidence"),
        with_references=tally["with_references",],
        skips={stage: skips[stage] for stage in sorted(skips)},
        details={stage: details[stage] for stage in sorted(details)},
        selection=named(tally, "selection", ("selected_studies",)),
        objects=_objects(tally),
        writers=tuple(
            WriterCount(of, *names.parts((manufacturer, model, version)), n)
            for (of, manufacturer, model, version), n in under(tally, "writers").items()
        ),
        writers_withheld=names.withheld,
        strokes=named(tally, "strokes", ("read", "used")),
        encodings=tuple(
            EncodingCount(source, kind, rule, float(confidence), n)
            for (source, kind, rule, confidence), n in under(tally, "encodings").items()
        ),
        prompts=named(tally, "prompts"),
        habits=tuple(_habits(tally, names)),
        texts=tuple(_texts(tally, names)),
        ct=_geometry(tally),
        syntaxes=_syntaxes(tally),
        withheld=named(tally, "withheld"),
    )


def _objects(tally: Tally) -> tuple[ObjectCount, ...]:
    """By names of the standard: neither a modality nor a UID of one's own is quoted."""
    from pydicom.uid import UID

    counts: Counter[tuple[str, str]] = Counter()
    for (modality, sop_class), n in under(tally, "objects").items():
        uid = UID(sop_class)
        known = modality if modality in _MODALITIES else _OTHER
        counts[known, uid.name if uid.type == "SOP Class" else "(private SOP class)"] += n
    return tuple(ObjectCount(*key, n) for key, n in counts.most_common())


def _by_writer(tally: Tally, group: str, n_bins: int) -> Iterator[tuple[Writer, tuple[int, ...]]]:
    histograms: dict[Writer, list[int]] = {}
    for (manufacturer, model, version, place), n in under(tally, group).items():
        histograms.setdefault((manufacturer, model, version), [0] * n_bins)[int(place)] += n
    for writer, histogram in sorted(histograms.items(), key=lambda item: (-sum(item[1]), item[0])):
        yield writer, tuple(histogram)


def _habits(tally: Tally, names: WriterNames) -> Iterator[CoordinateHabit]:
    for writer, histogram in _by_writer(tally, "fractions", FRACTION_BINS):
        whole, half = tally["whole", *writer], tally["half", *writer]
        verdict = _habit(whole, half, histogram)
        yield CoordinateHabit(names.label(writer), sum(histogram), whole, half, histogram, verdict)


def _habit(whole: int, half: int, histogram: Sequence[int]) -> str:
    n = sum(histogram)
    if n < LEAST_COORDINATES:
        return "too_few"
    if whole >= _NEARLY_ALL * n:
        return "whole"
    if half >= _NEARLY_ALL * n:
        return "half"
    flat = max(histogram) <= _FLAT * max(n / len(histogram), 4.0)
    return "sub_pixel" if flat and max(whole, half) < _HARDLY_ANY * n else "mixed"


def _texts(tally: Tally, names: WriterNames) -> Iterator[TextAgreement]:
    for writer, histogram in _by_writer(tally, "differences", len(DIFFERENCE_BINS_MM)):
        ratio = median_of({float(value): n for (value,), n in under(tally, "ratios", *writer).items()})
        n, beyond = sum(histogram), tally["beyond", *writer]
        if n < LEAST_NUMBERS:
            verdict = "too_few"
        elif abs(ratio - 1) > _SCALED:
            verdict = "scaled"
        else:
            verdict = "scattered" if beyond > _OFTEN * n else "agrees"
        yield TextAgreement(names.label(writer), n, beyond, ratio, histogram, verdict)


def _geometry(tally: Tally) -> SeriesGeometry:
    details: dict[str, str] = {}
    for reason, detail in under(tally, "series_details"):
        details.setdefault(reason, detail)
    return SeriesGeometry(
        counts=named(tally, "ct", ("series", "images", "volumes", "images_in_volumes", "tilted")),
        verdicts={": ".join(key): n for key, n in under(tally, "verdicts").items()},
        left_out=named(tally, "series_left_out"),
        details=details,
        spacings_mm=_binned(named(tally, "spacings"), SPACINGS_MM),
        thicknesses_mm=_binned(named(tally, "thicknesses"), SPACINGS_MM),
        slices=_binned(named(tally, "slices"), SLICES),
        planes=named(tally, "planes", ("axial", "coronal", "sagittal", "oblique")),
    )


def _binned(counts: Mapping[str, int], ends: Sequence[float]) -> dict[str, int]:
    """Counts by number of a bin to counts by the range that it stands for."""
    labels = [
        f"below {ends[0]:g}",
        *(f"{a:g} to {b:g}" for a, b in pairwise(ends)),
        f"{ends[-1]:g} and more",
    ]
    found = {label: counts.get(str(i), 0) for i, label in enumerate(labels)}
    used = [i for i, n in enumerate(found.values()) if n]
    shown = dict(list(found.items())[min(used) : max(used) + 1]) if used else {}
    return shown | ({"unknown": counts["unknown"]} if "unknown" in counts else {})


def _syntaxes(tally: Tally) -> tuple[SyntaxCount, ...]:
    from pydicom.uid import UID

    from cohort_builder.ct.pixels import installed_decoders

    decoders = installed_decoders()
    counts: Counter[str] = Counter()
    series: Counter[str] = Counter()
    decodable: dict[str, bool | None] = {}
    for (syntax,), n in under(tally, "syntaxes").items():
        uid = UID(syntax)
        known = uid.type == "Transfer Syntax"
        name = uid.name if known else "(a private transfer syntax)"
        counts[name] += n
        series[name] += tally["syntax_series", syntax]
        decodable[name] = bool(decoders.get(syntax)) if not known or uid.is_encapsulated else None
    return tuple(SyntaxCount(name, n, series[name], decodable[name]) for name, n in counts.most_common())
