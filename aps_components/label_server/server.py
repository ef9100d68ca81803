"""Start, wait for and stop a MONAI Label server."""

from __future__ import annotations

import contextlib
import json
import os
import signal
import socket
import subprocess
import time
import uuid
from collections.abc import Mapping, Sequence
from pathlib import Path
from types import TracebackType
from typing import IO, Any

from aps_components.files import ensure_writable, expanded
from aps_components.label_server.client import LabelClient, LabelRequestError
from aps_components.label_server.environment import LabelEnvironment
from aps_components.ownership import own, release

LOCAL = "127.0.0.1"
WEB = ("http://", "https://")
# Which is missing is said first: MONAI Label, and not what it would need.
SERVE = "import monailabel; from aps_components.label_server.serve import main; main()"
EMPTY = "started_here"
LINES_SHOWN = 20
STOP_SECONDS = 20.0
POLL_SECONDS = 0.3


class LabelServerError(RuntimeError):
    """The server did not start; the message ends with what it said last."""


def studies_place(studies: str | os.PathLike[str]) -> str:
    """Where the scans are: an address as it stands, or a folder's whole path; the folder is made if it is missing.

    Raises:
        OSError: the folder cannot be read, or not be written into; labels and MONAI Label's list of them lie in it.
    """
    if str(studies).startswith(WEB):
        return str(studies)
    folder = ensure_writable(os.path.abspath(expanded(studies)))
    os.scandir(folder).close()
    return str(folder)


class LabelServer:
    """A MONAI Label server in a process of its own, and a context manager that stops it.

    Args:
        environment: that holds MONAI Label.
        app: from :func:`~aps_components.label_server.prepare_app`.
        studies: folder of the scans, made if missing, or the address of a DICOMweb server.
        models: names of the bundles in the app.
        host: address to listen on.
        port: 0 takes a free one.
        token: whoever knows it can read and change the scans; by default a new one.
        log: file that receives what the server prints; None shows it.
        environ: environment variables of its process; None hands on those of this one.
    """

    def __init__(
        self,
        *,
        environment: LabelEnvironment,
        app: str | os.PathLike[str],
        studies: str | os.PathLike[str],
        models: Sequence[str],
        host: str = LOCAL,
        port: int = 8000,
        token: str | None = None,
        log: str | os.PathLike[str] | None = None,
        environ: Mapping[str, str] | None = None,
    ) -> None:
        self.environment, self.app = environment, Path(os.path.abspath(expanded(app)))
        self.studies = studies_place(studies)
        self.token = token or uuid.uuid4().hex
        self.models, self.host = list(models), host
        self.port = _free_port(host, port)
        self.log = Path(log) if log is not None else None
        self.environ = environ
        self.process: subprocess.Popen[bytes] | None = None
        self._log_stream: IO[bytes] | None = None

    @property
    def url(self) -> str:
        """Its address with the token, as Slicer wants it; other paths follow it."""
        return f"http://{_address(self.host, self.port)}/{self.token}"

    def command(self) -> list[str]:
        """What is run."""
        options = {"--app": str(self.app), "--studies": self.studies, "--host": self.host, "--port": str(self.port)}
        conf = {"models": ",".join(self.models)}
        return [
            *[str(self.environment.python), "-c", SERVE],
            *[part for pair in options.items() for part in pair],
            *[part for key, value in conf.items() for part in ("--conf", key, value)],
        ]

    def start(self, *, timeout: float = 180.0) -> LabelServer:
        """Start it and wait until it answers.

        Raises:
            LabelServerError: it ended, or gives no answer after ``timeout`` seconds.
        """
        place = self.app / EMPTY
        place.mkdir(parents=True, exist_ok=True)
        own(self.app)  # two servers would train one model
        if not self.studies.startswith(WEB):
            own(self.studies)  # and each forget what the other has stored
        if self.log is not None:
            self.log.parent.mkdir(parents=True, exist_ok=True)
            self._log_stream = open(self.log, "ab")  # noqa: SIM115  # closed in stop()
        # An empty folder: MONAI Label takes names of scans for files, and reads a .env, where it is started.
        self.process = subprocess.Popen(
            self.command(),
            env=self.environ,
            cwd=place,
            stdin=subprocess.PIPE,  # its end ends the server and its trainings, however this process goes
            stdout=self._log_stream,
            stderr=subprocess.STDOUT if self._log_stream else None,
            start_new_session=True,
        )
        try:
            self._say_token(self.process)
            self._wait_until_ready(self.process, timeout)
        except BaseException:
            self.stop()
            raise
        return self

    def _say_token(self, process: subprocess.Popen[bytes]) -> None:
        """Not among the arguments, which everybody on this machine can read."""
        assert process.stdin is not None
        with contextlib.suppress(BrokenPipeError):
            process.stdin.write(json.dumps({"token": self.token, "host": self.host}).encode() + b"\n")
            process.stdin.flush()

    def _wait_until_ready(self, process: subprocess.Popen[bytes], timeout: float) -> None:
        deadline = time.monotonic() + timeout
        while not self.answers():
            if process.poll() is not None:
                raise LabelServerError(f"MONAI Label ended with exit status {process.returncode}{self._last_words()}")
            if time.monotonic() > deadline:
                raise LabelServerError(f"no answer from {self.url} after {timeout:.0f} seconds{self._last_words()}")
            time.sleep(POLL_SECONDS)
        if missing := sorted(set(self.models) - set(self.info()["models"])):
            raise LabelServerError(f"MONAI Label left out {', '.join(missing)}{self._last_words()}")

    def answers(self) -> bool:
        """Whether it is up."""
        try:
            self.info(timeout=5)
        except (OSError, ValueError, LabelRequestError):
            return False
        return True

    def info(self, *, timeout: float = 60.0) -> dict[str, Any]:
        """What ``/info/`` says: models, labels, the state of the datastore."""
        return LabelClient(self.url, timeout=timeout).info()

    def wait(self) -> int:
        """Wait until it ends by itself; gives its exit status."""
        assert self.process is not None, "start it first"
        return self.process.wait()

    def stop(self) -> None:
        """End it, with a training that runs in it, also where the server itself was killed."""
        if self.process is not None:
            if self.process.poll() is None:
                self._stop_training()
                self.process.send_signal(signal.SIGTERM)
                with contextlib.suppress(subprocess.TimeoutExpired):
                    self.process.wait(STOP_SECONDS)
            self._kill_group(self.process)
            self.process.wait()
        for place in (self.app, self.studies):
            release(place)
        if self._log_stream is not None:
            self._log_stream.close()
            self._log_stream = None

    def _kill_group(self, process: subprocess.Popen[bytes]) -> None:
        if process.stdin is not None:
            with contextlib.suppress(OSError):
                process.stdin.close()
        if hasattr(os, "killpg"):
            with contextlib.suppress(ProcessLookupError, PermissionError):
                os.killpg(process.pid, signal.SIGKILL)
        else:
            process.kill()

    def _stop_training(self) -> None:
        """It is a process of the server's that would live on."""
        with contextlib.suppress(OSError, LabelRequestError):  # none runs, or the server is busy or gone
            LabelClient(self.url, timeout=10).stop_training()

    def _last_words(self) -> str:
        if self.log is None or not self.log.is_file():
            return "; its own message stands above"
        lines = self.log.read_text(errors="replace").splitlines()[-LINES_SHOWN:]
        return f"; the end of {self.log}:\n" + "\n".join(lines)

    def __enter__(self) -> LabelServer:
        return self.start()

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, traceback: TracebackType | None
    ) -> None:
        self.stop()


def _address(host: str, port: int) -> str:
    """As an address on the web has it: IPv6 in brackets."""
    return f"[{host}]:{port}" if ":" in host else f"{host}:{port}"


def _free_port(host: str, port: int) -> int:
    with socket.socket(socket.AF_INET6 if ":" in host else socket.AF_INET) as probe:
        probe.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        try:
            probe.bind((host, port))
        except OSError as error:
            raise LabelServerError(
                f"cannot listen on {_address(host, port)} ({error.strerror}); choose another --port"
            ) from error
        return int(probe.getsockname()[1])
