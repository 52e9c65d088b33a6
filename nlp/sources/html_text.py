"""HTML as text, with the standard library: lines where a browser would break them."""

from __future__ import annotations

import re
from html.parser import HTMLParser

_BREAKING = frozenset(
    {
        "address",
        "article",
        "aside",
        "blockquote",
        "body",
        "br",
        "caption",
        "center",
        "dd",
        "div",
        "dl",
        "dt",
        "figure",
        "footer",
        "form",
        "h1",
        "h2",
        "h3",
        "h4",
        "h5",
        "h6",
        "header",
        "hr",
        "html",
        "li",
        "main",
        "nav",
        "ol",
        "p",
        "pre",
        "section",
        "table",
        "tbody",
        "tfoot",
        "thead",
        "title",
        "tr",
        "ul",
    }
)
_PARAGRAPHS = frozenset({"p", "h1", "h2", "h3", "h4", "h5", "h6", "ul", "ol", "table", "blockquote"})
_CELLS = frozenset({"td", "th"})
_HIDDEN = frozenset({"script", "style", "head", "template"})
_SPACE = re.compile(r"[ \t\r\n\f]+")


def html_to_text(html: str) -> str:
    r"""Return the text of an HTML document or fragment.

    Paragraphs are parted by an empty line, lines by a line break, cells of a table by a tab; entities are resolved;
    scripts, styles and comments are left out. Broken markup is read as a browser would, never refused.

    Examples
    --------
    >>> html_to_text("<div><p>FINDINGS: 8&nbsp;mm nodule.</p><p>A &lt; B<br/>C</p></div>")
    'FINDINGS: 8\xa0mm nodule.\n\nA < B\nC'
    """
    parser = _Reader()
    parser.feed(html)
    parser.close()
    return parser.text()


class _Reader(HTMLParser):
    """Collects lines; white space collapses, except in <pre>."""

    def __init__(self) -> None:
        super().__init__(convert_charrefs=True)
        self._lines: list[str] = [""]
        self._hidden = self._kept = 0

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:  # noqa: ARG002
        if tag in _HIDDEN:
            self._hidden += 1
        self._kept += tag == "pre"
        self._part(tag, at_end=False)

    def handle_startendtag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:  # noqa: ARG002
        self._part(tag, at_end=False)

    def handle_endtag(self, tag: str) -> None:
        if tag in _HIDDEN:
            self._hidden = max(0, self._hidden - 1)
        self._kept = max(0, self._kept - (tag == "pre"))
        if tag != "br":
            self._part(tag, at_end=True)

    def handle_data(self, data: str) -> None:
        if self._hidden:
            return
        if self._kept:
            first, *more = data.splitlines() or [""]
            self._lines[-1] += first
            self._lines += more
            return
        text = _SPACE.sub(" ", data)
        if self._lines[-1].endswith((" ", "\t")) or not self._lines[-1]:
            text = text.lstrip(" ")
        self._lines[-1] += text

    def text(self) -> str:
        """Return what was read."""
        lines = [line.rstrip(" \t") for line in self._lines]
        return re.sub(r"\n{3,}", "\n\n", "\n".join(lines)).strip("\n")

    def _part(self, tag: str, *, at_end: bool) -> None:
        if tag in _CELLS and not at_end and self._lines[-1].strip():
            self._lines[-1] = self._lines[-1].rstrip(" ") + "\t"
        if tag not in _BREAKING:
            return
        if tag == "br" or self._lines[-1].strip():
            self._lines.append("")
        if tag in _PARAGRAPHS and any(self._lines) and self._lines[-2:] != ["", ""]:
            self._lines.append("")
