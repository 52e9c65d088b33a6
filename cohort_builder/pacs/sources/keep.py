"""Where objects from a server are kept: a private folder, one file an object, named by a hash of its UIDs."""

from __future__ import annotations

import os
import re
import tempfile
from collections.abc import Iterable, Iterator
from contextlib import contextmanager
from hashlib import blake2b
from pathlib import Path
from typing import BinaryIO

_UNFINISHED = ".part"
_KEPT = re.compile(r"[0-9a-f]{32}")


def object_name(study: str, series: str, sop: str) -> bytes:
    """What the index calls an object of a server."""
    return f"{study}/{series}/{sop}".encode()


def kept_path(keep: Path, name: bytes) -> Path:
    """Where an object is or would be kept. Nothing a server says becomes a part of a path."""
    digest = blake2b(name, digest_size=16).hexdigest()
    return keep / digest[:2] / digest


def make_keep(keep: Path) -> None:
    """Make the folder for its owner alone; what a killed run left unfinished in it goes."""
    keep.mkdir(mode=0o700, parents=True, exist_ok=True)
    keep.chmod(0o700)
    for path in keep.glob(f"new/*{_UNFINISHED}"):
        path.unlink(missing_ok=True)


@contextmanager
def unfinished(keep: Path) -> Iterator[tuple[BinaryIO, Path]]:
    """Open a new private file to write an object to; ``finish`` it, or it goes again."""
    folder = keep / "new"
    folder.mkdir(mode=0o700, exist_ok=True)
    handle, name = tempfile.mkstemp(suffix=_UNFINISHED, dir=folder)
    try:
        with os.fdopen(handle, "wb") as stream:
            yield stream, Path(name)
    finally:
        Path(name).unlink(missing_ok=True)


def finish(path: Path, kept: Path) -> None:
    """Give a written file its name, at once and whole."""
    kept.parent.mkdir(mode=0o700, exist_ok=True)
    path.replace(kept)


def prune(keep: Path, names: Iterable[bytes]) -> None:
    """Remove all objects but these: what left the archive, or must not be used, leaves no copy here."""
    wanted = {kept_path(keep, name) for name in names}
    for path in keep.glob("[0-9a-f][0-9a-f]/*"):
        if path not in wanted and _KEPT.fullmatch(path.name):
            path.unlink(missing_ok=True)
