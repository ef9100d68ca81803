"""Figures by case and class: sorted out, and as tables of which the worst stand first."""

from __future__ import annotations

from collections.abc import Mapping, Sequence

from aps_components.report.blocks import Cell, Table
from aps_components.report.reading import DASH, known, mean, percent, worst_first

Figures = Mapping[tuple[str, str], float | None]  # by case and class


def by_case(figures: Figures) -> dict[str, list[float | None]]:
    """The figures of all classes of each case."""
    found: dict[str, list[float | None]] = {}
    for (case, _), value in figures.items():
        found.setdefault(case, []).append(value)
    return found


def by_class(figures: Figures) -> dict[str, list[float | None]]:
    """The figures of all cases of each class."""
    found: dict[str, list[float | None]] = {}
    for (_, name), value in figures.items():
        found.setdefault(name, []).append(value)
    return found


def matrices(metrics: Mapping[str, Figures], classes: Sequence[str]) -> list[Table]:
    """For each metric, shares from 0 to 1, a table of cases by classes: the case with the lowest Dice first.

    Args:
        metrics: by name, the first of which orders the cases; those without any figure are left out.
        classes: in the order of the columns.
    """
    first = next(iter(metrics))
    measured = {title: figures for title, figures in metrics.items() if known(figures.values())}
    if len(classes) == 1:
        columns = {
            f"{title} %": {case: figures.get((case, classes[0])) for case, _ in figures}
            for title, figures in measured.items()
        }
        return [_matrix(columns, by_case(metrics[first]), f"The case with the worst {first} first.")] if columns else []
    tables = []
    for title, figures in measured.items():
        columns = {"mean": {case: mean(values) for case, values in by_case(figures).items()}}
        columns |= {
            name: {case: value for (case, other), value in figures.items() if other == name} for name in classes
        }
        note = f"{title} in percent, the case with the worst {first} first."
        tables.append(_matrix(columns, by_case(metrics[first]), note))
    return tables


def _matrix(
    columns: Mapping[str, Mapping[str, float | None]], cases: Mapping[str, Sequence[float | None]], note: str
) -> Table:
    rows: list[list[str | Cell]] = [
        [case, *(_shaded(column.get(case)) for column in columns.values())] for case in worst_first(cases)
    ]
    return Table(["case", *columns], rows, note=note)


def _shaded(value: float | None) -> Cell:
    return Cell(DASH) if value is None else Cell(percent(value), shade=min(1.0, max(0.0, 1 - value)))
