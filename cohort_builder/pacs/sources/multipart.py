"""The parts of a multipart/related answer (RFC 2046 5.1), each written to a file as it comes in."""

from __future__ import annotations

import re
from collections.abc import Iterable, Iterator
from pathlib import Path

from cohort_builder.pacs.sources.keep import unfinished

_BOUNDARY = re.compile(r'boundary="?([^";,]+)"?', re.IGNORECASE)
_HEADERS_END = b"\r\n\r\n"
_LONGEST_HEADERS = 1 << 16


def boundary_of(content_type: str) -> bytes | None:
    """The boundary that a Content-Type names; None if the answer is one part."""
    if not content_type.lower().startswith("multipart/"):
        return None
    found = _BOUNDARY.search(content_type)
    return found.group(1).strip().encode() if found else None


def received_parts(pieces: Iterable[bytes], boundary: bytes | None, keep: Path) -> Iterator[Path]:
    """Write one part after the other to a file in ``keep`` that is gone when the next one is asked for.

    Parameters
    ----------
    pieces
        The body of the answer as it comes in, in pieces of any size.
    boundary
        What stands between the parts; None: the body is one part.

    Raises
    ------
    ValueError
        The body ends in the middle of a part, or is not what it says.

    """
    if boundary is None:
        with unfinished(keep) as (stream, path):
            for piece in pieces:
                stream.write(piece)
            stream.close()
            yield path
        return
    body = _Body(pieces)
    delimiter = b"\r\n--" + boundary
    body.held[:0] = b"\r\n"  # the first boundary may be the start of the body
    body.skip_through(delimiter)
    while not body.starts_with(b"--"):
        body.skip_through(_HEADERS_END)
        with unfinished(keep) as (stream, path):
            for piece in body.until(delimiter):
                stream.write(piece)
            stream.close()
            yield path


class _Body:
    """A body that comes in pieces; ``held`` is what came and was not yet taken."""

    def __init__(self, pieces: Iterable[bytes]) -> None:
        self._pieces = iter(pieces)
        self.held = bytearray()

    def until(self, mark: bytes) -> Iterator[bytes]:
        """Take all before ``mark``, and ``mark``."""
        while (at := self.held.find(mark)) < 0:
            sure = len(self.held) - len(mark) + 1  # a mark may begin in what is left
            if sure > 0:
                yield bytes(self.held[:sure])
                del self.held[:sure]
            self._more()
        yield bytes(self.held[:at])
        del self.held[: at + len(mark)]

    def skip_through(self, mark: bytes) -> None:
        if sum(map(len, self.until(mark))) > _LONGEST_HEADERS:
            raise ValueError("headers without an end")

    def starts_with(self, mark: bytes) -> bool:
        while len(self.held) < len(mark):
            self._more()
        return self.held.startswith(mark)

    def _more(self) -> None:
        piece = next(self._pieces, None)
        if piece is None:
            raise ValueError("the answer ends in the middle")
        self.held += piece
