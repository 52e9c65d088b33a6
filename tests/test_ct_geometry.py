"""What real series do to geometry, one defect a row: right or refused with a reason, never silently wrong.

Beside us in each row: highdicom, which is right or refuses, and SimpleITK, whose spacing and number of slices say where
it silently puts pixels elsewhere than their headers do. A line is drawn on a slice that has no defect and on the one
that has: it is segmented on the largest regular stack that holds its slice, or becomes a Skip.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

import highdicom
import numpy as np
import pydicom
import pytest
import SimpleITK
from dicom import ct_series, gsps, line, localizer, on, uid, write
from pydicom.dataset import Dataset

from cohort_builder import group_lesions, index_export, locate, read_annotations
from cohort_builder.ct.series import load_stack
from cohort_builder.ct.splitting import split_series
from cohort_builder.jobs import plan_stacks
from segmentation.geometry import apply_affine, slice_affine

N, STEP = 20, 3.0
BASE = (-22.0, -25.0, 40.0)
OBLIQUE = (0.9396926, 0.0, 0.3420201, 0.0, 1.0, 0.0)
REFUSES = "refuses"
RIGHT = "right"


@dataclass(frozen=True)
class Row:
    """One line of the table.

    ``stacks`` are their lengths, ``reasons`` the series' Skips. ``good`` and ``bad`` are (place in the list that was
    built, length of the stack that a line drawn there is segmented on or None for a Skip). ``simpleitk`` is (slices,
    spacing in mm, whether that is silently wrong), or REFUSES.
    """

    build: Callable[[], list[Dataset]]
    stacks: list[int]
    reasons: set[str]
    good: tuple[int, int | None]
    bad: tuple[int, int | None] | None
    highdicom: str
    simpleitk: tuple[int, float, bool] | str


def series(**options) -> list[Dataset]:
    return ct_series(N, step_mm=STEP, origin=BASE, **options)


def at(heights, **options) -> list[Dataset]:
    return ct_series(positions=[(BASE[0], BASE[1], BASE[2] + h) for h in heights], **options)


def renamed(datasets: list[Dataset], name: str) -> list[Dataset]:
    """The same images under other SOP Instance UIDs."""
    for i, ds in enumerate(datasets):
        ds.SOPInstanceUID = ds.file_meta.MediaStorageSOPInstanceUID = uid(name, i)
    return datasets


def edited(change: Callable[[list[Dataset]], object], **options) -> list[Dataset]:
    datasets = series(**options)
    change(datasets)
    return datasets


def shuffled() -> list[Dataset]:
    datasets = series()
    np.random.default_rng(3).shuffle(datasets)
    return datasets


def numbered_backwards(datasets: list[Dataset]) -> None:
    for i, ds in enumerate(datasets):
        ds.InstanceNumber = N - i


def jittered() -> list[Dataset]:
    rng = np.random.default_rng(4)
    return at(STEP * np.arange(N) + rng.uniform(-0.01, 0.01, N))


def with_extra(height: float, **options) -> list[Dataset]:
    return series() + renamed(at([height], **options), "extra")


def two_phases() -> list[Dataset]:
    return series() + renamed(series(acquisition_number=2, voxels=np.full((N, 64, 64), 50.0)), "second phase")


def phases_nothing_separates() -> list[Dataset]:
    return series() + renamed(series(voxels=np.full((N, 64, 64), 50.0)), "second phase")


def with_localizer(shape: tuple[int, int]) -> list[Dataset]:
    datasets = series()
    scout = localizer(shape=shape)
    scout.SeriesInstanceUID = datasets[0].SeriesInstanceUID
    return [*datasets, scout]


def tilted() -> list[Dataset]:
    step = np.array([0, np.sin(np.radians(20)), np.cos(np.radians(20))]) * STEP
    return ct_series(positions=[np.asarray(BASE) + i * step for i in range(N)])


def with_padding(datasets: list[Dataset]) -> None:
    for ds in datasets:
        stored = ds.pixel_array.copy()
        stored[:4] = -2000
        ds.PixelData = stored.tobytes()


SAME = np.full((1, 64, 64), 50.0)
TABLE = {
    "normal": Row(series, [20], set(), (5, 20), None, RIGHT, (20, 3.0, False)),
    "shuffled": Row(shuffled, [20], set(), (5, 20), None, RIGHT, (20, 3.0, False)),
    "instance numbers reversed": Row(
        lambda: edited(numbered_backwards), [20], set(), (5, 20), None, RIGHT, (20, 3.0, False)
    ),
    "oblique": Row(lambda: series(orientation=OBLIQUE), [20], set(), (5, 20), None, RIGHT, (20, 3.0, False)),
    "prone": Row(lambda: series(orientation=(-1, 0, 0, 0, -1, 0)), [20], set(), (5, 20), None, RIGHT, (20, 3.0, False)),
    "feet first": Row(
        lambda: series(orientation=(-1, 0, 0, 0, 1, 0)), [20], set(), (5, 20), None, RIGHT, (20, 3.0, False)
    ),
    "jitter of 0.01 mm": Row(jittered, [20], set(), (5, 20), None, RIGHT, (20, 3.0, False)),
    "missing slice": Row(
        lambda: edited(lambda d: d.pop(7)), [12, 7], {"irregular_spacing"}, (12, 12), (6, 7), REFUSES, (19, 3.167, True)
    ),
    "3 mm then 5 mm": Row(
        lambda: at([*np.arange(11) * 3, *(30 + 5 * np.arange(1, 10))]), [11, 9], {"irregular_spacing"},
        (3, 11), (15, 9), REFUSES, (20, 3.947, True),
    ),
    "1.25 mm written with one decimal": Row(
        lambda: at(np.round(1.25 * np.arange(N), 1)), [20], set(), (5, 20), (6, 20), REFUSES, (20, 1.253, False)
    ),
    "duplicate position, other pixels": Row(
        lambda: with_extra(15.0, voxels=SAME), [14, 5], {"duplicate_positions", "irregular_spacing"},
        (12, 14), (20, None), REFUSES, (21, 0.75, True),
    ),
    "duplicate position, same pixels": Row(
        lambda: [*(made := series()), *renamed([pydicom.dcmread(_bytes(made[5]))], "sent again")],
        [20], {"duplicate_slice"}, (12, 20), None, REFUSES, (21, 0.75, True),
    ),
    "duplicate position, other acquisition": Row(
        lambda: with_extra(15.0, voxels=SAME, acquisition_number=2), [20], {"single_slice"},
        (5, 20), (20, None), REFUSES, (21, 0.75, True),
    ),
    "two phases": Row(two_phases, [20, 20], set(), (5, 20), (25, 20), REFUSES, (40, 1.462, True)),
    "two phases that nothing separates": Row(
        phases_nothing_separates, [], {"duplicate_positions"}, (5, None), (25, None), REFUSES, (40, 1.462, True)
    ),
    "localizer of the same size": Row(
        lambda: with_localizer((64, 64)), [20], {"localizer"}, (5, 20), (20, None), REFUSES, (21, 4.927, True)
    ),
    "localizer of another size": Row(
        lambda: with_localizer((48, 64)), [20], {"localizer"}, (5, 20), (20, None), REFUSES, REFUSES
    ),
    "gantry tilt of 20 degrees": Row(
        tilted, [], {"gantry_tilt"}, (5, None), None, REFUSES, (20, 3.0, True)
    ),
    "slope of each slice its own": Row(
        lambda: series(slope=[float(1 + i % 4) for i in range(N)]), [20], set(), (5, 20), (6, 20), RIGHT, (20, 3.0, False)
    ),
    "slope of 0.5": Row(lambda: series(slope=0.5), [20], set(), (5, 20), None, RIGHT, (20, 3.0, False)),
    "Pixel Spacing missing": Row(
        lambda: edited(lambda d: [delattr(ds, "PixelSpacing") for ds in d]), [], {"no_geometry"},
        (5, None), None, REFUSES, (20, 3.0, True),
    ),
    "one slice with another Pixel Spacing": Row(
        lambda: edited(lambda d: setattr(d[7], "PixelSpacing", [0.9, 0.7])), [12, 7],
        {"irregular_spacing", "single_slice"}, (12, 12), (7, None), REFUSES, (20, 3.0, True),
    ),
    "one slice without Image Position": Row(
        lambda: edited(lambda d: delattr(d[7], "ImagePositionPatient")), [12, 7],
        {"irregular_spacing", "no_geometry"}, (12, 12), (7, None), REFUSES, (20, 5.398, True),
    ),
    "padding of -2000": Row(
        lambda: edited(with_padding, signed=True, padding=-2000), [20], set(), (5, 20), None, RIGHT, (20, 3.0, False)
    ),
    "one slice": Row(lambda: at([0.0]), [], {"single_slice"}, (0, None), None, RIGHT, (1, 1.0, False)),
    "two slices": Row(lambda: at([0.0, 3.0]), [2], set(), (0, 2), None, RIGHT, (2, 3.0, False)),
}  # fmt: skip


def _bytes(ds: Dataset):
    from io import BytesIO

    stream = BytesIO()
    ds.save_as(stream, enforce_file_format=True)
    stream.seek(0)
    return stream


@pytest.fixture(autouse=True)
def _without_warnings_of_itk():
    SimpleITK.ProcessObject.SetGlobalWarningDisplay(False)
    yield
    SimpleITK.ProcessObject.SetGlobalWarningDisplay(True)


def hounsfield(ds: Dataset) -> np.ndarray:
    """(row, column) by pydicom, as ours is defined: nothing below -1024."""
    return np.maximum(np.rint(ds.pixel_array * float(ds.RescaleSlope) + float(ds.RescaleIntercept)), -1024)


def by_highdicom(datasets: list[Dataset]) -> str:
    try:
        volume = highdicom.get_volume_from_series(datasets)
    except (RuntimeError, ValueError, AttributeError):
        return REFUSES
    made = sorted(tuple(volume.affine[:3, 3] + i * volume.affine[:3, 0]) for i in range(volume.shape[0]))
    said = sorted(tuple(map(float, ds.ImagePositionPatient)) for ds in datasets)
    return RIGHT if np.allclose(made, said, atol=0.06) else "wrong"


def by_simpleitk(folder: Path) -> tuple[int, float, bool] | str:
    """Slices, spacing, and whether a corner of a slice lies elsewhere than its own header says (or that says nothing)."""
    reader = SimpleITK.ImageSeriesReader()
    files = reader.GetGDCMSeriesFileNames(str(folder))
    reader.SetFileNames(files)
    try:
        image = reader.Execute()
    except RuntimeError:
        return REFUSES
    wrong = False
    for i, file in enumerate(files):
        ds = pydicom.dcmread(file)
        if "ImagePositionPatient" not in ds or "PixelSpacing" not in ds:
            wrong = True
            continue
        own = slice_affine(ds.ImagePositionPatient, ds.ImageOrientationPatient, ds.PixelSpacing)
        theirs = image.TransformIndexToPhysicalPoint((63, 63, i))
        wrong |= not np.allclose(theirs, apply_affine(own, (0, 63, 63)), atol=0.11)
    return image.GetSize()[2], round(image.GetSpacing()[2], 3), wrong


@pytest.mark.parametrize("row", TABLE.values(), ids=TABLE.keys())
def test_geometry_is_right_or_refused(tmp_path, row):
    datasets = row.build()
    made = {str(ds.SOPInstanceUID): ds for ds in datasets}
    write(datasets, tmp_path / "ct")
    index = index_export(tmp_path / "ct")
    stacks, skips = split_series(index.instances(str(datasets[0].SeriesInstanceUID)))
    assert ([len(s.instances) for s in stacks], {s.reason for s in skips}) == (row.stacks, row.reasons)

    used = [i.sop_instance_uid for s in stacks for i in s.instances]
    assert len(used) == len(set(used))
    left_out = {u for s in skips for u in s.private["sop_instance_uids"].split()}
    assert set(used) | left_out == set(made)
    for stack in stacks:
        volume = load_stack(stack)
        for i, sop in enumerate(volume.sop_instance_uids):
            ds = made[sop]
            np.testing.assert_array_equal(volume.voxels[i], hounsfield(ds))
            own = slice_affine(ds.ImagePositionPatient, ds.ImageOrientationPatient, ds.PixelSpacing)
            for r, c in ((0, 0), (0, 63), (63, 0), (63, 63)):
                np.testing.assert_allclose(
                    apply_affine(volume.affine, (i, r, c)), apply_affine(own, (0, r, c)), atol=0.11
                )


@pytest.mark.parametrize("row", TABLE.values(), ids=TABLE.keys())
def test_others_on_the_same_series(tmp_path, row):
    datasets = row.build()
    write(datasets, tmp_path)
    assert by_highdicom(datasets) == row.highdicom
    assert by_simpleitk(tmp_path) == row.simpleitk


@pytest.mark.parametrize(
    ("row", "where"),
    [
        pytest.param(row, where, id=f"{name}-{word}")
        for name, row in TABLE.items()
        for word, where in (("good", row.good), ("bad", row.bad))
        if where is not None
    ],
)
def test_what_is_drawn_lies_on_the_largest_regular_stack_or_is_skipped(tmp_path, row, where):
    datasets = row.build()
    place, length = where
    drawn_on = datasets[place]
    write([*datasets, _state(drawn_on)], tmp_path)
    index = index_export(tmp_path)
    (state,) = index.annotation_objects(str(drawn_on.StudyInstanceUID))
    annotations, unread = read_annotations(state.path)
    assert (len(annotations), unread) == (1, [])
    located, lost = locate(annotations, index)
    plans, skips = plan_stacks(group_lesions(located), index)
    if length is None:
        assert plans == []
        assert lost or any(skip.reason == "no_regular_stack" for skip in skips)
        return
    (plan,) = plans
    uids = [i.sop_instance_uid for i in plan.stack.instances]
    assert len(uids) == length
    assert str(drawn_on.SOPInstanceUID) in uids
    (job,) = plan.jobs(load_stack(plan.stack))
    (prompt,) = job.drawn.prompts
    assert prompt.slice_index == uids.index(str(drawn_on.SOPInstanceUID))


def _state(drawn_on: Dataset) -> Dataset:
    return gsps([on(drawn_on, line((20.0, 30.0), (40.0, 30.0)))], images=[drawn_on])
