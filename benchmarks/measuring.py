"""What the benchmarks measure with: seconds by part and by turns, and peak memory. Importing it imports no torch."""

from __future__ import annotations

import argparse
import functools
import resource
import statistics
import sys
import time
from collections import defaultdict
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from typing import Any

from tqdm import tqdm

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


def turns_arguments(description: str | None) -> argparse.Namespace:
    """The command line of a benchmark by turns: ``repeats`` and ``threads``, which torch takes at once."""
    import torch

    parser = argparse.ArgumentParser(description=description, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--repeats", type=int, default=10, help="turns of each, after one to warm up")
    parser.add_argument("--threads", type=int, default=torch.get_num_threads())
    arguments = parser.parse_args()
    torch.set_num_threads(arguments.threads)
    return arguments


def take_turns(ways: Mapping[str, Callable[[], object]], *, repeats: int, name: str) -> dict[str, list[float]]:
    """Seconds of every turn of each way; the first turn warms up and does not count."""
    turns: dict[str, list[float]] = {way: [] for way in ways}
    for turn in tqdm(range(repeats + 1), desc=name, leave=False):
        for way, run in ways.items():
            start = time.perf_counter()
            run()
            if turn:
                turns[way].append(time.perf_counter() - start)
    return turns


def turns_table(title: str, results: Mapping[str, Mapping[str, Sequence[float]]], *, digits: int) -> str:
    """A row for each way, a column for each of what :func:`take_turns` gave: median and range in milliseconds."""

    def cell(turns: Sequence[float]) -> str:
        middle, least, most = (
            f"{1000 * value:.{digits}f}" for value in (statistics.median(turns), min(turns), max(turns))
        )
        return f"{middle} ({least}-{most})"

    lines = [f"| {title} | " + " | ".join(results) + " |", "|---|" + "---:|" * len(results)]
    for way in next(iter(results.values())):
        lines.append(f"| {way} | " + " | ".join(cell(result[way]) for result in results.values()) + " |")
    return "\n".join(lines)
