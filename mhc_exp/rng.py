"""Counter-based random numbers in integer arithmetic: the same bits on every machine, backend and numpy version.

Philox4x32-10 (Salmon et al., SC'11, Random123). A value is a pure function of (seed, stream, index), so nothing has
to be saved to resume and nothing depends on the order in which values are asked for.
"""

from __future__ import annotations

import hashlib

import numpy as np

_MULTIPLIERS = np.uint64(0xD2511F53), np.uint64(0xCD9E8D57)
_WEYL = np.uint64(0x9E3779B9), np.uint64(0xBB67AE85)
_MASK = np.uint64(0xFFFFFFFF)
_SHIFT = np.uint64(32)


def philox4x32(counter: tuple, key: tuple[int, int], rounds: int = 10) -> tuple[np.ndarray, ...]:
    """Four 32-bit words (as uint64 arrays) for each counter; `counter` is four broadcastable integer arrays."""
    c0, c1, c2, c3 = (np.asarray(c, np.uint64) for c in counter)
    k0, k1 = np.uint64(key[0]), np.uint64(key[1])
    for _ in range(rounds):
        p0, p1 = _MULTIPLIERS[0] * c0, _MULTIPLIERS[1] * c2
        c0, c1, c2, c3 = (p1 >> _SHIFT) ^ c1 ^ k0, p1 & _MASK, (p0 >> _SHIFT) ^ c3 ^ k1, p0 & _MASK
        k0, k1 = (k0 + _WEYL[0]) & _MASK, (k1 + _WEYL[1]) & _MASK
    return c0, c1, c2, c3


def stream_of(name: str) -> int:
    """64-bit stream number of a name, so that every parameter and every task draws from its own stream."""
    return int.from_bytes(hashlib.blake2b(name.encode(), digest_size=8).digest(), "little")


def words(seed: int, stream: int, start: int, count: int) -> np.ndarray:
    """`count` 32-bit words (uint32) number start, start+1, ... of (seed, stream)."""
    first, last = start // 4, (start + count + 3) // 4
    block = np.arange(first, last, dtype=np.uint64)
    counter = (block & _MASK, block >> _SHIFT, np.uint64(stream & 0xFFFFFFFF), np.uint64(stream >> 32))
    out = np.stack(philox4x32(counter, (seed & 0xFFFFFFFF, (seed >> 32) & 0xFFFFFFFF)), axis=1).reshape(-1)
    offset = start - 4 * first
    return out[offset : offset + count].astype(np.uint32)


def uniform(seed: int, stream: int, shape: tuple[int, ...], bound: float) -> np.ndarray:
    """float32 uniform on [-bound, bound): 24 random bits times one float32 product, exact on every machine."""
    count = int(np.prod(shape, dtype=np.int64))
    k = (words(seed, stream, 0, count) >> np.uint32(8)).astype(np.float32) * np.float32(2.0**-24)
    return ((k * np.float32(2.0) - np.float32(1.0)) * np.float32(bound)).reshape(shape)


def below(draws: np.ndarray, limit: int | np.ndarray) -> np.ndarray:
    """Map 32-bit words to integers in [0, limit) by multiply-shift (bias below limit / 2^32)."""
    return ((draws.astype(np.uint64) * np.asarray(limit, np.uint64)) >> _SHIFT).astype(np.int64)


def permutation(positions: np.ndarray, size: int, seed: int, rounds: int = 6) -> np.ndarray:
    """Images of `positions` under a pseudo-random permutation of range(size), without storing it.

    A Feistel network on an even number of bits with cycle walking; O(1) memory for any size. Raises ValueError for a
    position outside range(size), from which the walk would never return.
    """
    if np.size(positions) and not (np.min(positions) >= 0 and np.max(positions) < size):
        raise ValueError(f"positions must lie in [0, {size})")
    half_bits = np.uint64((max(2, int(size - 1).bit_length()) + 1) // 2)
    half = np.uint64((1 << int(half_bits)) - 1)
    key = (seed & 0xFFFFFFFF, (seed >> 32) & 0xFFFFFFFF)
    images = np.array(positions, dtype=np.uint64)
    walking = np.ones(images.shape, bool)
    while walking.any():
        x = images[walking]
        left, right = x >> half_bits, x & half
        for number in range(rounds):
            left, right = right, left ^ (philox4x32((right, number, 0, 0), key)[0] & half)
        images[walking] = (left << half_bits) | right
        walking = images >= np.uint64(size)
    return images.astype(np.int64)
