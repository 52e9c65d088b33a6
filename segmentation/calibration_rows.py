"""What the fit of the tiers learns from: an engine's masks of generated lesions, measured, with their true Dice."""

from __future__ import annotations

import json
from collections.abc import Callable, Iterable, Iterator, Mapping
from contextlib import suppress
from dataclasses import asdict, dataclass, replace
from functools import cache
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from segmentation.believability import raised
from segmentation.checks import evidence, measure
from segmentation.evaluation.cases import DRAWN_KINDS, can_ask, prompt_for
from segmentation.phantoms import PhantomError, body_phantom, random_lesion_specs
from segmentation.phantoms.patch_backgrounds import Backgrounds, generated_backgrounds
from segmentation.phantoms.patches import generated_sample
from segmentation.phantoms.types import Region
from segmentation.prompts import KINDS, drawn_prompt, simulate_prompt
from segmentation.tiers import TierError, family_of
from segmentation.types import Mask, SegmentationError, SegmentationJob, Segmenter, Volume

LESIONS_PER_SCENE = 8
"""A scene is the unit of work, and of what an interrupted run repeats."""

GENERATOR = 2
"""Counts up with every change of the scenes or measures: rows of an older one are not mixed with new ones."""

_STREAM = 7
"""Tells the random numbers of scenes from those of training's generated lesions, which have seed and number alone."""

BoolArray = NDArray[np.bool_]
Lesion = tuple[Volume, BoolArray]

_SLICE_MM, _PIXEL_MM, _NOISE_HU = (1.5, 2.5, 5.0), (0.65, 0.9), (8.0, 25.0)
_COVERED_MM = 180.0


@dataclass(frozen=True, slots=True)
class Row:
    """One mask.

    Parameters
    ----------
    lesion
        Scene and number, "12.3"; the rows of one lesion differ in their prompts.
    drawn
        Whether the prompt was made as radiologists draw, or by SAM2CT section 2.2.
    family
        See `tiers.family_of`.
    values
        Of `checks.measure` and `checks.evidence`, and ``penalties``, the sum over the flags.

    """

    lesion: str
    kind: str
    drawn: bool
    dice: float
    family: str
    values: Mapping[str, float]

    @property
    def scene(self) -> str:
        """The scene of the lesion: what is left out together."""
        return self.lesion.partition(".")[0]

    @property
    def flagged(self) -> bool:
        """Whether a flag of `believability.CHECKS` keeps it out of tier A."""
        return self.values["penalties"] > 0


def collect(
    engine: Segmenter,
    wanted: tuple[int, int],
    seed: int,
    path: Path,
    make: Callable[[int, int], list[Lesion]] | None = None,
) -> Iterator[tuple[int, list[Row]]]:
    """Measure the engine's masks scene by scene.

    Parameters
    ----------
    wanted
        Lesions to fit on, and lesions beside those to check on: at least so many, in whole scenes.
    make
        Lesions of a scene from seed and number, always the same; None: `scene`.
    path
        File of finished scenes: what it holds of an interrupted run of the same engine and seed is taken from there.

    Yields
    ------
    The number of lesions of one scene, and its rows.

    Raises
    ------
    TierError
        If ``path`` belongs to another engine or seed.

    """
    head = {"engine": engine.name, "revision": _revision(engine), "seed": seed, "generator": GENERATOR}
    finished = _finished(path, head)
    done = more = number = 0
    with path.open("a", encoding="utf-8") as file:
        if path.stat().st_size == 0:
            file.write(json.dumps(head) + "\n")
        while done < wanted[0] or more < wanted[1]:
            if number < len(finished):
                count, rows = finished[number]
            else:
                found = (make or scene)(seed, number)
                count, rows = len(found), list(rows_of(engine, found, (seed, number), str(number)))
                file.write(json.dumps([count, [asdict(row) for row in rows]]) + "\n")
                file.flush()
            more += count if done >= wanted[0] else 0
            done += count
            number += 1
            yield count, rows


def scene(seed: int, number: int) -> list[Lesion]:
    """Volumes with the true masks, (slice, row, column), of one generated scene.

    Even scenes are one body (`phantoms.body_phantom`), odd ones patches of their own (`phantoms.patches`).
    """
    rng = np.random.default_rng([seed, number, _STREAM])
    if number % 2:
        patches = [generated_sample(rng, _backgrounds()) for _ in range(LESIONS_PER_SCENE)]
        return [(patch.volume, patch.truth) for patch in patches]
    region: Region = "abdomen" if number % 4 else "chest"
    slice_mm, pixel_mm = float(rng.choice(_SLICE_MM)), round(float(rng.uniform(*_PIXEL_MM)), 2)
    specs = random_lesion_specs(rng, region, LESIONS_PER_SCENE)
    noise_hu = float(rng.uniform(*_NOISE_HU))
    while True:
        with suppress(PhantomError):  # no room for all of them: without the last
            body = body_phantom(
                np.random.default_rng([seed, number, _STREAM, 1]),
                specs,
                region=region,
                n_slices=round(_COVERED_MM / slice_mm),
                spacing_mm=(slice_mm, pixel_mm, pixel_mm),
                noise_hu=noise_hu,
            )
            return [(body.volume, lesion.in_volume(body.volume.voxels.shape)) for lesion in body.lesions]
        specs = specs[:-1]


@cache
def _backgrounds() -> Backgrounds:
    """Half a minute of work, kept for the run."""
    return generated_backgrounds()


def rows_of(engine: Segmenter, lesions: Iterable[Lesion], seed: tuple[int, ...], prefix: str) -> Iterator[Row]:
    """Segment every lesion once from every kind of prompt that can be told to the engine; failures give no row.

    Half of the lines, pairs and arrows are as radiologists draw, half by SAM2CT section 2.2; kinds that the engine does
    not take are converted as a cohort does.
    """
    asked: dict[str, tuple[SegmentationJob, BoolArray, str, str, bool]] = {}
    jobs = []
    for number, (volume, truth) in enumerate(lesions):
        for kind in (kind for kind in KINDS if can_ask(kind, engine.supports)):
            rng = np.random.default_rng([*seed, number, *kind.encode()])
            drawn = bool(rng.integers(2)) and kind in DRAWN_KINDS
            draw = drawn_prompt if drawn else simulate_prompt
            with suppress(SegmentationError):  # an outline of one row of pixels has no axes
                prompt = draw(truth, kind, rng, spacing_mm=volume.spacing_mm)
                told = prompt_for(prompt, engine.supports, volume.spacing_mm)
                if told is not None:
                    job = SegmentationJob(f"{prefix}.{number}.{kind}", volume, (prompt,))
                    asked[job.job_id] = (job, truth, f"{prefix}.{number}", kind, drawn)
                    jobs.append(replace(job, prompts=(told[0],)))
    for answer in engine.segment(jobs):
        if isinstance(answer, Mask):
            job, truth, lesion, kind_asked, drawn = asked[answer.job_id]
            yield row_of(answer, job, truth, lesion, kind_asked, drawn=drawn)


def row_of(mask: Mask, job: SegmentationJob, truth: BoolArray, lesion: str, kind: str, *, drawn: bool) -> Row:
    """Measure one mask and score it against the truth, (slice, row, column) over the job's volume."""
    values = measure(mask, job)
    penalties = round(sum(raised(values, mask.flags).values()), 6)
    values |= evidence(mask, job.volume) | {"penalties": penalties}
    return Row(lesion, kind, drawn, _dice(mask, truth), family_of(mask), values)


def _dice(mask: Mask, truth: BoolArray) -> float:
    """`metrics.dice` without pasting the mask into the whole body first."""
    box = tuple(slice(o, o + n) for o, n in zip(mask.offset, mask.voxels.shape, strict=True))
    common = np.count_nonzero(mask.voxels & truth[box])
    return 2 * common / (np.count_nonzero(mask.voxels) + np.count_nonzero(truth))


def _revision(engine: Segmenter) -> str:
    """Code, weights and options, as far as the engine says."""
    return str(getattr(engine, "revision", "unknown"))


def _finished(path: Path, head: Mapping[str, object]) -> list[tuple[int, list[Row]]]:
    """Scenes of an interrupted run; a line that was cut off is dropped from the file."""
    if not path.is_file():
        return []
    lines = path.read_text(encoding="utf-8").splitlines(keepends=True)
    if lines and not lines[-1].endswith("\n"):
        lines.pop()
        path.write_text("".join(lines), encoding="utf-8")
    try:
        known = [json.loads(line) for line in lines]
        if known and known[0] != head:
            raise TierError(f"{path.name} was measured with another engine, seed or version: remove it")
        return [(count, [Row(**row) for row in rows]) for count, rows in known[1:]]
    except (TypeError, ValueError) as error:
        if isinstance(error, TierError):
            raise
        raise TierError(f"{path.name} holds no measured masks ({type(error).__name__}): remove it") from error
