"""``cohort fit-tiers``: from which probability on the masks of an engine are accepted."""

from __future__ import annotations

import argparse
import sys
from collections.abc import Callable
from pathlib import Path
from typing import TYPE_CHECKING

from cohort_builder.cli_options import add_engine_options
from cohort_builder.errors import ConfigError

if TYPE_CHECKING:
    from segmentation.tiers import TierTable
    from segmentation.types import Segmenter

_EXAMPLES = (
    "cohort fit-tiers --engine classical --lesions 400 --seed 1 -o tiers.json",
    "cohort fit-tiers --engine sam2ct --weights SAM2CT.pt --device cuda -o tiers.json",
)


def add_fit_tiers(
    verbs: argparse._SubParsersAction[argparse.ArgumentParser], verb: Callable[..., argparse.ArgumentParser]
) -> None:
    """Add the verb."""
    what = "Fit on generated lesions which masks of an engine are good enough for tier A."
    parser = verb(verbs, "fit-tiers", what, *_EXAMPLES)
    add_engine_options(parser)
    add = parser.add_argument
    add("--lesions", type=int, default=400, metavar="N", help="generated lesions to fit on")
    add("--held-out", type=int, default=200, metavar="N", help="further lesions, to check the fit on")
    add("--seed", type=int, default=1, help="the same seed makes the same lesions and prompts")
    out = "fitted tiers to write; a file that is there keeps its other engines; run again to continue"
    add("-o", "--out", type=Path, required=True, metavar="FILE", help=out)
    parser.set_defaults(run=_run)


def _run(options: argparse.Namespace) -> int:
    from cohort_builder.bookkeeping import write_atomically
    from cohort_builder.progress import Progress
    from segmentation.calibration import fit_tiers, summary
    from segmentation.tiers import TierError

    if min(options.lesions, options.held_out) < 1 or options.seed < 0:
        raise ConfigError("--lesions and --held-out must be 1 or more, and --seed 0 or more")
    engine = _engine(options)
    rows = options.out.with_name(f"{options.out.name}.{engine.name}.rows")
    try:
        table = _table(options.out)
        with Progress(show=not options.quiet).stage("lesions", options.lesions + options.held_out) as stage:
            fit = fit_tiers(
                engine,
                lesions=options.lesions,
                held_out=options.held_out,
                seed=options.seed,
                rows=rows,
                progress=stage.advance,
            )
        write_atomically(options.out, table.with_fit(fit).to_json())
    except (TierError, OSError) as error:
        raise ConfigError(
            str(error) if isinstance(error, TierError) else f"{type(error).__name__}: {rows.name}"
        ) from error
    rows.unlink()
    sys.stdout.write(f"{summary(fit)}\n\nwritten to {options.out}\n")
    return 0


def _engine(options: argparse.Namespace) -> Segmenter:
    from segmentation.engines import load_segmenter
    from segmentation.types import EngineError

    try:
        return load_segmenter(options.engine, options.weights, options.device, **dict(options.engine_option or ()))
    except (EngineError, ValueError) as error:
        raise ConfigError(str(error)) from error


def _table(path: Path) -> TierTable:
    from segmentation.tiers import TierTable

    return TierTable.read(path) if path.exists() else TierTable()
