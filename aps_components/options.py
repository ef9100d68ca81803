"""Values as they come from a command line, and what two sets of them differ in."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any


def switch(value: bool | str) -> bool:
    """A truth value that may have been typed: ``True``, ``False``, or the words ``true`` and ``false``.

    ``--save_maps false`` reaches a bundle's config as text, and text counts as true in Python.

    Raises:
        ValueError: anything else.
    """
    if isinstance(value, bool):
        return value
    words = {"true": True, "false": False}
    if str(value).lower() not in words:
        raise ValueError(f"{value!r} must be true or false")
    return words[str(value).lower()]


def differences(found: Mapping[str, Any], given: Mapping[str, Any]) -> str:
    """What stands in the way of going on with work that was begun with ``found``: empty where nothing does."""
    return "; ".join(
        f"{key} {found.get(key)!r} there, {given.get(key)!r} now"
        for key in sorted({*found, *given})
        if found.get(key) != given.get(key)
    )
