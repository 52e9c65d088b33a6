"""Damaged and hostile exports: no crash, no hang, no unbounded memory, and every file accounted for.

The files are read in a child process under a memory limit (tests/fuzz_worker.py); tests/mutations.py damages them.
"""

from __future__ import annotations

import contextlib
import gzip
import io
import json
import os
import random
import subprocess
import sys
import threading
import zipfile
import zlib
from collections import Counter
from pathlib import Path

import pytest
from dicom import ct_series, gsps, line, on, write
from mutations import KINDS, mutations, seeds
from peak import in_a_process_of_its_own
from structured import cornerstone, length, report

from cohort_builder import index_export, load_volume, read_annotations
from cohort_builder.errors import PacsError
from nlp import ReportError, read_reports
from segmentation.types import GeometryError

LIMIT_MB = 4096  # of address space: the libraries alone map more than a gigabyte
PEAK_MB = 1200
CPU_SECONDS = 20.0  # for the worst file and function; a second is usual
ROOT = Path(__file__).parent.parent


def faults_of(folder: Path, *, timeout: float) -> list[dict[str, object]]:
    """What the child process found wrong with the files of a folder."""
    command = [
        sys.executable,
        "-W",
        "error::RuntimeWarning",
        str(ROOT / "tests" / "fuzz_worker.py"),
        str(folder),
        str(LIMIT_MB),
    ]
    environment = {**os.environ, "PYTHONPATH": str(ROOT), "OMP_NUM_THREADS": "1", "OPENBLAS_NUM_THREADS": "1"}
    out = subprocess.run(command, capture_output=True, text=True, check=False, timeout=timeout, env=environment)
    lines = [json.loads(text) for text in out.stdout.splitlines()]
    faults = [entry for entry in lines if "fault" in entry]
    if out.returncode or not lines or "done" not in lines[-1]:
        return [*faults, {"fault": "crash", "code": out.returncode, "last": lines[-1:], "stderr": out.stderr[-500:]}]
    end = lines[-1]
    if end["peak_mb"] > PEAK_MB:
        faults.append({"fault": "memory", **end})
    if end["slowest_s"][-1][0] > CPU_SECONDS:
        faults.append({"fault": "slow", **end})
    return faults


def damage(folder: Path, count: int, seed: int, more: list[bytes] | None = None) -> Counter[str]:
    """Write damaged files; how many of each kind."""
    folder.mkdir()
    made = Counter()
    for i, (kind, content) in enumerate(mutations([*seeds(), *(more or [])], count, seed)):
        (folder / f"{i:05d} {kind}").write_bytes(content)
        made[kind] += 1
    return made


def test_a_thousand_damaged_files(tmp_path):
    made = damage(tmp_path / "files", 1000, seed=1)
    assert made.total() == 1000
    assert set(made) == set(KINDS)
    assert faults_of(tmp_path / "files", timeout=600) == []


@pytest.mark.slow
@pytest.mark.parametrize("seed", range(10, 16))
def test_many_damaged_files_of_a_hospital(tmp_path, demo, seed):
    """Six times a thousand, with the demo's objects among what is damaged."""
    paths = [path for path in sorted((demo / "hospital" / "pacs_export").rglob("*")) if path.is_file()]
    objects = [path.read_bytes() for path in random.Random(seed).sample(paths, 60)]
    damage(tmp_path / "files", 1000, seed, objects)
    assert faults_of(tmp_path / "files", timeout=3000) == []


@pytest.mark.slow
def test_damaged_files_in_a_zip_are_counted_as_in_a_folder(tmp_path):
    damage(tmp_path / "files", 600, seed=20)
    with zipfile.ZipFile(tmp_path / "export.zip", "w", zipfile.ZIP_DEFLATED) as archive:
        for path in sorted((tmp_path / "files").iterdir()):
            archive.write(path, path.name)
    in_folder, in_zip = index_export(tmp_path / "files"), index_export(tmp_path / "export.zip")
    assert in_zip.counts == in_folder.counts
    assert Counter(s.reason for s in in_zip.skips) == Counter(s.reason for s in in_folder.skips)


@pytest.mark.slow
def test_damaged_zips(tmp_path):
    """The bytes of the archive itself are damaged: it is refused, or what can still be read is."""
    write(ct_series(3, shape=(16, 16)), tmp_path / "files")
    buffer = io.BytesIO()
    with zipfile.ZipFile(buffer, "w", zipfile.ZIP_DEFLATED) as archive:
        for path in sorted((tmp_path / "files").iterdir()):
            archive.write(path, path.name)
    whole = buffer.getvalue()
    for seed in range(400):
        chance = random.Random(seed)
        content = bytearray(whole)
        for _ in range(chance.choice((1, 4, 20))):
            content[chance.randrange(len(content)) if seed % 2 else -chance.randrange(1, 400)] ^= 1 << chance.randrange(
                8
            )
        (tmp_path / "export.zip").write_bytes(
            bytes(content[: chance.choice((len(content), len(content), len(content) // 2))])
        )
        try:
            counts = index_export(tmp_path / "export.zip").counts
        except PacsError:
            continue
        assert counts["dicom"] + counts["not_dicom"] + counts["broken"] == counts["files"]


def test_a_zip_bomb_costs_its_headers_only(tmp_path):
    (image,) = ct_series(1, shape=(16, 16))
    whole = io.BytesIO()
    image.save_as(whole, enforce_file_format=True)
    with zipfile.ZipFile(tmp_path / "export.zip", "w", zipfile.ZIP_DEFLATED, compresslevel=1) as archive:
        archive.writestr("image", whole.getvalue())
        for name, start in (("zeros", b""), ("image and zeros", whole.getvalue())):
            with archive.open(name, "w", force_zip64=True) as member:
                member.write(start)
                for _ in range(600):
                    member.write(b"\0" * (1 << 20))
    peak = index_in_child(tmp_path / "export.zip")
    assert peak["files"] == 3
    assert peak["dicom"] >= 1
    assert peak["peak_mb"] < 400


def index_in_child(path: Path) -> dict[str, int]:
    """Counts and peak memory of indexing in a process of its own."""
    program = (
        "import json, resource, sys\nfrom cohort_builder import index_export\nfrom peak import peak_bytes\n"
        "resource.setrlimit(resource.RLIMIT_AS, (2 << 30, 2 << 30))\ncounts = index_export(sys.argv[1]).counts\n"
        "print(json.dumps({**counts, 'peak_mb': peak_bytes() >> 20}))"
    )
    counts: dict[str, int] = json.loads(in_a_process_of_its_own(program, path))
    return counts


def test_a_deflated_object_that_inflates_to_much_more_than_an_image(tmp_path):
    (image,) = ct_series(1, shape=(16, 16))
    image.file_meta.TransferSyntaxUID = "1.2.840.10008.1.2.1.99"
    stream = io.BytesIO()
    image.save_as(stream, enforce_file_format=True)
    content = stream.getvalue()
    start = 144 + int.from_bytes(content[140:144], "little")
    packer = zlib.compressobj(1, wbits=-15)
    body = [
        packer.compress(b"\x09\x00\x10\x00UN\0\0\0\0\0\x40"),
        *(packer.compress(b"\0" * (1 << 20)) for _ in range(600)),
    ]
    (tmp_path / "files").mkdir()
    (tmp_path / "files" / "deflated").write_bytes(content[:start] + b"".join(body) + packer.flush())
    assert faults_of(tmp_path / "files", timeout=300) == []
    assert [skip.reason for skip in read_annotations(tmp_path / "files" / "deflated")[1]] == ["too_large"]


@pytest.mark.slow
def test_a_zipped_text_that_unzips_to_a_gigabyte_is_no_report(tmp_path):
    with gzip.open(tmp_path / "text.txt.gz", "wb", compresslevel=1) as text:
        for _ in range(1024):
            text.write(b"a" * (1 << 20))
    with pytest.raises(ReportError, match="512 MiB"):
        list(read_reports(tmp_path / "text.txt.gz"))


def test_names_that_climb_out_of_a_zip_touch_nothing_outside(tmp_path):
    (tmp_path / "in").mkdir()
    content = io.BytesIO()
    ct_series(1, shape=(16, 16))[0].save_as(content, enforce_file_format=True)
    with zipfile.ZipFile(tmp_path / "in" / "export.zip", "w") as archive:
        for name in ("../climbed", "../../climbed", "/climbed", "a/../../climbed", "C:\\climbed", "..\\climbed"):
            archive.writestr(name, content.getvalue())
    before = sorted(tmp_path.rglob("*"))
    index = index_export(tmp_path / "in" / "export.zip")
    (study,) = index.studies()
    (series,) = index.series_of(study.study_instance_uid)
    assert len(index.instances(series)) == 1
    assert sorted(tmp_path.rglob("*")) == before


def test_links_in_a_loop_and_special_files_are_passed_over(tmp_path):
    root = tmp_path / "export"
    write(ct_series(2, shape=(16, 16)), root / "series")
    (root / "loop").symlink_to(root)
    (root / "series" / "up").symlink_to("..")
    (root / "dangling").symlink_to("nowhere")
    (root / "self").symlink_to("self")
    (root / "image").symlink_to(root / "series" / "IM0000")
    os.mkfifo(root / "fifo")
    counts = index_export(root).counts
    assert (counts["ct"], counts["dicom"], counts["links"]) == (2, 2, 5)


def test_files_that_change_while_they_are_read(tmp_path):
    """Each read gives what the file was before, or after, or a reason."""
    images = ct_series(3, shape=(16, 16))
    state = gsps([on(images[0], line((2, 2), (9, 9)))])
    document = report(cornerstone("Length", length(images[0], (2, 2), (9, 9), 7.0)), images=images)
    paths = write([*images, state, document], tmp_path / "export")
    whole = [path.read_bytes() for path in paths]
    stop = threading.Event()

    def change() -> None:
        step = 0
        while not stop.is_set():
            step += 1
            for path, content in zip(paths, whole, strict=True):
                path.write_bytes(content[: (step * 997) % len(content)] if step % 2 else content)
            if step % 5 == 0:
                paths[-1].unlink()

    changing = threading.Thread(target=change)
    changing.start()
    try:
        for _ in range(15):
            with contextlib.suppress(PacsError):
                counts = index_export(tmp_path / "export").counts
                assert counts["dicom"] + counts["not_dicom"] + counts["broken"] == counts["files"]
            for path in paths[3:]:
                annotations, skips = read_annotations(path)
                assert annotations or skips
            with contextlib.suppress(GeometryError):
                assert load_volume(paths[:3]).voxels.shape[1:] == (16, 16)
            with contextlib.suppress(ReportError):
                list(read_reports([paths[-1]], on_error=lambda _error, _row: None))
    finally:
        stop.set()
        changing.join()
