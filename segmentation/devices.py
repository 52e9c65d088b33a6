"""What an engine computes on, and in which precision."""

from __future__ import annotations

import torch

from segmentation.types import EngineError

DTYPES = {"fp32": torch.float32, "bf16": torch.bfloat16}


def device_of(device: str | None) -> torch.device:
    """Resolve None, ``"auto"`` (a GPU where there is one), ``"cpu"``, ``"cuda"`` or ``"cuda:1"``.

    Raises
    ------
    EngineError
        If it is not there.

    """
    if device in {None, "auto"}:
        return torch.device("cuda" if torch.cuda.is_available() else "cpu")
    try:
        found = torch.device(str(device))
    except RuntimeError as error:
        raise EngineError(f"{device!r} is no device; allowed: 'auto', 'cpu', 'cuda', 'cuda:0' ...") from error
    if found.type not in {"cpu", "cuda"}:
        raise EngineError(f"these engines run on 'cpu' and 'cuda', not on {found.type!r}")
    if found.type == "cuda" and not torch.cuda.is_available():
        raise EngineError("no CUDA device is there (torch.cuda.is_available() is false); use device='cpu' or 'auto'")
    if found.type == "cuda" and not 0 <= (found.index or 0) < torch.cuda.device_count():  # torch wraps 1000 to -24
        raise EngineError(f"{device!r} is not one of the {torch.cuda.device_count()} CUDA devices of this machine")
    return found


def dtype_of(dtype: str | None, device: torch.device) -> torch.dtype:
    """Resolve a key of `DTYPES`; None: bf16 on a GPU, fp32 on a CPU.

    Raises
    ------
    ValueError
        If it is none of them.

    """
    if dtype not in {None, *DTYPES}:
        raise ValueError(f"dtype must be one of {', '.join(DTYPES)}, got {dtype!r}")
    return DTYPES[dtype or ("bf16" if device.type == "cuda" else "fp32")]
