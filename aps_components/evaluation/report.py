"""Collect the metrics of many cases, sum them up, and write them as CSV, JSON and a table for the terminal."""

from __future__ import annotations

import json
import math
import os
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import asdict, fields
from pathlib import Path
from typing import Any

import numpy as np

from aps_components.csv_table import comma_separated
from aps_components.evaluation.metrics import ClassMetrics
from aps_components.files import replace_text

VARIANTS = ("raw", "largest_component")
ALL_CLASSES = "all"
METRICS = ("dice", "jaccard", "nsd", "hd95_voxel", "hd95_mm", "asd_voxel", "asd_mm", "volume_ratio")
GROUP_COLUMNS = ("predictor", "variant", "class")
TABLE_COLUMNS = (*GROUP_COLUMNS, "n", "Dice", "Jaccard", "NSD", "HD95 mm", "ASD mm", "Volume")
RESERVED_COLUMNS = {"case", "label", *GROUP_COLUMNS, *(field.name for field in fields(ClassMetrics))}

Row = dict[str, Any]


class EvaluationReport:
    """Rows of metrics, one per case, predictor, variant and class, in the order in which they were added."""

    def __init__(self) -> None:
        self.rows: list[Row] = []
        self._keys: set[tuple[str, ...]] = set()

    def add(
        self,
        case: str,
        metrics: Iterable[ClassMetrics],
        *,
        variant: str = "raw",
        predictor: str = "average",
        **columns: Any,
    ) -> None:
        """Add the classes of one case.

        Args:
            case: its name.
            metrics: of its classes, as `case_metrics` returns them.
            variant: "raw", or "largest_component" after `kept_pieces`.
            predictor: which model or combination of models predicted.
            columns: further columns, equal for all classes; `summary` covers those that hold numbers.
        """
        if variant not in VARIANTS:
            raise ValueError(f"variant must be one of {VARIANTS}, got {variant!r}")
        if taken := RESERVED_COLUMNS & columns.keys():
            raise ValueError(f"columns {sorted(taken)} are already in use")
        for entry in metrics:
            values = asdict(entry)
            key = {"case": case, "predictor": predictor, "variant": variant, "class": values.pop("name")}
            if tuple(key.values()) in self._keys:
                raise ValueError(f"the report already holds {key}")
            self._keys.add(tuple(key.values()))
            self.rows.append(key | values | columns)

    def summary(self) -> list[Row]:
        """Sum up over cases, per predictor, variant and class, and over classes.

        Each entry holds the group, `n` (cases), `undefined` (distances left out because one mask was empty, or the
        label not whole), and mean, median and std (population) for each metric and each further numeric column.
        Undefined values are left out; where none is left the three are NaN. With several classes, one more entry named
        "all" takes each case's mean over its classes first.
        """
        entries = []
        for (predictor, variant), rows in _grouped(self.rows, ("predictor", "variant")):
            by_class = list(_grouped(rows, ("class",)))
            for (name,), class_rows in by_class:
                entries.append(self._entry(predictor, variant, name, [[row] for row in class_rows]))
            if len(by_class) > 1:
                entries.append(
                    self._entry(predictor, variant, ALL_CLASSES, [case for _, case in _grouped(rows, ("case",))])
                )
        return entries

    def table(self) -> str:
        """The means as plain text, Dice, Jaccard, NSD and volume in percent."""
        entries = self.summary()
        lines = [TABLE_COLUMNS, *(_table_cells(entry) for entry in entries)]
        widths = [max(len(line[column]) for line in lines) for column in range(len(TABLE_COLUMNS))]
        text = [_aligned(line, widths) for line in lines]
        text.insert(1, "  ".join("-" * width for width in widths))
        if any(entry["undefined"] for entry in entries):
            text.append(
                "(n, k): k distances are undefined, as a mask is empty or a label not whole, and left out of the mean"
            )
        return "\n".join(text)

    def write(
        self,
        output_dir: str | os.PathLike[str],
        *,
        name: str = "metrics",
        context: Mapping[str, Any],
        scans: Sequence[Mapping[str, Any]] = (),
    ) -> tuple[Path, Path]:
        """Write NAME.csv, one line per row, and NAME.json with context, rows, summary and scans; NaN becomes null.

        Each file appears whole or not at all.

        Args:
            output_dir: made if it is not there.
            name: of the two files, without ending.
            context: what the figures were measured on: data, checkpoint, settings. Must be JSON's types.
            scans: what is known of each case as a whole, of JSON's types.

        Returns:
            The two paths.

        Raises:
            OSError: if the folder or a file cannot be written.
        """
        folder = Path(output_dir)
        document = {"context": dict(context), "cases": self.rows, "summary": self.summary()}
        document |= {"scans": list(scans)} if scans else {}
        contents = {
            folder / f"{name}.csv": self._csv(),
            folder / f"{name}.json": json.dumps(json_ready(document), indent=2, allow_nan=False) + "\n",
        }
        try:
            folder.mkdir(parents=True, exist_ok=True)
            for path, text in contents.items():
                replace_text(path, text)
        except OSError as error:
            raise OSError(f"cannot write the evaluation report to {folder}: {error}") from error
        return folder / f"{name}.csv", folder / f"{name}.json"

    def _entry(self, predictor: str, variant: str, name: str, cases: Sequence[Sequence[Row]]) -> Row:
        entry: Row = {"predictor": predictor, "variant": variant, "class": name, "n": len(cases)}
        entry["undefined"] = sum(math.isnan(row["hd95_voxel"]) for case in cases for row in case)
        for column in (*METRICS, *self._numeric_columns()):
            per_case = [_defined_mean([row.get(column) for row in case]) for case in cases]
            entry[column] = _statistics(per_case)
        return entry

    def _numeric_columns(self) -> list[str]:
        columns = dict.fromkeys(column for row in self.rows for column in row if column not in RESERVED_COLUMNS)
        return [column for column in columns if any(_is_number(row.get(column)) for row in self.rows)]

    def _csv(self) -> str:
        columns = list(dict.fromkeys(column for row in self.rows for column in row))
        return comma_separated([columns, *([row.get(column, "") for column in columns] for row in self.rows)])


def _grouped(rows: Iterable[Row], columns: Sequence[str]) -> Iterator[tuple[tuple[str, ...], list[Row]]]:
    """Rows that agree in the columns, groups in the order of their first row."""
    groups: dict[tuple[str, ...], list[Row]] = {}
    for row in rows:
        groups.setdefault(tuple(row[column] for column in columns), []).append(row)
    yield from groups.items()


def _is_number(value: object) -> bool:
    return isinstance(value, (int, float, np.integer, np.floating)) and not isinstance(value, bool)


def _defined(values: Iterable[Any]) -> list[float]:
    return [float(value) for value in values if _is_number(value) and not math.isnan(value)]


def _defined_mean(values: Iterable[Any]) -> float:
    defined = _defined(values)
    return float(np.mean(defined)) if defined else math.nan


def _statistics(values: Iterable[float]) -> dict[str, float]:
    defined = _defined(values)
    if not defined:
        return {"mean": math.nan, "median": math.nan, "std": math.nan}
    return {"mean": float(np.mean(defined)), "median": float(np.median(defined)), "std": float(np.std(defined))}


def _table_cells(entry: Row) -> tuple[str, ...]:
    number = f"({entry['n']}, {entry['undefined']})" if entry["undefined"] else str(entry["n"])
    percent = (_cell(100 * entry[column]["mean"]) for column in ("dice", "jaccard", "nsd"))
    distance = (_cell(entry[column]["mean"]) for column in ("hd95_mm", "asd_mm"))
    volume = _cell(100 * entry["volume_ratio"]["mean"])
    return (*(str(entry[column]) for column in GROUP_COLUMNS), number, *percent, *distance, volume)


def _cell(value: float) -> str:
    return "-" if math.isnan(value) else f"{value:.2f}"


def _aligned(cells: Sequence[str], widths: Sequence[int]) -> str:
    """Names to the left, figures to the right."""
    names = len(GROUP_COLUMNS)
    left = [cell.ljust(width) for cell, width in zip(cells[:names], widths[:names], strict=True)]
    right = [cell.rjust(width) for cell, width in zip(cells[names:], widths[names:], strict=True)]
    return "  ".join([*left, *right])


def json_ready(value: Any) -> Any:
    """JSON has neither NaN nor infinity, and knows no NumPy: null and plain numbers stand for them."""
    if isinstance(value, Mapping):
        return {str(key): json_ready(item) for key, item in value.items()}
    if isinstance(value, (list, tuple)):
        return [json_ready(item) for item in value]
    if isinstance(value, np.generic):
        value = value.item()
    return None if isinstance(value, float) and not math.isfinite(value) else value
