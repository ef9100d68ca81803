"""Have the C library keep the memory of large tensors on a CPU, and hand it out again."""

from __future__ import annotations

import ctypes
import sys

# glibc's malloc.h
M_TRIM_THRESHOLD, M_MMAP_MAX = -1, -4
NEVER = 2**31 - 1


def keep_freed_memory() -> bool:
    """Have glibc keep freed blocks on its heap, however large.

    By default it takes blocks of over 32 MiB from the system and returns them at once, and trims its heap. Every step
    then touches the same gigabytes for the first time again, page by page: a third of its time, for a sixth less
    memory (``benchmarks/freed_memory.py``). Other C libraries are left alone.

    Returns:
        Whether it was done.
    """
    if not sys.platform.startswith("linux"):
        return False
    mallopt = getattr(ctypes.CDLL(None), "mallopt", None)
    return mallopt is not None and bool(mallopt(M_MMAP_MAX, 0) and mallopt(M_TRIM_THRESHOLD, NEVER))
