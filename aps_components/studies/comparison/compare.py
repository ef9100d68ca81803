"""``aps compare``: methods side by side with the same budget, several seeds, and the last checkpoint."""

from __future__ import annotations

import json
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from filelock import FileLock, Timeout

from aps_components.data import dataset_name, load_datalist
from aps_components.data.datalist import DATALIST
from aps_components.data.identity import digest_of
from aps_components.evaluation.trained import scans_of_split
from aps_components.files import ensure_writable, real, replace_text
from aps_components.options import SEED, differences, refuse_unknown, whole
from aps_components.plain_json import read_object
from aps_components.studies.comparison.methods import (
    REFERENCE,
    Method,
    choose_methods,
    read_from_reference,
    refuse_contradictions,
)
from aps_components.studies.comparison.runs import Run, RunError
from aps_components.studies.comparison.schedule import every_run, execute, unfinished
from aps_components.studies.comparison.table import comma_separated, figures_of, markdown, plot

SETTINGS_FILE = "comparison.json"
LOCK_FILE = ".lock"
SCANS = "scans"  # the setting that says which they are
WITHOUT_EFFECT = ("num_workers", "cache_rate", "cache_dir", "device", "network_def#recompute")  # on what is learned


def compare(
    *,
    bundle: str | Path,
    dataset_dir: str | Path,
    out: str | Path,
    methods: Sequence[str],
    seeds: Sequence[int],
    epochs: int,
    split: str = "validation",
    jobs: int = 1,
    results: str | Path | None = None,
    train: bool = True,
    options: Mapping[str, Any] | None = None,
) -> Path:
    """Train, evaluate and tabulate; what is done already, also by an earlier call or elsewhere, is not repeated.

    Args:
        bundle: its folder.
        dataset_dir: of the scans.
        out: receives a folder for each run: logs, models, all metrics.
        results: receives ``table.md``, ``table.csv``, ``table.png``, the settings and a small file for each finished
            run, which name no path of the machine: runs of several machines meet in one table. ``out`` by default.
        train: what is not done yet; False makes the table of what is, also while another comparison trains.
        methods: names, groups or ``all``; see :func:`choose_methods`.
        seeds: each method is trained with each of them.
        epochs: of each training.
        split: which scans are evaluated.
        jobs: runs at once. Each takes as many threads as torch gives it; the command line divides them.
        options: further overrides of ``train.json``, the same for all.

    Returns:
        The table in Markdown.

    Raises:
        ValueError: an unknown method or option, an option that contradicts a method's name, fewer than one job, no such
            dataset, counts that it does not have, no scan of the split with a label, ``results`` holds a comparison
            with other settings, or nothing is done yet of what is only to be tabulated.
        RuntimeError: another comparison works in ``out`` right now.
        RunError: some runs failed; the others were finished and are in the table.
    """
    jobs, epochs = whole(least=1)("jobs", jobs), whole(least=1)("epochs", epochs)
    seeds = [SEED("seeds", seed) for seed in seeds]
    bundle, out = real(bundle), real(out)
    results = out if results is None else real(results)
    if not (bundle / "configs" / "train.json").is_file():
        raise FileNotFoundError(f"no bundle at {bundle}: give its folder with --bundle")
    options = dict(options or {})
    chosen = choose_methods(methods)
    training, evaluation = (read_object(bundle / "configs" / name) for name in ("train.json", "evaluate.json"))
    _refuse_unknown({*training, *evaluation}, options, chosen, bundle=bundle)
    refuse_contradictions(chosen, options)
    values = training | options
    chosen = [read_from_reference(method, values) for method in chosen]
    dataset = dataset_name(dataset_dir, default=bundle / "configs" / DATALIST)
    wanted = dict.fromkeys(method.trained_as for method in chosen)
    every = every_run(
        [*wanted, REFERENCE],
        seeds,
        out=out,
        results=results,
        bundle=bundle,
        options={"dataset_dir": str(real(dataset_dir)), **options},
        epochs=epochs,
        split=split,
    )
    runs = [run for (name, _), run in every.items() if name in wanted]  # the others are but read
    if not train and not any(run.is_done for run in runs):
        raise ValueError(f"{results} has no finished training of {', '.join(methods)} with seeds {seeds}: train first")
    todo = unfinished(runs) if train else []
    _refuse_scans(todo, dataset_dir)
    for folder in (out, results):
        ensure_writable(folder)
    settings = {"bundle": bundle.name, "dataset": dataset, "epochs": epochs, "split": split, **options}
    _keep_settings(results / SETTINGS_FILE, settings | _scans(dataset_dir, bundle))
    variant = "largest_component" if values["largest_component"] else "raw"
    failed = []
    if train:
        with _alone_in(out):
            for error in execute(todo, jobs):
                if error:
                    print(error, flush=True)
                    failed.append(error)
                _write(chosen, every, results, variant)
    table = _write(chosen, every, results, variant)
    print(f"\n{table.read_text(encoding='utf-8')}")
    print(f"written: {table}, {table.with_suffix('.csv')}, {table.with_suffix('.png')}")
    if failed:
        raise RunError(f"{len(failed)} of {len(todo)} runs failed: " + "; ".join(str(error) for error in failed))
    return table


def _refuse_unknown(known: set[str], options: Mapping[str, Any], methods: Sequence[Method], *, bundle: Path) -> None:
    """MONAI takes a key that a bundle does not have for a new one, and trains as if nothing had been asked for."""
    refuse_unknown(options, known)
    for method in methods:
        try:
            refuse_unknown(method.overrides, known)
        except ValueError as error:
            raise ValueError(
                f"{bundle / 'configs' / 'train.json'} lacks what {method.name} changes ({error}): it was made by an "
                "earlier version; make it anew with aps new-bundle"
            ) from None


def _scans(dataset_dir: str | Path, bundle: Path) -> dict[str, str]:
    """A hash of all scans and labels in their order; none where only tables are made, far from the scans."""
    if not Path(dataset_dir).is_dir():
        return {}
    datalist = load_datalist(dataset_dir, default=bundle / "configs" / DATALIST, counts_at_most=True)
    return {SCANS: digest_of([*datalist.training_items, *datalist.validation, *datalist.test])}


def _refuse_scans(runs: Sequence[Run], dataset_dir: str | Path) -> None:
    """Before hours of training, not after: what they train and are evaluated on must be there."""
    for run in {run.method.name: run for run in runs}.values():
        options = {key: value for key, value in run.values.items() if key != "dataset_dir"}
        try:
            scans_of_split(run.bundle, dataset_dir=dataset_dir, split=run.split, options=options)
        except ValueError as error:
            raise ValueError(f"{run.method.name} cannot be trained or evaluated: {error}") from error


@contextmanager
def _alone_in(out: Path) -> Iterator[None]:
    """Two at once would train the same runs into the same folders. The system drops the lock of a killed process."""
    try:
        with FileLock(out / LOCK_FILE, blocking=False):
            yield
    except Timeout:
        raise RuntimeError(f"another aps compare works in {out}: wait for it, or give another --out") from None


def _keep_settings(file: Path, settings: Mapping[str, Any]) -> None:
    """Figures of different budgets or data must not meet in one table; how fast they were made is another matter."""
    settings = _with_effect(json.loads(json.dumps(dict(settings), default=str)))
    found = _with_effect(read_object(file)) if file.is_file() else settings
    if SCANS not in settings or SCANS not in found:  # nothing is known of the scans here, or was not kept yet
        settings = {SCANS: found[SCANS], **settings} if SCANS in found else settings
        found = {SCANS: settings[SCANS], **found} if SCANS in settings else found
    if different := differences(found, settings):
        raise ValueError(
            f"{file.parent} holds a comparison with other settings ({different}): give the same, or another --out"
        )
    replace_text(file, json.dumps(settings, indent=1) + "\n")


def _with_effect(settings: Mapping[str, Any]) -> dict[str, Any]:
    return {key: value for key, value in settings.items() if key not in WITHOUT_EFFECT}


def _write(chosen: Sequence[Method], runs: dict[tuple[str, int], Run], results: Path, variant: str) -> Path:
    figures = figures_of(chosen, runs, variant=variant)
    table = results / "table.md"
    replace_text(table, markdown(figures))
    replace_text(table.with_suffix(".csv"), comma_separated(figures))
    if len(figures):
        plot(figures, table.with_suffix(".png"))
    return table
