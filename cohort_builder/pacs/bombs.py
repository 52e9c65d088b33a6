"""Objects that would take all memory or hours to parse: very many items or elements, little that inflates to much."""

from __future__ import annotations

import zlib
from collections.abc import Iterator
from typing import BinaryIO

_DEFLATED = b"1.2.840.10008.1.2.1.99"
_META_START, _META_LENGTH_AT = 144, 140  # behind preamble, prefix and group length; where the group length stands
_META_BYTES = 1024
_ITEM_TAGS = (b"\xfe\xff\x00\xe0", b"\xff\xfe\xe0\x00")  # little and big endian
_CHUNK = 1 << 20
_MOST_READS = 1_000_000


def is_bomb(stream: BinaryIO, *, most_items: int = 100_000, most_inflated: int = 16 << 20) -> bool:
    """Whether parsing the object with pydicom would take much more than its size lets expect.

    pydicom takes about a kilobyte and 20 microseconds for every item, however empty; the frames of an enhanced CT have
    a dozen each. The stream is read from its start, in pieces, and left where that ends.

    Parameters
    ----------
    stream
        The object, from its first byte.
    most_items
        Of all its sequences and compressed frames together.
    most_inflated
        Bytes of a deflated object.

    Raises
    ------
    OSError, zlib.error
        It cannot be read or inflated.

    """
    stream.seek(0)
    head = stream.read(_META_BYTES)
    deflated = _DEFLATED in head
    stream.seek(_META_START + int.from_bytes(head[_META_LENGTH_AT:_META_START], "little") if deflated else 0)
    items, size, tail = 0, 0, b""
    for piece in _inflated(stream) if deflated else iter(lambda: stream.read(_CHUNK), b""):
        size += len(piece)
        chunk = tail + piece
        items += sum(chunk.count(tag) for tag in _ITEM_TAGS)
        tail = chunk[-3:]
        if items > most_items or (deflated and size > most_inflated):
            return True
    return False


class Patience:
    """A stream for pydicom that ends with an OSError after a million reads: a file of zeros is a file of elements."""

    def __init__(self, stream: BinaryIO) -> None:
        self._left = _MOST_READS
        self.seek, self.tell, self._read = stream.seek, stream.tell, stream.read

    def read(self, n: int = -1) -> bytes:
        """Read as the stream does."""
        self._left -= 1
        if self._left < 0:
            raise OSError("more elements than any object has")
        return self._read(n)


def _inflated(stream: BinaryIO) -> Iterator[bytes]:
    inflater = zlib.decompressobj(-zlib.MAX_WBITS)
    while not inflater.eof and (waiting := inflater.unconsumed_tail or stream.read(_CHUNK)):
        yield inflater.decompress(waiting, _CHUNK)
