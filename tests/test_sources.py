"""Where an export may lie, on this machine: folders with odd things in them, zips good and bad, DICOMDIRs."""

from __future__ import annotations

import bz2
import gzip
import lzma
import os
import random
import socket
import struct
import zipfile
import zlib
from dataclasses import replace
from pathlib import Path

import dicom
import numpy as np
import pydicom
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from cohort_builder import build_cohort, index_export, read_annotations
from cohort_builder.ct.pixels import read_hounsfield
from cohort_builder.errors import PacsError
from cohort_builder.pacs.headers import HeaderError
from cohort_builder.pacs.index import Index, Instance, open_index
from cohort_builder.pacs.objects import ChangedError, fetch, open_in_place, open_object
from cohort_builder.pacs.sources import Entry, Passed, is_address, open_source
from segmentation.types import GeometryError

STUDY = dicom.StudyInfo()


def export(folder: Path, *, n: int = 3) -> list[Path]:
    """A CT series and a presentation state on it."""
    series = dicom.ct_series(study=STUDY, n=n)
    state = dicom.gsps([dicom.on(series[1], dicom.line((5.0, 6.0), (20.0, 6.0)))])
    return [*dicom.write(series, folder / "ct"), *dicom.write([state], folder / "pr")]


def zipped(folder: Path, target: Path, method: int = zipfile.ZIP_DEFLATED) -> Path:
    with zipfile.ZipFile(target, "w", method) as archive:
        for path in sorted(folder.rglob("*")):
            archive.write(path, path.relative_to(folder))
    return target


def instances(index: Index) -> list[Instance]:
    return [i for s in index.studies() for uid in index.series_of(s.study_instance_uid) for i in index.instances(uid)]


def content(index: Index) -> list[object]:
    """All that an index says, but where things lie."""
    found: list[object] = list(index.studies())
    for instance in instances(index):
        with open_object(instance) as stream:
            assert str(pydicom.dcmread(stream).SOPInstanceUID) == instance.sop_instance_uid
        found.append(replace(instance, path=Path(), member="", server=""))
    for study in index.studies():
        for drawn in index.annotation_objects(study.study_instance_uid):
            annotations, skips = read_annotations(drawn)
            found.append(([(a.annotation_id, a.kind, a.points) for a in annotations], [s.reason for s in skips]))
    return found


def reasons(index: Index) -> list[str]:
    return sorted(skip.reason for skip in index.skips)


# ---- zips ----------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("method", [zipfile.ZIP_STORED, zipfile.ZIP_DEFLATED])
def test_a_zip_is_its_folder(tmp_path: Path, method: int) -> None:
    export(tmp_path / "export")
    folder = index_export(tmp_path / "export")
    packed = index_export(zipped(tmp_path / "export", tmp_path / "export.zip", method), tmp_path / "index.sqlite")
    assert content(packed) == content(folder)
    assert content(open_index(tmp_path / "index.sqlite")) == content(folder)
    assert {k: n for k, n in packed.counts.items() if k != "files"} == {
        k: n for k, n in folder.counts.items() if k != "files"
    }


def test_pixels_of_a_stored_member_lie_where_they_are_said_to(tmp_path: Path) -> None:
    export(tmp_path / "export")
    plain = instances(index_export(tmp_path / "export"))
    stored = instances(index_export(zipped(tmp_path / "export", tmp_path / "s.zip", zipfile.ZIP_STORED)))
    deflated = instances(index_export(zipped(tmp_path / "export", tmp_path / "d.zip")))
    assert all(open_in_place(instance) is None for instance in deflated)
    for instance in (*plain, *stored):
        raw, offset = open_in_place(instance) or pytest.fail("no place")
        with raw, open_object(instance) as stream:
            expected = stream.read()
            raw.seek(offset)
            assert raw.read(len(expected)) == expected


@pytest.mark.parametrize("method", [zipfile.ZIP_STORED, zipfile.ZIP_DEFLATED])
def test_damaged_pixels_of_a_member_are_never_read(tmp_path: Path, method: int) -> None:
    noise = np.random.default_rng(0).integers(0, 1 << 12, (3, 128, 128))
    dicom.write(dicom.ct_series(3, voxels=noise, shape=(128, 128)), tmp_path / "export")
    path = zipped(tmp_path / "export", tmp_path / "export.zip", method)
    with zipfile.ZipFile(path) as archive:
        damaged = next(info for info in archive.infolist() if not info.is_dir())
    raw = bytearray(path.read_bytes())
    raw[damaged.header_offset + damaged.compress_size - 200] ^= 0xFF
    path.write_bytes(raw)
    index = index_export(path)
    assert index.skips == []
    bad, *good = instances(index)
    with pytest.raises(OSError, match=r"checksum|unpacked"):
        open_object(bad)
    if method == zipfile.ZIP_STORED:
        with pytest.raises(OSError, match="checksum"):
            open_in_place(bad)
    with pytest.raises(GeometryError):
        read_hounsfield(bad)
    assert all(read_hounsfield(one).size for one in good)


def test_a_file_that_changed_after_it_was_indexed_is_not_read(tmp_path: Path) -> None:
    """Its pixels are others now, and the index would give them its own rescale."""
    path, *_ = export(tmp_path / "export")
    before = instances(index_export(tmp_path / "export"))[0]
    assert before.path == path
    ds = pydicom.dcmread(path)
    ds.RescaleIntercept, ds.PixelData = -500, bytes(len(ds.PixelData))
    ds.save_as(path)
    os.utime(path, ns=(1, 1))
    with pytest.raises(GeometryError, match="changed since it was indexed"):
        read_hounsfield(before)
    for read in (open_object, open_in_place):
        with pytest.raises(ChangedError):
            read(before)
    (after,) = (i for i in instances(index_export(tmp_path / "export")) if i.path == path)
    assert (read_hounsfield(after) == -500).all()


def test_an_archive_by_another_name_is_a_skip(tmp_path: Path) -> None:
    export(tmp_path / "export")
    packed = zipped(tmp_path / "export", tmp_path / "all.zip").read_bytes()
    given = {
        "PAT1.bin": (packed, "zip_without_name"),
        "PAT2": (gzip.compress(b"DICM"), "unsupported_archive"),
        "PAT3.gz": (gzip.compress(b"DICM"), "unsupported_archive"),
        "PAT4.bz2": (bz2.compress(b"DICM"), "unsupported_archive"),
        "PAT5": (lzma.compress(b"DICM"), "unsupported_archive"),
        "PAT6": (bytes(257) + b"ustar\0" + bytes(300), "unsupported_archive"),
        "viewer.jar": (packed, None),
        "notes.txt": (b"PK", None),
    }
    for name, (content, _) in given.items():
        (tmp_path / "export" / name).write_bytes(content)
    expected = sorted(reason for _, reason in given.values() if reason)
    for where in (tmp_path / "export", zipped(tmp_path / "export", tmp_path / "again.zip")):
        index = index_export(where)
        assert reasons(index) == expected
        assert index.counts["not_dicom"] == 2
        assert len(instances(index)) == 3


def test_what_is_a_server_is_decided_in_one_way() -> None:
    assert all(
        map(is_address, ("dicomweb+https://host/path", "dimse://AET@host:104", "dimse:/AET@host:104", "ftp://x"))
    )
    assert not any(map(is_address, ("C:/export", "C://export", "export/a://b", "/a://b", Path("dimse://AET@host:104"))))


def test_streams_of_members_read_and_seek_as_files_do(tmp_path: Path) -> None:
    data = np.random.default_rng(0).integers(0, 7, 200_000, dtype=np.uint8).tobytes()
    (tmp_path / "in").mkdir()
    (tmp_path / "in" / "data").write_bytes(data)
    for method in (zipfile.ZIP_STORED, zipfile.ZIP_DEFLATED):
        source = open_source(zipped(tmp_path / "in", tmp_path / f"{method}.zip", method))
        (entry,) = source.entries()
        assert isinstance(entry, Entry)
        path, member, _ = source.place(entry.name)
        rng = random.Random(method)
        with open_object(a_member(path, member)) as stream:
            assert stream.seek(0, 2) == len(data)
            for _ in range(200):
                at, n = rng.randrange(len(data) + 10), rng.choice([1, 8, 5000, 70_000])
                assert stream.seek(at) == at
                assert stream.read(n) == data[at : at + n]
            stream.seek(0)
            assert stream.read() == data


def a_member(path: Path, member: str) -> Instance:
    return Instance(path, "1.2", "1.2", "1.2", "1.2", "CT", "", member=member)


def test_only_changed_members_are_read_again(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    paths = export(tmp_path / "export")
    zipped(tmp_path / "export", tmp_path / "export.zip")
    index_export(tmp_path / "export.zip", tmp_path / "index.sqlite").close()
    read: list[bytes] = []
    from cohort_builder.pacs.sources import archive

    header = archive.read_member_header
    monkeypatch.setattr(archive, "read_member_header", lambda path, name: read.append(name) or header(path, name))
    index_export(tmp_path / "export.zip", tmp_path / "index.sqlite").close()
    assert read == []
    ds = pydicom.dcmread(paths[-2])
    ds.ConvolutionKernel = "B70f"
    ds.save_as(paths[-2])
    paths[0].unlink()
    zipped(tmp_path / "export", tmp_path / "export.zip")
    index = index_export(tmp_path / "export.zip", tmp_path / "index.sqlite")
    assert sorted(i.convolution_kernel or "" for i in instances(index)) == ["B70f", "STANDARD"]
    assert content(index) == content(index_export(tmp_path / "export"))


def test_names_that_climb_out_are_names_only(tmp_path: Path) -> None:
    (path, *_) = export(tmp_path / "export")
    names = ["../../up", "/absolute", "C:\\drive", "..\\back", "a/../../b", "nul\0byte", "x" * 5000, "\u00e4|1:2:3:4:5"]
    before = sorted(tmp_path.rglob("*"))
    for i, name in enumerate(names):
        ds = pydicom.dcmread(path)
        ds.SOPInstanceUID = f"1.2.{i + 1}"
        ds.save_as(tmp_path / "one.dcm")
        with zipfile.ZipFile(tmp_path / "climb.zip", "a") as archive:
            archive.writestr(zipfile.ZipInfo(name), (tmp_path / "one.dcm").read_bytes())
    index = index_export(tmp_path / "climb.zip", tmp_path / "index.sqlite")
    assert len(instances(index)) == len(names)
    assert {i.path for i in instances(index)} == {tmp_path / "climb.zip"}
    assert content(index)
    index.close()
    made = {tmp_path / name for name in ("one.dcm", "climb.zip", "index.sqlite")}
    assert {p for p in tmp_path.rglob("*") if not p.name.startswith("index.sqlite")} | made == {*before, *made}


def test_members_that_cannot_be_read_are_skips_with_reasons(tmp_path: Path) -> None:
    paths = export(tmp_path / "export")
    with zipfile.ZipFile(tmp_path / "bad.zip", "w", zipfile.ZIP_DEFLATED) as archive:
        archive.write(paths[0], "good")
        archive.write(paths[1], "bzip2", zipfile.ZIP_BZIP2)
        archive.write(zipped(tmp_path / "export", tmp_path / "inner.zip"), "inner.zip")
        archive.writestr("images.tar.gz", b"x")
        archive.writestr("bomb", bytes(100 << 20), compresslevel=9)
        archive.writestr(special("fifo", 0o010644), b"")
        archive.writestr(special("link", 0o120777), b"../../etc/passwd")
        archive.writestr("folder/", b"")
    index = index_export(encrypt_last(tmp_path / "bad.zip", b"folder/"), tmp_path / "index.sqlite")
    assert reasons(index) == ["nested_zip", "unsupported_archive", "zip_bomb", "zip_compression", "zip_encrypted"]
    assert len(instances(index)) == 1
    assert all("bad.zip" in skip.private["path"] and "bad.zip" not in skip.detail for skip in index.skips)


def special(name: str, mode: int) -> zipfile.ZipInfo:
    info = zipfile.ZipInfo(name)
    info.create_system, info.external_attr = 3, mode << 16
    return info


def encrypt_last(path: Path, name: bytes) -> Path:
    """Set the flag of encryption on one entry, and make it a file: no tool here writes encrypted zips."""
    data = bytearray(path.read_bytes())
    at = data.rfind(b"PK\x01\x02", 0, data.rfind(name))
    data[at + 8] |= 1
    data[at + 46 + len(name) - 1] = ord("_")
    path.write_bytes(data)
    return path


def test_damage_in_a_member_is_found_at_the_latest_when_it_is_read(tmp_path: Path) -> None:
    voxels = np.random.default_rng(0).integers(-1000, 1000, (2, 256, 256))
    dicom.write(series := dicom.ct_series(2, study=STUDY, voxels=voxels, shape=(256, 256)), tmp_path / "export" / "ct")
    state = dicom.gsps([dicom.on(series[1], dicom.line((5.0, 6.0), (20.0, 6.0)))])
    dicom.write([state], tmp_path / "export" / "pr")
    path = zipped(tmp_path / "export", tmp_path / "export.zip")
    with zipfile.ZipFile(path) as archive:
        wrong = {info.filename: info.header_offset for info in archive.infolist() if not info.is_dir()}
    data = bytearray(path.read_bytes())
    data[wrong["pr/IM0000"] + 60] ^= 0xFF  # the head: the index sees it
    ct_end = wrong["ct/IM0001"] - 10
    data[ct_end] ^= 0xFF  # the tail of the first image
    path.write_bytes(data)
    index = index_export(path)
    assert reasons(index) == ["zip_damaged"]
    first = min(instances(index), key=lambda i: i.member)
    with pytest.raises(OSError, match="member"), open_object(first) as stream:
        stream.read()


def test_a_zip_bomb_costs_no_memory(tmp_path: Path) -> None:
    """It says that it is small, and unpacks to a gigabyte of an element that never ends."""
    import tracemalloc

    packer = zlib.compressobj(9, zlib.DEFLATED, -zlib.MAX_WBITS)
    head = b"\0" * 128 + b"DICM" + struct.pack("<HH2sHL", 0x0008, 0x0001, b"OB", 0, 1 << 30)
    body = packer.compress(head) + b"".join(packer.compress(bytes(1 << 20)) for _ in range(300)) + packer.flush()
    info = zipfile.ZipInfo("bomb")
    name = info.filename.encode()
    for claimed in (len(head) + (60 << 20), len(head) + (300 << 20)):
        local = struct.pack("<4s5H3L2H", b"PK\3\4", 20, 0, 8, 0, 33, 0, len(body), claimed, len(name), 0) + name + body
        central = struct.pack(
            "<4s6H3L5H2L", b"PK\1\2", 20, 20, 0, 8, 0, 33, 0, len(body), claimed, len(name), 0, 0, 0, 0, 0, 0
        )
        end = struct.pack("<4s4H2LH", b"PK\5\6", 0, 0, 1, 1, len(central) + len(name), len(local), 0)
        (tmp_path / "bomb.zip").write_bytes(local + central + name + end)
        source = open_source(tmp_path / "bomb.zip")
        (entry,) = source.entries()
        assert isinstance(entry, Entry)
        tracemalloc.start()
        with pytest.raises(HeaderError):
            source.read(entry)
        peak = tracemalloc.get_traced_memory()[1]
        tracemalloc.stop()
        assert peak < 300 << 20


@pytest.mark.parametrize("damage", ["cut", "no zip", "empty", "several"])
def test_a_file_that_is_no_whole_zip_says_so(tmp_path: Path, damage: str) -> None:
    export(tmp_path / "export")
    path = zipped(tmp_path / "export", tmp_path / "export.zip")
    data = path.read_bytes()
    at = data.rfind(b"PK\5\6")
    several = data[:at] + struct.pack("<4s2H", b"PK\5\6", 1, 1) + data[at + 8 :]
    path.write_bytes({"cut": data[: len(data) // 2], "no zip": b"x" * 99, "empty": b"", "several": several}[damage])
    with pytest.raises(PacsError, match="no whole zip"):
        index_export(path)
    export(tmp_path / "export2")
    path.rename(tmp_path / "export2" / "broken.zip")
    index = index_export(tmp_path / "export2")
    assert reasons(index) == ["unreadable_zip"]
    assert len(instances(index)) == 3


def test_one_object_twice_in_a_zip_counts_once(tmp_path: Path) -> None:
    (path, *_) = export(tmp_path / "export")
    with zipfile.ZipFile(tmp_path / "twice.zip", "w") as archive:
        archive.write(path, "IM")
        with pytest.warns(UserWarning, match="Duplicate name"):
            archive.write(path, "IM")
    index = index_export(tmp_path / "twice.zip")
    assert (len(instances(index)), index.counts["duplicates"]) == (1, 1)


def test_more_than_65535_members_and_bytes_before_the_zip(tmp_path: Path) -> None:
    (path, *_) = export(tmp_path / "export")
    with zipfile.ZipFile(tmp_path / "many.zip", "w") as archive:
        for i in range(66_000):
            archive.writestr(f"{i}", b"")
        archive.write(path, "IM")
    (tmp_path / "sfx.zip").write_bytes(b"MZ" * 700 + (tmp_path / "many.zip").read_bytes())
    for name in ("many.zip", "sfx.zip"):
        source = open_source(tmp_path / name)
        *empty, last = source.entries()
        assert len(empty) == 66_000
        assert isinstance(last, Entry)
        assert source.read(last) is not None


@settings(max_examples=300, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(st.data())
def test_a_mutated_zip_is_read_or_refused(tmp_path_factory: pytest.TempPathFactory, data: st.DataObject) -> None:
    whole = _small_zip(tmp_path_factory)
    mutated = bytearray(whole)
    for _ in range(data.draw(st.integers(1, 4))):
        at = data.draw(st.integers(0, len(mutated) - 1) | st.integers(max(0, len(mutated) - 400), len(mutated) - 1))
        mutated[at] = data.draw(st.integers(0, 255))
    if data.draw(st.booleans()):
        del mutated[data.draw(st.integers(0, len(mutated))) :]
    path = tmp_path_factory.getbasetemp() / "mutated.zip"
    path.write_bytes(mutated)
    try:
        source = open_source(path)
    except PacsError:
        return
    for entry in source.entries():
        if isinstance(entry, Passed):
            continue
        try:
            header = source.read(entry)
        except HeaderError:
            continue
        if header is not None:
            place, member, _ = source.place(entry.name)
            try:
                with open_object(replace(header.instance, path=place, member=member)) as stream:
                    stream.read()
            except OSError:
                pass


_SMALL: dict[str, bytes] = {}


def _small_zip(factory: pytest.TempPathFactory) -> bytes:
    if not _SMALL:
        folder = factory.mktemp("small")
        series = dicom.ct_series(study=STUDY, n=2, shape=(8, 8))
        dicom.write(series, folder / "in")
        zipped(folder / "in", folder / "small.zip")
        _SMALL["zip"] = (folder / "small.zip").read_bytes()
    return _SMALL["zip"]


# ---- folders -------------------------------------------------------------------------------------------------------


def test_zips_in_a_folder_are_read_with_it(tmp_path: Path) -> None:
    export(tmp_path / "export")
    together = tmp_path / "together"
    (together / "deep").mkdir(parents=True)
    (tmp_path / "export" / "pr").rename(together / "pr")
    zipped(tmp_path / "export", together / "deep" / "CT.ZIP")
    (together / "notes.7z").write_bytes(b"7z")
    index = index_export(together, tmp_path / "index.sqlite")
    assert reasons(index) == ["unsupported_archive"]
    assert len(instances(index)) == 3
    (drawn,) = index.annotation_objects(STUDY.study_instance_uid)
    assert read_annotations(drawn)[0]
    reopened = open_index(tmp_path / "index.sqlite")
    assert content(reopened) == content(index)
    assert {i.path.name for i in instances(reopened)} == {"CT.ZIP"}


def test_special_files_and_links_are_passed_over(tmp_path: Path) -> None:
    export(tmp_path / "export")
    os.mkfifo(tmp_path / "export" / "fifo.dcm")
    (tmp_path / "export" / "loop").symlink_to(tmp_path / "export")
    (tmp_path / "export" / "self").symlink_to("self")
    (tmp_path / "export" / "etc").symlink_to("/etc")
    with socket.socket(socket.AF_UNIX) as listening:
        listening.bind(os.path.relpath(tmp_path / "export" / "socket.dcm"))
        passed = [e.reason for e in open_source(tmp_path / "export").entries() if isinstance(e, Passed)]
        assert sorted(passed) == ["link", "link", "link", "special_file", "special_file"]
        index = index_export(tmp_path / "export")
        assert len(instances(index)) == 3
        assert (index.counts["links"], index.counts["special_file"]) == (3, 2)


def test_a_file_that_changes_while_it_is_read_is_a_skip_of_this_run(tmp_path: Path) -> None:
    paths = export(tmp_path / "export")
    source = open_source(tmp_path / "export")
    entries = [entry for entry in source.entries() if isinstance(entry, Entry)]
    with paths[0].open("ab") as stream:
        stream.write(b"\0\0")
    paths[1].unlink()
    with pytest.raises(HeaderError) as changed:
        source.read(entries[0])
    with pytest.raises(HeaderError):
        source.read(entries[1])
    assert source.read(entries[2]) is not None
    assert changed.value.reason == "changed_while_read"


@pytest.mark.skipif(os.geteuid() == 0, reason="root reads everything")
def test_what_may_not_be_read_is_a_skip(tmp_path: Path) -> None:
    paths = export(tmp_path / "export")
    paths[0].chmod(0)
    (tmp_path / "export" / "locked").mkdir(mode=0)
    assert reasons(index_export(tmp_path / "export")) == ["unreadable_file", "unreadable_folder"]


# ---- DICOMDIR ------------------------------------------------------------------------------------------------------


def medium(folder: Path) -> Path:
    """A file set as pydicom writes it."""
    from pydicom.fileset import FileSet

    files = FileSet()
    for path in export(folder.parent / "source"):
        ds = pydicom.dcmread(path)
        ds.PatientName = ds.PatientName or "X"
        if ds.Modality == "PR":
            continue  # its record needs what highdicom does not write
        files.add(ds)
    files.write(folder)
    files._stage["t"].cleanup()
    return folder


@pytest.mark.parametrize("given_as", ["file", "folder"])
def test_a_dicomdir_is_a_hint(tmp_path: Path, given_as: str) -> None:
    root = medium(tmp_path / "medium")
    listed = sorted(p for p in root.rglob("*") if p.is_file() and p.name != "DICOMDIR")
    beyond = dicom.write([dicom.localizer(STUDY)], root / "MORE")
    listed[0].unlink()
    index = index_export(root / "DICOMDIR" if given_as == "file" else root, tmp_path / "index.sqlite")
    assert reasons(index) == ["dicomdir_missing_file"]
    assert {i.path for i in instances(index)} == {*listed[1:], *beyond}
    assert str(listed[0].relative_to(root)) in index.skips[0].private["path"]
    again = index_export(root, tmp_path / "index.sqlite")
    assert reasons(again) == ["dicomdir_missing_file"]


def test_a_dicomdir_of_a_copied_medium_and_of_several_media(tmp_path: Path) -> None:
    """Copied with small letters, each into a folder of its own; one is broken."""
    root = medium(tmp_path / "media" / "1")
    for path in sorted(root.rglob("*"), reverse=True):
        if path.name != "DICOMDIR":
            path.rename(path.with_name(path.name.lower()))
    (tmp_path / "media" / "2").mkdir()
    (tmp_path / "media" / "2" / "DICOMDIR").write_bytes(b"\0" * 128 + b"DICM" + b"\x02\0\0\0junk")
    index = index_export(tmp_path / "media")
    assert "dicomdir_missing_file" not in reasons(index)
    assert "unreadable_dicomdir" in reasons(index)
    assert len(instances(index)) == 3


def test_a_dicomdir_that_points_out_of_its_folder_finds_nothing_there(tmp_path: Path) -> None:
    root = medium(tmp_path / "medium")
    (tmp_path / "secret").write_bytes(b"x")
    directory = pydicom.dcmread(root / "DICOMDIR")
    images = [r for r in directory.DirectoryRecordSequence if "ReferencedFileID" in r]
    images[0].add_new("ReferencedFileID", "LO", ["..", "SECRET"])
    images[1].add_new("ReferencedFileID", "LO", ["/etc", "passwd"])
    directory.save_as(root / "DICOMDIR")
    assert reasons(index_export(root)) == ["dicomdir_missing_file", "dicomdir_missing_file"]


# ---- what is given -------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("given", "said"),
    [
        ("nowhere", "does not exist"),
        ("ftp://host/path", "kind that is not known"),
        ("dicomweb+https://user:hunter2@host/path", "neither credentials"),
        ("dicomweb+https://host/path?token=hunter2", "neither credentials"),
        ("dicomweb+https://host/path#hunter2", "neither credentials"),
        ("dicomweb+https://:8042", "malformed"),
        ("dicomweb+https://host:x/hunter2", "malformed"),
        ("dicomweb+https://host?page=0", "page="),
        ("dimse://host", "names no host or port"),
        ("dimse://PACS:hunter2@host:104", "must not"),
        ("dimse://PACS@host:104?hunter2=1", "must not"),
        ("dimse://A_TITLE_THAT_IS_TOO_LONG@host:104", "title"),
        ("dimse://PACS@host:104?move=x", "malformed"),
    ],
)
def test_what_is_no_export_is_refused_without_quoting_it(given: str, said: str) -> None:
    if given.startswith("dimse"):
        pytest.importorskip("pynetdicom")
    with pytest.raises(PacsError, match=said) as refused:
        index_export(given)
    assert "hunter2" not in str(refused.value)


def test_an_address_in_a_path_is_refused() -> None:
    with pytest.raises(PacsError, match="as text"):
        index_export(Path("dicomweb+https://host/path"))


def test_a_special_file_is_no_export(tmp_path: Path) -> None:
    os.mkfifo(tmp_path / "export")
    with pytest.raises(PacsError, match="no regular file"):
        index_export(tmp_path / "export")


def test_fetch_of_files_does_nothing(tmp_path: Path) -> None:
    export(tmp_path / "export")
    found = instances(index_export(tmp_path / "export"))
    fetch(found)
    for one in found:
        raw, offset = open_in_place(one) or pytest.fail("no place")
        with raw:
            assert (raw.name, offset) == (one.path, 0)


def test_a_cohort_of_a_zip_is_that_of_its_folder(tmp_path: Path) -> None:
    export(tmp_path / "export", n=12)
    zipped(tmp_path / "export", tmp_path / "export.zip")
    (tmp_path / "reports.csv").write_text(
        f"report_id,text,study_instance_uid\nr1,There is a 9 mm nodule.,{STUDY.study_instance_uid}\n"
    )
    made = [
        build_cohort(
            tmp_path / "reports.csv",
            tmp_path / name,
            out=tmp_path / f"out {name}",
            key=tmp_path / "key",
            progress=False,
        )
        for name in ("export", "export.zip")
    ]
    tables = [{p.name: p.read_bytes() for p in (c.path / "dataset" / "data").rglob("*.parquet")} for c in made]
    assert tables[0] == tables[1]
    assert any(name.startswith("train") or "-of-" in name for name in tables[0])
    assert "zip" not in (made[1].path / "run.json").read_text()
