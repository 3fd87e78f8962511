"""The text inside `bible.data`, the King James Bible of Chip Chapin's Bible Retrieval System.

The file is a header (big-endian: magic EC02, name, window size at byte 84, number of windows, their offsets and the
end of the last one) and the output of `compress`: LZW codes of 9 to 16 bits, lowest bit first, with the table cleared
after every window of text, so that each window can be read on its own.
"""

from __future__ import annotations

import struct
from itertools import pairwise

import numpy as np

MAGIC = b"EC02"
_CLEAR = 256


def bible_text(data: bytes) -> bytes:
    """The verses, one `Ge1:1 text` per line, without the title line. Raises ValueError for any other file."""
    if data[:4] != MAGIC:
        raise ValueError(f"expected {MAGIC!r} at the start, found {data[:4]!r}")
    try:
        size, count = struct.unpack_from(">2I", data, 84)
        offsets = struct.unpack_from(f">{count + 1}I", data, 92) if count < len(data) else ()
    except struct.error as error:
        raise ValueError("the header ends too early") from error
    if not offsets or offsets[-1] > len(data) or list(offsets) != sorted(offsets):
        raise ValueError("the window offsets do not fit the file")
    text = b"".join(decompress_window(data[start:end], size) for start, end in pairwise(offsets))
    return text.split(b"\n", 1)[1]


def decompress_window(codes: bytes, size: int) -> bytes:
    """One window of `compress` output: at most `size` bytes of text, from an empty table."""
    table = [bytes([byte]) for byte in range(256)] + [b""]
    pieces: list[bytes] = []
    length = 0
    previous = b""
    for code in _read_codes(codes):
        if code == _CLEAR or length >= size:
            break
        if code < len(table):
            piece = table[code]
        elif code == len(table) and previous:
            piece = previous + previous[:1]
        else:
            raise ValueError(f"code {code} is not in the table of {len(table)} entries")
        if previous:
            table.append(previous + piece[:1])
        pieces.append(piece)
        length += len(piece)
        previous = piece
    return b"".join(pieces)


def _read_codes(codes: bytes) -> list[int]:
    # The table grows by one per code from 257 entries, so where the width changes is known beforehand; all those
    # places are multiples of eight codes, where `compress` has no padding.
    bits = np.unpackbits(np.frombuffer(codes, np.uint8), bitorder="little")
    found: list[int] = []
    at = 0
    for width in range(9, 17):
        planned = 256 if width == 9 else 1 << (width - 1)
        count = min(planned, (len(bits) - at) // width)
        block = bits[at : at + count * width].reshape(count, width)
        found += (block @ (1 << np.arange(width))).tolist()
        at += count * width
    return found
