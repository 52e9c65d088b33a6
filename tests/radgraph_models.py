"""Small RadGraph models for the tests, made by the real package: an encoder, an archive, both as they are published."""

from __future__ import annotations

import json
import shutil
import string
import tarfile
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch

from nlp import RadGraphExtractor
from nlp.radgraph_model import quiet, tokenizers_of_version_4

XL_LABELS = (
    "Anatomy::definitely present",
    "Observation::definitely present",
    "Observation::definitely absent",
    "Observation::uncertain",
    "Observation::measurement::definitely present",
    "Anatomy::uncertain",
    "Anatomy::definitely absent",
    "Anatomy::measurement::definitely present",
    "Observation::measurement::definitely absent",
    "Observation::measurement::uncertain",
    "Anatomy::measurement::uncertain",
)
V1_LABELS = ("OBS-DP", "ANAT-DP", "OBS-DA", "OBS-U")
RELATIONS = ("modify", "located_at", "suggestive_of")


@dataclass(frozen=True, slots=True)
class Sizes:
    """How large a model is; the default is tiny, `PUBLISHED` what the published ones are (BERT base)."""

    hidden: int = 16
    layers: int = 1
    heads: int = 2
    words: int = 0  # made-up entries of the vocabulary, for a table of the true size
    spread: float = 0.5  # standard deviation of the encoder's weights: a tiny one must tell words apart


PUBLISHED = Sizes(hidden=768, layers=12, heads=12, words=30000, spread=0.02)


def write_encoder(folder: Path, kind: str = "bert", sizes: Sizes = Sizes()) -> Path:
    """Write the configuration and tokenizer of an encoder.

    ``kind``: "bert", or "generic" for a fast tokenizer without a class of its own, as ModernBERT's.
    """
    folder.mkdir(parents=True)
    printable = [*string.ascii_lowercase, *string.digits, *string.punctuation]
    vocabulary = ["[PAD]", "[UNK]", "[CLS]", "[SEP]", "[MASK]", *printable, *(f"##{letter}" for letter in printable)]
    vocabulary += [f"word{number}" for number in range(sizes.words)]
    config = {
        "architectures": ["BertModel"],
        "model_type": "bert",
        "vocab_size": len(vocabulary),
        "hidden_size": sizes.hidden,
        "num_hidden_layers": sizes.layers,
        "num_attention_heads": sizes.heads,
        "intermediate_size": 4 * sizes.hidden,
        "max_position_embeddings": 512,
        "initializer_range": sizes.spread,
        "torch_dtype": "float16",
        "auto_map": {"AutoConfig": "somewhere.Else"},
    }
    (folder / "config.json").write_text(json.dumps(config))
    if kind == "bert":
        (folder / "vocab.txt").write_text("".join(f"{word}\n" for word in vocabulary))
        own = {"tokenizer_class": "BertTokenizer", "do_lower_case": True, "model_max_length": 512}
    else:
        _write_fast_tokenizer(folder / "tokenizer.json", vocabulary)
        special = {f"{name}_token": f"[{name.upper()}]" for name in ("pad", "unk", "cls", "sep", "mask")}
        own = {"tokenizer_class": "PreTrainedTokenizerFast", "model_max_length": 512, **special}
    (folder / "tokenizer_config.json").write_text(json.dumps(own))
    return folder


def _write_fast_tokenizer(path: Path, vocabulary: Sequence[str]) -> None:
    from tokenizers import Tokenizer, models, normalizers, pre_tokenizers, processors

    tokenizer = Tokenizer(models.WordPiece({word: at for at, word in enumerate(vocabulary)}, unk_token="[UNK]"))
    tokenizer.normalizer = normalizers.BertNormalizer(lowercase=True)
    tokenizer.pre_tokenizer = pre_tokenizers.BertPreTokenizer()
    tokenizer.post_processor = processors.TemplateProcessing(
        single="[CLS] $A [SEP]",
        pair="[CLS] $A [SEP] $B:1 [SEP]:1",
        special_tokens=[("[CLS]", vocabulary.index("[CLS]")), ("[SEP]", vocabulary.index("[SEP]"))],
    )
    tokenizer.save(str(path))


def configuration(encoder_name: str) -> dict[str, Any]:
    """The configuration of an archive, with DyGIE++'s published values."""
    bert = {"model_name": encoder_name, "max_length": 512}
    return {
        "dataset_reader": {
            "type": "dygie",
            "token_indexers": {"bert": {"type": "pretrained_transformer_mismatched", **bert}},
            "max_span_width": 12,
        },
        "model": {
            "type": "dygie",
            "embedder": {"token_embedders": {"bert": {"type": "pretrained_transformer_mismatched", **bert}}},
            "initializer": {"regexes": [["_span_width_embedding.weight", {"type": "xavier_normal"}]]},
            "module_initializer": {"regexes": [[".*weight", {"type": "xavier_normal"}]]},
            "modules": {
                "coref": {"spans_per_word": 0.3, "max_antecedents": 100, "coref_prop": 0},
                "ner": {},
                "relation": {"spans_per_word": 0.5},
                "events": {
                    "trigger_spans_per_word": 0.3,
                    "argument_spans_per_word": 0.8,
                    "loss_weights": {"trigger": 0.2, "arguments": 1.0},
                },
            },
            "feature_size": 20,
            "max_span_width": 12,
            "target_task": "relation",
            "feedforward_params": {"num_layers": 2, "hidden_dims": 150, "dropout": 0.4},
            "loss_weights": {"ner": 0.2, "relation": 1.0, "coref": 0.0, "events": 0.0},
        },
    }


def write_model(
    folder: Path,
    model: str,
    encoder: Path,
    *,
    labels: Sequence[str] = XL_LABELS,
    relations: Sequence[str] = RELATIONS,
    seed: int = 0,
) -> Path:
    """Write an unpacked archive with weights drawn at random, by the package's own classes; return its folder."""
    vocabulary = folder / "vocabulary"
    vocabulary.mkdir(parents=True)
    (vocabulary / f"{model}__ner_labels.txt").write_text("\n" + "".join(f"{label}\n" for label in labels))
    (vocabulary / f"{model}__relation_labels.txt").write_text("".join(f"{label}\n" for label in relations))
    (vocabulary / "non_padded_namespaces.txt").write_text("*labels\n*tags\n")
    config = configuration("microsoft/BiomedVLP-CXR-BERT-general")
    (folder / "config.json").write_text(json.dumps(config))
    torch.save(_state(config, vocabulary, encoder, seed), folder / "weights.th")
    (vocabulary / ".lock").unlink()
    return folder


def _state(config: Mapping[str, Any], vocabulary: Path, encoder: Path, seed: int) -> dict[str, torch.Tensor]:
    with quiet(), torch.random.fork_rng(devices=[]):
        from radgraph.allennlp.common import cached_transformers
        from radgraph.allennlp.data import Vocabulary
        from radgraph.allennlp.modules import text_field_embedders, token_embedders
        from radgraph.dygie.models.dygie import DyGIE

        torch.manual_seed(seed)
        plain = encoder.parent / f"{encoder.name}-plain"  # without what the library removes from it
        shutil.copytree(encoder, plain)
        values = json.loads((plain / "config.json").read_text())
        kept = {key: value for key, value in values.items() if key not in {"auto_map", "torch_dtype"}}
        (plain / "config.json").write_text(json.dumps(kept))
        with tokenizers_of_version_4():
            embedder = token_embedders.PretrainedTransformerMismatchedEmbedder(str(plain), max_length=512)
        parts = {
            key: value
            for key, value in json.loads(json.dumps(config["model"])).items()
            if key not in {"type", "embedder", "initializer", "module_initializer"}
        }
        fields = text_field_embedders.BasicTextFieldEmbedder({"bert": embedder})
        network = DyGIE(vocab=Vocabulary.from_files(str(vocabulary)), embedder=fields, **parts)
        cached_transformers._model_cache.clear()
        cached_transformers._tokenizer_cache.clear()
        shutil.rmtree(plain)
    state = {name: tensor.clone() for name, tensor in network.state_dict().items()}
    _make_choosy(state, torch.Generator().manual_seed(seed))
    return state


def _make_choosy(state: dict[str, torch.Tensor], generator: torch.Generator) -> None:
    """Weights as drawn call every span an entity; with these, one in ten is, and some pairs are related."""
    for name, tensor in state.items():
        scorer = "_ner_scorers" in name and "1._module." in name
        if scorer or "_relation_scorers" in name:
            drawn = 3 * torch.randn(tensor.shape, generator=generator)
            state[name] = drawn if name.endswith("weight") else torch.full_like(tensor, -12.0 if scorer else 0.0)


@dataclass(frozen=True, slots=True)
class Made:
    """A model as its authors would hand it out."""

    model: str
    folder: Path
    archive: Path
    encoder: Path

    def load(self, **options: Any) -> RadGraphExtractor:
        return RadGraphExtractor(self.model, **{"archive": self.archive, "encoder": self.encoder, **options})


def make_models(root: Path) -> dict[str, Made]:
    """One of each kind: RadGraph-XL and v1 on BERT, and one on a generic fast tokenizer."""
    found = {}
    for name, model, kind, labels in (
        ("xl", "radgraph-xl", "bert", XL_LABELS),
        ("v1", "radgraph", "bert", V1_LABELS),
        ("generic", "modern-radgraph-xl", "generic", XL_LABELS),
    ):
        encoder = write_encoder(root / f"{name}-encoder", kind)
        folder = write_model(root / name, model, encoder, labels=labels)
        found[name] = Made(model, folder, pack(folder, root / f"{name}.tar.gz"), encoder)
    return found


def pack(folder: Path, archive: Path) -> Path:
    """Write the ``.tar.gz`` of a model's folder, files at its root."""
    with tarfile.open(archive, "w:gz", compresslevel=1) as tar:
        for path in sorted(folder.rglob("*")):
            tar.add(path, str(path.relative_to(folder)), recursive=False)
    return archive


def package_of(one: Made) -> Any:
    """The package's own class, given the files in the way it wants them."""
    home = one.folder.parent / f"{one.folder.name}-package"
    shutil.copytree(one.folder, home / one.model, dirs_exist_ok=True)
    encoder = home / "encoder"
    shutil.copytree(one.encoder, encoder, dirs_exist_ok=True)
    values = json.loads((encoder / "config.json").read_text())
    del values["auto_map"], values["torch_dtype"]
    (encoder / "config.json").write_text(json.dumps(values))
    (home / one.model / "config.json").write_text(json.dumps(configuration(str(encoder))))
    with quiet(), tokenizers_of_version_4():
        from radgraph import RadGraph

        return RadGraph(model_type=one.model, model_cache_dir=str(home), cuda=-1)
