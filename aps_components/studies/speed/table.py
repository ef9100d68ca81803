"""The table and the plot of ``aps benchmark``."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from matplotlib.lines import Line2D

from aps_components import csv_table
from aps_components.evaluation.markdown import markdown_table
from aps_components.files import replace_text
from aps_components.pictures import new_figure, save_figure
from aps_components.studies.speed.settings import Setting

TOLERANCE, SHARE = 0.1, 20  # Dice in percent, and the part of the reference's time, to look for
COLOURS = ("#0072B2", "#E69F00", "#009E73", "#CC79A7", "#56B4E9", "#D55E00")
MARKERS = {"average": "o", "a": "^", "b": "s"}


@dataclass(frozen=True, kw_only=True)
class Line:
    """One setting with ``seconds``, ``dice`` and ``windows`` of each scan."""

    setting: Setting
    scans: Mapping[str, Any]

    def mean(self, figure: str, names: Sequence[str] | None = None) -> float:
        """Over the scans, or those named."""
        return float(np.mean([self.scans[name][figure] for name in (self.scans if names is None else names)]))


@dataclass(frozen=True, kw_only=True)
class Comparison:
    """A line beside the reference, on the reference's scans."""

    dice: float
    """Difference in percent, above 0 where the line is better."""
    speed: float
    """The reference's seconds divided by the line's."""

    @classmethod
    def of(cls, line: Line, reference: Line) -> Comparison:
        """Compare scan by scan."""
        names = list(reference.scans)
        return cls(
            dice=100 * (line.mean("dice", names) - reference.mean("dice", names)),
            speed=reference.mean("seconds", names) / line.mean("seconds", names),
        )


def write_table(folder: Path, lines: Sequence[Line], *, context: Mapping[str, Any]) -> Path:
    """Write ``table.md``, ``table.csv`` and ``speed.png``.

    Args:
        folder: must exist.
        lines: in the order of the table.
        context: what the figures were measured on.

    Returns:
        ``table.md``.
    """
    table = folder / "table.md"
    replace_text(table, markdown(lines, context=context))
    replace_text(folder / "table.csv", comma_separated(lines))
    plot(lines, folder / "speed.png")
    return table


def markdown(lines: Sequence[Line], *, context: Mapping[str, Any]) -> str:
    """For people: what was measured, the table, and the fastest setting that is as good as the reference."""
    reference = _reference(lines)
    rows = [
        ["predictor", "window", "blending", "batch", "windows", "s a scan", "Dice %", "to reference", "times faster"]
    ]
    for line in lines:
        other = Comparison.of(line, reference) if reference else None
        figures = [f"{line.mean('windows'):.1f}", _cell(line.mean("seconds")), _cell(100 * line.mean("dice"))]
        figures += [_cell(other.dice, "+.2f"), _cell(other.speed, ".1f")] if other else ["-", "-"]
        setting = line.setting
        rows.append([setting.predictor, setting.window, setting.blending, str(setting.batch), *figures])
    return f"{_measured(lines, context)}\n{markdown_table(rows, names=3)}\n{_best(lines, reference)}\n"


def _cell(value: float, how: str = ".2f") -> str:
    """A dash stands for what was not measured, for want of memory."""
    return "-" if math.isnan(value) else format(value, how)


def comma_separated(lines: Sequence[Line]) -> str:
    """Every single figure: a row for each setting and scan."""
    rows: list[list[Any]] = [["predictor", "window", "blending", "batch", "scan", "windows", "seconds", "dice"]]
    for line in lines:
        setting = line.setting
        for name, scan in line.scans.items():
            figures = [scan["windows"], f"{scan['seconds']:.4f}", f"{scan['dice']:.6f}"]
            rows.append([setting.predictor, setting.window, setting.blending, setting.batch, name, *figures])
    return csv_table.comma_separated(rows)


def plot(lines: Sequence[Line], path: Path) -> None:
    """Dice against seconds, on the reference's scans if there is one: overlap by colour, predictor by marker."""
    reference = _reference(lines)
    names = list((reference or lines[0]).scans)
    figure = new_figure((8.4, 4.4))
    axes = figure.subplots()
    windows = list(dict.fromkeys(line.setting.window for line in lines if not line.setting.is_reference))
    colours = {window: COLOURS[index % len(COLOURS)] for index, window in enumerate(windows)}
    for line in lines:
        setting, where = line.setting, (line.mean("seconds", names), 100 * line.mean("dice", names))
        if setting.is_reference:
            axes.plot(*where, "*", color="black", markersize=13)
            axes.axhline(where[1] - TOLERANCE, color="0.6", linewidth=0.9, linestyle="--")
            axes.axvline(where[0] / SHARE, color="0.6", linewidth=0.9, linestyle="--")
        else:
            colour = colours[setting.window]
            face = colour if setting.blending == "gaussian" else "none"
            size = 5 + 1.5 * np.log2(setting.batch)
            axes.plot(
                *where, MARKERS[setting.predictor], color=colour, markerfacecolor=face, markersize=size, alpha=0.8
            )
    axes.set_xscale("log")
    axes.xaxis.set_major_formatter(lambda value, _: f"{value:g}")
    axes.xaxis.set_minor_formatter(lambda value, _: f"{value:g}" if f"{value:e}"[0] in "25" else "")
    axes.grid(alpha=0.3, which="both")
    axes.set(xlabel="seconds a scan", ylabel=f"Dice %, mean of {len(names)} scans")
    figure.legend(handles=_handles(lines, colours), loc="outside right upper", fontsize=8, frameon=False)
    save_figure(figure, path, dpi=130)


def _handles(lines: Sequence[Line], colours: Mapping[str, str]) -> list[Line2D]:
    """What colours, markers and fillings mean, as far as they occur."""

    def entry(marker: str, label: str, **style: Any) -> Line2D:
        return Line2D([], [], linestyle="none", marker=marker, label=label, **{"color": "0.3", **style})

    others = [line.setting for line in lines if not line.setting.is_reference]
    handles = [entry("o", window, color=colour) for window, colour in colours.items()]
    handles += [
        entry(MARKERS[name], f"predictor {name}") for name in dict.fromkeys(setting.predictor for setting in others)
    ]
    handles += [
        entry("o", f"{name} blending", markerfacecolor="0.3" if name == "gaussian" else "none")
        for name in dict.fromkeys(setting.blending for setting in others)
    ]
    batches = sorted({setting.batch for setting in others})
    handles += [entry("o", f"batch {batch}", markersize=5 + 1.5 * np.log2(batch)) for batch in batches]
    if _reference(lines):
        handles.append(entry("*", "reference", color="black", markersize=11))
        label = f"{TOLERANCE:g} Dice below it,\n1/{SHARE} of its time"
        handles.append(Line2D([], [], color="0.6", linewidth=0.9, linestyle="--", label=label))
    return handles


def _reference(lines: Sequence[Line]) -> Line | None:
    return next((line for line in lines if line.setting.is_reference), None)


def _measured(lines: Sequence[Line], context: Mapping[str, Any]) -> str:
    scans = max(len(line.scans) for line in lines)
    threads = f", {context['threads']} threads" if context["threads"] else ""
    reference = _reference(lines)
    return (
        f"{scans} scans of the {context['split']} part of {context['dataset']}, the reference on "
        f"{len(reference.scans) if reference else 0} of them; "
        f"window {' x '.join(map(str, context['roi_size']))}, {context['precision']}, {context['device']}{threads}, "
        f"torch {context['torch']}. Seconds of the sliding window alone. Reference: a stride of 18 x 18 x 4 voxels in "
        "a window of 112 x 112 x 80, or the same shares of another one; what is compared with it is measured on its "
        "scans.\n"
    )


def _best(lines: Sequence[Line], reference: Line | None) -> str:
    """The fastest setting that loses next to nothing."""
    if reference is None:
        return "Without the reference nothing is compared."
    compared = [(line.setting, Comparison.of(line, reference)) for line in lines if line is not reference]
    good = [pair for pair in compared if pair[1].dice >= -TOLERANCE]
    if not good:
        return f"No setting comes within {TOLERANCE:g} Dice of the reference."
    setting, comparison = max(good, key=lambda pair: pair[1].speed)
    return (
        f"Fastest within {TOLERANCE:g} Dice of the reference: predictor {setting.predictor}, {setting.window}, "
        f"{setting.blending} blending, batch {setting.batch}: {comparison.speed:.1f} times faster, "
        f"{comparison.dice:+.2f} Dice."
    )
