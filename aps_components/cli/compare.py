"""``aps compare``."""

from __future__ import annotations

import os
from collections.abc import Sequence
from typing import Any

from aps_components.cli.arguments import several
from aps_components.options import truth, whole
from aps_components.processes import THREADS


def compare(
    dataset_dir: str,
    bundle: str = "la",
    out: str = "runs/compare",
    methods: str | Sequence[str] = "all",
    seeds: int | Sequence[int] = (0, 1, 2),
    labeled: int | None = None,
    epochs: int = 25,
    split: str = "validation",
    jobs: int = 1,
    results: str | None = None,
    train: bool = True,
    **options: Any,
) -> None:
    """Methods side by side: the same budget, several seeds, the last checkpoint, one table.

    Run it again to go on after an interruption, or to add methods and seeds; what is done is not repeated.

    Args:
        dataset_dir: the scans.
        bundle: folder or name of the bundle whose dataset it is.
        out: receives a folder for each training: log, model, all metrics.
        results: receives table.md, table.csv, table.png and a small file for each finished training, to keep under
            version control or to carry on with on another machine; out by default.
        methods: supervised, mean_teacher, ua_mt, cps, bcp, autopromptseg, ours, or all of these; and the ablations
            prompts, copy_paste, decision, fusion, model, noise, samples, unlabeled and rounds, or one variant of them,
            such as prompts/none.
        seeds: one training for each, such as 0,1,2.
        labeled: scans that keep their label; the bundle's own number by default.
        epochs: length of each training; an epoch has the bundle's epoch_length iterations.
        split: validation or test. Choose nothing on the test scans.
        jobs: trainings at once; they share the CPU's threads.
        train: False trains nothing and makes the table of what is done, also while another command trains.
        options: any further option of the bundle's training, for all methods, such as --spacing "[1.25,1.25,1.25]".
    """
    if labeled is not None:
        options["labeled_count"] = labeled
    jobs = whole(least=1)("jobs", jobs)
    if jobs > 1 and THREADS not in os.environ:
        os.environ[THREADS] = str(max(1, (os.cpu_count() or 1) // jobs))  # what the trainings inherit
    from aps_components.bundle import locate_bundle
    from aps_components.studies.comparison import compare as run

    run(
        bundle=locate_bundle(bundle),
        dataset_dir=dataset_dir,
        out=out,
        methods=several(methods),
        seeds=several(seeds),
        epochs=epochs,
        split=split,
        jobs=jobs,
        results=results,
        train=truth("train", train),
        options=options,
    )
