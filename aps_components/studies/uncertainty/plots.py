"""Plots of ``aps uncertainty``."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
from matplotlib.figure import Figure
from matplotlib.lines import Line2D

from aps_components.pictures import new_figure, save_figure
from aps_components.studies.uncertainty.scan import COVERAGES
from aps_components.studies.uncertainty.spreads import Entry
from aps_components.uncertainty import DEFINITIONS

# Of Wong 2011 (doi:10.1038/nmeth.1618), which colour-blind readers can tell apart, and two more.
COLOURS = {
    "softmax_variance": "#D55E00",
    "mutual_information": "#E69F00",
    "noise_variance": "#0072B2",
    "expected_entropy": "#56B4E9",
    "propagated_variance": "#009E73",
    "entropy_undropped": "#332288",
    "propagated_undropped": "#117733",
    "predictive_entropy": "#CC79A7",
    "least_confidence": "#000000",
}
STYLES = {"epistemic": "-", "aleatoric": "--", "total": ":"}
PREDICTOR_COLOURS = {"a": "#0072B2", "b": "#D55E00", "average": "#000000"}
PANEL = (4.2, 3.4)  # inches
DPI = 130
GREY = "0.65"
LOWEST_RISK = 0.01  # %, where the axis of the risk ends: it is logarithmic, and the risk can be 0


def plot_risk(path: Path, summaries: Mapping[str, Entry]) -> None:
    """Error rate in the band against coverage, with a perfect order and chance in grey: a panel for each model."""
    figure, panels = _figure(1, len(summaries), legend=1.6)
    for axes, (name, summary) in zip(panels[0], summaries.items(), strict=True):
        for key, definition in DEFINITIONS.items():
            risk = summary["detection"][key]["band"]["risk"]
            if risk:
                axes.plot(100 * COVERAGES, 100 * np.array(risk), STYLES[definition.kind], color=COLOURS[key])
        rate = summary["error_rate"]["band"]["mean"]
        perfect = np.maximum(0, COVERAGES - (1 - rate)) / COVERAGES
        axes.plot(100 * COVERAGES, 100 * perfect, color=GREY, linewidth=1)
        axes.axhline(100 * rate, color=GREY, linewidth=1)
        axes.set(title=name, xlabel="coverage of the band, %", xlim=(0, 100), yscale="log")
        axes.set_ylim(bottom=LOWEST_RISK)
        axes.yaxis.set_major_formatter(_plain)
    panels[0][0].set_ylabel("errors among the covered, %")
    _legend(figure, Line2D([], [], color=GREY, linewidth=1, label="chance, and a perfect order"))
    _save(figure, path)


def plot_reliability(path: Path, summaries: Mapping[str, Entry], titles: Mapping[str, str]) -> None:
    """Accuracy against confidence in the band, with the share of voxels below: a column for each model."""
    figure, panels = _figure(2, len(summaries), heights=(3, 1))
    for column, (name, summary) in enumerate(summaries.items()):
        upper, lower = panels[0][column], panels[1][column]
        upper.plot([0, 100], [0, 100], color=GREY, linewidth=1)
        lowest = 100.0
        for predictor, title in titles.items():
            bins = summary["calibration"][predictor]["band"]["bins"]
            confidence = [100 * entry["confidence"] for entry in bins]
            ece = 100 * summary["calibration"][predictor]["band"]["ece"]["mean"]
            style = {"color": PREDICTOR_COLOURS[predictor], "marker": "o", "markersize": 3.5}
            accuracy = [100 * entry["accuracy"] for entry in bins]
            upper.plot(confidence, accuracy, label=f"{title}, ECE {ece:.1f}", **style)
            lower.plot(confidence, [100 * entry["share"] for entry in bins], **style)
            lowest = min([lowest, *confidence, *accuracy])
        upper.set(title=name, xlim=(lowest - 2, 101), ylim=(lowest - 2, 101))
        lower.set(xlabel="confidence in the band, %", xlim=(lowest - 2, 101), yscale="log")
        lower.yaxis.set_major_formatter(_plain)
        upper.legend(fontsize=8, loc="upper left")
    panels[0][0].set_ylabel("accuracy, %")
    panels[1][0].set_ylabel("voxels, %")
    _save(figure, path)


def plot_noise(path: Path, noises: Sequence[float], summaries: Mapping[str, Entry]) -> None:
    """Means near the true surface relative to no noise, a panel for each model; bars are standard errors."""
    figure, panels = _figure(1, len(summaries), legend=1.6)
    for axes, (name, summary) in zip(panels[0], summaries.items(), strict=True):
        for key, definition in DEFINITIONS.items():
            figures = summary["response"][key]
            means = [figure["mean"] for figure in figures]
            errors = [figure["std"] / np.sqrt(max(1, figure["n"])) for figure in figures]
            style = {"linestyle": STYLES[definition.kind], "marker": "o", "markersize": 3.5}
            axes.errorbar(noises, means, yerr=np.nan_to_num(errors), color=COLOURS[key], capsize=2, **style)
        axes.axhline(1, color=GREY, linewidth=1)
        axes.set(title=name, xlabel="standard deviation of the noise")
    panels[0][0].set_ylabel("mean, relative to no noise")
    _legend(figure)
    _save(figure, path)


def plot_labels(path: Path, counts: Sequence[int], relative: Mapping[str, Sequence[float]]) -> None:
    """Means near the true surface relative to the fewest labelled scans."""
    figure, panels = _figure(1, 1, legend=1.6)
    axes = panels[0][0]
    where = sorted(set(counts))
    for key, definition in DEFINITIONS.items():
        values = np.array(relative[key])
        axes.plot(counts, values, "o", color=COLOURS[key], markersize=3.5)
        means = [values[[count == place for count in counts]].mean() for place in where]
        axes.plot(where, means, STYLES[definition.kind], color=COLOURS[key])
    axes.axhline(1, color=GREY, linewidth=1)
    axes.set(xlabel="labelled scans", ylabel="mean, relative to the fewest")
    axes.set_xticks(where)
    _legend(figure)
    _save(figure, path)


def _figure(
    rows: int, columns: int, *, heights: Sequence[float] | None = None, legend: float = 0.0
) -> tuple[Figure, Any]:
    """Panels [rows][columns] that share what they can, and room for a legend to the right, in inches."""
    height = PANEL[1] * (1.3 if heights else 1) * (rows if not heights else 1)
    width = PANEL[0] * columns + (2 * legend if legend else 0)
    figure = new_figure((width, height))
    ratios = {"height_ratios": list(heights)} if heights else None
    panels = figure.subplots(rows, columns, squeeze=False, sharey="row", sharex="col", gridspec_kw=ratios)
    for axes in panels.flat:
        axes.grid(alpha=0.3)
        axes.title.set_fontsize(10)
    return figure, panels


def _plain(value: float, _: int) -> str:
    """A figure of a logarithmic axis."""
    return f"{value:g}"


def _legend(figure: Figure, *more: Line2D) -> None:
    handles = [
        Line2D([], [], color=COLOURS[key], linestyle=STYLES[entry.kind], label=f"{entry.title} ({entry.kind})")
        for key, entry in DEFINITIONS.items()
    ]
    figure.legend(handles=[*handles, *more], loc="outside right center", fontsize=8, frameon=False)


def _save(figure: Figure, path: Path) -> None:
    save_figure(figure, path, dpi=DPI)
