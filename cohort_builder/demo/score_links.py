"""Links of a built cohort against the truth of a generated hospital."""

from __future__ import annotations

import json
from collections import Counter
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from cohort_builder.demo.truth import Entry, Truth
from cohort_builder.errors import ConfigError
from cohort_builder.types import Decision

_SAME_MM = 0.06  # a value in a report has at most one decimal


@dataclass(frozen=True, slots=True)
class LinkCounts:
    """How many links are right.

    Parameters
    ----------
    right, wrong
        LINKED findings whose lesion is, or is not, exactly what is said there. A lesion that merges strokes on several
        things is wrong, and so is a link of something that is no finding of a drawn lesion at all.
    prior_right, prior_wrong
        The same for PRIOR_LINKED: the lesion in the earlier study.
    linkable, linked
        Findings that are said with a current size and drawn in a usable way in a study of the export; how many of them
        got their right link.
    merged, split
        Lesions of the cohort with strokes on several things; things whose strokes became several lesions.
    decisions
        Findings by decision.
    mistakes
        (report id, phrase's start) of the wrong ones: private.

    """

    right: int
    wrong: int
    prior_right: int
    prior_wrong: int
    linkable: int
    linked: int
    merged: int
    split: int
    decisions: Mapping[str, int]
    mistakes: tuple[tuple[str, int], ...] = ()

    @property
    def withheld(self) -> int:
        """Linkable findings without their right link."""
        return self.linkable - self.linked

    @property
    def precision(self) -> float:
        """Right among all LINKED; 1 where there is none."""
        made = self.right + self.wrong
        return self.right / made if made else 1.0

    @property
    def recall(self) -> float:
        """Linked among the linkable; 1 where there is none."""
        return self.linked / self.linkable if self.linkable else 1.0


class Strokes:
    """Which truth lesion each saved stroke lies on."""

    def __init__(self, truth: Truth) -> None:
        self._lesion_of = {
            (entry["sop_instance_uid"], _item(entry["item"])): entry["lesion"]
            for entries in (truth.others, *(lesion["annotations"] for lesion in truth.lesions))
            for entry in entries
        }

    def lesions_of(self, annotations: Sequence[Entry]) -> frozenset[str | None]:
        """Truth lesions under the annotations of one lesion of the cohort; None for a stroke on nothing."""
        return frozenset(self._lesion_of.get((a["sop_instance_uid"], _item(a["item"]))) for a in annotations)


def _item(item: str) -> str:
    """Return the number of the graphic annotation item; what follows counts the objects in it."""
    return item.partition(".")[0]


def read_links(cohort_dir: Path) -> list[Entry]:
    """Read ``private/links.jsonl`` of a cohort.

    Raises
    ------
    ConfigError
        It is not there.

    """
    path = cohort_dir / "private" / "links.jsonl"
    if not path.is_file():
        raise ConfigError("the cohort has no private/links.jsonl; build it first, and keep its private folder")
    with path.open(encoding="utf-8") as lines:
        return [json.loads(line) for line in lines if line.strip()]


def count_links(links: Sequence[Entry], truth: Truth) -> LinkCounts:
    """Compare every decision with the truth."""
    strokes = Strokes(truth)
    number_of = {lesion["key"]: lesion["number"] for lesion in truth.lesions}
    findings_of: dict[str, list[Entry]] = {}
    for finding in truth.findings:
        findings_of.setdefault(finding["report_id"], []).append(finding)
    tally: Counter[str] = Counter()
    linked: set[tuple[str, str]] = set()
    mistakes = []
    for row in links:
        if row["decision"] not in {Decision.LINKED, Decision.PRIOR_LINKED}:
            continue
        on = strokes.lesions_of(row["annotations"])
        is_prior = row["decision"] == Decision.PRIOR_LINKED
        said = _said(row, findings_of.get(row["report_id"], ()), "prior_mm" if is_prior else "values_mm")
        if is_prior:
            same = said is not None and {number_of.get(key or "") for key in on} == {number_of[said["lesion"]]}
            tally["prior_right" if same else "prior_wrong"] += 1
        elif said is not None and on == {said["lesion"]}:
            tally["right"] += 1
            linked.add((said["report_id"], said["lesion"]))
        else:
            tally["wrong"] += 1
            mistakes.append((str(row["report_id"]), int(row["start"])))
    linkable = {(f["report_id"], f["lesion"]) for f in truth.findings if is_linkable(f)}
    merged, split = _grouping(links, strokes)
    return LinkCounts(
        right=tally["right"],
        wrong=tally["wrong"],
        prior_right=tally["prior_right"],
        prior_wrong=tally["prior_wrong"],
        linkable=len(linkable),
        linked=len(linkable & linked),
        merged=merged,
        split=split,
        decisions=dict(sorted(Counter(row["decision"] for row in links if row["finding_id"] is not None).items())),
        mistakes=tuple(mistakes),
    )


def is_linkable(finding: Entry) -> bool:
    """Whether a finding is said with a current size, and drawn in a usable way in a study of the export."""
    return bool(finding["drawn"]) and any(mention["size"] for mention in finding["mentions"])


def _said(row: Entry, findings: Sequence[Entry], stated: str) -> Entry | None:
    """Return the finding of the truth that the phrase of ``row`` is, going by its place and its sizes."""
    found = [
        finding
        for finding in findings
        for mention in _mentions_at(row, finding)
        if _has_size(row["values_mm"], mention[stated])
    ]
    return found[0] if found else None


def _mentions_at(row: Entry, finding: Entry) -> Iterator[Mapping[str, Any]]:
    for mention in finding["mentions"]:
        start, end = mention["sentence"]
        if row["start"] < end and start < row["end"]:
            yield mention


def _has_size(sizes: Sequence[Sequence[float]], wanted: Sequence[float]) -> bool:
    """Whether the wanted size is among the sizes; a mention without one is told by its place alone."""
    if not wanted:
        return True
    return any(
        len(values) == len(wanted) and all(abs(a - b) < _SAME_MM for a, b in zip(values, wanted, strict=True))
        for values in sizes
    )


def _grouping(links: Sequence[Entry], strokes: Strokes) -> tuple[int, int]:
    on = {row["lesion_id"]: strokes.lesions_of(row["annotations"]) for row in links if row["lesion_id"] is not None}
    things = Counter(key for keys in on.values() for key in keys if key is not None)
    return sum(len(keys) > 1 for keys in on.values()), sum(n > 1 for n in things.values())
