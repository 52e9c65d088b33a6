"""Where a PACS export may lie: a folder, a zip, a server. One file and one registration each."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Protocol

if TYPE_CHECKING:
    from cohort_builder.pacs.headers import Header


@dataclass(frozen=True, slots=True)
class Entry:
    """One thing that may be a DICOM object.

    ``name`` is what the index calls it: the same in every run. ``size`` (bytes; -1: a folder that cannot be listed) and
    ``changed`` (a time or a checksum) stay equal as long as it is unchanged.
    """

    name: bytes
    size: int
    changed: int


@dataclass(frozen=True, slots=True)
class Passed:
    """Something that is not read, by ``reason`` (``link``, ``special_file`` ...): counted, and named in messages."""

    reason: str


class Source(Protocol):
    """An export that can be listed and read. ``name`` tells it from others, holds no credentials, and reopens it."""

    name: str

    def entries(self) -> Iterator[Entry | Passed]:
        """List everything, in an order that is the same in every run."""

    def read(self, entry: Entry) -> Header | None:
        """Read one header; None if it is not DICOM. Raises ``HeaderError`` as ``read_header`` does."""

    def place(self, name: bytes) -> tuple[Path, str, str]:
        """Return ``path``, ``member`` and ``server`` of ``Instance`` for an entry, without touching it."""

    def close(self) -> None:
        """Let go of files and connections."""
