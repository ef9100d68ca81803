"""The last line that a failing command prints says what is wrong."""

from __future__ import annotations

import io
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from traceback import walk_tb
from types import TracebackType


def root_cause(error: BaseException) -> BaseException:
    """The exception that says what is wrong: the first of the chain of causes that this package raised, or its last.

    What this package raises from another error names the file and the mend, which the other one does not.
    """
    while error.__cause__ is not None and not _raised_here(error):
        error = error.__cause__
    return error


@contextmanager
def plain_errors() -> Iterator[None]:
    """Raise the root cause in the place of the errors that MONAI's parser and engines wrap around it."""
    try:
        yield
    except Exception as error:
        cause = root_cause(error)
        if cause is error:
            raise
        raise cause from cause.__cause__


def _raised_here(error: BaseException) -> bool:
    frames = [frame for frame, _ in walk_tb(error.__traceback__)]
    return bool(frames) and frames[-1].f_globals.get("__name__", "").startswith(f"{__package__}.")


def print_anything() -> None:
    """Names that the terminal has no letters for are printed with escapes, instead of ending the run."""
    for stream in (sys.stdout, sys.stderr):
        if isinstance(stream, io.TextIOWrapper):
            stream.reconfigure(errors="backslashreplace")


def explain_errors() -> None:
    """Print the root cause, in one line of its own, after the traceback of an uncaught exception.

    MONAI's config parser wraps an error in several others, and Python prints the outermost last: "Failed to evaluate
    ConfigExpression". The bundles call this first, so that the message that names the file and the mend stands last.
    """
    print_anything()
    sys.excepthook = _explain


def _explain(kind: type[BaseException], error: BaseException, traceback: TracebackType | None) -> None:
    sys.__excepthook__(kind, error, traceback)
    cause = root_cause(error)
    if cause is not error:
        print(f"\n{type(cause).__name__}: {cause}", file=sys.stderr)
