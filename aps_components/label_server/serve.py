"""The server's own process: MONAI Label behind the guard, for as long as ``aps label`` lives.

Started by :class:`~aps_components.label_server.LabelServer`, in the environment of MONAI Label, as the first of a
process group. A line of JSON on standard input says the token and the host; the end of standard input ends the group.
"""

from __future__ import annotations

import json
import sys
from typing import Any

APP = "aps_components.label_server.guarded_app:app"


def main() -> None:
    """Run it; the options are those of ``monailabel start_server``."""
    from aps_components.processes import end_with_pipe

    asked: dict[str, Any] = json.loads(sys.stdin.buffer.readline())
    end_with_pipe(sys.stdin.buffer)  # before what takes long: whoever asked may be gone by then
    from aps_components.label_server import guarded_app, hooks

    guarded_app.configure(token=asked["token"], host=asked["host"])
    hooks.install()
    from monailabel.main import Main

    sys.argv = ["monailabel", "start_server", "--uvicorn_app", APP, *sys.argv[1:]]
    Main().run()
