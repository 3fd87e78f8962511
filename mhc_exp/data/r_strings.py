"""Character vectors out of R's lazy-load databases (`Rdata.rdb`), without R.

An .rdb file is a row of records: the record's size as 4 bytes (big-endian), then a zlib stream of R's serialisation
format in its XDR form (R Internals, section 1.8). Only the kind of value that text packages hold is understood.
"""

from __future__ import annotations

import struct
import zlib
from collections.abc import Iterator

_STRINGS, _STRING = 16, 9
"""Type codes of a character vector (STRSXP) and of one of its elements (CHARSXP)."""


def character_vectors(database: bytes) -> Iterator[list[bytes]]:
    """The character vectors of an .rdb file in their order. Raises ValueError if it is not made of them."""
    at = 0
    while at < len(database):
        stream = zlib.decompressobj()
        try:
            value = stream.decompress(database[at + 4 :])
        except zlib.error as error:
            raise ValueError(f"no zlib stream at byte {at + 4}: {error}") from error
        if not stream.eof:
            raise ValueError(f"the zlib stream at byte {at + 4} ends too early")
        yield _strings(value)
        at = len(database) - len(stream.unused_data)


def _strings(value: bytes) -> list[bytes]:
    try:
        if value[:2] != b"X\n":
            raise ValueError(f"expected R's XDR format, found {value[:2]!r}")
        version = _integer(value, 2)
        at = 14
        if version == 3:  # the native encoding's name follows
            at += 4 + _integer(value, at)
        flags, count = _integer(value, at), _integer(value, at + 4)
        if flags & 0xFF != _STRINGS:
            raise ValueError(f"expected a character vector, found type {flags & 0xFF}")
        at += 8
        strings = []
        for _ in range(count):
            flags, size = _integer(value, at), _integer(value, at + 4)
            if flags & 0xFF != _STRING or size < 0 or at + 8 + size > len(value):
                raise ValueError(f"expected a string, found type {flags & 0xFF} of {size} bytes")
            strings.append(value[at + 8 : at + 8 + size])
            at += 8 + size
        return strings
    except struct.error as error:
        raise ValueError("the record ends too early") from error


def _integer(value: bytes, at: int) -> int:
    return struct.unpack_from(">i", value, at)[0]
