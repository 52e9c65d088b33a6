"""A DICOMweb server (PS3.18): studies by QIDO-RS, headers from WADO-RS metadata, objects when they are asked for."""

from __future__ import annotations

import os
from collections import defaultdict
from collections.abc import Iterable, Iterator, Mapping, Sequence
from contextlib import suppress
from dataclasses import replace
from functools import lru_cache, partial
from pathlib import Path
from typing import TYPE_CHECKING, Any

import requests
from dicomweb_client import DICOMwebClient

from cohort_builder.errors import PacsError
from cohort_builder.pacs.elements import READ_ERRORS, is_uid, quietly, text, values_in
from cohort_builder.pacs.headers import Header, HeaderError, Instance, header_of
from cohort_builder.pacs.sources import Entry, Passed
from cohort_builder.pacs.sources.keep import finish, kept_path, make_keep, object_name, prune
from cohort_builder.pacs.sources.multipart import boundary_of, received_parts
from cohort_builder.pacs.sources.query import ANNOTATIONS, IMAGES, Query, is_study_of_use, is_wanted
from cohort_builder.pacs.sources.web import (
    ATTEMPTS,
    TIMEOUT_S,
    Address,
    NoAnswerError,
    RefusedError,
    Session,
    understood,
)

if TYPE_CHECKING:
    from pydicom.dataset import Dataset

_STUDY, _SERIES, _SOP, _MODALITY = "0020000D", "0020000E", "00080018", "00080060"
_DATE, _ACCESSION, _PATIENT, _MODALITIES, _SYNTAX = "00080020", "00080050", "00100020", "00080061", "00083002"
_IN_STUDY = "ModalitiesInStudy"
_PIXEL_DATA = ("7FE00008", "7FE00009", "7FE00010")
_OBJECT = 'multipart/related; type="application/dicom"; transfer-syntax=*'  # as it is stored, whatever that is
_ONE_BY_ONE = 8  # a series of which more is wanted comes in one answer
_PIECE = 1 << 20
_REFUSED_IN_A_ROW = 3  # after so many objects of a series, the rest of it is not asked for

Json = Mapping[str, Any]


class DicomWeb:
    """What a server holds of the studies that ``query`` asks for; objects come to ``keep``."""

    def __init__(self, address: Address, keep: Path, query: Query) -> None:
        self._keep, self._query = keep, query
        self.name = address.name
        self.opted_out: Iterable[tuple[str, str, str]] = ()  # their headers are read, and forgotten with all others
        self._server = _Server(address)
        self._metadata: tuple[str, dict[str, Json]] = ("", {})

    def entries(self) -> Iterator[Entry | Passed]:
        """Objects, study by study, in order of their UIDs."""
        make_keep(self._keep)
        for study in sorted(self._studies()):
            try:
                found = self._server.instances(study)
            except RefusedError as error:
                yield Entry(study.encode(), -1, 0, _refused(error))
                continue
            for series, sop, modality in sorted(found):
                if not is_wanted(modality):
                    yield Passed("other_modality")
                elif is_uid(series) and is_uid(sop):
                    yield Entry(object_name(study, series, sop), 0, 0)
                else:
                    problem = ("invalid_uid", "the server names an object or its series by something that is no UID")
                    yield Entry(object_name(study, series, sop), 0, 0, problem)

    def read(self, entry: Entry) -> Header | None:
        """Read one header out of the metadata of its series."""
        if entry.problem is not None:
            raise HeaderError(*entry.problem)
        study, series, sop = entry.name.decode().split("/")
        if self._metadata[0] != series:
            self._metadata = (series, self._series_metadata(study, series))
        found = self._metadata[1].get(sop)
        if found is None:
            found = self._object_metadata(study, series, sop)
        return _header(found, kept_path(self._keep, entry.name), (sop, series, study))

    def place(self, name: bytes) -> tuple[Path, str, str]:
        """Return where the object is kept, or will be, and the server."""
        return kept_path(self._keep, name), "", self.name

    def keep_only(self, names: Iterable[bytes]) -> None:
        """Remove what was fetched of all other objects."""
        prune(self._keep, names)

    def close(self) -> None:
        """Close the connections."""
        self._server.close()

    def _studies(self) -> set[str]:
        """Study Instance UIDs of the studies that may hold something of use."""
        found: set[str] = set()
        for study in self._query.ask(self._matching):
            day = _first(study, _DATE)
            if self._query.fits(day, _first(study, _ACCESSION)) and is_study_of_use(_modalities(study)):
                found.add(_first(study, _STUDY))
                if beside := self._query.companions(_first(study, _PATIENT), day):
                    others = (other for other in self._matching(beside) if _first(other, _DATE) == day)
                    found |= {_first(other, _STUDY) for other in others if is_study_of_use(_modalities(other))}
        return set(filter(is_uid, found))

    def _matching(self, filters: Mapping[str, str]) -> list[Json]:
        by_modality = [{**filters, _IN_STUDY: modality} for modality in (*IMAGES, *ANNOTATIONS)]
        try:
            return [study for one in by_modality for study in self._server.studies(one, in_one_page=True)]
        except RefusedError:  # not every server matches by modality, and not every one that does can go on from there
            try:
                return list(self._server.studies(filters))
            except RefusedError as error:
                raise PacsError(f"the DICOMweb server does not list studies ({error}); check its address") from None

    def _series_metadata(self, study: str, series: str) -> dict[str, Json]:
        self._in_a_row = 0
        try:
            return {_first(item, _SOP): item for item in self._server.metadata(study, series)}
        except RefusedError:
            return {}  # each object is asked for by itself: one that the server cannot read must not cost the rest

    def _object_metadata(self, study: str, series: str, sop: str) -> Json:
        if self._in_a_row < _REFUSED_IN_A_ROW:
            try:
                (found,) = self._server.metadata(study, series, sop)
            except (RefusedError, ValueError) as error:
                self._in_a_row += 1
                raise HeaderError(*_refused(error)) from error
            self._in_a_row = 0
            return found
        raise HeaderError(*_refused(RefusedError("as for others of its series")))


def fetch_objects(instances: Sequence[Instance]) -> None:
    """Bring objects to their ``path``; a series of which several are wanted comes in one answer.

    Raises
    ------
    OSError
        The server refuses some of them: the others are there.
    PacsError
        The server does not answer, or wants other credentials.

    """
    wanted: dict[tuple[str, str, str], dict[str, Path]] = defaultdict(dict)
    for instance in instances:
        series = (instance.server, instance.study_instance_uid, instance.series_instance_uid)
        wanted[series][instance.sop_instance_uid] = instance.path
    for (server, study, series_uid), paths in wanted.items():
        _server(server, os.getpid()).fetch(study, series_uid, paths)


@lru_cache(maxsize=4)
def _server(name: str, _process: int) -> _Server:
    """One connection a server and process: a child must not speak into its parent's."""
    return _Server(Address.parse(name))


class _Server:
    """The requests; each raises ``RefusedError`` or ``PacsError`` and nothing else of HTTP."""

    def __init__(self, address: Address) -> None:
        self._address, self._session = address, Session()
        with understood():
            self._client = DICOMwebClient(address.base, session=self._session, timeout=TIMEOUT_S, permissive_uid=True)
        self._client.set_http_retry_params(retry=False)  # the session does it, and heeds Retry-After

    def close(self) -> None:
        self._session.close()

    def studies(self, filters: Mapping[str, str], *, in_one_page: bool = False) -> Iterator[Json]:
        """Studies that match; with ``in_one_page`` refused where they may be more than one answer holds.

        Orthanc 1.10 loses studies where it matches by modality and is asked for the next page.
        """
        fields = ["StudyDate", "AccessionNumber", "PatientID", _IN_STUDY]
        search = partial(self._client.search_for_studies, search_filters=dict(filters), fields=fields)
        return self._pages(_STUDY, search, in_one_page=in_one_page)

    def instances(self, study: str) -> list[tuple[str, str, str]]:
        """Series and SOP Instance UIDs of all objects of a study, and the modality of the series."""
        fields = ["Modality", "SeriesInstanceUID"]
        search = partial(self._client.search_for_instances, study_instance_uid=study, fields=fields)
        found = self._pages(_SOP, search)
        return [(_first(item, _SERIES), _first(item, _SOP), _first(item, _MODALITY)) for item in found]

    def metadata(self, study: str, series: str, sop: str | None = None) -> list[Json]:
        with understood():
            if sop is None:
                return _objects(self._client.retrieve_series_metadata(study, series))
            return _objects([self._client.retrieve_instance_metadata(study, series, sop)])

    def _pages(self, key: str, search: Any, *, in_one_page: bool = False) -> Iterator[Json]:
        """All results of a query. A server may give fewer at once than asked for, or all at once however asked."""
        seen: set[str] = set()
        offset = 0
        while True:
            with understood():
                page = _objects(search(limit=self._address.page, offset=offset))
            if in_one_page and len(page) >= self._address.page:
                raise RefusedError("more than one page")
            offset += len(page)
            new = [item for item in page if _first(item, key) not in seen]
            seen.update(_first(item, key) for item in new)
            yield from new
            if not new:
                return

    def fetch(self, study: str, series: str, paths: Mapping[str, Path]) -> None:
        """Bring objects of one series, by their SOP Instance UIDs."""
        left = dict(paths)
        if len(left) > _ONE_BY_ONE:
            with suppress(RefusedError):
                self._receive(study, series, None, left)
        refused = [sop for sop in list(left) if not self._receive_one(study, series, sop, left)]
        if refused:
            raise OSError(f"the server does not give {len(refused)} of {len(paths)} objects of a series")

    def _receive_one(self, study: str, series: str, sop: str, left: dict[str, Path]) -> bool:
        with suppress(RefusedError):
            self._receive(study, series, sop, left)
        return sop not in left

    def _receive(self, study: str, series: str, sop: str | None, left: dict[str, Path]) -> None:
        """Ask for a series or one object of it, again where the answer breaks off; what came leaves ``left``."""
        url = f"{self._address.base}/studies/{study}/series/{series}" + (f"/instances/{sop}" if sop else "")
        for attempt in range(1, ATTEMPTS + 1):
            with understood():
                answer = self._session.get(url, headers={"Accept": _OBJECT}, stream=True, timeout=TIMEOUT_S)
                answer.raise_for_status()
            try:
                with understood(), answer:
                    return self._take(answer, study, series, left)
            except NoAnswerError:
                if attempt == ATTEMPTS or not left:
                    raise
        return None

    def _take(self, answer: requests.Response, study: str, series: str, left: dict[str, Path]) -> None:
        content_type = answer.headers.get("Content-Type", "")
        keep = next(iter(left.values())).parent.parent
        pieces = answer.iter_content(_PIECE)
        for path in received_parts(pieces, boundary_of(content_type), keep):
            sop = _sop_of(path)
            if sop is not None and is_uid(sop):  # also those that were not asked for: they will be
                finish(path, kept_path(keep, object_name(study, series, sop)))
                left.pop(sop, None)


def _header(found: Json, path: Path, uids: tuple[str, str, str]) -> Header | None:
    from pydicom.dataset import FileMetaDataset

    syntax = _first(found, _SYNTAX)
    try:
        with quietly():
            ds = _dataset(found)
            ds.file_meta = FileMetaDataset()
            header = header_of(ds, path)
    except READ_ERRORS as error:
        detail = f"the server's metadata of the object cannot be read ({type(error).__name__})"
        raise HeaderError("unreadable_dicom", detail) from error
    if header is None:
        return None
    instance = header.instance
    if (instance.sop_instance_uid, instance.series_instance_uid, instance.study_instance_uid) != uids:
        raise HeaderError("unreadable_dicom", "the server's metadata are those of another object")
    frames = tuple(replace(frame, transfer_syntax_uid=syntax) for frame in header.frames)
    return replace(header, instance=replace(instance, transfer_syntax_uid=syntax), frames=frames)


def _dataset(found: Json) -> Dataset:
    """Metadata as a dataset, with decimal strings as files have them: JSON's 120 would be read as "120.0"."""
    from pydicom.dataset import Dataset

    ds = Dataset.from_json({tag: value for tag, value in found.items() if tag not in _PIXEL_DATA})
    for element in ds.iterall():
        if element.VR == "DS":
            element.value = [f"{value:.16g}" for value in values_in(element.value)]
    return ds


def _sop_of(path: Path) -> str | None:
    import pydicom

    with suppress(*READ_ERRORS), quietly():
        return text(pydicom.dcmread(path, stop_before_pixels=True, specific_tags=["SOPInstanceUID"]), "SOPInstanceUID")
    return None


def _objects(answer: Iterable[Any]) -> list[Json]:
    items = list(answer)
    if not all(isinstance(item, dict) for item in items):
        raise ValueError("not a list of datasets")
    return items


def _values(item: Json, tag: str) -> list[Any]:
    element = item.get(tag)
    values = element.get("Value") if isinstance(element, dict) else None
    return values if isinstance(values, list) else []


def _first(item: Json, tag: str) -> str:
    values = _values(item, tag)
    return str(values[0]).strip() if values and values[0] is not None else ""


def _modalities(study: Json) -> Iterable[str]:
    return map(str, _values(study, _MODALITIES))


def _refused(error: Exception) -> tuple[str, str]:
    said = str(error) if isinstance(error, RefusedError) else "no answer for it"
    return "server_refused", f"the server lists it and does not give it ({said}); ask its administrator, or run again"
