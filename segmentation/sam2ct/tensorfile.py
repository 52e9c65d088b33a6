"""Read the tensors of a weights file without trusting it: no pickled object is ever made, no size taken on its word."""

from __future__ import annotations

import pickle
import stat
import zipfile
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal

import torch
from safetensors import safe_open
from torch import Tensor

from segmentation.types import EngineError

Format = Literal["pytorch", "pytorch training checkpoint", "pytorch state dict", "safetensors"]

_MAX_PICKLE = 32 * 2**20
"""Bytes of the pickled table of contents; a training checkpoint of the largest model has about one million."""
_SAFETENSORS_DTYPES = {"F64": "float64", "F32": "float32", "F16": "float16", "BF16": "bfloat16"}
_HEAD = 64
_PICKLED = (
    "{} holds pickled objects beside tensors ({}); such files can run code and are not read. Where you trust it,"
    " save it again as torch.save({{'model': state_dict}}, ...)"
)


@dataclass(frozen=True, slots=True)
class TensorSpec:
    """Shape of a tensor and the name of its type, e.g. ``"float32"``."""

    shape: tuple[int, ...]
    dtype: str


@dataclass(frozen=True, slots=True)
class TensorFile:
    """What a weights file holds, read from its table of contents.

    Parameters
    ----------
    metadata
        Texts in the header of a safetensors file; empty for others.

    """

    path: Path
    format: Format
    tensors: dict[str, TensorSpec]
    metadata: dict[str, str]

    def read(self) -> dict[str, Tensor]:
        """Map the tensors into memory, on the CPU; whoever changes them must copy them first.

        Raises
        ------
        EngineError
            If they cannot be read.

        """
        with _untrusted(self.path.name):
            if self.format != "safetensors":
                return _state(_load(self.path, "cpu"), self.path.name)[1]
            with safe_open(self.path, framework="pt", device="cpu") as file:
                return {name: file.get_tensor(name) for name in file.keys()}  # noqa: SIM118 - it is no dict


def open_tensors(path: Path) -> TensorFile:
    """Read the table of contents of a PyTorch file (zip format) or of a safetensors file.

    Raises
    ------
    EngineError
        If it is neither, damaged, or holds anything that would run code. The message names the file without its folder.

    """
    size, head = _look(path)
    with _untrusted(path.name):
        if head[8:9] == b"{" and not head.startswith(b"PK"):
            return _open_safetensors(path)
        if head.startswith((b"PK\x03\x04", b"PK\x05\x06")):
            return _open_pytorch(path, size)
    raise EngineError(f"{path.name} is no weights file: {_what_it_is(head)}")


@contextmanager
def _untrusted(name: str) -> Iterator[None]:
    """Whatever the parsers raise on bytes of unknown origin ends as one kind of error."""
    try:
        yield
    except EngineError:
        raise
    except Exception as error:
        raise EngineError(
            f"{name} is damaged or incomplete ({type(error).__name__}): compare its size with the published one and"
            " download it again"
        ) from error


def _look(path: Path) -> tuple[int, bytes]:
    """Size in bytes and the first ones."""
    try:
        status = path.stat()
        if stat.S_ISDIR(status.st_mode):
            raise EngineError(f"{path.name} is a folder, not a weights file")
        if not stat.S_ISREG(status.st_mode):
            raise EngineError(f"{path.name} is not a regular file")
        with path.open("rb") as file:
            head = file.read(_HEAD)
    except (OSError, ValueError) as error:  # ValueError: a null character in the name
        reason = getattr(error, "strerror", None) or type(error).__name__
        raise EngineError(f"the weights file {path.name} cannot be read: {reason}") from error
    if not head:
        raise EngineError(f"{path.name} is empty: its download was probably interrupted; download it again")
    return status.st_size, head


def _what_it_is(head: bytes) -> str:
    if head.startswith(b"version https://git-lfs"):
        return "it is a Git LFS pointer that stands for the file; fetch the file itself with 'git lfs pull'"
    if head.lstrip().lower().startswith((b"<!doctype", b"<html", b"<?xml")):
        return "it is a web page; download the file itself, not the page that links to it"
    if head.startswith((b"\x80\x02", b"\x80\x03", b"\x80\x04", b"\x80\x05")):
        return (
            "it is a pickle, or was saved by PyTorch before 1.6; pickles can run code and are not read. Save it again"
            " with torch.save({'model': model.state_dict()}, ...) of a newer PyTorch"
        )
    if head.startswith(b"\x1f\x8b"):
        return "it is gzip-compressed; unpack it first"
    if all(byte in b"\t\n\r" or 32 <= byte < 127 for byte in head):
        return "it is a text"
    return "it is neither a PyTorch file nor safetensors"


def _open_safetensors(path: Path) -> TensorFile:
    with safe_open(path, framework="pt", device="cpu") as file:
        specs = {}
        for name in file.keys():  # noqa: SIM118 - it is no dict
            part = file.get_slice(name)
            dtype = str(part.get_dtype())
            specs[name] = TensorSpec(tuple(part.get_shape()), _SAFETENSORS_DTYPES.get(dtype, dtype))
        return TensorFile(path, "safetensors", specs, dict(file.metadata() or {}))


def _open_pytorch(path: Path, size: int) -> TensorFile:
    _check_archive(path, size)
    try:
        foreign = torch.serialization.get_unsafe_globals_in_checkpoint(path)
        content = None if foreign else _load(path, "meta")
    except pickle.UnpicklingError as error:
        raise EngineError(_PICKLED.format(path.name, "or its table of contents is damaged")) from error
    if foreign:
        raise EngineError(_PICKLED.format(path.name, ", ".join(sorted(foreign)[:5])))
    form, state = _state(content, path.name)
    return TensorFile(path, form, {name: _spec(name, tensor, path.name) for name, tensor in state.items()}, {})


def _check_archive(path: Path, size: int) -> None:
    """Refuse archives that torch.save does not write, before PyTorch's own reader sees them."""
    with zipfile.ZipFile(path) as archive:
        entries = archive.infolist()
    names = [entry.filename.rpartition("/")[2] for entry in entries]
    if "constants.pkl" in names:
        raise EngineError(f"{path.name} is a TorchScript program, not weights")
    if "data.pkl" not in names:
        raise EngineError(f"{path.name} is a zip archive, but none that torch.save wrote")
    # torch.save compresses nothing, so no entry can be larger than it is on disk, nor all of them than the file.
    if any(entry.compress_type != zipfile.ZIP_STORED for entry in entries) or sum(e.file_size for e in entries) > size:
        raise EngineError(
            f"{path.name} is a zip archive that grows when it is unpacked; torch.save writes no such file"
        )
    if max(e.file_size for e, name in zip(entries, names, strict=True) if name == "data.pkl") > _MAX_PICKLE:
        raise EngineError(f"{path.name} has a table of contents of over {_MAX_PICKLE >> 20} MiB; it holds no weights")


def _load(path: Path, device: str) -> Any:
    return torch.load(str(path), map_location=device, weights_only=True, mmap=True)


def _state(content: Any, name: str) -> tuple[Format, dict[str, Tensor]]:
    """Find the tensors of the model: under "model", or all that is there."""
    if not isinstance(content, dict):
        raise EngineError(f"{name} holds a {type(content).__name__}, no model; expected {{'model': tensors by name}}")
    form: Format = "pytorch"
    state: Any = content
    if isinstance(content.get("model"), dict):
        form = "pytorch" if len(content) == 1 else "pytorch training checkpoint"
        state = content["model"]
    elif content and all(isinstance(value, Tensor) for value in content.values()):
        form = "pytorch state dict"
    else:
        found = ", ".join(repr(key)[:40] for key in list(content)[:5]) or "nothing"
        raise EngineError(f"{name} holds no model: expected tensors by name under 'model', found {found}")
    for key, value in state.items():
        if not isinstance(key, str) or not isinstance(value, Tensor):
            raise EngineError(f"{name}: {str(key)[:80]!r} in its model is no named tensor but a {type(value).__name__}")
    return form, dict(state)


def _spec(key: str, tensor: Tensor, name: str) -> TensorSpec:
    if tensor.layout != torch.strided or tensor.is_quantized:
        raise EngineError(f"{name}: the tensor {key} is sparse or quantized")
    return TensorSpec(tuple(tensor.shape), str(tensor.dtype).removeprefix("torch."))
