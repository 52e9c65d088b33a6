"""Pixels of CT images: every transfer syntax that CT comes in, read from wherever the bytes lie, equal to pydicom's."""

from __future__ import annotations

import base64
import shutil
import subprocess
import sys
import zipfile
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path

import numpy as np
import pydicom
import pytest
from dicom import ct_series, set_pixels, uid, write
from hypothesis import given, settings
from hypothesis import strategies as st
from peak import in_a_process_of_its_own
from pydicom.dataset import Dataset
from pydicom.encaps import encapsulate
from pydicom.uid import (
    HTJ2K,
    JPEG2000,
    UID,
    DeflatedExplicitVRLittleEndian,
    ExplicitVRBigEndian,
    ExplicitVRLittleEndian,
    HTJ2KLossless,
    HTJ2KLosslessRPCL,
    ImplicitVRLittleEndian,
    JPEG2000Lossless,
    JPEGExtended12Bit,
    JPEGLossless,
    JPEGLosslessSV1,
    JPEGLSLossless,
    JPEGLSNearLossless,
    RLELossless,
)

from cohort_builder import index_export
from cohort_builder.ct import frames, helpers
from cohort_builder.ct.pixels import installed_decoders, read_hounsfield, read_slices
from cohort_builder.ct.series import load_stack, load_volume, split_series
from cohort_builder.pacs.headers import Instance, read_header
from segmentation.types import GeometryError

# A 24 x 32 image, encoded without and with loss by OpenJPH: nothing that reads DICOM here writes HTJ2K.
_HTJ2K = r"""
|4;u>04YEK0000W0000O00000000000000W0000O0000000000009pH0sl|{2mk^A000XAQUDA90ssL31q1{@0smY86Cj9?kdTm&kdTm&kdTmwh=~7W0
2crOPjF>!N>E53R%LP^FfKASE;BCwkN^q*00002zW@RMlfVEb0rCY0bO68r62JfwzyK2fiU9|700;qxbO6u%0*7<}zyK8x00i&=1mI9_awGs^lmOC7^8
$f%0J<`p0Kzl?zyKDU00C>j02a6b&Wpp6;X~ATNk{b)?g#)<w*VCII}nV(nb|6Mz(k73iTn+-7{J+=05~{0Qaaed%$Tl1*h4b7%Lx03Fe8@$zyKF@003
S500DM@{~wZLIaFw{Bx1D<3X@QG&Ifp*Wz{4V1qpzCetD`AC=Wgk63ovs&6aoaKpM{o5QPwc3b+v=z5u~%f&-I}dRv_qb>M+ZC>0oc@{KNYUl4>50muL
|R=`XEm|+&6JrK8#t_c?+{)QTG>suNF0SK{-2-pKq0SO*zw8Mo$i?D(qJ2;`iVj!}a8m3Wb0#O195ELf(#I{(_FoMLV8aWfN;aIVZ4A^5(0l)w+tKa|^
wLkzbME`&P0|J3pfB=$C{Qn080;~YOdc^{*w6frp00B-&`VU|Y_<F?xt+WatfDKsrDu7o42q1s}0tf^ok^sJX#R4s@fPf8H`6_@{0tg_0fPjF2Kp+tKK
tLk-Du7o42q1s}0tf^Gf&UK(1XuxIl9K;_0|ElHUZD*T;H$4TVC5@7Qt|@@!VCpS0ii)s00F7M2oYe4GlC8jU@Ajg=L#StAO?g05ek(mRIR!KEo5|cA+
wdio7l=RTdqK+6@xdi6&XCnrK?s3Z(=JMJjN9+WU8g5(P%UpjYdmCD{_R)Q^0_h5@~UT7Fz!F*!TeGnTQ2E;t(GFh(LQRq667Np34D$p$dAGpmQujnev
DUWf%ar+XB1ZrR%P{?#ixRb#>RSc4b#xcinYYcInb}mtDKM>#n-`^w{~JhssbNl%xVOf(K<N0s0_IN>B@zBJz+4Wgvie(gOe4
"""
_HTJ2K_LOSSY = r"""
|4;u>04YEK0000W0000O00000000000000W0000O0000000000009pH0sl|{2mk^A001QaQUDA90ssL31q1{@0RLP7BO-@%hed})hZlcbe_Ve(cdB=)c
fw#bU^QTPSQ=OwXTSes02crOPjF>!N>E53R%LP^FfKASE;BCwkN^q*00001SO5Y4lfVE>Q~d;obO68rO8@~Z00f}w00(pc`T)mt0NDVCbO68rmH-5>04
D4GFjD}M0S9ydp6LK0GyuQ>RR9Hi02QF2Md3h8`J`fZ00HWtO)$scuK<UiAo+IySVoy1tW5j@KIEWQ0Kf&I02fC97NC<AV379U3Ktql>^hcM+W-&+rdn
g5Vu5E&A`mbDA_l{d2j~DI{#<oopg^ozizB4(01Ie|K{LQJ^nemqo_3aGxBM*30Kf~UfERZF7f#59fjBrMH5VowR8hCE`ItMc>SHWkc2y6kf9Xk`sZ%Q
xmrqhz0S5#YK1=a1#Ahiq1OU+36b%6YWWi+s3LGqD0`T^(6F31g?(43n1G@;}%-%r;O5CIu?&d6bvj`pmCD?~0?2WP?K^3m8#rI>?0Y_wy%SzIT*&u$T
w2;5DFG`tmciI8}*#
"""


def textured(n: int = 2, shape: tuple[int, int] = (40, 48)) -> np.ndarray:
    """HU that fit into 12 bits with an intercept of -1024, with a gradient and noise."""
    y, x = np.mgrid[: shape[0], : shape[1]]
    return (np.random.default_rng(n).integers(-60, 60, (n, *shape)) + 20 * x - 15 * y).astype(float)


def htj2k_pixels() -> np.ndarray:
    """What is in ``_HTJ2K``."""
    y, x = np.mgrid[:24, :32]
    return (1024 + (x * 37 + y * 91) % 1400 + (x - 12) ** 2).astype(np.uint16)


def one_fragment(text: str) -> bytes:
    return encapsulate([base64.b85decode("".join(text.split()))])


def native(ds: Dataset, path: Path, syntax: UID) -> None:
    ds.file_meta.TransferSyntaxUID = syntax
    if not syntax.is_little_endian:
        ds.PixelData = np.frombuffer(ds.PixelData, dtype="<u2").byteswap().tobytes()
    pydicom.dcmwrite(
        path, ds, implicit_vr=syntax.is_implicit_VR, little_endian=syntax.is_little_endian, enforce_file_format=True
    )


def by_pydicom(ds: Dataset, path: Path, syntax: UID) -> None:
    options = {"jls_error": 2} if syntax == JPEGLSNearLossless else {}
    options |= {"j2k_cr": [4]} if syntax == JPEG2000 else {}
    ds.compress(syntax, generate_instance_uid=False, **options)
    ds.save_as(path)


def by_dcmtk(option: str) -> Callable[[Dataset, Path, UID], None]:
    def encode(ds: Dataset, path: Path, syntax: UID) -> None:
        if shutil.which("dcmcjpeg") is None:
            pytest.skip("DCMTK's dcmcjpeg, which encodes JPEG, is not installed")
        ds.save_as(path.with_suffix(".native"), enforce_file_format=True)
        command = ["dcmcjpeg", option, "+un", path.with_suffix(".native"), path]
        subprocess.run(command, check=True, capture_output=True)
        path.with_suffix(".native").unlink()
        assert pydicom.dcmread(path).file_meta.TransferSyntaxUID == syntax

    return encode


def by_openjph(text: str) -> Callable[[Dataset, Path, UID], None]:
    def encode(ds: Dataset, path: Path, syntax: UID) -> None:
        set_pixels(ds, htj2k_pixels())
        ds.file_meta.TransferSyntaxUID = syntax
        ds.PixelData = one_fragment(text)
        ds["PixelData"].is_undefined_length = True
        ds.save_as(path)

    return encode


SYNTAXES: dict[str, tuple[UID, Callable[[Dataset, Path, UID], None]]] = {
    "implicit little endian": (ImplicitVRLittleEndian, native),
    "explicit little endian": (ExplicitVRLittleEndian, native),
    "explicit big endian": (ExplicitVRBigEndian, native),
    "deflated": (DeflatedExplicitVRLittleEndian, native),
    "RLE": (RLELossless, by_pydicom),
    "JPEG lossless .57": (JPEGLossless, by_dcmtk("+el")),
    "JPEG lossless .70": (JPEGLosslessSV1, by_dcmtk("+e1")),
    "JPEG-LS .80": (JPEGLSLossless, by_pydicom),
    "JPEG-LS near lossless .81": (JPEGLSNearLossless, by_pydicom),
    "JPEG 2000 .90": (JPEG2000Lossless, by_pydicom),
    "JPEG 2000 lossy .91": (JPEG2000, by_pydicom),
    "HTJ2K .201": (HTJ2KLossless, by_openjph(_HTJ2K)),
    "HTJ2K RPCL .202": (HTJ2KLosslessRPCL, by_openjph(_HTJ2K)),
    "HTJ2K .203": (HTJ2K, by_openjph(_HTJ2K)),
    "HTJ2K lossy .203": (HTJ2K, by_openjph(_HTJ2K_LOSSY)),
}
LOSSY = {JPEGLSNearLossless, JPEG2000, HTJ2K}


def files(folder: Path, name: str, **options) -> list[Path]:
    syntax, encode = SYNTAXES[name]
    made = []
    for i, ds in enumerate(ct_series(2, voxels=textured(), shape=(40, 48), **options)):
        made.append(folder / f"IM{i}")
        encode(ds, made[-1], syntax)
    return made


def expected(path: Path) -> np.ndarray:
    """HU by pydicom."""
    ds = pydicom.dcmread(path)
    return np.maximum(ds.pixel_array.astype(np.int64) * int(ds.RescaleSlope) + int(ds.RescaleIntercept), -1024)


def image(path: Path) -> Instance:
    return read_header(path).instance


@pytest.mark.parametrize(
    ("name", "stored"),
    [(name, {}) for name in SYNTAXES]
    + [
        (name, stored)
        for name in SYNTAXES
        if not name.startswith("HTJ2K")  # encoded once, unsigned, of 16 bits
        for stored in ({"bits_stored": 12}, {"signed": True, "intercept": 0.0})
    ],
    ids=str,
)
def test_every_transfer_syntax_equals_pydicom(tmp_path, name, stored):
    paths = files(tmp_path, name, **stored)
    volume = load_volume(paths)
    for i, sop in enumerate(volume.sop_instance_uids):
        (path,) = (p for p in paths if pydicom.dcmread(p).SOPInstanceUID == sop)
        np.testing.assert_array_equal(volume.voxels[i], expected(path))
        if SYNTAXES[name][0] not in LOSSY and "HTJ2K" not in name:
            np.testing.assert_array_equal(volume.voxels[i], textured()[i])
    (stack,), _ = split_series(image(path) for path in paths)
    assert ("lossy_compression" in stack.flags) == (SYNTAXES[name][0] in LOSSY)


def test_lossless_htj2k_holds_what_was_encoded(tmp_path):
    paths = files(tmp_path, "HTJ2K .201")
    np.testing.assert_array_equal(load_volume(paths).voxels[0], htj2k_pixels().astype(int) - 1024)


@pytest.mark.parametrize("signed", [False, True])
def test_extended_jpeg_of_12_bits_equals_dcmtk(tmp_path, signed):
    """Pydicom's own plug-ins do not decode it, but for the one under the GPL."""
    encode = by_dcmtk("+ee")
    datasets = ct_series(
        2, voxels=textured(), shape=(40, 48), bits_stored=12, signed=signed, intercept=0.0 if signed else -1024.0
    )
    for i, ds in enumerate(datasets):
        encode(ds, tmp_path / f"IM{i}", JPEGExtended12Bit)
    paths = sorted(tmp_path.iterdir())
    (stack,), _ = split_series(image(path) for path in paths)
    assert "lossy_compression" in stack.flags
    volume = load_stack(stack)
    for i, instance in enumerate(stack.instances):
        subprocess.run(["dcmdjpeg", instance.path, tmp_path / "raw"], check=True, capture_output=True)
        np.testing.assert_array_equal(volume.voxels[i], expected(tmp_path / "raw"))


def test_a_decoder_under_the_gpl_is_never_used():
    """Pylibjpeg gives JPEG and JPEG-LS to pylibjpeg-libjpeg, where that is installed."""
    by_pylibjpeg = {syntax for syntax, names in installed_decoders().items() if "pylibjpeg" in names}
    assert by_pylibjpeg == {RLELossless, JPEG2000Lossless, JPEG2000, HTJ2KLossless, HTJ2KLosslessRPCL, HTJ2K}


# ---- decoders in processes of their own ----------------------------------------------------------------------------------


@pytest.fixture
def by_helpers(monkeypatch):
    """Any series is worth two helpers."""
    monkeypatch.setattr(helpers, "_WORTH_BYTES", 0)
    monkeypatch.setattr(helpers, "_CHUNK", 3)
    monkeypatch.setattr(helpers.os, "sched_getaffinity", lambda _: {0, 1}, raising=False)
    yield
    helpers.close()


@pytest.mark.usefixtures("by_helpers")
def test_helpers_read_what_is_read_here(tmp_path):
    truth = textured(20)
    datasets = ct_series(20, voxels=truth, shape=(40, 48), bits_stored=12)
    for ds in datasets:
        ds.compress(JPEGLSLossless, generate_instance_uid=False)
    paths = write(datasets, tmp_path)
    np.testing.assert_array_equal(load_volume(paths).voxels, truth)
    first = [helper._process.pid for helper in helpers._helpers]
    assert len(first) == 2
    np.testing.assert_array_equal(load_volume(paths).voxels, truth)
    assert [helper._process.pid for helper in helpers._helpers] == first  # they wait for the next series

    (stack,), _ = split_series(image(path) for path in paths)
    path = stack.instances[11].path
    content = path.read_bytes()
    path.write_bytes(content[: len(content) // 2])
    with pytest.raises(GeometryError, match="cannot be read"):
        load_stack(stack)
    path.write_bytes(content)
    np.testing.assert_array_equal(load_stack(stack).voxels, truth)
    for helper in helpers._helpers:
        helper._process.kill()
    with pytest.raises(GeometryError, match="ended"):
        load_stack(stack)
    np.testing.assert_array_equal(load_stack(stack).voxels, truth)


@pytest.mark.usefixtures("by_helpers")
def test_a_short_or_an_uncompressed_series_needs_no_helper(tmp_path, monkeypatch):
    monkeypatch.setattr(helpers, "_WORTH_BYTES", 64 << 20)
    load_volume(files(tmp_path, "JPEG-LS .80"))
    monkeypatch.setattr(helpers, "_WORTH_BYTES", 0)
    native_files = tmp_path / "native"
    native_files.mkdir()
    load_volume(files(native_files, "explicit little endian"))
    assert helpers._helpers == []


# ---- the bytes: where they lie, and that they are the indexed object's -----------------------------------------------


def test_pixels_are_read_from_folder_and_zip_alike(tmp_path):
    folder = tmp_path / "folder"
    paths = write(ct_series(3, voxels=textured(3), shape=(40, 48), bits_stored=12), folder)
    loaded = []
    for name, how in (("stored", zipfile.ZIP_STORED), ("deflated", zipfile.ZIP_DEFLATED)):
        with zipfile.ZipFile(tmp_path / f"{name}.zip", "w", how) as archive:
            for path in paths:
                archive.write(path, f"a/{path.name}")
    series = pydicom.dcmread(paths[0]).SeriesInstanceUID
    for source in (folder, tmp_path / "stored.zip", tmp_path / "deflated.zip"):
        (stack,), _ = split_series(index_export(source).instances(series))
        loaded.append(load_stack(stack).voxels)
    for voxels in loaded:
        np.testing.assert_array_equal(voxels, textured(3))


def test_the_fast_way_and_the_thorough_one_give_the_same(tmp_path, monkeypatch):
    """The index knows the place of the pixels, or it does not: the header is parsed only in the second case."""
    parsed = []
    thorough = frames.OpenObject._parsed
    monkeypatch.setattr(
        frames.OpenObject, "_parsed", lambda self, instance: parsed.append(instance) or thorough(self, instance)
    )
    for name in ("implicit little endian", "explicit little endian", "RLE", "JPEG-LS .80"):
        folder = tmp_path / name.replace(" ", "_")
        folder.mkdir()
        known = image(files(folder, name)[0])
        assert known.pixel_offset is not None
        found = read_hounsfield(known)
        assert parsed == []
        np.testing.assert_array_equal(read_hounsfield(replace(known, pixel_offset=None)), found)
        assert len(parsed) == 1
        parsed.clear()


@pytest.mark.parametrize("name", ["explicit little endian", "deflated", "RLE"])
def test_another_object_in_the_place_of_the_indexed_one_is_refused(tmp_path, name):
    first, second = files(tmp_path, name)
    known = image(first)
    shutil.copyfile(second, first)
    with pytest.raises(GeometryError, match="index the export again"):
        read_hounsfield(known)


@pytest.mark.parametrize(
    "change",
    [
        {"ImageComments": "a" * 500},
        {"SeriesDescription": "another"},
        {"PixelRepresentation": 1},
        {"BitsStored": 16, "HighBit": 15},
    ],
    ids=lambda change: next(iter(change)),
)
def test_an_object_that_was_written_again_is_read_as_it_now_is(tmp_path, change):
    """The same SOP Instance UID, another layout: what its own header says counts, not the offset of before."""
    path = files(tmp_path, "explicit little endian", bits_stored=12)[0]
    known = image(path)
    ds = pydicom.dcmread(path)
    for keyword, value in change.items():
        setattr(ds, keyword, value)
    ds.save_as(path)
    np.testing.assert_array_equal(read_hounsfield(known), np.maximum(ds.pixel_array.astype(int) - 1024, -1024))


@pytest.mark.parametrize(
    "change",
    [
        {"RescaleIntercept": -500},
        {"RescaleSlope": 2},
        {"ImagePositionPatient": [0, 0, 999]},
        {"PixelSpacing": [0.5, 0.5]},
    ],
    ids=lambda change: next(iter(change)),
)
def test_an_object_with_another_geometry_or_rescale_is_not_the_indexed_one(tmp_path, change):
    """As one that a server replaced under its UID: the index knows no place of its pixels, nor size and time."""
    path = files(tmp_path, "explicit little endian")[0]
    known = replace(image(path), pixel_offset=None, pixel_length=None)
    read_hounsfield(known)
    ds = pydicom.dcmread(path)
    for keyword, value in change.items():
        setattr(ds, keyword, value)
    ds.save_as(path)
    with pytest.raises(GeometryError, match="changed since it was indexed"):
        read_hounsfield(known)


_DONOR: list[tuple[bytes, Instance, np.ndarray]] = []


@settings(max_examples=150, deadline=None)
@given(st.data())
def test_a_damaged_header_gives_the_right_pixels_or_an_error(tmp_path_factory, data):
    """Never pixels that lie elsewhere: one byte before the pixels is changed."""
    path = tmp_path_factory.getbasetemp() / "damaged"
    if not _DONOR:
        (ds,) = ct_series(1, voxels=textured(1), shape=(40, 48))
        ds.save_as(path, enforce_file_format=True)
        _DONOR.append((path.read_bytes(), image(path), textured(1)[0]))
    content, known, truth = _DONOR[0]
    at = data.draw(st.integers(132, known.pixel_offset - 1))
    value = data.draw(st.integers(0, 255))
    path.write_bytes(content[:at] + bytes([value]) + content[at + 1 :])
    try:
        found = read_hounsfield(known)
    except GeometryError:
        return
    if not np.array_equal(found, truth):  # then the header itself says so, in the elements of the pixels
        theirs = pydicom.dcmread(path)
        assert theirs.SOPInstanceUID == known.sop_instance_uid
        np.testing.assert_array_equal(found, np.maximum(theirs.pixel_array.astype(int) - 1024, -1024))


def test_pixels_that_end_early_are_an_error(tmp_path):
    path = files(tmp_path, "explicit little endian")[0]
    known = image(path)
    path.write_bytes(path.read_bytes()[:-100])
    with pytest.raises(GeometryError, match="cannot be read"):
        read_hounsfield(known)


# ---- stored values to Hounsfield units ---------------------------------------------------------------------------------


@settings(max_examples=120, deadline=None)
@given(st.data())
def test_any_layout_and_padding_gives_hounsfield_units_by_arithmetic(tmp_path_factory, data):
    """Against plain integers of any size: Bits Stored, overlays above it, signs, padding, slope and intercept."""
    signed = data.draw(st.booleans(), label="signed")
    bits = data.draw(st.integers(9, 16), label="bits stored")
    below = 1 << bits - 1 if signed else 0
    values = data.draw(
        st.lists(st.integers(-below, (1 << bits) - 1 - below), min_size=12, max_size=12), label="stored values"
    )
    overlay = data.draw(st.integers(0, (1 << 16 - bits) - 1), label="bits above")
    slope = data.draw(st.sampled_from([1.0, 1.0, 2.0, 0.5]), label="slope")
    intercept = data.draw(st.sampled_from([0.0, -1024.0, -8192.0, 12.5]), label="intercept")
    padding = data.draw(st.none() | st.sampled_from(values), label="padding")

    (ds,) = ct_series(1, shape=(3, 4))
    set_pixels(ds, np.zeros((3, 4)), signed=signed, bits_stored=bits)
    words = [(value & (1 << bits) - 1) | overlay << bits for value in values]
    ds.PixelData = np.asarray(words, dtype="<u2").tobytes()
    ds.RescaleSlope, ds.RescaleIntercept = slope, intercept
    if padding is not None:
        ds.add_new(0x00280120, "SS" if signed else "US", padding)
    (path,) = write([ds], tmp_path_factory.getbasetemp() / "values")
    truth = [
        -1024 if value == padding else max(-1024, round(value * slope + intercept))  # both round half to even
        for value in values
    ]
    if max(truth) > 32767:
        with pytest.raises(GeometryError, match="int16"):
            read_hounsfield(image(path))
    else:
        assert read_hounsfield(image(path)).ravel().tolist() == truth


def test_a_slice_of_the_wrong_shape_is_refused(tmp_path):
    known = image(write(ct_series(1), tmp_path)[0])
    with pytest.raises(GeometryError, match="shape"):
        read_slices([known], np.empty((1, 64, 63), dtype=np.int16))


# ---- big series --------------------------------------------------------------------------------------------------------

_LOAD = """
import sys
from pathlib import Path
from cohort_builder.ct.series import load_stack, split_series
from cohort_builder.pacs.headers import read_header
from peak import peak_bytes
(stack,), _ = split_series([read_header(path).instance for path in Path(sys.argv[1]).iterdir()])
before = peak_bytes()
volume = load_stack(stack)
print(volume.voxels.nbytes, peak_bytes() - before, int(volume.voxels[:, 0, 0].astype(int).sum()))
"""


@pytest.mark.slow
@pytest.mark.skipif(sys.platform != "linux", reason="memory is read from /proc")
def test_two_thousand_slices_take_no_second_copy(tmp_path):
    (ds,) = ct_series(1, shape=(512, 512), voxels=np.zeros((1, 512, 512)), bits_stored=12)
    for i in range(2000):
        ds.SOPInstanceUID = ds.file_meta.MediaStorageSOPInstanceUID = uid("big", i)
        ds.InstanceNumber, ds.ImagePositionPatient = i + 1, [0, 0, 0.5 * i]
        ds.PixelData = np.full((512, 512), i, dtype="<u2").tobytes()
        write([ds], tmp_path, prefix=f"{i:04d}_")
    array, grown, total = map(int, in_a_process_of_its_own(_LOAD, tmp_path).split())
    assert array == 2000 * 512 * 512 * 2
    assert total == sum(range(2000)) - 1024 * 2000
    assert array <= grown < array + 64 * 2**20
    shutil.rmtree(tmp_path)
