"""Engines under test: each with the weights that have not seen the patient."""

from __future__ import annotations

from collections.abc import Callable, Collection, Iterable, Mapping
from pathlib import Path

from segmentation.believability import table_digest
from segmentation.evaluation.cases import can_ask
from segmentation.tiers import TierTable
from segmentation.types import Segmenter

Load = Callable[[Path | None], Segmenter]


class Contender:
    """An engine under a label. Weights are loaded when first asked for, and kept.

    Parameters
    ----------
    label
        Its name in the tables.
    load
        Makes the engine from a weights file (None: the engine's own choice).
    weights
        For patients that are in no fold.
    folds
        Patient to the weights that have not seen it (leave-patients-out).
    identity
        What besides the engine's own revision decides about masks, as its options do.
    tiers
        Fitted tiers that its masks are judged by; None: the shipped ones.
    base
        Label that this one is the ablation of; "" for none.

    """

    def __init__(
        self,
        label: str,
        load: Load,
        *,
        weights: Path | None = None,
        folds: Mapping[str, Path] | None = None,
        identity: str = "",
        tiers: TierTable | None = None,
        base: str = "",
    ) -> None:
        self.label, self.base, self.tiers = label, base, tiers
        self._load, self._weights, self._folds, self._identity = load, weights, dict(folds or {}), identity
        self._loaded: dict[Path | None, Segmenter] = {}

    def engine(self, patient_id: str) -> Segmenter:
        """Return the engine for this patient."""
        return self._open(self._folds.get(patient_id, self._weights))

    def engines(self) -> list[Segmenter]:
        """Load all that may be asked for: what is missing is known before any case is read."""
        rest = [self._weights] if self._weights or not self._folds else []
        return [self._open(weights) for weights in dict.fromkeys([*self._folds.values(), *rest])]

    def key(self, patient_id: str) -> str | None:
        """Name what decides about its scores on this patient; None: the engine does not say its revision."""
        engine = self.engine(patient_id)
        revision = getattr(engine, "revision", None)
        return revision and f"{engine.name}@{revision} {self._identity} checks {table_digest(self.tiers)}"

    def lacks(self, patients: Collection[str]) -> list[str]:
        """Patients that no fold has left out, where there are folds and no other weights."""
        return sorted(set(patients) - self._folds.keys()) if self._folds and self._weights is None else []

    def takes(self, kind: str, patient_id: str) -> bool:
        """Whether the engine can be told of a prompt of this kind."""
        return can_ask(kind, self.engine(patient_id).supports)

    def _open(self, weights: Path | None) -> Segmenter:
        if weights not in self._loaded:
            self._loaded[weights] = self._load(weights)
        return self._loaded[weights]


def read_patients(path: Path) -> tuple[str, ...]:
    """Patients of a fold: one id a line; empty lines and lines that begin with # do not count.

    Raises
    ------
    ValueError
        If there is none, or one stands there twice.

    """
    lines = (line.strip() for line in path.read_text(encoding="utf-8").splitlines())
    found = [line for line in lines if line and not line.startswith("#")]
    if not found or len(found) != len(set(found)):
        raise ValueError(
            f"{path.name} must name patients, each once; it names {len(found)}, {len(set(found))} different"
        )
    return tuple(found)


def folds_of(files: Iterable[tuple[Path, Path]]) -> dict[str, Path]:
    """Patient to weights, of (weights, file of the patients that they have not seen).

    Raises
    ------
    ValueError
        If a patient is in two files: which weights count would be a guess. Or as `read_patients`.

    """
    folds: dict[str, Path] = {}
    for weights, patients in files:
        found = read_patients(patients)
        twice = len(folds.keys() & set(found))
        if twice:
            raise ValueError(f"{twice} patients of {patients.name} are left out by two folds; each may be in one file")
        folds.update(dict.fromkeys(found, weights))
    return folds
