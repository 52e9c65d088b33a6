"""How a cohort is built: one frozen object, readable from TOML."""

from __future__ import annotations

import tomllib
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import asdict, dataclass, field, fields
from pathlib import Path
from typing import Any, Literal, get_args

from cohort_builder.anatomy.locators import LOCATORS
from cohort_builder.cases.selection import Selection
from cohort_builder.errors import ConfigError
from cohort_builder.linking.config import LinkConfig
from nlp import EXTRACTORS
from nlp.reports import OnError, read_reports
from nlp.types import Report
from segmentation.tiers import TierError, TierTable, tiers_at

VolumesPolicy = Literal["none", "linked", "all"]
Tier = Literal["A", "B", "C"]
TargetSeries = Literal["same", "thinnest"]
PixelOrigin = Literal["corner", "center", "one_based"]


@dataclass(frozen=True, slots=True, kw_only=True)
class BuildConfig:
    """Options of ``build_cohort``. Every field changes what is published, except those marked *(run)*.

    Parameters
    ----------
    engine
        Name of the segmentation engine (``segmentation.load_segmenter``).
    engine_options
        Options of that engine by name, of plain values: numbers, texts, booleans and lists of them.
    extractor
        Name of the findings extractor (``nlp.load_extractor``).
    extractor_options
        Options of that extractor by name, of plain values. Those that only say where on this machine its model lies
        and how it runs are not published and rebuild nothing.
    report_columns
        Our column names to those of the reports table, where these are not found by their usual names: "text" to
        "Befund", or to a list of columns (docs/reports.md) *(run)*.
    report_encoding
        Character encoding of the report files, if it is neither UTF-8 nor declared by them *(run)*.
    select
        Which studies and CT series are used (docs/selecting.md). What it leaves out rebuilds only the shards of the
        patients that it is of.
    target_series
        Which CT series a lesion is segmented on: the "same" that it was drawn on, or the "thinnest" of the same frame
        of reference and phase, onto which the drawing is carried in patient space.
    pixel_origin
        Where pixel coordinates of drawings begin, by writer, for those that do not keep to the standard: "corner" (the
        standard, PS3.3 C.10.5: 0 is the edge of the first pixel), "center" (0 is its centre) or "one_based" (1 is its
        centre). A writer is "manufacturer", "manufacturer/model" or "manufacturer/model/version", as ``cohort inspect``
        shows it (docs/annotations.md).
    link
        Thresholds and terms of the join.
    anatomy
        What names the organ under each stroke, as evidence for links: "regions", "totalsegmentator" or "none"
        (docs/anatomy.md).
    volumes
        Which whole CT series are published: none, those with a linked finding, or all with a lesion.
    min_tier
        Worst quality tier that is published ("A" best). A mask below it becomes a Skip: a leaked mask poisons a model.
    tiers
        File that ``cohort fit-tiers`` wrote: its fits count beside the shipped ones, and in their place.
    roi_margin_mm, roi_min_mm
        Margin around mask and annotation, and least edge length, of the published crop.
    shard_mb
        Uncompressed CT megabytes that one shard (the unit of resuming) aims at.
    max_skip_fraction
        A stage in which more than this share of the items *failed* ends the run *(run)*.
    pictures
        How many per-finding pictures are drawn *(run)*.
    review
        How many links are offered for review in ``private/review.csv``, each with a picture *(run)*.
    workers
        Processes that build shards; 1 builds in this process *(run)*.

    """

    engine: str = "classical"
    engine_options: Mapping[str, Any] = field(default_factory=dict)
    extractor: str = "rules"
    extractor_options: Mapping[str, Any] = field(default_factory=dict)
    report_columns: Mapping[str, str | Sequence[str]] = field(default_factory=dict)
    report_encoding: str | None = None
    select: Selection = field(default_factory=Selection)
    target_series: TargetSeries = "same"
    pixel_origin: Mapping[str, str] = field(default_factory=dict)
    link: LinkConfig = field(default_factory=LinkConfig)
    anatomy: str = "regions"
    volumes: VolumesPolicy = "linked"
    min_tier: Tier = "B"
    tiers: str | None = None
    roi_margin_mm: float = 20.0
    roi_min_mm: float = 64.0
    shard_mb: int = 256
    max_skip_fraction: float = 0.5
    pictures: int = 24
    review: int = 100
    workers: int = 1

    def __post_init__(self) -> None:
        _require_plain("engine_options", self.engine_options)
        _require_plain("extractor_options", self.extractor_options)
        _require_plain("report_columns", self.report_columns)
        _require_plain("pixel_origin", self.pixel_origin)
        for writer, origin in self.pixel_origin.items():
            _require(origin in get_args(PixelOrigin), f"pixel_origin.{writer}", origin, get_args(PixelOrigin))
        _require(
            self.target_series in get_args(TargetSeries), "target_series", self.target_series, get_args(TargetSeries)
        )
        _require(self.anatomy in LOCATORS, "anatomy", self.anatomy, sorted(LOCATORS))
        _require(self.volumes in get_args(VolumesPolicy), "volumes", self.volumes, get_args(VolumesPolicy))
        _require(self.min_tier in get_args(Tier), "min_tier", self.min_tier, get_args(Tier))
        self.tier_table()
        _require(self.roi_margin_mm >= 0, "roi_margin_mm", self.roi_margin_mm, "0 or more")
        _require(self.roi_min_mm > 0, "roi_min_mm", self.roi_min_mm, "more than 0")
        _require(self.shard_mb >= 1, "shard_mb", self.shard_mb, "1 or more")
        _require(0 <= self.max_skip_fraction <= 1, "max_skip_fraction", self.max_skip_fraction, "0 to 1")
        _require(self.pictures >= 0, "pictures", self.pictures, "0 or more")
        _require(self.review >= 0, "review", self.review, "0 or more")
        _require(self.workers >= 1, "workers", self.workers, "1 or more")

    @classmethod
    def from_toml(cls, path: str | Path) -> BuildConfig:
        """Read a TOML file: top-level keys as above; ``select``, ``pixel_origin``, ``link`` and options are tables.

        Raises
        ------
        ConfigError
            If the file cannot be read, or holds an unknown key or a value out of range.

        """
        try:
            with Path(path).open("rb") as stream:
                table = tomllib.load(stream)
        except (OSError, tomllib.TOMLDecodeError) as error:
            reason = error.strerror if isinstance(error, OSError) else error
            raise ConfigError(f"the configuration {Path(path).name} cannot be read: {reason}") from error
        return cls.from_mapping(table)

    @classmethod
    def from_mapping(cls, table: Mapping[str, Any]) -> BuildConfig:
        """Build from nested mappings, refusing unknown keys."""
        parts: dict[str, type[LinkConfig | Selection]] = {"link": LinkConfig, "select": Selection}
        for name, kind in parts.items():
            part = table.get(name, {})
            if not isinstance(part, Mapping):
                raise ConfigError(f"[{name}] must be a table, got a {type(part).__name__}")
            _refuse_unknown(f"[{name}]", part, {f.name for f in fields(kind)})
        _refuse_unknown("the configuration", table, {f.name for f in fields(cls)})
        try:
            return cls(**{**table, **{name: kind(**table.get(name, {})) for name, kind in parts.items()}})
        except (TypeError, ValueError) as error:
            raise ConfigError(f"the configuration is not valid: {error}") from error

    def tier_table(self) -> TierTable:
        """Read the fitted tiers."""
        try:
            return tiers_at(self.tiers)
        except TierError as error:
            raise ConfigError(str(error)) from error

    def open_reports(self, source: Any, *, on_error: OnError) -> Iterator[Report]:
        """Open the reports as these options say (``nlp.read_reports``)."""
        return read_reports(
            source, columns=self.report_columns or None, encoding=self.report_encoding, on_error=on_error
        )

    def as_dict(self, *, places: bool = True) -> dict[str, Any]:
        """Plain values; without ``places``, for run.json and the card, those that name no folder of this machine.

        Nor anybody in it: of the lists of the selection they say only how long they are.
        """
        values = asdict(self)
        if not places:
            values["select"] = self.select.as_public()
            values["tiers"] = self.tiers and self.tier_table().digest
            kept = EXTRACTORS.get(self.extractor)
            private: frozenset[str] = getattr(kept, "neutral_options", frozenset())
            values["extractor_options"] = {
                name: value for name, value in self.extractor_options.items() if name not in private
            }
        return values

    def what_is_published(self) -> dict[str, Any]:
        """The options that decide about content."""
        of_the_run = {"pictures", "review", "workers", "max_skip_fraction", "report_columns", "report_encoding"}
        return {name: value for name, value in self.as_dict(places=False).items() if name not in of_the_run}

    def what_a_shard_holds(self) -> dict[str, Any]:
        """Those of them that decide about the content of every shard: a change rebuilds all.

        The selection is not among them: it decides shard by shard, by what it leaves of their patients.
        """
        return {name: value for name, value in self.what_is_published().items() if name != "select"}


def _require(ok: bool, name: str, got: object, allowed: object) -> None:
    if not ok:
        raise ConfigError(f"{name} must be {allowed}, got {got!r}")


def _require_plain(table: str, options: object) -> None:
    if not isinstance(options, Mapping):
        raise ConfigError(f"[{table}] must be a table, got {options!r}")
    for name, value in options.items():
        items = value if isinstance(value, list | tuple) else [value]
        ok = all(isinstance(item, str | int | float) for item in items)
        _require(ok, f"{table}.{name}", value, "a number, a text, true, false or a list of them")


def _refuse_unknown(where: str, table: Mapping[str, Any], known: set[str]) -> None:
    unknown = sorted(set(table) - known)
    if unknown:
        raise ConfigError(f"{where} has unknown keys {unknown}; known are {sorted(known)}")
