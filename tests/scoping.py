"""The join of reports to studies without the store that streams them."""

from __future__ import annotations

from collections.abc import Iterable

from cohort_builder.scope.joining import ReportJoin, Scope, StudyIndex, partly_absent
from cohort_builder.types import Skip
from nlp.types import Report


def scope_reports(reports: Iterable[Report], index: StudyIndex) -> tuple[list[Scope], list[Skip]]:
    """Scopes in the order of ``reports``, and a Skip for each other one and for each that is partly absent."""
    join = ReportJoin(index)
    scopes: list[Scope] = []
    skips: list[Skip] = []
    for report in reports:
        outcome = join.scope(report)
        if isinstance(outcome, Scope):
            scopes.append(outcome)
            if join.is_partly_absent(report, outcome):
                skips.append(partly_absent(report.report_id))
        else:
            skips.append(outcome)
    return scopes, skips
