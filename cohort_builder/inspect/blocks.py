"""What a page is made of, whatever it is shown on: sections of tables and plots."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import TypeAlias


@dataclass(frozen=True, slots=True)
class Headline:
    """One figure that matters, what it is, and a few words more."""

    figure: str
    label: str
    more: str = ""


@dataclass(frozen=True, slots=True)
class Table:
    """Rows of texts and numbers; numbers stand to the right."""

    title: str
    columns: tuple[str, ...]
    rows: tuple[tuple[str | int | float, ...], ...]
    note: str = ""


@dataclass(frozen=True, slots=True)
class Bars:
    """Counts of bins that follow each other; ``axis`` says what the bins are of."""

    title: str
    labels: tuple[str, ...]
    values: tuple[int, ...]
    axis: str
    note: str = ""


Block: TypeAlias = Table | Bars


@dataclass(frozen=True, slots=True)
class Section:
    """Blocks under one heading; ``lead`` says what they answer."""

    title: str
    lead: str
    blocks: tuple[Block, ...] = field(default=())


def counted(title: str, counts: Mapping[str, int], note: str = "") -> Table:
    """A table of names and counts."""
    return Table(title, ("", "number"), tuple((spoken(name), n) for name, n in counts.items()), note)


def spoken(name: str) -> str:
    """A code as words."""
    return name.replace("_", " ")


def number(value: float) -> str:
    """Three digits of a number, or all of a whole one."""
    if float(value).is_integer():
        return f"{value:,.0f}"
    return f"{value:,.0f}" if abs(value) >= 100 else f"{value:.3g}"


def duration(seconds: float) -> str:
    """A time in the unit that suits it."""
    for size, unit in ((86400.0, "days"), (3600.0, "h"), (60.0, "min")):
        if seconds >= 1.5 * size:
            return f"{seconds / size:.2g} {unit}" if seconds < 10 * size else f"{seconds / size:.0f} {unit}"
    return f"{seconds:.2g} s" if seconds < 10 else f"{seconds:.0f} s"


def size(n_bytes: float) -> str:
    """Bytes in the unit that suits them."""
    for unit, factor in (("TB", 1e12), ("GB", 1e9), ("MB", 1e6)):
        if n_bytes >= factor:
            return f"{n_bytes / factor:.2g} {unit}" if n_bytes < 100 * factor else f"{n_bytes / factor:.0f} {unit}"
    return f"{n_bytes / 1e3:.0f} kB"


def span(low: str, high: str) -> str:
    """A range; with one unit it is said once."""
    if low == high:
        return low
    value, _, unit = low.partition(" ")
    return f"{value} to {high}" if high.endswith(f" {unit}") else f"{low} to {high}"
