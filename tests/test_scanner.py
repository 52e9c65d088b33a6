"""The header scanner: on every file, whole or damaged, what it gives is what pydicom gives, or it gives nothing."""

from __future__ import annotations

import importlib.util
import io
import random
from functools import cache
from pathlib import Path

import pydicom
import pytest
from dicom import Patient, StudyInfo, ct_series, gsps, line, localizer, on
from hypothesis import example, given, settings
from hypothesis import strategies as st
from pydicom.uid import ImplicitVRLittleEndian, JPEGLSLossless, RLELossless

from cohort_builder.pacs import headers, scanner
from cohort_builder.pacs.headers import CT, Header, HeaderError, read_header_from

WHERE = Path("where")


def packaged_files():
    """Every test file that comes with pydicom and highdicom."""
    roots = [Path(importlib.util.find_spec(name).origin).parent for name in ("pydicom", "highdicom")]
    return sorted(path for root in roots for path in root.rglob("*") if path.is_file() and path.suffix in {".dcm", ""})


def scanned(content: bytes, *, fresh: bool = True) -> Header | None:
    """What the scanner gives, with nothing learned from other files."""
    if fresh:
        scanner._memory.__dict__.clear()
    stream = io.BytesIO(content)
    return scanner.scan(headers._reader(stream), len(content), WHERE)


def parsed(content: bytes) -> Header | HeaderError | None:
    """What pydicom gives."""
    try:
        return headers._parse(io.BytesIO(content), WHERE, len(content))
    except HeaderError as error:
        return error


def agree(content: bytes) -> bool:
    """Whether the scanner reads it; fails if pydicom reads something else."""
    for fresh in (True, False):
        found = scanned(content, fresh=fresh)
        if found is not None:
            assert found == parsed(content)
    return found is not None


def test_it_agrees_with_pydicom_on_every_packaged_file():
    files = packaged_files()
    read = [path.name for path in files if agree(path.read_bytes())]
    assert len(files) > 150
    # The rest: no preamble, no study, cut off, deflated, big endian, code extensions, reports.
    assert len(read) >= 85
    assert {"CT_small.dcm", "MR_small_implicit.dcm", "chrH1.dcm", "chrRuss.dcm", "JPEG2000.dcm"} & set(read)


@pytest.mark.parametrize("name", ["reportsi.dcm", "image_dfl.dcm", "ExplVR_BigEnd.dcm", "chrH32.dcm"])
def test_what_is_rare_is_handed_to_pydicom(name):
    (path,) = {path.name: path for path in packaged_files() if path.name == name}.values()
    assert scanned(path.read_bytes()) is None


def test_a_file_that_is_cut_off_is_never_good():
    content = whole_files()[0]
    for end in range(0, len(content), 7):
        assert scanned(content[:end]) is None


@cache
def whole_files() -> tuple[bytes, ...]:
    """Files that the scanner reads: our own of one series first, then the small ones of pydicom and highdicom."""
    ours = ct_series(4, shape=(4, 4))
    for number, ds in enumerate(ours):
        item, inner = pydicom.Dataset(), pydicom.Dataset()
        inner.CodeValue, inner.OperatorsName = "X", f"Inner^Ida{number}"
        item.RequestingPhysician, item.AccessionNumber, item.ProcedureCodeSequence = "Prax^Paula", "INNER7", [inner]
        item.is_undefined_length_sequence_item = bool(number % 2)
        ds.RequestAttributesSequence = [item, pydicom.Dataset()]
        ds["RequestAttributesSequence"].is_undefined_length = bool(number % 2)
        ds.private_block(0x0029, "OURS", create=True).add_new(1, "LO", f"private {number}")
        ds.SoftwareVersions, ds.KVP, ds.XRayTubeCurrent = ["A 1", "B"], 120, 200 + number % 3
    found = [written(ds) for ds in (*ours, localizer())]
    found += [written(ds, implicit=True) for ds in ours[:3]]
    ours[0].compress(RLELossless, generate_instance_uid=False)
    found.append(written(ours[0]))
    small = (path.read_bytes() for path in packaged_files() if path.stat().st_size < 1 << 16)
    return (*found, *(content for content in small if scanned(content) is not None))


def written(ds: pydicom.Dataset, *, implicit: bool = False) -> bytes:
    stream = io.BytesIO()
    if implicit:
        ds.file_meta.TransferSyntaxUID = ImplicitVRLittleEndian
        pydicom.dcmwrite(stream, ds, implicit_vr=True, little_endian=True, enforce_file_format=True)
        ds.file_meta.TransferSyntaxUID = pydicom.uid.ExplicitVRLittleEndian
    else:
        pydicom.dcmwrite(stream, ds, enforce_file_format=True)
    return stream.getvalue()


VALUES = st.one_of(
    st.binary(min_size=1, max_size=4),
    st.sampled_from([b"\0\0", b"\xff\xff\xff\xff", b"\xfe\xff\x00\xe0", b"\xfe\xff\x0d\xe0", b"\xfe\xff\xdd\xe0", b"SQ", b"UN",
                     b"PN", b"OB\0\0", b"\x1b$B", b"\\", b" ", b"\0", b"1e9", b"-", b"^", b"=", b"\xc3\xa4", b"ISO_IR 192"]),
)  # fmt: skip
EDITS = st.lists(st.tuples(st.floats(0, 1), st.sampled_from(["put", "insert", "drop", "add"]), VALUES), max_size=5)


def mutated(content: bytes, edits: list[tuple[float, str, bytes]], keep: float) -> bytes:
    """Bytes put over others, inserted, dropped, or counted up by one, as a wrong length is; then cut off."""
    changed = bytearray(content)
    for where, how, value in edits:
        at = 132 + int(where * max(len(changed) - 133, 0))
        if how == "put":
            changed[at : at + len(value)] = value
        elif how == "insert":
            changed[at:at] = value
        elif how == "drop":
            del changed[at : at + len(value)]
        elif at < len(changed):
            changed[at] = (changed[at] + 1) % 256
    return bytes(changed[: round(keep * len(changed))])


@settings(max_examples=400, deadline=None)
@given(which=st.integers(0, 200), edits=EDITS, keep=st.one_of(st.just(1.0), st.floats(0, 1)))
@example(which=0, edits=[], keep=1.0)
def test_damaged_it_agrees_or_hands_on(which, edits, keep):
    files = whole_files()
    agree(mutated(files[which % len(files)], edits, keep))


@settings(max_examples=400, deadline=None)
@given(implicit=st.booleans(), edits=EDITS, keep=st.one_of(st.just(1.0), st.floats(0.5, 1)))
def test_damaged_among_its_series_it_agrees_or_hands_on(implicit, edits, keep):
    """With a layout learned from the other images of the series."""
    first, second, third, *_ = whole_files()[5:8] if implicit else whole_files()[:3]
    scanner._memory.__dict__.clear()
    for content in (first, second):
        assert scanned(content, fresh=False) == parsed(content)
    assert scanner._memory.layout is not None
    damaged = mutated(third, edits, keep)
    found = scanned(damaged, fresh=False)
    if found is not None:
        assert found == parsed(damaged)
    assert scanned(third, fresh=False) == parsed(third)


def test_cut_off_or_emptied_among_its_series_it_is_never_good():
    first, second, third, *_ = whole_files()
    for content in (first, second):
        scanned(content, fresh=content is first)
    for end in range(132, len(third)):
        assert scanned(third[:end], fresh=False) is None
    at = third.index(b"\x08\x00\x18\x00UI")
    assert scanned(third[: at + 6] + b"\0\0" + third[at + 8 + third[at + 6] :], fresh=False) is None
    assert scanned(third, fresh=False) == parsed(third)


def test_files_in_any_order_give_what_each_gives_alone():
    files = [content for content in whole_files() for _ in range(3)]
    random.Random(0).shuffle(files)
    alone = [scanned(content) for content in files]
    scanner._memory.__dict__.clear()
    assert [scanned(content, fresh=False) for content in files] == alone


@pytest.mark.slow
def test_thousands_of_mutations_agree_or_are_handed_on():
    """Each whole file with 60 random mutations."""
    rng, read, files = random.Random(1), 0, whole_files()
    for content in files:
        for _ in range(60):
            edits = [
                (rng.random() ** 2, rng.choice(["put", "insert", "drop", "add"]), rng.randbytes(rng.randint(1, 4)))
                for _ in range(rng.randint(1, 3))
            ]
            read += agree(mutated(content, edits, rng.choice([1.0, 1.0, rng.random()])))
    assert read > 10 * len(files)


def test_a_header_longer_than_the_first_read():
    (ds,) = ct_series(1, shape=(4, 4))
    ds.private_block(0x0029, "OURS", create=True).add_new(1, "OB", bytes(100_000))
    content = written(ds)
    found = scanned(content)
    assert found is not None
    assert found == parsed(content)
    assert content[found.instance.pixel_offset :] == ds.PixelData


@pytest.mark.parametrize("syntax", [None, RLELossless, JPEGLSLossless])
def test_the_pixels_lie_where_it_says(syntax):
    (ds,) = ct_series(1)
    if syntax is not None:
        ds.compress(syntax, generate_instance_uid=False)
    content = written(ds)
    for header in (scanned(content), parsed(content)):
        image = header.instance
        assert content[image.pixel_offset : image.pixel_offset + image.pixel_length] == ds.PixelData
        assert (image.bits_allocated, image.bits_stored, image.pixel_representation) == (16, 16, 0)
        assert (image.samples_per_pixel, image.photometric_interpretation) == (1, "MONOCHROME2")


def test_names_are_found_at_any_depth():
    header = scanned(whole_files()[0])
    assert {"Erika Muster", "Paula Prax", "Ida0 Inner", "INNER7"} <= set(header.study.identifiers)


@pytest.mark.parametrize(
    ("charset", "name"),
    [("ISO_IR 192", "Müller^Ärna=穆勒^阿"), ("ISO_IR 100", "Müller^Ärna"), ("ISO_IR 144", "Люк^Иван")],
)
def test_names_are_decoded(charset, name):
    (ds,) = ct_series(1, study=StudyInfo(Patient(name="X")))
    ds.SpecificCharacterSet, ds.PatientName = charset, name
    found = scanned(written(ds))
    family, given_name = name.split("=")[0].split("^")
    assert {family, given_name, f"{given_name} {family}"} <= set(found.study.identifiers)


def test_states_are_pydicoms():
    (ct,) = ct_series(1)
    assert scanned(written(gsps([on(ct, line((1, 1), (5, 5)))]))) is None


def test_a_bomb_of_nested_sequences_is_handed_on():
    (ds,) = ct_series(1, shape=(4, 4))
    item = pydicom.Dataset()
    for _ in range(40):
        outer = pydicom.Dataset()
        outer.RequestAttributesSequence = [item]
        item = outer
    ds.RequestAttributesSequence = [item]
    content = written(ds)
    assert scanned(content) is None
    assert isinstance(parsed(content), Header)


def test_a_long_run_of_blanks_in_a_number_takes_no_time():
    (ds,) = ct_series(1, shape=(4, 4))
    content = written(ds).replace(b"DS", b"DS", 1)
    at = content.index(b"\x20\x00\x32\x00DS")
    long = content[: at + 6] + (65534).to_bytes(2, "little") + b" " * 65533 + b"x" + content[at + 8 + content[at + 6] :]
    assert scanned(long) is None


def test_a_stream_is_read_as_a_file_is(tmp_path):
    content = whole_files()[0]
    path = tmp_path / "ct"
    path.write_bytes(content)
    assert read_header_from(io.BytesIO(content), path) == headers.read_header(path)
    assert headers.read_header(path).kind == CT
