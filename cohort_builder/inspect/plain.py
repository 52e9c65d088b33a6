"""Sections as plain text, for a terminal."""

from __future__ import annotations

from collections.abc import Iterator, Sequence

from cohort_builder.inspect.blocks import Bars, Block, Section, Table, number

_BAR = 40
_WRAP_FROM = 60


def as_text(sections: Sequence[Section], note: str = "") -> str:
    """Everything, one table below the other."""
    lines = ["Inspection", *([note] if note else [])]
    for section in sections:
        lines += ["", section.title.upper()]
        for block in section.blocks:
            lines += _block(block)
    return "\n".join(lines)


def _block(block: Block) -> Iterator[str]:
    yield block.title
    yield from _bars(block) if isinstance(block, Bars) else _table(block)
    if block.note:
        yield f"  ({block.note})"


def _table(table: Table) -> Iterator[str]:
    """Columns side by side; a long last one below its row."""
    rows = [tuple(map(_cell, row)) for row in table.rows]
    below = len(table.columns) > 1 and any(len(row[-1]) > _WRAP_FROM for row in rows)
    n = len(table.columns) - below
    header = [table.columns[:n]] if sum(map(bool, table.columns)) > 1 else []
    widths = [max(len(row[i]) for row in [*header, *rows]) for i in range(n)]
    right = [all(not isinstance(row[i], str) for row in table.rows) for i in range(n)]
    for cells, whole in [*((h, None) for h in header), *((row[:n], row) for row in rows)]:
        aligned = (c.rjust(w) if r else c.ljust(w) for c, w, r in zip(cells, widths, right, strict=True))
        yield f"  {'  '.join(aligned)}".rstrip()
        if below and whole is not None and whole[-1]:
            yield f"    {whole[-1]}"


def _bars(bars: Bars) -> Iterator[str]:
    used = [i for i, value in enumerate(bars.values) if value]
    if not used:
        yield "  none"
        return
    shown = slice(used[0], used[-1] + 1)
    most, width = max(bars.values), max(map(len, bars.labels[shown]))
    yield f"  {bars.axis}:"
    for label, value in zip(bars.labels[shown], bars.values[shown], strict=True):
        yield f"  {label:>{width}}  {value:>8,}  {'#' * round(_BAR * value / most)}".rstrip()


def _cell(value: str | float) -> str:
    return value if isinstance(value, str) else number(value)
