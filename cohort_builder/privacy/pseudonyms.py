"""The site's key, the pseudonyms made from it, and the scrubbing of report text.

Every id that leaves the site is a keyed hash of the original one. The key belongs to the site, not to a run: with the
same key a patient keeps the pseudonym and the split in the next cohort, and without it nobody can test a guess.
Text is scrubbed by rules (``scrub.py``): good rules, but rules. What was scrubbed must be reviewed
before it is shared.
"""

from __future__ import annotations

import base64
import hmac
import os
import secrets
import stat
import tempfile
from dataclasses import dataclass, field
from hashlib import sha256
from pathlib import Path
from typing import TYPE_CHECKING

from cohort_builder.errors import ConfigError
from cohort_builder.privacy.scrub import OffsetMap, Scrubbed, ScrubError, scrub_report, scrub_text

if TYPE_CHECKING:
    import numpy as np

__all__ = [
    "KEY_BYTES",
    "Key",
    "OffsetMap",
    "Pseudonyms",
    "ScrubError",
    "Scrubbed",
    "default_key_path",
    "load_key",
    "scrub_report",
    "scrub_text",
]

KEY_BYTES = 32
"""Length of the site's key."""

_PSEUDONYM_BYTES = 10
"""80 bits: among ten million ids two meet with a probability below 1e-10. Sixteen characters of base 32."""

_DOMAIN = b"cohort-builder pseudonyms 1"
"""Changing this renames everybody and moves patients between splits."""

_VALIDATION_FROM = 0.8
_TEST_FROM = 0.9


@dataclass(frozen=True, slots=True)
class Key:
    """The site's secret, where it lies, and whether this call has just made it. Its ``repr`` hides the secret."""

    secret: bytes = field(repr=False)
    path: Path | None = None
    created: bool = False

    def __post_init__(self) -> None:
        if len(self.secret) != KEY_BYTES:
            raise ConfigError(f"a pseudonym key is {KEY_BYTES} bytes, got {len(self.secret)}")


class Pseudonyms:
    """Keyed pseudonyms, numbers and splits: HMAC-SHA-256 of a value, told apart by purpose and kind.

    The same key, kind and value give the same answer on every machine and in every version; without the key an answer
    tells nothing about the value, and the answers of two kinds cannot be matched.

    Parameters
    ----------
    key
        From :func:`load_key`, or 32 raw bytes.

    Examples
    --------
    >>> names = Pseudonyms(bytes(32))
    >>> names.pseudonym("patient", "0042") == names.pseudonym("patient", "0042")
    True
    >>> names.pseudonym("patient", "0042") == names.pseudonym("patient", "42")
    False
    """

    __slots__ = ("_secret",)

    def __init__(self, key: Key | bytes) -> None:
        self._secret = (key if isinstance(key, Key) else Key(key)).secret

    def __repr__(self) -> str:
        return "Pseudonyms(<key hidden>)"

    def pseudonym(self, kind: str, value: str) -> str:
        """Return ``kind-`` and 16 characters (a to z, 2 to 7) that stand for ``value`` among the values of ``kind``."""
        digest = self._digest("pseudonym", kind, value)[:_PSEUDONYM_BYTES]
        return f"{kind}-{base64.b32encode(digest).decode('ascii').lower()}"

    def unit(self, kind: str, value: str) -> float:
        """Return a number in [0, 1), uniform over values."""
        return (int.from_bytes(self._digest("unit", kind, value)[:8]) >> 11) / float(1 << 53)

    def rng(self, kind: str, value: str) -> np.random.Generator:
        """Return a generator (PCG64) whose stream belongs to ``value`` alone."""
        import numpy as np

        return np.random.Generator(np.random.PCG64(int.from_bytes(self._digest("rng", kind, value))))

    def split_key(self, patient_key: str) -> float:
        """Return the number in [0, 1) that decides the patient's split."""
        return self.unit("split", patient_key)

    def split_of(self, patient_key: str) -> str:
        """Return ``train``, ``validation`` or ``test`` (80, 10, 10 % of patients), the same in every cohort."""
        position = self.split_key(patient_key)
        if position < _VALIDATION_FROM:
            return "train"
        return "validation" if position < _TEST_FROM else "test"

    def _digest(self, purpose: str, kind: str, value: str) -> bytes:
        # Each part is preceded by its length, so that no two triples share a message. DICOM text may decode to lone
        # surrogates: they too have a name.
        parts = [part.encode("utf-8", "surrogatepass") for part in (purpose, kind, value)]
        message = _DOMAIN + b"".join(len(part).to_bytes(8) + part for part in parts)
        return hmac.new(self._secret, message, sha256).digest()


def default_key_path() -> Path:
    """Return ``site.key`` in the user's configuration folder for cohort-builder (XDG base directories)."""
    configured = os.environ.get("XDG_CONFIG_HOME", "")
    # The XDG specification has relative values ignored.
    base = Path(configured) if configured and Path(configured).is_absolute() else Path.home() / ".config"
    return base / "cohort-builder" / "site.key"


def load_key(path: str | os.PathLike[str] | None = None, *, outside: str | os.PathLike[str] | None = None) -> Key:
    """Return the site's key; make it on first use, which the caller must tell the user (``Key.created``).

    Parameters
    ----------
    path
        The key file: 32 random bytes as they are, mode 0600. Default: :func:`default_key_path`, whose folder is made
        too (mode 0700). A path given here that does not exist is where the site wants its key: it is made there, but
        its folder must exist, so that a mistyped or unmounted folder does not quietly give everybody new pseudonyms.
    outside
        The folder that a build writes to and that is shared: whoever gets the key with the dataset can test guesses of
        who its patients are, so a key in it is refused.

    Raises
    ------
    ConfigError
        The file is not a key of 32 bytes, others than its owner may read or write it, it lies in ``outside``, or it
        cannot be read or made.
    """
    file = default_key_path() if path is None else Path(path)
    if outside is not None and file.resolve().is_relative_to(Path(outside).resolve()):
        raise ConfigError("the key lies inside the folder to build in, which is shared; keep it elsewhere, with --key")
    try:
        if path is None:
            file.parent.parent.mkdir(parents=True, exist_ok=True)
            file.parent.mkdir(mode=0o700, exist_ok=True)
        elif not file.parent.is_dir():
            raise ConfigError(f"the folder of the key file {file} does not exist; make it, or correct --key")
        created = not file.exists() and _create(file)
        return Key(_read(file), file, created)
    except OSError as error:
        reason = error.strerror or type(error).__name__
        message = f"the key file {file} can be neither read nor made: {reason}; name another with --key"
        raise ConfigError(message) from error


def _create(file: Path) -> bool:
    """Make the key whole or not at all; False when another process was first. Never replaces a file."""
    handle, name = tempfile.mkstemp(prefix=".site-key-", dir=file.parent)  # mode 0600
    temporary = Path(name)
    try:
        with os.fdopen(handle, "wb") as stream:
            stream.write(secrets.token_bytes(KEY_BYTES))
            stream.flush()
            os.fsync(stream.fileno())
        # A hard link appears with its content, and fails when the name is taken: of two first runs one key survives.
        os.link(temporary, file)
    except FileExistsError:
        return False
    finally:
        temporary.unlink()
    return True


def _read(file: Path) -> bytes:
    """Read and judge an existing key file."""
    if not file.is_file():  # a folder, a pipe: opening the latter would block
        raise ConfigError(f"the key file {file} is not a regular file; name another with --key")
    with file.open("rb") as stream:
        status = os.fstat(stream.fileno())
        if os.name == "posix" and stat.S_IMODE(status.st_mode) & 0o077:
            raise ConfigError(
                f"the key file {file} has mode {stat.S_IMODE(status.st_mode):04o}: others than its owner may use it; "
                f"run `chmod 600` on it, and make a new key if anybody has read it"
            )
        secret = stream.read(KEY_BYTES + 1)
    if len(secret) != KEY_BYTES:
        raise ConfigError(
            f"the key file {file} holds {status.st_size} bytes; a key is {KEY_BYTES} random bytes as they are, not "
            f"text. Restore it from a copy (a new key renames every patient), or name another with --key"
        )
    return secret
