"""Where samples come from: the cases of a manifest, and generated lesions."""

from __future__ import annotations

import hashlib
from collections.abc import Iterator, Mapping
from dataclasses import asdict, dataclass, field, replace
from functools import cache, cached_property
from itertools import chain
from math import ceil
from pathlib import Path
from typing import TYPE_CHECKING, Protocol

import numpy as np

from segmentation.training.manifest import READERS, Entry, Manifest, ManifestError, Reader, file_digest
from segmentation.training.samples import CropPolicy, Sample, Split, lesions_of

if TYPE_CHECKING:
    from segmentation.phantoms.patch_backgrounds import Backgrounds

_REVISION = "2"
"""Of the code that cuts out and deforms lesions, and"""
_GENERATED = "generated"
"""of that which generates them: with another one here, what it made before is made anew."""
_LESIONS_PER_UNIT = 64
_WHOLE_SLICES_PER_UNIT = 8  # lesions, of some 50 MB each


class Source(Protocol):
    """Samples in units of work, one shard of a cache each. Must pickle: units are made in other processes."""

    @property
    def digest(self) -> str:
        """Hash of what the samples are made from: equal digests give equal samples."""
        ...

    def __len__(self) -> int:
        """Count the units."""
        ...

    def unit_digest(self, unit: int) -> str:
        """Hash of what the samples of one unit are made from."""
        ...

    def samples(self, unit: int) -> Iterator[Sample]:
        """Make the samples of one unit."""
        ...


@dataclass(frozen=True)
class ManifestSource:
    """The lesions of a manifest.

    Parameters
    ----------
    readers
        By name, as entries name them.
    deformed
        So many deformed copies of every training lesion (`segmentation.phantoms.patches.augmented_real`) beside it.

    Raises
    ------
    ManifestError
        From `samples`, if a case cannot be read or has no lesion.

    """

    manifest: Manifest
    policy: CropPolicy
    readers: Mapping[str, Reader] = field(default_factory=lambda: dict(READERS))
    deformed: int = 0

    @property
    def digest(self) -> str:
        """Hash of entries and policy."""
        return _sha256(_REVISION, self.manifest.digest, self.policy, self.deformed)

    def __len__(self) -> int:
        return len(self._units)

    def unit_digest(self, unit: int) -> str:
        """Hash of the unit's entries and the policy."""
        unit_manifest = Manifest(self.manifest.root, self._units[unit])
        return _sha256(_REVISION, unit_manifest.digest, self.policy, self.deformed)

    def samples(self, unit: int) -> Iterator[Sample]:
        """Read the unit's cases and cut their lesions out."""
        for entry in self._units[unit]:
            yield from self._samples_of(entry)

    @cached_property
    def _units(self) -> tuple[tuple[Entry, ...], ...]:
        """Neighbouring entries with about as many lesions as a shard should hold."""
        most = _WHOLE_SLICES_PER_UNIT if self.policy.in_plane is None else _LESIONS_PER_UNIT
        units: list[list[Entry]] = []
        room = 0
        for entry in self.manifest.entries:
            cost = max(entry.n_lesions, 1) * (1 + self.deformed * (entry.split == "train"))
            if cost > room:
                units.append([])
                room = most
            units[-1].append(entry)
            room -= cost
        return tuple(map(tuple, units))

    def _samples_of(self, entry: Entry) -> Iterator[Sample]:
        if entry.reader not in self.readers:
            raise ManifestError(f"{entry.case_id}: no reader {entry.reader!r}; there are {', '.join(self.readers)}")
        volume, labels = self.readers[entry.reader](entry, self.manifest.root)
        if not labels.any():
            raise ManifestError(f"{entry.case_id}: its label has no lesion; leave the case out")
        for number, crop, truth in lesions_of(volume, labels, self.policy):
            sample = Sample(
                f"{entry.dataset}/{entry.case_id}/{number}",
                entry.case_id,
                entry.patient_id,
                entry.dataset,
                entry.category,
                entry.split,
                crop,
                truth,
            )
            yield sample
            if entry.split == "train":
                yield from _deformed(sample, self.deformed)


@dataclass(frozen=True)
class GeneratedSource:
    """Lesions generated into generated or real CT, the n-th the same whatever else is made.

    Parameters
    ----------
    count
        Lesions; every twentieth is for validation.
    backgrounds
        Folders of NIfTI CTs without lesions to put them into, beside generated ones.

    """

    count: int
    seed: int = 0
    backgrounds: tuple[Path, ...] = ()

    def __post_init__(self) -> None:
        if self.count < 1:
            raise ValueError(f"count must be positive, got {self.count}")

    @property
    def digest(self) -> str:
        """Hash of count, seed and backgrounds."""
        return _sha256(_GENERATED, self.count, self.seed, self._contents)

    def __len__(self) -> int:
        return ceil(self.count / _LESIONS_PER_UNIT)

    def unit_digest(self, unit: int) -> str:
        """Hash of the unit's numbers, seed and backgrounds."""
        return _sha256(_GENERATED, self._range(unit), self.seed, self._contents)

    def samples(self, unit: int) -> Iterator[Sample]:
        """Generate the unit's lesions."""
        from segmentation.phantoms.patches import generated_sample

        scenes = _backgrounds(self.backgrounds) if self.backgrounds else None
        for number in self._range(unit):
            made = generated_sample(np.random.default_rng([self.seed, number]), scenes)
            name = f"generated-{self.seed}-{number}"
            split: Split = "val" if number % 20 == 19 else "train"
            yield Sample(f"generated/{name}", name, name, "generated", "Generated", split, made.volume, made.truth)

    @cached_property
    def _contents(self) -> tuple[str | None, ...]:
        return tuple(map(file_digest, self.backgrounds))

    def _range(self, unit: int) -> range:
        return range(unit * _LESIONS_PER_UNIT, min((unit + 1) * _LESIONS_PER_UNIT, self.count))


def _deformed(sample: Sample, copies: int) -> Iterator[Sample]:
    from segmentation.phantoms.patches import augmented_real

    for copy in range(1, copies + 1):
        name = f"{sample.sample_id}/{copy}"
        seed = int.from_bytes(hashlib.sha256(name.encode()).digest()[:8])
        made = augmented_real(np.random.default_rng(seed), sample.volume, sample.truth)
        if made.truth.any():
            yield replace(sample, sample_id=name, volume=made.volume, truth=made.truth)


@cache
def _backgrounds(folders: tuple[Path, ...]) -> Backgrounds:
    from segmentation.phantoms.patches import load_backgrounds

    return load_backgrounds(folders)


def samples_of(
    manifest: Manifest, policy: CropPolicy | None = None, readers: Mapping[str, Reader] | None = None
) -> Iterator[Sample]:
    """Make all samples of ``manifest``, in its order.

    Raises
    ------
    ManifestError
        If a case cannot be read or has no lesion.

    """
    source = ManifestSource(manifest, policy or CropPolicy(), dict(readers or READERS))
    return chain.from_iterable(source.samples(unit) for unit in range(len(source)))


def _sha256(*parts: object) -> str:
    texts = (repr(asdict(part)) if isinstance(part, CropPolicy) else str(part) for part in parts)
    return hashlib.sha256("\n".join(texts).encode()).hexdigest()
