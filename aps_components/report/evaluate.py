"""``aps evaluate``: a bundle's own evaluation on scans in any form, and a report of it."""

from __future__ import annotations

import itertools
import os
import re
import shlex
import subprocess
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from aps_components.bundle import locate_bundle, require_weights, workflow_command
from aps_components.bundle.locate import SHIPPED_BUNDLES, TRAINED
from aps_components.data.datalist import DATALIST
from aps_components.data.to_judge import dataset_to_judge
from aps_components.files import ensure_writable, expanded, real
from aps_components.models import read_settings, trained_cases
from aps_components.options import refuse_decided
from aps_components.plain_json import read_object
from aps_components.processes import start
from aps_components.report.evaluated import METRICS_FILE, Evaluated
from aps_components.report.evaluation import write_evaluation_report
from aps_components.report.page import REPORT_FILE

FILES = ("train.json", "evaluate.json")
RESULTS = "evaluation"  # beside the bundle that a whole training left, or here
JUDGED = "evaluation#context#data"  # goes into the figures: what they are of
SCANS = "scans"  # in the results: a folder of its own, as the results may go where a dataset has its own list
SPLITS = ("test", "validation", "training")
# What the command sets itself, and what to give in its place.
OWN = {
    "bundle_root": "name the bundle first",
    "dataset_dir": "name the scans second",
    "output_dir": "give --out",
    "ckpt_dir": "give --checkpoint",
    JUDGED: "leave it out",
    "evaluation#context": "leave it out",
}
OF_MONAI = re.compile(rb"\d{4}-\d\d-\d\d \S+ - INFO - ")  # how it begins the lines in which it repeats the command
QUIET = "ignore:parsing config_file:UserWarning"  # MONAI's, of a file that the bundle brings


class EvaluationFailed(RuntimeError):
    """The bundle's evaluation ended with an error, which it has said itself."""


def evaluate(
    trained: str | os.PathLike[str],
    data: str | os.PathLike[str],
    *,
    split: str | None = None,
    out: str | os.PathLike[str] | None = None,
    checkpoint: str | os.PathLike[str] | None = None,
    options: Mapping[str, Any] | None = None,
) -> Path:
    """Run a bundle's ``evaluating`` on a dataset, and write ``report.html`` beside its figures.

    Scans that the model learned from are refused by the evaluation itself, whatever they are called.

    Args:
        trained: the folder of a whole training, which holds ``bundle``; or a bundle's folder, zip or name.
        data: see :func:`dataset_to_judge`.
        split: ``test``, ``validation`` or ``training``; by default test if there are such scans, else validation.
        out: of the results; by default ``evaluation/DATA`` in the training's folder, or ``eval/DATA`` in the bundle's;
            ``evaluation/DATA`` here for a bundle that was installed with this package. DATA is the name of the folder
            or of the datalist; ``DATA_2`` and so on where there are results of other scans.
        checkpoint: other weights than the bundle's ``models/model.pt``.
        options: other keys of the bundle's evaluation.

    Returns:
        The report.

    Raises:
        FileNotFoundError: no bundle, no weights, no scans.
        ValueError: a split or data that cannot be.
        EvaluationFailed: the bundle refused the scans, or could not go on.
    """
    refuse_decided(options or {}, OWN, mend=OWN)
    if split is not None and split not in SPLITS:
        raise ValueError(f"split {split!r} must be one of {SPLITS}")
    whole, root = expanded(trained) / TRAINED, locate_bundle(trained)
    weights = require_weights(root) if checkpoint is None else real(expanded(checkpoint))
    place = _without_datalist(Path(os.path.abspath(expanded(data))))
    name = re.sub(r"\.json$", "", place.name)
    usual = expanded(out) if out else _results(root, whole=whole) / name
    folder = usual if out else _free(usual, place)
    stored = read_object(root / "configs" / FILES[0]) | read_settings(weights)
    dataset = dataset_to_judge(
        data,
        known=root / "configs" / DATALIST,
        labels=stored["labels"],
        label_values={**stored, **(options or {})}.get("label_values"),
        cases=trained_cases(weights),
        work=real(folder) / SCANS,
        split=split,
    )
    ensure_writable(folder)
    if folder != usual:
        print(f"Note: {usual} holds figures of other data; those of {place} go to {folder}")
    chosen = {} if split is None else {"split": split}
    paths = {"dataset_dir": dataset, "checkpoint": weights, "output_dir": real(folder), JUDGED: place}
    command = workflow_command(root, "evaluating", FILES, {**paths, **chosen, **(options or {})})
    if not trained_cases(weights):
        print(
            f"Note: nothing beside {weights} says which scans it learned from; whether these are new to it is unknown"
        )
    before = _changed(folder / METRICS_FILE)
    print(f"$ {_typed(command)}", flush=True)
    if _run(command) or _changed(folder / METRICS_FILE) == before:
        earlier = f"; {folder / REPORT_FILE} is of an earlier call" if (folder / REPORT_FILE).is_file() else ""
        raise EvaluationFailed(f"the command above failed; nothing was evaluated{earlier}")
    report = write_evaluation_report(folder, name=name, commands=[_typed(command)], told={"bundle": str(root)})
    if (evaluated := Evaluated.read(folder / METRICS_FILE)) is not None:
        print(evaluated.line())
    return report


def _run(command: Sequence[str]) -> int:
    """Its exit status. What it says is passed on, but for the lines in which MONAI repeats the command."""
    python, *rest = command
    with start([python, "-u", "-W", QUIET, *rest], stdout=subprocess.PIPE) as process:
        for line in process.stdout or ():
            if not OF_MONAI.match(line):
                print(line.decode(errors="replace"), end="", flush=True)
    return process.returncode


def _results(root: Path, *, whole: Path) -> Path:
    """Where results go that nobody gave a folder for: nothing is written into an installed package."""
    if whole.is_dir():
        return whole.parent / RESULTS
    return Path(RESULTS) if SHIPPED_BUNDLES in root.parents else root / "eval"


def _without_datalist(place: Path) -> Path:
    """What a dataset is called by: a datalist of the usual name by its folder."""
    return place.parent if place.name == DATALIST else place


def _free(folder: Path, data: Path) -> Path:
    """The folder, or the first of ``folder_2``, ``folder_3``, ... in which no figures of other data lie."""
    more = (folder.with_name(f"{folder.name}_{number}") for number in itertools.count(2))
    return next(place for place in itertools.chain([folder], more) if _judged_in(place) in (None, str(data)))


def _judged_in(folder: Path) -> str | None:
    """The data of which figures lie in a folder; empty where nothing says so, None without figures."""
    file = folder / METRICS_FILE
    if not file.exists():
        return None
    try:
        return str(read_object(file)["context"]["data"])
    except (ValueError, KeyError, TypeError):
        return ""


def _typed(command: list[str]) -> str:
    return shlex.join(["python", *command[1:]])


def _changed(file: Path) -> int | None:
    return file.stat().st_mtime_ns if file.is_file() else None
