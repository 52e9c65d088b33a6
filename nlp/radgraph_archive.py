"""Where RadGraph's files are, and what of them is fit to be loaded.

A published model is one archive (``config.json``, ``weights.th``, ``vocabulary/*.txt``) and the configuration and
tokenizer of its encoder, which the archive only names. Nothing of either is trusted: of the archive only these files
are read, under names of ours, within limits; a member that is no plain file inside the archive refuses it whole, which
is stricter than ``tarfile``'s ``filter="data"``. Configuration and labels are checked before any model is made.
"""

from __future__ import annotations

import hashlib
import json
import os
import tarfile
import zlib
from collections.abc import Iterable, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path, PurePosixPath
from tempfile import TemporaryDirectory
from types import MappingProxyType
from typing import IO, Any

from nlp.graph import Relation
from nlp.radgraph_json import LABELS_V1, LABELS_XL
from nlp.types import ExtractorError

MODELS: Mapping[str, str] = MappingProxyType(
    {name: f"{name}.tar.gz" for name in ("radgraph-xl", "radgraph", "modern-radgraph-xl")}
)
HUB_REPOSITORY = "StanfordAIMI/RRG_scorers"
ENCODER_FILES = (
    "config.json",
    "tokenizer.json",
    "tokenizer_config.json",
    "special_tokens_map.json",
    "vocab.txt",
    "vocab.json",
    "merges.txt",
)
_TOKENIZERS = frozenset({"tokenizer.json", "vocab.txt", "vocab.json"})
_RADGRAPH_CACHE = "radgraph/0.1.18"  # below the user's cache folder: where the package itself keeps its models

_SMALL, _LARGE = 32 * 2**20, 4 * 2**30  # bytes: texts; weights (published: 0.5 GB)
_MEMBERS = 1000
_CHUNK = 2**20
_REMOTE_CODE = ("auto_map", "custom_pipelines")
_DTYPE = ("torch_dtype", "dtype")  # the weights decide
_PARTS = {
    "dataset_reader.token_indexers.bert.model_name": str,
    "dataset_reader.token_indexers.bert.max_length": int,
    "dataset_reader.max_span_width": int,
    "model.type": str,
    "model.embedder.token_embedders.bert.model_name": str,
    "model.embedder.token_embedders.bert.max_length": int,
    "model.initializer": dict,
    "model.module_initializer": dict,
    "model.modules": dict,
    "model.max_span_width": int,
    "model.feature_size": int,
    "model.target_task": str,
    "model.feedforward_params": dict,
    "model.loss_weights": dict,
}


@dataclass(frozen=True, slots=True)
class Staged:
    """Checked files, laid out as the ``radgraph`` package expects them: ``folder/model`` and ``folder/encoder``.

    ``files_sha256`` is that of all files but the weights: labels, sizes and tokenizer decide about answers, too.
    """

    model: str
    folder: Path
    weights_sha256: str
    files_sha256: str


@contextmanager
def staged(model: str, archive: str | Path | None, encoder: str | Path | None, *, download: bool) -> Iterator[Staged]:
    """Find, check and lay out the files of a model in a folder that is removed afterwards.

    Parameters
    ----------
    model
        One of ``MODELS``.
    archive
        The archive or the folder that it was unpacked to; None looks into the caches of ``radgraph`` and of the hub.
    encoder
        Folder with the encoder's configuration and tokenizer; None looks into the hub's cache.
    download
        Whether the hub may be asked for what is in no cache.

    Raises
    ------
    ExtractorError
        A file is missing, unreadable, too large, or not what it should be.

    """
    if model not in MODELS:
        raise ExtractorError(f"unknown RadGraph model {model!r}; known are {', '.join(MODELS)}")
    source = _given(archive, "archive") if archive is not None else _find_archive(model, download=download)
    with TemporaryDirectory(prefix="radgraph-") as name:
        folder = Path(name)
        own = folder / model
        (own / "vocabulary").mkdir(parents=True)
        digest = _copy_folder(source, own) if source.is_dir() else _unpack(source, own)
        config = _read_json(own / "config.json", "config.json of the archive")
        _check_config(config)
        _check_labels(own / "vocabulary", model)
        bert = config["dataset_reader"]["token_indexers"]["bert"]
        home = (
            _given(encoder, "encoder")
            if encoder is not None
            else _find_encoder(bert["model_name"], model, download=download)
        )
        _copy_encoder(home, folder / "encoder")
        files = _digest_of(folder)
        for part in (bert, config["model"]["embedder"]["token_embedders"]["bert"]):
            part["model_name"] = str(folder / "encoder")
        (own / "config.json").write_text(json.dumps(config), encoding="utf-8")
        yield Staged(model, folder, digest, files)


# ---- where -----------------------------------------------------------------------------------------------------------


def _given(path: str | Path, option: str) -> Path:
    found = Path(path).expanduser()
    if not found.exists() or (option == "encoder" and not found.is_dir()):
        wanted = "folder with a configuration and a tokenizer" if option == "encoder" else "file or folder"
        raise ExtractorError(f"{option}={found.name!r} is not there; give the path of a {wanted}")
    return found.resolve()


def _find_archive(model: str, *, download: bool) -> Path:
    own = Path(os.environ.get("XDG_CACHE_HOME") or Path.home() / ".cache") / _RADGRAPH_CACHE
    if (own / model / "weights.th").is_file():
        return own / model
    cached = _in_hub_cache(HUB_REPOSITORY, MODELS[model], own) or _in_hub_cache(HUB_REPOSITORY, MODELS[model], None)
    if cached is None and download:
        cached = _download(HUB_REPOSITORY, MODELS[model])
    if cached is None:
        raise _missing(f"the archive {MODELS[model]} of {HUB_REPOSITORY}", model)
    return cached


def _find_encoder(name: str, model: str, *, download: bool) -> Path:
    held = [_in_hub_cache(name, file, None) for file in ENCODER_FILES]
    if not _is_encoder(file.name for file in held if file is not None) and download:
        held = [_download(name, file) for file in ENCODER_FILES]
    found = [file for file in held if file is not None]
    if not _is_encoder(file.name for file in found):
        raise _missing(f"the encoder's configuration and tokenizer ({name[:100]})", model)
    return found[0].parent


def _is_encoder(names: Iterable[str]) -> bool:
    held = set(names)
    return "config.json" in held and bool(held & _TOKENIZERS)


def _in_hub_cache(repository: str, file: str, cache: Path | None) -> Path | None:
    from huggingface_hub import try_to_load_from_cache
    from huggingface_hub.errors import HFValidationError

    try:
        found = try_to_load_from_cache(repository, file, cache_dir=cache)
    except HFValidationError as error:
        raise ExtractorError(
            "the archive names its encoder by something that is no repository of the hub; give its folder as encoder="
        ) from error
    return Path(found) if isinstance(found, str) else None


def _download(repository: str, file: str) -> Path | None:
    """A file of the hub in its cache; None where the repository has no such file."""
    from huggingface_hub import hf_hub_download
    from huggingface_hub.errors import EntryNotFoundError, LocalEntryNotFoundError

    try:
        return Path(hf_hub_download(repository, file))
    except Exception as error:
        if isinstance(error, EntryNotFoundError) and not isinstance(error, LocalEntryNotFoundError):
            return None
        raise ExtractorError(
            f"{file} of {repository} could not be downloaded from the hub ({type(error).__name__})"
        ) from error


def _missing(what: str, model: str) -> ExtractorError:
    return ExtractorError(
        f"{what} is not in a cache of this machine, and nothing is downloaded unasked. Once, with network:\n"
        "  pip install 'cohort-builder[radgraph]'\n"
        f"  python -c \"import nlp; nlp.load_extractor('radgraph', model='{model}', download=True)\"\n"
        f"  cohort build REPORTS PACS_EXPORT -o DIR --extractor radgraph --extractor-option model={model}\n"
        "or give files that you have: archive= (the .tar.gz or its folder) and encoder= (a folder)"
    )


# ---- the archive -----------------------------------------------------------------------------------------------------


def _unpack(archive: Path, own: Path) -> str:
    """Copy the expected files out of a tar archive; return the SHA-256 of the weights."""
    seen: dict[str, str] = {}
    try:
        with tarfile.open(archive, "r|*") as tar:
            for count, member in enumerate(tar):
                if count >= _MEMBERS:
                    raise ExtractorError(f"the archive has more than {_MEMBERS} members")
                name = _checked_name(member, count)
                content = tar.extractfile(member) if name is not None else None
                if name is None or content is None:
                    continue
                if name in seen:
                    raise ExtractorError(f"the archive has {name} twice")
                seen[name] = _copy(content, own / name, _limit(name))
    except (tarfile.TarError, EOFError, zlib.error, OSError) as error:
        raise ExtractorError(
            f"the archive cannot be read ({type(error).__name__}): it is truncated or no tar.gz; fetch it again"
        ) from error
    return _complete(seen)


def _checked_name(member: tarfile.TarInfo, position: int) -> str | None:
    """The name of an expected file, None for another plain one; anything else refuses the archive."""
    parts = PurePosixPath(member.name).parts
    if member.name.startswith("/") or "\\" in member.name or ".." in parts:
        raise ExtractorError(f"member {position} of the archive lies outside it; only plain files inside are allowed")
    if not (member.isreg() or member.isdir()) or member.issparse():
        raise ExtractorError(f"member {position} of the archive is no plain file (a link, a device?); none is allowed")
    name = "/".join(part for part in parts if part != ".")
    if member.size > _limit(name):
        raise ExtractorError(f"member {position} of the archive has {member.size} bytes; allowed are {_limit(name)}")
    return name if member.isreg() and _is_expected(name) else None


def _copy_folder(source: Path, own: Path) -> str:
    """Copy the expected files of an unpacked archive, the weights by a link; return the SHA-256 of the weights."""
    seen: dict[str, str] = {}
    vocabulary = source / "vocabulary"
    names = [f"vocabulary/{path.name}" for path in sorted(vocabulary.glob("*.txt"))] if vocabulary.is_dir() else []
    for name in ("config.json", "weights.th", *names):
        path = source / name
        if not path.is_file():
            continue
        if path.stat().st_size > _limit(name):
            raise ExtractorError(f"{name} has {path.stat().st_size} bytes; allowed are {_limit(name)}")
        with path.open("rb") as content:
            seen[name] = _copy(content, None if name == "weights.th" else own / name, _limit(name))
        if name == "weights.th":
            (own / name).symlink_to(path.resolve())
    return _complete(seen)


def _complete(seen: Mapping[str, str]) -> str:
    for name in ("config.json", "weights.th", "vocabulary/non_padded_namespaces.txt"):
        if name not in seen:
            raise ExtractorError(f"the archive has no {name}: it is not one of a RadGraph model")
    return seen["weights.th"]


def _is_expected(name: str) -> bool:
    path = PurePosixPath(name)
    in_vocabulary = path.parent == PurePosixPath("vocabulary") and path.suffix == ".txt"
    return name in {"config.json", "weights.th"} or in_vocabulary


def _limit(name: str) -> int:
    return _LARGE if name == "weights.th" else _SMALL


def _copy(content: IO[bytes], target: Path | None, limit: int) -> str:
    """Copy (or, without a target, only read) a file of at most ``limit`` bytes; return its SHA-256."""
    digest, total = hashlib.sha256(), 0
    with open(os.devnull if target is None else target, "wb") as out:  # noqa: PTH123 - the null device is no Path
        while chunk := content.read(_CHUNK):
            total += len(chunk)
            if total > limit:
                raise ExtractorError(f"a file of the model has more than {limit} bytes")
            digest.update(chunk)
            out.write(chunk)
    return digest.hexdigest()


# ---- what is in it ---------------------------------------------------------------------------------------------------


def _read_json(path: Path, what: str) -> dict[str, Any]:
    try:
        value = json.loads(path.read_text(encoding="utf-8"))
    except (OSError, ValueError, RecursionError) as error:
        raise ExtractorError(f"{what} is no JSON ({type(error).__name__})") from error
    if not isinstance(value, dict):
        raise ExtractorError(f"{what} must hold one object, got {type(value).__name__}")
    return value


def _check_config(config: Mapping[str, Any]) -> None:
    """Refuse a configuration that the package would misread, or that could make it load something else."""
    for path, kind in _PARTS.items():
        value: Any = config
        for part in path.split("."):
            value = value.get(part) if isinstance(value, Mapping) else None
        if not isinstance(value, kind) or isinstance(value, bool):
            raise ExtractorError(f"config.json of the archive has no {path} that is a {kind.__name__}")
    model = config["model"]
    if not _is_numeric(model["modules"]):
        raise ExtractorError("config.json of the archive holds something else than numbers in model.modules")
    if not all(model["loss_weights"].get(task, 0) > 0 for task in ("ner", "relation")):
        raise ExtractorError("config.json of the archive is that of a model without entities or relations")


def _is_numeric(value: object) -> bool:
    if isinstance(value, Mapping):
        return all(map(_is_numeric, value.values()))
    return isinstance(value, int | float)


def _check_labels(vocabulary: Path, model: str) -> None:
    """Refuse labels that the graph does not know: each wrong one would be a finding nobody reported."""
    entities, relations = (vocabulary / f"{model}__{kind}_labels.txt" for kind in ("ner", "relation"))
    if not (entities.is_file() and relations.is_file()):
        held = sorted(path.name.partition("__")[0] for path in vocabulary.glob("*__ner_labels.txt"))
        raise ExtractorError(f"the archive is not one of {model}: it has the labels of {held}")
    null, *labels = _lines(entities)
    if null or not labels or not (set(labels) <= LABELS_V1.keys() or set(labels) <= LABELS_XL.keys()):
        raise ExtractorError(
            f"the entity labels of the archive are not those of RadGraph ({', '.join(LABELS_V1)}) or of RadGraph-XL "
            f"({', '.join(LABELS_XL)}), after one empty line"
        )
    if not _lines(relations) or not set(_lines(relations)) <= set(Relation):
        raise ExtractorError(f"the relation labels of the archive are not {', '.join(Relation)}")


def _lines(path: Path) -> list[str]:
    try:
        return path.read_text(encoding="utf-8").splitlines() or [""]
    except ValueError as error:
        raise ExtractorError("the labels of the archive are not UTF-8") from error


def _copy_encoder(source: Path, target: Path) -> None:
    """Copy an encoder's configuration and tokenizer, without what would run code that came with them."""
    target.mkdir()
    for name in ENCODER_FILES:
        path = source / name
        if not path.is_file():
            continue
        with path.open("rb") as content:
            _copy(content, target / name, _SMALL)
        if name in {"config.json", "tokenizer_config.json"}:
            values = _read_json(target / name, f"{name} of the encoder")
            kept = {key: value for key, value in values.items() if key not in (*_REMOTE_CODE, *_DTYPE)}
            (target / name).write_text(json.dumps(kept), encoding="utf-8")
    if not _is_encoder(path.name for path in target.iterdir()):
        raise ExtractorError(f"the encoder's folder needs config.json and one of {', '.join(sorted(_TOKENIZERS))}")


def _digest_of(folder: Path) -> str:
    digest = hashlib.sha256()
    for path in sorted(folder.rglob("*")):
        if path.is_file() and path.name != "weights.th":
            digest.update(f"{path.relative_to(folder).as_posix()}\n".encode())
            digest.update(hashlib.sha256(path.read_bytes()).digest())
    return digest.hexdigest()
