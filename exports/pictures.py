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

from exports.drawing import (
    BACKGROUND,
    CONTOUR,
    DRAWN,
    FONT,
    INK,
    MUTED,
    draw_letters,
    draw_scale,
    draw_stroke,
    frame,
    label,
    new_figure,
    rendered,
    write,
)
from exports.scene import WINDOWS, Scene, drawn_on, scene_of
from exports.types import ExportError, FindingRecord

if TYPE_CHECKING:
    from matplotlib.axes import Axes
    from matplotlib.figure import Figure, SubFigure
    from PIL import Image

FloatArray = NDArray[np.float64]

_TIER_COLOURS = {"A": "#56d364", "B": "#e3b341", "C": "#f85149"}

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
    figure = new_figure(12.0, 5.4)
    grid = figure.add_gridspec(1, 3, left=0.012, right=0.988, top=0.975, bottom=0.24, wspace=0.03)
    for column, plane in enumerate(_PLANES):
        _draw_plane(figure.add_subplot(grid[0, column]), scene, plane, text_size=10, title=True)
    write(figure, 0.012, 0.162, _quoted(scene.row, 118, 2), size=14, colour=INK, va="center")
    write(figure, 0.012, 0.072, _facts(scene), size=10, colour=MUTED, va="center")
    write(figure, 0.012, 0.028, _why(scene.row), size=10, colour=MUTED, va="center")
    _badge(figure, scene, 0.982, 0.045, size=10)
    return rendered(figure)


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
    figure = new_figure(4.4 * columns, 3.85 * lines)
    for cell, row in zip(np.ravel(figure.subfigures(lines, columns, squeeze=False)), rows, strict=False):
        scene = scene_of(row)
        cell.set_facecolor(BACKGROUND)
        grid = cell.add_gridspec(
            2, 2, width_ratios=(2, 1), left=0.02, right=0.98, top=0.975, bottom=0.24, wspace=0.02, hspace=0.03
        )
        _draw_plane(cell.add_subplot(grid[:, 0]), scene, _AXIAL, text_size=8)
        _draw_plane(cell.add_subplot(grid[0, 1]), scene, _CORONAL, text_size=0)
        _draw_plane(cell.add_subplot(grid[1, 1]), scene, _SAGITTAL, text_size=0)
        write(cell, 0.02, 0.155, _quoted(scene.row, 58, 2), size=9.5, colour=INK, va="center")
        write(cell, 0.02, 0.04, _short_facts(scene), size=8, colour=MUTED, va="center")
        _badge(cell, scene, 0.968, 0.04, size=8)
    return rendered(figure)


def preview_png(record: FindingRecord) -> bytes:
    """Draw the three planes small, without words, as PNG bytes of at most 60 kB; the same record, the same bytes."""
    from PIL import Image

    scene = scene_of(record)
    figure = new_figure(6.0, 2.0)
    grid = figure.add_gridspec(1, 3, left=0, right=1, top=1, bottom=0, wspace=0.01)
    for column, plane in enumerate(_PLANES):
        _draw_plane(figure.add_subplot(grid[0, column]), scene, plane, text_size=8)
    picture = rendered(figure)
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
    shades = [np.linspace(0.4, 1, 6)[:, None] * _rgb(colour) for colour in (DRAWN, CONTOUR)]
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
            np.arange(n_x) * dx, np.arange(n_y) * dy, mask.astype(np.float64), [0.5], colors=CONTOUR, linewidths=1.3
        )
    if plane is _AXIAL:
        for kind, points in scene.strokes:
            if abs(points[:, 2].mean() - index) <= 1:
                draw_stroke(axes, kind, points[:, :2] * scene.spacing[:2])
    else:
        axes.axhline(scene.centre[2] * dy, color=DRAWN, linewidth=0.6, linestyle=(0, (2, 4)), alpha=0.7)
    axes.set_xlim(centre[plane.across] - half, centre[plane.across] + half)
    down = (centre[plane.upright] + half, centre[plane.upright] - half)
    axes.set_ylim(*(down if plane is _AXIAL else down[::-1]))
    axes.set_aspect("equal")
    axes.set_axis_off()
    axes.add_patch(frame(axes))
    if text_size:
        draw_letters(axes, plane.letters, text_size)
    if title:
        label(axes, (0.025, 0.035), plane.name.upper(), text_size * 0.85, ha="left", va="bottom")
    if text_size and plane is _AXIAL:
        draw_scale(axes, half, text_size)


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


def _why(row: Mapping[str, Any]) -> str:
    """Say in one line why the phrase and the drawing belong together."""
    link = row.get("link")
    return textwrap.shorten(f"linked: {link['summary']}", 150, placeholder=" …") if link else ""


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
        family=FONT,
        weight="bold",
        color=BACKGROUND,
        bbox={"boxstyle": "round,pad=0.3", "facecolor": _TIER_COLOURS.get(tier, MUTED), "edgecolor": "none"},
    )
