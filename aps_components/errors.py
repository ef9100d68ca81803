"""The last line that a failing command prints says what is wrong; the traceback lies in a file."""

from __future__ import annotations

import errno
import io
import logging
import os
import sys
import tempfile
import traceback
from collections.abc import Iterator
from contextlib import contextmanager
from traceback import walk_tb
from types import TracebackType
from typing import TypeGuard

from aps_components.terminal import brief, end_bars, guard_terminal, log_handlers, shown

STORAGE_FAULTS = {
    errno.ENOSPC: "free some space there, or choose another folder",
    errno.EDQUOT: "free some space there, or choose another folder",
    errno.EFBIG: "raise the limit of a file's size, or choose another folder",
}
# Of an error of the system's own, which names a file.
MENDS = {
    errno.ENAMETOOLONG: "give a shorter name",
    errno.ENOTDIR: "a file is no folder: check the path",
    errno.EISDIR: "a folder is no file: check the path",
    errno.EEXIST: "give another name",
    errno.ENOENT: "check the path",
    errno.EACCES: "change its permissions, or give another",
    errno.EPERM: "change its permissions, or give another",
    errno.EROFS: "give a place that can be written to",
    errno.ELOOP: "its links lead back to themselves: mend them",
    errno.EIO: "the disk or the network behind it has a fault: copy it to another",
    errno.EMFILE: "too many files are open at once: raise the limit (ulimit -n 4096)",
    errno.ENFILE: "this machine has too many files open: end other programs",
}
CANNOT = "cannot write"  # how an error begins that says it already
INTERRUPTED = 130  # as a shell reports Ctrl-C
SHOW_TRACEBACK = "APS_TRACEBACK"
# What these log of an error says less than its last line, in some sixty lines.
VERBOSE_LOGGERS = ("monai.transforms", "ignite", "monai.engines")


def chain(error: BaseException) -> list[BaseException]:
    """An error, the one that it came from or that was handled when it arose, and so on to the first of all."""
    found: list[BaseException] = []
    current: BaseException | None = error
    while current is not None and all(current is not other for other in found):
        found.append(current)
        following = None if current.__suppress_context__ else current.__context__
        current = current.__cause__ or following
    return found


def root_cause(error: BaseException) -> BaseException:
    """The exception that says what is wrong: the first of the chain that this package raised, or else its last cause.

    What this package raises from another error names the file and the mend, which the other one does not. An error
    that arose while another was handled hides that one: it counts where it is ours, or says that the disk is full.
    """
    errors = chain(error)
    for found in errors:
        if _raised_here(found):
            return found
    if (fault := storage_fault(error)) is not None:
        return _with_name(fault, errors)
    while error.__cause__ is not None:
        error = error.__cause__
    return error


def _with_name(fault: OSError, errors: list[BaseException]) -> OSError:
    """A full disk with the file that one of the errors names, unless it is said already."""
    names = [found.filename for found in errors if isinstance(found, OSError) and found.filename]
    if not names or str(fault.strerror).startswith(CANNOT):
        return fault
    return OSError(fault.errno, f"{CANNOT} {os.fsdecode(names[0])}: {fault.strerror}")


def storage_fault(error: BaseException) -> OSError | None:
    """What says, behind an error, that the disk is full, or takes no more, with the mend; None if nothing does.

    Some libraries keep of the system's error its text alone.
    """
    for found in chain(error):
        if isinstance(found, OSError) and str(found.strerror).startswith(CANNOT):
            return found
        own = found.errno if isinstance(found, OSError) else None
        for code, mend in STORAGE_FAULTS.items():
            if own == code or f"[Errno {code}]" in str(found):
                return OSError(code, f"{os.strerror(code)}; {mend}")
    return None


def interrupted(error: BaseException) -> bool:
    """Whether Ctrl-C, or a signal to end, is behind an error."""
    return any(isinstance(found, KeyboardInterrupt) for found in chain(error))


def system_fault(error: BaseException) -> str | None:
    """What the system says, behind an error, of a file that it does not give, with the mend; None if nothing does.

    Such a file is not damaged.
    """
    found = [one for one in chain(error) if isinstance(one, OSError) and one.errno in MENDS]
    return None if not found else f"{found[0].strerror}; {MENDS[found[0].errno or 0]}"


@contextmanager
def plain_errors() -> Iterator[None]:
    """Raise the root cause in the place of the errors that MONAI's parser and engines wrap around it."""
    try:
        yield
    except Exception as error:
        if interrupted(error):
            raise KeyboardInterrupt from None
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
    """Print of an uncaught exception its root cause, in one line; the traceback goes to a file, which is named.

    MONAI's config parser wraps an error in several others, and Python prints the outermost last: "Failed to evaluate
    ConfigExpression". The bundles call this first. With the environment variable APS_TRACEBACK=1 the traceback is
    printed, too.
    """
    print_anything()
    guard_terminal()
    sys.excepthook = _explain
    if not _traceback_wanted():
        for handler in log_handlers():
            handler.addFilter(_says_more)  # the same one twice counts once


def plainly(error: BaseException) -> str:
    """What is wrong, by :func:`root_cause`: a line, or several where the message itself lists something."""
    cause = root_cause(error)
    said = _said(cause)
    return f"{type(cause).__name__}: {said}" if said else type(cause).__name__


def in_a_line(error: BaseException) -> str:
    """What is wrong with one file among several, after its name."""
    text = "; ".join(line.strip() for line in _said(error).splitlines())
    return text if isinstance(error, ValueError | OSError) and text else f"{type(error).__name__}: {text}"


def _said(error: BaseException) -> str:
    if _is_of_the_system(error):
        return f"{brief(_named(error))}: {system_fault(error)}"
    return "\n".join(shown(line).rstrip() for line in _spelled(str(error)).splitlines() if line.strip())


def is_meant_for_a_user(error: BaseException) -> bool:
    """Whether this package says what is wrong, or the system does of a file; others' words need their traceback."""
    cause = root_cause(error)
    return _raised_here(cause) or _is_of_the_system(cause)


def _is_of_the_system(error: BaseException) -> TypeGuard[OSError]:
    """Whether it names a file, and there is a mend."""
    return isinstance(error, OSError) and bool(error.filename) and error.errno in MENDS


def _named(error: OSError) -> str:
    return os.fsdecode(error.filename) if isinstance(error.filename, str | bytes) else str(error.filename)


def _spelled(text: str) -> str:
    """With the names that a user gave in one line each: they may hold line breaks."""
    for word in sys.argv:
        name = word.partition("=")[2] if word.startswith("--") else word
        text = text.replace(name, shown(name)) if len(name.splitlines()) > 1 else text
    return text


def keep_traceback(error: BaseException, *, always: bool = True) -> None:
    """Write the traceback to a file and print which; print it itself where the environment asks for that.

    Args:
        error: the outermost.
        always: also of an error whose message is meant for a user: that this package raised, or of a file and its mend.
    """
    end_bars()
    if _traceback_wanted():
        traceback.print_exception(error)
        return
    if (always or not is_meant_for_a_user(error)) and (file := _write_traceback(error)):
        print(f"(traceback: {file}; {SHOW_TRACEBACK}=1 shows it here)", file=sys.stderr)


def _explain(kind: type[BaseException], error: BaseException, where: TracebackType | None) -> None:
    if issubclass(kind, KeyboardInterrupt):
        print("stopped", file=sys.stderr, flush=True)
    elif interrupted(error):
        print("stopped", file=sys.stderr, flush=True)
        sys.stdout.flush()
        os._exit(INTERRUPTED)
    else:
        keep_traceback(error)
        print(plainly(error), file=sys.stderr, flush=True)


def _says_more(record: logging.LogRecord) -> bool:
    return record.levelno < logging.ERROR or not record.name.startswith(VERBOSE_LOGGERS)


def _traceback_wanted() -> bool:
    return os.environ.get(SHOW_TRACEBACK, "").lower() not in ("", "0", "false", "no")


def _write_traceback(error: BaseException) -> str | None:
    """The file, of this user alone; None where there is no place for one."""
    try:
        handle, file = tempfile.mkstemp(prefix="aps-traceback-", suffix=".txt")
        with os.fdopen(handle, "w", encoding="utf-8", errors="backslashreplace") as stream:
            stream.writelines(traceback.format_exception(error))
    except OSError:
        return None
    return file
