"""Pictures of what each engine that needs no download makes of one lesion: a column an engine, a row a plane.

``python tests/pictures_of_engines.py docs/engines.png`` draws two generated lesions. ``--real FOLDER`` also writes pictures
of real lesions, where ../shared/data (or COHORT_REAL_DATA) has them; those stay where they are written. SAM2CT is the
nano one of `easy_lesions`, trained before (about a minute) or given as ``--weights``.
"""

from __future__ import annotations

import argparse
import sys
import tempfile
from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from itertools import islice
from math import ceil
from pathlib import Path
from typing import Any

import numpy as np
from matplotlib.axes import Axes
from matplotlib.backends.backend_agg import FigureCanvasAgg
from matplotlib.figure import Figure
from matplotlib.lines import Line2D
from matplotlib.patheffects import withStroke
from PIL import Image

HERE = Path(__file__).resolve().parent
sys.path[:0] = [str(HERE), str(HERE / "real")]

from easy_lesions import EASY, easy_cache, generated_lesion  # noqa: E402 - the folders of the tests are no package

from segmentation import IntensityPrompts, SegmentationJob, load_segmenter, simulate_prompt  # noqa: E402
from segmentation.geometry import HALF_PIXEL  # noqa: E402
from segmentation.metrics import bootstrap_ci, dice, longest_diameter_mm  # noqa: E402
from segmentation.phantoms import LesionKind, LesionSpec, Organ, body_phantom  # noqa: E402
from segmentation.training.trainees import make_trainee  # noqa: E402
from segmentation.training.trainer import train  # noqa: E402
from segmentation.types import Arrow, Mask, Prompt, Segmenter, Volume  # noqa: E402

BACKGROUND, INK, MUTED = "#0d1117", "#f0f3f6", "#8b98a5"
DRAWN, FOUND, TRUTH = "#ffd23f", "#3ddbd9", "#ff6ec7"
LUNG, SOFT = (-500.0, 1500.0), (40.0, 400.0)
"""Level and width."""
MARGIN_MM = 14.0
OUTLINED = [withStroke(linewidth=2.5, foreground="black")]


@dataclass(frozen=True, slots=True, eq=False)
class Subject:
    """A lesion to draw, a line and an arrow on it."""

    name: str
    title: str
    volume: Volume
    truth: np.ndarray
    line: Prompt
    arrow: Prompt
    window: tuple[float, float]


@dataclass(frozen=True, slots=True)
class Plane:
    """Axes of a volume that run right and down in the picture, the axis it is cut at, and letters left and right."""

    name: str
    right: int
    down: int
    cut: int
    letters: str
    head_up: bool


PLANES = (
    Plane("axial", 2, 1, 0, "RL", head_up=False),
    Plane("coronal", 2, 0, 1, "RL", head_up=True),
    Plane("sagittal", 1, 0, 2, "AP", head_up=True),
)
Column = tuple[str, Segmenter, str]
"""Words above it, the engine, and "line" or "arrow"."""


def columns(nano: Path) -> list[Column]:
    classical, small = load_segmenter("classical"), load_segmenter("sam2ct", weights=nano, device="cpu")
    return [
        ("ellipsoid", load_segmenter("ellipsoid"), "line"),
        ("classical", classical, "line"),
        ("sam2ct, nano", small, "line"),
        ("classical", classical, "arrow"),
        ("intensity + classical", IntensityPrompts(classical), "arrow"),
        ("sam2ct, nano", small, "arrow"),
    ]


# ---- lesions --------------------------------------------------------------------------------------------------------


def prompted(name: str, title: str, volume: Volume, truth: np.ndarray, window: tuple[float, float]) -> Subject:
    rng = np.random.default_rng(11)
    line = simulate_prompt(truth, "line", rng, spacing_mm=volume.spacing_mm)
    arrow = simulate_prompt(truth, "arrow", rng, spacing_mm=volume.spacing_mm)
    return Subject(name, title, volume, truth, line, arrow, window)


def easy() -> Subject:
    """A lesion of the family that the nano model is trained on, but of another seed."""
    volume, truth = generated_lesion(np.random.default_rng([999, 2, 0]))
    longest = longest_diameter_mm(truth, volume.spacing_mm)
    return prompted("easy", f"Generated, as the nano model is trained on: {longest:.0f} mm", volume, truth, LUNG)


def in_a_body() -> Subject:
    spec = LesionSpec(Organ.LUNG, "RIGHT", 0.5, 24.0, LesionKind.LOBULATED)
    phantom = body_phantom(np.random.default_rng(4), [spec], region="chest", n_slices=40, spacing_mm=(2.5, 0.74, 0.74))
    (lesion,) = phantom.lesions
    truth = lesion.in_volume(phantom.volume.voxels.shape)
    title = f"Generated, in a body (which the nano model has not seen): {lesion.location}, {lesion.longest_diameter_mm:.0f} mm"
    return prompted("body", title, phantom.volume, truth, LUNG)


def real() -> Iterator[Subject]:
    from cases import load_lidc, load_sarcomas

    lidc = load_lidc()
    yield prompted("lidc", "LIDC-IDRI-0001, lung", lidc.volume, lidc.truth, LUNG)
    for case in load_sarcomas():
        yield prompted(case.case_id.lower(), f"Soft-tissue sarcoma {case.case_id}", case.volume, case.truth, SOFT)


# ---- drawing --------------------------------------------------------------------------------------------------------


def picture(subject: Subject, engines: Iterable[Column]) -> tuple[Figure, dict[str, float]]:
    """Draw one lesion; the Dice of each column."""
    found = [(words, kind, *segmented(subject, engine, kind)) for words, engine, kind in engines]
    across, heights = extents(subject)
    width = 2.15 * len(found) + 0.1
    inches = [2.15 * height / across for height in heights]
    figure = Figure(figsize=(width, sum(inches) + 1.0), facecolor=BACKGROUND, dpi=110)
    top = 1 - 0.86 / figure.get_figheight()
    grid = figure.add_gridspec(
        3, len(found), height_ratios=inches, left=0.005, right=0.995, bottom=0.01, top=top, wspace=0.02, hspace=0.03
    )
    for column, (words, kind, mask, note) in enumerate(found):
        prompt = subject.line if kind == "line" else subject.arrow
        for row, plane in enumerate(PLANES):
            axes = figure.add_subplot(grid[row, column])
            draw_plane(axes, subject, plane, mask, prompt, shown=(across, heights[row]))
            if column == 0:
                label(axes, 0.03, 0.03, plane.name, ha="left", va="bottom")
        middle = (column + 0.5) / len(found)
        place = {"ha": "center", "va": "bottom", "parse_math": False}
        figure.text(
            middle,
            top + 0.2 / figure.get_figheight(),
            f"{words}, {kind}",
            color=INK,
            fontsize=9.5,
            weight="bold",
            **place,
        )
        figure.text(middle, top + 0.04 / figure.get_figheight(), note, color=MUTED, fontsize=9, **place)
    figure.text(
        0.008, 1 - 0.12 / figure.get_figheight(), subject.title, color=INK, fontsize=11, va="top", parse_math=False
    )
    figure.legend(
        handles=[Line2D([], [], color=c, lw=1.8, label=t) for c, t in ((DRAWN, "drawn"), (FOUND, "segmented"), (TRUTH, "truth"))],
        loc="upper right", ncols=3, frameon=False, labelcolor=INK, fontsize=9.5, borderaxespad=0.4,
    )  # fmt: skip
    return figure, {f"{words}, {kind}": dice(mask, subject.truth) for words, kind, mask, _ in found}


def segmented(subject: Subject, engine: Segmenter, kind: str) -> tuple[np.ndarray, str]:
    """Mask on the whole grid and the words for it; an empty one where the engine failed."""
    prompt = subject.line if kind == "line" else subject.arrow
    (answer,) = engine.segment([SegmentationJob(subject.name, subject.volume, (prompt,))])
    if not isinstance(answer, Mask):
        return np.zeros_like(subject.truth), answer.reason.replace("_", " ")
    mask = answer.in_volume(subject.truth.shape)
    return mask, f"Dice {dice(mask, subject.truth):.2f}"


def extents(subject: Subject) -> tuple[float, list[float]]:
    """Millimetres that every panel shows across, and those of each plane downwards: the truth, with a margin."""
    spacing = np.array(subject.volume.spacing_mm)
    sizes = [(part.stop - part.start) * mm for part, mm in zip(box_of(subject.truth), spacing, strict=True)]
    across = 1.6 * max(sizes[1:]) + 2 * MARGIN_MM
    upright = min(max(sizes[0] + 2 * MARGIN_MM, 0.45 * across), across)
    return across, [across, upright, upright]


def box_of(mask: np.ndarray) -> tuple[slice, ...]:
    hits = [np.flatnonzero(mask.any(axis=tuple(a for a in range(3) if a != axis))) for axis in range(3)]
    return tuple(slice(int(h[0]), int(h[-1]) + 1) for h in hits)


def draw_plane(
    axes: Axes, subject: Subject, plane: Plane, mask: np.ndarray, prompt: Prompt, *, shown: tuple[float, float]
) -> None:
    """Draw one plane in millimetres from the first voxel's centre."""
    spacing = subject.volume.spacing_mm
    boxes = box_of(subject.truth)
    middle = [(part.start + part.stop - 1) / 2 for part in boxes]
    at = prompt.slice_index if plane.cut == 0 else round(middle[plane.cut])
    right_mm, down_mm = spacing[plane.right], spacing[plane.down]
    image = np.take(subject.volume.voxels, at, axis=plane.cut)
    n_down, n_right = image.shape
    if plane.right < plane.down:  # sagittal of (slice, row): the rows run to the right
        image = image.T
        n_down, n_right = image.shape
    level, width = subject.window
    axes.imshow(
        image, cmap="gray", vmin=level - width / 2, vmax=level + width / 2, interpolation="bilinear",
        extent=(-HALF_PIXEL * right_mm, (n_right - HALF_PIXEL) * right_mm, (n_down - HALF_PIXEL) * down_mm, -HALF_PIXEL * down_mm),
    )  # fmt: skip
    for section, colour in ((subject.truth, TRUTH), (mask, FOUND)):
        cut = np.take(section, at, axis=plane.cut)
        if cut.any():
            axes.contour(
                np.arange(n_right) * right_mm, np.arange(n_down) * down_mm, cut.astype(float), [0.5],
                colors=colour, linewidths=1.3,
            )  # fmt: skip
    if plane.cut == 0:
        draw_prompt(axes, prompt, np.array([right_mm, down_mm]))
    else:
        axes.axhline(prompt.slice_index * down_mm, color=DRAWN, linewidth=0.7, linestyle=(0, (2, 4)))
    x, y = middle[plane.right] * right_mm, middle[plane.down] * down_mm
    half_x, half_y = shown[0] / 2, shown[1] / 2
    axes.set_xlim(x - half_x, x + half_x)
    axes.set_ylim(*((y - half_y, y + half_y) if plane.head_up else (y + half_y, y - half_y)))
    axes.set_aspect("equal")
    axes.set_facecolor("black")
    axes.set_xticks([])
    axes.set_yticks([])
    for spine in axes.spines.values():
        spine.set_visible(False)
    label(axes, 0.03, 0.5, plane.letters[0], ha="left", va="center")
    label(axes, 0.97, 0.5, plane.letters[1], ha="right", va="center")
    if plane.cut == 0:
        draw_scale(axes, shown[0])


def draw_prompt(axes: Axes, prompt: Prompt, scale: np.ndarray) -> None:
    if isinstance(prompt, Arrow):
        arrow = {
            "arrowstyle": "-|>,head_length=0.5,head_width=0.2",
            "color": DRAWN,
            "lw": 1.5,
            "shrinkA": 0,
            "shrinkB": 0,
        }
        axes.annotate("", xy=tuple(prompt.head * scale), xytext=tuple(prompt.tail * scale), arrowprops=arrow)
    else:
        axes.plot(*(np.array([prompt.start, prompt.end]) * scale).T, color=DRAWN, linewidth=1.5)


def draw_scale(axes: Axes, across: float) -> None:
    length = 10.0 if across < 120 else 50.0
    share = length / across
    axes.plot(
        [0.97 - share, 0.97], [0.04, 0.04], color=INK, linewidth=2, transform=axes.transAxes, path_effects=OUTLINED
    )
    label(axes, 0.97 - max(share, 0.22) / 2, 0.055, f"{length:.0f} mm", ha="center", va="bottom")


def label(axes: Axes, x: float, y: float, words: str, **place: Any) -> None:
    axes.text(
        x, y, words, transform=axes.transAxes, color=INK, fontsize=8, weight="bold", path_effects=OUTLINED, **place
    )  # fmt: skip


# ---- the script -----------------------------------------------------------------------------------------------------


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("out", type=Path, help="the picture of two generated lesions")
    parser.add_argument("--real", type=Path, help="folder for pictures of real lesions")
    parser.add_argument("--most", type=int, default=14, help="so many real lesions at most")
    parser.add_argument("--weights", type=Path, help="a nano model that was trained before")
    parser.add_argument("--keep", type=Path, help="where to write the trained nano model")
    parser.add_argument("--times", type=float, default=1.0, help="train so many times as long as the tests do")
    given = parser.parse_args()
    weights = given.weights or trained(given.keep, given.times)
    engines = columns(weights)
    save((easy(), in_a_body()), engines, given.out)
    if given.real:
        given.real.mkdir(parents=True, exist_ok=True)
        scores: dict[str, list[float]] = {}
        for subject in islice(real(), given.most):
            for column, value in save([subject], engines, given.real / f"{subject.name}.png").items():
                scores.setdefault(column, []).append(value)
        for column, values in scores.items():
            print(f"real lesions, n = {len(values)}: {column}: Dice {bootstrap_ci(values)}")


def trained(keep: Path | None, times: float) -> Path:
    folder = Path(tempfile.mkdtemp())
    config = EASY.with_changes(steps=ceil(EASY.total_steps * times))
    path = train(make_trainee(config), easy_cache(folder / "cache", 400), config, folder / "nano")
    return path if keep is None else path.rename(keep)


def save(subjects: Iterable[Subject], engines: list[Column], path: Path) -> dict[str, float]:
    """Write the pictures of some lesions as one, below each other; the Dice of each column for the last of them."""
    images, scores = [], {}
    for subject in subjects:
        figure, scores = picture(subject, engines)
        canvas = FigureCanvasAgg(figure)
        canvas.draw()
        images.append(np.asarray(canvas.buffer_rgba())[..., :3])
        print(subject.name, {column: round(value, 3) for column, value in scores.items()})
    stacked = Image.fromarray(np.vstack(images))
    stacked.quantize(256, dither=Image.Dither.NONE).save(path, optimize=True)
    return scores


if __name__ == "__main__":
    main()
