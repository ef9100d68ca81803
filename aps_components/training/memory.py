"""Keep the C library from hoarding the memory of large tensors on a CPU."""

from __future__ import annotations

import ctypes
import sys

M_MMAP_THRESHOLD = -3  # glibc's malloc.h
LARGE_BYTES = 4 * 2**20


def return_freed_memory() -> bool:
    """Have glibc give blocks of 4 MiB and more back to the system as soon as they are freed.

    By default glibc learns to keep blocks of up to 32 MiB on its heap, where a training step leaves gaps:
    a sixth of the step's peak memory (``benchmarks/train_step.py``). It costs some page faults. Other C libraries are
    left alone.

    Returns:
        Whether it was done.
    """
    if not sys.platform.startswith("linux"):
        return False
    mallopt = getattr(ctypes.CDLL(None), "mallopt", None)
    return mallopt is not None and bool(mallopt(M_MMAP_THRESHOLD, LARGE_BYTES))
