"""Which image or frame an annotation is on, which classes are read, what is a duplicate, and what would take for ever."""

from __future__ import annotations

import io
import struct
import zlib
from dataclasses import replace
from datetime import timedelta

import numpy as np
import pytest
from dicom import CREATED, gsps, line, on, write
from hypothesis import given, settings
from hypothesis import strategies as st
from presentation import CT, IMAGE, graphic, item, read, state, stored
from pydicom.dataset import Dataset
from pydicom.sequence import Sequence as DicomSequence

from cohort_builder import index_export
from cohort_builder.annotations import deduplicate, read_annotations
from cohort_builder.linking.assignment import link
from cohort_builder.linking.config import LinkConfig
from cohort_builder.patient import read_lesions
from cohort_builder.types import Annotation, AnnotationKind, Source

A, B = (10.0, 30.0), (50.0, 30.0)
ENHANCED, CT_IMAGE = "1.2.840.10008.5.1.4.1.1.2.1", "1.2.840.10008.5.1.4.1.1.2"


# ---- references --------------------------------------------------------------------------------------------------------


def on_frames(*frames: int, sop_class: str = ENHANCED):
    ds = state(item(graphic(A, B), frames=frames))
    for reference in ds.GraphicAnnotationSequence[0].ReferencedImageSequence:
        reference.ReferencedSOPClassUID = sop_class
    return ds


@pytest.mark.parametrize(
    ("frames", "sop_class", "expected"),
    [
        ((), ENHANCED, None), ((1,), ENHANCED, 1), ((7,), ENHANCED, 7), ((7, 7), ENHANCED, 7),
        ((), CT_IMAGE, None), ((1,), CT_IMAGE, None),
        ((3, 4), ENHANCED, "several_frames"), ((0,), ENHANCED, "no_such_frame"), ((-2,), ENHANCED, "no_such_frame"),
        ((2,), CT_IMAGE, "no_such_frame"),
    ],
)  # fmt: skip
def test_frames(frames, sop_class, expected):
    annotations, reasons = read(on_frames(*frames, sop_class=sop_class))
    if isinstance(expected, str):
        assert (annotations, reasons) == ([], [expected])
    else:
        assert ([found.frame_number for found in annotations], reasons) == ([expected], [])


def test_strokes_on_two_frames_of_one_image_stay_apart():
    ds = state(item(graphic(A, B, group=1), frames=[2]), item(graphic((28, 20), (28, 42), group=1), frames=[3]))
    for one in ds.GraphicAnnotationSequence:
        one.ReferencedImageSequence[0].ReferencedSOPClassUID = ENHANCED
    annotations, _ = read(ds)
    assert [(found.kind, found.frame_number) for found in annotations] == [
        (AnnotationKind.LINE, 2),
        (AnnotationKind.LINE, 3),
    ]


def test_a_reference_of_the_whole_object_is_one_image_or_ambiguous():
    (found,), reasons = read(state(item(graphic(A, B), images=None)))
    assert (found.sop_instance_uid, found.series_instance_uid, reasons) == (
        IMAGE.SOPInstanceUID,
        IMAGE.SeriesInstanceUID,
        [],
    )
    assert read(state(item(graphic(A, B), images=None), images=CT[:2])) == ([], ["several_images"])
    assert read(state(item(graphic(A, B), images=CT[:2]), images=CT[:3])) == ([], ["several_images"])


def test_one_invalid_reference_makes_it_unknown():
    ds = state(item(graphic(A, B), images=[IMAGE, IMAGE]))
    del ds.GraphicAnnotationSequence[0].ReferencedImageSequence[1].ReferencedSOPInstanceUID
    assert read(ds) == ([], ["no_reference"])


# ---- classes -----------------------------------------------------------------------------------------------------------


def of_class(number: int) -> Dataset:
    """A presentation state of class 11.<number>; a blending one keeps its images in Blending Sequence (C.11.14)."""
    ds = state(item(graphic(A, B), images=None))
    ds.SOPClassUID = ds.file_meta.MediaStorageSOPClassUID = f"1.2.840.10008.5.1.4.1.1.11.{number}"
    if number == 4:
        blended = Dataset()
        blended.BlendingPosition, blended.StudyInstanceUID = "UNDERLYING", ds.StudyInstanceUID
        blended.ReferencedSeriesSequence = ds.ReferencedSeriesSequence
        ds.BlendingSequence = DicomSequence([blended])
        del ds.ReferencedSeriesSequence
    return ds


@pytest.mark.parametrize("number", range(1, 6), ids=["grayscale", "colour", "pseudo-colour", "blending", "XA/XRF"])
def test_the_five_softcopy_classes_are_read_alike(number):
    (found,), reasons = read(of_class(number))
    assert (found.points, found.sop_instance_uid, reasons) == ((A, B), IMAGE.SOPInstanceUID, [])
    assert found.series_instance_uid == IMAGE.SeriesInstanceUID


@pytest.mark.parametrize(
    ("number", "reason"),
    [
        (6, "planar_mpr"), (7, "planar_mpr"), (8, "advanced_blending"), (9, "volume_rendering"),
        (10, "volume_rendering"), (11, "volume_rendering"), (12, "variable_modality_lut"),
    ],
)  # fmt: skip
def test_the_other_classes_are_refused_by_name(number, reason):
    assert read(of_class(number)) == ([], [f"{reason}_presentation_state"])


def test_a_state_that_highdicom_writes_in_another_class():
    from highdicom import pr

    layer = pr.GraphicLayer("MEASUREMENTS", order=1)
    written = pr.GraphicAnnotation(
        referenced_images=[IMAGE],
        graphic_layer=layer,
        graphic_objects=[pr.GraphicObject("POLYLINE", np.array([A, B]), units="PIXEL")],
    )
    ds = pr.PseudoColorSoftcopyPresentationState(
        referenced_images=[IMAGE], series_instance_uid="1.2.3", series_number=9, sop_instance_uid="1.2.3.4",
        instance_number=1, manufacturer="Acme", manufacturer_model_name="View", software_versions="1",
        device_serial_number="1", content_label="X", graphic_annotations=[written], graphic_layers=[layer],
        palette_color_lut_transformation=_palette(),
    )  # fmt: skip
    (found,), _ = read_annotations(stored(ds))
    assert found.points == (A, B)


def _palette():
    from highdicom import PaletteColorLUT, PaletteColorLUTTransformation

    luts = [PaletteColorLUT(0, np.zeros(256, np.uint16), color=color) for color in ("red", "green", "blue")]
    return PaletteColorLUTTransformation(*luts)


# ---- the same thing saved twice ----------------------------------------------------------------------------------------


def made(
    kind: AnnotationKind, points, *, minutes: int = 0, source: str = "GSPS", frame: int | None = None, name: str = ""
) -> Annotation:
    uid = f"1.2.{minutes}"
    return Annotation(
        f"{uid}/{name or minutes}", kind, tuple(points), "1.2.3", "1.2", "1", Source(uid, "1.1", "line", source),
        frame_number=frame, drawn_at=CREATED + timedelta(minutes=minutes),
    )  # fmt: skip


RING = ((1.0, 1.0), (9.0, 2.0), (8.0, 9.0), (3.0, 7.0))
AXES = (A, B, (30.0, 20.0), (30.0, 40.0))
SAME = {
    "line, other end first": (AnnotationKind.LINE, (A, B), (B, A)),
    "pair, ends of one axis swapped": (AnnotationKind.BIDIMENSIONAL, AXES, (A, B, AXES[3], AXES[2])),
    "ellipse": (AnnotationKind.ELLIPSE, AXES, (B, A, AXES[3], AXES[2])),
    "pair, of two equal axes the other first": (AnnotationKind.BIDIMENSIONAL, AXES, AXES[2:] + AXES[:2]),
    "box, another corner first": (AnnotationKind.BOX, RING, RING[2:] + RING[:2]),
    "outline, the other way round": (AnnotationKind.OUTLINE, RING, RING[1::-1] + RING[:1:-1]),
    "pointer": (AnnotationKind.POINTER, (A,), (A,)),
    "arrow": (AnnotationKind.ARROW, (A, B), (A, B)),
}


@pytest.mark.parametrize(("kind", "old", "new"), SAME.values(), ids=SAME.keys())
@settings(max_examples=30, deadline=None)
@given(noise=st.floats(-0.04, 0.04), shift=st.floats(-5, 5))
def test_the_newest_of_one_thing_is_kept_in_whatever_object_it_stands(kind, old, new, noise, shift):
    first = made(kind, [(x + shift, y + shift) for x, y in old])
    second = made(kind, [(x + shift + noise, y + shift - noise) for x, y in new], minutes=5, source="SR")
    kept, skips = deduplicate([second, first])
    assert kept == [second]
    assert [(skip.reason, skip.item) for skip in skips] == [("superseded", first.annotation_id)]
    assert deduplicate([first, second])[0] == [second]


def test_another_direction_place_kind_or_frame_is_another_thing():
    arrow = made(AnnotationKind.ARROW, (A, B))
    others = [
        made(AnnotationKind.ARROW, (B, A), minutes=1),
        made(AnnotationKind.LINE, (A, B), minutes=2),
        made(AnnotationKind.ARROW, (A, (50.3, 30.0)), minutes=3),
        made(AnnotationKind.ARROW, (A, B), minutes=4, frame=2),
        replace(made(AnnotationKind.ARROW, (A, B), minutes=5), sop_instance_uid="1.2.4"),
    ]
    assert deduplicate([arrow, *others]) == ([arrow, *others], [])


def test_several_states_of_one_study_saved_again_and_again():
    states = [
        gsps(
            [on(CT[1], line(A, B)), on(CT[2], line(A, (20 + i, 40)))],
            created=CREATED + timedelta(minutes=i),
            number=i + 1,
        )
        for i in range(3)
    ]
    read_all = [found for ds in states for found in read_annotations(ds)[0]]
    kept, skips = deduplicate(read_all)
    assert [found.points for found in kept] == [(A, (20, 40)), (A, (21, 40)), (A, B), (A, (22, 40))]
    assert [skip.reason for skip in skips] == ["superseded", "superseded"]


def test_it_is_said_from_where_the_same_thing_is_kept():
    def detail(*annotations):
        return [skip.detail.rpartition(" from ")[2] for skip in deduplicate(annotations)[1]]

    first, later = made(AnnotationKind.LINE, (A, B)), made(AnnotationKind.LINE, (A, B), minutes=5)
    assert detail(first, later) == ["a newer object"]
    assert detail(first, made(AnnotationKind.LINE, (A, B), name="again")) == ["another item of this object"]
    assert detail(first, replace(later, drawn_at=first.drawn_at)) == ["another object of the same time"]


def test_many_annotations_are_deduplicated():
    annotations = [made(AnnotationKind.LINE, ((x, 0.0), (x, 9.0)), name=f"{x}") for x in range(10_000)]
    kept, skips = deduplicate([*annotations, *annotations[:10]])
    assert (len(kept), len(skips)) == (10_000, 10)


# ---- into the patient --------------------------------------------------------------------------------------------------


def test_lesions_of_every_kind_can_be_read_and_linked(tmp_path):
    square = ((40, 40), (50, 40), (50, 50), (40, 50), (40, 40))
    ring = [(20 + 6 * np.cos(t), 45 + 5 * np.sin(t)) for t in np.linspace(0, 2 * np.pi, 12)]
    ring[-1] = ring[0]
    ds = state(
        item(graphic((10, 12), (22, 12), (16, 8), (16, 16), kind="ELLIPSE")),
        item(graphic(*square)),
        item(graphic(*ring)),
        item(graphic((50, 10), kind="POINT")),
    )
    write(CT, tmp_path / "ct")
    write([ds], tmp_path / "pr")
    index = index_export(tmp_path)
    (patient,) = index.patient_keys()
    lesions, skips, *_ = read_lesions(patient, index, pixel_origin={"acme": "corner"})
    assert skips == []
    assert sorted(lesion.annotations[0].annotation.kind for lesion in lesions) == [
        "BOX",
        "ELLIPSE",
        "OUTLINE",
        "POINTER",
    ]
    links = link([], lesions, LinkConfig())
    assert {answer.lesion_id for answer in links} == {lesion.lesion_id for lesion in lesions}
    shifted, *_ = read_lesions(patient, index, pixel_origin={"acme": "center"})
    moved = [new.centre_lps_mm[0] - old.centre_lps_mm[0] for old, new in zip(lesions, shifted, strict=True)]
    np.testing.assert_allclose(moved, 0.4, atol=1e-6)
    index.close()


# ---- what would take for ever ------------------------------------------------------------------------------------------


def test_more_graphics_than_anybody_draws():
    many = state(item(*[graphic(A, B) for _ in range(2001)]), item(graphic((1, 1), (9, 9))))
    annotations, (skip,) = read_annotations(many)
    assert (annotations, skip.reason, skip.failure) == ([], "too_many_graphics", True)


def test_more_strokes_on_one_image_than_anybody_draws():
    star = [graphic((30, 30), (30 + 25 * np.cos(t), 30 + 25 * np.sin(t))) for t in range(70)]
    assert read(state(item(*star), item(graphic((1, 1), (9, 9)))))[1] == ["many_strokes"]


def test_more_points_than_anybody_draws():
    ring = [(300 + 250 * np.cos(t), 300 + 250 * np.sin(t)) for t in np.linspace(0, 2 * np.pi, 60_000)]
    undeclared = graphic(*ring[::2])
    del undeclared.NumberOfGraphicPoints
    annotations, skips = read_annotations(state(item(graphic(*ring), undeclared, graphic(A, B))))
    assert [found.points for found in annotations] == [(A, B)]
    assert [skip.reason for skip in skips] == ["many_points", "many_points"]
    outlines = [item(graphic(*ring[::20], ring[0])) for _ in range(20)]  # 3,001 points each
    annotations, skips = read_annotations(state(*outlines))
    assert (len(annotations), {skip.reason for skip in skips}) == (16, {"many_points"})


def test_a_file_of_a_hundred_thousand_graphics_is_not_parsed(tmp_path):
    one = stored(state(item(graphic(A, B))))
    stream = io.BytesIO()
    one.save_as(stream)
    content = stream.getvalue()
    graphic_item = struct.pack("<HHI", 0xFFFE, 0xE000, 0)
    path = tmp_path / "bomb"
    path.write_bytes(content + struct.pack("<HH2sHI", 0x0070, 0x0232, b"SQ", 0, 8 * 100_000) + graphic_item * 100_000)
    annotations, (skip,) = read_annotations(path)
    assert (annotations, skip.reason, skip.failure) == ([], "too_large", True)


def test_a_file_that_is_too_long_or_inflates_is_not_parsed(tmp_path):
    long = tmp_path / "long"
    with long.open("wb") as stream:
        stream.write(b"\0" * 128 + b"DICM")
        stream.truncate(1 << 34)
    assert [skip.reason for skip in read_annotations(long)[1]] == ["too_large"]
    ds = state(item(graphic(A, B)))
    ds.file_meta.TransferSyntaxUID = "1.2.840.10008.1.2.1.99"
    (path,) = write([ds], tmp_path / "deflated")
    assert [found.points for found in read_annotations(path)[0]] == [(A, B)]
    content = path.read_bytes()
    start = 144 + int.from_bytes(content[140:144], "little")
    inflated = zlib.decompressobj(-15).decompress(content[start:])
    padding = struct.pack("<HH2sHI", 0x7FE1, 0x0010, b"OB", 0, 1 << 26) + b"\0" * (1 << 26)
    packer = zlib.compressobj(9, zlib.DEFLATED, -15)
    path.write_bytes(content[:start] + packer.compress(inflated + padding) + packer.flush())
    assert [skip.reason for skip in read_annotations(path)[1]] == ["too_large"]


def test_a_sequence_nested_without_end_costs_that_file(tmp_path):
    stream = io.BytesIO()
    stored(state(item(graphic(A, B)))).save_as(stream)
    nested = struct.pack("<HH2sHIHHI", 0x0070, 0x0232, b"SQ", 0, 0xFFFFFFFF, 0xFFFE, 0xE000, 0xFFFFFFFF) * 20_000
    path = tmp_path / "deep"
    path.write_bytes(stream.getvalue() + nested)
    annotations, (skip,) = read_annotations(path)
    assert (annotations, skip.reason, skip.failure) == ([], "unreadable_dicom", True)
