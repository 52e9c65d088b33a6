"""DICOMweb without a DICOM server: what an answer is made of, and where credentials must not go."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from datetime import date, timedelta
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from threading import Thread

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from cohort_builder import index_export
from cohort_builder.errors import PacsError
from cohort_builder.pacs.sources.keep import make_keep
from cohort_builder.pacs.sources.multipart import boundary_of, received_parts
from cohort_builder.pacs.sources.query import Query
from cohort_builder.pacs.sources.web import Address

CONTENT = st.binary(max_size=300) | st.sampled_from([b"\r\n--b", b"\r\n-", b"--b--", b"\r\n\r\n", b""])


def pieces(body: bytes, sizes: list[int]) -> Iterator[bytes]:
    at = 0
    while at < len(body):
        size = sizes.pop() if sizes else 7
        yield body[at : at + size]
        at += size


@settings(max_examples=150, deadline=None)
@given(st.lists(CONTENT, max_size=4), st.lists(st.integers(1, 400), max_size=30), st.booleans())
def test_parts_come_out_as_they_went_in(
    tmp_path_factory: pytest.TempPathFactory, parts: list[bytes], sizes: list[int], preamble: bool
) -> None:
    boundary = b"boundary-that-no-part-holds"
    keep = tmp_path_factory.getbasetemp() / "keep"
    make_keep(keep)
    body = b"preamble\r\n" if preamble else b""
    for part in parts:
        body += b"--" + boundary + b"\r\nContent-Type: application/dicom\r\n\r\n" + part + b"\r\n"
    body += b"--" + boundary + b"--\r\n"
    assert [p.read_bytes() for p in received_parts(pieces(body, sizes), boundary, keep)] == parts
    assert [p.read_bytes() for p in received_parts(pieces(body, sizes), None, keep)] == [body]
    with pytest.raises(ValueError, match="middle"):
        list(received_parts(pieces(body[: -len(boundary) - 6], sizes), boundary, keep))
    assert list((keep / "new").iterdir()) == []


def test_boundaries_as_servers_write_them() -> None:
    assert boundary_of('multipart/related; type="application/dicom"; boundary="a b=c"') == b"a b=c"
    assert boundary_of("Multipart/Related; Boundary=xyz; type=application/dicom") == b"xyz"
    assert boundary_of("application/dicom") is None


@contextmanager
def answering(status: int, **headers: str) -> Iterator[tuple[int, list[str]]]:
    """A server that answers everything with one status, and the headers that it was sent."""
    seen: list[str] = []

    class Handler(BaseHTTPRequestHandler):
        def do_GET(self) -> None:
            seen.append(str(self.headers))
            self.send_response(status)
            for name, value in headers.items():
                self.send_header(name, value)
            self.send_header("Content-Length", "0")
            self.end_headers()

        def log_message(self, *_: object) -> None:
            pass

    server = ThreadingHTTPServer(("127.0.0.1", 0), Handler)
    thread = Thread(target=server.serve_forever)
    thread.start()
    try:
        yield server.server_address[1], seen
    finally:
        server.shutdown()
        server.server_close()
        thread.join()


def test_credentials_do_not_follow_a_redirect(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("COHORT_DICOMWEB_HEADERS", '{"X-Api-Key": "hunter2"}')
    monkeypatch.setenv("COHORT_DICOMWEB_AUTHORIZATION", "Bearer hunter3")
    with (
        answering(200) as (elsewhere, theirs),
        answering(302, Location=f"http://127.0.0.1:{elsewhere}/") as (port, ours),
    ):
        with pytest.raises(PacsError, match="redirects") as refused:
            index_export(f"dicomweb+http://127.0.0.1:{port}/dicom-web")
        assert theirs == []
        assert "X-Api-Key: hunter2" in ours[0]
        assert "Authorization: Bearer hunter3" in ours[0]
    assert "hunter" not in str(refused.value)


@pytest.mark.parametrize("given_as", ["[]", "{", '{"a": 1}'])
def test_headers_must_be_json(monkeypatch: pytest.MonkeyPatch, given_as: str) -> None:
    monkeypatch.setenv("COHORT_DICOMWEB_HEADERS", given_as)
    with pytest.raises(PacsError, match="JSON object"):
        index_export("dicomweb+http://127.0.0.1:9/dicom-web")


@pytest.mark.parametrize("status", [403, 404, 503])
def test_a_server_without_studies_to_list_says_its_status(monkeypatch: pytest.MonkeyPatch, status: int) -> None:
    monkeypatch.setattr("cohort_builder.pacs.sources.web._BACKOFF_S", 0.0)
    with answering(status, **{"Retry-After": "0"}) as (port, seen):
        with pytest.raises(PacsError, match=f"does not list studies .HTTP {status}"):
            index_export(f"dicomweb+http://127.0.0.1:{port}/")
        assert len(seen) == (10 if status == 503 else 2)


def test_a_server_that_is_not_there_says_so(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("cohort_builder.pacs.sources.web._BACKOFF_S", 0.0)
    with answering(200) as (port, _):
        pass
    with pytest.raises(PacsError, match="does not answer") as unanswered:
        index_export(f"dicomweb+http://127.0.0.1:{port}/dicom-web", tmp_path / "index.sqlite")
    assert "is kept" not in str(unanswered.value)  # nothing is, without an index in a file


def test_addresses_are_remembered_without_their_options() -> None:
    assert Address.parse("dicomweb+https://Host:8443/a/b/?page=7") == Address("https://host:8443/a/b", 7)
    assert Address.parse("dicomweb+http://[::1]:80/x").name == "dicomweb+http://[::1]:80/x"


def asked(query: Query, held: dict[date, int]) -> list[dict[str, str]]:
    """The queries to a server that holds so many studies of each day; they must find them all, each once."""
    queries: list[dict[str, str]] = []

    def matching(keys: dict[str, str]) -> list[tuple[date, int]]:
        queries.append(keys)
        first, _, last = keys.get("StudyDate", "").partition("-")
        days = (day for day in sorted(held) if first <= day.strftime("%Y%m%d") <= (last or first))
        return [(day, i) for day in days for i in range(held[day])][:51]  # cut off without a word

    found = list(query.ask(matching))
    assert len(found) == len(set(found)) == sum(held.values())
    return queries


def test_few_queries_list_a_sparse_archive_and_none_is_cut_off() -> None:
    decade = Query(date(2010, 1, 1), date(2019, 12, 31))
    assert len(asked(decade, {date(2014, 5, 6): 9})) < 15
    busy = {date(2014, 1, 1) + timedelta(days=day): 30 + day % 20 for day in range(200)}
    assert len(asked(decade, {**busy, date(2019, 12, 31): 51})) < 300
    assert [q["StudyDate"] for q in asked(Query(date.max, date.max), {date.max: 51})] == ["99991231"]
    assert asked(Query(date(2020, 2, 2), date(2020, 2, 1)), {}) == []


def test_queries_hold_what_was_selected_and_answers_are_looked_at_again() -> None:
    whole = Query()
    assert asked(whole, {}) == [{}]
    days = Query(date(2020, 2, 28), date(2020, 3, 1))
    assert asked(Query(first_day=date(2020, 2, 28)), {}) == [{"StudyDate": "20200228-"}]
    assert days.fits("20200229", "")
    assert not days.fits("20200302", "")
    numbers = Query(accession_numbers=("A 1", "B*"))
    assert [f["AccessionNumber"] for f in asked(numbers, {})] == ["A 1", "B*"]
    assert numbers.fits("", "a1")
    assert not numbers.fits("", "B22")
    assert numbers.companions("4217", "20200101") == {"PatientID": "4217", "StudyDate": "20200101"}
    assert numbers.companions("42*", "20200101") is None
    assert whole.companions("4217", "20200101") is None
