"""Virtual environments for what does not go together with this project's own packages; made once, kept as they are."""

from __future__ import annotations

import subprocess
import sys
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

STAMP = ".installed"


class OwnEnvironmentError(RuntimeError):
    """An environment could not be set up; the message says which step failed."""


@dataclass(frozen=True)
class OwnEnvironment:
    """A virtual environment.

    Args:
        folder: of the environment, absolute.
    """

    folder: Path

    @property
    def python(self) -> Path:
        """Its interpreter."""
        return self.folder / ("Scripts/python.exe" if sys.platform == "win32" else "bin/python")

    def has(self, stamp: str) -> bool:
        """Whether everything that ``stamp`` stands for was installed."""
        file = self.folder / STAMP
        return self.python.exists() and file.is_file() and file.read_text() == stamp

    def make(self, *, python: str = sys.executable) -> None:
        """The environment itself with its pip, unless both are there; what an interrupted call began is finished."""
        if not self._has_pip():  # venv puts the interpreter in place before pip, and adds what is missing
            _run([python, "-m", "venv", str(self.folder)])

    def _has_pip(self) -> bool:
        """Whether pip is there as a whole: the list of its files is the last that is written of it."""
        if not self.python.exists():
            return False
        code = "from importlib.metadata import distribution; raise SystemExit(not distribution('pip').files)"
        return not subprocess.run([str(self.python), "-c", code], capture_output=True, check=False).returncode

    def install(self, *arguments: str) -> None:
        """What ``pip install`` with these arguments installs.

        Raises:
            OwnEnvironmentError: it failed, and has said why.
        """
        pip = [str(self.python), "-m", "pip", "install", "-qq", "--disable-pip-version-check"]
        _run([*pip, *arguments])

    def finish(self, stamp: str) -> None:
        """Have it count as complete."""
        (self.folder / STAMP).write_text(stamp)

    def answer(self, code: str) -> str:
        """What a line of Python prints there."""
        done = subprocess.run([str(self.python), "-c", code], capture_output=True, text=True, check=True)
        return done.stdout.strip()


def _run(command: Sequence[str]) -> None:
    if code := subprocess.run(command, check=False).returncode:
        raise OwnEnvironmentError(f"exit status {code} of: {' '.join(command)}; its own message stands above")
