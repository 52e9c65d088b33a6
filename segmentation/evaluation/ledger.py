"""Scores kept between runs: one JSON line each, by engine revision and case."""

from __future__ import annotations

import json
import os
from pathlib import Path
from typing import Any

from segmentation.evaluation.scoring import ENGINE_FAILED, NO_ANSWER, CaseScore

_MEASURED = (
    "dice", "volume_error", "recist_error", "seconds", "failure", "nsd", "hd95_mm", "slices", "flags", "tier", "prompt",
    "longest_mm",
)  # fmt: skip
"""What depends on engine and case content alone; names are those of the run that reads it."""

_TRANSIENT = frozenset({ENGINE_FAILED, NO_ANSWER})
"""Failures that may be over in the next run, as a full memory is: each run tries again."""

_REVISION = 1
"""Raised when the same masks give other figures than before."""


class Ledger:
    """A file of scores that a run appends to, and that the next one goes on from.

    A last line that was cut off by a crash is dropped. Nothing in it names a case, a patient or a path.

    Parameters
    ----------
    path
        Made where it is not there.

    Raises
    ------
    ValueError
        If a line is damaged.

    """

    def __init__(self, path: Path) -> None:
        self._path = path
        self._found: dict[tuple[str, str], dict[str, Any]] = {}
        self.reused = 0
        text = path.read_text() if path.is_file() else ""
        lines = text.splitlines(keepends=True)
        if lines and not lines[-1].endswith("\n"):
            lines.pop()
            os.truncate(path, len("".join(lines).encode()))
        for number, line in enumerate(lines, start=1):
            try:
                values = json.loads(line)
                if values["revision"] == _REVISION and values["score"]["failure"] not in _TRANSIENT:
                    self._found[values["engine"], values["case"]] = {name: values["score"][name] for name in _MEASURED}
            except (ValueError, KeyError, TypeError) as error:
                raise ValueError(f"line {number} of {path.name} is damaged: remove the line, or the file") from error

    def get(self, engine: str, digest: str) -> CaseScore | None:
        """Score of this engine revision on this case, if an earlier run had it; names are empty in it."""
        values = self._found.get((engine, digest))
        if values is None:
            return None
        self.reused += 1
        slices = tuple((int(k), float(value)) for k, value in values["slices"])
        return CaseScore("", "", **{**values, "slices": slices, "flags": tuple(values["flags"])})

    def add(self, engine: str, score: CaseScore) -> None:
        """Append a score, on disk when this returns; not what another run may do better."""
        if score.failure in _TRANSIENT:
            return
        measured = {name: getattr(score, name) for name in _MEASURED}
        line = {"revision": _REVISION, "engine": engine, "case": score.digest, "score": measured}
        with self._path.open("a") as file:
            file.write(json.dumps(line) + "\n")
