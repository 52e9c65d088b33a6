"""Against a real PACS: Orthanc from Debian, started here on loopback, loaded with the generated hospital."""

from __future__ import annotations

import json
import os
import shutil
import socket
import stat
import subprocess
import time
import zipfile
from collections.abc import Callable, Iterator
from contextlib import closing, contextmanager, suppress
from dataclasses import dataclass, replace
from pathlib import Path

import dicom
import pyarrow.parquet as pq
import pydicom
import pytest
import requests

from cohort_builder import BuildConfig, build_cohort, index_export, read_annotations
from cohort_builder.cases.selection import Selection
from cohort_builder.ct.pixels import read_hounsfield
from cohort_builder.demo import generate_hospital
from cohort_builder.errors import PacsError
from cohort_builder.pacs.index import Index, Instance, open_index
from cohort_builder.pacs.objects import fetch, open_object
from segmentation.types import GeometryError

ORTHANC = shutil.which("Orthanc", path=f"{os.environ.get('PATH', '')}:/usr/sbin")
PLUGIN = next(
    (p for d in ("/usr/share/orthanc/plugins", "/usr/lib") for p in Path(d).rglob("libOrthancDicomWeb.so*")), None
)
pytestmark = [
    pytest.mark.services,
    pytest.mark.skipif(ORTHANC is None or PLUGIN is None, reason="Orthanc is not installed: make test-services"),
]
USER, PASSWORD = "reader", "s3cret-pass"


@dataclass
class Pacs:
    """A running Orthanc."""

    folder: Path
    http: int
    dicom: int
    storage: int
    locked: bool = False
    process: subprocess.Popen[bytes] | None = None

    @property
    def web(self) -> str:
        return f"dicomweb+http://127.0.0.1:{self.http}/dicom-web"

    @property
    def get(self) -> str:
        return f"dimse://ORTHANC@127.0.0.1:{self.dicom}"

    @property
    def move(self) -> str:
        return f"{self.get}?calling=COHORT&move={self.storage}"

    def start(self) -> None:
        self.folder.mkdir(exist_ok=True)
        config = {
            "StorageDirectory": str(self.folder / "db"),
            "IndexDirectory": str(self.folder / "db"),
            "HttpPort": self.http,
            "DicomPort": self.dicom,
            "DicomAet": "ORTHANC",
            "RemoteAccessAllowed": False,
            "AuthenticationEnabled": self.locked,
            "RegisteredUsers": {USER: PASSWORD},
            "DicomAlwaysAllowEcho": True,
            "DicomAlwaysAllowFind": True,
            "DicomAlwaysAllowGet": True,
            "DicomAlwaysAllowMove": True,
            "DicomModalities": {"cohort": ["COHORT", "127.0.0.1", self.storage]},
            "Plugins": [str(PLUGIN)],
            "DicomWeb": {"Enable": True, "Root": "/dicom-web/"},
        }
        (self.folder / "orthanc.json").write_text(json.dumps(config))
        assert ORTHANC is not None
        self.process = subprocess.Popen(
            [ORTHANC, str(self.folder / "orthanc.json")], stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL
        )
        for _ in range(200):
            with suppress(requests.ConnectionError):
                if requests.get(f"http://127.0.0.1:{self.http}/system", timeout=5, auth=(USER, PASSWORD)).ok:
                    return
            if self.process.poll() is not None:
                break
            time.sleep(0.1)
        pytest.fail("Orthanc did not start")

    def load(self, export: Path) -> None:
        with requests.Session() as session:
            session.auth = (USER, PASSWORD)
            for path in sorted(p for p in export.rglob("*") if p.is_file()):
                session.post(f"http://127.0.0.1:{self.http}/instances", data=path.read_bytes(), timeout=30)

    def remove(self, sop: str) -> None:
        url = f"http://127.0.0.1:{self.http}"
        (found,) = requests.post(f"{url}/tools/lookup", data=sop, timeout=30, auth=(USER, PASSWORD)).json()
        requests.delete(f"{url}/instances/{found['ID']}", timeout=30, auth=(USER, PASSWORD)).raise_for_status()

    def stop(self) -> None:
        if self.process is not None:
            self.process.kill()
            self.process.wait()
            self.process = None


@contextmanager
def running(folder: Path, **how: bool) -> Iterator[Pacs]:
    with closing(socket.socket()) as a, closing(socket.socket()) as b, closing(socket.socket()) as c:
        for one in (a, b, c):
            one.bind(("127.0.0.1", 0))
        ports = [one.getsockname()[1] for one in (a, b, c)]
    pacs = Pacs(folder, *ports, **how)
    try:
        pacs.start()
        yield pacs
    finally:
        pacs.stop()


@pytest.fixture(scope="module")
def hospital(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("hospital")
    generate_hospital(folder, patients=2, seed=1)
    return folder


@pytest.fixture(scope="module")
def pacs(hospital: Path, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Pacs]:
    with running(tmp_path_factory.mktemp("orthanc")) as pacs:
        pacs.load(hospital / "pacs_export")
        yield pacs


@pytest.fixture(autouse=True)
def _no_waiting(monkeypatch: pytest.MonkeyPatch) -> None:
    for module in ("web", "dimse"):
        monkeypatch.setattr(f"cohort_builder.pacs.sources.{module}._BACKOFF_S", 0.02)


def instances(index: Index) -> list[Instance]:
    return [i for s in index.studies() for uid in index.series_of(s.study_instance_uid) for i in index.instances(uid)]


def facts(index: Index, *, of_bytes: bool) -> dict[str, object]:
    """All that an index says, but where things lie, and (``of_bytes``) what only the bytes of an object tell."""
    found: dict[str, object] = {"studies": index.studies()}
    for one in instances(index):
        plain = replace(one, path=Path(), member="", server="", pixel_offset=None)
        if not of_bytes:
            plain = replace(plain, pixel_length=None, transfer_syntax_uid="")
        found[f"{one.sop_instance_uid}/{one.frame_number}"] = plain
    for study in index.studies():
        drawn = [(o, read_annotations(o)) for o in index.annotation_objects(study.study_instance_uid)]
        found[f"drawn on {study.study_instance_uid}"] = sorted(
            (
                o.sop_instance_uid,
                [(a.annotation_id, a.kind, a.points, a.label) for a in made],
                [s.reason for s in skips],
            )
            for o, (made, skips) in drawn
        )
    return found


@pytest.mark.parametrize("way", ["zip", "dicomweb", "paged", "c-get", "c-move"])
def test_every_way_gives_the_index_of_the_folder(pacs: Pacs, hospital: Path, tmp_path: Path, way: str) -> None:
    """What the four files that are not DICOM become is the folder's own."""
    given: dict[str, Callable[[], str]] = {
        "zip": lambda: zipped(hospital / "pacs_export", tmp_path / "export.zip"),
        "dicomweb": lambda: pacs.web,
        "paged": lambda: f"{pacs.web}?page=2",
        "c-get": lambda: pacs.get,
        "c-move": lambda: pacs.move,
    }
    of_bytes = way not in {"dicomweb", "paged"}
    with closing(index_export(hospital / "pacs_export")) as folder:
        expected = facts(folder, of_bytes=of_bytes)
        counted = {k: n for k, n in folder.counts.items() if k not in {"files", "not_dicom"}}
    with closing(index_export(given[way](), tmp_path / "index.sqlite")) as index:
        assert facts(index, of_bytes=of_bytes) == expected
        assert {k: index.counts[k] for k in counted} == counted
        assert index.skips == []
    with closing(open_index(tmp_path / "index.sqlite")) as again:
        assert facts(again, of_bytes=of_bytes) == expected


def zipped(folder: Path, target: Path) -> str:
    with zipfile.ZipFile(target, "w", zipfile.ZIP_DEFLATED, compresslevel=1) as archive:
        for path in sorted(folder.rglob("*")):
            archive.write(path, path.relative_to(folder))
    return str(target)


def test_fetched_objects_are_the_servers_and_private(pacs: Pacs, hospital: Path, tmp_path: Path) -> None:
    sent = {
        str(pydicom.dcmread(i.path).SOPInstanceUID): i.path for i in instances(index_export(hospital / "pacs_export"))
    }
    with closing(index_export(pacs.web, tmp_path / "index.sqlite")) as index:
        wanted = instances(index)
        with open_object(wanted[0]) as stream:  # one by itself
            assert pydicom.dcmread(stream).SOPInstanceUID == wanted[0].sop_instance_uid
        assert sum(i.path.exists() for i in wanted) == 1
        fetch(wanted)  # the rest by series
        for one in wanted:
            assert pydicom.dcmread(one.path).PixelData == pydicom.dcmread(sent[one.sop_instance_uid]).PixelData
            assert stat.S_IMODE(one.path.stat().st_mode) == 0o600
            assert stat.S_IMODE(one.path.parent.stat().st_mode) == 0o700
        assert not list((tmp_path / "pacs" / "new").iterdir())
        uids = [one.sop_instance_uid for one in wanted]
    assert not any(uid in str(path) for path in (tmp_path / "pacs").rglob("*") for uid in uids[:5])


def test_objects_that_the_server_replaced_are_never_read_with_the_old_header(tmp_path: Path) -> None:
    (tmp_path / "sent").mkdir()
    path, _ = dicom.write(dicom.ct_series(2), tmp_path / "sent")
    ds = pydicom.dcmread(path)
    with running(tmp_path / "orthanc") as pacs:
        pacs.load(tmp_path / "sent")
        for way in (pacs.web, pacs.get):
            with closing(index_export(way, tmp_path / "index.sqlite")) as index:
                read_hounsfield(index.instance(ds.SOPInstanceUID))
            (tmp_path / "unread").mkdir()
            with closing(index_export(pacs.web, tmp_path / "unread" / "index.sqlite")) as index:
                unread = index.instance(ds.SOPInstanceUID)
            ds.RescaleIntercept -= 100
            ds.PixelData = bytes(len(ds.PixelData))
            ds.save_as(path)
            pacs.remove(ds.SOPInstanceUID)
            pacs.load(tmp_path / "sent")
            with pytest.raises(GeometryError, match="changed since it was indexed"):
                read_hounsfield(unread)
            (tmp_path / "index.sqlite").unlink()  # as the documentation says
            shutil.rmtree(tmp_path / "unread")
            with closing(index_export(way, tmp_path / "index.sqlite")) as index:
                assert (read_hounsfield(index.instance(ds.SOPInstanceUID)) == max(ds.RescaleIntercept, -1024)).all()


def test_a_pacs_that_sends_nothing_says_so_at_once(pacs: Pacs, tmp_path: Path) -> None:
    unknown = f"{pacs.get}?calling=STRANGER&move={pacs.storage}"
    with pytest.raises(PacsError, match=r"sends none \(status 0x[0-9A-F]{4}, .*calling="):
        index_export(unknown, tmp_path / "index.sqlite")


def test_a_selection_narrows_what_is_asked_for(pacs: Pacs, hospital: Path, tmp_path: Path) -> None:
    whole = index_export(hospital / "pacs_export").studies()
    one = whole[0]
    assert one.accession_number
    assert one.study_date
    same_day = {s.study_instance_uid for s in whole if (s.patient_id, s.study_date) == (one.patient_id, one.study_date)}
    by_number = Selection(accession_numbers=[one.accession_number])
    by_day = Selection(studies_from=one.study_date, studies_until=one.study_date)
    on_day = {s.study_instance_uid for s in whole if s.study_date == one.study_date}
    for way in (pacs.web, pacs.get):
        for select, expected in ((by_number, same_day), (by_day, on_day)):
            with closing(index_export(way, tmp_path / "index.sqlite", select=select)) as index:
                assert {s.study_instance_uid for s in index.studies()} == expected
    assert len(same_day) < len(whole)
    kept = [p for p in (tmp_path / "pacs").rglob("*") if p.is_file()]
    with closing(open_index(tmp_path / "index.sqlite")) as index:
        assert len(kept) == index.counts["files"]  # what the other selections brought is gone


def test_opted_out_patients_are_not_brought_and_leave_no_copy(pacs: Pacs, tmp_path: Path) -> None:
    with closing(index_export(pacs.get, tmp_path / "index.sqlite")) as index:
        out = index.studies()[0]
        before = index.counts["files"]
    assert out.patient_id
    with closing(
        index_export(pacs.get, tmp_path / "index.sqlite", select=Selection(exclude_patients=[out.patient_id]))
    ) as index:
        assert out.patient_key not in index.patient_keys()
        assert 0 < index.counts["files"] < before
        assert sum(p.is_file() for p in (tmp_path / "pacs").rglob("*")) == index.counts["files"]


def test_credentials_come_from_the_environment_and_go_nowhere(
    hospital: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    monkeypatch.setenv("NETRC", str(tmp_path / "netrc"))
    caplog.set_level("DEBUG")
    with running(tmp_path / "orthanc", locked=True) as pacs:
        one = next(
            p for p in sorted((hospital / "pacs_export").rglob("*")) if p.is_file() and p.stat().st_size > 100_000
        )
        pacs.load(one.parent)
        with pytest.raises(PacsError, match="COHORT_DICOMWEB_AUTHORIZATION"):
            index_export(pacs.web)
        monkeypatch.setenv("COHORT_DICOMWEB_AUTHORIZATION", "Basic d3Jvbmc6cGFzc3dvcmQ=")
        with pytest.raises(PacsError) as refused:
            index_export(pacs.web)
        assert "d3Jv" not in str(refused.value)
        (tmp_path / "netrc").write_text(f"machine 127.0.0.1 login {USER} password {PASSWORD}\n")
        with pytest.raises(PacsError):
            index_export(pacs.web)  # a token goes before netrc
        monkeypatch.delenv("COHORT_DICOMWEB_AUTHORIZATION")
        with closing(index_export(pacs.web, tmp_path / "index.sqlite")) as index:
            fetch(instances(index))
            uid = index.studies()[0].study_instance_uid
    for path in (p for p in tmp_path.iterdir() if p.name.startswith("index.sqlite")):
        assert PASSWORD.encode() not in path.read_bytes()
    ours = [
        r for r in caplog.records if not r.name.startswith("urllib3.connectionpool") or "Starting new" not in r.message
    ]
    assert not any(uid in r.getMessage() or PASSWORD in r.getMessage() for r in ours)


def test_a_server_that_goes_away_is_continued_with(hospital: Path, tmp_path: Path) -> None:
    with running(tmp_path / "orthanc") as pacs:
        pacs.load(hospital / "pacs_export")
        seen = 0

        def gone_in_the_middle(n: int) -> None:
            nonlocal seen
            seen += n
            if seen > 40:
                pacs.stop()

        for way in (pacs.web, pacs.get):
            index_path = tmp_path / way.partition(":")[0] / "index.sqlite"
            index_path.parent.mkdir()
            seen = 0
            with pytest.raises(PacsError, match="run again"):
                index_export(way, index_path, progress=gone_in_the_middle)
            kept = {p: p.stat().st_mtime_ns for p in (index_path.parent / "pacs").rglob("*") if len(p.name) == 32}
            pacs.start()
            with (
                closing(index_export(way, index_path)) as index,
                closing(index_export(hospital / "pacs_export")) as all_,
            ):
                assert facts(index, of_bytes=way == pacs.get) == facts(all_, of_bytes=way == pacs.get)
                wanted = instances(index)
                if way == pacs.get:
                    assert kept
                    assert {p: p.stat().st_mtime_ns for p in kept} == kept
                else:
                    pacs.stop()
                    with pytest.raises(PacsError, match="does not answer"):
                        fetch(wanted)
                    pacs.start()
                    fetch(wanted)


def test_what_the_server_refuses_is_a_skip_and_the_rest_goes_on(pacs: Pacs, hospital: Path, tmp_path: Path) -> None:
    """A proxy before the server refuses one series and one object."""
    with closing(index_export(hospital / "pacs_export")) as folder:
        series = min(i.series_instance_uid for i in instances(folder))
        lost = sum(i.series_instance_uid == series for i in instances(folder))
    with (
        proxy(pacs.http, refuse=f"/series/{series}") as port,
        closing(index_export(f"dicomweb+http://127.0.0.1:{port}/dicom-web", tmp_path / "index.sqlite")) as index,
    ):
        assert [s.reason for s in index.skips] == ["server_refused"] * lost
        assert all(series in s.private["path"] or s.private for s in index.skips)
        assert index.counts["dicom"] > 0
        assert not any(series in s.detail for s in index.skips)


@contextmanager
def proxy(port: int, *, refuse: str) -> Iterator[int]:
    """Answers 503 once, with a time to wait, then passes on; 403 for what it refuses."""
    from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
    from threading import Thread

    class Handler(BaseHTTPRequestHandler):
        tried: set[str] = set()  # noqa: RUF012

        def do_GET(self) -> None:
            if self.path not in self.tried:
                self.tried.add(self.path)
                self.send_response(503)
                self.send_header("Retry-After", "0")
                self.send_header("Content-Length", "0")
                self.end_headers()
                return
            if refuse in self.path:
                self.send_error(403)
                return
            answer = requests.get(
                f"http://127.0.0.1:{port}{self.path}", headers={"Accept": self.headers["Accept"]}, timeout=30
            )
            self.send_response(answer.status_code)
            self.send_header("Content-Type", answer.headers["Content-Type"])
            self.send_header("Content-Length", str(len(answer.content)))
            self.end_headers()
            self.wfile.write(answer.content)

        def log_message(self, *_: object) -> None:
            pass

    server = ThreadingHTTPServer(("127.0.0.1", 0), Handler)
    thread = Thread(target=server.serve_forever)
    thread.start()
    try:
        yield server.server_address[1]
    finally:
        server.shutdown()
        server.server_close()
        thread.join()


def rows(folder: Path) -> dict[str, list[dict[str, object]]]:
    tables = sorted((folder / "dataset" / "data").rglob("*.parquet"))
    return {str(p.relative_to(folder)): pq.read_table(p).to_pylist() for p in tables}


def compare_builds(pacs: Pacs, hospital: Path, tmp_path: Path, config: BuildConfig) -> None:
    made = {}
    for name, given in (("folder", str(hospital / "pacs_export")), ("server", pacs.web)):
        out = tmp_path / name
        build_cohort(hospital / "reports.csv", given, out=out, config=config, key=tmp_path / "key", progress=False)
        made[name] = rows(out)
        made[name + " skips"] = {"": sorted(
            json.loads((out / "run.json").read_text())["skips"].items()
        )}  # fmt: skip
    assert made["server"] == made["folder"]
    assert made["server skips"] == made["folder skips"]
    assert any(made["folder"].values())
    assert stat.S_IMODE((tmp_path / "server" / "private" / "pacs").stat().st_mode) == 0o700


def test_a_build_from_the_server_is_that_of_the_folder(pacs: Pacs, hospital: Path, tmp_path: Path) -> None:
    compare_builds(pacs, hospital, tmp_path, BuildConfig(engine="ellipsoid", pictures=0, volumes="none"))


@pytest.mark.slow
def test_a_build_of_the_whole_demo_in_processes(tmp_path: Path) -> None:
    generate_hospital(tmp_path, patients=6, seed=0)
    with running(tmp_path / "orthanc") as pacs:
        pacs.load(tmp_path / "pacs_export")
        compare_builds(pacs, tmp_path, tmp_path, BuildConfig(volumes="all", shard_mb=64, workers=2))
