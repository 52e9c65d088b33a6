"""Where a PACS export may lie: a folder, a zip, a server. One file and one registration each."""

from __future__ import annotations

import atexit
import re
import shutil
import tempfile
from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Protocol

from cohort_builder.errors import PacsError, SetupError

if TYPE_CHECKING:
    from cohort_builder.cases.selection import Selection
    from cohort_builder.pacs.headers import Header

_URL = re.compile(r"([a-z][a-z0-9+.-]+):/", re.IGNORECASE)  # one letter: a drive
_KINDS = "a folder, a zip, a DICOMDIR, dicomweb+https://host/path, or dimse://AET@host:port"


@dataclass(frozen=True, slots=True)
class Entry:
    """One thing that may be a DICOM object.

    ``name`` is what the index calls it: the same in every run. ``size`` (bytes; -1: not known) and ``changed`` (a time
    or a checksum) stay equal as long as it is unchanged. ``problem``: the reason and detail of the ``HeaderError`` that
    reading it raises, where listing it already shows that it cannot be read.
    """

    name: bytes
    size: int
    changed: int
    problem: tuple[str, str] | None = None


@dataclass(frozen=True, slots=True)
class Passed:
    """Something that is not read, by ``reason`` (``link``, ``special_file`` ...): counted, and named in messages."""

    reason: str


class Source(Protocol):
    """An export that can be listed and read. ``name`` tells it from others, holds no credentials, and reopens it."""

    name: str

    @property
    def opted_out(self) -> Iterable[tuple[str, str, str]]:
        """Study Instance UID, Accession Number and Patient ID of what an opt-out list kept from being listed."""

    def entries(self) -> Iterator[Entry | Passed]:
        """List everything, in an order that is the same in every run."""

    def read(self, entry: Entry) -> Header | None:
        """Read one header; None if it is not DICOM. Raises ``HeaderError`` as ``read_header`` does."""

    def place(self, name: bytes) -> tuple[Path, str, str]:
        """Return ``path``, ``member`` and ``server`` of ``Instance`` for an entry, without touching it."""

    def keep_only(self, names: Iterable[bytes]) -> None:
        """Remove what was kept here of all other objects of a server; what is no copy of ours is not touched."""

    def close(self) -> None:
        """Let go of files and connections."""


def is_address(pacs_export: str | Path) -> bool:
    """Whether an export is a server, and no folder or file."""
    return isinstance(pacs_export, str) and _URL.match(pacs_export) is not None


def open_source(pacs_export: str | Path, *, keep: Path | None = None, select: Selection | None = None) -> Source:
    """Open an export for listing and reading.

    Parameters
    ----------
    pacs_export
        A folder; a zip; a DICOMDIR, or the folder that holds it; ``dicomweb+https://host:port/path``; or
        ``dimse://AET@host:port`` (docs/pacs.md). Credentials stand in the environment, never in an address.
    keep
        Private folder for objects of a server; made when needed. Nothing else writes to it. Without it
        they are kept until the process ends.
    select
        Narrows what a server is asked for, by study date and accession number. A folder or zip is always read whole.

    Raises
    ------
    PacsError
        It does not exist, is nothing of this, or does not answer.
    SetupError
        An optional package is missing.

    """
    url = _URL.match(str(pacs_export))
    if url is None:
        return _local(Path(pacs_export))
    if not isinstance(pacs_export, str):
        raise PacsError("pacs_export is an address inside a Path, which drops its slashes; give it as text")
    return _remote(pacs_export, url[1].lower(), keep, select)


def reopen(name: str, keep: Path | None = None) -> Source:
    """Open for reading what ``Source.name`` of an earlier run names, without listing it or connecting to it.

    Raises
    ------
    PacsError
        The name is none of ``open_source``'s.

    """
    from cohort_builder.pacs.sources.archive import Archive
    from cohort_builder.pacs.sources.folder import Folder

    url = _URL.match(name)
    if url is not None:
        return _remote(name, url[1].lower(), keep, None)
    return Folder(Path(name)) if Path(name).is_dir() else Archive(Path(name))


def _local(path: Path) -> Source:
    from cohort_builder.pacs.sources.archive import Archive
    from cohort_builder.pacs.sources.dicomdir import is_dicomdir_name
    from cohort_builder.pacs.sources.folder import Folder
    from cohort_builder.pacs.sources.zip_directory import read_directory

    if path.is_dir():
        return Folder(path)
    if not path.exists():
        raise PacsError(f"pacs_export does not exist; check the path, or give {_KINDS}")
    if not path.is_file():
        raise PacsError(f"pacs_export is no regular file; give {_KINDS}")
    if is_dicomdir_name(path.name):
        return Folder(path.parent)
    try:
        next(read_directory(path), None)
    except OSError as error:
        raise PacsError(f"pacs_export is a file and no whole zip ({error}); give {_KINDS}") from error
    return Archive(path)


def _remote(url: str, scheme: str, keep: Path | None, select: Selection | None) -> Source:
    from cohort_builder.pacs.sources.query import Query

    if scheme in {"dicomweb+http", "dicomweb+https"}:
        from cohort_builder.pacs.sources.dicomweb import DicomWeb
        from cohort_builder.pacs.sources.web import Address

        return DicomWeb(Address.parse(url), keep or _temporary(), Query.of(select))
    if scheme == "dimse":
        try:
            from cohort_builder.pacs.sources.dimse import Dimse
            from cohort_builder.pacs.sources.node import Node
        except ImportError as error:
            raise SetupError("dimse:// needs pynetdicom; install cohort-builder[dimse]") from error
        return Dimse(Node.parse(url), keep or _temporary(), Query.of(select))
    raise PacsError(f"pacs_export is an address of a kind that is not known; give {_KINDS}")


def _temporary() -> Path:
    """Make a folder that goes at the end of the process."""
    folder = Path(tempfile.mkdtemp(prefix="cohort-pacs-"))
    atexit.register(shutil.rmtree, folder, ignore_errors=True)
    return folder
