"""What the headers of one series have in common, so that the next one is compared with it and not parsed again."""

from __future__ import annotations

from cohort_builder.pacs.instances import StudyHeader
from cohort_builder.pacs.walk import DATASET_FROM, START, Plain, TooShortError, Walk

_NO_STUDY = dict.fromkeys(("patient_id", "accession_number", "study_date", "patient_sex", "patient_age"))
_Step = tuple[bytes, int, Plain | None]  # a run and the key after it, length of the run, how to read that element
_DECIDING = {b"\x02\x00\x10\x00", b"\x08\x00\x05\x00"}  # Transfer Syntax UID, Specific Character Set


def study_header(study: dict[str, str | None], names: set[str]) -> StudyHeader:
    """Patient, study and identifiers of one header."""
    return StudyHeader(**(_NO_STUDY | study), identifiers=tuple(sorted(names)))


class Layout:
    """A header cut at its elements: runs that stay the same bytes, and between them elements that vary.

    The same bytes at the start of an element are the same elements, whatever stands elsewhere, as long as VR encoding
    and character set are the same: the elements that decide these two never vary within a layout.
    """

    def __init__(self, whole: Walk, varying: frozenset[int]) -> None:
        self.varying, self.keys = varying, keys_of(whole)
        self._explicit, self._codec, self._ends_in_pixels = whole.explicit, whole.codec, whole.end < whole.size
        self._steps: list[_Step] = []
        run = START
        for i in sorted(varying):
            start, key = whole.starts[i], self.keys[i]
            self._steps.append((whole.buffer[run : start + len(key)], start - run, whole.plain(key)))
            run = whole.starts[i + 1] if i + 1 < len(whole.starts) else whole.end
        self._tail = whole.buffer[run : whole.end]
        starts = {whole.starts[i] for i in varying}
        self._names = {name for start, name in whole.names if start not in starts}
        self._fields, self._study = dict(whole.fields), dict(whole.study)
        self._header = study_header(self._study, self._names)

    def follow(self, walk: Walk) -> bool:
        """Read a header of this layout; False, and nothing is read, if it is another one."""
        buffer, size, at = walk.buffer, len(walk.buffer), START
        walk.fields = fields = self._fields.copy()
        walk.codec = codec = self._codec
        for lead, length, plain in self._steps:
            if not buffer.startswith(lead, at):
                return False
            at += length
            if plain is None:
                walk.explicit, walk.last = self._explicit or buffer.startswith(b"\x02\x00", at), -1
                at = walk.read(at, 1)
                continue
            body = at + 8
            at = body + buffer[body - 2] + 256 * buffer[body - 1]
            if at > size:
                raise TooShortError(at)
            if plain.convert is not None:
                fields[plain.name] = plain.convert(buffer[body:at], codec)
        if not buffer.startswith(self._tail, at):
            return False
        walk.explicit, walk.last = self._explicit, DATASET_FROM
        walk.end = at + len(self._tail)
        return walk.read(walk.end, 1) == walk.end and (walk.end < walk.size) is self._ends_in_pixels

    def study_of(self, walk: Walk) -> StudyHeader:
        """Patient, study and identifiers of a header that follows this layout."""
        if not walk.names and not walk.study:
            return self._header
        return study_header(self._study | walk.study, self._names.union(name for _, name in walk.names))


def learned(layout: Layout | None, before: Walk, whole: Walk) -> Layout | None:
    """Layout of two headers of one series; None if they are built differently.

    What varied in the headers so far is kept for another series built in the same way: the same elements tell its
    images apart.
    """
    keys = keys_of(whole)
    if keys != keys_of(before):
        return None
    then, now = elements_of(before), elements_of(whole)
    varying = {i for i, (a, b) in enumerate(zip(then, now, strict=True)) if a != b}
    if layout is not None and layout.keys == keys:
        varying |= layout.varying
    first = sum(key[:2] == b"\x02\x00" for key in keys)  # of the dataset: pydicom looks for the VR encoding in it, too
    if first in varying or any(keys[i][:4] in _DECIDING for i in varying):
        return None
    return Layout(whole, frozenset(varying))


def keys_of(walk: Walk) -> list[bytes]:
    """Tag and, where it is written, VR of each element."""
    buffer = walk.buffer
    return [buffer[at : at + (6 if walk.explicit or buffer.startswith(b"\x02\x00", at) else 4)] for at in walk.starts]


def elements_of(walk: Walk) -> list[bytes]:
    """Bytes of each element."""
    return [walk.buffer[a:b] for a, b in zip(walk.starts, (*walk.starts[1:], walk.end), strict=True)]
