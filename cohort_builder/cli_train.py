"""``cohort train``: a network from lesions with masks."""

from __future__ import annotations

import argparse
import re
import shlex
import sys
from collections.abc import Callable, Sequence
from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

from cohort_builder.cli_options import name_and_value
from cohort_builder.errors import CohortError, ConfigError

if TYPE_CHECKING:
    from segmentation.training.card import Provenance
    from segmentation.training.config import TrainConfig
    from segmentation.training.sources import Source
    from segmentation.training.trainees import Trainee

_EXAMPLES = (
    "cohort train generated:5000 -o nano/ --preset nano",
    "cohort train kits23:/data/kits23 lits17:/data/lits17 -o sam2ct/ --preset sam2ct --weights sam2.1_hiera_tiny.pt",
    "cohort train dataset:cohort/dataset generated:2000 -o mine/ --preset nano --steps 4000 --minutes 60",
)
_PRESETS = (
    "nano", "nano-no-mcm", "nano-no-image-prompt", "unet3d", "sam2ct", "sam2-ft", "medsam2", "dynunet", "swin-unetr"
)  # fmt: skip
"""Keys of `segmentation.training.config.PRESETS`, written out: --help imports no torch."""
_PRETRAINED = ("sam2ct", "sam2-ft", "medsam2")
_PARTS = ("generated", "dataset")
"""Kinds of sources that hold no whole slices."""
_OPTIONS = frozenset({"steps", "seed", "device", "workers", "minutes", "on_nan"})
"""Fields of `TrainConfig` that have an option of their own."""
_OWN = {"generated": "of this package (Apache-2.0)"}
_MANIFEST = "manifest.jsonl"


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
    add(
        "--weights",
        type=Path,
        help="weights to start from; sam2ct, sam2-ft and medsam2 need them: those of SAM 2.1 tiny, or none",
    )
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
    from segmentation.training.cache import CacheError
    from segmentation.training.config import PRESETS, TrainingError
    from segmentation.training.manifest import ManifestError
    from segmentation.types import EngineError

    try:
        config = _config(options, PRESETS[options.preset])
    except ValueError as error:
        raise ConfigError(str(error)) from error
    _require_fitting(options, config)
    try:
        path = _run(options, config)
    except (CacheError, ManifestError, TrainingError, EngineError) as error:
        raise CohortError(str(error)) from error
    print(f"weights   {path}\ncard      {path.with_name('card.md')}\nlog       {path.with_name('log.csv')}")  # noqa: T201
    return 0


def _require_fitting(options: argparse.Namespace, config: TrainConfig) -> None:
    """Refuse what goes against the preset, or cannot be published."""
    kinds = [spec.partition(":")[0] for spec in options.sources]
    if options.preset in _PRETRAINED and options.weights is None:
        raise ConfigError(
            f"--preset {options.preset} goes on from SAM 2.1 tiny: --weights sam2.1_hiera_tiny.pt (--weights none"
            " begins with random weights, for which its learning rates are far too low)"
        )
    if config.sees_whole_slices and (parts := sorted({*_PARTS} & {*kinds})):
        raise ConfigError(
            f"--preset {options.preset} sees whole slices, and {' and '.join(parts)} hold only what is around a lesion:"
            " name sources of whole CTs, or take another preset (nano, unet3d, dynunet, swin-unetr)"
        )
    into_cts = any(spec.startswith("generated:") and "backgrounds=" in spec for spec in options.sources)
    if into_cts and "generated" not in dict(options.licence or ()):
        raise ConfigError(
            "lesions generated into CTs of yours are under the licence of these: say for the card which that is, "
            "--licence generated=TEXT"
        )


def _run(options: argparse.Namespace, config: TrainConfig) -> Path:
    """Train; what can be known to go wrong does so before lesions are cut out, which may take hours."""
    try:
        import torch
    except ModuleNotFoundError as error:
        raise CohortError("training needs torch: pip install 'cohort-builder[train]'") from error
    from cohort_builder.training import open_sources
    from segmentation.training.cache import CropPolicy, fill_cache
    from segmentation.training.claim import check_start
    from segmentation.training.trainees import make_trainee
    from segmentation.training.trainer import train

    if options.threads:
        torch.set_num_threads(options.threads)
    weights = None if options.weights == Path("none") else options.weights
    trainee = make_trainee(config, weights)
    check_start(trainee, config, options.out, resume=options.resume)
    folder, workers = options.cache or options.out / "cache", max(options.workers, 1)
    policy = CropPolicy(in_plane=None) if config.sees_whole_slices else CropPolicy()
    sources = open_sources(options.sources, policy=policy, seed=options.seed, workers=workers)
    folder.mkdir(parents=True, exist_ok=True)
    with _alone(folder):
        _keep_manifest(options, sources)
        cache = fill_cache(sources, folder, workers=workers)
    origin = _origin(options, trainee, sources)
    return train(
        trainee, cache, config, options.out, resume=options.resume, progress=not options.quiet, provenance=origin
    )


def _keep_manifest(options: argparse.Namespace, sources: Sequence[Source]) -> None:
    """Write down in OUT what is trained on, or say which files are not those that its training began with."""
    from segmentation.training.claim import CLAIM
    from segmentation.training.manifest import Manifest, join
    from segmentation.training.sources import ManifestSource

    manifests = [source.manifest for source in sources if isinstance(source, ManifestSource)]
    if not manifests:
        return
    path, now = options.out / _MANIFEST, join(manifests)
    if options.resume and path.is_file() and (options.out / CLAIM).is_file():
        before = Manifest.read(path)
        if before.digest != now.digest:
            before.check()
    else:
        path.parent.mkdir(parents=True, exist_ok=True)
        now.write(path)


def _config(options: argparse.Namespace, preset: TrainConfig) -> TrainConfig:
    """Preset with what the command line says."""
    from segmentation.training.settings import settings_from

    changes = dict(options.changes or ())
    if own := sorted(_OPTIONS & changes.keys()):
        raise ValueError(f"--set {own[0]}= is not allowed: use --{own[0].replace('_', '-')}")
    given: dict[str, Any] = {
        "seed": options.seed,
        "device": options.device,
        "workers": options.workers,
        "minutes": options.minutes,
        "on_nan": options.on_nan or preset.on_nan,
    }
    if options.steps is not None:
        given |= {"steps": options.steps, "epochs": None}
    return replace(preset, **given, **settings_from(changes))


def _origin(options: argparse.Namespace, trainee: Trainee, sources: Sequence[Source]) -> Provenance:
    from segmentation.training.card import Provenance

    started = f"{options.weights.name}, SHA-256 `{trainee.started_from}`" if trainee.started_from else ""
    command = shlex.join(["cohort", *map(_without_folders, sys.argv[1:])])
    digests = tuple(
        (_without_folders(spec), source.digest) for spec, source in zip(options.sources, sources, strict=True)
    )
    return Provenance(command, digests, _OWN | dict(options.licence or ()), started)


def _without_folders(text: str) -> str:
    """Cut the folders off the paths in an argument: a card is published."""
    return re.sub(r"[^,:+=]*/(?=[^,:+=/])", "", text)


def _alone(folder: Path) -> Any:
    """Let the processes of one training fill its cache one after the other: all but the first find it filled."""
    from filelock import FileLock

    return FileLock(folder / ".lock")


def _licence(text: str) -> tuple[str, str]:
    name, equals, licence = text.partition("=")
    if not name or not equals:
        raise argparse.ArgumentTypeError(f"must be NAME=TEXT, got {text!r}")
    return name, licence
