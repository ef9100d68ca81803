"""The ``aps`` command: one file a sub-command, each a thin entry to the part of the package that does the work."""

from __future__ import annotations

import functools
import os
import signal
import sys
from collections.abc import Callable
from importlib.util import find_spec
from typing import Any, NoReturn

import fire

from aps_components import __version__
from aps_components.cli.arguments import read_as_typed, strict
from aps_components.cli.benchmark import benchmark
from aps_components.cli.calibrate import calibrate
from aps_components.cli.clicks import clicks
from aps_components.cli.compare import compare
from aps_components.cli.demo import demo
from aps_components.cli.evaluate import evaluate
from aps_components.cli.export import export
from aps_components.cli.fire_errors import say_in_a_line, unknown_command
from aps_components.cli.halve import halve
from aps_components.cli.label import label
from aps_components.cli.new_bundle import new_bundle
from aps_components.cli.next_scan import next_scan
from aps_components.cli.overview import overview
from aps_components.cli.package import package
from aps_components.cli.phantoms import phantoms
from aps_components.cli.prepare import prepare
from aps_components.cli.pseudo_label import pseudo_label
from aps_components.cli.segment import segment
from aps_components.cli.train import train
from aps_components.cli.uncertainty import uncertainty
from aps_components.errors import (
    INTERRUPTED,
    SHOW_TRACEBACK,
    interrupted,
    keep_traceback,
    plainly,
    print_anything,
)
from aps_components.terminal import guard_terminal

HELP = "--help", "-h"
VERSION = "--version"
VERBOSE = "--verbose"  # of every command: the traceback of an error is printed, too
# A packaged bundle's copy of the code has no studies.
STUDIES: dict[str, Callable[..., Any]] = {"compare": compare, "uncertainty": uncertainty, "benchmark": benchmark}
GO_ON = ("train", "segment", "clicks", "compare")  # what was done is not done again
COMMANDS: dict[str, Callable[..., Any]] = {
    "train": train,
    "segment": segment,
    "evaluate": evaluate,
    "demo": demo,
    "phantoms": phantoms,
    "prepare": prepare,
    "new-bundle": new_bundle,
    "label": label,
    "calibrate": calibrate,
    "next-scan": next_scan,
    "pseudo-label": pseudo_label,
    "halve": halve,
    "package": package,
    "overview": overview,
    "export": export,
    "clicks": clicks,
    **(STUDIES if find_spec("aps_components.studies") else {}),
}


def main() -> None:
    """Run the command that the arguments name."""
    # As Ctrl-C does, `kill` ends the processes that the command started, too: a training left behind would write
    # on into the folder in which the next call carries on.
    signal.signal(signal.SIGTERM, lambda *_: sys.exit(128 + signal.SIGTERM))
    print_anything()
    for command in COMMANDS.values():
        read_as_typed(command)
    if sys.argv[1:] == [VERSION]:
        print(f"aps {__version__}")
        return
    if VERBOSE in sys.argv:
        sys.argv.remove(VERBOSE)
        os.environ[SHOW_TRACEBACK] = "1"  # for what this starts, too
    if sys.argv[1:] and sys.argv[1] not in (*COMMANDS, *HELP, "--"):
        sys.exit(unknown_command(sys.argv[1], COMMANDS))
    say_in_a_line()
    if "--" not in sys.argv and any(word in HELP for word in sys.argv[2:]):
        sys.argv = [*sys.argv[:2], "--", HELP[0]]  # fire's own way to ask, which no command takes for an option
    try:
        fire.Fire({name: _guarded(strict(command)) for name, command in COMMANDS.items()}, name="aps")
    except KeyboardInterrupt:
        _stopped()  # and no traceback: it is no error
    except Exception as error:
        if interrupted(error):
            _stopped()
        keep_traceback(error, always=False)
        sys.exit(plainly(error))


def _stopped() -> NoReturn:
    """After Ctrl-C."""
    goes_on = sys.argv[1:2] and sys.argv[1] in GO_ON
    print("stopped" + "; the same command goes on from here" * bool(goes_on), file=sys.stderr, flush=True)
    sys.exit(INTERRUPTED)


def _guarded(command: Callable[..., Any]) -> Callable[..., Any]:
    """The command, whose output passes the guard of the terminal; fire's own pages, in bold, do not."""

    @functools.wraps(command)
    def run(*args: Any, **kwargs: Any) -> Any:
        guard_terminal()
        return command(*args, **kwargs)

    return run
