"""Which trainings a comparison needs, and their order: a later round waits for the models that label its scans."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor, as_completed
from itertools import groupby, product
from threading import Event
from typing import Any

from tqdm import tqdm

from aps_components.studies.comparison.methods import load_methods
from aps_components.studies.comparison.runs import Run, RunError


def every_run(names: Iterable[str], seeds: Iterable[int], **common: Any) -> dict[tuple[str, int], Run]:
    """The trainings of methods by name and seed, and of their teachers.

    Args:
        names: of the methods.
        seeds: first of all every method once: a table to look at early.
        common: to all of them, of :class:`Run`.
    """
    methods, runs = load_methods(), {}

    def run_of(name: str, seed: int) -> Run:
        if (name, seed) not in runs:
            teachers = tuple(run_of(teacher, seed) for teacher in methods[name].teachers)
            runs[name, seed] = Run(method=methods[name], seed=seed, teachers=teachers, **common)
        return runs[name, seed]

    for seed, name in product(seeds, names):
        run_of(name, seed)
    return runs


def unfinished(runs: Sequence[Run]) -> list[Run]:
    """What is not done, and before it what it learns from, unless that is trained here: a result alone labels no scan.
    Round by round, otherwise in the order given."""
    found: dict[tuple[str, int], Run] = {}

    def add(run: Run) -> None:
        for teacher in run.teachers:
            if not (teacher.is_done and teacher.is_trained):
                add(teacher)
        found[run.method.name, run.seed] = run

    for run in runs:
        if not run.is_done:
            add(run)
    return sorted(found.values(), key=lambda run: run.round)


def execute(runs: Sequence[Run], jobs: int) -> Iterator[RunError | None]:
    """Run them all, ``jobs`` at once, a round when the one before it has ended; after each run, its failure or None.
    An interruption ends those that run."""
    stop = Event()

    def start(number: int, run: Run) -> None:
        if not stop.is_set():
            tqdm.write(f"[{number}/{len(runs)}] {run.method.name}, seed {run.seed}")
            run.execute(stop)

    with ThreadPoolExecutor(jobs) as pool:
        try:
            for _, of_a_round in groupby(enumerate(runs, start=1), key=lambda numbered: numbered[1].round):
                for future in as_completed([pool.submit(start, *numbered) for numbered in of_a_round]):
                    error = future.exception()
                    if error is not None and not isinstance(error, RunError):
                        raise error
                    yield error
        finally:
            stop.set()
