"""Measurements that take hours, kept as they come: a line of JSON each, so that a run that was stopped goes on."""

from __future__ import annotations

import contextlib
import json
import os
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from aps_components.files import ensure_writable, expanded
from aps_components.line_file import LineFile
from aps_components.options import differences
from aps_components.ownership import alone_in

Record = dict[str, Any]


@contextmanager
def results_folder(path: str | os.PathLike[str]) -> Iterator[Path]:
    """A folder for results, made if it is missing, into which this process alone writes meanwhile.

    What was made of it is gone again if nothing came to lie in it, as after an option that is refused.

    Raises:
        PermissionError: it cannot be written into.
        FolderInUseError: another process writes into it.
    """
    folder = expanded(path)
    made = [place for place in (folder, *folder.parents) if not place.exists()]
    try:
        with alone_in(ensure_writable(folder)):
            yield folder
    finally:
        with contextlib.suppress(OSError):  # not empty
            for place in made:
                place.rmdir()


class Records:
    """The records of one file, by their keys; nothing that is in it is measured again.

    Args:
        file: made at the first record; its folder must exist. The settings are its first line.
        settings: what the figures depend on, of JSON's types. Figures of two settings must not meet in one table.

    Raises:
        ValueError: the file holds records of other settings, and which.
    """

    def __init__(self, file: str | os.PathLike[str], *, settings: Mapping[str, Any]) -> None:
        self.file = LineFile(file)
        settings = json.loads(json.dumps(dict(settings)))
        lines = _lines(self.file)
        found = lines[0].get("settings", {}) if lines else settings
        if different := differences(found, settings):
            raise ValueError(
                f"{self.file.path} holds figures of other settings ({different}): give the same, or another --out"
            )
        self._records = {_text(line["key"]): line["record"] for line in lines[1:]}
        keys = [{"key": json.loads(key), "record": record} for key, record in self._records.items()]
        self.file.keep([{"settings": settings}, *keys])

    def __len__(self) -> int:
        return len(self._records)

    def find(self, **key: Any) -> Record | None:
        """The record of a key, if there is one."""
        return self._records.get(_text(key))

    def all(self) -> list[tuple[dict[str, Any], Record]]:
        """Keys and records, in the order in which they were added."""
        return [(json.loads(key), record) for key, record in self._records.items()]

    def add(self, record: Record, **key: Any) -> Record:
        """Write a record, of JSON's types, and give it back as it would be read."""
        line = json.loads(_text({"key": key, "record": record}))
        self.file.append(line)
        self._records[_text(line["key"])] = line["record"]
        return line["record"]


def _text(value: Any) -> str:
    return json.dumps(value, sort_keys=True)


def _lines(file: LineFile) -> list[dict[str, Any]]:
    """The whole lines of a file: its settings, then records by key; empty if there is none."""
    lines = file.whole(finite=False)
    for line in lines[1:]:
        if "key" not in line or not isinstance(line.get("record"), dict):
            raise ValueError(f"{file.path}: a line without key and record; delete the file, or give another --out")
    if lines and not isinstance(lines[0].get("settings", {}), dict):
        raise ValueError(f"{file.path}: its settings are no object; delete the file, or give another --out")
    return lines
