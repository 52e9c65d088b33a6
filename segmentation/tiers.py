"""Fitted tiers: the probability that a mask reaches Dice `GOOD_DICE`, from what `segmentation.checks` measures of it.

One small model for an engine and a kind of prompt: a logistic regression on doubts, each a measure on a scale from 0
(nothing to remark) to 1 (as bad as it gets), with weights that are never negative: more doubt never raises the
probability. `segmentation.calibration` fits them on generated lesions (``cohort fit-tiers``); ``tiers.json`` holds
those of the engines that need no download.
"""

from __future__ import annotations

import hashlib
import json
from collections.abc import Mapping
from dataclasses import asdict, dataclass
from functools import cache, reduce
from importlib.resources import files
from math import exp
from pathlib import Path
from typing import Any

from segmentation.types import Arrow, Bidimensional, Box, Line, Mask, MaskPrompt, Points, Prompt

GOOD_DICE = 0.7
"""A mask of this Dice or more is a good one."""

PRECISION = 0.95
"""Share of good masks that tier A promises."""

VERSION = 1
"""Of the file and of `DOUBTS`: weights fitted on other scales are refused."""

KINDS: Mapping[type[Prompt], str] = {
    Line: "line",
    Bidimensional: "bidimensional",
    Arrow: "arrow",
    Points: "point",
    Box: "box",
    MaskPrompt: "mask",
}
"""Prompt type to the name that its fit has."""

_UNMEASURED = "_unmeasured"


class TierError(ValueError):
    """A file of fitted tiers cannot be read."""


@dataclass(frozen=True, slots=True)
class Doubt:
    """A measure as a doubt: 0 at ``fine`` and on its far side, 1 at ``bad`` and beyond, linear between.

    ``measure`` is one of `checks.measure` (without its ending ``_unmeasured``) or of `checks.evidence`. A measure that
    is absent is doubted fully.
    """

    name: str
    measure: str
    fine: float
    bad: float

    def of(self, values: Mapping[str, float]) -> float:
        """Doubt, 0 to 1, for these measures."""
        value = values.get(self.measure, self.bad)
        return min(max((value - self.fine) / (self.bad - self.fine), 0.0), 1.0)


DOUBTS = (
    Doubt("too_long", "length", 1.05, 1.6),
    Doubt("too_short", "length", 1.05, 0.65),
    Doubt("wide", "width", 1.1, 2.2),
    Doubt("short_axis_long", "short_axis", 1.15, 1.75),
    Doubt("short_axis_short", "short_axis", 1.15, 0.65),
    Doubt("line_outside", "line_inside", 1.0, 0.5),
    Doubt("ends_off_rim", "end_off_rim", 0.0, 0.3),
    Doubt("large", "volume", 0.8, 3.0),
    Doubt("small", "volume", 0.8, 0.1),
    Doubt("tall", "extent_z", 0.6, 2.0),
    Doubt("flat", "extent_z_least", 1.0, 0.4),
    Doubt("area_jump", "area_jump", 1.0, 4.0),
    Doubt("alike", "separation", 1.0, 0.5),
    Doubt("rim_unlike_core", "rim_unlike_core", 0.0, 0.3),
    Doubt("islands", "islands", 0.0, 0.1),
    Doubt("border", "border_distance", 1.0, 0.0),
    Doubt("far_from_arrow", "arrow_reach", 0.0, 1.5),
    Doubt("clicks_disobeyed", "clicks", 1.0, 0.5),
    Doubt("box_disobeyed", "box", 1.0, 0.35),
    Doubt("outline_disobeyed", "outline", 1.0, 0.5),
    Doubt("engine_doubts", "confidence", 1.0, 0.3),
    Doubt("slices_doubted", "slice_confidence", 1.0, 0.3),
    Doubt("slice_doubted", "least_slice_confidence", 1.0, 0.0),
    Doubt("slices_unstable", "slice_stability", 1.0, 0.5),
    Doubt("slice_unstable", "least_slice_stability", 1.0, 0.0),
    Doubt("few_pixels", "pixels_across", 24.0, 3.0),
    Doubt("few_slices", "slices", 8.0, 1.0),
    Doubt("large_lesion", "diameter_mm", 30.0, 150.0),
    Doubt("flags", "penalties", 0.0, 0.6),
)


@dataclass(frozen=True, slots=True)
class KindFit:
    """The model of one kind of prompt.

    Parameters
    ----------
    bias
        Log odds without any doubt.
    weights
        What a full doubt takes from the log odds; not negative. Doubts that are not named take nothing.
    accept
        Least probability of tier A; None: no threshold kept the promise, and nothing is accepted.
    figures
        What the fit says of itself: rows, precision and coverage, on lesions that it did not see.

    """

    bias: float
    weights: Mapping[str, float]
    accept: float | None
    figures: Mapping[str, float]

    def probability(self, doubts: Mapping[str, float]) -> float:
        """Probability of Dice `GOOD_DICE` or more; it never rises with a doubt."""
        logit = self.bias - sum(weight * doubts[name] for name, weight in self.weights.items())
        return 1 / (1 + exp(-max(min(logit, 30.0), -30.0)))


@dataclass(frozen=True, slots=True)
class EngineFit:
    """The models of one engine, by kind of prompt.

    Parameters
    ----------
    engine
        Registered name.
    family
        SHA-256 of its weights, or the revision of its code where it has none: see `family_of`.
    kinds
        By the names of `KINDS`.
    source
        The command, lesions and seed that made it.

    """

    engine: str
    family: str
    kinds: Mapping[str, KindFit]
    source: str


@dataclass(frozen=True, slots=True)
class TierTable:
    """Fits by engine and family."""

    fits: tuple[EngineFit, ...] = ()

    def fit_of(self, mask: Mask, prompt: Prompt) -> KindFit | None:
        """Model for a mask made from ``prompt``; None where its engine, weights or kind were never fitted."""
        name, _, _ = mask.engine.partition("@")
        for fit in self.fits:
            if (fit.engine, fit.family) == (name, family_of(mask)):
                return fit.kinds.get(KINDS[type(prompt)])
        return None

    def with_fit(self, fit: EngineFit) -> TierTable:
        """Return the table with ``fit`` in place of an older one of the same engine and family."""
        others = [f for f in self.fits if (f.engine, f.family) != (fit.engine, fit.family)]
        return TierTable(tuple(sorted((*others, fit), key=lambda f: (f.engine, f.family))))

    @property
    def digest(self) -> str:
        """Hash of what decides about tiers and scores."""
        rows = [
            (fit.engine, fit.family, kind, model.bias, sorted(model.weights.items()), model.accept)
            for fit in self.fits
            for kind, model in sorted(fit.kinds.items())
        ]
        return hashlib.sha256(repr((VERSION, rows)).encode()).hexdigest()[:16]

    def to_json(self) -> str:
        """Text of the file; the same table gives the same bytes."""
        return json.dumps({"version": VERSION, "fits": [asdict(fit) for fit in self.fits]}, indent=1) + "\n"

    @classmethod
    def from_json(cls, text: str) -> TierTable:
        """Read the text of a file.

        Raises
        ------
        TierError
            If it is not such a file, or of another version.

        """
        try:
            content = json.loads(text)
            if content["version"] != VERSION:
                raise TierError(f"fitted tiers of version {content['version']}; version {VERSION} is needed: fit again")
            return cls(tuple(_engine_fit(fit) for fit in content["fits"]))
        except (KeyError, TypeError, AttributeError, json.JSONDecodeError) as error:
            raise TierError(f"no file of fitted tiers ({type(error).__name__})") from error

    @classmethod
    def read(cls, path: Path) -> TierTable:
        """Read a file that ``cohort fit-tiers`` wrote.

        Raises
        ------
        TierError
            If it is not such a file, or of another version.

        """
        return cls.from_json(path.read_text(encoding="utf-8"))


@cache
def shipped() -> TierTable:
    """Fits that come with the package."""
    return TierTable.from_json(files("segmentation").joinpath("tiers.json").read_text(encoding="utf-8"))


def tiers_at(path: str | Path | None) -> TierTable:
    """Fits that come with the package, those of a file beside them or in their place.

    Raises
    ------
    TierError
        If there is no such file, it is another one, or of another version.

    """
    if path is None:
        return shipped()
    try:
        own = TierTable.read(Path(path))
    except (OSError, UnicodeDecodeError) as error:
        raise TierError(f"the fitted tiers {Path(path).name} cannot be read ({type(error).__name__})") from error
    return reduce(TierTable.with_fit, own.fits, shipped())


def family_of(mask: Mask) -> str:
    """What a fit holds for: the weights whatever they run on, or the code's revision where there are none."""
    return mask.weights_sha256 or mask.engine.partition("@")[2]


def doubts_of(values: Mapping[str, float]) -> dict[str, float]:
    """Every doubt of `DOUBTS` for the numbers of `checks.measure` and `checks.evidence`."""
    named = {name.removesuffix(_UNMEASURED): value for name, value in values.items()}
    return {doubt.name: doubt.of(named) for doubt in DOUBTS}


def _engine_fit(content: Mapping[str, Any]) -> EngineFit:
    kinds = {kind: KindFit(**model) for kind, model in content["kinds"].items()}
    known = {doubt.name for doubt in DOUBTS}
    for kind, model in kinds.items():
        if (
            kind not in KINDS.values()
            or not model.weights.keys() <= known
            or min(model.weights.values(), default=0) < 0
        ):
            raise TierError(f"the fit of {content['engine']} for {kind} names what is not known, or a negative weight")
    return EngineFit(content["engine"], content["family"], kinds, content["source"])
