"""nnU-Net beside `aps train`: the same labelled scans, the same seconds on the same cores, one table.

    python benchmarks/peer_nnunet.py OUT --data DIR --names "1:anterior,2:posterior" --validation 40 \\
      --ours 10 --nnunet 10,30,60 --minutes 25 --threads 1

Each number of labels is a run, one after another. `aps train` also learns from all the other scans of DIR, without
their labels; nnU-Net cannot. Both have --minutes for everything from the first look at the scans to the model; what
they then answer is scored here, by this repository's metrics, on scans that neither learned from. nnU-Net (2.5.2, fold
"all", in an environment of its own) trains as it does, but that its learning rate falls over the minutes, see
`nnunet_side.py`. Minutes are the wall's: have the machine to yourself.

OUT receives a folder for each run and runs.csv, a row for each. Called again, it goes on with what is missing.
"""

from __future__ import annotations

import json
import shutil
import threading
import time
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from itertools import pairwise
from pathlib import Path
from typing import Any

import fire
import numpy as np
from fire.decorators import SetParseFns
from nnunet import CONFIGURATIONS, ENDING, learn_and_answer, nnunet_environment

from aps_components.bundle import aps_command
from aps_components.bundle.new import parse_labels
from aps_components.csv_table import comma_separated
from aps_components.data.case_folder import declared_labels
from aps_components.data.datalist import Item, case_name, files_of
from aps_components.data.nifti import read_scan
from aps_components.data.scans import find_scans
from aps_components.evaluation import EvaluationReport, case_metrics
from aps_components.evaluation.machine import machine
from aps_components.evaluation.records import Records
from aps_components.evaluation.report import ALL_CLASSES
from aps_components.files import ensure_writable, replace_text
from aps_components.options import truth
from aps_components.ownership import alone_in
from aps_components.processes import run_logged
from aps_components.recipe.datasets import Learning
from aps_components.recipe.results import read_results

OURS, NNUNET = "aps train", "nnU-Net"
SPLITS = ("validation", "test")
METRICS = {"nsd": 100.0, "hd95_mm": 1.0, "volume_ratio": 100.0}


@dataclass(frozen=True, kw_only=True)
class Task:
    """What both learn from, and what they are judged on.

    Attributes:
        labels: class value to name, background included.
        pool: labelled scans in their order, of which a run has the first so many.
        unlabelled: further scans, without labels.
        judged: labelled scans that nobody learns from.
        patients: by the name of a case.
    """

    labels: dict[int, str]
    pool: list[Item]
    unlabelled: list[Item]
    judged: list[Item]
    patients: Mapping[str, str]

    @classmethod
    def of(cls, data: str, *, names: str | None, validation: int, split: str) -> Task:
        """Of a dataset in any form that `aps train` takes.

        Args:
            data: its folder, or a datalist.
            names: of the classes, where the dataset does not say.
            validation: the last so many labelled scans are judged on, where no datalist keeps some apart.
            split: which scans of a datalist are judged on.

        Raises:
            ValueError: no names, no scans to judge on, or values that are not 0, 1, ...
        """
        scans = find_scans(data)
        labels = {0: "background", **(parse_labels(names) or scans.names or declared_labels(scans.folder.root))}
        if len(labels) < 2 or sorted(labels) != list(range(len(labels))):
            raise ValueError(f'{data}: the classes are {labels}; name each value from 1 on: --names "1:liver,2:tumour"')
        items = [scans.folder.item(case) for case in scans.folder.cases]
        pool = [item for item in items if "label" in item]
        kept = {"validation": scans.validation, "test": scans.test}[split]
        if not kept and not 0 < validation < len(pool):
            raise ValueError(
                f"{data} keeps no {split} scans apart, and --validation {validation} takes none of its {len(pool)} "
                "labelled ones: give a number below that"
            )
        pool, judged = (pool, kept) if kept else (pool[:-validation], pool[-validation:])
        return cls(
            labels=dict(sorted(labels.items())),
            pool=pool,
            unlabelled=[item for item in items if "label" not in item],
            judged=judged,
            patients=scans.patients,
        )

    def learning(self, count: int) -> Learning:
        """With the first so many labels; the scans of the others stay, without.

        Raises:
            ValueError: there are not so many.
        """
        if not 1 <= count <= len(self.pool):
            raise ValueError(f"{count} labels: there are 1 to {len(self.pool)}")
        others = [{"image": item["image"]} for item in self.pool[count:]]
        return Learning(
            name="peer",
            labels=self.labels,
            labelled=self.pool[:count],
            unlabelled=[*others, *self.unlabelled],
            validation=[],
            patients=self.patients,
        )


def train_ours(
    folder: Path, learning: Learning, judged: Sequence[Item], *, minutes: float, threads: int, seed: int
) -> dict[str, Any]:
    """Run `aps train`, or go on where it was stopped, then `aps segment`; answers are in ``answers``.

    Returns:
        ``seconds`` of learning, and ``iterations`` of the last training.
    """
    out, links, answers = folder / "model", folder / "judged", folder / "segmented"
    asked = {"time": f"{round(60 * minutes)}s", "seed": seed, "device": "cpu"}
    command = [*aps_command("train", asked), str(learning.write(folder / "scans")), "--out", str(out)]
    seconds = _run(command, folder, threads=threads)
    links.mkdir(exist_ok=True)
    for item in judged:
        for file in files_of(item["image"]):
            if not (links / Path(file).name).exists():
                (links / Path(file).name).symlink_to(Path(file).resolve())
    quiet = {"bundle": str(out / "bundle"), "device": "cpu", "preview": False, "report": False}
    _run([*aps_command("segment", quiet), str(links), str(answers)], folder, threads=threads)
    (folder / "answers").mkdir(exist_ok=True)
    for item in judged:
        name = case_name(item)
        shutil.copyfile(answers / f"{name}_seg{ENDING}", folder / "answers" / f"{name}{ENDING}")
    last = [stage for stage in read_results(out).stages if stage.name == "last training"]
    return {"seconds": seconds, "iterations": _iterations(last[-1].command)}


def _iterations(command: Sequence[str]) -> int:
    """Of a training by its command."""
    options = dict(pairwise(command))
    return int(options["--epochs"]) * int(options["--epoch_length"])


def _run(command: Sequence[str], folder: Path, *, threads: int) -> float:
    """A command and its seconds, over all processes that took part in it."""
    file = folder / "seconds.json"
    before = json.loads(file.read_text()) if file.is_file() else {}
    begun, key = time.monotonic(), " ".join(command[3:4])
    try:
        run_logged(command, log=folder / "log.txt", stop=threading.Event(), threads=threads)
    finally:
        before[key] = before.get(key, 0.0) + time.monotonic() - begun
        replace_text(file, json.dumps(before))
    return before[key]


def score(answers: Path, judged: Sequence[Item], labels: Mapping[int, str]) -> EvaluationReport:
    """Label maps against the labels, on the scans' own grids.

    Raises:
        DataError: a scan has no answer.
        ValueError: an answer is of another shape.
    """
    report = EvaluationReport()
    for item in judged:
        name = case_name(item)
        label, answer = read_scan(item["label"]), read_scan(answers / f"{name}{ENDING}")
        found = np.rint(answer.voxels).astype(np.uint8), np.rint(label.voxels).astype(np.uint8)
        report.add(name, case_metrics(*found, labels=labels, spacing=label.geometry.spacing))
    return report


def figures(report: EvaluationReport) -> dict[str, float]:
    """Of a row: mean Dice by class and over all, in percent, and other metrics over all."""
    by_class = {entry["class"]: entry for entry in report.summary()}
    whole = by_class.pop(ALL_CLASSES, None) or next(iter(by_class.values()))
    row = {"dice": 100 * whole["dice"]["mean"]}
    row |= {f"dice {name}": 100 * entry["dice"]["mean"] for name, entry in by_class.items()}
    row |= {name: factor * whole[name]["mean"] for name, factor in METRICS.items()}
    return {"scans": whole["n"], **{name: round(float(value), 3) for name, value in row.items()}}


def table(records: Records) -> str:
    """A row a run, as CSV; NaN, as of a distance that is nowhere defined, stays empty."""
    rows = [{**key, **record} for key, record in records.all()]
    columns = list(dict.fromkeys(column for row in rows for column in row))
    cells = [["" if (cell := row.get(column)) is None or cell != cell else cell for column in columns] for row in rows]
    return comma_separated([columns, *cells])


def counts(given: int | Sequence[int]) -> list[int]:
    """Numbers of labels as fire reads them: ``10``, ``10,30`` or ``[]``."""
    return [given] if isinstance(given, int) else list(given)


@SetParseFns(out=str, data=str, names=str, environment=str, configuration=str, split=str)
def main(
    out: str,
    data: str,
    minutes: float = 25,
    threads: int = 1,
    ours: int | Sequence[int] = (10,),
    nnunet: int | Sequence[int] = (10,),
    names: str | None = None,
    validation: int = 0,
    split: str = "validation",
    seed: int = 0,
    configuration: str = "3d_fullres",
    channels: str | Sequence[str] = "MRI",
    mirrored: bool = True,
    bf16: bool = False,
    environment: str = "runs/nnunet-environment",
) -> None:
    """Train both, have them answer the same scans, and write runs.csv.

    Args:
        out: folder of the results; run again to go on after an interruption.
        data: what `aps train` takes.
        minutes: of each run.
        threads: of each run.
        ours: numbers of labels for `aps train`, such as 10,30; [] for no run.
        nnunet: the same for nnU-Net.
        names: of the classes, where the dataset does not say, as in "1:liver,2:tumour".
        validation: the last so many labelled scans are judged on, where no datalist keeps some apart.
        split: which scans of a datalist are judged on: validation or test.
        seed: of both.
        configuration: nnU-Net's: 2d, 3d_fullres or 3d_lowres.
        channels: what nnU-Net normalises by, with commas between: CT, or any other name.
        mirrored: nnU-Net answers in all mirror images, as it does by default.
        bf16: nnU-Net computes in bf16, which by itself it does not on a CPU.
        environment: of nnU-Net; made, if it is not there.
    """
    if minutes <= 0 or threads < 1:
        raise ValueError(f"minutes {minutes} and threads {threads} must be positive")
    for name, value, known in (("configuration", configuration, CONFIGURATIONS), ("split", split, SPLITS)):
        if value not in known:
            raise ValueError(f"{name} {value!r} must be one of {known}")
    task = Task.of(data, names=names, validation=validation, split=split)
    folder = ensure_writable(Path(out)).resolve()
    key: dict[str, Any] = {"minutes": minutes, "threads": threads, "seed": seed}
    runs = [{"side": OURS, "labels": count, **key} for count in counts(ours)]
    about_nnunet: dict[str, Any] = {"configuration": configuration, "mirrored": truth("mirrored", mirrored)}
    about_nnunet |= {"bf16": True} if truth("bf16", bf16) else {}
    runs += [{"side": NNUNET, "labels": count, **about_nnunet, **key} for count in counts(nnunet)]
    learned = [task.learning(run["labels"]) for run in runs]
    with alone_in(folder):
        judged = sorted(case_name(item) for item in task.judged)
        settings = {"data": str(Path(data).resolve()), "classes": list(task.labels.values()), "judged": judged}
        records = Records(folder / "runs.jsonl", settings=settings)
        for run, learning in zip(runs, learned, strict=True):
            if records.find(**run) is None:
                print(", ".join(f"{name} {value}" for name, value in run.items()), flush=True)
                place = folder / "_".join(str(value).replace(" ", "_") for value in run.values())
                place.mkdir(exist_ok=True)
                if run["side"] == OURS:
                    told = train_ours(place, learning, task.judged, minutes=minutes, threads=threads, seed=seed)
                else:
                    told = learn_and_answer(
                        place,
                        environment=nnunet_environment(environment),
                        learned=learning.labelled,
                        judged=task.judged,
                        labels=task.labels,
                        channels=channels.split(",") if isinstance(channels, str) else channels,
                        configuration=configuration,
                        minutes=minutes,
                        threads=threads,
                        seed=seed,
                        mirrored=about_nnunet["mirrored"],
                        bf16=bool(about_nnunet.get("bf16")),
                    )
                report = score(place / "answers", task.judged, task.labels)
                report.write(place / "figures", context={**settings, **run})
                records.add({**told, **figures(report), "machine": machine()["device"]}, **run)
            replace_text(folder / "runs.csv", table(records))
    print((folder / "runs.csv").read_text(encoding="utf-8"))


if __name__ == "__main__":
    fire.Fire(main)
