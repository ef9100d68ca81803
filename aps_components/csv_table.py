"""Tables as CSV that a spreadsheet shows and does not compute."""

from __future__ import annotations

import csv
import io
from collections.abc import Iterable, Sequence
from typing import Any

from aps_components.terminal import shown

# How a cell begins that a spreadsheet takes for a formula (OWASP, "CSV Injection").
FORMULA = ("=", "+", "-", "@", "\t", "\r", "\n", "\uff1d", "\uff0b", "\uff0d", "\uff20")


def comma_separated(rows: Iterable[Sequence[Any]]) -> str:
    """Rows as CSV, numbers as they are, texts inert: one that begins as a formula gets an apostrophe before it."""
    text = io.StringIO()
    csv.writer(text, lineterminator="\n").writerows([_cell(value) for value in row] for row in rows)
    return text.getvalue()


def _is_number(text: str) -> bool:
    try:
        float(text)
    except ValueError:
        return False
    return True


def _cell(value: Any) -> Any:
    if not isinstance(value, str) or _is_number(value):
        return value
    plain = shown(value)
    return f"'{plain}" if plain.lstrip().startswith(FORMULA) else plain
