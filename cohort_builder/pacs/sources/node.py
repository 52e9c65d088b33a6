"""The address of a PACS that speaks DIMSE."""

from __future__ import annotations

import re
from dataclasses import dataclass
from urllib.parse import parse_qs, unquote, urlsplit

from cohort_builder.errors import PacsError

_TITLE = re.compile(r"[!-\[\]-~]([ -\[\]-~]{0,14}[!-\[\]-~])?")  # PS3.5 6.2, AE


@dataclass(frozen=True, slots=True)
class Node:
    """A PACS, and what we are called. ``move_port``: bring by C-MOVE to this port of ``bind``; None: by C-GET."""

    title: str
    host: str
    port: int
    calling: str = "COHORT"
    move_port: int | None = None
    bind: str = "127.0.0.1"

    @property
    def name(self) -> str:
        """What the index remembers."""
        return f"dimse://{self.title}@{self.host}:{self.port}"

    @classmethod
    def parse(cls, url: str) -> Node:
        """Read ``dimse://AET@host:port``, with ``?calling=AET``, ``&move=PORT`` and ``&bind=ADDRESS`` at will.

        Raises
        ------
        PacsError
            It is something else.

        """
        how = "give dimse://AET@host:port?calling=AET, and &move=PORT for C-MOVE to this machine"
        try:
            parts = urlsplit(url)
            options = {k: v[-1] for k, v in parse_qs(parts.query, strict_parsing=bool(parts.query)).items()}
            port, move = parts.port, int(options["move"]) if "move" in options else None
        except ValueError as error:
            raise PacsError(f"the DIMSE address is malformed; {how}") from error
        title, calling = unquote(parts.username or ""), options.get("calling", "COHORT")
        if parts.password is not None or parts.path.strip("/") or set(options) - {"calling", "move", "bind"}:
            raise PacsError(f"the DIMSE address holds what it must not; {how}")
        if not parts.hostname or not port or not (move is None or 0 < move < 1 << 16):
            raise PacsError(f"the DIMSE address names no host or port; {how}")
        if not (_TITLE.fullmatch(title) and _TITLE.fullmatch(calling)):
            raise PacsError(f"an application entity title has 1 to 16 plain characters; {how}")
        return cls(title, parts.hostname, port, calling, move, options.get("bind", "127.0.0.1"))
