"""What all pictures share: colours, the strokes of a radiologist, letters on the rims, words and rendering.

Axes are in millimetres, across and down the picture.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import numpy as np
from numpy.typing import NDArray

if TYPE_CHECKING:
    from matplotlib.axes import Axes
    from matplotlib.figure import Figure, SubFigure
    from PIL import Image

FloatArray = NDArray[np.float64]

BACKGROUND, INK, MUTED = "#0d1117", "#f0f3f6", "#8b98a5"
DRAWN, CONTOUR = "#ffd23f", "#3ddbd9"
FONT = "DejaVu Sans"  # comes with matplotlib: the same picture on every machine


def new_figure(width: float, height: float) -> Figure:
    """Make a dark figure, in inches at 120 dpi."""
    from matplotlib.figure import Figure

    return Figure(figsize=(width, height), dpi=120, facecolor=BACKGROUND)


def rendered(figure: Figure) -> Image.Image:
    """Turn a figure into pixels."""
    from matplotlib.backends.backend_agg import FigureCanvasAgg
    from PIL import Image

    canvas = FigureCanvasAgg(figure)
    canvas.draw()
    return Image.fromarray(np.asarray(canvas.buffer_rgba())).convert("RGB")


def frame(axes: Axes) -> Any:
    """Make the black ground of a panel: its axes are off, so it has none of its own."""
    from matplotlib.patches import Rectangle

    return Rectangle((0, 0), 1, 1, transform=axes.transAxes, facecolor="black", zorder=-1)


def draw_stroke(axes: Axes, kind: str, points: FloatArray, *, colour: str = DRAWN) -> None:
    """Draw what the radiologist drew; ``points`` are millimetres across and down."""
    if kind == "ARROW":
        axes.annotate(
            "",
            xy=tuple(points[1]),
            xytext=tuple(points[0]),
            arrowprops={
                "arrowstyle": "-|>,head_length=0.5,head_width=0.2",
                "color": colour,
                "linewidth": 1.5,
                "shrinkA": 0,
                "shrinkB": 0,
            },
            annotation_clip=False,
        )
    elif kind in {"LINE", "BIDIMENSIONAL"}:
        for start, end in points.reshape(-1, 2, 2):
            axes.plot(*np.stack([start, end]).T, color=colour, linewidth=1.5)
            _draw_ticks(axes, start, end, colour)
    else:
        closed = np.vstack([points, points[:1]])
        axes.plot(*closed.T, marker="+" if len(points) == 1 else None, markersize=9, color=colour, linewidth=1.5)


def _draw_ticks(axes: Axes, start: FloatArray, end: FloatArray, colour: str) -> None:
    """Calliper ticks across both ends of a diameter, so that its ends can be told from the contour."""
    along = end - start
    length = float(np.hypot(*along))
    if length == 0:
        return
    across = np.array([-along[1], along[0]]) / length * min(1.2, length / 8)
    for point in (start, end):
        axes.plot(*np.stack([point - across, point + across]).T, color=colour, linewidth=1.5)


def draw_letters(axes: Axes, letters: tuple[str, str, str, str], size: float) -> None:
    """Write on the rims (left, right, top, bottom) which way the patient lies."""
    places = (
        (0.02, 0.5, "left", "center"),
        (0.98, 0.5, "right", "center"),
        (0.5, 0.98, "center", "top"),
        (0.5, 0.02, "center", "bottom"),
    )
    for letter, (x, y, ha, va) in zip(letters, places, strict=True):
        label(axes, (x, y), letter, size, ha=ha, va=va)


def draw_scale(axes: Axes, half: float, size: float) -> None:
    """Draw a bar of a round length at the lower right."""
    length = 10.0 if half < 60 else 50.0
    fraction = length / (2 * half)
    axes.plot([0.975 - fraction, 0.975], [0.035, 0.035], color=INK, linewidth=2, transform=axes.transAxes)
    label(axes, (0.975 - fraction / 2, 0.05), f"{length:.0f} mm", size * 0.85, ha="center", va="bottom")


def label(axes: Axes, at: tuple[float, float], text: str, size: float, *, ha: str, va: str) -> None:
    """Write on an image, with a dark rim; ``at`` counts in panels."""
    from matplotlib import patheffects

    axes.text(
        *at,
        text,
        transform=axes.transAxes,
        ha=ha,
        va=va,
        color=INK,
        fontsize=size,
        family=FONT,
        weight="bold",
        path_effects=[patheffects.withStroke(linewidth=2, foreground="black")],
    )


def write(figure: Figure | SubFigure, x: float, y: float, text: str, *, size: float, colour: str, va: str) -> None:
    """Write beside the images; ``x`` and ``y`` count in figures."""
    # parse_math=False: a dollar sign in a report is no formula.
    figure.text(
        x,
        y,
        drawable(text),
        fontsize=size,
        color=colour,
        va=va,
        ha="left",
        family=FONT,
        linespacing=1.25,
        parse_math=False,
    )


def drawable(text: str) -> str:
    """Replace characters that the font lacks, which would warn and draw an empty box."""
    from matplotlib import font_manager

    font = font_manager.get_font(font_manager.findfont(FONT))
    return "".join(c if c == "\n" or font.get_char_index(ord(c)) else "□" for c in text)
