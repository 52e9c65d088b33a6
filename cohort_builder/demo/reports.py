"""Reports of a generated hospital: what is seen is dictated, in five styles, with the traps of daily work.

Every place where a lesion is said is recorded with its spans in the finished text.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from datetime import date, timedelta
from enum import StrEnum

import numpy as np

from cohort_builder.demo import sentences as s
from cohort_builder.demo.dictation import Fact, Said, Sentence, Text
from cohort_builder.demo.plan import Drawing, ExamPlan, LesionPlan, PatientPlan
from cohort_builder.demo.sights import Sight
from cohort_builder.demo.words import (
    DateStyle,
    Unit,
    dictate,
    hyphenated,
    is_node,
    observation_of,
    say_date,
    say_reference,
)
from segmentation.phantoms import LesionKind

_DATE_STYLES: tuple[DateStyle, ...] = ("long", "us", "dotted", "iso")
_UNITS: tuple[Unit, ...] = ("mixed", "mm", "cm", "mixed")
_REFERENCE_RATE = 0.5
_SHORT_AXIS_RATE = 0.4
_HYPHEN_RATE = 0.15
_SAME = 0.07


class Style(StrEnum):
    """How a radiologist writes."""

    STRUCTURED = "STRUCTURED"
    NUMBERED = "NUMBERED"
    PROSE = "PROSE"
    TELEGRAM = "TELEGRAM"
    LETTER = "LETTER"


@dataclass(frozen=True, slots=True)
class WrittenReport:
    """A report and what it says of which lesion."""

    report_id: str
    text: str
    exams: tuple[ExamPlan, ...]
    prior_day: date | None
    style: Style
    said: tuple[Said, ...]


@dataclass(frozen=True, slots=True)
class _Context:
    """Everything about one report but its lesions."""

    plan: PatientPlan
    exams: tuple[ExamPlan, ...]
    prior_day: date | None
    style: Style
    dates: DateStyle
    unit: Unit
    rng: np.random.Generator

    def pick(self, options: Sequence[str]) -> str:
        return options[int(self.rng.integers(len(options)))]

    def day(self, day: date) -> str:
        return say_date(day, self.dates)


def write_report(
    plan: PatientPlan, exams: Sequence[ExamPlan], sights: Mapping[str, Sight], *, prior_day: date | None = None
) -> WrittenReport:
    """Dictate one report on ``exams``.

    Parameters
    ----------
    sights
        By lesion key, of every lesion of ``exams``, also of those nobody mentions.
    prior_day
        Date of the examination that is compared with; it need not be in the export.

    """
    rng = plan.rng("report", exams[0].key)
    style = list(Style)[(plan.index + plan.seed) % len(Style)]
    context = _Context(
        plan=plan,
        exams=tuple(exams),
        prior_day=prior_day,
        style=style,
        dates=_DATE_STYLES[plan.index % len(_DATE_STYLES)],
        unit=_UNITS[int(rng.integers(len(_UNITS)))],
        rng=rng,
    )
    facts = [
        _fact(context, sights[lesion.key])
        for exam in exams
        for lesion in exam.lesions
        if lesion.said and lesion.key in sights
    ]
    text = Text(is_capital=style is Style.TELEGRAM)
    _HEADS[style](text, context)
    _add_findings(text, context, facts, [sights[x.key].lesion for e in exams for x in e.lesions if x.key in sights])
    _add_impression(text, context, facts)
    _add_signature(text, context)
    number = (plan.index * 10 + int(exams[0].key[-1])) * 37 + plan.seed % 1009 + 200_000
    report_id = f"RAD-{exams[0].day.year}-{number:07d}"
    return WrittenReport(report_id, "".join(text.parts), context.exams, prior_day, style, tuple(text.said))


# ---- facts ---------------------------------------------------------------------------------------------------------


def _fact(context: _Context, sight: Sight) -> Fact:
    rng, lesion = context.rng, sight.lesion
    is_arrow = lesion.drawing is Drawing.ARROW
    is_short = is_node(lesion.spec) and len(sight.diameters_mm) == 2 and rng.random() < _SHORT_AXIS_RATE
    diameters = sight.diameters_mm[1:] if is_short else sight.diameters_mm
    before = sight.prior_mm[1:] if is_short else sight.prior_mm
    size = None if is_arrow and rng.random() < 0.4 else dictate(diameters, context.unit, rng)
    has_reference = is_arrow or rng.random() < _REFERENCE_RATE
    return Fact(
        sight=sight,
        observation=observation_of(lesion.spec, rng),
        size=size,
        prior=dictate(before, context.unit, rng) if before else None,
        reference=say_reference(sight.series_number, sight.instance_number, rng) if has_reference else "",
        is_short_axis=is_short,
        is_estimate=is_arrow,
    )


def _sentences_of(context: _Context, fact: Fact) -> Iterator[Sentence]:
    """What the findings say of one lesion."""
    telegram = context.style is Style.TELEGRAM
    if fact.size is None:
        template = context.pick(s.TELEGRAM_UNSIZED if telegram else s.UNSIZED)
    elif fact.is_estimate:
        template = context.pick(s.TELEGRAM_ESTIMATED if telegram else s.ESTIMATED)
    elif fact.is_short_axis:
        template = context.pick(s.TELEGRAM_SHORT if telegram else s.SHORT_AXIS)
    elif fact.prior is not None and not telegram and _change(fact) and context.rng.random() < 0.15:
        template = s.PRIOR_FIRST
    else:
        template = context.pick(s.TELEGRAM if telegram else s.SIZED)
    if fact.size and "a_size}" in template and context.rng.random() < _HYPHEN_RATE:
        fact = replace(fact, size=replace(fact.size, text=hyphenated(fact.size.text)))
    yield Sentence(template.replace("{prior}", _prior_phrase(context, fact)), fact)
    distances = s.DISTANCES.get(fact.sight.lesion.spec.organ, ())
    if distances and context.rng.random() < 0.2:
        yield Sentence(context.pick(distances))


def _prior_phrase(context: _Context, fact: Fact) -> str:
    if context.prior_day is None or fact.size is None:
        return ""
    if fact.prior is None:
        return context.pick(s.PRIOR_NEW)
    return context.pick((s.PRIOR_SAME, s.PRIOR_LARGER, s.PRIOR_SMALLER)[_change(fact)])


def _change(fact: Fact) -> int:
    """0 as it was, 1 larger, -1 smaller, going by the longest diameters."""
    if fact.size is None or fact.prior is None:
        return 0
    change = fact.size.values_mm[0] / fact.prior.values_mm[0] - 1
    return 0 if abs(change) < _SAME else 1 if change > 0 else -1


# ---- sections ------------------------------------------------------------------------------------------------------


def _title(context: _Context) -> str:
    return "CT of the " + " and ".join(exam.region for exam in context.exams) + " with intravenous contrast"


def _comparison(context: _Context) -> str:
    if context.prior_day is None:
        return "None available."
    return f"CT of {context.day(context.prior_day)}."


def _indication(context: _Context) -> str:
    person, day = context.plan.person, context.exams[0].day
    who = f"{person.age_at(day)}-year-old {'woman' if person.sex == 'F' else 'man'}. "
    words = who + context.pick(s.INDICATIONS[context.exams[0].region])
    if context.rng.random() < 0.4:
        words += f" {person.address} was referred by {context.plan.referrer.spoken}."
    return words


def _technique(context: _Context) -> str:
    steps = sorted({f"{exam.spacing_mm[0]:g}" for exam in context.exams})
    return f"Helical CT after intravenous contrast, axial reconstructions of {' and '.join(steps)} mm slice thickness."


def _structured_head(text: Text, context: _Context) -> None:
    text.add(f"EXAMINATION: {_title(context)}, {context.day(context.exams[0].day)}\n\n")
    text.add(f"CLINICAL INFORMATION: {_indication(context)}\n\n")
    text.add(f"COMPARISON: {_comparison(context)}\n\n")
    text.add(f"TECHNIQUE: {_technique(context)}\n\nFINDINGS:\n")


def _numbered_head(text: Text, context: _Context) -> None:
    person = context.plan.person
    text.add(f"Patient: {person.table_name}   MRN: {person.patient_id}\n")
    text.add(f"Accession: {', '.join(exam.accession_number for exam in context.exams)}\n")
    text.add(f"{_title(context)}\n\nHistory: {_indication(context)}\n\n")
    text.add(f"Comparison: {_comparison(context)}\n\nTechnique: {_technique(context)}\n\nFindings:\n")


def _prose_head(text: Text, context: _Context) -> None:
    text.add(f"{_title(context)} of {context.day(context.exams[0].day)}.\n{_indication(context)}\n\n")
    if context.prior_day is not None:
        text.add(f"Compared to CT of {context.day(context.prior_day)}. ")


def _telegram_head(text: Text, context: _Context) -> None:
    regions = " and ".join(exam.region for exam in context.exams)
    text.add(f"CT {regions} with contrast. {_indication(context)}\n")
    compared = "no prior" if context.prior_day is None else f"comparison {context.day(context.prior_day)}"
    text.add(f"{compared}.\n")


def _letter_head(text: Text, context: _Context) -> None:
    person, referrer = context.plan.person, context.plan.referrer
    day = context.exams[0].day
    born = context.day(person.birth_date)
    text.add(f"{context.plan.institution}, Department of Radiology\n{context.day(day)}\n\n")
    text.add(f"Dear Dr. {referrer.family},\n\nthank you for referring {person.address}, born on {born}, ")
    text.add(f"for {_title(context)}. {context.pick(s.INDICATIONS[context.exams[0].region])} {_technique(context)}\n\n")
    if context.prior_day is not None:
        text.add(f"The previous CT of {context.day(context.prior_day)} is available for comparison. ")


_HEADS = {
    Style.STRUCTURED: _structured_head,
    Style.NUMBERED: _numbered_head,
    Style.PROSE: _prose_head,
    Style.TELEGRAM: _telegram_head,
    Style.LETTER: _letter_head,
}


def _add_findings(text: Text, context: _Context, facts: Sequence[Fact], seen: Sequence[LesionPlan]) -> None:
    groups = list(dict.fromkeys(group for exam in context.exams for group in s.GROUPS_OF[exam.region]))
    for i, group in enumerate(groups):
        found = [fact for fact in facts if fact.sight.lesion.spec.organ in s.GROUPS[group]]
        body = [sentence for fact in found for sentence in _sentences_of(context, fact)]
        if not any(lesion.spec.organ in s.GROUPS[group] for lesion in seen):
            body.append(Sentence(s.CLEAR[group]))
        body += map(Sentence, s.NORMAL[group][int(context.rng.integers(len(s.NORMAL[group])))])
        if i == 0 and context.prior_day is not None and context.rng.random() < 0.6:
            body.insert(int(context.rng.integers(len(body) + 1)), Sentence(s.RESOLVED[context.exams[0].region]))
        if context.style in {Style.STRUCTURED, Style.NUMBERED}:
            text.add(f"{group}: ")
        text.add_paragraph(body)
        text.add(" " if context.style is Style.PROSE and i < len(groups) - 1 else "\n")


def _add_impression(text: Text, context: _Context, facts: Sequence[Fact]) -> None:
    weightiest = sorted(facts, key=lambda fact: -fact.sight.diameters_mm[0])[:3]
    with_sizes = context.style is Style.NUMBERED or context.rng.random() < 0.5
    points = [_concluded(context, fact, with_size=with_sizes) for fact in weightiest]
    points.append(Sentence(context.pick(s.CLOSING)))
    if context.style in {Style.STRUCTURED, Style.NUMBERED}:
        text.add("\nIMPRESSION:\n" if context.style is Style.STRUCTURED else "\nImpression:\n")
        for i, point in enumerate(points):
            text.add(f"{i + 1}. ")
            text.add_sentence(point)
            text.add("\n")
        return
    text.add("\nImpression: " if context.style is not Style.LETTER else "\nIn summary: ")
    text.add_paragraph(points)
    text.add("\n")


def _concluded(context: _Context, fact: Fact, *, with_size: bool) -> Sentence:
    """Say a lesion again, in the other unit: "12 mm" in the findings is "1.2 cm" in the impression."""
    if not with_size or fact.size is None or fact.is_short_axis or fact.is_estimate:
        template, size = context.pick(s.IMPRESSION_UNSIZED), None
    else:
        unit: Unit = "mm" if fact.size.text.endswith("cm") else "cm"
        template, size = context.pick(s.IMPRESSION_SIZED), dictate(fact.sight.diameters_mm, unit)
    is_cyst = fact.sight.lesion.spec.kind is LesionKind.CYST
    verdict = ", benign" if is_cyst else context.pick(s.VERDICTS[fact.sight.lesion.spec.organ])
    return Sentence(template, replace(fact, size=size, prior=None, reference="", remark=verdict))


def _add_signature(text: Text, context: _Context) -> None:
    plan, rng = context.plan, context.rng
    reader = plan.readers[int(rng.integers(2))]
    signed = context.exams[-1].acquired_at + timedelta(minutes=int(rng.integers(25, 300)))
    if rng.random() < 0.3:
        text.add(f"\nFindings discussed with {plan.referrer.spoken} by telephone at {signed:%H:%M}.")
    if context.style is Style.LETTER:
        text.add(f"\nWith kind regards,\n{reader.spoken}")
    else:
        text.add(f"\nElectronically signed by {reader.spoken}, {context.day(signed.date())} {signed:%H:%M}")
