"""A PACS by its classic network protocol (PS3.7): C-FIND lists, C-GET or C-MOVE brings, and files are indexed.

C-FIND knows no geometry, so what is of use comes to ``keep`` while the export is listed; what is there stays there and
is not asked for again.
"""

from __future__ import annotations

import logging
import socket
import time
from collections.abc import Iterable, Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING, Any

from pydicom.dataset import Dataset
from pynetdicom import AE, build_role, evt
from pynetdicom.presentation import build_context

from cohort_builder.errors import PacsError
from cohort_builder.pacs.elements import is_uid, quietly, text, value_of, values_in
from cohort_builder.pacs.headers import Header, HeaderError, read_header
from cohort_builder.pacs.sources import Entry, Passed
from cohort_builder.pacs.sources.keep import finish, kept_path, make_keep, object_name, prune, unfinished
from cohort_builder.pacs.sources.node import Node
from cohort_builder.pacs.sources.query import ANNOTATION_CLASSES, ANNOTATIONS, IMAGES, Query, is_study_of_use, is_wanted

if TYPE_CHECKING:
    from pynetdicom.association import Association

_ECHO, _FIND, _GET, _MOVE = "1.2.840.10008.1.1", *(f"1.2.840.10008.5.1.4.1.2.2.{end}" for end in (1, 3, 2))

_CONNECT_S, _ANSWER_S = 30.0, 300.0
_ATTEMPTS, _BACKOFF_S = 4, 0.5
_PENDING = frozenset({0xFF00, 0xFF01})
_REFUSED, _STORED = 0xA700, 0x0000
_IN_A_ROW = 3  # after so many objects of a series that do not come, the rest of it is not asked for
_IN_VAIN = 5  # after so many series of which nothing came, before anything did, nothing will
_PLAIN_SYNTAXES = ("1.2.840.10008.1.2.1", "1.2.840.10008.1.2", "1.2.840.10008.1.2.1.99")
_CT_CLASSES = tuple(f"1.2.840.10008.5.1.4.1.1.2{end}" for end in ("", ".1", ".2"))
# One context each, so that the server sends an image in the syntax it is stored in: plain, JPEG, JPEG lossless,
# JPEG-LS, JPEG 2000, HTJ2K, RLE, big endian (PS3.5 section 10).
_IMAGE_SYNTAXES = (
    *_PLAIN_SYNTAXES,
    *(f"1.2.840.10008.1.2.4.{end}" for end in ("50", "51", "57", "70", "80", "81", "90", "91", "201", "202", "203")),
    "1.2.840.10008.1.2.5",
    "1.2.840.10008.1.2.2",
)


class Dimse:
    """What a PACS holds of the studies that ``query`` asks for, brought to ``keep``."""

    def __init__(self, node: Node, keep: Path, query: Query) -> None:
        self._keep, self._query = keep, query
        self.name = node.name
        self.opted_out: set[tuple[str, str, str]] = set()
        self._peer = _Peer(node, keep)
        self._in_vain: list[str] | None = []  # why nothing came of each series so far; None: something did

    def entries(self) -> Iterator[Entry | Passed]:
        """Objects, study by study, in order of their UIDs, as files that are here."""
        make_keep(self._keep)
        with _silence():
            self._peer.echo()
            with self._peer.receiving():
                for study in sorted(self._studies()):
                    yield from self._study(study)
                self._require_some(1)

    def read(self, entry: Entry) -> Header | None:
        """Read the header of the file."""
        if entry.problem is not None:
            raise HeaderError(*entry.problem)
        return read_header(kept_path(self._keep, entry.name))

    def place(self, name: bytes) -> tuple[Path, str, str]:
        """Return the file."""
        return kept_path(self._keep, name), "", ""

    def keep_only(self, names: Iterable[bytes]) -> None:
        """Remove what was brought of all other objects."""
        prune(self._keep, names)

    def close(self) -> None:
        """Release the association."""
        with _silence():
            self._peer.close()

    def _studies(self) -> set[str]:
        found = set()
        for study in filter(self._may_come, self._query.ask(self._matching)):
            day, patient = text(study, "StudyDate") or "", text(study, "PatientID") or ""
            if self._query.fits(day, text(study, "AccessionNumber") or ""):
                found.add(_uid(study, "StudyInstanceUID"))
                if beside := self._query.companions(patient, day):
                    others = filter(self._may_come, self._matching(beside))
                    found |= {_uid(o, "StudyInstanceUID") for o in others if text(o, "StudyDate") == day}
        return found - {""}

    def _may_come(self, study: Dataset) -> bool:
        patient_id, number = (text(study, keyword) or "" for keyword in ("PatientID", "AccessionNumber"))
        if self._query.opts_out(patient_id):
            self.opted_out.add((_uid(study, "StudyInstanceUID"), number, patient_id))
            return False
        return is_study_of_use(map(str, values_in(value_of(study, "ModalitiesInStudy"))))

    def _matching(self, filters: Mapping[str, str]) -> list[Dataset]:
        studies: list[Dataset] = []
        keys = {"StudyInstanceUID": "", "StudyDate": "", "AccessionNumber": "", "PatientID": "", **filters}
        for modality in (*IMAGES, *ANNOTATIONS):
            try:
                studies += self._peer.find("STUDY", {**keys, "ModalitiesInStudy": modality})
            except _RefusedError as error:
                advice = "narrow the days with [select]: servers limit how much they list at once"
                raise PacsError(f"the PACS does not list studies ({error}); {advice}") from None
        return studies

    def _study(self, study: str) -> Iterator[Entry | Passed]:
        try:
            found = self._peer.find("SERIES", {"StudyInstanceUID": study, "SeriesInstanceUID": "", "Modality": ""})
        except _RefusedError as error:
            yield Entry(study.encode(), -1, 0, _problem(error))
            return
        series = {_uid(one, "SeriesInstanceUID"): text(one, "Modality") or "" for one in found}
        for uid, modality in sorted(series.items()):
            if uid and is_wanted(modality):
                yield from self._series(study, uid)
            else:
                yield Passed("other_modality")

    def _series(self, study: str, series: str) -> Iterator[Entry]:
        keys = {"StudyInstanceUID": study, "SeriesInstanceUID": series, "SOPInstanceUID": ""}
        try:
            sops = {_uid(image, "SOPInstanceUID") for image in self._peer.find("IMAGE", keys)} - {""}
        except _RefusedError as error:
            yield Entry(object_name(study, series, ""), -1, 0, _problem(error))
            return
        paths = {sop: kept_path(self._keep, object_name(study, series, sop)) for sop in sops}
        said = self._peer.bring(study, series, {sop: path for sop, path in paths.items() if not path.exists()}, paths)
        if any(path.exists() for path in paths.values()):
            self._in_vain = None
        elif said is not None and self._in_vain is not None:
            self._in_vain.append(str(said))
            self._require_some(_IN_VAIN)
        for sop, path in sorted(paths.items()):
            name = object_name(study, series, sop)
            if path.exists():
                status = path.stat()
                yield Entry(name, status.st_size, status.st_mtime_ns)
            else:
                yield Entry(name, -1, 0, _problem(said or _RefusedError("it did not come")))

    def _require_some(self, n_series: int) -> None:
        """Raise ``PacsError`` if nothing came of the first ``n_series`` or more, for one and the same reason."""
        if self._in_vain and len(self._in_vain) >= n_series and len(set(self._in_vain)) == 1:
            raise PacsError(
                f"the PACS lists objects and sends none ({self._in_vain[0]}, {len(self._in_vain)} series); check that "
                "it knows the title given as calling= and may send to it, by C-MOVE to this machine's address and port"
            )


class _RefusedError(Exception):
    """The PACS refused one request; the next may go well."""


class _Peer:
    """The association with a PACS: made when needed, made again when it broke."""

    def __init__(self, node: Node, keep: Path) -> None:
        self._node, self._keep = node, keep
        self._wanted: dict[str, Path] = {}
        self._association: Association | None = None
        self._handlers: list[Any] = [(evt.EVT_C_STORE, self._store), (evt.EVT_CONN_OPEN, _send_at_once)]
        self._entity = AE(ae_title=node.calling)
        self._entity.acse_timeout = self._entity.connection_timeout = _CONNECT_S
        self._entity.dimse_timeout = self._entity.network_timeout = _ANSWER_S
        self._entity.maximum_pdu_size = 0

    def echo(self) -> None:
        """Raise ``PacsError`` unless the PACS answers."""
        status = self._associated().send_c_echo()
        if getattr(status, "Status", None) != 0:
            raise PacsError("the PACS does not answer C-ECHO; check its address, port and titles")

    @contextmanager
    def receiving(self) -> Iterator[None]:
        """Listen for what C-MOVE sends, if that is the way."""
        if self._node.move_port is None:
            yield
            return
        for sop_class, syntaxes in _contexts():
            self._entity.add_supported_context(sop_class, list(syntaxes))
        self._entity.add_supported_context(_ECHO)
        try:
            server = self._entity.start_server(
                (self._node.bind, self._node.move_port), block=False, evt_handlers=self._handlers
            )
        except OSError as error:
            raise PacsError(
                f"port {self._node.move_port} of this machine cannot be listened on ({type(error).__name__}); give "
                "another one with move="
            ) from error
        try:
            yield
        finally:
            if server is not None:
                server.shutdown()

    def find(self, level: str, keys: Mapping[str, str]) -> list[Dataset]:
        """All matches of a C-FIND.

        Raises
        ------
        _RefusedError
            The PACS ends with a failure.

        """
        with quietly():
            query = Dataset()
            query.QueryRetrieveLevel = level
            for keyword, value in keys.items():
                setattr(query, keyword, value)
            for _ in range(_ATTEMPTS):
                found = []
                for status, match in self._associated().send_c_find(query, _FIND):
                    code = getattr(status, "Status", None)
                    if code in _PENDING and match is not None:
                        found.append(match)
                    elif code == 0:
                        return found
                    elif code is not None and code not in _PENDING:
                        raise _RefusedError(f"status 0x{code:04X}")
                self._lose()  # it broke off: from the start again
        raise _RefusedError("the association broke off each time")

    def bring(
        self, study: str, series: str, missing: Mapping[str, Path], whole: Mapping[str, Path]
    ) -> _RefusedError | None:
        """Bring what is missing of a series: all in one request, or object by object; says why some did not come."""
        said = None
        if len(missing) == len(whole):
            said = self._retrieve({"StudyInstanceUID": study, "SeriesInstanceUID": series}, missing)
        in_a_row = 0
        for sop, path in missing.items():
            if in_a_row < _IN_A_ROW and not path.exists():
                keys = {"StudyInstanceUID": study, "SeriesInstanceUID": series, "SOPInstanceUID": sop}
                said = self._retrieve(keys, {sop: path}) or said
                in_a_row = 0 if path.exists() else in_a_row + 1
        return said

    def _retrieve(self, keys: Mapping[str, str], wanted: Mapping[str, Path]) -> _RefusedError | None:
        query = Dataset()
        query.QueryRetrieveLevel = "IMAGE" if "SOPInstanceUID" in keys else "SERIES"
        for keyword, value in keys.items():
            setattr(query, keyword, value)
        code = None
        for _ in range(_ATTEMPTS):
            association = self._associated()
            self._wanted = dict(wanted)
            if self._node.move_port is None:
                answers = association.send_c_get(query, _GET)
            else:
                answers = association.send_c_move(query, self._node.calling, _MOVE)
            code = None
            for status, _identifier in answers:
                code = getattr(status, "Status", None)
            self._wanted = {}
            if code is not None or all(path.exists() for path in wanted.values()):
                break
            self._lose()
        return _RefusedError("the association broke off each time" if code is None else f"status 0x{code:04X}")

    def _store(self, event: evt.Event) -> int:
        """Keep one object that was asked for; nobody can push others."""
        path = self._wanted.get(str(getattr(event.request, "AffectedSOPInstanceUID", "")))
        if path is None:
            return _REFUSED
        try:
            with unfinished(self._keep) as (stream, temporary):
                stream.write(event.encoded_dataset())
                stream.close()
                finish(temporary, path)
        except OSError:
            return _REFUSED
        return _STORED

    def _associated(self) -> Association:
        if self._association is not None and self._association.is_established:
            return self._association
        contexts = [build_context(sop_class) for sop_class in (_ECHO, _FIND, _GET, _MOVE)]
        roles: list[Any] = []
        if self._node.move_port is None:
            for sop_class, syntaxes in _contexts():
                roles.append(build_role(sop_class, scp_role=True))
                apart = [[one] for one in syntaxes] if sop_class in _CT_CLASSES else [list(syntaxes)]
                contexts += [build_context(sop_class, one) for one in apart]
        for attempt in range(_ATTEMPTS):
            association = self._entity.associate(
                self._node.host, self._node.port, contexts, self._node.title, ext_neg=roles, evt_handlers=self._handlers
            )
            if association.is_established:
                self._association = association
                self._require(association)
                return association
            if association.is_rejected:
                raise PacsError("the PACS rejects the association; check both titles, and that it knows calling=")
            time.sleep(_BACKOFF_S * 2**attempt)
        raise PacsError(
            f"the PACS cannot be reached ({_ATTEMPTS} attempts); check its address, or run again later: with an index "
            "in a file a run continues where it stopped"
        )

    def _require(self, association: Association) -> None:
        accepted = {str(context.abstract_syntax) for context in association.accepted_contexts}
        way, verb = (_GET, "C-GET; give move=PORT for C-MOVE") if self._node.move_port is None else (_MOVE, "C-MOVE")
        for needed, said in ((_FIND, "C-FIND"), (way, verb)):
            if needed not in accepted:
                raise PacsError(f"the PACS does not offer {said}")

    def _lose(self) -> None:
        if self._association is not None and self._association.is_established:
            self._association.abort()
        self._association = None

    def close(self) -> None:
        if self._association is not None and self._association.is_established:
            self._association.release()
        self._association = None


def _send_at_once(event: evt.Event) -> None:
    """A request is two small writes: held together by the system, the second waits 40 ms for the first's receipt."""
    opened = event.assoc.dul.socket
    if opened is not None and opened.socket is not None:
        opened.socket.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)


def _contexts() -> Iterator[tuple[str, tuple[str, ...]]]:
    """Storage classes of interest, and the transfer syntaxes they may come in."""
    from pydicom._uid_dict import UID_dictionary

    for sop_class in _CT_CLASSES:
        yield sop_class, _IMAGE_SYNTAXES
    for uid, (name, kind, _info, retired, _keyword) in UID_dictionary.items():
        if uid.startswith(ANNOTATION_CLASSES) and kind == "SOP Class" and not retired and "Storage" in name:
            yield uid, _PLAIN_SYNTAXES


def _uid(ds: Dataset, keyword: str) -> str:
    value = text(ds, keyword) or ""
    return value if is_uid(value) else ""


def _problem(error: _RefusedError) -> tuple[str, str]:
    return "server_refused", f"the server lists it and does not give it ({error}); ask its administrator, or run again"


@contextmanager
def _silence() -> Iterator[None]:
    """Keep pynetdicom's messages from every log: they show requests, and requests hold identifiers."""
    logger = logging.getLogger("pynetdicom")
    before, logger.propagate = logger.propagate, False
    try:
        yield
    finally:
        logger.propagate = before
