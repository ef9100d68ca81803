"""A picture of a training so far, as nnU-Net keeps one (its ``progress.png``): losses, validation, pace."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from matplotlib.axes import Axes
from matplotlib.figure import Figure

from aps_components.pictures import new_figure, save_figure

PROGRESS_FILE = "progress.png"
NOT_A_LOSS = "gradient_norm"


def plot_progress(history: Sequence[Mapping[str, Any]], path: str | Path) -> None:
    """Write :func:`progress_figure` as PNG, whole or not at all.

    Args:
        history: what ``read_history`` gives, at least one epoch.
        path: of the file.
    """
    save_figure(progress_figure(history), path, dpi=100, format="png")


def progress_figure(history: Sequence[Mapping[str, Any]]) -> Figure:
    """Every loss, the validation where there was one, and seconds an iteration with the learning rate.

    Args:
        history: what ``read_history`` gives, at least one epoch.
    """
    figure = new_figure((9, 9))
    losses, validation, pace = figure.subplots(3, 1, sharex=True, height_ratios=(3, 3, 2))
    losses.set(yscale="log", ylabel="loss, mean of the epoch")
    _lines(losses, history, "losses", leave_out=NOT_A_LOSS)
    _lines(validation, history, "validation", factor=100)
    validation.set(ylabel="validation, %")
    iterations = [epoch.get("iteration", epoch["epoch"]) for epoch in history]
    pace.plot(iterations, [epoch.get("seconds_per_iteration", math.nan) for epoch in history], color="tab:gray")
    pace.set(ylabel="s an iteration (grey)", xlabel="iteration", ylim=(0, None))
    rate = pace.twinx()
    rate.plot(iterations, [epoch.get("learning_rate", math.nan) for epoch in history], color="tab:red")
    rate.set(ylabel="learning rate (red)", ylim=(0, None))
    for axes in (losses, validation, pace):
        axes.grid(alpha=0.3)
    return figure


def _lines(
    axes: Axes, history: Sequence[Mapping[str, Any]], part: str, *, leave_out: str = "", factor: int = 1
) -> None:
    """A line for every figure of a part of the epochs, with a dot for each; on a log scale without zeros."""
    names = dict.fromkeys(name for epoch in history for name in epoch.get(part, {}) if name != leave_out)
    for name in names:
        points = [
            (epoch.get("iteration", epoch["epoch"]), factor * value)
            for epoch in history
            if (value := epoch.get(part, {}).get(name)) is not None and (value > 0 or axes.get_yscale() != "log")
        ]
        if points:
            axes.plot(*zip(*points, strict=True), marker=".", label=name.replace("_", " "))
    if axes.has_data():
        axes.legend(fontsize=8, loc="upper left", bbox_to_anchor=(1, 1), frameon=False)
