"""From entities, relations and lengths to findings: one per thing that the report speaks of."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Protocol

from nlp.graph import Graph
from nlp.merge import merge_repeats, named
from nlp.passages import Antecedent, next_antecedent, passages
from nlp.sentence import SentenceFindings
from nlp.types import Finding, ImageReference, Report, Size, Span


class Extractor(Protocol):
    """Anything that turns reports into findings.

    ``extract`` returns one sequence per report, in the order of the reports. Spans are offsets into ``Report.text``,
    and ``Finding.finding_id`` is ``f"{report_id}#{start}-{end}"`` of the first mention's phrase.
    """

    name: str

    def extract(self, reports: Sequence[Report]) -> Sequence[Sequence[Finding]]:
        """Return the findings of each report."""
        ...


def build_findings(
    report: Report, graph: Graph, *, sizes: Sequence[Size], references: Sequence[ImageReference], extractor: str
) -> list[Finding]:
    """Turn a report's graph and lengths into findings, in text order.

    A head observation and each lesion length attached to it make one finding ("nodules of 5 and 7 mm" make two); an
    earlier day's length goes with today's. Lengths are attached by the graph's measurements, else by position; one that
    could belong to two heads is left out. The length of a vessel, duct or organ makes a finding named after it. Several
    lengths of one thing at one place ("the nodule, nadir 12 mm, 15 mm") are the size of none.

    The phrase is the shortest span of a sentence with head, describing words, places, lengths and image reference,
    without the label of a paragraph and without a length of another finding: "7 mm in the lower lobe" is a phrase of
    its own. Only where the text shares the words too ("nodules of 5 and 7 mm", "respectively") do two findings share a
    phrase; they keep distinct ids by ``.2``, ``.3`` behind the second and third.

    Of "A nodule is seen in the lingula. It measures 8 mm." the phrase runs from the noun to the length, and the
    mention's sentence over both sentences. Where they do not adjoin, or another thing or one of today's lengths stands
    between, the noun's own phrase leads and "It measures 8 mm" is the second mention.

    What the impression repeats becomes a second mention.
    """
    findings: list[Finding] = []
    said: dict[int, Span] = {}
    before: Antecedent | None = None
    for passage in passages(report.text, graph, sizes, references):
        if passage.heads or passage.sizes:
            findings += SentenceFindings(report, graph, passage, extractor, said).findings(before)
        before = next_antecedent(report.text, graph, passage, before)
    findings.sort(key=lambda finding: (finding.mentions[0].phrase, [size.span for size in finding.sizes]))
    return named(merge_repeats(report.text, findings))
