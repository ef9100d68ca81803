"""The table of a comparison: mean over the scans, then mean and spread over the seeds."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path
from statistics import median
from typing import Any

import numpy as np

from aps_components import csv_table
from aps_components.evaluation.markdown import markdown_table
from aps_components.pictures import new_figure, save_figure
from aps_components.studies.comparison.methods import REFERENCE, Method, load_methods
from aps_components.studies.comparison.runs import CHECKPOINTS, Run, of_all_classes
from aps_components.studies.frames import pandas as pd

METRICS = {
    "dice": ("Dice %", 100.0),
    "dice_median": ("median scan %", 100.0),
    "dice_worst": ("worst scan %", 100.0),
    "jaccard": ("Jaccard %", 100.0),
    "hd95_mm": ("HD95 mm", 1.0),
    "asd_mm": ("ASD mm", 1.0),
    "volume_ratio": ("volume %", 100.0),
}
NAMES = ["method", "title", "checkpoint", "predictor"]
DIFFERENCE = "difference"  # of the Dice to that of :data:`REFERENCE` with the same weights and seed
Entries = dict[int, dict[str, Any]]  # by seed


def figures_of(methods: Sequence[Method], runs: Mapping[tuple[str, int], Run], *, variant: str) -> pd.DataFrame:
    """Every single figure of the runs that are done: a row for each method, checkpoint and seed.

    Args:
        methods: in the order of the table.
        runs: by the method that was trained and the seed; with those of :data:`REFERENCE` there are differences.
        variant: ``raw`` or ``largest_component``.

    Returns:
        Columns :data:`NAMES`, ``seed``, :data:`METRICS`, ``minutes`` and :data:`DIFFERENCE`, which the reference itself
        has not; NaN stands for what is not known.
    """
    results = {key: run.result() for key, run in runs.items() if run.is_done}
    files = {key: run.result_file for key, run in runs.items()}
    figures = _figures(methods, results, variant, files=files)
    reference = load_methods()[REFERENCE]
    theirs = _figures([reference], results, variant, files=files)[["checkpoint", "seed", "dice"]]
    joined = figures.merge(theirs, on=["checkpoint", "seed"], how="left", suffixes=("", "_of_reference"))
    itself = {method.name for method in methods if _measured(method) == _measured(reference)}
    difference = joined["dice"] - joined.pop("dice_of_reference")
    return joined.assign(**{DIFFERENCE: difference.mask(joined["method"].isin(itself))})


def _measured(method: Method) -> tuple[str, str]:
    return method.trained_as, method.predictor


def _figures(
    methods: Sequence[Method],
    results: Mapping[tuple[str, int], Mapping[str, Any]],
    variant: str,
    *,
    files: Mapping[tuple[str, int], Path],
) -> pd.DataFrame:
    rows = [
        [*(method.name, method.title, checkpoint, method.predictor, seed), *map(entry.get, METRICS), minutes]
        for method in methods
        for checkpoint in CHECKPOINTS
        for seed, entry in _entries(method, results, checkpoint, variant, files=files).items()
        for minutes in [results[method.trained_as, seed]["minutes"]]
    ]
    frame = pd.DataFrame(rows, columns=[*NAMES, "seed", *METRICS, "minutes"])
    return frame.astype(dict.fromkeys(METRICS, float) | {"seed": int, "minutes": float})


def _entries(
    method: Method,
    results: Mapping[tuple[str, int], Mapping[str, Any]],
    checkpoint: str,
    variant: str,
    *,
    files: Mapping[tuple[str, int], Path],
) -> Entries:
    """By seed, where there is such a checkpoint: the means over the scans of all classes together, and the median and
    the least Dice."""
    found = {}
    for (name, seed), result in results.items():
        if name == method.trained_as and checkpoint in result["metrics"]:
            try:
                found[seed] = _with_scans(of_all_classes(result["metrics"][checkpoint], method.predictor, variant))
            except ValueError as error:
                raise ValueError(f"{files[name, seed]}: {checkpoint}: {error}") from None
    return found


def _with_scans(entry: dict[str, Any]) -> dict[str, Any]:
    """With what the scans' own Dice says; a result of an earlier version does not have it."""
    dice = list(entry.get("dice_by_scan", {}).values())
    return entry | ({"dice_median": median(dice), "dice_worst": min(dice)} if dice else {})


def markdown(figures: pd.DataFrame) -> str:
    """A table for people: mean ± standard deviation over the seeds, of the differences seed by seed."""
    dice, *others = (title for title, _ in METRICS.values())
    difference = f"to {load_methods()[REFERENCE].title}"
    rows = [["method", "weights", "model", dice, difference, *others, "minutes", "seeds"]]
    for (_, title, checkpoint, predictor), seeds in figures.groupby(NAMES, sort=False):
        cells = [_spread(seeds[name], factor) for name, (_, factor) in METRICS.items()]
        cells.insert(1, _spread(seeds[DIFFERENCE], 100.0, sign="+"))
        rows.append([title, checkpoint, predictor, *cells, f"{seeds['minutes'].mean():.1f}", str(len(seeds))])
    return markdown_table(rows, names=3)


def _spread(values: pd.Series, factor: float, *, sign: str = "") -> str:
    """Mean and sample standard deviation of what is known; a single seed has no deviation."""
    known = factor * values.dropna()
    if known.empty:
        return "-"
    return f"{known.mean():{sign}.2f}" + (f" ± {known.std():.2f}" if len(known) > 1 else "")


def comma_separated(figures: pd.DataFrame) -> str:
    """Every single figure but the differences, with six digits."""
    digits = dict.fromkeys(METRICS, "{:.6f}".format) | {"minutes": "{:.2f}".format}
    written = figures.drop(columns=DIFFERENCE).astype(object)
    for name, form in digits.items():
        written[name] = figures[name].map(form)
    return csv_table.comma_separated([list(written.columns), *written.values.tolist()])


def plot(figures: pd.DataFrame, path: Path) -> None:
    """Dice of every seed as a dot and their mean as a line, by method and checkpoint."""
    titles = list(figures["title"].unique())
    figure = new_figure((8, 0.45 * len(titles) + 1.4))
    axes = figure.subplots()
    drawn = set(figures["checkpoint"])
    all_colours = zip(CHECKPOINTS, ("tab:blue", "tab:green", "tab:orange"), strict=True)
    colours = {checkpoint: colour for checkpoint, colour in all_colours if checkpoint in drawn}
    heights = dict(zip(colours, np.linspace(-1, 1, len(colours)) * (0.15 if len(colours) < 3 else 0.27), strict=True))
    for (_, title, checkpoint, _), seeds in figures.groupby(NAMES, sort=False):
        height = titles.index(title) + heights[checkpoint]
        dice = 100 * seeds["dice"].to_numpy()
        axes.plot(dice, [height] * len(dice), "o", color=colours[checkpoint], alpha=0.6, markersize=5)
        axes.plot([dice.mean()] * 2, [height - 0.13, height + 0.13], color=colours[checkpoint], linewidth=2)
    for checkpoint, colour in colours.items():
        axes.plot([], [], "o", color=colour, label=f"{checkpoint} weights")
    axes.set_yticks(range(len(titles)), titles)
    axes.invert_yaxis()
    axes.grid(axis="x", alpha=0.3)
    axes.set_xlabel("Dice, %: a dot for each seed, a line for their mean")
    axes.legend(loc="upper left", bbox_to_anchor=(1, 1))
    save_figure(figure, path, dpi=120)
