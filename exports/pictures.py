"""Pictures of published rows: what was drawn, what was segmented, and the words.

Only published rows are drawn, so a picture holds nothing that the dataset does not. Views follow the radiological
convention: the patient's right on the picture's left, the head up.
"""

from __future__ import annotations

import io
import textwrap
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import numpy as np
from numpy.typing import NDArray

from exports.scene import WINDOWS, Scene, drawn_on, scene_of
from exports.types import ExportError, FindingRecord

if TYPE_CHECKING:
    from matplotlib.axes import Axes
    from matplotlib.figure import Figure, SubFigure
    from PIL import Image

FloatArray = NDArray[np.float64]

_BACKGROUND, _INK, _MUTED = "#0d1117", "#f0f3f6", "#8b98a5"
_DRAWN, _CONTOUR = "#ffd23f", "#3ddbd9"
_TIER_COLOURS = {"A": "#56d364", "B": "#e3b341", "C": "#f85149"}
_FONT = "DejaVu Sans"  # comes with matplotlib: the same picture on every machine

_PREVIEW_BYTES = 60_000
_PREVIEW_STEPS = ((240, 64), (240, 32), (200, 32), (160, 24), (120, 16), (80, 8))  # height in pixels, greys


@dataclass(frozen=True, slots=True)
class _Plane:
    """One plane through a scene: which axes run right and down, and the letters on its rims."""

    name: str
    across: int
    upright: int
    fixed: int
    letters: tuple[str, str, str, str]  # left, right, top, bottom


# Axes as in a Scene: 0 towards the patient's left, 1 towards the back, 2 towards the head.
_AXIAL = _Plane("axial", 0, 1, 2, ("R", "L", "A", "P"))
_CORONAL = _Plane("coronal", 0, 2, 1, ("R", "L", "H", "F"))
_SAGITTAL = _Plane("sagittal", 1, 2, 0, ("A", "P", "H", "F"))
_PLANES = (_AXIAL, _CORONAL, _SAGITTAL)


def finding_picture(row: Mapping[str, Any] | FindingRecord) -> Image.Image:
    """Draw one lesion in three planes with its phrase and measurements.

    The axial plane is the slice the radiologist drew on; the coronal and sagittal planes pass through the mask's middle
    there. The grey scale is chosen by the tissue around the lesion.

    Parameters
    ----------
    row
        A row of config ``findings`` or ``lesions`` as ``load_dataset`` (also ``with_arrays``) or ``read_row`` give it,
        or a record about to be written.

    """
    scene = scene_of(row)
    figure = _figure(12.0, 5.4)
    grid = figure.add_gridspec(1, 3, left=0.012, right=0.988, top=0.975, bottom=0.24, wspace=0.03)
    for column, plane in enumerate(_PLANES):
        _draw_plane(figure.add_subplot(grid[0, column]), scene, plane, text_size=10, title=True)
    _text(figure, 0.012, 0.155, _quoted(scene.row, 118, 2), size=14, colour=_INK, va="center")
    _text(figure, 0.012, 0.045, _facts(scene), size=10, colour=_MUTED, va="center")
    _badge(figure, scene, 0.982, 0.045, size=10)
    return _rendered(figure)


def contact_sheet(rows: Sequence[Mapping[str, Any] | FindingRecord], columns: int = 4) -> Image.Image:
    """Draw many lesions side by side: axial large, coronal and sagittal small, the phrase below.

    Raises
    ------
    ExportError
        If there is no row.

    """
    if not rows:
        raise ExportError("a contact sheet needs at least one row; the dataset has no finding")
    columns = min(columns, len(rows))
    lines = -(-len(rows) // columns)
    figure = _figure(4.4 * columns, 3.85 * lines)
    for cell, row in zip(np.ravel(figure.subfigures(lines, columns, squeeze=False)), rows, strict=False):
        scene = scene_of(row)
        cell.set_facecolor(_BACKGROUND)
        grid = cell.add_gridspec(
            2, 2, width_ratios=(2, 1), left=0.02, right=0.98, top=0.975, bottom=0.24, wspace=0.02, hspace=0.03
        )
        _draw_plane(cell.add_subplot(grid[:, 0]), scene, _AXIAL, text_size=8)
        _draw_plane(cell.add_subplot(grid[0, 1]), scene, _CORONAL, text_size=0)
        _draw_plane(cell.add_subplot(grid[1, 1]), scene, _SAGITTAL, text_size=0)
        _text(cell, 0.02, 0.155, _quoted(scene.row, 58, 2), size=9.5, colour=_INK, va="center")
        _text(cell, 0.02, 0.04, _short_facts(scene), size=8, colour=_MUTED, va="center")
        _badge(cell, scene, 0.968, 0.04, size=8)
    return _rendered(figure)


def preview_png(record: FindingRecord) -> bytes:
    """Draw the three planes small, without words, as PNG bytes of at most 60 kB; the same record, the same bytes."""
    from PIL import Image

    scene = scene_of(record)
    figure = _figure(6.0, 2.0)
    grid = figure.add_gridspec(1, 3, left=0, right=1, top=1, bottom=0, wspace=0.01)
    for column, plane in enumerate(_PLANES):
        _draw_plane(figure.add_subplot(grid[0, column]), scene, plane, text_size=8)
    picture = _rendered(figure)
    encoded = b""
    for height, greys in _PREVIEW_STEPS:
        small = picture.resize((3 * height, height), Image.Resampling.LANCZOS)
        small = small.quantize(palette=_palette(greys), dither=Image.Dither.NONE)
        buffer = io.BytesIO()
        small.save(buffer, format="PNG", optimize=True)
        encoded = buffer.getvalue()
        if len(encoded) <= _PREVIEW_BYTES:
            break
    return encoded


def _palette(greys: int) -> Image.Image:
    """Grey levels and shades of the two colours: an adaptive palette would lose the thin coloured lines."""
    from PIL import Image

    ramp = np.linspace(0, 1, greys)[:, None] * np.full(3, 255.0)
    shades = [np.linspace(0.4, 1, 6)[:, None] * _rgb(colour) for colour in (_DRAWN, _CONTOUR)]
    palette = Image.new("P", (1, 1))
    palette.putpalette(np.rint(np.vstack([ramp, *shades])).astype(np.uint8).tobytes())
    return palette


def _rgb(colour: str) -> FloatArray:
    return np.array([int(colour[i : i + 2], 16) for i in (1, 3, 5)], dtype=np.float64)


def _draw_plane(axes: Axes, scene: Scene, plane: _Plane, *, text_size: float, title: bool = False) -> None:
    """Draw one plane in millimetres; no words at ``text_size`` 0."""
    centre, half = scene.view()
    (dx, dy), index = (scene.spacing[plane.across], scene.spacing[plane.upright]), scene.centre[plane.fixed]
    image = np.take(scene.image, index, axis=plane.fixed).T
    mask = np.take(scene.mask, index, axis=plane.fixed).T
    level, width = WINDOWS[scene.window]
    n_y, n_x = image.shape
    # imshow's extent is that of the outer voxel edges, half a voxel beyond the outer centres.
    axes.imshow(
        image,
        cmap="gray",
        vmin=level - width / 2,
        vmax=level + width / 2,
        extent=(-dx / 2, (n_x - 1 / 2) * dx, (n_y - 1 / 2) * dy, -dy / 2),
        interpolation="bicubic",
    )
    if mask.any():
        axes.contour(
            np.arange(n_x) * dx, np.arange(n_y) * dy, mask.astype(np.float64), [0.5], colors=_CONTOUR, linewidths=1.3
        )
    if plane is _AXIAL:
        for kind, points in scene.strokes:
            if abs(points[:, 2].mean() - index) <= 1:
                _draw_stroke(axes, kind, points[:, :2] * scene.spacing[:2])
    else:
        axes.axhline(scene.centre[2] * dy, color=_DRAWN, linewidth=0.6, linestyle=(0, (2, 4)), alpha=0.7)
    axes.set_xlim(centre[plane.across] - half, centre[plane.across] + half)
    down = (centre[plane.upright] + half, centre[plane.upright] - half)
    axes.set_ylim(*(down if plane is _AXIAL else down[::-1]))
    axes.set_aspect("equal")
    axes.set_axis_off()
    axes.add_patch(_frame(axes))
    if text_size:
        _draw_letters(axes, plane, text_size)
    if title:
        _label(axes, (0.025, 0.035), plane.name.upper(), text_size * 0.85, ha="left", va="bottom")
    if text_size and plane is _AXIAL:
        _draw_scale(axes, half, text_size)


def _frame(axes: Axes) -> Any:
    from matplotlib.patches import Rectangle

    return Rectangle((0, 0), 1, 1, transform=axes.transAxes, facecolor="black", zorder=-1)


def _draw_stroke(axes: Axes, kind: str, points: FloatArray) -> None:
    """Draw what the radiologist drew; ``points`` are millimetres across and down."""
    if kind == "ARROW":
        axes.annotate(
            "",
            xy=tuple(points[1]),
            xytext=tuple(points[0]),
            arrowprops={
                "arrowstyle": "-|>,head_length=0.5,head_width=0.2",
                "color": _DRAWN,
                "linewidth": 1.5,
                "shrinkA": 0,
                "shrinkB": 0,
            },
            annotation_clip=False,
        )
    elif kind in {"LINE", "BIDIMENSIONAL"}:
        for start, end in points.reshape(-1, 2, 2):
            axes.plot(*np.stack([start, end]).T, color=_DRAWN, linewidth=1.5)
            _draw_ticks(axes, start, end)
    else:
        closed = np.vstack([points, points[:1]])
        axes.plot(*closed.T, marker="+" if len(points) == 1 else None, markersize=9, color=_DRAWN, linewidth=1.5)


def _draw_ticks(axes: Axes, start: FloatArray, end: FloatArray) -> None:
    """Calliper ticks across both ends of a diameter, so that its ends can be told from the contour."""
    along = end - start
    length = float(np.hypot(*along))
    if length == 0:
        return
    across = np.array([-along[1], along[0]]) / length * min(1.2, length / 8)
    for point in (start, end):
        axes.plot(*np.stack([point - across, point + across]).T, color=_DRAWN, linewidth=1.5)


def _draw_letters(axes: Axes, plane: _Plane, size: float) -> None:
    places = (
        (0.02, 0.5, "left", "center"),
        (0.98, 0.5, "right", "center"),
        (0.5, 0.98, "center", "top"),
        (0.5, 0.02, "center", "bottom"),
    )
    for letter, (x, y, ha, va) in zip(plane.letters, places, strict=True):
        _label(axes, (x, y), letter, size, ha=ha, va=va)


def _draw_scale(axes: Axes, half: float, size: float) -> None:
    """Draw a bar of a round length at the lower right."""
    length = 10.0 if half < 60 else 50.0
    fraction = length / (2 * half)
    axes.plot([0.975 - fraction, 0.975], [0.035, 0.035], color=_INK, linewidth=2, transform=axes.transAxes)
    _label(axes, (0.975 - fraction / 2, 0.05), f"{length:.0f} mm", size * 0.85, ha="center", va="bottom")


def _label(axes: Axes, at: tuple[float, float], text: str, size: float, *, ha: str, va: str) -> None:
    from matplotlib import patheffects

    axes.text(
        *at,
        text,
        transform=axes.transAxes,
        ha=ha,
        va=va,
        color=_INK,
        fontsize=size,
        family=_FONT,
        weight="bold",
        path_effects=[patheffects.withStroke(linewidth=2, foreground="black")],
    )


def _quoted(row: Mapping[str, Any], width: int, lines: int) -> str:
    phrase = row.get("phrase")
    if not phrase:
        return "(drawn, not mentioned in a report)"
    capitals = sum(letter.isupper() for letter in phrase) / len(phrase)
    room = int(width / (1 + 0.45 * capitals))  # reports dictated in capitals are that much wider
    return textwrap.fill(f"“{' '.join(phrase.split())}”", room, max_lines=lines, placeholder=" …”")


def _facts(scene: Scene) -> str:
    """Measurements and origin in one line."""
    row = scene.row
    parts = [
        _reported(row),
        *_drawn(row),
        f"mask {row['quality']['recist_mm']:.1f} mm, {row['quality']['volume_mm3'] / 1000:.2f} ml",
        f"{scene.window} window",
        row["engine"]["name"],
    ]
    return "   ·   ".join(part for part in parts if part)


def _short_facts(scene: Scene) -> str:
    row = scene.row
    parts = [_reported(row), *_drawn(row), f"mask {row['quality']['recist_mm']:.1f} mm"]
    return " · ".join(part for part in parts if part)


def _reported(row: Mapping[str, Any]) -> str:
    values = [f"{measurement['value_mm']:g}" for measurement in row.get("measurements") or ()]
    return f"report {' × '.join(values)} mm" if values else ""


def _drawn(row: Mapping[str, Any]) -> list[str]:
    values = [f"{value:.1f}" for annotation in drawn_on(row)[:1] for value in annotation["drawn_mm"]]
    return [f"drawn {' × '.join(values)} mm"] if values else []


def _badge(figure: Figure | SubFigure, scene: Scene, x: float, y: float, *, size: float) -> None:
    tier = str(scene.row["quality"]["tier"])
    figure.text(
        x,
        y,
        f"tier {tier}",
        ha="right",
        va="center",
        fontsize=size,
        family=_FONT,
        weight="bold",
        color=_BACKGROUND,
        bbox={"boxstyle": "round,pad=0.3", "facecolor": _TIER_COLOURS.get(tier, _MUTED), "edgecolor": "none"},
    )


def _text(figure: Figure | SubFigure, x: float, y: float, text: str, *, size: float, colour: str, va: str) -> None:
    # parse_math=False: a dollar sign in a report is no formula.
    figure.text(
        x,
        y,
        _drawable(text),
        fontsize=size,
        color=colour,
        va=va,
        ha="left",
        family=_FONT,
        linespacing=1.25,
        parse_math=False,
    )


def _drawable(text: str) -> str:
    """Replace characters that the font lacks, which would warn and draw an empty box."""
    from matplotlib import font_manager

    font = font_manager.get_font(font_manager.findfont(_FONT))
    return "".join(c if c == "\n" or font.get_char_index(ord(c)) else "□" for c in text)


def _figure(width: float, height: float) -> Figure:
    from matplotlib.figure import Figure

    return Figure(figsize=(width, height), dpi=120, facecolor=_BACKGROUND)


def _rendered(figure: Figure) -> Image.Image:
    from matplotlib.backends.backend_agg import FigureCanvasAgg
    from PIL import Image

    canvas = FigureCanvasAgg(figure)
    canvas.draw()
    return Image.fromarray(np.asarray(canvas.buffer_rgba())).convert("RGB")
