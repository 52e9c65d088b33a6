"""All skips of one run: of the export, of the reports (in their store), of lesions (in the shards)."""

from __future__ import annotations

import heapq
from collections import Counter
from collections.abc import Iterable, Iterator, Mapping, Sequence
from itertools import chain
from pathlib import Path
from typing import TYPE_CHECKING, Any

from cohort_builder.errors import TooManySkips
from cohort_builder.private_rows import private_skip, public_skip
from cohort_builder.shards import ShardPlan, read_lines
from cohort_builder.types import Skip

if TYPE_CHECKING:
    from cohort_builder.privacy.pseudonyms import Pseudonyms
    from cohort_builder.scope.store import ReportStore

_BEFORE_LESIONS = frozenset({"index", "reports", "scope"})


class RunSkips:
    """The skips of a run as streams: of the reports alone there may be more than the memory holds."""

    def __init__(self, pseudonyms: Pseudonyms, shards_dir: Path) -> None:
        self._pseudonyms, self._shards_dir = pseudonyms, shards_dir
        self._own: list[Skip] = []
        self.reports: ReportStore | None = None
        self.finished: Sequence[ShardPlan] = ()

    def add(self, skips: Iterable[Skip]) -> None:
        """Note what was found before there are shards."""
        self._own += skips

    def private(self) -> Iterator[dict[str, Any]]:
        """The rows of ``private/skips.jsonl``."""
        return chain(self._except_reports(), self._of_reports())

    def public(self) -> Iterator[dict[str, Any]]:
        """The published rows, sorted by keyed ids: the order of files and reports would tell that of days and names."""

        def order(row: Mapping[str, Any]) -> tuple[str, str, str]:
            return row["stage"], row["reason"], row["item"]

        return map(public_skip, heapq.merge(sorted(self._except_reports(), key=order), self._of_reports(), key=order))

    def reasons(self) -> Counter[str]:
        """How often each reason was given."""
        return Counter(row["reason"] for row in self.private())

    def refuse_too_many(self, stage: str, failed: int, of: int, *, share: float) -> None:
        """Stop a run that lost more than ``share`` of the items of a stage.

        Raises
        ------
        TooManySkips
            With the commonest reason: details quote nobody.

        """
        if failed <= share * of:
            return
        ours = {"index": {"index"}, "reports": {"reports"}, "findings": {"reports"}}.get(stage)
        details = Counter(
            f"{row['reason']} ({row['detail']})"
            for row in self.private()
            if row["failure"] and (row["stage"] in ours if ours else row["stage"] not in _BEFORE_LESIONS)
        )
        commonest = "".join(f" The commonest failure, {n} times, is {detail}." for detail, n in details.most_common(1))
        raise TooManySkips(
            f"{failed} of {of} items failed in the stage '{stage}', more than max_skip_fraction = {share}: something "
            f"is wrong with the whole input.{commonest} All are in private/skips.jsonl. Raise max_skip_fraction to "
            "build from the rest."
        )

    def _except_reports(self) -> Iterator[dict[str, Any]]:
        yield from (private_skip(skip, self._pseudonyms) for skip in self._own)
        yield from read_lines(self._shards_dir, self.finished, "skips.jsonl")

    def _of_reports(self) -> Iterator[dict[str, Any]]:
        return iter(()) if self.reports is None else self.reports.skips()
