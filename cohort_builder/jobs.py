"""From lesions to segmentation jobs: which stack of which series, and the prompts on it."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING

from cohort_builder.ct.series import Stack, split_series
from cohort_builder.types import Annotation, AnnotationKind, Lesion, LocatedAnnotation, Skip
from segmentation.geometry import image_to_index
from segmentation.types import Arrow, Bidimensional, Line, Point, Prompt, SegmentationJob, Volume

if TYPE_CHECKING:
    from cohort_builder.pacs.index import Index


@dataclass(frozen=True, slots=True)
class Target:
    """One lesion with those of its strokes that lie on this stack, the one to segment from first."""

    lesion: Lesion
    strokes: tuple[LocatedAnnotation, ...]


@dataclass(frozen=True, slots=True)
class StackPlan:
    """One stack to load once, and every lesion that is segmented on it."""

    stack: Stack
    targets: tuple[Target, ...]

    def jobs(self, volume: Volume) -> list[SegmentationJob]:
        """One job a lesion; ``job_id`` is the lesion's id."""
        position = {uid: i for i, uid in enumerate(volume.sop_instance_uids)}
        return [
            SegmentationJob(
                target.lesion.lesion_id,
                volume,
                tuple(prompt_of(s.annotation, position[s.annotation.sop_instance_uid]) for s in target.strokes),
            )
            for target in self.targets
        ]


def plan_stacks(lesions: Sequence[Lesion], index: Index) -> tuple[list[StackPlan], list[Skip]]:
    """Choose for each lesion the regular stack under its best stroke; lesions without one become a Skip."""
    skips: list[Skip] = []
    broken: set[str] = set()
    stacks: dict[str, list[Stack]] = {}
    targets: dict[str, tuple[Stack, list[Target]]] = {}
    for lesion in lesions:
        chosen = None
        for stroke in lesion.annotations:
            series_uid = stroke.annotation.series_instance_uid
            if series_uid not in stacks:
                stacks[series_uid], lost = split_series(index.instances(series_uid))
                skips += lost
                broken |= {series_uid for skip in lost if skip.failure}
            chosen = chosen or _stack_under(stroke.annotation, stacks[series_uid])
        if chosen is None:
            skips.append(_no_stack(lesion, failure=lesion.annotations[0].annotation.series_instance_uid in broken))
            continue
        held = {instance.sop_instance_uid for instance in chosen.instances}
        strokes = tuple(
            s for s in lesion.annotations if s.annotation.sop_instance_uid in held and s.annotation.kind in _PROMPTS
        )
        key = chosen.instances[0].sop_instance_uid
        targets.setdefault(key, (chosen, []))[1].append(Target(lesion, strokes))
    return [StackPlan(stack, tuple(found)) for stack, found in targets.values()], skips


def prompt_of(annotation: Annotation, slice_index: int) -> Prompt:
    """The prompt that an annotation is, on slice ``slice_index`` of its stack: corner origin to pixel centres."""
    points: list[Point] = [(float(column), float(row)) for column, row in image_to_index(annotation.points)]
    return _PROMPTS[annotation.kind](slice_index, points)


def _line(slice_index: int, points: list[Point]) -> Prompt:
    return Line(slice_index, points[0], points[1])


def _bidimensional(slice_index: int, points: list[Point]) -> Prompt:
    return Bidimensional(slice_index, (points[0], points[1]), (points[2], points[3]))


def _arrow(slice_index: int, points: list[Point]) -> Prompt:
    return Arrow(slice_index, points[0], points[1])


_PROMPTS: dict[AnnotationKind, Callable[[int, list[Point]], Prompt]] = {
    AnnotationKind.LINE: _line,
    AnnotationKind.BIDIMENSIONAL: _bidimensional,
    AnnotationKind.ARROW: _arrow,
}


def _stack_under(annotation: Annotation, stacks: Sequence[Stack]) -> Stack | None:
    if annotation.kind not in _PROMPTS:
        return None
    for stack in stacks:
        if any(instance.sop_instance_uid == annotation.sop_instance_uid for instance in stack.instances):
            return stack
    return None


def _no_stack(lesion: Lesion, *, failure: bool) -> Skip:
    annotation = lesion.annotations[0].annotation
    return Skip(
        "volumes",
        annotation.annotation_id,
        "no_regular_stack",
        "the image under the annotation belongs to no regular stack of slices, so there is no volume to segment in; "
        "the skips of its series say why",
        failure=failure,
        private={
            "series_instance_uid": annotation.series_instance_uid,
            "sop_instance_uid": annotation.sop_instance_uid,
        },
    )
