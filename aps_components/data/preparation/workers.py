"""Cases read in parallel; what is finished stays finished whatever stops the rest."""

from __future__ import annotations

import multiprocessing
import os
import signal
import sys
import threading
from collections.abc import Generator, Sequence
from concurrent.futures import ProcessPoolExecutor, as_completed
from concurrent.futures.process import BrokenProcessPool
from pathlib import Path

from tqdm import tqdm

from aps_components.data.errors import DataError
from aps_components.data.preparation.cases import Layout, Outcome, RawCase
from aps_components.data.preparation.journal import Journal
from aps_components.machine import worker_processes

FEW_CASES = 4  # read in less time than a process takes to start

Outcomes = Generator[tuple[RawCase, Outcome], None, None]


def process_cases(
    cases: Sequence[RawCase], *, layout: Layout, out: Path, journal: Journal, workers: int | None, progress: bool
) -> dict[str, Outcome]:
    """Case name to outcome, those that the journal knows included.

    Args:
        cases: to be processed.
        layout: what is done with each.
        out: the output folder.
        journal: of `out`; every case that is finished and sound is added to it at once.
        workers: processes; None takes one per core, four at most. With 1, or for a few cases, this process works.
        progress: show a bar.
    """
    outcomes = {case.name: outcome for case in cases if (outcome := journal.find(case))}
    todo = [case for case in cases if case.name not in outcomes]
    count = min(workers or _default_workers(len(todo)), len(todo))
    read = _in_processes if count > 1 else _in_this_process
    done = read(todo, layout, out, count)
    bar = tqdm(total=len(cases), initial=len(outcomes), desc="Preparing", unit="case", disable=not progress)
    try:
        with bar:
            for case, outcome in done:
                journal.add(case, outcome)
                outcomes[case.name] = outcome
                bar.update()
    except KeyboardInterrupt:
        done.close()  # running cases end
        print(
            f"Stopped after {len(outcomes)} of {len(cases)} cases; run the same command again to go on", file=sys.stderr
        )
        raise
    return outcomes


def _default_workers(cases: int) -> int:
    return 1 if cases <= FEW_CASES else worker_processes()


def _outcome(layout: Layout, case: RawCase, out: Path) -> Outcome:
    """Only the case's own faults end here; a full disk stops everything."""
    try:
        return layout.process(case, out)
    except DataError as error:
        return Outcome(fault=str(error))


def _in_this_process(cases: Sequence[RawCase], layout: Layout, out: Path, _workers: int) -> Outcomes:
    for case in cases:
        yield case, _outcome(layout, case, out)


def _in_processes(cases: Sequence[RawCase], layout: Layout, out: Path, workers: int) -> Outcomes:
    # spawn: a forked copy of a process with torch's threads may hang.
    context = multiprocessing.get_context("spawn")
    pool = ProcessPoolExecutor(workers, mp_context=context, initializer=_start_worker)
    try:
        waiting = {pool.submit(_outcome, layout, case, out): case for case in cases}
        for future in as_completed(waiting):
            yield waiting[future], future.result()
    except BrokenProcessPool as error:
        raise RuntimeError(
            "a worker process was ended from outside, most likely for want of memory; "
            "run the same command again with a smaller --workers: what is finished is kept"
        ) from error
    finally:
        pool.shutdown(wait=True, cancel_futures=True)


def _start_worker() -> None:
    """Leave Ctrl-C to the parent, which lets running cases finish, and end if the parent is killed."""
    signal.signal(signal.SIGINT, signal.SIG_IGN)
    threading.Thread(target=_end_with_parent, daemon=True).start()


def _end_with_parent() -> None:
    parent = multiprocessing.parent_process()
    if parent is not None:
        parent.join()
        os._exit(1)
