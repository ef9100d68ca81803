"""``aps label``."""

from __future__ import annotations

import os
import signal
import sys

from aps_components.cli.arguments import several
from aps_components.options import truth, whole


def label(
    bundles: str | tuple[str, ...],
    studies: str,
    app: str = "runs/label",
    checkpoint: str | tuple[str, ...] | None = None,
    untrained: bool = False,
    port: int = 8000,
    host: str = "127.0.0.1",
    environment: str = ".venv-label",
    python: str = sys.executable,
) -> None:
    """Serve bundles to 3D Slicer and OHIF with MONAI Label; Ctrl-C ends it.

    Args:
        bundles: names of bundles, or their folders, with commas between.
        studies: folder of the scans, or the address of a DICOMweb server; labels are written into its labels/.
        app: folder of the server's app; keeps what is trained there.
        checkpoint: weights, as in la=FILE, with commas between; by default the bundle's own.
        untrained: start a bundle that has no weights with random ones, to label scans and train.
        port: to listen on.
        host: address to listen on; any other than the default opens the scans to the network.
        environment: folder of the environment with MONAI Label, set up at the first call.
        python: Python 3.10 to 3.12 to set it up with.
    """
    from aps_components.bundle import locate_bundle
    from aps_components.label_server import LabelServer, ensure_environment, prepare_app, studies_place

    studies = studies_place(studies)  # before an environment is set up, for minutes
    folders = [locate_bundle(name) for name in _listed(bundles)]
    checkpoints = dict(_pair(entry) for entry in _listed(checkpoint or ()))
    place = ensure_environment(environment, python=str(python))
    origins = prepare_app(app, bundles=folders, checkpoints=checkpoints, untrained=truth("untrained", untrained))
    server = LabelServer(
        environment=place,
        app=app,
        studies=studies,
        models=list(origins),
        host=str(host),
        port=whole(least=0, most=65535)("port", port),
        # Training on several GPUs is started by the torchrun that is found first.
        environ={**os.environ, "PATH": f"{place.python.parent}{os.pathsep}{os.environ.get('PATH', '')}"},
    )
    if server.host not in ("127.0.0.1", "localhost", "::1"):
        print(f"WARNING: {server.host} is open to the network. Whoever learns the address below can read the scans.")
    for name, origin in origins.items():
        print(f"{name}: {origin}")
    print(f"Scans: {studies}\nStarting MONAI Label ...", flush=True)
    signal.signal(signal.SIGTERM, lambda *_: sys.exit(0))  # a server that is told to end has not failed
    with server:
        print(
            f"\nMONAI Label is ready at {server.url}\n"
            "3D Slicer's module asks for that address, all of it: the last part is the password.\n"
            f"OHIF, with a DICOMweb server: {server.url}/ohif/\nCtrl-C ends it.\n",
            flush=True,
        )
        sys.exit(server.wait())


def _listed(values: object) -> list[str]:
    return [text for part in several(values) if (text := str(part).strip())]


def _pair(entry: str) -> tuple[str, str]:
    name, _, file = entry.partition("=")
    if not name or not file:
        raise ValueError(f"--checkpoint {entry!r}: write NAME=FILE, such as la=models/model.pt")
    return name, file
