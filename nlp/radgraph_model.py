"""The ``radgraph`` package (0.1.18), loaded strictly and run in batches. The only file that imports it.

The package's own class loads the model and its own modules compute it. What it does not do is done around it: it is
loaded on the CPU, where it lets torch read nothing but tensors; under transformers 5 its tokenizers get the two methods
back that it calls; the encoder sees many texts at once; scores are kept; nothing is printed, and nothing that it
changes in the process (log levels, warning filters, random numbers, its caches) outlives the call.
"""

# ruff: noqa: SLF001 - the package keeps what this needs to itself, which is why its version is checked
from __future__ import annotations

import contextlib
import io
import logging
import pickle
import warnings
from collections.abc import Iterator, Sequence
from functools import partial
from importlib import metadata
from typing import TYPE_CHECKING, Any

import torch
from torch import Tensor

from nlp.types import ExtractorError

if TYPE_CHECKING:
    from nlp.radgraph_archive import Staged

RADGRAPH_VERSION = "0.1.18"
_LOGGERS = ("radgraph", "allennlp", "transformers")
_BERT_TOKENIZERS = frozenset({"BertTokenizer", "BertTokenizerFast"})
_GENERIC_TOKENIZERS = frozenset({"PreTrainedTokenizerFast", "TokenizersBackend"})


class RadGraphModel:
    """A loaded model. One call at a time.

    Parameters
    ----------
    staged
        Checked files; they are not needed afterwards.
    device
        ``"auto"``, ``"cpu"``, ``"cuda"`` or ``"cuda:N"``.
    batch_tokens
        How many tokens, padding included, the encoder sees at once; None: 128 on a CPU, where larger batches of longer
        texts are slower, 8192 on a GPU.

    """

    def __init__(self, staged: Staged, device: str, batch_tokens: int | None) -> None:
        self.device = _device(device)
        self._name = staged.model
        self._batch_tokens = batch_tokens or (128 if self.device.type == "cpu" else 8192)
        with quiet():
            loaded = _load(staged)
        self._reader: Any = loaded.reader
        self._network: Any = loaded.model.to(self.device)
        self._network._embedder = _Recalled(self._network._embedder)
        indexer = self._reader._token_indexers["bert"]
        self._max_pieces: int = indexer._matched_indexer._max_length
        # Without special tokens the package looks one piece too far to the right, which may be padding.
        self._may_pad = len(indexer._tokenizer.build_inputs_with_special_tokens([0])) > 1

    def tokens(self, text: str) -> list[str]:
        """Split a text as the model was trained on: see ``nlp.radgraph_json.align_tokens`` for the way back."""
        from radgraph.utils import preprocess_reports

        (document,) = preprocess_reports([text], self._name)
        tokens: list[str] = document["sentences"][0]
        return tokens

    def predict(self, blocks: Sequence[Sequence[str]]) -> list[Prediction | Exception]:
        """Predict each block of tokens by itself; a block that fails is answered by its exception.

        The encoder, most of the work of a short text, sees blocks of like length together. Spans and pairs of spans are
        scored block by block, so that none is padded there: the package's pruning of pairs depends on it.
        """
        answers: list[Prediction | Exception] = [RuntimeError("not predicted")] * len(blocks)
        with quiet(), torch.inference_mode():
            for batch in self._batches(blocks):
                try:
                    found: list[Prediction | Exception] = list(self._predict([blocks[index] for index in batch]))
                except Exception:  # noqa: BLE001 - one of them is the cause, or all are too many
                    found = [self._alone(blocks[index]) for index in batch]
                for index, answer in zip(batch, found, strict=True):
                    answers[index] = answer
        return answers

    def _batches(self, blocks: Sequence[Sequence[str]]) -> Iterator[list[int]]:
        batch: list[int] = []
        for index in sorted(range(len(blocks)), key=lambda index: len(blocks[index])):
            if batch and (len(batch) + 1) * len(blocks[index]) > self._batch_tokens:
                yield batch
                batch = []
            batch.append(index)
        if batch:
            yield batch

    def _alone(self, block: Sequence[str]) -> Prediction | Exception:
        try:
            return self._predict([block])[0]
        except Exception as error:  # noqa: BLE001 - it costs this block's report
            return error

    def _predict(self, blocks: Sequence[Sequence[str]]) -> list[Prediction]:
        instances = [self._instance(block) for block in blocks]
        rows = self._encode([instance["text"].field_list[0] for instance in instances])
        return [self._decode(instance, row) for instance, row in zip(instances, rows, strict=True)]

    def _instance(self, block: Sequence[str]) -> Any:
        instance = self._reader.text_to_instance({"doc_key": "0", "sentences": [list(block)], "dataset": self._name})
        instance.index_fields(self._network.vocab)
        return instance

    def _encode(self, texts: Sequence[Any]) -> list[Tensor]:
        """The embeddings of each text's tokens, (1, 1, tokens, features), whatever else was in the batch."""
        from radgraph.allennlp.data.fields import ListField

        rows: dict[int, Tensor] = {}
        for group in self._alike(texts):
            field = ListField([texts[index] for index in group])
            tensors = _to(field.as_tensor(field.get_padding_lengths()), self.device)
            embedded = self._network._embedder(
                {"bert": {n: t[None] for n, t in tensors["bert"].items()}}, num_wrapping_dims=1
            )
            for position, index in enumerate(group):
                rows[index] = embedded[:, position : position + 1, : len(texts[index].tokens)]
        return [rows[index] for index in range(len(texts))]

    def _alike(self, texts: Sequence[Any]) -> list[list[int]]:
        """Texts that may share a batch: not those that are folded, and of one length where padding is seen."""
        groups: dict[tuple[int, int], list[int]] = {}
        for index, text in enumerate(texts):
            pieces = len(text._indexed_tokens["bert"]["token_ids"])
            folded = pieces > self._max_pieces
            groups.setdefault((0 if self._may_pad and not folded else pieces, index if folded else -1), []).append(
                index
            )
        return list(groups.values())

    def _decode(self, instance: Any, rows: Tensor) -> Prediction:
        tensors = instance.as_tensor_dict(instance.get_padding_lengths())
        output = self._network(
            text=_to({"bert": {n: t[None] for n, t in tensors["text"]["bert"].items()} | {"rows": rows}}, self.device),
            spans=tensors["spans"][None].to(self.device),
            metadata=[tensors["metadata"]],
        )
        (sentence,) = self._network.make_output_human_readable(output)
        return Prediction(
            [entity.to_json() for entity in sentence.predicted_ner],
            [relation.to_json() for relation in sentence.predicted_relations],
        )


class Prediction:
    """What the model says of one block, in its own JSON, tokens counted from the block's first.

    ``entities``: first and last token, label, raw score, softmax. ``relations``: first and last token of both, label,
    raw score, softmax.
    """

    __slots__ = ("entities", "relations")

    def __init__(self, entities: list[list[Any]], relations: list[list[Any]]) -> None:
        self.entities, self.relations = entities, relations


class _Recalled(torch.nn.Module):
    """The package's embedder; rows that a text brings along are returned as they are."""

    def __init__(self, embedder: torch.nn.Module) -> None:
        super().__init__()
        self._embedder = embedder

    def forward(self, text: dict[str, dict[str, Tensor]], num_wrapping_dims: int = 0) -> Tensor:
        rows = text["bert"].get("rows")
        if rows is None:
            rows = self._embedder(text, num_wrapping_dims=num_wrapping_dims)
        return rows


# ---- loading ---------------------------------------------------------------------------------------------------------


@contextlib.contextmanager
def quiet() -> Iterator[None]:
    """Keep the package from printing, logging and warning, and from changing how others do."""
    levels = {name: logging.getLogger(name).level for name in _LOGGERS}
    for name in _LOGGERS:
        logging.getLogger(name).setLevel(logging.CRITICAL)
    try:
        with warnings.catch_warnings(), contextlib.redirect_stdout(io.StringIO()):
            warnings.simplefilter("ignore")
            yield
    finally:
        for name, level in levels.items():
            logging.getLogger(name).setLevel(level)


@contextlib.contextmanager
def tokenizers_of_version_4() -> Iterator[None]:
    """Give the tokenizers that the package loads the methods of transformers 4 which version 5 took away."""
    from radgraph.allennlp.common import cached_transformers

    plain = cached_transformers.get_tokenizer

    def get_tokenizer(model_name: str, **options: Any) -> Any:
        return _as_version_4(plain(model_name, **options))

    cached_transformers.get_tokenizer = get_tokenizer
    try:
        yield
    finally:
        cached_transformers.get_tokenizer = plain


def _as_version_4(tokenizer: Any) -> Any:
    """The tokenizer with ``encode_plus`` and ``build_inputs_with_special_tokens``.

    The latter framed the pieces in BERT's own class and returned them unchanged in the generic one. So models on a
    generic tokenizer were trained without special tokens, and framing them now would change what they answer.
    """
    kind = type(tokenizer).__name__
    if not hasattr(tokenizer, "encode_plus"):
        tokenizer.encode_plus = tokenizer.__call__
    if not hasattr(tokenizer, "build_inputs_with_special_tokens"):
        if kind in _BERT_TOKENIZERS:
            tokenizer.build_inputs_with_special_tokens = partial(
                _framed, tokenizer.cls_token_id, tokenizer.sep_token_id
            )
        elif kind in _GENERIC_TOKENIZERS:
            tokenizer.build_inputs_with_special_tokens = list
        else:
            raise ExtractorError(
                f"the encoder has a {kind}; under transformers 5 those of BERT and generic ones are read"
            )
    return tokenizer


def _framed(first: int, last: int, pieces: list[int]) -> list[int]:
    return [first, *pieces, last]


def _load(staged: Staged) -> Any:
    try:
        from radgraph import RadGraph
        from radgraph.allennlp.common import cached_transformers
    except ImportError as error:
        raise ExtractorError(
            f"the package radgraph cannot be imported ({error.name} is missing): pip install 'cohort-builder[radgraph]'"
        ) from error
    found = metadata.version("radgraph")
    if found != RADGRAPH_VERSION:
        raise ExtractorError(f"radgraph {found} is installed; this needs radgraph=={RADGRAPH_VERSION}")
    try:
        with tokenizers_of_version_4(), torch.random.fork_rng(devices=[]):
            loaded = RadGraph(model_type=staged.model, model_cache_dir=str(staged.folder), cuda=-1)
    except ExtractorError:
        raise
    except pickle.UnpicklingError as error:
        raise ExtractorError(
            "weights.th holds something else than tensors; it could run code, and is not read"
        ) from error
    except Exception as error:
        reason = " ".join(str(error).split())[:300]
        raise ExtractorError(f"the archive and the encoder make no model ({type(error).__name__}): {reason}") from error
    finally:
        for cache in (cached_transformers._model_cache, cached_transformers._tokenizer_cache):
            for key in [key for key in cache if str(key[0]).startswith(str(staged.folder))]:
                del cache[key]
    for name, tensor in loaded.model.state_dict().items():
        if tensor.is_floating_point() and not bool(torch.isfinite(tensor).all()):
            raise ExtractorError(f"weights.th is damaged: {name} holds values that are not finite")
    return loaded


def _device(device: str) -> torch.device:
    if device == "auto":
        return torch.device("cuda" if torch.cuda.is_available() else "cpu")
    try:
        found = torch.device(device)
    except RuntimeError as error:
        raise ExtractorError(f"device={device!r} is none; allowed: 'auto', 'cpu', 'cuda', 'cuda:0' ...") from error
    if found.type not in {"cpu", "cuda"}:
        raise ExtractorError(f"RadGraph runs on 'cpu' and 'cuda', not on {found.type!r}")
    if found.type == "cuda" and not 0 <= (found.index or 0) < torch.cuda.device_count():
        raise ExtractorError(f"device={device!r}: this machine has {torch.cuda.device_count()} CUDA devices; use 'cpu'")
    return found


def _to(value: Any, device: torch.device) -> Any:
    if isinstance(value, dict):
        return {name: _to(item, device) for name, item in value.items()}
    return value.to(device)
