"""Tables in Markdown."""

from __future__ import annotations

from collections.abc import Sequence


def markdown_table(rows: Sequence[Sequence[str]], *, names: int = 1) -> str:
    """The first row is the head; figures stand to the right of the first ``names`` columns."""
    rule = ["---"] * names + ["---:"] * (len(rows[0]) - names)
    return "".join(f"| {' | '.join(row)} |\n" for row in (rows[0], rule, *rows[1:]))
