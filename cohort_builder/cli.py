"""The ``cohort`` command: one verb each. Exit 0 done, 1 the run failed, 2 bad arguments."""

from __future__ import annotations

import argparse
import logging
import os
import sys
from collections.abc import Sequence
from importlib import metadata
from pathlib import Path
from typing import TYPE_CHECKING

from cohort_builder.cli_evaluate import add_evaluate
from cohort_builder.cli_fit import add_fit_tiers
from cohort_builder.cli_options import (
    SELECT_EXAMPLE,
    add_engine_options,
    add_select_options,
    name_and_value,
    with_engine_options,
    with_select_options,
)
from cohort_builder.cli_train import add_train
from cohort_builder.errors import CohortError, ConfigError

if TYPE_CHECKING:
    from cohort_builder.config import BuildConfig


def main(arguments: Sequence[str] | None = None) -> int:
    """Run one verb.

    Returns
    -------
    The exit code: 0 done, 1 the run failed, 2 bad arguments.

    """
    parser = _parser()
    options = parser.parse_args(arguments)
    if not hasattr(options, "run"):
        parser.print_help(sys.stderr)
        return 2
    console = logging.StreamHandler(sys.stderr)
    console.setLevel(logging.WARNING if options.quiet else logging.INFO)  # the log of the run keeps everything
    console.addFilter(lambda record: record.levelno < logging.ERROR)  # the error itself is printed below
    logging.basicConfig(level=logging.INFO, format="%(message)s", handlers=[console])
    for noisy in ("datasets", "matplotlib", "pydicom", "highdicom", "filelock", "PIL", "fsspec"):
        logging.getLogger(noisy).setLevel(logging.ERROR)
    from exports.types import ExportError
    from nlp.types import ReportError

    try:
        return int(options.run(options))
    except ConfigError as error:
        print(f"cohort: {error}", file=sys.stderr)
        return 2
    except (CohortError, ReportError, ExportError) as error:
        print(f"cohort: {error}", file=sys.stderr)
        return 1
    except KeyboardInterrupt:
        print("cohort: stopped; the same command goes on, and finished shards are kept", file=sys.stderr)
        return 1
    except Exception as error:  # noqa: BLE001 - its message and its traceback may quote a path or a value of a patient
        print(
            f"cohort: unexpected {type(error).__name__}, please report it; after a build, private/error.txt in the "
            "output folder says where, and may name patients",
            file=sys.stderr,
        )
        return 1


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(
        prog="cohort", description="Turn the annotations radiologists left in their PACS into grounded training data."
    )
    parser.add_argument("--version", action="version", version=f"cohort-builder {metadata.version('cohort-builder')}")
    verbs = parser.add_subparsers(metavar="VERB")
    _add_demo(verbs)
    _add_inspect(verbs)
    _add_build(verbs)
    _add_show(verbs)
    _add_audit(verbs)
    _add_fit_links(verbs)
    add_fit_tiers(verbs, _verb)
    add_train(verbs, _verb)
    add_evaluate(verbs, _verb)
    return parser


class _HelpFormatter(argparse.ArgumentDefaultsHelpFormatter, argparse.RawDescriptionHelpFormatter):
    """Show defaults, where there are some, and each example on a line of its own."""

    def _get_help_string(self, action: argparse.Action) -> str | None:
        return action.help if action.default is None or action.required else super()._get_help_string(action)


def _verb(
    verbs: argparse._SubParsersAction[argparse.ArgumentParser], name: str, help_: str, *examples: str
) -> argparse.ArgumentParser:
    parser = verbs.add_parser(
        name,
        help=help_,
        description=help_,
        epilog="\n".join(f"example: {example}" for example in examples),
        formatter_class=_HelpFormatter,
    )
    parser.add_argument("-q", "--quiet", action="store_true", help="no progress, only warnings and the result")
    return parser


def _add_demo(verbs: argparse._SubParsersAction[argparse.ArgumentParser]) -> None:
    parser = _verb(
        verbs, "demo", "Generate a hospital, build its cohort, and score it against the truth.", "cohort demo -o demo"
    )
    parser.add_argument("-o", "--out", type=Path, default=Path("demo"), help="folder to write to")
    parser.add_argument("--patients", type=_positive, default=12, help="how many patients the hospital has")
    parser.add_argument("--seed", type=_not_negative, default=0, help="the same seed makes the same hospital")
    parser.add_argument("--engine", default="classical", help="segmentation engine")
    parser.add_argument("--workers", type=_positive, default=2, help="processes")
    parser.set_defaults(run=_demo)


def _demo(options: argparse.Namespace) -> int:
    from cohort_builder.demo.run import run_demo

    print(
        run_demo(
            options.out,
            patients=options.patients,
            seed=options.seed,
            engine=options.engine,
            workers=options.workers,
            progress=not options.quiet,
        )
    )
    return 0


def _add_inspect(verbs: argparse._SubParsersAction[argparse.ArgumentParser]) -> None:
    parser = _verb(
        verbs,
        "inspect",
        "Say what an export and its reports hold, what would link, and what a build would take; nothing is kept.",
        "cohort inspect pacs_export/ reports.csv",
        "cohort inspect pacs_export/ --html export.html --sample 500",
    )
    parser.add_argument("pacs_export", metavar="PACS_EXPORT", help="CT series and what is drawn on them, as for build")
    parser.add_argument("reports", nargs="*", type=Path, metavar="REPORTS", help="files of reports, as for build")
    add = parser.add_argument
    add("--json", type=Path, metavar="FILE", help="write the counts for machines, too; -: instead of the text")
    add("--html", type=Path, metavar="FILE", help="write one page to look at and to print, too")
    add("--sample", type=_positive, metavar="N", help="read only N patients, drawn by --seed")
    add("--seed", type=_not_negative, default=0, help="the same seed draws the same patients")
    add("--no-estimate", action="store_true", help="do not try a build of a few patients for its time and size")
    add("--config", type=Path, help="TOML file of options, as for build")
    _add_report_options(parser)
    add_select_options(parser)
    add_engine_options(parser)
    add("--workers", type=_positive, help="processes")
    parser.add_argument(
        "--index", type=Path, metavar="FILE", help="keep the index of the export here; it names patients"
    )
    parser.set_defaults(run=_inspect)


def _inspect(options: argparse.Namespace) -> int:
    import json

    from cohort_builder.bookkeeping import write_atomically
    from cohort_builder.inspect import inspect_export

    to_machine = options.json == Path("-")
    for path in (None if to_machine else options.json, options.html):
        # Before an hour of work, not behind it.
        if path is not None and (path.is_dir() or not os.access(path.parent, os.W_OK | os.X_OK)):
            raise ConfigError(f"{path} cannot be written: give a file in a folder that is there and may be written to")
    inspection = inspect_export(
        options.pacs_export,
        options.reports or None,
        config=with_engine_options(_config(options), options),
        segmenter=options.engine,
        weights=options.weights,
        device=options.device,
        index=options.index,
        sample=options.sample,
        seed=options.seed,
        estimate=not options.no_estimate,
        progress=not options.quiet,
    )
    counts = json.dumps(inspection.as_dict(), indent=1)
    print(counts if to_machine else inspection.summary())
    wanted = {} if options.json is None or to_machine else {options.json: counts + "\n"}
    if options.html is not None:
        wanted[options.html] = inspection.html()
    for path, content in wanted.items():
        try:
            write_atomically(path, content)
        except OSError as error:
            raise ConfigError(f"what was found cannot be written as {path} ({type(error).__name__})") from error
    return 0


def _add_report_options(parser: argparse.ArgumentParser) -> None:
    parser.add_argument(
        "--report-column",
        action="append",
        type=name_and_value,
        metavar="NAME=COLUMN",
        help="column of the reports table that is not found by its name, e.g. text=Befund; may be given several times",
    )
    parser.add_argument(
        "--report-encoding", help="encoding of report files that is not UTF-8 and not declared, e.g. cp1252"
    )


def _config(options: argparse.Namespace) -> BuildConfig:
    """The file of ``--config``, if any, with what the command line says of cases, reports and workers."""
    from dataclasses import replace

    from cohort_builder.config import BuildConfig

    config = BuildConfig() if options.config is None else BuildConfig.from_toml(options.config)
    config = with_select_options(config, options)
    return replace(
        config,
        report_columns={**config.report_columns, **dict(options.report_column or ())},
        report_encoding=options.report_encoding or config.report_encoding,
        workers=config.workers if options.workers is None else options.workers,
    )


def _add_build(verbs: argparse._SubParsersAction[argparse.ArgumentParser]) -> None:
    parser = _verb(
        verbs,
        "build",
        "Build a dataset from reports and a PACS export.",
        "cohort build reports.csv pacs_export/ -o cohort/",
        "cohort build reports.csv pacs_export/ -o cohort/ --engine sam2ct --weights sam2ct.pt --engine-option roi=auto",
        f"cohort build reports.csv pacs_export/ -o cohort/ {SELECT_EXAMPLE}",
    )
    accepted = "files or folders of reports: tables, texts, FHIR, HL7, DICOM SR"
    parser.add_argument("reports", nargs="+", type=Path, metavar="REPORTS", help=accepted)
    parser.add_argument(
        "pacs_export",
        metavar="PACS_EXPORT",
        help="CT series and what is drawn on them: folder, zip, DICOMDIR, or the address of a server (docs/pacs.md)",
    )
    parser.add_argument("-o", "--out", type=Path, required=True, help="folder to build in; run again to continue")
    parser.add_argument("--config", type=Path, help="TOML file of options")
    _add_report_options(parser)
    add_select_options(parser)
    add_engine_options(parser)
    parser.add_argument(
        "--extractor",
        help="findings extractor: rules (the default), which needs no weights, or radgraph, which does",
    )
    parser.add_argument(
        "--extractor-option",
        action="append",
        type=name_and_value,
        metavar="NAME=VALUE",
        help="option of the extractor, e.g. model=radgraph or archive=radgraph.tar.gz; may be given several times",
    )
    parser.add_argument("--workers", type=_positive, help="processes")
    parser.add_argument("--key", type=Path, help="pseudonym key of the site; default: the user's configuration folder")
    parser.set_defaults(run=_build)


def _build(options: argparse.Namespace) -> int:
    from dataclasses import replace

    from cohort_builder.build import build_cohort

    config = with_engine_options(_config(options), options)
    if options.extractor_option:
        chosen = {**config.extractor_options, **dict(options.extractor_option)}
        config = replace(config, extractor=options.extractor or config.extractor, extractor_options=chosen)
    cohort = build_cohort(
        options.reports,
        options.pacs_export,
        out=options.out,
        config=config,
        extractor=options.extractor,
        segmenter=options.engine,
        weights=options.weights,
        device=options.device,
        key=options.key,
        progress=not options.quiet,
    )
    print(cohort.summary())
    print(
        f"\ndataset   {cohort.dataset_path}\npictures  {cohort.path / 'pictures'}\nprivate   {cohort.path / 'private'}"
    )
    if (review := cohort.path / "private" / "review.csv").is_file():
        print(f"review    {review}")
    return 0


def _add_show(verbs: argparse._SubParsersAction[argparse.ArgumentParser]) -> None:
    parser = _verb(
        verbs,
        "show",
        "Say what a cohort holds, and draw one of its findings.",
        "cohort show cohort/ --finding 3 -o 3.png",
    )
    parser.add_argument("cohort", type=Path, metavar="DIR", help="folder of a finished build")
    parser.add_argument("--finding", type=int, help="number of a finding to draw, from 0")
    parser.add_argument("-o", "--out", type=Path, default=Path("finding.png"), help="picture to write")
    parser.set_defaults(run=_show)


def _show(options: argparse.Namespace) -> int:
    from cohort_builder.cohort import open_cohort

    cohort = open_cohort(options.cohort)
    print(cohort.summary())
    if options.finding is not None:
        if not 0 <= options.finding < len(cohort):
            raise ConfigError(f"finding {options.finding} does not exist: the cohort has {len(cohort)}, from 0")
        picture = cohort.show(options.finding)
        try:
            picture.save(options.out)
        except (OSError, ValueError) as error:
            raise ConfigError(f"the picture cannot be written as {options.out} ({type(error).__name__})") from error
        print(f"finding {options.finding} is drawn in {options.out}")
    return 0


def _add_audit(verbs: argparse._SubParsersAction[argparse.ArgumentParser]) -> None:
    parser = _verb(
        verbs, "audit", "Search all that a build publishes for what identifies a patient.", "cohort audit cohort/"
    )
    parser.add_argument("cohort", type=Path, metavar="DIR", help="folder of a finished build")
    parser.set_defaults(run=_audit)


def _audit(options: argparse.Namespace) -> int:
    from cohort_builder.cohort import open_cohort

    leaks = open_cohort(options.cohort).audit()
    for leak in leaks:
        print(f"{leak.kind}: {leak.where}")
    print(f"{len(leaks)} places hold something identifying" if leaks else "nothing identifying found")
    return 1 if leaks else 0


def _add_fit_links(verbs: argparse._SubParsersAction[argparse.ArgumentParser]) -> None:
    parser = _verb(
        verbs,
        "fit-links",
        "Refit the parameters of the links on the verdicts in private/review.csv.",
        "cohort fit-links cohort/ -o link.toml",
        "cohort build reports.csv pacs_export/ -o cohort/ --config link.toml",
    )
    parser.add_argument("cohorts", nargs="+", type=Path, metavar="DIR", help="folders of finished builds")
    parser.add_argument("-o", "--out", type=Path, default=Path("link.toml"), help="configuration to write")
    parser.add_argument("--config", type=Path, help="TOML file to start from; default: what the first build used")
    parser.set_defaults(run=_fit_links)


def _fit_links(options: argparse.Namespace) -> int:
    from cohort_builder.config import BuildConfig
    from cohort_builder.linking.refit import refit_links, write_toml

    start = None if options.config is None else BuildConfig.from_toml(options.config).link
    refit = refit_links(options.cohorts, start)
    write_toml(options.out, refit)
    print(refit.summary())
    print(f"\nwritten to {options.out}; use it with cohort build --config {options.out}")
    return 0


def _positive(text: str) -> int:
    return _at_least(1, text)


def _not_negative(text: str) -> int:
    return _at_least(0, text)


def _at_least(least: int, text: str) -> int:
    value = int(text)
    if value < least:
        raise argparse.ArgumentTypeError(f"must be {least} or more, got {value}")
    return value


if __name__ == "__main__":
    sys.exit(main())
