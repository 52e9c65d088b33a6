"""Bars as inline SVG in the colours of the page; no script, no font and no file is needed to see them."""

from __future__ import annotations

from html import escape
from math import ceil, floor, log10

from cohort_builder.inspect.blocks import Bars, number

_WIDTH, _HEIGHT = 420, 170
_LEFT, _RIGHT, _TOP, _BOTTOM = 44, 8, 12, 40
_GAP = 0.15
_CHARACTER_PX = 6.2


def bars_svg(bars: Bars) -> str:
    """One picture; what it shows is also its text for those who do not see it."""
    inner_width, inner_height = _WIDTH - _LEFT - _RIGHT, _HEIGHT - _TOP - _BOTTOM
    top = nice_ceiling(max(bars.values, default=0))
    step = inner_width / max(1, len(bars.values))
    base = _TOP + inner_height
    parts = [_grid(value, base - inner_height * value / top) for value in (0, top / 2, top) if value == int(value)]
    every = ceil(max((len(label) for label in bars.labels), default=1) * _CHARACTER_PX / step)
    for i, (label, value) in enumerate(zip(bars.labels, bars.values, strict=True)):
        x, height = _LEFT + i * step, inner_height * value / top
        parts.append(
            f'<rect class="bar" x="{x + _GAP * step / 2:.1f}" y="{base - height:.1f}" '
            f'width="{step * (1 - _GAP):.1f}" height="{height:.1f}"><title>{escape(label)}: {value:,}</title></rect>'
        )
        if i % every == 0:
            parts.append(f'<text class="tick" x="{x + step / 2:.1f}" y="{base + 14}">{escape(label)}</text>')
    parts.append(f'<text class="axis" x="{_LEFT + inner_width / 2}" y="{_HEIGHT - 6}">{escape(bars.axis)}</text>')
    said = f"{bars.title}, {bars.axis}: " + ", ".join(
        f"{label}: {value:,}" for label, value in zip(bars.labels, bars.values, strict=True) if value
    )
    return (
        f'<svg viewBox="0 0 {_WIDTH} {_HEIGHT}" role="img" aria-label="{escape(said, quote=True)}">'
        f"{''.join(parts)}</svg>"
    )


def _grid(value: float, y: float) -> str:
    return (
        f'<line class="grid" x1="{_LEFT}" x2="{_WIDTH - _RIGHT}" y1="{y:.1f}" y2="{y:.1f}"/>'
        f'<text class="count" x="{_LEFT - 5}" y="{y + 3.5:.1f}">{number(value)}</text>'
    )


def nice_ceiling(value: float) -> int:
    """The least of 2, 4, 6, 8, 10, 20, 40 ... that is not below ``value``."""
    if value <= 2:
        return 2
    size = 10 ** floor(log10(value))
    steps = (1, 2, 4, 6, 8, 10)
    return int(next(step * size for step in steps if step * size >= value and step * size >= 2))
