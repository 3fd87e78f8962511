"""glibc's malloc told to keep large freed blocks: without it, every large temporary is page-faulted again each step.

Standard library only. Elsewhere (macOS, musl) there is nothing to tell, and nothing happens.
"""

from __future__ import annotations

import ctypes
import platform

_TRIM_THRESHOLD, _TOP_PAD, _MMAP_THRESHOLD = -1, -2, -3  # malloc.h
_KEPT = {_MMAP_THRESHOLD: 1 << 30, _TRIM_THRESHOLD: (1 << 31) - 1, _TOP_PAD: 256 << 20}


def keep_freed_memory() -> bool:
    """Blocks below 1 GiB come from the heap, which stays with the process while it lives; whether that was possible.

    The price is resident memory: what was used once is not given back.
    """
    if platform.libc_ver()[0] != "glibc":
        return False
    mallopt = ctypes.CDLL(None).mallopt
    return all(mallopt(ctypes.c_int(option), ctypes.c_int(value)) == 1 for option, value in _KEPT.items())
