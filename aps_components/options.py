"""Values as they come from a command line, and what two sets of them differ in."""

from __future__ import annotations

import difflib
import io
import tokenize
from collections.abc import Collection, Mapping, Sequence
from typing import Any

Axes = Sequence[int | Sequence[int]]
"""Of a volume: 0 left-right, 1 back-front, 2 down-up; those in a list of their own go together."""


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


def has_comment(text: str) -> bool:
    """Whether Python would cut a text off at a "#": Python Fire reads ``results#2`` as ``results``."""
    try:
        return any(token.type == tokenize.COMMENT for token in tokenize.generate_tokens(io.StringIO(text).readline))
    except (tokenize.TokenError, SyntaxError):
        return "#" in text


def literal(text: str) -> str:
    """A text for MONAI's configurations: one with a "#" in it as an expression, since MONAI puts "::" in its place."""
    if "#" not in text:
        return text
    parts = [" + chr(64) + ".join(repr(piece) for piece in part.split("@")) for part in text.split("#")]
    return "$" + " + chr(35) + ".join(parts)


def axis_groups(name: str, axes: Axes) -> list[tuple[int, ...]]:
    """Axes that are flipped, in groups that are flipped together: ``[[0, 1], 2]`` is ``[(0, 1), (2,)]``.

    Args:
        name: of the option.
        axes: its value.

    Raises:
        ValueError: other axes than 0, 1 and 2, one of them twice, or an empty group.
    """
    groups = [tuple(entry) if isinstance(entry, list | tuple) else (entry,) for entry in axes]
    flat = [axis for group in groups for axis in group]
    known = all(type(axis) is int and 0 <= axis <= 2 for axis in flat)
    if not known or len(set(flat)) < len(flat) or not all(groups):
        raise ValueError(
            f"{name} {list(axes)} must be some of 0 (left-right), 1 (back-front) and 2 (down-up), each once; "
            "those in a list of their own are flipped together"
        )
    return groups


def differences(found: Mapping[str, Any], given: Mapping[str, Any]) -> str:
    """What stands in the way of going on with work that was begun with ``found``: empty where nothing does."""
    return "; ".join(
        f"{key} {found.get(key)!r} there, {given.get(key)!r} now"
        for key in sorted({*found, *given})
        if found.get(key) != given.get(key)
    )


def refuse_unknown(options: Mapping[str, Any], known: Collection[str]) -> None:
    """Refuse a mistyped option, which a configuration would take for a new key.

    Args:
        options: by name; what follows a "#" lies inside the key before it.
        known: keys that there are.

    Raises:
        ValueError: an option that there is not; which one was meant, or which there are.
    """
    for key in options:
        if (name := key.partition("#")[0]) not in known:
            near = difflib.get_close_matches(name, sorted(known), n=1)
            hint = f"did you mean --{near[0]}?" if near else f"there are: {', '.join(sorted(known))}"
            raise ValueError(f"no option --{key}; {hint}")
