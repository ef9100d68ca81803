"""From the records of scans to the figures of a model."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np

from aps_components.csv_table import comma_separated
from aps_components.evaluation.listening import ALTERATIONS, OWN
from aps_components.evaluation.markdown import markdown_table

STEPS = (0, 1, 2, 3, 5, 10)
Record = Mapping[str, Any]


def summarise(scans: Sequence[Record], *, clicks: int) -> dict[str, Any]:
    """Means over the scans; of figures that belong to a click, over all clicks.

    Args:
        scans: as ``Annotator.correct`` gives them. A scan in which nothing is wrong any more keeps its last figures.
        clicks: the most for each scan.
    """
    dice, nsd = (mean_curve([scan[name] for scan in scans], clicks=clicks) for name in ("dice", "nsd"))
    steps = [step for step in STEPS if step <= clicks]
    times = [value for scan in scans for value in scan["click_ms"]]
    return {
        "scans": len(scans),
        "clicks": sum(len(scan["obeyed"]) for scan in scans),
        "dice": {str(step): float(dice[step]) for step in steps},
        "nsd": {str(step): float(nsd[step]) for step in steps},
        "auc": area_under(dice),
        "auc_nsd": area_under(nsd),
        **{name: _share(scans, name) for name in ("obeyed", "kept", "harmful")},
        "first_ms": float(np.mean([scan["first_ms"] for scan in scans])),
        "click_ms": float(np.median(times)) if times else None,
        "listening": _listening(scans),
    }


def mean_curve(curves: Sequence[Sequence[float]], *, clicks: int) -> np.ndarray:
    """The mean after 0, 1, ... clicks, [clicks + 1]; a curve that ends early goes on as it ended.

    What is NaN, where a label does not tell, is left out.
    """
    values = np.array([[curve[min(step, len(curve) - 1)] for step in range(clicks + 1)] for curve in curves])
    known = ~np.isnan(values)
    counts = known.sum(axis=0)
    return np.where(counts, np.where(known, values, 0).sum(axis=0) / np.maximum(counts, 1), np.nan)


def area_under(curve: np.ndarray) -> float:
    """The mean height of the curve between its ends, by the trapezoid rule; of one point its height."""
    return float((curve[1:] + curve[:-1]).mean() / 2) if len(curve) > 1 else float(curve[0])


def markdown(figures: Mapping[str, Any], *, title: str, tolerance_mm: float) -> str:
    """The figures as tables."""
    steps = list(figures["dice"])
    curve = [["clicks", *steps, "area"]]
    curve += [["Dice %", *(f"{figures['dice'][step]:.2f}" for step in steps), f"{figures['auc']:.2f}"]]
    nsd = [f"{figures['nsd'][step]:.2f}" for step in steps]
    curve += [[f"NSD at {tolerance_mm:g} mm %", *nsd, f"{figures['auc_nsd']:.2f}"]]
    click_ms = "-" if figures["click_ms"] is None else f"{figures['click_ms']:.0f}"
    words = [
        ["clicked voxels right at once %", _percent(figures["obeyed"])],
        ["clicked voxels right ever after %", _percent(figures["kept"])],
        ["clicks that cost more than 0.1 points of Dice %", _percent(figures["harmful"])],
        ["ms to the first answer", f"{figures['first_ms']:.0f}"],
        ["ms a further click, median", click_ms],
    ]
    return "\n".join(
        [
            f"# What a click is worth: {title}\n",
            f"{figures['scans']} scans, {figures['clicks']} clicks. Means over the scans, on their own grids; each "
            "click is the deepest voxel of the largest error.\n",
            markdown_table(curve),
            markdown_table([["", "value"], *words]),
            "![Dice against clicks](clicks.png)\n",
            *([] if figures["listening"] is None else _listening_markdown(figures["listening"])),
        ]
    )


def _listening_markdown(listening: Mapping[str, Mapping[str, float]]) -> list[str]:
    rows = [["Model B with", "Dice %", "changed in the border band %"]]
    for name, what in ALTERATIONS.items():
        changed = "-" if name == OWN else f"{100 * listening[name]['changed']:.2f}"
        rows.append([what, f"{listening[name]['dice_b']:.2f}", changed])
    question = "Does Model B listen to its points, and look at the image? On the network's grid, without clicks.\n"
    return [question, markdown_table(rows)]


def per_scan_csv(scans: Mapping[str, Record], *, clicks: int) -> str:
    """A line for each scan: its curves, and its clicks' shares."""
    steps = [step for step in STEPS if step <= clicks]
    heads = [f"{name}_{step}" for name in ("dice", "nsd") for step in steps]
    rows: list[list[Any]] = [["scan", "clicks", *heads, "obeyed", "kept", "harmful", "first_ms", "click_ms"]]
    for name, scan in scans.items():
        curves = [mean_curve([scan[key]], clicks=clicks)[step] for key in ("dice", "nsd") for step in steps]
        shares = [_share([scan], key) for key in ("obeyed", "kept", "harmful")]
        times = [scan["first_ms"], float(np.median(scan["click_ms"])) if scan["click_ms"] else None]
        cells = ["" if value is None else f"{value:.4f}" for value in (*curves, *shares, *times)]
        rows.append([name, len(scan["obeyed"]), *cells])
    return comma_separated(rows)


def _listening(scans: Sequence[Record]) -> dict[str, dict[str, float]] | None:
    """None where it was not measured."""
    found = [scan["listening"] for scan in scans if scan["listening"] is not None]
    if not found:
        return None
    return {
        name: {key: float(np.mean([entry[name][key] for entry in found])) for key in ("changed", "dice_b")}
        for name in ALTERATIONS
    }


def _share(scans: Sequence[Record], name: str) -> float | None:
    """Of all clicks; None without any."""
    marks = [mark for scan in scans for mark in scan[name]]
    return float(np.mean(marks)) if marks else None


def _percent(share: float | None) -> str:
    return "-" if share is None else f"{100 * share:.1f}"
