"""``cohort train``: a network from lesions with masks."""

from __future__ import annotations

import argparse
import shlex
import sys
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

from cohort_builder.cli_options import name_and_value
from cohort_builder.errors import CohortError, ConfigError

if TYPE_CHECKING:
    from segmentation.training.cache import Cache
    from segmentation.training.card import Provenance
    from segmentation.training.config import TrainConfig

_EXAMPLES = (
    "cohort train generated:5000 -o nano/ --preset nano",
    "cohort train kits23:/data/kits23 lits17:/data/lits17 -o sam2ct/ --preset sam2ct --weights sam2.1_hiera_tiny.pt",
    "cohort train dataset:cohort/dataset generated:2000 -o mine/ --preset nano --steps 4000 --minutes 60",
)
_PRESETS = (
    "nano", "nano-no-mcm", "nano-no-image-prompt", "unet3d", "sam2ct", "sam2-ft", "medsam2", "dynunet", "swin-unetr"
)  # fmt: skip
"""Keys of `segmentation.training.config.PRESETS`, written out: --help imports no torch."""
_OWN = {"generated": "of this package (Apache-2.0)"}


def add_train(
    verbs: argparse._SubParsersAction[argparse.ArgumentParser], verb: Callable[..., argparse.ArgumentParser]
) -> None:
    """Add the verb."""
    parser = verb(verbs, "train", "Train an engine on lesions with masks.", *_EXAMPLES)
    add = parser.add_argument
    add(
        "sources", nargs="+", metavar="SOURCE", help="lesions with masks: KIND:PLACE[,NAME=VALUE...] (docs/training.md)"
    )
    add("-o", "--out", type=Path, required=True, help="folder to train in; run again to go on")
    add("--preset", choices=_PRESETS, default="nano", help="network and training")
    add("--steps", type=int, help="steps, instead of the preset's steps or epochs")
    add("--seed", type=int, default=0, help="the same seed and options give the same weights")
    add("--weights", type=Path, help="weights to start from; sam2ct, sam2-ft and medsam2: those of SAM 2.1 tiny")
    add("--set", action="append", type=name_and_value, metavar="NAME=VALUE", dest="changes",
        help="another field of TrainConfig, e.g. learning_rate=1e-3")  # fmt: skip
    add(
        "--on-nan",
        choices=("stop", "skip"),
        help="a loss that is no number: stop with the batch saved, or leave it out",
    )
    add("--licence", action="append", type=_licence, metavar="NAME=TEXT", help="licence of a data set, for the card")
    group = parser.add_argument_group("where it runs; changes nothing of the result")
    add = group.add_argument
    add("--device", default="auto", help="auto (a GPU where there is one), cpu or cuda")
    add("--workers", type=int, default=0, help="processes that draw lesions ahead of the network; 0: none")
    add("--threads", type=int, help="threads of the network on a CPU; default: as torch chooses")
    add("--minutes", type=float, help="stop after so long, to be resumed by the same command")
    add("--cache", type=Path, help="folder of the cut-out lesions; default: OUT/cache")
    add("--resume", action=argparse.BooleanOptionalAction, default=True, help="go on with what the folder holds")
    parser.set_defaults(run=_train)


def _train(options: argparse.Namespace) -> int:
    from cohort_builder.training import open_sources
    from segmentation.training.cache import CacheError, CropPolicy, fill_cache
    from segmentation.training.config import PRESETS, TrainingError
    from segmentation.training.manifest import ManifestError
    from segmentation.types import EngineError

    try:
        config = _config(options, PRESETS[options.preset])
    except (ValueError, TypeError) as error:
        raise ConfigError(str(error)) from error
    folder = options.cache or options.out / "cache"
    policy = CropPolicy(in_plane=None) if config.sees_whole_slices else CropPolicy()
    try:
        sources = open_sources(options.sources, policy=policy, seed=options.seed, workers=max(options.workers, 1))
        folder.mkdir(parents=True, exist_ok=True)
        with _alone(folder):
            cache = fill_cache(sources, folder, workers=max(options.workers, 1))
        digests = {spec: source.digest for spec, source in zip(options.sources, sources, strict=True)}
        path = _run(options, config, cache, digests)
    except (CacheError, ManifestError, TrainingError, EngineError) as error:
        raise CohortError(str(error)) from error
    print(f"weights   {path}\ncard      {path.with_name('card.md')}\nlog       {path.with_name('log.csv')}")  # noqa: T201
    return 0


def _run(options: argparse.Namespace, config: TrainConfig, cache: Cache, digests: dict[str, str]) -> Path:
    try:
        import torch
    except ModuleNotFoundError as error:
        raise CohortError("training needs torch: pip install 'cohort-builder[train]'") from error
    from segmentation.training.trainees import make_trainee
    from segmentation.training.trainer import train

    if options.threads:
        torch.set_num_threads(options.threads)
    trainee = make_trainee(config, options.weights)
    origin = _origin(options, digests)
    return train(
        trainee, cache, config, options.out, resume=options.resume, progress=not options.quiet, provenance=origin
    )


def _config(options: argparse.Namespace, preset: TrainConfig) -> TrainConfig:
    """Preset with what the command line says."""
    changes = {name: tuple(v) if isinstance(v, list) else v for name, v in options.changes or ()}
    refused = {"preset", "model", "augmentation", "loss"} & changes.keys()
    if refused:
        raise ValueError(f"--set cannot change {', '.join(sorted(refused))}: train from Python (docs/training.md)")
    given: dict[str, Any] = {
        "seed": options.seed,
        "device": options.device,
        "workers": options.workers,
        "minutes": options.minutes,
        "on_nan": options.on_nan or preset.on_nan,
    }
    if options.steps is not None:
        given |= {"steps": options.steps, "epochs": None}
    return replace(preset, **{**given, **changes})


def _origin(options: argparse.Namespace, digests: dict[str, str]) -> Provenance:
    from segmentation.sam2ct.checkpoints import sha256_of
    from segmentation.training.card import Provenance

    started = "" if options.weights is None else f"{options.weights.name}, SHA-256 `{sha256_of(options.weights)}`"
    command = shlex.join(["cohort", *sys.argv[1:]])
    return Provenance(command, digests, _OWN | dict(options.licence or ()), started)


def _alone(folder: Path) -> Any:
    """Let the processes of one training fill its cache one after the other: all but the first find it filled."""
    from filelock import FileLock

    return FileLock(folder / ".lock")


def _licence(text: str) -> tuple[str, str]:
    name, equals, licence = text.partition("=")
    if not name or not equals:
        raise argparse.ArgumentTypeError(f"must be NAME=TEXT, got {text!r}")
    return name, licence
