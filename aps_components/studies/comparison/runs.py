"""One training of a comparison: the bundle's own commands, each in a process of its own; done work is not repeated."""

from __future__ import annotations

import json
import sys
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from threading import Event
from typing import Any

from tqdm import tqdm

from aps_components.bundle import aps_command, workflow_command
from aps_components.data.datalist import DATALIST
from aps_components.evaluation.machine import machine
from aps_components.evaluation.pseudo_labels import labeled_by
from aps_components.files import replace_text, sha256_of
from aps_components.models import copy_settings, read_checkpoint, save_atomically, settings_file
from aps_components.plain_json import are_numbers, is_number, read_object
from aps_components.processes import CommandFailedError, CommandStopped, run_logged
from aps_components.studies.comparison.methods import GROUP, Method, in_equal_budget
from aps_components.studies.frames import pandas as pd
from aps_components.training.history import HISTORY_FILE, read_history

# The averaged weights, the same after `aps calibrate` where training has a decision, and the last ones.
CHECKPOINTS = {"ema": "model.pt", "calibrated": "model_calibrated.pt", "plain": "model_plain.pt"}
STUDENT_FILE = "model_student.pt"
STATE_FILE = "checkpoint.pt"
DATASET = "dataset"  # of a later round: the labels that its teachers give
SECONDS_BETWEEN_LOOKS = 2.0
# Of a bar: several move the cursor, which a file has not, so there it is a line, at most one a minute.
IN_A_FILE = {
    "mininterval": 60.0,
    "miniters": 1,
    "position": 0,
    "bar_format": "{desc}: {n_fmt}/{total_fmt} [{elapsed}<{remaining}, {rate_fmt}]\n",
}
KEPT_KEYS = ("predictor", "variant", "class", "n")
KEPT_MEANS = ("dice", "jaccard", "hd95_voxel", "asd_voxel", "hd95_mm", "asd_mm", "volume_ratio", "prompt_precision")


class RunError(RuntimeError):
    """A training or an evaluation failed; the message names its log."""


class RunStopped(RuntimeError):
    """A run was asked to stop; it goes on where it was when it is executed again."""


@dataclass(frozen=True, kw_only=True)
class Run:
    """One method with one seed.

    A later round has teachers: their models label the unlabelled scans, and it learns from all scans, beginning with
    the last teacher's weights.

    Args:
        method: whose training.
        seed: of it.
        out: receives a folder for the run: logs, models, all metrics.
        results: receives a folder for the method, in it a small file for the run: all that a table needs.
        bundle: the bundle's folder.
        options: of the bundle's commands, the same for all runs of a comparison.
        epochs: of the training.
        split: which scans are evaluated.
        teachers: the runs of the method's teachers with the same seed.
    """

    method: Method
    seed: int
    out: Path
    results: Path
    bundle: Path
    options: Mapping[str, Any]
    epochs: int
    split: str
    teachers: tuple[Run, ...] = ()

    @property
    def folder(self) -> Path:
        """Of everything that the run writes but its result."""
        return self.out / self._method_folder / f"seed_{self.seed}"

    @property
    def result_file(self) -> Path:
        """Of what :meth:`result` reads."""
        return self.results / self._method_folder / f"seed_{self.seed}.json"

    @property
    def _method_folder(self) -> str:
        return self.method.name.replace(GROUP, "-")

    @property
    def is_done(self) -> bool:
        """Whether there is a result, made here or brought from elsewhere."""
        return self.result_file.is_file()

    @property
    def is_trained(self) -> bool:
        """Whether the model of a finished training is here; a result may be without it."""
        models = self.folder / "models"
        return (models / CHECKPOINTS["ema"]).is_file() and not (models / STATE_FILE).is_file()

    @property
    def answering_file(self) -> Path:
        """The model that a later round asks: the calibrated one, where training has a decision."""
        averaged, calibrated, _ = (self.folder / "models" / file for file in CHECKPOINTS.values())
        return calibrated if calibrated.is_file() else averaged

    @property
    def round(self) -> int:
        """1 without teachers, else one more than theirs."""
        return 1 + max((teacher.round for teacher in self.teachers), default=0)

    def result(self) -> dict[str, Any]:
        """``minutes`` of training, the teachers' included, validation left out; ``iterations`` of its own;
        ``machine``; and ``metrics`` by checkpoint: for each predictor, variant and class the means over the scans, for
        all classes together also ``dice_by_scan``."""
        mend = "delete it to make it anew"
        content = read_object(self.result_file, keys=("minutes", "metrics"), mend=mend)
        if not is_number(content["minutes"]) or not _are_metrics(content["metrics"]):
            raise ValueError(f"{self.result_file}: minutes or metrics are none; {mend}")
        return content

    def metrics_file(self, checkpoint: str) -> Path:
        """The evaluation of one of :data:`CHECKPOINTS`."""
        return self.folder / checkpoint / "metrics.json"

    def execute(self, stop: Event) -> None:
        """Train, or go on training, evaluate all of :data:`CHECKPOINTS`, and drop what is not needed. A result that is
        there already, brought from elsewhere, stays as it is.

        Args:
            stop: ends the run, from another thread.

        Raises:
            RunError: a command failed, or a teacher has no model.
            RunStopped: ``stop`` was set.
        """
        if self.teachers:
            self._label(stop)
        models = self.folder / "models"
        # The plain one is written and evaluated last.
        if not any(file.is_file() for file in (self.metrics_file("plain"), models / CHECKPOINTS["plain"])):
            paths = {"ckpt_dir": models, "output_dir": self.folder / "training"}
            self._bundle(stop, "training", ["train.json"], **paths, **self._learning_from_teachers())
            self._write_others(stop, models)
        for name, file in CHECKPOINTS.items():
            if (models / file).is_file() and not self.metrics_file(name).is_file():
                self._bundle(
                    stop,
                    "evaluating",
                    ["train.json", "evaluate.json"],
                    checkpoint=models / file,
                    ckpt_dir=models,
                    output_dir=self.folder / name,
                    split=self.split,
                    predictor=self.method.predictor,
                )
        for file in (STATE_FILE, STUDENT_FILE, CHECKPOINTS["plain"], "model_best.pt"):
            (models / file).unlink(missing_ok=True)
            settings_file(models / file).unlink(missing_ok=True)
        if not self.is_done:
            self._write_result()

    def command(self, run_id: str, files: Sequence[str], **paths: Any) -> list[str]:
        """The command line of one of the bundle's workflows."""
        return workflow_command(self.bundle, run_id, files, self.values | paths)

    @property
    def values(self) -> dict[str, Any]:
        """Keys of ``train.json`` in which this run differs from the bundle."""
        shared = {
            "epochs": self.epochs,
            "val_interval": self.epochs + 1,  # nothing is chosen on it, and its time is saved
            "seed": self.seed,
            **self.options,
        }
        training = read_object(self.bundle / "configs" / "train.json")
        return shared | in_equal_budget(self.method.overrides, training | shared)

    def _learning_from_teachers(self) -> dict[str, Any]:
        """What training alone has otherwise in a later round: calibrated and evaluated is on the dataset as it is."""
        if not self.teachers:
            return {}
        datalist = read_object(self.folder / DATASET / DATALIST, keys=("training",))
        return {
            "dataset_dir": self.folder / DATASET,
            "labeled_count": len(datalist["training"]),
            "pretrained": self.teachers[-1].folder / "models" / CHECKPOINTS["ema"],
            "pretrained_part": "all",
        }

    def _label(self, stop: Event) -> None:
        """The unlabelled scans by the teachers together, each answering by its own method's predictor."""
        for teacher in self.teachers:
            if not teacher.is_trained:
                raise RunError(
                    f"{self.method.name}, seed {self.seed}: there is no model of {teacher.method.name}, seed "
                    f"{teacher.seed}, in {teacher.folder} to label the scans with"
                )
        dataset, answering = self.folder / DATASET, [teacher.answering_file for teacher in self.teachers]
        if (dataset / DATALIST).is_file():
            if labeled_by(dataset) == [sha256_of(file) for file in answering]:
                return
            raise RunError(
                f"{self.method.name}, seed {self.seed}: {' and '.join(self.method.teachers)} were trained again after "
                f"they labelled the scans in {dataset}: delete {self.folder} to begin the round anew"
            )
        paths = {"bundle": self.bundle, "checkpoints": [str(file) for file in answering], "target": dataset}
        tqdm.write(f"{self.method.name}, seed {self.seed}: {' and '.join(self.method.teachers)} label the scans")
        # How many of the labels the models saw, and which of them are by hand, stands beside each.
        options = {key: value for key, value in self.options.items() if key != "labeled_count"}
        self._process(stop, "labelling", aps_command("pseudo-label", options | paths))

    def _write_others(self, stop: Event, models: Path) -> None:
        """Models of their own, with the same settings: the averaged weights with offsets from whole scans, where
        training adjusted them on patches, and the student's weights of the last epoch. The offsets of training are
        those of the averaged weights: the student gets its own, from the same labelled scans."""
        averaged, calibrated, plain = (models / file for file in CHECKPOINTS.values())
        # Training writes by whom a model answers; of two V-Nets (cps) it is the measured one.
        copy_settings(averaged, averaged, more={"inference_predictor": self.method.predictor})
        weights = read_checkpoint(models / STATE_FILE)["student"]
        adjusted = bool(weights["decision.offsets"].any())
        student = models / STUDENT_FILE if adjusted else plain
        copy_settings(averaged, student)
        save_atomically(weights, student)
        if adjusted:
            self._calibrate(stop, averaged, calibrated)
            self._calibrate(stop, student, plain)

    def _calibrate(self, stop: Event, checkpoint: Path, target: Path) -> None:
        paths = {"bundle": self.bundle, "checkpoint": checkpoint, "target": target}
        self._process(stop, "calibrating", aps_command("calibrate", self.values | paths))

    def _bundle(self, stop: Event, run_id: str, files: Sequence[str], **paths: Any) -> None:
        self._process(stop, run_id, self.command(run_id, files, **paths))

    def _process(self, stop: Event, run_id: str, command: Sequence[str]) -> None:
        log = self.folder / f"{run_id}.log"
        try:
            with self._bar(disable=run_id != "training") as bar:
                run_logged(command, log=log, stop=stop, look=lambda: self._show(bar), seconds=SECONDS_BETWEEN_LOOKS)
        except CommandStopped:
            raise RunStopped(f"{self.method.name}, seed {self.seed}") from None
        except CommandFailedError as error:
            raise RunError(f"{run_id} of {self.method.name}, seed {self.seed}, failed: {error}") from None

    def _bar(self, *, disable: bool) -> tqdm:
        """Of the training's epochs; in a file a line now and then."""
        look = {} if sys.stderr.isatty() else IN_A_FILE
        done = len(self._history())  # what is left is told by the pace of what goes on now, and by all of it
        label = f"{self.method.name}, seed {self.seed}"
        return tqdm(total=self.epochs, initial=done, desc=label, unit="epoch", smoothing=0, disable=disable, **look)

    def _show(self, bar: tqdm) -> None:
        """The bar follows the training's own log."""
        if not bar.disable and ((steps := len(self._history()) - bar.n) or sys.stderr.isatty()):
            bar.update(steps)

    def _write_result(self) -> None:
        history = self._history()
        if not history:
            raise RunError(f"{self.folder / 'training' / HISTORY_FILE}: no epoch in it; delete {self.folder}")
        content = {
            "method": self.method.name,
            "seed": self.seed,
            "iterations": history[-1]["iteration"],
            "minutes": round(_minutes(history) + sum(teacher.result()["minutes"] for teacher in self.teachers), 2),
            "machine": machine(),
            "metrics": {
                name: _means(self.metrics_file(name)) for name in CHECKPOINTS if self.metrics_file(name).is_file()
            },
        }
        self.result_file.parent.mkdir(parents=True, exist_ok=True)
        replace_text(self.result_file, json.dumps(content, indent=1) + "\n")

    def _history(self) -> list[dict[str, Any]]:
        return read_history(self.folder / "training" / HISTORY_FILE, keys=("iteration", "seconds_per_iteration"))


def _minutes(history: Sequence[Mapping[str, Any]]) -> float:
    epochs = pd.DataFrame(history)
    iterations = epochs["iteration"].diff().fillna(epochs["iteration"])
    return float((epochs["seconds_per_iteration"] * iterations).sum()) / 60


def of_all_classes(entries: Sequence[dict[str, Any]], predictor: str, variant: str) -> dict[str, Any]:
    """The entry of a summary for all classes together, where there are several; a single class stands alone.

    Raises:
        ValueError: there is none of the predictor and variant.
    """
    found = [entry for entry in entries if (entry["predictor"], entry["variant"]) == (predictor, variant)]
    if not found:
        raise ValueError(f"no figures of predictor {predictor!r}, {variant}; delete it to make it anew")
    return found[-1]


def _means(metrics: Path) -> list[dict[str, Any]]:
    """The summary of an evaluation without medians and deviations, and the Dice of each scan over all classes."""
    content = read_object(metrics, keys=("summary", "cases"))
    if not _is_summary(content["summary"]) or not _are_cases(content["cases"]):
        raise ValueError(f"{metrics}: its summary or its cases are none of an evaluation; delete it to make it anew")
    means = []
    for entry in content["summary"]:
        kept = {key: entry[key] for key in KEPT_KEYS if key in entry}
        kept |= {name: entry[name]["mean"] for name in KEPT_MEANS if name in entry}
        group = entry["predictor"], entry["variant"]
        if entry is of_all_classes(content["summary"], *group):
            kept["dice_by_scan"] = _dice_by_scan(content["cases"], *group)
        means.append(kept)
    return means


def _are_metrics(metrics: Any) -> bool:
    """Whether it is by checkpoint what :func:`_means` gives."""
    return isinstance(metrics, dict) and all(
        isinstance(entries, list) and all(map(_is_entry, entries)) for entries in metrics.values()
    )


def _is_entry(entry: Any) -> bool:
    if not isinstance(entry, dict) or not _has_words(entry, "predictor", "variant"):
        return False
    means = {name: entry[name] for name in KEPT_MEANS if name in entry}
    by_scan = entry.get("dice_by_scan", {})
    return are_numbers(means) and are_numbers(by_scan) and None not in by_scan.values()


def _is_summary(entries: Any) -> bool:
    return isinstance(entries, list) and all(
        isinstance(entry, dict)
        and _has_words(entry, "predictor", "variant")
        and all(isinstance(entry.get(name, {}), dict) for name in KEPT_MEANS)
        and all("mean" in entry[name] and are_numbers(entry[name]) for name in KEPT_MEANS if name in entry)
        for entry in entries
    )


def _are_cases(rows: Any) -> bool:
    return isinstance(rows, list) and all(
        isinstance(row, dict)
        and _has_words(row, "predictor", "variant", "case")
        and "dice" in row
        and are_numbers({"dice": row["dice"]})
        for row in rows
    )


def _has_words(entry: Mapping[str, Any], *keys: str) -> bool:
    return all(isinstance(entry.get(key), str) for key in keys)


def _dice_by_scan(cases: Sequence[Mapping[str, Any]], predictor: str, variant: str) -> dict[str, float]:
    """Of each scan the mean over its classes."""
    rows = pd.DataFrame(cases, columns=["predictor", "variant", "case", "dice"]).astype({"dice": float})
    own = rows[(rows["predictor"] == predictor) & (rows["variant"] == variant)].dropna(subset="dice")
    means = own.groupby("case", sort=False)["dice"].mean()
    return {str(case): round(float(dice), 6) for case, dice in means.items()}
