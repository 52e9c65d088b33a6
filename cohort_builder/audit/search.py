"""Does anything identifying leave? An independent search of everything that a build publishes.

The scrubber's own search is not used: files are opened and decoded (Parquet columns and metadata, gzip, zip, NIfTI
headers, PNG chunks, JSON escapes, plain bytes) and searched for known identifiers in the forms they are written in, and
for what looks identifying whoever it belongs to (UIDs, e-mail addresses, paths of this machine). Voxels and pictures
are not read: what is burned into an image is not found.
"""

from __future__ import annotations

import os
import re
from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from pathlib import Path

from cohort_builder.audit.needles import Needles
from cohort_builder.audit.texts import texts_of_file
from cohort_builder.errors import ConfigError

# The DICOM standard's own UIDs (SOP classes, transfer syntaxes) name nobody.
_UID = re.compile(r"(?<![\w.])(?!1\.2\.840\.10008\.)[0-2](?:\.(?:0|[1-9]\d*)){4,}(?![\w])")
_EMAIL = re.compile(r"(?<![\w.+-])[\w.+-]+@[\w-]+(?:\.[\w-]+)*\.[a-z]{2,}(?!\w)", re.IGNORECASE)
_PATH = re.compile(
    r"(?<![\w./:~-])/(?:home|Users|work|tmp|root|mnt|media|scratch|private|data\d*|var|srv)/[\w.-]"
    r"|\bfile:/|(?<!\w)[A-Za-z]:\\{1,2}\w|(?<![\w\\])\\\\\w[\w.-]*\\\w"
)
_GENERIC = (("uid", _UID), ("e-mail", _EMAIL), ("path", _PATH))
_MIN_GENERIC_UID = 12
"""Shorter dotted numbers are versions."""


@dataclass(frozen=True, slots=True, order=True)
class Leak:
    """One place that holds something identifying; says where and what kind, never what.

    ``where`` is the path below the searched folder and the place in it; a name that leaks is masked. ``kind`` is
    ``name``, ``id``, ``date``, ``uid``, ``e-mail``, ``path``, ``text`` or ``unsearchable`` (a file that cannot be
    decoded: nobody knows what it holds). ``needle`` is a short id of what was found, the same throughout one search and
    meaningless outside it.
    """

    where: str
    kind: str
    needle: str = ""


def find_leaks(
    out_dir: str | os.PathLike[str], needles: Iterable[str], *, exclude: Iterable[str] = ("private",)
) -> list[Leak]:
    """Search all files below ``out_dir``, and their names.

    Parameters
    ----------
    out_dir
        What a build left.
    needles
        The identifiers of the source: names, ids, dates, UIDs. Too short ones (fewer than three letters, or four
        characters with a digit) are not searched for: they are everywhere.
    exclude
        Entries directly below ``out_dir`` that are not published.

    Returns
    -------
    list of Leak
        Sorted, each place and needle once; empty when nothing was found.

    Raises
    ------
    ConfigError
        ``out_dir`` is not a folder.
    """
    root = Path(out_dir)
    if not root.is_dir():
        raise ConfigError(f"{root.name or root} is not a folder; give the folder that a build wrote")
    search = _Search(Needles(needles))
    skipped = frozenset(exclude)
    for entry in sorted(root.iterdir()):
        if entry.name not in skipped:
            search.walk(entry, "")
    return sorted(search.leaks)


class _Search:
    """What was looked for and found so far."""

    def __init__(self, needles: Needles) -> None:
        self.leaks: set[Leak] = set()
        self._needles = needles

    def walk(self, path: Path, above: str) -> None:
        """Search a file or a folder, and its own name."""
        found = list(self._found(path.name))
        # A name that leaks must not be printed either.
        shown = f"<withheld {self._needles.short_id(path.name)}>" if found else path.name
        where = f"{above}{shown}"
        self.leaks.update(Leak(f"{where} (name)", kind, needle) for kind, needle in found)
        if path.is_symlink():
            self._search_text(f"{where} (link)", str(path.readlink()), sure=True)
        elif path.is_dir():
            for entry in sorted(path.iterdir()):
                self.walk(entry, f"{where}/")
        elif path.is_file():
            self._search_file(path, where)

    def _search_file(self, path: Path, where: str) -> None:
        try:
            for place, text, sure in texts_of_file(path):
                self._search_text(f"{where}{place}", text, sure=sure)
        except Exception:  # noqa: BLE001 - whatever a decoder stumbled over, this file was not searched
            self.leaks.add(Leak(where, "unsearchable"))

    def _search_text(self, where: str, text: str, *, sure: bool) -> None:
        self.leaks.update(Leak(where, kind, needle) for kind, needle in self._found(text, sure=sure))

    def _found(self, text: str, *, sure: bool = True) -> Iterator[tuple[str, str]]:
        yield from self._needles.find(text, sure=sure)
        for kind, pattern in _GENERIC:
            if not sure and kind != "uid":
                continue  # in compressed bytes, chance writes e-mail addresses
            for match in pattern.finditer(text):
                if kind != "uid" or len(match.group()) >= _MIN_GENERIC_UID:
                    yield kind, self._needles.short_id(match.group())
