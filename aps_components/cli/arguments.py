"""Arguments as fire hands them over."""

from __future__ import annotations

from typing import Any


def several(values: Any) -> list[Any]:
    """The values of an option that takes some: fire makes a tuple of "1,2", of "1" a number, and of "a.b,c" a text."""
    if isinstance(values, list | tuple):
        return list(values)
    if isinstance(values, str):
        return [part.strip() for part in values.split(",") if part.strip()]
    return [values]
