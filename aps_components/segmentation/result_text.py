"""What a user reads when all scans are done."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from aps_components.evaluation.preview import millilitres
from aps_components.segmentation.expected import UNLIKE_SAID, expected_of, expected_text, is_unlike, worst_first
from aps_components.segmentation.segment import RESEARCH_ONLY, Segmentation

ROWS = 45  # of the table; more go to the file alone
TEXT_COLUMNS = 2  # from the left; figures stand to the right of their column


def summary(result: Segmentation, *, report: str | None = None) -> str:
    """Millilitres, mean intensity and predicted Dice of every scan and class, where everything is, what it is for.

    The scans that the model is least sure of come first.

    Args:
        result: of the scans.
        report: where the report of them is, or why there is none; None where none was wanted.
    """
    scans = worst_first(result.statistics)
    expected = any(expected_of(entry) for scan in scans for entry in scan["classes"])
    rows = [row for scan in scans for row in _rows(scan, expected=expected)]
    lines = []
    if rows:
        channels = list(result.statistics[0]["classes"][0]["intensity"])
        means = ["mean"] if len(channels) == 1 else [f"mean {channel}" for channel in channels]
        heads = ["scan", "class", "ml", *means, *(["predicted Dice (90 %)"] if expected else [])]
        lines = _table([heads, *rows[:ROWS]])
    if len(rows) > ROWS:
        lines.append(f"... and {len(rows) - ROWS} more lines in the statistics")
    if unlike := [str(scan["scan"]) for scan in scans if is_unlike(scan)]:
        lines.append(f"{UNLIKE_SAID}, so what is predicted of them may be wrong: {', '.join(unlike)}")
    counts = [f"{len(result.done)} segmented", f"{len(result.skipped)} there already", f"{len(result.failed)} failed"]
    lines += [*([""] if lines else []), ", ".join(counts)]
    if rows:
        outputs = result.outputs
        file = "" if outputs.stem is None else f"{outputs.stem}.nii.gz"
        lines += [f"{'label map' if file else 'label maps':11} {outputs.folder / file}", f"statistics  {outputs.table}"]
    lines += [] if report is None else [f"report      {report}"]
    return "\n".join([*lines, RESEARCH_ONLY])


def _rows(scan: Mapping[str, Any], *, expected: bool) -> list[list[str]]:
    """A line a class; the scan's name stands at the first."""
    rows: list[list[str]] = []
    for entry in scan["classes"]:
        means = [measured["mean"] for measured in entry["intensity"].values()]
        figures = [millilitres(entry["volume_ml"]), *("-" if mean is None else f"{mean:.4g}" for mean in means)]
        figures += [expected_text(entry) or "-"] if expected else []
        rows.append(["" if rows else str(scan["scan"]), str(entry["name"]), *figures])
    return rows


def _table(rows: list[list[str]]) -> list[str]:
    widths = [max(len(row[column]) for row in rows if column < len(row)) for column in range(max(map(len, rows)))]
    return [
        "  ".join(
            f"{cell:{width}}" if column < TEXT_COLUMNS else f"{cell:>{width}}"
            for column, (cell, width) in enumerate(zip(row, widths, strict=False))
        ).rstrip()
        for row in rows
    ]
