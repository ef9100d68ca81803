"""The memory of the machine: how much is free, and that the C library keeps what large tensors free on a CPU."""

from __future__ import annotations

import ctypes
import importlib
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

# glibc's malloc.h
M_TRIM_THRESHOLD, M_MMAP_THRESHOLD, M_MMAP_MAX = -1, -3, -4
NEVER = 2**31 - 1
LARGEST_THRESHOLD, MMAP_MAX = 32 * 2**20, 65536  # the largest that glibc takes, in bytes; its default number
MEMINFO, STATM = Path("/proc/meminfo"), Path("/proc/self/statm")
MEMBERSHIP, CGROUPS = Path("/proc/self/cgroup"), Path("/sys/fs/cgroup")
UNLIMITED = 2**62  # version 1 of control groups has a number for it


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
    _kept["everything"] = mallopt is not None and bool(mallopt(M_MMAP_MAX, 0) and mallopt(M_TRIM_THRESHOLD, NEVER))
    return _kept["everything"]


_kept = {"everything": False}


@contextmanager
def large_blocks_apart() -> Iterator[None]:
    """Where freed memory is kept, let blocks of over 32 MiB go back to the system for a while.

    What is kept for long, however small, is put into a freed block that the next large one then does not fit into: in
    a loop that keeps something in every turn the heap grows in every turn.
    """
    if not _kept["everything"]:
        yield
        return
    mallopt = ctypes.CDLL(None).mallopt
    mallopt(M_MMAP_THRESHOLD, LARGEST_THRESHOLD)
    mallopt(M_MMAP_MAX, MMAP_MAX)
    try:
        yield
    finally:
        mallopt(M_MMAP_MAX, 0)
        return_freed_memory()


def return_freed_memory() -> None:
    """Have glibc give back what is free on its heap now, as between two stages that need different blocks."""
    if sys.platform.startswith("linux") and (trim := getattr(ctypes.CDLL(None), "malloc_trim", None)) is not None:
        trim(0)


class NotEnoughMemoryError(ValueError):
    """What is asked for cannot fit; the message says what it would need."""


def require_memory(wanted: float, *, what: str, mend: str = "take a machine with more memory") -> None:
    """Refuse what cannot fit before any of it is done: the system would end the whole process in the midst of it.

    Args:
        wanted: bytes, what is asked for at least.
        what: the file or value, for the message.
        mend: what to do.

    Raises:
        NotEnoughMemoryError: more than is free.
    """
    free = free_memory()
    if free is not None and wanted > free:
        return_freed_memory()  # what this process keeps on its heap is free, too
        free = free_memory()
    if free is not None and wanted > free:
        raise NotEnoughMemoryError(
            f"{what}: needs about {_gigabytes(wanted)} of memory, and {_gigabytes(free)} are free; {mend}"
        )


def free_memory() -> float | None:
    """Bytes that this process can still take: of the machine, its container, its limits; None where nobody says."""
    return min(_limits(), default=None)


def _limits() -> Iterator[float]:
    yield from _of_the_machine()
    yield from _of_the_container()
    yield from _of_the_process()


def _of_the_machine() -> Iterator[float]:
    if MEMINFO.is_file():
        amounts = dict(line.split(":", 1) for line in MEMINFO.read_text().splitlines() if ":" in line)
        if "MemAvailable" in amounts:
            yield 1024.0 * int(amounts["MemAvailable"].split()[0])
            return
    try:
        yield float(importlib.import_module("psutil").virtual_memory().available)
    except ImportError:
        return


def _of_the_container() -> Iterator[float]:
    """The limits of the control group and of those that it is in, versions 2 and 1."""
    if not MEMBERSHIP.is_file():
        return
    for line in MEMBERSHIP.read_text().splitlines():
        _, controllers, path = line.split(":", 2)
        if controllers == "":
            root, names = CGROUPS, ("memory.max", "memory.current", "inactive_file")
        elif "memory" in controllers.split(","):
            root = CGROUPS / "memory"
            names = ("memory.limit_in_bytes", "memory.usage_in_bytes", "total_inactive_file")
        else:
            continue
        place = root / path.lstrip("/")
        for group in (place, *place.parents):
            if group == root.parent:
                break
            yield from _of_group(group, *names)


def _of_group(group: Path, limit_file: str, used_file: str, cached: str) -> Iterator[float]:
    try:
        limit = (group / limit_file).read_text().strip()
        used = float((group / used_file).read_text())
        state = dict(line.split() for line in (group / "memory.stat").read_text().splitlines())
    except (OSError, ValueError):
        return
    if limit.isdecimal() and int(limit) < UNLIMITED:
        yield max(0.0, int(limit) - used + float(state.get(cached, 0)))


def _of_the_process() -> Iterator[float]:
    """``ulimit -v``."""
    try:
        resource = importlib.import_module("resource")
        limit = resource.getrlimit(resource.RLIMIT_AS)[0]
        used = int(STATM.read_text().split()[0]) * resource.getpagesize()
    except (ImportError, OSError, ValueError, AttributeError):
        return
    if limit not in (-1, resource.RLIM_INFINITY):
        yield float(max(0, limit - used))


def _gigabytes(amount: float) -> str:
    return f"{amount / 2**30:.1f} GB" if amount < 100 * 2**30 else f"{amount / 2**30:.0f} GB"
