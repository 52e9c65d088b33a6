"""DISPLAY units, writers with an origin of their own, and the way into the patient, against DCMTK, ITK and highdicom."""

from __future__ import annotations

import json
import re
import shutil
import subprocess
from contextlib import closing
from itertools import product
from pathlib import Path

import numpy as np
import pytest
from dicom import ct_series, write
from hypothesis import given, settings
from hypothesis import strategies as st
from presentation import CT, compound, display, graphic, item, read, reference, state, stored, words
from pydicom.sequence import Sequence as DicomSequence

from cohort_builder import index_export
from cohort_builder.annotations import read_annotations
from cohort_builder.lesions.locating import locate
from cohort_builder.types import AnnotationKind

ROWS, COLUMNS = 40, 56
AREAS = {"full": ((1, 1), (COLUMNS, ROWS)), "cropped": ((11, 6), (40, 30)), "beyond the image": ((-4, -2), (30, 45))}
EIGHT = list(product((0, 90, 180, 270), ("N", "Y")))


def marked(column: int, row: int):
    """A CT of one slice with a bright block of 3 x 3 pixels, and the block's centre in image coordinates."""
    voxels = np.full((1, ROWS, COLUMNS), -1000.0)
    voxels[0, row : row + 3, column : column + 3] = 1000
    return ct_series(1, shape=(ROWS, COLUMNS), voxels=voxels, spacing=(0.8, 0.8))[0], (column + 1.5, row + 1.5)


def block_in(bitmap: Path) -> tuple[float, float]:
    """Centre of the bright block of a PGM in DISPLAY units."""
    content = bitmap.read_bytes()
    header = re.match(rb"P5\s+(?:#[^\n]*\n\s*)*(\d+)\s+(\d+)\s+(\d+)\s", content)
    width, height = int(header[1]), int(header[2])
    pixels = np.frombuffer(content, np.uint8, width * height, header.end()).reshape(height, width)
    rows, columns = np.nonzero(pixels > pixels.max() / 2)
    assert len(rows) == 9
    return (columns.mean() + 0.5) / width, (rows.mean() + 0.5) / height


def run(*command: object) -> str:
    if shutil.which(str(command[0])) is None:
        pytest.skip(f"{command[0]} (Debian package dcmtk) is not installed")
    done = subprocess.run([str(part) for part in command], capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stdout + done.stderr
    return done.stdout + done.stderr


# ---- DISPLAY -----------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(("turn", "flip"), EIGHT)
def test_a_display_point_lies_where_dcmtk_renders_it(turn, flip, tmp_path):
    """The whole image: dcmp2pgm turns and flips as the presentation state says."""
    ct, centre = marked(20, 17)
    ds = display(
        state(item(graphic((0, 0), (1, 1), units="DISPLAY"), images=[ct]), images=[ct]), *AREAS["full"], turn, flip
    )
    (image, pr) = write([ct, ds], tmp_path)
    run("dcmp2pgm", "-p", pr, image, tmp_path / "out.pgm")
    graphics = ds.GraphicAnnotationSequence[0].GraphicObjectSequence
    graphics[0].GraphicData = [*block_in(tmp_path / "out.pgm"), 0.9, 0.9]
    (found,), _ = read(ds)
    np.testing.assert_allclose(found.points[0], centre, atol=1e-4)


@pytest.mark.parametrize(("turn", "flip"), EIGHT)
@pytest.mark.parametrize("area", AREAS)
def test_a_display_point_in_an_area_lies_where_dcmtk_cuts_and_renders_it(area, turn, flip, tmp_path):
    """dcmp2pgm always renders the whole image, so dcm2pnm cuts the area out, which C.10.4 gives in pixels from one."""
    ct, centre = marked(20, 17)
    (left, top), (right, bottom) = AREAS[area]
    ds = display(
        state(item(graphic((0, 0), (1, 1), units="DISPLAY"), images=[ct]), images=[ct]), *AREAS[area], turn, flip
    )
    (image,) = write([ct], tmp_path)
    turned = {0: [], 90: ["--rotate-right"], 180: ["--rotate-top-down"], 270: ["--rotate-left"]}[turn]
    flipped = ["--flip-horizontally"] if flip == "Y" else []
    cut = ["--clip-region", left - 1, top - 1, right - left + 1, bottom - top + 1]
    run("dcm2pnm", "--write-raw-pnm", "--min-max-window", *cut, *turned, *flipped, image, tmp_path / "out.pgm")
    ds.GraphicAnnotationSequence[0].GraphicObjectSequence[0].GraphicData = [*block_in(tmp_path / "out.pgm"), 0.9, 0.9]
    (found,), _ = read(ds)
    np.testing.assert_allclose(found.points[0], centre, atol=1e-4)
    assert found.source.rule == "line+display"


@pytest.mark.parametrize(("turn", "flip"), EIGHT)
def test_corners_may_be_swapped_as_they_are_shown(turn, flip):
    """With rotation or flip the corner at the top left of the display may be another one of the image (C.10.4)."""
    line = item(graphic((0.25, 0.1), (0.75, 0.4), units="DISPLAY"))
    (plain,), _ = read(display(state(line), (11, 6), (40, 30), turn, flip))
    (swapped,), _ = read(display(state(line), (40, 30), (11, 6), turn, flip))
    assert plain.points == swapped.points


@pytest.mark.parametrize(("turn", "flip"), EIGHT)
def test_pixel_units_ignore_rotation_flip_and_area(turn, flip):
    ds = display(state(item(graphic((10.5, 12), (30, 20)), words("15 mm", (31, 20)))), (5, 5), (20, 20), turn, flip)
    (found,), reasons = read(ds)
    assert (found.points, found.source.rule, found.stated_mm, reasons) == (((10.5, 12), (30, 20)), "line", (15,), [])


@pytest.mark.parametrize(("turn", "flip"), EIGHT)
def test_a_turned_rectangle_in_display_units(turn, flip):
    """Counterclockwise on the display is clockwise on an image that is shown mirrored."""
    ds = state(item(compound("RECTANGLE", (0.25, 0.25), (0.5, 0.75), units="DISPLAY", turn=20.0, about=(0.25, 0.25))))
    (found,), _ = read(display(ds, (1, 1), (64, 64), turn, flip))
    side, step = 64.0, np.exp(-1j * np.radians(20))  # on the display, rows down
    shown = [complex(0.25, 0.25) + step * offset for offset in (0, 0.25, 0.25 + 0.5j, 0.5j)]
    as_image = []
    for corner in shown:
        u, v = (1 - corner.real if flip == "Y" else corner.real), corner.imag
        as_image.append({0: (u, v), 90: (v, 1 - u), 180: (1 - u, 1 - v), 270: (1 - v, u)}[turn])
    expected = {tuple(np.round(np.array(point) * side, 3)) for point in as_image}
    assert {tuple(np.round(point, 3)) for point in found.points} == expected


def test_a_display_circle_is_round_in_the_image():
    (found,), _ = read(
        display(state(item(graphic((0.5, 0.5), (0.75, 0.5), kind="CIRCLE", units="DISPLAY"))), (1, 1), (40, 20))
    )
    p = np.array(found.points)
    assert np.hypot(*(p[1] - p[0])) == pytest.approx(np.hypot(*(p[3] - p[2]))) == pytest.approx(20)


def test_every_image_may_have_an_area_of_its_own():
    items = [item(graphic((0, 0), (1, 1), units="DISPLAY"), images=[image]) for image in CT[:2]]
    ds = state(*items, images=CT[:2])
    first = ds.DisplayedAreaSelectionSequence[0]
    first.ReferencedImageSequence = DicomSequence([reference(CT[0])])
    first.DisplayedAreaTopLeftHandCorner, first.DisplayedAreaBottomRightHandCorner = [1, 1], [10, 10]
    annotations, reasons = read(ds)
    assert ([a.points for a in annotations], reasons) == ([((0, 0), (10, 10))], ["no_displayed_area"])
    del first.ReferencedImageSequence
    annotations, reasons = read(ds)
    assert ([a.points for a in annotations], reasons) == ([((0, 0), (10, 10))] * 2, [])


def no_area(ds):
    del ds.DisplayedAreaSelectionSequence


def one_pixel(ds):
    display(ds, (0, 0), (0, 0))


def two_areas(ds):
    from copy import deepcopy

    ds.DisplayedAreaSelectionSequence.append(deepcopy(ds.DisplayedAreaSelectionSequence[0]))
    ds.DisplayedAreaSelectionSequence[1].DisplayedAreaBottomRightHandCorner = [7, 9]


def askew(ds):
    ds.ImageRotation = 45


def without_corner(ds):
    del ds.DisplayedAreaSelectionSequence[0].DisplayedAreaTopLeftHandCorner


@pytest.mark.parametrize("edit", [no_area, one_pixel, two_areas, askew, without_corner])
def test_display_units_without_one_valid_area_are_refused(edit):
    ds = state(item(graphic((0, 0), (1, 1), units="DISPLAY")), item(graphic((1, 1), (9, 9))))
    edit(ds)
    annotations, reasons = read(ds)
    assert ([a.points for a in annotations], reasons) == ([((1, 1), (9, 9))], ["no_displayed_area"])


def test_matrix_units_are_refused():
    assert read(state(item(graphic((1, 1), (9, 9), units="MATRIX")))) == ([], ["matrix_units"])


def test_itk_reads_the_same_points_and_units(tmp_path):
    """The only other installable reader of graphics; it traps without Presentation Pixel Spacing."""
    pytest.importorskip("itkwasm_dicom")
    from itkwasm_dicom import apply_presentation_state_to_image

    ct, _ = marked(20, 17)
    drawings = [
        graphic((10.25, 12.5), (30.75, 20.5)),
        graphic((0.25, 0.5), (0.75, 0.125), units="DISPLAY"),
        graphic((10, 30), (50, 30), (30, 20), (30, 40), kind="ELLIPSE"),
        graphic((30, 30), (36, 38), kind="CIRCLE"),
        graphic((20, 24), kind="POINT"),
    ]
    ds = display(state(item(*drawings, images=[ct]), images=[ct]), (11, 6), (40, 30), 90, "Y")
    area = ds.DisplayedAreaSelectionSequence[0]
    area.PresentationPixelSpacing = [0.8, 0.8]
    if "PresentationPixelAspectRatio" in area:
        del area.PresentationPixelAspectRatio
    image, pr = write([ct, ds], tmp_path)
    theirs, _ = apply_presentation_state_to_image(image, pr)
    theirs = json.loads(theirs) if isinstance(theirs, str) else theirs
    assert (theirs["Rotation"], theirs["Flip"], theirs["StandardDisplayedArea"]) == (90, True, [11, 6, 40, 30])
    graphics = theirs["GraphicsLayers"][0]["GraphicObjects"]
    found, reasons = read_annotations(pr)
    by_item = {a.source.item: a for a in found}
    assert (len(graphics), len(found), reasons) == (5, 5, [])
    assert [one["Units"] for one in graphics] == ["pixel", "display", "pixel", "pixel", "pixel"]
    for number in (1, 3, 5):
        np.testing.assert_allclose(np.ravel(by_item[f"1.{number}"].points), graphics[number - 1]["Points"], rtol=1e-6)
    (cx, cy, px, py) = graphics[3]["Points"]
    radius = np.hypot(px - cx, py - cy)
    np.testing.assert_allclose(np.hypot(*(np.array(by_item["1.4"].points) - (cx, cy)).T), [radius] * 4, rtol=1e-6)
    np.testing.assert_allclose(np.mean(by_item["1.4"].points, axis=0), (cx, cy), rtol=1e-6)
    u, v = graphics[1]["Points"][:2]  # flipped, then turned back by 90 degrees, on an area of 30 x 25 from (10, 5)
    np.testing.assert_allclose(by_item["1.2"].points[0], (10 + 30 * v, 5 + 25 * u), rtol=1e-6)


# ---- writers with an origin of their own -------------------------------------------------------------------------------

LINE = ((10, 12), (30, 20))


def by(manufacturer: str, model: str = "", version: str = ""):
    ds = state(
        item(graphic(*LINE), words("see", (40, 40), shown=True), graphic((0, 0), (0.5, 0.5), units="DISPLAY", group=2))
    )
    ds.Manufacturer, ds.ManufacturerModelName, ds.SoftwareVersions = manufacturer, model, version
    return display(ds, (1, 1), (64, 64))


@pytest.mark.parametrize(("origin", "shift"), [("corner", 0.0), ("center", 0.5), ("one_based", -0.5)])
def test_points_come_out_from_the_corner(origin, shift):
    annotations, reasons = read(by("Acme"), pixel_origin={"ACME": origin})
    rule = "" if origin == "corner" else f"+{origin}_origin"
    line, shown, pointer = annotations
    np.testing.assert_allclose(line.points, np.array(LINE) + shift)
    np.testing.assert_allclose(pointer.points, ((40 + shift, 40 + shift),))
    assert (line.source.rule, reasons) == (f"line{rule}", [])
    assert (shown.points, shown.source.rule) == (((0, 0), (32, 32)), "line+display")


def test_the_first_pixel_is_the_same_for_every_origin():
    """Its centre is (0.5, 0.5) for the standard, (0, 0) for one that counts centres, (1, 1) for one that counts from 1."""
    for origin, first in {"corner": 0.5, "center": 0.0, "one_based": 1.0}.items():
        ds = state(item(graphic((first, first), (9, 9))))
        (found,), _ = read(ds, pixel_origin={"Acme": origin})
        assert found.points[0] == (0.5, 0.5)


def test_the_most_exact_name_of_a_writer_wins():
    origins = {"acme": "center", "Acme/View": "one_based", "ACME/VIEW/2.1": "corner"}
    shifts = {
        ("Acme", "", ""): 0.5,
        ("Acme", "View", "1"): -0.5,
        ("acme", "view", "2.1"): 0.0,
        ("Other", "View", ""): 0.0,
    }
    for names, shift in shifts.items():
        (line, *_), _ = read(by(*names), pixel_origin=origins)
        assert line.points[0] == (10 + shift, 12 + shift)


def test_an_unknown_origin_raises():
    with pytest.raises(ValueError, match="PixelOrigin"):
        read_annotations(stored(by("Acme")), pixel_origin={"Nobody": "middle"})


# ---- into the patient --------------------------------------------------------------------------------------------------

SIZE = 512
points = st.tuples(st.floats(40, SIZE - 40), st.floats(40, SIZE - 40))


@st.composite
def orientations(draw):
    """Two perpendicular unit vectors in any direction."""
    matrix, upper = np.linalg.qr(
        np.array(draw(st.lists(st.floats(-1, 1), min_size=9, max_size=9))).reshape(3, 3) + 2 * np.eye(3)
    )
    return (matrix * np.sign(np.diag(upper)))[:, :2].T.ravel().tolist()


@st.composite
def drawings(draw):
    """A graphic of every kind with a size, its points in pixels, and in what order they are expected."""
    kind = draw(st.sampled_from(list(AnnotationKind)))
    centre, turn = np.array(draw(points)), draw(st.floats(0, 360))
    along = np.array([np.cos(np.radians(turn)), np.sin(np.radians(turn))])
    across = np.array([-along[1], along[0]])
    a, b = draw(st.floats(8, 30)), draw(st.floats(4, 7))
    ends = [centre - a * along, centre + a * along, centre - b * across, centre + b * across]
    if kind is AnnotationKind.LINE:
        return kind, [("POLYLINE", ends[:2])], ends[:2]
    if kind is AnnotationKind.BIDIMENSIONAL:
        return kind, [("POLYLINE", ends[:2]), ("POLYLINE", ends[2:])], ends
    if kind is AnnotationKind.ARROW:
        head = [ends[1] - 5 * along + 2 * across, ends[1], ends[1] - 5 * along - 2 * across]
        return kind, [("POLYLINE", ends[:2]), ("POLYLINE", head)], ends[:2]
    if kind is AnnotationKind.POINTER:
        return kind, [("POINT", [centre])], [centre]
    if kind is AnnotationKind.ELLIPSE:
        return kind, [("ELLIPSE", ends)], ends
    corners = [centre + s * a * along + t * b * across for s, t in ((-1, -1), (1, -1), (1, 1), (-1, 1))]
    if kind is AnnotationKind.BOX:
        return kind, [("POLYLINE", [*corners, corners[0]])], corners
    ring = [
        centre + (a * np.cos(t) * along + (b + 3 * np.sin(3 * t)) * np.sin(t) * across) for t in np.linspace(0, 6, 24)
    ]
    return kind, [("POLYLINE", [*ring, ring[0]])], ring


@settings(max_examples=50, deadline=None)
@given(
    drawing=drawings(), orientation=orientations(), turn=st.sampled_from(EIGHT), in_display=st.booleans(),
    spacing=st.tuples(st.floats(0.4, 1.0), st.floats(0.4, 1.0)), origin=st.tuples(*[st.floats(-300, 300)] * 3),
)  # fmt: skip
def test_an_annotation_of_any_kind_in_any_orientation_lies_where_it_was_drawn(  # noqa: PLR0917 - given by name
    tmp_path_factory, drawing, orientation, turn, in_display, spacing, origin
):
    """To 1e-4 mm: coordinates are 32-bit floats, of which one of 512 is exact to 3e-5 pixels."""
    from highdicom.spatial import ImageToReferenceTransformer

    kind, graphics, expected = drawing
    ct = ct_series(
        2, shape=(SIZE, SIZE), voxels=np.zeros((2, SIZE, SIZE)), spacing=spacing, orientation=orientation, origin=origin
    )
    unit = "DISPLAY" if in_display else "PIXEL"
    objects = [
        graphic(*(shown(p, turn) if in_display else p for p in ends), kind=g, units=unit) for g, ends in graphics
    ]
    ds = display(state(item(*objects, images=ct[:1]), images=ct[:1]), (1, 1), (SIZE, SIZE), *turn)
    folder = tmp_path_factory.mktemp("any")
    (pr,) = write([stored(ds)], folder / "pr")
    write(ct, folder / "ct")
    annotations, reasons = read_annotations(pr)
    with closing(index_export(folder)) as index:
        located, skips = locate(annotations, index)
    assert ([a.kind for a in annotations], reasons, skips) == ([kind], [], [])
    transformer = ImageToReferenceTransformer(
        image_position=ct[0].ImagePositionPatient,
        image_orientation=ct[0].ImageOrientationPatient,
        pixel_spacing=ct[0].PixelSpacing,
    )
    np.testing.assert_allclose(located[0].points_lps_mm, transformer(np.array(expected)), atol=1e-4)


def shown(point, turn_and_flip):
    """DISPLAY units of an image point on an area of the whole image: clockwise rotation, then flip (C.10.6)."""
    turn, flip = turn_and_flip
    x, y = point[0] / SIZE, point[1] / SIZE
    u, v = {0: (x, y), 90: (1 - y, x), 180: (1 - x, 1 - y), 270: (y, 1 - x)}[turn]
    return (1 - u if flip == "Y" else u), v
