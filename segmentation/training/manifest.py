"""What there is to train on: one line per labelled case, with the digests of its files."""

from __future__ import annotations

import hashlib
import json
import os
from collections.abc import Callable, Iterable, Mapping
from concurrent.futures import ThreadPoolExecutor
from dataclasses import asdict, dataclass, field, replace
from pathlib import Path, PurePosixPath

import numpy as np
from numpy.typing import NDArray

from segmentation.files import write_bytes
from segmentation.training.samples import SPLITS, Split
from segmentation.types import Volume

_FORMAT = "training manifest 1"


class ManifestError(Exception):
    """What a manifest lists cannot be trained on: missing, changed, or image and label do not belong together."""


@dataclass(frozen=True, slots=True)
class Entry:
    """A CT and the label of its lesions.

    Parameters
    ----------
    category
        Kind of lesion, as in Table 1 of the SAM2CT paper (``"Kidney"``); free for other data.
    reader
        Name of the function in a table of readers that reads image and label.
    image, label
        Paths below `Manifest.root`; the label may be the image where one file holds both.
    label_values
        Values of the label that are lesion. Empty: the label has one value beside 0, or one per lesion.
    files
        SHA-256 of every file that the reader reads, by path; of a folder, of the names and contents in it.
    options
        For the reader.
    n_lesions
        What the reader finds, as counted when the manifest was made.

    """

    case_id: str
    dataset: str
    category: str
    patient_id: str
    split: Split
    reader: str
    image: str
    label: str
    label_values: tuple[int, ...] = ()
    files: Mapping[str, str] = field(default_factory=dict)
    options: Mapping[str, str] = field(default_factory=dict)
    n_lesions: int = 0

    def __post_init__(self) -> None:
        if self.split not in SPLITS:
            raise ValueError(f"{self.case_id}: split must be one of {SPLITS}, got {self.split!r}")
        for path in (self.image, self.label, *self.files):
            if not path or PurePosixPath(path).is_absolute() or ".." in PurePosixPath(path).parts:
                raise ValueError(f"{self.case_id}: {path!r} is no path below the root of the manifest")


Reader = Callable[[Entry, Path], tuple[Volume, NDArray[np.int32]]]
"""Reads an entry below a root: the CT, and on the same grid 0 for background and 1 to n for one lesion each."""


def _nifti(entry: Entry, root: Path) -> tuple[Volume, NDArray[np.int32]]:
    from segmentation.training.nifti import read_nifti

    return read_nifti(entry, root)


READERS: dict[str, Reader] = {"nifti": _nifti}
"""Readers by name; those of DICOM and of published datasets are in `cohort_builder.training.readers`."""


@dataclass(frozen=True, slots=True)
class Manifest:
    """Entries below one folder."""

    root: Path
    entries: tuple[Entry, ...]

    @property
    def digest(self) -> str:
        """SHA-256 of the entries, files by their content; where the root lies does not matter."""
        return hashlib.sha256("\n".join(map(_line, self.entries)).encode()).hexdigest()

    def write(self, path: str | Path) -> None:
        """Write as JSON lines: the head, then one entry each."""
        head = json.dumps({"format": _FORMAT, "root": str(self.root), "digest": self.digest})
        write_bytes(Path(path), ("\n".join([head, *map(_line, self.entries)]) + "\n").encode())

    @classmethod
    def read(cls, path: str | Path, *, root: str | Path | None = None) -> Manifest:
        """Read what `write` wrote; ``root`` says where the data lie now.

        Raises
        ------
        ManifestError
            If the file is no manifest or was edited.

        """
        lines = Path(path).read_text().splitlines()
        try:
            head = json.loads(lines[0])
            if head["format"] != _FORMAT:
                raise ManifestError(f"{path} is no manifest of this version: it says {head['format']!r}")
            entries = tuple(_entry(line) for line in lines[1:])
            manifest = cls(Path(root or head["root"]), entries)
            written = head["digest"]
        except (IndexError, KeyError, TypeError, ValueError) as error:
            raise ManifestError(f"{path} is no manifest: {error}") from error
        if manifest.digest != written:
            raise ManifestError(f"{path} was changed after it was written: its digest is another; make it again")
        return manifest

    def check(self) -> None:
        """Read every file and compare it with its digest.

        Raises
        ------
        ManifestError
            If files are missing or were changed; names the first ten.

        """
        expected = {path: digest for entry in self.entries for path, digest in entry.files.items()}
        with ThreadPoolExecutor() as pool:
            got = pool.map(lambda path: file_digest(self.root / path), expected)
        wrong = [
            f"{path} is {'missing' if now is None else 'not what it was'}"
            for (path, digest), now in zip(expected.items(), got, strict=True)
            if now != digest
        ]
        if wrong:
            raise ManifestError(
                f"{len(wrong)} of {len(expected)} files changed since the manifest was made: {'; '.join(wrong[:10])}"
            )


def file_digest(path: Path) -> str | None:
    """SHA-256 of a file; of a folder, of the sorted names and digests of the files in it; None if there is none."""
    if path.is_dir():
        files = sorted(p for p in path.rglob("*") if p.is_file())
        lines = (f"{p.relative_to(path).as_posix()} {file_digest(p)}" for p in files)
        return hashlib.sha256("\n".join(lines).encode()).hexdigest()
    if not path.is_file():
        return None
    with path.open("rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()


def join(manifests: Iterable[Manifest]) -> Manifest:
    """Put several manifests into one, below the folder that all of them lie in."""
    manifests = list(manifests)
    root = Path(os.path.commonpath([m.root.resolve() for m in manifests]))
    return Manifest(root, tuple(_below(root, m.root.resolve(), e) for m in manifests for e in m.entries))


def _below(root: Path, old: Path, entry: Entry) -> Entry:
    prefix = old.relative_to(root)

    def moved(path: str) -> str:
        return (prefix / path).as_posix()

    return replace(
        entry,
        image=moved(entry.image),
        label=moved(entry.label),
        files={moved(path): digest for path, digest in entry.files.items()},
    )


def _line(entry: Entry) -> str:
    return json.dumps(asdict(entry), sort_keys=True)


def _entry(line: str) -> Entry:
    values = json.loads(line)
    return Entry(**{**values, "label_values": tuple(values["label_values"])})
