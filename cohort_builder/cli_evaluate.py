"""``cohort evaluate``: engines on lesions with a truth, and the papers' tables."""

from __future__ import annotations

import argparse
import sys
from collections import Counter
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import replace
from functools import partial
from math import isfinite
from pathlib import Path
from typing import TYPE_CHECKING, Any

from cohort_builder.cli_options import name_and_value
from cohort_builder.errors import CohortError, ConfigError, SetupError

if TYPE_CHECKING:
    from segmentation.evaluation.contenders import Contender
    from segmentation.evaluation.run import Unit
    from segmentation.training.samples import Sample
    from segmentation.training.sources import Source
    from segmentation.types import Segmenter

_EXAMPLES = (
    "cohort evaluate lidc=seg:lidc/ own=nifti:ct/,labels/ --split all --engine classical --engine ellipsoid -o scores/",
    "cohort evaluate kits23:/data/kits23 --engine sam2ct --engine sam2-ft --prompts line,box --table 2 -o scores/",
    "cohort evaluate seg:lidc/ --engine ours=sam2ct --fold ours=a.safetensors:left_out_a.txt -o scores/",
)

AddVerb = Callable[..., argparse.ArgumentParser]


def add_evaluate(verbs: argparse._SubParsersAction[argparse.ArgumentParser], add_verb: AddVerb) -> None:
    """Add the verb; ``add_verb`` is given the verbs, its name, what it does and examples."""
    what = "Score engines on lesions with a truth, and lay the result out as the papers' tables."
    parser = add_verb(verbs, "evaluate", what, *_EXAMPLES)
    add = parser.add_argument
    sources = "lesions with a truth, as for train (docs/evaluation.md), under a name of your own in tables where given"
    add("sources", nargs="+", metavar="[NAME=]KIND:PLACE", help=sources)
    add("-o", "--out", type=Path, required=True, help="folder to write to; run again to continue")
    add("--split", choices=("train", "val", "test", "all"), default="test", help="which part of the sources")
    kinds = "some of line, bidimensional, arrow, point, box, mask, with commas"
    add("--prompts", type=_kinds, default="line", metavar="KINDS", help=kinds)
    add("--prompts-per-lesion", type=_positive, default=1, metavar="N", help="of each kind")
    add("--drawing", choices=("paper", "as-drawn"), default="paper", help="how prompts are simulated")
    add("--seed", type=_not_negative, default=0, help="of splits (as in training) and prompts")
    add(
        "--size-cut",
        type=_millimetres,
        default=20.0,
        metavar="MM",
        help="longest diameter from which a lesion is large",
    )
    _add_engines(parser.add_argument_group("engines"))
    add = parser.add_argument_group("layout").add_argument
    add("--table", action="append", type=int, choices=(2, 3, 4, 5), help="lay out as this table of the SAM2CT paper")
    add("--figure", action="append", type=int, choices=(4, 5), help="draw as this figure of the SAM2CT paper")
    add("--no-pictures", action="store_true", help="do not draw the worst, median and best cases")
    parser.set_defaults(run=_run)


def _add_engines(group: argparse._ArgumentGroup) -> None:
    add = group.add_argument
    names = "engine, under a label of your own where it is there twice; may be given several times"
    add("--engine", action="append", type=_label_and_name, metavar="[LABEL=]NAME", help=names)
    add("--weights", action="append", type=_labelled, metavar="LABEL=PATH", help="weights of an engine")
    add("--engine-option", action="append", type=_option, metavar="LABEL:NAME=VALUE", help="e.g. sam2:roi=auto")
    add("--device", default="auto", help="auto (a GPU where there is one), cpu, cuda or cuda:N")
    fold = "leave patients out: weights, and a text file of the patients that they have not seen, one id a line"
    add("--fold", action="append", type=_labelled, metavar="LABEL=WEIGHTS:PATIENTS", help=fold)
    add("--tiers", type=Path, metavar="FILE", help="fitted tiers (fit-tiers) beside the shipped ones")
    mcm = "sam2, medsam2 and sam2-ft a second time, with memory-conditioned memories (SAM2CT, section 3.4)"
    add("--test-time-mcm", action="store_true", help=mcm)


def _run(options: argparse.Namespace) -> int:
    from segmentation.evaluation.run import EvaluationError
    from segmentation.training.manifest import ManifestError
    from segmentation.types import EngineError

    try:
        sys.stdout.write(_evaluate(options))
    except EngineError as error:
        raise SetupError(str(error)) from error
    except (EvaluationError, ManifestError) as error:
        raise CohortError(str(error)) from error
    return 0


def _evaluate(options: argparse.Namespace) -> str:
    """Evaluate, write the report, and say the main figures."""
    from cohort_builder.progress import Progress
    from segmentation.evaluation.figures import draw_figure
    from segmentation.evaluation.pictures import draw_cases
    from segmentation.evaluation.report import engine_table, write_report
    from segmentation.evaluation.run import Plan, run_evaluation
    from segmentation.evaluation.summary import summarise

    plan = Plan(options.prompts, options.prompts_per_lesion, options.drawing, options.seed, options.size_cut)
    contenders = _contenders(options)
    _require_askable(plan.kinds, contenders)
    (units, lesions), out = _units(options), options.out
    try:
        out.mkdir(parents=True, exist_ok=True)
    except OSError as error:
        raise ConfigError(f"{out} cannot be made ({type(error).__name__}): give another folder") from error
    with Progress(show=not options.quiet).stage("evaluate", lesions, unit="lesions") as stage:
        run = run_evaluation(units, contenders, plan, out, done=stage.advance)
    summary = summarise(run)
    pictures = []
    for number in sorted(set(options.figure or ())):
        pictures.append(out / f"figure_{number}.png")
        draw_figure(number, run, summary, pictures[-1])
    if not options.no_pictures:
        pictures += draw_cases(units, run, contenders, out).values()
    tables, warnings = sorted(set(options.table or ())), _warnings(options)
    write_report(run, summary, out, tables=tables, pictures=pictures, warnings=warnings)
    said = [
        f"{kind}\n{engine_table([row for row in summary.rows if (row.kind, row.group) == (kind, 'all')])}\n"
        for kind in plan.kinds
        if any(row.kind == kind for row in summary.rows)
    ]
    return "\n".join([*said, f"report  {out / 'report.md'}", ""])


def _require_askable(kinds: Sequence[str], contenders: Sequence[Contender]) -> None:
    """Open every engine; a kind of prompt that none takes ends the run before anything is read."""
    from segmentation.evaluation.cases import can_ask

    engines = [engine for contender in contenders for engine in contender.engines()]
    nobody = [kind for kind in kinds if not any(can_ask(kind, engine.supports) for engine in engines)]
    if nobody:
        raise ConfigError(f"no engine of this run takes {', '.join(nobody)}: leave that out of --prompts")


def _warnings(options: argparse.Namespace) -> list[str]:
    """What may make figures too good: engines with weights, on lesions of the split that is trained on."""
    from segmentation.engines import BEFORE, DEFAULT_ENGINE, WITH_WEIGHTS

    if options.split not in {"train", "all"}:
        return []
    weighed = {label for label, _ in options.weights or ()}
    left_out = {label for label, _ in options.fold or ()} - weighed
    trained = [
        label
        for label, name in options.engine or [(DEFAULT_ENGINE, DEFAULT_ENGINE)]
        if name.removeprefix(BEFORE) in WITH_WEIGHTS and label not in left_out
    ]
    return [
        f"{label}: the lesions here include those of the split train. If its weights were trained on these sources, it "
        "has seen them, and its figures say nothing of other patients (--split test, or --fold)."
        for label in trained
    ]


def _units(options: argparse.Namespace) -> tuple[list[Unit], int | None]:
    """Open the sources, whole CTs, and keep to the split; how many lesions there are, if that is known."""
    from cohort_builder.training import open_sources
    from segmentation.training.samples import CropPolicy
    from segmentation.training.sources import ManifestSource

    whole = CropPolicy(in_plane=None, out_of_plane=0.0, least_slices=sys.maxsize)
    named = [_named(text) for text in options.sources]
    opened = open_sources([spec for _, spec in named], policy=whole, seed=options.seed)
    units: list[Unit] = []
    lesions: int | None = 0
    for (name, _), source in zip(named, opened, strict=True):
        part = source
        if isinstance(source, ManifestSource):
            kept = tuple(entry for entry in source.manifest.entries if options.split in {"all", entry.split})
            part = replace(source, manifest=replace(source.manifest, entries=kept))
            lesions = None if lesions is None else lesions + sum(entry.n_lesions for entry in kept)
        else:
            lesions = None
        units += [partial(_samples, part, number, options.split, name) for number in range(len(part))]
    if not units:
        raise ConfigError(f"these sources have no lesion in the split {options.split!r}; --split all takes every one")
    return units, lesions


def _named(text: str) -> tuple[str, str]:
    """Part [NAME=]KIND:PLACE; an equals sign after the colon is one of the place's options."""
    name, equals, spec = text.partition("=")
    return (name, spec) if equals and ":" not in name else ("", text)


def _samples(source: Source, unit: int, split: str, name: str) -> Iterator[Sample]:
    for sample in source.samples(unit):
        if split in {"all", sample.split}:
            yield replace(sample, dataset=name, sample_id=f"{name}/{sample.sample_id}") if name else sample


def _contenders(options: argparse.Namespace) -> list[Contender]:
    """Make the engines under test; wrong options end the run before anything is read."""
    from segmentation.engines import DEFAULT_ENGINE
    from segmentation.evaluation.ablation import MCM_ENGINES, WITH_MCM
    from segmentation.evaluation.contenders import Contender, folds_of
    from segmentation.tiers import TierError, tiers_at

    engines = options.engine or [(DEFAULT_ENGINE, DEFAULT_ENGINE)]
    labels = Counter(label for label, _ in engines)
    named = {label for given in (options.weights, options.fold, options.engine_option) for label, *_ in given or ()}
    wrong = [f"{label!r} is given twice" for label, count in labels.items() if count > 1]
    wrong += [f"{label!r} is no engine of this run" for label in sorted(named - set(labels))]
    if options.test_time_mcm and not any(name in MCM_ENGINES for _, name in engines):
        wrong.append(f"--test-time-mcm needs one of the engines {', '.join(MCM_ENGINES)}")
    if wrong:
        raise ConfigError("; ".join(wrong))
    weights = {label: Path(path) for label, path in options.weights or ()}
    try:
        tiers = tiers_at(options.tiers)
    except TierError as error:
        raise ConfigError(f"--tiers: {error}") from error
    contenders = []
    for label, name in engines:
        given = {n: value for owner, n, value in options.engine_option or () if owner == label}
        files = [_fold(text) for owner, text in options.fold or () if owner == label]
        try:
            folds = folds_of(files)
        except (ValueError, OSError) as error:
            raise ConfigError(f"--fold {label}: {error}") from error
        variants: list[tuple[str, str, dict[str, Any]]] = [(label, "", given)]
        if options.test_time_mcm and name in MCM_ENGINES:
            variants = [(label, "", {**given, "mcm": False}), (label + WITH_MCM, label, {**given, "mcm": True})]
        for shown, base, chosen in variants:
            load = partial(_load, name, device=options.device, options=chosen)
            contender = Contender(
                shown,
                load,
                weights=weights.get(label),
                folds=folds,
                identity=repr(sorted(chosen.items())),
                tiers=tiers,
                base=base,
            )
            contenders.append(contender)
    return contenders


def _load(name: str, weights: Path | None, *, device: str, options: Mapping[str, Any]) -> Segmenter:
    from segmentation.engines import load_segmenter

    try:
        return load_segmenter(name, weights, device, **options)
    except ValueError as error:
        raise ConfigError(str(error)) from error


def _kinds(text: str) -> tuple[str, ...]:
    from segmentation.prompts import KINDS

    kinds = tuple(dict.fromkeys(kind.strip() for kind in text.split(",")))
    if not set(kinds) <= set(KINDS):
        raise argparse.ArgumentTypeError(f"must be some of {', '.join(KINDS)}, with commas between them; got {text!r}")
    return kinds


def _positive(text: str) -> int:
    value = int(text)
    if value < 1:
        raise argparse.ArgumentTypeError(f"must be 1 or more, got {value}")
    return value


def _not_negative(text: str) -> int:
    value = int(text)
    if value < 0:
        raise argparse.ArgumentTypeError(f"must be 0 or more, got {value}")
    return value


def _millimetres(text: str) -> float:
    value = float(text)
    if not (isfinite(value) and value > 0):
        raise argparse.ArgumentTypeError(f"must be a length in mm, got {text}")
    return value


def _label_and_name(text: str) -> tuple[str, str]:
    label, equals, name = text.partition("=")
    return (label, name) if equals else (text, text)


def _labelled(text: str) -> tuple[str, str]:
    label, equals, value = text.partition("=")
    if not (label and equals and value):
        raise argparse.ArgumentTypeError(f"must begin with the engine that it is for, LABEL=..., got {text!r}")
    return label, value


def _option(text: str) -> tuple[str, str, object]:
    label, colon, rest = text.partition(":")
    if not (label and colon):
        raise argparse.ArgumentTypeError(f"must be LABEL:NAME=VALUE, got {text!r}")
    return label, *name_and_value(rest)


def _fold(text: str) -> tuple[Path, Path]:
    weights, colon, patients = text.rpartition(":")
    if not (weights and colon and patients):
        raise ConfigError(f"--fold must be LABEL=WEIGHTS:PATIENTS, got {text!r} after the label")
    return Path(weights), Path(patients)
