"""The ``aps`` command: one file a sub-command, each a thin entry to the part of the package that does the work."""

from __future__ import annotations

import signal
import sys

import fire
from fire.decorators import SetParseFn

from aps_components.cli.arguments import parsed
from aps_components.cli.benchmark import benchmark
from aps_components.cli.calibrate import calibrate
from aps_components.cli.clicks import clicks
from aps_components.cli.compare import compare
from aps_components.cli.demo import demo
from aps_components.cli.export import export
from aps_components.cli.halve import halve
from aps_components.cli.label import label
from aps_components.cli.new_bundle import new_bundle
from aps_components.cli.overview import overview
from aps_components.cli.package import package
from aps_components.cli.phantoms import phantoms
from aps_components.cli.prepare import prepare
from aps_components.cli.pseudo_label import pseudo_label
from aps_components.cli.segment import segment
from aps_components.cli.uncertainty import uncertainty
from aps_components.errors import print_anything

COMMANDS = {
    "segment": segment,
    "demo": demo,
    "phantoms": phantoms,
    "prepare": prepare,
    "new-bundle": new_bundle,
    "label": label,
    "calibrate": calibrate,
    "pseudo-label": pseudo_label,
    "halve": halve,
    "package": package,
    "overview": overview,
    "compare": compare,
    "export": export,
    "uncertainty": uncertainty,
    "clicks": clicks,
    "benchmark": benchmark,
}


def main() -> None:
    """Run the command that the arguments name."""
    # As Ctrl-C does, `kill` ends the processes that the command started, too: a training left behind would write
    # on into the folder in which the next call carries on.
    signal.signal(signal.SIGTERM, lambda *_: sys.exit(128 + signal.SIGTERM))
    print_anything()
    for command in COMMANDS.values():
        SetParseFn(parsed)(command)
    try:
        fire.Fire(COMMANDS, name="aps")
    except (ValueError, OSError, RuntimeError) as error:
        sys.exit(f"{type(error).__name__}: {error}")
    except KeyboardInterrupt:
        sys.exit(130)  # as a shell reports Ctrl-C, and no traceback: it is no error
