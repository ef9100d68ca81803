"""Arguments as fire hands them over."""

from __future__ import annotations

from typing import Any

from fire.parser import DefaultParseValue

from aps_components.options import has_comment


def parsed(text: str) -> Any:
    """A value as Python Fire reads it, but for a text with a "#" in it, which fire would cut off there."""
    return text if has_comment(text) else DefaultParseValue(text)


def several(values: Any) -> list[Any]:
    """The values of an option that takes some: fire makes a tuple of "1,2", of "1" a number, and of "a.b,c" a text."""
    if isinstance(values, list | tuple):
        return list(values)
    if isinstance(values, str):
        return [part.strip() for part in values.split(",") if part.strip()]
    return [values]
