"""Fields of a `TrainConfig` from text: the right names, and the right types."""

from __future__ import annotations

from collections.abc import Mapping
from types import NoneType, UnionType
from typing import Any, Literal, Union, get_args, get_origin, get_type_hints

from segmentation.training.config import TrainConfig

_FROM_PYTHON = frozenset({"preset", "model", "augmentation", "loss"})
_WORDS = {int: "a whole number", float: "a number", bool: "true or false", str: "a text"}


def settings_from(given: Mapping[str, object]) -> dict[str, Any]:
    """Check fields of `TrainConfig` and give them their types: lists become tuples, and so does one thing alone.

    Raises
    ------
    ValueError
        If there is no such field, it can only be changed from Python, or the value is of another type. Names it.

    """
    hints = {name: hint for name, hint in get_type_hints(TrainConfig).items() if name not in _FROM_PYTHON}
    if refused := sorted(_FROM_PYTHON & given.keys()):
        raise ValueError(f"{', '.join(refused)} cannot be set: train from Python (docs/training.md)")
    if unknown := sorted(given.keys() - hints.keys()):
        raise ValueError(f"there is no setting {', '.join(unknown)}; there are {', '.join(sorted(hints))}")
    settings = {}
    for name, value in given.items():
        try:
            settings[name] = _of_type(value, hints[name])
        except ValueError as error:
            raise ValueError(f"{name}: {error}") from None
    return settings


def _of_type(value: Any, hint: Any) -> Any:
    kind, parts = get_origin(hint), get_args(hint)
    if kind in (Union, UnionType):
        [part] = (part for part in parts if part is not NoneType)
        return _of_type(value, part)
    if kind is tuple:
        values = value if isinstance(value, list) else [value]
        types = [parts[0]] * len(values) if parts[-1] is Ellipsis else parts
        if len(values) != len(types):
            raise ValueError(f"takes {len(types)} values, got {value!r}")
        return tuple(map(_of_type, values, types))
    if kind is Literal:
        if value not in parts:
            raise ValueError(f"takes one of {', '.join(map(str, parts))}, got {value!r}")
        return value
    if hint is float and type(value) is int:
        return float(value)
    if type(value) is not hint:
        raise ValueError(f"takes {_WORDS[hint]}, got {value!r}")
    return value
