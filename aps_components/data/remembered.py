"""What was found out about files, kept in a folder: a file of the same path, time and size is not read again."""

from __future__ import annotations

import json
import os
import threading
from collections.abc import Callable, Iterable
from pathlib import Path
from typing import Any

NAME = "remembered.jsonl"


class Remembered:
    """A text for each key; a line of a file that processes append to, each line at once.

    Args:
        folder: of the file; None remembers nothing.
    """

    def __init__(self, folder: str | os.PathLike[str] | None) -> None:
        self.file = None if folder is None else Path(folder).expanduser() / NAME
        self.known: dict[str, str] = {}
        self._lock = threading.Lock()
        if self.file is not None:
            self.file.parent.mkdir(parents=True, exist_ok=True)
            if self.file.is_file():
                self.known = dict(_pairs(self.file.read_text(encoding="utf-8", errors="replace").splitlines()))

    def of(self, key: str, find: Callable[[], str]) -> str:
        """What is known under a key, or is found now."""
        if key in self.known:
            return self.known[key]
        value = find()
        self.keep(key, value)
        return value

    def keep(self, key: str, value: str) -> None:
        """Remember a value."""
        self.known[key] = value
        if self.file is not None:
            line = (json.dumps([key, value]) + "\n").encode()
            with self._lock, self.file.open("ab", buffering=0) as stream:
                stream.write(line)


def facts(file: str | os.PathLike[str]) -> str:
    """What tells the contents of a file apart without reading it.

    Raises:
        OSError: there is none.
    """
    path = os.path.realpath(file)
    state = os.stat(path)
    return json.dumps([path, state.st_mtime_ns, state.st_size])


def _pairs(lines: Iterable[str]) -> Iterable[tuple[str, str]]:
    """Of whole lines: one that a process was killed in is none."""
    for line in lines:
        try:
            pair: Any = json.loads(line)
        except ValueError:
            continue
        if isinstance(pair, list) and len(pair) == 2 and all(isinstance(part, str) for part in pair):
            yield pair[0], pair[1]
