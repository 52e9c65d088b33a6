"""Generated reports and drawings whose links are known: what the linker is tested, tuned and measured on.

One world is one report: 1 to 15 lesions of log-normal size (median 12 mm, log sd 0.65, 3 to 150 mm), one in ten a copy
of another's size; 80 % drawn and, independently, 80 % said; 35 % drawn and 45 % said with two axes (short over long is
normal, 0.75 and 0.12). A report writes mm (45 %), cm with one decimal (45 %), or keeps to half centimetres (10 %).
15 % of what is said also quotes an earlier size (a factor of sd 25 %); 30 % of these are taken for a finding of today.
References are wrong in 2 %, sides in 2 %, organs in 5 %.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass

import numpy as np

from cohort_builder.linking.assignment import link
from cohort_builder.linking.evidence import pair_features
from cohort_builder.types import (
    Annotation,
    AnnotationKind,
    Lesion,
    LocatedAnnotation,
    Reading,
    Side,
    Source,
)
from nlp.types import Assertion, Axis, Finding, ImageReference, Laterality, Mention, Size

SERIES, IMAGES = 3, 300
HABITS = ("mm", "cm", "half cm")
HABIT_SHARES = (0.45, 0.45, 0.1)
ORGANS = {"lung": 0.45, "kidney": 0.25, "pelvis": 0.15, "thyroid": 0.15}  # as said; each may lie on either side
LOCATED = {"lung": "lung_lower_lobe_left", "kidney": "kidney_left", "pelvis": "hip_left", "thyroid": "thyroid_gland"}


@dataclass(frozen=True, slots=True)
class Row:
    """How a row of the table writes: ``noise_mm`` around what was drawn, and the shares of findings that say more."""

    name: str
    noise_mm: float
    sides: float = 0.0
    organs: float = 0.0
    references: float = 0.0


ROWS = (
    Row("size, noise 0", 0.0),
    Row("size, noise 0.3", 0.3),
    Row("size, noise 0.7", 0.7),
    Row("size, noise 1.5", 1.5),
    Row("size, noise 3.0", 3.0),
    Row("0.3, side 60 %", 0.3, sides=0.6),
    Row("0.3, organ 80 %", 0.3, organs=0.8),
    Row("0.3, organ 80 %, side", 0.3, sides=1.0, organs=0.8),
    Row("0.3, image 50 %", 0.3, references=0.5),
    Row("0.3, image 90 %", 0.3, references=0.9),
    Row("0.3, image 50 %, side, organ", 0.3, sides=1.0, organs=0.8, references=0.5),
    Row("0.7, image 50 %, side, organ", 0.7, sides=1.0, organs=0.8, references=0.5),
)


@dataclass(frozen=True, slots=True)
class World:
    """A report and its drawings: ``truth`` maps the findings whose lesion was drawn to that lesion."""

    findings: tuple[Finding, ...]
    lesions: tuple[Lesion, ...]
    truth: dict[str, str]


def worlds(row: Row, n: int, seed: int, most: int = 15) -> Iterator[World]:
    """Make ``n`` reports, the same ones for the same row and seed."""
    for index in range(n):
        yield simulate(np.random.default_rng((seed, index)), row, most)


@dataclass(frozen=True, slots=True)
class _Thing:
    """A true lesion: lengths in mm (long, short), its image, side and organ."""

    lengths_mm: tuple[float, float]
    image: int
    side: Side
    organ: str


def simulate(rng: np.random.Generator, row: Row, most: int = 15) -> World:
    """One report and what was drawn for it."""
    habit = str(rng.choice(HABITS, p=HABIT_SHARES))
    findings: list[Finding] = []
    lesions: list[Lesion] = []
    truth = {}
    for i, thing in enumerate(_things(rng, int(rng.integers(1, most + 1)))):
        is_said, is_drawn = rng.random(2) < 0.8
        if is_drawn:
            lesions.append(_draw(rng, f"L{i}", thing))
        if not is_said:
            continue
        said = _say(rng, f"F{i}", thing, row, habit)
        findings.append(said)
        if is_drawn:
            truth[said.finding_id] = f"L{i}"
        if rng.random() < 0.15 * 0.3:
            factor = np.exp(rng.normal(0, 0.25))
            axes = [length * factor for length in thing.lengths_mm[: len(said.sizes[0].values_mm)]]
            findings.append(finding(f"P{i}", write(axes, habit), laterality=said.laterality, anatomy=said.anatomy))
    order = rng.permutation(len(findings))
    return World(tuple(findings[k] for k in order), tuple(lesions), truth)


def _things(rng: np.random.Generator, n: int) -> Iterator[_Thing]:
    longs = np.clip(rng.lognormal(np.log(12), 0.65, n), 3, 150)
    for i in range(n):
        if i and rng.random() < 0.1:
            longs[i] = longs[rng.integers(i)]
        short = longs[i] * float(np.clip(rng.normal(0.75, 0.12), 0.4, 1))
        side = Side.LEFT if rng.random() < 0.5 else Side.RIGHT
        organ = str(rng.choice(list(ORGANS), p=list(ORGANS.values())))
        yield _Thing((float(longs[i]), short), int(rng.integers(1, IMAGES + 1)), side, organ)


def _draw(rng: np.random.Generator, name: str, thing: _Thing) -> Lesion:
    lengths = thing.lengths_mm if rng.random() < 0.35 else thing.lengths_mm[:1]
    organ = thing.organ if rng.random() > 0.05 else str(rng.choice([o for o in ORGANS if o != thing.organ]))
    return lesion(name, stroke(name, *lengths, image=thing.image, side=thing.side, organ=LOCATED[organ]))


def _say(rng: np.random.Generator, name: str, thing: _Thing, row: Row, habit: str) -> Finding:
    axes = thing.lengths_mm if rng.random() < 0.45 else thing.lengths_mm[:1]
    size = write([axis + rng.normal(0, row.noise_mm) for axis in axes], habit)
    image = thing.image if rng.random() > 0.02 else int(rng.integers(1, IMAGES + 1))
    other = {Side.LEFT: Laterality.RIGHT, Side.RIGHT: Laterality.LEFT}[thing.side]
    side = Laterality(thing.side.value) if rng.random() > 0.02 else other
    says = rng.random(3) < (row.references, row.sides, row.organs)
    return finding(
        name,
        size,
        laterality=side if says[1] else None,
        images=((SERIES, image, image),) if says[0] else (),
        anatomy=thing.organ if says[2] else None,
    )


def write(lengths_mm: list[float], habit: str) -> Size:
    """How a report of this habit writes lengths; "2 cm" is rounded to 5 mm for all that its reader can tell."""
    if habit == "half cm":
        values = [max(5.0, 5 * float(np.round(length / 5))) for length in lengths_mm]
        roundings = [0.5 if value % 10 else 5.0 for value in values]
    else:
        values = [max(1.0, float(np.round(length))) for length in lengths_mm]
        roundings = [0.5] * len(values)
    pairs = sorted(zip(values, roundings, strict=True), key=lambda pair: -pair[0])
    return Size(tuple(v for v, _ in pairs), tuple(r for _, r in pairs), (None,) * len(pairs), (0, 1))


def judged(row: Row, n: int, seed: int) -> list[dict[str, object]]:
    """What a reviewer who knows the truth says of the likeliest pair of each finding."""
    rows = []
    for number, world in enumerate(worlds(row, n, seed)):
        lesions = {one.lesion_id: one for one in world.lesions}
        findings = {one.finding_id: one for one in world.findings}
        for answer in link(world.findings, world.lesions):
            best = answer.lesion_id or (answer.rivals[0][0] if answer.rivals else None)
            if answer.finding_id is None or best is None:
                continue
            features = pair_features(findings[answer.finding_id], lesions[best])
            right = world.truth.get(answer.finding_id) == best
            rows.append({"verdict": right, "features": features, "probability": answer.probability, "reading": number})
    return rows


# ---- the parts, also for tests


def stroke(
    name: str,
    *lengths: float,
    image: int | None = 1,
    series: int | None = SERIES,
    stated: tuple[float, ...] = (),
    points: tuple[tuple[float, float], ...] | None = None,
    label: str = "",
    drawn_at: object = None,
    **located: object,
) -> LocatedAnnotation:
    """A line, a pair of axes (two ``lengths``) or an arrow (none)."""
    long, short = (*lengths, 0.0, 0.0)[:2]
    kinds = {0: AnnotationKind.ARROW, 1: AnnotationKind.LINE, 2: AnnotationKind.BIDIMENSIONAL}
    axes = ((0.0, 0.0), (long or 9.0, 0.0)), ((long / 2, -short / 2), (long / 2, short / 2))
    points = points or (axes[0] if len(lengths) < 2 else axes[0] + axes[1])
    annotation = Annotation(
        name,
        kinds[len(lengths)],
        points,
        f"1.2.{image}",
        f"1.2.3.{series}",
        "1.2",
        Source("1.9", name, "test"),
        stated_mm=stated,
        label=label,
        drawn_at=drawn_at,  # type: ignore[arg-type]
    )
    in_patient = tuple((x, y, 0.0) for x, y in points)
    return LocatedAnnotation(annotation, tuple(lengths), in_patient, "1.1", series, image, **located)  # type: ignore[arg-type]


def lesion(name: str, *strokes: LocatedAnnotation, reading: Reading = Reading.CURRENT) -> Lesion:
    return Lesion(name, strokes, strokes[0].diameters_mm, (0.0, 0.0, 0.0), "1.1", "1.2", reading)


def line(name: str, *lengths: float, **facts: object) -> Lesion:
    return lesion(name, stroke(name, *lengths, **facts))  # type: ignore[arg-type]


def size(*values: float, rounding: float = 0.5, axis: Axis | None = None, **facts: object) -> Size:
    return Size(values, (rounding,) * len(values), (axis,) * len(values), (0, 1), **facts)  # type: ignore[arg-type]


def finding(
    name: str,
    *sizes: Size,
    images: tuple[tuple[int | None, int, int], ...] = (),
    assertion: Assertion = Assertion.PRESENT,
    observation: str = "nodule",
    **facts: object,
) -> Finding:
    references = tuple(ImageReference(series, first, last, (0, 1)) for series, first, last in images)
    mention = Mention("findings", (0, 1), (0, 1))
    return Finding(
        name,
        "r",
        observation,
        assertion,
        (mention,),
        "test",
        sizes=sizes,
        image_references=references,
        **facts,  # type: ignore[arg-type]
    )
