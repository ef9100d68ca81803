"""The table of a comparison: mean over the scans, then mean and spread over the seeds."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from statistics import median
from typing import Any

import numpy as np

from aps_components import csv_table
from aps_components.evaluation.markdown import markdown_table
from aps_components.pictures import new_figure, save_figure
from aps_components.studies.comparison.methods import REFERENCE, Method, load_methods
from aps_components.studies.comparison.runs import CHECKPOINTS, Run, of_all_classes

METRICS = {
    "dice": ("Dice %", 100.0),
    "dice_median": ("median scan %", 100.0),
    "dice_worst": ("worst scan %", 100.0),
    "jaccard": ("Jaccard %", 100.0),
    "hd95_mm": ("HD95 mm", 1.0),
    "asd_mm": ("ASD mm", 1.0),
    "volume_ratio": ("volume %", 100.0),
}
Entries = dict[int, dict[str, Any]]  # by seed


@dataclass(frozen=True, kw_only=True)
class Line:
    """One method with one kind of checkpoint; each metric's values are one per seed.

    ``differences``: its Dice minus that of :data:`REFERENCE`, by the seeds that both have; empty for the reference.
    """

    method: str
    title: str
    checkpoint: str
    predictor: str
    seeds: tuple[int, ...]
    values: dict[str, tuple[float, ...]]
    minutes: tuple[float, ...]
    differences: tuple[float, ...]


def lines_of(methods: Sequence[Method], runs: Mapping[tuple[str, int], Run], *, variant: str) -> list[Line]:
    """A line for each method and checkpoint of which at least one run is done.

    Args:
        methods: in the order of the table.
        runs: by the method that was trained and the seed; with those of :data:`REFERENCE` there are differences.
        variant: ``raw`` or ``largest_component``.
    """
    reference = load_methods()[REFERENCE]
    results = {key: run.result() for key, run in runs.items() if run.is_done}
    files = {key: run.result_file for key, run in runs.items()}
    lines = []
    for method in methods:
        itself = (method.trained_as, method.predictor) == (reference.trained_as, reference.predictor)
        for checkpoint in CHECKPOINTS:
            entries = _entries(method, results, checkpoint, variant, files=files)
            others = {} if itself else _entries(reference, results, checkpoint, variant, files=files)
            if entries:
                minutes = tuple(results[method.trained_as, seed]["minutes"] for seed in entries)
                lines.append(_line(method, checkpoint, entries, others, minutes))
    return lines


def _line(method: Method, checkpoint: str, entries: Entries, reference: Entries, minutes: tuple[float, ...]) -> Line:
    values = {name: tuple(_number(entry.get(name)) for entry in entries.values()) for name in METRICS}
    return Line(
        method=method.name,
        title=method.title,
        checkpoint=checkpoint,
        predictor=method.predictor,
        seeds=tuple(entries),
        values=values,
        minutes=minutes,
        differences=tuple(
            dice - _number(reference[seed].get("dice"))
            for seed, dice in zip(entries, values["dice"], strict=True)
            if seed in reference
        ),
    )


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


def _number(value: float | None) -> float:
    return math.nan if value is None else value


def _with_scans(entry: dict[str, Any]) -> dict[str, Any]:
    """With what the scans' own Dice says; a result of an earlier version does not have it."""
    dice = list(entry.get("dice_by_scan", {}).values())
    return entry | ({"dice_median": median(dice), "dice_worst": min(dice)} if dice else {})


def markdown(lines: Sequence[Line]) -> str:
    """A table for people: mean ± standard deviation over the seeds, of the differences seed by seed."""
    dice, *others = (title for title, _ in METRICS.values())
    difference = f"to {load_methods()[REFERENCE].title}"
    rows = [["method", "weights", "model", dice, difference, *others, "minutes", "seeds"]]
    for line in lines:
        figures = [_spread(line.values[name], factor) for name, (_, factor) in METRICS.items()]
        figures.insert(1, _spread(line.differences, 100.0, sign="+"))
        minutes = f"{np.mean(line.minutes):.1f}"
        rows.append([line.title, line.checkpoint, line.predictor, *figures, minutes, str(len(line.seeds))])
    return markdown_table(rows, names=3)


def _spread(values: Sequence[float], factor: float, *, sign: str = "") -> str:
    """Mean and sample standard deviation, which a single seed has not."""
    known = factor * np.array([value for value in values if not math.isnan(value)])
    if not len(known):
        return "-"
    return f"{known.mean():{sign}.2f}" + (f" ± {known.std(ddof=1):.2f}" if len(known) > 1 else "")


def comma_separated(lines: Sequence[Line]) -> str:
    """Every single figure: one row per method, checkpoint and seed."""
    rows: list[list[Any]] = [["method", "title", "checkpoint", "predictor", "seed", *METRICS, "minutes"]]
    for line in lines:
        for index, seed in enumerate(line.seeds):
            figures = [f"{line.values[name][index]:.6f}" for name in METRICS]
            rows.append(
                [line.method, line.title, line.checkpoint, line.predictor, seed, *figures, f"{line.minutes[index]:.2f}"]
            )
    return csv_table.comma_separated(rows)


def plot(lines: Sequence[Line], path: Path) -> None:
    """Dice of every seed as a dot and their mean as a line, by method and checkpoint."""
    titles = list(dict.fromkeys(line.title for line in lines))
    figure = new_figure((8, 0.45 * len(titles) + 1.4))
    axes = figure.subplots()
    drawn = {line.checkpoint for line in lines}
    all_colours = zip(CHECKPOINTS, ("tab:blue", "tab:green", "tab:orange"), strict=True)
    colours = {checkpoint: colour for checkpoint, colour in all_colours if checkpoint in drawn}
    heights = dict(zip(colours, np.linspace(-1, 1, len(colours)) * (0.15 if len(colours) < 3 else 0.27), strict=True))
    for line in lines:
        height = titles.index(line.title) + heights[line.checkpoint]
        dice = 100 * np.array(line.values["dice"])
        axes.plot(dice, [height] * len(dice), "o", color=colours[line.checkpoint], alpha=0.6, markersize=5)
        axes.plot([dice.mean()] * 2, [height - 0.13, height + 0.13], color=colours[line.checkpoint], linewidth=2)
    for checkpoint, colour in colours.items():
        axes.plot([], [], "o", color=colour, label=f"{checkpoint} weights")
    axes.set_yticks(range(len(titles)), titles)
    axes.invert_yaxis()
    axes.grid(axis="x", alpha=0.3)
    axes.set_xlabel("Dice, %: a dot for each seed, a line for their mean")
    axes.legend(loc="upper left", bbox_to_anchor=(1, 1))
    save_figure(figure, path, dpi=120)
