"""What Python Fire says of a command line that it cannot take apart, in one line instead of a page."""

from __future__ import annotations

import difflib
import re
import sys
from collections.abc import Callable, Iterable
from typing import Any

from fire import core

from aps_components.terminal import shown

MISSING = re.compile(r"required argument: (\w+)")
HELP = "--help", "-h"
PAGES: Callable[[Any], None] = core._DisplayError  # Fire's own


def unknown_command(word: str, commands: Iterable[str]) -> str:
    """That there is no such command, with the one that was meant, or all."""
    known = list(commands)
    near = difflib.get_close_matches(word, known, n=1)
    mend = f"did you mean {near[0]}?" if near else f"there are: {', '.join(known)}"
    return f"there is no command {shown(word)!r}; {mend}"


def say_in_a_line() -> None:
    """From now on a missing argument is named in one line; whoever asks for help still gets Fire's page."""

    def display(trace: Any) -> None:
        last = trace.elements[-1]
        missing = MISSING.search(last.ErrorAsStr())
        if missing is None or any(word in HELP for word in (*last.args, *sys.argv)):
            PAGES(trace)
            return
        name, command = missing[1], trace.GetCommand()
        given = [word.split("=")[0] for word in sys.argv[2:] if word.startswith("--")]
        near = difflib.get_close_matches(f"--{name}", given, n=1)
        meant = f", not {shown(near[0])}" if near and near[0] != f"--{name}" else ""
        print(
            f"{command} needs {name.upper()}: give it, or --{name} {name.upper()}{meant}; {command} --help shows all",
            file=sys.stderr,
        )

    core._DisplayError = display
