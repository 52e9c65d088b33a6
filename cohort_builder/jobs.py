"""From lesions to segmentation jobs: which stack of which series, and the prompts on it."""

from __future__ import annotations

from collections.abc import Collection, Sequence
from contextlib import suppress
from dataclasses import dataclass, field, replace
from typing import TYPE_CHECKING

from cohort_builder.ct.series import Stack, split_series
from cohort_builder.prompting import EVERY_PROMPT, Drawn, can_prompt, names_of, prompt_for
from cohort_builder.targets.agreement import Agreement, agreement
from cohort_builder.targets.candidates import best_first, is_projection, thickness_mm
from cohort_builder.targets.carrying import NotCarriedError, Placed, carry, image_under, place_here, slice_key
from cohort_builder.types import Lesion, LocatedAnnotation, Skip
from segmentation.types import GeometryError, Mask, Prompt, SegmentationJob, Volume

if TYPE_CHECKING:
    from cohort_builder.config import TargetSeries
    from cohort_builder.pacs.headers import Instance
    from cohort_builder.pacs.index import Index

CARRIED = "carried_to_thinnest"
"""Flag of a mask on another series than the one that was drawn on."""

LEAST_CONFIDENCE = 0.5
"""A stroke that the reader of its encoding doubts more than this is never segmented from."""


@dataclass(frozen=True, slots=True)
class Origin:
    """Where the strokes of a carried lesion were drawn, and how alike the two series are there.

    ``stack`` is None where the drawn image belongs to no regular stack; ``slice_mm`` is the distance to its neighbour.
    """

    image: Instance
    stack: Stack | None
    slice_mm: float
    agreement: Agreement


@dataclass(frozen=True, slots=True)
class Target:
    """One lesion on the stack that it is segmented on.

    Parameters
    ----------
    placed
        Its strokes there, the one to segment from first.
    origin
        Where they come from, if they were drawn on another series.
    stayed
        Why it was not carried to a thinner series where that was asked for (docs/targets.md), else "".

    """

    lesion: Lesion
    placed: tuple[Placed, ...]
    origin: Origin | None = None
    stayed: str = ""

    @property
    def strokes(self) -> tuple[LocatedAnnotation, ...]:
        """What was drawn, in the order of ``placed``."""
        return tuple(placed.stroke for placed in self.placed)


@dataclass(frozen=True, slots=True, eq=False)
class PromptedJob:
    """One lesion as the engine gets it (``given``) and as it was drawn (``drawn``), which masks are held against."""

    given: SegmentationJob
    drawn: SegmentationJob
    described: str = ""
    flags: tuple[str, ...] = ()

    def signed(self, mask: Mask) -> Mask:
        """The engine's mask with what was done to the annotation before it came to the engine."""
        described = self.described
        if described and " as " in mask.prompt:  # the engine converted once more
            described = f"{described.partition(' as ')[0]} as {mask.prompt.partition(' as ')[2]}"
        return replace(mask, prompt=described or mask.prompt, flags=(*mask.flags, *self.flags))


@dataclass(frozen=True, slots=True)
class StackPlan:
    """One stack to load once, and every lesion that is segmented on it."""

    stack: Stack
    targets: tuple[Target, ...]

    def jobs(self, volume: Volume, supports: Collection[type[Prompt]] = EVERY_PROMPT) -> list[PromptedJob]:
        """One job a lesion for an engine that ``supports`` these prompts; ``job_id`` is the lesion's id."""
        return [_job(target, volume, supports) for target in self.targets]


def plan_stacks(
    lesions: Sequence[Lesion],
    index: Index,
    *,
    target_series: TargetSeries = "same",
    supports: Collection[type[Prompt]] = EVERY_PROMPT,
) -> tuple[list[StackPlan], list[Skip]]:
    """Choose for each lesion the regular stack to segment it on, and the stroke to segment it from.

    Parameters
    ----------
    target_series
        "same": the stack that the stroke was drawn on, a reformat included. "thinnest": the thinnest axial stack of the
        same acquisition, where the headers and the pixels agree that it is one (docs/targets.md); else as "same".
    supports
        Prompts that the engine takes.

    Returns
    -------
    Plans, and a Skip for each lesion without one, besides those of the series: ``no_regular_stack``,
    ``projection_image``, ``low_confidence``, ``unsupported_prompt``, ``plane_not_axial``, ``target_series_disagrees``.

    """
    planner = _Planner(index, target_series, frozenset(supports))
    targets: dict[tuple[str, int], tuple[Stack, list[Target]]] = {}
    for lesion in lesions:
        stack, target = planner.target(lesion)
        if stack is not None and target is not None:
            targets.setdefault(_key(stack), (stack, []))[1].append(target)
    return [StackPlan(stack, tuple(found)) for stack, found in targets.values()], planner.skips


@dataclass(slots=True)
class _Planner:
    """What is known of the series of one patient while its lesions are placed."""

    index: Index
    target_series: TargetSeries
    supports: frozenset[type[Prompt]]
    skips: list[Skip] = field(default_factory=list)
    _stacks: dict[str, tuple[list[Stack], list[Skip]]] = field(default_factory=dict)
    _drawn: set[str] = field(default_factory=set)

    def target(self, lesion: Lesion) -> tuple[Stack, Target] | tuple[None, None]:
        """Stack and target of one lesion; without one, its Skip is noted."""
        refused: list[tuple[str, str]] = []
        homes = [self._home(stroke) for stroke in lesion.annotations]
        for stroke, home in zip(lesion.annotations, homes, strict=True):
            refusal = self._refusal(stroke)
            if refusal is not None:
                refused.append(refusal)
                continue
            stayed = ""
            if self.target_series == "thinnest":
                try:
                    return self._carried(lesion, stroke, home)
                except NotCarriedError as error:
                    stayed = error.reason
            if home is not None and (first := place_here(stroke, home)) is not None:
                return home, Target(lesion, _with_others(first, lesion, home, None), stayed=stayed)
            refused.append(_homeless(stayed))
        self.skips.append(self._skip(lesion, *refused[0]))
        return None, None

    def _home(self, stroke: LocatedAnnotation) -> Stack | None:
        """The stack that a stroke was drawn on; what of its series belongs to none is noted once."""
        series = stroke.annotation.series_instance_uid
        stacks, lost = self._split(series)
        if series not in self._drawn:
            self._drawn.add(series)
            self.skips += lost
        return next((stack for stack in stacks if place_here(stroke, stack) is not None), None)

    def _split(self, series: str) -> tuple[list[Stack], list[Skip]]:
        if series not in self._stacks:
            self._stacks[series] = split_series(self.index.instances(series))
        return self._stacks[series]

    def _refusal(self, stroke: LocatedAnnotation) -> tuple[str, str] | None:
        """Reason and detail for not segmenting from this stroke, whatever stack it lies on."""
        annotation = stroke.annotation
        if annotation.source.confidence < LEAST_CONFIDENCE:
            return "low_confidence", (
                f"how it is encoded leaves doubt about what was drawn (confidence {annotation.source.confidence:.2f}, "
                f"at least {LEAST_CONFIDENCE:g} is needed): it is not segmented from"
            )
        image = image_under(annotation, self.index)
        if image is not None and is_projection(image):
            return "projection_image", (
                "it is drawn on a projection, a rendering or a thick average, whose voxels are no slice of anatomy"
            )
        if not can_prompt(annotation.kind, self.supports):
            return "unsupported_prompt", (
                f"the engine takes {names_of(self.supports)}, which is nothing that a {annotation.kind.value} can be; "
                "choose another, or write 'intensity+' before its name"
            )
        return None

    def _carried(self, lesion: Lesion, stroke: LocatedAnnotation, home: Stack | None) -> tuple[Stack, Target]:
        """The lesion on the best of the thinner stacks.

        Raises
        ------
        NotCarriedError
            There is none; the reason is that of the first that came as far as any.

        """
        image = image_under(stroke.annotation, self.index)
        if image is None:
            raise NotCarriedError("no_thinner_series")
        others = [
            stack
            for series in self.index.series_of(stroke.annotation.study_instance_uid)
            for stack in self._split(series)[0]
            if home is None or _key(stack) != _key(home)
        ]
        drawn_mm = image.slice_thickness_mm or stroke.slice_thickness_mm
        drawn_mm = max(drawn_mm, 0.0 if home is None else thickness_mm(home))
        stacks, reason = best_first(image, drawn_mm, stroke.slice_normal_lps, others)
        for stack in stacks:
            try:
                first, found = self._on(stack, stroke, image, as_click=home is None)
            except NotCarriedError as error:
                reason = reason or error.reason
                continue
            origin = Origin(image, home, stroke.slice_thickness_mm, found)
            return stack, Target(lesion, _with_others(first, lesion, stack, origin), origin)
        raise NotCarriedError(reason)

    def _on(
        self, stack: Stack, stroke: LocatedAnnotation, image: Instance, *, as_click: bool
    ) -> tuple[Placed, Agreement]:
        placed = carry(stroke, stack, as_click=as_click)
        if not can_prompt(placed.kind, self.supports):
            raise NotCarriedError("plane_not_axial")
        try:
            found = agreement(stroke, image, stack)
        except GeometryError as error:  # the pixels become a Skip where their volume is needed
            raise NotCarriedError("not_readable") from error
        if not found.holds:
            raise NotCarriedError("target_series_disagrees")
        return placed, found

    def _skip(self, lesion: Lesion, reason: str, detail: str) -> Skip:
        annotation = lesion.annotations[0].annotation
        lost = self._split(annotation.series_instance_uid)[1]
        return Skip(
            "segmentation" if reason in {"low_confidence", "unsupported_prompt"} else "volumes",
            lesion.lesion_id,
            reason,
            detail,
            failure=reason == "no_regular_stack" and any(skip.failure for skip in lost),
            private={
                "source": annotation.annotation_id,
                "series_instance_uid": annotation.series_instance_uid,
                "sop_instance_uid": annotation.sop_instance_uid,
            },
        )


def _with_others(first: Placed, lesion: Lesion, stack: Stack, origin: Origin | None) -> tuple[Placed, ...]:
    """``first``, then what else was drawn on the stack, and on the one that it was carried from."""
    found = [first]
    for stroke in lesion.annotations:
        if stroke is first.stroke:
            continue
        placed = place_here(stroke, stack)
        if placed is None and origin is not None and _is_from(stroke, origin):
            with suppress(NotCarriedError):
                placed = carry(stroke, stack)
        if placed is not None:
            found.append(placed)
    return tuple(found)


def _is_from(stroke: LocatedAnnotation, origin: Origin) -> bool:
    if origin.stack is None:
        return slice_key(stroke.annotation) == slice_key(origin.image)
    return place_here(stroke, origin.stack) is not None


def _job(target: Target, volume: Volume, supports: Collection[type[Prompt]]) -> PromptedJob:
    """Prompts of the first stroke, and of the others that are not in doubt."""
    told = [
        _drawn(placed, volume)
        for i, placed in enumerate(target.placed)
        if i == 0 or placed.stroke.annotation.source.confidence >= LEAST_CONFIDENCE
    ]
    given, described = prompt_for(told[0], supports)
    others = [prompt_for(other, supports)[0] for other in told[1:] if can_prompt(other.kind, supports)]
    lesion_id = target.lesion.lesion_id
    return PromptedJob(
        given=SegmentationJob(lesion_id, volume, (given, *others)),
        drawn=SegmentationJob(lesion_id, volume, tuple(prompt_for(each)[0] for each in told)),
        described=described,
        flags=() if target.origin is None else (CARRIED,),
    )


def _drawn(placed: Placed, volume: Volume) -> Drawn:
    _, rows, columns = volume.voxels.shape
    _, row_mm, column_mm = volume.spacing_mm
    was = placed.stroke.annotation.kind
    return Drawn(placed.kind, placed.slice_index, placed.points, (rows, columns), (row_mm, column_mm), was)


_NOT_CARRIED = {
    "plane_not_axial": "no axis of it lies in an axial slice, and the engine does not take a click at its centre",
    "target_series_disagrees": "the axial series shows something else there: another phase, or the patient moved",
}


def _homeless(stayed: str) -> tuple[str, str]:
    """Reason and detail where the image under the annotation is no slice of a volume, and it was not carried."""
    nowhere = "the image under the annotation belongs to no regular stack of slices"
    if stayed in _NOT_CARRIED:
        return stayed, f"{nowhere}, and {_NOT_CARRIED[stayed]}"
    return "no_regular_stack", f"{nowhere}, so there is no volume to segment in; the skips of its series say why"


def _key(stack: Stack) -> tuple[str, int]:
    """What tells one stack from every other; slices are in one stack only."""
    first = stack.instances[0]
    return first.sop_instance_uid, first.frame_number or 1
