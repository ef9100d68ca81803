"""Checkpoints of a whole training: it can be killed at any moment and goes on where the last epoch ended."""

from __future__ import annotations

import json
import logging
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from ignite.engine import Engine, Events
from torch import nn

from aps_components.data.identity import changes
from aps_components.files import ensure_writable
from aps_components.models import (
    NETWORK,
    SETTINGS_OF_BEFORE,
    SPACING_AGREED,
    TRAINED_KEYS,
    CheckpointError,
    Predictor,
    load_fitting,
    load_weights,
    read_checkpoint,
    read_settings,
    save_atomically,
    save_settings,
    trained_network,
)
from aps_components.models.model_file import FREE, LISTED
from aps_components.options import differences
from aps_components.terminal import brief
from aps_components.training.distributed import of_all_ranks
from aps_components.training.trainer import SemiSupervisedTrainer

STATE_FILE, MODEL_FILE, BEST_FILE = "checkpoint.pt", "model.pt", "model_best.pt"
CASES = "cases"
# What is written down, and may be another when a training goes on: a file counts by its content.
FOR_INFORMATION = ("code", "pretrained", "sam_checkpoint", SPACING_AGREED)
PARTS = {"a": "model_a.", "all": ""}
FITTING = "fitting"
SHOWN = 3
MEANINGS = ("labels", "modalities", "intensity")  # of outputs and inputs, whose number alone the weights tell
logger = logging.getLogger(__name__)


class TrainingCheckpoint:
    """Ignite handler that writes three files into ``ckpt_dir`` and resumes from the first.

    ``checkpoint.pt``: everything that training needs to go on, after every epoch. ``model.pt``: the teacher's weights
    after the last epoch, which is what is deployed. ``model_best.pt``: the teacher's when the validation's key metric
    was best. Each is replaced as a whole or not at all. Put it behind the validation in the list of handlers.

    Args:
        ckpt_dir: made if missing.
        settings: what makes this run the one it is, see ``configuration.run_settings``: a checkpoint of another is
            refused. ``cases`` among them are the scans, see ``data.case_identities``.
        evaluator: the validation's engine, for the best metric; None for none.
        restart: for whoever presses a button again after more scans were labelled. A checkpoint of another run, or of
            one that is done, is neither refused nor the end: a new schedule starts from the weights that the student
            has, and replaces it. An unfinished run of the same settings goes on as always. By default where the scans
            are those of a MONAI Label datastore.
        answering: the predictor by which inference answers with this model; by default ``average``, and ``a`` where
            Model B learns nothing.
    """

    def __init__(
        self,
        ckpt_dir: str | Path,
        *,
        settings: Mapping[str, Any],
        evaluator: Engine | None = None,
        restart: bool | None = None,
        answering: Predictor | None = None,
    ) -> None:
        self.directory = ensure_writable(ckpt_dir)
        self.settings: dict[str, Any] = json.loads(json.dumps(dict(settings), default=str))
        self.evaluator, self.restart, self.answering = evaluator, restart, answering
        self.best_metric: float | None = None
        self.best_epoch = 0

    def attach(self, engine: SemiSupervisedTrainer) -> None:
        """Resume when the training starts, save after each epoch.

        Raises:
            CheckpointError: with ``restart``, the ``model.pt`` there was trained at another voxel size, intensity, ...
        """
        answering = self.answering or ("average" if engine.objective.train_b else "a")
        self.settings["inference_predictor"] = answering
        if self.restart is None:
            self.restart = getattr(engine.data_loader.dataset, "in_datastore", False)
        if self.restart:
            self._refuse_other_model()
        for line in learned_otherwise(self.settings):
            logger.warning(line)
        engine.folders.append(self.directory)
        engine.add_event_handler(Events.STARTED, self.resume)
        engine.add_event_handler(Events.EPOCH_COMPLETED, self.save)

    def resume(self, engine: SemiSupervisedTrainer) -> None:
        """Restore the last epoch's state, if there is one.

        Raises:
            CheckpointError: the file is damaged or belongs to other settings, or the ranks were given different ones or
                do not find the same file.
        """
        self._refuse_ranks_apart()
        path = self.directory / STATE_FILE
        state = self._state(path, max_epochs=engine.state.max_epochs) if path.is_file() else None
        self._refuse_other_folders(None if state is None else state["epoch"])
        engine.ckpt_dir = str(self.directory)
        if state is None:
            return
        engine.network.load_state_dict(state["student"])
        engine.teacher.load_state_dict(state["teacher"])
        engine.optimizer.load_state_dict(state["optimizer"])
        engine.lr_scheduler.load_state_dict(state["lr_scheduler"])
        engine.state.epoch, engine.state.iteration = state["epoch"], state["iteration"]
        self.best_metric, self.best_epoch = state["best_metric"], state["best_epoch"]
        if engine.state.epoch >= engine.state.max_epochs:
            logger.info("%s: all %d epochs are done; nothing is left to train", path, engine.state.max_epochs)
            engine.terminate()
        else:
            logger.info("%s: going on after epoch %d of %d", path, engine.state.epoch, engine.state.max_epochs)

    def _state(self, path: Path, *, max_epochs: int) -> dict[str, Any] | None:
        """What to go on with; None to start anew."""
        try:
            state = read_checkpoint(path)
            self._refuse_other_settings(state.get("settings", {}), path)
        except CheckpointError as error:
            if not self.restart:
                raise
            logger.info("a new schedule starts from the weights there are: %s", error)
            return None
        if self.restart and state["epoch"] >= max_epochs:
            logger.info("a new schedule starts from the weights there are: %s: all epochs are done", path)
            return None
        return state

    def save(self, engine: SemiSupervisedTrainer) -> None:
        """Write the files; in a distributed run rank 0 does."""
        if engine.state.rank != 0:
            return
        weights = engine.teacher.module.state_dict()
        if self._is_best(engine):
            self._export(weights, BEST_FILE)
        self._export(weights, MODEL_FILE)
        # Last, so that a run killed before this line repeats the epoch and writes the other two again.
        save_atomically(
            {
                "settings": self.settings,
                "epoch": engine.state.epoch,
                "iteration": engine.state.iteration,
                "best_metric": self.best_metric,
                "best_epoch": self.best_epoch,
                "student": engine.network.state_dict(),
                "teacher": engine.teacher.state_dict(),
                # The same tensors, stored once: tools that take any file beside model.pt for a model look for this key.
                "model": weights,
                "optimizer": engine.optimizer.state_dict(),
                "lr_scheduler": engine.lr_scheduler.state_dict(),
            },
            self.directory / STATE_FILE,
        )

    def _export(self, weights: Mapping[str, Any], name: str) -> None:
        save_atomically(weights, self.directory / name)
        save_settings(self.settings, self.directory / name)

    def _is_best(self, engine: SemiSupervisedTrainer) -> bool:
        """Whether this epoch's validation, if it had one, was the best so far."""
        validation = self.evaluator.state if self.evaluator is not None else None
        # MONAI's Evaluator.run counts its epochs on from the trainer's.
        if validation is None or validation.epoch != engine.state.epoch or not validation.metrics:
            return False
        metric = float(validation.metrics[validation.key_metric_name])
        if self.best_metric is not None and metric <= self.best_metric:
            return False
        self.best_metric, self.best_epoch = metric, engine.state.epoch
        return True

    def _refuse_other_model(self) -> None:
        """Weights that go on learning at another voxel size or intensity lose what they know."""
        path = self.directory / MODEL_FILE
        if not path.is_file():
            return
        known = read_settings(path)
        unnamed = ("spacing",) if _named_no_size(known, self.settings) else ()
        found = {key: value for key, value in known.items() if key in TRAINED_KEYS and key not in unnamed}
        found |= {f"{NETWORK}#{key}": value for key, value in trained_network(path).items() if key not in FREE}
        given = self.settings | {f"{NETWORK}#{key}": value for key, value in self.settings.get(NETWORK, {}).items()}
        if different := [key for key, value in found.items() if key in given and value != given[key]]:
            values = "; ".join(f"{key} {found[key]!r} there, {given[key]!r} here" for key in different)
            raise CheckpointError(
                f"{path} was trained with other settings than this bundle's configs/train.json has ({values}). Write "
                f"the model's into configs/train.json, or move {path.name} and {path.stem}.json away to start anew"
            )

    def _refuse_ranks_apart(self) -> None:
        """Each rank takes its share of what it was given: of different lists, some scans twice and others never."""
        first, *others = of_all_ranks(self.settings)
        for rank, found in enumerate(others, 1):
            if different := self._different(found, first):
                raise CheckpointError(
                    f"rank {rank} was given other settings or scans than rank 0 ({different}): start every node with "
                    "the same options and the same datalist"
                )

    def _refuse_other_folders(self, epoch: int | None) -> None:
        """Rank 0 writes for all: one that reads elsewhere would begin anew, or an epoch behind, beside the others."""
        first, *others = of_all_ranks(epoch)
        for rank, found in enumerate(others, 1):
            if found != first:
                said = ["no checkpoint" if each is None else f"epoch {each}" for each in (first, found)]
                raise CheckpointError(
                    f"rank 0 found {said[0]} in {self.directory}, rank {rank} {said[1]}: --ckpt_dir must be one folder "
                    "that all nodes share"
                )

    def _refuse_other_settings(self, found: Mapping[str, Any], path: Path) -> None:
        if different := self._different(found, self.settings):
            raise CheckpointError(
                f"{path} belongs to a run with other settings ({different}). "
                "Give the same settings and scans to go on with it, or another --ckpt_dir to start a new run"
            )

    def _different(self, found: Mapping[str, Any], own: Mapping[str, Any]) -> str:
        """In words, what of one run is not as in another; empty where one can go on with the other's weights."""
        of_before = {key: value for key, value in SETTINGS_OF_BEFORE.items() if key in self.settings}
        unknown = [key for key in LISTED if key not in found]  # of before they were kept
        unknown += ["spacing"] if _named_no_size(found, own) else []
        compared = [
            {key: value for key, value in settings.items() if key not in (CASES, *FOR_INFORMATION, *unknown)}
            for settings in ({**of_before, **found}, own)
        ]
        other_scans = changes(found.get(CASES) or {}, own.get(CASES) or {})
        return "; ".join(filter(None, (differences(*compared), other_scans)))


def _named_no_size(found: Mapping[str, Any], own: Mapping[str, Any]) -> bool:
    """Whether in neither run a voxel size was asked for: scans that came since may agree on a slightly other one."""
    return bool(own.get(SPACING_AGREED)) and (found.get("spacing") is None or bool(found.get(SPACING_AGREED)))


def learned_otherwise(settings: Mapping[str, Any]) -> list[str]:
    """What a whole model that a training begins with knows by another meaning, a sentence each.

    Its weights fit, so that nothing else tells of classes in another order or of values on another scale.

    Args:
        settings: of the training.
    """
    file = settings.get("pretrained")
    if settings.get("pretrained_part") != "all" or not file:
        return []
    earlier = read_settings(file)
    return [
        f"{file} was trained with {key} {brief(earlier[key])}, and this training has {brief(settings[key])}: what it "
        "knows of that is learned anew"
        for key in MEANINGS
        if key in earlier and key in settings and earlier[key] != settings[key]
    ]


def load_pretrained(
    network: nn.Module, path: str | Path | None, *, part: str = "a", settings: Mapping[str, Any] | None = None
) -> nn.Module:
    """Start from the weights of another training; None leaves the network as it is. The network is given back.

    Args:
        network: receives the weights, in place.
        path: a ``model.pt``.
        part: ``a``: Model A alone, of a pretraining; ``all``: the whole network, to train a model further, also on
            patches and voxels of another size; ``fitting``: what fits, for other classes or channels. What was left is
            logged.
        settings: arguments of the network, compared with those that the whole network in the file was built with.

    Raises:
        ValueError: another part.
        CheckpointError: the weights do not fit.
    """
    if part not in (*PARTS, FITTING):
        raise ValueError(f"pretrained_part {part!r} must be one of {(*PARTS, FITTING)}")
    if path is not None and part == FITTING:
        left = load_fitting(network, path)
        more = f" and {len(left) - SHOWN} more" if len(left) > SHOWN else ""
        said = f"left as they are: {'; '.join(left[:SHOWN])}{more}" if left else "all of them"
        logger.info("the network starts from the weights of %s that fit, %s", path, said)
    elif path is not None:
        whole = part == "all"
        compared = {NETWORK: settings} if whole and settings else None
        load_weights(network, path, only=PARTS[part], settings=compared, other_roi_size=whole)
        logger.info("%s starts from %s", "Model A" if part == "a" else "the network", path)
    return network
