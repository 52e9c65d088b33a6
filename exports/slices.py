"""One CT slice, what was drawn on it, and the sentence that may speak of it: the picture a reviewer judges a link by.

Unlike ``exports.pictures`` it needs no mask and no volume. It shows text that is not published: keep it private.
"""

from __future__ import annotations

import textwrap
from collections.abc import Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING

import numpy as np
from numpy.typing import NDArray

from exports.drawing import (
    DRAWN,
    INK,
    MUTED,
    FloatArray,
    draw_letters,
    draw_scale,
    draw_stroke,
    drawable,
    frame,
    new_figure,
    rendered,
    write,
)
from exports.scene import WINDOWS, window_of
from exports.types import ExportError

if TYPE_CHECKING:
    from matplotlib.axes import Axes
    from matplotlib.figure import Figure
    from PIL import Image

_MARGIN_MM = 25.0
_POINT_MM = 3.0  # what an arrow points at is taken to be this large
_MONO = "DejaVu Sans Mono"
_MONO_WIDTH = 0.602  # advance of its characters, in font sizes
_WIDTH, _HEIGHT = 14.0, 5.0  # inches
_TEXT_LEFT, _TEXT_TOP, _TEXT_SIZE, _TEXT_COLUMNS, _TEXT_LINES = 0.672, 0.93, 11.0, 48, 12


@dataclass(frozen=True, slots=True, eq=False)
class DrawnSlice:
    """A slice and the strokes on it.

    Parameters
    ----------
    image
        (row, column) int16 HU.
    spacing_mm
        Between rows, between columns.
    strokes
        Kind and (n, 2) (column, row) pixel-centre indices of those to judge, the first one in the middle.
    others
        The same, of what else was drawn there.
    letters
        Which way the patient lies: left, right, top, bottom.

    """

    image: NDArray[np.int16]
    spacing_mm: tuple[float, float]
    strokes: Sequence[tuple[str, FloatArray]]
    others: Sequence[tuple[str, FloatArray]] = ()
    letters: tuple[str, str, str, str] = ("", "", "", "")

    def __post_init__(self) -> None:
        if self.image.ndim != 2 or not self.image.size or not self.strokes:
            raise ExportError("a slice to draw needs a two-dimensional image and a stroke on it")


def slice_picture(drawn: DrawnSlice, text: str, highlight: tuple[int, int], facts: Sequence[str]) -> Image.Image:
    """Draw the surroundings of the strokes, the whole slice, and the text with one span of it highlighted.

    Parameters
    ----------
    drawn
        What was drawn, and on what.
    text, highlight
        A sentence and the half-open span of it that is judged. Of a long one, what is around the span is shown.
    facts
        Lines to write below the text.

    """
    figure = new_figure(_WIDTH, _HEIGHT)
    near, whole = figure.add_axes((0.008, 0.02, 0.343, 0.96)), figure.add_axes((0.357, 0.155, 0.296, 0.825))
    centre, half = _view(drawn)
    window = _window(drawn)
    _draw_image(near, drawn, window)
    near.set_xlim(centre[0] - half, centre[0] + half)
    near.set_ylim(centre[1] + half, centre[1] - half)
    for kind, points in drawn.others:
        draw_stroke(near, kind, points * _step(drawn), colour=MUTED)
    for kind, points in drawn.strokes:
        draw_stroke(near, kind, points * _step(drawn))
    draw_letters(near, drawn.letters, 10)
    draw_scale(near, half, 10)
    _draw_image(whole, drawn, window)
    whole.plot(
        *_box(centre, half),
        color=DRAWN,
        linewidth=1.2,
        scalex=False,
        scaley=False,
    )
    draw_letters(whole, drawn.letters, 9)
    write(figure, 0.357, 0.09, f"{window} window", size=9, colour=MUTED, va="center")
    _write_text(figure, text, highlight, facts)
    return rendered(figure)


def _step(drawn: DrawnSlice) -> FloatArray:
    """Mm between columns and between rows: (column, row) indices times this are millimetres across and down."""
    return np.array(drawn.spacing_mm[::-1], dtype=np.float64)


def _view(drawn: DrawnSlice) -> tuple[FloatArray, float]:
    """Centre and half side, in mm, of the panel around the first stroke that also shows the others to judge."""
    points = np.vstack([points for _, points in drawn.strokes]) * _step(drawn)
    lower, upper = points.min(axis=0), points.max(axis=0)
    return (lower + upper) / 2, float((upper - lower).max() / 2 + _MARGIN_MM)


def _box(centre: FloatArray, half: float) -> tuple[list[float], list[float]]:
    x, y = centre
    return [x - half, x + half, x + half, x - half, x - half], [y - half, y - half, y + half, y + half, y - half]


def _window(drawn: DrawnSlice) -> str:
    """Grey scale by the tissue in the circle around the first stroke, or around what an arrow points at."""
    kind, points = drawn.strokes[0]
    here = points[-1:] if kind in {"ARROW", "POINTER"} else points
    here = here * _step(drawn)
    middle = here.mean(axis=0)
    radius = max(_POINT_MM, float(np.linalg.norm(here - middle, axis=1).max()))
    rows, columns = np.indices(drawn.image.shape)
    away = np.hypot(columns * drawn.spacing_mm[1] - middle[0], rows * drawn.spacing_mm[0] - middle[1])
    inside = away <= max(radius, float(away.min()))
    return window_of(drawn.image[..., None], inside[..., None], np.array([*drawn.spacing_mm, 1.0]))


def _draw_image(axes: Axes, drawn: DrawnSlice, window: str) -> None:
    level, width = WINDOWS[window]
    n_rows, n_columns = drawn.image.shape
    dy, dx = drawn.spacing_mm
    # imshow's extent is that of the outer pixel edges, half a pixel beyond the outer centres.
    axes.imshow(
        drawn.image,
        cmap="gray",
        vmin=level - width / 2,
        vmax=level + width / 2,
        extent=(-dx / 2, (n_columns - 1 / 2) * dx, (n_rows - 1 / 2) * dy, -dy / 2),
        interpolation="bicubic",
    )
    axes.set_aspect("equal")
    axes.set_axis_off()
    axes.add_patch(frame(axes))


def _write_text(figure: Figure, text: str, highlight: tuple[int, int], facts: Sequence[str]) -> None:
    """Write the text in a font of one width, so that the place of the highlighted span is known."""
    line_height = 1.4 * _TEXT_SIZE / 72 / _HEIGHT
    character = _MONO_WIDTH * _TEXT_SIZE / 72 / _WIDTH
    y = _TEXT_TOP
    for line, spans in _lines(text, highlight):
        _mono(figure, _TEXT_LEFT, y, line, INK)
        for start, end in spans:
            _mono(figure, _TEXT_LEFT + start * character, y, line[start:end], DRAWN)
        y -= line_height
    y -= line_height / 2
    for fact in facts:
        folded = textwrap.wrap(fact, 62, max_lines=4, placeholder=" …") or [""]
        write(figure, _TEXT_LEFT, y, "\n".join(folded), size=9.5, colour=MUTED, va="top")
        y -= 1.3 * 9.5 / 72 / _HEIGHT * len(folded) + line_height / 4


def _mono(figure: Figure, x: float, y: float, text: str, colour: str) -> None:
    # parse_math=False: a dollar sign in a report is no formula.
    figure.text(x, y, drawable(text), fontsize=_TEXT_SIZE, color=colour, va="top", family=_MONO, parse_math=False)


def _lines(text: str, highlight: tuple[int, int]) -> list[tuple[str, list[tuple[int, int]]]]:
    """Lines of the text around the highlighted span, each with the columns that are highlighted in it."""
    room = _TEXT_COLUMNS * (_TEXT_LINES - 2)
    start, end = highlight[0], min(highlight[1], highlight[0] + room)
    before = max(0, start - max(0, room - (end - start)) // 2)
    after = min(len(text), before + room)
    shown = "".join(" " if c.isspace() or not c.isprintable() else c for c in text[before:after])
    marked = range(start - before, end - before)
    lines = []
    position = 0
    while position < len(shown):
        stop = _break(shown, position)
        columns = [i - position for i in marked if position <= i < stop]
        lines.append((shown[position:stop], [(columns[0], columns[-1] + 1)] if columns else []))
        position = stop + (stop < len(shown) and shown[stop] == " ")
    return lines


def _break(text: str, start: int) -> int:
    """End of the line that begins at ``start``: the last space that fits, else where the room ends."""
    if len(text) - start <= _TEXT_COLUMNS:
        return len(text)
    space = text.rfind(" ", start + 1, start + _TEXT_COLUMNS + 1)
    return space if space > start else start + _TEXT_COLUMNS
