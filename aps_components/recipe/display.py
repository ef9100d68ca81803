"""One display of a whole training: stage, iteration, time left, last Dice; without a terminal a line a minute."""

from __future__ import annotations

import sys
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from threading import Lock
from typing import TextIO

from aps_components.report.reading import duration
from aps_components.training.history import HISTORY_FILE, read_history

SECONDS_BETWEEN_LINES = 60.0
WIDTH = 110


@dataclass(frozen=True)
class _Running:
    folder: Path | None
    iterations: int


class Display:
    """What is going on now, and how long it will take.

    Args:
        left: seconds to the end, as planned.
        stream: written to; standard error by default.
    """

    def __init__(self, left: Callable[[], float], *, stream: TextIO | None = None) -> None:
        self.left = left
        self.stream = stream if stream is not None else sys.stderr
        self.dice: str | None = None
        self._running: dict[str, _Running] = {}
        self._lock = Lock()
        self._shown = 0.0
        self._on_terminal = self.stream.isatty()

    @contextmanager
    def running(self, name: str, folder: Path | None, iterations: int) -> Iterator[None]:
        """A stage goes on within this; a training writes its history into ``folder``."""
        with self._lock:
            self._running[name] = _Running(folder, iterations)
        try:
            yield
        finally:
            with self._lock:
                del self._running[name]

    def show(self) -> None:
        """On a terminal the one line anew; elsewhere a new one, at most one a minute."""
        now = time.monotonic()
        if self._on_terminal:
            self.stream.write("\r" + self.line()[:WIDTH].ljust(WIDTH))
        elif self._shown == 0.0 or now - self._shown >= SECONDS_BETWEEN_LINES:
            self._shown = now
            self.stream.write(self.line() + "\n")
        self.stream.flush()

    def say(self, text: str) -> None:
        """Something to stay on the screen."""
        if self._on_terminal:
            self.stream.write("\r" + " " * WIDTH + "\r")
        self.stream.write(text + "\n")
        self.stream.flush()

    def line(self) -> str:
        """Of now."""
        with self._lock:
            running = dict(self._running)
        stages = "; ".join(f"{name}{_progress(stage)}" for name, stage in running.items()) or "between two stages"
        dice = f" | {self.dice}" if self.dice else ""
        return f"{duration(max(0.0, self.left()))} left{dice} | {stages}"


def progress_of(folder: Path | None) -> int:
    """Iterations that a training has done, as its last epoch says."""
    try:
        history = read_history(folder / HISTORY_FILE) if folder is not None else []
    except ValueError:  # the training itself says what is wrong with it
        return 0
    return int(history[-1].get("iteration", 0)) if history else 0


def _progress(stage: _Running) -> str:
    return f" {progress_of(stage.folder)}/{stage.iterations}" if stage.iterations else ""
