"""What the benchmarks measure with: seconds by part, and peak memory. torch is imported for a GPU only."""

from __future__ import annotations

import functools
import resource
import sys
import time
from collections import defaultdict
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

MEBIBYTE = 2**20


def peak_bytes(device: str = "cpu") -> int:
    """The most memory that this process ever had; on a GPU the most that torch ever had allocated there."""
    if device != "cpu":
        import torch

        return torch.cuda.max_memory_allocated(device)
    peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    return peak if sys.platform == "darwin" else peak * 1024


def synchronize(device: str) -> None:
    """Wait for what a GPU has been given to do."""
    if device != "cpu":
        import torch

        torch.cuda.synchronize(device)


class Stopwatch:
    """Adds up the seconds of named parts. Time in a part within a part counts for the inner one, unless the outer one
    is opaque, as the teacher is: whatever it runs is the teacher's."""

    def __init__(self) -> None:
        self.seconds: dict[str, float] = defaultdict(float)
        self._running: list[tuple[str, bool]] = []
        self._since = 0.0

    def reset(self) -> None:
        self.seconds.clear()

    def _book(self) -> None:
        now = time.perf_counter()
        if self._running:
            self.seconds[self._running[-1][0]] += now - self._since
        self._since = now

    @contextmanager
    def part(self, name: str, *, opaque: bool = True) -> Iterator[None]:
        if self._running and self._running[-1][1]:
            yield
            return
        self._book()
        self._running.append((name, opaque))
        try:
            yield
        finally:
            self._book()
            self._running.pop()

    def wrap(self, owner: Any, attribute: str, name: str, *, opaque: bool = True) -> None:
        """Time every call of a method or function where it stands, without touching what it does."""
        original = getattr(owner, attribute)

        @functools.wraps(original)
        def timed(*args: Any, **kwargs: Any) -> Any:
            with self.part(name, opaque=opaque):
                return original(*args, **kwargs)

        setattr(owner, attribute, timed)
