"""Studies without pixels: the same plans and reports as the generated hospital's, for testing links by the hundred."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from itertools import chain
from math import cos, pi, sin
from typing import TYPE_CHECKING

import numpy as np

from cohort_builder.demo.dictation import Said
from cohort_builder.demo.plan import Drawing, ExamPlan, LesionPlan, PatientPlan, plan_patient
from cohort_builder.demo.reports import write_report
from cohort_builder.demo.sights import Sight, compared
from cohort_builder.types import (
    Annotation,
    AnnotationKind,
    Decision,
    Lesion,
    LocatedAnnotation,
    Point2D,
    Point3D,
    Reading,
    Side,
    Source,
)
from nlp.types import Finding, Report, Span
from segmentation.phantoms import Organ, catalogue
from segmentation.prompts import MASK_TO_LINE

if TYPE_CHECKING:
    from cohort_builder.linking.config import LinkConfig

_SIDED = {
    Organ.LUNG: ("{side} upper lobe", "{side} lower lobe"),
    Organ.KIDNEY: ("upper pole of the {side} kidney", "interpolar region of the {side} kidney"),
    Organ.ADRENAL: ("{side} adrenal gland",),
    Organ.LIVER: tuple(f"segment {i} of the liver" for i in range(4, 9)),
    Organ.SPLEEN: ("spleen",),
    Organ.MEDIASTINUM: ("{side} hilum", "{side} paratracheal region"),
    Organ.MESENTERY: ("{side} upper quadrant mesentery", "{side} lower quadrant mesentery"),
}
_CENTRAL = {
    Organ.MEDIASTINUM: ("subcarinal region", "prevascular space", "aortopulmonary window"),
    Organ.RETROPERITONEUM: ("aortocaval region",),
    Organ.BONE: ("T9 vertebral body", "L2 vertebral body"),
}
_ONE_SIDED = {Organ.LIVER: "RIGHT", Organ.SPLEEN: "LEFT"}
_PIXEL_MM = 0.7
_ARROW_MM = 20.0
_READER_NOISE = 0.03
_MIDLINE_MM = 15.0


@dataclass(frozen=True, slots=True)
class SimulatedStudy:
    """A report and the lesions drawn in the studies it speaks of.

    Parameters
    ----------
    lesions
        Those of a prior study have ``reading`` PRIOR.
    truth
        Lesion id of what is drawn *and* said, to the span of its size in the text (of its sentence where no size is
        said), at its first mention.
    mentions
        Lesion id to every place where it is said; also of lesions that are not in ``truth``.

    """

    report: Report
    lesions: tuple[Lesion, ...]
    truth: Mapping[str, Span]
    mentions: Mapping[str, tuple[Said, ...]]


@dataclass(frozen=True, slots=True)
class LinkScore:
    """Links over many studies.

    Parameters
    ----------
    right, wrong
        LINKED findings whose lesion is, or is not, the one that is said there.
    withheld
        Of the lesions drawn and said with a current size: how many got no right link.
    linkable
        Lesions drawn and said with a current size.

    """

    studies: int
    right: int
    wrong: int
    withheld: int
    linkable: int
    decisions: Mapping[str, int]

    @property
    def precision(self) -> float:
        """Right among all links; 1 where there is none."""
        made = self.right + self.wrong
        return self.right / made if made else 1.0

    @property
    def recall(self) -> float:
        """Share of the linkable lesions that got a right link."""
        return 1 - self.withheld / self.linkable if self.linkable else 1.0


def simulate_studies(n: int, seed: int = 0) -> Iterator[SimulatedStudy]:
    """Make ``n`` studies, the same ones for the same seed."""
    for index in range(n):
        plan = plan_patient(seed, index)
        yield _simulated(plan)


def score_links(n: int = 500, seed: int = 0, extractor: str = "rules", config: LinkConfig | None = None) -> LinkScore:
    """Extract and link ``n`` simulated studies, and count.

    Parameters
    ----------
    extractor
        A name for ``nlp.load_extractor``.

    """
    from cohort_builder.linking.assignment import link
    from nlp import load_extractor

    engine = load_extractor(extractor)
    right = wrong = found = linkable = 0
    decisions = dict.fromkeys((decision.value for decision in Decision), 0)
    for study in simulate_studies(n, seed):
        (findings,) = engine.extract([study.report])
        by_id = {finding.finding_id: finding for finding in findings}
        wanted = {key for key in study.truth if any(said.size for said in study.mentions[key])}
        linkable += len(wanted)
        for answer in link(findings, study.lesions, config):
            decisions[answer.decision.value] += 1
            if answer.decision is not Decision.LINKED or answer.finding_id is None or answer.lesion_id is None:
                continue
            if speaks_of(by_id[answer.finding_id], study.mentions.get(answer.lesion_id, ())):
                right += 1
                found += answer.lesion_id in wanted
            else:
                wrong += 1
    return LinkScore(n, right, wrong, linkable - found, linkable, decisions)


def speaks_of(finding: Finding, mentions: Sequence[Said]) -> bool:
    """Whether a finding is one of these mentions: it holds the size there, or stands in the sentence without one."""
    for said in mentions:
        if said.size is None:
            if not finding.sizes and any(_overlap(m.phrase, said.sentence) for m in finding.mentions):
                return True
        elif any(_overlap(size.span, said.size) for size in finding.sizes):
            return True
    return False


def _overlap(first: Span, second: Span) -> bool:
    return first[0] < second[1] and second[0] < first[1]


def imagine_sights(plan: PatientPlan, exam: ExamPlan) -> dict[str, Sight]:
    """Make up where the lesions of an exam are and how they measure, as if there were a CT."""
    return {key: sight for key, (sight, _) in _imagined(plan, exam).items()}


def _imagined(plan: PatientPlan, exam: ExamPlan) -> dict[str, tuple[Sight, Point3D]]:
    result = {}
    for lesion in exam.lesions:
        # One place and one shape for all studies of the patient.
        rng = plan.rng("imagine", exam.key.rsplit(".", 1)[0] + lesion.number)
        location, centre = _place(rng, lesion)
        ratio, aspect = rng.uniform(*MASK_TO_LINE), rng.uniform(0.55, 0.95)
        drawn = _drawn(plan.rng("reader", exam.key, lesion.key), lesion.spec.diameter_mm / ratio, aspect)
        n = 2 if lesion.drawing is Drawing.BIDIMENSIONAL else 1
        image = round(1 + centre[2] / exam.spacing_mm[0])
        image = int(np.clip(image, 1, exam.n_slices))
        result[lesion.key] = Sight(lesion, location, drawn[:n], exam.series_number, image), centre
    return result


def _drawn(rng: np.random.Generator, long_mm: float, aspect: float) -> tuple[float, float]:
    """Draw the two diameters as one reader does."""
    first, second = long_mm * (1 + rng.normal(0, _READER_NOISE, 2))
    return float(first), float(min(second * aspect, first))


def _place(rng: np.random.Generator, lesion: LesionPlan) -> tuple[str, Point3D]:
    """Name of a place in the lesion's organ, and where its centre lies (LPS mm, x from the middle of the body)."""
    organ, side = lesion.spec.organ, lesion.spec.side
    if organ in _ONE_SIDED:
        side = _ONE_SIDED[organ]
    elif side is None and (organ not in _CENTRAL or catalogue()[organ].paired):
        side = str(rng.choice(["LEFT", "RIGHT"]))
    names = _SIDED.get(organ, ()) if side is not None else ()
    place = str(rng.choice(names or _CENTRAL[organ])).format(side=(side or "").lower())
    x = float(rng.uniform(25, 110)) * (1 if side == "LEFT" else -1) if names else float(rng.uniform(-12, 12))
    return place, (x, float(rng.uniform(-60, 60)), float(rng.uniform(5, 115)))


def _simulated(plan: PatientPlan) -> SimulatedStudy:
    today = {k: v for exam in plan.exams for k, v in _imagined(plan, exam).items()}
    before = _imagined(plan, plan.prior) if plan.prior is not None else {}
    sights, prior_day = compared(plan, {k: v[0] for k, v in today.items()}, {k: v[0] for k, v in before.items()})
    written = write_report(plan, plan.exams, sights, prior_day=prior_day)
    report = Report(
        written.report_id,
        written.text,
        accession_numbers=tuple(exam.accession_number for exam in plan.exams),
        patient_id=plan.person.patient_id,
        study_date=plan.exams[0].day,
    )
    lesions = [
        _lesion(plan, exam, *found[lesion.key], reading)
        for exam, found, reading in chain(
            ((exam, today, Reading.CURRENT) for exam in plan.exams),
            ((exam, before, Reading.PRIOR) for exam in (plan.prior,) if exam is not None),
        )
        for lesion in exam.lesions
        if lesion.drawing.is_usable
    ]
    mentions: dict[str, tuple[Said, ...]] = {}
    for said in written.said:
        mentions[said.key] = (*mentions.get(said.key, ()), said)
    drawn = {lesion.lesion_id for lesion in lesions}
    truth = {key: found[0].size or found[0].sentence for key, found in mentions.items() if key in drawn}
    return SimulatedStudy(report, tuple(lesions), truth, mentions)


_KINDS = {
    Drawing.LINE: AnnotationKind.LINE,
    Drawing.BIDIMENSIONAL: AnnotationKind.BIDIMENSIONAL,
    Drawing.ARROW: AnnotationKind.ARROW,
}


def _lesion(plan: PatientPlan, exam: ExamPlan, sight: Sight, centre: Point3D, reading: Reading) -> Lesion:
    strokes = [_stroke(plan, exam, sight, centre, diameters_mm=sight.diameters_mm, reader=0)]
    if sight.lesion.second_reader:
        factor = 1 + plan.rng("second", sight.lesion.key).normal(0, _READER_NOISE)
        again = tuple(float(value * factor) for value in sight.diameters_mm)
        strokes.append(_stroke(plan, exam, sight, centre, diameters_mm=again, reader=1))
    return Lesion(
        lesion_id=sight.lesion.key,
        annotations=tuple(strokes),
        diameters_mm=strokes[0].diameters_mm,
        centre_lps_mm=centre,
        frame_of_reference_uid=f"2.25.{exam.body_seed}",
        study_instance_uid=f"2.25.{exam.body_seed}{exam.key[-1]}",
        reading=reading,
    )


def _stroke(
    plan: PatientPlan,
    exam: ExamPlan,
    sight: Sight,
    centre: Point3D,
    *,
    diameters_mm: tuple[float, ...],
    reader: int,
) -> LocatedAnnotation:
    rng = plan.rng("stroke", sight.lesion.key, reader)
    kind = _KINDS[sight.lesion.drawing]
    column, row = 256 + centre[0] / _PIXEL_MM, 256 + centre[1] / _PIXEL_MM
    angle = float(rng.uniform(0, pi))
    lengths = (_ARROW_MM,) if kind is AnnotationKind.ARROW else diameters_mm
    points = tuple(
        chain.from_iterable(_ends(column, row, length, angle + i * pi / 2) for i, length in enumerate(lengths))
    )
    uid = f"2.25.{exam.body_seed}{sight.instance_number:03d}"
    annotation = Annotation(
        annotation_id=f"{sight.lesion.key}/{reader}",
        kind=kind,
        points=points,
        sop_instance_uid=uid,
        series_instance_uid=f"2.25.{exam.body_seed}{exam.series_number:02d}",
        study_instance_uid=f"2.25.{exam.body_seed}{exam.key[-1]}",
        source=Source(uid, str(reader), "simulated"),
    )
    side = Side.MIDLINE if abs(centre[0]) < _MIDLINE_MM else Side.LEFT if centre[0] > 0 else Side.RIGHT
    return LocatedAnnotation(
        annotation=annotation,
        diameters_mm=() if kind is AnnotationKind.ARROW else diameters_mm,
        points_lps_mm=tuple(((c - 256) * _PIXEL_MM, (r - 256) * _PIXEL_MM, centre[2]) for c, r in points),
        frame_of_reference_uid=f"2.25.{exam.body_seed}",
        series_number=exam.series_number,
        instance_number=sight.instance_number,
        side=side,
        level=centre[2] / 120,
        slice_thickness_mm=exam.spacing_mm[0],
    )


def _ends(column: float, row: float, length_mm: float, angle: float) -> tuple[Point2D, Point2D]:
    half = length_mm / 2 / _PIXEL_MM
    c, r = half * cos(angle), half * sin(angle)
    return (column - c, row - r), (column + c, row + r)
