"""``cohort fit-links``: the join's parameters, refitted on what people said in ``private/review.csv``."""

from __future__ import annotations

import json
import tomllib
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

from cohort_builder.bookkeeping import write_atomically
from cohort_builder.config import BuildConfig
from cohort_builder.errors import ConfigError
from cohort_builder.linking.calibration import fit_link_model
from cohort_builder.linking.config import LinkConfig
from cohort_builder.review.file import ReviewRow, read_review
from cohort_builder.review.judging import FILE, JUDGED

LEAST_VERDICTS, LEAST_OF_EACH = 50, 10
"""Fewer verdicts, or fewer right or wrong ones, say less than the parameters that were there before."""


@dataclass(frozen=True, slots=True)
class Refit:
    """Parameters before and after, and the verdicts that made the difference."""

    before: LinkConfig
    after: LinkConfig
    right: int
    wrong: int

    def summary(self) -> str:
        """How many verdicts were used, and each parameter that changed."""
        changed = {
            name: (old, new) for name, old in asdict(self.before).items() if (new := asdict(self.after)[name]) != old
        }
        lines = [f"{self.right + self.wrong} verdicts: {self.right} right, {self.wrong} wrong"]
        lines += [f"  {name:<26}{old:>12.4g} -> {new:.4g}" for name, (old, new) in changed.items()]
        return "\n".join(lines if changed else [*lines, "  no parameter changed"])

    def as_toml(self) -> str:
        """A configuration that ``cohort build --config`` takes: the ``[link]`` table whole."""
        head = (
            f"# Fitted on {self.right + self.wrong} reviewed links ({self.right} right, {self.wrong} wrong).\n[link]\n"
        )
        return head + "".join(f"{name} = {value!r}\n" for name, value in asdict(self.after).items())


def refit_links(cohorts: Sequence[str | Path], start: LinkConfig | None = None) -> Refit:
    """Fit the join on the verdicts of finished builds.

    Parameters
    ----------
    cohorts
        Folders of builds with their private folders.
    start
        Parameters to begin with; by default those that the first build used.

    Raises
    ------
    ConfigError
        A folder holds no build, its verdicts cannot be read or contradict those of another, or there are fewer than
        ``LEAST_VERDICTS``, or fewer than ``LEAST_OF_EACH`` right or wrong ones.

    """
    rows: dict[str, dict[str, Any]] = {}
    for number, cohort in enumerate(cohorts, start=1):
        for row in _judged(Path(cohort), number):
            known = rows.setdefault(row["review_id"], row)
            if known["verdict"] is not row["verdict"]:
                raise ConfigError(
                    f"the cohorts {known['cohort']} and {number} judge one pair differently (row {row['row']} of the "
                    "latter); correct one of them"
                )
    right = sum(row["verdict"] for row in rows.values())
    wrong = len(rows) - right
    if len(rows) < LEAST_VERDICTS or min(right, wrong) < LEAST_OF_EACH:
        raise ConfigError(
            f"{len(rows)} verdicts with features ({right} right, {wrong} wrong) are too few to fit on: at least "
            f"{LEAST_VERDICTS} are needed, of them {LEAST_OF_EACH} right and {LEAST_OF_EACH} wrong, and some 200 are "
            f"good. Write yes or no into the column verdict of private/{FILE}"
        )
    start = start or _used_by(Path(cohorts[0]))
    return Refit(start, fit_link_model(list(rows.values()), start), right, wrong)


def write_toml(path: Path, refit: Refit) -> None:
    """Write the fitted table; never over a configuration that holds more than a ``[link]``.

    Raises
    ------
    ConfigError
        The file holds something else, or cannot be written.

    """
    try:
        if path.exists() and set(tomllib.loads(path.read_text(encoding="utf-8"))) - {"link"}:
            raise ConfigError(f"{path.name} holds other options too; name another file, and copy its [link] by hand")
        write_atomically(path, refit.as_toml())
    except (OSError, ValueError) as error:
        if isinstance(error, ConfigError):
            raise
        raise ConfigError(f"{path.name} cannot be written, or is no TOML file ({type(error).__name__})") from error


def _judged(cohort: Path, number: int) -> Iterator[dict[str, Any]]:
    """Rows of one cohort that have a verdict and features."""
    path = cohort / "private" / FILE
    if not path.is_file():
        raise ConfigError(
            f"cohort {number} has no private/{FILE}; `cohort build` leaves one (with review = 100 in its configuration)"
        )
    for row in read_review(path).rows:
        features = _features(row.cells["features"])
        if row.right is None or not features:
            continue
        found = {
            "review_id": row.cells["review_id"],
            "verdict": row.right,
            "features": features,
            "reading": row.cells["report"],
            "cohort": number,
            "row": row.number,
        }
        probability = _probability(row)
        yield found if probability is None else found | {"probability": probability}


def _probability(row: ReviewRow) -> float | None:
    """What the linker gave the pair; None where it did not consider it, or a spreadsheet has spoiled the number."""
    try:
        value = float(row.cells["probability"].replace(",", "."))
    except ValueError:
        return None
    return value if 0 <= value <= 1 and row.cells["why"] != JUDGED else None


def _features(text: str) -> Mapping[str, float] | None:
    """What the pair looked like when it was judged; None where a spreadsheet has spoiled it."""
    try:
        found = json.loads(text)
    except ValueError:
        return None
    numbers = isinstance(found, dict) and all(isinstance(value, int | float) for value in found.values())
    return found if numbers else None


def _used_by(cohort: Path) -> LinkConfig:
    """The parameters of the last build in a folder."""
    try:
        link = json.loads((cohort / "run.json").read_text(encoding="utf-8"))["config"]["link"]
        return BuildConfig.from_mapping({"link": link}).link
    except (OSError, ValueError, KeyError, TypeError) as error:
        raise ConfigError(
            "run.json of the first cohort does not say with which parameters it was built, or another version wrote "
            "it; give them with --config"
        ) from error
