"""What of a RadGraph model is fit to be loaded: every file checked, nothing of it run, nothing left behind."""

from __future__ import annotations

import io
import json
import logging
import os
import pickle
import random
import shutil
import socket
import subprocess
import sys
import tarfile
import tempfile
import warnings
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from radgraph_models import V1_LABELS, XL_LABELS, Made, make_models, pack

import nlp
from cohort_builder import ConfigError, SetupError, open_cohort
from cohort_builder.cli import main
from cohort_builder.demo import generate_hospital
from cohort_builder.engines import Engines
from nlp import ExtractorError, RadGraphExtractor, Report, load_extractor

TEXT = "There is a 12 mm nodule in the right lower lobe (4/87). No pleural effusion. The liver is normal."


@pytest.fixture(scope="module")
def made(tmp_path_factory: pytest.TempPathFactory) -> dict[str, Made]:
    return make_models(tmp_path_factory.mktemp("radgraph"))


@pytest.fixture
def xl(made: dict[str, Made], tmp_path: Path) -> Made:
    """An unpacked archive and an encoder that the test may change; ``archive`` is where to pack it."""
    one = made["xl"]
    folder, encoder = tmp_path / "xl", tmp_path / "encoder"
    shutil.copytree(one.folder, folder)
    shutil.copytree(one.encoder, encoder)
    return Made(one.model, folder, tmp_path / "xl.tar.gz", encoder)


@pytest.fixture
def no_network(monkeypatch: pytest.MonkeyPatch) -> None:
    def refuse(*_: object) -> None:
        pytest.fail("the network was asked")

    monkeypatch.setattr(socket.socket, "connect", refuse)
    monkeypatch.setattr(socket, "getaddrinfo", refuse)


# ---- where it comes from -----------------------------------------------------------------------------------------------


@pytest.mark.usefixtures("no_network")
def test_archive_and_folder_are_the_same_model(made: dict[str, Made]) -> None:
    one = made["xl"]
    packed, unpacked = one.load(), one.load(archive=str(one.folder), encoder=str(one.encoder))
    assert packed.annotate(TEXT) == unpacked.annotate(TEXT)
    assert packed.version == unpacked.version == f"radgraph-xl-{packed.weights_sha256[:12]}"
    assert packed.revision == unpacked.revision
    assert packed.languages == {"en"}
    assert sorted(path.name for path in one.folder.rglob("*") if path.is_file()) == [
        "config.json",
        "non_padded_namespaces.txt",
        "radgraph-xl__ner_labels.txt",
        "radgraph-xl__relation_labels.txt",
        "weights.th",
    ]


@pytest.mark.usefixtures("no_network")
@pytest.mark.parametrize("place", ["of the package", "of the package, from the hub", "of the hub"])
def test_what_the_caches_hold_is_found(
    made: dict[str, Made], tmp_path: Path, monkeypatch: pytest.MonkeyPatch, place: str
) -> None:
    one = made["xl"]
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "cache"))
    hub = tmp_path / "hub"
    monkeypatch.setattr("huggingface_hub.constants.HF_HUB_CACHE", str(hub))
    own = tmp_path / "cache" / "radgraph" / "0.1.18"
    if place == "of the package":
        shutil.copytree(one.folder, own / "radgraph-xl")
    else:
        in_hub_cache(own if "package" in place else hub, "StanfordAIMI/RRG_scorers", one.archive, "radgraph-xl.tar.gz")
    for path in one.encoder.iterdir():
        in_hub_cache(hub, "microsoft/BiomedVLP-CXR-BERT-general", path, path.name)
    assert load_extractor("radgraph", model="radgraph-xl").version == one.load().version  # type: ignore[attr-defined]


def in_hub_cache(cache: Path, repository: str, path: Path, name: str) -> None:
    home = cache / f"models--{repository.replace('/', '--')}"
    snapshot = home / "snapshots" / ("0" * 40)
    snapshot.mkdir(parents=True, exist_ok=True)
    (home / "refs").mkdir(exist_ok=True)
    (home / "refs" / "main").write_text("0" * 40)
    shutil.copy(path, snapshot / name)


@pytest.mark.usefixtures("no_network")
def test_nothing_is_downloaded_unasked(made: dict[str, Made], tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path))
    monkeypatch.setattr("huggingface_hub.constants.HF_HUB_CACHE", str(tmp_path / "hub"))
    with pytest.raises(
        ExtractorError, match=r"radgraph\.tar\.gz of StanfordAIMI/RRG_scorers is not in a cache"
    ) as caught:
        load_extractor("radgraph", model="radgraph")
    lines = [line for line in str(caught.value).splitlines() if line.startswith("  ")]
    assert [line.split()[0] for line in lines] == ["pip", "python", "cohort"]
    assert "model='radgraph', download=True" in lines[1]
    assert "--extractor-option model=radgraph" in lines[2]
    with pytest.raises(
        ExtractorError, match=r"configuration and tokenizer .microsoft/BiomedVLP-CXR-BERT-general. is not in a cache"
    ):
        made["xl"].load(encoder=None)


def test_a_download_asks_the_hub_for_what_is_needed_and_no_more(made: dict[str, Made], tmp_path: Path) -> None:
    """Against a hub of the test's own, in a process of its own: the address is read when the hub's client is imported."""
    script = tmp_path / "asks.py"
    script.write_text(_HUB.format(archive=str(made["xl"].archive), encoder=str(made["xl"].encoder)))
    environment = {
        **os.environ,
        "HF_HOME": str(tmp_path / "hf"),
        "XDG_CACHE_HOME": str(tmp_path),
        "HF_HUB_OFFLINE": "0",
        "HF_HUB_DISABLE_XET": "1",
        "NO_PROXY": "127.0.0.1",
    }
    ran = subprocess.run(
        [sys.executable, str(script)], env=environment, capture_output=True, text=True, check=False, timeout=60
    )
    assert ran.returncode == 0, ran.stderr
    asked = json.loads(ran.stdout.splitlines()[-1])
    assert asked == sorted(
        [
            "StanfordAIMI/RRG_scorers radgraph-xl.tar.gz",
            *(
                f"microsoft/BiomedVLP-CXR-BERT-general {name}"
                for name in ("config.json", "tokenizer_config.json", "vocab.txt")
            ),
        ]
    )


_HUB = """
import json, os, threading, hashlib
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
ENCODER, ARCHIVE = Path({encoder!r}), Path({archive!r})
FILES = {{"microsoft/BiomedVLP-CXR-BERT-general": {{p.name: p for p in ENCODER.iterdir()}}, "StanfordAIMI/RRG_scorers": {{"radgraph-xl.tar.gz": ARCHIVE}}}}
FILES["microsoft/BiomedVLP-CXR-BERT-general"]["pytorch_model.bin"] = ARCHIVE
asked = set()
class Hub(BaseHTTPRequestHandler):
    def do_HEAD(self): self.answer(False)
    def do_GET(self): self.answer(True)
    def log_message(self, *_): pass
    def answer(self, body):
        parts = self.path.split("?")[0].strip("/").split("/")
        name = "/".join(parts[:2]), parts[-1]
        path = FILES.get(name[0], {{}}).get(name[1])
        content = path.read_bytes() if path else b""
        if body and path: asked.add(" ".join(name))
        self.send_response(200 if path else 404)
        if not path: self.send_header("X-Error-Code", "EntryNotFound")
        self.send_header("Content-Length", str(len(content)))
        self.send_header("ETag", '"' + hashlib.sha256(content).hexdigest() + '"')
        self.send_header("X-Repo-Commit", "0" * 40)
        self.end_headers()
        if body: self.wfile.write(content)
server = ThreadingHTTPServer(("127.0.0.1", 0), Hub)
threading.Thread(target=server.serve_forever, daemon=True).start()
os.environ["HF_ENDPOINT"] = f"http://127.0.0.1:{{server.server_port}}"
from nlp.radgraph_archive import staged
with staged("radgraph-xl", None, None, download=True) as files:
    assert (files.folder / "radgraph-xl" / "weights.th").stat().st_size > 0
print(json.dumps(sorted(asked)))
"""


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"model": "radgraph-xxl"}, "unknown RadGraph model 'radgraph-xxl'; known are radgraph-xl, radgraph, modern"),
        ({"archive": "/nowhere/of/smith.tar.gz"}, "archive='smith.tar.gz' is not there"),
        ({"encoder": "/nowhere"}, "encoder='nowhere' is not there; give the path of a folder"),
        ({"device": "cuda:7"}, "CUDA devices; use 'cpu'"),
        ({"device": "tpu"}, "device='tpu' is none; allowed: 'auto', 'cpu'"),
        ({"device": "meta"}, "runs on 'cpu' and 'cuda', not on 'meta'"),
        ({"batch_tokens": 0}, "batch_tokens must be 1 or more, got 0"),
    ],
)
def test_a_wrong_option_is_refused(made: dict[str, Made], options: dict[str, Any], message: str) -> None:
    one = made["xl"]
    with pytest.raises(ExtractorError, match=message):
        RadGraphExtractor(**{"archive": one.archive, "encoder": one.encoder, **options})


# ---- what an archive may hold ------------------------------------------------------------------------------------------


def member(name: str, content: bytes = b"{}", **more: Any) -> tuple[tarfile.TarInfo, bytes]:
    info = tarfile.TarInfo(name)
    info.size = len(content)
    for key, value in more.items():
        setattr(info, key, value)
    return info, content


ATTACKS = {
    "parent": member("../evil.txt"),
    "inner parent": member("vocabulary/../../evil.txt"),
    "absolute": member("/tmp/evil.txt"),
    "backslash": member("vocabulary\\..\\..\\evil.txt"),
    "symbolic link": member("weights.th", b"", type=tarfile.SYMTYPE, linkname="/etc/passwd"),
    "hard link": member("vocabulary/x.txt", b"", type=tarfile.LNKTYPE, linkname="config.json"),
    "device": member("zero", b"", type=tarfile.CHRTYPE, devmajor=1, devminor=5),
    "pipe": member("pipe", b"", type=tarfile.FIFOTYPE),
}


@pytest.mark.parametrize("attack", ATTACKS)
def test_a_member_that_is_no_plain_file_inside_refuses_the_archive(xl: Made, attack: str) -> None:
    info, content = ATTACKS[attack]
    with tarfile.open(xl.archive, "w:gz") as tar:
        tar.addfile(info, io.BytesIO(content))
        for path in sorted(xl.folder.rglob("*")):
            tar.add(path, str(path.relative_to(xl.folder)), recursive=False)
    before = set(xl.archive.parent.rglob("*"))
    with pytest.raises(ExtractorError, match=r"member 0 of the archive (lies outside|is no plain file)"):
        xl.load()
    assert set(xl.archive.parent.rglob("*")) == before
    assert not Path("/tmp/evil.txt").exists()


def test_other_plain_files_are_not_read(xl: Made) -> None:
    (xl.folder / "metrics.json").write_text("not JSON")
    (xl.folder / "vocabulary" / ".lock").touch()
    (xl.folder / "more").mkdir()
    (xl.folder / "more" / "weights.th").write_bytes(b"another")
    pack(xl.folder, xl.archive)
    assert xl.load().version == xl.load(archive=xl.folder).version


@pytest.mark.parametrize("name", ["config.json", "notes.txt"])
def test_a_huge_member_is_refused_before_it_is_read(xl: Made, name: str) -> None:
    header = tarfile.TarInfo(name)
    header.size = 10**12
    xl.archive.write_bytes(header.tobuf() + b"\0" * 1024)  # what follows is not there: it must not be asked for
    with pytest.raises(ExtractorError, match="member 0 of the archive has 1000000000000 bytes; allowed are 33554432"):
        xl.load()


def test_an_archive_of_countless_members_is_refused(xl: Made) -> None:
    with tarfile.open(xl.archive, "w:gz") as tar:
        for number in range(1002):
            tar.addfile(tarfile.TarInfo(f"{number}"), io.BytesIO())
    with pytest.raises(ExtractorError, match="more than 1000 members"):
        xl.load()


def test_an_archive_with_two_configurations_is_refused(xl: Made) -> None:
    with tarfile.open(xl.archive, "w:gz") as tar:
        for _ in range(2):
            info, content = member("./config.json")
            tar.addfile(info, io.BytesIO(content))
    with pytest.raises(ExtractorError, match=r"has config\.json twice"):
        xl.load()


@pytest.mark.parametrize("share", [0.0, 0.2, 0.9, 0.999])
def test_a_truncated_archive_is_refused(xl: Made, share: float) -> None:
    whole = pack(xl.folder, xl.archive).read_bytes()
    xl.archive.write_bytes(whole[: int(share * len(whole))])
    with pytest.raises(ExtractorError, match=r"the archive cannot be read .* truncated|the archive has no"):
        xl.load()


@pytest.mark.parametrize("name", ["config.json", "weights.th", "vocabulary/non_padded_namespaces.txt"])
def test_an_archive_without_a_file_is_refused(xl: Made, name: str) -> None:
    (xl.folder / name).unlink()
    with pytest.raises(ExtractorError, match=f"the archive has no {name}"):
        xl.load(archive=xl.folder)
    with pytest.raises(ExtractorError, match=f"the archive has no {name}"):
        xl.load(archive=pack(xl.folder, xl.archive))


class _Payload:
    """What a wicked file of weights would run."""

    def __init__(self, path: Path) -> None:
        self.path = path

    def __reduce__(self) -> tuple[Callable[[str], object], tuple[str]]:
        return os.mkdir, (str(self.path),)


@pytest.mark.parametrize("forced", [False, True])
@pytest.mark.parametrize("how", ["torch", "pickle"])
def test_code_in_the_weights_is_never_run(
    xl: Made, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, how: str, *, forced: bool
) -> None:
    if forced:
        monkeypatch.setenv("TORCH_FORCE_NO_WEIGHTS_ONLY_LOAD", "1")
    payload = {"weights": _Payload(tmp_path / "owned")}
    with (xl.folder / "weights.th").open("wb") as stream:
        torch.save(payload, stream) if how == "torch" else pickle.dump(payload, stream)
    with pytest.raises(ExtractorError, match="something else than tensors; it could run code, and is not read"):
        xl.load(archive=xl.folder)
    assert not (tmp_path / "owned").exists()


# ---- whether it is the model that it says ------------------------------------------------------------------------------


def labels(*names: str) -> str:
    return "\n" + "".join(f"{name}\n" for name in names)


@pytest.mark.parametrize(
    ("kind", "text", "message"),
    [
        ("ner", labels(*XL_LABELS, "Observation::maybe"), "entity labels of the archive are not those of RadGraph"),
        ("ner", labels(*XL_LABELS[:3], *V1_LABELS), "entity labels of the archive are not those of RadGraph"),
        ("ner", labels(*XL_LABELS).lstrip(), "entity labels of the archive are not those of RadGraph"),
        ("ner", "", "entity labels of the archive are not those of RadGraph"),
        ("relation", "modify\ncauses\n", "relation labels of the archive are not modify, located_at, suggestive_of"),
        ("relation", "", "relation labels of the archive are not modify"),
    ],
)
def test_labels_of_another_model_are_refused(xl: Made, kind: str, text: str, message: str) -> None:
    (xl.folder / "vocabulary" / f"radgraph-xl__{kind}_labels.txt").write_text(text)
    with pytest.raises(ExtractorError, match=message):
        xl.load(archive=xl.folder)


def test_the_archive_of_another_model_is_refused(made: dict[str, Made]) -> None:
    with pytest.raises(ExtractorError, match=r"not one of radgraph-xl: it has the labels of \['radgraph'\]"):
        made["xl"].load(archive=made["v1"].archive)


def put(config: dict[str, Any], path: str, value: object) -> None:
    *parts, last = path.split(".")
    for part in parts:
        config = config[part]
    config[last] = value


@pytest.mark.parametrize(
    ("path", "value", "message"),
    [
        ("model", None, r"no model.type that is a str"),
        ("model.initializer", None, "no model.initializer that is a dict"),
        ("dataset_reader.max_span_width", "12", "no dataset_reader.max_span_width that is a int"),
        (
            "model.modules.relation",
            {"type": "from_archive", "archive_file": "http://example.org/x"},
            "something else than numbers in model.modules",
        ),
        ("model.loss_weights.relation", 0, "without entities or relations"),
        ("model.feature_size", 21, "make no model .RuntimeError.: .*size mismatch"),
        ("model.more", 3, "make no model .TypeError.: .*unexpected keyword"),
        ("dataset_reader.token_indexers.bert.max_length", 2, "make no model .ValueError."),
    ],
)
def test_a_configuration_that_does_not_fit_is_refused(xl: Made, path: str, value: object, message: str) -> None:
    config = json.loads((xl.folder / "config.json").read_text())
    put(config, path, value)
    (xl.folder / "config.json").write_text(json.dumps(config))
    with pytest.raises(ExtractorError, match=message):
        xl.load(archive=xl.folder)


@pytest.mark.parametrize("text", ["", "[]", "{", "[" * 100_000, "\xff"])
def test_a_configuration_that_is_none_is_refused(xl: Made, text: str) -> None:
    (xl.folder / "config.json").write_text(text, encoding="latin-1")
    with pytest.raises(ExtractorError, match=r"config\.json of the archive (is no JSON|must hold one object)"):
        xl.load(archive=xl.folder)


def test_weights_that_lack_a_tensor_or_hold_no_number_are_refused(xl: Made) -> None:
    path = xl.folder / "weights.th"
    whole = torch.load(path)
    name = next(name for name in whole if "_ner_scorers" in name)
    torch.save({key: value for key, value in whole.items() if key != name}, path)
    with pytest.raises(ExtractorError, match=r"make no model .RuntimeError.: .*Missing key"):
        xl.load(archive=xl.folder)
    torch.save({**whole, "more": torch.zeros(1)}, path)
    with pytest.raises(ExtractorError, match=r"make no model .RuntimeError.: .*Unexpected key"):
        xl.load(archive=xl.folder)
    torch.save({**whole, name: whole[name] * float("nan")}, path)
    with pytest.raises(ExtractorError, match="holds values that are not finite"):
        xl.load(archive=xl.folder)


def test_an_encoder_without_a_tokenizer_or_of_an_unknown_kind_is_refused(xl: Made) -> None:
    (xl.encoder / "vocab.txt").rename(xl.encoder / "other.txt")
    with pytest.raises(ExtractorError, match=r"encoder's folder needs config\.json and one of tokenizer\.json, vocab"):
        xl.load(archive=xl.folder)
    (xl.encoder / "other.txt").rename(xl.encoder / "vocab.txt")
    config = json.loads((xl.encoder / "config.json").read_text())
    (xl.encoder / "config.json").write_text(json.dumps({**config, "model_type": "of-its-own"}))
    with pytest.raises(ExtractorError, match=r"make no model .ValueError."):
        xl.load(archive=xl.folder)


def test_the_name_of_the_encoder_is_no_path(xl: Made) -> None:
    config = json.loads((xl.folder / "config.json").read_text())
    put(config, "dataset_reader.token_indexers.bert.model_name", "../../somewhere")
    (xl.folder / "config.json").write_text(json.dumps(config))
    with pytest.raises(ExtractorError, match="something that is no repository of the hub; give its folder as encoder="):
        xl.load(archive=xl.folder, encoder=None)
    assert xl.load(archive=xl.folder).annotate(TEXT)["text"]


# ---- what it leaves behind ---------------------------------------------------------------------------------------------


def test_nothing_of_the_process_is_changed_and_nothing_printed(
    made: dict[str, Made], capfd: pytest.CaptureFixture[str], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(tempfile, "tempdir", str(tmp_path))
    made["v1"].load()  # the import itself has effects that are its own
    random.seed(1)
    np.random.seed(1)  # noqa: NPY002 - the global generator is what must stay as it is
    torch.manual_seed(1)
    for name in ("radgraph", "allennlp", "transformers"):
        logging.getLogger(name).setLevel(logging.INFO)

    def state() -> object:
        from radgraph.allennlp.common import cached_transformers

        return (
            [(name, logging.getLogger(name).level) for name in ("radgraph", "allennlp", "transformers", "root")],
            list(warnings.filters),
            random.getstate(),
            np.random.get_state()[1].tolist(),  # type: ignore[index] # noqa: NPY002
            torch.get_rng_state().tolist(),
            dict(os.environ),
            cached_transformers._model_cache,
            cached_transformers._tokenizer_cache,
            cached_transformers.get_tokenizer,
            torch.get_num_threads(),
            torch.is_grad_enabled(),
            sorted(tmp_path.iterdir()),
        )

    before = state()
    capfd.readouterr()
    extractor = made["xl"].load()
    extractor.extract([Report("r", TEXT), Report("s", "Nodule")])
    assert state() == before
    assert capfd.readouterr() == ("", "")


def test_an_extractor_can_be_sent_to_another_process(made: dict[str, Made]) -> None:
    extractor = made["generic"].load()
    assert pickle.loads(pickle.dumps(extractor)).annotate(TEXT) == extractor.annotate(TEXT)


def test_importing_the_package_loads_no_model_library() -> None:
    code = "import nlp, sys; print([m for m in ('torch', 'radgraph', 'transformers', 'huggingface_hub') if m in sys.modules])"
    ran = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert ran.stdout.strip() == "[]"


# ---- in a build --------------------------------------------------------------------------------------------------------


def test_a_cohort_is_built_with_it(made: dict[str, Made], tmp_path: Path) -> None:
    one = made["xl"]
    hospital = tmp_path / "hospital"
    generate_hospital(hospital, patients=1, seed=0, workers=1, slices=(20, 24))
    options = [f"archive={one.archive}", f"encoder={one.encoder}", "device=cpu"]
    (tmp_path / "cohort.toml").write_text("pictures = 0\nmax_skip_fraction = 1.0\n")
    out = tmp_path / "out"
    arguments = [
        "build",
        hospital / "reports.csv",
        hospital / "pacs_export",
        "-o",
        out,
        "--key",
        tmp_path / "key",
        "-q",
    ]
    arguments += ["--config", tmp_path / "cohort.toml", "--engine", "ellipsoid", "--extractor", "radgraph"]
    arguments += [part for option in options for part in ("--extractor-option", option)]
    assert main([str(argument) for argument in arguments]) == 0
    cohort = open_cohort(out)
    assert cohort.run["config"]["extractor"] == "radgraph"
    assert cohort.run["config"]["extractor_options"] == {}
    assert "Phrases of the reports" in cohort.summary()
    assert not {row["reason"] for row in cohort.skipped} & {"extractor_failed", "report_unusable"}
    published = [path for path in out.rglob("*") if path.suffix in {".json", ".jsonl", ".md", ".txt"}]
    said = "".join(path.read_text() for path in published if "private" not in path.relative_to(out).parts)
    assert "radgraph" in said
    assert str(tmp_path) not in said
    assert str(one.archive) not in said


def test_what_the_machine_lacks_ends_the_run_before_it_begins(tmp_path: Path, made: dict[str, Made]) -> None:
    def engines(**options: Any) -> Engines:
        return Engines("radgraph", "ellipsoid", extractor_options=options)

    with pytest.raises(SetupError, match="is not there"):
        engines(archive=str(tmp_path / "nowhere.tar.gz")).required(1)
    with pytest.raises(ConfigError, match="extractor 'radgraph' has no option archiv; it has model, archive, encoder"):
        engines(archiv="x").required(1)
    with pytest.raises(ConfigError, match="extractor_options go with the name of an extractor"):
        Engines(nlp.RulesExtractor(), "ellipsoid", extractor_options={"model": "x"}).required(1)
    one = made["xl"]
    options = {"archive": str(one.archive), "encoder": str(one.encoder)}
    first = engines(**options).identities()
    assert first == engines(**options, batch_tokens=7, device="cpu").identities()
    other = made["generic"]
    options = {"archive": str(other.archive), "encoder": str(other.encoder), "model": "modern-radgraph-xl"}
    assert first["extractor"] != engines(**options).identities()["extractor"]
