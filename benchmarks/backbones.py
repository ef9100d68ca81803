"""Model A's networks held against each other: the same scans, options and minutes on the same core, one table.

    python benchmarks/backbones.py OUT --bundle BUNDLE --dataset_dir DIR --minutes 8 --seeds 0,1,2

Each network first trains for a few iterations, which gives its pace; then a training of each seed has as many
iterations as the minutes hold. Model A learns alone, for --warmup_share of them from labelled patches and then from
both kinds. What it leaves answers the validation scans. All else is what BUNDLE has; a network that has no strides and
kernels there halves every axis four times. OUT receives a folder for each training and runs.csv, a row for each class
of each. Called again, it goes on with what is missing.
"""

from __future__ import annotations

import argparse
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from statistics import fmean
from threading import Event
from typing import Any

from answers import METRICS, dice_by_class

from aps_components.bundle import workflow_command
from aps_components.csv_table import comma_separated
from aps_components.evaluation.machine import machine
from aps_components.files import replace_text
from aps_components.processes import run_logged
from aps_components.training.history import HISTORY_FILE, read_history

RUN = ("dataset", "backbone", "seed", "minutes", "iterations", "seconds_an_iteration")
COLUMNS = (*RUN, "class", "dice", "worst_dice")
TABLE = "runs.csv"
EPOCHS = 12
PROBE = 12  # iterations an epoch; the first of each phase is left out


@dataclass(frozen=True, kw_only=True)
class Study:
    """One dataset, the networks on it, and the minutes of each training."""

    out: Path
    bundle: Path
    dataset: Path
    minutes: float
    warmup_share: float
    threads: int
    options: Mapping[str, Any]

    def pace(self, backbone: str) -> float:
        """Mean seconds an iteration."""
        history = self.train(backbone, 0, folder=self.out / backbone / "pace", epochs=4, length=PROBE, warmup=2)
        return self.warmup_share * history[1] + (1 - self.warmup_share) * history[3]

    def train(
        self, backbone: str, seed: int, *, folder: Path, epochs: int, length: int, warmup: int
    ) -> Sequence[float]:
        """Seconds an iteration, by epoch."""
        file = folder / "training" / HISTORY_FILE
        if not file.is_file() or len(read_history(file)) < epochs:
            options = {
                **self._data(backbone),
                "seed": seed,
                "epochs": epochs,
                "epoch_length": length,
                "warmup_epochs": warmup,
                "val_interval": epochs + 1,
                "objective#train_b": False,
                "ckpt_dir": folder / "models",
                "output_dir": folder / "training",
            }
            self._run(workflow_command(self.bundle, "training", ["train.json"], options), folder / "training.log")
        return [float(line["seconds_per_iteration"]) for line in read_history(file)]

    def answer(self, backbone: str, *, folder: Path) -> Mapping[str, list[float]]:
        """Dice in percent of every validation scan, by class, as the bundle gives its answers."""
        table = folder / "validation" / METRICS
        if not table.is_file():
            options = {
                **self._data(backbone),
                "split": "validation",
                "checkpoint": folder / "models" / "model.pt",
                "ckpt_dir": folder / "models",
                "output_dir": table.parent,
            }
            files = ["train.json", "evaluate.json"]
            self._run(workflow_command(self.bundle, "evaluating", files, options), folder / "validation.log")
        return dice_by_class(table.parent)

    def _data(self, backbone: str) -> dict[str, Any]:
        return {"dataset_dir": self.dataset, "backbone": backbone, "predictor": "a", **self.options}

    def _run(self, command: Sequence[str], log: Path) -> None:
        run_logged(command, log=log, stop=Event(), threads=self.threads)


def measured(study: Study, backbone: str, seed: int) -> list[dict[str, Any]]:
    """Rows of the table, one for each class and one for their mean."""
    length = max(1, round(60 * study.minutes / study.pace(backbone) / EPOCHS))
    folder = study.out / backbone / f"seed_{seed}"
    warmup = round(study.warmup_share * EPOCHS)
    seconds = study.train(backbone, seed, folder=folder, epochs=EPOCHS, length=length, warmup=warmup)
    dice = study.answer(backbone, folder=folder)
    means = [fmean(scan) for scan in zip(*dice.values(), strict=True)]
    common = {
        "dataset": study.dataset.name,
        "backbone": backbone,
        "seed": seed,
        "minutes": f"{fmean(seconds) * EPOCHS * length / 60:.1f}",
        "iterations": EPOCHS * length,
        "seconds_an_iteration": f"{fmean(seconds):.3f}",
    }
    return [
        {**common, "class": name, "dice": f"{fmean(values):.2f}", "worst_dice": f"{min(values):.2f}"}
        for name, values in {**dice, "mean": means}.items()
    ]


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("out", type=Path)
    parser.add_argument("--bundle", type=Path, required=True)
    parser.add_argument("--dataset_dir", type=Path, required=True)
    parser.add_argument("--backbones", default="vnet,residual_encoder")
    parser.add_argument("--seeds", default="0,1,2")
    parser.add_argument("--minutes", type=float, default=8.0, help="of each training, without its start")
    parser.add_argument(
        "--warmup_share", type=float, default=1 / 3, help="of the iterations, on labelled patches alone"
    )
    parser.add_argument("--threads", type=int, default=1)
    parser.add_argument("--labeled_batch", type=int, default=1)
    parser.add_argument("--unlabeled_batch", type=int, default=1)
    given = parser.parse_args()
    study = Study(
        out=given.out.resolve(),
        bundle=given.bundle.resolve(),
        dataset=given.dataset_dir.resolve(),
        minutes=given.minutes,
        warmup_share=given.warmup_share,
        threads=given.threads,
        options={"labeled_batch": given.labeled_batch, "unlabeled_batch": given.unlabeled_batch},
    )
    print(f"{machine()}, {given.threads} threads")
    rows: list[dict[str, Any]] = []
    for seed in map(int, given.seeds.split(",")):
        for backbone in given.backbones.split(","):
            rows += measured(study, backbone, seed)
            print(rows[-1])
            table = [COLUMNS, *([row[column] for column in COLUMNS] for row in rows)]
            replace_text(study.out / TABLE, comma_separated(table))


if __name__ == "__main__":
    main()
