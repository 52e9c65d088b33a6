"""What a run leaves on disk beside its shards, and by what it knows its inputs again."""

from __future__ import annotations

import json
import os
import tempfile
from collections.abc import Iterable, Mapping
from importlib import metadata
from pathlib import Path
from typing import Any

from cohort_builder.errors import ConfigError

TEMPORARY = ".tmp-"
"""How the names of half written files begin."""


def versions() -> dict[str, str]:
    """Version of everything that decides about content."""
    names = ("cohort-builder", "numpy", "scipy", "pydicom", "highdicom", "pyarrow", "datasets", "nibabel", "spacy")
    return {name: metadata.version(name) for name in names}


def identity(component: object, options: Mapping[str, object] | None = None) -> dict[str, object]:
    """What decides about the answers of an engine or extractor, as far as it tells: class, revision, weights, options.

    Parameters
    ----------
    component
        A class or an object.
    options
        What the object was made with. Where that is not known, its own plain attributes stand for it.

    """
    kind = component if isinstance(component, type) else type(component)
    if options is None:
        own = {} if component is kind else getattr(component, "__dict__", {})
        options = {name: value for name, value in own.items() if isinstance(value, str | int | float | None)}
    told = ("name", "version", "revision", "weights_sha256")
    return {
        "class": f"{kind.__module__}.{kind.__qualname__}",
        **{name: str(getattr(component, name, None)) for name in told},
        "options": dict(options),
    }


def make_folders(out: Path, private: Path) -> None:
    """Make the folder to build in, and the one in it that nobody else may read.

    Raises
    ------
    ConfigError
        ``out`` is a file, holds other things, or cannot be written to.

    """
    if out.exists() and not out.is_dir():
        raise ConfigError("out= is a file; give a folder to build in")
    try:
        out.mkdir(parents=True, exist_ok=True)
        if not private.exists() and any(out.iterdir()):
            raise ConfigError(
                "out= is a folder with other things in it; give an empty or new folder, or an earlier cohort"
            )
        private.mkdir(mode=0o700, exist_ok=True)
        private.chmod(0o700)
    except OSError as error:
        raise ConfigError(
            f"out= cannot be made or written to ({type(error).__name__}); give a folder of your own"
        ) from error


def write_lines(path: Path, rows: Iterable[Mapping[str, Any]]) -> None:
    """Write a private file, one JSON object a line; ASCII, since ids and paths may hold line separators."""
    _write_parts(path, (json.dumps(row, sort_keys=True) + "\n" for row in rows), mode=0o600)


def write_atomically(path: Path, text: str, *, mode: int = 0o644) -> None:
    """Write a text file whole or not at all."""
    _write_parts(path, [text], mode=mode)


def _write_parts(path: Path, parts: Iterable[str], *, mode: int) -> None:
    descriptor, temporary = tempfile.mkstemp(dir=path.parent, prefix=TEMPORARY)
    with os.fdopen(descriptor, "w", encoding="utf-8", errors="backslashreplace") as stream:
        stream.writelines(parts)
    Path(temporary).chmod(mode)
    Path(temporary).replace(path)
