"""One training of a comparison: the bundle's own commands, each in a process of its own; done work is not repeated."""

from __future__ import annotations

import subprocess
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from threading import Event
from typing import Any

from tqdm import tqdm

from aps_components.bundle import workflow_command
from aps_components.comparison.methods import Method
from aps_components.models import read_checkpoint, save_atomically, settings_file
from aps_components.training.history import HISTORY_FILE, read_history

CHECKPOINTS = {"ema": "model.pt", "plain": "model_plain.pt"}
STATE_FILE = "checkpoint.pt"
SECONDS_BETWEEN_LOOKS = 2.0


class RunError(RuntimeError):
    """A training or an evaluation failed; the message names its log."""


class RunStopped(RuntimeError):
    """A run was asked to stop; it goes on where it was when it is executed again."""


@dataclass(frozen=True, kw_only=True)
class Run:
    """One method with one seed.

    Args:
        method: whose training.
        seed: of it.
        folder: of its results.
        bundle: the bundle's folder.
        options: of the bundle's commands, the same for all runs of a comparison.
        epochs: of the training.
        split: which scans are evaluated.
    """

    method: Method
    seed: int
    folder: Path
    bundle: Path
    options: Mapping[str, Any]
    epochs: int
    split: str

    @property
    def is_done(self) -> bool:
        """Whether both checkpoints have been evaluated."""
        return all(self.metrics_file(name).is_file() for name in CHECKPOINTS)

    def metrics_file(self, checkpoint: str) -> Path:
        """The evaluation of ``ema`` or ``plain``."""
        return self.folder / checkpoint / "metrics.json"

    def minutes(self) -> float:
        """Of training, validation left out."""
        history = self._history()
        iterations = [0, *(entry["iteration"] for entry in history)]
        return (
            sum(
                entry["seconds_per_iteration"] * (entry["iteration"] - before)
                for entry, before in zip(history, iterations, strict=False)
            )
            / 60
        )

    def execute(self, stop: Event) -> None:
        """Train, or go on training, evaluate the last checkpoint, averaged and plain, and drop what is not needed.

        Args:
            stop: ends the run, from another thread.

        Raises:
            RunError: a command failed.
            RunStopped: ``stop`` was set.
        """
        models = self.folder / "models"
        if not (models / CHECKPOINTS["plain"]).is_file():
            self._bundle(stop, "training", ["train.json"], ckpt_dir=models, output_dir=self.folder / "training")
            _write_plain(models)
        for name, file in CHECKPOINTS.items():
            if not self.metrics_file(name).is_file():
                self._bundle(
                    stop,
                    "evaluating",
                    ["train.json", "evaluate.json"],
                    checkpoint=models / file,
                    ckpt_dir=models,
                    output_dir=self.folder / name,
                    split=self.split,
                )
        for file in (STATE_FILE, CHECKPOINTS["plain"], "model_best.pt"):
            (models / file).unlink(missing_ok=True)

    def command(self, run_id: str, files: Sequence[str], **paths: Any) -> list[str]:
        """The command line of one of the bundle's workflows."""
        options = {
            "epochs": self.epochs,
            "val_interval": self.epochs + 1,  # nothing is chosen on it, and its time is saved
            "seed": self.seed,
            **self.options,
            **self.method.overrides,
            **paths,
        }
        return workflow_command(self.bundle, run_id, files, options)

    def _bundle(self, stop: Event, run_id: str, files: Sequence[str], **paths: Any) -> None:
        self.folder.mkdir(parents=True, exist_ok=True)
        log = self.folder / f"{run_id}.log"
        with open(log, "a", encoding="utf-8") as stream:
            process = subprocess.Popen(self.command(run_id, files, **paths), stdout=stream, stderr=subprocess.STDOUT)
            try:
                self._watch(process, stop, with_bar=run_id == "training")
            finally:
                if process.poll() is None:
                    process.terminate()
                    process.wait()
        if process.returncode:
            last = log.read_text(encoding="utf-8", errors="replace").strip().splitlines()[-1:]
            raise RunError(
                f"{run_id} of {self.method.name}, seed {self.seed}, failed: {' '.join(last)} (all of it: {log})"
            )

    def _watch(self, process: subprocess.Popen[bytes], stop: Event, *, with_bar: bool) -> None:
        """Until it ends; a bar follows the training's own log."""
        label = f"{self.method.name}, seed {self.seed}"
        with tqdm(total=self.epochs, desc=label, unit="epoch", disable=not with_bar) as bar:
            while process.poll() is None:
                if stop.wait(SECONDS_BETWEEN_LOOKS):
                    raise RunStopped(label)
                bar.update(len(self._history()) - bar.n)
            bar.update(len(self._history()) - bar.n)

    def _history(self) -> list[dict[str, Any]]:
        return read_history(self.folder / "training" / HISTORY_FILE)


def _write_plain(models: Path) -> None:
    """The student's weights of the last epoch, as a model of its own with the same settings."""
    ema, plain = models / CHECKPOINTS["ema"], models / CHECKPOINTS["plain"]
    settings_file(plain).write_text(settings_file(ema).read_text())
    save_atomically(read_checkpoint(models / STATE_FILE)["student"], plain)
