"""What an inspection says, in order: the sections of its text and of its page."""

from __future__ import annotations

from collections.abc import Iterator
from typing import TYPE_CHECKING

from cohort_builder.inspect.blocks import (
    Bars,
    Block,
    Headline,
    Section,
    Table,
    counted,
    duration,
    number,
    size,
    span,
    spoken,
)
from cohort_builder.inspect.drawings import DIFFERENCE_BINS_MM, FRACTION_BINS
from cohort_builder.inspect.results import LEAST_COORDINATES, LEAST_NUMBERS

if TYPE_CHECKING:
    from cohort_builder.inspect.inspection import Estimate, Inspection

_MOST_PLOTS = 12
_HABITS = {
    "too_few": f"fewer than {LEAST_COORDINATES} coordinates: too few to say",
    "whole": "writes whole numbers: ambiguous, may be pixel centres: see pixel_origin",
    "half": "writes pixel centres as the standard counts them (x.5)",
    "sub_pixel": "writes fractions of a pixel, evenly spread: no habit shows",
    "mixed": "several habits at once: several tools, or a zoomed display",
}
_TEXTS = {
    "too_few": f"fewer than {LEAST_NUMBERS} numbers: too few to say",
    "agrees": "the numbers fit the geometry",
    "scaled": "the numbers are off by one factor: wrong spacing, or coordinates of another size",
    "scattered": "many numbers do not fit, by no common factor: other images, or calibrations of their own",
}
_WITHHELD = {
    "several_lesions_fit": "several lesions fit; naming the image in the report would settle it",
    "not_sure_enough": "one lesion is likeliest, but not by enough: offered for review after a build",
    "no_lesion_fits": "something is drawn, but nothing of that size, side or image",
    "nothing_drawn": "nothing usable is drawn in the studies that the report reads",
    "no_size_and_no_image": "the report gives neither a size nor an image of it",
    "of_an_earlier_study": "linked to what is drawn in an earlier study: not published",
}
_VERDICTS = {
    "one_volume": "one regular volume, all images used",
    "several_volumes": "several regular volumes (phases, parts beside a gap), all images used",
    "part_of_series": "regular volumes of a part of the images",
}


def headlines_of(found: Inspection) -> tuple[Headline, ...]:
    """The figures to begin with."""
    return tuple(_headlines(found))


def sections_of(found: Inspection) -> tuple[Section, ...]:
    """Everything, in the order of a reader's questions. What was not looked at has no section."""
    made = (_stored(found), _drawn(found), _coordinates(found), _numbers(found), _volumes(found))
    said = (_reports(found), _left_out(found), _estimated(found))
    return tuple(section for section in (*made, *said) if section.blocks)


def sample_note(found: Inspection) -> str:
    """Said first where not everything was read."""
    if found.sample is None:
        return ""
    read, of, seed = found.sample.patients, found.sample.of, found.sample.seed
    return (
        f"A sample: {read:,} of {of:,} patients were read (seed {seed}). Only the counts of files, objects and reports "
        "are of the whole export; the estimate is scaled up."
    )


def _headlines(found: Inspection) -> Iterator[Headline]:
    export = found.export
    yield Headline(number(export.get("patients", 0)), "patients", f"{export.get('studies', 0):,} studies")
    series = found.ct.counts.get("series", 0)
    usable = sum(found.ct.verdicts.get(name, 0) for name in _VERDICTS)
    yield Headline(f"{usable:,} of {series:,}", "CT series with a regular volume", f"{_all(found, 'images'):,} images")
    lesions = found.lesions.get("drawn", 0)
    to_segment = sum(found.prompts.values())
    yield Headline(
        f"{to_segment:,} of {lesions:,}", "drawn lesions to segment", f"{found.strokes.get('read', 0):,} annotations"
    )
    if found.coverage is not None and found.coverage_with_references is not None:
        linked, linkable = found.decisions.get("LINKED", 0), found.findings["linkable"]
        more = f"{linked:,} of {linkable:,}; with image references {found.coverage_with_references:.0%}"
        yield Headline(f"{found.coverage:.0%}", "of the linkable findings linked", more)
    if found.estimate is not None:
        low, high = found.estimate.disk_bytes
        if found.estimate.seconds is not None:
            least, most = map(duration, found.estimate.seconds)
            yield Headline(
                span(least, most), "to build it here", f"{found.estimate.engine}, {found.estimate.workers} process(es)"
            )
        yield Headline(span(size(low), size(high)), "on disk after a build")


def _all(found: Inspection, name: str) -> int:
    return found.ct.counts.get(name, 0)


def _stored(found: Inspection) -> Section:
    blocks: list[Block] = [counted("Export", found.export)]
    if found.selection:
        note = "By [select] of the configuration; what follows but objects is of the selected alone."
        blocks.append(counted("Selection", found.selection, note))
    if found.objects:
        rows = tuple((one.modality, one.sop_class, one.objects) for one in found.objects)
        blocks.append(Table("Objects", ("modality", "SOP class", "objects"), rows))
    if found.writers:
        written = tuple((w.of, w.manufacturer, w.model, w.version, w.objects) for w in found.writers)
        note = ""
        if found.writers_withheld:
            note = (
                f"{found.writers_withheld} text(s) of headers are withheld: not of a maker that is known, not the "
                "form of a name of a device or of a version, or a word of it is an identifier's of the export."
            )
        blocks.append(Table("Writers", ("of", "manufacturer", "model", "software", "number"), written, note))
    return Section(
        "What is stored", "Every object that the index holds, and who wrote the CT and the annotations.", tuple(blocks)
    )


def _drawn(found: Inspection) -> Section:
    blocks: list[Block] = []
    if found.strokes:
        blocks.append(_sum_of_strokes(found))
    if found.annotations:
        blocks.append(counted("Annotations used", found.annotations, "By kind."))
    if found.encodings:
        rows = tuple((e.source, e.kind, spoken(e.rule), e.confidence, e.annotations) for e in found.encodings)
        note = "Confidence is a judgement by encoding, not a measured rate (docs/annotations.md)."
        columns = ("in", "kind", "recognised by", "confidence", "number")
        blocks.append(Table("Encodings", columns, rows, note))
    if found.lesions:
        blocks.append(
            counted("Lesions", found.lesions, "Annotations that lie on one thing in the patient are one lesion.")
        )
    if found.prompts:
        blocks.append(counted("Prompts", found.prompts, "Lesions that a build would segment, by what it starts from."))
    lead = "What readers drew, in which encoding it was recognised, and what of it would become a prompt."
    return Section("What is drawn", lead, tuple(blocks))


def _sum_of_strokes(found: Inspection) -> Table:
    """Every annotation that was read once: used, or by the reason why not."""
    read, used = (found.strokes.get(name, 0) for name in ("read", "used"))
    superseded = found.skips.get("annotations", {}).get("superseded", 0)
    lost = {"superseded": superseded, **found.skips.get("locate", {})}
    lost["another reason"] = read - used - sum(lost.values())
    rows = [("read", read), ("used", used), *((f"not used: {spoken(why)}", n) for why, n in lost.items() if n)]
    return Table("Annotations read", ("", "number"), tuple(rows))


def _coordinates(found: Inspection) -> Section:
    lead = (
        "The standard counts from the corner of the first pixel: its centre is 0.5. A writer that stores centres as "
        "whole numbers is half a pixel off, and looks like one that rounds. Nothing is corrected by what is seen here; "
        "pixel_origin in the configuration does that, by writer."
    )
    rows = tuple(
        (h.writer, h.coordinates, _share(h.whole, h.coordinates), _share(h.half, h.coordinates), _HABITS[h.verdict])
        for h in found.habits
    )
    blocks: list[Block] = []
    if rows:
        blocks.append(Table("Habits", ("writer", "coordinates", "whole", "half", "verdict"), rows))
    labels = tuple(f"{i / FRACTION_BINS:g}" for i in range(FRACTION_BINS))
    blocks += [
        Bars(h.writer, labels, h.histogram, "fractional part of a coordinate, in pixels", _HABITS[h.verdict])
        for h in found.habits[:_MOST_PLOTS]
    ]
    return Section("Where coordinates lie in the pixel", lead, tuple(blocks))


def _numbers(found: Inspection) -> Section:
    lead = (
        "Lengths that stand beside a drawing as text, minus the length of its geometry. They check the geometry and "
        "never set it; what is grossly off is left out. One common factor speaks of wrong "
        "spacing or half-size coordinates."
    )
    rows = tuple((t.writer, t.numbers, t.beyond, f"{t.median_ratio:.2f}", _TEXTS[t.verdict]) for t in found.texts)
    blocks: list[Block] = []
    if rows:
        columns = ("writer", "numbers", "beyond tolerance", "median ratio", "verdict")
        blocks.append(Table("Numbers beside drawings", columns, rows, "Tolerance: 0.6 mm or 3 %, and rounding."))
    first, *middle, last = (f"{value:g}" for value in DIFFERENCE_BINS_MM)
    labels = (f"<= {first}", *middle, f">= {last}")
    blocks += [
        Bars(t.writer, labels, t.histogram, "stated minus drawn, mm", _TEXTS[t.verdict])
        for t in found.texts[:_MOST_PLOTS]
    ]
    return Section("What the numbers beside drawings say", lead, tuple(blocks))


def _volumes(found: Inspection) -> Section:
    ct = found.ct
    if not ct.counts.get("series"):
        return Section("CT series", "")
    rows = tuple((_VERDICTS.get(name, spoken(name)), n) for name, n in ct.verdicts.items())
    blocks: list[Block] = [
        Table("CT series by geometry", ("verdict", "series"), rows, "Every series once."),
        counted("CT images and volumes", {name: n for name, n in ct.counts.items() if name != "series"}),
    ]
    if ct.left_out:
        rows_out = tuple((spoken(reason), n, ct.details.get(reason, "")) for reason, n in ct.left_out.items())
        blocks.append(Table("Images left out of volumes", ("reason", "series", "what it means"), rows_out))
    for title, counts, axis in (
        ("Distance of slices", ct.spacings_mm, "mm"),
        ("Slice thickness", ct.thicknesses_mm, "mm"),
        ("Slices a volume", ct.slices, "slices"),
    ):
        blocks.append(Bars(title, tuple(counts), tuple(counts.values()), axis))
    blocks.append(counted("Planes", ct.planes, "Of volumes; axial and so on within 20 degrees."))
    decoders = tuple((s.name, s.images, s.series, _decoder(s.decoder)) for s in found.syntaxes)
    columns = ("transfer syntax", "images", "series", "decoder")
    blocks.append(Table("Transfer syntaxes of CT", columns, decoders))
    return Section(
        "CT series",
        "What can be stacked into volumes, by the headers alone, and whether it can be decoded here.",
        tuple(blocks),
    )


def _decoder(installed: bool | None) -> str:
    if installed is None:
        return "not needed"
    return "installed" if installed else "MISSING: pip install 'cohort-builder[codecs]'"


def _reports(found: Inspection) -> Section:
    blocks: list[Block] = [
        counted(title, counts)
        for title, counts in (
            ("Reports", found.reports),
            ("Findings", found.findings),
            ("Links of findings", found.decisions),
            ("Linked by", found.evidence),
        )
        if counts
    ]
    if found.withheld:
        rows = tuple((spoken(why), n, _WITHHELD[why]) for why, n in found.withheld.items())
        blocks.append(Table("Findings that are present and not linked", ("why", "findings", "what it means"), rows))
    if any(found.probabilities):
        n = len(found.probabilities)
        labels = tuple(f"{i / n:.1f}-{(i + 1) / n:.1f}" for i in range(n))
        blocks.append(Bars("Probability of the best lesion", labels, found.probabilities, "probability"))
    if found.coverage is not None and found.coverage_with_references is not None:
        rows_of = (
            ("linked of the linkable", f"{found.coverage:.1%}"),
            ("with image references", f"{found.coverage_with_references:.1%}"),
        )
        note = (
            "Linkable: present or uncertain, with a size or an image, in a report of a study with drawings; "
            "what was never drawn itself counts, too. The score of cohort demo asks only for what was drawn. "
            "The second share: if each withheld finding named the image of the lesion that it fits best."
        )
        blocks.append(Table("Coverage", ("", "share"), rows_of, note))
    return Section(
        "What the reports would link", "Which phrases would be grounded, and why the others would not.", tuple(blocks)
    )


def _left_out(found: Inspection) -> Section:
    rows = tuple(
        (spoken(stage), spoken(reason), n, found.details.get(stage, {}).get(reason, ""))
        for stage, reasons in found.skips.items()
        for reason, n in reasons.items()
    )
    blocks = (Table("Left out", ("stage", "reason", "number", "what to do"), rows),) if rows else ()
    return Section(
        "What would be skipped",
        "Up to the masks; a build may reject more of them. docs/skips.md has all reasons.",
        blocks,
    )


def _estimated(found: Inspection) -> Section:
    guess = found.estimate
    if guess is None:
        return Section("What a build would take", "")
    total = []
    if guess.seconds is not None:
        total.append(("time", span(*map(duration, guess.seconds))))
    total.append(("disk", span(*map(size, guess.disk_bytes))))
    blocks: tuple[Block, ...] = (
        Table("Estimate", ("", "range"), tuple(total), _trust(guess)),
        Table("Parts", ("part", "amount", "", "a second", "time", "basis"), tuple(_part_rows(guess)),
              "Time is that of one process; the processes share all but index, reports and pictures."),
        Table("Assumptions", ("",), tuple((line,) for line in guess.assumptions)),
    )  # fmt: skip
    return Section("What a build would take", "A range by the model below, on this machine; not a promise.", blocks)


def _trust(guess: Estimate) -> str:
    if guess.not_tried is not None:
        return f"The engine could not be tried, so its time is not in it: {guess.not_tried}"
    if not guess.tried:
        return "No lesion could be tried."
    return f"{guess.tried} lesions were built with the engine {guess.engine} and thrown away."


def _part_rows(guess: Estimate) -> Iterator[tuple[str, str, str, str, str, str]]:
    for part in guess.parts:
        rate = "" if part.rate is None else number(part.rate)
        yield part.name, number(part.amount), part.unit, rate, duration(part.seconds), part.basis


def _share(part: int, whole: int) -> str:
    return f"{part / whole:.0%}" if whole else ""
