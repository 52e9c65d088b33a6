"""The figures of the SAM2CT paper (Church et al. 2026), to lay ours beside."""

from __future__ import annotations

import tomllib
from collections.abc import Sequence
from dataclasses import dataclass
from functools import cache
from importlib.resources import files
from typing import Any

from segmentation.evaluation.scoring import CaseScore
from segmentation.metrics import Interval

ALL_DATASETS = "All Datasets"


@dataclass(frozen=True, slots=True)
class Place:
    """A data set of the paper and which of our samples are of it.

    Parameters
    ----------
    test
        Lesions that the paper tested on; 0 where it does not say.

    """

    name: str
    dataset: str
    category: str
    test: int = 0

    def holds(self, score: CaseScore) -> bool:
        """Whether a case is of it."""
        return (score.dataset, score.category) == (self.dataset, self.category)

    def is_same(self, scores: Sequence[CaseScore]) -> bool:
        """Whether these may be the paper's test lesions: as many. Which lesions it drew is not published."""
        return self.test == len({score.case_id for score in scores})


@dataclass(frozen=True, slots=True)
class Gain:
    """What test-time MCM brought (section 3.4); ``reached`` and ``sam2ct`` are None where the text gives none."""

    model: str
    test_set: str
    gain: float
    p: str
    reached: float | None = None
    sam2ct: float | None = None


@dataclass(frozen=True, slots=True)
class Published:
    """Tables 2 to 5 and section 3.4 as printed.

    Parameters
    ----------
    models
        Name of an engine here to the model of the paper.
    hold_out, external
        Data sets of Table 2 and lesion types of Table 3.
    dice
        Table 2: (data set, model, kind of prompt) to Dice.
    boxes
        Table 3: (lesion type, model) to Dice with a box.
    recist
        Table 4: (model, "hold_out" or "external") to the error in percent.
    emergency
        Table 5: (finding, "original" or "box", model) to Dice.
    gains
        Section 3.4.

    """

    models: dict[str, str]
    hold_out: tuple[Place, ...]
    external: tuple[Place, ...]
    dice: dict[tuple[str, str, str], Interval]
    boxes: dict[tuple[str, str], Interval]
    recist: dict[tuple[str, str], Interval]
    emergency: dict[tuple[str, str, str], Interval]
    gains: tuple[Gain, ...]


@cache
def published() -> Published:
    """Read ``published.toml``."""
    data: dict[str, Any] = tomllib.loads(files("segmentation.evaluation").joinpath("published.toml").read_text())
    return Published(
        models=data["models"],
        hold_out=tuple(Place(**row) for row in data["hold_out"]),
        external=tuple(Place(**row) for row in data["external"]),
        dice={
            (row["dataset"], row["model"], kind): Interval(*value)
            for row in data["table_2"]
            for kind, value in row.items()
            if kind not in ("dataset", "model")
        },
        boxes={
            (kind, row["model"]): Interval(*value)
            for row in data["table_3"]
            for kind, value in row.items()
            if kind != "model"
        },
        recist={
            (row["model"], part): Interval(*row[part]) for row in data["table_4"] for part in ("hold_out", "external")
        },
        emergency={
            (row["finding"], part, model): Interval(*value)
            for row in data["table_5"]
            for part in ("original", "box")
            for model, value in row[part].items()
        },
        gains=tuple(
            Gain(row["model"], row["set"], row["gain"], row["p"], row.get("with_mcm"), row.get("sam2ct"))
            for row in data["test_time_mcm"]
        ),
    )
