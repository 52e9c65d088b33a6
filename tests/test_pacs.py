"""The index of a PACS export: what it finds, what it leaves out, and what it survives."""

from __future__ import annotations

import os
import pickle
import shutil
import sqlite3
import subprocess
import sys
import tempfile
import time
from copy import deepcopy
from datetime import date
from pathlib import Path

import pydicom
import pytest
from dicom import Patient, StudyInfo, ct_series, gsps, line, localizer, on, uid, write
from highdicom.legacy import LegacyConvertedEnhancedCTImage
from hypothesis import given, settings
from hypothesis import strategies as st
from pydicom.sr.codedict import codes
from pydicom.uid import DeflatedExplicitVRLittleEndian, ExplicitVRBigEndian, ImplicitVRLittleEndian, RLELossless
from structured import hd_group, hd_measurement, hd_report

from cohort_builder.errors import PacsError
from cohort_builder.pacs import store
from cohort_builder.pacs.headers import OTHER, STRUCTURED_REPORT, read_header
from cohort_builder.pacs.index import index_export, open_index

STUDY = StudyInfo()


@pytest.fixture
def export(tmp_path):
    """A study with a CT series, a localizer and a presentation state, in a tree with odd names and other files."""
    root = tmp_path / "export"
    ct = ct_series(5)
    write(reversed(ct), root / "DICOM" / "0001", prefix="x y ")
    write([localizer()], root / "DICOM" / "0002")
    write([gsps([on(ct[2], line((5, 5), (20, 9)))])], root / "ü" / "pr")
    (root / "readme.txt").write_text("not an image")
    (root / "empty").write_bytes(b"")
    return root


def series_uid(study=STUDY, number=2):
    return uid("series", study.study_instance_uid, number)


def test_a_tree_is_indexed_whole(export):
    index = index_export(export)
    assert index.counts == {
        "files": 9, "dicom": 7, "ct": 6, "presentation_states": 1, "structured_reports": 0, "not_dicom": 2, "broken": 0, "duplicates": 0,
        "links": 0, "studies": 1, "patients": 1,
    }  # fmt: skip
    assert index.skips == []
    (study,) = index.studies()
    assert (study.patient_id, study.patient_key, study.accession_number) == ("0012345", "0012345", "ACC0001")
    assert (study.study_date, study.patient_sex, study.patient_age) == (date(2024, 3, 5), "F", "074Y")
    assert index.patient_keys() == ["0012345"]
    assert index.studies_of("0012345") == [study]
    assert index.studies_of("nobody") == []
    assert index.study("1.2.3") is None
    assert index.series_of(study.study_instance_uid) == sorted([series_uid(), series_uid(number=1)])
    assert [i.path for i in index.annotation_objects(study.study_instance_uid)] == [export / "ü" / "pr" / "IM0000"]


def test_geometry_is_what_the_file_says(export):
    index = index_export(export)
    for path in sorted((export / "DICOM" / "0001").iterdir()):
        ds = pydicom.dcmread(path)
        found = index.instance(ds.SOPInstanceUID)
        assert found.path == path
        assert found.image_position == tuple(ds.ImagePositionPatient)
        assert found.image_orientation == tuple(ds.ImageOrientationPatient)
        assert found.pixel_spacing == (0.8, 0.7)
        assert (found.rows, found.columns, found.instance_number, found.series_number) == (64, 64, ds.InstanceNumber, 2)
        assert (found.rescale_slope, found.rescale_intercept, found.rescale_type) == (1.0, -1024.0, "HU")
        assert found.frame_of_reference_uid == ds.FrameOfReferenceUID
        assert found.transfer_syntax_uid == "1.2.840.10008.1.2.1"
        assert found.image_type == ("ORIGINAL", "PRIMARY", "AXIAL")
        assert found in index.instances(series_uid())


def test_the_builders_make_valid_objects(export):
    """dciodvfy (dicom3tools) knows the standard's modules; it must not find an error in what the tests rest on."""
    for path in (
        export / "DICOM" / "0001" / "x y 0000",
        export / "DICOM" / "0002" / "IM0000",
        export / "ü" / "pr" / "IM0000",
    ):
        out = subprocess.run(
            [Path(sys.executable).with_name("dciodvfy"), path], capture_output=True, text=True, check=False
        )
        assert "Error" not in out.stderr + out.stdout, out.stderr


@pytest.mark.parametrize(
    "make", [lambda p: p / "absent", lambda p: p / "file", lambda p: p / "folder", lambda p: p / "texts"]
)
def test_what_is_no_export_says_what_to_do(tmp_path, make):
    (tmp_path / "file").write_text("x")
    (tmp_path / "folder").mkdir()
    (tmp_path / "texts").mkdir()
    (tmp_path / "texts" / "a.txt").write_text("x" * 500)
    with pytest.raises(PacsError, match=r"check the path|give (the|a) folder"):
        index_export(make(tmp_path))


@pytest.mark.parametrize("keep", [0.3, 0.6, 0.99])
def test_a_truncated_ct_costs_that_file(export, keep):
    victim = min((export / "DICOM" / "0001").iterdir())
    lost = pydicom.dcmread(victim).SOPInstanceUID
    content = victim.read_bytes()
    victim.write_bytes(content[: int(len(content) * keep)])
    index = index_export(export)
    (skip,) = index.skips
    assert (skip.reason, skip.failure, skip.private["path"]) == ("truncated", True, str(victim))
    assert victim.name not in skip.item + skip.detail
    assert index.instance(lost) is None
    assert len(index.instances(series_uid())) == 4
    assert index.counts["broken"] == 1


def test_a_truncated_compressed_ct_is_noticed(tmp_path):
    ct = ct_series(3)
    for ds in ct:
        ds.compress(RLELossless, generate_instance_uid=False)
    paths = write(ct, tmp_path)
    assert index_export(tmp_path).counts["broken"] == 0
    content = paths[1].read_bytes()
    paths[1].write_bytes(content[:-8])
    assert [s.reason for s in index_export(tmp_path).skips] == ["truncated"]


@pytest.mark.parametrize("syntax", [ImplicitVRLittleEndian, ExplicitVRBigEndian, DeflatedExplicitVRLittleEndian])
def test_every_uncompressed_syntax_is_read(tmp_path, syntax):
    (ds,) = ct_series(1)
    ds.file_meta.TransferSyntaxUID = syntax
    path = tmp_path / "ct"
    pydicom.dcmwrite(
        path, ds, implicit_vr=syntax.is_implicit_VR, little_endian=syntax.is_little_endian, enforce_file_format=True
    )
    found = index_export(tmp_path).instance(ds.SOPInstanceUID)
    assert found.image_position == (-22.0, -25.0, 40.0)
    assert found.transfer_syntax_uid == syntax


def test_a_dataset_without_preamble_is_dicom_and_noise_is_not(tmp_path):
    (ds,) = ct_series(1)
    whole = tmp_path / "bare"
    pydicom.dcmwrite(whole, pydicom.Dataset(ds), implicit_vr=True, little_endian=True)
    assert whole.read_bytes()[128:132] != b"DICM"
    (tmp_path / "noise").write_bytes(b"\x08\x00" + bytes(range(256)) * 4)
    index = index_export(tmp_path)
    assert index.instance(ds.SOPInstanceUID).transfer_syntax_uid == ImplicitVRLittleEndian
    assert (index.counts["not_dicom"], index.skips) == (1, [])


def test_links_are_not_followed(export, tmp_path):
    outside = tmp_path / "outside"
    write(ct_series(2, study=StudyInfo(accession_number="OTHER")), outside)
    (export / "out").symlink_to(outside)
    (export / "loop").symlink_to(export)
    (export / "one").symlink_to(outside / "IM0000")
    counts = index_export(export).counts
    assert (counts["studies"], counts["files"], counts["links"]) == (1, 9, 3)


def test_the_export_itself_may_be_a_link(export, tmp_path):
    (tmp_path / "link").symlink_to(export)
    assert index_export(tmp_path / "link").counts["dicom"] == 7


def test_an_object_exported_twice_counts_once(export):
    copies = export / "again"
    shutil.copytree(export / "DICOM" / "0001", copies)
    index = index_export(export)
    assert index.counts["duplicates"] == 5
    assert [i.path.parent for i in index.instances(series_uid())] == [export / "DICOM" / "0001"] * 5
    assert index.skips == []


def test_one_uid_on_two_different_images_is_refused(export):
    path = min((export / "DICOM" / "0001").iterdir())
    ds = pydicom.dcmread(path)
    ds.ImagePositionPatient = [0, 0, 999]
    ds.save_as(export / "other")
    index = index_export(export)
    (skip,) = index.skips
    assert (skip.reason, skip.failure) == ("conflicting_uid", True)
    assert index.instance(ds.SOPInstanceUID) is None
    assert len(index.instances(series_uid())) == 4


@pytest.mark.parametrize(
    "change",
    [
        {"RescaleIntercept": -500},
        {"RescaleSlope": 2},
        {"PixelRepresentation": 1},
        {"LossyImageCompression": "01"},
        {"PixelData": bytes(1 << 16)},
    ],
    ids=lambda change: next(iter(change)),
)
def test_two_copies_with_other_rescale_or_pixels_are_no_duplicates(export, change):
    path = min((export / "DICOM" / "0001").iterdir())
    ds = pydicom.dcmread(path)
    for keyword, value in change.items():
        setattr(ds, keyword, value)
    ds.save_as(export / "other")
    index = index_export(export)
    assert [skip.reason for skip in index.skips] == ["conflicting_uid"]
    assert index.instance(ds.SOPInstanceUID) is None


def test_a_copy_in_another_transfer_syntax_is_a_duplicate(export):
    path = min((export / "DICOM" / "0001").iterdir())
    ds = pydicom.dcmread(path)
    ds.compress(RLELossless, generate_instance_uid=False)
    ds.save_as(export / "other")
    index = index_export(export)
    assert index.skips == []
    assert index.counts["duplicates"] == 1


def test_uids_are_checked_before_use_and_values_stay_out_of_logs(tmp_path, caplog):
    good, bad = write(ct_series(2), tmp_path)
    of_series = series_uid().encode()
    bad.write_bytes(bad.read_bytes().replace(of_series, b"../../etc/passwd".ljust(len(of_series), b"x")))
    (skip,) = index_export(tmp_path).skips
    assert (skip.reason, skip.failure, skip.private["path"]) == ("invalid_uid", True, str(bad))
    assert index_export(tmp_path).instances(series_uid())[0].path == good
    assert "etc" not in skip.detail + caplog.text


def test_identifiers_are_those_of_every_header(tmp_path):
    ct = ct_series(2, study=StudyInfo(Patient(name="Müller-Lüdenscheidt^Ärna^Ö=穆勒^阿")))
    ct[1].OperatorsName = "Tech^Tim"
    item = pydicom.Dataset()
    item.RequestingPhysician, item.AccessionNumber = "Prax^Paula", "INNER7"
    ct[1].RequestAttributesSequence = [item]
    ct[1].StudyDescription = "CT chest"
    state = gsps([on(ct[0], line((1, 1), (9, 9)))], creator="Befund^Berta")
    write([*ct, state], tmp_path)
    found = set(index_export(tmp_path).studies()[0].identifiers)
    assert {
        "Müller-Lüdenscheidt",
        "Ärna Müller-Lüdenscheidt",
        "穆勒",
        "0012345",
        "19500102",
        "ACC0001",
        "Haus am See",
    } <= found
    assert {"CT7", "Greta", "Tim Tech", "Berta Befund", "Paula Prax", "INNER7"} <= found
    assert not {"CT chest", "Ö", "CHEST", "Acme"} & found


def test_a_state_belongs_to_the_study_of_its_images(tmp_path):
    ct = ct_series(3)
    state = gsps([on(ct[0], line((1, 1), (9, 9)))])
    state.StudyInstanceUID = uid("a study of its own")
    lonely = gsps([on(ct_series(2, study=StudyInfo(accession_number="GONE"))[0], line((1, 1), (9, 9)))])
    (first,) = write([state], tmp_path / "pr")
    (second,) = write([lonely], tmp_path / "pr2")
    write(ct, tmp_path / "ct")
    index = index_export(tmp_path)
    assert [i.path for i in index.annotation_objects(STUDY.study_instance_uid)] == [first]
    assert index.annotation_objects(state.StudyInstanceUID) == []
    assert [i.path for i in index.annotation_objects(lonely.StudyInstanceUID)] == [second]


def test_patients_are_told_apart_by_id(tmp_path):
    a = ct_series(2)
    b = ct_series(2, study=StudyInfo(Patient(patient_id="00012345"), accession_number="B"))
    c = ct_series(2, study=StudyInfo(Patient(patient_id=""), accession_number="C"))
    write([*a, *b, *c], tmp_path)
    assert index_export(tmp_path).patient_keys() == ["00012345", "0012345", f"study:{c[0].StudyInstanceUID}"]


def test_two_ids_in_one_study_are_said(tmp_path):
    ct = ct_series(3)
    ct[2].PatientID = "999"
    write(ct, tmp_path)
    index = index_export(tmp_path)
    assert index.studies()[0].patient_id == "0012345"
    (skip,) = index.skips
    assert (skip.reason, skip.failure) == ("conflicting_patient_ids", False)
    assert "999" not in skip.detail


def snapshot(index):
    return (
        index.counts,
        index.studies(),
        [index.instances(s) for study in index.studies() for s in index.series_of(study.study_instance_uid)],
        [index.annotation_objects(study.study_instance_uid) for study in index.studies()],
        [(s.reason, s.private) for s in index.skips],
    )


def test_an_index_continues_from_its_file(export, tmp_path):
    where = tmp_path / "index.sqlite"
    index_export(export, where).close()
    folder = export / "DICOM" / "0001"
    unread, changed, gone, *_ = sorted(folder.iterdir())
    stamp = unread.stat()
    unread.write_bytes(b"\0" * stamp.st_size)  # would be broken if it were read again
    os.utime(unread, ns=(stamp.st_atime_ns, stamp.st_mtime_ns))
    ds = pydicom.dcmread(changed)
    ds.SeriesDescription = "changed"
    ds.save_as(changed)
    gone_uid = pydicom.dcmread(gone).SOPInstanceUID
    gone.unlink()
    write([localizer(number=7)], export / "new")
    seen = []
    index = index_export(export, where, progress=seen.append)
    assert sum(seen) == index.counts["files"] == 9
    assert index.instance(ds.SOPInstanceUID).series_description == "changed"
    assert index.instance(gone_uid) is None
    assert series_uid(number=7) in index.series_of(STUDY.study_instance_uid)
    assert index.counts["broken"] == 0


def test_an_index_of_another_folder_starts_anew(export, tmp_path):
    where = tmp_path / "index.sqlite"
    index_export(export, where).close()
    other = tmp_path / "other"
    shutil.copytree(export, other)
    for path in other.rglob("*"):
        if path.is_file() and path.suffix != ".txt":
            path.write_bytes(b"")
    write(ct_series(2), other / "ct")
    assert index_export(other, where).counts["dicom"] == 2


@pytest.mark.parametrize("after", [1, 4, 8])
def test_interrupted_it_continues(export, tmp_path, monkeypatch, after):
    monkeypatch.setattr("cohort_builder.pacs.updating._BATCH", 2)
    where = tmp_path / "index.sqlite"
    seen = 0

    def stop(n):
        nonlocal seen
        seen += n
        if seen >= after:
            raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        index_export(export, where, progress=stop)
    with pytest.raises(PacsError, match="not complete"):
        open_index(where)
    assert snapshot(index_export(export, where)) == snapshot(index_export(export))


def test_killed_it_continues(export, tmp_path):
    where = tmp_path / "index.sqlite"
    code = (
        "import os, sys; from cohort_builder.pacs import index, updating; updating._BATCH = 2; left = [6]\n"
        "def die(n):\n    left[0] -= n\n    left[0] or os.kill(os.getpid(), 9)\n"
        "index.index_export(sys.argv[1], sys.argv[2], progress=die)"
    )
    done = subprocess.run([sys.executable, "-c", code, str(export), str(where)], check=False)
    assert done.returncode == -9
    assert where.exists()
    assert snapshot(index_export(export, where)) == snapshot(index_export(export))


def test_the_index_file_is_private(export, tmp_path):
    index_export(export, tmp_path / "index.sqlite")
    assert (tmp_path / "index.sqlite").stat().st_mode & 0o077 == 0


def test_an_index_in_a_file_pickles(export, tmp_path):
    index = index_export(export, tmp_path / "a name?#%.sqlite")
    again = pickle.loads(pickle.dumps(index))
    assert snapshot(again) == snapshot(index)
    index.close()
    again.close()


def test_an_index_in_memory_says_that_it_cannot_travel(export):
    with pytest.raises(PacsError, match="file"):
        pickle.dumps(index_export(export))


def test_the_index_may_lie_inside_the_export(export):
    where = export / "index.sqlite"
    first = index_export(export, where).counts
    assert index_export(export, where).counts == first
    assert (first["files"], first["not_dicom"]) == (9, 2)


def test_other_files_are_not_taken_for_an_index(export, tmp_path):
    notes, database = tmp_path / "notes", tmp_path / "other.sqlite"
    notes.write_text("my notes " * 200)
    with sqlite3.connect(database) as connection:
        connection.execute("CREATE TABLE mine (x)")
    connection.close()
    for path in (notes, database):
        before = path.read_bytes()
        with pytest.raises(PacsError, match="path"):
            index_export(export, path)
        with pytest.raises(PacsError, match="index_export"):
            open_index(path if path is notes else tmp_path / "absent")
        assert path.read_bytes() == before


def test_an_index_of_another_version_is_made_again(export, tmp_path):
    where = tmp_path / "index.sqlite"
    expected = snapshot(index_export(export, where))
    with sqlite3.connect(where) as connection:
        connection.execute("PRAGMA user_version = 99")
    connection.close()
    with pytest.raises(PacsError, match="version"):
        open_index(where)
    assert snapshot(index_export(export, where)) == expected


CT_BYTES = None


def ct_bytes():
    """One CT file and one presentation state, made once."""
    global CT_BYTES  # noqa: PLW0603
    if CT_BYTES is None:
        with tempfile.TemporaryDirectory() as folder:
            ct = ct_series(2, shape=(8, 8))
            paths = write([ct[0], gsps([on(ct[0], line((1, 1), (5, 5)))])], Path(folder))
            CT_BYTES = [path.read_bytes() for path in paths]
    return CT_BYTES


@settings(max_examples=150, deadline=None)
@given(
    which=st.integers(0, 1),
    edits=st.lists(st.tuples(st.floats(0, 1), st.binary(min_size=1, max_size=8)), max_size=6),
    keep=st.floats(0, 1),
)
def test_no_damage_to_a_file_ends_the_run(which, edits, keep):
    content = bytearray(ct_bytes()[which])
    for place, new in edits:
        at = int(place * (len(content) - 1))
        content[at : at + len(new)] = new
    with tempfile.TemporaryDirectory() as folder:
        root = Path(folder)
        write(ct_series(1, shape=(8, 8), number=5), root, prefix="good")
        (root / "damaged").write_bytes(content[: int(keep * len(content))])
        index = index_export(root)
        counts = index.counts
        assert counts["dicom"] + counts["not_dicom"] + counts["broken"] == counts["files"] == 2
        assert index.instances(series_uid(number=5)) or counts["duplicates"]
        assert len(index.studies()) >= 1
        assert all(str(root) not in s.item + s.detail for s in index.skips)


def test_killed_without_warning_it_continues(tmp_path):
    """Killed from outside, at whatever moment, again and again."""
    root, where = tmp_path / "export", tmp_path / "index.sqlite"
    for number in range(12):
        write(ct_series(20, shape=(4, 4), number=number), root / str(number))
    code = (
        "import sys, time; from cohort_builder.pacs import index, updating; updating._BATCH = 7\n"
        "print('started', flush=True)\n"
        "index.index_export(sys.argv[1], sys.argv[2], progress=lambda n: time.sleep(0.001))"
    )
    for wait in (0.0, 0.02, 0.05, 0.11):
        with subprocess.Popen([sys.executable, "-c", code, str(root), str(where)], stdout=subprocess.PIPE) as process:
            process.stdout.readline()
            time.sleep(wait)
            process.kill()
        assert process.returncode == -9
        with pytest.raises(PacsError, match="index_export"):
            open_index(where)
    assert snapshot(index_export(root, where)) == snapshot(index_export(root))


def test_one_writer_at_a_time(export, tmp_path):
    where = tmp_path / "index.sqlite"
    refused = []

    def second(_n):
        if not refused:
            for attempt in (lambda: index_export(export, where), lambda: open_index(where)):
                with pytest.raises(PacsError, match=r"in use|being written") as error:
                    attempt()
                refused.append(str(error.value))

    index = index_export(export, where, progress=second)
    assert len(refused) == 2
    assert "wait" in refused[0]
    assert snapshot(index_export(export, where)) == snapshot(index) == snapshot(open_index(where))


def write_two_patients(root):
    for n in (1, 2):
        who = Patient(name=f"Quorrax{n}^Zephyrine", patient_id=f"88227{n}")
        write(ct_series(8, shape=(4, 4), study=StudyInfo(who)), root / str(n))


def test_an_index_made_anew_of_another_export_forgets_the_first_however_sqlite_was_compiled(tmp_path, monkeypatch):
    class WithoutSecureDelete(sqlite3.Connection):
        def __init__(self, *args, **options):
            super().__init__(*args, **options)
            self.execute("PRAGMA secure_delete = OFF")

    connect, where = sqlite3.connect, tmp_path / "index.sqlite"
    monkeypatch.setattr(sqlite3, "connect", lambda *a, **o: connect(*a, **{"factory": WithoutSecureDelete, **o}))
    write_two_patients(tmp_path / "a")
    write(ct_series(1, shape=(4, 4)), tmp_path / "b")
    index_export(tmp_path / "a", where).close()
    assert b"882271" in where.read_bytes()
    index_export(tmp_path / "b", where).close()
    for needle in (b"882271", b"882272", b"Quorrax"):
        assert needle not in where.read_bytes()
    assert sorted(path.name for path in tmp_path.iterdir()) == ["a", "b", "index.sqlite"]


def test_while_an_index_is_cleaned_nobody_else_gets_hold_of_it(tmp_path, monkeypatch):
    root, where = tmp_path / "export", tmp_path / "index.sqlite"
    write_two_patients(root)
    index_export(root, where).close()
    shutil.rmtree(root / "1")
    note, tried = store.note_remains, []

    def noting(connection, *, there=True):
        note(connection, there=there)
        with pytest.raises(PacsError, match="in use"):
            store.create(where, "other")
        tried.append(there)

    monkeypatch.setattr(store, "note_remains", noting)
    file = where.stat().st_ino
    index = index_export(root, where)
    assert tried == [True, False]
    assert where.stat().st_ino == file
    assert snapshot(index) == snapshot(index_export(root))
    assert b"882271" not in where.read_bytes()


def test_an_index_in_a_folder_that_does_not_exist_is_said(export, tmp_path):
    with pytest.raises(PacsError, match="the folder of the index file does not exist"):
        index_export(export, tmp_path / "no" / "i.sqlite")


def test_a_second_process_is_refused_and_a_dead_one_is_no_hindrance(export, tmp_path):
    where = tmp_path / "index.sqlite"
    code = (
        "import sys, time; from cohort_builder.pacs import index\n"
        "def wait(n):\n    print('writing', flush=True)\n    time.sleep(600)\n"
        "index.index_export(sys.argv[1], sys.argv[2], progress=wait)"
    )
    with subprocess.Popen(
        [sys.executable, "-c", code, str(export), str(where)], stdout=subprocess.PIPE, stderr=subprocess.PIPE
    ) as process:
        process.stdout.readline()
        with pytest.raises(PacsError, match="in use"):
            index_export(export, where)
        process.kill()
    assert index_export(export, where).counts["ct"] == 6


def test_a_reader_does_not_hinder_a_writer(export, tmp_path):
    where = tmp_path / "index.sqlite"
    index_export(export, where).close()
    reader = open_index(where)
    before = snapshot(reader)
    write([localizer(number=9)], export / "new")
    assert index_export(export, where).counts["ct"] == before[0]["ct"] + 1
    assert series_uid(number=9) in reader.series_of(STUDY.study_instance_uid)


def test_a_report_belongs_to_the_study_of_its_images(tmp_path):
    ct = ct_series(4)
    report = hd_report([hd_group(hd_measurement(codes.SCT.Length, 9.0, "POLYLINE", [(1, 1), (9, 9)], ct[0]))], ct[:3])
    report.StudyInstanceUID = uid("a study of its own")
    (path,) = write([report], tmp_path / "sr")
    write(ct, tmp_path / "ct")
    index = index_export(tmp_path)
    header = read_header(path)
    assert header.kind == STRUCTURED_REPORT
    assert set(header.references) == {ds.SOPInstanceUID for ds in ct[:3]}
    assert [i.path for i in index.annotation_objects(STUDY.study_instance_uid)] == [path]
    assert index.counts["structured_reports"] == 1
    before = index.fingerprint("0012345")
    report.ContentTime = "120000"
    write([report], tmp_path / "sr")
    assert index_export(tmp_path).fingerprint("0012345") != before


@pytest.mark.parametrize(
    "sequence", ["BlendingSequence", "AdvancedBlendingSequence", "VolumetricPresentationStateInputSequence"]
)
def test_a_state_that_keeps_its_images_deeper(tmp_path, sequence):
    ct = ct_series(3)
    state = gsps([on(ct[1], line((1, 1), (9, 9)))])
    state.StudyInstanceUID = uid("a study of its own")
    part = pydicom.Dataset()
    if sequence == "BlendingSequence":
        part.ReferencedSeriesSequence = state.ReferencedSeriesSequence
    else:
        part.SeriesInstanceUID = ct[1].SeriesInstanceUID
        part.ReferencedImageSequence = state.ReferencedSeriesSequence[0].ReferencedImageSequence
    del state.ReferencedSeriesSequence
    setattr(state, sequence, [part])
    (path,) = write([state], tmp_path / "pr")
    write(ct, tmp_path / "ct")
    assert read_header(path).references == (ct[1].SOPInstanceUID,)
    index = index_export(tmp_path)
    assert [i.path for i in index.annotation_objects(STUDY.study_instance_uid)] == [path]


def test_a_multi_frame_object_is_its_frames(tmp_path):
    ct = ct_series(5)
    (path,) = write(
        [deepcopy(LegacyConvertedEnhancedCTImage(ct, uid("converted series"), 7, uid("converted"), 1))], tmp_path
    )
    where = tmp_path.parent / f"{tmp_path.name}.sqlite"
    index = index_export(tmp_path, where)
    header = read_header(path)
    assert len(header.frames) == 5
    assert tuple(index.instances(header.instance.series_instance_uid)) == header.frames
    sop = header.instance.sop_instance_uid
    assert index.instance(sop) == header.instance
    assert index.instance(sop, 3) == header.frames[2]
    assert index.instance(sop, 6) is None
    assert sorted(f.image_position for f in header.frames) == sorted(
        tuple(map(float, ds.ImagePositionPatient)) for ds in ct
    )
    ds = pydicom.dcmread(path)
    ds.PerFrameFunctionalGroupsSequence[0].PlanePositionSequence[0].ImagePositionPatient = [0, 0, 7]
    ds.save_as(path)
    assert index_export(tmp_path, where).instance(sop, 1).image_position == (0, 0, 7)
    path.unlink()
    write(ct, tmp_path)
    again = index_export(tmp_path, where)
    assert again.instance(sop, 1) is None
    assert again.instance(ct[0].SOPInstanceUID, 1) == again.instance(ct[0].SOPInstanceUID)


def test_objects_are_counted_by_what_they_are(export):
    shutil.copytree(export / "DICOM" / "0001", export / "again")
    index = index_export(export)
    assert index.tally("modality", "manufacturer", "kind") == {
        ("CT", "Acme", "ct"): 6, ("PR", "Acme", "presentation_state"): 1
    }  # fmt: skip
    assert sum(index.tally("instance_number").values()) == 7
    with pytest.raises(ValueError, match="modality"):
        index.tally("sop_instance_uid")


def test_a_dose_report_does_not_make_a_study_seem_drawn_on(tmp_path):
    ct = ct_series(3)
    report = hd_report([hd_group(hd_measurement(codes.SCT.Length, 9.0, "POLYLINE", [(1, 1), (9, 9)], ct[0]))], ct)
    report.SOPClassUID = report.file_meta.MediaStorageSOPClassUID = "1.2.840.10008.5.1.4.1.1.88.67"
    (path,) = write([report], tmp_path / "sr")
    write(ct, tmp_path / "ct")
    index = index_export(tmp_path)
    assert read_header(path).kind == OTHER
    assert index.counts["dicom"] == 4
    assert index.annotation_objects(STUDY.study_instance_uid) == []
