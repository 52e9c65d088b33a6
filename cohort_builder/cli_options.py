"""Options of the command line that several verbs share: which cases are used, and by which engine."""

from __future__ import annotations

import argparse
import re
import tomllib
from dataclasses import replace
from datetime import date
from math import inf
from pathlib import Path
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from cohort_builder.config import BuildConfig

SELECT_EXAMPLE = "--from 2015-01-01 --body-part CHEST --slice-thickness 0.5:3 --exclude-patients optout.csv"


def add_select_options(parser: argparse.ArgumentParser) -> None:
    """Add the criteria of ``Selection`` and the choice of series; what is given counts instead of the configuration."""
    parser._negative_number_matcher = re.compile(r"-\.?\d")  # noqa: SLF001 - that -1:3 is a value, and refused as one
    group = parser.add_argument_group(
        "which cases", "instead of what [select] of the configuration says (docs/selecting.md)"
    )
    add = group.add_argument
    add("--accessions", metavar="FILE", help="only these accession numbers: one a line, or a column of a table")
    add("--from", type=_day, dest="studies_from", metavar="DATE", help="first Study Date, as 2015-01-31")
    add("--until", type=_day, dest="studies_until", metavar="DATE", help="last Study Date")
    add("--body-part", action="append", metavar="TERM", help="Body Part Examined; may be given several times")
    add("--manufacturer", action="append", metavar="NAME", help="Manufacturer; may be given several times")
    add("--slice-thickness", type=_range, metavar="MIN:MAX", help="Slice Thickness in mm, e.g. 0.5:3 or :3")
    add("--contrast", choices=("any", "with", "without"), help="CT series with or without contrast agent")
    add("--age", type=_range, metavar="MIN:MAX", help="Patient's Age in years, e.g. 18:90 or 18:")
    add("--sex", choices=("any", "F", "M", "O"), help="Patient's Sex")
    add("--exclude-patients", metavar="FILE", help="opt-out list: nothing of these Patient IDs is used or kept")
    add(
        "--target-series",
        choices=("same", "thinnest"),
        help="segment on the series that was drawn on (the default), or on the thinnest one of the same acquisition",
    )


def with_select_options(config: BuildConfig, options: argparse.Namespace) -> BuildConfig:
    """Return the configuration with what the command line says of cases and series."""
    given: dict[str, Any] = {
        "accession_numbers": options.accessions,
        "studies_from": options.studies_from,
        "studies_until": options.studies_until,
        "body_parts": options.body_part,
        "manufacturers": options.manufacturer,
        "slice_thickness_mm": options.slice_thickness,
        "contrast": options.contrast,
        "age_years": options.age,
        "sex": options.sex,
        "exclude_patients": options.exclude_patients,
    }
    select = replace(config.select, **{name: value for name, value in given.items() if value is not None})
    return replace(config, select=select, target_series=options.target_series or config.target_series)


def _day(text: str) -> date:
    try:
        return date.fromisoformat(text)
    except ValueError as error:
        raise argparse.ArgumentTypeError(f"must be a day as 2015-01-31, got {text!r}") from error


def _range(text: str) -> tuple[float, float]:
    least, colon, greatest = text.partition(":")
    try:
        found = (float(least or 0), float(greatest or inf))
    except ValueError:
        found = (1.0, 0.0)
    if not colon or not (least or greatest) or not 0 <= found[0] <= found[1]:
        raise argparse.ArgumentTypeError(f"must be MIN:MAX, MIN: or :MAX, from 0, got {text!r}")
    return found


def add_engine_options(parser: argparse.ArgumentParser) -> None:
    """Add the choice of the segmentation engine, its weights and its device."""
    parser.add_argument(
        "--engine",
        help="segmentation engine: classical (the default) or ellipsoid, which need no weights; "
        "sam2, medsam2, sam2ct or sam2-ft, whose weights others publish; sam2ct-nano, unet3d, dynunet or swin-unetr, "
        "which `cohort train` trains",
    )
    parser.add_argument(
        "--engine-option",
        action="append",
        type=name_and_value,
        metavar="NAME=VALUE",
        help="option of the engine, e.g. roi=auto or mcm=false; may be given several times",
    )
    parser.add_argument(
        "--weights",
        type=Path,
        help="weights of the engine: a file, or a folder that holds it; by default the folder in COHORT_WEIGHTS",
    )
    parser.add_argument("--device", default="auto", help="auto (a GPU where there is one), cpu, cuda or cuda:N")


def with_engine_options(config: BuildConfig, options: argparse.Namespace) -> BuildConfig:
    """Return the configuration with the options of the engine that the command line gives."""
    return replace(config, engine_options={**config.engine_options, **dict(options.engine_option or ())})


def name_and_value(text: str) -> tuple[str, object]:
    """Read NAME=VALUE, the value as in TOML; what is none there is a text."""
    name, equals, value = text.partition("=")
    if not name or not equals:
        raise argparse.ArgumentTypeError(f"must be NAME=VALUE, got {text!r}")
    try:
        return name, tomllib.loads(f"value = {value}")["value"]
    except tomllib.TOMLDecodeError:
        return name, value
