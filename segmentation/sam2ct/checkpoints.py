"""What a weights file of the SAM2 family is, told from the names and shapes of its tensors."""

from __future__ import annotations

import hashlib
import json
import math
import re
from collections.abc import Collection, Mapping
from dataclasses import dataclass
from functools import lru_cache
from pathlib import Path
from typing import TYPE_CHECKING, Literal, cast

from segmentation.sam2ct.catalogue import Published, published_as
from segmentation.sam2ct.config import BACKBONES, SAM2CTConfig, Size
from segmentation.sam2ct.tensorfile import Format, TensorFile, TensorSpec, open_tensors
from segmentation.types import EngineError

if TYPE_CHECKING:
    from segmentation.volumetric.weights import NetworkFile

Family = Literal["sam2", "sam2ct", "unknown"]

POINT = "sam_prompt_encoder.point_embeddings.{}.weight"
SAM2_POINTS = frozenset(range(4))
"""Point embeddings of SAM 2.1: negative, positive, two box corners."""
SAM2CT_POINTS = frozenset(range(7))
"""And those of sam2ct.txt 2.3.3: line end, arrow tail, arrow head."""

UNUSED = POINT.format(7)
"""The one tensor of the published SAM2CT file that no model here has. Its authors' prompt encoder makes eight point
embeddings; the eighth, a "mask point", is looked up for mask prompts and then never added to anything. Dropped."""

CONFIG_KEY = "sam2ct"
"""Key in the header of our safetensors. One key only: the order of several is not repeatable."""
FORMAT_VERSION = 1

_PARTS = (
    "image_encoder.trunk.",
    "image_encoder.neck.",
    "memory_attention.",
    "memory_encoder.",
    "sam_prompt_encoder.",
    "sam_mask_decoder.",
    "obj_ptr_proj.",
)
_NOT_IN_SAM2_0 = {"no_obj_embed_spatial", "obj_ptr_tpos_proj.weight", "obj_ptr_tpos_proj.bias"}
_SHOWN, _LONGEST = 5, 160


@dataclass(frozen=True, slots=True)
class Layout:
    """What names and shapes say.

    Parameters
    ----------
    tensors
        Without the unused one of the published SAM2CT file.
    has_unused
        Whether that was there.
    point_types
        Indices of the prompt embeddings in ``tensors``.
    size, exact
        The size whose dimensions most tensors have, and whether all have them. One bad tensor does not change the size.

    """

    tensors: dict[str, TensorSpec]
    has_unused: bool
    point_types: frozenset[int]
    family: Family
    size: Size
    exact: bool


def layout_of(specs: Mapping[str, TensorSpec]) -> Layout:
    """Tell family and size."""
    has_unused = _point_types(specs) == SAM2CT_POINTS | {7}
    tensors = {name: spec for name, spec in specs.items() if not (has_unused and name == UNUSED)}
    types = _point_types(tensors)
    family: Family = "sam2ct" if types - SAM2_POINTS else "sam2"
    if not all(any(name.startswith(part) for name in tensors) for part in _PARTS):
        family = "unknown"
    size, exact = _closest_size(tensors)
    return Layout(tensors, has_unused, types, family, size, exact)


def _point_types(specs: Mapping[str, TensorSpec]) -> frozenset[int]:
    pattern = re.compile(re.escape(POINT).replace(re.escape("{}"), r"(\d{1,3})"))
    return frozenset(int(found[1]) for name in specs if (found := pattern.fullmatch(name)))


def _closest_size(specs: Mapping[str, TensorSpec]) -> tuple[Size, bool]:
    def dimension(name: str, axis: int) -> int:
        shape = specs[name].shape if name in specs else ()
        return shape[axis] if shape else 0

    def count(pattern: str) -> int:
        return len({found[1] for name in specs if (found := re.match(pattern, name))})

    blocks = count(r"image_encoder\.trunk\.blocks\.(\d+)\.")
    seen = (
        blocks,
        dimension("image_encoder.trunk.patch_embed.proj.weight", 0),
        dimension("no_mem_embed", -1),
        dimension("maskmem_tpos_enc", -1),
        count(r"memory_attention\.layers\.(\d+)\."),
    )
    sizes = {
        size: (sum(b.stages), b.embed_dim, b.hidden_dim, b.memory_dim, b.attention_layers)
        for size, b in BACKBONES.items()
    }

    def likeness(size: str) -> tuple[int, int]:
        return sum(a == b for a, b in zip(sizes[size], seen, strict=True)), -abs(sizes[size][0] - blocks)

    best = max(sizes, key=likeness)
    return cast("Size", best), sizes[best] == seen


@dataclass(frozen=True, slots=True)
class WeightsInfo:
    """What a weights file is, told from its table of contents.

    Parameters
    ----------
    name
        Of the file, without its folder.
    family
        ``"sam2"`` (SAM 2.1, MedSAM2: four prompt embeddings), ``"sam2ct"`` (with line and arrow embeddings) or
        ``"unknown"``.
    size
        Key of `BACKBONES`; None where the tensors fit none.
    parameters
        Numbers in its tensors, without the one unused tensor of the published SAM2CT file.
    prompt_embeddings
        Learned point types a model can use.
    sha256
        Of the file, in hexadecimal.
    config
        The configuration inside the file; None for files of others.
    engines
        Names of the engines that it can be used with.

    """

    name: str
    format: Format
    family: Family
    size: Size | None
    parameters: int
    prompt_embeddings: int
    dtypes: tuple[str, ...]
    n_bytes: int
    sha256: str
    config: SAM2CTConfig | None = None
    engines: tuple[str, ...] = ()
    notes: tuple[str, ...] = ()

    def __str__(self) -> str:
        family = {"sam2": "SAM 2.1 or MedSAM2", "sam2ct": "SAM2CT", "unknown": "not of the SAM2 family"}[self.family]
        lines = [
            f"{self.name}: {family}, size {self.size or 'unknown'}",
            f"  {self.parameters / 1e6:.1f} M parameters, {self.prompt_embeddings} prompt embeddings",
            f"  {self.format}, {'/'.join(self.dtypes)}, {self.n_bytes:,} bytes, sha256 {self.sha256}",
            f"  engines: {', '.join(self.engines) or 'none'}",
            f"  configuration inside: {self.config.to_json() if self.config else 'none'}",
        ]
        return "\n".join(lines + [f"  note: {note}" for note in self.notes])


def describe(path: str | Path) -> WeightsInfo | NetworkFile:
    """Say what a weights file is without building a model or reading its tensors (but for the checksum).

    Printed, either answer says it in words.

    Raises
    ------
    EngineError
        If it cannot be read safely; the message says what it is instead, and what to do.

    """
    from segmentation.volumetric import weights as volumetric

    file = open_tensors(Path(path).expanduser())
    return volumetric.identify(file) or identify(file)


def identify(file: TensorFile) -> WeightsInfo:
    """As `describe`, of a file whose table of contents has been read."""
    layout, config = layout_of(file.tensors), config_inside(file)
    sha256 = sha256_of(file.path)
    published = published_as(file.path.name, sha256)
    return WeightsInfo(
        name=file.path.name,
        format=file.format,
        family=layout.family,
        size=layout.size if layout.exact else None,
        parameters=sum(math.prod(spec.shape) for spec in layout.tensors.values()),
        prompt_embeddings=len(layout.point_types),
        dtypes=tuple(sorted({spec.dtype for spec in layout.tensors.values()})),
        n_bytes=file.path.stat().st_size,
        sha256=sha256,
        config=config,
        engines=engines_for(layout, config, published),
        notes=_notes(file, layout, published, sha256),
    )


def sha256_of(path: str | Path) -> str:
    """SHA-256 of a file in hexadecimal; computed once per process while its size and time of change stay."""
    path = Path(path).expanduser()
    try:
        status = path.stat()
        return _digest(str(path.resolve()), status.st_size, status.st_mtime_ns)
    except OSError as error:
        raise EngineError(f"the weights file {path.name} cannot be read: {error.strerror}") from error


@lru_cache(maxsize=256)
def _digest(path: str, size: int, mtime_ns: int) -> str:  # noqa: ARG001 - they are the key of the cache
    with Path(path).open("rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()


def engines_for(layout: Layout, config: SAM2CTConfig | None, published: Published | None) -> tuple[str, ...]:
    """Names of the engines that a file can be used with, by its tensors, the configuration inside and its origin."""
    if layout.family == "unknown" or not layout.exact:
        return ()
    if layout.family == "sam2ct":
        if config is None:
            return ("sam2ct", "sam2-ft")
        return ("sam2ct",) if config.memory_conditioned else ("sam2-ft",)
    if published is not None and published.engine in {"sam2", "medsam2"}:
        return (published.engine,)
    return ("sam2", "medsam2") if config is not None or layout.size == "tiny" else ("sam2",)


def config_inside(file: TensorFile) -> SAM2CTConfig | None:
    """Configuration in the header of one of our safetensors.

    Raises
    ------
    EngineError
        If it cannot be read, or by a later version only.

    """
    text = file.metadata.get(CONFIG_KEY)
    if text is None:
        return None
    try:
        inside = json.loads(text)
        version = inside["format_version"]
        config = SAM2CTConfig.from_json(json.dumps(inside["config"])) if version == FORMAT_VERSION else None
    except (ValueError, TypeError, KeyError, RecursionError) as error:
        raise EngineError(f"{file.path.name}: the configuration inside cannot be read ({error})") from error
    if config is None:
        raise EngineError(f"{file.path.name} is of format {version!r}; this version reads {FORMAT_VERSION}: update it")
    return config


def _notes(file: TensorFile, layout: Layout, published: Published | None, sha256: str) -> tuple[str, ...]:
    names, family = file.tensors.keys(), layout.family
    notes = {
        f"{UNUSED} is dropped: nothing reads it, not even in its authors' code": layout.has_unused,
        "a checkpoint of a training: only its model is read": file.format == "pytorch training checkpoint",
        "SAM 2 of July 2024, not 2.1: it lacks tensors of 2.1": family == "sam2" and not _NOT_IN_SAM2_0 & names,
        f"its tensors are {some(names)}": family == "unknown",
        "named as in the transformers library: take the .pt file of SAM 2.1 instead": any(
            name.startswith("vision_encoder.") for name in names
        ),
        "SAM 2.1 and MedSAM2 have the same tensors: which of them it is, only its origin tells": (
            family == "sam2" and layout.size == "tiny" and published is None
        ),
    }
    if published is not None and published.sha256 is not None:
        same = published.sha256 == sha256
        renamed = "named as a published file, but of other bytes: fine-tuned, or not that file"
        notes[f"the bytes that its authors publish as {published.file}" if same else renamed] = True
    return tuple(note for note, holds in notes.items() if holds)


def some(names: Collection[str]) -> str:
    """Return the first few, and how many more."""
    shown = ", ".join(name[:_LONGEST] for name in list(names)[:_SHOWN])
    return shown + (f" and {len(names) - _SHOWN} more" if len(names) > _SHOWN else "")
