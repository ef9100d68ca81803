"""The configuration that is being evaluated, for an expression in it that needs all of it."""

from __future__ import annotations

import sys
from collections.abc import Iterator
from typing import Any, TypeVar

from monai.bundle import ConfigParser, ConfigWorkflow

T = TypeVar("T")


def calling_parser() -> ConfigParser:
    """The parser that evaluates the expression in which this is called.

    MONAI hands an expression what it refers to by name, but never the configuration as a whole, nor what a command
    line laid over it. Whoever evaluates an expression does so by ``ConfigParser.get_parsed_content``, so the parser is
    found among the callers.

    Raises:
        RuntimeError: it is called from elsewhere.
    """
    found = next(_callers(ConfigParser), None)
    if found is None:
        raise RuntimeError("this is for an expression of a MONAI configuration: give the parser where there is none")
    return found


def calling_workflow() -> ConfigWorkflow | None:
    """The workflow that runs the expression in which this is called; None where a parser is used without one."""
    return next(_callers(ConfigWorkflow), None)


def _callers(kind: type[T]) -> Iterator[T]:
    """The objects of a class whose methods are being called, the innermost first."""
    frame = sys._getframe(1)
    while frame is not None:
        owner: Any = frame.f_locals.get("self")
        if isinstance(owner, kind):
            yield owner
        frame = frame.f_back  # type: ignore[assignment]
