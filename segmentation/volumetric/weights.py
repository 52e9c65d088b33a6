"""Weights of the volumetric engines: safetensors with the configuration in the header, loaded strictly."""

from __future__ import annotations

import json
import os
from collections.abc import Mapping
from dataclasses import dataclass
from math import prod
from pathlib import Path
from typing import Any

import torch
from safetensors.torch import save as to_safetensors
from torch import nn

from segmentation.files import write_bytes
from segmentation.sam2ct.checkpoints import sha256_of
from segmentation.sam2ct.tensorfile import TensorFile, open_tensors
from segmentation.types import EngineError
from segmentation.volumetric.config import PRESETS, Config, PatchConfig, UNet3DConfig
from segmentation.volumetric.networks import build_network

HEADER_KEY = "volumetric"
"""Key in the header. One key only: the order of several is not repeatable."""
FORMAT_VERSION = 1
VARIABLE = "COHORT_WEIGHTS"
SHIPPED = Path(__file__).parent / "shipped"
"""Weights that come with this package, each with its card."""
_FLOATS = frozenset({"float16", "bfloat16", "float32"})


@dataclass(frozen=True, slots=True)
class NetworkFile:
    """What the header of a weights file says.

    Parameters
    ----------
    engine
        A key of `segmentation.volumetric.config.PRESETS`.
    parameters
        Numbers in its tensors.
    metadata
        What the training wrote beside the configuration.

    """

    name: str
    engine: str
    config: Config
    parameters: int
    n_bytes: int
    sha256: str
    metadata: Mapping[str, Any]

    def __str__(self) -> str:
        lines = [
            f"{self.name}: volumetric network of the engine {self.engine}",
            f"  {self.parameters / 1e6:.1f} M parameters, {self.n_bytes:,} bytes, sha256 {self.sha256}",
            f"  configuration inside: {self.config.to_json()}",
            *(f"  {key}: {value}" for key, value in self.metadata.items()),
        ]
        return "\n".join(lines)


def engine_of(config: Config) -> str:
    """Name of the engine that runs networks of this configuration."""
    if isinstance(config, PatchConfig):
        return config.network
    return "unet3d" if config.tracker == "none" else "sam2ct-nano"


def save_network(
    network: nn.Module,
    config: Config,
    path: str | Path,
    metadata: Mapping[str, Any] | None = None,
    *,
    dtype: torch.dtype = torch.float16,
) -> Path:
    """Write a network; the same network gives the same bytes, and the file appears whole or not at all.

    Raises
    ------
    EngineError
        If a tensor is not finite, or not any more in ``dtype``.
    OSError
        If the file cannot be written.

    """
    path = Path(path).expanduser()
    state = {
        name: (tensor.to("cpu", dtype) if tensor.is_floating_point() else tensor.cpu()).contiguous()
        for name, tensor in _own_tensors(network).items()
    }
    _require_finite(state, path.name)
    inside = {
        "engine": engine_of(config),
        "config": json.loads(config.to_json()),
        "format_version": FORMAT_VERSION,
        "training": dict(metadata or {}),
    }
    data = to_safetensors(state, metadata={HEADER_KEY: json.dumps(inside, sort_keys=True)})
    return write_bytes(path, data)


def load_network(path: str | Path, engine: str | None = None) -> tuple[nn.Module, NetworkFile]:
    """Build the network of a weights file and fill it, in float32 on the CPU, in eval mode.

    Parameters
    ----------
    engine
        That it must be for; None: any.

    Raises
    ------
    EngineError
        If the file is unreadable or of another engine, or if any tensor is missing, too many, misshapen, of another
        type or not finite.

    """
    file = open_tensors(Path(path).expanduser())
    found = identify(file)
    name = file.path.name
    if found is None:
        raise EngineError(f"{name} holds no volumetric network: its header has no {HEADER_KEY!r}")
    if engine not in {None, found.engine}:
        raise EngineError(f"{name} holds a network of the engine {found.engine!r}, not of {engine!r}")
    network = build_network(found.config, seed=0)
    expected = _own_tensors(network)
    _require_same(expected, file)
    state = file.read()
    _require_finite(state, name)
    network.load_state_dict(state, strict=False)  # all of its own tensors are there, and nothing else
    return network.float().eval(), found


def identify(file: TensorFile) -> NetworkFile | None:
    """Read the header; None for a file of something else.

    Raises
    ------
    EngineError
        If the header is ours but cannot be read.

    """
    text = file.metadata.get(HEADER_KEY)
    if text is None:
        return None
    try:
        inside = json.loads(text)
        engine, version, training = inside["engine"], inside["format_version"], inside["training"]
        if version != FORMAT_VERSION:
            raise EngineError(
                f"{file.path.name} is of format {version!r}; this version reads {FORMAT_VERSION}: update it"
            )
        kind = UNet3DConfig if isinstance(PRESETS[engine], UNet3DConfig) else PatchConfig
        config: Config = kind.from_json(json.dumps(inside["config"]))
    except (ValueError, TypeError, KeyError, RecursionError) as error:
        raise EngineError(f"{file.path.name}: the configuration inside cannot be read ({error})") from error
    if engine_of(config) != engine or not isinstance(training, dict):
        raise EngineError(f"{file.path.name}: its header contradicts itself")
    numbers = sum(prod(spec.shape) for spec in file.tensors.values())
    path = file.path
    return NetworkFile(path.name, engine, config, numbers, path.stat().st_size, sha256_of(path), training)


def find_network(engine: str, weights: str | Path | None = None) -> Path:
    """Find the weights file of an engine.

    Parameters
    ----------
    weights
        A file, or a folder with one file for this engine. None: the first of the files and folders in
        ``COHORT_WEIGHTS`` that has one, or else what is shipped with this package.

    Raises
    ------
    EngineError
        If there is none, or a folder has several.

    """
    named = [str(weights)] if weights is not None else os.environ.get(VARIABLE, "").split(os.pathsep)
    for place in (Path(entry).expanduser() for entry in named if entry.strip()):
        if weights is not None and place.is_file():
            return place
        candidates = sorted(place.glob("*.safetensors")) if place.is_dir() else [place]
        found = [path for path in candidates if path.is_file() and _is_for(engine, path)]
        if len(found) > 1:
            names = ", ".join(path.name for path in found)
            raise EngineError(f"several files in {place.name!r} are for the engine {engine!r}: {names}; name one")
        if found:
            return found[0]
    shipped = SHIPPED / f"{engine}.safetensors"
    if weights is None and shipped.is_file():
        return shipped
    raise EngineError(
        f"no weights for the engine {engine!r}: train some with `cohort train`, and pass the file as weights or put its"
        f" folder into {VARIABLE}. The engine 'classical' runs without weights."
    )


def _own_tensors(network: nn.Module) -> dict[str, torch.Tensor]:
    """Tensors by the first of their names: MONAI's DynUNet has each of its own twice."""
    own: dict[int, str] = {}
    state = network.state_dict(keep_vars=True)
    for name, tensor in state.items():
        own.setdefault(id(tensor), name)
    return {name: state[name].detach() for name in own.values()}


def _is_for(engine: str, path: Path) -> bool:
    try:
        found = identify(open_tensors(path))
    except EngineError:
        return False  # one of the other files that lie in the folder
    return found is not None and found.engine == engine


def _require_same(expected: Mapping[str, torch.Tensor], file: TensorFile) -> None:
    problems = [f"{name} is missing" for name in expected if name not in file.tensors]
    problems += [f"{name} is too many" for name in file.tensors if name not in expected]
    for name, spec in file.tensors.items():
        if name not in expected:
            continue
        if spec.shape != tuple(expected[name].shape):
            problems.append(f"{name} has shape {spec.shape} instead of {tuple(expected[name].shape)}")
        elif expected[name].is_floating_point() and spec.dtype not in _FLOATS:
            problems.append(f"{name} is of type {spec.dtype}")
    if problems:
        more = f" and {len(problems) - 5} more" if len(problems) > 5 else ""
        raise EngineError(f"{file.path.name} does not fit: {'; '.join(problems[:5])}{more}")


def _require_finite(state: Mapping[str, torch.Tensor], name: str) -> None:
    bad = [
        key for key, tensor in state.items() if tensor.is_floating_point() and not bool(torch.isfinite(tensor).all())
    ]
    if bad:
        raise EngineError(f"{name}: {', '.join(bad[:5])} holds infinite values or none")
