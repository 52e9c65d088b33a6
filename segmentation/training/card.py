"""The card of a weights file: what made it, from what, and how well it did there."""

from __future__ import annotations

import hashlib
import json
from collections import defaultdict
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path

import numpy as np

from segmentation.files import write_bytes
from segmentation.training.cache import Cache
from segmentation.training.config import TrainConfig
from segmentation.training.samples import SPLITS


@dataclass(frozen=True, slots=True)
class Provenance:
    """Where a training comes from.

    Parameters
    ----------
    command
        That began it.
    sources
        Each source of lesions, by a name that can be published, with its digest: that of its manifest and of how
        lesions were cut out.
    licences
        Data set to its licence.
    started_from
        Weights that it began with, and their SHA-256; empty: random ones.

    """

    command: str = ""
    sources: tuple[tuple[str, str], ...] = ()
    licences: Mapping[str, str] = field(default_factory=dict)
    started_from: str = ""

    @property
    def manifest_sha256(self) -> str:
        """Of all sources; empty where there are none."""
        digests = [digest for _, digest in self.sources]
        return (
            digests[0] if len(digests) == 1 else hashlib.sha256("".join(digests).encode()).hexdigest() * bool(digests)
        )


@dataclass(frozen=True, slots=True)
class Outcome:
    """What came of a training.

    Parameters
    ----------
    steps, weights_step
        Taken; and after how many of them the weights were as they are in the file.
    dice
        Mean over the validation lesions, of the weights in the file; None: not validated.
    seconds
        Of all steps, in all pieces.
    log, validation
        Rows of the files of these names.

    """

    steps: int
    weights_step: int
    dice: float | None
    skipped: int
    seconds: float
    log: Sequence[Mapping[str, str]]
    validation: Sequence[Mapping[str, str]]


def write_card(
    path: Path, *, weights: Path, cache: Cache, config: TrainConfig, origin: Provenance, outcome: Outcome
) -> Path:
    """Write the card as Markdown."""
    parts = [
        f"# {weights.name}: {config.preset}",
        _summary(weights, config, origin, outcome),
        "## Data",
        _data(cache, origin.licences),
        "\n".join(f"- `{source}`: digest `{digest}`" for source, digest in origin.sources),
        f"Manifest (SHA-256 of the digests of all sources): `{origin.manifest_sha256 or 'none'}`",
        f"Lesions (SHA-256 of the index of the cache): `{cache.digest}`",
        "## Losses",
        _losses(outcome.log),
    ]
    if outcome.validation:
        parts += ["## Dice on validation lesions", _table(outcome.validation)]
    parts += ["## Configuration", f"```json\n{json.dumps(config.curve(), indent=1)}\n```"]
    return write_bytes(path, ("\n\n".join(part for part in parts if part) + "\n").encode())


def _summary(weights: Path, config: TrainConfig, origin: Provenance, outcome: Outcome) -> str:
    digest = hashlib.sha256(weights.read_bytes()).hexdigest()
    seconds = sum(float(row["seconds"]) for row in outcome.log)
    waited = sum(float(row["waited"]) for row in outcome.log) / max(seconds, 1e-9)
    facts = {
        "file": f"{weights.stat().st_size:,} bytes, {config.dtype}, SHA-256 `{digest}`",
        "command": f"`{origin.command or 'called from Python'}`",
        "seed": config.seed,
        "started from": origin.started_from or "random weights",
        "steps": f"{outcome.steps} of {config.total_steps}; the weights are those after {outcome.weights_step}",
        "steps left out, their loss or gradient no number": outcome.skipped,
        "wall time of the steps": f"{outcome.seconds / 60:.1f} min, {waited:.0%} of it waiting for data",
        "mean Dice on validation lesions": "not measured" if outcome.dice is None else f"{outcome.dice:.3f}",
    }
    return "\n".join(["| | |", "|---|---|", *(f"| {name} | {value} |" for name, value in facts.items())])


def _data(cache: Cache, licences: Mapping[str, str]) -> str:
    counts: defaultdict[str, dict[str, int]] = defaultdict(lambda: dict.fromkeys(SPLITS, 0))
    for split in SPLITS:
        for place in cache.indices(split):
            counts[cache[place].dataset][split] += 1
    return _table(
        [
            {
                "lesions of": name,
                **{split: str(n) for split, n in of.items()},
                "licence": licences.get(name, "not stated"),
            }
            for name, of in sorted(counts.items())
        ]
    )


def _losses(log: Sequence[Mapping[str, str]]) -> str:
    """Mean loss over the steps so far, in ten pieces: single steps are noise."""
    if not log:
        return "No step was taken."
    pieces = [piece for piece in np.array_split(np.arange(len(log)), 10) if len(piece)]
    rows = []
    for piece in pieces:
        values = [float(log[i]["loss"]) for i in piece]
        rows.append(
            {
                "steps": f"{log[piece[0]]['step']} to {log[piece[-1]]['step']}",
                "loss": f"{np.mean([value for value in values if np.isfinite(value)] or [np.nan]):.4f}",
            }
        )
    return _table(rows)


def _table(rows: Sequence[Mapping[str, str]]) -> str:
    names = list(rows[0])
    lines = [f"| {' | '.join(names)} |", "|" + "---|" * len(names)]
    return "\n".join([*lines, *(f"| {' | '.join(row[name] for name in names)} |" for row in rows)])
