"""How a cohort is built: one frozen object, readable from TOML."""

from __future__ import annotations

import tomllib
from collections.abc import Mapping
from dataclasses import asdict, dataclass, field, fields
from pathlib import Path
from typing import Any, Literal, get_args

from cohort_builder.errors import ConfigError
from cohort_builder.linking import LinkConfig

VolumesPolicy = Literal["none", "linked", "all"]
Tier = Literal["A", "B", "C"]


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
    link
        Thresholds and terms of the join.
    volumes
        Which whole CT series are published: none, those with a linked finding, or all with a lesion.
    min_tier
        Worst quality tier that is published ("A" best). A mask below it becomes a Skip: a leaked mask poisons a model.
    roi_margin_mm, roi_min_mm
        Margin around mask and annotation, and least edge length, of the published crop.
    shard_mb
        Uncompressed CT megabytes that one shard (the unit of resuming) aims at.
    max_skip_fraction
        A stage in which more than this share of the items *failed* ends the run *(run)*.
    pictures
        How many per-finding pictures are drawn *(run)*.
    workers
        Processes that build shards; 1 builds in this process *(run)*.

    """

    engine: str = "classical"
    engine_options: Mapping[str, Any] = field(default_factory=dict)
    extractor: str = "rules"
    link: LinkConfig = field(default_factory=LinkConfig)
    volumes: VolumesPolicy = "linked"
    min_tier: Tier = "B"
    roi_margin_mm: float = 20.0
    roi_min_mm: float = 64.0
    shard_mb: int = 256
    max_skip_fraction: float = 0.5
    pictures: int = 24
    workers: int = 1

    def __post_init__(self) -> None:
        _require_plain(self.engine_options)
        _require(self.volumes in get_args(VolumesPolicy), "volumes", self.volumes, get_args(VolumesPolicy))
        _require(self.min_tier in get_args(Tier), "min_tier", self.min_tier, get_args(Tier))
        _require(self.roi_margin_mm >= 0, "roi_margin_mm", self.roi_margin_mm, "0 or more")
        _require(self.roi_min_mm > 0, "roi_min_mm", self.roi_min_mm, "more than 0")
        _require(self.shard_mb >= 1, "shard_mb", self.shard_mb, "1 or more")
        _require(0 <= self.max_skip_fraction <= 1, "max_skip_fraction", self.max_skip_fraction, "0 to 1")
        _require(self.pictures >= 0, "pictures", self.pictures, "0 or more")
        _require(self.workers >= 1, "workers", self.workers, "1 or more")

    @classmethod
    def from_toml(cls, path: str | Path) -> BuildConfig:
        """Read a TOML file: top-level keys as above, ``[link]`` for the join, ``[engine_options]``.

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
        link = table.get("link", {})
        if not isinstance(link, Mapping):
            raise ConfigError(f"[link] must be a table, got {link!r}")
        _refuse_unknown("[link]", link, {f.name for f in fields(LinkConfig)})
        _refuse_unknown("the configuration", table, {f.name for f in fields(cls)})
        try:
            return cls(**{**table, "link": LinkConfig(**link)})
        except (TypeError, ValueError) as error:
            raise ConfigError(f"the configuration is not valid: {error}") from error

    def as_dict(self) -> dict[str, Any]:
        """Plain values, for run.json."""
        return asdict(self)

    def what_is_published(self) -> dict[str, Any]:
        """The options that decide about content: a change rebuilds the shards."""
        of_the_run = {"pictures", "workers", "max_skip_fraction"}
        return {name: value for name, value in self.as_dict().items() if name not in of_the_run}


def _require(ok: bool, name: str, got: object, allowed: object) -> None:
    if not ok:
        raise ConfigError(f"{name} must be {allowed}, got {got!r}")


def _require_plain(options: object) -> None:
    if not isinstance(options, Mapping):
        raise ConfigError(f"[engine_options] must be a table, got {options!r}")
    for name, value in options.items():
        items = value if isinstance(value, list | tuple) else [value]
        ok = all(isinstance(item, str | int | float) for item in items)
        _require(ok, f"engine_options.{name}", value, "a number, a text, true, false or a list of them")


def _refuse_unknown(where: str, table: Mapping[str, Any], known: set[str]) -> None:
    unknown = sorted(set(table) - known)
    if unknown:
        raise ConfigError(f"{where} has unknown keys {unknown}; known are {sorted(known)}")
