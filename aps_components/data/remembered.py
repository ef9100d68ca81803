"""What was found out about files, kept in a folder: one of the same path, time, size and number is not read again."""

from __future__ import annotations

import hashlib
import os
import threading
from collections.abc import Callable, Iterator

from aps_components.files import expanded

NAME, DIGITS = "remembered.tsv", 64


class Remembered:
    """A text of one line for each key: a line of a file that processes append to, each line at once.

    Args:
        folder: of the file; None remembers nothing.
    """

    def __init__(self, folder: str | os.PathLike[str] | None) -> None:
        self.file = None if folder is None else expanded(folder) / NAME
        self.known: dict[str, str] = {}
        self._lock = threading.Lock()
        if self.file is not None:
            self.file.parent.mkdir(parents=True, exist_ok=True)
            if self.file.is_file():
                self.known = dict(_pairs(self.file.read_text(encoding="utf-8", errors="replace")))

    def of(self, key: str, find: Callable[[], str]) -> str:
        """What is known under a key, or is found now."""
        if key not in self:
            self.keep(key, find())
        return self.known[_short(key)]

    def __contains__(self, key: str) -> bool:
        return _short(key) in self.known

    def keep(self, key: str, value: str) -> None:
        """Remember a value."""
        self.known[_short(key)] = value
        if self.file is not None:
            with self._lock, self.file.open("ab", buffering=0) as stream:
                stream.write(f"{_short(key)}\t{value}\n".encode())


def facts(file: str | os.PathLike[str]) -> str:
    """What tells the contents of a file apart without reading it.

    Raises:
        OSError: there is none.
    """
    path = os.path.realpath(file)
    state = os.stat(path)
    return f"{path} {state.st_mtime_ns} {state.st_size} {state.st_ino}"


def _short(key: str) -> str:
    return hashlib.sha256(key.encode("utf-8", errors="surrogateescape")).hexdigest()


def _pairs(text: str) -> Iterator[tuple[str, str]]:
    """Of whole lines: one that a process was killed in has no end, or runs into the next one."""
    for line in text.split("\n")[:-1]:
        key, tab, value = line.partition("\t")
        if tab and len(key) == DIGITS and "\t" not in value:
            yield key, value
