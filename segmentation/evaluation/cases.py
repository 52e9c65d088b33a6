"""What is scored: one prompt of one lesion, and the truth."""

from __future__ import annotations

import hashlib
from collections.abc import Collection, Iterator, Sequence
from dataclasses import dataclass, fields
from typing import Literal, Protocol

import numpy as np
from numpy.typing import NDArray

from segmentation.prompts import KINDS, Kind, drawn_prompt, simulate_prompt
from segmentation.regions import axes_of_outline, axes_of_rectangle
from segmentation.types import (
    Arrow,
    Bidimensional,
    Box,
    Line,
    Mask,
    MaskPrompt,
    Points,
    Prompt,
    SegmentationJob,
    Volume,
    mask_from_volume,
)

BoolArray = NDArray[np.bool_]
Drawing = Literal["paper", "as-drawn"]

DRAWN_KINDS: tuple[Kind, ...] = ("line", "bidimensional", "arrow")
"""What radiologists leave in a PACS; the others are prompts of interactive tools."""

PROMPT_TYPES: dict[str, type[Prompt]] = {
    "line": Line, "bidimensional": Bidimensional, "arrow": Arrow, "point": Points, "box": Box, "mask": MaskPrompt,
}  # fmt: skip


class Lesion(Protocol):
    """One lesion with its truth: what `segmentation.training.cache.Sample` is."""

    @property
    def sample_id(self) -> str:
        """Names the lesion."""
        ...

    @property
    def patient_id(self) -> str:
        """Unit of resampling."""
        ...

    @property
    def dataset(self) -> str:
        """Where it comes from."""
        ...

    @property
    def category(self) -> str:
        """What it is, e.g. "kidney"."""
        ...

    @property
    def volume(self) -> Volume:
        """The image."""
        ...

    @property
    def truth(self) -> BoolArray:
        """(slice, row, column) boolean of this lesion alone, on the grid of ``volume``."""
        ...


@dataclass(frozen=True, slots=True, eq=False)
class EvaluationCase:
    """One prompt of one lesion and the truth.

    Parameters
    ----------
    case_id
        The lesion; cases of one lesion (several prompts) share it and count once together.
    truth
        A mask, or a (slice, row, column) boolean array over the whole volume of ``job``; not empty.
    patient_id
        The unit of resampling; empty: every lesion is a patient of its own.
    dataset, category
        For results by group; may be empty.
    kind
        Kind of prompt, see `segmentation.prompts.KINDS`.
    number
        Which prompt of its kind this is on this lesion, from 0.
    digest
        SHA-256 of image, truth and prompt; empty: scores of the case are not kept for another run.

    """

    case_id: str
    job: SegmentationJob
    truth: Mask | BoolArray
    patient_id: str = ""
    dataset: str = ""
    category: str = ""
    kind: str = ""
    number: int = 0
    digest: str = ""

    def true_mask(self) -> Mask:
        """Return the truth, cropped.

        Raises
        ------
        ValueError
            If it is empty or of another shape than the image.

        """
        if isinstance(self.truth, Mask):
            return self.truth
        shape = self.job.volume.voxels.shape
        if self.truth.shape != shape:
            raise ValueError(f"a truth of shape {self.truth.shape} does not lie on an image of shape {shape}")
        if not self.truth.any():
            raise ValueError("a truth is empty: there is nothing to score against")
        return mask_from_volume(self.case_id, self.truth, "truth")


def prompted_cases(
    lesion: Lesion, kinds: Sequence[Kind], prompts_per_lesion: int, *, drawing: Drawing = "paper", seed: int = 0
) -> Iterator[EvaluationCase]:
    """Prompt one lesion: ``prompts_per_lesion`` cases of each kind, the same ones for the same ``seed`` on any machine.

    Parameters
    ----------
    drawing
        "paper": the evaluation rules of SAM2CT section 2.2; "as-drawn": lines, pairs and arrows with the noise of
        real annotators (`segmentation.prompts.drawn_prompt`).

    Raises
    ------
    SegmentationError
        If the truth is empty.

    """
    content = _content_digest(lesion.volume, lesion.truth)
    truth = mask_from_volume(lesion.sample_id, lesion.truth, "truth")  # cropped once, not for every answer
    name = int.from_bytes(content[:4])  # not of its id, which holds what the user called the source
    draw = drawn_prompt if drawing == "as-drawn" else simulate_prompt
    for kind in kinds:
        for number in range(prompts_per_lesion):
            rng = np.random.default_rng([seed, name, KINDS.index(kind), number])
            prompt = draw(lesion.truth, kind, rng, spacing_mm=lesion.volume.spacing_mm)
            yield EvaluationCase(
                lesion.sample_id,
                SegmentationJob(f"{lesion.sample_id}/{kind}/{number}", lesion.volume, (prompt,)),
                truth,
                lesion.patient_id,
                lesion.dataset,
                lesion.category,
                kind,
                number,
                hashlib.sha256(content + _prompt_bytes(prompt)).hexdigest(),
            )


def can_ask(kind: str, supports: Collection[type[Prompt]]) -> bool:
    """Whether an engine that ``supports`` these can be told of a prompt of this kind, see `prompt_for`."""
    return any(wanted in supports for wanted in (PROMPT_TYPES[kind], *_INSTEAD.get(PROMPT_TYPES[kind], ())))


def prompt_for(
    prompt: Prompt, supports: Collection[type[Prompt]], spacing_mm: Sequence[float]
) -> tuple[Prompt, str] | None:
    """Tell an engine of a prompt as a cohort does: a box or an outline as two diameters where it takes no other.

    Returns
    -------
    The prompt and how it came about where it is another than given ("box as bidimensional"), else ""; None where the
    engine takes nothing that is honest of it.

    """
    if type(prompt) in supports:
        return prompt, ""
    for instead in _INSTEAD.get(type(prompt), ()):
        if instead in supports:
            return _converted(prompt, instead, spacing_mm), f"{_name(type(prompt))} as {_name(instead)}"
    return None


_INSTEAD: dict[type[Prompt], tuple[type[Prompt], ...]] = {
    Bidimensional: (Line,),
    Box: (Bidimensional, Line),
    MaskPrompt: (Box, Bidimensional, Line),
}


def _converted(prompt: Prompt, instead: type[Prompt], spacing_mm: Sequence[float]) -> Prompt:
    index, plane = prompt.slice_index, spacing_mm[-2:]
    if isinstance(prompt, MaskPrompt):
        pixels = np.argwhere(prompt.mask)[:, ::-1]
        if instead is Box:
            (left, top), (right, bottom) = pixels.min(axis=0).tolist(), pixels.max(axis=0).tolist()
            return Box(index, (float(left), float(top)), (float(right), float(bottom)))
        pair = axes_of_outline(pixels, index, plane)
    elif isinstance(prompt, Box):
        (x0, y0), (x1, y1) = prompt.lower, prompt.upper
        pair = axes_of_rectangle([(x0, y0), (x1, y0), (x1, y1), (x0, y1)], index, plane)
    elif isinstance(prompt, Bidimensional):
        pair = prompt
    else:
        raise ValueError(f"a prompt of type {type(prompt).__name__} cannot be told otherwise")  # noqa: TRY004 - not the type, what it stands for
    return Line(index, *pair.long_axis) if instead is Line else pair


def _name(prompt: type[Prompt]) -> str:
    return next(name for name, kind in PROMPT_TYPES.items() if kind is prompt)


def _content_digest(volume: Volume, truth: BoolArray) -> bytes:
    digest = hashlib.sha256()
    digest.update(repr((volume.voxels.shape, volume.affine.tolist())).encode())
    digest.update(np.ascontiguousarray(volume.voxels).data)
    digest.update(np.packbits(truth).data)
    return digest.digest()


def _prompt_bytes(prompt: Prompt) -> bytes:
    if isinstance(prompt, MaskPrompt):
        return f"MaskPrompt {prompt.slice_index}".encode() + np.packbits(prompt.mask).tobytes()
    return repr([type(prompt).__name__, *(getattr(prompt, f.name) for f in fields(prompt))]).encode()
