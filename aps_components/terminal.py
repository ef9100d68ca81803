"""What files and their names may do to a terminal: nothing but be read."""

from __future__ import annotations

import logging
import os
import sys
import unicodedata
from typing import Any, NoReturn, TextIO

from tqdm import tqdm

KEPT = "\n\t\r"
# What tqdm writes, and nothing else with it, to move to another bar's line.
CURSOR_UP = "\x1b[A"
UNREAD = 141  # the exit status of what SIGPIPE ended
# Control codes, invisible ones that turn the direction of writing, halves of characters and line separators.
HIDDEN = ("Cc", "Cf", "Cs", "Zl", "Zp")


def shown(value: object) -> str:
    """A text as one can read it in one line: what would move a cursor, colour, hide or reorder letters is spelled out.

    File names and texts inside files may hold any character but 0; a terminal obeys some of them.
    """
    return "".join(_spelled(letter) for letter in str(value))


def brief(value: object, *, most: int = 200) -> str:
    """Text of a file, which may be anything, cut to a length that fits a line."""
    text = str(value)
    return shown(text if len(text) <= most else f"{text[: most - 3]}...")


def say(line: str) -> None:
    """Print a line at once and in one piece: processes that torchrun starts write to one terminal, without a buffer."""
    print(f"{line}\n", end="", flush=True)


def guard_terminal() -> None:
    """From now on what this process prints to standard output and error passes :func:`shown`, its lines aside.

    Log handlers that write there already write through it, too.
    """
    for name in ("stdout", "stderr"):
        stream = getattr(sys, name)
        if isinstance(stream, _Guarded):
            continue
        if stream is None:  # closed by whoever started this
            stream = open(os.devnull, "w", encoding="utf-8")  # noqa: SIM115  # as long as the process
        guarded = _Guarded(stream)
        setattr(sys, name, guarded)
        for handler in log_handlers():
            if getattr(handler, "stream", None) is stream:
                handler.stream = guarded


def log_handlers() -> list[Any]:
    """Those of all loggers that there are."""
    loggers = [logging.getLogger(), *(x for x in logging.Logger.manager.loggerDict.values())]
    return [handler for logger in loggers for handler in getattr(logger, "handlers", [])]


def end_bars() -> None:
    """End the line of every bar that is not at its end: what is printed next has a line of its own."""
    for bar in list(getattr(tqdm, "_instances", ())):
        bar.close()


class _Guarded:
    """A text stream that spells out control codes, and takes no offence at a letter that the terminal has not."""

    def __init__(self, stream: TextIO) -> None:
        self._stream = stream

    def write(self, text: str) -> int:
        if (text.isascii() and text.isprintable()) or not text.replace(CURSOR_UP, "").strip("\n\r"):
            self._write(text)
        else:
            self._write("".join(letter if letter in KEPT else _spelled(letter) for letter in text))
        return len(text)

    def writelines(self, lines: Any) -> None:
        for line in lines:
            self.write(line)

    def _write(self, text: str) -> None:
        try:
            self._stream.write(text)
        except UnicodeEncodeError:
            encoding = self._stream.encoding or "ascii"
            self._stream.write(text.encode(encoding, errors="backslashreplace").decode(encoding))
        except BrokenPipeError:
            self._end()

    def flush(self) -> None:
        try:
            self._stream.flush()
        except BrokenPipeError:
            self._end()
        except ValueError:  # closed, at the interpreter's end
            pass

    def _end(self) -> NoReturn:
        """Whoever read this, such as ``head``, has ended: so does this process, as the system ends others then."""
        nowhere = os.open(os.devnull, os.O_WRONLY)
        os.dup2(nowhere, self._stream.fileno())  # for what is still to be flushed
        os.close(nowhere)
        sys.exit(UNREAD)

    def __getattr__(self, name: str) -> Any:
        return getattr(self._stream, name)


def _spelled(letter: str) -> str:
    if letter.isprintable() or unicodedata.category(letter) not in HIDDEN:
        return letter
    return letter.encode("unicode_escape", errors="backslashreplace").decode("ascii")
