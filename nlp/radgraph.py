"""RadGraph and RadGraph-XL as an extractor: the published models through the ``radgraph`` package.

Jain et al., RadGraph (NeurIPS Datasets and Benchmarks 2021); Delbrouck et al., RadGraph-XL (ACL Findings 2024). The
model marks entities and how they hang together; numbers are ours (``nlp.find_sizes``), and ``nlp.build_findings`` makes
findings of both.
"""

from __future__ import annotations

import os
from bisect import bisect_left, bisect_right
from collections.abc import Callable, Sequence
from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

from nlp.findings import build_findings
from nlp.graph import Entity, Graph, Label, Relation
from nlp.radgraph_archive import staged
from nlp.radgraph_json import align_tokens, read_document
from nlp.sections import split_sentences
from nlp.sizes import find_image_references, find_sizes
from nlp.types import Assertion, ExtractorError, Finding, ImageReference, Report, ReportError, Size, SizeKind, Span

if TYPE_CHECKING:
    from nlp.radgraph_model import Prediction

BLOCK_TOKENS = 250
"""Most tokens that the model sees at once: time grows with their square, and it learned from shorter reports."""
_MOST_TOKENS = 20_000
_MEASUREMENT = {
    Assertion.PRESENT: Label.OBSERVATION_MEASUREMENT_PRESENT,
    Assertion.UNCERTAIN: Label.OBSERVATION_MEASUREMENT_UNCERTAIN,
    Assertion.ABSENT: Label.OBSERVATION_MEASUREMENT_ABSENT,
}
_LANGUAGE = "en"
_SHORT = 12  # digits of a hash in a name


class RadGraphExtractor:
    """Findings by RadGraph, on a GPU or a CPU. English.

    Documents of more than 250 tokens are split at sentence ends; relations never lead from one part to another. Its
    measurements say to what a length belongs; whether it is one, and its value, says ``nlp.find_sizes``.

    Parameters
    ----------
    model
        ``"radgraph-xl"``, ``"radgraph"`` (v1) or ``"modern-radgraph-xl"``.
    archive
        The published ``.tar.gz`` or the folder that it was unpacked to. None: what the ``radgraph`` package or the hub
        keep in their caches on this machine.
    encoder
        Folder with the configuration and tokenizer of the model's encoder, which the archive only names; its weights
        are not needed. None: the hub's cache.
    device
        ``"auto"`` (a GPU where there is one), ``"cpu"``, ``"cuda"`` or ``"cuda:N"``.
    batch_tokens
        How many tokens the encoder sees at once; None chooses by device. No answer depends on it.
    download
        Ask the hub for what is in no cache. Nothing is downloaded unasked.

    Raises
    ------
    ExtractorError
        The package, the files or the device are not there, or the files are not those of the model.

    """

    name = "radgraph"
    languages = frozenset({_LANGUAGE})
    neutral_options = frozenset({"archive", "encoder", "device", "batch_tokens", "download"})
    """Options that say where the model lies and how it is run, not what it answers."""

    def __init__(
        self,
        model: str = "radgraph-xl",
        archive: str | os.PathLike[str] | None = None,
        encoder: str | os.PathLike[str] | None = None,
        *,
        device: str = "auto",
        batch_tokens: int | None = None,
        download: bool = False,
    ) -> None:
        if batch_tokens is not None and batch_tokens < 1:
            raise ExtractorError(f"batch_tokens must be 1 or more, got {batch_tokens}")
        try:
            from nlp.radgraph_model import RADGRAPH_VERSION, RadGraphModel
        except ImportError as error:
            raise ExtractorError(
                f"{error.name} is not installed: pip install 'cohort-builder[radgraph]', which brings all that it needs"
            ) from error
        folders = [None if path is None else Path(path) for path in (archive, encoder)]
        with staged(model, *folders, download=download) as files:
            self._model = RadGraphModel(files, device, batch_tokens)
        self.weights_sha256 = files.weights_sha256
        self.version = f"{model}-{files.weights_sha256[:_SHORT]}"
        self.revision = f"radgraph {RADGRAPH_VERSION}, files {files.files_sha256[:_SHORT]}"

    def extract(
        self, reports: Sequence[Report], *, on_error: Callable[[int, ReportError], None] | None = None
    ) -> Sequence[Sequence[Finding]]:
        """Return the findings of each report, in the order of the reports.

        Parameters
        ----------
        reports
            Any number; the more, the better they fill the batches of a GPU.
        on_error
            Called with the number of a report that cannot be read and the reason; its findings are then empty. Without
            it, the first such report raises.

        Raises
        ------
        ReportError
            Without ``on_error``: a report is in another language or too long, or the model fails on it.

        """
        found: list[list[Finding]] = []
        for number, (report, answer) in enumerate(zip(reports, self._annotations(reports), strict=True)):
            if isinstance(answer, ReportError):
                if on_error is None:
                    raise answer
                on_error(number, answer)
                found.append([])
            else:
                found.append(self._findings(report, read_document(answer, report.text)))
        return found

    def annotate(self, text: str) -> dict[str, Any]:
        """Return one text's document in RadGraph's JSON, with scores: what ``Graph.from_radgraph`` reads.

        Raises
        ------
        ReportError
            The text is too long, or the model fails on it.

        """
        (answer,) = self._annotations([Report("text", text)])
        if isinstance(answer, ReportError):
            raise answer
        return answer

    def graph(self, text: str) -> Graph:
        """Return the entities and relations of a text, with character offsets into it and scores."""
        return read_document(self.annotate(text), text)

    def _findings(self, report: Report, graph: Graph) -> list[Finding]:
        references = find_image_references(report.text, _LANGUAGE)
        sizes = find_sizes(report.text, _LANGUAGE)
        graph, sizes = reconcile(report.text, graph, sizes=sizes, references=references)
        return build_findings(
            report, graph, sizes=sizes, references=references, extractor=f"{self.name}@{self.version}"
        )

    def _annotations(self, reports: Sequence[Report]) -> list[dict[str, Any] | ReportError]:
        tokens: list[list[str]] = []
        cuts: list[list[int]] = []
        errors: dict[int, ReportError] = {}
        for number, report in enumerate(reports):
            try:
                own = self._tokens(report)
                starts = _cuts(own, report.text)
            except ReportError as error:
                errors[number] = error
                own, starts = [], [0]
            tokens.append(own)
            cuts.append(starts)
        blocks = [
            (number, start, end)
            for number, places in enumerate(cuts)
            for start, end in zip(places, [*places[1:], len(tokens[number])], strict=True)
            if start < end
        ]
        predictions = self._model.predict([tokens[number][start:end] for number, start, end in blocks])
        parts: list[list[tuple[int, Prediction]]] = [[] for _ in reports]
        for (number, start, _), prediction in zip(blocks, predictions, strict=True):
            if isinstance(prediction, Exception):
                errors.setdefault(number, _failed(prediction))
            else:
                parts[number].append((start, prediction))
        return [errors.get(number) or _document(tokens[number], parts[number]) for number in range(len(reports))]

    def _tokens(self, report: Report) -> list[str]:
        if report.language.split("-")[0].lower() not in {*self.languages, "und"}:
            raise ReportError(f"the report is in another language than RadGraph reads ({', '.join(self.languages)})")
        tokens = self._model.tokens(report.text) if report.text.strip() else []
        if len(tokens) > _MOST_TOKENS:
            raise ReportError(f"the report has {len(tokens)} tokens; RadGraph is given {_MOST_TOKENS} at most")
        return tokens


def reconcile(
    text: str, graph: Graph, *, sizes: Sequence[Size], references: Sequence[ImageReference]
) -> tuple[Graph, list[Size]]:
    """Bring what a model marks and the lengths found by rules together.

    - A measurement over no length (a density, a level) is left out of the graph: the rules decide what a length is.
    - What a model without labels for measurements calls an observation, and is a length, becomes a measurement.
    - Numbers without a word, and what stands inside an image reference, are no observations.
    - An entity or relation that leaves its sentence is left out: a finding is said in one, and published with it.
    - A lesion's length that the model measures anatomy with, and no observation, is of kind OTHER: it links to nothing.

    """
    sentences = split_sentences(text)
    starts = [start for start, _ in sentences]
    home: dict[int, int] = {}  # of what is kept: the number of its sentence
    kept: dict[int, Entity] = {}
    for index, entity in enumerate(graph.entities):
        marked = _relabelled(entity, sizes)
        over_length = any(_overlap(entity.span, size.span) for size in sizes)
        sentence = bisect_right(starts, entity.span[0]) - 1
        inside = sentence >= 0 and entity.span[1] <= sentences[sentence][1]
        if inside and (over_length or not marked.label.is_measurement) and not _is_stray(marked, references):
            home[index], kept[index] = sentence, marked
    place = {old: new for new, old in enumerate(kept)}
    entities = []
    for index, entity in kept.items():
        at = [number for number, (_, target) in enumerate(entity.relations) if home.get(target) == home[index]]
        relations = tuple((entity.relations[number][0], place[entity.relations[number][1]]) for number in at)
        scores = tuple(entity.relation_scores[number] for number in at) if entity.relation_scores else ()
        entities.append(replace(entity, relations=relations, relation_scores=scores))
    found = Graph(tuple(entities))
    return found, [_as_measured(size, found) for size in sizes]


def _relabelled(entity: Entity, sizes: Sequence[Size]) -> Entity:
    start, end = entity.span
    is_length = entity.label.is_observation and any(size.span[0] <= start and end <= size.span[1] for size in sizes)
    return replace(entity, label=_MEASUREMENT[entity.label.assertion]) if is_length else entity


def _is_stray(entity: Entity, references: Sequence[ImageReference]) -> bool:
    wordless = not any(letter.isalpha() for letter in entity.term)
    inside = any(_overlap(entity.span, reference.span) for reference in references)
    return entity.label.is_observation and (wordless or inside)


def _as_measured(size: Size, graph: Graph) -> Size:
    if size.kind is not SizeKind.LESION:
        return size
    over = [
        index
        for index, entity in enumerate(graph.entities)
        if entity.label.is_measurement and _overlap(entity.span, size.span)
    ]
    described = {target for index in over for target in graph.targets(index, Relation.MODIFY)}
    of_anatomy = all(graph.entities[index].label.value.startswith("Anatomy::") for index in over)
    only_anatomy = all(graph.entities[target].label.is_anatomy for target in described)
    return replace(size, kind=SizeKind.OTHER) if described and of_anatomy and only_anatomy else size


def _cuts(tokens: Sequence[str], text: str) -> list[int]:
    """Where blocks of at most ``BLOCK_TOKENS`` begin: at sentences; inside one only where it is longer than that."""
    if len(tokens) <= BLOCK_TOKENS:
        return [0]
    starts = [start for start, _ in align_tokens(tokens, text)]
    sentences = sorted({bisect_left(starts, start) for start, _ in split_sentences(text)} - {0})
    cuts = [0]
    for first, after in zip([0, *sentences], [*sentences, len(tokens)], strict=True):
        if after - cuts[-1] > BLOCK_TOKENS and first > cuts[-1]:
            cuts.append(first)
        while after - cuts[-1] > BLOCK_TOKENS:
            cuts.append(cuts[-1] + BLOCK_TOKENS)
    return cuts


def _document(tokens: Sequence[str], parts: Sequence[tuple[int, Prediction]]) -> dict[str, Any]:
    """One document in the package's JSON from the predictions of its blocks, each with its first token's number."""
    entities: dict[str, dict[str, Any]] = {}
    for offset, prediction in parts:
        base = len(entities)
        key = {tuple(entity[:2]): str(base + place) for place, entity in enumerate(prediction.entities, 1)}
        relations: dict[tuple[int, int], list[list[Any]]] = {}
        for first, last, first_target, last_target, label, _, score in prediction.relations:
            if (first_target, last_target) in key:
                relations.setdefault((first, last), []).append([label, key[first_target, last_target], score])
        for first, last, label, _, score in prediction.entities:
            entities[key[first, last]] = {
                "tokens": " ".join(tokens[first + offset : last + offset + 1]),
                "label": label,
                "start_ix": first + offset,
                "end_ix": last + offset,
                "relations": relations.get((first, last), []),
                "score": score,
            }
    return {"text": " ".join(tokens), "entities": entities, "data_source": None, "data_split": "inference"}


def _failed(error: Exception) -> ReportError:
    failed = ReportError(f"RadGraph failed on the report with {type(error).__name__}")
    failed.__cause__ = error
    return failed


def _overlap(first: Span, second: Span) -> bool:
    return first[0] < second[1] and second[0] < first[1]
