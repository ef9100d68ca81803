"""What happened in each epoch, as one line of JSON that any tool reads, and in a picture."""

from __future__ import annotations

import itertools
import logging
import math
import os
import time
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from ignite.engine import Engine, Events

from aps_components.files import ensure_writable
from aps_components.line_file import LineFile
from aps_components.plain_json import are_numbers, is_number, read_lines
from aps_components.training.progress import PROGRESS_FILE, plot_progress
from aps_components.training.trainer import SemiSupervisedTrainer

HISTORY_FILE = "history.jsonl"
MOST_ITERATIONS = 10**12
logger = logging.getLogger(__name__)


class TrainingHistory:
    """Ignite handler that appends a line per epoch to ``history.jsonl``: mean losses, validation, seconds an iteration.

    ``progress.png`` shows them all. A resumed run goes on in the same file; the lines of epochs that it repeats are
    dropped. What another run wrote there is kept under a name with a number, ``history_1.jsonl``.

    Args:
        output_dir: made if missing.
        evaluator: the validation's engine; its metrics are written in the epochs that it ran in.
    """

    def __init__(self, output_dir: str | Path, *, evaluator: Engine | None = None) -> None:
        self.path = ensure_writable(output_dir) / HISTORY_FILE
        self.evaluator = evaluator
        self._sums: dict[str, float] = {}
        self._iterations = 0
        self._seconds = 0.0
        self._iteration_started = 0.0

    def attach(self, engine: SemiSupervisedTrainer) -> None:
        """Measure each iteration, write after each epoch."""
        if engine.state.rank != 0:
            return
        engine.add_event_handler(Events.EPOCH_STARTED, self._start_epoch)
        engine.add_event_handler(Events.EPOCH_STARTED, self._keep_others)
        engine.add_event_handler(Events.GET_BATCH_STARTED, self._start_iteration)
        engine.add_event_handler(Events.ITERATION_COMPLETED, self._add)
        engine.add_event_handler(Events.EPOCH_COMPLETED, self._write)

    def _start_epoch(self) -> None:
        self._sums, self._iterations, self._seconds = {}, 0, 0.0

    def _keep_others(self, engine: SemiSupervisedTrainer) -> None:
        """Lines of another run go to a file of their own, those of this one come back from theirs."""
        own = self._run_of(engine)
        lines = read_history(self.path)
        if not own or not lines or lines[-1].get("ckpt_dir", own) == own:
            return
        numbered = (self.path.with_stem(f"{self.path.stem}_{number}") for number in itertools.count(1))
        kept = next(file for file in numbered if not file.exists())
        logger.warning("%s is of another run, and was moved to %s", self.path, kept.name)
        os.replace(self.path, kept)
        for file in sorted(self.path.parent.glob(f"{self.path.stem}_*{self.path.suffix}")):
            if (earlier := read_history(file)) and earlier[-1].get("ckpt_dir") == own:
                os.replace(file, self.path)

    def _run_of(self, engine: Engine) -> str:
        """Where its checkpoints are, seen from here: both folders may be moved together."""
        folder = getattr(engine, "ckpt_dir", "")
        return Path(os.path.relpath(folder, self.path.parent)).as_posix() if folder else ""

    def _start_iteration(self) -> None:
        self._iteration_started = time.perf_counter()

    def _add(self, engine: SemiSupervisedTrainer) -> None:
        self._seconds += time.perf_counter() - self._iteration_started
        self._iterations += 1
        for name, value in engine.state.output.items():
            self._sums[name] = self._sums.get(name, 0.0) + value

    def _write(self, engine: SemiSupervisedTrainer) -> None:
        self._keep_others(engine)  # of a run that began meanwhile
        line: dict[str, Any] = {
            **({"ckpt_dir": own} if (own := self._run_of(engine)) else {}),
            "epoch": engine.state.epoch,
            "iteration": engine.state.iteration,
            "seconds_per_iteration": round(self._seconds / self._iterations, 4),
            "learning_rate": engine.optimizer.param_groups[0]["lr"],
            "losses": {name: round(value / self._iterations, 6) for name, value in self._sums.items()},
        }
        if self.evaluator is not None and self.evaluator.state.epoch == engine.state.epoch:
            line["validation"] = {name: _rounded(value) for name, value in self.evaluator.state.metrics.items()}
        kept = [old for old in read_history(self.path) if old["epoch"] < engine.state.epoch]
        LineFile(self.path).keep([*kept, line])
        plot_progress([*kept, line], self.path.with_name(PROGRESS_FILE))
        logger.info(_summary(line, engine.state.max_epochs))


def _rounded(value: float) -> float | None:
    """Six decimals; None, which JSON has, for NaN, which it has not."""
    return None if math.isnan(value) else round(float(value), 6)


def _summary(line: Mapping[str, Any], max_epochs: int) -> str:
    """One epoch in one line of the log."""
    parts = [
        f"epoch {line['epoch']}/{max_epochs}",
        f"loss {line['losses']['loss']:.4f}",
        f"{line['seconds_per_iteration']:.2f} s/iteration",
        *(f"{name} {value}" for name, value in line.get("validation", {}).items()),
    ]
    return ", ".join(parts)


def read_history(path: str | Path, *, keys: Sequence[str] = ()) -> list[dict[str, Any]]:
    """The epochs of a ``history.jsonl``, in order; none if there is no file.

    Args:
        path: of the file.
        keys: besides the epoch that each line must have.

    Raises:
        ValueError: a line is none of an epoch; names the file.
    """
    mend = "move the file away, which is needed for no training"
    lines = read_lines(path, keys=("epoch", *keys), mend=mend)
    for number, line in enumerate(lines, start=1):
        if not _is_epoch(line):
            raise ValueError(f"{path}, line {number}: none of an epoch; {mend}")
    return lines


def _is_epoch(line: Mapping[str, Any]) -> bool:
    """Whether what is there is of the types that `TrainingHistory` writes."""
    counts = [line["epoch"], line.get("iteration", 0)]
    figures = [line.get(key, 0) for key in ("seconds_per_iteration", "learning_rate")]
    groups = [line.get(key, {}) for key in ("losses", "validation")]
    return (
        all(type(count) is int and 0 <= count <= MOST_ITERATIONS for count in counts)
        and all(map(is_number, figures))
        and all(map(are_numbers, groups))
    )
