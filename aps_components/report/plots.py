"""The figures of a report."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any, NamedTuple

import numpy as np
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.ticker import MaxNLocator

from aps_components.pictures import new_figure

# Of Wong 2011 (doi:10.1038/nmeth.1618), which colour-blind readers can tell apart.
COLOURS = ("#0072B2", "#D55E00", "#009E73", "#CC79A7", "#E69F00", "#56B4E9", "#000000")
MARKERS = "osD^vPX"
GREY = "0.6"
PANEL = (4.4, 3.8)  # inches
LIMITS = 1.96  # standard deviations, between which 95 % of the differences are expected


class Bin(NamedTuple):
    """Voxels of about the same confidence."""

    share: float
    confidence: float
    accuracy: float


def volumes_figure(volumes: Mapping[str, Sequence[tuple[float, float]]]) -> Figure:
    """The answer's volumes against the true ones, and their differences against the mean of both.

    After Bland & Altman 1986, doi:10.1016/S0140-6736(86)90837-8.

    Args:
        volumes: by class, of each case the true and the answer's, ml.
    """
    figure, (scatter, differences) = _figure(2, legend=len(volumes) > 1)
    both = np.array([pair for pairs in volumes.values() for pair in pairs])
    ends = [float(both.min()), float(both.max())]
    scatter.plot(ends, ends, color=GREY, linewidth=1)
    differences.axhline(0, color=GREY, linewidth=1)
    for index, (name, pairs) in enumerate(volumes.items()):
        true, said = np.array(pairs).T
        style: dict[str, Any] = {
            "color": _colour(index),
            "marker": _marker(index),
            "linestyle": "",
            "markersize": 5,
            "alpha": 0.8,
        }
        scatter.plot(true, said, label=name, **style)
        differences.plot((true + said) / 2, said - true, **style)
    if len(volumes) == 1 and len(both) > 1:
        apart = both[:, 1] - both[:, 0]
        for at, line in ((0.0, "-"), (-LIMITS, "--"), (LIMITS, "--")):
            differences.axhline(apart.mean() + at * apart.std(ddof=1), color=COLOURS[1], linestyle=line, linewidth=1)
    scatter.set(xlabel="truth, ml", ylabel="answer, ml")
    differences.set(xlabel="mean of both, ml", ylabel="answer minus truth, ml")
    if len(volumes) > 1:
        figure.legend(loc="outside right upper", fontsize=8, frameon=False)
    return figure


def reliability_figure(bins: Sequence[Bin]) -> Figure:
    """Accuracy against confidence, and how many voxels there are of each."""
    figure, (upper, lower) = _figure(2)
    at = [100 * entry.confidence for entry in bins]
    upper.plot([0, 100], [0, 100], color=GREY, linewidth=1)
    upper.plot(at, [100 * entry.accuracy for entry in bins], color=COLOURS[0], marker="o", markersize=4)
    lowest = min([100.0, *at, *(100 * entry.accuracy for entry in bins)])
    upper.set(xlim=(lowest - 2, 102), ylim=(lowest - 2, 102), xlabel="confidence, %", ylabel="accuracy, %")
    lower.bar(at, [100 * entry.share for entry in bins], width=4, color=COLOURS[0])
    lower.set(xlim=(lowest - 2, 102), xlabel="confidence, %", ylabel="voxels, %")
    return figure


def doubt_figure(doubts: Sequence[float], dice: Sequence[float]) -> Figure:
    """Dice of each case against its uncertainty."""
    figure, (axes,) = _figure(1)
    axes.plot(doubts, [100 * value for value in dice], color=COLOURS[0], marker="o", linestyle="", alpha=0.8)
    axes.set(xlabel="mean epistemic uncertainty", ylabel="Dice, %")
    return figure


def _figure(panels: int, *, legend: bool = False) -> tuple[Figure, Sequence[Axes]]:
    figure = new_figure((PANEL[0] * panels + (2 if legend else 0), PANEL[1]))
    drawn = figure.subplots(1, panels, squeeze=False)[0]
    for axes in drawn:
        axes.grid(alpha=0.3)
        axes.xaxis.set_major_locator(MaxNLocator(nbins=5))  # more labels run into each other where values are small
        axes.spines[["top", "right"]].set_visible(False)
    return figure, list(drawn)


def _colour(index: int) -> str:
    return COLOURS[index % len(COLOURS)]


def _marker(index: int) -> str:
    """Another one when the colours begin anew."""
    return MARKERS[(index // len(COLOURS)) % len(MARKERS)]
