"""When something was drawn and by whom, without keeping a name."""

from __future__ import annotations

import secrets
from datetime import datetime
from hashlib import blake2b

_SESSION_KEY = secrets.token_bytes(16)  # equal names get equal codes within this process, and no code leads to a name


def moment(day: str | None, time: str | None) -> datetime | None:
    """DICOM date and time of day (PS3.5 table 6.2-1, older forms too), in the hospital's own time; None if no date."""
    digits = (day or "").replace(".", "") + ((time or "").replace(":", "").partition(".")[0] + "000000")[:6]
    try:
        return datetime.strptime(digits, "%Y%m%d%H%M%S")  # noqa: DTZ007 - DICOM times carry no zone of their own
    except ValueError:
        return None


def group_of(name: str | None) -> str | None:
    """Return a code that is the same for the same name within this process, whatever object the name stands in."""
    if name is None:
        return None
    return blake2b(name.casefold().encode(), digest_size=4, key=_SESSION_KEY).hexdigest()
