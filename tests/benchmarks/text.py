"""How fast reports are read: sizes, rules, RadGraph, links.

``python tests/benchmarks/text.py [--json] [--quick]``. Reports a CPU second of one thread, so that a busy machine
changes little; links a CPU second. Texts are those that this project generates, whole and their impressions
alone, and the reports of ``../shared/data`` where they are. RadGraph has weights drawn at random
in the published size (BERT base): the time of a report hardly depends on what the weights say. It is timed in batches
as ``extract`` makes them, one report at a time, and as the ``radgraph`` package itself runs, which is the peer.
"""

from __future__ import annotations

import os

os.environ.setdefault("OMP_NUM_THREADS", "1")

import argparse
import json
import sys
import tempfile
from collections.abc import Callable, Sequence
from pathlib import Path
from time import process_time

sys.path.insert(0, str(Path(__file__).resolve().parents[1]))

import torch
from nltk.tokenize import wordpunct_tokenize
from radgraph_models import PUBLISHED, Made, package_of, write_encoder, write_model

from cohort_builder import link
from cohort_builder.demo.simulate import simulate_studies
from nlp import RadGraphExtractor, Report, find_image_references, find_sizes, load_extractor, split_sections
from nlp.radgraph_model import quiet

REAL = Path(__file__).resolve().parents[3] / "shared" / "data" / "reports" / "ctrate_dev" / "texts.jsonl"
MILLION, CORES = 1_000_000, 2


def rate(work: Callable[[], object], items: int, least: float) -> float:
    """Items a CPU second; the work is done once, and again until it took ``least`` seconds."""
    start, rounds = process_time(), 0
    while not rounds or process_time() - start < least:
        work()
        rounds += 1
    return items * rounds / (process_time() - start)


def texts(count: int) -> dict[str, list[str]]:
    """Reports by where they come from; of the generated ones also the impressions alone, which are short."""
    whole = [study.report.text for study in simulate_studies(count, 0)]
    found = {"generated": whole, "generated, impressions": [_impression(text) for text in whole]}
    if REAL.is_file():
        rows = [json.loads(line) for line in REAL.read_text(encoding="utf-8").splitlines()]
        found["real chest CT"] = [row["text"] for row in rows][:count]
    return found


def _impression(text: str) -> str:
    (start, end), *_ = [(s.start, s.end) for s in split_sections(text) if s.name == "impression"] or [(0, len(text))]
    return text[start:end]


def read(kind: Sequence[str], least: float) -> dict[str, float]:
    """Reports of one kind a second: sizes alone, and the rules, which look for sizes, too."""
    reports = [Report(str(number), text) for number, text in enumerate(kind)]
    rules = load_extractor("rules")
    rules.extract(reports[:1])  # loads its lists
    extract = rate(lambda: [rules.extract([report]) for report in reports], len(reports), least)
    return {
        "reports": len(kind),
        "words a report": round(sum(len(text.split()) for text in kind) / len(kind)),
        "sizes a second": round(
            rate(lambda: [(find_sizes(t), find_image_references(t)) for t in kind], len(kind), least)
        ),
        "rules a second": round(extract, 1),
        f"minutes for a million on {CORES} cores": round(MILLION / (CORES * extract) / 60, 1),
    }


def links(studies: int, least: float) -> dict[str, float]:
    """Pairs of findings and lesions that a linked study holds, a second."""
    rules = load_extractor("rules")
    simulated = list(simulate_studies(studies, 0))
    pairs = [(rules.extract([study.report])[0], study.lesions) for study in simulated]
    answers = sum(len(link(findings, lesions)) for findings, lesions in pairs)
    seconds = rate(lambda: [link(findings, lesions) for findings, lesions in pairs], studies, least)
    return {"studies a second": round(seconds), "answers a second": round(seconds * answers / studies)}


def radgraph(kinds: dict[str, list[str]], count: int) -> dict[str, dict[str, float]]:
    """Reports a second: in batches, one at a time, and by the package itself."""
    torch.set_num_threads(1)
    with tempfile.TemporaryDirectory() as name:
        root = Path(name)
        encoder = write_encoder(root / "encoder", sizes=PUBLISHED)
        made = Made("radgraph-xl", write_model(root / "xl", "radgraph-xl", encoder), root / "none", encoder)
        ours: RadGraphExtractor = made.load(archive=made.folder, device="cpu")
        package = package_of(made)
        found = {}
        for kind, all_texts in kinds.items():
            if kind.startswith("real"):
                continue
            chosen = all_texts[: 4 * count] if "impressions" in kind else all_texts[:count]
            reports = [Report(str(number), text) for number, text in enumerate(chosen)]
            tokens = sum(len(wordpunct_tokenize(text)) for text in chosen)

            def alone(reports: Sequence[Report] = reports) -> None:
                for report in reports:
                    ours.extract([report])

            def peer(chosen: Sequence[str] = chosen) -> None:
                with quiet():
                    for text in chosen:
                        package([text])

            works = {
                "in batches": lambda reports=reports: ours.extract(reports),
                "one by one": alone,
                "the package": peer,
            }
            found[kind] = {"tokens a report": round(tokens / len(chosen))} | {
                name: round(rate(work, len(chosen), 0.0), 3) for name, work in works.items()
            }
        return found


def measure(*, quick: bool) -> dict[str, object]:
    least, count, few = (0.3, 40, 2) if quick else (3.0, 200, 8)
    kinds = texts(count)
    by_model = radgraph(kinds, few)
    headline = by_model["generated"]
    return {
        "subject": "reports a second of RadGraph on one CPU core, random weights of the published size",
        "ours": headline["in batches"],
        "peer": headline["the package"],
        "ratio": round(headline["in batches"] / headline["the package"], 2),
        "ran": {
            "reading": {kind: read(chosen, least) for kind, chosen in kinds.items()},
            "links": links(count, least),
            "radgraph": by_model,
            "unit": "CPU seconds of one thread",
        },
    }


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--json", action="store_true", help="print one JSON object")
    parser.add_argument("--quick", action="store_true", help="fewer reports: half a minute")
    arguments = parser.parse_args()
    result = measure(quick=arguments.quick)
    print(json.dumps(result) if arguments.json else json.dumps(result, indent=1))


if __name__ == "__main__":
    main()
