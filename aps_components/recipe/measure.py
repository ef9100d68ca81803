"""The pace of this machine, by a few iterations of the real training, and by one scan."""

from __future__ import annotations

import re
import time
from collections.abc import Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import replace
from pathlib import Path
from statistics import fmean
from threading import Event

from aps_components.processes import CommandFailedError, run_logged
from aps_components.recipe.datasets import Learning
from aps_components.recipe.facts import Pace
from aps_components.recipe.stages import MODEL, Commands, Stage, StageFailedError
from aps_components.training.history import HISTORY_FILE, read_history

PHASES = 2  # on labelled patches alone, then on both; of each the first epoch, in which much happens once, is left out
SCAN_RATE = re.compile(r"([\d.]+)(s/scan|scan/s)")  # of a progress bar
LEAST_SCAN = 0.05


def measure_pace(
    commands: Commands,
    learning: Learning,
    folder: Path,
    *,
    jobs: int,
    threads: int,
    all_threads: int,
    hold_out: bool = True,
) -> Pace:
    """Train both models for some iterations and answer one scan.

    Args:
        commands: of the bundle, with all options of the real trainings.
        learning: the scans of the real trainings.
        folder: receives everything; nothing of it is needed afterwards.
        jobs: trainings at once, as there will be.
        threads: of each of them.
        all_threads: of a training that has the machine for itself.
        hold_out: keep a labelled scan from the training and answer it; else it answers one that it learned from.

    Raises:
        StageFailedError: the training fails on these scans.
    """
    whole = len(learning.labelled) == 1 or not hold_out
    scans = learning if whole else replace(learning, labelled=learning.labelled[1:], validation=learning.labelled[:1])
    dataset = replace(scans, validation=scans.validation[:1]).write(folder / "scans")
    quick = replace(
        commands, recipe=replace(commands.recipe, epochs=2 * PHASES, warmup_share=1 / PHASES, warmup_patches=0)
    )
    counts = len(scans.labelled), len(scans.unlabelled)
    iterations = 2 * PHASES * commands.recipe.probe_iterations

    def training(number: int, *, second: bool = False) -> Stage:
        place = folder / f"training_{number}"
        return quick.training(
            "measuring the pace",
            place,
            dataset=dataset,
            scans=counts,
            iterations=iterations,
            seed=number,
            second=second,
        )

    def prompting(number: int) -> Stage:
        return quick.prompting(
            "measuring the pace",
            folder / f"beside_{number}",
            dataset=dataset,
            scans=counts,
            iterations=iterations,
            seed=number,
            begins_with=folder / "training_0" / "models" / MODEL,
        )

    beside = [training(number) for number in range(jobs)]
    seconds = _run(beside, threads=threads)
    epochs = [_seconds_by_epoch(stage) for stage in beside]
    labeled, joint = (fmean(each[epoch] for each in epochs) for epoch in (1, 3))
    labeled = min(labeled, joint)  # the teacher's answers come besides: what looks otherwise is another program's doing
    working = fmean(sum(each) * commands.recipe.probe_iterations for each in epochs)
    alone = labeled
    if jobs > 1:
        single = training(jobs, second=True)
        _run([single], threads=all_threads)
        alone = _seconds_by_epoch(single)[-1]
    of_b = [prompting(number) for number in range(jobs)]
    _run(of_b, threads=threads)
    split = "training" if whole else "validation"
    one = replace(scans, labelled=scans.labelled[:1], unlabelled=[], validation=[])
    judged = one.write(folder / "judged") if whole else dataset
    scan, scan_b = (
        _seconds_of_scan(quick, folder, dataset=judged, split=split, threads=threads, with_b=with_b)
        for with_b in (False, True)
    )
    return Pace(
        start=max(1.0, seconds - working),
        labeled=labeled,
        joint=joint,
        alone=alone,
        prompt=fmean(_seconds_by_epoch(stage)[-1] for stage in of_b),
        scan=scan,
        scan_b=scan_b,
    )


def _seconds_of_scan(
    commands: Commands, folder: Path, *, dataset: Path, split: str, threads: int, with_b: bool
) -> float:
    stage = commands.evaluating(
        "measuring the pace",
        folder / ("answers_b" if with_b else "answers"),
        dataset=dataset,
        checkpoint=folder / ("beside_0" if with_b else "training_0") / "models" / MODEL,
        split=split,
        with_b=with_b,
    )
    whole = _run([stage], threads=threads)
    return seconds_a_scan(stage.log) or whole


def seconds_a_scan(log: Path) -> float | None:
    """Of an evaluation, by the last progress bar in its log; None where there is none."""
    text = log.read_text(encoding="utf-8", errors="replace") if log.is_file() else ""
    if not (found := SCAN_RATE.findall(text)):
        return None
    rate, unit = float(found[-1][0]), found[-1][1]
    return max(LEAST_SCAN, rate if unit == "s/scan" else 1 / max(rate, 1e-6))


def _run(stages: Sequence[Stage], *, threads: int) -> float:
    """All of them beside each other; how long that took."""
    begun, stop = time.monotonic(), Event()
    with ThreadPoolExecutor(len(stages)) as pool:
        futures = [
            pool.submit(run_logged, stage.command, log=stage.log, stop=stop, threads=threads, seconds=0.1)
            for stage in stages
        ]
        try:
            for future in futures:
                future.result()
        except CommandFailedError as error:
            last = str(error).partition(" (all of it:")[0]  # the log may lie in a folder that is gone by then
            raise StageFailedError(f"a first short training fails on these scans: {last}") from None
        finally:
            stop.set()
    return time.monotonic() - begun


def _seconds_by_epoch(stage: Stage) -> list[float]:
    assert stage.training is not None
    return [float(line["seconds_per_iteration"]) for line in read_history(stage.training / HISTORY_FILE)]
