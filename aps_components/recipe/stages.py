"""The stages of a whole training: each one command of the bundle or of ``aps``, in a process of its own."""

from __future__ import annotations

import time
from collections.abc import Callable, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor, wait
from dataclasses import dataclass
from pathlib import Path
from threading import Event
from typing import Any

from aps_components.bundle import aps_command, workflow_command
from aps_components.processes import CommandFailedError, CommandStopped, run_logged
from aps_components.recipe.display import Display
from aps_components.recipe.journal import Journal
from aps_components.recipe.parts import epochs_of
from aps_components.recipe.settings import FROM_EARLIER, Recipe

SECONDS_BETWEEN_LOOKS = 2.0
MODEL, CALIBRATED = "model.pt", "model_calibrated.pt"


class StageFailedError(RuntimeError):
    """A stage of a whole training failed; the message names its log."""


@dataclass(frozen=True, kw_only=True)
class Stage:
    """One command.

    Attributes:
        name: of all stages of a training another one.
        command: to run.
        log: that it says everything into.
        training: where it writes its ``history.jsonl``, if it is a training.
        iterations: of it.
    """

    name: str
    command: list[str]
    log: Path
    training: Path | None = None
    iterations: int = 0


@dataclass(frozen=True, kw_only=True)
class Commands:
    """The commands of the stages of one bundle.

    Attributes:
        bundle: its folder.
        recipe: of the whole.
        device: for all; None for the bundle's own choice.
        pretrained: a model, also of other classes or channels, that every training begins with as far as it fits.
        cache_dir: where all trainings keep preprocessed scans; None for their memory.
    """

    bundle: Path
    recipe: Recipe
    device: str | None = None
    pretrained: Path | None = None
    cache_dir: Path | None = None

    def training(
        self,
        name: str,
        folder: Path,
        *,
        dataset: Path,
        scans: tuple[int, int],
        iterations: int,
        seed: int,
        second: bool = False,
        begins_with: Path | None = None,
        learning_rate: float | None = None,
    ) -> Stage:
        """A training of Model A alone, of the first round or of the second one.

        Args:
            name: of the stage.
            folder: receives ``models`` and ``training``.
            dataset: its folder.
            scans: labelled and unlabelled ones.
            iterations: about this number.
            seed: of the training.
            second: learns from labels by models, too, and from no scan without a label.
            begins_with: an earlier model that it goes on from, if the recipe says so. Its teacher then labels from the
                first iteration on.
            learning_rate: of a training of the first kind; None for the recipe's.
        """
        earlier = begins_with if self.recipe.last_from == FROM_EARLIER else None
        options: dict[str, Any] = {
            **self._batches(scans, second=second),
            **(self._of_second() if second else {"learning_rate": learning_rate or self.recipe.learning_rate}),
            **self._start(earlier),
            "objective#train_b": False,
            "predictor": "a",
        }
        warmup = second or earlier is None
        return self._training(name, folder, options, dataset=dataset, iterations=iterations, seed=seed, warmup=warmup)

    def prompting(
        self,
        name: str,
        folder: Path,
        *,
        dataset: Path,
        scans: tuple[int, int],
        iterations: int,
        seed: int,
        begins_with: Path,
    ) -> Stage:
        """A training of Model B beside the Model A of another training, which stays as it is.

        Args:
            name: of the stage.
            folder: receives ``models`` and ``training``.
            dataset: its folder.
            scans: labelled and unlabelled ones.
            iterations: about this number.
            seed: of the training.
            begins_with: the model whose weights both begin with.
        """
        labelled, unlabelled = scans
        options: dict[str, Any] = {
            "labeled_batch": min(self.recipe.prompt_batch, labelled),
            "unlabeled_batch": min(self.recipe.prompt_batch, unlabelled),
            "learning_rate": self.recipe.prompt_learning_rate,
            "decision_interval": 0,
            **self._start(begins_with),
            "train_a": False,
        }
        return self._training(name, folder, options, dataset=dataset, iterations=iterations, seed=seed, warmup=False)

    def _training(
        self,
        name: str,
        folder: Path,
        options: Mapping[str, Any],
        *,
        dataset: Path,
        iterations: int,
        seed: int,
        warmup: bool = True,
    ) -> Stage:
        epochs, length, warmup_epochs = epochs_of(iterations, self.recipe)
        every: dict[str, Any] = {
            "dataset_dir": dataset,
            "ckpt_dir": folder / "models",
            "output_dir": folder / "training",
            "seed": seed,
            "epochs": epochs,
            "epoch_length": length,
            "warmup_epochs": warmup_epochs if warmup else 0,
            "val_interval": epochs + 1,
            **({"cache_dir": self.cache_dir} if self.cache_dir else {}),
            **options,
            **self._shared(),
        }
        return Stage(
            name=name,
            command=workflow_command(self.bundle, "training", ["train.json"], every),
            log=folder / "training.log",
            training=folder / "training",
            iterations=epochs * length,
        )

    def _start(self, begins_with: Path | None) -> dict[str, Any]:
        """Weights that a training begins with."""
        if begins_with is not None:
            return {"pretrained": begins_with, "pretrained_part": "all"}
        return {"pretrained": self.pretrained, "pretrained_part": "fitting"} if self.pretrained else {}

    def evaluating(
        self,
        name: str,
        folder: Path,
        *,
        dataset: Path,
        checkpoint: Path,
        split: str = "validation",
        mirror_axes: Sequence[Any] = (),
        with_b: bool = False,
    ) -> Stage:
        """Model A, or A, B and their average, on the scans of a split; ``folder`` receives ``metrics.json``."""
        options = {
            "dataset_dir": dataset,
            "checkpoint": checkpoint,
            "output_dir": folder,
            "split": split,
            "predictor": "average" if with_b else "a",
            **({"mirror_axes": list(mirror_axes)} if mirror_axes else {}),
            **self._shared(),
        }
        command = workflow_command(self.bundle, "evaluating", ["train.json", "evaluate.json"], options)
        return Stage(name=name, command=command, log=folder / "evaluating.log")

    def calibrating(
        self, name: str, *, dataset: Path, checkpoint: Path, target: Path, answer: Mapping[str, Any] | None = None
    ) -> Stage:
        """Offsets on whole labelled scans, and by ``answer`` how the model answers from then on."""
        files = {"bundle": self.bundle, "dataset_dir": dataset, "checkpoint": checkpoint, "target": target}
        how: dict[str, Any] = {"cases": self.recipe.calibrated_cases, "held_out": "none"}  # folds say the rest
        options: dict[str, Any] = {**files, **how, **(answer or {}), **self._shared()}
        return Stage(name=name, command=aps_command("calibrate", options), log=target.parent.parent / "calibrate.log")

    def labelling(
        self, name: str, *, dataset: Path, checkpoints: Sequence[Path], target: Path, predictor: str
    ) -> Stage:
        """Labels of the unlabelled scans by some models together."""
        options = {
            "bundle": self.bundle,
            "dataset_dir": dataset,
            "checkpoints": [str(checkpoint) for checkpoint in checkpoints],
            "target": target,
            "predictor": predictor,
            **self._shared(),
        }
        return Stage(name=name, command=aps_command("pseudo-label", options), log=target.parent / "pseudo-label.log")

    def _shared(self) -> dict[str, Any]:
        return {"device": self.device} if self.device else {}

    def _batches(self, scans: tuple[int, int], *, second: bool) -> dict[str, int]:
        """Patches of an iteration; no more than there are scans to take them from."""
        labelled, unlabelled = scans
        labeled_batch, unlabeled_batch = self.recipe.labeled_batch, self.recipe.unlabeled_batch
        if second or not unlabelled or not unlabeled_batch:
            return {"labeled_batch": min(labeled_batch + unlabeled_batch, labelled), "unlabeled_batch": 0}
        return {"labeled_batch": min(labeled_batch, labelled), "unlabeled_batch": min(unlabeled_batch, unlabelled)}

    def _of_second(self) -> dict[str, Any]:
        return {
            "learning_rate": self.recipe.second_learning_rate,
            "decision_interval": self.recipe.second_decision_interval,
        }


def run_chains(
    chains: Sequence[Sequence[Stage]],
    *,
    jobs: int,
    threads: int,
    journal: Journal,
    display: Display,
    after: Callable[[], None] = lambda: None,
) -> None:
    """Run some chains of stages beside each other, each stage when the one before it has ended; what is done already is
    not repeated.

    Args:
        chains: of stages.
        jobs: chains at once.
        threads: of each command.
        journal: says what is done, and is told.
        display: shown all the while.
        after: called whenever a stage has ended.

    Raises:
        StageFailedError: a stage failed; the others were stopped, and go on with the next call.
    """
    stop, ended = Event(), journal.done
    with ThreadPoolExecutor(max(1, jobs)) as pool:
        futures = [pool.submit(_run_chain, chain, threads, journal, stop, display) for chain in chains]
        try:
            waiting = set(futures)
            while waiting:
                done, waiting = wait(waiting, timeout=SECONDS_BETWEEN_LOOKS)
                for future in done:
                    future.result()
                if journal.done != ended:
                    ended = journal.done
                    after()
                display.show()
        finally:
            stop.set()


def _run_chain(chain: Sequence[Stage], threads: int, journal: Journal, stop: Event, display: Display) -> None:
    try:
        for stage in chain:
            if stop.is_set():
                return
            if not journal.is_done(stage.name):
                with display.running(stage.name, stage.training, stage.iterations):
                    _run(stage, threads, journal, stop)
    except CommandStopped:  # because another chain failed, whose error is the one to tell
        return
    except BaseException:
        stop.set()  # before this thread takes the next chain
        raise


def _run(stage: Stage, threads: int, journal: Journal, stop: Event) -> None:
    journal.begin(stage.name, stage.command, folder=stage.training)
    last = time.monotonic()

    def look() -> None:
        nonlocal last
        now = time.monotonic()
        journal.add(stage.name, now - last)
        last = now

    try:
        run_logged(stage.command, log=stage.log, stop=stop, threads=threads, look=look, seconds=SECONDS_BETWEEN_LOOKS)
    except CommandFailedError as error:
        raise StageFailedError(f"{stage.name} failed: {error}") from None
    journal.add(stage.name, 0.0, done=True)
