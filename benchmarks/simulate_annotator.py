"""What a strategy saves an annotator: Dice against the scans labelled, and against minutes, with nobody at the desk.

The simulated annotator begins with a few labelled scans of a bundle's training scans, whose labels are all known; the
others count as unlabelled. Each round goes on from the last one's weights, and the next scans are chosen by a strategy
from what that model says of them. They are labelled in one of three ways: ``whole``, the true label; ``slices``, every
third slice of it; ``corrected``, the model's answer after some clicks on its largest errors, with the errors that are
left. Those with which a seed begins have whole labels, and are the same for all. Model B learns only for ``corrected``.
A row of the CSV file stands for a trained round; the same command goes on where it was stopped.

    python benchmarks/simulate_annotator.py OUT --bundle runs/hippocampus --dataset_dir DIR --seeds 0,1,2
"""

from __future__ import annotations

import argparse
import csv
import json
import zlib
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from statistics import fmean
from threading import Event
from typing import Any

import numpy as np
from answers import METRICS, dice_by_class
from partial_labels import NOT_LABELED, third_of_slices

from aps_components.bundle import aps_command, workflow_command
from aps_components.csv_table import comma_separated
from aps_components.data import LoadVolumed, case_name
from aps_components.data.datalist import Item, files_of
from aps_components.data.nifti import read_header, read_scan, write_like
from aps_components.evaluation.doubt.next_scan import FOREGROUND, RANDOM, STRATEGIES, ScanScore, next_scans
from aps_components.files import replace_text
from aps_components.interactive import Predictor, load_model
from aps_components.plain_json import read_object
from aps_components.processes import run_logged
from aps_components.prompts import deepest_error
from aps_components.recipe.datasets import Learning

WHOLE, SLICES, CORRECTED = WAYS = ("whole", "slices", "corrected")
COLUMNS = ("way", "strategy", "seed", "round", "labelled", "minutes", "dice")
TABLE = "rounds.csv"


@dataclass(frozen=True, kw_only=True)
class Chain:
    """One simulated annotator.

    Attributes:
        way: of labelling.
        strategy: by which scans are chosen.
        seed: of the first scans, of what the strategy leaves to chance, and of the trainings.
        options: of the command line.
        learning: all scans, with their true labels.
    """

    way: str
    strategy: str
    seed: int
    options: argparse.Namespace
    learning: Learning

    @property
    def with_b(self) -> bool:
        """Whether Model B learns, which is what clicks need."""
        return self.way == CORRECTED

    def folder(self, round: int) -> Path:
        """Of a round; all chains of a seed that train the same models have the first one together."""
        if not round:
            return self.options.out / f"start_{'with_b_' if self.with_b else ''}{self.seed}"
        return self.options.out / f"{self.way}_{self.strategy}_{self.seed}" / f"round_{round}"

    def model(self, round: int) -> Path:
        """The weights after a round."""
        return self.folder(round) / "models" / "model.pt"

    def row(self, round: int) -> dict[str, Any]:
        """Label, train and measure; the row of the table."""
        labels, minutes = self._labelled(round)
        items = [{**item, "label": str(labels[case_name(item)])} for item in self._pool if case_name(item) in labels]
        others = [{"image": item["image"]} for item in self._pool if case_name(item) not in labels]
        here = self.folder(round)
        scans = replace(self.learning, labelled=items, unlabelled=others).write(here / "scans")
        if not self.model(round).is_file():
            self._run(self._training(round, scans, len(items), len(others)), here / "training.log")
        answers = here / "answers"
        if not (answers / METRICS).is_file():
            paths = {"dataset_dir": scans, "checkpoint": self.model(round), "output_dir": answers}
            files = ["train.json", "evaluate.json"]
            command = workflow_command(
                self.options.bundle, "evaluating", files, {**paths, "split": "validation", **self._answering}
            )
            self._run(command, here / "evaluating.log")
        dice = fmean(value for found in dice_by_class(answers).values() for value in found)
        values = [*(getattr(self, name) for name in COLUMNS[:3]), round, len(items), round_minutes(minutes)]
        return dict(zip(COLUMNS, [*values, f"{dice:.2f}"], strict=True))

    @property
    def _pool(self) -> list[Item]:
        return self.learning.labelled[: self.options.pool]

    @property
    def _answering(self) -> dict[str, Any]:
        return {"predictor": self.options.predictor}

    def _training(self, round: int, scans: Path, labelled: int, others: int) -> list[str]:
        options = self.options
        here = self.model(round).parent
        settings: dict[str, Any] = {
            "dataset_dir": scans,
            "ckpt_dir": here,
            "output_dir": here.parent / "training",
            "seed": self.seed,
            "epochs": options.epochs,
            "epoch_length": options.epoch_length,
            "val_interval": options.epochs + 1,
            "labeled_batch": min(options.batch, labelled),
            "unlabeled_batch": min(options.batch, others),
            "objective#train_b": self.with_b,
            **({"ignore": NOT_LABELED} if round and self.way == SLICES else {}),
        }
        if round:
            settings |= {"pretrained": self.model(round - 1), "pretrained_part": "all", "warmup_epochs": 0}
        return workflow_command(options.bundle, "training", ["train.json"], settings)

    def _labelled(self, round: int) -> tuple[dict[str, Path], float]:
        """The label file of each scan labelled so far, and the annotator's minutes; kept, as they are made once."""
        kept = self.folder(round) / "labelled.json"
        if not kept.is_file():
            kept.parent.mkdir(parents=True, exist_ok=True)
            before, minutes = self._labelled(round - 1) if round else ({}, 0.0)
            labels = {name: str(path) for name, path in before.items()}
            for name in self._chosen(round, set(before)):
                labels[name], more = self._label(name, round)
                minutes += more
            replace_text(kept, json.dumps({"labels": labels, "minutes": minutes}, indent=1) + "\n")
        content = read_object(kept)
        return {name: Path(path) for name, path in content["labels"].items()}, float(content["minutes"])

    def _chosen(self, round: int, labelled: set[str]) -> list[str]:
        left = {case_name(item): item for item in self._pool if case_name(item) not in labelled}
        if not round:  # nothing knows anything yet
            return next_scans(RANDOM, {name: ScanScore(entropy={}) for name in left}, seed=self.seed)[
                : self.options.start
            ]
        scores = {name: ScanScore(entropy={}) for name in left}
        if self.strategy != RANDOM:
            scores = self._scores(round, left)
        return next_scans(self.strategy, scores, seed=self.seed, round=round - 1)[: self.options.step]

    def _scores(self, round: int, left: Mapping[str, Item]) -> dict[str, ScanScore]:
        here = self.folder(round)
        here.mkdir(parents=True, exist_ok=True)
        listed, found = here / "to_score.json", here / "scores.json"
        replace_text(listed, json.dumps({name: files_of(item["image"])[0] for name, item in left.items()}))
        options = {"scans": listed, "bundle": self.options.bundle, "out": found, "checkpoint": self.model(round - 1)}
        self._run(aps_command("next-scan", {**options, **self._answering}), here / "scoring.log")
        return {name: ScanScore.from_json(score) for name, score in read_object(found)["scans"].items()}

    def _label(self, name: str, round: int) -> tuple[str, float]:
        """A label file, and the minutes that it takes."""
        item = next(item for item in self._pool if case_name(item) == name)
        if self.way == WHOLE or not round:
            return str(item["label"]), self.options.whole_minutes
        target = self.folder(round) / "labels" / f"{name}.nii.gz"
        target.parent.mkdir(parents=True, exist_ok=True)
        return self._correct(target, item, round) if self.way == CORRECTED else self._draw(target, item, round)

    def _draw(self, target: Path, item: Item, round: int) -> tuple[str, float]:
        """Every third slice of the true label."""
        label = files_of(item["label"])[0]
        truth = np.rint(read_scan(label).voxels).astype(np.uint8)
        rng = np.random.default_rng([self.seed, round, zlib.crc32(target.name.encode())])
        write_like(target, third_of_slices(truth, rng), read_header(label))
        return str(target), self.options.look_minutes + self.options.whole_minutes / 3

    def _correct(self, target: Path, item: Item, round: int) -> tuple[str, float]:
        """The last round's answer after clicks on its largest errors."""
        predictor = Predictor(load_model(self.model(round - 1)))
        loaded = LoadVolumed("label", num_classes=len(self.learning.labels))({"label": item["label"]})["label"]
        truth, spacing = np.asarray(loaded[0]), [float(size) for size in loaded.pixdim]
        predictor.set_image(item["image"])
        answer, clicks = predictor.predict().label_map, 0
        while clicks < self.options.clicks and (error := deepest_error(answer, truth, spacing=spacing)) is not None:
            answer, clicks = predictor.predict([(error.voxel, error.label)]).label_map, clicks + 1
        write_like(target, answer, read_header(files_of(item["image"])[0]))
        return str(target), self.options.look_minutes + clicks * self.options.click_minutes

    def _run(self, command: Sequence[str], log: Path) -> None:
        run_logged(command, log=log, stop=Event(), threads=self.options.threads)


def round_minutes(minutes: float) -> str:
    """As it stands in the table."""
    return f"{minutes:.1f}"


def read_rows(table: Path) -> list[dict[str, str]]:
    """What earlier calls measured."""
    if not table.is_file():
        return []
    with table.open(encoding="utf-8", newline="") as stream:
        return list(csv.DictReader(stream))


def write_rows(table: Path, rows: Sequence[Mapping[str, Any]]) -> None:
    """The whole table, or none of it."""
    replace_text(table, comma_separated([list(COLUMNS), *([row[name] for name in COLUMNS] for row in rows)]))


def minutes_to(dice: float, rows: Sequence[Mapping[str, str]]) -> dict[tuple[str, str, str], float | None]:
    """The annotator's minutes after which a chain first reaches a Dice, on straight lines between its rounds.

    Args:
        dice: in percent.
        rows: of the table.

    Returns:
        by way, strategy and seed; None for a chain that never reaches it.
    """
    found: dict[tuple[str, str, str], float | None] = {}
    before: dict[tuple[str, str, str], tuple[float, float]] = {}
    for row in sorted(rows, key=lambda row: int(row["round"])):
        key = (row["way"], row["strategy"], row["seed"])
        here = (float(row["minutes"]), float(row["dice"]))
        if found.setdefault(key, None) is None and here[1] >= dice:
            start = before.get(key)
            rise = 1.0 if start is None else (dice - start[1]) / (here[1] - start[1])
            found[key] = here[0] if start is None else start[0] + rise * (here[0] - start[0])
        before[key] = here
    return found


def parse() -> argparse.Namespace:
    """The command line."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("out", type=lambda path: Path(path).resolve())
    parser.add_argument("--bundle", type=lambda path: Path(path).resolve(), required=True)
    parser.add_argument("--dataset_dir", type=lambda path: Path(path).resolve(), required=True)
    parser.add_argument("--strategies", default=f"{RANDOM},{FOREGROUND},doubt,predicted_dice")
    parser.add_argument("--ways", default=WHOLE, help=f"some of {', '.join(WAYS)}, with commas")
    parser.add_argument("--seeds", default="0")
    parser.add_argument("--pool", type=int, default=160, help="scans to choose from")
    parser.add_argument("--start", type=int, default=3, help="scans that are labelled first")
    parser.add_argument("--step", type=int, default=3, help="scans labelled a round")
    parser.add_argument("--most", type=int, default=18, help="labelled scans of the last round")
    parser.add_argument("--epochs", type=int, default=6, help="of a round's training")
    parser.add_argument("--epoch_length", type=int, default=25)
    parser.add_argument("--batch", type=int, default=1, help="labelled patches of an iteration, and unlabelled ones")
    parser.add_argument("--predictor", default="a", help="who answers")
    parser.add_argument("--clicks", type=int, default=10, help=f"the most for a scan, {CORRECTED}")
    parser.add_argument("--whole_minutes", type=float, default=15.0, help="of drawing a whole label")
    parser.add_argument("--look_minutes", type=float, default=1.0, help="of opening and looking through a scan")
    parser.add_argument("--click_minutes", type=float, default=0.25, help="of a click and a look at the answer")
    parser.add_argument("--wanted", type=float, default=85.0, help="Dice %% whose minutes are printed at the end")
    parser.add_argument("--threads", type=int, default=1)
    return parser.parse_args()


def main() -> None:
    """Every chain, round by round."""
    options = parse()
    table = options.out / TABLE
    rows = read_rows(table)
    done = {tuple(row[name] for name in COLUMNS[:4]) for row in rows}
    for strategy in (strategies := options.strategies.split(",")):
        if strategy not in STRATEGIES:
            raise SystemExit(f"--strategies {strategy}: give some of {', '.join(STRATEGIES)}")
    ways = options.ways.split(",")
    if unknown := [way for way in ways if way not in WAYS]:
        raise SystemExit(f"--ways {unknown[0]}: give some of {', '.join(WAYS)}")
    learning = Learning.read(options.dataset_dir, options.bundle / "configs" / "datalist.json", {})
    rounds = range((options.most - options.start) // options.step + 1)
    for seed in map(int, options.seeds.split(",")):
        for way in ways:
            for strategy in strategies:
                chain = Chain(way=way, strategy=strategy, seed=seed, options=options, learning=learning)
                for number in rounds:
                    if (way, strategy, str(seed), str(number)) not in done:
                        rows.append(chain.row(number))
                        write_rows(table, rows)
                        print(",".join(str(rows[-1][name]) for name in COLUMNS), flush=True)
    for key, minutes in minutes_to(options.wanted, read_rows(table)).items():
        when = "not reached" if minutes is None else f"after {minutes:.0f} minutes"
        print(f"{', '.join(key)}: Dice {options.wanted:g} % {when}")


if __name__ == "__main__":
    main()
