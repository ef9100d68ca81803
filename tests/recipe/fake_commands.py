"""Commands of a whole training that take no time: each writes what the real one leaves, with a test's own figures."""

from __future__ import annotations

import json
import shutil
from collections.abc import Callable, Sequence
from itertools import pairwise
from pathlib import Path
from typing import Any

import torch

from aps_components.cli.arguments import parsed, several
from aps_components.data import case_name, load_datalist
from aps_components.evaluation.doubt.held_out import TEMPERATURES
from aps_components.models import save_model
from aps_components.recipe.facts import Pace

PACE = Pace(start=1, labeled=0.5, joint=0.6, alone=0.4, prompt=0.75, scan=0.5, scan_b=1)
ANSWER = {"soft_dice": [len(TEMPERATURES) * [0.8]], "surprise": None, "calibration_error": None}
Dice = Callable[[dict[str, Any]], float]


def options_of(command: Sequence[str]) -> dict[str, str]:
    """Of a command line, by name."""
    return {key[2:]: value for key, value in pairwise(command) if key.startswith("--")}


class FakeCommands:
    """Stands for ``run_logged``; remembers the kinds of the commands.

    Args:
        dice: of each scan, from a dictionary of what the evaluation is: ``predictor``, ``mirrored``, ``calibrated``,
            ``round``, ``beside``, ``case``.
        fails: a kind of command whose n-th run raises ``error``.
    """

    def __init__(self, dice: Dice = lambda _: 0.5, *, fails: tuple[str, int] | None = None) -> None:
        self.dice, self.fails, self.error = dice, fails, KeyboardInterrupt
        self.kinds: list[str] = []
        self.commands: list[list[str]] = []

    def __call__(self, command: Sequence[str], *, look: Callable[[], None] = lambda: None, **_: Any) -> None:
        kind = next(word for word in ("training", "evaluating", "calibrate", "pseudo-label") if word in command)
        self.kinds.append(kind)
        self.commands.append(list(command))
        if self.fails == (kind, self.kinds.count(kind)):
            raise self.error
        getattr(self, kind.replace("-", "_"))(options_of(command))
        look()

    def training(self, options: dict[str, str]) -> None:
        datalist = load_datalist(options["dataset_dir"])
        assert len(datalist.labeled) >= int(options["labeled_batch"])
        assert len(datalist.unlabeled) >= int(options["unlabeled_batch"])
        labels = {str(index): name for index, name in datalist.labels.items()}
        Path(options["ckpt_dir"]).mkdir(parents=True, exist_ok=True)
        save_model({"weight": torch.zeros(1)}, {"labels": labels}, Path(options["ckpt_dir"]) / "model.pt")
        epochs, length = int(options["epochs"]), int(options["epoch_length"])
        lines = [{"epoch": e, "iteration": e * length, "seconds_per_iteration": 1.2} for e in range(1, epochs + 1)]
        folder = Path(options["output_dir"])
        folder.mkdir(parents=True, exist_ok=True)
        (folder / "history.jsonl").write_text("".join(json.dumps(line) + "\n" for line in lines))

    def evaluating(self, options: dict[str, str]) -> None:
        datalist, folder = load_datalist(options["dataset_dir"]), Path(options["output_dir"])
        assert datalist.validation
        named = datalist.labels[1]
        what = {
            "calibrated": "calibrated" in options["checkpoint"],
            "mirrored": "mirror_axes" in options,
            "round": 2 if "work/second_" in options["checkpoint"] else 1,
            "beside": "work/beside_" in options["checkpoint"],
        }
        rows = [
            {"case": name, "predictor": predictor, "variant": variant, "class": named, "label": 1, "dice": dice}
            for name in map(case_name, datalist.validation)
            for predictor in (("a",) if options["predictor"] == "a" else ("average", "a", "b"))
            for variant in ("raw", "largest_component")
            for dice in [self.dice({**what, "case": name, "predictor": predictor})]
        ]
        scans = [
            {
                "case": name,
                "held_out": {
                    "look": [[0.1 * index, 1.0]],
                    "answers": dict.fromkeys({row["predictor"] for row in rows}, ANSWER),
                },
            }
            for index, name in enumerate(map(case_name, datalist.validation))
        ]
        folder.mkdir(parents=True, exist_ok=True)
        (folder / "metrics.json").write_text(json.dumps({"cases": rows, "scans": scans}))

    def calibrate(self, options: dict[str, str]) -> None:
        for ending in (".pt", ".json"):
            source, target = (Path(options[key]).with_suffix(ending) for key in ("checkpoint", "target"))
            shutil.copy(source, target)

    def pseudo_label(self, options: dict[str, str]) -> None:
        for checkpoint in several(parsed(options["checkpoints"])):
            assert Path(checkpoint).is_file()
        datalist, target = load_datalist(options["dataset_dir"]), Path(options["target"])
        target.mkdir(parents=True, exist_ok=True)
        labelled = [*datalist.labeled, *({**item, "label": f"{item['image']}_label"} for item in datalist.unlabeled)]
        content = {
            "name": datalist.name,
            "labels": {str(index): name for index, name in datalist.labels.items()},
            "training": labelled,
            "validation": datalist.validation,
        }
        (target / "datalist.json").write_text(json.dumps(content))
