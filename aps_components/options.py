"""Values as they come from a command line."""

from __future__ import annotations


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
