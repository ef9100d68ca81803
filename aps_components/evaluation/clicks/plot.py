"""The click curve as a picture."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any

from aps_components.evaluation.clicks.table import mean_curve
from aps_components.pictures import new_figure, save_figure


def plot_clicks(path: Path, scans: Mapping[str, Mapping[str, Any]], *, clicks: int, tolerance_mm: float) -> None:
    """Dice and surface Dice after each click: the mean over the scans, and each scan thinly behind it."""
    figure = new_figure((9, 3.6))
    panels = figure.subplots(1, 2, sharex=True)
    for axes, key, title in zip(panels, ("dice", "nsd"), ("Dice", f"NSD at {tolerance_mm:g} mm"), strict=True):
        curves = [scan[key] for scan in scans.values()]
        for curve in curves:
            axes.plot(mean_curve([curve], clicks=clicks), color="0.8", linewidth=0.8)
        axes.plot(mean_curve(curves, clicks=clicks), color="tab:blue", marker="o", markersize=3.5)
        axes.set(xlabel="clicks", ylabel=f"{title}, %")
        axes.grid(alpha=0.3)
    save_figure(figure, path, dpi=150)
