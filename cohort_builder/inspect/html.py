"""Sections as one page: its style and its plots are in it, nothing is fetched, and it prints."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from html import escape

from cohort_builder.inspect.blocks import Bars, Block, Headline, Section, Table, number
from cohort_builder.inspect.plots import bars_svg

_TITLE = "What is in this export"
_STYLE = """
:root { color-scheme: light dark; --ink: #1b2430; --soft: #5b6776; --line: #dfe4ea; --page: #f5f7f9; --card: #ffffff;
  --accent: #0f6e84; --warn: #8a5200; --warn-page: #fff4e0; }
@media (prefers-color-scheme: dark) { :root { --ink: #e6eaef; --soft: #9aa7b5; --line: #323c48; --page: #12171d;
  --card: #1a2129; --accent: #4db6cc; --warn: #f2c078; --warn-page: #33280f; } }
* { box-sizing: border-box; }
body { margin: 0; background: var(--page); color: var(--ink); font: 15px/1.5 system-ui, -apple-system, "Segoe UI",
  Roboto, "Helvetica Neue", Arial, sans-serif; }
main { max-width: 1120px; margin: 0 auto; padding: 36px 24px 60px; }
h1 { font-size: 28px; line-height: 1.2; margin: 0 0 4px; letter-spacing: -0.01em; }
h2 { font-size: 20px; margin: 0 0 2px; letter-spacing: -0.005em; }
h3 { font-size: 14px; margin: 0 0 8px; }
p { margin: 0 0 12px; max-width: 80ch; }
.lead, .note, figcaption span, footer { color: var(--soft); }
.note, footer { font-size: 13px; }
.warning { background: var(--warn-page); color: var(--warn); border-left: 4px solid var(--warn); padding: 10px 14px;
  border-radius: 4px; max-width: none; }
.headlines { display: flex; flex-wrap: wrap; gap: 12px; margin: 24px 0 16px; padding: 0; list-style: none; }
.headlines li { flex: 1 1 280px; }
.headlines li, .block { background: var(--card); border: 1px solid var(--line); border-radius: 8px;
  padding: 14px 16px; }
.headlines strong { display: block; font-size: 24px; line-height: 1.2; font-weight: 650; color: var(--accent);
  font-variant-numeric: tabular-nums; }
.headlines span { display: block; }
.headlines small { color: var(--soft); font-size: 12.5px; }
nav { margin: 0 0 8px; font-size: 14px; }
nav a { color: var(--accent); margin-right: 16px; white-space: nowrap; }
section { margin-top: 38px; }
.blocks { display: grid; grid-template-columns: repeat(12, minmax(0, 1fr)); gap: 12px; margin-top: 12px;
  align-items: start; grid-auto-flow: dense; }
.narrow { grid-column: span 4; } .middle { grid-column: span 8; } .wide { grid-column: span 12; }
@media screen and (max-width: 860px) { .narrow, .middle { grid-column: span 12; } }
.block { margin: 0; overflow-x: auto; }
table { border-collapse: collapse; width: 100%; font-size: 14px; }
caption { text-align: left; font-weight: 650; padding-bottom: 6px; }
th, td { text-align: left; padding: 5px 14px 5px 0; border-top: 1px solid var(--line); vertical-align: top;
  font-weight: normal; overflow-wrap: break-word; }
thead th { color: var(--soft); font-size: 12.5px; border-top: 0; padding-top: 0; }
td.number, th.number { text-align: right; font-variant-numeric: tabular-nums; white-space: nowrap; }
.number + :not(.number) { padding-left: 14px; }
tr > :last-child { padding-right: 0; }
figcaption { font-weight: 650; margin-bottom: 6px; }
figcaption span { display: block; font-weight: normal; font-size: 13px; }
svg { width: 100%; height: auto; display: block; }
svg text { font-size: 11px; fill: var(--soft); } svg .tick, svg .axis { text-anchor: middle; }
svg .count { text-anchor: end; } svg .bar { fill: var(--accent); } svg .grid { stroke: var(--line); stroke-width: 1; }
footer { margin-top: 40px; border-top: 1px solid var(--line); padding-top: 12px; }
@media print { body { background: none; font-size: 11px; } main { max-width: none; padding: 0; } nav { display: none; }
  section { margin-top: 22px; } .block, .headlines li, tr { break-inside: avoid; } h2 { break-after: avoid; } }
"""
_WIDE_FROM = 4  # columns
_LONG = 60  # characters of a cell


def as_page(headlines: Sequence[Headline], sections: Sequence[Section], note: str = "") -> str:
    """One HTML document, encoded in ASCII but for what stands in it."""
    named = [(f"section-{i}", section) for i, section in enumerate(sections, 1)]
    links = "".join(f'<a href="#{name}">{escape(section.title)}</a> ' for name, section in named)
    body = "\n".join(_section(name, section) for name, section in named)
    warning = f'<p class="warning">{escape(note)}</p>' if note else ""
    return f"""<!DOCTYPE html>
<html lang="en">
<head>
<meta charset="utf-8">
<meta name="viewport" content="width=device-width, initial-scale=1">
<title>{_TITLE}</title>
<style>{_STYLE}</style>
</head>
<body>
<main>
<header>
<h1>{_TITLE}</h1>
<p class="lead">Counts from headers, drawings and reports, before anything is segmented. Of headers only the names
of known makers, their models and versions are shown.</p>
{warning}
<ul class="headlines">{"".join(map(_headline, headlines))}</ul>
<nav aria-label="Sections">{links}</nav>
</header>
{body}
<footer>Made by cohort inspect. Device names, codes and counts only; whoever shares it should read it first.</footer>
</main>
</body>
</html>
"""


def _headline(one: Headline) -> str:
    figure, label, more = map(escape, (one.figure, one.label, one.more))
    return f"<li><strong>{figure}</strong><span>{label}</span><small>{more}</small></li>"


def _section(name: str, section: Section) -> str:
    blocks = "\n".join(map(_block, section.blocks))
    return (
        f'<section id="{name}" aria-labelledby="{name}-title">\n<h2 id="{name}-title">{escape(section.title)}</h2>\n'
        f'<p class="lead">{escape(section.lead)}</p>\n<div class="blocks">\n{blocks}\n</div>\n</section>'
    )


def _block(block: Block) -> str:
    note = f'<p class="note">{escape(block.note)}</p>' if block.note else ""
    if isinstance(block, Bars):
        caption = f"{escape(block.title)}<span>{escape(block.note)}</span>"
        return f'<figure class="block narrow"><figcaption>{caption}</figcaption>{bars_svg(block)}</figure>'
    return f'<div class="block {_width(block)}">{_table(block)}{note}</div>'


def _width(table: Table) -> str:
    longest = max((len(cell) for row in table.rows for cell in row if isinstance(cell, str)), default=0)
    if len(table.columns) >= _WIDE_FROM or longest > _LONG:
        return "wide"
    return "middle" if len(table.columns) > 2 else "narrow"


def _table(table: Table) -> str:
    numeric = [all(_is_number(row[i]) for row in table.rows) for i in range(len(table.columns))]
    head = ""
    if sum(map(bool, table.columns)) > 1:
        cells = "".join(
            f'<th scope="col"{_number_class(is_number)}>{escape(name)}</th>'
            for name, is_number in zip(table.columns, numeric, strict=True)
        )
        head = f"<thead><tr>{cells}</tr></thead>"
    body = "".join(f"<tr>{''.join(_cells(row, numeric))}</tr>" for row in table.rows)
    return f"<table><caption>{escape(table.title)}</caption>{head}<tbody>{body}</tbody></table>"


def _cells(row: Sequence[str | float], numeric: Sequence[bool]) -> Iterator[str]:
    for i, (value, is_number) in enumerate(zip(row, numeric, strict=True)):
        shown = escape(value if isinstance(value, str) else number(value))
        if i == 0:
            yield f'<th scope="row">{shown}</th>'
        else:
            yield f"<td{_number_class(is_number)}>{shown}</td>"


def _is_number(value: str | float) -> bool:
    return not isinstance(value, str) or value.rstrip("%").replace(",", "").replace(".", "").isdigit() or not value


def _number_class(is_number: bool) -> str:
    return ' class="number"' if is_number else ""
