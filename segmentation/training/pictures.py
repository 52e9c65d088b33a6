"""Pictures of predictions: the prompted slice and two on either side, with the contours of truth and prediction."""

from __future__ import annotations

from collections.abc import Sequence
from io import BytesIO
from pathlib import Path

import numpy as np
from matplotlib.axes import Axes
from matplotlib.backends.backend_agg import FigureCanvasAgg
from matplotlib.figure import Figure
from numpy.typing import NDArray

from segmentation.files import write_bytes
from segmentation.training.validation import Judged
from segmentation.types import Arrow, Bidimensional, Box, Line, MaskPrompt, Points, Prompt

TRUTH, FOUND, DRAWN = "#ff6ec7", "#3ddbd9", "#ffd23f"
WINDOW = (-400.0, 400.0)
"""HU, black and white."""
_BESIDE = (-2, -1, 0, 1, 2)
_MARGIN = 12
"""Pixels around what is drawn."""


def draw_predictions(judged: Sequence[Judged], path: Path) -> Path:
    """Write a PNG, a row a lesion and a column a slice: truth pink, prediction cyan, prompt yellow."""
    figure = Figure(figsize=(2 * len(_BESIDE), 2.15 * max(len(judged), 1)), layout="constrained", facecolor="black")
    axes = figure.subplots(max(len(judged), 1), len(_BESIDE), squeeze=False)
    for line, one in zip(axes, judged, strict=False):
        truth, found = one.sample.truth, np.zeros_like(one.sample.truth)
        if one.mask is not None:
            found = one.mask.in_volume(truth.shape)
        prompt = one.job.prompts[0]
        rows, columns = _around(truth | found)
        for axis, beside in zip(line, _BESIDE, strict=True):
            z = prompt.slice_index + beside
            if 0 <= z < len(truth):
                voxels = one.sample.volume.voxels[z]
                _draw_slice(axis, voxels[rows, columns], truth[z, rows, columns], found[z, rows, columns])
                if beside == 0:
                    _draw_prompt(axis, prompt, (rows.start, columns.start))
        line[0].set_title(
            f"{one.sample.dataset}, {one.kind}: Dice {one.dice:.2f}", color="white", fontsize=7, loc="left"
        )
    for axis in axes.flat:
        axis.set_axis_off()
    buffer = BytesIO()
    FigureCanvasAgg(figure).print_png(buffer)
    path.parent.mkdir(parents=True, exist_ok=True)
    return write_bytes(path, buffer.getvalue())


def _around(mask: NDArray[np.bool_]) -> tuple[slice, slice]:
    """Rows and columns around all of a mask."""
    found = []
    for axis in (1, 2):
        hit = np.flatnonzero(mask.any(axis=tuple(a for a in range(3) if a != axis)))
        found.append(slice(max(int(hit[0]) - _MARGIN, 0), min(int(hit[-1]) + _MARGIN + 1, mask.shape[axis])))
    return found[0], found[1]


def _draw_slice(axis: Axes, voxels: NDArray[np.int16], truth: NDArray[np.bool_], found: NDArray[np.bool_]) -> None:
    axis.imshow(voxels, cmap="gray", vmin=WINDOW[0], vmax=WINDOW[1], interpolation="nearest")
    for mask, colour in ((truth, TRUTH), (found, FOUND)):
        if mask.any() and not mask.all() and min(mask.shape) > 1:
            axis.contour(mask, levels=[0.5], colors=colour, linewidths=0.9)


def _draw_prompt(axis: Axes, prompt: Prompt, origin: tuple[int, int]) -> None:
    """Draw a prompt; ``origin`` is (row, column) of the first pixel shown. A mask prompt is its truth."""
    lines: list[tuple[tuple[float, float], ...]] = []
    match prompt:
        case Line():
            lines = [(prompt.start, prompt.end)]
        case Bidimensional():
            lines = [prompt.long_axis, prompt.short_axis]
        case Arrow():
            lines = [(prompt.tail, prompt.head)]
        case Box(_, (x0, y0), (x1, y1)):
            lines = [((x0, y0), (x1, y0), (x1, y1), (x0, y1), (x0, y0))]
        case Points():
            lines = [(point,) for point in prompt.points]
        case MaskPrompt():
            lines = []
    limits = axis.get_xlim(), axis.get_ylim()
    for points in lines:
        x, y = (np.array(points) - origin[::-1]).T
        axis.plot(x, y, color=DRAWN, linewidth=0.9)
        axis.plot(x[-1], y[-1], color=DRAWN, marker=".", markersize=3)
    axis.set_xlim(limits[0])
    axis.set_ylim(limits[1])
