"""Weights of the SAM2 family: find them, load them strictly, save ours.

Read are the ``.pt`` files that SAM 2.1, MedSAM2 and SAM2CT publish, checkpoints of a training, and our own safetensors
with the `SAM2CTConfig` inside. A file fits a model tensor by tensor, or it is refused by the names that do not fit.
"""

from __future__ import annotations

import json
import os
from collections.abc import Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Any

import torch
from safetensors.torch import save as to_safetensors
from torch import Tensor

from segmentation.files import write_bytes
from segmentation.sam2ct.catalogue import ENGINE_WITHOUT_WEIGHTS, ENGINES_WITH_WEIGHTS, PUBLISHED, published_as
from segmentation.sam2ct.checkpoints import (
    CONFIG_KEY,
    FORMAT_VERSION,
    POINT,
    SAM2_POINTS,
    SAM2CT_POINTS,
    Layout,
    WeightsInfo,
    config_inside,
    describe,
    engines_for,
    identify,
    layout_of,
    sha256_of,
    some,
)
from segmentation.sam2ct.config import SAM2, SAM2CT, SAM2CTConfig
from segmentation.sam2ct.tensorfile import TensorFile, TensorSpec, open_tensors
from segmentation.types import EngineError

if TYPE_CHECKING:
    from segmentation.sam2ct.model import SAM2CTModel

__all__ = [
    "WeightsInfo",
    "describe",
    "find_weights",
    "load_weights",
    "save_weights",
    "sha256_of",
    "warm_start",
]

VARIABLE = "COHORT_WEIGHTS"
_FLOATS = frozenset({"float16", "bfloat16", "float32", "float64"})


def load_weights(
    path: str | Path, config: SAM2CTConfig | None = None, **changes: Any
) -> tuple[SAM2CTModel, WeightsInfo]:
    """Build the model of a weights file and fill it, in float32 on the CPU, in eval mode.

    Parameters
    ----------
    config
        Of the engine. Its ``size`` gives way to that of the tensors, and all of it but the number of prompt embeddings
        to a configuration inside the file. None: the preset of the file's family.
    changes
        Fields that win over either.

    Raises
    ------
    EngineError
        If the file is unreadable, of another model, or if any tensor is missing, too many, misshapen, no floating
        point, or not finite: by name.

    """
    file = open_tensors(Path(path).expanduser())
    info = identify(file)
    wanted = config or (SAM2CT if info.family == "sam2ct" else SAM2)
    layout = layout_of(file.tensors)
    _check_family(layout, info.name, wanted)
    chosen = (info.config or wanted.with_changes(size=layout.size)).with_changes(**changes)
    return _fill(file, layout, chosen, {}), info


def warm_start(path: str | Path, config: SAM2CTConfig) -> tuple[SAM2CTModel, WeightsInfo]:
    """Start the training of a model with line and arrow prompts from weights without (SAM 2.1, MedSAM2).

    A line end starts as the mean of the two box corners, an arrow's tail as a negative and its head as a positive
    point. Nothing but training makes them mean anything. ``config`` holds as it is but for ``size``, which the tensors
    give.

    Raises
    ------
    EngineError
        As `load_weights` does, and if the file has line and arrow embeddings already.

    """
    file = open_tensors(Path(path).expanduser())
    info = identify(file)
    layout = layout_of(file.tensors)
    _check_family(layout, info.name, config.with_changes(prompt_embeddings=4))
    negative, positive, first, last = (POINT.format(i) for i in range(4))
    recipe = {
        POINT.format(4): (first, last),
        POINT.format(5): (negative,),
        POINT.format(6): (positive,),
    }
    chosen = config.with_changes(size=layout.size, prompt_embeddings=7)
    return _fill(file, layout, chosen, recipe), info


def save_weights(model: SAM2CTModel, path: str | Path) -> Path:
    """Write a model as safetensors with its configuration inside; the same model gives the same bytes.

    The file appears whole or not at all.

    Raises
    ------
    EngineError
        If a tensor is not finite.
    OSError
        If the file cannot be written.

    """
    path = Path(path).expanduser()
    state = {name: tensor.detach().cpu().contiguous() for name, tensor in model.state_dict().items()}
    _check_finite(state, path.name)
    inside = {"config": json.loads(model.config.to_json()), "format_version": FORMAT_VERSION}
    data = to_safetensors(state, metadata={CONFIG_KEY: json.dumps(inside, sort_keys=True)})
    return write_bytes(path, data)


def find_weights(engine: str, weights: str | Path | None = None) -> Path:
    """Find the weights file of an engine.

    Parameters
    ----------
    weights
        A file, or a folder to search. None: the files and folders in ``COHORT_WEIGHTS``, separated as in ``PATH``; the
        first of them that has a file for this engine wins. Within a folder the published names win, in the order of
        `PUBLISHED`, over files told by their contents.

    Raises
    ------
    EngineError
        If there is none, or several that none of the names decides between; the message says what to do.
    ValueError
        If the engine has no weights.

    """
    if engine not in ENGINES_WITH_WEIGHTS:
        raise ValueError(f"the engine {engine!r} takes no weights; those that do: {', '.join(ENGINES_WITH_WEIGHTS)}")
    if weights is not None:
        place = Path(weights).expanduser()
        found = _in_folder(engine, place) if _is_folder(place) else _named_file(engine, place)
        if found is None:
            raise EngineError(_how_to_get(engine, f"the folder {place.name!r} has none that can be told"))
        return found
    searched = [Path(entry).expanduser() for entry in os.environ.get(VARIABLE, "").split(os.pathsep) if entry.strip()]
    for place in searched:
        if _is_folder(place):
            found = _in_folder(engine, place)
        else:
            found = place if place.is_file() and engine in identify(open_tensors(place)).engines else None
        if found is not None:
            return found
    names = ", ".join(repr(place.name) for place in searched)
    raise EngineError(_how_to_get(engine, f"none in {names}" if names else f"{VARIABLE} is not set"))


def _is_folder(place: Path) -> bool:
    try:
        return place.is_dir()
    except OSError as error:
        raise EngineError(f"{place.name!r}, named as weights, cannot be read: {error.strerror}") from error


def _named_file(engine: str, path: Path) -> Path:
    published = published_as(path.name)
    own = {engine, "sam2ct"} if engine == "sam2-ft" else {engine}
    if published is not None and published.engine not in own:
        raise EngineError(
            f"{path.name} holds the weights of the engine {published.engine!r}, not of {engine!r}: use that engine, or"
            " rename the file if it is not what its authors publish under this name"
        )
    if not path.is_file():
        raise EngineError(_how_to_get(engine, f"the file {path.name!r} is not there"))
    return path


def _in_folder(engine: str, folder: Path) -> Path | None:
    try:
        files = {path.name: path for path in sorted(folder.iterdir()) if path.is_file()}
    except OSError as error:
        raise EngineError(f"the folder {folder.name!r} cannot be read: {error.strerror}") from error
    for entry in PUBLISHED:
        if entry.engine == engine and entry.in_folder and entry.file in files:
            return files[entry.file]
    told = [path for name, path in files.items() if published_as(name) is None and _tells(engine, path)]
    if len(told) > 1:
        names = ", ".join(path.name for path in told)
        raise EngineError(f"several files in {folder.name!r} suit the engine {engine!r}: {names}; name one as weights")
    return told[0] if told else None


def _tells(engine: str, path: Path) -> bool:
    """Whether a file says by itself that it is for this engine: SAM 2.1 and MedSAM2 have the same tensors."""
    if path.suffix not in {".pt", ".pth", ".safetensors"}:
        return False
    try:
        file = open_tensors(path)
        config = config_inside(file)
    except EngineError:
        return False  # one of the other files that lie in the folder
    layout = layout_of(file.tensors)
    return (config is not None or engine == "sam2ct") and engine in engines_for(layout, config, None)


def _how_to_get(engine: str, problem: str) -> str:
    where = "Nobody publishes weights for it: train some, or pass weights with line and arrow embeddings by name"
    published = [entry for entry in PUBLISHED if entry.engine == engine]
    if published:
        first, others = published[0], ", ".join(entry.file for entry in published[1:])
        where = f"Its authors publish {first.file} at {first.url} (licence: {first.licence})"
        where += f", and there also {others}" if others else ""
    return (
        f"no weights for the engine {engine!r}: {problem}. {where}. Put the file in a folder and set {VARIABLE} to"
        f" that folder, or pass it as weights. The engine {ENGINE_WITHOUT_WEIGHTS!r} runs without weights."
    )


def _check_family(layout: Layout, name: str, wanted: SAM2CTConfig) -> None:
    """Refuse what belongs to another model as a whole, before tensors are compared one by one."""
    if layout.family == "unknown":
        raise EngineError(
            f"{name} is no model of the SAM2 family: it has {len(layout.tensors)} tensors, {some(layout.tensors)};"
            " expected are image_encoder.trunk.*, memory_attention.*, sam_prompt_encoder.* and so on"
        )
    if layout.point_types == SAM2_POINTS and wanted.prompt_embeddings > len(SAM2_POINTS):
        raise EngineError(
            f"{name} has no line and arrow embeddings ({POINT.format('4..6')}): it is SAM 2.1 or MedSAM2, which"
            " never learned these prompts, and random ones would give masks that only look like answers. Use the engine"
            " 'sam2' or 'medsam2', which turn a line into a box, or weights of SAM2CT. To train: warm_start()"
        )
    if layout.point_types >= SAM2CT_POINTS and wanted.prompt_embeddings == len(SAM2_POINTS):
        raise EngineError(
            f"{name} has line and arrow embeddings ({POINT.format('4..6')}): it is SAM2CT. Use the engine"
            " 'sam2ct' or 'sam2-ft'"
        )


def _fill(file: TensorFile, layout: Layout, config: SAM2CTConfig, recipe: Mapping[str, tuple[str, ...]]) -> SAM2CTModel:
    """Make the model and put the file's tensors into it; those of ``recipe`` are means of others."""
    from segmentation.sam2ct.model import build_model

    model = build_model(config, seed=0)  # a seed leaves the random state of the program alone
    expected = {name: tuple(tensor.shape) for name, tensor in model.state_dict().items() if name not in recipe}
    problems = _differences(expected, layout.tensors)
    if problems:
        raise EngineError(
            f"{file.path.name} does not fit: {'; '.join(problems)}. It has {len(layout.tensors)} tensors and is nearest"
            f" to {layout.family}, size {layout.size}; expected were {len(expected)} of size"
            f" {config.size} with {config.prompt_embeddings} prompt embeddings"
        )
    state = {name: tensor for name, tensor in file.read().items() if name in layout.tensors}
    _check_finite(state, file.path.name)
    for name, sources in recipe.items():
        state[name] = torch.stack([state[source].float() for source in sources]).mean(dim=0)
    model.load_state_dict(state, strict=True)
    return model


def _differences(expected: Mapping[str, tuple[int, ...]], found: Mapping[str, TensorSpec]) -> list[str]:
    both = expected.keys() & found.keys()
    misshapen = [
        f"{name} {found[name].shape} instead of {expected[name]}"
        for name in expected
        if name in both and found[name].shape != expected[name]
    ]
    groups = {
        "missing": [name for name in expected if name not in both],
        "too many": [name for name in found if name not in both],
        "misshapen": misshapen,
        "not floating point": [
            f"{n} ({found[n].dtype})" for n in expected if n in both and found[n].dtype not in _FLOATS
        ],
    }
    return [f"{len(names)} {what}: {some(names)}" for what, names in groups.items() if names]


def _check_finite(state: Mapping[str, Tensor], name: str) -> None:
    bad = [key for key, tensor in state.items() if not bool(torch.isfinite(tensor.float()).all())]
    if bad:
        raise EngineError(f"{name}: NaN or infinite numbers in {len(bad)} tensors: {some(bad)}")
